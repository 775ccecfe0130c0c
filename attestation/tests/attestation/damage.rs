//! What damage does to documents that AWS has signed: nothing that was changed is ever accepted.
//!
//! As it is, one bit of each byte is flipped for the default engine, and of each sixteenth byte for the
//! other. With ANCHORHOLD_EVERY_BIT=default the default engine has every bit flipped, and the other one of
//! each byte: minutes, not seconds. With ANCHORHOLD_EVERY_BIT=all both have every bit.

use std::sync::atomic::{AtomicUsize, Ordering};

use anchorhold_attestation::{Anchor, Engine, Time, Unverified, Verifier};

use crate::documents::documents;
use crate::engines;

/// Calls `check` with each number below `count`, on all cores.
fn in_parallel(count: usize, check: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    check(number);
                }
            });
        }
    });
}

/// The bits that are flipped for an engine.
fn bits(engine: Engine, bytes: usize) -> Vec<usize> {
    let is_default = engine == Engine::default();
    let (every_bit, step) = match std::env::var("ANCHORHOLD_EVERY_BIT").as_deref() {
        Ok("all") => (true, 1),
        Ok("default") => (is_default, 1),
        Ok(other) => panic!("ANCHORHOLD_EVERY_BIT is {other:?}: it may be default or all"),
        Err(_) => (false, if is_default { 1 } else { 16 }),
    };
    if every_bit {
        return (0..bytes * 8).collect();
    }
    (0..bytes)
        .step_by(step)
        .map(|byte| byte * 8 + (byte / step) % 8)
        .collect()
}

#[test]
fn flipped_bits_are_refused_by_each_engine() {
    for engine in engines() {
        let verifier = Verifier::new([Anchor::aws_nitro()])
            .with_engine(engine)
            .remembering(16);
        let whole = documents();
        for (entry, bytes) in &whole {
            let bits = bits(engine, bytes.len());
            let parsed = AtomicUsize::new(0);
            in_parallel(bits.len(), |number| {
                let bit = bits[number];
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                // One of them is another with a bit flipped, which flipped again mends it.
                if whole.iter().any(|(_, other)| *other == damaged) {
                    return;
                }
                if let Ok(unverified) = Unverified::parse(&damaged) {
                    parsed.fetch_add(1, Ordering::Relaxed);
                    assert!(
                        verifier.verify(&unverified, Time::Document).is_err(),
                        "bit {bit} of {} by {engine:?}",
                        entry["file"]
                    );
                }
            });
            assert!(
                parsed.into_inner() * 2 > bits.len(),
                "most bits are the signatures' to protect"
            );
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for (_, bytes) in documents() {
        for length in 0..bytes.len() {
            let error = Unverified::parse(&bytes[..length]).unwrap_err();
            // From the protected header on it is plain that this was a document.
            assert_eq!(error.is_not_a_document(), length < 6, "{length}: {error}");
        }
    }
}

#[test]
fn removed_bytes_are_refused() {
    for (_, bytes) in documents() {
        for position in (0..256).chain(bytes.len() - 256..bytes.len()) {
            let mut damaged = bytes.clone();
            damaged.remove(position);
            assert!(Unverified::parse(&damaged).is_err());
        }
    }
}
