//! The parent starts the right image in debug mode, in which it could read the enclave's memory on real hardware.

use anchorhold_attestation::{Pcr, Unverified};
use anchorhold_parent::client::Client;

use crate::stage::{KEY, LINES, Stage, block_on, programs};

#[test]
fn the_same_image_in_debug_mode_gets_no_key() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    {
        let honest = stage.house.enclave(&stage.image, "honest", &[]);
        assert_eq!(
            stage.honest_call(&stage.folder(honest.name), &message),
            LINES
        );
    }
    let debug = stage.house.enclave(&stage.image, "debug", &["--debug"]);
    let reason = stage.refused_call(debug.name, &message);
    assert!(reason.contains("debug mode"), "{reason}");

    // What the key service has seen: the measurements that count are zero.
    let client = Client::new(&stage.folder(debug.name));
    let document = block_on(client.attest(None, None, false)).expect("a document");
    let document = Unverified::parse(&document).expect("a document");
    let zeros: Vec<u8> = document
        .claimed()
        .pcrs()
        .filter(|(_, pcr)| pcr.is_zero())
        .map(|(index, _)| index)
        .collect();
    assert!(
        [0, 1, 2].iter().all(|index| zeros.contains(index)),
        "{zeros:?}"
    );
}

#[test]
fn a_policy_that_names_zeros_is_not_met_by_debug_mode() {
    let stage = Stage::new();
    let policy = stage.house.policy(&stage.image, "measured.json");
    let policy = std::fs::read_to_string(policy).expect("a policy");
    let measured = &stage.house.measurements(&stage.image)["PCR0"];
    let zeros = policy.replace(measured, &Pcr::ZERO.to_string());
    assert_ne!(policy, zeros);
    stage
        .house
        .key("alias/zeros", &stage.house.write("zeros.json", zeros));
    let manifest = stage.manifest("").replace(KEY, "alias/zeros");
    let image = stage.pack(&programs().job, &manifest, "zeros.eif");
    let message = stage.sealed_under("alias/zeros", LINES, &[]);
    let debug = stage.house.enclave(&image, "debug", &["--debug"]);
    let reason = stage.refused_call(debug.name, &message);
    assert!(reason.contains("debug mode"), "{reason}");

    // The key is good otherwise: with the image's own measurements in its policy, the same message is opened.
    drop(debug);
    let policy = stage.house.policy(&image, "mended.json");
    let policy = crate::stage::text(&policy).to_owned();
    let arn = stage
        .house
        .audit()
        .iter()
        .rev()
        .find_map(|line| line["resources"][0]["ARN"].as_str().map(str::to_owned));
    let arn = arn.expect("the audit log names the key");
    stage.house.must(
        crate::common::Who::Owner,
        ["kms", "put-key-policy", "--key", &arn, "--policy", &policy],
    );
    let honest = stage.house.enclave(&image, "honest", &[]);
    assert_eq!(
        stage.honest_call(&stage.folder(honest.name), &message),
        LINES
    );
}
