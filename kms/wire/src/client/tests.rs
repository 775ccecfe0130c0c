use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::shapes::{
    Blob, CreateAliasRequest, CreateKeyRequest, DecryptRequest, DecryptResponse, EncryptRequest,
    GenerateRandomRequest, GenerateRandomResponse, SecretBlob,
};
use crate::sigv4::{DEFAULT_MAX_SKEW, Expected, Presented};

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// What the test's server does with one request.
#[derive(Clone)]
enum Deed {
    Answer(u16, &'static str),
    AnswerAndClose(u16, &'static str),
    /// Announces more than it sends.
    Truncate,
    /// Closes without an answer.
    Cut,
    /// Announces a body of this length.
    Announce(u64),
    /// Sends for ever, without announcing a length.
    Flood,
    Hang,
}

enum Reply {
    Bytes(Option<Bytes>, u64),
    Truncated(bool),
    Endless,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match self.get_mut() {
            Self::Bytes(bytes, length) => match bytes.take() {
                Some(bytes) => {
                    *length -= bytes.len() as u64;
                    Some(Ok(Frame::data(bytes)))
                }
                None if *length == 0 => None,
                None => return Poll::Pending,
            },
            Self::Truncated(sent) if !*sent => {
                *sent = true;
                Some(Ok(Frame::data(Bytes::from_static(b"{\"KeyId\": \"k\""))))
            }
            Self::Truncated(_) => Some(Err(io::Error::other("cut"))),
            Self::Endless => Some(Ok(Frame::data(Bytes::from_static(&[b' '; 16384])))),
        })
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Bytes(_, length) => hyper::body::SizeHint::with_exact(*length),
            Self::Truncated(_) | Self::Endless => hyper::body::SizeHint::default(),
        }
    }
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    fn counts(&self) -> (usize, usize) {
        (
            self.connections.load(Ordering::SeqCst),
            self.requests.load(Ordering::SeqCst),
        )
    }

    /// Does the deeds in their order, and the last one for ever after. Requests that are not
    /// signed as they should be are answered with the signature's error.
    async fn start(tls: Option<rustls::ServerConfig>, deeds: &[Deed]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let (connection_count, request_count) = (Arc::clone(&connections), Arc::clone(&requests));
        let deeds: Arc<[Deed]> = deeds.into();
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connection_count.fetch_add(1, Ordering::SeqCst);
                let (deeds, requests, acceptor) = (
                    Arc::clone(&deeds),
                    Arc::clone(&request_count),
                    acceptor.clone(),
                );
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let number = requests.fetch_add(1, Ordering::SeqCst);
                        let deed = deeds[number.min(deeds.len() - 1)].clone();
                        async move { reply(request, deed).await }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    match acceptor {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            connections,
            requests,
            task,
        }
    }
}

async fn reply(request: Request<Incoming>, deed: Deed) -> Result<http::Response<Reply>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let answer = |status: u16, text: &'static str| {
        let body = Bytes::from_static(text.as_bytes());
        let length = body.len() as u64;
        http::Response::builder()
            .status(status)
            .header("x-amzn-requestid", "request-1")
            .body(Reply::Bytes(Some(body), length))
            .unwrap()
    };
    let expected = Expected {
        regions: &["us-east-1"],
        services: &["kms"],
        now: SystemTime::now(),
        max_skew: DEFAULT_MAX_SKEW,
    };
    if let Err(error) =
        Presented::parse(&parts).and_then(|presented| presented.verify(&body, SECRET, &expected))
    {
        let text = format!(r#"{{"__type":"{}","message":"{error}"}}"#, error.code());
        return Ok(answer(400, String::leak(text)));
    }
    let empty = |body| http::Response::new(body);
    match deed {
        Deed::Answer(status, text) => Ok(answer(status, text)),
        Deed::AnswerAndClose(status, text) => {
            let mut response = answer(status, text);
            response
                .headers_mut()
                .insert("connection", HeaderValue::from_static("close"));
            Ok(response)
        }
        Deed::Cut => Err(io::Error::other("cut")),
        Deed::Truncate => Ok(empty(Reply::Truncated(false))),
        Deed::Announce(length) => Ok(empty(Reply::Bytes(Some(Bytes::from_static(b"{}")), length))),
        Deed::Flood => Ok(empty(Reply::Endless)),
        Deed::Hang => std::future::pending().await,
    }
}

/// A CA and a server certificate that it signed for these names.
fn pki(names: &[&str]) -> (String, rustls::ServerConfig) {
    pki_of(names, (1975, 4096))
}

/// The same, of which the server's is valid from the beginning of one year to that of another.
fn pki_of(names: &[&str], (from, to): (i32, i32)) -> (String, rustls::ServerConfig) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let certificate: CertificateDer<'static> = certificate.into();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (ca_pem, config)
}

fn quick() -> Limits {
    Limits {
        connect: Duration::from_secs(2),
        call: Duration::from_secs(5),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        ..Limits::default()
    }
}

fn client_of(url: String, tls: TlsTrust) -> Client<Tcp, Fixed> {
    let endpoint = Endpoint {
        url,
        region: "us-east-1".to_owned(),
        tls,
    };
    Client::new(
        &endpoint,
        Tcp,
        Fixed::new(Credentials::new(ID, SECRET.to_owned())),
    )
    .unwrap()
    .with_limits(quick())
}

async fn plain(deeds: &[Deed]) -> (Server, Client<Tcp, Fixed>) {
    let server = Server::start(None, deeds).await;
    let client = client_of(format!("http://{}", server.address), TlsTrust::PlainHttp);
    (server, client)
}

const RANDOM: &str = r#"{"Plaintext":"AAECAw=="}"#;

async fn random(client: &Client<Tcp, Fixed>) -> Result<GenerateRandomResponse, ClientError> {
    client
        .call(&GenerateRandomRequest {
            number_of_bytes: Some(4),
            ..GenerateRandomRequest::default()
        })
        .await
}

#[tokio::test]
async fn a_signed_call_over_tls_under_the_pinned_ca_succeeds_by_address_and_by_name() {
    let (ca, config) = pki(&["127.0.0.1", "localhost"]);
    let server = Server::start(Some(config), &[Deed::Answer(200, RANDOM)]).await;
    for host in ["127.0.0.1", "localhost", "LOCALHOST"] {
        let client = client_of(
            format!("https://{host}:{}", server.address.port()),
            TlsTrust::Ca(ca.clone()),
        );
        assert_eq!(
            random(&client).await.unwrap().plaintext.unwrap().expose(),
            &[0, 1, 2, 3]
        );
    }
}

#[tokio::test]
async fn the_callers_clock_alone_says_what_time_it_is() {
    for (year, word) in [
        (2011, "Signature expired: 2011"),
        (2060, "Signature not yet current: 2060"),
    ] {
        let (ca, config) = pki_of(&["127.0.0.1"], (year, year + 1));
        let server = Server::start(Some(config), &[Deed::Answer(200, RANDOM)]).await;
        let endpoint = Endpoint {
            url: format!("https://{}", server.address),
            region: "us-east-1".to_owned(),
            tls: TlsTrust::Ca(ca),
        };
        let client = |clock: Clock| {
            let credentials = Fixed::new(Credentials::new(ID, SECRET.to_owned()));
            Client::with_clock(&endpoint, Tcp, credentials, clock)
                .unwrap()
                .with_limits(quick())
        };
        // The system's clock has another year, in which that certificate is not valid.
        let error = random(&client(Arc::new(SystemTime::now)))
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Certificate { .. }), "{error}");
        assert_eq!(server.counts().1, 0, "nothing was asked");
        // In the caller's it is, and requests are of that year: so says the server, which goes by the system's.
        let days = u64::try_from(year - 1970).unwrap() * 36525 / 100 + 180;
        let there = std::time::UNIX_EPOCH + Duration::from_hours(24 * days);
        let error = random(&client(Arc::new(move || there))).await.unwrap_err();
        assert!(matches!(error, ClientError::Service { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(server.counts().1 > 0);
    }
}

#[tokio::test]
async fn another_ca_is_refused_and_not_tried_again() {
    let (_, config) = pki(&["127.0.0.1"]);
    let (other_ca, _) = pki(&["127.0.0.1"]);
    let server = Server::start(Some(config), &[Deed::Answer(200, RANDOM)]).await;
    let url = format!("https://{}", server.address);
    for trust in [TlsTrust::Ca(other_ca), TlsTrust::Roots] {
        let error = random(&client_of(url.clone(), trust)).await.unwrap_err();
        assert!(matches!(error, ClientError::Certificate { .. }), "{error}");
        assert!(
            error.to_string().contains("no trusted CA has signed it"),
            "{error}"
        );
    }
    assert_eq!(
        server.counts(),
        (2, 0),
        "one connection each, and no request on it"
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (ca, config) = pki(&["kms.test"]);
    let server = Server::start(Some(config), &[Deed::Answer(200, RANDOM)]).await;
    for host in ["127.0.0.1", "localhost"] {
        let client = client_of(
            format!("https://{host}:{}", server.address.port()),
            TlsTrust::Ca(ca.clone()),
        );
        let error = random(&client).await.unwrap_err();
        assert!(
            error.to_string().contains("it is for another name"),
            "{error}"
        );
    }
    assert_eq!(server.counts().1, 0);
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_due() {
    let server = Server::start(None, &[Deed::Answer(200, RANDOM)]).await;
    let error = random(&client_of(
        format!("https://{}", server.address),
        TlsTrust::Roots,
    ))
    .await
    .unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error}");
    assert_eq!(server.counts().1, 0);
}

#[tokio::test]
async fn a_connection_serves_many_calls() {
    let (server, client) = plain(&[Deed::Answer(200, RANDOM)]).await;
    for _ in 0..20 {
        random(&client).await.unwrap();
    }
    assert_eq!(server.counts(), (1, 20));
}

#[tokio::test]
async fn calls_at_the_same_time_have_connections_of_their_own_and_few_are_kept() {
    let (server, client) = plain(&[Deed::Answer(200, RANDOM)]).await;
    let client = Arc::new(client);
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { random(&client).await.map(|_| ()) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(client.idle().len() <= KEPT_CONNECTIONS);
    assert_eq!(server.counts().1, 16);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let (server, client) = plain(&[Deed::AnswerAndClose(200, RANDOM)]).await;
    for _ in 0..3 {
        random(&client).await.unwrap();
    }
    assert_eq!(server.counts(), (3, 3));
}

#[tokio::test]
async fn a_lost_connection_is_tried_again_where_that_does_no_harm() {
    for deed in [
        Deed::Cut,
        Deed::Truncate,
        Deed::Answer(500, r#"{"__type":"KMSInternalException"}"#),
    ] {
        let (server, client) = plain(&[deed.clone(), deed, Deed::Answer(200, RANDOM)]).await;
        random(&client).await.unwrap();
        assert_eq!(server.counts().1, 3);
    }
    for deed in [
        Deed::Cut,
        Deed::Truncate,
        Deed::Answer(500, r#"{"__type":"KMSInternalException"}"#),
    ] {
        let (server, client) =
            plain(&[deed, Deed::Answer(200, r#"{"KeyMetadata":{"KeyId":"k"}}"#)]).await;
        client.call(&CreateKeyRequest::default()).await.unwrap_err();
        assert_eq!(server.counts().1, 1, "it may have made a key already");
    }
}

#[tokio::test]
async fn throttling_is_waited_out_for_every_operation() {
    let throttled = Deed::Answer(
        400,
        r#"{"__type":"ThrottlingException","message":"slow down"}"#,
    );
    let (server, client) = plain(&[
        throttled.clone(),
        throttled.clone(),
        Deed::Answer(200, r#"{"KeyMetadata":{"KeyId":"k"}}"#),
    ])
    .await;
    assert_eq!(
        client
            .call(&CreateKeyRequest::default())
            .await
            .unwrap()
            .key_metadata
            .key_id,
        "k"
    );
    assert_eq!(server.counts().1, 3);

    let (server, client) = plain(&[throttled]).await;
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), Some("ThrottlingException"));
    assert_eq!(server.counts().1, 4, "attempts are bounded");
}

#[tokio::test]
async fn refusals_are_final_and_say_what_the_service_said() {
    let denied =
        r#"{"__type":"AccessDeniedException","message":"User: x is not\u0007 authorized"}"#;
    let (server, client) = plain(&[Deed::Answer(400, denied)]).await;
    let request = DecryptRequest {
        ciphertext_blob: Some(Blob(vec![1])),
        ..DecryptRequest::default()
    };
    match client.call(&request).await.unwrap_err() {
        ClientError::Service {
            status,
            kind,
            message,
            request_id,
        } => {
            assert_eq!((status, kind.as_str()), (400, "AccessDeniedException"));
            assert_eq!(message, "User: x is not\u{fffd} authorized");
            assert_eq!(request_id.as_deref(), Some("request-1"));
        }
        other => panic!("{other}"),
    }
    assert_eq!(server.counts().1, 1);
}

#[tokio::test]
async fn a_wrong_secret_is_a_refusal_and_final() {
    let server = Server::start(None, &[Deed::Answer(200, RANDOM)]).await;
    let endpoint = Endpoint {
        url: format!("http://{}", server.address),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::PlainHttp,
    };
    let client = Client::new(
        &endpoint,
        Tcp,
        Fixed::new(Credentials::new(ID, "wrong".to_owned())),
    )
    .unwrap();
    let error = random_of(&client).await;
    assert_eq!(error.kind(), Some("InvalidSignatureException"));
    assert_eq!(server.counts().1, 1);
}

async fn random_of<P: ProvideCredentials>(client: &Client<Tcp, P>) -> ClientError {
    client
        .call(&GenerateRandomRequest::default())
        .await
        .map(|_| ())
        .unwrap_err()
}

#[tokio::test]
async fn credentials_are_asked_for_at_each_attempt_and_their_absence_is_final() {
    let server = Server::start(None, &[Deed::Cut, Deed::Cut, Deed::Answer(200, RANDOM)]).await;
    let endpoint = Endpoint {
        url: format!("http://{}", server.address),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::PlainHttp,
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let provider = {
        let asked = Arc::clone(&asked);
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            async { Ok(Arc::new(Credentials::new(ID, SECRET.to_owned()))) }
        }
    };
    let client = Client::new(&endpoint, Tcp, provider)
        .unwrap()
        .with_limits(quick());
    client
        .call(&GenerateRandomRequest::default())
        .await
        .unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let none = || async {
        Err(CredentialsError::NotProvided {
            reason: "the parent handed none in".to_owned(),
        })
    };
    let client = Client::new(&endpoint, Tcp, none).unwrap();
    let error = random_of(&client).await;
    assert_eq!(
        error.to_string(),
        "no credentials: the parent handed none in"
    );
}

#[tokio::test]
async fn answers_that_are_too_long_are_refused() {
    for deed in [Deed::Announce(2 << 20), Deed::Flood] {
        let (server, client) = plain(&[deed]).await;
        let error = random(&client).await.unwrap_err();
        assert!(
            matches!(error, ClientError::TooLarge { limit: 1_048_576 }),
            "{error}"
        );
        assert_eq!(server.counts().1, 1);
        assert!(
            client.idle().is_empty(),
            "such a connection serves no other call"
        );
    }
}

#[tokio::test]
async fn answers_of_another_shape_are_refused_without_repeating_them() {
    for (status, text) in [
        (200, "<html>4111111111111111</html>"),
        (200, r#"{"Plaintext":4111111111111111}"#),
        (200, r#"["4111111111111111"]"#),
        (404, "4111111111111111 not found"),
        (302, ""),
        (201, RANDOM),
    ] {
        let (_server, client) = plain(&[Deed::Answer(status, text)]).await;
        let error = random(&client).await.unwrap_err();
        assert!(matches!(error, ClientError::NotAnAnswer { .. }), "{error}");
        assert!(!error.to_string().contains("4111"), "{error}");
    }
}

#[tokio::test]
async fn a_service_that_hangs_is_given_up() {
    let (_server, client) = plain(&[Deed::Hang]).await;
    let client = client.with_limits(Limits {
        call: Duration::from_millis(200),
        ..quick()
    });
    let error = random(&client).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");

    // One that accepts, and then says nothing of TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let limits = Limits {
        connect: Duration::from_millis(100),
        attempts: 2,
        ..quick()
    };
    let error = random(&client_of(url, TlsTrust::Roots).with_limits(limits))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::ConnectTimeout { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_says_what_to_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = random(&client_of(url, TlsTrust::PlainHttp))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("check that it runs"), "{error}");
}

#[tokio::test]
async fn a_connector_of_the_callers_own_carries_the_stream_and_its_refusal_is_final() {
    struct Relay {
        to: SocketAddr,
        asked: AtomicUsize,
        refuses: bool,
    }
    impl Connect for &Relay {
        type Stream = TcpStream;
        async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            assert_eq!((host, port), ("kms.test", 443));
            if self.refuses {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the parent does not allow kms.test:443",
                ));
            }
            TcpStream::connect(self.to).await
        }
    }
    let (ca, config) = pki(&["kms.test"]);
    let server = Server::start(Some(config), &[Deed::Answer(200, RANDOM)]).await;
    let endpoint = Endpoint {
        url: "https://kms.test".to_owned(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::Ca(ca),
    };
    for refuses in [false, true] {
        let relay = Relay {
            to: server.address,
            asked: AtomicUsize::new(0),
            refuses,
        };
        let credentials = Fixed::new(Credentials::new(ID, SECRET.to_owned()));
        let client = Client::new(&endpoint, &relay, credentials)
            .unwrap()
            .with_limits(quick());
        let result = client.call(&GenerateRandomRequest::default()).await;
        assert_eq!(result.is_err(), refuses);
        assert_eq!(relay.asked.load(Ordering::SeqCst), 1);
        if let Err(error) = result {
            assert!(
                error
                    .to_string()
                    .contains("the parent does not allow kms.test:443"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_plaintext_where_an_envelope_was_due_is_returned_as_it_is() {
    let (_server, client) =
        plain(&[Deed::Answer(200, r#"{"KeyId":"k","Plaintext":"AA=="}"#)]).await;
    let request = DecryptRequest {
        recipient: Some(crate::shapes::RecipientInfo::new(vec![1])),
        ..DecryptRequest::default()
    };
    let response: DecryptResponse = client.call(&request).await.unwrap();
    assert!(response.plaintext.is_some() && response.ciphertext_for_recipient.is_none());
}

#[tokio::test]
async fn plaintext_is_sent_and_operations_without_output_succeed() {
    let (_server, client) = plain(&[
        Deed::Answer(
            200,
            r#"{"CiphertextBlob":"AA==","KeyId":"k","EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}"#,
        ),
        Deed::Answer(200, ""),
    ])
    .await;
    let plaintext = SecretBlob::new(Zeroizing::new(vec![1, 2, 3]));
    let request = EncryptRequest {
        key_id: "k".to_owned(),
        plaintext,
        ..EncryptRequest::default()
    };
    assert_eq!(
        client.call(&request).await.unwrap().ciphertext_blob,
        Blob(vec![0])
    );
    client.call(&CreateAliasRequest::default()).await.unwrap();
}

#[test]
fn calls_can_be_made_from_any_thread() {
    fn is_send<T: Send>(_: &T) {}
    let client = client_of("http://127.0.0.1:1".to_owned(), TlsTrust::PlainHttp);
    let request = GenerateRandomRequest::default();
    is_send(&client.call(&request));
}

#[test]
fn pauses_grow_and_stay_bounded() {
    let client = client_of("http://127.0.0.1:1".to_owned(), TlsTrust::PlainHttp)
        .with_limits(Limits::default());
    for attempt in 1..70 {
        let longest =
            Duration::from_millis(100 << (attempt - 1).min(10)).min(Duration::from_secs(5));
        assert!(client.pause(attempt) <= longest, "{attempt}");
    }
}

#[test]
fn endpoints_that_do_not_go_together_are_refused() {
    let endpoint = |url: &str, tls: TlsTrust| {
        let endpoint = Endpoint {
            url: url.to_owned(),
            region: "us-east-1".to_owned(),
            tls,
        };
        Client::new(
            &endpoint,
            Tcp,
            Fixed::new(Credentials::new(ID, SECRET.to_owned())),
        )
        .map(|_| ())
    };
    assert!(matches!(
        endpoint("https://h", TlsTrust::PlainHttp),
        Err(EndpointError::PlainHttps { .. })
    ));
    assert!(matches!(
        endpoint("http://h", TlsTrust::Roots),
        Err(EndpointError::TlsOverHttp { .. })
    ));
    assert!(matches!(
        endpoint("http://h", TlsTrust::Ca(pki(&["h"]).0)),
        Err(EndpointError::TlsOverHttp { .. })
    ));
    for pem in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(
            matches!(
                endpoint("https://h", TlsTrust::Ca(pem.to_owned())),
                Err(EndpointError::Ca { .. })
            ),
            "{pem}"
        );
    }
    for url in [
        "",
        "h",
        "ftp://h",
        "https://",
        "https://h:0",
        "https://h:",
        "https://h:65536",
        "https://h/?a=b",
        "https://a_b c/",
    ] {
        assert!(
            matches!(
                endpoint(url, TlsTrust::Roots),
                Err(EndpointError::Url { .. })
            ),
            "{url}"
        );
    }
    let error = endpoint("https://user:secret@h", TlsTrust::Roots).unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    let region = Endpoint {
        url: "https://h".to_owned(),
        region: "US East".to_owned(),
        tls: TlsTrust::Roots,
    };
    assert!(matches!(
        Client::new(
            &region,
            Tcp,
            Fixed::new(Credentials::new(ID, SECRET.to_owned()))
        )
        .map(|_| ()),
        Err(EndpointError::Region { .. })
    ));
}

#[test]
fn urls_are_taken_apart() {
    for (url, authority, host, port, path) in [
        (
            "https://kms.us-east-1.amazonaws.com",
            "kms.us-east-1.amazonaws.com",
            "kms.us-east-1.amazonaws.com",
            443,
            "/",
        ),
        (
            "https://127.0.0.1:8443/",
            "127.0.0.1:8443",
            "127.0.0.1",
            8443,
            "/",
        ),
        ("https://[::1]:8443", "[::1]:8443", "::1", 8443, "/"),
        (
            "https://KMS.test:443/kms",
            "kms.test",
            "kms.test",
            443,
            "/kms",
        ),
        ("http://localhost", "localhost", "localhost", 80, "/"),
    ] {
        let target = endpoint::Target::parse(url).unwrap();
        assert_eq!(
            (
                target.authority.as_str(),
                target.host.as_str(),
                target.port,
                target.path.as_str()
            ),
            (authority, host, port, path)
        );
    }
}

#[test]
fn endpoints_come_from_the_usual_variables() {
    let of = |url: Option<&str>, pairs: &[(&str, &str)]| {
        Endpoint::from_variables(url, |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    };
    let endpoint = of(None, &[("AWS_DEFAULT_REGION", "eu-west-1")]).unwrap();
    assert_eq!(
        (endpoint.url.as_str(), endpoint.tls),
        ("https://kms.eu-west-1.amazonaws.com", TlsTrust::Roots)
    );
    let both = [
        ("AWS_REGION", "r-1"),
        ("AWS_DEFAULT_REGION", "r-2"),
        ("AWS_ENDPOINT_URL", "https://a"),
        ("AWS_ENDPOINT_URL_KMS", "http://b"),
    ];
    let endpoint = of(None, &both).unwrap();
    assert_eq!(
        (
            endpoint.region.as_str(),
            endpoint.url.as_str(),
            endpoint.tls
        ),
        ("r-1", "http://b", TlsTrust::PlainHttp)
    );
    assert_eq!(of(Some("https://c"), &both).unwrap().url, "https://c");
    assert_eq!(of(None, &both[..3]).unwrap().url, "https://a");
    assert!(matches!(
        of(None, &[("AWS_REGION", "")]),
        Err(EndpointError::NoRegion)
    ));
    assert!(matches!(
        of(
            None,
            &[("AWS_REGION", "r"), ("AWS_CA_BUNDLE", "/no/such/file")]
        ),
        Err(EndpointError::CaFile { .. })
    ));
}
