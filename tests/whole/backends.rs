//! Which backend `run` takes, and what it says about it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::common::{House, WORKSPACE, Who};

/// An image with something in the kernel's place. None of these tests boots it.
fn image(house: &House) -> PathBuf {
    let kernel = house.write("kernel", "not to be booted");
    let path = house.path("image.eif");
    let package = Path::new(WORKSPACE).join("tests/whole/odd-job");
    let manifest = house.write("anchorhold.toml", "[job]\ncommand = [\"/job\"]\n");
    house.must(
        Who::Owner,
        [
            OsStr::new("build"),
            OsStr::new("--cargo"),
            package.as_os_str(),
            OsStr::new("--manifest"),
            manifest.as_os_str(),
            OsStr::new("--kernel"),
            kernel.as_os_str(),
            OsStr::new("-o"),
            path.as_os_str(),
        ],
    );
    path
}

#[test]
fn without_qemu_the_sandbox_is_taken_and_qemu_by_name_says_how_to_get_it() {
    let house = House::new();
    let image = image(&house);
    let image = image.to_str().expect("UTF-8");
    let run = |backend: &str| {
        house
            .command(
                Who::Host,
                ["run", image, "--name", "one", "--backend", backend],
            )
            .env("PATH", "/nowhere")
            .env_remove("ANCHORHOLD_QEMU")
            .output()
            .expect("anchorhold runs")
    };
    let said = run("qemu");
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success());
    for word in [
        "qemu-system-x86_64 is not in PATH",
        "QEMU 10.1 or later",
        "trixie-backports",
        "tests/vm/setup",
        "ANCHORHOLD_QEMU=FILE",
        "--backend sandbox",
    ] {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
    let said = run("auto");
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{error}");
    assert!(
        error.contains("backend sandbox (") && error.contains("is not in PATH"),
        "{error}"
    );
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(out.contains("backend sandbox"), "{out}");
    house.must(Who::Host, ["stop", "one"]);
}
