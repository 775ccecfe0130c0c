//! The parent answers in the key service's place, in the clear.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hostile_parent::{HostileParent, http, lock, say};
use crate::stage::{LINES, Stage};

/// The answer that would be so welcome.
fn forged() -> Vec<u8> {
    let body = serde_json::json!({
        "KeyId": "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-4000-8000-000000000000",
        "Plaintext": STANDARD.encode([0; 32]),
        "CiphertextBlob": STANDARD.encode([0; 64]),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    });
    http(200, body.to_string().as_bytes())
}

/// What the enclave says first, up to `limit` bytes.
fn first_words(enclave: &mut UnixStream, limit: usize) -> Vec<u8> {
    let mut heard = vec![0; limit];
    let count = enclave.read(&mut heard).unwrap_or(0);
    heard.truncate(count);
    heard
}

#[test]
fn an_answer_without_tls_is_refused_and_nothing_is_said_in_the_clear() {
    let stage = Stage::new();
    let message = stage.sealed(LINES, &[]);
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);

    let heard = Arc::new(Mutex::new(Vec::new()));
    let reasons = [
        "TLS with the key service",
        "no connection to the key service",
    ];
    // At once.
    enclave.connects_to(|stream, _, _| say(stream, &forged()));
    enclave.must_refuse(&message, &reasons);
    // In answer to what the enclave says first.
    let notes = Arc::clone(&heard);
    enclave.connects_to(move |mut stream, _, _| {
        lock(&notes).push(first_words(&mut stream, 16 * 1024));
        say(stream, &forged());
    });
    enclave.must_refuse(&message, &reasons[..1]);
    // As a TLS alert that ends TLS, with the answer behind it.
    let notes = Arc::clone(&heard);
    enclave.connects_to(move |mut stream, _, _| {
        lock(&notes).push(first_words(&mut stream, 16 * 1024));
        // close_notify, in the clear.
        say(
            stream,
            &[&[21, 3, 3, 0, 2, 1, 0], forged().as_slice()].concat(),
        );
    });
    enclave.must_refuse(&message, &reasons);

    // A connection whose call has already failed with another ends without a word.
    let heard: Vec<Vec<u8>> = lock(&heard)
        .iter()
        .filter(|words| !words.is_empty())
        .cloned()
        .collect();
    assert!(!heard.is_empty());
    for words in &heard {
        // A TLS handshake record, and nothing of a request.
        assert_eq!(words.first(), Some(&0x16));
        let text = String::from_utf8_lossy(words);
        for word in ["HTTP", "TrentService", "AWS4", "AttestationDocument"] {
            assert!(!text.contains(word), "the enclave said {word} in the clear");
        }
    }
    enclave.be_honest();
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}
