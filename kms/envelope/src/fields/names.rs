//! Names of fields: `pan`, `card.pan`, `emails[]`. A dot leads into an object, and through arrays into each of their
//! objects; `[]` at the end means each element of an array instead of the array as one value. `\` before a dot, a bracket
//! or itself takes it as it is.
//!
//! Two names must never mean the same value, or one a part of another: it would be sealed twice, or not as it was named.

use std::collections::BTreeMap;

/// Most names at a time.
const MOST_NAMES: usize = 256;
/// Longest name, in bytes.
const LONGEST_NAME: usize = 1024;
/// Most steps of a name: parsing goes as deep.
const MOST_STEPS: usize = 32;

/// Why names are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is no name.
    #[error(
        "{0:?} is no name of a field: write pan, card.pan or emails[], and a backslash before dots and brackets in names"
    )]
    Malformed(String),
    /// Two names mean the same, or one a part of the other.
    #[error("{0:?} is named twice, or lies within another field that is named")]
    Overlap(String),
    /// There are none.
    #[error("no field is named")]
    None,
    /// There are too many, or they are too long.
    #[error("at most {MOST_NAMES} fields of {MOST_STEPS} steps and {LONGEST_NAME} bytes are named")]
    TooMany,
}

/// What a place in a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A field, by its number; each element of it where `elements`.
    Field { number: usize, elements: bool },
    /// What tells the row.
    Row,
}

/// A place in a line, and those within it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Its name, for people.
    pub(super) name: String,
    pub(super) within: BTreeMap<String, Place>,
    pub(super) end: Option<End>,
}

/// The fields that are to be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub(super) root: Place,
    /// Each field's name in its one spelling.
    pub(super) names: Vec<String>,
    /// The name of what tells the row.
    pub(super) row: Option<String>,
}

impl Fields {
    /// The fields of these names.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, NameError> {
        let mut fields = Self {
            root: Place::default(),
            names: Vec::new(),
            row: None,
        };
        for name in names {
            let (steps, elements) = parse(name.as_ref())?;
            let number = fields.names.len();
            if number == MOST_NAMES {
                return Err(NameError::TooMany);
            }
            let spelled = fields.add(name.as_ref(), &steps, End::Field { number, elements })?;
            fields.names.push(if elements {
                format!("{spelled}[]")
            } else {
                spelled
            });
        }
        if fields.names.is_empty() {
            return Err(NameError::None);
        }
        Ok(fields)
    }

    /// Bound to their row, which the field of this name tells: a text, a number or a truth value, there once in each line.
    ///
    /// # Errors
    /// It is no name, or is to be sealed itself.
    pub fn in_rows_of(mut self, name: &str) -> Result<Self, NameError> {
        match parse(name)? {
            (steps, false) if self.row.is_none() => {
                self.row = Some(self.add(name, &steps, End::Row)?);
                Ok(self)
            }
            _ => Err(NameError::Malformed(name.to_owned())),
        }
    }

    /// Each field's name in its one spelling, in the order in which they were named.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Adds a place; returns its name's one spelling.
    fn add(&mut self, name: &str, steps: &[String], end: End) -> Result<String, NameError> {
        let overlap = || NameError::Overlap(name.to_owned());
        let mut place = &mut self.root;
        for step in steps {
            let prefix = if place.name.is_empty() {
                spelled(step)
            } else {
                format!("{}.{}", place.name, spelled(step))
            };
            place = place.within.entry(step.clone()).or_insert_with(|| Place {
                name: prefix,
                ..Place::default()
            });
            if place.end.is_some() {
                return Err(overlap());
            }
        }
        if !place.within.is_empty() {
            return Err(overlap());
        }
        place.end = Some(end);
        Ok(place.name.clone())
    }
}

fn spelled(step: &str) -> String {
    let mut out = String::with_capacity(step.len());
    for character in step.chars() {
        if matches!(character, '\\' | '.' | '[' | ']') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// The steps of a name, and whether it means each element.
fn parse(name: &str) -> Result<(Vec<String>, bool), NameError> {
    let malformed = || NameError::Malformed(name.to_owned());
    if name.len() > LONGEST_NAME {
        return Err(NameError::TooMany);
    }
    let mut steps = Vec::new();
    let mut step = String::new();
    let mut elements = false;
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(taken @ ('\\' | '.' | '[' | ']')) => step.push(taken),
                _ => return Err(malformed()),
            },
            '.' if !step.is_empty() => steps.push(std::mem::take(&mut step)),
            '[' if !step.is_empty() && characters.as_str() == "]" => {
                elements = true;
                break;
            }
            '.' | '[' | ']' => return Err(malformed()),
            other => step.push(other),
        }
    }
    if step.is_empty() {
        return Err(malformed());
    }
    steps.push(step);
    if steps.len() > MOST_STEPS {
        return Err(NameError::TooMany);
    }
    Ok((steps, elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for (name, one) in [
            ("pan", "pan"),
            ("card.pan", "card.pan"),
            ("emails[]", "emails[]"),
            ("a\\.b.c\\[\\]", "a\\.b.c\\[\\]"),
            ("ü.\\\\", "ü.\\\\"),
        ] {
            assert_eq!(Fields::new([name]).expect("a name").names(), [one]);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "", ".", "a.", ".a", "a..b", "[]", "a[", "a]", "a[].b", "a[0]", "a\\", "a\\b", "a.[]",
        ] {
            assert_eq!(
                Fields::new([name]),
                Err(NameError::Malformed(name.to_owned())),
                "{name}"
            );
        }
        assert_eq!(Fields::new([""; 0]), Err(NameError::None));
        assert_eq!(Fields::new(["a".repeat(2000)]), Err(NameError::TooMany));
        assert_eq!(Fields::new([["a"; 40].join(".")]), Err(NameError::TooMany));
        assert_eq!(
            Fields::new((0..300).map(|number| number.to_string())),
            Err(NameError::TooMany)
        );
    }

    #[test]
    fn no_name_means_a_part_of_another() {
        for names in [
            ["a", "a"],
            ["a", "a.b"],
            ["a.b", "a"],
            ["a[]", "a"],
            ["a[]", "a.b"],
            ["a.b.c", "a.b"],
        ] {
            assert!(
                matches!(Fields::new(names), Err(NameError::Overlap(_))),
                "{names:?}"
            );
        }
        let fields = Fields::new(["a.b", "a.c"]).expect("beside each other");
        for (row, refused) in [
            ("a", true),
            ("a.b", true),
            ("a.b.c", true),
            ("id[]", true),
            ("a.d", false),
        ] {
            assert_eq!(fields.clone().in_rows_of(row).is_err(), refused, "{row}");
        }
    }
}
