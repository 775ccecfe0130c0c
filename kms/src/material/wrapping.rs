//! Material on its way in: encrypted by its owner to a key that the service makes for that alone.

use super::{Oaep, Pair};
use crate::sealing::NoRandomness;
use anchorhold_kms_wire::shapes::{
    EncryptionAlgorithm, KeySpec, WrappingAlgorithm, WrappingKeySpec,
};
use aws_lc_rs::key_wrap::{AES_128, AES_256, AesKek, KeyWrapPadded as _};
use zeroize::Zeroizing;

/// The private half of the key that material is encrypted to.
pub(crate) struct WrappingKey(Pair);

/// Whether the service unwraps what was wrapped so. (PKCS#1 v1.5 is deprecated, SM2 is for China.)
pub(crate) fn is_wrapping_supported(algorithm: &WrappingAlgorithm) -> bool {
    oaep(algorithm).is_some()
}

fn oaep(algorithm: &WrappingAlgorithm) -> Option<Oaep> {
    let name = match algorithm {
        WrappingAlgorithm::RsaesOaepSha1 | WrappingAlgorithm::RsaAesKeyWrapSha1 => {
            EncryptionAlgorithm::RsaesOaepSha1
        }
        WrappingAlgorithm::RsaesOaepSha256 | WrappingAlgorithm::RsaAesKeyWrapSha256 => {
            EncryptionAlgorithm::RsaesOaepSha256
        }
        WrappingAlgorithm::RsaesPkcs1V15
        | WrappingAlgorithm::Sm2pke
        | WrappingAlgorithm::Unknown(_) => return None,
    };
    Oaep::of(&name)
}

fn key_spec(spec: &WrappingKeySpec) -> Option<KeySpec> {
    match spec {
        WrappingKeySpec::Rsa2048 => Some(KeySpec::Rsa2048),
        WrappingKeySpec::Rsa3072 => Some(KeySpec::Rsa3072),
        WrappingKeySpec::Rsa4096 => Some(KeySpec::Rsa4096),
        WrappingKeySpec::Sm2 | WrappingKeySpec::Unknown(_) => None,
    }
}

impl WrappingKey {
    /// A new one; `None` for a spec that is not there.
    pub(crate) fn generate(spec: &WrappingKeySpec) -> Option<Result<Self, NoRandomness>> {
        let spec = key_spec(spec)?;
        Some(Pair::generate(&spec).map(Self))
    }

    /// One that the service has made before.
    pub(crate) fn read(spec: &WrappingKeySpec, pkcs8: &[u8]) -> Option<Self> {
        Pair::read(&key_spec(spec)?, pkcs8).ok().map(Self)
    }

    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        self.0.public_key()
    }

    pub(crate) fn into_pkcs8(self) -> Zeroizing<Vec<u8>> {
        self.0.into_pkcs8()
    }

    /// The material; `None` if anything does not fit. With `RSA_AES_KEY_WRAP`, an AES key stands
    /// before it, encrypted to this key, and the rest is under that (RFC 5649).
    pub(crate) fn unwrap(
        &self,
        algorithm: &WrappingAlgorithm,
        wrapped: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let oaep = oaep(algorithm)?;
        if !matches!(
            algorithm,
            WrappingAlgorithm::RsaAesKeyWrapSha1 | WrappingAlgorithm::RsaAesKeyWrapSha256
        ) {
            return self.0.decrypt(&oaep, wrapped);
        }
        let (key, wrapped) = wrapped.split_at_checked(self.0.modulus_len()?)?;
        let key = self.0.decrypt(&oaep, key)?;
        let cipher = match key.len() {
            16 => &AES_128,
            32 => &AES_256,
            _ => return None,
        };
        let mut material = Zeroizing::new(vec![0; wrapped.len()]);
        let length = AesKek::new(cipher, &key)
            .ok()?
            .unwrap_with_padding(wrapped, &mut material)
            .ok()?
            .len();
        material.truncate(length);
        Some(material)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrapped_is_unwrapped_and_nothing_else() {
        let key = WrappingKey::generate(&WrappingKeySpec::Rsa2048)
            .unwrap()
            .unwrap();
        let material = [9; 45];
        for algorithm in [
            WrappingAlgorithm::RsaesOaepSha1,
            WrappingAlgorithm::RsaesOaepSha256,
            WrappingAlgorithm::RsaAesKeyWrapSha1,
            WrappingAlgorithm::RsaAesKeyWrapSha256,
        ] {
            let oaep = oaep(&algorithm).unwrap();
            let wrapped = if algorithm.as_str().starts_with("RSA_AES") {
                let kek = [3; 32];
                let mut wrapped = key.0.encrypt(&oaep, &kek).unwrap();
                let mut output = [0; 64];
                let under = AesKek::new(&AES_256, &kek)
                    .unwrap()
                    .wrap_with_padding(&material, &mut output)
                    .unwrap();
                wrapped.extend_from_slice(under);
                wrapped
            } else {
                key.0.encrypt(&oaep, &material).unwrap()
            };
            assert_eq!(*key.unwrap(&algorithm, &wrapped).unwrap(), material);
            for at in [0, 100, wrapped.len() - 1] {
                let mut changed = wrapped.clone();
                changed[at] ^= 1;
                assert!(
                    key.unwrap(&algorithm, &changed).is_none(),
                    "{algorithm} {at}"
                );
                assert!(key.unwrap(&algorithm, &wrapped[..at]).is_none());
            }
        }
        for algorithm in [WrappingAlgorithm::RsaesPkcs1V15, WrappingAlgorithm::Sm2pke] {
            assert!(!is_wrapping_supported(&algorithm));
            assert!(key.unwrap(&algorithm, &[0; 256]).is_none());
        }
    }
}
