//! Whether an image's signature holds: the signature itself, that it is over this image, and the certificate's validity
//! and chain at one moment.
//!
//! The moment and the authorities are the caller's. A signature that holds says who signed, not that they may be
//! trusted: that is for whoever pins PCR8 or names an authority.

use std::time::Duration;

use anchorhold_attestation::Pcr;
use aws_lc_rs::signature::{self as lc, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime, alg_id,
};
use serde::Serialize;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use crate::image::Image;
use crate::signature::{self, Algorithm, SignatureError};

/// `id-kp-codeSigning` (RFC 5280, 4.2.1.12).
const CODE_SIGNING: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 3];

/// Why a signature does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureFault {
    /// There is none.
    #[error("the image is not signed")]
    Unsigned,
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] SignatureError),
    /// Its algorithm is not for the certificate's key.
    #[error("the signature's algorithm is not for the signing certificate's key")]
    Algorithm,
    /// It is over another register or image.
    #[error(
        "the signature is over another image: it names PCR{register} {signed}, and this image has PCR0 {measured}"
    )]
    AnotherImage {
        /// The register that was signed.
        register: u64,
        /// Its value, in hexadecimal.
        signed: String,
        /// The image's PCR0.
        measured: Pcr,
    },
    /// It was not made with the certificate's key.
    #[error("the signature was not made with the signing certificate's key")]
    Wrong,
    /// The certificate is not valid yet.
    #[error("the signing certificate is not valid before {0}")]
    NotYetValid(String),
    /// The certificate has expired.
    #[error(
        "the signing certificate expired on {0}: sign the image anew; PCR8 and the keys' policies change with the certificate"
    )]
    Expired(String),
    /// The certificate is by an authority that nobody named.
    #[error(
        "the signing certificate was issued by {issuer}: name that authority's certificate with --ca"
    )]
    AuthorityNeeded {
        /// Who issued it.
        issuer: String,
    },
    /// A certificate that claims to be by itself and is not.
    #[error("the signing certificate names itself as its issuer and is not signed by its own key")]
    FalselySelfSigned,
    /// No chain to the authorities that were named.
    #[error(
        "the signing certificate (issued by {issuer}) has no chain to the authorities named: {reason}"
    )]
    Chain {
        /// Who issued it.
        issuer: String,
        /// What the path builder says.
        reason: String,
    },
}

/// Who signed an image. Its serialisation has nitro-cli's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignerInfo {
    /// Whom the certificate is for.
    pub subject_name: String,
    /// Who issued it.
    pub issuer_name: std::collections::BTreeMap<String, String>,
    /// The algorithm that the certificate was signed with, as an object identifier or its usual name.
    pub algorithm: String,
    /// As OpenSSL writes times.
    pub not_before: String,
    /// As OpenSSL writes times.
    pub not_after: String,
    /// The certificate's own signature: bytes in hexadecimal, separated by colons.
    pub signature: String,
}

/// A signature that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The certificate.
    pub signer: SignerInfo,
    /// Its measurement.
    pub pcr8: Pcr,
    /// Whether the certificate is by itself, so that PCR8 alone says whom to trust.
    pub self_signed: bool,
}

/// What a certificate says.
pub(crate) fn signer_info(certificate: &CertificateDer<'_>) -> Result<SignerInfo, SignatureError> {
    let certificate = parsed(certificate)?;
    let tbs = certificate.tbs_certificate();
    let validity = tbs.validity();
    Ok(SignerInfo {
        subject_name: tbs.subject().to_string(),
        issuer_name: tbs
            .issuer()
            .iter()
            .map(|attribute| {
                let text = attribute.to_string();
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                (long_name(name).to_owned(), value.to_owned())
            })
            .collect(),
        algorithm: algorithm_name(&certificate.signature_algorithm().oid.to_string()),
        not_before: as_openssl(validity.not_before),
        not_after: as_openssl(validity.not_after),
        signature: certificate
            .signature()
            .raw_bytes()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>()
            .join(":"),
    })
}

/// Whether the signature is over this image and by the certificate's key. Neither time nor chain is looked at.
pub fn check_signature(image: &Image) -> Result<(), SignatureFault> {
    let signature = image.signature().ok_or(SignatureFault::Unsigned)?;
    let claim = signature::claim(&signature.cose_sign1)?;
    let certificate = parsed(&signature.certificate)?;
    let key = certificate
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()
        .map_err(|error| SignatureError::Certificate(error.to_string()))?;
    let algorithm = match claim.algorithm {
        Algorithm::Es256 => &lc::ECDSA_P256_SHA256_FIXED,
        Algorithm::Es384 => &lc::ECDSA_P384_SHA384_FIXED,
        Algorithm::Es512 => &lc::ECDSA_P521_SHA512_FIXED,
    };
    let key = ParsedPublicKey::new(algorithm, &key).map_err(|_| SignatureFault::Algorithm)?;
    key.verify_sig(&claim.signed, &claim.signature)
        .map_err(|_| SignatureFault::Wrong)?;
    let measured = image.measurements().pcr0;
    if claim.register != 0 || claim.value != measured.as_bytes() {
        return Err(SignatureFault::AnotherImage {
            register: claim.register,
            signed: hex::encode(&claim.value),
            measured,
        });
    }
    Ok(())
}

/// Whether an image's signature holds at a moment, given in time since 1970.
///
/// Without `authorities` a certificate must be by itself; with them, it must have a chain to one of them.
pub fn verify(
    image: &Image,
    authorities: &[CertificateDer<'_>],
    now: Duration,
) -> Result<Verified, SignatureFault> {
    check_signature(image)?;
    let signature = image.signature().ok_or(SignatureFault::Unsigned)?;
    let certificate = parsed(&signature.certificate)?;
    let tbs = certificate.tbs_certificate();
    let validity = tbs.validity();
    if now < validity.not_before.to_unix_duration() {
        return Err(SignatureFault::NotYetValid(validity.not_before.to_string()));
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(SignatureFault::Expired(validity.not_after.to_string()));
    }
    let issuer = tbs.issuer().to_string();
    let self_signed = tbs.issuer() == tbs.subject();
    if self_signed {
        check_own_signature(&certificate)?;
    }
    let is_named = authorities
        .iter()
        .any(|authority| authority.as_ref() == signature.certificate.as_ref());
    if authorities.is_empty() {
        if !self_signed {
            return Err(SignatureFault::AuthorityNeeded { issuer });
        }
    } else if !is_named {
        chain(&signature.certificate, authorities, now)
            .map_err(|reason| SignatureFault::Chain { issuer, reason })?;
    }
    Ok(Verified {
        signer: signer_info(&signature.certificate)?,
        pcr8: crate::signer_pcr(&signature.certificate),
        self_signed,
    })
}

fn parsed(certificate: &CertificateDer<'_>) -> Result<Certificate, SignatureError> {
    Certificate::from_der(certificate)
        .map_err(|error| SignatureError::Certificate(error.to_string()))
}

fn chain(
    certificate: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    now: Duration,
) -> Result<(), String> {
    let anchors: Vec<TrustAnchor<'_>> = authorities
        .iter()
        .map(|authority| {
            webpki::anchor_from_trusted_cert(authority)
                .map_err(|error| format!("an authority is unusable: {error}"))
        })
        .collect::<Result<_, _>>()?;
    let algorithms: Vec<&dyn SignatureVerificationAlgorithm> = ALGORITHMS
        .iter()
        .map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm)
        .collect();
    EndEntityCert::try_from(certificate)
        .and_then(|certificate| {
            certificate
                .verify_for_usage(
                    &algorithms,
                    &anchors,
                    // An authority's own certificates may stand between.
                    authorities,
                    UnixTime::since_unix_epoch(now),
                    KeyUsage::required_if_present(CODE_SIGNING),
                    None,
                    None,
                )
                .map(|_| ())
        })
        .map_err(|error| error.to_string())
}

fn check_own_signature(certificate: &Certificate) -> Result<(), SignatureFault> {
    let spki = certificate.tbs_certificate().subject_public_key_info();
    let inner = |algorithm: &x509_cert::spki::AlgorithmIdentifierOwned| {
        // Without the header of the sequence, which has a length of one byte.
        algorithm
            .to_der()
            .map(|der| der.get(2..).unwrap_or_default().to_vec())
    };
    let encode = |error: x509_cert::der::Error| SignatureError::Certificate(error.to_string());
    let key_kind = inner(&spki.algorithm).map_err(encode)?;
    let signature_kind = inner(certificate.signature_algorithm()).map_err(encode)?;
    let message = certificate.tbs_certificate().to_der().map_err(encode)?;
    let good = ALGORITHMS.iter().any(|algorithm| {
        algorithm.key.as_ref() == key_kind
            && algorithm.signature.as_ref() == signature_kind
            && algorithm
                .verify_signature(
                    spki.subject_public_key.raw_bytes(),
                    &message,
                    certificate.signature().raw_bytes(),
                )
                .is_ok()
    });
    if good {
        Ok(())
    } else {
        Err(SignatureFault::FalselySelfSigned)
    }
}

/// An algorithm that certificates are signed with, in the shape that path validation asks for.
#[derive(Debug)]
struct CertificateAlgorithm {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verifier: &'static dyn VerificationAlgorithm,
}

impl SignatureVerificationAlgorithm for CertificateAlgorithm {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(self.verifier, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

const fn by(
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verifier: &'static dyn VerificationAlgorithm,
) -> CertificateAlgorithm {
    CertificateAlgorithm {
        key,
        signature,
        verifier,
    }
}

static ALGORITHMS: [CertificateAlgorithm; 8] = [
    by(
        alg_id::ECDSA_P256,
        alg_id::ECDSA_SHA256,
        &lc::ECDSA_P256_SHA256_ASN1,
    ),
    by(
        alg_id::ECDSA_P256,
        alg_id::ECDSA_SHA384,
        &lc::ECDSA_P256_SHA384_ASN1,
    ),
    by(
        alg_id::ECDSA_P384,
        alg_id::ECDSA_SHA256,
        &lc::ECDSA_P384_SHA256_ASN1,
    ),
    by(
        alg_id::ECDSA_P384,
        alg_id::ECDSA_SHA384,
        &lc::ECDSA_P384_SHA384_ASN1,
    ),
    by(
        alg_id::ECDSA_P521,
        alg_id::ECDSA_SHA512,
        &lc::ECDSA_P521_SHA512_ASN1,
    ),
    by(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA256,
        &lc::RSA_PKCS1_2048_8192_SHA256,
    ),
    by(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA384,
        &lc::RSA_PKCS1_2048_8192_SHA384,
    ),
    by(
        alg_id::RSA_ENCRYPTION,
        alg_id::RSA_PKCS1_SHA512,
        &lc::RSA_PKCS1_2048_8192_SHA512,
    ),
];

/// `Jan  2 03:04:05 2026 GMT`
fn as_openssl(time: x509_cert::time::Time) -> String {
    i64::try_from(time.to_unix_duration().as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(
            || time.to_string(),
            |time| time.strftime("%b %e %H:%M:%S %Y GMT").to_string(),
        )
}

/// An attribute's name as OpenSSL, and so nitro-cli, spells it out.
fn long_name(short: &str) -> &str {
    match short {
        "CN" => "commonName",
        "C" => "countryName",
        "ST" => "stateOrProvinceName",
        "L" => "localityName",
        "O" => "organizationName",
        "OU" => "organizationalUnitName",
        other => other,
    }
}

fn algorithm_name(oid: &str) -> String {
    match oid {
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512",
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        "1.2.840.113549.1.1.12" => "sha384WithRSAEncryption",
        "1.2.840.113549.1.1.13" => "sha512WithRSAEncryption",
        other => other,
    }
    .to_owned()
}
