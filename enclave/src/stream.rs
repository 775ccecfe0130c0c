//! vsock for tokio: the `vsock` crate's blocking sockets, made non-blocking and driven by readiness.
//!
//! Bytes pass through unchanged and unjudged; whoever reads from here reads what the parent wrote.

use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anchorhold_manifest::PARENT_CID;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

use crate::sys;

/// How long the parent may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A way to the parent. The enclave has one ([`Vsock`]); tests bring their own.
pub trait Parent: Send + Sync + 'static {
    /// A connection to the parent.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Connects to one of the parent's ports.
    fn dial(&self, port: u32) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The parent behind vsock.
#[derive(Debug, Clone, Copy)]
pub struct Vsock;

impl Parent for Vsock {
    type Stream = Stream;

    async fn dial(&self, port: u32) -> io::Result<Stream> {
        let connect = tokio::task::spawn_blocking(move || {
            VsockStream::connect_with_cid_port(PARENT_CID, port)
        });
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => Stream::new(connected.map_err(io::Error::other)??),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Where the parent's connections arrive.
pub struct Listener {
    inner: AsyncFd<VsockListener>,
}

impl Listener {
    /// Listens on a port, for whoever dials this enclave.
    ///
    /// # Errors
    /// The kernel's: no vsock here, or the port is taken.
    pub fn bind(port: u32) -> io::Result<Listener> {
        let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
        listener.set_nonblocking(true)?;
        Ok(Listener {
            inner: sys::watch_listener(listener)?,
        })
    }

    /// The next connection.
    ///
    /// # Errors
    /// The kernel's. A failure of one connection says nothing about the next.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            let mut readiness = self.inner.readable().await?;
            if let Ok(accepted) = readiness.try_io(|listener| listener.get_ref().accept()) {
                return Stream::new(accepted?.0);
            }
        }
    }
}

/// One connection.
pub struct Stream {
    inner: AsyncFd<VsockStream>,
}

impl Stream {
    fn new(stream: VsockStream) -> io::Result<Stream> {
        stream.set_nonblocking(true)?;
        Ok(Stream {
            inner: sys::watch_stream(stream)?,
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut readiness = ready!(self.inner.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match readiness.try_io(|stream| stream.get_ref().read(room)) {
                Ok(Ok(count)) => {
                    if 0 < count && count < room.len() {
                        // The socket is empty: it need not be asked to know that. An end that has come stays known.
                        readiness.clear_ready();
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut readiness = ready!(self.inner.poll_write_ready(context))?;
            match readiness.try_io(|stream| stream.get_ref().write(bytes)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner.get_ref().shutdown(Shutdown::Write) {
            // The other side was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}
