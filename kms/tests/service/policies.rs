//! Key policies as the service applies them: what only the running service can show.

use crate::{World, pairs, refused, secret};
use anchorhold_kms::Identity;
use anchorhold_kms::policy::{IdentityPolicy, Kind, Policy, Principal};
use anchorhold_kms_wire::shapes::{
    Blob, CreateAliasRequest, CreateKeyRequest, DecryptRequest, DescribeKeyRequest, EncryptRequest,
    PutKeyPolicyRequest,
};
use zeroize::Zeroizing;

fn put(key: &str, policy: &str, bypass: bool) -> PutKeyPolicyRequest {
    PutKeyPolicyRequest {
        key_id: key.to_owned(),
        policy: policy.to_owned(),
        bypass_policy_lockout_safety_check: bypass.then_some(true),
        ..PutKeyPolicyRequest::default()
    }
}

fn allow(who: &str, actions: &str, condition: &str) -> String {
    format!(
        r#"{{"Sid":"{who}","Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/{who}"}},
        "Action":{actions},"Resource":"*","Condition":{{{condition}}}}}"#
    )
}

fn policy(statements: &[String]) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{}]}}"#,
        statements.join(",")
    )
}

fn encrypt(key: &str, context: &[(&str, &str)]) -> EncryptRequest {
    EncryptRequest {
        key_id: key.to_owned(),
        plaintext: secret(b"x"),
        encryption_context: pairs(context),
        ..EncryptRequest::default()
    }
}

#[tokio::test]
async fn a_policy_that_locks_the_caller_out_is_refused_unless_told_otherwise() {
    let world = World::new().await;
    let key = world.key(None).await;
    let locked = policy(&[allow("host", r#""kms:*""#, "")]);
    let message = refused(
        &world.owner(),
        &put(&key, &locked, false),
        "MalformedPolicyDocumentException",
    )
    .await;
    assert_eq!(
        message,
        "The new key policy will not allow you to update the key policy in the future."
    );
    world.owner().call(&put(&key, &locked, true)).await.unwrap();
    // And so it is.
    refused(
        &world.owner(),
        &put(&key, &locked, true),
        "AccessDeniedException",
    )
    .await;
    assert!(world.host().call(&encrypt(&key, &[])).await.is_ok());
}

#[tokio::test]
async fn the_word_to_pass_over_the_lock_out_check_is_a_condition_key_only_where_the_request_has_it()
{
    let world = World::new().await;
    // Whoever says it, whatever they say, is refused; who is silent is not.
    let said = r#""Null":{"kms:BypassPolicyLockoutSafetyCheck":"false"}"#;
    let deny = format!(
        r#"{{"Sid":"No","Effect":"Deny","Principal":"*","Action":"kms:PutKeyPolicy","Resource":"*","Condition":{{{said}}}}}"#
    );
    let text = policy(&[allow("owner", r#""kms:*""#, ""), deny]);
    let key = world.key(Some(text.clone())).await;
    let request = |bypass| PutKeyPolicyRequest {
        bypass_policy_lockout_safety_check: bypass,
        ..put(&key, &text, false)
    };
    world.owner().call(&request(None)).await.unwrap();
    for bypass in [true, false] {
        refused(
            &world.owner(),
            &request(Some(bypass)),
            "AccessDeniedException",
        )
        .await;
    }
    // A statement for those who say no does not reach those who say nothing.
    let says_no = r#""Bool":{"kms:BypassPolicyLockoutSafetyCheck":"false"}"#;
    let text = policy(&[
        allow("owner", r#"["kms:DescribeKey","kms:ListKeys"]"#, ""),
        allow("owner", r#""kms:PutKeyPolicy""#, says_no)
            .replace(r#""Sid":"owner""#, r#""Sid":"aloud""#),
    ]);
    let created = CreateKeyRequest {
        policy: Some(text.clone()),
        bypass_policy_lockout_safety_check: Some(true),
        ..CreateKeyRequest::default()
    };
    let key = crate::made(&world.owner(), created).await;
    refused(
        &world.owner(),
        &put(&key, &text, false),
        "AccessDeniedException",
    )
    .await;
    let aloud = PutKeyPolicyRequest {
        bypass_policy_lockout_safety_check: Some(false),
        ..put(&key, &text, false)
    };
    // It may be said, and the check then finds that nobody who is silent may change this policy again.
    refused(&world.owner(), &aloud, "MalformedPolicyDocumentException").await;
}

#[tokio::test]
async fn conditions_on_the_encryption_context_hold() {
    let world = World::new().await;
    let context = r#""StringEquals":{"kms:EncryptionContext:App":"cards"},
        "ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["App","Run"]}"#;
    let key = world
        .key(Some(policy(&[
            allow("owner", r#""kms:PutKeyPolicy""#, ""),
            allow("host", r#""kms:Encrypt""#, context),
        ])))
        .await;
    let host = world.host();
    for (pairs, allowed) in [
        (&[("App", "cards")][..], true),
        (&[("App", "cards"), ("Run", "1")], true),
        // Names of condition keys ignore case, values and EncryptionContextKeys do not.
        (&[("app", "cards")], false),
        (&[("App", "Cards")], false),
        (&[("App", "cards"), ("Other", "1")], false),
        (&[], false),
    ] {
        let outcome = host.call(&encrypt(&key, pairs)).await;
        assert_eq!(outcome.is_ok(), allowed, "{pairs:?}");
    }
    refused(&host, &encrypt(&key, &[]), "AccessDeniedException").await;
    assert_eq!(
        world.last_reason(),
        "statement host: kms:EncryptionContext:App expected cards, found nothing"
    );
}

#[tokio::test]
async fn conditions_on_aliases_see_the_name_used_and_the_names_there_are() {
    let world = World::new().await;
    let by_request = r#""StringEquals":{"kms:RequestAlias":"alias/one"}"#;
    let by_resource = r#""ForAnyValue:StringLike":{"kms:ResourceAliases":"alias/t*"}"#;
    let key = world
        .key(Some(policy(&[
            allow("owner", r#"["kms:PutKeyPolicy","kms:CreateAlias"]"#, ""),
            allow("host", r#""kms:Encrypt""#, by_request),
            allow("host", r#""kms:DescribeKey""#, by_resource)
                .replace(r#""Sid":"host""#, r#""Sid":"other""#),
        ])))
        .await;
    let describe = DescribeKeyRequest {
        key_id: key.clone(),
        ..DescribeKeyRequest::default()
    };
    let host = world.host();
    refused(&host, &describe, "AccessDeniedException").await;
    for name in ["alias/one", "alias/two"] {
        let alias = CreateAliasRequest {
            alias_name: name.to_owned(),
            target_key_id: key.clone(),
        };
        world.owner().call(&alias).await.unwrap();
    }
    assert!(host.call(&describe).await.is_ok());
    assert!(host.call(&encrypt("alias/one", &[])).await.is_ok());
    refused(&host, &encrypt("alias/two", &[]), "AccessDeniedException").await;
    refused(&host, &encrypt(&key, &[]), "AccessDeniedException").await;
}

#[tokio::test]
async fn a_deny_by_address_or_transport_holds_for_everyone() {
    let world = World::new().await;
    let deny = |condition: &str| {
        format!(
            r#"{{"Sid":"No","Effect":"Deny","Principal":"*","Action":"kms:Encrypt","Resource":"*","Condition":{{{condition}}}}}"#
        )
    };
    let all = allow("owner", r#""kms:*""#, "");
    for (condition, allowed) in [
        (r#""NotIpAddress":{"aws:SourceIp":"127.0.0.0/8"}"#, true),
        (r#""IpAddress":{"aws:SourceIp":"127.0.0.0/8"}"#, false),
        (r#""Bool":{"aws:SecureTransport":"false"}"#, false),
        (
            r#""DateLessThan":{"aws:CurrentTime":"2020-01-01T00:00:00Z"}"#,
            true,
        ),
        (
            r#""NumericGreaterThan":{"aws:EpochTime":"1500000000"}"#,
            false,
        ),
    ] {
        let key = world
            .key(Some(policy(&[all.clone(), deny(condition)])))
            .await;
        let outcome = world.owner().call(&encrypt(&key, &[])).await;
        assert_eq!(outcome.is_ok(), allowed, "{condition}");
        if !allowed {
            let message =
                refused(&world.owner(), &encrypt(&key, &[]), "AccessDeniedException").await;
            assert!(
                message.ends_with("with an explicit deny in a resource-based policy"),
                "{message}"
            );
            assert!(world.last_reason().starts_with("statement No denies"));
        }
    }
}

#[tokio::test]
async fn sessions_and_other_accounts_are_judged_as_aws_does() {
    let identity = |arn: &str, id: &str, token: Option<&str>, policies: bool| Identity {
        policies: if policies {
            let text = r#"{"Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}"#;
            vec![IdentityPolicy {
                name: "own".to_owned(),
                policy: Policy::parse(text, Kind::Identity).unwrap(),
            }]
        } else {
            Vec::new()
        }
        .into(),
        session_token: token.map(|t| Zeroizing::new(t.to_owned())),
        ..Identity::new(Principal::from_arn(arn).unwrap(), id, "secret")
    };
    let session = "arn:aws:sts::111122223333:assumed-role/Host/i-01";
    let world = World::with(|config| {
        config.identities.extend([
            identity(session, "ASIASESSION00000", None, false),
            identity(
                "arn:aws:iam::444455556666:user/far",
                "AKIAFAR000000000",
                None,
                true,
            ),
            identity(
                "arn:aws:iam::444455556666:user/poor",
                "AKIAPOOR00000000",
                None,
                false,
            ),
            identity(
                "arn:aws:iam::111122223333:user/token",
                "ASIATOKEN0000000",
                Some("token"),
                true,
            ),
        ]);
    })
    .await;
    let principals = r#"{"AWS":["arn:aws:iam::111122223333:role/Host","444455556666"]}"#;
    let key = world
        .key(Some(policy(&[
            allow("owner", r#""kms:*""#, ""),
            format!(
                r#"{{"Sid":"More","Effect":"Allow","Principal":{principals},"Action":"kms:Decrypt","Resource":"*"}}"#
            ),
        ])))
        .await;
    let ciphertext = world.ciphertext(&key, b"x", pairs(&[])).await;
    let decrypt = DecryptRequest {
        ciphertext_blob: Some(Blob(ciphertext)),
        key_id: Some(key),
        ..DecryptRequest::default()
    };
    for (id, allowed) in [
        ("ASIASESSION00000", true),
        ("AKIAFAR000000000", true),
        ("AKIAPOOR00000000", false),
    ] {
        let client = world.client(id, "secret");
        assert_eq!(client.call(&decrypt).await.is_ok(), allowed, "{id}");
    }
    // The right signature without the token that goes with it.
    let client = world.client("ASIATOKEN0000000", "secret");
    refused(&client, &decrypt, "UnrecognizedClientException").await;
    let line = world
        .audit()
        .into_iter()
        .find(|l| l["userIdentity"]["type"] == "AssumedRole")
        .unwrap();
    assert_eq!(line["userIdentity"]["arn"], session);
}
