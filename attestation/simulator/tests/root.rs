//! The development root's folder.
#![allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use anchorhold_attestation::{Anchor, Time, Unverified};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig, RootError};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_root_is_made_once_and_found_again() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state/root");
    let made = DevelopmentRoot::load_or_create(&dir).unwrap();
    let found = DevelopmentRoot::load_or_create(&dir).unwrap();
    assert_eq!(made.fingerprint(), found.fingerprint());
    assert_eq!(made.certificate_pem(), found.certificate_pem());
    assert_eq!(
        fs::read_to_string(dir.join("root.pem")).unwrap(),
        made.certificate_pem()
    );
    let anchor = Anchor::from_pem(made.certificate_pem()).unwrap();
    assert_eq!(anchor.fingerprint(), made.fingerprint());
}

#[test]
fn the_key_is_its_owners_alone() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("root");
    DevelopmentRoot::load_or_create(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("root.key")), 0o600);
    let names: BTreeSet<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().eq(["root.key", "root.lock", "root.pem"]));
}

#[test]
fn all_who_come_first_at_once_get_the_same_root() {
    let outer = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let dir = outer.path().join(round.to_string());
        let barrier = Barrier::new(8);
        let fingerprints: BTreeSet<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        DevelopmentRoot::load_or_create(&dir).unwrap().fingerprint()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(fingerprints.len(), 1);
    }
}

#[test]
fn a_loaded_root_signs_as_the_one_that_was_made() {
    let outer = tempfile::tempdir().unwrap();
    let made = DevelopmentRoot::load_or_create(outer.path()).unwrap();
    let loaded = DevelopmentRoot::load_or_create(outer.path()).unwrap();
    let now = SystemTime::now() + Duration::from_hours(9 * 365 * 24);
    let nsm = Nsm::new(&loaded, NsmConfig::default(), now).unwrap();
    let request = Request::Attestation {
        user_data: None,
        nonce: None,
        public_key: None,
    };
    let answer = nsm.handle(&serde_cbor::to_vec(&request).unwrap(), now);
    let Response::Attestation { document } = serde_cbor::from_slice(&answer).unwrap() else {
        panic!()
    };
    assert!(
        Unverified::parse(&document)
            .unwrap()
            .verify(&[made.anchor()], Time::Document)
            .is_ok(),
        "after nine years still"
    );
}

#[test]
fn a_key_without_certificate_is_made_anew() {
    let outer = tempfile::tempdir().unwrap();
    let first = DevelopmentRoot::load_or_create(outer.path()).unwrap();
    fs::remove_file(outer.path().join("root.pem")).unwrap();
    let second = DevelopmentRoot::load_or_create(outer.path()).unwrap();
    assert_ne!(first.fingerprint(), second.fingerprint());
    assert_eq!(
        DevelopmentRoot::load_or_create(outer.path())
            .unwrap()
            .fingerprint(),
        second.fingerprint()
    );
}

#[test]
fn damaged_folders_are_refused_with_a_remedy() {
    let outer = tempfile::tempdir().unwrap();
    let (dir, other) = (outer.path().join("one"), outer.path().join("two"));
    DevelopmentRoot::load_or_create(&dir).unwrap();
    DevelopmentRoot::load_or_create(&other).unwrap();

    fs::copy(other.join("root.key"), dir.join("root.key")).unwrap();
    let error = DevelopmentRoot::load_or_create(&dir).err().unwrap();
    assert!(matches!(error, RootError::Mismatch { .. }));
    assert!(error.to_string().contains("delete the folder"));

    fs::write(dir.join("root.key"), "no key").unwrap();
    let error = DevelopmentRoot::load_or_create(&dir).err().unwrap();
    assert!(matches!(error, RootError::Key { .. }));

    fs::write(other.join("root.pem"), "no certificate").unwrap();
    let error = DevelopmentRoot::load_or_create(&other).err().unwrap();
    assert!(matches!(error, RootError::Certificate { .. }));

    fs::remove_file(dir.join("root.key")).unwrap();
    let error = DevelopmentRoot::load_or_create(&dir).err().unwrap();
    assert!(matches!(error, RootError::Io { .. }));
}

#[test]
fn the_root_says_that_it_is_for_development() {
    let root = DevelopmentRoot::generate().unwrap();
    let words = b"anchorhold development";
    assert!(
        root.anchor()
            .der()
            .windows(words.len())
            .any(|part| part == words)
    );
}
