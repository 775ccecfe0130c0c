//! What each operation does, in the order that all share: shape and limits, the key, the
//! recipient's document, the policies and grants, the key's state, and only then the work.
//!
//! Nothing here answers in the open where a Recipient was named, and nothing touches key
//! material before the policies have allowed it.

mod agreement;
mod aliases;
mod authority;
mod cryptography;
mod data_keys;
mod grants;
mod import;
mod key_stores;
mod keys;
mod lifecycle;
mod macs;
mod pages;
mod policies;
mod regions;
mod rotation;
mod signatures;
mod states;
mod tags;

pub(crate) use key_stores::tend;
pub(crate) use lifecycle::sweep;

use crate::ciphertext::MaterialId;
use crate::clock::milliseconds;
use crate::identity::Caller;
use crate::key_name::{KeyId, KeyName, alias_arn, key_arn};
use crate::material::{InToken, Link, Material};
use crate::recipient::Recipient;
use crate::refusal::Refusal;
use crate::request::{MAX_CONTEXT_LENGTH, Shown, context_length};
use crate::sealing::fill_random;
use crate::service::Core;
use crate::store::KeyRecord;
use anchorhold_kms_wire::shapes::{
    Blob, EncryptionContext, KeyUsage, Operation, RecipientInfo, SecretBlob,
};
use serde_json::Value;
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use uuid::Uuid;
use zeroize::Zeroizing;

/// How the service answers one operation.
pub(crate) trait Answer: Operation {
    /// What the audit log shows of the request: nothing that is, or wraps, a secret.
    fn show(&self, shown: &mut Shown);

    /// Whether answering takes long enough to be kept off the threads that serve connections:
    /// whatever waits for the disk, checks an attestation document, or computes for long.
    fn is_slow(&self) -> bool {
        true
    }

    /// Does what is asked.
    fn answer(&self, call: &mut Call<'_>) -> Result<Self::Response, Refusal>;
}

/// One authenticated request being answered.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Core,
    pub(crate) caller: &'a Caller,
    /// The Region that the request was signed for.
    pub(crate) region: &'a str,
    pub(crate) now: SystemTime,
    pub(crate) source: IpAddr,
    pub(crate) is_tls: bool,
    pub(crate) user_agent: Option<&'a str>,
    /// What the audit log is to know beside the outcome.
    pub(crate) note: &'a mut Note,
    /// Whether this thread may wait for a token.
    pub(crate) may_wait: bool,
    /// That it would have to.
    pub(crate) must_wait: Cell<bool>,
}

/// What came to light while a request was answered.
#[derive(Debug, Default)]
pub(crate) struct Note {
    /// Account and ARN of what was touched or asked for.
    pub(crate) resources: Vec<(String, String)>,
    /// The recipient's document, once verified.
    pub(crate) recipient: Option<Value>,
    /// The statements that allowed it.
    pub(crate) allowed_by: Option<String>,
}

/// A key that the request names.
struct Key {
    record: KeyRecord,
    arn: String,
    /// The alias by which it was named.
    alias: Option<String>,
    /// Whether the custom key store that holds it is disconnected.
    unavailable: bool,
}

impl Call<'_> {
    fn account(&self) -> &str {
        self.caller.principal.account()
    }

    /// The key that a request names in one of the four ways.
    fn key(&mut self, name: &str) -> Result<Key, Refusal> {
        let parsed = KeyName::parse(name, self.region)?;
        let own = self.account().to_owned();
        let (account, id, alias) = match parsed {
            KeyName::Id(id) => (own, id, None),
            KeyName::Arn { account, id } => (account.to_owned(), id, None),
            KeyName::Alias(alias) => {
                let id = self.alias(&own, alias)?;
                (own, id, Some(alias.to_owned()))
            }
            KeyName::AliasArn { account, alias } => (
                account.to_owned(),
                self.alias(account, alias)?,
                Some(alias.to_owned()),
            ),
        };
        match self.record(id.uuid)? {
            Some(record) if record.account == account && record.id() == id => {
                self.named(record, alias)
            }
            _ => Err(Refusal::not_found(format!(
                "Key '{}' does not exist",
                key_arn(self.region, &account, id)
            ))),
        }
    }

    /// The record of a key in this Region, after what its time has brought about.
    fn record(&self, id: Uuid) -> Result<Option<KeyRecord>, Refusal> {
        let found = self.core.store.key(self.region, id)?;
        match found {
            Some(record) if lifecycle::is_due(&record, self.now_ms()) => {
                lifecycle::settle(&self.core.store, self.region, id, self.now_ms())?;
                Ok(self.core.store.key(self.region, id)?)
            }
            found => Ok(found),
        }
    }

    fn alias(&self, account: &str, alias: &str) -> Result<KeyId, Refusal> {
        let found = self.core.store.alias(self.region, account, alias)?;
        match found {
            Some(record) => Ok(KeyId {
                uuid: record.key,
                multi_region: record.multi_region,
            }),
            None => Err(Refusal::not_found(format!(
                "Alias {} is not found.",
                alias_arn(self.region, account, alias)
            ))),
        }
    }

    /// For operations that take a key's id or ARN only.
    fn key_without_alias(&mut self, name: &str) -> Result<Key, Refusal> {
        match KeyName::parse(name, self.region)? {
            KeyName::Alias(_) => Err(Refusal::not_found(format!("Invalid keyId '{name}'"))),
            KeyName::AliasArn { .. } => Err(Refusal::new(
                "InvalidArnException",
                format!("{name} is not the ARN of a key"),
            )),
            KeyName::Id(_) | KeyName::Arn { .. } => self.key(name),
        }
    }

    /// For operations that take a key's id or ARN only, and keys of the caller's account only.
    fn own_key(&mut self, name: &str, action: &str) -> Result<Key, Refusal> {
        let key = self.key_without_alias(name)?;
        if key.record.account == self.account() {
            return Ok(key);
        }
        Err(Refusal::new(
            "AccessDeniedException",
            format!(
                "User: {} is not authorized to perform: {action} on resource: {} because no identity-based policy allows the {action} action",
                self.caller.principal.arn(),
                key.arn
            ),
        )
        .because(format!(
            "{action} is for keys of the caller's own account, whatever policies say"
        )))
    }

    fn named(&mut self, record: KeyRecord, alias: Option<String>) -> Result<Key, Refusal> {
        let arn = record.arn();
        self.note
            .resources
            .push((record.account.clone(), arn.clone()));
        let unavailable = match &record.custom_key_store {
            None => false,
            Some(id) => {
                let store = &self.core.store;
                let found = store.key_store(&record.region, &record.account, id)?;
                found.is_none_or(|found| !found.connected || found.failure.is_some())
            }
        };
        Ok(Key {
            record,
            arn,
            alias,
            unavailable,
        })
    }

    /// Checks the document, where there is one.
    fn recipient(&mut self, info: Option<&RecipientInfo>) -> Result<Option<Recipient>, Refusal> {
        let Some(info) = info else { return Ok(None) };
        let recipient = self.core.rules.check(info, self.now)?;
        self.note.recipient = Some(recipient.audited());
        Ok(Some(recipient))
    }

    /// The material that a usable key has now, with its name.
    fn material(&self, key: &Key) -> Result<(MaterialId, Arc<Material>), Refusal> {
        let missing = || Refusal::internal(format!("the material of {} is missing", key.arn));
        let id = key.record.material.ok_or_else(missing)?;
        Ok((id, self.material_of(key, &id)?.ok_or_else(missing)?))
    }

    /// One of the materials of a usable key.
    fn material_of(&self, key: &Key, id: &MaterialId) -> Result<Option<Arc<Material>>, Refusal> {
        let Some(key_store) = &key.record.custom_key_store else {
            return Ok(self.core.store.material(&key.record, id)?);
        };
        if key.record.material_record(id).is_none() {
            return Ok(None);
        }
        let link = self.link(&key.record.account, key_store)?;
        Ok(Some(Arc::new(Material::InToken(InToken::new(link, *id)))))
    }

    /// The way to a key store's token, which may take long: it is for threads that may wait.
    fn link(&self, account: &str, key_store: &str) -> Result<Arc<Link>, Refusal> {
        if !self.may_wait {
            self.must_wait.set(true);
            return Err(Refusal::internal(
                "a token is not waited for on this thread",
            ));
        }
        let core = self.core;
        let link = core
            .key_stores
            .link(&core.store, self.region, account, key_store)?;
        link.ok_or_else(|| {
            Refusal::new(
                "KMSInvalidStateException",
                "The custom key store is not connected.",
            )
        })
    }

    fn now_ms(&self) -> i64 {
        milliseconds(self.now)
    }
}

impl Key {
    /// The key's usage must fit the operation.
    fn is_for(&self, usage: &KeyUsage, operation: &str) -> Result<(), Refusal> {
        if self.record.usage == *usage {
            return Ok(());
        }
        Err(Refusal::new(
            "InvalidKeyUsageException",
            format!(
                "{} key usage is {} which is not valid for {operation}.",
                self.arn, self.record.usage
            ),
        ))
    }

    /// The name of the material that was used, as far as answers show it: not to a recipient, and not that of
    /// keys in a token, which have one only.
    fn shown_material(&self, id: MaterialId, recipient: Option<&Recipient>) -> Option<String> {
        let shown = recipient.is_none() && self.record.custom_key_store.is_none();
        shown.then(|| id.to_string())
    }

    /// One of the algorithms that the key has.
    fn has<A: PartialEq + std::fmt::Display>(
        &self,
        algorithm: &A,
        own: Option<&[A]>,
    ) -> Result<(), Refusal> {
        if own.is_some_and(|own| own.contains(algorithm)) {
            return Ok(());
        }
        Err(Refusal::new(
            "InvalidKeyUsageException",
            format!(
                "Algorithm {algorithm} is incompatible with key spec {}.",
                self.record.spec
            ),
        ))
    }
}

/// In the open, or in the recipient's envelope: never both.
fn hand_out(
    plaintext: Zeroizing<Vec<u8>>,
    recipient: Option<&Recipient>,
) -> Result<(Option<SecretBlob>, Option<Blob>), Refusal> {
    match recipient {
        None => Ok((Some(SecretBlob::new(plaintext)), None)),
        Some(recipient) => Ok((None, Some(recipient.seal(&plaintext)?))),
    }
}

fn random(length: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    fill_random(&mut bytes)?;
    Ok(bytes)
}

fn not_dry(dry_run: Option<bool>) -> Result<(), Refusal> {
    if dry_run == Some(true) {
        return Err(Refusal::new(
            "DryRunOperationException",
            "The request would have succeeded, but the DryRun option is set.",
        ));
    }
    Ok(())
}

fn check_context(context: &EncryptionContext) -> Result<(), Refusal> {
    if context_length(context) > MAX_CONTEXT_LENGTH {
        return Err(Refusal::validation(format!(
            "The encryption context must not have more than {MAX_CONTEXT_LENGTH} characters."
        )));
    }
    // Condition keys ignore case: two values for one key would be ambiguous for every policy.
    let mut names: Vec<String> = context.keys().map(|k| k.to_lowercase()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Refusal::validation(
            "The encryption context must not have keys that differ in case only.",
        ));
    }
    Ok(())
}
