//! Load on a key service: connections that are kept alive, one request outstanding on each, all driven by
//! one thread, so that the generator takes as little of the machine as it can.
//!
//! It measures and judges nothing: whoever calls it says what is enough.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// How long an answer may take before the run is given up.
const PATIENCE_MS: u16 = 30_000;

/// Where the load goes.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Absent for plain HTTP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// When it is enough.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    Answered(u64),
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) answered: u64,
    pub(crate) elapsed: Duration,
    /// Sorted, in microseconds.
    latencies: Vec<u32>,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let answered = self.answered as f64;
        answered / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// The latency, in milliseconds, that this share of the answers did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index, rounded"
        )]
        let at = (self.latencies.len() as f64 * share) as usize;
        let found = self.latencies.get(at).or(self.latencies.last());
        found.map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }
}

/// Sends `requests`, each a whole HTTP request, one after the other and over again, on so many connections.
/// Every answer must have the status 200.
pub(crate) fn run(
    target: &Target,
    connections: usize,
    requests: &[Vec<u8>],
    until: Until,
) -> anyhow::Result<Measured> {
    let mut next = 0;
    let mut links = Vec::with_capacity(connections);
    for _ in 0..connections {
        links.push(Link::open(target)?);
    }
    let mut latencies = Vec::new();
    let began = Instant::now();
    let is_enough = |answered: usize| match until {
        Until::Elapsed(limit) => began.elapsed() >= limit,
        Until::Answered(limit) => answered as u64 >= limit,
    };
    for link in &mut links {
        link.send(target, &requests[next % requests.len()])?;
        next += 1;
    }
    while !is_enough(latencies.len()) {
        let ready = wait(&links)?;
        for at in ready {
            let link = &mut links[at];
            let Some(latency) = link.go_on(target)? else {
                continue;
            };
            latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
            link.send(target, &requests[next % requests.len()])?;
            next += 1;
        }
    }
    let elapsed = began.elapsed();
    // Those still running are answered, so that nothing of this run is left in the next.
    for link in &mut links {
        let _ = link.finish(target);
    }
    let answered = latencies.len() as u64;
    latencies.sort_unstable();
    Ok(Measured {
        answered,
        elapsed,
        latencies,
    })
}

/// Sends one request in plain HTTP, and gives the answer's body.
pub(crate) fn ask(address: SocketAddr, request: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(u64::from(PATIENCE_MS))))?;
    stream.write_all(request)?;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        received.extend_from_slice(&buffer[..read]);
        if let Some(answer) = Answer::parse(&received, read == 0)? {
            anyhow::ensure!(
                answer.status == 200,
                "the answer's status is {}",
                answer.status
            );
            return Ok(answer.body.to_vec());
        }
        anyhow::ensure!(read > 0, "the answer is not whole");
    }
}

/// The connections that can go on.
fn wait(links: &[Link]) -> anyhow::Result<Vec<usize>> {
    let mut sockets: Vec<PollFd<'_>> = links
        .iter()
        .map(|link| {
            let mut flags = PollFlags::POLLIN;
            if link.is_writing() {
                flags |= PollFlags::POLLOUT;
            }
            PollFd::new(link.stream.as_fd(), flags)
        })
        .collect();
    loop {
        match poll(&mut sockets, PollTimeout::from(PATIENCE_MS)) {
            Ok(0) => anyhow::bail!("no answer came within {PATIENCE_MS} ms"),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("the connections cannot be waited for"),
        }
    }
    Ok(sockets
        .iter()
        .enumerate()
        .filter(|(_, socket)| socket.revents().is_some_and(|events| !events.is_empty()))
        .map(|(at, _)| at)
        .collect())
}

struct Link {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    outgoing: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    began: Instant,
}

impl Link {
    fn open(target: &Target) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(target.address)
            .with_context(|| format!("cannot connect to {}", target.address))?;
        stream.set_nodelay(true)?;
        let tls = match &target.tls {
            None => None,
            Some(config) => {
                let name = ServerName::from(target.address.ip());
                let mut tls = ClientConnection::new(Arc::clone(config), name)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream)
                        .context("the TLS handshake failed")?;
                }
                Some(Box::new(tls))
            }
        };
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            tls,
            outgoing: Vec::new(),
            sent: 0,
            received: Vec::with_capacity(4096),
            began: Instant::now(),
        })
    }

    fn is_writing(&self) -> bool {
        self.sent < self.outgoing.len() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    fn send(&mut self, target: &Target, request: &[u8]) -> anyhow::Result<()> {
        self.began = Instant::now();
        self.outgoing.clear();
        self.outgoing.extend_from_slice(request);
        self.sent = 0;
        self.received.clear();
        self.write(target)
    }

    fn write(&mut self, target: &Target) -> anyhow::Result<()> {
        match self.try_write() {
            // The service may close a connection between two requests; the request goes to the next.
            Err(error) if is_gone(&error) && self.received.is_empty() => self.reopen(target),
            other => other.context("a request was not sent"),
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => {
                while self.sent < self.outgoing.len() {
                    match self.stream.write(&self.outgoing[self.sent..]) {
                        Ok(written) => self.sent += written,
                        Err(error) if is_later(&error) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }
            Some(tls) => {
                while self.sent < self.outgoing.len() || tls.wants_write() {
                    if self.sent < self.outgoing.len() {
                        self.sent += tls.writer().write(&self.outgoing[self.sent..])?;
                    }
                    match tls.write_tls(&mut self.stream) {
                        Ok(_) => {}
                        Err(error) if is_later(&error) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    fn reopen(&mut self, target: &Target) -> anyhow::Result<()> {
        let mut fresh = Self::open(target)?;
        fresh.began = self.began;
        fresh.outgoing = std::mem::take(&mut self.outgoing);
        *self = fresh;
        self.try_write().context("a request was not sent")
    }

    /// Reads and writes what can be; gives the latency once the answer is whole.
    fn go_on(&mut self, target: &Target) -> anyhow::Result<Option<Duration>> {
        if self.is_writing() {
            self.write(target)?;
        }
        let ended = match self.read() {
            Ok(ended) => ended,
            Err(error) if is_gone(&error) && self.received.is_empty() => true,
            Err(error) => return Err(error).context("an answer was not read"),
        };
        if ended && self.received.is_empty() {
            self.reopen(target)?;
            return Ok(None);
        }
        let Some(answer) = Answer::parse(&self.received, ended)? else {
            anyhow::ensure!(!ended, "the service closed in the middle of an answer");
            return Ok(None);
        };
        anyhow::ensure!(
            answer.status == 200,
            "the service answered {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)])
        );
        let latency = self.began.elapsed();
        if answer.closes {
            let fresh = Self::open(target)?;
            *self = fresh;
        }
        Ok(Some(latency))
    }

    /// Whether the other side has closed.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let Some(tls) = &mut self.tls else {
            loop {
                match self.stream.read(&mut buffer) {
                    Ok(0) => return Ok(true),
                    Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                    Err(error) if is_later(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
                // An answer is rarely longer; asking again only to hear "later" costs a call.
                if self.received.len() < buffer.len() {
                    return Ok(false);
                }
            }
        };
        let ended = match tls.read_tls(&mut self.stream) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) if is_later(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        tls.process_new_packets().map_err(io::Error::other)?;
        loop {
            match tls.reader().read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if is_later(&error) => return Ok(ended),
                Err(error) => return Err(error),
            }
        }
    }

    fn finish(&mut self, target: &Target) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            wait(std::slice::from_ref(self))?;
            if self.go_on(target)?.is_some() {
                break;
            }
        }
        Ok(())
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

struct Answer<'a> {
    status: u16,
    body: &'a [u8],
    closes: bool,
}

impl<'a> Answer<'a> {
    /// `None` as long as it is not whole.
    fn parse(bytes: &'a [u8], ended: bool) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end]).context("an answer's head is not text")?;
        let body = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let version = first.next().unwrap_or_default();
        let status = first.next().and_then(|status| status.parse().ok());
        let status = status.context("an answer has no status")?;
        let (mut length, mut closes) = (None, version != "HTTP/1.1");
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse::<usize>().context("an answer's length")?);
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.eq_ignore_ascii_case("close");
            }
        }
        let whole = match length {
            Some(length) => body.len() >= length,
            None => ended,
        };
        Ok(whole.then_some(Self {
            status,
            body,
            closes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\n{}";
        for end in 0..text.len() {
            assert!(Answer::parse(&text[..end], false).unwrap().is_none());
        }
        let answer = Answer::parse(text, false).unwrap().unwrap();
        assert_eq!(
            (answer.status, answer.body, answer.closes),
            (200, &b"{}"[..], true)
        );
        let old = b"HTTP/1.0 400 Bad\r\n\r\nx";
        assert!(Answer::parse(old, false).unwrap().is_none());
        assert_eq!(Answer::parse(old, true).unwrap().unwrap().status, 400);
    }

    #[test]
    fn a_percentile_is_a_measured_latency() {
        let measured = Measured {
            answered: 4,
            elapsed: Duration::from_secs(2),
            latencies: vec![1000, 2000, 3000, 4000],
        };
        assert!((measured.per_second() - 2.0).abs() < 1e-9);
        assert!((measured.percentile(0.5) - 3.0).abs() < 1e-9);
        assert!((measured.percentile(1.0) - 4.0).abs() < 1e-9);
    }
}
