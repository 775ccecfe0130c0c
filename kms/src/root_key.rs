//! The root key: the store's key, wrapped under what the operator has.
//!
//! The store's key is random and lies in `root.wrapped`, encrypted under the root key: that of a file, one
//! stretched from a passphrase, or one that only a PKCS#11 token can unwrap. A wrong root key is known by
//! that alone, before anything else is touched, and nothing is changed. Another root key is one file
//! replaced at one moment ([`rewrap`]).

use crate::config::{Argon2Cost, RootKey};
use crate::sealing::{NoRandomness, Secret, fill_random};
use crate::state::{StateError, StateFolder, read_private, write_file};
use crate::token::{Token, TokenError, Wrapping as TokenWrapping};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

const PURPOSE: &str = "anchorhold-kms store key v1";
const FORMAT: u32 = 1;
/// The longest file that is read.
const MAX_BYTES: usize = 64 << 10;

/// Why there is no root key.
#[derive(Debug, Error)]
pub enum RootKeyError {
    /// The file system refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is another one.
    #[error(
        "{0} was made under another root key; nothing was changed. Give the root key that belongs to it"
    )]
    Wrong(PathBuf),
    /// The store's key is wrapped by another means.
    #[error(
        "{path} is wrapped by {found}, and the configuration has {configured}; set [root_key] accordingly, or use `anchorhold kms rewrap`"
    )]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// How it is wrapped.
        found: &'static str,
        /// What the configuration has.
        configured: &'static str,
    },
    /// Not what this version writes.
    #[error("{0} cannot be read: it is damaged, or of another version")]
    Shape(PathBuf),
    /// There is a store, but not the file that holds its key.
    #[error("{0} is missing, and the store beside it cannot be opened without it; put it back")]
    Missing(PathBuf),
    /// The passphrase cannot be stretched.
    #[error("the passphrase cannot be stretched: {0}")]
    Argon2(argon2::Error),
    /// The token refused.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The new root key would take the old one's place while it is needed.
    #[error(
        "the new root key must be in another file than {0}, which is needed until the change is made"
    )]
    SameFile(PathBuf),
}

/// The file `root.wrapped`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    head: Head,
    /// The store's key, sealed under the root key; the head is authenticated with it.
    #[serde(with = "hex::serde")]
    sealed: Vec<u8>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    wrapping: Wrapping,
}

/// By what the root key comes about.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Wrapping {
    File {},
    Passphrase {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        #[serde(with = "hex::serde")]
        salt: [u8; 16],
    },
    Token {
        wrapped: TokenWrapping,
    },
}

impl Wrapping {
    fn kind(&self) -> &'static str {
        match self {
            Self::File {} => "a root key in a file",
            Self::Passphrase { .. } => "a passphrase",
            Self::Token { .. } => "a PKCS#11 token",
        }
    }
}

fn configured(root: &RootKey) -> &'static str {
    match root {
        RootKey::InState | RootKey::File(_) => "a root key in a file",
        RootKey::Passphrase { .. } => "a passphrase",
        RootKey::Token(_) => "a PKCS#11 token",
    }
}

/// The store's key; makes it where there is no store yet.
pub(crate) fn open(state: &StateFolder, root: &RootKey) -> Result<Secret, RootKeyError> {
    let path = state.file("root.wrapped");
    match read(&path)? {
        Some(bytes) => unwrap(state, root, &path, &bytes),
        None if state.file("store.redb").exists() => Err(RootKeyError::Missing(path)),
        None => {
            let key = Secret::random()?;
            write_file(&path, &wrap(state, root, &key)?, 0o600)?;
            Ok(key)
        }
    }
}

/// The store's key, for reading what is authenticated under it while a service runs. Makes none.
pub(crate) fn existing(state: &StateFolder, root: &RootKey) -> Result<Secret, RootKeyError> {
    let path = state.file("root.wrapped");
    let bytes = read(&path)?.ok_or_else(|| RootKeyError::Missing(path.clone()))?;
    unwrap(state, root, &path, &bytes)
}

/// Wraps the store's key under another root key, in place of the old one, at one moment: after a crash it
/// is either the old one or the new one.
pub(crate) fn rewrap(
    state: &StateFolder,
    from: &RootKey,
    to: &RootKey,
) -> Result<(), RootKeyError> {
    let path = state.file("root.wrapped");
    let bytes = read(&path)?.ok_or_else(|| RootKeyError::Missing(path.clone()))?;
    let key = unwrap(state, from, &path, &bytes)?;
    if let (Some(old), Some(new)) = (key_file(state, from), key_file(state, to))
        && old == new
    {
        return Err(RootKeyError::SameFile(old));
    }
    write_file(&path, &wrap(state, to, &key)?, 0o600)?;
    Ok(())
}

/// The same for a state folder on which no service runs.
///
/// # Errors
/// [`RootKeyError`]; then the old root key is the right one, as before.
pub fn rewrap_store(state: &Path, from: &RootKey, to: &RootKey) -> Result<(), RootKeyError> {
    let wrapped = state.join("root.wrapped");
    if !wrapped.exists() {
        return Err(RootKeyError::Missing(wrapped));
    }
    rewrap(&StateFolder::open(state)?, from, to)
}

/// The store's key of a wrapped file that is not yet in its place.
pub(crate) fn unwrap(
    state: &StateFolder,
    root: &RootKey,
    path: &Path,
    bytes: &[u8],
) -> Result<Secret, RootKeyError> {
    let shape = || RootKeyError::Shape(path.to_owned());
    let wrapped: Wrapped = serde_json::from_slice(bytes).map_err(|_| shape())?;
    let head = wrapped.head;
    if head.format != FORMAT {
        return Err(shape());
    }
    let root_key = match (&head.wrapping, root) {
        (Wrapping::File {}, RootKey::InState | RootKey::File(_)) => {
            let file = key_file(state, root).expect("it is of a file");
            read_key(&file)?.ok_or(StateError::RootKeyMissing(file))?
        }
        (
            Wrapping::Passphrase {
                memory_kib,
                passes,
                lanes,
                salt,
            },
            RootKey::Passphrase { from, .. },
        ) => {
            let cost = Argon2Cost {
                memory_kib: *memory_kib,
                passes: *passes,
                lanes: *lanes,
            };
            // What stands in the file is not yet known to be ours.
            if !cost.is_sensible() {
                return Err(shape());
            }
            stretch(&from.read()?, salt, cost)?
        }
        (Wrapping::Token { wrapped }, RootKey::Token(key)) => {
            let unwrapped = Token::open(key)?.unwrap(wrapped)?;
            let unwrapped = unwrapped.ok_or_else(|| RootKeyError::Wrong(path.to_owned()))?;
            Secret::from_slice(&unwrapped).ok_or_else(shape)?
        }
        (wrapping, root) => {
            return Err(RootKeyError::OtherKind {
                path: path.to_owned(),
                found: wrapping.kind(),
                configured: configured(root),
            });
        }
    };
    root_key
        .open(PURPOSE, &aad(&head), &wrapped.sealed)
        .and_then(|key| Secret::from_slice(&key))
        .ok_or_else(|| RootKeyError::Wrong(path.to_owned()))
}

fn wrap(state: &StateFolder, root: &RootKey, key: &Secret) -> Result<Vec<u8>, RootKeyError> {
    let (wrapping, root_key) = match root {
        RootKey::InState | RootKey::File(_) => {
            let file = key_file(state, root).expect("it is of a file");
            let root_key = match read_key(&file)? {
                Some(root_key) => root_key,
                None => make_key(&file)?,
            };
            (Wrapping::File {}, root_key)
        }
        RootKey::Passphrase { from, cost } => {
            let mut salt = [0; 16];
            fill_random(&mut salt)?;
            let root_key = stretch(&from.read()?, &salt, *cost)?;
            let wrapping = Wrapping::Passphrase {
                memory_kib: cost.memory_kib,
                passes: cost.passes,
                lanes: cost.lanes,
                salt,
            };
            (wrapping, root_key)
        }
        RootKey::Token(token_key) => {
            let root_key = Secret::random()?;
            let wrapped = Token::open(token_key)?.wrap(root_key.expose())?;
            (Wrapping::Token { wrapped }, root_key)
        }
    };
    let head = Head {
        format: FORMAT,
        wrapping,
    };
    let sealed = root_key.seal(PURPOSE, &aad(&head), key.expose())?;
    let mut text = serde_json::to_vec(&Wrapped { head, sealed }).expect("it is texts and numbers");
    text.push(b'\n');
    Ok(text)
}

fn aad(head: &Head) -> Vec<u8> {
    serde_json::to_vec(head).expect("it is texts and numbers")
}

fn stretch(passphrase: &[u8], salt: &[u8], cost: Argon2Cost) -> Result<Secret, RootKeyError> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(RootKeyError::Argon2)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, key.as_mut())
        .map_err(RootKeyError::Argon2)?;
    Ok(Secret::from_slice(key.as_ref()).expect("32 bytes are a key"))
}

/// The file of the root key, where it is of one.
fn key_file(state: &StateFolder, root: &RootKey) -> Option<PathBuf> {
    match root {
        RootKey::InState => Some(state.file("root.key")),
        RootKey::File(path) => Some(path.clone()),
        RootKey::Passphrase { .. } | RootKey::Token(_) => None,
    }
}

fn read_key(path: &Path) -> Result<Option<Secret>, StateError> {
    match read_private(path) {
        Ok(text) => {
            let digits = text.strip_suffix(b"\n").unwrap_or(&text);
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(digits, bytes.as_mut())
                .ok()
                .and_then(|()| Secret::from_slice(bytes.as_ref()))
                .map(Some)
                .ok_or_else(|| StateError::RootKeyShape(path.to_owned()))
        }
        Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_key(path: &Path) -> Result<Secret, RootKeyError> {
    let key = Secret::random()?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in key.expose() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("below 16"));
        }
    }
    text.push('\n');
    write_file(path, text.as_bytes(), 0o600)?;
    Ok(key)
}

/// The wrapped file, as it is; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, RootKeyError> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() > MAX_BYTES => Err(RootKeyError::Shape(path.to_owned())),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RootKeyError::State(StateError::Io {
            path: path.to_owned(),
            source,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretSource;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    const CHEAP: Argon2Cost = Argon2Cost {
        memory_kib: 8 << 10,
        passes: 1,
        lanes: 1,
    };

    struct House(tempfile::TempDir);

    impl House {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn state(&self) -> StateFolder {
            StateFolder::open(&self.0.path().join("state")).unwrap()
        }

        fn passphrase(&self, name: &str, text: &str) -> RootKey {
            let path = self.0.path().join(name);
            write_file(&path, text.as_bytes(), 0o600).unwrap();
            RootKey::Passphrase {
                from: SecretSource::File(path),
                cost: CHEAP,
            }
        }

        fn file(&self, name: &str) -> RootKey {
            RootKey::File(self.0.path().join(name))
        }

        /// Every file with its content.
        fn content(&self) -> Vec<(PathBuf, Vec<u8>)> {
            let mut all = Vec::new();
            for folder in [self.0.path().to_owned(), self.0.path().join("state")] {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        all.push((path.clone(), fs::read(&path).unwrap()));
                    }
                }
            }
            all.sort();
            all
        }
    }

    #[test]
    fn the_root_key_is_made_once_private_and_never_replaced() {
        let house = House::new();
        let state = house.state();
        let made = open(&state, &RootKey::InState).unwrap();
        let path = state.file("root.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = open(&state, &RootKey::InState).unwrap();
        assert_eq!(again.expose(), made.expose());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            open(&state, &RootKey::InState),
            Err(RootKeyError::State(StateError::RootKeyMode {
                mode: 0o640,
                ..
            }))
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            open(&state, &RootKey::InState),
            Err(RootKeyError::State(StateError::RootKeyMissing(_)))
        ));
        assert!(!path.exists());
    }

    #[test]
    fn a_root_key_of_another_shape_is_refused() {
        for text in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(200)] {
            let house = House::new();
            let state = house.state();
            write_file(&state.file("root.key"), text.as_bytes(), 0o600).unwrap();
            assert!(
                matches!(
                    open(&state, &RootKey::InState),
                    Err(RootKeyError::State(StateError::RootKeyShape(_)))
                ),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_wrong_root_key_of_each_kind_is_refused_and_changes_no_byte() {
        let house = House::new();
        let state = house.state();
        let (right, wrong) = (
            house.passphrase("p", "correct horse\n"),
            house.passphrase("q", "x"),
        );
        open(&state, &right).unwrap();
        let before = house.content();
        assert!(matches!(open(&state, &wrong), Err(RootKeyError::Wrong(_))));
        assert!(matches!(
            open(&state, &RootKey::InState),
            Err(RootKeyError::OtherKind { .. })
        ));
        assert_eq!(house.content(), before);

        let house = House::new();
        let state = house.state();
        open(&state, &house.file("a")).unwrap();
        open(&House::new().state(), &house.file("b")).unwrap();
        let before = house.content();
        assert!(matches!(
            open(&state, &house.file("b")),
            Err(RootKeyError::Wrong(_))
        ));
        assert_eq!(house.content(), before);
    }

    #[test]
    fn any_change_of_the_wrapped_file_is_refused() {
        let house = House::new();
        let state = house.state();
        let right = house.passphrase("p", "correct horse");
        open(&state, &right).unwrap();
        let path = state.file("root.wrapped");
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"memory_kib\":8192", "\"memory_kib\":8193"),
            ("\"memory_kib\":8192", "\"memory_kib\":4294967295"),
            ("\"passes\":1", "\"passes\":2"),
            ("\"format\":1", "\"format\":2"),
            ("passphrase", "file"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            fs::write(&path, changed).unwrap();
            assert!(open(&state, &right).is_err(), "{from} {to}");
        }
        fs::write(&path, &text).unwrap();
        assert!(open(&state, &right).is_ok());
    }

    #[test]
    fn rewrapping_changes_the_root_key_and_not_the_stores() {
        let house = House::new();
        let state = house.state();
        let (one, two) = (RootKey::InState, house.passphrase("p", "two"));
        let three = house.file("three.key");
        let key = open(&state, &one).unwrap();
        assert!(matches!(
            rewrap(&state, &one, &one),
            Err(RootKeyError::SameFile(_))
        ));
        rewrap(&state, &one, &two).unwrap();
        assert!(open(&state, &one).is_err());
        rewrap(&state, &two, &house.passphrase("p2", "other words")).unwrap();
        assert!(matches!(open(&state, &two), Err(RootKeyError::Wrong(_))));
        rewrap(&state, &house.passphrase("p2", "other words"), &three).unwrap();
        assert_eq!(open(&state, &three).unwrap().expose(), key.expose());
        assert!(matches!(open(&state, &one), Err(RootKeyError::Wrong(_))));
    }

    #[test]
    fn a_rewrap_that_a_crash_interrupts_leaves_the_old_root_key() {
        let house = House::new();
        let state = house.state();
        open(&state, &RootKey::InState).unwrap();
        // As far as it got: the new key's file, and the new wrapped file under its first name.
        make_key(&house.0.path().join("new.key")).unwrap();
        fs::write(state.file("root.wrapped.new"), b"{\"format\":1,\"wrap").unwrap();
        open(&state, &RootKey::InState).unwrap();
        rewrap(&state, &RootKey::InState, &house.file("new.key")).unwrap();
        open(&state, &house.file("new.key")).unwrap();
    }

    #[test]
    fn a_passphrase_comes_through_a_descriptor() {
        let house = House::new();
        let path = house.0.path().join("p");
        fs::write(&path, "words\n").unwrap();
        let file = fs::File::open(&path).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file).unsigned_abs();
        let read = SecretSource::Descriptor(number).read().unwrap();
        assert_eq!(read.as_slice(), b"words");
        fs::write(&path, "\n").unwrap();
        assert!(SecretSource::Descriptor(number).read().is_err());
    }
}
