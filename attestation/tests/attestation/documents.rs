//! Documents that AWS has signed. They are not part of the repository; without them these tests say
//! so and pass, but not on CI.

use std::path::{Path, PathBuf};

use anchorhold_attestation::{Anchor, Engine, Expectations, Pcr, Time, Unverified, VerifyError};
use serde_json::Value;

use crate::engines;

#[expect(clippy::print_stderr, reason = "what is not tested must be seen")]
fn folder() -> Option<PathBuf> {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/attestation-documents"
    ));
    if folder.join("index.json").exists() {
        return Some(folder.to_owned());
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "the documents are absent: {}",
        folder.display()
    );
    eprintln!("WARNING: NOT TESTED: no documents in {}", folder.display());
    None
}

/// Index entry and bytes of each document.
pub(crate) fn documents() -> Vec<(Value, Vec<u8>)> {
    let Some(folder) = folder() else {
        return Vec::new();
    };
    let index = std::fs::read(folder.join("index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_slice(&index).unwrap();
    assert_eq!(index.len(), 12);
    index
        .into_iter()
        .map(|entry| {
            let bytes = std::fs::read(folder.join(entry["file"].as_str().unwrap())).unwrap();
            (entry, bytes)
        })
        .collect()
}

/// As in the index: "accept", "debug" or "reject-signature"; anything else is a refusal.
fn verdict(bytes: &[u8], engine: Engine, anchor: Anchor) -> String {
    let unverified = match Unverified::parse(bytes) {
        Ok(unverified) => unverified,
        Err(error) => return format!("parse: {error}"),
    };
    match crate::verify(engine, &unverified, anchor) {
        Err(VerifyError::Signature) => "reject-signature".to_owned(),
        Err(error) => format!("verify: {error}"),
        Ok(verified) => {
            let debug = verified.is_debug();
            let admitted = verified.admit(&Expectations::new().any_image());
            assert_eq!(admitted.is_err(), debug);
            if debug { "debug" } else { "accept" }.to_owned()
        }
    }
}

#[test]
fn each_document_gets_its_verdict_from_each_engine() {
    for (entry, bytes) in documents() {
        for engine in engines() {
            assert_eq!(
                verdict(&bytes, engine, Anchor::aws_nitro()),
                entry["verdict_at_its_own_timestamp"],
                "{} by {engine:?}",
                entry["file"]
            );
        }
    }
}

#[test]
fn each_documents_facts_are_those_of_the_index() {
    for (entry, bytes) in documents() {
        if entry["verdict_at_its_own_timestamp"] == "reject-signature" {
            continue;
        }
        let verified = Unverified::parse(&bytes)
            .unwrap()
            .verify(&[Anchor::aws_nitro()], Time::Document)
            .unwrap();
        assert_eq!(verified.module_id(), entry["module_id"]);
        assert_eq!(verified.pcrs().count() as u64, entry["pcr_count"]);
        let nonzero: Vec<u8> = verified
            .pcrs()
            .filter(|(_, pcr)| !pcr.is_zero())
            .map(|(index, _)| index)
            .collect();
        assert_eq!(serde_json::json!(nonzero), entry["nonzero_pcrs"]);
        for (found, key) in [
            (verified.nonce(), "nonce_bytes"),
            (verified.user_data(), "user_data_bytes"),
            (verified.public_key(), "public_key_bytes"),
        ] {
            assert_eq!(serde_json::json!(found.map(<[u8]>::len)), entry[key]);
        }
        let instance = verified.module_id().split("-enc").next().unwrap();
        assert_eq!(verified.pcr(4), Some(Pcr::of_instance(instance)));
        assert_eq!(
            verified.anchor_fingerprint(),
            Anchor::aws_nitro().fingerprint()
        );
        let left = verified.certificate_not_after_ms() - verified.timestamp_ms();
        assert!(left <= 3 * 3600 * 1000 + 3000, "a leaf lives three hours");
    }
}

#[test]
fn old_documents_are_refused_when_judged_now() {
    for (entry, bytes) in documents() {
        let time = Time::Now {
            now_ms: 1_800_000_000_000,
            max_age_ms: u64::MAX,
            max_skew_ms: 0,
        };
        let refused = Unverified::parse(&bytes)
            .unwrap()
            .verify(&[Anchor::aws_nitro()], time);
        assert!(
            matches!(refused, Err(VerifyError::Chain(_))),
            "{}",
            entry["file"]
        );
    }
}

#[test]
fn a_tag_before_a_document_changes_nothing() {
    for (entry, bytes) in documents() {
        let tagged = [&[0xd2], bytes.as_slice()].concat();
        assert_eq!(
            verdict(&tagged, Engine::default(), Anchor::aws_nitro()),
            entry["verdict_at_its_own_timestamp"]
        );
    }
}
