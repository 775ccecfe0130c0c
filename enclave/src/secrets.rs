//! Secrets: sealed messages that the parent hands in and only this enclave opens, for the job: as files in memory, as
//! variables, or through the local API; never on a command line.
//!
//! A secret must never be written under a name that its own encryption context does not have: otherwise the parent
//! could swap one secret for another that was sealed under the same key.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anchorhold_envelope::{EncryptionContext, Header, Limits, Parse, open_whole};
use anchorhold_manifest::Delivery;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::keys::{KeyError, KeyService, Keys};
use crate::nsm::Nsm;
use crate::stream::Parent;
use crate::window::{Window, WindowError};

/// Largest sealed secret.
const MAX_SEALED_BYTES: usize = 1024 * 1024;
/// In the encryption context of every secret, with the value `secret`.
const KIND: &str = "anchorhold:kind";
/// In the encryption context of every secret: its name.
const NAME: &str = "anchorhold:secret";

/// In the encryption context of a secret that is to be replaced by newer ones only: its number.
const VERSION: &str = "anchorhold:secret-version";

/// Why a secret is not there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The parent has not got it.
    #[error(
        "the secret {name} was not handed in: give the parent its sealed file when it starts the enclave"
    )]
    NotHandedIn {
        /// Name in the manifest.
        name: String,
    },
    /// The parent could not be asked.
    #[error("the secret {name} could not be fetched: {source}")]
    Window {
        /// Name in the manifest.
        name: String,
        /// Why.
        source: WindowError,
    },
    /// What was handed in is sealed as something else.
    #[error(
        "what was handed in for the secret {name} was not sealed as it: seal it with the context {KIND}=secret {NAME}={name}"
    )]
    Context {
        /// Name in the manifest.
        name: String,
    },
    /// Its data key is not to be had.
    #[error("the secret {name} cannot be opened: {source}")]
    Key {
        /// Name in the manifest.
        name: String,
        /// Why.
        source: KeyError,
    },
    /// It is not what was sealed.
    #[error("the secret {name} cannot be opened: {source}")]
    Message {
        /// Name in the manifest.
        name: String,
        /// Why.
        source: anchorhold_envelope::Error,
    },
    /// What was handed in is older than what is open.
    #[error(
        "what was handed in for the secret {name} is older than the one that is open: its context must have {VERSION} above {newest}"
    )]
    Older {
        /// Name in the manifest.
        name: String,
        /// The version that is open.
        newest: u64,
    },
    /// It was not opened yet.
    #[error(
        "the secret {name} is not open: the parent has not handed it in, or it cannot be opened. The console says which"
    )]
    NotOpen {
        /// Name in the manifest.
        name: String,
    },
    /// It cannot be written for the job.
    #[error("the secret {name} cannot be written for the job: {source}")]
    Write {
        /// Name in the manifest.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// One secret of the manifest.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The key it is sealed under.
    pub key: String,
    /// How the job gets it.
    pub delivery: Delivery,
    /// How often the parent is asked whether it has a newer one.
    pub refresh: Option<Duration>,
}

/// A secret's value, and how many it has had.
pub struct Value {
    /// The secret itself.
    pub value: Zeroizing<Vec<u8>>,
    /// 1 for the first; one more for each that was handed in later.
    pub version: u64,
}

/// A secret that is open.
struct Held {
    value: Zeroizing<Vec<u8>>,
    version: u64,
    /// What it came from, to know the same again without opening it.
    sealed: Vec<u8>,
    /// The version in its own encryption context, where it has one.
    stated: Option<u64>,
}

/// The secrets that the manifest names.
pub struct Secrets {
    wanted: BTreeMap<String, Wanted>,
    folder: PathBuf,
    owner: Option<(u32, u32)>,
    /// One at a time fetches.
    fetching: tokio::sync::Mutex<()>,
    held: Mutex<BTreeMap<String, Held>>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
}

impl Secrets {
    /// `owner` is the job's uid and gid, where it has others than this process.
    pub fn new(
        wanted: BTreeMap<String, Wanted>,
        folder: PathBuf,
        owner: Option<(u32, u32)>,
    ) -> Secrets {
        Secrets {
            wanted,
            folder,
            owner,
            fetching: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once all of them are open. Those that are, are not asked for again.
    ///
    /// # Errors
    /// The first that cannot be had; another attempt may succeed.
    pub async fn ensure<P: Parent, N: Nsm, S: KeyService>(
        &self,
        window: &Window<P>,
        keys: &Keys<N, S>,
    ) -> Result<(), SecretError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let _fetching = self.fetching.lock().await;
        for (name, wanted) in &self.wanted {
            if !self.held().contains_key(name) {
                self.fetch(name, wanted, window, keys).await?;
                crate::log!("the secret {name} is open");
            }
        }
        Ok(())
    }

    /// Asks the parent for newer ones, of those that are to be kept fresh, for ever.
    pub async fn keep_fresh<P: Parent, N: Nsm, S: KeyService>(
        &self,
        window: &Window<P>,
        keys: &Keys<N, S>,
    ) {
        let rounds = self.wanted.iter().filter_map(|(name, wanted)| {
            let pause = wanted.refresh?;
            Some(async move {
                let mut last = String::new();
                loop {
                    tokio::time::sleep(pause).await;
                    let failure = match self.refresh(name, window, keys).await {
                        Ok(()) => String::new(),
                        Err(error) => error.to_string(),
                    };
                    // Said once, not each time.
                    if failure != last && !failure.is_empty() {
                        crate::log!("{failure}. What is open stays");
                    }
                    last = failure;
                }
            })
        });
        futures_util::future::join_all(rounds).await;
    }

    /// Asks the parent whether it has a newer one, and opens that.
    ///
    /// # Errors
    /// It cannot be had; what is open stays.
    pub async fn refresh<P: Parent, N: Nsm, S: KeyService>(
        &self,
        name: &str,
        window: &Window<P>,
        keys: &Keys<N, S>,
    ) -> Result<(), SecretError> {
        let Some(wanted) = self.wanted.get(name) else {
            return Ok(());
        };
        let _fetching = self.fetching.lock().await;
        if self.fetch(name, wanted, window, keys).await? {
            crate::log!("the secret {name} was replaced by a newer one");
        }
        Ok(())
    }

    /// Fetches and opens one; whether it was another than the one before.
    async fn fetch<P: Parent, N: Nsm, S: KeyService>(
        &self,
        name: &str,
        wanted: &Wanted,
        window: &Window<P>,
        keys: &Keys<N, S>,
    ) -> Result<bool, SecretError> {
        let sealed = self.sealed(name, window).await?;
        let before = {
            let held = self.held();
            let held = held.get(name);
            if held.is_some_and(|held| *held.sealed == **sealed) {
                return Ok(false);
            }
            held.map(|held| (held.version, held.stated))
        };
        let (value, stated) = self.open(name, &wanted.key, &sealed, keys).await?;
        if let Some((_, Some(newest))) = before
            && stated.is_none_or(|stated| stated <= newest)
        {
            return Err(SecretError::Older {
                name: name.to_owned(),
                newest,
            });
        }
        let failed = |source| SecretError::Write {
            name: name.to_owned(),
            source,
        };
        match &wanted.delivery {
            Delivery::File => self.write(name, &value).map_err(failed)?,
            Delivery::Environment(_) if value.contains(&0) => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it holds a zero byte, which no variable can",
                )));
            }
            Delivery::Environment(_) | Delivery::Api => {}
        }
        let held = Held {
            value,
            version: before.map_or(0, |(version, _)| version) + 1,
            sealed: sealed.to_vec(),
            stated,
        };
        self.held().insert(name.to_owned(), held);
        self.changes.send_modify(|changes| *changes += 1);
        Ok(true)
    }

    /// A secret of a later version than `after`; the present one if none comes within `patience`.
    ///
    /// # Errors
    /// [`SecretError::NotOpen`] if there is none at all.
    pub async fn newer(
        &self,
        name: &str,
        after: u64,
        patience: Duration,
    ) -> Result<Value, SecretError> {
        let mut changes = self.changes.subscribe();
        let newer = changes.wait_for(|_| {
            self.held()
                .get(name)
                .is_some_and(|held| held.version > after)
        });
        let _ = tokio::time::timeout(patience, newer).await;
        match self.held().get(name) {
            Some(held) => Ok(Value {
                value: held.value.clone(),
                version: held.version,
            }),
            None => Err(SecretError::NotOpen {
                name: name.to_owned(),
            }),
        }
    }

    /// Variables of the job's environment, as `NAME=value` with the zero byte that ends them.
    pub fn variables(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let held = self.held();
        let variable = |(name, wanted): (&String, &Wanted)| {
            let Delivery::Environment(variable) = &wanted.delivery else {
                return None;
            };
            let value = &held.get(name)?.value;
            let mut text = Zeroizing::new(Vec::with_capacity(variable.len() + value.len() + 2));
            text.extend_from_slice(variable.as_bytes());
            text.push(b'=');
            text.extend_from_slice(value);
            text.push(0);
            Some(text)
        };
        self.wanted.iter().filter_map(variable).collect()
    }

    async fn sealed<P: Parent>(
        &self,
        name: &str,
        window: &Window<P>,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        window
            .fetch(&format!("/secrets/{name}"), MAX_SEALED_BYTES)
            .await
            .map_err(|source| match source {
                WindowError::NotFound(_) => SecretError::NotHandedIn {
                    name: name.to_owned(),
                },
                source => SecretError::Window {
                    name: name.to_owned(),
                    source,
                },
            })
    }

    /// The secret, and the version that it says it has.
    async fn open<N: Nsm, S: KeyService>(
        &self,
        name: &str,
        key_id: &str,
        sealed: &[u8],
        keys: &Keys<N, S>,
    ) -> Result<(Zeroizing<Vec<u8>>, Option<u64>), SecretError> {
        let broken = |source| SecretError::Message {
            name: name.to_owned(),
            source,
        };
        let Parse::Complete { header, .. } =
            Header::parse(sealed, &Limits::default()).map_err(broken)?
        else {
            return Err(broken(anchorhold_envelope::Error::Truncated {
                missing: "header's end",
            }));
        };
        let context = header.context();
        let stated = context.get(VERSION).map(|version| version.parse::<u64>());
        let (true, Ok(stated)) = (is_for(context, name), stated.transpose()) else {
            return Err(SecretError::Context {
                name: name.to_owned(),
            });
        };
        let key = keys
            .open(key_id, header.data_keys(), context)
            .await
            .map_err(|source| SecretError::Key {
                name: name.to_owned(),
                source,
            })?;
        let (_, value) = open_whole(sealed, &Limits::default(), |_| {
            Ok::<_, anchorhold_envelope::Error>(key)
        })
        .map_err(broken)?;
        Ok((value, stated))
    }

    /// Under another name first, so that the file is whole from the moment it has its own.
    fn write(&self, name: &str, secret: &[u8]) -> io::Result<()> {
        let unfinished = self.folder.join(format!(".{name}"));
        let _ = fs::remove_file(&unfinished);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(0o400))?;
        file.write_all(secret)?;
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        fs::rename(unfinished, self.folder.join(name))
    }
}

fn is_for(context: &EncryptionContext, name: &str) -> bool {
    context.get(KIND).is_some_and(|kind| kind == "secret")
        && context.get(NAME).is_some_and(|own| own == name)
}
