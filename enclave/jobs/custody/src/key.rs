//! Private keys of four kinds, their signatures, and their forms outside: PKCS#8 and SubjectPublicKeyInfo (RFC 5958, 5280).
//!
//! ECDSA signatures are deterministic (RFC 6979) and have the lower of the two values of s, which some verifiers demand and
//! none minds; a key thus never depends on a random number at the time of signing. No Debug, no Clone, wiped on drop.

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use k256::ecdsa::signature::hazmat::PrehashSigner as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384};
use zeroize::Zeroizing;

/// What a key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// ECDSA on NIST's P-256, SHA-256.
    P256,
    /// ECDSA on NIST's P-384, SHA-384.
    P384,
    /// Pure Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on secp256k1, SHA-256.
    Secp256k1,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] = [
        Algorithm::P256,
        Algorithm::P384,
        Algorithm::Ed25519,
        Algorithm::Secp256k1,
    ];

    /// Its word in settings and answers.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::P256 => "p256",
            Algorithm::P384 => "p384",
            Algorithm::Ed25519 => "ed25519",
            Algorithm::Secp256k1 => "secp256k1",
        }
    }

    /// Bytes of a digest that it signs; none where it signs messages alone.
    pub fn digest_bytes(self) -> Option<usize> {
        match self {
            Algorithm::P256 | Algorithm::Secp256k1 => Some(32),
            Algorithm::P384 => Some(48),
            Algorithm::Ed25519 => None,
        }
    }
}

/// A key cannot be had, or does not sign this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no randomness.
    #[error("the kernel gives no random bytes")]
    Randomness,
    /// It is no such key.
    #[error(
        "it is no private key of that algorithm in PKCS#8: `openssl pkcs8 -topk8 -nocrypt -outform DER` writes one"
    )]
    Form,
    /// A digest has another length.
    #[error("a digest for this key has {0} bytes")]
    Digest(usize),
    /// It signs no digests.
    #[error("an Ed25519 key signs messages, and no digests")]
    NoDigests,
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Of fixed length: r and s, or Ed25519's own form.
    pub raw: Vec<u8>,
    /// As X.509 has ECDSA signatures.
    pub der: Option<Vec<u8>>,
    /// Which of the candidate keys has signed (secp256k1), 0 to 3.
    pub recovery_id: Option<u8>,
}

/// A private key.
pub enum PrivateKey {
    /// See [`Algorithm::P256`].
    P256(p256::ecdsa::SigningKey),
    /// See [`Algorithm::P384`].
    P384(p384::ecdsa::SigningKey),
    /// See [`Algorithm::Ed25519`].
    Ed25519(ed25519_dalek::SigningKey),
    /// See [`Algorithm::Secp256k1`].
    Secp256k1(k256::ecdsa::SigningKey),
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn make(algorithm: Algorithm) -> Result<PrivateKey, KeyError> {
        loop {
            let mut random = Zeroizing::new([0; 48]);
            getrandom::fill(random.as_mut_slice()).map_err(|_| KeyError::Randomness)?;
            // Of numbers that are not below the curve's order, hardly one in 2^32 on P-256, another is taken.
            if let Some(key) = PrivateKey::from_random(algorithm, &random) {
                return Ok(key);
            }
        }
    }

    fn from_random(algorithm: Algorithm, random: &[u8; 48]) -> Option<PrivateKey> {
        let short = random.first_chunk::<32>()?;
        match algorithm {
            Algorithm::P256 => p256::ecdsa::SigningKey::from_slice(short)
                .ok()
                .map(PrivateKey::P256),
            Algorithm::P384 => p384::ecdsa::SigningKey::from_slice(random)
                .ok()
                .map(PrivateKey::P384),
            Algorithm::Ed25519 => Some(PrivateKey::Ed25519(ed25519_dalek::SigningKey::from_bytes(
                short,
            ))),
            Algorithm::Secp256k1 => k256::ecdsa::SigningKey::from_slice(short)
                .ok()
                .map(PrivateKey::Secp256k1),
        }
    }

    /// From PKCS#8.
    ///
    /// # Errors
    /// [`KeyError::Form`], also where it is a key of another algorithm.
    pub fn from_pkcs8(algorithm: Algorithm, der: &[u8]) -> Result<PrivateKey, KeyError> {
        let key = match algorithm {
            Algorithm::P256 => p256::ecdsa::SigningKey::from_pkcs8_der(der).map(PrivateKey::P256),
            Algorithm::P384 => p384::ecdsa::SigningKey::from_pkcs8_der(der).map(PrivateKey::P384),
            Algorithm::Ed25519 => {
                ed25519_dalek::SigningKey::from_pkcs8_der(der).map(PrivateKey::Ed25519)
            }
            Algorithm::Secp256k1 => {
                k256::ecdsa::SigningKey::from_pkcs8_der(der).map(PrivateKey::Secp256k1)
            }
        };
        key.map_err(|_| KeyError::Form)
    }

    /// As PKCS#8, to be sealed.
    ///
    /// # Panics
    /// Never: all that it holds has such a form.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let document = match self {
            PrivateKey::P256(key) => key.to_pkcs8_der(),
            PrivateKey::P384(key) => key.to_pkcs8_der(),
            PrivateKey::Ed25519(key) => key.to_pkcs8_der(),
            PrivateKey::Secp256k1(key) => key.to_pkcs8_der(),
        };
        document.expect("a key has a PKCS#8 form").to_bytes()
    }

    /// The public key, as SubjectPublicKeyInfo.
    ///
    /// # Panics
    /// Never: all public keys have such a form.
    pub fn public_key(&self) -> Vec<u8> {
        let document = match self {
            PrivateKey::P256(key) => key.verifying_key().to_public_key_der(),
            PrivateKey::P384(key) => key.verifying_key().to_public_key_der(),
            PrivateKey::Ed25519(key) => key.verifying_key().to_public_key_der(),
            PrivateKey::Secp256k1(key) => key.verifying_key().to_public_key_der(),
        };
        document.expect("a public key has a form").into_vec()
    }

    /// Signs a message.
    ///
    /// # Errors
    /// None is expected.
    pub fn sign_message(&self, message: &[u8]) -> Result<Signature, KeyError> {
        match self {
            PrivateKey::P256(_) | PrivateKey::Secp256k1(_) => {
                self.sign_digest(&Sha256::digest(message))
            }
            PrivateKey::P384(_) => self.sign_digest(&Sha384::digest(message)),
            PrivateKey::Ed25519(key) => Ok(Signature {
                raw: key.sign(message).to_bytes().to_vec(),
                der: None,
                recovery_id: None,
            }),
        }
    }

    /// Signs a digest, of which nobody can see what it is of.
    ///
    /// # Errors
    /// It has another length, or the key signs none.
    pub fn sign_digest(&self, digest: &[u8]) -> Result<Signature, KeyError> {
        let bytes = self.digest_bytes().ok_or(KeyError::NoDigests)?;
        if digest.len() != bytes {
            return Err(KeyError::Digest(bytes));
        }
        match self {
            PrivateKey::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    key.sign_prehash(digest).map_err(|_| KeyError::Form)?;
                let signature = signature.normalize_s();
                Ok(Signature {
                    raw: signature.to_bytes().to_vec(),
                    der: Some(signature.to_der().as_bytes().to_vec()),
                    recovery_id: None,
                })
            }
            PrivateKey::P384(key) => {
                let signature: p384::ecdsa::Signature =
                    key.sign_prehash(digest).map_err(|_| KeyError::Form)?;
                let signature = signature.normalize_s();
                Ok(Signature {
                    raw: signature.to_bytes().to_vec(),
                    der: Some(signature.to_der().as_bytes().to_vec()),
                    recovery_id: None,
                })
            }
            PrivateKey::Secp256k1(key) => {
                let (signature, recovery) = key.sign_prehash_recoverable(digest);
                Ok(Signature {
                    raw: signature.to_bytes().to_vec(),
                    der: Some(signature.to_der().as_bytes().to_vec()),
                    recovery_id: Some(recovery.to_byte()),
                })
            }
            PrivateKey::Ed25519(_) => Err(KeyError::NoDigests),
        }
    }

    fn digest_bytes(&self) -> Option<usize> {
        let algorithm = match self {
            PrivateKey::P256(_) => Algorithm::P256,
            PrivateKey::P384(_) => Algorithm::P384,
            PrivateKey::Ed25519(_) => Algorithm::Ed25519,
            PrivateKey::Secp256k1(_) => Algorithm::Secp256k1,
        };
        algorithm.digest_bytes()
    }
}
