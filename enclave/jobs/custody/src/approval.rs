//! Owners' approvals: a JWS in its compact form (RFC 7515), by `EdDSA` or `ES256` (RFC 8037, RFC 7518), whose payload says
//! exactly one request. Any JOSE library makes one.
//!
//! An approval is good for one key, one input, one purpose, until one moment, once, and in one life of the job: it names the
//! nonce that the job has drawn at its start (`boot`). Nothing of an approval may be believed before its signature was
//! verified with a key of the manifest's, by that key's own algorithm and no other.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::pkcs8::DecodePublicKey as _;
use p256::ecdsa::signature::Verifier as _;
use serde::{Deserialize, Serialize};

/// What the header calls an approval, so that no signature for another purpose is one.
pub const TYPE: &str = "custody-approval+jws";
/// Bytes of the longest approval.
pub const MAX_APPROVAL_BYTES: usize = 4096;

/// What an approval says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The life of the job that it is for, hex.
    pub boot: String,
    /// The key's name.
    pub key: String,
    /// SHA-256 of the key's SubjectPublicKeyInfo, hex.
    pub key_sha256: String,
    /// `message` or `digest`: what the input is.
    pub form: Form,
    /// SHA-256 of the input as it is sent, hex.
    pub input_sha256: String,
    /// What it is for.
    pub purpose: String,
    /// Seconds since 1970; from then on it is worth nothing.
    pub expires: u64,
    /// What tells this request from another with the same input.
    pub nonce: String,
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A message, which is looked into.
    Message,
    /// A digest, of which nobody sees what it is of.
    Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// An owner's public key.
#[derive(Debug, Clone)]
pub enum OwnerKey {
    /// `EdDSA`.
    Ed25519(ed25519_dalek::VerifyingKey),
    /// `ES256`.
    P256(p256::ecdsa::VerifyingKey),
}

/// It is no public key of an owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no Ed25519 or P-256 public key: `openssl pkey -in KEY -pubout -outform DER | base64 -w0` prints one"
)]
pub struct NotAPublicKey;

impl OwnerKey {
    /// From a SubjectPublicKeyInfo in base64.
    ///
    /// # Errors
    /// [`NotAPublicKey`].
    pub fn parse(text: &str) -> Result<OwnerKey, NotAPublicKey> {
        let der = STANDARD.decode(text).map_err(|_| NotAPublicKey)?;
        if let Ok(key) = ed25519_dalek::VerifyingKey::from_public_key_der(&der) {
            // One of small order vouches for whatever there is.
            return if key.is_weak() {
                Err(NotAPublicKey)
            } else {
                Ok(OwnerKey::Ed25519(key))
            };
        }
        p256::ecdsa::VerifyingKey::from_public_key_der(&der)
            .map(OwnerKey::P256)
            .map_err(|_| NotAPublicKey)
    }

    fn algorithm(&self) -> &'static str {
        match self {
            OwnerKey::Ed25519(_) => "EdDSA",
            OwnerKey::P256(_) => "ES256",
        }
    }

    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            OwnerKey::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(signed, &signature).is_ok()),
            OwnerKey::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(signed, &signature).is_ok()),
        }
    }

    /// Whether it is the same key.
    pub fn is(&self, other: &OwnerKey) -> bool {
        match (self, other) {
            (OwnerKey::Ed25519(one), OwnerKey::Ed25519(other)) => one == other,
            (OwnerKey::P256(one), OwnerKey::P256(other)) => one == other,
            _ => false,
        }
    }
}

/// Why an approval does not count. Nothing of it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// It is no JWS with that header and those claims.
    #[error("is not of the form that openapi.json describes")]
    Form,
    /// Nobody whom the key's rules name.
    #[error("is by nobody who approves of this key's signatures")]
    Owner,
    /// By somebody else, or changed.
    #[error("is not signed by the owner that it names")]
    Signature,
    /// It says another request.
    #[error("is for another request: its {0} differs")]
    Other(&'static str),
}

/// What is to be signed for an approval: the first two parts of the JWS.
///
/// # Panics
/// Never: both are JSON.
pub fn signing_input(owner: &str, algorithm: &str, claims: &Claims) -> String {
    let header = Header {
        alg: algorithm.to_owned(),
        kid: owner.to_owned(),
        typ: TYPE.to_owned(),
    };
    let part = |text: Vec<u8>| URL_SAFE_NO_PAD.encode(text);
    let header = serde_json::to_vec(&header).expect("a header is JSON");
    let claims = serde_json::to_vec(claims).expect("claims are JSON");
    format!("{}.{}", part(header), part(claims))
}

/// Who has approved of exactly this request.
///
/// # Errors
/// See [`NotApproved`].
pub fn approver<'a>(
    approval: &str,
    expected: &Claims,
    owner: impl FnOnce(&str) -> Option<(&'a str, &'a OwnerKey)>,
) -> Result<&'a str, NotApproved> {
    if approval.len() > MAX_APPROVAL_BYTES {
        return Err(NotApproved::Form);
    }
    let (signed, signature) = approval.rsplit_once('.').ok_or(NotApproved::Form)?;
    let (header, claims) = signed.split_once('.').ok_or(NotApproved::Form)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| NotApproved::Form);
    let header: Header =
        serde_json::from_slice(&decoded(header)?).map_err(|_| NotApproved::Form)?;
    if header.typ != TYPE {
        return Err(NotApproved::Form);
    }
    let (name, key) = owner(&header.kid).ok_or(NotApproved::Owner)?;
    if header.alg != key.algorithm() || !key.verifies(signed.as_bytes(), &decoded(signature)?) {
        return Err(NotApproved::Signature);
    }
    let said: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| NotApproved::Form)?;
    for (what, same) in [
        ("boot", said.boot == expected.boot),
        ("key", said.key == expected.key),
        ("key_sha256", said.key_sha256 == expected.key_sha256),
        ("form", said.form == expected.form),
        ("input_sha256", said.input_sha256 == expected.input_sha256),
        ("purpose", said.purpose == expected.purpose),
        ("expires", said.expires == expected.expires),
        ("nonce", said.nonce == expected.nonce),
    ] {
        if !same {
            return Err(NotApproved::Other(what));
        }
    }
    Ok(name)
}
