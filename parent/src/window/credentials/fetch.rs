//! One small HTTP request to an endpoint that hands out credentials: no redirects, no proxies, nothing unbounded.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::LARGEST;

/// For one request with its answer. These endpoints are on this host, or next to it.
const LIMIT: Duration = Duration::from_secs(2);

/// Why an endpoint gave no credentials. Nothing that it said is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It cannot be reached, or broke off.
    #[error("{0}")]
    Broken(String),
    /// It did not answer.
    #[error("it did not answer in {} s", LIMIT.as_secs())]
    TimedOut,
    /// It answered something else than success.
    #[error("it answered {0}{hint}", hint = hint(*.0))]
    Status(u16),
    /// It answered more than credentials are.
    #[error("its answer is larger than {LARGEST} bytes")]
    TooLarge,
    /// It answered no credentials.
    #[error("its answer has no credentials")]
    Malformed,
    /// It gave an expiry that is no time.
    #[error("its answer has an Expiration that is no time")]
    Expiration,
    /// It is switched off.
    #[error(
        "AWS_EC2_METADATA_DISABLED switches it off, or AWS_EC2_METADATA_SERVICE_ENDPOINT is no http:// address"
    )]
    Disabled,
    /// It failed just now.
    #[error("it failed a moment ago and is asked again in a moment")]
    Later,
    /// The file with what to say to it cannot be used.
    #[error("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {0}")]
    Token(String),
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": it may be switched off, or the token is not believed",
        404 => ": has this instance or task a role?",
        _ => "",
    }
}

/// Sends one request without a body and reads the whole answer.
pub(super) async fn fetch(
    address: SocketAddr,
    host: &str,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    timeout(LIMIT, exchange(address, host, method, path, headers))
        .await
        .unwrap_or(Err(FetchError::TimedOut))
}

async fn exchange(
    address: SocketAddr,
    host: &str,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let broken = |error: &dyn std::fmt::Display| FetchError::Broken(error.to_string());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    for (name, value) in headers {
        let mut value = HeaderValue::from_str(value).map_err(|error| broken(&error))?;
        value.set_sensitive(true);
        request
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| broken(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(2 * LARGEST as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let answer = async move {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(FetchError::Status(status.as_u16()));
        }
        let body = Limited::new(answer.into_body(), LARGEST as usize)
            .collect()
            .await
            .map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    FetchError::TooLarge
                } else {
                    broken(&error)
                }
            })?;
        Ok(Zeroizing::new(body.to_bytes().to_vec()))
    };
    // The connection is driven here and nowhere else, so that nothing is left when this ends.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        ended = &mut connection => match ended {
            // What came before the end is still to be read.
            Ok(()) => answer.await,
            Err(error) => Err(FetchError::Broken(error.to_string())),
        }
    }
}
