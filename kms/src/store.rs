//! Keys, their material, their aliases and their grants, on disk.
//!
//! A change is acknowledged only after it is durable. Key material is encrypted under the root
//! key; records, aliases and grants carry a MAC under it, so that someone who can write to the file
//! can neither read a key, nor give it another policy, nor point an alias at another key, nor make
//! a grant. (Putting an older copy of the whole file back is not noticed, nor is a record that was
//! taken out.) A wrong root key is refused before the file is touched.
//!
//! Writes go through one thread, which commits whatever has come together in the meantime at
//! once, so that many clients share one sync of the disk. A change sees what the changes before it
//! have done, so that what it checks still holds when it writes.

mod reading;
mod records;
mod writing;

pub(crate) use reading::{Cut, Page};
pub(crate) use records::{
    AliasRecord, GrantRecord, Imported, KeyRecord, KeyStoreRecord, MaterialRecord, Part, Rotation,
};
pub(crate) use writing::Writing;

use crate::cache::Cache;
use crate::ciphertext::MaterialId;
use crate::database::DatabaseFile;
use crate::material::Material;
use crate::refusal::Refusal;
use crate::sealing::{NoRandomness, Secret};
use crate::state::{StateError, rename_durably, write_file};
use redb::backends::FileBackend;
use redb::{
    Builder, DatabaseError, MultimapTableDefinition, ReadOnlyDatabase, ReadTransaction,
    ReadableDatabase as _, TableDefinition, TableError, WriteTransaction,
};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

/// `format` → 2 (u32, big-endian); `root-check` → MAC that only the right root key makes.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// `<key id>:<region>` → MAC (32 bytes), JSON of [`KeyRecord`]. Key ids are 32 hex digits.
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// `<region>:<account>:<key id>` → nothing. Each is checked in [`KEYS`] before it counts.
const KEYS_OF_ACCOUNT: TableDefinition<'_, &str, ()> = TableDefinition::new("keys-of-account");
/// Key id (16 bytes), material id (32), region → material, sealed under the root key.
const MATERIALS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("materials");
/// `<region>:<account>:alias/<name>` → MAC (32 bytes), JSON of [`AliasRecord`].
const ALIASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("aliases");
/// `<key id>:<region>` → its names in [`ALIASES`]. Each is checked there before it counts.
const ALIASES_OF_KEY: MultimapTableDefinition<'_, &str, &str> =
    MultimapTableDefinition::new("aliases-of-key");
/// `<key id>:<region>:<grant id>` → MAC (32 bytes), JSON of [`GrantRecord`].
const GRANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("grants");
/// `<region>:<retiring principal>:<grant id>` → key id. Each is checked in [`GRANTS`].
const RETIRABLE: TableDefinition<'_, &str, &str> = TableDefinition::new("retirable-grants");
/// `<region>:<account>:<key store id>` → MAC (32 bytes), JSON of [`KeyStoreRecord`].
const KEY_STORES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("key-stores");

const FORMAT: u32 = 2;
const MATERIAL_PURPOSE: &str = "anchorhold-kms material v1";
const PASSWORD_PURPOSE: &str = "anchorhold-kms key store password v1";

/// Changes that one commit takes at most.
const MAX_BATCH: usize = 256;

/// Why the store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store belongs to another root key.
    #[error(
        "{0} is encrypted under another root key; nothing was changed. Put its own root.key beside it"
    )]
    WrongRootKey(PathBuf),
    /// The store was written by another version.
    #[error("{path} has format {found}; this version reads format {FORMAT}")]
    Format {
        /// The store's file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// A record's MAC is wrong, or it cannot be read: damage, or a change by another hand.
    #[error("the store's record of {0} is damaged or was changed by another hand")]
    Damaged(String),
    /// The file system refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database refused.
    #[error("the store cannot be read or written: {0}")]
    Database(Box<redb::Error>),
    /// No randomness to seal with.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The service is stopping.
    #[error("the store is closed")]
    Closed,
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// Why a change did not come about.
#[derive(Debug)]
pub(crate) enum ChangeError {
    /// The store failed: this change, and those beside it, are undone.
    Store(StoreError),
    /// The change itself declined, before it wrote anything.
    Refused(Box<Refusal>),
}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl<E: Into<StoreError>> From<E> for ChangeError {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// What the root key is used for, each with a key of its own.
struct Keys {
    materials: Secret,
    records: Secret,
    ids: Secret,
    tokens: Secret,
    passwords: Secret,
    check: [u8; 32],
}

impl Keys {
    fn of(root: &Secret) -> Self {
        Self {
            materials: root.derive("anchorhold-kms materials"),
            records: root.derive("anchorhold-kms records"),
            ids: root.derive("anchorhold-kms material ids"),
            tokens: root.derive("anchorhold-kms tokens"),
            passwords: root.derive("anchorhold-kms key store passwords"),
            check: root.derive("anchorhold-kms root check").mac(&[]),
        }
    }
}

type Change = Box<dyn FnOnce(&WriteTransaction) -> Result<(), ChangeError> + Send>;

enum Pending {
    Change {
        change: Change,
        done: Done,
    },
    /// To this path, between two commits.
    Copy {
        to: PathBuf,
        done: Done,
    },
}

type Done = mpsc::SyncSender<Result<(), ChangeError>>;

/// What was read and opened since the last commit, so that it is not read, nor its MAC checked, for each
/// request. By the names in the tables.
struct Kept {
    records: Cache<String, Option<KeyRecord>>,
    aliases: Cache<String, Vec<String>>,
    materials: Cache<Vec<u8>, Option<Arc<Material>>>,
}

impl Kept {
    fn new() -> Self {
        Self {
            records: Cache::new(),
            aliases: Cache::new(),
            materials: Cache::new(),
        }
    }
}

pub(crate) struct Store {
    database: Arc<DatabaseFile>,
    kept: Kept,
    keys: Arc<Keys>,
    writer: Mutex<Option<mpsc::Sender<Pending>>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store, or makes it where there is none.
    pub(crate) fn open(path: &Path, root: &Secret) -> Result<Self, StoreError> {
        let keys = Keys::of(root);
        let check_path = path.with_file_name("root.check");
        if path.exists() {
            check_before_opening(path, &check_path, &keys)?;
        } else {
            create(path, &check_path, &keys)?;
        }
        let database = DatabaseFile::open(path)?;
        check(&database.begin_read()?, path, &keys)?;
        add_tables(&database)?;
        if !check_path.exists() {
            write_file(&check_path, &keys.check, 0o600)?;
        }
        let database = Arc::new(database);
        let (sender, receiver) = mpsc::channel();
        let for_writer = Arc::clone(&database);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_all(&for_writer, &receiver))
            .map_err(|source| StateError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            database,
            kept: Kept::new(),
            keys: Arc::new(keys),
            writer: Mutex::new(Some(sender)),
            thread: Some(thread),
        })
    }

    /// What tokens, which leave the service and come back, are sealed under.
    pub(crate) fn tokens(&self) -> &Secret {
        &self.keys.tokens
    }

    /// A key store's password, encrypted for its record.
    pub(crate) fn seal_password(&self, id: &str, password: &str) -> Result<Vec<u8>, NoRandomness> {
        self.keys
            .passwords
            .seal(PASSWORD_PURPOSE, id.as_bytes(), password.as_bytes())
    }

    /// The password of a key store.
    pub(crate) fn open_password(
        &self,
        record: &KeyStoreRecord,
    ) -> Result<Zeroizing<String>, StoreError> {
        let damaged = || StoreError::Damaged(format!("the password of {}", record.id));
        let opened = self
            .keys
            .passwords
            .open(PASSWORD_PURPOSE, record.id.as_bytes(), &record.password)
            .ok_or_else(damaged)?;
        let text = std::str::from_utf8(&opened).map_err(|_| damaged())?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Names material: the same material of the same key has the same name, and the name tells
    /// nothing about it.
    pub(crate) fn material_id(&self, key: Uuid, material: &[u8]) -> MaterialId {
        MaterialId(self.keys.ids.mac(&[key.as_bytes(), material]))
    }

    /// Makes a change; returns once it is on disk. It runs on the writer's thread and must check
    /// all that may refuse it before it writes.
    pub(crate) fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Writing<'_>) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let keys = Arc::clone(&self.keys);
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        self.write(Box::new(move |transaction| {
            let value = change(&Writing::new(transaction, &keys))?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        }))?;
        let value = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or(ChangeError::Store(StoreError::Closed))
    }

    fn write(&self, change: Change) -> Result<(), ChangeError> {
        let (done, outcome) = mpsc::sync_channel(1);
        self.send(Pending::Change { change, done })?;
        outcome.recv().map_err(|_| StoreError::Closed)?
    }

    /// Copies the store's file to `to`, which holds all that was acknowledged before and is encrypted as
    /// the store is. Writers wait meanwhile; readers do not.
    pub(crate) fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        let (done, outcome) = mpsc::sync_channel(1);
        let to = to.to_owned();
        self.send(Pending::Copy { to, done })?;
        match outcome.recv().map_err(|_| StoreError::Closed)? {
            Err(ChangeError::Store(error)) => Err(error),
            // A copy is never refused.
            Ok(()) | Err(ChangeError::Refused(_)) => Ok(()),
        }
    }

    /// Commits since the start.
    pub(crate) fn commits(&self) -> u64 {
        self.database.commits()
    }

    fn send(&self, pending: Pending) -> Result<(), StoreError> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .ok_or(StoreError::Closed)?
            .send(pending)
            .map_err(|_| StoreError::Closed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Without a sender the thread ends, after what is already waiting.
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(database: &DatabaseFile, queue: &mpsc::Receiver<Pending>) {
    while let Ok(first) = queue.recv() {
        let mut batch = Vec::new();
        let mut copies = Vec::new();
        let mut next = Some(first);
        while let Some(pending) = next {
            match pending {
                Pending::Change { change, done } => batch.push((change, done)),
                Pending::Copy { to, done } => copies.push((to, done)),
            }
            next = if batch.len() < MAX_BATCH {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        if !batch.is_empty() {
            commit(database, batch);
        }
        for (to, done) in copies {
            let copied = database
                .copy_to(&to)
                .map_err(|source| StateError::Io { path: to, source });
            let _ = done.send(copied.map_err(ChangeError::from));
        }
    }
}

/// Makes the changes in one transaction. A change that refuses has changed nothing and leaves the
/// others alone; a failing disk fails them all.
fn commit(database: &DatabaseFile, batch: Vec<(Change, Done)>) {
    let mut answers = Vec::with_capacity(batch.len());
    let write = || -> Result<(), StoreError> {
        let mut transaction = database.begin_write()?;
        // Two phases, so that what a caller writes cannot be made to look like a commit; and an
        // allocator that needs no long repair after a crash.
        transaction.set_quick_repair(true);
        for (change, done) in batch {
            match change(&transaction) {
                Ok(()) => answers.push((done, Ok(()))),
                Err(refused @ ChangeError::Refused(_)) => answers.push((done, Err(refused))),
                Err(error @ ChangeError::Store(_)) => {
                    answers.push((done, Err(error)));
                    return Err(StoreError::Closed);
                }
            }
        }
        transaction.commit()?;
        database.committed();
        Ok(())
    };
    let outcome = write();
    if let Err(error) = &outcome {
        tracing::error!(%error, "the store could not commit");
        database.failed();
    }
    for (done, answer) in answers {
        let answer = match (&outcome, answer) {
            (Ok(()), answer) => answer,
            (Err(_), Err(own)) => Err(own),
            (Err(_), Ok(())) => Err(StoreError::Closed.into()),
        };
        // Whoever waits for it may be gone.
        let _ = done.send(answer);
    }
}

/// Makes the file under another name, so that a store is never there without its check.
fn create(path: &Path, check_path: &Path, keys: &Keys) -> Result<(), StoreError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let io_error = |source| StateError::Io {
        path: temporary.clone(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io_error)?;
    let database = Builder::new().create_with_backend(FileBackend::new(file)?)?;
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
        meta.insert("root-check", keys.check.as_slice())?;
        transaction.open_table(KEYS)?;
        transaction.open_table(KEYS_OF_ACCOUNT)?;
        transaction.open_table(MATERIALS)?;
        transaction.open_table(ALIASES)?;
        transaction.open_multimap_table(ALIASES_OF_KEY)?;
        transaction.open_table(GRANTS)?;
        transaction.open_table(RETIRABLE)?;
        transaction.open_table(KEY_STORES)?;
    }
    transaction.commit()?;
    database.close()?;
    write_file(check_path, &keys.check, 0o600)?;
    rename_durably(&temporary, path)?;
    Ok(())
}

/// Tables that a store of an older version does not have.
fn add_tables(database: &DatabaseFile) -> Result<(), StoreError> {
    match database.begin_read()?.open_table(KEY_STORES) {
        Ok(_) => return Ok(()),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(KEY_STORES)?;
    Ok(transaction.commit()?)
}

/// Refuses a wrong root key without touching the store: opening it after a crash would already
/// repair it. So the check value stands beside the store, too; what counts in the end is the one
/// inside.
fn check_before_opening(path: &Path, check_path: &Path, keys: &Keys) -> Result<(), StoreError> {
    match std::fs::read(check_path) {
        Ok(found) if bool::from(found.ct_eq(&keys.check)) => return Ok(()),
        Ok(_) => return Err(StoreError::WrongRootKey(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(StoreError::State(StateError::Io {
                path: check_path.to_owned(),
                source,
            }));
        }
    }
    match ReadOnlyDatabase::open(path) {
        Ok(database) => check(&database.begin_read()?, path, keys),
        // Only opening for writing repairs it; the check comes right after that.
        Err(DatabaseError::RepairAborted) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn check(transaction: &ReadTransaction, path: &Path, keys: &Keys) -> Result<(), StoreError> {
    let meta = transaction.open_table(META)?;
    let format = meta.get("format")?;
    let format = format.as_ref().map(redb::AccessGuard::value);
    if format != Some(FORMAT.to_be_bytes().as_slice()) {
        return Err(StoreError::Format {
            path: path.to_owned(),
            found: format.map_or_else(|| "unknown".to_owned(), hex::encode),
        });
    }
    let found = meta.get("root-check")?;
    let right = found.is_some_and(|found| bool::from(found.value().ct_eq(&keys.check)));
    if right {
        Ok(())
    } else {
        Err(StoreError::WrongRootKey(path.to_owned()))
    }
}

fn material_name(region: &str, key: Uuid, material: &MaterialId) -> Vec<u8> {
    let mut name = key.as_bytes().to_vec();
    name.extend_from_slice(&material.0);
    name.extend_from_slice(region.as_bytes());
    name
}

fn key_name(region: &str, key: Uuid) -> String {
    format!("{}:{region}", key.simple())
}

fn alias_name(region: &str, account: &str, name: &str) -> String {
    format!("{region}:{account}:{name}")
}

fn key_store_name(region: &str, account: &str, id: &str) -> String {
    format!("{region}:{account}:{id}")
}

fn grant_name(region: &str, key: Uuid, grant: &str) -> String {
    format!("{}:{region}:{grant}", key.simple())
}

#[cfg(test)]
mod tests;
