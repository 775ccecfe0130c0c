//! The parent starts an image that is not the measured one.

use crate::common::Who;
use crate::stage::{LINES, Stage, programs, text};

/// Starts another image beside the honest one: it must not get the key, and the audit log names both PCR0.
fn must_be_refused(stage: &Stage, image: &std::path::Path) {
    let message = stage.sealed(LINES, &[]);
    {
        let honest = stage.house.enclave(&stage.image, "honest", &[]);
        assert_eq!(
            stage.honest_call(&stage.folder(honest.name), &message),
            LINES
        );
    }
    let changed = stage.house.enclave(image, "changed", &[]);
    let reason = stage.refused_call(changed.name, &message);
    let expected = &stage.house.measurements(&stage.image)["PCR0"];
    let found = &stage.house.measurements(image)["PCR0"];
    assert_ne!(expected, found);
    assert!(
        reason.contains(expected) && reason.contains(found),
        "{reason}"
    );
}

#[test]
fn an_image_with_one_byte_of_its_job_changed_gets_no_key() {
    let stage = Stage::new();
    let mut program = std::fs::read(&programs().job).expect("the job");
    // A letter of a message: the job runs as before.
    let word = b"odd-job saw";
    let place = program
        .windows(word.len())
        .position(|window| window == word)
        .expect("the job's message");
    program[place] ^= 0x20;
    let job = stage.house.write("changed-job", program);
    let image = stage.pack(&job, &stage.manifest(""), "changed.eif");
    must_be_refused(&stage, &image);
}

#[test]
fn an_image_whose_manifest_lets_the_job_speak_to_the_parent_gets_no_key() {
    let stage = Stage::new();
    let manifest = stage.manifest("\n[log]\njob_stderr = \"forward\"\n");
    let image = stage.pack(&programs().job, &manifest, "forward.eif");
    must_be_refused(&stage, &image);
}

#[test]
fn an_image_file_with_a_flipped_bit_does_not_start() {
    let stage = Stage::new();
    drop(stage.house.enclave(&stage.image, "honest", &[]));
    let mut image = std::fs::read(&stage.image).expect("the image");
    let middle = image.len() / 2;
    image[middle] ^= 1;
    let image = stage.house.write("flipped.eif", image);
    let said = stage
        .house
        .must_fail(Who::Host, ["run", text(&image), "--name", "flipped"]);
    assert!(said.contains("the checksum is"), "{said}");
}
