//! Requests, from bytes to shapes: AWS JSON 1.1.
//!
//! Stricter than AWS in two ways, since a member that is passed over might be the one that
//! protects something: no object may name a member twice, and a member that the operation
//! does not have is refused rather than ignored. `null` is absence, as at AWS.

use crate::json::{self, Member};
use anchorhold_kms_wire::shapes::{
    CreateAliasRequest, CreateKeyRequest, DecryptRequest, DescribeKeyRequest, EncryptRequest,
    EncryptionContext, GenerateDataKeyRequest, GenerateDataKeyWithoutPlaintextRequest,
    GenerateRandomRequest, GetKeyPolicyRequest, Operation, PutKeyPolicyRequest, RecipientInfo,
    ShapeError, TARGET_PREFIX,
};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// A request of an operation that this service has. Nothing in it is checked but its shape.
#[derive(Debug)]
pub enum Request {
    /// Makes a key.
    CreateKey(Box<CreateKeyRequest>),
    /// What is known of a key.
    DescribeKey(DescribeKeyRequest),
    /// A key's policy.
    GetKeyPolicy(GetKeyPolicyRequest),
    /// Replaces a key's policy.
    PutKeyPolicy(PutKeyPolicyRequest),
    /// Names a key.
    CreateAlias(CreateAliasRequest),
    /// Encrypts a little data.
    Encrypt(EncryptRequest),
    /// Decrypts.
    Decrypt(DecryptRequest),
    /// Makes a data key.
    GenerateDataKey(GenerateDataKeyRequest),
    /// Makes a data key and shows only its ciphertext.
    GenerateDataKeyWithoutPlaintext(GenerateDataKeyWithoutPlaintextRequest),
    /// Makes random bytes.
    GenerateRandom(GenerateRandomRequest),
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

impl Request {
    /// Reads a request. `target` is the value of `X-Amz-Target`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(target: &str, body: &[u8]) -> Result<Self, RequestError> {
        match operation_name(target).ok_or(RequestError::Target)? {
            "CreateKey" => read(body, CREATE_KEY).map(|r| Self::CreateKey(Box::new(r))),
            "DescribeKey" => read(body, &["KeyId", "GrantTokens"]).map(Self::DescribeKey),
            "GetKeyPolicy" => read(body, &["KeyId", "PolicyName"]).map(Self::GetKeyPolicy),
            "PutKeyPolicy" => read(body, PUT_KEY_POLICY).map(Self::PutKeyPolicy),
            "CreateAlias" => read(body, &["AliasName", "TargetKeyId"]).map(Self::CreateAlias),
            "Encrypt" => read(body, ENCRYPT).map(Self::Encrypt),
            "Decrypt" => read(body, DECRYPT).map(Self::Decrypt),
            "GenerateDataKey" => read(body, GENERATE_DATA_KEY).map(Self::GenerateDataKey),
            "GenerateDataKeyWithoutPlaintext" => {
                read(body, GENERATE_WITHOUT_PLAINTEXT).map(Self::GenerateDataKeyWithoutPlaintext)
            }
            "GenerateRandom" => read(body, GENERATE_RANDOM).map(Self::GenerateRandom),
            other => Err(RequestError::Operation(other.to_owned())),
        }
    }

    /// What the audit log shows of the request: everything but plaintext, ciphertext and the
    /// attestation document itself. CloudTrail's names.
    pub(crate) fn audited(&self) -> Value {
        let mut shown = Shown(Map::new());
        match self {
            Self::CreateKey(r) => {
                shown.text("policy", r.policy.as_deref());
                shown.text("description", r.description.as_deref());
                shown.text("keyUsage", r.key_usage.as_ref().map(|v| v.as_str()));
                shown.text(
                    "customerMasterKeySpec",
                    r.customer_master_key_spec.as_ref().map(|v| v.as_str()),
                );
                shown.text("keySpec", r.key_spec.as_ref().map(|v| v.as_str()));
                shown.text("origin", r.origin.as_ref().map(|v| v.as_str()));
                shown.set("multiRegion", r.multi_region);
                shown.set(
                    "bypassPolicyLockoutSafetyCheck",
                    Some(r.bypass_policy_lockout_safety_check),
                );
            }
            Self::DescribeKey(r) => shown.text("keyId", Some(&r.key_id)),
            Self::GetKeyPolicy(r) => {
                shown.text("keyId", Some(&r.key_id));
                shown.text("policyName", r.policy_name.as_deref());
            }
            Self::PutKeyPolicy(r) => {
                shown.text("keyId", Some(&r.key_id));
                shown.text("policyName", r.policy_name.as_deref());
                shown.text("policy", Some(&r.policy));
                shown.set(
                    "bypassPolicyLockoutSafetyCheck",
                    Some(r.bypass_policy_lockout_safety_check),
                );
            }
            Self::CreateAlias(r) => {
                shown.text("aliasName", Some(&r.alias_name));
                shown.text("targetKeyId", Some(&r.target_key_id));
            }
            Self::Encrypt(r) => {
                shown.text("keyId", Some(&r.key_id));
                shown.context(&r.encryption_context);
                shown.text(
                    "encryptionAlgorithm",
                    Some(
                        r.encryption_algorithm
                            .as_ref()
                            .map_or(SYMMETRIC, |v| v.as_str()),
                    ),
                );
                shown.set("dryRun", r.dry_run);
            }
            Self::Decrypt(r) => {
                shown.text("keyId", r.key_id.as_deref());
                shown.context(&r.encryption_context);
                shown.text(
                    "encryptionAlgorithm",
                    Some(
                        r.encryption_algorithm
                            .as_ref()
                            .map_or(SYMMETRIC, |v| v.as_str()),
                    ),
                );
                shown.set("dryRun", r.dry_run);
                shown.recipient(r.recipient.as_ref());
            }
            Self::GenerateDataKey(r) => {
                shown.text("keyId", Some(&r.key_id));
                shown.context(&r.encryption_context);
                shown.text("keySpec", r.key_spec.as_ref().map(|v| v.as_str()));
                shown.set("numberOfBytes", r.number_of_bytes);
                shown.set("dryRun", r.dry_run);
                shown.recipient(r.recipient.as_ref());
            }
            Self::GenerateDataKeyWithoutPlaintext(r) => {
                shown.text("keyId", Some(&r.key_id));
                shown.context(&r.encryption_context);
                shown.text("keySpec", r.key_spec.as_ref().map(|v| v.as_str()));
                shown.set("numberOfBytes", r.number_of_bytes);
                shown.set("dryRun", r.dry_run);
            }
            Self::GenerateRandom(r) => {
                shown.set("numberOfBytes", r.number_of_bytes);
                shown.recipient(r.recipient.as_ref());
            }
        }
        Value::Object(shown.0)
    }

    /// Whether answering takes long enough to be kept off the threads that serve connections:
    /// whatever waits for the disk or checks an attestation document.
    pub(crate) fn is_slow(&self) -> bool {
        match self {
            Self::CreateKey(_) | Self::PutKeyPolicy(_) | Self::CreateAlias(_) => true,
            Self::Decrypt(r) => r.recipient.is_some(),
            Self::GenerateDataKey(r) => r.recipient.is_some(),
            Self::GenerateRandom(r) => r.recipient.is_some(),
            Self::DescribeKey(_)
            | Self::GetKeyPolicy(_)
            | Self::Encrypt(_)
            | Self::GenerateDataKeyWithoutPlaintext(_) => false,
        }
    }
}

/// The operation that a target names: `TrentService.Decrypt`. `None` unless it is a plain name.
pub(crate) fn operation_name(target: &str) -> Option<&str> {
    let name = target.strip_prefix(TARGET_PREFIX)?.strip_prefix('.')?;
    let plain =
        !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some(name)
}

const SYMMETRIC: &str = "SYMMETRIC_DEFAULT";

const CREATE_KEY: &[&str] = &[
    "Policy",
    "Description",
    "KeyUsage",
    "CustomerMasterKeySpec",
    "KeySpec",
    "Origin",
    "CustomKeyStoreId",
    "BypassPolicyLockoutSafetyCheck",
    "Tags",
    "MultiRegion",
    "XksKeyId",
];
const PUT_KEY_POLICY: &[&str] = &[
    "KeyId",
    "PolicyName",
    "Policy",
    "BypassPolicyLockoutSafetyCheck",
];
const ENCRYPT: &[&str] = &[
    "KeyId",
    "Plaintext",
    "EncryptionContext",
    "GrantTokens",
    "EncryptionAlgorithm",
    "DryRun",
];
const DECRYPT: &[&str] = &[
    "CiphertextBlob",
    "EncryptionContext",
    "GrantTokens",
    "KeyId",
    "EncryptionAlgorithm",
    "Recipient",
    "DryRun",
    "DryRunModifiers",
];
const GENERATE_DATA_KEY: &[&str] = &[
    "KeyId",
    "EncryptionContext",
    "NumberOfBytes",
    "KeySpec",
    "GrantTokens",
    "Recipient",
    "DryRun",
];
const GENERATE_WITHOUT_PLAINTEXT: &[&str] = &[
    "KeyId",
    "EncryptionContext",
    "KeySpec",
    "NumberOfBytes",
    "GrantTokens",
    "DryRun",
];
const GENERATE_RANDOM: &[&str] = &["NumberOfBytes", "CustomKeyStoreId", "Recipient"];

fn read<O: Operation>(body: &[u8], known: &[&str]) -> Result<O, RequestError> {
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

struct Shown(Map<String, Value>);

impl Shown {
    fn set(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
    }

    /// Texts are bounded, as they come from the caller: no valid one is longer.
    fn text(&mut self, name: &str, value: Option<&str>) {
        const LONGEST: usize = 32 << 10;
        let shown = value.map(|text| match text.char_indices().nth(LONGEST) {
            None => text.to_owned(),
            Some((at, _)) => format!("{}…", &text[..at]),
        });
        self.set(name, shown);
    }

    fn context(&mut self, context: &EncryptionContext) {
        if context.is_empty() {
            return;
        }
        let shown = if context_length(context) > MAX_CONTEXT_LENGTH {
            json!("too long to be shown")
        } else {
            json!(context)
        };
        self.set("encryptionContext", Some(shown));
    }

    fn recipient(&mut self, recipient: Option<&RecipientInfo>) {
        let Some(recipient) = recipient else { return };
        let algorithm = recipient
            .key_encryption_algorithm
            .as_ref()
            .map(|a| a.as_str().chars().take(64).collect::<String>());
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
            refused("ReplicateKey", "{}"),
            RequestError::Operation("ReplicateKey".to_owned())
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
