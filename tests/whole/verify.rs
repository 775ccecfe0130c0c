//! `anchorhold verify`: exit code 0 admitted, 1 refused and why, 2 unusable.

use std::ffi::OsStr;
use std::path::Path;

use base64::Engine as _;
use serde_json::Value;

use crate::common::{House, Who, shared};

fn verify(house: &House, document: &Path, more: &[&str]) -> (i32, String) {
    let mut arguments = vec![OsStr::new("verify"), document.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    let output = house.run(Who::Owner, arguments);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code().expect("an exit code"), said)
}

#[test]
fn each_real_document_gets_its_verdict() {
    let Some(folder) = shared("attestation-documents") else {
        return;
    };
    let index = std::fs::read(folder.join("index.json")).expect("an index");
    let index: Vec<Value> = serde_json::from_slice(&index).expect("JSON");
    assert_eq!(index.len(), 12);
    let house = House::new();
    for entry in index {
        let document = folder.join(entry["file"].as_str().expect("a file"));
        // Exit codes: by itself, and where debug mode is allowed.
        let (plain, allowing_debug) = match entry["verdict_at_its_own_timestamp"].as_str() {
            Some("accept") => (0, 0),
            Some("debug") => (1, 0),
            Some("reject-signature") => (1, 1),
            other => panic!("verdict {other:?}"),
        };
        let archive = ["--at", "document", "--any-image"];
        let (code, said) = verify(&house, &document, &archive);
        assert_eq!(code, plain, "{}: {said}", entry["file"]);
        let (code, said) = verify(
            &house,
            &document,
            &["--at", "document", "--any-image", "--allow-debug"],
        );
        assert_eq!(code, allowing_debug, "{}: {said}", entry["file"]);
        let (code, said) = verify(
            &house,
            &document,
            &["--at", "now", "--any-image", "--allow-debug"],
        );
        assert_eq!(code, 1, "{}: {said}", entry["file"]);

        let bytes = std::fs::read(&document).expect("a document");
        for text in [
            hex::encode(&bytes),
            base64::engine::general_purpose::STANDARD.encode(&bytes),
        ] {
            let written = house.write("document.txt", text);
            assert_eq!(verify(&house, &written, &archive).0, plain);
        }
        let mut flipped = bytes;
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let flipped = house.write("flipped.cbor", flipped);
        assert_ne!(
            verify(
                &house,
                &flipped,
                &["--at", "document", "--any-image", "--allow-debug"]
            )
            .0,
            0
        );
    }
}

#[test]
fn what_is_no_document_is_unusable_and_what_is_not_expected_must_be_said() {
    let house = House::new();
    let garbage = house.write("garbage", b"no document");
    let (code, said) = verify(&house, &garbage, &["--at", "now", "--any-image"]);
    assert_eq!(code, 2, "{said}");
    let (code, said) = verify(&house, &garbage, &["--at", "now"]);
    assert_eq!(code, 2);
    assert!(said.contains("--any-image"), "{said}");
    let (code, said) = verify(&house, &garbage, &["--at", "yesterday", "--any-image"]);
    assert_eq!(code, 2);
    assert!(said.contains("yesterday"), "{said}");
    let (code, said) = verify(&house, Path::new("absent"), &["--at", "now", "--any-image"]);
    assert_eq!(code, 2);
    assert!(said.contains("absent"), "{said}");
}

#[test]
fn a_running_enclave_proves_its_image_and_only_under_the_root_that_is_named() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let manifest = house.manifest(&["/job"], "alias/odd", "");
    let image = house.image("tests/whole/odd-job", &manifest, "odd.eif");
    let enclave = house.enclave(&image, "odd", &[]);
    let document = house.path("document.cbor");
    let path = document.to_str().expect("UTF-8");
    house.must(
        Who::Host,
        ["attest", enclave.name, "--nonce", "00ff", "-o", path],
    );
    let image = image.to_str().expect("UTF-8");
    let root = house.path("development-root/root.pem");
    let root = root.to_str().expect("UTF-8");
    let now = [
        "--at", "now", "--image", image, "--nonce", "00ff", "--anchor", root,
    ];
    let (code, said) = verify(&house, &document, &now);
    assert_eq!(code, 0, "{said}");

    let (code, said) = verify(&house, &document, &["--at", "now", "--image", image]);
    assert_eq!(code, 1, "AWS's root did not sign it: {said}");
    let (code, said) = verify(
        &house,
        &document,
        &[
            "--at", "now", "--image", image, "--nonce", "00fe", "--anchor", root,
        ],
    );
    assert_eq!(code, 1);
    assert!(said.contains("nonce"), "{said}");
    let zero = "00".repeat(48);
    let (code, said) = verify(
        &house,
        &document,
        &["--at", "now", "--pcr0", &zero, "--anchor", root],
    );
    assert_eq!(code, 1);
    assert!(
        said.contains(&house.measurements(Path::new(image))["PCR0"]),
        "{said}"
    );
}

#[test]
fn what_is_asked_of_a_real_document_must_hold() {
    let Some(folder) = shared("attestation-documents") else {
        return;
    };
    let house = House::new();
    let document = folder.join("a72552688ab6.cbor");
    let judged = |more: &[&str]| {
        let arguments = [&["--at", "2022-10-13T09:00:00Z", "--json"], more].concat();
        let (code, said) = verify(&house, &document, &arguments);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        (code, said)
    };
    let (code, facts) = judged(&["--any-image"]);
    assert_eq!(code, 0, "{facts}");
    let pcr = |index: &str| {
        facts["pcrs"][format!("PCR{index}")]
            .as_str()
            .expect("a PCR")
    };
    let id = facts["module_id"].as_str().expect("a name");
    let instance = id.split("-enc").next().expect("an instance");
    let nonce = facts["nonce"].as_str().expect("a nonce");
    let fifteen = format!("15={}", "00".repeat(48));
    let all = [
        "--pcr0",
        pcr("0"),
        "--pcr1",
        pcr("1"),
        "--pcr2",
        pcr("2"),
        "--pcr3",
        pcr("3"),
        "--pcr8",
        pcr("8"),
        "--pcr",
        &fifteen,
        "--instance",
        instance,
        "--module-id",
        id,
        "--nonce",
        nonce,
    ];
    let (code, said) = judged(&all);
    assert_eq!(code, 0, "{said}");

    // Rolled over: the old value or the new one.
    let zero = "00".repeat(48);
    let (code, _) = judged(&["--pcr0", &zero, "--pcr0", pcr("0")]);
    assert_eq!(code, 0);
    let sixteen = format!("16={zero}");
    for (wrong, name) in [
        (&["--pcr0", &zero][..], "pcr"),
        (&["--any-image", "--pcr", &sixteen], "pcr"),
        (&["--any-image", "--instance", "i-06c79bf817127030a"], "pcr"),
        (
            &[
                "--any-image",
                "--role",
                "arn:aws:iam::111122223333:role/cards",
            ],
            "pcr",
        ),
        (&["--any-image", "--module-id", instance], "module-id"),
        (&["--any-image", "--nonce", &nonce[..2]], "nonce"),
        (&["--any-image", "--user-data", ""], "user-data"),
        (&["--any-image", "--public-key", "00"], "public-key"),
    ] {
        let (code, said) = judged(wrong);
        assert_eq!(code, 1, "{wrong:?}: {said}");
        assert_eq!(said["refused_for"], serde_json::json!([name]), "{wrong:?}");
        assert_eq!(said["differences"][0]["what"], name);
    }
    let (code, said) = judged(&["--any-image", "--max-age", "10"]);
    assert_eq!((code, &said["refused_for"][0]), (1, &"too-old".into()));
    let (code, said) = verify(
        &house,
        &document,
        &["--at", "2022-10-13T12:00:00Z", "--any-image"],
    );
    assert_eq!(code, 1);
    assert!(said.contains("was valid until 2022-10-13T11:5"), "{said}");
}

#[test]
fn inspecting_shows_a_document_and_calls_nothing_of_it_true() {
    let Some(folder) = shared("attestation-documents") else {
        return;
    };
    let house = House::new();
    let inspect = |document: &Path, more: &[&str]| {
        let mut arguments = vec![OsStr::new("inspect"), document.as_os_str()];
        arguments.extend(more.iter().map(OsStr::new));
        let output = house.run(Who::Owner, arguments);
        (
            output.status.code().expect("an exit code"),
            String::from_utf8(output.stdout).expect("UTF-8"),
        )
    };
    let document = folder.join("a72552688ab6.cbor");
    let (code, said) = inspect(&document, &[]);
    assert_eq!(code, 0);
    assert!(said.starts_with("NOT VERIFIED"), "{said}");
    assert!(said.contains("i-020b6af9246d90e92"), "{said}");
    assert_eq!(said.matches("issued by").count(), 5, "{said}");
    let (_, json) = inspect(&document, &["--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["verified"], false);
    assert_eq!(
        json["claimed"]["certificates"][0]["subject"],
        "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"
    );

    let bytes = std::fs::read(&document).expect("a document");
    let mut forged = bytes.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = house.write("forged.cbor", forged);
    assert_eq!(inspect(&forged, &[]).0, 0, "a forgery can be looked at too");
    let cut = house.write("cut.cbor", &bytes[..1000]);
    let (code, said) = inspect(&cut, &[]);
    assert_eq!(code, 1);
    assert_eq!(said, "malformed: payload: cut off at offset 7\n");
    let garbage = house.write("garbage", b"no document");
    assert_eq!(inspect(&garbage, &[]).0, 2);
}
