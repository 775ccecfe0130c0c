//! Expectations, and refusals as people and programs read them.

use anchorhold_attestation::{Admitted, Difference, Expectations, Pcr, Refusal, Time, Verified};

use crate::forge::{Payload, Plan, bytes, pcr, pcrs};
use coset::cbor::value::Value;

fn verified(change: impl FnOnce(Payload) -> Payload) -> Verified {
    let chain = Plan::new().issue();
    chain
        .document(&change(chain.payload()))
        .verify(&[chain.anchor()], Time::Document)
        .unwrap()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "expectations are made in place"
)]
fn admit(document: &Verified, expectations: Expectations) -> Result<Admitted, Box<Refusal>> {
    document.clone().admit(&expectations)
}

#[test]
fn a_document_that_is_as_expected_is_admitted_with_its_facts() {
    let document = verified(|payload| payload.set("public_key", bytes(b"key")));
    let admitted = admit(
        &document,
        Expectations::new()
            .pcr(0, [pcr(0)])
            .pcr(15, [pcr(15)])
            .nonce(b"nonce")
            .user_data(b"user data")
            .public_key(b"key")
            .module_id("i-0123456789abcdef0-enc0123456789abcdef"),
    )
    .unwrap();
    assert_eq!(admitted.pcr(0), Some(pcr(0)));
    assert_eq!(admitted.nonce(), Some(b"nonce".as_slice()));
}

#[test]
fn each_image_measurement_alone_names_an_image() {
    let document = verified(|payload| payload);
    for index in [0, 1, 2, 8] {
        assert!(admit(&document, Expectations::new().pcr(index, [pcr(index)])).is_ok());
    }
    assert!(admit(&document, Expectations::new().any_image()).is_ok());
}

#[test]
fn one_of_several_values_is_enough_while_rolling_over() {
    let document = verified(|payload| payload);
    let old = Pcr::from_bytes([0xee; 48]);
    assert!(admit(&document, Expectations::new().pcr(0, [old, pcr(0)])).is_ok());
    assert!(admit(&document, Expectations::new().pcr(0, [old])).is_err());
}

#[test]
fn expecting_an_index_twice_means_both() {
    let document = verified(|payload| payload);
    let other = Pcr::from_bytes([0xee; 48]);
    let expectations = Expectations::new().pcr(0, [pcr(0), other]).pcr(0, [other]);
    assert_eq!(
        admit(&document, expectations)
            .unwrap_err()
            .differences
            .len(),
        1
    );
}

#[test]
fn role_instance_and_signer_are_predicted_from_their_names() {
    let role = "arn:aws:iam::111122223333:role/cards";
    let instance = "i-0123456789abcdef0";
    let signer = b"any DER";
    let document = verified(|payload| {
        payload.set(
            "pcrs",
            pcrs([
                (0, pcr(0)),
                (3, Pcr::of_role(role)),
                (4, Pcr::of_instance(instance)),
                (8, Pcr::of_signing_certificate(signer)),
            ]),
        )
    });
    assert!(
        admit(
            &document,
            Expectations::new()
                .role(role)
                .instance(instance)
                .signed_by(signer)
        )
        .is_ok()
    );
    for (index, expectations) in [
        (
            3,
            Expectations::new().role("arn:aws:iam::111122223333:role/other"),
        ),
        (4, Expectations::new().instance("i-0")),
        (8, Expectations::new().signed_by(b"other DER")),
    ] {
        let refusal = admit(&document, expectations.any_image()).unwrap_err();
        assert!(
            matches!(refusal.differences[..], [Difference::Pcr { index: found, .. }] if found == index),
            "{refusal}"
        );
    }
}

#[test]
fn empty_and_absent_differ() {
    let empty = verified(|payload| payload.set("nonce", bytes([])));
    let null = verified(|payload| payload.set("nonce", Value::Null));
    let absent = verified(|payload| payload.without("nonce"));
    assert_eq!(empty.nonce(), Some([].as_slice()));
    assert_eq!(null.nonce(), None);
    assert_eq!(absent.nonce(), None);
    let expectations = || Expectations::new().any_image().nonce(b"");
    assert!(admit(&empty, expectations()).is_ok());
    assert!(admit(&null, expectations()).is_err());
    assert!(admit(&absent, expectations()).is_err());
}

#[test]
fn a_refusal_lists_everything_that_differs_for_people_and_as_json() {
    let document = verified(|payload| {
        payload
            .set("pcrs", pcrs([0, 1, 2].map(|index| (index, Pcr::ZERO))))
            .set("nonce", bytes([7; 60]))
            .set("user_data", Value::Null)
    });
    let refusal = admit(
        &document,
        Expectations::new()
            .pcr(0, [pcr(0), pcr(1)])
            .pcr(8, [])
            .nonce(b"mine")
            .user_data(b"")
            .public_key(b"key")
            .module_id("another"),
    )
    .unwrap_err();
    assert_eq!(refusal.differences.len(), 7);

    let shown = refusal.to_string();
    let (one, two, zero) = ("01".repeat(48), "02".repeat(48), "00".repeat(48));
    let sevens = "07".repeat(48);
    let expected = format!(
        "the document of i-0123456789abcdef0-enc0123456789abcdef is genuine, but not what is expected:
  debug mode: PCR0, 1 and 2 are zero and the host sees into the enclave; start it without debug mode, or allow debug for a test
  PCR0
    expected {one}
          or {two}
    found    {zero}
  PCR8
    expected nothing: no value is allowed
    found    nothing: the document does not have it
  nonce
    expected 6d696e65
    found    {sevens}… (60 bytes)
  user_data
    expected empty
    found    nothing: the document does not have it
  public_key
    expected 6b6579
    found    nothing: the document does not have it
  module_id
    expected another
    found    i-0123456789abcdef0-enc0123456789abcdef"
    );
    assert_eq!(shown, expected);

    let json = serde_json::to_value(&refusal).unwrap();
    let names = [
        "debug",
        "pcr",
        "pcr",
        "nonce",
        "user-data",
        "public-key",
        "module-id",
    ];
    for (index, difference) in refusal.differences.iter().enumerate() {
        assert_eq!(difference.name(), names[index]);
        assert_eq!(json["differences"][index]["what"], names[index]);
    }
    let unasked = admit(&document, Expectations::new().allow_debug(true)).unwrap_err();
    assert_eq!(unasked.differences[0].name(), "no-image-expected");
    assert_eq!(json["module_id"], document.module_id());
    assert_eq!(json["differences"][0], serde_json::json!({"what": "debug"}));
    assert_eq!(
        json["differences"][1],
        serde_json::json!({"what": "pcr", "index": 0, "expected": [one, two], "found": zero})
    );
    assert_eq!(
        json["differences"][4],
        serde_json::json!({"what": "user-data", "expected": "", "found": null})
    );
}

#[test]
fn without_an_image_the_refusal_says_what_to_name() {
    let document = verified(|payload| payload);
    let refusal = admit(&document, Expectations::new()).unwrap_err();
    assert_eq!(refusal.differences, [Difference::NoImageExpected]);
    assert!(refusal.to_string().contains("name PCR0, 1, 2 or 8"));
}

#[test]
fn a_verified_document_serializes_as_facts_and_a_claim_as_claimed() {
    let document = verified(|payload| payload);
    let json = serde_json::to_value(&document).unwrap();
    assert_eq!(json["debug"], false);
    assert_eq!(json["nonce"], hex::encode("nonce"));
    assert_eq!(json["public_key"], serde_json::Value::Null);
    assert_eq!(json["pcrs"]["0"], "01".repeat(48));

    let chain = Plan::new().issue();
    let unverified = chain.document(&chain.payload());
    let json = serde_json::to_value(unverified.claimed()).unwrap();
    assert_eq!(json["claimed"]["timestamp_ms"], crate::forge::NOW_MS);
    assert!(json.get("module_id").is_none());
    assert_eq!(
        format!("{unverified:?}"),
        format!("Unverified({} bytes)", chain.sign(&chain.payload()).len())
    );
}

#[test]
fn a_documents_debug_form_says_which_it_is_and_not_all_of_it() {
    let shown = format!("{:?}", verified(|payload| payload));
    assert!(
        shown.contains("i-0123456789abcdef0-enc0123456789abcdef"),
        "{shown}"
    );
    assert!(shown.contains(&"01".repeat(48)), "{shown}");
    assert!(!shown.contains("nonce"), "{shown}");
}
