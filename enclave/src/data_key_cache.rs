//! Data keys kept for further messages, within the limits of the AWS Encryption SDK's caching cryptographic materials
//! manager: number, age, messages, bytes, and never for another encryption context.
//!
//! A key must never be used beyond one of its limits, and its bytes are wiped when it leaves. It keeps no clock: moments
//! come from the caller.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anchorhold_envelope::{EncryptedDataKey, EncryptionContext};
use anchorhold_manifest::DataKeyCache as Limits;
use aws_lc_rs::digest::{self, SHA256};
use serde::Serialize;
use zeroize::Zeroizing;

/// What a data key was got for: all that the key service was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Purpose([u8; 32]);

impl Purpose {
    /// New messages under a key, with a context.
    pub fn sealing(key_id: &str, context: &EncryptionContext) -> Purpose {
        let mut hash = Hash::new(b"seal");
        hash.text(key_id);
        hash.context(context);
        hash.finish()
    }

    /// Messages whose headers have these encrypted data keys and this context.
    pub fn opening(
        key_id: &str,
        encrypted: &[EncryptedDataKey],
        context: &EncryptionContext,
    ) -> Purpose {
        let mut hash = Hash::new(b"open");
        hash.text(key_id);
        hash.context(context);
        hash.number(encrypted.len());
        for key in encrypted {
            hash.text(&key.provider_id);
            hash.text(&key.key_info);
            hash.bytes(&key.ciphertext);
        }
        hash.finish()
    }
}

/// Each part with its length before it, so that no two purposes have the same bytes.
struct Hash(digest::Context);

impl Hash {
    fn new(kind: &[u8]) -> Hash {
        let mut hash = Hash(digest::Context::new(&SHA256));
        hash.bytes(kind);
        hash
    }

    fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn context(&mut self, context: &EncryptionContext) {
        self.number(context.len());
        for (name, value) in context {
            self.text(name);
            self.text(value);
        }
    }

    fn finish(self) -> Purpose {
        let digest = self.0.finish();
        let mut purpose = [0; 32];
        purpose.copy_from_slice(digest.as_ref());
        Purpose(purpose)
    }
}

struct Entry {
    key: Zeroizing<Vec<u8>>,
    /// What goes into the headers of new messages; none where the key only opens.
    encrypted: Option<EncryptedDataKey>,
    born: Instant,
    /// When it was used last, by a count.
    used: u64,
    messages: u64,
    bytes: u64,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<Purpose, Entry>,
    uses: u64,
    standing: Standing,
}

/// How it stands with a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Standing {
    /// Data keys that are kept.
    pub entries: usize,
    /// Calls of the key service that were saved.
    pub calls_saved: u64,
    /// Calls that were made, as nothing was kept for them.
    pub calls_made: u64,
    /// Data keys that were wiped for their age, their use, or to make room.
    pub wiped: u64,
}

/// Data keys by purpose.
pub struct DataKeyCache {
    limits: Limits,
    kept: Mutex<Kept>,
}

impl DataKeyCache {
    /// An empty one.
    pub fn new(limits: Limits) -> DataKeyCache {
        DataKeyCache {
            limits,
            kept: Mutex::default(),
        }
    }

    /// A key for one more message of `bytes` bytes.
    pub fn for_sealing(
        &self,
        purpose: &Purpose,
        bytes: u64,
        now: Instant,
    ) -> Option<(Zeroizing<Vec<u8>>, EncryptedDataKey)> {
        let mut kept = self.lock();
        kept.expire(&self.limits, now);
        let found = kept.used(purpose).and_then(|entry| {
            let total = entry.bytes.checked_add(bytes)?;
            if entry.messages >= self.limits.max_messages || total > self.limits.max_bytes {
                return None;
            }
            entry.messages += 1;
            entry.bytes = total;
            Some((entry.key.clone(), entry.encrypted.clone()?))
        });
        if found.is_none() && kept.entries.remove(purpose).is_some() {
            kept.standing.wiped += 1;
        }
        kept.count(found.is_some());
        found
    }

    /// A key for messages that were sealed before.
    pub fn for_opening(&self, purpose: &Purpose, now: Instant) -> Option<Zeroizing<Vec<u8>>> {
        let mut kept = self.lock();
        kept.expire(&self.limits, now);
        let found = kept.used(purpose).map(|entry| entry.key.clone());
        kept.count(found.is_some());
        found
    }

    /// Keeps a key whose first message, of `bytes` bytes, is on its way.
    pub fn keep_for_sealing(
        &self,
        purpose: Purpose,
        key: &Zeroizing<Vec<u8>>,
        encrypted: &EncryptedDataKey,
        bytes: u64,
        now: Instant,
    ) {
        if bytes <= self.limits.max_bytes {
            self.keep(purpose, key, Some(encrypted.clone()), bytes, now);
        }
    }

    /// Keeps a key that opens.
    pub fn keep_for_opening(&self, purpose: Purpose, key: &Zeroizing<Vec<u8>>, now: Instant) {
        self.keep(purpose, key, None, 0, now);
    }

    fn keep(
        &self,
        purpose: Purpose,
        key: &Zeroizing<Vec<u8>>,
        encrypted: Option<EncryptedDataKey>,
        bytes: u64,
        now: Instant,
    ) {
        let mut kept = self.lock();
        kept.expire(&self.limits, now);
        if !kept.entries.contains_key(&purpose) && kept.entries.len() >= self.limits.capacity {
            let oldest = kept.entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(purpose, _)| *purpose) {
                kept.entries.remove(&oldest);
                kept.standing.wiped += 1;
            }
        }
        kept.uses += 1;
        let entry = Entry {
            key: key.clone(),
            encrypted,
            born: now,
            used: kept.uses,
            messages: 1,
            bytes,
        };
        if kept.entries.insert(purpose, entry).is_some() {
            kept.standing.wiped += 1;
        }
    }

    /// Wipes what has grown too old, without waiting for the next use.
    pub fn expire(&self, now: Instant) {
        self.lock().expire(&self.limits, now);
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let kept = self.lock();
        Standing {
            entries: kept.entries.len(),
            ..kept.standing
        }
    }

    /// The longest that a key is kept.
    pub fn max_age(&self) -> Duration {
        Duration::from_secs(self.limits.max_age_seconds)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn used(&mut self, purpose: &Purpose) -> Option<&mut Entry> {
        self.uses += 1;
        let uses = self.uses;
        let entry = self.entries.get_mut(purpose)?;
        entry.used = uses;
        Some(entry)
    }

    fn count(&mut self, saved: bool) {
        if saved {
            self.standing.calls_saved += 1;
        } else {
            self.standing.calls_made += 1;
        }
    }

    fn expire(&mut self, limits: &Limits, now: Instant) {
        let age = Duration::from_secs(limits.max_age_seconds);
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| now.saturating_duration_since(entry.born) < age);
        self.standing.wiped += (before - self.entries.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        capacity: 2,
        max_age_seconds: 10,
        max_messages: 3,
        max_bytes: 100,
    };

    fn key(byte: u8) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(vec![byte; 32])
    }

    fn encrypted(byte: u8) -> EncryptedDataKey {
        EncryptedDataKey {
            provider_id: "aws-kms".to_owned(),
            key_info: "arn".to_owned(),
            ciphertext: vec![byte],
        }
    }

    fn context(value: &str) -> EncryptionContext {
        [("a".to_owned(), value.to_owned())].into()
    }

    fn purpose(value: &str) -> Purpose {
        Purpose::sealing("alias/k", &context(value))
    }

    #[test]
    fn a_key_serves_its_messages_and_bytes_and_not_one_more() {
        let now = Instant::now();
        for (bytes, served) in [(1, 2), (0, 2), (50, 1), (51, 0), (100, 0)] {
            let cache = DataKeyCache::new(LIMITS);
            cache.keep_for_sealing(purpose("x"), &key(1), &encrypted(1), bytes, now);
            let uses = (0..10)
                .take_while(|_| cache.for_sealing(&purpose("x"), bytes, now).is_some())
                .count();
            assert_eq!(uses, served, "{bytes} bytes each");
            assert_eq!(
                cache.standing().entries,
                0,
                "a key that is used up is wiped"
            );
        }
        let cache = DataKeyCache::new(LIMITS);
        cache.keep_for_sealing(purpose("x"), &key(1), &encrypted(1), 101, now);
        assert_eq!(cache.standing().entries, 0);
        cache.keep_for_sealing(purpose("x"), &key(1), &encrypted(1), 1, now);
        assert!(cache.for_sealing(&purpose("x"), u64::MAX, now).is_none());
    }

    #[test]
    fn keys_leave_at_their_age_and_the_least_used_makes_room() {
        let now = Instant::now();
        let cache = DataKeyCache::new(LIMITS);
        for (name, byte) in [("x", 1), ("y", 2)] {
            cache.keep_for_sealing(purpose(name), &key(byte), &encrypted(byte), 1, now);
        }
        assert!(cache.for_sealing(&purpose("x"), 1, now).is_some());
        cache.keep_for_sealing(purpose("z"), &key(3), &encrypted(3), 1, now);
        assert!(cache.for_sealing(&purpose("y"), 1, now).is_none());
        let (found, header) = cache.for_sealing(&purpose("x"), 1, now).expect("kept");
        assert_eq!((found, header), (key(1), encrypted(1)));
        assert_eq!(cache.standing().entries, 2);
        cache.expire(now + Duration::from_secs(9));
        assert_eq!(cache.standing().entries, 2);
        cache.expire(now + Duration::from_secs(10));
        assert_eq!(cache.standing().entries, 0);
        let standing = cache.standing();
        assert_eq!(
            (standing.calls_saved, standing.calls_made, standing.wiped),
            (2, 1, 3)
        );
    }

    #[test]
    fn what_opens_never_seals_and_the_other_way_round() {
        let now = Instant::now();
        let cache = DataKeyCache::new(LIMITS);
        let opening = Purpose::opening("alias/k", &[encrypted(1)], &context("x"));
        assert_ne!(opening, purpose("x"));
        cache.keep_for_opening(opening, &key(1), now);
        assert!(cache.for_sealing(&purpose("x"), 1, now).is_none());
        assert_eq!(cache.for_opening(&opening, now), Some(key(1)));
        // Opening has no number of messages.
        assert!((0..20).all(|_| cache.for_opening(&opening, now).is_some()));
        // Even under its own purpose it has nothing for a header.
        assert!(cache.for_sealing(&opening, 1, now).is_none());
    }

    proptest! {
        #[test]
        fn purposes_differ_wherever_what_the_service_is_told_differs(
            one in proptest::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..3),
            other in proptest::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..3),
            key in "[ab]{0,3}", another in "[ab]{0,3}",
        ) {
            let same = one == other && key == another;
            prop_assert_eq!(Purpose::sealing(&key, &one) == Purpose::sealing(&another, &other), same);
        }

        #[test]
        fn no_limit_is_ever_passed(steps in proptest::collection::vec((0u8..4, 0u64..60, 0u64..4), 1..200)) {
            let mut now = Instant::now();
            let cache = DataKeyCache::new(LIMITS);
            // By key: when it was made, messages, bytes.
            let mut keys: Vec<(Instant, u64, u64)> = Vec::new();
            for (name, bytes, pause) in steps {
                now += Duration::from_secs(pause);
                let purpose = purpose(&name.to_string());
                if let Some((key, _)) = cache.for_sealing(&purpose, bytes, now) {
                    let number = usize::from(key[0]) + usize::from(key[1]) * 256;
                    let (born, messages, total) = &mut keys[number];
                    *messages += 1;
                    *total += bytes;
                    prop_assert!(now - *born < Duration::from_secs(10));
                    prop_assert!(*messages <= 3 && *total <= 100);
                } else {
                    let mut key = Zeroizing::new(vec![0; 32]);
                    key[0] = (keys.len() % 256) as u8;
                    key[1] = (keys.len() / 256) as u8;
                    keys.push((now, 1, bytes));
                    cache.keep_for_sealing(purpose, &key, &encrypted(0), bytes, now);
                }
                prop_assert!(cache.standing().entries <= 2);
            }
        }
    }
}
