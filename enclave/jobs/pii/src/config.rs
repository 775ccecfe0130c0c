//! Which kinds of personal data are looked for, and what is done with each: words of the job's command line, which
//! stands in the measured manifest. Must never take a word that it does not know for a default.

use std::fmt;

pub use anchorhold_detect::Kind;

/// What is done with what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Not looked for.
    Keep,
    /// Letters and digits become stars; a card number keeps its last four digits.
    Mask,
    /// The kind's name in brackets stands in its place.
    Redact,
    /// A keyed hash (HMAC-SHA-256) stands in its place: equal values are equal, and there is no way back.
    Hash,
    /// A pseudonym stands in its place: equal values are equal, and `restore` leads back.
    Pseudonymize,
    /// A ciphertext stands in its place: equal values differ, and `restore` leads back.
    Encrypt,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 6] = [
        Self::Keep,
        Self::Mask,
        Self::Redact,
        Self::Hash,
        Self::Pseudonymize,
        Self::Encrypt,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Mask => "mask",
            Self::Redact => "redact",
            Self::Hash => "hash",
            Self::Pseudonymize => "pseudonymize",
            Self::Encrypt => "encrypt",
        }
    }

    /// Whether it needs the key.
    pub fn is_keyed(self) -> bool {
        matches!(self, Self::Hash | Self::Pseudonymize | Self::Encrypt)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// How lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A line that begins with `{` is JSON, or an error; one that begins with `[` or `"` is JSON where it can be;
    /// all others are text.
    Auto,
    /// Each line is a JSON value.
    Json,
    /// Each line is text.
    Text,
}

/// A word of the configuration that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not of the form `kind=action`.
    #[error("`{0}` is not of the form KIND=ACTION, `email=hash` for instance")]
    Form(String),
    /// No such kind.
    #[error("there is no kind `{0}`; there are {kinds}, and `all`", kinds = names(Kind::ALL.map(Kind::name)))]
    Kind(String),
    /// No such action.
    #[error("there is no action `{0}`; there are {actions}", actions = names(Action::ALL.map(Action::name)))]
    Action(String),
    /// The same kind twice.
    #[error("`{0}` has two actions; give it one")]
    Twice(String),
}

fn names<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}

/// What is done with each kind. Without a word about it a kind is masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// How lines are read.
    pub input: Input,
    actions: [Action; Kind::ALL.len()],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            input: Input::Auto,
            actions: [Action::Mask; Kind::ALL.len()],
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions = Kind::ALL.map(|kind| (kind.name(), self.action(kind).name()));
        f.debug_map().entries(actions).finish()
    }
}

impl Config {
    /// Reads words `kind=action`. `all=action` is for the kinds that no other word names, wherever it stands.
    ///
    /// # Errors
    /// [`ConfigError`], which names the word.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        let mut rest = None;
        let mut named = [None; Kind::ALL.len()];
        for word in words {
            let (kind, action) = word
                .split_once('=')
                .ok_or_else(|| ConfigError::Form(word.to_owned()))?;
            let place = match kind {
                "all" => &mut rest,
                _ => Kind::named(kind)
                    .map(|kind| &mut named[kind as usize])
                    .ok_or_else(|| ConfigError::Kind(kind.to_owned()))?,
            };
            let action =
                Action::named(action).ok_or_else(|| ConfigError::Action(action.to_owned()))?;
            if place.replace(action).is_some() {
                return Err(ConfigError::Twice(kind.to_owned()));
            }
        }
        Ok(Self {
            input: Input::Auto,
            actions: named.map(|action| action.or(rest).unwrap_or(Action::Mask)),
        })
    }

    /// What is done with a kind.
    pub fn action(&self, kind: Kind) -> Action {
        self.actions[kind as usize]
    }

    /// Whether a kind is looked for.
    pub fn looks_for(&self, kind: Kind) -> bool {
        self.action(kind) != Action::Keep
    }

    /// Whether an action needs the key.
    pub fn is_keyed(&self) -> bool {
        self.actions.iter().any(|action| action.is_keyed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_word_names_is_masked_and_all_is_for_the_rest_wherever_it_stands() {
        let config = Config::parse([]).unwrap();
        assert!(
            Kind::ALL
                .iter()
                .all(|kind| config.action(*kind) == Action::Mask)
        );
        assert!(!config.is_keyed());
        let config = Config::parse(["email=hash", "all=keep", "card=mask"]).unwrap();
        assert_eq!(config.action(Kind::Email), Action::Hash);
        assert_eq!(config.action(Kind::Card), Action::Mask);
        assert!(!config.looks_for(Kind::Date));
        assert!(config.is_keyed());
    }

    #[test]
    fn a_word_that_is_not_known_is_refused_by_name() {
        for (words, culprit) in [
            (vec!["email"], "`email`"),
            (vec!["mail=mask"], "`mail`"),
            (vec!["email=mask", "phone=maks"], "`maks`"),
            (vec!["email=mask", "email=hash"], "`email`"),
            (vec!["all=keep", "all=mask"], "`all`"),
        ] {
            let error = Config::parse(words).unwrap_err().to_string();
            assert!(error.contains(culprit), "{error}");
        }
    }
}
