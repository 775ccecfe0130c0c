//! Why a call failed, and whether another attempt may help.

use std::io;
use std::time::Duration;

use rustls::CertificateError;

use crate::sigv4::{CredentialsError, SignError};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service answered with an error.
    #[error("the key service answered {kind} ({status}): {message}")]
    Service {
        /// The HTTP status.
        status: u16,
        /// The error's name, such as `AccessDeniedException`.
        kind: String,
        /// For people.
        message: String,
        /// By which its logs know the call.
        request_id: Option<String>,
    },
    /// No credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The request could not be signed.
    #[error("the request cannot be signed: {0}")]
    Sign(#[from] SignError),
    /// No stream.
    #[error(
        "no connection to the key service at {authority}: {source}; check that it runs, and that the way to it is allowed"
    )]
    Connect {
        /// Host and port.
        authority: String,
        /// Why.
        source: io::Error,
    },
    /// No connection in time.
    #[error(
        "no connection to the key service at {authority} within {after:?}; check that it runs, and the way to it"
    )]
    ConnectTimeout {
        /// Host and port.
        authority: String,
        /// How long it was tried.
        after: Duration,
    },
    /// The service's certificate is not to be trusted.
    #[error("the certificate of the key service at {authority} is refused: {}", certificate_problem(.problem))]
    Certificate {
        /// Host and port.
        authority: String,
        /// What is wrong with it.
        problem: CertificateError,
    },
    /// TLS failed for another reason.
    #[error("TLS with the key service at {authority} failed: {source}")]
    Tls {
        /// Host and port.
        authority: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before the answer did, or did not carry HTTP.
    #[error(
        "the connection to the key service at {authority} was cut before its answer was complete: {source}"
    )]
    Cut {
        /// Host and port.
        authority: String,
        /// Why.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("no answer from the key service at {authority} within {after:?}")]
    Timeout {
        /// Host and port.
        authority: String,
        /// How long it was tried.
        after: Duration,
    },
    /// The answer is longer than any answer should be.
    #[error("the answer is longer than {limit} bytes; is this a key service?")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not one that a key service gives.
    #[error(
        "the answer (status {status}) is not one of a key service: {reason}; check the endpoint's URL"
    )]
    NotAnAnswer {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it, without its content.
        reason: String,
    },
}

impl ClientError {
    /// The service's name for the error, where it was the service that refused.
    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::Service { kind, .. } => Some(kind),
            _ => None,
        }
    }

    pub(super) fn from_tls(authority: String, error: io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(rustls::Error::InvalidCertificate(problem)) => Self::Certificate {
                authority,
                problem: problem.clone(),
            },
            _ => Self::Tls {
                authority,
                source: error,
            },
        }
    }

    /// Whether another attempt may succeed and can do no harm. `is_repeatable`: doing the operation
    /// twice is as good as once.
    pub(super) fn is_worth_another_attempt(&self, is_repeatable: bool) -> bool {
        match self {
            // Throttled, or never connected: nothing was done.
            Self::Service { status: 429, .. } | Self::ConnectTimeout { .. } => true,
            Self::Service { kind, .. }
                if matches!(
                    kind.as_str(),
                    "ThrottlingException"
                        | "Throttling"
                        | "TooManyRequestsException"
                        | "RequestLimitExceeded"
                ) =>
            {
                true
            }
            Self::Service { status, .. } | Self::NotAnAnswer { status, .. } => {
                *status >= 500 && is_repeatable
            }
            // The request has not left.
            Self::Connect { source, .. } | Self::Tls { source, .. } => is_passing(source.kind()),
            // It may have.
            Self::Cut { .. } => is_repeatable,
            Self::Credentials(_)
            | Self::Sign(_)
            | Self::Certificate { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

/// Whether what happened to a stream may not happen to the next.
fn is_passing(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
    )
}

fn certificate_problem(error: &CertificateError) -> String {
    match error {
        // The second: it names a trusted CA as its issuer, but that CA has not signed it.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no trusted CA has signed it; if the service has a CA of its own, name that one"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name; check the host in the endpoint's URL".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it, and check this machine's clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; check this machine's clock".to_owned()
        }
        other => other.to_string(),
    }
}
