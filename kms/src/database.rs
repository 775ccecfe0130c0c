//! The store's file under redb: opened, copied while it is used, and opened anew after the disk has
//! refused.
//!
//! redb lets nothing happen after an error of the disk, not even reads, until the file is opened again.
//! A full disk must not end all decryption, so that is done here: what was committed is on disk, and what
//! was not was never acknowledged. Nothing here knows what the tables mean.

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, StorageBackend,
    StorageError, TransactionError, WriteTransaction,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Pages that are kept in memory, at most.
const CACHE_BYTES: usize = 256 << 20;

/// The file, open for as long as this lives. The state folder's lock keeps other processes away.
pub(crate) struct DatabaseFile {
    path: PathBuf,
    /// Absent when it could not be opened anew.
    current: RwLock<Option<Database>>,
    commits: AtomicU64,
    generation: AtomicU64,
}

impl DatabaseFile {
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        Ok(Self {
            path: path.to_owned(),
            current: RwLock::new(Some(open(path)?)),
            commits: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        })
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        self.with(Database::begin_read)
    }

    /// For the one thread that writes.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, TransactionError> {
        self.with(Database::begin_write)
    }

    /// A commit went well.
    pub(crate) fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Another number after each commit: what was read under the same number, asked for before reading, is
    /// still so.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A commit, or a change in it, did not go well: where that was the disk, the file is opened anew, so
    /// that reading goes on. What the failed commit held is gone.
    pub(crate) fn failed(&self) {
        // What failed may still be on disk.
        self.generation.fetch_add(1, Ordering::AcqRel);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_sound = current.as_ref().is_some_and(|database| {
            matches!(
                database.try_begin_write(),
                Ok(_) | Err(TransactionError::WouldBlock)
            )
        });
        if is_sound {
            return;
        }
        if let Err(error) = self.reopen(&mut current) {
            tracing::error!(%error, "the store could not be opened anew");
        }
    }

    /// Commits since the start.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Copies the file as it is. Between two commits that is what a crash would leave, and so whole; the
    /// caller sees to it that no commit is under way.
    pub(crate) fn copy_to(&self, path: &Path) -> io::Result<()> {
        let mut from = File::open(&self.path)?;
        let mut to = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        io::copy(&mut from, &mut to)?;
        Ok(())
    }

    fn with<T>(
        &self,
        begin: impl Fn(&Database) -> Result<T, TransactionError>,
    ) -> Result<T, TransactionError> {
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = current.as_ref() {
                return begin(database);
            }
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            Some(database) => begin(database),
            None => begin(self.reopen(&mut current)?),
        }
    }

    fn reopen<'a>(&self, current: &'a mut Option<Database>) -> Result<&'a Database, StorageError> {
        // The old one first: closing it may write.
        drop(current.take());
        let fresh = open(&self.path).map_err(|error| match error {
            DatabaseError::Storage(error) => error,
            other => StorageError::Io(io::Error::other(other.to_string())),
        })?;
        tracing::warn!("the store was opened anew after an error of the disk");
        Ok(current.insert(fresh))
    }
}

fn open(path: &Path) -> Result<Database, DatabaseError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| DatabaseError::Storage(StorageError::Io(error)))?;
    Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(Unlocked(file))
}

/// A file that is not locked, so that it can be opened anew while readers still hold the old one.
#[derive(Debug)]
struct Unlocked(File);

impl StorageBackend for Unlocked {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::TableDefinition;

    const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("t");

    fn put(file: &DatabaseFile, key: u64) {
        let mut transaction = file.begin_write().unwrap();
        transaction.set_quick_repair(true);
        transaction
            .open_table(TABLE)
            .unwrap()
            .insert(key, key)
            .unwrap();
        transaction.commit().unwrap();
        file.committed();
    }

    #[test]
    fn a_copy_between_two_commits_opens_and_holds_what_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("a"), dir.path().join("b"));
        drop(Database::create(&path).unwrap());
        let file = DatabaseFile::open(&path).unwrap();
        put(&file, 1);
        file.copy_to(&copy).unwrap();
        put(&file, 2);
        assert_eq!(file.commits(), 2);
        let copied = DatabaseFile::open(&copy).unwrap();
        let table = copied.begin_read().unwrap().open_table(TABLE).unwrap();
        assert!(table.get(1).unwrap().is_some());
        assert!(table.get(2).unwrap().is_none());
    }

    #[test]
    fn opening_anew_keeps_what_was_committed_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        drop(Database::create(&path).unwrap());
        let file = DatabaseFile::open(&path).unwrap();
        put(&file, 1);
        file.failed();
        put(&file, 2);
        let table = file.begin_read().unwrap().open_table(TABLE).unwrap();
        assert!(table.get(1).unwrap().is_some() && table.get(2).unwrap().is_some());
    }
}
