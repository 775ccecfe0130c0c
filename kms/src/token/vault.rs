//! Keys that are made in a token and stay there: AES-256, used by AES-GCM.
//!
//! No function returns a byte of a key, and the token is told never to give one out: each new key is looked at
//! before it counts. A key is found by its id, which is its material's name in this service; the label is for
//! people.

use super::{Access, TAG_BITS, TokenError, slot};
use crate::ciphertext::MaterialId;
use crate::sealing::{NoRandomness, fill_random};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of an initialisation vector.
pub(crate) const IV_LEN: usize = 12;
const KEY_BYTES: u64 = 32;
/// Sessions that are kept for the next request.
const IDLE_SESSIONS: usize = 16;
/// Handles of keys that are remembered.
const HANDLES: usize = 4096;

/// Why a token did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum VaultError {
    /// It may be there again after another try: unplugged, logged out, a session lost.
    #[error("the token cannot be reached: {0}")]
    Gone(Error),
    /// The token is there, and the key is not in it.
    #[error("the token does not hold the key {0}")]
    NoKey(MaterialId),
    /// Not a key that stays where it is.
    #[error("the token made a key that it could give out; it was destroyed")]
    Extractable,
    /// No randomness for an initialisation vector.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// It will not.
    #[error("the token refused: {0}")]
    Refused(Error),
}

/// A token, logged in. Dropping it logs out.
pub(crate) struct Vault {
    slot: Slot,
    /// The login lasts as long as one session does.
    _login: Mutex<Session>,
    idle: Mutex<Vec<Session>>,
    handles: Mutex<HashMap<MaterialId, ObjectHandle>>,
    // Last, so that the sessions are closed first.
    access: Access,
}

impl Vault {
    /// Finds the token and logs in with exactly this PIN, even where somebody in this process had logged in
    /// before.
    pub(crate) fn open(module: &Path, token: &str, pin: &str) -> Result<Self, TokenError> {
        let (access, slot) = slot(module, token)?;
        let refused = |source| TokenError::Refused {
            token: token.to_owned(),
            source,
        };
        let session = access.context.open_rw_session(slot).map_err(refused)?;
        // It is wiped when dropped.
        let pin = AuthPin::from(pin.to_owned());
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) => {}
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                session.logout().map_err(refused)?;
                session.login(UserType::User, Some(&pin)).map_err(refused)?;
            }
            Err(source) => return Err(refused(source)),
        }
        Ok(Self {
            access,
            slot,
            _login: Mutex::new(session),
            idle: Mutex::default(),
            handles: Mutex::default(),
        })
    }

    /// Makes a key.
    pub(crate) fn make(&self, id: &MaterialId, label: &str) -> Result<(), VaultError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(KEY_BYTES.into()),
            Attribute::Id(id.0.to_vec()),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Derive(false),
        ];
        self.with(|session| {
            let key = session
                .generate_key(&Mechanism::AesKeyGen, &template)
                .map_err(failed)?;
            let stays = stays(session, key)?;
            if !stays {
                session.destroy_object(key).map_err(failed)?;
                return Err(VaultError::Extractable);
            }
            self.handles().insert(*id, key);
            Ok(())
        })
    }

    /// Whether the key is there.
    pub(crate) fn holds(&self, id: &MaterialId) -> Result<bool, VaultError> {
        self.with(|session| Ok(find(session, id)?.is_some()))
    }

    /// Destroys the key; that it is not there is no error.
    pub(crate) fn destroy(&self, id: &MaterialId) -> Result<(), VaultError> {
        self.handles().remove(id);
        self.with(|session| match find(session, id)? {
            None => Ok(()),
            Some(key) => session.destroy_object(key).map_err(failed),
        })
    }

    /// Encrypts under the key: initialisation vector, and ciphertext with its tag.
    pub(crate) fn encrypt(
        &self,
        id: &MaterialId,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<([u8; IV_LEN], Vec<u8>), VaultError> {
        let mut iv = [0; IV_LEN];
        fill_random(&mut iv)?;
        let sealed = self.using(id, |session, key| {
            // Some tokens put a vector of their own in its place; the one that is left is the one used.
            let params = GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(failed)?;
            session
                .encrypt(&Mechanism::AesGcm(params), key, plaintext)
                .map_err(failed)
        })?;
        Ok((iv, sealed))
    }

    /// Decrypts; `None` where anything at all differs.
    pub(crate) fn decrypt(
        &self,
        id: &MaterialId,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let outcome = self.using(id, |session, key| {
            let mut iv = *iv;
            let params = GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(failed)?;
            match session.decrypt(&Mechanism::AesGcm(params), key, sealed) {
                Ok(plaintext) => Ok(Some(Zeroizing::new(plaintext))),
                Err(Error::Pkcs11(
                    RvError::EncryptedDataInvalid
                    | RvError::EncryptedDataLenRange
                    | RvError::DataInvalid
                    | RvError::DataLenRange,
                    _,
                )) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        });
        match outcome {
            // Tokens differ in how they say that a tag is wrong. One that still encrypts under the key meant that.
            Err(VaultError::Gone(Error::Pkcs11(
                RvError::GeneralError | RvError::FunctionFailed,
                _,
            ))) if self.encrypt(id, b"", b"probe").is_ok() => Ok(None),
            outcome => outcome,
        }
    }

    /// Random bytes of the token's own.
    pub(crate) fn random(&self, length: usize) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.with(|session| session.generate_random_slice(&mut bytes).map_err(failed))?;
        Ok(bytes)
    }

    /// With the key's handle, which is looked up once.
    fn using<T>(
        &self,
        id: &MaterialId,
        mut act: impl FnMut(&Session, ObjectHandle) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        self.with(|session| {
            let known = self.handles().get(id).copied();
            if let Some(key) = known {
                match act(session, key) {
                    // Somebody else has destroyed it, or made it anew.
                    Err(VaultError::Refused(Error::Pkcs11(
                        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid,
                        _,
                    ))) => {}
                    outcome => return outcome,
                }
            }
            self.handles().remove(id);
            let key = find(session, id)?.ok_or(VaultError::NoKey(*id))?;
            let outcome = act(session, key)?;
            let mut handles = self.handles();
            if handles.len() >= HANDLES {
                handles.clear();
            }
            handles.insert(*id, key);
            Ok(outcome)
        })
    }

    /// With a session. One that brought an error is not used again.
    fn with<T>(
        &self,
        act: impl FnOnce(&Session) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let idle = self.idle().pop();
        let session = match idle {
            Some(session) => session,
            None => {
                let opened = self.access.context.open_rw_session(self.slot);
                opened.map_err(failed)?
            }
        };
        let outcome = act(&session)?;
        let mut idle = self.idle();
        if idle.len() < IDLE_SESSIONS {
            idle.push(session);
        }
        Ok(outcome)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<MaterialId, ObjectHandle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the token will never give the key out, and made it itself.
fn stays(session: &Session, key: ObjectHandle) -> Result<bool, VaultError> {
    let asked = [
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::NeverExtractable,
        AttributeType::Local,
    ];
    let found = session.get_attributes(key, &asked).map_err(failed)?;
    let has = |wanted: &Attribute| found.contains(wanted);
    Ok(has(&Attribute::Sensitive(true))
        && has(&Attribute::Extractable(false))
        && has(&Attribute::NeverExtractable(true))
        && has(&Attribute::Local(true)))
}

fn find(session: &Session, id: &MaterialId) -> Result<Option<ObjectHandle>, VaultError> {
    let found = session
        .find_objects(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Id(id.0.to_vec()),
        ])
        .map_err(failed)?;
    // An id is 256 random bits: two keys of one id are one and its copy, by another hand.
    Ok(found.first().copied())
}

fn failed(error: Error) -> VaultError {
    match error {
        Error::Pkcs11(
            RvError::CryptokiNotInitialized
            | RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::FunctionFailed
            | RvError::GeneralError
            | RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn,
            _,
        ) => VaultError::Gone(error),
        error => VaultError::Refused(error),
    }
}
