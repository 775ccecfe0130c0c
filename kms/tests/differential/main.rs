//! The policy engine beside `iam-rs`, another implementation: the same policies, the same requests.
//!
//! Where the two differ, AWS's documentation decides, and the difference is a test of its own below, with what each
//! says. The generator makes what both understand alike. `ANCHORHOLD_DIFFERENTIAL_CASES` sets how many cases each of
//! the two tests tries; with `-- --nocapture` it is printed how many were. Millions take minutes, with `--release`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says how far it came"
)]

use anchorhold_kms::policy::{
    Context, IdentityPolicy, Kind, Permissions, Policy, Principal, Question, decide,
};
use iam_rs::{
    Arn, Context as TheirContext, ContextValue, Decision, IAMPolicy, IAMRequest, PolicyEvaluator,
    Principal as TheirPrincipal, PrincipalId,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;

const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef";
const ALICE: &str = "arn:aws:iam::111122223333:user/alice";

/// A request: what is asked, and its condition keys.
#[derive(Debug, Clone)]
struct Request {
    action: &'static str,
    keys: Vec<(&'static str, Found)>,
}

#[derive(Debug, Clone)]
enum Found {
    Text(&'static str),
    Truth(bool),
    Several(Vec<&'static str>),
}

impl Request {
    fn ours(&self) -> Context {
        let mut context = Context::new();
        for (key, found) in &self.keys {
            match found {
                Found::Text(text) => context.put(key, *text),
                Found::Truth(truth) => context.put(key, truth.to_string()),
                Found::Several(all) => {
                    context.put_all(key, all.iter().map(ToString::to_string));
                }
            }
        }
        context
    }

    fn theirs(&self) -> TheirContext {
        let mut context = TheirContext::new();
        for (key, found) in &self.keys {
            let value = match found {
                Found::Text(text) => ContextValue::String((*text).to_owned()),
                Found::Truth(truth) => ContextValue::Boolean(*truth),
                Found::Several(all) if all.is_empty() => continue,
                Found::Several(all) => {
                    ContextValue::StringList(all.iter().map(ToString::to_string).collect())
                }
            };
            context.insert((*key).to_owned(), value);
        }
        context
    }
}

/// Whether our engine allows: with the policy on the principal, or on the key.
fn ours(policy: &str, kind: Kind, request: &Request) -> bool {
    let context = request.ours();
    let principal = Principal::from_arn(ALICE).unwrap();
    let policy = Policy::parse(policy, kind).unwrap_or_else(|e| panic!("{e}: {policy}"));
    let has_key = kind == Kind::Key;
    let question = Question {
        principal: &principal,
        action: request.action,
        resource: KEY,
        resource_account: "111122223333",
        context: &context,
    };
    let own = IdentityPolicy {
        name: "own".to_owned(),
        policy: policy.clone(),
    };
    if has_key {
        decide(&question, Some(&policy), &Permissions::default(), &[]).is_allowed()
    } else {
        decide(&question, None, &vec![own].into(), &[]).is_allowed()
    }
}

/// Whether the other engine allows.
fn theirs(policy: &str, request: &Request) -> bool {
    let policy: IAMPolicy =
        serde_json::from_str(policy).unwrap_or_else(|e| panic!("{e}: {policy}"));
    let principal = TheirPrincipal::Aws(PrincipalId::String(ALICE.to_owned()));
    let asked = IAMRequest::new_with_context(
        principal,
        request.action,
        Arn::parse(KEY).unwrap(),
        request.theirs(),
    );
    let decided = PolicyEvaluator::with_policies(vec![policy]).evaluate(&asked);
    decided.unwrap().decision == Decision::Allow
}

fn several<S: Strategy>(
    values: S,
    size: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(values, size)
}

fn texts() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "A", "ab", "abc", "a*", "*", "?b", ""])
}

fn plain_texts() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "A", "ab", "abc", "xyz", ""])
}

/// An operator with a key that it suits, and values of its kind.
fn condition() -> impl Strategy<Value = (String, &'static str, Vec<&'static str>)> {
    let numbers = || select(vec!["1", "2", "10", "-1", "0.5", "0.50", "1000000"]);
    let dates = || {
        select(vec![
            "2024-12-31T23:59:59Z",
            "2025-01-01T00:00:00Z",
            "2025-01-01T01:00:00+01:00",
            "1735689600",
            "1735689601",
        ])
    };
    let networks = || {
        select(vec![
            "10.0.0.0/8",
            "10.1.2.3",
            "0.0.0.0/0",
            "192.168.0.0/16",
            "2001:db8::/32",
            "::1",
            "::/0",
        ])
    };
    let text_operators = select(vec![
        "StringEquals",
        "StringNotEquals",
        "StringEqualsIgnoreCase",
        "StringNotEqualsIgnoreCase",
        "StringLike",
        "StringNotLike",
    ]);
    let if_exists = |operator: &str, suffix: bool| {
        format!("{operator}{}", if suffix { "IfExists" } else { "" })
    };
    prop_oneof![
        (
            text_operators.clone(),
            any::<bool>(),
            select(vec!["aws:UserAgent", "kms:RequestAlias", "kms:KeySpec"]),
            several(texts(), 1..4)
        )
            .prop_map(move |(o, s, k, v)| (if_exists(o, s), k, v)),
        (
            select(vec!["ForAllValues", "ForAnyValue"]),
            text_operators,
            select(vec!["kms:EncryptionContextKeys", "kms:ResourceAliases"]),
            several(texts(), 1..4)
        )
            .prop_map(|(q, o, k, v)| (format!("{q}:{o}"), k, v)),
        (
            select(vec![
                "NumericEquals",
                "NumericNotEquals",
                "NumericLessThan",
                "NumericLessThanEquals",
                "NumericGreaterThan",
                "NumericGreaterThanEquals",
            ]),
            any::<bool>(),
            several(numbers(), 1..3)
        )
            .prop_map(move |(o, s, v)| (if_exists(o, s), "kms:RotationPeriodInDays", v)),
        (
            select(vec![
                "DateEquals",
                "DateNotEquals",
                "DateLessThan",
                "DateLessThanEquals",
                "DateGreaterThan",
                "DateGreaterThanEquals",
            ]),
            any::<bool>(),
            several(dates(), 1..3)
        )
            .prop_map(move |(o, s, v)| (if_exists(o, s), "aws:CurrentTime", v)),
        (any::<bool>(), several(select(vec!["true", "false"]), 1..3)).prop_map(move |(s, v)| (
            if_exists("Bool", s),
            "aws:SecureTransport",
            v
        )),
        (
            select(vec!["IpAddress", "NotIpAddress"]),
            any::<bool>(),
            several(networks(), 1..4)
        )
            .prop_map(move |(o, s, v)| (if_exists(o, s), "aws:SourceIp", v)),
        (
            select(vec!["ArnLike", "ArnNotLike"]),
            any::<bool>(),
            several(
                select(vec![
                    "arn:aws:iam::111122223333:user/alice",
                    "arn:aws:iam::111122223333:user/*",
                    "arn:aws:iam::444455556666:user/alice",
                    "arn:aws:iam::*:user/al?ce",
                ]),
                1..3
            )
        )
            .prop_map(move |(o, s, v)| (if_exists(o, s), "aws:PrincipalArn", v)),
        (
            select(vec!["true", "false"]),
            select(vec![
                "aws:UserAgent",
                "kms:EncryptionContextKeys",
                "aws:SourceIp"
            ])
        )
            .prop_map(|(v, k)| ("Null".to_owned(), k, vec![v])),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let text = |key| prop::option::of(plain_texts().prop_map(move |v| (key, Found::Text(v))));
    let many = |key| {
        prop::option::of(
            prop::collection::vec(plain_texts(), 0..4).prop_map(move |v| (key, Found::Several(v))),
        )
    };
    let one_of = |key, values: Vec<&'static str>| {
        prop::option::of(select(values).prop_map(move |v| (key, Found::Text(v))))
    };
    (
        select(vec!["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"]),
        (
            text("aws:UserAgent"),
            text("kms:RequestAlias"),
            text("kms:KeySpec"),
            many("kms:EncryptionContextKeys"),
            many("kms:ResourceAliases"),
        ),
        (
            one_of(
                "kms:RotationPeriodInDays",
                vec!["1", "2.0", "10", "-1", "0.5", "x", ""],
            ),
            one_of(
                "aws:CurrentTime",
                vec![
                    "2024-12-31T23:59:59Z",
                    "2025-01-01T00:00:00Z",
                    "1735689601",
                    "nonsense",
                ],
            ),
            prop::option::of(any::<bool>().prop_map(|t| ("aws:SecureTransport", Found::Truth(t)))),
            one_of(
                "aws:SourceIp",
                vec!["10.1.2.3", "192.168.1.1", "8.8.8.8", "2001:db8::7", "::1"],
            ),
            one_of(
                "aws:PrincipalArn",
                vec![
                    "arn:aws:iam::111122223333:user/alice",
                    "arn:aws:iam::111122223333:user/alicce",
                    "arn:aws:iam::444455556666:user/alice",
                ],
            ),
        ),
    )
        .prop_map(|(action, (a, b, c, d, e), (f, g, h, i, j))| Request {
            action,
            keys: [a, b, c, d, e, f, g, h, i, j]
                .into_iter()
                .flatten()
                .collect(),
        })
}

fn statement(principals: Vec<&'static str>) -> impl Strategy<Value = String> {
    let action = select(vec![
        r#""Action":"kms:*""#,
        r#""Action":"KMS:decrypt""#,
        r#""Action":["kms:Encrypt","kms:D?crypt"]"#,
        r#""Action":"*""#,
        r#""Action":"s3:*""#,
        r#""NotAction":"kms:Encrypt""#,
        r#""NotAction":["kms:De*","kms:Gen*"]"#,
    ]);
    let resource = select(vec![
        r#""Resource":"*""#,
        r#""Resource":"arn:aws:kms:us-east-1:111122223333:key/*""#,
        r#""Resource":"arn:aws:kms:*:111122223333:key/01234567-89ab-cdef-0123-456789abcdef""#,
        r#""Resource":["arn:aws:kms:us-east-1:111122223333:key/ff*","arn:aws:s3:::b"]"#,
        r#""NotResource":"arn:aws:kms:us-east-1:444455556666:key/*""#,
        r#""NotResource":"arn:aws:kms:us-east-1:111122223333:key/0*""#,
    ]);
    let conditions = prop::collection::vec(condition(), 0..3);
    (
        any::<bool>(),
        select(principals),
        action,
        resource,
        conditions,
    )
        .prop_map(|(allow, principal, action, resource, conditions)| {
            let mut block = serde_json::Map::new();
            for (operator, key, values) in conditions {
                let keys = block
                    .entry(operator)
                    .or_insert_with(|| serde_json::json!({}));
                keys[key] = serde_json::json!(values);
            }
            let effect = if allow { "Allow" } else { "Deny" };
            let condition = if block.is_empty() {
                String::new()
            } else {
                format!(r#","Condition":{}"#, serde_json::Value::Object(block))
            };
            format!(r#"{{"Effect":"{effect}",{principal}{action},{resource}{condition}}}"#)
        })
}

fn cases() -> u32 {
    match std::env::var("ANCHORHOLD_DIFFERENTIAL_CASES") {
        Ok(text) => text
            .parse()
            .expect("ANCHORHOLD_DIFFERENTIAL_CASES must be a number"),
        Err(_) => 4000,
    }
}

fn compare(kind: Kind, principals: Vec<&'static str>) {
    let statements = prop::collection::vec(statement(principals), 1..5);
    let compared = Cell::new(0_u64);
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&(statements, request()), |(statements, request)| {
            let policy = format!(
                r#"{{"Version":"2012-10-17","Statement":[{}]}}"#,
                statements.join(",")
            );
            prop_assert_eq!(
                ours(&policy, kind, &request),
                theirs(&policy, &request),
                "{}",
                policy
            );
            compared.set(compared.get() + 1);
            Ok(())
        })
        .unwrap();
    let (cases, compared) = (cases(), compared.get());
    assert_eq!(compared, u64::from(cases));
    eprintln!("{compared} random policies and requests of the kind {kind:?}: no disagreement");
}

#[test]
fn identity_policies_are_judged_as_another_implementation_judges_them() {
    compare(Kind::Identity, vec![""]);
}

#[test]
fn key_policies_are_judged_as_another_implementation_judges_them() {
    compare(
        Kind::Key,
        vec![
            r#""Principal":"*","#,
            r#""Principal":{"AWS":"*"},"#,
            r#""Principal":{"AWS":"arn:aws:iam::111122223333:user/alice"},"#,
            r#""Principal":{"AWS":["arn:aws:iam::111122223333:user/bob","arn:aws:iam::111122223333:user/alice"]},"#,
            r#""Principal":{"AWS":"arn:aws:iam::444455556666:user/alice"},"#,
            r#""Principal":{"Service":"ec2.amazonaws.com"},"#,
        ],
    );
}

/// One statement with one condition: what each of the two says.
fn both(condition: &str, keys: Vec<(&'static str, Found)>) -> (bool, bool) {
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{condition}}}]}}"#
    );
    let request = Request {
        action: "kms:Decrypt",
        keys,
    };
    (
        ours(&policy, Kind::Identity, &request),
        theirs(&policy, &request),
    )
}

/// AWS, "Condition operators", ARN: "ArnEquals and ArnLike behave identically", so both take wildcards.
#[test]
fn arn_equals_takes_wildcards_here() {
    assert_eq!(
        both(
            r#"{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:user/*"}}"#,
            vec![("aws:PrincipalArn", Found::Text(ALICE))]
        ),
        (true, false)
    );
}

/// AWS, "Condition operators", ARN: each of the six parts is compared by itself, so that a wildcard in
/// the account's place does not reach into the resource.
#[test]
fn a_wildcard_within_an_arn_condition_stays_within_its_part() {
    assert_eq!(
        both(
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:alice"}}"#,
            vec![(
                "aws:PrincipalArn",
                Found::Text("arn:aws:iam::111122223333:user:alice")
            )]
        ),
        (false, true)
    );
}

/// AWS, "Condition operators", Binary: "byte for byte". Base64 does not ignore case.
#[test]
fn binary_values_are_compared_byte_for_byte() {
    let found = || vec![("aws:UserAgent", Found::Text("QUJD"))];
    assert_eq!(
        both(r#"{"BinaryEquals":{"aws:UserAgent":"QUJD"}}"#, found()),
        (true, true)
    );
    assert_eq!(
        both(r#"{"BinaryEquals":{"aws:UserAgent":"qujd"}}"#, found()),
        (false, true)
    );
}

/// AWS, "Variables and tags": variables are replaced in conditions as in resources.
#[test]
fn variables_are_replaced_in_conditions() {
    assert_eq!(
        both(
            r#"{"StringEquals":{"kms:RequestAlias":"${aws:username}"}}"#,
            vec![
                ("aws:username", Found::Text("alice")),
                ("kms:RequestAlias", Found::Text("alice"))
            ]
        ),
        (true, false)
    );
}

/// AWS, "Multivalued context keys": only with a set operator. Here a policy without one is refused when it is
/// read, as it could turn a Deny off; the other takes it for ForAnyValue.
#[test]
fn a_key_of_several_values_needs_a_set_operator() {
    let condition = r#"{"StringEquals":{"kms:EncryptionContextKeys":"a"}}"#;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{condition}}}]}}"#
    );
    assert!(Policy::parse(&policy, Kind::Identity).is_err());
    let request = Request {
        action: "kms:Decrypt",
        keys: vec![("kms:EncryptionContextKeys", Found::Several(vec!["a", "b"]))],
    };
    assert!(theirs(&policy, &request));
}

/// AWS, "Null": a list of values is joined by OR as for any operator.
#[test]
fn null_takes_several_values_as_any_operator_does() {
    assert_eq!(
        both(r#"{"Null":{"aws:UserAgent":["false","true"]}}"#, Vec::new()),
        (true, false)
    );
}

/// AWS, "Principal": an account stands for everyone of it, so a Deny for the account holds for its users.
#[test]
fn a_deny_for_the_account_holds_for_its_users() {
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},
        {"Effect":"Deny","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}"#;
    let request = Request {
        action: "kms:Decrypt",
        keys: Vec::new(),
    };
    assert!(!ours(policy, Kind::Key, &request));
    assert!(theirs(policy, &request));
}

/// AWS, "Principal": "You cannot use a wildcard to match part of a principal name or ARN". The policy is refused here.
#[test]
fn a_wildcard_within_a_principal_is_no_principal() {
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":
        {"AWS":"arn:aws:iam::111122223333:user/*"},"Action":"kms:*","Resource":"*"}]}"#;
    assert!(Policy::parse(policy, Kind::Key).is_err());
    let request = Request {
        action: "kms:Decrypt",
        keys: Vec::new(),
    };
    assert!(theirs(policy, &request));
}

/// AWS, "Resource": a `*` that ends a part of an ARN may reach beyond the colon.
#[test]
fn a_wildcard_at_the_end_of_a_resource_s_part_reaches_beyond_the_colon() {
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*",
        "Resource":"arn:aws:kms:*"}]}"#;
    let request = Request {
        action: "kms:Decrypt",
        keys: Vec::new(),
    };
    assert!(ours(policy, Kind::Identity, &request));
}
