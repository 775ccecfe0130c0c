//! The parent changes what a message says about itself.

use crate::common::Who;
use crate::hostile_parent::HostileParent;
use crate::sealed_parts::SealedParts;
use crate::stage::{KEY, LINES, Stage};

#[test]
fn a_changed_context_opens_nothing() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let sealed = stage.sealed(LINES, &["--context", "purpose=echo", "--context", "run=1"]);
    assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
    let honest = SealedParts::parse(&sealed);
    let changes: [fn(&mut SealedParts); 4] = [
        |message| {
            *message.context.get_mut("run").expect("a pair") = "2".to_owned();
        },
        |message| drop(message.context.remove("run")),
        |message| {
            message
                .context
                .insert("approved".to_owned(), "yes".to_owned());
        },
        |message| message.context.clear(),
    ];
    for change in changes {
        let mut message = honest.clone();
        change(&mut message);
        let seen = stage.house.audit().len();
        enclave.must_refuse(&message.bytes(), &["InvalidCiphertextException"]);
        let reason = stage.house.refusal_after(seen);
        assert!(reason.contains("another encryption context"), "{reason}");
    }
    assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
}

#[test]
fn a_secret_or_a_result_is_not_taken_for_an_input() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let input = stage.sealed(LINES, &["--context", "run=1"]);
    let result = enclave.call(&input).expect("an honest call");
    let secret = stage.sealed(LINES, &["--secret", "pepper"]);
    for message in [&secret, &result] {
        enclave.must_refuse(
            message,
            &["keys that start with anchorhold: are anchorhold's own"],
        );
        // Nor without the words that say what it is.
        let mut stripped = SealedParts::parse(message);
        stripped
            .context
            .retain(|name, _| !name.starts_with("anchorhold:"));
        enclave.must_refuse(&stripped.bytes(), &["InvalidCiphertextException"]);
    }
    // The owner's command does not make such messages by accident.
    let said = stage.house.must_fail(
        Who::Owner,
        ["seal", "--key", KEY, "--context", "anchorhold:kind=result"],
    );
    assert!(said.contains("anchorhold:"), "{said}");
}

#[test]
fn a_result_is_opened_only_with_the_context_that_its_owner_expects() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let input = stage.sealed(LINES, &["--context", "run=1"]);
    let result = enclave.call(&input).expect("an honest call");
    let expected = ["--context", "run=1", "--context", "anchorhold:kind=result"];
    assert_eq!(stage.opened(&result, &expected), LINES);
    let said = stage.not_opened(&result, &["--context", "run=2"]);
    assert!(said.contains("run is \"1\", not \"2\""), "{said}");
    let said = stage.not_opened(&result, &["--context", "approved=yes"]);
    assert!(said.contains("approved is missing"), "{said}");

    // What the owner expects can be written into the header by anybody, and then the key service refuses.
    let mut forged = SealedParts::parse(&result);
    *forged.context.get_mut("run").expect("a pair") = "2".to_owned();
    let said = stage.not_opened(&forged.bytes(), &["--context", "run=2"]);
    assert!(said.contains("InvalidCiphertextException"), "{said}");
}
