//! Writing an image file in one go: sections are streamed, then the header is put in front of them.
//!
//! The file is made beside its destination under a temporary name, so a failed build leaves nothing behind, and a
//! running reader of an older image keeps its file.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::eif::{
    Architecture, CRC_OFFSET, HEADER_BYTES, Header, SECTION_HEADER_BYTES, SectionKind, TableEntry,
    section_header,
};

/// An image that is being written.
pub(crate) struct ImageWriter {
    file: NamedTempFile,
    header: Header,
    end: u64,
    /// Checksum of the sections so far.
    sections_crc: crc32fast::Hasher,
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
        let mut file = tempfile::Builder::new()
            .prefix(".anchorhold-")
            .suffix(".eif")
            .tempfile_in(folder)?;
        file.as_file_mut()
            .seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(ImageWriter {
            file,
            header: Header {
                architecture,
                default_memory_bytes,
                default_cpus,
                table: Vec::new(),
                crc32: 0,
            },
            end: HEADER_BYTES as u64,
            sections_crc: crc32fast::Hasher::new(),
        })
    }

    /// Adds a section whose data `fill` writes.
    pub(crate) fn section<E: From<io::Error>>(
        &mut self,
        kind: SectionKind,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(self.end + SECTION_HEADER_BYTES as u64))?;
        let mut data = Checked {
            file,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
        };
        let mut buffered = BufWriter::with_capacity(256 << 10, &mut data);
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        let Checked { bytes, crc, .. } = data;

        // The section's header stands before its data and holds its length, which is known only now.
        let section = section_header(kind, bytes);
        file.seek(SeekFrom::Start(self.end))?;
        file.write_all(&section)?;
        self.sections_crc.update(&section);
        self.sections_crc.combine(&crc);
        self.header.table.push(TableEntry {
            offset: self.end,
            size: bytes,
        });
        self.end += SECTION_HEADER_BYTES as u64 + bytes;
        Ok(())
    }

    /// Writes the header and gives the finished file, still under its temporary name.
    pub(crate) fn finish(mut self) -> io::Result<NamedTempFile> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.header.to_bytes()[..CRC_OFFSET]);
        crc.combine(&self.sections_crc);
        self.header.crc32 = crc.finalize();
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&self.header.to_bytes())?;
        // Temporary files are private; images are not secret, and others may have to start them.
        file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(self.file)
    }
}

/// The file, and what went into it.
struct Checked<'f> {
    file: &'f mut File,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
