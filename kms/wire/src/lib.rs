//! What the enclave and the key service both speak: AWS KMS's operations as Rust shapes, AWS
//! Signature Version 4, the recipient envelope, and a client.
//!
//! Both sides of the trust boundary link this crate, so it holds no policy and makes no decision
//! about who may do what. It must never print a secret, and never take a clock, a region or an
//! anchor from anywhere but its arguments (the client alone reads the system's clock, to sign).

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

pub mod client;
pub mod recipient;
pub mod shapes;
pub mod sigv4;

/// Its requests are what [`sigv4`] signs and verifies.
pub use http;
