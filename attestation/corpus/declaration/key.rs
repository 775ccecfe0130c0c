//! Keys that are the same on every machine, and signatures that are too: ECDSA with the nonce of
//! RFC 6979, and RSA with PKCS #1 v1.5. They protect nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};
use p384::elliptic_curve::ops::Reduce;
use p384::elliptic_curve::point::AffineCoordinates as _;
use p384::{ProjectivePoint, Scalar, ecdsa as p384_ecdsa};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA384, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use sha2::{Digest as _, Sha384};

use p384_ecdsa::signature::Signer as _;
use p384_ecdsa::signature::hazmat::PrehashSigner as _;

/// The hash of a certificate's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha1,
    Sha256,
    Sha384,
}

impl Hash {
    /// Of a message, made as long as P-384's order: an integer keeps its value behind zeros.
    fn of(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &SHA256,
            Hash::Sha384 => &SHA384,
        };
        let hash = digest(algorithm, message);
        [vec![0; 48 - hash.as_ref().len()].as_slice(), hash.as_ref()].concat()
    }
}

/// A key pair, cheap to copy.
#[derive(Clone)]
pub struct Key(Arc<Kind>);

enum Kind {
    P384(Box<p384_ecdsa::SigningKey>, Vec<u8>),
    P256(Box<p256::ecdsa::SigningKey>, Vec<u8>),
    Rsa(Box<KeyPair>),
}

impl Key {
    /// The P-384 key of this name, made once.
    pub fn p384(name: &str) -> Key {
        static KNOWN: Mutex<BTreeMap<String, Key>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap();
        known
            .entry(name.to_owned())
            .or_insert_with(|| {
                let secret = p384_ecdsa::SigningKey::from_slice(&seed(name)).unwrap();
                let point = secret
                    .verifying_key()
                    .to_sec1_point(false)
                    .as_bytes()
                    .to_vec();
                Key(Arc::new(Kind::P384(Box::new(secret), point)))
            })
            .clone()
    }

    /// The P-256 key of this name.
    pub fn p256(name: &str) -> Key {
        let secret = p256::ecdsa::SigningKey::from_slice(&seed(name)[..32]).unwrap();
        let point = secret
            .verifying_key()
            .to_sec1_point(false)
            .as_bytes()
            .to_vec();
        Key(Arc::new(Kind::P256(Box::new(secret), point)))
    }

    /// The one RSA key, of 2,048 bits.
    pub fn rsa() -> Key {
        static KEY: LazyLock<Key> = LazyLock::new(|| {
            let pem = include_str!("rsa-2048.pem");
            let pair = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_RSA_SHA384).unwrap();
            Key(Arc::new(Kind::Rsa(Box::new(pair))))
        });
        KEY.clone()
    }

    fn secret(&self) -> &p384_ecdsa::SigningKey {
        match &*self.0 {
            Kind::P384(secret, _) => secret,
            _ => panic!("only keys on P-384 sign documents"),
        }
    }

    /// r ‖ s over a message with SHA-384, as COSE has it.
    pub fn fixed(&self, message: &[u8]) -> Vec<u8> {
        let signature: p384_ecdsa::Signature = self.secret().sign(message);
        signature.to_bytes().to_vec()
    }

    /// r ‖ s over what somebody takes for the message's hash (at least 24 bytes).
    pub fn fixed_over_hash(&self, hash: &[u8]) -> Vec<u8> {
        let signature: p384_ecdsa::Signature = self.secret().sign_prehash(hash).unwrap();
        signature.to_bytes().to_vec()
    }

    /// A signature as certificates have it.
    pub fn der(&self, hash: Hash, message: &[u8]) -> Vec<u8> {
        match &*self.0 {
            Kind::P384(secret, _) => {
                let signature: p384_ecdsa::Signature =
                    secret.sign_prehash(&hash.of(message)).unwrap();
                signature.to_der().as_bytes().to_vec()
            }
            Kind::P256(secret, _) => {
                let signature: p256::ecdsa::Signature = secret.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Kind::Rsa(pair) => pair.sign(message).unwrap(),
        }
    }

    /// A signature that is good for this key's point where the curve's generator is that point too:
    /// the secret of such a curve is 1, known to everybody (CVE-2020-0601).
    pub fn der_with_the_point_as_generator(&self, message: &[u8]) -> Vec<u8> {
        let scalar = |bytes: &p384::FieldBytes| <Scalar as Reduce<p384::FieldBytes>>::reduce(bytes);
        let hash = scalar(&bytes48(&Hash::Sha384.of(message)));
        let nonce = scalar(&bytes48(&seed("curveball nonce")));
        let generator = ProjectivePoint::from(*self.secret().verifying_key().as_affine());
        let r = scalar(&(generator * nonce).to_affine().x());
        let s = nonce.invert().unwrap() * (hash + r);
        p384_ecdsa::Signature::from_scalars(r, s)
            .unwrap()
            .to_der()
            .as_bytes()
            .to_vec()
    }

    /// The public key: the point, 4 ‖ x ‖ y.
    pub fn point(&self) -> &[u8] {
        self.der_bytes()
    }
}

fn bytes48(bytes: &[u8]) -> p384::FieldBytes {
    p384::FieldBytes::try_from(bytes).unwrap()
}

/// 48 bytes that belong to a name.
pub fn seed(name: &str) -> [u8; 48] {
    Sha384::digest(format!("anchorhold conformance corpus, version 1: {name}")).into()
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        match &*self.0 {
            Kind::P384(_, point) | Kind::P256(_, point) => point,
            Kind::Rsa(pair) => pair.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match &*self.0 {
            Kind::P384(..) => &PKCS_ECDSA_P384_SHA384,
            Kind::P256(..) => &PKCS_ECDSA_P256_SHA256,
            Kind::Rsa(_) => &PKCS_RSA_SHA384,
        }
    }
}

/// Signs nothing: certificates are signed once all of their changes are made.
impl SigningKey for Key {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}
