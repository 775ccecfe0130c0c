//! The decision: who asks, what for, what is signed, by whom it is approved, how often.
//!
//! All that is remembered lies in this process, as an enclave has no storage: it is gone with a restart, which a hostile
//! parent may bring about, as it may run several enclaves of one image beside each other. What that gains it is bounded
//! here: rates begin empty, so that lives one after the other have no more than one long one; and approvals name the life
//! that they are for (`boot`), so that one which was used, or might have been, is worth nothing in another.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anchorhold_job_serve::{Bucket, Caller, Failure};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::approval::{self, Claims, Form, NotApproved};
use crate::key::{Algorithm, KeyError, PrivateKey, Signature};
use crate::rules::{MAX_MESSAGE_BYTES, NotPermitted};
use crate::settings::{self, KeyRules, Ready};

/// Approvals that one request may bring.
pub const MOST_APPROVALS: usize = 64;
/// Requests that are remembered at a time, so that none is made twice.
const MOST_USED: usize = 100_000;
/// How long one is remembered after it has expired: longer than the time is ever uncertain by.
const REMEMBERED_MS: u64 = 600_000;

/// Where a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It was made inside.
    Made,
    /// It came as a secret that its owner had sealed.
    Imported,
}

/// What is to be signed.
#[derive(Debug, Clone)]
pub struct SignRequest {
    /// What the input is.
    pub form: Form,
    /// A message or a digest.
    pub input: Vec<u8>,
    /// What for.
    pub purpose: String,
    /// Seconds since 1970; for keys that take approvals.
    pub expires: Option<u64>,
    /// For keys that take approvals: tells this request from another with the same input.
    pub nonce: Option<String>,
    /// Owners' approvals.
    pub approvals: Vec<String>,
}

/// Now, by the two clocks that there are.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The monotonic one, which rates are counted by.
    pub instant: Instant,
    /// What the runtime says, in milliseconds since 1970, and by how much that may be off.
    pub unix_ms: u64,
    /// See `unix_ms`.
    pub uncertainty_ms: u64,
}

/// Why nothing is signed. For strangers: nothing of what was sent is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The manifest has no such key.
    #[error("the manifest names no such key")]
    Unknown,
    /// It was not made or brought in yet.
    #[error("this key is not there: make it, or load it as it was sealed")]
    NotThere,
    /// There is another one in its place.
    #[error("another key is in this place; it stays until the job's end")]
    Taken,
    /// It is no key that is made or loaded.
    #[error("this key comes as a secret, and is neither made nor loaded")]
    Imported,
    /// The caller may not.
    #[error("this caller may not use this key")]
    Caller,
    /// The caller asks too often.
    #[error("the manifest does not let this caller do that so often")]
    CallerRate(Duration),
    /// The key signs too often.
    #[error("the manifest does not let this key sign so often")]
    Rate(Duration),
    /// Messages where digests are signed, or the other way round.
    #[error("this key does not sign this form of input")]
    Form,
    /// The input is too long.
    #[error("the input has more than {MAX_MESSAGE_BYTES} bytes")]
    Input,
    /// The purpose is none, or not one of the key's.
    #[error("the manifest does not let this key sign for that purpose")]
    Purpose,
    /// The rules do not permit it.
    #[error("{0}")]
    NotPermitted(#[from] NotPermitted),
    /// What an approval needs is not there.
    #[error(
        "this key takes approvals: a request has a nonce of 16 to 128 letters, digits, - and _, and says when it expires"
    )]
    Terms,
    /// It has expired, or is to be good for too long.
    #[error("the request has expired, or expires later than the manifest lets it (in {0} seconds)")]
    Expiry(u64),
    /// An approval does not count.
    #[error("approval {0} {1}")]
    NotApproved(usize, NotApproved),
    /// Too few of them.
    #[error("{approved} owners approve of this request, and it takes {needed}")]
    Approvals {
        /// How many different owners.
        approved: usize,
        /// How many it takes.
        needed: usize,
    },
    /// Too many of them.
    #[error("a request has at most {MOST_APPROVALS} approvals, and none where the key takes none")]
    Many,
    /// It was made before.
    #[error("a request with this nonce was signed before")]
    Replayed,
    /// Too many are remembered.
    #[error("too many requests are remembered: ask again when some have expired")]
    Full,
    /// The key does not sign it.
    #[error("{0}")]
    Key(#[from] KeyError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let (status, code) = match &refusal {
            Refusal::Unknown => (StatusCode::NOT_FOUND, "unknown_key"),
            Refusal::NotThere => (StatusCode::CONFLICT, "no_key"),
            Refusal::Taken | Refusal::Imported => (StatusCode::CONFLICT, "taken"),
            Refusal::Caller => (StatusCode::FORBIDDEN, "forbidden"),
            Refusal::CallerRate(_) | Refusal::Rate(_) => (StatusCode::TOO_MANY_REQUESTS, "rate"),
            Refusal::Form | Refusal::Input | Refusal::Terms | Refusal::Many | Refusal::Key(_) => {
                (StatusCode::BAD_REQUEST, "format")
            }
            Refusal::Purpose => (StatusCode::FORBIDDEN, "purpose"),
            Refusal::NotPermitted(_) => (StatusCode::FORBIDDEN, "rules"),
            Refusal::Expiry(_) => (StatusCode::FORBIDDEN, "expired"),
            Refusal::NotApproved(..) | Refusal::Approvals { .. } => {
                (StatusCode::FORBIDDEN, "approval")
            }
            Refusal::Replayed => (StatusCode::CONFLICT, "replayed"),
            Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        };
        let failure = Failure::new(status, code, refusal.to_string());
        match refusal {
            Refusal::CallerRate(wait) | Refusal::Rate(wait) => failure.after(wait),
            _ => failure,
        }
    }
}

/// A key that is there.
struct Held {
    private: PrivateKey,
    public: Vec<u8>,
    origin: Origin,
}

struct Slot {
    rules: KeyRules,
    held: OnceLock<Held>,
    bucket: Option<Mutex<Bucket>>,
}

/// What an attestation document says of a key, as its user data: JSON with the fields in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The form of this statement.
    pub custody: u32,
    /// The key's name in the manifest.
    pub key: String,
    /// What it is of.
    pub algorithm: Algorithm,
    /// Where it comes from.
    pub origin: Origin,
    /// The life of the job that approvals name.
    pub boot: String,
}

/// What there is to know of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its name.
    pub key: String,
    /// What it is of.
    pub algorithm: Algorithm,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it is there.
    pub there: bool,
    /// SubjectPublicKeyInfo, where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<crate::service::Base64>,
    /// SHA-256 of that, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_sha256: Option<String>,
    /// Messages, digests or both.
    pub accepts: Vec<Form>,
    /// What for; empty: anything.
    pub purposes: Vec<String>,
    /// How many owners must approve.
    pub approvals: usize,
    /// Who they are.
    pub owners: Vec<String>,
    /// For how long an approval may be good, in seconds.
    pub approval_seconds: u64,
}

/// All keys, and all that is remembered.
pub struct Custody {
    ready: Ready,
    slots: BTreeMap<String, Slot>,
    boot: String,
    used: Mutex<HashMap<(String, String), u64>>,
}

impl Custody {
    /// A new life, without keys.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn new(mut ready: Ready, now: Instant) -> Result<Custody, KeyError> {
        let mut boot = [0; 32];
        getrandom::fill(&mut boot).map_err(|_| KeyError::Randomness)?;
        let slots = std::mem::take(&mut ready.keys)
            .into_iter()
            .map(|(name, rules)| {
                let slot = Slot {
                    bucket: rules.bucket(now).map(Mutex::new),
                    held: OnceLock::new(),
                    rules,
                };
                (name, slot)
            });
        Ok(Custody {
            slots: slots.collect(),
            ready,
            boot: hex::encode(boot),
            used: Mutex::default(),
        })
    }

    /// What approvals name this life by.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Callers of the manifest.
    pub fn callers(&self) -> &anchorhold_job_serve::Callers {
        &self.ready.callers
    }

    /// The keys that come as secrets: name of the key, name of the secret.
    pub fn imported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.slots
            .iter()
            .filter_map(|(name, slot)| Some((name.as_str(), slot.rules.secret.as_deref()?)))
    }

    fn slot(&self, key: &str) -> Result<&Slot, Refusal> {
        self.slots.get(key).ok_or(Refusal::Unknown)
    }

    fn held(&self, key: &str) -> Result<&Held, Refusal> {
        self.slot(key)?.held.get().ok_or(Refusal::NotThere)
    }

    /// Whether a caller has to be shown for anything that is done with a key.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn takes_callers(&self, key: &str) -> Result<bool, Refusal> {
        Ok(!self.slot(key)?.rules.callers.is_empty())
    }

    /// Whether a caller may.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] and [`Refusal::Caller`].
    pub fn admit(&self, key: &str, caller: Option<&Caller>) -> Result<(), Refusal> {
        let callers = &self.slot(key)?.rules.callers;
        match caller {
            _ if callers.is_empty() => Ok(()),
            Some(caller) if callers.contains(caller.name()) => Ok(()),
            _ => Err(Refusal::Caller),
        }
    }

    /// What a key is of.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], and [`Refusal::Imported`] where it is not one that is made.
    pub fn made(&self, key: &str) -> Result<Algorithm, Refusal> {
        let rules = &self.slot(key)?.rules;
        match rules.secret {
            None => Ok(rules.algorithm),
            Some(_) => Err(Refusal::Imported),
        }
    }

    /// Whether a key's place is free.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] and [`Refusal::Taken`].
    pub fn is_free(&self, key: &str) -> Result<(), Refusal> {
        match self.slot(key)?.held.get() {
            None => Ok(()),
            Some(_) => Err(Refusal::Taken),
        }
    }

    /// Puts a key, as PKCS#8, into its place; the same one may come again. Its public key.
    ///
    /// # Errors
    /// It is no key of that algorithm, or there is another one.
    pub fn put(&self, key: &str, pkcs8: &Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Refusal> {
        let slot = self.slot(key)?;
        let private = PrivateKey::from_pkcs8(slot.rules.algorithm, pkcs8)?;
        let public = private.public_key();
        let origin = match slot.rules.secret {
            Some(_) => Origin::Imported,
            None => Origin::Made,
        };
        let held = slot.held.get_or_init(|| Held {
            private,
            public: public.clone(),
            origin,
        });
        if held.public == public {
            Ok(public)
        } else {
            Err(Refusal::Taken)
        }
    }

    /// What there is to know of a key.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn describe(&self, key: &str) -> Result<Description, Refusal> {
        let Slot { rules, held, .. } = self.slot(key)?;
        let public = held.get().map(|held| &held.public);
        Ok(Description {
            key: key.to_owned(),
            algorithm: rules.algorithm,
            origin: match rules.secret {
                Some(_) => Origin::Imported,
                None => Origin::Made,
            },
            there: public.is_some(),
            key_sha256: public.map(|public| hex::encode(Sha256::digest(public))),
            public_key: public.cloned().map(crate::service::Base64),
            accepts: rules.accepts.iter().copied().collect(),
            purposes: rules.purposes.iter().cloned().collect(),
            approvals: rules.approvals,
            owners: rules.owners.iter().cloned().collect(),
            approval_seconds: rules.approval_seconds,
        })
    }

    /// All keys' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.keys().map(String::as_str)
    }

    /// What an attestation document is to say of a key: its public key, and the statement.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] and [`Refusal::NotThere`].
    pub fn statement(&self, key: &str) -> Result<(Vec<u8>, Statement), Refusal> {
        let held = self.held(key)?;
        let statement = Statement {
            custody: 1,
            key: key.to_owned(),
            algorithm: self.slot(key)?.rules.algorithm,
            origin: held.origin,
            boot: self.boot.clone(),
        };
        Ok((held.public.clone(), statement))
    }

    /// What an approval of a request must say.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::NotThere`], and [`Refusal::Terms`] where nonce or expiry is missing.
    pub fn claims(&self, key: &str, request: &SignRequest) -> Result<Claims, Refusal> {
        let held = self.held(key)?;
        let (Some(nonce), Some(expires)) = (&request.nonce, request.expires) else {
            return Err(Refusal::Terms);
        };
        Ok(Claims {
            boot: self.boot.clone(),
            key: key.to_owned(),
            key_sha256: hex::encode(Sha256::digest(&held.public)),
            form: request.form,
            input_sha256: hex::encode(Sha256::digest(&request.input)),
            purpose: request.purpose.clone(),
            expires,
            nonce: nonce.clone(),
        })
    }

    /// Signs, if everything permits it. Also who has approved.
    ///
    /// # Errors
    /// See [`Refusal`]; the first that applies.
    pub fn sign(
        &self,
        key: &str,
        request: &SignRequest,
        caller: Option<&Caller>,
        now: Moment,
    ) -> Result<(Signature, Vec<&str>), Refusal> {
        let slot = self.slot(key)?;
        let rules = &slot.rules;
        self.admit(key, caller)?;
        let held = self.held(key)?;
        if !rules.accepts.contains(&request.form) {
            return Err(Refusal::Form);
        }
        if request.input.len() > MAX_MESSAGE_BYTES {
            return Err(Refusal::Input);
        }
        let is_purpose = settings::is_purpose(&request.purpose);
        let permitted = rules.purposes.is_empty() || rules.purposes.contains(&request.purpose);
        if !is_purpose || !permitted {
            return Err(Refusal::Purpose);
        }
        match request.form {
            Form::Message => rules.rules.permit_message(&request.input)?,
            Form::Digest => {
                if rules.algorithm.digest_bytes() != Some(request.input.len()) {
                    let bytes = rules.algorithm.digest_bytes().unwrap_or(0);
                    return Err(KeyError::Digest(bytes).into());
                }
                rules.rules.permit_digest(&request.input)?;
            }
        }
        let (approvers, once) = self.approved(key, rules, request, now)?;
        self.count(slot, caller, once, now)?;
        let signature = match request.form {
            Form::Message => held.private.sign_message(&request.input)?,
            Form::Digest => held.private.sign_digest(&request.input)?,
        };
        Ok((signature, approvers))
    }

    /// Who approves, and what must not happen twice.
    fn approved(
        &self,
        key: &str,
        rules: &KeyRules,
        request: &SignRequest,
        now: Moment,
    ) -> Result<(Vec<&str>, Option<Claims>), Refusal> {
        let most = if rules.approvals == 0 {
            0
        } else {
            MOST_APPROVALS
        };
        if request.approvals.len() > most {
            return Err(Refusal::Many);
        }
        if rules.approvals == 0 {
            return Ok((Vec::new(), None));
        }
        let claims = self.claims(key, request)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(16..=128).contains(&claims.nonce.len()) || !claims.nonce.bytes().all(plain) {
            return Err(Refusal::Terms);
        }
        let expires_ms = claims.expires.saturating_mul(1000);
        // Of the times that it may be, the latest for what has expired, and the same for what may be far ahead.
        let latest = now.unix_ms.saturating_add(now.uncertainty_ms);
        let longest = rules.approval_seconds.saturating_mul(1000);
        if expires_ms <= latest || expires_ms > latest.saturating_add(longest) {
            return Err(Refusal::Expiry(rules.approval_seconds));
        }
        let mut approvers: Vec<&str> = Vec::new();
        for (index, approval) in request.approvals.iter().enumerate() {
            let owner = |name: &str| {
                let named = rules.owners.contains(name);
                let (name, key) = self.ready.owners.get_key_value(name).filter(|_| named)?;
                Some((name.as_str(), key))
            };
            let approver = approval::approver(approval, &claims, owner)
                .map_err(|reason| Refusal::NotApproved(index + 1, reason))?;
            // Whoever approves twice is one.
            if !approvers.contains(&approver) {
                approvers.push(approver);
            }
        }
        if approvers.len() < rules.approvals {
            return Err(Refusal::Approvals {
                approved: approvers.len(),
                needed: rules.approvals,
            });
        }
        Ok((approvers, Some(claims)))
    }

    /// Counts it, once: what was counted is signed.
    fn count(
        &self,
        slot: &Slot,
        caller: Option<&Caller>,
        once: Option<Claims>,
        now: Moment,
    ) -> Result<(), Refusal> {
        // Held to the end, so that of two that come at a time one is the second.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match once {
            None => None,
            Some(claims) => {
                let expires_ms = claims.expires.saturating_mul(1000);
                let entry = (claims.key, claims.nonce);
                if used.contains_key(&entry) {
                    return Err(Refusal::Replayed);
                }
                if used.len() >= MOST_USED {
                    used.retain(|_, expires_ms| {
                        expires_ms.saturating_add(REMEMBERED_MS) > now.unix_ms
                    });
                }
                if used.len() >= MOST_USED {
                    return Err(Refusal::Full);
                }
                Some((entry, expires_ms))
            }
        };
        // The caller's first: who asks too often uses up nobody else's share.
        if let Some(caller) = caller.filter(|_| !slot.rules.callers.is_empty()) {
            caller.take(now.instant).map_err(Refusal::CallerRate)?;
        }
        if let Some(bucket) = &slot.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(now.instant).map_err(Refusal::Rate)?;
        }
        if let Some((entry, expires_ms)) = entry {
            used.insert(entry, expires_ms);
        }
        Ok(())
    }
}
