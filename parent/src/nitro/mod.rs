//! The nitro backend: an image in an enclave of AWS's hypervisor, through the kernel's driver (`/dev/nitro_enclaves`).
//!
//! The one backend that protects against whoever controls the host: the hypervisor takes CPUs and memory away from it, and the
//! Nitro card signs the attestation documents. What the host's side does here can be distrusted: a wrong image has other
//! measurements, and no key is given for them.
//!
//! [`hardware`] says what the host has set aside, [`plan`] what a start takes of it, [`refusal`] what the driver's errors mean.
//! A start is all or nothing: descriptor and memory belong to one value, and dropping it ends the enclave and gives everything
//! back.
//!
//! The enclave's folder is the same as on every backend: `vsock.sock` leads to its ports, and what it dials ends at
//! `vsock.sock_<port>`. The bytes go through the host's own `AF_VSOCK`, which only hosts of enclaves should have this program
//! use: it is touched after the driver has started an enclave, and never before.

pub mod hardware;
pub mod plan;
mod ports;
pub mod refusal;
#[expect(
    unsafe_code,
    reason = "the driver's ioctls and huge pages, which no safe crate offers; every block says why it is sound"
)]
mod sys;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anchorhold_images::Image;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, VsockAddr, getsockopt, socket, sockopt::SocketError,
};

use crate::Isolation;
use crate::sandbox::console::{Console, Heard};
use crate::sandbox::host::{Reception, Said, Wish};
use crate::sandbox::relay::{End, Flows};
use crate::sandbox::supervisor::{Places, Shared};
use crate::sandbox::sys::process;
use crate::sandbox::sys::socket as unix;
use crate::sandbox::sys::socket::Kind;
use crate::sandbox::vsock::address_in;
use crate::sandbox::{
    Ended, EnforcedBy, How, LaunchReport, Limits, StartError as CommonError, connect, listen,
};
use hardware::{Hardware, HardwareError};
use plan::{Lack, Need, Plan};
use ports::Ports;
use refusal::{Refusal, Step};

/// The driver's device.
pub const DEVICE: &str = "/dev/nitro_enclaves";
/// The hypervisor's CID, at which consoles of enclaves in debug mode are read (`VMADDR_CID_HYPERVISOR`).
const HYPERVISOR: u32 = 0;
/// An enclave's console is at this much above its CID.
const CONSOLE_PORTS: u32 = 10_000;
/// Connections of one enclave, both ways together. More are refused.
const MOST_CONNECTIONS: usize = 4096;
/// How long what a dead enclave has sent may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the way into the enclave stays closed when this process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What is to run in an enclave.
pub struct Start<'a> {
    /// The enclave's CID: 16 or more.
    pub cid: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs: whole cores.
    pub cpus: u32,
    /// The enclave's folder on the host.
    pub directory: PathBuf,
    /// Where supervisors of this user meet, to share the ports that enclaves dial.
    pub ports: PathBuf,
    /// The image, measured.
    pub image: &'a Image,
    /// With a console to read, and measurements of zero.
    pub debug: bool,
}

/// Why an enclave could not be started. Whatever it is, nothing stays taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What the host has cannot be read.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// The host has too little.
    #[error(transparent)]
    Lack(#[from] Lack),
    /// The driver refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The enclave has no kernel.
    #[error(
        "{} has no kernel, without which it runs in the sandbox only; build it with `anchorhold build --kernel FILE` (images/kernel makes one)",
        path.display()
    )]
    NoKernel {
        /// The image.
        path: PathBuf,
    },
    /// Huge pages were there a moment ago.
    #[error(
        "{count} pages of {mib} MiB on NUMA node {node} cannot be had: {error}; another enclave may have just taken them: start again, or reserve more huge pages"
    )]
    Pages {
        /// How many.
        count: u64,
        /// Of what size.
        mib: u64,
        /// On which node.
        node: u32,
        /// Why.
        error: io::Error,
    },
    /// The image cannot be read.
    #[error("{} cannot be read into the enclave's memory: {error}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The enclave's memory has no room for the image where the driver wants it.
    #[error(
        "the image ({image_bytes} bytes from {offset} on) does not fit into {memory_bytes} bytes of memory; raise resources.memory_mib in anchorhold.toml, or --memory"
    )]
    DoesNotFit {
        /// Bytes of the image.
        image_bytes: u64,
        /// Where it goes.
        offset: u64,
        /// The enclave's memory.
        memory_bytes: u64,
    },
    /// The hypervisor gave it another CID.
    #[error("the enclave was started with CID {got} instead of {asked}, and was stopped again")]
    OtherCid {
        /// What was asked for.
        asked: u32,
        /// What came.
        got: u64,
    },
    /// Folder, sockets or ports.
    #[error("{doing} failed: {error}")]
    Files {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// What every backend may stumble over.
    #[error(transparent)]
    Common(#[from] CommonError),
}

/// An enclave of the driver's: ended, and its CPUs and memory given back, when dropped.
struct Slot {
    // In this order: the memory goes back when the driver has let go of it.
    enclave: OwnedFd,
    _memory: Vec<sys::Huge>,
}

impl Slot {
    /// Everything up to the running enclave, in the order that the driver wants: the image is in the memory before that is
    /// handed over, since nobody on the host can write to it afterwards.
    fn start(start: &Start<'_>, plan: &Plan) -> Result<Slot, StartError> {
        let device = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map_err(|error| Refusal {
                step: Step::Open,
                number: error.raw_os_error().unwrap_or(libc::EIO),
            })?;
        let enclave = sys::create(device.as_fd())?;
        let mut memory = Vec::with_capacity(plan.pages.len());
        for (bytes, count) in &plan.pages {
            let pages =
                sys::Huge::take(*bytes, *count, plan.node).map_err(|error| StartError::Pages {
                    count: *count,
                    mib: bytes >> 20,
                    node: plan.node,
                    error,
                })?;
            memory.push(pages);
        }
        let offset = sys::image_offset(enclave.as_fd())?;
        load(start.image, offset, &mut memory)?;
        for pages in &memory {
            sys::give_memory(enclave.as_fd(), pages)?;
        }
        for _ in 0..plan.cpus {
            sys::add_cpu(enclave.as_fd())?;
        }
        let cid = sys::start(enclave.as_fd(), start.cid, start.debug)?;
        if cid != u64::from(start.cid) {
            return Err(StartError::OtherCid {
                asked: start.cid,
                got: cid,
            });
        }
        Ok(Slot {
            enclave,
            _memory: memory,
        })
    }
}

/// Puts the image into the enclave's memory, `offset` bytes from its beginning; pieces of memory follow each other.
fn load(image: &Image, offset: u64, memory: &mut [sys::Huge]) -> Result<(), StartError> {
    let mut parts: Vec<&mut [u8]> = memory.iter_mut().map(sys::Huge::bytes).collect();
    let memory_bytes = parts.iter().map(|part| part.len() as u64).sum();
    let image_bytes = image.size();
    if offset
        .checked_add(image_bytes)
        .is_none_or(|end| end > memory_bytes)
    {
        return Err(StartError::DoesNotFit {
            image_bytes,
            offset,
            memory_bytes,
        });
    }
    image
        .copy_to(&mut Across {
            parts: &mut parts,
            skip: offset,
        })
        .map_err(|error| StartError::Image {
            path: image.path().to_owned(),
            error,
        })
}

/// Writes into pieces of memory as if they were one.
struct Across<'a, 'b> {
    parts: &'a mut [&'b mut [u8]],
    /// Bytes from the beginning of the first of them that are left alone or written already.
    skip: u64,
}

impl io::Write for Across<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut skip = self.skip;
        for part in self.parts.iter_mut() {
            let size = part.len() as u64;
            if skip >= size {
                skip -= size;
                continue;
            }
            let room = part.get_mut(skip as usize..).unwrap_or_default();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.skip += count as u64;
            return Ok(count);
        }
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running enclave. It is ended, and everything of it is removed but its console, when this is dropped.
pub struct Enclave {
    cid: u32,
    directory: PathBuf,
    report: LaunchReport,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

/// What a start of this image would take of this host.
pub fn plan(image: &Image, memory_mib: u32, cpus: u32) -> Result<Plan, StartError> {
    let hardware = Hardware::read(Path::new("/sys"))?;
    let need = Need {
        memory_mib,
        cpus,
        image_bytes: image.size(),
    };
    Ok(Plan::of(&hardware, need)?)
}

/// Starts an enclave. Returns when the hypervisor has started it: that it works shows by its heartbeat, and what it is by its
/// attestation document.
pub fn start(start: &Start<'_>) -> Result<Enclave, StartError> {
    if start.cid < 16 || start.cid == u32::MAX {
        return Err(CommonError::Cid(start.cid).into());
    }
    if !start
        .image
        .has_kernel()
        .map_err(|error| StartError::Image {
            path: start.image.path().to_owned(),
            error: io::Error::other(error),
        })?
    {
        return Err(StartError::NoKernel {
            path: start.image.path().to_owned(),
        });
    }
    let begun = Instant::now();
    let plan = plan(start.image, start.memory_mib, start.cpus)?;
    let directory =
        std::path::absolute(&start.directory).map_err(|error| CommonError::Directory {
            path: start.directory.clone(),
            doing: "finding it",
            error,
        })?;
    let places = Places::make(&directory)?;
    let shared = Arc::new(Shared::new().map_err(CommonError::Resources)?);
    // The sockets and ports are there before the enclave is, so that its first call finds them.
    let mut supervisor = Supervisor::new(start, places, directory.clone(), Arc::clone(&shared))?;
    supervisor.hold(Slot::start(start, &plan)?, start.debug)?;
    let thread = std::thread::Builder::new()
        .name(format!("enclave-{}", start.cid))
        .spawn(move || supervise(supervisor))
        .map_err(|error| StartError::Files {
            doing: "starting a thread",
            error,
        })?;
    let report = LaunchReport {
        isolation: Isolation::Nitro,
        limits: Limits {
            memory_mib: u32::try_from(plan.memory_bytes >> 20).unwrap_or(u32::MAX),
            memory: EnforcedBy::VirtualMachine,
            cpus: plan.cpus,
            processors: EnforcedBy::VirtualMachine,
            processes: 0,
            process_count: EnforcedBy::VirtualMachine,
        },
        missing: Vec::new(),
        start: begun.elapsed(),
        pid: 0,
    };
    Ok(Enclave {
        cid: start.cid,
        directory,
        report,
        shared,
        supervisor: Some(thread),
    })
}

fn files(doing: &'static str, errno: Errno) -> StartError {
    StartError::Files {
        doing,
        error: errno.into(),
    }
}

impl Enclave {
    /// The enclave's CID.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    /// What the start came to.
    pub fn report(&self) -> &LaunchReport {
        &self.report
    }

    /// The enclave's folder on the host, with `vsock.sock` and `vsock.sock_<port>`.
    pub fn dir(&self) -> &Path {
        &self.directory
    }

    /// Connects to a port of the enclave; see [`connect`].
    pub fn connect(&self, port: u32) -> io::Result<std::os::unix::net::UnixStream> {
        connect(&self.directory, port)
    }

    /// Listens for what the enclave dials; see [`listen`].
    pub fn listen(&self, port: u32) -> io::Result<std::os::unix::net::UnixListener> {
        listen(&self.directory, port)
    }

    /// Waits until the enclave has ended.
    pub fn wait(&mut self) -> io::Result<Ended> {
        Ok(self.shared.wait())
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// Something that ends it at once, from any thread, while another waits.
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            // Can only fail when the counter is full, and then it is heard as well.
            let _ = shared.stop.write(1);
        }
    }

    /// Ends it and removes everything of it but its console. Returns when that is done.
    pub fn kill(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            // Can only fail when the counter is full, and then it is heard as well.
            let _ = self.shared.stop.write(1);
            let _ = supervisor.join();
        }
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What epoll says about whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Stop,
    Ended,
    Host,
    Console,
    Folder,
    Client(u64),
    Dial(u64),
    Port(u64),
    Flow(u64, End),
}

impl Token {
    fn number(self) -> u64 {
        match self {
            Token::Stop => 0,
            Token::Ended => 1,
            Token::Host => 2,
            Token::Console => 3,
            Token::Folder => 4,
            Token::Port(id) => 1 << 60 | id,
            Token::Dial(id) => 1 << 61 | id,
            Token::Client(id) => 1 << 62 | id,
            Token::Flow(id, end) => 1 << 63 | id << 1 | u64::from(end == End::Host),
        }
    }

    fn of(number: u64) -> Option<Token> {
        let below = |bit: u32| number & !(1 << bit);
        Some(match number {
            0 => Token::Stop,
            1 => Token::Ended,
            2 => Token::Host,
            3 => Token::Console,
            4 => Token::Folder,
            _ if number >> 63 == 1 => {
                let end = if number & 1 == 1 {
                    End::Host
                } else {
                    End::Enclave
                };
                Token::Flow(below(63) >> 1, end)
            }
            _ if number >> 62 == 1 => Token::Client(below(62)),
            _ if number >> 61 == 1 => Token::Dial(below(61)),
            _ if number >> 60 == 1 => Token::Port(below(60)),
            _ => return None,
        })
    }
}

fn port_token(id: u64) -> u64 {
    Token::Port(id).number()
}

fn flow_token(id: u64, end: End) -> u64 {
    Token::Flow(id, end).number()
}

/// A connection into the enclave that is being made.
struct Dial {
    client: OwnedFd,
    socket: OwnedFd,
    port: u32,
}

struct Supervisor {
    cid: u32,
    // The enclave has ended before its places go.
    slot: Option<Slot>,
    shared: Arc<Shared>,
    epoll: Epoll,
    reception: Reception,
    dials: HashMap<u64, Dial>,
    next_dial: u64,
    ports: Ports,
    folder: Inotify,
    flows: Flows,
    console: Option<Console>,
    places: Places,
    directory: PathBuf,
}

fn supervise(mut supervisor: Supervisor) {
    // Signals are for the host program's own threads.
    process::block_signals();
    let how = supervisor.serve();
    let shared = Arc::clone(&supervisor.shared);
    // The enclave is ended, and CPUs, memory and sockets are given back, before anybody hears that it is over.
    drop(supervisor);
    shared.end(Ended {
        how,
        ran_out_of_memory: false,
    });
}

impl Supervisor {
    /// With everything that an enclave needs of its host.
    fn new(
        start: &Start<'_>,
        places: Places,
        directory: PathBuf,
        shared: Arc<Shared>,
    ) -> Result<Supervisor, StartError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| files("making an epoll instance", errno))?;
        let reception = places
            .reception()
            .map_err(|errno| files("listening at vsock.sock", errno))?;
        let folder = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|errno| files("watching the enclave's folder", errno))?;
        folder
            .add_watch(
                &directory,
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE,
            )
            .map_err(|errno| files("watching the enclave's folder", errno))?;
        let ports = Ports::new(start.cid, &start.ports).map_err(|error| StartError::Files {
            doing: "making the folder where supervisors share ports",
            error,
        })?;
        let mut supervisor = Supervisor {
            cid: start.cid,
            slot: None,
            shared,
            epoll,
            reception: Reception::new(reception),
            dials: HashMap::new(),
            next_dial: 0,
            ports,
            folder,
            flows: Flows::new(),
            console: None,
            places,
            directory,
        };
        let Supervisor {
            shared,
            reception,
            folder,
            ..
        } = &supervisor;
        supervisor.watch(shared.stop.as_fd(), EpollFlags::EPOLLIN, Token::Stop)?;
        supervisor.watch(
            reception.listener().as_fd(),
            EpollFlags::EPOLLIN,
            Token::Host,
        )?;
        supervisor.watch(folder.as_fd(), EpollFlags::EPOLLIN, Token::Folder)?;
        supervisor.look_for_ports();
        Ok(supervisor)
    }

    fn watch(
        &self,
        file: BorrowedFd<'_>,
        events: EpollFlags,
        token: Token,
    ) -> Result<(), StartError> {
        self.epoll
            .add(file, EpollEvent::new(events, token.number()))
            .map_err(|errno| files("watching for events", errno))
    }

    /// Takes the running enclave over.
    fn hold(&mut self, slot: Slot, debug: bool) -> Result<(), StartError> {
        // The driver hangs up when the enclave has ended, which epoll tells without being asked.
        self.watch(slot.enclave.as_fd(), EpollFlags::empty(), Token::Ended)?;
        self.slot = Some(slot);
        if debug {
            let console = console(self.cid, &self.directory)?;
            self.watch(console.pipe().as_fd(), EpollFlags::EPOLLIN, Token::Console)?;
            self.console = Some(console);
        }
        Ok(())
    }

    /// Serves until the enclave has ended and its last words are delivered, or until it is to stop.
    fn serve(&mut self) -> How {
        let mut events = [EpollEvent::empty(); 64];
        let mut paused_until: Option<Instant> = None;
        let mut last_words: Option<(Instant, u64)> = None;
        loop {
            let now = Instant::now();
            let wait = if self.flows.is_busy() {
                EpollTimeout::ZERO
            } else if paused_until.is_some() || last_words.is_some() {
                EpollTimeout::from(50u8)
            } else if let Some(due) = self.ports.due() {
                EpollTimeout::try_from(due.saturating_duration_since(now))
                    .unwrap_or(EpollTimeout::NONE)
            } else {
                EpollTimeout::NONE
            };
            let count = match self.epoll.wait(&mut events, wait) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => {
                    tracing::error!(%errno, cid = self.cid, "the supervisor of an enclave could not go on");
                    return How::Unknown;
                }
            };
            for event in events.iter().take(count) {
                match Token::of(event.data()) {
                    // The enclave ends with its slot.
                    Some(Token::Stop) => return How::Killed(libc::SIGKILL),
                    Some(Token::Ended) if last_words.is_none() => {
                        self.enclave_ended();
                        last_words = Some((Instant::now(), self.flows.progress()));
                    }
                    Some(Token::Host) if !self.admit() => {
                        paused_until = Some(Instant::now() + PAUSE);
                    }
                    Some(Token::Console) => self.hear(),
                    Some(Token::Folder) => self.look_for_ports(),
                    Some(Token::Client(id)) => self.receive(id),
                    Some(Token::Dial(id)) => self.dialled(id),
                    Some(Token::Port(id)) => {
                        for dialled in self.ports.wake(id, &self.epoll, port_token) {
                            self.carry_out(dialled.port, dialled.socket);
                        }
                    }
                    Some(Token::Flow(id, _)) => self.flows.wake(id),
                    _ => {}
                }
            }
            self.flows.run();
            self.ports.retry(Instant::now(), &self.epoll, port_token);
            if paused_until.is_some_and(|until| until <= Instant::now()) {
                paused_until = None;
                let _ = self.epoll.add(
                    self.reception.listener(),
                    EpollEvent::new(EpollFlags::EPOLLIN, Token::Host.number()),
                );
            }
            if let Some((since, carried)) = &mut last_words {
                if self.flows.len() == 0 || since.elapsed() > LAST_WORDS {
                    return How::PoweredOff;
                }
                if *carried != self.flows.progress() {
                    *carried = self.flows.progress();
                    *since = Instant::now();
                }
            }
        }
    }

    /// Lets clients in. `false`: this process is out of descriptors, and the reception is closed for a while.
    fn admit(&mut self) -> bool {
        let admitted = self
            .reception
            .admit(&self.epoll, |id| Token::Client(id).number());
        if admitted.is_err() {
            let _ = self.epoll.delete(self.reception.listener());
        }
        admitted.is_ok()
    }

    /// A client of the host has said something.
    fn receive(&mut self, id: u64) {
        if let Said::Wants(Wish { port, .. }, client) = self.reception.hear(&self.epoll, id)
            && self.flows.len() + self.dials.len() < MOST_CONNECTIONS
        {
            // Where that fails, the client's stream closes, which says that nobody listens.
            if let Ok(socket) = dial(self.cid, port) {
                let id = self.next_dial;
                self.next_dial += 1;
                let events = EpollEvent::new(EpollFlags::EPOLLOUT, Token::Dial(id).number());
                if self.epoll.add(&socket, events).is_ok() {
                    let dial = Dial {
                        client,
                        socket,
                        port,
                    };
                    self.dials.insert(id, dial);
                }
            }
        }
    }

    /// A connection into the enclave stands, or does not.
    fn dialled(&mut self, id: u64) {
        let Some(dial) = self.dials.remove(&id) else {
            return;
        };
        if getsockopt(&dial.socket, SocketError) != Ok(0)
            || self.epoll.delete(&dial.socket).is_err()
        {
            return;
        }
        let line = format!("OK {}\n", dial.port);
        if unix::give(dial.client.as_fd(), line.as_bytes()) == Ok(line.len()) {
            self.carry(dial.socket, dial.client);
        }
    }

    /// The enclave has dialled a port of the host.
    fn carry_out(&mut self, port: u32, socket: OwnedFd) {
        if self.flows.len() + self.dials.len() >= MOST_CONNECTIONS {
            return;
        }
        let connected = || -> Result<OwnedFd, Errno> {
            let host = unix::new(Kind::Stream, true)?;
            address_in(self.places.host.as_fd(), &format!("vsock.sock_{port}"))?
                .connect(host.as_fd())?;
            Ok(host)
        };
        // Where nobody listens, the enclave's connection closes.
        if let Ok(host) = connected() {
            self.carry(socket, host);
        }
    }

    fn carry(&mut self, enclave: OwnedFd, host: OwnedFd) {
        // Where it fails, both ends close.
        let _ = self.flows.start(
            &self.epoll,
            (enclave, Kind::Stream),
            (host, Kind::Stream),
            flow_token,
        );
    }

    /// The parent's listeners have changed.
    fn look_for_ports(&mut self) {
        while self
            .folder
            .read_events()
            .is_ok_and(|events| !events.is_empty())
        {}
        let mut ports = Vec::new();
        if let Ok(entries) = std::fs::read_dir(&self.directory) {
            for entry in entries.flatten() {
                let name = entry.file_name();
                let port = name
                    .to_str()
                    .and_then(|name| name.strip_prefix("vsock.sock_"));
                ports.extend(port.and_then(|port| port.parse::<u32>().ok()));
            }
        }
        self.ports.set(&ports, &self.epoll, port_token);
    }

    fn hear(&mut self) {
        if let Some(console) = &mut self.console
            && console.listen() == Heard::End
        {
            let _ = self.epoll.delete(console.pipe());
            self.console = None;
        }
    }

    fn enclave_ended(&mut self) {
        if let Some(slot) = &self.slot {
            let _ = self.epoll.delete(&slot.enclave);
        }
        let _ = self.epoll.delete(self.reception.listener());
        self.reception.close();
        self.dials.clear();
        self.ports.set(&[], &self.epoll, port_token);
        self.flows.enclave_ended();
        if let Some(console) = &mut self.console {
            while console.listen() == Heard::Something {}
        }
    }
}

/// A connection to a port of the enclave, which may still be under way.
fn dial(cid: u32, port: u32) -> Result<OwnedFd, Errno> {
    let stream = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    match nix::sys::socket::connect(stream.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
        Err(errno) => Err(errno),
    }
}

/// The console of an enclave in debug mode, kept in its folder.
fn console(cid: u32, directory: &Path) -> Result<Console, StartError> {
    let stream = dial(HYPERVISOR, cid.wrapping_add(CONSOLE_PORTS))
        .map_err(|errno| files("connecting to the enclave's console", errno))?;
    Console::new(stream, &directory.join("console.log")).map_err(|error| StartError::Files {
        doing: "making console.log",
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Stop,
            Token::Ended,
            Token::Host,
            Token::Console,
            Token::Folder,
            Token::Client(0),
            Token::Client(77),
            Token::Dial(5),
            Token::Port(0),
            Token::Port(1 << 40),
            Token::Flow(0, End::Enclave),
            Token::Flow(123_456, End::Host),
        ] {
            assert_eq!(Token::of(token.number()), Some(token));
        }
    }

    proptest! {
        /// The image stands in the memory as if that were one piece.
        #[test]
        fn an_image_is_laid_across_pieces_of_memory(
            sizes in prop::collection::vec(0usize..50, 0..6),
            image: Vec<u8>,
            offset in 0u64..120,
        ) {
            let mut parts: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0xEE; *size]).collect();
            let mut slices: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
            let laid = io::Write::write_all(
                &mut Across { parts: &mut slices, skip: offset },
                &image,
            );
            let whole = parts.concat();
            let end = offset as usize + image.len();
            if image.is_empty() || end <= whole.len() {
                prop_assert!(laid.is_ok());
            } else {
                prop_assert!(laid.is_err());
                return Ok(());
            }
            if !image.is_empty() {
                prop_assert_eq!(&whole[offset as usize..end], image.as_slice());
                prop_assert!(whole[..offset as usize].iter().all(|byte| *byte == 0xEE));
                prop_assert!(whole[end..].iter().all(|byte| *byte == 0xEE));
            }
        }
    }
}
