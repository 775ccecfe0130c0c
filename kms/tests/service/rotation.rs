//! Rotation: new material encrypts, old material keeps decrypting.

use crate::{World, made, pairs, refused};
use anchorhold_kms_wire::shapes::{
    Blob, CreateKeyRequest, DecryptRequest, DescribeKeyRequest, DisableKeyRequest,
    DisableKeyRotationRequest, EnableKeyRotationRequest, GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse, IncludeKeyMaterial, KeyMaterialState, KeySpec, KeyUsage,
    ListKeyRotationsRequest, Origin, RotateKeyOnDemandRequest, RotationType, RotationsListEntry,
};

fn enable(key: &str, days: Option<i32>) -> EnableKeyRotationRequest {
    EnableKeyRotationRequest {
        key_id: key.to_owned(),
        rotation_period_in_days: days,
    }
}

fn rotate(key: &str) -> RotateKeyOnDemandRequest {
    RotateKeyOnDemandRequest {
        key_id: key.to_owned(),
    }
}

async fn status(world: &World, key: &str) -> GetKeyRotationStatusResponse {
    let request = GetKeyRotationStatusRequest {
        key_id: key.to_owned(),
    };
    world.owner().call(&request).await.unwrap()
}

async fn rotations(world: &World, key: &str, all: bool) -> Vec<RotationsListEntry> {
    let request = ListKeyRotationsRequest {
        key_id: key.to_owned(),
        include_key_material: all.then_some(IncludeKeyMaterial::AllKeyMaterial),
        ..ListKeyRotationsRequest::default()
    };
    world.owner().call(&request).await.unwrap().rotations
}

async fn decrypts(world: &World, ciphertext: &[u8]) -> String {
    let request = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext.to_vec())),
        ..DecryptRequest::default()
    };
    let answer = world.owner().call(&request).await.unwrap();
    assert_eq!(answer.plaintext.unwrap().expose(), b"kept");
    answer.key_material_id.unwrap()
}

#[tokio::test]
async fn old_material_decrypts_after_a_rotation_on_demand() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let before = world.ciphertext(&key, b"kept", pairs(&[])).await;
    assert_eq!(owner.call(&rotate(&key)).await.unwrap().key_id, key);
    let after = world.ciphertext(&key, b"kept", pairs(&[])).await;
    let (old, new) = (
        decrypts(&world, &before).await,
        decrypts(&world, &after).await,
    );
    assert_ne!(old, new);
    let describe = DescribeKeyRequest {
        key_id: key.clone(),
        ..DescribeKeyRequest::default()
    };
    let described = owner.call(&describe).await.unwrap().key_metadata;
    assert_eq!(
        described.current_key_material_id.as_deref(),
        Some(new.as_str())
    );

    let only = rotations(&world, &key, false).await;
    assert_eq!(only.len(), 1);
    assert_eq!(only[0].rotation_type, Some(RotationType::OnDemand));
    assert_eq!(only[0].key_material_id.as_deref(), Some(new.as_str()));
    assert_eq!(only[0].key_material_state, Some(KeyMaterialState::Current));
    let all = rotations(&world, &key, true).await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].key_material_id.as_deref(), Some(old.as_str()));
    assert_eq!(
        all[0].key_material_state,
        Some(KeyMaterialState::NonCurrent)
    );
    let world = world.restarted().await;
    assert_eq!(decrypts(&world, &before).await, old);

    let owner = world.owner();
    for _ in 1..25 {
        owner.call(&rotate(&key)).await.unwrap();
    }
    refused(&owner, &rotate(&key), "LimitExceededException").await;
    assert_eq!(decrypts(&world, &before).await, old);
    let part = ListKeyRotationsRequest {
        key_id: key.clone(),
        limit: Some(20),
        ..ListKeyRotationsRequest::default()
    };
    let part = owner.call(&part).await.unwrap();
    assert_eq!((part.rotations.len(), part.truncated), (20, true));
    let rest = ListKeyRotationsRequest {
        key_id: key.clone(),
        marker: part.next_marker,
        ..ListKeyRotationsRequest::default()
    };
    assert_eq!(owner.call(&rest).await.unwrap().rotations.len(), 5);
}

#[tokio::test]
async fn a_key_rotates_by_the_calendar_while_it_is_enabled() {
    let world = World::new().await;
    let owner = world.owner();
    let (key, still) = (world.key(None).await, world.key(None).await);
    assert!(!status(&world, &key).await.key_rotation_enabled);
    owner.call(&enable(&key, None)).await.unwrap();
    let found = status(&world, &key).await;
    assert_eq!(found.rotation_period_in_days, Some(365));
    owner.call(&enable(&key, Some(90))).await.unwrap();
    let found = status(&world, &key).await;
    assert!(found.key_rotation_enabled);
    assert_eq!(found.rotation_period_in_days, Some(90));
    assert_eq!(found.key_id.as_deref(), Some(key.as_str()));
    let first_date = found.next_rotation_date.unwrap();
    owner.call(&enable(&still, Some(90))).await.unwrap();
    let disable = DisableKeyRequest {
        key_id: still.clone(),
    };
    owner.call(&disable).await.unwrap();

    let before = world.ciphertext(&key, b"kept", pairs(&[])).await;
    let world = world.restarted_later(89).await;
    assert!(rotations(&world, &key, false).await.is_empty());
    let world = world.restarted_later(91).await;
    let listed = rotations(&world, &key, false).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].rotation_type, Some(RotationType::Automatic));
    assert!(rotations(&world, &still, false).await.is_empty());
    let next = status(&world, &key).await.next_rotation_date.unwrap();
    assert_eq!(next.millis - first_date.millis, 90 * 86_400_000);
    let after = world.ciphertext(&key, b"kept", pairs(&[])).await;
    assert_ne!(
        decrypts(&world, &before).await,
        decrypts(&world, &after).await
    );

    let disable = DisableKeyRotationRequest {
        key_id: key.clone(),
    };
    world.owner().call(&disable).await.unwrap();
    assert!(!status(&world, &key).await.key_rotation_enabled);
    let world = world.restarted_later(1000).await;
    assert_eq!(rotations(&world, &key, false).await.len(), 1);
}

#[tokio::test]
async fn what_does_not_rotate_is_refused() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    for days in [89, 2561] {
        refused(&owner, &enable(&key, Some(days)), "ValidationException").await;
    }
    let hmac = made(
        &owner,
        CreateKeyRequest {
            key_spec: Some(KeySpec::Hmac256),
            key_usage: Some(KeyUsage::GenerateVerifyMac),
            ..CreateKeyRequest::default()
        },
    )
    .await;
    let external = made(
        &owner,
        CreateKeyRequest {
            origin: Some(Origin::External),
            ..CreateKeyRequest::default()
        },
    )
    .await;
    let unsupported = "UnsupportedOperationException";
    refused(&owner, &enable(&hmac, None), unsupported).await;
    refused(&owner, &rotate(&hmac), unsupported).await;
    let of_hmac = GetKeyRotationStatusRequest { key_id: hmac };
    refused(&owner, &of_hmac, unsupported).await;
    let message = refused(&owner, &enable(&external, None), unsupported).await;
    assert_eq!(
        message,
        format!("{external} origin is EXTERNAL which is not valid for this operation.")
    );
    refused(&world.host(), &enable(&key, None), "AccessDeniedException").await;
    let disable = DisableKeyRequest {
        key_id: key.clone(),
    };
    owner.call(&disable).await.unwrap();
    refused(&owner, &enable(&key, None), "DisabledException").await;
    refused(&owner, &rotate(&key), "DisabledException").await;
    let by_alias = enable("alias/none", None);
    refused(&owner, &by_alias, "NotFoundException").await;
}
