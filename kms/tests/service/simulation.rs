//! What `kms simulate` says of a document, and that the service says the same.

use crate::{
    World, development_root, document, enclave, enclave_policy, measured, pairs, recipient,
    recipient_key,
};
use anchorhold_attestation::Pcr;
use anchorhold_kms::policy::{Kind, Permissions, Policy, Principal};
use anchorhold_kms::simulation::{Simulation, Verdict, grant};
use anchorhold_kms_wire::shapes::{Blob, DecryptRequest};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const HOST: &str = "arn:aws:iam::111122223333:user/host";

fn simulation(policy: &str, key: &str, document: Vec<u8>) -> Simulation {
    Simulation {
        principal: Principal::from_arn(HOST).unwrap(),
        tags: BTreeMap::new(),
        action: "kms:Decrypt".to_owned(),
        resource: key.to_owned(),
        key_policy: Some(Policy::parse(policy, Kind::Key).unwrap()),
        permissions: Permissions::default(),
        grants: Vec::new(),
        encryption_context: BTreeMap::new(),
        document: Some(document),
        anchors: vec![development_root().anchor()],
        max_document_age: Duration::from_secs(300),
        at: SystemTime::now(),
        conditions: Vec::new(),
    }
}

#[tokio::test]
async fn a_simulation_and_the_service_give_the_same_reason() {
    let world = World::new().await;
    let named = enclave_policy(&measured().to_string());
    let unnamed = named.replace(
        &format!(
            r#""anchorhold:Anchor":"{}","#,
            hex::encode(development_root().fingerprint())
        ),
        "",
    );
    assert_ne!(named, unnamed);
    for (policy, pcr0, allowed) in [
        (&named, measured(), true),
        (&named, Pcr::from_bytes([0xcd; 48]), false),
        (&unnamed, measured(), false),
    ] {
        let key = world.key(Some(policy.clone())).await;
        let ciphertext = world.ciphertext(&key, b"x", pairs(&[])).await;
        let document = world.document(pcr0, recipient_key().public_key_der());
        let verdict = simulation(policy, &key, document.clone()).run();
        assert_eq!(verdict.is_allowed(), allowed, "{}", verdict.reason());
        let request = DecryptRequest {
            ciphertext_blob: Some(Blob(ciphertext)),
            recipient: recipient(document),
            ..DecryptRequest::default()
        };
        assert_eq!(world.host().call(&request).await.is_ok(), allowed);
        let line = world.audit().pop().unwrap();
        let own = &line["anchorhold"];
        let said = own["reason"].as_str().or(own["allowedBy"].as_str());
        assert_eq!(said, Some(verdict.reason()));
        let json = verdict.as_json();
        assert_eq!(json["recipient"], line["additionalEventData"]["recipient"]);
        if !allowed {
            assert_eq!(json["trace"], own["trace"]);
            assert_eq!(json["message"], line["errorMessage"]);
        }
    }
}

#[test]
fn a_document_that_the_service_would_refuse_is_refused_before_any_policy() {
    let policy = enclave_policy(&measured().to_string());
    let key = "arn:aws:kms:us-east-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef";
    let good = document(
        development_root(),
        enclave(measured()),
        Some(recipient_key().public_key_der()),
        SystemTime::now(),
    );
    assert!(simulation(&policy, key, good.clone()).run().is_allowed());
    let mut stranger = simulation(&policy, key, good.clone());
    stranger.anchors.clear();
    let mut late = simulation(&policy, key, good);
    late.at += Duration::from_secs(301);
    let garbage = simulation(&policy, key, b"garbage".to_vec());
    for (simulation, words) in [
        (stranger, "signed under another root"),
        (late, "at most 300 s"),
        (garbage, "attestation document refused"),
    ] {
        let verdict = simulation.run();
        assert!(matches!(verdict, Verdict::DocumentRefused { .. }));
        assert!(verdict.reason().contains(words), "{}", verdict.reason());
    }
}

#[test]
fn a_grant_is_read_as_list_grants_shows_it() {
    let shown = r#"{"KeyId":"arn:aws:kms:us-east-1:111122223333:key/x","GrantId":"g","Name":"n","CreationDate":1.0,
        "GranteePrincipal":"arn:aws:iam::111122223333:role/Host","IssuingAccount":"arn:aws:iam::444455556666:root",
        "Operations":["Decrypt"],"Constraints":{"EncryptionContextEquals":{"a":"b"}}}"#;
    let read = grant(shown, "111122223333").unwrap();
    assert_eq!(read.issuing_account, "444455556666");
    assert_eq!(read.constraints.encryption_context_equals["a"], "b");
    for bad in [
        "{}",
        r#"{"GranteePrincipal":"*","Operations":["Decrypt"]}"#,
        r#"{"GranteePrincipal":"arn:aws:iam::111122223333:role/Host","Operations":["Decrypt"],"Constraints":{"Subset":{}}}"#,
    ] {
        assert!(grant(bad, "111122223333").is_err(), "{bad}");
    }
}
