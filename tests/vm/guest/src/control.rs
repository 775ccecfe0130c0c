//! The control port of guests that attest: a document over whoever asks' nonce, and a health of the guest's choice.

use std::io::{self, Read, Write};

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver;
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const PARENT: u32 = 3;
const HEARTBEAT: u32 = 9000;
const PORT: u32 = 5000;

/// Listens, and sends the first heartbeat.
pub(crate) fn begin() -> VsockListener {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT).unwrap();
    let mut beat = VsockStream::connect_with_cid_port(PARENT, HEARTBEAT).unwrap();
    beat.write_all(&[0xb7]).unwrap();
    beat.read_exact(&mut [0]).unwrap();
    listener
}

/// Answers one request for health or a document; `false` where it is for something else, of which the head was read.
pub(crate) fn answer(stream: &mut VsockStream, health: &str) -> io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if head.starts_with("get /health ") {
        say(stream, "application/json", health.as_bytes())?;
        return Ok(true);
    }
    if !head.starts_with("post /attest ") {
        return Ok(false);
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let mut body = String::new();
    stream.take(length).read_to_string(&mut body)?;
    let nonce: Vec<u8> = body
        .split_once("\"nonce\":\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(hex, _)| bytes_of(hex))
        .unwrap_or_default();
    let nsm = driver::nsm_init();
    let request = Request::Attestation {
        user_data: None,
        nonce: Some(nonce.into()),
        public_key: None,
    };
    let made = driver::nsm_process_request(nsm, request);
    driver::nsm_exit(nsm);
    let Response::Attestation { document } = made else {
        return Err(io::Error::other("no document"));
    };
    say(stream, "application/cbor", &document)?;
    Ok(true)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .filter_map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

fn say(stream: &mut VsockStream, kind: &str, body: &[u8]) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}
