//! The job's key: read from a secret's file, and the keys that are derived from it, one for each use. No Debug, no
//! Clone, wiped on drop.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Where the enclave puts the key.
pub const KEY_PATH: &str = "/run/secrets/pii-key";

/// The key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(
        "cannot read the key {}: {source}; hash, pseudonymize, encrypt and restore need it: name the secret `pii-key` in anchorhold.toml and hand its sealed bytes in",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the key {} is something else than a key; it must be 32 raw bytes or 64 hex digits (`openssl rand -hex 32` makes them)",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Keys derived from the job's key (HKDF-SHA-256, RFC 5869), so that none tells anything about another.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Keys {
    pub(crate) hash: [u8; 32],
    pub(crate) pseudonym: [u8; 64],
    pub(crate) encryption: [u8; 64],
}

impl Keys {
    /// Derives the keys.
    pub fn new(key: &[u8; 32]) -> Self {
        let source = Hkdf::<Sha256>::new(None, key);
        let mut keys = Self {
            hash: [0; 32],
            pseudonym: [0; 64],
            encryption: [0; 64],
        };
        let derive = |label: &[u8], to: &mut [u8]| {
            source
                .expand(label, to)
                .expect("HKDF gives up to 8,160 bytes");
        };
        derive(b"anchorhold pii/1 hash", &mut keys.hash);
        derive(b"anchorhold pii/1 pseudonym", &mut keys.pseudonym);
        derive(b"anchorhold pii/1 encryption", &mut keys.encryption);
        keys
    }

    /// Reads the key's file: 32 raw bytes, or 64 hex digits and perhaps a line end.
    ///
    /// # Errors
    /// [`KeyError`], which says what to do.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        // One more than the longest form, so that a longer file is seen to be longer.
        let mut bytes = Zeroizing::new(Vec::with_capacity(67));
        File::open(path)
            .and_then(|file| file.take(67).read_to_end(&mut bytes))
            .map_err(|source| KeyError::Read {
                path: path.to_owned(),
                source,
            })?;
        parse(&bytes)
            .map(|key| Self::new(&key))
            .ok_or_else(|| KeyError::Form {
                path: path.to_owned(),
            })
    }
}

fn parse(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() == 32 {
        key.copy_from_slice(bytes);
        return Some(key);
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    hex::decode_to_slice(digits, key.as_mut_slice()).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_or_64_hex_digits() {
        let key = [0xab; 32];
        assert_eq!(*parse(&key).unwrap(), key);
        let text = "ab".repeat(32);
        for text in [text.clone(), format!("{text}\n"), format!("{text}\r\n")] {
            assert_eq!(*parse(text.as_bytes()).unwrap(), key);
        }
        for wrong in [&b""[..], &[7; 31], &[7; 33], "ab".repeat(33).as_bytes()] {
            assert!(parse(wrong).is_none());
        }
    }

    #[test]
    fn no_derived_key_is_another() {
        let keys = Keys::new(&[1; 32]);
        assert_ne!(keys.hash[..], keys.pseudonym[..32]);
        assert_ne!(keys.pseudonym, keys.encryption);
        assert_ne!(keys.hash, Keys::new(&[2; 32]).hash);
    }
}
