//! One document, verified again and again on one core: raw P-384 signatures, this crate cold and with
//! the chain remembered, by both engines, and `attestation-doc-validation`. That one reads the
//! system's clock, so that `attestation/benches/run` sets it to the document's time by libfaketime.
//!
//! At the end a table of the medians, and their ratios to what is aimed for.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anchorhold_attestation::{Anchor, Engine, Time, Unverified, Verifier};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey, UnparsedPublicKey};
use criterion::Criterion;
use x509_cert::der::Decode as _;

/// An accepted document with a PCR of every kind, signed by AWS in 2023.
const DOCUMENT: &str = "061b9b75a3a6.cbor";

fn document() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../../shared/attestation-documents")
        .join(DOCUMENT);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The signature that a document ends with, what it covers, and the key that made it: what no
/// verifier can do without.
struct Raw {
    point: Vec<u8>,
    message: Vec<u8>,
    signature: [u8; 96],
}

impl Raw {
    fn of(bytes: &[u8]) -> Raw {
        use ciborium::Value;
        let cose: Value = ciborium::from_reader(bytes).expect("CBOR");
        let parts = cose.as_array().expect("COSE_Sign1");
        let structure = Value::Array(vec![
            Value::Text("Signature1".into()),
            parts[0].clone(),
            Value::Bytes(Vec::new()),
            parts[2].clone(),
        ]);
        let mut message = Vec::new();
        ciborium::into_writer(&structure, &mut message).expect("memory");
        let unverified = Unverified::parse(bytes).expect("a document");
        let leaf = x509_cert::Certificate::from_der(unverified.claimed().certificate())
            .expect("a certificate");
        Raw {
            point: leaf
                .tbs_certificate()
                .subject_public_key_info()
                .subject_public_key
                .raw_bytes()
                .to_vec(),
            message,
            signature: *unverified.claimed().signature(),
        }
    }
}

/// Calls per second: the median of `rounds`, which alternate between all subjects so that a machine
/// that slows down slows all of them.
fn table(subjects: &mut [(&str, &mut dyn FnMut())]) -> Vec<f64> {
    const ROUNDS: usize = 15;
    const CALLS: u32 = 60;
    let mut rates = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for ((_, call), rates) in subjects.iter_mut().zip(&mut rates) {
            let start = Instant::now();
            for _ in 0..CALLS {
                call();
            }
            rates.push(f64::from(CALLS) / start.elapsed().as_secs_f64());
        }
    }
    rates
        .into_iter()
        .map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[ROUNDS / 2]
        })
        .collect()
}

fn main() {
    let bytes = document();
    let raw = Raw::of(&bytes);
    let anchors = [Anchor::aws_nitro()];
    let cold = |engine| {
        let verifier = Verifier::new(anchors.clone()).with_engine(engine);
        let bytes = bytes.clone();
        move || {
            let document = Unverified::parse(black_box(&bytes)).expect("its form is right");
            black_box(verifier.verify(&document, Time::Document)).expect("it is true");
        }
    };
    let warm = |engine| {
        let verifier = Verifier::new(anchors.clone()).with_engine(engine).remembering(16);
        let bytes = bytes.clone();
        move || {
            let document = Unverified::parse(black_box(&bytes)).expect("its form is right");
            black_box(verifier.verify(&document, Time::Document)).expect("it is true");
        }
    };
    let mut raw_aws = || {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, black_box(&raw.point))
            .verify(&raw.message, &raw.signature)
            .expect("it is right");
    };
    let parsed = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &raw.point).expect("a key");
    let mut raw_aws_parsed = || {
        parsed
            .verify_sig(black_box(&raw.message), &raw.signature)
            .expect("it is right");
    };
    let mut raw_p384 = || {
        use p384::ecdsa::signature::Verifier as _;
        p384::ecdsa::VerifyingKey::from_sec1_bytes(black_box(&raw.point))
            .expect("a key")
            .verify(
                &raw.message,
                &p384::ecdsa::Signature::from_slice(&raw.signature).expect("a signature"),
            )
            .expect("it is right");
    };
    let (mut cold_aws, mut warm_aws) = (cold(Engine::AwsLcRs), warm(Engine::AwsLcRs));
    let (mut cold_p384, mut warm_p384) = (cold(Engine::P384), warm(Engine::P384));
    let mut parse = || drop(black_box(Unverified::parse(black_box(&bytes))));
    let other_works = attestation_doc_validation::validate_attestation_doc(&bytes);
    if let Err(error) = &other_works {
        eprintln!("attestation-doc-validation refuses the document: {error}; run attestation/benches/run");
    }
    let mut other = || {
        black_box(attestation_doc_validation::validate_attestation_doc(black_box(&bytes)))
            .expect("it is accepted");
    };

    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("parse", |bench| bench.iter(&mut parse));
    criterion.bench_function("raw/aws-lc-rs", |bench| bench.iter(&mut raw_aws));
    criterion.bench_function("raw/p384", |bench| bench.iter(&mut raw_p384));
    criterion.bench_function("cold/aws-lc-rs", |bench| bench.iter(&mut cold_aws));
    criterion.bench_function("cold/p384", |bench| bench.iter(&mut cold_p384));
    criterion.bench_function("warm/aws-lc-rs", |bench| bench.iter(&mut warm_aws));
    criterion.bench_function("warm/p384", |bench| bench.iter(&mut warm_p384));
    if other_works.is_ok() {
        criterion.bench_function("attestation-doc-validation", |bench| bench.iter(&mut other));
    }
    criterion.final_summary();

    let mut subjects: Vec<(&str, &mut dyn FnMut())> = vec![
        ("raw P-384 signature, aws-lc-rs", &mut raw_aws),
        ("raw P-384 signature, aws-lc-rs, key parsed before", &mut raw_aws_parsed),
        ("raw P-384 signature, p384", &mut raw_p384),
        ("cold, aws-lc-rs", &mut cold_aws),
        ("chain remembered, aws-lc-rs", &mut warm_aws),
        ("cold, p384", &mut cold_p384),
        ("chain remembered, p384", &mut warm_p384),
    ];
    if other_works.is_ok() {
        subjects.push(("attestation-doc-validation 0.10.1", &mut other));
    }
    let rates = table(&mut subjects);
    println!("\n| | documents or signatures per second |\n|---|---:|");
    for ((name, _), rate) in subjects.iter().zip(&rates) {
        println!("| {name} | {rate:.0} |");
    }
    let [raw_aws, _, raw_p384, cold_aws, warm_aws, cold_p384, warm_p384] = rates[..7] else {
        unreachable!("seven subjects at least")
    };
    println!("\ncold, of a fifth of the raw rate: {:.2} (aws-lc-rs), {:.2} (p384); aim 0.8", 5.0 * cold_aws / raw_aws, 5.0 * cold_p384 / raw_p384);
    println!("chain remembered, of the raw rate: {:.2} (aws-lc-rs), {:.2} (p384); aim 0.8", warm_aws / raw_aws, warm_p384 / raw_p384);
    if let Some(other) = rates.get(7) {
        println!("times attestation-doc-validation: {:.1} cold (aim 3), {:.1} with the chain remembered (aim 15)", cold_aws / other, warm_aws / other);
    }
}
