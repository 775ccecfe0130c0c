//! cpio archives in the "newc" format, as the kernel unpacks them (Documentation/driver-api/early-userspace/
//! buffer-format.rst): reading strictly and writing reproducibly.
//!
//! The reader trusts nothing: names that would leave the root, that pass through a symbolic link or that appear twice
//! are errors with the name, and what it keeps in memory is bounded by the caller's [`Limits`]. The writer takes times
//! and inode numbers from nobody: they are 0 and counted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

const HEADER_BYTES: usize = 110;
const MAGIC: &[u8; 6] = b"070701";
const TRAILER: &[u8] = b"TRAILER!!!";
/// The kernel's `PATH_MAX`, its terminating NUL included.
const MAX_NAME_BYTES: u64 = 4096;
/// One component of a path on Linux.
const MAX_COMPONENT_BYTES: usize = 255;

const TYPE_MASK: u32 = 0o170_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_BLOCK_DEVICE: u32 = 0o060_000;
const TYPE_FIFO: u32 = 0o010_000;
const TYPE_SOCKET: u32 = 0o140_000;

/// What an archive may cost its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive after decompression, headers included.
    pub bytes: u64,
    /// Entries. Each takes about 200 bytes of memory and its name while the archive is read.
    pub entries: u64,
}

impl Default for Limits {
    /// 8 GiB and a million entries.
    fn default() -> Limits {
        Limits {
            bytes: 8 << 30,
            entries: 1 << 20,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file with this many bytes.
    File {
        /// Its length.
        size: u64,
    },
    /// Another name of a file that came earlier. Where `size` is not 0, data follows, and it becomes the content under
    /// all the names.
    HardLink {
        /// The name that came first.
        target: PathBuf,
        /// The length of the data that follows.
        size: u64,
    },
    /// A folder.
    Directory,
    /// A symbolic link, whose target may be anything.
    Symlink {
        /// What it points to.
        target: PathBuf,
    },
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An entry; its data, if any, is read from the [`Reader`] before the next entry is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root: relative, without `.`, `..` and empty parts. Empty for the root itself.
    pub path: PathBuf,
    /// Permission bits, set-user-ID, set-group-ID and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// Why a cpio archive is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CpioError {
    /// The archive ends early.
    #[error("the archive ends in the middle, at byte {offset}")]
    Truncated {
        /// Where, after decompression.
        offset: u64,
    },
    /// Reading or decompressing failed.
    #[error("the archive cannot be read at byte {offset}: {source}")]
    Read {
        /// Where, after decompression.
        offset: u64,
        /// The cause.
        source: io::Error,
    },
    /// Something else than a newc header.
    #[error("no cpio header in the newc format at byte {offset}")]
    Magic {
        /// Where, after decompression.
        offset: u64,
    },
    /// A header field that is no hexadecimal number.
    #[error("the header at byte {offset} has a damaged field {field}")]
    Field {
        /// Where the header begins, after decompression.
        offset: u64,
        /// The field's name.
        field: &'static str,
    },
    /// Padding in use.
    #[error("padding at byte {offset} is not zero")]
    Padding {
        /// Where it begins, after decompression.
        offset: u64,
    },
    /// A name that is empty, too long or not terminated.
    #[error("the entry at byte {offset} has a damaged name")]
    Name {
        /// Where its header begins, after decompression.
        offset: u64,
    },
    /// A name that would leave the root or that has two spellings.
    #[error("the entry \"{}\" has {problem}", .path.display())]
    Path {
        /// The name as it stands in the archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The same name twice, folders aside.
    #[error("the entry \"{}\" appears twice", .path.display())]
    Duplicate {
        /// The name.
        path: PathBuf,
    },
    /// A name whose parent is a file or a symbolic link of the archive.
    #[error("the entry \"{}\" lies inside \"{}\", which is no folder", .path.display(), .parent.display())]
    InsideNoFolder {
        /// The name.
        path: PathBuf,
        /// The parent in question.
        parent: PathBuf,
    },
    /// A type that Linux does not have.
    #[error("the entry \"{}\" has the unknown mode {mode:o}", .path.display())]
    Mode {
        /// The name.
        path: PathBuf,
        /// The mode found.
        mode: u32,
    },
    /// Data where none belongs, or a symbolic link's target that is empty, too long or has a NUL.
    #[error("the entry \"{}\" has unsuitable data of {size} bytes", .path.display())]
    Data {
        /// The name.
        path: PathBuf,
        /// The length found.
        size: u64,
    },
    /// Something after the end of the archive.
    #[error("bytes follow the end of the archive, at byte {offset}")]
    TrailingData {
        /// Where, after decompression.
        offset: u64,
    },
    /// More bytes than the caller allows.
    #[error("the archive has more than {limit} bytes when unpacked")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// More entries than the caller allows.
    #[error("the archive has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
}

/// A source of bytes that may be able to skip some without producing them.
pub trait Skip: Read + Sized {
    /// Moves on by `count` bytes, or fails with `UnexpectedEof` if there are not so many.
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let copied = io::copy(&mut self.by_ref().take(count), &mut io::sink())?;
        if copied == count {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Skip for &[u8] {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.len());
        *self = &self[count.ok_or(io::ErrorKind::UnexpectedEof)?..];
        Ok(())
    }
}

/// Reads an archive, entry by entry; as a [`Read`] it gives the current entry's data.
pub struct Reader<R> {
    source: R,
    limits: Limits,
    offset: u64,
    entries: u64,
    /// Bytes of the current entry's data that were not read yet, and the zeros after them.
    data_left: u64,
    padding_left: u64,
    finished: bool,
    /// Every path so far, and whether it is a folder.
    seen: HashMap<PathBuf, bool>,
    /// Files with several names: device, inode, to the first name.
    links: HashMap<(u32, u32, u32), PathBuf>,
}

impl<R: Skip> Reader<R> {
    /// Reads the archive that the source begins with; the source must end with it, zeros aside.
    pub fn new(source: R, limits: Limits) -> Reader<R> {
        Reader {
            source,
            limits,
            offset: 0,
            entries: 0,
            data_left: 0,
            padding_left: 0,
            finished: false,
            seen: HashMap::new(),
            links: HashMap::new(),
        }
    }

    /// The next entry, or none once the archive has ended properly. What was left of the entry before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, CpioError> {
        if self.finished {
            return Ok(None);
        }
        self.advance(self.data_left)?;
        self.data_left = 0;
        self.expect_zeros(self.padding_left)?;
        self.padding_left = 0;

        let start = self.offset;
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header)?;
        if header[..6] != *MAGIC {
            return Err(CpioError::Magic { offset: start });
        }
        let field = |index: usize, name| {
            field(&header, index).ok_or(CpioError::Field {
                offset: start,
                field: name,
            })
        };
        let inode = field(0, "inode")?;
        let mode = field(1, "mode")?;
        let uid = field(2, "uid")?;
        let gid = field(3, "gid")?;
        let names = field(4, "nlink")?;
        let mtime = field(5, "mtime")?;
        let size = u64::from(field(6, "filesize")?);
        let device = (field(7, "devmajor")?, field(8, "devminor")?);
        let (major, minor) = (field(9, "rdevmajor")?, field(10, "rdevminor")?);
        let name_bytes = u64::from(field(11, "namesize")?);
        if field(12, "check")? != 0 {
            return Err(CpioError::Field {
                offset: start,
                field: "check",
            });
        }
        if !(2..=MAX_NAME_BYTES).contains(&name_bytes) {
            return Err(CpioError::Name { offset: start });
        }
        let mut name = vec![0; name_bytes as usize];
        self.fill(&mut name)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(CpioError::Name { offset: start });
        }
        self.expect_zeros(padding(self.offset))?;

        if name == TRAILER {
            if size != 0 {
                return Err(CpioError::Data {
                    path: OsStr::from_bytes(TRAILER).into(),
                    size,
                });
            }
            self.finish()?;
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(CpioError::TooManyEntries {
                limit: self.limits.entries,
            });
        }

        let path = plain_path(&name)?;
        if mode & !(TYPE_MASK | 0o7777) != 0 {
            return Err(CpioError::Mode { path, mode });
        }
        let kind = match mode & TYPE_MASK {
            TYPE_FILE if names > 1 => {
                let file = (device.0, device.1, inode);
                if let Some(target) = self.links.get(&file) {
                    EntryKind::HardLink {
                        target: target.clone(),
                        size,
                    }
                } else {
                    self.links.insert(file, path.clone());
                    EntryKind::File { size }
                }
            }
            TYPE_FILE => EntryKind::File { size },
            TYPE_SYMLINK => {
                if !(1..MAX_NAME_BYTES).contains(&size) {
                    return Err(CpioError::Data { path, size });
                }
                let mut target = vec![0; size as usize];
                self.fill(&mut target)?;
                self.expect_zeros(padding(self.offset))?;
                if target.contains(&0) {
                    return Err(CpioError::Data { path, size });
                }
                EntryKind::Symlink {
                    target: OsStr::from_bytes(&target).into(),
                }
            }
            other => {
                let kind = match other {
                    TYPE_DIRECTORY => EntryKind::Directory,
                    TYPE_CHARACTER_DEVICE => EntryKind::CharacterDevice { major, minor },
                    TYPE_BLOCK_DEVICE => EntryKind::BlockDevice { major, minor },
                    TYPE_FIFO => EntryKind::Fifo,
                    TYPE_SOCKET => EntryKind::Socket,
                    _ => return Err(CpioError::Mode { path, mode }),
                };
                if size != 0 {
                    return Err(CpioError::Data { path, size });
                }
                kind
            }
        };
        if let EntryKind::File { size } | EntryKind::HardLink { size, .. } = kind {
            self.data_left = size;
            self.padding_left = padding(self.offset + size);
        }
        self.admit(&path, kind == EntryKind::Directory)?;
        Ok(Some(Entry {
            path,
            mode: mode & 0o7777,
            uid,
            gid,
            mtime,
            kind,
        }))
    }

    /// Notes the path, unless it clashes with one that came before.
    fn admit(&mut self, path: &Path, folder: bool) -> Result<(), CpioError> {
        for parent in path.ancestors().skip(1) {
            if self.seen.get(parent) == Some(&false) {
                return Err(CpioError::InsideNoFolder {
                    path: path.into(),
                    parent: parent.into(),
                });
            }
        }
        if path.as_os_str().is_empty() && !folder {
            return Err(CpioError::Path {
                path: path.into(),
                problem: "the name of the root and is no folder",
            });
        }
        match self.seen.insert(path.into(), folder) {
            Some(earlier_folder) if !(folder && earlier_folder) => {
                Err(CpioError::Duplicate { path: path.into() })
            }
            _ => Ok(()),
        }
    }

    /// After the trailer only zeros may come.
    fn finish(&mut self) -> Result<(), CpioError> {
        self.finished = true;
        let mut buffer = [0; 4096];
        loop {
            let read = self.read_some(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            if let Some(at) = buffer[..read].iter().position(|byte| *byte != 0) {
                return Err(CpioError::TrailingData {
                    offset: self.offset - (read - at) as u64,
                });
            }
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, CpioError> {
        loop {
            match self.source.read(buffer) {
                Ok(read) => {
                    self.count(read as u64)?;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), CpioError> {
        self.source
            .read_exact(buffer)
            .map_err(|error| self.failed(error))?;
        self.count(buffer.len() as u64)
    }

    fn advance(&mut self, bytes: u64) -> Result<(), CpioError> {
        if bytes > 0 {
            // Counted first, so that nobody decompresses what is over the limit only to throw it away.
            self.count(bytes)?;
            self.source
                .skip(bytes)
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn expect_zeros(&mut self, count: u64) -> Result<(), CpioError> {
        let offset = self.offset;
        let mut zeros = [0; 4];
        let zeros = &mut zeros[..count as usize];
        self.fill(zeros)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(CpioError::Padding { offset });
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), CpioError> {
        self.offset += bytes;
        if self.offset > self.limits.bytes {
            return Err(CpioError::TooLarge {
                limit: self.limits.bytes,
            });
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> CpioError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            CpioError::Truncated {
                offset: self.offset,
            }
        } else {
            CpioError::Read {
                offset: self.offset,
                source: error,
            }
        }
    }
}

impl<R: Skip> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length =
            usize::try_from(self.data_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let read = self
            .read_some(&mut buffer[..length])
            .map_err(io::Error::other)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data_left -= read as u64;
        Ok(read)
    }
}

/// Zeros that bring an offset to a multiple of four.
fn padding(offset: u64) -> u64 {
    offset.wrapping_neg() % 4
}

/// A header's field: eight hexadecimal digits. Signs and spaces, which number parsers like to take, are refused.
fn field(header: &[u8; HEADER_BYTES], index: usize) -> Option<u32> {
    header[6 + 8 * index..14 + 8 * index]
        .iter()
        .try_fold(0, |value, digit| {
            Some(value << 4 | char::from(*digit).to_digit(16)?)
        })
}

/// The path in its one spelling. A leading `./` is dropped, since `find . | cpio -o` writes it.
fn plain_path(name: &[u8]) -> Result<PathBuf, CpioError> {
    let refuse = |problem| {
        Err(CpioError::Path {
            path: OsStr::from_bytes(name).into(),
            problem,
        })
    };
    if name.starts_with(b"/") {
        return refuse("an absolute path");
    }
    let plain = if name == b"." {
        &name[1..]
    } else {
        name.strip_prefix(b"./").unwrap_or(name)
    };
    if plain.is_empty() && name == b"." {
        return Ok(PathBuf::new());
    }
    for part in plain.split(|byte| *byte == b'/') {
        match part {
            b"" => return refuse("an empty part in its path"),
            b"." | b".." => return refuse("`.` or `..` in its path"),
            _ if part.len() > MAX_COMPONENT_BYTES => {
                return refuse("a part in its path that is over 255 bytes");
            }
            _ => {}
        }
    }
    Ok(OsStr::from_bytes(plain).into())
}

/// A sink that can leave room for bytes that come later.
pub trait Leave: Write {
    /// Moves on by `count` bytes without writing them.
    fn leave(&mut self, count: u64) -> io::Result<()>;
}

/// Permission bits and owner of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, set-user-ID, set-group-ID and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// Owned by root.
    pub const fn of_root(mode: u32) -> Attributes {
        Attributes {
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

/// A file that has been named once and has more names to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    number: u32,
    names: u32,
    attributes: Attributes,
}

/// Writes an archive. The caller gives the entries in the order in which they shall stand, parents first.
pub struct Writer<W> {
    sink: W,
    offset: u64,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// Writes to the sink from its beginning on.
    pub fn new(sink: W) -> Writer<W> {
        Writer {
            sink,
            offset: 0,
            inode: 0,
        }
    }

    /// Adds a folder.
    pub fn directory(&mut self, path: &Path, attributes: Attributes) -> io::Result<()> {
        let inode = self.count(2, attributes);
        self.header(path, TYPE_DIRECTORY, inode, 0)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &Path, target: &Path, uid: u32, gid: u32) -> io::Result<()> {
        let target = target.as_os_str().as_bytes();
        let attributes = Attributes {
            mode: 0o777,
            uid,
            gid,
        };
        let inode = self.count(1, attributes);
        self.header(path, TYPE_SYMLINK, inode, target.len() as u64)?;
        self.put(target)?;
        self.pad(4)
    }

    /// Adds a file with one name, whose data must have exactly `size` bytes: `InvalidData` otherwise.
    pub fn file(
        &mut self,
        path: &Path,
        attributes: Attributes,
        size: u64,
        data: &mut dyn Read,
    ) -> io::Result<()> {
        self.linked_file(path, attributes, 1, size, data)?;
        Ok(())
    }

    /// Adds a file that has so many names; the others follow with [`another_name`](Self::another_name).
    pub fn linked_file(
        &mut self,
        path: &Path,
        attributes: Attributes,
        names: u32,
        size: u64,
        data: &mut dyn Read,
    ) -> io::Result<Inode> {
        let inode = self.count(names, attributes);
        self.header(path, TYPE_FILE, inode, size)?;
        let copied = io::copy(&mut data.take(size), &mut self.sink)?;
        self.offset += copied;
        if copied != size || data.read(&mut [0])? != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file changed while it was being packed",
            ));
        }
        self.pad(4)?;
        Ok(inode)
    }

    /// Adds another name of a file.
    pub fn another_name(&mut self, path: &Path, file: Inode) -> io::Result<()> {
        self.header(path, TYPE_FILE, file, 0)
    }

    /// Ends the archive, pads it to a multiple of 512 bytes as cpio does, and gives the sink back.
    pub fn finish(mut self) -> io::Result<W> {
        let trailer = Inode {
            number: 0,
            names: 1,
            attributes: Attributes::of_root(0),
        };
        self.header(Path::new(OsStr::from_bytes(TRAILER)), 0, trailer, 0)?;
        self.pad(512)?;
        Ok(self.sink)
    }

    fn count(&mut self, names: u32, attributes: Attributes) -> Inode {
        // The trailer has inode 0.
        self.inode = self.inode.wrapping_add(1);
        Inode {
            number: self.inode,
            names,
            attributes,
        }
    }

    fn header(&mut self, path: &Path, kind: u32, inode: Inode, size: u64) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a cpio archive holds files below 4 GiB",
            )
        })?;
        let name = path.as_os_str().as_bytes();
        let name_bytes = name.len() as u64 + 1;
        if name_bytes > MAX_NAME_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                "the path is longer than 4095 bytes",
            ));
        }
        let Attributes { mode, uid, gid } = inode.attributes;
        let fields = [
            inode.number,
            kind | mode,
            uid,
            gid,
            inode.names,
            0,
            size,
            0,
            0,
            0,
            0,
            name_bytes as u32,
            0,
        ];
        let mut header = Vec::with_capacity(HEADER_BYTES + name.len() + 4);
        header.extend_from_slice(MAGIC);
        for field in fields {
            write!(header, "{field:08X}")?;
        }
        header.extend_from_slice(name);
        header.push(0);
        self.put(&header)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        self.sink.write_all(bytes)
    }

    fn pad(&mut self, block: u64) -> io::Result<()> {
        let zeros = [0; 512];
        let count = self.offset.wrapping_neg() % block;
        self.put(&zeros[..count as usize])
    }
}

impl<W: Leave> Writer<W> {
    /// Adds a file that has so many names and whose data comes later. Gives the data's offset in the archive.
    pub fn file_later(
        &mut self,
        path: &Path,
        attributes: Attributes,
        names: u32,
        size: u64,
    ) -> io::Result<(Inode, u64)> {
        let inode = self.count(names, attributes);
        self.header(path, TYPE_FILE, inode, size)?;
        let at = self.offset;
        self.sink.leave(size)?;
        self.offset += size;
        self.pad(4)?;
        Ok((inode, at))
    }
}
