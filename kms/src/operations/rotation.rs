//! Rotation: by the calendar and on demand. Old material keeps decrypting.

use super::keys::gone;
use super::lifecycle::{self, DAY_MS};
use super::pages::{Wanted, next};
use super::{Answer, Call, Key};
use crate::limits::Checks;
use crate::material::Material;
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::store::{KeyRecord, MaterialRecord, Part, Rotation};
use anchorhold_kms_wire::shapes::{
    DisableKeyRotationRequest, DisableKeyRotationResponse, EnableKeyRotationRequest,
    EnableKeyRotationResponse, ExpirationModel, GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse, ImportState, IncludeKeyMaterial, KeyMaterialState, KeySpec,
    KeyState, ListKeyRotationsRequest, ListKeyRotationsResponse, Origin, RotateKeyOnDemandRequest,
    RotateKeyOnDemandResponse, RotationType, RotationsListEntry, Timestamp,
};

const DEFAULT_DAYS: i32 = 365;
/// Rotations on demand that a key has in its life.
const MOST_ON_DEMAND: u32 = 25;

impl Key {
    /// Only symmetric keys rotate, and not where a token holds them.
    fn rotates(&self) -> Result<(), Refusal> {
        if self.record.custom_key_store.is_some() {
            return self.has_origin(&Origin::AwsKms);
        }
        if self.record.spec == KeySpec::SymmetricDefault {
            return Ok(());
        }
        Err(Refusal::unsupported(format!(
            "{} key spec is {} which is not valid for this operation.",
            self.arn, self.record.spec
        )))
    }

    /// A replica's rotation is its primary key's.
    fn is_not_a_replica(&self) -> Result<(), Refusal> {
        if self.record.multi_region != Some(Part::Replica) {
            return Ok(());
        }
        Err(Refusal::unsupported(format!(
            "{} is a multi-Region replica key. Rotation is managed on its primary key.",
            self.arn
        )))
    }
}

impl Call<'_> {
    fn rotation_key(&mut self, name: &str, action: &str) -> Result<Key, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", name, 1, 2048);
        checks.done()?;
        let key = self.own_key(name, action)?;
        let context = self.key_context(&key)?;
        self.authorize(action, &key, &context)?;
        Ok(key)
    }

    /// Sets the rotation of a key and of its replicas.
    fn set_rotation(
        &self,
        key: &Key,
        change: impl FnOnce(&KeyRecord) -> Option<Rotation> + Send + 'static,
    ) -> Result<(), Refusal> {
        let (region, id, arn) = (key.record.region.clone(), key.record.uuid, key.arn.clone());
        Ok(self.core.store.change(move |writing| {
            let record = writing.key(&region, id)?.ok_or_else(|| gone(&arn))?;
            let now = Key {
                record: record.clone(),
                arn,
                alias: None,
                unavailable: false,
            };
            now.usable()?;
            let rotation = change(&record);
            let family = match record.multi_region {
                None => vec![record],
                Some(_) => writing.family(id)?,
            };
            for member in family {
                writing.put_key(&KeyRecord { rotation, ..member })?;
            }
            Ok(())
        })?)
    }
}

impl Answer for EnableKeyRotationRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.set("rotationPeriodInDays", self.rotation_period_in_days);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<EnableKeyRotationResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        let days = self.rotation_period_in_days;
        checks.optional_number("rotationPeriodInDays", days, 90, 2560);
        checks.done()?;
        let action = "kms:EnableKeyRotation";
        let key = call.own_key(&self.key_id, action)?;
        let mut context = call.key_context(&key)?;
        let shown = days.unwrap_or(DEFAULT_DAYS).to_string();
        context.put("kms:RotationPeriodInDays", shown);
        call.authorize(action, &key, &context)?;
        key.rotates()?;
        key.has_origin(&Origin::AwsKms)?;
        key.is_not_a_replica()?;
        key.usable()?;
        let now_ms = call.now_ms();
        call.set_rotation(&key, move |record| {
            let before = record.rotation;
            match (before, days) {
                // Enabled already: the schedule stays, unless the period is another.
                (Some(before), None) => Some(before),
                (Some(before), Some(days)) if before.period_days == days => Some(before),
                (_, days) => {
                    let period_days = days.unwrap_or(DEFAULT_DAYS);
                    Some(Rotation {
                        period_days,
                        next_ms: now_ms + i64::from(period_days) * DAY_MS,
                    })
                }
            }
        })?;
        Ok(EnableKeyRotationResponse {})
    }
}

impl Answer for DisableKeyRotationRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DisableKeyRotationResponse, Refusal> {
        let key = call.rotation_key(&self.key_id, "kms:DisableKeyRotation")?;
        key.rotates()?;
        key.has_origin(&Origin::AwsKms)?;
        key.is_not_a_replica()?;
        key.usable()?;
        call.set_rotation(&key, |_| None)?;
        Ok(DisableKeyRotationResponse {})
    }
}

impl Answer for GetKeyRotationStatusRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GetKeyRotationStatusResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.done()?;
        // Of other accounts' keys, too.
        let key = call.key_without_alias(&self.key_id)?;
        let context = call.key_context(&key)?;
        call.authorize("kms:GetKeyRotationStatus", &key, &context)?;
        key.rotates()?;
        // What is to be deleted does not rotate; it takes the schedule up again when kept.
        let rotation = match key.record.state {
            KeyState::PendingDeletion | KeyState::PendingReplicaDeletion => None,
            _ => key.record.rotation,
        };
        Ok(GetKeyRotationStatusResponse {
            key_rotation_enabled: rotation.is_some(),
            key_id: Some(key.arn),
            rotation_period_in_days: rotation.map(|r| r.period_days),
            next_rotation_date: rotation.map(|r| Timestamp::from_millis(r.next_ms)),
            on_demand_rotation_start_date: None,
        })
    }
}

impl Answer for RotateKeyOnDemandRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<RotateKeyOnDemandResponse, Refusal> {
        let key = call.rotation_key(&self.key_id, "kms:RotateKeyOnDemand")?;
        key.rotates()?;
        key.is_not_a_replica()?;
        key.usable()?;
        let (region, id, arn) = (key.record.region.clone(), key.record.uuid, key.arn.clone());
        let now_ms = call.now_ms();
        let material = Material::generate(&key.record.spec)?;
        let material_id = call.core.store.material_id(id, &material);
        call.core.store.change(move |writing| {
            let record = writing.key(&region, id)?.ok_or_else(|| gone(&arn))?;
            let now = Key {
                record: record.clone(),
                arn,
                alias: None,
                unavailable: false,
            };
            now.usable()?;
            if record.rotations_on_demand >= MOST_ON_DEMAND {
                return Err(Refusal::new(
                    "LimitExceededException",
                    format!("The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: {}", now.arn),
                )
                .into());
            }
            if record.origin == Origin::AwsKms {
                let new = (material_id, material.as_slice());
                return lifecycle::rotate(writing, record, new, &RotationType::OnDemand, now_ms);
            }
            let family = match record.multi_region {
                None => vec![record],
                Some(_) => writing.family(id)?,
            };
            let waiting: Vec<_> = family.iter().map(waiting).collect();
            let first = waiting.first().copied().flatten();
            if first.is_none() || waiting.iter().any(|w| *w != first) {
                return Err(Refusal::new(
                    "KMSInvalidStateException",
                    format!(
                        "{} does not have new imported key material that is pending rotation in all its Regions.",
                        now.arn
                    ),
                )
                .into());
            }
            for mut member in family {
                for material in &mut member.materials {
                    if Some(material.id) == first {
                        material.awaits_rotation = false;
                        material.rotated = Some((now_ms, RotationType::OnDemand));
                    }
                }
                member.material = first;
                member.rotations_on_demand += 1;
                writing.put_key(&member)?;
            }
            Ok(())
        })?;
        Ok(RotateKeyOnDemandResponse { key_id: key.arn })
    }
}

/// Imported material that waits for its rotation, and is here.
fn waiting(record: &KeyRecord) -> Option<crate::ciphertext::MaterialId> {
    let found = record
        .materials
        .iter()
        .find(|m| m.awaits_rotation && m.is_present());
    found.map(|m| m.id)
}

impl Answer for ListKeyRotationsRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.name("includeKeyMaterial", self.include_key_material.as_ref());
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListKeyRotationsResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        let include = self.include_key_material.as_ref();
        checks.optional_one_of("includeKeyMaterial", include);
        checks.page(self.limit, self.marker.as_deref());
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 100, 1000)?;
        let key = call.rotation_key(&self.key_id, "kms:ListKeyRotations")?;
        key.rotates()?;
        let all = include == Some(&IncludeKeyMaterial::AllKeyMaterial);
        // Numbered, so that a marker has something to name.
        let listed: Vec<(usize, MaterialRecord)> = key
            .record
            .materials
            .iter()
            .filter(|m| all || m.rotated.is_some())
            .cloned()
            .enumerate()
            .collect();
        let name = |(at, _): &(usize, MaterialRecord)| format!("{at:08}");
        let page = wanted.of(listed, name);
        Ok(ListKeyRotationsResponse {
            next_marker: next(&page, name),
            truncated: page.truncated,
            rotations: page.map(|(_, material)| entry(&key, material)).items,
        })
    }
}

fn entry(key: &Key, material: MaterialRecord) -> RotationsListEntry {
    let state = if material.awaits_rotation {
        KeyMaterialState::PendingRotation
    } else if Some(material.id) == key.record.material {
        KeyMaterialState::Current
    } else {
        KeyMaterialState::NonCurrent
    };
    let (date, kind) = match material.rotated {
        None => (None, None),
        Some((at, kind)) => (Some(Timestamp::from_millis(at)), Some(kind)),
    };
    let imported = material.imported;
    RotationsListEntry {
        key_id: Some(key.arn.clone()),
        key_material_id: Some(material.id.to_string()),
        key_material_state: Some(state),
        rotation_date: date,
        rotation_type: kind,
        import_state: imported.as_ref().map(|i| {
            if i.present {
                ImportState::Imported
            } else {
                ImportState::PendingImport
            }
        }),
        expiration_model: imported
            .as_ref()
            .filter(|i| i.present)
            .map(|i| match i.valid_to_ms {
                Some(_) => ExpirationModel::Expires,
                None => ExpirationModel::DoesNotExpire,
            }),
        valid_to: imported
            .as_ref()
            .and_then(|i| i.valid_to_ms)
            .map(Timestamp::from_millis),
        key_material_description: imported.and_then(|i| i.description),
    }
}
