//! The questions: all of the corpus, channels, and what is no question.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anchorhold_attestation::Pcr;
use anchorhold_corpus::{Arguments, Case, Corpus, JudgeAt, Verdict};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::*;

fn said(question: &Value) -> Value {
    serde_json::from_slice(&ask(question.to_string().as_bytes())).expect("JSON")
}

/// The case, as a package of another language asks it.
fn question_of(case: &Case, corpus: &Corpus) -> Value {
    let Arguments {
        anchors,
        judge_at,
        freshness,
        pcrs,
        nonce,
        user_data,
        public_key,
        module_id,
        any_image,
        allow_debug,
        ignore_unknown_keys,
    } = &case.arguments;
    let time = match (judge_at, freshness) {
        (JudgeAt::Document, _) => json!("document"),
        (JudgeAt::Instant(at), None) => json!({ "at": at }),
        (JudgeAt::Instant(now), Some(freshness)) => json!({
            "now_ms": now, "max_age_ms": freshness.max_age_ms, "max_skew_ms": freshness.max_skew_ms,
        }),
    };
    let pcrs: serde_json::Map<String, Value> = pcrs
        .iter()
        .map(|(index, allowed)| {
            let allowed: Vec<String> = allowed.iter().map(Pcr::to_string).collect();
            (index.to_string(), json!(allowed))
        })
        .collect();
    let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(hex::encode);
    let anchors: Vec<&String> = anchors.iter().map(|name| &corpus.anchors[name]).collect();
    json!({
        "do": "verify",
        "document": hex::encode(&case.document),
        "time": time,
        "ignore_unknown_keys": ignore_unknown_keys,
        "terms": {
            "anchors": anchors,
            "expect": {
                "pcrs": pcrs, "nonce": hex(nonce), "user_data": hex(user_data), "public_key": hex(public_key),
                "module_id": module_id, "any_image": any_image, "allow_debug": allow_debug,
            },
        },
    })
}

#[test]
fn every_case_of_the_corpus_is_judged_as_it_demands_by_name() {
    let corpus = Corpus::embedded().expect("the corpus");
    for case in &corpus.cases {
        let said = said(&question_of(case, &corpus));
        match &case.verdict {
            Verdict::Admit => assert!(said["admitted"].is_object(), "{}: {said}", case.name),
            Verdict::Refuse(names) => {
                let found: BTreeSet<String> =
                    serde_json::from_value(said["refused"]["names"].clone())
                        .unwrap_or_else(|_| panic!("{}: {said}", case.name));
                assert_eq!(found, *names, "{}", case.name);
            }
        }
    }
    assert!(corpus.cases.len() >= 368);
}

/// A document of a simulated enclave.
fn document(root: &DevelopmentRoot, claims: [Option<Vec<u8>>; 3], now: SystemTime) -> Vec<u8> {
    let config = NsmConfig {
        pcr0: Pcr::from_bytes([0xaa; 48]),
        pcr1: Pcr::from_bytes([1; 48]),
        pcr2: Pcr::from_bytes([2; 48]),
        ..NsmConfig::default()
    };
    // Its certificate is older than the documents that are from the future for some.
    let nsm = Nsm::new(root, config, now - Duration::from_hours(1)).expect("an NSM");
    let [nonce, public_key, user_data] = claims.map(|bytes| bytes.map(ByteBuf::from));
    let request = serde_cbor::to_vec(&Request::Attestation {
        user_data,
        nonce,
        public_key,
    })
    .expect("CBOR");
    match serde_cbor::from_slice(&nsm.handle(&request, now)).expect("CBOR") {
        Response::Attestation { document } => document,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_channel_s_document_is_of_this_key_this_channel_and_this_nonce() {
    use rcgen::PublicKeyData as _;

    let root = DevelopmentRoot::generate().expect("a root");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["enclave.invalid".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let now = SystemTime::now();
    let now_ms = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let (nonce, exporter) = (vec![9; 32], [7; 32]);
    let honest = document(
        &root,
        [
            Some(nonce.clone()),
            Some(key.subject_public_key_info()),
            Some(user_data(&exporter)),
        ],
        now,
    );
    let question = |change: &dyn Fn(&mut Value)| {
        let mut question = json!({
            "do": "channel",
            "document": hex::encode(&honest),
            "nonce": hex::encode(&nonce),
            "certificate": hex::encode(certificate.der()),
            "exporter": hex::encode(exporter),
            "now_ms": now_ms,
            "clock_error_ms": 300_000,
            "terms": { "anchors": [root.certificate_pem()], "expect": { "pcrs": { "0": ["aa".repeat(48)] } } },
        });
        change(&mut question);
        said(&question)
    };
    let admitted = question(&|_| {});
    assert_eq!(admitted["admitted"]["pcrs"]["0"], "aa".repeat(48));
    for (names, change) in [
        (
            json!(["nonce"]),
            &(|q: &mut Value| q["nonce"] = json!("08".repeat(32))) as &dyn Fn(&mut Value),
        ),
        (json!(["user-data"]), &|q| {
            q["exporter"] = json!("08".repeat(32));
        }),
        (json!(["pcr"]), &|q| {
            q["terms"]["expect"]["pcrs"]["0"] = json!(["bb".repeat(48)]);
        }),
        (json!(["no-image-expected"]), &|q| {
            q["terms"]["expect"] = json!({});
        }),
        (json!(["too-old"]), &|q| {
            q["now_ms"] = json!(now_ms + 300_001);
        }),
        (json!(["from-the-future"]), &|q| {
            q["now_ms"] = json!(now_ms - 300_001);
        }),
        (json!(["certificate"]), &|q| q["certificate"] = json!("30")),
        (json!(["public-key"]), &|q| {
            let other = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).expect("papers");
            q["certificate"] = json!(hex::encode(other.cert.der()));
        }),
    ] {
        assert_eq!(question(change)["refused"]["names"], names);
    }
    // AWS's root is the one that is trusted where nothing is said.
    let aws = question(&|q| {
        q["terms"].as_object_mut().expect("terms").remove("anchors");
    });
    assert_eq!(aws["refused"]["step"], "truth", "{aws}");
}

#[test]
fn what_is_not_understood_is_an_error_and_never_an_admission() {
    let corpus = Corpus::embedded().expect("the corpus");
    let case = corpus
        .cases
        .iter()
        .find(|case| case.name == "policy/all-as-expected")
        .expect("the case");
    let change = |path: &str, value: Value| {
        let mut question = question_of(case, &corpus);
        let (parent, key) = path.rsplit_once('/').expect("a path");
        question.pointer_mut(parent).expect("a place")[key] = value;
        let said = said(&question);
        assert!(said["error"].is_string(), "{path}: {said}");
    };
    for (path, value) in [
        ("/terms/expect/pcr0", json!("aa")),
        ("/terms/expect/pcrs/32", json!([])),
        ("/terms/expect/pcrs/00", json!([])),
        ("/terms/expect/pcrs/1", json!(["aa"])),
        ("/terms/expect/pcrs/1", json!("aa")),
        ("/terms/expect/nonce", json!("0")),
        ("/terms/expect/any_image", json!("no")),
        ("/terms/expected", json!({})),
        ("/terms/anchors", json!(["aws"])),
        ("/terms/anchors", json!("aws-nitro")),
        ("/time", json!("now")),
        ("/time", json!({ "now_ms": 1 })),
        ("/time", json!({ "at": -1 })),
        ("/document", json!("xy")),
        ("/do", json!("admit")),
        ("/more", json!(1)),
    ] {
        change(path, value);
    }
    let long = vec![b' '; MAX_QUESTION_BYTES + 1];
    for bytes in [&b""[..], b"{}", b"[]", b"\xff", &long] {
        let said: Value = serde_json::from_slice(&ask(bytes)).expect("JSON");
        assert!(said["error"].is_string(), "{said}");
    }
}

#[test]
fn questions_and_answers_of_channels_are_those_of_the_rust_library() {
    let asked = said(&json!({ "do": "question", "nonce": "ab".repeat(32), "host": "e.example" }));
    let text = hex::decode(asked["question"].as_str().expect("a question")).expect("hex");
    assert!(text.starts_with(b"GET /.well-known/attestation?nonce=abab"));
    for (nonce, host) in [("ab", "e"), ("ab".repeat(32).as_str(), "e\r\n")] {
        let said = said(&json!({ "do": "question", "nonce": nonce, "host": host }));
        assert!(said["error"].is_string(), "{said}");
    }
    let answer = |text: &str| said(&json!({ "do": "answer", "bytes": hex::encode(text) }));
    let whole = answer("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcmore");
    assert_eq!(
        whole,
        json!({ "document": { "document": "616263", "used": 41 } })
    );
    assert_eq!(answer("HTTP/1.1 200"), json!({ "more": 1 }));
    assert_eq!(
        answer("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na"),
        json!({ "more": 2 })
    );
    for (text, name) in [
        ("HTTP/1.1 503 Busy\r\n\r\n", "status"),
        ("220 mail\r\n\r\n", "answer"),
    ] {
        assert_eq!(answer(text)["refused"]["names"], json!([name]));
    }
}

proptest! {
    #[test]
    fn no_question_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\{\"do\":\"(verify|answer|channel|question)\",.*\\}") {
        for question in [bytes.as_slice(), text.as_bytes()] {
            let said: Value = serde_json::from_slice(&ask(question)).expect("JSON");
            prop_assert!(said.is_object());
        }
    }
}
