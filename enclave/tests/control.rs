//! The control port as its hostile client sees it: HTTP over a stream in memory, with a real job behind.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use anchorhold_enclave::control::{self, Calls, Control};
use anchorhold_enclave::secrets::Secrets;
use anchorhold_enclave::window::Window;
use anchorhold_envelope::EncryptionContext;
use anchorhold_manifest::Delivery;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use support::{Bench, FakeNsm, FakeParent, Shape, bench, context};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// What the parent's window answers: status and body for method and path.
type Answers = Arc<dyn Fn(&str) -> (u16, Vec<u8>) + Send + Sync>;

fn nothing() -> Answers {
    Arc::new(|_| (404, Vec::new()))
}

struct Enclave {
    bench: Bench,
    secrets: tempfile::TempDir,
    serve: Box<dyn Fn() -> tokio::io::DuplexStream>,
}

fn enclave(command: &[&str], wanted: &[&str], answers: Answers, places: usize) -> Enclave {
    let bench = bench(command, Shape::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wanted = wanted
        .iter()
        .map(|&name| (name.to_owned(), support::wanted(Delivery::File)))
        .collect();
    let owner = bench.terms.launcher.confinement().job_owner();
    let control = Arc::new(Control {
        name: Some("cards".to_owned()),
        version: None,
        nsm: Arc::new(FakeNsm),
        recipient: support::RECIPIENT.clone(),
        window: Arc::new(Window::new(FakeParent(move |what: &str| answers(what)))),
        calls: Some(Calls {
            terms: Arc::clone(&bench.terms),
            secrets: Arc::new(Secrets::new(wanted, folder.path().to_owned(), owner)),
            permits: Arc::new(Semaphore::new(places)),
            last_error: Arc::new(Mutex::new(None)),
        }),
        service: None,
        clock: support::clock(),
        keys: None,
        counts: Arc::default(),
    });
    Enclave {
        bench,
        secrets: folder,
        serve: Box::new(move || {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(control::connection(Arc::clone(&control), theirs));
            ours
        }),
    }
}

impl Enclave {
    async fn dial(&self) -> SendRequest<Full<Bytes>> {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new((self.serve)()))
                .await
                .expect("a fresh connection");
        tokio::spawn(connection);
        sender
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "enclave")
            .body(Full::new(body.into()))
            .expect("a valid request");
        self.dial()
            .await
            .send_request(request)
            .await
            .expect("an answer")
    }

    async fn json(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let response = self.send(method, path, body).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a whole body");
        let body = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        (status, body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_who_it_is() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    let (status, body) = enclave.json("GET", "/health", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["status"], "serving");
    assert_eq!(body["name"], "cards");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_runtime_says_the_parent_may_not_have_signed() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    for (user_data, status) in [
        (
            anchorhold_channel::user_data(&[7; 32]),
            StatusCode::BAD_REQUEST,
        ),
        (b"anchorhold:".to_vec(), StatusCode::BAD_REQUEST),
        (b"anchorhol".to_vec(), StatusCode::OK),
    ] {
        let wish = format!("{{\"user_data\":\"{}\"}}", hex::encode(user_data));
        let response = enclave.send("POST", "/attest", wish).await;
        assert_eq!(response.status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_hold_what_was_asked_for() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    let document = async |body: &'static str| {
        let response = enclave.send("POST", "/attest", body).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/cbor");
        let body = response.into_body().collect().await.expect("whole");
        body.to_bytes().to_vec()
    };
    assert_eq!(document("").await, b"");
    assert_eq!(
        document(r#"{"nonce":"0102","user_data":"ff"}"#).await,
        [1, 2, 255]
    );
    let with_key = document(r#"{"recipient_key":true}"#).await;
    anchorhold_kms_wire::recipient::check_public_key(&with_key).expect("an RSA key");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_wishes_are_explained() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    for body in [
        "nonsense",
        "[]",
        r#"{"nonce":"0"}"#,
        r#"{"nonce":"xy"}"#,
        r#"{"nonce":1}"#,
        r#"{"nounce":"00"}"#,
    ] {
        let (status, answer) = enclave.json("POST", "/attest", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer["message"].is_string());
    }
    let large = format!(r#"{{"nonce":"{}"}}"#, "00".repeat(100_000));
    let (status, _) = enclave.json("POST", "/attest", large).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, answer) = enclave
        .json(
            "POST",
            "/attest",
            format!(r#"{{"nonce":"{}"}}"#, "00".repeat(2000)),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"], "nsm");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_served() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    let (status, _) = enclave.json("GET", "/", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = enclave.json("GET", "/call", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_http_is_sealed_in_both_directions() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    let input = b"{\"id\":1}\n".repeat(50_000);
    let message = enclave.bench.owner.seal(&input, context());
    let response = enclave.send("POST", "/call", message).await;
    assert_eq!(response.status(), StatusCode::OK);
    let result = response
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes();
    let (_, plaintext) = enclave.bench.owner.open(&result).expect("whole");
    assert!(plaintext == input);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_counts_a_call_as_open_until_its_connection_has_ended() {
    let enclave = enclave(&["/bin/sh", "-c", "cat; exit 7"], &[], nothing(), 1);
    let message = enclave.bench.owner.seal(b"{}\n", context());
    let mut sender = enclave.dial().await;
    let request = Request::builder()
        .method("POST")
        .uri("/call")
        .header("host", "enclave")
        .body(Full::new(Bytes::from(message)))
        .expect("a valid request");
    let answer = sender.send_request(request).await.expect("an answer");
    let _ = answer.into_body().collect().await;
    let numbers = async || {
        let (_, health) = enclave.json("GET", "/health", "").await;
        ["calls_open", "calls_begun", "calls_failed"].map(|name| health[name].as_u64())
    };
    assert_eq!(numbers().await[1..], [Some(1), Some(1)]);
    drop(sender);
    while numbers().await != [Some(0), Some(1), Some(1)] {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_failure_has_a_status_and_is_remembered() {
    let enclave = enclave(&["/bin/sh", "-c", "exit 7"], &[], nothing(), 1);
    let (status, _) = enclave.json("GET", "/calls/last-error", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let message = enclave.bench.owner.seal(b"a\n", context());
    let (status, body) = enclave.json("POST", "/call", message).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(body["error"], "job_failed");
    let (status, last) = enclave.json("GET", "/calls/last-error", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(last, body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_failure_is_answered_though_the_input_is_still_coming() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    // Far more than fits between the two sides, and refused at its first byte.
    let message = vec![0xFF; 8 << 20];
    let (status, body) = enclave.json("POST", "/call", message).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"], "input");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_failure_cuts_the_body_off() {
    let enclave = enclave(&["/bin/sh", "-c", "cat; exit 7"], &[], nothing(), 1);
    let input = b"{\"id\":1}\n".repeat(50_000);
    let message = enclave.bench.owner.seal(&input, context());
    let response = enclave.send("POST", "/call", message).await;
    assert_eq!(response.status(), StatusCode::OK, "the answer had begun");
    response
        .into_body()
        .collect()
        .await
        .expect_err("the body has no end");
    let (_, last) = enclave.json("GET", "/calls/last-error", "").await;
    assert_eq!(last["error"], "job_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_places_an_enclave_is_busy() {
    let enclave = enclave(&["/bin/sh", "-c", "sleep 2; cat"], &[], nothing(), 1);
    let message = enclave.bench.owner.seal(b"a\n", context());
    let first = enclave.send("POST", "/call", message.clone());
    let second = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        enclave.json("POST", "/call", message.clone()).await
    };
    let (first, (status, body)) = tokio::join!(first, second);
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["error"], "busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_the_wire_ends_the_connection_and_nothing_else() {
    let enclave = enclave(&["/bin/cat"], &[], nothing(), 1);
    let endless = format!("GET /health HTTP/1.1\r\nx: {}", "x".repeat(2 << 20));
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    for bytes in [
        &[0xB7; 5000],
        b"\x16\x03\x01\x02\x00".as_slice(),
        b"POST /call HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /call HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        endless.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = (enclave.serve)();
        // The other side may close before it has read all of it.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    let (status, _) = enclave.json("GET", "/health", "").await;
    assert_eq!(status, StatusCode::OK);
}

fn secret_context(name: &str) -> EncryptionContext {
    [
        ("anchorhold:kind".to_owned(), "secret".to_owned()),
        ("anchorhold:secret".to_owned(), name.to_owned()),
    ]
    .into()
}

/// An enclave whose window hands out whatever lies in the slot.
fn with_secret(name: &str, slot: &Arc<Mutex<Option<Vec<u8>>>>) -> Enclave {
    let slot = Arc::clone(slot);
    let path = format!("GET /secrets/{name}");
    let answers: Answers = Arc::new(move |what| {
        let sealed = slot.lock().expect("no panics").clone();
        match sealed {
            Some(sealed) if what == path => (200, sealed),
            _ => (404, Vec::new()),
        }
    });
    enclave(&["/bin/cat"], &[name], answers, 1)
}

fn mode_and_owner(path: &Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).expect("the file is there");
    (metadata.mode() & 0o7777, metadata.uid())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_opened_for_the_job_alone() {
    let slot = Arc::default();
    let enclave = with_secret("fpe-key", &slot);
    let message = enclave.bench.owner.seal(b"a\n", context());
    let (status, body) = enclave.json("POST", "/call", message.clone()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let text = body["message"].as_str().expect("a message");
    assert!(
        text.contains("fpe-key") && text.contains("not handed in"),
        "{text}"
    );

    let sealed = enclave
        .bench
        .owner
        .seal(b"very secret", secret_context("fpe-key"));
    *slot.lock().expect("no panics") = Some(sealed);
    let response = enclave.send("POST", "/call", message.clone()).await;
    assert_eq!(
        response.status(),
        StatusCode::OK,
        "the next call tries again"
    );
    let file = enclave.secrets.path().join("fpe-key");
    assert_eq!(std::fs::read(&file).expect("ours to read"), b"very secret");
    let (mode, owner) = mode_and_owner(&file);
    assert_eq!(mode, 0o400);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(owner, 1000);
    }

    *slot.lock().expect("no panics") = None;
    let response = enclave.send("POST", "/call", message).await;
    assert_eq!(response.status(), StatusCode::OK, "it is asked for once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parent_cannot_pass_one_message_off_as_a_secret() {
    let slot = Arc::default();
    let enclave = with_secret("fpe-key", &slot);
    let owner = &enclave.bench.owner;
    let mut changed = owner.seal(b"very secret", secret_context("fpe-key"));
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let whole = owner.seal(b"very secret", secret_context("fpe-key"));
    let lies = [
        ("another secret", owner.seal(b"x", secret_context("other"))),
        ("an input", owner.seal(b"x", context())),
        ("changed", changed),
        ("cut off", whole[..whole.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("too large", vec![0; 2 << 20]),
    ];
    let message = owner.seal(b"a\n", context());
    for (lie, sealed) in lies {
        *slot.lock().expect("no panics") = Some(sealed);
        let (status, body) = enclave.json("POST", "/call", message.clone()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{lie}: {body}");
        assert_eq!(body["error"], "secret", "{lie}");
    }
    assert!(!enclave.secrets.path().join("fpe-key").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_relays_only_where_the_parent_agrees() {
    let window = Window::new(FakeParent(|what: &str| {
        assert_eq!(what, "CONNECT kms.example:8443");
        (
            403,
            r#"{"error":"egress","message":"not on the allowlist"}"#,
        )
    }));
    let Err(error) = window.relay("kms.example", 8443).await else {
        panic!("the parent refused");
    };
    let text = error.to_string();
    assert!(
        text.contains("CONNECT kms.example:8443") && text.contains("not on the allowlist"),
        "{text}"
    );
}
