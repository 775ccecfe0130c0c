//! Whose attestation counts: AWS's root always, another root only where the policy says so.
//!
//! The service verifies a document against the anchors of its configuration; that a simulator's
//! root is among them makes its documents readable, and opens no key. For that an Allow
//! statement of the key policy must name the root: a condition `StringEquals` (or
//! `StringEqualsIgnoreCase`) on `anchorhold:Anchor` with its fingerprint. Any other Allow
//! statement has the condition "AWS's root" without saying so. The same holds for identity
//! policies, wherever they are asked. A grant cannot name a root, so it means AWS's. Without an
//! attestation document there is no anchor, and nothing here applies.
//!
//! The rule rests on the value of the key alone, not on a flag that somebody could forget to
//! set: whatever is not AWS's fingerprint is foreign.

use super::condition::{ANCHOR, ConditionTrace};
use super::context::Context;
use anchorhold_attestation::Anchor;
use std::sync::LazyLock;

static AWS: LazyLock<String> = LazyLock::new(|| hex::encode(Anchor::aws_nitro().fingerprint()));

/// The fingerprint of the root of the request's document, unless there is none or it is AWS's.
pub(super) fn foreign(context: &Context) -> Option<&str> {
    let found = context.values(ANCHOR)?;
    match found {
        [only] if *only == *AWS => None,
        [first, ..] => Some(first),
        [] => None,
    }
}

/// The condition that a statement has which names no anchor, unmet.
pub(super) fn aws_only(found: &str) -> ConditionTrace {
    ConditionTrace {
        met: false,
        operator: "StringEquals".to_owned(),
        key: ANCHOR.to_owned(),
        expected: vec![format!("{} (AWS, as it names no other)", *AWS)],
        found: Some(vec![found.to_owned()]),
    }
}
