//! Puts the parts together: reads the manifest, starts what it asks for, and serves until the end.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anchorhold_envelope::fields::NameError;
use anchorhold_kms_wire::client::{Endpoint, EndpointError, TlsTrust};
use anchorhold_manifest::{
    API_SOCKET, API_SOCKET_VARIABLE, CONTROL_PORT, Contract, HEARTBEAT_PORT, JOB_PORT_VARIABLE,
    JOB_SOCKET, JOB_SOCKET_VARIABLE, JobStderr, KEY_SERVICE_CA_PATH, MANIFEST_PATH, Manifest,
    ManifestError, PersonalData, SECRETS_DIR, SETTINGS_VARIABLE, TLS_PORT,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::api::{self, Api};
use crate::call;
use crate::clock::{self, Clock, Heard, Sample};
use crate::control::{self, Calls, Control};
use crate::fields::FieldTerms;
use crate::init::{self, InitError};
use crate::isolation::{Confinement, ConfinementError, JOB_ID, Terms};
use crate::jobs::{Launcher, Stderr};
use crate::keys::{self, Keys, Recipient, RemoteKeyService};
use crate::nsm::{Claims, Device, Nsm as _, NsmError};
use crate::reaper::{Orphans, Reaper};
use crate::sealed_log;
use crate::secrets::{SecretError, Secrets, Wanted};
use crate::service::{self, Ended, Place, Service};
use crate::stream::{Listener, Parent as _, Vsock};
use crate::sys::{self, SpawnError};
use crate::tls::{self, Door, Identity, IdentityError};
use crate::window::Window;

/// The only folder that jobs write to.
const SCRATCH_DIR: &str = "/tmp";
/// AWS's convention for the sign of life.
const HEARTBEAT: u8 = 0xB7;
/// How long the parent may take to answer it.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two documents that the clock is compared with.
const TIME_PAUSE: Duration = Duration::from_mins(1);
/// Between two looks for data keys that are too old.
const LONGEST_WIPE_PAUSE: Duration = Duration::from_secs(10);
/// Between attempts to open the secrets of a job that waits for them; each pause is twice as long as the one before.
const FIRST_SECRETS_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_SECRETS_PAUSE: Duration = Duration::from_secs(30);
/// How long the rest of what a job wrote may take to be passed on.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Calls at a time for each CPU: one computes while another waits for keys.
const CALLS_FOR_EACH_CPU: usize = 2;

/// Why the enclave ended before its job did.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The machine could not be made usable.
    #[error("{0}")]
    Init(#[from] InitError),
    /// The NSM gave no answer.
    #[error("{0}")]
    Nsm(#[from] NsmError),
    /// A file of the image cannot be read.
    #[error("{path} cannot be read: {source}. Build the image with `anchorhold build`")]
    File {
        /// Its path.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The manifest is wrong.
    #[error("{MANIFEST_PATH}: {0}")]
    Manifest(#[from] ManifestError),
    /// The log cannot be sealed.
    #[error("the log cannot be sealed: {0}")]
    Log(#[source] anchorhold_envelope::Error),
    /// Fields of lines overlap.
    #[error("[fields] in {MANIFEST_PATH}: {0}")]
    Fields(#[from] NameError),
    /// The key service's address or CA is wrong.
    #[error("[key_service] in {MANIFEST_PATH}: {0}")]
    Endpoint(#[from] EndpointError),
    /// Jobs cannot be confined.
    #[error("{0}")]
    Confinement(#[from] ConfinementError),
    /// Threads, signals and other things that the kernel gives.
    #[error("the runtime cannot start: {0}")]
    System(#[source] io::Error),
    /// vsock does not work.
    #[error(
        "vsock port {CONTROL_PORT} cannot be listened on: {0}. The kernel needs vsock (CONFIG_VSOCKETS and a transport)"
    )]
    Vsock(#[source] io::Error),
    /// The port of attested TLS is taken.
    #[error("vsock port {TLS_PORT} cannot be listened on: {0}")]
    TlsPort(#[source] io::Error),
    /// There is no key for attested TLS.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The folder of secrets cannot be made.
    #[error("{SECRETS_DIR} cannot be made: {0}")]
    SecretsFolder(#[source] io::Error),
    /// The local API cannot be served.
    #[error("{API_SOCKET} cannot be listened on: {0}")]
    Api(#[source] io::Error),
    /// There is no loopback interface.
    #[error(
        "the loopback interface cannot be used, which http.port in anchorhold.toml needs: {0}. The kernel needs CONFIG_INET; without it, leave the port out, and have the job listen on its Unix socket"
    )]
    Loopback(#[source] io::Error),
    /// The folder of the job's socket cannot be made.
    #[error("the folder of {JOB_SOCKET} cannot be made: {0}")]
    SocketFolder(#[source] io::Error),
    /// The job of contract "once" or "http" could not be started.
    #[error("{0}")]
    Spawn(#[from] SpawnError),
    /// The job of contract "once" needs a secret.
    #[error("{0}")]
    Secret(#[from] SecretError),
}

/// Runs the enclave to its end and returns its exit code: the job's where it decides the enclave's end, else 0 after SIGTERM.
///
/// # Errors
/// Whatever keeps it from serving.
pub fn run() -> Result<i32, RuntimeError> {
    let nsm = init::prepare()?;
    // Before all else that takes time, since calls wait for it.
    let recipient = Recipient::generate();
    let manifest = Manifest::parse(&read(MANIFEST_PATH)?)?;
    tokio::runtime::Builder::new_multi_thread()
        // At least two, so that one busy worker does not hold up health checks.
        .worker_threads((manifest.resources.cpus as usize).clamp(2, 64))
        .enable_all()
        .build()
        .map_err(RuntimeError::System)?
        .block_on(serve(manifest, nsm, recipient))
}

async fn serve(manifest: Manifest, nsm: Device, recipient: Recipient) -> Result<i32, RuntimeError> {
    let mut terminated = signal(SignalKind::terminate()).map_err(RuntimeError::System)?;
    let reaper = Reaper::start(Orphans::Reap).map_err(RuntimeError::System)?;
    let launcher = launcher(&manifest, &nsm, reaper)?;
    let window = Arc::new(Window::new(Vsock));
    let nsm = Arc::new(nsm);
    let secrets = Arc::new(secrets(&manifest, &launcher));
    launcher.give(Arc::clone(&secrets));
    // Before anything that is dated or judged by the time.
    let clock = Arc::new(Clock::new(&sample(&nsm).await?));
    let keys = keys(&manifest, &nsm, &recipient, &window, &clock)?.map(Arc::new);
    seal_log(&manifest, &nsm, &clock, keys.as_ref())?;
    tokio::spawn(keep_time(Arc::clone(&clock), Arc::clone(&nsm)));
    if let Some(granted) = &manifest.api {
        let owner = launcher.confinement().job_owner();
        let listener = api::listen(Path::new(API_SOCKET), owner).map_err(RuntimeError::Api)?;
        let job_uid = owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| uid);
        let api = Api::new(
            granted.clone(),
            Arc::clone(&nsm),
            keys.clone(),
            Arc::clone(&secrets),
            Arc::clone(&clock),
            Arc::clone(launcher.reaper()),
            job_uid,
        );
        tokio::spawn(api.serve(listener));
    }
    if let Some(keys) = &keys {
        let (keys, secrets, window) = (Arc::clone(keys), Arc::clone(&secrets), Arc::clone(&window));
        tokio::spawn(async move {
            tokio::join!(secrets.keep_fresh(&window, &keys), wipe_old_keys(&keys))
        });
    }

    let calls = match (&keys, manifest.job.contract) {
        (Some(keys), Contract::Lines) => {
            let at_a_time = manifest.resources.cpus as usize * CALLS_FOR_EACH_CPU;
            Some(Calls {
                terms: Arc::new(call::Terms {
                    keys: Arc::clone(keys),
                    launcher: Arc::clone(&launcher),
                    max_line_bytes: manifest.job.max_line_bytes,
                    fields: manifest.fields.as_ref().map(FieldTerms::new).transpose()?,
                    timeout: Duration::from_secs(manifest.job.timeout_seconds),
                }),
                secrets: Arc::clone(&secrets),
                permits: Arc::new(Semaphore::new(at_a_time)),
                last_error: Arc::new(Mutex::new(None)),
            })
        }
        _ => None,
    };
    let starter = Starter {
        launcher,
        secrets,
        window: Arc::clone(&window),
        keys,
    };
    let service = manifest.http.as_ref().map(|http| {
        let terms = service::Terms {
            place: match http.port {
                Some(port) => Place::Port(port),
                None => Place::Socket(PathBuf::from(JOB_SOCKET)),
            },
            http: http.clone(),
            request_timeout: Duration::from_secs(manifest.job.timeout_seconds),
        };
        Service::new(&starter.launcher, terms)
    });
    if let Some(service) = &service {
        let door = Door::new(
            Identity::generate()?,
            Arc::clone(&nsm),
            Arc::clone(service),
            tls::Limits::of(manifest.resources.memory_mib),
        );
        let listener = Listener::bind(TLS_PORT).map_err(RuntimeError::TlsPort)?;
        tokio::spawn(door.serve(listener));
    }
    let control = Arc::new(Control {
        name: manifest.image.name.clone(),
        version: manifest.image.version.clone(),
        nsm,
        recipient,
        window: Arc::clone(&window),
        calls,
        service: service.clone(),
        clock,
        keys: starter.keys.clone(),
        counts: Arc::default(),
    });
    let listener = Listener::bind(CONTROL_PORT).map_err(RuntimeError::Vsock)?;
    let mut serving = tokio::spawn(control::serve(control, listener));
    tokio::spawn(async {
        if let Err(error) = heartbeat().await {
            crate::log!("the parent did not answer the heartbeat: {error}");
        }
    });
    crate::log_plainly!(
        "serving; jobs are confined by {}",
        starter.launcher.confinement()
    );

    let job = async {
        match (manifest.job.contract, service) {
            (Contract::Once, _) => starter.once().await,
            (Contract::Http, Some(service)) => starter.keep(&service).await,
            (Contract::Http, None) | (Contract::Lines, _) => {
                // Early, so that the first call does not wait; a failure is reported again by the call that needs it.
                if let Err(error) = starter.ensure_secrets().await {
                    crate::log!("{error}. Calls fail until then");
                }
                std::future::pending().await
            }
        }
    };
    let ended = tokio::select! {
        code = job => code,
        _ = terminated.recv() => Ok(0),
        stopped = &mut serving => match stopped {
            Ok(never) => match never {},
            Err(error) => Err(RuntimeError::System(io::Error::other(error))),
        },
    };
    sealed_log::settle().await;
    ended
}

/// What the last document says of the time.
async fn sample(nsm: &Arc<Device>) -> Result<Sample, RuntimeError> {
    let before = Instant::now();
    let document = keys::attest(nsm, Claims::default()).await?;
    let after = Instant::now();
    let unix_ms = clock::timestamp(&document).ok_or(NsmError::Unexpected {
        request: "Attestation",
    })?;
    Ok(Sample {
        unix_ms,
        before,
        after,
    })
}

/// Compares the clock with a document each minute.
async fn keep_time(clock: Arc<Clock>, nsm: Arc<Device>) {
    let mut last = None;
    loop {
        tokio::time::sleep(TIME_PAUSE).await;
        match sample(&nsm).await {
            Ok(sample) => {
                let heard = clock.hear(&sample);
                // Said once, not each minute.
                if let Heard::Step(step) = heard
                    && last != Some(step / 1000)
                {
                    crate::log!(
                        "attestation documents say a time that is {step} ms off: it is not followed"
                    );
                    last = Some(step / 1000);
                } else if heard == Heard::Agreed {
                    last = None;
                }
            }
            Err(error) => crate::log!("the time cannot be compared: {error}"),
        }
    }
}

/// Wipes data keys that have grown too old, also where nobody asks for one any more.
async fn wipe_old_keys(keys: &OwnKeys) {
    let Some(cache) = keys.cache() else { return };
    let pause = cache.max_age().min(LONGEST_WIPE_PAUSE);
    loop {
        tokio::time::sleep(pause).await;
        cache.expire(Instant::now());
    }
}

/// What a job needs before it starts.
struct Starter {
    launcher: Arc<Launcher>,
    secrets: Arc<Secrets>,
    window: Arc<Window<Vsock>>,
    keys: Option<Arc<OwnKeys>>,
}

impl Starter {
    async fn ensure_secrets(&self) -> Result<(), SecretError> {
        match &self.keys {
            Some(keys) => self.secrets.ensure(&self.window, keys).await,
            None => Ok(()),
        }
    }

    async fn once(&self) -> Result<i32, RuntimeError> {
        self.ensure_secrets().await?;
        let job = self.launcher.start_once().await?;
        let exit = job
            .exit
            .await
            .map_err(|_| RuntimeError::System(io::ErrorKind::NotFound.into()))?;
        // What it has written is passed on to its end. All who could write have ended with it.
        let _ = tokio::time::timeout(LAST_WORDS, job.forwarded).await;
        crate::log!("the job {exit}");
        Ok(exit.code())
    }

    async fn keep(&self, service: &Service) -> Result<i32, RuntimeError> {
        let mut pause = FIRST_SECRETS_PAUSE;
        while let Err(error) = self.ensure_secrets().await {
            crate::log!(
                "{error}. The job is not started before; another attempt in {} s",
                pause.as_secs()
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_SECRETS_PAUSE);
        }
        match service.keep(&self.launcher).await {
            Ended::Job(exit) => Ok(exit.code()),
            Ended::Spawn(error) => Err(error.into()),
        }
    }
}

fn launcher(
    manifest: &Manifest,
    nsm: &Device,
    reaper: Arc<Reaper>,
) -> Result<Arc<Launcher>, RuntimeError> {
    // Others than the owner may pass through, for their own files, and not look around.
    make_folder(Path::new(SECRETS_DIR), 0o711).map_err(RuntimeError::SecretsFolder)?;
    let mut environment = manifest.job.environment.clone();
    if let Some(settings) = &manifest.job.settings {
        environment.insert(SETTINGS_VARIABLE.to_owned(), settings.to_string());
    }
    let port = manifest.http.as_ref().and_then(|http| http.port);
    let sockets = match (manifest.job.contract, port) {
        (Contract::Http, None) => {
            environment.insert(JOB_SOCKET_VARIABLE.to_owned(), JOB_SOCKET.to_owned());
            Some(service::make_folder(Path::new(JOB_SOCKET)).map_err(RuntimeError::SocketFolder)?)
        }
        _ => None,
    };
    if let Some(port) = port {
        environment.insert(JOB_PORT_VARIABLE.to_owned(), port.to_string());
        sys::provide_loopback().map_err(RuntimeError::Loopback)?;
    }
    let api = if manifest.api.is_some() {
        environment.insert(API_SOCKET_VARIABLE.to_owned(), API_SOCKET.to_owned());
        Some(api::make_folder(Path::new(API_SOCKET)).map_err(RuntimeError::Api)?)
    } else {
        None
    };
    let confinement = Confinement::prepare(&Terms {
        command: manifest.job.command.clone(),
        environment,
        sockets: sockets.clone(),
        port,
        api,
        scratch: PathBuf::from(SCRATCH_DIR),
        secrets: PathBuf::from(SECRETS_DIR),
        max_file_bytes: u64::from(manifest.resources.memory_mib) * 1024 * 1024 / 2,
        folder: PathBuf::from(manifest.job.working_directory.as_deref().unwrap_or("/")),
        user: manifest
            .job
            .user
            .map_or((JOB_ID, JOB_ID), |user| (user.uid, user.gid)),
    })?;
    if let (Some(folder), Some((uid, gid))) = (sockets, confinement.job_owner()) {
        std::os::unix::fs::chown(folder, Some(uid), Some(gid))
            .map_err(RuntimeError::SocketFolder)?;
    }
    let forward = match manifest.log.personal_data {
        PersonalData::Redact => Stderr::Forward,
        PersonalData::Keep => Stderr::ForwardAll,
    };
    let stderr = match manifest.log.job_stderr {
        JobStderr::Forward => forward,
        JobStderr::Drop if init::is_debug(nsm)? => forward,
        JobStderr::Drop => Stderr::Drop,
    };
    let scratch = Some(PathBuf::from(SCRATCH_DIR));
    let launcher = Launcher::new(confinement, reaper, stderr, scratch);
    Ok(Arc::new(match manifest.log.personal_data {
        PersonalData::Redact => launcher,
        PersonalData::Keep => launcher.keeping_personal_data(),
    }))
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn secrets(manifest: &Manifest, launcher: &Launcher) -> Secrets {
    let default = manifest
        .key_service
        .as_ref()
        .map(|service| service.key.clone())
        .unwrap_or_default();
    let wanted = manifest
        .secrets
        .iter()
        .map(|(name, secret)| {
            let wanted = Wanted {
                key: secret.key.clone().unwrap_or_else(|| default.clone()),
                delivery: secret.delivery.clone(),
                refresh: secret.refresh_seconds.map(Duration::from_secs),
            };
            (name.clone(), wanted)
        })
        .collect();
    Secrets::new(
        wanted,
        PathBuf::from(SECRETS_DIR),
        launcher.confinement().job_owner(),
    )
}

/// From here on the console's lines are the owner's, where the manifest says so. A debug enclave is given no data key, and its
/// console is meant to be read.
fn seal_log(
    manifest: &Manifest,
    nsm: &Arc<Device>,
    clock: &Arc<Clock>,
    keys: Option<&Arc<OwnKeys>>,
) -> Result<(), RuntimeError> {
    let (Some(key_id), Some(keys)) = (&manifest.log.encrypt_to, keys) else {
        return Ok(());
    };
    if init::is_debug(nsm.as_ref())? {
        crate::log!("debug mode: the log is not sealed");
        return Ok(());
    }
    let context = sealed_log::context(&nsm.describe()?.module_id).map_err(RuntimeError::Log)?;
    crate::log_plainly!("what follows is sealed under {key_id}");
    sealed_log::begin(context, Arc::clone(clock), Arc::clone(keys), key_id.clone());
    Ok(())
}

type OwnKeys = Keys<Device, RemoteKeyService<Vsock>>;

fn keys(
    manifest: &Manifest,
    nsm: &Arc<Device>,
    recipient: &Recipient,
    window: &Arc<Window<Vsock>>,
    clock: &Arc<Clock>,
) -> Result<Option<OwnKeys>, RuntimeError> {
    let Some(service) = &manifest.key_service else {
        return Ok(None);
    };
    let endpoint = Endpoint {
        url: service.endpoint.clone(),
        region: service.region.clone(),
        tls: match service.ca {
            Some(_) => TlsTrust::Ca(read(KEY_SERVICE_CA_PATH)?),
            None => TlsTrust::Roots,
        },
    };
    let remote = RemoteKeyService::new(&endpoint, window, clock)?;
    let keys = Keys::new(
        Arc::clone(nsm),
        remote,
        recipient.clone(),
        service.key.clone(),
    );
    Ok(Some(keys.with_cache(service.data_key_cache)))
}

/// Tells the parent that the control port listens (AWS's convention: one byte there and back).
async fn heartbeat() -> io::Result<()> {
    let exchange = async {
        let mut stream = Vsock.dial(HEARTBEAT_PORT).await?;
        stream.write_all(&[HEARTBEAT]).await?;
        let answer = stream.read_u8().await?;
        if answer == HEARTBEAT {
            Ok(())
        } else {
            Err(io::Error::other(format!("it sent {answer:#04x} back")))
        }
    };
    tokio::time::timeout(HEARTBEAT_TIMEOUT, exchange)
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

fn read(path: &'static str) -> Result<String, RuntimeError> {
    fs::read_to_string(path).map_err(|source| RuntimeError::File { path, source })
}

/// The program: runs the enclave and ends it, as PID 1 must.
pub fn main() -> ! {
    match run() {
        Ok(code) => init::end(code),
        Err(RuntimeError::Init(error @ InitError::NotInit)) => {
            crate::log!("{error}");
            std::process::exit(2)
        }
        Err(error) => {
            // Of the image and the machine, and of no call.
            crate::log_plainly!("{error}");
            init::end(1)
        }
    }
}
