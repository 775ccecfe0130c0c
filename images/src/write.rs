//! Writing an image file: sections one behind the other, of which some may be filled in out of order, then the header
//! in front of them.
//!
//! The file has no name until it is complete, so that a build that fails or is killed leaves nothing behind, and a
//! running reader of an older image keeps its file. On file systems that know no files without names it has a temporary
//! name beside its destination, which only a kill leaves behind.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use tempfile::TempPath;

use crate::cpio::Leave;
use crate::eif::{
    Architecture, CRC_OFFSET, HEADER_BYTES, Header, SECTION_HEADER_BYTES, SectionKind, TableEntry,
    section_header,
};
use crate::measure::{Follower, Known, Sums};
use crate::storage::{RangeReader, Storage};

const BUFFER_BYTES: usize = 256 << 10;

/// An image that is being written.
pub(crate) struct ImageWriter {
    file: Arc<File>,
    name: Name,
    header: Header,
    end: u64,
    follower: Follower,
}

/// What a file is called before it gets its destination's name.
enum Name {
    None {
        /// Its destination's.
        folder: PathBuf,
    },
    Temporary(TempPath),
}

impl ImageWriter {
    /// Begins an image that will be renamed to `destination`, in whose folder it is made.
    pub(crate) fn new(
        destination: &Path,
        architecture: Architecture,
        default_memory_bytes: u64,
        default_cpus: u64,
    ) -> io::Result<ImageWriter> {
        let folder = match destination.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let (file, name) = if let Some(file) = unnamed(folder) {
            let folder = folder.into();
            (file, Name::None { folder })
        } else {
            let (file, path) = temporary().tempfile_in(folder)?.into_parts();
            (file, Name::Temporary(path))
        };
        let file = Arc::new(file);
        Ok(ImageWriter {
            follower: Follower::new(&file)?,
            file,
            name,
            header: Header {
                architecture,
                default_memory_bytes,
                default_cpus,
                table: Vec::new(),
                crc32: 0,
            },
            end: HEADER_BYTES as u64,
        })
    }

    /// Adds a section whose data `fill` writes.
    pub(crate) fn section<E: From<io::Error>>(
        &mut self,
        kind: SectionKind,
        fill: impl FnOnce(&mut SectionWriter<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.end + SECTION_HEADER_BYTES as u64;
        self.follower.hear(Known::Begins(kind, start));
        let follower = Some(&self.follower);
        let mut data = SectionWriter::new(&self.file, start, follower);
        fill(&mut data)?;
        let end = data.finish()?;
        // Whatever the section used as room to work in goes; what it left open at its end comes.
        self.file.set_len(end)?;
        let bytes = end - start;

        // The section's header stands before its data and holds its length, which is known only now.
        self.file
            .write_all_at(&section_header(kind, bytes), self.end)?;
        self.header.table.push(TableEntry {
            offset: self.end,
            size: bytes,
        });
        self.end = end;
        self.follower.hear(Known::Ends(end));
        Ok(())
    }

    /// Writes the header, but for the checksum, and waits until all is measured.
    pub(crate) fn finish(self) -> io::Result<Written> {
        self.file.write_all_at(&self.header.to_bytes(), 0)?;
        // Temporary files are private; images are not secret, and others may have to start them.
        self.file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(Written {
            sums: self.follower.finish()?,
            file: self.file,
            name: self.name,
        })
    }
}

/// A file without a name, where the file system can and the system can name it later.
fn unnamed(folder: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(folder)
        .ok()?;
    open_file(&file).exists().then_some(file)
}

/// A path to an open file, whether it has a name or not.
fn open_file(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".anchorhold-").suffix(".eif");
    builder
}

/// An image that lacks its checksum and its name.
pub(crate) struct Written {
    file: Arc<File>,
    name: Name,
    sums: Sums,
}

impl Written {
    /// The file without a name yet, and what was measured while it was written.
    pub(crate) fn into_parts(self) -> (Arc<File>, Sums, Unnamed) {
        let file = Arc::clone(&self.file);
        let (name, own) = (self.name, self.file);
        (file, self.sums, Unnamed { file: own, name })
    }
}

/// An image's file that lacks its checksum and its name.
pub(crate) struct Unnamed {
    file: Arc<File>,
    name: Name,
}

impl Unnamed {
    /// Adds the checksum and gives the image its name.
    pub(crate) fn persist(self, crc32: u32, destination: &Path) -> io::Result<()> {
        self.file
            .write_all_at(&crc32.to_be_bytes(), CRC_OFFSET as u64)?;
        let path = match self.name {
            Name::Temporary(path) => path,
            // A name that is given never replaces another, so that this takes two steps.
            Name::None { folder } => temporary()
                .make_in(folder, |path| {
                    let from = open_file(&self.file);
                    let follow = AtFlags::AT_SYMLINK_FOLLOW;
                    nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, path, follow)
                        .map_err(io::Error::from)
                })?
                .into_temp_path(),
        };
        path.persist(destination).map_err(|error| error.error)
    }
}

/// A section's data: written one piece behind the other, but for room that is left and filled in later.
pub(crate) struct SectionWriter<'i> {
    file: Arc<File>,
    start: u64,
    buffer: BufWriter<At<'i>>,
    /// From where on there may be room to fill in.
    room_from: Option<u64>,
}

impl<'i> SectionWriter<'i> {
    fn new(file: &Arc<File>, start: u64, follower: Option<&'i Follower>) -> SectionWriter<'i> {
        let at = At {
            file: Arc::clone(file),
            offset: start,
            follower,
        };
        SectionWriter {
            file: Arc::clone(file),
            start,
            buffer: BufWriter::with_capacity(BUFFER_BYTES, at),
            room_from: None,
        }
    }

    /// Fills in what was left at an offset of the data.
    pub(crate) fn fill_in(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = self.start + offset;
        // What stands before it may be measured already.
        assert!(
            self.room_from.is_some_and(|from| from <= at),
            "room was left"
        );
        self.file.write_all_at(bytes, at)
    }

    /// Room to work in, so many bytes behind the beginning of this section. It is gone when the section is finished.
    pub(crate) fn room_behind(&self, bytes: u64) -> SectionWriter<'static> {
        SectionWriter::new(&self.file, self.start + bytes, None)
    }

    /// All that was written, to be read.
    pub(crate) fn into_reader(self) -> io::Result<RangeReader> {
        let (file, start) = (Arc::clone(&self.file), self.start);
        let end = self.finish()?;
        let storage = Storage::File { file, bytes: end };
        Ok(RangeReader::new(storage, start, end - start))
    }

    fn finish(mut self) -> io::Result<u64> {
        self.buffer.flush()?;
        Ok(self.buffer.get_ref().offset)
    }
}

impl Write for SectionWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()
    }
}

impl Leave for SectionWriter<'_> {
    fn leave(&mut self, count: u64) -> io::Result<()> {
        self.buffer.flush()?;
        let end = self.buffer.get_mut();
        self.room_from.get_or_insert(end.offset);
        end.offset += count;
        // What is written behind room that was left is measured when the section has ended.
        end.follower = None;
        Ok(())
    }
}

impl Leave for &mut SectionWriter<'_> {
    fn leave(&mut self, count: u64) -> io::Result<()> {
        (**self).leave(count)
    }
}

struct At<'i> {
    file: Arc<File>,
    offset: u64,
    /// Who may read what is written at once, since it will stay as it is.
    follower: Option<&'i Follower>,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.offset)?;
        self.offset += written as u64;
        if let Some(follower) = self.follower {
            follower.hear(Known::Until(self.offset));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
