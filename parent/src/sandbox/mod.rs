//! The sandbox backend: an image's first process in namespaces of its own, with `AF_VSOCK` and `/dev/nsm` answered by a
//! supervisor through seccomp user notification. It needs no root, no KVM and no vsock module.
//!
//! What it is for: development, tests and continuous integration. The enclave is kept from the host's files, network and
//! processes, and the host program's user can do with the enclave as he likes: attestation is by the simulator's root, which
//! only who has named it trusts.
//!
//! From the launch to the first instruction of `/init`:
//! 1. [`supervisor`] makes the enclave's folder, its control groups ([`limits`]) and everything the new process will need, and
//!    clones it into new namespaces;
//! 2. the new process ([`namespaces`]) waits for its ids, mounts a root in memory, fills it from the ramdisks ([`root`]), shuts the
//!    host out, drops capabilities, and installs the filter ([`filter`]);
//! 3. meanwhile the supervisor starts the [`warden`] and the simulated NSM; then it gives the word for `/init`.
//!
//! From then on, one event loop answers the enclave's calls ([`notify`], [`vsock`], [`nsm`]), takes connections of the host
//! ([`host`]), carries bytes ([`relay`]) and keeps the [`console`].

pub(crate) mod console;
mod diagnosis;
mod filter;
pub(crate) mod host;
mod image;
mod layout;
pub(crate) mod limits;
mod namespaces;
mod notify;
mod nsm;
pub(crate) mod relay;
mod root;
pub(crate) mod supervisor;
#[expect(
    unsafe_code,
    reason = "system calls that no safe crate offers; every block says why it is sound"
)]
pub(crate) mod sys;
pub(crate) mod vsock;
mod warden;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anchorhold_images::ImageError;
use anchorhold_simulator::Nsm;
use nix::errno::Errno;
use serde::Serialize;

pub use diagnosis::Obstacle;
pub use image::UnpackError;
pub(crate) use image::{entries, manifest};
pub(crate) use layout::program;
pub use limits::{EnforcedBy, Limits, MOST_PROCESSES};
pub use root::{Content, Entry, ZeroByte};

use crate::Isolation;
use supervisor::{Order, Shared};

/// Makes the NSM of a new enclave. It is called while the new process sets itself up, and `/init` waits for it.
pub type MakeNsm = Box<dyn FnOnce() -> Result<Nsm, StartError> + Send>;

/// What is to run in a sandbox, below the level of images.
pub struct Start {
    /// The enclave's CID: 16 or more.
    pub cid: u32,
    /// Memory in MiB, files of the enclave included.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// The enclave's folder on the host.
    pub directory: PathBuf,
    /// How it is confined.
    pub isolation: Isolation,
    /// Whether its network has a loopback interface. It never has another.
    pub loopback: bool,
    /// The root file system.
    pub entries: Vec<Entry>,
    /// What runs in it.
    pub program: Program,
    /// The NSM behind `/dev/nsm`.
    pub nsm: MakeNsm,
}

/// The enclave's first program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it may be; the first that can be executed is.
    pub paths: Vec<CString>,
    /// Its arguments, its own name first.
    pub arguments: Vec<CString>,
    /// Its environment, each as `NAME=value`.
    pub environment: Vec<CString>,
    /// It is the command of an image in AWS's own layout, which the image's init would have started: it may write to its root,
    /// as it may there, and the heartbeat is sent in its place.
    pub is_command: bool,
}

impl Program {
    /// `/init`, as a kernel starts it.
    pub fn init() -> Program {
        Program {
            paths: vec![c"/init".into()],
            arguments: vec![c"/init".into()],
            environment: vec![c"HOME=/".into(), c"TERM=linux".into()],
            is_command: false,
        }
    }
}

/// Why a sandbox could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// CIDs below 16 are the parent's and vsock's own, and all ones means any.
    #[error("an enclave's CID must be 16 or more and below 4294967295, not {0}")]
    Cid(u32),
    /// Something about the enclave's folder.
    #[error("the enclave's folder {path}: {doing} failed: {error}", path = path.display())]
    Directory {
        /// The folder, or what is in it.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Another enclave runs in that folder.
    #[error("another enclave runs in {path}; give this one a folder of its own", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The kernel refuses what namespaces take.
    #[error(
        "the sandbox cannot be set up: {doing} failed ({errno}): {obstacle}.\nAs root inside a container, `--isolation reduced` runs \
         without namespaces, with chroot, Landlock, seccomp and a changed user alone"
    )]
    Namespaces {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        errno: Errno,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// Reduced isolation changes root and user, which only root may.
    #[error(
        "reduced isolation must be started as root (inside a container); as another user, use namespaces"
    )]
    ReducedNeedsRoot,
    /// Without a network namespace, the loopback interface is the host's.
    #[error(
        "the image's job listens on a loopback port (http.port in anchorhold.toml), which under reduced isolation would be the host's own: use namespaces, or leave the port out and have the job listen on its Unix socket"
    )]
    LoopbackIsTheHosts,
    /// /proc is not mounted.
    #[error("/proc is not mounted, without which the enclave's calls cannot be answered")]
    NoProc,
    /// The kernel's structures are larger than this program knows.
    #[error(
        "this kernel lacks seccomp user notification (Linux 5.14 or later, CONFIG_SECCOMP_FILTER), or has a newer form of it than this program knows"
    )]
    Seccomp,
    /// The image needs more memory.
    #[error(
        "the image does not fit into the enclave's memory (at {path}); give it more: resources.memory_mib in anchorhold.toml, or --memory"
    )]
    DoesNotFit {
        /// The file that did not fit.
        path: String,
    },
    /// The kernel ended the new process because its memory was used up.
    #[error(
        "{memory_mib} MiB of memory are too little to set the enclave up; give it more: resources.memory_mib in anchorhold.toml, or --memory"
    )]
    TooLittleMemory {
        /// What it was given.
        memory_mib: u32,
    },
    /// A file of the image could not be written.
    #[error("unpacking {path} of the image failed: {errno}")]
    Unpack {
        /// The file.
        path: String,
        /// Why.
        errno: Errno,
    },
    /// `/init` could not be executed.
    #[error("the image's /init cannot be executed: {errno}{}", init_hint(*errno))]
    Init {
        /// Why.
        errno: Errno,
    },
    /// The command of an image in AWS's own layout could not be executed.
    #[error("the image's command {name:?} (/cmd, in /rootfs) cannot be executed: {errno}{}", init_hint(*errno))]
    Command {
        /// Its first word.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// The image is not what it says.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// The NSM could not be made.
    #[error("the simulated NSM cannot be started: {0}")]
    Nsm(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This process lacks something.
    #[error("starting an enclave needs resources that this process does not get: {0}")]
    Resources(Errno),
    /// The new process ended without a word.
    #[error("the new process ended before it was set up; perhaps the system ran out of memory")]
    Vanished,
    /// The new process was not ready in a minute.
    #[error("the new process was not set up within a minute")]
    TooSlow,
}

fn init_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => {
            " (there is none, or its interpreter is missing: it has to be a static program, or bring its libraries)"
        }
        Errno::EACCES => " (it is not executable)",
        Errno::ENOEXEC => " (it is not a program for this machine)",
        _ => "",
    }
}

/// What a start came to.
#[derive(Debug, Clone, Serialize)]
pub struct LaunchReport {
    /// How the enclave is confined.
    pub isolation: Isolation,
    /// What it may use, and what sees to it.
    pub limits: Limits,
    /// What a full sandbox has and this one lacks, one sentence each. Empty with namespaces.
    pub missing: Vec<String>,
    /// From the launch to the first instruction of `/init`.
    pub start: Duration,
    /// The first process, as the host numbers it.
    pub pid: u32,
}

impl fmt::Display for LaunchReport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}; {}", self.isolation, self.limits)?;
        for missing in &self.missing {
            write!(to, "\n  missing: {missing}")?;
        }
        Ok(())
    }
}

/// How an enclave ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// What became of its first process.
    pub how: How,
    /// Whether the kernel ended one of its processes because the enclave's memory was used up.
    pub ran_out_of_memory: bool,
}

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It exited with this code (in a virtual machine: it said so before it ended the machine).
    Exited(i32),
    /// The enclave's own kernel gave up; why is on its console.
    KernelPanic,
    /// The virtual machine ended itself and left no exit code.
    PoweredOff,
    /// This signal ended it (9 where the handle killed it).
    Killed(i32),
    /// It ended, but the host program has collected its status elsewhere.
    Unknown,
}

impl fmt::Display for Ended {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Exited(code) => write!(to, "exited with code {code}")?,
            How::KernelPanic => write!(to, "its kernel panicked")?,
            How::PoweredOff => write!(to, "the virtual machine ended by itself")?,
            How::Killed(signal) => write!(to, "ended by signal {signal}")?,
            How::Unknown => write!(to, "ended, its status unknown")?,
        }
        if self.ran_out_of_memory {
            write!(to, " (out of memory)")?;
        }
        Ok(())
    }
}

/// A running enclave. It is killed, and everything of it is removed but its console, when this is dropped.
pub struct Enclave {
    cid: u32,
    directory: PathBuf,
    console: PathBuf,
    report: LaunchReport,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

/// Starts an enclave. Returns when its `/init` runs.
pub fn start(start: Start) -> Result<Enclave, StartError> {
    if start.cid < 16 || start.cid == u32::MAX {
        return Err(StartError::Cid(start.cid));
    }
    let directory =
        std::path::absolute(&start.directory).map_err(|error| StartError::Directory {
            path: start.directory.clone(),
            doing: "finding it",
            error,
        })?;
    let shared = Arc::new(Shared::new().map_err(StartError::Resources)?);
    let (sender, started) = std::sync::mpsc::channel();
    let order = Order {
        cid: start.cid,
        memory_mib: start.memory_mib.max(1),
        cpus: start.cpus.max(1),
        directory: directory.clone(),
        isolation: start.isolation,
        loopback: start.loopback,
        entries: start.entries,
        program: start.program,
        nsm: start.nsm,
    };
    let theirs = Arc::clone(&shared);
    // The thread that clones the enclave lives as long as the enclave, which dies with it.
    let supervisor = std::thread::Builder::new()
        .name(format!("enclave-{}", start.cid))
        .spawn(move || supervisor::supervise(order, &theirs, &sender))
        .map_err(|error| {
            StartError::Resources(Errno::from_raw(
                error.raw_os_error().unwrap_or(libc::EAGAIN),
            ))
        })?;
    match started.recv() {
        Ok(Ok(report)) => Ok(Enclave {
            cid: start.cid,
            console: directory.join("console.log"),
            directory,
            report,
            shared,
            supervisor: Some(supervisor),
        }),
        Ok(Err(error)) => {
            let _ = supervisor.join();
            Err(error)
        }
        Err(_) => {
            let _ = supervisor.join();
            Err(StartError::Vanished)
        }
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

    /// What the enclave may use, and what sees to it.
    pub fn limits(&self) -> &Limits {
        &self.report.limits
    }

    /// The enclave's folder on the host, with `vsock.sock` and `vsock.sock_<port>`.
    pub fn dir(&self) -> &Path {
        &self.directory
    }

    /// The file with what the enclave has printed so far, at most 16 MiB. It stays when the enclave has ended.
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// Connects to a port of the enclave. Waits until the enclave's port has the connection (not until the enclave has accepted
    /// it). `ConnectionRefused`: nobody listens there.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        connect(&self.directory, port)
    }

    /// Listens for what the enclave dials on the parent (CID 3, and CID 2) at this port: at `<dir>/vsock.sock_<port>`, for this
    /// user only. A file left over there is replaced, a living listener is not.
    pub fn listen(&self, port: u32) -> io::Result<UnixListener> {
        listen(&self.directory, port)
    }

    /// Waits until the enclave has ended. All that it has printed is in the console by then.
    pub fn wait(&mut self) -> io::Result<Ended> {
        Ok(self.shared.wait())
    }

    /// How the enclave has ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// Kills the enclave and removes everything of it but its console. Returns when that is done.
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

impl fmt::Debug for Enclave {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Enclave")
            .field("cid", &self.cid)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Starts a sandbox with a program that ends at once, to see whether that works here.
pub fn try_out() -> Result<LaunchReport, StartError> {
    let nsm_error =
        |error| StartError::Nsm(Box::new(error) as Box<dyn std::error::Error + Send + Sync>);
    let folder = tempfile::tempdir().map_err(|error| StartError::Directory {
        path: std::env::temp_dir(),
        doing: "making a folder in it",
        error,
    })?;
    let init = Entry::new(b"/init", 0o755, 0, 0, Content::File(program_that_ends()))
        .expect("the path holds no zero byte");
    let mut enclave = start(Start {
        cid: 16,
        memory_mib: 32,
        cpus: 1,
        directory: folder.path().join("enclave"),
        isolation: Isolation::Namespaces,
        loopback: false,
        entries: vec![init],
        program: Program::init(),
        nsm: Box::new(move || {
            let root = anchorhold_simulator::DevelopmentRoot::generate()
                .map_err(|error| StartError::Nsm(error.into()))?;
            Nsm::new(
                &root,
                anchorhold_simulator::NsmConfig::default(),
                std::time::SystemTime::now(),
            )
            .map_err(nsm_error)
        }),
    })?;
    let report = enclave.report().clone();
    // It cannot fail: the supervisor's thread says how it ended.
    let _ = enclave.wait();
    Ok(report)
}

/// The smallest static program: an ELF header, one segment, and `exit(0)`.
fn program_that_ends() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    const CODE: (u16, &[u8]) = (
        62,
        // mov eax, 60; xor edi, edi; syscall
        &[0xB8, 60, 0, 0, 0, 0x31, 0xFF, 0x0F, 0x05],
    );
    #[cfg(target_arch = "aarch64")]
    const CODE: (u16, &[u8]) = (
        183,
        // mov x8, #93; mov x0, #0; svc #0
        &[0xA8, 0x0B, 0x80, 0xD2, 0, 0, 0x80, 0xD2, 1, 0, 0, 0xD4],
    );
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let (machine, code) = CODE;
    let length = HEADERS + code.len() as u64;
    let mut elf = b"\x7FELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    // Executable, for this machine, version 1.
    for half in [2, machine] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    // Entry; program headers at 64; no sections.
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One segment to be loaded, readable and executable: the whole file.
    for word in [1u32, 5] {
        elf.extend(word.to_le_bytes());
    }
    for word in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// Connects to a port of the enclave whose folder this is, from whatever process of the same user.
pub fn connect(directory: &Path, port: u32) -> io::Result<UnixStream> {
    use std::io::{Read, Write};
    let folder = open_folder(directory)?;
    let socket = sys::socket::new(sys::socket::Kind::Stream, false)?;
    vsock::address_in(folder.as_fd(), "vsock.sock")?.connect(socket.as_fd())?;
    let mut stream = UnixStream::from(socket);
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let refused = || {
        io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("nobody in the enclave listens on port {port}"),
        )
    };
    // One byte at a time: what follows the line is the enclave's.
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Err(refused()),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() < 32 => line.push(byte[0]),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(refused()),
            Err(error) => return Err(error),
        }
    }
    if line.starts_with(b"OK ") {
        Ok(stream)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Listens for what the enclave whose folder this is dials on the parent. The folder may be made before the enclave is.
pub fn listen(directory: &Path, port: u32) -> io::Result<UnixListener> {
    let folder = open_folder(directory)?;
    let name = format!("vsock.sock_{port}");
    let address = vsock::address_in(folder.as_fd(), &name)?;
    let probe = sys::socket::new(sys::socket::Kind::Stream, true)?;
    match address.connect(probe.as_fd()) {
        Ok(()) | Err(Errno::EAGAIN) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => {
            let _ = std::fs::remove_file(directory.join(&name));
        }
    }
    let socket = sys::socket::new(sys::socket::Kind::Stream, false)?;
    // The file gets its mode from the socket at the moment of binding: it is never open to others.
    nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    address.bind(socket.as_fd())?;
    sys::socket::listen(socket.as_fd(), 4096)?;
    Ok(UnixListener::from(socket))
}

fn open_folder(directory: &Path) -> io::Result<OwnedFd> {
    use nix::fcntl::OFlag;
    Ok(nix::fcntl::open(
        directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?)
}

use std::os::fd::AsFd;

/// What reduced isolation lacks, given Landlock's version (0: none).
fn missing_in_reduced(landlock: u32) -> Vec<String> {
    let mut missing = vec![
        "no pid namespace: the enclave's processes are visible on the host, and it cannot see its own in /proc, which it does not have".to_owned(),
        "no mount namespace: the root is changed by chroot, and files of the image are owned by the host's ids".to_owned(),
        "no network namespace: every address family but Unix and vsock is refused by the filter alone".to_owned(),
        "no user namespace: the runtime and its job share one user, without privileges".to_owned(),
        "no IPC and UTS namespaces: System V and POSIX message queues and the host's name are shared".to_owned(),
    ];
    match landlock {
        0 => missing.push("no Landlock in this kernel: files are kept away by chroot alone".to_owned()),
        1..=5 => missing.push(
            "this kernel's Landlock does not scope abstract Unix sockets: the enclave may make Unix socket pairs only".to_owned(),
        ),
        _ => {}
    }
    if landlock == 0 {
        missing.push("the enclave may make Unix socket pairs only".to_owned());
    }
    missing
}
