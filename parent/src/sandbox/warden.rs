//! The warden: a small process per enclave, outside it, with two tasks. It makes Unix sockets that belong to the enclave's
//! network namespace (so that whatever the enclave does with them, abstract names lead nowhere on the host), and it kills the
//! enclave when the supervisor is gone, however that died.
//!
//! It is a copy of the supervisor that never executes another program, so that nothing in it may allocate or panic. It must
//! never read anything that the enclave wrote.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::namespaces::Ids;
use super::sys::process::{self, Cloned, Unneeded};
use super::sys::socket::{self, Kind};

/// How many stream sockets wait ready made, so that the enclave does not wait for the warden.
const STOCK: usize = 4;
/// The words of the conversation.
const STREAM: u8 = b's';
const SEQPACKET: u8 = b'q';
const REFUSED: u8 = b'!';

/// The supervisor's side.
pub(crate) struct Warden {
    process: Cloned,
    line: OwnedFd,
    stock: VecDeque<OwnedFd>,
    /// What was asked for and has not arrived, in order.
    asked: VecDeque<Kind>,
}

impl Warden {
    /// Starts the warden of the process that `enclave` stands for, whose namespaces must exist already.
    pub(crate) fn start(enclave: BorrowedFd<'_>, ids: Ids) -> Result<Warden, Errno> {
        let (line, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let (enclave, number) = (enclave.as_raw_fd(), theirs.as_raw_fd());
        // Its copy of this process's memory would stay for as long as the enclave, the image in it.
        let unneeded = Unneeded::by_this_thread();
        let process = process::clone_process(0, || {
            unneeded.forget();
            watch(number, enclave, ids)
        })?;
        let mut warden = Warden {
            process,
            line,
            stock: VecDeque::new(),
            asked: VecDeque::new(),
        };
        // The answer to this one shows that the warden is where it should be.
        warden.ask(Kind::Stream)?;
        Ok(warden)
    }

    /// A new, unconnected socket of the enclave's network namespace: blocking, closed on exec.
    pub(crate) fn socket(&mut self, kind: Kind) -> Result<OwnedFd, Errno> {
        if kind == Kind::SeqPacket || (self.stock.is_empty() && !self.asked.contains(&kind)) {
            self.ask(kind)?;
        }
        loop {
            if kind == Kind::Stream
                && let Some(ready) = self.stock.pop_front()
            {
                return Ok(ready);
            }
            let (arrived, socket) = self.take(true)?;
            let socket = socket.ok_or(Errno::ENOBUFS)?;
            if arrived == kind {
                return Ok(socket);
            }
            self.stock.push_back(socket);
        }
    }

    /// Where the warden's answers arrive.
    pub(crate) fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// Takes in what has arrived and asks for more where the stock runs low. Never waits.
    pub(crate) fn restock(&mut self) -> Result<(), Errno> {
        while !self.asked.is_empty() {
            match self.take(false) {
                Ok((_, socket)) => self.stock.extend(socket),
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        while self.stock.len() + self.asked.len() < STOCK {
            self.ask(Kind::Stream)?;
        }
        Ok(())
    }

    fn ask(&mut self, kind: Kind) -> Result<(), Errno> {
        let word = match kind {
            Kind::Stream => STREAM,
            Kind::SeqPacket => SEQPACKET,
        };
        socket::send_descriptor(self.line.as_fd(), word, None)?;
        self.asked.push_back(kind);
        Ok(())
    }

    fn take(&mut self, wait: bool) -> Result<(Kind, Option<OwnedFd>), Errno> {
        let (_, socket) = socket::receive_descriptor(self.line.as_fd(), wait)?;
        let kind = self.asked.pop_front().ok_or(Errno::EPROTO)?;
        Ok((kind, socket))
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        let _ = process::kill(self.process.pidfd.as_fd());
        process::reap(self.process.pidfd.as_fd());
    }
}

/// *child* The warden's life.
fn watch(line: RawFd, enclave: RawFd, ids: Ids) -> i32 {
    process::block_signals();
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"warden");
    if process::keep_two(line, enclave).is_err() {
        return 1;
    }
    let (line, enclave) = (process::descriptor(3), process::descriptor(4));
    let at_home = match ids {
        Ids::Single | Ids::Range => process::enter_user_and_network(enclave).is_ok(),
        Ids::Outside(_) => true,
    };
    loop {
        let word = match socket::receive_descriptor(line, true) {
            Ok((word, _)) => word,
            Err(Errno::EINTR) => continue,
            // The supervisor is gone.
            Err(_) => break,
        };
        let kind = if word == SEQPACKET {
            Kind::SeqPacket
        } else {
            Kind::Stream
        };
        let made = if at_home {
            socket::new(kind, false)
        } else {
            Err(Errno::EPERM)
        };
        let sent = match &made {
            Ok(made) => socket::send_descriptor(line, word, Some(made.as_fd())),
            Err(_) => socket::send_descriptor(line, REFUSED, None),
        };
        if sent.is_err() {
            break;
        }
    }
    let _ = process::kill(enclave);
    if let Ids::Outside(id) = ids {
        kill_user(id);
    }
    0
}

/// *child* Ends every process of the user that a reduced enclave has to itself. There is no namespace that would do it.
pub(crate) fn kill_user(id: u32) {
    if process::become_ids(id, id, true).is_err() {
        return;
    }
    // A process that forks while the signal is sent may escape one round, hence until nobody is left.
    for _ in 0..10_000 {
        if process::kill_all_of_my_user().is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warden_makes_sockets_and_goes_when_it_is_dropped() {
        // Without namespaces: the "enclave" is this process itself, whose descriptor is only used for the kill at the end,
        // which a living supervisor never causes.
        let own = process::pidfd_of(std::process::id()).unwrap();
        let mut warden = Warden::start(own.as_fd(), Ids::Single).unwrap();
        let pid = warden.process.pid;
        // It cannot enter namespaces that it is in already, and says so instead of handing out the host's sockets.
        assert_eq!(warden.socket(Kind::Stream).err(), Some(Errno::ENOBUFS));
        drop(warden);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
