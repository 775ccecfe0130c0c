//! Channels for tokio.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use anchorhold_attestation::Admitted;
use anchorhold_channel::Answer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connector::{Claim, Connector, server_name};
use crate::error::{ConnectError, of_handshake};

/// A channel that ends in an enclave which was admitted. What is written here, that enclave reads, and nobody on the way.
pub struct Channel<S> {
    stream: TlsStream<S>,
    admitted: Admitted,
}

impl Connector {
    /// Makes a channel over a stream, such as a TCP connection. `host` is said in the handshake and as `Host`; nothing is
    /// decided by it.
    ///
    /// # Errors
    /// See [`ConnectError`]. The stream is closed.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<Channel<S>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tokio::time::timeout(self.time_limit, self.attested(host, stream))
            .await
            .unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn attested<S>(&self, host: &str, stream: S) -> Result<Channel<S>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = server_name(host)?;
        let mut stream = TlsConnector::from(self.tls.clone())
            .connect(host.clone(), stream)
            .await
            .map_err(of_handshake)?;
        let claim = Claim::new(stream.get_ref().1)?;
        stream.write_all(&claim.question(&host)?).await?;
        stream.flush().await?;
        let mut answer = Answer::default();
        let mut buffer = [0; 4096];
        loop {
            let most = answer.wanted().min(buffer.len());
            let count = stream.read(&mut buffer[..most]).await?;
            if count == 0 {
                return Err(ConnectError::HungUp);
            }
            if answer.take(&buffer[..count])? {
                break;
            }
        }
        let admitted = self.admit(answer.document(), &claim)?;
        Ok(Channel { stream, admitted })
    }
}

impl<S> Channel<S> {
    /// The document that the enclave was admitted for.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Whether HTTP/2 was agreed upon.
    pub fn is_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

impl<S> fmt::Debug for Channel<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Channel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Channel<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
