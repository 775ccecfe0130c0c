//! The signature section of an image, in AWS's encoding: a CBOR array of maps with `signing_certificate` (PEM) and
//! `signature` (`COSE_Sign1`, RFC 9052). Both are byte strings that AWS's tool writes as arrays of numbers; either form
//! is read.
//!
//! A section that cannot be read to its last byte is an error. An image with a signature section is never taken for an
//! unsigned one.

use std::io::Cursor;

use ciborium::value::{Integer, Value};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

/// Levels of CBOR nesting that a signature section needs, and a few to spare.
const MAX_DEPTH: usize = 8;

/// A signature over PCR0, as it stands in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The signing certificate, from which PCR8 is computed.
    pub certificate: CertificateDer<'static>,
    /// The `COSE_Sign1` object. Neither its payload nor its signature was checked.
    pub cose_sign1: Vec<u8>,
}

/// Why a signature section is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Not CBOR, or nested too deeply.
    #[error("the signature section is not CBOR: {0}")]
    Cbor(String),
    /// Bytes after the CBOR.
    #[error("{0} bytes follow the CBOR of the signature section")]
    TrailingBytes(usize),
    /// CBOR of another shape.
    #[error("the signature section has {0}")]
    Shape(&'static str),
    /// No certificate in the certificate field.
    #[error("the signing certificate is not one certificate in PEM: {0}")]
    Certificate(String),
}

/// Reads a signature section. It holds one signature, that of PCR0.
pub fn parse(section: &[u8]) -> Result<Signature, SignatureError> {
    let mut cursor = Cursor::new(section);
    let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut cursor, MAX_DEPTH)
        .map_err(|error| SignatureError::Cbor(error.to_string()))?;
    let left = section.len() - usize::try_from(cursor.position()).unwrap_or(section.len());
    if left > 0 {
        return Err(SignatureError::TrailingBytes(left));
    }
    let Value::Array(signatures) = value else {
        return Err(SignatureError::Shape("no list of signatures"));
    };
    let [Value::Map(fields)] = signatures.as_slice() else {
        return Err(SignatureError::Shape("not exactly one signature"));
    };
    let (mut certificate, mut cose_sign1) = (None, None);
    for (key, value) in fields {
        let slot = match key.as_text() {
            Some("signing_certificate") => &mut certificate,
            Some("signature") => &mut cose_sign1,
            _ => return Err(SignatureError::Shape("an unknown field")),
        };
        if slot.replace(bytes(value)?).is_some() {
            return Err(SignatureError::Shape("a field that appears twice"));
        }
    }
    let (Some(pem), Some(cose_sign1)) = (certificate, cose_sign1) else {
        return Err(SignatureError::Shape(
            "no `signing_certificate` or no `signature`",
        ));
    };
    if cose_sign1.is_empty() {
        return Err(SignatureError::Shape("an empty signature"));
    }
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    let certificate = match (certificates.next(), certificates.next()) {
        (Some(Ok(certificate)), None) => certificate,
        (Some(Err(error)), _) | (_, Some(Err(error))) => {
            return Err(SignatureError::Certificate(error.to_string()));
        }
        (None, _) => return Err(SignatureError::Certificate("there is none".to_owned())),
        (Some(Ok(_)), Some(Ok(_))) => {
            return Err(SignatureError::Certificate("there are several".to_owned()));
        }
    };
    webpki::EndEntityCert::try_from(&certificate)
        .map_err(|error| SignatureError::Certificate(error.to_string()))?;
    Ok(Signature {
        certificate,
        cose_sign1,
    })
}

fn bytes(value: &Value) -> Result<Vec<u8>, SignatureError> {
    const SHAPE: SignatureError = SignatureError::Shape("a field that is no string of bytes");
    match value {
        Value::Bytes(bytes) => Ok(bytes.clone()),
        Value::Array(numbers) => numbers
            .iter()
            .map(|number| {
                let number: Integer = number.as_integer().ok_or(SHAPE)?;
                u8::try_from(number).map_err(|_| SHAPE)
            })
            .collect(),
        _ => Err(SHAPE),
    }
}
