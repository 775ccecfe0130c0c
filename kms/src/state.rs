//! The service's folder: its lock, and files that only the owner reads.
//!
//! A file is never there in part: each is written under another name, synced and renamed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another service runs on the same folder.
    #[error("another key service is running on {0}; stop it, or name another folder")]
    Locked(PathBuf),
    /// A file or folder that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root key's file is not there, and something is encrypted under it.
    #[error("{0} is missing, and the store is encrypted under it; put it back")]
    RootKeyMissing(PathBuf),
    /// Others than the owner may read it.
    #[error("{path} has mode {mode:03o}, so that others may read it; run: chmod 600 {path}")]
    RootKeyMode {
        /// The root key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not 64 hexadecimal digits.
    #[error("{0} is not a root key: 64 hexadecimal digits and a newline are expected")]
    RootKeyShape(PathBuf),
    /// A passphrase or PIN that is empty or too long.
    #[error("{0} holds no secret of 1 to 1,024 bytes")]
    SecretLength(PathBuf),
    /// A systemd credential outside of systemd.
    #[error(
        "the credential {0} cannot be read: CREDENTIALS_DIRECTORY is not set; start the service by systemd with LoadCredential="
    )]
    NoCredentials(String),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    move |source| StateError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The folder, locked for as long as this lives, unless it is only read.
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: Option<File>,
}

impl StateFolder {
    /// Makes the folder where it is missing (mode 0700) and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io_error(path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: Some(lock),
            }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(StateError::Io {
                path: lock_path,
                source,
            }),
        }
    }

    /// For reading only, while a service may be running on it. Makes nothing.
    pub(crate) fn for_reading(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _lock: None,
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Reads a file that nobody but its owner may be able to read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let mode = file.metadata().map_err(io_error(path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::RootKeyMode {
            path: path.to_owned(),
            mode,
        });
    }
    // Longer than any secret here, so that a longer file is noticed; never grown.
    let mut text = Zeroizing::new(vec![0; 1026]);
    let mut length = 0;
    while length < text.len() {
        match file.read(&mut text[length..]).map_err(io_error(path))? {
            0 => break,
            n => length += n,
        }
    }
    text.truncate(length);
    Ok(text)
}

/// Writes a file whole or not at all, and durably.
pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&temporary)(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io_error(&temporary))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(io_error(&temporary))?;
    rename_durably(&temporary, path)
}

/// Renames within a folder and syncs the folder.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<(), StateError> {
    fs::rename(from, to).map_err(io_error(to))?;
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(io_error(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_service_on_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateFolder::open(dir.path()).unwrap();
        assert!(matches!(
            StateFolder::open(dir.path()),
            Err(StateError::Locked(_))
        ));
        drop(first);
        assert!(StateFolder::open(dir.path()).is_ok());
    }
}
