//! Where a container image's files are: in a folder, or in a tar archive, in which they are found by one pass over it.
//!
//! Files are named by their paths inside the image; nothing outside is ever opened.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{ContainerError, EntryProblem};
use super::records::{self, Kind, Stop};
use super::shown;
use crate::storage::{RangeReader, Storage};

/// An archive of an image has a file for each blob and a few more.
const MAX_FILES: u64 = 100_000;
/// Links of links, in archives of old versions of Docker.
const MAX_LINKS: usize = 8;

/// A container image's files.
pub(super) struct Store {
    pub(super) path: PathBuf,
    files: Files,
}

enum Files {
    Folder,
    Archive {
        storage: Storage,
        places: HashMap<PathBuf, Place>,
    },
}

enum Place {
    Data { at: u64, size: u64 },
    Link(PathBuf),
}

/// One file of the image.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    storage: Storage,
    at: u64,
    pub(super) size: u64,
}

impl Blob {
    pub(super) fn from_bytes(bytes: &[u8]) -> Blob {
        Blob {
            storage: Storage::Memory(bytes.into()),
            at: 0,
            size: bytes.len() as u64,
        }
    }

    pub(super) fn reader(&self) -> RangeReader {
        RangeReader::new(self.storage.clone(), self.at, self.size)
    }

    pub(super) fn start(&self, bytes: u64) -> io::Result<Vec<u8>> {
        self.storage.read(self.at, self.size.min(bytes))
    }
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Store, ContainerError> {
        let open = |source| ContainerError::Open {
            path: path.into(),
            source,
        };
        let no_image = |problem| ContainerError::NoImage {
            path: path.into(),
            problem,
        };
        // Looked at before it is opened, since opening a pipe would wait for its other end.
        let metadata = fs::metadata(path).map_err(open)?;
        let files = if metadata.is_dir() {
            if !path.join("index.json").is_file() {
                return Err(no_image(
                    "is a folder without index.json, so no OCI image layout: a folder that is to be the root is given \
                     with --root",
                ));
            }
            Files::Folder
        } else if metadata.is_file() {
            let storage = Storage::open(path).map_err(open)?;
            let start = storage.read(0, storage.len().min(6)).map_err(open)?;
            if matches!(
                start.as_slice(),
                [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', b'X', b'Z', 0]
            ) {
                return Err(no_image(
                    "is compressed as a whole, and an image's files are read by their places: decompress it first",
                ));
            }
            Files::Archive {
                places: places(path, &storage)?,
                storage,
            }
        } else {
            return Err(no_image("is neither a folder nor a regular file"));
        };
        Ok(Store {
            path: path.into(),
            files,
        })
    }

    /// A file by its path in the image, if there is one.
    pub(super) fn find(&self, name: &Path) -> Result<Option<Blob>, ContainerError> {
        match &self.files {
            Files::Folder => {
                let file = self.path.join(name);
                let read = |source| ContainerError::Read {
                    name: shown(name),
                    source,
                };
                match fs::metadata(&file) {
                    Ok(metadata) if metadata.is_file() => {}
                    Ok(_) => return Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(read(error)),
                }
                let storage = Storage::open(&file).map_err(read)?;
                let size = storage.len();
                Ok(Some(Blob {
                    storage,
                    at: 0,
                    size,
                }))
            }
            Files::Archive { storage, places } => {
                let mut name = name;
                for _ in 0..MAX_LINKS {
                    match places.get(name) {
                        Some(Place::Data { at, size }) => {
                            return Ok(Some(Blob {
                                storage: storage.clone(),
                                at: *at,
                                size: *size,
                            }));
                        }
                        Some(Place::Link(target)) => name = target,
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// A file that must be there.
    pub(super) fn file(&self, name: &Path) -> Result<Blob, ContainerError> {
        self.find(name)?
            .ok_or_else(|| ContainerError::Missing { name: shown(name) })
    }
}

fn places(path: &Path, storage: &Storage) -> Result<HashMap<PathBuf, Place>, ContainerError> {
    let mut places = HashMap::new();
    let mut problem = None;
    let reader = RangeReader::new(storage.clone(), 0, storage.len());
    let reader = io::BufReader::with_capacity(1 << 20, reader);
    let result = records::each(reader, u64::MAX, |record, _| {
        let place = match record.kind {
            Kind::File { size } => Place::Data {
                at: record.data_at,
                size,
            },
            Kind::HardLink { target } => Place::Link(target),
            Kind::Symlink { target } => match inside(&record.path, &target) {
                Some(target) => Place::Link(target),
                None => {
                    problem.get_or_insert((record.path, EntryProblem::LinkOut(target)));
                    return Ok(());
                }
            },
            Kind::Directory => return Ok(()),
        };
        if record.number >= MAX_FILES {
            problem.get_or_insert((record.path, EntryProblem::TooManyEntries(MAX_FILES)));
        } else if places.insert(record.path.clone(), place).is_some() {
            problem.get_or_insert((record.path, EntryProblem::Twice));
        }
        Ok::<(), Infallible>(())
    });
    let refuse = |entry, problem| ContainerError::ArchiveEntry {
        path: path.into(),
        entry,
        problem,
    };
    match result {
        Ok(()) => {}
        Err(Stop::Entry(entry, problem)) => return Err(refuse(entry, problem)),
        Err(Stop::Read(_, None)) => {
            return Err(ContainerError::NoImage {
                path: path.into(),
                problem: "is no tar archive, and a container image in a file is one",
            });
        }
        Err(Stop::Read(source, Some(entry))) => {
            return Err(ContainerError::Read {
                name: format!("what follows {}", entry.display()),
                source,
            });
        }
        Err(Stop::Visitor(never)) => match never {},
    }
    match problem {
        Some((entry, problem)) => Err(refuse(entry, problem)),
        None => Ok(places),
    }
}

/// Where a link inside the archive leads, unless it leaves the archive.
fn inside(from: &Path, target: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut reached: PathBuf = from.parent()?.into();
    for part in target.components() {
        match part {
            Component::Normal(name) => reached.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !reached.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(reached)
}
