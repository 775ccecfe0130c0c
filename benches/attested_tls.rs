//! Requests to a job of contract `http` through attested TLS, a declared ingress and a sandbox, beside the same program
//! behind a plain proxy of rustls and hyper outside; and what a cold client waits for beyond plain TLS. Numbers of one run on
//! one machine, in turns. It prints, and never fails on a clock. `ANCHORHOLD_SECONDS` says how long each turn lasts (3).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark says what it measured"
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "attested_tls/outside.rs"]
mod outside;

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anchorhold_client::{Anchor, Channel, Connector, Expectations, Pcr, Protocol};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use common::{House, Who};

const ROUNDS: usize = 5;
/// Connections with one request at a time (HTTP/1.1), or requests at a time on one connection (HTTP/2).
const AT_A_TIME: usize = 8;
/// Cold clients of each kind. Fewer a second than an enclave makes documents for.
const COLD: usize = 60;
const BODY: &[u8] = &[b'x'; 256];

/// A process that is killed with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    if let Some(plan) = std::env::var_os(outside::PLAN) {
        return outside::serve(&plan);
    }
    let house = House::new();
    let image = house.image(
        "tests/whole/odd-job",
        "[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n[resources]\nmemory_mib = 256\ncpus = 2\n",
        "echo.eif",
    );
    let pcr0 = house.measurements(&image)["PCR0"].clone();
    let inside = free_port();
    let _daemon = daemon(&house, &image, &pcr0, inside);
    let root = loop {
        if let Ok(root) = std::fs::read_to_string(house.path("development-root/root.pem")) {
            break root;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let connector = || {
        let pcr0: Pcr = pcr0.parse().expect("a PCR");
        let anchor = Anchor::from_pem(&root).expect("an anchor");
        Connector::new([anchor], Expectations::new().pcr(0, [pcr0]))
    };
    let (plain, _outside) = outside(&house);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let kept = connector();
        until_it_serves(&kept, inside).await;
        println!(
            "{AT_A_TIME} requests at a time, {} bytes each way, medians of {ROUNDS} turns",
            BODY.len()
        );
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            // The first turn of each warms up.
            for round in 0..=ROUNDS {
                let attested = load(protocol, || attested(&kept, protocol, inside)).await;
                let bare = load(protocol, || bare(protocol, plain)).await;
                if round > 0 {
                    ours.push(attested);
                    theirs.push(bare);
                }
            }
            let name = if protocol == Protocol::Http2 {
                "HTTP/2"
            } else {
                "HTTP/1.1"
            };
            report(name, &ours, &theirs);
        }
        cold(&connector, inside, plain).await;
    });
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// A daemon with one enclave and an ingress to its port for attested TLS.
fn daemon(house: &House, image: &Path, pcr0: &str, address: SocketAddr) -> Killed {
    std::fs::create_dir_all(house.path("etc/enclaves.d")).expect("a folder");
    house.write("etc/daemon.toml", "");
    let declared = format!(
        "image = \"{}\"\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n[ingress.web]\nlisten = \"{address}\"\nport = 5443\n",
        image.display()
    );
    house.write("etc/enclaves.d/echo.toml", declared);
    let folder = house.path("etc");
    let mut child = house
        .command(
            Who::Host,
            ["daemon", "--config", folder.to_str().expect("UTF-8")],
        )
        .env("ANCHORHOLD_LOG", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the daemon starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("asked for"))
        .read_line(&mut line)
        .expect("a line");
    assert!(line.starts_with("serving on "), "{line}");
    Killed(child)
}

/// The same program outside, and the proxy in front of it.
fn outside(house: &House) -> (SocketAddr, [Killed; 2]) {
    let mut build = anchorhold_images::cargo_static::StaticBuild::new(
        &Path::new(common::WORKSPACE).join("tests/whole/odd-job"),
    );
    build.target_dir = Some(Path::new(common::WORKSPACE).join("target/static"));
    let program = build.run(&mut |_| ()).expect("a static program").path;
    let socket = house.path("job.sock");
    let job = Command::new(program)
        .env("ANCHORHOLD_HTTP_SOCKET", &socket)
        .spawn()
        .expect("the job starts");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let address = free_port();
    let proxy = Command::new(std::env::current_exe().expect("this program"))
        .env(outside::PLAN, format!("{address} {}", socket.display()))
        .spawn()
        .expect("the proxy starts");
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (address, [Killed(proxy), Killed(job)])
}

async fn attested(
    connector: &Connector,
    protocol: Protocol,
    address: SocketAddr,
) -> Channel<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("the ingress");
    stream.set_nodelay(true).expect("an option");
    connector
        .clone()
        .protocol(protocol)
        .connect("echo.example", stream)
        .await
        .expect("an honest channel")
}

/// A handshake of the same kind as a channel's, whose certificate nobody looks at.
async fn bare(protocol: Protocol, address: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("the proxy");
    stream.set_nodelay(true).expect("an option");
    let config = outside::client(if protocol == Protocol::Http2 {
        b"h2"
    } else {
        b"http/1.1"
    });
    TlsConnector::from(config)
        .connect("echo.example".try_into().expect("a name"), stream)
        .await
        .expect("a handshake")
}

async fn until_it_serves(connector: &Connector, address: SocketAddr) {
    loop {
        if let Ok(stream) = TcpStream::connect(address).await
            && let Ok(channel) = connector
                .clone()
                .protocol(Protocol::Http1)
                .connect("e", stream)
                .await
        {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(channel)).await.expect("HTTP");
            tokio::spawn(connection);
            if let Ok(answer) = sender.send_request(request()).await
                && answer.status() == 200
            {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn request() -> Request<Full<Bytes>> {
    Request::post("https://echo.example/echo")
        .header("host", "echo.example")
        .body(Full::new(Bytes::from_static(BODY)))
        .expect("a request")
}

fn turn() -> Duration {
    let seconds = std::env::var("ANCHORHOLD_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(3))
}

/// How long each request of a turn took.
async fn load<S, F>(protocol: Protocol, connect: impl Fn() -> F) -> Vec<Duration>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = S>,
{
    let mut asking = Vec::new();
    if protocol == Protocol::Http2 {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(connect().await))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        let until = Instant::now() + turn();
        for _ in 0..AT_A_TIME {
            let mut sender = sender.clone();
            asking.push(tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    sender.ready().await.expect("an open connection");
                    let answer = sender.send_request(request()).await.expect("an answer");
                    assert_eq!(answer.status(), 200);
                    let body = answer
                        .into_body()
                        .collect()
                        .await
                        .expect("a body")
                        .to_bytes();
                    assert_eq!(body.len(), BODY.len());
                    took.push(began.elapsed());
                }
                took
            }));
        }
    } else {
        let mut streams = Vec::new();
        for _ in 0..AT_A_TIME {
            streams.push(connect().await);
        }
        let until = Instant::now() + turn();
        for stream in streams {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            asking.push(tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    sender.ready().await.expect("an open connection");
                    let answer = sender.send_request(request()).await.expect("an answer");
                    assert_eq!(answer.status(), 200);
                    let body = answer
                        .into_body()
                        .collect()
                        .await
                        .expect("a body")
                        .to_bytes();
                    assert_eq!(body.len(), BODY.len());
                    took.push(began.elapsed());
                }
                took
            }));
        }
    }
    let mut all = Vec::new();
    for one in asking {
        all.extend(one.await.expect("the client"));
    }
    all.sort();
    all
}

fn report(name: &str, ours: &[Vec<Duration>], theirs: &[Vec<Duration>]) {
    let rate = |turns: &[Vec<Duration>]| {
        median(
            turns
                .iter()
                .map(|took| took.len() as f64 / turn().as_secs_f64()),
        )
    };
    let at = |turns: &[Vec<Duration>], part: f64| {
        median(
            turns
                .iter()
                .map(|took| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3),
        )
    };
    println!("{name}");
    for (who, turns) in [
        ("attested, in the sandbox", ours),
        ("plain rustls, outside", theirs),
    ] {
        println!(
            "  {who:26} {:8.0}/s   p50 {:6.2} ms   p99 {:6.2} ms",
            rate(turns),
            at(turns, 0.5),
            at(turns, 0.99)
        );
    }
    println!(
        "  ratio                      {:8.2}                      p99 {:6.2}",
        rate(ours) / rate(theirs),
        at(ours, 0.99) / at(theirs, 0.99)
    );
}

/// From nothing to the first byte of an answer, in milliseconds.
async fn cold(connector: &impl Fn() -> Connector, inside: SocketAddr, plain: SocketAddr) {
    async fn first_byte<S>(stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let answer = sender.send_request(request()).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    let kept = connector();
    let (mut fresh, mut knowing, mut bare_ones) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..COLD {
        let began = Instant::now();
        first_byte(attested(&connector(), Protocol::Http1, inside).await).await;
        fresh.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        first_byte(attested(&kept, Protocol::Http1, inside).await).await;
        knowing.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        first_byte(bare(Protocol::Http1, plain).await).await;
        bare_ones.push(began.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let (fresh, knowing, bare) = (median(fresh), median(knowing), median(bare_ones));
    println!("connect, verify, first byte; medians of {COLD}");
    println!("  plain TLS to the proxy     {bare:8.2} ms");
    println!(
        "  a client that knows nothing{fresh:8.2} ms, {:.2} beyond",
        fresh - bare
    );
    println!(
        "  … that knows the chain     {knowing:8.2} ms, {:.2} beyond",
        knowing - bare
    );
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
