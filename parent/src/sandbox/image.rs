//! The ramdisks of an image as entries of a root file system. It decides nothing about what they mean: the new process writes
//! them as a kernel would.

use std::ffi::CString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anchorhold_images::{CpioError, EntryKind, Limits, Ramdisk};
use anchorhold_manifest::MANIFEST_PATH;

use super::root::{Content, Entry, ZeroByte};

/// The most that an image may unpack to before anybody looks at how much memory its enclave has.
const LIMITS: Limits = Limits {
    bytes: 4 << 30,
    entries: 1 << 20,
};

/// Why a ramdisk could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It could not be opened or decompressed.
    #[error("ramdisk {number} cannot be read: {error}")]
    Read {
        /// Which, from 1.
        number: usize,
        /// Why.
        error: std::io::Error,
    },
    /// Its archive is broken.
    #[error("ramdisk {number} holds a broken archive: {error}")]
    Archive {
        /// Which, from 1.
        number: usize,
        /// Why.
        error: CpioError,
    },
    /// A file of words that is longer than any that could be used.
    #[error("{name} is longer than {most} bytes, which no command and no environment is")]
    TooLong {
        /// The file.
        name: &'static str,
        /// Bytes that it may have.
        most: usize,
    },
    /// A name that no file system can hold.
    #[error(transparent)]
    Name(#[from] ZeroByte),
}

/// All entries of the ramdisks in order.
pub(crate) fn entries(ramdisks: &[Ramdisk]) -> Result<Vec<Entry>, UnpackError> {
    let mut entries = Vec::new();
    for (number, ramdisk) in (1..).zip(ramdisks) {
        let read = |error| UnpackError::Read { number, error };
        let archive = |error| UnpackError::Archive { number, error };
        let mut reader = ramdisk.entries(LIMITS).map_err(read)?;
        while let Some(entry) = reader.next_entry().map_err(archive)? {
            let mut data = |size: u64| {
                let mut bytes = Vec::with_capacity(size as usize);
                reader
                    .by_ref()
                    .take(size)
                    .read_to_end(&mut bytes)
                    .map_err(read)?;
                Ok::<Vec<u8>, UnpackError>(bytes)
            };
            let mut add = |path: &Path, content| -> Result<(), ZeroByte> {
                entries.push(Entry::new(
                    path.as_os_str().as_bytes(),
                    entry.mode,
                    entry.uid,
                    entry.gid,
                    content,
                )?);
                Ok(())
            };
            match entry.kind {
                EntryKind::Directory => add(&entry.path, Content::Directory)?,
                EntryKind::File { size } => {
                    let bytes = data(size)?;
                    add(&entry.path, Content::File(bytes))?;
                }
                EntryKind::HardLink { target, size } => {
                    if size > 0 {
                        // What comes with a later name becomes what is behind the earlier ones.
                        let bytes = data(size)?;
                        add(&target, Content::File(bytes))?;
                    }
                    let target = name(&target)?;
                    add(&entry.path, Content::HardLink(target))?;
                }
                EntryKind::Symlink { target } => {
                    let target = name(&target)?;
                    add(&entry.path, Content::Symlink(target))?;
                }
                // The sandbox brings its own /dev; pipes and sockets in an image mean nothing here.
                EntryKind::CharacterDevice { .. }
                | EntryKind::BlockDevice { .. }
                | EntryKind::Fifo
                | EntryKind::Socket => {}
            }
        }
    }
    Ok(entries)
}

fn name(path: &Path) -> Result<CString, ZeroByte> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| ZeroByte(path.to_string_lossy().into_owned()))
}

/// The manifest's bytes, if the image has one.
pub(crate) fn manifest(entries: &[Entry]) -> Option<&[u8]> {
    let wanted = MANIFEST_PATH.trim_start_matches('/').as_bytes();
    entries
        .iter()
        .rev()
        .find(|entry| entry.path().to_bytes() == wanted)
        .and_then(Entry::file)
}
