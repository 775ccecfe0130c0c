//! One relay: finds an address that may be connected to, connects to that very address, and carries bytes both ways.
//!
//! The address that was judged is the address that is dialled; a name is never resolved a second time. Bytes are
//! carried as they are: nothing here reads them.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::allowlist::{Host, Target, forbidden};

/// Bytes that one direction of a relay may hold.
const BUFFER: usize = 64 * 1024;

/// The most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// What resolving a name gives.
pub(super) type Resolution = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Turns a host name into addresses.
pub(super) type Resolve = Arc<dyn Fn(&str) -> Resolution + Send + Sync>;

/// The host system's resolver.
pub(super) fn system_resolver() -> Resolve {
    Arc::new(|name: &str| {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Why a permitted target was not connected to.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{target} leads to {address}, which no allowlist can open: {why}")]
    Forbidden {
        target: Target,
        address: IpAddr,
        why: &'static str,
    },
    #[error("the name in {target} does not resolve: {source}")]
    Unresolvable { target: Target, source: io::Error },
    #[error("the name in {target} has no address")]
    NoAddress { target: Target },
    #[error("{target} cannot be connected to: {source}")]
    Unreachable { target: Target, source: io::Error },
    #[error("{target} did not answer in {} s", limit.as_secs_f32())]
    TimedOut { target: Target, limit: Duration },
}

/// Connects to a target that the allowlist permits. Ends within `limit`, the resolver's time included.
pub(super) async fn dial(
    target: &Target,
    resolve: &Resolve,
    limit: Duration,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + limit;
    let timed_out = || DialError::TimedOut {
        target: target.clone(),
        limit,
    };
    let found = match target.host() {
        Host::Address(address) => vec![*address],
        Host::Name(name) => timeout_at(deadline, resolve(name))
            .await
            .map_err(|_| timed_out())?
            .map_err(|source| DialError::Unresolvable {
                target: target.clone(),
                source,
            })?,
    };

    let mut refused = None;
    let mut addresses = Vec::new();
    for address in found {
        match forbidden(address) {
            Some(why) => refused = Some((address, why)),
            None if !addresses.contains(&address) => addresses.push(address),
            None => {}
        }
    }
    addresses.truncate(MOST_ADDRESSES);
    if addresses.is_empty() {
        return Err(match refused {
            Some((address, why)) => DialError::Forbidden {
                target: target.clone(),
                address,
                why,
            },
            None => DialError::NoAddress {
                target: target.clone(),
            },
        });
    }

    let mut failure = None;
    let mut left = addresses.len() as u32;
    for address in addresses {
        // An address that swallows packets leaves the others their share of the time.
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left;
        left -= 1;
        match timeout_at(
            now + share,
            TcpStream::connect(SocketAddr::new(address, target.port())),
        )
        .await
        {
            Ok(Ok(stream)) => {
                // Latency counts more than packets: these are requests to a key service. A socket that refuses the
                // option still carries.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(source)) => failure = Some(source),
            Err(_) => {}
        }
    }
    Err(match failure {
        Some(source) => DialError::Unreachable {
            target: target.clone(),
            source,
        },
        None => timed_out(),
    })
}

/// How a relay ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RelayEnd {
    /// Both sides finished.
    Finished,
    /// One side broke.
    Broken,
    /// Nothing moved for the idle time.
    Idle,
}

/// Carries bytes both ways until both sides have finished, one breaks, or nothing moves for `idle`.
///
/// When one side finishes sending, the other is told so and may go on sending (half-close). `early` are bytes of the
/// enclave that came together with its request.
pub(super) async fn relay<S>(
    mut enclave: S,
    early: &[u8],
    remote: TcpStream,
    idle: Duration,
) -> RelayEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Arc::new(Activity::new());
    let mut remote = Watched {
        stream: remote,
        activity: activity.clone(),
    };
    let carry = async {
        remote.write_all(early).await?;
        copy_bidirectional_with_sizes(&mut enclave, &mut remote, BUFFER, BUFFER).await
    };
    tokio::select! {
        result = carry => match result {
            Ok(_) => RelayEnd::Finished,
            Err(_) => RelayEnd::Broken,
        },
        () = activity.ceases_for(idle) => RelayEnd::Idle,
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

/// The remote's stream; every byte of a relay passes it, so it alone tells whether bytes move.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if polled.is_ready() {
            self.activity.note();
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
