//! What is done to a log's files, and what comes of it.

use super::*;
use crate::config::RootKey;
use crate::root_key;
use crate::sealing::Secret;
use crate::state::StateFolder;
use std::fs;
use tempfile::TempDir;

fn bytes(record: &serde_json::Value) -> Vec<u8> {
    record.to_string().into_bytes()
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let state = StateFolder::open(folder.0.path()).unwrap();
        root_key::open(&state, &RootKey::InState).unwrap();
        folder
    }

    fn key(&self) -> AuditKey {
        let state = StateFolder::for_reading(self.0.path());
        AuditKey::derive(&root_key::existing(&state, &RootKey::InState).unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.ndjson")
    }

    fn open_with(&self, settings: AuditSettings) -> Result<AuditLog, AuditError> {
        AuditLog::open(&self.path(), self.key(), settings, true)
    }

    fn open(&self) -> AuditLog {
        self.open_with(AuditSettings::default()).unwrap()
    }

    /// A log of this many lines, closed as a service does.
    fn with_lines(count: u64) -> Self {
        let folder = Self::new();
        let log = folder.open();
        for n in 1..=count {
            log.write(bytes(&json!({"n": n}))).unwrap();
        }
        log.sync().unwrap();
        folder
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn rewrite(&self, lines: &[String]) {
        fs::write(self.path(), lines.join("\n") + "\n").unwrap();
    }

    fn report(&self) -> Report {
        verify(self.0.path(), &RootKey::InState).unwrap()
    }

    fn findings(&self) -> String {
        let findings = self.report().findings;
        assert!(!findings.is_empty());
        findings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[test]
fn lines_are_chained_across_restarts() {
    let folder = Folder::new();
    for round in 0..3 {
        let log = folder.open();
        for n in 0..3 {
            log.write(bytes(
                &json!({"round": round, "n": n, "long": "y".repeat(50_000)}),
            ))
            .unwrap();
        }
        log.sync().unwrap();
    }
    let report = folder.report();
    assert!(report.is_good() && report.authenticated, "{report:?}");
    assert_eq!(
        (report.lines, report.first, report.last, report.head),
        (9, Some(1), Some(9), Some(9))
    );
}

#[test]
fn a_log_whose_service_was_killed_at_once_is_good() {
    let folder = Folder::new();
    let log = folder.open();
    assert!(folder.report().is_good());
    log.write(bytes(&json!({"n": 1}))).unwrap();
    drop(log);
    let report = folder.report();
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.last, report.head), (Some(1), Some(0)));
}

#[test]
fn a_line_cut_off_by_a_crash_is_removed() {
    let folder = Folder::with_lines(1);
    let mut file = OpenOptions::new().append(true).open(folder.path()).unwrap();
    file.write_all(br#"{"n":2,"chain":{"sequ"#).unwrap();
    assert!(folder.report().is_good());
    folder.open().write(bytes(&json!({"n": 2}))).unwrap();
    assert_eq!(folder.lines().len(), 2);
    assert!(folder.report().is_good());
}

#[test]
fn a_changed_line_is_found() {
    let folder = Folder::with_lines(5);
    let mut lines = folder.lines();
    lines[2] = lines[2].replace(r#""n":3"#, r#""n":4"#);
    folder.rewrite(&lines);
    let findings = folder.findings();
    assert!(
        findings.contains("audit.ndjson:3: line 3 was changed"),
        "{findings}"
    );
    assert!(
        findings.contains("line 4 does not name the line before it"),
        "{findings}"
    );
}

#[test]
fn a_removed_line_and_a_removed_beginning_are_found() {
    let folder = Folder::with_lines(5);
    let mut lines = folder.lines();
    lines.remove(2);
    folder.rewrite(&lines);
    let findings = folder.findings();
    assert!(
        findings.contains("line 4 stands where 3 should"),
        "{findings}"
    );
    let folder = Folder::with_lines(5);
    folder.rewrite(&folder.lines()[2..]);
    // What is left is in order; that it does not begin at 1 is said.
    assert_eq!(folder.report().first, Some(3));
}

#[test]
fn swapped_doubled_and_inserted_lines_are_found() {
    let folder = Folder::with_lines(5);
    let lines = folder.lines();
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    let mut doubled = lines.clone();
    doubled.insert(2, lines[1].clone());
    let mut inserted = lines.clone();
    inserted.insert(2, r#"{"n":0}"#.to_owned());
    for changed in [swapped, doubled, inserted] {
        folder.rewrite(&changed);
        folder.findings();
    }
}

#[test]
fn a_tail_cut_off_is_found_and_the_log_is_not_continued() {
    let folder = Folder::with_lines(5);
    folder.rewrite(&folder.lines()[..3]);
    let findings = folder.findings();
    assert!(
        findings.contains("ends with line 3, but had line 5"),
        "{findings}"
    );
    assert!(matches!(
        folder.open_with(AuditSettings::default()),
        Err(AuditError::CutOff {
            found: 3,
            promised: 5,
            ..
        })
    ));
    // All of it gone.
    fs::remove_file(folder.path()).unwrap();
    assert!(matches!(
        folder.open_with(AuditSettings::default()),
        Err(AuditError::CutOff { found: 0, .. })
    ));
    assert!(!folder.report().is_good());
}

#[test]
fn lines_made_anew_without_the_key_are_found() {
    let folder = Folder::with_lines(5);
    let forger = AuditKey::derive(&Secret::from_slice(&[2; 32]).unwrap());
    let mut previous = line::BEGINNING.to_owned();
    let forged: Vec<String> = (1..=5)
        .map(|sequence| {
            let place = Place {
                sequence,
                previous: previous.clone(),
            };
            let mut line = br#"{"n":0}"#.to_vec();
            line::write(&mut line, &place, &forger);
            let line = String::from_utf8(line).unwrap();
            previous = line::sha256_hex(line.as_bytes());
            line
        })
        .collect();
    folder.rewrite(&forged);
    // The chain alone hangs together; the MACs and the head do not.
    assert!(verify_without_key(&[folder.path()]).unwrap().is_good());
    let report = folder.report();
    assert_eq!(report.finding_count, 6, "{report:?}");
    assert!(matches!(
        folder.open_with(AuditSettings::default()),
        Err(AuditError::LastLine(_))
    ));
}

#[test]
fn a_missing_or_foreign_head_is_found() {
    let folder = Folder::with_lines(3);
    let head = folder.0.path().join("audit.head");
    let own = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    assert!(folder.findings().contains("the head is missing"));
    fs::write(&head, [0x20; 1024]).unwrap();
    assert!(folder.findings().contains("cannot be believed"));
    assert!(folder.open_with(AuditSettings::default()).is_err());
    fs::write(&head, own).unwrap();
    assert!(folder.report().is_good());
}

#[test]
fn a_foreign_last_line_is_not_continued() {
    let folder = Folder::new();
    fs::write(folder.path(), "hello\n").unwrap();
    assert!(matches!(
        folder.open_with(AuditSettings::default()),
        Err(AuditError::LastLine(_))
    ));
}

#[test]
fn full_files_are_closed_and_the_chain_goes_on_in_the_next() {
    let folder = Folder::new();
    let settings = AuditSettings {
        file_bytes: 2000,
        ..AuditSettings::default()
    };
    for _ in 0..4 {
        let log = folder.open_with(settings).unwrap();
        for n in 0..10 {
            log.write(bytes(&json!({"n": n, "text": "x".repeat(300)})))
                .unwrap();
        }
        log.sync().unwrap();
    }
    let report = folder.report();
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.first, report.last), (Some(1), Some(40)));
    assert!(report.files.len() > 5, "{report:?}");
    for file in &report.files {
        assert!(fs::metadata(file).unwrap().len() < 3000);
    }
    // A crash after the old file was renamed and before the new one was made.
    if fs::metadata(folder.path()).unwrap().len() > 0 {
        let first = verify_without_key(&[folder.path()]).unwrap().first.unwrap();
        fs::rename(folder.path(), files::full_name(&folder.path(), first)).unwrap();
    }
    folder
        .open_with(settings)
        .unwrap()
        .write(bytes(&json!({"n": 0})))
        .unwrap();
    let report = folder.report();
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.last, Some(41));
    // A full file taken away.
    fs::remove_file(&report.files[2]).unwrap();
    assert!(folder.findings().contains("should"));
}

#[test]
fn a_line_that_cannot_be_written_is_an_error() {
    let folder = Folder::new();
    let log = folder.open();
    log.end().file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(matches!(
        log.write(bytes(&json!({"n": 1}))),
        Err(AuditError::Io { .. } | AuditError::Broken(_))
    ));
    assert!(log.write(bytes(&json!({"n": 1}))).is_err());
}

#[test]
fn with_each_line_synced_the_head_is_never_behind() {
    let folder = Folder::new();
    let log = folder
        .open_with(AuditSettings {
            durability: Durability::EachLine,
            ..AuditSettings::default()
        })
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..10 {
                    log.write(bytes(&json!({"n": n}))).unwrap();
                }
            });
        }
    });
    assert_eq!(folder.report().head, Some(40));
    assert!(folder.report().is_good());
}

#[test]
fn a_log_begun_beside_an_older_store_says_so() {
    let folder = Folder::new();
    let key = folder.key();
    let log = AuditLog::open(&folder.path(), key, AuditSettings::default(), false).unwrap();
    log.write(bytes(&json!({"n": 1}))).unwrap();
    assert!(folder.lines()[0].contains("AuditLogBegun"));
    assert_eq!(folder.lines().len(), 2);
}
