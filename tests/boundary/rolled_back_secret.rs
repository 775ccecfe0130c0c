//! The parent hands in an older ciphertext of a secret that has been rotated, another secret's, or garbage.

use std::path::PathBuf;

use crate::hostile_parent::{HostileParent, http};
use crate::stage::{KEY, Stage};

/// The image of a job that asks for two secrets over and over: one is kept fresh, the other is not.
fn asking(stage: &Stage) -> PathBuf {
    let more = "\n[secrets.token]\nas = \"api\"\nrefresh_seconds = 1\n[secrets.fixed]\nas = \"api\"\n\
                [api]\nsecrets = [\"token\", \"fixed\"]\n[log]\njob_stderr = \"forward\"\n";
    let manifest = stage
        .manifest(more)
        .replace(KEY, "alias/asking")
        .replace(
            "command = [\"/job\"]",
            "command = [\"/job\", \"ask GET /v1/secrets/token;GET /v1/secrets/fixed\"]\ncontract = \"http\"",
        );
    let image = stage.pack(&crate::stage::programs().job, &manifest, "asking.eif");
    stage
        .house
        .key("alias/asking", &stage.house.policy(&image, "asking.json"));
    image
}

/// What the job is answered where the secret is this text.
fn answer(name: &str, value: &str, version: u64) -> String {
    let value = data_encoding(value);
    format!("GET /v1/secrets/{name} -> 200 {{\"value\":\"{value}\",\"version\":{version}}}")
}

fn data_encoding(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_secret_is_rotated_without_a_restart_and_never_set_back() {
    let stage = Stage::new();
    let image = asking(&stage);
    let sealed = |name: &str, value: &str, version: Option<&str>| {
        let mut more = vec!["--secret", name];
        if let Some(version) = version {
            more.extend(["--secret-version", version]);
        }
        stage.sealed_under("alias/asking", value.as_bytes(), &more)
    };
    let first = sealed("token", "first", Some("1"));
    let fixed = sealed("fixed", "at the start", None);
    let enclave = HostileParent::with_secrets(
        &stage.house,
        "asking",
        &image,
        &[("token", first.clone()), ("fixed", fixed)],
    );
    let says = |before: usize, words: &str| enclave.console_after(before, words);
    says(0, &answer("token", "first", 1));
    says(0, &answer("fixed", "at the start", 1));

    // Both are rotated; the job that runs hears of the one that its manifest keeps fresh.
    let hand_in = |name: &str, sealed: &[u8]| enclave.answers_secret_with(name, http(200, sealed));
    hand_in("token", &sealed("token", "second", Some("2")));
    hand_in("fixed", &sealed("fixed", "too late", None));
    says(0, "the secret token was replaced by a newer one");
    let after = enclave.console().len();
    says(after, &answer("token", "second", 2));
    says(after, &answer("fixed", "at the start", 1));
    assert!(!enclave.console().contains(&data_encoding("too late")));

    // Whatever else is handed in, what is open stays.
    for (lie, reason) in [
        (first, "is older than the one that is open"),
        (
            sealed("fixed", "of another name", None),
            "was not sealed as it",
        ),
        (b"garbage".to_vec(), "cannot be opened"),
    ] {
        let before = enclave.console().len();
        hand_in("token", &lie);
        says(before, reason);
        // Said once, and then told apart by another reason only: an honest one in between makes the next be said.
        let version = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let after = enclave.console().len();
        says(
            after,
            &answer("token", &newest(version - 1), version as u64 - 1),
        );
        hand_in(
            "token",
            &sealed("token", &newest(version), Some(&version.to_string())),
        );
        says(after, "the secret token was replaced by a newer one");
    }
    assert!(
        !enclave
            .console()
            .contains(&data_encoding("of another name"))
    );
}

static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(3);

/// The secret's text by its version.
fn newest(version: usize) -> String {
    match version {
        2 => "second".to_owned(),
        other => format!("number {other}"),
    }
}
