//! What time brings about: deletion after the window, expiry of imported material, rotation.
//!
//! It is brought about when a key is next touched, and by a sweep over all keys, so that material
//! is gone on its date whether anybody asks or not. The time is an argument.

use crate::key_name::KeyId;
use crate::material::Material;
use crate::refusal::Refusal;
use crate::store::{ChangeError, KeyRecord, MaterialRecord, Part, Store, Writing};
use anchorhold_kms_wire::shapes::{KeyState, Origin, RotationType};
use uuid::Uuid;

pub(super) const DAY_MS: i64 = 86_400_000;

/// Whether something is to be done to a key.
pub(crate) fn is_due(record: &KeyRecord, now_ms: i64) -> bool {
    is_to_be_deleted(record, now_ms) || has_expired(record, now_ms) || is_to_rotate(record, now_ms)
}

fn is_to_be_deleted(record: &KeyRecord, now_ms: i64) -> bool {
    record.state == KeyState::PendingDeletion && record.deletion_ms.is_some_and(|at| at <= now_ms)
}

fn has_expired(record: &KeyRecord, now_ms: i64) -> bool {
    record.materials.iter().any(|m| expires(m, now_ms))
}

fn expires(material: &MaterialRecord, now_ms: i64) -> bool {
    material
        .imported
        .as_ref()
        .is_some_and(|i| i.present && i.valid_to_ms.is_some_and(|at| at <= now_ms))
}

/// A replica rotates with its primary key. A key that is not enabled waits until it is.
fn is_to_rotate(record: &KeyRecord, now_ms: i64) -> bool {
    record.state == KeyState::Enabled
        && record.multi_region != Some(Part::Replica)
        && record.rotation.is_some_and(|r| r.next_ms <= now_ms)
}

/// Does what is due to one key; returns once it is on disk.
pub(crate) fn settle(
    store: &Store,
    region: &str,
    id: Uuid,
    now_ms: i64,
) -> Result<(), ChangeError> {
    let Some(record) = store.key(region, id)? else {
        return Ok(());
    };
    let new = if is_to_rotate(&record, now_ms) {
        let material = Material::generate(&record.spec).map_err(Refusal::from)?;
        Some((store.material_id(id, &material), material))
    } else {
        None
    };
    let region = region.to_owned();
    store.change(move |writing| {
        // Someone else may have been faster.
        let Some(mut record) = writing.key(&region, id)? else {
            return Ok(());
        };
        if is_to_be_deleted(&record, now_ms) {
            writing.remove_key(&record)?;
            return begin_deletion_of_primary(writing, id, now_ms);
        }
        if has_expired(&record, now_ms) {
            let expired: Vec<_> = record
                .materials
                .iter()
                .filter(|m| expires(m, now_ms))
                .collect();
            let expired: Vec<_> = expired.into_iter().map(|m| m.id).collect();
            for material in expired {
                writing.remove_material(&record, &material)?;
                forget_import(&mut record, &material);
            }
            writing.put_key(&record)?;
        }
        if let (true, Some((material_id, material))) = (is_to_rotate(&record, now_ms), new) {
            rotate(
                writing,
                record,
                (material_id, &material),
                &RotationType::Automatic,
                now_ms,
            )?;
        }
        Ok(())
    })
}

/// The material is gone; without it the key waits for it.
pub(super) fn forget_import(record: &mut KeyRecord, material: &crate::ciphertext::MaterialId) {
    if let Some(imported) = record
        .material_record_mut(material)
        .and_then(|m| m.imported.as_mut())
    {
        imported.present = false;
        imported.valid_to_ms = None;
    }
    let waits = matches!(record.state, KeyState::Enabled | KeyState::Disabled);
    let awaits_rotation = record
        .material_record(material)
        .is_some_and(|m| m.awaits_rotation);
    if waits && !awaits_rotation {
        record.state = KeyState::PendingImport;
    }
}

/// Puts new material in use, in all Regions of the key.
pub(super) fn rotate(
    writing: &Writing<'_>,
    record: KeyRecord,
    (id, material): (crate::ciphertext::MaterialId, &[u8]),
    how: &RotationType,
    now_ms: i64,
) -> Result<(), ChangeError> {
    let family = match record.multi_region {
        None => vec![record],
        Some(_) => writing.family(record.uuid)?,
    };
    for mut member in family {
        if member.origin != Origin::AwsKms {
            continue;
        }
        writing.put_material(&member, &id, material)?;
        member.materials.push(MaterialRecord {
            rotated: Some((now_ms, how.clone())),
            ..MaterialRecord::first(id)
        });
        member.material = Some(id);
        match how {
            RotationType::OnDemand => member.rotations_on_demand += 1,
            _ => {
                if let Some(rotation) = &mut member.rotation {
                    let period = i64::from(rotation.period_days) * DAY_MS;
                    // The next date of the schedule, however many have passed unseen.
                    let passed = (now_ms - rotation.next_ms).max(0) / period + 1;
                    rotation.next_ms += passed * period;
                }
            }
        }
        writing.put_key(&member)?;
    }
    Ok(())
}

/// When the last replica is gone, the window of a primary key that waits for that begins.
fn begin_deletion_of_primary(
    writing: &Writing<'_>,
    id: Uuid,
    now_ms: i64,
) -> Result<(), ChangeError> {
    let family = writing.family(id)?;
    if let [primary] = family.as_slice()
        && primary.state == KeyState::PendingReplicaDeletion
    {
        let days = primary.pending_window_days.unwrap_or(30);
        let primary = KeyRecord {
            state: KeyState::PendingDeletion,
            deletion_ms: Some(now_ms + i64::from(days) * DAY_MS),
            ..primary.clone()
        };
        writing.put_key(&primary)?;
    }
    Ok(())
}

/// Does what is due to all keys.
pub(crate) fn sweep(store: &Store, now_ms: i64) {
    let due = match store.keys_where(|record| is_due(record, now_ms)) {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(%error, "keys could not be looked through for what is due");
            return;
        }
    };
    for record in due {
        let id: KeyId = record.id();
        match settle(store, &record.region, record.uuid, now_ms) {
            Ok(()) => tracing::info!(key = %id, region = record.region, "did what was due"),
            Err(error) => {
                let reason = Refusal::from(error).reason;
                tracing::error!(key = %id, region = record.region, reason, "what was due failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::Secret;
    use crate::store::{Imported, Rotation};
    use anchorhold_kms_wire::shapes::{KeySpec, KeyUsage};
    use std::collections::BTreeMap;

    const REGION: &str = "us-east-1";

    fn record(store: &Store, change: impl FnOnce(&mut KeyRecord)) -> KeyRecord {
        let uuid = Uuid::new_v4();
        let id = store.material_id(uuid, &[1; 32]);
        let mut record = KeyRecord {
            uuid,
            region: REGION.to_owned(),
            account: "111122223333".to_owned(),
            created_ms: 0,
            description: String::new(),
            state: KeyState::Enabled,
            usage: KeyUsage::EncryptDecrypt,
            spec: KeySpec::SymmetricDefault,
            origin: Origin::AwsKms,
            multi_region: None,
            policy: "{}".to_owned(),
            tags: BTreeMap::new(),
            material: Some(id),
            materials: vec![MaterialRecord::first(id)],
            rotation: None,
            rotations_on_demand: 0,
            deletion_ms: None,
            pending_window_days: None,
            grants: 0,
            custom_key_store: None,
        };
        change(&mut record);
        let new = record.clone();
        store
            .change(move |writing| {
                writing.put_material(&new, &id, &[1; 32])?;
                Ok(writing.put_key(&new)?)
            })
            .unwrap();
        record
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(&path, &Secret::random().unwrap()).unwrap();
        (folder, store)
    }

    fn now(store: &Store, record: &KeyRecord) -> Option<KeyRecord> {
        store.key(REGION, record.uuid).unwrap()
    }

    #[test]
    fn a_key_is_destroyed_with_its_material_on_its_date_and_not_before() {
        let (_folder, store) = store();
        let key = record(&store, |key| {
            key.state = KeyState::PendingDeletion;
            key.deletion_ms = Some(1000);
        });
        let material = key.material.unwrap();
        assert!(!is_due(&key, 999) && is_due(&key, 1000));
        settle(&store, REGION, key.uuid, 999).unwrap();
        assert!(now(&store, &key).is_some());
        sweep(&store, 1000);
        assert!(now(&store, &key).is_none());
        let left = store.material_bytes(REGION, key.uuid, &material).unwrap();
        assert!(left.is_none());
        // Nothing to do any more is no error.
        settle(&store, REGION, key.uuid, 2000).unwrap();
    }

    #[test]
    fn expired_material_is_destroyed_and_the_key_waits_for_it() {
        let (_folder, store) = store();
        let key = record(&store, |key| {
            key.origin = Origin::External;
            key.materials[0].imported = Some(Imported {
                present: true,
                valid_to_ms: Some(1000),
                description: None,
            });
        });
        settle(&store, REGION, key.uuid, 999).unwrap();
        assert_eq!(now(&store, &key), Some(key.clone()));
        settle(&store, REGION, key.uuid, 1000).unwrap();
        let found = now(&store, &key).unwrap();
        assert_eq!(found.state, KeyState::PendingImport);
        assert!(!found.materials[0].is_present());
        let id = key.material.unwrap();
        let left = store.material_bytes(REGION, key.uuid, &id).unwrap();
        assert!(left.is_none());
        assert!(!is_due(&found, 2000));
    }

    #[test]
    fn a_rotation_that_was_missed_several_times_happens_once() {
        let (_folder, store) = store();
        let key = record(&store, |key| {
            key.rotation = Some(Rotation {
                period_days: 90,
                next_ms: 90 * DAY_MS,
            });
        });
        let late = 300 * DAY_MS;
        settle(&store, REGION, key.uuid, late).unwrap();
        let found = now(&store, &key).unwrap();
        assert_eq!(found.materials.len(), 2);
        assert_ne!(found.material, key.material);
        assert_eq!(found.rotation.unwrap().next_ms, 360 * DAY_MS);
        assert!(!is_due(&found, late));
        for material in &found.materials {
            let kept = store
                .material_bytes(REGION, key.uuid, &material.id)
                .unwrap();
            assert!(kept.is_some());
        }
        let disabled = record(&store, |key| {
            key.state = KeyState::Disabled;
            key.rotation = found.rotation;
        });
        assert!(!is_due(&disabled, 1000 * DAY_MS));
    }
}
