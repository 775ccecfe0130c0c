//! The sealed secrets that the parent hands in under `GET /secrets/<name>`.
//!
//! What is kept here is ciphertext: only the attested enclave opens it. Nothing here reads a file after the start, so
//! that no name an enclave asks for ever becomes a path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The most bytes that one sealed secret may have.
pub const LARGEST_SECRET: usize = 64 * 1024;

/// The most secrets that one enclave may be handed.
pub const MOST_SECRETS: usize = 256;

/// Where the sealed bytes of one secret come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// A file that holds them; read once, at the start.
    Path(PathBuf),
    /// The bytes themselves.
    Bytes(Vec<u8>),
}

/// Why secrets cannot be handed in.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The name is not one that a manifest can hold.
    #[error(
        "{0:?} is no name for a secret: use 1 to 64 of a-z, 0-9 and hyphen, as in the manifest"
    )]
    Name(String),
    /// The file cannot be read.
    #[error("the sealed secret {name} cannot be read from {}: {source}", path.display())]
    Unreadable {
        /// Name of the secret.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than [`LARGEST_SECRET`].
    #[error(
        "the sealed secret {0} has more than {LARGEST_SECRET} bytes: secrets are keys and tokens; send data through a call"
    )]
    TooLarge(String),
    /// It is empty.
    #[error("the sealed secret {0} is empty: seal it first")]
    Empty(String),
    /// There are more than [`MOST_SECRETS`].
    #[error("{0} secrets were given, and an enclave takes at most {MOST_SECRETS}")]
    TooMany(usize),
}

/// Sealed secrets by name, read and bounded at the start.
#[derive(Default)]
pub struct SealedSecrets(BTreeMap<String, Bytes>);

impl SealedSecrets {
    /// Whether a text is a name that a manifest can hold.
    pub fn is_name(text: &str) -> bool {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=64).contains(&text.len()) && text.bytes().all(known)
    }

    /// Reads every source and checks names and sizes.
    pub fn load(sources: &BTreeMap<String, SecretSource>) -> Result<Self, SecretError> {
        if sources.len() > MOST_SECRETS {
            return Err(SecretError::TooMany(sources.len()));
        }
        let mut secrets = BTreeMap::new();
        for (name, source) in sources {
            if !Self::is_name(name) {
                return Err(SecretError::Name(name.chars().take(80).collect()));
            }
            let bytes = match source {
                SecretSource::Bytes(bytes) => bytes.clone(),
                SecretSource::Path(path) => {
                    let mut bytes = Vec::new();
                    File::open(path)
                        .and_then(|file| {
                            file.take(LARGEST_SECRET as u64 + 1).read_to_end(&mut bytes)
                        })
                        .map_err(|source| SecretError::Unreadable {
                            name: name.clone(),
                            path: path.clone(),
                            source,
                        })?;
                    bytes
                }
            };
            if bytes.len() > LARGEST_SECRET {
                return Err(SecretError::TooLarge(name.clone()));
            }
            if bytes.is_empty() {
                return Err(SecretError::Empty(name.clone()));
            }
            secrets.insert(name.clone(), Bytes::from(bytes));
        }
        Ok(Self(secrets))
    }

    /// The sealed bytes of that name.
    pub fn sealed(&self, name: &str) -> Option<Bytes> {
        self.0.get(name).cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    fn one(name: &str, source: SecretSource) -> Result<SealedSecrets, SecretError> {
        SealedSecrets::load(&BTreeMap::from([(name.to_owned(), source)]))
    }

    #[test]
    fn a_secret_comes_from_bytes_or_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.sealed");
        std::fs::write(&path, b"sealed").unwrap();
        let secrets = SealedSecrets::load(&BTreeMap::from([
            ("a".to_owned(), SecretSource::Path(path)),
            ("b".to_owned(), SecretSource::Bytes(vec![1])),
        ]))
        .unwrap();
        assert_eq!(secrets.sealed("a").unwrap(), &b"sealed"[..]);
        assert_eq!(secrets.sealed("b").unwrap(), &[1][..]);
        assert!(secrets.sealed("c").is_none());
    }

    #[test]
    fn size_and_name_are_bounded() {
        let bytes = |count| SecretSource::Bytes(vec![0; count]);
        assert!(one("a", bytes(LARGEST_SECRET)).is_ok());
        assert!(matches!(
            one("a", bytes(LARGEST_SECRET + 1)),
            Err(SecretError::TooLarge(_))
        ));
        assert!(matches!(one("a", bytes(0)), Err(SecretError::Empty(_))));
        for name in ["", "A", "../a", "a/b", "a.b", &"a".repeat(65)] {
            assert!(
                matches!(one(name, bytes(1)), Err(SecretError::Name(_))),
                "{name}"
            );
        }
        // A file without an end is not read to its end.
        let endless = SecretSource::Path("/dev/zero".into());
        assert!(matches!(one("a", endless), Err(SecretError::TooLarge(_))));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = one("a", SecretSource::Path("/nowhere/key".into()))
            .err()
            .unwrap();
        assert!(error.to_string().contains("/nowhere/key"), "{error}");
    }
}
