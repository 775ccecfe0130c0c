//! One line in, one line out, whatever the line is; and no card number comes through.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anchorhold_job_pii::fold::{Folded, digit};
use anchorhold_job_pii::key::Keys;
use anchorhold_job_pii::{Config, Input, Job, Kind, MAX_FOUND, MAX_LINE_BYTES, Mode};
use proptest::prelude::*;
use serde_json::{Value, json};

fn job(words: &[&str]) -> Job {
    let config = Config::parse(words.iter().copied()).unwrap();
    Job::new(Mode::Redact(config), Some(&Keys::new(&[3; 32])))
}

fn answer_of(job: &mut Job, line: &[u8]) -> String {
    let mut out = Vec::new();
    job.answer(line, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.find('\n'), Some(text.len() - 1));
    text
}

fn answer(line: &str) -> Value {
    serde_json::from_str(&answer_of(&mut job(&[]), line.as_bytes())).unwrap()
}

#[test]
fn text_and_json_are_answered_with_what_was_found_and_where() {
    assert_eq!(
        answer("é mail bob@example.com, card 4111 1111 1111 1111"),
        json!({
            "text": "é mail ***@*******.***, card **** **** **** 1111",
            "found": [
                { "type": "email", "start": 7, "end": 22, "path": "" },
                { "type": "card", "start": 29, "end": 48, "path": "" },
            ],
        })
    );
    assert_eq!(
        answer(r#"{"a/b":[1,{"x~":"é 10.0.0.1"}],"pan":4111111111111111}"#),
        json!({
            "record": { "a/b": [1, { "x~": "é **.*.*.*" }], "pan": "************1111" },
            "found": [
                { "type": "ip", "start": 2, "end": 10, "path": "/a~1b/1/x~0" },
                { "type": "card", "start": 0, "end": 16, "path": "/pan" },
            ],
        })
    );
}

#[test]
fn what_holds_nothing_goes_through_byte_for_byte_and_names_of_fields_always_do() {
    let line =
        r#" {"bob@example.com" : 1.50e3, "b":[true,null,"é\n\u0041"], "b":{}, "t":1700000000000} "#;
    let expected = format!("{{\"record\":{line},\"found\":[]}}\n");
    assert_eq!(answer_of(&mut job(&[]), line.as_bytes()), expected);
}

#[test]
fn escapes_hide_nothing_in_json() {
    let answer =
        answer(r#"{"x":"\u0034111\u002d1111\u00a01111\u200b1111","y":"bob\u0040example.com"}"#);
    assert_eq!(answer["found"][0]["type"], "card");
    assert_eq!(answer["found"][1]["type"], "email");
}

#[test]
fn a_fields_name_says_what_its_value_is() {
    let answer =
        answer(r#"{"zipCode":94105,"phones":["467 3395"],"ssn":460899847,"n":94105,"year":1999}"#);
    assert_eq!(
        answer["record"],
        json!({ "zipCode": "*****", "phones": ["*** ****"], "ssn": "*********", "n": 94105, "year": 1999 })
    );
}

#[test]
fn errors_never_quote_the_line() {
    for line in [
        &b"{\"pan\":\"4111111111111111\""[..],
        b"{\"4111111111111111\":4111111111111111",
        b"{\"pan\":\"4111111111111111\xff\"}",
        b"4111111111111111\xff",
        b"{\"pan\":\"4111111111111111\\ud800\"}",
    ] {
        let text = answer_of(&mut job(&[]), line);
        assert!(
            text.starts_with("{\"error\":{\"code\":\"format\""),
            "{text}"
        );
        assert!(!text.contains("4111"), "{text}");
    }
}

#[test]
fn a_line_that_is_too_long_or_holds_too_much_is_an_error_and_the_next_is_answered() {
    let long = "y".repeat(MAX_LINE_BYTES + 1);
    let many = "10.0.0.1 ".repeat(MAX_FOUND + 1);
    let just = "10.0.0.1 ".repeat(MAX_FOUND);
    let input = format!("{long}\n{many}\n{just}\nlast");
    let mut out = Vec::new();
    job(&[]).run(input.as_bytes(), &mut out).unwrap();
    let answers: Vec<Value> = out
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["error"]["code"], "length");
    assert_eq!(answers[1]["error"]["code"], "many");
    assert_eq!(answers[2]["found"].as_array().unwrap().len(), MAX_FOUND);
    assert_eq!(answers[3]["text"], "last");
}

#[test]
fn a_long_name_of_a_field_does_not_make_the_report_grow_without_bound() {
    let name = "n".repeat(500_000);
    let values = "\"10.0.0.1\",".repeat(9_000);
    let line = format!("{{\"{name}\":[{values}1]}}");
    let text = answer_of(&mut job(&[]), line.as_bytes());
    assert!(text.starts_with("{\"error\":{\"code\":\"many\""));
}

#[test]
fn lines_made_to_be_slow_are_answered() {
    // Quadratic work on a quarter of a megabyte would not end in this test's lifetime.
    for piece in [
        "@",
        "a@",
        ".",
        "a.",
        "://",
        "a://",
        "1",
        "1 ",
        "(",
        "+1",
        "1-",
        "[",
        "[email:p:",
        "::",
        "a:",
        "GB82",
        "19",
        "zip ",
        "May ",
        "x.com)",
        "5/5/",
        "http://a)))]]",
        "phone ",
    ] {
        let line = piece.repeat(MAX_LINE_BYTES / 4 / piece.len());
        let text = answer_of(&mut job(&[]), line.as_bytes());
        assert!(text.starts_with("{\"text\"") || text.contains("\"many\""));
        let mut back = Job::new(
            Mode::Restore(Input::Auto, Kind::ALL.to_vec()),
            Some(&Keys::new(&[3; 32])),
        );
        answer_of(&mut back, line.as_bytes());
    }
}

#[test]
fn restoring_an_answer_gives_the_values_back_of_the_kinds_that_are_allowed() {
    let mut redact = job(&["all=encrypt", "email=pseudonymize", "ip=hash"]);
    let line = r#"{"m":"bob@example.com at (37) 788-063 from 10.0.0.1","c":"4111 1111 1111 1111"}"#;
    let sealed = answer_of(&mut redact, line.as_bytes());
    for value in ["bob", "788", "10.0.0.1", "4111"] {
        assert!(!sealed.contains(value), "{sealed}");
    }
    let restore = |kinds: &[Kind], key: u8| {
        let mode = Mode::Restore(Input::Auto, kinds.to_vec());
        let mut job = Job::new(mode, Some(&Keys::new(&[key; 32])));
        serde_json::from_str::<Value>(&answer_of(&mut job, sealed.trim_end().as_bytes())).unwrap()
    };
    let all = restore(&Kind::ALL, 3);
    assert_eq!(all["record"]["c"], "4111 1111 1111 1111");
    let text = all["record"]["m"].as_str().unwrap();
    assert!(
        text.starts_with("bob@example.com at (37) 788-063 from [ip:h:"),
        "{text}"
    );
    let some = restore(&[Kind::Email], 3).to_string();
    assert!(some.contains("bob@example.com") && !some.contains("4111"));
    assert_eq!(
        restore(&Kind::ALL, 4),
        serde_json::from_str::<Value>(&sealed).unwrap()
    );
}

#[test]
fn the_report_never_holds_a_value() {
    let line = r#"{"a":"bob@example.com 4111111111111111 460-89-9847 GB82WEST12345698765432 212-555-0123"}"#;
    for action in ["mask", "redact", "hash", "pseudonymize", "encrypt"] {
        let all = format!("all={action}");
        let answer: Value =
            serde_json::from_str(&answer_of(&mut job(&[&all]), line.as_bytes())).unwrap();
        let found = answer["found"].as_array().unwrap();
        assert_eq!(found.len(), 5, "{answer}");
        for entry in found {
            let names: Vec<_> = entry.as_object().unwrap().keys().collect();
            assert_eq!(names, ["end", "path", "start", "type"]);
            assert_eq!(entry["path"], "/a");
        }
        let text = answer.to_string();
        for value in ["bob", "41111", "460", "WEST", "0123"] {
            assert!(!text.contains(value), "{text}");
        }
    }
}

#[test]
fn the_program_answers_fails_without_its_key_and_refuses_unknown_words() {
    let output = run(
        &["email=redact", "date=keep"],
        "bob@example.com on 2001-02-03\n",
    );
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"text\":\"[EMAIL] on 2001-02-03\",\"found\":[{\"type\":\"email\",\"start\":0,\"end\":15,\"path\":\"\"}]}\n"
    );
    let output = run(&["email=hash", "--key", "/nowhere/key"], "x\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("anchorhold.toml")
    );
    for words in [
        &["mail=mask"][..],
        &["--hlep"],
        &["--input", "xml"],
        &["restore", "mail"],
    ] {
        let output = run(words, "");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("pii"));
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pii-key");
    std::fs::write(&path, "ab".repeat(32)).unwrap();
    let key = path.to_str().unwrap();
    let sealed = run(&["email=pseudonymize", "--key", key], "bob@example.com\n").stdout;
    let sealed = String::from_utf8(sealed).unwrap();
    assert!(sealed.contains("[email:p:"), "{sealed}");
    let restored = run(&["restore", "--key", key], &sealed).stdout;
    assert!(
        String::from_utf8(restored)
            .unwrap()
            .contains("bob@example.com")
    );
}

#[test]
fn the_sample_is_answered_as_its_notes_say() {
    let mut job = job(&[]);
    for line in include_str!("../sample.ndjson").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let answer: Value = serde_json::from_str(&answer_of(&mut job, line.as_bytes())).unwrap();
        let found: Vec<&str> = answer["found"]
            .as_array()
            .unwrap()
            .iter()
            .map(|found| found["type"].as_str().unwrap())
            .collect();
        assert_eq!(
            found.join(" "),
            record["expect"].as_str().unwrap(),
            "{line}"
        );
    }
}

fn run(words: &[&str], input: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_pii"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its words reads nothing.
    let _ = program.stdin.take().unwrap().write_all(input.as_bytes());
    program.wait_with_output().unwrap()
}

/// A card number of a known range with a right check digit.
fn card() -> impl Strategy<Value = String> {
    let ranges = prop_oneof![
        Just(("4", 16)),
        Just(("4", 13)),
        Just(("4", 19)),
        Just(("51", 16)),
        Just(("2221", 16)),
        Just(("34", 15)),
        Just(("36", 14)),
        Just(("6011", 16)),
        Just(("3528", 16)),
        Just(("62", 19)),
        Just(("6304", 12)),
    ];
    (ranges, prop::collection::vec(0..10_u32, 19)).prop_map(|((prefix, length), rest)| {
        let mut digits: Vec<u32> = prefix.chars().map(|c| c.to_digit(10).unwrap()).collect();
        digits.extend(rest);
        digits.truncate(length - 1);
        let sum: u32 = digits
            .iter()
            .rev()
            .enumerate()
            .map(|(index, digit)| match index % 2 {
                0 => digit * 2 / 10 + digit * 2 % 10,
                _ => *digit,
            })
            .sum();
        digits.push((10 - sum % 10) % 10);
        digits.iter().map(ToString::to_string).collect()
    })
}

const ZEROS: [char; 8] = [
    '0',
    '\u{ff10}',
    '\u{660}',
    '\u{6f0}',
    '\u{966}',
    '\u{e50}',
    '\u{1d7ce}',
    '\u{1d7f6}',
];

fn gap() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        4 => "[ \\-./_\t\u{a0}\u{2009}\u{3000}\u{200b}\u{2011}\u{2212}\u{ad}\u{feff}]{1,4}",
        1 => "[ \u{a0}]{1,40}",
    ]
}

fn digits_of(text: &str) -> String {
    text.chars()
        .filter_map(digit)
        .map(|value| char::from(b'0' + value))
        .collect()
}

proptest! {
    #[test]
    fn a_seeded_card_number_never_comes_through_in_any_spacing_or_script(
        card in card(),
        gaps in prop::collection::vec(gap(), 19),
        zeros in prop::collection::vec(prop::sample::select(&ZEROS[..]), 19),
        before in "\\PC{0,12}[a-z:, ]?",
        after in "[a-z.,; ]?\\PC{0,12}",
        in_json: bool,
        field in "[a-z]{0,8}",
    ) {
        let mut text = before;
        for ((value, gap), zero) in card.chars().map(|c| c.to_digit(10).unwrap()).zip(&gaps).zip(&zeros) {
            text.push(char::from_u32(*zero as u32 + value).unwrap());
            text.push_str(gap);
        }
        text.push_str(&after);
        // Digits right beside it would make it another number.
        prop_assume!(digits_of(&text) == card);
        let line = if in_json { json!({ field: [text] }).to_string() } else { format!("x{text}") };
        let answer = answer_of(&mut job(&[]), line.as_bytes());
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let rest = digits_of(&match answer.get("record") {
            Some(record) => record.to_string(),
            None => answer["text"].as_str().unwrap().to_owned(),
        });
        prop_assert!(rest.len() <= 4, "{}", rest);
    }

    #[test]
    fn places_are_right_whatever_stands_around(
        before in "[^0-9@.:/\\p{N}]{0,20} ", after in " [^0-9@.:/\\p{N}]{0,20}",
    ) {
        let text = format!("{before}bob@example.com{after}");
        let line = json!([text]).to_string();
        let answer = answer(&line);
        let places: Vec<&Value> = answer["found"].as_array().unwrap().iter()
            .filter(|found| found["type"] == "email").collect();
        prop_assert_eq!(places.len(), 1, "{}", answer);
        let place = |name: &str| usize::try_from(places[0][name].as_u64().unwrap()).unwrap();
        let value: String = text.chars().skip(place("start")).take(place("end") - place("start")).collect();
        prop_assert_eq!(value, "bob@example.com");
        prop_assert_eq!(&places[0]["path"], "/0");
    }

    #[test]
    fn arbitrary_bytes_get_one_answer_a_line(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]\":,\\ 0123456789@./-(+x\n"[..])], 0..300),
        restore: bool,
    ) {
        let mode = if restore {
            Mode::Restore(Input::Auto, Kind::ALL.to_vec())
        } else {
            Mode::Redact(Config::default())
        };
        let mut out = Vec::new();
        Job::new(mode, Some(&Keys::new(&[3; 32]))).run(bytes.as_slice(), &mut out).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
        prop_assert_eq!(out.split_inclusive(|byte| *byte == b'\n').count(), lines);
        for line in out.split_inclusive(|byte| *byte == b'\n') {
            prop_assert!(serde_json::from_slice::<Value>(line).is_ok());
        }
    }

    #[test]
    fn folding_never_points_beside_a_character(text in "\\PC{0,40}") {
        let folded = Folded::new(&text);
        let places: Vec<usize> = folded.text().char_indices().map(|(place, _)| place).chain([folded.text().len()]).collect();
        for pair in places.windows(2) {
            let (start, end) = folded.original(pair[0], pair[1]);
            prop_assert_eq!(text[start..end].chars().count(), 1);
        }
    }
}
