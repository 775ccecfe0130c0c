//! What a job writes for people, without the personal data that can be known by its pattern.
//!
//! A card number of a known range with a right check digit must never come through, in any spacing, over several lines, in
//! the digits of any script, nor in part because a line was cut. Other kinds are found as often as their patterns allow, in
//! single lines.
//!
//! A line that ends in a digit is held back until it is known whether the next one goes on with the number. Whoever passes
//! lines on decides how long that may take: [`Redactor::rest`] lets go of what is held, and of a number that goes on after
//! that the rest is taken out.

use std::sync::LazyLock;

use anchorhold_detect::fold::Folded;
use anchorhold_detect::{Detectors, Field, Kind, separates};

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
/// What is held back at most.
const MOST_HELD_LINES: usize = 64;
const MOST_HELD_BYTES: usize = 16 * 1024;
/// Digits that are remembered of what was let go: one less than the longest number has.
const MOST_PAST_DIGITS: usize = 18;

static DETECTORS: LazyLock<Detectors> =
    LazyLock::new(|| Detectors::new(|kind| KINDS.contains(&kind)));
/// The one kind that is looked for over several lines.
static CARDS: LazyLock<Detectors> = LazyLock::new(|| Detectors::new(|kind| kind == Kind::Card));

/// A place that is taken out.
struct Place {
    start: usize,
    end: usize,
    kind: Kind,
}

/// Takes personal data out of lines, one after the other.
#[derive(Default)]
pub struct Redactor {
    held: Vec<String>,
    bytes: usize,
    /// The digits that the last line which was let go ended with, in groups.
    past: String,
}

impl Redactor {
    /// Takes a line; returns those that may be passed on now, in their order. `cut` says that the line went on.
    pub fn line(&mut self, line: &str, cut: bool) -> Vec<String> {
        let line = plain(line, cut);
        let shape = Shape::of(&line);
        let mut out = Vec::new();
        if !self.held.is_empty() && shape.opening == Opening::Text {
            out = self.release();
        }
        if shape.opening == Opening::Text {
            self.past.clear();
        }
        let goes_on = match shape.opening {
            // Nothing but gaps: it ends as what was before it.
            Opening::Nothing => !self.held.is_empty(),
            _ => shape.ends_in_a_digit && !cut,
        };
        self.bytes += line.len();
        self.held.push(line);
        if !goes_on || self.held.len() > MOST_HELD_LINES || self.bytes > MOST_HELD_BYTES {
            out.extend(self.release());
        }
        out
    }

    /// Whether a line waits for the next.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets go of what is held: the next line takes too long, or will not come.
    pub fn rest(&mut self) -> Vec<String> {
        self.release()
    }

    fn release(&mut self) -> Vec<String> {
        let held = std::mem::take(&mut self.held);
        self.bytes = 0;
        let past = std::mem::take(&mut self.past);
        // What was let go before stands before the first line, to be looked at and not to be written again.
        let mut text = past.clone();
        let mut starts = Vec::with_capacity(held.len());
        for line in &held {
            if !text.is_empty() {
                text.push('\n');
            }
            starts.push(text.len());
            text.push_str(line);
        }
        let mut places: Vec<Place> = Vec::new();
        for found in CARDS.text(&text, &Field::default()) {
            places.push(Place {
                start: found.start,
                end: found.end,
                kind: found.kind,
            });
        }
        for (line, start) in held.iter().zip(&starts) {
            for found in DETECTORS.text(line, &Field::default()) {
                places.push(Place {
                    start: start + found.start,
                    end: start + found.end,
                    kind: found.kind,
                });
            }
        }
        let places = merged(places);
        let mut out = Vec::with_capacity(held.len());
        for (line, start) in held.iter().zip(&starts) {
            out.push(without(line, *start, &places));
        }
        let first = starts.first().copied().unwrap_or(0);
        let is_used = places.iter().any(|place| place.start < first);
        self.past = tail(if is_used { "" } else { &past }, &out);
        out
    }
}

/// Places in their order, of which none overlaps another. A card number gives its name to what it overlaps.
fn merged(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_by_key(|place| (place.start, std::cmp::Reverse(place.end)));
    let mut out: Vec<Place> = Vec::with_capacity(places.len());
    for place in places {
        match out.last_mut() {
            Some(last) if place.start < last.end => {
                last.end = last.end.max(place.end);
                if place.kind == Kind::Card {
                    last.kind = Kind::Card;
                }
            }
            _ => out.push(place),
        }
    }
    out
}

/// A line that stands at `start` of the text that the places are in. A place's name is put where it begins; of one that
/// began before, nothing is left.
fn without(line: &str, start: usize, places: &[Place]) -> String {
    let end = start + line.len();
    let mut out = String::with_capacity(line.len());
    let mut at = start;
    for place in places {
        if place.end <= start || place.start >= end {
            continue;
        }
        if place.start >= start {
            out.push_str(&line[at - start..place.start - start]);
            out.push('[');
            out.push_str(place.kind.name());
            out.push(']');
        }
        at = place.end.min(end);
    }
    out.push_str(&line[at - start..]);
    out
}

/// What a line begins with, apart from gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Nothing,
    Digit,
    Text,
}

struct Shape {
    opening: Opening,
    ends_in_a_digit: bool,
}

impl Shape {
    fn of(line: &str) -> Shape {
        let folded = Folded::new(line);
        let mut characters = folded
            .text()
            .chars()
            .filter(|character| !separates(*character));
        let opening = match characters.next() {
            None => Opening::Nothing,
            Some(first) if first.is_ascii_digit() => Opening::Digit,
            Some(_) => Opening::Text,
        };
        let mut backwards = folded
            .text()
            .chars()
            .rev()
            .filter(|character| !separates(*character));
        let ends_in_a_digit = backwards.next().is_some_and(|last| last.is_ascii_digit());
        Shape {
            opening,
            ends_in_a_digit,
        }
    }
}

/// The digits that lines end with, in groups; `past` are those before the first.
fn tail(past: &str, lines: &[String]) -> String {
    let mut digits = 0;
    let mut backwards = String::new();
    for line in lines.iter().map(String::as_str).rev().chain([past]) {
        let folded = Folded::new(line);
        for character in folded.text().chars().rev() {
            if character.is_ascii_digit() {
                if digits == MOST_PAST_DIGITS {
                    return backwards.chars().rev().collect();
                }
                digits += 1;
                backwards.push(character);
            } else if separates(character) {
                if !backwards.is_empty() && !backwards.ends_with(' ') {
                    backwards.push(' ');
                }
            } else {
                return backwards.chars().rev().collect();
            }
        }
        if !backwards.is_empty() && !backwards.ends_with(' ') {
            backwards.push(' ');
        }
    }
    backwards.chars().rev().collect()
}

/// A line as it is looked at. Control characters are shown as one sign each, and must not keep a number from being seen.
fn plain(line: &str, cut: bool) -> String {
    let mut line: String = line
        .chars()
        .map(|character| {
            if character.is_control() || character == '\u{fffd}' {
                ' '
            } else {
                character
            }
        })
        .collect();
    if cut {
        // As a whole line it is looked at before; what stands at its end may be a part of something.
        let end = line.floor_char_boundary(line.len().saturating_sub(DOUBTFUL_BYTES));
        let found = DETECTORS.text(&line, &Field::default());
        let begun = found
            .iter()
            .find(|found| found.start < end && found.end > end);
        line.truncate(begun.map_or(end, |found| found.end));
    }
    line
}

/// One line by itself, with the kind's name in the place of what was found. `cut` says that the line went on.
pub fn redacted(line: &str, cut: bool) -> String {
    let mut redactor = Redactor::default();
    let mut lines = redactor.line(line, cut);
    lines.extend(redactor.rest());
    lines.concat()
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

    /// All lines, as they leave; `pause` says after which of them the next took too long.
    fn lines(text: &str, pause: impl Fn(usize) -> bool) -> Vec<String> {
        let mut redactor = Redactor::default();
        let mut out = Vec::new();
        for (number, line) in text.lines().enumerate() {
            out.extend(redactor.line(line, false));
            if pause(number) {
                out.extend(redactor.rest());
            }
        }
        out.extend(redactor.rest());
        assert!(!redactor.is_holding());
        out
    }

    fn digits(lines: &[String]) -> String {
        lines
            .iter()
            .flat_map(|line| line.chars())
            .filter_map(anchorhold_detect::fold::digit)
            .map(|digit| char::from(b'0' + digit))
            .collect()
    }

    #[test]
    fn a_number_over_several_lines_does_not_come_through() {
        for (text, expected) in [
            ("pan 4111 1111\n1111 1111 ok", vec!["pan [card]", " ok"]),
            (
                "4111\n1111\n1111\n1111\nend",
                vec!["[card]", "", "", "", "end"],
            ),
            ("4111 1111\n\n \n1111-1111.", vec!["[card]", "", "", "."]),
            ("4111111111\u{661}1111\n1", vec!["[card]", ""]),
            ("port 8080\nready", vec!["port 8080", "ready"]),
            ("1\n2\n3", vec!["1", "2", "3"]),
            ("10.0.0.1\nx 10.0.0.2", vec!["[ip]", "x [ip]"]),
            (
                "4111\nand then 1111 1111 1111",
                vec!["4111", "and then 1111 1111 1111"],
            ),
            ("\n\na", vec!["", "", "a"]),
        ] {
            assert_eq!(lines(text, |_| false), expected, "{text}");
        }
    }

    #[test]
    fn a_line_waits_only_where_a_number_may_go_on() {
        let mut redactor = Redactor::default();
        assert_eq!(redactor.line("ready", false), ["ready"]);
        assert!(redactor.line("port 8080", false).is_empty() && redactor.is_holding());
        assert!(redactor.line("", false).is_empty());
        assert_eq!(redactor.line("next", false), ["port 8080", "", "next"]);
        assert!(!redactor.is_holding());
        // It cannot be made to keep much.
        let mut redactor = Redactor::default();
        let mut out = 0;
        for _ in 0..1000 {
            out += redactor.line("7", false).len();
            assert!(redactor.held.len() <= MOST_HELD_LINES);
        }
        assert!(out > 900);
    }

    #[test]
    fn of_a_number_that_goes_on_after_a_pause_the_rest_is_taken_out() {
        assert_eq!(
            lines("pan 4111 1111\n1111 1111 ok", |number| number == 0),
            ["pan 4111 1111", " ok"]
        );
        for pause in 0..15 {
            let text: Vec<String> = CARD.chars().map(String::from).collect();
            let out = lines(&text.join("\n"), |number| number == pause);
            assert!(!digits(&out).contains(CARD), "{out:?}");
        }
    }

    proptest! {
        #[test]
        fn a_seeded_card_number_never_comes_through_over_lines(
            breaks in proptest::collection::vec((0..GAPS.len(), 0..3usize), 16),
            before in "[^0-9\\p{Nd}\\p{No}\\p{Nl}]{0,20}", after in "[^0-9\\p{Nd}\\p{No}\\p{Nl}]{0,20}",
            pause in 0..40usize,
        ) {
            let mut number = String::new();
            for (digit, (gap, newlines)) in CARD.chars().zip(breaks) {
                if !number.is_empty() {
                    number.push_str(GAPS[gap]);
                    number.push_str(&"\n".repeat(newlines));
                }
                number.push(digit);
            }
            let out = lines(&format!("{before} {number} {after}"), |number| number == pause);
            prop_assert!(!digits(&out).contains(CARD), "{:?}", out);
        }

        #[test]
        fn every_line_leaves_in_its_order(text in "[a0-9 \n]{0,200}", pause in 0..20usize) {
            let out = lines(&text, |number| number == pause);
            prop_assert_eq!(out.len(), text.lines().count());
            for (found, line) in out.iter().zip(text.lines()) {
                let letters = |text: &str| text.matches('a').count();
                prop_assert!(found.contains('[') || letters(found) == letters(line));
            }
        }

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
