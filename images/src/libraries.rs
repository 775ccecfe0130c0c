//! The loader and the shared libraries of a dynamic program, found in a root file system as its loader will find them.
//!
//! Nothing is run, `ldd` included: it would run the program's loader. Links are followed inside the root only. What a
//! program loads by name while it runs (`dlopen`) cannot be seen here.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::contents::{Place, place};
use crate::eif::Architecture;
use crate::elf::{ElfError, Program};
use crate::storage::Storage;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;
/// Programs have dozens of libraries.
const MAX_LIBRARIES: usize = 4096;

/// Why a program's libraries were not collected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The loader is not there.
    #[error("is loaded by {loader}, which is missing in {}", .root.display())]
    LoaderMissing {
        /// The loader.
        loader: String,
        /// The root file system.
        root: PathBuf,
    },
    /// A library is not there.
    #[error(
        "needs {}{}, which is in none of these folders of {}: {}", .library,
        .by.as_ref().map(|by| format!(" (by {by})")).unwrap_or_default(), .root.display(), .folders.join(", ")
    )]
    Missing {
        /// The library.
        library: String,
        /// The library that needs it, where it is not the program itself.
        by: Option<String>,
        /// The root file system.
        root: PathBuf,
        /// The folders searched.
        folders: Vec<String>,
    },
    /// A library that cannot be read.
    #[error("needs {library}, which {source}")]
    Unusable {
        /// The library.
        library: String,
        /// What is wrong.
        source: ElfError,
    },
    /// A library for another processor.
    #[error("needs {library}, which is for {found} in this root: give a root for {expected}")]
    Architecture {
        /// The library.
        library: String,
        /// Its processor.
        found: Architecture,
        /// The program's.
        expected: Architecture,
    },
    /// The root cannot be read.
    #[error("cannot be completed: cannot read {}: {source}", .path.display())]
    Read {
        /// On the building machine.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A library whose place belongs to the runtime or to the program itself.
    #[error("needs {library}, found at {}, which an image may not have: give it another place", .path.display())]
    Reserved {
        /// The library.
        library: String,
        /// Where it would lie.
        path: PathBuf,
    },
    /// Libraries without end.
    #[error("needs more than {MAX_LIBRARIES} libraries")]
    TooMany,
}

/// A file that a program needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Library {
    /// Where it lies in the image, which is where its loader looks.
    pub(crate) path: PathBuf,
    /// On the building machine.
    pub(crate) from: PathBuf,
    pub(crate) bytes: u64,
}

/// Finds all that a program needs which lies at `program_path` in its image.
pub(crate) fn collect(
    program: &Program,
    program_path: &Path,
    root: &Path,
) -> Result<Vec<Library>, LibraryError> {
    let mut found: BTreeMap<PathBuf, Library> = BTreeMap::new();
    if let Some(loader) = &program.interpreter {
        let path = Path::new(loader);
        let library = in_root(root, path)?.ok_or_else(|| LibraryError::LoaderMissing {
            loader: loader.clone(),
            root: root.into(),
        })?;
        let library = admit(loader, library, program_path)?;
        found.insert(path.into(), library);
    }
    let mut open = VecDeque::from([Wanting {
        name: None,
        origin: program_path.parent().unwrap_or(Path::new("/")).into(),
        program: program.clone(),
        inherited: Vec::new(),
    }]);
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    while let Some(wanting) = open.pop_front() {
        let (folders, inherited) = wanting.folders();
        for name in &wanting.program.needed {
            if known.contains_key(name) {
                continue;
            }
            if known.len() == MAX_LIBRARIES {
                return Err(LibraryError::TooMany);
            }
            let candidates: Vec<PathBuf> = if name.contains('/') {
                vec![PathBuf::from(name)]
            } else {
                folders.iter().map(|folder| folder.join(name)).collect()
            };
            let mut hit = None;
            for candidate in candidates.iter().filter(|path| path.is_absolute()) {
                if let Some(library) = in_root(root, candidate)? {
                    hit = Some(library);
                    break;
                }
            }
            let library = hit.ok_or_else(|| LibraryError::Missing {
                library: name.clone(),
                by: wanting.name.clone(),
                root: root.into(),
                folders: folders
                    .iter()
                    .map(|folder| folder.display().to_string())
                    .collect(),
            })?;
            let library = admit(name, library, program_path)?;
            let storage = Storage::open(&library.from).map_err(|source| LibraryError::Read {
                path: library.from.clone(),
                source,
            })?;
            let read = Program::read(&storage).map_err(|source| LibraryError::Unusable {
                library: name.clone(),
                source,
            })?;
            if read.architecture != program.architecture {
                return Err(LibraryError::Architecture {
                    library: name.clone(),
                    found: read.architecture,
                    expected: program.architecture,
                });
            }
            known.insert(name.clone(), library.path.clone());
            open.push_back(Wanting {
                name: Some(name.clone()),
                origin: library.path.parent().unwrap_or(Path::new("/")).into(),
                program: read,
                inherited: inherited.clone(),
            });
            found.insert(library.path.clone(), library);
        }
    }
    Ok(found.into_values().collect())
}

/// Lets nothing take the place of what the runtime brings, or of the program.
fn admit(name: &str, library: Library, program_path: &Path) -> Result<Library, LibraryError> {
    let below_root = library.path.strip_prefix("/").unwrap_or(&library.path);
    if place(below_root, false) == Place::Free && !library.path.starts_with(program_path) {
        return Ok(library);
    }
    Err(LibraryError::Reserved {
        library: name.to_owned(),
        path: library.path,
    })
}

/// A program or library whose libraries are to be found.
struct Wanting {
    name: Option<String>,
    /// The folder that it lies in: `$ORIGIN`.
    origin: PathBuf,
    program: Program,
    /// `DT_RPATH` of what needed it.
    inherited: Vec<PathBuf>,
}

impl Wanting {
    /// Where its libraries are looked for, and what of that goes on to them (ld.so(8)).
    fn folders(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let listed = |list: &Option<String>| -> Vec<PathBuf> {
            list.iter()
                .flat_map(|list| list.split(':'))
                .filter(|folder| !folder.is_empty())
                .map(|folder| {
                    let origin = self.origin.to_string_lossy();
                    let folder = folder
                        .replace("${ORIGIN}", &origin)
                        .replace("$ORIGIN", &origin);
                    plain(Path::new(&folder))
                })
                .collect()
        };
        let search = &self.program.search;
        let mut folders = Vec::new();
        let mut inherited = Vec::new();
        if search.runpath.is_none() {
            folders.extend(listed(&search.rpath));
            folders.extend(self.inherited.iter().cloned());
            inherited.clone_from(&folders);
        }
        folders.extend(listed(&search.runpath));
        let triplet = match self.program.architecture {
            Architecture::X86_64 => "x86_64-linux-gnu",
            Architecture::Arm64 => "aarch64-linux-gnu",
        };
        // What loaders have built in: Debian's, Fedora's, musl's.
        for folder in [
            &format!("/lib/{triplet}"),
            &format!("/usr/lib/{triplet}"),
            "/lib64",
            "/usr/lib64",
            "/lib",
            "/usr/lib",
        ] {
            folders.push(PathBuf::from(folder));
        }
        (folders, inherited)
    }
}

/// A path without `.` and `..`, as far as names tell.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// A regular file of the root, links followed inside it.
fn in_root(root: &Path, path: &Path) -> Result<Option<Library>, LibraryError> {
    let mut links = 0;
    let mut reached = PathBuf::new();
    let mut ahead = parts(path);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            reached.pop();
            continue;
        }
        reached.push(&part);
        let on_host = root.join(&reached);
        let metadata = match fs::symlink_metadata(&on_host) {
            Ok(metadata) => metadata,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(source) => {
                return Err(LibraryError::Read {
                    path: on_host,
                    source,
                });
            }
        };
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Ok(None);
            }
            let target = fs::read_link(&on_host).map_err(|source| LibraryError::Read {
                path: on_host,
                source,
            })?;
            reached.pop();
            if target.is_absolute() {
                reached.clear();
            }
            ahead.extend(parts(&target));
        } else if ahead.is_empty() && metadata.is_file() {
            return Ok(Some(Library {
                path: path.into(),
                from: on_host,
                bytes: metadata.len(),
            }));
        }
    }
    Ok(None)
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
