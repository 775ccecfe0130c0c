//! What sealing single fields costs beside sealing the lines as a whole, in one run over the same lines.
//!
//! `cargo bench -p anchorhold-envelope --bench fields`. The contenders take turns and the best of each counts.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use anchorhold_envelope::fields::{
    FieldOpener, FieldSealer, Fields, field_context, open_lines, seal_lines,
};
use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Error, Limits, SealOptions, open, seal,
};

const LINES: usize = 100_000;
const LONGEST: usize = 1 << 20;

fn key() -> DataKey {
    DataKey::from_bytes([7; 32].into())
}

fn data_key() -> EncryptedDataKey {
    EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000001"
            .to_owned(),
        ciphertext: vec![1; 184],
    }
}

fn main() {
    let mut lines = String::new();
    for number in 0..LINES {
        let text = "x".repeat(120);
        let line = format!(
            "{{\"id\":{number},\"pan\":\"4111111111111111\",\"email\":\"someone@example.com\",\"text\":\"{text}\"}}\n"
        );
        lines.push_str(&line);
    }
    let fields = || Fields::new(["pan", "email"]).unwrap();
    let context = field_context(EncryptionContext::new());
    let sealer = || FieldSealer::new(fields(), &context, &[data_key()], key(), [1; 32]).unwrap();
    let mut sealed_fields = Vec::new();
    seal_lines::<Error>(lines.as_bytes(), &mut sealed_fields, &mut sealer(), LONGEST).unwrap();
    let options = || SealOptions::new(EncryptionContext::new(), vec![data_key()]);
    let mut sealed_whole = Vec::new();
    seal(
        lines.as_bytes(),
        &mut sealed_whole,
        options(),
        None,
        key(),
        [1; 32],
    )
    .unwrap();

    let mut out = Vec::with_capacity(sealed_fields.len() * 2);
    let mut best = [Duration::MAX; 4];
    for _ in 0..5 {
        let mut contend = |which: usize, run: &mut dyn FnMut(&mut Vec<u8>)| {
            out.clear();
            let start = Instant::now();
            run(&mut out);
            best[which] = best[which].min(start.elapsed());
            black_box(&out);
        };
        contend(0, &mut |out| {
            seal(lines.as_bytes(), out, options(), None, key(), [1; 32]).unwrap();
        });
        contend(1, &mut |out| {
            seal_lines::<Error>(lines.as_bytes(), out, &mut sealer(), LONGEST).unwrap();
        });
        contend(2, &mut |out| {
            let limits = Limits::default();
            open(sealed_whole.as_slice(), out, &limits, |_| {
                Ok::<_, Error>(key())
            })
            .unwrap();
        });
        contend(3, &mut |out| {
            let mut opener = FieldOpener::new(fields(), EncryptionContext::new());
            let key = |_: &anchorhold_envelope::Header| Ok::<_, Error>(key());
            open_lines(sealed_fields.as_slice(), out, &mut opener, LONGEST, key).unwrap();
        });
    }
    let bytes = lines.len() as f64;
    println!(
        "{LINES} lines of {} bytes, two fields sealed in each; a sealed card number has {} characters",
        lines.len() / LINES,
        String::from_utf8_lossy(&sealed_fields)
            .split('"')
            .find(|text| text.starts_with("sealed."))
            .map_or(0, str::len)
    );
    for (name, whole, single) in [("seal", 0, 1), ("open", 2, 3)] {
        println!(
            "{name}: whole {:.0} MB/s; fields {:.0} MB/s of plaintext, {:.2} µs for each value",
            bytes / best[whole].as_secs_f64() / 1e6,
            bytes / best[single].as_secs_f64() / 1e6,
            best[single].as_secs_f64() * 1e6 / (2 * LINES) as f64,
        );
    }
}
