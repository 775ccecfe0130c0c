//! What the daemon tells of its enclaves: the shapes of the API's answers. Nothing here decides anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anchorhold_attestation::{ClaimedCertificate, ClaimedContent};
use serde::{Deserialize, Serialize};

use crate::lifecycle::{State, printable};

/// How a declared or started enclave stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// An instance was started, is being asked who it is, or gets its windows.
    Starting,
    /// An instance has attested, its windows are as declared, and it takes calls and connections.
    Serving,
    /// The last one has ended, and the next is due later.
    Waiting,
    /// It was stopped by hand, or its restart policy wants no other.
    Stopped,
    /// It was started without a declaration: shown, and left alone.
    Foreign,
}

/// One enclave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnclaveView {
    /// The declared name, or that of the instance where nothing declares it.
    pub name: String,
    /// Whether a file declares it.
    pub declared: bool,
    /// How it stands.
    pub condition: Condition,
    /// Starts after the first.
    pub restarts: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When the next start is due, in ms since 1970.
    pub next_start_ms: Option<u64>,
    /// What was verified of the instance that serves.
    pub attested: Option<Attested>,
    /// Its instances, oldest first, some of them ended.
    pub instances: Vec<State>,
}

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// When, in ms since 1970.
    pub at_ms: u64,
    /// The enclave's name in its document.
    pub module_id: String,
    /// The document's own time, in ms since 1970.
    pub document_ms: u64,
    /// The last moment of its certificate, in ms since 1970.
    pub certificate_not_after_ms: u64,
    /// SHA-256 of the root that it chains to.
    pub anchor: String,
    /// PCRs that are not zero.
    pub pcrs: BTreeMap<u8, String>,
    /// The document's certificates, the root first and the enclave's last.
    pub certificates: Vec<Certificate>,
}

/// A certificate of a verified document, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Whom it names, made printable.
    pub subject: String,
    /// SHA-256 of it.
    pub sha256: String,
    /// Its first second, in s since 1970.
    pub not_before: u64,
    /// Its last second, in s since 1970.
    pub not_after: u64,
}

impl From<ClaimedCertificate> for Certificate {
    fn from(certificate: ClaimedCertificate) -> Self {
        let (subject, not_before, not_after) = match &certificate.content {
            ClaimedContent::Certificate {
                subject,
                not_before,
                not_after,
                ..
            } => (printable(subject.as_bytes(), 256), *not_before, *not_after),
            _ => (String::new(), 0, 0),
        };
        Self {
            subject,
            sha256: certificate.sha256.clone(),
            not_before,
            not_after,
        }
    }
}

/// What `run` asks for: an enclave that no file declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The image file, by its absolute path on the daemon's host.
    pub image: PathBuf,
    /// Its name; else derived from the image's file name.
    #[serde(default)]
    pub name: Option<String>,
    /// `sandbox`, `qemu` or `nitro`.
    pub backend: crate::Backend,
    /// `namespaces` or `reduced`, on the sandbox backend.
    #[serde(default)]
    pub isolation: Option<String>,
    /// Memory in MiB; else the manifest's.
    #[serde(default)]
    pub memory_mib: Option<u32>,
    /// CPUs; else the manifest's.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Debug mode.
    #[serde(default)]
    pub debug: bool,
    /// What it may reach.
    #[serde(default)]
    pub egress: Vec<String>,
    /// Sealed secrets by name, in base64.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// The credentials that it is handed, as environment variables (`AWS_ACCESS_KEY_ID` …). Never kept, never shown.
    #[serde(default)]
    pub credentials: BTreeMap<String, String>,
    /// Where the credentials come from instead, seen from the daemon: `imds`, `container`, `profile:NAME`, `file:PATH`.
    #[serde(default)]
    pub credentials_from: Option<String>,
    /// A folder into which all that passes the window is recorded.
    #[serde(default)]
    pub record: Option<PathBuf>,
    /// How long it may take until it serves, in ms.
    #[serde(default)]
    pub start_limit_ms: Option<u64>,
}

/// What a stop may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How long calls and flows may go on, in s; 0: they are cut.
    #[serde(default)]
    pub drain_seconds: u32,
}

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Enclaves that were not declared before.
    pub added: Vec<String>,
    /// Enclaves of which another version takes over.
    pub replaced: Vec<String>,
    /// Enclaves of which settings change while they run.
    pub changed: Vec<String>,
    /// Enclaves that are declared no more, and drain.
    pub removed: Vec<String>,
    /// Settings of the daemon that count from its next start on.
    pub at_next_start: Vec<String>,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A word for programs.
    pub error: String,
    /// A sentence for people, with what to do.
    pub message: String,
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or in `/v1/ready` what is missing.
    pub status: String,
}
