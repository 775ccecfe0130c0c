//! The chain of certificates from a document's leaf to a caller's anchor (RFC 5280, section 6).
//! Path validation and signatures are `rustls-webpki`'s; what it leaves open is decided here: one
//! order, key usage, P-384 throughout, and errors that say which certificate is at fault.
//! `cabundle[0]`, which a document calls its root, is never trusted, and never used but to be named
//! in an error.

use core::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, oid::AssociatedOid};
use x509_cert::ext::pkix::{self, BasicConstraints};

use crate::anchor::Anchor;
use crate::document::Document;
use crate::engine::Engine;

/// RFC 5480, section 2.1.1: `id-ecPublicKey` and `secp384r1`.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Which certificate an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificatePosition {
    /// The document's `certificate`, whose key signed the document.
    Leaf,
    /// An entry of the document's `cabundle`.
    Cabundle(u8),
    /// The anchor that the caller gave.
    Anchor,
}

impl fmt::Display for CertificatePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificatePosition::Leaf => f.write_str("the leaf certificate"),
            CertificatePosition::Cabundle(index) => write!(f, "cabundle[{index}]"),
            CertificatePosition::Anchor => f.write_str("the anchor"),
        }
    }
}

/// Why a document's certificates do not lead to an anchor. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// No anchor was given, so nothing can be trusted.
    #[error("no anchor was given; name the root to trust, such as AWS's")]
    NoAnchors,
    /// Not a certificate.
    #[error("{position} is not an X.509 certificate: {reason}")]
    Malformed {
        /// Which.
        position: CertificatePosition,
        /// What the decoder says.
        reason: String,
    },
    /// A key of another kind.
    #[error("the key of {position} is not on the curve P-384")]
    NotP384 {
        /// Which.
        position: CertificatePosition,
    },
    /// A certificate is not issued by its neighbour in the bundle.
    #[error(
        "{position} was issued by another than the certificate before it; the bundle's order is \
         root first, each issuing the next, the leaf last"
    )]
    OutOfOrder {
        /// Which.
        position: CertificatePosition,
    },
    /// Two certificates of the same name.
    #[error("{position} has the same subject as another certificate of the chain")]
    Repeated {
        /// Which.
        position: CertificatePosition,
    },
    /// The chain leads to a root that the caller did not name.
    #[error(
        "the chain leads to no trusted root: the document brings along the root {claimed}, trusted \
         are {}; a simulator's document needs its root named as an anchor",
        trusted.join(", ")
    )]
    UnknownRoot {
        /// SHA-256 of `cabundle[0]`, hex.
        claimed: String,
        /// SHA-256 of the anchors, hex.
        trusted: Vec<String>,
    },
    /// Judged at a time after its end.
    #[error(
        "{position} was valid until {not_after} (seconds since 1970) and the time asked about is {at}"
    )]
    Expired {
        /// Which.
        position: CertificatePosition,
        /// Its last second.
        not_after: u64,
        /// The second that it was judged at.
        at: u64,
    },
    /// Judged at a time before its beginning.
    #[error(
        "{position} is valid from {not_before} (seconds since 1970) and the time asked about is {at}"
    )]
    NotYetValid {
        /// Which.
        position: CertificatePosition,
        /// Its first second.
        not_before: u64,
        /// The second that it was judged at.
        at: u64,
    },
    /// An issuer that is no CA.
    #[error("{position} issued a certificate, but is not a CA (basic constraints)")]
    NotCa {
        /// Which.
        position: CertificatePosition,
    },
    /// A key used for what it is not for, or not said to be for.
    #[error("the key usage of {position} does not include {needed}")]
    KeyUsage {
        /// Which.
        position: CertificatePosition,
        /// What its key was used for.
        needed: &'static str,
    },
    /// Path validation refused: a signature, a path length, a critical extension, …
    #[error("the certificate chain is not valid: {0}")]
    Path(String),
}

/// What is known of a chain once it was verified.
pub(crate) struct Verified {
    /// The leaf's public key.
    pub(crate) leaf_point: Vec<u8>,
    /// SHA-256 of the anchor that the chain leads to.
    pub(crate) anchor_fingerprint: [u8; 32],
    pub(crate) leaf_not_before: Duration,
    pub(crate) leaf_not_after: Duration,
    /// The first end of validity among leaf and issuers.
    pub(crate) not_after: Duration,
}

struct Link {
    position: CertificatePosition,
    certificate: Certificate,
}

/// Verifies leaf and `cabundle[1..]` up to one of the anchors, as of `at` (since 1970).
pub(crate) fn verify(
    document: &Document,
    anchors: &[Anchor],
    at: Duration,
    engine: Engine,
) -> Result<Verified, ChainError> {
    if anchors.is_empty() {
        return Err(ChainError::NoAnchors);
    }
    let issuers = document
        .cabundle()
        .enumerate()
        .skip(1)
        .map(|(index, der)| read(CertificatePosition::Cabundle(index as u8), der))
        .collect::<Result<Vec<_>, _>>()?;
    let leaf = read(CertificatePosition::Leaf, document.certificate())?;
    let anchors = anchors_above(document, issuers.first().unwrap_or(&leaf), anchors)?;
    check_order(&issuers, &leaf)?;
    let mut not_after = Duration::MAX;
    for link in issuers.iter().chain([&leaf]) {
        not_after = not_after.min(check_validity(link.position, &link.certificate, at)?);
    }
    for link in &issuers {
        check_issuer(link)?;
    }
    check_leaf_usage(&leaf)?;
    for anchor in &anchors {
        check_validity(CertificatePosition::Anchor, anchor.certificate(), at)?;
    }

    let trust: Vec<TrustAnchor<'_>> = anchors
        .iter()
        .map(|anchor| anchor.trust().clone())
        .collect();
    let between: Vec<CertificateDer<'_>> = document
        .cabundle()
        .skip(1)
        .map(CertificateDer::from)
        .collect();
    let leaf_der = CertificateDer::from(document.certificate());
    let end_entity = EndEntityCert::try_from(&leaf_der).map_err(|error| path(&error))?;
    let verified = end_entity
        .verify_for_usage(
            &[engine.for_certificates()],
            &trust,
            &between,
            UnixTime::since_unix_epoch(at),
            // Attestation leaves have no extended key usage; one that forbids proving an identity
            // is refused.
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| match error {
            webpki::Error::UnknownIssuer => unknown_root(document, &anchors),
            other => path(&other),
        })?;
    // The order was checked by name above, so that a path which skips a certificate or takes
    // another one means that the bundle holds more than its chain.
    if verified.intermediate_certificates().count() != between.len() {
        return Err(ChainError::OutOfOrder {
            position: CertificatePosition::Leaf,
        });
    }
    let anchor = anchors
        .iter()
        .find(|anchor| anchor.trust() == verified.anchor())
        .ok_or_else(|| unknown_root(document, &anchors))?;

    let tbs = leaf.certificate.tbs_certificate();
    Ok(Verified {
        leaf_point: tbs
            .subject_public_key_info()
            .subject_public_key
            .as_bytes()
            .unwrap_or_default()
            .to_vec(),
        anchor_fingerprint: anchor.fingerprint(),
        leaf_not_before: tbs.validity().not_before.to_unix_duration(),
        leaf_not_after: tbs.validity().not_after.to_unix_duration(),
        not_after,
    })
}

fn path(error: &webpki::Error) -> ChainError {
    ChainError::Path(error.to_string())
}

fn read(position: CertificatePosition, der: &[u8]) -> Result<Link, ChainError> {
    let certificate = Certificate::from_der(der).map_err(|error| ChainError::Malformed {
        position,
        reason: error.to_string(),
    })?;
    check_p384(&certificate).map_err(|()| ChainError::NotP384 { position })?;
    Ok(Link {
        position,
        certificate,
    })
}

fn unknown_root<'a>(
    document: &Document,
    anchors: impl IntoIterator<Item = &'a &'a Anchor>,
) -> ChainError {
    ChainError::UnknownRoot {
        claimed: document
            .cabundle()
            .next()
            .map(|root| hex::encode(Sha256::digest(root)))
            .unwrap_or_default(),
        trusted: anchors
            .into_iter()
            .map(|anchor| hex::encode(anchor.fingerprint()))
            .collect(),
    }
}

/// The anchors that bear the name of the topmost certificate's issuer.
fn anchors_above<'a>(
    document: &Document,
    topmost: &Link,
    anchors: &'a [Anchor],
) -> Result<Vec<&'a Anchor>, ChainError> {
    let issuer = topmost.certificate.tbs_certificate().issuer();
    let above: Vec<&Anchor> = anchors
        .iter()
        .filter(|anchor| anchor.certificate().tbs_certificate().subject() == issuer)
        .collect();
    if above.is_empty() {
        let all: Vec<&Anchor> = anchors.iter().collect();
        return Err(unknown_root(document, &all));
    }
    Ok(above)
}

/// Each issues the next, and no name appears twice: there is one path only, and finding it costs
/// as many signatures as there are certificates.
fn check_order(issuers: &[Link], leaf: &Link) -> Result<(), ChainError> {
    let chain: Vec<&Link> = issuers.iter().chain([leaf]).collect();
    for (index, link) in chain.iter().enumerate() {
        let tbs = link.certificate.tbs_certificate();
        let position = link.position;
        if index > 0 && tbs.issuer() != chain[index - 1].certificate.tbs_certificate().subject() {
            return Err(ChainError::OutOfOrder { position });
        }
        if chain[..index]
            .iter()
            .any(|other| other.certificate.tbs_certificate().subject() == tbs.subject())
        {
            return Err(ChainError::Repeated { position });
        }
    }
    Ok(())
}

/// Returns the end of the certificate's validity.
fn check_validity(
    position: CertificatePosition,
    certificate: &Certificate,
    at: Duration,
) -> Result<Duration, ChainError> {
    let validity = certificate.tbs_certificate().validity();
    let not_before = validity.not_before.to_unix_duration();
    let not_after = validity.not_after.to_unix_duration();
    // Certificates speak in whole seconds, and both ends belong to the validity.
    let at = at.as_secs();
    if at < not_before.as_secs() {
        return Err(ChainError::NotYetValid {
            position,
            not_before: not_before.as_secs(),
            at,
        });
    }
    if at > not_after.as_secs() {
        return Err(ChainError::Expired {
            position,
            not_after: not_after.as_secs(),
            at,
        });
    }
    Ok(not_after)
}

pub(crate) fn check_p384(certificate: &Certificate) -> Result<(), ()> {
    let algorithm = &certificate
        .tbs_certificate()
        .subject_public_key_info()
        .algorithm;
    let curve = algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
    if algorithm.oid == EC_PUBLIC_KEY && curve == Some(SECP384R1) {
        Ok(())
    } else {
        Err(())
    }
}

/// Why a certificate cannot be an issuer.
pub(crate) enum NotForSigning {
    Ca,
    KeyUsage,
    Malformed(String),
}

fn extension<'a, T>(certificate: &'a Certificate) -> Result<Option<T>, String>
where
    T: x509_cert::der::Decode<'a> + AssociatedOid,
{
    certificate
        .tbs_certificate()
        .get_extension::<T>()
        .map(|found| found.map(|(_critical, extension)| extension))
        .map_err(|_| "an extension is damaged or given twice".to_owned())
}

/// RFC 5280, section 6.1.4 (k) and (n), and 4.2.1.3, by which CA certificates must state their
/// key's usage.
pub(crate) fn check_may_sign_certificates(certificate: &Certificate) -> Result<(), NotForSigning> {
    let constraints =
        extension::<BasicConstraints>(certificate).map_err(NotForSigning::Malformed)?;
    if !constraints.is_some_and(|constraints| constraints.ca) {
        return Err(NotForSigning::Ca);
    }
    let usage = extension::<pkix::KeyUsage>(certificate).map_err(NotForSigning::Malformed)?;
    if !usage.is_some_and(|usage| usage.key_cert_sign()) {
        return Err(NotForSigning::KeyUsage);
    }
    Ok(())
}

fn check_issuer(link: &Link) -> Result<(), ChainError> {
    let position = link.position;
    check_may_sign_certificates(&link.certificate).map_err(|reason| match reason {
        NotForSigning::Ca => ChainError::NotCa { position },
        NotForSigning::KeyUsage => ChainError::KeyUsage {
            position,
            needed: "signing certificates",
        },
        NotForSigning::Malformed(reason) => ChainError::Malformed { position, reason },
    })
}

/// A leaf's key must be for signatures, and say so, as all of AWS's do.
fn check_leaf_usage(leaf: &Link) -> Result<(), ChainError> {
    let position = leaf.position;
    let usage = extension::<pkix::KeyUsage>(&leaf.certificate)
        .map_err(|reason| ChainError::Malformed { position, reason })?;
    if usage.is_some_and(|usage| usage.digital_signature()) {
        Ok(())
    } else {
        Err(ChainError::KeyUsage {
            position,
            needed: "digital signatures",
        })
    }
}
