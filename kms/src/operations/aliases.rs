//! Aliases: other names of keys.

use super::keys::gone;
use super::pages::{Wanted, next};
use super::{Answer, Call, Key};
use crate::key_name::{KeyId, alias_arn, is_alias};
use crate::limits::Checks;
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::store::AliasRecord;
use anchorhold_kms_wire::shapes::{
    AliasListEntry, CreateAliasRequest, CreateAliasResponse, DeleteAliasRequest,
    DeleteAliasResponse, ListAliasesRequest, ListAliasesResponse, Timestamp, UpdateAliasRequest,
    UpdateAliasResponse,
};

const PATTERN: &str = "^[a-zA-Z0-9:/_-]+$";

fn is_in_pattern(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || ":/_-".contains(c))
}

fn check_name(checks: &mut Checks, name: &str) {
    checks.text("aliasName", name, 1, 256);
    checks.pattern("aliasName", name, is_in_pattern(name), PATTERN);
}

/// What the pattern does not say.
fn check_form(name: &str) -> Result<(), Refusal> {
    if !name.starts_with("alias/") {
        return Err(Refusal::validation(
            "Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
        ));
    }
    if !is_alias(name) {
        return Err(Refusal::validation(format!(
            "{name} contains invalid characters for an alias"
        )));
    }
    if name.starts_with("alias/aws/") {
        return Err(Refusal::new("NotAuthorizedException", "")
            .because("names that begin with alias/aws/ are reserved"));
    }
    Ok(())
}

fn check_target(checks: Checks, target: &str) -> Result<(), Refusal> {
    let mut checks = checks;
    checks.text("targetKeyId", target, 1, 2048);
    checks.done()?;
    if is_alias(target) {
        return Err(Refusal::validation(
            "Aliases must refer to keys. Not aliases",
        ));
    }
    Ok(())
}

impl Call<'_> {
    /// A key of the caller's account that an alias is to name.
    fn target(&mut self, name: &str) -> Result<Key, Refusal> {
        let key = self.key_without_alias(name)?;
        if key.record.account == self.account() {
            Ok(key)
        } else {
            Err(Refusal::not_found(format!(
                "Key '{}' does not exist",
                key.arn
            )))
        }
    }

    /// The alias by the caller's own policies, the key by its policy.
    fn authorize_alias(
        &mut self,
        action: &str,
        name: &str,
        arn: &str,
        keys: &[&Key],
    ) -> Result<(), Refusal> {
        let context = self.context();
        self.authorize_without_key(action, arn, &context, None)?;
        for key in keys {
            let mut context = self.key_context(key)?;
            context.put("kms:RequestAlias", name);
            self.authorize(action, key, &context)?;
        }
        Ok(())
    }

    /// The alias, and the key that it names.
    fn aliased(&mut self, name: &str, arn: &str) -> Result<(AliasRecord, Key), Refusal> {
        let account = self.account().to_owned();
        self.note.resources.push((account.clone(), arn.to_owned()));
        let missing = || Refusal::not_found(format!("Alias {arn} is not found."));
        let alias = self.core.store.alias(self.region, &account, name)?;
        let alias = alias.ok_or_else(missing)?;
        let record = self.record(alias.key)?.ok_or_else(missing)?;
        let key = self.named(record, Some(name.to_owned()))?;
        Ok((alias, key))
    }
}

impl Answer for CreateAliasRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("aliasName", Some(&self.alias_name));
        shown.text("targetKeyId", Some(&self.target_key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<CreateAliasResponse, Refusal> {
        let name = self.alias_name.as_str();
        let mut checks = Checks::new();
        check_name(&mut checks, name);
        check_target(checks, &self.target_key_id)?;
        check_form(name)?;
        let key = call.target(&self.target_key_id)?;
        let account = call.account().to_owned();
        let arn = alias_arn(call.region, &account, name);
        call.authorize_alias("kms:CreateAlias", name, &arn, &[&key])?;
        key.not_pending_deletion()?;
        call.note.resources.push((account.clone(), arn.clone()));
        let now_ms = call.now_ms();
        let name = name.to_owned();
        call.core.store.change(move |writing| {
            let record = writing
                .key(&key.record.region, key.record.uuid)?
                .ok_or_else(|| gone(&key.arn))?;
            if writing.alias(&record.region, &account, &name)?.is_some() {
                return Err(Refusal::new(
                    "AlreadyExistsException",
                    format!("An alias with the name {arn} already exists"),
                )
                .into());
            }
            let alias = AliasRecord {
                key: record.uuid,
                multi_region: record.multi_region.is_some(),
                created_ms: now_ms,
                updated_ms: now_ms,
            };
            Ok(writing.put_alias(&record, &name, &alias)?)
        })?;
        Ok(CreateAliasResponse {})
    }
}

impl Answer for UpdateAliasRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("aliasName", Some(&self.alias_name));
        shown.text("targetKeyId", Some(&self.target_key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<UpdateAliasResponse, Refusal> {
        let name = self.alias_name.as_str();
        let mut checks = Checks::new();
        check_name(&mut checks, name);
        check_target(checks, &self.target_key_id)?;
        check_form(name)?;
        let target = call.target(&self.target_key_id)?;
        let arn = alias_arn(call.region, call.account(), name);
        let (_, current) = call.aliased(name, &arn)?;
        call.authorize_alias("kms:UpdateAlias", name, &arn, &[&current, &target])?;
        target.not_pending_deletion()?;
        if current.record.spec != target.record.spec || current.record.usage != target.record.usage
        {
            return Err(Refusal::validation(
                "The current and the new key of an alias must have the same KeySpec and KeyUsage.",
            ));
        }
        let now_ms = call.now_ms();
        let name = name.to_owned();
        call.core.store.change(move |writing| {
            let record = writing
                .key(&target.record.region, target.record.uuid)?
                .ok_or_else(|| gone(&target.arn))?;
            let old = writing.alias(&record.region, &record.account, &name)?;
            let old =
                old.ok_or_else(|| Refusal::not_found(format!("Alias {arn} is not found.")))?;
            let alias = AliasRecord {
                key: record.uuid,
                multi_region: record.multi_region.is_some(),
                updated_ms: now_ms,
                ..old
            };
            Ok(writing.put_alias(&record, &name, &alias)?)
        })?;
        Ok(UpdateAliasResponse {})
    }
}

impl Answer for DeleteAliasRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("aliasName", Some(&self.alias_name));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DeleteAliasResponse, Refusal> {
        let name = self.alias_name.as_str();
        let mut checks = Checks::new();
        check_name(&mut checks, name);
        checks.done()?;
        check_form(name)?;
        let arn = alias_arn(call.region, call.account(), name);
        let (_, key) = call.aliased(name, &arn)?;
        call.authorize_alias("kms:DeleteAlias", name, &arn, &[&key])?;
        let (region, account) = (call.region.to_owned(), call.account().to_owned());
        let name = name.to_owned();
        call.core.store.change(move |writing| {
            // As it is now, which may be another key's.
            let alias = writing
                .alias(&region, &account, &name)?
                .ok_or_else(|| Refusal::not_found(format!("Alias {arn} is not found.")))?;
            if alias.key != key.record.uuid {
                return Err(Refusal::new(
                    "KMSInvalidStateException",
                    format!("Alias {arn} was changed meanwhile."),
                )
                .into());
            }
            Ok(writing.remove_alias(&region, &account, &name, &alias)?)
        })?;
        Ok(DeleteAliasResponse {})
    }
}

impl Answer for ListAliasesRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", self.key_id.as_deref());
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListAliasesResponse, Refusal> {
        let mut checks = Checks::new();
        checks.optional_text("keyId", self.key_id.as_deref(), 1, 2048);
        checks.page(self.limit, self.marker.as_deref());
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 50, 100)?;
        let context = call.context();
        call.authorize_without_key("kms:ListAliases", "*", &context, None)?;
        let of = match &self.key_id {
            None => None,
            Some(name) => Some(call.target(name)?.record.uuid),
        };
        let account = call.account();
        let (store, region) = (&call.core.store, call.region);
        let page = store.aliases(region, account, wanted.cut(), |alias| {
            of.is_none_or(|of| alias.key == of)
        })?;
        Ok(ListAliasesResponse {
            next_marker: next(&page, |(name, _)| name.clone()),
            truncated: page.truncated,
            aliases: page
                .map(|(name, alias)| AliasListEntry {
                    alias_arn: Some(alias_arn(region, account, &name)),
                    alias_name: Some(name),
                    target_key_id: Some(
                        KeyId {
                            uuid: alias.key,
                            multi_region: alias.multi_region,
                        }
                        .to_string(),
                    ),
                    creation_date: Some(Timestamp::from_millis(alias.created_ms)),
                    last_updated_date: Some(Timestamp::from_millis(alias.updated_ms)),
                })
                .items,
        })
    }
}
