//! The window inwards: a listening socket of the host's, and the port of the enclave's that its connections lead to.
//!
//! Bytes are carried as they are: nothing here reads them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long the enclave's port may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A listening socket and what leads in from it.
pub(crate) struct Door {
    accepting: Option<(OwnedFd, AbortHandle)>,
    flows: Arc<AtomicU64>,
}

impl Door {
    /// Takes connections of `socket`, a listening TCP or Unix socket, from now on, and carries them to the enclave's port. To be
    /// called within the event loop.
    pub(crate) fn open(socket: OwnedFd, dir: &Path, port: u32) -> io::Result<Self> {
        let kept = socket.try_clone()?;
        let flows = Arc::new(AtomicU64::new(0));
        let inside = Inside {
            socket: dir.join("vsock.sock"),
            port,
            flows: flows.clone(),
        };
        let family =
            getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&socket))?.family();
        let task = match family {
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                tokio::spawn(async move {
                    loop {
                        match listener.accept().await {
                            Ok((stream, _)) => {
                                let _ = stream.set_nodelay(true);
                                inside.carry(stream);
                            }
                            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    }
                })
            }
            Some(AddressFamily::Unix) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                let listener = UnixListener::from_std(listener)?;
                tokio::spawn(async move {
                    loop {
                        inside.carry(super::accept(&listener).await);
                    }
                })
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is no TCP and no Unix socket",
                ));
            }
        };
        Ok(Self {
            accepting: Some((kept, task.abort_handle())),
            flows,
        })
    }

    /// Whether connections are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.accepting.is_some()
    }

    /// The listening socket, while connections are taken.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.accepting.as_ref().map(|(socket, _)| socket.as_fd())
    }

    /// Takes no more connections. Those that there are go on.
    pub(crate) fn close(&mut self) {
        if let Some((_, task)) = self.accepting.take() {
            task.abort();
        }
    }

    /// Connections that are open.
    pub(crate) fn flows(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts a flow for as long as it lives.
struct Flow(Arc<AtomicU64>);

impl Drop for Flow {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Inside {
    socket: PathBuf,
    port: u32,
    flows: Arc<AtomicU64>,
}

impl Inside {
    fn carry(&self, mut outside: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.flows.fetch_add(1, Ordering::Relaxed);
        let flow = Flow(self.flows.clone());
        let (socket, port) = (self.socket.clone(), self.port);
        tokio::spawn(async move {
            let inside = timeout(CONNECT_LIMIT, dial(&socket, port)).await;
            if let Ok(Ok(mut inside)) = inside {
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
            drop(flow);
        });
    }
}

/// Opens a stream to a port of the enclave's through the host's end of vsock.
async fn dial(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    // Byte by byte, since what follows the line belongs to the enclave.
    let mut line = Vec::with_capacity(16);
    while line.last() != Some(&b'\n') && line.len() < 32 {
        line.push(stream.read_u8().await?);
    }
    if line.starts_with(b"OK ") && line.ends_with(b"\n") {
        Ok(stream)
    } else {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}
