//! Sealed fields from outside: what goes in comes out, and a value opens as nothing but what it was sealed as.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test's failure may be a panic"
)]

use std::collections::BTreeMap;

use anchorhold_envelope::fields::{
    Counts, FieldError, FieldOpener, FieldSealer, Fields, LinesError, Opened, field_context,
    is_sealed, open_lines, seal_lines,
};
use anchorhold_envelope::{DataKey, EncryptedDataKey, EncryptionContext, Error, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

fn key(byte: u8) -> DataKey {
    DataKey::from_bytes([byte; 32].into())
}

fn data_key(byte: u8) -> EncryptedDataKey {
    EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "arn:aws:kms:us-east-1:111122223333:key/1".to_owned(),
        ciphertext: vec![byte; 150],
    }
}

fn context(purpose: &str) -> EncryptionContext {
    [("purpose".to_owned(), purpose.to_owned())].into()
}

fn fields(names: &[&str], row: Option<&str>) -> Fields {
    let fields = Fields::new(names).unwrap();
    match row {
        Some(row) => fields.in_rows_of(row).unwrap(),
        None => fields,
    }
}

/// A sealer under the key of that byte. Each run has a message id of its own.
fn sealer(byte: u8, fields: Fields, purpose: &str) -> FieldSealer {
    let context = field_context(context(purpose));
    let id = anchorhold_envelope::new_message_id().unwrap();
    FieldSealer::new(fields, &context, &[data_key(byte)], key(byte), id).unwrap()
}

fn sealed_in(line: &str, names: &[&str], row: Option<&str>, byte: u8, purpose: &str) -> String {
    let mut out = Vec::new();
    sealer(byte, fields(names, row), purpose)
        .line(line, &mut out)
        .unwrap();
    String::from_utf8(out).unwrap()
}

fn sealed(line: &str, names: &[&str]) -> String {
    sealed_in(line, names, None, 1, "cards")
}

/// The data key that stands behind a header's ciphertext, as the key service would say.
fn of(header: &Header) -> DataKey {
    key(header.data_keys()[0].ciphertext[0])
}

fn opened_by(opener: &mut FieldOpener, line: &str) -> Result<String, FieldError> {
    let mut out = Vec::new();
    loop {
        match opener.line(line, &mut out)? {
            Opened::Line(_) => return Ok(String::from_utf8(out).unwrap()),
            Opened::Needs(header) => opener.admit(&header, of(&header))?,
        }
    }
}

fn opened(line: &str, names: &[&str]) -> Result<String, FieldError> {
    opened_in(line, names, None, "cards")
}

fn opened_in(
    line: &str,
    names: &[&str],
    row: Option<&str>,
    purpose: &str,
) -> Result<String, FieldError> {
    let mut opener = FieldOpener::new(fields(names, row), context(purpose));
    opened_by(&mut opener, line)
}

#[test]
fn what_stands_beside_sealed_values_stays_byte_for_byte() {
    let line = "{ \"id\":1.50, \"pan\" :\t\"4111\\u0031\", \"a\":[1,  2],\"n\":null,\"pan\":{\"x\" : 1}}\r";
    let names = ["pan", "n"];
    let sealed = sealed(line, &names);
    assert!(!sealed.contains("4111"), "{sealed}");
    assert!(sealed.starts_with("{ \"id\":1.50, \"pan\" :\t\"sealed.v1."));
    assert!(sealed.contains(", \"a\":[1,  2],\"n\":\"sealed.v1.") && sealed.ends_with("\"}\r"));
    assert_eq!(opened(&sealed, &names).unwrap(), line);
}

#[test]
fn a_value_that_was_copied_out_of_its_row_still_opens() {
    let row: Value = serde_json::from_str(&sealed(
        r#"{"id":7,"pan":"4111111111111111","cvc":42}"#,
        &["pan", "cvc"],
    ))
    .unwrap();
    let value = row["pan"].as_str().unwrap();
    assert!(is_sealed(value));
    let alone = json!({ "elsewhere": true, "pan": value }).to_string();
    assert_eq!(
        serde_json::from_str::<Value>(&opened(&alone, &["pan"]).unwrap()).unwrap(),
        json!({ "elsewhere": true, "pan": "4111111111111111" })
    );
    let number = json!({ "cvc": row["cvc"] }).to_string();
    assert_eq!(opened(&number, &["cvc"]).unwrap(), "{\"cvc\":42}");
}

#[test]
fn a_value_opens_as_its_own_field_and_as_no_other() {
    let row: Value = serde_json::from_str(&sealed(
        r#"{"pan":"4111","email":"a@b.c","card":{"pan":"5"},"list":["x","y"]}"#,
        &["pan", "email", "card.pan", "list[]"],
    ))
    .unwrap();
    let tag = |outcome: Result<String, FieldError>| {
        assert!(
            matches!(outcome, Err(FieldError::Tag { row: false, .. })),
            "{outcome:?}"
        );
    };
    tag(opened(
        &json!({ "pan": row["email"] }).to_string(),
        &["pan"],
    ));
    tag(opened(
        &json!({ "pan": row["card"]["pan"] }).to_string(),
        &["pan"],
    ));
    tag(opened(
        &json!({ "card": { "pan": row["pan"] } }).to_string(),
        &["card.pan"],
    ));
    tag(opened(
        &json!({ "list": row["list"][0] }).to_string(),
        &["list"],
    ));
    // Places within an array are not told apart.
    let turned = json!({ "list": [row["list"][1], row["list"][0]] }).to_string();
    assert_eq!(
        opened(&turned, &["list[]"]).unwrap(),
        r#"{"list":["y","x"]}"#
    );
    // The same name in another spelling of the key is the same name.
    let escaped = json!({ "pan": row["pan"] })
        .to_string()
        .replace("\"pan\"", "\"p\\u0061n\"");
    assert!(opened(&escaped, &["pan"]).is_ok());
}

#[test]
fn a_value_that_is_bound_to_its_row_opens_in_no_other() {
    let line = |id: &str| format!("{{\"id\":{id},\"pan\":\"4111\"}}");
    let bound = sealed_in(&line("17"), &["pan"], Some("id"), 1, "cards");
    let open = |line: &str, row| opened_in(line, &["pan"], row, "cards");
    assert_eq!(open(&bound, Some("id")).unwrap(), line("17"));
    for other in ["18", "\"17\"", "17.0", "true"] {
        let moved = bound.replace(":17,", &format!(":{other},"));
        assert!(
            matches!(
                open(&moved, Some("id")),
                Err(FieldError::Tag { row: true, .. })
            ),
            "{other}"
        );
    }
    let name = || "pan".to_owned();
    assert_eq!(
        open(&bound, None),
        Err(FieldError::RowBound { name: name() })
    );
    let loose = sealed(&line("17"), &["pan"]);
    assert_eq!(
        open(&loose, Some("id")),
        Err(FieldError::NotRowBound { name: name() })
    );
    assert!(matches!(
        open(&bound.replace("\"id\":17,", ""), Some("id")),
        Err(FieldError::NoRow { .. })
    ));
}

#[test]
fn another_context_or_data_key_opens_nothing() {
    let line = r#"{"pan":"4111"}"#;
    let sealed = sealed(line, &["pan"]);
    assert!(matches!(
        opened_in(&sealed, &["pan"], None, "logs"),
        Err(FieldError::Context { key, .. }) if key == "purpose"
    ));
    let mut opener = FieldOpener::new(fields(&["pan"], None), EncryptionContext::new());
    let mut out = Vec::new();
    let Ok(Opened::Needs(header)) = opener.line(&sealed, &mut out) else {
        panic!("its key is not there yet");
    };
    assert_eq!(header.context(), &field_context(context("cards")));
    assert_eq!(opener.admit(&header, key(2)), Err(Error::Commitment));
    assert!(out.is_empty());
    // What two runs have sealed under one data key has two headers, and neither's value goes behind the other's.
    let again = sealed_in(line, &["pan"], None, 1, "cards");
    let (_, value) = again.rsplit_once('.').unwrap();
    let (header, _) = sealed.rsplit_once('.').unwrap();
    assert!(matches!(
        opened(&format!("{header}.{value}"), &["pan"]),
        Err(FieldError::Tag { .. })
    ));
    // Nor is a key of anything else taken for one of fields.
    let id = [1; 32];
    let plain = FieldSealer::new(
        fields(&["pan"], None),
        &context("cards"),
        &[data_key(1)],
        key(1),
        id,
    );
    assert_eq!(plain.err(), Some(Error::NotOfFields));
}

#[test]
fn a_value_that_was_changed_or_cut_anywhere_opens_nothing() {
    let line = sealed(r#"{"pan":"4111"}"#, &["pan"]);
    let start = line.find("sealed").unwrap();
    let end = line.rfind('"').unwrap();
    assert!(opened(&line, &["pan"]).is_ok());
    for at in start..end {
        let mut changed = line.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(opened(&changed, &["pan"]).is_err(), "changed at {at}");
        let cut = format!("{}{}", &line[..at], &line[end..]);
        assert!(opened(&cut, &["pan"]).is_err(), "cut at {at}");
        let longer = format!("{}A{}", &line[..at], &line[at..]);
        assert!(opened(&longer, &["pan"]).is_err(), "longer at {at}");
    }
}

#[test]
fn what_is_not_sealed_is_not_passed_on() {
    for line in [
        r#"{"pan":"4111"}"#,
        r#"{"pan":4111}"#,
        r#"{"pan":null}"#,
        r#"{"pan":{}}"#,
        r#"{"pan":"sealed.v2.x.y"}"#,
        r#"{"pan":"Sealed.v1.x.y"}"#,
    ] {
        let name = "pan".to_owned();
        assert_eq!(
            opened(line, &["pan"]),
            Err(FieldError::NotSealed { name }),
            "{line}"
        );
    }
    // What is absent is absent: nobody can tell that a whole field was taken away.
    assert_eq!(opened("{\"a\":1}", &["pan"]).unwrap(), "{\"a\":1}");
}

#[test]
fn a_line_is_sealed_or_refused_as_a_whole() {
    let mut sealer = sealer(1, fields(&["card.pan", "z"], None), "cards");
    let mut out = b"before".to_vec();
    for line in [r#"{"z":1,"card":"4111"}"#, r#"{"z":1"#, "[]", "\u{feff}{}"] {
        assert!(sealer.line(line, &mut out).is_err(), "{line}");
        assert_eq!(out, b"before", "{line}");
    }
}

#[test]
fn what_a_key_holder_seals_cannot_make_two_lines_of_one() {
    // By the same key, but no sealer of ours: the JSON of a value with a newline in it.
    let line = "{\"pan\":{\"a\":\n1}}";
    let sealed = sealed(line, &["pan"]);
    let name = "pan".to_owned();
    assert_eq!(
        opened(&sealed, &["pan"]),
        Err(FieldError::NotAValue { name })
    );
}

#[test]
fn streams_keep_their_lines_and_say_which_is_wrong() {
    let text = "{\"pan\":\"1\"}\n\n  \r\n{\"pan\":2,\"x\":1}\r\n{\"y\":1}";
    let mut sealer = sealer(1, fields(&["pan"], None), "cards");
    let mut out = Vec::new();
    let counts = seal_lines::<Error>(text.as_bytes(), &mut out, &mut sealer, 1000).unwrap();
    assert_eq!(
        counts,
        Counts {
            lines: 5,
            values: 2
        }
    );
    let mut opener = FieldOpener::new(fields(&["pan"], None), context("cards"));
    let mut asked = 0;
    let mut plain = Vec::new();
    let counts = open_lines(out.as_slice(), &mut plain, &mut opener, 2000, |header| {
        asked += 1;
        Ok::<_, Error>(of(header))
    });
    assert_eq!(
        counts.unwrap(),
        Counts {
            lines: 5,
            values: 2
        }
    );
    assert_eq!(
        (plain.as_slice(), asked),
        (text.as_bytes(), 1),
        "one data key is asked for once"
    );

    let refuse = |text: &[u8], longest| {
        let mut sealer = self::sealer(1, fields(&["pan"], None), "cards");
        seal_lines::<Error>(text, std::io::sink(), &mut sealer, longest).unwrap_err()
    };
    assert!(matches!(
        refuse(b"{}\nx\n", 100),
        LinesError::Field {
            line: 2,
            source: FieldError::NotJson { .. }
        }
    ));
    assert!(matches!(
        refuse(b"{}\n\xff\n", 100),
        LinesError::NotText { line: 2 }
    ));
    assert!(matches!(
        refuse(b"{}\n{\"a\":1}\n", 6),
        LinesError::TooLong { line: 2, limit: 6 }
    ));
    assert!(matches!(
        refuse(&vec![b'x'; 200_000], 100),
        LinesError::TooLong { line: 1, .. }
    ));
    let mut opener = FieldOpener::new(fields(&["pan"], None), context("cards"));
    let refused = open_lines(out.as_slice(), std::io::sink(), &mut opener, 2000, |_| {
        Err("denied")
    });
    assert!(matches!(
        refused,
        Err(LinesError::Key {
            line: 1,
            error: "denied"
        })
    ));
}

#[test]
fn many_data_keys_are_asked_for_one_after_the_other_and_never_without_end() {
    let mut lines = Vec::new();
    for byte in 0..=255u8 {
        for _ in 0..2 {
            lines.push(sealed_in("{\"pan\":1}", &["pan"], None, byte, "cards"));
        }
    }
    let mut opener = FieldOpener::new(fields(&["pan"], None), context("cards"));
    for line in &lines {
        assert_eq!(opened_by(&mut opener, line).unwrap(), "{\"pan\":1}");
    }
    let value = |line: &String| serde_json::from_str::<Value>(line).unwrap()["pan"].clone();
    let all: Vec<Value> = lines.iter().map(value).collect();
    let names = ["pan[]"];
    let several: Vec<Value> = (0..200)
        .map(|number| {
            let line = sealed_in(
                &format!("{{\"pan\":[{number}]}}"),
                &names,
                None,
                number,
                "cards",
            );
            value(&line)[0].clone()
        })
        .collect();
    let mut opener = FieldOpener::new(fields(&names, None), context("cards"));
    let line = json!({ "pan": several }).to_string();
    let numbers: Vec<u8> = (0..200).collect();
    let expected = json!({ "pan": numbers }).to_string();
    assert_eq!(opened_by(&mut opener, &line).unwrap(), expected);
    let line = json!({ "pan": all }).to_string();
    assert_eq!(
        opened_by(&mut opener, &line),
        Err(FieldError::TooManyKeys { limit: 256 })
    );
}

#[test]
fn a_text_of_this_version_stays_readable() {
    // Made once: key 32 bytes of 9, message id 32 bytes of 7.
    const KEPT: &str = include_str!("sealed-field.txt");
    let sealed = {
        let context = field_context(context("kept"));
        let mut sealer = FieldSealer::new(
            fields(&["pan"], Some("id")),
            &context,
            &[data_key(9)],
            key(9),
            [7; 32],
        )
        .unwrap();
        let mut out = Vec::new();
        sealer
            .line("{\"id\":\"r\",\"pan\":\"4111\"}", &mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    };
    if std::env::var_os("ANCHORHOLD_WRITE_SEALED_FIELD").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sealed-field.txt");
        std::fs::write(path, format!("{sealed}\n")).unwrap();
    }
    assert_eq!(sealed, KEPT.trim_end());
    assert_eq!(
        opened_in(&sealed, &["pan"], Some("id"), "kept").unwrap(),
        "{\"id\":\"r\",\"pan\":\"4111\"}"
    );
}

/// JSON with few names, so that paths meet.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |number| serde_json::Number::from_f64(number)
            .map(Value::from)),
        "[a-c\"\\\\\n\u{e9}.]{0,6}".prop_map(Value::from),
        Just(Value::from("sealed.v1.x.y")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]|a\\.b", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Whether no text of the value but sealed ones remains where a name leads.
fn all_sealed(value: &Value, steps: &[&str], elements: bool) -> bool {
    match (value, steps) {
        (Value::Array(values), []) if elements => {
            values.iter().all(|value| all_sealed(value, &[], false))
        }
        (value, []) => value.as_str().is_some_and(is_sealed) || (elements && value.is_null()),
        (Value::Array(values), _) => values
            .iter()
            .all(|value| all_sealed(value, steps, elements)),
        (Value::Object(map), [first, rest @ ..]) => map
            .get(*first)
            .is_none_or(|value| all_sealed(value, rest, elements)),
        (value, _) => value.is_null(),
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same_bytes(
        entries in proptest::collection::btree_map("[a-c]|a\\.b", values(), 0..5),
        names in prop_oneof![
            Just(vec!["a"]), Just(vec!["a.b", "b"]), Just(vec!["a.b.c", "c[]"]), Just(vec!["a\\.b", "a[]"]),
        ],
        pretty in any::<bool>(),
    ) {
        let map: BTreeMap<String, Value> = entries;
        let line = if pretty {
            serde_json::to_string_pretty(&map).unwrap().replace('\n', "\t ")
        } else {
            serde_json::to_string(&map).unwrap()
        };
        let mut out = Vec::new();
        let mut sealer = sealer(1, fields(&names, None), "cards");
        match sealer.line(&line, &mut out) {
            Ok(count) => {
                let sealed = String::from_utf8(out).unwrap();
                let parsed: Value = serde_json::from_str(&sealed).unwrap();
                for name in &names {
                    let plain = name.trim_end_matches("[]");
                    let steps: Vec<&str> =
                        if plain == "a\\.b" { vec!["a.b"] } else { plain.split('.').collect() };
                    prop_assert!(all_sealed(&parsed, &steps, plain != *name), "{name}: {sealed}");
                }
                prop_assert_eq!(sealed.matches("\"sealed.v1.").count() >= count, true);
                prop_assert_eq!(opened(&sealed, &names).unwrap(), line);
            }
            Err(error) => {
                prop_assert!(matches!(error, FieldError::NoWay { .. } | FieldError::NoArray { .. }), "{error}");
                prop_assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn no_line_is_answered_by_a_panic(line in "\\PC{0,80}", names in "[ab.\\[\\]\\\\]{0,8}") {
        if let Ok(fields) = Fields::new([names]) {
            let mut out = Vec::new();
            let _ = sealer(1, fields.clone(), "cards").line(&line, &mut out);
            let _ = FieldOpener::new(fields, EncryptionContext::new()).line(&line, &mut out);
        }
    }
}
