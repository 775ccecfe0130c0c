//! A connector for hyper's clients: `https://` addresses by TCP, each connection attested before a request goes out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::channel::Channel;
use crate::connector::Connector;
use crate::error::ConnectError;

/// For `hyper_util::client::legacy::Client`. Addresses other than `https://` are refused.
#[derive(Debug, Clone)]
pub struct TcpConnector(Connector);

impl Connector {
    /// A connector for hyper's clients.
    pub fn over_tcp(self) -> TcpConnector {
        TcpConnector(self)
    }
}

impl Service<Uri> for TcpConnector {
    type Response = TokioIo<Channel<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connector = self.0.clone();
        Box::pin(async move {
            if address.scheme_str() != Some("https") {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "an enclave is reached by https:// alone",
                )
                .into());
            }
            let host = address.host().unwrap_or_default();
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((bare, address.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(connector.connect(host, stream).await?))
        })
    }
}

impl Connection for Channel<TcpStream> {
    fn connected(&self) -> Connected {
        if self.is_http2() {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}
