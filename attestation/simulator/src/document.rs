//! The attestation document as newer hardware writes it: a payload map of indefinite length, nine
//! entries in AWS's order, in a `COSE_Sign1` without tag. Says what it is told and lets sign what it
//! is given; judges nothing.

use std::collections::BTreeMap;

use anchorhold_attestation::Pcr;
use coset::{CborSerializable as _, CoseSign1Builder, HeaderBuilder, iana};

use crate::cbor::Cbor;

/// What the caller of `Attestation` asks to be bound into the document.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    /// A key of the enclave's own.
    pub public_key: Option<Vec<u8>>,
    /// Anything.
    pub user_data: Option<Vec<u8>>,
    /// What the verifier asked for.
    pub nonce: Option<Vec<u8>>,
}

/// What a document says.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// The enclave's name.
    pub module_id: &'a str,
    /// When it is made, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The registers that it lists.
    pub pcrs: &'a BTreeMap<u8, Pcr>,
    /// The leaf certificate, DER.
    pub certificate: &'a [u8],
    /// Its issuers, DER, root first.
    pub cabundle: &'a [Vec<u8>],
    /// What its caller asked for.
    pub bound: &'a Bound,
}

impl Contents<'_> {
    /// The payload's entries in AWS's order, each value in CBOR.
    pub fn entries(&self) -> [(&'static str, Cbor); 9] {
        let mut pcrs = Cbor::default();
        pcrs.head(5, self.pcrs.len() as u64);
        for (index, pcr) in self.pcrs {
            pcrs.head(0, u64::from(*index)).bytes(pcr.as_bytes());
        }
        let mut cabundle = Cbor::default();
        cabundle.head(4, self.cabundle.len() as u64);
        for certificate in self.cabundle {
            cabundle.bytes(certificate);
        }
        let value = |write: &dyn Fn(&mut Cbor)| {
            let mut value = Cbor::default();
            write(&mut value);
            value
        };
        let optional = |bytes: &Option<Vec<u8>>| {
            value(&|out| {
                match bytes {
                    Some(bytes) => out.bytes(bytes),
                    None => out.null(),
                };
            })
        };
        [
            (
                "module_id",
                value(&|out| {
                    out.text(self.module_id);
                }),
            ),
            (
                "digest",
                value(&|out| {
                    out.text("SHA384");
                }),
            ),
            (
                "timestamp",
                value(&|out| {
                    out.head(0, self.timestamp_ms);
                }),
            ),
            ("pcrs", pcrs),
            (
                "certificate",
                value(&|out| {
                    out.bytes(self.certificate);
                }),
            ),
            ("cabundle", cabundle),
            ("public_key", optional(&self.bound.public_key)),
            ("user_data", optional(&self.bound.user_data)),
            ("nonce", optional(&self.bound.nonce)),
        ]
    }

    /// The payload: the bytes that are signed.
    pub fn payload(&self) -> Vec<u8> {
        let mut out = Cbor(vec![0xbf]);
        for (key, value) in self.entries() {
            out.text(key).0.extend(value.0);
        }
        out.0.push(0xff);
        out.0
    }
}

/// A `COSE_Sign1` over the payload. `sign` is given the bytes of the `Sig_structure` and returns
/// r ‖ s; `None` where it fails.
pub fn envelope(payload: Vec<u8>, sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    CoseSign1Builder::new()
        .protected(
            HeaderBuilder::new()
                .algorithm(iana::Algorithm::ES384)
                .build(),
        )
        .payload(payload)
        .try_create_signature(b"", |message| sign(message).ok_or(()))
        .ok()?
        .build()
        .to_vec()
        .ok()
}
