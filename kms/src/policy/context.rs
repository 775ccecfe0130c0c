//! What is known about a request when a policy judges it: condition keys and values.
//!
//! A key that has no value here is missing, and missing keys never satisfy a positive
//! operator. Callers put in only what they have verified themselves.

use std::collections::BTreeMap;

/// Condition keys, whose names ignore case, with the request's values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<String, Vec<String>>);

impl Context {
    /// A context without any key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key of one value; an earlier value is replaced.
    pub fn put(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(key.to_lowercase(), vec![value.into()]);
    }

    /// Sets a key of several values. No values at all means that the key is missing.
    pub fn put_all(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        if values.is_empty() {
            self.0.remove(&key.to_lowercase());
        } else {
            self.0.insert(key.to_lowercase(), values);
        }
    }

    /// The values of a key; `None` where it is missing.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        let found = if key.chars().any(char::is_uppercase) {
            self.0.get(&key.to_lowercase())
        } else {
            self.0.get(key)
        };
        found.map(Vec::as_slice)
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
