//! Any bytes as a recipient envelope: reading must not panic, what is read must be written back
//! with the same meaning, and opening must fail in one of the two ways there are.

#![no_main]

use std::sync::OnceLock;

use anchorhold_kms_wire::recipient::{Envelope, RecipientKey};
use libfuzzer_sys::fuzz_target;

fn key() -> &'static RecipientKey {
    static KEY: OnceLock<RecipientKey> = OnceLock::new();
    KEY.get_or_init(|| RecipientKey::generate().expect("there is randomness"))
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::parse(bytes) {
        let written = envelope.encode();
        assert_eq!(Envelope::parse(&written).as_ref(), Ok(&envelope));
        // The key is new in each run, so nothing in a corpus is sealed for it.
        assert!(key().open(bytes).is_err());
    }
});
