//! The whole of the real input: every outcome is the expected one, every token turns back, and no card number
//! gets out.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]
#![allow(clippy::print_stderr, reason = "says what was not tested")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anchorhold_job_cards::card::{CardNumber, Scheme};
use anchorhold_job_cards::{Job, Mode, Tokenizer};
use serde_json::Value;

const KEY: [u8; 32] = *b"a tokenization key for the tests";

fn job(mode: Mode) -> Job {
    Job::new(mode, Tokenizer::new(&KEY))
}

fn run(mode: Mode, input: &[u8]) -> String {
    let mut output = Vec::new();
    job(mode).run(input, &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

/// The data beside the repository; it is not part of it.
fn shared(name: &str) -> Option<String> {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../../shared/data"
    ))
    .join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            let message = format!("NOT TESTED: cannot read {}: {error}", path.display());
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
            eprintln!("{message}");
            None
        }
    }
}

fn objects(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Everything that the job promises about a file of records with the field `expect`.
fn keeps_its_promises(input: &str) {
    let output = run(Mode::Tokenize, input.as_bytes());
    let (records, answers) = (objects(input), objects(&output));
    assert_eq!(records.len(), answers.len());

    let mut tokens = String::new();
    let mut numbers: BTreeMap<String, String> = BTreeMap::new();
    for (record, answer) in records.iter().zip(&answers) {
        let id = &record["id"];
        assert_eq!(id, &answer["id"]);
        let outcome = answer["error"]["code"].as_str().unwrap_or("ok");
        assert_eq!(outcome, record["expect"], "{id}");
        if outcome != "ok" {
            let fields: Vec<_> = answer.as_object().unwrap().keys().collect();
            assert_eq!(
                fields,
                ["error", "id"],
                "an error shows nothing else of its record"
            );
            continue;
        }
        let number: String = record["pan"]
            .as_str()
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        let token = answer["token"].as_str().unwrap();
        assert_eq!(token.len(), number.len());
        assert!(
            CardNumber::parse(token).is_err(),
            "{id}: a token is no card number"
        );
        assert!(number.ends_with(answer["last4"].as_str().unwrap()));
        assert_eq!(answer["last4"].as_str().unwrap().len(), 4);
        let known = numbers.insert(token.to_owned(), number.clone());
        assert!(
            known.is_none_or(|known| known == number),
            "{id}: two numbers have this token"
        );
        for (name, value) in record.as_object().unwrap() {
            match name.as_str() {
                "pan" => assert!(answer.get("pan").is_none()),
                "note" if &answer["note"] != value => {
                    assert!(answer["note"].as_str().unwrap().contains("****"));
                }
                _ => assert_eq!(value, &answer[name], "{id}: {name}"),
            }
        }
        writeln!(tokens, "{{\"id\":{id},\"token\":\"{token}\"}}").unwrap();
    }

    let mut opened = objects(&run(Mode::Detokenize, tokens.as_bytes())).into_iter();
    for (record, answer) in records
        .iter()
        .zip(&answers)
        .filter(|(_, a)| a.get("error").is_none())
    {
        let opened = opened.next().unwrap();
        let number: String = record["pan"]
            .as_str()
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        assert_eq!(opened["id"], answer["id"]);
        assert_eq!(opened["pan"], number);
    }
    assert!(opened.next().is_none());

    let search = Search::of(&records);
    assert_eq!(
        search.found_in(&output),
        Vec::<String>::new(),
        "card numbers got out"
    );
    assert!(
        !search.found_in(input).is_empty(),
        "this search can find card numbers"
    );
}

/// Looks for the records' card numbers, and for those in their notes, whatever stands between their digits.
struct Search(Vec<String>);

impl Search {
    fn of(records: &[Value]) -> Self {
        let mut numbers = Vec::new();
        for record in records {
            let digits =
                |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
            let pan = digits(record["pan"].as_str().unwrap_or_default());
            if pan.len() >= 12 {
                numbers.push(pan);
            }
            let note = record["note"].as_str().unwrap_or_default();
            if let Some((_, number)) = note.rsplit_once("card ") {
                numbers.extend(Some(digits(number)).filter(|number| number.len() >= 12));
            }
        }
        numbers.sort();
        numbers.dedup();
        Self(numbers)
    }

    fn found_in(&self, text: &str) -> Vec<String> {
        // Each line by itself, so that digits of two records do not run together; tokens are digits of their
        // own, and are compared as wholes.
        let mut found = Vec::new();
        for line in text.lines() {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let token = value.as_object_mut().unwrap().remove("token");
            if let Some(token) = token.as_ref().and_then(Value::as_str) {
                found.extend(
                    self.0
                        .binary_search(&token.to_owned())
                        .ok()
                        .map(|_| token.to_owned()),
                );
            }
            let mut texts: Vec<String> = Vec::new();
            collect(&value, &mut texts);
            for text in texts {
                let digits: String = text.chars().filter(char::is_ascii_digit).collect();
                for length in 12..=19 {
                    for window in digits.as_bytes().windows(length) {
                        let window = std::str::from_utf8(window).unwrap();
                        if self
                            .0
                            .binary_search_by(|number| number.as_str().cmp(window))
                            .is_ok()
                        {
                            found.push(window.to_owned());
                        }
                    }
                }
            }
        }
        found
    }
}

fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect(value, texts)),
        Value::Array(items) => items.iter().for_each(|value| collect(value, texts)),
        other => texts.push(other.to_string()),
    }
}

#[test]
fn every_record_of_the_real_input_has_its_expected_outcome() {
    let Some(input) = shared("transactions.ndjson") else {
        return;
    };
    assert_eq!(input.lines().count(), 20_000);
    keeps_its_promises(&input);
}

#[test]
fn every_record_of_the_sample_has_its_expected_outcome() {
    keeps_its_promises(include_str!("../sample.ndjson"));
}

#[test]
fn every_hidden_number_of_the_real_input_is_masked_and_telephone_numbers_stay() {
    let Some(input) = shared("transactions.ndjson") else {
        return;
    };
    let output = run(Mode::Tokenize, input.as_bytes());
    let (mut hidden, mut kept) = (0, 0);
    for (record, answer) in objects(&input).iter().zip(objects(&output)) {
        let (Some(note), Some(masked)) = (record["note"].as_str(), answer["note"].as_str()) else {
            continue;
        };
        let Some((call, number)) = note.split_once(" re card ") else {
            assert_eq!(note, masked);
            continue;
        };
        let (masked_call, masked_number) = masked.split_once(" re card ").unwrap();
        let stars = "*".repeat(number.len() - 4) + &number[number.len() - 4..];
        assert_eq!(masked_number, stars);
        hidden += 1;
        kept += usize::from(call == masked_call);
    }
    assert!(hidden > 1000);
    assert_eq!(kept, hidden, "telephone numbers were masked");
}

#[test]
fn the_ranges_agree_with_the_published_list() {
    let Some(list) = shared("card-ranges.csv") else {
        return;
    };
    let mut checked = 0;
    for row in list.lines().skip(1) {
        let fields: Vec<_> = row.split(',').collect();
        let [start, end, length, _, scheme, brand] = fields[..6] else {
            panic!("{row}")
        };
        // The list names Mastercard as the owner of Maestro, which is a brand of its own here.
        let scheme = if brand == "Maestro" {
            "maestro"
        } else {
            scheme
        };
        for prefix in [start, if end.is_empty() { start } else { end }] {
            let digits: Vec<u8> = prefix.bytes().map(|digit| digit - b'0').collect();
            let found = Scheme::of_digits(&digits);
            assert_eq!(found.name(), scheme, "{row}");
            if let Ok(length) = length.parse() {
                assert!(found.lengths().contains(&length), "{row}");
            }
        }
        checked += 1;
    }
    assert!(checked > 5000);
}
