//! Refusals: AWS's error for the caller, and the full reason for the audit log.
//!
//! The two are kept apart, since the caller may be the attacker. Neither ever holds
//! plaintext, key material or a secret.

use crate::policy::StatementTrace;
use crate::sealing::NoRandomness;
use crate::store::{ChangeError, StoreError};
use anchorhold_kms_wire::sigv4::SigV4Error;
use http::StatusCode;

/// A request that is not fulfilled.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// AWS's name of the error, such as `NotFoundException`.
    pub(crate) kind: &'static str,
    pub(crate) status: StatusCode,
    /// For the caller.
    pub(crate) message: String,
    /// For the audit log.
    pub(crate) reason: String,
    /// How the policies were judged, where they were.
    pub(crate) trace: Vec<StatementTrace>,
}

impl Refusal {
    /// One whose reason is the message itself.
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind,
            status: StatusCode::BAD_REQUEST,
            reason: message.clone(),
            message,
            trace: Vec::new(),
        }
    }

    /// The same with a reason that the caller does not get.
    pub(crate) fn because(self, reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ..self
        }
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn with_trace(self, trace: Vec<StatementTrace>) -> Self {
        Self { trace, ..self }
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// In the words of AWS's own parameter checks.
    pub(crate) fn constraint(member: &str, constraint: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: {constraint}"
        ))
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new("NotFoundException", message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new("UnsupportedOperationException", message)
    }

    /// AWS gives no text with this one.
    pub(crate) fn invalid_ciphertext(reason: impl Into<String>) -> Self {
        Self::new("InvalidCiphertextException", "").because(reason)
    }

    /// The service's own fault; the caller learns nothing about it.
    pub(crate) fn internal(reason: impl Into<String>) -> Self {
        Self::new(
            "KMSInternalException",
            "The request was rejected because an internal exception occurred. The request can be retried.",
        )
        .because(reason)
        .with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(error) => error.into(),
            ChangeError::Refused(refusal) => *refusal,
        }
    }
}

impl From<NoRandomness> for Refusal {
    fn from(error: NoRandomness) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<SigV4Error> for Refusal {
    fn from(error: SigV4Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
