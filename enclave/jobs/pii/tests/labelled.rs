//! Sentences with labels by others: of each kind, how much is found, how much of it is right, and how much has the
//! very beginning and end. What is recorded here is what is claimed; it may rise, not fall.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]
#![allow(clippy::print_stderr, reason = "says what was not tested")]

use std::path::PathBuf;

use anchorhold_job_pii::Kind;
use anchorhold_job_pii::detect::{Detectors, Field, Found};
use serde_json::Value;

/// Kind, label, precision, recall, exact recall, in thousandths.
const RECORDED: [(Kind, &str, usize, usize, usize); 9] = [
    (Kind::Email, "EMAIL_ADDRESS", 1000, 1000, 1000),
    (Kind::Phone, "PHONE_NUMBER", 1000, 1000, 978),
    (Kind::Card, "CREDIT_CARD", 1000, 1000, 1000),
    (Kind::Iban, "IBAN_CODE", 1000, 1000, 1000),
    (Kind::Ssn, "US_SSN", 1000, 1000, 1000),
    (Kind::Ip, "IP_ADDRESS", 1000, 1000, 1000),
    (Kind::Url, "DOMAIN_NAME", 1000, 1000, 1000),
    (Kind::Date, "DATE_TIME", 1000, 1000, 1000),
    (Kind::Zip, "ZIP_CODE", 1000, 513, 513),
];

/// The data beside the repository; it is not part of it.
fn labelled() -> Option<Vec<Value>> {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../../shared/data/pii-labelled.json"
    ));
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(error) => {
            let message = format!("NOT TESTED: cannot read {}: {error}", path.display());
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
            eprintln!("{message}");
            None
        }
    }
}

#[derive(Default)]
struct Counts {
    labels: usize,
    labels_found: usize,
    exact: usize,
    found: usize,
    right: usize,
}

fn thousandths(part: usize, whole: usize) -> usize {
    (part * 1000).checked_div(whole).unwrap_or(1000)
}

#[test]
fn precision_and_recall_on_the_labelled_sentences_are_what_is_recorded() {
    let Some(sentences) = labelled() else { return };
    assert_eq!(sentences.len(), 1500);
    let detectors = Detectors::new(|_| true);
    let mut failures = Vec::new();
    for (kind, label, precision, recall, exact) in RECORDED {
        let mut counts = Counts::default();
        let mut wrong = Vec::new();
        for sentence in &sentences {
            let text = sentence["full_text"].as_str().unwrap();
            let found: Vec<Found> = detectors.text(text, &Field::default());
            let found: Vec<(usize, usize)> = found
                .iter()
                .filter(|found| found.kind == kind)
                .map(|found| (found.start, found.end))
                .collect();
            let byte = |name: &str, span: &Value| {
                let characters = usize::try_from(span[name].as_u64().unwrap()).unwrap();
                text.char_indices()
                    .nth(characters)
                    .map_or(text.len(), |(byte, _)| byte)
            };
            let labels: Vec<(usize, usize)> = sentence["spans"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|span| span["entity_type"] == label)
                .map(|span| (byte("start_position", span), byte("end_position", span)))
                .collect();
            // An address is labelled as a whole: a postal code in it is neither right nor wrong.
            let addresses: Vec<(usize, usize)> = sentence["spans"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|span| kind == Kind::Zip && span["entity_type"] == "STREET_ADDRESS")
                .map(|span| (byte("start_position", span), byte("end_position", span)))
                .collect();
            let meets = |a: &(usize, usize), b: &(usize, usize)| a.0 < b.1 && b.0 < a.1;
            let found: Vec<_> = found
                .into_iter()
                .filter(|found| !addresses.iter().any(|address| meets(address, found)))
                .collect();
            counts.labels += labels.len();
            counts.found += found.len();
            counts.exact += labels.iter().filter(|label| found.contains(label)).count();
            for label in &labels {
                if found.iter().any(|found| meets(found, label)) {
                    counts.labels_found += 1;
                } else {
                    wrong.push(format!("missed {:?}", around(text, *label)));
                }
            }
            for found in &found {
                if labels.iter().any(|label| meets(found, label)) {
                    counts.right += 1;
                } else {
                    wrong.push(format!("wrong {:?}", around(text, *found)));
                }
            }
        }
        let measured = (
            thousandths(counts.right, counts.found),
            thousandths(counts.labels_found, counts.labels),
            thousandths(counts.exact, counts.labels),
        );
        assert!(counts.labels > 10, "{label}");
        if measured.0 < precision || measured.1 < recall || measured.2 < exact {
            failures.push(format!(
                "{label}: precision, recall, exact {measured:?}\n  {}",
                wrong.join("\n  ")
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn around(text: &str, (start, end): (usize, usize)) -> String {
    let from = text.floor_char_boundary(start.saturating_sub(40));
    let to = text.ceil_char_boundary((end + 25).min(text.len()));
    format!(
        "{}⟦{}⟧{}",
        &text[from..start],
        &text[start..end],
        &text[end..to]
    )
}
