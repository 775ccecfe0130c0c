//! What a daemon is told: `daemon.toml`, and one file for each enclave in `enclaves.d`.
//!
//! Reading text is pure ([`Settings::parse`], [`Declared::parse`]); [`load`] reads the files. A key that is not known is an
//! error, and every error says file, line, column and what to do. Never accept a part: whoever calls gets all of it or why not.
//!
//! ```toml
//! # daemon.toml; a folder without one has these defaults
//! [api]
//! # socket = "/run/anchorhold/api.sock"      # else api.sock beside the enclaves' folders
//! # group = "anchorhold"                     # mode 0660 for this group; else 0600, for the daemon's user alone
//!
//! [attestation]
//! # development_root = "root.pem"            # vouches for sandbox and qemu; else this user's own
//! # max_age_seconds = 60
//! # renew_seconds = 3600                     # a running enclave attests anew this often
//!
//! [restart]
//! # first_delay_ms = 100                     # doubled with each failure, and made uneven
//! # longest_delay_ms = 30000
//! # settled_seconds = 10                     # after that, failures are forgotten
//!
//! [metrics]
//! # listen = "127.0.0.1:9465"                # /metrics, /healthz, /readyz; on loopback only. Also on the API's socket
//!
//! [page]
//! # listen = "127.0.0.1:9466"                # the status page; on loopback only
//! # token_file = "page.token"                # what a reader must show; no mode bits for group and others
//! ```
//!
//! ```toml
//! # enclaves.d/cards.toml: the enclave `cards`. Paths are relative to the file
//! image = "cards.eif"
//! pcr0 = "…"                                 # 96 hexadecimal digits, as `anchorhold describe` prints them
//! backend = "sandbox"                        # or "qemu", or "nitro"
//! # isolation = "reduced"                    # of the sandbox; else "namespaces"
//! # cpus = 2                                 # else the manifest's
//! # memory_mib = 256
//! # restart = "always"                       # or "on-failure", or "never"
//! # start_seconds = 30                       # it must serve and have attested by then
//! # drain_seconds = 30                       # what runs has this long when another version takes over
//! # egress = ["kms.eu-west-1.amazonaws.com:443"]   # nothing else is reached; default: nothing
//! # credentials = "file:credentials.json"     # handed in: or "imds", "container", "profile:NAME"; default: none
//! # [egress_limits]                          # of all that it reaches together
//! # connections = 128                        # at once; more wait
//! # connect_ms = 10000                       # to resolve a name and to reach it
//! # idle_ms = 300000                         # in which nothing moves
//! # head_ms = 10000                          # for a request to the window itself
//!
//! [ingress.web]
//! listen = "127.0.0.1:8080"                  # or "unix:/run/cards.sock", or "passed:web" (systemd's socket of that name)
//! port = 7000                                # the enclave's vsock port
//! # [ingress.web.rules]                      # who may connect, how many, how fast; see the window's `Rules`
//! # allow = ["10.0.0.0/8"]
//! # source_connections = 16
//!
//! [secrets]
//! tokenization-key = "key.sealed"            # sealed: only the attested enclave opens it
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anchorhold_attestation::Pcr;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::lifecycle::{Ingress, is_name};
use crate::window::ingress::Rules;
use crate::window::{
    Allowlist, CredentialsSource, LARGEST_SECRET, Limits, MOST_SECRETS, Pattern, SealedSecrets,
    SecretSource,
};
use crate::{Backend, Isolation};

/// The most bytes of one file.
pub const LARGEST_FILE: usize = 256 * 1024;

/// The most enclaves that may be declared.
pub const MOST_ENCLAVES: usize = 1024;

/// The most ingresses of one enclave.
const MOST_INGRESSES: usize = 32;

/// The longest name of a declared enclave: its instances add four characters and a hyphen.
const LONGEST_NAME: usize = 56;

/// A place in a file, counted from 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something in a file is wrong.
    #[error("{place}: {problem}")]
    At {
        /// Where.
        place: Place,
        /// What, and what it should be.
        problem: String,
    },
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is too large, or no text.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The text of one file and where it is from.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, span: Option<Range<usize>>, problem: impl Into<String>) -> ConfigError {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let before: String = self
            .text
            .char_indices()
            .take_while(|(at, _)| *at < start)
            .map(|(_, c)| c)
            .collect();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConfigError::At {
            place: Place {
                path: self.path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
            },
            problem: problem.into(),
        }
    }

    fn read<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let problem = error.message().replace('\n', "; ");
            self.at(error.span(), problem)
        })
    }

    /// A path of the file's, relative to where the file is.
    fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// What `daemon.toml` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The API's socket; `None`: beside the enclaves' folders.
    pub socket: Option<PathBuf>,
    /// The group that may use the API beside the daemon's user.
    pub group: Option<String>,
    /// The root (PEM) that vouches for enclaves without hardware; `None`: this user's own.
    pub development_root: Option<PathBuf>,
    /// The oldest that a document may be.
    pub max_age: Duration,
    /// How often a running enclave attests anew.
    pub renew: Duration,
    /// Between an enclave's end and its next start.
    pub delays: Delays,
    /// Where metrics and health are served beside the API's socket.
    pub metrics: Option<SocketAddr>,
    /// Where the status page is served, and the file with the token that it asks for.
    pub page: Option<(SocketAddr, PathBuf)>,
}

/// Between an enclave's end and its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// After the first failure; doubled with each further one.
    pub first: Duration,
    /// Never longer.
    pub longest: Duration,
    /// Whoever has served this long has not failed.
    pub settled: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            settled: Duration::from_secs(10),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: None,
            group: None,
            development_root: None,
            max_age: Duration::from_secs(60),
            renew: Duration::from_secs(3600),
            delays: Delays::default(),
            metrics: None,
            page: None,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct SettingsFile {
    api: ApiTable,
    attestation: AttestationTable,
    restart: RestartTable,
    metrics: MetricsTable,
    page: PageTable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ApiTable {
    socket: Option<PathBuf>,
    group: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AttestationTable {
    development_root: Option<PathBuf>,
    max_age_seconds: Option<Spanned<u32>>,
    renew_seconds: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RestartTable {
    first_delay_ms: Option<Spanned<u32>>,
    longest_delay_ms: Option<Spanned<u32>>,
    settled_seconds: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MetricsTable {
    listen: Option<Spanned<SocketAddr>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PageTable {
    listen: Option<Spanned<SocketAddr>>,
    token_file: Option<PathBuf>,
}

impl Settings {
    /// Reads the text of a `daemon.toml`; the path is for messages, and for what is relative to it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let file: SettingsFile = source.read()?;
        let mut settings = Self {
            socket: file.api.socket.map(|path| source.beside(&path)),
            development_root: file
                .attestation
                .development_root
                .map(|path| source.beside(&path)),
            ..Self::default()
        };
        if let Some(group) = file.api.group {
            let span = group.span();
            let group = group.into_inner();
            if group.is_empty() || group.len() > 64 || group.contains(['\0', ':', '\n']) {
                return Err(source.at(Some(span), "group is the name of a group of this host"));
            }
            settings.group = Some(group);
        }
        let positive = |value: &Spanned<u32>, what: &str| {
            if *value.get_ref() == 0 {
                return Err(source.at(Some(value.span()), format!("{what} must not be 0")));
            }
            Ok(u64::from(*value.get_ref()))
        };
        if let Some(value) = &file.attestation.max_age_seconds {
            settings.max_age = Duration::from_secs(positive(value, "max_age_seconds")?);
        }
        if let Some(value) = &file.attestation.renew_seconds {
            settings.renew = Duration::from_secs(positive(value, "renew_seconds")?);
        }
        if let Some(value) = &file.restart.first_delay_ms {
            settings.delays.first = Duration::from_millis(positive(value, "first_delay_ms")?);
        }
        if let Some(value) = &file.restart.longest_delay_ms {
            settings.delays.longest = Duration::from_millis(positive(value, "longest_delay_ms")?);
        }
        if let Some(value) = file.restart.settled_seconds {
            settings.delays.settled = Duration::from_secs(value.into());
        }
        let loopback = |address: &Spanned<SocketAddr>, what: &str| {
            if !address.get_ref().ip().is_loopback() {
                return Err(source.at(
                    Some(address.span()),
                    format!("{what} is served on a loopback address only, such as 127.0.0.1:9465: put a proxy before it that knows its readers"),
                ));
            }
            Ok(*address.get_ref())
        };
        if let Some(address) = &file.metrics.listen {
            settings.metrics = Some(loopback(address, "[metrics]")?);
        }
        settings.page = match (&file.page.listen, file.page.token_file) {
            (None, None) => None,
            (Some(address), Some(token)) => {
                Some((loopback(address, "[page]")?, source.beside(&token)))
            }
            _ => return Err(source.at(None, "[page] needs both listen and token_file")),
        };
        Ok(settings)
    }
}

/// When an enclave that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// However it ended.
    #[default]
    Always,
    /// Unless it ended with exit code 0.
    OnFailure,
    /// Never.
    Never,
}

/// Where connections for an enclave come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// A socket that was passed to the daemon under this name.
    Passed(String),
}

/// One way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entrance {
    /// Where connections come in.
    pub listen: Listen,
    /// Where they lead to, and what is let through.
    pub ingress: Ingress,
}

/// What one file in `enclaves.d` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name: the file's, without `.toml`.
    pub name: String,
    /// What a running enclave cannot change: a difference means another enclave.
    pub core: Core,
    /// When it is started again.
    pub restart: Restart,
    /// It must serve and have attested by then.
    pub start_limit: Duration,
    /// What runs has this long when it is drained.
    pub drain_limit: Duration,
    /// What it may reach.
    pub egress: Allowlist,
    /// How much of it at once, and how long.
    pub egress_limits: Limits,
    /// Files with sealed secrets.
    pub secrets: BTreeMap<String, PathBuf>,
    /// What is in them, once they were read.
    pub sealed: BTreeMap<String, Vec<u8>>,
    /// Ways in, by name.
    pub entrances: BTreeMap<String, Entrance>,
}

/// What a running enclave cannot change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    /// The image file.
    pub image: PathBuf,
    /// What it must attest.
    pub pcr0: Pcr,
    /// Where it runs.
    pub backend: Backend,
    /// How it is confined, on the sandbox backend.
    pub isolation: Isolation,
    /// CPUs; else the manifest's.
    pub cpus: Option<u32>,
    /// Memory in MiB; else the manifest's.
    pub memory_mib: Option<u32>,
    /// The credentials that it is handed.
    pub credentials: CredentialsSource,
}

impl Core {
    /// One text for each value, by which a running enclave says what it was started as.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("paths were text in the file")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnclaveFile {
    image: Spanned<PathBuf>,
    pcr0: Spanned<String>,
    backend: Backend,
    #[serde(default)]
    isolation: Option<Spanned<String>>,
    #[serde(default)]
    cpus: Option<Spanned<u32>>,
    #[serde(default)]
    memory_mib: Option<Spanned<u32>>,
    #[serde(default)]
    restart: Restart,
    #[serde(default)]
    start_seconds: Option<Spanned<u32>>,
    #[serde(default)]
    drain_seconds: Option<u32>,
    #[serde(default)]
    egress: Vec<Spanned<String>>,
    #[serde(default)]
    egress_limits: Option<Spanned<Limits>>,
    #[serde(default)]
    credentials: Option<Spanned<String>>,
    #[serde(default)]
    secrets: BTreeMap<String, Spanned<PathBuf>>,
    #[serde(default)]
    ingress: BTreeMap<String, IngressTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressTable {
    listen: Spanned<String>,
    port: Spanned<u32>,
    #[serde(default)]
    rules: Option<Spanned<Rules>>,
}

/// Reads `listen` of an ingress.
fn listen(text: &str) -> Result<Listen, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = Path::new(path);
        if !path.is_absolute() || path.as_os_str().len() > 107 || text.contains('\0') {
            return Err("unix: is followed by an absolute path of at most 107 bytes");
        }
        return Ok(Listen::Unix(path.to_owned()));
    }
    if let Some(name) = text.strip_prefix("passed:") {
        if !is_name(name) {
            return Err(
                "passed: is followed by the name that the socket unit's FileDescriptorName= gives",
            );
        }
        return Ok(Listen::Passed(name.to_owned()));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Listen::Tcp(address)),
        _ => Err(
            "listen is an address with a port, such as 127.0.0.1:8080, or unix:/PATH, or passed:NAME",
        ),
    }
}

impl Declared {
    /// Reads the text of a file in `enclaves.d`. The path gives the name; what is relative to it is made so.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        if !is_name(name) || name.len() > LONGEST_NAME {
            return Err(source.at(
                None,
                format!("the file's name is the enclave's: up to {LONGEST_NAME} of a-z, 0-9 and hyphen, the first not a hyphen, and .toml"),
            ));
        }
        let file: EnclaveFile = source.read()?;
        let pcr0: Pcr = file.pcr0.get_ref().parse().map_err(|_| {
            source.at(
                Some(file.pcr0.span()),
                "pcr0 has 96 hexadecimal digits: `anchorhold describe IMAGE` prints them",
            )
        })?;
        if pcr0.is_zero() {
            return Err(source.at(
                Some(file.pcr0.span()),
                "a pcr0 of zeros is every debug enclave's: `anchorhold describe IMAGE` prints the image's own",
            ));
        }
        if file.image.get_ref().as_os_str().is_empty() {
            return Err(source.at(Some(file.image.span()), "image names a file"));
        }
        let isolation = match &file.isolation {
            None => Isolation::Namespaces,
            Some(word) => match (word.get_ref().as_str(), file.backend) {
                ("namespaces", Backend::Sandbox) => Isolation::Namespaces,
                ("reduced", Backend::Sandbox) => Isolation::Reduced,
                _ => {
                    return Err(source.at(
                        Some(word.span()),
                        "isolation is \"namespaces\" or \"reduced\", and of backend = \"sandbox\" alone",
                    ));
                }
            },
        };
        let within =
            |value: &Option<Spanned<u32>>, what: &str, range: std::ops::RangeInclusive<u32>| {
                match value {
                    Some(value) if !range.contains(value.get_ref()) => Err(source.at(
                        Some(value.span()),
                        format!("{what} is {} to {}", range.start(), range.end()),
                    )),
                    value => Ok(value.as_ref().map(|value| *value.get_ref())),
                }
            };
        let cpus = within(&file.cpus, "cpus", 1..=1024)?;
        let memory_mib = within(&file.memory_mib, "memory_mib", 16..=16 << 20)?;
        let default_start = if file.backend == Backend::Sandbox {
            30
        } else {
            180
        };
        let start =
            within(&file.start_seconds, "start_seconds", 1..=3600)?.unwrap_or(default_start);

        let credentials = match &file.credentials {
            None => CredentialsSource::Nothing,
            Some(text) => match text.get_ref().parse() {
                Ok(CredentialsSource::File(path)) => CredentialsSource::File(source.beside(&path)),
                Ok(other) => other,
                Err(error) => return Err(source.at(Some(text.span()), format!("{error}"))),
            },
        };

        let mut egress = Allowlist::nothing();
        for entry in &file.egress {
            let target: Pattern = entry
                .get_ref()
                .parse()
                .map_err(|error| source.at(Some(entry.span()), format!("{error}")))?;
            egress.allow(target);
        }
        let egress_limits = match &file.egress_limits {
            Some(limits) => {
                limits
                    .get_ref()
                    .check()
                    .map_err(|error| source.at(Some(limits.span()), error.to_string()))?;
                *limits.get_ref()
            }
            None => Limits::default(),
        };
        if file.secrets.len() > MOST_SECRETS {
            return Err(source.at(None, format!("at most {MOST_SECRETS} secrets")));
        }
        let mut secrets = BTreeMap::new();
        for (name, path) in file.secrets {
            if !SealedSecrets::is_name(&name) {
                return Err(source.at(
                    Some(path.span()),
                    format!("{name:?} is no name for a secret: use 1 to 64 of a-z, 0-9 and hyphen, as in the manifest"),
                ));
            }
            secrets.insert(name, source.beside(path.get_ref()));
        }
        if file.ingress.len() > MOST_INGRESSES {
            return Err(source.at(None, format!("at most {MOST_INGRESSES} ingresses")));
        }
        let mut entrances: BTreeMap<String, Entrance> = BTreeMap::new();
        for (name, table) in file.ingress {
            let span = table.listen.span();
            if !is_name(&name) {
                return Err(source.at(
                    Some(span),
                    format!("[ingress.{name}]: use up to 63 of a-z, 0-9 and hyphen"),
                ));
            }
            let port = *table.port.get_ref();
            if port == 0 || port == u32::MAX {
                return Err(source.at(
                    Some(table.port.span()),
                    "port is the enclave's vsock port: 1 to 4294967294",
                ));
            }
            let listen = listen(table.listen.get_ref())
                .map_err(|problem| source.at(Some(span.clone()), problem))?;
            if entrances.values().any(|known| known.listen == listen) {
                return Err(source.at(Some(span), "another ingress listens there"));
            }
            let rules = match &table.rules {
                Some(rules) => {
                    rules
                        .get_ref()
                        .check()
                        .map_err(|error| source.at(Some(rules.span()), error.to_string()))?;
                    rules.get_ref().clone()
                }
                None => Rules::default(),
            };
            let ingress = Ingress {
                name: name.clone(),
                port,
                rules,
            };
            entrances.insert(name, Entrance { listen, ingress });
        }
        Ok(Self {
            name: name.to_owned(),
            core: Core {
                image: source.beside(file.image.get_ref()),
                pcr0,
                backend: file.backend,
                isolation,
                cpus,
                memory_mib,
                credentials,
            },
            restart: file.restart,
            start_limit: Duration::from_secs(start.into()),
            drain_limit: Duration::from_secs(file.drain_seconds.unwrap_or(30).into()),
            egress,
            egress_limits,
            secrets,
            sealed: BTreeMap::new(),
            entrances,
        })
    }

    /// Secrets as a supervisor takes them at its start.
    pub fn sources(&self) -> BTreeMap<String, SecretSource> {
        self.sealed
            .iter()
            .map(|(name, bytes)| (name.clone(), SecretSource::Bytes(bytes.clone())))
            .collect()
    }
}

/// All that a daemon is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What `daemon.toml` says.
    pub settings: Settings,
    /// What the files in `enclaves.d` say, by name.
    pub enclaves: BTreeMap<String, Declared>,
}

/// Reads a configuration folder: `daemon.toml` and `enclaves.d/*.toml`, of which either may be missing.
pub fn load(folder: &Path) -> Result<Config, ConfigError> {
    let folder = std::path::absolute(folder).map_err(|source| ConfigError::Unreadable {
        path: folder.to_owned(),
        source,
    })?;
    let mut config = Config::default();
    let path = folder.join("daemon.toml");
    if let Some(text) = text_of(&path)? {
        config.settings = Settings::parse(&path, &text)?;
    }
    let declared = folder.join("enclaves.d");
    let unreadable = |source| ConfigError::Unreadable {
        path: declared.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&declared) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(config),
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
        if paths.len() > MOST_ENCLAVES {
            return Err(ConfigError::File {
                path: declared.clone(),
                problem: format!("it has more than {MOST_ENCLAVES} files"),
            });
        }
    }
    paths.sort();
    for path in paths {
        // One that vanishes meanwhile was taken away.
        let Some(text) = text_of(&path)? else {
            continue;
        };
        let mut enclave = Declared::parse(&path, &text)?;
        for (name, file) in &enclave.secrets {
            enclave
                .sealed
                .insert(name.clone(), bytes_of(file, LARGEST_SECRET)?);
        }
        config.enclaves.insert(enclave.name.clone(), enclave);
    }
    one_place_each(&config, &declared)?;
    Ok(config)
}

/// Two enclaves cannot listen at one place.
fn one_place_each(config: &Config, folder: &Path) -> Result<(), ConfigError> {
    let mut places: Vec<(&Listen, &str)> = Vec::new();
    for enclave in config.enclaves.values() {
        for entrance in enclave.entrances.values() {
            if let Some((_, other)) = places.iter().find(|(known, _)| **known == entrance.listen) {
                return Err(ConfigError::File {
                    path: folder.join(format!("{}.toml", enclave.name)),
                    problem: format!(
                        "[ingress.{}] listens where {other} does: give it another place",
                        entrance.ingress.name
                    ),
                });
            }
            places.push((&entrance.listen, &enclave.name));
        }
    }
    Ok(())
}

fn bytes_of(path: &Path, most: usize) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() > most {
        return Err(ConfigError::File {
            path: path.to_owned(),
            problem: format!("it has more than {most} bytes"),
        });
    }
    Ok(bytes)
}

fn text_of(path: &Path) -> Result<Option<String>, ConfigError> {
    match bytes_of(path, LARGEST_FILE) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| ConfigError::File {
                path: path.to_owned(),
                problem: "it is not UTF-8".into(),
            }),
        Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn pcr0() -> String {
        "ab".repeat(48)
    }

    fn smallest() -> String {
        format!(
            "image = \"cards.eif\"\npcr0 = \"{}\"\nbackend = \"sandbox\"\n",
            pcr0()
        )
    }

    fn declared(text: &str) -> Result<Declared, ConfigError> {
        Declared::parse(Path::new("/etc/anchorhold/enclaves.d/cards.toml"), text)
    }

    #[test]
    fn a_small_file_declares_an_enclave_that_reaches_nothing_and_is_reached_by_nothing() {
        let cards = declared(&smallest()).unwrap();
        assert_eq!(cards.name, "cards");
        assert_eq!(
            cards.core.image,
            Path::new("/etc/anchorhold/enclaves.d/cards.eif")
        );
        assert_eq!(cards.egress, Allowlist::nothing());
        assert!(cards.entrances.is_empty() && cards.secrets.is_empty());
        assert_eq!(cards.restart, Restart::Always);
        assert_eq!(
            Settings::parse(Path::new("d"), "").unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn all_keys_are_read() {
        let cards = declared(&format!(
            "{}isolation = \"reduced\"\ncpus = 2\nmemory_mib = 64\nrestart = \"on-failure\"\nstart_seconds = 5\n\
             drain_seconds = 0\negress = [\"a.example:443\"]\ncredentials = \"file:c.json\"\n\
             [egress_limits]\nconnections = 9\nidle_ms = 1000\n\
             [ingress.web]\nlisten = \"127.0.0.1:80\"\nport = 7000\n[ingress.web.rules]\nsource_connections = 3\n[ingress.unix]\nlisten = \"unix:/run/x\"\nport = 1\n\
             [ingress.passed]\nlisten = \"passed:web\"\nport = 2\n[secrets]\nkey = \"key.sealed\"\n",
            smallest()
        ))
        .unwrap();
        assert_eq!(cards.core.isolation, Isolation::Reduced);
        assert_eq!(
            (cards.core.cpus, cards.core.memory_mib),
            (Some(2), Some(64))
        );
        assert_eq!(cards.restart, Restart::OnFailure);
        assert_eq!(cards.drain_limit, Duration::ZERO);
        let limits = Limits {
            connections: 9,
            idle: Duration::from_secs(1),
            ..Limits::default()
        };
        assert_eq!(cards.egress_limits, limits);
        assert_eq!(cards.entrances["web"].ingress.port, 7000);
        assert_eq!(cards.entrances["web"].ingress.rules.source_connections, 3);
        let credentials = "/etc/anchorhold/enclaves.d/c.json".into();
        assert_eq!(cards.core.credentials, CredentialsSource::File(credentials));
        assert_eq!(
            cards.entrances["unix"].listen,
            Listen::Unix("/run/x".into())
        );
        assert_eq!(
            cards.entrances["passed"].listen,
            Listen::Passed("web".into())
        );
        assert_eq!(
            cards.secrets["key"],
            Path::new("/etc/anchorhold/enclaves.d/key.sealed")
        );
        let settings = Settings::parse(
            Path::new("/etc/d.toml"),
            "[api]\nsocket = \"s\"\ngroup = \"g\"\n[attestation]\ndevelopment_root = \"r.pem\"\nmax_age_seconds = 5\nrenew_seconds = 9\n\
             [restart]\nfirst_delay_ms = 1\nlongest_delay_ms = 2\nsettled_seconds = 0\n[metrics]\nlisten = \"[::1]:1\"\n\
             [page]\nlisten = \"127.0.0.1:2\"\ntoken_file = \"t\"\n",
        )
        .unwrap();
        assert_eq!(settings.socket.as_deref(), Some(Path::new("/etc/s")));
        assert_eq!(settings.delays.longest, Duration::from_millis(2));
        assert_eq!(
            settings.page,
            Some(("127.0.0.1:2".parse().unwrap(), "/etc/t".into()))
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_column_and_remedy() {
        let good = smallest();
        for (text, place, part) in [
            ("image = 5", "1:9", "path"),
            (&good.replace("image", "imge"), "1:1", "imge"),
            (&good.replace("abab", "xyz"), "2:8", "describe"),
            (&good.replace(&pcr0(), &"0".repeat(96)), "2:8", "debug"),
            (&good.replace("sandbox", "cloud"), "3:11", "nitro"),
            (&format!("{good}cpus = 0"), "4:8", "1 to 1024"),
            (&format!("{good}memory_mib = 15"), "4:14", "16 to"),
            (
                &format!("{good}egress = [\"a.example:1\", \"héhé\"]"),
                "4:26",
                "port",
            ),
            (
                &format!("{good}[ingress.web]\nlisten = \"80\"\nport = 1"),
                "5:10",
                "127.0.0.1:8080",
            ),
            (
                &format!("{good}[ingress.web]\nlisten = \"passed:A\"\nport = 1"),
                "5:10",
                "FileDescriptorName",
            ),
            (
                &format!("{good}[ingress.web]\nlisten = \"unix:x\"\nport = 1"),
                "5:10",
                "absolute",
            ),
            (
                &format!("{good}[ingress.web]\nlisten = \"[::1]:8\"\nport = 0"),
                "6:8",
                "vsock",
            ),
            (
                &format!("{good}[egress_limits]\nidle_ms = 0"),
                "4:1",
                "idle_ms = 0: it must be at least 1",
            ),
            (&format!("{good}[egress_limits]\nidle = 5"), "5:1", "idle"),
            (&format!("{good}[secrets]\nKey = \"k\""), "5:7", "a-z"),
            (&format!("{good}isolation = \"kvm\""), "4:13", "reduced"),
            (&format!("{good}# é\nmore = 1"), "5:1", "more"),
        ] {
            let error = declared(text).unwrap_err().to_string();
            let found = format!("/etc/anchorhold/enclaves.d/cards.toml:{place}: ");
            assert!(
                error.starts_with(&found) && error.contains(part),
                "{text}\n{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        for (text, part) in [
            ("[api]\ngroup = \"\"", "2:9"),
            ("[metrics]\nlisten = \"0.0.0.0:1\"", "loopback"),
            ("[page]\nlisten = \"127.0.0.1:1\"", "token_file"),
            ("[attestation]\nmax_age_seconds = 0", "2:19"),
            ("[log]", "log"),
        ] {
            let error = Settings::parse(Path::new("d.toml"), text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{text}\n{error}");
        }
        assert!(Declared::parse(Path::new("/x/Cards.toml"), &good).is_err());
    }

    #[test]
    fn a_folder_is_taken_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Config::default());
        let declared = dir.path().join("enclaves.d");
        std::fs::create_dir(&declared).unwrap();
        let web = "[ingress.web]\nlisten = \"127.0.0.1:81\"\nport = 1\n";
        std::fs::write(
            declared.join("a.toml"),
            smallest() + web + "[secrets]\nk = \"k\"\n",
        )
        .unwrap();
        std::fs::write(declared.join(".b.toml.swp"), "garbage").unwrap();
        std::fs::write(declared.join("c.toml.off"), "garbage").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("/k: "));
        std::fs::write(declared.join("k"), b"sealed").unwrap();
        let config = load(dir.path()).unwrap();
        assert_eq!(config.enclaves["a"].sealed["k"], b"sealed");
        assert_eq!(config.enclaves.len(), 1);
        std::fs::write(declared.join("z.toml"), smallest() + web).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("z.toml") && error.contains("where a does"),
            "{error}"
        );
        std::fs::write(declared.join("z.toml"), vec![b'#'; LARGEST_FILE + 1]).unwrap();
        assert!(load(dir.path()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_within_bounds(text in "\\PC{0,200}", tail in "(image|pcr0|cpus|\\[ingress\\.a\\]|listen|port|=|\"|\\n|0|a){0,40}") {
            for text in [text.clone(), tail.clone(), smallest() + &tail, smallest() + &text] {
                if let Ok(found) = declared(&text) {
                    prop_assert!(!found.core.pcr0.is_zero());
                    prop_assert!(found.core.cpus.is_none_or(|cpus| (1..=1024).contains(&cpus)));
                }
                let _ = Settings::parse(Path::new("daemon.toml"), &text);
            }
        }
    }
}
