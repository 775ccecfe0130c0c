//! One flow: bytes between a socket of the enclave's and another one, both ways, until both sides have finished.
//!
//! Half-close, backpressure and resets are kept: nothing is read that could not be passed on; that one end finishes sending is
//! told the other, which may go on; a TCP end that is cut off before all had come sees a reset, never a clean end. (Unix sockets
//! know no resets: there, both directions end.) Large amounts move without being copied, by a [`Pipe`]; small ones through a buffer that all
//! flows share. Never look at what is carried.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::counts::{Counters, Reason, Way};
use super::pipes::Pipe;

/// What is read at once where little comes. Also the most that a direction holds in memory of its own.
const PIECE: usize = 16 * 1024;

/// What one direction may carry before other flows have their turn.
const TURN: usize = 128 * 1024;

/// A direction that carries less than this in one go counts as one in which little comes.
const LITTLE: usize = 4 * 1024;

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowEnd {
    /// Both sides finished.
    Finished,
    /// One side broke.
    Broken,
    /// Nothing moved for the idle time.
    Idle,
    /// It carried as much as it may.
    Spent,
}

impl FlowEnd {
    /// What is counted for it, unless it ended as it should.
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            FlowEnd::Finished => None,
            FlowEnd::Broken => Some(Reason::Broken),
            FlowEnd::Idle => Some(Reason::Idle),
            FlowEnd::Spent => Some(Reason::Spent),
        }
    }
}

/// Says how fast a flow may be.
pub(super) trait Pace {
    /// How many bytes may be read now, at least one and at most `most`; or when to ask again.
    fn allows(&self, now: Instant, most: usize) -> Result<usize, Instant>;

    /// So many were read.
    fn spend(&self, now: Instant, bytes: usize);
}

/// How a flow is carried.
pub(super) struct Carriage<'a> {
    /// It ends when nothing moves for this long.
    pub(super) idle: Duration,
    /// It ends when it has carried more than this, both ways together.
    pub(super) most_bytes: Option<u64>,
    pub(super) pace: Option<&'a (dyn Pace + Send + Sync)>,
    pub(super) counters: &'a Counters,
}

/// An end of a flow: a connected stream socket.
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Socket::Unix(stream)
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket::Tcp(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Socket {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Unix(stream) => stream.poll_read_ready(context),
            Socket::Tcp(stream) => stream.poll_read_ready(context),
        }
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Unix(stream) => stream.poll_write_ready(context),
            Socket::Tcp(stream) => stream.poll_write_ready(context),
        }
    }

    /// Does something that may say that the socket is not ready after all (`WouldBlock`).
    fn attempt<R>(
        &self,
        interest: Interest,
        once: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Socket::Unix(stream) => stream.try_io(interest, once),
            Socket::Tcp(stream) => stream.try_io(interest, once),
        }
    }

    fn shut_down(&self, how: Shutdown) {
        // It fails only where the peer is gone, and then there is nobody to be told.
        let _ = shutdown(self.as_fd().as_raw_fd(), how);
    }
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// One direction.
struct Direction {
    way: Way,
    /// Read into memory and not yet passed on, from `given` on.
    held: Vec<u8>,
    given: usize,
    /// Moved into a pipe and not yet passed on.
    pipe: Option<Pipe>,
    /// Much came the last time.
    bulk: bool,
    /// The source has said that nothing more comes.
    ended: bool,
    /// The end was passed on, or the destination takes nothing more.
    over: bool,
    /// Bytes read.
    carried: u64,
}

/// An end is gone.
struct Broken;

impl Direction {
    fn new(way: Way, early: Vec<u8>) -> Self {
        Self {
            way,
            carried: early.len() as u64,
            held: early,
            given: 0,
            pipe: None,
            bulk: false,
            ended: false,
            over: false,
        }
    }

    fn holds(&self) -> bool {
        self.given < self.held.len() || self.pipe.as_ref().is_some_and(|pipe| pipe.holds() > 0)
    }

    /// Passes on what is held.
    fn give(&mut self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(rest) = self.held.get(self.given..)
            && !rest.is_empty()
        {
            self.given += give(to, rest)?;
            if self.given >= self.held.len() {
                self.held = Vec::new();
                self.given = 0;
            }
            return Ok(());
        }
        if let Some(pipe) = &mut self.pipe {
            pipe.empty(to)?;
            if pipe.holds() == 0 {
                self.pipe = None;
            }
        }
        Ok(())
    }

    /// Reads at most `most` bytes and passes on what can be passed on at once. The second number is how much could have been
    /// read: less than that means that no more is there.
    fn take(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        most: usize,
    ) -> Result<(usize, usize), Errno> {
        if self.bulk
            && most > LITTLE
            && let Some(mut pipe) = Pipe::take()
        {
            let taken = pipe.fill(from, most);
            self.bulk = matches!(taken, Ok(taken) if taken >= LITTLE);
            let taken = taken?;
            self.pipe = (taken > 0).then_some(pipe);
            // A pipe has places for so many pieces, not bytes: that it took less says nothing.
            return Ok((taken, taken));
        }
        BUFFER.with_borrow_mut(|buffer| {
            let most = most.min(buffer.len());
            let piece = &mut buffer[..most];
            let taken = recv(from.as_raw_fd(), piece, MsgFlags::MSG_DONTWAIT)?;
            self.bulk = taken == PIECE;
            let bytes = piece.get(..taken).unwrap_or_default();
            if taken > 0 {
                // What cannot be given now is tried again, and its error found then.
                let given = give(to, bytes).unwrap_or(0);
                if given < taken {
                    self.held = bytes[given..].to_vec();
                    self.given = 0;
                }
            }
            Ok((taken, most))
        })
    }
}

/// Reads what lies in a Unix socket that nobody can write to any more. A writer that waits for room hears only then that there
/// will be none.
fn throw_away(from: BorrowedFd<'_>) {
    BUFFER.with_borrow_mut(|buffer| {
        while matches!(
            recv(from.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT),
            Ok(1..) | Err(Errno::EINTR)
        ) {}
    });
}

fn give(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    send(
        to.as_raw_fd(),
        bytes,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
    )
}

struct Flow<'a> {
    enclave: Socket,
    other: Socket,
    outward: Direction,
    inward: Direction,
    carriage: Carriage<'a>,
    /// When bytes last moved.
    last: Instant,
    /// Until when the pace allows nothing.
    rests_until: Option<Instant>,
}

impl Flow<'_> {
    /// Carries in one direction until it would have to wait, its turn is over, or the direction is.
    fn carry(&mut self, context: &mut Context<'_>, way: Way) -> Poll<Result<(), Broken>> {
        let (direction, from, to) = match way {
            Way::FromEnclave => (&mut self.outward, &self.enclave, &self.other),
            Way::ToEnclave => (&mut self.inward, &self.other, &self.enclave),
        };
        let mut turn = 0;
        loop {
            if direction.over {
                return Poll::Ready(Ok(()));
            }
            if direction.holds() {
                if ready!(to.poll_write_ready(context)).is_err() {
                    return Poll::Ready(Err(Broken));
                }
                let given = to.attempt(Interest::WRITABLE, || Ok(direction.give(to.as_fd())?));
                match given.map_err(|error| error.kind()) {
                    Ok(()) => self.last = Instant::now(),
                    Err(io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                    // Of TCP it is all over then. A Unix socket's peer may have said something before it went.
                    Err(io::ErrorKind::ConnectionReset) if matches!(to, Socket::Tcp(_)) => {
                        return Poll::Ready(Err(Broken));
                    }
                    Err(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                        // The source is told by refusing what it still writes.
                        from.shut_down(Shutdown::Read);
                        if let Socket::Unix(_) = from {
                            throw_away(from.as_fd());
                        }
                        direction.held = Vec::new();
                        direction.pipe = None;
                        direction.over = true;
                    }
                    Err(_) => return Poll::Ready(Err(Broken)),
                }
                continue;
            }
            if direction.ended {
                to.shut_down(Shutdown::Write);
                direction.over = true;
                continue;
            }
            if turn >= TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut most = TURN;
            if let Some(pace) = self.carriage.pace {
                let now = Instant::now();
                match pace.allows(now, most) {
                    Ok(allowed) => most = allowed,
                    Err(until) => {
                        let until = self.rests_until.map_or(until, |earlier| earlier.min(until));
                        self.rests_until = Some(until);
                        self.last = now;
                        return Poll::Pending;
                    }
                }
            }
            if ready!(from.poll_read_ready(context)).is_err() {
                return Poll::Ready(Err(Broken));
            }
            let mut taken = None;
            let tried = from.attempt(Interest::READABLE, || {
                let (count, could) = direction.take(from.as_fd(), to.as_fd(), most)?;
                taken = Some(count);
                if 0 < count && count < could {
                    // The socket is empty: it need not be asked to know that.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match (taken, tried.map_err(|error| error.kind())) {
                (Some(0), _) => direction.ended = true,
                (Some(taken), _) => {
                    turn += taken;
                    direction.carried += taken as u64;
                    self.last = Instant::now();
                    self.carriage.counters.carried(direction.way, taken as u64);
                    if let Some(pace) = self.carriage.pace {
                        pace.spend(self.last, taken);
                    }
                }
                (None, Ok(()) | Err(io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)) => {}
                // It closed with bytes of ours unread; what it had sent before was read already.
                (None, Err(io::ErrorKind::ConnectionReset)) if matches!(from, Socket::Unix(_)) => {
                    direction.ended = true;
                }
                (None, Err(_)) => return Poll::Ready(Err(Broken)),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, mut alarm: Pin<&mut Sleep>) -> Poll<FlowEnd> {
        loop {
            self.rests_until = None;
            let outward = self.carry(context, Way::FromEnclave);
            let inward = self.carry(context, Way::ToEnclave);
            match (outward, inward) {
                (Poll::Ready(Err(Broken)), _) | (_, Poll::Ready(Err(Broken))) => {
                    return Poll::Ready(FlowEnd::Broken);
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                    return Poll::Ready(FlowEnd::Finished);
                }
                _ => {}
            }
            let carried = self.outward.carried.saturating_add(self.inward.carried);
            if self.carriage.most_bytes.is_some_and(|most| carried > most) {
                return Poll::Ready(FlowEnd::Spent);
            }
            let due = self.last + self.carriage.idle;
            let wake = self.rests_until.map_or(due, |until| until.min(due));
            // Set only where it would ring too late or has rung: a flow that is busy costs its timer nothing.
            if wake < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            ready!(alarm.as_mut().poll(context));
            if self.rests_until.is_none() && Instant::now() >= self.last + self.carriage.idle {
                return Poll::Ready(FlowEnd::Idle);
            }
        }
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        // Closing a TCP socket at once, without the bytes that it still has, is what makes a reset. A Unix socket has no such
        // thing.
        let reset = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        if !self.outward.over {
            let _ = setsockopt(&self.other, sockopt::Linger, &reset);
        }
        if !self.inward.over {
            let _ = setsockopt(&self.enclave, sockopt::Linger, &reset);
        }
    }
}

/// Carries bytes both ways until both sides have finished, one breaks, or a limit is met. `early` are bytes that were read
/// from an end already: the enclave's, the other's. Dropping the future cuts the flow.
pub(super) async fn carry(
    enclave: Socket,
    other: Socket,
    (from_enclave, to_enclave): (Vec<u8>, Vec<u8>),
    carriage: Carriage<'_>,
) -> FlowEnd {
    for (way, early) in [
        (Way::FromEnclave, &from_enclave),
        (Way::ToEnclave, &to_enclave),
    ] {
        carriage.counters.carried(way, early.len() as u64);
    }
    let last = Instant::now();
    let mut alarm = pin!(sleep_until(last + carriage.idle));
    let mut flow = Flow {
        enclave,
        other,
        outward: Direction::new(Way::FromEnclave, from_enclave),
        inward: Direction::new(Way::ToEnclave, to_enclave),
        carriage,
        last,
        rests_until: None,
    };
    poll_fn(|context| flow.poll(context, alarm.as_mut())).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests;
