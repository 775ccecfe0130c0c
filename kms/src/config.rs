//! What the service is told before it starts.
//!
//! A configuration file is TOML; paths in it are relative to the file. Unknown keys are errors.
//! ```toml
//! state = "/var/lib/anchorhold-kms"      # store.redb, root.key, root.check, audit.ndjson
//! region = "us-east-1"                   # the Region that ARNs and signatures name
//! # more_regions = ["eu-west-1"]         # more that the service plays, for multi-Region keys
//! listen = "127.0.0.1:8443"
//! # plain_http = true                    # no TLS: on loopback addresses only
//!
//! [tls]                                  # required, unless plain_http
//! certificate = "server.pem"             # the chain, leaf first
//! key = "server.key"                     # PKCS#8; no mode bits for group and others
//!
//! [attestation]
//! # AWS's root is always an anchor. More of them, such as a simulator's root:
//! extra_anchors = []
//! max_document_age_seconds = 300
//! max_clock_skew_seconds = 60
//! # Let enclaves in debug mode, whose measurements are zero, satisfy conditions on measurements:
//! allow_debug = false
//!
//! [limits]
//! max_connections = 1024                 # beyond, a connection that has nothing running makes room
//! request_seconds = 30                   # for one request to arrive and be answered
//! idle_seconds = 60                      # for the next request on a connection to begin
//! drain_seconds = 10                     # for running requests at SIGTERM
//!
//! [root_key]                             # one of; none: the file root.key in the state folder
//! # file = "/etc/anchorhold-kms/root.key"
//! # passphrase_file = "passphrase"       # or passphrase_fd = 3, or passphrase_credential = "name" (systemd)
//! # argon2_memory_kib = 262144           # for a new store: memory, passes and lanes of Argon2id
//! # argon2_passes = 3
//! # argon2_lanes = 4
//! # [root_key.token]                     # a key in a PKCS#11 token
//! # module = "/usr/lib/softhsm/libsofthsm2.so"
//! # token = "label"
//! # key = "label"                        # an AES key, or an RSA key pair
//! # pin_file = "pin"                     # or pin_fd, or pin_credential
//!
//! [[clusters]]                           # tokens that custom key stores may be made of
//! id = "cluster-anchorhold22"            # CreateCustomKeyStore's CloudHsmClusterId
//! account = "111122223333"               # who may
//! module = "/usr/lib/softhsm/libsofthsm2.so"
//! token = "label"                        # its user's PIN is CreateCustomKeyStore's KeyStorePassword
//! # trust_anchor = "customerCA.crt"      # the TrustAnchorCertificate to present; without it any certificate will do
//!
//! [metrics]
//! listen = "127.0.0.1:9464"              # /metrics, /healthz and /readyz in plain HTTP; none without this
//!
//! [quotas]                               # requests a second of each account; what is absent is not limited
//! # symmetric = 10000                    # cryptographic operations by the kind of key, together
//! # rsa = 1000
//! # ecc = 1000
//! # ml_dsa = 1000
//! # management = 15                      # each other operation by itself
//! # [quotas.data_key_pairs]              # pairs of data keys by their KeyPairSpec; AWS's own: ECC_… 100, RSA_2048 1,
//! # RSA_4096 = 0.1                       # RSA_3072 0.5, RSA_4096 0.1
//! # [quotas.operations]                  # operations with a quota of their own
//! # CreateKey = 5
//!
//! [audit]
//! sync = "interval"                      # on the disk 0.2 s after the answer at the latest; "each-line": before it
//! max_file_mib = 256                     # then a new file is begun
//!
//! [[accounts]]
//! id = "111122223333"
//! # root = { access_keys = [{ id = "…", secret_file = "…" }] }
//!
//! [[accounts.users]]
//! name = "owner"                         # path = "/team/"
//! policies = ["owner.json"]              # identity policies, and in the file itself:
//! inline_policies.look = '''{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Describe*","Resource":"*"}}'''
//! permissions_boundary = "boundary.json" # at most this
//! tags = { team = "blue" }               # aws:PrincipalTag/team
//! access_keys = [{ id = "AKIAEXAMPLE000000000", secret_file = "owner.secret" }]   # no mode bits for group and others
//!
//! [[accounts.roles]]
//! name = "Host"                          # with path, policies, boundary and tags as a user has them
//!
//! [[accounts.roles.sessions]]
//! name = "i-01"                          # arn:aws:sts::111122223333:assumed-role/Host/i-01
//! access_key = { id = "ASIAEXAMPLE000000000", secret_file = "i-01.secret" }
//! session_token_file = "i-01.token"
//! policies = ["session.json"]            # session policies: at most this
//! issued = 2026-01-01T00:00:00Z          # aws:TokenIssueTime
//! expires = 2027-01-01T00:00:00Z
//! ```

mod clusters;
mod principals;
mod root_key;

pub use crate::quota::Quotas;
pub use clusters::Cluster;
pub use principals::Place;
pub use root_key::{Argon2Cost, RootKey, SecretSource, TokenKey};

use crate::audit::{AuditSettings, Durability};
use crate::clock::{Clock, SystemClock};
use crate::identity::Identity;
use crate::policy::{IdentityPolicy, Kind, Policy, PolicyError, Principal};
use anchorhold_attestation::{Anchor, AnchorError};
use anchorhold_kms_wire::shapes::DataKeyPairSpec;
use root_key::RootKeyTable;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use zeroize::Zeroizing;

/// What the service is told before it starts.
pub struct Config {
    /// How the audit log is kept.
    pub audit: AuditSettings,
    /// The Region that ARNs and signatures name.
    pub region: String,
    /// More Regions that the service plays, each with keys of its own. A request's signature says
    /// which one is meant.
    pub more_regions: Vec<String>,
    /// Where to listen. Port 0: any that is free.
    pub listen: SocketAddr,
    /// With or without TLS.
    pub transport: Transport,
    /// The folder for store, root key and audit log.
    pub state: PathBuf,
    /// Roots that attestation documents may chain to.
    pub anchors: Vec<Anchor>,
    /// The oldest that an attestation document may be; AWS publishes no figure.
    pub max_document_age: Duration,
    /// How far an attestation document's time may lie in the future.
    pub max_clock_skew: Duration,
    /// Whether measurements of zero, as enclaves in debug mode have them, count as values.
    /// Otherwise they count as absent, so that no condition on a measurement is met by them.
    pub allow_debug: bool,
    /// Bounds for connections.
    pub limits: Limits,
    /// What unlocks the store.
    pub root_key: RootKey,
    /// Tokens that custom key stores may be made of.
    pub clusters: Vec<Cluster>,
    /// Where health and metrics are served. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Requests a second of each account.
    pub quotas: Quotas,
    /// Who may call.
    pub identities: Vec<Identity>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// With or without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Plain HTTP, on loopback addresses only.
    PlainHttp,
    /// TLS with this certificate chain and key (PEM files).
    Tls {
        /// Leaf first.
        certificate: PathBuf,
        /// PKCS#8.
        key: PathBuf,
    },
    /// TLS with a certificate for `localhost`, 127.0.0.1 and `::1` that the service makes on its
    /// first start, under a CA of its own: `ca.pem`, `server.pem`, `server.key` in the state
    /// folder. The CA's key is not kept.
    DevelopmentTls,
}

/// Bounds for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// For one request to arrive and be answered.
    pub request: Duration,
    /// For the next request on a connection to begin and bring its headers.
    pub idle: Duration,
    /// For running requests at shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            request: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

/// The development account's number.
pub const DEV_ACCOUNT: &str = "111122223333";
/// The development account's Region.
pub const DEV_REGION: &str = "us-east-1";
/// More Regions that the development preset plays: those that clients' tests are fond of.
pub const DEV_MORE_REGIONS: [&str; 13] = [
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "ca-central-1",
    "sa-east-1",
    "eu-west-1",
    "eu-west-2",
    "eu-central-1",
    "eu-north-1",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
];
/// The access key of the development account's user `owner`, who may do everything that key
/// policies leave to the account.
pub const DEV_OWNER_ACCESS_KEY_ID: &str = "AKIDANCHORHOLDOWNER0";
/// Its secret, which is public: for development only.
pub const DEV_OWNER_SECRET_ACCESS_KEY: &str = "anchorhold-owner-secret-for-development-only";
/// The access key of the development account's user `host`, who has no policy of its own: it may
/// do what key policies give it by name.
pub const DEV_HOST_ACCESS_KEY_ID: &str = "AKIDANCHORHOLDHOST00";
/// Its secret, which is public: for development only.
pub const DEV_HOST_SECRET_ACCESS_KEY: &str = "anchorhold-host-secret-for-development-only";

const OWNER_POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"All","Effect":"Allow","Action":"kms:*","Resource":"*"}]}"#;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not as it should be. Shows line and column.
    #[error("{path}: {source}")]
    Toml {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Neither TLS nor an explicit wish to go without.
    #[error(
        "{0}: give [tls] with certificate and key, or set plain_http = true on a loopback address"
    )]
    NoTransport(PathBuf),
    /// Both TLS and a wish to go without.
    #[error("{0}: [tls] and plain_http exclude each other")]
    BothTransports(PathBuf),
    /// Not an anchor.
    #[error("{path}: {source}")]
    Anchor {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: AnchorError,
    },
    /// A value that cannot be used.
    #[error("{place}: {why}")]
    At {
        /// File, line and column.
        place: Place,
        /// Which value, and what it should be.
        why: String,
    },
    /// Not an identity policy.
    #[error("{place}: the inline policy {name:?}: {source}")]
    InlinePolicy {
        /// File, line and column.
        place: Place,
        /// Its name.
        name: String,
        /// Why.
        source: Box<PolicyError>,
    },
    /// A secret that others may read.
    #[error("{path} has mode {mode:03o}, so that others may read it; run: chmod 600 {path}")]
    SecretMode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret without content.
    #[error("{0} is empty")]
    EmptySecret(PathBuf),
    /// Not an identity policy.
    #[error("{path}: {source}")]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: PolicyError,
    },
    /// A Region that cannot stand in an ARN.
    #[error("{0:?} is not a Region's name")]
    Region(String),
    /// Not one source of the root key.
    #[error(
        "{0}: [root_key] takes one of file, passphrase_file, passphrase_fd, passphrase_credential and [root_key.token], and a token one of pin_file, pin_fd and pin_credential"
    )]
    RootKey(PathBuf),
    /// A passphrase that would be stretched too little or too much.
    #[error("{0}: Argon2id takes 8192 to 4194304 KiB, 1 to 64 passes and 1 to 16 lanes here")]
    Argon2(PathBuf),
    /// A cluster that cannot be used.
    #[error("[[clusters]] {id:?}: {why}")]
    Cluster {
        /// Its id.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A quota for what is no operation.
    #[error("[quotas.operations]: AWS KMS has no operation {0:?}")]
    Operation(String),
    /// A quota for what is no pair of data keys.
    #[error("[quotas.data_key_pairs]: AWS KMS has no KeyPairSpec {0:?}")]
    PairSpec(String),
    /// A limit of zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: PathBuf,
    region: String,
    #[serde(default)]
    more_regions: Vec<String>,
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    #[serde(default)]
    plain_http: bool,
    tls: Option<TlsTable>,
    #[serde(default)]
    attestation: AttestationTable,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    root_key: RootKeyTable,
    #[serde(default)]
    clusters: Vec<clusters::ClusterTable>,
    metrics: Option<MetricsTable>,
    #[serde(default)]
    quotas: QuotasTable,
    #[serde(default)]
    audit: AuditTable,
    #[serde(default)]
    accounts: Vec<principals::AccountTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AuditTable {
    sync: Sync,
    max_file_mib: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Sync {
    Interval,
    EachLine,
}

impl Default for AuditTable {
    fn default() -> Self {
        Self {
            sync: Sync::Interval,
            max_file_mib: 256,
        }
    }
}

impl AuditTable {
    fn settings(&self) -> Result<AuditSettings, ConfigError> {
        if self.max_file_mib == 0 {
            return Err(ConfigError::Zero("max_file_mib"));
        }
        Ok(AuditSettings {
            durability: match self.sync {
                Sync::Interval => Durability::Interval,
                Sync::EachLine => Durability::EachLine,
            },
            file_bytes: u64::from(self.max_file_mib) << 20,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AttestationTable {
    extra_anchors: Vec<PathBuf>,
    max_document_age_seconds: u32,
    max_clock_skew_seconds: u32,
    allow_debug: bool,
}

impl Default for AttestationTable {
    fn default() -> Self {
        Self {
            extra_anchors: Vec::new(),
            max_document_age_seconds: 300,
            max_clock_skew_seconds: 60,
            allow_debug: false,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    max_connections: usize,
    request_seconds: u32,
    idle_seconds: u32,
    drain_seconds: u32,
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            request_seconds: 30,
            idle_seconds: 60,
            drain_seconds: 10,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsTable {
    listen: SocketAddr,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct QuotasTable {
    symmetric: Option<u32>,
    rsa: Option<u32>,
    ecc: Option<u32>,
    ml_dsa: Option<u32>,
    management: Option<u32>,
    data_key_pairs: BTreeMap<String, f64>,
    operations: BTreeMap<String, u32>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8443))
}

impl Config {
    /// Reads a configuration file and all that it names.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and what to do.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let file: File = toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        let transport = match (file.tls, file.plain_http) {
            (Some(tls), false) => {
                let key = base.join(tls.key);
                check_private(&key)?;
                Transport::Tls {
                    certificate: base.join(tls.certificate),
                    key,
                }
            }
            (None, true) => Transport::PlainHttp,
            (None, false) => return Err(ConfigError::NoTransport(path.to_owned())),
            (Some(_), true) => return Err(ConfigError::BothTransports(path.to_owned())),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        for region in file.more_regions.iter().chain([&file.region]) {
            if region.is_empty() || !region.chars().all(plain) {
                return Err(ConfigError::Region(region.clone()));
            }
        }
        let mut anchors = vec![Anchor::aws_nitro()];
        for anchor in file.attestation.extra_anchors {
            let path = base.join(anchor);
            let anchor = Anchor::from_pem(&read(&path)?)
                .map_err(|source| ConfigError::Anchor { path, source })?;
            anchors.push(anchor);
        }
        for (name, value) in [
            ("max_connections", file.limits.max_connections),
            ("request_seconds", file.limits.request_seconds as usize),
            ("idle_seconds", file.limits.idle_seconds as usize),
            ("drain_seconds", file.limits.drain_seconds as usize),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
        }
        let root_key = file.root_key.read(path, base)?;
        let clusters = clusters::read(file.clusters, base)?;
        let quotas = quotas(file.quotas)?;
        let source = principals::Source { path, text: &text };
        let identities = source.identities(file.accounts)?;
        Ok(Self {
            region: file.region,
            more_regions: file.more_regions,
            listen: file.listen,
            transport,
            state: base.join(file.state),
            anchors,
            audit: file.audit.settings()?,
            max_document_age: seconds(file.attestation.max_document_age_seconds),
            max_clock_skew: seconds(file.attestation.max_clock_skew_seconds),
            allow_debug: file.attestation.allow_debug,
            limits: Limits {
                max_connections: file.limits.max_connections,
                request: seconds(file.limits.request_seconds),
                idle: seconds(file.limits.idle_seconds),
                drain: seconds(file.limits.drain_seconds),
            },
            root_key,
            clusters,
            metrics: file.metrics.map(|table| table.listen),
            quotas,
            identities,
            clock: Arc::new(SystemClock),
        })
    }

    /// For development: one account ([`DEV_ACCOUNT`]), two users with published credentials, TLS
    /// under a CA made on the first start, state in `state`. AWS's root and `anchors` count.
    pub fn dev(state: &Path, anchors: Vec<Anchor>) -> Self {
        let user = |name: &str, id: &str, secret: &str, policies: Vec<IdentityPolicy>| Identity {
            policies: policies.into(),
            ..Identity::new(
                Principal::from_arn(&format!("arn:aws:iam::{DEV_ACCOUNT}:user/{name}"))
                    .expect("the ARN is well formed"),
                id,
                secret,
            )
        };
        let owner_policy = IdentityPolicy {
            name: "owner".to_owned(),
            policy: Policy::parse(OWNER_POLICY, Kind::Identity).expect("the policy is well formed"),
        };
        let mut all = vec![Anchor::aws_nitro()];
        all.extend(anchors);
        Self {
            region: DEV_REGION.to_owned(),
            more_regions: DEV_MORE_REGIONS.iter().map(|r| (*r).to_owned()).collect(),
            listen: default_listen(),
            transport: Transport::DevelopmentTls,
            state: state.to_owned(),
            anchors: all,
            max_document_age: seconds(300),
            max_clock_skew: seconds(60),
            allow_debug: false,
            audit: AuditSettings::default(),
            limits: Limits::default(),
            root_key: RootKey::InState,
            clusters: Vec::new(),
            metrics: None,
            quotas: Quotas::default(),
            identities: vec![
                user(
                    "owner",
                    DEV_OWNER_ACCESS_KEY_ID,
                    DEV_OWNER_SECRET_ACCESS_KEY,
                    vec![owner_policy],
                ),
                user(
                    "host",
                    DEV_HOST_ACCESS_KEY_ID,
                    DEV_HOST_SECRET_ACCESS_KEY,
                    Vec::new(),
                ),
            ],
            clock: Arc::new(SystemClock),
        }
    }
}

fn quotas(table: QuotasTable) -> Result<Quotas, ConfigError> {
    let given = [
        ("quotas.symmetric", table.symmetric),
        ("quotas.rsa", table.rsa),
        ("quotas.ecc", table.ecc),
        ("quotas.ml_dsa", table.ml_dsa),
        ("quotas.management", table.management),
    ];
    for (name, quota) in given {
        if quota == Some(0) {
            return Err(ConfigError::Zero(name));
        }
    }
    for (operation, quota) in &table.operations {
        if crate::metrics::known(operation) != operation {
            return Err(ConfigError::Operation(operation.clone()));
        }
        if *quota == 0 {
            return Err(ConfigError::Zero("a quota in [quotas.operations]"));
        }
    }
    for (spec, quota) in &table.data_key_pairs {
        if !DataKeyPairSpec::from(spec.as_str()).is_known() {
            return Err(ConfigError::PairSpec(spec.clone()));
        }
        if !(quota.is_finite() && *quota > 0.0) {
            return Err(ConfigError::Zero("a quota in [quotas.data_key_pairs]"));
        }
    }
    Ok(Quotas {
        data_key_pairs: table.data_key_pairs,
        symmetric: table.symmetric,
        rsa: table.rsa,
        ecc: table.ecc,
        ml_dsa: table.ml_dsa,
        management: table.management,
        operations: table.operations,
    })
}

fn seconds(n: u32) -> Duration {
    Duration::from_secs(u64::from(n))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

fn check_private(path: &Path) -> Result<(), ConfigError> {
    let metadata = fs::metadata(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(ConfigError::SecretMode {
            path: path.to_owned(),
            mode,
        })
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    check_private(path)?;
    let text = Zeroizing::new(read(path)?);
    let secret = Zeroizing::new(text.trim_end().to_owned());
    if secret.is_empty() {
        return Err(ConfigError::EmptySecret(path.to_owned()));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write("owner.secret", "a secret\n", 0o600);
            folder.write("owner.json", OWNER_POLICY, 0o644);
            folder
        }
        fn write(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fn read(&self, text: &str) -> Result<Config, ConfigError> {
            self.write("kms.toml", text, 0o644);
            Config::from_file(&self.0.path().join("kms.toml"))
        }
    }

    const ACCOUNT: &str = r#"
[[accounts]]
id = "111122223333"

[[accounts.users]]
name = "owner"
path = "/team/"
policies = ["owner.json"]
tags = { team = "blue" }
access_keys = [{ id = "AKIAEXAMPLE000000000", secret_file = "owner.secret" }]

[[accounts.roles]]
name = "Host"
path = "/service/"
tags = { team = "red", stage = "test" }

[[accounts.roles.sessions]]
name = "i-01"
access_key = { id = "ASIAEXAMPLE000000000", secret_file = "owner.secret" }
session_token_file = "owner.secret"
tags = { team = "green" }
issued = 2026-01-01T00:00:00Z
expires = 2027-01-01T00:00:00+01:00
"#;

    #[test]
    fn a_whole_file_is_read() {
        let folder = Folder::new();
        let text = format!(
            "state = \"state\"\nregion = \"eu-west-1\"\nplain_http = true\n\
             [attestation]\nmax_document_age_seconds = 60\n\
             [audit]\nsync = \"each-line\"\nmax_file_mib = 1\n{ACCOUNT}"
        );
        let config = folder.read(&text).unwrap();
        assert_eq!(config.region, "eu-west-1");
        assert_eq!(config.transport, Transport::PlainHttp);
        assert_eq!(config.state, folder.0.path().join("state"));
        assert_eq!(config.max_document_age, Duration::from_secs(60));
        assert_eq!(config.anchors, [Anchor::aws_nitro()]);
        assert_eq!(config.audit.durability, Durability::EachLine);
        assert_eq!(config.audit.file_bytes, 1 << 20);
        assert!(!config.allow_debug);
        let [owner, session] = config.identities.as_slice() else {
            panic!("{} identities", config.identities.len());
        };
        assert_eq!(*owner.secret_access_key, "a secret");
        assert_eq!(
            owner.principal.arn(),
            "arn:aws:iam::111122223333:user/team/owner"
        );
        assert_eq!(owner.policies.policies[0].name, "owner");
        assert_eq!(owner.tags["team"], "blue");
        assert!(owner.session_token.is_none() && owner.expires.is_none());
        assert_eq!(
            session.principal.arn(),
            "arn:aws:sts::111122223333:assumed-role/Host/i-01"
        );
        assert_eq!(
            session.principal.principal_arn(),
            "arn:aws:iam::111122223333:role/service/Host"
        );
        assert_eq!(session.tags["team"], "green");
        assert_eq!(session.tags["stage"], "test");
        let seconds = |time: std::time::SystemTime| {
            time.duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        assert_eq!(session.issued.map(seconds), Some(1_767_225_600));
        assert_eq!(session.expires.map(seconds), Some(1_798_758_000));
    }

    #[test]
    fn errors_name_the_line_and_the_key() {
        let folder = Folder::new();
        let Err(error) = folder.read("state = \"s\"\nregion = \"r\"\nplain_htpp = true\n") else {
            panic!("accepted");
        };
        let text = error.to_string();
        assert!(text.contains("line 3"), "{text}");
        assert!(text.contains("plain_htpp"), "{text}");
    }

    #[test]
    fn what_is_unsafe_or_senseless_is_refused() {
        let folder = Folder::new();
        folder.write("open.secret", "x", 0o644);
        folder.write("empty.secret", "\n", 0o600);
        folder.write("bad.json", "{}", 0o644);
        let base = "state = \"s\"\nregion = \"us-east-1\"\nplain_http = true\n";
        let with = |from: &str, to: &str| format!("{base}{}", ACCOUNT.replacen(from, to, 1));
        for text in [
            "state = \"s\"\nregion = \"us-east-1\"\n".to_owned(),
            "state = \"s\"\nregion = \"US:1\"\nplain_http = true\n".to_owned(),
            format!("{base}[limits]\nmax_connections = 0\n"),
            format!("{base}[limits]\ndrain_seconds = 0\n"),
            format!("{base}[quotas]\nrsa = 0\n"),
            format!("{base}[quotas.operations]\nMakeKey = 1\n"),
            format!("{base}[quotas.data_key_pairs]\nRSA_1024 = 1\n"),
            format!("{base}[quotas.data_key_pairs]\nRSA_2048 = 0\n"),
            format!(
                "{base}[[clusters]]\nid = \"x\"\naccount = \"111122223333\"\nmodule = \"m\"\ntoken = \"t\"\n"
            ),
            format!("{base}[metrics]\nlisten = \"nowhere\"\n"),
            format!("{base}[root_key]\nfile = \"a\"\npassphrase_file = \"b\"\n"),
            format!("{base}[root_key]\npassphrase = \"in the open\"\n"),
            format!("{base}[root_key]\npassphrase_fd = 3\nargon2_memory_kib = 16\n"),
            format!("{base}[root_key]\npassphrase_credential = \"../x\"\n"),
            format!("{base}[root_key.token]\nmodule = \"m\"\ntoken = \"t\"\nkey = \"k\"\n"),
            format!("{base}[audit]\nmax_file_mib = 0\n"),
            format!("{base}[audit]\nsync = \"never\"\n"),
            format!("{base}[attestation]\nextra_anchors = [\"owner.json\"]\n"),
            format!("{base}[attestation]\nskip = true\n"),
            with("owner.secret", "open.secret"),
            with("owner.secret", "empty.secret"),
            with("owner.secret", "absent.secret"),
            with("session_token_file = \"owner.secret\"", ""),
        ] {
            assert!(folder.read(&text).is_err(), "{text}");
        }
        assert!(folder.read(&with("", "")).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_principal_is_named_with_line_and_column() {
        let folder = Folder::new();
        folder.write("bad.json", "{}", 0o644);
        let base = "state = \"s\"\nregion = \"us-east-1\"\nplain_http = true\n";
        for (from, to, words) in [
            (
                "\"111122223333\"",
                "\"1111\"",
                "kms.toml:6:6: \"1111\" is not an account",
            ),
            (
                "\"owner\"",
                "\"own/er\"",
                "kms.toml:9:8: \"own/er\" is not a name",
            ),
            (
                "\"/team/\"",
                "\"team\"",
                "kms.toml:10:8: \"team\" is not a path",
            ),
            ("owner.json", "absent.json", "kms.toml:11:13: "),
            ("owner.json", "bad.json", "bad.json: "),
            (
                "AKIAEXAMPLE000000000",
                "AKIA/0000000000000",
                "kms.toml:13:23: ",
            ),
            (
                "AKIAEXAMPLE000000000",
                "ASIAEXAMPLE000000000",
                "the access key \"ASIAEXAMPLE000000000\" is there already",
            ),
            ("\"i-01\"", "\"x\"", "is not a session's name"),
            (
                "2026-01-01T00:00:00Z",
                "2026-01-01",
                "is not a time with its zone",
            ),
            (
                "tags = { team = \"blue\" }",
                "tags = { team = 1 }",
                "line 12",
            ),
            (
                "tags = { team = \"blue\" }",
                "inline_policies.x = '{}'",
                "kms.toml:12:21: the inline policy \"x\"",
            ),
            ("name = \"owner\"", "nmae = \"owner\"", "nmae"),
        ] {
            let text = format!("{base}{}", ACCOUNT.replacen(from, to, 1));
            assert_ne!(text, format!("{base}{ACCOUNT}"));
            let Err(error) = folder.read(&text) else {
                panic!("accepted: {from} as {to}");
            };
            let error = error.to_string();
            assert!(error.contains(words), "{error}");
        }
        let twice = ACCOUNT.replace(
            "[[accounts.roles]]",
            "[[accounts.users]]\nname = \"owner\"\n[[accounts.roles]]",
        );
        let Err(error) = folder.read(&format!("{base}{twice}")) else {
            panic!("a user twice");
        };
        assert!(
            error
                .to_string()
                .contains("the user \"owner\" is there already")
        );
    }
}
