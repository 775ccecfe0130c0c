//! The window: the parent's HTTP/1.1 service to its enclave, on `<dir>/vsock.sock_8000`.
//!
//! - `CONNECT host:port` relays bytes to a target that both the host's [`Allowlist`] and the measured manifest permit, and to
//!   nothing else.
//! - `GET /credentials` hands in the host's own AWS credentials ([`Credentials`]).
//! - `GET /secrets/<name>` hands in sealed secrets ([`SealedSecrets`]).
//!
//! Everything else is 404. The enclave trusts nothing of this, and the window trusts the enclave as little: requests,
//! connections and times are bounded. The window carries ciphertext; it must never hold a key to it.

mod counts;
mod credentials;
mod dial;
mod flow;
mod forbidden;
pub mod heartbeat;
pub mod ingress;
mod pipes;
mod recorder;
mod relay;
mod resolve;
mod secrets;

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument as _, debug_span};

pub use anchorhold_manifest::egress::{
    Allowlist, Host, Network, Pattern, PatternError, Target, TargetError,
};
pub use counts::{Counts, Latency};
pub use credentials::{
    ContainerProblem, Credentials, CredentialsError, CredentialsSource, Described, FetchError,
    ProfileProblem, SourceError, is_credentials_json, read_profile,
};
pub use forbidden::forbidden;
pub use ingress::Door;
pub use recorder::{Carried, Recorder};
pub use secrets::{LARGEST_SECRET, MOST_SECRETS, SealedSecrets, SecretError, SecretSource};

use counts::{Counters, Open, Reason};
use dial::DialError;
use flow::{Carriage, FlowEnd};
use resolve::Resolve;

/// Lines that one enclave may cause in the log; more would let it fill the host's disk.
const MOST_COMPLAINTS: u32 = 200;

/// What the log says of a target that is not reached.
const REFUSED: &str = "the enclave was not connected to a target";

/// The socket on which the host listens for what the enclave dials on a vsock port.
pub fn socket(dir: &Path, port: u32) -> PathBuf {
    dir.join(format!("vsock.sock_{port}"))
}

/// Binds [`socket`]. To be done before the enclave starts, so that it never dials too early.
pub fn bind(dir: &Path, port: u32) -> io::Result<StdUnixListener> {
    let listener = StdUnixListener::bind(socket(dir, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// How much of the host one enclave may take through its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once; more wait to be accepted.
    pub connections: usize,
    /// Time for a request's head, and for the next request on a connection that stays.
    #[serde(rename = "head_ms", with = "milliseconds")]
    pub head: Duration,
    /// Time to resolve and connect to a target.
    #[serde(rename = "connect_ms", with = "milliseconds")]
    pub connect: Duration,
    /// Time after which a flow in which nothing moves is cut.
    #[serde(rename = "idle_ms", with = "milliseconds")]
    pub idle: Duration,
}

/// A time as a number of ms.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Why bounds cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} = 0: it must be at least 1; leave it out for its default")]
pub struct LimitsError(pub &'static str);

impl Limits {
    /// Whether anything gets through with them.
    pub fn check(&self) -> Result<(), LimitsError> {
        let times = [
            ("head_ms", self.head),
            ("connect_ms", self.connect),
            ("idle_ms", self.idle),
        ];
        let zero = times.into_iter().find(|(_, time)| time.is_zero());
        if self.connections == 0 {
            return Err(LimitsError("connections"));
        }
        zero.map_or(Ok(()), |(name, _)| Err(LimitsError(name)))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            head: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            idle: Duration::from_mins(5),
        }
    }
}

/// What the window hands in and where it leads. The default hands in nothing and leads nowhere.
#[derive(Default)]
pub struct WindowConfig {
    /// Where relays may lead, by this host's word.
    pub allowlist: Allowlist,
    /// Where they may lead by the measured manifest's. An image without one says nothing about it: this host decides alone.
    pub measured: Option<Allowlist>,
    /// What `/credentials` answers.
    pub credentials: Credentials,
    /// What `/secrets/<name>` answers.
    pub secrets: SealedSecrets,
    /// Writes down all that passes.
    pub recorder: Option<Recorder>,
    /// Bounds.
    pub limits: Limits,
}

/// The window of one enclave.
pub struct Window {
    config: WindowConfig,
    allowlist: RwLock<Allowlist>,
    secrets: RwLock<SealedSecrets>,
    limits: RwLock<Limits>,
    resolve: Resolve,
    complaints: AtomicU32,
    counters: Counters,
    connections: AtomicUsize,
    room: Notify,
}

/// A place among the connections.
struct Place<'a>(&'a Window);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.room.notify_one();
    }
}

type Answer = Response<Full<Bytes>>;

/// A relay that begins once the answer to its `CONNECT` is out.
struct Agreed {
    upgrade: OnUpgrade,
    remote: TcpStream,
    asked: Instant,
}

impl Window {
    /// A window that resolves names by the host's resolver.
    pub fn new(config: WindowConfig) -> Arc<Self> {
        Self::with_resolver(config, resolve::system_resolver())
    }

    fn with_resolver(mut config: WindowConfig, resolve: Resolve) -> Arc<Self> {
        Arc::new(Self {
            allowlist: RwLock::new(std::mem::take(&mut config.allowlist)),
            secrets: RwLock::new(std::mem::take(&mut config.secrets)),
            limits: RwLock::new(config.limits),
            config,
            resolve,
            complaints: AtomicU32::new(0),
            counters: Counters::default(),
            connections: AtomicUsize::new(0),
            room: Notify::new(),
        })
    }

    /// From now on relays may lead there, as far as the measured manifest permits. Those that run go on.
    pub fn allow(&self, allowlist: Allowlist) {
        *self
            .allowlist
            .write()
            .unwrap_or_else(PoisonError::into_inner) = allowlist;
    }

    /// From now on these secrets are handed in.
    pub fn hand_in(&self, secrets: SealedSecrets) {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

    /// From now on new connections have these bounds.
    pub fn limit(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.room.notify_one();
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What writes down all that passes, where something does.
    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.config.recorder.as_ref()
    }

    /// Flows that are open.
    pub fn flows(&self) -> u64 {
        self.counters.open()
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// Waits for a place among the connections.
    async fn place(&self) {
        loop {
            let taken = self.connections.load(Ordering::Relaxed);
            if taken < self.limits().connections {
                self.connections.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.room.notified().await;
        }
    }

    /// Serves for ever. Dropping the future closes every connection.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let mut connections = JoinSet::new();
        loop {
            // Taken by this loop alone, so that nobody comes in between the look and the taking.
            self.place().await;
            let stream = accept(&listener).await;
            while connections.try_join_next().is_some() {}
            let window = self.clone();
            // What runs beside the loop that spawns it is not within its span.
            let span = debug_span!("window");
            let served = async move {
                let _place = Place(&window);
                window.connection(stream).await;
            };
            connections.spawn(served.instrument(span));
        }
    }

    async fn connection(&self, stream: UnixStream) {
        let stream = match Carried::new(stream, self.config.recorder.as_ref(), "window") {
            Ok(stream) => stream,
            Err(error) => {
                self.complain("a connection of the enclave was closed", &error);
                return;
            }
        };
        let limits = self.limits();
        let agreed = Mutex::new(None);
        let service = service_fn(|request| {
            let agreed = &agreed;
            async move {
                let (answer, relay) = self.answer(request).await;
                if relay.is_some() {
                    *agreed.lock().unwrap_or_else(PoisonError::into_inner) = relay;
                }
                Ok::<_, Infallible>(answer)
            }
        });
        // An error means that the enclave broke off or spoke no HTTP: it knows better than its parent which.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(16 * 1024)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;

        let agreed = agreed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(Agreed {
            upgrade,
            remote,
            asked,
        }) = agreed
        else {
            return;
        };
        let Ok(upgraded) = upgrade.await else {
            return;
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<Carried<UnixStream>>>() else {
            unreachable!("the connection was made of exactly this type");
        };
        let open = self.counters.begin(asked.elapsed());
        let end = match parts.io.into_inner().unrecorded() {
            Ok(enclave) => {
                self.flow(enclave, &parts.read_buf, remote, limits.idle)
                    .await
            }
            Err(recorded) => {
                let early = &parts.read_buf;
                relay::relay(recorded, early, remote, limits.idle, &self.counters).await
            }
        };
        self.ended(end, open);
    }

    async fn flow(
        &self,
        enclave: UnixStream,
        early: &[u8],
        remote: TcpStream,
        idle: Duration,
    ) -> FlowEnd {
        let carriage = Carriage {
            idle,
            most_bytes: None,
            pace: None,
            counters: &self.counters,
        };
        flow::carry(
            enclave.into(),
            remote.into(),
            (early.to_vec(), Vec::new()),
            carriage,
        )
        .await
    }

    fn ended(&self, end: FlowEnd, open: Open<'_>) {
        drop(open);
        if let Some(reason) = end.reason() {
            self.counters.refuse(reason);
        }
        tracing::debug!(?end, "a flow ended");
    }

    async fn answer(&self, mut request: Request<Incoming>) -> (Answer, Option<Agreed>) {
        if request.method() == Method::CONNECT {
            return match self.connect(&mut request).await {
                Ok(agreed) => (Response::new(Full::default()), Some(agreed)),
                Err(refusal) => (refusal, None),
            };
        }
        let path = request.uri().path();
        let known = path == "/credentials" || path.starts_with("/secrets/");
        let answer = if known && request.method() != Method::GET {
            let mut answer = failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "only GET is answered here",
                None,
            );
            answer
                .headers_mut()
                .insert(ALLOW, http::HeaderValue::from_static("GET"));
            answer
        } else if path == "/credentials" {
            self.credentials().await
        } else if let Some(name) = path.strip_prefix("/secrets/") {
            let sealed = self
                .secrets
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .sealed(name);
            match sealed {
                Some(sealed) => success("application/octet-stream", sealed),
                None => failure(
                    StatusCode::NOT_FOUND,
                    "no-such-secret",
                    "the parent was not handed a sealed secret of this name",
                    None,
                ),
            }
        } else {
            failure(
                StatusCode::NOT_FOUND,
                "not-found",
                "the parent answers CONNECT, /credentials and /secrets/<name>",
                None,
            )
        };
        (answer, None)
    }

    async fn credentials(&self) -> Answer {
        match self.config.credentials.json().await {
            Ok(Some(json)) => success("application/json", Bytes::from_owner(json)),
            Ok(None) => failure(
                StatusCode::NOT_FOUND,
                "no-credentials",
                "the parent was started without AWS credentials",
                None,
            ),
            Err(error) => {
                self.complain("the enclave's request for credentials failed", &error);
                failure(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "credentials-unavailable",
                    "the parent's source of credentials fails; its log says why",
                    None,
                )
            }
        }
    }

    async fn connect(&self, request: &mut Request<Incoming>) -> Result<Agreed, Answer> {
        let asked = Instant::now();
        let text = request.uri().authority().map_or("", |found| found.as_str());
        let target: Target = text.parse().map_err(|error: TargetError| {
            self.counters.refuse(Reason::Malformed);
            self.complain(REFUSED, &error);
            failure(
                StatusCode::FORBIDDEN,
                "target-refused",
                &error.to_string(),
                Some(&error.text),
            )
        })?;
        let name = target.to_string();
        let of_host = self
            .allowlist
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .permits(&target);
        let measured = &self.config.measured;
        let refusal = if !of_host {
            Some((
                Reason::HostList,
                format!(
                    "the parent's allowlist does not permit {target}: start the enclave with it allowed, if it should be"
                ),
            ))
        } else if measured.as_ref().is_some_and(|list| !list.permits(&target)) {
            Some((
                Reason::Manifest,
                format!(
                    "the measured manifest does not permit {target}: name it in [egress] and build the image again, if it should be"
                ),
            ))
        } else {
            None
        };
        if let Some((reason, message)) = refusal {
            self.counters.refuse(reason);
            self.complain(REFUSED, &message);
            return Err(failure(
                StatusCode::FORBIDDEN,
                "target-refused",
                &message,
                Some(&name),
            ));
        }
        let remote = dial::dial(&target, &self.resolve, self.limits().connect)
            .await
            .map_err(|error| {
                self.complain(REFUSED, &error);
                let unreachable = (StatusCode::BAD_GATEWAY, "target-unreachable");
                let ((status, kind), reason) = match error {
                    DialError::Forbidden { .. } => (
                        (StatusCode::FORBIDDEN, "target-refused"),
                        Reason::ForbiddenAddress,
                    ),
                    DialError::TimedOut { .. } => (
                        (StatusCode::GATEWAY_TIMEOUT, "target-timed-out"),
                        Reason::TimedOut,
                    ),
                    DialError::Unresolvable { .. } | DialError::NoAddress { .. } => {
                        (unreachable, Reason::Unresolvable)
                    }
                    DialError::Unreachable { .. } => (unreachable, Reason::Unreachable),
                };
                self.counters.refuse(reason);
                failure(status, kind, &error.to_string(), Some(&name))
            })?;
        Ok(Agreed {
            upgrade: hyper::upgrade::on(request),
            remote,
            asked,
        })
    }

    fn complain(&self, what: &'static str, why: &dyn std::fmt::Display) {
        let count = |before: u32| Some(before.saturating_add(1));
        let before = self
            .complaints
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
            .unwrap_or(u32::MAX);
        if before < MOST_COMPLAINTS {
            tracing::warn!(%why, "{what}");
        } else if before == MOST_COMPLAINTS {
            tracing::warn!("the enclave has caused enough lines here; no more are written");
        }
    }
}

fn success(kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    answer
}

fn failure(status: StatusCode, kind: &str, message: &str, target: Option<&str>) -> Answer {
    let mut body = serde_json::json!({ "error": kind, "message": message });
    if let Some(target) = target {
        body["target"] = target.into();
    }
    let mut answer = success("application/json", body.to_string().into());
    *answer.status_mut() = status;
    answer
}

/// Accepts, whatever happens. Where the host has run out of descriptors, waits for some to be freed.
pub(crate) async fn accept(listener: &UnixListener) -> UnixStream {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "connections of the enclave cannot be accepted now");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests;
