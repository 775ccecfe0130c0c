//! Material that owners bring along: how it comes, how it goes, and that nothing else takes its
//! place.

use crate::{World, made, pairs, refused, secret};
use anchorhold_kms_wire::shapes::{
    Blob, CreateKeyRequest, DecryptRequest, DeleteImportedKeyMaterialRequest, DescribeKeyRequest,
    DisableKeyRequest, EncryptRequest, ExpirationModel, GenerateMacRequest,
    GetParametersForImportRequest, GetParametersForImportResponse, ImportKeyMaterialRequest,
    ImportType, KeyMetadata, KeySpec, KeyState, KeyUsage, MacAlgorithm, Origin,
    RotateKeyOnDemandRequest, SignRequest, SigningAlgorithm, Timestamp, VerifyRequest,
    WrappingAlgorithm, WrappingKeySpec,
};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded as _};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::EcdsaKeyPair;
use std::time::SystemTime;

async fn external(world: &World, spec: KeySpec, usage: KeyUsage) -> String {
    let request = CreateKeyRequest {
        key_spec: Some(spec),
        key_usage: Some(usage),
        origin: Some(Origin::External),
        ..CreateKeyRequest::default()
    };
    made(&world.owner(), request).await
}

async fn described(world: &World, key: &str) -> KeyMetadata {
    let request = DescribeKeyRequest {
        key_id: key.to_owned(),
        ..DescribeKeyRequest::default()
    };
    world.owner().call(&request).await.unwrap().key_metadata
}

async fn parameters(
    world: &World,
    key: &str,
    algorithm: &WrappingAlgorithm,
) -> GetParametersForImportResponse {
    let request = GetParametersForImportRequest {
        key_id: key.to_owned(),
        wrapping_algorithm: algorithm.clone(),
        wrapping_key_spec: WrappingKeySpec::Rsa2048,
    };
    let answer = world.owner().call(&request).await.unwrap();
    assert_eq!(answer.key_id, key);
    answer
}

/// As an owner wraps material, with a library and without this service.
fn wrapped(public_key: &[u8], algorithm: &WrappingAlgorithm, material: &[u8]) -> Vec<u8> {
    let public = PublicEncryptingKey::from_der(public_key).unwrap();
    let public = OaepPublicEncryptingKey::new(public).unwrap();
    let oaep = if algorithm.as_str().ends_with("SHA_256") {
        &OAEP_SHA256_MGF1SHA256
    } else {
        &OAEP_SHA1_MGF1SHA1
    };
    let encrypted = |plaintext: &[u8]| {
        let mut out = vec![0; public.ciphertext_size()];
        public
            .encrypt(oaep, plaintext, &mut out, None)
            .unwrap()
            .to_vec()
    };
    if algorithm.as_str().starts_with("RSA_AES") {
        let kek = [5; 32];
        let mut out = vec![0; material.len() + 16];
        let under = AesKek::new(&AES_256, &kek)
            .unwrap()
            .wrap_with_padding(material, &mut out)
            .unwrap();
        [encrypted(&kek), under.to_vec()].concat()
    } else {
        encrypted(material)
    }
}

/// A request that imports material without an expiry.
async fn import(world: &World, key: &str, material: &[u8]) -> ImportKeyMaterialRequest {
    let algorithm = WrappingAlgorithm::RsaAesKeyWrapSha256;
    let parameters = parameters(world, key, &algorithm).await;
    ImportKeyMaterialRequest {
        key_id: key.to_owned(),
        encrypted_key_material: Blob(wrapped(&parameters.public_key.0, &algorithm, material)),
        import_token: parameters.import_token,
        expiration_model: Some(ExpirationModel::DoesNotExpire),
        ..ImportKeyMaterialRequest::default()
    }
}

fn encrypt(key: &str) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: secret(b"x"),
        ..EncryptRequest::default()
    }
}

#[tokio::test]
async fn material_is_imported_deleted_and_imported_again_but_never_replaced() {
    let world = World::new().await;
    let owner = world.owner();
    let key = external(&world, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt).await;
    let found = described(&world, &key).await;
    assert_eq!(found.key_state, Some(KeyState::PendingImport));
    assert!(!found.enabled && found.expiration_model.is_none());
    let pending = format!("{key} is pending import.");
    let state = "KMSInvalidStateException";
    assert_eq!(refused(&owner, &encrypt(&key), state).await, pending);

    let request = import(&world, &key, &[7; 32]).await;
    let answer = owner.call(&request).await.unwrap();
    assert_eq!(answer.key_id.as_deref(), Some(key.as_str()));
    let id = answer.key_material_id.unwrap();
    let found = described(&world, &key).await;
    assert!(found.enabled);
    assert_eq!(found.expiration_model, Some(ExpirationModel::DoesNotExpire));
    assert_eq!(found.current_key_material_id.as_deref(), Some(id.as_str()));
    let ciphertext = world.ciphertext(&key, b"kept", pairs(&[])).await;

    // Other material is refused, and what was encrypted stays readable.
    for kind in [None, Some(ImportType::ExistingKeyMaterial)] {
        let other = ImportKeyMaterialRequest {
            import_type: kind,
            ..import(&world, &key, &[8; 32]).await
        };
        refused(&owner, &other, "IncorrectKeyMaterialException").await;
    }
    let delete = DeleteImportedKeyMaterialRequest {
        key_id: key.clone(),
        ..DeleteImportedKeyMaterialRequest::default()
    };
    let deleted = owner.call(&delete).await.unwrap();
    assert_eq!(deleted.key_material_id.as_deref(), Some(id.as_str()));
    assert_eq!(refused(&owner, &encrypt(&key), state).await, pending);
    let other = import(&world, &key, &[8; 32]).await;
    refused(&owner, &other, "IncorrectKeyMaterialException").await;
    owner
        .call(&import(&world, &key, &[7; 32]).await)
        .await
        .unwrap();
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    let opened = owner.call(&decrypt).await.unwrap();
    assert_eq!(opened.plaintext.unwrap().expose(), b"kept");

    // "Its KeyState must be PendingImport or Enabled" (ImportKeyMaterial): a disabled key is not enabled by it.
    let again = import(&world, &key, &[7; 32]).await;
    owner.call(&again).await.unwrap();
    let disable = DisableKeyRequest {
        key_id: key.clone(),
    };
    owner.call(&disable).await.unwrap();
    let message = refused(&owner, &again, state).await;
    assert_eq!(message, format!("{key} is disabled."));
    let found = described(&world, &key).await;
    assert_eq!(found.key_state, Some(KeyState::Disabled));
}

#[tokio::test]
async fn each_way_of_wrapping_arrives() {
    let world = World::new().await;
    let owner = world.owner();
    for name in [
        "RSAES_OAEP_SHA_1",
        "RSAES_OAEP_SHA_256",
        "RSA_AES_KEY_WRAP_SHA_1",
        "RSA_AES_KEY_WRAP_SHA_256",
    ] {
        let algorithm = WrappingAlgorithm::from(name);
        let key = external(&world, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt).await;
        let parameters = parameters(&world, &key, &algorithm).await;
        let request = ImportKeyMaterialRequest {
            key_id: key.clone(),
            encrypted_key_material: Blob(wrapped(&parameters.public_key.0, &algorithm, &[7; 32])),
            import_token: parameters.import_token,
            expiration_model: Some(ExpirationModel::DoesNotExpire),
            ..ImportKeyMaterialRequest::default()
        };
        owner.call(&request).await.unwrap();
        assert!(owner.call(&encrypt(&key)).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn pairs_and_macs_are_imported_too() {
    let world = World::new().await;
    let owner = world.owner();
    let key = external(&world, KeySpec::EccNistP256, KeyUsage::SignVerify).await;
    let own =
        EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let pkcs8 = own.to_pkcs8v1().unwrap();
    owner
        .call(&import(&world, &key, pkcs8.as_ref()).await)
        .await
        .unwrap();
    let sign = SignRequest {
        key_id: key.clone(),
        message: secret(b"m"),
        signing_algorithm: SigningAlgorithm::EcdsaSha256,
        ..SignRequest::default()
    };
    let signature = owner.call(&sign).await.unwrap().signature;
    let verify = VerifyRequest {
        key_id: key,
        message: secret(b"m"),
        signature,
        signing_algorithm: SigningAlgorithm::EcdsaSha256,
        ..VerifyRequest::default()
    };
    assert!(owner.call(&verify).await.unwrap().signature_valid);

    // RFC 4231, test case 1, whose key is too short for HMAC_256 by its own, and fits here with zeros.
    let hmac = external(&world, KeySpec::Hmac256, KeyUsage::GenerateVerifyMac).await;
    let mut material = vec![0x0b; 20];
    let short = import(&world, &hmac, &material).await;
    refused(&owner, &short, "IncorrectKeyMaterialException").await;
    material.resize(32, 0);
    owner
        .call(&import(&world, &hmac, &material).await)
        .await
        .unwrap();
    let generate = GenerateMacRequest {
        key_id: hmac,
        message: secret(b"Hi There"),
        mac_algorithm: MacAlgorithm::HmacSha256,
        ..GenerateMacRequest::default()
    };
    assert_eq!(
        hex::encode(owner.call(&generate).await.unwrap().mac.0),
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    );
    let rsa = external(&world, KeySpec::Rsa2048, KeyUsage::SignVerify).await;
    let wrong = import(&world, &rsa, pkcs8.as_ref()).await;
    refused(&owner, &wrong, "IncorrectKeyMaterialException").await;
}

#[tokio::test]
async fn material_expires_on_its_date() {
    let world = World::new().await;
    let owner = world.owner();
    let key = external(&world, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt).await;
    let now = Timestamp::from(SystemTime::now()).millis;
    let at = |days: i64| Some(Timestamp::from_millis(now + days * 86_400_000));
    for (model, valid_to, message) in [
        (
            Some(ExpirationModel::Expires),
            None,
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
        ),
        (
            Some(ExpirationModel::DoesNotExpire),
            at(1),
            "A validTo date must not",
        ),
        (
            Some(ExpirationModel::Expires),
            at(-1),
            "must be in the future",
        ),
        (None, at(366), "within 365 days"),
    ] {
        let request = ImportKeyMaterialRequest {
            expiration_model: model,
            valid_to,
            ..import(&world, &key, &[7; 32]).await
        };
        let found = refused(&owner, &request, "ValidationException").await;
        assert!(found.contains(message), "{found}");
    }
    let request = ImportKeyMaterialRequest {
        expiration_model: None,
        valid_to: at(10),
        ..import(&world, &key, &[7; 32]).await
    };
    owner.call(&request).await.unwrap();
    let found = described(&world, &key).await;
    assert_eq!(found.valid_to, at(10));
    assert_eq!(found.expiration_model, Some(ExpirationModel::Expires));
    let ciphertext = world.ciphertext(&key, b"kept", pairs(&[])).await;
    let world = world.restarted_later(9).await;
    assert!(described(&world, &key).await.enabled);
    let world = world.restarted_later(11).await;
    let owner = world.owner();
    let found = described(&world, &key).await;
    assert_eq!(found.key_state, Some(KeyState::PendingImport));
    assert_eq!(found.valid_to, None);
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    refused(&owner, &decrypt, "KMSInvalidStateException").await;
    owner
        .call(&import(&world, &key, &[7; 32]).await)
        .await
        .unwrap();
    assert!(owner.call(&decrypt).await.is_ok());
}

#[tokio::test]
async fn tokens_belong_to_one_key_and_one_public_key() {
    let world = World::new().await;
    let owner = world.owner();
    let (one, two) = (
        external(&world, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt).await,
        external(&world, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt).await,
    );
    let good = import(&world, &one, &[7; 32]).await;
    let again = import(&world, &one, &[7; 32]).await;
    let with = |change: &dyn Fn(&mut ImportKeyMaterialRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (request, kind) in [
        (
            with(&|r| r.key_id.clone_from(&two)),
            "InvalidImportTokenException",
        ),
        (
            with(&|r| r.import_token.0[40] ^= 1),
            "InvalidImportTokenException",
        ),
        (
            with(&|r| r.import_token = Blob(vec![0; 10])),
            "InvalidImportTokenException",
        ),
        (
            with(&|r| r.import_token = again.import_token.clone()),
            "InvalidCiphertextException",
        ),
        (
            with(&|r| r.encrypted_key_material.0[280] ^= 1),
            "InvalidCiphertextException",
        ),
        (
            with(&|r| r.key_material_id = Some("0".repeat(64))),
            "IncorrectKeyMaterialException",
        ),
        (
            with(&|r| r.key_material_id = Some("x".repeat(64))),
            "ValidationException",
        ),
        (
            import(&world, &one, &[7; 31]).await,
            "IncorrectKeyMaterialException",
        ),
    ] {
        refused(&owner, &request, kind).await;
    }
    let ours = world.key(None).await;
    let parameters = |key: &str, algorithm: &str, spec: &str| GetParametersForImportRequest {
        key_id: key.to_owned(),
        wrapping_algorithm: WrappingAlgorithm::from(algorithm),
        wrapping_key_spec: WrappingKeySpec::from(spec),
    };
    let oaep = "RSAES_OAEP_SHA_256";
    for (request, kind) in [
        (
            parameters(&ours, oaep, "RSA_2048"),
            "UnsupportedOperationException",
        ),
        (
            parameters(&one, "RSAES_PKCS1_V1_5", "RSA_2048"),
            "UnsupportedOperationException",
        ),
        (
            parameters(&one, oaep, "SM2"),
            "UnsupportedOperationException",
        ),
        (parameters(&one, oaep, "RSA_1024"), "ValidationException"),
        (parameters(&one, "X", "Y"), "ValidationException"),
    ] {
        let message = refused(&owner, &request, kind).await;
        if request.key_id == ours {
            assert_eq!(
                message,
                format!("{ours} origin is AWS_KMS which is not valid for this operation.")
            );
        }
        if request.wrapping_algorithm.as_str() == "X" {
            assert!(
                message.starts_with("2 validation errors detected: "),
                "{message}"
            );
        }
    }
    let delete = DeleteImportedKeyMaterialRequest {
        key_id: ours,
        ..DeleteImportedKeyMaterialRequest::default()
    };
    refused(&owner, &delete, "UnsupportedOperationException").await;
    assert!(owner.call(&good).await.is_ok());
}

#[tokio::test]
async fn new_material_waits_for_a_rotation_on_demand() {
    let world = World::new().await;
    let owner = world.owner();
    let key = external(&world, KeySpec::SymmetricDefault, KeyUsage::EncryptDecrypt).await;
    let rotate = RotateKeyOnDemandRequest {
        key_id: key.clone(),
    };
    owner
        .call(&import(&world, &key, &[7; 32]).await)
        .await
        .unwrap();
    refused(&owner, &rotate, "KMSInvalidStateException").await;
    let before = world.ciphertext(&key, b"kept", pairs(&[])).await;
    let new = ImportKeyMaterialRequest {
        import_type: Some(ImportType::NewKeyMaterial),
        ..import(&world, &key, &[8; 32]).await
    };
    let new = owner.call(&new).await.unwrap().key_material_id;
    let found = described(&world, &key).await;
    assert_ne!(found.current_key_material_id, new);
    owner.call(&rotate).await.unwrap();
    let found = described(&world, &key).await;
    assert_eq!(found.current_key_material_id, new);
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(before)),
        ..DecryptRequest::default()
    };
    assert!(owner.call(&decrypt).await.is_ok());
}
