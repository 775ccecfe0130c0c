//! Opens fields of lines. Must never release a value that is not proven to be this field's, nor pass one on that is not
//! sealed.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::aead::{Aad, LessSafeKey};
use serde_json::value::RawValue;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::find::{Found, find};
use super::names::Fields;
use super::text::{IN_ROW, Parts, associated, header, parts, value};
use super::{FIELD, FieldError, KIND};
use crate::frame::{Frames, nonce};
use crate::header::TAG_LEN;
use crate::{DataKey, EncryptionContext, Error, Header, PUBLIC_KEY_ENTRY};

/// Keys that are kept at a time.
const MOST_KEYS: usize = 256;

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It was appended, with so many values opened.
    Line(usize),
    /// The data key of this header is needed first: see [`FieldOpener::admit`]. Nothing was appended.
    Needs(Box<Header>),
}

struct Kept {
    key: LessSafeKey,
    message_id: [u8; 32],
    used: u64,
}

/// Opens fields, under as many data keys as they were sealed under; some of these are kept.
pub struct FieldOpener {
    fields: Fields,
    demanded: EncryptionContext,
    /// By the text of the header.
    kept: HashMap<String, Kept>,
    uses: u64,
    found: Found,
    associated: Vec<u8>,
    work: Zeroizing<Vec<u8>>,
}

impl FieldOpener {
    /// An opener; `demanded` are pairs that each value's encryption context must have.
    pub fn new(fields: Fields, demanded: EncryptionContext) -> Self {
        Self {
            fields,
            demanded,
            kept: HashMap::new(),
            uses: 0,
            found: Found::default(),
            associated: Vec::new(),
            work: Zeroizing::default(),
        }
    }

    /// Appends a line with its fields opened to `out`, which is sensitive then, and has room for the line already. A line is
    /// without its newline.
    ///
    /// # Errors
    /// A named field is not sealed, or is not what was sealed; `out` is as it was then.
    pub fn line(&mut self, line: &str, out: &mut Vec<u8>) -> Result<Opened, FieldError> {
        find(line, &self.fields, &mut self.found)?;
        if let Some(header) = self.missing(line)? {
            return Ok(Opened::Needs(Box::new(header)));
        }
        let start = out.len();
        let opened = self.values(line, out);
        if opened.is_err() {
            out[start..].zeroize();
            out.truncate(start);
        }
        opened.map(Opened::Line)
    }

    /// Takes the data key of a header that [`line`](Self::line) has asked for.
    ///
    /// # Errors
    /// It is another one, or the header was changed.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a data key is used here, then gone"
    )]
    pub fn admit(&mut self, header: &Header, key: DataKey) -> Result<(), Error> {
        let (key, commitment) = key.derive(header.suite(), header.message_id())?;
        if !bool::from(commitment.ct_eq(header.commitment())) {
            return Err(Error::Commitment);
        }
        let frames = Frames::new(key, *header.message_id(), header.frame_length());
        frames.check_header(header.body(), header.tag())?;
        if self.kept.len() >= MOST_KEYS
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used)
        {
            let oldest = oldest.0.clone();
            self.kept.remove(&oldest);
        }
        self.uses += 1;
        let mut text = Vec::new();
        super::text::put(header.bytes(), &mut text);
        let kept = Kept {
            key: frames.into_key(),
            message_id: *header.message_id(),
            used: self.uses,
        };
        let text = String::from_utf8(text).map_err(|_| Error::Crypto("writing base64"))?;
        self.kept.insert(text, kept);
        Ok(())
    }

    /// The first header of a line whose key is not kept.
    fn missing(&mut self, line: &str) -> Result<Option<Header>, FieldError> {
        for index in 0..self.found.values.len() {
            let found = self.found.values[index];
            let name = &self.fields.names[found.field];
            let Parts { header: text, .. } = parts(&line[found.start..found.end], name)?;
            self.uses += 1;
            if let Some(kept) = self.kept.get_mut(text) {
                kept.used = self.uses;
                continue;
            }
            let header = header(text, name)?;
            self.check(&header, found.field)?;
            self.count(line)?;
            return Ok(Some(header));
        }
        Ok(None)
    }

    /// Whether a header is one of fields, with the context that is demanded.
    fn check(&self, header: &Header, field: usize) -> Result<(), FieldError> {
        let name = || self.fields.names[field].clone();
        if header.suite().is_signed() || header.context().contains_key(PUBLIC_KEY_ENTRY) {
            return Err(FieldError::Malformed { name: name() });
        }
        let kind = (KIND.to_owned(), FIELD.to_owned());
        let demanded = self.demanded.iter().chain([(&kind.0, &kind.1)]);
        for (key, expected) in demanded {
            if header.context().get(key) != Some(expected) {
                return Err(FieldError::Context {
                    name: name(),
                    key: key.clone(),
                    expected: expected.clone(),
                });
            }
        }
        Ok(())
    }

    /// Refuses a line with fields under more keys than are kept, for which keys would be asked without end.
    fn count(&self, line: &str) -> Result<(), FieldError> {
        let headers = self.found.values.iter().filter_map(|found| {
            let name = &self.fields.names[found.field];
            let parts = parts(&line[found.start..found.end], name).ok()?;
            Some(parts.header)
        });
        if headers.collect::<HashSet<_>>().len() > MOST_KEYS {
            return Err(FieldError::TooManyKeys { limit: MOST_KEYS });
        }
        Ok(())
    }

    fn values(&mut self, line: &str, out: &mut Vec<u8>) -> Result<usize, FieldError> {
        let mut at = 0;
        for found in &self.found.values {
            out.extend_from_slice(&line.as_bytes()[at..found.start]);
            at = found.end;
            let name = &self.fields.names[found.field];
            let parts = parts(&line[found.start..found.end], name)?;
            let kept = self
                .kept
                .get(parts.header)
                .ok_or(FieldError::Malformed { name: name.clone() })?;
            if self.work.capacity() < parts.value.len() {
                self.work.zeroize();
                let room = parts.value.len().next_power_of_two();
                self.work = Zeroizing::new(Vec::with_capacity(room));
            }
            let (flags, number, sealed) = value(parts.value, name, &mut self.work)?;
            let row = self.found.row.as_deref();
            match (flags & IN_ROW == IN_ROW, row) {
                (true, None) => return Err(FieldError::RowBound { name: name.clone() }),
                (false, Some(_)) => return Err(FieldError::NotRowBound { name: name.clone() }),
                _ => {}
            }
            associated(&kept.message_id, flags, name, row, &mut self.associated);
            let (ciphertext, tag) = sealed.split_at_mut(sealed.len() - TAG_LEN);
            let plaintext = kept
                .key
                .open_in_place_separate_tag(
                    nonce(number),
                    Aad::from(self.associated.as_slice()),
                    tag,
                    ciphertext,
                )
                .map_err(|_| FieldError::Tag {
                    name: name.clone(),
                    row: row.is_some(),
                })?;
            out.extend_from_slice(json(plaintext, name)?);
        }
        out.extend_from_slice(&line.as_bytes()[at..]);
        Ok(self.found.values.len())
    }
}

/// A value, if it is one JSON value on one line: whoever sealed it must not be able to make two lines of one.
fn json<'a>(plaintext: &'a [u8], name: &str) -> Result<&'a [u8], FieldError> {
    let is_one = std::str::from_utf8(plaintext)
        .is_ok_and(|text| !text.contains('\n') && serde_json::from_str::<&RawValue>(text).is_ok());
    if is_one {
        Ok(plaintext)
    } else {
        Err(FieldError::NotAValue {
            name: name.to_owned(),
        })
    }
}
