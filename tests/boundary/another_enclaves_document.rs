//! The parent runs two enclaves, and uses the one's document or envelope for the other.

use std::time::SystemTime;

use anchorhold_attestation::Unverified;
use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_parent::client::Client;
use anchorhold_simulator::DevelopmentRoot;

use crate::common::House;
use crate::false_service::{Manner, PinnedService, open_from_pinned, seal_for_pinned};
use crate::hostile_parent::HostileParent;
use crate::stage::{LINES, Stage, block_on, document, programs, root};

#[test]
fn a_document_of_another_image_is_refused() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let honest = stage.house.enclave(&stage.image, "honest", &[]);
    let other = stage.pack(
        &programs().job,
        &stage.manifest("\n[egress]\nallow = [\"example.com:443\"]\n"),
        "other.eif",
    );
    let other = stage.house.enclave(&other, "other", &[]);
    let ask = |name| {
        let client = Client::new(&stage.folder(name));
        block_on(client.attest(None, None, true)).expect("a document")
    };
    stage
        .decrypt(&message, Some(ask(honest.name)))
        .expect("the right enclave's document");
    let reason = stage.refusal(|| stage.decrypt(&message, Some(ask(other.name))));
    let expected = &stage.house.measurements(&stage.image)["PCR0"];
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn a_document_with_the_right_measurements_under_another_root_is_refused() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let key = RecipientKey::generate().expect("a key");
    let under = |root: &DevelopmentRoot| {
        document(
            root,
            &stage.measurements(),
            key.public_key_der(),
            SystemTime::now(),
        )
    };
    stage
        .decrypt(&message, Some(under(&root(&stage.house))))
        .expect("a document under the service's root");
    let forged = under(&DevelopmentRoot::generate().expect("a root"));
    let reason = stage.refusal(|| stage.decrypt(&message, Some(forged)));
    assert!(reason.contains("signed under another root"), "{reason}");
}

#[test]
fn the_envelope_of_another_enclave_of_the_same_image_does_not_open() {
    let house = House::new();
    let pinned = PinnedService::start(&house);
    let enclave = HostileParent::start(&house, "one", &pinned.image);
    let other = HostileParent::start(&house, "other", &pinned.image);
    let message = seal_for_pinned(LINES);
    assert_eq!(
        open_from_pinned(&enclave.call(&message).expect("an honest call")),
        LINES
    );

    let document =
        block_on(Client::new(other.folder()).attest(None, None, true)).expect("a document");
    let document = Unverified::parse(&document).expect("a document");
    let public_key = document
        .claimed()
        .public_key()
        .expect("the other enclave's key")
        .to_vec();
    pinned.answers(Manner::EnvelopeFor(public_key));
    enclave.must_refuse(&message, &["the key service's envelope cannot be opened"]);
    // The same envelope is the right one for the other.
    assert_eq!(
        open_from_pinned(
            &other
                .call(&message)
                .expect("the other enclave's own envelope")
        ),
        LINES
    );

    pinned.answers(Manner::Envelope);
    assert_eq!(
        open_from_pinned(&enclave.call(&message).expect("an honest call")),
        LINES
    );
}
