//! The host's ports that enclaves dial. All enclaves of a host dial the same ports of CID 3, and one process can listen at a
//! port. So the first supervisor that binds a port keeps it for all of its user's enclaves: it accepts, and hands each
//! connection to the supervisor of the enclave that dialled. When the keeper ends, another one takes its place; connections
//! that were handed over do not notice.
//!
//! Which enclave dialled is the hypervisor's word (the peer's CID), and nothing else is asked. A supervisor sees no connection
//! of another's enclave, but for the keeper, which holds it for the moment between two calls. Keeper and supervisors meet in a
//! folder of their user's alone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, VsockAddr, bind, getpeername, listen,
    socket,
};

use crate::sandbox::sys::socket as unix;
use crate::sandbox::sys::socket::Kind;
use crate::sandbox::vsock::address_in;

/// Any CID of this host (`VMADDR_CID_ANY`).
const ANY: u32 = u32::MAX;
/// Connections taken off a listener before others have their turn.
const TURN: usize = 64;
/// How long a port that another program holds is waited for between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// The most supervisors that have a port kept for them.
const MOST_FOLLOWERS: usize = 4096;
/// Goes with a descriptor.
const HERE: u8 = b'+';

/// How a port stands with this supervisor.
enum Seat {
    /// It has the port, for itself and these.
    Keeps {
        listener: OwnedFd,
        reception: OwnedFd,
        followers: HashMap<u32, OwnedFd>,
        /// Without descriptors to accept with, nothing is accepted until then.
        closed_until: Option<Instant>,
    },
    /// Another one has it, and sends what is for this one's enclave.
    Follows(OwnedFd),
    /// Nobody that it knows has it.
    Waits { next: Instant, told: bool },
}

/// Whom epoll means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Listener(u32),
    Reception(u32),
    /// Has not said yet for which CID it is.
    Stranger(u32),
    Follower(u32, u32),
    Keeper(u32),
}

/// A connection that the enclave has made.
pub(super) struct Dialled {
    /// To this port of the host.
    pub(super) port: u32,
    /// Connected, and does not block.
    pub(super) socket: OwnedFd,
}

/// The ports of one supervisor.
pub(super) struct Ports {
    cid: u32,
    /// Where supervisors of this user meet.
    folder_path: PathBuf,
    folder: OwnedFd,
    seats: HashMap<u32, Seat>,
    members: HashMap<u64, Member>,
    strangers: HashMap<u64, OwnedFd>,
    next: u64,
}

impl Ports {
    /// For the enclave of this CID. `folder` is made if it does not exist.
    pub(super) fn new(cid: u32, folder_path: &Path) -> io::Result<Ports> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder_path)?;
        let folder = nix::fcntl::open(
            folder_path,
            nix::fcntl::OFlag::O_PATH
                | nix::fcntl::OFlag::O_DIRECTORY
                | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )?;
        Ok(Ports {
            cid,
            folder_path: folder_path.to_owned(),
            folder,
            seats: HashMap::new(),
            members: HashMap::new(),
            strangers: HashMap::new(),
            next: 0,
        })
    }

    /// The ports that the enclave's folder has listeners for have changed to these.
    pub(super) fn set(&mut self, ports: &[u32], epoll: &Epoll, token: fn(u64) -> u64) {
        let gone: Vec<u32> = self
            .seats
            .keys()
            .filter(|port| !ports.contains(port))
            .copied()
            .collect();
        for port in gone {
            self.leave(port);
        }
        for port in ports {
            if !self.seats.contains_key(port) {
                self.seek(*port, false, epoll, token);
            }
        }
    }

    /// When [`Self::retry`] is due, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        let waits = self.seats.values().filter_map(|seat| match seat {
            Seat::Waits { next, .. } => Some(*next),
            Seat::Keeps { closed_until, .. } => *closed_until,
            Seat::Follows(_) => None,
        });
        waits.min()
    }

    /// Looks again for ports that nobody known has, and opens those again that were closed for want of descriptors.
    pub(super) fn retry(&mut self, now: Instant, epoll: &Epoll, token: fn(u64) -> u64) {
        let closed: Vec<u32> = self
            .seats
            .iter()
            .filter_map(|(port, seat)| match seat {
                Seat::Keeps {
                    closed_until: Some(until),
                    ..
                } if *until <= now => Some(*port),
                _ => None,
            })
            .collect();
        for port in closed {
            self.open_again(port, now, epoll, token);
        }
        let due: Vec<(u32, bool)> = self
            .seats
            .iter()
            .filter_map(|(port, seat)| match seat {
                Seat::Waits { next, told } if *next <= now => Some((*port, *told)),
                _ => None,
            })
            .collect();
        for (port, told) in due {
            self.seek(port, told, epoll, token);
        }
    }

    /// Something happened to the member with this number. Connections of this enclave come out.
    pub(super) fn wake(&mut self, id: u64, epoll: &Epoll, token: fn(u64) -> u64) -> Vec<Dialled> {
        let Some(member) = self.members.get(&id).copied() else {
            return Vec::new();
        };
        match member {
            Member::Listener(port) => self.accept(id, port, epoll),
            Member::Reception(port) => {
                self.admit(port, epoll, token);
                Vec::new()
            }
            Member::Stranger(port) => {
                self.introduce(id, port, epoll, token);
                Vec::new()
            }
            Member::Follower(port, cid) => {
                // It says nothing more: it has ended.
                self.members.remove(&id);
                if let Some(Seat::Keeps { followers, .. }) = self.seats.get_mut(&port) {
                    followers.remove(&cid);
                }
                Vec::new()
            }
            Member::Keeper(port) => self.receive(id, port, epoll, token),
        }
    }

    /// Takes the port, or joins whoever has it.
    fn seek(&mut self, port: u32, told: bool, epoll: &Epoll, token: fn(u64) -> u64) {
        let seat = match self.keep(port, epoll, token) {
            Ok(seat) => Ok(seat),
            Err(Errno::EADDRINUSE) => self.follow(port, epoll, token),
            Err(errno) => Err(errno),
        };
        let seat = seat.unwrap_or_else(|errno| {
            if !told {
                tracing::warn!(
                    port,
                    %errno,
                    "no enclave can dial this port of the host yet: another program listens there (nitro-cli, or another user's anchorhold)"
                );
            }
            Seat::Waits {
                next: Instant::now() + PAUSE,
                told: true,
            }
        });
        self.seats.insert(port, seat);
    }

    fn keep(&mut self, port: u32, epoll: &Epoll, token: fn(u64) -> u64) -> Result<Seat, Errno> {
        let listener = socket(
            AddressFamily::Vsock,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&listener),
            &VsockAddr::new(ANY, port),
        )?;
        listen(&listener, Backlog::MAXALLOWABLE)?;
        // Whoever has the port has the name.
        let _ = std::fs::remove_file(self.folder_path.join(name(port)));
        let reception = unix::new(Kind::SeqPacket, true)?;
        nix::sys::stat::fchmod(&reception, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
        address_in(self.folder.as_fd(), &name(port))?.bind(reception.as_fd())?;
        unix::listen(reception.as_fd(), 4096)?;
        self.join(Member::Listener(port), listener.as_fd(), epoll, token)?;
        self.join(Member::Reception(port), reception.as_fd(), epoll, token)?;
        Ok(Seat::Keeps {
            listener,
            reception,
            followers: HashMap::new(),
            closed_until: None,
        })
    }

    fn follow(&mut self, port: u32, epoll: &Epoll, token: fn(u64) -> u64) -> Result<Seat, Errno> {
        let keeper = unix::new(Kind::SeqPacket, true)?;
        address_in(self.folder.as_fd(), &name(port))?.connect(keeper.as_fd())?;
        unix::give(keeper.as_fd(), &self.cid.to_ne_bytes())?;
        self.join(Member::Keeper(port), keeper.as_fd(), epoll, token)?;
        Ok(Seat::Follows(keeper))
    }

    fn join(
        &mut self,
        member: Member,
        file: BorrowedFd<'_>,
        epoll: &Epoll,
        token: fn(u64) -> u64,
    ) -> Result<u64, Errno> {
        let id = self.next;
        self.next += 1;
        epoll.add(file, EpollEvent::new(EpollFlags::EPOLLIN, token(id)))?;
        self.members.insert(id, member);
        Ok(id)
    }

    fn leave(&mut self, port: u32) {
        // Closing its descriptors takes them out of epoll.
        if let Some(Seat::Keeps { .. }) = self.seats.remove(&port) {
            let _ = std::fs::remove_file(self.folder_path.join(name(port)));
        }
        self.members.retain(|_, member| {
            let (Member::Listener(of)
            | Member::Reception(of)
            | Member::Stranger(of)
            | Member::Follower(of, _)
            | Member::Keeper(of)) = member;
            *of != port
        });
        let members = &self.members;
        self.strangers.retain(|id, _| members.contains_key(id));
    }

    /// Takes what enclaves have dialled, and hands it to whom it belongs.
    fn accept(&mut self, id: u64, port: u32, epoll: &Epoll) -> Vec<Dialled> {
        let mut own = Vec::new();
        let Some(Seat::Keeps {
            listener,
            followers,
            closed_until,
            ..
        }) = self.seats.get_mut(&port)
        else {
            return own;
        };
        for _ in 0..TURN {
            let socket = match unix::accept(listener.as_fd(), true) {
                Ok(socket) => socket,
                Err(Errno::EINTR | Errno::ECONNABORTED | Errno::ECONNRESET) => continue,
                Err(Errno::EAGAIN) => break,
                // No descriptors: the enclaves wait, and nobody asks again and again.
                Err(_) => {
                    if epoll.delete(&*listener).is_ok() {
                        *closed_until = Some(Instant::now() + PAUSE);
                        self.members.remove(&id);
                    }
                    break;
                }
            };
            let Some(cid) = peer(&socket) else { continue };
            if cid == self.cid {
                own.push(Dialled { port, socket });
            } else if let Some(follower) = followers.get(&cid) {
                // One that does not take its connections loses them.
                let _ = unix::send_descriptor(follower.as_fd(), HERE, Some(socket.as_fd()));
            }
            // What nobody asked for is closed.
        }
        own
    }

    /// Listens again at a port that was closed for want of descriptors.
    fn open_again(&mut self, port: u32, now: Instant, epoll: &Epoll, token: fn(u64) -> u64) {
        let id = self.next;
        let Some(Seat::Keeps {
            listener,
            closed_until,
            ..
        }) = self.seats.get_mut(&port)
        else {
            return;
        };
        match epoll.add(&*listener, EpollEvent::new(EpollFlags::EPOLLIN, token(id))) {
            Ok(()) => {
                *closed_until = None;
                self.next += 1;
                self.members.insert(id, Member::Listener(port));
            }
            Err(_) => *closed_until = Some(now + PAUSE),
        }
    }

    fn admit(&mut self, port: u32, epoll: &Epoll, token: fn(u64) -> u64) {
        let Some(Seat::Keeps {
            reception,
            followers,
            ..
        }) = self.seats.get(&port)
        else {
            return;
        };
        let has_room = followers.len() + self.strangers.len() < MOST_FOLLOWERS;
        // Taken in any case, and closed where there is no room: what is left waiting would be told of again and again.
        if let Ok(stranger) = unix::accept(reception.as_fd(), true)
            && has_room
            && let Ok(id) = self.join(Member::Stranger(port), stranger.as_fd(), epoll, token)
        {
            self.strangers.insert(id, stranger);
        }
    }

    /// A supervisor says for which CID it is.
    fn introduce(&mut self, id: u64, port: u32, epoll: &Epoll, token: fn(u64) -> u64) {
        self.members.remove(&id);
        let Some(stranger) = self.strangers.remove(&id) else {
            return;
        };
        let mut said = [0; 4];
        if unix::take(stranger.as_fd(), Kind::SeqPacket, &mut said) != Ok(said.len())
            || epoll.delete(&stranger).is_err()
        {
            return;
        }
        let cid = u32::from_ne_bytes(said);
        if self
            .join(Member::Follower(port, cid), stranger.as_fd(), epoll, token)
            .is_err()
        {
            return;
        }
        if let Some(Seat::Keeps { followers, .. }) = self.seats.get_mut(&port) {
            // A later one of the same CID is the one that lives.
            followers.insert(cid, stranger);
        }
    }

    /// The keeper sends connections, or has ended.
    fn receive(
        &mut self,
        id: u64,
        port: u32,
        epoll: &Epoll,
        token: fn(u64) -> u64,
    ) -> Vec<Dialled> {
        let mut own = Vec::new();
        let Some(Seat::Follows(keeper)) = self.seats.get(&port) else {
            return own;
        };
        for _ in 0..TURN {
            match unix::receive_descriptor(keeper.as_fd(), false) {
                Ok((HERE, Some(socket))) => own.push(Dialled { port, socket }),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return own,
                Err(_) => {
                    self.members.remove(&id);
                    self.seek(port, false, epoll, token);
                    return own;
                }
            }
        }
        own
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let ports: Vec<u32> = self.seats.keys().copied().collect();
        for port in ports {
            self.leave(port);
        }
    }
}

fn name(port: u32) -> String {
    format!("port-{port}")
}

/// The CID at the other end.
fn peer(socket: &OwnedFd) -> Option<u32> {
    let address: VsockAddr = getpeername(std::os::fd::AsRawFd::as_raw_fd(socket)).ok()?;
    (address.family() == Some(AddressFamily::Vsock)).then(|| address.cid())
}
