//! A client of the key service: signs, sends over TLS, reads back, and tries again where that is
//! safe and useful.
//!
//! The enclave and the owner's commands both use it. How a stream to the service comes about is
//! the caller's ([`Connect`]); TLS always ends here, so whoever carries the stream sees and changes
//! nothing. A caller who sent a Recipient must look at the answer: a response with a `Plaintext`
//! is returned as it came, and it means that the service attested nothing (see
//! [`DecryptResponse`](crate::shapes::DecryptResponse)). Shapes are wiped after use, but the
//! buffers of the TLS and HTTP libraries are not in this crate's hands.

mod connection;
mod endpoint;
mod error;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use zeroize::Zeroizing;

use crate::shapes::{self, ErrorBody, Operation};
use crate::sigv4::{Credentials, CredentialsError, sign};

pub use connection::{Connect, Tcp};
pub use endpoint::{Endpoint, EndpointError, TlsTrust};
pub use error::ClientError;

use connection::Dialler;

/// Where the client gets its credentials, before each attempt.
pub trait ProvideCredentials: Send + Sync {
    /// The credentials to sign with now. Keeping and renewing them is the provider's.
    fn credentials(
        &self,
    ) -> impl Future<Output = Result<Arc<Credentials>, CredentialsError>> + Send;
}

/// The same credentials each time.
pub struct Fixed(Arc<Credentials>);

impl Fixed {
    /// These credentials.
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(credentials))
    }

    /// Those of the environment, see [`Credentials::from_env`].
    ///
    /// # Errors
    /// As there.
    pub fn from_env() -> Result<Self, CredentialsError> {
        Credentials::from_env().map(Self::new)
    }
}

impl ProvideCredentials for Fixed {
    async fn credentials(&self) -> Result<Arc<Credentials>, CredentialsError> {
        Ok(Arc::clone(&self.0))
    }
}

impl<F, R> ProvideCredentials for F
where
    F: Fn() -> R + Send + Sync,
    R: Future<Output = Result<Arc<Credentials>, CredentialsError>> + Send,
{
    fn credentials(
        &self,
    ) -> impl Future<Output = Result<Arc<Credentials>, CredentialsError>> + Send {
        self()
    }
}

/// How long and how often the client tries, and how much it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For one connection to come about, TLS included.
    pub connect: Duration,
    /// For a call as a whole, with all its attempts.
    pub call: Duration,
    /// How many attempts a call makes, at least one.
    pub attempts: u32,
    /// The longest pause after the first attempt; it doubles with each, and the true pause is
    /// random below it.
    pub first_pause: Duration,
    /// The longest pause of all.
    pub longest_pause: Duration,
    /// The longest answer, in bytes.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(30),
            attempts: 4,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            response_bytes: 1 << 20,
        }
    }
}

/// Says what time it is, for the dates of signatures and of certificates.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

type Sender = SendRequest<Full<Bytes>>;

/// How many connections are kept for later calls.
const KEPT_CONNECTIONS: usize = 8;

/// A client of one endpoint. Calls may run at the same time; connections are kept and reused.
pub struct Client<C, P> {
    dialler: Dialler<C>,
    region: String,
    credentials: P,
    limits: Limits,
    clock: Clock,
    idle: Mutex<Vec<Sender>>,
}

impl<C: Connect, P: ProvideCredentials> Client<C, P> {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// [`EndpointError`] where URL, Region or CA are unusable or don't go together.
    pub fn new(endpoint: &Endpoint, connector: C, credentials: P) -> Result<Self, EndpointError> {
        Self::with_clock(endpoint, connector, credentials, Arc::new(SystemTime::now))
    }

    /// The same where the system's clock is not to be believed: `clock` alone says when requests are signed, and whether
    /// certificates are valid.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_clock(
        endpoint: &Endpoint,
        connector: C,
        credentials: P,
        clock: Clock,
    ) -> Result<Self, EndpointError> {
        Ok(Self {
            dialler: Dialler::new(endpoint, connector, &clock)?,
            region: endpoint.region.clone(),
            credentials,
            limits: Limits::default(),
            clock,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Calls the service.
    ///
    /// What came to nothing is tried again: lost connections and errors on the service's side
    /// (operations that are not [`Operation::REPEATABLE`] only where it is sure that nothing was
    /// done), and throttling. Refusals are final.
    ///
    /// # Errors
    /// [`ClientError`], that of the last attempt.
    pub async fn call<O: Operation>(&self, operation: &O) -> Result<O::Response, ClientError> {
        let body = Bytes::from_owner(shapes::encode(operation));
        match tokio::time::timeout(self.limits.call, self.attempts::<O>(body)).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Timeout {
                authority: self.dialler.authority().to_owned(),
                after: self.limits.call,
            }),
        }
    }

    async fn attempts<O: Operation>(&self, body: Bytes) -> Result<O::Response, ClientError> {
        let mut attempt = 1;
        loop {
            match self.attempt::<O>(body.clone()).await {
                Err(error)
                    if attempt < self.limits.attempts
                        && error.is_worth_another_attempt(O::REPEATABLE) =>
                {
                    tokio::time::sleep(self.pause(attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Exponential backoff with full jitter.
    fn pause(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
        let longest = self
            .limits
            .first_pause
            .saturating_mul(factor)
            .min(self.limits.longest_pause);
        let mut random = [0; 4];
        // Without randomness, the longest pause.
        let share = rand::fill(&mut random).map_or(1.0, |()| {
            f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)
        });
        longest.mul_f64(share)
    }

    async fn attempt<O: Operation>(&self, body: Bytes) -> Result<O::Response, ClientError> {
        let credentials = self.credentials.credentials().await?;
        let request = self.request(O::NAME, body, &credentials)?;
        let (sender, response) = self.send(request).await?;
        let status = response.status();
        let request_id = header(&response, "x-amzn-requestid");
        let body = self.read(response).await?;
        // The body is read to its end, so the connection can serve another call.
        if !sender.is_closed() {
            let mut idle = self.idle();
            if idle.len() < KEPT_CONNECTIONS {
                idle.push(sender);
            }
        }
        if status == StatusCode::OK {
            return O::parse_response(&body).map_err(|error| ClientError::NotAnAnswer {
                status: status.as_u16(),
                reason: error.to_string(),
            });
        }
        Err(service_error(status, request_id, &body))
    }

    fn request(
        &self,
        name: &str,
        body: Bytes,
        credentials: &Credentials,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let target = format!("{}.{name}", shapes::TARGET_PREFIX);
        let (mut parts, ()) = Request::builder()
            .method(Method::POST)
            .uri(self.dialler.path())
            .header(HOST, self.dialler.authority())
            .header(CONTENT_TYPE, shapes::CONTENT_TYPE)
            .header(HeaderName::from_static("x-amz-target"), target)
            .header(
                USER_AGENT,
                concat!("anchorhold/", env!("CARGO_PKG_VERSION")),
            )
            .body(())
            .expect("the endpoint was checked, and names of operations are ASCII")
            .into_parts();
        sign(
            &mut parts,
            &body,
            credentials,
            &self.region,
            "kms",
            (self.clock)(),
        )?;
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        Ok(Request::from_parts(parts, Full::new(body)))
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Sender, http::Response<Incoming>), ClientError> {
        let cut = |source| ClientError::Cut {
            authority: self.dialler.authority().to_owned(),
            source,
        };
        let mut request = request;
        // A kept connection may have been closed meanwhile. While the request has not left, that
        // is no failure, only a reason to take the next.
        loop {
            let kept = self.idle().pop();
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(cut(error.into_error())),
                },
            }
        }
        let mut sender = self.dialler.dial(self.limits.connect).await?;
        let response = sender.send_request(request).await.map_err(cut)?;
        Ok((sender, response))
    }

    async fn read(
        &self,
        response: http::Response<Incoming>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let limit = self.limits.response_bytes;
        let mut incoming = response.into_body();
        let announced = usize::try_from(incoming.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(ClientError::TooLarge { limit });
        }
        let mut body = Zeroizing::new(Vec::with_capacity(announced));
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|source| ClientError::Cut {
                authority: self.dialler.authority().to_owned(),
                source,
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > limit - body.len() {
                return Err(ClientError::TooLarge { limit });
            }
            if body.capacity() - body.len() < data.len() {
                // By hand, so that the old vector is wiped.
                let mut larger = Zeroizing::new(Vec::with_capacity((body.len() + data.len()) * 2));
                larger.extend_from_slice(&body);
                body = larger;
            }
            body.extend_from_slice(&data);
        }
        Ok(body)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn header(response: &http::Response<Incoming>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(printable)
}

fn service_error(status: StatusCode, request_id: Option<String>, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) if !error.kind.is_empty() => ClientError::Service {
            status: status.as_u16(),
            kind: printable(error.name()),
            message: printable(&error.message),
            request_id,
        },
        _ => ClientError::NotAnAnswer {
            status: status.as_u16(),
            reason: "it has an error's status but no error's body".to_owned(),
        },
    }
}

/// What the other side wrote ends up on terminals and in logs: no control characters, no floods.
fn printable(text: &str) -> String {
    text.chars()
        .take(2048)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
