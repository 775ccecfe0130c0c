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
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
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
    /// Where it says that its libraries are, as it says it: folders separated by colons.
    pub search: Search,
}

/// `DT_RPATH` and `DT_RUNPATH`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Search {
    /// Also for the libraries of its libraries; ignored where there is a `runpath`.
    pub rpath: Option<String>,
    /// For its own libraries only.
    pub runpath: Option<String>,
}

/// What an ELF file's beginning tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The processor it is for.
    pub architecture: Architecture,
    /// The loader that it asks for.
    pub interpreter: Option<String>,
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
        let (outline, segments) = outline(storage)?;
        let (needed, search) = match segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
            Some(dynamic) => needed(storage, &segments, dynamic)?,
            None => Default::default(),
        };
        Ok(Program {
            architecture: outline.architecture,
            interpreter: outline.interpreter,
            needed,
            search,
        })
    }
}

impl Outline {
    pub(crate) fn read(storage: &Storage) -> Result<Outline, ElfError> {
        outline(storage).map(|(outline, _)| outline)
    }
}

fn outline(storage: &Storage) -> Result<(Outline, Vec<Segment>), ElfError> {
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
    let outline = Outline {
        architecture,
        interpreter,
    };
    Ok((outline, segments))
}

fn needed(
    storage: &Storage,
    segments: &[Segment],
    dynamic: &Segment,
) -> Result<(Vec<String>, Search), ElfError> {
    let bytes = dynamic
        .file_bytes
        .min(MAX_DYNAMIC_ENTRIES * DYNAMIC_ENTRY_BYTES);
    let table = range(storage, dynamic.offset, bytes, "dynamic section")?;
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(DYNAMIC_ENTRY_BYTES as usize)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
        .take_while(|(tag, _)| *tag != DT_NULL)
        .collect();
    let of = |tag: u64| {
        entries
            .iter()
            .filter(move |(found, _)| *found == tag)
            .map(|(_, value)| *value)
    };
    if !entries
        .iter()
        .any(|(tag, _)| matches!(*tag, DT_NEEDED | DT_RPATH | DT_RUNPATH))
    {
        return Ok(Default::default());
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
    let text = |name: u64| {
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
    };
    let search = Search {
        rpath: of(DT_RPATH).next().map(text).transpose()?,
        runpath: of(DT_RUNPATH).next().map(text).transpose()?,
    };
    let needed = of(DT_NEEDED).map(text).collect::<Result<_, _>>()?;
    Ok((needed, search))
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

/// The data of the section of that name, if the file has one.
pub(crate) fn section<'f>(file: &'f [u8], name: &str) -> Option<&'f [u8]> {
    let table = SectionTable::read(file)?;
    (0..table.count).find_map(|index| {
        let header = table.header(file, index)?;
        (table.name(file, header)? == name.as_bytes())
            .then(|| slice(file, u64_at(header, 24), u64_at(header, 32)))
            .flatten()
    })
}

/// The file with one more section, which is not loaded: its data, the names and the table of sections go to the end.
/// None for a file without sections, or with one of that name.
pub(crate) fn with_section(file: &[u8], name: &str, data: &[u8]) -> Option<Vec<u8>> {
    let table = SectionTable::read(file)?;
    if section(file, name).is_some() || table.count >= 0xff00 - 1 {
        return None;
    }
    let names_header = table.header(file, table.names)?;
    let names = slice(file, u64_at(names_header, 24), u64_at(names_header, 32))?;
    let mut grown = file.to_vec();
    let data_at = grown.len() as u64;
    grown.extend_from_slice(data);
    let names_at = grown.len() as u64;
    grown.extend_from_slice(names);
    grown.extend_from_slice(name.as_bytes());
    grown.push(0);
    let names_bytes = grown.len() as u64 - names_at;
    grown.resize(grown.len().next_multiple_of(8), 0);
    let table_at = grown.len() as u64;
    for index in 0..table.count {
        let mut header = table.header(file, index)?.to_vec();
        if index == table.names {
            header[24..32].copy_from_slice(&names_at.to_le_bytes());
            header[32..40].copy_from_slice(&names_bytes.to_le_bytes());
        }
        grown.extend_from_slice(&header);
    }
    let mut added = [0; SECTION_HEADER_BYTES as usize];
    added[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
    added[4..8].copy_from_slice(&SHT_PROGBITS.to_le_bytes());
    added[24..32].copy_from_slice(&data_at.to_le_bytes());
    added[32..40].copy_from_slice(&(data.len() as u64).to_le_bytes());
    added[48..56].copy_from_slice(&1u64.to_le_bytes());
    grown.extend_from_slice(&added);
    grown[40..48].copy_from_slice(&table_at.to_le_bytes());
    grown[60..62].copy_from_slice(&((table.count + 1) as u16).to_le_bytes());
    Some(grown)
}

const SECTION_HEADER_BYTES: u64 = 64;
const SHT_PROGBITS: u32 = 1;

struct SectionTable {
    at: u64,
    count: u64,
    names: u64,
}

impl SectionTable {
    fn read(file: &[u8]) -> Option<SectionTable> {
        if file.len() < HEADER_BYTES as usize || file[..6] != *b"\x7fELF\x02\x01" {
            return None;
        }
        let table = SectionTable {
            at: u64_at(file, 40),
            count: u16_at(file, 60).into(),
            names: u16_at(file, 62).into(),
        };
        let sized = u64::from(u16_at(file, 58)) == SECTION_HEADER_BYTES;
        (sized && table.at > 0 && table.names < table.count).then_some(table)
    }

    fn header<'f>(&self, file: &'f [u8], index: u64) -> Option<&'f [u8]> {
        let at = self.at.checked_add(index * SECTION_HEADER_BYTES)?;
        slice(file, at, SECTION_HEADER_BYTES)
    }

    fn name<'f>(&self, file: &'f [u8], header: &[u8]) -> Option<&'f [u8]> {
        let names = self.header(file, self.names)?;
        let names = slice(file, u64_at(names, 24), u64_at(names, 32))?;
        let start = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        names.get(start..)?.split(|byte| *byte == 0).next()
    }
}

fn slice(file: &[u8], at: u64, bytes: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    file.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_added_is_found_and_the_program_still_runs() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(section(&file, ".anchorhold-test"), None);
        let grown = with_section(&file, ".anchorhold-test", b"the data").unwrap();
        assert_eq!(section(&grown, ".anchorhold-test"), Some(&b"the data"[..]));
        assert_eq!(section(&grown, ".text"), section(&file, ".text"));
        assert_eq!(with_section(&grown, ".anchorhold-test", b"again"), None);
        let program = |bytes: Vec<u8>| Program::read(&Storage::Memory(bytes.into())).unwrap();
        assert_eq!(program(grown), program(file));
    }

    #[test]
    fn files_that_are_cut_or_damaged_have_no_sections() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(section(&file[..1000], ".text"), None);
        assert_eq!(section(b"", ".text"), None);
        let mut damaged = file[..64].to_vec();
        damaged[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(section(&damaged, ".text"), None);
        assert_eq!(with_section(&damaged, ".a", b""), None);
    }
}
