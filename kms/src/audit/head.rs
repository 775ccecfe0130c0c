//! Where the log ends, kept in a file beside it, so that a tail that was cut off is noticed.
//!
//! Two slots in turn, each with a MAC: a write that a power cut tore leaves the other. The head
//! is written after the lines that it covers are on the disk, so it never promises more than there
//! is; what was written after it is not covered by it.

use super::line::AuditKey;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

const SLOT: usize = 512;

/// The last line that is known to be on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    /// SHA-256 of the line.
    pub(super) hash: String,
}

impl Head {
    fn text(&self) -> String {
        format!("anchorhold audit head\n{}\n{}\n", self.sequence, self.hash)
    }

    fn written(&self, key: &AuditKey) -> Vec<u8> {
        let text = self.text();
        let mut slot = format!("{text}{}\n", key.mac(text.as_bytes())).into_bytes();
        slot.resize(SLOT, b' ');
        slot
    }

    fn parse(slot: &[u8], key: &AuditKey) -> Option<Self> {
        let text = std::str::from_utf8(slot).ok()?;
        let mut lines = text.lines().skip(1);
        let head = Self {
            sequence: lines.next()?.parse().ok()?,
            hash: lines.next()?.to_owned(),
        };
        key.is_mac(head.text().as_bytes(), lines.next()?)
            .then_some(head)
    }
}

/// The file.
pub(super) struct HeadFile(File);

impl HeadFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map(Self)
    }

    pub(super) fn write(&self, head: &Head, key: &AuditKey) -> io::Result<()> {
        let offset = if head.sequence.is_multiple_of(2) {
            0
        } else {
            SLOT
        };
        self.0.write_all_at(&head.written(key), offset as u64)
    }
}

/// Reads the newest head. `Ok(None)` if there is no file, or an empty one.
pub(super) fn read(path: &Path, key: &AuditKey) -> io::Result<Option<Head>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => return Ok(None),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let newest = bytes
        .chunks(SLOT)
        .take(2)
        .filter_map(|slot| Head::parse(slot, key))
        .max_by_key(|head| head.sequence);
    newest.map(Some).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it was changed, or belongs to another root key",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::Secret;

    #[test]
    fn the_newest_whole_slot_counts() {
        let key = AuditKey::derive(&Secret::from_slice(&[1; 32]).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.head");
        assert_eq!(read(&path, &key).unwrap(), None);
        let file = HeadFile::open(&path).unwrap();
        assert_eq!(read(&path, &key).unwrap(), None);
        let head = |sequence| Head {
            sequence,
            hash: "ab".repeat(32),
        };
        for sequence in [1, 2, 3, 10, 13] {
            file.write(&head(sequence), &key).unwrap();
            assert_eq!(read(&path, &key).unwrap(), Some(head(sequence)));
        }
        // A torn write of 14 leaves 13.
        file.0
            .write_all_at(b"anchorhold audit head\n14\n", 0)
            .unwrap();
        assert_eq!(read(&path, &key).unwrap(), Some(head(13)));
        file.0.write_all_at(b"x", SLOT as u64 + 30).unwrap();
        assert!(read(&path, &key).is_err());
    }
}
