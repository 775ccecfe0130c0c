//! Container images that real tools made (debootstrap, umoci, skopeo, buildah), and a job in Python that runs from one.
//! Set up by `tests/real-images/setup DIR`, found in `ANCHORHOLD_REAL_IMAGES`.

#[path = "../common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

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
