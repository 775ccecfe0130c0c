//! The windows of one running enclave, as its supervisor steers them: what the control socket asks for becomes a change of
//! what is let through.
//!
//! A change never touches a flow that runs. Nothing here reads what passes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::control::{Asked, Counters, Histogram, Ingress, Reply, Request};
use super::state::{State, Status};
use crate::client::Client;
use crate::window::ingress::Rules;
use crate::window::{Counts, Door, Limits, SealedSecrets, SecretSource, Window};

/// Between two looks at what a draining enclave still has.
const LOOK: Duration = Duration::from_millis(25);

/// How long an enclave may take to say how many calls it has.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// What the supervisor does after an answer.
pub(super) enum Next {
    /// It goes on.
    Serve,
    /// It ends its enclave once nothing runs any more, or after this time.
    Drain(Duration),
    /// End, once whoever asked for it was told.
    End(oneshot::Receiver<()>),
}

/// The windows of one enclave.
pub(super) struct Windows {
    window: Arc<Window>,
    doors: Mutex<Doors>,
    dir: PathBuf,
}

/// All ways in.
#[derive(Default)]
struct Doors {
    current: BTreeMap<String, (Ingress, Door)>,
    /// Those whose place another has taken, while flows of theirs run.
    replaced: Vec<(String, Door)>,
    /// What those counted that are gone.
    counted: BTreeMap<String, Counts>,
}

impl Doors {
    /// All that are, with their names.
    fn all(&self) -> impl Iterator<Item = (&String, &Door)> {
        let current = self.current.iter().map(|(name, (_, door))| (name, door));
        current.chain(self.replaced.iter().map(|(name, door)| (name, door)))
    }

    fn flows(&self) -> u64 {
        self.all().map(|(_, door)| door.flows()).sum()
    }

    fn put(&mut self, ingress: Ingress, door: Door) {
        let name = ingress.name.clone();
        if let Some((_, mut before)) = self.current.insert(name.clone(), (ingress, door)) {
            before.close();
            self.replaced.push((name, before));
        }
        let (over, running): (Vec<_>, Vec<_>) = std::mem::take(&mut self.replaced)
            .into_iter()
            .partition(|(_, door)| door.flows() == 0);
        self.replaced = running;
        for (name, door) in over {
            self.counted.entry(name).or_default().add(&door.counts());
        }
    }

    fn counts(&self) -> BTreeMap<String, Counts> {
        let mut counts = self.counted.clone();
        for (name, door) in self.all() {
            counts.entry(name.clone()).or_default().add(&door.counts());
        }
        counts
    }
}

impl Windows {
    pub(super) fn new(window: Arc<Window>, dir: &Path) -> Self {
        Self {
            window,
            doors: Mutex::default(),
            dir: dir.to_owned(),
        }
    }

    /// The one that the enclave dials.
    pub(super) fn window(&self) -> Arc<Window> {
        self.window.clone()
    }

    fn doors(&self) -> std::sync::MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked and answers. To be called within the event loop.
    pub(super) fn answer(&self, state: &mut State, asked: Asked) -> Next {
        let mut next = Next::Serve;
        let answer = match asked.request {
            Request::Status => {
                let flows = self.flows();
                let accepting = self
                    .doors()
                    .current
                    .iter()
                    .filter(|(_, (_, door))| door.is_open())
                    .map(|(name, _)| name.clone())
                    .collect();
                Ok((
                    Reply::Status {
                        state: Box::new(state.clone()),
                        flows,
                        accepting,
                    },
                    Vec::new(),
                ))
            }
            Request::Admit { at_ms } => {
                state.admitted_ms = Some(at_ms);
                written(state)
            }
            Request::Listen { ingress } => self.listen(ingress, asked.descriptors),
            Request::Listeners => self.listeners(),
            Request::StopAccepting { names } => {
                self.stop_accepting(names.as_deref());
                done()
            }
            Request::Drain { limit_ms } => {
                self.stop_accepting(None);
                state.draining = true;
                next = Next::Drain(Duration::from_millis(limit_ms));
                written(state)
            }
            Request::Egress { allow } => {
                self.window.allow(allow);
                done()
            }
            Request::Limits { egress, ingress } => self.limit(egress, ingress),
            Request::Secrets { sealed } => self.hand_in(sealed),
            Request::Counters => Ok((
                Reply::Counters {
                    counters: self.counters(),
                },
                Vec::new(),
            )),
            Request::End => {
                next = Next::End(asked.told);
                done()
            }
        };
        let refused = |reason| (Reply::Refused { reason }, Vec::new());
        // Whoever asked may have gone; what was asked for is done all the same.
        let _ = asked.answer.send(answer.unwrap_or_else(refused));
        next
    }

    fn listen(&self, ingress: Vec<Ingress>, sockets: Vec<OwnedFd>) -> Answer {
        if ingress.len() != sockets.len() {
            return Err(format!(
                "{} ingresses and {} listening sockets came",
                ingress.len(),
                sockets.len()
            ));
        }
        let mut opened = Vec::new();
        for (ingress, socket) in ingress.into_iter().zip(sockets) {
            let recorder = self.window.recorder().cloned();
            let rules = ingress.rules.clone();
            let door = Door::open(socket, &self.dir, ingress.port, rules, recorder)
                .map_err(|error| format!("the ingress {}: {error}", ingress.name))?;
            opened.push((ingress, door));
        }
        let mut doors = self.doors();
        for (ingress, door) in opened {
            // The flows of the one before go on by themselves.
            doors.put(ingress, door);
        }
        done()
    }

    fn listeners(&self) -> Answer {
        let doors = self.doors();
        let mut ingress = Vec::new();
        let mut sockets = Vec::new();
        for (rule, door) in doors.current.values() {
            let Some(socket) = door.socket() else {
                continue;
            };
            let copy = socket
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| format!("the ingress {} cannot be copied: {error}", rule.name))?;
            ingress.push(rule.clone());
            sockets.push(copy);
        }
        Ok((Reply::Listeners { ingress }, sockets))
    }

    fn stop_accepting(&self, names: Option<&[String]>) {
        for (name, (_, door)) in &mut self.doors().current {
            if names.is_none_or(|names| names.contains(name)) {
                door.close();
            }
        }
    }

    fn hand_in(&self, sealed: BTreeMap<String, String>) -> Answer {
        let mut sources = BTreeMap::new();
        for (name, text) in sealed {
            let bytes = STANDARD
                .decode(text)
                .map_err(|error| format!("the sealed secret {name} is no base64: {error}"))?;
            sources.insert(name, SecretSource::Bytes(bytes));
        }
        let secrets = SealedSecrets::load(&sources).map_err(|error| error.to_string())?;
        self.window.hand_in(secrets);
        done()
    }

    fn limit(&self, egress: Option<Limits>, ingress: BTreeMap<String, Rules>) -> Answer {
        let mut doors = self.doors();
        // All or nothing: looked at before anything is changed.
        if let Some(limits) = &egress {
            limits.check().map_err(|error| error.to_string())?;
        }
        for (name, rules) in &ingress {
            if !doors.current.contains_key(name) {
                return Err(format!("there is no ingress {name}"));
            }
            rules
                .check()
                .map_err(|error| format!("the ingress {name}: {error}"))?;
        }
        for (name, rules) in ingress {
            if let Some((known, door)) = doors.current.get_mut(&name) {
                door.change(rules.clone())
                    .map_err(|error| format!("the ingress {name}: {error}"))?;
                known.rules = rules;
            }
        }
        if let Some(limits) = egress {
            self.window.limit(limits);
        }
        done()
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let ingress = self.doors().counts();
        let ingress = ingress
            .into_iter()
            .map(|(name, counts)| (format!("ingress/{name}"), counts));
        for (window, counts) in ingress.chain([("egress".to_owned(), self.window.counts())]) {
            let numbers = [
                ("flows", counts.flows),
                ("flows_open", counts.flows_open),
                ("bytes_from_enclave", counts.bytes_from_enclave),
                ("bytes_to_enclave", counts.bytes_to_enclave),
            ];
            counters.windows.insert(
                window.clone(),
                numbers
                    .map(|(name, number)| (name.to_owned(), number))
                    .into(),
            );
            let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
            let histogram = Histogram {
                bounds: counts
                    .latency
                    .bounds_us
                    .iter()
                    .map(|us| seconds(*us))
                    .collect(),
                counts: counts.latency.counts,
                sum: seconds(counts.latency.sum_us),
            };
            let times = BTreeMap::from([("until_flow".to_owned(), histogram)]);
            counters.seconds.insert(window.clone(), times);
            counters.refusals.insert(window, counts.refused);
        }
        counters
    }

    /// Bytes that have moved so far, in and out, both ways.
    fn carried(&self) -> u64 {
        let doors = self.doors().counts().into_values();
        doors
            .chain([self.window.counts()])
            .map(|counts| counts.bytes_from_enclave + counts.bytes_to_enclave)
            .sum()
    }

    /// Flows that are open, in and out.
    fn flows(&self) -> u64 {
        self.doors().flows() + self.window.flows()
    }

    /// Waits until what a dead enclave had sent has been taken by whom it was for, as long as it moves and no longer than `limit`.
    pub(super) async fn delivered(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut before = None;
        while self.flows() > 0 && Instant::now() < deadline {
            let carried = self.carried();
            if before.replace(carried) == Some(carried) {
                return;
            }
            sleep(LAST_LOOK).await;
        }
    }

    /// Waits until no flow, in or out, and no call is left, but no longer than `limit`; says which it was.
    pub(super) async fn drained(
        &self,
        control_port: Option<&Path>,
        limit: Duration,
    ) -> &'static str {
        let deadline = Instant::now() + limit;
        loop {
            // Asked in this order, since a flow may carry the last call.
            let flows = self.flows();
            if flows == 0 && calls(control_port).await == Some(0) {
                return "drained";
            }
            if Instant::now() >= deadline {
                return "drained, and what ran longer than the limit was cut";
            }
            sleep(LOOK).await;
        }
    }
}

/// How often it is looked at whether what a dead enclave had sent still moves.
const LAST_LOOK: Duration = Duration::from_millis(50);

type Answer = Result<(Reply, Vec<OwnedFd>), String>;

#[expect(clippy::unnecessary_wraps, reason = "it stands where others may fail")]
fn done() -> Answer {
    Ok((Reply::Done, Vec::new()))
}

fn written(state: &State) -> Answer {
    debug_assert!(state.status == Status::Serving);
    state
        .write()
        .map_err(|error| format!("the state file cannot be written: {error}"))?;
    done()
}

/// Calls that the enclave has, by its own word; `None` where it does not say. One that lies harms its own calls.
async fn calls(control_port: Option<&Path>) -> Option<u64> {
    let Some(dir) = control_port else {
        return Some(0);
    };
    let health = timeout(HEALTH_LIMIT, Client::new(dir).health()).await;
    Some(health.ok()?.ok()?.calls_open)
}
