//! Brings connections about: a stream from the caller, TLS over it, HTTP/1.1 over that.
//!
//! Certificates are always verified, against exactly what the endpoint trusts; there is no way
//! around it. No process-wide provider of cryptography is used or set.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::endpoint::Target;
use super::{ClientError, Clock, Endpoint, EndpointError, TlsTrust};

/// Brings a stream to the service about. Nothing that it carries is trusted.
pub trait Connect: Send + Sync {
    /// The stream.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// A stream to `host` (a name, or an address without brackets) and `port`.
    fn connect(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Connects by TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Connect for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Connects to one endpoint.
pub(super) struct Dialler<C> {
    connector: C,
    target: Target,
    /// Absent for plain HTTP.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl<C: Connect> Dialler<C> {
    pub(super) fn new(
        endpoint: &Endpoint,
        connector: C,
        clock: &Clock,
    ) -> Result<Self, EndpointError> {
        let region = &endpoint.region;
        let is_region =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&region.len()) || !region.bytes().all(is_region) {
            return Err(EndpointError::Region {
                region: region.clone(),
            });
        }
        let target = Target::parse(&endpoint.url)?;
        let url = || endpoint.url.clone();
        let tls = match (&endpoint.tls, target.is_https) {
            (TlsTrust::PlainHttp, false) => None,
            (TlsTrust::PlainHttp, true) => return Err(EndpointError::PlainHttps { url: url() }),
            (TlsTrust::Roots | TlsTrust::Ca(_), false) => {
                return Err(EndpointError::TlsOverHttp { url: url() });
            }
            (trust, true) => {
                let name =
                    ServerName::try_from(target.host.clone()).map_err(|_| EndpointError::Url {
                        url: url(),
                        reason: "its host is neither a name nor an address",
                    })?;
                Some((
                    TlsConnector::from(Arc::new(tls_config(trust, clock)?)),
                    name,
                ))
            }
        };
        Ok(Self {
            connector,
            target,
            tls,
        })
    }

    /// As in the `Host` header.
    pub(super) fn authority(&self) -> &str {
        &self.target.authority
    }

    pub(super) fn path(&self) -> &str {
        &self.target.path
    }

    /// A new connection, ready for a request.
    pub(super) async fn dial(
        &self,
        limit: Duration,
    ) -> Result<http1::SendRequest<Full<Bytes>>, ClientError> {
        match tokio::time::timeout(limit, self.dial_unhurried()).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::ConnectTimeout {
                authority: self.target.authority.clone(),
                after: limit,
            }),
        }
    }

    async fn dial_unhurried(&self) -> Result<http1::SendRequest<Full<Bytes>>, ClientError> {
        let authority = || self.target.authority.clone();
        let stream = self
            .connector
            .connect(&self.target.host, self.target.port)
            .await
            .map_err(|source| ClientError::Connect {
                authority: authority(),
                source,
            })?;
        match &self.tls {
            None => self.handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(|error| ClientError::from_tls(authority(), error))?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<http1::SendRequest<Full<Bytes>>, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Cut {
                authority: self.target.authority.clone(),
                source,
            })?;
        // Ends when the sender is dropped or the other side closes. Its error reaches the sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// What certificates' dates are compared with.
struct Time(Clock);

impl fmt::Debug for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = (self.0)().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

fn tls_config(trust: &TlsTrust, clock: &Clock) -> Result<ClientConfig, EndpointError> {
    let mut roots = RootCertStore::empty();
    match trust {
        TlsTrust::Ca(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let bad = |reason: String| EndpointError::Ca { reason };
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| bad(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(EndpointError::Ca {
                    reason: "it holds no certificate".to_owned(),
                });
            }
        }
        TlsTrust::Roots | TlsTrust::PlainHttp => {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let time = Arc::new(Time(Arc::clone(clock)));
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
