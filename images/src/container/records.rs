//! A tar archive (POSIX.1-2017, `pax`; and GNU's long names) as a stream of entries with plain names.
//!
//! The `tar` crate reads headers; what they mean together is decided here, where memory is bounded and an oddity is an
//! error: extension records that contradict each other, names with two spellings, types that no image needs.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{Archive, EntryType, Header, PaxExtensions};

use super::error::EntryProblem;
use crate::cpio::Attributes;

/// Linux keeps names of 4096 bytes and attributes of 64 KiB; what does not fit into this is no honest record.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// What a tar archive is made of.
const BLOCK: u64 = 512;
const MAX_NAME_BYTES: usize = 4095;
const MAX_COMPONENT_BYTES: usize = 255;
/// What eleven octal digits hold.
const MAX_HEADER_SIZE: u64 = (8 << 30) - 1;

/// Attributes that say nothing about a file's contents or who may use it.
const HARMLESS_ATTRIBUTES: [&str; 3] = ["security.selinux", "security.ima", "security.evm"];

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Counted from 0, extension records aside.
    pub number: u64,
    /// Where its data begins in the archive.
    pub data_at: u64,
    /// Its path in its one spelling, below the root. Empty for the root itself.
    pub path: PathBuf,
    pub kind: Kind,
    pub attributes: Attributes,
    /// The first of its extended attributes that a ramdisk would lose.
    pub extended: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File { size: u64 },
    HardLink { target: PathBuf },
    Symlink { target: PathBuf },
    Directory,
}

/// Why an archive was not read to its end.
pub(super) enum Stop<E> {
    /// The archive is broken, or what it is read from.
    Read(std::io::Error, Option<PathBuf>),
    /// An entry is refused.
    Entry(PathBuf, EntryProblem),
    /// The visitor said so.
    Visitor(E),
}

/// Reads an archive entry by entry. `visit` gets each with its data. Files have at most `max_file_bytes`.
pub(super) fn each<R: Read, E>(
    source: R,
    max_file_bytes: u64,
    mut visit: impl FnMut(Record, &mut dyn Read) -> Result<(), E>,
) -> Result<(), Stop<E>> {
    let content_end = Cell::new(u64::MAX);
    let mut archive = Archive::new(Padded {
        source,
        position: 0,
        content_end: &content_end,
    });
    let mut last: Option<PathBuf> = None;
    let mut extension = Extension::default();
    let mut number = 0;
    let read = |error, last: &Option<PathBuf>| Stop::Read(error, last.clone());
    let entries = archive.entries().map_err(|error| read(error, &last))?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| read(error, &last))?;
        let header = entry.header().clone();
        let name = header.path_bytes().into_owned();
        let refuse = |problem| Stop::Entry(OsStr::from_bytes(&name).into(), problem);
        let size = header
            .entry_size()
            .map_err(|error| refuse(EntryProblem::Header(error.to_string())))?;
        content_end.set(entry.raw_file_position().saturating_add(size));
        let kind = header.entry_type();
        if matches!(
            kind,
            EntryType::XHeader
                | EntryType::XGlobalHeader
                | EntryType::GNULongName
                | EntryType::GNULongLink
        ) {
            if size > MAX_RECORD_BYTES {
                return Err(refuse(EntryProblem::LongName));
            }
            let mut data = Vec::with_capacity(size as usize);
            entry
                .read_to_end(&mut data)
                .map_err(|error| read(error, &last))?;
            extension.take(kind, &data).map_err(refuse)?;
            continue;
        }
        let extension = std::mem::take(&mut extension);
        let path = extension.path.clone().unwrap_or(name);
        let shown: PathBuf = OsStr::from_bytes(&path).into();
        let record = record(
            number,
            entry.raw_file_position(),
            &header,
            size,
            &path,
            extension,
        )
        .and_then(|record| match record.kind {
            Kind::File { size } if size > max_file_bytes => Err(EntryProblem::LargeFile(size)),
            _ => Ok(record),
        })
        .map_err(|problem| Stop::Entry(shown.clone(), problem))?;
        number += 1;
        last = Some(shown);
        visit(record, &mut entry).map_err(Stop::Visitor)?;
    }
    if extension != Extension::default() {
        let error = std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the archive ends after a record that describes the next entry",
        );
        return Err(read(error, &last));
    }
    Ok(())
}

/// An archive whose last file need not be filled up to a whole block: umoci leaves that out together with the archive's
/// end, and Go's reader, which runtimes use, takes it. What is missing of a file's content is not made up.
struct Padded<'a, R> {
    source: R,
    position: u64,
    /// Where the content of the entry that is read ends.
    content_end: &'a Cell<u64>,
}

impl<R: Read> Read for Padded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut count = self.source.read(buffer)?;
        if count == 0 && self.position >= self.content_end.get() {
            let missing = self.position.next_multiple_of(BLOCK) - self.position;
            count = buffer.len().min(missing as usize);
            buffer[..count].fill(0);
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// What records before an entry say about it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extension {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    extended: Option<String>,
    pax: bool,
}

impl Extension {
    fn take(&mut self, kind: EntryType, data: &[u8]) -> Result<(), EntryProblem> {
        match kind {
            EntryType::GNULongName => put(&mut self.path, until_nul(data)),
            EntryType::GNULongLink => put(&mut self.target, until_nul(data)),
            EntryType::XHeader => {
                if std::mem::replace(&mut self.pax, true) {
                    return Err(contradiction());
                }
                self.pax(data)
            }
            _ => {
                // A global record may name a commit or the like. One that changes all entries to come is no layer's.
                let mut global = Extension::default();
                global.pax(data)?;
                if global == Extension::default() {
                    Ok(())
                } else {
                    Err(EntryProblem::Header(
                        "a global record that changes later entries".to_owned(),
                    ))
                }
            }
        }
    }

    fn pax(&mut self, data: &[u8]) -> Result<(), EntryProblem> {
        for extension in PaxExtensions::new(data) {
            let extension = extension.map_err(|error| EntryProblem::Header(error.to_string()))?;
            let key = String::from_utf8_lossy(extension.key_bytes());
            let value = extension.value_bytes();
            match key.as_ref() {
                "path" => put(&mut self.path, value.to_vec())?,
                "linkpath" => put(&mut self.target, value.to_vec())?,
                "size" => put(&mut self.size, number(value)?)?,
                "uid" => put(&mut self.uid, number(value)?)?,
                "gid" => put(&mut self.gid, number(value)?)?,
                key if key.starts_with("GNU.sparse.") => return Err(EntryProblem::Sparse),
                key => {
                    let attribute = key
                        .strip_prefix("SCHILY.xattr.")
                        .or_else(|| key.strip_prefix("LIBARCHIVE.xattr."))
                        .or_else(|| key.starts_with("SCHILY.acl.").then_some(key));
                    if let Some(attribute) = attribute
                        && !HARMLESS_ATTRIBUTES.contains(&attribute)
                    {
                        self.extended.get_or_insert_with(|| attribute.to_owned());
                    }
                }
            }
        }
        Ok(())
    }
}

fn put<T>(slot: &mut Option<T>, value: T) -> Result<(), EntryProblem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(contradiction()),
    }
}

fn contradiction() -> EntryProblem {
    EntryProblem::Header("two records describe the same entry".to_owned())
}

fn number(digits: &[u8]) -> Result<u64, EntryProblem> {
    std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| EntryProblem::Header("a record with a number that is none".to_owned()))
}

fn until_nul(data: &[u8]) -> Vec<u8> {
    data.split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn record(
    number: u64,
    data_at: u64,
    header: &Header,
    header_size: u64,
    name: &[u8],
    extension: Extension,
) -> Result<Record, EntryProblem> {
    let damaged = |error: std::io::Error| EntryProblem::Header(error.to_string());
    let entry_type = header.entry_type();
    // Headers hold 8 GiB, and the extension takes over beyond; but then the data's length is not the header's.
    if let Some(size) = extension.size
        && size != header_size
    {
        return Err(if size > MAX_HEADER_SIZE {
            EntryProblem::LargeFile(size)
        } else {
            contradiction()
        });
    }
    let id = |extension: Option<u64>, header: std::io::Result<u64>| {
        let id = match extension {
            Some(id) => id,
            None => header.map_err(damaged)?,
        };
        // The last one means "no change" to chown(2).
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or(EntryProblem::Owner)
    };
    let attributes = Attributes {
        mode: header.mode().map_err(damaged)? & 0o7777,
        uid: id(extension.uid, header.uid())?,
        gid: id(extension.gid, header.gid())?,
    };
    let folder = entry_type == EntryType::Directory;
    let path = plain_path(name, folder)?;
    let target = || {
        extension
            .target
            .clone()
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
            .unwrap_or_default()
    };
    let kind = match entry_type {
        EntryType::Regular | EntryType::Continuous => Kind::File { size: header_size },
        EntryType::Link => {
            let target = target();
            let shown = || OsStr::from_bytes(&target).into();
            match plain_path(&target, false) {
                Ok(plain) => Kind::HardLink { target: plain },
                Err(EntryProblem::Absolute | EntryProblem::Parent) => {
                    return Err(EntryProblem::LinkOut(shown()));
                }
                Err(_) => return Err(EntryProblem::LinkToNothing(shown())),
            }
        }
        EntryType::Symlink => {
            let target = target();
            if target.is_empty() || target.len() > MAX_NAME_BYTES || target.contains(&0) {
                return Err(EntryProblem::LinkTarget);
            }
            Kind::Symlink {
                target: OsStr::from_bytes(&target).into(),
            }
        }
        EntryType::Directory => Kind::Directory,
        EntryType::Block | EntryType::Char => return Err(EntryProblem::Device),
        EntryType::Fifo => return Err(EntryProblem::Fifo),
        EntryType::GNUSparse => return Err(EntryProblem::Sparse),
        other => return Err(EntryProblem::Kind(char::from(other.as_byte()))),
    };
    if header_size > 0 && !matches!(kind, Kind::File { .. }) {
        return Err(EntryProblem::Data);
    }
    if path.as_os_str().is_empty() && !folder {
        return Err(EntryProblem::Name);
    }
    Ok(Record {
        number,
        data_at,
        path,
        kind,
        attributes,
        extended: extension.extended,
    })
}

/// A name in its one spelling. A leading `./` is dropped, and a folder's slash at the end.
fn plain_path(name: &[u8], folder: bool) -> Result<PathBuf, EntryProblem> {
    if name.is_empty() || name.contains(&0) {
        return Err(EntryProblem::Name);
    }
    // The root itself, which umoci writes as `/`.
    if matches!(name, b"." | b"./") || (folder && name == b"/") {
        return Ok(PathBuf::new());
    }
    if name[0] == b'/' {
        return Err(EntryProblem::Absolute);
    }
    let mut plain = name.strip_prefix(b"./").unwrap_or(name);
    if folder {
        plain = plain.strip_suffix(b"/").unwrap_or(plain);
    }
    if plain.len() > MAX_NAME_BYTES {
        return Err(EntryProblem::LongName);
    }
    for part in plain.split(|byte| *byte == b'/') {
        match part {
            b".." => return Err(EntryProblem::Parent),
            b"" | b"." => return Err(EntryProblem::TwoSpellings),
            part if part.len() > MAX_COMPONENT_BYTES => return Err(EntryProblem::LongName),
            _ => {}
        }
    }
    Ok(Path::new(OsStr::from_bytes(plain)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and contents of an archive, or nothing where it is broken.
    fn read(archive: &[u8]) -> Option<Vec<(PathBuf, Vec<u8>)>> {
        let mut found = Vec::new();
        each(archive, u64::MAX, |record, data| {
            let mut content = Vec::new();
            data.read_to_end(&mut content).map_err(|_| ())?;
            let Kind::File { size } = record.kind else {
                return Err(());
            };
            found.push((record.path, content.clone()));
            (content.len() as u64 == size).then_some(()).ok_or(())
        })
        .ok()?;
        Some(found)
    }

    #[test]
    fn the_last_file_needs_no_filling_but_all_of_its_content() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [("a", &b"first"[..]), ("b", &[7; 700])] {
            let mut header = Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_entry_type(EntryType::Regular);
            header.set_cksum();
            builder.append_data(&mut header, name, content).unwrap();
        }
        let whole = builder.into_inner().unwrap();
        let expected = read(&whole).expect("a whole archive");
        assert_eq!(expected.len(), 2);
        let end = 512 + 512 + 512 + 700;
        for length in [end, end + 1, end + 323, end + 324, end + 324 + 512] {
            assert_eq!(read(&whole[..length]).as_ref(), Some(&expected), "{length}");
        }
        for length in [end - 1, end - 188, end - 700 + 1, 512 + 4] {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
    }
}
