//! Why bytes are not an attestation document: each fault with the field that was being read, and
//! where it lies. Says nothing about whether a document is true.

use core::fmt;

use crate::cbor::{Fault, Kind, MAX_DEPTH};
use crate::document::{MAX_DOCUMENT_BYTES, SIGNATURE_BYTES};
use crate::pcr::PCR_BYTES;

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
    #[error("payload: the item at offset {offset} lies within more than {MAX_DEPTH} others")]
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
    /// Whether the input is something else altogether, rather than a document that is false or was
    /// damaged: it does not even begin like a `COSE_Sign1`, or is longer than any document.
    pub fn is_not_a_document(&self) -> bool {
        match self {
            ParseError::TooLong { .. }
            | ParseError::Tag { .. }
            | ParseError::EnvelopeLength { .. } => true,
            ParseError::Truncated { field, .. }
            | ParseError::Reserved { field, .. }
            | ParseError::Indefinite { field, .. }
            | ParseError::NotShortest { field, .. }
            | ParseError::WrongKind { field, .. } => {
                matches!(field, Field::Envelope | Field::Protected)
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

    pub(crate) fn of(field: Field, fault: Fault) -> ParseError {
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
