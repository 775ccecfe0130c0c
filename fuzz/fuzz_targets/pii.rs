//! The pii job. The first bytes say how a card number is spelled, the rest is the text that it is put into, and a
//! line of its own.
//!
//! Whatever comes in: no panic, one answer a line that is JSON, and the card number does not come through.
#![no_main]

use std::cell::RefCell;

use anchorhold_job_pii::fold::digit;
use anchorhold_job_pii::key::Keys;
use anchorhold_job_pii::{Config, Input, Job, Kind, Mode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const CARD: &str = "4929123456789015";
const GAPS: [&str; 12] = [
    "", " ", "-", ".", "/", "_", "\u{a0}", "\u{200b}", "\u{2011}", "\u{3000}", "  \t ", " - ",
];
const ZEROS: [char; 6] = [
    '0',
    '\u{ff10}',
    '\u{660}',
    '\u{966}',
    '\u{e50}',
    '\u{1d7ce}',
];

thread_local! {
    /// Their expressions are compiled once: that takes longer than thousands of lines.
    static JOBS: RefCell<[Job; 2]> = RefCell::new({
        let keys = Keys::new(&[7; 32]);
        [
            Job::new(Mode::Redact(Config::default()), Some(&keys)),
            Job::new(Mode::Restore(Input::Auto, Kind::ALL.to_vec()), Some(&keys)),
        ]
    });
}

fuzz_target!(|data: &[u8]| JOBS.with_borrow_mut(|jobs| check(jobs, data)));

fn check([redact, restore]: &mut [Job; 2], data: &[u8]) {
    let Some((spelling, rest)) = data.split_at_checked(CARD.len()) else {
        return;
    };
    for job in [&mut *redact, restore] {
        let mut out = Vec::new();
        job.run(rest, &mut out).unwrap();
        let lines = rest.split_inclusive(|byte| *byte == b'\n').count();
        assert_eq!(out.split_inclusive(|byte| *byte == b'\n').count(), lines);
        for line in out.split_inclusive(|byte| *byte == b'\n') {
            serde_json::from_slice::<Value>(line).unwrap();
        }
    }
    // Digits beside it would make it another number.
    let around: String = String::from_utf8_lossy(rest)
        .chars()
        .filter(|character| digit(*character).is_none())
        .take(60)
        .collect();
    let (before, after) = around.split_at(around.floor_char_boundary(around.len() / 2));
    let mut text = before.to_owned();
    for (character, byte) in CARD.chars().zip(spelling) {
        let value = character as u32 - '0' as u32;
        let zero = ZEROS[usize::from(*byte) % ZEROS.len()] as u32;
        text.extend(char::from_u32(zero + value));
        text.push_str(GAPS[usize::from(*byte) / 16 % GAPS.len()]);
    }
    text.push_str(after);
    let mut out = Vec::new();
    let line = serde_json::to_vec(&[text]).unwrap();
    redact.answer(&line, &mut out).unwrap();
    let answer: Value = serde_json::from_slice(&out).unwrap();
    let left = answer["record"][0].as_str().unwrap();
    let left: Vec<u8> = left.chars().filter_map(digit).collect();
    assert!(left.len() <= 4, "digits came through");
}
