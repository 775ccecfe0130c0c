//! The development root: a self-signed P-384 CA in a folder of its user's own. Never leaves that
//! folder, and is no secret worth more than a developer's machine.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anchorhold_attestation::{Anchor, AnchorError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PublicKeyData, date_time_ymd,
};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

const CERTIFICATE_FILE: &str = "root.pem";
const KEY_FILE: &str = "root.key";
/// Held while the other two are being made.
const LOCK_FILE: &str = "root.lock";

const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// A root under which simulators make documents, with its private key.
pub struct DevelopmentRoot {
    pub(crate) authority: Arc<Authority>,
}

/// What signs, shared by all simulators under the root.
pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) anchor: Anchor,
    certificate_pem: String,
}

/// Why there is no development root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// A file could not be read or written.
    #[error("development root: {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key's file holds no P-384 key.
    #[error(
        "development root: {path} holds no P-384 private key ({reason}); delete the folder, and a \
         new root will be made"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// The certificate's file holds no root certificate.
    #[error(
        "development root: {path} holds no root certificate ({source}); delete the folder, and a \
         new root will be made"
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: AnchorError,
    },
    /// Key and certificate do not belong together.
    #[error(
        "development root: key and certificate in {dir} do not belong together; delete the folder, \
         and a new root will be made"
    )]
    Mismatch {
        /// The folder.
        dir: PathBuf,
    },
    /// Key or certificate could not be made.
    #[error("development root: making it failed: {0}")]
    Making(#[from] rcgen::Error),
}

impl DevelopmentRoot {
    /// A root that lives in memory only.
    pub fn generate() -> Result<DevelopmentRoot, RootError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let params = root_papers(&key, SystemTime::now() + LIFETIME);
        let certificate_pem = params.self_signed(&key)?.pem();
        DevelopmentRoot::assemble(key, certificate_pem, Path::new("memory"))
    }

    /// The root in this folder (`root.pem`, and `root.key` readable by its owner alone), made on
    /// first use. Any number of processes and threads may come first at once: all get the same.
    pub fn load_or_create(dir: &Path) -> Result<DevelopmentRoot, RootError> {
        if let Some(root) = load(dir)? {
            return Ok(root);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(at(dir))?;
        let lock_path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        lock.lock().map_err(at(&lock_path))?;
        // Somebody else may have made it while this one waited.
        if let Some(root) = load(dir)? {
            return Ok(root);
        }
        let root = DevelopmentRoot::generate()?;
        let key = Zeroizing::new(root.authority.issuer.key().serialize_pem());
        publish(dir, KEY_FILE, key.as_bytes(), 0o600)?;
        // The certificate last: where it is, the key is too.
        publish(
            dir,
            CERTIFICATE_FILE,
            root.certificate_pem().as_bytes(),
            0o644,
        )?;
        File::open(dir)
            .and_then(|folder| folder.sync_all())
            .map_err(at(dir))?;
        Ok(root)
    }

    /// The root certificate, for verifiers to name as their anchor.
    pub fn certificate_pem(&self) -> &str {
        &self.authority.certificate_pem
    }

    /// SHA-256 over the root certificate's DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.authority.anchor.fingerprint()
    }

    /// The root as a verifier's anchor.
    pub fn anchor(&self) -> Anchor {
        self.authority.anchor.clone()
    }

    fn assemble(
        key: KeyPair,
        certificate_pem: String,
        dir: &Path,
    ) -> Result<DevelopmentRoot, RootError> {
        let anchor =
            Anchor::from_pem(&certificate_pem).map_err(|source| RootError::Certificate {
                path: dir.join(CERTIFICATE_FILE),
                source,
            })?;
        let point = key.public_key_raw();
        if !anchor.der().windows(point.len()).any(|part| part == point) {
            return Err(RootError::Mismatch {
                dir: dir.to_owned(),
            });
        }
        Ok(DevelopmentRoot {
            authority: Arc::new(Authority {
                issuer: Issuer::new(root_papers(&key, SystemTime::now() + LIFETIME), key),
                anchor,
                certificate_pem,
            }),
        })
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RootError + use<> {
    let path = path.to_owned();
    move |source| RootError::Io { path, source }
}

/// The root of the folder, if it has one.
fn load(dir: &Path) -> Result<Option<DevelopmentRoot>, RootError> {
    let certificate_path = dir.join(CERTIFICATE_FILE);
    let certificate_pem = match fs::read_to_string(&certificate_path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&certificate_path)(error)),
    };
    let key_path = dir.join(KEY_FILE);
    let key_pem = Zeroizing::new(fs::read_to_string(&key_path).map_err(at(&key_path))?);
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key_pem, &PKCS_ECDSA_P384_SHA384).map_err(
        |error| RootError::Key {
            path: key_path,
            reason: error.to_string(),
        },
    )?;
    DevelopmentRoot::assemble(key, certificate_pem, dir).map(Some)
}

/// Writes a file that is either there as a whole or not at all.
fn publish(dir: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), RootError> {
    let path = dir.join(name);
    // Made with mode 0600, in the folder itself so that the rename is one.
    let mut file = NamedTempFile::new_in(dir).map_err(at(dir))?;
    file.write_all(content).map_err(at(&path))?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))
        .map_err(at(&path))?;
    file.as_file().sync_all().map_err(at(&path))?;
    file.persist(&path)
        .map_err(|error| at(&path)(error.error))?;
    Ok(())
}

/// What a root's certificate says. All but its end follows from the key, so that a loaded key
/// issues under the same name as the one that was saved.
pub fn root_papers(key: &impl PublicKeyData, not_after: SystemTime) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "anchorhold development");
    name.push(DnType::OrganizationalUnitName, "NSM simulator");
    let id = hex::encode(&Sha256::digest(key.der_bytes())[..8]);
    name.push(
        DnType::CommonName,
        format!("{id}.root.anchorhold-development"),
    );

    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // Early, so that tests may set their simulator's clock back.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = not_after.into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}
