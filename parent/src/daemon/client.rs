//! The command line's side of the API. Who answers there is whoever owns the socket: a folder of this user's, or the place that
//! its user named.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::serve::socket_of;
use super::view::Problem;
use crate::lifecycle::Home;

/// Names the API's socket, where it is not beside the enclaves' folders.
const SOCKET_VARIABLE: &str = "ANCHORHOLD_API";

/// The most bytes of an answer that is taken in whole.
const LARGEST_ANSWER: usize = 64 << 20;

/// How long the daemon may take until it begins to answer: it may drain an enclave meanwhile.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Why the daemon did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It cannot be reached.
    #[error("the daemon at {} cannot be reached: {source}", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It broke off.
    #[error("the daemon broke off: {0}")]
    Broken(String),
    /// It said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The word for programs.
        error: String,
        /// The sentence for people.
        message: String,
    },
}

/// A daemon that answers.
#[derive(Debug, Clone)]
pub struct ApiClient {
    path: PathBuf,
}

impl ApiClient {
    /// The daemon of this home, where one answers. `Err`: one was named and does not.
    pub fn find(home: &Home) -> Result<Option<Self>, ApiError> {
        if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            return match std::os::unix::net::UnixStream::connect(&path) {
                Ok(_) => Ok(Some(Self { path })),
                Err(source) => Err(ApiError::Unreachable { path, source }),
            };
        }
        // Its folder is this user's alone, or there are no enclaves.
        let path = socket_of(home);
        let answers = home.check_enclaves().unwrap_or(false)
            && std::os::unix::net::UnixStream::connect(&path).is_ok();
        Ok(answers.then_some(Self { path }))
    }

    /// The daemon behind this socket.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ApiError> {
        let stream =
            UnixStream::connect(&self.path)
                .await
                .map_err(|source| ApiError::Unreachable {
                    path: self.path.clone(),
                    source,
                })?;
        let broken = |error: hyper::Error| ApiError::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ApiError::Broken(error.to_string()))?;
        timeout(PATIENCE, sender.send_request(request))
            .await
            .map_err(|_| ApiError::Broken("it did not answer".into()))?
            .map_err(broken)
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| ApiError::Broken(error.to_string()))?
            .to_bytes();
        if status.is_success() {
            serde_json::from_slice(&body).map_err(|error| {
                ApiError::Broken(format!("its answer is of another version: {error}"))
            })
        } else {
            Err(refusal(status.as_u16(), &body))
        }
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.exchange(Method::GET, path, Vec::new()).await
    }

    /// Has something done.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Broken(error.to_string()))?;
        self.exchange(Method::POST, path, body).await
    }

    /// Reads a stream of bytes piece by piece, until it ends.
    pub async fn stream(
        &self,
        path: &str,
        mut piece: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ApiError> {
        let answer = self.send(Method::GET, path, Vec::new()).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let body = http_body_util::Limited::new(body, 64 * 1024)
                .collect()
                .await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(refusal(status.as_u16(), &body));
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::Broken(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                piece(&data).map_err(|error| ApiError::Broken(error.to_string()))?;
            }
        }
        Ok(())
    }
}

fn refusal(status: u16, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ApiError::Refused {
            status,
            error: problem.error,
            message: problem.message,
        },
        Err(_) => ApiError::Broken(format!("it answered {status} and no reason")),
    }
}
