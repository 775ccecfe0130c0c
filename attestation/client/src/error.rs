//! Why there is no channel. Nothing here is a channel that is only a little wrong.

use std::io;

use anchorhold_attestation::{Difference, ParseError, Refusal, VerifyError};
use anchorhold_channel::AnswerError;

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
    /// It broke off without an answer.
    #[error("whoever answers there hung up before it had given an attestation document")]
    HungUp,
    /// What speaks there is no enclave of ours, or gave an error instead of a document.
    #[error(transparent)]
    NotAnswered(#[from] AnswerError),
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

impl ConnectError {
    /// Whether somebody answered as an enclave does and was not the one that was wanted: an attack, or the wrong image.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            ConnectError::Form(_) | ConnectError::Untrue(_) | ConnectError::Refused(_)
        )
    }
}

impl ConnectError {
    /// Where it failed, in a word: `host`, `io`, `tls`, `time`, `random`, `answer`, `form`, `truth` or `expectations`.
    pub fn step(&self) -> &'static str {
        match self {
            ConnectError::Host(_) => "host",
            ConnectError::Io(_) | ConnectError::HungUp => "io",
            ConnectError::Tls(_) => "tls",
            ConnectError::TimedOut => "time",
            ConnectError::Random => "random",
            ConnectError::NotAnswered(_) => "answer",
            ConnectError::Form(_) => "form",
            ConnectError::Untrue(_) => "truth",
            ConnectError::Refused(_) => "expectations",
        }
    }

    /// Stable names of what is wrong: the verifier's for a document, else one that says no more than the step.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            ConnectError::Form(error) => vec![error.name()],
            ConnectError::Untrue(error) => vec![error.name()],
            ConnectError::Refused(refusal) => {
                refusal.differences.iter().map(Difference::name).collect()
            }
            ConnectError::NotAnswered(AnswerError::Status { .. }) => vec!["status"],
            ConnectError::HungUp => vec!["hung-up"],
            other => vec![other.step()],
        }
    }
}

/// An error of rustls that came through an `io::Error` is told apart.
pub(crate) fn of_handshake(error: io::Error) -> ConnectError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => ConnectError::Tls(error),
        Err(error) => ConnectError::Io(error),
    }
}
