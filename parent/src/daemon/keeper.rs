//! The keeper: one loop that knows what is declared and what runs, and carries out what [`reconcile`](super::reconcile) says.
//!
//! Nothing is waited for in the loop: starts, attestation and requests to supervisors are tasks whose outcome comes back as an
//! event, so that one enclave that hangs, floods or lies holds up no other. It wakes for events and for what is due, and for
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, debug_span, info_span};

use super::admission::{Demand, admit, now_ms};
use super::config::{self, Config, Declared, Delays, Settings};
use super::init_system::InitSystem;
use super::reconcile::{Found, Stage, Step, Wish, steps};
use super::sockets::Sockets;
use super::view::{Attested, Condition, EnclaveView, Reloaded};
use crate::lifecycle::{
    self, CONTROL_SOCKET, Home, Ingress, Reply, Request, State, Status, SuperviseOptions,
    SupervisorProgram,
};
use crate::sandbox::limits;
use crate::window::{Allowlist, Limits};

/// Starts at once; more wait. A start keeps both sides of the machine busy.
const MOST_STARTS: usize = 4;

/// How long a supervisor may take for a request: it waits for nothing itself.
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// How long an enclave that is ended may take before it is killed.
const END_GRACE: Duration = Duration::from_secs(10);

/// After what could not be applied, until it is tried again.
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// Between the two attempts of a running enclave to attest anew.
const RENEW_PAUSE: Duration = Duration::from_secs(5);

/// The drain of one whose declaration is gone.
const LAST_DRAIN: Duration = Duration::from_secs(30);

/// Ended instances of one name that are shown.
const ENDED_SHOWN: usize = 3;

/// What happened.
pub(super) enum Event {
    Started {
        name: String,
        instance: String,
        result: Result<(Box<State>, Child), String>,
    },
    Asked {
        instance: String,
        result: Result<Box<Attested>, String>,
    },
    Applied {
        instance: String,
        revision: u64,
        result: Result<(), String>,
    },
    Gone {
        instance: String,
    },
    Buried {
        instance: String,
        state: Option<Box<State>>,
    },
    Read {
        config: Box<Result<Config, config::ConfigError>>,
        answer: Option<oneshot::Sender<Result<Reloaded, String>>>,
    },
}

/// What the API asks of the loop.
pub(super) enum Command {
    /// All enclaves, with the states that are on disk.
    List(Vec<State>, oneshot::Sender<Vec<EnclaveView>>),
    /// Numbers of all enclaves.
    Readings(oneshot::Sender<Vec<Reading>>),
    /// Keep watch over one that was started without a declaration.
    Watch(Box<State>, Child),
    /// Drain and hold back a declared one; answered when nothing of it runs. `false`: nothing declares it.
    Stop(String, Duration, oneshot::Sender<bool>),
    /// Let a declared one start again. `false`: nothing declares it.
    Start(String, oneshot::Sender<bool>),
    /// Read the configuration anew.
    Reload(Option<oneshot::Sender<Result<Reloaded, String>>>),
    /// Whether all that is declared, and not held back, serves; else what does not.
    Ready(oneshot::Sender<Vec<String>>),
}

/// Numbers of one enclave.
pub(super) struct Reading {
    pub(super) name: String,
    pub(super) condition: Condition,
    pub(super) restarts: u64,
    pub(super) failures: u64,
    pub(super) attested_ms: Option<u64>,
    /// Folder and supervisor of the instance that serves.
    pub(super) serving: Option<(PathBuf, u32)>,
}

struct Instance {
    of: Option<String>,
    core: Option<String>,
    stage: Stage,
    started_ms: u64,
    revision: Option<u64>,
    dir: PathBuf,
    state: Option<State>,
    child: Option<Child>,
    attested: Option<Attested>,
    admitted: Option<Instant>,
    renew_at: Option<Instant>,
    misses: u32,
    applying: bool,
    apply_at: Option<Instant>,
    drain_limit: Duration,
    /// Its end was told to [`Past`] already.
    counted: bool,
}

#[derive(Default)]
struct Past {
    /// In a row.
    failures: u32,
    all_failures: u64,
    starts: u64,
    not_before: Option<Instant>,
    next_start_ms: Option<u64>,
    last_error: Option<String>,
}

/// What the loop is made of.
pub(super) struct Parts {
    pub(super) home: Home,
    pub(super) folder: PathBuf,
    pub(super) supervisor: SupervisorProgram,
    pub(super) config: Config,
    pub(super) passed: BTreeMap<String, OwnedFd>,
    pub(super) init_system: InitSystem,
}

/// The loop's state.
pub(super) struct Keeper {
    home: Home,
    folder: PathBuf,
    supervisor: Arc<SupervisorProgram>,
    settings: Settings,
    declared: BTreeMap<String, Declared>,
    revisions: BTreeMap<String, u64>,
    held: BTreeSet<String>,
    instances: BTreeMap<String, Instance>,
    past: BTreeMap<String, Past>,
    sockets: Sockets,
    starts: Arc<Semaphore>,
    events: mpsc::UnboundedSender<Event>,
    waiting: Vec<(String, oneshot::Sender<bool>)>,
    init_system: InitSystem,
    reloads: u64,
}

/// Four random characters behind a declared name.
fn instance_name(of: &str) -> String {
    lifecycle::instance_name(of).unwrap_or_else(|_| format!("{of}-{}", now_ms() % 1_000_000))
}

impl Keeper {
    /// Runs until `stop` says so. Enclaves go on.
    pub(super) async fn run(
        parts: Parts,
        mut commands: mpsc::Receiver<Command>,
        stop: impl Future<Output = ()>,
    ) {
        let (events, mut happened) = mpsc::unbounded_channel();
        let watchdog = parts.init_system.watchdog();
        let mut keeper = Keeper {
            home: parts.home,
            folder: parts.folder,
            supervisor: Arc::new(parts.supervisor),
            settings: parts.config.settings,
            revisions: parts
                .config
                .enclaves
                .keys()
                .map(|name| (name.clone(), 1))
                .collect(),
            declared: parts.config.enclaves,
            held: BTreeSet::new(),
            instances: BTreeMap::new(),
            past: BTreeMap::new(),
            sockets: Sockets::new(parts.passed),
            starts: Arc::new(Semaphore::new(MOST_STARTS)),
            events,
            waiting: Vec::new(),
            init_system: parts.init_system,
            reloads: 0,
        };
        keeper.read_held();
        keeper.find().await;
        keeper.init_system.say("READY=1");
        tokio::pin!(stop);
        let mut bark = watchdog.map(|every| Instant::now() + every);
        loop {
            keeper.carry_out();
            let due = [keeper.next_due(), bark].into_iter().flatten().min();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => break,
                Some(event) = happened.recv() => keeper.happened(event),
                Some(command) = commands.recv() => {
                    // What is due is done before it is told of: an enclave whose next start has just come due is no stopped one.
                    keeper.carry_out();
                    keeper.obey(command);
                }
                () = sleep => {}
            }
            if let (Some(at), Some(every)) = (bark, watchdog)
                && Instant::now() >= at
            {
                keeper.init_system.say("WATCHDOG=1");
                bark = Some(Instant::now() + every);
            }
        }
        keeper.init_system.say("STOPPING=1");
    }

    fn held_folder(&self) -> Option<PathBuf> {
        self.home.state().ok().map(|state| state.join("held"))
    }

    fn read_held(&mut self) {
        let entries = self.held_folder().map(fs::read_dir);
        for entry in entries.into_iter().flatten().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str()
                && lifecycle::is_name(name)
            {
                self.held.insert(name.to_owned());
            }
        }
    }

    /// Holds a declared enclave back, or no more, also for the daemon after this one.
    fn hold(&mut self, name: &str, held: bool) {
        let changed = if held {
            self.held.insert(name.to_owned())
        } else {
            self.held.remove(name)
        };
        let Some(folder) = self.held_folder().filter(|_| changed) else {
            return;
        };
        let written = if held {
            fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(name), ""))
        } else {
            fs::remove_file(folder.join(name))
        };
        if let Err(error) = written {
            tracing::warn!(%error, name, "whether it is stopped is not kept for the next start of the daemon");
        }
    }

    /// Finds what earlier daemons have started, and takes back the listening sockets that supervisors have.
    async fn find(&mut self) {
        let states = match lifecycle::list(&self.home) {
            Ok(states) => states,
            Err(error) => {
                tracing::error!(%error, "the enclaves that run cannot be listed");
                return;
            }
        };
        for state in states {
            let Some(of) = state.of.clone() else { continue };
            let stage = match &state.status {
                Status::Serving if state.draining => Stage::Draining,
                // What was admitted serves on while it is asked anew.
                Status::Serving if state.admitted_ms.is_some() => Stage::Admitted,
                Status::Serving => Stage::Serving,
                // Its starter is dead, so that it gives up by itself.
                Status::Starting => continue,
                Status::Ended { code, .. } => Stage::Ended(*code),
                Status::Lost => Stage::Ended(None),
            };
            let name = state.name.clone();
            let runs = !matches!(stage, Stage::Ended(_));
            let instance = Instance {
                renew_at: (stage == Stage::Admitted).then(Instant::now),
                admitted: (stage == Stage::Admitted).then(Instant::now),
                counted: !runs,
                ..Instance::new(Some(of.clone()), state.core.clone(), stage, &state)
            };
            self.past.entry(of).or_default().starts += u64::from(runs);
            let dir = instance.dir.clone();
            self.instances.insert(name.clone(), instance);
            if runs {
                tracing::info!(instance = name, "found a running enclave");
                self.take_back(&name, &dir).await;
                self.watch(&name, &dir);
            }
        }
    }

    async fn take_back(&mut self, instance: &str, dir: &Path) {
        let answer = lifecycle::ask(dir, &Request::Listeners, &[], ASK_LIMIT).await;
        match answer {
            Ok((Reply::Listeners { ingress }, sockets)) => {
                let of = self.instances.get(instance).and_then(|one| one.of.clone());
                let Some(declared) = of.and_then(|of| self.declared.get(&of)) else {
                    return;
                };
                for (ingress, socket) in ingress.iter().zip(sockets) {
                    self.sockets.take_back(declared, &ingress.name, socket);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(instance, %error, "its listening sockets are not known"),
        }
    }

    /// Notices the supervisor's end by the end of a connection to it.
    fn watch(&self, instance: &str, dir: &Path) {
        let (events, instance) = (self.events.clone(), instance.to_owned());
        let path = dir.join(CONTROL_SOCKET);
        tokio::spawn(async move {
            if let Ok(stream) = UnixStream::connect(path).await {
                // The supervisor says nothing that it was not asked.
                while stream.readable().await.is_ok()
                    && stream
                        .try_read(&mut [0])
                        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
                {
                }
            }
            let _ = events.send(Event::Gone { instance });
        });
    }

    fn wishes(&self) -> BTreeMap<String, Wish> {
        self.declared
            .iter()
            .map(|(name, declared)| {
                let wish = Wish {
                    core: declared.core.text(),
                    revision: self.revisions.get(name).copied().unwrap_or(1),
                    restart: declared.restart,
                    held: self.held.contains(name),
                };
                (name.clone(), wish)
            })
            .collect()
    }

    fn carry_out(&mut self) {
        let found: Vec<Found> = self
            .instances
            .iter()
            .map(|(name, one)| Found {
                instance: name.clone(),
                of: one.of.clone(),
                core: one.core.clone(),
                stage: one.stage,
                started_ms: one.started_ms,
                revision: one.revision,
            })
            .collect();
        let now = Instant::now();
        let due = steps(&self.wishes(), &found, |name| {
            self.past
                .get(name)
                .and_then(|past| past.not_before)
                .is_none_or(|at| at <= now)
        });
        for step in due {
            match step {
                Step::Start(name) => self.start(&name),
                Step::Ask(instance) => self.ask(&instance, Stage::Asked),
                Step::Apply(instance) => self.apply(&instance),
                Step::Drain(instance) => self.drain(&instance, None),
                Step::End(instance) => self.end(&instance),
            }
        }
        let renewals: Vec<String> = self
            .instances
            .iter()
            .filter(|(_, one)| {
                one.stage == Stage::Admitted && one.renew_at.is_some_and(|at| at <= now)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for instance in renewals {
            self.ask(&instance, Stage::Admitted);
        }
        let instances = &self.instances;
        let runs = |name: &str| {
            instances
                .values()
                .any(|one| one.of.as_deref() == Some(name) && !matches!(one.stage, Stage::Ended(_)))
        };
        let (over, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|(name, _)| !runs(name));
        self.waiting = waiting;
        for (_, answer) in over {
            let _ = answer.send(true);
        }
    }

    /// When the loop must look again though nothing happened.
    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let starts = self.past.values().filter_map(|past| past.not_before);
        let others = self
            .instances
            .values()
            .filter(|one| one.stage == Stage::Admitted)
            .flat_map(|one| [one.renew_at, one.apply_at]);
        starts.chain(others.flatten()).filter(|at| *at > now).min()
    }

    fn start(&mut self, name: &str) {
        let Some(declared) = self.declared.get(name) else {
            return;
        };
        let instance = instance_name(name);
        let core = declared.core.text();
        let mut options = SuperviseOptions::new(self.home.clone(), &declared.core.image);
        options.name = Some(instance.clone());
        options.of = Some(name.to_owned());
        options.core = Some(core.clone());
        options.memory_mib = declared.core.memory_mib;
        options.cpus = declared.core.cpus;
        options.backend = declared.core.backend;
        options.isolation = declared.core.isolation;
        options.allowlist = declared.egress.clone();
        options.limits = declared.egress_limits;
        options.credentials = declared.core.credentials.clone();
        options.secrets = declared.sources();
        options.start_limit_ms = declared.start_limit.as_millis() as u64;
        let past = self.past.entry(name.to_owned()).or_default();
        past.starts += 1;
        past.not_before = None;
        past.next_start_ms = None;
        let one = Instance {
            of: Some(name.to_owned()),
            core: Some(core),
            stage: Stage::Starting,
            started_ms: now_ms(),
            revision: None,
            dir: self.home.enclave(&instance),
            state: None,
            child: None,
            attested: None,
            admitted: None,
            renew_at: None,
            misses: 0,
            applying: false,
            apply_at: None,
            drain_limit: declared.drain_limit,
            counted: false,
        };
        self.instances.insert(instance.clone(), one);
        tracing::info!(name, instance, "starting");
        let (events, places) = (self.events.clone(), self.starts.clone());
        let (supervisor, name) = (self.supervisor.clone(), name.to_owned());
        let span = info_span!("start", name, instance);
        let starting = async move {
            let place = places.acquire_owned().await;
            let started =
                spawn_blocking(move || lifecycle::spawn_child(&options, &supervisor)).await;
            drop(place);
            let result = match started {
                Ok(Ok((serving, child))) => Ok((Box::new(serving.state), child)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(format!("the start broke off: {error}")),
            };
            let _ = events.send(Event::Started {
                name,
                instance,
                result,
            });
        };
        tokio::spawn(starting.instrument(span));
    }

    fn demand(&self, declared: &Declared) -> Demand {
        let own = || self.home.development_root().join("root.pem");
        Demand {
            backend: declared.core.backend,
            pcr0: declared.core.pcr0,
            development_root: self.settings.development_root.clone().unwrap_or_else(own),
            max_age: self.settings.max_age,
        }
    }

    /// Has an instance attest; its stage is this one meanwhile.
    fn ask(&mut self, instance: &str, meanwhile: Stage) {
        let Some(declared) = self
            .instances
            .get(instance)
            .and_then(|one| self.declared.get(one.of.as_deref()?))
        else {
            return;
        };
        let (demand, limit) = (self.demand(declared), declared.start_limit);
        let Some(one) = self.instances.get_mut(instance) else {
            return;
        };
        one.stage = meanwhile;
        one.renew_at = None;
        let (events, dir) = (self.events.clone(), one.dir.clone());
        let instance = instance.to_owned();
        let span = debug_span!("attest", instance);
        let asking = async move {
            let asked = async {
                let attested = admit(&dir, &demand).await?;
                let request = Request::Admit {
                    at_ms: attested.at_ms,
                };
                lifecycle::ask(&dir, &request, &[], ASK_LIMIT)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Box::new(attested))
            };
            let result = timeout(limit, asked)
                .await
                .unwrap_or_else(|_| Err(format!("it did not attest within {} s", limit.as_secs())));
            let _ = events.send(Event::Asked { instance, result });
        };
        tokio::spawn(asking.instrument(span));
    }

    fn apply(&mut self, instance: &str) {
        let now = Instant::now();
        let Some(one) = self.instances.get_mut(instance) else {
            return;
        };
        if one.applying || one.apply_at.is_some_and(|at| at > now) {
            return;
        }
        let Some(declared) = one.of.as_ref().and_then(|of| self.declared.get(of)) else {
            return;
        };
        let revision = self.revisions.get(&declared.name).copied().unwrap_or(1);
        let mut ingress = Vec::new();
        let mut sockets = Vec::new();
        let mut problem = None;
        for entrance in declared.entrances.values() {
            match self.sockets.at(&entrance.listen) {
                Ok(socket) => {
                    ingress.push(entrance.ingress.clone());
                    sockets.push(socket);
                }
                Err(error) => problem = Some(error),
            }
        }
        one.applying = true;
        let (events, instance) = (self.events.clone(), instance.to_owned());
        let (dir, egress) = (one.dir.clone(), declared.egress.clone());
        let limits = declared.egress_limits;
        let sealed = declared
            .sealed
            .iter()
            .map(|(name, bytes)| (name.clone(), STANDARD.encode(bytes)))
            .collect();
        let span = debug_span!("apply", instance, revision);
        let applying = async move {
            let result = match problem {
                Some(problem) => Err(problem),
                None => apply_all(&dir, ingress, sockets, (egress, limits), sealed)
                    .await
                    .map_err(|error| error.to_string()),
            };
            let _ = events.send(Event::Applied {
                instance,
                revision,
                result,
            });
        };
        tokio::spawn(applying.instrument(span));
    }

    fn drain(&mut self, instance: &str, limit: Option<Duration>) {
        let Some(one) = self.instances.get_mut(instance) else {
            return;
        };
        one.stage = Stage::Draining;
        one.counted = true;
        let limit = limit.unwrap_or(one.drain_limit);
        tracing::info!(instance, "draining");
        let (dir, home, name) = (one.dir.clone(), self.home.clone(), instance.to_owned());
        let span = debug_span!("drain", instance);
        let draining = async move {
            let request = Request::Drain {
                limit_ms: limit.as_millis() as u64,
            };
            if let Err(error) = lifecycle::ask(&dir, &request, &[], ASK_LIMIT).await {
                tracing::warn!(instance = name, %error, "it cannot be drained, and is ended");
                let _ = spawn_blocking(move || lifecycle::stop(&home, &name, END_GRACE)).await;
            }
        };
        tokio::spawn(draining.instrument(span));
    }

    fn end(&mut self, instance: &str) {
        if let Some(one) = self.instances.get_mut(instance) {
            one.stage = Stage::Ending;
            let (home, name) = (self.home.clone(), instance.to_owned());
            spawn_blocking(move || {
                if let Err(error) = lifecycle::stop(&home, &name, END_GRACE) {
                    tracing::error!(instance = name, %error, "it cannot be ended");
                }
            });
        }
    }

    fn failed(&mut self, name: &str, error: String) {
        tracing::warn!(name, error, "failed");
        let past = self.past.entry(name.to_owned()).or_default();
        past.failures = past.failures.saturating_add(1);
        past.all_failures += 1;
        past.last_error = Some(error);
        let delay = uneven(delay(self.settings.delays, past.failures), random());
        past.not_before = Some(Instant::now() + delay);
        past.next_start_ms = Some(now_ms() + delay.as_millis() as u64);
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Started {
                name,
                instance,
                result,
            } => self.started(&name, &instance, result),
            Event::Asked { instance, result } => self.asked(&instance, result),
            Event::Applied {
                instance,
                revision,
                result,
            } => {
                let Some(one) = self.instances.get_mut(&instance) else {
                    return;
                };
                one.applying = false;
                match result {
                    Ok(()) => {
                        one.revision = Some(revision);
                        one.apply_at = None;
                    }
                    Err(error) => {
                        tracing::warn!(instance, error, "what is declared cannot be applied");
                        one.apply_at = Some(Instant::now() + APPLY_PAUSE);
                        if let Some(of) = one.of.clone() {
                            self.past.entry(of).or_default().last_error = Some(error);
                        }
                    }
                }
            }
            Event::Gone { instance } => {
                let Some(one) = self.instances.get_mut(&instance) else {
                    return;
                };
                let (child, home, events) =
                    (one.child.take(), self.home.clone(), self.events.clone());
                // It serves no more, whatever its last words are.
                if one.stage != Stage::Draining {
                    one.stage = Stage::Ending;
                }
                let supervisor = one.state.as_ref().map(|state| state.supervisor.pid);
                spawn_blocking(move || {
                    let state = lifecycle::stop(&home, &instance, END_GRACE).ok();
                    if let Some(mut child) = child {
                        let _ = child.wait();
                    }
                    // One that was killed had no time for it.
                    if let Some(supervisor) = supervisor {
                        limits::remove_groups_of(supervisor);
                    }
                    let _ = events.send(Event::Buried {
                        instance,
                        state: state.map(Box::new),
                    });
                });
            }
            Event::Buried { instance, state } => self.buried(&instance, state),
            Event::Read { config, answer } => {
                let outcome = match *config {
                    Ok(config) => Ok(self.reload(config)),
                    Err(error) => {
                        tracing::error!(%error, "nothing was reloaded: everything stays as it is");
                        Err(format!("nothing was reloaded: {error}"))
                    }
                };
                self.init_system.say("READY=1");
                if let Some(answer) = answer {
                    let _ = answer.send(outcome);
                }
            }
        }
    }

    fn started(&mut self, name: &str, instance: &str, result: Result<(Box<State>, Child), String>) {
        match result {
            Ok((state, child)) => {
                let dir = state.dir.clone();
                if let Some(one) = self.instances.get_mut(instance) {
                    one.stage = Stage::Serving;
                    one.started_ms = state.started_ms;
                    one.dir.clone_from(&dir);
                    one.state = Some(*state);
                    one.child = Some(child);
                }
                self.watch(instance, &dir);
            }
            Err(error) => {
                let home = self.home.clone();
                let ended = lifecycle::find(&home, instance).ok();
                let code = match ended.as_ref().map(|state| &state.status) {
                    Some(Status::Ended { code, .. }) => *code,
                    _ => None,
                };
                if let Some(one) = self.instances.get_mut(instance) {
                    one.stage = Stage::Ended(code);
                    one.counted = true;
                    one.state = ended;
                }
                self.failed(name, error);
                self.forget(name);
            }
        }
    }

    fn asked(&mut self, instance: &str, result: Result<Box<Attested>, String>) {
        let renew = self.settings.renew;
        let Some(one) = self.instances.get_mut(instance) else {
            return;
        };
        if !matches!(one.stage, Stage::Asked | Stage::Admitted) {
            return;
        }
        let now = Instant::now();
        let of = one.of.clone().unwrap_or_default();
        match result {
            Ok(attested) => {
                if one.stage == Stage::Asked {
                    one.admitted = Some(now);
                    tracing::info!(instance, module_id = attested.module_id, "admitted");
                    // Its image was read and its document checked; neither is looked at again.
                    lifecycle::return_freed_memory();
                }
                one.stage = Stage::Admitted;
                one.attested = Some(*attested);
                one.renew_at = Some(now + renew);
                one.misses = 0;
            }
            // A busy moment ends no enclave that serves; a second one in a row does.
            Err(error) if one.stage == Stage::Admitted && one.misses == 0 => {
                tracing::warn!(
                    instance,
                    error,
                    "it did not attest anew, and is asked once more"
                );
                one.misses = 1;
                one.renew_at = Some(now + RENEW_PAUSE);
            }
            Err(error) => {
                one.counted = true;
                self.failed(&of, format!("{instance} was ended: {error}"));
                self.end(instance);
            }
        }
    }

    fn buried(&mut self, instance: &str, state: Option<Box<State>>) {
        let settled = self.settings.delays.settled;
        let Some(one) = self.instances.get_mut(instance) else {
            return;
        };
        let (code, reason) = match state.as_ref().map(|state| &state.status) {
            Some(Status::Ended { code, reason }) => (*code, reason.clone()),
            _ => (None, "its supervisor was killed".to_owned()),
        };
        one.stage = Stage::Ended(code);
        one.state = state.map(|state| *state);
        let counted = std::mem::replace(&mut one.counted, true);
        let was_settled = one.admitted.is_some_and(|since| since.elapsed() >= settled);
        let Some(of) = one.of.clone() else {
            self.instances.remove(instance);
            return;
        };
        tracing::info!(instance, reason, "has ended");
        if !counted {
            if was_settled {
                let past = self.past.entry(of.clone()).or_default();
                past.failures = 0;
            }
            self.failed(&of, format!("{instance}: {reason}"));
        }
        self.forget(&of);
    }

    /// Keeps the last few ended instances of a name.
    fn forget(&mut self, name: &str) {
        let mut ended: Vec<(u64, String)> = self
            .instances
            .iter()
            .filter(|(_, one)| {
                one.of.as_deref() == Some(name) && matches!(one.stage, Stage::Ended(_))
            })
            .map(|(instance, one)| (one.started_ms, instance.clone()))
            .collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(ENDED_SHOWN);
        for (_, instance) in ended.into_iter().take(surplus) {
            self.instances.remove(&instance);
        }
        if !self.declared.contains_key(name)
            && !self
                .instances
                .values()
                .any(|one| one.of.as_deref() == Some(name) && !matches!(one.stage, Stage::Ended(_)))
        {
            self.past.remove(name);
        }
    }

    fn reload(&mut self, config: Config) -> Reloaded {
        let mut changes = Reloaded::default();
        for (name, new) in &config.enclaves {
            match self.declared.get(name) {
                None => changes.added.push(name.clone()),
                Some(old) if old.core != new.core => changes.replaced.push(name.clone()),
                Some(old) if old != new => changes.changed.push(name.clone()),
                Some(_) => continue,
            }
            *self.revisions.entry(name.clone()).or_insert(0) += 1;
            // A new declaration deserves a start of its own.
            if let Some(past) = self.past.get_mut(name) {
                past.failures = 0;
                past.not_before = None;
            }
        }
        let gone = |name: &&String| !config.enclaves.contains_key(*name);
        changes.removed = self.declared.keys().filter(gone).cloned().collect();
        for name in &changes.removed {
            self.hold(name, false);
            self.revisions.remove(name);
        }
        let (old, new) = (&self.settings, &config.settings);
        for (what, differs) in [
            ("[api]", old.socket != new.socket || old.group != new.group),
            ("[metrics]", old.metrics != new.metrics),
            ("[page]", old.page != new.page),
        ] {
            if differs {
                changes.at_next_start.push(what.to_owned());
            }
        }
        self.settings = config.settings;
        self.declared = config.enclaves;
        for one in self.instances.values_mut() {
            if let Some(declared) = one.of.as_ref().and_then(|of| self.declared.get(of)) {
                one.drain_limit = declared.drain_limit;
            }
            one.apply_at = None;
        }
        self.sockets.keep_only(self.declared.values());
        self.reloads += 1;
        tracing::info!(?changes, "reloaded");
        changes
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::List(states, answer) => {
                let _ = answer.send(self.views(states));
            }
            Command::Readings(answer) => {
                let _ = answer.send(self.readings());
            }
            Command::Watch(state, child) => {
                let dir = state.dir.clone();
                let instance = Instance {
                    child: Some(child),
                    ..Instance::new(None, None, Stage::Serving, &state)
                };
                self.watch(&state.name, &dir);
                self.instances.insert(state.name.clone(), instance);
            }
            Command::Stop(name, limit, answer) => {
                if !self.declared.contains_key(&name) {
                    let _ = answer.send(false);
                    return;
                }
                self.hold(&name, true);
                let running: Vec<String> = self
                    .instances
                    .iter()
                    .filter(|(_, one)| {
                        one.of.as_ref() == Some(&name)
                            && matches!(
                                one.stage,
                                Stage::Serving | Stage::Asked | Stage::Admitted | Stage::Draining
                            )
                    })
                    .map(|(instance, _)| instance.clone())
                    .collect();
                for instance in running {
                    self.drain(&instance, Some(limit));
                }
                self.waiting.push((name, answer));
            }
            Command::Start(name, answer) => {
                let is_declared = self.declared.contains_key(&name);
                if is_declared {
                    self.hold(&name, false);
                    self.past.entry(name.clone()).or_default().not_before = None;
                    // Asked for by hand, it does not matter how the last one ended.
                    self.instances.retain(|_, one| {
                        one.of.as_ref() != Some(&name) || !matches!(one.stage, Stage::Ended(_))
                    });
                }
                let _ = answer.send(is_declared);
            }
            Command::Reload(answer) => {
                self.init_system.say("RELOADING=1");
                let (folder, events) = (self.folder.clone(), self.events.clone());
                spawn_blocking(move || {
                    let _ = events.send(Event::Read {
                        config: Box::new(config::load(&folder)),
                        answer,
                    });
                });
            }
            Command::Ready(answer) => {
                let missing = self
                    .declared
                    .keys()
                    .filter(|name| {
                        !matches!(
                            self.condition(name),
                            Condition::Serving | Condition::Stopped
                        )
                    })
                    .cloned()
                    .collect();
                let _ = answer.send(missing);
            }
        }
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances
            .values()
            .filter(move |one| one.of.as_deref() == Some(name))
    }

    /// An enclave that was admitted serves once its windows are as declared: before that nobody can reach it.
    fn condition(&self, name: &str) -> Condition {
        let is_open = |one: &Instance| one.stage == Stage::Admitted && one.revision.is_some();
        if self.of(name).any(is_open) {
            Condition::Serving
        } else if self.of(name).any(|one| {
            matches!(
                one.stage,
                Stage::Starting | Stage::Serving | Stage::Asked | Stage::Admitted
            )
        }) {
            Condition::Starting
        } else if self.held.contains(name) || !self.declared.contains_key(name) {
            Condition::Stopped
        } else if self
            .past
            .get(name)
            .is_some_and(|past| past.not_before.is_some_and(|at| at > Instant::now()))
        {
            Condition::Waiting
        } else {
            Condition::Stopped
        }
    }

    fn views(&self, states: Vec<State>) -> Vec<EnclaveView> {
        let mut views: BTreeMap<String, EnclaveView> = BTreeMap::new();
        let names = self.declared.keys().cloned();
        let named = names.chain(states.iter().filter_map(|state| state.of.clone()));
        for name in named {
            let past = self.past.get(&name);
            let view = EnclaveView {
                declared: self.declared.contains_key(&name),
                condition: self.condition(&name),
                restarts: past.map_or(0, |past| past.starts.saturating_sub(1)),
                last_error: past.and_then(|past| past.last_error.clone()),
                next_start_ms: past
                    .filter(|past| past.not_before.is_some_and(|at| at > Instant::now()))
                    .and_then(|past| past.next_start_ms),
                attested: self
                    .of(&name)
                    .filter(|one| one.stage == Stage::Admitted)
                    .find_map(|one| one.attested.clone()),
                instances: Vec::new(),
                name: name.clone(),
            };
            views.entry(name).or_insert(view);
        }
        for state in states {
            let name = state.of.clone().unwrap_or_else(|| state.name.clone());
            let view = views.entry(name.clone()).or_insert_with(|| EnclaveView {
                name,
                declared: false,
                condition: Condition::Foreign,
                restarts: 0,
                last_error: None,
                next_start_ms: None,
                attested: None,
                instances: Vec::new(),
            });
            view.instances.push(state);
        }
        views.into_values().collect()
    }

    fn readings(&self) -> Vec<Reading> {
        self.declared
            .keys()
            .map(|name| {
                let past = self.past.get(name);
                let serving = self.of(name).find(|one| one.stage == Stage::Admitted);
                Reading {
                    name: name.clone(),
                    condition: self.condition(name),
                    restarts: past.map_or(0, |past| past.starts.saturating_sub(1)),
                    failures: past.map_or(0, |past| past.all_failures),
                    attested_ms: serving
                        .and_then(|one| one.attested.as_ref())
                        .map(|attested| attested.at_ms),
                    serving: serving.and_then(|one| {
                        Some((one.dir.clone(), one.state.as_ref()?.supervisor.pid))
                    }),
                }
            })
            .collect()
    }
}

impl Instance {
    fn new(of: Option<String>, core: Option<String>, stage: Stage, state: &State) -> Self {
        Self {
            of,
            core,
            stage,
            started_ms: state.started_ms,
            revision: None,
            dir: state.dir.clone(),
            state: Some(state.clone()),
            child: None,
            attested: None,
            admitted: None,
            renew_at: None,
            misses: 0,
            applying: false,
            apply_at: None,
            drain_limit: LAST_DRAIN,
            counted: false,
        }
    }
}

/// Listening sockets first, so that nothing is refused that was let in before; then what is no longer declared goes.
async fn apply_all(
    dir: &Path,
    ingress: Vec<Ingress>,
    sockets: Vec<OwnedFd>,
    (allow, limits): (Allowlist, Limits),
    sealed: BTreeMap<String, String>,
) -> Result<(), lifecycle::ControlError> {
    let names: Vec<String> = ingress.iter().map(|one| one.name.clone()).collect();
    let order = async |request: Request, sockets: &[OwnedFd]| {
        lifecycle::ask(dir, &request, sockets, ASK_LIMIT).await
    };
    order(Request::Egress { allow }, &[]).await?;
    let limits = Request::Limits {
        egress: Some(limits),
        ingress: BTreeMap::new(),
    };
    order(limits, &[]).await?;
    order(Request::Secrets { sealed }, &[]).await?;
    if !ingress.is_empty() {
        order(Request::Listen { ingress }, &sockets).await?;
    }
    if let (Reply::Status { accepting, .. }, _) = order(Request::Status, &[]).await? {
        let gone: Vec<String> = accepting
            .into_iter()
            .filter(|name| !names.contains(name))
            .collect();
        if !gone.is_empty() {
            order(Request::StopAccepting { names: Some(gone) }, &[]).await?;
        }
    }
    Ok(())
}

/// After so many failures in a row.
fn delay(delays: Delays, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    delays
        .first
        .saturating_mul(1 << doublings)
        .min(delays.longest)
}

/// Between half of it and all of it, so that many that failed together do not start together.
fn uneven(delay: Duration, random: u8) -> Duration {
    delay.mul_f64(0.5 + f64::from(random) / 510.0)
}

fn random() -> u8 {
    use std::io::Read as _;
    let mut one = [0];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut one));
    // Without randomness they are merely even.
    read.map_or(0, |()| one[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_are_uneven() {
        let delays = Delays::default();
        let ms: Vec<u128> = [1, 2, 3, 9, 10, 4_000_000_000]
            .map(|failures| delay(delays, failures).as_millis())
            .into();
        assert_eq!(ms, [100, 200, 400, 25_600, 30_000, 30_000]);
        assert_eq!(uneven(delays.longest, 0), delays.longest / 2);
        assert_eq!(uneven(delays.longest, 255), delays.longest);
    }

    #[test]
    fn instances_have_names_of_their_own() {
        let longest = "a".repeat(56);
        assert!(lifecycle::is_name(&instance_name(&longest)));
        assert!(instance_name("cards").starts_with("cards-"));
    }
}
