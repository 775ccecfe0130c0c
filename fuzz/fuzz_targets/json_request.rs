//! Requests of AWS JSON 1.1. The first byte picks the operation, the rest is the body.
//!
//! Whatever comes in: no panic, no error that repeats a long piece of the body, and a
//! body that is accepted names no member twice, whichever reader looks at it.
#![no_main]

use anchorhold_kms::request::Request;
use libfuzzer_sys::fuzz_target;

/// One that AWS has and this service has not.
const ABSENT: &str = "Encapsulate";

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let at = usize::from(*first) % (Request::NAMES.len() + 1);
    let operation = Request::NAMES.get(at).copied().unwrap_or(ABSENT);
    match Request::parse(&format!("TrentService.{operation}"), body) {
        Ok(request) => {
            assert_ne!(operation, ABSENT);
            let recipient = match &request {
                Request::Decrypt(r) => r.recipient.as_ref(),
                Request::DeriveSharedSecret(r) => r.recipient.as_ref(),
                Request::GenerateDataKey(r) => r.recipient.as_ref(),
                Request::GenerateDataKeyPair(r) => r.recipient.as_ref(),
                Request::GenerateRandom(r) => r.recipient.as_ref(),
                _ => return,
            };
            // A Recipient that stands in the body is never lost on the way.
            // An empty body is an object without members.
            let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            let stated = value.get("Recipient").is_some_and(|r| !r.is_null());
            assert_eq!(stated, recipient.is_some());
        }
        Err(error) => assert!(error.to_string().len() < 1024, "{error}"),
    }
    // The target is a caller's text, too.
    let _ = Request::parse(&String::from_utf8_lossy(body), b"{}");
});
