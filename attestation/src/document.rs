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

use serde::{Serialize, Serializer};

use crate::cbor::{Fault, Kind, Length, MAX_DEPTH, Reader};
use crate::pcr::{PCR_BYTES, PCR_COUNT, Pcr};

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

/// A part of a document, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Field {
    /// The whole: `COSE_Sign1`.
    Envelope,
    /// The protected header.
    Protected,
    /// The unprotected header.
    Unprotected,
    /// The signed map.
    Payload,
    /// The signature.
    Signature,
    /// A key of the payload's map.
    Key,
    /// The enclave's name.
    ModuleId,
    /// The PCRs' hash algorithm.
    Digest,
    /// When the document was made.
    Timestamp,
    /// The map of PCRs.
    Pcrs,
    /// One PCR's value.
    Pcr(u8),
    /// The leaf certificate.
    Certificate,
    /// The list of its issuers.
    Cabundle,
    /// One issuer.
    CabundleEntry(u8),
    /// The caller's public key.
    PublicKey,
    /// The caller's data.
    UserData,
    /// The caller's nonce.
    Nonce,
}

impl Field {
    fn is_of_the_envelope(self) -> bool {
        matches!(
            self,
            Field::Envelope
                | Field::Protected
                | Field::Unprotected
                | Field::Payload
                | Field::Signature
        )
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Pcr(index) => return write!(f, "pcrs[{index}]"),
            Field::CabundleEntry(index) => return write!(f, "cabundle[{index}]"),
            Field::Envelope => "COSE_Sign1",
            Field::Protected => "protected header",
            Field::Unprotected => "unprotected header",
            Field::Payload => "payload",
            Field::Signature => "signature",
            Field::Key => "a key of the payload",
            Field::ModuleId => "module_id",
            Field::Digest => "digest",
            Field::Timestamp => "timestamp",
            Field::Pcrs => "pcrs",
            Field::Certificate => "certificate",
            Field::Cabundle => "cabundle",
            Field::PublicKey => "public_key",
            Field::UserData => "user_data",
            Field::Nonce => "nonce",
        }
        .fmt(f)
    }
}

/// Why bytes are not an attestation document of an enclave. Offsets count bytes from the start of
/// the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// More bytes than any NSM answers.
    #[error("{found} bytes are more than an attestation document can have ({MAX_DOCUMENT_BYTES})")]
    TooLong {
        /// The input's length.
        found: usize,
    },
    /// The input, or the part that holds the field, ends too early.
    #[error("{field}: cut off at offset {offset}")]
    Truncated {
        /// What was being read.
        field: Field,
        /// Where its incomplete item begins.
        offset: usize,
    },
    /// Bytes are left over.
    #[error("{field}: {extra} bytes too many from offset {offset} on")]
    Trailing {
        /// What should have ended.
        field: Field,
        /// Where the rest begins.
        offset: usize,
        /// How long it is.
        extra: usize,
    },
    /// An item of the wrong type.
    #[error("{field}: {found} at offset {offset} where {expected} belongs")]
    WrongKind {
        /// What was being read.
        field: Field,
        /// Where it is.
        offset: usize,
        /// What it must be.
        expected: Kind,
        /// What it is.
        found: Kind,
    },
    /// A head that RFC 8949 reserves.
    #[error("{field}: not CBOR at offset {offset} (reserved additional information)")]
    Reserved {
        /// What was being read.
        field: Field,
        /// Where it is.
        offset: usize,
    },
    /// A number or length that is not in its shortest form.
    #[error("{field}: the number at offset {offset} is not in its shortest form")]
    NotShortest {
        /// What was being read.
        field: Field,
        /// Where it is.
        offset: usize,
    },
    /// An indefinite length that is not a map's.
    #[error("{field}: indefinite length at offset {offset}")]
    Indefinite {
        /// What was being read.
        field: Field,
        /// Where it is.
        offset: usize,
    },
    /// A text that is not UTF-8.
    #[error("{field}: the text at offset {offset} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        field: Field,
        /// Where it is.
        offset: usize,
    },
    /// The value of an unknown key that is nested too deeply to be skipped.
    #[error("payload: the value at offset {offset} is nested more than {MAX_DEPTH} deep")]
    TooDeep {
        /// Where the innermost item that was looked at begins.
        offset: usize,
    },
    /// A tag other than 18.
    #[error("tag {found} at offset {offset}; only COSE_Sign1's tag 18 may stand before a document")]
    Tag {
        /// Where it is.
        offset: usize,
        /// The tag's number.
        found: u64,
    },
    /// Not an array of four.
    #[error("COSE_Sign1: an array of {found} at offset {offset} where one of 4 belongs")]
    EnvelopeLength {
        /// Where it is.
        offset: usize,
        /// The number of elements that it announces.
        found: u64,
    },
    /// A protected header other than `{1: -35}`.
    #[error(
        "protected header: {found} at offset {offset} instead of a1013822, which names the \
         algorithm ES384 and nothing else"
    )]
    Protected {
        /// Where its content begins.
        offset: usize,
        /// Its content as hex, shortened.
        found: String,
    },
    /// An unprotected header with entries.
    #[error("unprotected header: not empty at offset {offset}")]
    UnprotectedNotEmpty {
        /// Where it is.
        offset: usize,
    },
    /// A signature of another length than ES384's.
    #[error("signature: {found} bytes at offset {offset} where ES384 has {SIGNATURE_BYTES}")]
    SignatureLength {
        /// Where its content begins.
        offset: usize,
        /// Its length.
        found: usize,
    },
    /// A key that attestation documents do not have.
    #[error("payload: unknown key {key:?} at offset {offset}")]
    UnknownKey {
        /// Where it is.
        offset: usize,
        /// The key, shortened.
        key: String,
    },
    /// A key that was there before.
    #[error("{field}: given again at offset {offset}")]
    Duplicate {
        /// What was given twice.
        field: Field,
        /// Where the second begins.
        offset: usize,
    },
    /// An unknown key that was there before, where unknown keys are allowed.
    #[error("payload: key {key:?} given again at offset {offset}")]
    DuplicateUnknown {
        /// Where the second is.
        offset: usize,
        /// The key, shortened.
        key: String,
    },
    /// A key that is not there.
    #[error("{field}: missing in the payload at offset {offset}")]
    Missing {
        /// What is missing.
        field: Field,
        /// Where the payload's content begins.
        offset: usize,
    },
    /// A document of a `NitroTPM`: signed under the same root, but about an ordinary instance,
    /// whose operator can log in.
    #[error(
        "this is a NitroTPM document ({field} at offset {offset}): it speaks of an ordinary EC2 \
         instance, not of an enclave"
    )]
    NitroTpm {
        /// What gives it away.
        field: Field,
        /// Where that is.
        offset: usize,
    },
    /// A module id with blanks, control or non-ASCII characters.
    #[error("module_id: characters other than printable ASCII at offset {offset}")]
    ModuleIdCharacters {
        /// Where its text item begins.
        offset: usize,
    },
    /// PCRs that are not SHA-384.
    #[error("digest: {found:?} at offset {offset} where an enclave has \"SHA384\"")]
    DigestAlgorithm {
        /// Where it is.
        offset: usize,
        /// The algorithm, shortened.
        found: String,
    },
    /// A timestamp of 0 or after the year 9999.
    #[error("timestamp: {found} ms at offset {offset} is no time at which a document can be made")]
    TimestampRange {
        /// Where it is.
        offset: usize,
        /// Milliseconds since 1970.
        found: u64,
    },
    /// A PCR beyond the last.
    #[error("pcrs: index {found} at offset {offset}; the last is 31")]
    PcrIndex {
        /// Where it is.
        offset: usize,
        /// The index.
        found: u64,
    },
    /// A PCR that is not 48 bytes.
    #[error("pcrs[{index}]: {found} bytes at offset {offset} where SHA-384 has {PCR_BYTES}")]
    PcrLength {
        /// Which PCR.
        index: u8,
        /// Where its content begins.
        offset: usize,
        /// Its length.
        found: usize,
    },
    /// A field with too few or too many bytes or entries.
    #[error("{field}: length {found} at offset {offset}; allowed are {least} to {most}")]
    Length {
        /// Which field.
        field: Field,
        /// Where its item begins.
        offset: usize,
        /// The length.
        found: u64,
        /// The least allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },
}

impl ParseError {
    /// Whether the input is something else altogether or was cut off, rather than a document that
    /// breaks a rule: whether no `COSE_Sign1` could be made out.
    pub fn is_not_a_document(&self) -> bool {
        match self {
            ParseError::TooLong { .. }
            | ParseError::Tag { .. }
            | ParseError::EnvelopeLength { .. } => true,
            ParseError::Truncated { field, .. }
            | ParseError::Reserved { field, .. }
            | ParseError::Indefinite { field, .. }
            | ParseError::NotShortest { field, .. } => field.is_of_the_envelope(),
            ParseError::WrongKind {
                field, expected, ..
            } => {
                // A payload that is no byte string, but not a byte string that holds no map.
                field.is_of_the_envelope() && (*field != Field::Payload || *expected == Kind::Bytes)
            }
            _ => false,
        }
    }

    /// The refusal's stable name, as the conformance corpus has it.
    pub fn name(&self) -> &'static str {
        match self {
            ParseError::TooLong { .. } => "too-long",
            ParseError::Truncated { .. } => "truncated",
            ParseError::Trailing { .. } => "trailing-bytes",
            ParseError::WrongKind { .. } => "wrong-type",
            ParseError::Reserved { .. } => "not-cbor",
            ParseError::NotShortest { .. } => "not-shortest",
            ParseError::Indefinite { .. } => "indefinite-length",
            ParseError::NotUtf8 { .. } => "not-utf8",
            ParseError::TooDeep { .. } => "too-deep",
            ParseError::Tag { .. } => "wrong-tag",
            ParseError::EnvelopeLength { .. } => "envelope-length",
            ParseError::Protected { .. } => "protected-header",
            ParseError::UnprotectedNotEmpty { .. } => "unprotected-header",
            ParseError::SignatureLength { .. } => "signature-length",
            ParseError::UnknownKey { .. } => "unknown-key",
            ParseError::Duplicate { .. } | ParseError::DuplicateUnknown { .. } => "duplicate-key",
            ParseError::Missing { .. } => "missing-field",
            ParseError::NitroTpm { .. } => "nitrotpm",
            ParseError::ModuleIdCharacters { .. } => "module-id-characters",
            ParseError::DigestAlgorithm { .. } => "digest-algorithm",
            ParseError::TimestampRange { .. } => "timestamp-range",
            ParseError::PcrIndex { .. } => "pcr-index",
            ParseError::PcrLength { .. } => "pcr-length",
            ParseError::Length { .. } => "wrong-length",
        }
    }

    /// Where in the input the fault lies, in bytes from its start; for an input that is too long,
    /// the first byte beyond what is allowed.
    pub fn offset(&self) -> usize {
        match *self {
            ParseError::TooLong { .. } => MAX_DOCUMENT_BYTES,
            ParseError::Truncated { offset, .. }
            | ParseError::Trailing { offset, .. }
            | ParseError::WrongKind { offset, .. }
            | ParseError::Reserved { offset, .. }
            | ParseError::NotShortest { offset, .. }
            | ParseError::Indefinite { offset, .. }
            | ParseError::NotUtf8 { offset, .. }
            | ParseError::TooDeep { offset }
            | ParseError::Tag { offset, .. }
            | ParseError::EnvelopeLength { offset, .. }
            | ParseError::Protected { offset, .. }
            | ParseError::UnprotectedNotEmpty { offset }
            | ParseError::SignatureLength { offset, .. }
            | ParseError::UnknownKey { offset, .. }
            | ParseError::Duplicate { offset, .. }
            | ParseError::DuplicateUnknown { offset, .. }
            | ParseError::Missing { offset, .. }
            | ParseError::NitroTpm { offset, .. }
            | ParseError::ModuleIdCharacters { offset }
            | ParseError::DigestAlgorithm { offset, .. }
            | ParseError::TimestampRange { offset, .. }
            | ParseError::PcrIndex { offset, .. }
            | ParseError::PcrLength { offset, .. }
            | ParseError::Length { offset, .. } => offset,
        }
    }

    /// What was being read.
    pub fn field(&self) -> Field {
        match *self {
            ParseError::Truncated { field, .. }
            | ParseError::Trailing { field, .. }
            | ParseError::WrongKind { field, .. }
            | ParseError::Reserved { field, .. }
            | ParseError::NotShortest { field, .. }
            | ParseError::Indefinite { field, .. }
            | ParseError::NotUtf8 { field, .. }
            | ParseError::Duplicate { field, .. }
            | ParseError::Missing { field, .. }
            | ParseError::NitroTpm { field, .. }
            | ParseError::Length { field, .. } => field,
            ParseError::TooLong { .. }
            | ParseError::Tag { .. }
            | ParseError::EnvelopeLength { .. } => Field::Envelope,
            ParseError::Protected { .. } => Field::Protected,
            ParseError::UnprotectedNotEmpty { .. } => Field::Unprotected,
            ParseError::SignatureLength { .. } => Field::Signature,
            ParseError::UnknownKey { .. }
            | ParseError::DuplicateUnknown { .. }
            | ParseError::TooDeep { .. } => Field::Key,
            ParseError::ModuleIdCharacters { .. } => Field::ModuleId,
            ParseError::DigestAlgorithm { .. } => Field::Digest,
            ParseError::TimestampRange { .. } => Field::Timestamp,
            ParseError::PcrIndex { .. } => Field::Pcrs,
            ParseError::PcrLength { index, .. } => Field::Pcr(index),
        }
    }

    fn of(field: Field, fault: Fault) -> ParseError {
        match fault {
            Fault::Truncated { offset } => ParseError::Truncated { field, offset },
            Fault::Kind {
                offset,
                expected,
                found,
            } => ParseError::WrongKind {
                field,
                offset,
                expected,
                found,
            },
            Fault::Reserved { offset } => ParseError::Reserved { field, offset },
            Fault::NotShortest { offset } => ParseError::NotShortest { field, offset },
            Fault::Indefinite { offset } => ParseError::Indefinite { field, offset },
            Fault::NotUtf8 { offset } => ParseError::NotUtf8 { field, offset },
            Fault::TooDeep { offset } => ParseError::TooDeep { offset },
        }
    }
}

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

    /// What the document says of itself, for showing it to a person. None of it is known to be
    /// true, so never decide anything by it.
    pub fn claimed(&self) -> Claimed<'_> {
        Claimed {
            document: &self.document,
        }
    }
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unverified({} bytes)", self.document.bytes.len())
    }
}

/// What a document claims. **Nothing here is true** until verification says so.
#[derive(Clone, Copy)]
pub struct Claimed<'a> {
    document: &'a Document,
}

impl<'a> Claimed<'a> {
    /// The name that it gives the enclave.
    pub fn module_id(&self) -> &'a str {
        &self.document.module_id
    }

    /// When it says that it was made, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.document.timestamp_ms
    }

    /// The PCRs that it lists.
    pub fn pcrs(&self) -> impl Iterator<Item = (u8, Pcr)> + use<'a> {
        self.document.pcrs.iter().map(|(index, pcr)| (*index, *pcr))
    }

    /// The leaf certificate that it brings, as DER (or whatever stands in its place).
    pub fn certificate(&self) -> &'a [u8] {
        self.document.certificate()
    }

    /// The issuers that it brings, the one that it calls root first.
    pub fn cabundle(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.document.cabundle()
    }

    /// The public key that it carries for its maker.
    pub fn public_key(&self) -> Option<&'a [u8]> {
        self.document.public_key()
    }

    /// The data that it carries for its maker.
    pub fn user_data(&self) -> Option<&'a [u8]> {
        self.document.user_data()
    }

    /// The nonce that it carries.
    pub fn nonce(&self) -> Option<&'a [u8]> {
        self.document.nonce()
    }

    /// What stands where the signature belongs: r ‖ s.
    pub fn signature(&self) -> &'a [u8; 96] {
        self.document.signature()
    }
}

impl fmt::Debug for Claimed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed")
            .field("module_id", &self.module_id())
            .field("timestamp_ms", &self.timestamp_ms())
            .finish_non_exhaustive()
    }
}

/// As `{"claimed": {…}}`, byte strings in hex, so that the word travels with the data.
impl Serialize for Claimed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Outer<'a> {
            claimed: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            module_id: &'a str,
            timestamp_ms: u64,
            pcrs: &'a BTreeMap<u8, Pcr>,
            certificate: String,
            cabundle: Vec<String>,
            public_key: Option<String>,
            user_data: Option<String>,
            nonce: Option<String>,
        }
        Outer {
            claimed: Inner {
                module_id: self.module_id(),
                timestamp_ms: self.timestamp_ms(),
                pcrs: &self.document.pcrs,
                certificate: hex::encode(self.certificate()),
                cabundle: self.cabundle().map(hex::encode).collect(),
                public_key: self.public_key().map(hex::encode),
                user_data: self.user_data().map(hex::encode),
                nonce: self.nonce().map(hex::encode),
            },
        }
        .serialize(serializer)
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
