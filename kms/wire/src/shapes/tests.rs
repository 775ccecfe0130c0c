use super::*;
use serde_json::json;

fn encoded<T: Serialize>(shape: &T) -> serde_json::Value {
    serde_json::from_slice(&encode(shape)).unwrap()
}

#[test]
fn requests_are_written_with_the_names_of_the_service_and_without_what_is_absent() {
    assert_eq!(encoded(&GenerateRandomRequest::default()), json!({}));
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(vec![0xff; 4])),
        encryption_context: [("tenant".to_owned(), "a".to_owned())].into(),
        grant_tokens: vec!["token".to_owned()],
        key_id: Some("alias/cards".to_owned()),
        encryption_algorithm: Some(EncryptionAlgorithm::SymmetricDefault),
        recipient: Some(RecipientInfo::new(vec![1, 2, 3])),
        dry_run: Some(true),
        dry_run_modifiers: vec!["IGNORE_CIPHERTEXT".to_owned()],
    };
    assert_eq!(
        encoded(&decrypt),
        json!({
            "CiphertextBlob": "/////w==",
            "EncryptionContext": { "tenant": "a" },
            "GrantTokens": ["token"],
            "KeyId": "alias/cards",
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "Recipient": { "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AQID" },
            "DryRun": true,
            "DryRunModifiers": ["IGNORE_CIPHERTEXT"],
        })
    );
    assert_eq!(DecryptRequest::parse(&encode(&decrypt)), Ok(decrypt));
}

#[test]
fn every_member_of_the_create_key_request_has_its_name() {
    let create = CreateKeyRequest {
        policy: Some("{}".to_owned()),
        description: Some("d".to_owned()),
        key_usage: Some(KeyUsage::EncryptDecrypt),
        customer_master_key_spec: Some(KeySpec::SymmetricDefault),
        key_spec: Some(KeySpec::SymmetricDefault),
        origin: Some(Origin::AwsKms),
        custom_key_store_id: Some("cks-1".to_owned()),
        bypass_policy_lockout_safety_check: Some(true),
        tags: vec![Tag {
            tag_key: "k".to_owned(),
            tag_value: "v".to_owned(),
        }],
        multi_region: Some(false),
        xks_key_id: Some("x".to_owned()),
    };
    assert_eq!(
        encoded(&create),
        json!({
            "Policy": "{}",
            "Description": "d",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "Origin": "AWS_KMS",
            "CustomKeyStoreId": "cks-1",
            "BypassPolicyLockoutSafetyCheck": true,
            "Tags": [{ "TagKey": "k", "TagValue": "v" }],
            "MultiRegion": false,
            "XksKeyId": "x",
        })
    );
    assert_eq!(CreateKeyRequest::parse(&encode(&create)), Ok(create));
}

#[test]
fn key_metadata_looks_as_the_service_writes_it() {
    let metadata = KeyMetadata {
        aws_account_id: Some("111122223333".to_owned()),
        key_id: "1234abcd-12ab-34cd-56ef-1234567890ab".to_owned(),
        arn: Some(
            "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
                .to_owned(),
        ),
        creation_date: Some(Timestamp::from_millis(1_499_288_695_918)),
        enabled: true,
        key_usage: Some(KeyUsage::EncryptDecrypt),
        key_state: Some(KeyState::Enabled),
        origin: Some(Origin::AwsKms),
        key_manager: Some(KeyManager::Customer),
        customer_master_key_spec: Some(KeySpec::SymmetricDefault),
        key_spec: Some(KeySpec::SymmetricDefault),
        encryption_algorithms: Some(vec![EncryptionAlgorithm::SymmetricDefault]),
        multi_region: Some(false),
        ..KeyMetadata::default()
    };
    let response = DescribeKeyResponse {
        key_metadata: metadata,
    };
    assert_eq!(
        encoded(&response),
        json!({ "KeyMetadata": {
            "AWSAccountId": "111122223333",
            "KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab",
            "Arn": "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "CreationDate": 1_499_288_695.918,
            "Enabled": true,
            "Description": "",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": "Enabled",
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": false,
        } })
    );
    assert_eq!(
        DescribeKeyRequest::parse_response(&encode(&response)),
        Ok(response)
    );
}

#[test]
fn unknown_members_are_ignored_and_null_is_absence() {
    let body =
        br#"{"KeyId": "k", "GrantTokens": null, "EncryptionContext": null, "Recipient": null,
        "KeySpec": null, "NumberOfBytes": 32, "Later": {"a": [1]}}"#;
    let expected = GenerateDataKeyRequest {
        key_id: "k".to_owned(),
        number_of_bytes: Some(32),
        ..GenerateDataKeyRequest::default()
    };
    assert_eq!(GenerateDataKeyRequest::parse(body), Ok(expected));
}

#[test]
fn required_members_that_are_absent_or_null_are_named() {
    let missing = |member| Err(ShapeError::Missing { member });
    assert_eq!(PutKeyPolicyRequest::parse(b"{}"), missing("KeyId"));
    assert_eq!(
        PutKeyPolicyRequest::parse(br#"{"KeyId": "k"}"#),
        missing("Policy")
    );
    assert_eq!(
        PutKeyPolicyRequest::parse(br#"{"KeyId": null, "Policy": "p"}"#),
        missing("KeyId")
    );
    assert_eq!(
        EncryptRequest::parse(br#"{"KeyId": "k"}"#)
            .map(|_| ())
            .unwrap_err(),
        ShapeError::Missing {
            member: "Plaintext"
        }
    );
}

#[test]
fn wrong_types_are_refused_and_the_error_does_not_repeat_them() {
    let secret = "4111111111111111";
    for body in [
        r#"{"KeyId": 4111111111111111, "Plaintext": "AA=="}"#,
        r#"{"KeyId": "k", "Plaintext": 4111111111111111}"#,
        r#"{"KeyId": "k", "Plaintext": "not base64 4111111111111111"}"#,
        r#"{"KeyId": "k", "Plaintext": "QUJD====4111111111111111"}"#,
        r#"{"KeyId": "k", "Plaintext": ["4111111111111111"]}"#,
        r#"{"KeyId": "k", "Plaintext": "AA==", "EncryptionContext": "4111111111111111"}"#,
        r#"{"KeyId": "k", "Plaintext": "AA==", "EncryptionContext": ["4111111111111111", "x"]}"#,
        r#"{"KeyId": "k", "Plaintext": "AA==", "EncryptionContext": {"a": 4111111111111111}}"#,
        r#"{"KeyId": "k", "Plaintext": "AA==", "GrantTokens": "4111111111111111, expected 4111111111111111"}"#,
        r#"{"KeyId": "k", "Plaintext": "AA==", "DryRun": "4111111111111111"}"#,
        r#"{"KeyId": "k", "Plaintext": "AA=="} 4111111111111111"#,
        r#"{"KeyId": "k", "KeyId": "4111111111111111", "Plaintext": "AA=="}"#,
        r#"["k", "AA==4111111111111111"]"#,
        "4111111111111111",
        r#"{"KeyId": "4111111111111111"#,
        "",
    ] {
        match EncryptRequest::parse(body.as_bytes()) {
            Err(ShapeError::Malformed { reason }) => {
                assert!(!reason.contains(secret), "{body}: {reason}");
            }
            Err(other) => panic!("{body}: {other}"),
            Ok(_) => panic!("{body} was accepted"),
        }
    }
}

#[test]
fn structures_are_json_objects_and_not_arrays() {
    for body in [
        r#"{"Recipient": ["RSAES_OAEP_SHA_256", "AA=="]}"#,
        r#"{"Recipient": "RSAES_OAEP_SHA_256"}"#,
        r#"{"Recipient": []}"#,
    ] {
        assert!(
            matches!(
                GenerateRandomRequest::parse(body.as_bytes()),
                Err(ShapeError::Malformed { .. })
            ),
            "{body}"
        );
    }
    for body in [
        r#"{"Tags": [["k", "v"]]}"#,
        r#"{"Tags": {"TagKey": "k", "TagValue": "v"}}"#,
        r#"{"Tags": [null]}"#,
    ] {
        assert!(
            matches!(
                CreateKeyRequest::parse(body.as_bytes()),
                Err(ShapeError::Malformed { .. })
            ),
            "{body}"
        );
    }
}

#[test]
fn an_encryption_context_with_the_same_key_twice_is_refused() {
    let body = br#"{"KeyId": "k", "EncryptionContext": {"tenant": "a", "tenant": "b"}}"#;
    assert!(matches!(
        GenerateDataKeyRequest::parse(body),
        Err(ShapeError::Malformed { .. })
    ));
}

#[test]
fn unknown_names_are_kept_for_the_error_that_quotes_them() {
    let request =
        GenerateDataKeyRequest::parse(br#"{"KeyId": "k", "KeySpec": "AES_512"}"#).unwrap();
    let spec = request.key_spec.unwrap();
    assert!(!spec.is_known());
    assert_eq!(spec.as_str(), "AES_512");
    for spec in DataKeySpec::ALL {
        assert_eq!(&DataKeySpec::from(spec.as_str()), spec);
    }
}

#[test]
fn secrets_survive_the_round_trip_and_stay_out_of_debug() {
    let request = EncryptRequest {
        key_id: "k".to_owned(),
        plaintext: SecretBlob::new(Zeroizing::new(b"secret!".to_vec())),
        ..EncryptRequest::default()
    };
    let body = encode(&request);
    assert_eq!(&**body, br#"{"KeyId":"k","Plaintext":"c2VjcmV0IQ=="}"#);
    assert_eq!(body.capacity(), body.len());
    let parsed = EncryptRequest::parse(&body).unwrap();
    assert_eq!(parsed.plaintext.expose(), b"secret!");
    let debug = format!("{parsed:?}");
    assert!(
        debug.contains("key_id") && !debug.contains("secret") && !debug.contains("plaintext"),
        "{debug}"
    );
}

#[test]
fn operations_without_output_answer_with_nothing_and_accept_an_empty_object() {
    assert!(CreateAliasRequest::encode_response(&CreateAliasResponse {}).is_empty());
    assert_eq!(
        CreateAliasRequest::parse_response(b""),
        Ok(CreateAliasResponse {})
    );
    assert_eq!(
        PutKeyPolicyRequest::parse_response(b"{}"),
        Ok(PutKeyPolicyResponse {})
    );
    assert_eq!(
        &**GenerateRandomRequest::encode_response(&GenerateRandomResponse::default()),
        b"{}"
    );
}

#[test]
fn error_names_lose_their_namespace() {
    for (kind, name) in [
        ("NotFoundException", "NotFoundException"),
        ("com.amazonaws.kms#NotFoundException", "NotFoundException"),
        (
            "NotFoundException:http://internal.amazon.com/",
            "NotFoundException",
        ),
    ] {
        let error: ErrorBody =
            serde_json::from_value(json!({ "__type": kind, "Message": "m" })).unwrap();
        assert_eq!(error.name(), name);
        assert_eq!(error.message, "m");
    }
}

#[test]
fn timestamps_are_seconds_with_a_fraction() {
    for (text, millis) in [
        ("1.499288695918E9", 1_499_288_695_918),
        ("0", 0),
        ("-1.5", -1500),
        ("1499288695", 1_499_288_695_000),
    ] {
        assert_eq!(
            serde_json::from_str::<Timestamp>(text).unwrap(),
            Timestamp::from_millis(millis),
            "{text}"
        );
    }
    for text in ["1e300", "\"1\"", "null"] {
        assert!(serde_json::from_str::<Timestamp>(text).is_err(), "{text}");
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1234);
    assert_eq!(Timestamp::from(time), Timestamp::from_millis(1234));
}

proptest::proptest! {
    #[test]
    fn any_blob_survives_the_round_trip(bytes: Vec<u8>) {
        let text = encode(&Blob(bytes.clone()));
        proptest::prop_assert_eq!(&serde_json::from_slice::<Blob>(&text).unwrap().0, &bytes);
        let secret: SecretBlob = serde_json::from_slice(&text).unwrap();
        proptest::prop_assert_eq!(secret.expose(), &bytes[..]);
        proptest::prop_assert_eq!(encode(&secret), text);
    }

    #[test]
    fn no_body_makes_parsing_panic(body: Vec<u8>) {
        let _ = DecryptRequest::parse(&body);
        let _ = CreateKeyRequest::parse(&body);
    }
}
