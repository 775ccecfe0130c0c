//! Signing an image: a signature over PCR0, added as the last section, and with it PCR8.
//!
//! With a key at hand in one step, and with a key that lives elsewhere in two: what is to be signed, and the signature
//! that came back. A signature is checked before it is added, so that no image is written whose signature is wrong. The
//! same key and certificate give the same bytes (RFC 6979).

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use p384::ecdsa::signature::{Signer, Verifier};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{PemObject, SectionKind as PemKind};
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::eif::{FormatError, MAX_SECTIONS, SectionKind};
use crate::image::{Image, ImageError, Unmeasured};
use crate::measure::Measurements;
use crate::signature;
use crate::write::ImageWriter;

/// Why an image was not signed. It is as it was before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SigningError {
    /// The key is none that signs images.
    #[error(
        "the signing key {0}: it must be one private key on P-384, in PEM (PKCS #8 or SEC 1), without a password"
    )]
    Key(String),
    /// The certificate is none that signs images.
    #[error(
        "the signing certificate {0}: it must be one X.509 certificate for a key on P-384, in PEM"
    )]
    Certificate(String),
    /// The key is not the certificate's.
    #[error("the signing key is not the key of the signing certificate")]
    Mismatch,
    /// A signature in a form that is not known.
    #[error(
        "the signature has {0} bytes and is neither r and s of 48 bytes each nor ECDSA's DER encoding of them"
    )]
    SignatureForm(usize),
    /// A signature over something else, or by another key.
    #[error(
        "the signature is not by the certificate's key over what --prepare gives for this image: sign exactly those \
         bytes, with ECDSA on P-384 and SHA-384"
    )]
    WrongSignature,
    /// There is one already.
    #[error(
        "the image is signed already: replace its signature with --replace, or sign an unsigned one"
    )]
    AlreadySigned,
    /// No room for another section.
    #[error("the image has no room for a signature: it has {MAX_SECTIONS} sections already")]
    NoRoom,
    /// The signature section would be too large.
    #[error("the image cannot be signed: {0}")]
    Format(#[from] FormatError),
    /// The image cannot be read.
    #[error("cannot read the image: {0}")]
    Read(#[source] io::Error),
    /// The signed image cannot be written.
    #[error("cannot write the image {}: {source}", .path.display())]
    Write {
        /// Where it was to go.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What was written does not read back.
    #[error("the signed image does not read back: {0}")]
    ReadBack(#[source] ImageError),
}

/// A certificate that can sign images.
pub struct SigningCertificate {
    pem: Vec<u8>,
    key: VerifyingKey,
}

impl SigningCertificate {
    /// Reads a certificate in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<SigningCertificate, SigningError> {
        let refuse = |problem: &dyn fmt::Display| SigningError::Certificate(problem.to_string());
        let mut sections = <(PemKind, Vec<u8>)>::pem_slice_iter(pem);
        let (kind, der) = match (sections.next(), sections.next()) {
            (Some(Ok(section)), None) => section,
            (None, _) => return Err(refuse(&"is no PEM")),
            (Some(Err(error)), _) | (_, Some(Err(error))) => {
                return Err(refuse(&format!("is damaged ({error})")));
            }
            // Above all a private key, which would end up in an image for all to read.
            (Some(Ok(_)), Some(Ok(_))) => {
                return Err(refuse(&"has something else with it in its file"));
            }
        };
        if kind != PemKind::Certificate {
            return Err(refuse(&"is something else"));
        }
        let certificate = Certificate::from_der(&der)
            .map_err(|error| refuse(&format!("is damaged ({error})")))?;
        let point = certificate
            .tbs_certificate()
            .subject_public_key_info()
            .subject_public_key
            .as_bytes()
            .unwrap_or_default();
        let key = VerifyingKey::from_sec1_bytes(point)
            .map_err(|_| refuse(&"is for a key of another kind"))?;
        Ok(SigningCertificate {
            pem: pem.to_vec(),
            key,
        })
    }
}

/// A key and its certificate. It has no `Debug`, since it holds a secret; the key is zeroized on drop.
pub struct ImageSigner {
    key: SigningKey,
    certificate: SigningCertificate,
}

impl ImageSigner {
    /// Reads a private key in PEM and checks that it is the certificate's.
    pub fn new(
        key_pem: &[u8],
        certificate: SigningCertificate,
    ) -> Result<ImageSigner, SigningError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|error| SigningError::Key(format!("is not read ({error})")))?;
        let pair =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, key.secret_der())
                .map_err(|_| SigningError::Key("is of another kind".to_owned()))?;
        if VerifyingKey::from_sec1_bytes(pair.public_key().as_ref()).ok() != Some(certificate.key) {
            return Err(SigningError::Mismatch);
        }
        let scalar = pair
            .private_key()
            .as_be_bytes()
            .map_err(|_| SigningError::Key("is not read".to_owned()))?;
        let key = SigningKey::from_slice(scalar.as_ref())
            .map_err(|_| SigningError::Key("is out of range".to_owned()))?;
        Ok(ImageSigner { key, certificate })
    }
}

/// What is to be signed for an image with ECDSA on P-384 and SHA-384: the bytes that the hash is taken of.
pub fn to_sign(image: &Image) -> Vec<u8> {
    signature::to_sign_for(&image.measurements().pcr0)
}

/// Writes the image with a signature by this key to `output`. `replace`: whether a signature that is there may go.
pub fn sign(
    image: &Image,
    signer: &ImageSigner,
    replace: bool,
    output: &Path,
) -> Result<Measurements, SigningError> {
    let made: Signature = signer.key.sign(&to_sign(image));
    write(image, &signer.certificate, &made, replace, output)
}

/// Writes the image with a signature that was made elsewhere: r and s of 48 bytes each, or their DER encoding.
pub fn attach(
    image: &Image,
    certificate: &SigningCertificate,
    signature: &[u8],
    replace: bool,
    output: &Path,
) -> Result<Measurements, SigningError> {
    let made = if signature.len() == 96 {
        Signature::from_slice(signature).or_else(|_| Signature::from_der(signature))
    } else {
        Signature::from_der(signature)
    };
    let made = made.map_err(|_| SigningError::SignatureForm(signature.len()))?;
    write(image, certificate, &made, replace, output)
}

fn write(
    image: &Image,
    certificate: &SigningCertificate,
    made: &Signature,
    replace: bool,
    output: &Path,
) -> Result<Measurements, SigningError> {
    certificate
        .key
        .verify(&to_sign(image), made)
        .map_err(|_| SigningError::WrongSignature)?;
    if image.signature().is_some() && !replace {
        return Err(SigningError::AlreadySigned);
    }
    let raw: [u8; 96] = made.to_bytes().into();
    let section = signature::encode(
        &certificate.pem,
        &signature::cose_sign1(&image.measurements().pcr0, &raw),
    );
    if section.len() as u64 > SectionKind::Signature.limit() {
        return Err(FormatError::SectionTooLarge {
            index: image.sections().len(),
            kind: SectionKind::Signature,
            size: section.len() as u64,
            limit: SectionKind::Signature.limit(),
        }
        .into());
    }
    let kept = image
        .sections()
        .iter()
        .filter(|section| section.kind != SectionKind::Signature);
    if kept.clone().count() == MAX_SECTIONS {
        return Err(SigningError::NoRoom);
    }
    let failed = |source| SigningError::Write {
        path: output.into(),
        source,
    };
    let (memory, cpus) = image.default_resources();
    let mut writer =
        ImageWriter::new(output, image.architecture(), memory, cpus).map_err(failed)?;
    for section in kept {
        let mut unread = None;
        let copied = writer.section(section.kind, |sink| {
            image.copy_section_told_apart(section, sink, &mut unread)
        });
        match (copied, unread) {
            (_, Some(source)) => return Err(SigningError::Read(source)),
            (Err(source), None) => return Err(failed(source)),
            (Ok(()), None) => {}
        }
    }
    writer
        .section(SectionKind::Signature, |sink| sink.write_all(&section))
        .map_err(failed)?;
    let written = writer.finish().map_err(failed)?;
    let (file, sums, written) = written.into_parts();
    let (signed, crc32) = Unmeasured::of_file(output, file)
        .and_then(|image| image.measured_by(sums))
        .map_err(SigningError::ReadBack)?;
    let measurements = *signed.measurements();
    if measurements.pcr0 != image.measurements().pcr0 {
        // The image was changed between its measurement and its copy; the signature is for the one that was measured.
        return Err(SigningError::WrongSignature);
    }
    written.persist(crc32, output).map_err(failed)?;
    Ok(measurements)
}
