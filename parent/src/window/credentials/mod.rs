//! The host's own AWS credentials, handed to the enclave under `GET /credentials` for its requests to the key service.
//!
//! They let the enclave ask; what it may have, the key policy decides by its attestation. Where they come from is said by
//! whoever starts the enclave ([`CredentialsSource`]); what an AWS SDK would find by itself is found in the same order, but only
//! where that was asked for. Those that expire are fetched anew before they do, once for all who ask, and kept as long as they
//! are valid where that fails. Never print or log them.

mod container;
mod fetch;
mod imds;
mod profile;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

pub use container::ContainerProblem;
pub use fetch::FetchError;
pub use profile::{ProfileProblem, read_profile};

/// The most bytes that a credentials file may have, and an answer with credentials.
const LARGEST: u64 = 64 * 1024;

/// How long before they expire credentials are fetched anew. AWS has new ones five minutes before at the latest.
const AHEAD: Duration = Duration::from_mins(5);

/// After a fetch that failed, or brought nothing newer, while there are valid ones.
const PAUSE: Duration = Duration::from_secs(15);

/// After a fetch that failed while there are none.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// How long those that do not say when they expire are relied on: after less than a minute they are fetched anew.
const UNDATED: Duration = Duration::from_secs(5 * 60 + 45);

/// A way of AWS's SDKs that does not exist here.
const WEB_IDENTITY: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

/// Where the credentials come from, as a choice that can be passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialsSource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` of the process that serves the window,
    /// captured at its start. Where the first two are absent there are no credentials.
    #[default]
    Environment,
    /// A file with container-credentials JSON (`AccessKeyId`, `SecretAccessKey`, `Token`, `Expiration`), or what
    /// `aws configure export-credentials` prints (`SessionToken`), read anew for each request, so that whoever refreshes them
    /// replaces the file.
    File(PathBuf),
    /// A profile of the shared credentials and configuration files (`~/.aws/credentials`, `~/.aws/config`, or those that
    /// `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE` name), read anew for each request. Its name; else `AWS_PROFILE`, else
    /// `default`.
    Profile(Option<String>),
    /// The endpoint that `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `AWS_CONTAINER_CREDENTIALS_FULL_URI` names.
    Container,
    /// The role of the EC2 instance, by version 2 of its metadata service.
    Imds,
    /// The first that there is, in the order of AWS's SDKs: environment, profile, container, IMDS.
    Auto,
    /// None: the enclave is answered 404.
    Nothing,
}

/// Why a text names no source of credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no source of credentials: write environment, profile, profile:NAME, file:PATH, container, imds, auto or nothing"
)]
pub struct SourceError(String);

impl FromStr for CredentialsSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        Ok(match text.split_once(':') {
            Some(("profile", name)) if !name.is_empty() => Self::Profile(Some(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Self::File(path.into()),
            Some(_) => return Err(SourceError(text.chars().take(80).collect())),
            None => match text {
                "environment" => Self::Environment,
                "profile" => Self::Profile(None),
                "container" => Self::Container,
                "imds" => Self::Imds,
                "auto" => Self::Auto,
                "nothing" => Self::Nothing,
                _ => return Err(SourceError(text.chars().take(80).collect())),
            },
        })
    }
}

/// Why there are no credentials although a source for them was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// One of the two variables that go together is missing or empty.
    #[error("{present} is set but {missing} is not: set both, or neither")]
    Incomplete {
        /// The variable that is set.
        present: &'static str,
        /// The variable that is missing.
        missing: &'static str,
    },
    /// A variable holds something that no credentials have.
    #[error("{0} is not printable ASCII: set it again")]
    NotAscii(&'static str),
    /// The file cannot be read.
    #[error("the credentials file {} cannot be read: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// The file is not what it should be. What it holds is not repeated.
    #[error("the credentials file {} is not container-credentials JSON with AccessKeyId and SecretAccessKey", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The profile cannot be used.
    #[error("the profile {profile:?}: {problem}")]
    Profile {
        /// Its name.
        profile: String,
        /// What is wrong with it.
        problem: ProfileProblem,
    },
    /// The container's endpoint cannot be asked.
    #[error("{0}")]
    Container(ContainerProblem),
    /// An endpoint gave none.
    #[error("{from} gave no credentials: {error}")]
    Fetch {
        /// What was asked.
        from: &'static str,
        /// What went wrong.
        error: FetchError,
    },
    /// A way of AWS's SDKs that does not exist here comes before those that do.
    #[error(
        "{0} is set, and web identities are not supported here: unset it, or hand in what `aws configure export-credentials` prints"
    )]
    WebIdentity(&'static str),
    /// Those that there are have expired.
    #[error("the credentials from {from} have expired at {at}")]
    Expired {
        /// Where they came from.
        from: &'static str,
        /// When.
        at: Timestamp,
    },
}

/// Credentials in the field names of the AWS container credentials endpoint.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerCredentials {
    access_key_id: String,
    secret_access_key: String,
    /// `SessionToken` in what a `credential_process` and `aws configure export-credentials` print.
    #[serde(
        default,
        alias = "SessionToken",
        skip_serializing_if = "Option::is_none"
    )]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
}

impl Drop for ContainerCredentials {
    fn drop(&mut self) {
        self.secret_access_key.zeroize();
        self.token.zeroize();
    }
}

impl ContainerCredentials {
    /// Reads an endpoint's or a file's JSON. What else it holds is left out.
    fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(json)
            .ok()
            .filter(|found| !found.access_key_id.is_empty() && !found.secret_access_key.is_empty())
    }

    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Sized for the worst escaping up front, so that growth leaves no copy behind.
        let text = |field: &Option<String>| field.as_ref().map_or(0, String::len);
        let characters = self.access_key_id.len()
            + self.secret_access_key.len()
            + text(&self.token)
            + text(&self.expiration);
        let mut json = Zeroizing::new(Vec::with_capacity(6 * characters + 128));
        serde_json::to_writer(&mut *json, self).expect("strings always serialize");
        json
    }
}

/// Whether anything is container-credentials JSON: what an endpoint may answer. For fuzzing.
pub fn is_credentials_json(json: &[u8]) -> bool {
    ContainerCredentials::read(json).is_some()
}

/// What a source gave.
struct Given {
    json: Zeroizing<Vec<u8>>,
    expires: Option<Timestamp>,
    fetched: Timestamp,
    from: &'static str,
}

impl Given {
    fn new(credentials: &ContainerCredentials, from: &'static str) -> Result<Self, FetchError> {
        let expires = match &credentials.expiration {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| FetchError::Expiration)?),
        };
        Ok(Self {
            json: credentials.to_json(),
            expires,
            fetched: Timestamp::now(),
            from,
        })
    }

    /// When they expire, or are no longer to be relied on.
    fn until(&self) -> Timestamp {
        self.expires
            .or_else(|| self.fetched.checked_add(UNDATED).ok())
            .unwrap_or(self.fetched)
    }
}

/// Credentials without themselves: what may be said of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Where they come from, in words.
    pub from: &'static str,
    /// Until when they are valid, where that is known.
    pub expires: Option<Timestamp>,
}

/// The variables that sources are found by, as they were when the window opened.
type Variables = Box<dyn Fn(&'static str) -> Option<OsString> + Send + Sync>;

/// What answers `GET /credentials`.
pub struct Credentials(Kept);

enum Kept {
    Nothing,
    Captured(Zeroizing<Vec<u8>>),
    File(PathBuf),
    Profile(profile::Profiles),
    Fetched(Fetched),
    Auto {
        profiles: profile::Profiles,
        fetched: Option<Fetched>,
    },
}

impl Default for Credentials {
    fn default() -> Self {
        Self::nothing()
    }
}

/// Where credentials are fetched from over the network.
enum Endpoint {
    Container(container::Container),
    Imds(imds::Imds),
}

impl Endpoint {
    fn from(&self) -> &'static str {
        match self {
            Endpoint::Container(_) => "the container's endpoint",
            Endpoint::Imds(_) => "the instance's metadata service",
        }
    }

    async fn fetch(&self) -> Result<Given, CredentialsError> {
        let from = self.from();
        let fetched = match self {
            Endpoint::Container(container) => container.fetch().await,
            Endpoint::Imds(imds) => imds.fetch().await,
        };
        fetched
            .and_then(|credentials| Given::new(&credentials, from))
            .map_err(|error| CredentialsError::Fetch { from, error })
    }
}

/// Credentials that are fetched, and kept until others are due.
struct Fetched {
    endpoint: Endpoint,
    last: RwLock<Option<Arc<Given>>>,
    /// Held by the one who fetches.
    flight: Mutex<Flight>,
}

#[derive(Default)]
struct Flight {
    /// When to try again, at the earliest.
    next: Option<Timestamp>,
    failure: Option<CredentialsError>,
}

/// What is to be done about credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// They are good.
    No,
    /// They are still good, but new ones should be fetched.
    Soon,
    /// There are none that are good.
    Now,
}

/// Pure, so that it can be tested without a clock. `until` is when they expire.
fn due(until: Option<Timestamp>, now: Timestamp) -> Due {
    match until {
        None => Due::Now,
        Some(until) if now >= until => Due::Now,
        Some(until) if now.saturating_add(AHEAD).is_ok_and(|then| then >= until) => Due::Soon,
        Some(_) => Due::No,
    }
}

impl Fetched {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            last: RwLock::default(),
            flight: Mutex::default(),
        }
    }

    fn last(&self) -> Option<Arc<Given>> {
        self.last
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The last ones where they are good. One caller at a time fetches; where there are good ones, nobody else waits for it.
    async fn current(&self) -> Result<Arc<Given>, CredentialsError> {
        let last = self.last();
        let wanted = due(last.as_deref().map(Given::until), Timestamp::now());
        let mut flight = match (wanted, last) {
            (Due::No, Some(last)) => return Ok(last),
            (Due::Soon, Some(last)) => match self.flight.try_lock() {
                Ok(flight) => flight,
                Err(_) => return Ok(last),
            },
            _ => self.flight.lock().await,
        };
        // Another may have fetched while this one waited.
        let last = self.last();
        let now = Timestamp::now();
        let wanted = due(last.as_deref().map(Given::until), now);
        let may_try = flight.next.is_none_or(|next| now >= next);
        if wanted != Due::No && may_try {
            let fetched = self.endpoint.fetch().await;
            let pause = match (&fetched, wanted) {
                (Err(_), Due::Now) => SHORT_PAUSE,
                _ => PAUSE,
            };
            flight.next = Timestamp::now().checked_add(pause).ok();
            match fetched {
                Ok(given) => {
                    *self.last.write().unwrap_or_else(PoisonError::into_inner) =
                        Some(Arc::new(given));
                    flight.failure = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "credentials cannot be fetched anew");
                    flight.failure = Some(error);
                }
            }
        }
        let now = Timestamp::now();
        match (self.last(), &flight.failure) {
            (Some(given), _) if given.expires.is_none_or(|at| now < at) => Ok(given),
            (_, Some(error)) => Err(error.clone()),
            (Some(given), None) => Err(CredentialsError::Expired {
                from: given.from,
                at: given.expires.unwrap_or(now),
            }),
            (None, None) => Err(CredentialsError::Fetch {
                from: self.endpoint.from(),
                error: FetchError::Later,
            }),
        }
    }
}

impl Credentials {
    /// No credentials: every request is answered 404.
    pub fn nothing() -> Self {
        Self(Kept::Nothing)
    }

    /// Captures the environment, or notes the source and checks what can be checked without asking anybody.
    pub fn open(source: &CredentialsSource) -> Result<Self, CredentialsError> {
        let variables: Variables = Box::new(|name| std::env::var_os(name));
        Self::open_with(source, &variables, container::TASKS)
    }

    /// `tasks` is where a container's relative URI leads.
    fn open_with(
        source: &CredentialsSource,
        variables: &Variables,
        tasks: std::net::SocketAddr,
    ) -> Result<Self, CredentialsError> {
        let imds = || imds::Imds::from_variables(variables).map(Endpoint::Imds);
        let kept = match source {
            CredentialsSource::Nothing => Kept::Nothing,
            CredentialsSource::Environment => return Self::from_variables(variables),
            CredentialsSource::File(path) => {
                read_file(path)?;
                Kept::File(path.clone())
            }
            CredentialsSource::Profile(name) => {
                let profiles = profile::Profiles::from_variables(variables, name.clone());
                profiles.read_named()?;
                Kept::Profile(profiles)
            }
            CredentialsSource::Container => {
                let container = container::Container::from_variables(variables, tasks)
                    .map_err(CredentialsError::Container)?
                    .ok_or(CredentialsError::Container(ContainerProblem::Unset))?;
                Kept::Fetched(Fetched::new(Endpoint::Container(container)))
            }
            CredentialsSource::Imds => {
                let imds = imds().ok_or(CredentialsError::Fetch {
                    from: "the instance's metadata service",
                    error: FetchError::Disabled,
                })?;
                Kept::Fetched(Fetched::new(imds))
            }
            CredentialsSource::Auto => {
                let captured = Self::from_variables(variables)?;
                if !matches!(captured.0, Kept::Nothing) {
                    return Ok(captured);
                }
                if variables(WEB_IDENTITY).is_some_and(|value| !value.is_empty()) {
                    return Err(CredentialsError::WebIdentity(WEB_IDENTITY));
                }
                let profiles = profile::Profiles::from_variables(variables, None);
                profiles.read()?;
                let container = container::Container::from_variables(variables, tasks)
                    .map_err(CredentialsError::Container)?;
                let endpoint = container.map(Endpoint::Container).or_else(imds);
                Kept::Auto {
                    profiles,
                    fetched: endpoint.map(Fetched::new),
                }
            }
        };
        Ok(Self(kept))
    }

    fn from_variables(variable: &Variables) -> Result<Self, CredentialsError> {
        const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
        const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
        const TOKEN: &str = "AWS_SESSION_TOKEN";
        let text = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => match value.into_string() {
                Ok(value) if value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(value)),
                _ => Err(CredentialsError::NotAscii(name)),
            },
        };
        let (access_key_id, secret_access_key) = match (text(KEY_ID)?, text(SECRET)?) {
            (None, None) => return Ok(Self::nothing()),
            (Some(_), None) => {
                return Err(CredentialsError::Incomplete {
                    present: KEY_ID,
                    missing: SECRET,
                });
            }
            (None, Some(mut secret)) => {
                secret.zeroize();
                return Err(CredentialsError::Incomplete {
                    present: SECRET,
                    missing: KEY_ID,
                });
            }
            (Some(id), Some(secret)) => (id, secret),
        };
        let credentials = ContainerCredentials {
            access_key_id,
            secret_access_key,
            token: text(TOKEN)?,
            expiration: None,
        };
        Ok(Self(Kept::Captured(credentials.to_json())))
    }

    /// Container-credentials JSON, or `None` where there are no credentials. Files are read, so it may block briefly.
    pub async fn json(&self) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialsError> {
        self.current(|given| given.json.clone()).await
    }

    /// Where they come from, and until when they are valid; `None` where there are none.
    pub async fn describe(&self) -> Result<Option<Described>, CredentialsError> {
        self.current(|given| Described {
            from: given.from,
            expires: given.expires,
        })
        .await
    }

    async fn current<T>(
        &self,
        use_them: impl FnOnce(&Given) -> T,
    ) -> Result<Option<T>, CredentialsError> {
        match &self.0 {
            Kept::Nothing => Ok(None),
            Kept::Captured(json) => Ok(Some(use_them(&Given {
                json: json.clone(),
                expires: None,
                fetched: Timestamp::now(),
                from: "the environment",
            }))),
            Kept::File(path) => Ok(Some(use_them(&read_file(path)?))),
            Kept::Profile(profiles) => {
                Ok(Some(use_them(&given_by_profile(&profiles.read_named()?))))
            }
            Kept::Fetched(fetched) => fetched.current().await.map(|given| Some(use_them(&given))),
            Kept::Auto { profiles, fetched } => match (profiles.read()?, fetched) {
                (Some(credentials), _) => Ok(Some(use_them(&given_by_profile(&credentials)))),
                (None, Some(fetched)) => {
                    fetched.current().await.map(|given| Some(use_them(&given)))
                }
                (None, None) => Ok(None),
            },
        }
    }
}

fn given_by_profile(credentials: &ContainerCredentials) -> Given {
    Given {
        json: credentials.to_json(),
        expires: None,
        fetched: Timestamp::now(),
        from: "a profile",
    }
}

/// Reads a file whole, if it is not too large.
fn read_whole(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(LARGEST as usize + 1));
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 64 KiB"));
    }
    Ok(text)
}

fn read_file(path: &Path) -> Result<Given, CredentialsError> {
    let text = read_whole(path).map_err(|error| CredentialsError::Unreadable {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    // Read and written anew, so that only the known fields leave and nothing else that the file holds.
    let malformed = || CredentialsError::Malformed {
        path: path.to_owned(),
    };
    let credentials = ContainerCredentials::read(&text).ok_or_else(malformed)?;
    Given::new(&credentials, "a file").map_err(|_| malformed())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests;
