//! The parent leads the enclave to a key service of its own, with TLS and all.

use std::net::TcpStream;

use crate::common::House;
use crate::false_service::{
    Authority, FalseService, Identity, PinnedService, open_from_pinned, seal_for_pinned,
};
use crate::hostile_parent::{Cut, HostileParent, carry};
use crate::stage::{LINES, Stage};

/// Leads the enclave to a server with that certificate: it must say this, and the server must hear nothing.
pub(crate) fn must_not_talk_to(
    enclave: &HostileParent,
    identity: Identity,
    message: &[u8],
    reason: &str,
) {
    let service = FalseService::start(identity, |_, _| panic!("the false service got a request"));
    let address = service.address;
    enclave.connects_to(move |enclave, _, ledger| {
        carry(
            enclave,
            TcpStream::connect(address).expect("the false service"),
            Cut::NEVER,
            ledger,
        );
    });
    enclave.must_refuse(message, &[reason]);
    enclave.be_honest();
    service.heard(|heard| {
        assert!(
            heard.connections > 0,
            "the enclave was not led to the false service"
        );
        assert!(
            heard.plaintext.is_empty(),
            "the false service heard {} bytes",
            heard.plaintext.len()
        );
    });
}

#[test]
fn a_service_under_another_authority_hears_nothing() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let nobody = "no trusted CA has signed it";
    for (identity, reason) in [
        (
            Authority::named("the parent's own").certify("127.0.0.1"),
            nobody,
        ),
        // The true authority's name is no secret; its key is.
        (
            Authority::named("anchorhold key service, development CA").certify("127.0.0.1"),
            nobody,
        ),
    ] {
        must_not_talk_to(&enclave, identity, &message, reason);
        assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
    }
}

#[test]
fn a_certificate_of_the_right_authority_for_another_name_or_time_is_refused() {
    let house = House::new();
    let authority = Authority::named("the image's own");
    let pinned = PinnedService::under(&house, &authority);
    let enclave = HostileParent::start(&house, "odd", &pinned.image);
    let message = seal_for_pinned(LINES);
    assert_eq!(
        open_from_pinned(&enclave.call(&message).expect("an honest call")),
        LINES
    );
    // So that nothing heard below means something: this server notes what it hears.
    pinned.service.heard(|heard| {
        let heard = String::from_utf8_lossy(&heard.plaintext).into_owned();
        assert!(
            heard.contains("TrentService.Decrypt") && heard.contains("AttestationDocument"),
            "{heard}"
        );
    });
    must_not_talk_to(
        &enclave,
        authority.certify("kms.example"),
        &message,
        "it is for another name",
    );
    must_not_talk_to(
        &enclave,
        authority.certify_for_the_past("127.0.0.1"),
        &message,
        "it has expired",
    );
    assert_eq!(
        open_from_pinned(&enclave.call(&message).expect("an honest call")),
        LINES
    );
}
