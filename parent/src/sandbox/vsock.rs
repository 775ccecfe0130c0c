//! `AF_VSOCK` for the enclave: the state of its sockets, and an answer to every call on them, as Linux's vsock over virtio gives
//! it (`net/vmw_vsock/af_vsock.c`).
//!
//! The enclave's sockets are real Unix sockets, so that read, write, poll, shutdown and the rest need no help. They belong to
//! the enclave's own network namespace. A listening one is bound to a file in a folder of the supervisor, which the enclave
//! cannot see; every connection to or from it is made by the supervisor and carried by [`Flows`]. A socket is known by the
//! kernel's cookie. The supervisor keeps no socket of the enclave open (its peer would never see the end), but an accept that
//! waits does, as it does in a kernel; which sockets still exist is seen in the list of an epoll instance, which forgets a
//! file when its last owner closes it.
//!
//! It must never do anything that can wait for the enclave: connections are made to sockets of the supervisor's own, accepts
//! have a timeout that the enclave cannot change, and addresses are read once.
#![expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the kernel takes the same bits for signed and for unsigned numbers"
)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::filter::{RECEIVE_TIMEOUTS, SO_DOMAIN};
use super::host::Wish;
use super::notify::{Call, Outcome, Threads};
use super::relay::Flows;
use super::supervisor::flow_token;
use super::sys::seccomp::{Answer, Memory};
use super::sys::socket::{self, Address, Kind};
use super::warden::Warden;

/// The most vsock sockets that one enclave may have.
pub(crate) const MOST_SOCKETS: usize = 4096;
/// `VMADDR_CID_ANY` and `VMADDR_PORT_ANY`.
const ANY: u32 = u32::MAX;
const CID_HYPERVISOR: u32 = 0;
const CID_LOCAL: u32 = 1;
const CID_HOST: u32 = 2;
/// The parent of a Nitro enclave.
pub(crate) const CID_PARENT: u32 = 3;
const LAST_RESERVED_PORT: u32 = 1023;
/// `sizeof(struct sockaddr_vm)`.
const ADDRESS_SIZE: usize = 16;
/// How long a connection waits for room in the other side's queue, as vsock's connect timeout has it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for connections from the host, whose clients have timeouts of their own.
const INBOUND_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unconnected,
    Listening,
    Connected,
}

/// A connection that the enclave has not accepted yet.
struct Queued {
    peer_port: u32,
    /// Set where it was accepted for a caller who was gone before it had it.
    taken: Option<OwnedFd>,
}

struct Socket {
    kind: Kind,
    state: State,
    /// The port, once there is one, and whether it was bound to the own CID rather than to any.
    local: Option<(u32, u32)>,
    peer: Option<(u32, u32)>,
    /// The file of a listening socket.
    file: Option<u64>,
    /// The last call did what it was to do, but its caller was interrupted and will make it again.
    unreported: bool,
    queue: VecDeque<Queued>,
    buffer_sizes: [u64; 3],
    connect_timeout: [u8; 16],
}

/// An accept that waits. It holds the listening socket open, as the same call in a kernel does.
struct WaitingAccept {
    notification: super::sys::seccomp::Notification,
    listening: OwnedFd,
    cookie: u64,
}

/// A connect whose target has no room in its queue at the moment.
struct WaitingConnect {
    notification: super::sys::seccomp::Notification,
    socket: OwnedFd,
    cookie: u64,
    peer: (u32, u32),
    until: Instant,
}

/// A connection from the host whose target has no room in its queue at the moment.
struct WaitingInbound {
    host: OwnedFd,
    /// The end that is to be connected to the enclave's port.
    inner: OwnedFd,
    /// Whether the host's client takes that end itself.
    handed_over: bool,
    cookie: u64,
    until: Instant,
}

/// What every operation needs besides the sockets.
pub(crate) struct Around<'a> {
    pub(crate) threads: &'a mut Threads,
    pub(crate) flows: &'a mut Flows,
    pub(crate) epoll: &'a Epoll,
    pub(crate) warden: &'a mut Warden,
}

/// Why a connection from the host was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotConnected {
    NobodyListens,
    TooMany,
}

/// All vsock sockets of one enclave.
pub(crate) struct Vsock {
    cid: u32,
    own_unix_sockets: bool,
    sockets: HashMap<u64, Socket>,
    ports: HashMap<u32, u64>,
    next_port: u32,
    next_host_port: u32,
    accepts: Vec<WaitingAccept>,
    connects: Vec<WaitingConnect>,
    inbound: Vec<WaitingInbound>,
    /// Lists the sockets that still exist (see the module).
    living: Epoll,
    next_sweep: usize,
    /// The supervisor's folder for listening sockets' files, and the enclave's folder on the host.
    folder: OwnedFd,
    folder_path: PathBuf,
    host_folder: OwnedFd,
    next_file: u64,
    /// Where the enclave's connecting sockets connect to, one per kind.
    meeting: [OwnedFd; 2],
}

/// A path to `name` in an open folder that is short enough for a socket's address, whatever the folder's own path.
pub(crate) fn address_in(folder: BorrowedFd<'_>, name: &str) -> Result<Address, Errno> {
    Address::of_path(&format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

impl Vsock {
    /// `folder` is an empty folder of the supervisor's own; `host_folder` holds `vsock.sock_<port>`.
    pub(crate) fn new(
        cid: u32,
        own_unix_sockets: bool,
        folder_path: &Path,
        folder: OwnedFd,
        host_folder: OwnedFd,
    ) -> Result<Vsock, Errno> {
        let meet = |kind, name| {
            let meeting = socket::new(kind, true)?;
            address_in(folder.as_fd(), name)?.bind(meeting.as_fd())?;
            socket::listen(meeting.as_fd(), 64)?;
            Ok::<OwnedFd, Errno>(meeting)
        };
        let meeting = [meet(Kind::Stream, "s")?, meet(Kind::SeqPacket, "q")?];
        // Ports are no secret; they only should not repeat from one enclave to the next.
        let start = LAST_RESERVED_PORT + 1 + std::process::id().wrapping_mul(7919) % 1_000_000;
        Ok(Vsock {
            cid,
            own_unix_sockets,
            sockets: HashMap::new(),
            ports: HashMap::new(),
            next_port: start,
            next_host_port: start,
            accepts: Vec::new(),
            connects: Vec::new(),
            inbound: Vec::new(),
            living: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            next_sweep: 128,
            folder,
            folder_path: folder_path.to_owned(),
            host_folder,
            next_file: 0,
            meeting,
        })
    }

    /// Answers the call, unless it is none of a socket.
    pub(crate) fn answer(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Option<Outcome> {
        // A thread makes one call at a time: what it waited for before was interrupted.
        let tid = call.notification.tid;
        self.accepts
            .retain(|waiting| waiting.notification.tid != tid);
        self.connects
            .retain(|waiting| waiting.notification.tid != tid);
        let outcome = match call.notification.number {
            libc::SYS_socket => self.socket(call, around),
            libc::SYS_connect => self.connect(call, around),
            libc::SYS_bind => self.bind(call, around),
            libc::SYS_listen => self.listen(call, around),
            libc::SYS_accept => self.accept(call, around, 0),
            libc::SYS_accept4 => self.accept(call, around, call.int(3)),
            libc::SYS_getsockname => self.name(call, around, false),
            libc::SYS_getpeername => self.name(call, around, true),
            libc::SYS_setsockopt => self.set_option(call, around),
            libc::SYS_getsockopt => self.option(call, around),
            _ => return None,
        };
        Some(outcome.unwrap_or_else(Outcome::from))
    }

    /// `socket(AF_VSOCK, …)`.
    fn socket(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Result<Outcome, Errno> {
        if call.int(0) != libc::AF_VSOCK {
            return Err(Errno::EAFNOSUPPORT);
        }
        let flags = call.int(1) & !0xF;
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        if call.int(2) != 0 && call.int(2) != libc::AF_VSOCK {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let kind = match call.int(1) & 0xF {
            libc::SOCK_STREAM => Kind::Stream,
            libc::SOCK_SEQPACKET => Kind::SeqPacket,
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        self.make_room()?;
        let socket = around.warden.socket(kind)?;
        if flags & libc::SOCK_NONBLOCK != 0 {
            nix::fcntl::fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let cookie = self.watch(&socket)?;
        self.sockets.insert(cookie, Socket::new(kind));
        if call
            .answer_with(socket.as_fd(), flags & libc::SOCK_CLOEXEC != 0)
            .is_err()
        {
            self.sockets.remove(&cookie);
        }
        Ok(Outcome::Done)
    }

    fn bind(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Result<Outcome, Errno> {
        let Some((_, cookie)) = self.find(call, around)? else {
            return Ok(self.foreign());
        };
        let (cid, port) = read_address(&call.memory()?, call.address(1), call.int(2))?;
        let known = self.known(cookie)?;
        if known.local.is_some() {
            if std::mem::take(&mut known.unreported) {
                return self.report(call, cookie);
            }
            return Err(Errno::EINVAL);
        }
        if cid != ANY && cid != self.cid {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let port = if port == ANY {
            self.free_port()?
        } else {
            if port <= LAST_RESERVED_PORT && !may_bind_reserved(call.notification.tid) {
                return Err(Errno::EACCES);
            }
            if self.is_taken(port, call) {
                return Err(Errno::EADDRINUSE);
            }
            port
        };
        self.ports.insert(port, cookie);
        self.known(cookie)?.local = Some((cid, port));
        self.report(call, cookie)
    }

    /// Answers that the call has succeeded. Where a signal was faster, the caller makes the call again, and must then hear the
    /// same rather than that it was done before.
    fn report(&mut self, call: &Call<'_>, cookie: u64) -> Result<Outcome, Errno> {
        self.known(cookie)?.unreported = call.answer(Answer::Value(0)).is_err();
        Ok(Outcome::Done)
    }

    fn listen(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Result<Outcome, Errno> {
        let Some((socket, cookie)) = self.find(call, around)? else {
            return Ok(Outcome::CONTINUE);
        };
        let known = self.known(cookie)?;
        if known.local.is_none() || known.state == State::Connected {
            return Err(Errno::EINVAL);
        }
        let backlog = call.int(1).clamp(0, 4096);
        if known.state == State::Unconnected {
            // The shortest there is: no accept of ours ever waits, whatever the enclave did to the socket.
            let mut timeout = [0u8; 16];
            timeout[8] = 1;
            socket::set_option(socket.as_fd(), RECEIVE_TIMEOUTS[0] as i32, &timeout)?;
            let file = self.next_file;
            self.next_file += 1;
            address_in(self.folder.as_fd(), &file.to_string())?.bind(socket.as_fd())?;
            self.known(cookie)?.file = Some(file);
        }
        socket::listen(socket.as_fd(), backlog)?;
        self.known(cookie)?.state = State::Listening;
        Ok(Outcome::SUCCESS)
    }

    fn connect(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Result<Outcome, Errno> {
        let Some((socket, cookie)) = self.find(call, around)? else {
            return Ok(self.foreign());
        };
        let (cid, port) = read_address(&call.memory()?, call.address(1), call.int(2))?;
        let known = self.known(cookie)?;
        match known.state {
            State::Connected
                if known.peer == Some((cid, port)) && std::mem::take(&mut known.unreported) =>
            {
                return self.report(call, cookie);
            }
            State::Connected => return Err(Errno::EISCONN),
            State::Listening => return Err(Errno::EINVAL),
            State::Unconnected => {}
        }
        match cid {
            CID_PARENT | CID_HOST => {}
            // As on a machine without the loopback transport.
            CID_LOCAL => return Err(Errno::ENODEV),
            own if own == self.cid => return Err(Errno::ENODEV),
            CID_HYPERVISOR | ANY => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENETUNREACH),
        }
        if self.known(cookie)?.local.is_none() {
            let port = self.free_port()?;
            self.ports.insert(port, cookie);
            self.known(cookie)?.local = Some((ANY, port));
        }
        match self.reach_host(&socket, cookie, (cid, port), around) {
            Ok(()) => self.report(call, cookie),
            Err(Errno::EAGAIN) => {
                self.connects.push(WaitingConnect {
                    notification: call.notification,
                    socket,
                    cookie,
                    peer: (cid, port),
                    until: Instant::now() + CONNECT_TIMEOUT,
                });
                Ok(Outcome::Done)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Connects a socket of the enclave to who listens on the host. `EAGAIN`: there is no room in its queue now.
    fn reach_host(
        &mut self,
        socket: &OwnedFd,
        cookie: u64,
        peer: (u32, u32),
        around: &mut Around<'_>,
    ) -> Result<(), Errno> {
        let kind = self.known(cookie)?.kind;
        if around.flows.len() >= MOST_SOCKETS {
            return Err(Errno::ENOBUFS);
        }
        let target = address_in(self.host_folder.as_fd(), &format!("vsock.sock_{}", peer.1))?;
        let (host, host_kind) = connect_to(&target, kind)?;
        // To a socket of the supervisor's own whose queue is empty: this cannot wait.
        let meeting = match kind {
            Kind::Stream => (&self.meeting[0], "s"),
            Kind::SeqPacket => (&self.meeting[1], "q"),
        };
        address_in(self.folder.as_fd(), meeting.1)?.connect(socket.as_fd())?;
        let inner = socket::accept(meeting.0.as_fd(), true)?;
        around
            .flows
            .start(around.epoll, (inner, kind), (host, host_kind), flow_token)?;
        let own = self.cid;
        let known = self.known(cookie)?;
        known.state = State::Connected;
        known.peer = Some(peer);
        if let Some((cid, _)) = &mut known.local
            && *cid == ANY
        {
            *cid = own;
        }
        Ok(())
    }

    fn accept(
        &mut self,
        call: &Call<'_>,
        around: &mut Around<'_>,
        flags: i32,
    ) -> Result<Outcome, Errno> {
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let Some((listening, cookie)) = self.find(call, around)? else {
            return Ok(Outcome::CONTINUE);
        };
        if self.known(cookie)?.state != State::Listening {
            return Err(Errno::EINVAL);
        }
        match self.hand_over(call, &listening, cookie, flags) {
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
            Ok(()) => return Ok(Outcome::Done),
        }
        let status = nix::fcntl::fcntl(&listening, FcntlArg::F_GETFL)?;
        if OFlag::from_bits_truncate(status).contains(OFlag::O_NONBLOCK) {
            return Err(Errno::EAGAIN);
        }
        if self.accepts.len() >= MOST_SOCKETS {
            return Err(Errno::ENOBUFS);
        }
        self.accepts.push(WaitingAccept {
            notification: call.notification,
            listening,
            cookie,
        });
        Ok(Outcome::Done)
    }

    /// Gives the next connection in the queue to the caller of accept. `EAGAIN`: there is none.
    fn hand_over(
        &mut self,
        call: &Call<'_>,
        listening: &OwnedFd,
        cookie: u64,
        flags: i32,
    ) -> Result<(), Errno> {
        let known = self.known(cookie)?;
        let Some(mut next) = known.queue.pop_front() else {
            return Err(Errno::EAGAIN);
        };
        let (kind, local) = (known.kind, known.local);
        let accepted = match next.taken.take() {
            Some(accepted) => accepted,
            // The queue's length is known to the supervisor alone, but a hostile enclave may have drawn on it past us: then
            // this fails at once by the timeout set in `listen`.
            None => socket::accept(listening.as_fd(), false)?,
        };
        let status = if flags & libc::SOCK_NONBLOCK != 0 {
            OFlag::O_NONBLOCK
        } else {
            OFlag::empty()
        };
        nix::fcntl::fcntl(&accepted, FcntlArg::F_SETFL(status))?;
        let (address, length) = (call.address(1), call.address(2));
        let written = if address == 0 {
            Ok(())
        } else {
            call.memory().and_then(|memory| {
                write_address(&memory, address, length, CID_PARENT, next.peer_port)
            })
        };
        match written {
            Ok(()) => {}
            // The caller is gone; the next one has the connection.
            Err(Errno::ESRCH) => return self.put_back(cookie, next.peer_port, accepted),
            Err(errno) => return Err(errno),
        }
        let new = self.watch(&accepted)?;
        let mut socket = Socket::new(kind);
        socket.state = State::Connected;
        socket.local = local.map(|(_, port)| (self.cid, port));
        socket.peer = Some((CID_PARENT, next.peer_port));
        self.sockets.insert(new, socket);
        if call
            .answer_with(accepted.as_fd(), flags & libc::SOCK_CLOEXEC != 0)
            .is_ok()
        {
            return Ok(());
        }
        self.sockets.remove(&new);
        let _ = self.living.delete(&accepted);
        self.put_back(cookie, next.peer_port, accepted)?;
        // Either it is gone, or it is still there and has no room for another descriptor.
        if call.is_waiting() {
            return Err(Errno::EMFILE);
        }
        Ok(())
    }

    fn put_back(&mut self, cookie: u64, peer_port: u32, taken: OwnedFd) -> Result<(), Errno> {
        self.known(cookie)?.queue.push_front(Queued {
            peer_port,
            taken: Some(taken),
        });
        Ok(())
    }

    /// `getsockname` and `getpeername`.
    fn name(
        &mut self,
        call: &Call<'_>,
        around: &mut Around<'_>,
        of_peer: bool,
    ) -> Result<Outcome, Errno> {
        let Some((_, cookie)) = self.find(call, around)? else {
            return Ok(Outcome::CONTINUE);
        };
        let known = self.known(cookie)?;
        let (cid, port) = if of_peer {
            known.peer.ok_or(Errno::ENOTCONN)?
        } else {
            known.local.unwrap_or((ANY, ANY))
        };
        write_address(&call.memory()?, call.address(1), call.address(2), cid, port)?;
        Ok(Outcome::SUCCESS)
    }

    fn set_option(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Result<Outcome, Errno> {
        let (level, option, length) = (call.int(1), call.int(2), call.int(4));
        let file = call.file(around.threads, call.int(0))?;
        let cookie = self.cookie_of(&file)?;
        if level == libc::SOL_SOCKET {
            // A receive timeout, of whatever socket. It is set here and not by the kernel on the caller's behalf: that might
            // act later, on a listening socket whose descriptor has taken this one's number.
            let mut value = [0u8; 16];
            if length < 16 {
                return Err(Errno::EINVAL);
            }
            call.memory()?.read(call.address(3), &mut value)?;
            if let Some(cookie) = cookie
                && self.known(cookie)?.state == State::Listening
            {
                return Ok(Outcome::SUCCESS);
            }
            socket::set_option(file.as_fd(), option, &value)?;
            return Ok(Outcome::SUCCESS);
        }
        let Some(cookie) = cookie else {
            return Ok(Outcome::CONTINUE);
        };
        let memory = call.memory()?;
        match VsockOption::of(option).ok_or(Errno::ENOPROTOOPT)? {
            VsockOption::BufferSize(which) => {
                let mut value = [0u8; 8];
                if length < 8 {
                    return Err(Errno::EINVAL);
                }
                memory.read(call.address(3), &mut value)?;
                self.known(cookie)?.buffer_sizes[which] = u64::from_ne_bytes(value);
            }
            VsockOption::ConnectTimeout => {
                let mut value = [0u8; 16];
                if length < 16 {
                    return Err(Errno::EINVAL);
                }
                memory.read(call.address(3), &mut value)?;
                self.known(cookie)?.connect_timeout = value;
            }
        }
        Ok(Outcome::SUCCESS)
    }

    fn option(&mut self, call: &Call<'_>, around: &mut Around<'_>) -> Result<Outcome, Errno> {
        let Some((_, cookie)) = self.find(call, around)? else {
            return Ok(Outcome::CONTINUE);
        };
        let (level, option) = (call.int(1), call.int(2));
        let known = self.known(cookie)?;
        let value = if level == libc::SOL_SOCKET && option == SO_DOMAIN as i32 {
            libc::AF_VSOCK.to_ne_bytes().to_vec()
        } else {
            match VsockOption::of(option).ok_or(Errno::ENOPROTOOPT)? {
                VsockOption::BufferSize(which) => known.buffer_sizes[which].to_ne_bytes().to_vec(),
                VsockOption::ConnectTimeout => known.connect_timeout.to_vec(),
            }
        };
        let memory = call.memory()?;
        let mut length = [0u8; 4];
        memory.read(call.address(4), &mut length)?;
        if (i32::from_ne_bytes(length)) < value.len() as i32 {
            return Err(Errno::EINVAL);
        }
        memory.write(call.address(3), &value)?;
        memory.write(call.address(4), &(value.len() as u32).to_ne_bytes())?;
        Ok(Outcome::SUCCESS)
    }

    /// Connects a stream of the host to the enclave's port. Where the port's queue is full, it waits for room, and is connected or
    /// closed in time. A client that asked for the socket gets it, and nothing of the connection stays here: the kernel throws
    /// descriptors that the enclave sends along away when they are not asked for, whoever reads.
    pub(crate) fn connect_in(
        &mut self,
        listener: BorrowedFd<'_>,
        wish: Wish,
        host: OwnedFd,
        around: &mut Around<'_>,
    ) -> Result<(), NotConnected> {
        self.sweep_waiting(listener);
        if self.inbound.len() >= MOST_SOCKETS {
            return Err(NotConnected::TooMany);
        }
        let begun = self.begin_inbound(wish, host, around);
        match begun.and_then(|waiting| self.finish_inbound(listener, waiting, around)) {
            Ok(None) => Ok(()),
            Ok(Some(waiting)) => {
                self.inbound.push(waiting);
                Ok(())
            }
            Err(Errno::ENOBUFS | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
                Err(NotConnected::TooMany)
            }
            Err(_) => Err(NotConnected::NobodyListens),
        }
    }

    fn begin_inbound(
        &mut self,
        wish: Wish,
        host: OwnedFd,
        around: &mut Around<'_>,
    ) -> Result<WaitingInbound, Errno> {
        if around.flows.len() >= MOST_SOCKETS {
            return Err(Errno::ENOBUFS);
        }
        self.make_room()?;
        let cookie = *self.ports.get(&wish.port).ok_or(Errno::ECONNREFUSED)?;
        let known = self.known(cookie)?;
        if known.file.is_none() {
            return Err(Errno::ECONNREFUSED);
        }
        // The client's own socket is a stream: packets are carried.
        let handed_over = wish.socket && known.kind == Kind::Stream;
        let inner = around.warden.socket(known.kind)?;
        nix::fcntl::fcntl(&inner, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(WaitingInbound {
            host,
            inner,
            handed_over,
            cookie,
            until: Instant::now() + INBOUND_TIMEOUT,
        })
    }

    /// `Some`: the queue is still full.
    fn finish_inbound(
        &mut self,
        listener: BorrowedFd<'_>,
        waiting: WaitingInbound,
        around: &mut Around<'_>,
    ) -> Result<Option<WaitingInbound>, Errno> {
        let known = self.known(waiting.cookie)?;
        let (kind, file) = (known.kind, known.file.ok_or(Errno::ECONNREFUSED)?);
        let target = address_in(self.folder.as_fd(), &file.to_string())?;
        match target.connect(waiting.inner.as_fd()) {
            Ok(()) => {}
            Err(Errno::EAGAIN) => return Ok(Some(waiting)),
            Err(errno) => return Err(errno),
        }
        let WaitingInbound {
            host,
            inner,
            handed_over,
            cookie,
            ..
        } = waiting;
        let peer_port = self.next_host_port;
        self.next_host_port = self
            .next_host_port
            .wrapping_add(1)
            .max(LAST_RESERVED_PORT + 1);
        // The word that the host waits for; its socket is new, so that there is room. A host that is gone closes the connection,
        // and that is what the enclave sees.
        let word = format!("OK {peer_port}\n");
        if handed_over {
            let (first, rest) = word.as_bytes().split_at(1);
            let sent = socket::send_descriptor(host.as_fd(), first[0], Some(inner.as_fd()));
            let _ = sent.and_then(|()| socket::give(host.as_fd(), rest));
        } else {
            let _ = socket::give(host.as_fd(), word.as_bytes());
            around.flows.start(
                around.epoll,
                (inner, kind),
                (host, Kind::Stream),
                flow_token,
            )?;
        }
        self.known(cookie)?.queue.push_back(Queued {
            peer_port,
            taken: None,
        });
        self.serve(listener, cookie);
        Ok(None)
    }

    /// Gives connections to accepts that wait for them.
    fn serve(&mut self, listener: BorrowedFd<'_>, cookie: u64) {
        while let Some(at) = self
            .accepts
            .iter()
            .position(|waiting| waiting.cookie == cookie)
        {
            if self
                .sockets
                .get(&cookie)
                .is_none_or(|socket| socket.queue.is_empty())
            {
                return;
            }
            let waiting = self.accepts.remove(at);
            let call = Call {
                listener,
                notification: waiting.notification,
            };
            let flags = if call.notification.number == libc::SYS_accept4 {
                call.int(3)
            } else {
                0
            };
            match self.hand_over(&call, &waiting.listening, cookie, flags) {
                Ok(()) => {}
                Err(Errno::EAGAIN) => {
                    self.accepts.insert(at, waiting);
                    return;
                }
                Err(errno) => drop(call.answer(Answer::Error(errno))),
            }
        }
    }

    /// Whether something waits for time to pass.
    pub(crate) fn has_timers(&self) -> bool {
        !self.connects.is_empty() || !self.inbound.is_empty()
    }

    /// Tries again what found a full queue.
    pub(crate) fn retry(&mut self, listener: BorrowedFd<'_>, around: &mut Around<'_>) {
        if !self.has_timers() {
            return;
        }
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.connects) {
            let call = Call {
                listener,
                notification: waiting.notification,
            };
            if !call.is_waiting() {
                continue;
            }
            match self.reach_host(&waiting.socket, waiting.cookie, waiting.peer, around) {
                Ok(()) => drop(self.report(&call, waiting.cookie)),
                Err(Errno::EAGAIN) if now < waiting.until => self.connects.push(waiting),
                Err(Errno::EAGAIN) => drop(call.answer(Answer::Error(Errno::ETIMEDOUT))),
                Err(errno) => drop(call.answer(Answer::Error(errno))),
            }
        }
        for waiting in std::mem::take(&mut self.inbound) {
            // Connected, or closed by dropping it.
            if let Ok(Some(waiting)) = self.finish_inbound(listener, waiting, around)
                && now < waiting.until
            {
                self.inbound.push(waiting);
            }
        }
    }

    /// Lets go of everything of a dead enclave.
    pub(crate) fn enclave_ended(&mut self) {
        self.accepts.clear();
        self.connects.clear();
        self.inbound.clear();
        self.sockets.clear();
        self.ports.clear();
    }

    /// The socket behind a call's first argument and its cookie, if it is one of ours.
    fn find(
        &mut self,
        call: &Call<'_>,
        around: &mut Around<'_>,
    ) -> Result<Option<(OwnedFd, u64)>, Errno> {
        let file = call.file(around.threads, call.int(0))?;
        Ok(self.cookie_of(&file)?.map(|cookie| (file, cookie)))
    }

    fn cookie_of(&self, file: &OwnedFd) -> Result<Option<u64>, Errno> {
        match socket::cookie(file.as_fd()) {
            Ok(cookie) if self.sockets.contains_key(&cookie) => Ok(Some(cookie)),
            Ok(_) | Err(Errno::ENOTSOCK) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// `connect` and `bind` of a socket that is not ours. The kernel may do as it likes: the enclave's Unix sockets, and those
    /// of its loopback interface, live in its own network namespace and see its own files. So do ours, should one take the descriptor's number in the meantime.
    fn foreign(&self) -> Outcome {
        if self.own_unix_sockets {
            Outcome::CONTINUE
        } else {
            Errno::EACCES.into()
        }
    }

    fn known(&mut self, cookie: u64) -> Result<&mut Socket, Errno> {
        self.sockets.get_mut(&cookie).ok_or(Errno::ENOTSOCK)
    }

    /// Puts a new socket onto the list of the living.
    fn watch(&mut self, socket: &OwnedFd) -> Result<u64, Errno> {
        let cookie = socket::cookie(socket.as_fd())?;
        self.living
            .add(socket, EpollEvent::new(EpollFlags::EPOLLET, cookie))?;
        Ok(cookie)
    }

    fn make_room(&mut self) -> Result<(), Errno> {
        if self.sockets.len() >= self.next_sweep.min(MOST_SOCKETS) {
            self.forget_the_dead();
            self.next_sweep = (self.sockets.len() * 2).max(128);
        }
        if self.sockets.len() >= MOST_SOCKETS {
            return Err(Errno::EMFILE);
        }
        Ok(())
    }

    /// Drops what is known of sockets that nobody has open any more.
    fn forget_the_dead(&mut self) {
        let Some(living) = living(&self.living) else {
            return;
        };
        let folder = &self.folder_path;
        self.sockets.retain(|cookie, socket| {
            let lives = living.contains(cookie);
            if !lives && let Some(file) = socket.file {
                let _ = std::fs::remove_file(folder.join(file.to_string()));
            }
            lives
        });
        self.ports.retain(|_, cookie| living.contains(cookie));
    }

    fn is_taken(&mut self, port: u32, call: &Call<'_>) -> bool {
        if !self.ports.contains_key(&port) {
            return false;
        }
        self.sweep_waiting(call.listener);
        self.forget_the_dead();
        self.ports.contains_key(&port)
    }

    fn free_port(&mut self) -> Result<u32, Errno> {
        for _ in 0..=2 * MOST_SOCKETS {
            let port = self.next_port;
            self.next_port = match port.wrapping_add(1) {
                0..=LAST_RESERVED_PORT | ANY => LAST_RESERVED_PORT + 1,
                next => next,
            };
            if !self.ports.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// Lets go of accepts whose callers are gone, so that they keep no listening socket open.
    fn sweep_waiting(&mut self, listener: BorrowedFd<'_>) {
        self.accepts
            .retain(|waiting| super::sys::seccomp::is_waiting(listener, waiting.notification.id));
    }
}

impl Socket {
    fn new(kind: Kind) -> Socket {
        let mut connect_timeout = [0; 16];
        connect_timeout[0] = CONNECT_TIMEOUT.as_secs() as u8;
        Socket {
            kind,
            state: State::Unconnected,
            local: None,
            peer: None,
            file: None,
            unreported: false,
            queue: VecDeque::new(),
            // The defaults of `af_vsock.c`: size, least, most.
            buffer_sizes: [256 * 1024, 128, 256 * 1024],
            connect_timeout,
        }
    }
}

enum VsockOption {
    BufferSize(usize),
    ConnectTimeout,
}

impl VsockOption {
    /// The options of `linux/vm_sockets.h` that a virtio guest has.
    fn of(number: i32) -> Option<VsockOption> {
        match number {
            0..=2 => Some(VsockOption::BufferSize(number as usize)),
            6 | 8 => Some(VsockOption::ConnectTimeout),
            _ => None,
        }
    }
}

/// Connects to a listener on the host: of the same kind, or else a stream (a packet socket's messages then lose their bounds).
fn connect_to(target: &Address, kind: Kind) -> Result<(OwnedFd, Kind), Errno> {
    let mut kind = kind;
    loop {
        let host = socket::new(kind, true)?;
        match target.connect(host.as_fd()) {
            Ok(()) => return Ok((host, kind)),
            Err(Errno::EPROTOTYPE) if kind == Kind::SeqPacket => kind = Kind::Stream,
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)) => {
                return Err(errno);
            }
            // Nobody listens: the peer of a real vsock answers with a reset.
            Err(_) => return Err(Errno::ECONNRESET),
        }
    }
}

/// The cookies that an epoll instance lists: those of sockets that are still open somewhere. `None` where /proc cannot be read.
fn living(list: &Epoll) -> Option<HashSet<u64>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", raw(list))).ok()?;
    Some(
        text.lines()
            .filter(|line| line.starts_with("tfd:"))
            .filter_map(|line| line.split("data:").nth(1))
            .filter_map(|rest| u64::from_str_radix(rest.split_whitespace().next()?, 16).ok())
            .collect(),
    )
}

fn raw(epoll: &Epoll) -> RawFd {
    epoll.0.as_raw_fd()
}

/// Reads a `sockaddr_vm`, once.
fn read_address(memory: &Memory, address: u64, length: i32) -> Result<(u32, u32), Errno> {
    if length < 0 {
        return Err(Errno::EINVAL);
    }
    if (length as usize) < ADDRESS_SIZE {
        return Err(Errno::EFAULT);
    }
    let mut bytes = [0u8; ADDRESS_SIZE];
    memory.read(address, &mut bytes)?;
    parse_address(&bytes)
}

/// CID and port of a `sockaddr_vm` (`linux/vm_sockets.h`), refused as `vsock_addr_validate` does.
fn parse_address(bytes: &[u8; ADDRESS_SIZE]) -> Result<(u32, u32), Errno> {
    let [
        f0,
        f1,
        _,
        _,
        p0,
        p1,
        p2,
        p3,
        c0,
        c1,
        c2,
        c3,
        flags,
        zeros @ ..,
    ] = *bytes;
    if i32::from(u16::from_ne_bytes([f0, f1])) != libc::AF_VSOCK {
        return Err(Errno::EAFNOSUPPORT);
    }
    // VMADDR_FLAG_TO_HOST is the only flag there is.
    if flags & !1 != 0 || zeros != [0; 3] {
        return Err(Errno::EINVAL);
    }
    Ok((
        u32::from_ne_bytes([c0, c1, c2, c3]),
        u32::from_ne_bytes([p0, p1, p2, p3]),
    ))
}

/// Writes a `sockaddr_vm`, cut to the caller's room, and its whole length.
fn write_address(
    memory: &Memory,
    address: u64,
    length: u64,
    cid: u32,
    port: u32,
) -> Result<(), Errno> {
    let mut room = [0u8; 4];
    memory.read(length, &mut room)?;
    let room = i32::from_ne_bytes(room);
    if room < 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0u8; ADDRESS_SIZE];
    bytes[..2].copy_from_slice(&(libc::AF_VSOCK as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    bytes[8..12].copy_from_slice(&cid.to_ne_bytes());
    let shown = bytes.len().min(room as usize);
    memory.write(address, bytes.get(..shown).unwrap_or_default())?;
    memory.write(length, &(ADDRESS_SIZE as u32).to_ne_bytes())
}

/// Whether a thread has `CAP_NET_BIND_SERVICE` (10) in its namespace.
fn may_bind_reserved(tid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{tid}/status"))
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|capabilities| capabilities & (1 << 10) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(family: u16, port: u32, cid: u32, tail: [u8; 4]) -> [u8; ADDRESS_SIZE] {
        let mut bytes = [0; ADDRESS_SIZE];
        bytes[..2].copy_from_slice(&family.to_ne_bytes());
        bytes[4..8].copy_from_slice(&port.to_ne_bytes());
        bytes[8..12].copy_from_slice(&cid.to_ne_bytes());
        bytes[12..].copy_from_slice(&tail);
        bytes
    }

    #[test]
    fn addresses_of_other_families_and_with_odd_tails_are_refused() {
        assert_eq!(parse_address(&bytes(40, 5000, 3, [0; 4])), Ok((3, 5000)));
        assert_eq!(
            parse_address(&bytes(40, 5000, 3, [1, 0, 0, 0])),
            Ok((3, 5000))
        );
        assert_eq!(
            parse_address(&bytes(1, 5000, 3, [0; 4])),
            Err(Errno::EAFNOSUPPORT)
        );
        assert_eq!(
            parse_address(&bytes(40, 5000, 3, [2, 0, 0, 0])),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            parse_address(&bytes(40, 5000, 3, [0, 0, 0, 9])),
            Err(Errno::EINVAL)
        );
    }

    #[test]
    fn the_list_of_the_living_forgets_what_everybody_closed() {
        let list = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let one = socket::new(Kind::Stream, false).unwrap();
        let other = socket::new(Kind::Stream, false).unwrap();
        let cookies = [&one, &other].map(|socket| {
            let cookie = socket::cookie(socket.as_fd()).unwrap();
            list.add(socket, EpollEvent::new(EpollFlags::EPOLLET, cookie))
                .unwrap();
            cookie
        });
        let copy = one.try_clone().unwrap();
        drop(one);
        assert_eq!(living(&list).unwrap(), HashSet::from(cookies));
        drop(copy);
        assert_eq!(living(&list).unwrap(), HashSet::from([cookies[1]]));
    }

    proptest! {
        #[test]
        fn any_address_is_read_or_refused(bytes: [u8; ADDRESS_SIZE]) {
            let _ = parse_address(&bytes);
        }
    }
}
