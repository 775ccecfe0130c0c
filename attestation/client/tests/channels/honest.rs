//! Requests through channels: both protocols, bodies of any size, more than one on a channel, and who goes away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anchorhold_attestation::Unverified;
use anchorhold_channel::Nonce;
use anchorhold_client::Protocol;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::stage::{Enclave, IMAGE, limits, pcr};
use anchorhold_simulator::DevelopmentRoot;

/// The enclave's door behind a listening socket of the parent's.
async fn listening(enclave: &Enclave) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address").to_string();
    let door = Arc::clone(&enclave.door);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&door).channel(stream));
        }
    });
    address
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a whole body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_the_job_through_hyper_s_client_in_either_protocol() {
    let enclave = Enclave::new();
    let address = listening(&enclave).await;
    for (protocol, version) in [
        (Protocol::Either, http::Version::HTTP_2),
        (Protocol::Http2, http::Version::HTTP_2),
        (Protocol::Http1, http::Version::HTTP_11),
        (Protocol::Unsaid, http::Version::HTTP_11),
    ] {
        let client = Client::builder(TokioExecutor::new())
            .build::<_, Full<Bytes>>(enclave.connector().protocol(protocol).over_tcp());
        for number in 0..3 {
            let request = Request::get(format!("https://{address}/number/{number}?a=b"))
                .header("x-forwarded-for", "10.0.0.1")
                .header("accept", "text/plain")
                .body(Full::default())
                .expect("a request");
            let response = client.request(request).await.expect("an answer");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.version(), version);
            let said = text(response).await;
            assert!(said.contains(&format!("/number/{number}?a=b\n")), "{said}");
            assert!(said.contains("\naccept: text/plain"), "{said}");
            assert!(!said.contains("10.0.0.1"), "{said}");
        }
    }
    let plain: http::Uri = format!("http://{address}/").parse().expect("an address");
    let client = Client::builder(TokioExecutor::new())
        .build::<_, Full<Bytes>>(enclave.connector().over_tcp());
    client.get(plain).await.expect_err("without TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_come_back_as_they_went() {
    let enclave = Enclave::new();
    let address = listening(&enclave).await;
    let body: Bytes = (0..16_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect::<Vec<_>>()
        .into();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = Client::builder(TokioExecutor::new())
            .build::<_, Full<Bytes>>(enclave.connector().protocol(protocol).over_tcp());
        let request = Request::post(format!("https://{address}/echo"))
            .body(Full::new(body.clone()))
            .expect("a request");
        let response = client.request(request).await.expect("an answer");
        let back = response.into_body().collect().await.expect("a body");
        assert!(back.to_bytes() == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_takes_the_request_along() {
    let enclave = Enclave::new();
    let address = listening(&enclave).await;
    for (round, protocol) in [Protocol::Http1, Protocol::Http2].into_iter().enumerate() {
        let client = Client::builder(TokioExecutor::new())
            .build::<_, Full<Bytes>>(enclave.connector().protocol(protocol).over_tcp());
        let endless = format!("https://{address}/endless")
            .parse()
            .expect("an address");
        let mut response = client.get(endless).await.expect("an answer");
        let mut seen = 0;
        while seen < 1 << 20 {
            let frame = response.frame().await.expect("more").expect("a frame");
            seen += frame.data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(enclave.job.abandoned.load(Ordering::SeqCst), round);
        drop(response);
        while enclave.job.abandoned.load(Ordering::SeqCst) == round {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    while enclave.door.open_requests() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_may_be_asked_again_within_http_and_the_job_never_hears_of_it() {
    let enclave = Enclave::new();
    let channel = enclave.channel(Protocol::Http2).await;
    let first = channel.admitted().clone();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(channel))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let nonce = Nonce::from_bytes([9; 20]).expect("a nonce");
    let mut ask = async |path: String, method: &str| {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://enclave.example{path}"))
            .body(Full::<Bytes>::default())
            .expect("a request");
        sender.ready().await.expect("an open channel");
        sender.send_request(request).await.expect("an answer")
    };
    let response = ask(nonce.path_and_query(), "GET").await;
    assert_eq!(response.headers()["content-type"], "application/cbor");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let document = response.into_body().collect().await.expect("a document");
    let again = Unverified::parse(&document.to_bytes())
        .expect("a document")
        .verify(
            &[crate::stage::anchor(&enclave.root)],
            anchorhold_attestation::Time::Document,
        )
        .expect("a true document");
    assert_eq!(again.nonce(), Some(&[9; 20][..]));
    assert_eq!(again.user_data(), first.user_data());
    assert_eq!(again.public_key(), first.public_key());
    assert_eq!(again.pcr(0), Some(pcr(IMAGE)));

    for (path, method, status) in [
        (
            "/.well-known/attestation".to_owned(),
            "GET",
            StatusCode::BAD_REQUEST,
        ),
        (
            "/.well-known/attestation?nonce=00".to_owned(),
            "GET",
            StatusCode::BAD_REQUEST,
        ),
        (
            nonce.path_and_query(),
            "POST",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ] {
        assert_eq!(ask(path, method).await.status(), status);
    }
    assert_eq!(enclave.job.asked.load(Ordering::SeqCst), 0);
    assert_eq!(ask("/".to_owned(), "GET").await.status(), StatusCode::OK);
    assert_eq!(enclave.job.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_channels_of_one_enclave_have_one_key_and_two_bindings() {
    let enclave = Enclave::new();
    let one = enclave.channel(Protocol::Either).await;
    let two = enclave.channel(Protocol::Either).await;
    assert_eq!(one.admitted().public_key(), two.admitted().public_key());
    assert_ne!(one.admitted().user_data(), two.admitted().user_data());
    assert_ne!(one.admitted().nonce(), two.admitted().nonce());
    // Another enclave of the same image has another key.
    let other = Enclave::new();
    let other = other.channel(Protocol::Either).await;
    assert_ne!(one.admitted().public_key(), other.admitted().public_key());
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_clients_are_served_alike() {
    let enclave = Enclave::new();
    let address = listening(&enclave).await;
    let connector = enclave.connector().protocol(Protocol::Http1);
    let said = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let stream = std::net::TcpStream::connect(&address).expect("a connection");
        let mut channel = connector
            .connect_blocking("127.0.0.1", stream)
            .expect("a channel");
        assert_eq!(channel.admitted().pcr(0), Some(pcr(IMAGE)));
        channel
            .write_all(b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .expect("a request");
        let mut said = String::new();
        channel.read_to_string(&mut said).expect("an answer");
        said
    })
    .await
    .expect("the client");
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    assert!(said.contains("GET /x\nhost: a"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_made_so_many_a_second_and_no_more() {
    let scarce = anchorhold_enclave::tls::Limits {
        documents_a_second: 3,
        ..limits()
    };
    let enclave = Enclave::with(DevelopmentRoot::generate().expect("a root"), IMAGE, scarce);
    let mut stream = enclave.stranger().await;
    let question = b"GET /.well-known/attestation?nonce=00112233445566778899aabbccddeeff HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut busy = 0;
    for _ in 0..40 {
        stream.write_all(question).await.expect("a question");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        if head.starts_with("http/1.1 503") {
            assert!(head.contains("retry-after: 1"), "{head}");
            busy += 1;
        }
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .expect("a length");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
    }
    // Were each answered, forty at three a second would take twelve seconds and more.
    assert!(busy > 0, "no question was turned away");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_shown_out_and_keeps_nobody_waiting() {
    let short = anchorhold_enclave::tls::Limits {
        handshakes: 2,
        handshake_time: Duration::from_millis(200),
        idle_time: Duration::from_millis(400),
        ..limits()
    };
    let enclave = Enclave::with(DevelopmentRoot::generate().expect("a root"), IMAGE, short);
    // No handshake, half of one, and nothing after it.
    let mut silent = vec![enclave.dial(), enclave.dial(), enclave.dial()];
    silent[1]
        .write_all(b"\x16\x03\x01\x02\x00\x01")
        .await
        .expect("half a hello");
    let mut stranger = enclave.stranger().await;
    // Whoever has something to say is served while they wait, on either protocol, and shown out when he has nothing more.
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut channel = enclave.channel(protocol).await;
        if protocol == Protocol::Http2 {
            channel
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .expect("a preface");
        }
        let mut rest = Vec::new();
        let _ = channel.read_to_end(&mut rest).await;
    }
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    let mut rest = Vec::new();
    let _ = stranger.read_to_end(&mut rest).await;
}
