//! From the host to a port of the enclave's: how what carries calls and connections asks the host's end of vsock for one.
//!
//! In the sandbox the answer is the socket itself, so that nothing stands between its reader and the enclave; on the other
//! backends it is a stream that the backend carries. The enclave may be compromised: nothing that comes along with its bytes
//! is ever asked for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::sandbox::sys::socket::receive_descriptor;

/// Longer than `OK 4294967295`.
const LONGEST_WORD: usize = 32;

/// Why a port was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreached {
    /// The host's end of vsock cannot be connected to.
    #[error("the host's end of vsock cannot be reached: {0}")]
    Socket(#[source] io::Error),
    /// Nobody listens on the port.
    #[error("nobody listens on the port")]
    Port,
    /// Another answer than the host's end of vsock gives.
    #[error("the host's end of vsock did not say OK")]
    Answer,
}

/// Opens a stream to `port` through the host's end of vsock, whose socket is at `socket`.
pub(crate) async fn reach(socket: &Path, port: u32) -> Result<UnixStream, Unreached> {
    let mut stream = UnixStream::connect(socket)
        .await
        .map_err(Unreached::Socket)?;
    stream
        .write_all(format!("SOCKET {port}\n").as_bytes())
        .await
        .map_err(|_| Unreached::Port)?;
    // Byte by byte, since what follows the line belongs to the enclave.
    let mut line = Vec::with_capacity(LONGEST_WORD);
    let mut handed_over: Option<OwnedFd> = None;
    while line.last() != Some(&b'\n') && line.len() < LONGEST_WORD {
        let received = stream
            .async_io(Interest::READABLE, || {
                receive_descriptor(stream.as_fd(), false).map_err(|errno| match errno {
                    Errno::EPIPE => io::ErrorKind::UnexpectedEof.into(),
                    errno => io::Error::from(errno),
                })
            })
            .await;
        let (byte, descriptor) = received.map_err(|_| Unreached::Port)?;
        line.push(byte);
        handed_over = handed_over.or(descriptor);
    }
    if !line.starts_with(b"OK ") || !line.ends_with(b"\n") {
        return Err(Unreached::Answer);
    }
    let Some(socket) = handed_over else {
        return Ok(stream);
    };
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(socket))
        .map_err(Unreached::Socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use std::os::unix::net::UnixStream as StdStream;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixListener;

    use crate::sandbox::sys::socket::send_descriptor;

    /// A host's end of vsock that answers once, and what became of the connection to it.
    async fn answered(
        answer: impl FnOnce(UnixStream) -> Option<UnixStream>,
    ) -> (Result<UnixStream, Unreached>, Option<UnixStream>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 12];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"SOCKET 5000\n");
            answer(stream)
        };
        tokio::join!(reach(&path, 5000), serving)
    }

    #[tokio::test]
    async fn the_socket_is_taken_where_it_comes_along_and_the_stream_where_not() {
        let (mut inside, ours) = StdStream::pair().unwrap();
        let (reached, _) = answered(|stream| {
            send_descriptor(stream.as_fd(), b'O', Some(ours.as_fd())).unwrap();
            assert_eq!(stream.try_write(b"K 7\n").unwrap(), 4);
            None
        })
        .await;
        drop(ours);
        std::io::Write::write_all(&mut inside, b"from within").unwrap();
        drop(inside);
        let mut heard = String::new();
        reached.unwrap().read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "from within");

        let (reached, _) = answered(|stream| {
            assert_eq!(stream.try_write(b"OK 7\ncarried").unwrap(), 12);
            None
        })
        .await;
        let mut heard = String::new();
        reached.unwrap().read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "carried");
    }

    #[tokio::test]
    async fn another_answer_is_an_error_and_so_is_none() {
        let (reached, _) = answered(|_| None).await;
        assert!(matches!(reached, Err(Unreached::Port)));
        for words in [&b"NO\n"[..], &[b'O'; 64]] {
            let (reached, _) = answered(|stream| {
                assert_eq!(stream.try_write(words).unwrap(), words.len());
                Some(stream)
            })
            .await;
            assert!(matches!(reached, Err(Unreached::Answer)));
        }
        let dir = tempfile::tempdir().unwrap();
        let reached = reach(&dir.path().join("none"), 5000).await;
        assert!(matches!(reached, Err(Unreached::Socket(_))));
    }

    #[tokio::test]
    async fn descriptors_that_come_along_with_bytes_are_thrown_away() {
        let (inside, ours) = StdStream::pair().unwrap();
        let (reached, _) = answered(|stream| {
            send_descriptor(stream.as_fd(), b'O', Some(ours.as_fd())).unwrap();
            assert_eq!(stream.try_write(b"K 7\n").unwrap(), 4);
            None
        })
        .await;
        drop(ours);
        let (mut held, given) = std::io::pipe().unwrap();
        send_descriptor(inside.as_fd(), b'!', Some(given.as_fd())).unwrap();
        drop((given, inside));
        let mut heard = Vec::new();
        reached.unwrap().read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"!");
        // Nobody has the other end of the pipe any more: reading ends.
        let mut nothing = Vec::new();
        std::io::Read::read_to_end(&mut held, &mut nothing).unwrap();
        assert!(nothing.is_empty());
    }
}
