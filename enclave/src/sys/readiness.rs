//! Registers vsock sockets for readiness.

use std::io;

use tokio::io::unix::AsyncFd;
use vsock::{VsockListener, VsockStream};

/// Watches a listener.
///
/// # Errors
/// The kernel's.
pub(crate) fn watch_listener(listener: VsockListener) -> io::Result<AsyncFd<VsockListener>> {
    // SAFETY: a listener owns its descriptor, which is neither replaced nor closed while the AsyncFd owns the listener.
    Ok(unsafe { AsyncFd::register(listener) }?)
}

/// Watches a stream.
///
/// # Errors
/// The kernel's.
pub(crate) fn watch_stream(stream: VsockStream) -> io::Result<AsyncFd<VsockStream>> {
    // SAFETY: as for a listener.
    Ok(unsafe { AsyncFd::register(stream) }?)
}
