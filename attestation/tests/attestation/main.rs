//! The verifier from outside, as its users see it: real documents, forged ones, and one test per
//! mistake that other verifiers have made.
#![allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]

mod admission;
mod chains;
mod claimed;
mod damage;
mod documents;
#[expect(
    unreachable_pub,
    reason = "pub(crate) on each line would say nothing more in a test"
)]
mod forge;
mod memory;
mod mistakes;
mod properties;
mod strictness;
mod time;

use anchorhold_attestation::{Anchor, Engine, Time, Unverified, Verified, Verifier, VerifyError};

/// All engines that were built in.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::P384];
    if Engine::default() != Engine::P384 {
        engines.push(Engine::default());
    }
    engines
}

/// The engine's verdict at the document's own time.
fn verify(engine: Engine, document: &Unverified, anchor: Anchor) -> Result<Verified, VerifyError> {
    Verifier::new([anchor])
        .with_engine(engine)
        .verify(document, Time::Document)
}
