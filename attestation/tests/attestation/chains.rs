//! Chains that must not be followed, and what the refusal says about them.

use anchorhold_attestation::{
    Anchor, AnchorError, CertificatePosition, ChainError, Time, VerifyError,
};
use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use crate::forge::{HOUR_MS, NOW_MS, Paper, Payload, Plan, bytes, instant};
use crate::{engines, verify};
use coset::cbor::value::Value;

/// Judges the plan's document at its own time by each engine; all must agree.
fn refusal(plan: Plan) -> ChainError {
    let chain = plan.issue();
    let document = chain.document(&chain.payload());
    let mut refusals =
        engines()
            .into_iter()
            .map(|engine| match verify(engine, &document, chain.anchor()) {
                Err(VerifyError::Chain(error)) => error,
                other => panic!("{engine:?}: {other:?}"),
            });
    let first = refusals.next().unwrap();
    for other in refusals {
        assert_eq!(first, other);
    }
    first
}

#[test]
fn a_sound_chain_is_followed_by_each_engine() {
    let chain = Plan::new().issue();
    let document = chain.document(&chain.payload());
    for engine in engines() {
        let verified = verify(engine, &document, chain.anchor()).unwrap();
        assert_eq!(verified.anchor_fingerprint(), chain.anchor().fingerprint());
        assert_eq!(
            verified.certificate_not_after_ms(),
            NOW_MS + 3 * HOUR_MS,
            "the leaf ends first"
        );
    }
}

#[test]
fn the_right_one_of_several_anchors_is_found() {
    let chain = Plan::new().issue();
    let other = Plan::new().issue();
    let verified = chain
        .document(&chain.payload())
        .verify(
            &[Anchor::aws_nitro(), other.anchor(), chain.anchor()],
            Time::Document,
        )
        .unwrap();
    assert_eq!(verified.anchor_fingerprint(), chain.anchor().fingerprint());
}

#[test]
fn a_leaf_directly_under_the_anchor_is_enough() {
    let mut plan = Plan::new();
    plan.issuers.clear();
    let chain = plan.issue();
    assert!(
        chain
            .document(&chain.payload())
            .verify(&[chain.anchor()], Time::Document)
            .is_ok()
    );
}

#[test]
fn without_anchors_nothing_is_trusted() {
    let chain = Plan::new().issue();
    assert_eq!(
        chain
            .document(&chain.payload())
            .verify(&[], Time::Document)
            .unwrap_err(),
        VerifyError::Chain(ChainError::NoAnchors)
    );
}

#[test]
fn an_issuer_that_is_no_ca_is_refused() {
    let mut plan = Plan::new();
    plan.issuers[1].params.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(
        refusal(plan),
        ChainError::NotCa {
            position: CertificatePosition::Cabundle(2)
        }
    );
    let mut plan = Plan::new();
    plan.issuers[2].params.is_ca = IsCa::NoCa;
    assert_eq!(
        refusal(plan),
        ChainError::NotCa {
            position: CertificatePosition::Cabundle(3)
        }
    );
}

#[test]
fn a_leaf_cannot_issue_another_leaf() {
    let chain = Plan::new().issue();
    let mut paper = Paper::leaf();
    paper
        .params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "another enclave");
    let forged = paper.issued_by(Some(&chain.leaf));
    let mut bundle = chain.cabundle();
    bundle.push(chain.leaf.der.clone());
    let payload = crate::forge::Payload::new(&forged.der, &bundle);
    let document = crate::forge::sign(&payload.to_bytes(), &forged);
    let refused = anchorhold_attestation::Unverified::parse(&document)
        .unwrap()
        .verify(&[chain.anchor()], Time::Document)
        .unwrap_err();
    assert_eq!(
        refused,
        VerifyError::Chain(ChainError::NotCa {
            position: CertificatePosition::Cabundle(4)
        })
    );
}

#[test]
fn an_issuer_whose_key_is_not_for_certificates_is_refused() {
    for usages in [vec![], vec![KeyUsagePurpose::DigitalSignature]] {
        let mut plan = Plan::new();
        plan.issuers[0].params.key_usages = usages;
        assert!(matches!(
            refusal(plan),
            ChainError::KeyUsage {
                position: CertificatePosition::Cabundle(1),
                ..
            }
        ));
    }
}

#[test]
fn a_leaf_whose_key_is_not_for_signatures_is_refused() {
    for usages in [vec![], vec![KeyUsagePurpose::KeyAgreement]] {
        let mut plan = Plan::new();
        plan.leaf.params.key_usages = usages;
        assert!(matches!(
            refusal(plan),
            ChainError::KeyUsage {
                position: CertificatePosition::Leaf,
                ..
            }
        ));
    }
}

#[test]
fn a_ca_in_the_leafs_place_is_refused() {
    let mut plan = Plan::new();
    plan.leaf.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    plan.issuers[2].params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(refusal(plan), ChainError::LeafIsCa);
}

#[test]
fn a_path_longer_than_its_issuer_allows_is_refused() {
    let mut plan = Plan::new();
    plan.issuers[0].params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    assert_eq!(
        refusal(plan),
        ChainError::PathLength {
            position: CertificatePosition::Cabundle(1),
            allowed: 1,
            found: 2
        }
    );
    let mut plan = Plan::new();
    plan.root.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
    assert_eq!(
        refusal(plan),
        ChainError::PathLength {
            position: CertificatePosition::Anchor,
            allowed: 2,
            found: 3
        }
    );
}

#[test]
fn a_root_that_is_absent_does_not_hide_which_signature_is_wrong() {
    let chain = Plan::new().issue();
    let mut cabundle = chain.cabundle();
    cabundle[0] = b"anything".to_vec();
    *cabundle[2].last_mut().unwrap() ^= 1;
    let document = chain.document(&Payload::new(&chain.leaf.der, &cabundle));
    assert_eq!(
        document
            .verify(&[chain.anchor()], Time::Document)
            .unwrap_err(),
        VerifyError::Chain(ChainError::Signature {
            position: CertificatePosition::Cabundle(2)
        })
    );
}

#[test]
fn refusals_name_certificate_and_time_for_people() {
    let mut plan = Plan::new();
    plan.leaf.params.not_after = instant(NOW_MS - HOUR_MS).into();
    plan.leaf.params.not_before = instant(NOW_MS - 2 * HOUR_MS).into();
    assert_eq!(
        refusal(plan).to_string(),
        "the leaf certificate was valid until 2025-06-15T14:06:40Z and the time asked about is \
         2025-06-15T15:06:40Z"
    );
    let mut plan = Plan::new();
    plan.issuers[1].params.not_before = instant(NOW_MS + HOUR_MS).into();
    assert_eq!(
        refusal(plan).to_string(),
        "cabundle[2] is valid from 2025-06-15T16:06:40Z and the time asked about is \
         2025-06-15T15:06:40Z"
    );
    let mut plan = Plan::new();
    plan.root.params.not_after = instant(NOW_MS - HOUR_MS).into();
    plan.root.params.not_before = instant(NOW_MS - 2 * HOUR_MS).into();
    assert!(
        refusal(plan)
            .to_string()
            .starts_with("the anchor was valid until 2025")
    );
}

#[test]
fn path_lengths_that_are_just_enough_are_followed() {
    let mut plan = Plan::new();
    plan.root.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(3));
    let chain = plan.issue();
    let document = chain.document(&chain.payload());
    for engine in engines() {
        assert!(verify(engine, &document, chain.anchor()).is_ok());
    }
}

#[test]
fn a_certificate_that_its_issuer_did_not_sign_is_named() {
    for (index, position) in [
        (0, CertificatePosition::Cabundle(1)),
        (1, CertificatePosition::Cabundle(2)),
        (2, CertificatePosition::Cabundle(3)),
        (3, CertificatePosition::Leaf),
    ] {
        let chain = Plan::new().issue();
        let mut cabundle = chain.cabundle();
        let mut leaf = chain.leaf.der.clone();
        let damaged = cabundle.get_mut(index + 1).unwrap_or(&mut leaf);
        // A bit of the signature's s, which leaves the DER as it was.
        *damaged.last_mut().unwrap() ^= 1;
        let document = chain.document(&Payload::new(&leaf, &cabundle));
        for engine in engines() {
            assert_eq!(
                verify(engine, &document, chain.anchor()).unwrap_err(),
                VerifyError::Chain(ChainError::Signature { position })
            );
        }
    }
}

#[test]
fn critical_extensions_that_nobody_knows_are_refused() {
    let mut plan = Plan::new();
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    plan.issuers[1].params.custom_extensions = vec![extension];
    assert!(matches!(refusal(plan), ChainError::Path(_)));
}

#[test]
fn a_leaf_for_servers_only_is_refused() {
    let mut plan = Plan::new();
    plan.leaf.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(matches!(refusal(plan), ChainError::Path(_)));
}

#[test]
fn keys_on_another_curve_are_refused_everywhere() {
    let mut plan = Plan::new();
    plan.issuers[1].algorithm = &PKCS_ECDSA_P256_SHA256;
    assert_eq!(
        refusal(plan),
        ChainError::NotP384 {
            position: CertificatePosition::Cabundle(2)
        }
    );
    let mut root = Paper::ca("root", BasicConstraints::Unconstrained);
    root.algorithm = &PKCS_ECDSA_P256_SHA256;
    let root = root.issued_by(None);
    assert!(matches!(
        Anchor::from_der(&root.der),
        Err(AnchorError::NotP384)
    ));
    let chain = Plan::new().issue();
    let mut leaf = Paper::leaf();
    leaf.algorithm = &PKCS_ECDSA_P256_SHA256;
    let leaf = leaf.issued_by(chain.issuers.last());
    let payload = chain.payload().set("certificate", bytes(&leaf.der));
    assert_eq!(
        chain
            .document(&payload)
            .verify(&[chain.anchor()], Time::Document)
            .unwrap_err(),
        VerifyError::Chain(ChainError::NotP384 {
            position: CertificatePosition::Leaf
        })
    );
}

#[test]
fn certificates_that_are_none_are_named() {
    let chain = Plan::new().issue();
    let mut bundle: Vec<Value> = chain.cabundle().iter().map(bytes).collect();
    bundle[2] = bytes([0; 64]);
    for (payload, position) in [
        (
            chain.payload().set("certificate", bytes([0; 64])),
            CertificatePosition::Leaf,
        ),
        (
            chain.payload().set("cabundle", Value::Array(bundle)),
            CertificatePosition::Cabundle(2),
        ),
        (
            chain.payload().set(
                "certificate",
                bytes([chain.leaf.der.as_slice(), &[0]].concat()),
            ),
            CertificatePosition::Leaf,
        ),
    ] {
        match chain
            .document(&payload)
            .verify(&[chain.anchor()], Time::Document)
        {
            Err(VerifyError::Chain(ChainError::Malformed {
                position: found, ..
            })) => assert_eq!(found, position),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn expiry_names_the_certificate() {
    let expired = instant(NOW_MS - 1000).into();
    let mut plan = Plan::new();
    plan.issuers[1].params.not_after = expired;
    assert_eq!(
        refusal(plan),
        ChainError::Expired {
            position: CertificatePosition::Cabundle(2),
            not_after: NOW_MS / 1000 - 1,
            at: NOW_MS / 1000,
        }
    );
    let mut plan = Plan::new();
    plan.leaf.params.not_before = instant(NOW_MS + 1000).into();
    assert_eq!(
        refusal(plan),
        ChainError::NotYetValid {
            position: CertificatePosition::Leaf,
            not_before: NOW_MS / 1000 + 1,
            at: NOW_MS / 1000,
        }
    );
    let mut plan = Plan::new();
    plan.root.params.not_after = expired;
    assert!(matches!(
        refusal(plan),
        ChainError::Expired {
            position: CertificatePosition::Anchor,
            ..
        }
    ));
}

#[test]
fn a_certificate_twice_in_a_bundle_is_refused() {
    let chain = Plan::new().issue();
    let mut bundle = chain.cabundle();
    bundle.insert(1, bundle[0].clone());
    let payload = crate::forge::Payload::new(&chain.leaf.der, &bundle);
    // The root in an intermediate's place issues itself, and bears its own name twice.
    let refused = chain
        .document(&payload)
        .verify(&[chain.anchor()], Time::Document);
    assert!(matches!(refused, Err(VerifyError::Chain(_))), "{refused:?}");
}

#[test]
fn anchors_must_be_cas_for_certificates() {
    let chain = Plan::new().issue();
    assert!(matches!(
        Anchor::from_der(&chain.leaf.der),
        Err(AnchorError::NotCa)
    ));
    let mut root = Paper::ca("root", BasicConstraints::Unconstrained);
    root.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert!(matches!(
        Anchor::from_der(&root.issued_by(None).der),
        Err(AnchorError::KeyUsage)
    ));
}
