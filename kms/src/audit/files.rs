//! The log's files: the one being written, and the full ones before it.
//!
//! `audit.ndjson` is being written. A full one is renamed `audit-<sequence>.ndjson`, after the
//! number of its first line in twenty digits, so that the names sort as the lines do.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Longer lines are not written; no request that the service accepts makes one.
pub(super) const MAX_LINE_BYTES: usize = 4 << 20;

/// The name of a full file whose first line has this number.
pub(super) fn full_name(current: &Path, first: u64) -> PathBuf {
    current.with_file_name(format!("audit-{first:020}.ndjson"))
}

/// All files beside `current`, the oldest first, `current` last where it is there.
pub(super) fn all(current: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match current.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut full = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_full = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".ndjson"))
            .is_some_and(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()));
        if is_full {
            full.push(path);
        }
    }
    full.sort();
    if current.exists() {
        full.push(current.to_owned());
    }
    Ok(full)
}

/// One line of a file; `whole` unless the newline at its end is missing.
pub(crate) struct RawLine {
    pub(crate) text: Vec<u8>,
    pub(crate) whole: bool,
}

/// The lines of a file, each bounded.
pub(crate) struct Lines(BufReader<File>);

impl Lines {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::with_capacity(1 << 16, File::open(path)?)))
    }
}

impl Iterator for Lines {
    type Item = io::Result<RawLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = Vec::new();
        let limit = MAX_LINE_BYTES as u64 + 2;
        match (&mut self.0).take(limit).read_until(b'\n', &mut text) {
            Ok(0) => None,
            Ok(_) => {
                let whole = text.last() == Some(&b'\n');
                if whole {
                    text.pop();
                }
                Some(Ok(RawLine { text, whole }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// The length of all whole lines, and the last of them without its newline.
pub(super) fn last_line(file: &mut File) -> io::Result<(u64, Option<Vec<u8>>)> {
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
