//! Which messages a key signs: by their length, by patterns, by the fields of a JSON object, or by a list of digests.
//!
//! What is not permitted is refused; a message must keep all the rules that there are. Patterns take time linear in the
//! message, whatever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Bytes of the longest message that is taken at all.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Bytes that one pattern may take when it is made ready.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;
const MOST_PATTERNS: usize = 64;

/// The rules, as the manifest has them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Bytes of a message.
    max_bytes: Option<usize>,
    /// Regular expressions: a message is text, and one of them fits all of it.
    #[serde(default)]
    patterns: Vec<String>,
    /// A message is a JSON object with these fields and no others.
    #[serde(default)]
    json: BTreeMap<String, Field>,
    /// SHA-256 of the messages that are signed, or, for a key that signs digests, the digests themselves; in hex.
    #[serde(default)]
    digests: BTreeSet<String>,
}

impl Written {
    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self.max_bytes.is_none()
            && self.patterns.is_empty()
            && self.json.is_empty()
            && self.digests.is_empty()
    }
}

/// What a field of a JSON object may be: a text, or a whole number.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    /// A regular expression that fits all of the text.
    pattern: Option<String>,
    /// The texts that it may be.
    #[serde(default)]
    one_of: BTreeSet<String>,
    /// The least that the number may be.
    min: Option<i64>,
    /// The most.
    max: Option<i64>,
    /// It may be left out.
    #[serde(default)]
    optional: bool,
}

/// The rules of a key are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A pattern is none.
    #[error("the pattern {0:?} is no regular expression, or too large a one")]
    Pattern(String),
    /// A field is neither text nor number.
    #[error("the field {0:?} needs a pattern or one_of, for a text, or min or max, for a number")]
    Field(String),
    /// Too many.
    #[error("there are more than {MOST_PATTERNS} patterns")]
    Many,
    /// It is no digest.
    #[error("the digest {0:?} is no hex of the right length")]
    Digest(String),
    /// More than is ever taken.
    #[error("max_bytes is more than {MAX_MESSAGE_BYTES}")]
    TooLarge,
    /// A digest cannot be looked into.
    #[error(
        "patterns, json and max_bytes are for keys that see messages: a digest cannot be looked into"
    )]
    Blind,
}

/// Why a message is not signed. Nothing of it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// It is too long.
    #[error("the message has more than the {0} bytes that the manifest permits")]
    Length(usize),
    /// It fits no pattern.
    #[error("the message fits none of the manifest's patterns")]
    Pattern,
    /// It is no such object.
    #[error("the message is not a JSON object with the fields that the manifest permits")]
    Json,
    /// A field is something else.
    #[error("the message's field {0:?} is not what the manifest permits")]
    Field(String),
    /// It is not on the list.
    #[error("it is not among the digests that the manifest permits")]
    Digest,
}

enum Kind {
    Text {
        pattern: Option<Regex>,
        one_of: BTreeSet<String>,
    },
    Number {
        min: i64,
        max: i64,
    },
}

/// The rules, ready.
pub struct Rules {
    max_bytes: usize,
    patterns: Vec<Regex>,
    json: BTreeMap<String, (Kind, bool)>,
    digests: BTreeSet<Vec<u8>>,
}

fn whole(pattern: &str) -> Result<Regex, RulesError> {
    RegexBuilder::new(&format!("\\A(?:{pattern})\\z"))
        .size_limit(MAX_PATTERN_BYTES)
        .build()
        // By itself too: `a)|(b` is none, and would be let in by what stands around it.
        .and_then(|regex| Regex::new(pattern).map(|_| regex))
        .map_err(|_| RulesError::Pattern(pattern.to_owned()))
}

impl Rules {
    /// Makes them ready. `digest_bytes`: for a key that sees digests alone, how long they are.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn new(written: Written, digest_bytes: Option<usize>) -> Result<Rules, RulesError> {
        let looks =
            written.max_bytes.is_some() || !written.patterns.is_empty() || !written.json.is_empty();
        if digest_bytes.is_some() && looks {
            return Err(RulesError::Blind);
        }
        if written.patterns.len() + written.json.len() > MOST_PATTERNS {
            return Err(RulesError::Many);
        }
        let max_bytes = written.max_bytes.unwrap_or(MAX_MESSAGE_BYTES);
        if max_bytes > MAX_MESSAGE_BYTES {
            return Err(RulesError::TooLarge);
        }
        let bytes = digest_bytes.unwrap_or(32);
        let digests = written.digests.into_iter().map(|text| {
            let digest = hex::decode(&text)
                .ok()
                .filter(|digest| digest.len() == bytes);
            digest.ok_or(RulesError::Digest(text))
        });
        let patterns = written.patterns.iter().map(|pattern| whole(pattern));
        let json = written.json.into_iter().map(|(name, field)| {
            let is_text = field.pattern.is_some() || !field.one_of.is_empty();
            let is_number = field.min.is_some() || field.max.is_some();
            if is_text == is_number {
                return Err(RulesError::Field(name));
            }
            let kind = if is_text {
                let pattern = field.pattern.as_deref().map(whole).transpose()?;
                Kind::Text {
                    pattern,
                    one_of: field.one_of,
                }
            } else {
                Kind::Number {
                    min: field.min.unwrap_or(0),
                    max: field.max.unwrap_or(i64::MAX),
                }
            };
            Ok((name, (kind, field.optional)))
        });
        Ok(Rules {
            max_bytes,
            digests: digests.collect::<Result<_, _>>()?,
            patterns: patterns.collect::<Result<_, _>>()?,
            json: json.collect::<Result<_, _>>()?,
        })
    }

    /// Whether a message may be signed.
    ///
    /// # Errors
    /// See [`NotPermitted`].
    pub fn permit_message(&self, message: &[u8]) -> Result<(), NotPermitted> {
        if message.len() > self.max_bytes {
            return Err(NotPermitted::Length(self.max_bytes));
        }
        if !self.digests.is_empty() && !self.digests.contains(Sha256::digest(message).as_slice()) {
            return Err(NotPermitted::Digest);
        }
        if !self.patterns.is_empty() {
            let text = std::str::from_utf8(message).map_err(|_| NotPermitted::Pattern)?;
            if !self.patterns.iter().any(|pattern| pattern.is_match(text)) {
                return Err(NotPermitted::Pattern);
            }
        }
        if !self.json.is_empty() {
            self.permit_json(message)?;
        }
        Ok(())
    }

    /// Whether a digest may be signed.
    ///
    /// # Errors
    /// [`NotPermitted::Digest`].
    pub fn permit_digest(&self, digest: &[u8]) -> Result<(), NotPermitted> {
        if self.digests.is_empty() || self.digests.contains(digest) {
            Ok(())
        } else {
            Err(NotPermitted::Digest)
        }
    }

    fn permit_json(&self, message: &[u8]) -> Result<(), NotPermitted> {
        let Fields(fields) = serde_json::from_slice(message).map_err(|_| NotPermitted::Json)?;
        if fields.keys().any(|name| !self.json.contains_key(name)) {
            return Err(NotPermitted::Json);
        }
        for (name, (kind, optional)) in &self.json {
            let permitted = match (fields.get(name), kind) {
                (None, _) => *optional,
                (Some(Value::String(text)), Kind::Text { pattern, one_of }) => {
                    (one_of.is_empty() || one_of.contains(text))
                        && pattern
                            .as_ref()
                            .is_none_or(|pattern| pattern.is_match(text))
                }
                (Some(Value::Number(number)), Kind::Number { min, max }) => number
                    .as_i64()
                    .is_some_and(|number| (*min..=*max).contains(&number)),
                _ => false,
            };
            if !permitted {
                return Err(NotPermitted::Field(name.clone()));
            }
        }
        Ok(())
    }
}

/// An object's fields. One that stands twice is refused: two readers may see two different objects.
struct Fields(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a field stands twice"));
                    }
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rules(written: Value) -> Result<Rules, RulesError> {
        Rules::new(serde_json::from_value(written).expect("rules"), None)
    }

    fn permits(rules: &Rules, message: &str) -> bool {
        rules.permit_message(message.as_bytes()).is_ok()
    }

    #[test]
    fn a_pattern_fits_all_of_a_message_or_does_not_count() {
        let rules = rules(json!({ "patterns": ["release v[0-9]+", "a|b"], "max_bytes": 20 }))
            .expect("rules");
        for good in ["release v1", "release v20", "a", "b"] {
            assert!(permits(&rules, good), "{good}");
        }
        for bad in [
            "",
            "release v",
            "x release v1",
            "release v1\n",
            "release v1\nrelease v2",
            "ab",
            "a\n",
        ] {
            assert!(!permits(&rules, bad), "{bad:?}");
        }
        assert!(rules.permit_message(b"release v1\xff").is_err());
        assert_eq!(
            rules.permit_message(b"release v123456789012"),
            Err(NotPermitted::Length(20))
        );
    }

    #[test]
    fn an_object_has_the_fields_that_are_permitted_and_no_others() {
        let rules = rules(json!({ "json": {
            "to": { "pattern": "GB[0-9A-Z]{4}" },
            "amount": { "min": 1, "max": 1000 },
            "currency": { "one_of": ["EUR", "USD"] },
            "note": { "pattern": "[a-z ]*", "optional": true },
        }}))
        .expect("rules");
        for good in [
            r#"{"to":"GB12AB","amount":1000,"currency":"EUR"}"#,
            r#" {"currency":"USD", "note":"a b", "amount":1, "to":"GB0000"} "#,
            r#"{"to":"G\u004212AB","amount":7,"currency":"EUR"}"#,
        ] {
            assert!(permits(&rules, good), "{good}");
        }
        for bad in [
            "{}",
            "[]",
            "7",
            r#"{"to":"GB12AB","amount":1001,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":0,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":1.0,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":1e2,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":"7","currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":18446744073709551615,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":7,"currency":"GBP"}"#,
            r#"{"to":"GB12ABx","amount":7,"currency":"EUR"}"#,
            r#"{"to":["GB12AB"],"amount":7,"currency":"EUR"}"#,
            r#"{"to":null,"amount":7,"currency":"EUR"}"#,
            r#"{"amount":7,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":7,"currency":"EUR","more":1}"#,
            r#"{"to":"GB12AB","amount":7,"amount":8,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":7,"\u0061mount":8,"currency":"EUR"}"#,
            r#"{"to":"GB12AB","amount":7,"currency":"EUR"}{}"#,
        ] {
            assert!(!permits(&rules, bad), "{bad}");
        }
        let named = rules.permit_message(br#"{"to":"GB12AB","amount":9999,"currency":"EUR"}"#);
        assert_eq!(named, Err(NotPermitted::Field("amount".to_owned())));
    }

    #[test]
    fn digests_are_of_messages_or_are_what_is_signed() {
        let digest = hex::encode(Sha256::digest("yes"));
        let seen = rules(json!({ "digests": [digest] })).expect("rules");
        assert!(permits(&seen, "yes") && !permits(&seen, "no"));
        let written =
            serde_json::from_value(json!({ "digests": ["ab".repeat(48)] })).expect("rules");
        let blind = Rules::new(written, Some(48)).expect("rules");
        assert!(blind.permit_digest(&[0xab; 48]).is_ok());
        assert_eq!(blind.permit_digest(&[0xac; 48]), Err(NotPermitted::Digest));
    }

    #[test]
    fn rules_that_say_nothing_clear_are_refused() {
        for (written, expected) in [
            (
                json!({ "patterns": ["("] }),
                RulesError::Pattern("(".to_owned()),
            ),
            (
                json!({ "patterns": ["a)|(b"] }),
                RulesError::Pattern("a)|(b".to_owned()),
            ),
            (
                json!({ "patterns": ["(a{1000}){1000}"] }),
                RulesError::Pattern("(a{1000}){1000}".to_owned()),
            ),
            (
                json!({ "json": { "a": {} } }),
                RulesError::Field("a".to_owned()),
            ),
            (
                json!({ "json": { "a": { "max": 1, "pattern": "b" } } }),
                RulesError::Field("a".to_owned()),
            ),
            (
                json!({ "digests": ["ab"] }),
                RulesError::Digest("ab".to_owned()),
            ),
            (json!({ "max_bytes": 1_000_000 }), RulesError::TooLarge),
        ] {
            assert_eq!(rules(written).err(), Some(expected));
        }
        let written = serde_json::from_value(json!({ "patterns": ["a"] })).expect("rules");
        assert_eq!(Rules::new(written, Some(32)).err(), Some(RulesError::Blind));
        assert!(serde_json::from_value::<Written>(json!({ "pattern": ["a"] })).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message in prop::collection::vec(any::<u8>(), 0..300)) {
            let rules = rules(json!({ "patterns": [".*"], "json": { "a": { "max": 1 } } })).expect("rules");
            let _ = rules.permit_message(&message);
        }
    }
}
