//! Each operation, and each error it documents.

use crate::{World, pairs, refused, secret};
use anchorhold_kms_wire::shapes::{
    Blob, CreateAliasRequest, CreateKeyRequest, DataKeySpec, DecryptRequest, DescribeKeyRequest,
    EncryptRequest, EncryptionAlgorithm, GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest, GenerateRandomRequest, GetKeyPolicyRequest, KeySpec,
    KeyState, KeyUsage, Origin, PutKeyPolicyRequest, Tag,
};

const ABSENT: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn decrypt(ciphertext: &[u8]) -> DecryptRequest {
    DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext.to_vec())),
        ..DecryptRequest::default()
    }
}

fn describe(key: &str) -> DescribeKeyRequest {
    DescribeKeyRequest {
        key_id: key.to_owned(),
        ..DescribeKeyRequest::default()
    }
}

#[tokio::test]
async fn a_key_is_made_and_described() {
    let world = World::new().await;
    let owner = world.owner();
    let request = CreateKeyRequest {
        description: Some("for tests".to_owned()),
        ..CreateKeyRequest::default()
    };
    let made = owner.call(&request).await.unwrap().key_metadata;
    assert_eq!(made.aws_account_id.as_deref(), Some("111122223333"));
    assert_eq!(made.key_state, Some(KeyState::Enabled));
    assert_eq!(made.key_spec, Some(KeySpec::SymmetricDefault));
    assert_eq!(made.key_usage, Some(KeyUsage::EncryptDecrypt));
    assert_eq!(made.origin, Some(Origin::AwsKms));
    assert_eq!(made.description, "for tests");
    assert!(made.enabled && made.creation_date.is_some());
    let arn = made.arn.clone().unwrap();
    assert_eq!(
        arn,
        format!("arn:aws:kms:us-east-1:111122223333:key/{}", made.key_id)
    );
    for name in [arn.as_str(), made.key_id.as_str()] {
        let described = owner.call(&describe(name)).await.unwrap().key_metadata;
        assert_eq!(described, made);
    }
}

#[tokio::test]
async fn keys_that_this_service_cannot_make_are_refused() {
    let world = World::new().await;
    let base = CreateKeyRequest::default;
    let tag = Tag {
        tag_key: "a".to_owned(),
        tag_value: "b".to_owned(),
    };
    for (request, kind) in [
        (
            CreateKeyRequest {
                key_spec: Some(KeySpec::Sm2),
                key_usage: Some(KeyUsage::SignVerify),
                ..base()
            },
            "UnsupportedOperationException",
        ),
        (
            CreateKeyRequest {
                key_spec: Some(KeySpec::Rsa2048),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                key_spec: Some(KeySpec::EccSecgP256k1),
                key_usage: Some(KeyUsage::KeyAgreement),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                key_spec: Some(KeySpec::from("AES_1")),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                key_spec: Some(KeySpec::SymmetricDefault),
                customer_master_key_spec: Some(KeySpec::SymmetricDefault),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                key_usage: Some(KeyUsage::SignVerify),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                origin: Some(Origin::AwsCloudhsm),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                origin: Some(Origin::AwsCloudhsm),
                custom_key_store_id: Some("cks-1".to_owned()),
                ..base()
            },
            "CustomKeyStoreNotFoundException",
        ),
        (
            CreateKeyRequest {
                origin: Some(Origin::AwsCloudhsm),
                custom_key_store_id: Some("cks-1".to_owned()),
                multi_region: Some(true),
                ..base()
            },
            "UnsupportedOperationException",
        ),
        (
            CreateKeyRequest {
                origin: Some(Origin::AwsCloudhsm),
                custom_key_store_id: Some("cks-1".to_owned()),
                key_spec: Some(KeySpec::Hmac256),
                key_usage: Some(KeyUsage::GenerateVerifyMac),
                ..base()
            },
            "UnsupportedOperationException",
        ),
        (
            CreateKeyRequest {
                custom_key_store_id: Some("cks-1".to_owned()),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                xks_key_id: Some("x".to_owned()),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                origin: Some(Origin::ExternalKeyStore),
                custom_key_store_id: Some("cks-1".to_owned()),
                xks_key_id: Some("x".to_owned()),
                ..base()
            },
            "UnsupportedOperationException",
        ),
        (
            CreateKeyRequest {
                tags: vec![tag.clone(), tag],
                ..base()
            },
            "TagException",
        ),
        (
            CreateKeyRequest {
                description: Some("x".repeat(8193)),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateKeyRequest {
                policy: Some("{".to_owned()),
                ..base()
            },
            "MalformedPolicyDocumentException",
        ),
    ] {
        refused(&world.owner(), &request, kind).await;
    }
    let message = refused(&world.host(), &base(), "AccessDeniedException").await;
    assert_eq!(
        message,
        "User: arn:aws:iam::111122223333:user/host is not authorized to perform: kms:CreateKey on \
         resource: * because no identity-based policy allows the kms:CreateKey action"
    );
}

#[tokio::test]
async fn what_was_encrypted_decrypts_by_each_name_of_the_key() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let id = key.rsplit('/').next().unwrap().to_owned();
    let alias = CreateAliasRequest {
        alias_name: "alias/a/b-c_1".to_owned(),
        target_key_id: id.clone(),
    };
    owner.call(&alias).await.unwrap();
    let context = pairs(&[("purpose", "test"), ("ä", "ö")]);
    for name in [
        key.as_str(),
        id.as_str(),
        "alias/a/b-c_1",
        "arn:aws:kms:us-east-1:111122223333:alias/a/b-c_1",
    ] {
        let ciphertext = world
            .ciphertext(name, b"\0plain\xff", context.clone())
            .await;
        for key_id in [None, Some(name.to_owned())] {
            let request = DecryptRequest {
                encryption_context: context.clone(),
                key_id,
                ..decrypt(&ciphertext)
            };
            let answer = owner.call(&request).await.unwrap();
            assert_eq!(answer.plaintext.unwrap().expose(), b"\0plain\xff");
            assert_eq!(answer.key_id, key);
            assert_eq!(
                answer.encryption_algorithm,
                Some(EncryptionAlgorithm::SymmetricDefault)
            );
            assert!(answer.ciphertext_for_recipient.is_none());
        }
    }
    refused(&owner, &alias, "AlreadyExistsException").await;
}

#[tokio::test]
async fn ciphertexts_that_are_wrong_in_any_way_are_refused() {
    let world = World::new().await;
    let owner = world.owner();
    let (key, other) = (world.key(None).await, world.key(None).await);
    let context = pairs(&[("a", "b")]);
    let good = world.ciphertext(&key, b"text", context.clone()).await;
    let with = |ciphertext: &[u8], key_id: Option<&str>| DecryptRequest {
        encryption_context: context.clone(),
        key_id: key_id.map(str::to_owned),
        ..decrypt(ciphertext)
    };
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut of_nobody = good.clone();
    of_nobody[4] ^= 1;
    let mut moved = good.clone();
    let other_id = uuid::Uuid::try_parse(other.rsplit('/').next().unwrap()).unwrap();
    moved[4..20].copy_from_slice(other_id.as_bytes());
    for (request, kind) in [
        (decrypt(&good), "InvalidCiphertextException"),
        (with(&flipped, None), "InvalidCiphertextException"),
        (with(&flipped, Some(&key)), "InvalidCiphertextException"),
        (with(&good[..20], None), "InvalidCiphertextException"),
        (with(b"garbage", Some(&key)), "InvalidCiphertextException"),
        (with(&moved, None), "InvalidCiphertextException"),
        (with(&of_nobody, None), "AccessDeniedException"),
        (with(&good, Some(&other)), "IncorrectKeyException"),
        (with(&good, Some(ABSENT)), "NotFoundException"),
        (with(&good, Some("alias/none")), "NotFoundException"),
        (with(&[], None), "ValidationException"),
        (with(&[1; 6145], None), "ValidationException"),
        (DecryptRequest::default(), "ValidationException"),
        (
            DecryptRequest {
                encryption_algorithm: Some(EncryptionAlgorithm::RsaesOaepSha256),
                ..with(&good, Some(&key))
            },
            "InvalidKeyUsageException",
        ),
        (
            DecryptRequest {
                encryption_algorithm: Some(EncryptionAlgorithm::RsaesOaepSha256),
                ..with(&good, None)
            },
            "ValidationException",
        ),
        (
            DecryptRequest {
                grant_tokens: vec!["token".to_owned()],
                ..with(&good, None)
            },
            "InvalidGrantTokenException",
        ),
        (
            DecryptRequest {
                dry_run: Some(true),
                ..with(&good, None)
            },
            "DryRunOperationException",
        ),
        (
            DecryptRequest {
                dry_run: Some(true),
                ..with(&flipped, None)
            },
            "InvalidCiphertextException",
        ),
    ] {
        refused(&owner, &request, kind).await;
    }
    assert!(owner.call(&with(&good, Some(&key))).await.is_ok());
}

#[tokio::test]
async fn encrypt_has_the_bounds_of_aws() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let encrypt = |length: usize| EncryptRequest {
        key_id: key.clone(),
        plaintext: secret(&vec![7; length]),
        ..EncryptRequest::default()
    };
    assert!(owner.call(&encrypt(1)).await.is_ok());
    let longest = owner.call(&encrypt(4096)).await.unwrap();
    let answer = owner
        .call(&decrypt(&longest.ciphertext_blob.0))
        .await
        .unwrap();
    assert_eq!(answer.plaintext.unwrap().expose(), [7; 4096]);
    refused(&owner, &encrypt(0), "ValidationException").await;
    refused(&owner, &encrypt(4097), "ValidationException").await;
    for context in [
        pairs(&[("k", &"x".repeat(8192))]),
        pairs(&[("key", "1"), ("KEY", "2")]),
    ] {
        let request = EncryptRequest {
            encryption_context: context,
            ..encrypt(1)
        };
        refused(&owner, &request, "ValidationException").await;
    }
    let dry = EncryptRequest {
        dry_run: Some(true),
        ..encrypt(1)
    };
    let message = refused(&owner, &dry, "DryRunOperationException").await;
    assert_eq!(
        message,
        "The request would have succeeded, but the DryRun option is set."
    );
    refused(&world.host(), &dry, "AccessDeniedException").await;
}

#[tokio::test]
async fn data_keys_decrypt_to_themselves() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    for (key_spec, number_of_bytes, length) in [
        (Some(DataKeySpec::Aes256), None, 32),
        (Some(DataKeySpec::Aes128), None, 16),
        (None, Some(1), 1),
        (None, Some(1024), 1024),
    ] {
        let request = GenerateDataKeyRequest {
            key_id: key.clone(),
            key_spec: key_spec.clone(),
            number_of_bytes,
            encryption_context: pairs(&[("a", "b")]),
            ..GenerateDataKeyRequest::default()
        };
        let made = owner.call(&request).await.unwrap();
        let plaintext = made.plaintext.unwrap();
        assert_eq!(plaintext.expose().len(), length);
        assert_eq!(made.key_id, key);
        let opened = DecryptRequest {
            encryption_context: pairs(&[("a", "b")]),
            ..decrypt(&made.ciphertext_blob.0)
        };
        let opened = owner.call(&opened).await.unwrap().plaintext.unwrap();
        assert_eq!(opened.expose(), plaintext.expose());

        let request = GenerateDataKeyWithoutPlaintextRequest {
            key_id: key.clone(),
            key_spec,
            number_of_bytes,
            ..GenerateDataKeyWithoutPlaintextRequest::default()
        };
        let made = owner.call(&request).await.unwrap();
        let opened = owner.call(&decrypt(&made.ciphertext_blob.0)).await.unwrap();
        assert_eq!(opened.plaintext.unwrap().expose().len(), length);
    }
    for (key_spec, number_of_bytes, dry_run, kind) in [
        (None, None, None, "ValidationException"),
        (
            Some(DataKeySpec::Aes256),
            Some(32),
            None,
            "ValidationException",
        ),
        (None, Some(0), None, "ValidationException"),
        (None, Some(1025), None, "ValidationException"),
        (None, Some(-1), None, "ValidationException"),
        (
            Some(DataKeySpec::from("AES_512")),
            None,
            None,
            "ValidationException",
        ),
        (None, Some(32), Some(true), "DryRunOperationException"),
    ] {
        let request = GenerateDataKeyRequest {
            key_id: key.clone(),
            key_spec,
            number_of_bytes,
            dry_run,
            ..GenerateDataKeyRequest::default()
        };
        refused(&owner, &request, kind).await;
    }
}

#[tokio::test]
async fn random_bytes_have_the_bounds_of_aws() {
    let world = World::new().await;
    let owner = world.owner();
    let random = |number_of_bytes| GenerateRandomRequest {
        number_of_bytes,
        ..GenerateRandomRequest::default()
    };
    for length in [1, 1024] {
        let answer = owner.call(&random(Some(length))).await.unwrap();
        let bytes = answer.plaintext.unwrap();
        assert_eq!(i32::try_from(bytes.expose().len()).unwrap(), length);
    }
    for length in [None, Some(0), Some(1025), Some(-5)] {
        refused(&owner, &random(length), "ValidationException").await;
    }
}

#[tokio::test]
async fn names_of_keys_and_aliases_get_the_errors_of_aws() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    for (name, kind) in [
        (ABSENT, "NotFoundException"),
        ("nonsense", "NotFoundException"),
        ("alias/none", "NotFoundException"),
        ("", "ValidationException"),
        ("arn:aws:s3:::bucket", "InvalidArnException"),
        (
            "arn:aws:kms:eu-west-1:111122223333:alias/x",
            "NotFoundException",
        ),
        (
            &key.replace("111122223333", "444455556666"),
            "NotFoundException",
        ),
    ] {
        refused(&owner, &describe(name), kind).await;
    }
    let message = refused(&owner, &describe(ABSENT), "NotFoundException").await;
    assert_eq!(
        message,
        format!("Key 'arn:aws:kms:us-east-1:111122223333:key/{ABSENT}' does not exist")
    );
    for (alias_name, target, kind) in [
        ("a", key.as_str(), "ValidationException"),
        ("alias/a:b", &key, "ValidationException"),
        ("", &key, "ValidationException"),
        ("alias/ä", &key, "ValidationException"),
        ("alias/aws/a", &key, "NotAuthorizedException"),
        ("alias/a", ABSENT, "NotFoundException"),
        ("alias/a", "alias/b", "ValidationException"),
    ] {
        let request = CreateAliasRequest {
            alias_name: alias_name.to_owned(),
            target_key_id: target.to_owned(),
        };
        refused(&owner, &request, kind).await;
    }
    let request = CreateAliasRequest {
        alias_name: "alias/host".to_owned(),
        target_key_id: key,
    };
    refused(&world.host(), &request, "AccessDeniedException").await;
}

#[tokio::test]
async fn policies_are_read_and_replaced_by_id_or_arn_only() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let alias = CreateAliasRequest {
        alias_name: "alias/a".to_owned(),
        target_key_id: key.clone(),
    };
    owner.call(&alias).await.unwrap();
    let get = |name: &str, policy_name: Option<&str>| GetKeyPolicyRequest {
        key_id: name.to_owned(),
        policy_name: policy_name.map(str::to_owned),
    };
    let answer = owner.call(&get(&key, Some("default"))).await.unwrap();
    assert_eq!(answer.policy_name.as_deref(), Some("default"));
    let policy: serde_json::Value = serde_json::from_str(&answer.policy).unwrap();
    assert_eq!(
        policy["Statement"][0]["Principal"]["AWS"],
        "arn:aws:iam::111122223333:root"
    );
    refused(&owner, &get("alias/a", None), "NotFoundException").await;
    let arn = "arn:aws:kms:us-east-1:111122223333:alias/a";
    refused(&owner, &get(arn, None), "InvalidArnException").await;
    refused(&owner, &get(&key, Some("other")), "NotFoundException").await;
    refused(&world.host(), &get(&key, None), "AccessDeniedException").await;

    let text = answer.policy.replace("Enable IAM User Permissions", "New");
    let put = |policy: &str| PutKeyPolicyRequest {
        key_id: key.clone(),
        policy: policy.to_owned(),
        ..PutKeyPolicyRequest::default()
    };
    owner.call(&put(&text)).await.unwrap();
    assert_eq!(owner.call(&get(&key, None)).await.unwrap().policy, text);
    refused(&world.host(), &put(&text), "AccessDeniedException").await;
    refused(&owner, &put(""), "ValidationException").await;
    let long = text.replace("New", &"x".repeat(32 << 10));
    refused(&owner, &put(&long), "LimitExceededException").await;
    let message = refused(
        &owner,
        &put(&text.replace("Effect", "Efect")),
        "MalformedPolicyDocumentException",
    )
    .await;
    assert!(message.contains("Efect"), "{message}");
}
