//! Grants: what they permit, to whom, and how they end.

use crate::{Calls, World, made, pairs, refused, secret};
use anchorhold_kms_wire::shapes::{
    Blob, CreateGrantRequest, CreateKeyRequest, DecryptRequest, DescribeKeyRequest,
    DisableKeyRequest, EncryptRequest, GenerateMacRequest, GrantConstraints, GrantOperation,
    KeySpec, KeyUsage, ListGrantsRequest, ListRetirableGrantsRequest, MacAlgorithm,
    RetireGrantRequest, RevokeGrantRequest,
};

const HOST: &str = "arn:aws:iam::111122223333:user/host";
const OWNER: &str = "arn:aws:iam::111122223333:user/owner";

fn grant(key: &str, operations: &[GrantOperation]) -> CreateGrantRequest {
    CreateGrantRequest {
        key_id: key.to_owned(),
        grantee_principal: Some(HOST.to_owned()),
        operations: operations.to_vec(),
        ..CreateGrantRequest::default()
    }
}

fn encrypt(key: &str, context: &[(&str, &str)]) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: secret(b"text"),
        encryption_context: pairs(context),
        ..EncryptRequest::default()
    }
}

async fn listed(client: &Calls, key: &str) -> Vec<String> {
    let request = ListGrantsRequest {
        key_id: key.to_owned(),
        ..ListGrantsRequest::default()
    };
    let answer = client.call(&request).await.unwrap();
    let ids = answer.grants.into_iter().map(|grant| grant.grant_id);
    ids.map(Option::unwrap).collect()
}

#[tokio::test]
async fn a_grant_permits_its_operations_to_its_grantee_until_it_is_revoked() {
    let world = World::new().await;
    let (owner, host) = (world.owner(), world.host());
    let (key, other) = (world.key(None).await, world.key(None).await);
    refused(&host, &encrypt(&key, &[]), "AccessDeniedException").await;
    let request = CreateGrantRequest {
        name: Some("for-the-host".to_owned()),
        ..grant(
            &key,
            &[GrantOperation::Encrypt, GrantOperation::DescribeKey],
        )
    };
    let made = owner.call(&request).await.unwrap();
    let (id, token) = (made.grant_id.unwrap(), made.grant_token.unwrap());
    assert_eq!(id.len(), 64);
    let with_token = EncryptRequest {
        grant_tokens: vec![token],
        ..encrypt(&key, &[])
    };
    let ciphertext = host.call(&with_token).await.unwrap().ciphertext_blob;
    assert!(host.call(&encrypt(&key, &[("a", "b")])).await.is_ok());
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(ciphertext),
        ..DecryptRequest::default()
    };
    refused(&host, &decrypt, "AccessDeniedException").await;
    refused(&host, &encrypt(&other, &[]), "AccessDeniedException").await;

    // The same request again is the same grant, as it has a name.
    let again = owner.call(&request).await.unwrap();
    assert_eq!(again.grant_id.as_deref(), Some(id.as_str()));
    assert_eq!(listed(&owner, &key).await, std::slice::from_ref(&id));
    let world = world.restarted().await;
    let (owner, host) = (world.owner(), world.host());
    assert!(host.call(&with_token).await.is_ok());

    let revoke = RevokeGrantRequest {
        key_id: key.clone(),
        grant_id: id.clone(),
        dry_run: None,
    };
    refused(&host, &revoke, "AccessDeniedException").await;
    let dry = RevokeGrantRequest {
        dry_run: Some(true),
        ..revoke.clone()
    };
    refused(&owner, &dry, "DryRunOperationException").await;
    owner.call(&revoke).await.unwrap();
    refused(&host, &with_token, "AccessDeniedException").await;
    refused(&owner, &revoke, "NotFoundException").await;
    assert!(listed(&owner, &key).await.is_empty());
}

#[tokio::test]
async fn constraints_hold_the_encryption_context() {
    let world = World::new().await;
    let (owner, host) = (world.owner(), world.host());
    let key = world.key(None).await;
    let constrained = |constraints| CreateGrantRequest {
        constraints: Some(constraints),
        ..grant(&key, &[GrantOperation::Encrypt, GrantOperation::Decrypt])
    };
    let subset = GrantConstraints {
        encryption_context_subset: pairs(&[("tenant", "a")]),
        ..GrantConstraints::default()
    };
    let made = owner.call(&constrained(subset.clone())).await.unwrap();
    for (context, is_allowed) in [
        (&[("tenant", "a")][..], true),
        (&[("tenant", "a"), ("more", "b")][..], true),
        (&[("tenant", "b")][..], false),
        (&[][..], false),
    ] {
        let outcome = host.call(&encrypt(&key, context)).await;
        assert_eq!(outcome.is_ok(), is_allowed, "{context:?}");
    }
    let revoke = RevokeGrantRequest {
        key_id: key.clone(),
        grant_id: made.grant_id.unwrap(),
        dry_run: None,
    };
    owner.call(&revoke).await.unwrap();
    let equals = GrantConstraints {
        encryption_context_equals: pairs(&[("tenant", "a")]),
        ..GrantConstraints::default()
    };
    owner.call(&constrained(equals.clone())).await.unwrap();
    assert!(host.call(&encrypt(&key, &[("tenant", "a")])).await.is_ok());
    let more = encrypt(&key, &[("tenant", "a"), ("more", "b")]);
    refused(&host, &more, "AccessDeniedException").await;
    let both = GrantConstraints {
        encryption_context_subset: pairs(&[("x", "y")]),
        ..equals
    };
    refused(&owner, &constrained(both), "ValidationException").await;
}

#[tokio::test]
async fn a_grantee_can_pass_on_no_more_than_it_has() {
    let world = World::new().await;
    let (owner, host) = (world.owner(), world.host());
    let key = world.key(None).await;
    let first = grant(
        &key,
        &[GrantOperation::Encrypt, GrantOperation::CreateGrant],
    );
    owner.call(&first).await.unwrap();
    let child = |operation| CreateGrantRequest {
        grantee_principal: Some(OWNER.to_owned()),
        ..grant(&key, &[operation])
    };
    assert!(host.call(&child(GrantOperation::Encrypt)).await.is_ok());
    let more = child(GrantOperation::Decrypt);
    refused(&host, &more, "AccessDeniedException").await;
}

#[tokio::test]
async fn grants_are_retired_by_those_whom_they_name() {
    let world = World::new().await;
    let (owner, host) = (world.owner(), world.host());
    let key = world.key(None).await;
    // The host may retire the first, as it says so; the second not.
    let retirable = CreateGrantRequest {
        grantee_principal: Some(OWNER.to_owned()),
        retiring_principal: Some(HOST.to_owned()),
        ..grant(&key, &[GrantOperation::Encrypt])
    };
    let first = owner.call(&retirable).await.unwrap();
    let second = owner
        .call(&grant(&key, &[GrantOperation::Encrypt]))
        .await
        .unwrap();
    let third = owner.call(&retirable).await.unwrap();
    let list = ListRetirableGrantsRequest {
        retiring_principal: Some(HOST.to_owned()),
        limit: Some(1),
        ..ListRetirableGrantsRequest::default()
    };
    let page = owner.call(&list).await.unwrap();
    assert!(page.truncated);
    let rest = ListRetirableGrantsRequest {
        marker: page.next_marker,
        ..list
    };
    let rest = owner.call(&rest).await.unwrap();
    assert_eq!((page.grants.len(), rest.grants.len()), (1, 1));
    assert_eq!(
        page.grants[0].issuing_account.as_deref(),
        Some("arn:aws:iam::111122223333:root")
    );

    let by_token = |token: Option<String>| RetireGrantRequest {
        grant_token: token,
        ..RetireGrantRequest::default()
    };
    let not_its_own = by_token(second.grant_token);
    refused(&host, &not_its_own, "AccessDeniedException").await;
    let retire = by_token(first.grant_token);
    host.call(&retire).await.unwrap();
    refused(&host, &retire, "NotFoundException").await;
    let by_id = RetireGrantRequest {
        key_id: Some(key.clone()),
        grant_id: third.grant_id,
        ..RetireGrantRequest::default()
    };
    host.call(&by_id).await.unwrap();
    assert_eq!(listed(&owner, &key).await, [second.grant_id.unwrap()]);
    for (request, kind) in [
        (
            by_token(Some("token".to_owned())),
            "InvalidGrantTokenException",
        ),
        (RetireGrantRequest::default(), "ValidationException"),
    ] {
        refused(&owner, &request, kind).await;
    }
}

#[tokio::test]
async fn requests_about_grants_get_the_errors_of_aws() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let hmac = made(
        &owner,
        CreateKeyRequest {
            key_spec: Some(KeySpec::Hmac256),
            key_usage: Some(KeyUsage::GenerateVerifyMac),
            ..CreateKeyRequest::default()
        },
    )
    .await;
    let base = || grant(&key, &[GrantOperation::Encrypt]);
    for (request, kind) in [
        (
            CreateGrantRequest {
                grantee_principal: Some("somebody".to_owned()),
                ..base()
            },
            "InvalidArnException",
        ),
        (
            CreateGrantRequest {
                grantee_principal: Some("*".to_owned()),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateGrantRequest {
                grantee_principal: None,
                ..base()
            },
            "ValidationException",
        ),
        (grant(&key, &[]), "ValidationException"),
        (
            grant(&key, &[GrantOperation::from("Destroy")]),
            "ValidationException",
        ),
        (grant(&key, &[GrantOperation::Sign]), "ValidationException"),
        (
            grant("alias/none", &[GrantOperation::Encrypt]),
            "NotFoundException",
        ),
        (
            CreateGrantRequest {
                name: Some("a b".to_owned()),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateGrantRequest {
                dry_run: Some(true),
                ..base()
            },
            "DryRunOperationException",
        ),
        (
            CreateGrantRequest {
                grant_tokens: vec!["x".to_owned()],
                ..base()
            },
            "InvalidGrantTokenException",
        ),
        (
            CreateGrantRequest {
                constraints: Some(GrantConstraints {
                    encryption_context_equals: pairs(&[("a", "b")]),
                    ..GrantConstraints::default()
                }),
                ..grant(&hmac, &[GrantOperation::GenerateMac])
            },
            "ValidationException",
        ),
    ] {
        refused(&owner, &request, kind).await;
    }
    let eleven = DescribeKeyRequest {
        key_id: key.clone(),
        grant_tokens: vec!["x".to_owned(); 11],
    };
    let message = refused(&owner, &eleven, "ValidationException").await;
    assert!(message.contains("less than or equal to 10"), "{message}");
    let of_none = ListGrantsRequest {
        key_id: key.clone(),
        grant_id: Some("0".repeat(64)),
        ..ListGrantsRequest::default()
    };
    refused(&owner, &of_none, "InvalidGrantIdException").await;
    let mine = ListGrantsRequest {
        key_id: key.clone(),
        ..ListGrantsRequest::default()
    };
    refused(&world.host(), &mine, "AccessDeniedException").await;

    // And a grant on a key of another kind works, too.
    let for_mac = grant(&hmac, &[GrantOperation::GenerateMac]);
    owner.call(&for_mac).await.unwrap();
    let generate = GenerateMacRequest {
        key_id: hmac,
        message: secret(b"m"),
        mac_algorithm: MacAlgorithm::HmacSha256,
        ..GenerateMacRequest::default()
    };
    assert!(world.host().call(&generate).await.is_ok());
}

#[tokio::test]
async fn a_disabled_key_grants_nothing() {
    let world = World::new().await;
    let owner = world.owner();
    let key = world.key(None).await;
    let disable = DisableKeyRequest {
        key_id: key.clone(),
    };
    let ciphertext = world.ciphertext(&key, b"x", pairs(&[])).await;
    owner
        .call(&grant(&key, &[GrantOperation::Decrypt]))
        .await
        .unwrap();
    owner.call(&disable).await.unwrap();
    let request = grant(&key, &[GrantOperation::Encrypt]);
    refused(&owner, &request, "DisabledException").await;
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        ..DecryptRequest::default()
    };
    refused(&world.host(), &decrypt, "DisabledException").await;
}
