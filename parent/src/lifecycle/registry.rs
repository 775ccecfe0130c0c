//! The enclaves of one user: claiming a name and a CID, finding, listing and stopping.
//!
//! Claims are made under a lock, so that two that start at once never get the same name or CID. What other processes
//! hold is read from their state files alone. Never delete the folder of an enclave that may still run.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::home::{Home, HomeError};
use super::state::{State, StateError, Status};

/// The lowest CID that is given to an enclave.
const FIRST_CID: u32 = 16;

/// The most characters of a name.
const LONGEST_NAME: usize = 63;

/// The most characters that a name takes over from an image's file name.
const LONGEST_STEM: usize = 32;

/// The most characters that an instance's name takes over from the declared name.
const LONGEST_DECLARED: usize = 56;

/// Ended enclaves whose consoles are kept.
const ENDED_KEPT: usize = 32;

/// How often `stop` looks whether the enclave has ended.
const LOOK: Duration = Duration::from_millis(2);

/// How long a killed supervisor may take to vanish.
const VANISH: Duration = Duration::from_secs(5);

/// Why an enclave cannot be found, claimed or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The folders cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The name has another form.
    #[error(
        "{0:?} is not a name for an enclave: use up to 63 of a-z, 0-9 and hyphen, the first not a hyphen"
    )]
    Name(String),
    /// An enclave of that name runs.
    #[error(
        "an enclave of the name {0} runs already: choose another --name, or `anchorhold stop {0}`"
    )]
    Taken(String),
    /// There is no enclave of that name.
    #[error("there is no enclave of the name {name}; {}", known_names(known))]
    Unknown {
        /// The name.
        name: String,
        /// Names that there are.
        known: Vec<String>,
    },
    /// Its state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Files in its folder cannot be handled.
    #[error("{} cannot be used: {source}", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every CID is taken.
    #[error("no CID is free")]
    NoCid,
    /// The supervisor cannot be signalled.
    #[error("the supervisor of {name} (process {pid}) cannot be stopped: {errno}")]
    Signal {
        /// The enclave.
        name: String,
        /// Its supervisor.
        pid: u32,
        /// What the system said.
        errno: Errno,
    },
    /// It does not end even when killed.
    #[error(
        "the supervisor of {name} (process {pid}) was killed and does not vanish: it hangs in the kernel"
    )]
    Undying {
        /// The enclave.
        name: String,
        /// Its supervisor.
        pid: u32,
    },
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() {
        "there are none; `anchorhold run IMAGE.eif` starts one".into()
    } else {
        format!("there are: {}", known.join(", "))
    }
}

fn files(path: &Path) -> impl FnOnce(io::Error) -> RegistryError + '_ {
    move |source| RegistryError::Files {
        path: path.to_owned(),
        source,
    }
}

/// Whether a text is a name for an enclave: `[a-z0-9][a-z0-9-]{0,62}`.
pub fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(known) && !text.starts_with('-')
}

/// A name from another, or an image's file name, and four random characters, such as `cards-k3f9`.
fn derived_name(stem: &str, most: usize) -> io::Result<String> {
    let mut name = String::new();
    for c in stem.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() == most {
            break;
        }
    }
    let name = match name.trim_end_matches('-') {
        "" => "enclave",
        name => name,
    };
    let mut random = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let ending: String = random
        .iter()
        .map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)]))
        .collect();
    Ok(format!("{name}-{ending}"))
}

/// A name for an instance of a declared enclave.
pub(crate) fn instance_name(of: &str) -> io::Result<String> {
    derived_name(of, LONGEST_DECLARED)
}

struct Lock {
    _held: Flock<File>,
}

fn lock(enclaves: &Path) -> Result<Lock, RegistryError> {
    let path = enclaves.join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(files(&path))?;
    let held = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| files(&path)(errno.into()))?;
    Ok(Lock { _held: held })
}

/// Every readable state; what cannot be read is passed over with a warning, so that it does not hide the others.
fn states(enclaves: &Path) -> Result<Vec<State>, RegistryError> {
    let mut states = Vec::new();
    for entry in fs::read_dir(enclaves).map_err(files(enclaves))? {
        let entry = entry.map_err(files(enclaves))?;
        if !entry.file_name().to_str().is_some_and(is_name) {
            continue;
        }
        match State::read(&entry.path()) {
            Ok(state) => states.push(state),
            // Somebody else is just making or removing it.
            Err(StateError::Unusable { source, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "an enclave's state is passed over"),
        }
    }
    states.sort_by(|a, b| (a.started_ms, &a.name).cmp(&(b.started_ms, &b.name)));
    Ok(states)
}

/// Whose name is to be claimed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The name itself, where it is given.
    pub(super) name: Option<&'a str>,
    /// Else it is derived from the declared enclave that this is an instance of,
    pub(super) of: Option<&'a str>,
    /// or from the image's file name.
    pub(super) image: &'a Path,
}

/// Claims a name and the lowest free CID, makes the enclave's folder, and writes the state that `describe` gives for
/// name, CID and folder. An enclave of that name that has ended is replaced.
pub(super) fn claim(
    home: &Home,
    wanted: Wanted<'_>,
    describe: impl FnOnce(String, u32, PathBuf) -> State,
) -> Result<State, RegistryError> {
    for name in wanted.name.iter().chain(&wanted.of) {
        if !is_name(name) {
            return Err(RegistryError::Name(name.chars().take(80).collect()));
        }
    }
    let enclaves = home.make_enclaves()?;
    let _lock = lock(&enclaves)?;
    let states = sweep(states(&enclaves)?);
    let running = || states.iter().filter(|state| state.status.is_running());

    let name = match wanted.name {
        Some(name) => name.to_owned(),
        None => loop {
            let file = wanted.image.file_stem().unwrap_or_default();
            let file = file.to_string_lossy();
            let derived = match wanted.of {
                Some(of) => instance_name(of),
                None => derived_name(&file, LONGEST_STEM),
            };
            let name = derived.map_err(files(Path::new("/dev/urandom")))?;
            if !enclaves.join(&name).exists() {
                break name;
            }
        },
    };
    home.check_length(&name)?;
    // A declared enclave goes by its own name, whatever its instances are called.
    let stands_for = wanted.of.unwrap_or(&name);
    if running().any(|state| {
        state.name == name
            || state.name == stands_for
            || (wanted.of.is_none() && state.of.as_deref() == Some(&name))
    }) {
        return Err(RegistryError::Taken(stands_for.to_owned()));
    }
    let cid = (FIRST_CID..u32::MAX)
        .find(|cid| running().all(|state| state.cid != *cid))
        .ok_or(RegistryError::NoCid)?;

    let dir = home.enclave(&name);
    match State::read(&dir) {
        Ok(_) => fs::remove_dir_all(&dir).map_err(files(&dir))?,
        Err(StateError::Unusable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            // No folder, or one whose maker died before it wrote a state; nobody makes one now, under the lock.
            if dir.exists() {
                fs::remove_dir_all(&dir).map_err(files(&dir))?;
            }
        }
        // It may be the state of a running enclave in the form of another version.
        Err(error) => return Err(error.into()),
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(files(&dir))?;
    let state = describe(name, cid, dir);
    state.write().map_err(files(&state.dir))?;
    Ok(state)
}

/// Tidies up after supervisors that died, and removes the oldest ended enclaves beyond [`ENDED_KEPT`]. Under the lock.
fn sweep(states: Vec<State>) -> Vec<State> {
    for state in &states {
        if state.status == Status::Lost {
            bury(state);
        }
    }
    let ended = states
        .iter()
        .filter(|state| !state.status.is_running())
        .count();
    let mut surplus = ended.saturating_sub(ENDED_KEPT);
    states
        .into_iter()
        .filter(|state| {
            let goes = surplus > 0 && !state.status.is_running();
            if goes {
                surplus -= 1;
                if let Err(error) = fs::remove_dir_all(&state.dir) {
                    tracing::warn!(%error, name = state.name, "an ended enclave's folder stays");
                }
            }
            !goes
        })
        .collect()
}

/// Writes down that an enclave is lost, and removes its sockets. Only for one whose supervisor is dead.
fn bury(state: &State) {
    remove_sockets(&state.dir);
    // Folders in it are the backend's, which had no time to remove them.
    for entry in fs::read_dir(&state.dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    if let Err(error) = state.write() {
        tracing::warn!(%error, name = state.name, "a lost enclave's state stays as it is");
    }
}

/// Removes the Unix sockets in an enclave's folder.
pub(super) fn remove_sockets(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// All enclaves of this user, those that have ended with them, oldest first.
pub fn list(home: &Home) -> Result<Vec<State>, RegistryError> {
    if home.check_enclaves()? {
        states(&home.enclaves())
    } else {
        Ok(Vec::new())
    }
}

/// The instance that stands for a declared enclave: the one that takes new connections, else the last that did.
fn instance_of(states: Vec<State>, name: &str) -> Option<State> {
    states
        .into_iter()
        .filter(|state| state.of.as_deref() == Some(name))
        .max_by_key(|state| {
            (
                state.status.is_running(),
                state.status == Status::Serving && !state.draining,
                state.admitted_ms.is_some(),
                state.started_ms,
            )
        })
}

/// The enclave of that name, running or ended; or the instance that stands for the declared enclave of that name.
pub fn find(home: &Home, name: &str) -> Result<State, RegistryError> {
    if !is_name(name) {
        return Err(RegistryError::Name(name.chars().take(80).collect()));
    }
    let found = if home.check_enclaves()? {
        match State::read(&home.enclave(name)) {
            Ok(state) => Some(state),
            Err(StateError::Unusable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(error.into()),
        }
    } else {
        None
    };
    match found {
        Some(state) if state.status.is_running() => Ok(state),
        found => {
            let states = list(home)?;
            let known = states.iter().map(|state| state.name.clone()).collect();
            let instance = instance_of(states, name);
            match (found, instance) {
                (None, Some(instance)) => Ok(instance),
                (Some(_), Some(instance)) if instance.status.is_running() => Ok(instance),
                (Some(ended), _) => Ok(ended),
                (None, None) => Err(RegistryError::Unknown {
                    name: name.to_owned(),
                    known,
                }),
            }
        }
    }
}

/// Ends an enclave and returns its last state. Its supervisor has `grace` to end it and tidy up; after that it is
/// killed, and the enclave with it. One that has ended already is left as it is. Blocks.
pub fn stop(home: &Home, name: &str, grace: Duration) -> Result<State, RegistryError> {
    let state = find(home, name)?;
    if state.status.is_running() {
        signal(&state, Signal::SIGTERM)?;
        if !gone(&state, grace) {
            signal(&state, Signal::SIGKILL)?;
            if !gone(&state, VANISH) {
                return Err(RegistryError::Undying {
                    name: state.name,
                    pid: state.supervisor.pid,
                });
            }
        }
    }
    let _lock = lock(&home.enclaves())?;
    let last = match State::read(&state.dir) {
        Ok(last) if last.supervisor == state.supervisor => last,
        // Somebody has started another of this name, or removed this one.
        _ => return Ok(state),
    };
    if last.status == Status::Lost {
        bury(&last);
    }
    Ok(last)
}

/// Signals the supervisor, if it still is who it was.
fn signal(state: &State, signal: Signal) -> Result<(), RegistryError> {
    let process = &state.supervisor;
    let Ok(pid) = i32::try_from(process.pid) else {
        return Ok(());
    };
    if pid <= 1 || !process.runs() {
        return Ok(());
    }
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(RegistryError::Signal {
            name: state.name.clone(),
            pid: process.pid,
            errno,
        }),
    }
}

/// Waits until the supervisor has ended.
fn gone(state: &State, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while state.supervisor.runs() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::super::state::tests::sample;
    use super::*;

    use std::collections::BTreeSet;
    use std::os::unix::net::UnixListener;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::super::state::Process;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        (dir, home)
    }

    fn claim_as(
        home: &Home,
        name: Option<&str>,
        supervisor: &Process,
    ) -> Result<State, RegistryError> {
        claim(
            home,
            Wanted {
                name,
                of: None,
                image: Path::new("/images/Cards v2.eif"),
            },
            |_, cid, dir| State {
                cid,
                supervisor: supervisor.clone(),
                ..sample(&dir)
            },
        )
    }

    /// A process that stands for a supervisor.
    struct Other(Child, Process);

    impl Other {
        fn running(program: &str) -> Self {
            let child = Command::new("sh").args(["-c", program]).spawn().unwrap();
            let process = Process::of(child.id()).unwrap().unwrap();
            assert!(process.runs());
            Self(child, process)
        }
    }

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn names_have_one_form() {
        for name in ["a", "0", "cards-1", &"a".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "-a",
            "A",
            "a.b",
            "a/b",
            "..",
            "a b",
            "é",
            ".lock",
            &"a".repeat(64),
        ] {
            assert!(!is_name(name), "{name}");
        }
        for stem in [
            "Cards v2",
            "…",
            "--",
            "",
            "9",
            &"é-".repeat(60),
            &"x".repeat(63),
        ] {
            let name = derived_name(stem, LONGEST_STEM).unwrap();
            assert!(is_name(&name), "{stem}: {name}");
        }
        assert!(
            derived_name("Cards v2", LONGEST_STEM)
                .unwrap()
                .starts_with("cards-v2-")
        );
    }

    #[test]
    fn a_running_name_is_taken_and_an_ended_one_is_replaced() {
        let (_dir, home) = home();
        let own = Process::own().unwrap();
        let mut first = claim_as(&home, Some("cards"), &own).unwrap();
        assert_eq!(first.cid, 16);
        assert!(matches!(
            claim_as(&home, Some("cards"), &own),
            Err(RegistryError::Taken(_))
        ));
        first.status = Status::Ended {
            code: Some(0),
            reason: "done".into(),
        };
        first.write().unwrap();
        fs::write(first.console(), "old").unwrap();
        let second = claim_as(&home, Some("cards"), &own).unwrap();
        assert_eq!(second.cid, 16);
        assert!(!second.console().exists());
        assert!(matches!(
            claim_as(&home, Some("../x"), &own),
            Err(RegistryError::Name(_))
        ));
    }

    #[test]
    fn a_declared_enclave_is_found_by_its_name_and_keeps_it_to_itself() {
        let (_dir, home) = home();
        let own = Process::own().unwrap();
        let instance = || {
            let wanted = Wanted {
                name: None,
                of: Some("cards"),
                image: Path::new("/images/v1.eif"),
            };
            claim(&home, wanted, |_, cid, dir| State {
                of: Some("cards".into()),
                cid,
                supervisor: own.clone(),
                ..sample(&dir)
            })
            .unwrap()
        };
        let mut old = instance();
        assert!(old.name.starts_with("cards-"), "{}", old.name);
        assert_eq!(find(&home, "cards").unwrap().name, old.name);
        assert!(matches!(
            claim_as(&home, Some("cards"), &own),
            Err(RegistryError::Taken(_))
        ));
        // The one that drains no longer stands for it.
        let new = instance();
        old.draining = true;
        old.admitted_ms = Some(1);
        old.write().unwrap();
        assert_eq!(find(&home, "cards").unwrap().name, new.name);
        assert_eq!(find(&home, &old.name).unwrap().name, old.name);
    }

    #[test]
    fn the_lowest_free_cid_is_given() {
        let (_dir, home) = home();
        let own = Process::own().unwrap();
        let mut states: Vec<State> = (0..4)
            .map(|_| claim_as(&home, None, &own).unwrap())
            .collect();
        assert_eq!(
            states.iter().map(|state| state.cid).collect::<Vec<_>>(),
            [16, 17, 18, 19]
        );
        states[1].status = Status::Ended {
            code: None,
            reason: "stopped".into(),
        };
        states[1].write().unwrap();
        assert_eq!(claim_as(&home, None, &own).unwrap().cid, 17);
        assert_eq!(claim_as(&home, None, &own).unwrap().cid, 20);
    }

    #[test]
    fn claims_at_the_same_time_never_share_a_name_or_a_cid() {
        let (_dir, home) = home();
        let own = Process::own().unwrap();
        let claims: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..24)
                .map(|n| {
                    let (home, own) = (&home, &own);
                    scope.spawn(move || claim_as(home, (n % 4 == 0).then_some("same"), own))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let won: Vec<_> = claims.iter().flatten().collect();
        assert_eq!(won.len(), 18 + 1);
        assert_eq!(
            won.iter()
                .map(|state| state.cid)
                .collect::<BTreeSet<_>>()
                .len(),
            19
        );
        assert_eq!(
            won.iter()
                .map(|state| &state.name)
                .collect::<BTreeSet<_>>()
                .len(),
            19
        );
        assert_eq!(list(&home).unwrap().len(), 19);
    }

    #[test]
    fn a_lost_enclave_is_seen_tidied_and_replaced() {
        let (_dir, home) = home();
        let other = Other::running("sleep 60");
        let state = claim_as(&home, Some("cards"), &other.1).unwrap();
        let _socket = UnixListener::bind(state.dir.join("vsock.sock")).unwrap();
        fs::write(state.console(), "last words").unwrap();
        fs::create_dir(state.dir.join(".sockets")).unwrap();
        fs::write(state.dir.join(".sockets/5000"), "").unwrap();
        assert_eq!(find(&home, "cards").unwrap().status, Status::Serving);
        drop(other);
        assert_eq!(find(&home, "cards").unwrap().status, Status::Lost);
        // Any later claim tidies up.
        let own = Process::own().unwrap();
        assert_eq!(claim_as(&home, None, &own).unwrap().cid, 16);
        assert!(!state.dir.join("vsock.sock").exists());
        assert!(!state.dir.join(".sockets").exists());
        assert!(state.console().exists());
        let text = fs::read_to_string(state.dir.join("state.json")).unwrap();
        assert!(text.contains(r#""status":"lost""#), "{text}");
        claim_as(&home, Some("cards"), &own).unwrap();
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let (_dir, home) = home();
        assert!(matches!(
            find(&home, "x"),
            Err(RegistryError::Unknown { .. })
        ));
        assert!(list(&home).unwrap().is_empty());
        claim_as(&home, Some("cards"), &Process::own().unwrap()).unwrap();
        let error = find(&home, "x").unwrap_err();
        assert!(error.to_string().contains("there are: cards"), "{error}");
    }

    #[test]
    fn an_unreadable_state_neither_hides_others_nor_is_deleted() {
        let (_dir, home) = home();
        let own = Process::own().unwrap();
        claim_as(&home, Some("good"), &own).unwrap();
        fs::create_dir(home.enclave("bad")).unwrap();
        fs::write(home.enclave("bad").join("state.json"), "{").unwrap();
        // One whose maker died before it wrote a state.
        fs::create_dir(home.enclave("half")).unwrap();
        assert_eq!(list(&home).unwrap().len(), 1);
        assert!(matches!(
            claim_as(&home, Some("bad"), &own),
            Err(RegistryError::State(_))
        ));
        assert!(home.enclave("bad").exists());
        claim_as(&home, Some("half"), &own).unwrap();
    }

    #[test]
    fn the_oldest_ended_enclaves_are_forgotten() {
        let (_dir, home) = home();
        let own = Process::own().unwrap();
        let running = claim_as(&home, Some("running"), &own).unwrap();
        for n in 0..ENDED_KEPT as u64 + 3 {
            let mut state = claim_as(&home, Some(&format!("n{n}")), &own).unwrap();
            state.started_ms = running.started_ms + 1 + n;
            state.status = Status::Ended {
                code: None,
                reason: "stopped".into(),
            };
            state.write().unwrap();
        }
        claim_as(&home, Some("last"), &own).unwrap();
        let names: BTreeSet<String> = list(&home)
            .unwrap()
            .into_iter()
            .map(|state| state.name)
            .collect();
        assert_eq!(names.len(), ENDED_KEPT + 2);
        for (name, kept) in [("running", true), ("n2", false), ("n3", true)] {
            assert_eq!(names.contains(name), kept, "{name}");
        }
    }

    #[test]
    fn stop_ends_a_supervisor_and_kills_one_that_does_not_listen() {
        let (_dir, home) = home();
        let mut polite = Other::running("exec sleep 60");
        claim_as(&home, Some("polite"), &polite.1).unwrap();
        let state = stop(&home, "polite", Duration::from_secs(20)).unwrap();
        assert_eq!(state.status, Status::Lost);
        assert_eq!(polite.0.wait().unwrap().signal(), Some(15));

        let mut deaf = Other::running("trap '' TERM; echo; while :; do sleep 0.05; done");
        std::thread::sleep(Duration::from_millis(200));
        claim_as(&home, Some("deaf"), &deaf.1).unwrap();
        stop(&home, "deaf", Duration::from_millis(200)).unwrap();
        assert_eq!(deaf.0.wait().unwrap().signal(), Some(9));
        // Stopping what has ended changes nothing.
        stop(&home, "deaf", Duration::ZERO).unwrap();
    }
}
