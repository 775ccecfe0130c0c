//! Why there is no channel. Nothing here is a channel that is only a little wrong.

use std::io;

use anchorhold_attestation::{ParseError, Refusal, VerifyError};

/// Why there is no channel. Whoever answered has learnt the nonce and nothing else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name cannot stand in a handshake.
    #[error("{0:?} is no name of a host or address: give what you connect to, without port")]
    Host(String),
    /// The other side cannot be reached, or broke off.
    #[error("the connection broke off: {0}")]
    Io(#[from] io::Error),
    /// No TLS 1.3 with a P-256 or P-384 key.
    #[error(
        "no TLS with the enclave: {0}. Does the address lead to the enclave's port 5443, and does its image have an \
         http job?"
    )]
    Tls(rustls::Error),
    /// It took too long.
    #[error("the enclave did not answer in time")]
    TimedOut,
    /// No randomness for a nonce.
    #[error("no randomness for a nonce")]
    Random,
    /// What speaks there is no enclave of ours: it did not answer the question for a document.
    #[error("whoever answers there did not give an attestation document: {0}")]
    NotAnswered(&'static str),
    /// It gave an error instead of a document.
    #[error("whoever answers there gave status {status} instead of an attestation document{}", hint(*status))]
    Status {
        /// HTTP status.
        status: u16,
    },
    /// The document's form is wrong.
    #[error("refused: what was given as a document is none: {0}")]
    Form(#[from] ParseError),
    /// The document is not signed under the anchors, or not now.
    #[error("refused: the document is not to be believed: {0}")]
    Untrue(#[from] VerifyError),
    /// The document is true, and of another enclave, key, channel or question.
    #[error("refused: {0}")]
    Refused(#[from] Box<Refusal>),
}

fn hint(status: u16) -> &'static str {
    match status {
        503 => ": too many ask at present; try again",
        404 => ": it may be a server of another kind",
        _ => "",
    }
}

impl ConnectError {
    /// Whether somebody answered as an enclave does and was not the one that was wanted: an attack, or the wrong image.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            ConnectError::Form(_) | ConnectError::Untrue(_) | ConnectError::Refused(_)
        )
    }
}

/// An error of rustls that came through an `io::Error` is told apart.
pub(crate) fn of_handshake(error: io::Error) -> ConnectError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => ConnectError::Tls(error),
        Err(error) => ConnectError::Io(error),
    }
}
