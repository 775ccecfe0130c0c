//! One case as a file: lines of `key: value`, an empty line, and the document in base64. The reader is
//! strict, since a line that is misread is a verifier that is misjudged. Never looks at the document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anchorhold_attestation::Pcr;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// The longest file that is read.
pub const MAX_CASE_BYTES: usize = 256 * 1024;

/// Characters of base64 in a line.
const LINE: usize = 76;

/// One document, what a verifier is told, and what it must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// `group/name`, which is also the file's.
    pub name: String,
    /// What must happen.
    pub verdict: Verdict,
    /// How firmly.
    pub level: Level,
    /// Why, in a sentence.
    pub why: String,
    /// The rule that says so, where there is one.
    pub source: Option<String>,
    /// What the verifier is told.
    pub arguments: Arguments,
    /// The raw document, or what stands in its place.
    pub document: Vec<u8>,
}

/// What a verifier must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The document is genuine and as expected.
    Admit,
    /// It is not. These are anchorhold's names for what is wrong: one, or for a genuine document
    /// everything that differs from what was expected.
    Refuse(BTreeSet<String>),
}

/// How firmly a verdict is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// By a standard, by AWS's rules or documents, or because the contrary is a hole.
    Must,
    /// By prudence: a verifier that decides otherwise is not insecure by that alone.
    Should,
}

impl Level {
    /// As it is written in files.
    pub fn name(self) -> &'static str {
        match self {
            Level::Must => "must",
            Level::Should => "should",
        }
    }
}

/// What a verifier is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The roots to trust, by the name of their file. May be none.
    pub anchors: Vec<String>,
    /// When the document is judged.
    pub judge_at: JudgeAt,
    /// How old and how far ahead its timestamp may be; `None`: its age is not judged.
    pub freshness: Option<Freshness>,
    /// By index, the values that are allowed. No value at all matches nothing.
    pub pcrs: BTreeMap<u8, Vec<Pcr>>,
    /// The nonce to be found.
    pub nonce: Option<Vec<u8>>,
    /// The user data to be found.
    pub user_data: Option<Vec<u8>>,
    /// The public key to be found.
    pub public_key: Option<Vec<u8>>,
    /// The enclave's name to be found.
    pub module_id: Option<String>,
    /// It was said aloud that the image does not matter.
    pub any_image: bool,
    /// Debug mode is admitted.
    pub allow_debug: bool,
    /// Keys that are unknown are skipped rather than refused.
    pub ignore_unknown_keys: bool,
}

/// The instant at which certificates are judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JudgeAt {
    /// The document's own timestamp.
    #[default]
    Document,
    /// Milliseconds since 1970, before the year 10000.
    Instant(u64),
}

/// Bounds on a document's age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The oldest that it may be.
    pub max_age_ms: u64,
    /// The furthest that it may lie in the future.
    pub max_skew_ms: u64,
}

/// What is wrong with a case's file. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// Longer than any case.
    #[error("the file has {found} bytes, and a case has at most {MAX_CASE_BYTES}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Not text.
    #[error("the file is not UTF-8")]
    NotUtf8,
    /// Neither `key: value` nor the empty line before the document.
    #[error("line {line} is no `key: value`; an empty line ends the header")]
    NotAHeader {
        /// Where.
        line: usize,
    },
    /// A character that could steer a terminal, or end a word within a program.
    #[error("line {line} has a control character")]
    ControlCharacter {
        /// Where.
        line: usize,
    },
    /// A key that cases do not have.
    #[error("line {line}: unknown key {key:?}")]
    UnknownKey {
        /// Where.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that was there before.
    #[error("line {line}: {key} is given again")]
    Repeated {
        /// Where.
        line: usize,
        /// The key.
        key: String,
    },
    /// A value that the key cannot have.
    #[error("line {line}: {key} is {found:?}; it must be {expected}")]
    Value {
        /// Where.
        line: usize,
        /// The key.
        key: String,
        /// The value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A key that every case has, or that goes with another.
    #[error("{key} is missing: {reason}")]
    Missing {
        /// The key.
        key: &'static str,
        /// Why it must be there.
        reason: &'static str,
    },
    /// A key that does not go with the others.
    #[error("{key} is there, but {reason}")]
    OutOfPlace {
        /// The key.
        key: &'static str,
        /// Why it must not be.
        reason: &'static str,
    },
    /// No empty line after the header.
    #[error("the header is not followed by an empty line and the document")]
    NoDocument,
    /// The document is not base64.
    #[error("line {line}: the document is not base64 with padding: {reason}")]
    Base64 {
        /// The document's first line.
        line: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// Whether this is `group/name` in lower-case letters, digits and hyphens.
pub fn is_case_name(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(group, case)| is_word(group) && is_word(case))
}

/// Whether this may be the name of an anchor's file, without its ending.
pub fn is_anchor_name(name: &str) -> bool {
    is_word(name)
}

fn is_word(word: &str) -> bool {
    (1..=80).contains(&word.len())
        && !word.starts_with('-')
        && word
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What stands for an allow-list without values.
const NO_VALUE: &str = "none";

impl Case {
    /// The first part of its name.
    pub fn group(&self) -> &str {
        self.name.split_once('/').map_or("", |(group, _)| group)
    }

    /// The case as its file.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key}: {value}");
        };
        line("name", &self.name);
        match &self.verdict {
            Verdict::Admit => line("verdict", "admit"),
            Verdict::Refuse(names) => {
                line("verdict", "refuse");
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                line("refusal", &names.join(" "));
            }
        }
        line("level", self.level.name());
        line("why", &self.why);
        if let Some(source) = &self.source {
            line("source", source);
        }
        let arguments = &self.arguments;
        for anchor in &arguments.anchors {
            line("anchor", anchor);
        }
        match arguments.judge_at {
            JudgeAt::Document => line("judge-at", "document"),
            JudgeAt::Instant(ms) => line("judge-at", &rfc3339(ms)),
        }
        if let Some(freshness) = arguments.freshness {
            line("max-age-ms", &freshness.max_age_ms.to_string());
            line("max-skew-ms", &freshness.max_skew_ms.to_string());
        }
        for (index, allowed) in &arguments.pcrs {
            let key = format!("pcr{index}");
            if allowed.is_empty() {
                line(&key, NO_VALUE);
            }
            for value in allowed {
                line(&key, &value.to_string());
            }
        }
        for (key, bytes) in [
            ("nonce", &arguments.nonce),
            ("user-data", &arguments.user_data),
            ("public-key", &arguments.public_key),
        ] {
            if let Some(bytes) = bytes {
                line(key, &hex::encode(bytes));
            }
        }
        if let Some(module_id) = &arguments.module_id {
            line("module-id", module_id);
        }
        for (key, set) in [
            ("any-image", arguments.any_image),
            ("allow-debug", arguments.allow_debug),
            ("ignore-unknown-keys", arguments.ignore_unknown_keys),
        ] {
            if set {
                line(key, "yes");
            }
        }
        text.push('\n');
        let encoded = STANDARD.encode(&self.document);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text
    }

    /// Reads a file's content.
    pub fn parse(bytes: &[u8]) -> Result<Case, CaseError> {
        if bytes.len() > MAX_CASE_BYTES {
            return Err(CaseError::TooLong { found: bytes.len() });
        }
        let text = core::str::from_utf8(bytes).map_err(|_| CaseError::NotUtf8)?;
        let mut header = Header::default();
        let mut lines = text.lines().enumerate();
        loop {
            let Some((index, content)) = lines.next() else {
                return Err(CaseError::NoDocument);
            };
            if content.is_empty() {
                break;
            }
            header.read(index + 1, content)?;
        }
        let mut first = None;
        let mut encoded = String::new();
        for (index, content) in lines {
            first.get_or_insert(index + 1);
            encoded.push_str(content.trim_end());
        }
        let document = STANDARD
            .decode(&encoded)
            .map_err(|error| CaseError::Base64 {
                line: first.unwrap_or_default(),
                reason: error.to_string(),
            })?;
        header.finish(document)
    }
}

/// An instant as files have it, to the millisecond.
fn rfc3339(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || format!("{ms} ms since 1970"),
            |time| format!("{time:.3}"),
        )
}

/// A header as far as it was read.
#[derive(Default)]
struct Header {
    seen: BTreeSet<String>,
    name: Option<String>,
    admit: Option<bool>,
    refusal: Option<BTreeSet<String>>,
    level: Option<Level>,
    why: Option<String>,
    source: Option<String>,
    judge_at: Option<JudgeAt>,
    max_age_ms: Option<u64>,
    max_skew_ms: Option<u64>,
    arguments: Arguments,
}

impl Header {
    fn read(&mut self, line: usize, content: &str) -> Result<(), CaseError> {
        if content.contains(char::is_control) {
            return Err(CaseError::ControlCharacter { line });
        }
        let (key, value) = content
            .split_once(": ")
            .or_else(|| content.strip_suffix(':').map(|key| (key, "")))
            .ok_or(CaseError::NotAHeader { line })?;
        let wrong = |expected| CaseError::Value {
            line,
            key: key.to_owned(),
            found: value.chars().take(100).collect(),
            expected,
        };
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| wrong("a number of milliseconds"))
        };
        let bytes = || hex::decode(value).map_err(|_| wrong("bytes in hex"));
        let flag = || match value {
            "yes" => Ok(true),
            _ => Err(wrong("`yes`, or the line left out")),
        };
        let first = self.seen.insert(key.to_owned());
        let pcr = key
            .strip_prefix("pcr")
            .and_then(|index| index.parse::<u8>().ok())
            .filter(|index| *index < 32 && key == format!("pcr{index}"));
        if !first && key != "anchor" && pcr.is_none() {
            return Err(CaseError::Repeated {
                line,
                key: key.to_owned(),
            });
        }
        let arguments = &mut self.arguments;
        if let Some(index) = pcr {
            let allowed = arguments.pcrs.entry(index).or_default();
            if value == NO_VALUE {
                if !first {
                    return Err(wrong("`none` once, or values"));
                }
            } else {
                if !first && allowed.is_empty() {
                    return Err(wrong("`none` once, or values"));
                }
                allowed.push(
                    value
                        .parse()
                        .map_err(|_| wrong("96 hexadecimal digits, or `none`"))?,
                );
            }
            return Ok(());
        }
        match key {
            "name" if is_case_name(value) => self.name = Some(value.to_owned()),
            "name" => {
                return Err(wrong(
                    "`group/name` in lower-case letters, digits and hyphens",
                ));
            }
            "verdict" => {
                self.admit = Some(match value {
                    "admit" => true,
                    "refuse" => false,
                    _ => return Err(wrong("`admit` or `refuse`")),
                });
            }
            "refusal" => {
                let names: BTreeSet<String> = value.split(' ').map(str::to_owned).collect();
                if !names.iter().all(|name| is_word(name)) {
                    return Err(wrong("names in lower-case letters, digits and hyphens"));
                }
                self.refusal = Some(names);
            }
            "level" => {
                self.level = Some(match value {
                    "must" => Level::Must,
                    "should" => Level::Should,
                    _ => return Err(wrong("`must` or `should`")),
                });
            }
            "why" if !value.is_empty() => self.why = Some(value.to_owned()),
            "source" if !value.is_empty() => self.source = Some(value.to_owned()),
            "why" | "source" => return Err(wrong("a text")),
            "anchor" if is_anchor_name(value) && !arguments.anchors.iter().any(|a| a == value) => {
                arguments.anchors.push(value.to_owned());
            }
            "anchor" => {
                return Err(wrong(
                    "the name of a file in `anchors`, without `.pem`, and each once",
                ));
            }
            "judge-at" if value == "document" => self.judge_at = Some(JudgeAt::Document),
            "judge-at" => {
                let instant = value
                    .parse::<Timestamp>()
                    .ok()
                    .filter(|time| time.subsec_nanosecond() % 1_000_000 == 0)
                    .and_then(|time| u64::try_from(time.as_millisecond()).ok())
                    .ok_or_else(|| {
                        wrong("`document`, or an instant such as 2025-06-15T15:06:40.000Z")
                    })?;
                self.judge_at = Some(JudgeAt::Instant(instant));
            }
            "max-age-ms" => self.max_age_ms = Some(number()?),
            "max-skew-ms" => self.max_skew_ms = Some(number()?),
            "nonce" => arguments.nonce = Some(bytes()?),
            "user-data" => arguments.user_data = Some(bytes()?),
            "public-key" => arguments.public_key = Some(bytes()?),
            "module-id" => arguments.module_id = Some(value.to_owned()),
            "any-image" => arguments.any_image = flag()?,
            "allow-debug" => arguments.allow_debug = flag()?,
            "ignore-unknown-keys" => arguments.ignore_unknown_keys = flag()?,
            _ => {
                return Err(CaseError::UnknownKey {
                    line,
                    key: key.chars().take(100).collect(),
                });
            }
        }
        Ok(())
    }

    fn finish(self, document: Vec<u8>) -> Result<Case, CaseError> {
        let missing = |key| CaseError::Missing {
            key,
            reason: "every case has it",
        };
        let verdict = match (self.admit.ok_or(missing("verdict"))?, self.refusal) {
            (true, None) => Verdict::Admit,
            (true, Some(_)) => {
                return Err(CaseError::OutOfPlace {
                    key: "refusal",
                    reason: "the verdict is `admit`",
                });
            }
            (false, Some(names)) => Verdict::Refuse(names),
            (false, None) => {
                return Err(CaseError::Missing {
                    key: "refusal",
                    reason: "the verdict is `refuse`",
                });
            }
        };
        let judge_at = self.judge_at.ok_or(missing("judge-at"))?;
        let freshness = match (self.max_age_ms, self.max_skew_ms) {
            (None, None) => None,
            (Some(max_age_ms), Some(max_skew_ms)) => Some(Freshness {
                max_age_ms,
                max_skew_ms,
            }),
            (Some(_), None) => {
                return Err(CaseError::Missing {
                    key: "max-skew-ms",
                    reason: "max-age-ms is there",
                });
            }
            (None, Some(_)) => {
                return Err(CaseError::Missing {
                    key: "max-age-ms",
                    reason: "max-skew-ms is there",
                });
            }
        };
        if judge_at == JudgeAt::Document && freshness.is_some() {
            return Err(CaseError::OutOfPlace {
                key: "max-age-ms",
                reason: "judge-at is `document`, which has no age by its own timestamp",
            });
        }
        Ok(Case {
            name: self.name.ok_or(missing("name"))?,
            verdict,
            level: self.level.ok_or(missing("level"))?,
            why: self.why.ok_or(missing("why"))?,
            source: self.source,
            arguments: Arguments {
                judge_at,
                freshness,
                ..self.arguments
            },
            document,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    fn whole() -> Case {
        Case {
            name: "policy/a-case".to_owned(),
            verdict: Verdict::Refuse(["nonce".to_owned(), "pcr".to_owned()].into()),
            level: Level::Should,
            why: "Because: it must.".to_owned(),
            source: Some("RFC 5280, section 4".to_owned()),
            arguments: Arguments {
                anchors: vec!["root".to_owned(), "aws-nitro-g1".to_owned()],
                judge_at: JudgeAt::Instant(1_750_000_000_001),
                freshness: Some(Freshness {
                    max_age_ms: 1,
                    max_skew_ms: 0,
                }),
                pcrs: [(0, vec![Pcr::ZERO, Pcr::from_bytes([1; 48])]), (31, vec![])].into(),
                nonce: Some(vec![]),
                user_data: Some(vec![0xff]),
                public_key: Some(vec![1, 2]),
                module_id: Some("i-1: enc".to_owned()),
                any_image: true,
                allow_debug: true,
                ignore_unknown_keys: true,
            },
            document: (0..=255).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let case = whole();
        assert_eq!(Case::parse(case.to_text().as_bytes()), Ok(case));
        let bare = Case {
            verdict: Verdict::Admit,
            source: None,
            arguments: Arguments::default(),
            document: vec![],
            ..whole()
        };
        assert_eq!(Case::parse(bare.to_text().as_bytes()), Ok(bare));
    }

    #[test]
    fn every_broken_header_is_refused_by_line_and_key() {
        let text = whole().to_text();
        for (from, to, said) in [
            (
                "name: policy/a-case",
                "name: policy",
                "line 1: name is \"policy\"",
            ),
            ("name: policy/a-case", "name: ../a", "lower-case letters"),
            ("verdict: refuse", "verdict: perhaps", "`admit` or `refuse`"),
            ("verdict: refuse", "verdict: admit", "refusal is there"),
            ("refusal: nonce pcr\n", "", "refusal is missing"),
            ("refusal: nonce pcr", "refusal: nonce  pcr", "line 3"),
            ("level: should", "level: may", "`must` or `should`"),
            ("level: should\n", "", "level is missing"),
            ("why: Because: it must.", "why: ", "a text"),
            ("why: Because: it must.", "why", "line 5 is no `key: value`"),
            ("anchor: root", "anchor: ../root", "name of a file"),
            ("anchor: root", "anchor: aws-nitro-g1", "each once"),
            ("40.001Z", "40.0011Z", "an instant"),
            ("40.001Z", "40.001", "an instant"),
            (
                "judge-at: 2025-06-15T15:06:40.001Z",
                "judge-at: document",
                "max-age-ms is there",
            ),
            ("max-age-ms: 1\n", "", "max-age-ms is missing"),
            ("max-skew-ms: 0\n", "", "max-skew-ms is missing"),
            ("max-skew-ms: 0", "max-skew-ms: -1", "a number"),
            ("pcr31: none", "pcr32: none", "unknown key \"pcr32\""),
            ("pcr31: none", "pcr031: none", "unknown key \"pcr031\""),
            ("pcr31: none", "pcr31: none\npcr31: none", "`none` once"),
            ("pcr31: none", "pcr31: 00", "96 hexadecimal digits"),
            ("user-data: ff", "user-data: f", "bytes in hex"),
            ("any-image: yes", "any-image: no", "`yes`"),
            (
                "any-image: yes",
                "allow-debug: yes",
                "allow-debug is given again",
            ),
            (
                "any-image: yes",
                "any_image: yes",
                "unknown key \"any_image\"",
            ),
            ("\n\nAAEC", "\nAAEC", "no `key: value`"),
            ("AAEC", "AA!C", "not base64"),
            ("it must", "it\u{1b}must", "line 5 has a control character"),
            ("i-1: enc", "i-1\0enc", "control character"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Case::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.to_string().contains(said), "{to}: {error}");
        }
        let (header, _) = text.split_once("\n\n").unwrap();
        assert_eq!(Case::parse(header.as_bytes()), Err(CaseError::NoDocument));
        assert_eq!(Case::parse(&[0xff]), Err(CaseError::NotUtf8));
        let long = vec![b'a'; MAX_CASE_BYTES + 1];
        assert!(matches!(Case::parse(&long), Err(CaseError::TooLong { .. })));
    }
}
