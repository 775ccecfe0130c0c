//! The parent runs the very image that the key policy names, on a backend whose root the policy does not name.

use crate::hostile_parent::HostileParent;
use crate::stage::{KEY, LINES, Stage, programs};

/// A policy of this kind, and what becomes of a call to an enclave that a development root vouches for.
fn refused(more: &[&str]) -> String {
    let stage = Stage::new();
    let manifest = stage.manifest("").replace(KEY, "alias/hardware");
    let image = stage.pack(&programs().job, &manifest, "hardware.eif");
    let policy = stage.house.policy_with(&image, "hardware.json", more);
    stage.house.key("alias/hardware", &policy);
    let message = stage.sealed_under("alias/hardware", LINES, &[]);
    let enclave = HostileParent::start(&stage.house, "hardware", &image);
    let seen = stage.house.audit().len();
    enclave.must_refuse(&message, &["AccessDeniedException"]);
    stage.house.refusal_after(seen)
}

#[test]
fn a_simulated_enclave_opens_nothing_under_a_policy_for_hardware() {
    let reason = refused(&[]);
    assert!(reason.contains("anchorhold:Anchor expected"), "{reason}");
}

#[test]
fn a_policy_that_names_another_root_admits_no_other() {
    let other = "ab".repeat(32);
    let reason = refused(&["--anchor", &other]);
    assert!(
        reason.contains(&format!("anchorhold:Anchor expected {other}")),
        "{reason}"
    );
}
