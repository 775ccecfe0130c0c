//! Material that a token holds, and the way to that token: opened when it is needed, and again when it was gone.
//!
//! A password that was refused is not tried twice: tokens lock their user out. What waits for a token is
//! bounded, so that one that hangs takes no more than its share of the service's threads.

use crate::ciphertext::MaterialId;
use crate::config::Cluster;
use crate::refusal::Refusal;
use crate::token::{IV_LEN, TokenError, Vault, VaultError};
use anchorhold_kms_wire::shapes::ConnectionErrorCode;
use http::StatusCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Between two tries to open a token.
const PAUSE: Duration = Duration::from_secs(1);
/// Requests that may be in one token, or wait for it.
const MOST_AT_ONCE: usize = 64;

/// Why a token did not compute.
#[derive(Debug)]
pub(crate) enum TokenTrouble {
    /// It cannot be opened, or does not hold the key, or will not.
    Unusable(String),
    /// Too many wait for it.
    Busy,
}

impl TokenTrouble {
    /// For whoever wanted to use this key.
    pub(crate) fn refusal(&self, key: &str) -> Refusal {
        match self {
            Self::Unusable(why) => Refusal::new(
                "KMSInvalidStateException",
                format!("{key} cannot be used: the custom key store that holds it did not answer."),
            )
            .because(why.clone()),
            Self::Busy => Refusal::new(
                "KeyUnavailableException",
                "The request was rejected because the specified KMS key was not available. You can retry the request.",
            )
            .because("too many requests wait for the key store's token")
            .with_status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// One of a token's keys.
pub(crate) struct InToken {
    link: Arc<Link>,
    id: MaterialId,
}

impl InToken {
    pub(crate) fn new(link: Arc<Link>, id: MaterialId) -> Self {
        Self { link, id }
    }

    pub(crate) fn encrypt(
        &self,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<([u8; IV_LEN], Vec<u8>), TokenTrouble> {
        self.link
            .with(|vault| vault.encrypt(&self.id, aad, plaintext))
    }

    /// `None` where anything at all differs.
    pub(crate) fn decrypt(
        &self,
        iv: &[u8; IV_LEN],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TokenTrouble> {
        self.link
            .with(|vault| vault.decrypt(&self.id, iv, aad, sealed))
    }
}

/// The way to the token of one key store.
pub(crate) struct Link {
    cluster: Cluster,
    password: Zeroizing<String>,
    at_once: AtomicUsize,
    inner: Mutex<Inner>,
    /// Held while a key is made and while unfinished ones are looked for, so that neither takes the other's
    /// for its own.
    making: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    vault: Option<Arc<Vault>>,
    failed: Option<Failed>,
}

struct Failed {
    at: Instant,
    code: ConnectionErrorCode,
    why: String,
}

impl Link {
    pub(crate) fn new(cluster: Cluster, password: Zeroizing<String>) -> Self {
        Self {
            cluster,
            password,
            at_once: AtomicUsize::new(0),
            inner: Mutex::default(),
            making: Mutex::default(),
        }
    }

    /// Opens the token, unless it is open.
    pub(crate) fn open(&self) -> Result<(), ConnectionErrorCode> {
        let mut inner = self.inner();
        self.opened(&mut inner).map(|_| ()).map_err(|()| {
            let failed = inner.failed.as_ref();
            failed.map_or(ConnectionErrorCode::InternalError, |f| f.code.clone())
        })
    }

    /// Why it could not be opened when it was last tried.
    pub(crate) fn failure(&self) -> Option<ConnectionErrorCode> {
        // Whoever is opening it holds the lock; then nothing is known yet.
        let inner = self.inner.try_lock().ok()?;
        inner.failed.as_ref().map(|failed| failed.code.clone())
    }

    /// Nobody else makes keys, or looks for unfinished ones, while this is held.
    pub(crate) fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts with the token; where it was gone, once more after it was opened anew.
    pub(crate) fn with<T>(
        &self,
        mut act: impl FnMut(&Vault) -> Result<T, VaultError>,
    ) -> Result<T, TokenTrouble> {
        let _place = Place::take(&self.at_once)?;
        let mut last = String::new();
        for _ in 0..2 {
            let vault = {
                let mut inner = self.inner();
                self.opened(&mut inner).map_err(|()| {
                    let why = inner.failed.as_ref().map(|failed| failed.why.clone());
                    TokenTrouble::Unusable(why.unwrap_or_default())
                })?
            };
            match act(&vault) {
                Ok(done) => return Ok(done),
                Err(error @ VaultError::Gone(_)) => {
                    last = error.to_string();
                    let mut inner = self.inner();
                    if inner.vault.as_ref().is_some_and(|v| Arc::ptr_eq(v, &vault)) {
                        inner.vault = None;
                    }
                }
                Err(error) => return Err(TokenTrouble::Unusable(error.to_string())),
            }
        }
        Err(TokenTrouble::Unusable(last))
    }

    fn opened(&self, inner: &mut Inner) -> Result<Arc<Vault>, ()> {
        if let Some(vault) = &inner.vault {
            return Ok(Arc::clone(vault));
        }
        if let Some(failed) = &inner.failed
            && (is_final(&failed.code) || failed.at.elapsed() < PAUSE)
        {
            return Err(());
        }
        match Vault::open(&self.cluster.module, &self.cluster.token, &self.password) {
            Ok(vault) => {
                inner.failed = None;
                Ok(Arc::clone(inner.vault.insert(Arc::new(vault))))
            }
            Err(error) => {
                tracing::warn!(cluster = self.cluster.id, %error, "a key store's token cannot be opened");
                inner.failed = Some(Failed {
                    at: Instant::now(),
                    code: code(&error),
                    why: error.to_string(),
                });
                Err(())
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another try would come to nothing, or to the user's being locked out.
pub(crate) fn is_final(code: &ConnectionErrorCode) -> bool {
    matches!(
        code,
        ConnectionErrorCode::InvalidCredentials
            | ConnectionErrorCode::UserLockedOut
            | ConnectionErrorCode::UserNotFound
    )
}

fn code(error: &TokenError) -> ConnectionErrorCode {
    use cryptoki::error::{Error, RvError};
    match error {
        TokenError::Module { .. } | TokenError::NoToken { .. } => {
            ConnectionErrorCode::ClusterNotFound
        }
        TokenError::Refused {
            source: Error::Pkcs11(code, _),
            ..
        } => match code {
            RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired => ConnectionErrorCode::InvalidCredentials,
            RvError::PinLocked => ConnectionErrorCode::UserLockedOut,
            RvError::UserPinNotInitialized => ConnectionErrorCode::UserNotFound,
            RvError::UserAnotherAlreadyLoggedIn | RvError::UserTooManyTypes => {
                ConnectionErrorCode::UserLoggedIn
            }
            RvError::TokenNotPresent | RvError::DeviceRemoved | RvError::SlotIdInvalid => {
                ConnectionErrorCode::ClusterNotFound
            }
            _ => ConnectionErrorCode::InternalError,
        },
        _ => ConnectionErrorCode::InternalError,
    }
}

/// One of the places in a token.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize) -> Result<Self, TokenTrouble> {
        let place = Self(taken);
        if taken.fetch_add(1, Ordering::AcqRel) < MOST_AT_ONCE {
            Ok(place)
        } else {
            Err(TokenTrouble::Busy)
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn link() -> Link {
        let cluster = Cluster {
            id: "cluster-anchorhold2a".to_owned(),
            account: "111122223333".to_owned(),
            module: PathBuf::from("/nowhere/module.so"),
            token: "token".to_owned(),
            trust_anchor: None,
        };
        Link::new(cluster, Zeroizing::new("password".to_owned()))
    }

    #[test]
    fn what_waits_for_a_token_is_bounded() {
        let link = link();
        let places: Vec<_> = (0..MOST_AT_ONCE)
            .map(|_| Place::take(&link.at_once).unwrap())
            .collect();
        let Err(trouble) = link.with(|vault| vault.random(1)) else {
            panic!("there was room for one more");
        };
        assert_eq!(trouble.refusal("key").kind, "KeyUnavailableException");
        drop(places);
        // There is room again, though no token.
        let Err(trouble) = link.with(|vault| vault.random(1)) else {
            panic!("there is no module");
        };
        assert_eq!(trouble.refusal("key").kind, "KMSInvalidStateException");
        assert_eq!(link.failure(), Some(ConnectionErrorCode::ClusterNotFound));
    }

    #[test]
    fn a_refusal_of_the_password_is_final_and_an_absent_token_is_not() {
        assert!(is_final(&ConnectionErrorCode::InvalidCredentials));
        assert!(is_final(&ConnectionErrorCode::UserLockedOut));
        assert!(!is_final(&ConnectionErrorCode::ClusterNotFound));
    }
}
