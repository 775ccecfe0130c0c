//! What can be wrong with a line or a sealed field. Names fields, and never holds a value.

use crate::Error;

/// Why a line's fields were not sealed or opened. Nothing of the line may be used then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The line is not JSON.
    #[error("it is not JSON (column {column})")]
    NotJson {
        /// Where, from 1.
        column: usize,
    },
    /// The line is JSON, and has no fields.
    #[error("it is no JSON object")]
    NotAnObject,
    /// Where the way to a field should go on, something else stands: it may be what should be sealed.
    #[error(
        "{name} is neither an object nor an array nor null: the field that is named behind it cannot be there"
    )]
    NoWay {
        /// The name up to there.
        name: String,
    },
    /// `name[]` is no array.
    #[error("{name} is no array: name it without [] to take it as it is")]
    NoArray {
        /// The field's name.
        name: String,
    },
    /// The row's own field is missing, or no single text, number or truth value.
    #[error(
        "{name}, which tells the row, is not there exactly once as a text, a number or a truth value"
    )]
    NoRow {
        /// The field's name.
        name: String,
    },
    /// What stands there is no sealed field.
    #[error("{name} is not sealed")]
    NotSealed {
        /// The field's name.
        name: String,
    },
    /// It begins like one.
    #[error("{name} begins like a sealed field, and is none: it was cut or changed")]
    Malformed {
        /// The field's name.
        name: String,
    },
    /// Its header is none.
    #[error("{name} has no header of a sealed field: {source}")]
    Header {
        /// The field's name.
        name: String,
        /// Why.
        source: Error,
    },
    /// It was sealed with another context than is demanded.
    #[error("{name} was not sealed with {key} = {expected:?} in its encryption context")]
    Context {
        /// The field's name.
        name: String,
        /// The pair's key.
        key: String,
        /// The value that is demanded.
        expected: String,
    },
    /// It does not open.
    #[error("{name} was changed, or was sealed as another field{}", if *.row { " or in another row" } else { "" })]
    Tag {
        /// The field's name.
        name: String,
        /// Whether it is bound to its row.
        row: bool,
    },
    /// It opens only in its row, and no row is named.
    #[error("{name} is bound to its row: name the field that tells the row, as when it was sealed")]
    RowBound {
        /// The field's name.
        name: String,
    },
    /// It would open in any row.
    #[error("{name} is not bound to its row: it may come from another one")]
    NotRowBound {
        /// The field's name.
        name: String,
    },
    /// Values under more data keys than are kept at a time.
    #[error("the line holds fields under more than {limit} data keys")]
    TooManyKeys {
        /// The limit.
        limit: usize,
    },
    /// Each value needs a number of its own.
    #[error("4294967295 values are sealed under one key: seal the rest with another")]
    TooManyValues,
    /// What was sealed is no JSON value.
    #[error("what was sealed in {name} is no JSON value")]
    NotAValue {
        /// The field's name.
        name: String,
    },
    /// Keys and headers.
    #[error(transparent)]
    Message(#[from] Error),
}
