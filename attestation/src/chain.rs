//! The chain of certificates from a document's leaf to a caller's anchor (RFC 5280, section 6).
//! Path validation and signatures are `rustls-webpki`'s; what it leaves open is decided here: one
//! order, key usage, P-384 throughout, and errors that say which certificate is at fault.
//! `cabundle[0]`, which a document calls its root, is never trusted, and never used but to be named
//! in an error.

use core::fmt;
use std::sync::Mutex;
use std::time::Duration;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime, alg_id,
};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{DateTime, Decode as _, oid::AssociatedOid};
use x509_cert::ext::pkix::{self, BasicConstraints};

use crate::anchor::Anchor;
use crate::document::Document;
use crate::engine::{Engine, LeafKey};

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
        "{position} was valid until {} and the time asked about is {}", instant(*not_after), instant(*at)
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
        "{position} is valid from {} and the time asked about is {}", instant(*not_before), instant(*at)
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
    /// A CA in the leaf's place: it may issue certificates, and so signs no documents.
    #[error("the leaf certificate is that of a CA (basic constraints)")]
    LeafIsCa,
    /// More certificates below an issuer than its path length allows.
    #[error("{position} may have {allowed} issuers below it (path length), and has {found}")]
    PathLength {
        /// Which.
        position: CertificatePosition,
        /// Its constraint.
        allowed: u8,
        /// The issuers between it and the leaf.
        found: usize,
    },
    /// A key used for what it is not for, or not said to be for.
    #[error("the key usage of {position} does not include {needed}")]
    KeyUsage {
        /// Which.
        position: CertificatePosition,
        /// What its key was used for.
        needed: &'static str,
    },
    /// A certificate that was not signed by the key of its issuer, or was changed afterwards.
    #[error("the signature on {position} is not by its issuer's key")]
    Signature {
        /// Which.
        position: CertificatePosition,
    },
    /// Path validation refused otherwise: a critical extension that is unknown, a name constraint,
    /// an algorithm, …
    #[error("the certificate chain is not valid: {0}")]
    Path(String),
}

/// As RFC 3339 has it, where the year has four digits.
fn instant(seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(seconds)).map_or_else(
        |_| format!("{seconds} s after 1970"),
        |instant| instant.to_string(),
    )
}

impl ChainError {
    /// The refusal's stable name, as the conformance corpus has it.
    pub fn name(&self) -> &'static str {
        match self {
            ChainError::NoAnchors => "no-anchors",
            ChainError::Malformed { .. } => "malformed-certificate",
            ChainError::NotP384 { .. } => "not-p384",
            ChainError::OutOfOrder { .. } => "out-of-order",
            ChainError::Repeated { .. } => "repeated-certificate",
            ChainError::UnknownRoot { .. } => "unknown-root",
            ChainError::Expired { .. } => "expired",
            ChainError::NotYetValid { .. } => "not-yet-valid",
            ChainError::NotCa { .. } => "not-a-ca",
            ChainError::LeafIsCa => "leaf-is-a-ca",
            ChainError::PathLength { .. } => "path-length",
            ChainError::KeyUsage { .. } => "key-usage",
            ChainError::Signature { .. } => "certificate-signature",
            ChainError::Path(_) => "path",
        }
    }
}

/// What is known of a chain once it was verified.
#[derive(Debug, Clone)]
pub(crate) struct VerifiedChain {
    /// The leaf's public key.
    pub(crate) leaf_key: LeafKey,
    /// SHA-256 of the anchor that the chain leads to.
    pub(crate) anchor_fingerprint: [u8; 32],
    pub(crate) leaf_validity: Validity,
    /// When leaf, issuers and anchor are all valid. A chain that was verified for one instant of it
    /// is valid at all others.
    pub(crate) validity: Validity,
}

/// The seconds (since 1970) at which a certificate is valid. Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    pub(crate) fn of(certificate: &Certificate) -> Validity {
        let validity = certificate.tbs_certificate().validity();
        Validity {
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        }
    }

    fn and(self, other: Validity) -> Validity {
        Validity {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    pub(crate) fn contains(self, second: u64) -> bool {
        (self.not_before..=self.not_after).contains(&second)
    }
}

struct Link {
    position: CertificatePosition,
    certificate: Certificate,
}

/// Verifies leaf and `cabundle[1..]` up to one of the anchors, as of the second `at` (since 1970).
pub(crate) fn verify(
    document: &Document,
    anchors: &[Anchor],
    at: u64,
    engine: Engine,
) -> Result<VerifiedChain, ChainError> {
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
    let mut validity = check_validity(&leaf.certificate, leaf.position, at)?;
    for issuer in &issuers {
        validity = validity.and(check_validity(&issuer.certificate, issuer.position, at)?);
        check_issuer(issuer)?;
    }
    check_leaf(&leaf)?;
    for (index, issuer) in issuers.iter().enumerate() {
        let below = issuers.len() - index - 1;
        check_path_length(&issuer.certificate, issuer.position, below)?;
    }
    for anchor in &anchors {
        check_validity(anchor.certificate(), CertificatePosition::Anchor, at)?;
        check_path_length(
            anchor.certificate(),
            CertificatePosition::Anchor,
            issuers.len(),
        )?;
    }

    let anchor = check_path(document, &anchors, &issuers, at, engine)?;
    let tbs = leaf.certificate.tbs_certificate();
    let leaf_point = tbs
        .subject_public_key_info()
        .subject_public_key
        .as_bytes()
        .unwrap_or_default();
    Ok(VerifiedChain {
        leaf_key: engine.key(leaf_point).ok_or(ChainError::NotP384 {
            position: CertificatePosition::Leaf,
        })?,
        anchor_fingerprint: anchor.fingerprint(),
        leaf_validity: Validity::of(&leaf.certificate),
        validity: validity.and(Validity::of(anchor.certificate())),
    })
}

/// RFC 5280's path validation, signatures included, which returns the anchor that the path ends at.
fn check_path<'a>(
    document: &Document,
    anchors: &[&'a Anchor],
    issuers: &[Link],
    at: u64,
    engine: Engine,
) -> Result<&'a Anchor, ChainError> {
    let trust: Vec<TrustAnchor<'_>> = anchors
        .iter()
        .map(|anchor| anchor.trust().clone())
        .collect();
    let between: Vec<CertificateDer<'_>> = document
        .cabundle()
        .skip(1)
        .map(CertificateDer::from)
        .collect();
    let leaf = CertificateDer::from(document.certificate());
    let end_entity = EndEntityCert::try_from(&leaf).map_err(|error| path(&error))?;
    let signatures = Signatures {
        engine,
        refused: Mutex::new(None),
    };
    let verified = end_entity
        .verify_for_usage(
            &[&signatures],
            &trust,
            &between,
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
            // Attestation leaves have no extended key usage; one that forbids proving an identity
            // is refused.
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| match error {
            webpki::Error::UnknownIssuer => unknown_root(document, anchors),
            webpki::Error::InvalidSignatureForPublicKey => {
                let position = signatures.position_refused(&between, issuers);
                let topmost = issuers
                    .first()
                    .map_or(CertificatePosition::Leaf, |link| link.position);
                // Another root of the same name.
                if position == topmost && !brings_one_of(document, anchors) {
                    unknown_root(document, anchors)
                } else {
                    ChainError::Signature { position }
                }
            }
            other => path(&other),
        })?;
    // The order was checked by name before, so that a path which skips a certificate or takes
    // another one means that the bundle holds more than its chain.
    if verified.intermediate_certificates().count() != between.len() {
        return Err(ChainError::OutOfOrder {
            position: CertificatePosition::Leaf,
        });
    }
    anchors
        .iter()
        .find(|anchor| anchor.trust() == verified.anchor())
        .copied()
        .ok_or_else(|| unknown_root(document, anchors))
}

/// The engine in the shape that path validation asks for. Remembers which certificate it refused.
#[derive(Debug)]
struct Signatures {
    engine: Engine,
    /// The signed part of the certificate that was refused last.
    refused: Mutex<Option<Vec<u8>>>,
}

impl Signatures {
    fn position_refused(
        &self,
        between: &[CertificateDer<'_>],
        issuers: &[Link],
    ) -> CertificatePosition {
        let refused = self
            .refused
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        between
            .iter()
            .zip(issuers)
            .find(|(der, _)| {
                // `SEQUENCE`, its length in two bytes for anything that holds a P-384 key, then
                // the signed part.
                refused
                    .as_ref()
                    .is_some_and(|refused| der.get(4..).is_some_and(|der| der.starts_with(refused)))
            })
            .map_or(CertificatePosition::Leaf, |(_, link)| link.position)
    }
}

impl SignatureVerificationAlgorithm for Signatures {
    fn verify_signature(
        &self,
        point: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        if self.engine.verifies_certificate(point, message, signature) {
            return Ok(());
        }
        *self
            .refused
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(message.to_vec());
        Err(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P384
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA384
    }
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

fn brings_one_of(document: &Document, anchors: &[&Anchor]) -> bool {
    document
        .cabundle()
        .next()
        .is_some_and(|root| anchors.iter().any(|anchor| anchor.der() == root))
}

fn unknown_root(document: &Document, anchors: &[&Anchor]) -> ChainError {
    ChainError::UnknownRoot {
        claimed: document
            .cabundle()
            .next()
            .map(|root| hex::encode(Sha256::digest(root)))
            .unwrap_or_default(),
        trusted: anchors
            .iter()
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

/// Returns the certificate's validity, which contains the second `at`.
fn check_validity(
    certificate: &Certificate,
    position: CertificatePosition,
    at: u64,
) -> Result<Validity, ChainError> {
    let validity = Validity::of(certificate);
    if at < validity.not_before {
        return Err(ChainError::NotYetValid {
            position,
            not_before: validity.not_before,
            at,
        });
    }
    if at > validity.not_after {
        return Err(ChainError::Expired {
            position,
            not_after: validity.not_after,
            at,
        });
    }
    Ok(validity)
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

/// Whether the certificate says that it is a CA's. For showing it, not for trusting it.
pub(crate) fn is_ca(certificate: &Certificate) -> bool {
    extension::<BasicConstraints>(certificate)
        .ok()
        .flatten()
        .is_some_and(|constraints| constraints.ca)
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

/// RFC 5280, section 6.1.4 (l) and (m). The anchor's own constraint, which path validation proper
/// leaves out, counts too: whoever made the root meant it.
fn check_path_length(
    certificate: &Certificate,
    position: CertificatePosition,
    issuers_below: usize,
) -> Result<(), ChainError> {
    let constraints = extension::<BasicConstraints>(certificate)
        .map_err(|reason| ChainError::Malformed { position, reason })?;
    match constraints.and_then(|constraints| constraints.path_len_constraint) {
        Some(allowed) if issuers_below > usize::from(allowed) => Err(ChainError::PathLength {
            position,
            allowed,
            found: issuers_below,
        }),
        _ => Ok(()),
    }
}

/// A leaf is no CA, and its key must be for signatures, and say so, as all of AWS's do.
fn check_leaf(leaf: &Link) -> Result<(), ChainError> {
    let position = leaf.position;
    let constraints = extension::<BasicConstraints>(&leaf.certificate)
        .map_err(|reason| ChainError::Malformed { position, reason })?;
    if constraints.is_some_and(|constraints| constraints.ca) {
        return Err(ChainError::LeafIsCa);
    }
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
