//! Carries bytes between the enclave's sockets and the host's, both ways, with half-close and backpressure.
//!
//! Only bytes cross: descriptors and credentials that either side attaches are thrown away by the kernel on reading. It never
//! looks at what it carries, and holds at most [`CHUNK`] bytes of a direction that is blocked.

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::sys::socket::{self, Kind};

/// What is read at once. Also the most that waits in memory per blocked direction, and the largest packet.
pub(crate) const CHUNK: usize = 256 * 1024;
/// What one flow may carry before the others have their turn.
const TURN: usize = 4 * CHUNK;

/// Which end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Enclave,
    Host,
}

struct Side {
    socket: OwnedFd,
    kind: Kind,
}

/// One direction of a flow.
#[derive(Default)]
struct Direction {
    /// Read and not yet written, from `given` on.
    held: Vec<u8>,
    given: usize,
    /// The source has said that nothing more comes.
    ended: bool,
    /// The end was passed on, or the destination takes nothing more: this direction is over.
    over: bool,
}

enum Progress {
    /// Everything there was is carried; the kernel tells when there is more.
    Idle,
    /// Its turn is over, but there is more.
    More,
}

struct Flow {
    enclave: Side,
    host: Side,
    outward: Direction,
    inward: Direction,
    scheduled: bool,
}

impl Flow {
    fn is_over(&self) -> bool {
        self.outward.over && self.inward.over
    }
}

/// All flows of one enclave.
pub(crate) struct Flows {
    running: HashMap<u64, Flow>,
    next: u64,
    /// Flows whose turn was over before they were.
    waiting: VecDeque<u64>,
    buffer: Vec<u8>,
    /// Bytes carried, outward and inward.
    carried: [u64; 2],
}

impl Flows {
    pub(crate) fn new() -> Flows {
        Flows {
            running: HashMap::new(),
            next: 0,
            waiting: VecDeque::new(),
            buffer: vec![0; CHUNK],
            carried: [0; 2],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Begins to carry between two connected sockets. `token` makes the number by which `epoll` will name an end.
    pub(crate) fn start(
        &mut self,
        epoll: &Epoll,
        enclave: (OwnedFd, Kind),
        host: (OwnedFd, Kind),
        token: impl Fn(u64, End) -> u64,
    ) -> Result<(), Errno> {
        let id = self.next;
        self.next += 1;
        let flow = Flow {
            enclave: Side {
                socket: enclave.0,
                kind: enclave.1,
            },
            host: Side {
                socket: host.0,
                kind: host.1,
            },
            outward: Direction::default(),
            inward: Direction::default(),
            scheduled: true,
        };
        // Edge-triggered: a peer that is gone while the other is slow would wake us for ever otherwise.
        let events = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        epoll.add(
            &flow.enclave.socket,
            EpollEvent::new(events, token(id, End::Enclave)),
        )?;
        epoll.add(
            &flow.host.socket,
            EpollEvent::new(events, token(id, End::Host)),
        )?;
        self.running.insert(id, flow);
        self.waiting.push_back(id);
        Ok(())
    }

    /// Something happened at an end of this flow.
    pub(crate) fn wake(&mut self, id: u64) {
        if let Some(flow) = self.running.get_mut(&id)
            && !flow.scheduled
        {
            flow.scheduled = true;
            self.waiting.push_back(id);
        }
    }

    /// Whether `run` has something to do.
    pub(crate) fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes carried so far, both ways together.
    pub(crate) fn progress(&self) -> u64 {
        self.carried[0].wrapping_add(self.carried[1])
    }

    /// Gives each flow that waits one turn.
    pub(crate) fn run(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(id) = self.waiting.pop_front() else {
                return;
            };
            let Some(flow) = self.running.get_mut(&id) else {
                continue;
            };
            flow.scheduled = false;
            let outward = carry(
                &flow.enclave,
                &flow.host,
                &mut flow.outward,
                &mut self.buffer,
                &mut self.carried[0],
            );
            let inward = carry(
                &flow.host,
                &flow.enclave,
                &mut flow.inward,
                &mut self.buffer,
                &mut self.carried[1],
            );
            match (outward, inward) {
                (Ok(_), Ok(_)) if flow.is_over() => {
                    self.running.remove(&id);
                }
                (Ok(Progress::Idle), Ok(Progress::Idle)) => {}
                (Ok(_), Ok(_)) => {
                    flow.scheduled = true;
                    self.waiting.push_back(id);
                }
                // A broken end breaks the other one: both sockets close, and both peers see it.
                _ => {
                    self.running.remove(&id);
                }
            }
        }
    }

    /// The enclave is dead: what it sent is still delivered, but nothing will be taken any more.
    pub(crate) fn enclave_ended(&mut self) {
        for (id, flow) in &mut self.running {
            flow.inward.over = true;
            flow.inward.held = Vec::new();
            if !flow.scheduled {
                flow.scheduled = true;
                self.waiting.push_back(*id);
            }
        }
    }
}

fn carry(
    from: &Side,
    to: &Side,
    direction: &mut Direction,
    buffer: &mut [u8],
    carried: &mut u64,
) -> Result<Progress, Errno> {
    let mut turn = 0;
    loop {
        if direction.over {
            return Ok(Progress::Idle);
        }
        if !direction.held.is_empty() {
            let rest = direction.held.get(direction.given..).unwrap_or_default();
            match give(to, rest)? {
                Given::All => {
                    direction.held = Vec::new();
                    direction.given = 0;
                }
                Given::Some(count) => {
                    direction.given += count;
                    return Ok(Progress::Idle);
                }
                Given::Refused => {
                    refuse(from, direction, buffer);
                    return Ok(Progress::Idle);
                }
            }
        }
        if direction.ended {
            socket::shut_down(to.socket.as_fd(), Shutdown::Write);
            direction.over = true;
            return Ok(Progress::Idle);
        }
        if turn >= TURN {
            return Ok(Progress::More);
        }
        let taken = match socket::take(from.socket.as_fd(), from.kind, buffer) {
            Ok(taken) => taken,
            Err(Errno::EAGAIN) => return Ok(Progress::Idle),
            Err(Errno::EINTR) => continue,
            // The peer closed with data of ours unread. What it had sent before was read already.
            Err(Errno::ECONNRESET) => 0,
            Err(errno) => return Err(errno),
        };
        if taken == 0 {
            direction.ended = true;
            continue;
        }
        turn += taken;
        *carried = carried.wrapping_add(taken as u64);
        let bytes = buffer.get(..taken).unwrap_or_default();
        match give(to, bytes)? {
            Given::All => {}
            Given::Some(count) => {
                direction.held = bytes.get(count..).unwrap_or_default().to_vec();
                return Ok(Progress::Idle);
            }
            Given::Refused => {
                refuse(from, direction, buffer);
                return Ok(Progress::Idle);
            }
        }
    }
}

/// The destination takes nothing more: the source is told by refusing what it still writes. One that waits for room hears of it
/// only when there is some, so that what it has written is thrown away; nothing can follow it.
fn refuse(from: &Side, direction: &mut Direction, buffer: &mut [u8]) {
    socket::shut_down(from.socket.as_fd(), Shutdown::Read);
    loop {
        match socket::take(from.socket.as_fd(), from.kind, buffer) {
            Ok(0) => break,
            Ok(_) | Err(Errno::EINTR | Errno::EMSGSIZE) => {}
            Err(_) => break,
        }
    }
    direction.held = Vec::new();
    direction.over = true;
}

enum Given {
    All,
    /// So many, and now the socket is full.
    Some(usize),
    Refused,
}

fn give(to: &Side, bytes: &[u8]) -> Result<Given, Errno> {
    let mut count = 0;
    while count < bytes.len() {
        match socket::give(to.socket.as_fd(), bytes.get(count..).unwrap_or_default()) {
            Ok(given) => count += given,
            Err(Errno::EAGAIN) => return Ok(Given::Some(count)),
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(Given::Refused),
            Err(errno) => return Err(errno),
        }
    }
    Ok(Given::All)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A relay on a thread of its own, between the two streams that it returns.
    fn relayed() -> (UnixStream, UnixStream, std::thread::JoinHandle<u64>) {
        let (inside, enclave) = UnixStream::pair().unwrap();
        let (outside, host) = UnixStream::pair().unwrap();
        let relay = std::thread::spawn(move || {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
            let mut flows = Flows::new();
            flows
                .start(
                    &epoll,
                    (enclave.into(), Kind::Stream),
                    (host.into(), Kind::Stream),
                    |id, _| id,
                )
                .unwrap();
            while flows.len() > 0 {
                flows.run();
                if !flows.is_busy() && flows.len() > 0 {
                    let mut events = [EpollEvent::empty(); 4];
                    epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
                    flows.wake(0);
                }
            }
            flows.progress()
        });
        (inside, outside, relay)
    }

    #[test]
    fn both_directions_arrive_whole_though_both_sides_write_first() {
        const LENGTH: usize = 8 << 20;
        let (inside, outside, relay) = relayed();
        let talk = |mut stream: UnixStream, seed: u8| {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    let bytes: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8 ^ seed).collect();
                    writer.write_all(&bytes).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                writing.join().unwrap();
                received
            })
        };
        let (one, other) = (talk(inside, 1), talk(outside, 2));
        let (one, other) = (one.join().unwrap(), other.join().unwrap());
        assert_eq!((one.len(), other.len()), (LENGTH, LENGTH));
        assert!(
            one.iter()
                .enumerate()
                .all(|(at, byte)| *byte == (at % 251) as u8 ^ 2)
        );
        assert!(
            other
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == (at % 251) as u8 ^ 1)
        );
        assert_eq!(relay.join().unwrap(), 2 * LENGTH as u64);
    }

    #[test]
    fn half_close_leaves_the_other_direction_open() {
        let (mut inside, mut outside, relay) = relayed();
        inside.write_all(b"question").unwrap();
        inside.shutdown(Shutdown::Write).unwrap();
        let mut question = String::new();
        outside.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question");
        outside.write_all(b"answer").unwrap();
        drop(outside);
        let mut answer = String::new();
        inside.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        drop(inside);
        relay.join().unwrap();
    }

    /// Writes until nothing more is taken; says how much was.
    fn fill(stream: &mut UnixStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let mut accepted = 0;
        let mut full = 0;
        while full < 20 {
            if let Ok(count) = stream.write(&[0; 8192]) {
                accepted += count;
            } else {
                full += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        accepted
    }

    #[test]
    fn who_waits_for_room_hears_that_the_reader_is_gone_though_the_other_way_is_full() {
        let (mut inside, mut outside, relay) = relayed();
        fill(&mut inside);
        fill(&mut outside);
        outside.shutdown(Shutdown::Both).unwrap();
        let waits = PollFd::new(inside.as_fd(), PollFlags::POLLOUT);
        let heard = poll(&mut [waits], PollTimeout::from(30_000_u16)).unwrap();
        assert_eq!(heard, 1, "it waits for room that never comes");
        let refused = inside.write(&[0; 8192]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
        drop((inside, outside));
        relay.join().unwrap();
    }

    #[test]
    fn a_peer_that_goes_away_ends_the_flow_for_the_other() {
        let (inside, mut outside, relay) = relayed();
        drop(inside);
        let mut rest = Vec::new();
        outside.read_to_end(&mut rest).unwrap();
        let refused = (0..1000).find_map(|_| outside.write_all(&[0; 8192]).err());
        // Reset where the relay still held something of what was written.
        assert!(matches!(
            refused.map(|error| error.kind()),
            Some(std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
        ));
        drop(outside);
        relay.join().unwrap();
    }

    #[test]
    fn a_slow_reader_holds_the_writer_up_instead_of_filling_memory() {
        let (mut inside, outside, relay) = relayed();
        let accepted = fill(&mut inside);
        assert!(accepted < 4 << 20, "{accepted} bytes were taken");
        drop((inside, outside));
        relay.join().unwrap();
    }
}
