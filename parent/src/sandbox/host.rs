//! The host's end of vsock: the Unix listener at `<dir>/vsock.sock`, in Firecracker's convention. A client writes
//! `CONNECT <port>\n`; once the enclave's port has the connection it reads `OK <n>\n`, and the stream is raw from there on. A
//! port that nobody listens on closes the stream.
//!
//! `SOCKET <port>\n` asks for the same with less on the way: where the enclave's end is a Unix socket of this host's, its other
//! end comes along with the answer as a descriptor, and the stream is done with. Elsewhere the answer comes without one, and
//! the stream is as after `CONNECT`.
//!
//! Exactly the first line is taken off the stream: what follows it at once is the enclave's.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::sys::socket::{self, Kind};

/// The most clients that have not said yet what they want. Beyond it, the oldest is dropped.
const MOST_CLIENTS: usize = 256;
/// `CONNECT 4294967295\n`.
const LONGEST_LINE: usize = 19;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The enclave's port.
    pub(crate) port: u32,
    /// It takes the connected socket itself, where there is one to be had.
    pub(crate) socket: bool,
}

pub(crate) struct Reception {
    listener: OwnedFd,
    clients: HashMap<u64, OwnedFd>,
    next: u64,
}

/// What a client has said so far.
pub(crate) enum Said {
    NothingYet,
    /// It wants a connection, and is no longer a client of the reception.
    Wants(Wish, OwnedFd),
    /// It said something else, or went away.
    Nonsense,
}

impl Reception {
    /// `listener` must listen and must not block.
    pub(crate) fn new(listener: OwnedFd) -> Reception {
        Reception {
            listener,
            clients: HashMap::new(),
            next: 0,
        }
    }

    pub(crate) fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    /// Lets in who waits. An error means that this process is out of descriptors or memory and should try later.
    pub(crate) fn admit(&mut self, epoll: &Epoll, token: impl Fn(u64) -> u64) -> Result<(), Errno> {
        for _ in 0..16 {
            let client = match socket::accept(self.listener.as_fd(), true) {
                Ok(client) => client,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(errno) => return Err(errno),
            };
            let id = self.next;
            self.next += 1;
            epoll.add(
                &client,
                EpollEvent::new(
                    // Edge-triggered: half a line stays in the socket until the other half comes.
                    EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET,
                    token(id),
                ),
            )?;
            self.clients.insert(id, client);
            if self.clients.len() > MOST_CLIENTS
                && let Some(oldest) = self.clients.keys().min().copied()
            {
                self.clients.remove(&oldest);
            }
        }
        Ok(())
    }

    /// Listens to a client that has said something.
    pub(crate) fn hear(&mut self, epoll: &Epoll, id: u64) -> Said {
        let Some(client) = self.clients.get(&id) else {
            return Said::NothingYet;
        };
        let mut line = [0u8; LONGEST_LINE];
        let heard = match socket::peek(client.as_fd(), &mut line) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Said::NothingYet,
            Ok(heard) if heard > 0 => heard,
            _ => {
                self.clients.remove(&id);
                return Said::Nonsense;
            }
        };
        let Some(end) = line.iter().take(heard).position(|byte| *byte == b'\n') else {
            if heard == LONGEST_LINE {
                self.clients.remove(&id);
                return Said::Nonsense;
            }
            return Said::NothingYet;
        };
        let wish = line.get(..end).and_then(parse);
        let Some(client) = self.clients.remove(&id) else {
            return Said::Nonsense;
        };
        let taken = socket::take(
            client.as_fd(),
            Kind::Stream,
            line.get_mut(..=end).unwrap_or_default(),
        );
        match (wish, taken) {
            (Some(wish), Ok(taken)) if taken == end + 1 && epoll.delete(&client).is_ok() => {
                Said::Wants(wish, client)
            }
            _ => Said::Nonsense,
        }
    }

    /// Sends everybody away.
    pub(crate) fn close(&mut self) {
        self.clients.clear();
    }
}

/// `CONNECT <port>` or `SOCKET <port>`.
fn parse(line: &[u8]) -> Option<Wish> {
    let (digits, socket) = match line.strip_prefix(b"CONNECT ") {
        Some(digits) => (digits, false),
        None => (line.strip_prefix(b"SOCKET ")?, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Wish { port, socket })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::EpollCreateFlags;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn reception() -> (tempfile::TempDir, Reception, Epoll) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        (folder, Reception::new(listener.into()), epoll)
    }

    #[test]
    fn the_line_may_come_in_pieces_and_what_follows_it_stays() {
        let (folder, mut reception, epoll) = reception();
        let mut client = UnixStream::connect(folder.path().join("s")).unwrap();
        reception.admit(&epoll, |id| id).unwrap();
        client.write_all(b"CONNE").unwrap();
        assert!(matches!(reception.hear(&epoll, 0), Said::NothingYet));
        client.write_all(b"CT 5000\nGET / HTTP/1.1").unwrap();
        let Said::Wants(wish, stream) = reception.hear(&epoll, 0) else {
            panic!("the port was not understood");
        };
        assert_eq!((wish.port, wish.socket), (5000, false));
        drop(client.shutdown(std::net::Shutdown::Write));
        let mut stream = UnixStream::from(stream);
        stream.set_nonblocking(false).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "GET / HTTP/1.1");
    }

    #[test]
    fn nonsense_is_sent_away() {
        let (folder, mut reception, epoll) = reception();
        for (id, line) in [
            "GET / HTTP/1.1 and more\n",
            "CONNECT \n",
            "CONNECT 99999999999\n",
            "CONNECT +1\n",
            "SOCKET \n",
            "SOCKETS 1\n",
        ]
        .into_iter()
        .enumerate()
        {
            let mut client = UnixStream::connect(folder.path().join("s")).unwrap();
            reception.admit(&epoll, |id| id).unwrap();
            client.write_all(line.as_bytes()).unwrap();
            assert!(
                matches!(reception.hear(&epoll, id as u64), Said::Nonsense),
                "{line:?}"
            );
            let gone = client.read(&mut [0]);
            assert!(matches!(gone, Ok(0) | Err(_)));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_port_or_nothing(line: Vec<u8>) {
            let _ = parse(&line);
        }

        #[test]
        fn every_port_is_understood(port: u32) {
            for (word, socket) in [("CONNECT", false), ("SOCKET", true)] {
                let line = format!("{word} {port}");
                prop_assert_eq!(parse(line.as_bytes()), Some(Wish { port, socket }));
            }
        }
    }
}
