//! The redaction of jobs' logs. The first bytes say how a card number is spelled, the rest is the line around it.
//!
//! Whatever comes in: no panic, and the card number does not come through.
#![no_main]

use anchorhold_detect::fold::digit;
use anchorhold_enclave::redaction::redacted;
use libfuzzer_sys::fuzz_target;

const CARD: &str = "4929123456789015";
const GAPS: [&str; 10] = [
    "", " ", "-", ".", "/", "\u{a0}", "\u{200b}", "\u{2011}", "\u{3000}", "\t",
];
const ZEROS: [char; 6] = [
    '0',
    '\u{ff10}',
    '\u{660}',
    '\u{966}',
    '\u{e50}',
    '\u{1d7ce}',
];

fuzz_target!(|data: &[u8]| {
    let Some((spelling, rest)) = data.split_at_checked(CARD.len()) else {
        return;
    };
    let rest = String::from_utf8_lossy(rest);
    redacted(&rest, true);
    redacted(&rest, false);
    // Digits beside it would make it another number.
    let around: String = rest
        .chars()
        .filter(|character| digit(*character).is_none())
        .take(60)
        .collect();
    let (before, after) = around.split_at(around.floor_char_boundary(around.len() / 2));
    let mut number = String::new();
    for (place, (byte, how)) in CARD.bytes().zip(spelling).enumerate() {
        let how = usize::from(*how);
        if place > 0 {
            number.push_str(GAPS[how % GAPS.len()]);
        }
        let zero = u32::from(ZEROS[how / GAPS.len() % ZEROS.len()]);
        number.extend(char::from_u32(zero + u32::from(byte - b'0')));
    }
    let out = redacted(&format!("{before} {number} {after}"), false);
    let digits: String = out
        .chars()
        .filter_map(digit)
        .map(|digit| char::from(b'0' + digit))
        .collect();
    assert!(!digits.contains(CARD), "{out}");
});
