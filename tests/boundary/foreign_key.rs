//! The parent feeds the enclave data of its own, under a key that the parent may use as it likes.

use crate::common::Who;
use crate::hostile_parent::HostileParent;
use crate::sealed_parts::SealedParts;
use crate::stage::{LINES, Stage, text};

/// A key of the same key service with which the host may do all.
fn key_of_the_host(stage: &Stage) -> String {
    let statement = |who: Who| serde_json::json!({ "Effect": "Allow", "Principal": { "AWS": who.arn() }, "Action": "kms:*", "Resource": "*" });
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [statement(Who::Owner), statement(Who::Host)],
    });
    stage.house.key(
        "alias/free",
        &stage.house.write("free.json", policy.to_string()),
    )
}

#[test]
fn data_under_a_key_that_the_manifest_does_not_name_is_refused() {
    let stage = Stage::new();
    key_of_the_host(&stage);
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let own = stage.sealed(LINES, &[]);
    assert_eq!(stage.honest_call(enclave.folder(), &own), LINES);

    // The host seals with its key, and opens with it.
    let chosen = b"{\"n\":\"of the parent's choosing\"}\n";
    let foreign = stage
        .house
        .must_with(Who::Host, ["seal", "--key", "alias/free"], chosen);
    assert_eq!(stage.house.must_with(Who::Host, ["open"], &foreign), chosen);

    let seen = stage.house.audit().len();
    enclave.must_refuse(&foreign, &["IncorrectKeyException"]);
    let reason = stage.house.refusal_after(seen);
    assert!(
        reason.contains("the ciphertext was made under key"),
        "{reason}"
    );

    // Under the right key's name it is no other.
    let mut renamed = SealedParts::parse(&foreign);
    renamed.data_keys[0]
        .key
        .clone_from(&SealedParts::parse(&own).data_keys[0].key);
    enclave.must_refuse(&renamed.bytes(), &["IncorrectKeyException"]);

    // Nor can the host seal under the enclave's key, or have its name lead to the other key.
    let path = stage.house.write("chosen", chosen);
    let said = stage.house.must_fail(
        Who::Host,
        ["seal", "--key", crate::stage::KEY, "--input", text(&path)],
    );
    assert!(said.contains("AccessDeniedException"), "{said}");
    let said = stage.house.must_fail(
        Who::Host,
        ["kms", "create-key", "--alias", crate::stage::KEY],
    );
    assert!(said.contains("AccessDeniedException"), "{said}");

    assert_eq!(stage.honest_call(enclave.folder(), &own), LINES);
}

#[test]
fn a_secret_under_a_key_that_the_manifest_does_not_name_is_refused() {
    let stage = Stage::with("\n[secrets.pepper]\n");
    key_of_the_host(&stage);
    let good = stage.sealed(&[7; 32], &["--secret", "pepper"]);
    let foreign = stage.house.must_with(
        Who::Host,
        ["seal", "--key", "alias/free", "--secret", "pepper"],
        &[8; 32],
    );
    let enclave =
        HostileParent::with_secrets(&stage.house, "odd", &stage.image, &[("pepper", foreign)]);
    let message = stage.sealed(LINES, &[]);
    enclave.must_refuse(
        &message,
        &["the secret pepper cannot be opened: the key service answered IncorrectKeyException"],
    );
    enclave.answers_secret_with("pepper", crate::hostile_parent::http(200, &good));
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}
