//! The audit log: one JSON line per request, in the shape of a CloudTrail record, with the full
//! reason of each refusal.
//!
//! A line is written before its answer goes out; where it cannot be written, the request is
//! refused. It never holds plaintext, key material or a secret. Each line names the SHA-256 of
//! the line before it (`anchorhold.previous`; 64 zeros in the first) and its number
//! (`anchorhold.sequence`), so that a changed, removed or inserted line is noticed. What is cut
//! off at the end is not noticed by the file alone.
//!
//! A line is handed to the operating system before the answer: it survives the end of the
//! process, and a power cut only as far as the file system has written it.

use aws_lc_rs::digest;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thiserror::Error;

/// Longer lines are not written; no request that the service accepts makes one.
const MAX_LINE_BYTES: usize = 4 << 20;

/// Why the audit log cannot be used.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("the audit log {path} cannot be used: {source}")]
    Io {
        /// The log's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The last line is not one of this service's.
    #[error(
        "the last line of the audit log {0} is not readable; move the file away to begin a new one"
    )]
    LastLine(PathBuf),
    /// An earlier line could neither be written nor taken back.
    #[error(
        "the audit log {0} ended in the middle of a line; restart the service when there is space"
    )]
    Broken(PathBuf),
    /// A line beyond all measure.
    #[error("a line of {0} bytes is too long for the audit log")]
    TooLong(usize),
}

/// The open log.
pub(crate) struct AuditLog {
    path: PathBuf,
    end: Mutex<End>,
}

struct End {
    file: File,
    length: u64,
    sequence: u64,
    previous: String,
    broken: bool,
}

impl AuditLog {
    /// Opens the log, or makes it (mode 0600), and continues its chain. A line that a crash cut off
    /// was never answered; it is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditError> {
        let io_error = |source| AuditError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io_error)?;
        let (length, last) = last_line(&mut file).map_err(io_error)?;
        let (sequence, previous) = match last {
            None => (1, "0".repeat(64)),
            Some(line) => (
                sequence_of(&line).ok_or_else(|| AuditError::LastLine(path.to_owned()))? + 1,
                sha256_hex(&line),
            ),
        };
        let found = file.metadata().map_err(io_error)?.len();
        if found != length {
            tracing::warn!(
                bytes = found - length,
                "the audit log ended in the middle of a line, which was removed"
            );
            file.set_len(length).map_err(io_error)?;
        }
        file.seek(SeekFrom::Start(length)).map_err(io_error)?;
        Ok(Self {
            path: path.to_owned(),
            end: Mutex::new(End {
                file,
                length,
                sequence,
                previous,
                broken: false,
            }),
        })
    }

    /// Writes one line; `record` is an object with an object `anchorhold`, which gets `sequence`
    /// and `previous`.
    pub(crate) fn write(&self, mut record: Value) -> Result<(), AuditError> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.broken {
            return Err(AuditError::Broken(self.path.clone()));
        }
        record["anchorhold"]["sequence"] = end.sequence.into();
        record["anchorhold"]["previous"] = end.previous.clone().into();
        let mut line = record.to_string().into_bytes();
        if line.len() > MAX_LINE_BYTES {
            return Err(AuditError::TooLong(line.len()));
        }
        let hash = sha256_hex(&line);
        line.push(b'\n');
        if let Err(source) = end.file.write_all(&line) {
            // Take back what was written of it, so that the log stays whole.
            let length = end.length;
            let taken_back = end
                .file
                .set_len(length)
                .and_then(|()| end.file.seek(SeekFrom::Start(length)));
            end.broken = taken_back.is_err();
            return Err(AuditError::Io {
                path: self.path.clone(),
                source,
            });
        }
        end.length += line.len() as u64;
        end.sequence += 1;
        end.previous = hash;
        Ok(())
    }

    /// Bytes in the file.
    pub(crate) fn length(&self) -> u64 {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .length
    }

    /// Asks the disk to keep what was written.
    pub(crate) fn sync(&self) -> Result<(), AuditError> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.file.sync_data().map_err(|source| AuditError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// The length of all whole lines, and the last of them without its newline.
fn last_line(file: &mut File) -> io::Result<(u64, Option<Vec<u8>>)> {
    const STEP: u64 = 64 << 10;
    let total = file.seek(SeekFrom::End(0))?;
    let mut from = total;
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let newlines = tail.iter().filter(|b| **b == b'\n').count();
        if newlines >= 2 || from == 0 || tail.len() > 2 * MAX_LINE_BYTES {
            break;
        }
        let start = from.saturating_sub(STEP);
        let mut block = vec![0; usize::try_from(from - start).expect("a block is small")];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.extend_from_slice(&tail);
        tail = block;
        from = start;
    }
    let too_long = || io::Error::new(io::ErrorKind::InvalidData, "its last line is too long");
    let Some(end) = tail.iter().rposition(|b| *b == b'\n') else {
        return if from == 0 {
            Ok((0, None))
        } else {
            Err(too_long())
        };
    };
    let begin = match tail[..end].iter().rposition(|b| *b == b'\n') {
        Some(at) => at + 1,
        None if from == 0 => 0,
        None => return Err(too_long()),
    };
    Ok((from + end as u64 + 1, Some(tail[begin..end].to_vec())))
}

fn sequence_of(line: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(line).ok()?;
    value["anchorhold"]["sequence"].as_u64()
}

fn sha256_hex(line: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn check_chain(path: &Path) {
        let mut previous = "0".repeat(64);
        for (index, line) in lines(path).iter().enumerate() {
            let value: Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["anchorhold"]["sequence"], json!(index + 1));
            assert_eq!(value["anchorhold"]["previous"], json!(previous));
            previous = sha256_hex(line.as_bytes());
        }
    }

    #[test]
    fn lines_are_chained_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.ndjson");
        for _ in 0..3 {
            let log = AuditLog::open(&path).unwrap();
            for _ in 0..3 {
                log.write(json!({"anchorhold": {}, "x": "y".repeat(50_000)}))
                    .unwrap();
            }
        }
        assert_eq!(lines(&path).len(), 9);
        check_chain(&path);
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.ndjson");
        AuditLog::open(&path)
            .unwrap()
            .write(json!({"anchorhold": {}}))
            .unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"anchorhold":{"sequ"#).unwrap();
        AuditLog::open(&path)
            .unwrap()
            .write(json!({"anchorhold": {}}))
            .unwrap();
        assert_eq!(lines(&path).len(), 2);
        check_chain(&path);
    }

    #[test]
    fn a_foreign_last_line_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.ndjson");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(matches!(
            AuditLog::open(&path),
            Err(AuditError::LastLine(_))
        ));
    }

    #[test]
    fn a_line_that_cannot_be_written_is_an_error() {
        let full = AuditLog {
            path: PathBuf::from("/dev/full"),
            end: Mutex::new(End {
                file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
                length: 0,
                sequence: 1,
                previous: String::new(),
                broken: false,
            }),
        };
        assert!(matches!(
            full.write(json!({"anchorhold": {}})),
            Err(AuditError::Io { .. })
        ));
    }
}
