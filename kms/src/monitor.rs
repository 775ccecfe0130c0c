//! The listener for whoever watches over the service: `GET /healthz`, `/readyz`, `/metrics`, in plain HTTP.
//!
//! It is apart from the service's own port, tells nothing sensitive, takes nothing in, and cannot be used to
//! change anything.

use crate::metrics::Readings;
use crate::service::Core;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// What watches opens few connections and asks short questions.
const MAX_CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until it is dropped: while the service ends, it says so.
pub(crate) async fn serve(listener: TcpListener, core: Weak<Core>, stopped: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (core, stopped) = (Weak::clone(&core), stopped.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = match core.upgrade() {
                    Some(core) => answer(&core, &stopped, &request),
                    None => text(StatusCode::SERVICE_UNAVAILABLE, "the service has stopped\n"),
                };
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(2 * PATIENCE, connection).await;
            drop(permit);
        });
    }
}

fn answer(
    core: &Core,
    stopped: &watch::Receiver<bool>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    match request.uri().path() {
        // The process answers: that is all that this says.
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match readiness(core, *stopped.borrow()) {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, core.metrics.text(&core.readings()));
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ),
            );
            response
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "here are /healthz, /readyz and /metrics\n",
        ),
    }
}

fn readiness(core: &Core, is_stopping: bool) -> Result<(), &'static str> {
    if is_stopping {
        return Err("the service is stopping\n");
    }
    if core.audit_fails.load(Ordering::Acquire) {
        return Err("the audit log cannot be written\n");
    }
    // No key has this id.
    core.store
        .key("", Uuid::nil())
        .map(drop)
        .map_err(|_| "the store cannot be read\n")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

impl Core {
    fn readings(&self) -> Readings {
        Readings {
            commits: self.store.commits(),
            audit_bytes: self.audit.length(),
            chains: self.rules.verifier.remembered() as u64,
            recalled: self.rules.verifier.recalled(),
        }
    }
}
