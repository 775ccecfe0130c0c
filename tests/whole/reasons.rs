//! Why was it refused, would it be, and is the log that says so the one that the service wrote: the commands for a
//! key's owner.

use std::ffi::OsStr;
use std::process::Output;

use crate::common::{House, Who};

const OWNER: &str = "arn:aws:iam::111122223333:user/owner";
const HOST: &str = "arn:aws:iam::111122223333:user/host";

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A key that the host may use inside one image only, and the host's vain attempt to seal under it.
fn refused_call() -> (House, crate::common::KeyService, String) {
    let mut house = House::new();
    let service = house.key_service(&[]);
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Enclave", "Effect": "Allow", "Principal": {"AWS": HOST}, "Action": "kms:GenerateDataKey",
         "Resource": "*", "Condition": {"StringEquals": {"kms:RecipientAttestation:ImageSha384": "ab".repeat(48)}}}]});
    let policy = house.write("policy.json", policy.to_string());
    house.key("alias/measured", &policy);
    house.must_fail(
        Who::Host,
        ["seal", "--key", "alias/measured", "--input", "policy.json"],
    );
    let id = house.audit().pop().expect("a line")["requestID"]
        .as_str()
        .expect("an id")
        .to_owned();
    (house, service, id)
}

#[test]
fn a_refusal_is_explained_to_the_owner_with_expected_and_found() {
    let (house, _service, id) = refused_call();
    let told = house.must(Who::Owner, ["kms", "explain", &id]);
    let told = String::from_utf8(told).expect("UTF-8");
    for part in [
        id.as_str(),
        HOST,
        "refused AccessDeniedException",
        "because statement Enclave",
        "key policy, Allow Owner: is about other principals",
        "NOT MET kms:RecipientAttestation:ImageSha384 (PCR0) StringEquals",
        &format!("expected  {}", "ab".repeat(48)),
        "found     nothing",
        "the request carried no attestation document",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let last = house.must(Who::Owner, ["kms", "explain", "--last"]);
    assert_eq!(String::from_utf8(last).expect("UTF-8"), told);
    let line = house.must(Who::Owner, ["kms", "explain", &id, "--json"]);
    let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!(line["requestID"], id.as_str());
    let created = house.audit()[0]["requestID"]
        .as_str()
        .expect("an id")
        .to_owned();
    let told = house.must(Who::Owner, ["kms", "explain", &created]);
    assert!(String::from_utf8_lossy(&told).contains("allowed allowed by statement"));
    house.must_fail(Who::Owner, ["kms", "explain", "no-such-request"]);
}

#[test]
fn the_log_is_verified_and_an_edit_is_found() {
    let (house, service, _) = refused_call();
    drop(service);
    let verify = |more: &[&str]| {
        let arguments = ["kms", "audit", "verify", "--state", "kms"]
            .iter()
            .chain(more);
        house.run(Who::Owner, arguments.map(OsStr::new))
    };
    let good = verify(&[]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    assert!(text(&good).contains("every line is as the service wrote it"));
    let path = house.path("kms/audit.ndjson");
    let log = std::fs::read_to_string(&path).expect("a log");
    std::fs::write(&path, log.replacen("user/host", "user/nobody", 1)).expect("written");
    let edited = verify(&["--json"]);
    assert_eq!(edited.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&edited.stdout).expect("JSON");
    assert_eq!(report["good"], false);
    assert!(
        report["findings"][0]["what"]
            .as_str()
            .expect("a text")
            .contains("was changed"),
        "{report}"
    );
    let absent = house.run(
        Who::Owner,
        ["kms", "audit", "verify", "--state", "no-such-folder"],
    );
    assert_eq!(absent.status.code(), Some(2));
}

#[test]
fn a_supposed_request_is_judged_by_its_exit_code_and_in_words() {
    let house = House::new();
    house.write(
        "key.json",
        r#"{"Version":"2012-10-17","Statement":[
        {"Sid":"Account","Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"},
        {"Sid":"NoDelete","Effect":"Deny","Principal":"*","Action":"kms:ScheduleKeyDeletion","Resource":"*"}]}"#,
    );
    house.write(
        "own.json",
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*",
        "Condition":{"StringEquals":{"kms:EncryptionContext:purpose":"${aws:PrincipalTag/purpose}"}}}}"#,
    );
    house.write(
        "grant.json",
        r#"{"GranteePrincipal":"arn:aws:iam::111122223333:user/host","Operations":["Decrypt"],
        "Constraints":{"EncryptionContextSubset":{"purpose":"tokens"}}}"#,
    );
    house.write("broken.json", "{");
    let simulate = |arguments: &[&str]| {
        let arguments = ["kms", "simulate"].iter().chain(arguments);
        house.run(Who::Owner, arguments.map(OsStr::new))
    };
    let decrypt = ["--policy", "key.json", "--action", "kms:Decrypt"];
    let with = |more: &[&'static str]| -> Output {
        let all: Vec<&str> = decrypt
            .iter()
            .copied()
            .chain(more.iter().copied())
            .collect();
        simulate(&all)
    };
    for (more, code, words) in [
        (
            &["--principal", HOST][..],
            1,
            "leaves kms:Decrypt to the account",
        ),
        (
            &[
                "--identity-policy",
                "own.json",
                "--tag",
                "purpose=tokens",
                "--context",
                "purpose=tokens",
            ],
            0,
            "allowed by statement Account",
        ),
        (
            &[
                "--identity-policy",
                "own.json",
                "--tag",
                "purpose=cards",
                "--context",
                "purpose=tokens",
            ],
            1,
            "NOT MET kms:EncryptionContext:purpose",
        ),
        (
            &[
                "--principal",
                HOST,
                "--grant",
                "grant.json",
                "--context",
                "purpose=tokens",
            ],
            0,
            "grant supposed",
        ),
        (
            &["--principal", HOST, "--grant", "grant.json"],
            1,
            "found     nothing",
        ),
        (&["--principal", "host"], 2, ""),
        (&["--policy", "broken.json"], 2, ""),
        (&["--identity-policy", "absent.json"], 2, ""),
    ] {
        let output = with(more);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {said}");
        assert!(said.contains(words), "{more:?}: {said}");
    }
    let denied = simulate(&[
        "--policy",
        "key.json",
        "--identity-policy",
        "own.json",
        "--action",
        "kms:ScheduleKeyDeletion",
        "--json",
    ]);
    assert_eq!(denied.status.code(), Some(1));
    let verdict: serde_json::Value = serde_json::from_slice(&denied.stdout).expect("JSON");
    assert_eq!(verdict["allowed"], false);
    assert!(
        verdict["message"]
            .as_str()
            .expect("a text")
            .ends_with("with an explicit deny in a resource-based policy")
    );
}
