//! Custom key stores while the service runs: which tokens there are, and which of them are connected.
//!
//! The store says what is to be; here is what is open. A client never names a module or a token: it names a
//! cluster, which the configuration has tied to a token and to one account.

use crate::config::Cluster;
use crate::material::Link;
use crate::store::{KeyStoreRecord, Store, StoreError};
use anchorhold_kms_wire::shapes::{ConnectionErrorCode, ConnectionState};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) struct KeyStores {
    clusters: Vec<Cluster>,
    /// By the key stores' ids.
    links: Mutex<HashMap<String, Arc<Link>>>,
}

impl KeyStores {
    pub(crate) fn new(clusters: Vec<Cluster>) -> Self {
        Self {
            clusters,
            links: Mutex::default(),
        }
    }

    /// The cluster of this name, if it is the account's.
    pub(crate) fn cluster(&self, id: &str, account: &str) -> Option<&Cluster> {
        let mut all = self.clusters.iter();
        all.find(|cluster| cluster.id == id && cluster.account == account)
    }

    /// The clusters that share a trust anchor with this one, itself included.
    pub(crate) fn related<'a>(&'a self, to: &'a Cluster) -> impl Iterator<Item = &'a Cluster> {
        self.clusters.iter().filter(|cluster| {
            cluster.id == to.id
                || (to.trust_anchor.is_some() && cluster.trust_anchor == to.trust_anchor)
        })
    }

    /// The way to a key store's token; `None` where it is not connected. Nothing is opened yet.
    pub(crate) fn link(
        &self,
        store: &Store,
        region: &str,
        account: &str,
        id: &str,
    ) -> Result<Option<Arc<Link>>, StoreError> {
        let mut links = self.links();
        // Read under the lock: whoever disconnects it writes first and then takes the link away.
        let Some(record) = store.key_store(region, account, id)? else {
            return Ok(None);
        };
        if !record.connected || record.failure.is_some() {
            return Ok(None);
        }
        if let Some(link) = links.get(id) {
            return Ok(Some(Arc::clone(link)));
        }
        let Some(cluster) = self.cluster(&record.cluster, account) else {
            return Ok(None);
        };
        let password = store.open_password(&record)?;
        let link = Arc::new(Link::new(cluster.clone(), password));
        links.insert(id.to_owned(), Arc::clone(&link));
        Ok(Some(link))
    }

    /// Leaves the token, after what is under way there.
    pub(crate) fn forget(&self, id: &str) {
        let link = self.links().remove(id);
        drop(link);
    }

    /// How a key store is, as clients are told.
    pub(crate) fn state(
        &self,
        record: &KeyStoreRecord,
    ) -> (ConnectionState, Option<ConnectionErrorCode>) {
        if !record.connected {
            return (ConnectionState::Disconnected, None);
        }
        let link = self.links().get(&record.id).cloned();
        let failure = record
            .failure
            .clone()
            .or_else(|| link.as_ref()?.failure())
            .or_else(|| {
                let cluster = self.cluster(&record.cluster, &record.account);
                cluster
                    .is_none()
                    .then_some(ConnectionErrorCode::ClusterNotFound)
            });
        match failure {
            Some(code) => (ConnectionState::Failed, Some(code)),
            None if link.is_some() => (ConnectionState::Connected, None),
            None => (ConnectionState::Connecting, None),
        }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<String, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
