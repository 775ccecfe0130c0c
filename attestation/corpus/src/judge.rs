//! Our own verifier's word on a case. Tells the verifier all that the case says, and nothing of what
//! it demands.

use std::collections::{BTreeMap, BTreeSet};

use anchorhold_attestation::{
    Anchor, AnchorError, Expectations, Time, UnknownKeys, Unverified, Verifier,
};

use crate::case::{Arguments, Case, JudgeAt, Verdict};

/// What a verifier said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It admitted the document.
    Admitted,
    /// It refused.
    Refused {
        /// Why, by stable names.
        names: BTreeSet<String>,
        /// Why, for people.
        explanation: String,
    },
}

impl Judgement {
    /// Whether this is what the case demands, down to the names of what is wrong.
    pub fn is(&self, verdict: &Verdict) -> bool {
        match (self, verdict) {
            (Judgement::Admitted, Verdict::Admit) => true,
            (Judgement::Refused { names, .. }, Verdict::Refuse(demanded)) => names == demanded,
            _ => false,
        }
    }

    fn refused(name: &str, explanation: impl core::fmt::Display) -> Judgement {
        Judgement::Refused {
            names: [name.to_owned()].into(),
            explanation: explanation.to_string(),
        }
    }
}

/// The roots that a case trusts, out of the corpus's. One that cannot be read is an error rather than
/// a refusal.
pub fn anchors(case: &Case, known: &BTreeMap<String, String>) -> Result<Vec<Anchor>, AnchorError> {
    case.arguments
        .anchors
        .iter()
        .map(|name| Anchor::from_pem(known.get(name).map_or("", String::as_str)))
        .collect()
}

/// Judges a case by a verifier that trusts [`anchors`].
pub fn judge(case: &Case, verifier: &Verifier) -> Judgement {
    let arguments = &case.arguments;
    let unknown_keys = if arguments.ignore_unknown_keys {
        UnknownKeys::Ignore
    } else {
        UnknownKeys::Refuse
    };
    let document = match Unverified::parse_with(&case.document, unknown_keys) {
        Ok(document) => document,
        Err(error) => return Judgement::refused(error.name(), error),
    };
    let verified = match verifier.verify(&document, time(arguments)) {
        Ok(verified) => verified,
        Err(error) => return Judgement::refused(error.name(), error),
    };
    match verified.admit(&expectations(arguments)) {
        Ok(_) => Judgement::Admitted,
        Err(refusal) => Judgement::Refused {
            names: refusal
                .differences
                .iter()
                .map(|difference| difference.name().to_owned())
                .collect(),
            explanation: refusal.to_string(),
        },
    }
}

fn time(arguments: &Arguments) -> Time {
    match (arguments.judge_at, arguments.freshness) {
        (JudgeAt::Document, _) => Time::Document,
        (JudgeAt::Instant(at), None) => Time::At(at),
        (JudgeAt::Instant(now_ms), Some(freshness)) => Time::Now {
            now_ms,
            max_age_ms: freshness.max_age_ms,
            max_skew_ms: freshness.max_skew_ms,
        },
    }
}

fn expectations(arguments: &Arguments) -> Expectations {
    let mut expectations = Expectations::new().allow_debug(arguments.allow_debug);
    for (index, allowed) in &arguments.pcrs {
        expectations = expectations.pcr(*index, allowed.iter().copied());
    }
    if let Some(nonce) = &arguments.nonce {
        expectations = expectations.nonce(nonce);
    }
    if let Some(user_data) = &arguments.user_data {
        expectations = expectations.user_data(user_data);
    }
    if let Some(public_key) = &arguments.public_key {
        expectations = expectations.public_key(public_key);
    }
    if let Some(module_id) = &arguments.module_id {
        expectations = expectations.module_id(module_id);
    }
    if arguments.any_image {
        expectations = expectations.any_image();
    }
    expectations
}
