//! The supervisor: one process per enclave that starts it, serves its window, keeps its state file, and ends with it.
//!
//! It carries bytes and holds no key. What the enclave says decides nothing here but whether it serves. Whatever goes
//! wrong, the state file says so and no socket stays behind; where the supervisor itself is killed, the backend ends the
//! enclave and the next claim tidies up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{Instrument as _, info_span};

use super::backend;
use super::console::{follow, tail};
use super::control;
use super::guest::{Guest, GuestEnd};
use super::home::Home;
use super::registry::{self, RegistryError};
use super::spawn::Report;
use super::state::{Process, State, Status};
use super::sys::return_freed_memory;
use super::windows::{Next, Windows};
use crate::client::Client;
use crate::window::{
    self, Allowlist, Credentials, CredentialsError, CredentialsSource, Limits, Recorder,
    SealedSecrets, SecretError, SecretSource, Window, WindowConfig,
};
use crate::{Backend, Isolation};

/// Parent's vsock port of the window.
const WINDOW_PORT: u32 = 8000;

/// Parent's vsock port of the heartbeat.
const HEARTBEAT_PORT: u32 = 9000;

/// Between two looks at an enclave that has beaten but does not serve yet.
const LOOK: Duration = Duration::from_millis(1);

/// How long a new enclave is left in peace before its image is measured for `ps`.
const QUIET: Duration = Duration::from_secs(1);

/// How long an enclave that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How long what a dead enclave had sent may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long whoever asked for the end may take to hear that it comes.
const TELL_LIMIT: Duration = Duration::from_secs(1);

/// Lines of the console that go with the news of a failed start.
const LAST_LINES: usize = 10;

/// The word for an isolation, on the command line and in state files.
pub(super) fn isolation_word(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Namespaces => "namespaces",
        Isolation::Reduced => "reduced",
        Isolation::Kvm => "kvm",
        Isolation::Tcg => "tcg",
        Isolation::Nitro => "nitro",
    }
}

/// Isolation as its word.
mod isolation {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use super::{Isolation, isolation_word};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(
        isolation: &Isolation,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(isolation_word(*isolation))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Isolation, D::Error> {
        let word = String::deserialize(deserializer)?;
        [Isolation::Namespaces, Isolation::Reduced]
            .into_iter()
            .find(|isolation| isolation_word(*isolation) == word)
            .ok_or_else(|| D::Error::custom("isolation is namespaces or reduced"))
    }
}

/// What to start, and what to let through its window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuperviseOptions {
    /// Where state and enclaves' folders are.
    pub home: Home,
    /// Name; derived from the image's file name, or from `of`, where absent.
    pub name: Option<String>,
    /// The declared enclave that this is an instance of.
    #[serde(default)]
    pub of: Option<String>,
    /// What the daemon calls what it is started as; kept in its state.
    #[serde(default)]
    pub core: Option<String>,
    /// The image file.
    pub image: PathBuf,
    /// Memory in MiB; the manifest's where absent.
    pub memory_mib: Option<u32>,
    /// CPUs; the manifest's where absent.
    pub cpus: Option<u32>,
    /// Debug mode: a console with everything, and measurements of zero.
    pub debug: bool,
    /// Where it runs.
    #[serde(default)]
    pub backend: Backend,
    /// How strongly it is confined, on the sandbox backend.
    #[serde(with = "isolation")]
    pub isolation: Isolation,
    /// Where its relays may lead.
    pub allowlist: Allowlist,
    /// Bounds of the window that it dials.
    #[serde(default)]
    pub limits: Limits,
    /// The host's credentials that it is handed.
    pub credentials: CredentialsSource,
    /// Sealed secrets that it is handed.
    pub secrets: BTreeMap<String, SecretSource>,
    /// A folder into which all that passes the window is recorded.
    pub record: Option<PathBuf>,
    /// How long it may take until it serves, in ms.
    pub start_limit_ms: u64,
}

impl SuperviseOptions {
    /// An enclave from that image, with nothing handed in and a window that leads nowhere.
    pub fn new(home: Home, image: impl Into<PathBuf>) -> Self {
        Self {
            home,
            name: None,
            of: None,
            core: None,
            image: image.into(),
            memory_mib: None,
            cpus: None,
            debug: false,
            backend: Backend::default(),
            isolation: Isolation::default(),
            allowlist: Allowlist::nothing(),
            limits: Limits::default(),
            credentials: CredentialsSource::Nothing,
            secrets: BTreeMap::new(),
            record: None,
            start_limit_ms: 30_000,
        }
    }

    fn start_limit(&self) -> Duration {
        Duration::from_millis(self.start_limit_ms)
    }
}

/// Why a supervisor could not start its enclave, or could not see it through.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The credentials to hand in are unusable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A secret to hand in is unusable.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The recording cannot be made.
    #[error("nothing can be recorded in {}: {source}", path.display())]
    Recorder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name or folder cannot be had.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A system call of the supervisor's own failed.
    #[error("{doing}: {source}")]
    System {
        /// What it was doing.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The backend could not start it.
    #[error("{0}")]
    Launch(String),
    /// It did not serve in time.
    #[error("the enclave did not serve within {} s ({missing}){}", limit.as_secs_f32(), quoted(console))]
    Late {
        /// The limit.
        limit: Duration,
        /// What did not come.
        missing: &'static str,
        /// The last lines of its console.
        console: Vec<String>,
    },
    /// Whoever started it went away before it served.
    #[error("whoever started the enclave went away before it served")]
    Abandoned,
}

pub(super) fn quoted(console: &[String]) -> String {
    if console.is_empty() {
        "; its console is empty".into()
    } else {
        format!("; its console ends with:\n    {}", console.join("\n    "))
    }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> SuperviseError {
    move |source| SuperviseError::System { doing, source }
}

/// How an enclave ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code of job or runtime; `None` where it was stopped or killed.
    pub code: Option<i32>,
    /// In a few words.
    pub reason: String,
    /// Its last state.
    pub state: State,
}

impl Ended {
    /// An exit code for the process that stood for the enclave: the enclave's own, or 1 where it had none.
    pub fn exit_code(&self) -> u8 {
        match self.code {
            Some(code) => u8::try_from(code).unwrap_or(1),
            None => 1,
        }
    }
}

/// Who hears that the enclave serves.
pub(super) trait Audience {
    /// `false` where nobody listens any more.
    fn serving(&mut self, state: &State) -> bool;
}

/// The pipe to the process that started the supervisor.
struct Starter(Option<File>);

impl Starter {
    fn tell(&mut self, report: &Report) -> bool {
        // Taken, since the one line is all: closing the pipe is its end.
        let Some(mut pipe) = self.0.take() else {
            return true;
        };
        let mut line =
            serde_json::to_vec(report).expect("reports hold nothing that cannot be JSON");
        line.push(b'\n');
        pipe.write_all(&line).is_ok()
    }
}

impl Audience for Starter {
    fn serving(&mut self, state: &State) -> bool {
        self.tell(&Report::Serving {
            state: Box::new(state.clone()),
        })
    }
}

/// The whole life of the process that [`spawn`](super::spawn()) starts; the command line's hidden subcommand calls it and
/// does nothing else. Returns the exit code.
///
/// Takes [`SuperviseOptions`] as JSON on stdin and reports one line of JSON on stdout. Afterwards stdin and stdout are
/// `/dev/null` and stderr is `supervisor.log` in the enclave's folder. To be called outside any async runtime.
pub fn supervisor_process() -> u8 {
    let mut starter = Starter(None);
    match take_over(&mut starter).and_then(|options| {
        run(&options, &mut starter, backend::launch, |state| {
            redirect_stderr(&state.supervisor_log())
        })
    }) {
        Ok(ended) => {
            let console = tail(&ended.state.console(), LAST_LINES).unwrap_or_default();
            starter.tell(&Report::Ended {
                code: ended.code,
                reason: ended.reason.clone(),
                console,
                state: Box::new(ended.state.clone()),
            });
            0
        }
        Err(error) => {
            tracing::error!(%error, "the supervisor gives up");
            starter.tell(&Report::Failed {
                message: error.to_string(),
            });
            1
        }
    }
}

/// Leaves the session of the process that started this one, and reads what is to be done.
fn take_over(starter: &mut Starter) -> Result<SuperviseOptions, SuperviseError> {
    // Fails only where this process leads a session already.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(system("opening /dev/null"))?;
    let stdout = io::stdout();
    let pipe = std::os::fd::AsFd::as_fd(&stdout)
        .try_clone_to_owned()
        .map_err(system("keeping the pipe to whoever started this"))?;
    starter.0 = Some(File::from(pipe));
    nix::unistd::dup2_stdout(&null)
        .map_err(|errno| system("letting go of stdout")(errno.into()))?;
    let mut text = Vec::new();
    io::stdin()
        .read_to_end(&mut text)
        .map_err(system("reading what is to be started"))?;
    nix::unistd::dup2_stdin(&null).map_err(|errno| system("letting go of stdin")(errno.into()))?;
    // The folder that it was started in shall be removable.
    std::env::set_current_dir("/").map_err(system("leaving the current folder"))?;
    serde_json::from_slice(&text)
        .map_err(|error| system("reading what is to be started")(error.into()))
}

fn redirect_stderr(log: &Path) -> Result<(), SuperviseError> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(system("opening supervisor.log"))?;
    nix::unistd::dup2_stderr(log).map_err(|errno| system("redirecting stderr")(errno.into()))
}

/// Runs an enclave in the foreground, with its console (made printable) on `out`, until it ends or this process gets
/// SIGINT, SIGTERM or SIGHUP. To be called outside any async runtime.
pub fn supervise(
    options: &SuperviseOptions,
    out: impl Write + Send,
) -> Result<Ended, SuperviseError> {
    supervise_with(options, out, backend::launch)
}

fn supervise_with<G: Guest>(
    options: &SuperviseOptions,
    mut out: impl Write + Send,
    launch: impl FnOnce(&SuperviseOptions, u32, &Path) -> Result<G, SuperviseError>,
) -> Result<Ended, SuperviseError> {
    struct Nobody;
    impl Audience for Nobody {
        fn serving(&mut self, _: &State) -> bool {
            true
        }
    }

    /// Says that it is over even where the enclave's run panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    let over = AtomicBool::new(false);
    let over = &over;
    std::thread::scope(|scope| {
        let set_over = Over(over);
        let result = run(options, &mut Nobody, launch, |state| {
            let console = state.console();
            scope.spawn(move || {
                let mut ended = || over.load(Ordering::Acquire);
                // Where nobody reads the console, the enclave runs on: what it prints is in its folder as well.
                let _ = follow(&console, &mut out, &mut ended);
            });
            Ok(())
        });
        drop(set_over);
        result
    })
}

/// Claims, starts, serves, ends. `claimed` is called once, when the enclave's folder exists.
pub(super) fn run<G: Guest>(
    options: &SuperviseOptions,
    audience: &mut impl Audience,
    launch: impl FnOnce(&SuperviseOptions, u32, &Path) -> Result<G, SuperviseError>,
    claimed: impl FnOnce(&State) -> Result<(), SuperviseError>,
) -> Result<Ended, SuperviseError> {
    // One thread: what is done here is waiting.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting the event loop"))?;
    let mut interrupts = {
        let _entered = runtime.enter();
        Interrupts::new().map_err(system("watching for signals"))?
    };
    let recorder = options
        .record
        .as_deref()
        .map(|path| {
            Recorder::create(path).map_err(|source| SuperviseError::Recorder {
                path: path.to_owned(),
                source,
            })
        })
        .transpose()?;
    let config = WindowConfig {
        allowlist: options.allowlist.clone(),
        measured: None,
        credentials: Credentials::open(&options.credentials)?,
        secrets: SealedSecrets::load(&options.secrets)?,
        recorder,
        limits: options.limits,
    };
    let supervisor = Process::own().map_err(system("finding out this process's start time"))?;
    let mut state = registry::claim(
        &options.home,
        registry::Wanted {
            name: options.name.as_deref(),
            of: options.of.as_deref(),
            image: &options.image,
        },
        |name, cid, dir| State {
            name,
            of: options.of.clone(),
            core: options.core.clone(),
            status: Status::Starting,
            admitted_ms: None,
            draining: false,
            cid,
            backend: options.backend.to_string(),
            isolation: isolation_word(options.isolation).into(),
            debug: options.debug,
            image: options.image.clone(),
            measurements: None,
            memory_mib: options.memory_mib,
            cpus: options.cpus,
            limits: Vec::new(),
            started_ms: now_ms(),
            supervisor,
            record: options.record.clone(),
            dir,
        },
    )?;

    let result = claimed(&state).and_then(|()| {
        // Bound before the start, so that the enclave never dials too early.
        let listen =
            |port| window::bind(&state.dir, port).map_err(system("listening for the enclave"));
        let listeners = (listen(WINDOW_PORT)?, listen(HEARTBEAT_PORT)?);
        let guest = launch(options, state.cid, &state.dir)?;
        let span = info_span!("enclave", name = state.name, cid = state.cid);
        let life = live(
            options,
            &mut state,
            audience,
            &mut interrupts,
            guest,
            listeners,
            config,
        );
        runtime.block_on(life.instrument(span))
    });

    registry::remove_sockets(&state.dir);
    let (code, reason) = match &result {
        Ok(end) => (end.code, end.reason.clone()),
        Err(error) => (None, error.to_string()),
    };
    state.status = Status::Ended {
        code,
        reason: reason.clone(),
    };
    state
        .write()
        .map_err(system("writing the enclave's last state"))?;
    result.map(|_| Ended {
        code,
        reason,
        state,
    })
}

/// From the running enclave to its end.
async fn live<G: Guest>(
    options: &SuperviseOptions,
    state: &mut State,
    audience: &mut impl Audience,
    interrupts: &mut Interrupts,
    mut guest: G,
    (window_socket, heartbeat_socket): (StdUnixListener, StdUnixListener),
    mut config: WindowConfig,
) -> Result<GuestEnd, SuperviseError> {
    let facts = guest.facts();
    state.memory_mib = facts.memory_mib.or(state.memory_mib);
    state.cpus = facts.cpus.or(state.cpus);
    if let Some(isolation) = facts.isolation {
        state.isolation = isolation_word(isolation).into();
    }
    state.limits = facts.limits;
    config.measured = facts.reach;
    let folder = state.dir.clone();
    let control_port = facts.has_control_port.then_some(folder.as_path());

    let kill = guest.killer();
    let measure = guest.measure();
    let (ended, mut end) = oneshot::channel();
    std::thread::Builder::new()
        .name("enclave-wait".into())
        .spawn(move || {
            let how = guest.wait();
            drop(guest);
            // Nobody listens only where this process gives up anyway.
            let _ = ended.send(how);
        })
        .map_err(system("starting the thread that waits for the enclave"))?;
    let mut end = async move || {
        (&mut end).await.unwrap_or(GuestEnd {
            code: None,
            reason: "the thread that waited for it died".into(),
        })
    };

    let listener =
        |socket| UnixListener::from_std(socket).map_err(system("listening for the enclave"));
    let (up, mut beats) = watch::channel(false);
    let window = listener(window_socket)?;
    let heartbeat = listener(heartbeat_socket)?;
    // Each flow has two. What was started before this has the old bound.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let windows = Windows::new(Window::new(config), &state.dir);
    let window = windows.window().serve(window);
    let heartbeat = window::heartbeat::serve(heartbeat, up);

    let life = async {
        let limit = options.start_limit();
        let begun = tokio::select! {
            how = end() => return Ok(how),
            name = interrupts.next() => Err(name),
            begun = begin(control_port, &mut beats, limit) => Ok(begun),
        };
        match begun {
            Ok(Ok(())) => {
                state.status = Status::Serving;
                let (asking, mut asked) = mpsc::channel(4);
                let written = control::bind(&state.dir)
                    .and_then(UnixListener::from_std)
                    .and_then(|socket| state.write().map(|()| socket))
                    .map_err(system("opening the control socket"));
                match written {
                    Ok(socket) if audience.serving(state) => {
                        let mut steering = pin!(control::serve(socket, asking));
                        let mut measuring = pin!(async {
                            sleep(QUIET).await;
                            tokio::task::spawn_blocking(measure).await.ok().flatten()
                        });
                        let mut measured = false;
                        let mut draining = pin!(None);
                        let why = loop {
                            tokio::select! {
                                how = end() => {
                                    windows.delivered(LAST_WORDS).await;
                                    return Ok(how);
                                }
                                name = interrupts.next() => break format!("stopped by {name}"),
                                found = &mut measuring, if !measured => {
                                    measured = true;
                                    state.measurements = found;
                                    if let Err(error) = state.write() {
                                        tracing::warn!(%error, "the measurements are not in the state file");
                                    }
                                    // The image was in it, twice; what is left to do is waiting.
                                    return_freed_memory();
                                }
                                Some(asked) = asked.recv() => {
                                    let next = windows.answer(state, asked);
                                    match next {
                                        Next::Serve => {}
                                        Next::Drain(limit) => draining.set(Some(windows.drained(control_port, limit))),
                                        Next::End(told) => {
                                            let _ = timeout(TELL_LIMIT, told).await;
                                            break "stopped".to_owned();
                                        }
                                    }
                                }
                                outcome = async { draining.as_mut().as_pin_mut().expect("looked at before").await }, if draining.is_some() => {
                                    break outcome.to_owned();
                                }
                                () = &mut steering => unreachable!("the control socket is served for ever"),
                            }
                        };
                        kill();
                        return Ok(stopped(timeout(END_LIMIT, end()).await.ok().as_ref(), &why));
                    }
                    written => {
                        kill();
                        let _ = timeout(END_LIMIT, end()).await;
                        written.and(Err(SuperviseError::Abandoned))
                    }
                }
            }
            Ok(Err(missing)) => {
                kill();
                let _ = timeout(END_LIMIT, end()).await;
                Err(SuperviseError::Late {
                    limit,
                    missing,
                    console: tail(&state.console(), LAST_LINES).unwrap_or_default(),
                })
            }
            Err(name) => {
                kill();
                let why = format!("stopped by {name}");
                Ok(stopped(timeout(END_LIMIT, end()).await.ok().as_ref(), &why))
            }
        }
    };
    tokio::select! {
        biased;
        result = life => result,
        () = window => unreachable!("the window serves for ever"),
        () = heartbeat => unreachable!("the heartbeat is answered for ever"),
    }
}

/// How it ended after it was told to.
fn stopped(how: Option<&GuestEnd>, why: &str) -> GuestEnd {
    GuestEnd {
        code: None,
        reason: match how {
            Some(_) => why.to_owned(),
            None => format!("{why}, and did not end in time"),
        },
    }
}

/// Waits for the heartbeat and then, where there is a control port, for the first good health. The error says what did not
/// come.
async fn begin(
    control_port: Option<&Path>,
    beats: &mut watch::Receiver<bool>,
    limit: Duration,
) -> Result<(), &'static str> {
    let deadline = Instant::now() + limit;
    match timeout_at(deadline, beats.wait_for(|up| *up)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err("it sent no heartbeat"),
    }
    let Some(dir) = control_port else {
        return Ok(());
    };
    let client = Client::new(dir);
    let healthy = async {
        loop {
            match client.health().await {
                Ok(health) if health.status == "serving" => return,
                _ => sleep(LOOK).await,
            }
        }
    };
    timeout_at(deadline, healthy)
        .await
        .map_err(|_| "it sent a heartbeat, and its control port did not say that it serves")
}

/// Signals that end an enclave.
struct Interrupts {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Interrupts {
    /// From here on these signals end no process by themselves.
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests;
