//! Keys, aliases and tags: their life from the first request to the last.

use crate::{World, pairs, refused, secret};
use anchorhold_kms_wire::shapes::{
    Blob, CancelKeyDeletionRequest, CreateAliasRequest, CreateKeyRequest, DecryptRequest,
    DeleteAliasRequest, DescribeKeyRequest, DisableKeyRequest, EnableKeyRequest, EncryptRequest,
    KeyMetadata, KeySpec, KeyState, KeyUsage, ListAliasesRequest, ListKeyPoliciesRequest,
    ListKeysRequest, ListResourceTagsRequest, ResourceOwner, ScheduleKeyDeletionRequest, Tag,
    TagResourceRequest, UntagResourceRequest, UpdateAliasRequest, UpdateKeyDescriptionRequest,
};

async fn described(world: &World, key: &str) -> KeyMetadata {
    let request = DescribeKeyRequest {
        key_id: key.to_owned(),
        ..DescribeKeyRequest::default()
    };
    world.owner().call(&request).await.unwrap().key_metadata
}

fn encrypt(key: &str) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: secret(b"x"),
        ..EncryptRequest::default()
    }
}

fn tag(key: &str, value: &str) -> Tag {
    Tag {
        tag_key: key.to_owned(),
        tag_value: value.to_owned(),
    }
}

fn alias(name: &str, key: &str) -> CreateAliasRequest {
    CreateAliasRequest {
        alias_name: name.to_owned(),
        target_key_id: key.to_owned(),
    }
}

fn schedule(key: &str, days: Option<i32>) -> ScheduleKeyDeletionRequest {
    ScheduleKeyDeletionRequest {
        key_id: key.to_owned(),
        pending_window_in_days: days,
    }
}

#[tokio::test]
async fn a_disabled_key_is_not_used_until_it_is_enabled() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let disable = DisableKeyRequest {
        key_id: key.clone(),
    };
    owner.call(&disable).await.unwrap();
    let found = described(&world, &key).await;
    assert_eq!(found.key_state, Some(KeyState::Disabled));
    assert!(!found.enabled);
    let message = refused(&owner, &encrypt(&key), "DisabledException").await;
    assert_eq!(message, format!("{key} is disabled."));
    let enable = EnableKeyRequest {
        key_id: key.clone(),
    };
    owner.call(&enable).await.unwrap();
    assert!(owner.call(&encrypt(&key)).await.is_ok());
    let update = UpdateKeyDescriptionRequest {
        key_id: key.clone(),
        description: "new".to_owned(),
    };
    owner.call(&update).await.unwrap();
    assert_eq!(described(&world, &key).await.description, "new");
    let long = UpdateKeyDescriptionRequest {
        description: "x".repeat(8193),
        ..update
    };
    refused(&owner, &long, "ValidationException").await;
    for refusal in [
        refused(&world.host(), &disable, "AccessDeniedException").await,
        refused(&world.host(), &enable, "AccessDeniedException").await,
    ] {
        assert!(
            refusal.contains("is not authorized to perform"),
            "{refusal}"
        );
    }
    let absent = DisableKeyRequest {
        key_id: "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
    };
    refused(&owner, &absent, "NotFoundException").await;
}

#[tokio::test]
async fn a_key_is_deleted_after_its_window_with_all_that_was_its_own() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    owner.call(&alias("alias/gone", &key)).await.unwrap();
    let ciphertext = world.ciphertext(&key, b"lost", pairs(&[])).await;
    for days in [6, 31, 0, -1] {
        refused(&owner, &schedule(&key, Some(days)), "ValidationException").await;
    }
    let answer = owner.call(&schedule(&key, Some(7))).await.unwrap();
    assert_eq!(answer.key_id, key);
    assert_eq!(answer.key_state, Some(KeyState::PendingDeletion));
    assert_eq!(answer.pending_window_in_days, Some(7));
    let found = described(&world, &key).await;
    assert_eq!(found.deletion_date, answer.deletion_date);
    assert!(!found.enabled);

    let pending = format!("{key} is pending deletion.");
    let state = "KMSInvalidStateException";
    let owner = world.owner();
    assert_eq!(refused(&owner, &encrypt(&key), state).await, pending);
    assert_eq!(refused(&owner, &schedule(&key, None), state).await, pending);
    assert_eq!(
        refused(&owner, &alias("alias/b", &key), state).await,
        pending
    );
    let tags = TagResourceRequest {
        key_id: key.clone(),
        tags: vec![tag("a", "b")],
    };
    assert_eq!(refused(&owner, &tags, state).await, pending);
    let enable = EnableKeyRequest {
        key_id: key.clone(),
    };
    assert_eq!(refused(&owner, &enable, state).await, pending);

    // Saved in time, it is disabled.
    let cancel = CancelKeyDeletionRequest {
        key_id: key.clone(),
    };
    assert_eq!(owner.call(&cancel).await.unwrap().key_id, key);
    let found = described(&world, &key).await;
    assert_eq!(found.key_state, Some(KeyState::Disabled));
    assert_eq!(found.deletion_date, None);
    let message = refused(&owner, &cancel, state).await;
    assert_eq!(message, format!("{key} is not pending deletion."));

    assert_eq!(
        owner
            .call(&schedule(&key, None))
            .await
            .unwrap()
            .pending_window_in_days,
        Some(30)
    );
    let world = world.restarted_later(29).await;
    assert!(described(&world, &key).await.deletion_date.is_some());
    let world = world.restarted_later(31).await;
    let owner = world.owner();
    let gone = DescribeKeyRequest {
        key_id: key.clone(),
        ..DescribeKeyRequest::default()
    };
    let message = refused(&owner, &gone, "NotFoundException").await;
    assert_eq!(message, format!("Key '{key}' does not exist"));
    let by_alias = DescribeKeyRequest {
        key_id: "alias/gone".to_owned(),
        ..DescribeKeyRequest::default()
    };
    refused(&owner, &by_alias, "NotFoundException").await;
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    refused(&owner, &decrypt, "AccessDeniedException").await;
    let left = owner.call(&ListKeysRequest::default()).await.unwrap();
    assert!(left.keys.is_empty());
}

#[tokio::test]
async fn keys_are_listed_in_parts() {
    let world = World::new().await;
    let owner = world.owner();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.key(None).await);
    }
    let mut listed = Vec::new();
    let mut marker = None;
    loop {
        let request = ListKeysRequest {
            limit: Some(2),
            marker: marker.take(),
            ..ListKeysRequest::default()
        };
        let page = owner.call(&request).await.unwrap();
        assert!(page.keys.len() <= 2);
        listed.extend(page.keys.into_iter().map(|key| key.key_arn.unwrap()));
        assert_eq!(page.truncated, page.next_marker.is_some());
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    made.sort();
    listed.sort();
    assert_eq!(listed, made);
    for (request, kind) in [
        (
            ListKeysRequest {
                limit: Some(0),
                ..ListKeysRequest::default()
            },
            "ValidationException",
        ),
        (
            ListKeysRequest {
                limit: Some(1001),
                ..ListKeysRequest::default()
            },
            "ValidationException",
        ),
        (
            ListKeysRequest {
                marker: Some("!".to_owned()),
                ..ListKeysRequest::default()
            },
            "InvalidMarkerException",
        ),
    ] {
        refused(&owner, &request, kind).await;
    }
    let shared = ListKeysRequest {
        resource_owners: vec![ResourceOwner::OtherAccountsViaRam],
        ..ListKeysRequest::default()
    };
    assert!(owner.call(&shared).await.unwrap().keys.is_empty());
    let policies = ListKeyPoliciesRequest {
        key_id: made[0].clone(),
        ..ListKeyPoliciesRequest::default()
    };
    let policies = owner.call(&policies).await.unwrap();
    assert_eq!(policies.policy_names, ["default"]);
    refused(
        &world.host(),
        &ListKeysRequest::default(),
        "AccessDeniedException",
    )
    .await;
}

#[tokio::test]
async fn aliases_are_moved_listed_and_taken_away() {
    let world = World::new().await;
    let owner = world.owner();
    let (one, two) = (world.key(None).await, world.key(None).await);
    for name in ["alias/a", "alias/b", "alias/c"] {
        owner.call(&alias(name, &one)).await.unwrap();
    }
    let listed = owner.call(&ListAliasesRequest::default()).await.unwrap();
    let names: Vec<_> = listed
        .aliases
        .iter()
        .map(|a| a.alias_name.clone())
        .collect();
    assert_eq!(
        names,
        ["alias/a", "alias/b", "alias/c"].map(|n| Some(n.to_owned()))
    );
    let first = &listed.aliases[0];
    assert_eq!(
        first.alias_arn.as_deref(),
        Some("arn:aws:kms:us-east-1:111122223333:alias/a")
    );
    assert_eq!(first.target_key_id.as_deref(), one.rsplit('/').next());
    assert!(first.creation_date.is_some());

    let update = UpdateAliasRequest {
        alias_name: "alias/b".to_owned(),
        target_key_id: two.clone(),
    };
    owner.call(&update).await.unwrap();
    for (key, names) in [(&one, vec!["alias/a", "alias/c"]), (&two, vec!["alias/b"])] {
        let of = ListAliasesRequest {
            key_id: Some(key.clone()),
            ..ListAliasesRequest::default()
        };
        let of = owner.call(&of).await.unwrap();
        let found: Vec<_> = of
            .aliases
            .into_iter()
            .map(|a| a.alias_name.unwrap())
            .collect();
        assert_eq!(found, names);
    }
    let ciphertext = world.ciphertext("alias/b", b"x", pairs(&[])).await;
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    assert_eq!(owner.call(&decrypt).await.unwrap().key_id, two);

    let delete = DeleteAliasRequest {
        alias_name: "alias/a".to_owned(),
    };
    refused(&world.host(), &delete, "AccessDeniedException").await;
    owner.call(&delete).await.unwrap();
    let message = refused(&owner, &delete, "NotFoundException").await;
    assert_eq!(
        message,
        "Alias arn:aws:kms:us-east-1:111122223333:alias/a is not found."
    );
    owner.call(&alias("alias/a", &two)).await.unwrap();

    let hmac = crate::made(
        &owner,
        CreateKeyRequest {
            key_spec: Some(KeySpec::Hmac256),
            key_usage: Some(KeyUsage::GenerateVerifyMac),
            ..CreateKeyRequest::default()
        },
    )
    .await;
    let other_kind = UpdateAliasRequest {
        target_key_id: hmac,
        ..update.clone()
    };
    refused(&owner, &other_kind, "ValidationException").await;
    let absent = UpdateAliasRequest {
        alias_name: "alias/none".to_owned(),
        ..update
    };
    refused(&owner, &absent, "NotFoundException").await;
    let message = refused(&owner, &alias("alias/x!", &one), "ValidationException").await;
    assert_eq!(
        message,
        "1 validation error detected: Value 'alias/x!' at 'aliasName' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
    );
    let message = refused(&owner, &alias("x", &one), "ValidationException").await;
    assert!(message.contains("must start with the prefix"), "{message}");
}

#[tokio::test]
async fn tags_are_attached_changed_and_removed() {
    let world = World::new().await;
    let owner = world.owner();
    let key = crate::made(
        &owner,
        CreateKeyRequest {
            tags: vec![tag("team", "cards"), tag("stage", "test")],
            ..CreateKeyRequest::default()
        },
    )
    .await;
    let list = ListResourceTagsRequest {
        key_id: key.clone(),
        ..ListResourceTagsRequest::default()
    };
    let tags = owner.call(&list).await.unwrap().tags;
    assert_eq!(tags, [tag("stage", "test"), tag("team", "cards")]);
    let attach = |tags: Vec<Tag>| TagResourceRequest {
        key_id: key.clone(),
        tags,
    };
    let change = attach(vec![tag("team", "keys"), tag("empty", "")]);
    owner.call(&change).await.unwrap();
    let remove = UntagResourceRequest {
        key_id: key.clone(),
        tag_keys: vec!["stage".to_owned(), "none".to_owned()],
    };
    owner.call(&remove).await.unwrap();
    let tags = owner.call(&list).await.unwrap().tags;
    assert_eq!(tags, [tag("empty", ""), tag("team", "keys")]);
    let part = ListResourceTagsRequest {
        limit: Some(1),
        ..list.clone()
    };
    let part = owner.call(&part).await.unwrap();
    assert!(part.truncated);
    let rest = ListResourceTagsRequest {
        marker: part.next_marker,
        ..list.clone()
    };
    assert_eq!(owner.call(&rest).await.unwrap().tags, [tag("team", "keys")]);

    let many = |from: usize, to: usize| (from..to).map(|n| tag(&format!("k{n}"), "")).collect();
    owner.call(&attach(many(0, 48))).await.unwrap();
    for (tags, kind) in [
        (many(48, 49), "LimitExceededException"),
        (many(0, 51), "TagException"),
        (vec![tag("aws:x", "")], "TagException"),
        (vec![tag("a", "1"), tag("a", "2")], "TagException"),
        (vec![tag("", "")], "ValidationException"),
        (vec![tag(&"k".repeat(129), "")], "ValidationException"),
        (vec![tag("k", &"v".repeat(257))], "ValidationException"),
    ] {
        refused(&owner, &attach(tags), kind).await;
    }
    let message = refused(&owner, &attach(vec![tag("", "")]), "ValidationException").await;
    assert_eq!(
        message,
        "1 validation error detected: Value '' at 'tags.1.member.tagKey' failed to satisfy \
         constraint: Member must have length greater than or equal to 1"
    );
    refused(&world.host(), &remove, "AccessDeniedException").await;
}

#[tokio::test]
async fn a_policy_can_ask_for_a_tag_and_for_an_alias() {
    let world = World::new().await;
    let owner = world.owner();
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"},
        {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/host"},"Action":"kms:Encrypt","Resource":"*",
         "Condition":{"StringEquals":{"aws:ResourceTag/open":"yes"}}}]}"#;
    let key = world.key(Some(policy.to_owned())).await;
    refused(&world.host(), &encrypt(&key), "AccessDeniedException").await;
    let attach = TagResourceRequest {
        key_id: key.clone(),
        tags: vec![tag("open", "yes")],
    };
    owner.call(&attach).await.unwrap();
    assert!(world.host().call(&encrypt(&key)).await.is_ok());
}
