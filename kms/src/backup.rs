//! Backups: the store as it was at one moment, and its key as it is wrapped. Restored under the same root
//! key only.
//!
//! ```text
//! "anchorhold-kms backup 1\n"
//! length of the wrapped key (4 bytes, big-endian)   the file root.wrapped
//! length of the store (8 bytes, big-endian)         the file store.redb
//! HMAC-SHA-256 over all before, under a key derived from the store's
//! ```
//! Key material in it is encrypted as in the store. The audit log is no part of it. Nothing is restored
//! that is not whole and authentic, and nothing is ever written over.

use crate::config::RootKey;
use crate::root_key::{self, RootKeyError};
use crate::sealing::Secret;
use crate::state::{StateError, StateFolder, rename_durably, write_file};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

const MAGIC: &[u8] = b"anchorhold-kms backup 1\n";
const MAX_WRAPPED: usize = 64 << 10;
const MAC_BYTES: usize = 32;

/// Why there is no backup, or no restored store.
#[derive(Debug, Error)]
pub enum BackupError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a backup.
    #[error("{0} is not a backup of this version's")]
    NotABackup(PathBuf),
    /// Cut off, lengthened or changed.
    #[error("{0} is not whole, or was changed; nothing was restored")]
    Damaged(PathBuf),
    /// There is a store already.
    #[error("{0} is there already, and nothing is written over; name an empty folder")]
    Exists(PathBuf),
    /// The root key.
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
    /// The folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// No service to ask.
    #[error("no key service is running on {folder} ({source}); start it, and try again")]
    NotRunning {
        /// Its state folder.
        folder: PathBuf,
        /// Why it cannot be reached.
        source: io::Error,
    },
    /// The service could not make one.
    #[error("the key service could not make a backup: {0}")]
    Refused(String),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    move |source| BackupError::Io {
        path: path.to_owned(),
        source,
    }
}

fn mac_key(key: &Secret) -> Secret {
    key.derive("anchorhold-kms backup v1")
}

/// Writes a backup: `wrapped` is the file `root.wrapped`, `store` a copy of the store's file.
pub(crate) fn write(
    key: &Secret,
    wrapped: &[u8],
    store: &Path,
    to: &mut impl Write,
) -> io::Result<()> {
    let mut file = File::open(store)?;
    let length = file.metadata()?.len();
    let wrapped_length = u32::try_from(wrapped.len()).map_err(io::Error::other)?;
    let mut mac = mac_key(key).begin_mac();
    let mut put = |bytes: &[u8]| {
        mac.update(bytes);
        to.write_all(bytes)
    };
    put(MAGIC)?;
    put(&wrapped_length.to_be_bytes())?;
    put(wrapped)?;
    put(&length.to_be_bytes())?;
    let mut left = length;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        put(&buffer[..read])?;
        left -= read as u64;
    }
    to.write_all(&mac.finish())
}

/// Copies a backup from a service to a file, whole or not at all. Its MAC is checked when it is restored;
/// here only that it is as long as it says.
pub(crate) fn receive(from: impl Read, to: &Path) -> Result<u64, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let mut temporary = to.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let outcome = receive_into(from, &temporary, to);
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

fn receive_into(from: impl Read, temporary: &Path, to: &Path) -> Result<u64, BackupError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
        .map_err(io_error(temporary))?;
    let mut from = BufReader::new(from);
    let mut head = vec![0; MAGIC.len() + 4];
    let cut = |_| BackupError::Damaged(to.to_owned());
    from.read_exact(&mut head).map_err(cut)?;
    let wrapped_length = wrapped_length(&head).ok_or_else(|| BackupError::NotABackup(to.into()))?;
    let mut middle = vec![0; wrapped_length + 8];
    from.read_exact(&mut middle).map_err(cut)?;
    let store_length = u64::from_be_bytes(middle[wrapped_length..].try_into().expect("8 bytes"));
    let mut copy = || {
        file.write_all(&head)?;
        file.write_all(&middle)?;
        let rest = store_length.saturating_add(MAC_BYTES as u64);
        let copied = io::copy(&mut from.by_ref().take(rest), &mut file)?;
        file.sync_all()?;
        Ok(copied == rest)
    };
    if !copy().map_err(io_error(temporary))? {
        return Err(BackupError::Damaged(to.to_owned()));
    }
    // A link, unlike a rename, takes nobody's place.
    std::fs::hard_link(temporary, to)
        .and_then(|()| std::fs::remove_file(temporary))
        .map_err(io_error(to))?;
    Ok((head.len() + middle.len() + MAC_BYTES) as u64 + store_length)
}

fn wrapped_length(head: &[u8]) -> Option<usize> {
    let length = head.strip_prefix(MAGIC)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    (1..=MAX_WRAPPED).contains(&length).then_some(length)
}

/// Restores a backup into a state folder without a store, which then belongs to `root` as the backup does.
///
/// # Errors
/// [`BackupError`]; then the folder has no store, as before.
pub fn restore(from: &Path, state: &Path, root: &RootKey) -> Result<(), BackupError> {
    let file = File::open(from).map_err(io_error(from))?;
    let mut file = BufReader::new(file);
    let not_one = || BackupError::NotABackup(from.to_owned());
    let damaged = |_| BackupError::Damaged(from.to_owned());
    let mut head = vec![0; MAGIC.len() + 4];
    file.read_exact(&mut head).map_err(|_| not_one())?;
    let wrapped_length = wrapped_length(&head).ok_or_else(not_one)?;
    let mut wrapped = vec![0; wrapped_length];
    file.read_exact(&mut wrapped).map_err(damaged)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(damaged)?;

    let folder = StateFolder::open(state)?;
    let (store, kept) = (folder.file("store.redb"), folder.file("root.wrapped"));
    for path in [&store, &kept] {
        if path.exists() {
            return Err(BackupError::Exists(path.clone()));
        }
    }
    let key = root_key::unwrap(&folder, root, from, &wrapped)?;
    let mut mac = mac_key(&key).begin_mac();
    for part in [&head[..], &wrapped, &length] {
        mac.update(part);
    }
    let temporary = folder.file("store.redb.restored");
    let outcome = copy_checked(&mut file, from, &temporary, u64::from_be_bytes(length), mac);
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome?;
    // The store last: without it the folder counts as empty.
    write_file(&kept, &wrapped, 0o600)?;
    rename_durably(&temporary, &store)?;
    Ok(())
}

fn copy_checked(
    file: &mut impl Read,
    from: &Path,
    to: &Path,
    length: u64,
    mut mac: crate::sealing::Mac,
) -> Result<(), BackupError> {
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .map_err(io_error(to))?;
    let mut target = BufWriter::new(target);
    let mut left = length;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.read(&mut buffer[..most]).map_err(io_error(from))?;
        if read == 0 {
            return Err(BackupError::Damaged(from.to_owned()));
        }
        mac.update(&buffer[..read]);
        target.write_all(&buffer[..read]).map_err(io_error(to))?;
        left -= read as u64;
    }
    let mut tail = Vec::new();
    file.take(MAC_BYTES as u64 + 1)
        .read_to_end(&mut tail)
        .map_err(io_error(from))?;
    if !mac.verify(&tail) {
        return Err(BackupError::Damaged(from.to_owned()));
    }
    target
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .map_err(io_error(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct House {
        folder: tempfile::TempDir,
        backup: PathBuf,
    }

    impl House {
        /// A backup of a store with these bytes.
        fn new(store: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let state = StateFolder::open(&folder.path().join("state")).unwrap();
            let key = root_key::open(&state, &RootKey::InState).unwrap();
            let copy = folder.path().join("copy");
            std::fs::write(&copy, store).unwrap();
            let wrapped = root_key::read(&state.file("root.wrapped"))
                .unwrap()
                .unwrap();
            let mut bytes = Vec::new();
            write(&key, &wrapped, &copy, &mut bytes).unwrap();
            let backup = folder.path().join("backup");
            let length = receive(bytes.as_slice(), &backup).unwrap();
            assert_eq!(length, bytes.len() as u64);
            assert!(matches!(
                receive(bytes.as_slice(), &backup),
                Err(BackupError::Exists(_))
            ));
            Self { folder, backup }
        }

        fn root(&self) -> RootKey {
            RootKey::File(self.folder.path().join("state/root.key"))
        }

        fn restored(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
    }

    #[test]
    fn a_backup_comes_back_as_it_was_and_takes_nobodys_place() {
        let content: Vec<u8> = (0..700_000_u32).map(|i| i.to_be_bytes()[3]).collect();
        let house = House::new(&content);
        let state = house.restored("new");
        restore(&house.backup, &state, &house.root()).unwrap();
        assert_eq!(std::fs::read(state.join("store.redb")).unwrap(), content);
        assert!(matches!(
            restore(&house.backup, &state, &house.root()),
            Err(BackupError::Exists(_))
        ));
    }

    #[test]
    fn a_backup_under_another_root_key_is_refused() {
        let house = House::new(b"store");
        let other = House::new(b"store");
        let state = house.restored("new");
        assert!(matches!(
            restore(&house.backup, &state, &other.root()),
            Err(BackupError::RootKey(RootKeyError::Wrong(_)))
        ));
        assert!(!state.join("store.redb").exists() && !state.join("root.wrapped").exists());
    }

    #[test]
    fn a_backup_that_was_changed_cut_or_lengthened_restores_nothing() {
        let house = House::new(b"a store of some bytes");
        let bytes = std::fs::read(&house.backup).unwrap();
        let state = house.restored("new");
        let attempt = |bytes: &[u8], what: &str| {
            std::fs::write(&house.backup, bytes).unwrap();
            assert!(
                restore(&house.backup, &state, &house.root()).is_err(),
                "{what}"
            );
            let left: Vec<_> = std::fs::read_dir(&state).map_or_else(
                |_| Vec::new(),
                |entries| entries.map(|e| e.unwrap().file_name()).collect(),
            );
            assert!(left.iter().all(|name| name == "lock"), "{what}: {left:?}");
        };
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            attempt(&changed, &format!("byte {at}"));
            attempt(&bytes[..at], &format!("{at} bytes"));
        }
        let mut longer = bytes.clone();
        longer.push(0);
        attempt(&longer, "one byte more");
        std::fs::write(&house.backup, &bytes).unwrap();
        restore(&house.backup, &state, &house.root()).unwrap();
    }
}
