//! One line in, one line out, whatever the line is.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anchorhold_job_cards::{Job, MAX_LINE_BYTES, Mode, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn job(mode: Mode) -> Job {
    Job::new(mode, Tokenizer::new(&[3; 32]))
}

fn answer_in(mode: Mode, line: &[u8]) -> Value {
    let mut out = Vec::new();
    job(mode).answer(line, &mut out);
    assert_eq!(
        out.iter().position(|byte| *byte == b'\n'),
        Some(out.len() - 1)
    );
    serde_json::from_slice(&out).unwrap()
}

fn answer(line: &str) -> Value {
    answer_in(Mode::Tokenize, line.as_bytes())
}

fn code(line: &str) -> String {
    answer(line)["error"]["code"]
        .as_str()
        .unwrap_or("ok")
        .to_owned()
}

#[test]
fn what_is_no_json_object_is_a_format_error_without_an_id() {
    for line in [
        "",
        "   ",
        "null",
        "[]",
        "\"4111111111111111\"",
        "{",
        "{\"pan\":}",
        "{} {}",
        "x",
    ] {
        let answer = answer(line);
        assert_eq!(answer["id"], Value::Null, "{line}");
        assert_eq!(answer["error"]["code"], "format", "{line}");
    }
    assert_eq!(
        answer_in(Mode::Tokenize, b"{\"pan\":\"\xff\"}")["error"]["code"],
        "format"
    );
}

#[test]
fn errors_never_quote_the_line() {
    for line in [
        "4111111111111111",
        "{\"id\":1,\"pan\":4111111111111111}",
        "{\"id\":1,\"pan\":\"4111111111111111\"4111111111111111",
        "{\"4111111111111111\":1,\"4111111111111111\":1}",
        "{\"id\":1,\"pan\":\"4111111111111112\"}",
        "{\"id\":1,\"pan\":\"4111111111111111X\",\"note\":\"4111111111111111\"}",
        "{\"id\":\"4111111111111111\",\"pan\":\"\"}",
        "{\"id\":4111111111111111,\"pan\":\"\"}",
    ] {
        let text = answer(line).to_string();
        assert!(text.contains("error"), "{text}");
        assert!(!text.contains("41111"), "{text}");
    }
}

#[test]
fn an_absent_null_or_empty_number_is_missing_and_another_type_is_a_format_error() {
    assert_eq!(code("{\"id\":1}"), "missing");
    assert_eq!(code("{\"id\":1,\"pan\":null}"), "missing");
    assert_eq!(code("{\"id\":1,\"pan\":\"  \"}"), "missing");
    assert_eq!(code("{\"id\":1,\"pan\":4111111111111111}"), "format");
    assert_eq!(code("{\"id\":1,\"pan\":[\"4111111111111111\"]}"), "format");
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    assert_eq!(
        code("{\"pan\":\"4111111111111111\",\"pan\":\"5555555555554444\"}"),
        "format"
    );
    assert_eq!(
        code("{\"pan\":\"4111111111111111\",\"p\\u0061n\":\"5555555555554444\"}"),
        "format"
    );
    let names: Vec<_> = (0..30).map(|number| format!("\"f{number}\":0,")).collect();
    let many = names.concat();
    assert_eq!(
        code(&format!("{{{many}\"pan\":\"4111111111111111\"}}")),
        "ok"
    );
    assert_eq!(
        code(&format!("{{{many}\"f7\":1,\"pan\":\"4111111111111111\"}}")),
        "format"
    );
}

#[test]
fn other_fields_go_through_as_they_are_and_the_answers_own_names_are_left_out() {
    let line = r#"{"a":1.50,"id":{"x":[1]},"pan":"4111111111111111","b":[true,null,"é\n"],"token":"x","error":1,"scheme":2,"last4":3}"#;
    let mut out = Vec::new();
    job(Mode::Tokenize).answer(line.as_bytes(), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with(r#"{"id":{"x":[1]},"token":""#), "{text}");
    let tail = r#""last4":"1111","scheme":"visa","a":1.50,"b":[true,null,"é\n"]}"#;
    assert!(text.trim_end().ends_with(tail), "{text}");
}

#[test]
fn card_numbers_are_masked_wherever_they_hide() {
    let answer = answer(
        r#"{"id":"4111111111111111","pan":"900000000001","merchant":"x 5555 5555 5555 4444","deep":[{"4111111111111111":"a"},["378282246310005\n"],4111111111111111,-4111111111111111,1700000000000,41.38506412345678,"4111\u002d1111\u002d1111\u002d1111","\u0034111111111111111","9000-0000-0001"]}"#,
    );
    assert_eq!(answer["scheme"], "unknown");
    assert_eq!(answer["id"], "************1111");
    assert_eq!(answer["merchant"], "x **** **** **** 4444");
    assert_eq!(
        answer["deep"],
        json!([
            { "************1111": "a" },
            ["***********0005\n"],
            "************1111",
            "************1111",
            1_700_000_000_000_u64,
            41.385_064_123_456_78,
            "****-****-****-1111",
            "************1111",
            "****-****-0001"
        ])
    );
}

#[test]
fn detokenizing_takes_tokens_and_refuses_everything_else() {
    let token = answer("{\"id\":1,\"pan\":\"4111 1111 1111 1111\"}")["token"].clone();
    let back = |token: &Value| {
        answer_in(
            Mode::Detokenize,
            json!({ "id": 7, "token": token }).to_string().as_bytes(),
        )
    };
    assert_eq!(back(&token), json!({ "id": 7, "pan": "4111111111111111" }));
    for (wrong, code) in [
        (json!(null), "missing"),
        (json!(""), "missing"),
        (json!("4111 1111"), "characters"),
        (json!("411"), "length"),
        (json!("4111111111111111"), "token"),
        (json!(7), "format"),
    ] {
        let answer = back(&wrong);
        assert_eq!(answer["error"]["code"], code, "{wrong}");
        assert!(!answer.to_string().contains("4111"));
    }
}

#[test]
fn lines_are_answered_in_order_at_any_length_and_without_a_last_line_end() {
    let long = format!(
        "{{\"id\":\"long\",\"x\":\"{}\"}}",
        "y".repeat(MAX_LINE_BYTES)
    );
    let just = format!(
        "{{\"id\":\"just\",\"x\":\"{}\"}}",
        "y".repeat(MAX_LINE_BYTES - 20)
    );
    assert_eq!(just.len(), MAX_LINE_BYTES);
    let input = format!(
        "{{\"id\":1}}\n\n{long}\n{just}\n{long}\n{{\"id\":2,\"pan\":\"4111111111111111\"}}"
    );
    for step in [7, 65_536, usize::MAX] {
        let mut out = Vec::new();
        job(Mode::Tokenize)
            .run(Steps(input.as_bytes(), step), &mut out)
            .unwrap();
        let answers: Vec<Value> = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let ids: Vec<_> = answers.iter().map(|answer| answer["id"].clone()).collect();
        assert_eq!(
            ids,
            [
                json!(1),
                json!(null),
                json!(null),
                json!("just"),
                json!(null),
                json!(2)
            ]
        );
        assert_eq!(
            answers[2]["error"]["message"],
            "the line has more than 1048576 bytes"
        );
        assert_eq!(answers[5]["last4"], "1111");
    }
}

/// Reads that give at most so many bytes.
struct Steps<'a>(&'a [u8], usize);

impl Read for Steps<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.1);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn answers_come_when_the_input_pauses() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cards"))
        .args(["--key", key_file().to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    let mut output = program.stdout.take().unwrap();
    input.write_all(b"{\"id\":1}\n").unwrap();
    let mut first = [0; 8];
    output.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"{\"id\":1,");
    drop(input);
    assert!(program.wait().unwrap().success());
}

#[test]
fn without_a_key_the_program_fails_and_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_cards"))
        .args(["--key", "/nowhere/key"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("anchorhold.toml")
    );
}

#[test]
fn help_says_what_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_cards"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("Example: cards <")
    );
    let output = Command::new(env!("CARGO_BIN_EXE_cards"))
        .arg("--hlep")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

fn key_file() -> std::path::PathBuf {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("tokenization-key");
    std::fs::write(&path, [3; 32]).unwrap();
    path
}

proptest! {
    #[test]
    fn arbitrary_bytes_get_one_answer_a_line(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        detokenize: bool,
    ) {
        let mode = if detokenize { Mode::Detokenize } else { Mode::Tokenize };
        let mut out = Vec::new();
        job(mode).run(bytes.as_slice(), &mut out).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
        prop_assert_eq!(out.split_inclusive(|byte| *byte == b'\n').count(), lines);
        for line in out.split_inclusive(|byte| *byte == b'\n') {
            prop_assert!(serde_json::from_slice::<Value>(line).is_ok());
        }
    }

    #[test]
    fn arbitrary_objects_get_an_answer_that_is_json(
        fields in prop::collection::vec(("\\PC{0,6}|pan|id|note|token", any_value()), 0..8),
    ) {
        let line = Value::Object(fields.into_iter().collect()).to_string();
        let answer = answer(&line);
        prop_assert!(answer.is_object());
        prop_assert!(answer.get("pan").is_none());
    }

    #[test]
    fn a_number_in_any_text_is_masked(
        before in "([a-z ]{0,10}[a-z])?", after in "([a-z][a-z ]{0,10})?", gap in "[ -]?",
    ) {
        let number = ["4012", "8888", "8888", "1881"].join(&gap);
        let line = json!({ "id": 1, "pan": "5555555555554444", "x": format!("{before}{number}{after}") });
        let answer = answer(&line.to_string());
        let masked = format!("{before}{}{after}", ["****", "****", "****", "1881"].join(&gap));
        prop_assert_eq!(answer["x"].as_str(), Some(&*masked));
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,30}".prop_map(Value::from),
        "[0-9 -]{0,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}
