//! Keys: made, described, listed, switched on and off, deleted.

use super::authority::{part_name, put_bypass};
use super::lifecycle::DAY_MS;
use super::pages::{Wanted, next};
use super::tags::{check_tags, put_tags};
use super::{Answer, Call, Key};
use crate::key_name::key_arn;
use crate::limits::Checks;
use crate::material::{
    Material, agreement_algorithms, encryption_algorithms, mac_algorithms, signing_algorithms,
    usages,
};
use crate::policy::Context;
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::store::{ChangeError, KeyRecord, MaterialRecord, Part};
use anchorhold_kms_wire::shapes::{
    CancelKeyDeletionRequest, CancelKeyDeletionResponse, CreateKeyRequest, CreateKeyResponse,
    DescribeKeyRequest, DescribeKeyResponse, DisableKeyRequest, DisableKeyResponse,
    EnableKeyRequest, EnableKeyResponse, ExpirationModel, KeyListEntry, KeyManager, KeyMetadata,
    KeySpec, KeyState, KeyUsage, ListKeysRequest, ListKeysResponse, MultiRegionConfiguration,
    MultiRegionKey, MultiRegionKeyType, Origin, ResourceOwner, ScheduleKeyDeletionRequest,
    ScheduleKeyDeletionResponse, Timestamp, UpdateKeyDescriptionRequest,
    UpdateKeyDescriptionResponse,
};
use uuid::Uuid;

const LONGEST_DESCRIPTION: usize = 8192;

impl Answer for CreateKeyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("policy", self.policy.as_deref());
        shown.text("description", self.description.as_deref());
        shown.name("keyUsage", self.key_usage.as_ref());
        shown.name(
            "customerMasterKeySpec",
            self.customer_master_key_spec.as_ref(),
        );
        shown.name("keySpec", self.key_spec.as_ref());
        shown.name("origin", self.origin.as_ref());
        shown.text("customKeyStoreId", self.custom_key_store_id.as_deref());
        shown.set("multiRegion", self.multi_region);
        shown.tags("tags", &self.tags);
        shown.set(
            "bypassPolicyLockoutSafetyCheck",
            self.bypass_policy_lockout_safety_check,
        );
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<CreateKeyResponse, Refusal> {
        let kind = NewKey::of(self)?;
        let held_by = kind.key_store.clone();
        let account = call.account().to_owned();
        let mut context = call.context();
        kind.describe(&mut context);
        let bypass = self.bypass_policy_lockout_safety_check == Some(true);
        put_bypass(&mut context, self.bypass_policy_lockout_safety_check);
        put_tags(&mut context, &self.tags);
        call.authorize_without_key("kms:CreateKey", "*", &context, None)?;
        if !self.tags.is_empty() {
            call.authorize_without_key("kms:TagResource", "*", &context, None)?;
        }

        let key_store = match &held_by {
            None => None,
            Some(id) => Some(call.own_key_store(id)?),
        };
        let is_external = kind.origin == Origin::External;
        let policy = self.policy.clone();
        let record = KeyRecord {
            uuid: Uuid::new_v4(),
            region: call.region.to_owned(),
            policy: policy.unwrap_or_else(|| default_policy(&account)),
            account,
            created_ms: call.now_ms(),
            description: self.description.clone().unwrap_or_default(),
            state: match kind.origin {
                Origin::External => KeyState::PendingImport,
                Origin::AwsCloudhsm => KeyState::Creating,
                _ => KeyState::Enabled,
            },
            usage: kind.usage,
            spec: kind.spec,
            origin: kind.origin,
            multi_region: kind.multi_region.then_some(Part::Primary),
            tags: self
                .tags
                .iter()
                .map(|tag| (tag.tag_key.clone(), tag.tag_value.clone()))
                .collect(),
            material: None,
            materials: Vec::new(),
            rotation: None,
            rotations_on_demand: 0,
            deletion_ms: None,
            pending_window_days: None,
            grants: 0,
            custom_key_store: held_by,
        };
        let mut key = call.named(record, None)?;
        call.check_new_policy(&key, &key.record.policy, bypass)?;
        if let Some(key_store) = key_store {
            call.make_in_token(&mut key, &key_store)?;
            return Ok(CreateKeyResponse {
                key_metadata: call.metadata(&key)?,
            });
        }
        let material = if is_external {
            None
        } else {
            let material = Material::generate(&key.record.spec)?;
            let id = call.core.store.material_id(key.record.uuid, &material);
            key.record.material = Some(id);
            key.record.materials.push(MaterialRecord::first(id));
            Some((id, material))
        };
        let record = key.record.clone();
        call.core.store.change(move |writing| {
            if let Some((id, material)) = &material {
                writing.put_material(&record, id, material)?;
            }
            Ok(writing.put_key(&record)?)
        })?;
        Ok(CreateKeyResponse {
            key_metadata: call.metadata(&key)?,
        })
    }
}

/// What a new key is to be, as far as the service can make it.
struct NewKey {
    spec: KeySpec,
    usage: KeyUsage,
    origin: Origin,
    multi_region: bool,
    /// The custom key store that is to hold it.
    key_store: Option<String>,
}

impl NewKey {
    fn of(r: &CreateKeyRequest) -> Result<Self, Refusal> {
        let mut checks = Checks::new();
        checks.optional_text("policy", r.policy.as_deref(), 1, 131_072);
        check_description(&mut checks, r.description.as_deref());
        checks.optional_one_of("keyUsage", r.key_usage.as_ref());
        checks.optional_one_of("customerMasterKeySpec", r.customer_master_key_spec.as_ref());
        checks.optional_one_of("keySpec", r.key_spec.as_ref());
        checks.optional_one_of("origin", r.origin.as_ref());
        checks.optional_text("customKeyStoreId", r.custom_key_store_id.as_deref(), 1, 64);
        checks.optional_text("xksKeyId", r.xks_key_id.as_deref(), 1, 128);
        check_tags(checks, &r.tags)?;
        let spec = match (&r.key_spec, &r.customer_master_key_spec) {
            (Some(_), Some(_)) => {
                return Err(Refusal::validation(
                    "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.",
                ));
            }
            (Some(spec), None) | (None, Some(spec)) => spec.clone(),
            (None, None) => KeySpec::SymmetricDefault,
        };
        let usage = match &r.key_usage {
            Some(usage) => usage.clone(),
            None if spec == KeySpec::SymmetricDefault => KeyUsage::EncryptDecrypt,
            None => {
                return Err(Refusal::validation(
                    "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
                ));
            }
        };
        let origin = r.origin.clone().unwrap_or(Origin::AwsKms);
        let possible = usages(&spec);
        if possible.is_empty() {
            return Err(Refusal::unsupported(format!(
                "KeySpec {spec} is not supported by this service."
            )));
        }
        if !possible.contains(&usage) {
            return Err(Refusal::validation(format!(
                "KeyUsage {usage} is not compatible with KeySpec {spec}"
            )));
        }
        let multi_region = r.multi_region == Some(true);
        let is_plain = spec == KeySpec::SymmetricDefault && !multi_region;
        match (&origin, &r.custom_key_store_id) {
            (Origin::ExternalKeyStore, _) => {
                return Err(Refusal::unsupported(
                    "External key stores are not supported by this service.",
                ));
            }
            _ if r.xks_key_id.is_some() => {
                return Err(Refusal::validation(
                    "XksKeyId is valid only for keys whose Origin is EXTERNAL_KEY_STORE.",
                ));
            }
            (Origin::AwsCloudhsm, None) => {
                return Err(Refusal::validation(
                    "CustomKeyStoreId is required for keys whose Origin is AWS_CLOUDHSM.",
                ));
            }
            (Origin::AwsCloudhsm, Some(_)) if !is_plain => {
                return Err(Refusal::unsupported(
                    "Custom key stores hold symmetric encryption keys of a single Region only.",
                ));
            }
            (Origin::AwsCloudhsm, Some(_)) | (_, None) => {}
            (_, Some(_)) => {
                return Err(Refusal::validation(format!(
                    "CustomKeyStoreId cannot be used with the Origin {origin}."
                )));
            }
        }
        Ok(Self {
            spec,
            usage,
            origin,
            multi_region,
            key_store: r.custom_key_store_id.clone(),
        })
    }

    fn describe(&self, context: &mut Context) {
        context.put("kms:KeySpec", self.spec.as_str());
        context.put("kms:CustomerMasterKeySpec", self.spec.as_str());
        context.put("kms:KeyUsage", self.usage.as_str());
        context.put("kms:CustomerMasterKeyUsage", self.usage.as_str());
        context.put("kms:KeyOrigin", self.origin.as_str());
        context.put("kms:MultiRegion", self.multi_region.to_string());
        if self.multi_region {
            context.put("kms:MultiRegionKeyType", part_name(Part::Primary));
        }
    }
}

pub(super) fn check_description(checks: &mut Checks, description: Option<&str>) {
    checks.optional_text("description", description, 0, LONGEST_DESCRIPTION);
}

impl Answer for DescribeKeyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DescribeKeyResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.grant_tokens(&self.grant_tokens);
        checks.done()?;
        call.check_tokens(&self.grant_tokens)?;
        let key = call.key(&self.key_id)?;
        let context = call.key_context(&key)?;
        call.authorize("kms:DescribeKey", &key, &context)?;
        Ok(DescribeKeyResponse {
            key_metadata: call.metadata(&key)?,
        })
    }
}

impl Answer for ListKeysRequest {
    fn show(&self, shown: &mut Shown) {
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListKeysResponse, Refusal> {
        let mut checks = Checks::new();
        checks.page(self.limit, self.marker.as_deref());
        checks.list("resourceOwners", &self.resource_owners, 0, 2);
        for owner in &self.resource_owners {
            checks.one_of("resourceOwners", owner);
        }
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 100, 1000)?;
        let context = call.context();
        call.authorize_without_key("kms:ListKeys", "*", &context, None)?;
        // Keys that other accounts share by a resource share are not there.
        if !self.resource_owners.is_empty()
            && !self.resource_owners.contains(&ResourceOwner::OwnAccount)
        {
            return Ok(ListKeysResponse::default());
        }
        let account = call.account();
        let page = call
            .core
            .store
            .keys_of(call.region, account, wanted.cut())?;
        Ok(ListKeysResponse {
            next_marker: next(&page, |record| record.uuid.simple().to_string()),
            truncated: page.truncated,
            keys: page
                .map(|record| KeyListEntry {
                    key_id: Some(record.id().to_string()),
                    key_arn: Some(record.arn()),
                })
                .items,
        })
    }
}

impl Call<'_> {
    /// Changes a key's record, after a check of the record as it then is.
    fn change_key(
        &self,
        key: &Key,
        change: impl FnOnce(&Key, &mut KeyRecord) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        let (region, id) = (key.record.region.clone(), key.record.uuid);
        let arn = key.arn.clone();
        Ok(self.core.store.change(move |writing| {
            let record = writing.key(&region, id)?.ok_or_else(|| gone(&arn))?;
            let now = Key {
                record: record.clone(),
                arn,
                alias: None,
                unavailable: false,
            };
            let mut record = record;
            change(&now, &mut record)?;
            Ok(writing.put_key(&record)?)
        })?)
    }

    /// The first half of what most operations on one key do.
    fn authorized_key(&mut self, name: &str, action: &str) -> Result<Key, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", name, 1, 2048);
        checks.done()?;
        let key = self.own_key(name, action)?;
        let context = self.key_context(&key)?;
        self.authorize(action, &key, &context)?;
        Ok(key)
    }

    /// What `DescribeKey` tells.
    pub(super) fn metadata(&self, key: &Key) -> Result<KeyMetadata, Refusal> {
        let record = &key.record;
        let current = record
            .material
            .and_then(|id| record.material_record(&id))
            .and_then(|m| m.imported.as_ref())
            .filter(|imported| imported.present);
        let encryption = encryption_algorithms(&record.spec, &record.usage);
        let signing = signing_algorithms(&record.spec, &record.usage);
        Ok(KeyMetadata {
            aws_account_id: Some(record.account.clone()),
            key_id: record.id().to_string(),
            arn: Some(key.arn.clone()),
            creation_date: Some(Timestamp::from_millis(record.created_ms)),
            enabled: key.state() == KeyState::Enabled,
            description: record.description.clone(),
            key_usage: Some(record.usage.clone()),
            key_state: Some(key.state()),
            deletion_date: record.deletion_ms.map(Timestamp::from_millis),
            valid_to: current
                .and_then(|imported| imported.valid_to_ms)
                .map(Timestamp::from_millis),
            origin: Some(record.origin.clone()),
            cloud_hsm_cluster_id: self.cluster_of(record)?,
            custom_key_store_id: record.custom_key_store.clone(),
            expiration_model: current.map(|imported| match imported.valid_to_ms {
                Some(_) => ExpirationModel::Expires,
                None => ExpirationModel::DoesNotExpire,
            }),
            key_manager: Some(KeyManager::Customer),
            customer_master_key_spec: Some(record.spec.clone()),
            key_spec: Some(record.spec.clone()),
            encryption_algorithms: encryption.map(<[_]>::to_vec),
            signing_algorithms: signing.map(<[_]>::to_vec),
            key_agreement_algorithms: agreement_algorithms(&record.usage).map(<[_]>::to_vec),
            mac_algorithms: mac_algorithms(&record.spec).map(<[_]>::to_vec),
            multi_region: Some(record.multi_region.is_some()),
            multi_region_configuration: self.multi_region_configuration(record)?,
            pending_deletion_window_in_days: match record.state {
                KeyState::PendingReplicaDeletion => record.pending_window_days,
                _ => None,
            },
            current_key_material_id: match (&record.spec, &record.origin) {
                (KeySpec::SymmetricDefault, Origin::AwsKms | Origin::External) => {
                    record.material.map(|id| id.to_string())
                }
                _ => None,
            },
            ..KeyMetadata::default()
        })
    }

    fn multi_region_configuration(
        &self,
        record: &KeyRecord,
    ) -> Result<Option<MultiRegionConfiguration>, Refusal> {
        let Some(part) = record.multi_region else {
            return Ok(None);
        };
        // A key that is just being made is not in the store yet, and is its own family.
        let mut family = self.core.store.family(record.uuid)?;
        if !family.iter().any(|member| member.region == record.region) {
            family.push(record.clone());
        }
        let kin = |member: &KeyRecord| MultiRegionKey {
            arn: Some(key_arn(&member.region, &member.account, member.id())),
            region: Some(member.region.clone()),
        };
        let is = |part| move |member: &&KeyRecord| member.multi_region == Some(part);
        Ok(Some(MultiRegionConfiguration {
            multi_region_key_type: Some(match part {
                Part::Primary => MultiRegionKeyType::Primary,
                Part::Replica => MultiRegionKeyType::Replica,
            }),
            primary_key: family.iter().find(is(Part::Primary)).map(kin),
            replica_keys: family.iter().filter(is(Part::Replica)).map(kin).collect(),
        }))
    }
}

/// A key that went away between its being found and being changed.
pub(super) fn gone(arn: &str) -> ChangeError {
    Refusal::not_found(format!("Key '{arn}' does not exist")).into()
}

impl Answer for EnableKeyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<EnableKeyResponse, Refusal> {
        let key = call.authorized_key(&self.key_id, "kms:EnableKey")?;
        call.change_key(&key, |key, record| {
            key.can_be_switched()?;
            record.state = KeyState::Enabled;
            Ok(())
        })?;
        Ok(EnableKeyResponse {})
    }
}

impl Answer for DisableKeyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DisableKeyResponse, Refusal> {
        let key = call.authorized_key(&self.key_id, "kms:DisableKey")?;
        call.change_key(&key, |key, record| {
            key.can_be_switched()?;
            record.state = KeyState::Disabled;
            Ok(())
        })?;
        Ok(DisableKeyResponse {})
    }
}

impl Answer for UpdateKeyDescriptionRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("description", Some(&self.description));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<UpdateKeyDescriptionResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        check_description(&mut checks, Some(&self.description));
        checks.done()?;
        let key = call.authorized_key(&self.key_id, "kms:UpdateKeyDescription")?;
        let description = self.description.clone();
        call.change_key(&key, move |key, record| {
            key.not_pending_deletion()?;
            record.description = description;
            Ok(())
        })?;
        Ok(UpdateKeyDescriptionResponse {})
    }
}

impl Answer for ScheduleKeyDeletionRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.set("pendingWindowInDays", self.pending_window_in_days);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ScheduleKeyDeletionResponse, Refusal> {
        let days = self.pending_window_in_days.unwrap_or(30);
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.number("pendingWindowInDays", days, 7, 30);
        checks.done()?;
        let action = "kms:ScheduleKeyDeletion";
        let key = call.own_key(&self.key_id, action)?;
        let mut context = call.key_context(&key)?;
        context.put(
            "kms:ScheduleKeyDeletionPendingWindowInDays",
            days.to_string(),
        );
        call.authorize(action, &key, &context)?;
        let deletion_ms = call.now_ms() + i64::from(days) * DAY_MS;
        let (region, id, arn) = (key.record.region.clone(), key.record.uuid, key.arn.clone());
        let record = call.core.store.change(move |writing| {
            let record = writing.key(&region, id)?.ok_or_else(|| gone(&arn))?;
            let has_replicas =
                record.multi_region == Some(Part::Primary) && writing.family(id)?.len() > 1;
            let now = Key {
                record: record.clone(),
                arn,
                alias: None,
                unavailable: false,
            };
            now.not_pending_deletion()?;
            let record = KeyRecord {
                state: if has_replicas {
                    KeyState::PendingReplicaDeletion
                } else {
                    KeyState::PendingDeletion
                },
                deletion_ms: (!has_replicas).then_some(deletion_ms),
                pending_window_days: Some(days),
                ..record
            };
            writing.put_key(&record)?;
            Ok(record)
        })?;
        Ok(ScheduleKeyDeletionResponse {
            key_id: key.arn,
            deletion_date: record.deletion_ms.map(Timestamp::from_millis),
            key_state: Some(record.state),
            pending_window_in_days: Some(days),
        })
    }
}

impl Answer for CancelKeyDeletionRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<CancelKeyDeletionResponse, Refusal> {
        let key = call.authorized_key(&self.key_id, "kms:CancelKeyDeletion")?;
        call.change_key(&key, |key, record| {
            key.pending_deletion()?;
            let waits = record.origin == Origin::External
                && !record
                    .materials
                    .iter()
                    .any(|m| Some(m.id) == record.material && m.is_present());
            record.state = if waits {
                KeyState::PendingImport
            } else {
                KeyState::Disabled
            };
            record.deletion_ms = None;
            record.pending_window_days = None;
            Ok(())
        })?;
        Ok(CancelKeyDeletionResponse { key_id: key.arn })
    }
}

/// AWS's default: everything is left to the account's own policies.
pub(super) fn default_policy(account: &str) -> String {
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
    )
}
