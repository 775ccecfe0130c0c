//! kill -9 at random moments, again and again, under many clients: all that they were told is true
//! afterwards. `ANCHORHOLD_CRASH_ROUNDS` says how often (10).

use crate::common::House;
use crate::{Calls, audited, block_on, client};
use anchorhold_kms_wire::client::ClientError;
use anchorhold_kms_wire::shapes::{
    Blob, CreateAliasRequest, CreateKeyRequest, DecryptRequest, DescribeKeyRequest, EncryptRequest,
    GetKeyPolicyRequest, ListResourceTagsRequest, PutKeyPolicyRequest, SecretBlob, Tag,
    TagResourceRequest,
};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

const CLIENTS: u64 = 6;

/// What one client was told, and what it asked for without an answer.
#[derive(Default)]
struct Told {
    keys: Vec<String>,
    /// Name and key; whether it was acknowledged.
    aliases: Vec<(String, String, bool)>,
    /// By key: the policy acknowledged last, and those asked for since.
    policies: HashMap<String, (Option<String>, Vec<String>)>,
    ciphertexts: Vec<(Vec<u8>, Vec<u8>)>,
    /// By key: the value of its tag `n` acknowledged last, and those asked for since.
    tags: HashMap<String, (Option<String>, Vec<String>)>,
}

fn policy(number: u64) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Id":"n{number}","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:root"}},"Action":"kms:*","Resource":"*"}}]}}"#
    )
}

/// Works until the service is gone.
async fn work(client: &Calls, told: &mut Told, prefix: &str) -> Result<(), ClientError> {
    for number in 0_u64.. {
        let created = client.call(&CreateKeyRequest::default()).await?;
        let key = created.key_metadata.key_id;
        told.keys.push(key.clone());

        let alias = format!("alias/{prefix}-{number}");
        told.aliases.push((alias.clone(), key.clone(), false));
        client
            .call(&CreateAliasRequest {
                alias_name: alias.clone(),
                target_key_id: key.clone(),
            })
            .await?;
        told.aliases.last_mut().unwrap().2 = true;

        for change in 0..2 {
            let text = policy(number * 2 + change);
            let entry = told.policies.entry(key.clone()).or_default();
            entry.1.push(text.clone());
            client
                .call(&PutKeyPolicyRequest {
                    key_id: key.clone(),
                    policy: text.clone(),
                    ..PutKeyPolicyRequest::default()
                })
                .await?;
            let entry = told.policies.get_mut(&key).unwrap();
            *entry = (Some(text), Vec::new());
        }

        for value in ["one", "two"] {
            let value = format!("{prefix}-{number}-{value}");
            told.tags
                .entry(key.clone())
                .or_default()
                .1
                .push(value.clone());
            client
                .call(&TagResourceRequest {
                    key_id: key.clone(),
                    tags: vec![Tag {
                        tag_key: "n".to_owned(),
                        tag_value: value.clone(),
                    }],
                })
                .await?;
            *told.tags.get_mut(&key).unwrap() = (Some(value), Vec::new());
        }

        let plaintext = format!("{prefix} {number}").into_bytes();
        let encrypted = client
            .call(&EncryptRequest {
                key_id: alias,
                plaintext: SecretBlob::new(Zeroizing::new(plaintext.clone())),
                ..EncryptRequest::default()
            })
            .await?;
        told.ciphertexts
            .push((encrypted.ciphertext_blob.0, plaintext));
    }
    Ok(())
}

async fn check(client: &Calls, told: &Told) {
    for key in &told.keys {
        let described = client
            .call(&DescribeKeyRequest {
                key_id: key.clone(),
                ..DescribeKeyRequest::default()
            })
            .await
            .unwrap();
        assert!(described.key_metadata.enabled);
    }
    for (name, key, acknowledged) in &told.aliases {
        let through = client
            .call(&EncryptRequest {
                key_id: name.clone(),
                plaintext: SecretBlob::new(Zeroizing::new(b"x".to_vec())),
                ..EncryptRequest::default()
            })
            .await;
        match through {
            Ok(answer) => assert!(answer.key_id.ends_with(key.as_str()), "{name}"),
            Err(error) => assert!(!acknowledged, "{name}: {error}"),
        }
    }
    for (key, (acknowledged, pending)) in &told.policies {
        let found = client
            .call(&GetKeyPolicyRequest {
                key_id: key.clone(),
                ..GetKeyPolicyRequest::default()
            })
            .await
            .unwrap()
            .policy;
        let is_default = acknowledged.is_none() && found.contains("key-default-1");
        assert!(
            acknowledged.as_ref() == Some(&found) || pending.contains(&found) || is_default,
            "{key} has {found}"
        );
    }
    for (key, (acknowledged, pending)) in &told.tags {
        let found = client
            .call(&ListResourceTagsRequest {
                key_id: key.clone(),
                ..ListResourceTagsRequest::default()
            })
            .await
            .unwrap()
            .tags;
        let found = found.first().map(|tag| tag.tag_value.clone());
        assert!(
            found == *acknowledged || found.is_some_and(|value| pending.contains(&value)),
            "{key}"
        );
    }
    for (ciphertext, plaintext) in &told.ciphertexts {
        let opened = client
            .call(&DecryptRequest {
                ciphertext_blob: Some(Blob(ciphertext.clone())),
                ..DecryptRequest::default()
            })
            .await
            .unwrap();
        assert_eq!(opened.plaintext.unwrap().expose(), plaintext);
    }
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9_at_any_moment() {
    let rounds: u64 = std::env::var("ANCHORHOLD_CRASH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    let mut moment = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos()
        | 1;
    eprintln!("moments from the seed {moment}");
    let mut house = House::new();
    let mut all: Vec<Told> = Vec::new();
    let mut encrypted = 0;
    for round in 0..rounds {
        let service = house.key_service(&["--plain-http"]);
        let url = house.endpoint().to_owned();
        let workers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let url = url.clone();
                std::thread::spawn(move || {
                    let mut told = Told::default();
                    let prefix = format!("r{round}-c{number}");
                    let ended = block_on(work(&client(&url), &mut told, &prefix));
                    assert!(
                        !matches!(ended, Err(ClientError::Service { .. })),
                        "{ended:?}"
                    );
                    told
                })
            })
            .collect();
        // Xorshift: some moment within half a second.
        moment ^= moment << 13;
        moment ^= moment >> 17;
        moment ^= moment << 5;
        std::thread::sleep(Duration::from_micros(u64::from(moment % 500_000)));
        service.kill();
        for worker in workers {
            let told = worker.join().unwrap();
            encrypted += told.ciphertexts.len();
            all.push(told);
        }
        let service = house.key_service(&["--plain-http"]);
        let asking = client(house.endpoint());
        block_on(async {
            for told in &all[all.len() - usize::try_from(CLIENTS).unwrap()..] {
                check(&asking, told).await;
            }
        });
        // And this end is as sudden as the other.
        service.kill();
    }
    let service = house.key_service(&["--plain-http"]);
    let asking = client(house.endpoint());
    block_on(async {
        for told in &all {
            check(&asking, told).await;
        }
    });
    drop(service);
    let lines = audited(&house.path("kms/audit.ndjson"));
    let noted = lines
        .iter()
        .filter(|line| line["eventName"] == "Encrypt" && line["errorCode"].is_null())
        .count();
    assert!(noted >= encrypted, "{noted} lines for {encrypted} answers");
    let keys: usize = all.iter().map(|told| told.keys.len()).sum();
    assert!(keys > 0, "no client got anything done");
    eprintln!("{rounds} rounds, {keys} keys, {encrypted} ciphertexts");
}
