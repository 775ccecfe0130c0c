//! The key service over real HTTP: as its clients, its attackers and its auditors see it.

#![allow(
    clippy::format_collect,
    clippy::unnecessary_wraps,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod asymmetric;
mod attestation;
mod audit;
mod connections;
mod grants;
mod import;
mod keeping;
mod key_stores;
mod keys;
mod operations;
mod policies;
mod regions;
mod requests;
mod restart;
mod rotation;
mod sessions;
mod simulation;

use anchorhold_attestation::{Anchor, Pcr};
use anchorhold_kms::config::{
    DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY, DEV_OWNER_ACCESS_KEY_ID,
    DEV_OWNER_SECRET_ACCESS_KEY, Transport,
};
use anchorhold_kms::{Clock, Config, Running, Service};
use anchorhold_kms_wire::client::{Client, ClientError, Endpoint, Fixed, Limits, Tcp, TlsTrust};
use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_kms_wire::shapes::{
    CreateKeyRequest, EncryptRequest, EncryptionContext, Operation, RecipientInfo, SecretBlob,
};
use anchorhold_kms_wire::sigv4::Credentials;
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use serde_bytes::ByteBuf;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub(crate) type Calls = Client<Tcp, Fixed>;

/// The system's clock, moved by some seconds, or stopped.
#[derive(Default)]
pub(crate) struct MovedClock(AtomicI64, Mutex<Option<SystemTime>>);

impl MovedClock {
    pub(crate) fn stop(&self) {
        *self.1.lock().unwrap() = Some(SystemTime::now());
    }

    /// Moves a clock that is stopped.
    pub(crate) fn forward(&self, by: Duration) {
        let mut stopped = self.1.lock().unwrap();
        *stopped = stopped.map(|time| time + by);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> SystemTime {
        if let Some(stopped) = *self.1.lock().unwrap() {
            return stopped;
        }
        let seconds = self.0.load(Ordering::Relaxed);
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            SystemTime::now() - by
        } else {
            SystemTime::now() + by
        }
    }
}

/// A running service with a folder of its own.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) root: &'static DevelopmentRoot,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) running: Running,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = development_root();
        let clock = Arc::new(MovedClock::default());
        let mut config = Config::dev(folder.path(), vec![root.anchor()]);
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.transport = Transport::PlainHttp;
        config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        change(&mut config);
        let running = Service::start(config).await.unwrap();
        Self {
            folder,
            root,
            clock,
            running,
        }
    }

    /// Stops the service and starts it again on the same folder.
    pub(crate) async fn restarted(self) -> Self {
        self.running.shutdown().await;
        let running = Service::start(plain_config(self.folder.path(), self.root.anchor()))
            .await
            .unwrap();
        Self { running, ..self }
    }

    /// Stops the service and starts it again so many days later. Only its start takes place then:
    /// requests are signed by the machine's clock, and so the service returns to it.
    pub(crate) async fn restarted_later(self, days: i64) -> Self {
        self.running.shutdown().await;
        let mut config = plain_config(self.folder.path(), self.root.anchor());
        config.clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        self.clock.0.store(days * 86_400, Ordering::Relaxed);
        let running = Service::start(config).await.unwrap();
        self.clock.0.store(0, Ordering::Relaxed);
        Self { running, ..self }
    }

    pub(crate) fn owner(&self) -> Calls {
        self.client(DEV_OWNER_ACCESS_KEY_ID, DEV_OWNER_SECRET_ACCESS_KEY)
    }

    pub(crate) fn host(&self) -> Calls {
        self.client(DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY)
    }

    pub(crate) fn client(&self, id: &str, secret: &str) -> Calls {
        self.client_in("us-east-1", id, secret)
    }

    /// The owner, in another of the service's Regions.
    pub(crate) fn owner_in(&self, region: &str) -> Calls {
        self.client_in(region, DEV_OWNER_ACCESS_KEY_ID, DEV_OWNER_SECRET_ACCESS_KEY)
    }

    pub(crate) fn client_in(&self, region: &str, id: &str, secret: &str) -> Calls {
        let endpoint = Endpoint {
            url: self.running.url(),
            region: region.to_owned(),
            tls: TlsTrust::PlainHttp,
        };
        let secret = Zeroizing::new(secret.to_owned());
        Client::new(&endpoint, Tcp, Fixed::new(Credentials::new(id, secret)))
            .unwrap()
            .with_limits(Limits {
                attempts: 1,
                ..Limits::default()
            })
    }

    pub(crate) fn audit_path(&self) -> PathBuf {
        self.folder.path().join("audit.ndjson")
    }

    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_path()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn last_reason(&self) -> String {
        let lines = self.audit();
        let reason = lines.last().unwrap()["anchorhold"]["reason"].as_str();
        reason.unwrap_or("").to_owned()
    }

    /// A key with this policy (the default one where `None`), its ARN.
    pub(crate) async fn key(&self, policy: Option<String>) -> String {
        let created = self
            .owner()
            .call(&CreateKeyRequest {
                policy,
                ..CreateKeyRequest::default()
            })
            .await
            .unwrap();
        created.key_metadata.arn.unwrap()
    }

    /// A ciphertext of `plaintext` under a key that the owner may use.
    pub(crate) async fn ciphertext(
        &self,
        key: &str,
        plaintext: &[u8],
        context: EncryptionContext,
    ) -> Vec<u8> {
        let request = EncryptRequest {
            key_id: key.to_owned(),
            plaintext: secret(plaintext),
            encryption_context: context,
            ..EncryptRequest::default()
        };
        self.owner().call(&request).await.unwrap().ciphertext_blob.0
    }

    /// An attestation document of now, of an enclave with this PCR0 and public key.
    pub(crate) fn document(&self, pcr0: Pcr, public_key: &[u8]) -> Vec<u8> {
        document(
            self.root,
            enclave(pcr0),
            Some(public_key),
            SystemTime::now(),
        )
    }
}

pub(crate) fn plain_config(state: &std::path::Path, anchor: Anchor) -> Config {
    let mut config = Config::dev(state, vec![anchor]);
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.transport = Transport::PlainHttp;
    config
}

pub(crate) fn enclave(pcr0: Pcr) -> NsmConfig {
    NsmConfig {
        pcr0,
        pcr1: Pcr::from_bytes([1; 48]),
        pcr2: Pcr::from_bytes([2; 48]),
        ..NsmConfig::default()
    }
}

pub(crate) fn document(
    root: &DevelopmentRoot,
    config: NsmConfig,
    public_key: Option<&[u8]>,
    now: SystemTime,
) -> Vec<u8> {
    let nsm = Nsm::new(root, config, now).unwrap();
    let request = Request::Attestation {
        user_data: None,
        nonce: None,
        public_key: public_key.map(|key| ByteBuf::from(key.to_vec())),
    };
    let answer = nsm.handle(&serde_cbor::to_vec(&request).unwrap(), now);
    match serde_cbor::from_slice(&answer).unwrap() {
        Response::Attestation { document } => document,
        other => panic!("{other:?}"),
    }
}

/// The root of all simulated enclaves here.
pub(crate) fn development_root() -> &'static DevelopmentRoot {
    static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| DevelopmentRoot::generate().unwrap());
    &ROOT
}

/// Makes a key of this kind; its ARN.
pub(crate) async fn made(client: &Calls, request: CreateKeyRequest) -> String {
    let made = client.call(&request).await.unwrap();
    made.key_metadata.arn.unwrap()
}

/// One key pair for all tests, since making one takes long.
pub(crate) fn recipient_key() -> &'static RecipientKey {
    static KEY: LazyLock<RecipientKey> = LazyLock::new(|| RecipientKey::generate().unwrap());
    &KEY
}

pub(crate) fn measured() -> Pcr {
    Pcr::from_bytes([0xab; 48])
}

pub(crate) fn recipient(document: Vec<u8>) -> Option<RecipientInfo> {
    Some(RecipientInfo::new(document))
}

pub(crate) fn secret(bytes: &[u8]) -> SecretBlob {
    SecretBlob::new(Zeroizing::new(bytes.to_vec()))
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> EncryptionContext {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// The owner may do all but decrypt by name; the host may decrypt and make data keys for the enclave of this PCR0,
/// for which the development root vouches.
pub(crate) fn enclave_policy(pcr0: &str) -> String {
    let anchor = hex::encode(development_root().fingerprint());
    policy_with_conditions(&format!(
        r#""StringEquals":{{"anchorhold:Anchor":"{anchor}","kms:RecipientAttestation:ImageSha384":"{pcr0}"}}"#
    ))
}

/// The owner may do everything, also for any enclave under the simulator's root.
pub(crate) fn simulators_policy() -> String {
    let anchor = hex::encode(development_root().fingerprint());
    format!(
        r#"{{"Version":"2012-10-17","Statement":[
        {{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:root"}},"Action":"kms:*","Resource":"*"}},
        {{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/owner"}},"Action":"kms:*","Resource":"*",
          "Condition":{{"StringEquals":{{"anchorhold:Anchor":"{anchor}"}}}}}}]}}"#
    )
}

/// The same with other conditions for the host.
pub(crate) fn policy_with_conditions(conditions: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[
        {{"Sid":"Owner","Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/owner"}},
          "Action":["kms:DescribeKey","kms:GetKeyPolicy","kms:PutKeyPolicy","kms:CreateAlias","kms:Encrypt","kms:GenerateDataKey"],
          "Resource":"*"}},
        {{"Sid":"AllowEnclave","Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/host"}},
          "Action":["kms:Decrypt","kms:GenerateDataKey"],"Resource":"*",
          "Condition":{{{conditions}}}}}]}}"#
    )
}

/// Calls and expects AWS's error of this name; gives its message.
pub(crate) async fn refused<O: Operation>(client: &Calls, request: &O, kind: &str) -> String {
    match client.call(request).await {
        Ok(_) => panic!("{} was answered, {kind} was expected", O::NAME),
        Err(ClientError::Service {
            kind: found,
            message,
            request_id,
            ..
        }) => {
            assert_eq!(found, kind, "{message}");
            assert!(request_id.is_some());
            message
        }
        Err(other) => panic!("{}: {other}", O::NAME),
    }
}
