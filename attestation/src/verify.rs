//! From [`Unverified`] to [`Verified`]: chain, validity at the time asked about, signature by the
//! leaf's key, freshness — in this order, and all of them or none. Nothing else makes a `Verified`.

use core::fmt;
use core::num::NonZeroUsize;
use std::collections::BTreeMap;
use std::sync::Arc;

use coset::{Header, ProtectedHeader, SignatureContext, sig_structure_data};
use serde::{Serialize, Serializer};

use crate::anchor::Anchor;
use crate::chain::{self, ChainError, Validity};
use crate::document::{Document, PROTECTED_ES384, Unverified};
use crate::engine::Engine;
use crate::memory::ChainMemory;
use crate::pcr::Pcr;

/// The time that a document is judged at. All in milliseconds, instants since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// The document's own timestamp: was it good when it was made? For archives. It says nothing
    /// about freshness, and whoever stole a leaf's key can choose its timestamp.
    Document,
    /// This instant: are the certificates valid then? The document's age is not judged.
    At(u64),
    /// Live use: the certificates are valid now, and the document is fresh.
    Now {
        /// The verifier's clock.
        now_ms: u64,
        /// The oldest that a document may be.
        max_age_ms: u64,
        /// How far a document's timestamp may lie in the future, for clocks that disagree.
        max_skew_ms: u64,
    },
}

/// Why a document is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Its certificates do not lead to an anchor at that time.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It was not signed by its leaf certificate's key, or was changed afterwards.
    #[error("the signature is not by the leaf certificate's key over this document")]
    Signature,
    /// It claims to be made at a time at which its own certificate was not valid.
    #[error(
        "the timestamp {timestamp_ms} ms lies outside of the leaf certificate's validity, \
         {not_before_ms} to {not_after_ms} ms since 1970"
    )]
    TimestampOutsideLeaf {
        /// The document's timestamp.
        timestamp_ms: u64,
        /// The leaf's first millisecond.
        not_before_ms: u64,
        /// The leaf's last second, its first millisecond.
        not_after_ms: u64,
    },
    /// It is older than allowed: perhaps a replay.
    #[error("the document is {age_ms} ms old and may be {max_age_ms} ms; ask for a fresh one")]
    TooOld {
        /// Its age.
        age_ms: u64,
        /// The age allowed.
        max_age_ms: u64,
    },
    /// It lies further in the future than clocks may disagree.
    #[error(
        "the document's timestamp lies {ahead_ms} ms in the future, and {max_skew_ms} ms are \
         allowed; check the verifier's clock"
    )]
    FromTheFuture {
        /// How far.
        ahead_ms: u64,
        /// How far is allowed.
        max_skew_ms: u64,
    },
}

impl VerifyError {
    /// The refusal's stable name, as the conformance corpus has it.
    pub fn name(&self) -> &'static str {
        match self {
            VerifyError::Chain(error) => error.name(),
            VerifyError::Signature => "signature",
            VerifyError::TimestampOutsideLeaf { .. } => "timestamp-outside-leaf",
            VerifyError::TooOld { .. } => "too-old",
            VerifyError::FromTheFuture { .. } => "from-the-future",
        }
    }
}

impl Unverified {
    /// Verifies the document under one of these anchors. Whoever verifies many documents keeps a
    /// [`Verifier`].
    pub fn verify(&self, anchors: &[Anchor], time: Time) -> Result<Verified, VerifyError> {
        verify(self, anchors, Engine::default(), None, time)
    }
}

/// Verifies documents under the same anchors, one after another or from many threads at once.
#[derive(Debug)]
pub struct Verifier {
    anchors: Vec<Anchor>,
    engine: Engine,
    memory: Option<ChainMemory>,
}

impl Verifier {
    /// Trusts these anchors, with the default [`Engine`], and remembers nothing.
    pub fn new(anchors: impl Into<Vec<Anchor>>) -> Verifier {
        Verifier {
            anchors: anchors.into(),
            engine: Engine::default(),
            memory: None,
        }
    }

    /// Computes with this engine.
    #[must_use]
    pub fn with_engine(self, engine: Engine) -> Verifier {
        Verifier { engine, ..self }
    }

    /// Remembers up to this many verified chains (0: none), about 4 KB each at most, so that the next
    /// document under the same certificates costs one signature rather than five. A chain counts
    /// as the same if every byte of `certificate` and `cabundle` is, and is asked about within the
    /// validity of all its certificates; otherwise it is verified anew.
    #[must_use]
    pub fn remembering(self, chains: usize) -> Verifier {
        Verifier {
            memory: NonZeroUsize::new(chains).map(ChainMemory::new),
            ..self
        }
    }

    /// The roots that it trusts.
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// Who computes.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// How many chains it remembers at present.
    pub fn remembered(&self) -> usize {
        self.memory.as_ref().map_or(0, ChainMemory::len)
    }

    /// For how many documents, since the verifier was made, the chain was remembered.
    pub fn recalled(&self) -> u64 {
        self.memory.as_ref().map_or(0, ChainMemory::recalled)
    }

    /// Verifies one document: chain, validity, signature, freshness.
    pub fn verify(&self, document: &Unverified, time: Time) -> Result<Verified, VerifyError> {
        verify(
            document,
            &self.anchors,
            self.engine,
            self.memory.as_ref(),
            time,
        )
    }
}

fn verify(
    unverified: &Unverified,
    anchors: &[Anchor],
    engine: Engine,
    memory: Option<&ChainMemory>,
    time: Time,
) -> Result<Verified, VerifyError> {
    let document = &unverified.document;
    let at_ms = match time {
        Time::Document => document.timestamp_ms,
        Time::At(at_ms) => at_ms,
        Time::Now { now_ms, .. } => now_ms,
    };
    // Certificates speak in whole seconds.
    let at = at_ms / 1000;
    let chain = match memory {
        None => Arc::new(chain::verify(document, anchors, at, engine)?),
        Some(memory) => memory.recall_or(document, at, || {
            chain::verify(document, anchors, at, engine)
        })?,
    };
    if !chain
        .leaf_key
        .verifies(&signed_bytes(document), document.signature())
    {
        return Err(VerifyError::Signature);
    }
    check_timestamp(document, chain.leaf_validity)?;
    check_freshness(document.timestamp_ms, time)?;
    Ok(Verified {
        document: Arc::clone(document),
        anchor_fingerprint: chain.anchor_fingerprint,
        certificate_not_after_ms: milliseconds(chain.validity.not_after),
    })
}

/// RFC 9052, section 4.4: `["Signature1", protected, external_aad, payload]`.
fn signed_bytes(document: &Document) -> Vec<u8> {
    let protected = ProtectedHeader {
        original_data: Some(PROTECTED_ES384.to_vec()),
        header: Header::default(),
    };
    sig_structure_data(
        SignatureContext::CoseSign1,
        protected,
        None,
        &[],
        document.payload(),
    )
}

/// Certificates end by the year 9999, whose milliseconds fit.
fn milliseconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

fn check_timestamp(document: &Document, leaf: Validity) -> Result<(), VerifyError> {
    if leaf.contains(document.timestamp_ms / 1000) {
        Ok(())
    } else {
        Err(VerifyError::TimestampOutsideLeaf {
            timestamp_ms: document.timestamp_ms,
            not_before_ms: milliseconds(leaf.not_before),
            not_after_ms: milliseconds(leaf.not_after),
        })
    }
}

fn check_freshness(timestamp_ms: u64, time: Time) -> Result<(), VerifyError> {
    let Time::Now {
        now_ms,
        max_age_ms,
        max_skew_ms,
    } = time
    else {
        return Ok(());
    };
    let age_ms = now_ms.saturating_sub(timestamp_ms);
    if age_ms > max_age_ms {
        return Err(VerifyError::TooOld { age_ms, max_age_ms });
    }
    let ahead_ms = timestamp_ms.saturating_sub(now_ms);
    if ahead_ms > max_skew_ms {
        return Err(VerifyError::FromTheFuture {
            ahead_ms,
            max_skew_ms,
        });
    }
    Ok(())
}

/// A document that an NSM under one of the caller's anchors has signed. Its facts are facts; whether
/// they are the wanted ones, [`Verified::admit`] says.
///
/// It cannot be made but by [`Unverified::verify`]:
///
/// ```compile_fail
/// let forged = anchorhold_attestation::Verified { certificate_not_after_ms: 0 };
/// ```
#[derive(Clone)]
pub struct Verified {
    document: Arc<Document>,
    anchor_fingerprint: [u8; 32],
    certificate_not_after_ms: u64,
}

impl Verified {
    /// The NSM's name for the enclave: `<instance id>-enc<enclave's number>`.
    pub fn module_id(&self) -> &str {
        &self.document.module_id
    }

    /// When the NSM made the document, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.document.timestamp_ms
    }

    /// A PCR's value; `None` where the document does not list it, which is never the same as zero.
    pub fn pcr(&self, index: u8) -> Option<Pcr> {
        self.document.pcrs.get(&index).copied()
    }

    /// All PCRs that the document lists, by index.
    pub fn pcrs(&self) -> impl Iterator<Item = (u8, Pcr)> {
        self.document.pcrs.iter().map(|(index, pcr)| (*index, *pcr))
    }

    /// What the enclave gave as nonce, usually what the verifier had asked it to.
    pub fn nonce(&self) -> Option<&[u8]> {
        self.document.nonce()
    }

    /// What the enclave gave as user data.
    pub fn user_data(&self) -> Option<&[u8]> {
        self.document.user_data()
    }

    /// What the enclave gave as public key: for AWS KMS, an RSA key as
    /// `SubjectPublicKeyInfo` in DER.
    pub fn public_key(&self) -> Option<&[u8]> {
        self.document.public_key()
    }

    /// Whether the enclave runs in debug mode, where the host reads its console and PCR0, 1 and 2
    /// are zero. A document that lists none of the three counts as debug: nothing is measured.
    pub fn is_debug(&self) -> bool {
        (0..3).all(|index| self.pcr(index).is_none_or(|pcr| pcr.is_zero()))
    }

    /// SHA-256 of the anchor that the document chains to.
    pub fn anchor_fingerprint(&self) -> [u8; 32] {
        self.anchor_fingerprint
    }

    /// Until when the chain is valid: the first end of validity among the leaf and its issuers, in
    /// milliseconds since 1970.
    pub fn certificate_not_after_ms(&self) -> u64 {
        self.certificate_not_after_ms
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("module_id", &self.module_id())
            .field("timestamp_ms", &self.timestamp_ms())
            .field("pcrs", &self.document.pcrs)
            .finish_non_exhaustive()
    }
}

/// Byte strings as lower-case hex, PCRs by their index.
impl Serialize for Verified {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Facts<'a> {
            module_id: &'a str,
            timestamp_ms: u64,
            debug: bool,
            pcrs: &'a BTreeMap<u8, Pcr>,
            public_key: Option<String>,
            user_data: Option<String>,
            nonce: Option<String>,
            anchor: String,
            certificate_not_after_ms: u64,
        }
        Facts {
            module_id: self.module_id(),
            timestamp_ms: self.timestamp_ms(),
            debug: self.is_debug(),
            pcrs: &self.document.pcrs,
            public_key: self.public_key().map(hex::encode),
            user_data: self.user_data().map(hex::encode),
            nonce: self.nonce().map(hex::encode),
            anchor: hex::encode(self.anchor_fingerprint),
            certificate_not_after_ms: self.certificate_not_after_ms,
        }
        .serialize(serializer)
    }
}
