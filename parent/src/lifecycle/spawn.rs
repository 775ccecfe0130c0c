//! Starts a supervisor in a session of its own and waits until its enclave serves.
//!
//! One line of JSON on a pipe brings the news, so that nothing is polled. What the line says comes from the supervisor,
//! which runs as the same user from the same program.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::console::printable;
use super::state::State;
use super::supervise::{SuperviseOptions, quoted};
use crate::window::{CredentialsSource, SecretSource};

/// How much longer than the enclave its supervisor may take.
const MARGIN: Duration = Duration::from_secs(15);

/// The most bytes of a report.
const LARGEST_REPORT: usize = 1024 * 1024;

/// What a supervisor says, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Report {
    Serving {
        state: Box<State>,
    },
    Ended {
        code: Option<i32>,
        reason: String,
        console: Vec<String>,
        state: Box<State>,
    },
    Failed {
        message: String,
    },
}

/// The program that becomes the supervisor. It must call [`supervisor_process`](super::supervisor_process).
#[derive(Debug, Clone)]
pub struct SupervisorProgram {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that are set for it beside the caller's own, such as `AWS_ACCESS_KEY_ID`.
    pub environment: Vec<(OsString, OsString)>,
}

impl SupervisorProgram {
    /// The running program itself, with the argument `supervise-enclave`.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            arguments: vec!["supervise-enclave".into()],
            // One arena for all of its few threads: each further one is memory that every enclave costs.
            environment: vec![("MALLOC_ARENA_MAX".into(), "1".into())],
        })
    }
}

/// An enclave that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Its state: name, folder, CID, measurements.
    pub state: State,
}

/// Why no enclave serves.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A path cannot be made absolute or passed on.
    #[error("{} cannot be passed to the supervisor: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor cannot be started.
    #[error("the supervisor {} cannot be started: {source}", program.display())]
    Supervisor {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The supervisor said why there is no enclave.
    #[error("{0}")]
    Failed(String),
    /// The enclave ended before it served. A job that runs once may do so, with code 0.
    #[error("the enclave ended before it served ({reason}){}", quoted(console))]
    Ended {
        /// Its exit code; `None` where it was killed.
        code: Option<i32>,
        /// How it ended.
        reason: String,
        /// The last lines of its console.
        console: Vec<String>,
        /// Its last state.
        state: Box<State>,
    },
    /// The supervisor died without a word.
    #[error("the supervisor ended without a report ({status}){}", said(stderr))]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote on stderr.
        stderr: String,
    },
    /// The supervisor reported nothing in time and was killed.
    #[error("the supervisor reported nothing within {} s and was killed", .0.as_secs())]
    Silent(Duration),
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

/// What an init system tells a daemon in its environment; none of it is for the daemon's supervisors.
const FOR_DAEMONS: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// Starts an enclave under a supervisor of its own, and returns once it serves. The enclave outlives this process. Blocks.
pub fn spawn(
    options: &SuperviseOptions,
    supervisor: &SupervisorProgram,
) -> Result<Serving, RunError> {
    let (serving, child) = spawn_child(options, supervisor)?;
    reap(child);
    Ok(serving)
}

/// The same, for a caller that collects the dead supervisor itself.
pub(crate) fn spawn_child(
    options: &SuperviseOptions,
    supervisor: &SupervisorProgram,
) -> Result<(Serving, Child), RunError> {
    let mut options = options.clone();
    make_absolute(&mut options)?;
    let order = serde_json::to_vec(&options).map_err(|error| RunError::Path {
        path: options.image.clone(),
        source: error.into(),
    })?;
    let cannot_start = |source| RunError::Supervisor {
        program: supervisor.program.clone(),
        source,
    };
    // What it says before it has a log of its own.
    let stderr = memfd_create(c"supervisor", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| cannot_start(errno.into()))?;
    let mut stderr = File::from(stderr);
    let mut command = Command::new(&supervisor.program);
    for name in FOR_DAEMONS {
        command.env_remove(name);
    }
    let mut child = command
        .args(&supervisor.arguments)
        .envs(supervisor.environment.iter().cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr.try_clone().map_err(cannot_start)?)
        .spawn()
        .map_err(cannot_start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A supervisor that does not take it dies, and is reported as dead below.
        let _ = stdin.write_all(&order);
    }
    let mut pipe = child.stdout.take().expect("stdout was asked for as a pipe");
    let limit = Duration::from_millis(options.start_limit_ms).saturating_add(MARGIN);
    let heard = listen(&mut pipe, limit);
    match heard {
        Ok(Some(report)) => match judge(report) {
            Ok(serving) => Ok((serving, child)),
            Err(error) => {
                let _ = child.wait();
                Err(error)
            }
        },
        Ok(None) => {
            let status = child.wait().map_err(cannot_start)?;
            Err(RunError::Died {
                status,
                stderr: last_words(&mut stderr),
            })
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(if error.kind() == io::ErrorKind::TimedOut {
                RunError::Silent(limit)
            } else {
                cannot_start(error)
            })
        }
    }
}

fn judge(report: Report) -> Result<Serving, RunError> {
    match report {
        Report::Serving { state } => Ok(Serving { state: *state }),
        Report::Ended {
            code,
            reason,
            console,
            state,
        } => Err(RunError::Ended {
            code,
            reason,
            console,
            state,
        }),
        Report::Failed { message } => Err(RunError::Failed(message)),
    }
}

/// Collects the supervisor when it ends, so that a long-lived caller keeps no dead process.
fn reap(mut child: Child) {
    // Without the thread the dead process stays until this one ends, and harms nothing.
    let _ = std::thread::Builder::new()
        .name("supervisor-wait".into())
        .spawn(move || child.wait());
}

/// The supervisor leaves the current folder.
fn make_absolute(options: &mut SuperviseOptions) -> Result<(), RunError> {
    fn absolute(path: &mut PathBuf) -> Result<(), RunError> {
        *path = std::path::absolute(&path).map_err(|source| RunError::Path {
            path: path.clone(),
            source,
        })?;
        Ok(())
    }
    absolute(&mut options.image)?;
    if let Some(record) = &mut options.record {
        absolute(record)?;
    }
    if let CredentialsSource::File(path) = &mut options.credentials {
        absolute(path)?;
    }
    for source in options.secrets.values_mut() {
        if let SecretSource::Path(path) = source {
            absolute(path)?;
        }
    }
    Ok(())
}

/// Reads the one line. `None` where the pipe closed without it.
fn listen(pipe: &mut (impl Read + AsFd), limit: Duration) -> io::Result<Option<Report>> {
    let deadline = Instant::now() + limit;
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let count = pipe.read(&mut piece)?;
        line.extend_from_slice(&piece[..count]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            return serde_json::from_slice(&line[..end])
                .map(Some)
                .map_err(io::Error::from);
        }
        if count == 0 {
            return Ok(None);
        }
        if line.len() > LARGEST_REPORT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its report does not end",
            ));
        }
    }
}

/// The last 2 KiB that the supervisor wrote before it had a log of its own.
fn last_words(stderr: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = stderr
        .metadata()
        .and_then(|found| stderr.seek(SeekFrom::Start(found.len().saturating_sub(2048))))
        .and_then(|_| stderr.take(2048).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    printable(&bytes, 2048).trim().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::super::home::Home;
    use super::super::state::tests::sample;
    use super::*;
    use std::path::Path;

    fn shell(script: &str) -> SupervisorProgram {
        SupervisorProgram {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GIVEN".into(), "yes".into())],
        }
    }

    fn options(dir: &Path) -> SuperviseOptions {
        SuperviseOptions::new(Home::at(dir).unwrap(), "image.eif")
    }

    fn line(dir: &Path, report: &Report) -> String {
        let path = dir.join("line");
        std::fs::write(&path, serde_json::to_string(report).unwrap() + "\n").unwrap();
        path.display().to_string()
    }

    #[test]
    fn the_supervisor_gets_absolute_paths_and_its_report_is_returned() {
        let dir = tempfile::tempdir().unwrap();
        let state = sample(&dir.path().join("cards"));
        let line = line(
            dir.path(),
            &Report::Serving {
                state: Box::new(state.clone()),
            },
        );
        let order = dir.path().join("order");
        let script = format!(
            "cat > {}; test $GIVEN = yes && cat {line} && exec sleep 3",
            order.display()
        );
        let serving = spawn(&options(dir.path()), &shell(&script)).unwrap();
        assert_eq!(serving.state, state);
        let order: SuperviseOptions =
            serde_json::from_slice(&std::fs::read(order).unwrap()).unwrap();
        assert!(order.image.is_absolute());
    }

    #[test]
    fn a_supervisor_that_dies_is_reported_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let error = spawn(
            &options(dir.path()),
            &shell("echo 'it \u{1b}[31mbroke' >&2; exit 3"),
        )
        .unwrap_err();
        assert!(matches!(error, RunError::Died { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("[31mbroke"),
            "{error}"
        );
        assert!(!error.contains('\u{1b}'));
        // Dead before it took its order, which is larger than a pipe.
        let mut large = options(dir.path());
        large
            .secrets
            .insert("a".into(), SecretSource::Bytes(vec![200; 300_000]));
        let error = spawn(&large, &shell("exit 4")).unwrap_err();
        assert!(matches!(error, RunError::Died { .. }), "{error}");
    }

    #[test]
    fn failure_and_early_end_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let failed = line(
            dir.path(),
            &Report::Failed {
                message: "no such image".into(),
            },
        );
        let error = spawn(&options(dir.path()), &shell(&format!("cat {failed}"))).unwrap_err();
        assert_eq!(error.to_string(), "no such image");
        let ended = line(
            dir.path(),
            &Report::Ended {
                code: Some(7),
                reason: "exit code 7".into(),
                console: vec!["it hurt".into()],
                state: Box::new(sample(dir.path())),
            },
        );
        let error = spawn(&options(dir.path()), &shell(&format!("cat {ended}"))).unwrap_err();
        assert!(matches!(error, RunError::Ended { code: Some(7), .. }));
        assert!(error.to_string().contains("it hurt"), "{error}");
    }

    #[test]
    fn a_silent_supervisor_is_killed() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut reader = File::from(std::os::fd::OwnedFd::from(reader));
        let error = listen(&mut reader, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = SupervisorProgram {
            program: "/nowhere/anchorhold".into(),
            ..shell("")
        };
        let error = spawn(&options(dir.path()), &nowhere).unwrap_err();
        assert!(error.to_string().contains("/nowhere/anchorhold"), "{error}");
    }
}
