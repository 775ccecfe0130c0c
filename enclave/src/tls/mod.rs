//! Attested TLS: TLS 1.3 that ends here, with a key that was made here, for jobs that speak HTTP.
//!
//! The parent carries the bytes and can cut them off; it can read and change none. A client knows that from a document
//! over its own nonce, the key of the handshake and the channel (crate `anchorhold-channel`), which it asks for inside
//! the channel. The runtime alone answers that question, and the job never sees it.
//!
//! Clients are strangers: what each may hold is bounded in number, size and time.

mod documents;
mod door;
mod first;
mod headers;
mod identity;

pub use documents::Documents;
pub use door::{Answer, Answers, Door, Limits};
pub use identity::{Identity, IdentityError};
