//! The host's client of an enclave's control port: health, attestation documents, calls.
//!
//! It carries sealed bytes and cannot read them. The enclave may be compromised, so each of its answers is bounded in
//! size and time, and only an answer that ended as HTTP says it must is a success: a stream that was cut is never
//! mistaken for a whole one. Never retry a call here: the job may already have acted on it.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::lifecycle::printable;
use crate::reach::{Unreached, reach};
use crate::window::{Carried, Recorder};

/// The enclave's control port.
const CONTROL_PORT: u32 = 5000;

/// The most bytes of an answer that is not a call's result: health, a document, an error.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Bytes of input that are read at a time.
const PIECE: usize = 64 * 1024;

/// How long the enclave's port may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a health answer may take.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);

/// How long a document may take. The enclave makes its RSA key in the background, which can take seconds.
const ATTEST_LIMIT: Duration = Duration::from_mins(1);

/// How long nothing may move in a call. Longer than the time a manifest gives a call by default (10 minutes), so that the
/// enclave is the one to say what took too long.
const STALL_LIMIT: Duration = Duration::from_mins(11);

/// Why the enclave gave no whole answer. Whatever a call wrote before such an error is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket cannot be connected to.
    #[error("the enclave cannot be reached at {}: {source}; `anchorhold ps` says whether it runs", socket.display())]
    Unreachable {
        /// The host's socket for the enclave's ports.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The host's end of vsock refused the port.
    #[error("nothing listens on the enclave's port {port}: it is still starting, or has ended")]
    NotListening {
        /// The vsock port.
        port: u32,
    },
    /// The enclave refused or failed before any output, and said why.
    #[error("the enclave answered {status} ({kind}): {message}")]
    Enclave {
        /// HTTP status.
        status: u16,
        /// The short name of the error, made printable.
        kind: String,
        /// The enclave's words, made printable. The enclave is not trusted: show, and decide nothing by it.
        message: String,
    },
    /// The connection ended before there was an answer.
    #[error("the connection to the enclave broke before it answered: {0}")]
    Broken(#[source] hyper::Error),
    /// The answer is not one that an enclave gives.
    #[error("the enclave's answer cannot be used: {0}")]
    Answer(&'static str),
    /// No answer within the limit.
    #[error("the enclave did not answer in {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The result broke off after it had begun.
    #[error(
        "the result is incomplete: the enclave broke off after {received} bytes; nothing of it may be used; `anchorhold logs` says why"
    )]
    Cut {
        /// Bytes that had come.
        received: u64,
        /// What the transport said.
        #[source]
        source: hyper::Error,
    },
    /// The result was whole in form, but ended before the enclave had all of the input.
    #[error(
        "the result is incomplete: the enclave finished before it had all of the input; nothing of it may be used"
    )]
    Early,
    /// Nothing moved any more.
    #[error("the result is incomplete: nothing moved for {} s after {received} bytes; nothing of it may be used", limit.as_secs())]
    Stalled {
        /// Bytes that had come.
        received: u64,
        /// For how long nothing moved.
        limit: Duration,
    },
    /// The input could not be read to its end.
    #[error("the input cannot be read: {0}; nothing of the result may be used")]
    Input(#[source] io::Error),
    /// The result could not be written.
    #[error("the result cannot be written: {0}; nothing of it may be used")]
    Output(#[source] io::Error),
}

/// What an enclave says of its health.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Health {
    /// `serving` once it takes calls.
    pub status: String,
    /// The image's name as its manifest has it.
    #[serde(default)]
    pub name: Option<String>,
    /// Connections with a call on them, by its own word.
    #[serde(default)]
    pub calls_open: u64,
    /// Calls begun since its start, by its own word.
    #[serde(default)]
    pub calls_begun: u64,
    /// Of these, failed.
    #[serde(default)]
    pub calls_failed: u64,
    /// Its data keys, where it keeps any.
    #[serde(default)]
    pub data_keys: Option<DataKeys>,
    /// Its clock.
    #[serde(default)]
    pub clock: Option<Clock>,
}

/// What an enclave says of the data keys that it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DataKeys {
    /// Calls of the key service that were saved.
    #[serde(default)]
    pub calls_saved: u64,
    /// Calls that were made.
    #[serde(default)]
    pub calls_made: u64,
}

/// What an enclave says of its clock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Clock {
    /// Documents that said another time than can be, and were not followed.
    #[serde(default)]
    pub steps: u64,
    /// What documents have moved it by since the first, in parts per million.
    #[serde(default)]
    pub drift_ppm: f64,
}

/// What a successful call carried, in bytes of sealed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    /// Bytes sent into the enclave.
    pub sent: u64,
    /// Bytes of the result.
    pub received: u64,
}

/// A client of one enclave. Each request has its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    recorder: Option<Recorder>,
    stall: Duration,
}

impl Client {
    /// A client of the enclave whose folder this is (`<dir>/vsock.sock`).
    pub fn new(dir: &Path) -> Self {
        Self {
            socket: dir.join("vsock.sock"),
            recorder: None,
            stall: STALL_LIMIT,
        }
    }

    /// Writes down all that the client carries.
    #[must_use]
    pub fn recorded(mut self, recorder: Recorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Sets how long nothing may move in a call before it fails. Waiting for the caller's own input and output does not
    /// count.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall = limit;
        self
    }

    /// Asks whether the enclave serves. Bounded by seconds.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let body = self
            .exchange(Method::GET, "/health", Bytes::new(), HEALTH_LIMIT)
            .await?;
        let mut health: Health = serde_json::from_slice(&body)
            .map_err(|_| ClientError::Answer("its health is not the JSON it should be"))?;
        health.status = printable(health.status.as_bytes(), 64);
        health.name = health.name.map(|name| printable(name.as_bytes(), 128));
        Ok(health)
    }

    /// Has an attestation document made over a nonce, user data and, if asked for, the enclave's public RSA key.
    ///
    /// Returns its bytes, at most 64 KiB. They are unverified: nothing in them is true until `anchorhold-attestation`
    /// says so.
    pub async fn attest(
        &self,
        nonce: Option<&[u8]>,
        user_data: Option<&[u8]>,
        recipient_key: bool,
    ) -> Result<Vec<u8>, ClientError> {
        let mut request = serde_json::Map::new();
        if let Some(nonce) = nonce {
            request.insert("nonce".into(), hex::encode(nonce).into());
        }
        if let Some(user_data) = user_data {
            request.insert("user_data".into(), hex::encode(user_data).into());
        }
        if recipient_key {
            request.insert("recipient_key".into(), true.into());
        }
        let request = serde_json::Value::Object(request).to_string();
        let document = self
            .exchange(Method::POST, "/attest", request.into(), ATTEST_LIMIT)
            .await?;
        if document.is_empty() {
            return Err(ClientError::Answer("the attestation document is empty"));
        }
        Ok(document.into())
    }

    /// Streams a sealed message in and the sealed result out, at the same time, with flat memory.
    ///
    /// Only `Ok` means that the result is whole. After an error, whatever the writer has got must be thrown away: write
    /// to a temporary file and rename it on `Ok`. (The sealed format shows a cut as well, to whoever opens it.)
    pub async fn call<R, W>(&self, reader: R, mut writer: W) -> Result<Called, ClientError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Unpin,
    {
        let progress = Arc::new(Progress::new());
        let body = Input {
            reader,
            piece: vec![0; PIECE].into(),
            progress: progress.clone(),
        };
        let work = async {
            let request = Request::builder()
                .method(Method::POST)
                .uri("/call")
                .header(CONTENT_TYPE, "application/octet-stream");
            let answer = self.send(request, body, &progress).await;
            let (answer, _connection) = match answer {
                Err(ClientError::Broken(error)) => {
                    return Err(progress.input_error().unwrap_or(ClientError::Broken(error)));
                }
                other => other?,
            };
            if answer.status() != StatusCode::OK {
                return Err(refusal(answer).await);
            }
            let mut result = answer.into_body();
            while let Some(frame) = result.frame().await {
                let received = progress.received.load(Ordering::Relaxed);
                let frame = frame.map_err(|source| {
                    progress
                        .input_error()
                        .unwrap_or(ClientError::Cut { received, source })
                })?;
                // Trailers say nothing that counts here.
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                progress.awaiting_output.store(true, Ordering::Relaxed);
                writer.write_all(&data).await.map_err(ClientError::Output)?;
                progress.awaiting_output.store(false, Ordering::Relaxed);
                progress
                    .received
                    .store(received + data.len() as u64, Ordering::Relaxed);
                progress.note();
            }
            let whole = progress.input_ended.load(Ordering::Acquire)
                && !progress.deaf.load(Ordering::Relaxed);
            if !whole {
                return Err(progress.input_error().unwrap_or(ClientError::Early));
            }
            writer.flush().await.map_err(ClientError::Output)?;
            Ok(Called {
                sent: progress.sent.load(Ordering::Relaxed),
                received: progress.received.load(Ordering::Relaxed),
            })
        };
        tokio::select! {
            result = work => result,
            () = progress.ceases_for(self.stall) => Err(ClientError::Stalled {
                received: progress.received.load(Ordering::Relaxed),
                limit: self.stall,
            }),
        }
    }

    /// One bounded request with one bounded answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, ClientError> {
        let progress = Arc::new(Progress::new());
        let work = async {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(CONTENT_TYPE, "application/json");
            let (answer, _connection) = self.send(request, Full::new(body), &progress).await?;
            if answer.status() != StatusCode::OK {
                return Err(refusal(answer).await);
            }
            bounded(answer)
                .await
                .ok_or(ClientError::Answer("it broke off or is larger than 64 KiB"))
        };
        timeout(limit, work)
            .await
            .unwrap_or(Err(ClientError::TimedOut(limit)))
    }

    /// Connects, sends, and returns the answer once its head is there and says how its body ends.
    async fn send<B>(
        &self,
        request: http::request::Builder,
        body: B,
        progress: &Arc<Progress>,
    ) -> Result<(Response<Incoming>, Connection), ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = timeout(CONNECT_LIMIT, self.dial())
            .await
            .map_err(|_| ClientError::TimedOut(CONNECT_LIMIT))??;
        let stream = Answered {
            stream,
            progress: progress.clone(),
        };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(256 * 1024)
            .max_headers(64)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Broken)?;
        let connection = Connection(tokio::spawn(async move {
            // Its error reaches the caller through the answer.
            let _ = connection.await;
        }));
        let request = request
            .header(HOST, "enclave")
            .body(body)
            .expect("the parts of this request are constants");
        let answer = sender
            .send_request(request)
            .await
            .map_err(ClientError::Broken)?;
        // Without one of these a body lasts until the connection ends, and a cut would look like the end.
        let headers = answer.headers();
        let chunked = headers
            .get(TRANSFER_ENCODING)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        let delimited = chunked
            || (headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING));
        if answer.version() != Version::HTTP_11 || !delimited {
            return Err(ClientError::Answer(
                "it does not say where it ends, so that it could not be told from a part of it",
            ));
        }
        Ok((answer, connection))
    }

    /// Opens a stream to the control port through the host's end of vsock.
    async fn dial(&self) -> Result<Carried<UnixStream>, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let stream = reach(&self.socket, CONTROL_PORT)
            .await
            .map_err(|error| match error {
                Unreached::Socket(source) => unreachable(source),
                Unreached::Port => ClientError::NotListening { port: CONTROL_PORT },
                Unreached::Answer => ClientError::Answer(
                    "the host's end of vsock did not say OK to what it was asked for",
                ),
            })?;
        Carried::new(stream, self.recorder.as_ref(), "call").map_err(unreachable)
    }
}

/// The task that drives one connection; the connection closes with it.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads a whole body of at most [`LARGEST_ANSWER`] bytes.
async fn bounded(answer: Response<Incoming>) -> Option<Bytes> {
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER);
    Some(body.collect().await.ok()?.to_bytes())
}

/// What an answer other than 200 says.
async fn refusal(answer: Response<Incoming>) -> ClientError {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        message: String,
    }

    let status = answer.status().as_u16();
    let said: Option<Refusal> = bounded(answer)
        .await
        .and_then(|body| serde_json::from_slice(&body).ok());
    match said {
        Some(said) => ClientError::Enclave {
            status,
            kind: printable(said.error.as_bytes(), 64),
            message: printable(said.message.as_bytes(), 1024),
        },
        None => ClientError::Enclave {
            status,
            kind: "unknown".into(),
            message: "it gave no reason that can be read".into(),
        },
    }
}

/// What both directions of a call know of each other.
struct Progress {
    start: Instant,
    last_ms: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// The caller's input has none ready; the enclave cannot be blamed for silence.
    awaiting_input: AtomicBool,
    /// The caller takes no output just now; neither can it be blamed for this.
    awaiting_output: AtomicBool,
    /// The input was read to its end and handed over whole.
    input_ended: AtomicBool,
    /// The enclave reads no more.
    deaf: AtomicBool,
    input_error: Mutex<Option<io::Error>>,
}

impl Progress {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            awaiting_input: AtomicBool::new(false),
            awaiting_output: AtomicBool::new(false),
            input_ended: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            input_error: Mutex::new(None),
        }
    }

    fn note(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.last_ms.store(now, Ordering::Relaxed);
    }

    fn input_error(&self) -> Option<ClientError> {
        self.input_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .map(ClientError::Input)
    }

    /// Ends once nothing has moved for `limit`, the time in which the caller itself was awaited left out.
    async fn ceases_for(&self, limit: Duration) {
        loop {
            if self.awaiting_input.load(Ordering::Relaxed)
                || self.awaiting_output.load(Ordering::Relaxed)
            {
                self.note();
            }
            let due =
                self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// A request body that reads as the connection takes it.
struct Input<R> {
    reader: R,
    piece: Box<[u8]>,
    progress: Arc<Progress>,
}

impl<R: AsyncRead + Unpin> Body for Input<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.progress.deaf.load(Ordering::Relaxed) {
            // What the enclave no longer reads need not be produced; its answer says why.
            return Poll::Ready(None);
        }
        let mut buffer = ReadBuf::new(&mut this.piece);
        this.progress.awaiting_input.store(true, Ordering::Relaxed);
        let read = ready!(Pin::new(&mut this.reader).poll_read(context, &mut buffer));
        this.progress.awaiting_input.store(false, Ordering::Relaxed);
        this.progress.note();
        if let Err(error) = read {
            // The connection only learns that the body failed, and breaks off; the caller gets the cause.
            let told = io::Error::from(error.kind());
            *this
                .progress
                .input_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(error);
            return Poll::Ready(Some(Err(told)));
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            this.progress.input_ended.store(true, Ordering::Release);
            return Poll::Ready(None);
        }
        this.progress
            .sent
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let frame = Frame::data(Bytes::copy_from_slice(bytes));
        Poll::Ready(Some(Ok(frame)))
    }
}

/// A stream whose far end may stop reading and still answer.
///
/// An enclave that refuses a call may close before it has read all of it. The failed write must not hide the answer
/// that is already on its way, so it counts as done, and what the enclave said decides.
struct Answered<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S> Answered<S> {
    fn written(&self, result: io::Result<usize>, length: usize) -> io::Result<usize> {
        match result {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.progress.deaf.store(true, Ordering::Relaxed);
                Ok(length)
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Answered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Answered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(self.written(result, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        let length = slices.iter().map(|slice| slice.len()).sum();
        Poll::Ready(self.written(result, length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use std::future::Future;

    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio::net::UnixListener;

    /// An enclave that is whatever a test makes of it: gets the raw stream behind `SOCKET 5000`.
    struct Enclave {
        dir: tempfile::TempDir,
        server: tokio::task::JoinHandle<()>,
    }

    impl Drop for Enclave {
        fn drop(&mut self) {
            self.server.abort();
        }
    }

    impl Enclave {
        fn new<F: Future<Output = ()> + Send + 'static>(
            behave: impl Fn(UnixStream) -> F + Send + 'static,
        ) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(dir.path().join("vsock.sock")).unwrap();
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut line = Vec::new();
                    while line.last() != Some(&b'\n') {
                        line.push(stream.read_u8().await.unwrap());
                    }
                    assert_eq!(line, b"SOCKET 5000\n");
                    stream.write_all(b"OK 1073741824\n").await.unwrap();
                    tokio::spawn(behave(stream));
                }
            });
            Self { dir, server }
        }

        /// One that reads the request's head and then says exactly this.
        fn saying(answer: impl Into<Vec<u8>>) -> Self {
            let answer: Vec<u8> = answer.into();
            Self::new(move |mut stream| {
                let answer = answer.clone();
                async move {
                    read_head(&mut stream).await;
                    let _ = stream.write_all(&answer).await;
                }
            })
        }

        fn client(&self) -> Client {
            Client::new(self.dir.path())
        }
    }

    async fn read_head(stream: &mut UnixStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads one chunk of a chunked body; empty at its end.
    async fn read_chunk(stream: &mut UnixStream) -> Vec<u8> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        let line = std::str::from_utf8(&line).unwrap().trim();
        let mut chunk = vec![0; usize::from_str_radix(line, 16).unwrap() + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(chunk.len() - 2);
        chunk
    }

    async fn write_chunk(stream: &mut UnixStream, chunk: &[u8]) -> io::Result<()> {
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        stream.write_all(&framed).await
    }

    const BEGIN: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// Takes the whole input and answers with it.
    async fn echo(mut stream: UnixStream) {
        read_head(&mut stream).await;
        stream.write_all(BEGIN).await.unwrap();
        loop {
            let chunk = read_chunk(&mut stream).await;
            write_chunk(&mut stream, &chunk).await.unwrap();
            if chunk.is_empty() {
                return;
            }
        }
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn health_is_read() {
        let enclave = Enclave::saying(answer(
            "200 OK",
            r#"{"status":"serving","name":"cards","new":1}"#,
        ));
        let health = enclave.client().health().await.unwrap();
        assert_eq!(health.status, "serving");
        assert_eq!(health.name.as_deref(), Some("cards"));
    }

    #[tokio::test]
    async fn attest_sends_what_it_was_given_and_returns_the_document() {
        let (seen, mut request) = tokio::sync::mpsc::unbounded_channel();
        let enclave = Enclave::new(move |mut stream| {
            let seen = seen.clone();
            async move {
                let head = read_head(&mut stream).await.to_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split_once('\r').unwrap().0.parse().unwrap();
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                seen.send(body).unwrap();
                stream
                    .write_all(answer("200 OK", "document").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let client = enclave.client();
        let document = client
            .attest(Some(&[1, 0xab]), Some(&[]), true)
            .await
            .unwrap();
        assert_eq!(document, b"document");
        let sent: serde_json::Value =
            serde_json::from_slice(&request.recv().await.unwrap()).unwrap();
        assert_eq!(
            sent,
            serde_json::json!({"nonce":"01ab","user_data":"","recipient_key":true})
        );
        client.attest(None, None, false).await.unwrap();
        assert_eq!(request.recv().await.unwrap(), b"{}");
    }

    #[tokio::test]
    async fn a_call_streams_both_ways_at_once() {
        let enclave = Enclave::new(echo);
        let (mut input, reader) = duplex(1024);
        let (writer, mut output) = duplex(1024);
        let client = enclave.client();
        let call = tokio::spawn(async move { client.call(reader, writer).await });
        // Each answer arrives while the input is still open.
        for round in 0..3u8 {
            input.write_all(&[round; 100]).await.unwrap();
            let mut back = [9; 100];
            output.read_exact(&mut back).await.unwrap();
            assert_eq!(back, [round; 100]);
        }
        drop(input);
        let called = call.await.unwrap().unwrap();
        assert_eq!(
            called,
            Called {
                sent: 300,
                received: 300
            }
        );
    }

    #[tokio::test]
    async fn a_large_call_comes_back_whole_and_recorded() {
        let enclave = Enclave::new(echo);
        let folder = tempfile::tempdir().unwrap();
        let client = enclave
            .client()
            .recorded(Recorder::create(folder.path()).unwrap());
        let input: Vec<u8> = (0..3_000_000u32).map(|n| (n * 31 % 253) as u8).collect();
        let mut output = Vec::new();
        let called = client
            .call(io::Cursor::new(input.clone()), &mut output)
            .await
            .unwrap();
        assert_eq!(called.received, 3_000_000);
        assert!(output == input);
        let sizes: Vec<u64> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size > 3_000_000), "{sizes:?}");
    }

    #[tokio::test]
    async fn a_result_cut_at_any_byte_is_incomplete() {
        let mut whole = BEGIN.to_vec();
        whole.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
        for cut in 0..whole.len() {
            let part = whole[..cut].to_vec();
            let enclave = Enclave::new(move |mut stream| {
                let part = part.clone();
                async move {
                    read_head(&mut stream).await;
                    while !read_chunk(&mut stream).await.is_empty() {}
                    stream.write_all(&part).await.unwrap();
                }
            });
            let mut output = Vec::new();
            let error = enclave
                .client()
                .call(&b"input"[..], &mut output)
                .await
                .unwrap_err();
            if cut < BEGIN.len() {
                assert!(matches!(error, ClientError::Broken(_)), "{cut}: {error}");
            } else {
                assert!(matches!(error, ClientError::Cut { .. }), "{cut}: {error}");
                assert!(error.to_string().contains("nothing of it may be used"));
            }
        }
    }

    #[tokio::test]
    async fn a_result_shorter_than_its_stated_length_is_incomplete() {
        let enclave = Enclave::new(|mut stream| async move {
            read_head(&mut stream).await;
            while !read_chunk(&mut stream).await.is_empty() {}
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
                .await
                .unwrap();
        });
        let mut output = Vec::new();
        let error = enclave
            .client()
            .call(&b"input"[..], &mut output)
            .await
            .unwrap_err();
        assert!(
            matches!(error, ClientError::Cut { received: 5, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_result_that_does_not_say_where_it_ends_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        ] {
            let enclave = Enclave::saying(format!("{head}hello"));
            let mut output = Vec::new();
            let error = enclave
                .client()
                .call(&b"input"[..], &mut output)
                .await
                .unwrap_err();
            assert!(
                matches!(error, ClientError::Answer(_) | ClientError::Broken(_)),
                "{head}: {error}"
            );
            assert!(output.is_empty());
        }
    }

    #[tokio::test]
    async fn a_result_that_ends_before_the_input_does_is_refused() {
        let mut whole = BEGIN.to_vec();
        whole.extend_from_slice(b"5\r\nhello\r\n0\r\n\r\n");
        let enclave = Enclave::new(move |mut stream| {
            let whole = whole.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(&whole).await.unwrap();
                std::future::pending::<()>().await;
            }
        });
        let (_open, reader) = duplex(16);
        let mut output = Vec::new();
        let error = enclave
            .client()
            .call(reader, &mut output)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Early), "{error}");
        let error = enclave
            .client()
            .call(tokio::io::repeat(1), &mut output)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Early), "{error}");
    }

    #[tokio::test]
    async fn an_error_is_heard_although_the_input_was_not_read() {
        for _ in 0..50 {
            let body =
                r#"{"error":"denied","message":"the key policy does not allow it\u001b[2J"}"#;
            let enclave = Enclave::saying(answer("403 Forbidden", body));
            let mut output = Vec::new();
            let error = enclave
                .client()
                .call(tokio::io::repeat(1), &mut output)
                .await
                .unwrap_err();
            let ClientError::Enclave {
                status: 403,
                kind,
                message,
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!(kind, "denied");
            assert!(message.starts_with("the key policy"), "{message}");
            assert!(!message.contains('\u{1b}'));
            assert!(output.is_empty());
        }
    }

    #[tokio::test]
    async fn an_input_that_fails_is_the_reason_given() {
        struct Failing(bool);
        impl AsyncRead for Failing {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if std::mem::replace(&mut self.0, true) {
                    return Poll::Ready(Err(io::Error::other("the disk broke")));
                }
                buffer.put_slice(b"start");
                Poll::Ready(Ok(()))
            }
        }
        let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
        let enclave = Enclave::new(move |mut stream| {
            let ended = ended.clone();
            async move {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                ended.send(all).unwrap();
            }
        });
        let mut output = Vec::new();
        let error = enclave
            .client()
            .call(Failing(false), &mut output)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Input(_)), "{error}");
        assert!(error.to_string().contains("the disk broke"), "{error}");
        // The enclave must see a cut, not an end; it may also see nothing.
        assert!(!end.recv().await.unwrap().ends_with(b"0\r\n\r\n"));
    }

    #[tokio::test]
    async fn an_output_that_fails_is_the_reason_given() {
        let enclave = Enclave::new(echo);
        let (writer, closed) = duplex(16);
        drop(closed);
        let error = enclave
            .client()
            .call(io::Cursor::new(vec![1; 100_000]), writer)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Output(_)), "{error}");
    }

    #[tokio::test]
    async fn a_stalled_call_ends_and_a_waiting_caller_is_not_a_stall() {
        let enclave = Enclave::new(|mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(BEGIN).await;
            let _ = write_chunk(&mut stream, b"some").await;
            std::future::pending::<()>().await;
        });
        let client = enclave.client().stall_limit(Duration::from_millis(100));
        let mut output = Vec::new();
        let error = client.call(&b"input"[..], &mut output).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Stalled { received: 4, .. }),
            "{error}"
        );

        let enclave = Enclave::new(echo);
        let client = enclave.client().stall_limit(Duration::from_millis(100));
        let (mut input, reader) = duplex(16);
        let call = tokio::spawn(async move { client.call(reader, tokio::io::sink()).await });
        tokio::time::sleep(Duration::from_millis(400)).await;
        input.write_all(b"late").await.unwrap();
        drop(input);
        assert_eq!(call.await.unwrap().unwrap().received, 4);
    }

    #[tokio::test]
    async fn hostile_answers_are_bounded() {
        let endless_head = Enclave::new(|mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while stream
                .write_all(b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
                .await
                .is_ok()
            {}
        });
        let error = endless_head.client().health().await.unwrap_err();
        assert!(matches!(error, ClientError::Broken(_)), "{error}");

        let endless_body = Enclave::new(|mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(BEGIN).await;
            while write_chunk(&mut stream, &[b'a'; 4096]).await.is_ok() {}
        });
        let error = endless_body
            .client()
            .attest(None, None, false)
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Answer(_)), "{error}");

        let huge_error = Enclave::saying(format!(
            "HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\n{}",
            "{".repeat(99_999)
        ));
        let error = huge_error
            .client()
            .call(&b"input"[..], tokio::io::sink())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ClientError::Enclave { status: 500, .. }),
            "{error}"
        );

        for garbage in [
            "\0\0\0\0",
            "HTTP/1.1 999999 X\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ] {
            let enclave = Enclave::saying(garbage);
            assert!(enclave.client().health().await.is_err(), "{garbage:?}");
            assert!(
                enclave
                    .client()
                    .call(&b"i"[..], tokio::io::sink())
                    .await
                    .is_err(),
                "{garbage:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_enclave_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Client::new(dir.path()).health().await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");

        let listener = UnixListener::bind(dir.path().join("vsock.sock")).unwrap();
        let closing = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let error = Client::new(dir.path()).health().await.unwrap_err();
        assert!(
            matches!(error, ClientError::NotListening { port: 5000 }),
            "{error}"
        );
        closing.await.unwrap();
    }
}
