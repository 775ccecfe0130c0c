//! The job over HTTP: what it answers, to whom, and what it never lets through. The program itself serves, on a socket.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anchorhold_job_cards::service::{BULK, MAX_RECORD_BYTES, OPENAPI, Operation};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const TOKEN: &str = "the-analyst-shows-this-and-nobody-else";
const NUMBER: &str = "4111111111111111";

/// A running program, which ends with the value.
struct Cards {
    program: Child,
    folder: tempfile::TempDir,
}

impl Drop for Cards {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn settings(detokenize: &Value) -> Value {
    json!({ "detokenize": detokenize })
}

fn analyst(rate: Option<Value>) -> Value {
    let mut caller = json!({ "token_sha256": hex::encode(Sha256::digest(TOKEN)) });
    if let Some(rate) = rate {
        caller["rate"] = rate;
    }
    json!({ "analyst": caller })
}

fn command(folder: &Path, mut settings: Value) -> Command {
    let key = folder.join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    if settings.get("key").is_none() {
        settings["key"] = json!({ "file": key });
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_cards"));
    command
        .arg("serve")
        .env("ANCHORHOLD_HTTP_SOCKET", folder.join("http.sock"))
        .env("ANCHORHOLD_JOB_SETTINGS", settings.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

impl Cards {
    fn start(settings: Value) -> Cards {
        let folder = tempfile::tempdir().unwrap();
        let program = command(folder.path(), settings).spawn().unwrap();
        let cards = Cards { program, folder };
        while std::os::unix::net::UnixStream::connect(cards.socket()).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        cards
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("http.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    async fn send<B>(&self, request: Request<B>) -> (StatusCode, Bytes)
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, body)
    }

    async fn ask(&self, path: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        self.ask_as(None, path, body).await
    }

    async fn ask_as(
        &self,
        token: Option<&str>,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value) {
        let mut request = Request::post(path).header("host", "job");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let (status, body) = self.send(request).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn lines(&self, token: Option<&str>, path: &str, body: String) -> Vec<Value> {
        let mut request = Request::post(path).header("host", "job");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let (status, body) = self.send(request).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        body.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// Ends it; what it wrote for people.
    fn said(mut self) -> String {
        use std::io::Read as _;
        self.program.kill().unwrap();
        let mut said = String::new();
        let mut stderr = self.program.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }
}

fn record(number: &str) -> String {
    json!({ "id": 1, "pan": number }).to_string()
}

#[tokio::test]
async fn a_number_is_tokenized_validated_and_masked_and_a_bad_one_has_a_reason() {
    let cards = Cards::start(json!({}));
    let (status, answer) = cards
        .ask("/v1/tokenize", record("4111 1111 1111 1111"))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&answer["last4"], &answer["scheme"]),
        (&json!("1111"), &json!("visa"))
    );
    let (status, answer) = cards
        .ask("/v1/validate", record("4111-1111-1111-1111"))
        .await;
    assert_eq!(status, StatusCode::OK);
    let expected =
        json!({ "id": 1, "valid": true, "scheme": "visa", "digits": 16, "last4": "1111" });
    assert_eq!(answer, expected);
    let note =
        json!({ "note": format!("re {NUMBER}"), "pan": "9000 0000 0001", "list": [NUMBER, 7] });
    let (status, answer) = cards.ask("/v1/mask", note.to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({
        "note": "re ************1111", "pan": "**** **** 0001", "list": ["************1111", 7],
    });
    assert_eq!(answer, expected);

    for (number, code) in [
        ("4111111111111112", "luhn"),
        ("4111", "length"),
        ("4111x", "characters"),
        ("", "missing"),
    ] {
        let (status, answer) = cards.ask("/v1/tokenize", record(number)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer["error"]["code"], code);
        let (status, answer) = cards.ask("/v1/validate", record(number)).await;
        assert_eq!((status, &answer["valid"]), (StatusCode::OK, &json!(false)));
        assert_eq!(answer["error"]["code"], code);
    }
    for path in ["/v1/tokenize", "/v1/validate", "/v1/mask"] {
        for body in [
            "",
            "[]",
            "4111111111111111",
            "{\"pan\":4111111111111111",
            "{\"a\":1,\"a\":2}",
        ] {
            let (status, answer) = cards.ask(path, body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}");
            assert_eq!(answer["error"]["code"], "format");
            assert!(!answer.to_string().contains("4111"), "{answer}");
        }
    }
    assert!(!cards.said().contains("1111"));
}

#[tokio::test]
async fn detokenizing_is_for_callers_of_the_manifest_and_by_default_for_nobody() {
    let cards = Cards::start(json!({}));
    let (_, tokenized) = cards.ask("/v1/tokenize", record(NUMBER)).await;
    let token = json!({ "id": 1, "token": tokenized["token"] }).to_string();
    for path in ["/v1/detokenize", "/v1/bulk/detokenize"] {
        for shown in [None, Some(TOKEN), Some("")] {
            let (status, answer) = cards.ask_as(shown, path, token.clone()).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert_eq!(answer["error"]["code"], "forbidden");
            assert!(
                answer["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("job.settings.detokenize")
            );
        }
    }

    let cards = Cards::start(settings(&analyst(None)));
    let digest = hex::encode(Sha256::digest(TOKEN));
    let longer = format!("{TOKEN}x");
    for path in ["/v1/detokenize", "/v1/bulk/detokenize"] {
        for shown in [
            None,
            Some(""),
            Some("analyst"),
            Some(&*digest),
            Some(&*longer),
            Some(&TOKEN[1..]),
        ] {
            let (status, answer) = cards.ask_as(shown, path, token.clone()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{shown:?}");
            assert!(!answer.to_string().contains("4111"));
        }
    }
    let (status, answer) = cards
        .ask_as(Some(TOKEN), "/v1/detokenize", token.clone())
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, json!({ "id": 1, "pan": NUMBER }));
    let answers = cards
        .lines(
            Some(TOKEN),
            "/v1/bulk/detokenize",
            format!("{token}\n{{\"id\":2}}\n{token}"),
        )
        .await;
    assert_eq!(answers.len(), 3);
    assert_eq!(
        (&answers[0]["pan"], &answers[2]["pan"]),
        (&json!(NUMBER), &json!(NUMBER))
    );
    assert_eq!(answers[1]["error"]["code"], "missing");
    // The token opens nothing else, and says on the console whose it was.
    let said = cards.said();
    assert!(
        said.contains("analyst detokenized 1\n") && said.contains("analyst detokenized 3\n"),
        "{said}"
    );
    assert!(!said.contains(TOKEN) && !said.contains("4111"), "{said}");
}

#[tokio::test]
async fn a_callers_rate_counts_lines_and_cannot_be_gone_around_in_bulk() {
    let rate = json!({ "count": 2, "seconds": 86_400 });
    let cards = Cards::start(settings(&analyst(Some(rate))));
    let (_, tokenized) = cards.ask("/v1/tokenize", record(NUMBER)).await;
    let token = json!({ "token": tokenized["token"] }).to_string();
    // The bucket begins empty, so that a restart gains nothing.
    let (status, answer) = cards
        .ask_as(Some(TOKEN), "/v1/detokenize", token.clone())
        .await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer["error"]["code"], "rate");
    let many = format!("{token}\n").repeat(50);
    let answers = cards.lines(Some(TOKEN), "/v1/bulk/detokenize", many).await;
    assert_eq!(answers.len(), 50);
    assert!(
        answers
            .iter()
            .all(|answer| answer["error"]["code"] == "rate")
    );
}

#[tokio::test]
async fn bulk_answers_each_line_in_order_and_one_that_breaks_off_not_at_all() {
    let cards = Cards::start(json!({}));
    let lines: Vec<String> = (0..5000)
        .map(|n| json!({ "id": n, "pan": if n % 7 == 0 { "4111" } else { NUMBER } }).to_string())
        .collect();
    let answers = cards
        .lines(None, "/v1/bulk/tokenize", lines.join("\n"))
        .await;
    assert_eq!(answers.len(), 5000);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer["id"], n);
        assert_eq!(answer.get("error").is_some(), n % 7 == 0);
    }
    // In pieces that end anywhere, the same.
    let body = lines[..100].join("\n");
    let pieces: Vec<_> = body
        .as_bytes()
        .chunks(7)
        .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let request = Request::post("/v1/bulk/tokenize")
        .body(Pieces(pieces.into_iter()))
        .unwrap();
    let (status, again) = cards.send(request).await;
    assert_eq!(status, StatusCode::OK);
    let again: Vec<Value> = again
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(again, answers[..100]);

    let mut stream = cards.connect().await;
    let cut = format!(
        "POST /v1/bulk/tokenize HTTP/1.1\r\nhost: job\r\ncontent-length: 1000\r\n\r\n{}\n",
        record(NUMBER)
    );
    stream.write_all(cut.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.contains("token\""), "{answer}");
}

/// A body of pieces, whose length is not said beforehand.
struct Pieces(std::vec::IntoIter<Result<Frame<Bytes>, std::io::Error>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(self.0.next())
    }
}

#[tokio::test]
async fn a_hostile_client_meets_bounds_and_others_go_on_being_served() {
    let cards = Cards::start(json!({}));
    let (status, _) = cards
        .ask("/v1/tokenize", vec![b' '; MAX_RECORD_BYTES + 1])
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = cards.ask("/v1/bulk/mask", vec![b'x'; BULK.bytes + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // A byte a line, each of which would be answered with a hundred.
    let (status, answer) = cards
        .ask("/v1/bulk/mask", vec![b'\n'; BULK.lines + 1])
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer["error"]["code"], "many");
    let long = cards
        .lines(
            None,
            "/v1/bulk/mask",
            format!("{{\"a\":\"{}\"}}\n{{}}\n", "x".repeat(BULK.line)),
        )
        .await;
    assert_eq!(long[0]["error"]["code"], "format");
    assert_eq!(long[1], json!({}));

    for (method, path, expected) in [
        (Method::GET, "/v1/tokenize", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/ready", StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/v1/detokenize/", StatusCode::NOT_FOUND),
        (Method::POST, "/v1//tokenize", StatusCode::NOT_FOUND),
        (Method::POST, "/v1/bulk/bulk/mask", StatusCode::NOT_FOUND),
        (Method::GET, "/4111111111111111", StatusCode::NOT_FOUND),
    ] {
        let request = Request::builder().method(method).uri(path);
        let (status, body) = cards
            .send(request.body(Full::<Bytes>::default()).unwrap())
            .await;
        assert_eq!(status, expected, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("4111"));
    }
    for garbage in [
        "\x16\x03\x01\r\n\r\n",
        "GET / HTTP/9\r\n\r\n",
        "POST /v1/mask HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ] {
        let mut stream = cards.connect().await;
        stream.write_all(garbage.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
    }
    // Who says nothing, or stops half way, holds nobody up.
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = cards.connect().await;
        let head =
            b"POST /v1/bulk/tokenize HTTP/1.1\r\nhost: job\r\ncontent-length: 8000000\r\n\r\n{";
        stream.write_all(head).await.unwrap();
        held.push(stream);
    }
    let (status, _) = cards.ask("/v1/tokenize", record(NUMBER)).await;
    assert_eq!(status, StatusCode::OK);
    let some = cards.lines(None, "/v1/bulk/validate", record(NUMBER)).await;
    assert_eq!(some[0]["valid"], true);
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_to_the_next_request() {
    let cards = Cards::start(settings(&analyst(None)));
    let io = TokioIo::new(cards.connect().await);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..20 {
        for (path, expected) in [
            ("/v1/detokenize", StatusCode::UNAUTHORIZED),
            ("/nowhere", StatusCode::NOT_FOUND),
            ("/v1/tokenize", StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let body = Full::new(Bytes::from(vec![b' '; 300_000]));
            let request = Request::post(path).body(body).unwrap();
            sender.ready().await.unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), expected);
            answer.into_body().collect().await.unwrap();
        }
    }
}

#[tokio::test]
async fn openapi_json_says_what_there_is() {
    let cards = Cards::start(json!({}));
    let request = Request::get("/openapi.json")
        .body(Full::<Bytes>::default())
        .unwrap();
    let (status, body) = cards.send(request).await;
    assert_eq!((status, body), (StatusCode::OK, Bytes::from(OPENAPI)));
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = described["paths"].as_object().unwrap();
    let mut expected = vec!["/ready".to_owned(), "/openapi.json".to_owned()];
    for (word, operation) in Operation::ALL {
        for path in [format!("/v1/{word}"), format!("/v1/bulk/{word}")] {
            let secured = paths[&path]["post"].get("security").is_some();
            assert_eq!(secured, operation == Operation::Detokenize, "{path}");
            expected.push(path);
        }
    }
    for (path, methods) in paths {
        assert!(expected.contains(path), "{path}");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let request = Request::builder().method(&*method).uri(path);
            let (status, _) = cards
                .send(request.body(Full::<Bytes>::default()).unwrap())
                .await;
            let there = status != StatusCode::NOT_FOUND && status != StatusCode::METHOD_NOT_ALLOWED;
            assert!(there, "{method} {path}: {status}");
        }
    }
    assert_eq!(paths.len(), expected.len());
}

#[test]
fn settings_that_are_not_understood_and_keys_that_are_not_there_end_the_program_with_the_remedy() {
    let short = json!({ "token_sha256": "abcd" });
    let ciphertext = base64::engine::general_purpose::STANDARD.encode(b"x");
    for (settings, word) in [
        (json!({ "detokenise": {} }), "detokenise"),
        (json!({ "detokenize": { "a": short } }), "sha256sum"),
        (
            json!({ "detokenize": { "a": { "token": TOKEN } } }),
            "token",
        ),
        (json!({ "key": { "file": "/nowhere" } }), "/nowhere"),
        (json!({ "key": { "secret": "a" } }), "ANCHORHOLD_API_SOCKET"),
        (
            json!({ "key": { "data-key": { "ciphertext": "*" } } }),
            "base64",
        ),
        (
            json!({ "key": { "data-key": { "ciphertext": ciphertext } } }),
            "ANCHORHOLD_API_SOCKET",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = command(folder.path(), settings).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(word), "{word}: {said}");
        assert!(!said.contains(TOKEN));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_cards"))
        .arg("serve")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("contract \"http\""));
    let output = Command::new(env!("CARGO_BIN_EXE_cards"))
        .args(["serve", "detokenize"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Digits with the check digit behind them.
fn with_check_digit(payload: &str) -> String {
    let digits: Vec<u8> = payload.bytes().map(|byte| byte - b'0').collect();
    format!(
        "{payload}{}",
        anchorhold_job_cards::card::check_digit(&digits)
    )
}

fn numbers() -> impl Strategy<Value = String> {
    // Visa, Mastercard, American Express, unknown: with their lengths.
    prop_oneof![
        "4[0-9]{14}",
        "5[1-5][0-9]{13}",
        "3[47][0-9]{12}",
        "9[0-9]{10,17}"
    ]
    .prop_map(|payload| with_check_digit(&payload))
}

#[test]
fn what_was_tokenized_comes_back_and_tokens_are_no_numbers() {
    let cards = Cards::start(settings(&analyst(None)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let few = ProptestConfig::with_cases(40);
    proptest!(few, |(all in prop::collection::vec(numbers(), 1..40))| {
        runtime.block_on(async {
            let body: Vec<_> = all.iter().map(|number| record(number)).collect();
            let tokens = cards.lines(None, "/v1/bulk/tokenize", body.join("\n")).await;
            assert_eq!(tokens.len(), all.len());
            let mut back = String::new();
            for (number, answer) in all.iter().zip(&tokens) {
                let token = answer["token"].as_str().unwrap();
                assert_eq!(token.len(), number.len());
                let (_, valid) = cards.ask("/v1/validate", record(token)).await;
                assert_eq!(valid["valid"], false, "a token never passes for a number");
                back.push_str(&json!({ "token": token }).to_string());
                back.push('\n');
            }
            let numbers = cards.lines(Some(TOKEN), "/v1/bulk/detokenize", back).await;
            for (number, answer) in all.iter().zip(&numbers) {
                assert_eq!(answer["pan"], **number);
            }
        });
    });
}
