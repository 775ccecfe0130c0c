//! A request on its way to the job, and the answer on its way back, within the manifest's limits.
//!
//! Whoever asks is a stranger and may be hostile; the job may be as well. Neither may hold more than its share: places,
//! bytes and time are bounded here, and both directions stream, so that memory stays flat. Fields that belong to one
//! connection, and those that only the runtime may set, must never be passed on.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::{Service, ServiceError};

/// Names of fields that begin so are the runtime's own: what it says to the job about a request. Nobody else's pass.
const RESERVED_PREFIX: &str = "x-anchorhold-";
/// Fields of one connection (RFC 9110, section 7.6.1), besides those that `Connection` names.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Lines in the head of the job's answer.
const MAX_ANSWER_HEADERS: usize = 256;
/// How long a connection to the job may wait for its next request.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// How long one may take to be done with its last request: the job may have answered before it had read all of it.
const REUSE_PATIENCE: Duration = Duration::from_millis(5);

/// Why a request has no answer from the job.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Too many at a time.
    #[error("as many requests are running as this service takes at a time: try again")]
    Busy,
    /// The head is too large.
    #[error("the request's head is larger than this service takes ({limit} bytes)")]
    HeadTooLarge {
        /// `http.max_header_bytes`.
        limit: usize,
    },
    /// The body is too large.
    #[error("the request's body is larger than this service takes ({limit} bytes)")]
    BodyTooLarge {
        /// `http.max_body_bytes`.
        limit: u64,
    },
    /// Not something to ask a job.
    #[error("the request cannot be passed on: {0}")]
    Request(&'static str),
    /// The client broke off.
    #[error("the request broke off")]
    Client,
    /// It takes too long.
    #[error("the request was not answered within {} seconds", .0.as_secs())]
    Timeout(Duration),
    /// The job is not there.
    #[error("{0}")]
    Service(#[from] ServiceError),
    /// The job's answer is none.
    #[error("the job broke off, or its answer is no HTTP")]
    Job,
}

impl RelayError {
    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            RelayError::Busy | RelayError::Service(_) => StatusCode::SERVICE_UNAVAILABLE,
            RelayError::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            RelayError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            RelayError::Request(_) | RelayError::Client => StatusCode::BAD_REQUEST,
            RelayError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            RelayError::Job => StatusCode::BAD_GATEWAY,
        }
    }

    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            RelayError::Busy => "busy",
            RelayError::HeadTooLarge { .. } => "head_too_large",
            RelayError::BodyTooLarge { .. } => "body_too_large",
            RelayError::Request(_) | RelayError::Client => "request",
            RelayError::Timeout(_) => "timeout",
            RelayError::Service(_) => "not_ready",
            RelayError::Job => "job",
        }
    }

    fn answer(&self) -> Response<RelayBody> {
        let body = serde_json::json!({ "error": self.kind(), "message": self.to_string() });
        let body = Full::new(Bytes::from(body.to_string()))
            .map_err(|never| match never {})
            .boxed_unsync();
        let mut answer = Response::new(RelayBody(body));
        *answer.status_mut() = self.status();
        answer.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// An answer's body. Dropped before its end, it ends the job's connection, so that the job hears of it.
pub struct RelayBody(UnsyncBoxBody<Bytes, io::Error>);

impl Body for RelayBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Service {
    /// Has the job answer a request that came through TLS that ends in this enclave, within the manifest's limits. What
    /// fails is answered too: 413, 431, 502, 503 or 504, with JSON that says why.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<RelayBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.pass_on(request).await {
            Ok(answer) => answer,
            Err(error) => error.answer(),
        }
    }

    async fn pass_on<B>(&self, request: Request<B>) -> Result<Response<RelayBody>, RelayError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let terms = self.terms();
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.tally.turned_away.fetch_add(1, Ordering::Relaxed);
            return Err(RelayError::Busy);
        };
        let request = prepared(request, terms.http.max_header_bytes)?;
        let limit = terms.http.max_body_bytes;
        if request.body().size_hint().lower() > limit {
            return Err(RelayError::BodyTooLarge { limit });
        }
        let fault = Arc::new(Fault::default());
        let request = request.map(|body| RequestBody {
            inner: body
                .map_err(|error| io::Error::other(error.into()))
                .boxed_unsync(),
            left: limit,
            fault: Arc::clone(&fault),
        });
        let deadline = Instant::now() + terms.request_timeout;
        let exchange = tokio::time::timeout_at(deadline, self.exchange(request)).await;
        let (answer, sender) = match exchange {
            Ok(Ok(whole)) => whole,
            Err(_) => return Err(RelayError::Timeout(terms.request_timeout)),
            Ok(Err(error)) => {
                return Err(if fault.too_large.load(Ordering::Relaxed) {
                    RelayError::BodyTooLarge { limit }
                } else if fault.broke_off.load(Ordering::Relaxed) {
                    RelayError::Client
                } else {
                    error
                });
            }
        };
        Ok(self.passed_back(answer, sender, permit, deadline))
    }

    /// Sends the request on a connection that waits, or on a new one. One that waited may just have been closed by the
    /// job: what it has not taken up, or what does the same twice as once, is sent on a new one.
    async fn exchange(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, SendRequest<RequestBody>), RelayError> {
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(mut sender) = self.idle.take()
            && let Ok(Ok(())) = tokio::time::timeout(REUSE_PATIENCE, sender.ready()).await
        {
            let copy = copy_if_repeatable(&request);
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, sender)),
                Err(mut error) => {
                    request = error.take_message().or(copy).ok_or(RelayError::Job)?;
                }
            }
        }
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(MAX_ANSWER_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| RelayError::Job)?;
        // Ends with its sender or the job; what goes wrong on it, the sender hears.
        tokio::spawn(connection);
        let answer = sender
            .send_request(request)
            .await
            .map_err(|_| RelayError::Job)?;
        Ok((answer, sender))
    }

    fn passed_back(
        &self,
        answer: Response<Incoming>,
        sender: SendRequest<RequestBody>,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Response<RelayBody> {
        let (mut parts, body) = answer.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let mut body = AnswerBody {
            inner: body,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            sender: Some(sender),
            idle: Arc::downgrade(&self.idle.0),
            _permit: permit,
        };
        if body.inner.is_end_stream() {
            body.give_back();
        }
        Response::from_parts(parts, RelayBody(body.boxed_unsync()))
    }
}

/// The request as the job gets it: HTTP/1.1, in origin form, without what belongs to the client's connection.
fn prepared<B>(request: Request<B>, limit: usize) -> Result<Request<B>, RelayError> {
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(RelayError::Request("CONNECT is for proxies"));
    }
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    if parts.method.as_str().len() + target.len() + fields > limit {
        return Err(RelayError::HeadTooLarge { limit });
    }
    let host = parts
        .uri
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()))
        .transpose()
        .map_err(|_| RelayError::Request("its authority is none"))?;
    let target = target
        .parse::<Uri>()
        .map_err(|_| RelayError::Request("its target is no path"))?;
    remove_hop_by_hop(&mut parts.headers);
    let reserved: Vec<HeaderName> = parts
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with(RESERVED_PREFIX))
        .cloned()
        .collect();
    for name in reserved {
        parts.headers.remove(name);
    }
    // HTTP/2 has it in its target alone; where both say it, the target counts (RFC 9112, section 3.2.2).
    match host {
        Some(host) => {
            parts.headers.insert(header::HOST, host);
        }
        None if parts.headers.get_all(header::HOST).iter().count() > 1 => {
            return Err(RelayError::Request("it has several Host fields"));
        }
        None if !parts.headers.contains_key(header::HOST) => {
            parts
                .headers
                .insert(header::HOST, HeaderValue::from_static("job"));
        }
        None => {}
    }
    // How long the body is, the body says: hyper writes the job one length or none, whatever the client wrote.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.uri = target;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        // These are never one connection's, whatever is said of them.
        if name != header::HOST && name != header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
}

/// A copy of a request without body whose method may be repeated (RFC 9110, section 9.2.2).
fn copy_if_repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody {
        inner: Empty::new().map_err(|never| match never {}).boxed_unsync(),
        left: 0,
        fault: Arc::clone(&request.body().fault),
    });
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// What went wrong with a request's body, beside the error that hyper makes of it.
#[derive(Debug, Default)]
struct Fault {
    too_large: AtomicBool,
    broke_off: AtomicBool,
}

/// A request's body, up to its limit.
pub(super) struct RequestBody {
    inner: UnsyncBoxBody<Bytes, io::Error>,
    left: u64,
    fault: Arc<Fault>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                match self.left.checked_sub(bytes) {
                    Some(left) => {
                        self.left = left;
                        Some(Ok(frame))
                    }
                    None => {
                        self.fault.too_large.store(true, Ordering::Relaxed);
                        Some(Err(io::ErrorKind::FileTooLarge.into()))
                    }
                }
            }
            Some(Err(error)) => {
                self.fault.broke_off.store(true, Ordering::Relaxed);
                Some(Err(error))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The job's answer, until its last byte or the request's deadline.
struct AnswerBody {
    inner: Incoming,
    deadline: Pin<Box<Sleep>>,
    sender: Option<SendRequest<RequestBody>>,
    idle: Weak<Waiting>,
    _permit: OwnedSemaphorePermit,
}

impl AnswerBody {
    /// The connection can be used again.
    fn give_back(&mut self) {
        if let (Some(sender), Some(idle)) = (self.sender.take(), self.idle.upgrade()) {
            idle.put(sender);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // First, so that an answer without pauses has an end too.
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if frame.is_none() || self.inner.is_end_stream() {
            self.give_back();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Connections to the job that wait for their next request.
pub(super) struct Idle(Arc<Waiting>);

struct Waiting {
    most: usize,
    senders: Mutex<Vec<(SendRequest<RequestBody>, Instant)>>,
}

impl Idle {
    pub(super) fn new(most: usize) -> Idle {
        Idle(Arc::new(Waiting {
            most,
            senders: Mutex::default(),
        }))
    }

    /// The one that waited least.
    fn take(&self) -> Option<SendRequest<RequestBody>> {
        let mut senders = self.0.lock();
        while let Some((sender, since)) = senders.pop() {
            if since.elapsed() > IDLE_TIME {
                // All others have waited longer.
                senders.clear();
                return None;
            }
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }
}

impl Idle {
    /// Lets go of all: they lead to a job that has ended.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(SendRequest<RequestBody>, Instant)>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, sender: SendRequest<RequestBody>) {
        if sender.is_closed() {
            return;
        }
        let mut senders = self.lock();
        if senders.len() < self.most {
            senders.push((sender, Instant::now()));
        }
    }
}
