//! The key owner's side: a key service that speaks AWS KMS's protocol, checks attestation and
//! fails closed.
//!
//! It holds keys, verifies each request's signature and each recipient's attestation document,
//! judges key policies, and writes down the reason for each refusal. It never answers in the
//! open where a Recipient was named, never skips a check because something could not be read,
//! and never links the NSM simulator: whose roots count is configuration.
//!
//! - [`policy`]: the policy engine, pure.
//! - [`request`]: requests, from bytes to shapes.
//! - [`Config`] and [`Service`]: the service itself. See [`config`] for the configuration file.

#![forbid(unsafe_code)]

pub mod audit;
mod backup;
mod cache;
mod ciphertext;
mod circumstances;
mod clock;
pub mod config;
mod control;
mod database;
mod identity;
mod json;
mod key_name;
mod key_stores;
mod limits;
mod material;
mod metrics;
mod monitor;
mod operations;
pub mod policy;
mod quota;
mod recipient;
mod refusal;
pub mod request;
mod root_key;
mod sealing;
mod server;
mod service;
pub mod simulation;
mod state;
mod store;
mod sts;
mod tls;
mod token;

pub use audit::{AuditError, AuditSettings, Durability};
pub use backup::{BackupError, restore};
pub use clock::{Clock, SystemClock};
pub use config::{Config, ConfigError};
pub use control::backup;
pub use identity::Identity;
pub use root_key::{RootKeyError, rewrap_store};
pub use sealing::NoRandomness;
pub use server::{Running, Service, StartError};
pub use state::StateError;
pub use store::StoreError;
pub use tls::TlsError;
pub use token::TokenError;
