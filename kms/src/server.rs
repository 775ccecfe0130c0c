//! The network side: connections, TLS, HTTP/1.1, and bounds on all of them.
//!
//! Every wait has an end, every buffer a size. What a request means is not decided here.

use crate::audit::{self, AuditError, AuditKey, AuditLog};
use crate::cache::Cache;
use crate::clock::milliseconds;
use crate::config::{Config, Limits, Transport};
use crate::control::Control;
use crate::identity::Directory;
use crate::key_stores::KeyStores;
use crate::metrics::Metrics;
use crate::monitor;
use crate::operations;
use crate::quota::QuotaBook;
use crate::recipient::Rules;
use crate::root_key::{self, RootKeyError};
use crate::service::{Answer, Core, Origin, Unread};
use crate::state::{StateError, StateFolder};
use crate::store::{Store, StoreError};
use crate::tls::{self, Certificates, TlsError};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// The longest request body: what the longest document, ciphertext and context need, in base64
/// and JSON, and more.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Request line and headers together; hyper takes 100 headers at most.
const MAX_HEADER_BYTES: usize = 32 << 10;
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the certificate's files are looked at.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(2);
/// After this a connection is closed between two requests, so that none is held for ever.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);

/// Between two looks at all keys for material that expires and keys that are to be deleted.
const SWEEP: Duration = Duration::from_secs(600);

/// Why the service does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no root key, or a wrong one.
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log cannot be used.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Without TLS, plaintext would cross a network.
    #[error("{0} is not a loopback address; without TLS the service listens on loopback only")]
    PlainHttpBeyondLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Two principals share an access key id.
    #[error("two principals have the same access key id")]
    AccessKeyTwice,
    /// Without an anchor no document could ever be good.
    #[error("no anchor is configured")]
    NoAnchors,
    /// Signals cannot be listened for.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

/// The key service.
pub struct Service;

/// A service that is up. Dropping it begins the same end as [`Running::shutdown`], without waiting
/// for it.
pub struct Running {
    address: SocketAddr,
    monitor: Option<SocketAddr>,
    scheme: &'static str,
    core: Arc<Core>,
    certificates: Option<Arc<Certificates>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Service {
    /// Opens the state folder, binds the address and begins to serve. Within a Tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind but what a first start makes.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        if config.transport == Transport::PlainHttp && !config.listen.ip().is_loopback() {
            return Err(StartError::PlainHttpBeyondLoopback(config.listen));
        }
        if config.anchors.is_empty() {
            return Err(StartError::NoAnchors);
        }
        let directory = Directory::new(config.identities).ok_or(StartError::AccessKeyTwice)?;
        let state = StateFolder::open(&config.state)?;
        let store_is_new = !state.file("store.redb").exists();
        let key = root_key::open(&state, &config.root_key)?;
        let store = Store::open(&state.file("store.redb"), &key)?;
        let audit = AuditLog::open(
            &state.file("audit.ndjson"),
            AuditKey::derive(&key),
            config.audit,
            store_is_new,
        )?;
        let now = config.clock.now();
        let certificates = match &config.transport {
            Transport::PlainHttp => None,
            Transport::Tls { certificate, key } => Some(Certificates::open(certificate, key, now)?),
            Transport::DevelopmentTls => Some(tls::development(&state, now)?),
        };
        let certificates = certificates.map(Arc::new);
        let (listener, address) = listen(config.listen).await?;
        let monitor = match config.metrics {
            None => None,
            Some(address) => Some(listen(address).await?),
        };
        let mut regions = vec![config.region];
        for region in config.more_regions {
            if !regions.contains(&region) {
                regions.push(region);
            }
        }
        let core = Arc::new(Core {
            regions,
            store,
            key_stores: KeyStores::new(config.clusters),
            rules: Rules {
                verifier: Rules::verifier(config.anchors),
                max_age: config.max_document_age,
                max_skew: config.max_clock_skew,
                allow_debug: config.allow_debug,
                keys: Cache::new(),
            },
            directory,
            audit,
            clock: config.clock,
            quotas: QuotaBook::new(config.quotas),
            policies: Cache::new(),
            metrics: Metrics::new(),
            audit_fails: AtomicBool::new(false),
        });
        let scheme = if certificates.is_some() {
            "https"
        } else {
            "http"
        };
        let (stop, stopped) = watch::channel(false);
        let server = Server {
            core: Arc::clone(&core),
            certificates: certificates.clone(),
            limits: config.limits,
            stopped: stopped.clone(),
        };
        let control = Control::open(&config.state, Arc::downgrade(&core), key)?;
        let monitor_address = monitor.as_ref().map(|(_, address)| *address);
        let for_task = (Arc::clone(&core), certificates.clone());
        // Before the first request: what was due while nobody was here.
        sweep(&core).await;
        let sweeper = tokio::spawn(keep_sweeping(Arc::clone(&core), stopped.clone()));
        let task = tokio::spawn(async move {
            let (core, certificates) = for_task;
            let monitor = monitor.map(|(listener, _)| {
                tokio::spawn(monitor::serve(listener, Arc::downgrade(&core), stopped))
            });
            let looking = certificates
                .map(|certificates| tokio::spawn(look_after(certificates, Arc::downgrade(&core))));
            let keeper = tokio::spawn(keep_audit_log(Arc::downgrade(&core)));
            server.accept(listener).await;
            // To its end it says that the service is not ready.
            for helper in [monitor, looking, Some(keeper)].into_iter().flatten() {
                helper.abort();
                let _ = helper.await;
            }
            // It ends with the same signal; an error means that it has panicked, and was logged.
            let _ = sweeper.await;
            sync_audit_log(&core).await;
            // Only now may another service take the folder.
            drop(control);
            drop(core);
            drop(state);
        });
        tracing::info!(%address, scheme, "the key service is listening");
        Ok(Running {
            address,
            monitor: monitor_address,
            scheme,
            core,
            certificates,
            stop,
            task,
        })
    }

    /// Serves until SIGTERM or SIGINT, then lets running requests end. SIGHUP has the certificate read
    /// anew. `ready` is called once the service is up.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn serve(config: Config, ready: impl FnOnce(&Running)) -> Result<(), StartError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
        let running = Self::start(config).await?;
        ready(&running);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // What went wrong is in the log.
                _ = hang_up.recv() => drop(running.reload_certificates()),
            }
        }
        running.shutdown().await;
        Ok(())
    }
}

impl Running {
    /// Where it listens; with port 0 configured, the port that was free.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint: `https://127.0.0.1:8443`. For a wildcard address, that of the loopback.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let loopback = match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(loopback);
        }
        format!("{}://{address}", self.scheme)
    }

    /// Where health and metrics are, if configured.
    pub fn monitor_addr(&self) -> Option<SocketAddr> {
        self.monitor
    }

    /// Reads the certificate's files anew, for new connections. Without TLS there is nothing to do.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate stays in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        match &self.certificates {
            None => Ok(()),
            Some(certificates) => reload(certificates, &self.core),
        }
    }

    /// Takes no more connections, lets running requests end (for [`Limits::drain`] at most), and
    /// closes the store.
    pub async fn shutdown(self) {
        let Self {
            core, stop, task, ..
        } = self;
        // The task holds the folder to its end, and with it the store.
        drop(core);
        // The task may have ended by itself; then there is nobody to tell.
        let _ = stop.send(true);
        if let Err(error) = task.await {
            tracing::error!(%error, "the key service did not end cleanly");
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Reads the certificate anew whenever its files have changed.
async fn look_after(certificates: Arc<Certificates>, core: Weak<Core>) {
    loop {
        sleep(CERTIFICATE_LOOK).await;
        let Some(core) = core.upgrade() else { return };
        if certificates.have_changed() {
            // What went wrong is in the log.
            let _ = reload(&certificates, &core);
        }
    }
}

fn reload(certificates: &Certificates, core: &Core) -> Result<(), TlsError> {
    let outcome = certificates.reload(core.clock.now());
    match &outcome {
        Ok(()) => tracing::info!("the TLS certificate was read anew"),
        Err(error) => {
            tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays");
        }
    }
    core.metrics.reload(outcome.is_ok());
    outcome
}

/// Has the audit log on the disk soon after it was written.
async fn keep_audit_log(core: Weak<Core>) {
    loop {
        sleep(audit::SYNC_INTERVAL).await;
        let Some(core) = core.upgrade() else { return };
        sync_audit_log(&core).await;
    }
}

async fn sync_audit_log(core: &Arc<Core>) {
    let core = Arc::clone(core);
    let synced = tokio::task::spawn_blocking(move || core.audit.sync());
    // The task fails only by a panic, or with the runtime.
    if let Ok(Err(error)) = synced.await {
        tracing::error!(%error, "the audit log could not be synced");
    }
}

struct Server {
    core: Arc<Core>,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let seats = Arc::new(Seats::default());
        let mut stopped = self.stopped.clone();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop(&mut stopped) => break,
            };
            // Those that have ended are forgotten here, so that the set stays small.
            while connections.try_join_next().is_some() {}
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, for instance: pause, rather than spin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let permit = if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                permit
            } else {
                // Whoever has nothing to say makes room, so that idle connections cannot keep
                // others out.
                if seats.displace() {
                    self.core.metrics.connection("displaced");
                }
                let permit = tokio::select! {
                    permit = Arc::clone(&permits).acquire_owned() => permit,
                    () = stop(&mut stopped) => break,
                };
                let Ok(permit) = permit else { break };
                permit
            };
            let connection = Connection {
                core: Arc::clone(&self.core),
                limits: self.limits,
                origin: Origin {
                    address: peer.ip(),
                    is_tls: self.certificates.is_some(),
                },
                stopped: self.stopped.clone(),
                seat: seats.take(),
            };
            let tls = self.certificates.as_ref().map(|c| c.current());
            connections.spawn(async move {
                connection.serve(stream, tls.map(TlsAcceptor::from)).await;
                drop(permit);
            });
        }
        drop(listener);
        let drained = timeout(self.limits.drain, async {
            while connections.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "connections were cut off, as they did not end in time"
            );
            connections.shutdown().await;
        }
    }
}

/// Does what time has brought about.
async fn sweep(core: &Arc<Core>) {
    let now_ms = milliseconds(core.clock.now());
    let core = Arc::clone(core);
    let task = tokio::task::spawn_blocking(move || operations::sweep(&core.store, now_ms));
    if task.await.is_err() {
        tracing::error!("keys could not be looked through for what is due");
    }
}

/// Connects the key stores that are to be connected. A token may take its time, so no start waits for it.
async fn tend_key_stores(core: &Arc<Core>) {
    let core = Arc::clone(core);
    let task = tokio::task::spawn_blocking(move || operations::tend(&core));
    if task.await.is_err() {
        tracing::error!("the key stores' tokens could not be tended");
    }
}

/// Both from time to time, until the service is to stop.
async fn keep_sweeping(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    loop {
        tend_key_stores(&core).await;
        tokio::select! {
            () = sleep(SWEEP) => sweep(&core).await,
            () = stop(&mut stopped) => break,
        }
    }
}

/// Resolves once the service is to stop.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone, which is the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Who is connected, oldest first.
#[derive(Default)]
struct Seats {
    next: AtomicU64,
    taken: Mutex<BTreeMap<u64, Arc<Occupant>>>,
}

#[derive(Default)]
struct Occupant {
    leave: Notify,
    /// Whether it was told to leave.
    is_told: AtomicBool,
    /// Requests that it is waiting for.
    running: AtomicUsize,
    /// Requests that were answered.
    answered: AtomicUsize,
}

struct Seat {
    seats: Arc<Seats>,
    number: u64,
    occupant: Arc<Occupant>,
}

impl Seats {
    fn take(self: &Arc<Self>) -> Seat {
        let occupant = Arc::new(Occupant::default());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(&occupant));
        Seat {
            seats: Arc::clone(self),
            number,
            occupant,
        }
    }

    /// Asks one connection to leave: the oldest that never brought a whole request, else the oldest
    /// that has none running. `false` where all are at work.
    fn displace(&self) -> bool {
        let taken = self.lock();
        let idle = || {
            taken.values().filter(|occupant| {
                occupant.running.load(Ordering::Acquire) == 0
                    && !occupant.is_told.load(Ordering::Acquire)
            })
        };
        let chosen = idle()
            .find(|occupant| occupant.answered.load(Ordering::Acquire) == 0)
            .or_else(|| idle().next());
        if let Some(occupant) = chosen {
            occupant.is_told.store(true, Ordering::Release);
            occupant.leave.notify_one();
        }
        chosen.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Occupant>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
    }
}

/// Counts an open connection for as long as it lives.
struct Counted(Arc<Core>);

impl Counted {
    fn new(core: &Arc<Core>) -> Self {
        core.metrics.connections.inc();
        core.metrics.connection("accepted");
        Self(Arc::clone(core))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

struct Connection {
    core: Arc<Core>,
    limits: Limits,
    origin: Origin,
    stopped: watch::Receiver<bool>,
    seat: Seat,
}

impl Connection {
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let _counted = Counted::new(&self.core);
        // Answers are single small writes; waiting to fill a packet would only cost time.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = acceptor else {
            return self.serve_http(stream).await;
        };
        let handshake = tokio::select! {
            handshake = timeout(TLS_HANDSHAKE, acceptor.accept(stream)) => handshake,
            () = self.seat.occupant.leave.notified() => return,
        };
        match handshake {
            Ok(Ok(stream)) => return self.serve_http(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
        self.core.metrics.connection("handshake failed");
    }

    async fn serve_http<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self {
            core,
            limits,
            origin,
            mut stopped,
            seat,
        } = self;
        let occupant = Arc::clone(&seat.occupant);
        let service = service_fn(move |request| {
            let core = Arc::clone(&core);
            let occupant = Arc::clone(&occupant);
            async move {
                let response = respond(core, limits, origin, &occupant, request).await;
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(2 * MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = sleep(MAX_CONNECTION_AGE) => None,
            () = stop(&mut stopped) => None,
            () = seat.occupant.leave.notified() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            // It was idle when it was told; whoever has begun a request since may bring it to its end.
            None if seat.occupant.is_told.load(Ordering::Acquire)
                && seat.occupant.running.load(Ordering::Acquire) == 0 =>
            {
                Ok(())
            }
            None => {
                connection.as_mut().graceful_shutdown();
                let rest = timeout(limits.drain.max(limits.request), connection).await;
                rest.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended with an error");
        }
    }
}

async fn respond(
    core: Arc<Core>,
    limits: Limits,
    origin: Origin,
    occupant: &Occupant,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = timeout(limits.request, collect(body))
        .await
        .unwrap_or(Err(Unread::TooSlow));
    // Only now: whoever never ends its body has nothing running.
    let _running = RunningRequest::new(occupant);
    let began = Instant::now();
    let prepared = core.prepare(
        &parts,
        body.as_ref().map(|b| b.as_slice()).map_err(|e| *e),
        origin,
    );
    drop(body);
    let concluded = if prepared.is_slow() {
        Err(Box::new(prepared))
    } else {
        core.conclude_at_once(prepared, began)
    };
    let answer = match concluded {
        Ok(answer) => Some(answer),
        Err(prepared) => {
            let task = tokio::task::spawn_blocking(move || core.conclude(*prepared, began));
            // It fails only by a panic or the end of the runtime; either way there is no answer.
            task.await.ok()
        }
    };
    match answer {
        Some(answer) => into_response(answer),
        None => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

struct RunningRequest<'a>(&'a Occupant);

impl<'a> RunningRequest<'a> {
    fn new(occupant: &'a Occupant) -> Self {
        occupant.running.fetch_add(1, Ordering::AcqRel);
        Self(occupant)
    }
}

impl Drop for RunningRequest<'_> {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::AcqRel);
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads the whole body, bounded, into memory that is wiped afterwards.
async fn collect(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, Unread> {
    let hint = body.size_hint();
    let expected =
        usize::try_from(hint.upper().unwrap_or(hint.lower())).map_err(|_| Unread::TooLong)?;
    if expected > MAX_BODY_BYTES {
        return Err(Unread::TooLong);
    }
    // Allocated once where the length is told: growing would leave copies behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(expected));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Broken)?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > MAX_BODY_BYTES {
                return Err(Unread::TooLong);
            }
            if whole.capacity() - whole.len() < data.len() {
                let mut larger = Zeroizing::new(Vec::with_capacity((whole.len() + data.len()) * 2));
                larger.extend_from_slice(&whole);
                whole = larger;
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}

fn into_response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_owner(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    let id = answer.request_id.to_string();
    headers.insert(
        "x-amzn-requestid",
        HeaderValue::from_str(&id).expect("a UUID is ASCII"),
    );
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static(answer.content_type),
    );
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate, private"),
    );
    if let Some(error) = answer.error {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(error));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_told(seat: &Seat) -> bool {
        seat.occupant.is_told.load(Ordering::Acquire)
    }

    #[test]
    fn whoever_never_said_anything_leaves_first_and_whoever_is_at_work_stays() {
        let seats = Arc::new(Seats::default());
        let (useful, at_work, silent) = (seats.take(), seats.take(), seats.take());
        drop(RunningRequest::new(&useful.occupant));
        let running = RunningRequest::new(&at_work.occupant);
        assert!(seats.displace());
        assert!(is_told(&silent) && !is_told(&useful) && !is_told(&at_work));
        assert!(seats.displace());
        assert!(is_told(&useful) && !is_told(&at_work));
        assert!(!seats.displace());
        drop(running);
        assert!(seats.displace() && is_told(&at_work));
        drop((useful, at_work, silent));
        assert!(seats.lock().is_empty());
    }
}
