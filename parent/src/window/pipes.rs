//! Pipes for moving bytes between two sockets without copying them (`splice(2)`), shared by all flows of this process and
//! bounded in number.
//!
//! A flow has one for as long as something lies in it. A pipe that is not empty is never used again: its bytes are a flow's.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::pipe2;

/// The most pipes that are in use at once. Flows beyond it copy. Together they are 2 MiB of places for pages, a sixteenth
/// of what the kernel gives a user without asking (`pipe-user-pages-soft`).
const MOST: usize = 32;

/// The most that wait for use.
const MOST_IDLE: usize = 4;

/// What a pipe should hold.
const SIZE: i32 = 256 * 1024;

struct Pool {
    idle: Vec<(OwnedFd, OwnedFd)>,
    in_use: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    idle: Vec::new(),
    in_use: 0,
});

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writing to a socket whose reader is gone raises SIGPIPE, and `splice` has no flag against it. Blocked in this thread, it
/// does nothing.
fn block_sigpipe() {
    thread_local! {
        static BLOCKED: Cell<bool> = const { Cell::new(false) };
    }
    if !BLOCKED.get() {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGPIPE);
        BLOCKED.set(signals.thread_block().is_ok());
    }
}

/// An empty pipe, or one with bytes of a flow.
pub(super) struct Pipe {
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
    holds: usize,
}

impl Pipe {
    /// None where enough are in use, or the kernel gives none.
    pub(super) fn take() -> Option<Pipe> {
        block_sigpipe();
        let mut pool = pool();
        if pool.in_use >= MOST {
            return None;
        }
        let (read, write) = if let Some(pipe) = pool.idle.pop() {
            pipe
        } else {
            let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
            // Where the kernel does not let it grow, it works with less.
            let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE));
            (read, write)
        };
        pool.in_use += 1;
        Some(Pipe {
            read: Some(read),
            write: Some(write),
            holds: 0,
        })
    }

    /// Bytes in it.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves at most `most` bytes from a socket into the pipe, which must be empty, so that `EAGAIN` speaks of the socket. 0: the
    /// socket's end.
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> Result<usize, Errno> {
        debug_assert_eq!(self.holds, 0);
        let Some(write) = &self.write else {
            return Err(Errno::EBADF);
        };
        let moved = moved(from, write.as_fd(), most)?;
        self.holds = moved;
        Ok(moved)
    }

    /// Moves what is in the pipe to a socket, as much as that takes.
    pub(super) fn empty(&mut self, to: BorrowedFd<'_>) -> Result<usize, Errno> {
        let Some(read) = &self.read else {
            return Err(Errno::EBADF);
        };
        let moved = moved(read.as_fd(), to, self.holds)?;
        self.holds -= moved.min(self.holds);
        Ok(moved)
    }
}

fn moved(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> Result<usize, Errno> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    splice(from, None, to, None, most, flags)
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.in_use -= 1;
        if let (0, Some(read), Some(write)) = (self.holds, self.read.take(), self.write.take())
            && pool.idle.len() < MOST_IDLE
        {
            pool.idle.push((read, write));
        }
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.read.as_ref().map(AsRawFd::as_raw_fd);
        write!(to, "pipe {number:?} with {} bytes", self.holds)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_pipe_that_still_holds_bytes_is_never_used_again() {
        let (mut source, from) = UnixStream::pair().unwrap();
        let (to, mut sink) = UnixStream::pair().unwrap();
        source.write_all(b"one flow's").unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(from.as_fd(), 100).unwrap(), 10);
        drop(pipe);
        source.write_all(b"another's").unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(from.as_fd(), 100).unwrap(), 9);
        assert_eq!(pipe.empty(to.as_fd()).unwrap(), 9);
        drop(to);
        let mut text = String::new();
        sink.read_to_string(&mut text).unwrap();
        assert_eq!(text, "another's");
    }

    #[test]
    fn a_socket_whose_reader_is_gone_is_an_error_and_no_signal() {
        let (mut source, from) = UnixStream::pair().unwrap();
        let (to, sink) = UnixStream::pair().unwrap();
        source.write_all(b"lost").unwrap();
        drop(sink);
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(from.as_fd(), 100).unwrap(), 4);
        assert_eq!(pipe.empty(to.as_fd()), Err(Errno::EPIPE));
        assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE));
    }
}
