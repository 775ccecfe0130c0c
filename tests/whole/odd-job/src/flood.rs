//! Attacks the runtime's socket: as many connections as there are descriptors, silence, garbage, endless heads, bodies that
//! never come or never end, and requests by the thousand.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Attacks for so long, and returns.
pub(crate) fn flood(lasting: Duration) {
    let Ok(socket) = std::env::var("ANCHORHOLD_API_SOCKET") else {
        return;
    };
    let until = Instant::now() + lasting;
    std::thread::scope(|scope| {
        for way in 0..6 {
            let socket = &socket;
            scope.spawn(move || attack(socket, way, until));
        }
    });
}

fn attack(socket: &str, way: u8, until: Instant) {
    let mut held = Vec::new();
    while Instant::now() < until {
        let Ok(mut stream) = UnixStream::connect(socket) else {
            // No descriptor is left: some are given up, and it goes on.
            held.truncate(held.len() / 2);
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
        let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
        match way {
            // As many as there are descriptors, and silence.
            0 => {}
            1 => drop(stream.write_all(b"\x16\x03\x01\0 this is no HTTP\r\n\r\n\0\0")),
            // A head without end, in large and in small pieces.
            2 => {
                let _ = stream.write_all(b"GET /v1/time HTTP/1.1\r\nx: ");
                let much = vec![b'x'; 65_536];
                while stream.write_all(&much).is_ok() && Instant::now() < until {}
            }
            3 => {
                for byte in
                    b"POST /v1/seal HTTP/1.1\r\nhost: r\r\ncontent-length: 12000000\r\n\r\n{"
                {
                    let _ = stream.write_all(&[*byte]);
                }
            }
            // Bodies without end.
            4 => {
                let _ = stream.write_all(
                    b"POST /v1/open HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n",
                );
                let chunk = [&b"10000\r\n"[..], &vec![b'x'; 65_536], b"\r\n"].concat();
                while stream.write_all(&chunk).is_ok() && Instant::now() < until {}
            }
            // Requests that are in order, as fast as they are answered.
            _ => {
                let mut answer = [0; 4096];
                for _ in 0..1000 {
                    let asked = stream.write_all(b"GET /v1/granted HTTP/1.1\r\nhost: r\r\n\r\n");
                    if asked.is_err() || Instant::now() >= until {
                        break;
                    }
                    let _ = stream.read(&mut answer);
                }
            }
        }
        held.push(stream);
        if held.len() > 2000 {
            held.clear();
        }
    }
}
