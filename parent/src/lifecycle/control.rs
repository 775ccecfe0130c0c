//! The control socket of a supervisor: `<dir>/control.sock`, by which the daemon and the command line steer a running enclave's
//! host side. It changes what the windows let through; it never sees what passes them.
//!
//! A stream of [frames](super::frame): one [`Request`] with its descriptors, one [`Reply`] with its own. The socket is its
//! owner's alone (mode 0600, in a folder of mode 0700), and whoever connects is asked of the kernel (`SO_PEERCRED`): another
//! user, but root, is hung up on. Nothing here waits for the enclave, so that a hostile one cannot hold an answer up. The
//! connection's end is the supervisor's end, which is how a daemon notices it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::frame::{receive, receive_async, send, send_async};
use super::state::State;
use crate::window::ingress::Rules;
use crate::window::{Allowlist, Limits};

/// The socket's name in an enclave's folder.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Connections that are served at once: a daemon, the command line, and one to spare for each.
const MOST_CONNECTIONS: usize = 16;

/// How long the supervisor may take to answer. It waits for nothing, so that this is the time of a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An ingress: connections that a socket of the host's takes go to a port of the enclave's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// Its name, unlike those of the enclave's other ingresses.
    pub name: String,
    /// The enclave's vsock port.
    pub port: u32,
    /// What it lets in.
    #[serde(default)]
    pub rules: Rules,
}

/// What is asked of a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it stands. Answered by [`Reply::Status`].
    Status,
    /// The enclave has attested, and its document was verified and is that of the right image. It is written down, so that a
    /// daemon that starts anew knows it.
    Admit {
        /// When, in ms since 1970.
        at_ms: u64,
    },
    /// Take connections on these listening sockets, of which one comes along for each, in this order. One of a name that is
    /// known takes the place of that one.
    Listen {
        /// What they lead to.
        ingress: Vec<Ingress>,
    },
    /// Hand out copies of the listening sockets. Answered by [`Reply::Listeners`].
    Listeners,
    /// Take no new connections on these listening sockets, and close this process's copies of them. Running flows go on.
    StopAccepting {
        /// Names of ingresses; all of them where absent.
        #[serde(default)]
        names: Option<Vec<String>>,
    },
    /// Take no new connections, wait until the last flow and the last call have ended, and end the enclave then, or when the
    /// time is over. Answered at once.
    Drain {
        /// How long flows and calls may take, in ms.
        limit_ms: u64,
    },
    /// Change what the enclave may reach. Running flows go on.
    Egress {
        /// All that it may reach from now on.
        allow: Allowlist,
    },
    /// Change bounds, for new flows. Running flows go on as they were, but for their pace.
    Limits {
        /// Of the window that the enclave dials; as they are where absent.
        #[serde(default)]
        egress: Option<Limits>,
        /// Of ingresses, by name; the others stay as they are.
        #[serde(default)]
        ingress: BTreeMap<String, Rules>,
    },
    /// Change the sealed secrets that the enclave is handed when it asks for them.
    Secrets {
        /// All of them, by name, as base64 of what was sealed.
        sealed: BTreeMap<String, String>,
    },
    /// What has passed so far. Answered by [`Reply::Counters`].
    Counters,
    /// End the enclave now.
    End,
}

/// What a supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done,
    /// How it stands.
    Status {
        /// What is in its state file as well.
        state: Box<State>,
        /// Flows that are open, in and out.
        flows: u64,
        /// Names of the ingresses on which connections are taken.
        accepting: Vec<String>,
    },
    /// Listening sockets, one for each, in this order.
    Listeners {
        /// What they lead to.
        ingress: Vec<Ingress>,
    },
    /// What has passed.
    Counters {
        /// The numbers.
        counters: Counters,
    },
    /// It cannot be done; nothing was changed.
    Refused {
        /// Why, and what to do about it.
        reason: String,
    },
}

/// Numbers of one enclave's windows since it was started. They only grow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Of each window (`egress`, and `ingress/` with the name of each ingress): numbers by name, `flows`,
    /// `bytes_from_enclave`, `bytes_to_enclave`; and `flows_open`, which alone may fall.
    pub windows: BTreeMap<String, BTreeMap<String, u64>>,
    /// Refusals and cut flows by window and reason.
    pub refusals: BTreeMap<String, BTreeMap<String, u64>>,
    /// Times by window and kind.
    pub seconds: BTreeMap<String, BTreeMap<String, Histogram>>,
}

/// Times in classes, as Prometheus counts them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The upper bound of each class in seconds, growing; the last class is without.
    pub bounds: Vec<f64>,
    /// How many were in each class; one more than `bounds`.
    pub counts: Vec<u64>,
    /// All of them together, in seconds.
    pub sum: f64,
}

/// Why a supervisor did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be reached, or broke off.
    #[error(
        "the supervisor at {path} cannot be reached: {source}; `anchorhold ps` says whether its enclave runs"
    )]
    Unreachable {
        /// Its control socket.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It answered something else than what was asked.
    #[error(
        "the supervisor gave another answer than the one to this request: is it of another version?"
    )]
    Unexpected,
}

/// A connection to a supervisor. It blocks.
#[derive(Debug)]
pub struct Control {
    stream: StdUnixStream,
    path: String,
}

impl Control {
    /// Connects to the supervisor of the enclave whose folder this is.
    pub fn connect(dir: &Path) -> Result<Self, ControlError> {
        let path = dir.join(CONTROL_SOCKET);
        let shown = path.display().to_string();
        let unreachable = |source| ControlError::Unreachable {
            path: shown.clone(),
            source,
        };
        let stream = StdUnixStream::connect(&path).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_LIMIT)))
            .map_err(unreachable)?;
        Ok(Self {
            stream,
            path: shown,
        })
    }

    /// Asks, with descriptors where the request takes some. An error leaves the connection unusable, but for
    /// [`ControlError::Refused`].
    pub fn ask(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ControlError> {
        let answer = send(&self.stream, request, descriptors)
            .and_then(|()| receive::<Reply>(&self.stream))
            .map_err(|source| ControlError::Unreachable {
                path: self.path.clone(),
                source,
            })?;
        match answer {
            (Reply::Refused { reason }, _) => Err(ControlError::Refused(reason)),
            answer => Ok(answer),
        }
    }

    /// Asks for something that is done or refused.
    pub fn order(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        match self.ask(request, descriptors)? {
            (Reply::Done, _) => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// The connection itself, to be watched: it ends with the supervisor.
    pub fn into_stream(self) -> StdUnixStream {
        self.stream
    }
}

/// The same from within an event loop: one request on a connection of its own, answered within `limit`.
pub(crate) async fn ask(
    dir: &Path,
    request: &Request,
    descriptors: &[OwnedFd],
    limit: Duration,
) -> Result<(Reply, Vec<OwnedFd>), ControlError> {
    let path = dir.join(CONTROL_SOCKET);
    let exchange = async {
        let mut stream = UnixStream::connect(&path).await?;
        send_async(&mut stream, request, descriptors).await?;
        receive_async::<Reply>(&mut stream)
            .await?
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    let answer = tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ControlError::Unreachable {
            path: path.display().to_string(),
            source,
        })?;
    match answer {
        (Reply::Refused { reason }, _) => Err(ControlError::Refused(reason)),
        answer => Ok(answer),
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A request on its way to the supervisor's own loop, which alone changes anything.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) answer: oneshot::Sender<(Reply, Vec<OwnedFd>)>,
    /// Ends when the answer is out, or cannot be.
    pub(super) told: oneshot::Receiver<()>,
}

/// Binds the socket, for its owner alone.
pub(super) fn bind(dir: &Path) -> io::Result<StdUnixListener> {
    let path = dir.join(CONTROL_SOCKET);
    let listener = StdUnixListener::bind(&path)?;
    // The folder keeps others out already, also in the moment before this.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves for ever. Dropping the future closes every connection.
pub(super) async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = crate::window::accept(&listener).await;
        while connections.try_join_next().is_some() {}
        if !is_admitted(&stream) {
            tracing::warn!("another user's connection to the control socket was closed");
            continue;
        }
        let asked = asked.clone();
        connections.spawn(async move {
            if let Err(error) = connection(stream, &asked).await {
                tracing::debug!(%error, "a connection to the control socket ended");
            }
            drop(place);
        });
    }
}

/// Whether the kernel says that it is this process's user, or root.
fn is_admitted(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn connection(mut stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    while let Some((request, descriptors)) = receive_async::<Request>(&mut stream).await? {
        let (answer, answered) = oneshot::channel();
        let (telling, told) = oneshot::channel();
        let asking = Asked {
            request,
            descriptors,
            answer,
            told,
        };
        if asked.send(asking).await.is_err() {
            return Ok(());
        }
        let Ok((reply, descriptors)) = answered.await else {
            return Ok(());
        };
        send_async(&mut stream, &reply, &descriptors).await?;
        drop::<oneshot::Sender<()>>(telling);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use std::io::Write;

    #[test]
    fn requests_have_one_form_and_unknown_ones_are_refused() {
        for (request, text) in [
            (Request::Status, r#"{"ask":"status"}"#),
            (
                Request::StopAccepting { names: None },
                r#"{"ask":"stop-accepting","names":null}"#,
            ),
            (
                Request::Drain { limit_ms: 5 },
                r#"{"ask":"drain","limit_ms":5}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        for text in [
            r#"{"ask":"shell"}"#,
            r#"{"ask":"drain"}"#,
            r#"{"ask":"drain","limit_ms":5,"more":1}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_reaches_the_loop_and_garbage_ends_its_own_connection_only() {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(CONTROL_SOCKET)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let (asked, mut heard) = mpsc::channel(1);
        let server = tokio::spawn(serve(UnixListener::from_std(listener).unwrap(), asked));
        let path = dir.path().to_owned();
        let client = tokio::task::spawn_blocking(move || {
            let mut garbage = StdUnixStream::connect(path.join(CONTROL_SOCKET)).unwrap();
            garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut control = Control::connect(&path).unwrap();
            control.order(&Request::End, &[]).unwrap();
            let refused = control.order(&Request::Drain { limit_ms: 1 }, &[]);
            assert_eq!(refused.unwrap_err().to_string(), "not now");
            control.order(&Request::Status, &[]).unwrap_err()
        });
        for reply in [
            Reply::Done,
            Reply::Refused {
                reason: "not now".into(),
            },
            Reply::Counters {
                counters: Counters::default(),
            },
        ] {
            let asked: Asked = heard.recv().await.unwrap();
            let _ = asked.answer.send((reply, Vec::new()));
        }
        assert!(matches!(client.await.unwrap(), ControlError::Unexpected));
        server.abort();
    }
}
