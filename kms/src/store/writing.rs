//! A change in the making: it sees what is there and says what is to be. Nothing of it counts
//! before the whole is on disk.

use super::reading::{self, ALL, Cut, scan};
use super::records::{self, AliasRecord, GrantRecord, KeyRecord, KeyStoreRecord, Kind};
use super::{
    ALIASES, ALIASES_OF_KEY, GRANTS, KEY_STORES, KEYS, KEYS_OF_ACCOUNT, Keys, MATERIAL_PURPOSE,
    MATERIALS, RETIRABLE, StoreError, alias_name, grant_name, key_name, key_store_name,
    material_name,
};
use crate::ciphertext::MaterialId;
use redb::{ReadableMultimapTable as _, WriteTransaction};
use uuid::Uuid;

/// The view and the pen of one change.
pub(crate) struct Writing<'a> {
    transaction: &'a WriteTransaction,
    keys: &'a Keys,
}

impl<'a> Writing<'a> {
    pub(super) fn new(transaction: &'a WriteTransaction, keys: &'a Keys) -> Self {
        Self { transaction, keys }
    }

    pub(crate) fn key(&self, region: &str, id: Uuid) -> Result<Option<KeyRecord>, StoreError> {
        reading::key(self.keys, &self.transaction.open_table(KEYS)?, region, id)
    }

    pub(crate) fn family(&self, id: Uuid) -> Result<Vec<KeyRecord>, StoreError> {
        reading::family(self.keys, &self.transaction.open_table(KEYS)?, id)
    }

    /// Adds a key, or replaces its record.
    pub(crate) fn put_key(&self, record: &KeyRecord) -> Result<(), StoreError> {
        let name = key_name(&record.region, record.uuid);
        let value = records::write(self.keys, Kind::Key, &name, record);
        let mut table = self.transaction.open_table(KEYS)?;
        let is_new = table.insert(name.as_str(), value.as_slice())?.is_none();
        if is_new {
            let mut index = self.transaction.open_table(KEYS_OF_ACCOUNT)?;
            index.insert(account_name(record).as_str(), ())?;
        }
        Ok(())
    }

    /// Removes a key and all that is its own: material, aliases, grants.
    pub(crate) fn remove_key(&self, record: &KeyRecord) -> Result<(), StoreError> {
        for material in &record.materials {
            self.remove_material(record, &material.id)?;
        }
        if let Some(id) = &record.custom_key_store
            && let Some(mut held_by) = self.key_store(&record.region, &record.account, id)?
        {
            // A token is no part of a transaction: its key is destroyed afterwards.
            let leftovers = record.materials.iter().map(|material| material.id);
            held_by.leftovers.extend(leftovers);
            self.put_key_store(&held_by)?;
        }
        let name = key_name(&record.region, record.uuid);
        let mut names: Vec<String> = Vec::new();
        {
            let index = self.transaction.open_multimap_table(ALIASES_OF_KEY)?;
            for full in index.get(name.as_str())? {
                names.push(full?.value().to_owned());
            }
        }
        for full in names {
            self.remove_alias_by_full_name(&full, &name)?;
        }
        for grant in self.grants_of(record)? {
            self.remove_grant(record, &grant)?;
        }
        let mut table = self.transaction.open_table(KEYS)?;
        table.remove(name.as_str())?;
        let mut index = self.transaction.open_table(KEYS_OF_ACCOUNT)?;
        index.remove(account_name(record).as_str())?;
        Ok(())
    }

    /// Seals material and keeps it.
    pub(crate) fn put_material(
        &self,
        record: &KeyRecord,
        id: &MaterialId,
        material: &[u8],
    ) -> Result<(), StoreError> {
        let name = material_name(&record.region, record.uuid, id);
        let sealed = self
            .keys
            .materials
            .seal(MATERIAL_PURPOSE, &name, material)?;
        let mut materials = self.transaction.open_table(MATERIALS)?;
        materials.insert(name.as_slice(), sealed.as_slice())?;
        Ok(())
    }

    pub(crate) fn remove_material(
        &self,
        record: &KeyRecord,
        id: &MaterialId,
    ) -> Result<(), StoreError> {
        let name = material_name(&record.region, record.uuid, id);
        let mut materials = self.transaction.open_table(MATERIALS)?;
        materials.remove(name.as_slice())?;
        Ok(())
    }

    pub(crate) fn key_store(
        &self,
        region: &str,
        account: &str,
        id: &str,
    ) -> Result<Option<KeyStoreRecord>, StoreError> {
        let table = self.transaction.open_table(KEY_STORES)?;
        reading::key_store(self.keys, &table, region, account, id)
    }

    pub(crate) fn key_stores(&self) -> Result<Vec<KeyStoreRecord>, StoreError> {
        let table = self.transaction.open_table(KEY_STORES)?;
        reading::key_stores(self.keys, &table, |_| true)
    }

    /// Adds a key store, or replaces its record.
    pub(crate) fn put_key_store(&self, record: &KeyStoreRecord) -> Result<(), StoreError> {
        let name = key_store_name(&record.region, &record.account, &record.id);
        let value = records::write(self.keys, Kind::KeyStore, &name, record);
        let mut table = self.transaction.open_table(KEY_STORES)?;
        table.insert(name.as_str(), value.as_slice())?;
        Ok(())
    }

    pub(crate) fn remove_key_store(&self, record: &KeyStoreRecord) -> Result<(), StoreError> {
        let name = key_store_name(&record.region, &record.account, &record.id);
        let mut table = self.transaction.open_table(KEY_STORES)?;
        table.remove(name.as_str())?;
        Ok(())
    }

    /// Whether any key has its material in this key store.
    pub(crate) fn holds_keys(&self, key_store: &KeyStoreRecord) -> Result<bool, StoreError> {
        let table = self.transaction.open_table(KEYS)?;
        let page = scan(
            &table,
            "",
            Cut {
                after: None,
                limit: 1,
            },
            |name, value| {
                let record: KeyRecord = records::read(self.keys, Kind::Key, name, value)?;
                let held = record.custom_key_store.as_ref() == Some(&key_store.id);
                Ok(held.then_some(()))
            },
        )?;
        Ok(!page.items.is_empty())
    }

    pub(crate) fn alias(
        &self,
        region: &str,
        account: &str,
        name: &str,
    ) -> Result<Option<AliasRecord>, StoreError> {
        let table = self.transaction.open_table(ALIASES)?;
        reading::alias(self.keys, &table, &alias_name(region, account, name))
    }

    /// Makes an alias of the key's account name the key. `name` begins with `alias/`.
    pub(crate) fn put_alias(
        &self,
        key: &KeyRecord,
        name: &str,
        alias: &AliasRecord,
    ) -> Result<(), StoreError> {
        let full = alias_name(&key.region, &key.account, name);
        let value = records::write(self.keys, Kind::Alias, &full, alias);
        let mut aliases = self.transaction.open_table(ALIASES)?;
        let mut index = self.transaction.open_multimap_table(ALIASES_OF_KEY)?;
        if let Some(old) = reading::alias(self.keys, &aliases, &full)? {
            index.remove(key_name(&key.region, old.key).as_str(), full.as_str())?;
        }
        aliases.insert(full.as_str(), value.as_slice())?;
        index.insert(key_name(&key.region, key.uuid).as_str(), full.as_str())?;
        Ok(())
    }

    pub(crate) fn remove_alias(
        &self,
        region: &str,
        account: &str,
        name: &str,
        alias: &AliasRecord,
    ) -> Result<(), StoreError> {
        self.remove_alias_by_full_name(
            &alias_name(region, account, name),
            &key_name(region, alias.key),
        )
    }

    fn remove_alias_by_full_name(&self, full: &str, key: &str) -> Result<(), StoreError> {
        let mut aliases = self.transaction.open_table(ALIASES)?;
        aliases.remove(full)?;
        let mut index = self.transaction.open_multimap_table(ALIASES_OF_KEY)?;
        index.remove(key, full)?;
        Ok(())
    }

    pub(crate) fn grants_of(&self, record: &KeyRecord) -> Result<Vec<GrantRecord>, StoreError> {
        let table = self.transaction.open_table(GRANTS)?;
        let prefix = grant_name(&record.region, record.uuid, "");
        let page = scan(&table, &prefix, ALL, |id, value| {
            let name = grant_name(&record.region, record.uuid, id);
            records::read(self.keys, Kind::Grant, &name, value).map(Some)
        })?;
        Ok(page.items)
    }

    pub(crate) fn grant(
        &self,
        record: &KeyRecord,
        id: &str,
    ) -> Result<Option<GrantRecord>, StoreError> {
        let table = self.transaction.open_table(GRANTS)?;
        let name = grant_name(&record.region, record.uuid, id);
        reading::grant(self.keys, &table, &name)
    }

    pub(crate) fn put_grant(
        &self,
        record: &KeyRecord,
        grant: &GrantRecord,
    ) -> Result<(), StoreError> {
        let name = grant_name(&record.region, record.uuid, &grant.id);
        let value = records::write(self.keys, Kind::Grant, &name, grant);
        let mut table = self.transaction.open_table(GRANTS)?;
        table.insert(name.as_str(), value.as_slice())?;
        if let Some(retiring) = &grant.retiring {
            let mut index = self.transaction.open_table(RETIRABLE)?;
            let of = record.uuid.simple().to_string();
            index.insert(
                retirable_name(record, retiring, grant).as_str(),
                of.as_str(),
            )?;
        }
        Ok(())
    }

    pub(crate) fn remove_grant(
        &self,
        record: &KeyRecord,
        grant: &GrantRecord,
    ) -> Result<(), StoreError> {
        let name = grant_name(&record.region, record.uuid, &grant.id);
        let mut table = self.transaction.open_table(GRANTS)?;
        table.remove(name.as_str())?;
        if let Some(retiring) = &grant.retiring {
            let mut index = self.transaction.open_table(RETIRABLE)?;
            index.remove(retirable_name(record, retiring, grant).as_str())?;
        }
        Ok(())
    }
}

fn account_name(record: &KeyRecord) -> String {
    format!(
        "{}:{}:{}",
        record.region,
        record.account,
        record.uuid.simple()
    )
}

fn retirable_name(record: &KeyRecord, retiring: &str, grant: &GrantRecord) -> String {
    format!("{}:{retiring}:{}", record.region, grant.id)
}
