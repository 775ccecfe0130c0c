//! One call: a sealed message comes in, the job turns its lines into others, a sealed message goes out.
//!
//! Input, job and output run side by side, each waiting for the next, so that memory stays flat whatever the size. The
//! result's final frame, without which nobody takes it for whole, must never be written unless the input was proven
//! whole (final frame, signature where there is one, and the end of the request), the job exited with 0, and it wrote
//! exactly one whole line for each line of the input.
//!
//! The job gets plaintext as its frames are authenticated, before the message is known to be whole (and, in a signed
//! message, before the signature is verified): what it does with a line must not matter beyond the call's result. A last
//! line without newline is given one.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anchorhold_envelope::{
    EncryptionContext, Header, Limits, Opener, PUBLIC_KEY_ENTRY, Parse, SealOptions, Sealer,
    fields::field_context, new_message_id,
};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::fields::{FieldTerms, LineError, OpenedLines, SealedLines};
use crate::jobs::Launcher;
use crate::keys::{GeneratedKey, KeyError, KeyService, Keys};
use crate::lines::{LineTooLong, Lines};
use crate::nsm::Nsm;
use crate::reaper::Exit;
use crate::secrets::SecretError;
use crate::sys::SpawnError;

/// Names in encryption contexts that say what a message is to anchorhold. Inputs may not have them: a result or a
/// secret is not an input.
const RESERVED_PREFIX: &str = "anchorhold:";

/// What is put up with in an input's header.
const INPUT_LIMITS: Limits = Limits {
    max_header_bytes: 256 * 1024,
    max_data_keys: 8,
    max_frame_length: 4 * 1024 * 1024,
};

/// Plaintext in each frame of a result, in bytes.
const RESULT_FRAME_BYTES: u32 = 64 * 1024;
/// Bytes of the job's output read at a time.
const READ_BYTES: usize = 256 * 1024;
/// Pieces of a result that wait for the parent.
const WAITING_PIECES: usize = 4;
/// What is read of a failed call's input, so that the parent gets to read the answer.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request broke off or is not HTTP.
    #[error("the request broke off: {0}")]
    Request(String),
    /// The input is not a sealed message, or not the one that was sealed.
    #[error("the input cannot be opened: {0}")]
    Input(#[source] anchorhold_envelope::Error),
    /// The input's context claims what only anchorhold's own messages may.
    #[error(
        "the input's encryption context has the key {key}: keys that start with {RESERVED_PREFIX} are anchorhold's own. Seal it without"
    )]
    ReservedContext {
        /// The key in question.
        key: String,
    },
    /// The input's data key is not to be had.
    #[error("the input's data key: {0}")]
    InputKey(#[source] KeyError),
    /// No data key for the result.
    #[error("the result's data key: {0}")]
    ResultKey(#[source] KeyError),
    /// The result cannot be sealed.
    #[error("the result cannot be sealed: {0}")]
    Seal(#[source] anchorhold_envelope::Error),
    /// A secret is missing.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// The job could not be started.
    #[error("{0}")]
    Spawn(#[from] SpawnError),
    /// The job's streams failed.
    #[error("the job's {stream} failed: {source}")]
    Stream {
        /// Which.
        stream: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A line of the input is too long.
    #[error("input {0}")]
    InputLine(#[source] LineTooLong),
    /// A line of the job's output is too long.
    #[error("output {0}")]
    OutputLine(#[source] LineTooLong),
    /// A field of the input is not what the manifest says.
    #[error("line {line} of the input: {source}")]
    InputField {
        /// Number of the line, from 1.
        line: u64,
        /// Why.
        source: LineError,
    },
    /// A field of the job's output cannot be sealed.
    #[error("line {line} of the job's output: {source}")]
    OutputField {
        /// Number of the line, from 1.
        line: u64,
        /// Why.
        source: LineError,
    },
    /// The job failed.
    #[error(
        "the job {exit}; its whole result is dropped. Its standard error says why: run the image in debug mode, or set log.job_stderr = \"forward\""
    )]
    Job {
        /// How it ended.
        exit: Exit,
    },
    /// The job wants no more input.
    #[error("the job closed its standard input before the input's end; it must read every line")]
    StoppedReading,
    /// The job answered a line that it was not given.
    #[error(
        "the job wrote more lines than it was given: line {line} of its output has no line of input. It must write exactly one for each"
    )]
    ExtraLine {
        /// Number of the line, from 1.
        line: u64,
    },
    /// The job left lines unanswered.
    #[error(
        "the job was given {given} lines and wrote {written}; it must write exactly one for each"
    )]
    MissingLines {
        /// Lines of the input.
        given: u64,
        /// Lines of the output.
        written: u64,
    },
    /// The job's last line does not end.
    #[error("the job's output ends within line {line}; every line must end with a newline")]
    PartialLine {
        /// Number of the line, from 1.
        line: u64,
    },
    /// It took too long.
    #[error(
        "the call took longer than {seconds} seconds: raise job.timeout_seconds in anchorhold.toml, or send less at a time"
    )]
    Timeout {
        /// The manifest's limit.
        seconds: u64,
    },
    /// The parent went away.
    #[error("the caller hung up")]
    HungUp,
}

impl CallError {
    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            CallError::Request(_) => "request",
            CallError::Input(_) => "input",
            CallError::ReservedContext { .. } => "reserved_context",
            CallError::InputKey(_) => "input_key",
            CallError::ResultKey(_) => "result_key",
            CallError::Seal(_) => "seal",
            CallError::Secret(_) => "secret",
            CallError::Spawn(_) => "job_start",
            CallError::Stream { .. } => "job_stream",
            CallError::InputLine(_) => "input_line_too_long",
            CallError::OutputLine(_) => "output_line_too_long",
            CallError::InputField { .. } => "input_field",
            CallError::OutputField { .. } => "output_field",
            CallError::Job { .. } => "job_failed",
            CallError::StoppedReading => "job_stopped_reading",
            CallError::ExtraLine { .. } => "extra_line",
            CallError::MissingLines { .. } => "missing_lines",
            CallError::PartialLine { .. } => "partial_line",
            CallError::Timeout { .. } => "timeout",
            CallError::HungUp => "hung_up",
        }
    }

    /// The HTTP status, where nothing was sent yet: whose fault it is.
    pub fn status(&self) -> StatusCode {
        match self {
            CallError::Request(_)
            | CallError::Input(_)
            | CallError::ReservedContext { .. }
            | CallError::InputLine(_)
            | CallError::InputKey(KeyError::NoUsableDataKey)
            | CallError::HungUp => StatusCode::BAD_REQUEST,
            CallError::InputKey(_)
            | CallError::ResultKey(_)
            | CallError::InputField {
                source: LineError::Key(_),
                ..
            } => StatusCode::BAD_GATEWAY,
            CallError::InputField { .. } => StatusCode::BAD_REQUEST,
            CallError::Secret(_) => StatusCode::SERVICE_UNAVAILABLE,
            CallError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            CallError::Seal(_)
            | CallError::Spawn(_)
            | CallError::Stream { .. }
            | CallError::OutputLine(_)
            | CallError::OutputField { .. }
            | CallError::Job { .. }
            | CallError::StoppedReading
            | CallError::ExtraLine { .. }
            | CallError::MissingLines { .. }
            | CallError::PartialLine { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What every call of an enclave has in common.
pub struct Terms<N, S> {
    /// Where data keys come from.
    pub keys: Arc<Keys<N, S>>,
    /// Starts the job.
    pub launcher: Arc<Launcher>,
    /// Longest line, in or out, in bytes.
    pub max_line_bytes: usize,
    /// Fields of lines that are sealed by themselves.
    pub fields: Option<FieldTerms>,
    /// For the whole call.
    pub timeout: Duration,
}

/// A piece of a call's outcome.
enum Piece {
    /// Sealed bytes; more follows.
    More(Bytes),
    /// The result's last sealed bytes: only a call that succeeded as a whole has them.
    Last(Bytes),
    /// The call failed.
    Failed(CallError),
}

/// Begins a call and returns once it has the first frame of its result, or all of it, or has failed.
///
/// `before` is awaited first, within the call's time. `permit` is held until the job is gone. `failed` is told of
/// failures, also of those that come too late for a status.
///
/// # Errors
/// Whatever went wrong before the first bytes of the result.
pub async fn begin<N, S, B>(
    terms: Arc<Terms<N, S>>,
    mut body: B,
    before: impl Future<Output = Result<(), CallError>> + Send + 'static,
    permit: impl Send + 'static,
    failed: impl Fn(&CallError) + Send + Sync + 'static,
) -> Result<Reply, CallError>
where
    N: Nsm,
    S: KeyService,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send + Unpin + 'static,
{
    let (sender, mut receiver) = mpsc::channel(WAITING_PIECES);
    tokio::spawn(async move {
        let work = async {
            before.await?;
            run(&terms, &mut body, &sender).await
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(terms.timeout, work) => {
                outcome.unwrap_or(Err(CallError::Timeout { seconds: terms.timeout.as_secs() }))
            }
            () = sender.closed() => Err(CallError::HungUp),
        };
        drop(permit);
        if let Err(error) = &outcome {
            failed(error);
        }
        let is_failure = outcome.is_err();
        let last = outcome.map_or_else(Piece::Failed, Piece::Last);
        // If nobody is there to take it, nobody takes it.
        let _ = sender.send_timeout(last, terms.timeout).await;
        drop(sender);
        if is_failure {
            let _ = tokio::time::timeout(DRAIN_TIME, drain(&mut body)).await;
        }
    });
    match receiver.recv().await {
        Some(Piece::More(bytes)) => Ok(Reply {
            first: Some(bytes),
            rest: Some(receiver),
        }),
        Some(Piece::Last(bytes)) => Ok(Reply {
            first: Some(bytes),
            rest: None,
        }),
        Some(Piece::Failed(error)) => Err(error),
        None => Err(CallError::HungUp),
    }
}

/// A result on its way. As a body it ends well only if the call did.
pub struct Reply {
    first: Option<Bytes>,
    /// None once the last piece is out.
    rest: Option<mpsc::Receiver<Piece>>,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let piece = std::task::ready!(rest.poll_recv(context));
        Poll::Ready(Some(match piece {
            Some(Piece::More(bytes)) => Ok(Frame::data(bytes)),
            Some(Piece::Last(bytes)) => {
                self.rest = None;
                Ok(Frame::data(bytes))
            }
            // The error makes the server cut the connection, without the chunk that would end the body.
            Some(Piece::Failed(error)) => Err(io::Error::other(error)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }))
    }
}

/// The call itself; returns the result's last bytes. Dropping it ends the job.
async fn run<N, S, B>(
    terms: &Terms<N, S>,
    body: &mut B,
    output: &mpsc::Sender<Piece>,
) -> Result<Bytes, CallError>
where
    N: Nsm,
    S: KeyService,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Send + Unpin + 'static,
{
    let mut input = Input {
        body,
        unread: Vec::new(),
    };
    let header = input.header().await?;
    let result_context = result_context(&header)?;

    let fields = terms.fields.as_ref();
    // The job starts while the key service is asked; it sees nothing before the header is authenticated.
    let (input_key, result_key, field_key, job) = tokio::try_join!(
        async {
            let key_id = terms.keys.key_id();
            let key = terms
                .keys
                .open(key_id, header.data_keys(), header.context());
            key.await.map_err(CallError::InputKey)
        },
        async {
            let key = terms.keys.generate(&result_context);
            key.await.map_err(CallError::ResultKey)
        },
        async {
            let Some((fields, seal)) =
                fields.and_then(|fields| Some((fields, fields.seal.clone()?)))
            else {
                return Ok(None);
            };
            let context = field_context(fields.context.clone());
            let key = terms.keys.generate(&context).await;
            let key = key.map_err(CallError::ResultKey)?;
            let sealed = SealedLines::new(seal, &fields.context, key);
            sealed.map(Some).map_err(CallError::Seal)
        },
        async { terms.launcher.start().await.map_err(CallError::Spawn) },
    )?;
    let frame_length = header.frame_length() as usize;
    let opener = Opener::new(header, input_key).map_err(CallError::Input)?;
    let (sealer, sealed) = begin_result(result_context, result_key)?;

    let crate::jobs::Running {
        stdin,
        stdout,
        mut exit,
        guard: _guard,
    } = job;
    let given = AtomicU64::new(0);
    let opened = fields.and_then(|fields| {
        let open = fields.open.clone()?;
        Some(OpenedLines::new(open, fields.context.clone(), &*terms.keys))
    });
    let feeding = feed(
        &mut input,
        opener,
        frame_length,
        stdin,
        Feed {
            lines: Lines::new(terms.max_line_bytes),
            given: &given,
            opened,
        },
    );
    let collecting = Collector {
        sealer,
        sealed,
        fields: field_key,
        lines: Lines::new(terms.max_line_bytes),
        given: &given,
        output,
    }
    .collect(stdout);
    let ending = async {
        match (&mut exit).await {
            Ok(exit) if exit.success() => Ok(()),
            Ok(exit) => Err(CallError::Job { exit }),
            Err(_) => Err(CallError::Job {
                exit: Exit::Signal(0),
            }),
        }
    };
    let (fed, collector, ()) = tokio::try_join!(feeding, collecting, ending)?;
    if fed == Fed::Refused {
        return Err(CallError::StoppedReading);
    }
    collector.finish()
}

/// The result's context: the input's, marked as a result of this very message.
fn result_context(input: &Header) -> Result<EncryptionContext, CallError> {
    let mut context = input.context().clone();
    if let Some(key) = context.keys().find(|key| key.starts_with(RESERVED_PREFIX)) {
        return Err(CallError::ReservedContext { key: key.clone() });
    }
    // It names the input's signer, who has not signed the result.
    context.remove(PUBLIC_KEY_ENTRY);
    context.insert("anchorhold:kind".to_owned(), "result".to_owned());
    context.insert(
        "anchorhold:request".to_owned(),
        hex::encode(input.message_id()),
    );
    Ok(context)
}

fn begin_result(
    context: EncryptionContext,
    key: GeneratedKey,
) -> Result<(Sealer, Vec<u8>), CallError> {
    let mut options = SealOptions::new(context, vec![key.encrypted]);
    options.frame_length = RESULT_FRAME_BYTES;
    let message_id = new_message_id().map_err(CallError::Seal)?;
    Sealer::new(options, key.data_key, message_id).map_err(CallError::Seal)
}

/// The request's body.
struct Input<'a, B> {
    body: &'a mut B,
    /// Read and not yet used: what came with the header.
    unread: Vec<u8>,
}

impl<B> Input<'_, B>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    async fn header(&mut self) -> Result<Header, CallError> {
        loop {
            match Header::parse(&self.unread, &INPUT_LIMITS).map_err(CallError::Input)? {
                Parse::Complete { header, consumed } => {
                    self.unread.drain(..consumed);
                    return Ok(*header);
                }
                Parse::Incomplete => match self.body_chunk().await? {
                    Some(chunk) => self.unread.extend_from_slice(&chunk),
                    None => {
                        return Err(CallError::Input(anchorhold_envelope::Error::Truncated {
                            missing: "header's end",
                        }));
                    }
                },
            }
        }
    }

    /// The next bytes after the header, or none at the request's end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        if self.unread.is_empty() {
            self.body_chunk().await
        } else {
            Ok(Some(std::mem::take(&mut self.unread).into()))
        }
    }

    async fn body_chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| CallError::Request(error.to_string()))?;
            // Trailers say nothing that is authenticated.
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// What became of the input.
#[derive(Debug, PartialEq, Eq)]
enum Fed {
    /// The job has all of it, and it was whole.
    Whole,
    /// The job closed its end. Why, its exit says.
    Refused,
}

/// What becomes of the input's lines.
struct Feed<'a, N, S> {
    lines: Lines,
    /// How many the job is given.
    given: &'a AtomicU64,
    /// Their fields, where any are to be opened.
    opened: Option<OpenedLines<'a, N, S>>,
}

/// Opens the input and writes it to the job, then closes the job's input, but only once all of it was proven.
async fn feed<N, S, B, W>(
    input: &mut Input<'_, B>,
    mut opener: Opener,
    frame_length: usize,
    mut stdin: W,
    feed: Feed<'_, N, S>,
) -> Result<Fed, CallError>
where
    N: Nsm,
    S: KeyService,
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
    W: AsyncWrite + Unpin,
{
    let Feed {
        mut lines,
        given,
        mut opened,
    } = feed;
    let mut with_fields = Zeroizing::new(Vec::new());
    let mut plaintext = Zeroizing::new(Vec::new());
    while let Some(chunk) = input.chunk().await? {
        plaintext.clear();
        // Room for all that these bytes can bring, so that growing leaves no copies behind.
        let room = chunk.len() + frame_length;
        if plaintext.capacity() < room {
            plaintext = Zeroizing::new(Vec::with_capacity(room));
        }
        opener
            .update(&chunk, &mut plaintext)
            .map_err(CallError::Input)?;
        drop(chunk);
        lines.take(&plaintext).map_err(CallError::InputLine)?;
        let out = match &mut opened {
            None => &plaintext,
            Some(opened) => {
                let taken = opened.take(&plaintext, &mut with_fields).await;
                taken.map_err(|source| CallError::InputField {
                    line: opened.line(),
                    source,
                })?;
                &with_fields
            }
        };
        given.store(lines.complete(), Ordering::Release);
        if !out.is_empty()
            && let Some(fed) = written(stdin.write_all(out).await)?
        {
            return Ok(fed);
        }
    }
    opener.finish().map_err(CallError::Input)?;
    if lines.ends_within_a_line() {
        if let Some(opened) = &mut opened {
            let taken = opened.last(&mut with_fields).await;
            taken.map_err(|source| CallError::InputField {
                line: opened.line(),
                source,
            })?;
            if let Some(fed) = written(stdin.write_all(&with_fields).await)? {
                return Ok(fed);
            }
        }
        given.store(lines.complete() + 1, Ordering::Release);
        if let Some(fed) = written(stdin.write_all(b"\n").await)? {
            return Ok(fed);
        }
    }
    Ok(Fed::Whole)
}

fn written(result: io::Result<()>) -> Result<Option<Fed>, CallError> {
    match result {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(Fed::Refused)),
        Err(source) => Err(CallError::Stream {
            stream: "standard input",
            source,
        }),
    }
}

/// Seals what the job writes.
struct Collector<'a> {
    sealer: Sealer,
    sealed: Vec<u8>,
    /// Seals their fields, where any are to be sealed.
    fields: Option<SealedLines>,
    lines: Lines,
    given: &'a AtomicU64,
    output: &'a mpsc::Sender<Piece>,
}

impl Collector<'_> {
    /// Reads to the end of the job's output. Nothing is sent before there is a frame's worth, so that small calls either
    /// succeed as a whole or fail with a status.
    async fn collect<R: AsyncRead + Unpin>(mut self, mut stdout: R) -> Result<Self, CallError> {
        let mut buffer = Zeroizing::new(vec![0; READ_BYTES]);
        let mut with_fields = Zeroizing::new(Vec::new());
        loop {
            let count = stdout
                .read(&mut buffer)
                .await
                .map_err(|source| CallError::Stream {
                    stream: "standard output",
                    source,
                })?;
            if count == 0 {
                return Ok(self);
            }
            let written = &buffer[..count];
            self.lines.take(written).map_err(CallError::OutputLine)?;
            let given = self.given.load(Ordering::Acquire);
            if self.lines.complete() > given {
                return Err(CallError::ExtraLine { line: given + 1 });
            }
            let written = match &mut self.fields {
                None => written,
                Some(fields) => {
                    let taken = fields.take(written, &mut with_fields);
                    taken.map_err(|source| CallError::OutputField {
                        line: fields.line(),
                        source,
                    })?;
                    &with_fields
                }
            };
            self.sealer
                .update(written, &mut self.sealed)
                .map_err(CallError::Seal)?;
            if self.sealed.len() >= RESULT_FRAME_BYTES as usize {
                let piece = Piece::More(std::mem::take(&mut self.sealed).into());
                self.output
                    .send(piece)
                    .await
                    .map_err(|_| CallError::HungUp)?;
            }
        }
    }

    /// The last bytes of the result: only after input and job have ended well.
    fn finish(mut self) -> Result<Bytes, CallError> {
        let given = self.given.load(Ordering::Acquire);
        let written = self.lines.complete();
        if self.lines.ends_within_a_line() {
            return Err(CallError::PartialLine { line: written + 1 });
        }
        if written != given {
            return Err(CallError::MissingLines { given, written });
        }
        self.sealer
            .finish(&mut self.sealed)
            .map_err(CallError::Seal)?;
        Ok(self.sealed.into())
    }
}

/// Takes what is left of a request and drops it.
async fn drain<B>(body: &mut B) -> Result<Infallible, ()>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut left = DRAIN_BYTES;
    loop {
        let frame = body.frame().await.ok_or(())?.map_err(drop)?;
        let count = frame.data_ref().map_or(0, Bytes::len);
        left = left.checked_sub(count).ok_or(())?;
    }
}
