//! What a document says of itself before anybody checked it, for showing it to a person. Nothing in
//! this file is true, and nothing may be decided by it.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::chain::{self, Validity};
use crate::document::{Document, Unverified};
use crate::pcr::Pcr;

impl Unverified {
    /// What the document says of itself, for showing it to a person. None of it is known to be
    /// true, so never decide anything by it.
    pub fn claimed(&self) -> Claimed<'_> {
        Claimed {
            document: &self.document,
        }
    }
}

/// What a document claims. **Nothing here is true** until verification says so.
#[derive(Clone, Copy)]
pub struct Claimed<'a> {
    document: &'a Document,
}

impl<'a> Claimed<'a> {
    /// The name that it gives the enclave.
    pub fn module_id(&self) -> &'a str {
        &self.document.module_id
    }

    /// When it says that it was made, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.document.timestamp_ms
    }

    /// The PCRs that it lists.
    pub fn pcrs(&self) -> impl Iterator<Item = (u8, Pcr)> + use<'a> {
        self.document.pcrs.iter().map(|(index, pcr)| (*index, *pcr))
    }

    /// The leaf certificate that it brings, as DER (or whatever stands in its place).
    pub fn certificate(&self) -> &'a [u8] {
        self.document.certificate()
    }

    /// The issuers that it brings, the one that it calls root first.
    pub fn cabundle(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.document.cabundle()
    }

    /// What the certificates that it brings say of themselves, in the bundle's order, the leaf last.
    /// Nobody compared one with another, or with a root.
    pub fn certificates(&self) -> impl Iterator<Item = ClaimedCertificate> + use<'a> {
        self.cabundle()
            .chain([self.certificate()])
            .map(ClaimedCertificate::read)
    }

    /// The public key that it carries for its maker.
    pub fn public_key(&self) -> Option<&'a [u8]> {
        self.document.public_key()
    }

    /// The data that it carries for its maker.
    pub fn user_data(&self) -> Option<&'a [u8]> {
        self.document.user_data()
    }

    /// The nonce that it carries.
    pub fn nonce(&self) -> Option<&'a [u8]> {
        self.document.nonce()
    }

    /// What stands where the signature belongs: r ‖ s.
    pub fn signature(&self) -> &'a [u8; 96] {
        self.document.signature()
    }
}

impl fmt::Debug for Claimed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed")
            .field("module_id", &self.module_id())
            .field("timestamp_ms", &self.timestamp_ms())
            .finish_non_exhaustive()
    }
}

/// As `{"claimed": {…}}`, byte strings in hex, so that the word travels with the data.
impl Serialize for Claimed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Outer<'a> {
            claimed: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            module_id: &'a str,
            timestamp_ms: u64,
            pcrs: &'a BTreeMap<u8, Pcr>,
            certificate: String,
            cabundle: Vec<String>,
            public_key: Option<String>,
            user_data: Option<String>,
            nonce: Option<String>,
        }
        Outer {
            claimed: Inner {
                module_id: self.module_id(),
                timestamp_ms: self.timestamp_ms(),
                pcrs: &self.document.pcrs,
                certificate: hex::encode(self.certificate()),
                cabundle: self.cabundle().map(hex::encode).collect(),
                public_key: self.public_key().map(hex::encode),
                user_data: self.user_data().map(hex::encode),
                nonce: self.nonce().map(hex::encode),
            },
        }
        .serialize(serializer)
    }
}

/// What stands in a certificate's place, as far as it can be read. **Nothing here is true** either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClaimedCertificate {
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// What it says, or why it is not an X.509 certificate.
    #[serde(flatten)]
    pub content: ClaimedContent,
}

/// See [`ClaimedCertificate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ClaimedContent {
    /// It can be read.
    #[non_exhaustive]
    Certificate {
        /// Whom it is for (RFC 4514). What could deceive a terminal is escaped.
        subject: String,
        /// Who it says has issued it.
        issuer: String,
        /// Its first second, since 1970.
        not_before: u64,
        /// Its last second, since 1970.
        not_after: u64,
        /// Whether its key is said to be on P-384.
        p384: bool,
        /// Whether it is said to be that of a CA.
        ca: bool,
    },
    /// It cannot.
    #[non_exhaustive]
    Unreadable {
        /// What the decoder says.
        unreadable: String,
    },
}

impl ClaimedCertificate {
    fn read(der: &[u8]) -> ClaimedCertificate {
        let content = match Certificate::from_der(der) {
            Ok(certificate) => {
                let tbs = certificate.tbs_certificate();
                let Validity {
                    not_before,
                    not_after,
                } = Validity::of(&certificate);
                ClaimedContent::Certificate {
                    subject: printable(&tbs.subject().to_string()),
                    issuer: printable(&tbs.issuer().to_string()),
                    not_before,
                    not_after,
                    p384: chain::check_p384(&certificate).is_ok(),
                    ca: chain::is_ca(&certificate),
                }
            }
            Err(error) => ClaimedContent::Unreadable {
                unreadable: error.to_string(),
            },
        };
        ClaimedCertificate {
            sha256: hex::encode(Sha256::digest(der)),
            content,
        }
    }
}

/// Names come from whoever made the document: nothing of them may steer a terminal, or be so long
/// that it hides the rest.
fn printable(name: &str) -> String {
    const MOST: usize = 256;
    let mut text = String::new();
    for (index, character) in name.chars().enumerate() {
        if index == MOST {
            text.push('…');
            break;
        }
        if character.is_ascii_graphic() || character == ' ' {
            text.push(character);
        } else {
            text.extend(character.escape_unicode());
        }
    }
    text
}
