//! Root keys, backups and signals, by the command line.

use crate::common::{House, Who};
use crate::{block_on, client};
use anchorhold_kms_wire::shapes::{DescribeKeyRequest, GenerateRandomRequest};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

fn private(house: &House, name: &str, text: &str) {
    let path = house.write(name, text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn there(house: &House, arn: &str) {
    let described = block_on(client(house.endpoint()).call(&DescribeKeyRequest {
        key_id: arn.to_owned(),
        ..DescribeKeyRequest::default()
    }));
    described.unwrap();
}

fn make_key(house: &House) -> String {
    let output = house.must(Who::Owner, ["kms", "create-key"]);
    String::from_utf8(output).unwrap().trim().to_owned()
}

#[test]
fn a_backup_of_a_running_service_is_restored_elsewhere_with_its_root_key_only() {
    let mut house = House::new();
    let service = house.key_service(&["--plain-http"]);
    let key = make_key(&house);
    house.must(
        Who::Owner,
        ["kms", "backup", "--state", "kms", "--to", "backup"],
    );
    let said = house.must_fail(
        Who::Owner,
        ["kms", "backup", "--state", "kms", "--to", "backup"],
    );
    assert!(said.contains("backup is there already"), "{said}");
    let later = make_key(&house);
    drop(service);
    let said = house.must_fail(
        Who::Owner,
        ["kms", "backup", "--state", "kms", "--to", "b2"],
    );
    assert!(said.contains("no key service is running"), "{said}");

    let restore = ["kms", "restore", "--from", "backup", "--state", "other"];
    let said = house.must_fail(Who::Owner, restore);
    assert!(said.contains("root.key is missing"), "{said}");
    private(&house, "other/root.key", &"00".repeat(32));
    let said = house.must_fail(Who::Owner, restore);
    assert!(said.contains("another root key"), "{said}");
    std::fs::copy(house.path("kms/root.key"), house.path("other/root.key")).unwrap();
    house.must(Who::Owner, restore);
    let said = house.must_fail(Who::Owner, restore);
    assert!(said.contains("is there already"), "{said}");

    std::fs::remove_dir_all(house.path("kms")).unwrap();
    std::fs::rename(house.path("other"), house.path("kms")).unwrap();
    let _service = house.key_service(&["--plain-http"]);
    there(&house, &key);
    let described = block_on(client(house.endpoint()).call(&DescribeKeyRequest {
        key_id: later,
        ..DescribeKeyRequest::default()
    }));
    assert!(described.is_err());
}

#[test]
fn the_root_key_is_changed_by_rewrap_and_the_old_one_opens_nothing() {
    let mut house = House::new();
    let service = house.key_service(&["--plain-http"]);
    let key = make_key(&house);
    let to =
        "[root_key]\npassphrase_file = \"words\"\nargon2_memory_kib = 8192\nargon2_passes = 1\n";
    house.write("new.toml", to);
    private(&house, "words", "some words\n");
    let rewrap = ["kms", "rewrap", "--state", "kms", "--to", "new.toml"];
    let said = house.must_fail(Who::Owner, rewrap);
    assert!(said.contains("another key service is running"), "{said}");
    drop(service);
    house.must(Who::Owner, rewrap);
    let said = house.must_fail(
        Who::Owner,
        [
            "kms",
            "serve",
            "--dev",
            "--state",
            "kms",
            "--listen",
            "127.0.0.1:0",
        ],
    );
    assert!(said.contains("is wrapped by a passphrase"), "{said}");
    // And back, into another file.
    house.write("back.toml", "[root_key]\nfile = \"kms/root-2.key\"\n");
    house.must(
        Who::Owner,
        [
            "kms",
            "rewrap",
            "--state",
            "kms",
            "--config",
            "new.toml",
            "--to",
            "back.toml",
        ],
    );
    std::fs::rename(house.path("kms/root-2.key"), house.path("kms/root.key")).unwrap();
    let _service = house.key_service(&["--plain-http"]);
    there(&house, &key);
}

#[test]
fn sigterm_ends_the_service_in_peace_and_sighup_does_not() {
    let mut house = House::new();
    let mut service = house.key_service(&["--plain-http"]);
    let asking = client(house.endpoint());
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    block_on(asking.call(&request)).unwrap();
    service.signal(nix::sys::signal::Signal::SIGHUP);
    block_on(asking.call(&request)).unwrap();
    service.signal(nix::sys::signal::Signal::SIGTERM);
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = service.try_wait() {
            break status;
        }
        assert!(Instant::now() < until, "it did not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    assert!(!house.path("kms/control.sock").exists());
}
