//! Card numbers in free text: found and masked to their last four digits.
//!
//! A *run* is digits with at most three separators (spaces, dashes, dots, slashes and their Unicode kin) between
//! one and the next. Within runs, masked is
//!
//! - every stretch that could be a card number of a known scheme: its length, and a right check digit;
//! - a run as a whole that has a known scheme's length, without dots and slashes: a mistyped card number still
//!   tells nearly all of the right one;
//! - every stretch equal to the record's own number, whatever its scheme.
//!
//! Everything else stays, telephone numbers for instance. Digits of other scripts (full-width, Arabic) count.

use std::borrow::Cow;

use crate::card::{MIN_DIGITS, Scheme, check_digit};

const SHOWN: usize = 4;
const MAX_SEPARATORS: usize = 3;

/// The text with card numbers masked; borrowed where there are none.
///
/// `own` is the record's own number, or empty.
pub fn mask<'a>(text: &'a str, own: &[u8]) -> Cow<'a, str> {
    mask_unless(text, own, false)
}

/// As [`mask`], for an integer: only a right check digit makes it a card number, as a number that is not meant
/// for people has no typing errors.
pub(crate) fn mask_integer<'a>(text: &'a str, own: &[u8]) -> Cow<'a, str> {
    mask_unless(text, own, true)
}

fn mask_unless<'a>(text: &'a str, own: &[u8], check_digit_only: bool) -> Cow<'a, str> {
    if !may_hold_a_number(text) {
        return Cow::Borrowed(text);
    }
    let mut masked: Vec<Place> = Vec::new();
    let mut run = Run {
        check_digit_only,
        ..Run::default()
    };
    for (start, character) in text.char_indices() {
        if let Some(value) = digit(character) {
            run.places.push(Place {
                start,
                length: character.len_utf8(),
            });
            run.digits.push(value);
            run.separators = 0;
        } else if let Some(kind) = separator(character)
            && !run.digits.is_empty()
            && run.separators < MAX_SEPARATORS
        {
            run.separators += 1;
            run.pending_dots |= kind == Separator::Dot;
            continue;
        } else {
            run.end(own, &mut masked);
        }
        run.settle();
    }
    run.end(own, &mut masked);
    if masked.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for place in masked {
        out.push_str(&text[from..place.start]);
        out.push('*');
        from = place.start + place.length;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// Whether a text has digits enough at all. Quick, as most texts have not.
pub(crate) fn may_hold_a_number(text: &str) -> bool {
    let ascii = text.bytes().filter(u8::is_ascii_digit).count();
    if text.is_ascii() || ascii >= MIN_DIGITS {
        return ascii >= MIN_DIGITS;
    }
    text.chars().filter_map(digit).take(MIN_DIGITS).count() == MIN_DIGITS
}

/// A digit's bytes in the text.
struct Place {
    start: usize,
    length: usize,
}

#[derive(Default)]
struct Run {
    digits: Vec<u8>,
    places: Vec<Place>,
    separators: usize,
    /// Dots since the last digit: they count once another digit follows.
    pending_dots: bool,
    dots: bool,
    check_digit_only: bool,
}

impl Run {
    fn settle(&mut self) {
        self.dots |= self.pending_dots && !self.digits.is_empty();
        self.pending_dots = false;
    }

    /// Finds the card numbers among the digits, and empties the run.
    fn end(&mut self, own: &[u8], masked: &mut Vec<Place>) {
        if self.digits.len() >= MIN_DIGITS {
            let mut hide = vec![false; self.digits.len()];
            let mut found = |start: usize, length: usize| {
                hide[start..start + length - SHOWN].fill(true);
            };
            let whole = Scheme::of_digits(&self.digits);
            if whole != Scheme::Unknown
                && whole.lengths().contains(&self.digits.len())
                && !self.dots
                && !self.check_digit_only
            {
                found(0, self.digits.len());
            }
            for start in 0..=self.digits.len() - MIN_DIGITS {
                let rest = &self.digits[start..];
                let scheme = Scheme::of_digits(rest);
                if scheme != Scheme::Unknown {
                    for length in scheme
                        .lengths()
                        .iter()
                        .copied()
                        .filter(|it| *it <= rest.len())
                    {
                        if check_digit(&rest[..length - 1]) == rest[length - 1] {
                            found(start, length);
                        }
                    }
                }
                if own.len() > SHOWN && rest.starts_with(own) {
                    found(start, own.len());
                }
            }
            let places = self.places.drain(..).zip(hide);
            masked.extend(places.filter_map(|(place, hidden)| hidden.then_some(place)));
        }
        self.digits.clear();
        self.places.clear();
        (self.separators, self.pending_dots, self.dots) = (0, false, false);
    }
}

#[derive(PartialEq, Eq)]
enum Separator {
    Gap,
    Dot,
}

fn separator(character: char) -> Option<Separator> {
    match character {
        ' '
        | '\t'
        | '\n'
        | '\r'
        | '-'
        | '_'
        | '\u{a0}'
        | '\u{ad}'
        | '\u{2000}'..='\u{200d}'
        | '\u{2010}'..='\u{2015}'
        | '\u{202f}'
        | '\u{205f}'
        | '\u{2060}'
        | '\u{2212}'
        | '\u{3000}'
        | '\u{feff}'
        | '\u{ff0d}' => Some(Separator::Gap),
        '.' | '/' | '\u{b7}' | '\u{2022}' => Some(Separator::Dot),
        _ => None,
    }
}

/// The decimal digits of ASCII, full-width, Arabic and Devanagari script.
fn digit(character: char) -> Option<u8> {
    let zero = match character {
        '0'..='9' => '0',
        '\u{ff10}'..='\u{ff19}' => '\u{ff10}',
        '\u{660}'..='\u{669}' => '\u{660}',
        '\u{6f0}'..='\u{6f9}' => '\u{6f0}',
        '\u{966}'..='\u{96f}' => '\u{966}',
        _ => return None,
    };
    u8::try_from(character as u32 - zero as u32).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        mask(text, &[]).into_owned()
    }

    #[test]
    fn card_numbers_keep_their_last_four_digits_and_their_separators() {
        for (text, expected) in [
            ("re card 4111111111111111", "re card ************1111"),
            ("4111 1111 1111 1111!", "**** **** **** 1111!"),
            ("4111-1111-1111-1111", "****-****-****-1111"),
            ("4111.1111.1111.1111", "****.****.****.1111"),
            (
                "4111\u{a0}1111\u{2009}1111\u{2011}1111",
                "****\u{a0}****\u{2009}****\u{2011}1111",
            ),
            (
                "amex 3782 822463 10005, paid",
                "amex **** ****** *0005, paid",
            ),
            ("４１１１１１１１１１１１１１１１", "************１１１１"),
            (
                "a4111111111111111b5555555555554444",
                "a************1111b************4444",
            ),
        ] {
            assert_eq!(masked(text), expected);
        }
    }

    #[test]
    fn a_card_number_among_other_digits_is_found() {
        assert_eq!(masked("0049 4111111111111111"), "0049 ************1111");
        assert_eq!(masked("12 4111111111111111 99"), "12 ************1111 99");
    }

    #[test]
    fn a_mistyped_card_number_is_masked_too() {
        assert_eq!(masked("card 4111111111111112"), "card ************1112");
        assert_eq!(
            masked("card 4111 1111 1111 1112"),
            "card **** **** **** 1112"
        );
    }

    #[test]
    fn the_records_own_number_is_masked_whatever_its_scheme() {
        let own = [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(mask("9000 0000 0001", &own), "**** **** 0001");
        assert_eq!(mask("9000 0000 0001", &[]), "9000 0000 0001");
    }

    #[test]
    fn other_numbers_stay() {
        for text in [
            "",
            "call 001-926-934-1080x342",
            "call +33 (0)1 23 45 67 89",
            "call +44 7911 123456",
            "at 2026-11-22T07:18:24Z",
            "order 1700000000000",
            "41.385064123456789 north",
            "12 eggs, 345 grams, 6 7 8 9",
            "戦略的供給ジャム装置持ってるクール。",
        ] {
            assert!(matches!(mask(text, &[]), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn a_run_does_not_reach_over_words_or_many_separators() {
        assert_eq!(masked("41111111 and 11111111"), "41111111 and 11111111");
        assert_eq!(masked("41111111     11111111"), "41111111     11111111");
    }

    #[test]
    fn integers_are_masked_by_their_check_digit_only() {
        assert_eq!(mask_integer("4111111111111111", &[]), "************1111");
        assert_eq!(mask_integer("4111111111111112", &[]), "4111111111111112");
    }
}
