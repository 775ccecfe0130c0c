//! A job of contract `http`: kept running, and reached by whoever has a request for it.
//!
//! Only what came through TLS that ends in this enclave may be handed to it: no path from the parent to the job may be
//! built from this that the parent can read. Nothing that the job puts in the place of its socket leads anywhere else
//! than to the job.

mod keeper;
mod relay;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anchorhold_manifest::{Http, Restart};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};

pub use keeper::Ended;
pub use relay::{RelayBody, RelayError};

use crate::jobs::Launcher;

/// How long a request waits for a job that is not ready.
const READY_PATIENCE: Duration = Duration::from_secs(10);
/// How long the job may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a job listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On a Unix socket in a folder of its own.
    Socket(PathBuf),
    /// On a port of 127.0.0.1. Nobody but jobs can make sockets of that kind in here, the runtime aside, which listens on
    /// none; and no job can connect to one where the kernel has Landlock's rules for that.
    Port(u16),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Socket(path) => path.display().fmt(formatter),
            Place::Port(port) => write!(formatter, "127.0.0.1:{port}"),
        }
    }
}

/// A connection to the job, of either kind.
pub type Connection = Box<dyn Duplex>;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a service is and what it may be asked.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Where the job listens.
    pub place: Place,
    /// `[http]` of the manifest.
    pub http: Http,
    /// How long one request may take, from its head to its answer's last byte.
    pub request_timeout: Duration,
}

/// How it stands with the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was started, or waits to be.
    NotReady,
    /// It takes requests.
    Ready,
    /// It ended for good.
    Ended,
}

/// Why the job cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It is being started, or it does not get ready.
    #[error(
        "the job is not ready: it is being started, or does not come up. The console says which"
    )]
    NotReady,
    /// It will not be started again.
    #[error("the job has ended, and is not started again")]
    Ended,
    /// It was ready, and does not accept.
    #[error("the job does not accept connections: {0}")]
    Connect(#[source] io::Error),
    /// What listens is somebody else.
    #[error("what listens in the job's place is not the job")]
    NotTheJob,
}

/// Counts since the enclave's start.
#[derive(Debug, Default)]
pub struct Tally {
    starts: AtomicU64,
    requests: AtomicU64,
    turned_away: AtomicU64,
}

/// How it stands with a service, for a parent that watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// Whether it takes requests.
    pub ready: bool,
    /// How often the job was started.
    pub starts: u64,
    /// Requests that were handed to it.
    pub requests: u64,
    /// Requests that were not, as too many were running.
    pub turned_away: u64,
}

/// A job that answers requests.
pub struct Service {
    terms: Terms,
    state: watch::Sender<State>,
    tally: Tally,
    permits: Arc<Semaphore>,
    idle: relay::Idle,
    /// The uid that the job has, where it has one of its own.
    owner: Option<u32>,
}

impl Service {
    /// A service whose job is started by [`keep`](Self::keep).
    pub fn new(launcher: &Launcher, terms: Terms) -> Arc<Service> {
        Arc::new(Service {
            permits: Arc::new(Semaphore::new(terms.http.max_requests)),
            idle: relay::Idle::new(terms.http.max_requests),
            terms,
            state: watch::Sender::new(State::NotReady),
            tally: Tally::default(),
            owner: launcher.confinement().job_owner().map(|(uid, _)| uid),
        })
    }

    /// Starts the job and keeps it running until it has ended for good, by the manifest's rules. To be called once: two
    /// jobs would take each other's socket.
    pub async fn keep(&self, launcher: &Arc<Launcher>) -> Ended {
        keeper::keep(self, launcher).await
    }

    /// What the service may be asked.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Standing {
            ready: *self.state.borrow() == State::Ready,
            starts: count(&self.tally.starts),
            requests: count(&self.tally.requests),
            turned_away: count(&self.tally.turned_away),
        }
    }

    /// A connection to the job, once it is ready. What is sent on it, the job reads as it is: limits of requests are
    /// [`Service::answer`]'s.
    ///
    /// # Errors
    /// See [`ServiceError`]; after ten seconds of waiting at most.
    pub async fn connect(&self) -> Result<Connection, ServiceError> {
        let mut state = self.state.subscribe();
        let ready = state.wait_for(|state| *state != State::NotReady);
        match tokio::time::timeout(READY_PATIENCE, ready).await {
            Err(_) => return Err(ServiceError::NotReady),
            Ok(Err(_)) => return Err(ServiceError::Ended),
            Ok(Ok(state)) if *state == State::Ended => return Err(ServiceError::Ended),
            Ok(Ok(_)) => {}
        }
        self.dial().await
    }

    /// A connection to where the job listens, and to nobody else, whether the job is ready or not.
    ///
    /// # Errors
    /// [`ServiceError::Connect`] and [`ServiceError::NotTheJob`].
    pub async fn dial(&self) -> Result<Connection, ServiceError> {
        let dialled = async {
            match &self.terms.place {
                Place::Socket(path) => {
                    let stream = UnixStream::connect(path)
                        .await
                        .map_err(ServiceError::Connect)?;
                    self.check_peer(&stream)?;
                    Ok(Box::new(stream) as Connection)
                }
                Place::Port(port) => dial_port(*port).await,
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, dialled)
            .await
            .unwrap_or_else(|_| Err(ServiceError::Connect(io::ErrorKind::TimedOut.into())))
    }

    /// The folder is the job's, and what it puts there may lead to a socket of the runtime.
    fn check_peer(&self, stream: &UnixStream) -> Result<(), ServiceError> {
        let peer = stream.peer_cred().map_err(ServiceError::Connect)?;
        let itself = i32::try_from(std::process::id()).ok();
        let other_user = self.owner.is_some_and(|uid| uid != peer.uid());
        if peer.pid().is_none() || peer.pid() == itself || other_user {
            return Err(ServiceError::NotTheJob);
        }
        Ok(())
    }
}

async fn dial_port(port: u16) -> Result<Connection, ServiceError> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await
        .map_err(ServiceError::Connect)?;
    let local = stream.local_addr().map_err(ServiceError::Connect)?;
    let peer = stream.peer_addr().map_err(ServiceError::Connect)?;
    check_ends(&local, &peer)?;
    stream.set_nodelay(true).map_err(ServiceError::Connect)?;
    Ok(Box::new(stream))
}

/// Where nobody listens, a socket that is given the very port that it connects to meets itself.
///
/// # Errors
/// [`ServiceError::NotTheJob`] where it has.
pub fn check_ends(local: &SocketAddr, peer: &SocketAddr) -> Result<(), ServiceError> {
    if local == peer {
        return Err(ServiceError::NotTheJob);
    }
    Ok(())
}

/// Makes the folder that the job's socket lies in.
///
/// # Errors
/// The kernel's.
pub fn make_folder(socket: &std::path::Path) -> io::Result<PathBuf> {
    let folder = socket.parent().unwrap_or(socket).to_owned();
    match std::fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
    Ok(folder)
}

/// What follows when the job has ended: whether it is started again.
fn again(restart: Restart, success: bool) -> bool {
    match restart {
        Restart::Always => true,
        Restart::OnFailure => !success,
        Restart::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_say_when_a_job_is_started_again() {
        assert!(again(Restart::Always, true) && again(Restart::Always, false));
        assert!(!again(Restart::OnFailure, true) && again(Restart::OnFailure, false));
        assert!(!again(Restart::Never, true) && !again(Restart::Never, false));
    }
}
