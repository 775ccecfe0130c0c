//! Pairs, codes and agreement: each spec with each of its algorithms, and what does not fit.

use crate::{
    World, document, enclave, made, measured, pairs, recipient, recipient_key, refused, secret,
    simulators_policy,
};
use anchorhold_kms_wire::shapes::{
    Blob, CreateKeyRequest, DataKeyPairSpec, DecryptRequest, DeriveSharedSecretRequest,
    EncryptRequest, EncryptionAlgorithm, GenerateDataKeyPairRequest,
    GenerateDataKeyPairWithoutPlaintextRequest, GenerateMacRequest, GetPublicKeyRequest,
    KeyAgreementAlgorithm, KeySpec, KeyUsage, MacAlgorithm, MessageType, ReEncryptRequest,
    SignRequest, SigningAlgorithm, VerifyMacRequest, VerifyRequest,
};
use aws_lc_rs::signature::{self, UnparsedPublicKey};
use std::time::SystemTime;

async fn key(world: &World, spec: KeySpec, usage: KeyUsage) -> String {
    let request = CreateKeyRequest {
        key_spec: Some(spec),
        key_usage: Some(usage),
        policy: Some(simulators_policy()),
        ..CreateKeyRequest::default()
    };
    made(&world.owner(), request).await
}

async fn public_key(world: &World, key: &str) -> Vec<u8> {
    let request = GetPublicKeyRequest {
        key_id: key.to_owned(),
        ..GetPublicKeyRequest::default()
    };
    let answer = world.owner().call(&request).await.unwrap();
    assert_eq!(answer.key_id, key);
    answer.public_key.0
}

fn sign(key: &str, algorithm: &SigningAlgorithm, message: &[u8]) -> SignRequest {
    SignRequest {
        key_id: key.to_owned(),
        message: secret(message),
        signing_algorithm: algorithm.clone(),
        ..SignRequest::default()
    }
}

fn verify(key: &str, algorithm: &SigningAlgorithm, message: &[u8], made: &[u8]) -> VerifyRequest {
    VerifyRequest {
        key_id: key.to_owned(),
        message: secret(message),
        signature: Blob(made.to_vec()),
        signing_algorithm: algorithm.clone(),
        ..VerifyRequest::default()
    }
}

#[tokio::test]
async fn each_signing_key_signs_and_verifies_with_each_of_its_algorithms() {
    let world = World::new().await;
    let owner = world.owner();
    for spec in [
        KeySpec::Rsa2048,
        KeySpec::EccNistP256,
        KeySpec::EccNistP384,
        KeySpec::EccNistP521,
        KeySpec::EccSecgP256k1,
        KeySpec::EccNistEdwards25519,
        KeySpec::Rsa3072,
        KeySpec::Rsa4096,
        KeySpec::MlDsa44,
        KeySpec::MlDsa65,
        KeySpec::MlDsa87,
    ] {
        let key = key(&world, spec.clone(), KeyUsage::SignVerify).await;
        let request = GetPublicKeyRequest {
            key_id: key.clone(),
            ..GetPublicKeyRequest::default()
        };
        let public = owner.call(&request).await.unwrap();
        assert_eq!(public.key_spec.as_ref(), Some(&spec));
        assert_eq!(public.key_usage, Some(KeyUsage::SignVerify));
        assert!(public.encryption_algorithms.is_none());
        for algorithm in public.signing_algorithms.unwrap() {
            let answer = owner
                .call(&sign(&key, &algorithm, b"message"))
                .await
                .unwrap();
            assert_eq!(answer.key_id, key);
            let made = answer.signature.0;
            let checked = owner
                .call(&verify(&key, &algorithm, b"message", &made))
                .await
                .unwrap();
            assert!(checked.signature_valid);
            let wrong = verify(&key, &algorithm, b"massage", &made);
            let message = refused(&owner, &wrong, "KMSInvalidSignatureException").await;
            assert_eq!(message, "", "{algorithm}");
            let digest = SignRequest {
                message_type: Some(MessageType::Digest),
                ..sign(&key, &algorithm, b"too short")
            };
            refused(&owner, &digest, "ValidationException").await;
        }
    }
}

/// By another implementation's hand, without the service: what is published verifies.
#[tokio::test]
async fn signatures_verify_outside_with_the_public_key() {
    let world = World::new().await;
    let owner = world.owner();
    let cases: [(
        KeySpec,
        SigningAlgorithm,
        &'static dyn signature::VerificationAlgorithm,
    ); 3] = [
        (
            KeySpec::EccNistP256,
            SigningAlgorithm::EcdsaSha256,
            &signature::ECDSA_P256_SHA256_ASN1,
        ),
        (
            KeySpec::Rsa2048,
            SigningAlgorithm::RsassaPssSha256,
            &signature::RSA_PSS_2048_8192_SHA256,
        ),
        (
            KeySpec::EccNistEdwards25519,
            SigningAlgorithm::Ed25519Sha512,
            &signature::ED25519,
        ),
    ];
    for (spec, algorithm, outside) in cases {
        let key = key(&world, spec, KeyUsage::SignVerify).await;
        let public = public_key(&world, &key).await;
        let made = owner
            .call(&sign(&key, &algorithm, b"message"))
            .await
            .unwrap();
        UnparsedPublicKey::new(outside, &public)
            .verify(b"message", &made.signature.0)
            .unwrap();
    }
}

#[tokio::test]
async fn rsa_keys_encrypt_what_fits() {
    let world = World::new().await;
    let owner = world.owner();
    let key = key(&world, KeySpec::Rsa2048, KeyUsage::EncryptDecrypt).await;
    let symmetric = world.key(None).await;
    for (algorithm, longest) in [
        (EncryptionAlgorithm::RsaesOaepSha1, 214),
        (EncryptionAlgorithm::RsaesOaepSha256, 190),
    ] {
        let encrypt = |length: usize| EncryptRequest {
            key_id: key.clone(),
            plaintext: secret(&vec![7; length]),
            encryption_algorithm: Some(algorithm.clone()),
            ..EncryptRequest::default()
        };
        let answer = owner.call(&encrypt(longest)).await.unwrap();
        let decrypt = DecryptRequest {
            ciphertext_blob: Some(answer.ciphertext_blob.clone()),
            key_id: Some(key.clone()),
            encryption_algorithm: Some(algorithm.clone()),
            ..DecryptRequest::default()
        };
        let opened = owner.call(&decrypt).await.unwrap();
        assert_eq!(opened.plaintext.unwrap().expose(), vec![7; longest]);
        let message = refused(&owner, &encrypt(longest + 1), "ValidationException").await;
        assert_eq!(
            message,
            format!(
                "Algorithm {algorithm} and key spec RSA_2048 cannot encrypt data larger than {longest} bytes."
            )
        );
        let mut damaged = answer.ciphertext_blob.0.clone();
        damaged[9] ^= 1;
        let damaged = DecryptRequest {
            ciphertext_blob: Some(Blob(damaged)),
            ..decrypt
        };
        refused(&owner, &damaged, "InvalidCiphertextException").await;

        // From RSA to a symmetric key, and back.
        let over = ReEncryptRequest {
            ciphertext_blob: Some(answer.ciphertext_blob),
            source_key_id: Some(key.clone()),
            source_encryption_algorithm: Some(algorithm.clone()),
            destination_key_id: symmetric.clone(),
            destination_encryption_context: pairs(&[("a", "b")]),
            ..ReEncryptRequest::default()
        };
        let over = owner.call(&over).await.unwrap();
        assert_eq!(over.source_key_id.as_deref(), Some(key.as_str()));
        assert_eq!(over.key_id, symmetric);
        let back = ReEncryptRequest {
            ciphertext_blob: Some(over.ciphertext_blob),
            source_encryption_context: pairs(&[("a", "b")]),
            destination_key_id: key.clone(),
            destination_encryption_algorithm: Some(algorithm),
            ..ReEncryptRequest::default()
        };
        assert_eq!(owner.call(&back).await.unwrap().key_id, key);
    }
    let symmetric_algorithm = EncryptRequest {
        key_id: key.clone(),
        plaintext: secret(b"x"),
        ..EncryptRequest::default()
    };
    let message = refused(&owner, &symmetric_algorithm, "InvalidKeyUsageException").await;
    assert_eq!(
        message,
        "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048."
    );
    let with_context = EncryptRequest {
        encryption_algorithm: Some(EncryptionAlgorithm::RsaesOaepSha256),
        encryption_context: pairs(&[("a", "b")]),
        ..symmetric_algorithm
    };
    refused(&owner, &with_context, "ValidationException").await;
}

#[tokio::test]
async fn reencrypt_changes_key_and_context_and_is_asked_for_twice() {
    let world = World::new().await;
    let owner = world.owner();
    let (from, to) = (world.key(None).await, world.key(None).await);
    let ciphertext = world.ciphertext(&from, b"text", pairs(&[("a", "1")])).await;
    let request = ReEncryptRequest {
        ciphertext_blob: Some(Blob(ciphertext.clone())),
        source_encryption_context: pairs(&[("a", "1")]),
        destination_key_id: to.clone(),
        destination_encryption_context: pairs(&[("b", "2")]),
        ..ReEncryptRequest::default()
    };
    let answer = owner.call(&request).await.unwrap();
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(answer.ciphertext_blob),
        encryption_context: pairs(&[("b", "2")]),
        key_id: Some(to.clone()),
        ..DecryptRequest::default()
    };
    let opened = owner.call(&decrypt).await.unwrap();
    assert_eq!(opened.plaintext.unwrap().expose(), b"text");
    for (request, kind) in [
        (
            ReEncryptRequest {
                source_encryption_context: pairs(&[]),
                ..request.clone()
            },
            "InvalidCiphertextException",
        ),
        (
            ReEncryptRequest {
                source_key_id: Some(to.clone()),
                ..request.clone()
            },
            "IncorrectKeyException",
        ),
        (
            ReEncryptRequest {
                destination_key_id: "alias/none".to_owned(),
                ..request.clone()
            },
            "NotFoundException",
        ),
        (
            ReEncryptRequest {
                dry_run: Some(true),
                ..request.clone()
            },
            "DryRunOperationException",
        ),
        (
            ReEncryptRequest {
                ciphertext_blob: None,
                source_key_id: Some(from.clone()),
                dry_run: Some(true),
                dry_run_modifiers: vec!["IGNORE_CIPHERTEXT".to_owned()],
                ..request.clone()
            },
            "DryRunOperationException",
        ),
    ] {
        refused(&owner, &request, kind).await;
    }
    let message = refused(&world.host(), &request, "AccessDeniedException").await;
    assert!(message.contains("kms:ReEncryptFrom"), "{message}");
}

#[tokio::test]
async fn codes_are_made_and_checked() {
    let world = World::new().await;
    let owner = world.owner();
    for (spec, algorithm, length) in [
        (KeySpec::Hmac224, MacAlgorithm::HmacSha224, 28),
        (KeySpec::Hmac256, MacAlgorithm::HmacSha256, 32),
        (KeySpec::Hmac384, MacAlgorithm::HmacSha384, 48),
        (KeySpec::Hmac512, MacAlgorithm::HmacSha512, 64),
    ] {
        let key = key(&world, spec, KeyUsage::GenerateVerifyMac).await;
        let generate = GenerateMacRequest {
            key_id: key.clone(),
            message: secret(b"message"),
            mac_algorithm: algorithm.clone(),
            ..GenerateMacRequest::default()
        };
        let answer = owner.call(&generate).await.unwrap();
        assert_eq!(answer.mac.0.len(), length);
        assert_eq!(answer.key_id, key);
        let check = |message: &[u8], mac: &[u8]| VerifyMacRequest {
            key_id: key.clone(),
            message: secret(message),
            mac_algorithm: algorithm.clone(),
            mac: Blob(mac.to_vec()),
            ..VerifyMacRequest::default()
        };
        let checked = owner.call(&check(b"message", &answer.mac.0)).await.unwrap();
        assert!(checked.mac_valid);
        let wrong = check(b"massage", &answer.mac.0);
        assert_eq!(refused(&owner, &wrong, "KMSInvalidMacException").await, "");
        let cut = check(b"message", &answer.mac.0[1..]);
        refused(&owner, &cut, "KMSInvalidMacException").await;
    }
}

#[tokio::test]
async fn usages_that_do_not_fit_get_the_errors_of_aws() {
    let world = World::new().await;
    let owner = world.owner();
    let symmetric = world.key(None).await;
    let hmac = key(&world, KeySpec::Hmac256, KeyUsage::GenerateVerifyMac).await;
    let signing = key(&world, KeySpec::EccNistP256, KeyUsage::SignVerify).await;
    let mac = |key: &str, algorithm: &str| GenerateMacRequest {
        key_id: key.to_owned(),
        message: secret(b"m"),
        mac_algorithm: MacAlgorithm::from(algorithm),
        ..GenerateMacRequest::default()
    };
    let usage = "InvalidKeyUsageException";
    assert_eq!(
        refused(&owner, &mac(&symmetric, "HMAC_SHA_256"), usage).await,
        format!("{symmetric} key usage is ENCRYPT_DECRYPT which is not valid for GenerateMac.")
    );
    assert_eq!(
        refused(&owner, &mac(&hmac, "HMAC_SHA_512"), usage).await,
        "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."
    );
    let message = refused(&owner, &mac(&hmac, "INVALID"), "ValidationException").await;
    assert!(
        message.starts_with(
            "1 validation error detected: Value 'INVALID' at 'macAlgorithm' failed to satisfy \
             constraint: Member must satisfy enum value set: ["
        ),
        "{message}"
    );
    let ecdsa = SigningAlgorithm::EcdsaSha256;
    assert_eq!(
        refused(&owner, &sign(&hmac, &ecdsa, b"m"), usage).await,
        format!("{hmac} key usage is GENERATE_VERIFY_MAC which is not valid for Sign.")
    );
    let other = SigningAlgorithm::EcdsaSha384;
    assert_eq!(
        refused(&owner, &sign(&signing, &other, b"m"), usage).await,
        "Algorithm ECDSA_SHA_384 is incompatible with key spec ECC_NIST_P256."
    );
    let encrypt = EncryptRequest {
        key_id: signing.clone(),
        plaintext: secret(b"x"),
        ..EncryptRequest::default()
    };
    assert_eq!(
        refused(&owner, &encrypt, usage).await,
        format!("{signing} key usage is SIGN_VERIFY which is not valid for Encrypt.")
    );
    let ciphertext = world.ciphertext(&symmetric, b"x", pairs(&[])).await;
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        key_id: Some(signing.clone()),
        ..DecryptRequest::default()
    };
    refused(&owner, &decrypt, "IncorrectKeyException").await;
    let public = GetPublicKeyRequest {
        key_id: symmetric,
        ..GetPublicKeyRequest::default()
    };
    refused(&owner, &public, "UnsupportedOperationException").await;
    let long = sign(&signing, &ecdsa, &[0; 4097]);
    refused(&owner, &long, "ValidationException").await;
    let dry = SignRequest {
        dry_run: Some(true),
        ..sign(&signing, &ecdsa, b"m")
    };
    refused(&owner, &dry, "DryRunOperationException").await;
    refused(&world.host(), &dry, "AccessDeniedException").await;
}

#[tokio::test]
async fn two_keys_agree_on_a_secret_and_only_on_their_curve() {
    let world = World::new().await;
    let owner = world.owner();
    let (one, two) = (
        key(&world, KeySpec::EccNistP256, KeyUsage::KeyAgreement).await,
        key(&world, KeySpec::EccNistP256, KeyUsage::KeyAgreement).await,
    );
    let other = key(&world, KeySpec::EccNistP384, KeyUsage::KeyAgreement).await;
    let derive = |key: &str, public: Vec<u8>| DeriveSharedSecretRequest {
        key_id: key.to_owned(),
        key_agreement_algorithm: KeyAgreementAlgorithm::Ecdh,
        public_key: Blob(public),
        ..DeriveSharedSecretRequest::default()
    };
    let (of_one, of_two) = (
        public_key(&world, &one).await,
        public_key(&world, &two).await,
    );
    let first = owner.call(&derive(&one, of_two.clone())).await.unwrap();
    let second = owner.call(&derive(&two, of_one)).await.unwrap();
    let shared = first.shared_secret.unwrap();
    assert_eq!(shared.expose(), second.shared_secret.unwrap().expose());
    assert_eq!(first.key_id, one);

    let sealed = DeriveSharedSecretRequest {
        recipient: recipient(world.document(measured(), recipient_key().public_key_der())),
        ..derive(&one, of_two)
    };
    let sealed = owner.call(&sealed).await.unwrap();
    assert!(sealed.shared_secret.is_none());
    let opened = recipient_key()
        .open(&sealed.ciphertext_for_recipient.unwrap().0)
        .unwrap();
    assert_eq!(opened.as_slice(), shared.expose());

    let elsewhere = public_key(&world, &other).await;
    refused(&owner, &derive(&one, elsewhere), "ValidationException").await;
    refused(&owner, &derive(&one, vec![4; 91]), "ValidationException").await;
    let symmetric = world.key(None).await;
    let wrong = derive(&symmetric, vec![4; 91]);
    refused(&owner, &wrong, "InvalidKeyUsageException").await;
}

#[tokio::test]
async fn pairs_of_data_keys_are_made_open_sealed_or_for_a_recipient() {
    let world = World::new().await;
    let owner = world.owner();
    let symmetric = world.key(Some(simulators_policy())).await;
    for spec in [
        DataKeyPairSpec::Rsa2048,
        DataKeyPairSpec::EccNistP256,
        DataKeyPairSpec::EccNistP521,
        DataKeyPairSpec::EccSecgP256k1,
        DataKeyPairSpec::EccNistEdwards25519,
    ] {
        let request = GenerateDataKeyPairRequest {
            key_id: symmetric.clone(),
            key_pair_spec: spec.clone(),
            encryption_context: pairs(&[("a", "b")]),
            ..GenerateDataKeyPairRequest::default()
        };
        let pair = owner.call(&request).await.unwrap();
        assert_eq!(pair.key_id, symmetric);
        assert_eq!(pair.key_pair_spec, spec);
        let private = pair.private_key_plaintext.unwrap();
        let decrypt = DecryptRequest {
            ciphertext_blob: Some(pair.private_key_ciphertext_blob),
            encryption_context: pairs(&[("a", "b")]),
            ..DecryptRequest::default()
        };
        let opened = owner.call(&decrypt).await.unwrap().plaintext.unwrap();
        assert_eq!(opened.expose(), private.expose());
        let without = DecryptRequest {
            encryption_context: pairs(&[]),
            ..decrypt
        };
        refused(&owner, &without, "InvalidCiphertextException").await;

        let now = SystemTime::now();
        let public = recipient_key().public_key_der();
        let attested = GenerateDataKeyPairRequest {
            recipient: recipient(document(world.root, enclave(measured()), Some(public), now)),
            ..request
        };
        let sealed = owner.call(&attested).await.unwrap();
        assert!(sealed.private_key_plaintext.is_none());
        assert!(
            recipient_key()
                .open(&sealed.ciphertext_for_recipient.unwrap().0)
                .is_ok()
        );
        let closed = GenerateDataKeyPairWithoutPlaintextRequest {
            key_id: symmetric.clone(),
            key_pair_spec: spec,
            ..GenerateDataKeyPairWithoutPlaintextRequest::default()
        };
        assert!(owner.call(&closed).await.is_ok());
    }
    let request = |key: &str, spec: &str| GenerateDataKeyPairRequest {
        key_id: key.to_owned(),
        key_pair_spec: DataKeyPairSpec::from(spec),
        ..GenerateDataKeyPairRequest::default()
    };
    let rsa = key(&world, KeySpec::Rsa2048, KeyUsage::EncryptDecrypt).await;
    for (request, kind) in [
        (request(&symmetric, "SM2"), "UnsupportedOperationException"),
        (request(&symmetric, "DSA_1024"), "ValidationException"),
        (request(&rsa, "ECC_NIST_P256"), "InvalidKeyUsageException"),
    ] {
        refused(&owner, &request, kind).await;
    }
}
