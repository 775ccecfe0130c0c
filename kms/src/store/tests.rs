use super::*;
use anchorhold_kms_wire::shapes::{GrantOperation, KeySpec, KeyState, KeyUsage, Origin};
use redb::{Database, ReadableTable as _};
use std::collections::BTreeMap;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "111122223333";

fn record(policy: &str) -> KeyRecord {
    let id = MaterialId([9; 32]);
    KeyRecord {
        uuid: Uuid::new_v4(),
        region: REGION.to_owned(),
        account: ACCOUNT.to_owned(),
        created_ms: 1,
        description: String::new(),
        state: KeyState::Enabled,
        usage: KeyUsage::EncryptDecrypt,
        spec: KeySpec::SymmetricDefault,
        origin: Origin::AwsKms,
        multi_region: None,
        policy: policy.to_owned(),
        tags: BTreeMap::new(),
        material: Some(id),
        materials: vec![MaterialRecord::first(id)],
        rotation: None,
        rotations_on_demand: 0,
        deletion_ms: None,
        pending_window_days: None,
        grants: 0,
        custom_key_store: None,
    }
}

fn material_of(key: &KeyRecord) -> MaterialId {
    key.material.unwrap()
}

fn add_key(store: &Store, key: &KeyRecord, material: &[u8]) {
    let (key, material) = (key.clone(), material.to_vec());
    store
        .change(move |writing| {
            writing.put_material(&key, &material_of(&key), &material)?;
            Ok(writing.put_key(&key)?)
        })
        .unwrap();
}

fn add_alias(store: &Store, key: &KeyRecord, name: &str) -> Result<(), ChangeError> {
    let (key, name) = (key.clone(), name.to_owned());
    store.change(move |writing| {
        if writing.alias(&key.region, &key.account, &name)?.is_some() {
            return Err(Refusal::validation("there already").into());
        }
        let alias = AliasRecord {
            key: key.uuid,
            multi_region: false,
            created_ms: 1,
            updated_ms: 1,
        };
        Ok(writing.put_alias(&key, &name, &alias)?)
    })
}

fn grant(id: &str) -> GrantRecord {
    GrantRecord {
        id: id.to_owned(),
        name: None,
        created_ms: 1,
        grantee: "arn:aws:iam::111122223333:user/a".to_owned(),
        retiring: Some("arn:aws:iam::111122223333:user/b".to_owned()),
        issuing_account: ACCOUNT.to_owned(),
        operations: vec![GrantOperation::Decrypt],
        context_equals: BTreeMap::new(),
        context_subset: BTreeMap::new(),
    }
}

const EVERYTHING: Cut<'_> = Cut {
    after: None,
    limit: 1000,
};

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let root = Secret::random().unwrap();
    let material = Secret::random().unwrap();
    let key = record("p1");
    let store = Store::open(&path, &root).unwrap();
    add_key(&store, &key, material.expose());
    add_alias(&store, &key, "alias/a").unwrap();
    let changed = KeyRecord {
        policy: "p2".to_owned(),
        grants: 1,
        custom_key_store: None,
        ..key.clone()
    };
    store
        .change(move |writing| {
            writing.put_grant(&changed, &grant("g"))?;
            Ok(writing.put_key(&changed)?)
        })
        .unwrap();
    drop(store);
    let store = Store::open(&path, &root).unwrap();
    let found = store.key(REGION, key.uuid).unwrap().unwrap();
    assert_eq!(found.policy, "p2");
    let again = store
        .material_bytes(REGION, key.uuid, &material_of(&key))
        .unwrap()
        .unwrap();
    assert_eq!(again.as_slice(), material.expose());
    let alias = store.alias(REGION, ACCOUNT, "alias/a").unwrap().unwrap();
    assert_eq!(alias.key, key.uuid);
    assert_eq!(store.aliases_of(&found).unwrap(), ["alias/a"]);
    assert_eq!(store.all_grants_of(&found).unwrap(), [grant("g")]);
    let retiring = "arn:aws:iam::111122223333:user/b";
    let retirable = store.retirable(REGION, retiring, EVERYTHING).unwrap();
    assert_eq!(retirable.items.len(), 1);
    assert!(matches!(
        add_alias(&store, &key, "alias/a"),
        Err(ChangeError::Refused(_))
    ));
    assert!(store.key("eu-west-1", key.uuid).unwrap().is_none());
}

#[test]
fn a_removed_key_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let root = Secret::random().unwrap();
    let store = Store::open(&path, &root).unwrap();
    let (mut key, other) = (record("p"), record("p"));
    key.grants = 1;
    for key in [&key, &other] {
        add_key(&store, key, &[1; 32]);
    }
    add_alias(&store, &key, "alias/a").unwrap();
    add_alias(&store, &other, "alias/b").unwrap();
    let removed = key.clone();
    store
        .change(move |writing| {
            writing.put_grant(&removed, &grant("g"))?;
            Ok(writing.put_key(&removed)?)
        })
        .unwrap();
    let removed = key.clone();
    store
        .change(move |writing| Ok(writing.remove_key(&removed)?))
        .unwrap();
    assert!(store.key(REGION, key.uuid).unwrap().is_none());
    assert!(
        store
            .material_bytes(REGION, key.uuid, &material_of(&key))
            .unwrap()
            .is_none()
    );
    assert!(store.alias(REGION, ACCOUNT, "alias/a").unwrap().is_none());
    assert!(store.all_grants_of(&key).unwrap().is_empty());
    let retiring = "arn:aws:iam::111122223333:user/b";
    let retirable = store.retirable(REGION, retiring, EVERYTHING).unwrap();
    assert!(retirable.items.is_empty());
    let left = store.keys_of(REGION, ACCOUNT, EVERYTHING).unwrap();
    assert_eq!(left.items, std::slice::from_ref(&other));
    assert!(
        store
            .material_bytes(REGION, other.uuid, &material_of(&other))
            .unwrap()
            .is_some()
    );
    assert_eq!(store.aliases_of(&other).unwrap(), ["alias/b"]);
}

#[test]
fn lists_come_in_parts_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), &Secret::random().unwrap()).unwrap();
    let keys: Vec<KeyRecord> = (0..5).map(|_| record("p")).collect();
    for key in &keys {
        add_key(&store, key, &[1; 32]);
    }
    let mut elsewhere = record("p");
    elsewhere.account = "111122223334".to_owned();
    add_key(&store, &elsewhere, &[1; 32]);
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let cut = Cut {
            after: after.as_deref(),
            limit: 2,
        };
        let page = store.keys_of(REGION, ACCOUNT, cut).unwrap();
        seen.extend(page.items.iter().map(|key| key.uuid));
        if !page.truncated {
            break;
        }
        after = page.items.last().map(|key| key.uuid.simple().to_string());
    }
    let mut all: Vec<Uuid> = keys.iter().map(|key| key.uuid).collect();
    all.sort_by_key(|id| id.simple().to_string());
    assert_eq!(seen, all);
}

#[test]
fn a_wrong_root_key_is_refused_and_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let root = Secret::random().unwrap();
    let store = Store::open(&path, &root).unwrap();
    let key = record("p");
    add_key(&store, &key, &[1; 32]);
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
    add_key(&store, &key, &[1; 32]);
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
    assert!(store.key(REGION, key.uuid).unwrap().is_some());
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
        add_key(&store, key, &[1; 32]);
    }
    add_alias(&store, &mine, "alias/a").unwrap();
    drop(store);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut keys = transaction.open_table(KEYS).unwrap();
        let theirs = keys
            .get(key_name(REGION, other.uuid).as_str())
            .unwrap()
            .unwrap()
            .value()
            .to_vec();
        keys.insert(key_name(REGION, mine.uuid).as_str(), theirs.as_slice())
            .unwrap();
        let mut materials = transaction.open_table(MATERIALS).unwrap();
        let name = material_name(REGION, other.uuid, &material_of(&other));
        let theirs = materials
            .get(name.as_slice())
            .unwrap()
            .unwrap()
            .value()
            .to_vec();
        let name = material_name(REGION, mine.uuid, &material_of(&mine));
        materials
            .insert(name.as_slice(), theirs.as_slice())
            .unwrap();
        let mut aliases = transaction.open_table(ALIASES).unwrap();
        let full = "us-east-1:111122223333:alias/a";
        let mut value = aliases.get(full).unwrap().unwrap().value().to_vec();
        let json = String::from_utf8(value.split_off(32)).unwrap();
        let (from, to) = (mine.uuid.to_string(), other.uuid.to_string());
        value.extend(json.replace(&from, &to).into_bytes());
        aliases.insert(full, value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let store = Store::open(&path, &root).unwrap();
    assert!(matches!(
        store.key(REGION, mine.uuid),
        Err(StoreError::Damaged(_))
    ));
    assert!(matches!(
        store.material_bytes(REGION, mine.uuid, &material_of(&mine)),
        Err(StoreError::Damaged(_))
    ));
    assert!(matches!(
        store.alias("us-east-1", "111122223333", "alias/a"),
        Err(StoreError::Damaged(_))
    ));
    assert!(store.key(REGION, other.uuid).unwrap().is_some());
}

#[test]
fn many_writers_share_commits_and_each_gets_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), &Secret::random().unwrap()).unwrap();
    let key = record("p");
    add_key(&store, &key, &[1; 32]);
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| usize::from(add_alias(&store, &key, "alias/one").is_ok())))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
}
