//! The daemon's process: one of it for each home, its sockets, its signals.
//!
//! When it ends, enclaves run on; the next one finds them.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Group;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::api::{self, Api};
use super::config::{self, ConfigError, Settings};
use super::init_system::{self, InitSystem};
use super::keeper::{Command, Keeper, Parts};
use super::metrics::Metrics;
use super::sockets::bind_unix;
use super::web;
use crate::lifecycle::{Home, HomeError, SupervisorProgram};

/// The API's socket that an init system may pass goes by this name.
const PASSED_API: &str = "api";

/// Threads for what blocks: starts, files. They end when there is nothing to do.
const BLOCKING_THREADS: usize = 8;

/// How long the lock of a daemon that was killed may outlive it: a supervisor that it was just starting has a copy, until it
/// becomes another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Where enclaves' folders are.
    pub home: Home,
    /// The folder of `daemon.toml` and `enclaves.d`.
    pub folder: PathBuf,
    /// What becomes a supervisor.
    pub supervisor: SupervisorProgram,
}

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// What it is told cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its folders cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Another one runs.
    #[error("another daemon runs for {}: stop it, or set ANCHORHOLD_HOME to another folder", .0.display())]
    Second(PathBuf),
    /// It cannot listen.
    #[error("nothing can listen at {place}: {source}")]
    Listen {
        /// Where.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The group does not exist.
    #[error("[api] group: this host has no group {0:?}: make it with `groupadd --system {0}`")]
    Group(String),
    /// A group for a socket where it cannot get at it.
    #[error(
        "[api] group needs [api] socket: the folder of the enclaves is closed to everybody else"
    )]
    GroupWithoutSocket,
    /// The status page's token.
    #[error("[page] token_file {}: {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What it was doing.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Where a daemon of this home has its API's socket, unless its configuration says otherwise.
pub fn socket_of(home: &Home) -> PathBuf {
    home.enclaves().with_file_name("api.sock")
}

/// Runs until SIGTERM or SIGINT. `ready` is called once, with the API's socket, when it is served.
pub fn run(options: DaemonOptions, ready: impl FnOnce(&Path)) -> Result<(), DaemonError> {
    let system = |doing| move |source| DaemonError::System { doing, source };
    // Everything that it makes is its user's alone.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let config = config::load(&options.folder)?;
    options.home.make_enclaves()?;
    let _lock = only_one(&options.home)?;
    let mut passed = init_system::passed();
    let socket = config
        .settings
        .socket
        .clone()
        .unwrap_or_else(|| socket_of(&options.home));
    let listener = api_listener(&config.settings, &socket, passed.remove(PASSED_API))?;
    let token = config
        .settings
        .page
        .as_ref()
        .map(|(_, path)| token_in(path))
        .transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_millis(500))
        .build()
        .map_err(system("starting the event loop"))?;
    runtime.block_on(async {
        let mut hang_up = signal(SignalKind::hangup()).map_err(system("watching for SIGHUP"))?;
        let mut terminate =
            signal(SignalKind::terminate()).map_err(system("watching for SIGTERM"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(system("watching for SIGINT"))?;
        let listener = UnixListener::from_std(listener).map_err(system("serving the API"))?;
        let (commands, obeyed) = mpsc::channel(32);
        let api = Arc::new(Api {
            home: options.home.clone(),
            supervisor: options.supervisor.clone(),
            commands: commands.clone(),
            metrics: Metrics,
        });
        if let Some(address) = config.settings.metrics {
            let listener = tcp(address).await?;
            tokio::spawn(web::serve(listener, web::Site::Metrics, api.clone()));
        }
        if let (Some((address, _)), Some(token)) = (&config.settings.page, token) {
            let listener = tcp(*address).await?;
            tokio::spawn(web::serve(listener, web::Site::Page(token), api.clone()));
        }
        tokio::spawn(api::serve(listener, api));
        tokio::spawn(async move {
            while hang_up.recv().await.is_some() {
                if commands.send(Command::Reload(None)).await.is_err() {
                    return;
                }
            }
        });
        ready(&socket);
        let parts = Parts {
            home: options.home,
            folder: options.folder,
            supervisor: options.supervisor,
            config,
            passed,
            init_system: InitSystem::from_environment(),
        };
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Keeper::run(parts, obeyed, stop).await;
        Ok::<_, DaemonError>(())
    })?;
    // A start that is under way is given up: its supervisor notices.
    runtime.shutdown_background();
    let _ = std::fs::remove_file(socket);
    Ok(())
}

fn only_one(home: &Home) -> Result<Flock<File>, DaemonError> {
    let path = home.enclaves().with_file_name("daemon.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| DaemonError::System {
            doing: "opening daemon.lock",
            source,
        })?;
    let until = Instant::now() + LOCK_PATIENCE;
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, _)) if Instant::now() >= until => {
                return Err(DaemonError::Second(
                    path.parent().unwrap_or(&path).to_owned(),
                ));
            }
            Err((unlocked, _)) => file = unlocked,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn tcp(address: SocketAddr) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| DaemonError::Listen {
            place: address.to_string(),
            source,
        })
}

/// The API's listening socket: passed by the init system, which has seen to its permissions, or made here.
fn api_listener(
    settings: &Settings,
    path: &Path,
    passed: Option<OwnedFd>,
) -> Result<std::os::unix::net::UnixListener, DaemonError> {
    let listen = |source| DaemonError::Listen {
        place: path.display().to_string(),
        source,
    };
    let listener = match passed {
        Some(passed) => passed.into(),
        None => {
            if settings.group.is_some() && settings.socket.is_none() {
                return Err(DaemonError::GroupWithoutSocket);
            }
            let group = settings
                .group
                .as_ref()
                .map(|name| {
                    Group::from_name(name)
                        .ok()
                        .flatten()
                        .ok_or_else(|| DaemonError::Group(name.clone()))
                })
                .transpose()?;
            let listener = bind_unix(path).map_err(listen)?;
            if let Some(group) = group {
                std::os::unix::fs::chown(path, None, Some(group.gid.as_raw())).map_err(listen)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
                    .map_err(listen)?;
            }
            listener
        }
    };
    listener.set_nonblocking(true).map_err(listen)?;
    Ok(listener)
}

/// The token that readers of the status page must show: one line, of a file that nobody else may read.
fn token_in(path: &Path) -> Result<String, DaemonError> {
    let wrong = |problem: String| DaemonError::Token {
        path: path.to_owned(),
        problem,
    };
    let mode = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(wrong(format!(
            "others may read it (mode {:03o}): run chmod 600 on it",
            mode & 0o777
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    if token.len() < 16 || token.len() > 512 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "it holds one line of 16 to 512 printable characters, such as `openssl rand -hex 32` makes".into(),
        ));
    }
    Ok(token.to_owned())
}
