//! One line: taken apart, answered. Fields that hide nothing go through byte for byte.
//!
//! No message here may quote the line: the parser's own messages do, so only their position is used.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::card::{CardNumber, Refusal};
use crate::mask::{mask, mask_integer, may_hold_a_number};
use crate::token::Tokenizer;

/// What this job answers; a record's own fields of these names are left out.
const OWN_FIELDS: [&str; 4] = ["token", "last4", "scheme", "error"];

/// What is wrong with a record.
pub(crate) struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: String) -> Self {
        Self { code, message }
    }

    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new("format", message.into())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure {
            code: refusal.code(),
            message: refusal.to_string(),
        }
    }
}

/// The code of what is wrong with a record, where something is.
pub(crate) type Wrong = Option<&'static str>;

/// Appends the answer to a record with a card number.
pub(crate) fn tokenize(line: &[u8], tokenizer: &Tokenizer, out: &mut Vec<u8>) -> Wrong {
    answer(line, out, |record, out| {
        let number = record.number()?.map_err(Failure::from)?;
        let token = tokenizer.token(&number);
        let digits = number.digits();
        open(record, digits, out);
        out.extend_from_slice(b",\"token\":\"");
        out.extend_from_slice(token.as_str().as_bytes());
        out.extend_from_slice(b"\",\"last4\":\"");
        out.extend(digits[digits.len() - 4..].iter().map(|digit| b'0' + digit));
        out.extend_from_slice(b"\",\"scheme\":\"");
        out.extend_from_slice(number.scheme().name().as_bytes());
        out.push(b'"');
        for (name, value) in &record.0 {
            if !matches!(&**name, "id" | "pan") && !OWN_FIELDS.contains(&&**name) {
                out.push(b',');
                put_string(&mask(name, digits), out);
                out.push(b':');
                put_masked(value.get(), digits, out);
            }
        }
        Ok(())
    })
}

/// Appends whether a record's card number is one.
pub(crate) fn validate(line: &[u8], out: &mut Vec<u8>) -> Wrong {
    answer(line, out, |record, out| {
        match record.number()? {
            Ok(number) => {
                let digits = number.digits();
                open(record, digits, out);
                out.extend_from_slice(b",\"valid\":true,\"scheme\":\"");
                out.extend_from_slice(number.scheme().name().as_bytes());
                out.extend_from_slice(b"\",\"digits\":");
                out.extend_from_slice(digits.len().to_string().as_bytes());
                out.extend_from_slice(b",\"last4\":\"");
                out.extend(digits[digits.len() - 4..].iter().map(|digit| b'0' + digit));
                out.push(b'"');
            }
            Err(refusal) => {
                open(record, &[], out);
                out.extend_from_slice(b",\"valid\":false,");
                put_failure(&Failure::from(refusal), out);
            }
        }
        Ok(())
    })
}

/// Appends the record with all card numbers in it masked, and nothing else changed.
pub(crate) fn masked(line: &[u8], out: &mut Vec<u8>) -> Wrong {
    answer(line, out, |record, out| {
        // Also where it has no known range or is spaced as no other would be: the field says what it is.
        let number = record.number().ok().and_then(Result::ok);
        let own = number.as_ref().map_or(&[][..], CardNumber::digits);
        out.push(b'{');
        for (index, (name, value)) in record.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put_string(&mask(name, own), out);
            out.push(b':');
            put_masked(value.get(), own, out);
        }
        Ok(())
    })
}

/// Appends the answer to a record with a token.
pub(crate) fn detokenize(line: &[u8], tokenizer: &Tokenizer, out: &mut Vec<u8>) -> Wrong {
    answer(line, out, |record, out| {
        let token = record.text("token")?.unwrap_or_default();
        let number = tokenizer.number(&token).map_err(|refusal| Failure {
            code: refusal.code(),
            message: refusal.to_string(),
        })?;
        open(record, &[], out);
        out.extend_from_slice(b",\"pan\":\"");
        out.extend_from_slice(number.as_str().as_bytes());
        out.push(b'"');
        Ok(())
    })
}

/// Appends the answer to a line that is no record.
pub(crate) fn fail(failure: &Failure, record: Option<&Record<'_>>, out: &mut Vec<u8>) {
    match record {
        Some(record) => open(record, &[], out),
        None => out.extend_from_slice(b"{\"id\":null"),
    }
    out.push(b',');
    put_failure(failure, out);
    out.extend_from_slice(b"}\n");
}

fn put_failure(failure: &Failure, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"error\":{\"code\":");
    put_string(failure.code, out);
    out.extend_from_slice(b",\"message\":");
    put_string(&failure.message, out);
    out.push(b'}');
}

fn answer(
    line: &[u8],
    out: &mut Vec<u8>,
    write: impl FnOnce(&Record<'_>, &mut Vec<u8>) -> Result<(), Failure>,
) -> Wrong {
    let start = out.len();
    let record = match Record::parse(line) {
        Ok(record) => record,
        Err(failure) => {
            fail(&failure, None, out);
            return Some(failure.code);
        }
    };
    match write(&record, out) {
        Ok(()) => {
            out.extend_from_slice(b"}\n");
            None
        }
        Err(failure) => {
            out.truncate(start);
            fail(&failure, Some(&record), out);
            Some(failure.code)
        }
    }
}

fn open(record: &Record<'_>, own: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    match record.value("id") {
        Some(id) => put_masked(id.get(), own, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// An object's fields in their order, values as they were written.
pub(crate) struct Record<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Record<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Failure> {
        let text = std::str::from_utf8(line).map_err(|error| {
            Failure::format(format!(
                "the line is not UTF-8 at its byte {}",
                error.valid_up_to() + 1
            ))
        })?;
        if text.trim_ascii().is_empty() {
            return Err(Failure::format(
                "the line is empty; a JSON object is wanted on each line",
            ));
        }
        if !text.trim_ascii_start().starts_with('{') {
            return Err(Failure::format("the line is not a JSON object"));
        }
        let record: Self = serde_json::from_str(text).map_err(|error| {
            Failure::format(format!(
                "the line is not valid JSON at its column {}",
                error.column()
            ))
        })?;
        if record.has_duplicates() {
            return Err(Failure::format("the object has the same field twice"));
        }
        Ok(record)
    }

    fn value(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| *value)
    }

    /// A text field; `None` where it is absent or null.
    fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Failure> {
        let Some(raw) = self
            .value(name)
            .map(RawValue::get)
            .filter(|raw| *raw != "null")
        else {
            return Ok(None);
        };
        match string(raw) {
            Some(text) => Ok(Some(text)),
            None => Err(Failure::format(format!(
                "the field `{name}` is not a string"
            ))),
        }
    }

    /// Its card number, or why that is none.
    fn number(&self) -> Result<Result<CardNumber, Refusal>, Failure> {
        let text = self.text("pan")?;
        Ok(CardNumber::parse(text.as_deref().unwrap_or_default()))
    }

    /// Two readers of an object with the same field twice may see two different records.
    fn has_duplicates(&self) -> bool {
        if self.0.len() <= 16 {
            let names = self.0.iter().map(|(name, _)| name);
            return names
                .enumerate()
                .any(|(index, name)| self.0[..index].iter().any(|(earlier, _)| earlier == name));
        }
        let mut seen = BTreeSet::new();
        !self.0.iter().all(|(name, _)| seen.insert(name))
    }
}

impl<'de> Deserialize<'de> for Record<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Record<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(12);
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Record(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A field's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text of a JSON string, borrowed where it has no escapes.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.starts_with('"') {
        return None;
    }
    match raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(text) if !text.contains('\\') => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(raw).ok().map(Cow::Owned),
    }
}

/// Appends a JSON value, card numbers in its strings, names and integers masked.
fn put_masked(json: &str, own: &[u8], out: &mut Vec<u8>) {
    // An escape may stand for a digit.
    if !json.contains('\\') && !may_hold_a_number(json) {
        out.extend_from_slice(json.as_bytes());
        return;
    }
    let mut rest = json;
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => rest
                .bytes()
                .take_while(|byte| belongs_to_a_number(*byte))
                .count(),
            _ => rest
                .bytes()
                .take_while(|byte| *byte != b'"' && !starts_a_number(*byte))
                .count(),
        };
        let (token, after) = rest.split_at(length.max(1));
        match first {
            b'"' => put_masked_string(token, own, out),
            b'-' | b'0'..=b'9' => put_masked_number(token, own, out),
            _ => out.extend_from_slice(token.as_bytes()),
        }
        rest = after;
    }
}

/// A card number that stands as an integer becomes a string, as its stars are no number.
fn put_masked_number(number: &str, own: &[u8], out: &mut Vec<u8>) {
    let digits = number.strip_prefix('-').unwrap_or(number);
    match mask_integer(digits, own) {
        Cow::Owned(masked) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            put_string(&masked, out);
        }
        _ => out.extend_from_slice(number.as_bytes()),
    }
}

fn put_masked_string(raw: &str, own: &[u8], out: &mut Vec<u8>) {
    let Some(text) = string(raw) else {
        // Unpaired surrogates: valid JSON to some, text to nobody.
        return out.extend_from_slice(b"null");
    };
    match mask(&text, own) {
        Cow::Owned(masked) => put_string(&masked, out),
        Cow::Borrowed(_) => out.extend_from_slice(raw.as_bytes()),
    }
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

fn starts_a_number(byte: u8) -> bool {
    matches!(byte, b'-' | b'0'..=b'9')
}

fn belongs_to_a_number(byte: u8) -> bool {
    matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    if text
        .bytes()
        .all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
    {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing to memory cannot fail");
    }
}
