//! The audit log: one JSON line per request, in the shape of a CloudTrail record, with the full
//! reason of each refusal.
//!
//! A line is written before its answer goes out; where it cannot be written, the request is
//! refused. It never holds plaintext, key material or a secret. Lines are chained and
//! authenticated (`line`), and where they end is kept apart (`head`), so that a changed,
//! removed, inserted or swapped line and a tail cut off are noticed (`verify`).
//!
//! "Written" means handed to the operating system: the line survives the end of the process by
//! whatever cause. It is on the disk within [`SYNC_INTERVAL`]; with [`Durability::EachLine`]
//! before the answer, where lines that wait together share one sync.

mod files;
mod head;
mod line;
mod verify;

use files::Lines;
pub(crate) use line::AuditKey;
pub use verify::{Finding, Report, verify, verify_without_key};

use head::{Head, HeadFile};
use line::Place;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// How long a line may be known to the operating system alone.
pub(crate) const SYNC_INTERVAL: Duration = Duration::from_millis(200);

/// A file that is longer is closed and a new one begun.
pub(crate) const DEFAULT_FILE_BYTES: u64 = 256 << 20;

/// When a line is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A fifth of a second after the answer at the latest. A power cut may take that much.
    #[default]
    Interval,
    /// Before the answer.
    EachLine,
}

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
        "the last line of the audit log {0} was changed, or written under another root key; run `anchorhold kms audit verify`. To begin a new log, move this one's files and audit.head away"
    )]
    LastLine(PathBuf),
    /// Lines are missing at the end.
    #[error(
        "the audit log {path} ends with line {found}, but had line {promised} before: lines were cut off. Put them back; or, to begin a new log, move this one's files and audit.head away"
    )]
    CutOff {
        /// The log's file.
        path: PathBuf,
        /// The last line's number.
        found: u64,
        /// The number of the last line that was on the disk.
        promised: u64,
    },
    /// An earlier line could neither be written nor taken back.
    #[error(
        "the audit log {0} ended in the middle of a line, or could not be synced; restart the service when there is space"
    )]
    Broken(PathBuf),
    /// Without the root key the MACs cannot be checked.
    #[error(transparent)]
    RootKey(#[from] crate::root_key::RootKeyError),
    /// A line beyond all measure.
    #[error("a line of {0} bytes is too long for the audit log")]
    TooLong(usize),
}

/// How the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditSettings {
    /// When a line is on the disk.
    pub durability: Durability,
    /// A longer file is closed and a new one begun; bytes.
    pub file_bytes: u64,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            file_bytes: DEFAULT_FILE_BYTES,
        }
    }
}

/// The log's files in a state folder, the oldest first.
///
/// # Errors
/// If the folder cannot be read.
pub fn log_files(state: &Path) -> io::Result<Vec<PathBuf>> {
    files::all(&state.join("audit.ndjson"))
}

/// The open log.
pub(crate) struct AuditLog {
    path: PathBuf,
    key: AuditKey,
    settings: AuditSettings,
    head: HeadFile,
    end: Mutex<End>,
    /// The last line that is on the disk.
    synced: Mutex<u64>,
}

struct End {
    file: File,
    length: u64,
    /// The number of the file's first line.
    first: u64,
    next: Place,
    broken: bool,
}

impl AuditLog {
    /// Opens the log, or makes it (mode 0600), and continues its chain. A line that a crash cut off
    /// was never answered; it is removed. `store_is_new` says that there was no store before: a
    /// log that begins later says so in its first line.
    pub(crate) fn open(
        path: &Path,
        key: AuditKey,
        settings: AuditSettings,
        store_is_new: bool,
    ) -> Result<Self, AuditError> {
        let io_error = |source| AuditError::Io {
            path: path.to_owned(),
            source,
        };
        let head_path = path.with_file_name("audit.head");
        let promised = head::read(&head_path, &key).map_err(|source| AuditError::Io {
            path: head_path.clone(),
            source,
        })?;
        let mut file = open_file(path).map_err(io_error)?;
        let (length, last) = files::last_line(&mut file).map_err(io_error)?;
        let found = file.metadata().map_err(io_error)?.len();
        if found != length {
            tracing::warn!(
                bytes = found - length,
                "the audit log ended in the middle of a line, which was removed"
            );
            file.set_len(length).map_err(io_error)?;
        }
        let is_empty = last.is_none();
        let last = match last {
            Some(line) => Some(line),
            // After a change of files, or a crash during one.
            None => last_of_full_files(path).map_err(io_error)?,
        };
        let next = match &last {
            None => Place {
                sequence: 1,
                previous: line::BEGINNING.to_owned(),
            },
            Some(text) => match line::read(text, Some(&key)) {
                line::Line::Good(place) => Place {
                    sequence: place.sequence + 1,
                    previous: line::sha256_hex(text),
                },
                _ => return Err(AuditError::LastLine(path.to_owned())),
            },
        };
        if let Some(promised) = &promised {
            let found = next.sequence - 1;
            if found < promised.sequence
                || (found == promised.sequence && next.previous != promised.hash)
            {
                return Err(AuditError::CutOff {
                    path: path.to_owned(),
                    found,
                    promised: promised.sequence,
                });
            }
        }
        file.seek(SeekFrom::Start(length)).map_err(io_error)?;
        let head = HeadFile::open(&head_path).map_err(io_error)?;
        if promised.is_none() {
            // From the first line on, so that a missing head is never a young log's.
            let first = Head {
                sequence: next.sequence - 1,
                hash: next.previous.clone(),
            };
            head.write(&first, &key).map_err(io_error)?;
        }
        let log = Self {
            path: path.to_owned(),
            head,
            settings,
            synced: Mutex::new(promised.map_or(0, |head| head.sequence)),
            end: Mutex::new(End {
                first: if is_empty {
                    next.sequence
                } else {
                    first_of(path).map_err(io_error)?.unwrap_or(next.sequence)
                },
                file,
                length,
                next,
                broken: false,
            }),
            key,
        };
        if last.is_none() && !store_is_new {
            tracing::warn!("there was no audit log beside the store; a new one is begun");
            let record = json!({
                "eventName": "AuditLogBegun",
                "eventType": "AwsServiceEvent",
                "eventSource": "kms.amazonaws.com",
                "anchorhold": {"reason": "there was no audit log beside a store that is older"},
            });
            log.write(record.to_string().into_bytes())?;
        }
        Ok(log)
    }

    /// Writes one line; `record` is the JSON of an object with at least one member and none named `chain`.
    pub(crate) fn write(&self, mut record: Vec<u8>) -> Result<(), AuditError> {
        if record.len() > files::MAX_LINE_BYTES - 1024 {
            return Err(AuditError::TooLong(record.len()));
        }
        record.reserve(line::CHAIN_BYTES);
        let mut end = self.end();
        if end.broken {
            return Err(AuditError::Broken(self.path.clone()));
        }
        if end.length >= self.settings.file_bytes {
            self.begin_file(&mut end);
        }
        let mut line = record;
        line::write(&mut line, &end.next, &self.key);
        let hash = line::sha256_hex(&line);
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
        let sequence = end.next.sequence;
        end.length += line.len() as u64;
        end.next = Place {
            sequence: sequence + 1,
            previous: hash,
        };
        drop(end);
        match self.settings.durability {
            Durability::Interval => Ok(()),
            Durability::EachLine => self.sync_to(sequence),
        }
    }

    /// Bytes in the file that is being written.
    pub(crate) fn length(&self) -> u64 {
        self.end().length
    }

    /// Has the disk keep what was written, and the head say so.
    pub(crate) fn sync(&self) -> Result<(), AuditError> {
        let last = self.end().next.sequence - 1;
        self.sync_to(last)
    }

    /// Who waits here while another syncs finds his line on the disk already.
    fn sync_to(&self, sequence: u64) -> Result<(), AuditError> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced >= sequence {
            return Ok(());
        }
        let (file, head) = {
            let end = self.end();
            let head = Head {
                sequence: end.next.sequence - 1,
                hash: end.next.previous.clone(),
            };
            (end.file.try_clone(), head)
        };
        let io_error = |source| AuditError::Io {
            path: self.path.clone(),
            source,
        };
        if let Err(source) = file.and_then(|file| file.sync_data()) {
            // A full disk may have room again; after any other error nobody knows what the disk
            // has, and only a restart finds out.
            let may_heal = matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            if !may_heal {
                self.end().broken = true;
            }
            return Err(io_error(source));
        }
        // Where the head cannot be written, the older one still is true.
        self.head.write(&head, &self.key).map_err(io_error)?;
        *synced = head.sequence;
        Ok(())
    }

    /// Closes a full file and begins another. Where that cannot be done, the full one goes on.
    fn begin_file(&self, end: &mut End) {
        let full = files::full_name(&self.path, end.first);
        let begun = end
            .file
            .sync_data()
            .and_then(|()| {
                if full.exists() {
                    return Err(io::Error::from(io::ErrorKind::AlreadyExists));
                }
                std::fs::rename(&self.path, &full)
            })
            .and_then(|()| open_file(&self.path));
        match begun {
            Ok(file) => {
                end.file = file;
                end.length = 0;
                end.first = end.next.sequence;
            }
            Err(error) => {
                tracing::error!(%error, "no new file could be begun for the audit log");
                // Renamed but not made anew: the lines must not go on under the full one's name.
                if !self.path.exists()
                    && let Err(error) = std::fs::rename(&full, &self.path)
                {
                    tracing::error!(%error, "the audit log's file could not be renamed back");
                    end.broken = true;
                }
            }
        }
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn last_of_full_files(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let full = files::all(path)?
        .into_iter()
        .rfind(|file| file.as_path() != path);
    match full {
        None => Ok(None),
        Some(full) => Ok(files::last_line(&mut File::open(full)?)?.1),
    }
}

/// The number of a file's first line.
fn first_of(path: &Path) -> io::Result<Option<u64>> {
    let Some(first) = Lines::of(path)?.next() else {
        return Ok(None);
    };
    Ok(match line::read(&first?.text, None) {
        line::Line::Good(place) => Some(place.sequence),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
