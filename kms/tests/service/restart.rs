//! What stays, and what keeps the service from starting.

use crate::{World, pairs, plain_config};
use anchorhold_kms::config::Transport;
use anchorhold_kms::{Config, RootKeyError, Service, StartError, StateError};
use anchorhold_kms_wire::client::{Client, ClientError, Endpoint, Fixed, Tcp, TlsTrust};
use anchorhold_kms_wire::shapes::{
    Blob, CreateAliasRequest, DecryptRequest, GenerateRandomRequest,
};
use anchorhold_kms_wire::sigv4::Credentials;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use zeroize::Zeroizing;

#[tokio::test]
async fn keys_aliases_and_policies_survive_a_restart() {
    let world = World::new().await;
    let key = world.key(None).await;
    let alias = CreateAliasRequest {
        alias_name: "alias/a".to_owned(),
        target_key_id: key.clone(),
    };
    world.owner().call(&alias).await.unwrap();
    let ciphertext = world.ciphertext("alias/a", b"kept", pairs(&[])).await;
    let world = world.restarted().await;
    let request = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        key_id: Some("alias/a".to_owned()),
        ..DecryptRequest::default()
    };
    let answer = world.owner().call(&request).await.unwrap();
    assert_eq!(answer.plaintext.unwrap().expose(), b"kept");
    assert_eq!(answer.key_id, key);
}

#[tokio::test]
async fn a_wrong_or_missing_root_key_keeps_the_service_from_starting_and_changes_nothing() {
    let world = World::new().await;
    world.key(None).await;
    let (folder, anchor) = (world.folder, world.root.anchor());
    world.running.shutdown().await;
    let store = folder.path().join("store.redb");
    let root_key = folder.path().join("root.key");
    let before = std::fs::read(&store).unwrap();
    let right = std::fs::read(&root_key).unwrap();
    std::fs::write(&root_key, "00".repeat(32)).unwrap();
    let outcome = Service::start(plain_config(folder.path(), anchor.clone())).await;
    assert!(matches!(
        outcome.err(),
        Some(StartError::RootKey(RootKeyError::Wrong(_)))
    ));
    std::fs::remove_file(&root_key).unwrap();
    let outcome = Service::start(plain_config(folder.path(), anchor.clone())).await;
    assert!(matches!(
        outcome.err(),
        Some(StartError::RootKey(RootKeyError::State(
            StateError::RootKeyMissing(_)
        )))
    ));
    assert!(!root_key.exists());
    assert_eq!(std::fs::read(&store).unwrap(), before);
    std::fs::write(&root_key, right).unwrap();
    std::fs::set_permissions(&root_key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(
        Service::start(plain_config(folder.path(), anchor))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_second_service_on_the_same_folder_is_refused() {
    let world = World::new().await;
    let outcome = Service::start(plain_config(world.folder.path(), world.root.anchor())).await;
    assert!(matches!(
        outcome.err(),
        Some(StartError::State(StateError::Locked(_)))
    ));
}

#[tokio::test]
async fn without_tls_only_loopback_addresses_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::dev(folder.path(), Vec::new());
    config.transport = Transport::PlainHttp;
    config.listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(
        Service::start(config).await.err(),
        Some(StartError::PlainHttpBeyondLoopback(_))
    ));
}

async fn call_over_tls(url: &str, ca: &str) -> Result<(), ClientError> {
    let endpoint = Endpoint {
        url: url.to_owned(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::Ca(ca.to_owned()),
    };
    let secret = Zeroizing::new("anchorhold-owner-secret-for-development-only".to_owned());
    let credentials = Fixed::new(Credentials::new("AKIDANCHORHOLDOWNER0", secret));
    let client = Client::new(&endpoint, Tcp, credentials).unwrap();
    let request = GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..GenerateRandomRequest::default()
    };
    client.call(&request).await.map(|_| ())
}

#[tokio::test]
async fn the_development_certificates_are_made_once_private_and_good_for_localhost() {
    let folder = tempfile::tempdir().unwrap();
    let start = || async {
        let mut config = Config::dev(folder.path(), Vec::new());
        config.listen = "127.0.0.1:0".parse().unwrap();
        Service::start(config).await
    };
    let running = start().await.unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let ca = read("ca.pem");
    let port = running.local_addr().port();
    for host in ["127.0.0.1", "localhost"] {
        call_over_tls(&format!("https://{host}:{port}"), &ca)
            .await
            .unwrap();
    }
    let stranger = tempfile::tempdir().unwrap();
    let mut config = Config::dev(stranger.path(), Vec::new());
    config.listen = "127.0.0.1:0".parse().unwrap();
    let other = Service::start(config).await.unwrap();
    let other_ca = std::fs::read_to_string(stranger.path().join("ca.pem")).unwrap();
    assert!(call_over_tls(&running.url(), &other_ca).await.is_err());
    other.shutdown().await;

    running.shutdown().await;
    for private in ["server.key", "root.key", "store.redb", "audit.ndjson"] {
        let mode = std::fs::metadata(folder.path().join(private))
            .unwrap()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600, "{private}");
    }
    let running = start().await.unwrap();
    assert_eq!(read("ca.pem"), ca);
    call_over_tls(&running.url(), &ca).await.unwrap();
    running.shutdown().await;

    std::fs::remove_file(folder.path().join("server.key")).unwrap();
    assert!(matches!(start().await.err(), Some(StartError::Tls(_))));
    assert_eq!(read("ca.pem"), ca);
}
