//! The rules, as `[job.settings]` of the measured manifest has them, and what keeps them from meaning something else than
//! their author thought: a key that anybody could use, or an approval that nobody can give, is refused at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anchorhold_job_serve::{Bucket, CallerSettings, Callers, CallersError, Rate};
use serde::Deserialize;

use crate::approval::{Form, NotAPublicKey, OwnerKey};
use crate::key::Algorithm;
use crate::rules::{Rules, RulesError, Written};

/// Keys of one image.
const MOST_KEYS: usize = 64;
/// Owners of one image.
const MOST_OWNERS: usize = 64;
const MAX_NAME_BYTES: usize = 64;
/// Characters of a purpose, which stand on the console.
pub const MAX_PURPOSE_BYTES: usize = 128;

/// `[job.settings]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    callers: BTreeMap<String, CallerSettings>,
    /// Public keys, as SubjectPublicKeyInfo in base64.
    #[serde(default)]
    owners: BTreeMap<String, String>,
    keys: BTreeMap<String, KeySettings>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySettings {
    algorithm: Algorithm,
    /// The secret that it comes as; none: it is made inside.
    secret: Option<String>,
    /// Who may ask for signatures; none: whoever reaches the job, which takes approvals.
    #[serde(default)]
    callers: BTreeSet<String>,
    /// Who approves; none: all owners.
    #[serde(default)]
    owners: BTreeSet<String>,
    /// How many owners must approve of each signature.
    #[serde(default)]
    approvals: usize,
    /// The longest that an approval may be good for.
    #[serde(default = "an_hour")]
    approval_seconds: u64,
    /// What signatures may be for; none: anything.
    #[serde(default)]
    purposes: BTreeSet<String>,
    /// How often it signs.
    rate: Option<Rate>,
    /// What it signs.
    #[serde(default = "messages")]
    accepts: BTreeSet<Form>,
    #[serde(default)]
    rules: Written,
}

fn an_hour() -> u64 {
    3600
}

fn messages() -> BTreeSet<Form> {
    [Form::Message].into()
}

/// The rules are not fit to be kept.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// There are none.
    #[error("there is no key: add a table [job.settings.keys.NAME] with an algorithm")]
    NoKey,
    /// Too many.
    #[error("there are more than {MOST_KEYS} keys or {MOST_OWNERS} owners")]
    Many,
    /// A name that cannot stand in paths and on consoles.
    #[error("{0:?} is no name: use 1 to {MAX_NAME_BYTES} characters from a-z, 0-9, - and _")]
    Name(String),
    /// Callers.
    #[error("{0}")]
    Callers(#[from] CallersError),
    /// An owner's key.
    #[error("the owner `{0}`: {1}")]
    Owner(String, #[source] NotAPublicKey),
    /// One key for two owners would count as two.
    #[error("the owners `{0}` and `{1}` have the same key")]
    SameOwner(String, String),
    /// Whoever reaches the job could have anything signed.
    #[error("anybody could sign with the key `{0}`: name callers, or how many approvals it takes")]
    Open(String),
    /// A name that nothing has.
    #[error("the key `{0}` names `{1}`, which is neither in callers nor in owners")]
    Unknown(String, String),
    /// More approvals than owners.
    #[error("the key `{0}` takes {1} approvals, and has {2} owners")]
    TooFewOwners(String, usize, usize),
    /// Never, or for ever.
    #[error("the key `{0}`: approval_seconds is from 1 to 604,800")]
    ApprovalSeconds(String),
    /// A purpose that nobody can name.
    #[error(
        "the key `{0}`: a purpose has 1 to {MAX_PURPOSE_BYTES} letters, digits, spaces or any of ._:/-"
    )]
    Purpose(String),
    /// It signs nothing, or what its algorithm does not sign.
    #[error(
        "the key `{0}`: accepts is [\"message\"], [\"digest\"] or both, and an ed25519 key signs messages alone"
    )]
    Accepts(String),
    /// Rules for both that only one can keep.
    #[error(
        "the key `{0}`: one that signs messages and digests has no rules for either, as who may not sign a message would send its digest"
    )]
    Both(String),
    /// Its rules.
    #[error("the key `{0}`: {1}")]
    Rules(String, #[source] RulesError),
}

/// One key's rules, ready.
pub struct KeyRules {
    /// What the key is of.
    pub algorithm: Algorithm,
    /// The secret that it comes as.
    pub secret: Option<String>,
    /// Who may ask.
    pub callers: BTreeSet<String>,
    /// Who approves.
    pub owners: BTreeSet<String>,
    /// How many of them must.
    pub approvals: usize,
    /// For how long at most.
    pub approval_seconds: u64,
    /// What for.
    pub purposes: BTreeSet<String>,
    /// Messages, digests or both.
    pub accepts: BTreeSet<Form>,
    /// Which of them.
    pub rules: Rules,
    /// How often.
    pub rate: Option<Rate>,
}

impl KeyRules {
    /// What is left of the rate: nothing, at first.
    pub fn bucket(&self, now: Instant) -> Option<Bucket> {
        self.rate.map(|rate| Bucket::new(rate, now))
    }
}

/// All of it, ready.
pub struct Ready {
    /// Callers.
    pub callers: Callers,
    /// Owners by name.
    pub owners: BTreeMap<String, OwnerKey>,
    /// Keys by name.
    pub keys: BTreeMap<String, KeyRules>,
}

/// Whether a purpose may be named: it stands on consoles.
pub fn is_purpose(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" ._:/-".contains(&byte);
    (1..=MAX_PURPOSE_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    };
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

impl Settings {
    /// Makes the rules ready, or says why they are none.
    ///
    /// # Errors
    /// See [`RuleError`].
    pub fn ready(self, now: Instant) -> Result<Ready, RuleError> {
        let mut names = self
            .callers
            .keys()
            .chain(self.owners.keys())
            .chain(self.keys.keys());
        if let Some(name) = names.find(|name| !is_name(name)) {
            return Err(RuleError::Name(name.clone()));
        }
        if self.keys.is_empty() {
            return Err(RuleError::NoKey);
        }
        if self.keys.len() > MOST_KEYS || self.owners.len() > MOST_OWNERS {
            return Err(RuleError::Many);
        }
        let callers = Callers::new(self.callers, now)?;
        let mut owners: BTreeMap<String, OwnerKey> = BTreeMap::new();
        for (name, text) in self.owners {
            let key =
                OwnerKey::parse(&text).map_err(|error| RuleError::Owner(name.clone(), error))?;
            if let Some((other, _)) = owners.iter().find(|(_, other)| other.is(&key)) {
                return Err(RuleError::SameOwner(other.clone(), name));
            }
            owners.insert(name, key);
        }
        let keys = self
            .keys
            .into_iter()
            .map(|(name, key)| {
                let rules = key.ready(&name, &callers, &owners)?;
                Ok((name, rules))
            })
            .collect::<Result<_, RuleError>>()?;
        Ok(Ready {
            callers,
            owners,
            keys,
        })
    }
}

impl KeySettings {
    fn ready(
        mut self,
        name: &str,
        callers: &Callers,
        owners: &BTreeMap<String, OwnerKey>,
    ) -> Result<KeyRules, RuleError> {
        let name = name.to_owned();
        if self.callers.is_empty() && self.approvals == 0 {
            return Err(RuleError::Open(name));
        }
        let unknown = self
            .callers
            .iter()
            .find(|caller| !callers.has(caller))
            .or_else(|| {
                self.owners
                    .iter()
                    .find(|owner| !owners.contains_key(*owner))
            });
        if let Some(unknown) = unknown {
            return Err(RuleError::Unknown(name, unknown.clone()));
        }
        if self.owners.is_empty() {
            self.owners = owners.keys().cloned().collect();
        }
        if self.approvals > self.owners.len() {
            return Err(RuleError::TooFewOwners(
                name,
                self.approvals,
                self.owners.len(),
            ));
        }
        if !(1..=604_800).contains(&self.approval_seconds) {
            return Err(RuleError::ApprovalSeconds(name));
        }
        if !self.purposes.iter().all(|purpose| is_purpose(purpose)) {
            return Err(RuleError::Purpose(name));
        }
        let digests = self.accepts.contains(&Form::Digest);
        let digest_bytes = self.algorithm.digest_bytes();
        if self.accepts.is_empty() || (digests && digest_bytes.is_none()) {
            return Err(RuleError::Accepts(name));
        }
        if self.accepts.len() == 2 && !self.rules.is_empty() {
            return Err(RuleError::Both(name));
        }
        let rules = Rules::new(self.rules, digest_bytes.filter(|_| digests))
            .map_err(|error| RuleError::Rules(name, error))?;
        Ok(KeyRules {
            algorithm: self.algorithm,
            secret: self.secret,
            callers: self.callers,
            owners: self.owners,
            approvals: self.approvals,
            approval_seconds: self.approval_seconds,
            purposes: self.purposes,
            accepts: self.accepts,
            rules,
            rate: self.rate,
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::key::PrivateKey;

    fn refusal(settings: Value) -> String {
        let settings: Settings = match serde_json::from_value(settings) {
            Ok(settings) => settings,
            Err(error) => return error.to_string(),
        };
        match settings.ready(Instant::now()) {
            Ok(_) => "ready".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn rules_that_would_mean_something_else_are_refused_by_name() {
        let public = |algorithm| {
            let key = PrivateKey::make(algorithm).expect("a key");
            STANDARD.encode(key.public_key())
        };
        let (alice, bob) = (public(Algorithm::Ed25519), public(Algorithm::P256));
        let caller = json!({ "token_sha256": "ab".repeat(32) });
        let with = |key: Value| {
            json!({
                "callers": { "app": caller }, "owners": { "alice": alice, "bob": bob },
                "keys": { "k": key },
            })
        };
        assert_eq!(
            refusal(with(json!({ "algorithm": "p256", "callers": ["app"] }))),
            "ready"
        );
        assert_eq!(
            refusal(with(json!({ "algorithm": "ed25519", "approvals": 2 }))),
            "ready"
        );
        for (key, word) in [
            (json!({ "algorithm": "p256" }), "anybody could sign"),
            (json!({ "algorithm": "p256", "callers": ["ap"] }), "`ap`"),
            (
                json!({ "algorithm": "p256", "approvals": 1, "owners": ["eve"] }),
                "`eve`",
            ),
            (
                json!({ "algorithm": "p256", "approvals": 3 }),
                "3 approvals, and has 2",
            ),
            (
                json!({ "algorithm": "p256", "approvals": 2, "owners": ["bob"] }),
                "2 approvals, and has 1",
            ),
            (
                json!({ "algorithm": "p256", "approvals": 1, "approval_seconds": 0 }),
                "approval_seconds",
            ),
            (
                json!({ "algorithm": "p256", "callers": ["app"], "purposes": ["a\nb"] }),
                "purpose",
            ),
            (
                json!({ "algorithm": "p256", "callers": ["app"], "accepts": [] }),
                "accepts",
            ),
            (
                json!({ "algorithm": "ed25519", "callers": ["app"], "accepts": ["digest"] }),
                "accepts",
            ),
            (
                json!({ "algorithm": "p256", "callers": ["app"], "accepts": ["message", "digest"], "rules": { "max_bytes": 5 } }),
                "would send its digest",
            ),
            (
                json!({ "algorithm": "p256", "callers": ["app"], "accepts": ["digest"], "rules": { "patterns": ["a"] } }),
                "looked into",
            ),
            (
                json!({ "algorithm": "p256", "callers": ["app"], "rate": { "count": 0, "seconds": 1 } }),
                "at least 1",
            ),
            (json!({ "algorithm": "rsa", "callers": ["app"] }), "rsa"),
            (
                json!({ "algorithm": "p256", "callers": ["app"], "approval": 1 }),
                "approval",
            ),
        ] {
            let said = refusal(with(key.clone()));
            assert!(said.contains(word), "{key}: {said}");
        }
        for (settings, word) in [
            (json!({ "keys": {} }), "no key"),
            (json!({ "keys": { "K": { "algorithm": "p256" } } }), "\"K\""),
            (
                json!({ "owners": { "a": "AAAA" }, "keys": { "k": { "algorithm": "p256" } } }),
                "openssl pkey",
            ),
            (
                json!({ "owners": { "a": alice, "b": alice }, "keys": { "k": { "algorithm": "p256" } } }),
                "`a` and `b`",
            ),
            // A key that signs for whatever it is asked: the neutral element.
            (
                json!({ "owners": { "a": STANDARD.encode(weak()) }, "keys": { "k": { "algorithm": "p256" } } }),
                "openssl pkey",
            ),
        ] {
            let said = refusal(settings.clone());
            assert!(said.contains(word), "{settings}: {said}");
        }
    }

    fn weak() -> Vec<u8> {
        let mut spki = hex::decode("302a300506032b6570032100").expect("hex");
        spki.push(1);
        spki.extend([0; 31]);
        spki
    }
}
