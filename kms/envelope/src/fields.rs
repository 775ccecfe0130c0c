//! Sealed fields: single values of JSON lines, each a text of its own that a database or a log can hold.
//!
//! All values that one [`FieldSealer`] makes are under one data key, and each of them carries what is needed to open it:
//! the header of a message of the AWS Encryption SDK's format, which names the encrypted data key and the encryption
//! context, commits to the key and is authenticated under it; and behind that the value. A value copied alone out of a row
//! still opens. It opens only as what it was sealed as: the same field's name, the same context, the same data key and,
//! where a row's field was named, the same row.
//!
//! What is beside the sealed values stays byte for byte as it was. Nothing here does I/O, asks for a data key, or prints a
//! value; a line in which a named field cannot be found for sure is refused rather than passed on.
//!
//! The text is `sealed.v1.HEADER.VALUE`, both in base64url without padding. `HEADER` is the message's header with its tag
//! (suite `0x0478`, frame length 1). `VALUE` is a byte of flags (1: bound to its row), a number from 1 on as u32, the
//! ciphertext of the value's JSON, and a tag of 16 bytes: AES-256-GCM under the message's key, the number as the IV, and as
//! authenticated data `anchorhold field 1`, the message's id, the flags, and name and row with their lengths as u32.

mod error;
mod find;
mod lines;
mod names;
mod opener;
mod sealer;
mod text;

pub use error::FieldError;
pub use lines::{Counts, LinesError, open_lines, seal_lines};
pub use names::{Fields, NameError};
pub use opener::{FieldOpener, Opened};
pub use sealer::FieldSealer;
pub use text::is_sealed;

use crate::EncryptionContext;

/// The encryption context's key that says what is sealed.
pub const KIND: &str = "anchorhold:kind";
/// Its value for fields.
pub const FIELD: &str = "field";

/// The context that the key service is told, and that is in the header: the caller's own, marked as that of fields, so
/// that no key of theirs opens anything else, and a key policy can tell them apart.
#[must_use]
pub fn field_context(mut own: EncryptionContext) -> EncryptionContext {
    own.insert(KIND.to_owned(), FIELD.to_owned());
    own
}
