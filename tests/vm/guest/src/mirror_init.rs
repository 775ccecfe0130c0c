//! `/init` of an enclave that attests and gives back whatever comes in at its port 7000, to the last byte.
#![allow(clippy::unwrap_used, reason = "where it fails it may panic")]

mod control;

use std::io::{self, Read, Write};
use std::net::Shutdown;

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const SERVICE: u32 = 7000;

fn main() {
    let service = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, SERVICE).unwrap();
    let listening = control::begin();
    std::thread::spawn(move || {
        for stream in service.incoming().flatten() {
            std::thread::spawn(move || mirror(stream));
        }
    });
    for mut stream in listening.incoming().flatten() {
        let _ = control::answer(&mut stream, "{\"status\":\"serving\"}");
    }
}

fn mirror(mut stream: VsockStream) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}
