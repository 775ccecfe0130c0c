//! The parent presents a document of the right enclave itself: an old one, or one that it has just asked for.

use std::time::{Duration, SystemTime};

use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_parent::client::Client;

use crate::stage::{LINES, Stage, block_on, document, root};

#[test]
fn an_old_document_is_refused() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let key = RecipientKey::generate().expect("a key");
    let root = root(&stage.house);
    let at = |when| document(&root, &stage.measurements(), key.public_key_der(), when);
    let now = SystemTime::now();

    // A document of this minute is accepted, and its owner opens the answer.
    let answer = stage
        .decrypt(&message, Some(at(now)))
        .expect("a fresh document");
    let envelope = answer.ciphertext_for_recipient.expect("an envelope");
    assert_eq!(key.open(&envelope.0).expect("a data key").len(), 32);

    let old = at(now - Duration::from_mins(10));
    let reason = stage.refusal(|| stage.decrypt(&message, Some(old)));
    assert!(reason.contains("s old; at most 300 s"), "{reason}");
    // Nor is one that was made for later.
    let early = at(now + Duration::from_hours(1));
    let reason = stage.refusal(|| stage.decrypt(&message, Some(early)));
    assert!(reason.contains("in the future"), "{reason}");
}

#[test]
fn a_fresh_document_brings_the_parent_only_an_envelope_that_it_cannot_open() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let enclave = stage.house.enclave(&stage.image, "odd", &[]);
    let folder = stage.folder(enclave.name);
    assert_eq!(stage.honest_call(&folder, &message), LINES);

    let fresh = block_on(Client::new(&folder).attest(None, None, true)).expect("a document");
    let answer = stage
        .decrypt(&message, Some(fresh.clone()))
        .expect("a fresh document of the right enclave");
    assert!(
        answer.plaintext.is_none(),
        "the answer holds the data key in the open"
    );
    let envelope = answer.ciphertext_for_recipient.expect("an envelope");
    let own = RecipientKey::generate().expect("a key");
    own.open(&envelope.0)
        .expect_err("the parent opened the enclave's envelope");

    // With a key of the parent's own in its place the document is no longer what the NSM signed.
    let theirs = fresh
        .windows(22)
        .position(|window| window.starts_with(&own.public_key_der()[..22]));
    let place = theirs.expect("both keys begin alike, as RSA-2048 keys do");
    let mut forged = fresh;
    forged[place..place + own.public_key_der().len()].copy_from_slice(own.public_key_der());
    let reason = stage.refusal(|| stage.decrypt(&message, Some(forged)));
    assert!(reason.contains("signature"), "{reason}");
}

#[test]
fn a_document_without_a_key_is_no_way_to_a_plaintext() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let enclave = stage.house.enclave(&stage.image, "odd", &[]);
    let folder = stage.folder(enclave.name);
    assert_eq!(stage.honest_call(&folder, &message), LINES);
    let keyless =
        block_on(Client::new(&folder).attest(Some(b"nonce"), None, false)).expect("a document");
    let reason = stage.refusal(|| stage.decrypt(&message, Some(keyless)));
    assert!(reason.contains("no public key"), "{reason}");
}
