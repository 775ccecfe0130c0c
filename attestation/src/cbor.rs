//! A reader for the little CBOR (RFC 8949) that attestation documents consist of. It is strict
//! where general decoders are lenient: shortest form only, no indefinite strings, and every error
//! knows its offset. It borrows from the input and never allocates.

use core::fmt;
use core::ops::Range;

/// The kind of a CBOR data item, as it is named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Major type 0.
    UnsignedInteger,
    /// Major type 1.
    NegativeInteger,
    /// Major type 2.
    Bytes,
    /// Major type 3.
    Text,
    /// Major type 4.
    Array,
    /// Major type 5.
    Map,
    /// Major type 6.
    Tag,
    /// The simple value 22.
    Null,
    /// Any other simple value or a floating-point number.
    Simple,
    /// The end of an indefinite item, where none is open.
    Break,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::UnsignedInteger => "an unsigned integer",
            Kind::NegativeInteger => "a negative integer",
            Kind::Bytes => "a byte string",
            Kind::Text => "a text",
            Kind::Array => "an array",
            Kind::Map => "a map",
            Kind::Tag => "a tag",
            Kind::Null => "null",
            Kind::Simple => "a simple value",
            Kind::Break => "a break",
        })
    }
}

/// What is wrong with an item, and where. The caller adds which field it was reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The input ends within the item.
    Truncated { offset: usize },
    /// The item is of another kind.
    Kind {
        offset: usize,
        expected: Kind,
        found: Kind,
    },
    /// Additional information 28–30, which RFC 8949 reserves.
    Reserved { offset: usize },
    /// A number or length that is not in its shortest form.
    NotShortest { offset: usize },
    /// An indefinite length where only a definite one is allowed.
    Indefinite { offset: usize },
    /// A text that is not UTF-8.
    NotUtf8 { offset: usize },
    /// An item inside more than [`MAX_DEPTH`] others.
    TooDeep { offset: usize },
}

/// How deep items that are skipped may be nested.
pub(crate) const MAX_DEPTH: usize = 8;

/// How many entries a map has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Definite(u64),
    /// Until a break.
    Indefinite,
}

/// The first byte of an item and the number that follows.
struct Head {
    kind: Kind,
    /// `None`: indefinite.
    argument: Option<u64>,
}

/// Reads items one after another from `input[at..end]`. Offsets are those in `input`.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Reader<'a> {
        Reader {
            input,
            at: 0,
            end: input.len(),
        }
    }

    /// A reader of a part of the same input, so that offsets stay those of the whole.
    pub(crate) fn within(&self, part: &Range<usize>) -> Reader<'a> {
        Reader {
            input: self.input,
            at: part.start.min(self.end),
            end: part.end.min(self.end),
        }
    }

    /// The bytes at a place that one of the methods below returned.
    pub(crate) fn at(&self, part: &Range<usize>) -> &'a [u8] {
        &self.input[part.clone()]
    }

    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// Bytes that nobody has read yet.
    pub(crate) fn rest(&self) -> usize {
        self.end - self.at
    }

    fn take(&mut self, count: u64, offset: usize) -> Result<&'a [u8], Fault> {
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest())
            .ok_or(Fault::Truncated { offset })?;
        // In bounds: count is at most end - at, and end is at most the input's length.
        let bytes = &self.input[self.at..self.at + count];
        self.at += count;
        Ok(bytes)
    }

    fn head(&mut self) -> Result<Head, Fault> {
        let offset = self.at;
        let initial = self.take(1, offset)?[0];
        let information = initial & 0x1f;
        let argument = match information {
            0..=23 => Some(u64::from(information)),
            24..=27 => {
                let bytes = self.take(1 << (information - 24), offset)?;
                let value = bytes
                    .iter()
                    .fold(0_u64, |value, byte| (value << 8) + u64::from(*byte));
                let least = match information {
                    24 => 24,
                    25 => 1 << 8,
                    26 => 1 << 16,
                    _ => 1 << 32,
                };
                // Major type 7 carries simple values and floats here, to which this does not apply.
                if value < least && initial >> 5 != 7 {
                    return Err(Fault::NotShortest { offset });
                }
                Some(value)
            }
            31 => None,
            _ => return Err(Fault::Reserved { offset }),
        };
        let kind = match initial >> 5 {
            0 => Kind::UnsignedInteger,
            1 => Kind::NegativeInteger,
            2 => Kind::Bytes,
            3 => Kind::Text,
            4 => Kind::Array,
            5 => Kind::Map,
            6 => Kind::Tag,
            _ if initial == 0xf6 => Kind::Null,
            _ if initial == 0xff => Kind::Break,
            _ => Kind::Simple,
        };
        Ok(Head { kind, argument })
    }

    fn expect(&mut self, expected: Kind) -> Result<Option<u64>, Fault> {
        let offset = self.at;
        let head = self.head()?;
        if head.kind == expected {
            Ok(head.argument)
        } else {
            Err(Fault::Kind {
                offset,
                expected,
                found: head.kind,
            })
        }
    }

    fn definite(&mut self, expected: Kind) -> Result<u64, Fault> {
        let offset = self.at;
        self.expect(expected)?.ok_or(Fault::Indefinite { offset })
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, Fault> {
        self.definite(Kind::UnsignedInteger)
    }

    /// Where the content of a byte string lies.
    pub(crate) fn bytes(&mut self) -> Result<Range<usize>, Fault> {
        let offset = self.at;
        let length = self.definite(Kind::Bytes)?;
        let start = self.at;
        self.take(length, offset)?;
        Ok(start..self.at)
    }

    /// A byte string or null.
    pub(crate) fn bytes_or_null(&mut self) -> Result<Option<Range<usize>>, Fault> {
        if self.rest() > 0 && self.input[self.at] == 0xf6 {
            self.at += 1;
            return Ok(None);
        }
        self.bytes().map(Some)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        let offset = self.at;
        let length = self.definite(Kind::Text)?;
        let bytes = self.take(length, offset)?;
        core::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { offset })
    }

    pub(crate) fn array(&mut self) -> Result<u64, Fault> {
        self.definite(Kind::Array)
    }

    /// A map's head. Its entries follow; [`Reader::more`] says whether there is another.
    pub(crate) fn map(&mut self) -> Result<Length, Fault> {
        Ok(self
            .expect(Kind::Map)?
            .map_or(Length::Indefinite, Length::Definite))
    }

    /// Whether another entry follows in a map of which `read` entries were read. Takes the break
    /// that ends an indefinite map.
    pub(crate) fn more(&mut self, length: Length, read: u64) -> Result<bool, Fault> {
        match length {
            Length::Definite(entries) => Ok(read < entries),
            Length::Indefinite if self.rest() == 0 => Err(Fault::Truncated { offset: self.at }),
            Length::Indefinite if self.input[self.at] == 0xff => {
                self.at += 1;
                Ok(false)
            }
            Length::Indefinite => Ok(true),
        }
    }

    /// One well-formed item of any kind, whatever is in it. Strings have definite lengths, as
    /// everywhere here; arrays and maps either.
    pub(crate) fn skip(&mut self) -> Result<(), Fault> {
        self.skip_within(MAX_DEPTH)
    }

    /// `levels`: how many more items may lie around those within this one.
    fn skip_within(&mut self, levels: usize) -> Result<(), Fault> {
        let offset = self.at;
        let head = self.head()?;
        let inner = |levels: usize| levels.checked_sub(1).ok_or(Fault::TooDeep { offset });
        let items_per_entry = match head.kind {
            Kind::UnsignedInteger | Kind::NegativeInteger => {
                return head.argument.map(drop).ok_or(Fault::Indefinite { offset });
            }
            Kind::Bytes | Kind::Text => {
                self.at = offset;
                return match head.kind {
                    Kind::Bytes => self.bytes().map(drop),
                    _ => self.text().map(drop),
                };
            }
            Kind::Null => return Ok(()),
            Kind::Simple => {
                // RFC 8949, section 3.3: simple values below 32 have no two-byte form.
                let two_bytes = self.at - offset == 2;
                return match head.argument {
                    Some(value) if !(two_bytes && value < 32) => Ok(()),
                    _ => Err(Fault::Reserved { offset }),
                };
            }
            Kind::Break => return Err(Fault::Reserved { offset }),
            Kind::Tag => {
                head.argument.ok_or(Fault::Indefinite { offset })?;
                return self.skip_within(inner(levels)?);
            }
            Kind::Array => 1,
            Kind::Map => 2,
        };
        let levels = inner(levels)?;
        let length = head.argument.map_or(Length::Indefinite, Length::Definite);
        let mut read = 0;
        // Each turn takes at least one byte, so that a false count ends with the input.
        while self.more(length, read)? {
            read += 1;
            for _ in 0..items_per_entry {
                self.skip_within(levels)?;
            }
        }
        Ok(())
    }

    /// The number of the tag that comes next, if one does.
    pub(crate) fn tag(&mut self) -> Result<Option<u64>, Fault> {
        if self.rest() == 0 || self.input[self.at] >> 5 != 6 {
            return Ok(None);
        }
        self.definite(Kind::Tag).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_their_shortest_form_only() {
        for (bytes, value) in [
            (&[0x17][..], 23),
            (&[0x18, 24], 24),
            (&[0x19, 1, 0], 256),
            (&[0x1a, 0, 1, 0, 0], 65536),
            (&[0x1b, 0, 0, 0, 1, 0, 0, 0, 0], 1 << 32),
            (&[0x1b, 255, 255, 255, 255, 255, 255, 255, 255], u64::MAX),
        ] {
            assert_eq!(Reader::new(bytes).unsigned(), Ok(value));
        }
        for bytes in [
            &[0x18, 23][..],
            &[0x19, 0, 255],
            &[0x1a, 0, 0, 255, 255],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
        ] {
            assert_eq!(
                Reader::new(bytes).unsigned(),
                Err(Fault::NotShortest { offset: 0 })
            );
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_truncation_and_allocates_nothing() {
        let bytes = [0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            Reader::new(&bytes).bytes(),
            Err(Fault::Truncated { offset: 0 })
        );
    }

    #[test]
    fn reserved_and_indefinite_heads_are_refused() {
        assert_eq!(
            Reader::new(&[0x5c]).bytes(),
            Err(Fault::Reserved { offset: 0 })
        );
        assert_eq!(
            Reader::new(&[0x5f, 0xff]).bytes(),
            Err(Fault::Indefinite { offset: 0 })
        );
        assert_eq!(
            Reader::new(&[0x9f, 0xff]).array(),
            Err(Fault::Indefinite { offset: 0 })
        );
        assert_eq!(
            Reader::new(&[0x1f]).unsigned(),
            Err(Fault::Indefinite { offset: 0 })
        );
    }

    #[test]
    fn kinds_have_names() {
        for (kind, name) in [
            (Kind::UnsignedInteger, "an unsigned integer"),
            (Kind::NegativeInteger, "a negative integer"),
            (Kind::Bytes, "a byte string"),
            (Kind::Text, "a text"),
            (Kind::Array, "an array"),
            (Kind::Map, "a map"),
            (Kind::Tag, "a tag"),
            (Kind::Null, "null"),
            (Kind::Simple, "a simple value"),
            (Kind::Break, "a break"),
        ] {
            assert_eq!(kind.to_string(), name);
        }
    }

    #[test]
    fn where_nothing_follows_there_is_neither_bytes_nor_null() {
        let input = [0xf6, 0xf6];
        let mut reader = Reader::new(&input).within(&(0..1));
        assert_eq!(reader.bytes_or_null(), Ok(None));
        assert_eq!(
            reader.bytes_or_null(),
            Err(Fault::Truncated { offset: 1 }),
            "what lies beyond the part is not looked at"
        );
        assert_eq!(Reader::new(&[]).tag(), Ok(None));
    }

    #[test]
    fn any_well_formed_item_can_be_skipped() {
        for item in [
            &[0x17][..],
            &[0x38, 24],
            &[0x41, 0xff],
            &[0x61, b'x'],
            &[0x80],
            &[0x82, 0x00, 0xf6],
            &[0x9f, 0x00, 0x01, 0xff],
            &[0xa1, 0x00, 0x01],
            &[0xbf, 0x00, 0x01, 0xff],
            &[0xc1, 0x00],
            &[0xf4],
            &[0xf8, 0x20],
            &[0xf9, 0x00, 0x01],
            &[0xfa, 0, 0, 0, 1],
            &[0xfb, 0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            let mut reader = Reader::new(item);
            assert_eq!(reader.skip(), Ok(()), "{item:02x?}");
            assert_eq!(reader.rest(), 0, "{item:02x?}");
        }
        for (item, fault) in [
            (&[0xf8, 0x1f][..], Fault::Reserved { offset: 0 }),
            (&[0xff], Fault::Reserved { offset: 0 }),
            (&[0xbf, 0x00, 0xff], Fault::Reserved { offset: 2 }),
            (&[0x1f], Fault::Indefinite { offset: 0 }),
            (&[0xdf, 0x00], Fault::Indefinite { offset: 0 }),
            (&[0x82, 0x00], Fault::Truncated { offset: 2 }),
        ] {
            assert_eq!(Reader::new(item).skip(), Err(fault), "{item:02x?}");
        }
    }

    #[test]
    fn items_are_skipped_as_deep_as_is_allowed_and_no_deeper() {
        for head in [0x81, 0xc1] {
            let mut item = vec![head; MAX_DEPTH];
            item.push(0);
            assert_eq!(Reader::new(&item).skip(), Ok(()));
            item.insert(0, head);
            assert_eq!(
                Reader::new(&item).skip(),
                Err(Fault::TooDeep { offset: MAX_DEPTH })
            );
        }
    }

    #[test]
    fn an_indefinite_map_ends_with_its_break() {
        let mut reader = Reader::new(&[0xbf, 0x01, 0xff]);
        let length = reader.map().unwrap();
        assert_eq!(reader.more(length, 0), Ok(true));
        assert_eq!(reader.unsigned(), Ok(1));
        assert_eq!(reader.more(length, 1), Ok(false));
        assert_eq!(reader.rest(), 0);
        assert_eq!(reader.more(length, 1), Err(Fault::Truncated { offset: 3 }));
    }
}
