//! What the suite's doors have in common: a real enclave and another, ways to them, and parents that end TLS themselves.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anchorhold_attestation::Pcr;
use anchorhold_channel::EXPORTER_LABEL;
use anchorhold_client::{Anchor, BlockingChannel, ConnectError, Connector, Expectations, Protocol};
use anchorhold_manifest::TLS_PORT;
use anchorhold_parent::sandbox;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::{House, Running};

const MANIFEST: &str =
    "\n[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n[http]\nmax_body_bytes = 1073741824\n";

/// What clients would say to whoever they believe.
pub(crate) const SECRET: &[u8] = b"a secret";

/// An image of the job that echoes, under a name of its own.
pub(crate) fn image(house: &House, name: &str) -> PathBuf {
    house.image(
        "tests/whole/odd-job",
        &format!("[image]\nname = \"{name}\"{MANIFEST}"),
        &format!("{name}.eif"),
    )
}

/// An enclave of it that serves.
pub(crate) fn enclave<'a>(house: &'a House, image: &Path, name: &'static str) -> Running<'a> {
    let enclave = house.enclave(image, name, &[]);
    house.console_says(name, 0, "the job is ready");
    enclave
}

pub(crate) fn pcr0(house: &House, image: &Path) -> Pcr {
    house.measurements(image)["PCR0"].parse().expect("a PCR")
}

pub(crate) fn root_pem(house: &House) -> String {
    std::fs::read_to_string(house.path("development-root/root.pem")).expect("a root")
}

pub(crate) fn connector(house: &House, pcr0: Pcr) -> Connector {
    Connector::new(
        [Anchor::from_pem(&root_pem(house)).expect("an anchor")],
        Expectations::new().pcr(0, [pcr0]),
    )
}

/// What serves connections to a port of the loopback interface, each on a thread of its own, for as long as the tests run.
pub(crate) fn listening(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Carries bytes both ways until either side ends, as an honest parent does.
fn carry(client: TcpStream, enclave: std::os::unix::net::UnixStream) {
    let (mut up, mut inside) = (
        client.try_clone().expect("a handle"),
        enclave.try_clone().expect("a handle"),
    );
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut inside);
        let _ = inside.shutdown(Shutdown::Write);
    });
    let (mut down, mut outside) = (enclave, client);
    let _ = std::io::copy(&mut down, &mut outside);
    let _ = outside.shutdown(Shutdown::Both);
    let _ = down.shutdown(Shutdown::Both);
}

/// A port that leads to the enclave in this folder.
pub(crate) fn honest(folder: PathBuf) -> u16 {
    listening(move |client| {
        if let Ok(enclave) = sandbox::connect(&folder, TLS_PORT) {
            let _ = client.set_nodelay(true);
            carry(client, enclave);
        }
    })
}

/// A channel straight to an enclave's port.
pub(crate) fn straight(
    connector: &Connector,
    folder: &Path,
) -> Result<BlockingChannel<std::os::unix::net::UnixStream>, ConnectError> {
    let stream = sandbox::connect(folder, TLS_PORT).expect("the enclave's port");
    connector
        .clone()
        .protocol(Protocol::Http1)
        .connect_blocking("enclave.invalid", stream)
}

/// What an enclave answers to this nonce (in hex) on a channel of the parent's own.
pub(crate) fn asked_by_the_parent(connector: &Connector, folder: &Path, nonce: &str) -> Vec<u8> {
    let mut channel = straight(connector, folder).expect("an honest channel");
    let question = format!(
        "GET /.well-known/attestation?nonce={nonce} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n"
    );
    channel.write_all(question.as_bytes()).expect("a question");
    let mut answer = Vec::new();
    channel.read_to_end(&mut answer).expect("an answer");
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head");
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer.split_off(end + 4)
}

/// A key with a certificate.
pub(crate) struct Papers {
    pub(crate) certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub(crate) public_key: Vec<u8>,
}

impl Papers {
    pub(crate) fn new() -> Papers {
        use rcgen::PublicKeyData as _;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let made = rcgen::CertificateParams::new(vec!["enclave.invalid".to_owned()])
            .expect("a name")
            .self_signed(&key)
            .expect("a certificate");
        Papers {
            certificate: made.der().clone(),
            public_key: key.subject_public_key_info(),
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }
}

/// A key that somebody else has, as it stands in a certificate.
struct Foreign(Vec<u8>);

impl rcgen::PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A certificate for the P-256 key with this `SubjectPublicKeyInfo`, made by who does not have it.
pub(crate) fn certificate_for(public_key: &[u8]) -> CertificateDer<'static> {
    let name =
        || rcgen::CertificateParams::new(vec!["enclave.invalid".to_owned()]).expect("a name");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let issuer = rcgen::Issuer::new(name(), key);
    // Its point is the end of it: 65 bytes.
    let point = Foreign(public_key[public_key.len() - 65..].to_vec());
    let made = name().signed_by(&point, &issuer).expect("a certificate");
    made.der().clone()
}

#[derive(Debug)]
struct Shown(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// What a liar knows when it has to answer.
pub(crate) struct Asked {
    /// The client's, in hex.
    pub(crate) nonce: String,
    /// Of the channel between client and liar.
    pub(crate) exporter: [u8; 32],
    /// The liar's own.
    pub(crate) public_key: Vec<u8>,
}

/// What a liar answers.
pub(crate) struct Said {
    pub(crate) bytes: Vec<u8>,
    /// And then it hangs up.
    pub(crate) last: bool,
}

/// A document as an HTTP answer.
pub(crate) fn http(document: &[u8]) -> Said {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\ncontent-length: {}\r\n\r\n",
        document.len()
    );
    Said {
        bytes: [head.as_bytes(), document].concat(),
        last: false,
    }
}

/// A parent that ends TLS itself.
pub(crate) struct Liar {
    pub(crate) port: u16,
    /// Handshakes that clients finished.
    pub(crate) asked: Arc<AtomicUsize>,
    /// What clients said after the answer. To a liar: nothing.
    pub(crate) heard: Arc<Mutex<Vec<u8>>>,
}

impl Liar {
    /// Shows this certificate, signs with the key of `papers`, speaks these versions, and answers questions so.
    pub(crate) fn with(
        papers: Papers,
        certificate: CertificateDer<'static>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        answer: impl Fn(&Asked) -> Said + Send + Sync + 'static,
    ) -> Liar {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = provider
            .key_provider
            .load_private_key(papers.key.clone_key())
            .expect("a key");
        let shown = rustls::sign::CertifiedKey::new(vec![certificate], key);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::new(shown))));
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let config = Arc::new(config);
        let (asked, heard) = (
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<u8>>>::default(),
        );
        let (counted, listened) = (Arc::clone(&asked), Arc::clone(&heard));
        let port = listening(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("TLS");
            let mut stream = StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let exporter = stream
                .conn
                .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))
                .expect("an exporter value");
            let head = String::from_utf8(head).expect("a question");
            let nonce = head
                .strip_prefix("GET /.well-known/attestation?nonce=")
                .and_then(|rest| rest.split_once(' '))
                .unwrap_or_else(|| panic!("no question: {head}"))
                .0;
            let asked = Asked {
                nonce: nonce.to_owned(),
                exporter,
                public_key: papers.public_key.clone(),
            };
            let said = answer(&asked);
            let _ = stream.write_all(&said.bytes);
            let _ = stream.flush();
            if said.last {
                let _ = stream.sock.shutdown(Shutdown::Write);
            }
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let mut heard = listened.lock().expect("no test panics with it");
                heard.extend_from_slice(&buffer[..count]);
                if heard.ends_with(SECRET) {
                    // For who believes it.
                    let _ = stream.write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlied",
                    );
                    let _ = stream.flush();
                    return;
                }
            }
        });
        Liar { port, asked, heard }
    }

    /// With papers of its own and TLS 1.3.
    pub(crate) fn new(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Liar {
        let papers = Papers::new();
        let certificate = papers.certificate.clone();
        Liar::with(papers, certificate, &[&rustls::version::TLS13], answer)
    }
}
