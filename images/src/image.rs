//! An enclave image as a file that was read: first [`Unmeasured`], whose structure holds, then [`Image`], whose every
//! byte was hashed.
//!
//! Nothing here changes a file, and no part of an image is taken into memory but what has a small limit of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anchorhold_manifest::{MANIFEST_PATH, MAX_MANIFEST_BYTES, Manifest, ManifestError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpio::{CpioError, EntryKind, Limits};
use crate::eif::{
    self, Architecture, FormatError, HEADER_BYTES, Header, SECTION_HEADER_BYTES, Section,
    SectionKind,
};
use crate::measure::{self, Measurements, Pass, Sums};
use crate::ramdisk::Ramdisk;
use crate::signature::{self, Signature, SignatureError};
use crate::storage::Storage;
use crate::{NO_KERNEL, describe};

/// Why a file is not used as an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be opened.
    #[error("cannot open the image {}: {source}", .path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A folder, device or pipe.
    #[error("{} is no regular file, and an image is one", .path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the image {}: {source}", .path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is no image, or a damaged one.
    #[error("{}: {source}", .path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
    /// The checksum does not match.
    #[error(
        "{}: the checksum is {computed:08x}, and the header says {stated:08x}: the image was damaged or changed; build or \
         copy it again", .path.display()
    )]
    Checksum {
        /// The image.
        path: PathBuf,
        /// CRC-32 of the file as it is.
        computed: u32,
        /// CRC-32 in the header.
        stated: u32,
    },
    /// The metadata is not the JSON that every image has.
    #[error("{}: the metadata section cannot be read: {source}", .path.display())]
    Metadata {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The command line is no text.
    #[error("{}: the command line is not ASCII text", .path.display())]
    CommandLine {
        /// The image.
        path: PathBuf,
    },
    /// The signature section cannot be read.
    #[error("{}: {source}", .path.display())]
    Signature {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: SignatureError,
    },
    /// A ramdisk cannot be read.
    #[error("{}: ramdisk {number}: {source}", .path.display())]
    Ramdisk {
        /// The image.
        path: PathBuf,
        /// The ramdisk, counted from 1.
        number: usize,
        /// What is wrong.
        source: CpioError,
    },
    /// The manifest in the image is refused.
    #[error("{}: the image's {MANIFEST_PATH}: {source}", .path.display())]
    Manifest {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// The manifest is no plain file, no text or too large.
    #[error("{}: the image's {MANIFEST_PATH} {problem}", .path.display())]
    ManifestFile {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The metadata section: JSON as AWS's tool writes it. Not measured, so nothing may be decided by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metadata {
    /// The image's name.
    pub image_name: String,
    /// The image's version.
    pub image_version: String,
    /// Who built it, when and from what.
    pub build_metadata: BuildMetadata,
    /// What Docker said about the image that it was made from.
    #[serde(default)]
    pub docker_info: serde_json::Value,
    /// Whatever the builder added.
    #[serde(default)]
    pub custom_metadata: serde_json::Value,
}

/// Who built an image, when and from what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BuildMetadata {
    /// RFC 3339.
    pub build_time: String,
    /// The tool's name.
    pub build_tool: String,
    /// The tool's version.
    pub build_tool_version: String,
    /// The system that the kernel belongs to.
    pub operating_system: String,
    /// The kernel's version.
    pub kernel_version: String,
}

/// An image whose header and section table hold. Its bytes were not measured yet, so all that is known about it is what
/// it costs to look.
#[derive(Debug)]
pub struct Unmeasured {
    path: PathBuf,
    storage: Storage,
    header: Header,
    sections: Vec<Section>,
}

impl Unmeasured {
    /// Opens a file and checks its header and section table, without reading what the sections hold.
    ///
    /// Whoever starts an enclave from it takes the [`ramdisks`](Self::ramdisks), unpacks them on threads of its own, and
    /// [`measure`](Self::measure)s meanwhile. The file must not be changed in place during that time: builds replace
    /// an image by renaming, which leaves this one intact.
    pub fn open(path: &Path) -> Result<Unmeasured, ImageError> {
        let open = |source| ImageError::Open {
            path: path.into(),
            source,
        };
        // Looked at before it is opened, since opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(open)?.is_file() {
            return Err(ImageError::NotAFile { path: path.into() });
        }
        let file = File::open(path).map_err(open)?;
        let bytes = file.metadata().map_err(open)?.len();
        Self::new(
            path.into(),
            Storage::File {
                file: Arc::new(file),
                bytes,
            },
        )
    }

    /// An image that is being written and has no name yet. `name` is the one that it will have.
    pub(crate) fn of_file(name: &Path, file: Arc<File>) -> Result<Unmeasured, ImageError> {
        let metadata = file.metadata().map_err(|source| ImageError::Open {
            path: name.into(),
            source,
        })?;
        let bytes = metadata.len();
        Self::new(name.into(), Storage::File { file, bytes })
    }

    /// Takes an image from memory. `name` stands for the path in errors.
    pub fn from_bytes(name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Unmeasured, ImageError> {
        Self::new(name.into(), Storage::Memory(bytes.into()))
    }

    fn new(path: PathBuf, storage: Storage) -> Result<Unmeasured, ImageError> {
        let format = |source| ImageError::Format {
            path: path.clone(),
            source,
        };
        let read = |source| ImageError::Read {
            path: path.clone(),
            source,
        };
        let file_bytes = storage.len();
        let mut header = [0; HEADER_BYTES];
        if file_bytes < header.len() as u64 {
            return Err(format(FormatError::TooShort { bytes: file_bytes }));
        }
        storage.read_exact_at(&mut header, 0).map_err(read)?;
        let header = Header::parse(&header, file_bytes).map_err(format)?;
        let mut sections = Vec::with_capacity(header.table.len());
        for (index, entry) in header.table.iter().enumerate() {
            let mut bytes = [0; SECTION_HEADER_BYTES];
            storage
                .read_exact_at(&mut bytes, entry.offset)
                .map_err(read)?;
            sections.push(eif::parse_section(&bytes, index, *entry).map_err(format)?);
        }
        eif::check_order(&sections).map_err(format)?;
        Ok(Unmeasured {
            path,
            storage,
            header,
            sections,
        })
    }

    /// The ramdisks in order, each independent of the others and of this value.
    pub fn ramdisks(&self) -> Vec<Ramdisk> {
        self.sections
            .iter()
            .filter(|section| section.kind == SectionKind::Ramdisk)
            .map(|section| Ramdisk::new(self.storage.clone(), *section))
            .collect()
    }

    /// Whether it has a kernel. Without one it runs in the sandbox only.
    pub fn has_kernel(&self) -> Result<bool, ImageError> {
        has_kernel(&self.storage, &self.sections).map_err(|source| ImageError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// Hashes the whole file and checks what was left: the checksum, the metadata, the signature section.
    pub fn measure(self) -> Result<Image, ImageError> {
        let pass = self.pass()?;
        if pass.crc32 != self.header.crc32 {
            return Err(ImageError::Checksum {
                path: self.path,
                computed: pass.crc32,
                stated: self.header.crc32,
            });
        }
        self.measured(&pass)
    }

    /// The same for an image that has no checksum yet and was measured while it was written. The checksum is the result as
    /// well.
    pub(crate) fn measured_by(mut self, sums: Sums) -> Result<(Image, u32), ImageError> {
        assert!(sums.are_of(&self.sections), "what was measured is written");
        let pass = sums
            .with_header(&self.storage)
            .map_err(|source| ImageError::Read {
                path: self.path.clone(),
                source,
            })?;
        self.header.crc32 = pass.crc32;
        Ok((self.measured(&pass)?, pass.crc32))
    }

    fn pass(&self) -> Result<Pass, ImageError> {
        measure::pass(&self.storage, &self.sections).map_err(|source| ImageError::Read {
            path: self.path.clone(),
            source,
        })
    }

    fn measured(self, pass: &Pass) -> Result<Image, ImageError> {
        let Unmeasured {
            path,
            storage,
            header,
            sections,
        } = self;
        let read = |source| ImageError::Read {
            path: path.clone(),
            source,
        };
        let text = |kind| -> Result<Option<Vec<u8>>, ImageError> {
            let section = sections.iter().find(|section| section.kind == kind);
            section
                .map(|section| storage.read(section.offset, section.size))
                .transpose()
                .map_err(read)
        };
        let metadata = text(SectionKind::Metadata)?.unwrap_or_default();
        let metadata =
            serde_json::from_slice(&metadata).map_err(|source| ImageError::Metadata {
                path: path.clone(),
                source,
            })?;
        let command_line = text(SectionKind::CommandLine)?.unwrap_or_default();
        // AWS's tool ends it as its user did: with a newline or a NUL, or without.
        let command_line = String::from_utf8(command_line)
            .ok()
            .filter(|text| text.is_ascii())
            .ok_or_else(|| ImageError::CommandLine { path: path.clone() })?;
        let signature = text(SectionKind::Signature)?
            .map(|section| signature::parse(&section))
            .transpose()
            .map_err(|source| ImageError::Signature {
                path: path.clone(),
                source,
            })?;
        let measurements = Measurements {
            pcr0: pass.pcr0,
            pcr1: pass.pcr1,
            pcr2: pass.pcr2,
            pcr8: signature
                .as_ref()
                .map(|signature| measure::signer_pcr(&signature.certificate)),
        };
        Ok(Image {
            path,
            storage,
            header,
            sections,
            measurements,
            metadata,
            command_line,
            signature,
        })
    }
}

/// Bytes that [`Image::copy_section`] holds at a time.
const COPIED_AT_ONCE: usize = 256 * 1024;

fn has_kernel(storage: &Storage, sections: &[Section]) -> io::Result<bool> {
    let Some(kernel) = sections
        .iter()
        .find(|section| section.kind == SectionKind::Kernel)
    else {
        return Ok(false);
    };
    if kernel.size != NO_KERNEL.len() as u64 {
        return Ok(true);
    }
    let bytes = storage.read(kernel.offset, kernel.size)?;
    Ok(bytes != NO_KERNEL.as_bytes())
}

/// An image that was read to its last byte: structure, checksum and measurements hold.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    storage: Storage,
    header: Header,
    sections: Vec<Section>,
    measurements: Measurements,
    metadata: Metadata,
    command_line: String,
    signature: Option<Signature>,
}

impl Image {
    /// Opens, checks and measures an image.
    pub fn open(path: &Path) -> Result<Image, ImageError> {
        Unmeasured::open(path)?.measure()
    }

    /// The PCRs of an enclave started from it.
    pub fn measurements(&self) -> &Measurements {
        &self.measurements
    }

    /// The sections in file order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The processor it is for.
    pub fn architecture(&self) -> Architecture {
        self.header.architecture
    }

    /// Bytes of memory and CPUs that it asks for where nobody says otherwise. Not measured.
    pub fn default_resources(&self) -> (u64, u64) {
        (self.header.default_memory_bytes, self.header.default_cpus)
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.storage.len()
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// CRC-32 of the file but the four bytes that hold it.
    pub fn crc32(&self) -> u32 {
        self.header.crc32
    }

    /// What the image calls itself. Not measured.
    pub fn name(&self) -> &str {
        &self.metadata.image_name
    }

    /// What it says about its making. Not measured.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The kernel's command line, as it stands in the image.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// The signature, if there is one. Its certificate gives PCR8; whether it was made with that certificate's key is
    /// not checked here.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// Whether it has a kernel. Without one it runs in the sandbox only.
    pub fn has_kernel(&self) -> Result<bool, ImageError> {
        has_kernel(&self.storage, &self.sections).map_err(|source| self.unreadable(source))
    }

    /// Writes what one of its [`sections`](Self::sections) holds.
    pub fn copy_section(&self, section: &Section, to: &mut dyn io::Write) -> io::Result<()> {
        let mut written = Ok(());
        self.storage
            .each_chunk(section.offset, section.size, COPIED_AT_ONCE, |bytes| {
                if written.is_ok() {
                    written = to.write_all(bytes);
                }
            })?;
        written
    }

    /// Writes the whole file, as it was measured.
    pub fn copy_to(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let mut written = Ok(());
        self.storage
            .each_chunk(0, self.storage.len(), COPIED_AT_ONCE, |bytes| {
                if written.is_ok() {
                    written = to.write_all(bytes);
                }
            })?;
        written
    }

    /// The ramdisks in order.
    pub fn ramdisks(&self) -> Vec<Ramdisk> {
        self.sections
            .iter()
            .filter(|section| section.kind == SectionKind::Ramdisk)
            .map(|section| Ramdisk::new(self.storage.clone(), *section))
            .collect()
    }

    /// The manifest, from the ramdisks; none in images that other tools made.
    ///
    /// What a ramdisk holds replaces what those before it hold under the same name, so that the last one's manifest is
    /// the enclave's. Images built here have it in a small plain ramdisk at the end: the others are not unpacked.
    pub fn manifest(&self) -> Result<Option<Manifest>, ImageError> {
        for (index, ramdisk) in self.ramdisks().iter().enumerate().rev() {
            if let Some(text) = self.manifest_in(index, ramdisk)? {
                let manifest = Manifest::parse(&text).map_err(|source| ImageError::Manifest {
                    path: self.path.clone(),
                    source,
                })?;
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// All that people and scripts want to know.
    pub fn describe(&self) -> Result<describe::Description, ImageError> {
        describe::describe(self)
    }

    /// The manifest in one ramdisk, which is read to its end: a name that comes twice in it is an error.
    fn manifest_in(&self, index: usize, ramdisk: &Ramdisk) -> Result<Option<String>, ImageError> {
        let broken = |source| ImageError::Ramdisk {
            path: self.path.clone(),
            number: index + 1,
            source,
        };
        let refuse = |problem| ImageError::ManifestFile {
            path: self.path.clone(),
            problem,
        };
        let mut reader = ramdisk
            .entries(Limits::default())
            .map_err(|source| self.unreadable(source))?;
        let mut found = None;
        while let Some(entry) = reader.next_entry().map_err(broken)? {
            if entry.path != Path::new(&MANIFEST_PATH[1..]) {
                continue;
            }
            let EntryKind::File { size } = entry.kind else {
                return Err(refuse("is no regular file"));
            };
            if size > MAX_MANIFEST_BYTES as u64 {
                return Err(refuse("is too large"));
            }
            let mut bytes = Vec::with_capacity(size as usize);
            reader
                .read_to_end(&mut bytes)
                .map_err(|source| self.unreadable(source))?;
            let text = String::from_utf8(bytes).map_err(|_| refuse("is no UTF-8 text"))?;
            found = Some(text);
        }
        Ok(found)
    }

    /// The same as [`copy_section`](Self::copy_section); what cannot be read goes into `unread`, told apart from what
    /// cannot be written.
    pub(crate) fn copy_section_told_apart(
        &self,
        section: &Section,
        sink: &mut dyn io::Write,
        unread: &mut Option<io::Error>,
    ) -> io::Result<()> {
        let mut written = Ok(());
        let read = self
            .storage
            .each_chunk(section.offset, section.size, COPIED_AT_ONCE, |chunk| {
                if written.is_ok() {
                    written = sink.write_all(chunk);
                }
            });
        *unread = read.err();
        written
    }

    pub(crate) fn unreadable(&self, source: io::Error) -> ImageError {
        ImageError::Read {
            path: self.path.clone(),
            source,
        }
    }
}
