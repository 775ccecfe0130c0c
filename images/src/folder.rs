//! What goes into a ramdisk: a sorted set of folders, files and links, gathered from a folder or named one by one.
//!
//! Owners, times and all of a mode but "may it be executed" are left behind, so that the archive depends on names and
//! contents alone. Links are never followed on the building machine, only inside the set.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::cpio;
use crate::elf::Program;
use crate::storage::Storage;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;
/// As much of a script's first line as Linux reads.
const MAX_SCRIPT_LINE: u64 = 256;

const MODE_DIRECTORY: u32 = 0o755;
const MODE_EXECUTABLE: u32 = 0o755;
const MODE_FILE: u32 = 0o644;

/// Folders that the runtime provides; an application may name them, but puts nothing into them.
const RUNTIME_FOLDERS: [&str; 4] = ["anchorhold", "dev", "proc", "sys"];
/// Folders that the runtime's ramdisk makes already.
const SHARED_FOLDERS: [&str; 2] = ["run", "tmp"];

/// Why a folder cannot become an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Something cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// On the building machine.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The image's file cannot be written.
    #[error("cannot write the image: {source}")]
    Write {
        /// The cause.
        source: io::Error,
    },
    /// The root is no folder.
    #[error("{} is no folder", .path.display())]
    NoFolder {
        /// On the building machine.
        path: PathBuf,
    },
    /// A device node, pipe or socket.
    #[error("{} is a {kind}: an image holds files, folders and symbolic links; remove it", .path.display())]
    Special {
        /// On the building machine.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A name that belongs to the runtime.
    #[error("{} would lie where the enclave's runtime keeps its own files: remove or rename it", .path.display())]
    Reserved {
        /// Inside the image.
        path: PathBuf,
    },
    /// The command is not in the image.
    #[error("the job's command {command} is not in the image: {}{} is missing", .missing.display(), through(.command, .missing))]
    CommandMissing {
        /// As the manifest names it.
        command: String,
        /// What the path leads to.
        missing: PathBuf,
    },
    /// The command's links go in circles.
    #[error("the job's command {command} leads through more than {MAX_LINKS} symbolic links")]
    CommandLoops {
        /// As the manifest names it.
        command: String,
    },
    /// The command is a folder.
    #[error("the job's command {command} is a folder: name a program")]
    CommandIsFolder {
        /// As the manifest names it.
        command: String,
    },
    /// The command may not be executed.
    #[error("the job's command {command} is not executable: chmod +x it")]
    CommandNotExecutable {
        /// As the manifest names it.
        command: String,
    },
    /// The command needs a loader or interpreter that is not there.
    #[error(
        "the job's command {command} is run by {interpreter}, which is missing in the image or not executable: add it"
    )]
    InterpreterMissing {
        /// As the manifest names it.
        command: String,
        /// The loader or interpreter.
        interpreter: String,
    },
}

impl From<io::Error> for FolderError {
    /// For the image's own file; what fails on a packed file names that file.
    fn from(source: io::Error) -> FolderError {
        FolderError::Write { source }
    }
}

fn through(command: &str, missing: &Path) -> &'static str {
    if Path::new(command) == missing {
        ""
    } else {
        ", to which it leads,"
    }
}

/// A ramdisk's contents.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// By path below the root. Bytewise order puts a folder before what it contains.
    entries: BTreeMap<OsString, Item>,
}

#[derive(Debug)]
enum Item {
    Directory { mode: u32 },
    Symlink { target: PathBuf },
    File { data: Data, executable: bool },
}

#[derive(Debug)]
enum Data {
    Bytes(Vec<u8>),
    Path { path: PathBuf, bytes: u64 },
}

impl Contents {
    /// A folder as the application's root.
    pub(crate) fn from_folder(root: &Path) -> Result<Contents, FolderError> {
        let read = |path: &Path, source| FolderError::Read {
            path: path.into(),
            source,
        };
        if !fs::metadata(root)
            .map_err(|source| read(root, source))?
            .is_dir()
        {
            return Err(FolderError::NoFolder { path: root.into() });
        }
        let mut contents = Contents::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            let on_host = root.join(&folder);
            for entry in fs::read_dir(&on_host).map_err(|source| read(&on_host, source))? {
                let entry = entry.map_err(|source| read(&on_host, source))?;
                let path = folder.join(entry.file_name());
                let on_host = entry.path();
                let metadata = entry.metadata().map_err(|source| read(&on_host, source))?;
                let kind = metadata.file_type();
                if let Some(kind) = special(kind) {
                    return Err(FolderError::Special {
                        path: on_host,
                        kind,
                    });
                }
                if reserved(&path, kind.is_dir()) {
                    return Err(FolderError::Reserved {
                        path: Path::new("/").join(path),
                    });
                }
                let item = if kind.is_dir() {
                    pending.push(path.clone());
                    let made = RUNTIME_FOLDERS
                        .iter()
                        .chain(&SHARED_FOLDERS)
                        .any(|name| path == Path::new(name));
                    if made {
                        continue;
                    }
                    Item::Directory {
                        mode: MODE_DIRECTORY,
                    }
                } else if kind.is_symlink() {
                    Item::Symlink {
                        target: fs::read_link(&on_host).map_err(|source| read(&on_host, source))?,
                    }
                } else {
                    Item::File {
                        executable: metadata.permissions().mode() & 0o111 != 0,
                        data: Data::Path {
                            path: on_host,
                            bytes: metadata.len(),
                        },
                    }
                };
                contents.entries.insert(path.into_os_string(), item);
            }
        }
        Ok(contents)
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.insert(path, Item::Directory { mode });
    }

    /// A program or other executable file of the building machine.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<(), FolderError> {
        let metadata = fs::metadata(from).map_err(|source| FolderError::Read {
            path: from.into(),
            source,
        })?;
        let data = Data::Path {
            path: from.into(),
            bytes: metadata.len(),
        };
        self.insert(
            path,
            Item::File {
                data,
                executable: true,
            },
        );
        Ok(())
    }

    pub(crate) fn bytes(&mut self, path: &str, bytes: Vec<u8>) {
        self.insert(
            path,
            Item::File {
                data: Data::Bytes(bytes),
                executable: false,
            },
        );
    }

    /// The length of all files together.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.entries
            .values()
            .map(|item| match item {
                Item::File {
                    data: Data::Bytes(bytes),
                    ..
                } => bytes.len() as u64,
                Item::File {
                    data: Data::Path { bytes, .. },
                    ..
                } => *bytes,
                Item::Directory { .. } | Item::Symlink { .. } => 0,
            })
            .fold(0, u64::saturating_add)
    }

    fn insert(&mut self, path: &str, item: Item) {
        let path = path.strip_prefix('/').unwrap_or(path);
        let before = self.entries.insert(path.into(), item);
        assert!(
            before.is_none(),
            "reserved names are refused before the runtime's own are added"
        );
    }

    /// Writes the archive; `packing` hears of each file first.
    pub(crate) fn write(
        &self,
        sink: impl Write,
        packing: &mut dyn FnMut(&Path, u64),
    ) -> Result<(), FolderError> {
        let mut archive = cpio::Writer::new(sink);
        for (path, item) in &self.entries {
            let name = Path::new(path);
            match item {
                Item::Directory { mode } => archive.directory(name, *mode)?,
                Item::Symlink { target } => archive.symlink(name, target)?,
                Item::File { data, executable } => {
                    let mode = if *executable {
                        MODE_EXECUTABLE
                    } else {
                        MODE_FILE
                    };
                    match data {
                        Data::Bytes(bytes) => {
                            archive.file(name, mode, bytes.len() as u64, &mut bytes.as_slice())?;
                        }
                        Data::Path { path, bytes } => {
                            packing(name, *bytes);
                            File::open(path)
                                .and_then(|mut file| archive.file(name, mode, *bytes, &mut file))
                                .map_err(|source| FolderError::Read {
                                    path: path.clone(),
                                    source,
                                })?;
                        }
                    }
                }
            }
        }
        archive.finish()?.flush()?;
        Ok(())
    }

    /// Checks that the command is there and can be started with what is in the set.
    pub(crate) fn check_command(&self, command: &str) -> Result<(), FolderError> {
        let (data, executable) = self.find_file(command, command)?;
        if !executable {
            return Err(FolderError::CommandNotExecutable {
                command: command.to_owned(),
            });
        }
        let Some(interpreter) = interpreter(data)? else {
            return Ok(());
        };
        match self.find_file(command, &interpreter) {
            Ok((_, true)) => Ok(()),
            _ => Err(FolderError::InterpreterMissing {
                command: command.to_owned(),
                interpreter,
            }),
        }
    }

    /// The file that a path leads to, links inside the set followed as the enclave's kernel would.
    fn find_file(&self, command: &str, path: &str) -> Result<(&Data, bool), FolderError> {
        let mut links = 0;
        let mut reached = PathBuf::new();
        // Reversed, so that a link's target can be put in front.
        let mut ahead: Vec<OsString> = parts(Path::new(path));
        let mut found = None;
        while let Some(part) = ahead.pop() {
            if part == ".." {
                reached.pop();
                continue;
            }
            reached.push(&part);
            match self.entries.get(reached.as_os_str()) {
                Some(Item::Symlink { target }) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FolderError::CommandLoops {
                            command: command.to_owned(),
                        });
                    }
                    reached.pop();
                    if target.is_absolute() {
                        reached.clear();
                    }
                    ahead.extend(parts(target));
                }
                Some(item) => found = Some(item),
                None => {
                    let missing = Path::new("/").join(&reached);
                    return Err(FolderError::CommandMissing {
                        command: command.to_owned(),
                        missing,
                    });
                }
            }
        }
        match (found, self.entries.get(reached.as_os_str())) {
            (Some(_), Some(Item::File { data, executable })) => Ok((data, *executable)),
            _ => Err(FolderError::CommandIsFolder {
                command: command.to_owned(),
            }),
        }
    }
}

/// A path's parts in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Who runs a file: an ELF program's loader or a script's interpreter, if any.
fn interpreter(data: &Data) -> Result<Option<String>, FolderError> {
    let storage = match data {
        Data::Bytes(bytes) => Storage::Memory(bytes.as_slice().into()),
        Data::Path { path, .. } => open(path).map_err(|source| FolderError::Read {
            path: path.clone(),
            source,
        })?,
    };
    if let Ok(program) = Program::read(&storage) {
        return Ok(program.interpreter);
    }
    let start = storage
        .read(0, storage.len().min(MAX_SCRIPT_LINE))
        .unwrap_or_default();
    let Some(line) = start.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    Ok(words.next().map(|word| {
        OsString::from_vec(word.to_vec())
            .to_string_lossy()
            .into_owned()
    }))
}

/// A file of the building machine, to be read by offset.
pub(crate) fn open(path: &Path) -> io::Result<Storage> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Storage::File {
        file: Arc::new(file),
        bytes,
    })
}

fn special(kind: fs::FileType) -> Option<&'static str> {
    if kind.is_char_device() {
        Some("character device")
    } else if kind.is_block_device() {
        Some("block device")
    } else if kind.is_fifo() {
        Some("named pipe")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        None
    }
}

/// Whether a path would change or shadow what the runtime puts there.
fn reserved(path: &Path, folder: bool) -> bool {
    let mut parts = path.iter();
    let first = parts.next().unwrap_or_default();
    let top = parts.next().is_none();
    if first == "init" {
        return true;
    }
    if RUNTIME_FOLDERS.iter().any(|name| first == *name) {
        return !(top && folder);
    }
    // A link or file in place of such a folder would redirect what is written there.
    SHARED_FOLDERS.iter().any(|name| first == *name) && top && !folder
}
