//! Callers: who may do what not everybody may, known by a token that they show, whose digest the measured manifest names.
//!
//! The manifest is no secret, so it holds digests (SHA-256) and no tokens; a token is random, so that a digest does not
//! lead back to it. A token must never be kept, nor appear in an error.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::Failure;
use crate::rate::{Bucket, Rate};

/// A token is 43 characters where it is 32 random bytes in base64 without padding; 32 are the least that is taken, as 32
/// hex digits are 16 random bytes.
const LEAST_TOKEN: usize = 32;
const LONGEST_TOKEN: usize = 512;
/// Callers of one job.
const MOST_CALLERS: usize = 256;

/// A caller, as the manifest names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerSettings {
    /// SHA-256 of the token, 64 hex digits.
    token_sha256: String,
    /// How often it may do what it may; none: as often as it likes.
    #[serde(default)]
    rate: Option<Rate>,
}

/// A caller of the manifest's is none.
#[derive(Debug, thiserror::Error)]
pub enum CallersError {
    /// Its digest is none.
    #[error(
        "the caller `{0}`: token_sha256 must be 64 hex digits: `printf %s \"$TOKEN\" | sha256sum` prints them"
    )]
    Digest(String),
    /// Two callers show the same token: nobody could tell them apart.
    #[error("the callers `{0}` and `{1}` have the same token")]
    Same(String, String),
    /// Each request is compared with all of them.
    #[error("there are more than {MOST_CALLERS} callers")]
    Many,
}

/// A caller.
pub struct Caller {
    name: String,
    digest: [u8; 32],
    bucket: Option<Mutex<Bucket>>,
}

impl Caller {
    /// Its name in the manifest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts something that the caller does.
    ///
    /// # Errors
    /// How long until it may.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        match &self.bucket {
            Some(bucket) => bucket
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(now),
            None => Ok(()),
        }
    }

    /// The answer to somebody who asks too often.
    pub fn too_often(wait: Duration) -> Failure {
        let message = "the manifest does not let this caller do that so often";
        Failure::new(StatusCode::TOO_MANY_REQUESTS, "rate", message).after(wait)
    }
}

/// All callers that the manifest names. By default it names nobody.
#[derive(Default)]
pub struct Callers(Vec<Caller>);

impl Callers {
    /// Those of the manifest; their rates begin at `now`.
    ///
    /// # Errors
    /// See [`CallersError`].
    pub fn new(
        named: BTreeMap<String, CallerSettings>,
        now: Instant,
    ) -> Result<Callers, CallersError> {
        if named.len() > MOST_CALLERS {
            return Err(CallersError::Many);
        }
        let mut callers: Vec<Caller> = Vec::with_capacity(named.len());
        for (name, settings) in named {
            let mut digest = [0; 32];
            if hex::decode_to_slice(&settings.token_sha256, &mut digest).is_err() {
                return Err(CallersError::Digest(name));
            }
            if let Some(other) = callers.iter().find(|other| other.digest == digest) {
                return Err(CallersError::Same(other.name.clone(), name));
            }
            let bucket = settings.rate.map(|rate| Mutex::new(Bucket::new(rate, now)));
            callers.push(Caller {
                name,
                digest,
                bucket,
            });
        }
        Ok(Callers(callers))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one has this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|caller| caller.name == name)
    }

    /// Who asks, by `Authorization: Bearer TOKEN` (RFC 6750).
    ///
    /// # Errors
    /// 401 where no token of the manifest's was shown.
    pub fn who(&self, headers: &HeaderMap) -> Result<&Caller, Failure> {
        token(headers)
            .and_then(|token| self.of(token))
            .ok_or_else(|| {
                let message = "show the token of a caller that the measured manifest names, as Authorization: Bearer TOKEN";
                Failure::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
            })
    }

    fn of(&self, token: &[u8]) -> Option<&Caller> {
        let digest = Sha256::digest(token);
        // All of them, so that the time says nothing of which.
        self.0.iter().fold(None, |found, caller| {
            if bool::from(caller.digest.ct_eq(digest.as_slice())) {
                Some(caller)
            } else {
                found
            }
        })
    }
}

fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(7)?;
    let fits = (LEAST_TOKEN..=LONGEST_TOKEN).contains(&token.len())
        && token.iter().all(u8::is_ascii_graphic);
    (scheme.eq_ignore_ascii_case(b"bearer ") && fits).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-that-is-long-enough-to-be-one";

    fn named(pairs: &[(&str, &str)]) -> Result<Callers, CallersError> {
        let named = pairs.iter().map(|(name, token)| {
            let token_sha256 = hex::encode(Sha256::digest(token));
            let settings = CallerSettings {
                token_sha256,
                rate: Rate::new(1, 10),
            };
            ((*name).to_owned(), settings)
        });
        Callers::new(named.collect(), Instant::now())
    }

    fn shown(value: &str) -> HeaderMap {
        [(AUTHORIZATION, value.parse().expect("a value"))]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_caller_is_known_by_its_token_alone() {
        let other = TOKEN.to_uppercase();
        let callers = named(&[("a", TOKEN), ("b", &other)]).expect("callers");
        let who = |value: &str| callers.who(&shown(value)).map(Caller::name).ok();
        assert_eq!(who(&format!("Bearer {TOKEN}")), Some("a"));
        assert_eq!(who(&format!("bearer {other}")), Some("b"));
        for wrong in [
            String::new(),
            TOKEN.to_owned(),
            format!("Bearer  {TOKEN}"),
            format!("Bearer {TOKEN} "),
            format!("Basic {TOKEN}"),
            format!("Bearer {TOKEN}x"),
            "Bearer short".to_owned(),
            format!("Bearer {}", "x".repeat(600)),
        ] {
            assert_eq!(who(&wrong), None, "{wrong}");
        }
        let mut twice = shown(&format!("Bearer {TOKEN}"));
        twice.append(
            AUTHORIZATION,
            format!("Bearer {other}").parse().expect("a value"),
        );
        let refused = callers.who(&twice).err().expect("two tokens are none");
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert!(callers.who(&HeaderMap::new()).is_err());
    }

    #[test]
    fn by_default_there_is_nobody() {
        let digest_of_nothing = shown("Bearer ");
        assert!(Callers::default().who(&digest_of_nothing).is_err());
        assert!(Callers::default().is_empty());
    }

    #[test]
    fn what_is_no_digest_and_what_stands_twice_is_refused_by_name() {
        let settings = CallerSettings {
            token_sha256: "abc".to_owned(),
            rate: None,
        };
        let error = Callers::new([("x".to_owned(), settings)].into(), Instant::now());
        let error = error.err().expect("no digest").to_string();
        assert!(
            error.contains("`x`") && error.contains("sha256sum"),
            "{error}"
        );
        let error = named(&[("a", TOKEN), ("b", TOKEN)])
            .err()
            .expect("the same");
        assert!(error.to_string().contains("`a` and `b`"), "{error}");
    }

    #[test]
    fn a_caller_has_a_rate_of_its_own() {
        let callers = named(&[("a", TOKEN)]).expect("callers");
        let caller = callers.who(&shown(&format!("Bearer {TOKEN}"))).expect("it");
        let later = Instant::now() + Duration::from_secs(20);
        assert_eq!(caller.take(later), Ok(()));
        let wait = caller.take(later).expect_err("one in ten seconds");
        assert_eq!(Caller::too_often(wait).retry_after, Some(10));
    }
}
