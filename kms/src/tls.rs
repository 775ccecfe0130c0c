//! The service's TLS: certificates from files, or a development CA that is made on first use.
//!
//! The development CA's key is dropped once it has signed the one certificate, so that
//! nothing can be signed under it later. Files that are there are never replaced.

use crate::state::{StateError, StateFolder, write_file};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use thiserror::Error;

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read as PEM.
    #[error("{path}: {source}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{0} has no certificate")]
    NoCertificate(PathBuf),
    /// The key does not fit the certificate, or is of an unknown kind.
    #[error("certificate and key cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// Some of the development files are missing.
    #[error(
        "{missing} is missing beside {present}; put it back, or remove both for new ones (images that pin the old ca.pem will not accept them)"
    )]
    Partial {
        /// What is there.
        present: PathBuf,
        /// What is not.
        missing: PathBuf,
    },
    /// The certificates could not be made.
    #[error("the development certificates could not be made: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// The state folder refused.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Reads chain and key.
pub(crate) fn from_files(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let read = |path: &Path, source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
        .map_err(|source| read(certificate, source))?
        .collect();
    let chain = chain.map_err(|source| read(certificate, source))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| read(key, source))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Uses the development certificates of a folder, and makes them on first use: `ca.pem`,
/// `server.pem`, `server.key`.
pub(crate) fn development(
    state: &StateFolder,
    now: SystemTime,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (ca, certificate, key) = (
        state.file("ca.pem"),
        state.file("server.pem"),
        state.file("server.key"),
    );
    // The CA's file is written last: if it is there, all are.
    if ca.exists() {
        for missing in [&certificate, &key] {
            if !missing.exists() {
                return Err(TlsError::Partial {
                    present: ca,
                    missing: missing.clone(),
                });
            }
        }
    } else {
        make(&ca, &certificate, &key, now)?;
    }
    from_files(&certificate, &key)
}

fn make(ca: &Path, certificate: &Path, key: &Path, now: SystemTime) -> Result<(), TlsError> {
    let year = jiff::Timestamp::try_from(now).map_or(2025, |now| {
        i32::from(now.to_zoned(jiff::tz::TimeZone::UTC).year())
    });
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        // Whole years: clocks that are a day off don't matter.
        params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
        params
    };
    let mut authority = params("anchorhold key service, development CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let authority_certificate = authority.self_signed(&authority_key)?;

    let mut server = params("anchorhold key service, development");
    server.subject_alt_names =
        CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned))?
            .subject_alt_names;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let issuer = Issuer::new(authority, authority_key);
    let server_certificate = server.signed_by(&server_key, &issuer)?;

    let private = zeroize::Zeroizing::new(server_key.serialize_pem());
    write_file(key, private.as_bytes(), 0o600)?;
    write_file(certificate, server_certificate.pem().as_bytes(), 0o644)?;
    write_file(ca, authority_certificate.pem().as_bytes(), 0o644)?;
    Ok(())
}
