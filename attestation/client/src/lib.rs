//! Attested TLS for clients: a [`Connector`] that makes a stream of bytes into a channel which ends in an enclave that
//! the caller has named, or into an error.
//!
//! The check is not a step that could be left out. A [`Channel`] cannot be made but by a connector, and a connector gives
//! none before the document of *this* handshake's key and *this* channel, over a nonce drawn for it, was verified
//! against the caller's anchors and has what the caller expects:
//!
//! ```compile_fail
//! fn skip<S>(stream: tokio_rustls::client::TlsStream<S>) -> anchorhold_client::Channel<S> {
//!     anchorhold_client::Channel { stream }
//! }
//! ```
//!
//! Certificates' names, issuers and dates are not looked at: that the enclave is the right one, the document says.
//! What is sent where and what ties it together is described in the crate `anchorhold-channel`.
#![forbid(unsafe_code)]

mod blocking;
mod carried;
#[cfg(feature = "tokio")]
mod channel;
mod connector;
mod error;
#[cfg(feature = "hyper")]
mod hyper;
mod tls;

pub use anchorhold_attestation::{Admitted, Anchor, Expectations, Pcr};
pub use blocking::BlockingChannel;
pub use carried::{Approach, Carried, Step};
#[cfg(feature = "tokio")]
pub use channel::Channel;
pub use connector::{Connector, Protocol};
pub use error::ConnectError;
#[cfg(feature = "hyper")]
pub use hyper::TcpConnector;

/// The README's example is compiled like any other.
#[cfg(all(doctest, feature = "hyper"))]
#[doc = include_str!("../README.md")]
struct Readme;
