//! Keys and signatures, held against known answers and against another implementation (AWS-LC, and OpenSSL's command where
//! there is one).

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use anchorhold_job_custody::key::{Algorithm, KeyError, PrivateKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256K1_SHA256_ASN1,
    ECDSA_P256K1_SHA256_FIXED, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, ED25519,
    UnparsedPublicKey, VerificationAlgorithm,
};
use proptest::prelude::*;
use zeroize::Zeroizing;

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

/// PKCS#8 around a scalar or a seed, as RFC 5915, 5958 and 8410 have it, without the public key.
fn pkcs8(algorithm: Algorithm, secret: &[u8]) -> Vec<u8> {
    let (identifier, inner) = match algorithm {
        Algorithm::P256 => ("301306072a8648ce3d020106082a8648ce3d030107", true),
        Algorithm::P384 => ("301006072a8648ce3d020106052b81040022", true),
        Algorithm::Secp256k1 => ("301006072a8648ce3d020106052b8104000a", true),
        Algorithm::Ed25519 => ("300506032b6570", false),
    };
    let wrap = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 128);
        [&[tag, length], content].concat()
    };
    let octets = wrap(4, secret);
    let key = if inner {
        wrap(0x30, &[&[2, 1, 1][..], &octets].concat())
    } else {
        octets
    };
    wrap(
        0x30,
        &[&[2, 1, 0][..], &hex(identifier), &wrap(4, &key)].concat(),
    )
}

fn key(algorithm: Algorithm, secret: &str) -> PrivateKey {
    PrivateKey::from_pkcs8(algorithm, &pkcs8(algorithm, &hex(secret))).unwrap()
}

#[test]
fn signatures_are_the_published_ones() {
    // RFC 6979, A.2.5 and A.2.6, message "sample", SHA-256 and SHA-384; RFC 8032, 7.1, tests 2 and 3; the secp256k1 answer is
    // the one that libsecp256k1 and bitcoinjs publish for "Satoshi Nakamoto" under the key 1.
    let p256 = key(
        Algorithm::P256,
        "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
    );
    let made = p256.sign_message(b"sample").unwrap();
    let r = "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716";
    // The RFC's s is F7CB1C94…, the higher one; this is the order less that.
    let s = "0834E36AD29A83BF2BC9385E491D6099C8FDF9D1ED67AA7EA5F51F93782857A9";
    assert_eq!(made.raw, hex(&format!("{r}{s}")));

    let p384 = key(
        Algorithm::P384,
        "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5",
    );
    let made = p384.sign_message(b"sample").unwrap();
    let r = "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46";
    // The RFC's s is 99EF4AEB…, the higher one.
    let s = "6610B514EA0E87315E01BF24D9FCEC70ECF18BF5E69DBAD9A727EA302393848FB4F04C6CD0423FDC7169525094629EAB";
    assert_eq!(made.raw, hex(&format!("{r}{s}")));

    for (seed, message, signature) in [
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let made = key(Algorithm::Ed25519, seed)
            .sign_message(&hex(message))
            .unwrap();
        assert_eq!(made.raw, hex(signature));
        assert_eq!(made.der, None);
    }

    let one = format!("{}01", "00".repeat(31));
    let made = key(Algorithm::Secp256k1, &one)
        .sign_message(b"Satoshi Nakamoto")
        .unwrap();
    let expected = "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8\
                    2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5";
    assert_eq!(made.raw, hex(&expected.replace(' ', "")));
}

type Verifiers = (
    &'static dyn VerificationAlgorithm,
    Option<&'static dyn VerificationAlgorithm>,
);

fn verifiers(algorithm: Algorithm) -> Verifiers {
    match algorithm {
        Algorithm::P256 => (&ECDSA_P256_SHA256_FIXED, Some(&ECDSA_P256_SHA256_ASN1)),
        Algorithm::P384 => (&ECDSA_P384_SHA384_FIXED, Some(&ECDSA_P384_SHA384_ASN1)),
        Algorithm::Secp256k1 => (&ECDSA_P256K1_SHA256_FIXED, Some(&ECDSA_P256K1_SHA256_ASN1)),
        Algorithm::Ed25519 => (&ED25519, None),
    }
}

/// The point or the 32 bytes at the end of a SubjectPublicKeyInfo.
fn bare(algorithm: Algorithm, spki: &[u8]) -> &[u8] {
    let length = match algorithm {
        Algorithm::P256 | Algorithm::Secp256k1 => 65,
        Algorithm::P384 => 97,
        Algorithm::Ed25519 => 32,
    };
    &spki[spki.len() - length..]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn another_implementation_verifies_what_new_keys_sign(message in prop::collection::vec(any::<u8>(), 0..200)) {
        for algorithm in Algorithm::ALL {
            let key = PrivateKey::make(algorithm).unwrap();
            let made = key.sign_message(&message).unwrap();
            let public = key.public_key();
            let bytes = bare(algorithm, &public);
            let (fixed, asn1) = verifiers(algorithm);
            let verified = |by: &'static dyn VerificationAlgorithm, message: &[u8], signature: &[u8]| {
                UnparsedPublicKey::new(by, bytes).verify(message, signature).is_ok()
            };
            prop_assert!(verified(fixed, &message, &made.raw), "{algorithm:?}");
            if let (Some(asn1), Some(der)) = (asn1, &made.der) {
                prop_assert!(verified(asn1, &message, der), "{algorithm:?}");
            }
            let other = [&message[..], b"x"].concat();
            prop_assert!(!verified(fixed, &other, &made.raw));
            // The lower half of the order begins with a byte of 7f at most, on all of these curves.
            if made.der.is_some() {
                prop_assert!(made.raw[made.raw.len() / 2] < 0x80, "s is the lower one");
            }
            // The same again after it was sealed and loaded.
            let again = PrivateKey::from_pkcs8(algorithm, &key.to_pkcs8()).unwrap();
            prop_assert_eq!(again.public_key(), public);
            prop_assert_eq!(again.sign_message(&message).unwrap(), made);
        }
    }

    #[test]
    fn no_bytes_are_taken_for_a_key_of_another_kind(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for algorithm in Algorithm::ALL {
            prop_assert!(PrivateKey::from_pkcs8(algorithm, &bytes).is_err());
        }
    }
}

#[test]
fn a_key_of_one_kind_is_none_of_another_and_digests_have_their_length() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::make(algorithm).unwrap();
        for other in Algorithm::ALL {
            let read = PrivateKey::from_pkcs8(other, &key.to_pkcs8());
            assert_eq!(read.is_ok(), other == algorithm);
        }
        for length in [0, 20, 31, 33, 47, 49, 64] {
            assert!(key.sign_digest(&vec![1; length]).is_err());
        }
        match algorithm.digest_bytes() {
            Some(bytes) => assert!(key.sign_digest(&vec![1; bytes]).is_ok()),
            None => assert_eq!(key.sign_digest(&[1; 32]), Err(KeyError::NoDigests)),
        }
    }
    // Zero, and the order itself, are no private keys.
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    for scalar in ["00".repeat(32), order.to_owned()] {
        let der = pkcs8(Algorithm::P256, &hex(&scalar));
        assert!(PrivateKey::from_pkcs8(Algorithm::P256, &der).is_err());
    }
}

#[test]
fn openssl_reads_the_public_keys_and_verifies_the_signatures() {
    let there = Command::new("openssl").arg("version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "NOT TESTED: there is no openssl");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let message = file("message", b"as it is");
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::make(algorithm).unwrap();
        let made = key.sign_message(b"as it is").unwrap();
        let public = file("public", &key.public_key());
        let signature = file("signature", made.der.as_ref().unwrap_or(&made.raw));
        let mut verify = Command::new("openssl");
        verify
            .args([
                "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin", "-inkey",
            ])
            .arg(&public)
            .arg("-in")
            .arg(&message)
            .arg("-sigfile")
            .arg(&signature);
        match algorithm {
            Algorithm::P384 => verify.args(["-digest", "sha384"]),
            Algorithm::P256 | Algorithm::Secp256k1 => verify.args(["-digest", "sha256"]),
            Algorithm::Ed25519 => &mut verify,
        };
        let output = verify.output().unwrap();
        assert!(output.status.success(), "{algorithm:?}: {output:?}");

        // The way in: what openssl makes is read.
        let made = Command::new("openssl")
            .args(match algorithm {
                Algorithm::Ed25519 => &["genpkey", "-algorithm", "ed25519", "-outform", "DER"][..],
                Algorithm::P256 => &[
                    "genpkey",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-outform",
                    "DER",
                ],
                Algorithm::P384 => &[
                    "genpkey",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-384",
                    "-outform",
                    "DER",
                ],
                Algorithm::Secp256k1 => &[
                    "genpkey",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    "ec_paramgen_curve:secp256k1",
                    "-outform",
                    "DER",
                ],
            })
            .output()
            .unwrap();
        let mut convert = Command::new("openssl")
            .args([
                "pkcs8", "-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        convert
            .stdin
            .take()
            .unwrap()
            .write_all(&made.stdout)
            .unwrap();
        let pkcs8 = Zeroizing::new(convert.wait_with_output().unwrap().stdout);
        let read = PrivateKey::from_pkcs8(algorithm, &pkcs8);
        assert!(read.is_ok(), "{algorithm:?}");
    }
}
