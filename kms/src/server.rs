//! The network side: connections, TLS, HTTP/1.1, and bounds on all of them.
//!
//! Every wait has an end, every buffer a size. What a request means is not decided here.

use crate::audit::{AuditError, AuditLog};
use crate::config::{Config, Limits, Transport};
use crate::identity::Directory;
use crate::recipient::Rules;
use crate::service::{Answer, Core, Origin, Unread};
use crate::state::{StateError, StateFolder};
use crate::store::{Store, StoreError};
use crate::tls::{self, TlsError};
use anchorhold_kms_wire::shapes::CONTENT_TYPE;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
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
/// After this a connection is closed between two requests, so that none is held for ever.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);

/// Why the service does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
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
    scheme: &'static str,
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
        let store_path = state.file("store.redb");
        let store = Store::open(&store_path, &state.root_key(&store_path)?)?;
        let audit = AuditLog::open(&state.file("audit.ndjson"))?;
        let tls = match &config.transport {
            Transport::PlainHttp => None,
            Transport::Tls { certificate, key } => Some(tls::from_files(certificate, key)?),
            Transport::DevelopmentTls => Some(tls::development(&state, config.clock.now())?),
        };
        let listen_error = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let core = Arc::new(Core {
            region: config.region,
            store,
            rules: Rules {
                verifier: Rules::verifier(config.anchors),
                max_age: config.max_document_age,
                max_skew: config.max_clock_skew,
                allow_debug: config.allow_debug,
            },
            directory,
            audit,
            clock: config.clock,
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (stop, stopped) = watch::channel(false);
        let acceptor = tls.map(TlsAcceptor::from);
        let server = Server {
            core,
            acceptor,
            limits: config.limits,
            stopped,
        };
        let task = tokio::spawn(async move {
            let core = Arc::clone(&server.core);
            server.accept(listener).await;
            if let Err(error) = core.audit.sync() {
                tracing::error!(%error, "the audit log could not be synced");
            }
            // Only now may another service take the folder.
            drop(core);
            drop(state);
        });
        tracing::info!(%address, scheme, "the key service is listening");
        Ok(Running {
            address,
            scheme,
            stop,
            task,
        })
    }

    /// Serves until SIGTERM or SIGINT, then lets running requests end. `ready` is called once the
    /// service is up.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn serve(config: Config, ready: impl FnOnce(&Running)) -> Result<(), StartError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
        let running = Self::start(config).await?;
        ready(&running);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
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

    /// Takes no more connections, lets running requests end (for [`Limits::drain`] at most), and
    /// closes the store.
    pub async fn shutdown(self) {
        // The task may have ended by itself; then there is nobody to tell.
        let _ = self.stop.send(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the key service did not end cleanly");
        }
    }
}

struct Server {
    core: Arc<Core>,
    acceptor: Option<TlsAcceptor>,
    limits: Limits,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let permits = Arc::new(Semaphore::new(self.limits.max_connections));
        let mut stopped = self.stopped.clone();
        let mut connections = JoinSet::new();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = stop(&mut stopped) => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop(&mut stopped) => break,
            };
            // Those that have ended are forgotten here, so that the set stays small.
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection {
                        core: Arc::clone(&self.core),
                        limits: self.limits,
                        origin: Origin {
                            address: peer.ip(),
                            is_tls: self.acceptor.is_some(),
                        },
                        stopped: self.stopped.clone(),
                    };
                    let acceptor = self.acceptor.clone();
                    connections.spawn(async move {
                        connection.serve(stream, acceptor).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, for instance: pause, rather than spin.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
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

/// Resolves once the service is to stop.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone, which is the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

struct Connection {
    core: Arc<Core>,
    limits: Limits,
    origin: Origin,
    stopped: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Answers are single small writes; waiting to fill a packet would only cost time.
        let _ = stream.set_nodelay(true);
        match acceptor {
            None => self.serve_http(stream).await,
            Some(acceptor) => match timeout(TLS_HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.serve_http(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            },
        }
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
        } = self;
        let service = service_fn(move |request| {
            let core = Arc::clone(&core);
            async move { Ok::<_, Infallible>(respond(core, limits, origin, request).await) }
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
        };
        let ended = match ended {
            Some(ended) => ended,
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
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = timeout(limits.request, collect(body))
        .await
        .unwrap_or(Err(Unread::TooSlow));
    let prepared = core.prepare(
        &parts,
        body.as_ref().map(|b| b.as_slice()).map_err(|e| *e),
        origin,
    );
    drop(body);
    let answer = if prepared.is_slow() {
        let task = tokio::task::spawn_blocking(move || core.conclude(prepared));
        // It fails only by a panic or the end of the runtime; either way there is no answer.
        task.await.ok()
    } else {
        Some(core.conclude(prepared))
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
        HeaderValue::from_static(CONTENT_TYPE),
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
