//! Who may call: principals with their access keys and their own policies.
//!
//! Secrets are never printed; tokens are compared in constant time.

use crate::policy::{Permissions, Principal};
use crate::refusal::Refusal;
use anchorhold_kms_wire::sigv4::{Expected, Presented, SigV4Error, SigningKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A principal as the configuration has it, with one access key.
pub struct Identity {
    /// Who it is.
    pub principal: Principal,
    /// What it may do in its account.
    pub policies: Permissions,
    /// Its tags, and those of its session.
    pub tags: BTreeMap<String, String>,
    /// The access key's id, 16 to 128 letters and digits.
    pub access_key_id: String,
    /// The access key's secret.
    pub secret_access_key: Zeroizing<String>,
    /// What temporary credentials carry beside the key.
    pub session_token: Option<Zeroizing<String>>,
    /// Temporary credentials: since when.
    pub issued: Option<SystemTime>,
    /// Temporary credentials: until when.
    pub expires: Option<SystemTime>,
}

impl Identity {
    /// A principal with long-term credentials, and without policies or tags.
    pub fn new(principal: Principal, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            principal,
            policies: Permissions::default(),
            tags: BTreeMap::new(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: Zeroizing::new(secret_access_key.to_owned()),
            session_token: None,
            issued: None,
            expires: None,
        }
    }
}

/// Someone who has signed a request.
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) policies: Permissions,
    pub(crate) access_key_id: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) issued: Option<SystemTime>,
}

struct Access {
    caller: Arc<Caller>,
    secret: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
    expires: Option<SystemTime>,
    /// Signing keys, so that none is derived for each request: of the days around now, for the
    /// Regions and services that are served. Others are refused before a key is asked for.
    kept: Mutex<Vec<Arc<SigningKey>>>,
}

/// More signing keys than this are not kept for an access key.
const MOST_KEPT: usize = 64;

/// All access keys.
pub(crate) struct Directory(HashMap<String, Access>);

impl Directory {
    /// `None` if two identities have the same access key id.
    pub(crate) fn new(identities: Vec<Identity>) -> Option<Self> {
        let mut access = HashMap::new();
        for identity in identities {
            let id = identity.access_key_id;
            let entry = Access {
                caller: Arc::new(Caller {
                    principal: identity.principal,
                    policies: identity.policies,
                    access_key_id: id.clone(),
                    tags: identity.tags,
                    issued: identity.issued,
                }),
                secret: identity.secret_access_key,
                session_token: identity.session_token,
                expires: identity.expires,
                kept: Mutex::new(Vec::new()),
            };
            if access.insert(id, entry).is_some() {
                return None;
            }
        }
        Some(Self(access))
    }

    /// Finds out who signed a request, by AWS Signature Version 4.
    ///
    /// Scope and time come first, since they cost nothing. Then the access key and its token;
    /// then the signature. A token that has expired is named as such only to who holds its secret.
    pub(crate) fn authenticate(
        &self,
        presented: Presented,
        body: &[u8],
        expected: &Expected<'_>,
    ) -> Result<Arc<Caller>, Refusal> {
        let is_sts = presented.service() == "sts";
        let refused = |error: SigV4Error| refusal(&error, is_sts);
        let unknown = |reason: String| {
            let kind = if is_sts {
                "InvalidClientTokenId"
            } else {
                "UnrecognizedClientException"
            };
            Refusal::new(
                kind,
                "The security token included in the request is invalid.",
            )
            .because(reason)
        };
        presented.check_scope_and_time(expected).map_err(refused)?;
        let id = presented.access_key_id().to_owned();
        let access = self
            .0
            .get(&id)
            .ok_or_else(|| unknown(format!("no principal has the access key {id}")))?;
        let token_fits = match (&access.session_token, presented.session_token()) {
            (None, None) => true,
            (Some(own), Some(given)) => own.as_bytes().ct_eq(given.as_bytes()).into(),
            _ => false,
        };
        if !token_fits {
            return Err(unknown(format!(
                "the session token is not the one that goes with the access key {id}"
            )));
        }
        let key = access.signing_key(&presented);
        presented
            .verify_with_key(body, &key, expected)
            .map_err(refused)?;
        if access.expires.is_some_and(|until| until <= expected.now) {
            let kind = if is_sts {
                "ExpiredToken"
            } else {
                "ExpiredTokenException"
            };
            return Err(Refusal::new(
                kind,
                "The security token included in the request is expired",
            ));
        }
        Ok(Arc::clone(&access.caller))
    }
}

/// STS has other names for the same errors.
pub(crate) fn refusal(error: &SigV4Error, is_sts: bool) -> Refusal {
    let kind = match (error.code(), is_sts) {
        ("InvalidSignatureException", true) => "SignatureDoesNotMatch",
        ("IncompleteSignatureException", true) => "IncompleteSignature",
        ("MissingAuthenticationTokenException", true) => "MissingAuthenticationToken",
        (kind, _) => kind,
    };
    Refusal::new(kind, error.to_string())
}

impl Access {
    fn signing_key(&self, presented: &Presented) -> Arc<SigningKey> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = kept.iter().find(|key| presented.is_scope_of(key)) {
            return Arc::clone(key);
        }
        let key = Arc::new(SigningKey::derive(
            &self.secret,
            presented.date(),
            presented.region(),
            presented.service(),
        ));
        if kept.len() >= MOST_KEPT {
            kept.remove(0);
        }
        kept.push(Arc::clone(&key));
        key
    }
}
