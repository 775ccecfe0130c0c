//! The certificates below the root, shaped as AWS's are: region (20 days), zone (6 days), instance
//! (1 day), and a leaf of 3 hours for one enclave. Their keys live in memory and sign once, all but
//! the leaf's. What the certificates say is apart from who signs them, so that the conformance
//! corpus can issue the same ones from keys of its own.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SerialNumber,
};

use crate::nsm::NsmError;
use crate::root::Authority;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// How long a leaf is valid, as on hardware.
const LEAF_LIFETIME: Duration = Duration::from_hours(3);

/// A leaf with less than this left is renewed, so that a verifier who allows documents to be five
/// minutes old does not meet one whose leaf ended meanwhile.
const RENEWAL_MARGIN: Duration = Duration::from_mins(5);

/// A leaf, its issuers, and the leaf's key.
pub(crate) struct Chain {
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// DER, root first.
    pub(crate) cabundle: Vec<Vec<u8>>,
    pub(crate) key: EcdsaKeyPair,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// What the certificates of one enclave say, before anybody has issued them.
pub struct Papers {
    /// Region, zone and instance. Each issues the next, and the root the first.
    pub issuers: Vec<CertificateParams>,
    /// The enclave's own.
    pub leaf: CertificateParams,
}

impl Papers {
    /// The papers of an enclave that starts now. `fill` gives names and serial numbers their bytes.
    pub fn draw(
        module_id: &str,
        now: SystemTime,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), NsmError>,
    ) -> Result<Papers, NsmError> {
        let mut issuers = Vec::new();
        // (name, path length, lifetime), as in AWS's documents.
        for (place, path_length, lifetime) in [
            ("region", 2, 20 * DAY),
            ("zone", 1, 6 * DAY),
            ("instance", 0, DAY),
        ] {
            let mut id = [0; 8];
            fill(&mut id)?;
            let name = format!("{}.{place}.anchorhold-development", hex::encode(id));
            let mut params = params(&name, now - HOUR, now + lifetime, &mut fill)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
            params.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
            ];
            issuers.push(params);
        }
        let mut leaf = params(module_id, now, now + LEAF_LIFETIME, &mut fill)?;
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::ContentCommitment,
        ];
        Ok(Papers { issuers, leaf })
    }
}

impl Chain {
    /// Issues a chain for one enclave, valid from now on.
    pub(crate) fn issue(
        authority: &Authority,
        module_id: &str,
        now: SystemTime,
    ) -> Result<Chain, NsmError> {
        let papers = Papers::draw(module_id, now, |bytes| {
            rand::fill(bytes).map_err(|_| NsmError::Randomness)
        })?;
        let mut cabundle = vec![authority.anchor.der().to_vec()];
        let mut above: Option<Issuer<'static, KeyPair>> = None;
        for params in papers.issuers {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
            let issuer = above.as_ref().unwrap_or(&authority.issuer);
            cabundle.push(params.signed_by(&key, issuer)?.der().to_vec());
            above = Some(Issuer::new(params, key));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let issuer = above.as_ref().unwrap_or(&authority.issuer);
        Ok(Chain {
            certificate: papers.leaf.signed_by(&key, issuer)?.der().to_vec(),
            cabundle,
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key.serialized_der())
                .map_err(|_| NsmError::LeafKey)?,
            not_before: now,
            not_after: now + LEAF_LIFETIME,
        })
    }

    /// Whether a document of this instant should no longer be signed with the leaf: it is used up,
    /// or the clock was set back to before it was issued.
    pub(crate) fn is_used_up(&self, now: SystemTime) -> bool {
        now < self.not_before || now + RENEWAL_MARGIN > self.not_after
    }
}

fn params(
    name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
    fill: &mut impl FnMut(&mut [u8]) -> Result<(), NsmError>,
) -> Result<CertificateParams, NsmError> {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::OrganizationName, "anchorhold development");
    distinguished_name.push(DnType::OrganizationalUnitName, "NSM simulator");
    distinguished_name.push(DnType::CommonName, name);

    let mut serial = [0; 16];
    fill(&mut serial)?;
    // Positive, and never shorter than its bytes (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;

    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
