//! The `custody` job: private keys that are made inside, or come in sealed, and never leave. They sign by the rules of the
//! measured manifest: who may ask, how often, what, and with whose approval.
//!
//! - [`key`]: keys and signatures of four kinds.
//! - [`settings`]: the rules, as the manifest has them.
//! - [`rules`]: which messages a key signs.
//! - [`approval`]: what an owner signs to approve of one request, and nothing else.
//! - [`custody`]: the decision.
//! - [`service`]: the same over HTTP.
//!
//! No private key may be in an answer but sealed by the runtime, for this image alone; none in an error or a log at all.

#![forbid(unsafe_code)]

pub mod approval;
pub mod custody;
pub mod key;
pub mod rules;
pub mod service;
pub mod settings;

pub use custody::{Custody, Refusal, SignRequest};
pub use key::{Algorithm, PrivateKey, Signature};
pub use settings::Settings;
