//! The envelope's bytes: reading and writing `EnvelopedData` in AWS KMS's own form.
//!
//! The form is fixed but for four fields and for how the content is cut, and nothing else is
//! accepted: a reader that allows less has less to get wrong.
//!
//! ```text
//! ContentInfo                 30 80  06 09 envelopedData  A0 80
//!   EnvelopedData               30 80  02 01 02
//!     recipientInfos              31 L  30 L  02 01 02
//!       subjectKeyIdentifier        80 20 (32 bytes)
//!       rsaesOaep                   30 L  (SHA-256, MGF1 with SHA-256)
//!       encryptedKey                04 L  (256 bytes for RSA-2048)
//!     encryptedContentInfo        30 80  06 09 data
//!       aes-256-cbc                 30 L  06 09 aes256-CBC  04 10 (IV)
//!       encryptedContent            A0 80 (04 L bytes)+ 00 00   or   80 L bytes
//!                                 00 00  00 00  00 00  00 00
//! ```

use super::ber::{
    self, CONTEXT_0, CONTEXT_0_CONSTRUCTED, INTEGER, OCTET_STRING, Reader, SEQUENCE, SET,
};
use super::{BLOCK, MAX_PLAINTEXT_BYTES};

/// The longest envelope that is read, in bytes: the limit of `CiphertextForRecipient` at AWS.
pub const MAX_ENVELOPE_BYTES: usize = 6144;

/// 1.2.840.113549.1.7.3
const ENVELOPED_DATA: [u8; 11] = *b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03";
/// 1.2.840.113549.1.7.1
const DATA: [u8; 11] = *b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
/// 2.16.840.1.101.3.4.1.42
const AES_256_CBC: [u8; 11] = *b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a";
/// Version 2, which goes with a subject key identifier (RFC 5652, sections 6.1 and 6.2.1).
const VERSION: [u8; 3] = [INTEGER, 1, 2];
/// The whole `AlgorithmIdentifier` of RSAES-OAEP (RFC 4055, section 4.1) with SHA-256, MGF1 with
/// SHA-256, and the default label.
const RSAES_OAEP: [u8; 62] = *b"\x30\x3c\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07\x30\x2f\
    \xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\
    \xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\
    \x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00";

/// What stands in an envelope. None of it is secret, and none of it is authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Names the recipient's key.
    pub subject_key_identifier: [u8; 32],
    /// The content key under RSAES-OAEP, as long as the RSA modulus.
    pub encrypted_key: Vec<u8>,
    /// The initialization vector of the content.
    pub iv: [u8; BLOCK],
    /// The content under AES-256-CBC, a positive multiple of 16 bytes.
    pub encrypted_content: Vec<u8>,
}

impl Envelope {
    /// Reads an envelope; nothing may follow it.
    ///
    /// # Errors
    /// [`EnvelopeError`] says what was expected and at which byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err(EnvelopeError::TooLong {
                length: bytes.len(),
            });
        }
        let mut reader = Reader::new(bytes);
        reader.enter(SEQUENCE, "ContentInfo of indefinite length")?;
        reader.exactly(&ENVELOPED_DATA, "the object identifier of envelopedData")?;
        reader.enter(CONTEXT_0_CONSTRUCTED, "[0] of indefinite length")?;
        reader.enter(SEQUENCE, "EnvelopedData of indefinite length")?;
        reader.exactly(&VERSION, "version 2")?;
        let (subject_key_identifier, encrypted_key) =
            recipient(reader.element(SET, "recipientInfos")?)?;

        reader.enter(SEQUENCE, "EncryptedContentInfo of indefinite length")?;
        reader.exactly(&DATA, "the object identifier of data")?;
        let mut algorithm = reader.element(SEQUENCE, "contentEncryptionAlgorithm")?;
        algorithm.exactly(&AES_256_CBC, "the object identifier of AES-256-CBC")?;
        let iv = algorithm
            .element(OCTET_STRING, "the initialization vector")?
            .array("16 bytes")?;
        algorithm.end("the end of contentEncryptionAlgorithm")?;
        let encrypted_content = content(&mut reader)?;
        reader.leave("the end of EncryptedContentInfo")?;
        reader.leave("the end of EnvelopedData")?;
        reader.leave("the end of [0]")?;
        reader.leave("the end of ContentInfo")?;
        reader.end("nothing after the envelope")?;
        Ok(Self {
            subject_key_identifier,
            encrypted_key,
            iv,
            encrypted_content,
        })
    }

    /// Writes the envelope as AWS KMS does, the content in one piece.
    pub fn encode(&self) -> Vec<u8> {
        let recipient = ber::element(
            SEQUENCE,
            &[
                &VERSION,
                &ber::element(CONTEXT_0, &[&self.subject_key_identifier]),
                &RSAES_OAEP,
                &ber::element(OCTET_STRING, &[&self.encrypted_key]),
            ],
        );
        let content = ber::element(OCTET_STRING, &[&self.encrypted_content]);
        let content_info = ber::indefinite(
            SEQUENCE,
            &[
                &DATA,
                &ber::element(
                    SEQUENCE,
                    &[&AES_256_CBC, &ber::element(OCTET_STRING, &[&self.iv])],
                ),
                &ber::indefinite(CONTEXT_0_CONSTRUCTED, &[&content]),
            ],
        );
        let enveloped = ber::indefinite(
            SEQUENCE,
            &[&VERSION, &ber::element(SET, &[&recipient]), &content_info],
        );
        ber::indefinite(
            SEQUENCE,
            &[
                &ENVELOPED_DATA,
                &ber::indefinite(CONTEXT_0_CONSTRUCTED, &[&enveloped]),
            ],
        )
    }
}

/// The one recipient: its key's identifier, and the wrapped content key.
fn recipient(mut infos: Reader<'_>) -> Result<([u8; 32], Vec<u8>), EnvelopeError> {
    let mut info = infos.element(SEQUENCE, "KeyTransRecipientInfo")?;
    infos.end("one recipient only")?;
    info.exactly(&VERSION, "version 2 of KeyTransRecipientInfo")?;
    let identifier = info
        .element(CONTEXT_0, "subjectKeyIdentifier")?
        .array("32 bytes")?;
    info.exactly(&RSAES_OAEP, "RSAES-OAEP with SHA-256 and MGF1 with SHA-256")?;
    let encrypted_key = info.element(OCTET_STRING, "encryptedKey")?;
    if !(256..=1024).contains(&encrypted_key.bytes().len()) {
        return Err(encrypted_key.expected("256 to 1,024 bytes of encryptedKey"));
    }
    info.end("the end of KeyTransRecipientInfo")?;
    Ok((identifier, encrypted_key.bytes().to_vec()))
}

/// The content, in one primitive piece or in several pieces within a constructed one.
fn content(reader: &mut Reader<'_>) -> Result<Vec<u8>, EnvelopeError> {
    let start = *reader;
    let content = if reader.peek() == Some(CONTEXT_0) {
        reader
            .element(CONTEXT_0, "encryptedContent")?
            .bytes()
            .to_vec()
    } else {
        reader.enter(CONTEXT_0_CONSTRUCTED, "encryptedContent")?;
        let mut content = Vec::new();
        while !reader.at_end_of_contents() {
            content.extend_from_slice(
                reader
                    .element(OCTET_STRING, "a piece of encryptedContent")?
                    .bytes(),
            );
        }
        reader.leave("the end of encryptedContent")?;
        content
    };
    if content.is_empty()
        || content.len() % BLOCK != 0
        || content.len() > MAX_PLAINTEXT_BYTES + BLOCK
    {
        return Err(start.expected("16 to 4,112 bytes of encryptedContent, a multiple of 16"));
    }
    Ok(content)
}

/// Why bytes are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too many bytes.
    #[error("it has {length} bytes; an envelope has at most {MAX_ENVELOPE_BYTES}")]
    TooLong {
        /// How many.
        length: usize,
    },
    /// Something else stands where this should.
    #[error("expected {what} at byte {offset}")]
    Expected {
        /// What should stand there.
        what: &'static str,
        /// Where.
        offset: usize,
    },
}
