//! The `cards` job: card transactions in, tokens out, one JSON object a line each way.
//!
//! A record's card number (`pan`) is checked (characters, length for its issuer's range, check digit) and
//! replaced by a token of the same length that only this job's key turns back; card numbers hidden in any other
//! field are masked. A bad record gets a clear error of its own and never stops the rest.
//!
//! - [`card`]: which numbers are card numbers.
//! - [`token`]: what a token is, and why.
//! - [`mask`]: how card numbers in free text are found.
//! - [`Job`]: lines in, lines out.
//! - [`service`]: the same, and more, over HTTP.
//!
//! Nothing here may write a card number, or a part of one beyond its last four digits, to an error, a log or
//! the output; `detokenize` alone answers with card numbers, as that is what it is for.

#![forbid(unsafe_code)]

pub mod card;
mod job;
pub mod mask;
mod record;
pub mod service;
pub mod token;

pub use job::{Job, MAX_LINE_BYTES, Mode};
pub use token::{KeyError, Tokenizer};
