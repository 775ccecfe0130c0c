//! Requests that no honest client sends: each is refused, with AWS's error, and written down.

use crate::{World, pairs};
use anchorhold_kms::config::{DEV_OWNER_ACCESS_KEY_ID, DEV_OWNER_SECRET_ACCESS_KEY};
use anchorhold_kms_wire::sigv4::{Credentials, sign};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

struct Raw {
    method: Method,
    path: &'static str,
    target: &'static str,
    body: Vec<u8>,
    secret: &'static str,
    access_key: &'static str,
    region: &'static str,
    service: &'static str,
    signed: bool,
    time: SystemTime,
}

impl Raw {
    fn new(target: &'static str, body: &str) -> Self {
        Self {
            method: Method::POST,
            path: "/",
            target,
            body: body.as_bytes().to_vec(),
            secret: DEV_OWNER_SECRET_ACCESS_KEY,
            access_key: DEV_OWNER_ACCESS_KEY_ID,
            region: "us-east-1",
            service: "kms",
            signed: true,
            time: SystemTime::now(),
        }
    }

    /// Status, error's name, message. `tamper` acts after signing.
    async fn send(
        self,
        world: &World,
        tamper: impl FnOnce(&mut Request<Full<Bytes>>),
    ) -> (StatusCode, String, String) {
        let address = world.running.local_addr();
        let request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("host", address.to_string())
            .header("x-amz-target", self.target)
            .header("content-type", "application/x-amz-json-1.1")
            .body(())
            .unwrap();
        let (mut parts, ()) = request.into_parts();
        if self.signed {
            let secret = Zeroizing::new(self.secret.to_owned());
            let credentials = Credentials::new(self.access_key, secret);
            sign(
                &mut parts,
                &self.body,
                &credentials,
                self.region,
                self.service,
                self.time,
            )
            .unwrap();
        }
        let mut request = Request::from_parts(parts, Full::new(Bytes::from(self.body)));
        tamper(&mut request);
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        assert!(response.headers().contains_key("x-amzn-requestid"));
        let kind_by_header = response.headers().get("x-amzn-errortype").cloned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let kind = value["__type"].as_str().unwrap_or("").to_owned();
        if let Some(header) = kind_by_header {
            assert_eq!(header, kind.as_str());
        }
        let message = value["message"].as_str().unwrap_or("").to_owned();
        (status, kind, message)
    }

    async fn kind(self, world: &World) -> String {
        let (status, kind, message) = self.send(world, |_| {}).await;
        assert!(!status.is_success(), "{kind} {message}");
        assert_eq!(
            world.audit().last().unwrap()["errorCode"],
            kind.as_str(),
            "{message}"
        );
        kind
    }
}

const RANDOM: &str = "TrentService.GenerateRandom";

#[tokio::test]
async fn only_right_signatures_are_taken() {
    let world = World::new().await;
    let raw = || Raw::new(RANDOM, r#"{"NumberOfBytes":8}"#);
    let (status, ..) = raw().send(&world, |_| {}).await;
    assert_eq!(status, StatusCode::OK);

    let unsigned = Raw {
        signed: false,
        ..raw()
    };
    assert_eq!(
        unsigned.kind(&world).await,
        "MissingAuthenticationTokenException"
    );
    let hour = Duration::from_secs(3600);
    for (raw, kind) in [
        (
            Raw {
                secret: "wrong",
                ..raw()
            },
            "InvalidSignatureException",
        ),
        (
            Raw {
                access_key: "AKIDNOBODY0000000000",
                ..raw()
            },
            "UnrecognizedClientException",
        ),
        (
            Raw {
                region: "xx-nowhere-1",
                ..raw()
            },
            "InvalidSignatureException",
        ),
        (
            Raw {
                service: "s3",
                ..raw()
            },
            "InvalidSignatureException",
        ),
        (
            Raw {
                time: SystemTime::now() - hour,
                ..raw()
            },
            "InvalidSignatureException",
        ),
        (
            Raw {
                time: SystemTime::now() + hour,
                ..raw()
            },
            "InvalidSignatureException",
        ),
    ] {
        assert_eq!(raw.kind(&world).await, kind);
    }
    // What was signed is what must arrive.
    let (_, kind, _) = raw()
        .send(&world, |request| {
            *request.body_mut() = Full::new(Bytes::from_static(br#"{"NumberOfBytes":9}"#));
        })
        .await;
    assert_eq!(kind, "InvalidSignatureException");
    let (_, kind, _) = raw()
        .send(&world, |request| {
            let other = "TrentService.CreateKey".parse().unwrap();
            request.headers_mut().insert("x-amz-target", other);
        })
        .await;
    assert_eq!(kind, "InvalidSignatureException");
    let (_, kind, _) = raw()
        .send(&world, |request| {
            request
                .headers_mut()
                .append("x-amz-target", "TrentService.Decrypt".parse().unwrap());
        })
        .await;
    assert_eq!(kind, "IncompleteSignatureException");
}

#[tokio::test]
async fn bodies_and_targets_that_are_no_request_are_refused() {
    let world = World::new().await;
    for (target, body, kind) in [
        (RANDOM, "{", "SerializationException"),
        (RANDOM, "[]", "SerializationException"),
        (RANDOM, r#"{"NumberOfBytes":"8"}"#, "SerializationException"),
        (
            RANDOM,
            r#"{"NumberOfBytes":8,"NumberOfBytes":8}"#,
            "SerializationException",
        ),
        (
            RANDOM,
            r#"{"NumberOfBytes":99999999999}"#,
            "SerializationException",
        ),
        (RANDOM, r#"{"NumberOfByte":8}"#, "ValidationException"),
        (RANDOM, "", "ValidationException"),
        (
            "TrentService.DescribeKey",
            r#"{"KeyId":null}"#,
            "ValidationException",
        ),
        (
            "TrentService.Encapsulate",
            "{}",
            "UnsupportedOperationException",
        ),
        (
            "TrentService.GetKeyLastUsage",
            "{}",
            "UnsupportedOperationException",
        ),
        (
            "TrentService.NoSuchThing",
            "{}",
            "UnsupportedOperationException",
        ),
        ("Decrypt", "{}", "UnknownOperationException"),
    ] {
        let found = Raw::new(target, body).kind(&world).await;
        assert_eq!(found, kind, "{target} {body}");
    }
    let (_, _, message) = Raw::new("TrentService.Encapsulate", "{}")
        .send(&world, |_| {})
        .await;
    assert!(message.contains("Encapsulate"), "{message}");
    let deep = format!("{}{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert_eq!(
        Raw::new(RANDOM, &deep).kind(&world).await,
        "SerializationException"
    );
    for raw in [
        Raw {
            method: Method::GET,
            ..Raw::new(RANDOM, "")
        },
        Raw {
            path: "/other",
            ..Raw::new(RANDOM, "{}")
        },
    ] {
        assert_eq!(raw.kind(&world).await, "UnknownOperationException");
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_not_read() {
    let world = World::new().await;
    let raw = Raw::new(RANDOM, &" ".repeat((1 << 20) + 1));
    let (status, kind, _) = raw.send(&world, |_| {}).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(kind, "RequestEntityTooLargeException");
}

#[tokio::test]
async fn null_is_absence_and_a_misspelt_recipient_is_no_recipient() {
    use base64::Engine as _;
    let world = World::new().await;
    let key = world.key(None).await;
    let blob = world.ciphertext(&key, b"open", pairs(&[])).await;
    let blob = base64::engine::general_purpose::STANDARD.encode(blob);
    let null = format!(r#"{{"CiphertextBlob":"{blob}","Recipient":null}}"#);
    let (status, ..) = Raw::new("TrentService.Decrypt", &null)
        .send(&world, |_| {})
        .await;
    assert_eq!(status, StatusCode::OK);
    for recipient in [
        r#""Recipient":{}"#,
        r#""Recipient":{"KeyEncryptionAlgorithm":null,"AttestationDocument":null}"#,
        r#""recipient":{}"#,
        r#""Recipient":[]"#,
        r#""Recipient":"x""#,
        r#""Recipient":{"AttestationDocument":"!","KeyEncryptionAlgorithm":"RSAES_OAEP_SHA_256"}"#,
    ] {
        let body = format!(r#"{{"CiphertextBlob":"{blob}",{recipient}}}"#);
        let (status, ..) = Raw::new("TrentService.Decrypt", &body)
            .send(&world, |_| {})
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{recipient}");
    }
}

/// An STS request as clients write it; status and body.
async fn identity(
    world: &World,
    secret: &'static str,
    service: &'static str,
    body: &str,
) -> (StatusCode, String) {
    let address = world.running.local_addr();
    let request = Request::builder()
        .method(Method::POST)
        .uri("/")
        .header("host", address.to_string())
        .header(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )
        .body(())
        .unwrap();
    let (mut parts, ()) = request.into_parts();
    let credentials = Credentials::new(DEV_OWNER_ACCESS_KEY_ID, Zeroizing::new(secret.to_owned()));
    sign(
        &mut parts,
        body.as_bytes(),
        &credentials,
        "eu-west-1",
        service,
        SystemTime::now(),
    )
    .unwrap();
    let request = Request::from_parts(parts, Full::new(Bytes::from(body.to_owned())));
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "text/xml");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn callers_learn_who_they_are_from_sts_on_the_same_port() {
    let world = World::new().await;
    let body = "Action=GetCallerIdentity&Version=2011-06-15";
    let right = DEV_OWNER_SECRET_ACCESS_KEY;
    let (status, text) = identity(&world, right, "sts", body).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    for part in [
        "<Arn>arn:aws:iam::111122223333:user/owner</Arn>",
        "<Account>111122223333</Account>",
        "<UserId>AIDA",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let line = world.audit().last().unwrap().clone();
    assert_eq!(line["eventSource"], "sts.amazonaws.com");
    assert_eq!(line["eventName"], "GetCallerIdentity");
    for (secret, service, body, code) in [
        ("wrong", "sts", body, "SignatureDoesNotMatch"),
        // A signature for the one service is none for the other.
        (right, "kms", body, "SignatureDoesNotMatch"),
        (right, "sts", "Action=AssumeRole", "InvalidAction"),
    ] {
        let (status, text) = identity(&world, secret, service, body).await;
        assert!(status.is_client_error());
        assert!(text.contains(&format!("<Code>{code}</Code>")), "{text}");
    }
}
