//! Requests, from bytes to shapes: AWS JSON 1.1.
//!
//! Stricter than AWS in two ways, since a member that is passed over might be the one that
//! protects something: no object may name a member twice, and a member that the operation
//! does not have is refused rather than ignored. `null` is absence, as at AWS.

use crate::json::{self, Member};
use crate::operations::{Answer, Call};
use crate::refusal::Refusal;
use anchorhold_kms_wire::shapes;
use anchorhold_kms_wire::shapes::{
    EncryptionContext, Name, Operation, RecipientInfo, ShapeError, TARGET_PREFIX, Tag,
};
use serde::de::{self, Deserializer, Visitor};
use serde_json::{Map, Value, json};
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// The table of all operations: a name, and the shape that it has on the wire.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $shape:ident,)+) => {
        /// A request of an operation that this service has. Nothing in it is checked but its
        /// shape.
        #[derive(Debug)]
        pub enum Request {
            $($(#[$doc])* $name(Box<shapes::$shape>),)+
        }

        impl Request {
            /// The operations that there are.
            pub const NAMES: &'static [&'static str] = &[$(shapes::$shape::NAME),+];

            /// Reads a request. `target` is the value of `X-Amz-Target`.
            ///
            /// # Errors
            /// [`RequestError`].
            pub fn parse(target: &str, body: &[u8]) -> Result<Self, RequestError> {
                match operation_name(target).ok_or(RequestError::Target)? {
                    $(<shapes::$shape as Operation>::NAME => {
                        read(body).map(|request| Self::$name(Box::new(request)))
                    })+
                    other => Err(RequestError::Operation(other.to_owned())),
                }
            }

            /// What the audit log shows of the request: everything but plaintext, ciphertext and
            /// the attestation document itself. CloudTrail's names.
            pub(crate) fn audited(&self) -> Value {
                let mut shown = Shown(Map::new());
                match self {
                    $(Self::$name(request) => request.show(&mut shown),)+
                }
                Value::Object(shown.0)
            }

            /// See [`Answer::is_slow`].
            pub(crate) fn is_slow(&self) -> bool {
                match self {
                    $(Self::$name(request) => request.is_slow(),)+
                }
            }

            /// Does what is asked, and encodes the response.
            pub(crate) fn answer(
                &self,
                call: &mut Call<'_>,
            ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
                match self {
                    $(Self::$name(request) => request
                        .answer(call)
                        .map(|response| shapes::$shape::encode_response(&response)),)+
                }
            }
        }
    };
}

operations! {
    /// Keeps a key that was to be deleted.
    CancelKeyDeletion: CancelKeyDeletionRequest,
    /// Connects a key store to its token.
    ConnectCustomKeyStore: ConnectCustomKeyStoreRequest,
    /// Names a key.
    CreateAlias: CreateAliasRequest,
    /// Makes a key store of a token.
    CreateCustomKeyStore: CreateCustomKeyStoreRequest,
    /// Gives one principal a permission.
    CreateGrant: CreateGrantRequest,
    /// Makes a key.
    CreateKey: CreateKeyRequest,
    /// Decrypts.
    Decrypt: DecryptRequest,
    /// Takes a name away.
    DeleteAlias: DeleteAliasRequest,
    /// Removes a key store without keys.
    DeleteCustomKeyStore: DeleteCustomKeyStoreRequest,
    /// Takes imported material away.
    DeleteImportedKeyMaterial: DeleteImportedKeyMaterialRequest,
    /// Agrees on a secret.
    DeriveSharedSecret: DeriveSharedSecretRequest,
    /// What is known of key stores.
    DescribeCustomKeyStores: DescribeCustomKeyStoresRequest,
    /// What is known of a key.
    DescribeKey: DescribeKeyRequest,
    /// Keeps a key from being used.
    DisableKey: DisableKeyRequest,
    /// Ends automatic rotation.
    DisableKeyRotation: DisableKeyRotationRequest,
    /// Disconnects a key store from its token.
    DisconnectCustomKeyStore: DisconnectCustomKeyStoreRequest,
    /// Lets a key be used again.
    EnableKey: EnableKeyRequest,
    /// Begins automatic rotation.
    EnableKeyRotation: EnableKeyRotationRequest,
    /// Encrypts a little data.
    Encrypt: EncryptRequest,
    /// Makes a data key.
    GenerateDataKey: GenerateDataKeyRequest,
    /// Makes a pair of keys.
    GenerateDataKeyPair: GenerateDataKeyPairRequest,
    /// Makes a pair of keys and shows only the private one's ciphertext.
    GenerateDataKeyPairWithoutPlaintext: GenerateDataKeyPairWithoutPlaintextRequest,
    /// Makes a data key and shows only its ciphertext.
    GenerateDataKeyWithoutPlaintext: GenerateDataKeyWithoutPlaintextRequest,
    /// Authenticates a message.
    GenerateMac: GenerateMacRequest,
    /// Makes random bytes.
    GenerateRandom: GenerateRandomRequest,
    /// A key's policy.
    GetKeyPolicy: GetKeyPolicyRequest,
    /// How a key is rotated.
    GetKeyRotationStatus: GetKeyRotationStatusRequest,
    /// A public key for material to be imported.
    GetParametersForImport: GetParametersForImportRequest,
    /// The public half of a pair.
    GetPublicKey: GetPublicKeyRequest,
    /// Brings material.
    ImportKeyMaterial: ImportKeyMaterialRequest,
    /// Names of keys.
    ListAliases: ListAliasesRequest,
    /// A key's permissions for single principals.
    ListGrants: ListGrantsRequest,
    /// Names of a key's policies.
    ListKeyPolicies: ListKeyPoliciesRequest,
    /// A key's materials.
    ListKeyRotations: ListKeyRotationsRequest,
    /// Keys.
    ListKeys: ListKeysRequest,
    /// A key's tags.
    ListResourceTags: ListResourceTagsRequest,
    /// Grants that a principal may retire.
    ListRetirableGrants: ListRetirableGrantsRequest,
    /// Replaces a key's policy.
    PutKeyPolicy: PutKeyPolicyRequest,
    /// Decrypts and encrypts under another key.
    ReEncrypt: ReEncryptRequest,
    /// Makes a key's replica in another Region.
    ReplicateKey: ReplicateKeyRequest,
    /// Ends a grant, by those whom it concerns.
    RetireGrant: RetireGrantRequest,
    /// Ends a grant, by those who run the key.
    RevokeGrant: RevokeGrantRequest,
    /// Rotates a key's material now.
    RotateKeyOnDemand: RotateKeyOnDemandRequest,
    /// Has a key deleted.
    ScheduleKeyDeletion: ScheduleKeyDeletionRequest,
    /// Signs.
    Sign: SignRequest,
    /// Attaches tags.
    TagResource: TagResourceRequest,
    /// Removes tags.
    UntagResource: UntagResourceRequest,
    /// Makes an alias name another key.
    UpdateAlias: UpdateAliasRequest,
    /// Gives a key store another name, password or token.
    UpdateCustomKeyStore: UpdateCustomKeyStoreRequest,
    /// Describes a key anew.
    UpdateKeyDescription: UpdateKeyDescriptionRequest,
    /// Makes a replica the primary key.
    UpdatePrimaryRegion: UpdatePrimaryRegionRequest,
    /// Checks a signature.
    Verify: VerifyRequest,
    /// Checks a code.
    VerifyMac: VerifyMacRequest,
}

/// Why bytes are no request. No text repeats a value of the body.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The target does not name an operation of AWS KMS at all.
    #[error("the X-Amz-Target header must be {TARGET_PREFIX}. and an operation's name")]
    Target,
    /// An operation that this service does not have.
    #[error("{0} is not supported by this service")]
    Operation(String),
    /// Not JSON, or not of the operation's shape.
    #[error("{0}")]
    Malformed(String),
    /// A member that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member that the operation does not have.
    #[error("{operation} has no member {member:?} in this service")]
    Member {
        /// The operation.
        operation: &'static str,
        /// The member, its first 64 characters.
        member: String,
    },
}

/// The operation that a target names: `TrentService.Decrypt`. `None` unless it is a plain name.
pub(crate) fn operation_name(target: &str) -> Option<&str> {
    let name = target.strip_prefix(TARGET_PREFIX)?.strip_prefix('.')?;
    let plain =
        !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some(name)
}

/// Whether an operation only looks, and changes nothing that is kept.
pub(crate) fn is_read_only(operation: &str) -> bool {
    const CHANGES: [&str; 18] = [
        "Cancel",
        "Create",
        "Delete",
        "Disable",
        "Enable",
        "Import",
        "Put",
        "Replicate",
        "Retire",
        "Revoke",
        "Rotate",
        "Schedule",
        "Tag",
        "Untag",
        "Update",
        "Connect",
        "Disconnect",
        "Set",
    ];
    !CHANGES.iter().any(|prefix| operation.starts_with(prefix))
}

fn read<O: Operation>(body: &[u8]) -> Result<O, RequestError> {
    let body = if body.is_empty() { b"{}" } else { body };
    let members = json::members(body).map_err(|error| {
        // serde's text quotes a value where a type is wrong; here only syntax and names can be.
        let what = if error.is_data() && !error.to_string().contains("named twice") {
            "the body must be a JSON object".to_owned()
        } else {
            error.to_string()
        };
        RequestError::Malformed(what)
    })?;
    let known = member_names::<O>();
    let stranger = members
        .iter()
        .find(|(name, member)| **member == Member::Present && !known.contains(&name.as_str()));
    if let Some((name, _)) = stranger {
        return Err(RequestError::Member {
            operation: O::NAME,
            member: name.chars().take(64).collect(),
        });
    }
    O::parse(body).map_err(|error| match error {
        ShapeError::Missing { member } => RequestError::Missing(member),
        ShapeError::Malformed { reason } => RequestError::Malformed(reason),
    })
}

/// The names of a shape's members: what it asks a reader for.
fn member_names<O: Operation>() -> &'static [&'static str] {
    match O::deserialize(Asked) {
        Err(Names(names)) => names,
        // It asked for nothing.
        Ok(_) => &[],
    }
}

/// A reader that has nothing to give, and notes what it is asked for.
struct Asked;

#[derive(Debug)]
struct Names(&'static [&'static str]);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only names were asked for")
    }
}

impl std::error::Error for Names {}

impl de::Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Names;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What the audit log shows of a request.
pub(crate) struct Shown(Map<String, Value>);

impl Shown {
    pub(crate) fn set(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
    }

    /// Texts are bounded, as they come from the caller: no valid one is longer.
    pub(crate) fn text(&mut self, name: &str, value: Option<&str>) {
        const LONGEST: usize = 32 << 10;
        self.set(name, value.map(|text| bounded(text, LONGEST)));
    }

    /// A name of a closed set, or what stands in its place.
    pub(crate) fn name(&mut self, name: &str, value: Option<&impl Name>) {
        self.set(name, value.map(|value| bounded(value.as_str(), 128)));
    }

    pub(crate) fn names(&mut self, name: &str, values: &[impl Name]) {
        let values = values.iter().take(64).map(|v| bounded(v.as_str(), 128));
        self.set(name, Some(values.collect::<Vec<_>>()));
    }

    pub(crate) fn list(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            let values = values.iter().take(64).map(|v| bounded(v, 256));
            self.set(name, Some(values.collect::<Vec<_>>()));
        }
    }

    pub(crate) fn tags(&mut self, name: &str, tags: &[Tag]) {
        if tags.is_empty() {
            return;
        }
        let tags = tags.iter().take(64).map(|tag| {
            json!({
                "tagKey": bounded(&tag.tag_key, 128),
                "tagValue": bounded(&tag.tag_value, 256),
            })
        });
        self.set(name, Some(tags.collect::<Vec<_>>()));
    }

    pub(crate) fn context(&mut self, name: &str, context: &EncryptionContext) {
        if context.is_empty() {
            return;
        }
        let shown = if context_length(context) > MAX_CONTEXT_LENGTH {
            json!("too long to be shown")
        } else {
            json!(context)
        };
        self.set(name, Some(shown));
    }

    pub(crate) fn recipient(&mut self, recipient: Option<&RecipientInfo>) {
        let Some(recipient) = recipient else { return };
        let algorithm = recipient
            .key_encryption_algorithm
            .as_ref()
            .map(|a| bounded(a.as_str(), 64));
        let length = recipient.attestation_document.as_ref().map(|d| d.0.len());
        self.set(
            "recipient",
            Some(json!({
                "keyEncryptionAlgorithm": algorithm,
                "attestationDocumentBytes": length,
            })),
        );
    }
}

fn bounded(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// All keys and values of an encryption context together: AWS's limit, in characters.
pub(crate) const MAX_CONTEXT_LENGTH: usize = 8192;

pub(crate) fn context_length(context: &EncryptionContext) -> usize {
    context
        .iter()
        .map(|(key, value)| key.chars().count() + value.chars().count())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(operation: &str, body: &str) -> RequestError {
        Request::parse(&format!("TrentService.{operation}"), body.as_bytes()).unwrap_err()
    }

    #[test]
    fn operations_that_are_not_there_are_named() {
        assert_eq!(
            refused("Encapsulate", "{}"),
            RequestError::Operation("Encapsulate".to_owned())
        );
        for target in [
            "Decrypt",
            "TrentService.",
            "TrentService.De crypt",
            "Other.Decrypt",
        ] {
            assert_eq!(
                Request::parse(target, b"{}").unwrap_err(),
                RequestError::Target,
                "{target}"
            );
        }
    }

    #[test]
    fn a_member_that_is_unknown_or_comes_twice_is_refused() {
        assert!(matches!(
            refused("Decrypt", r#"{"CiphertextBlob":"AA==","Recipent":{}}"#),
            RequestError::Member { member, .. } if member == "Recipent"
        ));
        for body in [
            r#"{"CiphertextBlob":"AA==","Recipient":{},"Recipient":null}"#,
            r#"{"CiphertextBlob":"AA==","EncryptionContext":{"a":"1","a":"2"}}"#,
            r#"{"CiphertextBlob":"AA==","Recipient":{"AttestationDocument":"AA==","AttestationDocument":"AA=="}}"#,
            r#"{"CiphertextBlob":"!"}"#,
            r#"["AA=="]"#,
            "{",
        ] {
            assert!(
                matches!(refused("Decrypt", body), RequestError::Malformed(_)),
                "{body}"
            );
        }
    }

    #[test]
    fn every_operation_knows_its_own_members() {
        assert_eq!(
            member_names::<shapes::CreateAliasRequest>(),
            ["AliasName", "TargetKeyId"]
        );
        for name in Request::NAMES {
            let stranger = refused(name, r#"{"Stranger":1}"#);
            assert!(
                matches!(&stranger, RequestError::Member { member, .. } if member == "Stranger"),
                "{name}: {stranger}"
            );
        }
    }

    #[test]
    fn required_members_are_named() {
        assert_eq!(
            refused("Encrypt", r#"{"KeyId":"x","Plaintext":null}"#),
            RequestError::Missing("Plaintext")
        );
    }

    #[test]
    fn neither_errors_nor_the_audited_form_repeat_a_plaintext() {
        let request = Request::parse(
            "TrentService.Encrypt",
            br#"{"KeyId":"alias/a","Plaintext":"c2VjcmV0","EncryptionContext":{"a":"b"}}"#,
        )
        .unwrap();
        assert_eq!(
            request.audited(),
            json!({"keyId":"alias/a","encryptionContext":{"a":"b"},"encryptionAlgorithm":"SYMMETRIC_DEFAULT"})
        );
        for body in [
            r#"{"KeyId":"x","Plaintext":"c2VjcmV0c2VjcmV0!"}"#,
            r#"{"KeyId":"x","Plaintext":{"c2VjcmV0":1}}"#,
            r#""c2VjcmV0""#,
            r#"{"KeyId":["c2VjcmV0"],"Plaintext":"c2VjcmV0"}"#,
        ] {
            let text = refused("Encrypt", body).to_string();
            assert!(!text.contains("c2Vj"), "{text}");
        }
    }
}
