//! The parent stands between a client and the enclave, ends TLS itself, and brings the enclave's own documents, those of
//! another enclave, or old ones. The client gets no channel, and the job hears nothing.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anchorhold_attestation::Difference;
use anchorhold_channel::{EXPORTER_LABEL, user_data};
use anchorhold_client::{Anchor, BlockingChannel, ConnectError, Connector, Expectations, Protocol};
use anchorhold_images::Image;
use anchorhold_manifest::TLS_PORT;
use anchorhold_parent::client::{Client, ClientError};
use anchorhold_parent::sandbox;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::House;
use crate::stage::{block_on, programs};

fn image(house: &House, name: &str) -> PathBuf {
    let manifest =
        format!("[image]\nname = \"{name}\"\n[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n");
    crate::stage::pack(house, &programs().job, &manifest, &format!("{name}.eif"))
}

/// A client that wants this image, under the house's root.
fn connector(house: &House, image: &Path) -> Connector {
    let root = std::fs::read_to_string(house.path("development-root/root.pem")).expect("a root");
    let measured = *Image::open(image).expect("an image").measurements();
    Connector::new(
        [Anchor::from_pem(&root).expect("an anchor")],
        Expectations::new().pcr(0, [measured.pcr0]),
    )
    .protocol(Protocol::Http1)
}

fn folder(house: &House, name: &str) -> PathBuf {
    house.path("enclaves").join(name)
}

/// A channel straight to an enclave's port.
fn straight(
    connector: &Connector,
    folder: &Path,
) -> Result<BlockingChannel<std::os::unix::net::UnixStream>, ConnectError> {
    let stream = sandbox::connect(folder, TLS_PORT).expect("the enclave's port");
    connector.connect_blocking("enclave.invalid", stream)
}

fn differences(error: &ConnectError) -> Vec<&'static str> {
    match error {
        ConnectError::Refused(refusal) => {
            refusal.differences.iter().map(Difference::name).collect()
        }
        other => panic!("not a refusal of a true document: {other}"),
    }
}

/// What the client says to a parent that ends TLS itself and answers its question with what `lie` makes of the nonce (in
/// hex) and the exporter value of their channel.
fn through_a_liar(
    connector: &Connector,
    lie: impl FnOnce(&str, &[u8; 32]) -> Vec<u8> + Send,
) -> Result<(), ConnectError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let papers = rcgen::CertificateParams::new(vec!["enclave.invalid".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![papers.der().clone()], private)
        .expect("papers");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (stream, _) = listener.accept().expect("the client");
            let connection = ServerConnection::new(Arc::new(config)).expect("TLS");
            let mut stream = StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("a question");
                head.push(byte[0]);
            }
            let exporter = stream
                .conn
                .export_keying_material([0; 32], EXPORTER_LABEL, Some(&[]))
                .expect("an exporter value");
            let head = String::from_utf8(head).expect("a question");
            let nonce = head
                .split_once("nonce=")
                .and_then(|(_, rest)| rest.split_once(' '))
                .expect("a nonce")
                .0;
            let document = lie(nonce, &exporter);
            let length = document.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(&[head.as_bytes(), &document].concat());
            let _ = stream.flush();
            let _ = stream.sock.shutdown(Shutdown::Write);
            // Whatever a client would say that believes it.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty(), "the client went on talking");
        });
        let stream = TcpStream::connect(address).expect("a connection");
        connector
            .connect_blocking("enclave.invalid", stream)
            .map(drop)
    })
}

/// What an enclave answers on a channel of the parent's own, which takes whatever image answers.
fn asked_by_the_parent(house: &House, image: &Path, folder: &Path, nonce: &str) -> Vec<u8> {
    let mut channel = straight(&connector(house, image), folder).expect("an honest channel");
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

#[test]
fn a_parent_that_ends_tls_itself_finds_no_document_that_fits() {
    let house = House::new();
    let image = image(&house, "wanted");
    let _one = house.enclave(&image, "one", &[]);
    let _two = house.enclave(&image, "two", &[]);
    let client = connector(&house, &image);
    for name in ["one", "two"] {
        straight(&client, &folder(&house, name)).expect("an honest channel");
    }

    // The document of the enclave's own, or of another enclave of the same image, for this very nonce: the key and the
    // channel are the parent's.
    for name in ["one", "two"] {
        let error = through_a_liar(&client, |nonce, _| {
            asked_by_the_parent(&house, &image, &folder(&house, name), nonce)
        })
        .expect_err("another channel's document");
        assert_eq!(differences(&error), ["public-key", "user-data"]);
    }

    // An old one.
    let old = asked_by_the_parent(&house, &image, &folder(&house, "one"), &"07".repeat(32));
    let error = through_a_liar(&client, |_, _| old).expect_err("an old document");
    assert_eq!(differences(&error), ["nonce", "public-key", "user-data"]);

    // One that the control port gives for whatever nonce and user data the parent likes: what channels say, it does not.
    let control = Client::new(&folder(&house, "one"));
    let error = through_a_liar(&client, |nonce, exporter| {
        let nonce = hex::decode(nonce).expect("hex");
        let reserved = block_on(control.attest(Some(&nonce), Some(&user_data(exporter)), false));
        assert!(
            matches!(reserved, Err(ClientError::Enclave { status: 400, .. })),
            "{reserved:?}"
        );
        block_on(control.attest(Some(&nonce), Some(exporter), true)).expect("a document")
    })
    .expect_err("a document of the control port");
    assert_eq!(differences(&error), ["public-key", "user-data"]);

    // Cut short.
    let error = through_a_liar(&client, |nonce, _| {
        let mut document = asked_by_the_parent(&house, &image, &folder(&house, "one"), nonce);
        document.truncate(document.len() - 1);
        document
    })
    .expect_err("a document that was cut");
    assert!(matches!(error, ConnectError::Form(_)), "{error}");
}

#[test]
fn a_parent_that_leads_to_an_enclave_of_another_image_is_seen() {
    let house = House::new();
    let (wanted, other) = (image(&house, "wanted"), image(&house, "other"));
    let _other = house.enclave(&other, "other", &[]);
    straight(&connector(&house, &other), &folder(&house, "other")).expect("its own image");
    let error =
        straight(&connector(&house, &wanted), &folder(&house, "other")).expect_err("another image");
    assert_eq!(differences(&error), ["pcr"]);
}

#[test]
fn what_an_enclave_said_to_another_client_is_worth_nothing_when_it_is_said_again() {
    let house = House::new();
    let image = image(&house, "wanted");
    let _enclave = house.enclave(&image, "one", &[]);
    let client = connector(&house, &image);

    // A parent that writes down all that the enclave says.
    let inside = sandbox::connect(&folder(&house, "one"), TLS_PORT).expect("the enclave's port");
    let (ours, parents) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let (mut up, mut down) = (parents.try_clone().expect("a handle"), parents);
    let mut inwards = inside.try_clone().expect("a handle");
    let carrying = std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut inwards);
        let _ = inwards.shutdown(Shutdown::Write);
    });
    let recording = std::thread::spawn(move || {
        let mut inside = inside;
        let mut recorded = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = inside.read(&mut buffer) {
            recorded.extend_from_slice(&buffer[..count]);
            let _ = down.write_all(&buffer[..count]);
        }
        let _ = down.shutdown(Shutdown::Both);
        recorded
    });
    let mut channel = client
        .connect_blocking("enclave.invalid", ours)
        .expect("an honest channel");
    let _ = channel.close();
    let _ = channel.stream().shutdown(Shutdown::Write);
    let mut rest = Vec::new();
    let _ = channel.read_to_end(&mut rest);
    drop(channel);
    carrying.join().expect("the way in");
    let recorded = recording.join().expect("the record");
    assert!(recorded.len() > 4000, "{} bytes", recorded.len());

    let (ours, mut parents) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let replaying = std::thread::spawn(move || {
        let _ = parents.write_all(&recorded);
        let _ = parents.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut parents, &mut std::io::sink());
    });
    let error = client
        .connect_blocking("enclave.invalid", ours)
        .expect_err("a replay");
    assert!(
        matches!(error, ConnectError::Tls(_) | ConnectError::Io(_)),
        "{error}"
    );
    replaying.join().expect("the replay");
}
