//! Corpora in folders, as third parties may bring them: nothing is left out silently.
#![allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use anchorhold_corpus::{Case, Corpus, CorpusError};
use proptest::prelude::*;
use tempfile::TempDir;

/// A folder of one case and its anchor, out of the corpus that is built in.
fn folder() -> (TempDir, Case) {
    let corpus = Corpus::embedded().unwrap();
    let case = corpus.cases[0].clone();
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &format!("cases/{}.case", case.name),
        &case.to_text(),
    );
    for (name, pem) in &corpus.anchors {
        write(dir.path(), &format!("anchors/{name}.pem"), pem);
    }
    (dir, case)
}

fn write(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_folder_of_one_case_is_a_corpus() {
    let (dir, case) = folder();
    let corpus = Corpus::open(dir.path()).unwrap();
    assert_eq!(corpus.cases, [case]);
    assert_eq!(corpus.groups(), [corpus.cases[0].group()]);
}

#[test]
fn groups_of_others_come_after_ours() {
    let (dir, mut case) = folder();
    case.name = "a-group-of-mine/a-case".to_owned();
    write(
        dir.path(),
        "cases/a-group-of-mine/a-case.case",
        &case.to_text(),
    );
    let corpus = Corpus::open(dir.path()).unwrap();
    assert_eq!(corpus.groups(), ["structure", "a-group-of-mine"]);
}

#[test]
fn strays_misnamed_cases_and_missing_anchors_are_named() {
    let refused = |change: &dyn Fn(&Path, &Case)| {
        let (dir, case) = folder();
        change(dir.path(), &case);
        Corpus::open(dir.path()).unwrap_err()
    };
    let error = refused(&|dir, _| write(dir, "cases/cose/README", "text"));
    assert!(matches!(error, CorpusError::Stray { .. }), "{error}");
    let error = refused(&|dir, _| write(dir, "cases/cose/Upper.case", "text"));
    assert!(matches!(error, CorpusError::Stray { .. }), "{error}");
    let error = refused(&|dir, _| write(dir, "anchors/root.crt", "text"));
    assert!(matches!(error, CorpusError::Stray { .. }), "{error}");
    let error = refused(&|dir, _| write(dir, "cases/stray.case", "text"));
    assert!(matches!(error, CorpusError::Io { .. }), "{error}");
    let error = refused(&|dir, case| write(dir, "cases/cose/other.case", &case.to_text()));
    assert!(matches!(error, CorpusError::Misnamed { .. }), "{error}");
    let error = refused(&|dir, _| write(dir, "cases/cose/broken.case", "name: cose/broken\n"));
    assert!(matches!(error, CorpusError::Case { .. }), "{error}");
    let error = refused(&|dir, _| fs::remove_file(dir.join("anchors/root.pem")).unwrap());
    assert!(matches!(error, CorpusError::NoAnchor { .. }), "{error}");
    let error = refused(&|dir, _| {
        fs::remove_dir_all(dir.join("cases")).unwrap();
        fs::create_dir(dir.join("cases")).unwrap();
    });
    assert!(matches!(error, CorpusError::Empty { .. }), "{error}");
    let error = Corpus::open(Path::new("/nonexistent")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Case::parse(&bytes);
    }

    /// What is read is written as it was, but for the order of lines and the wrapping of base64.
    #[test]
    fn what_is_read_says_the_same_when_written(
        place in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        static CORPUS: LazyLock<Corpus> = LazyLock::new(|| Corpus::embedded().unwrap());
        let case = &CORPUS.cases[place.index(CORPUS.cases.len())];
        let mut text = case.to_text().into_bytes();
        let at = cut.index(text.len());
        text[at] = byte;
        if let Ok(read) = Case::parse(&text) {
            prop_assert_eq!(Case::parse(read.to_text().as_bytes()), Ok(read));
        }
    }
}
