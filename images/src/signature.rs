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
use x509_cert::Certificate;
use x509_cert::der::Decode;

use anchorhold_attestation::Pcr;

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
    let value = whole(section)?;
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
    // Not by a TLS library's rules: AWS's instructions make certificates of version 1.
    Certificate::from_der(&certificate)
        .map_err(|error| SignatureError::Certificate(error.to_string()))?;
    Ok(Signature {
        certificate,
        cose_sign1,
    })
}

/// A signature section that holds one signature, encoded as AWS's tool encodes it: bytes as lists of numbers.
pub(crate) fn encode(certificate_pem: &[u8], cose_sign1: &[u8]) -> Vec<u8> {
    let fields = vec![
        (text("signing_certificate"), numbers(certificate_pem)),
        (text("signature"), numbers(cose_sign1)),
    ];
    cbor(&Value::Array(vec![Value::Map(fields)]))
}

/// An algorithm of COSE (RFC 9053, 2.1) that images are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    const ALL: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512];

    fn code(self) -> i64 {
        match self {
            Algorithm::Es256 => -7,
            Algorithm::Es384 => -35,
            Algorithm::Es512 => -36,
        }
    }
}

/// What `COSE_Sign1` says, none of it checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) algorithm: Algorithm,
    /// The register that was signed, and its value.
    pub(crate) register: u64,
    pub(crate) value: Vec<u8>,
    /// What the signature is over (RFC 9052, 4.4).
    pub(crate) signed: Vec<u8>,
    /// r and s.
    pub(crate) signature: Vec<u8>,
}

/// Reads a `COSE_Sign1` over a register.
pub(crate) fn claim(cose_sign1: &[u8]) -> Result<Claim, SignatureError> {
    let value = whole(cose_sign1)?;
    let value = match value {
        // AWS's tool writes none; the standard allows one.
        Value::Tag(18, inner) => *inner,
        other => other,
    };
    let Value::Array(parts) = value else {
        return Err(SignatureError::Shape("no COSE_Sign1"));
    };
    let [
        Value::Bytes(protected),
        Value::Map(_),
        Value::Bytes(payload),
        Value::Bytes(signature),
    ] = parts.as_slice()
    else {
        return Err(SignatureError::Shape("no COSE_Sign1"));
    };
    let Value::Map(headers) = whole(protected)? else {
        return Err(SignatureError::Shape("a COSE_Sign1 without headers"));
    };
    let [(label, code)] = headers.as_slice() else {
        return Err(SignatureError::Shape(
            "a COSE_Sign1 with other headers than its algorithm",
        ));
    };
    let algorithm = Algorithm::ALL
        .into_iter()
        .find(|algorithm| {
            *label == Value::Integer(1.into()) && *code == Value::Integer(algorithm.code().into())
        })
        .ok_or(SignatureError::Shape(
            "an algorithm other than ES256, ES384 and ES512",
        ))?;
    let Value::Map(fields) = whole(payload)? else {
        return Err(SignatureError::Shape("a payload that names no register"));
    };
    let (mut register, mut signed_value) = (None, None);
    for (key, field) in &fields {
        let before = match key.as_text() {
            Some("register_index") => register
                .replace(
                    field
                        .as_integer()
                        .and_then(|index| u64::try_from(index).ok())
                        .ok_or(SignatureError::Shape("a register that is no number"))?,
                )
                .is_some(),
            Some("register_value") => signed_value.replace(bytes(field)?).is_some(),
            _ => return Err(SignatureError::Shape("an unknown field in its payload")),
        };
        if before {
            return Err(SignatureError::Shape("a field that appears twice"));
        }
    }
    let (Some(register), Some(value)) = (register, signed_value) else {
        return Err(SignatureError::Shape("a payload that names no register"));
    };
    Ok(Claim {
        algorithm,
        register,
        value,
        signed: to_sign(protected, payload),
        signature: signature.clone(),
    })
}

/// What is signed for an image with this PCR0, by a key on P-384.
pub(crate) fn to_sign_for(pcr0: &Pcr) -> Vec<u8> {
    to_sign(&protected_header(), &payload(pcr0))
}

/// The `COSE_Sign1` over PCR0 with that signature: r and s of 48 bytes each.
pub(crate) fn cose_sign1(pcr0: &Pcr, signature: &[u8; 96]) -> Vec<u8> {
    cbor(&Value::Array(vec![
        Value::Bytes(protected_header()),
        Value::Map(Vec::new()),
        Value::Bytes(payload(pcr0)),
        Value::Bytes(signature.to_vec()),
    ]))
}

fn protected_header() -> Vec<u8> {
    let algorithm = Algorithm::Es384.code();
    cbor(&Value::Map(vec![(
        Value::Integer(1.into()),
        Value::Integer(algorithm.into()),
    )]))
}

fn payload(pcr0: &Pcr) -> Vec<u8> {
    cbor(&Value::Map(vec![
        (text("register_index"), Value::Integer(0.into())),
        (text("register_value"), numbers(pcr0.as_bytes())),
    ]))
}

/// `Sig_structure` (RFC 9052, 4.4).
fn to_sign(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    cbor(&Value::Array(vec![
        text("Signature1"),
        Value::Bytes(protected.to_vec()),
        Value::Bytes(Vec::new()),
        Value::Bytes(payload.to_vec()),
    ]))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn numbers(bytes: &[u8]) -> Value {
    Value::Array(bytes.iter().map(|byte| (*byte).into()).collect())
}

fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("memory takes all that is written");
    bytes
}

/// CBOR to its last byte.
fn whole(bytes: &[u8]) -> Result<Value, SignatureError> {
    let mut cursor = Cursor::new(bytes);
    let value = ciborium::de::from_reader_with_recursion_limit(&mut cursor, MAX_DEPTH)
        .map_err(|error| SignatureError::Cbor(error.to_string()))?;
    let left = bytes.len() - usize::try_from(cursor.position()).unwrap_or(bytes.len());
    if left > 0 {
        return Err(SignatureError::TrailingBytes(left));
    }
    Ok(value)
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
