//! The conformance corpus for verifiers of Nitro attestation documents: one file per case, each with
//! a document, what a verifier is told, and what it must say. The files are a contract with authors
//! of other verifiers; README.md describes it.
//!
//! This crate reads the files ([`Corpus`], [`Case`]), carries them along ([`Corpus::embedded`]), and
//! judges them with our own verifier ([`judge()`]). It never changes what a case demands: the cases
//! are made by `declaration/`, which is compared with the files on every run of the tests.
#![forbid(unsafe_code)]

mod case;
mod corpus;
mod embedded;
mod judge;

pub use case::{
    Arguments, Case, CaseError, Freshness, JudgeAt, Level, MAX_CASE_BYTES, Verdict, is_anchor_name,
    is_case_name,
};
pub use corpus::{Corpus, CorpusError, GROUPS};
pub use judge::{Judgement, anchors, judge};
