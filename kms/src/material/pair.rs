//! Pairs of a private and a public key: RSA, elliptic curves, Ed25519, ML-DSA.
//!
//! Private keys are PKCS#8, public ones DER of a `SubjectPublicKeyInfo`.

use super::{NotMaterial, agreement};
use crate::sealing::NoRandomness;
use anchorhold_kms_wire::shapes::{EncryptionAlgorithm, KeySpec, SigningAlgorithm};
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, PqdsaKeyPair,
    PqdsaSigningAlgorithm, PqdsaVerificationAlgorithm, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use zeroize::Zeroizing;

/// A pair, ready to compute.
pub(crate) struct Pair {
    kind: Kind,
    pkcs8: Zeroizing<Vec<u8>>,
}

enum Kind {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>, &'static Curve),
    Ed25519(Box<Ed25519KeyPair>),
    MlDsa(Box<PqdsaKeyPair>, &'static PqdsaVerificationAlgorithm),
}

/// What is to be signed.
#[derive(Clone, Copy)]
pub(crate) enum Message<'a> {
    Whole(&'a [u8]),
    Digest(&'a [u8]),
}

/// Why nothing was signed or verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SigningError {
    /// A digest of another length than the algorithm's.
    DigestLength,
    /// The algorithm is none of the pair's, or cannot take a digest.
    Algorithm,
    /// The library refused.
    Failed,
}

/// RSA encryption with OAEP; hash and MGF1's hash are the same.
pub(crate) struct Oaep(&'static OaepAlgorithm, usize);

impl Oaep {
    /// `None` for other algorithms.
    pub(crate) fn of(name: &EncryptionAlgorithm) -> Option<Self> {
        match name {
            EncryptionAlgorithm::RsaesOaepSha1 => Some(Self(&OAEP_SHA1_MGF1SHA1, 20)),
            EncryptionAlgorithm::RsaesOaepSha256 => Some(Self(&OAEP_SHA256_MGF1SHA256, 32)),
            EncryptionAlgorithm::SymmetricDefault
            | EncryptionAlgorithm::Sm2pke
            | EncryptionAlgorithm::Unknown(_) => None,
        }
    }

    /// The longest plaintext under a modulus of this many bytes (RFC 8017, 7.1.1).
    pub(crate) fn longest(&self, modulus: usize) -> usize {
        modulus.saturating_sub(2 * self.1 + 2)
    }
}

struct Curve {
    spec: KeySpec,
    signing: &'static EcdsaSigningAlgorithm,
    verifying: &'static dyn VerificationAlgorithm,
    digest: &'static digest::Algorithm,
}

static CURVES: [Curve; 4] = [
    Curve {
        spec: KeySpec::EccNistP256,
        signing: &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        verifying: &signature::ECDSA_P256_SHA256_ASN1,
        digest: &digest::SHA256,
    },
    Curve {
        spec: KeySpec::EccNistP384,
        signing: &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        verifying: &signature::ECDSA_P384_SHA384_ASN1,
        digest: &digest::SHA384,
    },
    Curve {
        spec: KeySpec::EccNistP521,
        signing: &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
        verifying: &signature::ECDSA_P521_SHA512_ASN1,
        digest: &digest::SHA512,
    },
    Curve {
        spec: KeySpec::EccSecgP256k1,
        signing: &signature::ECDSA_P256K1_SHA256_ASN1_SIGNING,
        verifying: &signature::ECDSA_P256K1_SHA256_ASN1,
        digest: &digest::SHA256,
    },
];

fn curve(spec: &KeySpec) -> Option<&'static Curve> {
    CURVES.iter().find(|curve| curve.spec == *spec)
}

fn rsa_size(spec: &KeySpec) -> Option<(KeySize, usize)> {
    match spec {
        KeySpec::Rsa2048 => Some((KeySize::Rsa2048, 256)),
        KeySpec::Rsa3072 => Some((KeySize::Rsa3072, 384)),
        KeySpec::Rsa4096 => Some((KeySize::Rsa4096, 512)),
        _ => None,
    }
}

fn ml_dsa(
    spec: &KeySpec,
) -> Option<(
    &'static PqdsaSigningAlgorithm,
    &'static PqdsaVerificationAlgorithm,
)> {
    match spec {
        KeySpec::MlDsa44 => Some((&signature::ML_DSA_44_SIGNING, &signature::ML_DSA_44)),
        KeySpec::MlDsa65 => Some((&signature::ML_DSA_65_SIGNING, &signature::ML_DSA_65)),
        KeySpec::MlDsa87 => Some((&signature::ML_DSA_87_SIGNING, &signature::ML_DSA_87)),
        _ => None,
    }
}

/// How RSA signs under a name: padding, verification, hash.
fn rsa_signing(
    name: &SigningAlgorithm,
) -> Option<(
    &'static dyn RsaEncoding,
    &'static dyn VerificationAlgorithm,
    &'static digest::Algorithm,
)> {
    use signature as s;
    Some(match name {
        SigningAlgorithm::RsassaPssSha256 => (
            &s::RSA_PSS_SHA256,
            &s::RSA_PSS_2048_8192_SHA256,
            &digest::SHA256,
        ),
        SigningAlgorithm::RsassaPssSha384 => (
            &s::RSA_PSS_SHA384,
            &s::RSA_PSS_2048_8192_SHA384,
            &digest::SHA384,
        ),
        SigningAlgorithm::RsassaPssSha512 => (
            &s::RSA_PSS_SHA512,
            &s::RSA_PSS_2048_8192_SHA512,
            &digest::SHA512,
        ),
        SigningAlgorithm::RsassaPkcs1V15Sha256 => (
            &s::RSA_PKCS1_SHA256,
            &s::RSA_PKCS1_2048_8192_SHA256,
            &digest::SHA256,
        ),
        SigningAlgorithm::RsassaPkcs1V15Sha384 => (
            &s::RSA_PKCS1_SHA384,
            &s::RSA_PKCS1_2048_8192_SHA384,
            &digest::SHA384,
        ),
        SigningAlgorithm::RsassaPkcs1V15Sha512 => (
            &s::RSA_PKCS1_SHA512,
            &s::RSA_PKCS1_2048_8192_SHA512,
            &digest::SHA512,
        ),
        _ => return None,
    })
}

impl Pair {
    /// A new pair. The specs that the service refuses never come here.
    pub(crate) fn generate(spec: &KeySpec) -> Result<Self, NoRandomness> {
        let pkcs8 = if let Some((size, _)) = rsa_size(spec) {
            let pair = RsaKeyPair::generate(size).map_err(|_| NoRandomness)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| NoRandomness)?;
            owned(der.as_ref())
        } else if let Some(curve) = curve(spec) {
            let pair = EcdsaKeyPair::generate(curve.signing).map_err(|_| NoRandomness)?;
            owned(pair.to_pkcs8v1().map_err(|_| NoRandomness)?.as_ref())
        } else if let Some((algorithm, _)) = ml_dsa(spec) {
            let pair = PqdsaKeyPair::generate(algorithm).map_err(|_| NoRandomness)?;
            owned(pair.to_pkcs8v1().map_err(|_| NoRandomness)?.as_ref())
        } else {
            let pair = Ed25519KeyPair::generate().map_err(|_| NoRandomness)?;
            owned(pair.to_pkcs8v1().map_err(|_| NoRandomness)?.as_ref())
        };
        Self::read(spec, &pkcs8).map_err(|NotMaterial| NoRandomness)
    }

    /// Reads PKCS#8; refuses a key of another kind or size.
    pub(crate) fn read(spec: &KeySpec, pkcs8: &[u8]) -> Result<Self, NotMaterial> {
        let kind = if let Some((_, modulus)) = rsa_size(spec) {
            let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| NotMaterial)?;
            if pair.public_modulus_len() != modulus {
                return Err(NotMaterial);
            }
            Kind::Rsa(Box::new(pair))
        } else if let Some(curve) = curve(spec) {
            let pair = EcdsaKeyPair::from_pkcs8(curve.signing, pkcs8).map_err(|_| NotMaterial)?;
            Kind::Ecdsa(Box::new(pair), curve)
        } else if let Some((algorithm, verifying)) = ml_dsa(spec) {
            let pair = PqdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| NotMaterial)?;
            Kind::MlDsa(Box::new(pair), verifying)
        } else if *spec == KeySpec::EccNistEdwards25519 {
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| NotMaterial)?;
            Kind::Ed25519(Box::new(pair))
        } else {
            return Err(NotMaterial);
        };
        Ok(Self {
            kind,
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
        })
    }

    /// Hands the private key over: to be sealed, or to the owner of a pair of data keys.
    pub(crate) fn into_pkcs8(self) -> Zeroizing<Vec<u8>> {
        self.pkcs8
    }

    /// DER of the `SubjectPublicKeyInfo`.
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        let der: Result<PublicKeyX509Der<'_>, _> = match &self.kind {
            Kind::Rsa(pair) => pair.public_key().as_der(),
            Kind::Ecdsa(pair, _) => pair.public_key().as_der(),
            Kind::Ed25519(pair) => pair.public_key().as_der(),
            Kind::MlDsa(pair, _) => pair.public_key().as_der(),
        };
        der.ok().map(|der| der.as_ref().to_vec())
    }

    /// The bytes of an RSA modulus.
    pub(crate) fn modulus_len(&self) -> Option<usize> {
        match &self.kind {
            Kind::Rsa(pair) => Some(pair.public_modulus_len()),
            _ => None,
        }
    }

    pub(crate) fn sign(
        &self,
        name: &SigningAlgorithm,
        message: Message<'_>,
    ) -> Result<Vec<u8>, SigningError> {
        let failed = |_| SigningError::Failed;
        match &self.kind {
            Kind::Rsa(pair) => {
                let (padding, _, hash) = rsa_signing(name).ok_or(SigningError::Algorithm)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                match message {
                    Message::Whole(message) => {
                        pair.sign(padding, &SystemRandom::new(), message, &mut signature)
                    }
                    Message::Digest(digest) => {
                        pair.sign_digest(padding, &imported(digest, hash)?, &mut signature)
                    }
                }
                .map_err(failed)?;
                Ok(signature)
            }
            Kind::Ecdsa(pair, curve) => {
                let signature = match message {
                    Message::Whole(message) => pair.sign(&SystemRandom::new(), message),
                    Message::Digest(digest) => pair.sign_digest(&imported(digest, curve.digest)?),
                };
                Ok(signature.map_err(failed)?.as_ref().to_vec())
            }
            Kind::Ed25519(pair) => match message {
                Message::Whole(message) => {
                    Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec())
                }
                Message::Digest(_) => Err(SigningError::Algorithm),
            },
            Kind::MlDsa(pair, _) => match message {
                Message::Whole(message) => {
                    let mut signature = vec![0; pair.algorithm().signature_len()];
                    let length = pair.sign(message, &mut signature).map_err(failed)?;
                    signature.truncate(length);
                    Ok(signature)
                }
                Message::Digest(_) => Err(SigningError::Algorithm),
            },
        }
    }

    /// Whether the signature is right.
    pub(crate) fn verify(
        &self,
        name: &SigningAlgorithm,
        message: Message<'_>,
        signature: &[u8],
    ) -> Result<bool, SigningError> {
        let (algorithm, public_key, hash): (&'static dyn VerificationAlgorithm, &[u8], _) =
            match &self.kind {
                Kind::Rsa(pair) => {
                    let (_, algorithm, hash) = rsa_signing(name).ok_or(SigningError::Algorithm)?;
                    (algorithm, pair.public_key().as_ref(), Some(hash))
                }
                Kind::Ecdsa(pair, curve) => (
                    curve.verifying,
                    pair.public_key().as_ref(),
                    Some(curve.digest),
                ),
                Kind::Ed25519(pair) => (&signature::ED25519, pair.public_key().as_ref(), None),
                Kind::MlDsa(pair, verifying) => (*verifying, pair.public_key().as_ref(), None),
            };
        let key = UnparsedPublicKey::new(algorithm, public_key);
        let outcome = match (message, hash) {
            (Message::Whole(message), _) => key.verify(message, signature),
            (Message::Digest(digest), Some(hash)) => {
                key.verify_digest(&imported(digest, hash)?, signature)
            }
            (Message::Digest(_), None) => return Err(SigningError::Algorithm),
        };
        Ok(outcome.is_ok())
    }

    /// Encrypts to the public half. `None` unless this is RSA and the plaintext fits.
    pub(crate) fn encrypt(&self, oaep: &Oaep, plaintext: &[u8]) -> Option<Vec<u8>> {
        let Kind::Rsa(_) = &self.kind else {
            return None;
        };
        let public = PublicEncryptingKey::from_der(&self.public_key()?).ok()?;
        let key = OaepPublicEncryptingKey::new(public).ok()?;
        let mut ciphertext = vec![0; key.ciphertext_size()];
        let length = key
            .encrypt(oaep.0, plaintext, &mut ciphertext, None)
            .ok()?
            .len();
        ciphertext.truncate(length);
        Some(ciphertext)
    }

    /// Decrypts; `None` for whatever does not fit.
    pub(crate) fn decrypt(&self, oaep: &Oaep, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let Kind::Rsa(_) = &self.kind else {
            return None;
        };
        let private = PrivateDecryptingKey::from_pkcs8(&self.pkcs8).ok()?;
        let key = OaepPrivateDecryptingKey::new(private).ok()?;
        let mut plaintext = Zeroizing::new(vec![0; key.min_output_size()]);
        let length = key
            .decrypt(oaep.0, ciphertext, &mut plaintext, None)
            .ok()?
            .len();
        plaintext.truncate(length);
        Some(plaintext)
    }

    /// The secret shared with the owner of a public key (`SubjectPublicKeyInfo`) on the same curve.
    pub(crate) fn agree(&self, spec: &KeySpec, other: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        agreement::agree(spec, &self.pkcs8, other)
    }
}

fn owned(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.to_vec())
}

fn imported(digest: &[u8], hash: &'static digest::Algorithm) -> Result<Digest, SigningError> {
    Digest::import_less_safe(digest, hash).map_err(|_| SigningError::DigestLength)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::material::signing_algorithms;
    use anchorhold_kms_wire::shapes::KeyUsage;

    #[test]
    fn every_kind_signs_and_verifies_messages_and_digests() {
        for spec in [
            KeySpec::Rsa2048,
            KeySpec::EccNistP256,
            KeySpec::EccNistP384,
            KeySpec::EccNistP521,
            KeySpec::EccSecgP256k1,
            KeySpec::EccNistEdwards25519,
            KeySpec::MlDsa44,
            KeySpec::MlDsa65,
            KeySpec::MlDsa87,
        ] {
            let pair = Pair::generate(&spec).unwrap();
            let pkcs8 = pair.pkcs8.clone();
            let again = Pair::read(&spec, &pkcs8).unwrap();
            assert_eq!(pair.public_key().unwrap(), again.public_key().unwrap());
            for name in signing_algorithms(&spec, &KeyUsage::SignVerify).unwrap() {
                let whole = Message::Whole(b"message");
                let signature = pair.sign(name, whole).unwrap();
                assert_eq!(
                    again.verify(name, whole, &signature),
                    Ok(true),
                    "{spec} {name}"
                );
                let other = Message::Whole(b"massage");
                assert_eq!(again.verify(name, other, &signature), Ok(false), "{name}");
                let mut changed = signature.clone();
                *changed.last_mut().unwrap() ^= 1;
                assert_eq!(again.verify(name, whole, &changed), Ok(false), "{name}");
                assert_eq!(again.verify(name, whole, b""), Ok(false), "{name}");
                let hash = match name.as_str().rsplit('_').next().unwrap() {
                    _ if matches!(spec, KeySpec::EccNistEdwards25519) => None,
                    _ if *name == SigningAlgorithm::MlDsaShake256 => None,
                    "256" => Some(&digest::SHA256),
                    "384" => Some(&digest::SHA384),
                    _ => Some(&digest::SHA512),
                };
                match hash {
                    None => assert_eq!(
                        pair.sign(name, Message::Digest(&[0; 64])),
                        Err(SigningError::Algorithm)
                    ),
                    Some(hash) => {
                        let digest = digest::digest(hash, b"message");
                        let digest = Message::Digest(digest.as_ref());
                        // One kind is verified as the other: the message was hashed once.
                        assert_eq!(again.verify(name, digest, &signature), Ok(true));
                        let signature = pair.sign(name, digest).unwrap();
                        assert_eq!(again.verify(name, whole, &signature), Ok(true));
                        assert_eq!(
                            pair.sign(name, Message::Digest(b"short")),
                            Err(SigningError::DigestLength)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_of_another_kind_is_not_read() {
        let p256 = Pair::generate(&KeySpec::EccNistP256).unwrap().into_pkcs8();
        for spec in [
            KeySpec::Rsa2048,
            KeySpec::EccNistP384,
            KeySpec::EccSecgP256k1,
            KeySpec::EccNistEdwards25519,
            KeySpec::MlDsa44,
            KeySpec::SymmetricDefault,
        ] {
            assert!(Pair::read(&spec, &p256).is_err(), "{spec}");
        }
        let rsa = Pair::generate(&KeySpec::Rsa2048).unwrap().into_pkcs8();
        assert!(Pair::read(&KeySpec::Rsa3072, &rsa).is_err());
        for length in [0, 1, 20, p256.len() - 1] {
            assert!(Pair::read(&KeySpec::EccNistP256, &p256[..length]).is_err());
        }
    }

    #[test]
    fn oaep_takes_what_fits_and_opens_nothing_else() {
        let pair = Pair::generate(&KeySpec::Rsa2048).unwrap();
        for (name, longest) in [
            (EncryptionAlgorithm::RsaesOaepSha1, 214),
            (EncryptionAlgorithm::RsaesOaepSha256, 190),
        ] {
            let oaep = Oaep::of(&name).unwrap();
            assert_eq!(oaep.longest(pair.modulus_len().unwrap()), longest);
            let plaintext = vec![7; longest];
            let ciphertext = pair.encrypt(&oaep, &plaintext).unwrap();
            assert_eq!(*pair.decrypt(&oaep, &ciphertext).unwrap(), plaintext);
            assert!(pair.encrypt(&oaep, &vec![7; longest + 1]).is_none());
            assert!(pair.decrypt(&oaep, &ciphertext[1..]).is_none());
            let mut changed = ciphertext.clone();
            changed[100] ^= 1;
            assert!(pair.decrypt(&oaep, &changed).is_none());
        }
    }
}
