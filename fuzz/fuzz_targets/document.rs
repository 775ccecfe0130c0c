//! Attestation documents from an attacker: reading, judging and refusing them never panics. Seed it
//! with real documents, so that it gets past the form.
#![no_main]

use anchorhold_attestation::{Anchor, Expectations, Time, Unverified};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(unverified) = Unverified::parse(bytes) else {
        return;
    };
    // Untagged and tagged are the only two encodings of one document.
    let tagged = [&[0xd2], bytes].concat();
    if bytes.first() != Some(&0xd2) && tagged.len() <= anchorhold_attestation::MAX_DOCUMENT_BYTES {
        assert!(Unverified::parse(&tagged).is_ok());
    }
    let anchors = [Anchor::aws_nitro()];
    for time in [Time::Document, Time::At(0), Time::At(u64::MAX)] {
        match unverified.verify(&anchors, time) {
            // Only a seed gets here.
            Ok(verified) => {
                let refusal = verified
                    .admit(&Expectations::new().nonce(bytes))
                    .expect_err("no image was expected");
                drop(refusal.to_string());
            }
            Err(error) => drop(error.to_string()),
        }
    }
});
