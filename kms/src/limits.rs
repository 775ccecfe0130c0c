//! The first check of all: lengths, ranges, patterns and sets of names, in AWS's words.
//!
//! AWS names all members that fail at once, so they are collected.

use crate::refusal::Refusal;
use anchorhold_kms_wire::shapes::Name;
use std::fmt::Display;
use std::fmt::Write as _;

/// What is wrong with a request's members.
pub(crate) struct Checks(Vec<String>);

/// The most of a caller's text that goes back in an error.
const SHOWN: usize = 4096;

impl Checks {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// A text of `least` to `most` characters.
    pub(crate) fn text(&mut self, member: &str, text: &str, least: usize, most: usize) {
        let length = text.chars().count();
        self.size(&value(text), member, length, least, most);
    }

    /// The same, where it is there.
    pub(crate) fn optional_text(
        &mut self,
        member: &str,
        text: Option<&str>,
        least: usize,
        most: usize,
    ) {
        if let Some(text) = text {
            self.text(member, text, least, most);
        }
    }

    /// Bytes, which are never shown.
    pub(crate) fn blob(&mut self, member: &str, bytes: &[u8], least: usize, most: usize) {
        self.size("Value", member, bytes.len(), least, most);
    }

    /// A secret of so many characters, which is never shown either.
    pub(crate) fn length(&mut self, member: &str, length: usize, least: usize, most: usize) {
        self.size("Value", member, length, least, most);
    }

    pub(crate) fn list<T: Display>(
        &mut self,
        member: &str,
        items: &[T],
        least: usize,
        most: usize,
    ) {
        let mut shown = String::from("[");
        for (at, item) in items.iter().take(32).enumerate() {
            let _ = write!(shown, "{}{item}", if at == 0 { "" } else { ", " });
        }
        shown.push(']');
        self.size(&value(&shown), member, items.len(), least, most);
    }

    pub(crate) fn number(&mut self, member: &str, number: i32, least: i32, most: i32) {
        let wrong = if number < least {
            format!("Member must have value greater than or equal to {least}")
        } else if number > most {
            format!("Member must have value less than or equal to {most}")
        } else {
            return;
        };
        self.fail(&format!("Value '{number}'"), member, &wrong);
    }

    pub(crate) fn optional_number(
        &mut self,
        member: &str,
        number: Option<i32>,
        least: i32,
        most: i32,
    ) {
        if let Some(number) = number {
            self.number(member, number, least, most);
        }
    }

    /// A name of a closed set.
    pub(crate) fn one_of<N: Name>(&mut self, member: &str, name: &N) {
        if !name.is_known() {
            let set: Vec<&str> = N::ALL.iter().map(Name::as_str).collect();
            self.fail(
                &value(name.as_str()),
                member,
                &format!("Member must satisfy enum value set: [{}]", set.join(", ")),
            );
        }
    }

    pub(crate) fn optional_one_of<N: Name>(&mut self, member: &str, name: Option<&N>) {
        if let Some(name) = name {
            self.one_of(member, name);
        }
    }

    /// A text that must match; empty ones fail by their length already.
    pub(crate) fn pattern(&mut self, member: &str, text: &str, matches: bool, pattern: &str) {
        if !matches && !text.is_empty() {
            self.fail(
                &value(text),
                member,
                &format!("Member must satisfy regular expression pattern: {pattern}"),
            );
        }
    }

    /// Tokens of grants: at most ten.
    pub(crate) fn grant_tokens(&mut self, tokens: &[String]) {
        self.list("grantTokens", tokens, 0, 10);
        for token in tokens {
            self.text("grantTokens", token, 1, 8192);
        }
    }

    /// How much of a list, and from where.
    pub(crate) fn page(&mut self, limit: Option<i32>, marker: Option<&str>) {
        self.optional_number("limit", limit, 1, 1000);
        self.optional_text("marker", marker, 1, 1024);
    }

    pub(crate) fn done(self) -> Result<(), Refusal> {
        let errors = match self.0.len() {
            0 => return Ok(()),
            1 => "1 validation error",
            n => &format!("{n} validation errors"),
        };
        Err(Refusal::validation(format!(
            "{errors} detected: {}",
            self.0.join("; ")
        )))
    }

    fn size(&mut self, shown: &str, member: &str, length: usize, least: usize, most: usize) {
        let wrong = if length < least {
            format!("Member must have length greater than or equal to {least}")
        } else if length > most {
            format!("Member must have length less than or equal to {most}")
        } else {
            return;
        };
        self.fail(shown, member, &wrong);
    }

    fn fail(&mut self, shown: &str, member: &str, wrong: &str) {
        self.0.push(format!(
            "{shown} at '{member}' failed to satisfy constraint: {wrong}"
        ));
    }
}

fn value(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN).collect();
    format!("Value '{shown}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anchorhold_kms_wire::shapes::MacAlgorithm;

    #[test]
    fn errors_come_together_and_in_the_words_of_aws() {
        let mut checks = Checks::new();
        checks.text("keyId", "", 1, 2048);
        checks.number("numberOfBytes", 1025, 1, 1024);
        checks.blob("plaintext", &[0; 4097], 1, 4096);
        checks.one_of("macAlgorithm", &MacAlgorithm::from("X"));
        checks.pattern("aliasName", "alias/!", false, "^[a-z]+$");
        checks.pattern("aliasName", "", false, "^[a-z]+$");
        assert_eq!(
            checks.done().unwrap_err().message,
            "5 validation errors detected: \
             Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1; \
             Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024; \
             Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096; \
             Value 'X' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: \
             [HMAC_SHA_224, HMAC_SHA_256, HMAC_SHA_384, HMAC_SHA_512]; \
             Value 'alias/!' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-z]+$"
        );
    }

    #[test]
    fn one_error_is_in_the_singular_and_none_is_none() {
        assert!(Checks::new().done().is_ok());
        let mut checks = Checks::new();
        checks.number("limit", 0, 1, 1000);
        assert_eq!(
            checks.done().unwrap_err().message,
            "1 validation error detected: Value '0' at 'limit' failed to satisfy constraint: \
             Member must have value greater than or equal to 1"
        );
    }
}
