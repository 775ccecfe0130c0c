//! Attestation documents from an attacker: reading them never panics, is the same with and without
//! the tag, and allowing unknown keys never refuses what strictness lets through. Seeds: real
//! documents and those of the corpus.
#![no_main]

use anchorhold_attestation::{MAX_DOCUMENT_BYTES, UnknownKeys, Unverified};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let strict = Unverified::parse(bytes);
    let lenient = Unverified::parse_with(bytes, UnknownKeys::Ignore);
    if let Err(error) = &lenient {
        let strict = strict.as_ref().expect_err("leniency refuses no more");
        assert!(strict.name() == "unknown-key" || strict == error);
    }
    if let Err(error) = &strict {
        assert!(error.offset() <= bytes.len());
        drop(error.to_string());
        return;
    }
    let (strict, lenient) = (strict.expect("it was read"), lenient.expect("it was read"));
    let claims = serde_json::to_string(&strict.claimed()).expect("claims are printable");
    assert_eq!(
        claims,
        serde_json::to_string(&lenient.claimed()).expect("claims are printable")
    );
    for certificate in strict.claimed().certificates() {
        let shown = serde_json::to_string(&certificate).expect("claims are printable");
        assert!(shown.is_ascii() || shown.contains('…'));
    }
    if bytes.first() != Some(&0xd2) && bytes.len() < MAX_DOCUMENT_BYTES {
        let tagged = [&[0xd2], bytes].concat();
        assert!(Unverified::parse(&tagged).is_ok());
    }
});
