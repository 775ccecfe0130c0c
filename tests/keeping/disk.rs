//! A disk that is full: what cannot be kept is refused, what can be read is read, nothing is answered
//! without its line in the audit log, and with space all goes on. The disk is a small tmpfs in a user and
//! mount namespace of the service's own.

use crate::common::{House, KeyService};
use crate::{Calls, audited, block_on, client};
use anchorhold_kms_wire::shapes::{
    Blob, CreateKeyRequest, DecryptRequest, DescribeKeyRequest, EncryptRequest, SecretBlob,
};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use zeroize::Zeroizing;

/// Starts the service with its state on a tmpfs of this size, and gives the folder as seen from outside.
fn service(house: &mut House, size: &str) -> Option<(KeyService, PathBuf)> {
    let can = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "mount",
            "-t",
            "tmpfs",
            "none",
            "/mnt",
        ])
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        eprintln!("NOT TESTED: user namespaces, or unshare, are not there");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"));
        return None;
    }
    std::fs::create_dir(house.path("kms")).unwrap();
    let script = format!("mount -t tmpfs -o size={size} none kms && exec \"$0\" \"$@\"");
    let wrapper: Vec<OsString> = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &script,
    ]
    .iter()
    .map(OsString::from)
    .collect();
    let service = house.key_service_within(&wrapper, &["--plain-http"]);
    let outside = Path::new("/proc")
        .join(service.id().to_string())
        .join("root")
        .join(house.path("kms").strip_prefix("/").unwrap());
    Some((service, outside))
}

/// Fills the disk but for about `spare` bytes.
fn fill(folder: &Path, spare: usize) {
    let mut file = std::fs::File::create(folder.join("filler")).unwrap();
    let block = [0; 4096];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(spare as u64)).unwrap();
}

async fn opens(client: &Calls, ciphertext: &[u8]) -> bool {
    let answer = client
        .call(&DecryptRequest {
            ciphertext_blob: Some(Blob(ciphertext.to_vec())),
            ..DecryptRequest::default()
        })
        .await;
    match answer {
        Ok(answer) => {
            assert_eq!(answer.plaintext.unwrap().expose(), b"kept");
            true
        }
        Err(_) => false,
    }
}

/// Makes keys until one is refused.
async fn make_keys(client: &Calls, made: &mut Vec<String>) {
    for _ in 0..10_000 {
        let request = CreateKeyRequest {
            description: Some("d".repeat(8000)),
            ..CreateKeyRequest::default()
        };
        match client.call(&request).await {
            Ok(created) => made.push(created.key_metadata.key_id),
            Err(_) => return,
        }
    }
    panic!("the disk did not fill");
}

async fn all_there(client: &Calls, made: &[String]) {
    for key in made {
        client
            .call(&DescribeKeyRequest {
                key_id: key.clone(),
                ..DescribeKeyRequest::default()
            })
            .await
            .unwrap();
    }
}

#[test]
fn a_full_disk_stops_writing_and_nothing_else_and_space_heals_it() {
    let mut house = House::new();
    let Some((service, folder)) = service(&mut house, "16m") else {
        return;
    };
    let asking = client(house.endpoint());
    let mut made = Vec::new();
    block_on(async {
        let created = asking.call(&CreateKeyRequest::default()).await.unwrap();
        let key = created.key_metadata.key_id;
        made.push(key.clone());
        let ciphertext = asking
            .call(&EncryptRequest {
                key_id: key,
                plaintext: SecretBlob::new(Zeroizing::new(b"kept".to_vec())),
                ..EncryptRequest::default()
            })
            .await
            .unwrap()
            .ciphertext_blob
            .0;

        // No room for keys, and some for the audit log: reading goes on.
        fill(&folder, 600 << 10);
        make_keys(&asking, &mut made).await;
        std::fs::remove_file(folder.join("filler")).unwrap();
        fill(&folder, 64 << 10);
        assert!(asking.call(&CreateKeyRequest::default()).await.is_err() || !made.is_empty());
        assert!(opens(&asking, &ciphertext).await, "reading went on");
        all_there(&asking, &made).await;

        // No room for the audit log either: nothing is answered.
        fill(&folder, 0);
        for _ in 0..20 {
            // A line may still fit into the page that the log has.
            if !opens(&asking, &ciphertext).await {
                break;
            }
        }
        assert!(
            !opens(&asking, &ciphertext).await,
            "answered without a line"
        );
        assert!(asking.call(&CreateKeyRequest::default()).await.is_err());

        std::fs::remove_file(folder.join("filler")).unwrap();
        assert!(opens(&asking, &ciphertext).await, "space did not heal it");
        all_there(&asking, &made).await;
        let created = asking.call(&CreateKeyRequest::default()).await.unwrap();
        made.push(created.key_metadata.key_id);
        all_there(&asking, &made).await;
    });
    let copy = house.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    drop(service);
    audited(&copy.join("audit.ndjson"));
    // What is on that disk is a whole store.
    std::fs::remove_dir(house.path("kms")).unwrap();
    std::fs::rename(&copy, house.path("kms")).unwrap();
    let _service = house.key_service(&["--plain-http"]);
    block_on(all_there(&client(house.endpoint()), &made));
}
