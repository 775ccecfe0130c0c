//! From bytes to an [`Unverified`] document: strict parsing and nothing else. Nothing in this file
//! may be taken for a fact; it says what a document claims, and only the claim's form is checked.
//!
//! ```cddl
//! document  = #6.18(cose) / cose
//! cose      = [ protected: bstr .cbor {1: -35}, unprotected: {}, payload: bstr .cbor payload,
//!               signature: bstr .size 96 ]                          ; RFC 9052, section 4.2
//! payload   = { module_id: tstr, digest: "SHA384", timestamp: uint, ; ms since 1970
//!               pcrs: { 1*32 (0..31) => bstr .size 48 },
//!               certificate: bstr, cabundle: [ 1*8 bstr ],          ; DER, root first
//!               ? public_key: bstr / null, ? user_data: bstr / null, ? nonce: bstr / null }
//! ```
//! Maps of the payload may have a definite or an indefinite length (AWS changed from one to the
//! other in 2025). Everything else has one encoding only.

use core::fmt;
use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cbor::{Fault, Length, Reader};
use crate::parse_error::{Field, ParseError};
use crate::pcr::{PCR_COUNT, Pcr};

/// The longest input that is looked at: an NSM's answer, document and framing, has at most
/// 12 KiB (`NSM_RESPONSE_MAX_SIZE` in Linux's `drivers/misc/nsm.c`).
pub const MAX_DOCUMENT_BYTES: usize = 12 * 1024;

/// `{1: -35}`: the algorithm is ES384 (RFC 9053, section 2.1).
pub(crate) const PROTECTED_ES384: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// r ‖ s of an ECDSA signature on P-384.
pub(crate) const SIGNATURE_BYTES: usize = 96;

const COSE_SIGN1_TAG: u64 = 18;
const MAX_MODULE_ID_BYTES: usize = 256;
const MAX_CERTIFICATE_BYTES: usize = 4096;
/// AWS bundles four.
const MAX_CABUNDLE: usize = 8;
const MAX_PUBLIC_KEY_BYTES: usize = 1024;
/// AWS's pages say 512 or 1,024; the device enforces only that its whole request fits 4 KiB.
const MAX_CALLER_BYTES: usize = 4096;
/// The last millisecond of the year 9999, beyond which certificates cannot speak either.
const MAX_TIMESTAMP_MS: u64 = 253_402_300_799_999;

/// What a document consists of. Ranges are places in `bytes`, all checked to lie within.
pub(crate) struct Document {
    bytes: Vec<u8>,
    payload: Range<usize>,
    signature: [u8; SIGNATURE_BYTES],
    pub(crate) module_id: String,
    pub(crate) timestamp_ms: u64,
    pub(crate) pcrs: BTreeMap<u8, Pcr>,
    certificate: Range<usize>,
    cabundle: Vec<Range<usize>>,
    public_key: Option<Range<usize>>,
    user_data: Option<Range<usize>>,
    nonce: Option<Range<usize>>,
}

impl Document {
    fn at(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.at(&self.payload)
    }

    pub(crate) fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }

    pub(crate) fn certificate(&self) -> &[u8] {
        self.at(&self.certificate)
    }

    /// Root first, as AWS orders it.
    pub(crate) fn cabundle(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.cabundle.iter().map(|range| self.at(range))
    }

    pub(crate) fn public_key(&self) -> Option<&[u8]> {
        self.public_key.as_ref().map(|range| self.at(range))
    }

    pub(crate) fn user_data(&self) -> Option<&[u8]> {
        self.user_data.as_ref().map(|range| self.at(range))
    }

    pub(crate) fn nonce(&self) -> Option<&[u8]> {
        self.nonce.as_ref().map(|range| self.at(range))
    }
}

/// What becomes of a document with keys in its payload that today's documents don't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownKeys {
    /// It is refused. A key that nobody here understands may say that the document is not what it
    /// seems to be: this is how NitroTPM documents differ.
    #[default]
    Refuse,
    /// They are skipped, if they are well-formed and not there twice; their values are covered by
    /// the signature, and shown nowhere. For readers who must outlive a change of AWS's format, and
    /// accept what that may mean. NitroTPM documents are refused all the same.
    Ignore,
}

/// A document whose form is right. Whether anything in it is true is not known yet: ask
/// [`Unverified::verify`].
#[derive(Clone)]
pub struct Unverified {
    pub(crate) document: Arc<Document>,
}

impl Unverified {
    /// Reads a document, the raw `COSE_Sign1` with or without its tag. Time and memory are bounded
    /// by the input's length, and inputs over [`MAX_DOCUMENT_BYTES`] are not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Unverified, ParseError> {
        Unverified::parse_with(bytes, UnknownKeys::Refuse)
    }

    /// [`Unverified::parse`] for callers who say what becomes of keys that they don't know.
    pub fn parse_with(bytes: &[u8], unknown: UnknownKeys) -> Result<Unverified, ParseError> {
        Ok(Unverified {
            document: Arc::new(envelope(bytes, unknown)?),
        })
    }
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unverified({} bytes)", self.document.bytes.len())
    }
}

/// Adds the field's name to what the reader says.
trait Naming<T> {
    fn of(self, field: Field) -> Result<T, ParseError>;
}

impl<T> Naming<T> for Result<T, Fault> {
    fn of(self, field: Field) -> Result<T, ParseError> {
        self.map_err(|fault| ParseError::of(field, fault))
    }
}

/// At most 32 characters of a text or 32 digits of bytes, for errors about input of any length.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(32) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn check_length(
    field: Field,
    offset: usize,
    found: u64,
    least: usize,
    most: usize,
) -> Result<(), ParseError> {
    if (least as u64..=most as u64).contains(&found) {
        Ok(())
    } else {
        Err(ParseError::Length {
            field,
            offset,
            found,
            least,
            most,
        })
    }
}

fn nothing_left(reader: &Reader<'_>, field: Field) -> Result<(), ParseError> {
    match reader.rest() {
        0 => Ok(()),
        extra => Err(ParseError::Trailing {
            field,
            offset: reader.offset(),
            extra,
        }),
    }
}

fn envelope(bytes: &[u8], unknown: UnknownKeys) -> Result<Document, ParseError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(ParseError::TooLong { found: bytes.len() });
    }
    let mut reader = Reader::new(bytes);
    match reader.tag().of(Field::Envelope)? {
        None | Some(COSE_SIGN1_TAG) => {}
        Some(found) => return Err(ParseError::Tag { offset: 0, found }),
    }
    let offset = reader.offset();
    let found = reader.array().of(Field::Envelope)?;
    if found != 4 {
        return Err(ParseError::EnvelopeLength { offset, found });
    }

    let protected = reader.bytes().of(Field::Protected)?;
    if bytes[protected.clone()] != PROTECTED_ES384 {
        return Err(ParseError::Protected {
            offset: protected.start,
            found: shortened(&hex::encode(&bytes[protected])),
        });
    }
    let offset = reader.offset();
    if reader.map().of(Field::Unprotected)? != Length::Definite(0) {
        return Err(ParseError::UnprotectedNotEmpty { offset });
    }
    let payload = reader.bytes().of(Field::Payload)?;
    let signature_item = reader.bytes().of(Field::Signature)?;
    let signature =
        bytes[signature_item.clone()]
            .try_into()
            .map_err(|_| ParseError::SignatureLength {
                offset: signature_item.start,
                found: signature_item.len(),
            })?;
    nothing_left(&reader, Field::Envelope)?;

    let offset = payload.start;
    let fields = Fields::read(&mut reader.within(&payload), unknown)?;
    Ok(Document {
        bytes: bytes.to_vec(),
        payload,
        signature,
        module_id: fields.module_id.ok_or(ParseError::Missing {
            field: Field::ModuleId,
            offset,
        })?,
        timestamp_ms: fields.timestamp_ms.ok_or(ParseError::Missing {
            field: Field::Timestamp,
            offset,
        })?,
        pcrs: fields.pcrs.ok_or(ParseError::Missing {
            field: Field::Pcrs,
            offset,
        })?,
        certificate: fields.certificate.ok_or(ParseError::Missing {
            field: Field::Certificate,
            offset,
        })?,
        cabundle: fields.cabundle.ok_or(ParseError::Missing {
            field: Field::Cabundle,
            offset,
        })?,
        public_key: fields.public_key.flatten(),
        user_data: fields.user_data.flatten(),
        nonce: fields.nonce.flatten(),
    })
}

/// The payload's entries as far as they were read. `None`: not there (yet).
#[derive(Default)]
#[expect(
    clippy::option_option,
    reason = "a key that is absent and a value that is null are told apart until duplicates are found"
)]
struct Fields {
    module_id: Option<String>,
    digest: Option<()>,
    timestamp_ms: Option<u64>,
    pcrs: Option<BTreeMap<u8, Pcr>>,
    certificate: Option<Range<usize>>,
    cabundle: Option<Vec<Range<usize>>>,
    public_key: Option<Option<Range<usize>>>,
    user_data: Option<Option<Range<usize>>>,
    nonce: Option<Option<Range<usize>>>,
}

/// Fills an entry that must have been empty.
fn once<T>(entry: &mut Option<T>, value: T, field: Field, offset: usize) -> Result<(), ParseError> {
    match entry.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParseError::Duplicate { field, offset }),
    }
}

impl Fields {
    fn read(reader: &mut Reader<'_>, unknown: UnknownKeys) -> Result<Fields, ParseError> {
        let start = reader.offset();
        let mut fields = Fields::default();
        let mut skipped = BTreeSet::new();
        let length = reader.map().of(Field::Payload)?;
        let mut read = 0;
        while reader.more(length, read).of(Field::Payload)? {
            read += 1;
            let offset = reader.offset();
            match reader.text().of(Field::Key)? {
                "module_id" => {
                    let value = module_id(reader)?;
                    once(&mut fields.module_id, value, Field::ModuleId, offset)?;
                }
                "digest" => {
                    let value = reader.offset();
                    let found = reader.text().of(Field::Digest)?;
                    if found != "SHA384" {
                        return Err(ParseError::DigestAlgorithm {
                            offset: value,
                            found: shortened(found),
                        });
                    }
                    once(&mut fields.digest, (), Field::Digest, offset)?;
                }
                "timestamp" => {
                    let value = reader.offset();
                    let found = reader.unsigned().of(Field::Timestamp)?;
                    if !(1..=MAX_TIMESTAMP_MS).contains(&found) {
                        return Err(ParseError::TimestampRange {
                            offset: value,
                            found,
                        });
                    }
                    once(&mut fields.timestamp_ms, found, Field::Timestamp, offset)?;
                }
                "pcrs" => {
                    let value = pcrs(reader)?;
                    once(&mut fields.pcrs, value, Field::Pcrs, offset)?;
                }
                "certificate" => {
                    let value = certificate(reader, Field::Certificate)?;
                    once(&mut fields.certificate, value, Field::Certificate, offset)?;
                }
                "cabundle" => {
                    let value = cabundle(reader)?;
                    once(&mut fields.cabundle, value, Field::Cabundle, offset)?;
                }
                "public_key" => {
                    let value = callers(reader, Field::PublicKey, MAX_PUBLIC_KEY_BYTES)?;
                    once(&mut fields.public_key, value, Field::PublicKey, offset)?;
                }
                "user_data" => {
                    let value = callers(reader, Field::UserData, MAX_CALLER_BYTES)?;
                    once(&mut fields.user_data, value, Field::UserData, offset)?;
                }
                "nonce" => {
                    let value = callers(reader, Field::Nonce, MAX_CALLER_BYTES)?;
                    once(&mut fields.nonce, value, Field::Nonce, offset)?;
                }
                "nitrotpm_pcrs" => {
                    return Err(ParseError::NitroTpm {
                        field: Field::Key,
                        offset,
                    });
                }
                key if unknown == UnknownKeys::Refuse => {
                    return Err(ParseError::UnknownKey {
                        offset,
                        key: shortened(key),
                    });
                }
                key => {
                    if !skipped.insert(key) {
                        return Err(ParseError::DuplicateUnknown {
                            offset,
                            key: shortened(key),
                        });
                    }
                    reader.skip().of(Field::Key)?;
                }
            }
        }
        nothing_left(reader, Field::Payload)?;
        if fields.digest.is_none() {
            return Err(ParseError::Missing {
                field: Field::Digest,
                offset: start,
            });
        }
        Ok(fields)
    }
}

fn module_id(reader: &mut Reader<'_>) -> Result<String, ParseError> {
    let field = Field::ModuleId;
    let offset = reader.offset();
    let text = reader.text().of(field)?;
    check_length(field, offset, text.len() as u64, 1, MAX_MODULE_ID_BYTES)?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ParseError::ModuleIdCharacters { offset });
    }
    if text.ends_with("-tpm0000") {
        return Err(ParseError::NitroTpm { field, offset });
    }
    Ok(text.to_owned())
}

fn pcrs(reader: &mut Reader<'_>) -> Result<BTreeMap<u8, Pcr>, ParseError> {
    let start = reader.offset();
    let length = reader.map().of(Field::Pcrs)?;
    let mut pcrs = BTreeMap::new();
    let mut read = 0;
    while reader.more(length, read).of(Field::Pcrs)? {
        read += 1;
        let offset = reader.offset();
        let found = reader.unsigned().of(Field::Pcrs)?;
        let index = u8::try_from(found)
            .ok()
            .filter(|index| *index < PCR_COUNT)
            .ok_or(ParseError::PcrIndex { offset, found })?;
        let value = reader.bytes().of(Field::Pcr(index))?;
        let pcr = reader
            .at(&value)
            .try_into()
            .map_err(|_| ParseError::PcrLength {
                index,
                offset: value.start,
                found: value.len(),
            })?;
        if pcrs.insert(index, Pcr::from_bytes(pcr)).is_some() {
            return Err(ParseError::Duplicate {
                field: Field::Pcr(index),
                offset,
            });
        }
    }
    check_length(Field::Pcrs, start, read, 1, usize::from(PCR_COUNT))?;
    Ok(pcrs)
}

fn certificate(reader: &mut Reader<'_>, field: Field) -> Result<Range<usize>, ParseError> {
    let offset = reader.offset();
    let value = reader.bytes().of(field)?;
    check_length(field, offset, value.len() as u64, 1, MAX_CERTIFICATE_BYTES)?;
    Ok(value)
}

fn cabundle(reader: &mut Reader<'_>) -> Result<Vec<Range<usize>>, ParseError> {
    let offset = reader.offset();
    let entries = reader.array().of(Field::Cabundle)?;
    check_length(Field::Cabundle, offset, entries, 1, MAX_CABUNDLE)?;
    (0..entries as u8)
        .map(|index| certificate(reader, Field::CabundleEntry(index)))
        .collect()
}

fn callers(
    reader: &mut Reader<'_>,
    field: Field,
    most: usize,
) -> Result<Option<Range<usize>>, ParseError> {
    let offset = reader.offset();
    let value = reader.bytes_or_null().of(field)?;
    if let Some(value) = &value {
        check_length(field, offset, value.len() as u64, 0, most)?;
    }
    Ok(value)
}
