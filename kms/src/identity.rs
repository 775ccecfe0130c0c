//! Who may call: principals with their access keys and their own policies.
//!
//! Secrets are never printed; tokens are compared in constant time.

use crate::policy::{Permissions, Principal};
use crate::refusal::Refusal;
use anchorhold_kms_wire::sigv4::{Expected, Presented, SigningKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A principal as the configuration has it, with one access key.
pub struct Identity {
    /// Who it is.
    pub principal: Principal,
    /// What it may do in its account.
    pub policies: Permissions,
    /// The access key's id, 16 to 128 letters and digits.
    pub access_key_id: String,
    /// The access key's secret.
    pub secret_access_key: Zeroizing<String>,
    /// What temporary credentials carry beside the key.
    pub session_token: Option<Zeroizing<String>>,
}

/// Someone who has signed a request.
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) policies: Permissions,
    pub(crate) access_key_id: String,
}

struct Access {
    caller: Arc<Caller>,
    secret: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
    /// The last day's signing key, so that it is not derived for each request.
    kept: Mutex<Option<(String, Arc<SigningKey>)>>,
}

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
                }),
                secret: identity.secret_access_key,
                session_token: identity.session_token,
                kept: Mutex::new(None),
            };
            if access.insert(id, entry).is_some() {
                return None;
            }
        }
        Some(Self(access))
    }

    /// Finds out who signed a request, by AWS Signature Version 4.
    pub(crate) fn authenticate(
        &self,
        presented: Presented,
        body: &[u8],
        expected: &Expected<'_>,
    ) -> Result<Arc<Caller>, Refusal> {
        let unknown = |reason: String| {
            Refusal::new(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            )
            .because(reason)
        };
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
        let key = access.signing_key(presented.date(), expected);
        presented.verify_with_key(body, &key, expected)?;
        Ok(Arc::clone(&access.caller))
    }
}

impl Access {
    fn signing_key(&self, date: &str, expected: &Expected<'_>) -> Arc<SigningKey> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((day, key)) = kept.as_ref()
            && day == date
        {
            return Arc::clone(key);
        }
        let key = SigningKey::derive(&self.secret, date, expected.region, expected.service);
        let key = Arc::new(key);
        *kept = Some((date.to_owned(), Arc::clone(&key)));
        key
    }
}
