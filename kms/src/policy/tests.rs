//! The rules of `policy.rs`, one test each, and strictness of reading.

use super::*;
use proptest::prelude::*;

const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef";

fn key_policy(text: &str) -> Policy {
    Policy::parse(text, Kind::Key).unwrap()
}

fn identity(text: &str) -> Vec<IdentityPolicy> {
    vec![IdentityPolicy {
        name: "test".to_owned(),
        policy: Policy::parse(text, Kind::Identity).unwrap(),
    }]
}

fn ask(who: &str, context: &Context, key: &Policy, own: &[IdentityPolicy]) -> Decision {
    let principal = Principal::from_arn(who).unwrap();
    decide(
        &Question {
            principal: &principal,
            action: "kms:Decrypt",
            resource: KEY,
            resource_account: "111122223333",
            context,
        },
        Some(key),
        &own.to_vec().into(),
        &[],
    )
}

const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
const OTHER: &str = "arn:aws:iam::444455556666:user/mallory";
const ALLOW_ALL: &str =
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
const DELEGATES: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"Enable IAM policies",
    "Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},
    "Action":"kms:*","Resource":"*"}]}"#;

fn names(who: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Sid":"S","Effect":"Allow",
        "Principal":{{"AWS":"{who}"}},"Action":"kms:Decrypt","Resource":"*"}}}}"#
    )
}

#[test]
fn naming_the_principal_suffices_within_the_account() {
    let context = Context::new();
    let decision = ask(ALICE, &context, &key_policy(&names(ALICE)), &[]);
    assert!(decision.is_allowed());
    assert_eq!(decision.reason(), "allowed by statement S");
}

#[test]
fn naming_the_account_is_delegation_only() {
    let context = Context::new();
    let policy = key_policy(DELEGATES);
    let refused = ask(ALICE, &context, &policy, &[]);
    assert_eq!(
        refused.outcome(),
        Outcome::Unmentioned(Source::IdentityPolicy)
    );
    assert_eq!(
        refused.reason(),
        "statement Enable IAM policies of the key policy leaves kms:Decrypt to the account's own \
         policies, and no policy of arn:aws:iam::111122223333:user/alice allows it"
    );
    assert!(ask(ALICE, &context, &policy, &identity(ALLOW_ALL)).is_allowed());
    let root = "arn:aws:iam::111122223333:root";
    assert!(ask(root, &context, &policy, &[]).is_allowed());
}

#[test]
fn an_identity_policy_alone_opens_no_key() {
    let policy = key_policy(&names("arn:aws:iam::111122223333:user/bob"));
    let decision = ask(ALICE, &Context::new(), &policy, &identity(ALLOW_ALL));
    assert_eq!(decision.outcome(), Outcome::Unmentioned(Source::KeyPolicy));
    // Not even for the account's root user.
    let root = "arn:aws:iam::111122223333:root";
    assert!(!ask(root, &Context::new(), &policy, &[]).is_allowed());
}

#[test]
fn another_account_needs_both_policies() {
    let context = Context::new();
    for text in [names(OTHER), names("444455556666"), names("*")] {
        let policy = key_policy(&text);
        assert!(!ask(OTHER, &context, &policy, &[]).is_allowed(), "{text}");
        assert!(
            ask(OTHER, &context, &policy, &identity(ALLOW_ALL)).is_allowed(),
            "{text}"
        );
    }
    let root = "arn:aws:iam::444455556666:root";
    assert!(!ask(root, &context, &key_policy(&names("*")), &[]).is_allowed());
    let closed = key_policy(&names(ALICE));
    assert!(!ask(OTHER, &context, &closed, &identity(ALLOW_ALL)).is_allowed());
}

#[test]
fn a_deny_wins_wherever_it_stands() {
    let context = Context::new();
    let deny_by_account = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},
        {"Sid":"No","Effect":"Deny","Principal":{"AWS":"111122223333"},"Action":"kms:De*","Resource":"*"}]}"#;
    let decision = ask(
        ALICE,
        &context,
        &key_policy(deny_by_account),
        &identity(ALLOW_ALL),
    );
    assert_eq!(decision.outcome(), Outcome::Denied(Source::KeyPolicy));
    assert_eq!(decision.reason(), "statement No denies kms:Decrypt");
    let own_deny = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","NotAction":"kms:Encrypt","Resource":"*"}}"#;
    let decision = ask(
        ALICE,
        &context,
        &key_policy(&names(ALICE)),
        &identity(own_deny),
    );
    assert_eq!(decision.outcome(), Outcome::Denied(Source::IdentityPolicy));
}

#[test]
fn a_measurement_that_differs_is_named_expected_and_found() {
    let policy = key_policy(
        r#"{"Version":"2012-10-17","Statement":{"Sid":"AllowEnclave","Effect":"Allow",
        "Principal":{"AWS":"arn:aws:iam::111122223333:user/alice"},"Action":"kms:Decrypt","Resource":"*",
        "Condition":{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:PCR8":"BB"},
                     "StringEquals":{"kms:RecipientAttestation:ImageSha384":["aa","ab"]}}}}"#,
    );
    let mut context = Context::new();
    context.put("kms:RecipientAttestation:ImageSha384", "cc");
    context.put("kms:RecipientAttestation:PCR8", "bb");
    let decision = ask(ALICE, &context, &policy, &[]);
    assert_eq!(
        decision.reason(),
        "statement AllowEnclave: kms:RecipientAttestation:ImageSha384 expected aa or ab, found cc"
    );
    let principal = Principal::from_arn(ALICE).unwrap();
    let question = Question {
        principal: &principal,
        action: "kms:Decrypt",
        resource: KEY,
        resource_account: "111122223333",
        context: &context,
    };
    assert_eq!(
        decision.message(&question),
        format!(
            "User: {ALICE} is not authorized to perform: kms:Decrypt on resource: {KEY} because no \
             resource-based policy allows the kms:Decrypt action"
        )
    );
    context.put("kms:RecipientAttestation:ImageSha384", "ab");
    assert!(ask(ALICE, &context, &policy, &[]).is_allowed());
    let missing = ask(ALICE, &Context::new(), &policy, &[]);
    assert!(
        missing.reason().contains("found nothing"),
        "{}",
        missing.reason()
    );
}

#[test]
fn actions_ignore_case_and_resources_do_not() {
    let policy = |action: &str, resource: &str| {
        key_policy(&format!(
            r#"{{"Statement":{{"Effect":"Allow","Principal":"*","Action":"{action}","Resource":"{resource}"}}}}"#
        ))
    };
    let context = Context::new();
    assert!(ask(ALICE, &context, &policy("KMS:decrypt", "*"), &[]).is_allowed());
    assert!(ask(ALICE, &context, &policy("kms:D?crypt", KEY), &[]).is_allowed());
    assert!(!ask(ALICE, &context, &policy("s3:*", "*"), &[]).is_allowed());
    let upper = KEY.replace("abcdef", "ABCDEF");
    assert!(!ask(ALICE, &context, &policy("kms:*", &upper), &[]).is_allowed());
}

#[test]
fn not_resource_and_not_action_are_understood() {
    let policy = key_policy(
        r#"{"Statement":{"Effect":"Allow","Principal":"*","NotAction":"kms:Encrypt","NotResource":"arn:aws:kms:*:*:key/ff*"}}"#,
    );
    assert!(ask(ALICE, &Context::new(), &policy, &[]).is_allowed());
    let policy = key_policy(&format!(
        r#"{{"Statement":{{"Effect":"Allow","Principal":"*","NotAction":"kms:Encrypt","NotResource":"{KEY}"}}}}"#
    ));
    assert!(!ask(ALICE, &Context::new(), &policy, &[]).is_allowed());
}

#[test]
fn policies_that_are_not_understood_in_full_are_refused() {
    let s = |inside: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{{{inside}}}]}}"#);
    let ok = r#""Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*""#;
    assert!(Policy::parse(&s(ok), Kind::Key).is_ok());
    let texts = [
        String::new(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"Version":"2012-10-17","Statement":[]}"#.to_owned(),
        r#"{"Version":"2012-10-18","Statement":[]}"#.to_owned(),
        format!(r#"{{"Version":"2012-10-18","Statement":{{{ok}}}}}"#),
        format!(r#"{{"Version":"2012-10-17","Statements":{{{ok}}}}}"#),
        format!(r#"{{"Version":"2012-10-17","Version":"2012-10-17","Statement":{{{ok}}}}}"#),
        format!(r#"{{"Statement":{{{ok}}}}} x"#),
        s(&format!(r#"{ok},"Conditions":{{}}"#)),
        s(&format!(r#"{ok},"effect":"Allow""#)),
        s(&format!(r#"{ok},"NotAction":"kms:*""#)),
        s(&format!(r#"{ok},"NotResource":"*""#)),
        s(&format!(r#"{ok},"NotPrincipal":"*""#)),
        s(r#""Effect":"allow","Principal":"*","Action":"kms:*","Resource":"*""#),
        s(r#""Principal":"*","Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Allow","Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Deny","Principal":"*","Resource":"*""#),
        s(r#""Effect":"Deny","Principal":"*","Action":"kms:*""#),
        s(r#""Effect":"Allow","NotPrincipal":"*","Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Allow","Principal":"alice","Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Allow","Principal":{},"Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Allow","Principal":{"AWS":[]},"Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Allow","Principal":{"Federated":"x"},"Action":"kms:*","Resource":"*""#),
        s(r#""Effect":"Allow","Principal":"*","Action":[],"Resource":"*""#),
        s(r#""Effect":"Allow","Principal":"*","Action":"Decrypt","Resource":"*""#),
        s(r#""Effect":"Allow","Principal":"*","Action":["kms:*",1],"Resource":"*""#),
        s(r#""Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"key/1""#),
        s(&format!(r#"{ok},"Condition":[]"#)),
        s(&format!(r#"{ok},"Condition":{{"StringEquals":"x"}}"#)),
        s(&format!(
            r#"{ok},"Condition":{{"StringEquals":{{"aws:userid":[]}}}}"#
        )),
        s(&format!(
            r#"{ok},"Condition":{{"StringEquals":{{"aws:userid":{{}}}}}}"#
        )),
        s(&format!(
            r#"{ok},"Condition":{{"StringIs":{{"aws:userid":"x"}}}}"#
        )),
        format!(r#"{{"Statement":[{{"Sid":"A",{ok}}},{{"Sid":"A",{ok}}}]}}"#),
        format!(
            r#"{{"Id":"{}","Statement":{{{ok}}}}}"#,
            "x".repeat(MAX_POLICY_BYTES)
        ),
    ];
    for text in texts {
        assert!(
            Policy::parse(&text, Kind::Key).is_err(),
            "accepted: {}",
            &text[..text.len().min(300)]
        );
    }
    assert!(Policy::parse(&s(ok), Kind::Identity).is_err());
}

#[test]
fn variables_take_their_values_from_the_request() {
    let own = identity(
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*",
        "Condition":{"StringEquals":{"kms:EncryptionContext:owner":"${aws:username}"}}}}"#,
    );
    let policy = key_policy(DELEGATES);
    let mut context = Context::new();
    context.put("aws:username", "alice");
    context.put("kms:EncryptionContext:owner", "alice");
    assert!(ask(ALICE, &context, &policy, &own).is_allowed());
    context.put("kms:EncryptionContext:owner", "bob");
    assert!(!ask(ALICE, &context, &policy, &own).is_allowed());
    // In the older version the text stands for itself.
    let old = identity(
        r#"{"Version":"2008-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*",
        "Condition":{"StringEquals":{"kms:EncryptionContext:owner":"${aws:username}"}}}}"#,
    );
    context.put("kms:EncryptionContext:owner", "${aws:username}");
    assert!(ask(ALICE, &context, &policy, &old).is_allowed());
}

#[test]
fn a_foreign_root_s_document_opens_nothing_that_does_not_name_it() {
    let mut foreign = Context::new();
    foreign.put("anchorhold:Anchor", "ab".repeat(32));
    let mut aws = Context::new();
    aws.put(
        "anchorhold:Anchor",
        hex::encode(anchorhold_attestation::Anchor::aws_nitro().fingerprint()),
    );
    let none = Context::new();
    let by_name = key_policy(&names(ALICE));
    let delegates = key_policy(DELEGATES);
    let naming = key_policy(&names(ALICE).replace(
        r#""Resource""#,
        &format!(
            r#""Condition":{{"StringEquals":{{"anchorhold:Anchor":"{}"}}}},"Resource""#,
            "ab".repeat(32)
        ),
    ));
    let own = identity(ALLOW_ALL);
    for (context, key, own, allowed) in [
        (&none, &by_name, &own[..0], true),
        (&aws, &by_name, &own[..0], true),
        (&foreign, &by_name, &own[..0], false),
        (&aws, &delegates, &own[..], true),
        (&foreign, &delegates, &own[..], false),
        (&foreign, &naming, &own[..0], true),
        (&aws, &naming, &own[..0], false),
        (&none, &naming, &own[..0], false),
    ] {
        let decision = ask(ALICE, context, key, own);
        assert_eq!(decision.is_allowed(), allowed, "{}", decision.reason());
    }
    // Nor does the root user's own right, where no policy was asked.
    let root = Principal::from_arn("arn:aws:iam::111122223333:root").unwrap();
    for (context, allowed) in [(&none, true), (&aws, true), (&foreign, false)] {
        let question = Question {
            principal: &root,
            action: "kms:GenerateRandom",
            resource: "*",
            resource_account: "111122223333",
            context,
        };
        let decision = decide(&question, None, &Permissions::default(), &[]);
        assert_eq!(decision.is_allowed(), allowed);
    }
    // A Deny holds whoever vouches.
    let denied = key_policy(
        r#"{"Statement":{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*"}}"#,
    );
    assert_eq!(
        ask(ALICE, &foreign, &denied, &own).outcome(),
        Outcome::Denied(Source::KeyPolicy)
    );
}

#[test]
fn boundaries_and_session_policies_limit_what_aws_says_they_limit() {
    const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/Host/i-01";
    const ROLE: &str = "arn:aws:iam::111122223333:role/Host";
    let allow = |action: &str| {
        identity(&format!(
            r#"{{"Statement":{{"Effect":"Allow","Action":"{action}","Resource":"*"}}}}"#
        ))
    };
    let judge = |who: &str, key: &str, boundary: Option<&str>, session: Option<&str>, own: bool| {
        let principal = Principal::from_arn(who).unwrap();
        let context = Context::new();
        let question = Question {
            principal: &principal,
            action: "kms:Decrypt",
            resource: KEY,
            resource_account: "111122223333",
            context: &context,
        };
        let permissions = Permissions {
            policies: if own { allow("kms:*") } else { Vec::new() },
            boundary: boundary.and_then(|action| allow(action).pop()),
            session: session.map(allow).unwrap_or_default(),
        };
        decide(&question, Some(&key_policy(key)), &permissions, &[]).outcome()
    };
    let (no, yes) = (Some("kms:Encrypt"), Some("kms:Dec*"));
    let boundary = Outcome::Unmentioned(Source::PermissionsBoundary);
    let session = Outcome::Unmentioned(Source::SessionPolicy);
    for (who, key, limit, in_session, outcome) in [
        // By delegation both limit.
        (ALICE, DELEGATES.to_owned(), no, None, boundary),
        (ALICE, DELEGATES.to_owned(), yes, None, Outcome::Allowed),
        (SESSION, DELEGATES.to_owned(), None, no, session),
        (SESSION, DELEGATES.to_owned(), yes, yes, Outcome::Allowed),
        // The role's name in the key policy is limited, a user's and a session's is not.
        (SESSION, names(ROLE), no, None, boundary),
        (SESSION, names(ROLE), None, no, session),
        (SESSION, names(ROLE), yes, yes, Outcome::Allowed),
        (SESSION, names(SESSION), no, no, Outcome::Allowed),
        (ALICE, names(ALICE), no, None, Outcome::Allowed),
        (SESSION, names("*"), no, no, Outcome::Allowed),
    ] {
        assert_eq!(
            judge(who, &key, limit, in_session, true),
            outcome,
            "{who} {key} {limit:?} {in_session:?}"
        );
    }
    // A boundary and a session policy allow nothing by themselves.
    assert_eq!(
        judge(SESSION, DELEGATES, yes, yes, false),
        Outcome::Unmentioned(Source::IdentityPolicy)
    );
}

#[test]
fn federated_and_service_principals_name_nobody_here() {
    for principal in [
        r#"{"Federated":"cognito-identity.amazonaws.com"}"#,
        r#"{"Federated":"arn:aws:iam::111122223333:saml-provider/x"}"#,
        r#"{"Service":"ec2.amazonaws.com"}"#,
        r#"{"Service":["ec2.amazonaws.com","s3.amazonaws.com"]}"#,
    ] {
        let policy = key_policy(&format!(
            r#"{{"Statement":{{"Effect":"Allow","Principal":{principal},"Action":"*","Resource":"*"}}}}"#
        ));
        assert!(!ask(ALICE, &Context::new(), &policy, &identity(ALLOW_ALL)).is_allowed());
    }
}

#[test]
fn what_aws_kms_refuses_is_refused_in_its_words() {
    let parse = |text: &str| Policy::parse(text, Kind::Key).unwrap_err().message();
    for principal in [
        r#"{"CanonicalUser":"79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"}"#,
        r#"{"AWS":"AIDACKCEVSQ6C2EXAMPLE"}"#,
        r#"{"AWS":"arn:aws:iam::111122223333:role/*"}"#,
        r#"{"Service":"ec2"}"#,
        r#"{"Federated":"x"}"#,
    ] {
        assert_eq!(
            parse(&format!(
                r#"{{"Statement":{{"Effect":"Allow","Principal":{principal},"Action":"*","Resource":"*"}}}}"#
            )),
            "Policy contains a statement with one or more invalid principals.",
            "{principal}"
        );
    }
    for (key, what) in [
        ("kms:EncryptionContext:AppName", "encryption context"),
        ("aws:RequestTag/team", "tag"),
    ] {
        let text = format!(
            r#"{{"Statement":{{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*",
            "Condition":{{"ForAllValues:StringEquals":{{"{key}":"x"}}}}}}}}"#
        );
        assert_eq!(
            parse(&text),
            format!(
                "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key matches requests without the specified {what} or with an unspecified {what}. To fix, remove ForAllValues."
            )
        );
    }
    for strange in ['\u{0}', '\u{7f}', '\u{85}', '\u{100}', '\u{1f512}'] {
        let text = format!(r#"{{"Id":"{strange}","Statement":[]}}"#);
        assert!(parse(&text).contains("character"), "{strange:?}");
    }
}

#[test]
fn a_statement_without_action_or_resource_has_no_effect_and_a_deny_without_is_refused() {
    for lacking in [
        r#""Action":"kms:*""#,
        r#""Resource":"*""#,
        r#""Sid":"Nothing""#,
    ] {
        let text = |effect: &str| {
            format!(r#"{{"Statement":{{"Effect":"{effect}","Principal":"*",{lacking}}}}}"#)
        };
        let policy = key_policy(&text("Allow"));
        assert!(!ask(ALICE, &Context::new(), &policy, &identity(ALLOW_ALL)).is_allowed());
        assert!(Policy::parse(&text("Deny"), Kind::Key).is_err());
    }
    let own = r#"{"Statement":{"Effect":"Allow","Action":"kms:*"}}"#;
    assert!(Policy::parse(own, Kind::Identity).is_err());
}

fn any_statement() -> impl Strategy<Value = String> {
    let principal = prop::sample::select(vec![
        r#""*""#,
        r#"{"AWS":"111122223333"}"#,
        r#"{"AWS":"arn:aws:iam::111122223333:user/alice"}"#,
        r#"{"AWS":"arn:aws:iam::444455556666:user/mallory"}"#,
    ]);
    let action = prop::sample::select(vec!["kms:*", "kms:Decrypt", "kms:Encrypt"]);
    let operator = prop::sample::select(vec![
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIfExists",
        "ForAnyValue:StringEquals",
        "StringLike",
    ]);
    let value = prop::sample::select(vec!["a", "b"]);
    (any::<bool>(), principal, action, operator, value).prop_map(
        |(allow, principal, action, operator, value)| {
            let effect = if allow { "Allow" } else { "Deny" };
            format!(
                r#"{{"Effect":"{effect}","Principal":{principal},"Action":"{action}","Resource":"*",
                "Condition":{{"{operator}":{{"kms:EncryptionContext:k":"{value}"}}}}}}"#
            )
        },
    )
}

proptest! {
    /// Removing Allow statements never opens anything, removing Deny statements never closes.
    #[test]
    fn fewer_allows_open_nothing(
        statements in prop::collection::vec(any_statement(), 1..6),
        drop in any::<prop::sample::Index>(),
        found in prop::option::of(prop::sample::select(vec!["a", "b", "c"])),
    ) {
        let mut context = Context::new();
        if let Some(found) = found {
            context.put("kms:EncryptionContext:k", found);
        }
        let join = |list: &[String]| key_policy(&format!(r#"{{"Statement":[{}]}}"#, list.join(",")));
        let before = ask(ALICE, &context, &join(&statements), &[]).is_allowed();
        let mut fewer = statements.clone();
        let removed = fewer.remove(drop.index(statements.len()));
        if fewer.is_empty() {
            return Ok(());
        }
        let after = ask(ALICE, &context, &join(&fewer), &[]).is_allowed();
        if removed.contains(r#""Effect":"Allow""#) {
            prop_assert!(before || !after);
        } else {
            prop_assert!(!before || after);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text, Kind::Key);
        let _ = Policy::parse(&format!(r#"{{"Statement":{text}}}"#), Kind::Identity);
    }
}
