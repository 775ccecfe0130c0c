//! What an enclave printed, with times, in a ring on disk: `log.ndjson` and before it `log.ndjson.1` in its folder.
//!
//! JSON lines, `{"at_ms":…,"line":"…"}`. A full file becomes the older one, and the one before that is gone: a flood costs the
//! enclave its own older lines, and the host a bounded amount. What is kept stays after the enclave's death. The enclave chose
//! every byte of a line: it is made printable before it is kept, and nothing is ever decided by it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::console::printable;

/// The most bytes of one of the two files.
pub const LARGEST_RING_FILE: u64 = 2 << 20;

/// A line that is longer is kept in pieces.
const LONGEST_LINE: usize = 8 * 1024;

/// Bytes read at a time.
const PIECE: u64 = 256 * 1024;

/// A line as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it was whole, in ms since 1970.
    pub at_ms: u64,
    /// The line, made printable.
    pub line: String,
}

fn newer(dir: &Path) -> PathBuf {
    dir.join("log.ndjson")
}

fn older(dir: &Path) -> PathBuf {
    dir.join("log.ndjson.1")
}

/// The writing end. It never fails: what cannot be kept is lost, and the enclave goes on.
pub(crate) struct Ring {
    dir: PathBuf,
    file: Option<File>,
    size: u64,
    partial: Vec<u8>,
}

impl Ring {
    /// Begins anew in that folder.
    pub(crate) fn new(dir: &Path) -> Self {
        let _ = fs::remove_file(older(dir));
        let mut ring = Self {
            dir: dir.to_owned(),
            file: None,
            size: 0,
            partial: Vec::new(),
        };
        ring.open();
        ring
    }

    fn open(&mut self) {
        self.size = 0;
        self.file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(newer(&self.dir))
            .ok();
    }

    /// Takes what was printed.
    pub(crate) fn keep(&mut self, mut bytes: &[u8]) {
        let mut out = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            self.whole(&mut out);
            bytes = &bytes[end + 1..];
        }
        while self.partial.len() + bytes.len() >= LONGEST_LINE {
            let (piece, rest) = bytes.split_at(LONGEST_LINE - self.partial.len());
            self.partial.extend_from_slice(piece);
            self.whole(&mut out);
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        self.write(&out);
    }

    /// Keeps what had no line end: nothing more will come.
    pub(crate) fn end(&mut self) {
        if !self.partial.is_empty() {
            let mut out = Vec::new();
            self.whole(&mut out);
            self.write(&out);
        }
    }

    fn whole(&mut self, out: &mut Vec<u8>) {
        let at_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        for piece in self.partial.chunks(LONGEST_LINE) {
            let line = Line {
                at_ms,
                line: printable(piece, LONGEST_LINE).trim_end().to_owned(),
            };
            serde_json::to_writer(&mut *out, &line).expect("numbers and text have a JSON form");
            out.push(b'\n');
        }
        if self.partial.is_empty() {
            out.extend_from_slice(format!("{{\"at_ms\":{at_ms},\"line\":\"\"}}\n").as_bytes());
        }
        self.partial.clear();
        if out.len() as u64 > LARGEST_RING_FILE / 4 {
            self.write(out);
            out.clear();
        }
    }

    fn write(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        if self.size + out.len() as u64 > LARGEST_RING_FILE {
            self.file = None;
            let _ = fs::rename(newer(&self.dir), older(&self.dir));
            self.open();
        }
        if let Some(file) = &mut self.file
            && file.write_all(out).is_ok()
        {
            self.size += out.len() as u64;
        }
    }
}

/// The reading end, for any process of the same user, while the enclave prints and after its death.
#[derive(Debug)]
pub struct RingReader {
    dir: PathBuf,
    file: Option<(File, u64)>,
    held: Vec<u8>,
    begun: bool,
}

impl RingReader {
    /// From the oldest line that is kept.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            file: None,
            held: Vec::new(),
            begun: false,
        }
    }

    /// What has come since the last time, at most some hundred KiB; nothing where there is no more now. No ring there: nothing.
    pub fn read(&mut self) -> io::Result<Vec<Line>> {
        loop {
            if self.file.is_none() {
                let opened = if std::mem::replace(&mut self.begun, true) {
                    self.open(false)?
                } else {
                    self.open(true)? || self.open(false)?
                };
                if !opened {
                    return Ok(Vec::new());
                }
            }
            let Some((file, inode)) = &mut self.file else {
                return Ok(Vec::new());
            };
            let mut piece = Vec::new();
            file.take(PIECE).read_to_end(&mut piece)?;
            if piece.is_empty() {
                // Whole, if another one has taken its place; the rest of it is read before that is asked again.
                let current = fs::metadata(newer(&self.dir)).ok().map(|found| found.ino());
                if current.is_none_or(|current| current == *inode) {
                    return Ok(Vec::new());
                }
                if file.stream_position()? < file.metadata()?.len() {
                    continue;
                }
                self.file = None;
                self.held.clear();
                continue;
            }
            self.held.extend_from_slice(&piece);
            let Some(end) = self.held.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let rest = self.held.split_off(end + 1);
            let whole = std::mem::replace(&mut self.held, rest);
            // A line that is none was cut by a full disk.
            return Ok(whole
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok())
                .collect());
        }
    }

    fn open(&mut self, first: bool) -> io::Result<bool> {
        let path = if first {
            older(&self.dir)
        } else {
            newer(&self.dir)
        };
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                self.file = Some((file, inode));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    fn all(reader: &mut RingReader) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let more = reader.read().unwrap();
            if more.is_empty() {
                return lines;
            }
            lines.extend(more.into_iter().map(|line| line.line));
        }
    }

    #[test]
    fn lines_come_back_whole_with_times_and_without_what_drives_a_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::new(dir.path());
        let mut reader = RingReader::new(dir.path());
        ring.keep(b"one\ntw");
        let first = reader.read().unwrap();
        assert_eq!(first.len(), 1);
        assert!(first[0].at_ms > 1_600_000_000_000);
        ring.keep(b"o \x1b[2J\xff\n\nlast");
        assert_eq!(all(&mut reader), ["two  [2J\u{fffd}", ""]);
        ring.end();
        assert_eq!(all(&mut reader), ["last"]);
        assert_eq!(all(&mut RingReader::new(dir.path())).len(), 4);
        let mode = fs::metadata(newer(dir.path())).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_flood_keeps_the_newest_lines_within_a_bound_and_who_follows_misses_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::new(dir.path());
        let mut reader = RingReader::new(dir.path());
        let mut followed = Vec::new();
        let count = 60_000;
        for n in 0..count {
            ring.keep(format!("{n} {}\n", "x".repeat(60)).as_bytes());
            if n % 5_000 == 0 {
                followed.extend(all(&mut reader));
            }
        }
        followed.extend(all(&mut reader));
        assert_eq!(followed.len(), count);
        let kept: u64 = [newer(dir.path()), older(dir.path())]
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum();
        assert!(kept <= 2 * LARGEST_RING_FILE, "{kept}");
        let lines = all(&mut RingReader::new(dir.path()));
        assert!(lines.last().unwrap().starts_with("59999 "));
        assert!(lines.len() < count);
        // One line without an end is kept in pieces.
        ring.keep(&vec![b'y'; 10 << 20]);
        let kept = fs::metadata(newer(dir.path())).unwrap().len();
        assert!(kept <= LARGEST_RING_FILE, "{kept}");
        assert!(ring.partial.len() < LONGEST_LINE);
    }
}
