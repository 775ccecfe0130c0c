//! The local API: what a job may ask of the runtime, over HTTP/1.1 and JSON on a Unix socket.
//!
//! Its client is the job, and may be hostile: it gets what the measured manifest grants and nothing else, whatever it
//! sends, and cannot take more of the runtime than its share of places, bytes and time. Whoever connects is asked of the
//! kernel; nobody but a process of the job is heard. `enclave/openapi.json` describes all of it, and a test compares.

mod answers;
mod routes;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anchorhold_manifest::Api as Granted;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

pub use answers::{ApiError, RESERVED_PREFIX};
pub use routes::{Needs, ROUTES, Route};

use crate::clock::Clock;
use crate::keys::{KeyService, Keys};
use crate::nsm::Nsm;
use crate::reaper::Reaper;
use crate::secrets::Secrets;
use answers::Answer;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 64;
/// Requests that are worked on at a time; more wait a little, and are turned away then.
const MAX_AT_WORK: usize = 16;
/// How long a request waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a request's head may take, and a connection idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long its body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines in its head, and bytes of it.
const MAX_HEADERS: usize = 32;
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Bytes of its body: plaintexts and messages of 8 MiB, in base64 and JSON.
const MAX_BODY_BYTES: usize = 12 * 1024 * 1024;

/// KiB of bodies at a time, of all connections: the runtime's memory is not the job's to fill.
const ROOM_KIB: usize = 16 * 1024;

/// What the local API serves from.
pub struct Api<N, S> {
    /// What the manifest grants.
    pub granted: Granted,
    /// Signs documents, holds PCRs.
    pub nsm: Arc<N>,
    /// The key service, where there is one.
    pub keys: Option<Arc<Keys<N, S>>>,
    /// The manifest's secrets.
    pub secrets: Arc<Secrets>,
    /// The time.
    pub clock: Arc<Clock>,
    /// Who knows the job's processes.
    pub jobs: Arc<Reaper>,
    /// The uid that jobs have.
    pub job_uid: u32,
    at_work: Semaphore,
    room: Semaphore,
}

impl<N: Nsm, S: KeyService> Api<N, S> {
    /// Puts it together.
    pub fn new(
        granted: Granted,
        nsm: Arc<N>,
        keys: Option<Arc<Keys<N, S>>>,
        secrets: Arc<Secrets>,
        clock: Arc<Clock>,
        jobs: Arc<Reaper>,
        job_uid: u32,
    ) -> Arc<Api<N, S>> {
        Arc::new(Api {
            granted,
            nsm,
            keys,
            secrets,
            clock,
            jobs,
            job_uid,
            at_work: Semaphore::new(MAX_AT_WORK),
            room: Semaphore::new(ROOM_KIB),
        })
    }

    /// Serves whoever connects, until the enclave ends.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) -> Infallible {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = Arc::clone(&room)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let api = Arc::clone(&self);
                    tokio::spawn(async move {
                        let peer = api.peer(&stream);
                        api.connection(stream, peer).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    crate::log!("a connection of the job to the runtime was lost: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// The process that connected, if it has the job's uid. The kernel says so.
    fn peer(&self, stream: &UnixStream) -> Option<Pid> {
        let peer = stream.peer_cred().ok()?;
        let pid = peer.pid().map(Pid::from_raw)?;
        (peer.uid() == self.job_uid).then_some(pid)
    }

    /// Serves one connection to its end; `peer` is who connected, by the kernel's word.
    pub async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: Option<Pid>,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            let api = Arc::clone(&self);
            async move {
                let answer = match api.admit(peer) {
                    Ok(()) => api.answer(request).await,
                    Err(error) => Err(error),
                };
                Ok::<_, Infallible>(answers::response(answer))
            }
        });
        // A connection that breaks is the job's affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .auto_date_header(false)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    /// Anew for each request: the process that connected may have ended, and what holds its socket now is unknown.
    fn admit(&self, peer: Option<Pid>) -> Result<(), ApiError> {
        if peer.is_some_and(|pid| self.jobs.is_of_a_job(pid)) {
            Ok(())
        } else {
            Err(ApiError::Identity)
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, ApiError> {
        let (head, body) = request.into_parts();
        let found = routes::find(&head.method, &head.uri);
        let target = match found.and_then(|target| target.check(&self.granted).map(|()| target)) {
            Ok(target) => target,
            Err(error) => {
                // Heard to its end, so that a client that is still sending gets to read the answer.
                let _ = tokio::time::timeout(BODY_TIMEOUT, drain(body)).await;
                return Err(error);
            }
        };
        let size = body.size_hint().upper().unwrap_or(u64::MAX);
        let size = size.clamp(1024, MAX_BODY_BYTES as u64);
        let pages = u32::try_from(size / 1024).unwrap_or(u32::MAX);
        let room = tokio::time::timeout(TURN_PATIENCE, self.room.acquire_many(pages)).await;
        let _room = room.map_err(|_| ApiError::Busy)?;
        let body = read(body).await?;
        let waits = target.waits();
        let turn = async {
            if waits {
                // Waiting for a secret takes no work, and must not take anybody's turn.
                return Ok(None);
            }
            let turn = tokio::time::timeout(TURN_PATIENCE, self.at_work.acquire()).await;
            turn.map_err(|_| ApiError::Busy).map(Result::ok)
        };
        let _turn = turn.await?;
        self.carry_out(&target, &body).await
    }
}

/// Hears a body without keeping it.
async fn drain(mut body: Incoming) {
    let mut left = MAX_BODY_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

async fn read(body: Incoming) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect());
    match whole.await {
        Ok(Ok(body)) => Ok(Zeroizing::new(body.to_bytes().to_vec())),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::BodyTooLarge {
                limit: MAX_BODY_BYTES,
            })
        }
        _ => Err(ApiError::Request(
            "the body did not come in whole".to_owned(),
        )),
    }
}

/// Makes the folder of the socket, which only the runtime may change.
///
/// # Errors
/// The kernel's.
pub fn make_folder(socket: &Path) -> io::Result<std::path::PathBuf> {
    let folder = socket.parent().unwrap_or(socket).to_owned();
    match std::fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// Listens for the job: `owner` is its uid and gid, where it has others than this process.
///
/// # Errors
/// The kernel's.
pub fn listen(socket: &Path, owner: Option<(u32, u32)>) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(socket, Some(uid), Some(gid))?;
    }
    Ok(listener)
}

impl ApiError {
    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Identity | ApiError::NotGranted { .. } => StatusCode::FORBIDDEN,
            ApiError::NotFound => StatusCode::NOT_FOUND,
            ApiError::Method => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::Request(_) | ApiError::Message(_) => StatusCode::BAD_REQUEST,
            ApiError::Busy => StatusCode::TOO_MANY_REQUESTS,
            ApiError::Keys(_) | ApiError::Secret(_) => StatusCode::BAD_GATEWAY,
            ApiError::Nsm(_) => StatusCode::BAD_REQUEST,
            ApiError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
