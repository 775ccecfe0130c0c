//! The parent's window: relays, credentials and sealed secrets, over HTTP/1.1 on vsock.
//!
//! Everything that comes through it is a claim of an untrusted host. It is bounded in size and time here, and it must
//! be authenticated by whoever uses it: TLS ends inside the enclave, secrets are sealed messages, and credentials are
//! only ever used to sign.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anchorhold_kms_wire::client::{Connect, ProvideCredentials};
use anchorhold_kms_wire::sigv4::{Credentials, CredentialsError};
use anchorhold_manifest::WINDOW_PORT;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

use crate::clock::Clock;
use crate::stream::Parent;

/// How long the parent may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer with credentials.
const MAX_CREDENTIALS_BYTES: usize = 16 * 1024;
/// Largest explanation of a refusal.
const MAX_REFUSAL_BYTES: usize = 4 * 1024;
/// How long credentials are kept that do not say when they expire.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(5);
/// Credentials are asked for anew this long before they expire.
const RENEWAL_MARGIN: Duration = Duration::from_mins(1);

/// Why the parent's window did not serve.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Nothing answers at the window's port.
    #[error("the parent's window cannot be reached on vsock port {WINDOW_PORT}: {0}")]
    Dial(#[source] io::Error),
    /// What answers does not speak HTTP/1.1.
    #[error("the parent's window broke off: {0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("the parent's window did not answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// It refused.
    #[error("the parent's window refused {what} with status {status}: {reason}")]
    Refused {
        /// Method and target.
        what: String,
        /// HTTP status.
        status: u16,
        /// What it says about it; untrusted text.
        reason: String,
    },
    /// It sent more than allowed.
    #[error("the parent's window answered {what} with more than {limit} bytes")]
    TooLarge {
        /// Method and target.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// It has no such thing.
    #[error("the parent's window has nothing at {0}")]
    NotFound(String),
}

/// The window of one parent.
#[derive(Debug)]
pub struct Window<P> {
    parent: P,
}

impl<P: Parent> Window<P> {
    /// The window behind a way to the parent.
    pub fn new(parent: P) -> Window<P> {
        Window { parent }
    }

    /// GETs what is at `path`, at most `limit` bytes of it.
    ///
    /// # Errors
    /// [`WindowError::NotFound`] for status 404, [`WindowError::Refused`] for all others but 200.
    pub async fn fetch(&self, path: &str, limit: usize) -> Result<Zeroizing<Vec<u8>>, WindowError> {
        let what = format!("GET {path}");
        let uri = path
            .parse::<Uri>()
            .expect("paths are constants and names of [a-z0-9-]");
        within(async {
            let response = self.send(Method::GET, uri, "parent").await?;
            match response.status() {
                StatusCode::OK => read(response, &what, limit).await,
                StatusCode::NOT_FOUND => Err(WindowError::NotFound(path.to_owned())),
                _ => Err(refusal(response, what).await),
            }
        })
        .await
    }

    /// A raw connection to `host:port` through the parent, which sees whatever is not encrypted on it.
    ///
    /// # Errors
    /// [`WindowError::Refused`] where the parent's allowlist does not have it.
    pub async fn relay(&self, host: &str, port: u16) -> Result<TokioIo<Upgraded>, WindowError> {
        // IPv6 addresses stand in brackets.
        let authority = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let what = format!("CONNECT {authority}");
        let uri = authority.parse::<Uri>().map_err(|_| WindowError::Refused {
            what: what.clone(),
            status: 400,
            reason: "it is no target".to_owned(),
        })?;
        within(async {
            let response = self.send(Method::CONNECT, uri, &authority).await?;
            if response.status() != StatusCode::OK {
                return Err(refusal(response, what).await);
            }
            Ok(TokioIo::new(hyper::upgrade::on(response).await?))
        })
        .await
    }

    async fn send(
        &self,
        method: Method,
        uri: Uri,
        host: &str,
    ) -> Result<Response<Incoming>, WindowError> {
        let stream = self
            .parent
            .dial(WINDOW_PORT)
            .await
            .map_err(WindowError::Dial)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange, or with the relayed stream; its errors reach whoever reads.
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::HOST, host)
            .body(Empty::<Bytes>::new())
            .expect("the parts were checked before");
        Ok(sender.send_request(request).await?)
    }
}

async fn within<T>(
    exchange: impl Future<Output = Result<T, WindowError>>,
) -> Result<T, WindowError> {
    tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .unwrap_or(Err(WindowError::Timeout))
}

async fn read(
    response: Response<Incoming>,
    what: &str,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, WindowError> {
    match Limited::new(response.into_body(), limit).collect().await {
        Ok(body) => Ok(Zeroizing::new(body.to_bytes().to_vec())),
        Err(error) if error.is::<LengthLimitError>() => Err(WindowError::TooLarge {
            what: what.to_owned(),
            limit,
        }),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(WindowError::Http(*error)),
            Err(error) => Err(WindowError::Dial(io::Error::other(error))),
        },
    }
}

async fn refusal(response: Response<Incoming>, what: String) -> WindowError {
    #[derive(Deserialize)]
    struct Explanation {
        message: Option<String>,
        error: Option<String>,
    }
    let status = response.status().as_u16();
    let body = read(response, &what, MAX_REFUSAL_BYTES).await;
    let reason = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Explanation>(&body).ok())
        .and_then(|explanation| explanation.message.or(explanation.error))
        .unwrap_or_else(|| "it gave no reason".to_owned());
    WindowError::Refused {
        what,
        status,
        reason,
    }
}

impl<P: Parent> Connect for Relay<P> {
    type Stream = TokioIo<Upgraded>;

    async fn connect(&self, host: &str, port: u16) -> io::Result<Self::Stream> {
        self.0.relay(host, port).await.map_err(|error| {
            let kind = match &error {
                WindowError::Refused { .. } => io::ErrorKind::PermissionDenied,
                WindowError::Dial(source) => source.kind(),
                WindowError::Timeout => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::ConnectionAborted,
            };
            io::Error::new(kind, error)
        })
    }
}

/// Connects by way of the parent's relay.
#[derive(Debug)]
pub struct Relay<P>(pub Arc<Window<P>>);

/// Credentials as the parent hands them out, kept until they are about to expire. Clones share what is kept.
///
/// They decide who pays and whose identity policy applies, not what is released: that is the attestation document's.
pub struct WindowCredentials<P>(Arc<Kept<P>>);

struct Kept<P> {
    window: Arc<Window<P>>,
    clock: Arc<Clock>,
    latest: tokio::sync::Mutex<Option<(Arc<Credentials>, Instant)>>,
}

impl<P> Clone for WindowCredentials<P> {
    fn clone(&self) -> WindowCredentials<P> {
        WindowCredentials(Arc::clone(&self.0))
    }
}

impl<P: Parent> WindowCredentials<P> {
    /// None asked for yet.
    pub fn new(window: Arc<Window<P>>, clock: Arc<Clock>) -> WindowCredentials<P> {
        WindowCredentials(Arc::new(Kept {
            window,
            clock,
            latest: tokio::sync::Mutex::new(None),
        }))
    }

    /// Asks anew at the next use, since the service did not like those it was shown.
    pub async fn forget(&self) {
        *self.0.latest.lock().await = None;
    }

    async fn fetch(&self) -> Result<(Credentials, Duration), CredentialsError> {
        let not_provided = |reason: String| CredentialsError::NotProvided { reason };
        let body = self
            .0
            .window
            .fetch("/credentials", MAX_CREDENTIALS_BYTES)
            .await
            .map_err(|error| match error {
                WindowError::NotFound(_) => not_provided(
                    "the parent has none; start it with AWS credentials in its environment"
                        .to_owned(),
                ),
                other => not_provided(other.to_string()),
            })?;
        parse_credentials(&body, self.0.clock.now())
            .ok_or_else(|| not_provided("what the parent sent are no AWS credentials".to_owned()))
    }
}

impl<P: Parent> ProvideCredentials for WindowCredentials<P> {
    async fn credentials(&self) -> Result<Arc<Credentials>, CredentialsError> {
        let mut latest = self.0.latest.lock().await;
        if let Some((credentials, until)) = &*latest
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credentials));
        }
        let (credentials, lifetime) = self.fetch().await?;
        let credentials = Arc::new(credentials);
        *latest = Some((Arc::clone(&credentials), Instant::now() + lifetime));
        Ok(credentials)
    }
}

/// Reads AWS container credentials; returns with them how long they may be kept.
fn parse_credentials(body: &[u8], now: SystemTime) -> Option<(Credentials, Duration)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        access_key_id: String,
        secret_access_key: String,
        token: Option<String>,
        expiration: Option<String>,
    }
    let container: Container = serde_json::from_slice(body).ok()?;
    let mut secret = container.secret_access_key;
    if container.access_key_id.is_empty() || secret.is_empty() {
        secret.zeroize();
        return None;
    }
    let mut credentials = Credentials::new(container.access_key_id, secret);
    credentials.session_token = container
        .token
        .filter(|token| !token.is_empty())
        .map(Zeroizing::new);
    let lifetime = container
        .expiration
        .and_then(|text| unix_seconds(&text))
        .map_or(DEFAULT_LIFETIME, |expiration| {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            Duration::from_secs(expiration).saturating_sub(now + RENEWAL_MARGIN)
        })
        // The parent may also say the year 9999, which no Instant can hold.
        .min(Duration::from_hours(24));
    Some((credentials, lifetime))
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.fraction]Z` (RFC 3339, UTC), none for anything else.
fn unix_seconds(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let (date, time) = whole.split_once('T')?;
    let numbers = |text: &str, separator: char| -> Option<[u64; 3]> {
        let mut parts = text.split(separator).map(|part| part.parse::<u64>().ok());
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    // Days from the civil date, counting years from March so that the leap day comes last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_calendar_has_them() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(
            unix_seconds("2026-03-01T00:00:00.123Z"),
            Some(1_772_323_200)
        );
        assert_eq!(unix_seconds("2038-01-19T03:14:08Z"), Some(2_147_483_648));
        for nonsense in [
            "",
            "Z",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00+01:00",
            "0001-01-01T00:00:00Z",
        ] {
            assert_eq!(unix_seconds(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn credentials_are_kept_until_shortly_before_they_expire() {
        let body = br#"{"AccessKeyId":"AK","SecretAccessKey":"s","Token":"t","Expiration":"1970-01-01T01:00:00Z"}"#;
        let now = UNIX_EPOCH + Duration::from_mins(10);
        let (credentials, lifetime) = parse_credentials(body, now).expect("complete");
        assert_eq!(credentials.access_key_id, "AK");
        assert_eq!(
            credentials
                .session_token
                .as_ref()
                .map(|token| token.as_str()),
            Some("t")
        );
        assert_eq!(lifetime, Duration::from_mins(60 - 10 - 1));
    }

    #[test]
    fn expired_credentials_are_not_kept_and_endless_ones_not_forever() {
        let expired =
            br#"{"AccessKeyId":"AK","SecretAccessKey":"s","Expiration":"1970-01-01T00:00:01Z"}"#;
        let now = UNIX_EPOCH + Duration::from_mins(10);
        let (_, lifetime) = parse_credentials(expired, now).expect("complete");
        assert_eq!(lifetime, Duration::ZERO);
        let endless =
            br#"{"AccessKeyId":"AK","SecretAccessKey":"s","Expiration":"9999-12-31T00:00:00Z"}"#;
        let (_, lifetime) = parse_credentials(endless, now).expect("complete");
        assert_eq!(lifetime, Duration::from_hours(24));
    }

    #[test]
    fn what_is_no_credentials_is_refused() {
        for body in [
            &b"{}"[..],
            b"not json",
            br#"{"AccessKeyId":"","SecretAccessKey":"s"}"#,
            br#"{"AccessKeyId":"AK","SecretAccessKey":""}"#,
        ] {
            assert!(parse_credentials(body, UNIX_EPOCH).is_none());
        }
    }
}
