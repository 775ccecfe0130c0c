//! The certificates below the root, shaped as AWS's are: region (20 days), zone (6 days), instance
//! (1 day), and a leaf of 3 hours for one enclave. Their keys live in memory and sign once, all but
//! the leaf's.

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

impl Chain {
    /// Issues a chain for one enclave, valid from now on.
    pub(crate) fn issue(
        authority: &Authority,
        module_id: &str,
        now: SystemTime,
    ) -> Result<Chain, NsmError> {
        let mut cabundle = vec![authority.anchor.der().to_vec()];
        let mut above: Option<Issuer<'static, KeyPair>> = None;
        // (name, path length, lifetime), as in AWS's documents.
        for (place, path_length, lifetime) in [
            ("region", 2, 20 * DAY),
            ("zone", 1, 6 * DAY),
            ("instance", 0, DAY),
        ] {
            let mut id = [0; 8];
            rand::fill(&mut id).map_err(|_| NsmError::Randomness)?;
            let name = format!("{}.{place}.anchorhold-development", hex::encode(id));
            let mut params = params(&name, now - HOUR, now + lifetime)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
            params.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
            ];
            let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
            let issuer = above.as_ref().unwrap_or(&authority.issuer);
            cabundle.push(params.signed_by(&key, issuer)?.der().to_vec());
            above = Some(Issuer::new(params, key));
        }

        let not_after = now + LEAF_LIFETIME;
        let mut params = params(module_id, now, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::ContentCommitment,
        ];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let issuer = above.as_ref().unwrap_or(&authority.issuer);
        Ok(Chain {
            certificate: params.signed_by(&key, issuer)?.der().to_vec(),
            cabundle,
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key.serialized_der())
                .map_err(|_| NsmError::LeafKey)?,
            not_before: now,
            not_after,
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
) -> Result<CertificateParams, NsmError> {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::OrganizationName, "anchorhold development");
    distinguished_name.push(DnType::OrganizationalUnitName, "NSM simulator");
    distinguished_name.push(DnType::CommonName, name);

    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| NsmError::Randomness)?;
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
