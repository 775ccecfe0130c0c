//! Payment cards' numbers: an issuer's range, one of its lengths, and a right check digit, with any spaces, dashes
//! or dots between the digits.
//!
//! A number begins and ends where a group of digits does; inside of a longer group only the forms of the large
//! schemes count, as every tenth number has a right check digit by chance. Beside a word such as `card` a mistyped
//! number of a known range counts too: it tells nearly all of the right one.

use super::Candidate;
use super::context::{self, Field};
use crate::Kind;

/// Fewest digits of a card number that is in use.
pub(super) const MIN_DIGITS: usize = 12;
/// Most digits of a card number (ISO/IEC 7812).
const MAX_DIGITS: usize = 19;
/// From so many digits on a group may hold a card number among others.
const LONG_GROUP: usize = 13;

const WORDS: &[&str] = &[
    "card",
    "cc",
    "pan",
    "credit",
    "debit",
    "creditcard",
    "cardnumber",
    "visa",
    "mastercard",
    "amex",
];
const NOT_WORDS: &[&str] = &[
    "iban", "account", "imei", "tracking", "order", "isbn", "ean", "gtin",
];

/// The lengths that numbers have which begin with these six digits (ISO/IEC 7812 ranges as the schemes publish them).
fn lengths(prefix: u32) -> &'static [usize] {
    match prefix {
        // American Express
        340_000..=349_999 | 370_000..=379_999 => &[15],
        // Diners Club
        300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
            &[14, 15, 16, 17, 18, 19]
        }
        // Discover, JCB (whose numbers begin with 3528 to 3589, and whom others write 35), Mir, UnionPay
        601_100..=601_199
        | 644_000..=659_999
        | 350_000..=359_999
        | 220_000..=220_499
        | 620_000..=629_999
        | 810_000..=817_199 => &[16, 17, 18, 19],
        // JCB's older numbers
        180_000..=180_099 | 213_100..=213_199 => &[15],
        // Mastercard
        510_000..=559_999 | 222_100..=272_099 => &[16],
        // Visa
        400_000..=499_999 => &[13, 16, 19],
        // Maestro
        500_000..=509_999 | 560_000..=589_999 | 600_000..=699_999 => {
            &[12, 13, 14, 15, 16, 17, 18, 19]
        }
        _ => &[],
    }
}

/// The length of nearly all numbers of the large schemes.
fn usual_length(prefix: u32) -> Option<usize> {
    match prefix {
        340_000..=349_999 | 370_000..=379_999 => Some(15),
        601_100..=601_199
        | 644_000..=659_999
        | 350_000..=359_999
        | 510_000..=559_999
        | 222_100..=272_099
        | 620_000..=629_999
        | 400_000..=499_999 => Some(16),
        _ => None,
    }
}

fn prefix(digits: &[u8]) -> u32 {
    let six = digits.iter().chain([0; 6].iter()).take(6);
    six.fold(0, |prefix, digit| prefix * 10 + u32::from(*digit))
}

/// Whether the last digit is the others' check digit (Luhn; ISO/IEC 7812-1, annex B).
fn checks(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| match (index % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether digits are a card number as a whole.
pub(super) fn is_number(digits: &[u8], field: &Field) -> bool {
    (MIN_DIGITS..=MAX_DIGITS).contains(&digits.len())
        && checks(digits)
        && (lengths(prefix(digits)).contains(&digits.len())
            || (digits.iter().any(|digit| *digit != digits[0]) && field.names(WORDS)))
}

struct Digit {
    value: u8,
    place: usize,
    first: bool,
    last: bool,
    in_long_group: bool,
}

pub(super) fn find(text: &str, field: &Field, out: &mut Vec<Candidate>) {
    let mut run: Vec<Digit> = Vec::new();
    let mut adjacent = false;
    for (place, character) in text.char_indices() {
        if character.is_ascii_digit() {
            if !adjacent && let Some(last) = run.last_mut() {
                last.last = true;
            }
            run.push(Digit {
                value: character as u8 - b'0',
                place,
                first: !adjacent,
                last: false,
                in_long_group: false,
            });
            adjacent = true;
        } else {
            adjacent = false;
            if !run.is_empty() && !separates(character) {
                end(text, field, &mut run, out);
            }
        }
    }
    end(text, field, &mut run, out);
}

/// What may stand between two digits of one card number, as often as it likes, in folded text.
pub fn separates(character: char) -> bool {
    matches!(
        character,
        ' ' | '\t'
            | '\n'
            | '\r'
            | '\u{b}'
            | '\u{c}'
            | '-'
            | '_'
            | '.'
            | '/'
            | '\u{b7}'
            | '\u{2022}'
    )
}

/// Finds the numbers among a run's digits, and empties it.
fn end(text: &str, field: &Field, run: &mut Vec<Digit>, out: &mut Vec<Candidate>) {
    if run.len() >= MIN_DIGITS {
        if let Some(last) = run.last_mut() {
            last.last = true;
        }
        mark_long_groups(run);
        let values: Vec<u8> = run.iter().map(|digit| digit.value).collect();
        // Where candidates overlap it cannot be told which is meant: both are.
        let mut open: Option<(usize, usize)> = None;
        for start in 0..=run.len() - MIN_DIGITS {
            let Some(stop) = longest_at(text, field, run, &values, start) else {
                continue;
            };
            open = match open {
                Some((from, to)) if start < to => Some((from, to.max(stop))),
                Some(before) => {
                    out.push(candidate(run, before));
                    Some((start, stop))
                }
                None => Some((start, stop)),
            };
        }
        out.extend(open.map(|range| candidate(run, range)));
    }
    run.clear();
}

fn candidate(run: &[Digit], (from, to): (usize, usize)) -> Candidate {
    Candidate {
        divisible: true,
        ..Candidate::new(Kind::Card, run[from].place, run[to - 1].place + 1)
    }
}

fn mark_long_groups(run: &mut [Digit]) {
    let mut start = 0;
    for index in 0..run.len() {
        if run[index].last {
            if index + 1 - start >= LONG_GROUP {
                for digit in &mut run[start..=index] {
                    digit.in_long_group = true;
                }
            }
            start = index + 1;
        }
    }
}

/// Where the longest card number ends that begins with this digit.
fn longest_at(
    text: &str,
    field: &Field,
    run: &[Digit],
    values: &[u8],
    start: usize,
) -> Option<usize> {
    let first = &run[start];
    if !first.first && !first.in_long_group {
        return None;
    }
    let rest = &values[start..];
    let prefix = prefix(rest);
    let usual = usual_length(prefix);
    let longest = rest.len().min(MAX_DIGITS);
    for length in (MIN_DIGITS..=longest).rev() {
        let last = &run[start + length - 1];
        if !last.last && !last.in_long_group {
            continue;
        }
        let number = &rest[..length];
        let whole = first.first && last.last;
        let right = if whole {
            lengths(prefix).contains(&length)
        } else {
            usual == Some(length)
        };
        if right && checks(number) {
            return Some(start + length);
        }
        // With a word before it: of any range with a right check digit, or mistyped and of a known range.
        if whole
            && (usual == Some(length) || checks(number))
            && number.iter().any(|digit| *digit != number[0])
            && start < MAX_DIGITS
            && last.place - first.place < 2 * MAX_DIGITS
            && context::before(text, first.place, field, WORDS, NOT_WORDS)
        {
            return Some(start + length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};
    use super::*;

    #[test]
    fn a_card_number_is_found_with_anything_between_its_digits() {
        for text in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4111.1111.1111.1111",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "4111    1111\n1111\t\r\n1111",
            "4111\u{200b}1111\u{2060}1111\u{a0}1111",
            "４１１１１１１１１１１１１１１１",
            "४१११ ११११ ११११ ११११",
            "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏",
            "4̶1̶1̶1̶1̶1̶1̶1̶1̶1̶1̶1̶1̶1̶1̶1",
            "3782 822463 10005",
            "6759649826438453",
        ] {
            let expected = format!("card:{text}");
            let found = found(&format!("is {text}, yes"));
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn a_card_number_among_other_digits_is_found() {
        assert_eq!(found("12 4111111111111111 99"), ["card:4111111111111111"]);
        assert_eq!(found("x4111111111111111y"), ["card:4111111111111111"]);
        assert_eq!(found("994111111111111111199")[0].len(), "card:".len() + 16);
        assert_eq!(
            found("4111111111111111 5555555555554444"),
            ["card:4111111111111111", "card:5555555555554444"]
        );
    }

    #[test]
    fn a_wrong_check_digit_counts_beside_a_word_alone() {
        assert_eq!(found("4111111111111112"), Vec::<String>::new());
        assert_eq!(
            found("my card is 4111111111111112"),
            ["card:4111111111111112"]
        );
        assert_eq!(
            found_in("4111111111111112", "cardNumber"),
            ["card:4111111111111112"]
        );
        assert_eq!(found("1700000000000"), Vec::<String>::new());
        assert_eq!(found("0000000000000000"), Vec::<String>::new());
    }

    #[test]
    fn integers_are_card_numbers_as_a_whole_alone() {
        let none = Field::default();
        let digits = |text: &str| text.bytes().map(|byte| byte - b'0').collect::<Vec<_>>();
        assert!(is_number(&digits("4111111111111111"), &none));
        assert!(!is_number(&digits("94111111111111111"), &none));
        assert!(!is_number(&digits("4111111111111112"), &none));
    }
}
