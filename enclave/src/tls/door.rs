//! The door: accepts channels, answers the question for a document, and hands requests to the job.
//!
//! HTTP/1.1 and HTTP/2, bodies streamed both ways in bounded memory. Who goes away takes his request with him: the
//! job hears of it. The job is never asked for `/.well-known/attestation`, and never hears of it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anchorhold_channel::{EXPORTER_BYTES, EXPORTER_LABEL, Nonce, NonceError, PATH};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::documents::{DocumentError, Documents};
use super::first::{First, first};
use super::headers::without_hearsay;
use super::identity::Identity;
use crate::nsm::Nsm;
use crate::service::Service;
use crate::stream::Listener;

/// What strangers may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Channels at a time, with those whose handshake is not over; more wait.
    pub channels: usize,
    /// Handshakes at a time; more wait. Fewer than channels, so that those who never finish keep out nobody who has.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_time: Duration,
    /// How long a request's head may take, and a channel say nothing between requests.
    pub idle_time: Duration,
    /// Requests at a time on one channel (HTTP/2).
    pub streams: u32,
    /// Documents a second, for all channels together.
    pub documents_a_second: u32,
}

impl Limits {
    /// For an enclave with so much memory.
    pub fn of(memory_mib: u32) -> Limits {
        // A channel takes some tens of KiB while it moves bytes: an eighth of the memory at most.
        let channels = (memory_mib as usize * 2).clamp(32, 4096);
        Limits {
            channels,
            handshakes: (channels / 2).min(128),
            handshake_time: Duration::from_secs(10),
            idle_time: Duration::from_mins(1),
            streams: 64,
            documents_a_second: 100,
        }
    }
}

/// Who answers requests: the job, within its limits.
pub trait Answers: Send + Sync + 'static {
    /// The answer to a request that came through a channel. An answer that is dropped before its end is not wanted.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

impl Answers for Service {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        Service::answer(self, request)
            .await
            .map(|body| body.boxed_unsync())
    }
}

/// Longest head of an HTTP/2 request, and lines in an HTTP/1.1 request's.
const MAX_HEAD_BYTES: u32 = 32 * 1024;
const MAX_HEADERS: usize = 100;
/// Bytes that are read ahead of a body on an HTTP/1.1 channel, and of each request on an HTTP/2 channel.
const BUFFER_BYTES: usize = 64 * 1024;
const WINDOW_BYTES: u32 = 128 * 1024;

type Exporter = [u8; EXPORTER_BYTES];
/// An answer on its way to a client.
pub type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Serves attested TLS for one job.
pub struct Door<N, A> {
    identity: Identity,
    documents: Documents<N>,
    job: Arc<A>,
    limits: Limits,
    handshakes: Semaphore,
    /// Requests that are being answered.
    open: Arc<AtomicUsize>,
}

impl<N: Nsm, A: Answers> Door<N, A> {
    /// A door with this key.
    pub fn new(identity: Identity, nsm: Arc<N>, job: Arc<A>, limits: Limits) -> Arc<Door<N, A>> {
        let documents = Documents::new(
            nsm,
            identity.public_key().to_vec(),
            limits.documents_a_second,
        );
        Arc::new(Door {
            identity,
            documents,
            job,
            limits,
            handshakes: Semaphore::new(limits.handshakes),
            open: Arc::default(),
        })
    }

    /// Requests that are being answered.
    pub fn open_requests(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Serves whoever dials, until the enclave ends.
    pub async fn serve(self: Arc<Self>, listener: Listener) -> Infallible {
        let room = Arc::new(Semaphore::new(self.limits.channels));
        loop {
            let place = Arc::clone(&room)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match listener.accept().await {
                Ok(stream) => {
                    let door = Arc::clone(&self);
                    tokio::spawn(async move {
                        door.channel(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    crate::log!("a connection for attested TLS was lost: {error}");
                    // Out of descriptors or memory, most likely: others must end first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Serves one connection to its end. What breaks it is its client's affair, or the parent's.
    pub async fn channel(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) {
        let handshake = async {
            let _place = self
                .handshakes
                .acquire()
                .await
                .expect("the semaphore is never closed");
            let handshake = TlsAcceptor::from(self.identity.config()).accept(stream);
            tokio::time::timeout(self.limits.handshake_time, handshake).await
        };
        let Ok(Ok(stream)) = handshake.await else {
            return;
        };
        let Ok(exporter) = stream.get_ref().1.export_keying_material(
            [0; EXPORTER_BYTES],
            EXPORTER_LABEL,
            Some(&[]),
        ) else {
            return;
        };
        let begun = tokio::time::timeout(self.limits.idle_time, first(stream)).await;
        let Ok(Ok((begun, mut stream))) = begun else {
            return;
        };
        if let First::Question(nonce) = begun {
            let (head, body) = self.document(nonce, &exporter).await.into_parts();
            let Ok(body) = body.collect().await;
            if !answered(&mut stream, &head, &body.to_bytes()).await {
                return;
            }
        }
        self.http(stream, exporter).await;
    }

    async fn http(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        exporter: Exporter,
    ) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle_time)
            .max_headers(MAX_HEADERS)
            .max_buf_size(BUFFER_BYTES)
            // It would be the system's clock, which the parent sets. The job may say what it knows.
            .auto_date_header(false)
            .half_close(false);
        builder
            .http2()
            .auto_date_header(false)
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(MAX_HEAD_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .max_send_buf_size(BUFFER_BYTES)
            .keep_alive_interval(self.limits.idle_time)
            .keep_alive_timeout(self.limits.handshake_time);
        let busy = Arc::new(Busy::new());
        let service = service_fn(|request: Request<Incoming>| {
            let door = Arc::clone(&self);
            let guard = Guard::new(&busy, &self.open);
            async move {
                let answer = door.answer(request, &exporter).await;
                Ok::<_, Infallible>(answer.map(|body| Guarded {
                    body,
                    _guard: guard,
                }))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // HTTP/1.1 has its own time for the next head; HTTP/2 has none.
        let mut over = false;
        let mut idle = std::pin::pin!(busy.quiet_for(self.limits.idle_time));
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = idle.as_mut(), if !over => {
                    over = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Who does not take the farewell is cut off.
                () = tokio::time::sleep(self.limits.handshake_time), if over => return,
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, exporter: &Exporter) -> Answer {
        if request.uri().path() == PATH {
            if request.method() != Method::GET {
                let mut refusal = failure(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method",
                    "documents are asked for with GET",
                );
                let headers = refusal.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
                return unsync(refusal);
            }
            let nonce = Nonce::from_query(request.uri().query());
            return unsync(self.document(nonce, exporter).await);
        }
        let mut request = request;
        without_hearsay(request.headers_mut());
        self.job.answer(request).await
    }

    async fn document(
        &self,
        nonce: Result<Nonce, NonceError>,
        exporter: &Exporter,
    ) -> Response<Full<Bytes>> {
        let nonce = match nonce {
            Ok(nonce) => nonce,
            Err(error) => return failure(StatusCode::BAD_REQUEST, "nonce", &error.to_string()),
        };
        match self.documents.make(&nonce, exporter).await {
            Ok(document) => {
                let mut answer = Response::new(Full::from(document));
                let headers = answer.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                answer
            }
            Err(error @ DocumentError::Busy) => {
                let mut busy = failure(StatusCode::SERVICE_UNAVAILABLE, "busy", &error.to_string());
                busy.headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static("1"));
                busy
            }
            Err(error) => {
                crate::log!("no document for a channel: {error}");
                failure(StatusCode::INTERNAL_SERVER_ERROR, "nsm", &error.to_string())
            }
        }
    }
}

/// Writes an answer to the question that a channel has begun with. False: nobody takes it.
async fn answered(
    stream: &mut (impl AsyncWrite + Unpin),
    head: &http::response::Parts,
    body: &[u8],
) -> bool {
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    let written = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(10), written).await,
        Ok(Ok(()))
    )
}

fn failure(status: StatusCode, error: &str, message: &str) -> Response<Full<Bytes>> {
    let body = json!({ "error": error, "message": message }).to_string();
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn unsync(answer: Response<Full<Bytes>>) -> Answer {
    answer.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

/// Whether a channel has requests, and since when it has none. Requests cost it no timer: whoever waits looks from time to time.
struct Busy {
    requests: AtomicUsize,
    began: Instant,
    /// When the last request ended, in ms since `began`.
    quiet_since_ms: AtomicU64,
}

impl Busy {
    fn new() -> Busy {
        Busy {
            requests: AtomicUsize::new(0),
            began: Instant::now(),
            quiet_since_ms: AtomicU64::new(0),
        }
    }

    /// Returns when there was no request for so long; at the latest when there was none for twice as long.
    async fn quiet_for(&self, time: Duration) {
        let mut look = self.began + time;
        loop {
            tokio::time::sleep_until(look).await;
            let now = Instant::now();
            look = if self.requests.load(Ordering::Acquire) == 0 {
                let since = self.quiet_since_ms.load(Ordering::Acquire);
                self.began + Duration::from_millis(since) + time
            } else {
                now + time
            };
            if look <= now {
                return;
            }
        }
    }
}

/// A request that is being answered, until the last byte of its answer is out.
struct Guard {
    channel: Arc<Busy>,
    all: Arc<AtomicUsize>,
}

impl Guard {
    fn new(channel: &Arc<Busy>, all: &Arc<AtomicUsize>) -> Guard {
        channel.requests.fetch_add(1, Ordering::AcqRel);
        all.fetch_add(1, Ordering::Relaxed);
        Guard {
            channel: Arc::clone(channel),
            all: Arc::clone(all),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let ms = self.channel.began.elapsed().as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        self.channel.quiet_since_ms.fetch_max(ms, Ordering::AcqRel);
        self.channel.requests.fetch_sub(1, Ordering::AcqRel);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Guarded<B> {
    body: B,
    _guard: Guard,
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_is_quiet_when_no_request_was_answered_for_as_long_as_it_may_be() {
        const TIME: Duration = Duration::from_millis(100);
        let busy = Arc::new(Busy::new());
        let all = Arc::new(AtomicUsize::new(0));
        let requests = async {
            let guard = Guard::new(&busy, &all);
            // A long answer is no silence.
            tokio::time::sleep(4 * TIME).await;
            drop(guard);
            tokio::time::sleep(TIME / 4).await;
            let last = Instant::now();
            drop(Guard::new(&busy, &all));
            last
        };
        let ((), last) = tokio::join!(busy.quiet_for(TIME), requests);
        // The end of a request is known to the millisecond.
        let quiet = last.elapsed() + Duration::from_millis(1);
        assert!(quiet >= TIME, "{quiet:?}");
        assert_eq!(all.load(Ordering::Relaxed), 0);
        Busy::new().quiet_for(TIME).await;
    }
}
