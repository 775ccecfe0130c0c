//! Key policies and identity policies, read and judged.
//!
//! Whatever comes in: no panic; nothing is allowed where no statement says Allow; and for a
//! stranger's account nothing is allowed by a key policy alone.
#![no_main]

use anchorhold_kms::policy::{
    Context, IdentityPolicy, Kind, Permissions, Policy, Principal, Question, decide,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let key = Policy::parse(text, Kind::Key);
    let policies: Vec<IdentityPolicy> = Policy::parse(text, Kind::Identity)
        .into_iter()
        .map(|policy| IdentityPolicy {
            name: "own".to_owned(),
            policy,
        })
        .collect();
    let identity = Permissions::from(policies);
    let mut context = Context::new();
    context.put("aws:username", "a*");
    context.put("aws:SourceIp", "127.0.0.1");
    context.put("aws:CurrentTime", "2025-01-01T00:00:00Z");
    context.put("kms:RecipientAttestation:ImageSha384", "ab");
    context.put("kms:EncryptionContext:k", "v");
    context.put_all(
        "kms:EncryptionContextKeys",
        ["k".to_owned(), "l".to_owned()],
    );
    for arn in [
        "arn:aws:iam::111122223333:user/a",
        "arn:aws:iam::111122223333:root",
        "arn:aws:sts::444455556666:assumed-role/r/s",
    ] {
        let principal = Principal::from_arn(arn).expect("the ARN is well formed");
        let question = Question {
            principal: &principal,
            action: "kms:Decrypt",
            resource: "arn:aws:kms:us-east-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef",
            resource_account: "111122223333",
            context: &context,
        };
        let _ = decide(&question, None, &identity, &[]);
        if let Ok(policy) = &key {
            let alone = decide(&question, Some(policy), &Permissions::default(), &[]);
            if alone.is_allowed() {
                assert!(alone.trace().iter().any(|s| s.effect == "Allow"));
                assert_eq!(principal.account(), "111122223333");
            }
            let _ = alone.message(&question);
        }
    }
});
