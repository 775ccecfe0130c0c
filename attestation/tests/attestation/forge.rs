//! Makes chains and documents that no honest NSM would: every part can be changed before it is
//! signed. Times are fixed, so that no test depends on a clock.

use anchorhold_attestation::{Anchor, Pcr, Unverified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use coset::cbor::value::Value;
use coset::{CborSerializable as _, CoseSign1Builder, HeaderBuilder, iana};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm,
};
use std::time::{Duration, SystemTime};

/// When forged documents are made: June 2025, in milliseconds since 1970.
pub const NOW_MS: u64 = 1_750_000_000_000;
pub const HOUR_MS: u64 = 3_600_000;

pub fn instant(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

/// A certificate and its key.
pub struct Holder {
    pub der: Vec<u8>,
    pub issuer: Issuer<'static, KeyPair>,
}

/// What goes into a certificate.
pub struct Paper {
    pub params: CertificateParams,
    pub algorithm: &'static SignatureAlgorithm,
}

impl Paper {
    fn new(name: &str) -> Paper {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{name}.forged"));
        params.not_before = instant(NOW_MS - 10 * 60 * 1000).into();
        params.not_after = instant(NOW_MS + 3 * HOUR_MS).into();
        Paper {
            params,
            algorithm: &PKCS_ECDSA_P384_SHA384,
        }
    }

    pub fn ca(name: &str, constraints: BasicConstraints) -> Paper {
        let mut paper = Paper::new(name);
        paper.params.is_ca = IsCa::Ca(constraints);
        paper.params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        paper.params.not_after = instant(NOW_MS + 24 * HOUR_MS).into();
        paper
    }

    pub fn leaf() -> Paper {
        let mut paper = Paper::new("leaf");
        paper.params.is_ca = IsCa::ExplicitNoCa;
        paper.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        paper
    }

    pub fn issued_by(self, issuer: Option<&Holder>) -> Holder {
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        let certificate = match issuer {
            Some(issuer) => self.params.signed_by(&key, &issuer.issuer),
            None => self.params.self_signed(&key),
        };
        Holder {
            der: certificate.unwrap().der().to_vec(),
            issuer: Issuer::new(self.params, key),
        }
    }
}

/// Root, issuers and leaf, before they are issued. Change one, then issue.
pub struct Plan {
    pub root: Paper,
    pub issuers: Vec<Paper>,
    pub leaf: Paper,
}

impl Plan {
    /// AWS's shape: root, region, zone, instance, leaf.
    pub fn new() -> Plan {
        Plan {
            root: Paper::ca("root", BasicConstraints::Unconstrained),
            issuers: [("region", 2), ("zone", 1), ("instance", 0)]
                .map(|(name, length)| Paper::ca(name, BasicConstraints::Constrained(length)))
                .into(),
            leaf: Paper::leaf(),
        }
    }

    pub fn issue(self) -> Chain {
        let root = self.root.issued_by(None);
        let mut issuers: Vec<Holder> = Vec::new();
        for paper in self.issuers {
            let holder = paper.issued_by(Some(issuers.last().unwrap_or(&root)));
            issuers.push(holder);
        }
        let leaf = self.leaf.issued_by(Some(issuers.last().unwrap_or(&root)));
        Chain {
            root,
            issuers,
            leaf,
        }
    }
}

pub struct Chain {
    pub root: Holder,
    pub issuers: Vec<Holder>,
    pub leaf: Holder,
}

impl Chain {
    pub fn anchor(&self) -> Anchor {
        Anchor::from_der(&self.root.der).unwrap()
    }

    /// Root first.
    pub fn cabundle(&self) -> Vec<Vec<u8>> {
        [&self.root]
            .into_iter()
            .chain(&self.issuers)
            .map(|holder| holder.der.clone())
            .collect()
    }

    /// A document with nothing wrong about it.
    pub fn payload(&self) -> Payload {
        Payload::new(&self.leaf.der, &self.cabundle())
    }

    pub fn sign(&self, payload: &Payload) -> Vec<u8> {
        sign(&payload.to_bytes(), &self.leaf)
    }

    /// The document of `payload`, parsed.
    pub fn document(&self, payload: &Payload) -> Unverified {
        Unverified::parse(&self.sign(payload)).unwrap()
    }
}

/// A `COSE_Sign1` over these bytes by this key.
pub fn sign(payload: &[u8], signer: &Holder) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P384_SHA384_FIXED_SIGNING,
        signer.issuer.key().serialized_der(),
    )
    .unwrap();
    CoseSign1Builder::new()
        .protected(
            HeaderBuilder::new()
                .algorithm(iana::Algorithm::ES384)
                .build(),
        )
        .payload(payload.to_vec())
        .create_signature(b"", |message| {
            key.sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec()
        })
        .build()
        .to_vec()
        .unwrap()
}

/// The signed map. Entries keep their order, and may be there twice.
#[derive(Clone)]
pub struct Payload {
    pub entries: Vec<(Value, Value)>,
    pub indefinite: bool,
}

pub fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bytes(bytes.as_ref().to_vec())
}

/// The PCR values of forged documents: all of the register's bytes are its index plus one.
pub fn pcr(index: u8) -> Pcr {
    Pcr::from_bytes([index + 1; 48])
}

pub fn pcrs(pcrs: impl IntoIterator<Item = (u8, Pcr)>) -> Value {
    Value::Map(
        pcrs.into_iter()
            .map(|(index, pcr)| (Value::from(index), bytes(pcr.as_bytes())))
            .collect(),
    )
}

impl Payload {
    pub fn new(certificate: &[u8], cabundle: &[Vec<u8>]) -> Payload {
        Payload {
            entries: vec![
                (
                    text("module_id"),
                    text("i-0123456789abcdef0-enc0123456789abcdef"),
                ),
                (text("digest"), text("SHA384")),
                (text("timestamp"), Value::from(NOW_MS)),
                (text("pcrs"), pcrs((0..16).map(|index| (index, pcr(index))))),
                (text("certificate"), bytes(certificate)),
                (
                    text("cabundle"),
                    Value::Array(cabundle.iter().map(bytes).collect()),
                ),
                (text("public_key"), Value::Null),
                (text("user_data"), bytes(b"user data")),
                (text("nonce"), bytes(b"nonce")),
            ],
            indefinite: false,
        }
    }

    /// Replaces an entry's value, or adds the entry.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Payload {
        let value = value.into();
        match self.entries.iter_mut().find(|(name, _)| *name == text(key)) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((text(key), value)),
        }
        self
    }

    pub fn without(mut self, key: &str) -> Payload {
        self.entries.retain(|(name, _)| *name != text(key));
        self
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoded = Value::Map(self.entries.clone()).to_vec().unwrap();
        if self.indefinite {
            assert!(self.entries.len() < 24);
            encoded[0] = 0xbf;
            encoded.push(0xff);
        }
        encoded
    }
}
