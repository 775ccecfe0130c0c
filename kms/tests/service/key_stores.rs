//! Custom key stores, as far as no token is needed. Those with one are in `tests/tokens`.

use crate::{Calls, World, refused};
use anchorhold_kms::config::Cluster;
use anchorhold_kms_wire::shapes::{
    ConnectCustomKeyStoreRequest, ConnectionErrorCode, ConnectionState,
    CreateCustomKeyStoreRequest, CreateKeyRequest, CustomKeyStoreType, CustomKeyStoresListEntry,
    DeleteCustomKeyStoreRequest, DescribeCustomKeyStoresRequest, DisconnectCustomKeyStoreRequest,
    GenerateRandomRequest, Origin, SecretText, UpdateCustomKeyStoreRequest,
};
use std::path::PathBuf;
use zeroize::Zeroizing;

const ONE: &str = "cluster-anchorhold2a";
const COPY: &str = "cluster-anchorhold2b";
const OTHER: &str = "cluster-anchorhold2c";
const FOREIGN: &str = "cluster-anchorhold2d";
const PASSWORD: &str = "correct horse battery";

fn certificate() -> rcgen::Certificate {
    let made = rcgen::generate_simple_self_signed(["cluster".to_owned()]).unwrap();
    made.cert
}

/// A service with clusters whose module is not there; `ONE` and `COPY` share a trust anchor.
async fn world(anchor: &rcgen::Certificate) -> World {
    let cluster = |id: &str, account: &str, is_related: bool| Cluster {
        id: id.to_owned(),
        account: account.to_owned(),
        module: PathBuf::from("/nowhere/module.so"),
        token: id.to_owned(),
        trust_anchor: is_related.then(|| anchor.der().to_vec()),
    };
    let clusters = vec![
        cluster(ONE, "111122223333", true),
        cluster(COPY, "111122223333", true),
        cluster(OTHER, "111122223333", false),
        cluster(FOREIGN, "999999999999", false),
    ];
    World::with(|config| config.clusters = clusters).await
}

fn password(text: &str) -> Option<SecretText> {
    Some(SecretText::new(Zeroizing::new(text.to_owned())))
}

fn create(name: &str, cluster: &str, anchor: &rcgen::Certificate) -> CreateCustomKeyStoreRequest {
    CreateCustomKeyStoreRequest {
        custom_key_store_name: name.to_owned(),
        cloud_hsm_cluster_id: Some(cluster.to_owned()),
        trust_anchor_certificate: Some(anchor.pem()),
        key_store_password: password(PASSWORD),
        ..CreateCustomKeyStoreRequest::default()
    }
}

async fn made(owner: &Calls, request: CreateCustomKeyStoreRequest) -> String {
    let answer = owner.call(&request).await.unwrap();
    answer.custom_key_store_id.unwrap()
}

async fn described(owner: &Calls, id: &str) -> CustomKeyStoresListEntry {
    let request = DescribeCustomKeyStoresRequest {
        custom_key_store_id: Some(id.to_owned()),
        ..DescribeCustomKeyStoresRequest::default()
    };
    let mut answer = owner.call(&request).await.unwrap();
    assert_eq!(answer.custom_key_stores.len(), 1);
    answer.custom_key_stores.remove(0)
}

fn connect(id: &str) -> ConnectCustomKeyStoreRequest {
    ConnectCustomKeyStoreRequest {
        custom_key_store_id: id.to_owned(),
    }
}

fn disconnect(id: &str) -> DisconnectCustomKeyStoreRequest {
    DisconnectCustomKeyStoreRequest {
        custom_key_store_id: id.to_owned(),
    }
}

fn delete(id: &str) -> DeleteCustomKeyStoreRequest {
    DeleteCustomKeyStoreRequest {
        custom_key_store_id: id.to_owned(),
    }
}

#[tokio::test]
async fn a_key_store_is_made_of_a_cluster_that_the_configuration_names_for_the_account() {
    let anchor = certificate();
    let world = world(&anchor).await;
    let owner = world.owner();
    let base = || create("store", ONE, &anchor);
    for (request, kind) in [
        (
            create("s", FOREIGN, &anchor),
            "CloudHsmClusterNotFoundException",
        ),
        (
            create("s", "cluster-abcdefg2345", &anchor),
            "CloudHsmClusterNotFoundException",
        ),
        (
            create("s", "cluster-anchorhold1", &anchor),
            "ValidationException",
        ),
        (
            create("s", "/usr/lib/module.so", &anchor),
            "ValidationException",
        ),
        (create("", ONE, &anchor), "ValidationException"),
        (
            create("s", ONE, &certificate()),
            "IncorrectTrustAnchorException",
        ),
        (
            CreateCustomKeyStoreRequest {
                trust_anchor_certificate: Some("not a certificate".to_owned()),
                ..create("s", OTHER, &anchor)
            },
            "IncorrectTrustAnchorException",
        ),
        (
            CreateCustomKeyStoreRequest {
                trust_anchor_certificate: None,
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateCustomKeyStoreRequest {
                cloud_hsm_cluster_id: None,
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateCustomKeyStoreRequest {
                key_store_password: None,
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateCustomKeyStoreRequest {
                key_store_password: password("short1"),
                ..base()
            },
            "ValidationException",
        ),
        (
            CreateCustomKeyStoreRequest {
                custom_key_store_type: Some(CustomKeyStoreType::ExternalKeyStore),
                ..base()
            },
            "UnsupportedOperationException",
        ),
    ] {
        let message = refused(&owner, &request, kind).await;
        assert!(
            !message.contains("short1") && !message.contains(PASSWORD),
            "{message}"
        );
    }
    refused(&world.host(), &base(), "AccessDeniedException").await;

    let id = made(&owner, base()).await;
    let entry = described(&owner, &id).await;
    assert!(id.starts_with("cks-") && id.len() == 21, "{id}");
    assert_eq!(entry.custom_key_store_name.as_deref(), Some("store"));
    assert_eq!(entry.cloud_hsm_cluster_id.as_deref(), Some(ONE));
    assert_eq!(entry.trust_anchor_certificate, Some(anchor.pem()));
    assert_eq!(entry.connection_state, Some(ConnectionState::Disconnected));
    assert_eq!(
        entry.custom_key_store_type,
        Some(CustomKeyStoreType::AwsCloudhsm)
    );
    assert!(entry.creation_date.is_some() && entry.connection_error_code.is_none());

    let again = create("another", ONE, &anchor);
    refused(&owner, &again, "CloudHsmClusterInUseException").await;
    let copy = create("another", COPY, &anchor);
    refused(&owner, &copy, "CloudHsmClusterInUseException").await;
    let name = create("store", OTHER, &anchor);
    refused(&owner, &name, "CustomKeyStoreNameInUseException").await;
    made(&owner, create("another", OTHER, &anchor)).await;
    // Another Region has names of its own, and sees none of these.
    let there = world.owner_in("eu-west-1");
    let all = DescribeCustomKeyStoresRequest::default();
    let found = there.call(&all).await.unwrap();
    assert!(found.custom_key_stores.is_empty());
    refused(&there, &connect(&id), "CustomKeyStoreNotFoundException").await;

    // Neither the log nor the store shows the password.
    let log = std::fs::read(world.audit_path()).unwrap();
    let store = std::fs::read(world.folder.path().join("store.redb")).unwrap();
    for bytes in [log, store] {
        assert!(
            !bytes
                .windows(PASSWORD.len())
                .any(|part| part == PASSWORD.as_bytes())
        );
    }
}

#[tokio::test]
async fn key_stores_are_listed_in_parts_by_id_and_by_name() {
    let anchor = certificate();
    let world = world(&anchor).await;
    let owner = world.owner();
    let mut ids = vec![
        made(&owner, create("one", ONE, &anchor)).await,
        made(&owner, create("two", OTHER, &anchor)).await,
    ];
    ids.sort();
    let base = DescribeCustomKeyStoresRequest::default;
    let all = owner.call(&base()).await.unwrap();
    let found: Vec<_> = all
        .custom_key_stores
        .iter()
        .map(|entry| entry.custom_key_store_id.clone().unwrap())
        .collect();
    assert_eq!(found, ids);
    assert!(!all.truncated && all.next_marker.is_none());
    let first = owner
        .call(&DescribeCustomKeyStoresRequest {
            limit: Some(1),
            ..base()
        })
        .await
        .unwrap();
    assert!(first.truncated);
    let rest = owner
        .call(&DescribeCustomKeyStoresRequest {
            marker: first.next_marker,
            ..base()
        })
        .await
        .unwrap();
    assert_eq!(
        rest.custom_key_stores[0].custom_key_store_id.as_ref(),
        Some(&ids[1])
    );
    let by_name = DescribeCustomKeyStoresRequest {
        custom_key_store_name: Some("two".to_owned()),
        ..base()
    };
    assert_eq!(
        owner.call(&by_name).await.unwrap().custom_key_stores.len(),
        1
    );
    for (request, kind) in [
        (
            DescribeCustomKeyStoresRequest {
                custom_key_store_name: Some("three".to_owned()),
                ..base()
            },
            "CustomKeyStoreNotFoundException",
        ),
        (
            DescribeCustomKeyStoresRequest {
                custom_key_store_id: Some("cks-0".to_owned()),
                ..base()
            },
            "CustomKeyStoreNotFoundException",
        ),
        (
            DescribeCustomKeyStoresRequest {
                custom_key_store_id: Some(ids[0].clone()),
                ..by_name
            },
            "ValidationException",
        ),
        (
            DescribeCustomKeyStoresRequest {
                limit: Some(0),
                ..base()
            },
            "ValidationException",
        ),
        (
            DescribeCustomKeyStoresRequest {
                marker: Some("!".to_owned()),
                ..base()
            },
            "InvalidMarkerException",
        ),
    ] {
        refused(&owner, &request, kind).await;
    }
}

#[tokio::test]
async fn a_key_store_whose_token_is_not_there_fails_and_can_be_mended_and_removed() {
    let anchor = certificate();
    let world = world(&anchor).await;
    let owner = world.owner();
    let id = made(&owner, create("store", ONE, &anchor)).await;
    let state = "CustomKeyStoreInvalidStateException";
    refused(&owner, &disconnect(&id), state).await;
    let key = CreateKeyRequest {
        origin: Some(Origin::AwsCloudhsm),
        custom_key_store_id: Some(id.clone()),
        ..CreateKeyRequest::default()
    };
    refused(&owner, &key, state).await;
    let random = GenerateRandomRequest {
        number_of_bytes: Some(8),
        custom_key_store_id: Some(id.clone()),
        ..GenerateRandomRequest::default()
    };
    refused(&owner, &random, state).await;

    owner.call(&connect(&id)).await.unwrap();
    let entry = described(&owner, &id).await;
    assert_eq!(entry.connection_state, Some(ConnectionState::Failed));
    assert_eq!(
        entry.connection_error_code,
        Some(ConnectionErrorCode::ClusterNotFound)
    );
    let rename = UpdateCustomKeyStoreRequest {
        custom_key_store_id: id.clone(),
        new_custom_key_store_name: Some("renamed".to_owned()),
        ..UpdateCustomKeyStoreRequest::default()
    };
    refused(&owner, &connect(&id), state).await;
    refused(&owner, &rename, state).await;
    refused(&owner, &delete(&id), state).await;
    refused(&owner, &key, state).await;
    // It stays so over a restart.
    let world = world.restarted().await;
    let owner = world.owner();
    let entry = described(&owner, &id).await;
    assert_eq!(entry.connection_state, Some(ConnectionState::Failed));

    owner.call(&disconnect(&id)).await.unwrap();
    owner.call(&rename).await.unwrap();
    let entry = described(&owner, &id).await;
    assert_eq!(entry.custom_key_store_name.as_deref(), Some("renamed"));
    assert_eq!(entry.connection_state, Some(ConnectionState::Disconnected));
    owner.call(&delete(&id)).await.unwrap();
    let absent = "CustomKeyStoreNotFoundException";
    refused(&owner, &delete(&id), absent).await;
    refused(&owner, &connect(&id), absent).await;
    refused(&owner, &disconnect(&id), absent).await;
    refused(&owner, &rename, absent).await;
    refused(&owner, &random, absent).await;
}

#[tokio::test]
async fn a_key_store_moves_only_to_a_cluster_that_shares_its_trust_anchor() {
    let anchor = certificate();
    let world = world(&anchor).await;
    let owner = world.owner();
    let id = made(&owner, create("store", ONE, &anchor)).await;
    let update = |cluster: &str| UpdateCustomKeyStoreRequest {
        custom_key_store_id: id.clone(),
        cloud_hsm_cluster_id: Some(cluster.to_owned()),
        key_store_password: password("another password"),
        ..UpdateCustomKeyStoreRequest::default()
    };
    let unrelated = "CloudHsmClusterNotRelatedException";
    refused(&owner, &update(OTHER), unrelated).await;
    refused(&owner, &update(FOREIGN), "CloudHsmClusterNotFoundException").await;
    owner.call(&update(COPY)).await.unwrap();
    let entry = described(&owner, &id).await;
    assert_eq!(entry.cloud_hsm_cluster_id.as_deref(), Some(COPY));
    refused(&world.host(), &update(COPY), "AccessDeniedException").await;
}
