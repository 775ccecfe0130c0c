//! AWS Signature Version 4 in the `Authorization` header: the client signs, the service verifies.
//!
//! Source: AWS General Reference, "Create a signed AWS API request". Signatures in the query
//! (presigned URLs), chunked payloads and unsigned payloads are refused: the service's requests
//! are small and whole, so the hash of the body is always computed and never taken on trust. The
//! time is an argument. Nothing here may print a secret key, a token or a signature.
//!
//! A service verifies in two steps, because the secret is found by the access key id:
//! [`Presented::parse`] reads what the request claims, and [`Presented::verify`] makes an
//! [`Authenticated`] of it, the only proof there is.

mod canonical;
mod credentials;
mod sign;
mod time;
mod verify;

pub use credentials::{Credentials, CredentialsError};
pub use sign::{SignError, sign};
pub use verify::{Authenticated, Expected, MissingParts, Presented, SigV4Error, SkewReport};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What ends a credential scope.
const TERMINATOR: &str = "aws4_request";

/// How far a request's time may lie from the service's: five minutes, as at AWS.
pub const DEFAULT_MAX_SKEW: std::time::Duration = std::time::Duration::from_mins(5);

/// A key for one day, Region and service. A service may keep it rather than derive it for each
/// request; it is as secret as what it was derived from, for that scope.
pub struct SigningKey {
    key: hmac::Key,
    date: String,
    region: String,
    service: String,
}

impl SigningKey {
    /// Derives the key. `date` is `YYYYMMDD`.
    pub fn derive(secret_access_key: &str, date: &str, region: &str, service: &str) -> Self {
        let mut seed = Zeroizing::new(Vec::with_capacity(4 + secret_access_key.len()));
        seed.extend_from_slice(b"AWS4");
        seed.extend_from_slice(secret_access_key.as_bytes());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &seed);
        for part in [date, region, service, TERMINATOR] {
            let mut next = Zeroizing::new([0; 32]);
            hmac::sign_to_buffer(&key, part.as_bytes(), &mut *next)
                .expect("the buffer has the length of the MAC");
            key = hmac::Key::new(hmac::HMAC_SHA256, &*next);
        }
        Self {
            key,
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
        }
    }

    fn scope(&self) -> String {
        format!(
            "{}/{}/{}/{TERMINATOR}",
            self.date, self.region, self.service
        )
    }

    fn string_to_sign(&self, timestamp: &str, canonical_request: &[u8]) -> String {
        format!(
            "{ALGORITHM}\n{timestamp}\n{}\n{}",
            self.scope(),
            canonical::sha256_hex(canonical_request)
        )
    }

    fn signature(&self, timestamp: &str, canonical_request: &[u8]) -> String {
        let text = self.string_to_sign(timestamp, canonical_request);
        hex::encode(hmac::sign(&self.key, text.as_bytes()))
    }

    /// In constant time.
    fn signature_matches(
        &self,
        timestamp: &str,
        canonical_request: &[u8],
        signature: &[u8; 32],
    ) -> bool {
        let text = self.string_to_sign(timestamp, canonical_request);
        hmac::verify(&self.key, text.as_bytes(), signature).is_ok()
    }
}

#[cfg(test)]
mod tests;
