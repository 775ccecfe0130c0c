//! A simulated Nitro Security Module for backends without one: PCR banks that extend and lock, and
//! real `COSE_Sign1` documents under a development root.
//!
//! It belongs to the host's side and must never be linked into an enclave. Nothing here makes
//! anybody trust it: its documents are refused unless the verifier has named its root's fingerprint,
//! and everything in its certificates says "anchorhold development".
#![forbid(unsafe_code)]

mod cbor;
mod chain;
mod document;
mod nsm;
mod root;

/// What a simulated NSM is made of, apart from its keys, its clock and its randomness: for the
/// conformance corpus, which needs all three fixed, and documents that no NSM would make.
pub mod parts {
    pub use crate::cbor::Cbor;
    pub use crate::chain::Papers;
    pub use crate::document::{Bound, Contents, envelope};
    pub use crate::root::root_papers;
}

pub use nsm::{MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, Nsm, NsmConfig, NsmError};
pub use root::{DevelopmentRoot, RootError};
