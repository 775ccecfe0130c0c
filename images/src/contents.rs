//! What goes into a ramdisk: a sorted set of folders, files and links, gathered by the sources or named one by one.
//!
//! Times are left behind, so that the archive depends on names, contents, modes and owners alone. Links are never
//! followed on the building machine, only inside the set.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::container::{ContainerError, LayerFile, Layers};
use crate::cpio::{self, Attributes, Inode, Leave};
use crate::eif::Architecture;
use crate::elf;
use crate::storage::Storage;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;
/// As much of a script's first line as Linux reads.
const MAX_SCRIPT_LINE: usize = 256;
/// As many interpreters of interpreters as Linux follows.
const MAX_INTERPRETERS: usize = 5;
/// Of a program, what its headers lie in.
const PROGRAM_START_BYTES: u64 = 64 << 10;

pub(crate) const FOLDER: Attributes = Attributes::of_root(0o755);
pub(crate) const EXECUTABLE: Attributes = Attributes::of_root(0o755);
pub(crate) const FILE: Attributes = Attributes::of_root(0o644);

/// Folders that the runtime provides; an application may name them, but puts nothing into them.
const RUNTIME_FOLDERS: [&str; 4] = ["anchorhold", "dev", "proc", "sys"];
/// Folders that the runtime's ramdisk makes already.
const SHARED_FOLDERS: [&str; 2] = ["run", "tmp"];

/// Why a source's files cannot become an image.
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
    /// A file that an archive of the kernel's format cannot hold.
    #[error("{} cannot be packed: {source}", .path.display())]
    Pack {
        /// Inside the image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The container image is refused.
    #[error(transparent)]
    Container(#[from] ContainerError),
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
    /// The command is for another processor.
    #[error(
        "the job's command {command} is for {found}, and the enclave's runtime is for {expected}: build both for one"
    )]
    CommandArchitecture {
        /// As the manifest names it.
        command: String,
        /// Its processor.
        found: Architecture,
        /// The runtime's processor.
        expected: Architecture,
    },
    /// The working folder is a file.
    #[error("the job's working folder {} is no folder", .path.display())]
    WorkingFolder {
        /// Inside the image.
        path: PathBuf,
    },
    /// The working folder is not there.
    #[error("the job's working folder {} is not in the image: add it, or change job.working_directory", .path.display())]
    WorkingFolderMissing {
        /// Inside the image.
        path: PathBuf,
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
    /// Files, which may have several names.
    files: Vec<FileNode>,
    /// Where files that are in a container image come from.
    layers: Option<Layers>,
}

#[derive(Debug, Clone)]
enum Item {
    Directory(Attributes),
    Symlink { target: PathBuf, uid: u32, gid: u32 },
    File(usize),
}

#[derive(Debug)]
struct FileNode {
    data: Data,
    attributes: Attributes,
}

#[derive(Debug)]
enum Data {
    Bytes(Vec<u8>),
    Path { path: PathBuf, bytes: u64 },
    Layer { file: LayerFile, bytes: u64 },
}

impl Data {
    fn len(&self) -> u64 {
        match self {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Path { bytes, .. } | Data::Layer { bytes, .. } => *bytes,
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Folder,
    File(FileId),
}

/// A file of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(usize);

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lost {
    /// This is missing.
    Missing(PathBuf),
    Loop,
}

impl Contents {
    /// An empty set whose files come from these layers.
    pub(crate) fn of_layers(layers: Layers) -> Contents {
        Contents {
            layers: Some(layers),
            ..Contents::default()
        }
    }

    pub(crate) fn directory(&mut self, path: &str, attributes: Attributes) {
        self.insert(path.as_ref(), Item::Directory(attributes));
    }

    pub(crate) fn folder_at(&mut self, path: &Path, attributes: Attributes) {
        self.insert(path, Item::Directory(attributes));
    }

    pub(crate) fn symlink_at(&mut self, path: &Path, target: PathBuf, uid: u32, gid: u32) {
        self.insert(path, Item::Symlink { target, uid, gid });
    }

    /// A file of the building machine.
    pub(crate) fn file_from(
        &mut self,
        path: &Path,
        from: &Path,
        bytes: u64,
        attributes: Attributes,
    ) {
        let data = Data::Path {
            path: from.into(),
            bytes,
        };
        self.file(path, data, attributes);
    }

    /// A file of a container image.
    pub(crate) fn layer_file(
        &mut self,
        path: &Path,
        file: LayerFile,
        bytes: u64,
        attributes: Attributes,
    ) -> FileId {
        self.file(path, Data::Layer { file, bytes }, attributes)
    }

    /// Another name for a file.
    pub(crate) fn link(&mut self, path: &Path, file: FileId) {
        self.insert(path, Item::File(file.0));
    }

    /// A program or other executable file of the building machine.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<(), FolderError> {
        let metadata = fs::metadata(from).map_err(|source| FolderError::Read {
            path: from.into(),
            source,
        })?;
        self.file_from(path.as_ref(), from, metadata.len(), EXECUTABLE);
        Ok(())
    }

    pub(crate) fn bytes(&mut self, path: &str, bytes: Vec<u8>) {
        self.file(path.as_ref(), Data::Bytes(bytes), FILE);
    }

    fn file(&mut self, path: &Path, data: Data, attributes: Attributes) -> FileId {
        let id = self.files.len();
        self.files.push(FileNode { data, attributes });
        self.insert(path, Item::File(id));
        FileId(id)
    }

    /// All paths, sorted by their bytes.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        self.entries.keys().map(PathBuf::from).collect()
    }

    /// Makes a path's missing parents.
    pub(crate) fn parents_of(&mut self, path: &Path) {
        for parent in below_root(path).ancestors().skip(1) {
            if parent.as_os_str().is_empty() {
                break;
            }
            self.entries
                .entry(parent.into())
                .or_insert(Item::Directory(FOLDER));
        }
    }

    /// Makes a working folder and what is missing above it, unless it is there.
    pub(crate) fn working_folder(&mut self, path: &Path, make: bool) -> Result<(), FolderError> {
        let missing = match self.resolve(path) {
            Ok(Found::Folder) => return Ok(()),
            Ok(Found::File(_)) | Err(Lost::Loop) => {
                return Err(FolderError::WorkingFolder { path: path.into() });
            }
            Err(Lost::Missing(missing)) => missing,
        };
        if place(below_root(&missing), true) == Place::Made && missing == path {
            return Ok(());
        }
        // Below a link that leads nowhere there is no place to make it.
        if !make || !path.starts_with(&missing) {
            return Err(FolderError::WorkingFolderMissing { path: path.into() });
        }
        self.parents_of(path);
        self.insert(path, Item::Directory(FOLDER));
        Ok(())
    }

    /// The length of all files together.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.files
            .iter()
            .map(|file| file.data.len())
            .fold(0, u64::saturating_add)
    }

    /// Whether some contents come from a container image, so that they are read in its order and not in this one's.
    pub(crate) fn layers(&self) -> Option<&Layers> {
        self.layers.as_ref()
    }

    fn insert(&mut self, path: &Path, item: Item) {
        let before = self.entries.insert(below_root(path).into(), item);
        assert!(
            before.is_none(),
            "reserved names are refused before the runtime's own are added"
        );
    }

    /// Writes the archive; `packing` hears of each file first. Contents that come from layers are left out: the result
    /// says where in the archive each of them belongs.
    pub(crate) fn write(
        &self,
        sink: impl Leave,
        packing: &mut dyn FnMut(&Path, u64),
    ) -> Result<HashMap<LayerFile, u64>, FolderError> {
        let mut names = vec![0u32; self.files.len()];
        for item in self.entries.values() {
            if let Item::File(file) = item {
                names[*file] += 1;
            }
        }
        let mut archive = cpio::Writer::new(sink);
        let mut written: Vec<Option<Inode>> = vec![None; self.files.len()];
        let mut places = HashMap::new();
        for (path, item) in &self.entries {
            let name = Path::new(path);
            let failed = |source: io::Error| match source.kind() {
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidFilename => FolderError::Pack {
                    path: Path::new("/").join(name),
                    source,
                },
                _ => FolderError::Write { source },
            };
            let id = match item {
                Item::Directory(attributes) => {
                    archive.directory(name, *attributes).map_err(failed)?;
                    continue;
                }
                Item::Symlink { target, uid, gid } => {
                    archive.symlink(name, target, *uid, *gid).map_err(failed)?;
                    continue;
                }
                Item::File(id) => *id,
            };
            if let Some(inode) = written[id] {
                archive.another_name(name, inode).map_err(failed)?;
                continue;
            }
            let FileNode { data, attributes } = &self.files[id];
            let (attributes, names) = (*attributes, names[id]);
            let inode = match data {
                Data::Bytes(bytes) => archive
                    .linked_file(
                        name,
                        attributes,
                        names,
                        bytes.len() as u64,
                        &mut bytes.as_slice(),
                    )
                    .map_err(failed)?,
                Data::Path { path, bytes } => {
                    packing(name, *bytes);
                    let read = |source: io::Error| match source.kind() {
                        io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidFilename => {
                            failed(source)
                        }
                        _ => FolderError::Read {
                            path: path.clone(),
                            source,
                        },
                    };
                    File::open(path)
                        .and_then(|mut file| {
                            archive.linked_file(name, attributes, names, *bytes, &mut file)
                        })
                        .map_err(read)?
                }
                Data::Layer { file, bytes } => {
                    packing(name, *bytes);
                    let (inode, at) = archive
                        .file_later(name, attributes, names, *bytes)
                        .map_err(failed)?;
                    if *bytes > 0 {
                        places.insert(*file, at);
                    }
                    inode
                }
            };
            written[id] = Some(inode);
        }
        archive.finish()?.flush()?;
        Ok(places)
    }

    /// Checks that the command is there and can be started with what is in the set, by a runtime for this processor.
    pub(crate) fn check_command(
        &self,
        command: &str,
        expected: Architecture,
    ) -> Result<(), FolderError> {
        let mut file = match self.resolve(Path::new(command)) {
            Ok(Found::File(file)) => file,
            Ok(Found::Folder) => {
                return Err(FolderError::CommandIsFolder {
                    command: command.to_owned(),
                });
            }
            Err(Lost::Missing(missing)) => {
                return Err(FolderError::CommandMissing {
                    command: command.to_owned(),
                    missing,
                });
            }
            Err(Lost::Loop) => {
                return Err(FolderError::CommandLoops {
                    command: command.to_owned(),
                });
            }
        };
        if !self.is_executable(file) {
            return Err(FolderError::CommandNotExecutable {
                command: command.to_owned(),
            });
        }
        for _ in 0..MAX_INTERPRETERS {
            let start = self.start_of(file, PROGRAM_START_BYTES)?;
            let (architecture, interpreter) = runner(&start);
            if let Some(found) = architecture.filter(|found| *found != expected) {
                return Err(FolderError::CommandArchitecture {
                    command: command.to_owned(),
                    found,
                    expected,
                });
            }
            let Some(interpreter) = interpreter else {
                return Ok(());
            };
            file = match self.resolve(Path::new(&interpreter)) {
                Ok(Found::File(file)) if self.is_executable(file) => file,
                _ => {
                    return Err(FolderError::InterpreterMissing {
                        command: command.to_owned(),
                        interpreter,
                    });
                }
            };
        }
        Err(FolderError::CommandLoops {
            command: command.to_owned(),
        })
    }

    pub(crate) fn is_executable(&self, file: FileId) -> bool {
        self.files[file.0].attributes.mode & 0o111 != 0
    }

    /// A file's length.
    pub(crate) fn len_of(&self, file: FileId) -> u64 {
        self.files[file.0].data.len()
    }

    /// At most so many bytes of a file's beginning.
    pub(crate) fn start_of(&self, file: FileId, limit: u64) -> Result<Cow<'_, [u8]>, FolderError> {
        match &self.files[file.0].data {
            Data::Bytes(bytes) => {
                let length = usize::try_from(limit).map_or(bytes.len(), |l| l.min(bytes.len()));
                Ok(Cow::Borrowed(&bytes[..length]))
            }
            Data::Path { path, .. } => {
                let read = |source| FolderError::Read {
                    path: path.clone(),
                    source,
                };
                let storage = Storage::open(path).map_err(read)?;
                let start = storage.read(0, storage.len().min(limit)).map_err(read)?;
                Ok(Cow::Owned(start))
            }
            Data::Layer { file, bytes } => {
                let layers = self
                    .layers
                    .as_ref()
                    .expect("layered files come with layers");
                Ok(Cow::Owned(layers.start_of(*file, limit.min(*bytes))?))
            }
        }
    }

    /// What a path leads to, links inside the set followed as the enclave's kernel would.
    pub(crate) fn resolve(&self, path: &Path) -> Result<Found, Lost> {
        let mut links = 0;
        let mut reached = PathBuf::new();
        // Reversed, so that a link's target can be put in front.
        let mut ahead: Vec<OsString> = parts(path);
        while let Some(part) = ahead.pop() {
            if part == ".." {
                reached.pop();
                continue;
            }
            reached.push(&part);
            match self.entries.get(reached.as_os_str()) {
                Some(Item::Symlink { target, .. }) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Lost::Loop);
                    }
                    reached.pop();
                    if target.is_absolute() {
                        reached.clear();
                    }
                    ahead.extend(parts(target));
                }
                Some(Item::Directory(_)) => {}
                Some(Item::File(_)) if ahead.is_empty() => {}
                Some(Item::File(_)) | None => {
                    return Err(Lost::Missing(Path::new("/").join(&reached)));
                }
            }
        }
        Ok(match self.entries.get(reached.as_os_str()) {
            Some(Item::File(id)) => Found::File(FileId(*id)),
            _ => Found::Folder,
        })
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

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// What a program is for and who runs it: an ELF program's loader or a script's interpreter, if any.
fn runner(start: &[u8]) -> (Option<Architecture>, Option<String>) {
    if let Ok(outline) = elf::Outline::read(&Storage::Memory(start.into())) {
        return (Some(outline.architecture), outline.interpreter);
    }
    let Some(line) = start[..start.len().min(MAX_SCRIPT_LINE)].strip_prefix(b"#!") else {
        return (None, None);
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    let interpreter = words.next().map(|word| {
        OsString::from_vec(word.to_vec())
            .to_string_lossy()
            .into_owned()
    });
    (None, interpreter)
}

/// How a path stands to what the runtime provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The application's own.
    Free,
    /// A folder that the runtime makes; the application may name it.
    Made,
    /// Inside a folder over which the runtime mounts the kernel's own.
    Hidden,
    /// It would change or shadow what the runtime puts there.
    Reserved,
}

/// How a path below the root stands to what the runtime provides.
pub(crate) fn place(path: &Path, folder: bool) -> Place {
    let mut parts = path.iter();
    let first: &OsStr = parts.next().unwrap_or_default();
    let top = parts.next().is_none();
    let is = |names: &[&str]| names.iter().any(|name| first.as_bytes() == name.as_bytes());
    if first == "init" {
        Place::Reserved
    } else if is(&RUNTIME_FOLDERS) {
        match (top, folder) {
            (true, true) => Place::Made,
            (false, _) if first != "anchorhold" => Place::Hidden,
            _ => Place::Reserved,
        }
    } else if is(&SHARED_FOLDERS) && top {
        // A link or file in place of such a folder would redirect what is written there.
        if folder { Place::Made } else { Place::Reserved }
    } else {
        Place::Free
    }
}
