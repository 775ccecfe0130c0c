//! Reading typed values out of parsed TOML while keeping, for every error, the key's whole path and its place.
//!
//! serde would do the typing, but it loses the path and gives its complaints as text only.

use std::fmt::Write as _;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check::{Reason, nearest};
use crate::error::{ManifestError, Position};

/// Levels of a table that is passed on as JSON.
const MOST_LEVELS: usize = 16;

/// The parsed text.
pub(crate) struct Document<'i> {
    text: &'i str,
    root: Spanned<DeTable<'i>>,
}

impl<'i> Document<'i> {
    pub(crate) fn parse(text: &'i str) -> Result<Document<'i>, ManifestError> {
        let root = DeTable::parse(text).map_err(|error| ManifestError::Syntax {
            at: position(text, error.span().map_or(text.len(), |span| span.start)),
            message: error.message().to_owned(),
        })?;
        Ok(Document { text, root })
    }

    pub(crate) fn root(&self) -> Table<'_> {
        Table {
            text: self.text,
            path: String::new(),
            start: 0,
            entries: Some(self.root.get_ref()),
        }
    }
}

/// A table of the document, with its path.
pub(crate) struct Table<'d> {
    text: &'d str,
    path: String,
    start: usize,
    /// None for a table that the document does not have.
    entries: Option<&'d DeTable<'d>>,
}

/// A string of the document, with its path and place.
pub(crate) struct Text<'d> {
    value: &'d str,
    key: String,
    at: Position,
}

impl<'d> Text<'d> {
    pub(crate) fn text(&self) -> &'d str {
        self.value
    }

    /// Applies a rule; what the rule returns is the value in its normal form.
    pub(crate) fn checked(
        &self,
        rule: impl Fn(&str) -> Result<String, Reason>,
    ) -> Result<String, ManifestError> {
        rule(self.value).map_err(|reason| ManifestError::Invalid {
            key: self.key.clone(),
            at: self.at,
            problem: reason.problem,
            remedy: reason.remedy,
        })
    }
}

impl Text<'_> {
    /// The meaning of a word.
    fn chosen<T: Copy>(self, words: &[(&'static str, T)]) -> Result<T, ManifestError> {
        match words.iter().find(|(word, _)| *word == self.value) {
            Some((_, meaning)) => Ok(*meaning),
            None => Err(ManifestError::UnknownChoice {
                key: self.key,
                at: self.at,
                value: self.value.to_owned(),
                choices: words.iter().map(|(word, _)| *word).collect(),
            }),
        }
    }
}

impl<'d> Table<'d> {
    /// A table that the document does not have, at its beginning.
    pub(crate) fn empty(path: &str) -> Table<'static> {
        Table {
            text: "",
            path: path.to_owned(),
            start: 0,
            entries: None,
        }
    }

    fn keys(&self) -> impl Iterator<Item = &'d Spanned<std::borrow::Cow<'d, str>>> {
        self.entries.into_iter().flat_map(|entries| entries.keys())
    }

    /// An error about a default that breaks a rule.
    pub(crate) fn default_refused(&self, key: &str, reason: &Reason) -> ManifestError {
        ManifestError::Default {
            key: self.join(key),
            problem: reason.problem,
            remedy: reason.remedy,
        }
    }

    /// Refuses every key that is not in `known`; of several unknown ones, the first in the text is reported.
    pub(crate) fn only(&self, known: &'static [&'static str]) -> Result<(), ManifestError> {
        let unknown = self
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        match unknown {
            None => Ok(()),
            Some(key) => Err(ManifestError::UnknownKey {
                key: self.path_of(key.get_ref()),
                at: self.position(&key.span()),
                suggestion: nearest(key.get_ref(), known).map(str::to_owned),
                known,
            }),
        }
    }

    /// The table's keys, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'d str> {
        self.keys().map(|key| key.get_ref().as_ref())
    }

    pub(crate) fn table(&self, key: &str) -> Result<Option<Table<'d>>, ManifestError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Table(entries) => Ok(Some(Table {
                text: self.text,
                path: self.path_of(key),
                start: value.span().start,
                entries: Some(entries),
            })),
            _ => Err(self.wrong_type(key, value, "a table")),
        }
    }

    pub(crate) fn required_table(
        &self,
        key: &str,
        remedy: &'static str,
    ) -> Result<Table<'d>, ManifestError> {
        self.table(key)?.ok_or_else(|| self.missing(key, remedy))
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<Text<'d>>, ManifestError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::String(text) => Ok(Some(Text {
                value: text,
                key: self.path_of(key),
                at: self.position(&value.span()),
            })),
            _ => Err(self.wrong_type(key, value, "a string in quotes")),
        }
    }

    pub(crate) fn required_string(
        &self,
        key: &str,
        remedy: &'static str,
    ) -> Result<Text<'d>, ManifestError> {
        self.string(key)?.ok_or_else(|| self.missing(key, remedy))
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<Text<'d>>>, ManifestError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "a list of strings, such as [\"a\", \"b\"]"));
        };
        let mut texts = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let entry_key = format!("{key}[{index}]");
            match entry.get_ref() {
                DeValue::String(text) => texts.push(Text {
                    value: text,
                    key: self.join(&entry_key),
                    at: self.position(&entry.span()),
                }),
                other => {
                    return Err(ManifestError::WrongType {
                        key: self.join(&entry_key),
                        at: self.position(&entry.span()),
                        expected: "a string in quotes",
                        found: other.type_str(),
                    });
                }
            }
        }
        Ok(Some(texts))
    }

    pub(crate) fn required_strings(
        &self,
        key: &str,
        remedy: &'static str,
    ) -> Result<Vec<Text<'d>>, ManifestError> {
        self.strings(key)?.ok_or_else(|| self.missing(key, remedy))
    }

    /// A whole number from `min` to `max`, both included.
    pub(crate) fn integer<N: TryFrom<u64>>(
        &self,
        key: &str,
        min: u64,
        max: u64,
    ) -> Result<Option<N>, ManifestError> {
        self.value(key)
            .map(|value| self.number(&self.path_of(key), value, min, max))
            .transpose()
    }

    /// Whole numbers from `min` to `max`, both included.
    pub(crate) fn integers<N: TryFrom<u64>>(
        &self,
        key: &str,
        min: u64,
        max: u64,
    ) -> Result<Option<Vec<N>>, ManifestError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(self.wrong_type(key, value, "a list of whole numbers, such as [16, 17]"));
        };
        let number = |(index, entry)| {
            let path = self.join(&format!("{key}[{index}]"));
            self.number(&path, entry, min, max)
        };
        entries
            .iter()
            .enumerate()
            .map(number)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn number<N: TryFrom<u64>>(
        &self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        min: u64,
        max: u64,
    ) -> Result<N, ManifestError> {
        let at = self.position(&value.span());
        let DeValue::Integer(digits) = value.get_ref() else {
            return Err(ManifestError::WrongType {
                key: path.to_owned(),
                at,
                expected: "a whole number",
                found: value.get_ref().type_str(),
            });
        };
        u64::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .filter(|number| (min..=max).contains(number))
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| ManifestError::OutOfRange {
                key: path.to_owned(),
                at,
                value: digits.to_string(),
                min,
                max,
            })
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &str,
        words: &[(&'static str, T)],
    ) -> Result<Option<T>, ManifestError> {
        self.string(key)?.map(|text| text.chosen(words)).transpose()
    }

    /// Some of a few words.
    pub(crate) fn choices<T: Copy>(
        &self,
        key: &str,
        words: &[(&'static str, T)],
    ) -> Result<Option<Vec<T>>, ManifestError> {
        let Some(texts) = self.strings(key)? else {
            return Ok(None);
        };
        let chosen = texts.into_iter().map(|text| text.chosen(words));
        chosen.collect::<Result<_, _>>().map(Some)
    }

    /// A table as JSON, whatever its keys are.
    pub(crate) fn json(&self, key: &str) -> Result<Option<serde_json::Value>, ManifestError> {
        self.table(key)?.map(|table| table.as_json(1)).transpose()
    }

    fn as_json(&self, depth: usize) -> Result<serde_json::Value, ManifestError> {
        let mut object = serde_json::Map::new();
        for (name, value) in self.entries.into_iter().flatten() {
            let name = name.get_ref();
            let value = self.value_as_json(name, value, depth)?;
            object.insert(name.to_string(), value);
        }
        Ok(object.into())
    }

    fn value_as_json(
        &self,
        key: &str,
        value: &'d Spanned<DeValue<'d>>,
        depth: usize,
    ) -> Result<serde_json::Value, ManifestError> {
        let refuse = |problem, remedy| {
            Err(ManifestError::Invalid {
                key: self.path_of(key),
                at: self.position(&value.span()),
                problem,
                remedy,
            })
        };
        if depth > MOST_LEVELS {
            return refuse("lies too deep", "write it with 16 levels at most");
        }
        Ok(match value.get_ref() {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Boolean(truth) => (*truth).into(),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => number.into(),
                    Err(_) => {
                        return refuse(
                            "is no number that fits 64 bits",
                            "write it as a string, in quotes",
                        );
                    }
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => number.into(),
                _ => return refuse("is no number in JSON", "write a finite number"),
            },
            DeValue::Datetime(_) => {
                return refuse("is a date, which JSON does not have", "put it in quotes");
            }
            DeValue::Array(entries) => {
                let mut list = Vec::with_capacity(entries.len());
                for entry in &**entries {
                    list.push(self.value_as_json(key, entry, depth + 1)?);
                }
                list.into()
            }
            DeValue::Table(entries) => Table {
                text: self.text,
                path: self.path_of(key),
                start: value.span().start,
                entries: Some(entries),
            }
            .as_json(depth + 1)?,
        })
    }

    /// An error about a key of this table, at the key itself.
    pub(crate) fn invalid(
        &self,
        key: &str,
        problem: &'static str,
        remedy: &'static str,
    ) -> ManifestError {
        let start = self
            .keys()
            .find(|found| found.get_ref() == key)
            .map_or(self.start, |found| found.span().start);
        ManifestError::Invalid {
            key: self.path_of(key),
            at: position(self.text, start),
            problem,
            remedy,
        }
    }

    fn missing(&self, key: &str, remedy: &'static str) -> ManifestError {
        ManifestError::MissingKey {
            key: self.path_of(key),
            at: position(self.text, self.start),
            remedy,
        }
    }

    fn wrong_type(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: &'static str,
    ) -> ManifestError {
        ManifestError::WrongType {
            key: self.path_of(key),
            at: self.position(&value.span()),
            expected,
            found: value.get_ref().type_str(),
        }
    }

    fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.entries?.get(key)
    }

    /// The path of a key, quoted as TOML would need it.
    fn path_of(&self, key: &str) -> String {
        let bare = !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if bare {
            self.join(key)
        } else {
            self.join(&format!("\"{}\"", key.escape_default()))
        }
    }

    fn join(&self, key: &str) -> String {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        let _ = write!(path, "{key}");
        path
    }

    fn position(&self, span: &Range<usize>) -> Position {
        position(self.text, span.start)
    }
}

fn position(text: &str, offset: usize) -> Position {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let in_line = before.get(line_start..).unwrap_or_default();
    Position {
        line: before.split(|byte| *byte == b'\n').count(),
        column: String::from_utf8_lossy(in_line).chars().count() + 1,
    }
}
