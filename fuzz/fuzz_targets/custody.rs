//! Keys' rules and owners' approvals: the rules come with an image, approvals from whoever reaches the job.
//!
//! Whatever comes in: no panic. Rules that are taken let nobody sign alone where approvals are asked for, and nobody at all
//! without a caller's name or an approval. What no owner has signed approves of nothing, and what one has signed approves of
//! the request that it says and of no other.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use anchorhold_job_custody::approval::{Claims, Form, NotApproved, OwnerKey, approver};
use anchorhold_job_custody::{Algorithm, PrivateKey, Settings};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;

/// PKCS#8 of an Ed25519 key (RFC 8410, section 7) up to its seed.
const BEFORE_SEED: &[u8] = &[
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

static OWNER: LazyLock<(PrivateKey, OwnerKey)> = LazyLock::new(|| {
    let der = [BEFORE_SEED, &[7; 32]].concat();
    let key = PrivateKey::from_pkcs8(Algorithm::Ed25519, &der).expect("a key");
    let public = OwnerKey::parse(&STANDARD.encode(key.public_key())).expect("its public key");
    (key, public)
});

fuzz_target!(|data: &[u8]| {
    settings(data);
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(approves(text, &claims()).is_err(), "nobody has signed this");
        let _ = OwnerKey::parse(text);
    }
    signed(data);
});

fn settings(data: &[u8]) {
    let Ok(settings) = serde_json::from_slice::<Settings>(data) else {
        return;
    };
    if let Ok(ready) = settings.ready(Instant::now()) {
        assert!(!ready.keys.is_empty());
        for key in ready.keys.values() {
            assert!(key.approvals > 0 || !key.callers.is_empty());
            assert!(key.approvals <= key.owners.len());
            assert!(key.callers.iter().all(|caller| ready.callers.has(caller)));
            assert!(
                key.owners
                    .iter()
                    .all(|owner| ready.owners.contains_key(owner))
            );
            assert!((1..=604_800).contains(&key.approval_seconds));
        }
    }
}

fn claims() -> Claims {
    let text = |text: &str| text.to_owned();
    Claims {
        boot: text("00ff"),
        key: text("payments"),
        key_sha256: text("11ee"),
        form: Form::Message,
        input_sha256: text("22dd"),
        purpose: text("payout"),
        expires: 1_800_000_000,
        nonce: text("33cc"),
    }
}

fn approves(approval: &str, expected: &Claims) -> Result<(), NotApproved> {
    approver(approval, expected, |name| {
        (name == "alice").then_some(("alice", &OWNER.1))
    })
    .map(|name| assert_eq!(name, "alice"))
}

/// A payload that the owner has signed.
fn signed(payload: &[u8]) {
    let header = br#"{"alg":"EdDSA","kid":"alice","typ":"custody-approval+jws"}"#;
    let input = [&header[..], payload]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let signature = OWNER.0.sign_message(input.as_bytes()).expect("a signature");
    let approval = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.raw));
    let said = serde_json::from_slice::<Claims>(payload).ok();
    let is_this = said.as_ref() == Some(&claims());
    assert_eq!(
        approves(&approval, &claims()).is_ok(),
        is_this && approval.len() <= 4096
    );
    let Some(said) = said.filter(|_| approval.len() <= 4096) else {
        return;
    };
    assert_eq!(approves(&approval, &said), Ok(()));
    let others: [fn(&mut Claims); 7] = [
        |claims| claims.boot.push('0'),
        |claims| claims.key.push('0'),
        |claims| claims.key_sha256.push('0'),
        |claims| claims.input_sha256.push('0'),
        |claims| claims.purpose.push('0'),
        |claims| claims.expires ^= 1,
        |claims| claims.nonce.push('0'),
    ];
    for change in others {
        let mut other = said.clone();
        change(&mut other);
        assert!(matches!(
            approves(&approval, &other),
            Err(NotApproved::Other(_))
        ));
    }
}
