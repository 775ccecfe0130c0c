//! Anchors: root certificates that a caller has decided to trust. Never takes one from a document.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor, pem};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::chain::{self, NotForSigning};

/// The root of every Nitro enclave's attestation, "G1", as DER. AWS publishes it at
/// <https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip>. SHA-256:
/// `641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b`.
static AWS_NITRO_ROOT_G1: &[u8] = include_bytes!("aws-nitro-root-g1.der");

/// A root certificate that documents may chain to.
///
/// Naming one is a decision about whom to believe. In production that is [`Anchor::aws_nitro`]
/// alone; a simulator's root belongs to tests and development.
#[derive(Clone)]
pub struct Anchor {
    der: CertificateDer<'static>,
    certificate: Arc<Certificate>,
    trust: Arc<TrustAnchor<'static>>,
    fingerprint: [u8; 32],
}

impl Anchor {
    /// The AWS Nitro Enclaves root, G1.
    pub fn aws_nitro() -> Anchor {
        Anchor::from_der(AWS_NITRO_ROOT_G1).expect("the embedded root is tested to be an anchor")
    }

    /// Reads the one certificate of a PEM text. Text around it is ignored, as RFC 7468 has it.
    pub fn from_pem(text: &str) -> Result<Anchor, AnchorError> {
        let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes());
        let first = match certificates.next() {
            None => return Err(AnchorError::NoCertificate),
            Some(Err(error)) => return Err(AnchorError::Pem(error)),
            Some(Ok(certificate)) => certificate,
        };
        if certificates.next().is_some() {
            return Err(AnchorError::SeveralCertificates);
        }
        Anchor::from_der(&first)
    }

    /// Reads a DER certificate. It must be a version 3 CA certificate with a P-384 key, whose key
    /// may sign certificates.
    pub fn from_der(der: &[u8]) -> Result<Anchor, AnchorError> {
        let certificate = Certificate::from_der(der)
            .map_err(|error| AnchorError::Malformed(error.to_string()))?;
        chain::check_p384(&certificate).map_err(|()| AnchorError::NotP384)?;
        chain::check_may_sign_certificates(&certificate).map_err(|reason| match reason {
            NotForSigning::Ca => AnchorError::NotCa,
            NotForSigning::KeyUsage => AnchorError::KeyUsage,
            NotForSigning::Malformed(reason) => AnchorError::Malformed(reason),
        })?;
        let der = CertificateDer::from(der.to_vec());
        let trust = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| AnchorError::Malformed(error.to_string()))?
            .to_owned();
        Ok(Anchor {
            fingerprint: Sha256::digest(&der).into(),
            certificate: Arc::new(certificate),
            trust: Arc::new(trust),
            der,
        })
    }

    /// SHA-256 over the certificate's DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// The certificate as DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(crate) fn trust(&self) -> &TrustAnchor<'static> {
        &self.trust
    }
}

impl core::fmt::Debug for Anchor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Anchor({})", hex::encode(self.fingerprint))
    }
}

impl PartialEq for Anchor {
    fn eq(&self, other: &Anchor) -> bool {
        self.der == other.der
    }
}

impl Eq for Anchor {}

/// Why a certificate cannot be an anchor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// The text holds no `CERTIFICATE` block.
    #[error(
        "no PEM block `-----BEGIN CERTIFICATE-----` found; an anchor is one root certificate in PEM"
    )]
    NoCertificate,
    /// The text holds more than one certificate, so it is unclear which is meant.
    #[error(
        "more than one certificate found; give each anchor as a PEM text of its own, the root alone"
    )]
    SeveralCertificates,
    /// The PEM armour is broken.
    #[error("the anchor's PEM text is damaged: {0:?}")]
    Pem(pem::Error),
    /// Not a version 3 certificate in DER.
    #[error("the anchor is not an X.509 certificate: {0}")]
    Malformed(String),
    /// Another kind of key.
    #[error("the anchor's key is not on the curve P-384, which all attestation keys are on")]
    NotP384,
    /// Not a CA certificate.
    #[error("the anchor is not a CA certificate (basic constraints); give the root, not the leaf")]
    NotCa,
    /// Its key may not sign certificates.
    #[error("the anchor's key usage does not allow it to sign certificates")]
    KeyUsage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_root_has_the_published_fingerprint() {
        assert_eq!(
            hex::encode(Anchor::aws_nitro().fingerprint()),
            "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
        );
    }

    #[test]
    fn an_anchor_with_trailing_bytes_or_cut_short_is_refused() {
        let longer = [AWS_NITRO_ROOT_G1, &[0]].concat();
        assert!(matches!(
            Anchor::from_der(&longer),
            Err(AnchorError::Malformed(_))
        ));
        for length in 0..AWS_NITRO_ROOT_G1.len() {
            assert!(Anchor::from_der(&AWS_NITRO_ROOT_G1[..length]).is_err());
        }
    }

    #[test]
    fn texts_without_exactly_one_certificate_are_refused() {
        assert!(matches!(
            Anchor::from_pem(""),
            Err(AnchorError::NoCertificate)
        ));
        assert!(matches!(
            Anchor::from_pem("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"),
            Err(AnchorError::Pem(_))
        ));
    }
}
