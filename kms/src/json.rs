//! JSON read strictly: an object that names a member twice is refused.
//!
//! Two readers of the same bytes could otherwise disagree about which of the two
//! members counts. Nothing here keeps the values of a request: plaintext passes
//! through without being copied.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Reads a whole JSON text into a value.
///
/// # Errors
/// Syntax errors, a member named twice, and anything after the value.
pub(crate) fn value(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// What a member of the outermost object holds, as far as a shape's check needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// `null`, which AWS reads as absent.
    Null,
    /// Anything else.
    Present,
}

/// The names of the members of the outermost object, after a check that no object at
/// any depth names a member twice.
///
/// # Errors
/// As [`value`]; and a text that is not an object.
pub(crate) fn members(bytes: &[u8]) -> Result<BTreeMap<String, Member>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let members = reader.deserialize_map(Outermost)?;
    reader.end()?;
    Ok(members)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = serde_json::Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = serde_json::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(serde_json::Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(items.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(twice(&name));
            }
            let value = map.next_value_seed(Strict)?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

/// Walks a value and keeps nothing of it but whether it was `null`.
struct Walk;

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = Member;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Member, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Present)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Member, E> {
        Ok(Member::Present)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Member, E> {
        Ok(Member::Present)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Member, E> {
        Ok(Member::Present)
    }
    fn visit_str<E>(self, _: &str) -> Result<Member, E> {
        Ok(Member::Present)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Member, A::Error> {
        while seq.next_element_seed(Walk)?.is_some() {}
        Ok(Member::Present)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Walk)?;
            if let Some(name) = names.replace(name) {
                return Err(twice(&name));
            }
        }
        Ok(Member::Present)
    }
}

struct Outermost;

impl<'de> Visitor<'de> for Outermost {
    type Value = BTreeMap<String, Member>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(twice(&name));
            }
            let member = map.next_value_seed(Walk)?;
            members.insert(name, member);
        }
        Ok(members)
    }
}

fn twice<E: de::Error>(name: &str) -> E {
    // The name comes from the caller: it is bounded before it can reach a log.
    let shown: String = name.chars().take(64).collect();
    E::custom(format_args!("the member {shown:?} is named twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_named_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
        ] {
            assert!(value(text).is_err(), "{text}");
            assert!(members(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_nulls_are_told() {
        let found = members(br#"{"KeyId":"a","Recipient":null}"#).unwrap();
        assert_eq!(found["KeyId"], Member::Present);
        assert_eq!(found["Recipient"], Member::Null);
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in ["", "[]", "1", "{} {}", "{", r#"{"a":1}x"#] {
            assert!(members(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
