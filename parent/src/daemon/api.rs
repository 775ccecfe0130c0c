//! The API: HTTP/1.1 on a Unix socket, JSON, `/v1/…`, as `openapi.json` describes it.
//!
//! Who may connect may do all of it: the socket's file permissions are the access control. Every request is bounded in size and
//! time; an answer never holds a secret, a credential, or a byte of a flow.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{Instrument as _, debug_span, field};

use super::keeper::Command;
use super::metrics;
use super::view::{EnclaveView, Health, Problem, RunRequest, StopRequest};
use crate::Isolation;
use crate::lifecycle::{
    self, Home, RingReader, State, SuperviseOptions, SupervisorProgram, printable,
};
use crate::window::{Allowlist, CredentialsSource, SecretSource};

/// What the API is, for programs.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Connections at once; more wait.
const MOST_CONNECTIONS: usize = 64;

/// The most bytes of a request's body: the sealed secrets of one enclave in base64, and some.
pub const LARGEST_BODY: usize = 24 << 20;

/// How long a request's head, and then its body, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks for more lines, while somebody follows them.
const LOOK: Duration = Duration::from_millis(100);

/// Variables that a `run` may hand to its supervisor.
const CREDENTIALS: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

/// Methods and paths that are served; `{name}` stands for an enclave's name.
pub const ROUTES: [(&str, &str); 12] = [
    ("get", "/v1/openapi.json"),
    ("get", "/v1/health"),
    ("get", "/v1/ready"),
    ("get", "/v1/metrics"),
    ("get", "/v1/enclaves"),
    ("post", "/v1/enclaves"),
    ("get", "/v1/enclaves/{name}"),
    ("post", "/v1/enclaves/{name}/start"),
    ("post", "/v1/enclaves/{name}/stop"),
    ("get", "/v1/enclaves/{name}/logs"),
    ("get", "/v1/enclaves/{name}/document"),
    ("post", "/v1/reload"),
];

type Body = BoxBody<Bytes, io::Error>;
type Answer = Response<Body>;

/// What answers.
pub(super) struct Api {
    pub(super) home: Home,
    pub(super) supervisor: SupervisorProgram,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) metrics: metrics::Metrics,
}

/// Serves for ever.
pub(super) async fn serve(listener: UnixListener, api: Arc<Api>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = crate::window::accept(&listener).await;
        while connections.try_join_next().is_some() {}
        let api = api.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let api = api.clone();
                let span = debug_span!(
                    "request",
                    method = printable(request.method().as_str().as_bytes(), 16),
                    path = printable(request.uri().path().as_bytes(), 120),
                    status = field::Empty
                );
                let answering = async move {
                    let answer = api.answer(request).await;
                    tracing::Span::current().record("status", answer.status().as_u16());
                    Ok::<_, Infallible>(answer)
                };
                answering.instrument(span)
            });
            // Whoever breaks off knows it.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(32 * 1024)
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

/// Reads the body of a request, as the API does: a pure function of its bytes.
pub fn parse_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // A body may be left out where all of it is optional.
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        format!("the body is not as it should be: {error}; GET /v1/openapi.json says how")
    })
}

/// Turns what `run` asks for into what a supervisor takes. Pure.
pub fn options_of(
    home: &Home,
    request: RunRequest,
) -> Result<(SuperviseOptions, Vec<(String, String)>), String> {
    if !request.image.is_absolute() {
        return Err("image is an absolute path on the daemon's host".into());
    }
    let mut options = SuperviseOptions::new(home.clone(), request.image);
    options.name = request.name;
    options.backend = request.backend;
    options.isolation = match request.isolation.as_deref() {
        None | Some("namespaces") => Isolation::Namespaces,
        Some("reduced") => Isolation::Reduced,
        Some(_) => return Err("isolation is namespaces or reduced".into()),
    };
    options.memory_mib = request.memory_mib;
    options.cpus = request.cpus;
    options.debug = request.debug;
    options.allowlist = Allowlist::parse(request.egress.iter().map(String::as_str))
        .map_err(|error| error.to_string())?;
    for (name, text) in request.secrets {
        let sealed = STANDARD
            .decode(text)
            .map_err(|error| format!("the secret {name:?} is no base64: {error}"))?;
        options.secrets.insert(name, SecretSource::Bytes(sealed));
    }
    options.record = request.record;
    if options
        .record
        .as_ref()
        .is_some_and(|path| !path.is_absolute())
    {
        return Err("record is an absolute path on the daemon's host".into());
    }
    if let Some(limit) = request.start_limit_ms {
        options.start_limit_ms = limit.min(3_600_000);
    }
    let mut environment = Vec::new();
    for (name, value) in request.credentials {
        if !CREDENTIALS.contains(&name.as_str()) || value.contains('\0') {
            return Err(format!("credentials are {}", CREDENTIALS.join(", ")));
        }
        environment.push((name, value));
    }
    options.credentials = match (environment.is_empty(), request.credentials_from) {
        (true, None) => CredentialsSource::Nothing,
        (false, None) => CredentialsSource::Environment,
        (false, Some(_)) => return Err("give credentials or credentials_from, not both".into()),
        (true, Some(text)) => match text.parse() {
            Ok(CredentialsSource::File(path)) if !path.is_absolute() => {
                return Err("credentials_from names an absolute path on the daemon's host".into());
            }
            Ok(source) => source,
            Err(error) => return Err(format!("{error}")),
        },
    };
    Ok((options, environment))
}

impl Api {
    /// Answers a request, whatever it is.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or("").to_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (&head.method, parts.as_slice()) {
            (&Method::GET, ["v1", "openapi.json"]) => text("application/json", OPENAPI),
            (&Method::GET, ["v1", "health"]) => json(
                StatusCode::OK,
                &Health {
                    status: "ok".into(),
                },
            ),
            (&Method::GET, ["v1", "ready"]) => self.ready().await,
            (&Method::GET, ["v1", "metrics"]) => self.metrics().await,
            (&Method::GET, ["v1", "enclaves"]) => match self.list().await {
                Ok(list) => json(StatusCode::OK, &list),
                Err(answer) => answer,
            },
            (&Method::POST, ["v1", "enclaves"]) => match bounded(body).await {
                Ok(body) => self.run(&body).await,
                Err(answer) => answer,
            },
            (&Method::GET, ["v1", "enclaves", name]) => match self.one(name).await {
                Ok(one) => json(StatusCode::OK, &one),
                Err(answer) => answer,
            },
            (&Method::POST, ["v1", "enclaves", name, "start"]) => self.start(name).await,
            (&Method::POST, ["v1", "enclaves", name, "stop"]) => match bounded(body).await {
                Ok(body) => self.stop(name, &body).await,
                Err(answer) => answer,
            },
            (&Method::GET, ["v1", "enclaves", name, "logs"]) => self.logs(name, &query).await,
            (&Method::GET, ["v1", "enclaves", name, "document"]) => {
                match self.one(name).await.map(|one| one.attested) {
                    Ok(Some(attested)) => json(StatusCode::OK, &attested),
                    Ok(None) => problem(
                        StatusCode::CONFLICT,
                        "not-attested",
                        "no instance of it has been attested by this daemon, or none yet",
                    ),
                    Err(answer) => answer,
                }
            }
            (&Method::POST, ["v1", "reload"]) => self.reload().await,
            (_, parts) => unknown(&path, parts),
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Answer> {
        let (answer, answered) = oneshot::channel();
        let gone = || {
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the daemon is stopping; enclaves run on",
            )
        };
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    async fn states(&self) -> Result<Vec<State>, Answer> {
        let home = self.home.clone();
        spawn_blocking(move || lifecycle::list(&home))
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))
    }

    /// All enclaves.
    pub(super) async fn list(&self) -> Result<Vec<EnclaveView>, Answer> {
        let states = self.states().await?;
        self.ask(|answer| Command::List(states, answer)).await
    }

    /// One by its declared name, or that of an instance.
    async fn one(&self, name: &str) -> Result<EnclaveView, Answer> {
        let list = self.list().await?;
        let is_it = |view: &&EnclaveView| {
            view.name == name || view.instances.iter().any(|state| state.name == name)
        };
        let known: Vec<&str> = list.iter().map(|view| view.name.as_str()).collect();
        let exact = list.iter().find(|view| view.name == name);
        exact
            .or_else(|| list.iter().find(is_it))
            .cloned()
            .ok_or_else(|| {
                problem(
                    StatusCode::NOT_FOUND,
                    "unknown-enclave",
                    &format!(
                        "there is no enclave of the name {:?}; there are: {}",
                        printable(name.as_bytes(), 80),
                        if known.is_empty() {
                            "none".to_owned()
                        } else {
                            known.join(", ")
                        }
                    ),
                )
            })
    }

    pub(super) async fn ready(&self) -> Answer {
        match self.ask(Command::Ready).await {
            Ok(missing) if missing.is_empty() => json(
                StatusCode::OK,
                &Health {
                    status: "ok".into(),
                },
            ),
            Ok(missing) => json(
                StatusCode::SERVICE_UNAVAILABLE,
                &Health {
                    status: format!("not serving: {}", missing.join(", ")),
                },
            ),
            Err(answer) => answer,
        }
    }

    /// What the status page reads.
    pub(super) async fn page(&self) -> Answer {
        #[derive(Serialize)]
        struct One {
            enclave: EnclaveView,
            #[serde(flatten)]
            numbers: Option<metrics::Numbers>,
        }
        let list = match self.list().await {
            Ok(list) => list,
            Err(answer) => return answer,
        };
        let mut numbers = match self.ask(Command::Readings).await {
            Ok(readings) => metrics::numbers(readings).await,
            Err(answer) => return answer,
        };
        let all: Vec<One> = list
            .into_iter()
            .map(|enclave| One {
                numbers: numbers.remove(&enclave.name),
                enclave,
            })
            .collect();
        json(StatusCode::OK, &all)
    }

    /// What Prometheus reads.
    pub(super) async fn metrics(&self) -> Answer {
        match self.ask(Command::Readings).await {
            Ok(readings) => text(metrics::CONTENT_TYPE, self.metrics.scrape(readings).await),
            Err(answer) => answer,
        }
    }

    async fn run(&self, body: &[u8]) -> Answer {
        let request: RunRequest = match parse_body(body) {
            Ok(request) => request,
            Err(error) => return problem(StatusCode::BAD_REQUEST, "request", &error),
        };
        let (options, environment) = match options_of(&self.home, request) {
            Ok(options) => options,
            Err(error) => return problem(StatusCode::BAD_REQUEST, "request", &error),
        };
        let mut supervisor = self.supervisor.clone();
        // What the daemon itself may have of them is not this enclave's.
        supervisor
            .environment
            .extend(CREDENTIALS.map(|name| (name.into(), "".into())));
        supervisor.environment.extend(
            environment
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        let started = spawn_blocking(move || lifecycle::spawn_child(&options, &supervisor)).await;
        match started {
            Ok(Ok((serving, child))) => {
                let state = serving.state;
                let watch = Command::Watch(Box::new(state.clone()), child);
                if self.commands.send(watch).await.is_err() {
                    tracing::warn!("the daemon stops: nobody collects a supervisor that ends");
                }
                json(StatusCode::CREATED, &state)
            }
            Ok(Err(error)) => problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "not-started",
                &error.to_string(),
            ),
            Err(error) => failed(&error),
        }
    }

    async fn start(&self, name: &str) -> Answer {
        let name = name.to_owned();
        let view = match self.one(&name).await {
            Ok(view) => view,
            Err(answer) => return answer,
        };
        match self.ask(|answer| Command::Start(name, answer)).await {
            Ok(true) => json(StatusCode::ACCEPTED, &view),
            Ok(false) => not_declared(),
            Err(answer) => answer,
        }
    }

    async fn stop(&self, name: &str, body: &[u8]) -> Answer {
        let request: StopRequest = match parse_body(body) {
            Ok(request) => request,
            Err(error) => return problem(StatusCode::BAD_REQUEST, "request", &error),
        };
        let view = match self.one(name).await {
            Ok(view) => view,
            Err(answer) => return answer,
        };
        if view.declared && view.name == name {
            let limit = Duration::from_secs(request.drain_seconds.into());
            let name = name.to_owned();
            let asked = name.clone();
            return match self.ask(|answer| Command::Stop(asked, limit, answer)).await {
                Ok(true) => match self.one(&name).await {
                    Ok(view) => json(StatusCode::OK, &view),
                    Err(answer) => answer,
                },
                Ok(false) => not_declared(),
                Err(answer) => answer,
            };
        }
        let (home, instance) = (self.home.clone(), name.to_owned());
        let grace = Duration::from_secs(u64::from(request.drain_seconds).max(10));
        let stopped = spawn_blocking(move || lifecycle::stop(&home, &instance, grace)).await;
        match stopped {
            Ok(Ok(_)) => match self.one(name).await {
                Ok(view) => json(StatusCode::OK, &view),
                Err(answer) => answer,
            },
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }

    async fn reload(&self) -> Answer {
        match self.ask(|answer| Command::Reload(Some(answer))).await {
            Ok(Ok(changes)) => json(StatusCode::OK, &changes),
            Ok(Err(error)) => problem(StatusCode::UNPROCESSABLE_ENTITY, "configuration", &error),
            Err(answer) => answer,
        }
    }

    async fn logs(&self, name: &str, query: &str) -> Answer {
        let mut since_ms = 0;
        let mut follow = false;
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=').unwrap_or((part, "")) {
                ("since_ms", value) if value.parse::<u64>().is_ok() => {
                    since_ms = value.parse().unwrap_or(0);
                }
                ("follow", "true" | "1" | "") => follow = true,
                ("follow", "false" | "0") => follow = false,
                _ => {
                    return problem(
                        StatusCode::BAD_REQUEST,
                        "request",
                        "logs take since_ms=NUMBER and follow=true",
                    );
                }
            }
        }
        let view = match self.one(name).await {
            Ok(view) => view,
            Err(answer) => return answer,
        };
        let folders: Vec<PathBuf> = view
            .instances
            .iter()
            .filter(|state| view.name == name || state.name == name)
            .map(|state| state.dir.clone())
            .collect();
        let (pieces, mut taken) = mpsc::channel::<Bytes>(4);
        let home = self.home.clone();
        let name = name.to_owned();
        tokio::spawn(async move {
            let _ = send_lines(&home, &name, folders, since_ms, follow, pieces).await;
        });
        let stream = futures_util::stream::poll_fn(move |context| {
            taken
                .poll_recv(context)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        });
        let mut answer = Response::new(BodyExt::boxed(StreamBody::new(stream)));
        let headers = answer.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            http::HeaderValue::from_static("application/x-ndjson"),
        );
        answer
    }
}

/// Sends the kept lines of these folders, and goes on with new ones, and with new instances, where that is wished. `Err`: nobody
/// listens any more.
async fn send_lines(
    home: &Home,
    name: &str,
    folders: Vec<PathBuf>,
    since_ms: u64,
    follow: bool,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    let mut readers: Vec<(PathBuf, RingReader)> = folders
        .into_iter()
        .map(|dir| (dir.clone(), RingReader::new(&dir)))
        .collect();
    let mut looks: u32 = 0;
    loop {
        let mut idle = true;
        for (_, reader) in &mut readers {
            // A ring that cannot be read has no more to say.
            let lines = reader.read().unwrap_or_default();
            idle &= lines.is_empty();
            let mut out = Vec::new();
            for line in lines.iter().filter(|line| line.at_ms >= since_ms) {
                serde_json::to_writer(&mut out, line).expect("numbers and text have a JSON form");
                out.push(b'\n');
            }
            if !out.is_empty() {
                pieces.send(out.into()).await?;
            }
        }
        if !idle {
            continue;
        }
        if !follow {
            return Ok(());
        }
        if pieces.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
        looks += 1;
        // A new instance may have taken over.
        if looks.is_multiple_of(10)
            && let Ok(state) = lifecycle::find(home, name)
            && readers.iter().all(|(dir, _)| *dir != state.dir)
        {
            let reader = RingReader::new(&state.dir);
            readers.push((state.dir, reader));
        }
    }
}

/// Reads a whole body, bounded in size and time.
async fn bounded(body: Incoming) -> Result<Bytes, Answer> {
    let collected = timeout(PATIENCE, Limited::new(body, LARGEST_BODY).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        _ => Err(problem(
            StatusCode::BAD_REQUEST,
            "request",
            "the body did not come in whole, or is larger than 24 MiB",
        )),
    }
}

fn unknown(path: &str, parts: &[&str]) -> Answer {
    let fits = |route: &str| {
        let route: Vec<&str> = route.split('/').skip(1).collect();
        route.len() == parts.len()
            && route
                .iter()
                .zip(parts)
                .all(|(route, part)| *route == "{name}" || route == part)
    };
    let methods: Vec<String> = ROUTES
        .iter()
        .filter(|(_, route)| fits(route))
        .map(|(method, _)| method.to_uppercase())
        .collect();
    if methods.is_empty() {
        return problem(
            StatusCode::NOT_FOUND,
            "not-found",
            &format!(
                "nothing is served at {}; GET /v1/openapi.json says what is",
                printable(path.as_bytes(), 120)
            ),
        );
    }
    let methods = methods.join(", ");
    let mut answer = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        &format!("here is answered: {methods}"),
    );
    if let Ok(value) = methods.parse() {
        answer.headers_mut().insert(ALLOW, value);
    }
    answer
}

fn not_declared() -> Answer {
    problem(
        StatusCode::CONFLICT,
        "not-declared",
        "no file in enclaves.d declares it, so that the daemon does not start it",
    )
}

fn failed(error: &dyn std::fmt::Display) -> Answer {
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "failed",
        &error.to_string(),
    )
}

fn problem(status: StatusCode, error: &str, message: &str) -> Answer {
    json(
        status,
        &Problem {
            error: error.into(),
            message: message.into(),
        },
    )
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("views have a JSON form");
    let mut answer = text("application/json", body);
    *answer.status_mut() = status;
    answer
}

/// An answer of this type.
pub(super) fn text(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let mut answer = Response::new(BodyExt::boxed(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    answer
}
