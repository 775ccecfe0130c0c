//! The attestation document as newer hardware writes it: a payload map of indefinite length, nine
//! entries in AWS's order, in a `COSE_Sign1` without tag. Signs what it is given, and judges nothing.

use std::collections::BTreeMap;

use anchorhold_attestation::Pcr;
use aws_lc_rs::rand::SystemRandom;
use coset::{CborSerializable as _, CoseSign1Builder, HeaderBuilder, iana};

use crate::chain::Chain;

/// What the caller of `Attestation` asks to be bound into the document.
pub(crate) struct Bound {
    pub(crate) public_key: Option<Vec<u8>>,
    pub(crate) user_data: Option<Vec<u8>>,
    pub(crate) nonce: Option<Vec<u8>>,
}

/// Makes and signs a document. `None` where signing fails.
pub(crate) fn sign(
    chain: &Chain,
    module_id: &str,
    timestamp_ms: u64,
    pcrs: &BTreeMap<u8, Pcr>,
    bound: &Bound,
) -> Option<Vec<u8>> {
    CoseSign1Builder::new()
        .protected(
            HeaderBuilder::new()
                .algorithm(iana::Algorithm::ES384)
                .build(),
        )
        .payload(payload(chain, module_id, timestamp_ms, pcrs, bound))
        .try_create_signature(b"", |message| {
            chain
                .key
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
        })
        .ok()?
        .build()
        .to_vec()
        .ok()
}

fn payload(
    chain: &Chain,
    module_id: &str,
    timestamp_ms: u64,
    pcrs: &BTreeMap<u8, Pcr>,
    bound: &Bound,
) -> Vec<u8> {
    let mut out = Cbor(vec![0xbf]);
    out.text("module_id").text(module_id);
    out.text("digest").text("SHA384");
    out.text("timestamp").head(0, timestamp_ms);
    out.text("pcrs").head(5, pcrs.len() as u64);
    for (index, pcr) in pcrs {
        out.head(0, u64::from(*index)).bytes(pcr.as_bytes());
    }
    out.text("certificate").bytes(&chain.certificate);
    out.text("cabundle").head(4, chain.cabundle.len() as u64);
    for certificate in &chain.cabundle {
        out.bytes(certificate);
    }
    out.text("public_key").optional(bound.public_key.as_deref());
    out.text("user_data").optional(bound.user_data.as_deref());
    out.text("nonce").optional(bound.nonce.as_deref());
    out.0.push(0xff);
    out.0
}

/// Additional information: the argument follows in so many bytes (RFC 8949, section 3).
const ONE_BYTE: u8 = 0x18;
const TWO_BYTES: u8 = 0x19;
const FOUR_BYTES: u8 = 0x1a;
const EIGHT_BYTES: u8 = 0x1b;

/// RFC 8949, section 3, as far as a document needs it.
struct Cbor(Vec<u8>);

impl Cbor {
    fn head(&mut self, major: u8, argument: u64) -> &mut Cbor {
        let major = major << 5;
        let bytes = argument.to_be_bytes();
        match argument {
            0..24 => self.0.push(major | bytes[7]),
            24..0x100 => self.0.extend([major | ONE_BYTE, bytes[7]]),
            0x100..0x1_0000 => {
                self.0.push(major | TWO_BYTES);
                self.0.extend(&bytes[6..]);
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | FOUR_BYTES);
                self.0.extend(&bytes[4..]);
            }
            _ => {
                self.0.push(major | EIGHT_BYTES);
                self.0.extend(bytes);
            }
        }
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Cbor {
        self.head(2, bytes.len() as u64).0.extend(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Cbor {
        self.head(3, text.len() as u64).0.extend(text.as_bytes());
        self
    }

    fn optional(&mut self, bytes: Option<&[u8]>) -> &mut Cbor {
        if let Some(bytes) = bytes {
            self.bytes(bytes)
        } else {
            self.0.push(0xf6);
            self
        }
    }
}
