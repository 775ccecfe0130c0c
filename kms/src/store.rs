//! Keys, their material and their aliases, on disk.
//!
//! A change is acknowledged only after it is durable. Key material is encrypted under the root
//! key; records and aliases carry a MAC under it, so that someone who can write to the file can
//! neither read a key, nor give it another policy, nor point an alias at another key. (Putting
//! an older copy of the whole file back is not noticed.) A wrong root key is refused before the
//! file is touched.
//!
//! Writes go through one thread, which commits whatever has come together in the meantime at
//! once, so that many clients share one sync of the disk.

use crate::cache::Cache;
use crate::ciphertext::MaterialId;
use crate::database::DatabaseFile;
use crate::sealing::{NoRandomness, Secret};
use crate::state::{StateError, rename_durably, write_file};
use anchorhold_kms_wire::shapes::{KeySpec, KeyState, KeyUsage, Origin};
use redb::backends::FileBackend;
use redb::{
    Builder, DatabaseError, MultimapTableDefinition, ReadOnlyDatabase, ReadTransaction,
    ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use uuid::Uuid;

/// `format` → 1 (u32, big-endian); `root-check` → MAC that only the right root key makes.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Key id → MAC (32 bytes), JSON of [`KeyRecord`].
const KEYS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("keys");
/// Key id, material id (48 bytes) → material, sealed under the root key.
const MATERIALS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("materials");
/// `<region>:<account>:alias/<name>` → MAC (32 bytes), key id (16 bytes).
const ALIASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("aliases");
/// Key id → its names in [`ALIASES`]. Each is checked there before it counts.
const ALIASES_OF_KEY: MultimapTableDefinition<'_, u128, &str> =
    MultimapTableDefinition::new("aliases-of-key");

const FORMAT: u32 = 1;
const MATERIAL_PURPOSE: &str = "anchorhold-kms material v1";

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
    /// Another alias of that name is there.
    #[error("the alias exists already")]
    AliasExists,
    /// No such key.
    #[error("the key does not exist")]
    NoSuchKey,
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

/// What is kept of a key beside its material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    #[serde(skip)]
    pub(crate) id: Uuid,
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) created_ms: i64,
    pub(crate) description: String,
    pub(crate) state: KeyState,
    pub(crate) usage: KeyUsage,
    pub(crate) spec: KeySpec,
    pub(crate) origin: Origin,
    pub(crate) multi_region: bool,
    /// The key policy, as it was given.
    pub(crate) policy: String,
    /// The material that encrypts; older ones may still decrypt.
    #[serde(with = "hex::serde")]
    pub(crate) material: MaterialId,
}

/// What the root key is used for, each with a key of its own.
struct Keys {
    materials: Secret,
    records: Secret,
    check: [u8; 32],
}

impl Keys {
    fn of(root: &Secret) -> Self {
        Self {
            materials: root.derive("anchorhold-kms materials"),
            records: root.derive("anchorhold-kms records"),
            check: root.derive("anchorhold-kms root check").mac(&[]),
        }
    }
}

type Change = Box<dyn FnOnce(&WriteTransaction) -> Result<(), StoreError> + Send>;

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

type Done = mpsc::SyncSender<Result<(), StoreError>>;

/// What was read and opened since the last commit, so that it is not read, nor its MAC checked, for each
/// request.
struct Kept {
    records: Cache<Uuid, Option<KeyRecord>>,
    aliases: Cache<Uuid, Vec<String>>,
    materials: Cache<Vec<u8>, Option<Arc<Secret>>>,
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

    pub(crate) fn key(&self, id: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        let generation = self.database.generation();
        self.kept
            .records
            .get_or(&id, generation, || self.read_key(id))
    }

    fn read_key(&self, id: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(KEYS)?;
        match table.get(id.as_u128())? {
            None => Ok(None),
            Some(value) => read_record(&self.keys, id, value.value()).map(Some),
        }
    }

    pub(crate) fn material(
        &self,
        key: Uuid,
        material: &MaterialId,
    ) -> Result<Option<Arc<Secret>>, StoreError> {
        let name = material_name(key, material);
        let generation = self.database.generation();
        self.kept.materials.get_or(&name, generation, || {
            Ok(self.read_material(key, &name)?.map(Arc::new))
        })
    }

    fn read_material(&self, key: Uuid, name: &[u8]) -> Result<Option<Secret>, StoreError> {
        let table = self.database.begin_read()?.open_table(MATERIALS)?;
        let Some(sealed) = table.get(name)? else {
            return Ok(None);
        };
        let opened = self
            .keys
            .materials
            .open(MATERIAL_PURPOSE, name, sealed.value())
            .and_then(|bytes| Secret::from_slice(&bytes));
        match opened {
            Some(secret) => Ok(Some(secret)),
            None => Err(StoreError::Damaged(format!("material of key {key}"))),
        }
    }

    /// The key that an alias names. `name` begins with `alias/`.
    pub(crate) fn alias(
        &self,
        region: &str,
        account: &str,
        name: &str,
    ) -> Result<Option<Uuid>, StoreError> {
        let full = alias_name(region, account, name);
        let table = self.database.begin_read()?.open_table(ALIASES)?;
        match table.get(full.as_str())? {
            None => Ok(None),
            Some(value) => read_alias(&self.keys, &full, value.value()).map(Some),
        }
    }

    /// The names, `alias/…`, that a key has in its account and Region.
    pub(crate) fn aliases_of(&self, record: &KeyRecord) -> Result<Vec<String>, StoreError> {
        let generation = self.database.generation();
        self.kept
            .aliases
            .get_or(&record.id, generation, || self.read_aliases_of(record))
    }

    fn read_aliases_of(&self, record: &KeyRecord) -> Result<Vec<String>, StoreError> {
        let transaction = self.database.begin_read()?;
        let index = transaction.open_multimap_table(ALIASES_OF_KEY)?;
        let table = transaction.open_table(ALIASES)?;
        let prefix = alias_name(&record.region, &record.account, "");
        let mut names = Vec::new();
        for full in index.get(record.id.as_u128())? {
            let full = full?;
            let damaged = || StoreError::Damaged(format!("aliases of key {}", record.id));
            let name = full.value().strip_prefix(&prefix).ok_or_else(damaged)?;
            let value = table.get(full.value())?.ok_or_else(damaged)?;
            if read_alias(&self.keys, full.value(), value.value())? != record.id {
                return Err(damaged());
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    /// Adds a key with its first material; returns once both are on disk.
    pub(crate) fn add_key(&self, record: KeyRecord, material: &Secret) -> Result<(), StoreError> {
        let name = material_name(record.id, &record.material);
        let sealed = self
            .keys
            .materials
            .seal(MATERIAL_PURPOSE, &name, material.expose())?;
        let keys = Arc::clone(&self.keys);
        self.write(Box::new(move |transaction| {
            let mut materials = transaction.open_table(MATERIALS)?;
            materials.insert(name.as_slice(), sealed.as_slice())?;
            write_record(&keys, transaction, &record)
        }))
    }

    /// Changes a key's record; returns once the change is on disk.
    pub(crate) fn change_key(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut KeyRecord) + Send + 'static,
    ) -> Result<(), StoreError> {
        let keys = Arc::clone(&self.keys);
        self.write(Box::new(move |transaction| {
            let mut record = record_in(&keys, transaction, id)?;
            change(&mut record);
            write_record(&keys, transaction, &record)
        }))
    }

    /// Adds an alias; returns once it is on disk. `name` begins with `alias/`.
    pub(crate) fn add_alias(&self, key: Uuid, name: &str) -> Result<(), StoreError> {
        let keys = Arc::clone(&self.keys);
        let name = name.to_owned();
        self.write(Box::new(move |transaction| {
            let record = record_in(&keys, transaction, key)?;
            let full = alias_name(&record.region, &record.account, &name);
            let mut aliases = transaction.open_table(ALIASES)?;
            if aliases.get(full.as_str())?.is_some() {
                return Err(StoreError::AliasExists);
            }
            let mut value = alias_mac(&keys, &full, key).to_vec();
            value.extend_from_slice(key.as_bytes());
            aliases.insert(full.as_str(), value.as_slice())?;
            let mut index = transaction.open_multimap_table(ALIASES_OF_KEY)?;
            index.insert(key.as_u128(), full.as_str())?;
            Ok(())
        }))
    }

    fn write(&self, change: Change) -> Result<(), StoreError> {
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
        outcome.recv().map_err(|_| StoreError::Closed)?
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
                .map_err(|source| StoreError::State(StateError::Io { path: to, source }));
            let _ = done.send(copied);
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
                Err(error @ StoreError::Database(_)) => {
                    answers.push((done, Err(error)));
                    return Err(StoreError::Closed);
                }
                Err(refused) => answers.push((done, Err(refused))),
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
            (Err(_), Ok(())) => Err(StoreError::Closed),
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
        transaction.open_table(MATERIALS)?;
        transaction.open_table(ALIASES)?;
        transaction.open_multimap_table(ALIASES_OF_KEY)?;
    }
    transaction.commit()?;
    database.close()?;
    write_file(check_path, &keys.check, 0o600)?;
    rename_durably(&temporary, path)?;
    Ok(())
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

fn material_name(key: Uuid, material: &MaterialId) -> Vec<u8> {
    let mut name = key.as_bytes().to_vec();
    name.extend_from_slice(material);
    name
}

fn alias_name(region: &str, account: &str, name: &str) -> String {
    format!("{region}:{account}:{name}")
}

fn record_mac(keys: &Keys, id: Uuid, json: &[u8]) -> [u8; 32] {
    keys.records.mac(&[b"key", id.as_bytes(), json])
}

fn alias_mac(keys: &Keys, full: &str, key: Uuid) -> [u8; 32] {
    keys.records
        .mac(&[b"alias", full.as_bytes(), key.as_bytes()])
}

fn read_record(keys: &Keys, id: Uuid, value: &[u8]) -> Result<KeyRecord, StoreError> {
    let damaged = || StoreError::Damaged(format!("key {id}"));
    let (mac, json) = value.split_at_checked(32).ok_or_else(damaged)?;
    if !bool::from(mac.ct_eq(&record_mac(keys, id, json))) {
        return Err(damaged());
    }
    let mut record: KeyRecord = serde_json::from_slice(json).map_err(|_| damaged())?;
    record.id = id;
    Ok(record)
}

fn read_alias(keys: &Keys, full: &str, value: &[u8]) -> Result<Uuid, StoreError> {
    let damaged = || StoreError::Damaged(full.to_owned());
    let (mac, key) = value.split_at_checked(32).ok_or_else(damaged)?;
    let key = Uuid::from_slice(key).map_err(|_| damaged())?;
    if bool::from(mac.ct_eq(&alias_mac(keys, full, key))) {
        Ok(key)
    } else {
        Err(damaged())
    }
}

fn record_in(
    keys: &Keys,
    transaction: &WriteTransaction,
    id: Uuid,
) -> Result<KeyRecord, StoreError> {
    let table = transaction.open_table(KEYS)?;
    let value = table.get(id.as_u128())?.ok_or(StoreError::NoSuchKey)?;
    read_record(keys, id, value.value())
}

fn write_record(
    keys: &Keys,
    transaction: &WriteTransaction,
    record: &KeyRecord,
) -> Result<(), StoreError> {
    let json = serde_json::to_vec(record).expect("a record is strings and numbers");
    let mut value = record_mac(keys, record.id, &json).to_vec();
    value.extend_from_slice(&json);
    let mut table = transaction.open_table(KEYS)?;
    table.insert(record.id.as_u128(), value.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::Database;

    fn record(policy: &str) -> KeyRecord {
        KeyRecord {
            id: Uuid::new_v4(),
            region: "us-east-1".to_owned(),
            account: "111122223333".to_owned(),
            created_ms: 1,
            description: String::new(),
            state: KeyState::Enabled,
            usage: KeyUsage::EncryptDecrypt,
            spec: KeySpec::SymmetricDefault,
            origin: Origin::AwsKms,
            multi_region: false,
            policy: policy.to_owned(),
            material: [9; 32],
        }
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let root = Secret::random().unwrap();
        let material = Secret::random().unwrap();
        let key = record("p1");
        let store = Store::open(&path, &root).unwrap();
        store.add_key(key.clone(), &material).unwrap();
        store.add_alias(key.id, "alias/a").unwrap();
        store
            .change_key(key.id, |r| r.policy = "p2".to_owned())
            .unwrap();
        drop(store);
        let store = Store::open(&path, &root).unwrap();
        let found = store.key(key.id).unwrap().unwrap();
        assert_eq!(found.policy, "p2");
        let again = store.material(key.id, &key.material).unwrap().unwrap();
        assert_eq!(again.expose(), material.expose());
        assert_eq!(
            store.alias("us-east-1", "111122223333", "alias/a").unwrap(),
            Some(key.id)
        );
        assert_eq!(store.aliases_of(&found).unwrap(), ["alias/a"]);
        assert!(matches!(
            store.add_alias(key.id, "alias/a"),
            Err(StoreError::AliasExists)
        ));
    }

    #[test]
    fn a_wrong_root_key_is_refused_and_changes_no_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let root = Secret::random().unwrap();
        let store = Store::open(&path, &root).unwrap();
        let key = record("p");
        store
            .add_key(key.clone(), &Secret::random().unwrap())
            .unwrap();
        drop(store);
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(
            Store::open(&path, &Secret::random().unwrap()),
            Err(StoreError::WrongRootKey(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(Store::open(&path, &root).is_ok());
    }

    #[test]
    fn a_wrong_root_key_changes_nothing_after_a_crash_either() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let root = Secret::random().unwrap();
        let store = Store::open(&path, &root).unwrap();
        let key = record("p");
        store
            .add_key(key.clone(), &Secret::random().unwrap())
            .unwrap();
        // What is on disk while the store is open is what a crash leaves.
        let crashed = tempfile::tempdir().unwrap();
        let left = crashed.path().join("store.redb");
        std::fs::copy(&path, &left).unwrap();
        std::fs::copy(
            dir.path().join("root.check"),
            crashed.path().join("root.check"),
        )
        .unwrap();
        let before = std::fs::read(&left).unwrap();
        assert!(matches!(
            Store::open(&left, &Secret::random().unwrap()),
            Err(StoreError::WrongRootKey(_))
        ));
        assert_eq!(std::fs::read(&left).unwrap(), before);
        let store = Store::open(&left, &root).unwrap();
        assert!(store.key(key.id).unwrap().is_some());
    }

    #[test]
    fn the_check_inside_the_store_counts_and_the_one_beside_it_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let beside = dir.path().join("root.check");
        let (root, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        drop(Store::open(&path, &root).unwrap());
        let right = std::fs::read(&beside).unwrap();
        std::fs::write(&beside, Keys::of(&other).check).unwrap();
        assert!(matches!(
            Store::open(&path, &other),
            Err(StoreError::WrongRootKey(_))
        ));
        std::fs::remove_file(&beside).unwrap();
        assert!(matches!(
            Store::open(&path, &other),
            Err(StoreError::WrongRootKey(_))
        ));
        drop(Store::open(&path, &root).unwrap());
        assert_eq!(std::fs::read(&beside).unwrap(), right);
    }

    #[test]
    fn a_record_changed_by_another_hand_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let root = Secret::random().unwrap();
        let (mine, other) = (record("mine"), record("other"));
        let store = Store::open(&path, &root).unwrap();
        for key in [&mine, &other] {
            store
                .add_key((*key).clone(), &Secret::random().unwrap())
                .unwrap();
        }
        store.add_alias(mine.id, "alias/a").unwrap();
        drop(store);
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut keys = transaction.open_table(KEYS).unwrap();
            let theirs = keys
                .get(other.id.as_u128())
                .unwrap()
                .unwrap()
                .value()
                .to_vec();
            keys.insert(mine.id.as_u128(), theirs.as_slice()).unwrap();
            let mut materials = transaction.open_table(MATERIALS).unwrap();
            let name = material_name(other.id, &other.material);
            let theirs = materials
                .get(name.as_slice())
                .unwrap()
                .unwrap()
                .value()
                .to_vec();
            let name = material_name(mine.id, &mine.material);
            materials
                .insert(name.as_slice(), theirs.as_slice())
                .unwrap();
            let mut aliases = transaction.open_table(ALIASES).unwrap();
            let full = "us-east-1:111122223333:alias/a";
            let mut value = aliases.get(full).unwrap().unwrap().value().to_vec();
            value[32..].copy_from_slice(other.id.as_bytes());
            aliases.insert(full, value.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let store = Store::open(&path, &root).unwrap();
        assert!(matches!(store.key(mine.id), Err(StoreError::Damaged(_))));
        assert!(matches!(
            store.material(mine.id, &mine.material),
            Err(StoreError::Damaged(_))
        ));
        assert!(matches!(
            store.alias("us-east-1", "111122223333", "alias/a"),
            Err(StoreError::Damaged(_))
        ));
        assert!(store.key(other.id).unwrap().is_some());
    }

    #[test]
    fn many_writers_share_commits_and_each_gets_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            Store::open(&dir.path().join("store.redb"), &Secret::random().unwrap()).unwrap();
        let key = record("p");
        store
            .add_key(key.clone(), &Secret::random().unwrap())
            .unwrap();
        let won: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| usize::from(store.add_alias(key.id, "alias/one").is_ok())))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(won, 1);
    }
}
