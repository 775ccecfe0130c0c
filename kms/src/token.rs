//! PKCS#11 tokens: key material that a token holds and never gives away.
//!
//! A module is loaded only where the configuration names it. It runs inside this process: whoever writes it
//! is trusted as the service itself is. PINs are wiped.

mod vault;

pub(crate) use vault::{IV_LEN, Vault, VaultError};

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
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
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
    // Before the access, so that it is closed first.
    session: Session,
    _access: Access,
    label: String,
    key: String,
}

/// Modules that are loaded. A module is loaded once per process, and stays.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Mutex<Module>>>>> =
    LazyLock::new(Mutex::default);

struct Module {
    context: Pkcs11,
    /// Each session's owner has one.
    users: Arc<()>,
}

/// A module in use: it is not initialised anew under whoever holds this.
struct Access {
    context: Pkcs11,
    _user: Arc<()>,
}

impl Module {
    fn load(path: &Path) -> Result<Self, Error> {
        let context = Pkcs11::new(path)?;
        initialize(&context)?;
        Ok(Self {
            context,
            users: Arc::default(),
        })
    }

    fn access(&self) -> Access {
        Access {
            context: self.context.clone(),
            _user: Arc::clone(&self.users),
        }
    }

    /// Some modules find out which tokens there are only when they are initialised. Where nobody has a session
    /// that this would end, that is done again; whether it was.
    fn look_anew(&self) -> Result<bool, Error> {
        if Arc::strong_count(&self.users) > 1 {
            return Ok(false);
        }
        self.context.clone().finalize()?;
        initialize(&self.context)?;
        Ok(true)
    }

    fn slot(&self, token: &str) -> Result<Option<Slot>, Error> {
        for slot in self.context.get_slots_with_token()? {
            // One that is just being pulled out is none.
            let Ok(info) = self.context.get_token_info(slot) else {
                continue;
            };
            if info.label().trim_end() == token {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The slot of the token with this label.
fn slot(path: &Path, token: &str) -> Result<(Access, Slot), TokenError> {
    let failed = |source| TokenError::Module {
        module: path.to_owned(),
        source,
    };
    let module = {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        match modules.get(path) {
            Some(module) => Arc::clone(module),
            None => {
                let module = Arc::new(Mutex::new(Module::load(path).map_err(failed)?));
                modules.insert(path.to_owned(), Arc::clone(&module));
                module
            }
        }
    };
    let module = module.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = module.slot(token).map_err(failed)?;
    if found.is_none() && module.look_anew().map_err(failed)? {
        found = module.slot(token).map_err(failed)?;
    }
    let slot = found.ok_or_else(|| TokenError::NoToken {
        module: path.to_owned(),
        token: token.to_owned(),
    })?;
    Ok((module.access(), slot))
}

impl Token {
    /// Finds the token and logs in.
    pub(crate) fn open(key: &TokenKey) -> Result<Self, TokenError> {
        let (access, slot) = slot(&key.module, &key.token)?;
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
        let session = access.context.open_ro_session(slot).map_err(refused)?;
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(source) => return Err(refused(source)),
        }
        Ok(Self {
            session,
            _access: access,
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
