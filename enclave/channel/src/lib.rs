//! Attested TLS: what ties an attestation document to one TLS channel. The enclave and its clients compute it alike.
//!
//! TLS 1.3 ends in the enclave, with a key that was made there. Inside the channel the client asks
//! `GET /.well-known/attestation?nonce=HEX`, and gets a document (`application/cbor`) with
//!
//! | field | holds |
//! | --- | --- |
//! | `nonce` | the client's, so that the document is no older than the question |
//! | `public_key` | the `SubjectPublicKeyInfo` of the certificate that the enclave has shown in this handshake |
//! | `user_data` | [`user_data`] of this channel's exporter value, so that it is of no use in any other channel |
//!
//! A connection may begin with one such question in HTTP/1.1, whatever ALPN has agreed upon; what was agreed upon
//! begins after the answer. So a client has its answer before the first byte of any other protocol.
//!
//! This crate is pure: no I/O, no clock, no randomness. It must never be the judge of a document: the verifier is.
#![forbid(unsafe_code)]

mod answer;
mod question;

pub use answer::{Answer, AnswerError, MAX_DOCUMENT_BYTES};
pub use question::{Beginning, MAX_QUESTION_BYTES, beginning, question};

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Where a client asks, inside the channel.
pub const PATH: &str = "/.well-known/attestation";

/// The exporter's label; its context is empty (RFC 9266, section 2: `tls-exporter`).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Length of the exporter's value in bytes (RFC 9266, section 2).
pub const EXPORTER_BYTES: usize = 32;

/// The fewest bytes of a nonce: fewer might come again by chance.
pub const MIN_NONCE_BYTES: usize = 16;

/// The most bytes of a nonce.
pub const MAX_NONCE_BYTES: usize = 64;

/// `user_data` that begins so is the runtime's alone: nobody who may choose user data, the parent or the job, may have
/// this signed.
pub const RESERVED: &[u8] = b"anchorhold:";

/// The version is part of it: another meaning gets another label.
const LABEL: &[u8] = b"anchorhold:attested-tls:1:";

/// Length of [`user_data`] in bytes.
pub const USER_DATA_BYTES: usize = LABEL.len() + 32;

/// What a document's `user_data` holds for the channel with this exporter value:
/// `label ‖ SHA-256(label ‖ exporter)`, with the label `anchorhold:attested-tls:1:`.
pub fn user_data(exporter: &[u8; EXPORTER_BYTES]) -> Vec<u8> {
    let digest = Sha256::new()
        .chain_update(LABEL)
        .chain_update(exporter)
        .finalize();
    [LABEL, digest.as_slice()].concat()
}

/// Whether user data that somebody wishes for is the runtime's alone, and must be refused.
pub fn is_reserved(user_data: &[u8]) -> bool {
    user_data.starts_with(RESERVED)
}

/// A client's nonce: 16 to 64 bytes. Prints as hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

/// Why something is no question for a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NonceError {
    /// The query is another.
    #[error("ask with exactly one parameter: {PATH}?nonce=HEX")]
    Query,
    /// Not hexadecimal.
    #[error("the nonce is not hexadecimal, two digits for each byte")]
    Digits,
    /// Too short or too long.
    #[error("the nonce has {found} bytes; it must have {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES}")]
    Length {
        /// Its bytes.
        found: usize,
    },
}

impl Nonce {
    /// Takes the bytes of a nonce.
    ///
    /// # Errors
    /// Its length, if that is wrong.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Nonce, NonceError> {
        let bytes = bytes.into();
        if (MIN_NONCE_BYTES..=MAX_NONCE_BYTES).contains(&bytes.len()) {
            Ok(Nonce(bytes))
        } else {
            Err(NonceError::Length { found: bytes.len() })
        }
    }

    /// Reads the query of a question, without its `?`. It has one parameter, the nonce.
    ///
    /// # Errors
    /// See [`NonceError`].
    pub fn from_query(query: Option<&str>) -> Result<Nonce, NonceError> {
        let digits = query
            .and_then(|query| query.strip_prefix("nonce="))
            .filter(|digits| !digits.contains('&'))
            .ok_or(NonceError::Query)?;
        // No longer than it may be, before anything is decoded.
        if digits.len() > 2 * MAX_NONCE_BYTES {
            return Err(NonceError::Length {
                found: digits.len() / 2,
            });
        }
        Nonce::from_bytes(hex::decode(digits).map_err(|_| NonceError::Digits)?)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Path and query of the question that has it.
    pub fn path_and_query(&self) -> String {
        format!("{PATH}?nonce={self}")
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn user_data_is_the_label_and_a_digest_that_anybody_can_compute() {
        // printf 'anchorhold:attested-tls:1:' followed by 32 bytes of 0x07, through sha256sum.
        assert_eq!(
            hex::encode(user_data(&[7; 32])),
            "616e63686f72686f6c643a61747465737465642d746c733a313a\
             89bea3a80c3d4f64847053269043082583af1fcfaa23a66a8c98433b074c0c26"
        );
        assert_eq!(user_data(&[7; 32]).len(), USER_DATA_BYTES);
    }

    #[test]
    fn what_the_runtime_says_nobody_else_may_have_signed() {
        assert!(is_reserved(&user_data(&[0; 32])));
        assert!(is_reserved(b"anchorhold:"));
        assert!(is_reserved(b"anchorhold:attested-tls:2:whatever"));
        for free in [
            &b""[..],
            b"anchorhold",
            b"Anchorhold:",
            b" anchorhold:",
            b"\0",
        ] {
            assert!(!is_reserved(free));
        }
    }

    #[test]
    fn a_question_has_one_nonce_of_a_decent_length_and_nothing_else() {
        let hex32 = "00112233445566778899aabbccddeeff";
        let good = Nonce::from_query(Some(&format!("nonce={hex32}"))).expect("a nonce");
        assert_eq!(good.to_string(), hex32);
        assert_eq!(
            good.path_and_query(),
            format!("/.well-known/attestation?nonce={hex32}")
        );
        for query in [
            None,
            Some(String::new()),
            Some(hex32.to_owned()),
            Some(format!("Nonce={hex32}")),
            Some(format!("nonce={hex32}&nonce={hex32}")),
            Some(format!("x=1&nonce={hex32}")),
            Some(format!("nonce={hex32}&")),
        ] {
            assert_eq!(
                Nonce::from_query(query.as_deref()),
                Err(NonceError::Query),
                "{query:?}"
            );
        }
        for digits in [&hex32[1..], "0011223344556677 899aabbccddeeff", "%30%30"] {
            assert_eq!(
                Nonce::from_query(Some(&format!("nonce={digits}"))),
                Err(NonceError::Digits)
            );
        }
        for bytes in [0, 15, 65, 5000] {
            let query = format!("nonce={}", "ab".repeat(bytes));
            assert_eq!(
                Nonce::from_query(Some(&query)),
                Err(NonceError::Length { found: bytes })
            );
        }
    }

    proptest! {
        #[test]
        fn every_nonce_comes_back_from_its_question(bytes in proptest::collection::vec(any::<u8>(), 16..=64)) {
            let nonce = Nonce::from_bytes(bytes).expect("a nonce");
            let question = nonce.path_and_query();
            let (path, query) = question.split_once('?').expect("a query");
            prop_assert_eq!(path, PATH);
            prop_assert_eq!(Nonce::from_query(Some(query)), Ok(nonce));
        }

        #[test]
        fn two_channels_have_two_bindings(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            prop_assert_eq!(a == b, user_data(&a) == user_data(&b));
        }

        #[test]
        fn no_query_panics(query in ".*") {
            let _ = Nonce::from_query(Some(&query));
        }
    }
}
