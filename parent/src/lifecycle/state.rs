//! What is known of one enclave on disk: `state.json` in its folder, written by its supervisor alone.
//!
//! It is replaced as a whole, so that a reader never sees half of it. A supervisor is known by its number and the time
//! at which it started, so that another process that got the number later is not mistaken for it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the state file in an enclave's folder.
const STATE: &str = "state.json";

/// The most bytes of a state file.
const LARGEST_STATE: u64 = 256 * 1024;

/// Measurements of an image, as lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredAs {
    /// The whole image.
    pub pcr0: String,
    /// Kernel, command line and runtime.
    pub pcr1: String,
    /// The application.
    pub pcr2: String,
    /// The certificate that signed the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<String>,
}

/// A process, told apart from any other that has its number at another time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start_ticks: u64,
    /// The boot since which the ticks count (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
}

impl Process {
    /// The calling process.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())?.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "this process is not in /proc: is it mounted?",
            )
        })
    }

    /// The process that has this number now, if one does and has not ended.
    pub(super) fn of(pid: u32) -> io::Result<Option<Self>> {
        match stat(pid)? {
            Some((start_ticks, true)) => Ok(Some(Self {
                pid,
                start_ticks,
                boot: boot()?,
            })),
            _ => Ok(None),
        }
    }

    /// Whether this very process still runs. One that ended and was not yet reaped does not.
    pub fn runs(&self) -> bool {
        let found = stat(self.pid).ok().flatten();
        found.is_some_and(|(start_ticks, running)| {
            running && start_ticks == self.start_ticks && boot().is_ok_and(|boot| boot == self.boot)
        })
    }
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Start time of a process and whether it runs; `None` where there is none of that number.
fn stat(pid: u32) -> io::Result<Option<(u64, bool)>> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // It ended between open and read.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let malformed = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "unknown form of /proc/<pid>/stat",
        )
    };
    // The second field is the program's name in parentheses, which may hold anything.
    let name_end = text
        .iter()
        .rposition(|byte| *byte == b')')
        .ok_or_else(malformed)?;
    let rest = std::str::from_utf8(&text[name_end + 1..]).map_err(|_| malformed())?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().ok_or_else(malformed)?;
    let start = fields
        .nth(18)
        .and_then(|field| field.parse().ok())
        .ok_or_else(malformed)?;
    Ok(Some((start, !matches!(state, "Z" | "X" | "x"))))
}

/// How far an enclave has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Status {
    /// It was started and does not serve yet.
    Starting,
    /// It takes calls.
    Serving,
    /// It has ended.
    Ended {
        /// The job's or the runtime's exit code; absent where it was stopped or killed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// Why, in a few words.
        reason: String,
    },
    /// Its supervisor was killed, and the enclave with it.
    Lost,
}

impl Status {
    /// Whether the enclave runs, as far as its state tells.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Starting | Self::Serving)
    }
}

/// The state of one enclave, as `state.json` has it and `anchorhold ps --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name, unique among those that run.
    pub name: String,
    /// The declared enclave that this is an instance of, where a daemon has started it. It is found by that name as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What it was started as, by the word of the daemon that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
    /// How far it has come.
    #[serde(flatten)]
    pub status: Status,
    /// When a daemon has verified its attestation document, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_ms: Option<u64>,
    /// It takes no new connections and ends with the last that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Its context identifier on vsock.
    pub cid: u32,
    /// What it runs on, such as `sandbox`.
    pub backend: String,
    /// How strongly it is confined there, such as `namespaces`.
    pub isolation: String,
    /// Whether it runs in debug mode, in which its measurements are zero.
    pub debug: bool,
    /// The image file.
    pub image: PathBuf,
    /// What the image file measures, in debug mode too. Absent in the first seconds. For people: what the enclave attests
    /// is in its attestation document alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurements: Option<MeasuredAs>,
    /// Memory in MiB, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// CPUs, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// How each limit is enforced, one sentence each.
    #[serde(default)]
    pub limits: Vec<String>,
    /// When it was started, in ms since 1970.
    pub started_ms: u64,
    /// The process that looks after it.
    pub supervisor: Process,
    /// Where the bytes that the parent carries are recorded, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<PathBuf>,
    /// Its folder. Whoever reads the file takes the folder in which it was found.
    #[serde(default)]
    pub dir: PathBuf,
}

impl State {
    /// Where the enclave's console is kept.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Where its supervisor's own words are kept.
    pub fn supervisor_log(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }

    /// Reads the state in an enclave's folder. `Lost` is found out here: the supervisor can no longer write it.
    pub(super) fn read(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(STATE);
        let unusable = |source| StateError::Unusable {
            path: path.clone(),
            source,
        };
        let size = fs::metadata(&path).map_err(unusable)?.len();
        if size > LARGEST_STATE {
            return Err(StateError::Malformed {
                path,
                problem: format!("it has {size} bytes"),
            });
        }
        let text = fs::read(&path).map_err(unusable)?;
        let mut state: Self =
            serde_json::from_slice(&text).map_err(|error| StateError::Malformed {
                path: path.clone(),
                problem: error.to_string(),
            })?;
        // The name in the file leads nowhere by itself; the folder's does.
        if dir.file_name().is_none_or(|name| *name != *state.name) {
            return Err(StateError::Malformed {
                path,
                problem: format!("it is about an enclave of the name {:?}", state.name),
            });
        }
        dir.clone_into(&mut state.dir);
        if state.status.is_running() && !state.supervisor.runs() {
            state.status = Status::Lost;
        }
        Ok(state)
    }

    /// Replaces the state in the enclave's folder at once and as a whole.
    pub(super) fn write(&self) -> io::Result<()> {
        let path = self.dir.join(STATE);
        // One writer at a time: the supervisor, or whoever holds the lock after its death.
        let new = self.dir.join(".state.json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let mut text = serde_json::to_vec(self).map_err(io::Error::other)?;
        text.push(b'\n');
        file.write_all(&text)?;
        // Not forced to disk: after a crash of the host there is no enclave that it could be about.
        fs::rename(new, path)
    }
}

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what a supervisor writes.
    #[error("{} is not the state of an enclave: {problem}; remove its folder if the enclave has ended", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
pub(super) mod tests {
    use super::*;

    pub(crate) fn sample(dir: &Path) -> State {
        State {
            name: dir.file_name().unwrap().to_str().unwrap().to_owned(),
            of: None,
            core: None,
            status: Status::Serving,
            admitted_ms: None,
            draining: false,
            cid: 16,
            backend: "sandbox".into(),
            isolation: "namespaces".into(),
            debug: false,
            image: "/images/cards.eif".into(),
            measurements: None,
            memory_mib: Some(256),
            cpus: None,
            limits: vec!["memory by cgroup".into()],
            started_ms: 1_700_000_000_000,
            supervisor: Process::own().unwrap(),
            record: None,
            dir: dir.to_owned(),
        }
    }

    #[test]
    fn a_state_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = sample(dir.path());
        for status in [
            Status::Starting,
            Status::Serving,
            Status::Ended {
                code: Some(3),
                reason: "the job failed".into(),
            },
            Status::Ended {
                code: None,
                reason: "stopped".into(),
            },
        ] {
            state.status = status;
            state.write().unwrap();
            assert_eq!(State::read(dir.path()).unwrap(), state);
        }
        let text = fs::read_to_string(dir.path().join(STATE)).unwrap();
        assert!(text.contains(r#""status":"ended""#), "{text}");
    }

    #[test]
    fn a_supervisor_that_died_means_that_the_enclave_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut state = sample(dir.path());
        let (start_ticks, running) = stat(child.id()).unwrap().unwrap();
        assert!(running);
        state.supervisor.pid = child.id();
        state.supervisor.start_ticks = start_ticks;
        state.write().unwrap();
        assert_eq!(State::read(dir.path()).unwrap().status, Status::Serving);
        child.kill().unwrap();
        // Killed and not reaped.
        while stat(child.id()).unwrap().unwrap().1 {
            std::thread::yield_now();
        }
        assert_eq!(State::read(dir.path()).unwrap().status, Status::Lost);
        child.wait().unwrap();
        assert_eq!(State::read(dir.path()).unwrap().status, Status::Lost);
    }

    #[test]
    fn a_reused_process_number_is_not_the_supervisor() {
        let own = Process::own().unwrap();
        assert!(own.runs());
        let later = Process {
            start_ticks: own.start_ticks + 1,
            ..own.clone()
        };
        assert!(!later.runs());
        let other_boot = Process {
            boot: "another".into(),
            ..own
        };
        assert!(!other_boot.runs());
    }

    #[test]
    fn a_broken_state_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = State::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("state.json"), "{error}");
        for text in ["", "{", "[]", r#"{"name":"other"}"#] {
            fs::write(dir.path().join(STATE), text).unwrap();
            assert!(
                matches!(State::read(dir.path()), Err(StateError::Malformed { .. })),
                "{text}"
            );
        }
        let mut state = sample(dir.path());
        state.name = "../../etc".into();
        state.write().unwrap();
        assert!(matches!(
            State::read(dir.path()),
            Err(StateError::Malformed { .. })
        ));
    }
}
