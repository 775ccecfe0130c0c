//! One line: taken apart, answered. What holds nothing goes through byte for byte.
//!
//! No message here may quote the line: the parser's own messages do, so only their position is used.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::de::IgnoredAny;

use crate::config::{Config, Input, Kind};
use crate::detect::{Detectors, Field, Found};
use crate::job::MAX_FOUND;
use crate::replace::{NoRandomness, Replacer};

/// Long names of fields stand in the report as often as something is found below them.
const MAX_REPORT_BYTES: usize = 4 * 1024 * 1024;

/// What is wrong with a line.
pub(crate) enum Failure {
    /// An error of its own for this line.
    Line { code: &'static str, message: String },
    /// Nothing more can be answered.
    Stop(NoRandomness),
}

impl Failure {
    pub(crate) fn line(code: &'static str, message: impl Into<String>) -> Self {
        Self::Line {
            code,
            message: message.into(),
        }
    }
}

/// What is done with each string and number of a line.
trait Rewrite {
    /// What stands in the place of a text; borrowed where it stays.
    fn text<'a>(&mut self, text: &'a str, place: &Place<'_>) -> Result<Cow<'a, str>, Failure>;
    /// What stands in the place of a number; `None` where it stays.
    fn number(&mut self, literal: &str, place: &Place<'_>) -> Result<Option<String>, Failure>;
}

/// Appends a line with personal data replaced, and the report.
pub(crate) fn redact(
    line: &[u8],
    config: &Config,
    detectors: &Detectors,
    replacer: &mut Replacer,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let line = text(line)?;
    let mut redaction = Redaction {
        config,
        detectors,
        replacer,
        count: 0,
        report: String::new(),
    };
    if is_json(line, config.input)? {
        let record = rewrite(line, &mut redaction)?;
        out.extend_from_slice(b"{\"record\":");
        out.extend_from_slice(record.as_bytes());
    } else {
        let text = redaction.text(line, &Place(&[]))?;
        out.extend_from_slice(b"{\"text\":");
        out.extend_from_slice(quoted(&text).as_bytes());
    }
    out.extend_from_slice(b",\"found\":[");
    out.extend_from_slice(redaction.report.as_bytes());
    out.extend_from_slice(b"]}\n");
    Ok(())
}

/// Appends a line with the values of these kinds in the places of their pseudonyms and ciphertexts.
pub(crate) fn restore(
    line: &[u8],
    input: Input,
    kinds: &[Kind],
    replacer: &mut Replacer,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let line = text(line)?;
    let mut restoration = Restoration { kinds, replacer };
    if is_json(line, input)? {
        out.extend_from_slice(rewrite(line, &mut restoration)?.as_bytes());
        out.push(b'\n');
    } else {
        let text = restoration.text(line, &Place(&[]))?;
        out.extend_from_slice(b"{\"text\":");
        out.extend_from_slice(quoted(&text).as_bytes());
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

/// The answer to a line that is no record.
pub(crate) fn fail(code: &str, message: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"error\":{\"code\":");
    out.extend_from_slice(quoted(code).as_bytes());
    out.extend_from_slice(b",\"message\":");
    out.extend_from_slice(quoted(message).as_bytes());
    out.extend_from_slice(b"}}\n");
}

fn text(line: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(line).map_err(|error| {
        let place = error.valid_up_to() + 1;
        Failure::line(
            "format",
            format!("the line is not UTF-8 at its byte {place}"),
        )
    })
}

/// Whether a line is to be read as JSON.
fn is_json(line: &str, input: Input) -> Result<bool, Failure> {
    let first = line.trim_ascii_start().bytes().next();
    let must = match input {
        Input::Text => return Ok(false),
        Input::Json => true,
        Input::Auto => match first {
            Some(b'{') => true,
            Some(b'[' | b'"') => false,
            _ => return Ok(false),
        },
    };
    match serde_json::from_str::<IgnoredAny>(line) {
        Ok(_) => Ok(true),
        Err(error) if must => {
            let column = error.column();
            let message = format!(
                "the line is not valid JSON at its column {column}; `--input text` takes lines for text"
            );
            Err(Failure::line("format", message))
        }
        Err(_) => Ok(false),
    }
}

struct Redaction<'a> {
    config: &'a Config,
    detectors: &'a Detectors,
    replacer: &'a mut Replacer,
    count: usize,
    report: String,
}

impl Redaction<'_> {
    fn note(&mut self, kind: Kind, start: usize, end: usize, path: &str) -> Result<(), Failure> {
        self.count += 1;
        if self.report.len() > MAX_REPORT_BYTES {
            let message = format!(
                "the report on the line has more than {MAX_REPORT_BYTES} bytes, because of long names of fields; split the line into several"
            );
            return Err(Failure::line("many", message));
        }
        if self.count > MAX_FOUND {
            let message = format!(
                "the line holds more than {MAX_FOUND} pieces of personal data; split it into several"
            );
            return Err(Failure::line("many", message));
        }
        if self.count > 1 {
            self.report.push(',');
        }
        let name = kind.name();
        write!(
            self.report,
            "{{\"type\":\"{name}\",\"start\":{start},\"end\":{end},\"path\":{path}}}"
        )
        .expect("writing to memory cannot fail");
        Ok(())
    }
}

impl Rewrite for Redaction<'_> {
    fn text<'a>(&mut self, text: &'a str, place: &Place<'_>) -> Result<Cow<'a, str>, Failure> {
        let found = self.detectors.text(text, place.field());
        if found.is_empty() {
            return Ok(Cow::Borrowed(text));
        }
        let path = quoted(&place.path());
        let mut out = String::with_capacity(text.len() + 16);
        let (mut from, mut characters) = (0, 0);
        for Found { kind, start, end } in found {
            let first = characters + text[from..start].chars().count();
            characters = first + text[start..end].chars().count();
            self.note(kind, first, characters, &path)?;
            out.push_str(&text[from..start]);
            self.replacer
                .put(kind, self.config.action(kind), &text[start..end], &mut out)
                .map_err(Failure::Stop)?;
            from = end;
        }
        out.push_str(&text[from..]);
        Ok(Cow::Owned(out))
    }

    fn number(&mut self, literal: &str, place: &Place<'_>) -> Result<Option<String>, Failure> {
        if literal.len() < 3 || literal.len() > 20 {
            return Ok(None);
        }
        let Some(kind) = self.detectors.number(literal, place.field()) else {
            return Ok(None);
        };
        self.note(kind, 0, literal.len(), &quoted(&place.path()))?;
        let mut out = String::new();
        self.replacer
            .put(kind, self.config.action(kind), literal, &mut out)
            .map_err(Failure::Stop)?;
        Ok(Some(out))
    }
}

struct Restoration<'a> {
    kinds: &'a [Kind],
    replacer: &'a mut Replacer,
}

impl Rewrite for Restoration<'_> {
    fn text<'a>(&mut self, text: &'a str, _: &Place<'_>) -> Result<Cow<'a, str>, Failure> {
        Ok(self.replacer.restore(text, self.kinds))
    }

    fn number(&mut self, _: &str, _: &Place<'_>) -> Result<Option<String>, Failure> {
        Ok(None)
    }
}

/// How deep a value lies, from the outside.
enum Level {
    /// The field's name, and its words: read once, however many values it has.
    Object {
        name: String,
        field: Field,
        name_is_next: bool,
    },
    /// The element's number, from 0.
    Array(usize),
}

struct Place<'a>(&'a [Level]);

static NO_FIELD: Field = Field::NONE;

impl Place<'_> {
    /// The nearest field's name.
    fn field(&self) -> &Field {
        let field = self.0.iter().rev().find_map(|level| match level {
            Level::Object { field, .. } => Some(field),
            Level::Array(_) => None,
        });
        field.unwrap_or(&NO_FIELD)
    }

    /// As a JSON pointer (RFC 6901).
    fn path(&self) -> String {
        let mut path = String::new();
        for level in self.0 {
            path.push('/');
            match level {
                Level::Array(index) => path.push_str(&index.to_string()),
                Level::Object { name, .. } => {
                    path.push_str(&name.replace('~', "~0").replace('/', "~1"));
                }
            }
        }
        path
    }
}

/// Writes valid JSON anew, values replaced; all else, names too, as it was written.
fn rewrite(json: &str, with: &mut impl Rewrite) -> Result<String, Failure> {
    let mut out = String::with_capacity(json.len() + json.len() / 4);
    let mut levels: Vec<Level> = Vec::new();
    let mut rest = json;
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => rest
                .bytes()
                .take_while(|byte| belongs_to_a_number(*byte))
                .count(),
            _ => 1,
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        match (first, levels.last_mut()) {
            (
                b'"',
                Some(Level::Object {
                    name,
                    field,
                    name_is_next: true,
                }),
            ) => {
                *name = unquoted(token).unwrap_or_default().into_owned();
                *field = Field::named(name);
            }
            (b'"', _) => {
                let text = unquoted(token).ok_or_else(|| {
                    let message = "a string is not text: it has half of a surrogate pair";
                    Failure::line("format", message)
                })?;
                if let Cow::Owned(text) = with.text(&text, &Place(&levels))? {
                    out.push_str(&quoted(&text));
                    continue;
                }
            }
            (b'-' | b'0'..=b'9', _) => {
                if let Some(text) = with.number(token, &Place(&levels))? {
                    out.push_str(&quoted(&text));
                    continue;
                }
            }
            (b'{', _) => levels.push(Level::Object {
                name: String::new(),
                field: Field::NONE,
                name_is_next: true,
            }),
            (b'[', _) => levels.push(Level::Array(0)),
            (b'}' | b']', _) => {
                levels.pop();
            }
            (b':', Some(Level::Object { name_is_next, .. })) => *name_is_next = false,
            (b',', Some(Level::Object { name_is_next, .. })) => *name_is_next = true,
            (b',', Some(Level::Array(index))) => *index += 1,
            _ => {}
        }
        out.push_str(token);
    }
    Ok(out)
}

/// The length of the JSON string that the text begins with, quotes included.
fn string_length(json: &str) -> usize {
    let mut escaped = true; // The opening quote ends nothing.
    for (index, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    json.len()
}

fn belongs_to_a_number(byte: u8) -> bool {
    matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
}

/// The text of a JSON string, borrowed where it has no escapes.
fn unquoted(raw: &str) -> Option<Cow<'_, str>> {
    match raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(text) if !text.contains('\\') => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(raw).ok().map(Cow::Owned),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("writing to memory cannot fail")
}
