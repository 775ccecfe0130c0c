//! What is known about a request when a policy judges it: condition keys and values.
//!
//! A key that has no value here is missing, and missing keys never satisfy a positive
//! operator. Callers put in only what they have verified themselves.

use std::collections::BTreeMap;

/// Condition keys, whose names ignore case, with the request's values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<String, Values>);

/// Nearly all keys have one value: it needs no list of its own, as there are some twenty in each request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Values {
    One(String),
    Many(Vec<String>),
}

impl Values {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

fn lower(key: &str) -> String {
    if key.is_ascii() {
        key.to_ascii_lowercase()
    } else {
        key.to_lowercase()
    }
}

impl Context {
    /// A context without any key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key of one value; an earlier value is replaced.
    pub fn put(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(lower(key), Values::One(value.into()));
    }

    /// Sets a key of several values. No values at all means that the key is missing.
    pub fn put_all(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let mut values: Vec<String> = values.into_iter().collect();
        let values = match values.len() {
            0 => {
                self.0.remove(&lower(key));
                return;
            }
            1 => Values::One(values.remove(0)),
            _ => Values::Many(values),
        };
        self.0.insert(lower(key), values);
    }

    /// The values of a key; `None` where it is missing.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        let found = if key.chars().any(char::is_uppercase) {
            self.0.get(&lower(key))
        } else {
            self.0.get(key)
        };
        found.map(Values::as_slice)
    }

    /// All keys that begin with `prefix` (in lower case), without it, with their values.
    pub(super) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [String])> {
        self.0
            .range(prefix.to_owned()..)
            .map_while(move |(key, values)| Some((key.strip_prefix(prefix)?, values.as_slice())))
    }
}
