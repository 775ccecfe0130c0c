//! `/init` of test images. What it does stands on the kernel's command line as `guest=WORD`: it serves connections, or
//! misbehaves as a job that has taken over its machine could.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "its console is where tests read; where it fails it may panic"
)]

mod sum;

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use sum::{drain, give};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// Port on which the guest serves.
const PORT: u32 = 5000;
/// Port of the parent that heartbeats go to.
const HEARTBEAT: u32 = 9000;
const PARENT: u32 = 3;

fn main() {
    if std::env::args().any(|word| word == "eat") {
        eat();
    }
    for (place, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs")] {
        // A sandbox has them.
        let _ = mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        );
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let word = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("guest="))
        .unwrap_or("serve")
        .to_owned();
    modules();
    println!("guest: {word}");
    match word.as_str() {
        "serve" => serve(true),
        // For parents that answer no heartbeat.
        "quiet" => serve(false),
        "exit" => std::process::exit(3),
        "crash" => std::process::abort(),
        "memory" => memory(),
        "loop" => {
            beat();
            loop {
                std::hint::black_box(());
            }
        }
        "flood" => flood(),
        "unbind" => unbind(),
        "nsm" => nonsense(),
        other => println!("guest: {other} means nothing"),
    }
    end()
}

fn end() -> ! {
    println!("guest: over");
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    std::process::exit(0)
}

/// As the runtime does.
fn modules() {
    let Ok(entries) = fs::read_dir("/anchorhold/modules") else {
        return;
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    println!("guest: {} modules are not for this program", paths.len());
}

fn beat() {
    let mut stream = VsockStream::connect_with_cid_port(PARENT, HEARTBEAT).unwrap();
    stream.write_all(&[0xb7]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xb7]);
}

/// Serves each connection on a thread of its own. Its first byte says how.
fn serve(beats: bool) {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT).unwrap();
    if beats {
        beat();
    }
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || {
                if let Err(error) = answer(stream) {
                    println!("guest: {error}");
                }
            })
            .unwrap();
    }
}

fn answer(mut stream: VsockStream) -> io::Result<()> {
    let mut what = [0];
    stream.read_exact(&mut what)?;
    match what[0] {
        // Echo.
        b'e' => {
            let mut buffer = vec![0; 32 * 1024];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    count => stream.write_all(&buffer[..count])?,
                }
            }
        }
        // Takes all, and answers with their number and sum.
        b't' => {
            let (count, sum) = drain(&mut stream)?;
            stream.write_all(&count.to_le_bytes())?;
            stream.write_all(&sum.to_le_bytes())?;
            stream.shutdown(Shutdown::Write)
        }
        // Gives that many bytes.
        b'g' => {
            let length = number(&mut stream)?;
            give(&mut stream, length)?;
            stream.shutdown(Shutdown::Write)
        }
        // Gives that many bytes in pieces of that size, whatever they are: for measurements.
        b'y' => {
            let (mut left, piece) = (number(&mut stream)?, number(&mut stream)?);
            let buffer = vec![0x55; usize::try_from(piece).unwrap_or(0)];
            while left > 0 {
                let now = buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                stream.write_all(&buffer[..now])?;
                left -= now as u64;
            }
            stream.shutdown(Shutdown::Write)
        }
        // Takes that many bytes, whatever they are, and answers with one.
        b'z' => {
            let mut left = number(&mut stream)?;
            let mut buffer = vec![0; 256 * 1024];
            while left > 0 {
                match stream.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => left = left.saturating_sub(count as u64),
                }
            }
            stream.write_all(&[1])
        }
        // Dials a port of the parent, gives that many bytes there, and says what came back.
        b'd' => {
            let port = number(&mut stream)? as u32;
            let length = number(&mut stream)?;
            let mut other = VsockStream::connect_with_cid_port(PARENT, port)?;
            give(&mut other, length)?;
            other.shutdown(Shutdown::Write)?;
            let (count, sum) = drain(&mut other)?;
            stream.write_all(&count.to_le_bytes())?;
            stream.write_all(&sum.to_le_bytes())?;
            stream.shutdown(Shutdown::Write)
        }
        // The PCRs, as the NSM has them.
        b'p' => {
            let nsm = driver::nsm_init();
            for index in 0..=8 {
                let Response::DescribePCR { data, .. } =
                    driver::nsm_process_request(nsm, Request::DescribePCR { index })
                else {
                    return Err(io::Error::other("no PCR"));
                };
                stream.write_all(&data)?;
            }
            driver::nsm_exit(nsm);
            stream.shutdown(Shutdown::Write)
        }
        // Ends the machine.
        b'q' => end(),
        _ => Err(io::Error::other("it asked for nothing that there is")),
    }
}

fn number(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A process that takes all memory there is. Never returns.
fn eat() {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![0xaa; 1 << 20]);
    }
}

fn memory() {
    beat();
    let ended = Command::new("/init").arg("eat").status().unwrap();
    println!("guest: the process that ate all memory: {ended}");
}

fn flood() {
    beat();
    let line = [b'x'; 1000];
    loop {
        let _ = io::stdout().write_all(&line);
        let _ = io::stdout().write_all(b"\n");
    }
}

/// Takes the drivers off their devices, which resets the queues, and puts them on again.
fn unbind() {
    beat();
    for driver in fs::read_dir("/sys/bus/virtio/drivers").unwrap() {
        let driver = driver.unwrap().path();
        let devices: Vec<_> = fs::read_dir(&driver)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.starts_with("virtio"))
            .collect();
        for device in devices {
            println!("guest: {device} off {}", driver.display());
            fs::write(driver.join("unbind"), &device).unwrap();
            fs::write(driver.join("bind"), &device).unwrap();
        }
    }
    assert!(Path::new("/dev/nsm").exists());
    beat();
    println!("guest: all is as before");
}

/// Requests that no NSM can make sense of, by the driver's own door.
fn nonsense() {
    beat();
    let nsm = driver::nsm_init();
    let before = matches!(
        driver::nsm_process_request(nsm, Request::DescribeNSM),
        Response::DescribeNSM { .. }
    );
    for request in [
        Request::DescribePCR { index: 60_000 },
        Request::ExtendPCR {
            index: 0,
            data: vec![0; 3000],
        },
        Request::LockPCRs { range: u16::MAX },
        Request::LockPCR { index: 5000 },
        Request::Attestation {
            user_data: Some(vec![1; 3000].into()),
            nonce: Some(vec![2; 900].into()),
            public_key: Some(vec![3; 3000].into()),
        },
    ] {
        println!(
            "guest: {}",
            match driver::nsm_process_request(nsm, request) {
                Response::Error(code) => format!("refused: {code:?}"),
                _ => "answered".to_owned(),
            }
        );
    }
    let after = matches!(
        driver::nsm_process_request(nsm, Request::DescribeNSM),
        Response::DescribeNSM { .. }
    );
    println!("guest: the NSM answered before {before} and after {after}");
}
