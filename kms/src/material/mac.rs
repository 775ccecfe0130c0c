//! HMAC with SHA-2 (FIPS 198-1).

use anchorhold_kms_wire::shapes::{KeySpec, MacAlgorithm};
use aws_lc_rs::hmac;
use std::ops::RangeInclusive;

/// The lengths in bytes that a key of this spec may have; new ones have the shortest, that of the
/// code. `None` for specs that are not for HMAC.
pub(super) fn key_lengths(spec: &KeySpec) -> Option<RangeInclusive<usize>> {
    match spec {
        KeySpec::Hmac224 => Some(28..=64),
        KeySpec::Hmac256 => Some(32..=64),
        KeySpec::Hmac384 => Some(48..=128),
        KeySpec::Hmac512 => Some(64..=128),
        _ => None,
    }
}

fn algorithm_of(name: &MacAlgorithm) -> Option<hmac::Algorithm> {
    match name {
        MacAlgorithm::HmacSha224 => Some(hmac::HMAC_SHA224),
        MacAlgorithm::HmacSha256 => Some(hmac::HMAC_SHA256),
        MacAlgorithm::HmacSha384 => Some(hmac::HMAC_SHA384),
        MacAlgorithm::HmacSha512 => Some(hmac::HMAC_SHA512),
        MacAlgorithm::Unknown(_) => None,
    }
}

pub(super) fn generate(key: &[u8], algorithm: &MacAlgorithm, message: &[u8]) -> Option<Vec<u8>> {
    let key = hmac::Key::new(algorithm_of(algorithm)?, key);
    Some(hmac::sign(&key, message).as_ref().to_vec())
}

/// Compares in constant time.
pub(super) fn verify(
    key: &[u8],
    algorithm: &MacAlgorithm,
    message: &[u8],
    code: &[u8],
) -> Option<bool> {
    let key = hmac::Key::new(algorithm_of(algorithm)?, key);
    Some(hmac::verify(&key, message, code).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_codes_are_those_of_rfc_4231() {
        let (key, message) = (b"Jefe", b"what do ya want for nothing?");
        for (algorithm, begin) in [
            (MacAlgorithm::HmacSha224, "a30e01098bc6dbbf45690f3a7e9e6d0f"),
            (MacAlgorithm::HmacSha256, "5bdcc146bf60754e6a042426089575c7"),
            (MacAlgorithm::HmacSha384, "af45d2e376484031617f78d2b58a6b1b"),
            (MacAlgorithm::HmacSha512, "164b7a7bfcf819e2e395fbe73b56e0a3"),
        ] {
            let code = generate(key, &algorithm, message).unwrap();
            assert!(hex::encode(&code).starts_with(begin), "{algorithm}");
            assert_eq!(verify(key, &algorithm, message, &code), Some(true));
            assert_eq!(verify(key, &algorithm, message, &code[1..]), Some(false));
            assert_eq!(verify(key, &algorithm, b"", &code), Some(false));
        }
    }
}
