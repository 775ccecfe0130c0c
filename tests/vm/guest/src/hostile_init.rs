//! `/init` of an enclave that attests as it should, and then turns on its host: it floods the window, the heartbeat, its console
//! and every port that it finds, and lies wherever it is asked. It must never do what could harm the machine that tests run on:
//! each flood rests now and then.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "its console is one of its weapons; where it fails it may panic"
)]

mod control;

use std::io::{self, Read, Write};
use std::time::Duration;

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const PARENT: u32 = 3;
const WINDOW: u32 = 8000;
const HEARTBEAT: u32 = 9000;
/// The port of its ingress.
const SERVICE: u32 = 7000;

/// Connections that one flood holds open.
const HELD: usize = 150;

fn main() {
    let service = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, SERVICE).unwrap();
    let listening = control::begin();
    thread(move || {
        for stream in service.incoming().flatten() {
            thread(move || babble(stream));
        }
    });
    thread(half_open);
    thread(giant_heads);
    thread(forbidden_targets);
    thread(heartbeats);
    thread(other_ports);
    thread(console);
    for mut stream in listening.incoming().flatten() {
        thread(move || {
            let _ = answer(&mut stream);
        });
    }
}

fn thread(work: impl FnOnce() + Send + 'static) {
    // Where there is no thread to be had, the others do.
    let _ = std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(work);
}

fn rest() {
    std::thread::sleep(Duration::from_millis(5));
}

/// The control port: its documents are true, and nothing else is.
fn answer(stream: &mut VsockStream) -> io::Result<()> {
    // Calls without end, and a name that is not one.
    let name = "\\u001b[2J\\u202e".repeat(3000);
    let most = u64::MAX;
    let health = format!(
        "{{\"status\":\"serving\",\"name\":\"{name}\",\"calls_open\":{most},\"calls_begun\":{most},\"calls_failed\":0}}"
    );
    if control::answer(stream, &health)? {
        return Ok(());
    }
    // An answer that never ends, of heads that never end.
    stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
    loop {
        stream.write_all(&[b'x'; 8192])?;
        rest();
    }
}

/// Its service is none: it answers what nobody asked, and reads nothing.
fn babble(mut stream: VsockStream) {
    while stream.write_all(&[0xff; 4096]).is_ok() {
        rest();
    }
}

/// Connections that begin a request and leave it there.
fn half_open() {
    let mut held = Vec::new();
    loop {
        if let Ok(mut stream) = VsockStream::connect_with_cid_port(PARENT, WINDOW) {
            let _ = stream.write_all(b"CONNECT kms.example:443 HTTP/1.1\r\nHost: ");
            held.push(stream);
        }
        if held.len() > HELD {
            held.clear();
        }
        rest();
    }
}

fn giant_heads() {
    loop {
        if let Ok(mut stream) = VsockStream::connect_with_cid_port(PARENT, WINDOW) {
            let _ = stream.write_all(b"GET /secrets/");
            for _ in 0..64 {
                if stream.write_all(&[b'a'; 16 * 1024]).is_err() {
                    break;
                }
            }
        }
        rest();
    }
}

/// The host's own services, its metadata, and targets that can be read in two ways.
fn forbidden_targets() {
    let targets = [
        "169.254.169.254:80",
        "127.0.0.1:22",
        "[::1]:22",
        "localhost:8443",
        "0x7f.1:80",
        "kms.example:0443",
    ];
    for target in targets.iter().cycle() {
        if let Ok(mut stream) = VsockStream::connect_with_cid_port(PARENT, WINDOW) {
            let _ = write!(
                stream,
                "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
            );
            let mut head = [0; 12];
            let came = stream.read_exact(&mut head).is_ok();
            if came && head.ends_with(b"200") {
                println!("CAME THROUGH to {target}");
            }
        }
        rest();
    }
}

fn heartbeats() {
    let mut held = Vec::new();
    loop {
        if let Ok(mut stream) = VsockStream::connect_with_cid_port(PARENT, HEARTBEAT) {
            let _ = stream.write_all(&[0; 4096]);
            held.push(stream);
        }
        if held.len() > HELD {
            held.clear();
        }
        rest();
    }
}

/// Ports of the parent's that are not for it.
fn other_ports() {
    for port in [0, 1, 5000, 7000, 8001, 9001, 65_536, u32::MAX]
        .iter()
        .cycle()
    {
        if VsockStream::connect_with_cid_port(PARENT, *port).is_ok() {
            println!("CAME THROUGH to port {port}");
        }
        rest();
    }
}

/// Escapes, halves of characters, and lines without an end.
fn console() {
    let line = [b"\x1b[2J\xff\xf0\x9f".as_slice(), &[b'z'; 2000]].concat();
    loop {
        let _ = io::stdout().write_all(&line);
        let _ = io::stdout().flush();
        rest();
    }
}
