//! The requests and responses of AWS KMS's operations, as they look on the wire (AWS JSON 1.1).
//!
//! Names, optionality and JSON follow the service's public model (KMS API version 2014-11-01); one
//! file holds one subject. Constraints (lengths, patterns, value sets) are the service's to check
//! and to report; a shape only refuses what has the wrong JSON type. Unknown members are ignored,
//! `null` is absence, and a plaintext lives in a [`SecretBlob`], which is wiped on drop and never
//! printed.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Declares a structure of the wire. The sections say how its members stand in JSON: `required`
/// ones always; `optional` ones, and `object`s (structures), may be absent; a `list` and `objects`
/// (structures again) are left out when empty; a `flag` when false; `pairs` hold an encryption
/// context. `null` is absence in all but the required ones.
macro_rules! shape {
    (
        $(#[$meta:meta])*
        $name:ident {
            $(required { $($(#[$rm:meta])* $rf:ident: $rt:ty,)+ })?
            $(optional { $($(#[$om:meta])* $of:ident: $ot:ty,)+ })?
            $(object { $($(#[$sm:meta])* $sf:ident: $st:ty,)+ })?
            $(list { $($(#[$lm:meta])* $lf:ident: $lt:ty,)+ })?
            $(objects { $($(#[$jm:meta])* $jf:ident: $jt:ty,)+ })?
            $(flag { $($(#[$fm:meta])* $ff:ident,)+ })?
            $(pairs { $($(#[$pm:meta])* $pf:ident,)+ })?
        }
    ) => {
        $(#[$meta])*
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub struct $name {
            $($($(#[$rm])* pub $rf: $rt,)+)?
            $($(
                $(#[$om])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $of: Option<$ot>,
            )+)?
            $($(
                $(#[$sm])*
                #[serde(
                    default,
                    deserialize_with = "crate::shapes::json::optional_object",
                    skip_serializing_if = "Option::is_none"
                )]
                pub $sf: Option<$st>,
            )+)?
            $($(
                $(#[$lm])*
                #[serde(
                    default,
                    deserialize_with = "crate::shapes::json::null_is_default",
                    skip_serializing_if = "Vec::is_empty"
                )]
                pub $lf: Vec<$lt>,
            )+)?
            $($(
                $(#[$jm])*
                #[serde(
                    default,
                    deserialize_with = "crate::shapes::json::objects",
                    skip_serializing_if = "Vec::is_empty"
                )]
                pub $jf: Vec<$jt>,
            )+)?
            $($(
                $(#[$fm])*
                #[serde(
                    default,
                    deserialize_with = "crate::shapes::json::null_is_default",
                    skip_serializing_if = "std::ops::Not::not"
                )]
                pub $ff: bool,
            )+)?
            $($(
                $(#[$pm])*
                #[serde(
                    default,
                    deserialize_with = "crate::shapes::json::unique_pairs",
                    skip_serializing_if = "std::collections::BTreeMap::is_empty"
                )]
                pub $pf: crate::shapes::EncryptionContext,
            )+)?
        }
    };
}

/// A structure without secrets.
macro_rules! open_shape {
    ($(#[$meta:meta])* $name:ident $body:tt) => {
        shape! {
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Eq, Default)]
            $name $body
        }
    };
}

/// The answer of an operation without output.
macro_rules! nothing {
    ($name:ident) => {
        /// Nothing: the operation has no output.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize,
        )]
        pub struct $name {}
    };
}

/// `Debug` that shows these members only, and so leaves the plaintext out.
macro_rules! debug_without_plaintext {
    ($name:ident { $($field:ident),* }) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}

macro_rules! operation {
    ($request:ident => $response:ident, $name:literal, required: [$($required:literal),*], repeatable: $repeatable:literal $(, has_output: $has_output:literal)?) => {
        impl crate::shapes::Operation for $request {
            const NAME: &'static str = $name;
            const REQUIRED: &'static [&'static str] = &[$($required),*];
            const REPEATABLE: bool = $repeatable;
            $(const HAS_OUTPUT: bool = $has_output;)?
            type Response = $response;
        }
    };
}

mod agreement;
mod aliases;
mod blob;
mod cryptography;
mod data_keys;
mod grants;
mod import;
mod json;
mod key_stores;
mod keys;
mod macs;
mod policies;
mod regions;
mod rotation;
mod signatures;
mod tags;
mod values;

pub use agreement::*;
pub use aliases::*;
pub use blob::{Blob, SecretBlob, SecretText};
pub use cryptography::*;
pub use data_keys::*;
pub use grants::*;
pub use import::*;
pub use json::{ShapeError, encode};
pub use key_stores::*;
pub use keys::*;
pub use macs::*;
pub use policies::*;
pub use regions::*;
pub use rotation::*;
pub use signatures::*;
pub use tags::*;
pub use values::*;

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

#[cfg(test)]
mod tests;
