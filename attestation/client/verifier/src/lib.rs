//! The verifier for programs in other languages: a question in JSON, an answer in JSON ([`ask`]). The packages for Node,
//! browsers and Python put it into the words of their language; what is judged, and how, is the same everywhere.
//!
//! | `do` | asks | answers |
//! | --- | --- | --- |
//! | `verify` | is this document true, and as expected? | `admitted`, or `refused` |
//! | `question` | what does a client of attested TLS ask with this nonce? | `question` |
//! | `answer` | is this the whole answer, and which document is in it? | `document`, `more`, or `refused` |
//! | `channel` | is this document of this channel, and as expected? | `admitted`, or `refused` |
//!
//! Bytes are in hexadecimal. Whoever asks what cannot be asked, a word misspelt among them, gets `error`: an expectation
//! that is not understood is never one that is met.
//!
//! Pure: no clock, no randomness, no I/O; time and nonce come with the question. Compiled for `wasm32-unknown-unknown` it
//! is the module of the package for Node and browsers ([its doors](crate)).

mod asked;
mod judge;
#[cfg(any(target_arch = "wasm32", test))]
mod sys;
mod terms;

pub use asked::{MAX_QUESTION_BYTES, ask};
pub use judge::facts;
pub use terms::{Terms, TermsError};
