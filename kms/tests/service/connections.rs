//! Connections that want too much: each wait ends, each buffer is bounded.

use crate::{World, pairs};
use anchorhold_kms::config::Limits;
use anchorhold_kms_wire::shapes::GenerateRandomRequest;
use std::time::Duration;
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
    // Only a guard against hanging.
    let outcome = tokio::time::timeout(Duration::from_secs(120), read).await;
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
async fn connections_that_say_nothing_make_room_for_those_that_do() {
    let world = World::with(|config| {
        config.limits.max_connections = 4;
    })
    .await;
    let address = world.running.local_addr();
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    // One that has proved useful, and then a flood of others; some begin and never end.
    let useful = world.owner();
    useful.call(&request).await.unwrap();
    let mut flood = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if i % 2 == 0 {
            let _ = stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n").await;
        }
        flood.push(stream);
    }
    for _ in 0..20 {
        world.owner().call(&request).await.unwrap();
        useful.call(&request).await.unwrap();
    }
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection_are_answered_in_order() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.running.local_addr())
        .await
        .unwrap();
    let one = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let other = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let all = format!("{one}{other}{one}{last}");
    stream.write_all(all.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    let statuses: Vec<&str> = answer
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answer[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["400", "404", "400", "404"], "{answer}");
}

#[tokio::test]
async fn garbage_and_hasty_ends_leave_the_service_as_it_was() {
    let world = World::new().await;
    let address = world.running.local_addr();
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    let garbage: Vec<Vec<u8>> = vec![
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 5000],
        b"POST / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        b"GET / HTTP/1.1\nHost : x\n\n".to_vec(),
    ];
    for bytes in garbage {
        for end in [bytes.len(), bytes.len() / 2] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(&bytes[..end]).await;
            let _ = stream.shutdown().await;
            let answer = rest(stream).await;
            assert!(!answer.contains(" 200 "), "{answer}");
        }
        drop(TcpStream::connect(address).await.unwrap());
        world.owner().call(&request).await.unwrap();
    }
}

#[tokio::test]
async fn garbage_instead_of_tls_harms_nobody_else() {
    let world = World::with(|config| {
        config.transport = anchorhold_kms::config::Transport::DevelopmentTls;
        config.limits.max_connections = 8;
    })
    .await;
    let address = world.running.local_addr();
    let mut held = Vec::new();
    for i in 0..64_u8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A handshake that is begun and never goes on, plain HTTP, noise.
        let bytes: &[u8] = match i % 3 {
            0 => b"\x16\x03\x01\x00\xf0\x01\x00\x00\xec\x03\x03",
            1 => b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            _ => &[0xff; 300],
        };
        let _ = stream.write_all(bytes).await;
        held.push(stream);
    }
    let endpoint = anchorhold_kms_wire::client::Endpoint {
        url: world.running.url(),
        region: "us-east-1".to_owned(),
        tls: anchorhold_kms_wire::client::TlsTrust::Ca(
            std::fs::read_to_string(world.folder.path().join("ca.pem")).unwrap(),
        ),
    };
    let secret =
        zeroize::Zeroizing::new(anchorhold_kms::config::DEV_OWNER_SECRET_ACCESS_KEY.to_owned());
    let credentials = anchorhold_kms_wire::sigv4::Credentials::new(
        anchorhold_kms::config::DEV_OWNER_ACCESS_KEY_ID,
        secret,
    );
    let client = anchorhold_kms_wire::client::Client::new(
        &endpoint,
        anchorhold_kms_wire::client::Tcp,
        anchorhold_kms_wire::client::Fixed::new(credentials),
    )
    .unwrap();
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    client.call(&request).await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_connections() {
    let world = World::with(|config| config.limits.drain = Duration::from_secs(100_000)).await;
    let owner = world.owner();
    let key = world.key(None).await;
    world.ciphertext(&key, b"x", pairs(&[])).await;
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    owner.call(&request).await.unwrap();
    // The connection is idle, and its drain has no end: only hanging would not end.
    let ended = tokio::time::timeout(Duration::from_secs(600), world.running.shutdown());
    ended.await.expect("the end waits for an idle connection");
    assert!(owner.call(&request).await.is_err());
}
