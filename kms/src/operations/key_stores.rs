//! Custom key stores: made, described, connected, changed, removed; and keys that are made in them.
//!
//! A token is no part of the store's transactions. So a key that is to be made in one is written down first, as
//! being created, and counts only when the token has made it; and a key that is deleted leaves a note of what
//! is still to be destroyed in the token. What was interrupted is brought to its end when the key store is
//! connected, and from time to time.

use super::pages::{Wanted, next};
use super::{Answer, Call, Key};
use crate::ciphertext::MaterialId;
use crate::limits::Checks;
use crate::material::{Link, TokenTrouble, is_final};
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::sealing::fill_random;
use crate::service::Core;
use crate::store::{ChangeError, KeyStoreRecord, MaterialRecord};
use anchorhold_kms_wire::shapes::{
    ConnectCustomKeyStoreRequest, ConnectCustomKeyStoreResponse, ConnectionErrorCode,
    ConnectionState, CreateCustomKeyStoreRequest, CreateCustomKeyStoreResponse, CustomKeyStoreType,
    CustomKeyStoresListEntry, DeleteCustomKeyStoreRequest, DeleteCustomKeyStoreResponse,
    DescribeCustomKeyStoresRequest, DescribeCustomKeyStoresResponse,
    DisconnectCustomKeyStoreRequest, DisconnectCustomKeyStoreResponse, KeyState, SecretText,
    Timestamp, UpdateCustomKeyStoreRequest, UpdateCustomKeyStoreResponse,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use zeroize::Zeroizing;

/// Key stores that an account may have in a Region.
const MOST: usize = 10;

fn absent(id: &str) -> Refusal {
    Refusal::new(
        "CustomKeyStoreNotFoundException",
        format!("The custom key store '{id}' does not exist."),
    )
}

fn wrong_state(message: impl Into<String>) -> Refusal {
    Refusal::new("CustomKeyStoreInvalidStateException", message)
}

fn not_connected(id: &str, state: &ConnectionState) -> Refusal {
    wrong_state(format!(
        "The custom key store '{id}' is in the state {state}; the operation is valid only in the state CONNECTED."
    ))
}

fn no_cluster(id: &str) -> Refusal {
    Refusal::new(
        "CloudHsmClusterNotFoundException",
        format!("The cluster '{id}' cannot be found."),
    )
    .because(format!(
        "no [[clusters]] of the configuration has the id {id:?} and this account"
    ))
}

/// DER of the one certificate in a PEM text.
fn certificate(pem: &str) -> Option<CertificateDer<'static>> {
    let found = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Certificate::from_der(&found).ok()?;
    Some(found)
}

fn check_id(checks: &mut Checks, id: &str) {
    checks.text("customKeyStoreId", id, 1, 64);
}

fn check_cluster(checks: &mut Checks, id: Option<&str>) {
    let Some(id) = id else { return };
    checks.text("cloudHsmClusterId", id, 19, 24);
    let name = id.strip_prefix("cluster-").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
    let matches = (11..=16).contains(&name.len()) && name.chars().all(plain);
    checks.pattern(
        "cloudHsmClusterId",
        id,
        matches,
        "cluster-[2-7a-zA-Z]{11,16}",
    );
}

fn check_password(checks: &mut Checks, password: Option<&SecretText>) {
    if let Some(password) = password {
        let length = password.expose().chars().count();
        checks.length("keyStorePassword", length, 7, 32);
    }
}

/// Whether a request speaks of external key stores.
macro_rules! is_external {
    ($r:expr) => {
        $r.xks_proxy_uri_endpoint.is_some()
            || $r.xks_proxy_uri_path.is_some()
            || $r.xks_proxy_vpc_endpoint_service_name.is_some()
            || $r.xks_proxy_vpc_endpoint_service_owner.is_some()
            || $r.xks_proxy_connectivity.is_some()
            || $r.xks_proxy_authentication_credential.is_some()
    };
}

fn external() -> Refusal {
    Refusal::unsupported("External key stores are not supported by this service.")
}

impl Call<'_> {
    /// A key store of the caller's, in this Region.
    pub(super) fn own_key_store(&self, id: &str) -> Result<KeyStoreRecord, Refusal> {
        let store = &self.core.store;
        store
            .key_store(self.region, self.account(), id)?
            .ok_or_else(|| absent(id))
    }

    fn authorize_key_store(&mut self, action: &str) -> Result<(), Refusal> {
        let context = self.context();
        self.authorize_without_key(action, "*", &context, None)
    }

    /// Changes a key store's record, after a check of the record as it then is.
    fn change_key_store(
        &self,
        id: &str,
        change: impl FnOnce(&mut KeyStoreRecord, &[KeyStoreRecord]) -> Result<(), Refusal>
        + Send
        + 'static,
    ) -> Result<(), Refusal> {
        let (region, account) = (self.region.to_owned(), self.account().to_owned());
        let id = id.to_owned();
        Ok(self.core.store.change(move |writing| {
            let found = writing.key_store(&region, &account, &id)?;
            let mut record = found.ok_or_else(|| absent(&id))?;
            let all = writing.key_stores()?;
            change(&mut record, &all)?;
            Ok(writing.put_key_store(&record)?)
        })?)
    }

    /// The cluster of a key's key store, for its metadata.
    pub(super) fn cluster_of(
        &self,
        record: &crate::store::KeyRecord,
    ) -> Result<Option<String>, Refusal> {
        let Some(id) = &record.custom_key_store else {
            return Ok(None);
        };
        let found = self
            .core
            .store
            .key_store(&record.region, &record.account, id)?;
        Ok(found.map(|found| found.cluster))
    }

    /// The token of a key store that is connected.
    fn connected(&self, record: &KeyStoreRecord) -> Result<Arc<Link>, Refusal> {
        let stores = &self.core.key_stores;
        let refused = || {
            let (state, code) = stores.state(record);
            let code = code.map_or(String::new(), |code| format!(" ({code})"));
            not_connected(&record.id, &state)
                .because(format!("the key store {} is {state}{code}", record.id))
        };
        let link = stores
            .link(
                &self.core.store,
                &record.region,
                &record.account,
                &record.id,
            )?
            .ok_or_else(refused)?;
        link.open().map_err(|_| refused())?;
        Ok(link)
    }

    /// Makes a key in a token. Whatever happens meanwhile: what is answered is there, and what is not answered
    /// is not used before the token was asked for it.
    pub(super) fn make_in_token(
        &self,
        key: &mut Key,
        key_store: &KeyStoreRecord,
    ) -> Result<(), Refusal> {
        let link = self.connected(key_store)?;
        let mut id = [0; 32];
        fill_random(&mut id)?;
        let id = MaterialId(id);
        key.record.material = Some(id);
        key.record.materials = vec![MaterialRecord::first(id)];
        let _making = link.making();
        let (record, held_by) = (key.record.clone(), key_store.clone());
        self.core.store.change(move |writing| {
            let (region, account) = (&held_by.region, &held_by.account);
            match writing.key_store(region, account, &held_by.id)? {
                None => Err(absent(&held_by.id).into()),
                Some(now) if !now.connected => {
                    Err(not_connected(&now.id, &ConnectionState::Disconnected).into())
                }
                Some(_) => Ok(writing.put_key(&record)?),
            }
        })?;
        let label = key.record.id().to_string();
        if let Err(trouble) = link.with(|vault| vault.make(&id, &label)) {
            // It may have been made all the same. Where that cannot be found out, the record stays for later.
            if link.with(|vault| vault.destroy(&id)).is_ok() {
                let record = key.record.clone();
                self.core
                    .store
                    .change(move |writing| Ok(writing.remove_key(&record)?))?;
            }
            return Err(not_made(&trouble));
        }
        let (region, of) = (key.record.region.clone(), key.record.uuid);
        key.record.state = KeyState::Enabled;
        self.core
            .store
            .change(move |writing| Ok(finish(writing, &region, of)?))?;
        Ok(())
    }

    /// Random bytes of a key store's token.
    pub(super) fn random_of(&self, id: &str, length: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let record = self.own_key_store(id)?;
        let link = self.connected(&record)?;
        link.with(|vault| vault.random(length))
            .map_err(|trouble| not_made(&trouble))
    }
}

fn not_made(trouble: &TokenTrouble) -> Refusal {
    match trouble {
        TokenTrouble::Busy => trouble.refusal("the custom key store"),
        TokenTrouble::Unusable(why) => {
            wrong_state("The custom key store's cluster did not answer.").because(why.clone())
        }
    }
}

/// The token has made the key.
fn finish(
    writing: &crate::store::Writing<'_>,
    region: &str,
    id: uuid::Uuid,
) -> Result<(), crate::store::StoreError> {
    if let Some(mut record) = writing.key(region, id)?
        && record.state == KeyState::Creating
    {
        record.state = KeyState::Enabled;
        writing.put_key(&record)?;
    }
    Ok(())
}

impl Answer for CreateCustomKeyStoreRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("customKeyStoreName", Some(&self.custom_key_store_name));
        shown.text("clusterId", self.cloud_hsm_cluster_id.as_deref());
        shown.name("customKeyStoreType", self.custom_key_store_type.as_ref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<CreateCustomKeyStoreResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("customKeyStoreName", &self.custom_key_store_name, 1, 256);
        check_cluster(&mut checks, self.cloud_hsm_cluster_id.as_deref());
        let anchor = self.trust_anchor_certificate.as_deref();
        checks.optional_text("trustAnchorCertificate", anchor, 1, 5000);
        check_password(&mut checks, self.key_store_password.as_ref());
        checks.optional_one_of("customKeyStoreType", self.custom_key_store_type.as_ref());
        checks.done()?;
        call.authorize_key_store("kms:CreateCustomKeyStore")?;
        let kind = self.custom_key_store_type.as_ref();
        if kind == Some(&CustomKeyStoreType::ExternalKeyStore) || is_external!(self) {
            return Err(external());
        }
        let required = |name: &str| {
            Refusal::validation(format!(
                "{name} is required for a custom key store of the type AWS_CLOUDHSM."
            ))
        };
        let cluster = self
            .cloud_hsm_cluster_id
            .as_deref()
            .ok_or_else(|| required("CloudHsmClusterId"))?;
        let anchor = anchor.ok_or_else(|| required("TrustAnchorCertificate"))?;
        let password = self
            .key_store_password
            .as_ref()
            .ok_or_else(|| required("KeyStorePassword"))?;
        let account = call.account().to_owned();
        let stores = &call.core.key_stores;
        let cluster = stores
            .cluster(cluster, &account)
            .ok_or_else(|| no_cluster(cluster))?;
        let presented = certificate(anchor);
        let fits = match (&presented, &cluster.trust_anchor) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(presented), Some(own)) => presented.as_ref() == own.as_slice(),
        };
        if !fits {
            return Err(Refusal::new(
                "IncorrectTrustAnchorException",
                "The trust anchor certificate is not that of the cluster.",
            ));
        }
        let mut random = [0; 9];
        fill_random(&mut random)?;
        let id = format!("cks-{}", &hex::encode(random)[..17]);
        let record = KeyStoreRecord {
            password: call.core.store.seal_password(&id, password.expose())?,
            id: id.clone(),
            region: call.region.to_owned(),
            account,
            name: self.custom_key_store_name.clone(),
            cluster: cluster.id.clone(),
            trust_anchor: anchor.to_owned(),
            created_ms: call.now_ms(),
            connected: false,
            failure: None,
            leftovers: Vec::new(),
        };
        // Those that share a trust anchor are copies of one another.
        let related: Vec<String> = stores.related(cluster).map(|c| c.id.clone()).collect();
        call.core.store.change(move |writing| {
            let all = writing.key_stores()?;
            check_name(&record, &all)?;
            if all.iter().any(|other| related.contains(&other.cluster)) {
                return Err(in_use(&record.cluster).into());
            }
            let own = all
                .iter()
                .filter(|other| other.region == record.region && other.account == record.account);
            if own.count() >= MOST {
                return Err(Refusal::new(
                    "LimitExceededException",
                    format!("An account may have at most {MOST} custom key stores in a Region."),
                )
                .into());
            }
            Ok(writing.put_key_store(&record)?)
        })?;
        Ok(CreateCustomKeyStoreResponse {
            custom_key_store_id: Some(id),
        })
    }
}

fn in_use(cluster: &str) -> Refusal {
    Refusal::new(
        "CloudHsmClusterInUseException",
        format!(
            "The cluster '{cluster}', or one that shares its trust anchor, belongs to a custom key store already."
        ),
    )
}

/// Names are each account's own.
fn check_name(record: &KeyStoreRecord, all: &[KeyStoreRecord]) -> Result<(), Refusal> {
    let taken = all.iter().any(|other| {
        other.id != record.id
            && other.name == record.name
            && other.account == record.account
            && other.region == record.region
    });
    if taken {
        return Err(Refusal::new(
            "CustomKeyStoreNameInUseException",
            format!(
                "The name '{}' belongs to another custom key store.",
                record.name
            ),
        ));
    }
    Ok(())
}

impl Answer for DescribeCustomKeyStoresRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("customKeyStoreId", self.custom_key_store_id.as_deref());
        shown.text("customKeyStoreName", self.custom_key_store_name.as_deref());
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DescribeCustomKeyStoresResponse, Refusal> {
        let (id, name) = (
            self.custom_key_store_id.as_deref(),
            self.custom_key_store_name.as_deref(),
        );
        let mut checks = Checks::new();
        checks.optional_text("customKeyStoreId", id, 1, 64);
        checks.optional_text("customKeyStoreName", name, 1, 256);
        checks.page(self.limit, self.marker.as_deref());
        checks.done()?;
        if id.is_some() && name.is_some() {
            return Err(Refusal::validation(
                "CustomKeyStoreId and CustomKeyStoreName cannot be used together.",
            ));
        }
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 100, 1000)?;
        call.authorize_key_store("kms:DescribeCustomKeyStores")?;
        let found = call.core.store.key_stores_where(|record| {
            record.region == call.region
                && record.account == call.account()
                && id.is_none_or(|id| id == record.id)
                && name.is_none_or(|name| name == record.name)
        })?;
        if let (Some(asked), true) = (id.or(name), found.is_empty()) {
            return Err(absent(asked));
        }
        let page = wanted.of(found, |record| record.id.clone());
        let stores = &call.core.key_stores;
        Ok(DescribeCustomKeyStoresResponse {
            next_marker: next(&page, |record| record.id.clone()),
            truncated: page.truncated,
            custom_key_stores: page
                .map(|record| {
                    let (state, code) = stores.state(&record);
                    CustomKeyStoresListEntry {
                        custom_key_store_id: Some(record.id),
                        custom_key_store_name: Some(record.name),
                        cloud_hsm_cluster_id: Some(record.cluster),
                        trust_anchor_certificate: Some(record.trust_anchor),
                        connection_state: Some(state),
                        connection_error_code: code,
                        creation_date: Some(Timestamp::from_millis(record.created_ms)),
                        custom_key_store_type: Some(CustomKeyStoreType::AwsCloudhsm),
                    }
                })
                .items,
        })
    }
}

macro_rules! shows_its_id {
    () => {
        fn show(&self, shown: &mut Shown) {
            shown.text("customKeyStoreId", Some(&self.custom_key_store_id));
        }
    };
}

impl Answer for ConnectCustomKeyStoreRequest {
    shows_its_id!();

    fn answer(&self, call: &mut Call<'_>) -> Result<ConnectCustomKeyStoreResponse, Refusal> {
        let id = self.custom_key_store_id.as_str();
        let mut checks = Checks::new();
        check_id(&mut checks, id);
        checks.done()?;
        call.authorize_key_store("kms:ConnectCustomKeyStore")?;
        let record = call.own_key_store(id)?;
        match call.core.key_stores.state(&record).0 {
            ConnectionState::Connected => return Ok(ConnectCustomKeyStoreResponse {}),
            ConnectionState::Failed => {
                return Err(wrong_state(format!(
                    "The custom key store '{id}' is in the state FAILED. Disconnect it before connecting it again."
                )));
            }
            _ => {}
        }
        call.change_key_store(id, |record, _| {
            record.connected = true;
            record.failure = None;
            Ok(())
        })?;
        // As at AWS, what comes of it is asked for by DescribeCustomKeyStores.
        if let Some(code) = connect(call.core, &record)? {
            tracing::warn!(key_store = id, %code, "a key store could not be connected");
            call.change_key_store(id, move |record, _| {
                if record.connected {
                    record.failure = Some(code);
                }
                Ok(())
            })?;
            call.core.key_stores.forget(id);
        }
        Ok(ConnectCustomKeyStoreResponse {})
    }
}

impl Answer for DisconnectCustomKeyStoreRequest {
    shows_its_id!();

    fn answer(&self, call: &mut Call<'_>) -> Result<DisconnectCustomKeyStoreResponse, Refusal> {
        let id = self.custom_key_store_id.as_str();
        let mut checks = Checks::new();
        check_id(&mut checks, id);
        checks.done()?;
        call.authorize_key_store("kms:DisconnectCustomKeyStore")?;
        call.change_key_store(id, |record, _| {
            if !record.connected {
                return Err(wrong_state(format!(
                    "The custom key store '{}' is in the state DISCONNECTED already.",
                    record.id
                )));
            }
            record.connected = false;
            record.failure = None;
            Ok(())
        })?;
        call.core.key_stores.forget(id);
        Ok(DisconnectCustomKeyStoreResponse {})
    }
}

impl Answer for UpdateCustomKeyStoreRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("customKeyStoreId", Some(&self.custom_key_store_id));
        let name = self.new_custom_key_store_name.as_deref();
        shown.text("newCustomKeyStoreName", name);
        shown.text("clusterId", self.cloud_hsm_cluster_id.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<UpdateCustomKeyStoreResponse, Refusal> {
        let id = self.custom_key_store_id.as_str();
        let mut checks = Checks::new();
        check_id(&mut checks, id);
        let name = self.new_custom_key_store_name.clone();
        checks.optional_text("newCustomKeyStoreName", name.as_deref(), 1, 256);
        check_cluster(&mut checks, self.cloud_hsm_cluster_id.as_deref());
        check_password(&mut checks, self.key_store_password.as_ref());
        checks.done()?;
        call.authorize_key_store("kms:UpdateCustomKeyStore")?;
        if is_external!(self) {
            return Err(external());
        }
        let now = call.own_key_store(id)?;
        let stores = &call.core.key_stores;
        let (state, _) = stores.state(&now);
        let only_name = self.key_store_password.is_none() && self.cloud_hsm_cluster_id.is_none();
        let may = match state {
            ConnectionState::Disconnected => true,
            ConnectionState::Connected => only_name,
            _ => false,
        };
        if !may {
            return Err(wrong_state(format!(
                "The custom key store '{id}' is in the state {state}. Disconnect it before changing it."
            )));
        }
        let account = call.account();
        let cluster = match self.cloud_hsm_cluster_id.as_deref() {
            None => None,
            Some(asked) if asked == now.cluster => None,
            Some(asked) => {
                let cluster = stores
                    .cluster(asked, account)
                    .ok_or_else(|| no_cluster(asked))?;
                let is_related = stores
                    .related(cluster)
                    .any(|related| related.id == now.cluster);
                if !is_related {
                    return Err(Refusal::new(
                        "CloudHsmClusterNotRelatedException",
                        format!("The cluster '{asked}' does not share the trust anchor of the custom key store's own."),
                    )
                    .because(format!(
                        "the configuration gives {asked} and {} no trust anchor in common",
                        now.cluster
                    )));
                }
                Some(cluster.id.clone())
            }
        };
        let password = match &self.key_store_password {
            None => None,
            Some(password) => Some(call.core.store.seal_password(id, password.expose())?),
        };
        call.change_key_store(id, move |record, all| {
            if record.connected && (password.is_some() || cluster.is_some()) {
                return Err(wrong_state(format!(
                    "The custom key store '{}' is not disconnected.",
                    record.id
                )));
            }
            if let Some(name) = name {
                record.name = name;
                check_name(record, all)?;
            }
            if let Some(cluster) = cluster {
                record.cluster = cluster;
            }
            if let Some(password) = password {
                record.password = password;
            }
            Ok(())
        })?;
        Ok(UpdateCustomKeyStoreResponse {})
    }
}

impl Answer for DeleteCustomKeyStoreRequest {
    shows_its_id!();

    fn answer(&self, call: &mut Call<'_>) -> Result<DeleteCustomKeyStoreResponse, Refusal> {
        let id = self.custom_key_store_id.clone();
        let mut checks = Checks::new();
        check_id(&mut checks, &id);
        checks.done()?;
        call.authorize_key_store("kms:DeleteCustomKeyStore")?;
        let (region, account) = (call.region.to_owned(), call.account().to_owned());
        let leftovers = call.core.store.change(move |writing| {
            let found = writing.key_store(&region, &account, &id)?;
            let record = found.ok_or_else(|| absent(&id))?;
            if writing.holds_keys(&record)? {
                return Err(Refusal::new(
                    "CustomKeyStoreHasCMKsException",
                    format!("The custom key store '{id}' holds KMS keys."),
                )
                .into());
            }
            if record.connected {
                return Err(wrong_state(format!(
                    "The custom key store '{id}' is not disconnected."
                ))
                .into());
            }
            writing.remove_key_store(&record)?;
            Ok(record.leftovers)
        })?;
        call.core.key_stores.forget(&self.custom_key_store_id);
        if !leftovers.is_empty() {
            let ids: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
            tracing::warn!(
                key_store = self.custom_key_store_id,
                ids = ids.join(" "),
                "keys that were deleted while their key store was disconnected are still in its token"
            );
        }
        Ok(DeleteCustomKeyStoreResponse {})
    }
}

/// Opens the token, and brings to its end what was interrupted. What stands in the way, if anything.
fn connect(core: &Core, record: &KeyStoreRecord) -> Result<Option<ConnectionErrorCode>, Refusal> {
    let (region, account) = (&record.region, &record.account);
    let stores = &core.key_stores;
    let Some(link) = stores.link(&core.store, region, account, &record.id)? else {
        let is_here = stores.cluster(&record.cluster, account).is_some();
        // Somebody has disconnected it meanwhile, or the configuration has lost its token.
        return Ok((!is_here).then_some(ConnectionErrorCode::ClusterNotFound));
    };
    if let Err(code) = link.open() {
        return Ok(Some(code));
    }
    settle(core, record, &link)?;
    Ok(None)
}

/// Keys that were being made when the service ended count if the token has them, else they never were; and
/// what deleted keys left in the token is destroyed.
fn settle(core: &Core, record: &KeyStoreRecord, link: &Link) -> Result<(), Refusal> {
    let _making = link.making();
    let failed = |trouble: TokenTrouble| trouble.refusal(&record.id);
    let creating = core.store.keys_where(|key| {
        key.custom_key_store.as_ref() == Some(&record.id) && key.state == KeyState::Creating
    })?;
    for key in creating {
        let made = match key.material {
            None => false,
            Some(id) => link.with(|vault| vault.holds(&id)).map_err(failed)?,
        };
        tracing::info!(key = %key.id(), made, "a key that was being made is settled");
        core.store.change(move |writing| {
            if made {
                return Ok(finish(writing, &key.region, key.uuid)?);
            }
            match writing.key(&key.region, key.uuid)? {
                Some(now) if now.state == KeyState::Creating => Ok(writing.remove_key(&now)?),
                _ => Ok(()),
            }
        })?;
    }
    let (region, account, id) = (&record.region, &record.account, &record.id);
    let Some(now) = core.store.key_store(region, account, id)? else {
        return Ok(());
    };
    if now.leftovers.is_empty() {
        return Ok(());
    }
    for leftover in &now.leftovers {
        link.with(|vault| vault.destroy(leftover)).map_err(failed)?;
    }
    core.store.change(move |writing| {
        if let Some(mut record) = writing.key_store(&now.region, &now.account, &now.id)? {
            record.leftovers.retain(|id| !now.leftovers.contains(id));
            writing.put_key_store(&record)?;
        }
        Ok::<_, ChangeError>(())
    })?;
    Ok(())
}

/// Opens the tokens of all key stores that are to be connected, and settles what was interrupted there.
pub(crate) fn tend(core: &Core) {
    let wanted = core
        .store
        .key_stores_where(|record| record.connected && record.failure.is_none());
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            tracing::error!(%error, "key stores could not be looked through");
            return;
        }
    };
    for record in wanted {
        let outcome = connect(core, &record).and_then(|failure| match failure {
            // Not tried again, even after a restart: tokens lock their user out.
            Some(code) if is_final(&code) => {
                let (region, account, id) = (
                    record.region.clone(),
                    record.account.clone(),
                    record.id.clone(),
                );
                core.store.change(move |writing| {
                    if let Some(mut now) = writing.key_store(&region, &account, &id)?
                        && now.connected
                    {
                        now.failure = Some(code);
                        writing.put_key_store(&now)?;
                    }
                    Ok::<_, ChangeError>(())
                })?;
                core.key_stores.forget(&record.id);
                Ok(())
            }
            _ => Ok(()),
        });
        if let Err(refusal) = outcome {
            tracing::warn!(
                key_store = record.id,
                reason = refusal.reason,
                "a key store's token could not be tended"
            );
        }
    }
}
