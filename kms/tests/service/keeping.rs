//! What its keeper does with a running service: certificates, quotas, health, metrics, the end.

use crate::{World, pairs, plain_config, refused};
use anchorhold_kms::config::{Argon2Cost, Quotas, RootKey, SecretSource, Transport};
use anchorhold_kms::{Config, RootKeyError, Service, StartError};
use anchorhold_kms_wire::client::{Client, Endpoint, Fixed, Limits, Tcp, TlsTrust};
use anchorhold_kms_wire::shapes::{Blob, CreateKeyRequest, DecryptRequest, GenerateRandomRequest};
use anchorhold_kms_wire::sigv4::Credentials;
use rcgen::{CertificateParams, KeyPair};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

fn random() -> GenerateRandomRequest {
    GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    }
}

async fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_and_metrics_are_on_a_listener_of_their_own_and_name_nobody() {
    let world = World::with(|config| {
        config.metrics = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let monitor = world.running.monitor_addr().unwrap();
    let key = world.key(None).await;
    world.ciphertext(&key, b"x", pairs(&[])).await;
    refused(
        &world.host(),
        &CreateKeyRequest::default(),
        "AccessDeniedException",
    )
    .await;
    assert!(ask(monitor, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(monitor, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(monitor, "/other").await.starts_with("HTTP/1.1 404"));
    let metrics = ask(monitor, "/metrics").await;
    for line in [
        "anchorhold_kms_requests_total{operation=\"Encrypt\",outcome=\"answered\"} 1",
        "anchorhold_kms_requests_total{operation=\"CreateKey\",outcome=\"refused\"} 1",
        "anchorhold_kms_refusals_total{reason=\"policy\"} 1",
        "anchorhold_kms_request_seconds_count{operation=\"Encrypt\"} 1",
        "anchorhold_kms_connections ",
        "anchorhold_kms_store_commits 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let id = key.rsplit('/').next().unwrap();
    for name in [id, "111122223333", "AKID", "owner", "127.0.0.1"] {
        assert!(!metrics.contains(name), "{name}");
    }
    // The service's own port has none of it.
    let answer = ask(world.running.local_addr(), "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn who_exceeds_a_quota_is_throttled_in_the_words_of_aws_and_others_are_not() {
    let world = World::with(|config| {
        config.quotas = Quotas {
            symmetric: Some(3),
            ..Quotas::default()
        };
    })
    .await;
    let owner = world.owner();
    world.clock.stop();
    for _ in 0..3 {
        owner.call(&random()).await.unwrap();
    }
    let message = refused(&owner, &random(), "ThrottlingException").await;
    assert_eq!(
        message,
        "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
    );
    assert_eq!(
        world.audit().last().unwrap()["errorCode"],
        "ThrottlingException"
    );
    // Another class has a quota of its own, or none.
    world.key(None).await;
    world.clock.forward(Duration::from_secs(1));
    owner.call(&random()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_backs_off_gets_through_a_quota() {
    let world = World::with(|config| {
        config.quotas = Quotas {
            symmetric: Some(4),
            ..Quotas::default()
        };
    })
    .await;
    let patient = Arc::new(world.owner().with_limits(Limits {
        attempts: 20,
        ..Limits::default()
    }));
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = Arc::clone(&patient);
            tokio::spawn(async move { client.call(&random()).await.map(drop) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let throttled = |line: &serde_json::Value| line["errorCode"] == "ThrottlingException";
    assert!(world.audit().iter().any(throttled));
}

/// A certificate for 127.0.0.1 that signs itself, and its files.
fn certificate(folder: &Path, years: (i32, i32)) -> (PathBuf, PathBuf, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    let (certificate, private) = (folder.join("server.pem"), folder.join("server.key"));
    std::fs::write(&certificate, &pem).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
    (certificate, private, pem)
}

fn trusting(url: &str, pem: &str) -> Client<Tcp, Fixed> {
    let endpoint = Endpoint {
        url: url.to_owned(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::Ca(pem.to_owned()),
    };
    let secret = Zeroizing::new("anchorhold-owner-secret-for-development-only".to_owned());
    let credentials = Fixed::new(Credentials::new("AKIDANCHORHOLDOWNER0", secret));
    Client::new(&endpoint, Tcp, credentials)
        .unwrap()
        .with_limits(Limits {
            attempts: 1,
            ..Limits::default()
        })
}

const GOOD: (i32, i32) = (2020, 2090);

#[tokio::test]
async fn a_new_certificate_is_taken_and_a_bad_one_leaves_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key, first) = certificate(folder.path(), GOOD);
    let mut config = Config::dev(&folder.path().join("state"), Vec::new());
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.transport = Transport::Tls {
        certificate: path.clone(),
        key: key.clone(),
    };
    let running = Service::start(config).await.unwrap();
    let url = running.url();
    let old_connection = trusting(&url, &first);
    old_connection.call(&random()).await.unwrap();

    std::fs::write(&path, "nonsense").unwrap();
    assert!(running.reload_certificates().is_err());
    trusting(&url, &first).call(&random()).await.unwrap();
    // One that is not valid any more.
    certificate(folder.path(), (2010, 2011));
    let error = running.reload_certificates().unwrap_err().to_string();
    assert!(error.contains("2011"), "{error}");
    trusting(&url, &first).call(&random()).await.unwrap();
    // One whose key is another's.
    let elsewhere = tempfile::tempdir().unwrap();
    let (_, private, second) = certificate(elsewhere.path(), GOOD);
    std::fs::write(&path, &second).unwrap();
    assert!(running.reload_certificates().is_err());
    trusting(&url, &first).call(&random()).await.unwrap();

    std::fs::copy(private, &key).unwrap();
    running.reload_certificates().unwrap();
    trusting(&url, &second).call(&random()).await.unwrap();
    assert!(trusting(&url, &first).call(&random()).await.is_err());
    // Connections that run go on.
    old_connection.call(&random()).await.unwrap();

    // Files that change are noticed without being told.
    let (_, _, third) = certificate(folder.path(), GOOD);
    let until = SystemTime::now() + Duration::from_secs(60);
    while trusting(&url, &third).call(&random()).await.is_err() {
        assert!(
            SystemTime::now() < until,
            "the new certificate was not noticed"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.shutdown().await;
}

fn passphrase(folder: &Path, text: &str) -> RootKey {
    let path = folder.join(format!("{}.passphrase", text.len()));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    RootKey::Passphrase {
        from: SecretSource::File(path),
        cost: Argon2Cost {
            memory_kib: 8192,
            passes: 1,
            lanes: 1,
        },
    }
}

fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_wrong_passphrase_keeps_the_service_from_starting_and_changes_no_byte_of_its_folder() {
    let secrets = tempfile::tempdir().unwrap();
    let (right, wrong) = (
        passphrase(secrets.path(), "right words"),
        passphrase(secrets.path(), "wrong"),
    );
    let world = World::with(|config| config.root_key = right.clone()).await;
    let key = world.key(None).await;
    let ciphertext = world.ciphertext(&key, b"kept", pairs(&[])).await;
    let (folder, anchor) = (world.folder, world.root.anchor());
    world.running.shutdown().await;
    let before = content(folder.path());
    assert!(before.iter().all(|(path, _)| !path.ends_with("root.key")));
    for root_key in [wrong, RootKey::InState] {
        let mut config = plain_config(folder.path(), anchor.clone());
        config.root_key = root_key;
        let outcome = Service::start(config).await;
        assert!(matches!(
            outcome.err(),
            Some(StartError::RootKey(
                RootKeyError::Wrong(_) | RootKeyError::OtherKind { .. }
            ))
        ));
        assert_eq!(content(folder.path()), before);
    }
    // Another root key for the same store.
    let third = passphrase(secrets.path(), "a third passphrase");
    anchorhold_kms::rewrap_store(folder.path(), &right, &third).unwrap();
    let mut config = plain_config(folder.path(), anchor);
    config.root_key = third;
    let running = Service::start(config).await.unwrap();
    let endpoint = Endpoint {
        url: running.url(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::PlainHttp,
    };
    let secret = Zeroizing::new("anchorhold-owner-secret-for-development-only".to_owned());
    let credentials = Fixed::new(Credentials::new("AKIDANCHORHOLDOWNER0", secret));
    let client = Client::new(&endpoint, Tcp, credentials).unwrap();
    let request = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    let answer = client.call(&request).await.unwrap();
    assert_eq!(answer.plaintext.unwrap().expose(), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_holds_what_was_acknowledged_before_it() {
    let world = World::new().await;
    let key = world.key(None).await;
    let ciphertext = world.ciphertext(&key, b"kept", pairs(&[])).await;
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let owner = world.owner();
            tokio::spawn(async move {
                loop {
                    owner.call(&CreateKeyRequest::default()).await.unwrap();
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let target = world.folder.path().join("backup");
    let (state, to) = (world.folder.path().to_owned(), target.clone());
    tokio::task::spawn_blocking(move || anchorhold_kms::backup(&state, &to))
        .await
        .unwrap()
        .unwrap();
    for writer in writers {
        writer.abort();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let restored = elsewhere.path().join("state");
    std::fs::create_dir(&restored).unwrap();
    std::fs::copy(
        world.folder.path().join("root.key"),
        restored.join("root.key"),
    )
    .unwrap();
    anchorhold_kms::restore(&target, &restored, &RootKey::InState).unwrap();
    let running = Service::start(plain_config(&restored, world.root.anchor()))
        .await
        .unwrap();
    let world = World {
        folder: elsewhere,
        running,
        ..world
    };
    let request = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    let answer = world.owner().call(&request).await.unwrap();
    assert_eq!(answer.plaintext.unwrap().expose(), b"kept");
}

#[tokio::test]
async fn at_the_end_a_request_that_runs_is_answered_and_its_connection_closed() {
    let world = World::new().await;
    let address = world.running.local_addr();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let end = tokio::spawn(world.running.shutdown());
    // Nobody new is let in.
    let until = SystemTime::now() + Duration::from_secs(120);
    while TcpStream::connect(address).await.is_ok() {
        assert!(SystemTime::now() < until, "connections are still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    end.await.unwrap();
}
