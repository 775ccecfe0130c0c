//! Mistakes that other verifiers have made, each with a document that would have got by. (Two more
//! are kept out by types, and shown where the types are: forging a `Verified`, and a switch that
//! skips verification.)

use anchorhold_attestation::{
    Anchor, CertificatePosition, ChainError, Difference, Expectations, Field, ParseError, Pcr,
    Time, Unverified, VerifyError,
};
use coset::cbor::value::Value;

use crate::forge::{NOW_MS, Payload, Plan, bytes, pcr, pcrs, sign, text};

#[test]
fn a_root_that_the_document_brings_along_is_not_trusted() {
    let attacker = Plan::new().issue();
    let refused = attacker
        .document(&attacker.payload())
        .verify(&[Anchor::aws_nitro()], Time::Document)
        .unwrap_err();
    let VerifyError::Chain(ChainError::UnknownRoot { claimed, trusted }) = refused else {
        panic!("{refused}")
    };
    assert_eq!(claimed, hex::encode(attacker.anchor().fingerprint()));
    assert_eq!(trusted, [hex::encode(Anchor::aws_nitro().fingerprint())]);
}

#[test]
fn a_root_with_the_trusted_ones_name_is_not_trusted() {
    let trusted = Plan::new().issue();
    let attacker = Plan::new().issue();
    let refused = attacker
        .document(&attacker.payload())
        .verify(&[trusted.anchor()], Time::Document);
    assert_eq!(
        refused.unwrap_err(),
        VerifyError::Chain(ChainError::UnknownRoot {
            claimed: hex::encode(attacker.anchor().fingerprint()),
            trusted: vec![hex::encode(trusted.anchor().fingerprint())],
        })
    );
}

#[test]
fn the_trusted_root_at_the_head_of_anothers_bundle_proves_nothing() {
    let trusted = Plan::new().issue();
    let attacker = Plan::new().issue();
    let mut bundle = attacker.cabundle();
    bundle[0] = trusted.root.der.clone();
    let payload = Payload::new(&attacker.leaf.der, &bundle);
    let refused = attacker
        .document(&payload)
        .verify(&[trusted.anchor()], Time::Document);
    assert!(matches!(refused, Err(VerifyError::Chain(_))), "{refused:?}");
}

#[test]
fn what_stands_in_the_roots_place_is_not_even_read() {
    let chain = Plan::new().issue();
    let mut bundle = chain.cabundle();
    bundle[0] = b"not a certificate".to_vec();
    let payload = Payload::new(&chain.leaf.der, &bundle);
    assert!(
        chain
            .document(&payload)
            .verify(&[chain.anchor()], Time::Document)
            .is_ok()
    );
}

#[test]
fn the_bundles_order_is_part_of_its_meaning() {
    let chain = Plan::new().issue();
    for order in [[0, 2, 1, 3], [0, 1, 3, 2], [3, 2, 1, 0], [1, 2, 3, 0]] {
        let bundle = chain.cabundle();
        let bundle = order.map(|index| bundle[index].clone());
        let refused = chain
            .document(&Payload::new(&chain.leaf.der, &bundle))
            .verify(&[chain.anchor()], Time::Document);
        assert!(
            matches!(
                refused,
                Err(VerifyError::Chain(
                    ChainError::OutOfOrder { .. } | ChainError::UnknownRoot { .. }
                ))
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn a_bundle_with_a_gap_or_a_stranger_is_refused() {
    let chain = Plan::new().issue();
    let mut gap = chain.cabundle();
    gap.remove(2);
    let mut stranger = chain.cabundle();
    stranger.push(Plan::new().issue().issuers.remove(1).der);
    for bundle in [gap, stranger] {
        let refused = chain
            .document(&Payload::new(&chain.leaf.der, &bundle))
            .verify(&[chain.anchor()], Time::Document)
            .unwrap_err();
        assert!(
            matches!(refused, VerifyError::Chain(ChainError::OutOfOrder { .. })),
            "{refused}"
        );
    }
}

#[test]
fn a_missing_certificate_does_not_skip_the_signature() {
    let chain = Plan::new().issue();
    assert_eq!(
        Unverified::parse(&chain.sign(&chain.payload().without("certificate"))).unwrap_err(),
        ParseError::Missing {
            field: Field::Certificate,
            offset: 10
        }
    );
    for (value, is_refused_as) in [(Value::Null, "WrongKind"), (bytes([]), "Length")] {
        let error =
            Unverified::parse(&chain.sign(&chain.payload().set("certificate", value))).unwrap_err();
        assert!(format!("{error:?}").starts_with(is_refused_as), "{error:?}");
    }
}

#[test]
fn a_document_signed_by_another_key_is_refused() {
    let chain = Plan::new().issue();
    let other = Plan::new().issue();
    for signer in [&other.leaf, &chain.issuers[2], &chain.root] {
        let document = sign(&chain.payload().to_bytes(), signer);
        for engine in crate::engines() {
            assert_eq!(
                crate::verify(
                    engine,
                    &Unverified::parse(&document).unwrap(),
                    chain.anchor()
                )
                .unwrap_err(),
                VerifyError::Signature
            );
        }
    }
}

#[test]
fn a_document_changed_after_signing_is_refused() {
    let chain = Plan::new().issue();
    let mut document = chain.sign(&chain.payload());
    let place = document
        .windows(5)
        .position(|part| part == b"nonce")
        .unwrap();
    // The value's first byte: after the key and the head.
    document[place + 6] ^= 1;
    assert_eq!(
        Unverified::parse(&document)
            .unwrap()
            .verify(&[chain.anchor()], Time::Document)
            .unwrap_err(),
        VerifyError::Signature
    );
}

#[test]
fn zero_signatures_are_refused() {
    let chain = Plan::new().issue();
    let mut document = chain.sign(&chain.payload());
    let start = document.len() - 96;
    document[start..].fill(0);
    for engine in crate::engines() {
        assert_eq!(
            crate::verify(
                engine,
                &Unverified::parse(&document).unwrap(),
                chain.anchor()
            )
            .unwrap_err(),
            VerifyError::Signature
        );
    }
}

#[test]
fn qemus_documents_are_refused() {
    // As its virtio-nsm makes them: algorithm -1, zeros for certificate, bundle and signature.
    let payload = Payload::new(&[0; 64], &[vec![0; 64]]).to_bytes();
    let document = |protected: &[u8], signature: &[u8]| {
        let value = Value::Array(vec![
            bytes(protected),
            Value::Map(vec![]),
            bytes(&payload),
            bytes(signature),
        ]);
        coset::CborSerializable::to_vec(value).unwrap()
    };
    assert!(matches!(
        Unverified::parse(&document(&[0xa1, 1, 0x20], &[0; 64])),
        Err(ParseError::Protected { .. })
    ));
    assert!(matches!(
        Unverified::parse(&document(&[0xa1, 1, 0x38, 0x22], &[0; 64])),
        Err(ParseError::SignatureLength { found: 64, .. })
    ));
    let whole = Unverified::parse(&document(&[0xa1, 1, 0x38, 0x22], &[0; 96])).unwrap();
    assert!(matches!(
        whole.verify(&[Anchor::aws_nitro()], Time::Document),
        Err(VerifyError::Chain(ChainError::Malformed {
            position: CertificatePosition::Leaf,
            ..
        }))
    ));
}

#[test]
fn nitrotpm_documents_are_refused_by_name() {
    let chain = Plan::new().issue();
    let mut payload = chain.payload();
    payload.entries[3].0 = text("nitrotpm_pcrs");
    let error = Unverified::parse(&chain.sign(&payload)).unwrap_err();
    assert!(matches!(
        error,
        ParseError::NitroTpm {
            field: Field::Key,
            ..
        }
    ));
    assert!(error.to_string().contains("NitroTPM"));
    let payload = chain
        .payload()
        .set("module_id", text("i-0123456789abcdef0-tpm0000"));
    assert!(matches!(
        Unverified::parse(&chain.sign(&payload)),
        Err(ParseError::NitroTpm {
            field: Field::ModuleId,
            ..
        })
    ));
}

#[test]
fn stale_documents_are_refused() {
    let chain = Plan::new().issue();
    let document = chain.document(&chain.payload());
    let refused = document
        .verify(
            &[chain.anchor()],
            Time::Now {
                now_ms: NOW_MS + 60_001,
                max_age_ms: 60_000,
                max_skew_ms: 0,
            },
        )
        .unwrap_err();
    assert_eq!(
        refused,
        VerifyError::TooOld {
            age_ms: 60_001,
            max_age_ms: 60_000
        }
    );
}

#[test]
fn an_empty_expectation_admits_nothing() {
    let chain = Plan::new().issue();
    let verified = chain
        .document(&chain.payload())
        .verify(&[chain.anchor()], Time::Document)
        .unwrap();
    for expectations in [
        Expectations::new(),
        Expectations::default(),
        Expectations::new().nonce(b"nonce"),
        Expectations::new().pcr(4, [pcr(4)]),
        Expectations::new().allow_debug(true),
    ] {
        let refusal = verified.clone().admit(&expectations).unwrap_err();
        assert_eq!(refusal.differences, [Difference::NoImageExpected]);
    }
}

#[test]
fn an_empty_allowlist_admits_nothing() {
    let chain = Plan::new().issue();
    let verified = chain
        .document(&chain.payload())
        .verify(&[chain.anchor()], Time::Document)
        .unwrap();
    let refusal = verified
        .admit(&Expectations::new().any_image().pcr(0, []))
        .unwrap_err();
    assert_eq!(
        refusal.differences,
        [Difference::Pcr {
            index: 0,
            expected: vec![],
            found: Some(pcr(0))
        }]
    );
}

#[test]
fn an_absent_pcr_matches_nothing_not_even_zero() {
    let chain = Plan::new().issue();
    let payload = chain
        .payload()
        .set("pcrs", pcrs([(0, pcr(0)), (1, pcr(1)), (2, pcr(2))]));
    let verified = chain
        .document(&payload)
        .verify(&[chain.anchor()], Time::Document)
        .unwrap();
    for (index, allowed) in [
        (8, Pcr::ZERO),
        (31, Pcr::ZERO),
        (32, Pcr::ZERO),
        (255, pcr(0)),
    ] {
        let refusal = verified
            .clone()
            .admit(&Expectations::new().pcr(0, [pcr(0)]).pcr(index, [allowed]))
            .unwrap_err();
        assert_eq!(
            refusal.differences,
            [Difference::Pcr {
                index,
                expected: vec![allowed],
                found: None
            }]
        );
    }
}

#[test]
fn debug_documents_are_refused_unless_allowed() {
    let chain = Plan::new().issue();
    let debug = |payload: Payload| {
        let verified = chain
            .document(&payload)
            .verify(&[chain.anchor()], Time::Document)
            .unwrap();
        let default = verified.clone().admit(&Expectations::new().any_image());
        let allowed = verified
            .clone()
            .admit(&Expectations::new().any_image().allow_debug(true));
        assert!(allowed.is_ok());
        assert_eq!(default.is_err(), verified.is_debug());
        verified.is_debug()
    };
    let zero = |count: u8| {
        (0..16).map(move |index| (index, if index < count { Pcr::ZERO } else { pcr(index) }))
    };
    assert!(
        debug(chain.payload().set("pcrs", pcrs(zero(3)))),
        "PCR3 and 4 are set in debug mode"
    );
    assert!(!debug(chain.payload().set("pcrs", pcrs(zero(2)))));
    assert!(
        debug(chain.payload().set("pcrs", pcrs([(4, pcr(4))]))),
        "nothing is measured"
    );
}
