//! Questions of programs in other languages: whatever is asked, the answer is JSON, and nothing is admitted but a document
//! that the verifier has admitted.
#![no_main]

use anchorhold_verifier::ask;
use libfuzzer_sys::fuzz_target;

const ASKED: [&str; 5] = [
    "",
    "{\"do\":\"verify\",\"document\":\"8443a1\",\"time\":\"document\",\"terms\":",
    "{\"do\":\"channel\",\"now_ms\":1,\"clock_error_ms\":1,\"nonce\":",
    "{\"do\":\"answer\",\"bytes\":\"485454502f312e3120",
    "{\"do\":\"question\",\"nonce\":\"00112233445566778899aabbccddeeff\",\"host\":\"",
];

fuzz_target!(|input: (u8, &[u8])| {
    let asked = ASKED[usize::from(input.0) % ASKED.len()];
    let said = ask(&[asked.as_bytes(), input.1].concat());
    let said: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
    assert!(said.get("admitted").is_none(), "{said}");
    assert_eq!(
        said.as_object().map(serde_json::Map::len),
        Some(1),
        "{said}"
    );
});
