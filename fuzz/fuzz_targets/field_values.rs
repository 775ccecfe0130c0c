//! Sealed fields: lines and values from anybody.
//!
//! The first byte chooses the names. The rest is taken for a line to be sealed, of which nothing named may stay plain and which
//! must open to the same bytes; for a line to be opened; and, as hardly any opens, as changes to a line that does.
#![no_main]

use anchorhold_envelope::fields::{
    FieldError, FieldOpener, FieldSealer, Fields, Opened, field_context,
};
use anchorhold_envelope::{DataKey, EncryptedDataKey, EncryptionContext};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const NAMES: [&[&str]; 4] = [&["a"], &["a.b", "c"], &["a[]"], &["a.b[]", "b.a"]];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let names = NAMES[usize::from(*first) % NAMES.len()];
    let row = (first & 0x80 != 0).then_some("id");
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let mut out = Vec::new();
    if sealer(names, row).line(text, &mut out).is_ok() {
        let sealed = std::str::from_utf8(&out).expect("a line of text stays one");
        let value: Value = serde_json::from_str(sealed).expect("a line of JSON stays one");
        for name in names {
            let plain = name.trim_end_matches("[]");
            let steps: Vec<&str> = plain.split('.').collect();
            assert!(
                hidden(&value, &steps, plain != *name),
                "{name} stayed plain in {sealed}"
            );
        }
        if !text.contains('\n') {
            assert_eq!(opened(sealed, names, row).as_deref(), Ok(text));
        }
    } else {
        assert!(out.is_empty());
    }
    // Nobody makes a sealed field without the key. (A line without the fields is as it is.)
    if let Ok(opened) = opened(text, names, row) {
        assert_eq!(opened, text);
    }
    let good = good(names);
    let mut changed = good.clone().into_bytes();
    for edit in rest.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % (changed.len() + 1);
        match edit[2] % 4 {
            0 => changed.insert(at, edit[3]),
            1 => changed.truncate(at),
            2 if at < changed.len() => changed[at] = edit[3],
            3 => changed.rotate_left(at % usize::from(edit[3]).max(1)),
            _ => {}
        }
    }
    if let Ok(changed) = String::from_utf8(changed)
        && let Ok(opened) = opened(&changed, names, None)
    {
        // Whitespace, names of other fields and the like may change; what is opened is what was sealed, or nothing is, and nothing
        // that is named stays sealed.
        let value: Value = serde_json::from_str(&opened).expect("a line of JSON stays one");
        for name in names {
            let plain = name.trim_end_matches("[]");
            let steps: Vec<&str> = plain.split('.').collect();
            assert!(
                !stays_sealed(&value, &steps, plain != *name),
                "{name} stayed sealed in {opened}"
            );
        }
        if opened != changed {
            assert!(opened.contains("secret"), "{opened}");
        }
    }
});

/// Whether a sealed text stands where a name leads.
fn stays_sealed(value: &Value, steps: &[&str], elements: bool) -> bool {
    match (value, steps) {
        (Value::Array(values), []) if elements => {
            values.iter().any(|value| stays_sealed(value, &[], false))
        }
        (value, []) => {
            !elements
                && value
                    .as_str()
                    .is_some_and(anchorhold_envelope::fields::is_sealed)
        }
        (Value::Array(values), _) => values
            .iter()
            .any(|value| stays_sealed(value, steps, elements)),
        (Value::Object(map), [first, rest @ ..]) => map
            .get(*first)
            .is_some_and(|value| stays_sealed(value, rest, elements)),
        _ => false,
    }
}

/// Whether nothing but sealed texts stands where a name leads.
fn hidden(value: &Value, steps: &[&str], elements: bool) -> bool {
    match (value, steps) {
        (Value::Array(values), []) if elements => {
            values.iter().all(|value| hidden(value, &[], false))
        }
        (value, []) => {
            value
                .as_str()
                .is_some_and(anchorhold_envelope::fields::is_sealed)
                || (elements && value.is_null())
        }
        (Value::Array(values), _) => values.iter().all(|value| hidden(value, steps, elements)),
        (Value::Object(map), [first, rest @ ..]) => map
            .get(*first)
            .is_none_or(|value| hidden(value, rest, elements)),
        (value, _) => value.is_null(),
    }
}

fn good(names: &[&str]) -> String {
    let line = r#"{"a":{"b":["secret"]},"c":"secret","b":{"a":"secret"}}"#;
    let line = if names == ["a[]"] {
        r#"{"a":["secret"],"x":1}"#
    } else {
        line
    };
    let mut out = Vec::new();
    sealer(names, None)
        .line(line, &mut out)
        .expect("a good line");
    String::from_utf8(out).expect("text")
}

fn fields(names: &[&str], row: Option<&str>) -> Fields {
    let fields = Fields::new(names).expect("names");
    match row {
        Some(row) => fields.in_rows_of(row).expect("a name"),
        None => fields,
    }
}

fn sealer(names: &[&str], row: Option<&str>) -> FieldSealer {
    let data_key = EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "key".to_owned(),
        ciphertext: vec![1, 2, 3],
    };
    let context = field_context(EncryptionContext::new());
    FieldSealer::new(fields(names, row), &context, &[data_key], key(), [7; 32]).expect("a sealer")
}

fn opened(line: &str, names: &[&str], row: Option<&str>) -> Result<String, FieldError> {
    let mut opener = FieldOpener::new(fields(names, row), EncryptionContext::new());
    let mut out = Vec::new();
    loop {
        match opener.line(line, &mut out)? {
            Opened::Line(_) => return Ok(String::from_utf8(out).expect("text")),
            Opened::Needs(header) => opener.admit(&header, key())?,
        }
    }
}

fn key() -> DataKey {
    DataKey::from_bytes([9; 32].into())
}
