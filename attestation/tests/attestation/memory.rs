//! Verified chains that are remembered: never a yes that a verifier without a memory would not say.

use anchorhold_attestation::{Anchor, ChainError, Engine, Time, Unverified, Verifier, VerifyError};

use crate::engines;
use crate::forge::{Chain, HOUR_MS, NOW_MS, Payload, Plan, sign};

fn remembering(engine: Engine, anchors: impl Into<Vec<Anchor>>) -> Verifier {
    Verifier::new(anchors).with_engine(engine).remembering(4)
}

/// A document of the chain that says `nonce`.
fn document(chain: &Chain, nonce: &[u8]) -> Unverified {
    chain.document(
        &chain
            .payload()
            .set("nonce", coset::cbor::Value::Bytes(nonce.to_vec())),
    )
}

#[test]
fn documents_under_a_remembered_chain_get_the_verdict_of_their_own_signature() {
    for engine in engines() {
        let chain = Plan::new().issue();
        let verifier = remembering(engine, [chain.anchor()]);
        for nonce in [b"one", b"two"] {
            let verified = verifier
                .verify(&document(&chain, nonce), Time::Document)
                .unwrap();
            assert_eq!(verified.nonce(), Some(nonce.as_slice()));
            assert_eq!(verified.anchor_fingerprint(), chain.anchor().fingerprint());
            assert_eq!(verified.certificate_not_after_ms(), NOW_MS + 3 * HOUR_MS);
        }
        let forged = sign(&chain.payload().to_bytes(), &chain.issuers[2]);
        let forged = Unverified::parse(&forged).unwrap();
        assert_eq!(
            verifier.verify(&forged, Time::Document).unwrap_err(),
            VerifyError::Signature
        );
    }
}

#[test]
fn a_remembered_chain_is_judged_at_each_time_anew() {
    for engine in engines() {
        let chain = Plan::new().issue();
        let document = document(&chain, b"nonce");
        let verifier = remembering(engine, [chain.anchor()]);
        let begin = NOW_MS - 10 * 60 * 1000;
        let end = NOW_MS + 3 * HOUR_MS;
        for (at_ms, expected) in [
            (NOW_MS, None),
            (begin, None),
            (begin - 1, Some("not-yet-valid")),
            (end, None),
            (end + 999, None),
            (end + 1000, Some("expired")),
            (NOW_MS, None),
        ] {
            let verdict = verifier.verify(&document, Time::At(at_ms));
            assert_eq!(verdict.err().map(|error| error.name()), expected, "{at_ms}");
        }
    }
}

#[test]
fn a_remembered_chain_lends_nothing_to_one_that_differs_in_a_byte() {
    for engine in engines() {
        let chain = Plan::new().issue();
        let verifier = remembering(engine, [chain.anchor()]);
        verifier
            .verify(&document(&chain, b"nonce"), Time::Document)
            .unwrap();
        for damaged in 1..5 {
            let mut cabundle = chain.cabundle();
            let mut leaf = chain.leaf.der.clone();
            *cabundle
                .get_mut(damaged)
                .unwrap_or(&mut leaf)
                .last_mut()
                .unwrap() ^= 1;
            let document = chain.document(&Payload::new(&leaf, &cabundle));
            for _ in 0..2 {
                assert!(
                    matches!(
                        verifier.verify(&document, Time::Document),
                        Err(VerifyError::Chain(ChainError::Signature { .. }))
                    ),
                    "a refusal is not remembered as anything else"
                );
            }
        }
    }
}

#[test]
fn bytes_that_move_from_one_certificate_to_the_next_make_another_chain() {
    let chain = Plan::new().issue();
    let verifier = remembering(Engine::default(), [chain.anchor()]);
    verifier
        .verify(&document(&chain, b"nonce"), Time::Document)
        .unwrap();
    let mut cabundle = chain.cabundle();
    let moved = cabundle[2].remove(0);
    cabundle[1].push(moved);
    let document = chain.document(&Payload::new(&chain.leaf.der, &cabundle));
    assert!(verifier.verify(&document, Time::Document).is_err());
}

#[test]
fn the_anchors_of_one_verifier_are_no_other_ones() {
    let chain = Plan::new().issue();
    let other = Plan::new().issue();
    let mine = remembering(Engine::default(), [chain.anchor()]);
    let theirs = remembering(Engine::default(), [other.anchor()]);
    let document = document(&chain, b"nonce");
    mine.verify(&document, Time::Document).unwrap();
    assert!(matches!(
        theirs.verify(&document, Time::Document),
        Err(VerifyError::Chain(_))
    ));
}

#[test]
fn more_chains_than_are_remembered_are_all_verified() {
    for capacity in [0, 1, 2] {
        let chains: Vec<Chain> = (0..4)
            .map(|index| {
                let mut plan = Plan::new();
                plan.root
                    .params
                    .distinguished_name
                    .push(rcgen::DnType::OrganizationName, format!("root {index}"));
                plan.issue()
            })
            .collect();
        let anchors: Vec<Anchor> = chains.iter().map(Chain::anchor).collect();
        let verifier = Verifier::new(anchors).remembering(capacity);
        assert_eq!(verifier.remembered(), 0);
        for _ in 0..2 {
            for chain in &chains {
                let verified = verifier
                    .verify(&document(chain, b"nonce"), Time::Document)
                    .unwrap();
                assert_eq!(verified.anchor_fingerprint(), chain.anchor().fingerprint());
            }
        }
        assert_eq!(verifier.remembered(), capacity);
    }
}

#[test]
fn a_verifier_is_as_it_was_asked_to_be() {
    for engine in engines() {
        let chain = Plan::new().issue();
        let verifier = Verifier::new([chain.anchor(), Anchor::aws_nitro()])
            .remembering(2)
            .with_engine(engine);
        assert_eq!(verifier.engine(), engine);
        assert_eq!(verifier.anchors(), [chain.anchor(), Anchor::aws_nitro()]);
        for _ in 0..2 {
            verifier
                .verify(&document(&chain, b"nonce"), Time::Document)
                .unwrap();
            assert_eq!(verifier.remembered(), 1);
        }
        let forgetful = verifier.remembering(0);
        forgetful
            .verify(&document(&chain, b"nonce"), Time::Document)
            .unwrap();
        assert_eq!(forgetful.remembered(), 0);
    }
    assert_eq!(Verifier::new([]).engine(), Engine::default());
}
