//! The window inwards: a listening socket of the host's, and the port of the enclave's that its connections lead to, by the
//! [`Rules`] of that ingress.
//!
//! Whoever is to be refused is refused before the enclave hears of it, at the least cost. A head is looked at where the rules
//! ask for one; everything else is carried as it is, and nothing of it is written down anywhere but in a recording that was
//! asked for.

mod head;
mod proxy;
mod rules;
mod sources;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument as _, debug_span};

pub use head::{Look, look};
pub use proxy::{Passed, ProxyVersion, Read, read as read_proxy_header, written as proxy_header};
pub use rules::{IngressKind, Rules, RulesError};

use super::counts::{Counters, Counts, Reason};
use super::flow::{self, Carriage, FlowEnd, Pace, Socket};
use super::recorder::{Carried, Recorder};
use super::relay;
use crate::reach::reach;
use sources::{Admission, Moment, Source, Ticket};

/// What is read at once while the enclave has not heard of a connection.
const PIECE: usize = 2048;

/// The least that a paced flow waits for.
const LEAST: u64 = 4096;

/// After an accept that failed, for want of descriptors.
const REST: Duration = Duration::from_millis(20);

/// A listening socket and what leads in from it.
pub struct Door {
    accepting: Option<(OwnedFd, AbortHandle)>,
    inside: Arc<Inside>,
}

/// What all connections of a door share. They outlive it.
struct Inside {
    vsock: PathBuf,
    port: u32,
    recorder: Option<Recorder>,
    rules: Mutex<Arc<Rules>>,
    admission: Mutex<Admission>,
    began: Instant,
    counters: Counters,
}

/// A listening socket of either kind.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        match getsockname::<SockaddrStorage>(socket.as_raw_fd())?.family() {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Listener::Tcp)
            }
            Some(AddressFamily::Unix) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Listener::Unix)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no TCP and no Unix socket",
            )),
        }
    }
}

impl Door {
    /// Takes connections of `socket`, a listening TCP or Unix socket, from now on, and carries them to the enclave's port. `dir`
    /// is the enclave's folder. To be called within the event loop.
    pub fn open(
        socket: OwnedFd,
        dir: &Path,
        port: u32,
        rules: Rules,
        recorder: Option<Recorder>,
    ) -> io::Result<Self> {
        rules.check().map_err(io::Error::other)?;
        let kept = socket.try_clone()?;
        let listener = Listener::from_socket(socket)?;
        let inside = Arc::new(Inside {
            vsock: dir.join("vsock.sock"),
            port,
            recorder,
            admission: Mutex::new(Admission::new(rules.bounds())),
            rules: Mutex::new(Arc::new(rules)),
            began: Instant::now(),
            counters: Counters::default(),
        });
        let task = tokio::spawn(inside.clone().accept(listener));
        Ok(Self {
            accepting: Some((kept, task.abort_handle())),
            inside,
        })
    }

    /// Other rules for new connections from now on. Those that run go on as they were, but for their pace.
    pub fn change(&self, rules: Rules) -> Result<(), RulesError> {
        rules.check()?;
        self.inside.admission().change(rules.bounds());
        *self
            .inside
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        Ok(())
    }

    /// Whether connections are taken.
    pub fn is_open(&self) -> bool {
        self.accepting.is_some()
    }

    /// The listening socket, while connections are taken.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.accepting.as_ref().map(|(socket, _)| socket.as_fd())
    }

    /// Takes no more connections. Those that there are go on, and those that nobody has taken yet stay with the socket, for whoever
    /// else listens on it.
    pub fn close(&mut self) {
        if let Some((_, task)) = self.accepting.take() {
            task.abort();
        }
    }

    /// Connections that are open, with those that the enclave has not heard of.
    pub fn flows(&self) -> u64 {
        self.inside.admission().open().into()
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        self.inside.counters.counts()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// A place that is given back.
struct Guest {
    inside: Arc<Inside>,
    ticket: Option<Ticket>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.inside.admission().leave(ticket);
        }
    }
}

impl Pace for Guest {
    fn allows(&self, now: Instant, most: usize) -> Result<usize, Instant> {
        let Some(ticket) = &self.ticket else {
            return Ok(most);
        };
        let moment = self.inside.moment(now);
        self.inside
            .admission()
            .bytes(moment, ticket, most as u64, LEAST)
            .map(|bytes| usize::try_from(bytes).unwrap_or(most))
            .map_err(|at| self.inside.began + at)
    }

    fn spend(&self, now: Instant, bytes: usize) {
        if let Some(ticket) = &self.ticket {
            let moment = self.inside.moment(now);
            self.inside.admission().spend(moment, ticket, bytes as u64);
        }
    }
}

/// Who connected, as the socket says.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Address(SocketAddr),
    User(u32),
}

/// A connection on its way in.
struct Arrival<S> {
    stream: S,
    peer: Peer,
    local: Option<SocketAddr>,
    at: Instant,
    guest: Guest,
    rules: Arc<Rules>,
}

impl Inside {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self, now: Instant) -> Moment {
        now.saturating_duration_since(self.began)
    }

    /// Of one connection: where it leads, and never whose it is.
    fn span(&self) -> tracing::Span {
        debug_span!("ingress", port = self.port)
    }

    /// Accepts for ever.
    async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = match &listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, address)| {
                    if let Some(arrival) = self.admit(stream, Peer::Address(address), reset) {
                        // Latency counts more than packets. A socket that refuses the option still carries.
                        let _ = arrival.stream.set_nodelay(true);
                        let local = arrival.stream.local_addr().ok();
                        let arrival = Arrival { local, ..arrival };
                        tokio::spawn(arrival.come_in().instrument(self.span()));
                    }
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    // A peer whose user the kernel does not say is nobody's.
                    let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
                    if let Some(arrival) = self.admit(stream, Peer::User(user), |_| ()) {
                        tokio::spawn(arrival.come_in().instrument(self.span()));
                    }
                }),
            };
            if accepted.is_err() {
                tokio::time::sleep(REST).await;
            }
        }
    }

    /// The cheapest look: by whom a connection is, and how many there are.
    fn admit<S>(
        self: &Arc<Self>,
        stream: S,
        peer: Peer,
        turn_away: impl FnOnce(&S),
    ) -> Option<Arrival<S>> {
        let at = Instant::now();
        let moment = self.moment(at);
        let rules = self
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let admitted = match peer {
            Peer::Address(address) if !rules.proxy_from.is_empty() => {
                if rules.is_balancer(address.ip()) {
                    self.admission().enter(moment)
                } else {
                    Err(Reason::BadProxy)
                }
            }
            Peer::Address(address) if !rules.admits(address.ip()) => Err(Reason::Denied),
            Peer::Address(address) => self.admission().come(moment, address.ip().into()),
            Peer::User(user) => self.admission().come(moment, Source::User(user)),
        };
        match admitted {
            Ok(ticket) => Some(Arrival {
                stream,
                peer,
                local: None,
                at,
                guest: Guest {
                    inside: self.clone(),
                    ticket: Some(ticket),
                },
                rules,
            }),
            Err(reason) => {
                self.counters.refuse(reason);
                turn_away(&stream);
                None
            }
        }
    }
}

/// Turns a connection away at once: nothing of it stays with the kernel.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

impl<S: AsyncRead + AsyncWrite + Unpin + Into<Socket>> Arrival<S> {
    async fn come_in(mut self) {
        let mut early = Vec::new();
        let inside = self.guest.inside.clone();
        let client = match self.hear(&mut early).await {
            Ok(client) => client,
            Err(reason) => {
                inside.counters.refuse(reason);
                self.say_why(reason).await;
                return;
            }
        };
        let dialled = timeout(self.rules.connect(), reach(&inside.vsock, inside.port)).await;
        let (enclave, reason) = match dialled {
            Ok(Ok(enclave)) => (Some(enclave), Reason::Unreachable),
            Ok(Err(_)) => (None, Reason::Unreachable),
            Err(_) => (None, Reason::TimedOut),
        };
        let Some(enclave) = enclave else {
            inside.counters.refuse(reason);
            self.say_why(reason).await;
            return;
        };
        if let Some(version) = self.rules.proxy_to_enclave {
            let mut told = proxy::written(version, client, self.local);
            told.append(&mut early);
            early = told;
        }
        let open = inside.counters.begin(self.at.elapsed());
        let end = self.flow(enclave, early).await;
        drop(open);
        if let Some(reason) = end.reason() {
            inside.counters.refuse(reason);
        }
        tracing::debug!(?end, "an incoming flow ended");
    }

    async fn flow(self, enclave: UnixStream, early: Vec<u8>) -> FlowEnd {
        let inside = self.guest.inside.clone();
        let counters = &inside.counters;
        let idle = self.rules.idle();
        let Ok(enclave) = Carried::new(enclave, inside.recorder.as_ref(), "ingress") else {
            return FlowEnd::Broken;
        };
        match enclave.unrecorded() {
            Ok(enclave) => {
                let is_paced = inside.admission().has_pace();
                let guest = self.guest;
                let carriage = Carriage {
                    idle,
                    most_bytes: self.rules.flow_bytes,
                    pace: is_paced.then_some(&guest as &(dyn Pace + Send + Sync)),
                    counters,
                };
                let ends = (enclave.into(), self.stream.into());
                flow::carry(ends.0, ends.1, (Vec::new(), early), carriage).await
            }
            Err(mut recorded) => {
                let told = timeout(idle, recorded.write_all(&early)).await;
                if !matches!(told, Ok(Ok(()))) {
                    return FlowEnd::Broken;
                }
                relay::relay(recorded, &[], self.stream, idle, counters).await
            }
        }
    }

    /// Hears what must be heard before the enclave hears of it, and says whose connection it is. What was read stands in `early`.
    async fn hear(&mut self, early: &mut Vec<u8>) -> Result<Option<SocketAddr>, Reason> {
        let rules = self.rules.clone();
        let mut client = match self.peer {
            Peer::Address(address) => Some(address),
            Peer::User(_) => None,
        };
        if let (Peer::Address(balancer), false) = (self.peer, rules.proxy_from.is_empty()) {
            client = Some(self.hear_balancer(balancer, early, &rules).await?);
        }
        let Some(first) = rules.first_byte() else {
            return Ok(client);
        };
        if early.is_empty() {
            let deadline = self.at + first;
            self.more(early, deadline, Reason::Silent, Reason::Silent)
                .await?;
        }
        if rules.kind == IngressKind::Http {
            let deadline = Instant::now() + rules.head();
            loop {
                match head::look(early, rules.head_bytes) {
                    Look::Whole => break,
                    Look::Large => return Err(Reason::LargeHead),
                    Look::Wrong => return Err(Reason::BadHead),
                    Look::More => {}
                }
                self.more(early, deadline, Reason::SlowHead, Reason::BadHead)
                    .await?;
            }
        }
        Ok(client)
    }

    async fn hear_balancer(
        &mut self,
        balancer: SocketAddr,
        early: &mut Vec<u8>,
        rules: &Rules,
    ) -> Result<SocketAddr, Reason> {
        let deadline = self.at + rules.head();
        let passed = loop {
            match proxy::read(early) {
                Read::Whole(passed) => break passed,
                Read::Wrong => return Err(Reason::BadProxy),
                Read::More => {}
            }
            self.more(early, deadline, Reason::SlowHead, Reason::BadProxy)
                .await?;
        };
        early.drain(..passed.length);
        let client = passed.client.unwrap_or(balancer);
        if passed.client.is_some() && !rules.admits(client.ip()) {
            return Err(Reason::Denied);
        }
        let inside = &self.guest.inside;
        let moment = inside.moment(Instant::now());
        if let Some(ticket) = &mut self.guest.ticket {
            inside
                .admission()
                .name(moment, ticket, client.ip().into())?;
        }
        Ok(client)
    }

    async fn more(
        &mut self,
        early: &mut Vec<u8>,
        deadline: Instant,
        late: Reason,
        gone: Reason,
    ) -> Result<(), Reason> {
        early.reserve(PIECE);
        let mut piece = early.split_off(early.len());
        piece.reserve(PIECE);
        let mut limited = (&mut self.stream).take(PIECE as u64);
        match timeout_at(deadline, limited.read_buf(&mut piece)).await {
            Err(_) => Err(late),
            Ok(Ok(0) | Err(_)) => Err(gone),
            Ok(Ok(_)) => {
                early.append(&mut piece);
                Ok(())
            }
        }
    }

    /// A client of HTTP is told in a few words. Whether they arrive is its own matter.
    async fn say_why(mut self, reason: Reason) {
        if self.rules.kind != IngressKind::Http {
            return;
        }
        let status = match reason {
            Reason::Silent | Reason::SlowHead => "408 Request Timeout",
            Reason::LargeHead => "431 Request Header Fields Too Large",
            Reason::BadHead => "400 Bad Request",
            Reason::Unreachable => "502 Bad Gateway",
            Reason::TimedOut => "504 Gateway Timeout",
            _ => return,
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        // A few bytes always have room in a socket that was never written to.
        let _ = timeout(REST, self.stream.write_all(answer.as_bytes())).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests;
