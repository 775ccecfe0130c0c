//! HTTP/1.1 by hand, a thread for each connection: as little as a test's job needs, so that it can also be wrong.
//!
//! Also part of the enclave's own tests, which run it without an image.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

static UNREADY: AtomicBool = AtomicBool::new(false);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
/// Answers without end that somebody still takes.
static DRIPPING: AtomicUsize = AtomicUsize::new(0);

/// Serves on a Unix socket or on a port of the loopback interface, as `start` says, and never returns: `""`, `exit N` at once, `deaf` (never listens), `unready` (`/ready` is
/// answered with 503), `elsewhere PATH` (a link to another socket is put in the place of its own), `ask METHOD PATH[;…]`
/// (asks the runtime over and over, and writes the answers to its standard error).
pub(crate) fn serve(place: &str, start: &str) -> ! {
    match start.split_once(' ') {
        Some(("exit", code)) => exit(code.parse().unwrap_or(1)),
        Some(("elsewhere", other)) => {
            let _ = std::os::unix::fs::symlink(other, place);
            forever()
        }
        Some(("ask", questions)) => {
            let questions = questions.to_owned();
            std::thread::spawn(move || {
                loop {
                    for question in questions.split(';') {
                        let answer = ask(question).unwrap_or_else(|error| error.to_string());
                        let _ = writeln!(io::stderr(), "{question} -> {answer}");
                    }
                    std::thread::sleep(Duration::from_millis(500));
                }
            });
        }
        _ => {}
    }
    match start {
        "deaf" => forever(),
        "unready" => UNREADY.store(true, Ordering::Relaxed),
        _ => {}
    }
    if let Ok(port) = place.parse::<u16>() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || connected(stream.try_clone(), stream));
        }
    } else {
        let listener = UnixListener::bind(place).expect("the folder is the job's own");
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || connected(stream.try_clone(), stream));
        }
    }
    exit(70)
}

fn connected<S: Read + Write>(reader: io::Result<S>, writer: S) {
    CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    // A connection that breaks is none of the others' business.
    let _ = reader.and_then(|reader| connection(reader, writer));
}

/// What comes of attempts on the network: another port of the loopback interface, and sockets of other kinds.
fn attempts(port: u16) -> String {
    let there = (Ipv4Addr::LOCALHOST, port);
    let outcomes = [
        ("listen", TcpListener::bind(there).map(drop)),
        ("connect", TcpStream::connect(there).map(drop)),
        (
            "datagrams",
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop),
        ),
        ("version 6", TcpListener::bind("[::1]:0").map(drop)),
    ];
    let mut text = String::new();
    for (what, outcome) in outcomes {
        let outcome = outcome.map_or_else(|error| error.kind().to_string(), |()| "done".to_owned());
        let _ = writeln!(text, "{what}: {outcome}");
    }
    text
}

/// Asks the runtime one thing.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    let socket = std::env::var("ANCHORHOLD_API_SOCKET").map_err(io::Error::other)?;
    let mut stream = UnixStream::connect(socket)?;
    let request = format!("{question} HTTP/1.1\r\nhost: runtime\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    Ok(format!("{status} {body}"))
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

struct Head {
    target: String,
    text: String,
    length: Option<usize>,
    chunked: bool,
}

fn connection(reader: impl Read, mut writer: impl Write) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    while let Some(head) = head(&mut reader)? {
        let path = head.target.split('?').next().unwrap_or_default().to_owned();
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (what, argument) = (parts.next().unwrap_or_default(), parts.next());
        let number = argument.and_then(|text| text.parse::<usize>().ok());
        if what == "early" {
            // Answers before it has read the body, and reads it then.
            answer(&mut writer, 200, b"early")?;
            body(&mut reader, &head)?;
            continue;
        }
        match what {
            // Bodies that are never in memory as a whole.
            "talk" => {
                writer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                pieces(&mut reader, &head, |piece| {
                    writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                    writer.write_all(&[piece, b"\r\n"].concat())
                })?;
                writer.write_all(b"0\r\n\r\n")?;
                continue;
            }
            "count" => {
                let mut count = 0;
                pieces(&mut reader, &head, |piece| {
                    count += piece.len();
                    Ok(())
                })?;
                answer(&mut writer, 200, count.to_string().as_bytes())?;
                continue;
            }
            "flood" => {
                let length = number.unwrap_or(0);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                writer.write_all(head.as_bytes())?;
                io::copy(&mut io::repeat(b'x').take(length as u64), &mut writer)?;
                continue;
            }
            _ => {}
        }
        let body = body(&mut reader, &head)?;
        match what {
            "exit" => exit(number.and_then(|code| i32::try_from(code).ok()).unwrap_or(1)),
            "hang" => forever(),
            "garbage" => {
                writer.write_all(b"this is no HTTP\r\n\r\n")?;
                return Ok(());
            }
            "cut" => {
                writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this")?;
                return Ok(());
            }
            "close" => {
                // Says nothing of it, as a server whose patience with an idle connection ends.
                answer(&mut writer, 200, b"closed")?;
                return Ok(());
            }
            "drip" => {
                DRIPPING.fetch_add(1, Ordering::Relaxed);
                let broken = drip(&mut writer);
                DRIPPING.fetch_sub(1, Ordering::Relaxed);
                return broken;
            }
            "dripping" => {
                let count = DRIPPING.load(Ordering::Relaxed).to_string();
                answer(&mut writer, 200, count.as_bytes())?;
            }
            "bytes" => answer(&mut writer, 200, &vec![b'x'; number.unwrap_or(0)])?,
            "sleep" => {
                std::thread::sleep(Duration::from_millis(number.unwrap_or(0) as u64));
                answer(&mut writer, 200, b"slept")?;
            }
            "ready" if UNREADY.load(Ordering::Relaxed) => answer(&mut writer, 503, b"not yet")?,
            "become-ready" => {
                UNREADY.store(false, Ordering::Relaxed);
                answer(&mut writer, 200, b"ready")?;
            }
            "network" => {
                let port = number.and_then(|port| u16::try_from(port).ok());
                answer(&mut writer, 200, attempts(port.unwrap_or(0)).as_bytes())?;
            }
            "head" => answer(&mut writer, 200, head.text.as_bytes())?,
            "connections" => {
                let count = CONNECTIONS.load(Ordering::Relaxed).to_string();
                answer(&mut writer, 200, count.as_bytes())?;
            }
            "hop" => writer.write_all(
                b"HTTP/1.1 200 OK\r\nx-own: 1\r\nx-private: 1\r\nconnection: x-private\r\ncontent-length: 0\r\n\r\n",
            )?,
            _ => answer(&mut writer, 200, &body)?,
        }
    }
    Ok(())
}

/// Never ends by itself.
fn drip(writer: &mut impl Write) -> io::Result<()> {
    writer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        writer.write_all(b"5\r\ndrip\n\r\n")?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn answer(writer: &mut impl Write, status: u16, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    writer.write_all(&[head.as_bytes(), body].concat())
}

fn head(reader: &mut BufReader<impl Read>) -> io::Result<Option<Head>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut head = Head {
        target: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        text: first,
        length: None,
        chunked: false,
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some(head));
        }
        let (name, value) = line.trim_end().split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.trim().parse().ok(),
            "transfer-encoding" => head.chunked = true,
            _ => {}
        }
        let _ = write!(head.text, "{line}");
    }
}

/// Hands on a body as it comes.
fn pieces<R: Read>(
    reader: &mut BufReader<R>,
    head: &Head,
    mut hand_on: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut some = |reader: &mut BufReader<R>, mut left: usize| -> io::Result<()> {
        while left > 0 {
            let piece = reader.fill_buf()?;
            let count = piece.len().min(left);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hand_on(&piece[..count])?;
            reader.consume(count);
            left -= count;
        }
        Ok(())
    };
    some(reader, head.length.unwrap_or(0))?;
    if !head.chunked {
        return Ok(());
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        some(reader, size)?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn body(reader: &mut BufReader<impl Read>, head: &Head) -> io::Result<Vec<u8>> {
    let mut body = vec![0; head.length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    if head.chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(body)
}
