//! Recipients: an attestation document that came with a request, checked in full, and the
//! envelope that only its enclave can open.
//!
//! A document that fails in any way refuses the request; there is no way from here back to an
//! answer in the open. The caller learns that the document is bad and nothing else.

use crate::cache::Cache;
use crate::policy::Context;
use crate::refusal::Refusal;
use anchorhold_attestation::{
    Anchor, ChainError, Time, Unverified, Verified, Verifier, VerifyError,
};
use anchorhold_kms_wire::recipient::SealingKey;
use anchorhold_kms_wire::shapes::{Blob, KeyEncryptionAlgorithm, RecipientInfo};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest document, in bytes, as AWS has it.
const MAX_DOCUMENT_BYTES: usize = 262_144;

/// Chains of certificates that are remembered: one for each enclave that asks within the three hours
/// that its leaf is valid.
const REMEMBERED_CHAINS: usize = 1024;

/// What documents are held against.
pub(crate) struct Rules {
    pub(crate) verifier: Verifier,
    pub(crate) max_age: Duration,
    pub(crate) max_skew: Duration,
    pub(crate) allow_debug: bool,
    /// Enclaves' keys that were read and checked, by what they are in a document: an enclave has one key, and
    /// a new document for each request.
    pub(crate) keys: Cache<Vec<u8>, Arc<SealingKey>>,
}

/// An enclave whose document was verified and which has a key to seal to.
pub(crate) struct Recipient {
    verified: Verified,
    public_key: Arc<SealingKey>,
    /// Whether measurements of zero count as values.
    zeros_count: bool,
}

impl Rules {
    /// Documents count under these anchors only.
    pub(crate) fn verifier(anchors: Vec<Anchor>) -> Verifier {
        Verifier::new(anchors).remembering(REMEMBERED_CHAINS)
    }

    /// Checks what a request brought along.
    pub(crate) fn check(
        &self,
        info: &RecipientInfo,
        now: SystemTime,
    ) -> Result<Recipient, Refusal> {
        match &info.key_encryption_algorithm {
            Some(KeyEncryptionAlgorithm::RsaesOaepSha256) => {}
            Some(other) => {
                let shown: String = other.as_str().chars().take(64).collect();
                return Err(Refusal::constraint(
                    "recipient.keyEncryptionAlgorithm",
                    "Member must satisfy enum value set: [RSAES_OAEP_SHA_256]",
                )
                .because(format!("the key encryption algorithm {shown:?} is unknown")));
            }
            None => {
                return Err(Refusal::validation(
                    "Recipient must have KeyEncryptionAlgorithm and AttestationDocument.",
                ));
            }
        }
        let document = match &info.attestation_document {
            Some(document) if (1..=MAX_DOCUMENT_BYTES).contains(&document.0.len()) => &document.0,
            Some(_) => {
                return Err(Refusal::constraint(
                    "recipient.attestationDocument",
                    "Member must have length between 1 and 262144, inclusive",
                ));
            }
            None => {
                return Err(Refusal::validation(
                    "Recipient must have KeyEncryptionAlgorithm and AttestationDocument.",
                ));
            }
        };
        let now_ms = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| milliseconds(since));
        let document = Unverified::parse(document).map_err(|error| refused(&error.to_string()))?;
        let verified = self
            .verifier
            .verify(
                &document,
                Time::Now {
                    now_ms,
                    max_age_ms: milliseconds(self.max_age),
                    max_skew_ms: milliseconds(self.max_skew),
                },
            )
            .map_err(|error| refused(&explained(&error)))?;
        let public_key = verified
            .public_key()
            .ok_or_else(|| refused("it has no public key to encrypt the answer to"))?;
        // Its bytes are all that a key is: there is no generation to it.
        let public_key = self.keys.get_or(public_key, 0, || {
            SealingKey::read(public_key)
                .map(Arc::new)
                .map_err(|error| refused(&error.to_string()))
        })?;
        Ok(Recipient {
            verified,
            public_key,
            zeros_count: self.allow_debug,
        })
    }
}

fn refused(why: &str) -> Refusal {
    Refusal::validation("The attestation document in the Recipient is not valid.")
        .because(format!("attestation document refused: {why}"))
}

fn explained(error: &VerifyError) -> String {
    match error {
        VerifyError::Chain(ChainError::UnknownRoot { claimed, .. }) => {
            format!("signed under another root (fingerprint {claimed})")
        }
        VerifyError::TooOld { age_ms, max_age_ms } => format!(
            "it is {} s old; at most {} s",
            age_ms / 1000,
            max_age_ms / 1000
        ),
        VerifyError::FromTheFuture {
            ahead_ms,
            max_skew_ms,
        } => format!(
            "it is dated {} s in the future; at most {} s",
            ahead_ms / 1000,
            max_skew_ms / 1000
        ),
        other => other.to_string(),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Recipient {
    /// Adds the condition keys of the document. A measurement of zero is a register that nothing
    /// was measured into, as in debug mode; it counts as absent, and so do all measurements of an
    /// enclave in debug mode, whose memory the host can read.
    pub(crate) fn describe(&self, context: &mut Context) {
        context.put(
            "anchorhold:Anchor",
            hex::encode(self.verified.anchor_fingerprint()),
        );
        if self.is_uncounted() {
            return;
        }
        for (index, pcr) in self.verified.pcrs() {
            if pcr.is_zero() && !self.zeros_count {
                continue;
            }
            if index == 0 {
                context.put("kms:RecipientAttestation:ImageSha384", pcr.to_string());
            }
            context.put(
                &format!("kms:RecipientAttestation:PCR{index}"),
                pcr.to_string(),
            );
        }
    }

    /// Whether the measurements do not count, since the enclave is in debug mode.
    pub(crate) fn is_uncounted(&self) -> bool {
        self.verified.is_debug() && !self.zeros_count
    }

    /// What CloudTrail keeps of a recipient.
    pub(crate) fn audited(&self) -> Value {
        let mut shown = Map::new();
        shown.insert(
            "attestationDocumentModuleId".to_owned(),
            self.verified.module_id().into(),
        );
        let names = [
            (0, "attestationDocumentEnclaveImageDigest"),
            (1, "attestationDocumentEnclavePCR1"),
            (2, "attestationDocumentEnclavePCR2"),
            (3, "attestationDocumentEnclavePCR3"),
            (4, "attestationDocumentEnclavePCR4"),
            (8, "attestationDocumentEnclavePCR8"),
        ];
        for (index, name) in names {
            if let Some(pcr) = self.verified.pcr(index) {
                shown.insert(name.to_owned(), pcr.to_string().into());
            }
        }
        Value::Object(shown)
    }

    /// The envelope for this enclave.
    pub(crate) fn seal(&self, plaintext: &[u8]) -> Result<Blob, Refusal> {
        self.public_key
            .seal(plaintext)
            .map(Blob)
            .map_err(|error| Refusal::internal(format!("the envelope could not be made: {error}")))
    }
}
