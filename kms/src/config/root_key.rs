//! Where the root key comes from: a file, a passphrase, or a PKCS#11 token.
//!
//! Passphrases and PINs come from a file, a file descriptor or a systemd credential: never from a command
//! line or the environment, which others can read.

use super::ConfigError;
use crate::state::{StateError, read_private};
use serde::Deserialize;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What unlocks the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RootKey {
    /// 64 hexadecimal digits in a file, `root.key` in the state folder. Made on the first start.
    #[default]
    InState,
    /// The same in a file elsewhere. Made on the first start.
    File(PathBuf),
    /// A passphrase, stretched by Argon2id.
    Passphrase {
        /// Where it is read from.
        from: SecretSource,
        /// What stretching a new one costs. A store that is there keeps what it was made with.
        cost: Argon2Cost,
    },
    /// A key in a PKCS#11 token, which the token never gives away.
    Token(TokenKey),
}

/// A key in a PKCS#11 token: an AES key, or an RSA key pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKey {
    /// The PKCS#11 module (a shared library), loaded only where it is configured.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
    /// The user's PIN.
    pub pin: SecretSource,
}

/// Where a secret of the operator's is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that nobody else may read. One newline at its end is no part of it.
    File(PathBuf),
    /// An open file descriptor, read to its end.
    Descriptor(u32),
    /// A systemd credential: this file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// What stretching a passphrase costs (Argon2id, RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    /// 256 MiB, three passes: about a second.
    fn default() -> Self {
        Self {
            memory_kib: 256 << 10,
            passes: 3,
            lanes: 4,
        }
    }
}

impl RootKey {
    /// Reads the table `[root_key]` of a file, which may hold it alone or a whole configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Only {
            #[serde(default)]
            root_key: RootKeyTable,
        }
        let text = super::read(path)?;
        let only: Only = toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        only.root_key
            .read(path, path.parent().unwrap_or(Path::new(".")))
    }
}

impl SecretSource {
    /// Reads the secret, at most 1,024 bytes.
    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        let (path, mut secret) = match self {
            Self::File(path) => (path.clone(), read_private(path)?),
            Self::Descriptor(number) => {
                let path = PathBuf::from(format!("/dev/fd/{number}"));
                let failed = |source| StateError::Io {
                    path: path.clone(),
                    source,
                };
                let file = File::open(&path).map_err(failed)?;
                let mut secret = Zeroizing::new(Vec::with_capacity(2048));
                file.take(1026).read_to_end(&mut secret).map_err(failed)?;
                (path, secret)
            }
            Self::Credential(name) => {
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| StateError::NoCredentials(name.clone()))?;
                let path = PathBuf::from(folder).join(name);
                let secret = read_private(&path)?;
                (path, secret)
            }
        };
        if secret.last() == Some(&b'\n') {
            secret.pop();
        }
        if secret.is_empty() || secret.len() > 1024 {
            return Err(StateError::SecretLength(path));
        }
        Ok(secret)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RootKeyTable {
    file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    passphrase_fd: Option<u32>,
    passphrase_credential: Option<String>,
    argon2_memory_kib: Option<u32>,
    argon2_passes: Option<u32>,
    argon2_lanes: Option<u32>,
    token: Option<TokenTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenTable {
    module: PathBuf,
    token: String,
    key: String,
    pin_file: Option<PathBuf>,
    pin_fd: Option<u32>,
    pin_credential: Option<String>,
}

impl RootKeyTable {
    pub(super) fn read(self, path: &Path, base: &Path) -> Result<RootKey, ConfigError> {
        let unclear = || ConfigError::RootKey(path.to_owned());
        let passphrase = source(
            base,
            self.passphrase_file,
            self.passphrase_fd,
            self.passphrase_credential,
        )
        .map_err(|Several| unclear())?;
        let default = Argon2Cost::default();
        let cost = Argon2Cost {
            memory_kib: self.argon2_memory_kib.unwrap_or(default.memory_kib),
            passes: self.argon2_passes.unwrap_or(default.passes),
            lanes: self.argon2_lanes.unwrap_or(default.lanes),
        };
        match (self.file, passphrase, self.token) {
            (None, None, None) => Ok(RootKey::InState),
            (Some(file), None, None) => Ok(RootKey::File(base.join(file))),
            (None, Some(from), None) => {
                if !cost.is_sensible() {
                    return Err(ConfigError::Argon2(path.to_owned()));
                }
                Ok(RootKey::Passphrase { from, cost })
            }
            (None, None, Some(table)) => {
                let pin = source(base, table.pin_file, table.pin_fd, table.pin_credential)
                    .map_err(|Several| unclear())?
                    .ok_or_else(unclear)?;
                Ok(RootKey::Token(TokenKey {
                    module: base.join(table.module),
                    token: table.token,
                    key: table.key,
                    pin,
                }))
            }
            _ => Err(unclear()),
        }
    }
}

impl Argon2Cost {
    /// Neither so little that it protects nothing nor so much that a start never ends.
    pub(crate) fn is_sensible(self) -> bool {
        (8 << 10..=4 << 20).contains(&self.memory_kib)
            && (1..=64).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

struct Several;

fn source(
    base: &Path,
    file: Option<PathBuf>,
    descriptor: Option<u32>,
    credential: Option<String>,
) -> Result<Option<SecretSource>, Several> {
    match (file, descriptor, credential) {
        (None, None, None) => Ok(None),
        (Some(file), None, None) => Ok(Some(SecretSource::File(base.join(file)))),
        (None, Some(number), None) => Ok(Some(SecretSource::Descriptor(number))),
        (None, None, Some(name)) if !name.contains('/') && !name.starts_with('.') => {
            Ok(Some(SecretSource::Credential(name)))
        }
        _ => Err(Several),
    }
}
