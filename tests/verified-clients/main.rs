//! The clients in Rust, Node and Python, each on the whole conformance corpus, on documents that AWS's hardware has signed, in
//! front of a real enclave, and in front of parents that lie. Set up by `tests/verified-clients/setup DIR`, found in
//! `ANCHORHOLD_VERIFIED_CLIENTS`.

#[path = "../common/mod.rs"]
mod common;
mod doors;
mod large;
mod stage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anchorhold_attestation::{Anchor, Expectations, Pcr, Time, Unverified};
use anchorhold_corpus::{Case, Corpus, JudgeAt, Verdict};
use common::House;
use serde_json::{Value, json};
use stage::{Liar, http};

/// Languages of clients that are programs of their own, besides Rust's library, which is part of this suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Language {
    Node,
    Python,
}

pub(crate) const LANGUAGES: [Language; 2] = [Language::Node, Language::Python];

fn folder() -> PathBuf {
    std::env::var_os("ANCHORHOLD_VERIFIED_CLIENTS")
        .expect(
            "ANCHORHOLD_VERIFIED_CLIENTS names the folder that tests/verified-clients/setup made",
        )
        .into()
}

/// Runs a language's script on a plan; what it says, line by line.
pub(crate) fn drive(house: &House, language: Language, plan: &Value) -> Vec<Value> {
    let plan = house.write("plan.json", plan.to_string());
    let folder = folder();
    let script = Path::new(common::WORKSPACE).join("tests/verified-clients");
    let mut command = match language {
        Language::Node => {
            // Packages are looked for beside the script.
            let beside = folder.join("node/drive.mjs");
            std::fs::copy(script.join("drive.mjs"), &beside).expect("a copy");
            let mut command = Command::new("node");
            command.arg(beside);
            command
        }
        Language::Python => {
            let mut command = Command::new(folder.join("venv/bin/python3"));
            command.arg(script.join("drive.py"));
            command
        }
    };
    let output = command.arg(plan).output().expect("the client runs");
    assert!(
        output.status.success(),
        "{language:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// A document and what a verifier is told, for the scripts.
fn told(case: &Case, corpus: &Corpus) -> Value {
    let told = &case.arguments;
    let time = match (told.judge_at, told.freshness) {
        (JudgeAt::Document, _) => json!("document"),
        (JudgeAt::Instant(at), None) => json!({ "at": at }),
        (JudgeAt::Instant(now), Some(freshness)) => json!({
            "now_ms": now, "max_age_ms": freshness.max_age_ms, "max_skew_ms": freshness.max_skew_ms,
        }),
    };
    let pcrs: serde_json::Map<String, Value> = told
        .pcrs
        .iter()
        .map(|(index, allowed)| {
            let allowed: Vec<String> = allowed.iter().map(Pcr::to_string).collect();
            (index.to_string(), json!(allowed))
        })
        .collect();
    let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(hex::encode);
    let anchors: Vec<&String> = told
        .anchors
        .iter()
        .map(|name| &corpus.anchors[name])
        .collect();
    json!({
        "name": case.name, "document": hex::encode(&case.document), "time": time,
        "ignoreUnknownKeys": told.ignore_unknown_keys, "anchors": anchors,
        "expect": {
            "pcrs": pcrs, "nonce": hex(&told.nonce), "user_data": hex(&told.user_data),
            "public_key": hex(&told.public_key), "module_id": told.module_id, "any_image": told.any_image,
            "allow_debug": told.allow_debug,
        },
    })
}

/// A plan's terms for scripts that connect to nobody.
fn nobody() -> Value {
    json!({ "roots": ["aws-nitro"], "pcr0": "ab".repeat(48) })
}

#[test]
fn every_case_of_the_corpus_is_judged_as_it_demands_by_name() {
    let house = House::new();
    let corpus = Corpus::embedded().expect("the corpus");
    let documents: Vec<Value> = corpus
        .cases
        .iter()
        .map(|case| told(case, &corpus))
        .collect();
    for language in LANGUAGES {
        let mut plan = nobody();
        plan["documents"] = json!(documents);
        let said = drive(&house, language, &plan);
        assert_eq!(said.len(), corpus.cases.len());
        for (case, said) in corpus.cases.iter().zip(&said) {
            assert_eq!(said["name"], case.name);
            match &case.verdict {
                Verdict::Admit => assert_eq!(said["outcome"], "admitted", "{language:?}: {said}"),
                Verdict::Refuse(names) => {
                    assert_eq!(said["outcome"], "refused", "{language:?}: {said}");
                    let found: BTreeSet<String> =
                        serde_json::from_value(said["names"].clone()).expect("names");
                    assert_eq!(found, *names, "{language:?}: {said}");
                }
            }
        }
    }
    assert!(corpus.cases.len() >= 368);
}

#[test]
fn documents_that_aws_has_signed_are_judged_as_the_rust_library_does() {
    let Some(shared) = common::shared("attestation-documents") else {
        return;
    };
    let index = std::fs::read_to_string(shared.join("index.json")).expect("an index");
    let index: Vec<Value> = serde_json::from_str(&index).expect("JSON");
    let mut documents = Vec::new();
    let mut expected = Vec::new();
    for entry in &index {
        let name = entry["file"].as_str().expect("a name");
        let document = std::fs::read(shared.join(name)).expect("a document");
        let judged = Unverified::parse(&document)
            .map_err(|error| error.name())
            .and_then(|document| {
                document
                    .verify(&[Anchor::aws_nitro()], Time::Document)
                    .map_err(|error| error.name())
            })
            .and_then(|verified| {
                verified
                    .admit(&Expectations::new().any_image())
                    .map_err(|refusal| refusal.differences[0].name())
            });
        documents.push(json!({
            "name": name, "document": hex::encode(&document), "time": "document", "ignoreUnknownKeys": false,
            "anchors": ["aws-nitro"],
            "expect": {
                "pcrs": {}, "nonce": null, "user_data": null, "public_key": null, "module_id": null,
                "any_image": true, "allow_debug": false,
            },
        }));
        expected.push(match judged {
            Ok(admitted) => {
                assert_eq!(entry["verdict_at_its_own_timestamp"], "accept");
                json!({
                    "name": name, "outcome": "admitted", "moduleId": admitted.module_id(),
                    "pcr0": admitted.pcr(0).map(|pcr| pcr.to_string()),
                })
            }
            Err(refusal) => json!({ "name": name, "outcome": "refused", "names": [refusal] }),
        });
    }
    assert!(expected.iter().any(|one| one["outcome"] == "admitted"));
    let house = House::new();
    for language in LANGUAGES {
        let mut plan = nobody();
        plan["documents"] = json!(documents);
        for (said, expected) in drive(&house, language, &plan).iter().zip(&expected) {
            for (key, value) in expected.as_object().expect("an object") {
                assert_eq!(said[key], *value, "{language:?}: {said}");
            }
        }
    }
}

#[test]
fn no_document_of_the_corpus_makes_a_channel() {
    let corpus = Corpus::embedded().expect("the corpus");
    let house = House::new();
    let roots: Vec<&String> = corpus.anchors.values().collect();
    for (language, way) in [(Language::Node, "https"), (Language::Python, "socket")] {
        let documents: Vec<Vec<u8>> = corpus
            .cases
            .iter()
            .map(|case| case.document.clone())
            .collect();
        let cases = documents.len();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let liar = Liar::new(move |_| {
            let turn = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            http(&documents[turn % documents.len()])
        });
        // As lenient as a caller can be.
        let plan = json!({
            "roots": roots, "lenient": true,
            "doors": [{ "name": "corpus", "port": liar.port, "attempts": cases, "only": way }],
        });
        let said = drive(&house, language, &plan);
        assert_eq!(said.len(), cases);
        for (case, said) in corpus.cases.iter().zip(&said) {
            assert_eq!(
                said["outcome"], "refused",
                "{language:?} {}: {said}",
                case.name
            );
            // What is wrong with a document's form is said by the same name.
            if let Verdict::Refuse(names) = &case.verdict
                && said["step"] == "form"
                && !case.arguments.ignore_unknown_keys
            {
                let found = said["names"][0].as_str().expect("a name");
                assert!(names.contains(found), "{language:?} {}: {said}", case.name);
            }
        }
        assert!(liar.heard.lock().expect("no panic").is_empty());
        assert!(said.iter().filter(|said| said["step"] == "form").count() >= 130);
    }
}

#[test]
fn the_types_say_what_may_be_asked_and_forbid_a_way_around_the_check() {
    let folder = folder().join("node");
    let source = Path::new(common::WORKSPACE).join("tests/verified-clients/types.ts");
    std::fs::copy(source, folder.join("types.ts")).expect("a copy");
    let arguments = [
        "node_modules/typescript/bin/tsc",
        "--noEmit",
        "--strict",
        "--exactOptionalPropertyTypes",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--types",
        "node",
        "types.ts",
    ];
    let output = Command::new("node")
        .args(arguments)
        .current_dir(&folder)
        .output()
        .expect("tsc runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
