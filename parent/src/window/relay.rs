//! The relay of a flow that is recorded: bytes are copied both ways, so that each of them can be written down on its way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until};

use super::counts::{Counters, Way};
use super::flow::FlowEnd;

/// Bytes that one direction of a relay may hold.
const BUFFER: usize = 64 * 1024;

/// Carries bytes both ways until both sides have finished, one breaks, or nothing moves for `idle`.
///
/// When one side finishes sending, the other is told so and may go on sending (half-close). `early` are bytes of the
/// enclave that came together with its request.
pub(super) async fn relay<S, R>(
    mut enclave: S,
    early: &[u8],
    other: R,
    idle: Duration,
    counters: &Counters,
) -> FlowEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Arc::new(Activity::new());
    let mut remote = Watched {
        stream: other,
        activity: activity.clone(),
        counters,
    };
    let carry = async {
        remote.write_all(early).await?;
        copy_bidirectional_with_sizes(&mut enclave, &mut remote, BUFFER, BUFFER).await
    };
    tokio::select! {
        result = carry => match result {
            Ok(_) => FlowEnd::Finished,
            Err(_) => FlowEnd::Broken,
        },
        () = activity.ceases_for(idle) => FlowEnd::Idle,
    }
}

/// When bytes last moved.
struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.last_ms.store(now, Ordering::Relaxed);
    }

    async fn ceases_for(&self, idle: Duration) {
        loop {
            let last = self.last_ms.load(Ordering::Relaxed);
            let due = self.start + Duration::from_millis(last) + idle;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// The other end's stream; every byte of a relay passes it, so it alone tells whether bytes move.
struct Watched<'a, R> {
    stream: R,
    activity: Arc<Activity>,
    counters: &'a Counters,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<'_, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.activity.note();
            let bytes = buffer.filled().len() - before;
            self.counters.carried(Way::ToEnclave, bytes as u64);
        }
        polled
    }
}

impl<R: AsyncWrite + Unpin> AsyncWrite for Watched<'_, R> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(written) = &polled {
            self.activity.note();
            let bytes = *written.as_ref().unwrap_or(&0);
            self.counters.carried(Way::FromEnclave, bytes as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
