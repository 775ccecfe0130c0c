//! The requests and responses of AWS KMS's operations, as they look on the wire (AWS JSON 1.1).
//!
//! Names, optionality and JSON follow the service's public model (KMS API version 2014-11-01).
//! Constraints (lengths, patterns, value sets) are the service's to check and to report; a shape
//! only refuses what has the wrong JSON type. Unknown members are ignored, `null` is absence, and
//! a request's plaintext lives in a [`SecretBlob`], which is wiped on drop and never printed.

mod blob;
mod json;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use blob::{Blob, SecretBlob};
pub use json::{ShapeError, encode};
pub use values::{
    DataKeySpec, EncryptionAlgorithm, ExpirationModel, KeyEncryptionAlgorithm, KeyManager, KeySpec,
    KeyState, KeyUsage, MultiRegionKeyType, Origin, Timestamp,
};

/// What goes before the operation's name in `X-Amz-Target`.
pub const TARGET_PREFIX: &str = "TrentService";

/// The media type of requests and responses.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Pairs that a ciphertext is bound to: whoever decrypts must name exactly the same. Not secret;
/// it stands in audit logs.
pub type EncryptionContext = BTreeMap<String, String>;

/// One operation of the service: its request is the implementing type.
pub trait Operation: Serialize + DeserializeOwned {
    /// The name, as in `X-Amz-Target: TrentService.<NAME>`.
    const NAME: &'static str;

    /// The members which must be there, in the model's order.
    const REQUIRED: &'static [&'static str];

    /// Whether doing it twice leaves the same state as doing it once. A client repeats an
    /// operation of unknown outcome only where this is true.
    const REPEATABLE: bool;

    /// Whether the model gives it an output. Where it does not, AWS answers with an empty body.
    const HAS_OUTPUT: bool = true;

    /// What the service answers.
    type Response: Serialize + DeserializeOwned;

    /// Reads a request's body.
    ///
    /// # Errors
    /// [`ShapeError::Missing`] where a required member is absent or `null` (AWS answers
    /// `ValidationException`), [`ShapeError::Malformed`] for all else (`SerializationException`).
    /// Neither repeats a value of the body.
    fn parse(body: &[u8]) -> Result<Self, ShapeError> {
        json::decode(body, Self::REQUIRED)
    }

    /// Reads a response's body; an empty one is an object without members.
    ///
    /// # Errors
    /// [`ShapeError`], which does not repeat a value of the body.
    fn parse_response(body: &[u8]) -> Result<Self::Response, ShapeError> {
        json::decode(if body.is_empty() { b"{}" } else { body }, &[])
    }

    /// Writes a response's body, empty where the operation has no output.
    fn encode_response(response: &Self::Response) -> Zeroizing<Vec<u8>> {
        if Self::HAS_OUTPUT {
            encode(response)
        } else {
            Zeroizing::default()
        }
    }
}

macro_rules! operation {
    ($request:ident => $response:ident, $name:literal, required: [$($required:literal),*], repeatable: $repeatable:literal $(, has_output: $has_output:literal)?) => {
        impl Operation for $request {
            const NAME: &'static str = $name;
            const REQUIRED: &'static [&'static str] = &[$($required),*];
            const REPEATABLE: bool = $repeatable;
            $(const HAS_OUTPUT: bool = $has_output;)?
            type Response = $response;
        }
    };
}

/// A key and its value, attached to a key of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// 1 to 128 characters.
    pub tag_key: String,
    /// Up to 256 characters.
    pub tag_value: String,
}

/// Asks that the answer's plaintext be encrypted to the key in an attestation document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RecipientInfo {
    /// How the content key is to be wrapped. The only one there is: `RSAES_OAEP_SHA_256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_encryption_algorithm: Option<KeyEncryptionAlgorithm>,
    /// The enclave's signed document, 1 to 262,144 bytes, with its RSA public key inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_document: Option<Blob>,
}

impl RecipientInfo {
    /// The recipient whom `attestation_document` describes.
    pub fn new(attestation_document: Vec<u8>) -> Self {
        Self {
            key_encryption_algorithm: Some(KeyEncryptionAlgorithm::RsaesOaepSha256),
            attestation_document: Some(Blob(attestation_document)),
        }
    }
}

/// Makes a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateKeyRequest {
    /// The key policy, JSON; absent: the default one, which delegates to the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Free text, up to 8,192 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the key is for; absent: `ENCRYPT_DECRYPT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_usage: Option<KeyUsage>,
    /// The old name of `key_spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_master_key_spec: Option<KeySpec>,
    /// The kind of key; absent: `SYMMETRIC_DEFAULT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<KeySpec>,
    /// Where the material comes from; absent: `AWS_KMS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The custom key store that is to hold the material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// Accept a policy which would keep the caller from changing it.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub bypass_policy_lockout_safety_check: bool,
    /// Tags to attach.
    #[serde(
        default,
        deserialize_with = "json::objects",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tags: Vec<Tag>,
    /// Make a multi-Region primary key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<bool>,
    /// The key in an external key store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xks_key_id: Option<String>,
}

/// The key that was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateKeyResponse {
    /// What is known of it.
    pub key_metadata: KeyMetadata,
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
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub enabled: bool,
    /// Free text.
    #[serde(default, deserialize_with = "json::null_is_default")]
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
    pub signing_algorithms: Option<Vec<String>>,
    /// How it can agree on secrets; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_agreement_algorithms: Option<Vec<String>>,
    /// How it can encapsulate; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation_algorithms: Option<Vec<String>>,
    /// Whether it is a multi-Region key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<bool>,
    /// Its kin in other Regions; only for multi-Region keys.
    #[serde(
        default,
        deserialize_with = "json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub multi_region_configuration: Option<MultiRegionConfiguration>,
    /// The waiting time before deletion, in days; only in the state `PendingReplicaDeletion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_deletion_window_in_days: Option<i32>,
    /// How it can authenticate messages; only for keys that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_algorithms: Option<Vec<String>>,
    /// The key in an external key store.
    #[serde(
        default,
        deserialize_with = "json::optional_object",
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
        deserialize_with = "json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub primary_key: Option<MultiRegionKey>,
    /// The replicas.
    #[serde(default, deserialize_with = "json::objects")]
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

/// Asks what is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeKeyRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// Tokens of grants that may not have spread yet, at most 10.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub grant_tokens: Vec<String>,
}

/// What is known of the key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeKeyResponse {
    /// What is known of it.
    pub key_metadata: KeyMetadata,
}

operation!(DescribeKeyRequest => DescribeKeyResponse, "DescribeKey", required: ["KeyId"], repeatable: true);

/// Asks for a key's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetKeyPolicyRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// The only valid name is `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<String>,
}

/// A key's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetKeyPolicyResponse {
    /// The policy, JSON.
    pub policy: String,
    /// Its name: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<String>,
}

operation!(GetKeyPolicyRequest => GetKeyPolicyResponse, "GetKeyPolicy", required: ["KeyId"], repeatable: true);

/// Replaces a key's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PutKeyPolicyRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// The only valid name is `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<String>,
    /// The policy, JSON.
    pub policy: String,
    /// Accept a policy which would keep the caller from changing it.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub bypass_policy_lockout_safety_check: bool,
}

/// Nothing: the operation has no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PutKeyPolicyResponse {}

operation!(PutKeyPolicyRequest => PutKeyPolicyResponse, "PutKeyPolicy", required: ["KeyId", "Policy"], repeatable: true, has_output: false);

/// Gives a key another name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateAliasRequest {
    /// `alias/` and up to 250 of letters, digits, `/`, `_` and `-`.
    pub alias_name: String,
    /// Key id or key ARN.
    pub target_key_id: String,
}

/// Nothing: the operation has no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CreateAliasResponse {}

operation!(CreateAliasRequest => CreateAliasResponse, "CreateAlias", required: ["AliasName", "TargetKeyId"], repeatable: false, has_output: false);

/// Encrypts up to 4,096 bytes.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// What to encrypt.
    pub plaintext: SecretBlob,
    /// What the ciphertext is bound to.
    #[serde(
        default,
        deserialize_with = "json::unique_pairs",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub encryption_context: EncryptionContext,
    /// Tokens of grants that may not have spread yet, at most 10.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub grant_tokens: Vec<String>,
    /// Absent: `SYMMETRIC_DEFAULT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_algorithm: Option<EncryptionAlgorithm>,
    /// Only check whether it would be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// A ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptResponse {
    /// The ciphertext; it names its key inside.
    pub ciphertext_blob: Blob,
    /// The key's ARN.
    pub key_id: String,
    /// How it was encrypted.
    pub encryption_algorithm: EncryptionAlgorithm,
}

operation!(EncryptRequest => EncryptResponse, "Encrypt", required: ["KeyId", "Plaintext"], repeatable: true);

/// Decrypts a ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecryptRequest {
    /// The ciphertext; absent only in a dry run that ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext_blob: Option<Blob>,
    /// What it was bound to.
    #[serde(
        default,
        deserialize_with = "json::unique_pairs",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub encryption_context: EncryptionContext,
    /// Tokens of grants that may not have spread yet, at most 10.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub grant_tokens: Vec<String>,
    /// The key it must have been encrypted under. Optional for symmetric keys, but only with it
    /// is the caller sure of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Absent: `SYMMETRIC_DEFAULT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_algorithm: Option<EncryptionAlgorithm>,
    /// Encrypt the answer to this enclave.
    #[serde(
        default,
        deserialize_with = "json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub recipient: Option<RecipientInfo>,
    /// Only check whether it would be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// What a dry run is to leave out: `IGNORE_CIPHERTEXT`.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub dry_run_modifiers: Vec<String>,
}

/// The plaintext, open or in an envelope. A caller who sent a Recipient must take the envelope
/// only: a service that answers with the plaintext all the same has verified nothing, and has
/// shown the plaintext to whoever reads the connection.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecryptResponse {
    /// The key's ARN.
    pub key_id: String,
    /// The plaintext; absent where a Recipient was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<SecretBlob>,
    /// How it was encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_algorithm: Option<EncryptionAlgorithm>,
    /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext_for_recipient: Option<Blob>,
    /// The material that decrypted it, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
}

operation!(DecryptRequest => DecryptResponse, "Decrypt", required: [], repeatable: true);

/// Makes a data key, and encrypts it under a key of the service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// What the encrypted data key is bound to.
    #[serde(
        default,
        deserialize_with = "json::unique_pairs",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub encryption_context: EncryptionContext,
    /// Its length, 1 to 1,024 bytes. Either this or `key_spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_of_bytes: Option<i32>,
    /// Its kind. Either this or `number_of_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<DataKeySpec>,
    /// Tokens of grants that may not have spread yet, at most 10.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub grant_tokens: Vec<String>,
    /// Encrypt the answer to this enclave.
    #[serde(
        default,
        deserialize_with = "json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub recipient: Option<RecipientInfo>,
    /// Only check whether it would be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// A data key, open or in an envelope, and encrypted. What [`DecryptResponse`] says of the
/// plaintext holds here too.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyResponse {
    /// The data key, encrypted under the key.
    pub ciphertext_blob: Blob,
    /// The data key; absent where a Recipient was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<SecretBlob>,
    /// The key's ARN.
    pub key_id: String,
    /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext_for_recipient: Option<Blob>,
    /// The material that encrypted it, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
}

operation!(GenerateDataKeyRequest => GenerateDataKeyResponse, "GenerateDataKey", required: ["KeyId"], repeatable: true);

/// Makes a data key which the caller gets in encrypted form only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyWithoutPlaintextRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// What the encrypted data key is bound to.
    #[serde(
        default,
        deserialize_with = "json::unique_pairs",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub encryption_context: EncryptionContext,
    /// Its kind. Either this or `number_of_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<DataKeySpec>,
    /// Its length, 1 to 1,024 bytes. Either this or `key_spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_of_bytes: Option<i32>,
    /// Tokens of grants that may not have spread yet, at most 10.
    #[serde(
        default,
        deserialize_with = "json::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub grant_tokens: Vec<String>,
    /// Only check whether it would be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// An encrypted data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyWithoutPlaintextResponse {
    /// The data key, encrypted under the key.
    pub ciphertext_blob: Blob,
    /// The key's ARN.
    pub key_id: String,
    /// The material that encrypted it, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
}

operation!(GenerateDataKeyWithoutPlaintextRequest => GenerateDataKeyWithoutPlaintextResponse, "GenerateDataKeyWithoutPlaintext", required: ["KeyId"], repeatable: true);

/// Asks for random bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateRandomRequest {
    /// How many, 1 to 1,024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_of_bytes: Option<i32>,
    /// The custom key store that is to make them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// Encrypt the answer to this enclave.
    #[serde(
        default,
        deserialize_with = "json::optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub recipient: Option<RecipientInfo>,
}

/// Random bytes, open or in an envelope. What [`DecryptResponse`] says of the plaintext holds here
/// too.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateRandomResponse {
    /// The bytes; absent where a Recipient was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<SecretBlob>,
    /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext_for_recipient: Option<Blob>,
}

operation!(GenerateRandomRequest => GenerateRandomResponse, "GenerateRandom", required: [], repeatable: true);

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error's name, perhaps with a namespace: see [`ErrorBody::name`].
    #[serde(rename = "__type", default, deserialize_with = "json::null_is_default")]
    pub kind: String,
    /// For people. Some services write the member with a capital.
    #[serde(default, alias = "Message", deserialize_with = "json::null_is_default")]
    pub message: String,
}

impl ErrorBody {
    /// The error's name alone: `com.amazonaws.kms#NotFoundException` is `NotFoundException`.
    pub fn name(&self) -> &str {
        let name = self
            .kind
            .rsplit_once('#')
            .map_or(self.kind.as_str(), |(_, name)| name);
        name.split_once(':').map_or(name, |(name, _)| name)
    }
}

/// `Debug` that leaves the plaintext out.
macro_rules! debug_without_plaintext {
    ($name:ident { $($field:ident),* }) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}

debug_without_plaintext!(EncryptRequest {
    key_id,
    encryption_context,
    grant_tokens,
    encryption_algorithm,
    dry_run
});
debug_without_plaintext!(DecryptResponse {
    key_id,
    encryption_algorithm,
    ciphertext_for_recipient,
    key_material_id
});
debug_without_plaintext!(GenerateDataKeyResponse {
    ciphertext_blob,
    key_id,
    ciphertext_for_recipient,
    key_material_id
});
debug_without_plaintext!(GenerateRandomResponse {
    ciphertext_for_recipient
});

#[cfg(test)]
mod tests;
