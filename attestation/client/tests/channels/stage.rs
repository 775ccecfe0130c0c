//! What the tests share: an enclave's door in this process, the job behind it, and a server that lies.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use anchorhold_channel::{EXPORTER_LABEL, user_data};
use anchorhold_client::{Anchor, Channel, ConnectError, Connector, Expectations, Pcr, Protocol};
use anchorhold_enclave::nsm::{Claims, Description, Nsm, NsmError};
use anchorhold_enclave::tls::{Answer, Answers, Door, Identity, Limits};
use anchorhold_simulator::{DevelopmentRoot, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request as NsmRequest, Response as NsmResponse};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_bytes::ByteBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsAcceptor;

/// The simulated NSM, as the enclave sees it.
pub(crate) struct Simulated(pub(crate) anchorhold_simulator::Nsm);

impl Simulated {
    pub(crate) fn document(&self, claims: Claims, now: SystemTime) -> Vec<u8> {
        let request = NsmRequest::Attestation {
            user_data: claims.user_data.map(ByteBuf::from),
            nonce: claims.nonce.map(ByteBuf::from),
            public_key: claims.public_key.map(ByteBuf::from),
        };
        let request = serde_cbor::to_vec(&request).expect("CBOR");
        match serde_cbor::from_slice(&self.0.handle(&request, now)).expect("CBOR") {
            NsmResponse::Attestation { document } => document,
            other => panic!("the simulated NSM answered {other:?}"),
        }
    }
}

impl Nsm for Simulated {
    fn attest(&self, claims: Claims) -> Result<Vec<u8>, NsmError> {
        Ok(self.document(claims, SystemTime::now()))
    }

    fn describe(&self) -> Result<Description, NsmError> {
        panic!("channels need no description")
    }

    fn pcr(&self, _: u16) -> Result<Vec<u8>, NsmError> {
        panic!("channels need no register")
    }

    fn extend(&self, _: u16, _: Vec<u8>) -> Result<Vec<u8>, NsmError> {
        panic!("channels extend no register")
    }

    fn random(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, NsmError> {
        panic!("channels need no randomness of the module's")
    }
}

/// A job that says what it was asked, echoes bodies, or talks without end.
#[derive(Clone, Default)]
pub(crate) struct Job {
    /// Requests that have reached it.
    pub(crate) asked: Arc<AtomicUsize>,
    /// Endless answers that nobody wants any more.
    pub(crate) abandoned: Arc<AtomicUsize>,
}

impl Answers for Job {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        job(request, Arc::clone(&self.abandoned))
    }
}

fn job(request: Request<Incoming>, abandoned: Arc<AtomicUsize>) -> Answer {
    let whole = |text: String| {
        http_body_util::Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync()
    };
    Response::new(match request.uri().path() {
        "/echo" => request.into_body().map_err(io::Error::other).boxed_unsync(),
        "/endless" => Endless(abandoned).boxed_unsync(),
        _ => {
            let mut lines = vec![format!("{} {}", request.method(), request.uri())];
            lines.extend(request.headers().iter().map(|(name, value)| {
                format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            }));
            whole(lines.join("\n"))
        }
    })
}

struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An enclave, its root and its image.
pub(crate) struct Enclave {
    pub(crate) root: DevelopmentRoot,
    pub(crate) job: Job,
    pub(crate) door: Arc<Door<Simulated, Job>>,
}

pub(crate) fn pcr(byte: u8) -> Pcr {
    Pcr::from_bytes([byte; 48])
}

/// The image that clients want.
pub(crate) const IMAGE: u8 = 0xaa;

pub(crate) fn simulated(root: &DevelopmentRoot, image: u8, debug: bool) -> Simulated {
    let config = NsmConfig {
        pcr0: pcr(image),
        pcr1: pcr(1),
        pcr2: pcr(2),
        debug,
        ..NsmConfig::default()
    };
    // Long enough ago for documents that are old.
    let born = SystemTime::now() - Duration::from_hours(1);
    Simulated(anchorhold_simulator::Nsm::new(root, config, born).expect("an NSM"))
}

pub(crate) fn limits() -> Limits {
    Limits::of(64)
}

impl Enclave {
    pub(crate) fn new() -> Enclave {
        Enclave::with(
            DevelopmentRoot::generate().expect("a root"),
            IMAGE,
            limits(),
        )
    }

    pub(crate) fn with(root: DevelopmentRoot, image: u8, limits: Limits) -> Enclave {
        let nsm = Arc::new(simulated(&root, image, false));
        let job = Job::default();
        let identity = Identity::generate().expect("a key");
        let door = Door::new(identity, nsm, Arc::new(job.clone()), limits);
        Enclave { root, job, door }
    }

    /// A connection to its door, as the parent carries it.
    pub(crate) fn dial(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(Arc::clone(&self.door).channel(theirs));
        ours
    }

    /// A client of this enclave's image and root.
    pub(crate) fn connector(&self) -> Connector {
        connector(&self.root)
    }

    pub(crate) async fn channel(&self, protocol: Protocol) -> Channel<DuplexStream> {
        self.connector()
            .protocol(protocol)
            .connect("enclave.example", self.dial())
            .await
            .expect("an honest channel")
    }
}

pub(crate) fn anchor(root: &DevelopmentRoot) -> Anchor {
    Anchor::from_pem(root.certificate_pem()).expect("an anchor")
}

pub(crate) fn connector(root: &DevelopmentRoot) -> Connector {
    Connector::new([anchor(root)], Expectations::new().pcr(0, [pcr(IMAGE)]))
        .time_limit(Duration::from_mins(1))
}

/// A key of somebody's, with a certificate.
pub(crate) struct Papers {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) public_key: Vec<u8>,
}

pub(crate) fn papers(algorithm: &'static rcgen::SignatureAlgorithm) -> Papers {
    use rcgen::PublicKeyData as _;
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let params = rcgen::CertificateParams::new(vec!["enclave.example".to_owned()]).expect("a name");
    Papers {
        certificate: params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .clone(),
        public_key: key.subject_public_key_info(),
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
    }
}

/// What a liar knows when it has to answer.
pub(crate) struct Asked {
    /// The client's, as bytes.
    pub(crate) nonce: Vec<u8>,
    /// Of the channel between client and liar.
    pub(crate) exporter: [u8; 32],
    /// The liar's own.
    pub(crate) public_key: Vec<u8>,
}

impl Asked {
    /// What a document must say to be believed here.
    pub(crate) fn claims(&self) -> Claims {
        Claims {
            nonce: Some(self.nonce.clone()),
            user_data: Some(user_data(&self.exporter)),
            public_key: Some(self.public_key.clone()),
        }
    }
}

/// A parent that ends TLS itself, with these papers, and answers as it likes.
pub(crate) struct Liar {
    pub(crate) papers: Papers,
    pub(crate) versions: &'static [&'static rustls::SupportedProtocolVersion],
}

impl Liar {
    pub(crate) fn new() -> Liar {
        Liar {
            papers: papers(&rcgen::PKCS_ECDSA_P256_SHA256),
            versions: rustls::ALL_VERSIONS,
        }
    }

    /// What a client says whose question is answered with these bytes.
    pub(crate) async fn answers<F, A>(
        &self,
        connector: &Connector,
        answer: F,
    ) -> Result<Channel<DuplexStream>, ConnectError>
    where
        F: FnOnce(Asked) -> A + Send + 'static,
        A: Future<Output = Vec<u8>> + Send,
    {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![self.papers.certificate.clone()],
                self.papers.key.clone_key(),
            )
            .expect("papers");
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let public_key = self.papers.public_key.clone();
        let (client, server) = tokio::io::duplex(64 * 1024);
        let lying = tokio::spawn(async move {
            let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(server).await else {
                return;
            };
            let exporter = stream
                .get_ref()
                .1
                .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))
                .expect("an exporter value");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            let head = String::from_utf8(head).expect("a question");
            let nonce = head
                .strip_prefix("GET /.well-known/attestation?nonce=")
                .and_then(|rest| rest.split_once(' '))
                .expect("a question")
                .0;
            let nonce = (0..nonce.len() / 2)
                .map(|at| u8::from_str_radix(&nonce[2 * at..2 * at + 2], 16).expect("hex"))
                .collect();
            let asked = Asked {
                nonce,
                exporter,
                public_key,
            };
            let bytes = answer(asked).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Whatever a client says that believes it.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        let said = connector.connect("enclave.example", client).await;
        lying.abort();
        said
    }
}

/// A document as an HTTP answer.
pub(crate) fn http(document: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\ncontent-length: {}\r\n\r\n",
        document.len()
    )
    .into_bytes();
    bytes.extend_from_slice(document);
    bytes
}

/// By their stable names, why a document was not admitted.
pub(crate) fn differences(error: &ConnectError) -> Vec<&'static str> {
    match error {
        ConnectError::Refused(refusal) => refusal
            .differences
            .iter()
            .map(anchorhold_attestation::Difference::name)
            .collect(),
        other => panic!("not a refusal of a true document: {other}"),
    }
}

/// What a stranger uses who checks nothing: takes any certificate.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl Enclave {
    /// A channel of a stranger's, who checks nothing.
    pub(crate) async fn stranger(&self) -> tokio_rustls::client::TlsStream<DuplexStream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        let name = "enclave.example".try_into().expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, self.dial())
            .await
            .expect("a handshake")
    }

    /// The certificate that it shows to everybody.
    pub(crate) async fn certificate(&self) -> CertificateDer<'static> {
        let stream = self.stranger().await;
        let shown = stream
            .get_ref()
            .1
            .peer_certificates()
            .expect("a certificate");
        shown[0].clone().into_owned()
    }

    /// The document that a stranger gets for a nonce in hex.
    pub(crate) async fn ask_as_a_stranger(&self, nonce: &str) -> Vec<u8> {
        let mut stream = self.stranger().await;
        let question = format!(
            "GET /.well-known/attestation?nonce={nonce} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        stream
            .write_all(question.as_bytes())
            .await
            .expect("a question");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .expect("a length");
        let mut document = vec![0; length];
        stream.read_exact(&mut document).await.expect("a document");
        document
    }

    /// A connection in which one byte from the enclave is changed.
    pub(crate) fn dial_through_a_flip(&self, place: usize) -> DuplexStream {
        let (client, parent) = tokio::io::duplex(64 * 1024);
        let enclave = self.dial();
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = tokio::io::split(parent);
            let (mut from_enclave, mut to_enclave) = tokio::io::split(enclave);
            let up = async {
                let _ = tokio::io::copy(&mut from_client, &mut to_enclave).await;
                let _ = to_enclave.shutdown().await;
            };
            let down = async {
                let mut passed = 0;
                let mut buffer = [0; 512];
                while let Ok(count @ 1..) = from_enclave.read(&mut buffer).await {
                    if (passed..passed + count).contains(&place) {
                        buffer[place - passed] ^= 1;
                    }
                    passed += count;
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                let _ = to_client.shutdown().await;
            };
            tokio::join!(up, down);
        });
        client
    }
}

/// Signs with one key and shows the certificate of another.
#[derive(Debug)]
struct Mismatched(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Mismatched {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Liar {
    /// What a client says to a server whose key is not its certificate's.
    pub(crate) async fn mismatched(
        &self,
        connector: &Connector,
    ) -> Result<Channel<DuplexStream>, ConnectError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = provider
            .key_provider
            .load_private_key(self.papers.key.clone_key())
            .expect("a key");
        let shown = rustls::sign::CertifiedKey::new(vec![self.papers.certificate.clone()], key);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Mismatched(Arc::new(shown))));
        let (client, server) = tokio::io::duplex(64 * 1024);
        let serving = tokio::spawn(async move {
            let _ = TlsAcceptor::from(Arc::new(config)).accept(server).await;
        });
        let said = connector.connect("enclave.example", client).await;
        serving.abort();
        said
    }
}
