//! The audit log as an auditor reads it.

use crate::{World, pairs, refused, secret};
use anchorhold_kms::audit::verify;
use anchorhold_kms::config::RootKey;
use anchorhold_kms_wire::shapes::{
    Blob, DataKeySpec, DecryptRequest, EncryptRequest, GenerateDataKeyRequest,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write as _;
use std::path::Path;

#[tokio::test]
async fn each_request_has_one_line_in_the_shape_of_cloudtrail() {
    let world = World::new().await;
    let key = world.key(None).await;
    let request = EncryptRequest {
        key_id: key.clone(),
        plaintext: secret(b"x"),
        encryption_context: pairs(&[("a", "b")]),
        ..EncryptRequest::default()
    };
    world.owner().call(&request).await.unwrap();
    refused(&world.host(), &request, "AccessDeniedException").await;
    let lines = world.audit();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["eventName"], "CreateKey");
    assert_eq!(lines[0]["readOnly"], false);
    let line = &lines[1];
    assert_eq!(line["eventName"], "Encrypt");
    assert_eq!(line["eventSource"], "kms.amazonaws.com");
    assert_eq!(line["awsRegion"], "us-east-1");
    assert_eq!(line["readOnly"], true);
    assert_eq!(
        line["userIdentity"]["arn"],
        "arn:aws:iam::111122223333:user/owner"
    );
    assert_eq!(line["userIdentity"]["type"], "IAMUser");
    assert_eq!(line["sourceIPAddress"], "127.0.0.1");
    assert_eq!(line["requestParameters"]["encryptionContext"]["a"], "b");
    assert_eq!(line["resources"][0]["ARN"], key);
    assert!(line["errorCode"].is_null());
    assert!(line["eventTime"].as_str().unwrap().ends_with('Z'));
    let line = &lines[2];
    assert_eq!(line["errorCode"], "AccessDeniedException");
    assert_eq!(
        line["userIdentity"]["arn"],
        "arn:aws:iam::111122223333:user/host"
    );
    assert_eq!(
        line["anchorhold"]["reason"],
        "statement Enable IAM User Permissions of the key policy leaves kms:Encrypt to the \
         account's own policies, and no policy of arn:aws:iam::111122223333:user/host allows it"
    );
}

#[tokio::test]
async fn who_has_not_shown_to_be_someone_is_not_named_as_such() {
    let world = World::new().await;
    let client = world.client("AKIDANCHORHOLDOWNER0", "wrong");
    let request = GenerateDataKeyRequest::default();
    refused(&client, &request, "InvalidSignatureException").await;
    let line = world.audit().pop().unwrap();
    assert_eq!(line["userIdentity"]["type"], "Unknown");
    assert!(line["userIdentity"]["arn"].is_null());
    assert_eq!(line["userIdentity"]["accessKeyId"], "AKIDANCHORHOLDOWNER0");
}

/// All forms in which a secret could stand in a file by accident.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    vec![
        secret.to_vec(),
        STANDARD.encode(secret).into_bytes(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
    ]
}

fn found_in(folder: &Path, except: &str, secrets: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == except || path.ends_with("control.sock") {
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        for secret in secrets {
            if content.windows(secret.len()).any(|w| w == secret) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn no_file_holds_plaintext_data_keys_or_the_root_key() {
    let world = World::new().await;
    let key = world.key(None).await;
    let plaintext = b"4111111111111111 is the plaintext";
    let ciphertext = world.ciphertext(&key, plaintext, pairs(&[])).await;
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext.clone())),
        ..DecryptRequest::default()
    };
    world.owner().call(&decrypt).await.unwrap();
    refused(&world.host(), &decrypt, "AccessDeniedException").await;
    let generate = GenerateDataKeyRequest {
        key_id: key,
        key_spec: Some(DataKeySpec::Aes256),
        ..GenerateDataKeyRequest::default()
    };
    let made = world.owner().call(&generate).await.unwrap();
    let data_key = made.plaintext.unwrap();
    let folder = world.folder.path();
    let root = hex::decode(
        std::fs::read_to_string(folder.join("root.key"))
            .unwrap()
            .trim(),
    );
    let root = root.unwrap();
    let mut secrets = forms(plaintext);
    secrets.extend(forms(data_key.expose()));
    secrets.extend(forms(&root));
    secrets.extend(forms(b"anchorhold-owner-secret-for-development-only"));
    // The search can fail: it finds the root key where it belongs.
    assert_eq!(found_in(folder, "", &forms(&root)).len(), 1);
    assert_eq!(found_in(folder, "root.key", &secrets), [""; 0]);
    // After a shutdown, when all is on disk, too.
    let path = folder.to_owned();
    world.running.shutdown().await;
    assert_eq!(found_in(&path, "root.key", &secrets), [""; 0]);
}

#[tokio::test]
async fn every_edit_of_a_running_service_s_log_is_found() {
    let world = World::new().await;
    let key = world.key(None).await;
    for _ in 0..5 {
        world.ciphertext(&key, b"x", pairs(&[])).await;
    }
    let world = world.restarted().await;
    world.ciphertext(&key, b"x", pairs(&[])).await;
    let folder = world.folder.path().to_owned();
    world.running.shutdown().await;
    let path = folder.join("audit.ndjson");
    let report = verify(&folder, &RootKey::InState).unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.lines, report.head), (7, Some(7)));
    let text = std::fs::read_to_string(&path).unwrap();
    let without = |left_out: usize| -> String {
        text.lines()
            .enumerate()
            .filter(|(index, _)| *index != left_out)
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    };
    for changed in [
        text.replacen("\"Encrypt\"", "\"Decrypt\"", 1),
        text.replacen("user/owner", "user/other", 1),
        without(3),
        without(0),
        without(6),
        String::new(),
    ] {
        std::fs::write(&path, &changed).unwrap();
        let report = verify(&folder, &RootKey::InState).unwrap();
        assert!(!report.is_good() || report.first != Some(1), "{changed}");
    }
}

#[tokio::test]
async fn a_service_does_not_go_on_with_a_log_that_was_cut() {
    let world = World::new().await;
    world.key(None).await;
    world.key(None).await;
    let (folder, root) = (world.folder, world.root);
    world.running.shutdown().await;
    let path = folder.path().join("audit.ndjson");
    let text = std::fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap();
    std::fs::write(&path, format!("{first}\n")).unwrap();
    let config = crate::plain_config(folder.path(), root.anchor());
    let Err(error) = anchorhold_kms::Service::start(config).await else {
        panic!("the service started");
    };
    assert!(error.to_string().contains("lines were cut off"), "{error}");
}

#[tokio::test]
async fn without_an_audit_line_nothing_is_answered() {
    // /dev/full refuses every write, as a full disk does. The log's file is a link to it.
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("audit.ndjson")).unwrap();
    let root = crate::development_root();
    let config = crate::plain_config(folder.path(), root.anchor());
    let running = anchorhold_kms::Service::start(config).await.unwrap();
    let world = World {
        folder,
        root,
        clock: std::sync::Arc::default(),
        running,
    };
    let request = anchorhold_kms_wire::shapes::GenerateRandomRequest {
        number_of_bytes: Some(8),
        ..Default::default()
    };
    let message = refused(&world.owner(), &request, "KMSInternalException").await;
    assert!(!message.contains("audit"), "{message}");
}

#[tokio::test]
async fn a_text_from_the_caller_cannot_begin_a_line() {
    let world = World::new().await;
    let request = anchorhold_kms_wire::shapes::DescribeKeyRequest {
        key_id: "alias/x\n{\"eventName\":\"Forged\"}\u{2028}".to_owned(),
        ..Default::default()
    };
    refused(&world.owner(), &request, "NotFoundException").await;
    let mut out = Vec::new();
    out.write_all(&std::fs::read(world.audit_path()).unwrap())
        .unwrap();
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
    assert_eq!(world.audit()[0]["eventName"], "DescribeKey");
}
