//! Reads a whole log and says what is wrong with it.
//!
//! With the root key: every change, gap, insertion and swap, and a tail cut off up to the head.
//! Without it: whether the lines hang together, which whoever can write the files can make up.
//! What no check of the files alone can notice: lines written after the last head that are
//! cut off together, and all files, head included, set back to an older copy.

use super::line::{self, AuditKey, Line};
use super::{AuditError, Lines, files, head};
use crate::config::RootKey;
use crate::root_key;
use crate::state::StateFolder;
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// More findings than this are counted only.
const MOST_FINDINGS: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Files read, the oldest first.
    pub files: Vec<PathBuf>,
    /// Lines read.
    pub lines: u64,
    /// The number of the first line; more than 1 where older files are kept elsewhere.
    pub first: Option<u64>,
    /// The number of the last line.
    pub last: Option<u64>,
    /// The last line that the head vouches for.
    pub head: Option<u64>,
    /// Whether the MACs were checked.
    pub authenticated: bool,
    /// What is wrong; nothing in a good log. The first hundred.
    pub findings: Vec<Finding>,
    /// How many there are in all.
    pub finding_count: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// In which file.
    pub file: PathBuf,
    /// At which of its lines, from 1.
    pub line: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.finding_count == 0
    }
}

/// Checks the log in a state folder. The service may be running.
///
/// # Errors
/// [`AuditError::Io`] if the folder or its log cannot be read, [`AuditError::RootKey`] if this is not
/// the root key.
pub fn verify(state: &Path, root: &RootKey) -> Result<Report, AuditError> {
    let path = state.join("audit.ndjson");
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| AuditError::Io { path, source }
    };
    let key = root_key::existing(&StateFolder::for_reading(state), root)?;
    let key = AuditKey::derive(&key);
    let head_path = state.join("audit.head");
    // Before the lines, so that a service which goes on writing is not taken for a forger.
    let (head, unbelieved) = match head::read(&head_path, &key) {
        Ok(head) => (head, None),
        Err(error) => (None, Some(error)),
    };
    let files = files::all(&path).map_err(io_error(state))?;
    let mut reader = Reader::new(Some(key));
    reader.head = head;
    for file in &files {
        reader.file(file).map_err(io_error(file))?;
    }
    match unbelieved {
        Some(error) => reader.find(
            &head_path,
            1,
            format!("the head cannot be believed: {error}"),
        ),
        None => reader.check_head(&path),
    }
    Ok(reader.report)
}

/// Checks whether the lines of these files, the oldest first, hang together. Their MACs are not
/// checked, so a forger who has made all lines anew is not noticed.
///
/// # Errors
/// [`AuditError::Io`].
pub fn verify_without_key(files: &[PathBuf]) -> Result<Report, AuditError> {
    let mut reader = Reader::new(None);
    for file in files {
        reader.file(file).map_err(|source| AuditError::Io {
            path: file.clone(),
            source,
        })?;
    }
    Ok(reader.report)
}

struct Reader {
    key: Option<AuditKey>,
    report: Report,
    /// Number and hash of the line before.
    before: Option<(u64, String)>,
    head: Option<head::Head>,
    /// Whether the line that the head names was read.
    head_seen: bool,
}

impl Reader {
    fn new(key: Option<AuditKey>) -> Self {
        Self {
            report: Report {
                files: Vec::new(),
                lines: 0,
                first: None,
                last: None,
                head: None,
                authenticated: key.is_some(),
                findings: Vec::new(),
                finding_count: 0,
            },
            key,
            before: None,
            head: None,
            head_seen: false,
        }
    }

    fn find(&mut self, file: &Path, line: u64, what: String) {
        self.report.finding_count += 1;
        if self.report.findings.len() < MOST_FINDINGS {
            self.report.findings.push(Finding {
                file: file.to_owned(),
                line,
                what,
            });
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.report.files.push(path.to_owned());
        let mut number = 0;
        for line in Lines::of(path)? {
            let line = line?;
            number += 1;
            if !line.whole {
                // A service that runs may be in the middle of its last line; one that was killed has
                // not answered that request.
                if line.text.len() > files::MAX_LINE_BYTES {
                    self.find(path, number, "the line is too long".to_owned());
                }
                continue;
            }
            self.line(path, number, &line.text);
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, text: &[u8]) {
        self.report.lines += 1;
        let place = match line::read(text, self.key.as_ref()) {
            Line::Good(place) => place,
            Line::Forged(place) => {
                let what = format!(
                    "line {} was changed: its MAC is not that of its text",
                    place.sequence
                );
                self.find(path, number, what);
                place
            }
            Line::Strange => {
                let what = "not a line of this service's".to_owned();
                self.find(path, number, what);
                self.before = None;
                return;
            }
        };
        let sequence = place.sequence;
        match &self.before {
            Some((before, hash)) => {
                let expected = before + 1;
                if sequence != expected {
                    let what = format!("line {sequence} stands where {expected} should");
                    self.find(path, number, what);
                } else if place.previous != *hash {
                    let what = format!(
                        "line {sequence} does not name the line before it, which was changed"
                    );
                    self.find(path, number, what);
                }
            }
            None => {
                if self.report.first.is_none() {
                    self.report.first = Some(sequence);
                    if sequence == 1 && place.previous != line::BEGINNING {
                        let what = "line 1 names a line before it".to_owned();
                        self.find(path, number, what);
                    }
                }
            }
        }
        self.report.last = Some(sequence);
        let hash = line::sha256_hex(text);
        self.head_seen |= self
            .head
            .as_ref()
            .is_some_and(|head| head.sequence == sequence && head.hash == hash);
        self.before = Some((sequence, hash));
    }

    fn check_head(&mut self, path: &Path) {
        let Some(head) = self.head.take() else {
            if self.report.lines > 0 {
                let what = "the head is missing: a tail that was cut off would not be noticed";
                self.find(path, self.report.lines, what.to_owned());
            }
            return;
        };
        self.report.head = Some(head.sequence);
        let last = self.report.last.unwrap_or(0);
        if last < head.sequence {
            let what = format!(
                "the log ends with line {last}, but had line {}: lines were cut off",
                head.sequence
            );
            self.find(path, self.report.lines, what);
        } else if !self.head_seen && head.sequence > 0 {
            let what = format!("line {} is not the one that the head names", head.sequence);
            self.find(path, self.report.lines, what);
        }
    }
}
