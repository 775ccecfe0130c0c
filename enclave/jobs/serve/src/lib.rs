//! HTTP for jobs in Rust, of contract `http`: listens where the runtime expects the job, hears requests within bounds, and
//! knows callers by the tokens that they show.
//!
//! Whoever asks is a stranger, and shares the job with all others: no request may hold more than its share of memory and
//! time, and nothing that a request said may be repeated in an error.

#![forbid(unsafe_code)]

pub mod callers;
mod lines;
mod rate;
mod settings;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode, request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Mutex, Semaphore};
use zeroize::Zeroizing;

pub use callers::{Caller, CallerSettings, Callers, CallersError};
pub use lines::{LineLimits, Room};
pub use rate::{Bucket, Rate};
pub use settings::{SETTINGS_VARIABLE, SettingsError, settings};

/// The variable that names the Unix socket to listen on.
pub const SOCKET_VARIABLE: &str = "ANCHORHOLD_HTTP_SOCKET";
/// The variable that has the port of 127.0.0.1 to listen on, in its place.
pub const PORT_VARIABLE: &str = "ANCHORHOLD_HTTP_PORT";

/// Connections at a time; more wait. The runtime makes as many as requests run, and no others.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection may wait for its next request: longer than the runtime keeps one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Lines in a request's head, and bytes of it.
const MAX_HEADERS: usize = 128;
const MAX_HEAD_BYTES: usize = 1024 * 1024 + 16 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a body is heard that nobody wanted, and for how long.
const MAX_REST_BYTES: usize = 16 * 1024 * 1024;
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On a Unix socket.
    Socket(PathBuf),
    /// On a port of 127.0.0.1.
    Port(u16),
}

/// There is no place to listen.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Neither variable is set.
    #[error(
        "neither {SOCKET_VARIABLE} nor {PORT_VARIABLE} is set: this is no job of contract \"http\""
    )]
    None,
    /// The port is none.
    #[error("{PORT_VARIABLE} is no port")]
    Port,
}

impl Place {
    /// Where the runtime expects the job.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn from_environment() -> Result<Place, PlaceError> {
        if let Some(path) = std::env::var_os(SOCKET_VARIABLE) {
            return Ok(Place::Socket(path.into()));
        }
        let port = std::env::var(PORT_VARIABLE).map_err(|_| PlaceError::None)?;
        port.parse().map(Place::Port).map_err(|_| PlaceError::Port)
    }
}

/// An answer.
pub type Response = http::Response<Full<Bytes>>;

/// Who answers requests.
pub trait Handler: Send + Sync + 'static {
    /// The answer. What fails is an answer too: see [`Failure`].
    fn answer(&self, request: Request) -> impl Future<Output = Result<Response, Failure>> + Send;
}

/// A request whose body was not heard yet.
pub struct Request {
    head: request::Parts,
    /// Shared with the connection, which hears what the handler leaves.
    body: Arc<Mutex<Incoming>>,
}

impl Request {
    /// Its method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Its path, without a query.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Its fields.
    pub fn headers(&self) -> &http::HeaderMap {
        &self.head.headers
    }

    /// Its body, whole.
    ///
    /// # Errors
    /// 413 where it is longer than `limit` bytes, 408 or 400 where it does not come in whole.
    pub async fn bytes(self, limit: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let whole = async {
            let mut body = self.body.lock().await;
            let mut bytes = Zeroizing::new(Vec::new());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| Failure::broken_off())?;
                let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                if bytes.len() + data.len() > limit {
                    return Err(Failure::too_large(limit));
                }
                bytes.extend_from_slice(data);
            }
            Ok(bytes)
        };
        tokio::time::timeout(BODY_TIMEOUT, whole)
            .await
            .unwrap_or_else(|_| Err(Failure::too_slow()))
    }

    /// Its body as JSON of a known form.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and 400 where it is something else.
    pub async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Failure> {
        let body = self.bytes(limit).await?;
        // The parser's own words would quote the body.
        serde_json::from_slice(&body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "has not the fields that openapi.json names",
                _ => "is not JSON",
            };
            Failure::new(
                StatusCode::BAD_REQUEST,
                "format",
                format!(
                    "the body {what} (line {}, column {})",
                    error.line(),
                    error.column()
                ),
            )
        })
    }
}

/// Why a request is not answered with what it asked for. Its message is for strangers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status.
    pub status: StatusCode,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
    /// Seconds after which it may work.
    pub retry_after: Option<u64>,
}

impl Failure {
    /// A failure.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            status,
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same, with the time after which another attempt makes sense.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Failure {
        self.retry_after = Some(wait.as_secs().max(1));
        self
    }

    /// There is no such path.
    pub fn not_found() -> Failure {
        let message = "there is no such path; /openapi.json has all of them";
        Failure::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// There is, by another method.
    pub fn method() -> Failure {
        let message = "this path is asked by another method; /openapi.json has all of them";
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
    }

    /// The body is too large.
    pub fn too_large(limit: usize) -> Failure {
        let message = format!("the body has more than {limit} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// Too much at a time.
    pub fn busy() -> Failure {
        let message = "too much is being worked on: ask again";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).after(Duration::ZERO)
    }

    fn broken_off() -> Failure {
        let message = "the body did not come in whole";
        Failure::new(StatusCode::BAD_REQUEST, "format", message)
    }

    fn too_slow() -> Failure {
        let message = format!("the body took more than {} seconds", BODY_TIMEOUT.as_secs());
        Failure::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        let body =
            serde_json::json!({ "error": { "code": failure.code, "message": failure.message } });
        let mut answer = with_type(failure.status, "application/json", body.to_string());
        let headers = answer.headers_mut();
        if failure.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = failure.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        answer
    }
}

/// An answer with a content type. What it was made of is wiped by whoever owned it, if that wipes itself.
pub fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Bytes that are wiped when the answer was sent.
pub fn wiped(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(bytes)
}

/// An answer of JSON.
///
/// # Panics
/// Where the value has a form that JSON does not have, such as a map with keys that are no strings.
pub fn json(value: &impl Serialize) -> Response {
    let text = Zeroizing::new(serde_json::to_vec(value).expect("values of answers are JSON"));
    with_type(StatusCode::OK, "application/json", wiped(text))
}

/// Answers whoever connects, for ever.
///
/// # Errors
/// The place cannot be listened on.
pub async fn serve(place: &Place, handler: impl Handler) -> io::Result<Infallible> {
    let (handler, room) = (Arc::new(handler), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    match place {
        Place::Socket(path) => {
            let listener = UnixListener::bind(path)?;
            loop {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                take(accepted, &handler, &room).await;
            }
        }
        Place::Port(port) => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await?;
            loop {
                let accepted = listener.accept().await.and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                take(accepted, &handler, &room).await;
            }
        }
    }
}

async fn take<S, H>(accepted: io::Result<S>, handler: &Arc<H>, room: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let Ok(stream) = accepted else {
        // Out of descriptors, most likely: some come back.
        tokio::time::sleep(Duration::from_millis(50)).await;
        return;
    };
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let handler = Arc::clone(handler);
    tokio::spawn(async move {
        let service = service_fn(|request: http::Request<Incoming>| {
            let handler = Arc::clone(&handler);
            async move {
                let (head, body) = request.into_parts();
                let body = Arc::new(Mutex::new(body));
                let rest = Arc::clone(&body);
                let answer = handler.answer(Request { head, body }).await;
                // Heard to its end, so that the connection serves the next request, and who is still sending gets to read
                // the answer.
                let _ = tokio::time::timeout(REST_TIMEOUT, drain(&rest)).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(Response::from))
            }
        });
        // A connection that breaks is its client's affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        drop(permit);
    });
}

/// Hears a body without keeping it.
async fn drain(body: &Mutex<Incoming>) {
    let mut body = body.lock().await;
    let mut left = MAX_REST_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// Removes what an earlier process left in the place of the socket. The runtime does so before it starts the job.
///
/// # Errors
/// The kernel's.
pub fn clear(socket: &Path) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
