//! Finds the named fields of a line. It must never miss one that a JSON reader would see: a key may be spelled with
//! escapes, stand twice, or lie in arrays.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::FieldError;
use super::names::{End, Fields, Place};

/// A value of a line: of which field, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    /// The field's number.
    pub(super) field: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a line holds of the named fields, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) values: Vec<Value>,
    /// What tells the row, in one spelling for each value.
    pub(super) row: Option<Vec<u8>>,
}

/// Finds the fields of a line.
pub(super) fn find(line: &str, fields: &Fields, found: &mut Found) -> Result<(), FieldError> {
    found.values.clear();
    found.row = None;
    if !line.trim_ascii_start().starts_with('{') {
        // Whether it is JSON at all decides what is said.
        return Err(match serde_json::from_str::<IgnoredAny>(line) {
            Ok(_) => FieldError::NotAnObject,
            Err(error) => not_json(&error),
        });
    }
    let mut walk = Walk {
        line,
        found,
        rows: 0,
        refused: None,
    };
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let outcome = Step {
        place: &fields.root,
        walk: &mut walk,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    if let Some(refused) = walk.refused {
        return Err(refused);
    }
    outcome.map_err(|error| not_json(&error))?;
    match &fields.row {
        Some(name) if walk.rows != 1 || walk.found.row.is_none() => {
            Err(FieldError::NoRow { name: name.clone() })
        }
        _ => Ok(()),
    }
}

fn not_json(error: &serde_json::Error) -> FieldError {
    FieldError::NotJson {
        column: error.column(),
    }
}

struct Walk<'w> {
    line: &'w str,
    found: &'w mut Found,
    /// How often something stood where the row is told.
    rows: usize,
    /// Why it ended, where that is not the JSON's fault.
    refused: Option<FieldError>,
}

impl Walk<'_> {
    fn take(&mut self, field: usize, raw: &RawValue) {
        // A value that is borrowed from the line lies within it.
        let start = raw.get().as_ptr() as usize - self.line.as_ptr() as usize;
        self.found.values.push(Value {
            field,
            start,
            end: start + raw.get().len(),
        });
    }

    fn take_row(&mut self, raw: &RawValue) {
        self.rows += 1;
        self.found.row = row(raw.get());
    }
}

/// The one spelling of a row's value: a text's characters, or a number's or truth value's as they stand.
fn row(raw: &str) -> Option<Vec<u8>> {
    let (kind, text) = match raw.as_bytes().first()? {
        b'"' => (b't', serde_json::from_str::<String>(raw).ok()?),
        b'{' | b'[' | b'n' => return None,
        _ => (b'n', raw.to_owned()),
    };
    let mut row = vec![kind];
    row.extend_from_slice(text.as_bytes());
    Some(row)
}

/// What is to be done with the value at a place.
struct Step<'p, 'w> {
    place: &'p Place,
    walk: &'p mut Walk<'w>,
}

impl<'de> DeserializeSeed<'de> for Step<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.place.end {
            Some(End::Row) => {
                let raw = <&RawValue as de::Deserialize>::deserialize(deserializer)?;
                self.walk.take_row(raw);
                Ok(())
            }
            Some(End::Field {
                number,
                elements: false,
            }) => {
                let raw = <&RawValue as de::Deserialize>::deserialize(deserializer)?;
                self.walk.take(number, raw);
                Ok(())
            }
            Some(End::Field { .. }) | None => deserializer.deserialize_any(self),
        }
    }
}

impl Step<'_, '_> {
    /// Something else stands there.
    fn refuse<E: de::Error>(self) -> Result<(), E> {
        let name = self.place.name.clone();
        self.walk.refused = Some(match self.place.end {
            Some(_) => FieldError::NoArray { name },
            None => FieldError::NoWay { name },
        });
        Err(E::custom("refused"))
    }
}

impl<'de> Visitor<'de> for Step<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.place.end.is_some() {
            return self.refuse();
        }
        while let Some(within) = map.next_key_seed(Key(self.place))? {
            match within {
                Some(place) => map.next_value_seed(Step {
                    place,
                    walk: self.walk,
                })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some(End::Field { number, .. }) = self.place.end {
            while let Some(raw) = seq.next_element::<&RawValue>()? {
                self.walk.take(number, raw);
            }
            return Ok(());
        }
        while let Some(()) = seq.next_element_seed(Step {
            place: self.place,
            walk: self.walk,
        })? {}
        Ok(())
    }

    /// Null: nothing is there.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.refuse()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.refuse()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.refuse()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.refuse()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.refuse()
    }
}

/// A key, as the place that it leads to.
struct Key<'p>(&'p Place);

impl<'de, 'p> DeserializeSeed<'de> for Key<'p> {
    type Value = Option<&'p Place>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Key<'p> {
    type Value = Option<&'p Place>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.within.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str, names: &[&str]) -> Result<Vec<(usize, String)>, FieldError> {
        let fields = Fields::new(names).expect("names");
        let mut found = Found::default();
        find(line, &fields, &mut found)?;
        let values = found.values.iter();
        Ok(values
            .map(|value| (value.field, line[value.start..value.end].to_owned()))
            .collect())
    }

    fn one(line: &str, name: &str) -> Vec<String> {
        let values = found(line, &[name]).expect("a line");
        values.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn fields_are_found_wherever_a_reader_would_see_them() {
        for (line, name, expected) in [
            (r#"{"pan":"4111"}"#, "pan", &["\"4111\""][..]),
            (r#" { "pan" :  42 } "#, "pan", &["42"]),
            (r#"{"p\u0061n":true}"#, "pan", &["true"]),
            (r#"{"pan":1,"x":{"pan":2},"pan":3}"#, "pan", &["1", "3"]),
            (r#"{"pan":null}"#, "pan", &["null"]),
            (r#"{"pan":{"a":[1, 2]}}"#, "pan", &[r#"{"a":[1, 2]}"#]),
            (r#"{"card":{"pan":1}}"#, "card.pan", &["1"]),
            (
                r#"{"card":[{"pan":1},[{"pan":2}],null]}"#,
                "card.pan",
                &["1", "2"],
            ),
            (r#"{"card":null}"#, "card.pan", &[]),
            (r#"{"other":1}"#, "card.pan", &[]),
            ("{}", "pan", &[]),
            (r#"{"a":[1,"b",null]}"#, "a[]", &["1", "\"b\"", "null"]),
            (r#"{"a":[]}"#, "a[]", &[]),
            (r#"{"a.b":1,"a":{"b":2}}"#, "a\\.b", &["1"]),
            (r#"{"é":"ü"}"#, "é", &["\"ü\""]),
        ] {
            assert_eq!(one(line, name), expected, "{line}");
        }
    }

    #[test]
    fn where_a_field_may_hide_the_line_is_refused() {
        let name = |name: &str| name.to_owned();
        for (line, field, error) in [
            (
                r#"{"card":"4111"}"#,
                "card.pan",
                FieldError::NoWay { name: name("card") },
            ),
            (
                r#"{"card":[4111]}"#,
                "card.pan",
                FieldError::NoWay { name: name("card") },
            ),
            (
                r#"{"card":{"pan":1.5}}"#,
                "card.pan.x",
                FieldError::NoWay {
                    name: name("card.pan"),
                },
            ),
            (
                r#"{"a":"x"}"#,
                "a[]",
                FieldError::NoArray { name: name("a") },
            ),
            (
                r#"{"a":{"x":1}}"#,
                "a[]",
                FieldError::NoArray { name: name("a") },
            ),
            (r#"[{"pan":1}]"#, "pan", FieldError::NotAnObject),
            ("4111", "pan", FieldError::NotAnObject),
            (
                r#"{"pan":1} {"pan":2}"#,
                "pan",
                FieldError::NotJson { column: 11 },
            ),
            (r#"{"pan":1"#, "pan", FieldError::NotJson { column: 8 }),
            (r#"{"pan":'1'}"#, "pan", FieldError::NotJson { column: 8 }),
        ] {
            assert_eq!(found(line, &[field]), Err(error), "{line}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(300), "]".repeat(300));
        assert!(matches!(
            found(&deep, &["a.b"]),
            Err(FieldError::NotJson { .. })
        ));
        assert_eq!(found(&deep, &["x"]), Ok(Vec::new()));
    }

    #[test]
    fn rows_are_told_by_one_value() {
        let fields = Fields::new(["pan"]).and_then(|fields| fields.in_rows_of("id"));
        let fields = fields.expect("names");
        let row = |line: &str| {
            let mut found = Found::default();
            find(line, &fields, &mut found).map(|()| found.row.expect("a row"))
        };
        assert_eq!(row(r#"{"id":"a"}"#), row(r#"{"pan":1,"id" : "\u0061"}"#));
        assert_ne!(row(r#"{"id":"1"}"#), row(r#"{"id":1}"#));
        for line in [
            "{}",
            r#"{"id":null}"#,
            r#"{"id":[1]}"#,
            r#"{"id":1,"id":1}"#,
        ] {
            assert!(matches!(row(line), Err(FieldError::NoRow { .. })), "{line}");
        }
    }
}
