//! Chains that were verified before. Bounded, keyed by every byte of the certificates, and never
//! used outside of their validity. Holds public data only; belongs to one set of anchors, that of its
//! [`crate::Verifier`].

use core::num::NonZeroUsize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::chain::{ChainError, VerifiedChain};
use crate::document::Document;

/// SHA-256 over the certificates, each with its length before it.
type Key = [u8; 32];

#[derive(Debug)]
pub(crate) struct ChainMemory {
    capacity: NonZeroUsize,
    chains: Mutex<Chains>,
}

#[derive(Debug, Default)]
struct Chains {
    by_key: BTreeMap<Key, Remembered>,
    /// Counts what was asked, so that the chain which nobody asked for the longest can be told.
    clock: u64,
    /// How often a chain was there.
    recalled: u64,
}

#[derive(Debug)]
struct Remembered {
    chain: Arc<VerifiedChain>,
    last_asked: u64,
}

impl ChainMemory {
    pub(crate) fn new(capacity: NonZeroUsize) -> ChainMemory {
        ChainMemory {
            capacity,
            chains: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.chains().by_key.len()
    }

    pub(crate) fn recalled(&self) -> u64 {
        self.chains().recalled
    }

    /// The document's chain as it was verified before, if it is valid at the second `at`; otherwise
    /// what `verify` says, which is remembered unless it is an error.
    pub(crate) fn recall_or(
        &self,
        document: &Document,
        at: u64,
        verify: impl FnOnce() -> Result<VerifiedChain, ChainError>,
    ) -> Result<Arc<VerifiedChain>, ChainError> {
        let key = key(document);
        if let Some(chain) = self.chains().recall(&key, at) {
            return Ok(chain);
        }
        let chain = Arc::new(verify()?);
        self.chains()
            .remember(key, Arc::clone(&chain), self.capacity);
        Ok(chain)
    }

    fn chains(&self) -> MutexGuard<'_, Chains> {
        // No step leaves it half-changed, so a panic elsewhere does not spoil it.
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chains {
    fn recall(&mut self, key: &Key, at: u64) -> Option<Arc<VerifiedChain>> {
        let remembered = self.by_key.get_mut(key)?;
        if !remembered.chain.validity.contains(at) {
            return None;
        }
        self.clock += 1;
        self.recalled += 1;
        remembered.last_asked = self.clock;
        Some(Arc::clone(&remembered.chain))
    }

    fn remember(&mut self, key: Key, chain: Arc<VerifiedChain>, capacity: NonZeroUsize) {
        self.clock += 1;
        let last_asked = self.clock;
        self.by_key.insert(key, Remembered { chain, last_asked });
        if self.by_key.len() > capacity.get() {
            let longest_ago = self
                .by_key
                .iter()
                .min_by_key(|(_, remembered)| remembered.last_asked)
                .map(|(key, _)| *key);
            if let Some(key) = longest_ago {
                self.by_key.remove(&key);
            }
        }
    }
}

fn key(document: &Document) -> Key {
    let mut hash = Sha256::new();
    for certificate in document.cabundle().chain([document.certificate()]) {
        hash.update((certificate.len() as u64).to_be_bytes());
        hash.update(certificate);
    }
    hash.finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;
    use crate::anchor::Anchor;
    use crate::chain::Validity;
    use crate::engine::Engine;

    /// A chain that says when it is valid, and otherwise nothing that matters here.
    fn chain(validity: Validity) -> Arc<VerifiedChain> {
        let anchor = Anchor::aws_nitro();
        let point = anchor
            .certificate()
            .tbs_certificate()
            .subject_public_key_info()
            .subject_public_key
            .raw_bytes();
        Arc::new(VerifiedChain {
            leaf_key: Engine::default().key(point).unwrap(),
            anchor_fingerprint: anchor.fingerprint(),
            leaf_validity: validity,
            validity,
        })
    }

    const VALIDITY: Validity = Validity {
        not_before: 10,
        not_after: 20,
    };

    #[test]
    fn it_never_holds_more_chains_than_its_capacity() {
        let mut chains = Chains::default();
        let capacity = NonZeroUsize::new(3).unwrap();
        // Downwards, so that the order of keys does not stand in for that of time.
        for key in (0..100).rev() {
            chains.remember([key; 32], chain(VALIDITY), capacity);
            assert!(chains.by_key.len() <= 3);
        }
        assert_eq!(
            chains.by_key.keys().collect::<Vec<_>>(),
            [&[0; 32], &[1; 32], &[2; 32]]
        );
    }

    #[test]
    fn the_chain_that_nobody_asked_for_the_longest_makes_room() {
        let mut chains = Chains::default();
        let capacity = NonZeroUsize::new(2).unwrap();
        chains.remember([1; 32], chain(VALIDITY), capacity);
        chains.remember([2; 32], chain(VALIDITY), capacity);
        assert!(chains.recall(&[1; 32], 10).is_some());
        chains.remember([3; 32], chain(VALIDITY), capacity);
        assert!(chains.recall(&[2; 32], 10).is_none());
        assert!(chains.recall(&[1; 32], 10).is_some());
        assert!(chains.recall(&[3; 32], 10).is_some());
    }

    #[test]
    fn a_chain_is_recalled_within_its_validity_only() {
        let mut chains = Chains::default();
        chains.remember([1; 32], chain(VALIDITY), NonZeroUsize::MIN);
        for (at, recalled) in [(9, false), (10, true), (20, true), (21, false)] {
            assert_eq!(chains.recall(&[1; 32], at).is_some(), recalled, "{at}");
        }
    }
}
