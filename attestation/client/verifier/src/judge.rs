//! The judgements: of a document by itself, and of one for a channel. The verifier judges; nothing here does but to hand
//! it what it must be told.

use std::sync::{Arc, Mutex, PoisonError};

use anchorhold_attestation::{
    Admitted, Anchor, Difference, Expectations, Time, UnknownKeys, Unverified, Verifier,
};
use serde::Serialize;

/// Verifiers that are kept: callers name few sets of roots.
const KEPT: usize = 8;
/// Chains that each remembers.
const REMEMBERED: usize = 64;

/// Why a document was not admitted.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    /// Which step refused: `answer`, `form`, `truth`, `expectations`.
    pub(crate) step: &'static str,
    /// Stable names of what is wrong.
    pub(crate) names: Vec<&'static str>,
    /// For people.
    pub(crate) message: String,
    /// What differs from what was expected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) differences: Vec<Difference>,
}

impl Refused {
    pub(crate) fn new(
        step: &'static str,
        name: &'static str,
        message: impl std::fmt::Display,
    ) -> Refused {
        Refused {
            step,
            names: vec![name],
            message: message.to_string(),
            differences: Vec::new(),
        }
    }
}

/// What an admitted document says, as JSON: `module_id`, `timestamp_ms`, `debug`, `pcrs`, `public_key`, `user_data`, `nonce`,
/// `anchor`, `certificate_not_after_ms`; bytes in hexadecimal.
pub fn facts(admitted: &Admitted) -> String {
    serde_json::to_string(admitted).unwrap_or_default()
}

/// Form, truth, expectations, in this order.
pub(crate) fn judge(
    document: &[u8],
    unknown: UnknownKeys,
    anchors: Vec<Anchor>,
    time: Time,
    expectations: &Expectations,
) -> Result<Admitted, Refused> {
    let document = Unverified::parse_with(document, unknown)
        .map_err(|error| Refused::new("form", error.name(), &error))?;
    let verified = verifier(anchors)
        .verify(&document, time)
        .map_err(|error| Refused::new("truth", error.name(), &error))?;
    verified.admit(expectations).map_err(|refusal| Refused {
        step: "expectations",
        names: refusal.differences.iter().map(Difference::name).collect(),
        message: refusal.to_string(),
        differences: refusal.differences,
    })
}

/// A verifier of these roots that remembers chains, the same each time.
fn verifier(anchors: Vec<Anchor>) -> Arc<Verifier> {
    static VERIFIERS: Mutex<Vec<Arc<Verifier>>> = Mutex::new(Vec::new());
    let mut kept = VERIFIERS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = kept.iter().position(|one| one.anchors() == anchors);
    let one = match found {
        Some(place) => kept.remove(place),
        None => Arc::new(Verifier::new(anchors).remembering(REMEMBERED)),
    };
    // The one that was used longest ago goes first.
    kept.truncate(KEPT - 1);
    kept.insert(0, Arc::clone(&one));
    one
}
