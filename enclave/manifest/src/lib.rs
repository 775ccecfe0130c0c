//! `anchorhold.toml`: what an image runs, which key service it trusts and what it may reach.
//!
//! The file is measured into the image byte for byte, so whoever pins PCR2 has pinned every line of it. This crate
//! turns its text into a [`Manifest`] or into an error that names the key, the line, the column and the remedy.
//!
//! It is pure: it must never read a file, the environment or a clock, and it must never accept a key that it does not
//! know, since a mistyped line would then silently be no line at all.
#![forbid(unsafe_code)]

mod check;
pub mod egress;
mod error;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use egress::Allowlist;
pub use error::{ManifestError, Position};
use table::{Document, Table};

/// Where the manifest lies inside the image, byte for byte as it was given.
pub const MANIFEST_PATH: &str = "/anchorhold/anchorhold.toml";
/// Where the key service's certificate authority (PEM) lies inside the image, if the manifest names one.
pub const KEY_SERVICE_CA_PATH: &str = "/anchorhold/key-service-ca.pem";
/// The socket on which a job of contract `http` listens. Its path is in the job's environment too, as
/// `ANCHORHOLD_HTTP_SOCKET`.
pub const JOB_SOCKET: &str = "/run/job/http.sock";
/// The socket on which the runtime answers a job that the manifest grants something. Its path is in the job's environment
/// too, as `ANCHORHOLD_API_SOCKET`.
pub const API_SOCKET: &str = "/run/anchorhold/api.sock";
/// The variable that tells a job where to ask the runtime.
pub const API_SOCKET_VARIABLE: &str = "ANCHORHOLD_API_SOCKET";
/// The variable that tells a job of contract `http` where to listen.
pub const JOB_SOCKET_VARIABLE: &str = "ANCHORHOLD_HTTP_SOCKET";
/// The same for one that listens on a port of the loopback interface.
pub const JOB_PORT_VARIABLE: &str = "ANCHORHOLD_HTTP_PORT";
/// The variable in which a job finds `[job.settings]`, as JSON.
pub const SETTINGS_VARIABLE: &str = "ANCHORHOLD_JOB_SETTINGS";
/// The folder in the enclave's memory where the job finds each of its secrets as a file.
pub const SECRETS_DIR: &str = "/run/secrets";

/// vsock port on which the enclave answers (HTTP/1.1): health, attestation, calls.
pub const CONTROL_PORT: u32 = 5000;
/// vsock port on which the enclave ends attested TLS, for jobs that speak HTTP. Lead the parent's ingresses there.
pub const TLS_PORT: u32 = 5443;
/// vsock port on which the parent answers (HTTP/1.1): relays, credentials, wrapped secrets. All of it untrusted.
pub const WINDOW_PORT: u32 = 8000;
/// vsock port on which the parent awaits the enclave's sign of life (AWS's convention: 0xB7 there and back).
pub const HEARTBEAT_PORT: u32 = 9000;
/// The vsock context identifier under which an enclave reaches its parent.
pub const PARENT_CID: u32 = 3;

/// The manifest of an image that was built without one: one program at `/job`, called with lines.
pub const DEFAULT_MANIFEST: &str = "[job]\ncommand = [\"/job\"]\n";

/// The longest manifest that is accepted, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024;
/// The longest `[job.settings]`, as JSON, in bytes: half of what the kernel takes for one variable.
pub const MAX_SETTINGS_BYTES: usize = 64 * 1024;

/// The whole of `anchorhold.toml`, defaults filled in and every value checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// What the image calls itself.
    pub image: Image,
    /// The program that sees the plaintext.
    pub job: Job,
    /// Fields of a call's lines that are sealed each by itself; of jobs of [`Contract::Lines`] alone.
    pub fields: Option<LineFields>,
    /// How a job that serves requests is kept and limited; there exactly where `job.contract` is [`Contract::Http`].
    pub http: Option<Http>,
    /// The key service that releases data keys to this image; none for jobs that need no keys.
    pub key_service: Option<KeyService>,
    /// Secrets that the enclave opens for the job, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// What the job may ask of the runtime; nothing where the manifest does not say.
    pub api: Option<Api>,
    /// What the runtime may dial besides the key service.
    pub egress: Egress,
    /// What the enclave is given.
    pub resources: Resources,
    /// What may leave the enclave as text.
    pub log: Log,
}

/// `[image]`: names for people; nothing is decided by them.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Image {
    /// The image's name, at most 128 printable characters.
    pub name: Option<String>,
    /// The image's version, at most 128 printable characters.
    pub version: Option<String>,
}

/// `[job]`: the program and the limits of one call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// Program and arguments. The program is an absolute path inside the image.
    pub command: Vec<String>,
    /// What the program and the runtime expect of each other.
    pub contract: Contract,
    /// Variables of the job's environment, besides `PATH`, `HOME` and `TMPDIR`.
    pub environment: BTreeMap<String, String>,
    /// Bytes of one line, in or out, without its newline; a longer one fails the call. 64 bytes to 64 MiB. Lines only.
    pub max_line_bytes: usize,
    /// Seconds that one call or one request may take. One second to one day.
    pub timeout_seconds: u64,
    /// The folder that the job starts in, an absolute path inside the image; none: `/`.
    pub working_directory: Option<String>,
    /// Who the job runs as, where the enclave has several users; none: an id that the runtime chooses.
    pub user: Option<User>,
    /// What the job itself is told, and judges: it finds the table as JSON in [`SETTINGS_VARIABLE`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Value>,
}

/// `user = "uid:gid"`: numbers, neither of them root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl Serialize for User {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What `[job]` is where the manifest does not say, as from a container image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobDefaults {
    /// Instead of `command`; empty: `command` is required.
    pub command: Vec<String>,
    /// Variables that `environment` does not name.
    pub environment: BTreeMap<String, String>,
    /// Instead of `working_directory`.
    pub working_directory: Option<String>,
    /// Instead of `user`.
    pub user: Option<User>,
}

/// What the job's program and the runtime expect of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// One process for each call: lines of JSON in, one line out for each.
    Lines,
    /// One process that answers HTTP requests on a Unix socket ([`JOB_SOCKET`]) or a loopback port, and is started again
    /// when it ends.
    Http,
    /// One process at the enclave's start; the enclave ends with its exit code.
    Once,
}

/// `[fields]`: single fields of a call's lines, which the runtime opens before the job sees them, and seals in what it
/// answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LineFields {
    /// Names of fields of the input, such as `pan`, `card.pan` or `emails[]`: what stands there is sealed.
    pub open: Vec<String>,
    /// Names of fields of the output.
    pub seal: Vec<String>,
    /// The field that tells a row: sealed fields are bound to it.
    pub row: Option<String>,
    /// Pairs of the encryption context that fields of the input must have, and fields of the output get.
    pub context: BTreeMap<String, String>,
}

/// `[http]`: how a job that serves requests is kept, and what a request may take of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Http {
    /// The port of 127.0.0.1 on which the job listens, in place of its Unix socket. 1024 to 32,767: below what Linux gives
    /// to sockets that connect, or the runtime could meet itself where nobody listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path that answers a GET with 200 to 299 once the job can serve; none: it can as soon as it accepts connections.
    pub ready_path: Option<String>,
    /// Seconds from its start until it must be ready. 1 to 3600.
    pub ready_seconds: u64,
    /// What follows when the job ends.
    pub restart: Restart,
    /// Requests at a time; further ones are turned away. 1 to 65,536.
    pub max_requests: usize,
    /// Bytes of one request's head: method, path, and names and values of all header fields. 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Bytes of one request's body. 0 to 2^40.
    pub max_body_bytes: u64,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            port: None,
            ready_path: None,
            ready_seconds: 30,
            restart: Restart::Always,
            max_requests: 64,
            max_header_bytes: 16 * 1024,
            max_body_bytes: 16 << 20,
        }
    }
}

/// What follows when a job that serves requests ends, or is not ready in time (which counts as a failure). Each further
/// start waits longer than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again.
    Always,
    /// It is started again unless it exited with 0: then the enclave ends with 0.
    OnFailure,
    /// The enclave ends with its exit code.
    Never,
}

/// `[key_service]`: who releases data keys, and under which key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyService {
    /// `https://host` or `https://host:port`, without a path.
    pub endpoint: String,
    /// The certificate authority's PEM file, beside the manifest when the image is built; its bytes are measured.
    /// None: Mozilla's roots.
    pub ca: Option<String>,
    /// `KeyId` of every Decrypt and `GenerateDataKey`: key ID, alias or ARN.
    pub key: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Data keys that are kept for further messages; none: each message asks the key service.
    pub data_key_cache: Option<DataKeyCache>,
    #[serde(skip)]
    authority: String,
}

impl KeyService {
    /// `host:port` of the endpoint in lower case, the port being 443 where the endpoint names none. IPv6 addresses
    /// stand in brackets.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

/// `[key_service.data_key_cache]`: the limits within which a data key serves further messages. They are those of the AWS
/// Encryption SDK's caching cryptographic materials manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DataKeyCache {
    /// Data keys at a time; of more, the one that was not used for the longest is wiped. 1 to 10,000.
    pub capacity: usize,
    /// Seconds that a data key is kept. 1 to 86,400.
    pub max_age_seconds: u64,
    /// Messages that are sealed under one data key. 1 to 2^32.
    pub max_messages: u64,
    /// Bytes of plaintext that are sealed under one data key. 1 to 2^62.
    pub max_bytes: u64,
}

impl Default for DataKeyCache {
    fn default() -> DataKeyCache {
        DataKeyCache {
            capacity: 100,
            max_age_seconds: 300,
            max_messages: 1000,
            max_bytes: 1 << 30,
        }
    }
}

/// `[secrets.<name>]`: a sealed message that the parent hands in and the enclave alone opens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Secret {
    /// The key it was sealed under; none: the key service's `key`.
    pub key: Option<String>,
    /// How the job gets it.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Seconds between looks at whether the parent has a newer one; none: it stays as it was at the start. 1 to 86,400.
    pub refresh_seconds: Option<u64>,
}

/// How a job gets a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "as", content = "variable")]
pub enum Delivery {
    /// As the file `/run/secrets/<name>` in memory, readable by the job alone.
    File,
    /// As this variable of its environment.
    Environment(String),
    /// Only where it asks for it, through the local API.
    Api,
}

/// `[api]`: what the job may ask of the runtime. What is not named is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Api {
    /// Operations.
    pub grant: BTreeSet<Grant>,
    /// Secrets that it may ask for by name.
    pub secrets: BTreeSet<String>,
    /// PCRs that it may extend, 16 to 31.
    pub extend_pcrs: BTreeSet<u8>,
}

/// An operation, or several that only make sense together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// Attestation documents with a nonce and user data of the job's choice.
    Attest,
    /// With a public key of the job's choice besides. Whoever has its private key can be sent what is for this enclave
    /// alone, data keys among them.
    AttestPublicKey,
    /// Opening sealed messages under the key service's `key`.
    Open,
    /// Sealing messages under it.
    Seal,
    /// Data keys under it, in the job's own hands.
    DataKeys,
    /// Random bytes.
    Random,
    /// Values of the PCRs 16 to 31.
    ReadPcrs,
    /// The time, as attestation documents say it.
    Time,
}

impl Grant {
    /// All of them, by the words of the manifest.
    pub const ALL: [(&'static str, Grant); 8] = [
        ("attest", Grant::Attest),
        ("attest-public-key", Grant::AttestPublicKey),
        ("open", Grant::Open),
        ("seal", Grant::Seal),
        ("data-keys", Grant::DataKeys),
        ("random", Grant::Random),
        ("read-pcrs", Grant::ReadPcrs),
        ("time", Grant::Time),
    ];

    /// Its word in the manifest.
    pub fn word(self) -> &'static str {
        Grant::ALL
            .iter()
            .find(|(_, grant)| *grant == self)
            .map_or("", |(word, _)| word)
    }
}

/// `[egress]`: targets besides the key service.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Egress {
    /// [Patterns](egress::Pattern) in their normal form: `host:port`, `*.example.com:443`, `10.0.0.0/8:443`.
    pub allow: Vec<String>,
}

/// `[resources]`: the size of the enclave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resources {
    /// Memory in MiB, 32 to 1,048,576.
    pub memory_mib: u32,
    /// Number of CPUs, 1 to 1,024.
    pub cpus: u32,
}

/// `[log]`: what the console may show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// What happens to the text that the job writes to its standard error.
    pub job_stderr: JobStderr,
    /// What happens to card numbers and other personal data in it.
    pub personal_data: PersonalData,
    /// The key that the console's lines are sealed under, for whoever may use it to decrypt; none: they are plain. Key ID,
    /// alias or ARN.
    pub encrypt_to: Option<String>,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            job_stderr: JobStderr::Drop,
            personal_data: PersonalData::Redact,
            encrypt_to: None,
        }
    }
}

/// What happens to personal data in what a job writes for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PersonalData {
    /// What is found by its pattern is replaced by its kind's name.
    Redact,
    /// It is passed on.
    Keep,
}

/// What happens to the job's standard error outside debug mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStderr {
    /// It is thrown away.
    Drop,
    /// It goes to the console, which the parent reads.
    Forward,
}

impl Manifest {
    /// All that the enclave may be led to: its key service, and what `[egress]` names.
    pub fn reach(&self) -> Allowlist {
        let service = self.key_service.as_ref().map(KeyService::authority);
        // An endpoint that no target can be, such as a number for a name, leads nowhere.
        service
            .into_iter()
            .chain(self.egress.allow.iter().map(String::as_str))
            .filter_map(|entry| entry.parse().ok())
            .collect()
    }

    /// Reads and checks the text of a manifest.
    ///
    /// # Errors
    /// The first thing that is wrong, by key, line and column. Nothing is accepted in part.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Self::parse_with(text, &JobDefaults::default())
    }

    /// The same, with what `[job]` is where the text does not say. Only those who make images know such things: an
    /// image's own manifest says all.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and for defaults that break a rule.
    pub fn parse_with(text: &str, defaults: &JobDefaults) -> Result<Manifest, ManifestError> {
        if text.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge { bytes: text.len() });
        }
        let document = Document::parse(text)?;
        let root = document.root();
        root.only(&[
            "image",
            "job",
            "fields",
            "http",
            "key_service",
            "secrets",
            "api",
            "egress",
            "resources",
            "log",
        ])?;

        let image = root
            .table("image")?
            .map_or_else(|| Ok(Image::default()), |table| read_image(&table))?;
        let remedy = "add a table [job] with the program to run, such as command = [\"/job\"]";
        let job = match root.table("job")? {
            Some(table) => read_job(&table, defaults)?,
            None if !defaults.command.is_empty() => read_job(&Table::empty("job"), defaults)?,
            None => read_job(&root.required_table("job", remedy)?, defaults)?,
        };
        let http = read_http(&root, job.contract)?;
        let key_service = root
            .table("key_service")?
            .map(|table| read_key_service(&table))
            .transpose()?;
        let secrets = match root.table("secrets")? {
            Some(table) => read_secrets(&table, key_service.is_some())?,
            None => BTreeMap::new(),
        };
        let fields = read_fields(&root, job.contract, key_service.is_some())?;
        let api = root
            .table("api")?
            .map(|table| read_api(&table, key_service.is_some(), &secrets))
            .transpose()?;
        let egress = root
            .table("egress")?
            .map_or_else(|| Ok(Egress::default()), |table| read_egress(&table))?;
        let resources = match root.table("resources")? {
            Some(table) => {
                table.only(&["memory_mib", "cpus"])?;
                Resources {
                    memory_mib: table
                        .integer("memory_mib", 32, 1 << 20)?
                        .unwrap_or(Resources::default().memory_mib),
                    cpus: table
                        .integer("cpus", 1, 1024)?
                        .unwrap_or(Resources::default().cpus),
                }
            }
            None => Resources::default(),
        };
        let log = root.table("log")?.map_or_else(
            || Ok(Log::default()),
            |table| read_log(&table, key_service.is_some()),
        )?;
        Ok(Manifest {
            image,
            job,
            fields,
            http,
            key_service,
            secrets,
            api,
            egress,
            resources,
            log,
        })
    }
}

impl Default for Resources {
    fn default() -> Resources {
        Resources {
            memory_mib: 256,
            cpus: 1,
        }
    }
}

fn read_image(table: &Table<'_>) -> Result<Image, ManifestError> {
    table.only(&["name", "version"])?;
    let label = |key| {
        table
            .string(key)?
            .map(|value| value.checked(check::label))
            .transpose()
    };
    Ok(Image {
        name: label("name")?,
        version: label("version")?,
    })
}

fn read_job(table: &Table<'_>, defaults: &JobDefaults) -> Result<Job, ManifestError> {
    table.only(&[
        "command",
        "contract",
        "environment",
        "max_line_bytes",
        "timeout_seconds",
        "working_directory",
        "user",
        "settings",
    ])?;
    let mut environment = BTreeMap::new();
    for (name, value) in &defaults.environment {
        check::variable_name(name)
            .and_then(|_| check::variable_value(value))
            .map_err(|reason| table.default_refused(&format!("environment.{name}"), &reason))?;
        environment.insert(name.clone(), value.clone());
    }
    if let Some(variables) = table.table("environment")? {
        for name in variables.names() {
            check::variable_name(name)
                .map_err(|reason| variables.invalid(name, reason.problem, reason.remedy))?;
            let value = variables
                .required_string(name, "")?
                .checked(check::variable_value)?;
            environment.insert(name.to_owned(), value);
        }
    }
    let working_directory = match table.string("working_directory")? {
        Some(folder) => Some(folder.checked(check::folder)?),
        None => defaults
            .working_directory
            .as_deref()
            .map(|folder| {
                check::folder(folder)
                    .map_err(|reason| table.default_refused("working_directory", &reason))
            })
            .transpose()?,
    };
    let user = match table.string("user")? {
        Some(user) => {
            let text = user.checked(check::user)?;
            check::split_user(&text)
        }
        None => defaults.user,
    };
    Ok(Job {
        command: read_command(table, &defaults.command)?,
        contract: table
            .choice(
                "contract",
                &[
                    ("lines", Contract::Lines),
                    ("http", Contract::Http),
                    ("once", Contract::Once),
                ],
            )?
            .unwrap_or(Contract::Lines),
        environment,
        max_line_bytes: table
            .integer("max_line_bytes", 64, 64 << 20)?
            .unwrap_or(1 << 20),
        timeout_seconds: table.integer("timeout_seconds", 1, 86_400)?.unwrap_or(600),
        working_directory,
        user,
        settings: read_settings(table)?,
    })
}

fn read_settings(table: &Table<'_>) -> Result<Option<serde_json::Value>, ManifestError> {
    let settings = table.json("settings")?;
    if let Some(settings) = &settings
        && settings.to_string().len() > MAX_SETTINGS_BYTES
    {
        return Err(table.invalid(
            "settings",
            "is longer than 65,536 bytes as JSON",
            "put what is long into a file of the image, and name that",
        ));
    }
    Ok(settings)
}

fn read_command(table: &Table<'_>, default: &[String]) -> Result<Vec<String>, ManifestError> {
    let rule = |index: usize| {
        if index == 0 {
            check::program
        } else {
            check::argument
        }
    };
    if !default.is_empty() && table.strings("command")?.is_none() {
        for (index, argument) in default.iter().enumerate() {
            rule(index)(argument).map_err(|reason| table.default_refused("command", &reason))?;
        }
        return Ok(default.to_vec());
    }
    let arguments = table.required_strings(
        "command",
        "name the program by its path inside the image, such as command = [\"/job\"]",
    )?;
    let mut command = Vec::with_capacity(arguments.len());
    for (index, argument) in arguments.into_iter().enumerate() {
        command.push(argument.checked(rule(index))?);
    }
    if command.is_empty() {
        return Err(table.invalid(
            "command",
            "is empty",
            "name the program, such as command = [\"/job\"]",
        ));
    }
    Ok(command)
}

fn read_http(root: &Table<'_>, contract: Contract) -> Result<Option<Http>, ManifestError> {
    let defaults = Http::default();
    let Some(table) = root.table("http")? else {
        return Ok((contract == Contract::Http).then_some(defaults));
    };
    if contract != Contract::Http {
        return Err(root.invalid(
            "http",
            "is for jobs of contract \"http\" alone",
            "add contract = \"http\" to [job], or remove the table",
        ));
    }
    table.only(&[
        "port",
        "ready_path",
        "ready_seconds",
        "restart",
        "max_requests",
        "max_header_bytes",
        "max_body_bytes",
    ])?;
    let restarts = [
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
    ];
    Ok(Some(Http {
        port: table.integer("port", 1024, 32_767)?,
        ready_path: table
            .string("ready_path")?
            .map(|path| path.checked(check::request_path))
            .transpose()?,
        ready_seconds: table
            .integer("ready_seconds", 1, 3600)?
            .unwrap_or(defaults.ready_seconds),
        restart: table
            .choice("restart", &restarts)?
            .unwrap_or(defaults.restart),
        max_requests: table
            .integer("max_requests", 1, 65_536)?
            .unwrap_or(defaults.max_requests),
        max_header_bytes: table
            .integer("max_header_bytes", 8 << 10, 1 << 20)?
            .unwrap_or(defaults.max_header_bytes),
        max_body_bytes: table
            .integer("max_body_bytes", 0, 1 << 40)?
            .unwrap_or(defaults.max_body_bytes),
    }))
}

fn read_fields(
    root: &Table<'_>,
    contract: Contract,
    has_key_service: bool,
) -> Result<Option<LineFields>, ManifestError> {
    let Some(table) = root.table("fields")? else {
        return Ok(None);
    };
    if contract != Contract::Lines {
        return Err(root.invalid(
            "fields",
            "is for jobs of contract \"lines\" alone",
            "use that contract, or remove the table",
        ));
    }
    if !has_key_service {
        return Err(root.invalid(
            "fields",
            "cannot be opened or sealed without a key service",
            "add a table [key_service], or remove it",
        ));
    }
    table.only(&["open", "seal", "row", "context"])?;
    let names = |key| {
        let names = table.strings(key)?.unwrap_or_default();
        names
            .into_iter()
            .map(|name| name.checked(check::field_name))
            .collect::<Result<Vec<_>, _>>()
    };
    let (open, seal) = (names("open")?, names("seal")?);
    if open.is_empty() && seal.is_empty() {
        return Err(root.invalid(
            "fields",
            "names no field",
            "add open = [\"pan\"] or seal = [\"pan\"], or remove the table",
        ));
    }
    let mut context = BTreeMap::new();
    if let Some(pairs) = table.table("context")? {
        for name in pairs.names() {
            check::context_name(name)
                .map_err(|reason| pairs.invalid(name, reason.problem, reason.remedy))?;
            let value = pairs
                .required_string(name, "")?
                .checked(check::context_value)?;
            context.insert(name.to_owned(), value);
        }
    }
    Ok(Some(LineFields {
        open,
        seal,
        row: table
            .string("row")?
            .map(|row| row.checked(check::row_name))
            .transpose()?,
        context,
    }))
}

fn read_key_service(table: &Table<'_>) -> Result<KeyService, ManifestError> {
    table.only(&["endpoint", "ca", "key", "region", "data_key_cache"])?;
    let endpoint = table.required_string("endpoint", "add endpoint = \"https://host:port\"")?;
    let authority = endpoint.checked(check::endpoint_authority)?;
    let endpoint = endpoint.text();
    Ok(KeyService {
        endpoint: endpoint.strip_suffix('/').unwrap_or(endpoint).to_owned(),
        ca: table
            .string("ca")?
            .map(|value| value.checked(check::file))
            .transpose()?,
        key: table
            .required_string(
                "key",
                "add the key that Decrypt and GenerateDataKey name, such as key = \"alias/cards\"",
            )?
            .checked(check::key_id)?,
        region: table
            .required_string(
                "region",
                "add the region that requests are signed for, such as region = \"us-east-1\"",
            )?
            .checked(check::region)?,
        data_key_cache: table
            .table("data_key_cache")?
            .map(|cache| read_data_key_cache(&cache))
            .transpose()?,
        authority,
    })
}

fn read_secrets(
    table: &Table<'_>,
    has_key_service: bool,
) -> Result<BTreeMap<String, Secret>, ManifestError> {
    let mut secrets = BTreeMap::new();
    for name in table.names() {
        check::secret_name(name)
            .map_err(|reason| table.invalid(name, reason.problem, reason.remedy))?;
        if !has_key_service {
            return Err(table.invalid(
                name,
                "cannot be opened without a key service",
                "add a table [key_service], or remove the secret",
            ));
        }
        let secret = table.required_table(name, "")?;
        secrets.insert(name.to_owned(), read_secret(&secret)?);
    }
    Ok(secrets)
}

fn read_secret(table: &Table<'_>) -> Result<Secret, ManifestError> {
    table.only(&["key", "as", "variable", "refresh_seconds"])?;
    let key = table
        .string("key")?
        .map(|value| value.checked(check::key_id))
        .transpose()?;
    let variable = table
        .string("variable")?
        .map(|value| value.checked(check::variable_name))
        .transpose()?;
    let ways = [("file", 0), ("environment", 1), ("api", 2)];
    let delivery = match (table.choice("as", &ways)?.unwrap_or(0), variable) {
        (0, None) => Delivery::File,
        (1, Some(variable)) => Delivery::Environment(variable),
        (2, None) => Delivery::Api,
        (1, None) => {
            return Err(table.invalid(
                "as",
                "needs the variable's name",
                "add variable = \"NAME\"",
            ));
        }
        _ => {
            return Err(table.invalid(
                "variable",
                "is for secrets in the environment alone",
                "add as = \"environment\", or remove the variable",
            ));
        }
    };
    let refresh_seconds = table.integer("refresh_seconds", 1, 86_400)?;
    if refresh_seconds.is_some() && matches!(delivery, Delivery::Environment(_)) {
        return Err(table.invalid(
            "refresh_seconds",
            "cannot be kept: a process keeps the environment that it was started with",
            "give the secret as = \"file\" or as = \"api\"",
        ));
    }
    Ok(Secret {
        key,
        delivery,
        refresh_seconds,
    })
}

fn read_data_key_cache(table: &Table<'_>) -> Result<DataKeyCache, ManifestError> {
    table.only(&["capacity", "max_age_seconds", "max_messages", "max_bytes"])?;
    let defaults = DataKeyCache::default();
    Ok(DataKeyCache {
        capacity: table
            .integer("capacity", 1, 10_000)?
            .unwrap_or(defaults.capacity),
        max_age_seconds: table
            .integer("max_age_seconds", 1, 86_400)?
            .unwrap_or(defaults.max_age_seconds),
        max_messages: table
            .integer("max_messages", 1, 1 << 32)?
            .unwrap_or(defaults.max_messages),
        max_bytes: table
            .integer("max_bytes", 1, 1 << 62)?
            .unwrap_or(defaults.max_bytes),
    })
}

fn read_api(
    table: &Table<'_>,
    has_key_service: bool,
    known: &BTreeMap<String, Secret>,
) -> Result<Api, ManifestError> {
    table.only(&["grant", "secrets", "extend_pcrs"])?;
    let grant: BTreeSet<Grant> = table
        .choices("grant", &Grant::ALL)?
        .unwrap_or_default()
        .into_iter()
        .collect();
    let of_keys = [Grant::Open, Grant::Seal, Grant::DataKeys];
    if !has_key_service && of_keys.iter().any(|of_keys| grant.contains(of_keys)) {
        return Err(table.invalid(
            "grant",
            "names open, seal or data-keys, for which there is no key service",
            "add a table [key_service], or leave them out",
        ));
    }
    if grant.contains(&Grant::AttestPublicKey) && !grant.contains(&Grant::Attest) {
        return Err(table.invalid(
            "grant",
            "names attest-public-key without attest",
            "add \"attest\"",
        ));
    }
    let mut secrets = BTreeSet::new();
    for name in table.strings("secrets")?.unwrap_or_default() {
        let name = name.checked(|name| check::one_of(name, known))?;
        secrets.insert(name);
    }
    let extend_pcrs = table
        .integers("extend_pcrs", 16, 31)?
        .unwrap_or_default()
        .into_iter()
        .collect();
    Ok(Api {
        grant,
        secrets,
        extend_pcrs,
    })
}

fn read_log(table: &Table<'_>, has_key_service: bool) -> Result<Log, ManifestError> {
    table.only(&["job_stderr", "personal_data", "encrypt_to"])?;
    let encrypt_to = table
        .string("encrypt_to")?
        .map(|key| key.checked(check::key_id))
        .transpose()?;
    if encrypt_to.is_some() && !has_key_service {
        return Err(table.invalid(
            "encrypt_to",
            "names a key for which there is no key service",
            "add a table [key_service], or leave it out",
        ));
    }
    let defaults = Log::default();
    let stderr = [("drop", JobStderr::Drop), ("forward", JobStderr::Forward)];
    let personal = [
        ("redact", PersonalData::Redact),
        ("keep", PersonalData::Keep),
    ];
    Ok(Log {
        job_stderr: table
            .choice("job_stderr", &stderr)?
            .unwrap_or(defaults.job_stderr),
        personal_data: table
            .choice("personal_data", &personal)?
            .unwrap_or(defaults.personal_data),
        encrypt_to,
    })
}

fn read_egress(table: &Table<'_>) -> Result<Egress, ManifestError> {
    table.only(&["allow"])?;
    let entries = table.strings("allow")?.unwrap_or_default();
    let allow = entries
        .into_iter()
        .map(|entry| entry.checked(check::pattern))
        .collect::<Result<_, _>>()?;
    Ok(Egress { allow })
}
