//! What a job writes for people, without the personal data that can be known by its pattern.
//!
//! A card number of a known range with a right check digit must never come through, in any spacing within a line, in the
//! digits of any script, nor in part because a line was cut. Other kinds are found as often as their patterns allow.

use std::sync::LazyLock;

use anchorhold_detect::{Detectors, Field, Kind};

/// What is looked for in logs. Dates, URLs and postal codes are what logs are made of.
const KINDS: [Kind; 6] = [
    Kind::Card,
    Kind::Email,
    Kind::Iban,
    Kind::Ip,
    Kind::Phone,
    Kind::Ssn,
];
/// What is left out at the end of a line that was cut: longer than any number in any spacing that is found.
const DOUBTFUL_BYTES: usize = 512;

static DETECTORS: LazyLock<Detectors> =
    LazyLock::new(|| Detectors::new(|kind| KINDS.contains(&kind)));

/// A line with the kind's name in the place of what was found. `cut` says that the line went on.
pub fn redacted(line: &str, cut: bool) -> String {
    // Control characters are shown as one sign each, and must not keep a number from being seen.
    let line: String = line
        .chars()
        .map(|character| {
            if character.is_control() || character == '\u{fffd}' {
                ' '
            } else {
                character
            }
        })
        .collect();
    let end = if cut {
        line.floor_char_boundary(line.len().saturating_sub(DOUBTFUL_BYTES))
    } else {
        line.len()
    };
    let mut out = String::with_capacity(end);
    let mut at = 0;
    for found in DETECTORS.text(&line, &Field::default()) {
        if found.start >= end {
            break;
        }
        out.push_str(&line[at..found.start]);
        out.push('[');
        out.push_str(found.kind.name());
        out.push(']');
        at = found.end;
    }
    if let Some(rest) = line.get(at..end) {
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn personal_data_are_replaced_and_the_rest_stays() {
        for (line, expected) in [
            (
                "started in 12 ms on 2026-11-22",
                "started in 12 ms on 2026-11-22",
            ),
            ("pan 4111111111111111 refused", "pan [card] refused"),
            ("pan 4111 1111\t1111-1111.", "pan [card]."),
            ("٤١١١١١١١١١١١١١١١", "[card]"),
            (
                "mail bob@example.com from 10.0.0.1",
                "mail [email] from [ip]",
            ),
            ("to GB82 WEST 1234 5698 7654 32", "to [iban]"),
            (
                "https://a.com/?pan=4111111111111111",
                "https://a.com/?pan=[card]",
            ),
            ("4111\u{0}1111\u{fffd}1111\u{1b}1111", "[card]"),
            ("", ""),
        ] {
            assert_eq!(redacted(line, false), expected);
        }
    }

    #[test]
    fn a_number_at_the_cut_of_a_line_does_not_come_through_in_part() {
        let line = format!("{} 411111111111111", "x".repeat(1000));
        assert!(redacted(&line, false).contains("411111111111111"));
        assert!(!redacted(&line, true).contains("41"));
        assert_eq!(redacted("4111111111111111", true), "[card]".repeat(0));
    }

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

    proptest! {
        #[test]
        fn a_seeded_card_number_never_comes_through(
            spelling in proptest::collection::vec((0..GAPS.len(), 0..ZEROS.len()), 16),
            before in "[^0-9\\p{Nd}\\p{No}\\p{Nl}]{0,40}", after in "[^0-9\\p{Nd}\\p{No}\\p{Nl}]{0,40}",
        ) {
            let mut number = String::new();
            for (place, (digit, (gap, zero))) in CARD.bytes().zip(spelling).enumerate() {
                if place > 0 {
                    number.push_str(GAPS[gap]);
                }
                let zero = u32::from(ZEROS[zero]);
                number.extend(char::from_u32(zero + u32::from(digit - b'0')));
            }
            let out = redacted(&format!("{before} {number} {after}"), false);
            let digits: String = out
                .chars()
                .filter_map(anchorhold_detect::fold::digit)
                .map(|digit| char::from(b'0' + digit))
                .collect();
            prop_assert!(!digits.contains(CARD), "{}", out);
        }

        #[test]
        fn any_line_is_answered(line in ".{0,300}", cut in any::<bool>()) {
            let out = redacted(&line, cut);
            prop_assert!(cut || !out.is_empty() || line.is_empty());
        }
    }
}
