//! What was read and checked once, kept for as long as nothing was written.
//!
//! An entry counts only for the generation of the store that it was read in; each commit begins a new one.
//! So a cache can never answer with what was before a change that was acknowledged.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

/// Entries at most; beyond, the cache begins anew.
const CAPACITY: usize = 4096;

pub(crate) struct Cache<K, V> {
    entries: RwLock<HashMap<K, (u64, V)>>,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            entries: RwLock::default(),
        }
    }

    /// What is kept of this generation, or what `read` gives. `generation` must have been asked for before
    /// anything is read.
    pub(crate) fn get_or<Q, E>(
        &self,
        key: &Q,
        generation: u64,
        read: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, value)) = entries.get(key)
                && *of == generation
            {
                return Ok(value.clone());
            }
        }
        let value = read()?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY && !entries.contains_key(key) {
            entries.clear();
        }
        entries.insert(key.to_owned(), (generation, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_entry_counts_for_its_generation_only() {
        let cache: Cache<String, u32> = Cache::new();
        let reads = Cell::new(0);
        let get = |generation| {
            cache
                .get_or("a", generation, || {
                    reads.set(reads.get() + 1);
                    Ok::<_, ()>(reads.get())
                })
                .unwrap()
        };
        assert_eq!((get(1), get(1), get(2), get(2)), (1, 1, 2, 2));
        // Somebody who asked before the change gets nothing newer than it asked for, and leaves nothing
        // that counts later.
        assert_eq!((get(1), get(2)), (3, 4));
        let failed = cache.get_or("b", 2, || Err(()));
        assert!(failed.is_err());
    }

    #[test]
    fn a_cache_is_bounded() {
        let cache: Cache<String, usize> = Cache::new();
        for i in 0..3 * CAPACITY {
            cache
                .get_or(&i.to_string()[..], 1, || Ok::<_, ()>(i))
                .unwrap();
        }
        assert!(cache.entries.read().unwrap().len() <= CAPACITY);
    }
}
