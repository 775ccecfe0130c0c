//! Attestation documents of Nitro enclaves: from bytes to a decision, in three steps that the
//! types keep apart.
//!
//! 1. [`Unverified::parse`] reads bytes strictly. What it returns has no facts to offer.
//! 2. [`Unverified::verify`] judges chain, time and signature against [`Anchor`]s that the caller
//!    names. Only it makes a [`Verified`].
//! 3. [`Verified::admit`] compares with [`Expectations`]. Only it makes an [`Admitted`]; otherwise
//!    there is a [`Refusal`] which lists everything that differs.
//!
//! This crate never reads a clock, a file or a socket, never draws randomness, and trusts no
//! certificate that a document brings along. Time and anchors are arguments.
//!
//! Sources: the AWS Nitro Enclaves user guide, "Verifying the root of trust" and the NSM
//! repository's `docs/attestation_process.md`; RFC 9052 (COSE), RFC 8949 (CBOR), RFC 5280 (X.509).
#![forbid(unsafe_code)]

mod anchor;
mod cbor;
mod chain;
mod claimed;
mod document;
mod engine;
mod memory;
mod parse_error;
mod pcr;
mod policy;
mod verify;

pub use anchor::{Anchor, AnchorError};
pub use cbor::Kind;
pub use chain::{CertificatePosition, ChainError};
pub use claimed::{Claimed, ClaimedCertificate, ClaimedContent};
pub use document::{MAX_DOCUMENT_BYTES, UnknownKeys, Unverified};
pub use engine::Engine;
pub use parse_error::{Field, ParseError};
pub use pcr::{PCR_BYTES, PCR_COUNT, ParsePcrError, Pcr};
pub use policy::{Admitted, BytesDiffer, Difference, Expectations, Refusal};
pub use verify::{Time, Verified, Verifier, VerifyError};

/// The README's example is compiled and run like any other.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
