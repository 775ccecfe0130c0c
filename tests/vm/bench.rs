//! Virtual machines in numbers, by `tests/vm/bench`: from `anchorhold run` to a verified document under two kernels, and vsock
//! through our device beside a Unix socket pair and beside another device under the same guest. Figures are of one run on one
//! machine, and ratios within it. It prints, and never fails on a clock.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    reason = "a benchmark says what it measured, shares files with a suite, and may panic where that cannot be"
)]

#[path = "../common/mod.rs"]
mod common;
mod stage;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anchorhold_attestation::{Anchor, Expectations, Pcr, Time, Unverified};
use anchorhold_parent::client::Client;
use anchorhold_parent::lifecycle::Home;
use anchorhold_parent::sandbox;

use common::{House, Who, vm_folder};
use stage::{Machine, PATIENCE};

/// Boots in a row under the project's kernel, and how many under the other.
const BOOTS: usize = 20;
const OTHER_BOOTS: usize = 5;
/// Rounds of each measurement of vsock, of which the best counts: a busy machine only makes them slower.
const ROUNDS: usize = 5;
const ECHOES: u32 = 500;

/// With `boots` or `vsock` as an argument only that.
fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| {
        let others = ["boots", "vsock"];
        asked.iter().any(|word| word == part)
            || !asked.iter().any(|word| others.contains(&word.as_str()))
    };
    if wanted("boots") {
        boots();
    }
    if wanted("vsock") {
        carrying();
    }
}

// ---- boots ----

fn boots() {
    let house = House::new();
    let cloud = vm_folder().join("cloud");
    let folder = |name: &str| {
        let path = house.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let ours = stage::image(&folder("ours"), stage::runtime(), |_| ());
    let theirs = stage::image(&folder("theirs"), stage::runtime(), |options| {
        options.kernel = Some(cloud.join("vmlinuz"));
        let mut modules: Vec<PathBuf> = std::fs::read_dir(cloud.join("modules"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        modules.sort();
        options.modules = modules;
    });
    // Makes the development root, and finds out about KVM.
    boot(&house, &ours, 0);
    let (mut quick, mut slow) = (Vec::new(), Vec::new());
    for round in 1..=BOOTS {
        quick.push(boot(&house, &ours, round as u8));
        if round <= OTHER_BOOTS {
            slow.push(boot(&house, &theirs, round as u8));
        }
    }
    quick.sort();
    slow.sort();
    let median = |times: &[Duration]| times[times.len() / 2].as_secs_f64();
    println!("from `anchorhold run --backend qemu` to a verified document, 256 MiB, one processor");
    println!(
        "  the kernel of images/kernel   {:6.2} s  (median of {BOOTS} in a row; {:.2} to {:.2})",
        median(&quick),
        quick[0].as_secs_f64(),
        quick[quick.len() - 1].as_secs_f64()
    );
    println!(
        "  Debian's kernel for clouds    {:6.2} s  (median of {OTHER_BOOTS})",
        median(&slow)
    );
    println!(
        "  ratio                         {:6.2}",
        median(&quick) / median(&slow)
    );
}

fn boot(house: &House, image: &Path, round: u8) -> Duration {
    let nonce = [round; 16];
    let image = image.to_str().unwrap();
    let pcr0: Pcr = house.measurements(image.as_ref())["PCR0"].parse().unwrap();
    let began = Instant::now();
    let arguments = [
        "run",
        image,
        "--name",
        "boot",
        "--backend",
        "qemu",
        "--memory",
        "256",
    ];
    let said = house
        .command(Who::Host, arguments)
        .env(
            "ANCHORHOLD_QEMU",
            vm_folder().join("bin/qemu-system-x86_64"),
        )
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let folder = Home::at(&house.path("")).unwrap().enclave("boot");
    let document = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(Client::new(&folder).attest(Some(&nonce), None, false))
        .unwrap();
    let root = std::fs::read_to_string(house.path("development-root/root.pem")).unwrap();
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let time = Time::Now {
        now_ms: since.as_millis() as u64,
        max_age_ms: 60_000,
        max_skew_ms: 1_000,
    };
    Unverified::parse(&document)
        .unwrap()
        .verify(&[Anchor::from_pem(&root).unwrap()], time)
        .unwrap()
        .admit(&Expectations::new().pcr(0, [pcr0]).nonce(&nonce))
        .unwrap();
    let took = began.elapsed();
    if round == 0 {
        println!(
            "{}",
            String::from_utf8_lossy(&said.stdout)
                .lines()
                .next()
                .unwrap()
        );
    }
    house.must(Who::Host, ["stop", "boot"]);
    took
}

// ---- vsock ----

/// How fast bytes go: out of the guest and into it, in bytes a second, and there and back, in seconds.
struct Speed {
    out: f64,
    into: f64,
    round: f64,
}

/// Keeps the best.
impl Speed {
    fn better(self, other: &Speed) -> Speed {
        Speed {
            out: self.out.max(other.out),
            into: self.into.max(other.into),
            round: self.round.min(other.round),
        }
    }

    fn print(&self, name: &str) {
        const MEBIBYTE: f64 = 1_048_576.0;
        println!(
            "  {name:30} {:8.1} {:8.1} {:10.1}",
            self.out / MEBIBYTE,
            self.into / MEBIBYTE,
            self.round * 1e6
        );
    }
}

/// What a host program gets of a machine whose sockets are in that folder.
fn speed(folder: &Path, bytes: u32, piece: usize) -> Speed {
    let ask = |what: u8, numbers: &[u64]| {
        let mut order = vec![what];
        for number in numbers {
            order.extend(number.to_le_bytes());
        }
        let mut stream = sandbox::connect(folder, 5000).unwrap();
        stream.write_all(&order).unwrap();
        stream
    };
    let mut buffer = vec![0; 256 * 1024];
    let began = Instant::now();
    let mut stream = ask(b'y', &[bytes.into(), piece as u64]);
    let mut left = bytes as usize;
    while left > 0 {
        match stream.read(&mut buffer).unwrap() {
            0 => panic!("{left} bytes were lost"),
            count => left -= count,
        }
    }
    let out = f64::from(bytes) / began.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut stream = ask(b'z', &[bytes.into()]);
    let mut left = bytes as usize;
    while left > 0 {
        let now = left.min(piece);
        stream.write_all(&buffer[..now]).unwrap();
        left -= now;
    }
    stream.read_exact(&mut buffer[..1]).unwrap();
    let into = f64::from(bytes) / began.elapsed().as_secs_f64();

    let stream = ask(b'e', &[]);
    Speed {
        out,
        into,
        round: echoes(stream),
    }
}

fn echoes(mut stream: UnixStream) -> f64 {
    let mut byte = [0];
    let began = Instant::now();
    for _ in 0..ECHOES {
        stream.write_all(&[1]).unwrap();
        stream.read_exact(&mut byte).unwrap();
    }
    began.elapsed().as_secs_f64() / f64::from(ECHOES)
}

/// The same between two threads of the host.
fn socket_pair(bytes: u32, piece: usize) -> Speed {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let writer = std::thread::spawn(move || {
        let buffer = vec![0x55; piece];
        for _ in 0..bytes as usize / piece {
            one.write_all(&buffer).unwrap();
        }
    });
    let mut buffer = vec![0; 256 * 1024];
    while other.read(&mut buffer).unwrap() > 0 {}
    writer.join().unwrap();
    let rate = f64::from(bytes) / began.elapsed().as_secs_f64();
    let (one, mut other) = UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while other.read(&mut byte).unwrap() > 0 {
            other.write_all(&byte).unwrap();
        }
    });
    let round = echoes(one);
    echo.join().unwrap();
    Speed {
        out: rate,
        into: rate,
        round,
    }
}

/// A machine with the other device: our own QEMU's arguments, but for what the device needs and for the NSM, which it has none.
struct Other {
    qemu: Child,
    device: Child,
    folder: tempfile::TempDir,
}

impl Other {
    fn beside(ours: &Machine) -> Other {
        let folder = stage::folder();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let device = Command::new(vm_folder().join("others/bin/vhost-device-vsock"))
            .args([
                "--guest-cid",
                "7999",
                "--socket",
                &path("device"),
                "--uds-path",
            ])
            .arg(path("vsock.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(|| Path::new(&path("device")).exists());

        let pid = ours.enclave.report().pid;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        // The program may have been started by a loader of its own, which has words before it.
        let program = words
            .iter()
            .position(|word| word.ends_with("qemu-system-x86_64"))
            .unwrap();
        let words = words.into_iter().skip(program + 1);
        let mut arguments: Vec<String> = Vec::new();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let value = words.peek().cloned().unwrap_or_default();
            let replaced = match word.as_str() {
                "-kernel" | "-initrd" => {
                    let number = value.rsplit('/').next().unwrap();
                    let copy = path(&word[1..]);
                    std::fs::copy(format!("/proc/{pid}/fd/{number}"), &copy).unwrap();
                    Some(vec![word.clone(), copy])
                }
                "-chardev" if value.starts_with("socket,id=nsm") => Some(Vec::new()),
                "-device" if value.contains("virtio-id=33") => Some(Vec::new()),
                "-add-fd" => Some(Vec::new()),
                "-chardev" if value.starts_with("socket,id=vsock") => Some(vec![
                    word.clone(),
                    format!("socket,id=vsock,path={}", path("device")),
                ]),
                "-accel" if value.starts_with("kvm") => Some(vec![word.clone(), "kvm".to_owned()]),
                _ => None,
            };
            match replaced {
                Some(replaced) => {
                    arguments.extend(replaced);
                    words.next();
                }
                None if word.is_empty() => {}
                None => arguments.push(word),
            }
        }
        let qemu = Command::new(vm_folder().join("bin/qemu-system-x86_64"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let other = Other {
            qemu,
            device,
            folder,
        };
        wait_for(|| sandbox::connect(other.folder.path(), 5000).is_ok());
        other
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        for process in [&mut self.qemu, &mut self.device] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn carrying() {
    const BYTES: u32 = 64 << 20;
    let ours = stage::run("quiet");
    wait_for(|| ours.enclave.connect(5000).is_ok());
    let other = Other::beside(&ours);
    for piece in [4096, 65536] {
        let pair = (0..ROUNDS)
            .map(|_| socket_pair(BYTES, piece))
            .reduce(|best, next| best.better(&next))
            .unwrap();
        let mut mine = speed(ours.enclave.dir(), BYTES, piece);
        // It loses writes of 100 kB, and is only asked to carry what it can.
        let mut its = (piece == 4096).then(|| speed(other.folder.path(), BYTES, piece));
        for _ in 1..ROUNDS {
            mine = mine.better(&speed(ours.enclave.dir(), BYTES, piece));
            its = its.map(|its| its.better(&speed(other.folder.path(), BYTES, piece)));
        }
        println!("writes of {piece} bytes                out     into  MiB/s; there and back µs");
        pair.print("a Unix socket pair");
        mine.print("vsock through our device");
        if let Some(its) = its {
            its.print("through vhost-device-vsock 0.3");
            println!(
                "  ours beside that               {:8.2} {:8.2} {:10.2}",
                mine.out / its.out,
                mine.into / its.into,
                its.round / mine.round
            );
        }
    }
    let mut stream = ours.ask(b'e', &[]);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Machine::hear(&mut stream), b"");
}
