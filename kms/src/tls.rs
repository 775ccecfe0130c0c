//! The service's TLS: certificates from files, read anew when these change, or a development CA that is made
//! on first use.
//!
//! What cannot be used never takes the place of what can: a bad new certificate leaves the old one.
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
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

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
    /// Not valid now.
    #[error("{path} is valid from {from} to {until}, which is not now")]
    NotNow {
        /// Which.
        path: PathBuf,
        /// Its first second.
        from: String,
        /// Its last.
        until: String,
    },
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

/// Chain and key in use, and the files that they come from.
pub(crate) struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
    /// The files as they were when last read, whether or not they could be used.
    seen: Mutex<[Stamp; 2]>,
}

/// Tells one content of a file from another: modification time in nanoseconds, length, inode. Zeros where
/// there is no file.
type Stamp = [i64; 4];

impl Certificates {
    /// An expired certificate is used, with a warning: clients will say what they think of it.
    pub(crate) fn open(certificate: &Path, key: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let seen = [stamp(certificate), stamp(key)];
        let config = from_files(certificate, key)?;
        if let Err(error) = check_dates(certificate, now) {
            tracing::warn!(%error, "the TLS certificate is used all the same");
        }
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(config),
            seen: Mutex::new(seen),
        })
    }

    /// For a new connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the files are others than those last read.
    pub(crate) fn have_changed(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
            != [stamp(&self.certificate), stamp(&self.key)]
    }

    /// Reads the files. New connections get what they hold; those that run go on as they are. On an error
    /// all stays as it is.
    pub(crate) fn reload(&self, now: SystemTime) -> Result<(), TlsError> {
        // Before reading: what changes meanwhile is read again.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            [stamp(&self.certificate), stamp(&self.key)];
        let config = from_files(&self.certificate, &self.key)?;
        check_dates(&self.certificate, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).map_or([0; 4], |found| {
        [
            found.mtime(),
            found.mtime_nsec(),
            found.size().cast_signed(),
            found.ino().cast_signed(),
        ]
    })
}

fn check_dates(path: &Path, now: SystemTime) -> Result<(), TlsError> {
    let leaf = CertificateDer::pem_file_iter(path)
        .ok()
        .and_then(|mut chain| chain.next()?.ok());
    // rustls has read it; what x509-cert cannot read has no dates to check.
    let Some(leaf) = leaf.and_then(|leaf| Certificate::from_der(&leaf).ok()) else {
        return Ok(());
    };
    let validity = leaf.tbs_certificate().validity();
    let (from, until) = (validity.not_before, validity.not_after);
    if (from.to_system_time()..=until.to_system_time()).contains(&now) {
        Ok(())
    } else {
        Err(TlsError::NotNow {
            path: path.to_owned(),
            from: from.to_string(),
            until: until.to_string(),
        })
    }
}

/// Reads chain and key.
fn from_files(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
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
pub(crate) fn development(state: &StateFolder, now: SystemTime) -> Result<Certificates, TlsError> {
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
    Certificates::open(&certificate, &key, now)
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
