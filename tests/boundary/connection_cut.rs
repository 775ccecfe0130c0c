//! The parent hangs up, refuses and falls silent, at every step of a call. The call fails and says why, nothing
//! half-done is accepted, and the enclave serves the next honest call.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anchorhold_parent::sandbox;

use crate::hostile_parent::{Carried, Cut, HostileParent, http, lock};
use crate::sealed_parts::SealedParts;
use crate::stage::{LINES, Stage};

/// The length in bytes of the first TLS record of a stream.
fn hello(stream: &[u8]) -> usize {
    match stream {
        [0x16, 3, _, high, low, ..] => 5 + usize::from(u16::from_be_bytes([*high, *low])),
        other => panic!("no TLS: {:02x?}", &other[..other.len().min(16)]),
    }
}

#[test]
fn a_relay_cut_after_any_number_of_bytes_fails_the_call() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let message = stage.sealed(LINES, &[]);
    // What the longer of a call's two requests takes at least: with less on each connection, no call can succeed. What the
    // enclave says first is counted as the shortest hello: one that resumes a session is longer by its ticket, and each cut
    // uses tickets up, so that later calls may have none. The answers are shortest where a session is resumed, as the second
    // call's are. Two requests on one connection share its handshake, so half of that is less.
    let (mut after_hello, mut down) = (usize::MAX, usize::MAX);
    let mut shortest_hello = usize::MAX;
    for _ in 0..2 {
        assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
        enclave.be_honest();
        let carried = enclave.ledger().take_carried();
        let longest = |length: &dyn Fn(&Carried) -> usize| {
            let longest = carried
                .iter()
                .map(|carried| length(&lock(carried)))
                .max()
                .expect("a connection");
            if carried.len() == 1 {
                longest / 2
            } else {
                longest
            }
        };
        after_hello = after_hello.min(longest(&|carried| carried.up.len() - hello(&carried.up)));
        down = down.min(longest(&|carried| carried.down.len()));
        for carried in &carried {
            shortest_hello = shortest_hello.min(hello(&lock(carried).up));
        }
    }
    let up = shortest_hello + after_hello;
    assert!(up > 4_000 && down > 1_000, "{up} bytes up, {down} down");

    let reasons = [
        "TLS with the key service",
        "was cut before its answer was complete",
        "no connection to the key service",
    ];
    // The last place is within the answer's or request's last record: the 24 bytes that end TLS follow that.
    let places = |total: usize| [0, 1, 5, total / 4, total / 2, total * 3 / 4, total - 64];
    for place in places(up) {
        enclave.cuts(Cut {
            up: place,
            ..Cut::NEVER
        });
        enclave.must_refuse(&message, &reasons);
    }
    for place in places(down) {
        enclave.cuts(Cut {
            down: place,
            ..Cut::NEVER
        });
        enclave.must_refuse(&message, &reasons);
    }
    enclave.be_honest();
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}

#[test]
fn a_window_that_refuses_or_hangs_up_fails_the_call() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let message = stage.sealed(LINES, &[]);
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
    let refusal = http(403, br#"{"error":"target-refused","message":"not today"}"#);
    let broke_off = "the parent's window broke off";
    for (answer, reason) in [
        (refusal.clone(), "with status 403"),
        (http(502, b"{}"), "with status 502"),
        (http(200, b"half")[..20].to_vec(), broke_off),
        (refusal[..20].to_vec(), broke_off),
        (Vec::new(), broke_off),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec(), broke_off),
        // A promise, and then nothing.
        (
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            "TLS with the key service",
        ),
    ] {
        enclave.answers_connect_with(answer);
        enclave.must_refuse(&message, &[reason, "no connection to the key service"]);
    }
    enclave.be_honest();
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}

#[test]
fn credentials_that_are_cut_missing_or_nonsense_fail_the_call() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let message = stage.sealed(LINES, &[]);
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
    let honest = enclave.honest_credentials();
    let none = "what the parent sent are no AWS credentials";
    let broke_off = "the parent's window broke off";
    let wrong = br#"{"AccessKeyId":"AKIDANCHORHOLDHOST00","SecretAccessKey":"a guess"}"#;
    let unknown = br#"{"AccessKeyId":"AKIDNOBODY0000000000","SecretAccessKey":"a guess"}"#;
    let large = format!(
        "{{\"AccessKeyId\":\"{}\",\"SecretAccessKey\":\"x\"}}",
        "A".repeat(100_000)
    );
    for (answer, reason) in [
        (Vec::new(), broke_off),
        (honest[..10].to_vec(), broke_off),
        (honest[..honest.len() - 1].to_vec(), broke_off),
        (http(404, b"{}"), "the parent has none"),
        (http(503, b"{}"), "with status 503"),
        (http(200, b""), none),
        (http(200, b"[]"), none),
        (
            http(200, br#"{"AccessKeyId":"","SecretAccessKey":""}"#),
            none,
        ),
        (http(200, large.as_bytes()), "more than 16384 bytes"),
        (
            http(200, wrong),
            "the key service answered InvalidSignatureException",
        ),
        (
            http(200, unknown),
            "the key service answered UnrecognizedClientException",
        ),
    ] {
        enclave.answers_credentials_with(answer);
        enclave.must_refuse(&message, &[reason]);
    }
    enclave.be_honest();
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}

#[test]
fn a_secret_that_is_cut_missing_or_another_fails_the_call() {
    let stage = Stage::with("\n[secrets.pepper]\n");
    let pepper = stage.sealed(&[7; 32], &["--secret", "pepper"]);
    let salt = stage.sealed(&[8; 32], &["--secret", "salt"]);
    let message = stage.sealed(LINES, &[]);
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let not_as_it = "was not sealed as it";
    let broke_off = "the parent's window broke off";
    let mut renamed = SealedParts::parse(&salt);
    renamed
        .context
        .insert("anchorhold:secret".to_owned(), "pepper".to_owned());
    let mut flipped = pepper.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    let honest = http(200, &pepper);
    for (answer, reason) in [
        (http(404, b"{}"), "the secret pepper was not handed in"),
        (http(503, b"{}"), "with status 503"),
        (Vec::new(), broke_off),
        (honest[..honest.len() - 1].to_vec(), broke_off),
        (http(200, b"garbage"), "not a sealed message"),
        (http(200, b""), "cut off"),
        (http(200, &pepper[..pepper.len() - 1]), "cut off"),
        (
            http(200, &[&pepper, &[0][..]].concat()),
            "bytes after the end",
        ),
        (http(200, &flipped), "was changed"),
        // Under the same key: another secret, another secret by this one's name, an input.
        (http(200, &salt), not_as_it),
        (http(200, &renamed.bytes()), "InvalidCiphertextException"),
        (http(200, &message), not_as_it),
        (http(200, &vec![2; 2 << 20]), "more than 1048576 bytes"),
    ] {
        enclave.answers_secret_with("pepper", answer);
        enclave.must_refuse(&message, &[reason]);
    }
    assert!(
        !enclave.console().contains("the secret pepper is open"),
        "{}",
        enclave.console()
    );
    enclave.answers_secret_with("pepper", honest);
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
    enclave.console_after(0, "the secret pepper is open");
}

/// Sends the head of a call to the control port.
fn begin(enclave: &HostileParent) -> UnixStream {
    let mut stream = sandbox::connect(enclave.folder(), 5000).expect("the control port");
    stream
        .write_all(b"POST /call HTTP/1.1\r\nHost: enclave\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("a head");
    stream
}

fn chunk(stream: &mut UnixStream, bytes: &[u8]) {
    write!(stream, "{:x}\r\n", bytes.len()).expect("a chunk's length");
    stream.write_all(bytes).expect("a chunk");
    stream.write_all(b"\r\n").expect("a chunk's end");
}

#[test]
fn a_caller_who_goes_away_within_its_input_leaves_nothing_behind() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let message = stage.sealed(LINES, &["--frame-length", "16"]);
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
    // More often than calls may run at a time, so that a place that is not given back is missed.
    for place in [
        0,
        1,
        40,
        message.len() / 2,
        message.len() - 60,
        message.len() - 1,
        message.len(),
    ] {
        let before = enclave.console().len();
        let mut stream = begin(&enclave);
        if place > 0 {
            chunk(&mut stream, &message[..place]);
        }
        // Without the last chunk: even the whole message is not a whole request.
        drop(stream);
        let console = enclave.console_after(before, "a call failed: ");
        assert!(
            console.contains("broke off") || console.contains("hung up"),
            "{console}"
        );
    }
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}

#[test]
fn a_caller_who_goes_away_within_its_output_leaves_nothing_behind() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let lines = "{\"n\":\"0123456789\"}\n".repeat(200_000);
    let large = stage.sealed(lines.as_bytes(), &[]);
    assert!(stage.honest_call(enclave.folder(), &large) == lines.as_bytes());
    for _ in 0..5 {
        let before = enclave.console().len();
        let mut stream = begin(&enclave);
        let mut writer = stream.try_clone().expect("another handle");
        let input = large.clone();
        let writing = std::thread::spawn(move || {
            // The enclave may have given up before it has all.
            let _ = write!(writer, "{:x}\r\n", input.len());
            let _ = writer.write_all(&input);
            let _ = writer.write_all(b"\r\n0\r\n\r\n");
        });
        let mut some = Vec::new();
        let read = (&mut stream).take(1024).read_to_end(&mut some);
        assert!(
            read.is_ok() && some.len() == 1024 && some.starts_with(b"HTTP/1.1 200 "),
            "not the beginning of a result: {read:?}\n{}\n{}",
            String::from_utf8_lossy(&some),
            enclave.console()
        );
        stream
            .shutdown(std::net::Shutdown::Both)
            .expect("a shutdown");
        drop(stream);
        writing.join().expect("the writer");
        let console = enclave.console_after(before, "a call failed: ");
        assert!(
            console.contains("broke off") || console.contains("hung up"),
            "{console}"
        );
    }
    let message = stage.sealed(LINES, &[]);
    assert_eq!(stage.honest_call(enclave.folder(), &message), LINES);
}
