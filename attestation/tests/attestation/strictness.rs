//! One malformed document per way of being malformed, each with the error that names field and
//! offset.

use anchorhold_attestation::{
    Field, Kind, MAX_DOCUMENT_BYTES, ParseError, Time, UnknownKeys, Unverified,
};
use coset::CborSerializable as _;
use coset::cbor::value::Value;

use crate::forge::{NOW_MS, Payload, Plan, bytes, pcr, pcrs, text};

const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
/// Array head, protected header (5), unprotected header (1), and the head of a payload of 256 to
/// 65,535 bytes.
const PAYLOAD: usize = 1 + 5 + 1 + 3;

fn payload() -> Payload {
    Payload::new(&[0x30; 300], &[vec![0x30; 300]])
}

fn document(payload: &[u8]) -> Vec<u8> {
    envelope([
        bytes(PROTECTED),
        Value::Map(vec![]),
        bytes(payload),
        bytes([1; 96]),
    ])
}

fn envelope(parts: impl IntoIterator<Item = Value>) -> Vec<u8> {
    Value::Array(parts.into_iter().collect()).to_vec().unwrap()
}

fn error_of(payload: &Payload) -> ParseError {
    Unverified::parse(&document(&payload.to_bytes())).unwrap_err()
}

/// Where `key`'s value begins in the document of `payload`.
fn value_offset(payload: &Payload, key: &str) -> usize {
    key_offset(payload, key) + text(key).to_vec().unwrap().len()
}

fn key_offset(payload: &Payload, key: &str) -> usize {
    let needle = text(key).to_vec().unwrap();
    document(&payload.to_bytes())
        .windows(needle.len())
        .position(|part| part == needle)
        .unwrap()
}

#[test]
fn definite_and_indefinite_maps_are_read_alike() {
    let mut payload = payload();
    let definite = Unverified::parse(&document(&payload.to_bytes())).unwrap();
    payload.indefinite = true;
    let indefinite = Unverified::parse(&document(&payload.to_bytes())).unwrap();
    assert_eq!(
        serde_json::to_value(definite.claimed()).unwrap(),
        serde_json::to_value(indefinite.claimed()).unwrap()
    );
}

#[test]
fn an_indefinite_payload_still_needs_its_signature() {
    let chain = Plan::new().issue();
    let mut payload = chain.payload();
    payload.indefinite = true;
    assert!(
        chain
            .document(&payload)
            .verify(&[chain.anchor()], Time::Document)
            .is_ok()
    );
}

#[test]
fn an_indefinite_map_without_its_break_is_cut_off() {
    let mut payload = payload();
    payload.indefinite = true;
    let mut encoded = payload.to_bytes();
    encoded.pop();
    assert_eq!(
        Unverified::parse(&document(&encoded)).unwrap_err(),
        ParseError::Truncated {
            field: Field::Payload,
            offset: PAYLOAD + encoded.len()
        }
    );
}

#[test]
fn a_break_within_a_definite_map_is_no_key() {
    let mut encoded = payload().to_bytes();
    encoded[0] = 0xaa;
    encoded.push(0xff);
    assert_eq!(
        Unverified::parse(&document(&encoded)).unwrap_err(),
        ParseError::WrongKind {
            field: Field::Key,
            offset: PAYLOAD + encoded.len() - 1,
            expected: Kind::Text,
            found: Kind::Break
        }
    );
}

#[test]
fn what_is_not_a_document_at_all_is_said_to_be_none() {
    for input in [
        &b""[..],
        b"hello",
        b"\x84",
        b"\xd2",
        b"\xf6",
        b"-----BEGIN CERTIFICATE-----",
        b"{\"a\": 1}",
        &[0; 100],
        &[0xff; 100],
        &[0x9f; 100],
    ] {
        let error = Unverified::parse(input).unwrap_err();
        assert!(error.is_not_a_document(), "{error:?}");
    }
    let error = error_of(&payload().set("digest", text("SHA256")));
    assert!(!error.is_not_a_document());
}

#[test]
fn inputs_longer_than_any_document_are_not_looked_at() {
    let long = vec![0x84; MAX_DOCUMENT_BYTES + 1];
    assert_eq!(
        Unverified::parse(&long).unwrap_err(),
        ParseError::TooLong { found: long.len() }
    );
    assert_eq!(
        Unverified::parse(&long).unwrap_err().offset(),
        MAX_DOCUMENT_BYTES
    );

    // The longest that is: padded with what callers may give, and three long certificates.
    let padded = |padding: usize| {
        let payload = Payload::new(&[0x30; 300], &[vec![0x30; 3000], vec![0x30; 3000]])
            .set("nonce", bytes(vec![1; 4000]))
            .set("user_data", bytes(vec![2; padding]));
        document(&payload.to_bytes())
    };
    let room = MAX_DOCUMENT_BYTES - padded(300).len();
    let longest = padded(300 + room);
    assert_eq!(longest.len(), MAX_DOCUMENT_BYTES);
    assert!(Unverified::parse(&longest).is_ok());
    let longer = padded(301 + room);
    assert_eq!(
        Unverified::parse(&longer).unwrap_err(),
        ParseError::TooLong {
            found: MAX_DOCUMENT_BYTES + 1
        }
    );
}

#[test]
fn tags_other_than_18_are_refused() {
    let good = document(&payload().to_bytes());
    assert!(Unverified::parse(&[&[0xd2], good.as_slice()].concat()).is_ok());
    for (tag, expected) in [
        (
            &[0xd1][..],
            ParseError::Tag {
                offset: 0,
                found: 17,
            },
        ),
        (
            &[0xd8, 61],
            ParseError::Tag {
                offset: 0,
                found: 61,
            },
        ),
        (
            &[0xd8, 18],
            ParseError::NotShortest {
                field: Field::Envelope,
                offset: 0,
            },
        ),
        (
            &[0xd2, 0xd2],
            ParseError::WrongKind {
                field: Field::Envelope,
                offset: 1,
                expected: Kind::Array,
                found: Kind::Tag,
            },
        ),
    ] {
        let input = [tag, good.as_slice()].concat();
        assert_eq!(Unverified::parse(&input).unwrap_err(), expected);
    }
}

#[test]
fn trailing_bytes_are_refused_outside_and_inside() {
    let good = document(&payload().to_bytes());
    assert_eq!(
        Unverified::parse(&[good.as_slice(), &[0, 0]].concat()).unwrap_err(),
        ParseError::Trailing {
            field: Field::Envelope,
            offset: good.len(),
            extra: 2
        }
    );
    let encoded = [payload().to_bytes().as_slice(), &[0]].concat();
    assert_eq!(
        Unverified::parse(&document(&encoded)).unwrap_err(),
        ParseError::Trailing {
            field: Field::Payload,
            offset: PAYLOAD + encoded.len() - 1,
            extra: 1
        }
    );
}

#[test]
fn the_envelope_is_an_array_of_four() {
    let encoded = payload().to_bytes();
    for count in [0, 1, 2, 3, 5] {
        let mut parts = vec![
            bytes(PROTECTED),
            Value::Map(vec![]),
            bytes(&encoded),
            bytes([1; 96]),
            Value::Null,
        ];
        parts.truncate(count);
        assert_eq!(
            Unverified::parse(&envelope(parts)).unwrap_err(),
            ParseError::EnvelopeLength {
                offset: 0,
                found: count as u64
            }
        );
    }
    let mut indefinite = document(&encoded);
    indefinite[0] = 0x9f;
    indefinite.push(0xff);
    assert_eq!(
        Unverified::parse(&indefinite).unwrap_err(),
        ParseError::Indefinite {
            field: Field::Envelope,
            offset: 0
        }
    );
}

#[test]
fn only_es384_alone_may_be_in_the_protected_header() {
    for protected in [
        &[][..],
        &[0xa0],
        // ES256, ES512, "none" as text, ES384 and a key id, ES384 in a longer form.
        &[0xa1, 0x01, 0x26],
        &[0xa1, 0x01, 0x38, 0x23],
        &[0xa1, 0x01, 0x64, b'n', b'o', b'n', b'e'],
        &[0xa2, 0x01, 0x38, 0x22, 0x04, 0x41, 0x00],
        &[0xa1, 0x01, 0x39, 0x00, 0x22],
        &[0xa1, 0x01, 0x38, 0x22, 0x00],
    ] {
        let input = envelope([
            bytes(protected),
            Value::Map(vec![]),
            bytes(payload().to_bytes()),
            bytes([1; 96]),
        ]);
        assert_eq!(
            Unverified::parse(&input).unwrap_err(),
            ParseError::Protected {
                offset: 2,
                found: hex::encode(protected)
            }
        );
    }
}

#[test]
fn the_unprotected_header_is_empty() {
    let input = envelope([
        bytes(PROTECTED),
        Value::Map(vec![(Value::from(1), Value::from(-35))]),
        bytes(payload().to_bytes()),
        bytes([1; 96]),
    ]);
    assert_eq!(
        Unverified::parse(&input).unwrap_err(),
        ParseError::UnprotectedNotEmpty { offset: 6 }
    );
    let input = envelope([
        bytes(PROTECTED),
        Value::Null,
        bytes(payload().to_bytes()),
        bytes([1; 96]),
    ]);
    assert_eq!(
        Unverified::parse(&input).unwrap_err(),
        ParseError::WrongKind {
            field: Field::Unprotected,
            offset: 6,
            expected: Kind::Map,
            found: Kind::Null
        }
    );
}

#[test]
fn a_detached_payload_is_refused() {
    let input = envelope([
        bytes(PROTECTED),
        Value::Map(vec![]),
        Value::Null,
        bytes([1; 96]),
    ]);
    assert_eq!(
        Unverified::parse(&input).unwrap_err(),
        ParseError::WrongKind {
            field: Field::Payload,
            offset: 7,
            expected: Kind::Bytes,
            found: Kind::Null
        }
    );
}

#[test]
fn signatures_have_96_bytes() {
    for length in [0, 64, 95, 97, 132] {
        let encoded = payload().to_bytes();
        let input = envelope([
            bytes(PROTECTED),
            Value::Map(vec![]),
            bytes(&encoded),
            bytes(vec![1; length]),
        ]);
        assert_eq!(
            Unverified::parse(&input).unwrap_err(),
            ParseError::SignatureLength {
                offset: input.len() - length,
                found: length
            }
        );
    }
}

#[test]
fn unknown_keys_are_refused() {
    let payload = payload().set("enclave_version", 1);
    assert_eq!(
        error_of(&payload),
        ParseError::UnknownKey {
            offset: key_offset(&payload, "enclave_version"),
            key: "enclave_version".to_owned()
        }
    );
    let long = "é".repeat(500);
    let ParseError::UnknownKey { key, .. } = error_of(&self::payload().set(&long, 1)) else {
        panic!()
    };
    assert_eq!(key, format!("{}…", "é".repeat(32)));
}

#[test]
fn keys_that_are_no_text_are_refused() {
    let mut payload = payload();
    payload.entries[0].0 = Value::from(1);
    assert_eq!(
        error_of(&payload),
        ParseError::WrongKind {
            field: Field::Key,
            offset: PAYLOAD + 1,
            expected: Kind::Text,
            found: Kind::UnsignedInteger
        }
    );
}

#[test]
fn duplicate_keys_are_refused_whatever_their_values() {
    for (key, field) in FIELDS {
        let mut payload = payload();
        let entry = payload
            .entries
            .iter()
            .find(|(name, _)| *name == text(key))
            .unwrap()
            .clone();
        let offset = PAYLOAD + payload.to_bytes().len();
        payload.entries.push(entry);
        assert_eq!(error_of(&payload), ParseError::Duplicate { field, offset });
    }
}

const FIELDS: [(&str, Field); 9] = [
    ("module_id", Field::ModuleId),
    ("digest", Field::Digest),
    ("timestamp", Field::Timestamp),
    ("pcrs", Field::Pcrs),
    ("certificate", Field::Certificate),
    ("cabundle", Field::Cabundle),
    ("public_key", Field::PublicKey),
    ("user_data", Field::UserData),
    ("nonce", Field::Nonce),
];

#[test]
fn missing_fields_are_named_and_optional_ones_may_miss() {
    for (key, field) in FIELDS {
        let payload = payload().without(key);
        let parsed = Unverified::parse(&document(&payload.to_bytes()));
        if ["public_key", "user_data", "nonce"].contains(&key) {
            assert!(parsed.is_ok());
        } else {
            assert_eq!(
                parsed.unwrap_err(),
                ParseError::Missing {
                    field,
                    offset: PAYLOAD
                }
            );
        }
    }
}

#[test]
fn values_of_the_wrong_type_are_named() {
    for (key, field) in FIELDS {
        for (value, found) in [
            (Value::Bool(true), Kind::Simple),
            (Value::from(-1), Kind::NegativeInteger),
            (Value::Float(1.5), Kind::Simple),
            (Value::Tag(1, Box::new(Value::from(1))), Kind::Tag),
        ] {
            let payload = payload().set(key, value);
            let error = error_of(&payload);
            let ParseError::WrongKind {
                field: named,
                offset,
                found: kind,
                ..
            } = error
            else {
                panic!("{error:?}")
            };
            assert_eq!(named, field);
            assert_eq!(kind, found);
            assert_eq!(offset, value_offset(&payload, key));
        }
    }
}

#[test]
fn lengths_are_bounded_below_and_above() {
    for (key, value, most) in [
        ("module_id", text(""), 256),
        ("module_id", text(&"i".repeat(257)), 256),
        ("certificate", bytes([]), 4096),
        ("certificate", bytes([0; 4097]), 4096),
        ("cabundle", Value::Array(vec![]), 8),
        ("cabundle", Value::Array(vec![bytes([0]); 9]), 8),
        ("pcrs", Value::Map(vec![]), 32),
        ("public_key", bytes([0; 1025]), 1024),
        ("user_data", bytes([0; 4097]), 4096),
        ("nonce", bytes([0; 4097]), 4096),
    ] {
        let payload = payload().set(key, value);
        let error = error_of(&payload);
        let ParseError::Length {
            offset,
            most: allowed,
            ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(allowed, most);
        assert_eq!(offset, value_offset(&payload, key));
    }
    for (key, value) in [
        ("module_id", text(&"i".repeat(256))),
        ("certificate", bytes([0; 4096])),
        ("cabundle", Value::Array(vec![bytes([0]); 8])),
        ("public_key", bytes([0; 1024])),
        ("user_data", bytes([0; 4096])),
        ("nonce", bytes([])),
        ("public_key", bytes([])),
    ] {
        assert!(Unverified::parse(&document(&payload().set(key, value).to_bytes())).is_ok());
    }
}

#[test]
fn an_empty_certificate_in_the_bundle_is_named() {
    let payload = payload().set("cabundle", Value::Array(vec![bytes([0]), bytes([])]));
    assert!(matches!(
        error_of(&payload),
        ParseError::Length {
            field: Field::CabundleEntry(1),
            ..
        }
    ));
}

#[test]
fn pcrs_are_sha384_in_name_and_length() {
    let with = payload().set("digest", text("SHA512"));
    assert_eq!(
        error_of(&with),
        ParseError::DigestAlgorithm {
            offset: value_offset(&with, "digest"),
            found: "SHA512".to_owned()
        }
    );
    for length in [0, 32, 47, 49, 64] {
        let payload = payload().set(
            "pcrs",
            Value::Map(vec![(Value::from(7), bytes(vec![1; length]))]),
        );
        assert!(matches!(
            error_of(&payload),
            ParseError::PcrLength { index: 7, found, .. } if found == length
        ));
    }
}

#[test]
fn pcr_indices_are_0_to_31_and_there_once() {
    for index in [32_u64, 255, 256, u64::MAX] {
        let payload = payload().set(
            "pcrs",
            Value::Map(vec![(Value::from(index), bytes([1; 48]))]),
        );
        assert!(matches!(
            error_of(&payload),
            ParseError::PcrIndex { found, .. } if found == index
        ));
    }
    let payload = payload().set("pcrs", pcrs([(5, pcr(5)), (6, pcr(6)), (5, pcr(5))]));
    assert!(matches!(
        error_of(&payload),
        ParseError::Duplicate {
            field: Field::Pcr(5),
            ..
        }
    ));
    for count in [1, 16, 17, 32] {
        let payload =
            self::payload().set("pcrs", pcrs((0..count).map(|index| (index, pcr(index)))));
        assert!(Unverified::parse(&document(&payload.to_bytes())).is_ok());
    }
}

#[test]
fn timestamps_are_between_1970_and_9999() {
    for timestamp in [0, 253_402_300_800_000, u64::MAX] {
        let payload = payload().set("timestamp", timestamp);
        assert_eq!(
            error_of(&payload),
            ParseError::TimestampRange {
                offset: value_offset(&payload, "timestamp"),
                found: timestamp
            }
        );
    }
}

#[test]
fn module_ids_that_could_deceive_a_terminal_are_refused() {
    for module_id in ["i-1 enc", "i-1\u{1b}[2J", "i-ä", "i\n", "\u{202e}i"] {
        assert!(matches!(
            error_of(&payload().set("module_id", text(module_id))),
            ParseError::ModuleIdCharacters { .. }
        ));
    }
}

#[test]
fn texts_must_be_utf8() {
    let mut encoded = payload().to_bytes();
    let place = encoded.windows(2).position(|part| part == b"i-").unwrap();
    encoded[place] = 0xff;
    assert_eq!(
        Unverified::parse(&document(&encoded)).unwrap_err(),
        ParseError::NotUtf8 {
            field: Field::ModuleId,
            offset: PAYLOAD + place - 2
        }
    );
}

#[test]
fn every_error_prints_its_field_or_offset() {
    let payload = payload().set("nonce", bytes([0; 4097]));
    let shown = error_of(&payload).to_string();
    assert_eq!(
        shown,
        format!(
            "nonce: length 4097 at offset {}; allowed are 0 to 4096",
            value_offset(&payload, "nonce")
        )
    );
}

/// Values of unknown keys: well-formed, each of another kind.
fn strange_values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Bool(true),
        Value::Float(1.5),
        Value::from(-7),
        bytes(b"bytes"),
        text("text"),
        Value::Array(vec![Value::Null, text("inner")]),
        Value::Map(vec![(Value::from(1), Value::Array(Vec::new()))]),
        Value::Tag(1, Box::new(Value::from(0))),
    ]
}

#[test]
fn unknown_keys_are_refused_unless_the_caller_allows_them() {
    for value in strange_values() {
        let payload = payload().set("new_in_2027", value);
        let document = document(&payload.to_bytes());
        assert_eq!(
            Unverified::parse(&document).unwrap_err().name(),
            "unknown-key"
        );
        let parsed = Unverified::parse_with(&document, UnknownKeys::Ignore).unwrap();
        assert_eq!(parsed.claimed().timestamp_ms(), NOW_MS);
    }
}

#[test]
fn ignoring_unknown_keys_forgives_nothing_else() {
    let ignoring = |payload: &Payload| {
        Unverified::parse_with(&document(&payload.to_bytes()), UnknownKeys::Ignore)
            .map(drop)
            .map_err(|error| error.name())
    };
    let mut twice = payload().set("new", Value::Null);
    twice.entries.push((text("new"), Value::from(1)));
    assert_eq!(ignoring(&twice), Err("duplicate-key"));
    let mut again = payload().set("new", Value::Null);
    again.entries.push((text("nonce"), Value::Null));
    assert_eq!(ignoring(&again), Err("duplicate-key"));
    assert_eq!(
        ignoring(&payload().set("nitrotpm_pcrs", Value::Null)),
        Err("nitrotpm")
    );
    let mut number = payload();
    number.entries.push((Value::from(1), Value::Null));
    assert_eq!(ignoring(&number), Err("wrong-type"));
    assert_eq!(
        ignoring(&payload().without("digest").set("new", Value::Null)),
        Err("missing-field")
    );
    let deep = (0..1000).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    assert_eq!(ignoring(&payload().set("new", deep)), Err("too-deep"));
}

#[test]
fn unknown_values_that_are_not_well_formed_are_refused_although_ignored() {
    // A payload of the unknown key alone, so that its value is the first fault.
    for (value, name) in [
        (&[0x1c][..], "not-cbor"),
        (&[0x1f], "indefinite-length"),
        (&[0x5f, 0x41, 0, 0xff], "indefinite-length"),
        (&[0x7f, 0xff], "indefinite-length"),
        (&[0xdf, 0x00], "indefinite-length"),
        (&[0x61, 0xff], "not-utf8"),
        (&[0x18, 0x17], "not-shortest"),
        (&[0xf8, 0x1f], "not-cbor"),
        (&[0xff], "not-cbor"),
        (&[0x82, 0x00], "truncated"),
        (&[0x9f, 0x00], "truncated"),
        (
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            "truncated",
        ),
        (&[0xbf, 0x00, 0xff], "not-cbor"),
    ] {
        let payload = [&[0xa1, 0x61, b'x'], value].concat();
        let error = Unverified::parse_with(&document(&payload), UnknownKeys::Ignore).unwrap_err();
        assert_eq!(error.name(), name, "{value:02x?}: {error}");
        assert!(error.offset() > PAYLOAD);
    }
    for value in [&[0xf8, 0x20][..], &[0xf9, 0x3c, 0], &[0x9f, 0x00, 0xff]] {
        let payload = [&[0xa1, 0x61, b'x'], value].concat();
        let error = Unverified::parse_with(&document(&payload), UnknownKeys::Ignore).unwrap_err();
        assert_eq!(error.name(), "missing-field", "{value:02x?}: {error}");
    }
}

#[test]
fn each_error_has_a_name_a_field_and_an_offset() {
    let field = Field::Nonce;
    let key = String::from("new");
    let found = 7;
    let offset = 3;
    let cases = [
        (ParseError::Truncated { field, offset }, "truncated", field),
        (
            ParseError::Trailing {
                field,
                offset,
                extra: 1,
            },
            "trailing-bytes",
            field,
        ),
        (ParseError::Reserved { field, offset }, "not-cbor", field),
        (
            ParseError::NotShortest { field, offset },
            "not-shortest",
            field,
        ),
        (
            ParseError::Indefinite { field, offset },
            "indefinite-length",
            field,
        ),
        (ParseError::NotUtf8 { field, offset }, "not-utf8", field),
        (
            ParseError::Duplicate { field, offset },
            "duplicate-key",
            field,
        ),
        (
            ParseError::Missing { field, offset },
            "missing-field",
            field,
        ),
        (ParseError::NitroTpm { field, offset }, "nitrotpm", field),
        (ParseError::TooDeep { offset }, "too-deep", Field::Key),
        (
            ParseError::UnknownKey {
                offset,
                key: key.clone(),
            },
            "unknown-key",
            Field::Key,
        ),
        (
            ParseError::DuplicateUnknown { offset, key },
            "duplicate-key",
            Field::Key,
        ),
        (
            ParseError::Tag { offset, found },
            "wrong-tag",
            Field::Envelope,
        ),
        (
            ParseError::EnvelopeLength { offset, found },
            "envelope-length",
            Field::Envelope,
        ),
        (
            ParseError::Protected {
                offset,
                found: String::new(),
            },
            "protected-header",
            Field::Protected,
        ),
        (
            ParseError::UnprotectedNotEmpty { offset },
            "unprotected-header",
            Field::Unprotected,
        ),
        (
            ParseError::SignatureLength { offset, found: 7 },
            "signature-length",
            Field::Signature,
        ),
        (
            ParseError::ModuleIdCharacters { offset },
            "module-id-characters",
            Field::ModuleId,
        ),
        (
            ParseError::DigestAlgorithm {
                offset,
                found: String::new(),
            },
            "digest-algorithm",
            Field::Digest,
        ),
        (
            ParseError::TimestampRange { offset, found },
            "timestamp-range",
            Field::Timestamp,
        ),
        (
            ParseError::PcrIndex { offset, found },
            "pcr-index",
            Field::Pcrs,
        ),
        (
            ParseError::PcrLength {
                index: 5,
                offset,
                found: 7,
            },
            "pcr-length",
            Field::Pcr(5),
        ),
        (
            ParseError::Length {
                field,
                offset,
                found,
                least: 0,
                most: 1,
            },
            "wrong-length",
            field,
        ),
    ];
    for (error, name, field) in cases {
        assert_eq!(
            (error.name(), error.field(), error.offset()),
            (name, field, offset)
        );
    }
}
