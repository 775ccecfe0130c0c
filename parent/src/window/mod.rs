//! The window: the parent's HTTP/1.1 service to its enclave, on `<dir>/vsock.sock_8000`.
//!
//! - `CONNECT host:port` relays bytes to a target on the [`Allowlist`] and to nothing else.
//! - `GET /credentials` hands in the host's own AWS credentials ([`Credentials`]).
//! - `GET /secrets/<name>` hands in sealed secrets ([`SealedSecrets`]).
//!
//! Everything else is 404. The enclave trusts nothing of this, and the window trusts the enclave as little: requests,
//! connections and times are bounded. The window carries ciphertext; it must never hold a key to it.

mod allowlist;
mod credentials;
pub mod heartbeat;
mod ingress;
mod recorder;
mod relay;
mod secrets;

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
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
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use allowlist::{Allowlist, Host, Target, TargetError, forbidden};
pub use credentials::{Credentials, CredentialsError, CredentialsSource};
pub(crate) use ingress::Door;
pub use recorder::{Carried, Recorder};
pub use secrets::{LARGEST_SECRET, MOST_SECRETS, SealedSecrets, SecretError, SecretSource};

use relay::{DialError, Resolve};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; more wait to be accepted.
    pub connections: usize,
    /// Time for a request's head, and for the next request on a connection that stays.
    pub head: Duration,
    /// Time to resolve and connect to a target.
    pub connect: Duration,
    /// Time after which a relay on which nothing moves is closed.
    pub idle: Duration,
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
    /// Where relays may lead.
    pub allowlist: Allowlist,
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
    resolve: Resolve,
    complaints: AtomicU32,
}

type Answer = Response<Full<Bytes>>;

/// A relay that begins once the answer to its `CONNECT` is out.
struct Agreed {
    upgrade: OnUpgrade,
    remote: TcpStream,
}

impl Window {
    /// A window that resolves names by the host's resolver.
    pub fn new(config: WindowConfig) -> Arc<Self> {
        Self::with_resolver(config, relay::system_resolver())
    }

    fn with_resolver(mut config: WindowConfig, resolve: Resolve) -> Arc<Self> {
        Arc::new(Self {
            allowlist: RwLock::new(std::mem::take(&mut config.allowlist)),
            secrets: RwLock::new(std::mem::take(&mut config.secrets)),
            config,
            resolve,
            complaints: AtomicU32::new(0),
        })
    }

    /// From now on relays may lead there. Those that run go on.
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

    /// Serves for ever. Dropping the future closes every connection.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(self.config.limits.connections));
        let mut connections = JoinSet::new();
        loop {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let stream = accept(&listener).await;
            while connections.try_join_next().is_some() {}
            let window = self.clone();
            connections.spawn(async move {
                window.connection(stream).await;
                drop(place);
            });
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
            .header_read_timeout(self.config.limits.head)
            .max_buf_size(16 * 1024)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;

        let agreed = agreed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(Agreed { upgrade, remote }) = agreed else {
            return;
        };
        let Ok(upgraded) = upgrade.await else {
            return;
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<Carried<UnixStream>>>() else {
            unreachable!("the connection was made of exactly this type");
        };
        let end = relay::relay(
            parts.io.into_inner(),
            &parts.read_buf,
            remote,
            self.config.limits.idle,
        )
        .await;
        tracing::debug!(?end, "a relay ended");
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
            self.credentials()
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

    fn credentials(&self) -> Answer {
        match self.config.credentials.json() {
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
        let text = request.uri().authority().map_or("", |found| found.as_str());
        let target: Target = text.parse().map_err(|error: TargetError| {
            self.complain(REFUSED, &error);
            failure(
                StatusCode::FORBIDDEN,
                "target-refused",
                &error.to_string(),
                Some(&error.text),
            )
        })?;
        let name = target.to_string();
        let is_permitted = self
            .allowlist
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .permits(&target);
        if !is_permitted {
            let message = format!(
                "the parent's allowlist does not name {target}: start the enclave with it allowed, if it should be"
            );
            self.complain(REFUSED, &message);
            return Err(failure(
                StatusCode::FORBIDDEN,
                "target-refused",
                &message,
                Some(&name),
            ));
        }
        let remote = relay::dial(&target, &self.resolve, self.config.limits.connect)
            .await
            .map_err(|error| {
                self.complain(REFUSED, &error);
                let (status, kind) = match error {
                    DialError::Forbidden { .. } => (StatusCode::FORBIDDEN, "target-refused"),
                    DialError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "target-timed-out"),
                    DialError::Unresolvable { .. }
                    | DialError::NoAddress { .. }
                    | DialError::Unreachable { .. } => {
                        (StatusCode::BAD_GATEWAY, "target-unreachable")
                    }
                };
                failure(status, kind, &error.to_string(), Some(&name))
            })?;
        Ok(Agreed {
            upgrade: hyper::upgrade::on(request),
            remote,
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
