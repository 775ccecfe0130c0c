//! Flows through the windows beside `socat` between the same kinds of sockets, in one run: throughput, round trips, and a
//! thousand flows at once. It prints ratios, and never fails on a clock.
//!
//! Each relay is a process of its own; what sends and what receives is this one. `socat` is Debian's; where it is missing, that
//! is said, and our numbers stand alone. Numbers of rounds and bytes are arguments: `cargo bench -p anchorhold-parent --bench relay -- ROUNDS MIB`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark says what it measured, and a panic is how it fails"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anchorhold_parent::window::ingress::Rules;
use anchorhold_parent::window::{self, Allowlist, Door, Limits, Window, WindowConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const FLOWS: usize = 1000;
const PINGS: usize = 5000;
/// How long the thousand flows run.
const TIME: Duration = Duration::from_secs(5);

/// What both ends of a flow can do.
trait Stream: Read + Write + Send {
    fn finish(&self);
    fn copy(&self) -> Box<dyn Stream>;
}

impl Stream for TcpStream {
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
    fn copy(&self) -> Box<dyn Stream> {
        Box::new(self.try_clone().unwrap())
    }
}

impl Stream for UnixStream {
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
    fn copy(&self) -> Box<dyn Stream> {
        Box::new(self.try_clone().unwrap())
    }
}

/// A relay in a process of its own, ended when this is dropped.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own(arguments: &[&str]) -> Relay {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It says when it listens.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    Relay(child)
}

fn socat(from: &str, to: &str) -> Option<Relay> {
    Command::new("socat")
        .args([from, to])
        .spawn()
        .ok()
        .map(Relay)
}

/// The relay's process: until it is killed.
fn serve(arguments: &[String]) {
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = Path::new(&arguments[1]);
    runtime.block_on(async {
        let listening = || {
            std::io::stdout().write_all(b"!").unwrap();
            std::io::stdout().flush().unwrap();
        };
        if arguments[0] == "serve-egress" {
            let listener = window::bind(dir, 8000).unwrap();
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            let config = WindowConfig {
                allowlist: Allowlist::parse([arguments[2].as_str()]).unwrap(),
                limits: Limits {
                    connections: 2 * FLOWS,
                    ..Limits::default()
                },
                ..WindowConfig::default()
            };
            listening();
            Window::new(config).serve(listener).await;
        } else {
            let listener = TcpListener::bind(&arguments[2]).unwrap();
            let _door = Door::open(listener.into(), dir, 5000, Rules::default(), None).unwrap();
            listening();
            std::future::pending::<()>().await;
        }
    });
}

fn raise_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Both ends of a fresh flow through a relay: that of the enclave, that of the world.
type Flow = (Box<dyn Stream>, Box<dyn Stream>);

fn connected(path: &Path) -> UnixStream {
    for _ in 0..500 {
        if let Ok(stream) = UnixStream::connect(path) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody listens at {}", path.display());
}

fn asked(path: &Path, target: SocketAddr) -> UnixStream {
    let mut stream = connected(path);
    write!(
        stream,
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", head.escape_ascii());
    stream
}

fn quick(stream: TcpStream) -> Box<dyn Stream> {
    stream.set_nodelay(true).unwrap();
    Box::new(stream)
}

/// Outwards: a Unix socket that the enclave dials, a TCP target.
struct Outwards {
    target: TcpListener,
    own_path: PathBuf,
    socat_path: PathBuf,
}

impl Outwards {
    fn flow(&self, own: bool) -> Flow {
        let enclave = if own {
            asked(&self.own_path, self.target.local_addr().unwrap())
        } else {
            connected(&self.socat_path)
        };
        let (world, _) = self.target.accept().unwrap();
        (Box::new(enclave), quick(world))
    }
}

/// Inwards: a TCP listener, the Unix socket of an enclave's ports.
struct Inwards {
    own_vsock: UnixListener,
    socat_vsock: UnixListener,
    own_address: SocketAddr,
    socat_address: SocketAddr,
}

impl Inwards {
    fn flow(&self, own: bool) -> Flow {
        let (address, vsock) = if own {
            (self.own_address, &self.own_vsock)
        } else {
            (self.socat_address, &self.socat_vsock)
        };
        let mut tries = 0;
        let world = loop {
            match TcpStream::connect(address) {
                Ok(world) => break world,
                Err(error) => assert!(tries < 500, "{error}"),
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(10));
        };
        let (mut enclave, _) = vsock.accept().unwrap();
        if own {
            let mut line = [0; 12];
            enclave.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"SOCKET 5000\n");
            enclave.write_all(b"OK 1073741824\n").unwrap();
        }
        (Box::new(enclave), quick(world))
    }
}

/// MiB in a second, from the one end to the other.
fn throughput((mut from, mut to): Flow, bytes: usize) -> f64 {
    let began = Instant::now();
    let sending = std::thread::spawn(move || {
        let piece = vec![0x5a; 64 * 1024];
        for _ in 0..bytes / piece.len() {
            from.write_all(&piece).unwrap();
        }
        from.finish();
        from
    });
    let mut received = 0;
    let mut piece = vec![0; 64 * 1024];
    loop {
        match to.read(&mut piece).unwrap() {
            0 => break,
            count => received += count,
        }
    }
    assert_eq!(received, bytes / piece.len() * piece.len());
    drop(sending.join().unwrap());
    received as f64 / 1_048_576.0 / began.elapsed().as_secs_f64()
}

/// Median time there and back of 64 bytes, in µs.
fn round_trip((mut one, other): Flow) -> f64 {
    let mut other = other.copy();
    let echo = std::thread::spawn(move || {
        let mut ping = [0; 64];
        while other.read_exact(&mut ping).is_ok() {
            other.write_all(&ping).unwrap();
        }
    });
    let mut times = Vec::with_capacity(PINGS);
    let mut ping = [1; 64];
    for _ in 0..PINGS {
        let began = Instant::now();
        one.write_all(&ping).unwrap();
        one.read_exact(&mut ping).unwrap();
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    one.finish();
    drop(one);
    echo.join().unwrap();
    median(times)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// One row: medians of rounds in turn, so that what else the machine does falls on both.
fn beside(what: &str, unit: &str, rounds: usize, has_socat: bool, once: impl Fn(bool) -> f64) {
    let mut own = Vec::new();
    let mut others = Vec::new();
    for _ in 0..rounds {
        own.push(once(true));
        if has_socat {
            others.push(once(false));
        }
    }
    let ours = median(own);
    if has_socat {
        let theirs = median(others);
        println!(
            "{what:<44} {ours:>9.1} {unit:<6} socat {theirs:>9.1}  ratio {:>5.2}",
            ours / theirs
        );
    } else {
        println!("{what:<44} {ours:>9.1} {unit:<6} socat is not installed");
    }
}

fn resident_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    line.trim_matches([':', '\t', ' ', 'k', 'B'])
        .parse()
        .unwrap()
}

/// A thousand flows outwards at once, all of which send as fast as they can.
fn thousand(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = target.local_addr().unwrap().to_string();
        let relay = own(&["serve-egress", dir.to_str().unwrap(), &address]);
        let pid = relay.0.id();
        let path = window::socket(dir, 8000);
        let before = resident_kib(pid, "VmRSS");
        let stop = Arc::new(AtomicBool::new(false));
        let mut counters = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..FLOWS {
            let path = path.clone();
            let head = format!("CONNECT {address} HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut enclave = tokio::net::UnixStream::connect(&path).await.unwrap();
            enclave.write_all(head.as_bytes()).await.unwrap();
            let (mut world, _) = target.accept().await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(enclave.read_u8().await.unwrap());
            }
            let counter = Arc::new(AtomicU64::new(0));
            counters.push(counter.clone());
            tokio::spawn(async move {
                // This end takes as much from each flow as from the others, where there is as much.
                let mut piece = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = world.read(&mut piece).await {
                    counter.fetch_add(count as u64, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
            senders.push(enclave);
        }
        let idle = resident_kib(pid, "VmRSS");
        for mut enclave in senders {
            let stop = stop.clone();
            tokio::spawn(async move {
                let piece = vec![0x5a; 16 * 1024];
                while !stop.load(Ordering::Relaxed) && enclave.write_all(&piece).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            });
        }
        // Until all of them run and their sockets have grown.
        tokio::time::sleep(TIME / 2).await;
        let begun: Vec<u64> = counters.iter().map(|of| of.load(Ordering::Relaxed)).collect();
        tokio::time::sleep(TIME).await;
        stop.store(true, Ordering::Relaxed);
        let peak = resident_kib(pid, "VmHWM");
        let mut carried: Vec<u64> = counters.iter().zip(begun).map(|(of, begun)| of.load(Ordering::Relaxed) - begun).collect();
        carried.sort_unstable();
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let all: u64 = carried.iter().sum();
        let (least, most) = (carried[0], carried[FLOWS - 1]);
        println!(
            "{FLOWS} flows at once: {:.0} MiB/s in all; least {:.2} MiB, median {:.2}, most {:.2}; most / least {:.2}",
            mib(all) / TIME.as_secs_f64(),
            mib(least),
            mib(carried[FLOWS / 2]),
            mib(most),
            most as f64 / least as f64
        );
        println!(
            "memory of the relay: {before} KiB alone; {:.1} KiB for each of {FLOWS} idle flows, {:.1} at most under load",
            (idle - before) as f64 / FLOWS as f64,
            (peak - before) as f64 / FLOWS as f64
        );
    });
}

fn main() {
    // Cargo adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if arguments
        .first()
        .is_some_and(|first| first.starts_with("serve-"))
    {
        return serve(&arguments);
    }
    raise_descriptors();
    let number = |at: usize, otherwise: usize| {
        arguments
            .get(at)
            .map_or(otherwise, |text| text.parse().unwrap())
    };
    let (rounds, bytes) = (number(0, 5), number(1, 512) << 20);
    let has_socat = Command::new("socat")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_ok();

    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let out = dir("out");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap().to_string();
    let socat_path = out.join("socat");
    let _own = own(&["serve-egress", out.to_str().unwrap(), &address]);
    let _socat = socat(
        &format!("UNIX-LISTEN:{},fork", socat_path.display()),
        &format!("TCP:{address},nodelay"),
    );
    let outwards = Outwards {
        target,
        own_path: window::socket(&out, 8000),
        socat_path,
    };

    let within = dir("in");
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (own_address, socat_address) = (free(), free());
    let socat_vsock = within.join("socat");
    let inwards = Inwards {
        own_vsock: UnixListener::bind(within.join("vsock.sock")).unwrap(),
        socat_vsock: UnixListener::bind(&socat_vsock).unwrap(),
        own_address,
        socat_address,
    };
    let _door = own(&[
        "serve-ingress",
        within.to_str().unwrap(),
        &own_address.to_string(),
    ]);
    let _other = socat(
        &format!(
            "TCP-LISTEN:{},bind=127.0.0.1,fork,nodelay",
            socat_address.port()
        ),
        &format!("UNIX-CONNECT:{}", socat_vsock.display()),
    );

    println!(
        "medians of {rounds} rounds, {} MiB each, {PINGS} round trips of 64 bytes each",
        bytes >> 20
    );
    let swapped = |(one, other): Flow| (other, one);
    let mib = "MiB/s";
    beside("egress, from the enclave", mib, rounds, has_socat, |own| {
        throughput(outwards.flow(own), bytes)
    });
    beside("egress, to the enclave", mib, rounds, has_socat, |own| {
        throughput(swapped(outwards.flow(own)), bytes)
    });
    beside("ingress, from the enclave", mib, rounds, has_socat, |own| {
        throughput(inwards.flow(own), bytes)
    });
    beside("ingress, to the enclave", mib, rounds, has_socat, |own| {
        throughput(swapped(inwards.flow(own)), bytes)
    });
    beside("egress, there and back", "µs", rounds, has_socat, |own| {
        round_trip(outwards.flow(own))
    });
    beside("ingress, there and back", "µs", rounds, has_socat, |own| {
        round_trip(swapped(inwards.flow(own)))
    });
    thousand(&dir("many"));
}
