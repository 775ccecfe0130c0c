//! Container images that real tools made (debootstrap, umoci, skopeo, buildah), and jobs in Python and Node that run from
//! them.
//! Set up by `tests/real-images/setup DIR`, found in `ANCHORHOLD_REAL_IMAGES`.

#[path = "../common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anchorhold_job_cards::card::CardNumber;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::channel::Channel;
use common::{House, Who};
use serde_json::{Value, json};

fn made(name: &str) -> PathBuf {
    let folder = std::env::var_os("ANCHORHOLD_REAL_IMAGES")
        .expect("ANCHORHOLD_REAL_IMAGES names the folder that tests/real-images/setup made");
    Path::new(&folder).join(name)
}

fn build(house: &House, container: &str, manifest: &Path, image: &str) -> PathBuf {
    let (container, image) = (made(container), house.path(image));
    house.must(
        Who::Owner,
        [
            OsStr::new("build"),
            OsStr::new("--container"),
            container.as_os_str(),
            OsStr::new("--manifest"),
            manifest.as_os_str(),
            OsStr::new("-o"),
            image.as_os_str(),
        ],
    );
    image
}

#[test]
fn a_python_job_runs_from_what_every_tool_makes_and_forms_of_one_image_measure_the_same() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let more = "[resources]\nmemory_mib = 1024\ncpus = 1\n";
    // The command comes from the container image.
    let manifest = house
        .manifest(&["/none"], "alias/upper", more)
        .replace("command = [\"/none\"]\n", "");
    let manifest = house.write("upper.toml", manifest);

    let mut measured = Vec::new();
    for container in ["layout", "oci.tar", "docker.tar", "zstd"] {
        let image = build(&house, container, &manifest, &format!("{container}.eif"));
        measured.push(house.measurements(&image));
    }
    assert!(
        measured.iter().all(|pcrs| *pcrs == measured[0]),
        "{measured:#?}"
    );

    let sbom = house.must(
        Who::Owner,
        [OsStr::new("sbom"), house.path("docker.tar.eif").as_os_str()],
    );
    let sbom: Value = serde_json::from_slice(&sbom).expect("JSON");
    let python = sbom["components"]
        .as_array()
        .expect("components")
        .iter()
        .filter_map(|component| component["purl"].as_str())
        .find(|purl| purl.starts_with("pkg:deb/debian/python3@"));
    assert!(
        python.is_some_and(|purl| purl.ends_with("distro=debian-12")),
        "{python:?}"
    );

    for (tool, container, name) in [
        ("skopeo", "docker.tar", "by-skopeo"),
        ("buildah", "buildah.tar", "by-buildah"),
    ] {
        let alias = format!("alias/upper-{tool}");
        let own = std::fs::read_to_string(&manifest)
            .expect("the manifest")
            .replace("alias/upper", &alias);
        let own = house.write("of-tool.toml", own);
        let image = build(&house, container, &own, "run.eif");
        house.key(&alias, &house.policy(&image, "policy.json"));
        let enclave = house.enclave(&image, name, &[]);
        let input = "{\"text\":\"grüße\"}\n{\"text\":\"zwei\"}\n";
        let sealed = house.seal(&alias, &[], input.as_bytes(), "input.sealed");
        let result = house.path("result.sealed");
        house.must_call(enclave.name, &sealed, &result);
        let answers: Vec<Value> = String::from_utf8(house.open(&result, &[]))
            .expect("UTF-8")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let answer = |text: &str| json!({ "text": text, "greeting": "hello", "folder": "/srv" });
        assert_eq!(answers, [answer("GRÜSSE"), answer("ZWEI")], "{tool}");
        std::fs::remove_file(result).expect("the result");
    }
}

/// A job of `enclave/jobs/validate` in an enclave, beside the same job in Rust: same answers, sealed records too.
fn validates(language: &str, name: &'static str, place: &str) {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let more = format!(
        "[secrets.fingerprint-key]\nas = \"api\"\n\n[api]\nsecrets = [\"fingerprint-key\"]\ngrant = [\"open\", \"seal\"]\n\n\
         [http]\nready_path = \"/ready\"\n{place}\n[resources]\nmemory_mib = 2048\ncpus = 1\n\n[log]\njob_stderr = \"forward\"\n"
    );
    // The command comes from the container image.
    let manifest = house
        .manifest(&["/none"], "alias/validate", &more)
        .replace("command = [\"/none\"]\n", "contract = \"http\"\n");
    let manifest = house.write("validate.toml", manifest);
    let image = build(
        &house,
        &format!("validate-{language}.tar"),
        &manifest,
        "validate.eif",
    );
    house.key("alias/validate", &house.policy(&image, "policy.json"));
    let key = [7; 32];
    let sealed = house.seal(
        "alias/validate",
        &["--secret", "fingerprint-key"],
        &key,
        "key.sealed",
    );
    let secret = format!("fingerprint-key={}", sealed.display());
    let enclave = house.enclave(&image, name, &["--secret", &secret]);
    house.console_says(enclave.name, 0, "the job is ready");
    house.console_says(enclave.name, 0, &format!("{language} "));
    let mut channel = Channel::new(&house, &image, enclave.name);

    let mut asked = 0;
    let sample = include_str!("../../enclave/jobs/cards/sample.ndjson");
    let more = [
        "4111x",
        "",
        "- -",
        "3056 930902 5904",
        "9000 0000 0001",
        "6759649826438453",
        "4222222222222",
    ];
    let more = more.map(|pan| json!({ "id": pan.len(), "pan": pan }).to_string());
    for line in sample.lines().map(str::to_owned).chain(more) {
        let Ok(record) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let pan = record["pan"].as_str().unwrap_or_default();
        if !record["pan"].is_string() && !record["pan"].is_null() {
            continue;
        }
        let expected = match CardNumber::parse(pan) {
            Ok(number) => {
                let digits: String = number.digits().iter().map(ToString::to_string).collect();
                let mac = hmac::Key::new(hmac::HMAC_SHA256, &key);
                json!({
                    "id": record["id"], "valid": true, "scheme": number.scheme().name(), "digits": digits.len(),
                    "last4": digits[digits.len() - 4..],
                    "fingerprint": hex::encode(hmac::sign(&mac, digits.as_bytes())),
                })
            }
            Err(refusal) => {
                json!({ "id": record["id"], "valid": false, "error": { "code": refusal.code() } })
            }
        };
        let (status, answer) = channel.post("/v1/validate", None, &record);
        assert_eq!((status, &answer), (200, &expected), "{record}");
        asked += 1;
    }
    assert!(asked > 10, "{asked}");

    // Sealed there and back, through the local API.
    let record = json!({ "id": 1, "pan": "4111111111111111" }).to_string();
    let sealed = house.seal(
        "alias/validate",
        &["--context", "a=b"],
        record.as_bytes(),
        "record.sealed",
    );
    let sealed = std::fs::read(sealed).expect("a message");
    let (status, answer) = channel.post(
        "/v1/validate",
        None,
        &json!({ "sealed": STANDARD.encode(&sealed) }),
    );
    assert_eq!(status, 200, "{answer}");
    let answer = STANDARD
        .decode(answer["sealed"].as_str().expect("text"))
        .expect("base64");
    let answer = house.open(&house.write("answer.sealed", answer), &["--context", "a=b"]);
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(
        (&answer["valid"], &answer["last4"]),
        (&json!(true), &json!("1111"))
    );

    for wrong in [
        json!({ "sealed": STANDARD.encode(&sealed[..50]) }),
        json!({ "pan": 7 }),
        json!([]),
        json!({ "sealed": 7 }),
    ] {
        let (status, answer) = channel.post("/v1/validate", None, &wrong);
        assert_eq!(status, 400, "{wrong}: {answer}");
    }
    let (status, _) = channel.send("POST", "/v1/validate", None, &vec![b'x'; 70_000]);
    assert_eq!(status, 413);
}

#[test]
fn a_python_job_validates_cards_through_the_local_api() {
    validates("python", "in-python", "");
}

#[test]
fn a_node_job_validates_cards_through_the_local_api_on_a_loopback_port() {
    validates("node", "in-node", "port = 8080\n");
}
