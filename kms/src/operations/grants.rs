//! Grants: made, listed, retired by those they concern, revoked by those who run the key.
//!
//! A grant counts as soon as it is on disk, for everyone; its token is proof of which grant is
//! meant, and nothing else. It is sealed, so that nobody can make one or read it.

use super::authority::put_pairs;
use super::keys::gone;
use super::pages::{Wanted, next};
use super::{Answer, Call, Key, check_context, not_dry};
use crate::limits::Checks;
use crate::material::usages;
use crate::policy::PrincipalName;
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::sealing::fill_random;
use crate::store::{GrantRecord, KeyRecord};
use anchorhold_kms_wire::shapes::{
    CreateGrantRequest, CreateGrantResponse, EncryptionContext, GrantConstraints, GrantListEntry,
    GrantOperation, KeySpec, KeyUsage, ListGrantsRequest, ListGrantsResponse,
    ListRetirableGrantsRequest, RetireGrantRequest, RetireGrantResponse, RevokeGrantRequest,
    RevokeGrantResponse, Timestamp,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

const TOKEN_PURPOSE: &str = "anchorhold-kms grant token v1";
/// Grants on one key at most.
const MOST: u32 = 50_000;
const PRINCIPAL: &str = "^[\\w+=,.@:/-]+$";
const NAME: &str = "^[a-zA-Z0-9:/_-]+$";
const SERVICE: &str = "^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$";

/// Which grant a token means.
struct Token {
    region: String,
    key: Uuid,
    grant: String,
}

impl Call<'_> {
    fn token(&self, record: &KeyRecord, grant: &str) -> Result<String, Refusal> {
        let text = format!("{} {} {grant}", record.uuid.simple(), record.region);
        let tokens = self.core.store.tokens();
        let sealed = tokens.seal(TOKEN_PURPOSE, &[], text.as_bytes())?;
        Ok(STANDARD.encode(sealed))
    }

    fn read_token(&self, text: &str) -> Option<Token> {
        let sealed = STANDARD.decode(text).ok()?;
        let opened = self.core.store.tokens().open(TOKEN_PURPOSE, &[], &sealed)?;
        let text = std::str::from_utf8(&opened).ok()?;
        let (key, rest) = text.split_once(' ')?;
        let (region, grant) = rest.split_once(' ')?;
        Some(Token {
            region: region.to_owned(),
            key: Uuid::try_parse(key).ok()?,
            grant: grant.to_owned(),
        })
    }

    /// Tokens must be this service's. Whose grants they mean does not matter: those count anyway.
    pub(super) fn check_tokens(&self, tokens: &[String]) -> Result<(), Refusal> {
        match tokens.iter().find(|text| self.read_token(text).is_none()) {
            None => Ok(()),
            Some(_) => Err(bad_token()),
        }
    }

    /// Removes a grant, if it is still there.
    fn remove_grant(&self, key: &Key, id: &str) -> Result<(), Refusal> {
        let (region, of, arn) = (key.record.region.clone(), key.record.uuid, key.arn.clone());
        let id = id.to_owned();
        Ok(self.core.store.change(move |writing| {
            let mut record = writing.key(&region, of)?.ok_or_else(|| gone(&arn))?;
            let grant = writing.grant(&record, &id)?.ok_or_else(no_grant)?;
            writing.remove_grant(&record, &grant)?;
            record.grants = record.grants.saturating_sub(1);
            Ok(writing.put_key(&record)?)
        })?)
    }

    /// One grant of a key.
    fn grant(&self, key: &Key, id: &str) -> Result<GrantRecord, Refusal> {
        let grants = self.core.store.all_grants_of(&key.record)?;
        let found = grants.into_iter().find(|grant| grant.id == id);
        found.ok_or_else(no_grant)
    }
}

fn bad_token() -> Refusal {
    Refusal::new(
        "InvalidGrantTokenException",
        "The grant token is not valid.",
    )
}

fn no_grant() -> Refusal {
    Refusal::not_found("The grant does not exist.")
}

fn is_principal(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c))
}

fn check_principal(checks: &mut Checks, member: &str, text: Option<&str>) {
    let Some(text) = text else { return };
    checks.text(member, text, 1, 256);
    checks.pattern(member, text, is_principal(text), PRINCIPAL);
}

fn check_service(checks: &mut Checks, member: &str, text: Option<&str>) {
    let Some(text) = text else { return };
    checks.text(member, text, 1, 128);
    let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let matches = text.split('.').count() >= 3 && text.split('.').all(label);
    checks.pattern(member, text, matches, SERVICE);
}

fn principal(text: &str) -> Result<(), Refusal> {
    match PrincipalName::of_grant(text) {
        Some(_) => Ok(()),
        None => Err(Refusal::new(
            "InvalidArnException",
            format!("ARN does not refer to a valid principal: {text}"),
        )),
    }
}

/// Whether a key of this kind can do what is granted.
fn is_possible(operation: &GrantOperation, spec: &KeySpec, usage: &KeyUsage) -> bool {
    let is_symmetric = *spec == KeySpec::SymmetricDefault;
    match operation {
        GrantOperation::CreateGrant | GrantOperation::RetireGrant | GrantOperation::DescribeKey => {
            true
        }
        GrantOperation::Encrypt
        | GrantOperation::Decrypt
        | GrantOperation::ReEncryptFrom
        | GrantOperation::ReEncryptTo => *usage == KeyUsage::EncryptDecrypt,
        GrantOperation::GenerateDataKey
        | GrantOperation::GenerateDataKeyWithoutPlaintext
        | GrantOperation::GenerateDataKeyPair
        | GrantOperation::GenerateDataKeyPairWithoutPlaintext => is_symmetric,
        GrantOperation::Sign | GrantOperation::Verify => *usage == KeyUsage::SignVerify,
        GrantOperation::GetPublicKey => usages(spec)
            .iter()
            .any(|u| matches!(u, KeyUsage::SignVerify | KeyUsage::KeyAgreement)),
        GrantOperation::GenerateMac | GrantOperation::VerifyMac => {
            *usage == KeyUsage::GenerateVerifyMac
        }
        GrantOperation::DeriveSharedSecret => *usage == KeyUsage::KeyAgreement,
        GrantOperation::Encapsulate | GrantOperation::Decapsulate | GrantOperation::Unknown(_) => {
            false
        }
    }
}

/// The constraint's kind and its pairs.
fn constraint(
    constraints: Option<&GrantConstraints>,
) -> Result<Option<(&'static str, &EncryptionContext)>, Refusal> {
    let Some(constraints) = constraints else {
        return Ok(None);
    };
    if constraints.source_arn.is_some() {
        return Err(Refusal::unsupported(
            "The grant constraint SourceArn is not supported by this service.",
        ));
    }
    let equals = &constraints.encryption_context_equals;
    let subset = &constraints.encryption_context_subset;
    match (equals.is_empty(), subset.is_empty()) {
        (true, true) => Ok(None),
        (false, true) => Ok(Some(("EncryptionContextEquals", equals))),
        (true, false) => Ok(Some(("EncryptionContextSubset", subset))),
        (false, false) => Err(Refusal::validation(
            "A grant has either EncryptionContextEquals or EncryptionContextSubset.",
        )),
    }
}

fn check(r: &CreateGrantRequest) -> Result<(), Refusal> {
    let mut checks = Checks::new();
    checks.text("keyId", &r.key_id, 1, 2048);
    check_principal(
        &mut checks,
        "granteePrincipal",
        r.grantee_principal.as_deref(),
    );
    check_principal(
        &mut checks,
        "retiringPrincipal",
        r.retiring_principal.as_deref(),
    );
    check_service(
        &mut checks,
        "granteeServicePrincipal",
        r.grantee_service_principal.as_deref(),
    );
    check_service(
        &mut checks,
        "retiringServicePrincipal",
        r.retiring_service_principal.as_deref(),
    );
    checks.list("operations", &r.operations, 1, GrantOperation::ALL.len());
    for operation in &r.operations {
        checks.one_of("operations", operation);
    }
    checks.grant_tokens(&r.grant_tokens);
    if let Some(name) = &r.name {
        checks.text("name", name, 1, 256);
        let matches = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ":/_-".contains(c));
        checks.pattern("name", name, matches, NAME);
    }
    checks.done()?;
    if r.grantee_service_principal.is_some() || r.retiring_service_principal.is_some() {
        return Err(Refusal::unsupported(
            "Grants to AWS services are not supported by this service: none calls it.",
        ));
    }
    Ok(())
}

impl Answer for CreateGrantRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("granteePrincipal", self.grantee_principal.as_deref());
        shown.text("retiringPrincipal", self.retiring_principal.as_deref());
        shown.names("operations", &self.operations);
        shown.text("name", self.name.as_deref());
        if let Some(constraints) = &self.constraints {
            shown.context(
                "encryptionContextEquals",
                &constraints.encryption_context_equals,
            );
            shown.context(
                "encryptionContextSubset",
                &constraints.encryption_context_subset,
            );
        }
        shown.set("dryRun", self.dry_run);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<CreateGrantResponse, Refusal> {
        check(self)?;
        let grantee = self.grantee_principal.clone().ok_or_else(|| {
            Refusal::validation(
                "1 validation error detected: Value null at 'granteePrincipal' failed to satisfy constraint: Member must not be null",
            )
        })?;
        let constraint = constraint(self.constraints.as_ref())?;
        if let Some((_, pairs)) = constraint {
            check_context(pairs)?;
        }
        call.check_tokens(&self.grant_tokens)?;
        principal(&grantee)?;
        if let Some(retiring) = &self.retiring_principal {
            principal(retiring)?;
        }
        let key = call.key_without_alias(&self.key_id)?;
        let mut context = call.key_context(&key)?;
        context.put("kms:GranteePrincipal", grantee.as_str());
        if let Some(retiring) = &self.retiring_principal {
            context.put("kms:RetiringPrincipal", retiring.as_str());
        }
        context.put_all(
            "kms:GrantOperations",
            self.operations.iter().map(|o| o.as_str().to_owned()),
        );
        context.put("kms:GrantIsForAWSResource", "false");
        if let Some((kind, pairs)) = constraint {
            context.put("kms:GrantConstraintType", kind);
            put_pairs(&mut context, pairs);
        }
        call.authorize("kms:CreateGrant", &key, &context)?;
        key.usable()?;
        let record = &key.record;
        let impossible = self
            .operations
            .iter()
            .find(|operation| !is_possible(operation, &record.spec, &record.usage));
        if let Some(operation) = impossible {
            return Err(Refusal::validation(format!(
                "The operation {operation} cannot be granted for a key of spec {} and usage {}.",
                record.spec, record.usage
            )));
        }
        if constraint.is_some() && record.spec != KeySpec::SymmetricDefault {
            return Err(Refusal::validation(
                "Grants with encryption context constraints are for symmetric encryption keys only.",
            ));
        }
        not_dry(self.dry_run)?;

        let mut id = [0; 32];
        fill_random(&mut id)?;
        let (context_equals, context_subset) = match &self.constraints {
            None => (EncryptionContext::new(), EncryptionContext::new()),
            Some(c) => (
                c.encryption_context_equals.clone(),
                c.encryption_context_subset.clone(),
            ),
        };
        let new = GrantRecord {
            id: hex::encode(id),
            name: self.name.clone(),
            created_ms: call.now_ms(),
            grantee,
            retiring: self.retiring_principal.clone(),
            issuing_account: call.account().to_owned(),
            operations: self.operations.clone(),
            context_equals,
            context_subset,
        };
        let (region, of, arn) = (record.region.clone(), record.uuid, key.arn.clone());
        let id = call.core.store.change(move |writing| {
            let mut record = writing.key(&region, of)?.ok_or_else(|| gone(&arn))?;
            // The same request again gives the same grant, if it has a name.
            if new.name.is_some() {
                let old = writing.grants_of(&record)?.into_iter().find(|old| {
                    new == GrantRecord {
                        id: new.id.clone(),
                        created_ms: new.created_ms,
                        ..old.clone()
                    }
                });
                if let Some(old) = old {
                    return Ok(old.id);
                }
            }
            if record.grants >= MOST {
                return Err(Refusal::new(
                    "LimitExceededException",
                    format!("A key has at most {MOST} grants."),
                )
                .into());
            }
            record.grants += 1;
            writing.put_grant(&record, &new)?;
            writing.put_key(&record)?;
            Ok(new.id)
        })?;
        Ok(CreateGrantResponse {
            grant_token: Some(call.token(&key.record, &id)?),
            grant_id: Some(id),
        })
    }
}

fn entry(key: &KeyRecord, grant: GrantRecord) -> GrantListEntry {
    let constraints = GrantConstraints {
        source_arn: None,
        encryption_context_equals: grant.context_equals,
        encryption_context_subset: grant.context_subset,
    };
    GrantListEntry {
        key_id: Some(key.arn()),
        grant_id: Some(grant.id),
        // AWS writes an empty name where there is none.
        name: Some(grant.name.unwrap_or_default()),
        creation_date: Some(Timestamp::from_millis(grant.created_ms)),
        grantee_principal: Some(grant.grantee),
        retiring_principal: grant.retiring,
        issuing_account: Some(format!("arn:aws:iam::{}:root", grant.issuing_account)),
        constraints: (constraints != GrantConstraints::default()).then_some(constraints),
        operations: grant.operations,
        ..GrantListEntry::default()
    }
}

impl Answer for ListGrantsRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("grantId", self.grant_id.as_deref());
        shown.text("granteePrincipal", self.grantee_principal.as_deref());
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListGrantsResponse, Refusal> {
        let mut checks = Checks::new();
        checks.page(self.limit, self.marker.as_deref());
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.optional_text("grantId", self.grant_id.as_deref(), 1, 128);
        check_principal(
            &mut checks,
            "granteePrincipal",
            self.grantee_principal.as_deref(),
        );
        check_service(
            &mut checks,
            "granteeServicePrincipal",
            self.grantee_service_principal.as_deref(),
        );
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 50, 100)?;
        let key = call.key_without_alias(&self.key_id)?;
        let context = call.key_context(&key)?;
        call.authorize("kms:ListGrants", &key, &context)?;
        let page = call
            .core
            .store
            .grants_of(&key.record, wanted.cut(), |grant| {
                self.grant_id.as_ref().is_none_or(|id| grant.id == *id)
                    && self
                        .grantee_principal
                        .as_ref()
                        .is_none_or(|who| grant.grantee == *who)
                    && self.grantee_service_principal.is_none()
            })?;
        if page.items.is_empty() && self.grant_id.is_some() {
            return Err(Refusal::new(
                "InvalidGrantIdException",
                "The key has no grant of that id.",
            ));
        }
        Ok(ListGrantsResponse {
            next_marker: next(&page, |grant| grant.id.clone()),
            truncated: page.truncated,
            grants: page.map(|grant| entry(&key.record, grant)).items,
        })
    }
}

impl Answer for ListRetirableGrantsRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("retiringPrincipal", self.retiring_principal.as_deref());
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListGrantsResponse, Refusal> {
        let mut checks = Checks::new();
        checks.page(self.limit, self.marker.as_deref());
        check_principal(
            &mut checks,
            "retiringPrincipal",
            self.retiring_principal.as_deref(),
        );
        check_service(
            &mut checks,
            "retiringServicePrincipal",
            self.retiring_service_principal.as_deref(),
        );
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 50, 100)?;
        let context = call.context();
        call.authorize_without_key("kms:ListRetirableGrants", "*", &context, None)?;
        let Some(retiring) = &self.retiring_principal else {
            if self.retiring_service_principal.is_some() {
                return Ok(ListGrantsResponse::default());
            }
            return Err(Refusal::validation(
                "1 validation error detected: Value null at 'retiringPrincipal' failed to satisfy constraint: Member must not be null",
            ));
        };
        principal(retiring)?;
        // Only for principals of the caller's own account.
        let own = format!(":{}:", call.account());
        if !retiring.contains(&own) {
            return Ok(ListGrantsResponse::default());
        }
        let page = call
            .core
            .store
            .retirable(call.region, retiring, wanted.cut())?;
        Ok(ListGrantsResponse {
            next_marker: next(&page, |(_, grant)| grant.id.clone()),
            truncated: page.truncated,
            grants: page.map(|(key, grant)| entry(&key, grant)).items,
        })
    }
}

impl Answer for RetireGrantRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", self.key_id.as_deref());
        shown.text("grantId", self.grant_id.as_deref());
        shown.set("dryRun", self.dry_run);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<RetireGrantResponse, Refusal> {
        let mut checks = Checks::new();
        checks.optional_text("grantToken", self.grant_token.as_deref(), 1, 8192);
        checks.optional_text("keyId", self.key_id.as_deref(), 1, 2048);
        checks.optional_text("grantId", self.grant_id.as_deref(), 1, 128);
        checks.done()?;
        let (key, id) = match (&self.grant_token, &self.key_id, &self.grant_id) {
            (Some(token), None, None) => {
                let token = call.read_token(token).ok_or_else(bad_token)?;
                if token.region != call.region {
                    return Err(bad_token());
                }
                let record = call.record(token.key)?.ok_or_else(bad_token)?;
                (call.named(record, None)?, token.grant)
            }
            (None, Some(key), Some(id)) => (call.key_without_alias(key)?, id.clone()),
            _ => {
                return Err(Refusal::validation(
                    "Please specify either a grant token, or a key id and a grant id.",
                ));
            }
        };
        let grant = call.grant(&key, &id)?;
        let mut context = call.key_context(&key)?;
        context.put("kms:GranteePrincipal", grant.grantee.as_str());
        call.authorize_by("kms:RetireGrant", &key, &context, None, &[grant])?;
        not_dry(self.dry_run)?;
        call.remove_grant(&key, &id)?;
        Ok(RetireGrantResponse {})
    }
}

impl Answer for RevokeGrantRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("grantId", Some(&self.grant_id));
        shown.set("dryRun", self.dry_run);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<RevokeGrantResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.text("grantId", &self.grant_id, 1, 128);
        checks.done()?;
        let key = call.key_without_alias(&self.key_id)?;
        let context = call.key_context(&key)?;
        call.authorize("kms:RevokeGrant", &key, &context)?;
        call.grant(&key, &self.grant_id)?;
        not_dry(self.dry_run)?;
        call.remove_grant(&key, &self.grant_id)?;
        Ok(RevokeGrantResponse {})
    }
}
