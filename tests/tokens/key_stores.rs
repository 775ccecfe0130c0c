//! Custom key stores on a real token: keys that are made in it, used in it, and never seen outside of it.

use crate::common::KeyService;
use crate::{MODULE, PIN, Tokens};
use anchorhold_kms::config::DEV_ACCOUNT;
use anchorhold_kms::{Clock, Config, Service};
use anchorhold_kms_wire::client::{Client, ClientError, Endpoint, Fixed, Limits, Tcp, TlsTrust};
use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_kms_wire::shapes::{
    Blob, CancelKeyDeletionRequest, ConnectCustomKeyStoreRequest, ConnectionErrorCode,
    ConnectionState, CreateCustomKeyStoreRequest, CreateKeyRequest, CustomKeyStoresListEntry,
    DataKeyPairSpec, DataKeySpec, DecryptRequest, DeleteCustomKeyStoreRequest,
    DescribeCustomKeyStoresRequest, DescribeKeyRequest, DisableKeyRequest,
    DisconnectCustomKeyStoreRequest, EnableKeyRequest, EnableKeyRotationRequest, EncryptRequest,
    GenerateDataKeyPairRequest, GenerateDataKeyRequest, GenerateDataKeyWithoutPlaintextRequest,
    GenerateRandomRequest, GetParametersForImportRequest, KeyMetadata, KeyState, ListKeysRequest,
    Operation, Origin, ReEncryptRequest, RecipientInfo, ReplicateKeyRequest,
    RotateKeyOnDemandRequest, ScheduleKeyDeletionRequest, SecretBlob, SecretText,
    UpdateCustomKeyStoreRequest, WrappingAlgorithm, WrappingKeySpec,
};
use anchorhold_kms_wire::sigv4::Credentials;
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use serde_bytes::ByteBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

type Calls = Client<Tcp, Fixed>;

const CLUSTER: &str = "cluster-anchorhold2a";
const WRONG_PIN: &str = "99999999";
const STATE: &str = "KMSInvalidStateException";

fn client(url: &str) -> Calls {
    let endpoint = Endpoint {
        url: url.to_owned(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::PlainHttp,
    };
    let secret = Zeroizing::new("s".to_owned());
    let credentials = Credentials::new("AKIAEXAMPLE000000000", secret);
    Client::new(&endpoint, Tcp, Fixed::new(credentials))
        .unwrap()
        .with_limits(Limits {
            attempts: 1,
            ..Limits::default()
        })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A service as a process, ended by kill -9.
struct Process {
    service: KeyService,
    url: String,
}

impl Process {
    fn start(tokens: &mut Tokens) -> Self {
        let config = std::fs::read_to_string(tokens.house.path("kms.toml")).unwrap();
        let softhsm = tokens.house.path("softhsm2.conf");
        let environment = [("SOFTHSM2_CONF", softhsm.as_path())];
        Self {
            service: tokens.house.configured_key_service(&config, &environment),
            url: tokens.house.endpoint().to_owned(),
        }
    }

    fn client(&self) -> Calls {
        client(&self.url)
    }
}

/// A token `vault` and a configuration that names it.
fn stage() -> Tokens {
    let tokens = Tokens::new();
    tokens.token("vault");
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}"#;
    tokens.house.write("owner.json", policy);
    let root = DevelopmentRoot::load_or_create(&tokens.house.path("root")).unwrap();
    tokens.house.write("root.pem", root.certificate_pem());
    tokens.house.write(
        "kms.toml",
        format!(
            r#"state = "kms"
region = "us-east-1"
more_regions = ["eu-west-1"]
listen = "127.0.0.1:0"
plain_http = true

[attestation]
extra_anchors = ["root.pem"]

[[clusters]]
id = "{CLUSTER}"
account = "{DEV_ACCOUNT}"
module = "{MODULE}"
token = "vault"

[[accounts]]
id = "{DEV_ACCOUNT}"

[[accounts.users]]
name = "owner"
policies = ["owner.json"]
access_keys = [{{ id = "AKIAEXAMPLE000000000", secret_file = "owner.secret" }}]
"#
        ),
    );
    tokens
}

async fn refused<O: Operation>(client: &Calls, request: &O, kind: &str) -> String {
    match client.call(request).await {
        Ok(_) => panic!("{} was answered, {kind} was expected", O::NAME),
        Err(ClientError::Service {
            kind: found,
            message,
            ..
        }) => {
            assert_eq!(found, kind, "{}: {message}", O::NAME);
            message
        }
        Err(other) => panic!("{}: {other}", O::NAME),
    }
}

async fn key_store(owner: &Calls, pin: &str) -> String {
    let anchor = rcgen::generate_simple_self_signed(["cluster".to_owned()]).unwrap();
    let request = CreateCustomKeyStoreRequest {
        custom_key_store_name: "vault".to_owned(),
        cloud_hsm_cluster_id: Some(CLUSTER.to_owned()),
        trust_anchor_certificate: Some(anchor.cert.pem()),
        key_store_password: Some(password(pin)),
        ..CreateCustomKeyStoreRequest::default()
    };
    let made = owner.call(&request).await.unwrap();
    made.custom_key_store_id.unwrap()
}

fn password(pin: &str) -> SecretText {
    SecretText::new(Zeroizing::new(pin.to_owned()))
}

async fn connect(owner: &Calls, id: &str) {
    let request = ConnectCustomKeyStoreRequest {
        custom_key_store_id: id.to_owned(),
    };
    owner.call(&request).await.unwrap();
}

async fn disconnect(owner: &Calls, id: &str) {
    let request = DisconnectCustomKeyStoreRequest {
        custom_key_store_id: id.to_owned(),
    };
    owner.call(&request).await.unwrap();
}

async fn connected(owner: &Calls) -> String {
    let id = key_store(owner, PIN).await;
    connect(owner, &id).await;
    assert_eq!(
        entry(owner).await.connection_state,
        Some(ConnectionState::Connected)
    );
    id
}

async fn entry(owner: &Calls) -> CustomKeyStoresListEntry {
    let request = DescribeCustomKeyStoresRequest::default();
    let mut all = owner.call(&request).await.unwrap().custom_key_stores;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn in_store(id: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        origin: Some(Origin::AwsCloudhsm),
        custom_key_store_id: Some(id.to_owned()),
        ..CreateKeyRequest::default()
    }
}

async fn made(owner: &Calls, id: &str) -> String {
    let made = owner.call(&in_store(id)).await.unwrap();
    made.key_metadata.arn.unwrap()
}

async fn described(owner: &Calls, key: &str) -> KeyMetadata {
    let request = DescribeKeyRequest {
        key_id: key.to_owned(),
        ..DescribeKeyRequest::default()
    };
    owner.call(&request).await.unwrap().key_metadata
}

fn encrypt(key: &str, plaintext: &[u8]) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: SecretBlob::new(Zeroizing::new(plaintext.to_vec())),
        encryption_context: [("a".to_owned(), "b".to_owned())].into(),
        ..EncryptRequest::default()
    }
}

fn decrypt(blob: &Blob) -> DecryptRequest {
    DecryptRequest {
        ciphertext_blob: Some(blob.clone()),
        encryption_context: [("a".to_owned(), "b".to_owned())].into(),
        ..DecryptRequest::default()
    }
}

async fn opened(owner: &Calls, blob: &Blob) -> Vec<u8> {
    let answer = owner.call(&decrypt(blob)).await.unwrap();
    answer.plaintext.unwrap().expose().to_vec()
}

/// What pkcs11-tool says of the token's secret keys.
fn objects(tokens: &Tokens) -> Vec<String> {
    let output = Command::new("pkcs11-tool")
        .args([
            "--module",
            MODULE,
            "--token-label",
            "vault",
            "--login",
            "--pin",
            PIN,
        ])
        .args(["--list-objects", "--type", "secrkey"])
        .env("SOFTHSM2_CONF", tokens.house.path("softhsm2.conf"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let parts = text.split("Secret Key Object").skip(1);
    parts.map(str::to_owned).collect()
}

#[test]
fn a_key_is_made_in_its_token_and_does_there_what_a_key_of_the_service_does() {
    let mut tokens = stage();
    let process = Process::start(&mut tokens);
    block_on(async {
        let owner = process.client();
        let id = connected(&owner).await;
        let created = owner.call(&in_store(&id)).await.unwrap().key_metadata;
        let key = created.arn.clone().unwrap();
        assert_eq!(created.key_state, Some(KeyState::Enabled));
        assert_eq!(created.origin, Some(Origin::AwsCloudhsm));
        assert_eq!(created.custom_key_store_id.as_ref(), Some(&id));
        assert_eq!(created.cloud_hsm_cluster_id.as_deref(), Some(CLUSTER));
        assert!(created.current_key_material_id.is_none());
        assert_eq!(described(&owner, &key).await, created);

        let inside = objects(&tokens);
        assert_eq!(inside.len(), 1, "{inside:?}");
        for words in [created.key_id.as_str(), "AES", "never extractable", "local"] {
            assert!(inside[0].contains(words), "{words}: {inside:?}");
        }

        let sealed = owner.call(&encrypt(&key, &[7; 4096])).await.unwrap();
        assert_eq!(sealed.key_id, key);
        let sealed = sealed.ciphertext_blob;
        assert_eq!(opened(&owner, &sealed).await, [7; 4096]);
        for at in [0, 3, 4, 20, 52, 64, 100, sealed.0.len() - 1] {
            let mut changed = sealed.clone();
            changed.0[at] ^= 1;
            let answer = owner.call(&decrypt(&changed)).await;
            assert!(
                matches!(&answer, Err(ClientError::Service { kind, .. })
                    if kind == "InvalidCiphertextException" || kind == "AccessDeniedException"),
                "byte {at}"
            );
        }
        let elsewhere = DecryptRequest {
            encryption_context: [("a".to_owned(), "c".to_owned())].into(),
            ..decrypt(&sealed)
        };
        refused(&owner, &elsewhere, "InvalidCiphertextException").await;

        let data = GenerateDataKeyRequest {
            key_id: key.clone(),
            key_spec: Some(DataKeySpec::Aes256),
            encryption_context: [("a".to_owned(), "b".to_owned())].into(),
            ..GenerateDataKeyRequest::default()
        };
        let data = owner.call(&data).await.unwrap();
        assert!(data.key_material_id.is_none());
        let plaintext = data.plaintext.unwrap().expose().to_vec();
        assert_eq!(opened(&owner, &data.ciphertext_blob).await, plaintext);
        let silent = GenerateDataKeyWithoutPlaintextRequest {
            key_id: key.clone(),
            number_of_bytes: Some(20),
            encryption_context: [("a".to_owned(), "b".to_owned())].into(),
            ..GenerateDataKeyWithoutPlaintextRequest::default()
        };
        let silent = owner.call(&silent).await.unwrap().ciphertext_blob;
        assert_eq!(opened(&owner, &silent).await.len(), 20);

        // Out of the token, and into it.
        let plain = owner.call(&CreateKeyRequest::default()).await.unwrap();
        let plain = plain.key_metadata.arn.unwrap();
        let again = |blob: &Blob, to: &str| ReEncryptRequest {
            ciphertext_blob: Some(blob.clone()),
            source_encryption_context: [("a".to_owned(), "b".to_owned())].into(),
            destination_key_id: to.to_owned(),
            destination_encryption_context: [("a".to_owned(), "b".to_owned())].into(),
            ..ReEncryptRequest::default()
        };
        let out = owner.call(&again(&sealed, &plain)).await.unwrap();
        assert!(out.source_key_material_id.is_none() && out.destination_key_material_id.is_some());
        let back = owner
            .call(&again(&out.ciphertext_blob, &key))
            .await
            .unwrap();
        assert_eq!(opened(&owner, &back.ciphertext_blob).await, [7; 4096]);

        let random = GenerateRandomRequest {
            number_of_bytes: Some(64),
            custom_key_store_id: Some(id.clone()),
            ..GenerateRandomRequest::default()
        };
        let one = owner.call(&random).await.unwrap().plaintext.unwrap();
        let two = owner.call(&random).await.unwrap().plaintext.unwrap();
        assert!(one.expose().len() == 64 && one.expose() != two.expose());
    });
}

#[test]
fn a_recipient_gets_what_a_token_has_decrypted_and_nobody_else_does() {
    let mut tokens = stage();
    let process = Process::start(&mut tokens);
    let root = DevelopmentRoot::load_or_create(&tokens.house.path("root")).unwrap();
    let anchor = hex::encode(root.fingerprint());
    block_on(async {
        let owner = process.client();
        let id = connected(&owner).await;
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[
            {{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{DEV_ACCOUNT}:user/owner"}},"Action":["kms:Encrypt","kms:PutKeyPolicy"],"Resource":"*"}},
            {{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{DEV_ACCOUNT}:user/owner"}},"Action":"kms:Decrypt","Resource":"*",
              "Condition":{{"StringEquals":{{"anchorhold:Anchor":"{anchor}"}}}}}}]}}"#
        );
        let made = owner
            .call(&CreateKeyRequest {
                policy: Some(policy),
                ..in_store(&id)
            })
            .await
            .unwrap();
        let key = made.key_metadata.arn.unwrap();
        let sealed = owner
            .call(&encrypt(&key, b"for the enclave"))
            .await
            .unwrap();
        let sealed = sealed.ciphertext_blob;
        refused(&owner, &decrypt(&sealed), "AccessDeniedException").await;
        let recipient = RecipientKey::generate().unwrap();
        let nsm = Nsm::new(&root, NsmConfig::default(), SystemTime::now()).unwrap();
        let asked = Request::Attestation {
            user_data: None,
            nonce: None,
            public_key: Some(ByteBuf::from(recipient.public_key_der().to_vec())),
        };
        let answer = nsm.handle(&serde_cbor::to_vec(&asked).unwrap(), SystemTime::now());
        let Response::Attestation { document } = serde_cbor::from_slice(&answer).unwrap() else {
            panic!("no document");
        };
        let request = DecryptRequest {
            recipient: Some(RecipientInfo::new(document)),
            ..decrypt(&sealed)
        };
        let answer = owner.call(&request).await.unwrap();
        assert!(answer.plaintext.is_none());
        let envelope = answer.ciphertext_for_recipient.unwrap();
        assert_eq!(
            recipient.open(&envelope.0).unwrap().as_slice(),
            b"for the enclave"
        );
    });
}

#[test]
fn what_keys_in_a_token_cannot_do_is_refused_as_aws_refuses_it() {
    let mut tokens = stage();
    let process = Process::start(&mut tokens);
    block_on(async {
        let owner = process.client();
        let id = connected(&owner).await;
        let key = made(&owner, &id).await;
        let no = "UnsupportedOperationException";
        let rotate = EnableKeyRotationRequest {
            key_id: key.clone(),
            ..EnableKeyRotationRequest::default()
        };
        refused(&owner, &rotate, no).await;
        let now = RotateKeyOnDemandRequest {
            key_id: key.clone(),
        };
        refused(&owner, &now, no).await;
        let import = GetParametersForImportRequest {
            key_id: key.clone(),
            wrapping_algorithm: WrappingAlgorithm::RsaesOaepSha256,
            wrapping_key_spec: WrappingKeySpec::Rsa2048,
        };
        refused(&owner, &import, no).await;
        let replicate = ReplicateKeyRequest {
            key_id: key.clone(),
            replica_region: "eu-west-1".to_owned(),
            ..ReplicateKeyRequest::default()
        };
        refused(&owner, &replicate, no).await;
        let pair = GenerateDataKeyPairRequest {
            key_id: key.clone(),
            key_pair_spec: DataKeyPairSpec::EccNistP256,
            ..GenerateDataKeyPairRequest::default()
        };
        refused(&owner, &pair, no).await;
        assert_eq!(objects(&tokens).len(), 1);
        let delete = DeleteCustomKeyStoreRequest {
            custom_key_store_id: id.clone(),
        };
        refused(&owner, &delete, "CustomKeyStoreHasCMKsException").await;
        // With a name alone it need not be disconnected, and with a password it must.
        let rename = UpdateCustomKeyStoreRequest {
            custom_key_store_id: id.clone(),
            new_custom_key_store_name: Some("other".to_owned()),
            ..UpdateCustomKeyStoreRequest::default()
        };
        owner.call(&rename).await.unwrap();
        let update = UpdateCustomKeyStoreRequest {
            custom_key_store_id: id.clone(),
            key_store_password: Some(password(PIN)),
            ..UpdateCustomKeyStoreRequest::default()
        };
        refused(&owner, &update, "CustomKeyStoreInvalidStateException").await;
    });
}

#[test]
fn a_disconnected_key_store_keeps_its_keys_and_uses_none() {
    let mut tokens = stage();
    let process = Process::start(&mut tokens);
    let (key, sealed) = block_on(async {
        let owner = process.client();
        let id = connected(&owner).await;
        let key = made(&owner, &id).await;
        let sealed = owner
            .call(&encrypt(&key, b"kept"))
            .await
            .unwrap()
            .ciphertext_blob;
        disconnect(&owner, &id).await;
        let found = described(&owner, &key).await;
        assert_eq!(found.key_state, Some(KeyState::Unavailable));
        assert!(!found.enabled);
        let said = refused(&owner, &decrypt(&sealed), STATE).await;
        assert_eq!(said, format!("{key} is unavailable."));
        refused(&owner, &encrypt(&key, b"x"), STATE).await;
        refused(
            &owner,
            &in_store(&id),
            "CustomKeyStoreInvalidStateException",
        )
        .await;
        // It is managed all the same.
        owner
            .call(&DisableKeyRequest {
                key_id: key.clone(),
            })
            .await
            .unwrap();
        assert_eq!(
            described(&owner, &key).await.key_state,
            Some(KeyState::Unavailable)
        );
        connect(&owner, &id).await;
        assert_eq!(
            described(&owner, &key).await.key_state,
            Some(KeyState::Disabled)
        );
        owner
            .call(&EnableKeyRequest {
                key_id: key.clone(),
            })
            .await
            .unwrap();
        assert_eq!(opened(&owner, &sealed).await, b"kept");
        (key, sealed)
    });
    drop(process);
    // A restart connects it again by itself.
    let process = Process::start(&mut tokens);
    block_on(async {
        let owner = process.client();
        assert_eq!(opened(&owner, &sealed).await, b"kept");
        assert_eq!(
            described(&owner, &key).await.key_state,
            Some(KeyState::Enabled)
        );
        assert_eq!(
            entry(&owner).await.connection_state,
            Some(ConnectionState::Connected)
        );
    });
}

#[test]
fn a_token_that_was_gone_comes_back_with_its_keys() {
    let mut tokens = stage();
    let process = Process::start(&mut tokens);
    block_on(async {
        let owner = process.client();
        let id = connected(&owner).await;
        let key = made(&owner, &id).await;
        let sealed = owner
            .call(&encrypt(&key, b"kept"))
            .await
            .unwrap()
            .ciphertext_blob;
        let (here, away) = (tokens.house.path("tokens"), tokens.house.path("away"));
        std::fs::rename(&here, &away).unwrap();
        std::fs::create_dir(&here).unwrap();
        let said = refused(&owner, &decrypt(&sealed), STATE).await;
        assert!(said.contains(&key), "{said}");
        refused(
            &owner,
            &in_store(&id),
            "CustomKeyStoreInvalidStateException",
        )
        .await;
        std::fs::remove_dir(&here).unwrap();
        std::fs::rename(&away, &here).unwrap();
        // By itself, which may take a second try, and by hand.
        while let Err(error) = owner.call(&decrypt(&sealed)).await {
            assert!(matches!(&error, ClientError::Service { kind, .. } if kind == STATE));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        disconnect(&owner, &id).await;
        connect(&owner, &id).await;
        assert_eq!(opened(&owner, &sealed).await, b"kept");
        // What was refused meanwhile left nothing behind.
        let keys = owner.call(&ListKeysRequest::default()).await.unwrap().keys;
        assert_eq!(keys.len(), 1);
        assert_eq!(objects(&tokens).len(), 1);
    });
}

#[test]
fn a_wrong_password_is_tried_once_and_put_right_by_an_update() {
    let mut tokens = stage();
    let process = Process::start(&mut tokens);
    let id = block_on(async {
        let owner = process.client();
        let id = key_store(&owner, WRONG_PIN).await;
        connect(&owner, &id).await;
        let found = entry(&owner).await;
        assert_eq!(found.connection_state, Some(ConnectionState::Failed));
        assert_eq!(
            found.connection_error_code,
            Some(ConnectionErrorCode::InvalidCredentials)
        );
        // Tokens lock their user out after a few wrong tries: nothing here makes another one.
        for _ in 0..20 {
            refused(
                &owner,
                &in_store(&id),
                "CustomKeyStoreInvalidStateException",
            )
            .await;
        }
        id
    });
    drop(process);
    let process = Process::start(&mut tokens);
    block_on(async {
        let owner = process.client();
        assert_eq!(
            entry(&owner).await.connection_state,
            Some(ConnectionState::Failed)
        );
        disconnect(&owner, &id).await;
        let update = UpdateCustomKeyStoreRequest {
            custom_key_store_id: id.clone(),
            key_store_password: Some(password(PIN)),
            ..UpdateCustomKeyStoreRequest::default()
        };
        owner.call(&update).await.unwrap();
        connect(&owner, &id).await;
        assert_eq!(
            entry(&owner).await.connection_state,
            Some(ConnectionState::Connected)
        );
        let key = made(&owner, &id).await;
        // A login of before does not vouch for a wrong password later.
        disconnect(&owner, &id).await;
        let wrong = UpdateCustomKeyStoreRequest {
            custom_key_store_id: id.clone(),
            key_store_password: Some(password(WRONG_PIN)),
            ..UpdateCustomKeyStoreRequest::default()
        };
        owner.call(&wrong).await.unwrap();
        connect(&owner, &id).await;
        assert_eq!(
            entry(&owner).await.connection_state,
            Some(ConnectionState::Failed)
        );
        refused(&owner, &encrypt(&key, b"x"), STATE).await;
    });
}

#[test]
fn a_key_that_was_acknowledged_survives_kill_9_and_no_other_is_left_in_the_token() {
    let mut tokens = stage();
    let rounds: u64 = std::env::var("ANCHORHOLD_CRASH_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(10);
    let mut told: Vec<String> = Vec::new();
    let mut id = None;
    for round in 0..rounds {
        let process = Process::start(&mut tokens);
        let owner = process.client();
        if id.is_none() {
            id = Some(block_on(connected(&owner)));
        }
        let id = id.clone().unwrap();
        let url = process.url.clone();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (url, id) = (url.clone(), id.clone());
                let acknowledged = Arc::clone(&acknowledged);
                std::thread::spawn(move || {
                    let client = client(&url);
                    let mut told = Vec::new();
                    while let Ok(answer) = block_on(client.call(&in_store(&id))) {
                        told.push(answer.key_metadata.arn.unwrap());
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    told
                })
            })
            .collect();
        while acknowledged.load(Ordering::Relaxed) <= round % 4
            && workers.iter().any(|worker| !worker.is_finished())
        {
            std::thread::sleep(Duration::from_millis(1 + round % 5));
        }
        process.service.kill();
        for worker in workers {
            told.extend(worker.join().unwrap());
        }
    }
    assert!(
        !told.is_empty(),
        "nothing was acknowledged in {rounds} rounds"
    );
    let process = Process::start(&mut tokens);
    block_on(async {
        let owner = process.client();
        let id = id.unwrap();
        for key in &told {
            let sealed = owner
                .call(&encrypt(key, b"x"))
                .await
                .unwrap()
                .ciphertext_blob;
            assert_eq!(opened(&owner, &sealed).await, b"x");
        }
        // Connecting settles whatever was under way.
        disconnect(&owner, &id).await;
        connect(&owner, &id).await;
        let mut keys = Vec::new();
        let mut marker = None;
        loop {
            let request = ListKeysRequest {
                marker,
                ..ListKeysRequest::default()
            };
            let page = owner.call(&request).await.unwrap();
            keys.extend(page.keys.into_iter().map(|key| key.key_id.unwrap()));
            marker = page.next_marker;
            if marker.is_none() {
                break;
            }
        }
        for key in &keys {
            assert_eq!(
                described(&owner, key).await.key_state,
                Some(KeyState::Enabled)
            );
        }
        let inside = objects(&tokens);
        // SoftHSM2 makes an object first and says then what it is. One that was killed in between leaves an object without a name,
        // an identifier or a key, which nobody can tell from another's.
        let is_husk = |object: &str| {
            object.lines().any(|line| line.trim() == "label:") && !object.contains("ID:")
        };
        let strangers: Vec<&String> = inside
            .iter()
            .filter(|object| !keys.iter().any(|key| object.contains(key.as_str())))
            .filter(|object| !is_husk(object))
            .collect();
        assert!(strangers.is_empty(), "{strangers:#?}");
        for key in &keys {
            assert!(
                inside.iter().any(|object| object.contains(key.as_str())),
                "{key}"
            );
        }
    });
}

/// A clock that is some days ahead.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_secs(self.0.load(Ordering::Relaxed) * 86_400)
    }
}

/// SoftHSM reads where its tokens are from the environment of the process that loads it: this one, once more, with
/// that environment.
fn with_tokens_inside(test: &str, act: impl FnOnce()) {
    if std::env::var_os("ANCHORHOLD_WITHIN").is_some() {
        return act();
    }
    let tokens = stage();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .current_dir(tokens.house.path("."))
        .env("ANCHORHOLD_WITHIN", "yes")
        .env("SOFTHSM2_CONF", tokens.house.path("softhsm2.conf"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_deleted_keys_material_is_destroyed_in_its_token_once_it_can_be_reached() {
    let test =
        "key_stores::a_deleted_keys_material_is_destroyed_in_its_token_once_it_can_be_reached";
    with_tokens_inside(test, || {
        let clock = Arc::new(Ahead::default());
        let start = || {
            let mut config = Config::from_file("kms.toml".as_ref()).unwrap();
            config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
            Service::start(config)
        };
        let count = || {
            let output = Command::new("pkcs11-tool")
                .args([
                    "--module",
                    MODULE,
                    "--token-label",
                    "vault",
                    "--login",
                    "--pin",
                    PIN,
                ])
                .args(["--list-objects", "--type", "secrkey"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.matches("Secret Key Object").count()
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let running = start().await.unwrap();
            let owner = client(&running.url());
            let id = connected(&owner).await;
            let (gone, kept) = (made(&owner, &id).await, made(&owner, &id).await);
            let sealed = owner
                .call(&encrypt(&kept, b"kept"))
                .await
                .unwrap()
                .ciphertext_blob;
            for key in [&gone, &kept] {
                let schedule = ScheduleKeyDeletionRequest {
                    key_id: key.clone(),
                    pending_window_in_days: Some(7),
                };
                owner.call(&schedule).await.unwrap();
            }
            let cancel = CancelKeyDeletionRequest {
                key_id: kept.clone(),
            };
            owner.call(&cancel).await.unwrap();
            disconnect(&owner, &id).await;
            assert_eq!(
                described(&owner, &gone).await.key_state,
                Some(KeyState::PendingDeletion)
            );
            running.shutdown().await;
            assert_eq!(count(), 2);

            // Its date comes while the token is not connected: the key goes, its material cannot yet.
            clock.0.store(8, Ordering::Relaxed);
            let running = start().await.unwrap();
            clock.0.store(0, Ordering::Relaxed);
            let owner = client(&running.url());
            let describe = DescribeKeyRequest {
                key_id: gone.clone(),
                ..DescribeKeyRequest::default()
            };
            refused(&owner, &describe, "NotFoundException").await;
            assert_eq!(count(), 2);
            connect(&owner, &id).await;
            assert_eq!(count(), 1);
            owner
                .call(&EnableKeyRequest {
                    key_id: kept.clone(),
                })
                .await
                .unwrap();
            assert_eq!(opened(&owner, &sealed).await, b"kept");
            running.shutdown().await;
        });
    });
}
