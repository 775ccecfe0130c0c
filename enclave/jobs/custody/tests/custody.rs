//! What a hostile client and a hostile parent get signed: nothing that the rules and the owners do not permit.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anchorhold_job_custody::approval::{Claims, Form, NotApproved, signing_input};
use anchorhold_job_custody::custody::{Moment, Origin};
use anchorhold_job_custody::key::{Algorithm, PrivateKey};
use anchorhold_job_custody::{Custody, Refusal, Settings, SignRequest};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW_MS: u64 = 1_800_000_000_000;
const TOKEN: &str = "a-token-that-is-long-enough-to-be-one";

struct Owner {
    name: &'static str,
    key: PrivateKey,
}

impl Owner {
    fn new(name: &'static str, algorithm: Algorithm) -> Owner {
        let key = PrivateKey::make(algorithm).unwrap();
        Owner { name, key }
    }

    fn public(&self) -> String {
        STANDARD.encode(self.key.public_key())
    }

    fn algorithm(&self) -> &'static str {
        match self.key {
            PrivateKey::Ed25519(_) => "EdDSA",
            _ => "ES256",
        }
    }

    fn signs(&self, input: &str) -> String {
        let signature = self.key.sign_message(input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.raw))
    }

    fn approves(&self, claims: &Claims) -> String {
        self.signs(&signing_input(self.name, self.algorithm(), claims))
    }
}

struct Stage {
    alice: Owner,
    bob: Owner,
    carol: Owner,
    custody: Custody,
    begun: Instant,
}

fn now_after(begun: Instant, seconds: u64) -> Moment {
    Moment {
        instant: begun + Duration::from_secs(seconds),
        unix_ms: NOW_MS + seconds * 1000,
        uncertainty_ms: 100,
    }
}

impl Stage {
    /// A key `k`, which is there, by these settings of it.
    fn new(key: &Value) -> Stage {
        let alice = Owner::new("alice", Algorithm::Ed25519);
        let bob = Owner::new("bob", Algorithm::P256);
        let carol = Owner::new("carol", Algorithm::Ed25519);
        let token = hex::encode(digest(&SHA256, TOKEN.as_bytes()));
        let settings = json!({
            "callers": { "app": { "token_sha256": token } },
            "owners": { "alice": alice.public(), "bob": bob.public(), "carol": carol.public() },
            "keys": { "k": key, "other": key },
        });
        let settings: Settings = serde_json::from_value(settings).unwrap();
        let begun = Instant::now();
        let custody = Custody::new(settings.ready(begun).unwrap(), begun).unwrap();
        for name in ["k", "other"] {
            let algorithm = custody.describe(name).unwrap().algorithm;
            let pkcs8 = PrivateKey::make(algorithm).unwrap().to_pkcs8();
            custody.put(name, &pkcs8).unwrap();
        }
        Stage {
            alice,
            bob,
            carol,
            custody,
            begun,
        }
    }

    fn of_two() -> Stage {
        Stage::new(&json!({ "algorithm": "p256", "approvals": 2, "owners": ["alice", "bob"] }))
    }

    fn now(&self) -> Moment {
        now_after(self.begun, 0)
    }

    fn approved(&self, request: SignRequest, by: &[&Owner]) -> SignRequest {
        let claims = self.custody.claims("k", &request).unwrap();
        let approvals = by.iter().map(|owner| owner.approves(&claims)).collect();
        SignRequest {
            approvals,
            ..request
        }
    }

    fn sign(&self, request: &SignRequest) -> Result<Vec<String>, Refusal> {
        self.sign_at(request, self.now())
    }

    fn sign_at(&self, request: &SignRequest, now: Moment) -> Result<Vec<String>, Refusal> {
        let signed = self.custody.sign("k", request, None, now);
        signed.map(|(_, by)| by.iter().map(ToString::to_string).collect())
    }
}

fn request(message: &str) -> SignRequest {
    SignRequest {
        form: Form::Message,
        input: message.as_bytes().to_vec(),
        purpose: "payout".to_owned(),
        expires: Some(NOW_MS / 1000 + 60),
        nonce: Some("0123456789abcdef".to_owned()),
        approvals: Vec::new(),
    }
}

#[test]
fn two_owners_approve_of_one_request_and_it_is_signed_once() {
    let stage = Stage::of_two();
    let approved = stage.approved(request("pay 5"), &[&stage.bob, &stage.alice]);
    assert_eq!(stage.sign(&approved).unwrap(), ["bob", "alice"]);
    assert_eq!(stage.sign(&approved), Err(Refusal::Replayed));
    // Also by other approvals of the same, in another order, and when it has long expired.
    let again = stage.approved(request("pay 5"), &[&stage.alice, &stage.bob]);
    assert_eq!(stage.sign(&again), Err(Refusal::Replayed));
    let later = now_after(stage.begun, 61);
    assert!(matches!(
        stage.sign_at(&again, later),
        Err(Refusal::Expiry(_))
    ));
    let anew = SignRequest {
        nonce: Some("another-nonce-of-it".to_owned()),
        ..request("pay 5")
    };
    let anew = stage.approved(anew, &[&stage.alice, &stage.bob]);
    assert!(stage.sign(&anew).is_ok());
}

#[test]
fn an_owner_counts_once_and_who_is_no_owner_of_this_key_not_at_all() {
    let stage = Stage::of_two();
    let short = |approved| {
        Err(Refusal::Approvals {
            approved,
            needed: 2,
        })
    };
    assert_eq!(stage.sign(&request("a")), short(0));
    let alone = stage.approved(request("a"), &[&stage.alice]);
    assert_eq!(stage.sign(&alone), short(1));
    let twice = stage.approved(request("a"), &[&stage.alice, &stage.alice, &stage.alice]);
    assert_eq!(stage.sign(&twice), short(1));
    let stranger = stage.approved(request("a"), &[&stage.alice, &stage.carol]);
    assert_eq!(
        stage.sign(&stranger),
        Err(Refusal::NotApproved(2, NotApproved::Owner))
    );
    // Somebody with a key of their own, under an owner's name.
    let eve = Owner::new("bob", Algorithm::P256);
    let forged = stage.approved(request("a"), &[&stage.alice, &eve]);
    assert_eq!(
        stage.sign(&forged),
        Err(Refusal::NotApproved(2, NotApproved::Signature))
    );
    // None of it was counted.
    let good = stage.approved(request("a"), &[&stage.alice, &stage.bob]);
    assert!(stage.sign(&good).is_ok());
}

#[test]
fn an_approval_is_for_one_request_to_the_letter() {
    type Change = Box<dyn Fn(&mut SignRequest)>;

    let stage = Stage::of_two();
    let approvals = stage
        .approved(request("pay 5"), &[&stage.alice, &stage.bob])
        .approvals;
    let changed: [(&str, Change); 5] = [
        (
            "input_sha256",
            Box::new(|request| request.input = b"pay 50".to_vec()),
        ),
        (
            "purpose",
            Box::new(|request| request.purpose = "refund".to_owned()),
        ),
        (
            "expires",
            Box::new(|request| request.expires = Some(NOW_MS / 1000 + 61)),
        ),
        (
            "nonce",
            Box::new(|request| request.nonce = Some("0123456789abcdeF".to_owned())),
        ),
        ("input_sha256", Box::new(|request| request.input.clear())),
    ];
    for (what, change) in changed {
        let mut other = request("pay 5");
        change(&mut other);
        other.approvals.clone_from(&approvals);
        let refused = Err(Refusal::NotApproved(1, NotApproved::Other(what)));
        assert_eq!(stage.sign(&other), refused);
    }
    // For another key of the same rules.
    let mut same = request("pay 5");
    same.approvals.clone_from(&approvals);
    let other = stage.custody.sign("other", &same, None, stage.now());
    assert_eq!(
        other.unwrap_err(),
        Refusal::NotApproved(1, NotApproved::Other("key"))
    );
    // In another life of the job, even with the very same key: a restart makes no approval good again.
    let again = Stage::of_two();
    let mut claims = stage.custody.claims("k", &request("pay 5")).unwrap();
    assert_ne!(stage.custody.boot(), again.custody.boot());
    let key_sha256 = again.custody.describe("k").unwrap().key_sha256.unwrap();
    claims.key_sha256 = key_sha256;
    let mut replayed = request("pay 5");
    replayed.approvals = vec![again.alice.approves(&claims), again.bob.approves(&claims)];
    assert_eq!(
        again.sign(&replayed),
        Err(Refusal::NotApproved(1, NotApproved::Other("boot")))
    );
    // And for another key in the same place.
    claims.boot = again.custody.boot().to_owned();
    claims.key_sha256 = "00".repeat(32);
    replayed.approvals = vec![again.alice.approves(&claims), again.bob.approves(&claims)];
    assert_eq!(
        again.sign(&replayed),
        Err(Refusal::NotApproved(1, NotApproved::Other("key_sha256")))
    );
}

#[test]
fn a_digest_that_was_approved_is_no_message_and_the_other_way_round() {
    let both =
        json!({ "algorithm": "secp256k1", "approvals": 1, "accepts": ["message", "digest"] });
    let stage = Stage::new(&both);
    let mut as_message = request("x");
    as_message.input = vec![7; 32];
    let approved = stage.approved(as_message, &[&stage.alice]);
    let mut as_digest = approved.clone();
    as_digest.form = Form::Digest;
    assert_eq!(
        stage.sign(&as_digest),
        Err(Refusal::NotApproved(1, NotApproved::Other("form")))
    );
    assert!(stage.sign(&approved).is_ok());
}

#[test]
fn what_is_no_approval_is_none() {
    let stage = Stage::of_two();
    let claims = stage.custody.claims("k", &request("a")).unwrap();
    let good = stage.alice.approves(&claims);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let payload = part(&serde_json::to_value(&claims).unwrap());
    let header = |header: Value| stage.alice.signs(&format!("{}.{payload}", part(&header)));
    let typ = "custody-approval+jws";
    let more = {
        let mut more = serde_json::to_value(&claims).unwrap();
        more["amount"] = json!(1);
        let head = json!({ "alg": "EdDSA", "kid": "alice", "typ": typ });
        stage
            .alice
            .signs(&format!("{}.{}", part(&head), part(&more)))
    };
    let parts: Vec<&str> = good.split('.').collect();
    for (approval, expected) in [
        (String::new(), NotApproved::Form),
        ("..".to_owned(), NotApproved::Form),
        (format!("{}.{}", parts[0], parts[1]), NotApproved::Form),
        (
            format!("{}.{}.", parts[0], parts[1]),
            NotApproved::Signature,
        ),
        (format!("{good}="), NotApproved::Form),
        (format!("{good} "), NotApproved::Form),
        (format!("{}.{good}", parts[0]), NotApproved::Signature),
        ("x".repeat(5000), NotApproved::Form),
        // Algorithms of the attacker's choice: none, another, the owner's public key as a secret.
        (
            header(json!({ "alg": "none", "kid": "alice", "typ": typ })),
            NotApproved::Signature,
        ),
        (
            header(json!({ "alg": "HS256", "kid": "alice", "typ": typ })),
            NotApproved::Signature,
        ),
        (
            header(json!({ "alg": "ES256", "kid": "alice", "typ": typ })),
            NotApproved::Signature,
        ),
        // Signatures for another purpose.
        (
            header(json!({ "alg": "EdDSA", "kid": "alice", "typ": "JWT" })),
            NotApproved::Form,
        ),
        (
            header(json!({ "alg": "EdDSA", "kid": "alice" })),
            NotApproved::Form,
        ),
        (
            header(json!({ "alg": "EdDSA", "kid": "alice", "typ": typ, "crit": ["x"] })),
            NotApproved::Form,
        ),
        (
            header(json!({ "alg": "EdDSA", "kid": "alice", "typ": typ, "jwk": {} })),
            NotApproved::Form,
        ),
        (
            header(json!({ "alg": "EdDSA", "kid": "mallory", "typ": typ })),
            NotApproved::Owner,
        ),
        (more, NotApproved::Form),
    ] {
        let mut asked = request("a");
        asked.approvals = vec![approval.clone(), stage.bob.approves(&claims)];
        assert_eq!(
            stage.sign(&asked),
            Err(Refusal::NotApproved(1, expected)),
            "{approval}"
        );
    }
    let mut many = request("a");
    many.approvals = vec![good; 65];
    assert_eq!(stage.sign(&many), Err(Refusal::Many));
}

#[test]
fn requests_expire_and_none_is_good_for_longer_than_the_manifest_lets_it() {
    let stage =
        Stage::new(&json!({ "algorithm": "ed25519", "approvals": 1, "approval_seconds": 120 }));
    let seconds = NOW_MS / 1000;
    for (expires, good) in [
        (0, false),
        (seconds - 1, false),
        // A tenth of a second is uncertain.
        (seconds, false),
        (seconds + 1, true),
        (seconds + 120, true),
        (seconds + 121, false),
        (u64::MAX, false),
    ] {
        let mut asked = request("a");
        asked.expires = Some(expires);
        asked.nonce = Some(format!("nonce-of-{expires:020}"));
        let asked = stage.approved(asked, &[&stage.carol]);
        let signed = stage.sign(&asked);
        assert_eq!(signed.is_ok(), good, "{expires}: {signed:?}");
        if !good {
            assert_eq!(signed, Err(Refusal::Expiry(120)));
        }
    }
    for (nonce, expires) in [
        (None, Some(1)),
        (Some("x"), None),
        (Some("short"), Some(seconds + 9)),
        (Some("with spaces in it is none"), Some(seconds + 9)),
    ] {
        let mut asked = request("a");
        asked.nonce = nonce.map(str::to_owned);
        asked.expires = expires;
        assert_eq!(stage.sign(&asked), Err(Refusal::Terms));
    }
}

#[test]
fn a_rate_holds_whoever_asks_and_begins_empty_in_each_life() {
    let key = json!({ "algorithm": "p384", "approvals": 1, "rate": { "count": 2, "seconds": 10 } });
    let stage = Stage::new(&key);
    let ask = |n: u64, seconds: u64| {
        let mut asked = request("a");
        asked.nonce = Some(format!("the-nonce-of-number-{n}"));
        asked.expires = Some(NOW_MS / 1000 + seconds + 60);
        let asked = stage.approved(asked, &[&stage.bob]);
        stage.sign_at(&asked, now_after(stage.begun, seconds))
    };
    assert_eq!(ask(1, 0), Err(Refusal::Rate(Duration::from_secs(5))));
    // What was refused for its rate was not used.
    assert!(ask(1, 5).is_ok());
    assert_eq!(ask(2, 6), Err(Refusal::Rate(Duration::from_secs(4))));
    assert!(ask(2, 100).is_ok() && ask(3, 100).is_ok());
    assert!(matches!(ask(4, 100), Err(Refusal::Rate(_))));
    assert!(ask(4, 105).is_ok());
}

#[test]
fn a_key_with_callers_signs_for_them_alone_and_takes_no_approvals_that_it_needs_not() {
    let stage = Stage::new(&json!({ "algorithm": "ed25519", "callers": ["app"] }));
    let mut asked = request("a");
    asked.expires = None;
    asked.nonce = None;
    let by = |caller| {
        let signed = stage.custody.sign("k", &asked, caller, stage.now());
        signed.map(|_| ())
    };
    assert_eq!(by(None), Err(Refusal::Caller));
    let shown = [(
        "authorization".parse().unwrap(),
        format!("Bearer {TOKEN}").parse().unwrap(),
    )];
    let headers: http::HeaderMap = shown.into_iter().collect();
    let app = stage.custody.callers().who(&headers).ok();
    assert_eq!(by(app), Ok(()));
    asked.approvals.push("x".to_owned());
    let signed = stage.custody.sign("k", &asked, app, stage.now());
    assert_eq!(signed.unwrap_err(), Refusal::Many);
}

#[test]
fn rules_purposes_and_forms_are_kept_before_anything_is_counted() {
    let stage = Stage::new(&json!({
        "algorithm": "p256", "approvals": 1, "purposes": ["payout"],
        "rules": { "json": { "amount": { "max": 100 } } },
    }));
    let ask = |message: &str, purpose: &str, form| {
        let mut asked = request(message);
        asked.purpose = purpose.to_owned();
        asked.form = form;
        let asked = stage.approved(asked, &[&stage.alice]);
        stage.sign(&asked)
    };
    assert!(matches!(
        ask(r#"{"amount":101}"#, "payout", Form::Message),
        Err(Refusal::NotPermitted(_))
    ));
    assert!(matches!(
        ask("pay 5", "payout", Form::Message),
        Err(Refusal::NotPermitted(_))
    ));
    assert_eq!(
        ask(r#"{"amount":5}"#, "refund", Form::Message),
        Err(Refusal::Purpose)
    );
    assert_eq!(
        ask(r#"{"amount":5}"#, "", Form::Message),
        Err(Refusal::Purpose)
    );
    assert_eq!(
        ask(&"x".repeat(32), "payout", Form::Digest),
        Err(Refusal::Form)
    );
    // The nonce was not used up by any of them.
    assert!(ask(r#"{"amount":5}"#, "payout", Form::Message).is_ok());
    let long = request(&"x".repeat(300_000));
    assert_eq!(stage.sign(&long), Err(Refusal::Input));
}

#[test]
fn a_key_stays_until_the_end_and_another_does_not_take_its_place() {
    let stage = Stage::of_two();
    let described = stage.custody.describe("k").unwrap();
    assert_eq!((described.origin, described.there), (Origin::Made, true));
    let another = PrivateKey::make(Algorithm::P256).unwrap().to_pkcs8();
    assert_eq!(stage.custody.put("k", &another), Err(Refusal::Taken));
    assert_eq!(stage.custody.is_free("k"), Err(Refusal::Taken));
    let wrong = PrivateKey::make(Algorithm::Secp256k1).unwrap().to_pkcs8();
    assert!(matches!(
        stage.custody.put("k", &wrong),
        Err(Refusal::Key(_))
    ));
    assert_eq!(stage.custody.put("nobody", &another), Err(Refusal::Unknown));
    assert_eq!(stage.custody.describe("k").unwrap(), described);
    // The statement that a document carries is JSON with a known form.
    let (_, statement) = stage.custody.statement("k").unwrap();
    let text = serde_json::to_string(&statement).unwrap();
    let boot = stage.custody.boot();
    assert_eq!(
        text,
        format!(r#"{{"custody":1,"key":"k","algorithm":"p256","origin":"made","boot":"{boot}"}}"#)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_approval_makes_it_panic(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 1..5)) {
        let stage = Stage::of_two();
        for approval in [text, parts.join(".")] {
            let mut asked = request("a");
            asked.approvals = vec![approval];
            prop_assert!(stage.sign(&asked).is_err());
        }
    }

    #[test]
    fn a_changed_byte_is_no_approval(at in 0usize..300, bit in 0u8..6) {
        let stage = Stage::of_two();
        let mut asked = stage.approved(request("a"), &[&stage.alice, &stage.bob]);
        let mut bytes = asked.approvals[0].clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = String::from_utf8(bytes) {
            asked.approvals[0] = changed;
            // The last character of a part may have bits that say nothing; those must be zero.
            prop_assert!(stage.sign(&asked).is_err());
        }
    }
}

#[test]
fn two_at_a_time_are_one_and_a_replay() {
    let stage = Stage::new(&json!({ "algorithm": "ed25519", "approvals": 1 }));
    let asked = stage.approved(request("a"), &[&stage.alice]);
    let signed = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| stage.sign(&asked))).collect();
        let outcomes = tries.into_iter().map(|one| one.join().unwrap().is_ok());
        outcomes.filter(|ok| *ok).count()
    });
    assert_eq!(signed, 1);
    let mut counts: BTreeMap<bool, u32> = BTreeMap::new();
    *counts.entry(stage.sign(&asked).is_ok()).or_default() += 1;
    assert_eq!(counts.get(&true), None);
}
