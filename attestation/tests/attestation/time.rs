//! The instants at which documents are judged, to the second and the millisecond.

use anchorhold_attestation::{ChainError, Time, Verified, VerifyError};

use crate::forge::{Chain, HOUR_MS, NOW_MS, Plan};

const LEAF_BEGINS_MS: u64 = NOW_MS - 10 * 60 * 1000;
const LEAF_ENDS_MS: u64 = NOW_MS + 3 * HOUR_MS;

fn judge(chain: &Chain, timestamp_ms: u64, time: Time) -> Result<Verified, VerifyError> {
    chain
        .document(&chain.payload().set("timestamp", timestamp_ms))
        .verify(&[chain.anchor()], time)
}

#[test]
fn at_judges_the_chain_at_that_instant_and_not_the_documents_age() {
    let chain = Plan::new().issue();
    for at in [
        LEAF_BEGINS_MS,
        NOW_MS - 1,
        NOW_MS,
        LEAF_ENDS_MS,
        LEAF_ENDS_MS + 999,
    ] {
        assert!(judge(&chain, NOW_MS, Time::At(at)).is_ok(), "{at}");
    }
    for (at, early) in [
        (0, true),
        (LEAF_BEGINS_MS - 1, true),
        (LEAF_ENDS_MS + 1000, false),
        (u64::MAX, false),
    ] {
        let refused = judge(&chain, NOW_MS, Time::At(at)).unwrap_err();
        match refused {
            VerifyError::Chain(ChainError::NotYetValid { .. }) => assert!(early),
            VerifyError::Chain(ChainError::Expired { .. }) => assert!(!early),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_timestamp_outside_of_the_leafs_validity_is_refused_at_any_time() {
    let chain = Plan::new().issue();
    for timestamp_ms in [LEAF_BEGINS_MS - 1, LEAF_ENDS_MS + 1000] {
        assert!(matches!(
            judge(&chain, timestamp_ms, Time::Document),
            Err(VerifyError::Chain(_))
        ));
        assert!(matches!(
            judge(&chain, timestamp_ms, Time::At(NOW_MS)),
            Err(VerifyError::TimestampOutsideLeaf { .. })
        ));
    }
}

#[test]
fn now_bounds_age_and_skew_to_the_millisecond() {
    let chain = Plan::new().issue();
    let now = |timestamp_ms, max_age_ms, max_skew_ms| {
        judge(
            &chain,
            timestamp_ms,
            Time::Now {
                now_ms: NOW_MS,
                max_age_ms,
                max_skew_ms,
            },
        )
    };
    assert!(now(NOW_MS, 0, 0).is_ok());
    assert!(now(NOW_MS - 5000, 5000, 0).is_ok());
    assert!(matches!(
        now(NOW_MS - 5001, 5000, 1_000_000),
        Err(VerifyError::TooOld {
            age_ms: 5001,
            max_age_ms: 5000
        })
    ));
    assert!(now(NOW_MS + 5000, 0, 5000).is_ok());
    assert!(matches!(
        now(NOW_MS + 5001, 1_000_000, 5000),
        Err(VerifyError::FromTheFuture {
            ahead_ms: 5001,
            max_skew_ms: 5000
        })
    ));
}

#[test]
fn now_judges_the_chain_at_the_verifiers_clock() {
    let chain = Plan::new().issue();
    let refused = judge(
        &chain,
        NOW_MS,
        Time::Now {
            now_ms: LEAF_ENDS_MS + 1000,
            max_age_ms: u64::MAX,
            max_skew_ms: u64::MAX,
        },
    );
    assert!(matches!(
        refused,
        Err(VerifyError::Chain(ChainError::Expired { .. }))
    ));
}
