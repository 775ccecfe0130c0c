//! The QEMU backend: an image in a virtual machine with its own kernel, a virtio NSM that the simulator answers, and real
//! `AF_VSOCK` inside. Stock QEMU 10.1 or later runs it; KVM where that works, emulation where it does not.
//!
//! What it is for: the same as the sandbox, with a second wall: a hostile job faces a kernel of its own, and then QEMU, which
//! has no rights, no disk, no network and nothing else to talk to than its two devices. Whoever controls the host can still
//! read the machine's memory: attestation is by the simulator's root, which only who has named it trusts.
//!
//! [`program`] finds QEMU, [`machine`] says what is in the machine, [`vhost`] serves its devices [`nsm`] and [`vsock`], which
//! read what the guest puts on its [`queue`]s, and [`words`] what it prints. One thread for each enclave starts QEMU, keeps
//! its console, and clears everything away at the end.

#[cfg(test)]
mod driver;
mod machine;
pub mod nsm;
mod program;
pub mod queue;
#[expect(
    unsafe_code,
    reason = "system calls that no safe crate offers; every block says why it is sound"
)]
mod sys;
mod vhost;
pub mod vsock;
mod words;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anchorhold_images::{Architecture, Image, ImageError};
use anchorhold_simulator::Nsm;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use program::{Accelerator, Missing, Program, VARIABLE};

use crate::Isolation;
use crate::sandbox::console::{Console, Heard};
use crate::sandbox::supervisor::{Places, Shared};
use crate::sandbox::sys::process;
use crate::sandbox::{
    Ended, EnforcedBy, How, LaunchReport, Limits, StartError as CommonError, connect, listen,
};
use words::Words;

/// How long the start waits for a sign of the machine, before it leaves that to whoever waits for the heartbeat.
const FIRST_SIGN: Duration = Duration::from_secs(20);
/// How long a kernel may take on KVM until it has found its devices. It takes a fraction of a second.
const KVM_PATIENCE: Duration = Duration::from_secs(8);
/// How long what a dead QEMU has printed may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The most that is kept of QEMU's own messages.
const MOST_COMPLAINTS: usize = 4096;
/// What a kernel needs besides its ramdisks, before they are unpacked, in MiB.
const LEAST_BESIDES: u64 = 24;

/// What is to run in a virtual machine.
pub struct Start<'a> {
    /// The enclave's CID: 16 or more.
    pub cid: u32,
    /// The machine's memory in MiB.
    pub memory_mib: u32,
    /// Its processors.
    pub cpus: u32,
    /// The enclave's folder on the host.
    pub directory: PathBuf,
    /// The image, measured.
    pub image: &'a Image,
    /// What answers as its NSM.
    pub nsm: Nsm,
    /// The QEMU to run it with.
    pub program: Program,
    /// Why KVM is not to be tried, where that is known.
    pub no_kvm: Option<String>,
}

/// Why a virtual machine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no QEMU, or none that will do.
    #[error("the qemu backend: {0}")]
    Missing(#[from] Missing),
    /// The image has no kernel.
    #[error(
        "{} has no kernel, without which it runs in the sandbox only; build it with `anchorhold build --kernel FILE` (images/kernel makes one)",
        path.display()
    )]
    NoKernel {
        /// The image.
        path: PathBuf,
    },
    /// The image is for another processor.
    #[error("{} is for {architecture}, and the qemu backend runs x86_64 images only", path.display())]
    Architecture {
        /// The image.
        path: PathBuf,
        /// What it is for.
        architecture: Architecture,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Kernel and ramdisks are larger than the machine.
    #[error(
        "{memory_mib} MiB of memory are too little for this image, which needs more than {least_mib}; give it more: resources.memory_mib in anchorhold.toml, or --memory"
    )]
    DoesNotFit {
        /// What it was given.
        memory_mib: u32,
        /// What kernel and ramdisks take.
        least_mib: u64,
    },
    /// A device cannot be served.
    #[error("the virtual machine's {what} cannot be set up: {error}")]
    Device {
        /// Which.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
    /// QEMU cannot be executed.
    #[error("{} cannot be started: {error}", program.display())]
    Spawn {
        /// QEMU.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// QEMU gave up before the machine ran.
    #[error("QEMU gave up at once ({status}): {complaints}")]
    GaveUp {
        /// How it ended.
        status: String,
        /// What it said.
        complaints: String,
    },
    /// What every backend may stumble over.
    #[error(transparent)]
    Common(#[from] CommonError),
}

/// A running virtual machine. It is killed, and everything of it is removed but its console, when this is dropped.
pub struct Enclave {
    cid: u32,
    directory: PathBuf,
    report: LaunchReport,
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

/// Starts a virtual machine. Returns when it has given its first sign: its kernel prints, or QEMU has given up.
pub fn start(start: Start<'_>) -> Result<Enclave, StartError> {
    if start.cid < 16 || start.cid == u32::MAX {
        return Err(CommonError::Cid(start.cid).into());
    }
    let image = start.image;
    if !image.has_kernel()? {
        return Err(StartError::NoKernel {
            path: image.path().to_owned(),
        });
    }
    if image.architecture() != Architecture::X86_64 {
        return Err(StartError::Architecture {
            path: image.path().to_owned(),
            architecture: image.architecture(),
        });
    }
    let least_mib = (image.size() >> 20) + LEAST_BESIDES;
    if u64::from(start.memory_mib) < least_mib {
        return Err(StartError::DoesNotFit {
            memory_mib: start.memory_mib,
            least_mib,
        });
    }
    let directory =
        std::path::absolute(&start.directory).map_err(|error| CommonError::Directory {
            path: start.directory.clone(),
            doing: "finding it",
            error,
        })?;
    let loaded = machine::Loaded::copy(image).map_err(|error| StartError::Device {
        what: "memory",
        error,
    })?;
    let shared = Arc::new(Shared::new().map_err(CommonError::Resources)?);
    let order = Order {
        cid: start.cid,
        memory_mib: start.memory_mib,
        cpus: start.cpus.max(1),
        directory: directory.clone(),
        command_line: image.command_line().to_owned(),
        loaded,
        nsm: Arc::new(start.nsm),
        program: start.program,
        no_kvm: start.no_kvm,
    };
    let (sender, started) = channel();
    let theirs = Arc::clone(&shared);
    // The thread that starts QEMU lives as long as QEMU, which dies with it.
    let supervisor = std::thread::Builder::new()
        .name(format!("enclave-{}", start.cid))
        .spawn(move || supervise(&order, &theirs, &sender))
        .map_err(|error| {
            CommonError::Resources(Errno::from_raw(
                error.raw_os_error().unwrap_or(libc::EAGAIN),
            ))
        })?;
    match started.recv() {
        Ok(Ok(report)) => Ok(Enclave {
            cid: start.cid,
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
            Err(CommonError::Vanished.into())
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

    /// The enclave's folder on the host, with `vsock.sock` and `vsock.sock_<port>`.
    pub fn dir(&self) -> &Path {
        &self.directory
    }

    /// Connects to a port of the enclave; see [`connect`].
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        connect(&self.directory, port)
    }

    /// Listens for what the enclave dials; see [`listen`].
    pub fn listen(&self, port: u32) -> io::Result<UnixListener> {
        listen(&self.directory, port)
    }

    /// Waits until the machine has ended. All that it has printed is in the console by then.
    pub fn wait(&mut self) -> io::Result<Ended> {
        Ok(self.shared.wait())
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// Kills it and removes everything of it but its console. Returns when that is done.
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

/// What the supervisor's thread is to start.
struct Order {
    cid: u32,
    memory_mib: u32,
    cpus: u32,
    directory: PathBuf,
    command_line: String,
    loaded: machine::Loaded,
    nsm: Arc<Nsm>,
    program: Program,
    no_kvm: Option<String>,
}

/// The thread's whole life: starts QEMU, says over `started` how that went, keeps the console, clears everything away.
fn supervise(
    order: &Order,
    shared: &Arc<Shared>,
    started: &Sender<Result<LaunchReport, StartError>>,
) {
    // Signals are for the host program's own threads.
    process::block_signals();
    let known = KVM_FAILS.get().cloned().or(order.no_kvm.clone());
    let mut accelerator = Accelerator::find(known);
    loop {
        match Machine::start(order, &accelerator) {
            Ok((mut machine, report)) => {
                if let Accelerator::Kvm(_) = accelerator
                    && let Err(reason) = machine.wake(shared)
                {
                    tracing::info!(cid = order.cid, %reason, "without KVM, then");
                    drop(machine);
                    let _ = KVM_FAILS.set(reason.clone());
                    accelerator = Accelerator::Tcg(reason);
                    continue;
                }
                let ended = machine.serve(shared, report, started);
                // Sockets and devices go before anybody hears that it is over.
                drop(machine);
                shared.end(ended);
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
        break;
    }
    shared.end(Ended {
        how: How::Unknown,
        ran_out_of_memory: false,
    });
}

/// What was found against KVM by this process, so that it is not tried again and again.
static KVM_FAILS: OnceLock<String> = OnceLock::new();

/// A QEMU process; killed and collected when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Machine {
    // Dropped in this order: QEMU is dead before its devices and its folder go.
    process: Process,
    nsm: vhost::Served<nsm::Device>,
    vsock: vhost::Served<vhost::Vsock>,
    _places: Places,
    ended: OwnedFd,
    console: Console,
    words: Words,
    complaints: io::PipeReader,
    complained: Vec<u8>,
    cid: u32,
}

impl Machine {
    fn start(
        order: &Order,
        accelerator: &Accelerator,
    ) -> Result<(Machine, LaunchReport), StartError> {
        let begun = Instant::now();
        let device = |what| move |error: io::Error| StartError::Device { what, error };
        let errno = |what| {
            move |errno: Errno| StartError::Device {
                what,
                error: errno.into(),
            }
        };
        let places = Places::make(&order.directory)?;
        let reception = places.reception().map_err(errno("vsock"))?;
        let folder = places.host.try_clone().map_err(device("vsock"))?;

        let switch = vsock::Switch::new(order.cid, folder, reception).map_err(errno("vsock"))?;
        let (vsock, vsock_socket) = vhost::serve(
            vhost::Vsock {
                cid: order.cid,
                device: vsock::Device::new(switch),
            },
            "vsock",
            places.host.as_fd(),
        )
        .map_err(device("vsock"))?;
        let simulator = Arc::clone(&order.nsm);
        let answer = Box::new(move |request: &[u8]| simulator.handle(request, SystemTime::now()));
        let (nsm, nsm_socket) = vhost::serve(nsm::Device::new(answer), "nsm", places.host.as_fd())
            .map_err(device("NSM"))?;

        let (arguments, descriptors) = machine::arguments(&machine::Parts {
            memory_mib: order.memory_mib,
            cpus: order.cpus,
            command_line: &order.command_line,
            accelerator,
            loaded: &order.loaded,
            nsm: &nsm_socket,
            vsock: &vsock_socket,
        });
        let (printed, print) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(CommonError::Resources)?;
        nix::fcntl::fcntl(&printed, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(CommonError::Resources)?;
        let console_path = order.directory.join("console.log");
        let console =
            Console::new(printed, &console_path).map_err(|error| CommonError::Directory {
                path: console_path,
                doing: "making it",
                error,
            })?;
        let (complaints, complain) = io::pipe().map_err(device("console"))?;
        nix::fcntl::fcntl(
            &complaints,
            nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK),
        )
        .map_err(CommonError::Resources)?;
        let child = sys::spawn(
            &order.program,
            &arguments,
            &descriptors,
            sys::user_for(order.cid),
            sys::Streams {
                stdout: Stdio::from(print),
                stderr: Stdio::from(complain),
            },
        )
        .map_err(|error| StartError::Spawn {
            program: order.program.path.clone(),
            error,
        })?;
        let pid = child.id();
        let process = Process(child);
        let ended = process::pidfd_of(pid).map_err(CommonError::Resources)?;

        let (isolation, missing) = match accelerator {
            Accelerator::Kvm(_) => (Isolation::Kvm, Vec::new()),
            Accelerator::Tcg(reason) => (
                Isolation::Tcg,
                vec![format!("the processor's own virtualisation ({reason})")],
            ),
        };
        let report = LaunchReport {
            isolation,
            limits: Limits {
                memory_mib: order.memory_mib,
                memory: EnforcedBy::VirtualMachine,
                cpus: order.cpus,
                processors: EnforcedBy::VirtualMachine,
                processes: 0,
                process_count: EnforcedBy::VirtualMachine,
            },
            missing,
            start: begun.elapsed(),
            pid,
        };
        let machine = Machine {
            process,
            nsm,
            vsock,
            _places: places,
            ended,
            console,
            words: Words::default(),
            complaints,
            complained: Vec::new(),
            cid: order.cid,
        };
        Ok((machine, report))
    }

    /// Waits until the guest's kernel has found its devices, which says that KVM runs it. The error says why it does not.
    fn wake(&mut self, shared: &Shared) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let mut polled = [
                PollFd::new(shared.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut polled, PollTimeout::from(10u8));
            let said =
                polled.map(|polled| polled.revents().is_some_and(|events| !events.is_empty()));
            self.listen();
            self.hear_complaints();
            match said {
                [true, _] => return Ok(()),
                _ if self.vsock.is_awake() || self.nsm.is_awake() => return Ok(()),
                [_, true] => {
                    return match self.process.0.try_wait() {
                        Ok(Some(status)) if !status.success() => Err(format!(
                            "KVM: QEMU gave up: {}",
                            crate::lifecycle::printable(&self.complained, 200)
                        )),
                        _ => Ok(()),
                    };
                }
                // QEMU stops the machine then, and stays.
                _ if self
                    .complained
                    .windows(18)
                    .any(|said| said == b"KVM internal error") =>
                {
                    return Err("KVM: an internal error stopped the kernel".to_owned());
                }
                _ if begun.elapsed() > KVM_PATIENCE => {
                    return Err(format!(
                        "KVM: the kernel found no device within {} s",
                        KVM_PATIENCE.as_secs()
                    ));
                }
                _ => {}
            }
        }
    }

    /// From the started process to its end.
    fn serve(
        &mut self,
        shared: &Shared,
        report: LaunchReport,
        started: &Sender<Result<LaunchReport, StartError>>,
    ) -> Ended {
        let begun = Instant::now();
        let mut report = Some(report);
        // Nobody may be waiting any more: then the handle is gone as well, and `stop` is set.
        let tell = |result: Option<Result<LaunchReport, StartError>>| {
            if let Some(result) = result {
                let _ = started.send(result);
            }
        };
        let (mut printed, mut console_over, mut complaints_over) = (false, false, false);
        loop {
            if printed || begun.elapsed() > FIRST_SIGN {
                tell(report.take().map(|report| {
                    Ok(LaunchReport {
                        start: report.start + begun.elapsed(),
                        ..report
                    })
                }));
            }
            let wait = if report.is_some() { 1000u16 } else { 60_000 };
            let mut polled = vec![
                PollFd::new(shared.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            ];
            // A pipe that is closed would be heard of again and again.
            if !console_over {
                polled.push(PollFd::new(self.console.pipe().as_fd(), PollFlags::POLLIN));
            }
            if !complaints_over {
                polled.push(PollFd::new(self.complaints.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut polled, PollTimeout::from(wait)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, cid = self.cid, "the supervisor of an enclave could not go on");
                    break;
                }
            }
            let said = |at: usize| {
                polled
                    .get(at)
                    .and_then(PollFd::revents)
                    .is_some_and(|events| !events.is_empty())
            };
            let (stop, ended) = (said(0), said(1));
            drop(polled);
            if !console_over {
                let heard = self.listen();
                printed |= heard == Heard::Something;
                console_over = heard == Heard::End;
            }
            if !complaints_over {
                complaints_over = self.hear_complaints();
            }
            if stop {
                let _ = self.process.0.kill();
            }
            if stop || ended {
                break;
            }
        }
        let status = self.process.0.wait();
        // What it printed before it ended.
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until && self.listen() == Heard::Something {}
        self.hear_complaints();
        for fault in [self.vsock.faults(), self.nsm.faults()]
            .into_iter()
            .flatten()
        {
            tracing::warn!(cid = self.cid, "{fault}");
        }
        let complaints = String::from_utf8_lossy(&self.complained).trim().to_owned();
        let mut how = match &status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(0), _) if self.words.has_panicked => How::KernelPanic,
                (Some(0), _) => self.words.exit_code.map_or(How::PoweredOff, How::Exited),
                (_, Some(signal)) => How::Killed(signal),
                _ => How::Unknown,
            },
            Err(_) => How::Unknown,
        };
        if !complaints.is_empty() {
            tracing::warn!(cid = self.cid, %complaints, "QEMU complained");
        }
        if !printed
            && !matches!(how, How::Killed(libc::SIGKILL))
            && let Some(report) = report.take()
        {
            let _ = report;
            tell(Some(Err(StartError::GaveUp {
                status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
                complaints: crate::lifecycle::printable(complaints.as_bytes(), 1024),
            })));
            how = How::Unknown;
        }
        tell(report.take().map(Ok));
        Ended {
            how,
            ran_out_of_memory: self.words.ran_out_of_memory,
        }
    }

    fn listen(&mut self) -> Heard {
        let heard = self.console.listen();
        self.words.hear(self.console.heard());
        heard
    }

    /// Whether there will be no more of them.
    fn hear_complaints(&mut self) -> bool {
        let mut piece = [0; 1024];
        loop {
            match self.complaints.read(&mut piece) {
                Ok(0) => return true,
                Ok(count) => {
                    let room = MOST_COMPLAINTS.saturating_sub(self.complained.len());
                    self.complained
                        .extend_from_slice(piece.get(..count.min(room)).unwrap_or_default());
                }
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}
