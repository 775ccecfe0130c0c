//! What is personal data in a text, and where it stands: for the job that replaces it, and for the runtime's logs.
//! Each kind has a detector of its own; here their findings are put
//! together, so that no two overlap.
//!
//! Detectors read folded text ([`fold`]). They take time linear in its length: regular expressions are
//! automata with bounded repetitions, all else walks a bounded way from an anchor. A pattern that is too weak by
//! itself counts with words beside it, or with the name of the JSON field that it stands in ([`context`]).

#![forbid(unsafe_code)]

mod card;
mod context;
mod date;
mod email;
pub mod fold;
mod iban;
mod ip;
mod kind;
mod phone;
mod ssn;
mod web;
mod zip;

use std::collections::BTreeMap;

pub use card::separates;
pub use context::Field;
pub use kind::Kind;

use crate::fold::Folded;

/// A place in a text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What stands there.
    pub kind: Kind,
    /// Where it begins.
    pub start: usize,
    /// Where it ends: the first byte behind it.
    pub end: usize,
}

/// What a detector proposes, in bytes of the folded text.
struct Candidate {
    kind: Kind,
    start: usize,
    end: usize,
    /// Where a stronger candidate takes a part of it, the rest is still found.
    divisible: bool,
}

impl Candidate {
    fn new(kind: Kind, start: usize, end: usize) -> Self {
        Self {
            kind,
            start,
            end,
            divisible: false,
        }
    }
}

/// The detectors of the kinds that are looked for.
pub struct Detectors {
    wanted: [bool; Kind::ALL.len()],
    date: date::Dates,
    ip: ip::Addresses,
    ssn: ssn::Numbers,
    zip: zip::Codes,
}

impl Detectors {
    /// Detectors of the kinds that `wanted` says.
    pub fn new(wanted: impl Fn(Kind) -> bool) -> Self {
        Self {
            wanted: Kind::ALL.map(wanted),
            date: date::Dates::new(),
            ip: ip::Addresses::new(),
            ssn: ssn::Numbers::new(),
            zip: zip::Codes::new(),
        }
    }

    /// All that is in a text, in its order; none overlaps another. `field` is the JSON field that it stands in.
    pub fn text(&self, text: &str, field: &Field) -> Vec<Found> {
        let folded = Folded::new(text);
        let text = folded.text();
        let bytes = text.as_bytes();
        let has = |byte: u8| bytes.contains(&byte);
        let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
        // In the order of their strength: who comes first keeps what both want.
        let mut candidates = Vec::new();
        let out = &mut candidates;
        if self.wants(Kind::Url) && has(b':') {
            web::urls(text, out);
        }
        if self.wants(Kind::Email) && has(b'@') {
            email::find(text, out);
        }
        if self.wants(Kind::Iban) && digits >= 10 {
            iban::find(text, out);
        }
        if self.wants(Kind::Card) && digits >= card::MIN_DIGITS {
            card::find(text, field, out);
        }
        if self.wants(Kind::Ip) && (has(b':') || has(b'.')) {
            self.ip.find(text, out);
        }
        if self.wants(Kind::Ssn) && digits >= 9 {
            self.ssn.find(text, field, out);
        }
        if self.wants(Kind::Date) {
            self.date.find(text, field, digits, out);
        }
        if self.wants(Kind::Phone) && digits >= 7 {
            phone::find(text, field, out);
        }
        if self.wants(Kind::Zip) && digits >= 2 {
            self.zip.find(text, field, out);
        }
        if self.wants(Kind::Url) && has(b'.') {
            web::domains(text, field, out);
        }
        settle(text, candidates)
            .into_iter()
            .map(|found| {
                let (start, end) = folded.original(found.start, found.end);
                Found {
                    start,
                    end,
                    ..found
                }
            })
            .collect()
    }

    /// What a JSON number is, as a whole: a card number by its check digit, others by their field's name alone.
    pub fn number(&self, literal: &str, field: &Field) -> Option<Kind> {
        let digits = literal.strip_prefix('-').unwrap_or(literal);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let values: Vec<u8> = digits.bytes().map(|byte| byte - b'0').collect();
        let is = |kind| match kind {
            Kind::Card => card::is_number(&values, field),
            Kind::Ssn => digits.len() == 9 && field.names(ssn::WORDS) && ssn::is_possible(digits),
            Kind::Phone => (7..=15).contains(&digits.len()) && field.names(phone::WORDS),
            Kind::Zip => (3..=7).contains(&digits.len()) && field.names(zip::WORDS),
            _ => false,
        };
        Kind::ALL
            .into_iter()
            .find(|kind| self.wants(*kind) && is(*kind))
    }

    fn wants(&self, kind: Kind) -> bool {
        self.wanted[kind as usize]
    }
}

/// Takes candidates in their order; what an earlier one has, a later one does not get.
fn settle(text: &str, candidates: Vec<Candidate>) -> Vec<Found> {
    let mut taken: BTreeMap<usize, (usize, Kind)> = BTreeMap::new();
    for candidate in candidates {
        let (mut start, end) = (candidate.start, candidate.end);
        // What was taken does not overlap itself, so only the last before `end` and those before it can overlap.
        let mut overlapping: Vec<(usize, usize)> = taken
            .range(..end)
            .rev()
            .map(|(from, (to, _))| (*from, *to))
            .take_while(|(_, to)| *to > start)
            .collect();
        if overlapping.is_empty() {
            taken.insert(start, (end, candidate.kind));
            continue;
        }
        if !candidate.divisible {
            continue;
        }
        overlapping.reverse();
        overlapping.push((end, end));
        for (from, to) in overlapping {
            if start < from
                && let Some((piece, piece_end)) = trimmed(text, start, from)
            {
                taken.insert(piece, (piece_end, candidate.kind));
            }
            start = start.max(to);
        }
    }
    taken
        .into_iter()
        .map(|(start, (end, kind))| Found { kind, start, end })
        .collect()
}

/// A piece from its first to its last letter or digit.
fn trimmed(text: &str, start: usize, end: usize) -> Option<(usize, usize)> {
    let piece = &text[start..end];
    let first = piece.find(char::is_alphanumeric)?;
    let kept = piece.trim_end_matches(|character: char| !character.is_alphanumeric());
    Some((start + first, start + kept.len()))
}

/// Whether a number or name that begins at `at` has its beginning there: no letter or digit stands right before.
fn begins(text: &str, at: usize) -> bool {
    !text[..at].chars().next_back().is_some_and(joins)
}

/// As [`begins`], for an end.
fn ends(text: &str, at: usize) -> bool {
    !text[at..].chars().next().is_some_and(joins)
}

/// Letters that make one word with a letter of ASCII; scripts that write without spaces do not.
fn joins(character: char) -> bool {
    character == '_'
        || character.is_ascii_alphanumeric()
        || (character < '\u{530}' && character.is_alphabetic())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is found, as `kind:text`.
    pub(crate) fn found(text: &str) -> Vec<String> {
        found_in(text, "")
    }

    pub(crate) fn found_in(text: &str, field: &str) -> Vec<String> {
        let detectors = Detectors::new(|_| true);
        detectors
            .text(text, &Field::named(field))
            .iter()
            .map(|found| format!("{}:{}", found.kind.name(), &text[found.start..found.end]))
            .collect()
    }

    #[test]
    fn what_stands_inside_of_another_is_found_once_as_the_stronger() {
        assert_eq!(
            found("see https://bob@x.com/4111111111111111?ip=10.0.0.1"),
            ["url:https://bob@x.com/4111111111111111?ip=10.0.0.1"]
        );
        assert_eq!(found("mail bob@example.com"), ["email:bob@example.com"]);
        assert_eq!(
            found("GB82 WEST 1234 5698 7654 32"),
            ["iban:GB82 WEST 1234 5698 7654 32"]
        );
    }

    #[test]
    fn a_card_number_that_begins_inside_of_an_address_is_found_to_its_end() {
        assert_eq!(
            found("http://a.com/4111 1111 1111 1111"),
            ["url:http://a.com/4111", "card:1111 1111 1111"]
        );
        assert_eq!(
            found("4111 1111 1111 1111@a.com"),
            ["card:4111 1111 1111", "email:1111@a.com"]
        );
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in [
            "",
            "The order of 12 items, 3.50 each, ships in 2 to 5 days.",
            "see main.rs and node.js, e.g. version 1.2.3.4 at 12:30:45",
            "std::vec<int> a[10]; b = c::d(1, 2);",
            "pi is 3.14159265358979, e is 2.718281828",
            "uuid 550e8400-e29b-41d4-a716-446655440000",
            "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "He paid $1,234,567.89 for 2000 miles.",
            "戦略的供給ジャム装置持ってるクール。",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
