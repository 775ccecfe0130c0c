//! Sealed messages: the AWS Encryption SDK's message format, version 2, with key commitment.
//!
//! The AWS Encryption SDK (Python, Java, C, JavaScript, .NET, Rust, Go) reads what this crate writes, and
//! this crate reads what it writes, for the two suites that commit to their key: `0x0478` and `0x0578`.
//! Older suites are refused by name.
//!
//! A message is a header (encryption context, encrypted data keys, frame length), frames of ciphertext, each
//! authenticated by itself and numbered, a final frame, and for `0x0578` a signature. So a flipped bit, a
//! missing, repeated or reordered frame, a frame of another message, a cut and an appended byte are errors.
//!
//! - [`Sealer`], [`Header`] and [`Opener`] do no I/O: bytes in, bytes out, from any source.
//! - [`seal`] and [`open`] do the same from a [`std::io::Read`] to a [`std::io::Write`].
//! - [`open_whole`] opens a small message in memory and gives nothing away before all of it is proven.
//! - [`fields`] seals single values of JSON lines, as texts that each carry such a header.
//!
//! This crate never asks for a data key: its caller takes the [`EncryptedDataKey`]s to the key service. It
//! must never release a byte of plaintext whose frame is not authenticated, nor print a key.
//!
//! Format: AWS Encryption SDK Developer Guide, "AWS Encryption SDK message format reference".

#![forbid(unsafe_code)]

mod error;
pub mod fields;
mod frame;
mod header;
mod keys;
mod opener;
mod sealer;
mod signature;
mod stream;
mod suite;

pub use error::Error;
pub use header::{EncryptedDataKey, EncryptionContext, Header, Limits, Parse};
pub use keys::{DataKey, new_message_id};
pub use opener::{Opener, open_whole};
pub use sealer::{DEFAULT_FRAME_LENGTH, SealOptions, Sealer};
pub use signature::{PUBLIC_KEY_ENTRY, RESERVED_PREFIX, SigningKey};
pub use stream::{OpenError, Opened, SealError, Sealed, open, seal};
pub use suite::Suite;
