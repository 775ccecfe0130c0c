//! Key material: making it, importing it, computing with it.
//!
//! The rest of the service holds [`Material`] and asks it for results; only this module and the
//! store's sealing see its bytes. Material that lives elsewhere, in a token that never gives it
//! out, is one more variant here. No function returns a byte of a private key, but for pairs that
//! are made to be handed out, and nothing here has `Debug` or `Clone`.

mod agreement;
mod in_token;
mod mac;
mod pair;
mod wrapping;

pub(crate) use in_token::{InToken, Link, TokenTrouble, is_final};
pub(crate) use pair::{Message, Oaep, Pair, SigningError};
pub(crate) use wrapping::{WrappingKey, is_wrapping_supported};

use crate::sealing::{NoRandomness, Secret, fill_random};
use anchorhold_kms_wire::shapes::{
    EncryptionAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm,
};
use zeroize::Zeroizing;

/// A key's material, in one generation.
pub(crate) enum Material {
    /// AES-256, for ciphertexts of this service.
    Symmetric(Secret),
    /// For HMAC.
    Mac(Zeroizing<Vec<u8>>),
    /// RSA, elliptic curves, ML-DSA.
    Pair(Box<Pair>),
    /// AES-256 that a token holds.
    InToken(InToken),
}

/// Bytes that are no material of the key's spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotMaterial;

impl Material {
    /// New material, as bytes to be sealed. Pairs take from microseconds to seconds (RSA).
    pub(crate) fn generate(spec: &KeySpec) -> Result<Zeroizing<Vec<u8>>, NoRandomness> {
        let length = match spec {
            KeySpec::SymmetricDefault => 32,
            other => match mac::key_lengths(other) {
                Some(lengths) => *lengths.start(),
                None => return Pair::generate(spec).map(Pair::into_pkcs8),
            },
        };
        let mut bytes = Zeroizing::new(vec![0; length]);
        fill_random(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads material back, or takes what an owner brings.
    pub(crate) fn read(spec: &KeySpec, bytes: &[u8]) -> Result<Self, NotMaterial> {
        if *spec == KeySpec::SymmetricDefault {
            return Secret::from_slice(bytes)
                .map(Self::Symmetric)
                .ok_or(NotMaterial);
        }
        match mac::key_lengths(spec) {
            Some(lengths) if lengths.contains(&bytes.len()) => {
                Ok(Self::Mac(Zeroizing::new(bytes.to_vec())))
            }
            Some(_) => Err(NotMaterial),
            None => Pair::read(spec, bytes).map(|pair| Self::Pair(Box::new(pair))),
        }
    }

    /// DER of a pair's `SubjectPublicKeyInfo`; `None` for material without a public half.
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::Pair(pair) => pair.public_key(),
            Self::Symmetric(_) | Self::Mac(_) | Self::InToken(_) => None,
        }
    }

    pub(crate) fn pair(&self) -> Option<&Pair> {
        match self {
            Self::Pair(pair) => Some(pair),
            Self::Symmetric(_) | Self::Mac(_) | Self::InToken(_) => None,
        }
    }

    /// `None` where the material is not for HMAC.
    pub(crate) fn mac(&self, algorithm: &MacAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Mac(key) => mac::generate(key, algorithm, message),
            Self::Symmetric(_) | Self::Pair(_) | Self::InToken(_) => None,
        }
    }

    /// Compares in constant time. `None` where the material is not for HMAC.
    pub(crate) fn verify_mac(
        &self,
        algorithm: &MacAlgorithm,
        message: &[u8],
        code: &[u8],
    ) -> Option<bool> {
        match self {
            Self::Mac(key) => mac::verify(key, algorithm, message, code),
            Self::Symmetric(_) | Self::Pair(_) | Self::InToken(_) => None,
        }
    }
}

/// The usages that a spec allows, the only or first one first.
pub(crate) fn usages(spec: &KeySpec) -> &'static [KeyUsage] {
    match spec {
        KeySpec::SymmetricDefault => &[KeyUsage::EncryptDecrypt],
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => {
            &[KeyUsage::EncryptDecrypt, KeyUsage::SignVerify]
        }
        KeySpec::EccNistP256 | KeySpec::EccNistP384 | KeySpec::EccNistP521 => {
            &[KeyUsage::SignVerify, KeyUsage::KeyAgreement]
        }
        KeySpec::EccSecgP256k1
        | KeySpec::EccNistEdwards25519
        | KeySpec::MlDsa44
        | KeySpec::MlDsa65
        | KeySpec::MlDsa87 => &[KeyUsage::SignVerify],
        KeySpec::Hmac224 | KeySpec::Hmac256 | KeySpec::Hmac384 | KeySpec::Hmac512 => {
            &[KeyUsage::GenerateVerifyMac]
        }
        KeySpec::Sm2
        | KeySpec::MlKem512
        | KeySpec::MlKem768
        | KeySpec::MlKem1024
        | KeySpec::Unknown(_) => &[],
    }
}

/// How a key of this spec and usage encrypts.
pub(crate) fn encryption_algorithms(
    spec: &KeySpec,
    usage: &KeyUsage,
) -> Option<&'static [EncryptionAlgorithm]> {
    match (spec, usage) {
        (KeySpec::SymmetricDefault, _) => Some(&[EncryptionAlgorithm::SymmetricDefault]),
        (KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096, KeyUsage::EncryptDecrypt) => {
            Some(&[
                EncryptionAlgorithm::RsaesOaepSha1,
                EncryptionAlgorithm::RsaesOaepSha256,
            ])
        }
        _ => None,
    }
}

/// How a key of this spec and usage signs.
pub(crate) fn signing_algorithms(
    spec: &KeySpec,
    usage: &KeyUsage,
) -> Option<&'static [SigningAlgorithm]> {
    if *usage != KeyUsage::SignVerify {
        return None;
    }
    match spec {
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => Some(&[
            SigningAlgorithm::RsassaPkcs1V15Sha256,
            SigningAlgorithm::RsassaPkcs1V15Sha384,
            SigningAlgorithm::RsassaPkcs1V15Sha512,
            SigningAlgorithm::RsassaPssSha256,
            SigningAlgorithm::RsassaPssSha384,
            SigningAlgorithm::RsassaPssSha512,
        ]),
        KeySpec::EccNistP256 | KeySpec::EccSecgP256k1 => Some(&[SigningAlgorithm::EcdsaSha256]),
        KeySpec::EccNistP384 => Some(&[SigningAlgorithm::EcdsaSha384]),
        KeySpec::EccNistP521 => Some(&[SigningAlgorithm::EcdsaSha512]),
        KeySpec::EccNistEdwards25519 => Some(&[SigningAlgorithm::Ed25519Sha512]),
        KeySpec::MlDsa44 | KeySpec::MlDsa65 | KeySpec::MlDsa87 => {
            Some(&[SigningAlgorithm::MlDsaShake256])
        }
        _ => None,
    }
}

/// How a key of this spec authenticates messages.
pub(crate) fn mac_algorithms(spec: &KeySpec) -> Option<&'static [MacAlgorithm]> {
    match spec {
        KeySpec::Hmac224 => Some(&[MacAlgorithm::HmacSha224]),
        KeySpec::Hmac256 => Some(&[MacAlgorithm::HmacSha256]),
        KeySpec::Hmac384 => Some(&[MacAlgorithm::HmacSha384]),
        KeySpec::Hmac512 => Some(&[MacAlgorithm::HmacSha512]),
        _ => None,
    }
}

/// How a key of this usage agrees on secrets.
pub(crate) fn agreement_algorithms(usage: &KeyUsage) -> Option<&'static [KeyAgreementAlgorithm]> {
    (*usage == KeyUsage::KeyAgreement).then_some(&[KeyAgreementAlgorithm::Ecdh])
}
