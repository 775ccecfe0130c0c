//! Texts of a policy that stand for other texts: `*` and `?`, and policy variables
//! such as `${aws:username}`.
//!
//! A variable's value is compared literally: a `*` that comes from the request is an
//! ordinary character and never a wildcard.

use super::context::Context;
use thiserror::Error;

/// Which signs have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syntax {
    /// `*` stands for any run of characters, `?` for one.
    pub(super) wildcards: bool,
    /// `${name}` and `${name, 'default'}` (policy version 2012-10-17 only).
    pub(super) variables: bool,
}

/// Whether letters that differ in case only are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    /// They differ.
    Kept,
    /// They are equal.
    Ignored,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// `${` without `}`.
    #[error("a policy variable is not closed")]
    Unclosed,
    /// What stands between `${` and `}` is neither a key, nor a key with a default, nor one
    /// of the signs `*`, `?` and `$`.
    #[error("{0:?} is not a policy variable")]
    Variable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    AnyRun,
    AnyOne,
    Variable {
        key: String,
        default: Option<String>,
    },
}

/// A text with signs, taken apart once when the policy is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
}

impl Pattern {
    pub(super) fn parse(source: &str, syntax: Syntax) -> Result<Self, PatternError> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(sign) = rest.chars().next() {
            if syntax.variables && rest.starts_with("${") {
                let (inside, after) = rest
                    .get(2..)
                    .and_then(|s| s.split_once('}'))
                    .ok_or(PatternError::Unclosed)?;
                if matches!(inside, "*" | "?" | "$") {
                    text.push_str(inside);
                } else {
                    flush(&mut text, &mut pieces);
                    pieces.push(variable(inside)?);
                }
                rest = after;
                continue;
            }
            match sign {
                '*' if syntax.wildcards => {
                    flush(&mut text, &mut pieces);
                    if pieces.last() != Some(&Piece::AnyRun) {
                        pieces.push(Piece::AnyRun);
                    }
                }
                '?' if syntax.wildcards => {
                    flush(&mut text, &mut pieces);
                    pieces.push(Piece::AnyOne);
                }
                other => text.push(other),
            }
            rest = &rest[sign.len_utf8()..];
        }
        flush(&mut text, &mut pieces);
        Ok(Self { pieces })
    }

    /// Whether the text is one that this pattern stands for. A variable that the request
    /// has no single value for, and no default, stands for nothing.
    pub(super) fn matches(&self, text: &str, context: &Context, case: Case) -> bool {
        match self.pieces.as_slice() {
            [] => text.is_empty(),
            [Piece::AnyRun] => true,
            [Piece::Text(own)] => same(own, text, case),
            _ => match self.resolved(context, case) {
                Some(signs) => {
                    let text: Vec<char> = match case {
                        Case::Kept => text.chars().collect(),
                        Case::Ignored => text.to_lowercase().chars().collect(),
                    };
                    matches(&signs, &text)
                }
                None => false,
            },
        }
    }

    /// The text, if it stands for itself alone.
    pub(super) fn literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it has a variable that the request has no value for, and that has no default.
    pub(super) fn lacks_a_value(&self, context: &Context) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Variable { key, default } => {
                default.is_none() && !matches!(context.values(key), Some([_]))
            }
            _ => false,
        })
    }

    fn resolved(&self, context: &Context, case: Case) -> Option<Vec<Sign>> {
        let mut signs = Vec::new();
        for piece in &self.pieces {
            let text = match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Variable { key, default } => match context.values(key) {
                    Some([value]) => value.as_str(),
                    _ => default.as_deref()?,
                },
                Piece::AnyRun => {
                    signs.push(Sign::AnyRun);
                    continue;
                }
                Piece::AnyOne => {
                    signs.push(Sign::AnyOne);
                    continue;
                }
            };
            match case {
                Case::Kept => signs.extend(text.chars().map(Sign::Char)),
                Case::Ignored => signs.extend(text.to_lowercase().chars().map(Sign::Char)),
            }
        }
        Some(signs)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Char(char),
    AnyRun,
    AnyOne,
}

fn flush(text: &mut String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(std::mem::take(text)));
    }
}

fn variable(inside: &str) -> Result<Piece, PatternError> {
    let wrong = || PatternError::Variable(inside.to_owned());
    let (key, default) = match inside.split_once(',') {
        None => (inside.trim(), None),
        Some((key, default)) => {
            let default = default.trim();
            let inner = default
                .strip_prefix('\'')
                .and_then(|d| d.strip_suffix('\''))
                .ok_or_else(wrong)?;
            (key.trim(), Some(inner.to_owned()))
        }
    };
    // A key is `prefix:name`; the name of a tag may hold nearly anything.
    let (prefix, name) = key.split_once(':').ok_or_else(wrong)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/=+@".contains(c);
    if prefix.is_empty() || name.is_empty() || !key.chars().all(plain) {
        return Err(wrong());
    }
    Ok(Piece::Variable {
        key: key.to_owned(),
        default,
    })
}

fn same(a: &str, b: &str, case: Case) -> bool {
    match case {
        Case::Kept => a == b,
        Case::Ignored => a == b || a.to_lowercase() == b.to_lowercase(),
    }
}

/// Greedy match with one point to return to: at most `signs × text` steps.
fn matches(signs: &[Sign], text: &[char]) -> bool {
    let (mut s, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match signs.get(s) {
            Some(Sign::AnyRun) => {
                back = Some((s, t));
                s += 1;
            }
            Some(Sign::AnyOne) => {
                s += 1;
                t += 1;
            }
            Some(Sign::Char(c)) if *c == text[t] => {
                s += 1;
                t += 1;
            }
            _ => match back {
                // Let the last run take one character more.
                Some((run, taken)) => {
                    s = run + 1;
                    t = taken + 1;
                    back = Some((run, t));
                }
                None => return false,
            },
        }
    }
    signs[s..].iter().all(|sign| *sign == Sign::AnyRun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Syntax = Syntax {
        wildcards: true,
        variables: true,
    };

    fn hits(pattern: &str, text: &str) -> bool {
        let mut context = Context::new();
        context.put("aws:username", "al*ce");
        Pattern::parse(pattern, ALL)
            .unwrap()
            .matches(text, &context, Case::Kept)
    }

    #[test]
    fn wildcards_stand_for_any_run_and_any_one() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "abc"),
            ("a*c", "abc"),
            ("a*c", "ac"),
            ("a*b*c", "aXbYbZc"),
            ("a?c", "a\u{e9}c"),
            ("**", "x"),
            ("", ""),
            ("*ab", "aab"),
        ] {
            assert!(hits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a*c", "abd"),
            ("a?c", "ac"),
            ("?", ""),
            ("", "a"),
            ("a", "A"),
        ] {
            assert!(!hits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_variable_is_compared_literally() {
        assert!(hits("user/${aws:username}", "user/al*ce"));
        assert!(!hits("user/${aws:username}", "user/alice"));
        assert!(!hits("user/${aws:userid}", "user/"));
        assert!(hits("user/${aws:userid, 'nobody'}", "user/nobody"));
        assert!(hits("a${*}b", "a*b"));
        assert!(!hits("a${*}b", "axb"));
        assert!(hits("${$}", "$"));
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in [
            "${",
            "${}",
            "${aws}",
            "${aws:x, y}",
            "${a b:c}",
            "x${aws:username",
        ] {
            assert!(Pattern::parse(text, ALL).is_err(), "{text}");
        }
        let old = Syntax {
            wildcards: true,
            variables: false,
        };
        assert!(Pattern::parse("${aws:username", old).is_ok());
    }

    /// The definition, written the slow way.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', p)), None) => slow(p, text),
            (Some(('*', p)), Some((_, t))) => slow(p, text) || slow(pattern, t),
            (Some(('?', p)), Some((_, t))) => slow(p, t),
            (Some((c, p)), Some((d, t))) => c == d && slow(p, t),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let p: Vec<char> = pattern.chars().collect();
            let t: Vec<char> = text.chars().collect();
            prop_assert_eq!(hits(&pattern, &text), slow(&p, &t));
        }
    }
}
