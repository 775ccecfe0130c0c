//! A server that speaks TLS and the key service's protocol, and answers what a test likes; and certificates for it.
//!
//! It notes what it hears in the clear: whoever believes its certificate tells it everything.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anchorhold_attestation::Unverified;
use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Limits, SealOptions, new_message_id,
};
use anchorhold_kms::config::DEV_REGION;
use anchorhold_kms_wire::recipient;
use anchorhold_kms_wire::shapes::{DecryptRequest, GenerateDataKeyRequest, RecipientInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::common::House;
use crate::hostile_parent::lock;
use crate::stage::{KEY, RESOURCES, pack, programs};

/// A certificate authority that anybody can make, with whatever name.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate chain and its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for a name or address.
    pub(crate) fn certify(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.use_authority_key_identifier_extension = true;
        self.sign(&params)
    }

    /// One that was valid once.
    pub(crate) fn certify_for_the_past(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign(&params)
    }

    /// One that is valid for a month before and after a moment, and not beyond.
    pub(crate) fn certify_around(&self, name: &str, moment: SystemTime) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        let month = Duration::from_hours(24 * 30);
        params.not_before = (moment - month).into();
        params.not_after = (moment + month).into();
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }
}

/// What a false service has heard.
#[derive(Default)]
pub(crate) struct Heard {
    /// Connections accepted.
    pub(crate) connections: usize,
    /// How those ended that did not come to a request.
    pub(crate) failures: Vec<String>,
    /// All that came out of TLS.
    pub(crate) plaintext: Vec<u8>,
}

/// What is answered to an operation with this body.
type Answer = dyn Fn(&str, &[u8]) -> Value + Send + Sync;

/// The server. It listens until the tests end.
pub(crate) struct FalseService {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

impl FalseService {
    pub(crate) fn start(
        identity: Identity,
        answer: impl Fn(&str, &[u8]) -> Value + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .expect("a certificate and its key");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let notes = Arc::clone(&heard);
        let answer: Arc<Answer> = Arc::new(answer);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                lock(&notes).connections += 1;
                let connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
                let (notes, answer) = (Arc::clone(&notes), Arc::clone(&answer));
                std::thread::spawn(move || {
                    if let Err(error) =
                        serve(StreamOwned::new(connection, stream), &notes, &*answer)
                    {
                        lock(&notes).failures.push(error.to_string());
                    }
                });
            }
        });
        Self { address, heard }
    }

    /// What it has heard, in the order in which it heard it.
    pub(crate) fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&lock(&self.heard))
    }
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn serve(mut stream: Tls, notes: &Mutex<Heard>, answer: &Answer) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let (operation, head, length) = loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
                let value = |name: &str| {
                    head.lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|value| value.trim().to_owned())
                };
                let length: usize = value("content-length:")
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                break (value("x-amz-target:").unwrap_or_default(), end + 4, length);
            }
            if read(&mut stream, &mut received, notes)? == 0 {
                return Ok(());
            }
        };
        while received.len() < head + length {
            if read(&mut stream, &mut received, notes)? == 0 {
                return Ok(());
            }
        }
        let body = answer(&operation, &received[head..head + length]).to_string();
        received.drain(..head + length);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        stream.flush()?;
    }
}

fn read(stream: &mut Tls, received: &mut Vec<u8>, notes: &Mutex<Heard>) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer)?;
    received.extend_from_slice(&buffer[..count]);
    lock(notes).plaintext.extend_from_slice(&buffer[..count]);
    Ok(count)
}

/// How a service that has the right certificate answers.
#[derive(Clone)]
pub(crate) enum Manner {
    /// With an envelope for the enclave that the document names.
    Envelope,
    /// With a plaintext, as services do that ignore `Recipient`.
    Plaintext,
    /// With both.
    Both,
    /// With neither.
    Neither,
    /// With an envelope for another RSA key (SPKI DER).
    EnvelopeFor(Vec<u8>),
    /// With bytes that are no envelope.
    Garbage,
}

const INPUT_KEY: [u8; 32] = [0x11; 32];
const RESULT_KEY: [u8; 32] = [0x22; 32];

/// A key service that an image's manifest names and whose CA it pins, but which may be wrong in itself. Its two data keys
/// are known to the test.
pub(crate) struct PinnedService {
    pub(crate) service: FalseService,
    manner: Arc<Mutex<Manner>>,
    decrypt_only: Arc<Mutex<bool>>,
    pub(crate) image: std::path::PathBuf,
}

impl PinnedService {
    /// Starts the service and packs an image that believes it.
    pub(crate) fn start(house: &House) -> Self {
        Self::under(house, &Authority::named("the image's own"))
    }

    /// The same, under this authority.
    pub(crate) fn under(house: &House, authority: &Authority) -> Self {
        Self::with(house, authority, authority.certify("127.0.0.1"))
    }

    /// The same, with this certificate.
    pub(crate) fn with(house: &House, authority: &Authority, identity: Identity) -> Self {
        let manner = Arc::new(Mutex::new(Manner::Envelope));
        let decrypt_only = Arc::new(Mutex::new(false));
        let (said, only) = (Arc::clone(&manner), Arc::clone(&decrypt_only));
        let service = FalseService::start(identity, move |operation, body| {
            let manner = lock(&said).clone();
            if operation.ends_with(".decrypt") {
                let request: DecryptRequest = serde_json::from_slice(body).expect("a Decrypt");
                respond(&manner, &INPUT_KEY, request.recipient.as_ref())
            } else {
                assert!(operation.ends_with(".generatedatakey"), "{operation}");
                let request: GenerateDataKeyRequest =
                    serde_json::from_slice(body).expect("a GenerateDataKey");
                let manner = if *lock(&only) {
                    Manner::Envelope
                } else {
                    manner
                };
                respond(&manner, &RESULT_KEY, request.recipient.as_ref())
            }
        });
        house.write("pinned.pem", authority.pem());
        let manifest = format!(
            "[job]\ncommand = [\"/job\"]\n\n[key_service]\nendpoint = \"https://{}\"\nca = \"pinned.pem\"\nkey = \"{KEY}\"\nregion = \"{DEV_REGION}\"\n\n{RESOURCES}",
            service.address
        );
        Self {
            image: pack(house, &programs().job, &manifest, "pinned.eif"),
            service,
            manner,
            decrypt_only,
        }
    }

    /// Answers `Decrypt` and `GenerateDataKey` in this manner from now on.
    pub(crate) fn answers(&self, manner: Manner) {
        *lock(&self.manner) = manner;
        *lock(&self.decrypt_only) = false;
    }

    /// Answers `Decrypt` in this manner from now on, and `GenerateDataKey` as it should.
    pub(crate) fn answers_decrypt(&self, manner: Manner) {
        self.answers(manner);
        *lock(&self.decrypt_only) = true;
    }
}

fn respond(manner: &Manner, key: &[u8], recipient: Option<&RecipientInfo>) -> Value {
    let document = recipient.and_then(|recipient| recipient.attestation_document.as_ref());
    let document =
        Unverified::parse(&document.expect("a Recipient with a document").0).expect("a document");
    let public_key = document
        .claimed()
        .public_key()
        .expect("a public key")
        .to_vec();
    let envelope =
        |public_key: &[u8]| STANDARD.encode(recipient::seal(public_key, key).expect("an envelope"));
    let mut answer = json!({
        "KeyId": key_arn(),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "CiphertextBlob": STANDARD.encode([7; 64]),
    });
    let fields = match manner {
        Manner::Envelope => json!({ "CiphertextForRecipient": envelope(&public_key) }),
        Manner::Plaintext => json!({ "Plaintext": STANDARD.encode(key) }),
        Manner::Both => {
            json!({ "CiphertextForRecipient": envelope(&public_key), "Plaintext": STANDARD.encode(key) })
        }
        Manner::Neither => json!({}),
        Manner::EnvelopeFor(other) => json!({ "CiphertextForRecipient": envelope(other) }),
        Manner::Garbage => json!({ "CiphertextForRecipient": STANDARD.encode([0x30; 400]) }),
    };
    for (name, value) in fields.as_object().expect("an object") {
        answer[name] = value.clone();
    }
    answer
}

fn key_arn() -> String {
    format!("arn:aws:kms:{DEV_REGION}:111122223333:key/00000000-0000-4000-8000-000000000000")
}

/// Seals for a pinned service's image.
pub(crate) fn seal_for_pinned(plaintext: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let encrypted = EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: key_arn(),
        ciphertext: vec![9; 64],
    };
    let options = SealOptions::new(EncryptionContext::new(), vec![encrypted]);
    let id = new_message_id().expect("randomness");
    anchorhold_envelope::seal(
        plaintext,
        &mut message,
        options,
        None,
        data_key(&INPUT_KEY),
        id,
    )
    .expect("a message");
    message
}

/// Opens a result of a pinned service's image.
pub(crate) fn open_from_pinned(message: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::new();
    anchorhold_envelope::open(message, &mut plaintext, &Limits::default(), |_| {
        Ok::<_, std::convert::Infallible>(data_key(&RESULT_KEY))
    })
    .expect("a result");
    plaintext
}

fn data_key(bytes: &[u8]) -> DataKey {
    DataKey::from_vec(Zeroizing::new(bytes.to_vec())).expect("32 bytes")
}
