//! The enclave image format, version 4: the header, the section table and their rules, as bytes.
//!
//! The layout is that of `aws-nitro-enclaves-image-format`: big-endian integers, a header of 548 bytes, then sections
//! that each begin with a header of 12 bytes. This module reads and writes no file, and it must never tidy up what it
//! reads: bytes that no rule explains are bytes that no measurement covers, so every oddity is an error of its own.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// `.eif`
pub const MAGIC: [u8; 4] = *b".eif";
/// The version that is read and written.
pub const VERSION: u16 = 4;
/// Bytes of the header, the CRC-32 being its last four.
pub const HEADER_BYTES: usize = 548;
/// Bytes before each section's data: type, flags, size.
pub const SECTION_HEADER_BYTES: usize = 12;
/// Entries of the header's section table.
pub const MAX_SECTIONS: usize = 32;
/// Where in the header the CRC-32 stands: the only bytes of the file that it does not cover.
pub const CRC_OFFSET: usize = HEADER_BYTES - 4;

const FLAG_ARM64: u16 = 1;
const TABLE_OFFSETS: usize = 28;
const TABLE_SIZES: usize = TABLE_OFFSETS + 8 * MAX_SECTIONS;
const UNUSED: usize = TABLE_SIZES + 8 * MAX_SECTIONS;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SectionKind {
    /// The Linux kernel.
    Kernel,
    /// The kernel's command line.
    CommandLine,
    /// A cpio archive, plain or gzip'd.
    Ramdisk,
    /// Signatures of PCR0.
    Signature,
    /// JSON about the image, not measured.
    Metadata,
}

impl SectionKind {
    /// The number that stands for the kind in the file.
    pub const fn code(self) -> u16 {
        match self {
            SectionKind::Kernel => 1,
            SectionKind::CommandLine => 2,
            SectionKind::Ramdisk => 3,
            SectionKind::Signature => 4,
            SectionKind::Metadata => 5,
        }
    }

    fn from_code(code: u16) -> Option<SectionKind> {
        [
            SectionKind::Kernel,
            SectionKind::CommandLine,
            SectionKind::Ramdisk,
            SectionKind::Signature,
            SectionKind::Metadata,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }

    /// The most data that such a section may have. What is only hashed or streamed is bounded by the file alone; what
    /// is read into memory has a limit.
    pub(crate) const fn limit(self) -> u64 {
        match self {
            SectionKind::Kernel | SectionKind::Ramdisk => u64::MAX,
            SectionKind::CommandLine => 64 << 10,
            // The limit of AWS's own tool.
            SectionKind::Signature => 32 << 10,
            SectionKind::Metadata => 1 << 20,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SectionKind::Kernel => "kernel",
            SectionKind::CommandLine => "command line",
            SectionKind::Ramdisk => "ramdisk",
            SectionKind::Signature => "signature",
            SectionKind::Metadata => "metadata",
        })
    }
}

/// The processor that an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Architecture {
    /// x86-64.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "arm64")]
    Arm64,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Architecture::X86_64 => "x86-64",
            Architecture::Arm64 => "arm64",
        })
    }
}

/// A section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Section {
    /// What it holds.
    #[serde(rename = "Type")]
    pub kind: SectionKind,
    /// Where its data begins in the file, after the section's own header.
    pub offset: u64,
    /// Bytes of data.
    pub size: u64,
}

/// The header of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The processor.
    pub architecture: Architecture,
    /// Bytes of memory that the enclave gets where nobody says otherwise. Not measured.
    pub default_memory_bytes: u64,
    /// CPUs that the enclave gets where nobody says otherwise. Not measured.
    pub default_cpus: u64,
    /// For each section, where its header begins and how many bytes of data follow that.
    pub table: Vec<TableEntry>,
    /// CRC-32 (IEEE) over the whole file but these four bytes.
    pub crc32: u32,
}

/// One entry of the header's section table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableEntry {
    /// Where the section's header begins.
    pub offset: u64,
    /// Bytes of data after the section's header.
    pub size: u64,
}

/// Why bytes are no enclave image of version 4.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Shorter than a header.
    #[error(
        "the file has {bytes} bytes, and the header of an enclave image alone takes {HEADER_BYTES}"
    )]
    TooShort {
        /// The file's length.
        bytes: u64,
    },
    /// Another kind of file.
    #[error("the file does not begin with \".eif\": it is no enclave image")]
    Magic,
    /// Another version of the format.
    #[error(
        "the image has format version {found}, and only version {VERSION} is read: build it again with a current tool"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// Header flags without a meaning.
    #[error("the header has flags {flags:#06x}, of which only 0x0001 (arm64) is known")]
    Flags {
        /// The flags found.
        flags: u16,
    },
    /// Reserved bytes in use.
    #[error("reserved bytes of the header at offset {offset} are not zero")]
    Reserved {
        /// Where they begin.
        offset: usize,
    },
    /// More sections than the table holds.
    #[error("the header counts {count} sections, and its table holds {MAX_SECTIONS}")]
    SectionCount {
        /// The count found.
        count: u16,
    },
    /// Table entries that no section uses.
    #[error("entry {index} of the section table is beyond the last section and not zero")]
    TableBeyondCount {
        /// The entry, counted from 0.
        index: usize,
    },
    /// A section that begins inside the header or the section before it.
    #[error("section {index} begins at {offset}, inside what ends at {previous_end}")]
    Overlap {
        /// The section, counted from 0.
        index: usize,
        /// Where its header is said to begin.
        offset: u64,
        /// Where the header or the section before it ends.
        previous_end: u64,
    },
    /// Bytes that belong to no section.
    #[error("{} bytes before section {index} belong to no section", .offset - .previous_end)]
    Gap {
        /// The section, counted from 0.
        index: usize,
        /// Where its header begins.
        offset: u64,
        /// Where the header or the section before it ends.
        previous_end: u64,
    },
    /// A section that ends after the file.
    #[error(
        "section {index} ends at {end}, and the file at {file_bytes}: the file is cut off or its table is damaged"
    )]
    BeyondFile {
        /// The section, counted from 0.
        index: usize,
        /// Where it is said to end; [`u64::MAX`] if that is not even a number of 64 bits.
        end: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// Bytes after the last section.
    #[error("{extra} bytes after the last section belong to no section")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// A section type without a meaning.
    #[error("section {index} has the unknown type {code}")]
    SectionType {
        /// The section, counted from 0.
        index: usize,
        /// The type found.
        code: u16,
    },
    /// Section flags, of which the format has none.
    #[error("section {index} ({kind}) has flags {flags:#06x}, and none are known")]
    SectionFlags {
        /// The section, counted from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
        /// The flags found.
        flags: u16,
    },
    /// Table and section disagree about the section's size.
    #[error(
        "section {index} ({kind}) says that it has {section} bytes, and the header's table says {table}"
    )]
    SectionSize {
        /// The section, counted from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
        /// The size in the section's own header.
        section: u64,
        /// The size in the header's table.
        table: u64,
    },
    /// A section without data, where there must be some.
    #[error("section {index} ({kind}) is empty")]
    EmptySection {
        /// The section, counted from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
    },
    /// A section with more data than its kind may have.
    #[error("section {index} ({kind}) has {size} bytes, and at most {limit} are read")]
    SectionTooLarge {
        /// The section, counted from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
        /// Its size.
        size: u64,
        /// The limit for its kind.
        limit: u64,
    },
    /// Sections in an order that would be measured differently.
    #[error(
        "section {index} ({kind}) is out of place: the order is kernel, command line, ramdisks, signature, with the \
         metadata anywhere between command line and signature"
    )]
    Order {
        /// The section, counted from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
    },
    /// A kind that may be there once only.
    #[error("section {index} is a second {kind}")]
    Repeated {
        /// The section, counted from 0.
        index: usize,
        /// Its kind.
        kind: SectionKind,
    },
    /// A kind that every image has.
    #[error("the image has no {kind}")]
    Missing {
        /// The kind.
        kind: SectionKind,
    },
}

impl Header {
    /// Reads a header and checks its section table against the file's length: sections follow the header and each
    /// other without gaps, and the last ends where the file ends.
    pub fn parse(bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Header, FormatError> {
        if bytes[..4] != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = u16_at(bytes, 4);
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        let flags = u16_at(bytes, 6);
        let architecture = match flags {
            0 => Architecture::X86_64,
            FLAG_ARM64 => Architecture::Arm64,
            _ => return Err(FormatError::Flags { flags }),
        };
        if u16_at(bytes, 24) != 0 {
            return Err(FormatError::Reserved { offset: 24 });
        }
        if u32_at(bytes, UNUSED) != 0 {
            return Err(FormatError::Reserved { offset: UNUSED });
        }
        let count = u16_at(bytes, 26);
        if usize::from(count) > MAX_SECTIONS {
            return Err(FormatError::SectionCount { count });
        }
        let mut table = Vec::with_capacity(usize::from(count));
        let mut end = HEADER_BYTES as u64;
        for index in 0..MAX_SECTIONS {
            let entry = TableEntry {
                offset: u64_at(bytes, TABLE_OFFSETS + 8 * index),
                size: u64_at(bytes, TABLE_SIZES + 8 * index),
            };
            if index >= usize::from(count) {
                if entry.offset != 0 || entry.size != 0 {
                    return Err(FormatError::TableBeyondCount { index });
                }
                continue;
            }
            let offset = entry.offset;
            if offset < end {
                return Err(FormatError::Overlap {
                    index,
                    offset,
                    previous_end: end,
                });
            }
            if offset > end {
                return Err(FormatError::Gap {
                    index,
                    offset,
                    previous_end: end,
                });
            }
            let section_end = offset
                .checked_add(SECTION_HEADER_BYTES as u64)
                .and_then(|data| data.checked_add(entry.size));
            end = section_end
                .filter(|end| *end <= file_bytes)
                .ok_or(FormatError::BeyondFile {
                    index,
                    end: section_end.unwrap_or(u64::MAX),
                    file_bytes,
                })?;
            table.push(entry);
        }
        if end < file_bytes {
            return Err(FormatError::TrailingBytes {
                extra: file_bytes - end,
            });
        }
        Ok(Header {
            architecture,
            default_memory_bytes: u64_at(bytes, 8),
            default_cpus: u64_at(bytes, 16),
            table,
            crc32: u32_at(bytes, CRC_OFFSET),
        })
    }

    /// The header's bytes.
    ///
    /// # Panics
    /// If the table has more than [`MAX_SECTIONS`] entries.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        assert!(
            self.table.len() <= MAX_SECTIONS,
            "an image has at most {MAX_SECTIONS} sections"
        );
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let flags = match self.architecture {
            Architecture::X86_64 => 0,
            Architecture::Arm64 => FLAG_ARM64,
        };
        put(0, &MAGIC);
        put(4, &VERSION.to_be_bytes());
        put(6, &flags.to_be_bytes());
        put(8, &self.default_memory_bytes.to_be_bytes());
        put(16, &self.default_cpus.to_be_bytes());
        put(26, &(self.table.len() as u16).to_be_bytes());
        for (index, entry) in self.table.iter().enumerate() {
            put(TABLE_OFFSETS + 8 * index, &entry.offset.to_be_bytes());
            put(TABLE_SIZES + 8 * index, &entry.size.to_be_bytes());
        }
        put(CRC_OFFSET, &self.crc32.to_be_bytes());
        bytes
    }
}

/// The bytes before a section's data.
pub fn section_header(kind: SectionKind, size: u64) -> [u8; SECTION_HEADER_BYTES] {
    let mut bytes = [0; SECTION_HEADER_BYTES];
    bytes[..2].copy_from_slice(&kind.code().to_be_bytes());
    bytes[4..].copy_from_slice(&size.to_be_bytes());
    bytes
}

/// Reads a section's own header, which must agree with the table's entry for it.
pub fn parse_section(
    bytes: &[u8; SECTION_HEADER_BYTES],
    index: usize,
    entry: TableEntry,
) -> Result<Section, FormatError> {
    let code = u16_at(bytes, 0);
    let kind = SectionKind::from_code(code).ok_or(FormatError::SectionType { index, code })?;
    let flags = u16_at(bytes, 2);
    if flags != 0 {
        return Err(FormatError::SectionFlags { index, kind, flags });
    }
    let size = u64_at(bytes, 4);
    if size != entry.size {
        return Err(FormatError::SectionSize {
            index,
            kind,
            section: size,
            table: entry.size,
        });
    }
    // AWS's library writes an empty command line where it was given none.
    if size == 0 && kind != SectionKind::CommandLine {
        return Err(FormatError::EmptySection { index, kind });
    }
    if size > kind.limit() {
        return Err(FormatError::SectionTooLarge {
            index,
            kind,
            size,
            limit: kind.limit(),
        });
    }
    Ok(Section {
        kind,
        offset: entry.offset + SECTION_HEADER_BYTES as u64,
        size,
    })
}

/// Checks which sections there are and in which order: one kernel, one command line, one metadata, at least one
/// ramdisk, at most one signature.
pub fn check_order(sections: &[Section]) -> Result<(), FormatError> {
    /// Of the kinds whose order decides what is measured, and the signature, which comes last.
    fn rank(kind: SectionKind) -> Option<u8> {
        match kind {
            SectionKind::Kernel => Some(0),
            SectionKind::CommandLine => Some(1),
            SectionKind::Metadata => None,
            SectionKind::Ramdisk => Some(2),
            SectionKind::Signature => Some(3),
        }
    }
    for kind in [
        SectionKind::Kernel,
        SectionKind::CommandLine,
        SectionKind::Metadata,
        SectionKind::Ramdisk,
    ] {
        if !sections.iter().any(|section| section.kind == kind) {
            return Err(FormatError::Missing { kind });
        }
    }
    let mut reached = None;
    for (index, section) in sections.iter().enumerate() {
        let kind = section.kind;
        if kind != SectionKind::Ramdisk
            && sections[..index].iter().any(|earlier| earlier.kind == kind)
        {
            return Err(FormatError::Repeated { index, kind });
        }
        let in_place = match rank(kind) {
            Some(rank) => reached
                .replace(rank)
                .map_or(rank == 0, |before| before <= rank),
            None => matches!(reached, Some(1 | 2)),
        };
        if !in_place {
            return Err(FormatError::Order { index, kind });
        }
    }
    Ok(())
}

/// CRC-32 (IEEE) of an image but the four bytes that hold it.
///
/// # Panics
/// If there are fewer bytes than a header has.
pub fn checksum(image: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&image[..CRC_OFFSET]);
    crc.update(&image[HEADER_BYTES..]);
    crc.finalize()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
