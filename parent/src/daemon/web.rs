//! What is served over TCP on loopback: metrics and health for whoever watches, and the status page for people.
//!
//! It changes nothing. Metrics tell nothing sensitive and ask for nothing; the page's data ask for a token, since any process of
//! this host can connect. Both are bounded in connections and time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, HOST, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::api::{Api, text};

/// What watches opens few connections and asks short questions.
const MOST_CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// The page: one file, which loads nothing else.
const PAGE: &str = include_str!("page.html");

/// The page runs its own script and style and reaches its own origin only.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PLAIN: &str = "text/plain; charset=utf-8";

/// Which of the two is served.
#[derive(Clone)]
pub(super) enum Site {
    /// `/metrics`, `/healthz`, `/readyz`.
    Metrics,
    /// The status page, for whoever shows this token.
    Page(String),
}

type Answer = Response<http_body_util::combinators::BoxBody<bytes::Bytes, std::io::Error>>;

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, site: Site, api: Arc<Api>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the loopback listener could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (site, api) = (site.clone(), api.clone());
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let (site, api) = (&site, &api);
                async move {
                    Ok::<_, Infallible>(match site {
                        Site::Metrics => watched(api, &request).await,
                        Site::Page(token) => page(api, token, &request).await,
                    })
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_headers(64)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(3 * PATIENCE, connection).await;
            drop(place);
        });
    }
}

fn said(status: StatusCode, words: &'static str) -> Answer {
    let mut answer = text(PLAIN, words);
    *answer.status_mut() = status;
    answer
}

async fn watched(api: &Api, request: &Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => said(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") => api.ready().await,
        (&Method::GET, "/metrics") => api.metrics().await,
        _ => said(
            StatusCode::NOT_FOUND,
            "here are GET /healthz, /readyz and /metrics\n",
        ),
    }
}

async fn page(api: &Api, token: &str, request: &Request<Incoming>) -> Answer {
    // A site of another name that resolves to this address is not this page.
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !["localhost", "127.0.0.1", "[::1]"].contains(&name) {
        return said(
            StatusCode::FORBIDDEN,
            "this page is served as localhost, 127.0.0.1 or [::1] only\n",
        );
    }
    let mut answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => text("text/html; charset=utf-8", PAGE),
        (&Method::GET, "/data") => {
            if shows(request, token) {
                api.page().await
            } else {
                said(
                    StatusCode::UNAUTHORIZED,
                    "show the token of [page] token_file\n",
                )
            }
        }
        _ => said(StatusCode::NOT_FOUND, "here is GET /\n"),
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Whether a request shows the token. Takes as long for a wrong one as for the right one.
fn shows(request: &Request<Incoming>, token: &str) -> bool {
    let shown = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    is_same(shown, token.as_bytes())
}

fn is_same(shown: &[u8], token: &[u8]) -> bool {
    let differing = shown
        .iter()
        .zip(token)
        .fold(0, |differing, (a, b)| differing | (a ^ b));
    shown.len() == token.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same(b"abc", b"abc"));
        for wrong in [&b""[..], b"ab", b"abd", b"abcd"] {
            assert!(!is_same(wrong, b"abc"));
        }
    }
}
