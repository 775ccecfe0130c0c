//! Channels whose bytes the caller carries: the same checks, and the same bytes whatever pieces they come in.

use anchorhold_client::{Approach, Carried, ConnectError, Connector, Expectations, Protocol, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::stage::{Enclave, IMAGE, anchor, differences, pcr};

/// Carries an approach to its end, in pieces of this size at most.
async fn carry(
    mut approach: Approach,
    stream: &mut DuplexStream,
    piece: usize,
) -> Result<Carried, ConnectError> {
    let mut buffer = vec![0; piece];
    loop {
        let out = approach.outgoing();
        stream.write_all(&out).await.expect("the enclave's side");
        let count = stream.read(&mut buffer).await.expect("the enclave's side");
        match approach.receive(&buffer[..count])? {
            Step::More(more) => approach = *more,
            Step::Channel(channel) => return Ok(*channel),
        }
    }
}

#[tokio::test]
async fn a_channel_comes_of_it_whatever_pieces_the_bytes_come_in() {
    let enclave = Enclave::new();
    for (piece, protocol) in [
        (1, Protocol::Http1),
        (7, Protocol::Http1),
        (64 << 10, Protocol::Http1),
        (64 << 10, Protocol::Http2),
    ] {
        let connector = enclave.connector().protocol(protocol);
        let mut stream = enclave.dial();
        let approach = connector.approach("enclave.example").expect("an approach");
        let mut channel = carry(approach, &mut stream, piece)
            .await
            .expect("an honest channel");
        assert_eq!(channel.admitted().pcr(0), Some(pcr(IMAGE)));
        assert_eq!(channel.is_http2(), protocol == Protocol::Http2);
        if channel.is_http2() {
            continue;
        }
        let body: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut request = channel.send(head.as_bytes()).expect("an open channel");
        request.extend(channel.send(&body).expect("an open channel"));
        let (mut from, mut to) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            to.write_all(&request).await.expect("the enclave's side");
            to
        });
        let mut said = Vec::new();
        let mut buffer = vec![0; piece.max(64)];
        while !channel.has_ended() {
            let count = from.read(&mut buffer).await.expect("the enclave's side");
            assert!(count > 0, "cut");
            said.extend(channel.receive(&buffer[..count]).expect("the enclave's"));
        }
        assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(said.ends_with(&body));
        assert!(!channel.close().is_empty());
        sending.await.expect("the sender");
    }
}

#[tokio::test]
async fn no_channel_comes_of_another_image_or_of_who_hangs_up() {
    let enclave = Enclave::new();
    let other = Connector::new(
        [anchor(&enclave.root)],
        Expectations::new().pcr(0, [pcr(0xbb)]),
    );
    let approach = other.approach("enclave.example").expect("an approach");
    let error = carry(approach, &mut enclave.dial(), 4096)
        .await
        .expect_err("another image");
    assert_eq!(differences(&error), ["pcr"]);
    let approach = other.approach("enclave.example").expect("an approach");
    assert!(matches!(approach.receive(b""), Err(ConnectError::HungUp)));
    let approach = other.approach("enclave.example").expect("an approach");
    let error = approach
        .receive(b"HTTP/1.1 200 OK\r\n\r\n")
        .expect_err("no TLS");
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    assert!(other.approach("a b").is_err());
}

#[tokio::test]
async fn a_changed_byte_ends_the_channel() {
    let enclave = Enclave::new();
    let connector = enclave.connector().protocol(Protocol::Http1);
    let mut stream = enclave.dial();
    let approach = connector.approach("enclave.example").expect("an approach");
    let mut channel = carry(approach, &mut stream, 4096).await.expect("a channel");
    let request = channel
        .send(b"GET / HTTP/1.1\r\nhost: e\r\n\r\n")
        .expect("an open channel");
    stream
        .write_all(&request)
        .await
        .expect("the enclave's side");
    let mut buffer = vec![0; 4096];
    let count = stream.read(&mut buffer).await.expect("an answer");
    buffer[count - 1] ^= 1;
    let error = channel
        .receive(&buffer[..count])
        .expect_err("a changed record");
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
    assert!(!channel.has_ended());
}
