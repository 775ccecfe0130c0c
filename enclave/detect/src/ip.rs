//! Internet addresses: four octets, or what RFC 4291 writes with colons.

use std::net::Ipv6Addr;

use regex::Regex;

use super::{Candidate, begins, context, ends};
use crate::Kind;

/// Words before four numbers that are a version.
const VERSIONS: &[&str] = &["version", "versions", "ver", "release", "firmware", "build"];
/// The longest way to write an address: eight groups of four, or six and four octets.
const MAX_V6: usize = 45;

pub(super) struct Addresses {
    v4: Regex,
}

impl Addresses {
    pub(super) fn new() -> Self {
        Self {
            v4: Regex::new(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}").expect("the expression is right"),
        }
    }

    pub(super) fn find(&self, text: &str, out: &mut Vec<Candidate>) {
        v6(text, out);
        for found in self.v4.find_iter(text) {
            let (start, end) = (found.start(), found.end());
            let octets = found.as_str().split('.');
            if octets
                .map(str::parse::<u16>)
                .all(|octet| octet.is_ok_and(|octet| octet < 256))
                && begins(text, start)
                && ends(text, end)
                && !continues(&text[..start], &text[end..])
                && !VERSIONS.contains(&&*context::word_before(text, start).to_ascii_lowercase())
            {
                out.push(Candidate::new(Kind::Ip, start, end));
            }
        }
    }
}

/// Whether more numbers hang on by dots.
fn continues(before: &str, after: &str) -> bool {
    let after = after.as_bytes();
    before.ends_with('.')
        || (after.first() == Some(&b'.') && after.get(1).is_some_and(u8::is_ascii_digit))
}

fn v6(text: &str, out: &mut Vec<Candidate>) {
    let bytes = text.as_bytes();
    let belongs = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| belongs(byte)).count();
        if (3..=MAX_V6 + 2).contains(&length) {
            let token = &text[at..at + length];
            // A sentence's end, or a clause's.
            let token = token.strip_suffix('.').unwrap_or(token);
            let token = match token.strip_suffix(':') {
                Some(shorter) if !shorter.ends_with(':') => shorter,
                _ => token,
            };
            let is_address = token.bytes().filter(|byte| *byte == b':').count() >= 2
                && token.bytes().any(|byte| byte.is_ascii_digit())
                && token.parse::<Ipv6Addr>().is_ok();
            if is_address && begins(text, at) && ends(text, at + token.len()) {
                let end = at + token.len();
                out.push(Candidate::new(Kind::Ip, at, end + zone(&bytes[end..])));
            }
        }
        at += length.max(1);
    }
}

/// The length of a zone behind an address (RFC 4007): `%eth0`.
fn zone(rest: &[u8]) -> usize {
    let belongs = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match rest.split_first() {
        Some((b'%', rest)) => match rest.iter().take(16).take_while(belongs).count() {
            0 => 0,
            length => length + 1,
        },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;

    #[test]
    fn addresses_of_both_versions_are_found() {
        for (text, expected) in [
            ("from 10.0.0.1.", "10.0.0.1"),
            ("|106.31.73.20|", "106.31.73.20"),
            ("192.168.0.1:8080", "192.168.0.1"),
            ("10.0.0.0/8", "10.0.0.0"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("at ::1,", "::1"),
            ("::ffff:10.1.2.3", "::ffff:10.1.2.3"),
            (
                "6e40:4041:c617:e898:c11:40d2:c669:2eb4 is",
                "6e40:4041:c617:e898:c11:40d2:c669:2eb4",
            ),
            ("１０.０.０.１", "１０.０.０.１"),
        ] {
            assert_eq!(found(text), [format!("ip:{expected}")], "{text}");
        }
    }

    #[test]
    fn versions_times_and_paths_are_no_addresses() {
        for text in [
            "256.1.1.1",
            "1.2.3.4.5",
            "v1.2.3.4",
            "version 1.2.3.4",
            "12:30:45",
            "a::b",
            "std::fmt",
            "::",
            "1.2.3",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
