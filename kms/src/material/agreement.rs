//! Elliptic-curve Diffie-Hellman (SP 800-56A): the x-coordinate of the shared point.
//!
//! The other's key is a stranger's: it is only taken in the one form in which this service writes
//! such keys itself, a named curve and an uncompressed point, and the point is checked to lie on
//! the curve.

use anchorhold_kms_wire::shapes::KeySpec;
use aws_lc_rs::agreement::{self, Algorithm, PrivateKey, UnparsedPublicKey};
use zeroize::Zeroizing;

/// Curve, and what stands before the point in a `SubjectPublicKeyInfo` (RFC 5480).
fn curve(spec: &KeySpec) -> Option<(&'static Algorithm, &'static [u8], usize)> {
    const P256: &[u8] = &[
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    const P384: &[u8] = &[
        0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05,
        0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
    ];
    const P521: &[u8] = &[
        0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
        0x05, 0x2b, 0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
    ];
    match spec {
        KeySpec::EccNistP256 => Some((&agreement::ECDH_P256, P256, 65)),
        KeySpec::EccNistP384 => Some((&agreement::ECDH_P384, P384, 97)),
        KeySpec::EccNistP521 => Some((&agreement::ECDH_P521, P521, 133)),
        _ => None,
    }
}

/// `None` where the curve has no agreement here, or the other's key is not one of the same curve.
pub(super) fn agree(spec: &KeySpec, pkcs8: &[u8], other: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (algorithm, prefix, length) = curve(spec)?;
    let point = other.strip_prefix(prefix)?;
    if point.len() != length || point[0] != 4 {
        return None;
    }
    let private = PrivateKey::from_private_key_der(algorithm, pkcs8).ok()?;
    agreement::agree(
        &private,
        UnparsedPublicKey::new(algorithm, point),
        (),
        |secret| Ok(Zeroizing::new(secret.to_vec())),
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::material::Pair;

    #[test]
    fn two_agree_on_each_curve_and_strangers_points_are_refused() {
        for (spec, length) in [
            (KeySpec::EccNistP256, 32),
            (KeySpec::EccNistP384, 48),
            (KeySpec::EccNistP521, 66),
        ] {
            let (ours, theirs) = (
                Pair::generate(&spec).unwrap(),
                Pair::generate(&spec).unwrap(),
            );
            let their_key = theirs.public_key().unwrap();
            let secret = ours.agree(&spec, &their_key).unwrap();
            assert_eq!(secret.len(), length);
            let same = theirs.agree(&spec, &ours.public_key().unwrap()).unwrap();
            assert_eq!(*secret, *same);
            // A point that is not on the curve would give away the private key, bit by bit.
            let mut off_curve = their_key.clone();
            *off_curve.last_mut().unwrap() ^= 1;
            assert!(ours.agree(&spec, &off_curve).is_none());
            for at in 0..their_key.len() {
                assert!(ours.agree(&spec, &their_key[..at]).is_none());
            }
            let mut longer = their_key.clone();
            longer.push(0);
            assert!(ours.agree(&spec, &longer).is_none());
        }
        let ours = Pair::generate(&KeySpec::EccNistP256).unwrap();
        for other in [
            KeySpec::EccNistP384,
            KeySpec::EccSecgP256k1,
            KeySpec::Rsa2048,
        ] {
            let other = Pair::generate(&other).unwrap().public_key().unwrap();
            assert!(ours.agree(&KeySpec::EccNistP256, &other).is_none());
        }
    }

    /// NIST's CAVP vector for P-256 (ECC CDH primitive, count 0).
    #[test]
    fn the_secret_is_that_of_nists_vector() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let (_, prefix, _) = curve(&KeySpec::EccNistP256).unwrap();
        let mut other = prefix.to_vec();
        other.push(4);
        other.extend(bytes(
            "700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287\
             db71e509e3fd9b060ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
        ));
        let private = PrivateKey::from_private_key(
            &agreement::ECDH_P256,
            &bytes("7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534"),
        )
        .unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
            aws_lc_rs::encoding::AsDer::as_der(&private).unwrap();
        let secret = agree(&KeySpec::EccNistP256, pkcs8.as_ref(), &other).unwrap();
        assert_eq!(
            hex::encode(&*secret),
            "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"
        );
    }
}
