//! The `Recipient` is left out, or ignored: a data key in the open must neither be given nor taken.

use crate::common::House;
use crate::false_service::{Manner, PinnedService, open_from_pinned, seal_for_pinned};
use crate::hostile_parent::HostileParent;
use crate::stage::{LINES, Stage};

#[test]
fn the_parent_gets_nothing_from_the_key_service_without_a_recipient() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let enclave = stage.house.enclave(&stage.image, "odd", &[]);
    assert_eq!(
        stage.honest_call(&stage.folder(enclave.name), &message),
        LINES
    );
    let reason = stage.refusal(|| stage.decrypt(&message, None));
    assert!(reason.contains("no attestation document"), "{reason}");
}

#[test]
fn a_service_that_ignores_the_recipient_is_refused_by_the_enclave() {
    let house = House::new();
    let pinned = PinnedService::start(&house);
    let enclave = HostileParent::start(&house, "odd", &pinned.image);
    let message = seal_for_pinned(LINES);
    let honestly = || {
        assert_eq!(
            open_from_pinned(&enclave.call(&message).expect("an honest call")),
            LINES
        );
    };
    honestly();
    let plaintext = "with a plaintext though a Recipient was named";
    for (manner, reason) in [
        (Manner::Plaintext, plaintext),
        // The envelope is good, but the service has shown that it would have given the key to anybody.
        (Manner::Both, plaintext),
        (Manner::Neither, "without CiphertextForRecipient"),
        (
            Manner::Garbage,
            "the key service's envelope cannot be opened",
        ),
    ] {
        pinned.answers(manner.clone());
        enclave.must_refuse(&message, &[reason]);
        pinned.answers_decrypt(manner);
        let said = enclave.must_refuse(&message, &[reason]);
        assert!(said.contains("the input's data key"), "{said}");
        pinned.answers(Manner::Envelope);
        honestly();
    }
}
