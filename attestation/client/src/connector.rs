//! What a caller wants of the enclave behind a channel, and the judgement. Nothing else of this crate admits anything.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold_attestation::{Admitted, Anchor, Expectations, Time, Unverified, Verifier};
use anchorhold_channel::{EXPORTER_BYTES, Nonce, question, user_data};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::error::ConnectError;
use crate::tls;

/// Chains that are remembered: enclaves that one client talks to.
const REMEMBERED: usize = 64;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 32;

/// What is spoken inside the channel (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 alone.
    Http2,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 if the enclave has it, which ours do; else HTTP/1.1.
    Either,
    /// Nothing is said; the enclave finds out by the first bytes.
    Unsaid,
}

/// Connects to enclaves that are as expected, and to nobody else. Keep one for all connections: it remembers chains, so
/// that the next document of an enclave costs one signature to verify rather than five.
///
/// A nonce is drawn for each channel; a document must be made within five minutes of this machine's clock besides
/// ([`clock_error`](Connector::clock_error)).
#[derive(Debug, Clone)]
pub struct Connector {
    pub(crate) tls: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
    expectations: Expectations,
    clock_error: Duration,
    pub(crate) time_limit: Duration,
}

impl Connector {
    /// Trusts these anchors ([`Anchor::aws_nitro`] for real hardware), and admits what has all that is expected. What
    /// has to do with the channel (nonce, user data, public key) is expected besides, always.
    pub fn new(anchors: impl Into<Vec<Anchor>>, expectations: Expectations) -> Connector {
        Connector {
            tls: tls::config(alpn(Protocol::Either)),
            verifier: Arc::new(Verifier::new(anchors).remembering(REMEMBERED)),
            expectations,
            clock_error: Duration::from_mins(5),
            time_limit: Duration::from_secs(30),
        }
    }

    /// What will be spoken; [`Protocol::Either`] if nothing is said.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Connector {
        Connector {
            tls: tls::config(alpn(protocol)),
            ..self
        }
    }

    /// How far this machine's clock and the NSM's may lie apart; five minutes if nothing is said. It has no part in
    /// freshness, which the nonce shows.
    #[must_use]
    pub fn clock_error(self, most: Duration) -> Connector {
        Connector {
            clock_error: most,
            ..self
        }
    }

    /// How long handshake and document may take together; 30 seconds if nothing is said. Blocking channels go by the
    /// time limits of their streams instead.
    #[must_use]
    pub fn time_limit(self, most: Duration) -> Connector {
        Connector {
            time_limit: most,
            ..self
        }
    }

    /// The judgement: all of it, or an error.
    pub(crate) fn admit(&self, document: &[u8], claim: &Claim) -> Result<Admitted, ConnectError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let time = Time::Now {
            now_ms: milliseconds(now),
            max_age_ms: milliseconds(self.clock_error),
            max_skew_ms: milliseconds(self.clock_error),
        };
        let expectations = self
            .expectations
            .clone()
            .nonce(claim.nonce.as_bytes())
            .public_key(&claim.public_key)
            .user_data(&user_data(&claim.exporter));
        let verified = self.verifier.verify(&Unverified::parse(document)?, time)?;
        Ok(verified.admit(&expectations)?)
    }
}

fn alpn(protocol: Protocol) -> Vec<Vec<u8>> {
    let (two, one) = (b"h2".to_vec(), b"http/1.1".to_vec());
    match protocol {
        Protocol::Http2 => vec![two],
        Protocol::Http1 => vec![one],
        Protocol::Either => vec![two, one],
        Protocol::Unsaid => Vec::new(),
    }
}

/// The name for the handshake.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, ConnectError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| ConnectError::Host(host.to_owned()))
}

/// What a document must hold for one channel.
pub(crate) struct Claim {
    nonce: Nonce,
    public_key: Vec<u8>,
    exporter: [u8; EXPORTER_BYTES],
}

impl Claim {
    /// Of a channel whose handshake is over, with a nonce that was never used.
    pub(crate) fn new(connection: &rustls::ClientConnection) -> Result<Claim, ConnectError> {
        let (public_key, exporter) = tls::of_handshake(connection).map_err(ConnectError::Tls)?;
        let mut bytes = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ConnectError::Random)?;
        Ok(Claim {
            nonce: Nonce::from_bytes(bytes).map_err(|_| ConnectError::Random)?,
            public_key,
            exporter,
        })
    }

    /// The question, as HTTP/1.1.
    pub(crate) fn question(&self, host: &ServerName<'_>) -> Result<Vec<u8>, ConnectError> {
        let host = host.to_str();
        question(&self.nonce, &host).ok_or_else(|| ConnectError::Host(host.into_owned()))
    }
}

/// No longer document is read than is judged.
const _: () = assert!(
    anchorhold_channel::MAX_DOCUMENT_BYTES == anchorhold_attestation::MAX_DOCUMENT_BYTES,
    "the channel and the verifier take documents of the same length"
);
