//! Multi-Region keys: the same material, under the same id, in several Regions that one service
//! plays. Each of them has its own policy, tags, aliases, grants and state.

use super::authority::{part_name, put_bypass};
use super::import::absent;
use super::keys::{check_description, default_policy, gone};
use super::tags::{check_tags, put_tags};
use super::{Answer, Call, Key};
use crate::key_name::key_arn;
use crate::limits::Checks;
use crate::policy::Context;
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::store::{KeyRecord, Part};
use anchorhold_kms_wire::shapes::{
    KeyState, Origin, ReplicateKeyRequest, ReplicateKeyResponse, UpdatePrimaryRegionRequest,
    UpdatePrimaryRegionResponse,
};

fn check_region(checks: &mut Checks, member: &str, region: &str) {
    checks.text(member, region, 1, 32);
    // Two or three words, each with a hyphen after it, and a number.
    let parts: Vec<&str> = region.split('-').collect();
    let matches = match parts.split_last() {
        Some((number, words)) => {
            (2..=3).contains(&words.len())
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
                && words
                    .iter()
                    .all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()))
        }
        None => false,
    };
    checks.pattern(member, region, matches, "^([a-z]+-){2,3}\\d+$");
}

impl Key {
    fn is_primary(&self) -> Result<(), Refusal> {
        if self.record.multi_region == Some(Part::Primary) {
            return Ok(());
        }
        Err(Refusal::unsupported(format!(
            "{} is not a multi-Region primary key.",
            self.arn
        )))
    }

    /// Without material a key cannot be used, but it can be replicated.
    fn usable_or_pending_import(&self) -> Result<(), Refusal> {
        match self.record.state {
            KeyState::PendingImport => Ok(()),
            _ => self.usable(),
        }
    }
}

impl Call<'_> {
    /// One of the Regions that this service plays.
    fn played(&self, region: &str) -> Result<(), Refusal> {
        if self.core.regions.iter().any(|own| own == region) {
            return Ok(());
        }
        Err(Refusal::unsupported(format!(
            "The Region {region} is not one of this service's."
        )))
    }
}

fn put_regions(context: &mut Context, primary: &str, replica: Option<&str>) {
    context.put("kms:PrimaryRegion", primary);
    if let Some(replica) = replica {
        context.put("kms:ReplicaRegion", replica);
    }
}

impl Answer for ReplicateKeyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("replicaRegion", Some(&self.replica_region));
        shown.text("policy", self.policy.as_deref());
        shown.text("description", self.description.as_deref());
        shown.tags("tags", &self.tags);
        shown.set(
            "bypassPolicyLockoutSafetyCheck",
            self.bypass_policy_lockout_safety_check,
        );
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ReplicateKeyResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        check_region(&mut checks, "replicaRegion", &self.replica_region);
        checks.optional_text("policy", self.policy.as_deref(), 1, 131_072);
        check_description(&mut checks, self.description.as_deref());
        check_tags(checks, &self.tags)?;
        let action = "kms:ReplicateKey";
        let key = call.own_key(&self.key_id, action)?;
        let bypass = self.bypass_policy_lockout_safety_check == Some(true);
        let mut context = call.key_context(&key)?;
        put_regions(&mut context, call.region, Some(&self.replica_region));
        call.authorize(action, &key, &context)?;
        // And a key is made in the other Region.
        let mut context = call.key_context(&key)?;
        context.put("aws:RequestedRegion", self.replica_region.as_str());
        context.put("kms:MultiRegionKeyType", part_name(Part::Replica));
        put_bypass(&mut context, self.bypass_policy_lockout_safety_check);
        put_tags(&mut context, &self.tags);
        call.authorize_without_key("kms:CreateKey", "*", &context, None)?;
        if !self.tags.is_empty() {
            call.authorize_without_key("kms:TagResource", "*", &context, None)?;
        }
        key.is_primary()?;
        key.usable_or_pending_import()?;
        call.played(&self.replica_region)?;

        let account = key.record.account.clone();
        let policy = self.policy.clone();
        let replica = KeyRecord {
            region: self.replica_region.clone(),
            created_ms: call.now_ms(),
            description: self.description.clone().unwrap_or_default(),
            multi_region: Some(Part::Replica),
            policy: policy.unwrap_or_else(|| default_policy(&account)),
            tags: self
                .tags
                .iter()
                .map(|tag| (tag.tag_key.clone(), tag.tag_value.clone()))
                .collect(),
            grants: 0,
            custom_key_store: None,
            ..key.record.clone()
        };
        let replica = call.named(replica, None)?;
        call.check_new_policy(&replica, &replica.record.policy, bypass)?;
        let (id, arn) = (key.record.uuid, key.arn.clone());
        let replica_arn = replica.arn.clone();
        let template = replica.record.clone();
        let region = key.record.region.clone();
        let store = &call.core.store;
        // The material is read here, where the key that opens it is.
        let mut materials = Vec::new();
        if key.record.origin == Origin::AwsKms {
            for material in &key.record.materials {
                let bytes = store.material_bytes(&region, id, &material.id)?;
                let bytes = bytes.ok_or_else(|| {
                    Refusal::internal(format!("the material of {} is missing", key.arn))
                })?;
                materials.push((material.id, bytes));
            }
        }
        let record = store.change(move |writing| {
            let primary = writing.key(&region, id)?.ok_or_else(|| gone(&arn))?;
            if writing.key(&template.region, id)?.is_some() {
                return Err(Refusal::new(
                    "AlreadyExistsException",
                    format!("The key {replica_arn} already exists."),
                )
                .into());
            }
            let now = Key {
                record: primary.clone(),
                arn,
                alias: None,
                unavailable: false,
            };
            now.is_primary()?;
            now.usable_or_pending_import()?;
            let is_ours = primary.origin == Origin::AwsKms;
            if is_ours && primary.materials.len() != materials.len() {
                // Rotated in this very moment.
                return Err(Refusal::new(
                    "KMSInvalidStateException",
                    format!("{} was changed meanwhile. Try again.", now.arn),
                )
                .into());
            }
            let record = KeyRecord {
                state: if is_ours {
                    KeyState::Enabled
                } else {
                    KeyState::PendingImport
                },
                material: primary.material,
                materials: if is_ours {
                    primary.materials
                } else {
                    primary.materials.into_iter().map(absent).collect()
                },
                rotation: primary.rotation,
                rotations_on_demand: primary.rotations_on_demand,
                deletion_ms: None,
                pending_window_days: None,
                ..template
            };
            for (id, bytes) in &materials {
                writing.put_material(&record, id, bytes)?;
            }
            writing.put_key(&record)?;
            Ok(record)
        })?;
        let policy = record.policy.clone();
        let replica = Key { record, ..replica };
        Ok(ReplicateKeyResponse {
            replica_key_metadata: call.metadata(&replica)?,
            replica_policy: Some(policy),
            replica_tags: Some(self.tags.clone()),
        })
    }
}

impl Answer for UpdatePrimaryRegionRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("primaryRegion", Some(&self.primary_region));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<UpdatePrimaryRegionResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        check_region(&mut checks, "primaryRegion", &self.primary_region);
        checks.done()?;
        let action = "kms:UpdatePrimaryRegion";
        let key = call.own_key(&self.key_id, action)?;
        let mut context = call.key_context(&key)?;
        put_regions(&mut context, &self.primary_region, None);
        call.authorize(action, &key, &context)?;
        key.is_primary()?;
        key.usable_or_pending_import()?;
        let id = key.record.uuid;
        let missing = || {
            let arn = key_arn(&self.primary_region, &key.record.account, key.record.id());
            Refusal::not_found(format!("Key '{arn}' does not exist"))
        };
        let replica = call.core.store.key(&self.primary_region, id)?;
        let replica = replica.ok_or_else(missing)?;
        if replica.region == key.record.region {
            return Ok(UpdatePrimaryRegionResponse {});
        }
        // The replica's policy is asked, too.
        let replica = call.named(replica, None)?;
        let mut context = call.key_context(&replica)?;
        put_regions(&mut context, &self.primary_region, None);
        call.authorize(action, &replica, &context)?;
        replica.usable_or_pending_import()?;
        let (from, to) = (key.record.region.clone(), replica.record.region.clone());
        let (from_arn, to_arn) = (key.arn, replica.arn);
        call.core.store.change(move |writing| {
            let old = writing.key(&from, id)?.ok_or_else(|| gone(&from_arn))?;
            let new = writing.key(&to, id)?.ok_or_else(|| gone(&to_arn))?;
            let now = Key {
                record: old.clone(),
                arn: from_arn,
                alias: None,
                unavailable: false,
            };
            now.is_primary()?;
            now.usable_or_pending_import()?;
            let then = Key {
                record: new.clone(),
                arn: to_arn,
                alias: None,
                unavailable: false,
            };
            then.usable_or_pending_import()?;
            writing.put_key(&KeyRecord {
                multi_region: Some(Part::Replica),
                ..old
            })?;
            Ok(writing.put_key(&KeyRecord {
                multi_region: Some(Part::Primary),
                ..new
            })?)
        })?;
        Ok(UpdatePrimaryRegionResponse {})
    }
}
