//! Data keys are gone from memory when they leave: no block that held one is given back with it.
//!
//! The allocator of this program looks at every block that is freed.

#[expect(unsafe_code, reason = "an allocator of this test's own")]
mod sys;

use std::time::{Duration, Instant};

use anchorhold_enclave::data_key_cache::{DataKeyCache, Purpose};
use anchorhold_envelope::{DataKey, EncryptedDataKey, EncryptionContext};
use anchorhold_manifest::DataKeyCache as Limits;
use sys::{KEY, freed_with_the_key};
use zeroize::Zeroizing;

fn encrypted() -> EncryptedDataKey {
    EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "arn".to_owned(),
        ciphertext: vec![1],
    }
}

fn purpose(name: &str) -> Purpose {
    let context: EncryptionContext = [("a".to_owned(), name.to_owned())].into();
    Purpose::sealing("alias/k", &context)
}

/// A cache with the key in it, for each way to leave.
fn kept(now: Instant) -> DataKeyCache {
    let cache = DataKeyCache::new(Limits {
        capacity: 1,
        max_age_seconds: 10,
        max_messages: 2,
        max_bytes: 100,
    });
    let key = Zeroizing::new(KEY.to_vec());
    cache.keep_for_sealing(purpose("x"), &key, &encrypted(), 1, now);
    drop(key);
    assert_eq!(cache.standing().entries, 1);
    cache
}

/// One test, since all of a program's threads share its allocator.
#[test]
fn a_data_key_is_wiped_whichever_way_it_leaves() {
    let now = Instant::now();
    // That it would be seen: a vector that is not wiped.
    let before = freed_with_the_key();
    drop(std::hint::black_box(KEY.to_vec()));
    assert_eq!(freed_with_the_key(), before + 1);
    let mut grown = KEY.to_vec();
    grown.reserve(1000);
    drop(std::hint::black_box(grown));
    assert!(freed_with_the_key() > before + 1);

    let before = freed_with_the_key();
    // To make room.
    let cache = kept(now);
    let other = Zeroizing::new(vec![1; 32]);
    cache.keep_for_sealing(purpose("y"), &other, &encrypted(), 1, now);
    assert!(cache.for_sealing(&purpose("x"), 1, now).is_none());
    // For its age.
    let cache = kept(now);
    cache.expire(now + Duration::from_secs(10));
    assert_eq!(cache.standing().entries, 0);
    // After its last message, and after its last byte.
    for bytes in [1, 100] {
        let cache = kept(now);
        while let Some((key, _)) = cache.for_sealing(&purpose("x"), bytes, now) {
            DataKey::from_vec(key).expect("32 bytes");
        }
        assert_eq!(cache.standing().entries, 0);
    }
    // Replaced by another of the same purpose, and with the whole cache.
    let cache = kept(now);
    cache.keep_for_sealing(purpose("x"), &other, &encrypted(), 1, now);
    drop(kept(now));
    // One that opens.
    let cache = kept(now);
    cache.keep_for_opening(purpose("z"), &Zeroizing::new(KEY.to_vec()), now);
    drop(cache.for_opening(&purpose("z"), now));
    drop(cache);
    assert_eq!(
        freed_with_the_key(),
        before,
        "a block was freed with the key in it"
    );
}
