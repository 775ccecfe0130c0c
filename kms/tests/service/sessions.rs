//! Temporary credentials: their token, their end, their tags, and the policies that limit them.

use crate::{World, pairs, refused};
use anchorhold_kms::Identity;
use anchorhold_kms::policy::{IdentityPolicy, Kind, Permissions, Policy, Principal};
use anchorhold_kms_wire::client::{Client, Endpoint, Fixed, Limits, Tcp, TlsTrust};
use anchorhold_kms_wire::shapes::{Blob, DecryptRequest, DescribeKeyRequest};
use anchorhold_kms_wire::sigv4::Credentials;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/Host/i-01";
const ID: &str = "ASIASESSION00000";
const TOKEN: &str = "the/token+of=this-session";

fn own(text: &str) -> Vec<IdentityPolicy> {
    vec![IdentityPolicy {
        name: "own".to_owned(),
        policy: Policy::parse(text, Kind::Identity).unwrap(),
    }]
}

fn session(expires: SystemTime) -> Identity {
    Identity {
        policies: Permissions {
            policies: own(
                r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*",
                "Condition":{"StringEquals":{"kms:EncryptionContext:team":"${aws:PrincipalTag/team}"}}}}"#,
            ),
            boundary: None,
            session: own(
                r#"{"Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}"#,
            ),
        },
        tags: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        session_token: Some(Zeroizing::new(TOKEN.to_owned())),
        expires: Some(expires),
        ..Identity::new(Principal::from_arn(SESSION).unwrap(), ID, "secret")
    }
}

fn client(world: &World, secret: &str, token: Option<&str>) -> Client<Tcp, Fixed> {
    let endpoint = Endpoint {
        url: world.running.url(),
        region: "us-east-1".to_owned(),
        tls: TlsTrust::PlainHttp,
    };
    let credentials = Credentials {
        session_token: token.map(|token| Zeroizing::new(token.to_owned())),
        ..Credentials::new(ID, secret.to_owned())
    };
    Client::new(&endpoint, Tcp, Fixed::new(credentials))
        .unwrap()
        .with_limits(Limits {
            attempts: 1,
            ..Limits::default()
        })
}

#[tokio::test]
async fn a_session_is_known_by_its_token_and_until_it_ends() {
    let soon = SystemTime::now() + Duration::from_secs(3600);
    let world = World::with(|config| config.identities.push(session(soon))).await;
    let request = DescribeKeyRequest {
        key_id: "alias/none".to_owned(),
        ..DescribeKeyRequest::default()
    };
    // Known, and told that there is no such alias.
    let good = client(&world, "secret", Some(TOKEN));
    refused(&good, &request, "NotFoundException").await;
    let invalid = "The security token included in the request is invalid.";
    for token in [None, Some("another"), Some(""), Some(&TOKEN[1..])] {
        let stranger = client(&world, "secret", token);
        let said = refused(&stranger, &request, "UnrecognizedClientException").await;
        assert_eq!(said, invalid, "{token:?}");
    }
    let forger = client(&world, "another secret", Some(TOKEN));
    refused(&forger, &request, "InvalidSignatureException").await;
}

#[tokio::test]
async fn a_session_that_has_ended_is_told_so_if_it_holds_its_secret() {
    let past = SystemTime::now() - Duration::from_secs(1);
    let world = World::with(|config| config.identities.push(session(past))).await;
    let request = DescribeKeyRequest {
        key_id: "alias/none".to_owned(),
        ..DescribeKeyRequest::default()
    };
    let late = client(&world, "secret", Some(TOKEN));
    let said = refused(&late, &request, "ExpiredTokenException").await;
    assert_eq!(
        said,
        "The security token included in the request is expired"
    );
    let forger = client(&world, "another secret", Some(TOKEN));
    refused(&forger, &request, "InvalidSignatureException").await;
    assert_eq!(
        world.audit().last().unwrap()["userIdentity"]["type"],
        "Unknown"
    );
}

#[tokio::test]
async fn a_session_does_what_its_role_its_tags_and_its_session_policy_allow_together() {
    let soon = SystemTime::now() + Duration::from_secs(3600);
    let world = World::with(|config| config.identities.push(session(soon))).await;
    let key = world.key(None).await;
    let host = client(&world, "secret", Some(TOKEN));
    for (team, allowed) in [("blue", true), ("red", false)] {
        let context = pairs(&[("team", team)]);
        let ciphertext = world.ciphertext(&key, b"x", context.clone()).await;
        let decrypt = DecryptRequest {
            ciphertext_blob: Some(Blob(ciphertext)),
            encryption_context: context,
            ..DecryptRequest::default()
        };
        assert_eq!(host.call(&decrypt).await.is_ok(), allowed, "{team}");
    }
    let generate = anchorhold_kms_wire::shapes::GenerateDataKeyRequest {
        key_id: key,
        number_of_bytes: Some(16),
        encryption_context: pairs(&[("team", "blue")]),
        ..Default::default()
    };
    let said = refused(&host, &generate, "AccessDeniedException").await;
    assert!(
        said.ends_with("because no session policy allows the kms:GenerateDataKey action"),
        "{said}"
    );
}
