//! Payloads and their envelopes: the simulator's, with any byte changed before or after it is signed.

use std::collections::BTreeMap;

use anchorhold_attestation::Pcr;
use anchorhold_simulator::parts::{Bound, Cbor, Contents, envelope};
use coset::{Header, ProtectedHeader, SignatureContext, sig_structure_data};
use rcgen::PublicKeyData as _;

use crate::key::{Key, seed};
use crate::paper::{Chain, MODULE_ID, NOW_MS};

/// `{1: -35}`.
pub const ES384: &[u8] = &[0xa1, 0x01, 0x38, 0x22];
pub const NONCE: &[u8] = b"the nonce that the verifier drew";
pub const USER_DATA: &[u8] = b"what the enclave had to say";

/// Registers as hardware fills them: 0–4 and 8 hold something, the others nothing.
pub fn pcr(index: u8) -> Pcr {
    match index {
        0..=4 | 8 => Pcr::ZERO.extend(&seed(&format!("pcr{index}"))),
        _ => Pcr::ZERO,
    }
}

/// The registers `0..count`.
pub fn pcrs(count: u8) -> BTreeMap<u8, Pcr> {
    (0..count).map(|index| (index, pcr(index))).collect()
}

/// Encoded items.
pub fn cbor(write: impl FnOnce(&mut Cbor)) -> Vec<u8> {
    let mut out = Cbor::default();
    write(&mut out);
    out.0
}

pub fn text(text: &str) -> Vec<u8> {
    cbor(|out| {
        out.text(text);
    })
}

pub fn bytes(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    cbor(|out| {
        out.bytes(bytes.as_ref());
    })
}

pub fn unsigned(number: u64) -> Vec<u8> {
    cbor(|out| {
        out.head(0, number);
    })
}

pub const NULL: [u8; 1] = [0xf6];

pub fn array(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<_> = items.into_iter().collect();
    cbor(|out| {
        out.head(4, items.len() as u64).0.extend(items.concat());
    })
}

pub fn map(entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    let entries: Vec<_> = entries.into_iter().collect();
    cbor(|out| {
        out.head(5, entries.len() as u64);
        for (key, value) in entries {
            out.0.extend([key, value].concat());
        }
    })
}

/// A map of registers.
pub fn pcr_map(pcrs: impl IntoIterator<Item = (u8, Pcr)>) -> Vec<u8> {
    map(pcrs
        .into_iter()
        .map(|(index, pcr)| (unsigned(u64::from(index)), bytes(pcr.as_bytes()))))
}

/// The signed map: encoded keys and values, in order.
#[derive(Clone)]
pub struct Payload(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Payload {
    /// What the simulator would say under this chain to an enclave that asks for what AWS KMS wants: an
    /// RSA key of its own and a nonce are bound, and no user data.
    pub fn of(chain: &Chain) -> Payload {
        let bound = Bound {
            public_key: Some(Key::rsa().subject_public_key_info()),
            nonce: Some(NONCE.to_vec()),
            ..Bound::default()
        };
        let contents = Contents {
            module_id: MODULE_ID,
            timestamp_ms: NOW_MS,
            pcrs: &pcrs(16),
            certificate: &chain.leaf.der,
            cabundle: &chain.cabundle(),
            bound: &bound,
        };
        let payload = Payload(
            contents
                .entries()
                .into_iter()
                .map(|(key, value)| (text(key), value.0))
                .collect(),
        );
        assert_eq!(payload.indefinite(), contents.payload());
        payload
    }

    fn place(&self, key: &str) -> usize {
        let key = text(key);
        let place = self.0.iter().position(|(name, _)| *name == key);
        place.unwrap()
    }

    /// Replaces a value.
    pub fn set(mut self, key: &str, value: impl Into<Vec<u8>>) -> Payload {
        let place = self.place(key);
        self.0[place].1 = value.into();
        self
    }

    /// Replaces a key.
    pub fn rename(mut self, key: &str, name: impl Into<Vec<u8>>) -> Payload {
        let place = self.place(key);
        self.0[place].0 = name.into();
        self
    }

    pub fn without(mut self, key: &str) -> Payload {
        let place = self.place(key);
        self.0.remove(place);
        self
    }

    /// Adds an entry at the end.
    pub fn and(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Payload {
        self.0.push((key.into(), value.into()));
        self
    }

    pub fn value(&self, key: &str) -> Vec<u8> {
        self.0[self.place(key)].1.clone()
    }

    /// As hardware has written it since the summer of 2025.
    pub fn indefinite(&self) -> Vec<u8> {
        [[0xbf].as_slice(), &self.entries(), &[0xff]].concat()
    }

    /// As hardware wrote it before.
    pub fn definite(&self) -> Vec<u8> {
        map(self.0.iter().cloned())
    }

    /// The entries alone.
    pub fn entries(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|(key, value)| [key.as_slice(), value].concat())
            .collect()
    }
}

/// The simulator's envelope around these bytes, signed by this key.
pub fn signed(payload: impl Into<Vec<u8>>, key: &Key) -> Vec<u8> {
    envelope(payload.into(), |message| Some(key.fixed(message))).unwrap()
}

/// RFC 9052, section 4.4.
pub fn to_be_signed(
    context: SignatureContext,
    protected: &[u8],
    external: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let protected = ProtectedHeader {
        original_data: Some(protected.to_vec()),
        header: Header::default(),
    };
    sig_structure_data(context, protected, None, external, payload)
}

/// The four parts of an envelope, each as it is encoded.
#[derive(Clone)]
pub struct Parts {
    pub protected: Vec<u8>,
    pub unprotected: Vec<u8>,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Parts {
    /// The parts of a sound document over this payload; the signature covers this protected header.
    pub fn of(protected: &[u8], payload: &[u8], key: &Key) -> Parts {
        let message = to_be_signed(SignatureContext::CoseSign1, protected, &[], payload);
        Parts {
            protected: bytes(protected),
            unprotected: vec![0xa0],
            payload: bytes(payload),
            signature: bytes(key.fixed(&message)),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        [
            [0x84].as_slice(),
            &self.protected,
            &self.unprotected,
            &self.payload,
            &self.signature,
        ]
        .concat()
    }
}
