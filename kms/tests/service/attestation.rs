//! Recipients: only the right enclave's envelope goes out, and nothing in the open ever.

use crate::{
    Calls, World, development_root, document, enclave, enclave_policy, measured, pairs,
    policy_with_conditions, recipient, recipient_key, refused,
};
use anchorhold_attestation::Pcr;
use anchorhold_kms::Identity;
use anchorhold_kms::policy::{IdentityPolicy, Kind, Policy, Principal};
use anchorhold_kms_wire::shapes::{
    Blob, DataKeySpec, DecryptRequest, GenerateDataKeyRequest, GenerateRandomRequest,
    KeyEncryptionAlgorithm, RecipientInfo,
};
use anchorhold_simulator::{DevelopmentRoot, NsmConfig};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

const PLAINTEXT: &[u8] = b"hello world - goodbye world!";

struct Attested {
    world: World,
    key: String,
    ciphertext: Vec<u8>,
}

impl Attested {
    async fn new() -> Self {
        Self::with_policy(enclave_policy(&measured().to_string())).await
    }

    async fn with_policy(policy: String) -> Self {
        Self::of(World::new().await, policy).await
    }

    async fn of(world: World, policy: String) -> Self {
        let key = world.key(Some(policy)).await;
        let ciphertext = world
            .ciphertext(&key, PLAINTEXT, pairs(&[("a", "b")]))
            .await;
        Self {
            world,
            key,
            ciphertext,
        }
    }

    fn decrypt(&self, recipient: Option<RecipientInfo>) -> DecryptRequest {
        DecryptRequest {
            ciphertext_blob: Some(Blob(self.ciphertext.clone())),
            encryption_context: pairs(&[("a", "b")]),
            key_id: Some(self.key.clone()),
            recipient,
            ..DecryptRequest::default()
        }
    }

    async fn refused(&self, recipient: Option<RecipientInfo>, kind: &str) -> (String, String) {
        let client: Calls = self.world.host();
        let message = refused(&client, &self.decrypt(recipient), kind).await;
        (message, self.world.last_reason())
    }
}

#[tokio::test]
async fn the_measured_enclave_gets_an_envelope_and_no_plaintext() {
    let here = Attested::new().await;
    let document = here
        .world
        .document(measured(), recipient_key().public_key_der());
    let answer = here
        .world
        .host()
        .call(&here.decrypt(recipient(document.clone())))
        .await
        .unwrap();
    assert!(answer.plaintext.is_none());
    assert_eq!(answer.key_id, here.key);
    let envelope = answer.ciphertext_for_recipient.unwrap().0;
    assert_eq!(
        recipient_key().open(&envelope).unwrap().as_slice(),
        PLAINTEXT
    );

    let request = GenerateDataKeyRequest {
        key_id: here.key.clone(),
        key_spec: Some(DataKeySpec::Aes256),
        recipient: recipient(document),
        ..GenerateDataKeyRequest::default()
    };
    let answer = here.world.host().call(&request).await.unwrap();
    assert!(answer.plaintext.is_none());
    let envelope = answer.ciphertext_for_recipient.unwrap().0;
    let data_key = recipient_key().open(&envelope).unwrap();
    assert_eq!(data_key.len(), 32);

    let line = here.world.audit().pop().unwrap();
    let shown = &line["additionalEventData"]["recipient"];
    assert_eq!(
        shown["attestationDocumentEnclaveImageDigest"],
        measured().to_string()
    );
    assert_eq!(
        shown["attestationDocumentModuleId"],
        NsmConfig::default().module_id
    );
    for pcr in [1, 2, 3, 4, 8] {
        assert!(shown[format!("attestationDocumentEnclavePCR{pcr}")].is_string());
    }
    assert_eq!(
        line["anchorhold"]["allowedBy"],
        "allowed by statement AllowEnclave"
    );
}

#[tokio::test]
async fn another_image_is_refused_and_the_log_says_expected_and_found() {
    let here = Attested::new().await;
    let other = Pcr::from_bytes([0xcd; 48]);
    let document = here.world.document(other, recipient_key().public_key_der());
    let (message, reason) = here
        .refused(recipient(document), "AccessDeniedException")
        .await;
    assert_eq!(
        message,
        format!(
            "User: arn:aws:iam::111122223333:user/host is not authorized to perform: kms:Decrypt \
             on resource: {} because no resource-based policy allows the kms:Decrypt action",
            here.key
        )
    );
    assert_eq!(
        reason,
        format!(
            "statement AllowEnclave: kms:RecipientAttestation:ImageSha384 expected {}, found {other}",
            measured()
        )
    );
    let line = here.world.audit().pop().unwrap();
    let trace = &line["anchorhold"]["trace"][1];
    assert_eq!(trace["statement"], "AllowEnclave");
    assert_eq!(trace["outcome"], "conditionNotMet");
    let conditions = trace["conditions"].as_array().unwrap();
    let failed: Vec<_> = conditions.iter().filter(|c| c["met"] == false).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["found"][0], other.to_string());
}

#[tokio::test]
async fn the_parent_alone_gets_nothing() {
    let here = Attested::new().await;
    let (message, reason) = here.refused(None, "AccessDeniedException").await;
    assert!(!message.contains("Recipient"), "{message}");
    assert!(reason.starts_with("statement AllowEnclave: "), "{reason}");
    let expected = format!(
        "kms:RecipientAttestation:ImageSha384 expected {}, found nothing; the request carried no attestation document",
        measured()
    );
    assert!(reason.ends_with(&expected), "{reason}");
    let request = GenerateDataKeyRequest {
        key_id: here.key.clone(),
        key_spec: Some(DataKeySpec::Aes256),
        ..GenerateDataKeyRequest::default()
    };
    refused(&here.world.host(), &request, "AccessDeniedException").await;
}

#[tokio::test]
async fn the_same_image_in_debug_mode_is_refused() {
    let here = Attested::new().await;
    let config = NsmConfig {
        debug: true,
        ..enclave(measured())
    };
    let public_key = Some(recipient_key().public_key_der());
    let document = document(here.world.root, config, public_key, SystemTime::now());
    let (_, reason) = here
        .refused(recipient(document), "AccessDeniedException")
        .await;
    assert!(reason.contains("debug mode"), "{reason}");
}

#[tokio::test]
async fn a_policy_that_names_zeros_does_not_admit_debug_mode() {
    let here = Attested::with_policy(enclave_policy(&Pcr::ZERO.to_string())).await;
    let public_key = Some(recipient_key().public_key_der());
    let debug = NsmConfig {
        debug: true,
        ..enclave(measured())
    };
    for config in [debug, NsmConfig::default()] {
        let document = document(here.world.root, config, public_key, SystemTime::now());
        here.refused(recipient(document), "AccessDeniedException")
            .await;
    }
}

#[tokio::test]
async fn no_measurement_of_a_debug_enclave_counts() {
    let role = Pcr::of_role("arn:aws:iam::111122223333:role/Host");
    let policy = enclave_policy(&role.to_string()).replace("ImageSha384", "PCR3");
    let here = Attested::with_policy(policy).await;
    let public_key = Some(recipient_key().public_key_der());
    for debug in [true, false] {
        let config = NsmConfig {
            debug,
            pcr3: Some(role),
            ..enclave(measured())
        };
        let document = document(here.world.root, config, public_key, SystemTime::now());
        let outcome = here
            .world
            .host()
            .call(&here.decrypt(recipient(document)))
            .await;
        assert_eq!(outcome.is_ok(), !debug);
    }
}

#[tokio::test]
async fn debug_mode_counts_where_the_configuration_says_so() {
    let world = World::with(|config| config.allow_debug = true).await;
    let here = Attested::of(world, enclave_policy(&Pcr::ZERO.to_string())).await;
    let debug = NsmConfig {
        debug: true,
        ..enclave(measured())
    };
    let public_key = Some(recipient_key().public_key_der());
    let document = document(here.world.root, debug, public_key, SystemTime::now());
    let answer = here
        .world
        .host()
        .call(&here.decrypt(recipient(document)))
        .await
        .unwrap();
    assert!(answer.plaintext.is_none());
}

#[tokio::test]
async fn a_document_signed_under_another_root_is_refused() {
    let here = Attested::new().await;
    let other = DevelopmentRoot::generate().unwrap();
    let public_key = Some(recipient_key().public_key_der());
    let document = document(&other, enclave(measured()), public_key, SystemTime::now());
    let (message, reason) = here
        .refused(recipient(document), "ValidationException")
        .await;
    assert_eq!(
        message,
        "The attestation document in the Recipient is not valid."
    );
    assert_eq!(
        reason,
        format!(
            "attestation document refused: signed under another root (fingerprint {})",
            hex::encode(other.fingerprint())
        )
    );
}

#[tokio::test]
async fn an_old_document_is_refused_and_so_is_one_of_the_future() {
    let here = Attested::new().await;
    let public_key = Some(recipient_key().public_key_der());
    for (offset, words) in [(-412_i64, "it is 41"), (120, "in the future")] {
        let by = Duration::from_secs(offset.unsigned_abs());
        let made = if offset < 0 {
            SystemTime::now() - by
        } else {
            SystemTime::now() + by
        };
        // The leaf is valid now; only the document's own time is wrong.
        let nsm = anchorhold_simulator::Nsm::new(
            here.world.root,
            enclave(measured()),
            SystemTime::now() - Duration::from_secs(1000),
        )
        .unwrap();
        let request = aws_nitro_enclaves_nsm_api::api::Request::Attestation {
            user_data: None,
            nonce: None,
            public_key: public_key.map(|key| serde_bytes::ByteBuf::from(key.to_vec())),
        };
        let answer = nsm.handle(&serde_cbor::to_vec(&request).unwrap(), made);
        let aws_nitro_enclaves_nsm_api::api::Response::Attestation { document } =
            serde_cbor::from_slice(&answer).unwrap()
        else {
            panic!("no document");
        };
        let (message, reason) = here
            .refused(recipient(document), "ValidationException")
            .await;
        assert!(!message.contains("old"), "{message}");
        assert!(reason.contains(words), "{reason}");
    }
    // The same by the service's clock: a document replayed later.
    let document = here
        .world
        .document(measured(), recipient_key().public_key_der());
    let request = here.decrypt(recipient(document));
    here.world.clock.0.store(200, Ordering::Relaxed);
    assert!(here.world.host().call(&request).await.is_ok());
}

#[tokio::test]
async fn the_age_of_documents_is_a_setting() {
    let world = World::with(|config| config.max_document_age = Duration::from_secs(100)).await;
    let here = Attested::of(world, enclave_policy(&measured().to_string())).await;
    let document = here
        .world
        .document(measured(), recipient_key().public_key_der());
    here.world.clock.0.store(200, Ordering::Relaxed);
    let (_, reason) = here
        .refused(recipient(document), "ValidationException")
        .await;
    assert!(reason.ends_with("s old; at most 100 s"), "{reason}");
}

#[tokio::test]
async fn a_replayed_fresh_document_brings_only_an_envelope_for_its_enclave() {
    let here = Attested::new().await;
    let document = here
        .world
        .document(measured(), recipient_key().public_key_der());
    for _ in 0..2 {
        let request = here.decrypt(recipient(document.clone()));
        let answer = here.world.host().call(&request).await.unwrap();
        assert!(answer.plaintext.is_none());
        let envelope = answer.ciphertext_for_recipient.unwrap().0;
        assert!(!envelope.windows(8).any(|w| w == &PLAINTEXT[..8]));
    }
}

#[tokio::test]
async fn documents_that_cannot_be_used_are_refused_and_never_answered_in_the_open() {
    let here = Attested::new().await;
    let world = &here.world;
    let key = recipient_key().public_key_der();
    let good = world.document(measured(), key);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    let without_key = document(world.root, enclave(measured()), None, SystemTime::now());
    let small_key = include_bytes!("rsa-1024.spki.der");
    for (bytes, words) in [
        (b"garbage".to_vec(), "attestation document refused"),
        (
            good[..good.len() - 1].to_vec(),
            "attestation document refused",
        ),
        (longer, "attestation document refused"),
        (flipped, "signature"),
        (without_key, "no public key"),
        (world.document(measured(), b"not a key"), "RSA key"),
        (world.document(measured(), small_key), "RSA key"),
    ] {
        let (message, reason) = here.refused(recipient(bytes), "ValidationException").await;
        assert_eq!(
            message,
            "The attestation document in the Recipient is not valid."
        );
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn an_incomplete_recipient_is_refused_and_never_answered_in_the_open() {
    // Under the default policy the owner may decrypt without a Recipient: nothing but the check of
    // the Recipient itself stands in the way here.
    let world = World::new().await;
    let key = world.key(None).await;
    let ciphertext = world.ciphertext(&key, PLAINTEXT, pairs(&[])).await;
    let good = world.document(measured(), recipient_key().public_key_der());
    let algorithm = Some(KeyEncryptionAlgorithm::RsaesOaepSha256);
    for (algorithm, document) in [
        (None, None),
        (algorithm.clone(), None),
        (None, Some(Blob(good.clone()))),
        (algorithm.clone(), Some(Blob(Vec::new()))),
        (algorithm.clone(), Some(Blob(vec![0; 262_145]))),
        (
            Some(KeyEncryptionAlgorithm::from("RSAES_OAEP_SHA_1")),
            Some(Blob(good.clone())),
        ),
        (algorithm, Some(Blob(b"garbage".to_vec()))),
    ] {
        let recipient = Some(RecipientInfo {
            key_encryption_algorithm: algorithm,
            attestation_document: document,
        });
        let decrypt = DecryptRequest {
            ciphertext_blob: Some(Blob(ciphertext.clone())),
            recipient: recipient.clone(),
            ..DecryptRequest::default()
        };
        refused(&world.owner(), &decrypt, "ValidationException").await;
        let generate = GenerateDataKeyRequest {
            key_id: key.clone(),
            key_spec: Some(DataKeySpec::Aes128),
            recipient: recipient.clone(),
            ..GenerateDataKeyRequest::default()
        };
        refused(&world.owner(), &generate, "ValidationException").await;
        let random = GenerateRandomRequest {
            number_of_bytes: Some(16),
            recipient,
            ..GenerateRandomRequest::default()
        };
        refused(&world.owner(), &random, "ValidationException").await;
    }
}

/// A user whose own policy allows all actions, under these conditions.
fn user_with(conditions: &str) -> Identity {
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{{{conditions}}}}}}}"#
    );
    Identity {
        policies: vec![IdentityPolicy {
            name: "own".to_owned(),
            policy: Policy::parse(&text, Kind::Identity).unwrap(),
        }]
        .into(),
        ..Identity::new(
            Principal::from_arn("arn:aws:iam::111122223333:user/random").unwrap(),
            "AKIARANDOM000000",
            "secret",
        )
    }
}

#[tokio::test]
async fn random_bytes_come_in_an_envelope_where_a_recipient_is_named() {
    let anchor = hex::encode(development_root().fingerprint());
    let names_anchor = format!(r#""StringEquals":{{"anchorhold:Anchor":"{anchor}"}}"#);
    let world = World::with(|config| config.identities.push(user_with(&names_anchor))).await;
    let document = world.document(measured(), recipient_key().public_key_der());
    let request = GenerateRandomRequest {
        number_of_bytes: Some(24),
        recipient: recipient(document),
        ..GenerateRandomRequest::default()
    };
    let user = world.client("AKIARANDOM000000", "secret");
    let answer = user.call(&request).await.unwrap();
    assert!(answer.plaintext.is_none());
    let envelope = answer.ciphertext_for_recipient.unwrap().0;
    assert_eq!(recipient_key().open(&envelope).unwrap().len(), 24);
    refused(&world.host(), &request, "AccessDeniedException").await;
}

#[tokio::test]
async fn random_bytes_for_a_simulated_enclave_need_a_policy_that_names_its_root() {
    // The owner may do all; but no statement of its names the development root.
    let world = World::new().await;
    let document = world.document(measured(), recipient_key().public_key_der());
    let mut request = GenerateRandomRequest {
        number_of_bytes: Some(24),
        recipient: recipient(document),
        ..GenerateRandomRequest::default()
    };
    let message = refused(&world.owner(), &request, "AccessDeniedException").await;
    assert!(
        message.ends_with("because no identity-based policy allows the kms:GenerateRandom action"),
        "{message}"
    );
    let reason = world.last_reason();
    assert!(
        reason.contains("anchorhold:Anchor expected") && reason.contains("AWS"),
        "{reason}"
    );
    request.recipient = None;
    assert!(world.owner().call(&request).await.is_ok());
}

#[tokio::test]
async fn a_simulator_s_document_opens_nothing_unless_the_statement_names_its_root() {
    let world = World::new().await;
    let own = hex::encode(world.root.fingerprint());
    let aws = hex::encode(anchorhold_attestation::Anchor::aws_nitro().fingerprint());
    let pcr = format!(r#""kms:RecipientAttestation:ImageSha384":"{}""#, measured());
    let named = |text: &str| text.replace("OWN", &own).replace("AWS", &aws);
    for (conditions, admitted) in [
        (
            format!(r#""StringEquals":{{{pcr},"anchorhold:Anchor":"OWN"}}"#),
            true,
        ),
        (
            format!(r#""StringEquals":{{{pcr},"anchorhold:Anchor":["AWS","OWN"]}}"#),
            true,
        ),
        (
            format!(r#""StringEqualsIgnoreCase":{{{pcr},"AnchorHold:anchor":"OWN"}}"#),
            true,
        ),
        (format!(r#""StringEquals":{{{pcr}}}"#), false),
        (
            format!(r#""StringEquals":{{{pcr},"anchorhold:Anchor":"AWS"}}"#),
            false,
        ),
        (
            format!(r#""StringEquals":{{{pcr}}},"StringLike":{{"anchorhold:Anchor":"*"}}"#),
            false,
        ),
        (
            format!(r#""StringEquals":{{{pcr}}},"StringNotEquals":{{"anchorhold:Anchor":"AWS"}}"#),
            false,
        ),
        (
            format!(
                r#""StringEquals":{{{pcr}}},"StringEqualsIfExists":{{"anchorhold:Anchor":"OWN"}}"#
            ),
            false,
        ),
        (
            format!(
                r#""StringEquals":{{{pcr}}},"ForAnyValue:StringEquals":{{"anchorhold:Anchor":"OWN"}}"#
            ),
            false,
        ),
        (
            format!(r#""StringEquals":{{{pcr},"anchorhold:Anchor":"${{anchorhold:Anchor}}"}}"#),
            false,
        ),
        (
            format!(r#""StringEquals":{{{pcr}}},"Null":{{"anchorhold:Anchor":"false"}}"#),
            false,
        ),
        // Without a word about attestation at all.
        (
            r#""StringEquals":{"kms:CallerAccount":"111122223333"}"#.to_owned(),
            false,
        ),
    ] {
        let key = world
            .key(Some(policy_with_conditions(&named(&conditions))))
            .await;
        let ciphertext = world.ciphertext(&key, PLAINTEXT, pairs(&[])).await;
        let request = DecryptRequest {
            ciphertext_blob: Some(Blob(ciphertext)),
            recipient: recipient(world.document(measured(), recipient_key().public_key_der())),
            ..DecryptRequest::default()
        };
        let answer = world.host().call(&request).await;
        assert_eq!(answer.is_ok(), admitted, "{conditions}");
        if !admitted {
            let reason = world.last_reason();
            assert!(reason.contains("anchorhold:Anchor expected"), "{reason}");
        }
    }
}

#[tokio::test]
async fn delegation_to_the_account_does_not_admit_a_simulator_s_root() {
    // Key policy: all to the account. Identity policy: all. In the open the owner may decrypt.
    let world = World::new().await;
    let key = world.key(None).await;
    let ciphertext = world.ciphertext(&key, PLAINTEXT, pairs(&[])).await;
    let mut request = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        recipient: recipient(world.document(measured(), recipient_key().public_key_der())),
        ..DecryptRequest::default()
    };
    refused(&world.owner(), &request, "AccessDeniedException").await;
    request.recipient = None;
    assert!(world.owner().call(&request).await.is_ok());
}
