//! Several Regions in one service: keys of their own, and keys that they share.

use crate::{World, made, pairs, refused, secret};
use anchorhold_kms_wire::shapes::{
    Blob, CreateAliasRequest, CreateKeyRequest, DecryptRequest, DescribeKeyRequest,
    EnableKeyRotationRequest, EncryptRequest, GetKeyPolicyRequest, GetKeyRotationStatusRequest,
    KeyMetadata, KeyState, ListKeysRequest, MultiRegionKeyType, PutKeyPolicyRequest,
    ReplicateKeyRequest, RotateKeyOnDemandRequest, ScheduleKeyDeletionRequest, Tag,
    UpdatePrimaryRegionRequest,
};

const OTHER: &str = "eu-west-1";

async fn primary(world: &World) -> (String, String) {
    let request = CreateKeyRequest {
        multi_region: Some(true),
        description: Some("first".to_owned()),
        ..CreateKeyRequest::default()
    };
    let arn = made(&world.owner(), request).await;
    let id = arn.rsplit('/').next().unwrap().to_owned();
    assert!(id.starts_with("mrk-") && id.len() == 36, "{id}");
    (arn, id)
}

fn replicate(id: &str, region: &str) -> ReplicateKeyRequest {
    ReplicateKeyRequest {
        key_id: id.to_owned(),
        replica_region: region.to_owned(),
        ..ReplicateKeyRequest::default()
    }
}

async fn described(world: &World, region: &str, id: &str) -> KeyMetadata {
    let request = DescribeKeyRequest {
        key_id: id.to_owned(),
        ..DescribeKeyRequest::default()
    };
    let answer = world.owner_in(region).call(&request).await;
    answer.unwrap().key_metadata
}

fn decrypt(ciphertext: &[u8]) -> DecryptRequest {
    DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext.to_vec())),
        ..DecryptRequest::default()
    }
}

#[tokio::test]
async fn regions_do_not_see_each_others_keys() {
    let world = World::new().await;
    let key = world.key(None).await;
    let id = key.rsplit('/').next().unwrap().to_owned();
    let there = world.owner_in(OTHER);
    let describe = |name: &str| DescribeKeyRequest {
        key_id: name.to_owned(),
        ..DescribeKeyRequest::default()
    };
    let message = refused(&there, &describe(&id), "NotFoundException").await;
    assert_eq!(
        message,
        format!("Key 'arn:aws:kms:{OTHER}:111122223333:key/{id}' does not exist")
    );
    let message = refused(&there, &describe(&key), "NotFoundException").await;
    assert_eq!(message, "Invalid arn us-east-1");
    let ciphertext = world.ciphertext(&key, b"x", pairs(&[])).await;
    refused(&there, &decrypt(&ciphertext), "AccessDeniedException").await;
    let none = there.call(&ListKeysRequest::default()).await.unwrap();
    assert!(none.keys.is_empty());
    // The same alias names another key in each.
    let alias = |target: &str| CreateAliasRequest {
        alias_name: "alias/same".to_owned(),
        target_key_id: target.to_owned(),
    };
    let own = made(&there, CreateKeyRequest::default()).await;
    world.owner().call(&alias(&key)).await.unwrap();
    there.call(&alias(&own)).await.unwrap();
    let found = described(&world, OTHER, "alias/same").await;
    assert_eq!(found.arn, Some(own));
}

#[tokio::test]
async fn a_replica_has_the_material_and_a_policy_of_its_own() {
    let world = World::new().await;
    let owner = world.owner();
    let (arn, id) = primary(&world).await;
    let request = ReplicateKeyRequest {
        description: Some("second".to_owned()),
        tags: vec![Tag {
            tag_key: "a".to_owned(),
            tag_value: "b".to_owned(),
        }],
        ..replicate(&id, OTHER)
    };
    let answer = owner.call(&request).await.unwrap();
    let replica_arn = format!("arn:aws:kms:{OTHER}:111122223333:key/{id}");
    let made = answer.replica_key_metadata;
    assert_eq!(made.arn.as_deref(), Some(replica_arn.as_str()));
    assert_eq!(made.key_id, id);
    assert_eq!(answer.replica_tags.unwrap().len(), 1);
    for region in ["us-east-1", OTHER] {
        let found = described(&world, region, &id).await;
        assert_eq!(found.multi_region, Some(true));
        let configuration = found.multi_region_configuration.unwrap();
        assert_eq!(
            configuration.multi_region_key_type,
            Some(if region == OTHER {
                MultiRegionKeyType::Replica
            } else {
                MultiRegionKeyType::Primary
            })
        );
        let primary_key = configuration.primary_key.unwrap();
        assert_eq!(primary_key.arn.as_deref(), Some(arn.as_str()));
        assert_eq!(configuration.replica_keys.len(), 1);
        assert_eq!(configuration.replica_keys[0].region.as_deref(), Some(OTHER));
    }
    assert_eq!(described(&world, OTHER, &id).await.description, "second");

    // Encrypted in one Region, decrypted in the other, both ways.
    let there = world.owner_in(OTHER);
    let ciphertext = world
        .ciphertext(&arn, b"shared", pairs(&[("a", "b")]))
        .await;
    let with_context = DecryptRequest {
        encryption_context: pairs(&[("a", "b")]),
        ..decrypt(&ciphertext)
    };
    let opened = there.call(&with_context).await.unwrap();
    assert_eq!(opened.key_id, replica_arn);
    assert_eq!(opened.plaintext.unwrap().expose(), b"shared");
    let encrypt = EncryptRequest {
        key_id: id.clone(),
        plaintext: secret(b"back"),
        ..EncryptRequest::default()
    };
    let back = there.call(&encrypt).await.unwrap().ciphertext_blob.0;
    let opened = owner.call(&decrypt(&back)).await.unwrap();
    assert_eq!(opened.key_id, arn);

    // Another policy there changes nothing here.
    let host_only = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/owner"},"Action":["kms:PutKeyPolicy","kms:GetKeyPolicy"],"Resource":"*"}]}"#;
    let put = PutKeyPolicyRequest {
        key_id: id.clone(),
        policy: host_only.to_owned(),
        ..PutKeyPolicyRequest::default()
    };
    there.call(&put).await.unwrap();
    refused(&there, &encrypt, "AccessDeniedException").await;
    assert!(owner.call(&encrypt).await.is_ok());
    let policy = GetKeyPolicyRequest {
        key_id: id.clone(),
        policy_name: None,
    };
    assert_ne!(owner.call(&policy).await.unwrap().policy, host_only);

    refused(&owner, &replicate(&id, OTHER), "AlreadyExistsException").await;
    refused(
        &owner,
        &replicate(&id, "us-east-1"),
        "AlreadyExistsException",
    )
    .await;
    for region in ["nowhere", "xx-nowhere-1"] {
        let kind = if region == "nowhere" {
            "ValidationException"
        } else {
            "UnsupportedOperationException"
        };
        refused(&owner, &replicate(&id, region), kind).await;
    }
    let single = world.key(None).await;
    let message = refused(
        &owner,
        &replicate(&single, OTHER),
        "UnsupportedOperationException",
    )
    .await;
    assert!(
        message.contains("is not a multi-Region primary key"),
        "{message}"
    );
    refused(
        &world.host(),
        &replicate(&id, "us-west-2"),
        "AccessDeniedException",
    )
    .await;
}

#[tokio::test]
async fn rotation_reaches_all_regions() {
    let world = World::new().await;
    let owner = world.owner();
    let (arn, id) = primary(&world).await;
    owner.call(&replicate(&id, OTHER)).await.unwrap();
    let there = world.owner_in(OTHER);
    let rotate = RotateKeyOnDemandRequest { key_id: id.clone() };
    refused(&there, &rotate, "UnsupportedOperationException").await;
    owner.call(&rotate).await.unwrap();
    let ciphertext = world.ciphertext(&arn, b"x", pairs(&[])).await;
    assert!(there.call(&decrypt(&ciphertext)).await.is_ok());
    let enable = EnableKeyRotationRequest {
        key_id: id.clone(),
        ..EnableKeyRotationRequest::default()
    };
    refused(&there, &enable, "UnsupportedOperationException").await;
    owner.call(&enable).await.unwrap();
    let status = GetKeyRotationStatusRequest { key_id: id.clone() };
    assert!(there.call(&status).await.unwrap().key_rotation_enabled);
    let world = world.restarted_later(400).await;
    let (here, there) = (
        described(&world, "us-east-1", &id).await,
        described(&world, OTHER, &id).await,
    );
    assert_eq!(here.current_key_material_id, there.current_key_material_id);
    let ciphertext = world.ciphertext(&arn, b"x", pairs(&[])).await;
    let there = world.owner_in(OTHER);
    assert!(there.call(&decrypt(&ciphertext)).await.is_ok());
}

#[tokio::test]
async fn the_primary_region_moves() {
    let world = World::new().await;
    let owner = world.owner();
    let (_, id) = primary(&world).await;
    let to = |region: &str| UpdatePrimaryRegionRequest {
        key_id: id.clone(),
        primary_region: region.to_owned(),
    };
    refused(&owner, &to(OTHER), "NotFoundException").await;
    owner.call(&replicate(&id, OTHER)).await.unwrap();
    refused(&world.host(), &to(OTHER), "AccessDeniedException").await;
    owner.call(&to(OTHER)).await.unwrap();
    let kind = |metadata: KeyMetadata| {
        metadata
            .multi_region_configuration
            .unwrap()
            .multi_region_key_type
            .unwrap()
    };
    let here = described(&world, "us-east-1", &id).await;
    assert_eq!(kind(here), MultiRegionKeyType::Replica);
    let there = described(&world, OTHER, &id).await;
    assert_eq!(kind(there), MultiRegionKeyType::Primary);
    refused(&owner, &to(OTHER), "UnsupportedOperationException").await;
    let there = world.owner_in(OTHER);
    assert!(there.call(&replicate(&id, "us-west-2")).await.is_ok());
}

#[tokio::test]
async fn a_primary_key_waits_for_its_replicas_before_it_is_deleted() {
    let world = World::new().await;
    let (arn, id) = primary(&world).await;
    let owner = world.owner();
    owner.call(&replicate(&id, OTHER)).await.unwrap();
    let schedule = ScheduleKeyDeletionRequest {
        key_id: id.clone(),
        pending_window_in_days: Some(7),
    };
    let answer = owner.call(&schedule).await.unwrap();
    assert_eq!(answer.key_state, Some(KeyState::PendingReplicaDeletion));
    assert_eq!(answer.deletion_date, None);
    let encrypt = EncryptRequest {
        key_id: arn.clone(),
        plaintext: secret(b"x"),
        ..EncryptRequest::default()
    };
    let message = refused(&owner, &encrypt, "KMSInvalidStateException").await;
    assert_eq!(message, format!("{arn} is pending replica deletion."));
    let world = world.restarted_later(100).await;
    let found = described(&world, "us-east-1", &id).await;
    assert_eq!(found.pending_deletion_window_in_days, Some(7));

    let answer = world.owner_in(OTHER).call(&schedule).await.unwrap();
    assert_eq!(answer.key_state, Some(KeyState::PendingDeletion));
    let world = world.restarted_later(8).await;
    let found = described(&world, "us-east-1", &id).await;
    assert_eq!(found.key_state, Some(KeyState::PendingDeletion));
    assert!(found.deletion_date.is_some());
    let configuration = found.multi_region_configuration.unwrap();
    assert!(configuration.replica_keys.is_empty());
    let world = world.restarted_later(16).await;
    let describe = DescribeKeyRequest {
        key_id: id,
        ..DescribeKeyRequest::default()
    };
    refused(&world.owner(), &describe, "NotFoundException").await;
}
