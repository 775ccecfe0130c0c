//! The parent's end of the start-up heartbeat: the enclave connects, sends 0xB7 and reads 0xB7 back.
//!
//! The convention, port and byte are AWS's (nitro-cli's). A beat says that something inside runs, and proves nothing:
//! only a verified attestation document does.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The byte that is sent and echoed.
pub const BEAT: u8 = 0xB7;

/// Connections that may be open at once.
const MOST_CONNECTIONS: usize = 8;

/// How long one connection may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers heartbeats for ever, and sets `up` to true at the first.
pub async fn serve(listener: UnixListener, up: watch::Sender<bool>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = super::accept(&listener).await;
        while connections.try_join_next().is_some() {}
        let up = up.clone();
        connections.spawn(async move {
            // A connection that does not beat in time is dropped, and that is all.
            if let Ok(true) = timeout(LIMIT, answer(stream)).await {
                up.send_if_modified(|up| !std::mem::replace(up, true));
            }
            drop(place);
        });
    }
}

/// Whether the byte was the beat. The enclave counts as up even when it does not wait for the echo.
async fn answer(mut stream: UnixStream) -> bool {
    let Ok(BEAT) = stream.read_u8().await else {
        return false;
    };
    let _ = stream.write_u8(BEAT).await;
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_beat_says_that_the_enclave_is_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock_9000");
        let (up, mut watcher) = watch::channel(false);
        let server = tokio::spawn(serve(UnixListener::bind(&path).unwrap(), up));

        let mut wrong = UnixStream::connect(&path).await.unwrap();
        wrong.write_u8(0x17).await.unwrap();
        assert!(wrong.read_u8().await.is_err());
        let mut silent = Vec::new();
        for _ in 0..MOST_CONNECTIONS - 1 {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        assert!(!*watcher.borrow());

        let mut right = UnixStream::connect(&path).await.unwrap();
        right.write_u8(BEAT).await.unwrap();
        assert_eq!(right.read_u8().await.unwrap(), BEAT);
        watcher.wait_for(|up| *up).await.unwrap();
        server.abort();
    }
}
