//! The supervisor of one enclave: a thread that starts it, answers its calls, carries its bytes, keeps its console, and clears
//! everything away at the end. One event loop, in which nothing waits for the enclave.
//!
//! What the enclave does can cost the enclave its service. It must never cost the host more than the limits say, hang this
//! thread or make it panic.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anchorhold_manifest::HEARTBEAT_PORT;
use anchorhold_simulator::Nsm;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;

use super::console::{Console, Heard};
use super::diagnosis;
use super::filter::{self, FilterOptions};
use super::host::{Reception, Said};
use super::limits::{
    EnforcedBy, Groups, Limits, MOST_PROCESSES, WATCH_INTERVAL, holds_more_than, some_processors,
};
use super::namespaces::{self, Failure, First, Identity, Ids, Message, Plan, Step, word};
use super::notify::{self, Call, Outcome, Threads};
use super::nsm;
use super::relay::{End, Flows};
use super::root::Entry;
use super::sys::process::{self, Cloned, Exit, Strings};
use super::sys::{seccomp, socket};
use super::vsock::{Around, Vsock, address_in};
use super::warden::{Warden, kill_user};
use super::{Ended, How, LaunchReport, Program, StartError};
use crate::Isolation;

/// How long what a dead enclave has sent may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the start may take inside the new process, apart from what unpacking takes.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the reception stays closed when this process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Unprivileged ids for enclaves, of which systemd's table says that nothing uses them (1,879,048,192 to 2,147,483,647; see
/// systemd's UIDS-GIDS). Each enclave has 65,536 of them, chosen by its CID.
const FIRST_OUTSIDE_ID: u32 = 0x7000_0000;
const OUTSIDE_RANGES: u32 = 4096;
const RANGE: u32 = 65_536;

/// What a supervisor is to start.
pub(crate) struct Order {
    pub(crate) cid: u32,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) directory: PathBuf,
    pub(crate) isolation: Isolation,
    pub(crate) loopback: bool,
    pub(crate) entries: Vec<Entry>,
    pub(crate) program: Program,
    /// Makes the NSM; called while the new process sets itself up.
    pub(crate) nsm: Box<dyn FnOnce() -> Result<Nsm, StartError> + Send>,
}

/// What the handle and the supervisor share.
pub(crate) struct Shared {
    pub(crate) stop: EventFd,
    ended: Mutex<Option<Ended>>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new() -> Result<Shared, Errno> {
        Ok(Shared {
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            ended: Mutex::new(None),
            changed: Condvar::new(),
        })
    }

    /// Waits until the enclave has ended.
    pub(crate) fn wait(&self) -> Ended {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(ended) = *ended {
                return ended;
            }
            ended = self
                .changed
                .wait(ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How the enclave has ended, if it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end(&self, how: Ended) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(how);
        self.changed.notify_all();
    }
}

/// The supervisor's whole life: starts the enclave, says over `started` how that went, serves it, clears it away.
pub(crate) fn supervise(
    order: Order,
    shared: &Arc<Shared>,
    started: &Sender<Result<LaunchReport, StartError>>,
) {
    // Signals are for the host program's own threads.
    process::block_signals();
    match Supervisor::start(order, Arc::clone(shared)) {
        Ok((mut supervisor, report)) => {
            // Nobody may be waiting any more: then the handle is gone as well, and `stop` is set.
            let _ = started.send(Ok(report));
            let served = supervisor.serve();
            supervisor.clear_away(served.err());
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
    shared.end(Ended {
        how: How::Unknown,
        ran_out_of_memory: false,
    });
}

/// What epoll says about whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Stop,
    Ended,
    Calls,
    Host,
    Console,
    Warden,
    Beat,
    Client(u64),
    Flow(u64, End),
}

impl Token {
    fn number(self) -> u64 {
        match self {
            Token::Stop => 0,
            Token::Ended => 1,
            Token::Calls => 2,
            Token::Host => 3,
            Token::Console => 4,
            Token::Warden => 5,
            Token::Beat => 6,
            Token::Client(id) => 1 << 62 | id,
            Token::Flow(id, end) => 1 << 63 | id << 1 | u64::from(end == End::Host),
        }
    }

    fn of(number: u64) -> Option<Token> {
        Some(match number {
            0 => Token::Stop,
            1 => Token::Ended,
            2 => Token::Calls,
            3 => Token::Host,
            4 => Token::Console,
            5 => Token::Warden,
            6 => Token::Beat,
            _ if number >> 63 == 1 => {
                let end = if number & 1 == 1 {
                    End::Host
                } else {
                    End::Enclave
                };
                Token::Flow((number & !(1 << 63)) >> 1, end)
            }
            _ if number >> 62 == 1 => Token::Client(number & !(1 << 62)),
            _ => return None,
        })
    }
}

/// The number by which epoll names a flow's end.
pub(crate) fn flow_token(id: u64, end: End) -> u64 {
    Token::Flow(id, end).number()
}

struct Supervisor {
    shared: Arc<Shared>,
    // Dropped in this order: the enclave is dead before the warden goes, and the groups are empty before they are removed.
    process: Process,
    warden: Warden,
    groups: Groups,
    _places: Places,
    /// The bytes that the enclave may hold, where it falls to the supervisor to see to that.
    watched: Option<u64>,
    ran_out_of_memory: bool,
    ids: Ids,
    epoll: Epoll,
    calls: OwnedFd,
    nsm_device: Identity,
    vsock_device: Identity,
    cid: u32,
    nsm: Nsm,
    vsock: Vsock,
    threads: Threads,
    flows: Flows,
    reception: Reception,
    console: Console,
    /// The heartbeat that is sent in the enclave's place, until it is answered.
    beat: Option<OwnedFd>,
}

/// The enclave's first process; killed and collected when dropped.
struct Process {
    cloned: Cloned,
    exit: Option<Exit>,
}

impl Process {
    fn reap(&mut self) -> Exit {
        let exit = match self.exit {
            Some(exit) => exit,
            None => process::reap(self.cloned.pidfd.as_fd()),
        };
        self.exit = Some(exit);
        exit
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = process::kill(self.cloned.pidfd.as_fd());
            self.reap();
        }
    }
}

/// The files of an enclave on the host; what must not outlive it is removed when dropped.
pub(crate) struct Places {
    directory: PathBuf,
    pub(crate) host: OwnedFd,
    sockets: PathBuf,
    plain_root: Option<PathBuf>,
}

const HOST_SOCKET: &str = "vsock.sock";

impl Places {
    pub(crate) fn make(directory: &Path) -> Result<Places, StartError> {
        let failed = |doing: &'static str| {
            let path = directory.to_owned();
            move |error: std::io::Error| StartError::Directory { path, doing, error }
        };
        let failed_errno = |doing: &'static str| {
            let failed = failed(doing);
            move |errno: Errno| failed(errno.into())
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("making it"))?;
        let host = nix::fcntl::open(
            directory,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed_errno("opening it"))?;
        let probe =
            socket::new(socket::Kind::Stream, true).map_err(failed_errno("looking into it"))?;
        let address =
            address_in(host.as_fd(), HOST_SOCKET).map_err(failed_errno("looking into it"))?;
        if address.connect(probe.as_fd()).is_ok() {
            return Err(StartError::InUse {
                path: directory.to_owned(),
            });
        }
        let places = Places {
            directory: directory.to_owned(),
            host,
            sockets: directory.join(".sockets"),
            plain_root: None,
        };
        // Left over from a supervisor that was killed.
        places.remove();
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&places.sockets)
            .map_err(failed("making .sockets in it"))?;
        Ok(places)
    }

    /// Listens at `vsock.sock`, for this user only.
    pub(crate) fn reception(&self) -> Result<OwnedFd, Errno> {
        let listener = socket::new(socket::Kind::Stream, true)?;
        // The file gets its mode from the socket at the moment of binding: it is never open to others.
        nix::sys::stat::fchmod(&listener, Mode::from_bits_truncate(0o600))?;
        address_in(self.host.as_fd(), HOST_SOCKET)?.bind(listener.as_fd())?;
        socket::listen(listener.as_fd(), 4096)?;
        Ok(listener)
    }

    fn remove(&self) {
        let _ = std::fs::remove_file(self.directory.join(HOST_SOCKET));
        let _ = std::fs::remove_dir_all(&self.sockets);
        if let Some(root) = &self.plain_root {
            let _ = std::fs::remove_dir_all(root);
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Supervisor {
    fn start(order: Order, shared: Arc<Shared>) -> Result<(Supervisor, LaunchReport), StartError> {
        let begun = Instant::now();
        if !seccomp::sizes_agree() {
            return Err(StartError::Seccomp);
        }
        let mut places = Places::make(&order.directory)?;
        let mut missing = Vec::new();
        let ids = choose_ids(order.isolation, order.cid)?;
        let landlock = match ids {
            Ids::Outside(_) => process::landlock_abi(),
            _ => 0,
        };
        if order.loopback && matches!(ids, Ids::Outside(_)) {
            return Err(StartError::LoopbackIsTheHosts);
        }
        if let Ids::Outside(_) = ids {
            missing.extend(super::missing_in_reduced(landlock));
            if nix::sys::stat::stat("/proc/self/mem").is_err() {
                return Err(StartError::NoProc);
            }
        }

        let name = format!("anchorhold-{}-{}", std::process::id(), order.cid);
        let mut groups = Groups::make(&name, order.memory_mib, order.cpus);
        let own_unix_sockets = !matches!(ids, Ids::Outside(_)) || landlock >= 6;
        let options = |processors_fixed| FilterOptions {
            processors_fixed,
            own_unix_sockets,
            loopback: order.loopback,
        };
        let memory = u64::from(order.memory_mib) << 20;
        let (console_read, console_write) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(StartError::Resources)?;
        nix::fcntl::fcntl(
            &console_read,
            nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
        )
        .map_err(StartError::Resources)?;
        let outside = outside_id(ids, order.cid);
        if let Some(id) = outside {
            // So that the enclave can open it again by name, as it can a real console.
            let _ = nix::unistd::fchown(
                &console_write,
                Some(nix::unistd::Uid::from_raw(id)),
                Some(nix::unistd::Gid::from_raw(id)),
            );
        }
        let (control, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(StartError::Resources)?;

        let text = |number: u64| {
            std::ffi::CString::new(number.to_string()).expect("digits hold no zero byte")
        };
        let path = |path: &Path| {
            use std::os::unix::ffi::OsStrExt;
            std::ffi::CString::new(path.as_os_str().as_bytes())
                .map_err(|_| StartError::Resources(Errno::EINVAL))
        };
        let mut plain_root = None;
        if let Ids::Outside(_) = ids
            && !may_mount()
        {
            let root = order.directory.join(".root");
            let _ = std::fs::remove_dir_all(&root);
            std::fs::DirBuilder::new()
                .mode(0o755)
                .create(&root)
                .map_err(|error| StartError::Directory {
                    path: root.clone(),
                    doing: "making it",
                    error,
                })?;
            plain_root = Some(path(&root)?);
            places.plain_root = Some(root);
            missing.push("the enclave's files are on disk while it runs: mounting a file system in memory is not allowed here".to_owned());
        }
        let is_command = order.program.is_command;
        let command = order.program.arguments.first().filter(|_| is_command);
        let command = command.map(|name| name.to_string_lossy().into_owned());
        if is_command {
            missing.push(super::layout::NOT_RUN.to_owned());
        }
        let mut plan = Plan {
            directory: path(&order.directory)?,
            plain_root,
            ids,
            loopback: order.loopback,
            control: theirs.as_raw_fd(),
            console: console_write.as_raw_fd(),
            entries: order.entries,
            first: First {
                paths: order.program.paths,
                arguments: Strings::new(order.program.arguments),
                environment: Strings::new(order.program.environment),
                command,
            },
            sizes: [memory, memory / 2, memory / 8, memory / 4].map(text),
            inodes: text((memory / 16384).max(1024)),
            filters: [false, true].map(|fixed| filter::filter(options(fixed))),
            resource_limits: vec![
                // 1 and not 0: with 0, a core pattern that is a pipe still gets the memory of a crashed process (core(5)).
                (libc::RLIMIT_CORE, 1),
                (libc::RLIMIT_NPROC, MOST_PROCESSES),
                (libc::RLIMIT_NOFILE, 65_536),
                (libc::RLIMIT_MEMLOCK, 8 << 20),
                (libc::RLIMIT_MSGQUEUE, 819_200),
                (libc::RLIMIT_SIGPENDING, 4096),
                (libc::RLIMIT_RTPRIO, 0),
            ],
            data: memory,
            processors: some_processors(order.cpus),
            landlock,
        };

        let flags = match ids {
            Ids::Single | Ids::Range => namespaces::NAMESPACES,
            Ids::Outside(_) => 0,
        };
        let process = process::clone_process(flags, || namespaces::become_enclave(&plan))
            .map(|cloned| Process { cloned, exit: None })
            .map_err(|errno| StartError::Namespaces {
                doing: "making namespaces",
                errno,
                obstacle: diagnosis::obstacle(None, errno),
            })?;
        drop((theirs, console_write));
        let pid = process.cloned.pid;
        write_maps(pid, ids, order.cid)?;
        // Should the whole machine run out of memory, the enclave goes before others do.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
        groups.take_in(pid);
        let limits = limits(&groups, ids, order.memory_mib, order.cpus);
        let mut first = word::GO;
        if !groups.memory {
            first |= word::LIMIT_DATA;
        }
        if !groups.processors {
            first |= word::FIX_PROCESSORS;
        }
        nix::sys::socket::setsockopt(
            &control,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(START_TIMEOUT.as_secs().cast_signed(), 0),
        )
        .map_err(StartError::Resources)?;
        socket::send_descriptor(control.as_fd(), first, None).map_err(StartError::Resources)?;

        // While the new process sets itself up.
        let warden =
            Warden::start(process.cloned.pidfd.as_fd(), ids).map_err(StartError::Resources)?;
        let nsm = (order.nsm)();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(StartError::Resources)?;
        let reception = places.reception().map_err(|errno| StartError::Directory {
            path: order.directory.join(HOST_SOCKET),
            doing: "listening at",
            error: errno.into(),
        })?;
        let console_path = order.directory.join("console.log");
        let console =
            Console::new(console_read, &console_path).map_err(|error| StartError::Directory {
                path: console_path,
                doing: "making",
                error,
            })?;
        let sockets = nix::fcntl::open(
            &places.sockets,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(StartError::Resources)?;
        let vsock = Vsock::new(
            order.cid,
            own_unix_sockets,
            &places.sockets,
            sockets,
            places
                .host
                .try_clone()
                .map_err(|_| StartError::Resources(Errno::EMFILE))?,
        )
        .map_err(StartError::Resources)?;

        // Without a word: the kernel killed it, most likely for its memory.
        let (nsm_device, vsock_device) = hear(&control, &plan)?.ok_or_else(|| {
            if groups.ran_out_of_memory() {
                StartError::TooLittleMemory {
                    memory_mib: order.memory_mib,
                }
            } else {
                StartError::Vanished
            }
        })?;
        let Ok((_, Some(calls))) = socket::receive_descriptor(control.as_fd(), true) else {
            return Err(StartError::Vanished);
        };
        seccomp::wake_quickly(calls.as_fd());
        // Nothing of the image has run so far, and nothing does unless the image is what it says.
        let nsm = nsm?;
        socket::send_descriptor(control.as_fd(), word::GO, None).map_err(StartError::Resources)?;
        // The end of the conversation is the beginning of /init.
        hear(&control, &plan)?;
        plan.entries = Vec::new();

        let watch = |file: BorrowedFd<'_>, token: Token| {
            epoll
                .add(file, EpollEvent::new(EpollFlags::EPOLLIN, token.number()))
                .map_err(StartError::Resources)
        };
        watch(shared.stop.as_fd(), Token::Stop)?;
        watch(process.cloned.pidfd.as_fd(), Token::Ended)?;
        watch(calls.as_fd(), Token::Calls)?;
        watch(reception.as_fd(), Token::Host)?;
        watch(console.pipe().as_fd(), Token::Console)?;
        watch(warden.line(), Token::Warden)?;
        // As the image's init beats once the machine stands and before it starts the command.
        let beat = is_command
            .then(|| send_beat(places.host.as_fd()).ok())
            .flatten();
        if let Some(beat) = &beat {
            watch(beat.as_fd(), Token::Beat)?;
        }

        let report = LaunchReport {
            isolation: order.isolation,
            limits,
            missing,
            start: begun.elapsed(),
            pid: pid.cast_unsigned(),
        };
        let supervisor = Supervisor {
            shared,
            process,
            warden,
            groups,
            _places: places,
            watched: (report.limits.memory == EnforcedBy::Watch).then_some(memory),
            ran_out_of_memory: false,
            ids,
            epoll,
            calls,
            nsm_device,
            vsock_device,
            cid: order.cid,
            nsm,
            vsock,
            threads: Threads::default(),
            flows: Flows::new(),
            reception: Reception::new(reception),
            console,
            beat,
        };
        Ok((supervisor, report))
    }

    /// Serves until the enclave has ended and its last words are delivered, or until it is to stop.
    fn serve(&mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 64];
        let mut paused_until: Option<Instant> = None;
        let mut last_words: Option<(Instant, u64)> = None;
        let mut looked = Instant::now();
        loop {
            let wait = if self.flows.is_busy() {
                EpollTimeout::ZERO
            } else if self.vsock.has_timers() {
                EpollTimeout::from(2u8)
            } else if paused_until.is_some() || last_words.is_some() {
                EpollTimeout::from(50u8)
            } else if self.watched.is_some() {
                EpollTimeout::try_from(WATCH_INTERVAL).unwrap_or(EpollTimeout::NONE)
            } else {
                EpollTimeout::NONE
            };
            let count = match self.epoll.wait(&mut events, wait) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno),
            };
            for event in events.iter().take(count) {
                match Token::of(event.data()) {
                    Some(Token::Stop) => return Ok(()),
                    Some(Token::Ended) if last_words.is_none() => {
                        self.enclave_ended();
                        last_words = Some((Instant::now(), self.flows.progress()));
                    }
                    Some(Token::Calls) if last_words.is_none() => self.answer_calls(event.events()),
                    Some(Token::Host) if !self.admit() => {
                        paused_until = Some(Instant::now() + PAUSE);
                    }
                    Some(Token::Console) if self.console.listen() == Heard::End => {
                        let _ = self.epoll.delete(self.console.pipe());
                    }
                    // Killed by somebody. The enclave goes on without new sockets.
                    Some(Token::Warden) if self.warden.restock().is_err() => {
                        let _ = self.epoll.delete(self.warden.line());
                    }
                    // Answered or not: it was sent, and there is no other.
                    Some(Token::Beat) => self.beat = None,
                    Some(Token::Client(id)) => self.receive(id),
                    Some(Token::Flow(id, _)) => self.flows.wake(id),
                    _ => {}
                }
            }
            self.flows.run();
            let mut around = Around {
                threads: &mut self.threads,
                flows: &mut self.flows,
                epoll: &self.epoll,
                warden: &mut self.warden,
            };
            self.vsock.retry(self.calls.as_fd(), &mut around);
            if paused_until.is_some_and(|until| until <= Instant::now()) {
                paused_until = None;
                let _ = self.epoll.add(
                    self.reception.listener(),
                    EpollEvent::new(EpollFlags::EPOLLIN, Token::Host.number()),
                );
            }
            if let Some(most) = self.watched
                && last_words.is_none()
                && looked.elapsed() >= WATCH_INTERVAL
            {
                looked = Instant::now();
                if holds_more_than(self.process.cloned.pid, most) {
                    self.ran_out_of_memory = true;
                    let _ = process::kill(self.process.cloned.pidfd.as_fd());
                }
            }
            if let Some((since, carried)) = &mut last_words {
                if self.flows.len() == 0 || since.elapsed() > LAST_WORDS {
                    return Ok(());
                }
                if *carried != self.flows.progress() {
                    *carried = self.flows.progress();
                    *since = Instant::now();
                }
            }
        }
    }

    /// Lets clients in. `false`: this process is out of descriptors, and the reception is closed for a while instead of being
    /// asked again at once.
    fn admit(&mut self) -> bool {
        let admitted = self
            .reception
            .admit(&self.epoll, |id| Token::Client(id).number());
        if admitted.is_err() {
            let _ = self.epoll.delete(self.reception.listener());
        }
        admitted.is_ok()
    }

    fn answer_calls(&mut self, events: EpollFlags) {
        if !events.contains(EpollFlags::EPOLLIN) {
            // The last process with this filter is gone.
            let _ = self.epoll.delete(&self.calls);
            return;
        }
        let calls = self.calls.as_fd();
        match notify::next(calls) {
            Ok(Some(call)) => {
                let mut around = Around {
                    threads: &mut self.threads,
                    flows: &mut self.flows,
                    epoll: &self.epoll,
                    warden: &mut self.warden,
                };
                let outcome = match self.vsock.answer(&call, &mut around) {
                    Some(outcome) => outcome,
                    None => device(
                        &call,
                        &mut self.threads,
                        (self.nsm_device, self.vsock_device),
                        self.cid,
                        &mut self.nsm,
                    )
                    .unwrap_or_else(Outcome::from),
                };
                if let Outcome::Answer(answer) = outcome {
                    let _ = call.answer(answer);
                }
            }
            Ok(None) => {}
            Err(_) => {
                let _ = self.epoll.delete(&self.calls);
            }
        }
    }

    /// A client of the host has said something.
    fn receive(&mut self, id: u64) {
        if let Said::Wants(wish, stream) = self.reception.hear(&self.epoll, id) {
            let mut around = Around {
                threads: &mut self.threads,
                flows: &mut self.flows,
                epoll: &self.epoll,
                warden: &mut self.warden,
            };
            // Where nobody listens, the stream closes.
            let _ = self
                .vsock
                .connect_in(self.calls.as_fd(), wish, stream, &mut around);
        }
    }

    fn enclave_ended(&mut self) {
        let exit = self.process.reap();
        self.end_the_rest();
        let _ = self.epoll.delete(&self.process.cloned.pidfd);
        let _ = self.epoll.delete(&self.calls);
        let _ = self.epoll.delete(self.reception.listener());
        self.reception.close();
        self.vsock.enclave_ended();
        self.flows.enclave_ended();
        while self.console.listen() == Heard::Something {}
        let _ = self.epoll.delete(self.console.pipe());
        self.shared.end(Ended {
            how: match exit {
                Exit::Code(code) => How::Exited(code),
                Exit::Signal(signal) => How::Killed(signal),
                Exit::Unknown => How::Unknown,
            },
            ran_out_of_memory: self.ran_out_of_memory || self.groups.ran_out_of_memory(),
        });
    }

    /// Without a pid namespace, other processes outlive the first one.
    fn end_the_rest(&self) {
        let Ids::Outside(id) = self.ids else {
            return;
        };
        let sweeper = process::clone_process(0, || {
            kill_user(id);
            0
        });
        if let Ok(sweeper) = sweeper {
            process::reap(sweeper.pidfd.as_fd());
        }
        // What is left in the group was adopted by somebody and waits to be collected, or is about to die.
        let until = Instant::now() + Duration::from_secs(2);
        while !self.groups.members().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends everything, whatever state it is in.
    fn clear_away(&mut self, broken: Option<Errno>) {
        if self.process.exit.is_none() {
            let _ = process::kill(self.process.cloned.pidfd.as_fd());
            self.enclave_ended();
        }
        if let Some(errno) = broken {
            tracing::error!(%errno, cid = self.cid, "the supervisor of an enclave could not go on");
        }
    }
}

/// Sends the heartbeat of an enclave, as if it had dialled the parent's port. Its answer comes on the socket.
fn send_beat(host: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let stream = socket::new(socket::Kind::Stream, true)?;
    let file = format!("vsock.sock_{HEARTBEAT_PORT}");
    address_in(host, &file)?.connect(stream.as_fd())?;
    socket::give(stream.as_fd(), &[crate::window::heartbeat::BEAT])?;
    Ok(stream)
}

/// Waits for the new process: `Some` when its filter stands, `None` when it has become `/init`.
fn hear(control: &OwnedFd, plan: &Plan) -> Result<Option<(Identity, Identity)>, StartError> {
    let mut bytes = [0u8; Message::SIZE];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..)
        && !rest.is_empty()
    {
        match nix::unistd::read(control, rest) {
            Ok(0) => return Ok(None),
            Ok(count) => filled += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(StartError::TooSlow),
            Err(errno) => return Err(StartError::Resources(errno)),
        }
    }
    match Message::from_bytes(&bytes) {
        Message::Ready { nsm, vsock } => Ok(Some((nsm, vsock))),
        Message::Failed(failure) => Err(explain(failure, plan)),
    }
}

fn explain(failure: Failure, plan: &Plan) -> StartError {
    let Failure { step, errno, entry } = failure;
    let doing = match step {
        Step::Fill => {
            let path = plan
                .entries
                .get(entry as usize)
                .map(|entry| entry.path().to_string_lossy().into_owned())
                .unwrap_or_default();
            return if errno == Errno::ENOSPC {
                StartError::DoesNotFit { path }
            } else {
                StartError::Unpack { path, errno }
            };
        }
        Step::Execute => {
            return match &plan.first.command {
                None => StartError::Init { errno },
                Some(name) => StartError::Command {
                    name: name.clone(),
                    errno,
                },
            };
        }
        Step::Descriptors => "placing descriptors",
        Step::Directory => "entering the enclave's folder",
        Step::Ids => "becoming the namespace's root",
        Step::Loopback => "bringing the loopback interface up",
        Step::Limits => "setting limits",
        Step::Private => "making mounts private",
        Step::RootMount => "mounting a root in memory",
        Step::ProcMount => "mounting /proc",
        Step::Devices => "setting up /dev",
        Step::Pivot => "changing the root",
        Step::Attach => "mounting into the root",
        Step::ReadOnly => "making the root read-only",
        Step::Capabilities => "dropping capabilities",
        Step::Landlock => "confining by Landlock",
        Step::Filter => "installing the seccomp filter",
    };
    StartError::Namespaces {
        doing,
        errno,
        obstacle: diagnosis::obstacle(Some(step), errno),
    }
}

/// Answers ioctls on the enclave's two devices.
fn device(
    call: &Call<'_>,
    threads: &mut Threads,
    (nsm_device, vsock_device): (Identity, Identity),
    cid: u32,
    nsm: &mut Nsm,
) -> Result<Outcome, Errno> {
    if call.notification.number != libc::SYS_ioctl {
        return Err(Errno::ENOSYS);
    }
    match call.int(1).cast_unsigned() {
        filter::NSM_REQUEST => nsm::answer(call, threads, nsm_device, nsm, SystemTime::now()),
        filter::LOCAL_CID_REQUEST => {
            if !call.is_file(threads, call.int(0), vsock_device)? {
                return Err(Errno::ENOTTY);
            }
            call.memory()?.write(call.address(2), &cid.to_ne_bytes())?;
            Ok(Outcome::SUCCESS)
        }
        _ => Err(Errno::ENOTTY),
    }
}

fn limits(groups: &Groups, ids: Ids, memory_mib: u32, cpus: u32) -> Limits {
    let by = |group: bool, otherwise: EnforcedBy| {
        if group {
            EnforcedBy::ControlGroup
        } else {
            otherwise
        }
    };
    Limits {
        memory_mib,
        memory: by(
            groups.memory,
            match ids {
                Ids::Single | Ids::Range => EnforcedBy::Watch,
                Ids::Outside(_) => EnforcedBy::EachProcess,
            },
        ),
        cpus,
        processors: by(groups.processors, EnforcedBy::Affinity),
        processes: MOST_PROCESSES,
        process_count: by(groups.processes, EnforcedBy::EachProcess),
    }
}

/// Which ids the enclave has: as many as a machine where this process may give them, else the caller's alone.
fn choose_ids(isolation: Isolation, cid: u32) -> Result<Ids, StartError> {
    let root = nix::unistd::geteuid().is_root();
    match isolation {
        Isolation::Reduced if !root => Err(StartError::ReducedNeedsRoot),
        Isolation::Reduced => Ok(Ids::Outside(range_of(cid))),
        _ if root && may_map(range_of(cid)) => Ok(Ids::Range),
        _ => Ok(Ids::Single),
    }
}

pub(crate) fn range_of(cid: u32) -> u32 {
    FIRST_OUTSIDE_ID + (cid % OUTSIDE_RANGES) * RANGE
}

/// The id outside that owns what the enclave's root owns, where that is not the caller.
fn outside_id(ids: Ids, cid: u32) -> Option<u32> {
    match ids {
        Ids::Single => None,
        Ids::Range => Some(range_of(cid)),
        Ids::Outside(id) => Some(id),
    }
}

/// Whether this process's own namespace has the whole range, and it may hand ids out (`CAP_SETGID` and `CAP_SETUID`, 6 and 7).
fn may_map(first: u32) -> bool {
    let covers = |map: &str| {
        std::fs::read_to_string(map).is_ok_and(|text| {
            text.lines().any(|line| {
                let numbers: Vec<u64> = line
                    .split_whitespace()
                    .filter_map(|number| number.parse().ok())
                    .collect();
                matches!(numbers[..], [inside, _, count]
                    if inside <= u64::from(first) && u64::from(first) + u64::from(RANGE) <= inside + count)
            })
        })
    };
    let capable = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & 0b1100_0000 == 0b1100_0000)
    });
    capable && covers("/proc/self/uid_map") && covers("/proc/self/gid_map")
}

/// Whether this process may mount at all (`CAP_SYS_ADMIN`, 21), as root in most containers may not.
fn may_mount() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & (1 << 21) != 0)
    })
}

/// Gives the new namespace its ids (`user_namespaces(7)`).
fn write_maps(pid: i32, ids: Ids, cid: u32) -> Result<(), StartError> {
    let write = |file: &'static str, text: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            StartError::Namespaces {
                doing: "mapping ids into the namespace",
                errno,
                obstacle: diagnosis::obstacle(Some(Step::Ids), errno),
            }
        })
    };
    match ids {
        Ids::Outside(_) => Ok(()),
        Ids::Single => {
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {} 1", nix::unistd::geteuid()))?;
            write("gid_map", format!("0 {} 1", nix::unistd::getegid()))
        }
        Ids::Range => {
            let map = format!("0 {} {RANGE}", range_of(cid));
            write("uid_map", map.clone())?;
            write("gid_map", map)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Stop,
            Token::Ended,
            Token::Calls,
            Token::Host,
            Token::Console,
            Token::Warden,
            Token::Beat,
            Token::Client(0),
            Token::Client(77),
            Token::Flow(0, End::Enclave),
            Token::Flow(0, End::Host),
            Token::Flow(123_456, End::Host),
        ] {
            assert_eq!(Token::of(token.number()), Some(token));
        }
    }

    #[test]
    fn ids_of_enclaves_are_never_those_of_people_or_of_root() {
        for cid in [16, 17, 4095, 4096, u32::MAX] {
            let first = range_of(cid);
            assert!(first >= FIRST_OUTSIDE_ID && first.checked_add(RANGE - 1).is_some());
            assert!(first + (RANGE - 1) < 0x8000_0000);
        }
    }
}
