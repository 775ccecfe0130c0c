//! The control port: health, attestation and calls, over HTTP/1.1 on vsock.
//!
//! Its client is the parent, and hostile: everything it sends is bounded in size, time and number, and nothing that it
//! can send may end the enclave. Answers name what went wrong without any plaintext.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::call::{self, CallError};
use crate::clock::{self, Clock};
use crate::data_key_cache;
use crate::keys::{self, KeyService, Keys, Recipient};
use crate::nsm::{Claims, Nsm, NsmError};
use crate::secrets::Secrets;
use crate::service::{Service, Standing};
use crate::stream::{Listener, Parent};
use crate::window::Window;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 128;
/// How long a request's head may take, and a connection idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines in a request's head.
const MAX_HEADERS: usize = 32;
/// Largest body of a request for attestation: the NSM takes 4 KiB, which is twice that in hexadecimal.
const MAX_ATTEST_BYTES: usize = 16 * 1024;
/// How long that body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the control port serves.
pub struct Control<P, N, S> {
    /// For people, from the manifest.
    pub name: Option<String>,
    /// Version of the image, from the manifest.
    pub version: Option<String>,
    /// Signs documents.
    pub nsm: Arc<N>,
    /// This enclave's RSA key.
    pub recipient: Recipient,
    /// The parent's window.
    pub window: Arc<Window<P>>,
    /// Calls, where the image takes any.
    pub calls: Option<Calls<N, S>>,
    /// The job that answers requests, where it does. Nothing but how it stands is said of it here: requests reach it
    /// through TLS alone.
    pub service: Option<Arc<Service>>,
    /// The time, of which `/health` says how documents and the monotonic clock agree.
    pub clock: Arc<Clock>,
    /// The key service, of which `/health` says how many of its calls were saved.
    pub keys: Option<Arc<Keys<N, S>>>,
    /// What `/health` says of calls.
    pub counts: Arc<Counts>,
}

/// Calls by number, for a parent that watches, or that waits for the last one before it ends this enclave.
#[derive(Debug, Default)]
pub struct Counts {
    open: AtomicU64,
    begun: AtomicU64,
    failed: AtomicU64,
}

/// A connection with a call on it, until its last byte is out.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What calls need.
pub struct Calls<N, S> {
    /// What every call has in common.
    pub terms: Arc<call::Terms<N, S>>,
    /// What jobs wait for.
    pub secrets: Arc<Secrets>,
    /// Calls that may run at a time.
    pub permits: Arc<Semaphore>,
    /// The last failure, for those who were sent a broken result and ask why.
    pub last_error: Arc<Mutex<Option<Failure>>>,
}

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// A word for programs.
    pub error: String,
    /// A sentence for people.
    pub message: String,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Serves whoever dials, until the enclave ends.
pub async fn serve<P: Parent, N: Nsm, S: KeyService>(
    control: Arc<Control<P, N, S>>,
    listener: Listener,
) -> Infallible {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&room)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok(stream) => {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    connection(control, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                crate::log!("a connection to the control port was lost: {error}");
                // Out of descriptors or memory, most likely: others must end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub async fn connection<P: Parent, N: Nsm, S: KeyService>(
    control: Arc<Control<P, N, S>>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let open = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        if request.uri().path() == "/call" {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.get_or_insert_with(|| Open::new(&control.counts));
        }
        let control = Arc::clone(&control);
        async move { Ok::<_, Infallible>(control.answer(request).await) }
    });
    // A connection that breaks is the parent's affair; calls log their own failures.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .auto_date_header(false)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl<P: Parent, N: Nsm, S: KeyService> Control<P, N, S> {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health") => self.health(),
            (&Method::POST, "/attest") => self.attest(request.into_body()).await,
            (&Method::POST, "/call") => self.call(request.into_body()).await,
            (&Method::GET, "/calls/last-error") => self.last_error(),
            (_, "/health" | "/attest" | "/call" | "/calls/last-error") => failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "GET /health, POST /attest, POST /call and GET /calls/last-error are served here",
            ),
            _ => failure(
                StatusCode::NOT_FOUND,
                "not_found",
                "GET /health, POST /attest, POST /call and GET /calls/last-error are served here",
            ),
        }
    }

    fn health(&self) -> Answer {
        #[derive(Serialize)]
        struct Health<'a> {
            status: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<&'a str>,
            calls: bool,
            calls_open: u64,
            calls_begun: u64,
            calls_failed: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            http: Option<Standing>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data_keys: Option<data_key_cache::Standing>,
            clock: clock::Standing,
        }
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        json(
            StatusCode::OK,
            &Health {
                status: "serving",
                name: self.name.as_deref(),
                version: self.version.as_deref(),
                calls: self.calls.is_some(),
                calls_open: count(&self.counts.open),
                calls_begun: count(&self.counts.begun),
                calls_failed: count(&self.counts.failed),
                http: self.service.as_ref().map(|service| service.standing()),
                data_keys: self
                    .keys
                    .as_ref()
                    .and_then(|keys| Some(keys.cache()?.standing())),
                clock: self.clock.standing(),
            },
        )
    }

    async fn attest(&self, body: Incoming) -> Answer {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields)]
        struct Wishes {
            nonce: Option<String>,
            user_data: Option<String>,
            recipient_key: Option<bool>,
        }
        let collected =
            tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_ATTEST_BYTES).collect());
        let Ok(Ok(body)) = collected.await else {
            return failure(
                StatusCode::BAD_REQUEST,
                "request",
                "the body did not come in whole, or is larger than 16 KiB",
            );
        };
        let body = body.to_bytes();
        let wishes = if body.is_empty() {
            Ok(Wishes::default())
        } else {
            serde_json::from_slice::<Wishes>(&body)
        };
        let wishes = match wishes {
            Ok(wishes) => wishes,
            Err(error) => {
                return failure(
                    StatusCode::BAD_REQUEST,
                    "request",
                    &format!(
                        "the body is not {{\"nonce\": hex, \"user_data\": hex, \"recipient_key\": bool}}: {error}"
                    ),
                );
            }
        };
        let bytes = |text: Option<String>| text.map(hex::decode).transpose();
        let (Ok(nonce), Ok(user_data)) = (bytes(wishes.nonce), bytes(wishes.user_data)) else {
            return failure(
                StatusCode::BAD_REQUEST,
                "request",
                "nonce and user_data must be hexadecimal, two digits for each byte",
            );
        };
        if user_data
            .as_deref()
            .is_some_and(anchorhold_channel::is_reserved)
        {
            return failure(
                StatusCode::BAD_REQUEST,
                "request",
                "user_data that begins with \"anchorhold:\" is the runtime's alone",
            );
        }
        let public_key = if wishes.recipient_key == Some(true) {
            match self.recipient.key().await {
                Ok(key) => Some(key.public_key_der().to_vec()),
                Err(error) => {
                    return failure(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "recipient_key",
                        &error.to_string(),
                    );
                }
            }
        } else {
            None
        };
        let claims = Claims {
            nonce,
            user_data,
            public_key,
        };
        match keys::attest(&self.nsm, claims).await {
            Ok(document) => {
                let mut answer = Response::new(whole(document.into()));
                answer.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/cbor"),
                );
                answer
            }
            Err(error @ NsmError::Refused { .. }) => {
                failure(StatusCode::BAD_REQUEST, "nsm", &error.to_string())
            }
            Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, "nsm", &error.to_string()),
        }
    }

    async fn call(&self, body: Incoming) -> Answer {
        let Some(calls) = &self.calls else {
            return failure(
                StatusCode::CONFLICT,
                "no_calls",
                "this image takes no calls: its anchorhold.toml has no [key_service], or another job.contract than \"lines\"",
            );
        };
        let Ok(permit) = Arc::clone(&calls.permits).try_acquire_owned() else {
            return failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "as many calls are running as this enclave takes at a time (two for each of resources.cpus): try again",
            );
        };
        let secrets = Arc::clone(&calls.secrets);
        let window = Arc::clone(&self.window);
        let keys = Arc::clone(&calls.terms.keys);
        let before = async move { Ok(secrets.ensure(&window, &keys).await?) };
        let last_error = Arc::clone(&calls.last_error);
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        let counts = Arc::clone(&self.counts);
        let failed = move |error: &CallError| {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            crate::log!("a call failed: {error}");
            *last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Failure {
                error: error.kind().to_owned(),
                message: error.to_string(),
            });
        };
        let terms = Arc::clone(&calls.terms);
        match call::begin(terms, body, before, permit, failed).await {
            Ok(reply) => {
                let mut answer = Response::new(reply.boxed_unsync());
                answer.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/octet-stream"),
                );
                answer
            }
            Err(error) => call_failure(&error),
        }
    }

    fn last_error(&self) -> Answer {
        let last = self.calls.as_ref().and_then(|calls| {
            calls
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        });
        match last {
            Some(last) => json(StatusCode::OK, &last),
            None => failure(StatusCode::NOT_FOUND, "none", "no call has failed"),
        }
    }
}

fn call_failure(error: &CallError) -> Answer {
    failure(error.status(), error.kind(), &error.to_string())
}

fn failure(status: StatusCode, error: &str, message: &str) -> Answer {
    json(
        status,
        &Failure {
            error: error.to_owned(),
            message: message.to_owned(),
        },
    )
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("strings and booleans always have a JSON form");
    let mut answer = Response::new(whole(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    answer
}

fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}
