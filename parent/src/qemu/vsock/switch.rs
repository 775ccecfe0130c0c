//! The enclave's vsock connections, between the guest's packets and Unix sockets of the host: who is connected with whom,
//! who may send how much, and how each connection ends. It knows no queues; [`super::device`] brings packets and takes them.
//!
//! What the guest sends is hostile until shown otherwise. It may cost the guest its connections. It must never make the host
//! hold more than [`MOST_CONNECTIONS`] sockets and a bounded number of bytes, nor reach another enclave or any socket but
//! those in the enclave's own folder.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::packet::{Header, MOST_PAYLOAD, Operation, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM};
use crate::sandbox::host::{Reception, Said};
use crate::sandbox::sys::socket::{self, Kind};
use crate::sandbox::vsock::address_in;

/// Connections at a time, those that are being made included. More are refused.
pub const MOST_CONNECTIONS: usize = 4096;
/// Bytes from the guest that are kept for a host program that does not read, for each connection…
const ROOM: u32 = 256 * 1024;
/// … as long as there are no more than this many…
const WITH_ROOM: usize = 256;
/// … and for further ones.
const LITTLE_ROOM: u32 = 32 * 1024;
/// Refusals that wait for room in the guest's queue. While there are more, the guest's own packets wait.
const MOST_REFUSALS: usize = 1024;
/// The parent's CIDs: 3 is Nitro's, 2 is virtio's (`VMADDR_CID_HOST`).
const PARENT_CIDS: [u64; 2] = [3, 2];
/// Ports that the parent dials from. Lower ones are names that people give.
const FIRST_PARENT_PORT: u32 = 1 << 30;

/// A connection's name: the parent's CID as the guest says it, the parent's port, the guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    cid: u64,
    parent_port: u32,
    guest_port: u32,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The parent dials, and the guest has not answered.
    Dialling,
    Open,
    /// The guest has let go, with all that it sent still on its way to the parent.
    Orphaned,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and most combinations occur"
)]
struct Connection {
    id: u64,
    /// None once the parent neither sends nor reads any more.
    socket: Option<OwnedFd>,
    stage: Stage,
    /// It stands in the queue of those that have something for the guest.
    queued: bool,

    // Towards the guest.
    /// Packets without bytes that wait.
    say_request: bool,
    say_response: bool,
    say_credit: bool,
    say_shutdown: u32,
    /// The socket may have bytes.
    readable: bool,
    /// The parent has ended its direction, or the guest does not want more.
    heard_all: bool,
    sent: Wrapping<u32>,
    guest_room: u32,
    guest_passed_on: Wrapping<u32>,

    // From the guest.
    room: u32,
    waiting: VecDeque<u8>,
    writable: bool,
    received: Wrapping<u32>,
    passed_on: Wrapping<u32>,
    /// What the guest was last told of `passed_on`.
    told: Wrapping<u32>,
    guest_shutdown: u32,
    /// The parent was told that the guest sends no more.
    wrote_end: bool,
    /// The parent reads no more; what comes is thrown away.
    is_deaf: bool,
}

impl Connection {
    /// Bytes that the guest has room for.
    fn credit(&self) -> usize {
        let under_way = self.sent - self.guest_passed_on;
        self.guest_room.saturating_sub(under_way.0) as usize
    }

    fn has_something(&self) -> bool {
        self.stage != Stage::Orphaned
            && (self.say_request
                || self.say_response
                || self.say_credit
                || self.say_shutdown != 0
                || (self.stage == Stage::Open
                    && self.readable
                    && !self.heard_all
                    && self.credit() > 0))
    }
}

/// What has become of a connection.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lives,
    /// Nothing is left of it on either side.
    Over,
    /// The guest has to be told that it is gone.
    Refused,
    /// The same, and the parent shall have what it has sent until now.
    Orphaned,
}

/// All connections of one enclave.
pub struct Switch {
    guest_cid: u64,
    folder: OwnedFd,
    epoll: Epoll,
    reception: Reception,
    connections: HashMap<Name, Connection>,
    by_id: HashMap<u64, Name>,
    next_id: u64,
    next_port: u32,
    /// Those that have something for the guest, each once, longest waiting first.
    ready: VecDeque<Name>,
    /// Resets for packets that belong to nothing.
    refusals: VecDeque<Header>,
    /// Packets that were thrown away because they made no sense.
    nonsense: u64,
    scratch: Vec<u8>,
    /// A descriptor to be given up when there are no others.
    spare: Option<OwnedFd>,
}

/// What epoll calls the reception's listener; clients and connections have a bit of their own.
const LISTENER: u64 = 0;
const CLIENT: u64 = 1 << 62;
const CONNECTION: u64 = 1 << 63;

impl Switch {
    /// For the guest of this CID. `listener` takes the host's clients (`CONNECT <port>`), must listen and not block; `folder`
    /// holds the sockets that the guest may dial (`vsock.sock_<port>`).
    pub fn new(guest_cid: u32, folder: OwnedFd, listener: OwnedFd) -> Result<Switch, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let spare = folder.try_clone().ok();
        Ok(Switch {
            guest_cid: guest_cid.into(),
            folder,
            epoll,
            reception: Reception::new(listener),
            connections: HashMap::new(),
            by_id: HashMap::new(),
            next_id: 0,
            next_port: FIRST_PARENT_PORT,
            ready: VecDeque::new(),
            refusals: VecDeque::new(),
            nonsense: 0,
            scratch: vec![0; MOST_PAYLOAD],
            spare,
        })
    }

    /// Becomes readable when the host has something to say; then [`Self::hear_host`].
    pub fn descriptor(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// Packets of the guest that made no sense so far.
    pub fn nonsense(&self) -> u64 {
        self.nonsense
    }

    /// Connections, those that are being made or ended included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether the guest's packets may be taken. They wait while the guest takes none of its refusals.
    pub fn takes_packets(&self) -> bool {
        self.refusals.len() < MOST_REFUSALS
    }

    /// Whether there may be something for the guest.
    pub fn has_packets(&self) -> bool {
        !self.refusals.is_empty() || !self.ready.is_empty()
    }

    /// Lets go of everything, as when the guest's driver starts anew.
    pub fn reset(&mut self) {
        self.connections.clear();
        self.by_id.clear();
        self.ready.clear();
        self.refusals.clear();
    }

    // ---- from the guest ----

    /// Takes a packet of the guest. `payload` gives what follows the header: at least `header.length` bytes, if it can.
    pub fn take(&mut self, header: &Header, payload: &mut impl Read) {
        if header.from_cid != self.guest_cid {
            // Nobody who could be answered.
            self.nonsense += 1;
            return;
        }
        if !PARENT_CIDS.contains(&header.to_cid)
            || header.kind != STREAM
            || header.length as usize > MOST_PAYLOAD
            || (header.length > 0 && header.operation != Operation::Data)
        {
            self.nonsense += 1;
            self.refuse(header);
            return;
        }
        let name = Name {
            cid: header.to_cid,
            parent_port: header.to_port,
            guest_port: header.from_port,
        };
        if let Operation::Request = header.operation {
            self.dial(name, header);
            return;
        }
        let Some(mut connection) = self.connections.remove(&name) else {
            // A reset of what is gone needs no answer, anything else gets one.
            if header.operation != Operation::Reset {
                self.refuse(header);
            }
            return;
        };
        connection.guest_room = header.room;
        connection.guest_passed_on = Wrapping(header.passed_on);
        let fate = self.advance(&mut connection, header, payload);
        self.put_back(name, connection, fate);
    }

    fn advance(
        &mut self,
        connection: &mut Connection,
        header: &Header,
        payload: &mut impl Read,
    ) -> Fate {
        match (header.operation, connection.stage) {
            (Operation::Reset, _) => {
                let is_orderly = connection.guest_shutdown & SHUT_SEND != 0;
                if is_orderly && !connection.waiting.is_empty() {
                    connection.stage = Stage::Orphaned;
                    return Fate::Orphaned;
                }
                return Fate::Over;
            }
            (Operation::Response, Stage::Dialling) => {
                connection.stage = Stage::Open;
                connection.readable = true;
                let line = format!("OK {}\n", header.to_port);
                let Some(socket) = &connection.socket else {
                    return Fate::Refused;
                };
                // A new socket has room for a line.
                match socket::give(socket.as_fd(), line.as_bytes()) {
                    Ok(given) if given == line.len() => connection.writable = true,
                    _ => return Fate::Refused,
                }
            }
            (Operation::Data, Stage::Open) => {
                let length = header.length as usize;
                let before = connection.received - connection.passed_on;
                if connection.guest_shutdown & SHUT_SEND != 0
                    || u64::from(before.0) + length as u64 > connection.room.into()
                {
                    // More than it was told that there is room for.
                    self.nonsense += 1;
                    return Fate::Refused;
                }
                let Some(bytes) = self.scratch.get_mut(..length) else {
                    return Fate::Refused;
                };
                if payload.read_exact(bytes).is_err() {
                    self.nonsense += 1;
                    return Fate::Refused;
                }
                connection.received += length as u32;
                return pass_on(connection, bytes);
            }
            (Operation::CreditUpdate, _) => {}
            (Operation::CreditRequest, Stage::Open) => connection.say_credit = true,
            (Operation::Shutdown, Stage::Open) => {
                connection.guest_shutdown |= header.flags & SHUT_BOTH;
                return settle(connection);
            }
            _ => {
                self.nonsense += 1;
                return Fate::Refused;
            }
        }
        Fate::Lives
    }

    /// The guest dials a port of the parent's.
    fn dial(&mut self, name: Name, header: &Header) {
        if let Some(old) = self.connections.remove(&name) {
            self.forget(&old);
            self.nonsense += 1;
            self.refuse(header);
            return;
        }
        if self.connections.len() >= MOST_CONNECTIONS {
            self.refuse(header);
            return;
        }
        let connected = || -> Result<OwnedFd, Errno> {
            let socket = socket::new(Kind::Stream, true)?;
            let file = format!("vsock.sock_{}", name.parent_port);
            address_in(self.folder.as_fd(), &file)?.connect(socket.as_fd())?;
            Ok(socket)
        };
        let Ok(socket) = connected() else {
            self.refuse(header);
            return;
        };
        let Ok(mut connection) = self.connection(socket, Stage::Open) else {
            self.refuse(header);
            return;
        };
        connection.guest_room = header.room;
        connection.guest_passed_on = Wrapping(header.passed_on);
        connection.say_response = true;
        connection.readable = true;
        connection.writable = true;
        self.by_id.insert(connection.id, name);
        self.put_back(name, connection, Fate::Lives);
    }

    /// Answers a packet that belongs to nothing.
    fn refuse(&mut self, header: &Header) {
        if header.operation == Operation::Reset || self.refusals.len() >= 2 * MOST_REFUSALS {
            return;
        }
        self.refusals.push_back(Header {
            from_cid: header.to_cid,
            to_cid: header.from_cid,
            from_port: header.to_port,
            to_port: header.from_port,
            length: 0,
            kind: header.kind,
            operation: Operation::Reset,
            flags: 0,
            room: 0,
            passed_on: 0,
        });
    }

    // ---- to the guest ----

    /// The next packet for the guest, whose bytes go into `payload`; `None`: nothing now. Its payload is
    /// `header.length` bytes.
    pub fn next(&mut self, payload: &mut [u8]) -> Option<Header> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(refusal);
        }
        while let Some(name) = self.ready.pop_front() {
            let Some(mut connection) = self.connections.remove(&name) else {
                continue;
            };
            connection.queued = false;
            let (packet, fate) = next_of(&mut connection, payload);
            let header = packet.map(|(operation, length, flags)| {
                connection.told = connection.passed_on;
                connection.say_credit = false;
                Header {
                    from_cid: name.cid,
                    to_cid: self.guest_cid,
                    from_port: name.parent_port,
                    to_port: name.guest_port,
                    length: length as u32,
                    kind: STREAM,
                    operation,
                    flags,
                    room: connection.room,
                    passed_on: connection.passed_on.0,
                }
            });
            self.put_back(name, connection, fate);
            if header.is_some() {
                return header;
            }
        }
        None
    }

    // ---- the host ----

    /// Hears what the host's sockets have to say, up to a bound. Whether there may be more.
    pub fn hear_host(&mut self) -> bool {
        let mut events = [EpollEvent::empty(); 64];
        let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::ZERO) else {
            return false;
        };
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => self.admit(),
                token if token & CONNECTION != 0 => {
                    self.stir(token & !CONNECTION, event.events());
                }
                token => self.listen_to(token & !CLIENT),
            }
        }
        count == events.len()
    }

    fn admit(&mut self) {
        if self.reception.admit(&self.epoll, |id| CLIENT | id).is_err() {
            // Out of descriptors: who is first in line is sent away, so that this does not go round and round.
            self.spare = None;
            let _ = socket::accept(self.reception.listener().as_fd(), true);
            self.spare = self.folder.try_clone().ok();
        }
    }

    /// A client of the reception says which port it wants.
    fn listen_to(&mut self, client: u64) {
        let (port, socket) = match self.reception.hear(&self.epoll, client) {
            Said::Wants(wish, socket) => (wish.port, socket),
            Said::NothingYet | Said::Nonsense => return,
        };
        if self.connections.len() >= MOST_CONNECTIONS {
            return;
        }
        let name = loop {
            let name = Name {
                cid: PARENT_CIDS[0],
                parent_port: self.next_port,
                guest_port: port,
            };
            self.next_port = match self.next_port.wrapping_add(1) {
                // The highest is VMADDR_PORT_ANY.
                u32::MAX | 0 => FIRST_PARENT_PORT,
                next => next,
            };
            if !self.connections.contains_key(&name) {
                break name;
            }
        };
        let Ok(mut connection) = self.connection(socket, Stage::Dialling) else {
            return;
        };
        connection.say_request = true;
        self.by_id.insert(connection.id, name);
        self.put_back(name, connection, Fate::Lives);
    }

    /// A connection's socket can be read or written, or its other end is gone.
    fn stir(&mut self, id: u64, events: EpollFlags) {
        let Some(name) = self.by_id.get(&id).copied() else {
            return;
        };
        let Some(mut connection) = self.connections.remove(&name) else {
            return;
        };
        let mut fate = Fate::Lives;
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP) {
            connection.readable = true;
        }
        match connection.stage {
            Stage::Dialling if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) => {
                // The client has lost patience. Where the guest has not been asked yet it need not be told.
                fate = if connection.say_request {
                    Fate::Over
                } else {
                    Fate::Refused
                };
            }
            Stage::Dialling => {}
            Stage::Open | Stage::Orphaned => {
                if events.contains(EpollFlags::EPOLLHUP) && connection.heard_all {
                    connection.say_shutdown |= SHUT_BOTH;
                }
                if events
                    .intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
                {
                    connection.writable = true;
                    fate = pass_on(&mut connection, &[]);
                }
            }
        }
        self.put_back(name, connection, fate);
    }

    // ---- both ----

    fn connection(&mut self, socket: OwnedFd, stage: Stage) -> Result<Connection, Errno> {
        let id = self.next_id;
        self.next_id += 1;
        // Edge-triggered: what could not be done at once is remembered here, and not asked about again and again.
        let events = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        self.epoll
            .add(&socket, EpollEvent::new(events, CONNECTION | id))?;
        Ok(Connection {
            id,
            socket: Some(socket),
            stage,
            queued: false,
            say_request: false,
            say_response: false,
            say_credit: false,
            say_shutdown: 0,
            readable: false,
            heard_all: false,
            sent: Wrapping(0),
            guest_room: 0,
            guest_passed_on: Wrapping(0),
            room: if self.connections.len() < WITH_ROOM {
                ROOM
            } else {
                LITTLE_ROOM
            },
            waiting: VecDeque::new(),
            writable: false,
            received: Wrapping(0),
            passed_on: Wrapping(0),
            told: Wrapping(0),
            guest_shutdown: 0,
            wrote_end: false,
            is_deaf: false,
        })
    }

    /// Keeps a connection, or lets it go as its fate says.
    fn put_back(&mut self, name: Name, mut connection: Connection, fate: Fate) {
        match fate {
            Fate::Lives => {
                if !connection.queued && connection.has_something() {
                    connection.queued = true;
                    self.ready.push_back(name);
                }
                self.connections.insert(name, connection);
            }
            Fate::Over => self.forget(&connection),
            Fate::Refused | Fate::Orphaned => {
                if let Fate::Orphaned = fate {
                    // Under a name that no guest can say, so that it may use the ports again.
                    let orphan = Name {
                        cid: u64::MAX,
                        parent_port: (connection.id >> 32) as u32,
                        guest_port: connection.id as u32,
                    };
                    let told_already = connection.stage == Stage::Orphaned;
                    connection.stage = Stage::Orphaned;
                    self.by_id.insert(connection.id, orphan);
                    self.connections.insert(orphan, connection);
                    if told_already {
                        return;
                    }
                } else {
                    self.forget(&connection);
                }
                self.refusals.push_back(Header {
                    from_cid: name.cid,
                    to_cid: self.guest_cid,
                    from_port: name.parent_port,
                    to_port: name.guest_port,
                    length: 0,
                    kind: STREAM,
                    operation: Operation::Reset,
                    flags: 0,
                    room: 0,
                    passed_on: 0,
                });
            }
        }
    }

    fn forget(&mut self, connection: &Connection) {
        // Its socket leaves epoll when it is closed.
        self.by_id.remove(&connection.id);
    }
}

/// Gives bytes of the guest to the parent's socket, after those that wait; what does not fit waits.
fn pass_on(connection: &mut Connection, bytes: &[u8]) -> Fate {
    let mut given_now = 0;
    while connection.writable && !connection.is_deaf {
        let (first, _) = connection.waiting.as_slices();
        let is_old = !first.is_empty();
        let next = if is_old {
            first
        } else {
            bytes.get(given_now..).unwrap_or_default()
        };
        let Some(socket) = connection.socket.as_ref().filter(|_| !next.is_empty()) else {
            break;
        };
        match give(socket.as_fd(), next) {
            Given::Some(count) => {
                connection.passed_on += count as u32;
                if is_old {
                    connection.waiting.drain(..count);
                } else {
                    given_now += count;
                }
            }
            Given::NotNow => connection.writable = false,
            Given::Never => {
                connection.is_deaf = true;
                connection.say_shutdown |= SHUT_RECEIVE;
            }
        }
    }
    if connection.is_deaf {
        connection.passed_on = connection.received;
        connection.waiting = VecDeque::new();
    } else {
        connection
            .waiting
            .extend(bytes.get(given_now..).unwrap_or_default());
        if connection.waiting.is_empty() && connection.waiting.capacity() > LITTLE_ROOM as usize {
            connection.waiting = VecDeque::new();
        }
    }
    // Told before the guest has used up what it knows of.
    if (connection.passed_on - connection.told).0 >= connection.room / 4 {
        connection.say_credit = true;
    }
    settle(connection)
}

enum Given {
    Some(usize),
    NotNow,
    Never,
}

fn give(socket: BorrowedFd<'_>, bytes: &[u8]) -> Given {
    loop {
        return match socket::give(socket, bytes) {
            Ok(count) => Given::Some(count),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Given::NotNow,
            Err(_) => Given::Never,
        };
    }
}

/// Carries the guest's shutdowns out as far as they go, and says whether anything is left of the connection.
fn settle(connection: &mut Connection) -> Fate {
    if connection.guest_shutdown & SHUT_RECEIVE != 0 {
        connection.heard_all = true;
    }
    if connection.stage == Stage::Orphaned {
        return if connection.waiting.is_empty() {
            Fate::Over
        } else {
            Fate::Lives
        };
    }
    if connection.guest_shutdown == SHUT_BOTH {
        // The answer to a guest that closes is a reset.
        return if connection.waiting.is_empty() {
            Fate::Refused
        } else {
            Fate::Orphaned
        };
    }
    if connection.guest_shutdown & SHUT_SEND != 0
        && connection.waiting.is_empty()
        && !connection.wrote_end
        && let Some(socket) = &connection.socket
    {
        connection.wrote_end = true;
        socket::shut_down(socket.as_fd(), Shutdown::Write);
    }
    if connection.is_deaf && connection.heard_all {
        connection.socket = None;
    }
    Fate::Lives
}

/// The next packet of a connection: what it is, how many bytes it carries, its flags.
fn next_of(
    connection: &mut Connection,
    payload: &mut [u8],
) -> (Option<(Operation, usize, u32)>, Fate) {
    if connection.stage == Stage::Orphaned {
        return (None, Fate::Lives);
    }
    let bare = |operation, flags| (Some((operation, 0, flags)), Fate::Lives);
    if std::mem::take(&mut connection.say_request) {
        return bare(Operation::Request, 0);
    }
    if std::mem::take(&mut connection.say_response) {
        return bare(Operation::Response, 0);
    }
    let room = connection.credit().min(payload.len()).min(MOST_PAYLOAD);
    if connection.stage == Stage::Open
        && connection.readable
        && !connection.heard_all
        && room > 0
        && let Some(socket) = &connection.socket
    {
        let into = payload.get_mut(..room).unwrap_or_default();
        match socket::take(socket.as_fd(), Kind::Stream, into) {
            Ok(0) => {
                connection.heard_all = true;
                connection.say_shutdown |= if is_gone(socket.as_fd()) {
                    SHUT_BOTH
                } else {
                    SHUT_SEND
                };
            }
            Ok(count) => {
                connection.sent += count as u32;
                return (Some((Operation::Data, count, 0)), Fate::Lives);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => connection.readable = false,
            Err(_) => {
                // It went away with something unread, and can hear no more either.
                connection.heard_all = true;
                connection.say_shutdown |= SHUT_BOTH;
            }
        }
    }
    let flags = std::mem::take(&mut connection.say_shutdown);
    if flags != 0 {
        if connection.is_deaf && connection.heard_all {
            connection.socket = None;
        }
        return bare(Operation::Shutdown, flags);
    }
    if std::mem::take(&mut connection.say_credit) {
        return bare(Operation::CreditUpdate, 0);
    }
    (None, Fate::Lives)
}

/// Whether the other end of a Unix socket was closed, and not only its direction to us.
fn is_gone(socket: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
