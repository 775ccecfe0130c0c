//! The declaration of the corpus: every case, why it is there, and how its document is made. The files
//! in `cases` and `anchors` are its output, byte for byte, on every machine. To write them anew:
//!
//! ```text
//! ANCHORHOLD_WRITE_CORPUS=1 cargo test -p anchorhold-corpus --test declaration -- the_files
//! ```
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "this is a test, and its failure may be a panic"
)]

mod cbor;
mod chain;
mod content;
mod cose;
mod der;
mod document;
mod key;
mod paper;
mod policy;
mod structure;
mod time;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anchorhold_attestation::{Engine, Verifier};
use anchorhold_corpus::{
    Case, Corpus, GROUPS, Judgement, Level, Verdict, anchors, is_anchor_name, is_case_name, judge,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::world::World;

/// What the declaration makes.
struct Made {
    cases: Vec<Case>,
    anchors: BTreeMap<String, String>,
}

/// The declaration's output, made once.
fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(make)
}

fn make() -> Made {
    let world = World::new();
    let cases = [
        structure::cases(&world),
        cbor::cases(&world),
        cose::cases(&world),
        chain::cases(&world),
        time::cases(&world),
        content::cases(&world),
        policy::cases(&world),
    ]
    .concat();
    let anchors = world
        .anchors()
        .into_iter()
        .map(|(name, der)| (name, pem(&der)))
        .collect();
    Made { cases, anchors }
}

/// A certificate as RFC 7468 has it.
fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(64)
        .map(|line| core::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// All files that follow from the declaration, by their path in this crate.
fn files(made: &Made) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut cases: Vec<&Case> = made.cases.iter().collect();
    cases.sort_by_key(|case| &case.name);
    for case in &cases {
        let path = format!("cases/{}.case", case.name).into();
        assert!(
            files.insert(path, case.to_text()).is_none(),
            "{}",
            case.name
        );
    }
    for (name, pem) in &made.anchors {
        files.insert(format!("anchors/{name}.pem").into(), pem.clone());
    }
    let mut index = String::from(
        "//! The files of this corpus, by name. Written by `declaration`; never edited.\n\n\
         macro_rules! embed {\n    ($folder:literal, $ending:literal, $($name:literal)*) => {\n        \
         &[$(($name, include_str!(concat!(\"../\", $folder, \"/\", $name, $ending)))),*]\n    };\n}\n\n",
    );
    index.push_str("pub(crate) static CASES: &[(&str, &str)] = embed! { \"cases\", \".case\",\n");
    for case in &cases {
        writeln!(index, "    {:?}", case.name).unwrap();
    }
    index.push_str(
        "};\n\npub(crate) static ANCHORS: &[(&str, &str)] = embed! { \"anchors\", \".pem\",\n",
    );
    for name in made.anchors.keys() {
        writeln!(index, "    {name:?}").unwrap();
    }
    index.push_str("};\n");
    files.insert("src/embedded.rs".into(), index);
    files
}

/// The files that are there.
fn present() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder().join("cases"), folder().join("anchors")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(folder()).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn the_files_are_what_the_declaration_makes() {
    let files = files(made());
    let write = std::env::var_os("ANCHORHOLD_WRITE_CORPUS").is_some();
    for path in present() {
        if !files.contains_key(&path) {
            assert!(write, "{} follows from no declaration", path.display());
            fs::remove_file(folder().join(path)).unwrap();
        }
    }
    for (path, content) in files {
        let path = folder().join(path);
        if write {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
        }
        assert!(
            fs::read_to_string(&path).is_ok_and(|found| found == content),
            "{} is not what the declaration makes; if the change is meant, run this test with \
             ANCHORHOLD_WRITE_CORPUS=1",
            path.display()
        );
    }
}

#[test]
fn what_is_embedded_is_what_the_folder_holds() {
    let embedded = Corpus::embedded().unwrap();
    let opened = Corpus::open(&folder()).unwrap();
    assert_eq!(embedded.cases, opened.cases);
    assert_eq!(embedded.anchors, opened.anchors);
}

#[test]
fn cases_are_well_named_and_no_two_are_the_same() {
    let made = made();
    let mut seen = BTreeMap::new();
    for case in &made.cases {
        assert!(is_case_name(&case.name), "{}", case.name);
        assert!(GROUPS.contains(&case.group()), "{}", case.name);
        assert!(case.why.ends_with('.'), "{}: a sentence ends", case.name);
        assert!(!case.why.contains('\n'), "{}", case.name);
        let asked = format!("{:?}{:?}", case.arguments, case.document);
        let sound = matches!(case.verdict, Verdict::Admit);
        if let Some(other) = seen.insert(asked, &case.name) {
            // The one sound document stands for what several groups begin with.
            assert!(sound, "{} and {other} ask the same", case.name);
        }
    }
    for name in made.anchors.keys() {
        assert!(is_anchor_name(name), "{name}");
    }
    for group in GROUPS {
        let of_group = made.cases.iter().filter(|case| case.group() == group);
        assert!(of_group.clone().count() >= 15, "{group}");
        assert!(
            of_group.clone().any(|case| case.verdict == Verdict::Admit),
            "{group}"
        );
    }
    assert!(made.cases.len() >= 150);
    assert!(made.cases.iter().any(|case| case.level == Level::Should));
}

/// What our verifier says otherwise than the cases demand.
fn failures(corpus: &Corpus, mut verdict: impl FnMut(&Case) -> Judgement) -> Vec<String> {
    corpus
        .cases
        .iter()
        .filter_map(|case| {
            let judgement = verdict(case);
            let demanded = &case.verdict;
            (!judgement.is(demanded))
                .then(|| format!("{}: demanded {demanded:?}, said {judgement:?}", case.name))
        })
        .collect()
}

#[test]
fn our_verifier_says_what_each_case_demands_and_why() {
    let corpus = Corpus::embedded().unwrap();
    for engine in [Engine::P384, Engine::AwsLcRs] {
        let failures = failures(&corpus, |case| {
            let anchors = anchors(case, &corpus.anchors).unwrap();
            judge(case, &Verifier::new(anchors).with_engine(engine))
        });
        assert!(failures.is_empty(), "{engine:?}:\n{}", failures.join("\n"));
    }
}

#[test]
fn remembered_chains_change_no_verdict() {
    let corpus = Corpus::embedded().unwrap();
    let mut verifiers = BTreeMap::new();
    for round in ["first", "second"] {
        let failures = failures(&corpus, |case| {
            let verifier = verifiers
                .entry(case.arguments.anchors.clone())
                .or_insert_with(|| {
                    Verifier::new(anchors(case, &corpus.anchors).unwrap()).remembering(64)
                });
            judge(case, verifier)
        });
        assert!(
            failures.is_empty(),
            "{round} round:\n{}",
            failures.join("\n")
        );
    }
}
