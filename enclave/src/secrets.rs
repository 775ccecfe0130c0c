//! Secrets: sealed messages that the parent hands in and only this enclave opens, as files for the job.
//!
//! A secret must never be written under a name that its own encryption context does not have: otherwise the parent
//! could swap one secret for another that was sealed under the same key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use anchorhold_envelope::{EncryptionContext, Header, Limits, Opener, Parse};
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
    /// It cannot be written for the job.
    #[error("the secret {name} cannot be written for the job: {source}")]
    Write {
        /// Name in the manifest.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The secrets that the manifest names.
pub struct Secrets {
    /// Key of each, by name.
    wanted: BTreeMap<String, String>,
    folder: PathBuf,
    owner: Option<(u32, u32)>,
    /// Names of those that lie in the folder.
    present: tokio::sync::Mutex<BTreeSet<String>>,
}

impl Secrets {
    /// `wanted` has the key of each secret by name; `owner` is the job's uid and gid, where it has others than this
    /// process.
    pub fn new(
        wanted: BTreeMap<String, String>,
        folder: PathBuf,
        owner: Option<(u32, u32)>,
    ) -> Secrets {
        Secrets {
            wanted,
            folder,
            owner,
            present: tokio::sync::Mutex::new(BTreeSet::new()),
        }
    }

    /// Returns once all of them lie in the folder. Those that do are not asked for again.
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
        let mut present = self.present.lock().await;
        for (name, key_id) in &self.wanted {
            if !present.contains(name) {
                let secret = self.open(name, key_id, window, keys).await?;
                self.write(name, &secret)
                    .map_err(|source| SecretError::Write {
                        name: name.clone(),
                        source,
                    })?;
                present.insert(name.clone());
                crate::log!("the secret {name} is open");
            }
        }
        Ok(())
    }

    async fn open<P: Parent, N: Nsm, S: KeyService>(
        &self,
        name: &str,
        key_id: &str,
        window: &Window<P>,
        keys: &Keys<N, S>,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let sealed = window
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
            })?;
        let broken = |source| SecretError::Message {
            name: name.to_owned(),
            source,
        };
        let Parse::Complete { header, consumed } =
            Header::parse(&sealed, &Limits::default()).map_err(broken)?
        else {
            return Err(broken(anchorhold_envelope::Error::Truncated {
                missing: "header's end",
            }));
        };
        if !is_for(header.context(), name) {
            return Err(SecretError::Context {
                name: name.to_owned(),
            });
        }
        let key = keys
            .open(key_id, header.data_keys(), header.context())
            .await
            .map_err(|source| SecretError::Key {
                name: name.to_owned(),
                source,
            })?;
        // The plaintext is shorter than the message: no growing, so no copies left behind.
        let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
        let mut opener = Opener::new(*header, key).map_err(broken)?;
        opener
            .update(&sealed[consumed..], &mut plaintext)
            .map_err(broken)?;
        opener.finish().map_err(broken)?;
        Ok(plaintext)
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
