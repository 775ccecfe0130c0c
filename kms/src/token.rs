//! PKCS#11 tokens: key material that a token holds and never gives away.
//!
//! A module is loaded only where the configuration names it. It runs inside this process: whoever writes it
//! is trusted as the service itself is. PINs are read once and wiped.

use crate::config::TokenKey;
use crate::sealing::{NoRandomness, fill_random};
use crate::state::StateError;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use thiserror::Error;
use zeroize::Zeroizing;

const TAG_BITS: u64 = 128;

/// Why a token is of no use.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The module cannot be loaded.
    #[error("the PKCS#11 module {module} cannot be used: {source}")]
    Module {
        /// The shared library.
        module: PathBuf,
        /// Why.
        source: Error,
    },
    /// No token of that label.
    #[error("the PKCS#11 module {module} has no token {token:?}; is it plugged in?")]
    NoToken {
        /// The shared library.
        module: PathBuf,
        /// The label.
        token: String,
    },
    /// No key of that label.
    #[error("the token {token:?} has no AES key and no RSA key pair {key:?}")]
    NoKey {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// Several keys of that label.
    #[error("the token {token:?} has several keys {key:?}; give them different labels")]
    SeveralKeys {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// The PIN cannot be read.
    #[error(transparent)]
    Pin(#[from] StateError),
    /// The PIN is not text.
    #[error("the PIN of the token {0:?} is not UTF-8")]
    PinText(String),
    /// The token refused.
    #[error("the token {token:?} refused: {source}")]
    Refused {
        /// The token's label.
        token: String,
        /// Why.
        source: Error,
    },
    /// No randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// How a token wrapped a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "mechanism", rename_all = "kebab-case")]
pub(crate) enum Wrapping {
    /// AES-GCM under an AES key; the tag is at the end.
    AesGcm {
        #[serde(with = "hex::serde")]
        iv: [u8; 12],
        #[serde(with = "hex::serde")]
        wrapped: Vec<u8>,
    },
    /// RSAES-OAEP with SHA-256.
    RsaOaepSha256 {
        #[serde(with = "hex::serde")]
        wrapped: Vec<u8>,
    },
    /// RSAES-OAEP with SHA-1, for tokens that have no other.
    RsaOaepSha1 {
        #[serde(with = "hex::serde")]
        wrapped: Vec<u8>,
    },
}

/// A session with a token, logged in.
pub(crate) struct Token {
    session: Session,
    label: String,
    key: String,
}

/// Modules that are loaded. A module is initialised once per process, and stays.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Pkcs11>>> = LazyLock::new(Mutex::default);

fn module(path: &Path) -> Result<Pkcs11, TokenError> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let failed = |source| TokenError::Module {
        module: path.to_owned(),
        source,
    };
    let module = Pkcs11::new(path).map_err(failed)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(source) => return Err(failed(source)),
    }
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

impl Token {
    /// Finds the token and logs in.
    pub(crate) fn open(key: &TokenKey) -> Result<Self, TokenError> {
        let context = module(&key.module)?;
        let failed = |source| TokenError::Module {
            module: key.module.clone(),
            source,
        };
        let mut found = None;
        for slot in context.get_slots_with_token().map_err(failed)? {
            let info = context.get_token_info(slot).map_err(failed)?;
            if info.label().trim_end() == key.token {
                found = Some(slot);
            }
        }
        let slot = found.ok_or_else(|| TokenError::NoToken {
            module: key.module.clone(),
            token: key.token.clone(),
        })?;
        let refused = |source| TokenError::Refused {
            token: key.token.clone(),
            source,
        };
        let pin = key.pin.read()?;
        let pin = std::str::from_utf8(&pin)
            .map_err(|_| TokenError::PinText(key.token.clone()))?
            .to_owned();
        // It is wiped when dropped.
        let pin = AuthPin::from(pin);
        let session = context.open_ro_session(slot).map_err(refused)?;
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(source) => return Err(refused(source)),
        }
        Ok(Self {
            session,
            label: key.token.clone(),
            key: key.key.clone(),
        })
    }

    /// Encrypts a key inside the token.
    pub(crate) fn wrap(&self, key: &[u8; 32]) -> Result<Wrapping, TokenError> {
        if let Some(aes) = self.find(ObjectClass::SECRET_KEY, KeyType::AES)? {
            let mut iv = [0; 12];
            fill_random(&mut iv)?;
            let mut used = iv;
            let params = GcmParams::new(&mut used, &[], TAG_BITS.into()).map_err(self.refused())?;
            let wrapped = self
                .session
                .encrypt(&Mechanism::AesGcm(params), aes, key)
                .map_err(self.refused())?;
            return Ok(Wrapping::AesGcm { iv, wrapped });
        }
        let Some(public) = self.find(ObjectClass::PUBLIC_KEY, KeyType::RSA)? else {
            return Err(TokenError::NoKey {
                token: self.label.clone(),
                key: self.key.clone(),
            });
        };
        match self
            .session
            .encrypt(&oaep(MechanismType::SHA256), public, key)
        {
            Ok(wrapped) => Ok(Wrapping::RsaOaepSha256 { wrapped }),
            // SoftHSM, for one, has SHA-1 only; in OAEP nothing rests on its collision resistance.
            Err(_) => self
                .session
                .encrypt(&oaep(MechanismType::SHA1), public, key)
                .map(|wrapped| Wrapping::RsaOaepSha1 { wrapped })
                .map_err(self.refused()),
        }
    }

    /// Decrypts it inside the token; `None` where the token's key is another.
    pub(crate) fn unwrap(
        &self,
        wrapping: &Wrapping,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TokenError> {
        let no_key = || TokenError::NoKey {
            token: self.label.clone(),
            key: self.key.clone(),
        };
        let outcome = match wrapping {
            Wrapping::AesGcm { iv, wrapped } => {
                let key = self
                    .find(ObjectClass::SECRET_KEY, KeyType::AES)?
                    .ok_or_else(no_key)?;
                let mut iv = *iv;
                let params =
                    GcmParams::new(&mut iv, &[], TAG_BITS.into()).map_err(self.refused())?;
                self.session
                    .decrypt(&Mechanism::AesGcm(params), key, wrapped)
            }
            Wrapping::RsaOaepSha256 { wrapped } | Wrapping::RsaOaepSha1 { wrapped } => {
                let hash = match wrapping {
                    Wrapping::RsaOaepSha1 { .. } => MechanismType::SHA1,
                    _ => MechanismType::SHA256,
                };
                let key = self
                    .find(ObjectClass::PRIVATE_KEY, KeyType::RSA)?
                    .ok_or_else(no_key)?;
                self.session.decrypt(&oaep(hash), key, wrapped)
            }
        };
        match outcome {
            Ok(key) => Ok(Some(Zeroizing::new(key))),
            // Tokens differ in how they say that a ciphertext is not theirs.
            Err(Error::Pkcs11(
                RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::GeneralError
                | RvError::FunctionFailed,
                _,
            )) => Ok(None),
            Err(source) => Err(self.refused()(source)),
        }
    }

    fn find(&self, class: ObjectClass, kind: KeyType) -> Result<Option<ObjectHandle>, TokenError> {
        let found = self
            .session
            .find_objects(&[
                Attribute::Class(class),
                Attribute::KeyType(kind),
                Attribute::Label(self.key.as_bytes().to_vec()),
            ])
            .map_err(self.refused())?;
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(TokenError::SeveralKeys {
                token: self.label.clone(),
                key: self.key.clone(),
            }),
        }
    }

    fn refused(&self) -> impl Fn(Error) -> TokenError + '_ {
        |source| TokenError::Refused {
            token: self.label.clone(),
            source,
        }
    }
}

fn oaep(hash: MechanismType) -> Mechanism<'static> {
    let mgf = if hash == MechanismType::SHA1 {
        PkcsMgfType::MGF1_SHA1
    } else {
        PkcsMgfType::MGF1_SHA256
    };
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()))
}
