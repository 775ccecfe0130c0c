//! Connections that want too much: each wait ends, each buffer is bounded.

use crate::{World, pairs};
use anchorhold_kms::config::Limits;
use anchorhold_kms_wire::shapes::GenerateRandomRequest;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn quick(max_connections: usize) -> World {
    World::with(|config| {
        config.limits = Limits {
            max_connections,
            request: Duration::from_millis(300),
            idle: Duration::from_millis(300),
            drain: Duration::from_millis(500),
        };
    })
    .await
}

/// What the service says until it closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let outcome = tokio::time::timeout(Duration::from_secs(10), read).await;
    outcome.expect("the connection was not closed").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn slow_headers_and_slow_bodies_are_cut_off() {
    let world = quick(16).await;
    let address = world.running.local_addr();
    for beginning in ["", "POST / HTTP/1.1\r\nHost: x\r\nX-A: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert!(!answer.contains("200"), "{answer}");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn too_many_or_too_long_headers_are_refused() {
    let world = quick(16).await;
    for head in [
        (0..200)
            .map(|i| format!("X-{i}: a\r\n"))
            .collect::<String>(),
        format!("X-Long: {}\r\n", "a".repeat(100_000)),
    ] {
        let mut stream = TcpStream::connect(world.running.local_addr())
            .await
            .unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 0\r\n\r\n");
        // The service may close before all is written.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_body_without_end_is_bounded() {
    let world = quick(16).await;
    let mut stream = TcpStream::connect(world.running.local_addr())
        .await
        .unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
    for _ in 0..64 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            return;
        }
    }
    let answer = rest(stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let world = quick(2).await;
    let address = world.running.local_addr();
    let _idle = (
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    );
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    // The two idle ones are cut off first.
    let began = Instant::now();
    world.owner().call(&request).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_connections() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    world.ciphertext(&key, b"x", pairs(&[])).await;
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    owner.call(&request).await.unwrap();
    let began = Instant::now();
    world.running.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(owner.call(&request).await.is_err());
}
