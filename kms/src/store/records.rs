//! What the store keeps, and how it is guarded: each record is JSON behind a MAC that covers its
//! name too, so that none can stand in another's place.

use super::{Keys, StoreError};
use crate::ciphertext::MaterialId;
use crate::key_name::{KeyId, key_arn};
use anchorhold_kms_wire::shapes::{
    ConnectionErrorCode, GrantOperation, KeySpec, KeyState, KeyUsage, Origin, RotationType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// The part that a multi-Region key plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    Primary,
    Replica,
}

/// What is kept of a key beside its material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) uuid: Uuid,
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) created_ms: i64,
    pub(crate) description: String,
    pub(crate) state: KeyState,
    pub(crate) usage: KeyUsage,
    pub(crate) spec: KeySpec,
    pub(crate) origin: Origin,
    pub(crate) multi_region: Option<Part>,
    /// The key policy, as it was given.
    pub(crate) policy: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// The material that encrypts; `None` before the first import.
    pub(crate) material: Option<MaterialId>,
    /// All materials that the key has had, in the order in which they came.
    pub(crate) materials: Vec<MaterialRecord>,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) rotations_on_demand: u32,
    /// In the state `PendingDeletion`: when.
    pub(crate) deletion_ms: Option<i64>,
    /// While deletion is pending.
    pub(crate) pending_window_days: Option<i32>,
    /// How many there are, so that requests need not look for none.
    pub(crate) grants: u32,
    /// The custom key store that holds the material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) custom_key_store: Option<String>,
}

/// One generation of a key's material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaterialRecord {
    pub(crate) id: MaterialId,
    /// When and how it came into use by a rotation; the first did not.
    pub(crate) rotated: Option<(i64, RotationType)>,
    /// Imported for a rotation that has not happened yet.
    pub(crate) awaits_rotation: bool,
    /// For material that was imported.
    pub(crate) imported: Option<Imported>,
}

/// What is known of imported material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Imported {
    /// Whether it is here, or was deleted or has expired.
    pub(crate) present: bool,
    pub(crate) valid_to_ms: Option<i64>,
    pub(crate) description: Option<String>,
}

/// Automatic rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    pub(crate) period_days: i32,
    pub(crate) next_ms: i64,
}

/// Another name of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AliasRecord {
    pub(crate) key: Uuid,
    pub(crate) multi_region: bool,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
}

/// A permission for one principal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRecord {
    /// 64 hex digits.
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) created_ms: i64,
    /// The text of the principal's ARN.
    pub(crate) grantee: String,
    pub(crate) retiring: Option<String>,
    pub(crate) issuing_account: String,
    pub(crate) operations: Vec<GrantOperation>,
    pub(crate) context_equals: BTreeMap<String, String>,
    pub(crate) context_subset: BTreeMap<String, String>,
}

/// A custom key store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyStoreRecord {
    /// `cks-` and 17 hex digits.
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) name: String,
    /// The configuration's name for the token.
    pub(crate) cluster: String,
    /// PEM, as it was given.
    pub(crate) trust_anchor: String,
    /// Sealed.
    #[serde(with = "hex::serde")]
    pub(crate) password: Vec<u8>,
    pub(crate) created_ms: i64,
    /// Whether it is to be connected.
    pub(crate) connected: bool,
    /// Why it could not be connected; then it is not tried again before somebody has looked.
    pub(crate) failure: Option<ConnectionErrorCode>,
    /// Material of keys that are gone, which may still be in the token.
    pub(crate) leftovers: Vec<MaterialId>,
}

impl KeyRecord {
    pub(crate) fn id(&self) -> KeyId {
        KeyId {
            uuid: self.uuid,
            multi_region: self.multi_region.is_some(),
        }
    }

    pub(crate) fn arn(&self) -> String {
        key_arn(&self.region, &self.account, self.id())
    }

    pub(crate) fn material_record(&self, id: &MaterialId) -> Option<&MaterialRecord> {
        self.materials.iter().find(|m| m.id == *id)
    }

    pub(crate) fn material_record_mut(&mut self, id: &MaterialId) -> Option<&mut MaterialRecord> {
        self.materials.iter_mut().find(|m| m.id == *id)
    }
}

impl MaterialRecord {
    /// Material that the service has made, or of which nothing else is known yet.
    pub(crate) fn first(id: MaterialId) -> Self {
        Self {
            id,
            rotated: None,
            awaits_rotation: false,
            imported: None,
        }
    }

    /// Whether it can be used.
    pub(crate) fn is_present(&self) -> bool {
        self.imported.as_ref().is_none_or(|i| i.present)
    }
}

/// The kinds of records, for their MACs.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Key,
    Alias,
    Grant,
    KeyStore,
}

fn mac(keys: &Keys, kind: Kind, name: &str, json: &[u8]) -> [u8; 32] {
    let kind: &[u8] = match kind {
        Kind::Key => b"key",
        Kind::Alias => b"alias",
        Kind::Grant => b"grant",
        Kind::KeyStore => b"key store",
    };
    keys.records.mac(&[kind, name.as_bytes(), json])
}

pub(super) fn write<T: Serialize>(keys: &Keys, kind: Kind, name: &str, record: &T) -> Vec<u8> {
    let json = serde_json::to_vec(record).expect("a record is strings and numbers");
    let mut value = mac(keys, kind, name, &json).to_vec();
    value.extend_from_slice(&json);
    value
}

pub(super) fn read<T: DeserializeOwned>(
    keys: &Keys,
    kind: Kind,
    name: &str,
    value: &[u8],
) -> Result<T, StoreError> {
    let damaged = || StoreError::Damaged(name.to_owned());
    let (found, json) = value.split_at_checked(32).ok_or_else(damaged)?;
    if !bool::from(found.ct_eq(&mac(keys, kind, name, json))) {
        return Err(damaged());
    }
    serde_json::from_slice(json).map_err(|_| damaged())
}
