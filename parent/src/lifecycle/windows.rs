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
use tokio::time::{Instant, sleep, timeout};

use super::control::{Asked, Counters, Ingress, Reply, Request};
use super::state::{State, Status};
use crate::client::Client;
use crate::window::{Door, SealedSecrets, SecretSource, Window};

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
    /// It ends its enclave.
    End,
}

/// The windows of one enclave.
pub(super) struct Windows {
    window: Arc<Window>,
    doors: Mutex<BTreeMap<String, (Ingress, Door)>>,
    dir: PathBuf,
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

    fn doors(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Ingress, Door)>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked and answers. To be called within the event loop.
    pub(super) fn answer(&self, state: &mut State, asked: Asked) -> Next {
        let mut next = Next::Serve;
        let answer = match asked.request {
            Request::Status => {
                let doors = self.doors();
                let accepting = doors
                    .iter()
                    .filter(|(_, (_, door))| door.is_open())
                    .map(|(name, _)| name.clone())
                    .collect();
                Ok((
                    Reply::Status {
                        state: Box::new(state.clone()),
                        flows: self.flows_of(&doors),
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
            Request::Secrets { sealed } => self.hand_in(sealed),
            Request::Counters => Ok((
                Reply::Counters {
                    counters: self.counters(),
                },
                Vec::new(),
            )),
            Request::End => {
                next = Next::End;
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
            let door = Door::open(socket, &self.dir, ingress.port)
                .map_err(|error| format!("the ingress {}: {error}", ingress.name))?;
            opened.push((ingress, door));
        }
        let mut doors = self.doors();
        for (ingress, door) in opened {
            // The flows of the one before go on by themselves.
            doors.insert(ingress.name.clone(), (ingress, door));
        }
        done()
    }

    fn listeners(&self) -> Answer {
        let doors = self.doors();
        let mut ingress = Vec::new();
        let mut sockets = Vec::new();
        for (rule, door) in doors.values() {
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
        for (name, (_, door)) in self.doors().iter_mut() {
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

    /// Flows that are open, in both directions.
    fn flows_of(&self, doors: &BTreeMap<String, (Ingress, Door)>) -> u64 {
        doors.values().map(|(_, door)| door.flows()).sum::<u64>()
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let doors = self.doors();
        let ingress = counters.windows.entry("ingress".into()).or_default();
        ingress.insert("flows".into(), self.flows_of(&doors));
        counters
    }

    /// Waits until no flow and no call is left, but no longer than `limit`; says which it was.
    pub(super) async fn drained(
        &self,
        control_port: Option<&Path>,
        limit: Duration,
    ) -> &'static str {
        let deadline = Instant::now() + limit;
        loop {
            // Asked in this order, since a flow may carry the last call.
            let flows = self.flows_of(&self.doors());
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

type Answer = Result<(Reply, Vec<OwnedFd>), String>;

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
