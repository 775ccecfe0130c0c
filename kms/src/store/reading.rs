//! Looking things up. Nothing is believed that does not carry its MAC.

use super::records::{self, AliasRecord, GrantRecord, KeyRecord, KeyStoreRecord, Kind};
use super::{
    ALIASES, ALIASES_OF_KEY, GRANTS, KEY_STORES, KEYS, KEYS_OF_ACCOUNT, Keys, MATERIAL_PURPOSE,
    MATERIALS, RETIRABLE, Store, StoreError, alias_name, grant_name, key_name, key_store_name,
    material_name,
};
use crate::ciphertext::MaterialId;
use crate::material::{Material, NotMaterial};
use redb::ReadableTable;
use std::ops::Bound;
use std::sync::Arc;
use uuid::Uuid;
use zeroize::Zeroizing;

/// A part of a list, and whether there is more.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) truncated: bool,
}

/// What a list is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'a> {
    /// Only what comes after this name.
    pub(crate) after: Option<&'a str>,
    pub(crate) limit: usize,
}

impl<T> Page<T> {
    pub(crate) fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(change).collect(),
            truncated: self.truncated,
        }
    }
}

/// Names that begin with a prefix, in order, with what stands under them.
pub(super) fn scan<V: redb::Value + 'static, T>(
    table: &impl ReadableTable<&'static str, V>,
    prefix: &str,
    cut: Cut<'_>,
    mut read: impl FnMut(&str, V::SelfType<'_>) -> Result<Option<T>, StoreError>,
) -> Result<Page<T>, StoreError> {
    let mut items = Vec::new();
    let from = format!("{prefix}{}", cut.after.unwrap_or_default());
    let range = table.range::<&str>((Bound::Included(from.as_str()), Bound::Unbounded))?;
    for entry in range {
        let (name, value) = entry?;
        let Some(rest) = name.value().strip_prefix(prefix) else {
            break;
        };
        if cut.after.is_some_and(|after| rest <= after) {
            continue;
        }
        let Some(item) = read(rest, value.value())? else {
            continue;
        };
        if items.len() == cut.limit {
            return Ok(Page {
                items,
                truncated: true,
            });
        }
        items.push(item);
    }
    Ok(Page {
        items,
        truncated: false,
    })
}

/// Everything, where nobody else sets a bound.
pub(super) const ALL: Cut<'_> = Cut {
    after: None,
    limit: usize::MAX,
};

pub(super) fn key(
    keys: &Keys,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    region: &str,
    id: Uuid,
) -> Result<Option<KeyRecord>, StoreError> {
    let name = key_name(region, id);
    match table.get(name.as_str())? {
        None => Ok(None),
        Some(value) => records::read(keys, Kind::Key, &name, value.value()).map(Some),
    }
}

/// The keys of one id in all Regions.
pub(super) fn family(
    keys: &Keys,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    id: Uuid,
) -> Result<Vec<KeyRecord>, StoreError> {
    let prefix = format!("{}:", id.simple());
    let page = scan(table, &prefix, ALL, |region, value| {
        records::read(keys, Kind::Key, &key_name(region, id), value).map(Some)
    })?;
    Ok(page.items)
}

pub(super) fn alias(
    keys: &Keys,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    full: &str,
) -> Result<Option<AliasRecord>, StoreError> {
    match table.get(full)? {
        None => Ok(None),
        Some(value) => records::read(keys, Kind::Alias, full, value.value()).map(Some),
    }
}

pub(super) fn grant(
    keys: &Keys,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<GrantRecord>, StoreError> {
    match table.get(name)? {
        None => Ok(None),
        Some(value) => records::read(keys, Kind::Grant, name, value.value()).map(Some),
    }
}

pub(super) fn key_store(
    keys: &Keys,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    region: &str,
    account: &str,
    id: &str,
) -> Result<Option<KeyStoreRecord>, StoreError> {
    let name = key_store_name(region, account, id);
    match table.get(name.as_str())? {
        None => Ok(None),
        Some(value) => records::read(keys, Kind::KeyStore, &name, value.value()).map(Some),
    }
}

/// All key stores for which something holds.
pub(super) fn key_stores(
    keys: &Keys,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    holds: impl Fn(&KeyStoreRecord) -> bool,
) -> Result<Vec<KeyStoreRecord>, StoreError> {
    let page = scan(table, "", ALL, |name, value| {
        let record: KeyStoreRecord = records::read(keys, Kind::KeyStore, name, value)?;
        Ok(holds(&record).then_some(record))
    })?;
    Ok(page.items)
}

impl Store {
    /// A key store of an account.
    pub(crate) fn key_store(
        &self,
        region: &str,
        account: &str,
        id: &str,
    ) -> Result<Option<KeyStoreRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(KEY_STORES)?;
        key_store(&self.keys, &table, region, account, id)
    }

    /// All key stores for which something holds, by Region, account and id.
    pub(crate) fn key_stores_where(
        &self,
        holds: impl Fn(&KeyStoreRecord) -> bool,
    ) -> Result<Vec<KeyStoreRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(KEY_STORES)?;
        key_stores(&self.keys, &table, holds)
    }

    pub(crate) fn key(&self, region: &str, id: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        let generation = self.database.generation();
        self.kept
            .records
            .get_or(&key_name(region, id), generation, || {
                let table = self.database.begin_read()?.open_table(KEYS)?;
                key(&self.keys, &table, region, id)
            })
    }

    /// The keys of one id in all Regions.
    pub(crate) fn family(&self, id: Uuid) -> Result<Vec<KeyRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(KEYS)?;
        family(&self.keys, &table, id)
    }

    /// The keys of an account, by their ids.
    pub(crate) fn keys_of(
        &self,
        region: &str,
        account: &str,
        cut: Cut<'_>,
    ) -> Result<Page<KeyRecord>, StoreError> {
        let transaction = self.database.begin_read()?;
        let index = transaction.open_table(KEYS_OF_ACCOUNT)?;
        let table = transaction.open_table(KEYS)?;
        scan(&index, &format!("{region}:{account}:"), cut, |id, ()| {
            let damaged = || StoreError::Damaged(format!("the keys of {account}"));
            let id = Uuid::try_parse(id).map_err(|_| damaged())?;
            let record = key(&self.keys, &table, region, id)?.ok_or_else(damaged)?;
            if record.account == account {
                Ok(Some(record))
            } else {
                Err(damaged())
            }
        })
    }

    /// All keys for which something holds.
    pub(crate) fn keys_where(
        &self,
        holds: impl Fn(&KeyRecord) -> bool,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(KEYS)?;
        let page = scan(&table, "", ALL, |name, value| {
            let record: KeyRecord = records::read(&self.keys, Kind::Key, name, value)?;
            Ok(holds(&record).then_some(record))
        })?;
        Ok(page.items)
    }

    /// One of a key's materials, ready to compute.
    pub(crate) fn material(
        &self,
        record: &KeyRecord,
        id: &MaterialId,
    ) -> Result<Option<Arc<Material>>, StoreError> {
        let name = material_name(&record.region, record.uuid, id);
        let generation = self.database.generation();
        self.kept.materials.get_or(&name, generation, || {
            let Some(bytes) = self.material_bytes(&record.region, record.uuid, id)? else {
                return Ok(None);
            };
            match Material::read(&record.spec, &bytes) {
                Ok(material) => Ok(Some(Arc::new(material))),
                Err(NotMaterial) => Err(StoreError::Damaged(format!(
                    "material of key {}",
                    record.id()
                ))),
            }
        })
    }

    /// The material itself: to be sealed again for another Region.
    pub(crate) fn material_bytes(
        &self,
        region: &str,
        key: Uuid,
        material: &MaterialId,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let name = material_name(region, key, material);
        let table = self.database.begin_read()?.open_table(MATERIALS)?;
        let Some(sealed) = table.get(name.as_slice())? else {
            return Ok(None);
        };
        let opened = self
            .keys
            .materials
            .open(MATERIAL_PURPOSE, &name, sealed.value());
        match opened {
            Some(material) => Ok(Some(material)),
            None => Err(StoreError::Damaged(format!("material of key {key}"))),
        }
    }

    /// What an alias names. `name` begins with `alias/`.
    pub(crate) fn alias(
        &self,
        region: &str,
        account: &str,
        name: &str,
    ) -> Result<Option<AliasRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(ALIASES)?;
        alias(&self.keys, &table, &alias_name(region, account, name))
    }

    /// The aliases of an account, by their names (`alias/…`).
    pub(crate) fn aliases(
        &self,
        region: &str,
        account: &str,
        cut: Cut<'_>,
        wanted: impl Fn(&AliasRecord) -> bool,
    ) -> Result<Page<(String, AliasRecord)>, StoreError> {
        let table = self.database.begin_read()?.open_table(ALIASES)?;
        let prefix = alias_name(region, account, "");
        scan(&table, &prefix, cut, |name, value| {
            let full = alias_name(region, account, name);
            let record: AliasRecord = records::read(&self.keys, Kind::Alias, &full, value)?;
            Ok(wanted(&record).then(|| (name.to_owned(), record)))
        })
    }

    /// The names, `alias/…`, that a key has in its account and Region.
    pub(crate) fn aliases_of(&self, record: &KeyRecord) -> Result<Vec<String>, StoreError> {
        let generation = self.database.generation();
        let name = key_name(&record.region, record.uuid);
        self.kept
            .aliases
            .get_or(&name, generation, || self.read_aliases_of(record))
    }

    fn read_aliases_of(&self, record: &KeyRecord) -> Result<Vec<String>, StoreError> {
        let transaction = self.database.begin_read()?;
        let index = transaction.open_multimap_table(ALIASES_OF_KEY)?;
        let prefix = alias_name(&record.region, &record.account, "");
        let mut names = Vec::new();
        let key = key_name(&record.region, record.uuid);
        let mut table = None;
        for full in index.get(key.as_str())? {
            let full = full?;
            let damaged = || StoreError::Damaged(format!("aliases of key {}", record.id()));
            let name = full.value().strip_prefix(&prefix).ok_or_else(damaged)?;
            let table = match &table {
                Some(table) => table,
                None => table.insert(transaction.open_table(ALIASES)?),
            };
            let alias = alias(&self.keys, table, full.value())?.ok_or_else(damaged)?;
            if alias.key != record.uuid {
                return Err(damaged());
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    /// A key's grants, by their ids.
    pub(crate) fn grants_of(
        &self,
        record: &KeyRecord,
        cut: Cut<'_>,
        wanted: impl Fn(&GrantRecord) -> bool,
    ) -> Result<Page<GrantRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(GRANTS)?;
        let prefix = grant_name(&record.region, record.uuid, "");
        scan(&table, &prefix, cut, |id, value| {
            let name = grant_name(&record.region, record.uuid, id);
            let record: GrantRecord = records::read(&self.keys, Kind::Grant, &name, value)?;
            Ok(wanted(&record).then_some(record))
        })
    }

    /// All of a key's grants.
    pub(crate) fn all_grants_of(&self, record: &KeyRecord) -> Result<Vec<GrantRecord>, StoreError> {
        if record.grants == 0 {
            return Ok(Vec::new());
        }
        Ok(self.grants_of(record, ALL, |_| true)?.items)
    }

    /// The grants in a Region that a principal may retire, with their keys, by the grants' ids.
    pub(crate) fn retirable(
        &self,
        region: &str,
        principal: &str,
        cut: Cut<'_>,
    ) -> Result<Page<(KeyRecord, GrantRecord)>, StoreError> {
        let transaction = self.database.begin_read()?;
        let index = transaction.open_table(RETIRABLE)?;
        let table = transaction.open_table(KEYS)?;
        let grants = transaction.open_table(GRANTS)?;
        scan(&index, &format!("{region}:{principal}:"), cut, |id, of| {
            let damaged = || StoreError::Damaged(format!("the grants that {principal} may retire"));
            let of = Uuid::try_parse(of).map_err(|_| damaged())?;
            let record = key(&self.keys, &table, region, of)?.ok_or_else(damaged)?;
            let name = grant_name(region, of, id);
            let grant = grant(&self.keys, &grants, &name)?.ok_or_else(damaged)?;
            if grant.retiring.as_deref() == Some(principal) {
                Ok(Some((record, grant)))
            } else {
                Err(damaged())
            }
        })
    }
}
