//! The little BER that recipient envelopes need: elements of definite length, which must have the
//! shortest form, and of indefinite length (X.690, section 8.1.3).
//!
//! Reading never panics, never goes beyond its slice and never recurses.

use super::EnvelopeError;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// Context-specific 0, primitive.
pub(super) const CONTEXT_0: u8 = 0x80;
/// Context-specific 0, constructed.
pub(super) const CONTEXT_0_CONSTRUCTED: u8 = 0xa0;

const INDEFINITE: u8 = 0x80;
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// A place in the bytes, which knows how far it is from their beginning.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            offset: 0,
        }
    }

    /// The next byte, which stays.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Takes exactly these bytes.
    pub(super) fn exactly(
        &mut self,
        bytes: &[u8],
        what: &'static str,
    ) -> Result<(), EnvelopeError> {
        match self.rest.strip_prefix(bytes) {
            Some(rest) => {
                self.offset += bytes.len();
                self.rest = rest;
                Ok(())
            }
            None => Err(self.expected(what)),
        }
    }

    /// Enters an element of indefinite length, which [`Reader::leave`] must end.
    pub(super) fn enter(&mut self, tag: u8, what: &'static str) -> Result<(), EnvelopeError> {
        self.exactly(&[tag, INDEFINITE], what)
    }

    /// Takes the end of an element of indefinite length.
    pub(super) fn leave(&mut self, what: &'static str) -> Result<(), EnvelopeError> {
        self.exactly(&END_OF_CONTENTS, what)
    }

    /// Whether an element of indefinite length ends here.
    pub(super) fn at_end_of_contents(&self) -> bool {
        self.rest.starts_with(&END_OF_CONTENTS)
    }

    /// Takes an element of definite length and gives its content.
    pub(super) fn element(&mut self, tag: u8, what: &'static str) -> Result<Self, EnvelopeError> {
        let wrong = self.expected(what);
        let (length, header) = match *self.rest {
            [found, ..] if found != tag => return Err(wrong),
            [_, length @ 0..=0x7f, ..] => (usize::from(length), 2),
            [_, 0x81, length @ 0x80..=0xff, ..] => (usize::from(length), 3),
            [_, 0x82, high @ 1..=0xff, low, ..] => {
                (usize::from(u16::from_be_bytes([high, low])), 4)
            }
            _ => return Err(wrong),
        };
        let Some(content) = self.rest.get(header..header + length) else {
            return Err(wrong);
        };
        let content = Self {
            rest: content,
            offset: self.offset + header,
        };
        self.rest = &self.rest[header + length..];
        self.offset += header + length;
        Ok(content)
    }

    /// Whatever is left.
    pub(super) fn bytes(self) -> &'a [u8] {
        self.rest
    }

    /// Whatever is left, which must have this length.
    pub(super) fn array<const N: usize>(
        self,
        what: &'static str,
    ) -> Result<[u8; N], EnvelopeError> {
        self.rest.try_into().map_err(|_| self.expected(what))
    }

    /// Nothing may be left.
    pub(super) fn end(self, what: &'static str) -> Result<(), EnvelopeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.expected(what))
        }
    }

    pub(super) fn expected(&self, what: &'static str) -> EnvelopeError {
        EnvelopeError::Expected {
            what,
            offset: self.offset,
        }
    }
}

/// Writes an element of definite length, which must be under 65,536 bytes.
pub(super) fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|content| content.len()).sum();
    let mut bytes = Vec::with_capacity(length + 4);
    bytes.push(tag);
    match length {
        0..=0x7f => bytes.push(length as u8),
        0x80..=0xff => bytes.extend_from_slice(&[0x81, length as u8]),
        _ => {
            bytes.push(0x82);
            bytes.extend_from_slice(
                &u16::try_from(length)
                    .expect("envelopes are short")
                    .to_be_bytes(),
            );
        }
    }
    for content in contents {
        bytes.extend_from_slice(content);
    }
    bytes
}

/// Writes an element of indefinite length.
pub(super) fn indefinite(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|content| content.len()).sum();
    let mut bytes = Vec::with_capacity(length + 4);
    bytes.extend_from_slice(&[tag, INDEFINITE]);
    for content in contents {
        bytes.extend_from_slice(content);
    }
    bytes.extend_from_slice(&END_OF_CONTENTS);
    bytes
}
