//! What of an ELF file decides whether it can run alone: its processor, its interpreter and the libraries it needs.
//!
//! Layout: System V ABI, chapters 4 and 5; only 64-bit little-endian files. Every offset comes from the file and is
//! checked against it. Nothing is executed or resolved.

use std::io;

use thiserror::Error;

use crate::eif::Architecture;
use crate::storage::Storage;

const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const DYNAMIC_ENTRY_BYTES: u64 = 16;
/// Far more than any program has; bounds what a hostile file makes us read.
const MAX_PROGRAM_HEADERS: u64 = 512;
const MAX_DYNAMIC_ENTRIES: u64 = 8192;
const MAX_STRING_BYTES: u64 = 4096;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// An ELF program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The processor it is for.
    pub architecture: Architecture,
    /// The loader that it asks for; none for a static program.
    pub interpreter: Option<String>,
    /// The shared libraries that it asks for.
    pub needed: Vec<String>,
}

/// Why a file is no program that an enclave could run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("is no ELF file, so no program that Linux runs by itself")]
    NotElf,
    /// 32 bits or big-endian.
    #[error("is no 64-bit little-endian program")]
    Class,
    /// An object file, library archive or core dump.
    #[error("is an ELF file but no program (type {0})")]
    Type(u16),
    /// A processor without enclaves.
    #[error("is for another processor (ELF machine {0}); enclaves run on x86-64 and arm64")]
    Machine(u16),
    /// Offsets that lead out of the file, or absurd counts.
    #[error("is a damaged ELF file: {0}")]
    Damaged(&'static str),
}

impl Program {
    /// Whether it runs without any other file.
    pub(crate) fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.needed.is_empty()
    }

    pub(crate) fn read(storage: &Storage) -> Result<Program, ElfError> {
        let mut header = [0; HEADER_BYTES as usize];
        storage
            .read_exact_at(&mut header, 0)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ElfError::NotElf,
                _ => ElfError::Read(error),
            })?;
        if header[..4] != *b"\x7fELF" {
            return Err(ElfError::NotElf);
        }
        if header[4] != 2 || header[5] != 1 {
            return Err(ElfError::Class);
        }
        let kind = u16_at(&header, 16);
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(ElfError::Type(kind));
        }
        let architecture = match u16_at(&header, 18) {
            EM_X86_64 => Architecture::X86_64,
            EM_AARCH64 => Architecture::Arm64,
            other => return Err(ElfError::Machine(other)),
        };
        let count = u64::from(u16_at(&header, 56));
        if count == 0
            || count > MAX_PROGRAM_HEADERS
            || u64::from(u16_at(&header, 54)) != PROGRAM_HEADER_BYTES
        {
            return Err(ElfError::Damaged("no usable program headers"));
        }
        let table = range(
            storage,
            u64_at(&header, 32),
            count * PROGRAM_HEADER_BYTES,
            "program headers",
        )?;
        let segments: Vec<Segment> = table
            .chunks_exact(PROGRAM_HEADER_BYTES as usize)
            .map(Segment::read)
            .collect();

        let interpreter = segments
            .iter()
            .find(|segment| segment.kind == PT_INTERP)
            .map(|segment| {
                let bytes = range(
                    storage,
                    segment.offset,
                    segment.file_bytes.min(MAX_STRING_BYTES),
                    "interpreter",
                )?;
                string(&bytes, "interpreter")
            })
            .transpose()?;
        let needed = match segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
            Some(dynamic) => needed(storage, &segments, dynamic)?,
            None => Vec::new(),
        };
        Ok(Program {
            architecture,
            interpreter,
            needed,
        })
    }
}

fn needed(
    storage: &Storage,
    segments: &[Segment],
    dynamic: &Segment,
) -> Result<Vec<String>, ElfError> {
    let bytes = dynamic
        .file_bytes
        .min(MAX_DYNAMIC_ENTRIES * DYNAMIC_ENTRY_BYTES);
    let table = range(storage, dynamic.offset, bytes, "dynamic section")?;
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(DYNAMIC_ENTRY_BYTES as usize)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
        .take_while(|(tag, _)| *tag != DT_NULL)
        .collect();
    let names: Vec<u64> = entries
        .iter()
        .filter(|(tag, _)| *tag == DT_NEEDED)
        .map(|(_, value)| *value)
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let address = entries
        .iter()
        .find_map(|(tag, value)| (*tag == DT_STRTAB).then_some(*value))
        .ok_or(ElfError::Damaged("libraries without names"))?;
    // The dynamic section gives addresses; the segment that is loaded there says where that is in the file.
    let strings = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let within = address
                .checked_sub(segment.address)
                .filter(|within| *within < segment.file_bytes)?;
            segment.offset.checked_add(within)
        })
        .ok_or(ElfError::Damaged("library names outside its segments"))?;
    names
        .into_iter()
        .map(|name| {
            let start = strings
                .checked_add(name)
                .filter(|start| *start < storage.len())
                .ok_or(ElfError::Damaged("library name outside the file"))?;
            let bytes = range(
                storage,
                start,
                MAX_STRING_BYTES.min(storage.len() - start),
                "library name",
            )?;
            string(&bytes, "library name")
        })
        .collect()
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
}

impl Segment {
    fn read(bytes: &[u8]) -> Segment {
        Segment {
            kind: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            offset: u64_at(bytes, 8),
            address: u64_at(bytes, 16),
            file_bytes: u64_at(bytes, 32),
        }
    }
}

fn range(
    storage: &Storage,
    offset: u64,
    bytes: u64,
    what: &'static str,
) -> Result<Vec<u8>, ElfError> {
    storage
        .read(offset, bytes)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ElfError::Damaged(what),
            _ => ElfError::Read(error),
        })
}

fn string(bytes: &[u8], what: &'static str) -> Result<String, ElfError> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(ElfError::Damaged(what))?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
