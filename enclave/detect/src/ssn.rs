//! Social security numbers of the United States: possible areas, groups and serials; without their dashes only
//! beside words that name them.

use regex::Regex;

use super::context::{self, Field};
use super::{Candidate, begins, ends};
use crate::Kind;

pub(super) const WORDS: &[&str] = &["ssn", "social security", "social", "socialsecurity"];
const NOT_WORDS: &[&str] = &["phone", "order", "invoice", "account", "zip", "tel", "fax"];

pub(super) struct Numbers {
    form: Regex,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self {
            form: Regex::new("[0-9]{3}([-. ]?)[0-9]{2}([-. ]?)[0-9]{4}")
                .expect("the expression is right"),
        }
    }

    pub(super) fn find(&self, text: &str, field: &Field, out: &mut Vec<Candidate>) {
        for found in self.form.captures_iter(text) {
            let whole = found.get_match();
            let (start, end) = (whole.start(), whole.end());
            let dashes = &found[1];
            if dashes == &found[2]
                && begins(text, start)
                && ends(text, end)
                && alone(&text[..start], &text[end..])
                && is_possible(whole.as_str())
                && (dashes == "-" || context::before(text, start, field, WORDS, NOT_WORDS))
            {
                out.push(Candidate::new(Kind::Ssn, start, end));
            }
        }
    }
}

/// Whether no dash leads on to more digits.
fn alone(before: &str, after: &str) -> bool {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    let (before, after) = (before.as_bytes(), after.as_bytes());
    let dash = |byte: Option<&u8>| matches!(byte, Some(b'-' | b'.'));
    let joined_before = dash(before.last()) && digit(before.iter().rev().nth(1));
    let joined_after = dash(after.first()) && digit(after.get(1));
    !joined_before && !joined_after
}

/// Whether the area (not 000, 666 or 9xx), the group (not 00) and the serial (not 0000) can be.
pub(super) fn is_possible(text: &str) -> bool {
    let digits: String = text
        .chars()
        .filter(|character| character.is_ascii_digit())
        .collect();
    let (area, group, serial) = (&digits[..3], &digits[3..5], &digits[5..]);
    !matches!(area, "000" | "666") && !area.starts_with('9') && group != "00" && serial != "0000"
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};

    #[test]
    fn numbers_with_dashes_are_found_and_others_beside_their_name() {
        assert_eq!(found("is 460-89-9847."), ["ssn:460-89-9847"]);
        assert_eq!(found("SSN: 460 89 9847"), ["ssn:460 89 9847"]);
        assert_eq!(found("social security number 460899847"), ["ssn:460899847"]);
        assert_eq!(found_in("460899847", "ssn"), ["ssn:460899847"]);
        assert!(found("item 460899847").is_empty());
    }

    #[test]
    fn impossible_numbers_are_not_found() {
        for text in [
            "000-12-3456",
            "666-12-3456",
            "900-12-3456",
            "123-00-4567",
            "123-45-0000",
            "2270-66-1551",
            "123-45-6789-1",
            "1-123-45-6789",
            "123-45 6789",
        ] {
            assert!(
                !found(text).iter().any(|found| found.starts_with("ssn")),
                "{text}"
            );
        }
    }
}
