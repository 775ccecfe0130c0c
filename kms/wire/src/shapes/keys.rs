//! Keys themselves: making, describing, listing, switching, deleting.

use super::{
    EncryptionAlgorithm, ExpirationModel, KeyAgreementAlgorithm, KeyManager, KeySpec, KeyState,
    KeyUsage, MacAlgorithm, MultiRegionKeyType, Origin, ResourceOwner, SigningAlgorithm, Tag,
    Timestamp,
};
use serde::{Deserialize, Serialize};

open_shape! {
    /// Makes a key.
    CreateKeyRequest {
        optional {
            /// The key policy, JSON; absent: the default one, which delegates to the account.
            policy: String,
            /// Free text, up to 8,192 characters.
            description: String,
            /// What the key is for; absent: `ENCRYPT_DECRYPT`.
            key_usage: KeyUsage,
            /// The old name of `key_spec`.
            customer_master_key_spec: KeySpec,
            /// The kind of key; absent: `SYMMETRIC_DEFAULT`.
            key_spec: KeySpec,
            /// Where the material comes from; absent: `AWS_KMS`.
            origin: Origin,
            /// The custom key store that is to hold the material.
            custom_key_store_id: String,
            /// Make a multi-Region primary key.
            multi_region: bool,
            /// The key in an external key store.
            xks_key_id: String,
            /// Accept a policy which would keep the caller from changing it.
            bypass_policy_lockout_safety_check: bool,
        }
        objects {
            /// Tags to attach.
            tags: Tag,
        }
    }
}

open_shape! {
    /// The key that was made.
    CreateKeyResponse {
        required {
            /// What is known of it.
            key_metadata: KeyMetadata,
        }
    }
}

operation!(CreateKeyRequest => CreateKeyResponse, "CreateKey", required: [], repeatable: false);

/// What is known of a key, apart from its material.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
    /// The account that owns it, twelve digits.
    #[serde(
        rename = "AWSAccountId",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub aws_account_id: Option<String>,
    /// Its identifier: a UUID, or `mrk-` and 32 hex digits.
    pub key_id: String,
    /// `arn:aws:kms:<region>:<account>:key/<key id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_date: Option<Timestamp>,
    /// Whether it can be used; true only in the state Enabled.
    #[serde(default, deserialize_with = "crate::shapes::json::null_is_default")]
    pub enabled: bool,
    /// Free text.
    #[serde(default, deserialize_with = "crate::shapes::json::null_is_default")]
    pub description: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_usage: Option<KeyUsage>,
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_state: Option<KeyState>,
    /// When its material will be deleted; only in the state `PendingDeletion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_date: Option<Timestamp>,
    /// When imported material expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<Timestamp>,
    /// Where the material comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The custom key store that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// The cluster that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_hsm_cluster_id: Option<String>,
    /// Whether imported material expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_model: Option<ExpirationModel>,
    /// Whose key it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_manager: Option<KeyManager>,
    /// The old name of `key_spec`; both are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_master_key_spec: Option<KeySpec>,
    /// The kind of key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<KeySpec>,
    /// How it can encrypt; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_algorithms: Option<Vec<EncryptionAlgorithm>>,
    /// How it can sign; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_algorithms: Option<Vec<SigningAlgorithm>>,
    /// How it can agree on secrets; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_agreement_algorithms: Option<Vec<KeyAgreementAlgorithm>>,
    /// How it can encapsulate; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation_algorithms: Option<Vec<String>>,
    /// Whether it is a multi-Region key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<bool>,
    /// Its kin in other Regions; only for multi-Region keys.
    #[serde(
        default,
        deserialize_with = "crate::shapes::json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub multi_region_configuration: Option<MultiRegionConfiguration>,
    /// The waiting time before deletion, in days; only in the state `PendingReplicaDeletion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_deletion_window_in_days: Option<i32>,
    /// How it can authenticate messages; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_algorithms: Option<Vec<MacAlgorithm>>,
    /// The key in an external key store.
    #[serde(
        default,
        deserialize_with = "crate::shapes::json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub xks_key_configuration: Option<XksKeyConfiguration>,
    /// The material in use, 64 hex digits; only for symmetric keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_key_material_id: Option<String>,
}

/// The Regions in which a multi-Region key lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MultiRegionConfiguration {
    /// Whether this is the primary key or a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region_key_type: Option<MultiRegionKeyType>,
    /// The primary key.
    #[serde(
        default,
        deserialize_with = "crate::shapes::json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub primary_key: Option<MultiRegionKey>,
    /// The replicas.
    #[serde(default, deserialize_with = "crate::shapes::json::objects")]
    pub replica_keys: Vec<MultiRegionKey>,
}

/// One of a family of multi-Region keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MultiRegionKey {
    /// Its ARN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// Its Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// A key in an external key store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct XksKeyConfiguration {
    /// What the external store calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

open_shape! {
    /// Asks what is known of a key.
    DescribeKeyRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}

open_shape! {
    /// What is known of the key.
    DescribeKeyResponse {
        required {
            /// What is known of it.
            key_metadata: KeyMetadata,
        }
    }
}

operation!(DescribeKeyRequest => DescribeKeyResponse, "DescribeKey", required: ["KeyId"], repeatable: true);

open_shape! {
    /// Asks for the keys of the caller's account and Region.
    ListKeysRequest {
        optional {
            /// The most to answer with, 1 to 1,000; absent: 100.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
        list {
            /// Whose keys; absent: those of the account itself.
            resource_owners: ResourceOwner,
        }
    }
}

open_shape! {
    /// A key in a list.
    KeyListEntry {
        optional {
            /// Its id.
            key_id: String,
            /// Its ARN.
            key_arn: String,
        }
    }
}

open_shape! {
    /// Keys, in the order of their ids.
    ListKeysResponse {
        required {
            /// The keys.
            keys: Vec<KeyListEntry>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(ListKeysRequest => ListKeysResponse, "ListKeys", required: [], repeatable: true);

open_shape! {
    /// Lets a key be used again.
    EnableKeyRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
    }
}
nothing!(EnableKeyResponse);
operation!(EnableKeyRequest => EnableKeyResponse, "EnableKey", required: ["KeyId"], repeatable: true, has_output: false);

open_shape! {
    /// Keeps a key from being used.
    DisableKeyRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
    }
}
nothing!(DisableKeyResponse);
operation!(DisableKeyRequest => DisableKeyResponse, "DisableKey", required: ["KeyId"], repeatable: true, has_output: false);

open_shape! {
    /// Has a key deleted after a time of waiting.
    ScheduleKeyDeletionRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// 7 to 30; absent: 30.
            pending_window_in_days: i32,
        }
    }
}

open_shape! {
    /// When it will be.
    ScheduleKeyDeletionResponse {
        required {
            /// The key's ARN.
            key_id: String,
        }
        optional {
            /// Absent for a primary key that still has replicas.
            deletion_date: Timestamp,
            /// The key's state now.
            key_state: KeyState,
            /// The time of waiting.
            pending_window_in_days: i32,
        }
    }
}

operation!(ScheduleKeyDeletionRequest => ScheduleKeyDeletionResponse, "ScheduleKeyDeletion", required: ["KeyId"], repeatable: false);

open_shape! {
    /// Keeps a key that was to be deleted; it is disabled afterwards.
    CancelKeyDeletionRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
    }
}

open_shape! {
    /// The key that is kept.
    CancelKeyDeletionResponse {
        required {
            /// Its ARN.
            key_id: String,
        }
    }
}

operation!(CancelKeyDeletionRequest => CancelKeyDeletionResponse, "CancelKeyDeletion", required: ["KeyId"], repeatable: false);

open_shape! {
    /// Describes a key anew.
    UpdateKeyDescriptionRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// Free text, up to 8,192 characters.
            description: String,
        }
    }
}
nothing!(UpdateKeyDescriptionResponse);
operation!(UpdateKeyDescriptionRequest => UpdateKeyDescriptionResponse, "UpdateKeyDescription", required: ["KeyId", "Description"], repeatable: true, has_output: false);
