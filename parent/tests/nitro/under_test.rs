//! The program under test: it starts an image on the nitro backend and does what lines on its input say. All its system calls
//! are its own; who answers them is not its business.
//!
//! Arguments: image, folder, ports' folder, CID, MiB, CPUs, and `debug` or nothing. Its input is a socket, over which it hands
//! out the descriptor by which its calls are answered.

use std::io::{BufRead, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use anchorhold_parent::{Launch, launch_nitro, sandbox};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::sys;

pub(crate) fn main(arguments: &[String]) {
    let [image, dir, ports, cid, memory, cpus, rest @ ..] = arguments else {
        panic!("six arguments or seven");
    };
    let calls = sys::hand_over().unwrap();
    sendmsg::<()>(
        0,
        &[IoSlice::new(b"!")],
        &[ControlMessage::ScmRights(&[calls.as_raw_fd()])],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    drop(calls);

    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(&dir).unwrap();
    let heard = beats(sandbox::listen(&dir, 9000).unwrap());
    answers(sandbox::listen(&dir, 8000).unwrap(), cid.clone());
    let mut order = Launch::new(image, cid.parse().unwrap(), &dir);
    order.memory_mib = Some(memory.parse().unwrap());
    order.cpus = Some(cpus.parse().unwrap());
    order.ports = Some(ports.into());
    order.debug = rest.first().is_some_and(|word| word == "debug");
    let mut enclave = match launch_nitro(order) {
        Ok(enclave) => enclave,
        Err(error) => {
            println!("failed: {error}");
            println!("left: {:?}", left(&dir));
            return;
        }
    };
    heard.recv().unwrap();
    let limits = enclave.limits();
    println!(
        "started: {}, {} MiB, {} CPUs",
        enclave.report().isolation,
        limits.memory_mib,
        limits.cpus
    );
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().as_str() {
            "echo" => {
                let mut stream = enclave.connect(5000).unwrap();
                let sent: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
                let mut out = stream.try_clone().unwrap();
                let bytes = sent.clone();
                let writer = std::thread::spawn(move || {
                    out.write_all(b"e").unwrap();
                    out.write_all(&bytes).unwrap();
                    out.shutdown(Shutdown::Write).unwrap();
                });
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).unwrap();
                writer.join().unwrap();
                println!("echoed: {}", heard == sent);
            }
            "dial" => {
                let mut stream = enclave.connect(5000).unwrap();
                stream.write_all(b"d").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                println!("dialled: {answer}");
            }
            "nobody" => println!("refused: {:?}", enclave.connect(5999).unwrap_err().kind()),
            "exit" => {
                enclave.connect(5000).unwrap().write_all(b"x").unwrap();
                println!("ended: {}", enclave.wait().unwrap());
            }
            "kill" => {
                enclave.kill();
                println!("left: {:?}", left(&dir));
            }
            other => panic!("no such line: {other}"),
        }
    }
}

/// Hears of each heartbeat that was answered.
fn beats(listener: UnixListener) -> Receiver<()> {
    let (say, heard) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut beat = [0];
            stream.read_exact(&mut beat).unwrap();
            assert_eq!(beat, [0xB7]);
            stream.write_all(&beat).unwrap();
            say.send(()).unwrap();
        }
    });
    heard
}

fn answers(listener: UnixListener, name: String) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).unwrap();
            write!(stream, "answer of {name} to {question}").unwrap();
        }
    });
}

/// What is left of an enclave in this process and in its folder, apart from what stays on purpose.
fn left(dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if ![
            "console.log",
            "log.ndjson",
            "vsock.sock_8000",
            "vsock.sock_9000",
        ]
        .contains(&name.as_str())
        {
            left.push(name);
        }
    }
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        if line.contains("memfd:huge") {
            left.push(line.to_owned());
        }
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    for link in open.filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
        let link = link.to_string_lossy().into_owned();
        if link.contains("memfd") || link.contains("inotify") || link.contains("nitro_enclaves") {
            left.push(link);
        }
    }
    left
}
