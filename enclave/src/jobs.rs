//! Jobs' processes: their streams, their end, and the end of everything that they started.
//!
//! A job must never outlive its call, or whoever keeps it: dropping its [`Guard`] ends its whole process group.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::console;
use crate::isolation::Confinement;
use crate::reaper::{Exit, Reaper};
use crate::redaction::Redactor;
use crate::secrets::Secrets;
use crate::sys::{self, SpawnError};

/// Room in each pipe, in bytes; the kernel's default is 64 KiB, and its limit for the unprivileged 1 MiB.
const PIPE_BYTES: i32 = 256 * 1024;
/// Longest line of a job's standard error that is passed on.
const MAX_STDERR_LINE: usize = 2048;
/// How long a line that ends in a digit waits for the next one.
const LONGEST_HOLD: Duration = Duration::from_secs(1);
/// Most that one job may write to the console at once, and for each second of its life after that.
const MAX_STDERR_BYTES: usize = 256 * 1024;
const STDERR_BYTES_A_SECOND: usize = 4 * 1024;

/// What becomes of a job's standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// Nobody reads it.
    Drop,
    /// It goes to the console, line by line, without the personal data that is found in it.
    Forward,
    /// It goes to the console, line by line, as it is.
    ForwardAll,
}

/// Starts jobs.
pub struct Launcher {
    confinement: Confinement,
    reaper: Arc<Reaper>,
    stderr: Stderr,
    forwarding: Forwarding,
    scratch: Option<Scratch>,
    secrets: OnceLock<Arc<Secrets>>,
}

impl Launcher {
    /// A launcher; `scratch`, where given, is emptied whenever no job is left running.
    pub fn new(
        confinement: Confinement,
        reaper: Arc<Reaper>,
        stderr: Stderr,
        scratch: Option<PathBuf>,
    ) -> Launcher {
        Launcher {
            confinement,
            reaper,
            stderr,
            forwarding: match stderr {
                Stderr::ForwardAll => Forwarding::AsItIs,
                Stderr::Forward | Stderr::Drop => Forwarding::Redacted,
            },
            scratch: scratch.map(Scratch::new),
            secrets: OnceLock::new(),
        }
    }

    /// The same, where what is passed on at all is passed on with the personal data in it.
    #[must_use]
    pub fn keeping_personal_data(mut self) -> Launcher {
        self.forwarding = Forwarding::AsItIs;
        self
    }

    /// Gives each job that starts from now on the secrets that are variables, as they are then. Once; later ones are
    /// ignored.
    pub fn give(&self, secrets: Arc<Secrets>) {
        let _ = self.secrets.set(secrets);
    }

    /// Who knows the jobs' processes.
    pub fn reaper(&self) -> &Arc<Reaper> {
        &self.reaper
    }

    /// The walls that jobs get.
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Starts a job for one call. Blocks a worker thread for about a millisecond.
    ///
    /// # Errors
    /// See [`SpawnError`]; nothing of the job is left then.
    pub async fn start(self: &Arc<Self>) -> Result<Running, SpawnError> {
        let (stdin_read, stdin_write) = pipe_pair()?;
        let (stdout_read, stdout_write) = pipe_pair()?;
        let (stderr_read, stderr_write) = match self.stderr {
            Stderr::Drop => (None, null()?),
            Stderr::Forward | Stderr::ForwardAll => {
                let (read, write) = pipe_pair()?;
                (Some(read), write)
            }
        };
        let lease = self.scratch.as_ref().map(Scratch::lease);
        let launcher = Arc::clone(self);
        let (pid, exit) = tokio::task::spawn_blocking(move || {
            let streams = [
                stdin_read.as_fd(),
                stdout_write.as_fd(),
                stderr_write.as_fd(),
            ];
            launcher.spawn(streams)
        })
        .await
        .map_err(|_| SpawnError::Fork(io::Error::other("the start was given up")))??;
        if let Some(read) = stderr_read {
            let read = pipe::Receiver::from_owned_fd(read).map_err(SpawnError::Pipe)?;
            tokio::spawn(forward(read, self.forwarding, Some(Allowance::new())));
        }
        Ok(Running {
            guard: Guard {
                pid,
                reaper: Arc::clone(&self.reaper),
                _lease: lease,
            },
            stdin: pipe::Sender::from_owned_fd(stdin_write).map_err(SpawnError::Pipe)?,
            stdout: pipe::Receiver::from_owned_fd(stdout_read).map_err(SpawnError::Pipe)?,
            exit,
        })
    }

    /// Starts a job of contract `http`: no input, and what it writes, to its standard output too, goes where standard
    /// error goes.
    ///
    /// # Errors
    /// See [`SpawnError`]; nothing of the job is left then.
    pub async fn start_service(self: &Arc<Self>) -> Result<Kept, SpawnError> {
        let nothing = null()?;
        let (read, write) = match self.stderr {
            Stderr::Drop => (None, null()?),
            Stderr::Forward | Stderr::ForwardAll => {
                let (read, write) = pipe_pair()?;
                (Some(read), write)
            }
        };
        let lease = self.scratch.as_ref().map(Scratch::lease);
        let launcher = Arc::clone(self);
        let (pid, exit) = tokio::task::spawn_blocking(move || {
            launcher.spawn([nothing.as_fd(), write.as_fd(), write.as_fd()])
        })
        .await
        .map_err(|_| SpawnError::Fork(io::Error::other("the start was given up")))??;
        if let Some(read) = read {
            let read = pipe::Receiver::from_owned_fd(read).map_err(SpawnError::Pipe)?;
            tokio::spawn(forward(read, self.forwarding, Some(Allowance::new())));
        }
        Ok(Kept {
            exit,
            guard: Guard {
                pid,
                reaper: Arc::clone(&self.reaper),
                _lease: lease,
            },
        })
    }

    /// Starts the one job of contract `once`: no input; what it writes to its standard output goes to the console line by
    /// line, and its standard error with it where that is passed on.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub async fn start_once(self: &Arc<Self>) -> Result<Once, SpawnError> {
        let nothing = null()?;
        // One pipe for both, so that a number that is begun in one and ended in the other is seen.
        let (read, write) = pipe_pair()?;
        let stderr = match self.stderr {
            Stderr::Drop => null()?,
            Stderr::Forward | Stderr::ForwardAll => write.try_clone().map_err(SpawnError::Pipe)?,
        };
        let launcher = Arc::clone(self);
        let (_, exit) = tokio::task::spawn_blocking(move || {
            launcher.spawn([nothing.as_fd(), write.as_fd(), stderr.as_fd()])
        })
        .await
        .map_err(|_| SpawnError::Fork(io::Error::other("the start was given up")))??;
        let read = pipe::Receiver::from_owned_fd(read).map_err(SpawnError::Pipe)?;
        // Its output is all that there is of it: none of it is dropped.
        let forwarded = tokio::spawn(forward(read, self.forwarding, None));
        Ok(Once { exit, forwarded })
    }

    fn spawn(
        &self,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<(Pid, oneshot::Receiver<Exit>), SpawnError> {
        let mut exit = None;
        let variables = self
            .secrets
            .get()
            .map(|secrets| secrets.variables())
            .unwrap_or_default();
        let pid = sys::spawn(self.confinement.plan(), &variables, streams, |fork| {
            let (pid, receiver) = self.reaper.register(fork)?;
            exit = Some(receiver);
            Ok(pid)
        })?;
        Ok((pid, exit.expect("a child that was made was registered")))
    }
}

/// A job that runs once, as long as the enclave.
pub struct Once {
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<Exit>,
    /// Ends once all that it wrote was passed on.
    pub forwarded: tokio::task::JoinHandle<()>,
}

/// A job that runs. Dropped, it is ended with all that it started.
pub struct Running {
    /// The job's standard input.
    pub stdin: pipe::Sender,
    /// The job's standard output.
    pub stdout: pipe::Receiver,
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<Exit>,
    /// Keeps the job alive.
    pub guard: Guard,
}

/// A job that serves. Dropped, it is ended with all that it started.
pub struct Kept {
    /// How it ended, once it has.
    pub exit: oneshot::Receiver<Exit>,
    /// Keeps the job alive.
    pub guard: Guard,
}

/// Ends the job when dropped.
pub struct Guard {
    pid: Pid,
    reaper: Arc<Reaper>,
    _lease: Option<Lease>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.reaper.kill(self.pid);
    }
}

fn pipe_pair() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    let (read, write) = io::pipe().map_err(SpawnError::Pipe)?;
    // Refused where the user's pipes hold too much already; the default size then does, more slowly.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((read.into(), write.into()))
}

fn null() -> Result<OwnedFd, SpawnError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .map_err(SpawnError::Pipe)
}

/// What becomes of lines on their way to the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forwarding {
    Redacted,
    AsItIs,
}

/// Passes what a job writes to the console, bounded in length and, where there is an allowance, in amount, to its end.
async fn forward(mut text: pipe::Receiver, how: Forwarding, allowance: Option<Allowance>) {
    let mut buffer = vec![0; 4096];
    let mut passing = Passing {
        line: Line::default(),
        allowance,
        redactor: (how == Forwarding::Redacted).then(Redactor::default),
    };
    loop {
        let read = text.read(&mut buffer);
        let read = if passing.is_holding() {
            match tokio::time::timeout(LONGEST_HOLD, read).await {
                Ok(read) => read,
                Err(_) => {
                    passing.rest();
                    continue;
                }
            }
        } else {
            read.await
        };
        let Ok(count @ 1..) = read else { break };
        for &byte in &buffer[..count] {
            if byte == b'\n' {
                passing.pass();
            } else {
                passing.line.push(byte);
            }
        }
    }
    if !passing.line.bytes.is_empty() {
        passing.pass();
    }
    passing.rest();
}

/// A line that is being written.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    /// It is longer than what is kept of it.
    cut: bool,
}

impl Line {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() < MAX_STDERR_LINE {
            self.bytes.push(byte);
        } else {
            self.cut = true;
        }
    }
}

/// Lines on their way to the console.
struct Passing {
    line: Line,
    allowance: Option<Allowance>,
    redactor: Option<Redactor>,
}

impl Passing {
    /// The line is whole.
    fn pass(&mut self) {
        let bytes = self.line.bytes.len() + 1;
        if self.allowance.as_mut().is_none_or(|left| left.take(bytes)) {
            let text = String::from_utf8_lossy(&self.line.bytes);
            match &mut self.redactor {
                Some(redactor) => {
                    for line in redactor.line(&text, self.line.cut) {
                        console::job_line(&line);
                    }
                }
                None => console::job_line(&text),
            }
        }
        self.line.bytes.clear();
        self.line.cut = false;
    }

    fn is_holding(&self) -> bool {
        self.redactor.as_ref().is_some_and(Redactor::is_holding)
    }

    fn rest(&mut self) {
        for line in self.redactor.iter_mut().flat_map(Redactor::rest) {
            console::job_line(&line);
        }
    }
}

/// What a job may still write to the console.
struct Allowance {
    left: usize,
    since: Instant,
    told: bool,
}

impl Allowance {
    fn new() -> Allowance {
        Allowance {
            left: MAX_STDERR_BYTES,
            since: Instant::now(),
            told: false,
        }
    }

    fn take(&mut self, bytes: usize) -> bool {
        let seconds = usize::try_from(self.since.elapsed().as_secs()).unwrap_or(usize::MAX);
        if seconds > 0 {
            let more = seconds.saturating_mul(STDERR_BYTES_A_SECOND);
            self.left = self.left.saturating_add(more).min(MAX_STDERR_BYTES);
            self.since = Instant::now();
        }
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                self.told = false;
                true
            }
            None => {
                if !self.told {
                    crate::log!(
                        "the job writes more to its standard error than is passed on; some of it is dropped"
                    );
                    self.told = true;
                }
                false
            }
        }
    }
}

/// The folder that jobs may write to. What one call left there is gone before another begins, unless they overlap.
struct Scratch {
    shared: Arc<(PathBuf, Mutex<usize>)>,
}

impl Scratch {
    fn new(folder: PathBuf) -> Scratch {
        Scratch {
            shared: Arc::new((folder, Mutex::new(0))),
        }
    }

    fn lease(&self) -> Lease {
        *self.shared.1.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Lease(Arc::clone(&self.shared))
    }
}

struct Lease(Arc<(PathBuf, Mutex<usize>)>);

impl Drop for Lease {
    fn drop(&mut self) {
        let (folder, running) = &*self.0;
        // Held while emptying, so that no job starts in between.
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        *running -= 1;
        if *running == 0 {
            empty(folder);
        }
    }
}

/// Removes what is in a folder. Links are removed, not followed. What cannot be removed stays: it is the job's own.
fn empty(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let _ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(path),
            _ => std::fs::remove_file(path),
        };
    }
}
