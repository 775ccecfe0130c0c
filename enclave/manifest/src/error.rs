//! What can be wrong with a manifest. Each error says where and what to do; none repeats a value of the job's
//! environment.

use std::fmt;

use thiserror::Error;

/// A place in the manifest's text, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The text is not TOML.
    #[error("{at}: not valid TOML: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// What the parser says.
        message: String,
    },
    /// A key that no version of the manifest has.
    #[error("{at}: unknown key `{key}`: {}", known_keys(.suggestion.as_deref(), .known))]
    UnknownKey {
        /// The key with its table, such as `job.comand`.
        key: String,
        /// Where the key stands.
        at: Position,
        /// The known key that looks most like it.
        suggestion: Option<String>,
        /// All keys of that table.
        known: &'static [&'static str],
    },
    /// A key that every manifest needs.
    #[error("{at}: `{key}` is missing: {remedy}")]
    MissingKey {
        /// The key with its table.
        key: String,
        /// Where its table begins.
        at: Position,
        /// What to add.
        remedy: &'static str,
    },
    /// A value of another type.
    #[error("{at}: `{key}` is of type {found}: write {expected}")]
    WrongType {
        /// The key with its table.
        key: String,
        /// Where the value stands.
        at: Position,
        /// What the key takes.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// A number outside its bounds.
    #[error("{at}: `{key}` is {value}: choose a number from {min} to {max}")]
    OutOfRange {
        /// The key with its table.
        key: String,
        /// Where the value stands.
        at: Position,
        /// What was found.
        value: String,
        /// The smallest number allowed.
        min: u64,
        /// The largest number allowed.
        max: u64,
    },
    /// A word that is none of the choices.
    #[error("{at}: `{key}` is \"{}\": choose {}", .value.escape_default(), quoted(.choices))]
    UnknownChoice {
        /// The key with its table.
        key: String,
        /// Where the value stands.
        at: Position,
        /// What was found.
        value: String,
        /// The words allowed.
        choices: Vec<&'static str>,
    },
    /// A value that breaks its key's rule.
    #[error("{at}: `{key}` {problem}: {remedy}")]
    Invalid {
        /// The key with its table, and the index within a list.
        key: String,
        /// Where the value (or a name that breaks the rule) stands.
        at: Position,
        /// What is wrong.
        problem: &'static str,
        /// What to write instead.
        remedy: &'static str,
    },
    /// A default, from a container image's configuration, that breaks its key's rule.
    #[error(
        "`{key}`, which the manifest does not set and the container image's configuration does, {problem}: set it in the manifest: {remedy}"
    )]
    Default {
        /// The key with its table.
        key: String,
        /// What is wrong.
        problem: &'static str,
        /// What to write instead.
        remedy: &'static str,
    },
    /// More text than any manifest needs.
    #[error(
        "the manifest has {bytes} bytes: keep it under {} bytes",
        crate::MAX_MANIFEST_BYTES
    )]
    TooLarge {
        /// The length found.
        bytes: usize,
    },
}

impl ManifestError {
    /// The key that is wrong, with its table (`job.command`), where the error concerns one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { key, .. }
            | Self::MissingKey { key, .. }
            | Self::WrongType { key, .. }
            | Self::OutOfRange { key, .. }
            | Self::UnknownChoice { key, .. }
            | Self::Invalid { key, .. }
            | Self::Default { key, .. } => Some(key),
            Self::Syntax { .. } | Self::TooLarge { .. } => None,
        }
    }

    /// Where it is wrong.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Syntax { at, .. }
            | Self::UnknownKey { at, .. }
            | Self::MissingKey { at, .. }
            | Self::WrongType { at, .. }
            | Self::OutOfRange { at, .. }
            | Self::UnknownChoice { at, .. }
            | Self::Invalid { at, .. } => Some(*at),
            Self::Default { .. } | Self::TooLarge { .. } => None,
        }
    }
}

fn known_keys(suggestion: Option<&str>, known: &[&str]) -> String {
    match suggestion {
        Some(suggestion) => format!(
            "did you mean `{suggestion}`? (known here: {})",
            known.join(", ")
        ),
        None => format!("remove it, or use one of: {}", known.join(", ")),
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(" or ")
}
