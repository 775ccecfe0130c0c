//! What can be shown of a document that nobody verified: everything, and none of it as a fact.

use anchorhold_attestation::{ClaimedContent, Unverified};
use rcgen::{DnType, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use crate::forge::{HOUR_MS, NOW_MS, Payload, Plan, pcr};

#[test]
fn claims_are_those_of_the_document_and_say_that_they_are_claims() {
    let chain = Plan::new().issue();
    let document = chain.document(&chain.payload());
    let claimed = document.claimed();
    assert_eq!(
        claimed.module_id(),
        "i-0123456789abcdef0-enc0123456789abcdef"
    );
    assert_eq!(claimed.timestamp_ms(), NOW_MS);
    assert_eq!(claimed.nonce(), Some(b"nonce".as_slice()));
    assert_eq!(claimed.user_data(), Some(b"user data".as_slice()));
    assert_eq!(claimed.public_key(), None);
    assert_eq!(
        claimed.pcrs().collect::<Vec<_>>(),
        (0..16).map(|index| (index, pcr(index))).collect::<Vec<_>>()
    );
    assert_eq!(claimed.certificate(), chain.leaf.der);
    assert_eq!(claimed.cabundle().collect::<Vec<_>>(), chain.cabundle());
    let json = serde_json::to_value(claimed).unwrap();
    assert_eq!(json["claimed"]["timestamp_ms"], NOW_MS);
    assert_eq!(json["claimed"]["nonce"], hex::encode("nonce"));
    assert_eq!(json["claimed"]["public_key"], json!(null));
    assert_eq!(json["claimed"]["pcrs"]["3"], "04".repeat(48));
    assert_eq!(json["claimed"]["certificate"], hex::encode(&chain.leaf.der));
    assert_eq!(json.as_object().unwrap().len(), 1, "the word comes first");
    let debug = format!("{claimed:?} {document:?}");
    assert!(
        debug.contains("Claimed") && debug.contains("Unverified"),
        "{debug}"
    );
}

#[test]
fn certificates_are_shown_as_they_describe_themselves() {
    let mut plan = Plan::new();
    plan.issuers[1].algorithm = &PKCS_ECDSA_P256_SHA256;
    let chain = plan.issue();
    let document = chain.document(&chain.payload());
    let shown: Vec<_> = document
        .claimed()
        .certificates()
        .map(|certificate| match certificate.content {
            ClaimedContent::Certificate {
                subject,
                issuer,
                not_before,
                not_after,
                p384,
                ca,
                ..
            } => (subject, issuer, not_before, not_after, p384, ca),
            other => panic!("{other:?}"),
        })
        .collect();
    let names =
        ["root", "region", "zone", "instance", "leaf"].map(|name| format!("CN={name}.forged"));
    for (index, (subject, issuer, not_before, not_after, p384, ca)) in shown.iter().enumerate() {
        assert_eq!(*subject, names[index]);
        assert_eq!(*issuer, names[index.saturating_sub(1)]);
        assert_eq!(*not_before, NOW_MS / 1000 - 600);
        let hours = if index == 4 { 3 } else { 24 };
        assert_eq!(*not_after, (NOW_MS + hours * HOUR_MS) / 1000);
        assert_eq!((*p384, *ca), (index != 2, index != 4), "{subject}");
    }
}

#[test]
fn what_is_no_certificate_is_said_to_be_none() {
    let payload = Payload::new(b"no certificate", &[vec![0x30]]);
    let chain = Plan::new().issue();
    let document = Unverified::parse(&chain.sign(&payload)).unwrap();
    for certificate in document.claimed().certificates() {
        assert!(matches!(
            certificate.content,
            ClaimedContent::Unreadable { .. }
        ));
    }
    let leaf = document.claimed().certificates().nth(1).unwrap();
    let json = serde_json::to_value(leaf).unwrap();
    assert_eq!(json["sha256"].as_str().unwrap().len(), 64);
    assert!(json["unreadable"].is_string());
}

#[test]
fn names_cannot_steer_a_terminal_or_hide_the_rest() {
    let mut plan = Plan::new();
    plan.leaf
        .params
        .distinguished_name
        .push(DnType::OrganizationName, "\u{1b}[2J\u{202e}safe\n");
    plan.leaf
        .params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "long ".repeat(200));
    let chain = plan.issue();
    let leaf = chain
        .document(&chain.payload())
        .claimed()
        .certificates()
        .last()
        .unwrap();
    let ClaimedContent::Certificate { subject, .. } = leaf.content else {
        panic!("{leaf:?}")
    };
    assert!(
        subject
            .chars()
            .all(|character| character.is_ascii_graphic() || " …".contains(character))
    );
    assert!(subject.ends_with('…'), "{subject}");
    assert!(subject.len() < 1000);
}
