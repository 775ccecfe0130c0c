//! Documents and certificates from an attacker: judging them never panics, both engines and a
//! verifier with a memory say the same, and nobody forges AWS's signature. An input is a document, or
//! a count and that many certificates (each with its length in two bytes), from which one is made.
#![no_main]

use std::sync::LazyLock;

use anchorhold_attestation::{Anchor, Engine, Time, Unverified, Verifier};
use libfuzzer_sys::fuzz_target;

static FORGETFUL: LazyLock<[Verifier; 2]> = LazyLock::new(|| {
    [Engine::P384, Engine::AwsLcRs]
        .map(|engine| Verifier::new([Anchor::aws_nitro()]).with_engine(engine))
});
static REMEMBERING: LazyLock<Verifier> =
    LazyLock::new(|| Verifier::new([Anchor::aws_nitro()]).remembering(3));

fuzz_target!(|bytes: &[u8]| {
    let (document, made_here) = match Unverified::parse(bytes) {
        Ok(document) => (document, false),
        Err(_) => match from_certificates(bytes) {
            Some(document) => (document, true),
            None => return,
        },
    };
    for time in [
        Time::Document,
        Time::At(0),
        Time::At(u64::MAX),
        Time::Now {
            now_ms: document.claimed().timestamp_ms(),
            max_age_ms: 0,
            max_skew_ms: 0,
        },
    ] {
        let verdicts: Vec<_> = FORGETFUL
            .iter()
            .chain([&*REMEMBERING, &*REMEMBERING])
            .map(|verifier| {
                verifier
                    .verify(&document, time)
                    .map(|verified| verified.anchor_fingerprint())
            })
            .collect();
        assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(!(made_here && verdicts[0].is_ok()), "a forgery");
        if let Err(error) = &verdicts[0] {
            drop(error.to_string());
        }
    }
});

/// A document with these certificates, the last of them its leaf, and no signature to speak of.
fn from_certificates(bytes: &[u8]) -> Option<Unverified> {
    let (count, mut rest) = bytes.split_first()?;
    let mut certificates = Vec::new();
    for _ in 0..count & 7 {
        let (length, more) = rest.split_first_chunk()?;
        let (certificate, more) =
            more.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        certificates.push(certificate);
        rest = more;
    }
    let leaf = certificates.pop()?;
    let string = |out: &mut Vec<u8>, bytes: &[u8]| {
        match bytes.len() {
            length @ 0..24 => out.push(0x40 | length as u8),
            length @ 24..256 => out.extend([0x58, length as u8]),
            length => {
                out.push(0x59);
                out.extend((length as u16).to_be_bytes());
            }
        }
        out.extend(bytes);
    };
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(0x60 | text.len() as u8);
        out.extend(text.as_bytes());
    };
    let mut payload = vec![0xbf];
    for (key, value) in [("module_id", "i-0-enc0"), ("digest", "SHA384")] {
        text(&mut payload, key);
        text(&mut payload, value);
    }
    text(&mut payload, "timestamp");
    payload.push(0x1b);
    payload.extend(1_674_047_239_280_u64.to_be_bytes());
    text(&mut payload, "pcrs");
    payload.extend([0xa1, 0x00]);
    string(&mut payload, &[7; 48]);
    text(&mut payload, "certificate");
    string(&mut payload, leaf);
    text(&mut payload, "cabundle");
    payload.push(0x80 | certificates.len() as u8);
    for certificate in certificates {
        string(&mut payload, certificate);
    }
    payload.push(0xff);
    let mut document = vec![0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0];
    string(&mut document, &payload);
    string(&mut document, &[1; 96]);
    Unverified::parse(&document).ok()
}
