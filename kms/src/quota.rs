//! Quotas: how many requests a second each account may make of each class of operations, as AWS has them.
//!
//! What is not configured is not limited. The time is an argument. Only accounts that have signed are
//! counted, so that nobody can use up the quota of another or fill the memory.

use anchorhold_kms_wire::shapes::DataKeyPairSpec;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Requests a second that each account may make. `None`: any number. A burst may take one second's worth at
/// once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quotas {
    /// Cryptographic operations with symmetric and HMAC keys, and `GenerateRandom`, together.
    pub symmetric: Option<u32>,
    /// Cryptographic operations with RSA keys, together.
    pub rsa: Option<u32>,
    /// Cryptographic operations with keys on elliptic curves, together.
    pub ecc: Option<u32>,
    /// Signatures by ML-DSA keys, together.
    pub ml_dsa: Option<u32>,
    /// Pairs of data keys, by their spec (`RSA_2048`): both operations that make them, together. Below one a
    /// second it is one in so much time.
    pub data_key_pairs: BTreeMap<String, f64>,
    /// Each operation that is not cryptographic, by itself.
    pub management: Option<u32>,
    /// Operations with a quota of their own, by name; it takes the place of the class's.
    pub operations: BTreeMap<String, u32>,
}

/// What shares a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Symmetric,
    Rsa,
    Ecc,
    MlDsa,
    /// Pairs of data keys of this spec.
    DataKeyPair(&'static str),
    /// An operation by itself.
    Operation(&'static str),
}

/// Operations on data, whose class depends on the key.
const CRYPTOGRAPHIC: [&str; 12] = [
    "Decrypt",
    "DeriveSharedSecret",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GenerateRandom",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
    "GetPublicKey",
];

impl Class {
    /// By the operation, and by the algorithm or the pair's spec that the request names: `RSAES_OAEP_SHA_256`,
    /// `ECDSA_SHA_256`, `SYMMETRIC_DEFAULT`, `RSA_2048`.
    pub(crate) fn of(operation: &'static str, algorithm: Option<&str>) -> Self {
        if let ("GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext", Some(name)) =
            (operation, algorithm)
        {
            let known = DataKeyPairSpec::ALL
                .iter()
                .find(|spec| spec.as_str() == name);
            return known.map_or(Self::Operation(operation), |spec| {
                Self::DataKeyPair(spec.as_str())
            });
        }
        if operation == "GetPublicKey" || !CRYPTOGRAPHIC.contains(&operation) {
            return Self::Operation(operation);
        }
        match (operation, algorithm) {
            ("DeriveSharedSecret", _) => Self::Ecc,
            (_, Some(name)) if name.starts_with("RSA") => Self::Rsa,
            (_, Some(name)) if name.starts_with("ML_DSA") => Self::MlDsa,
            ("Sign" | "Verify", _) => Self::Ecc,
            (_, Some(name)) if name.starts_with("SM2") => Self::Ecc,
            _ => Self::Symmetric,
        }
    }
}

/// What each account has left.
pub(crate) struct QuotaBook {
    quotas: Quotas,
    buckets: Mutex<HashMap<String, Vec<(Class, Bucket)>>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: SystemTime,
}

impl QuotaBook {
    pub(crate) fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            buckets: Mutex::default(),
        }
    }

    /// Takes one request from the quota; `false` where nothing is left.
    pub(crate) fn take(
        &self,
        account: &str,
        operation: &'static str,
        algorithm: Option<&str>,
        now: SystemTime,
    ) -> bool {
        let class = Class::of(operation, algorithm);
        let own = self.quotas.operations.get(operation).copied();
        let (class, rate) = match own {
            Some(rate) => (Class::Operation(operation), Some(f64::from(rate))),
            None => (class, self.rate(class)),
        };
        let Some(rate) = rate else {
            return true;
        };
        // At least one can be taken at some time.
        let most = rate.max(1.0);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(account) {
            buckets.insert(account.to_owned(), Vec::new());
        }
        let Some(of_account) = buckets.get_mut(account) else {
            return false;
        };
        let at = match of_account.iter().position(|(known, _)| *known == class) {
            Some(at) => at,
            None => {
                of_account.push((
                    class,
                    Bucket {
                        left: most,
                        at: now,
                    },
                ));
                of_account.len() - 1
            }
        };
        let bucket = &mut of_account[at].1;
        // A clock that goes back gives nothing; once it goes on, a second's worth at most.
        let since = now.duration_since(bucket.at).unwrap_or(Duration::ZERO);
        bucket.left = (bucket.left + since.as_secs_f64() * rate).min(most);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }

    fn rate(&self, class: Class) -> Option<f64> {
        let rate = match class {
            Class::DataKeyPair(spec) => return self.quotas.data_key_pairs.get(spec).copied(),
            Class::Symmetric => self.quotas.symmetric,
            Class::Rsa => self.quotas.rsa,
            Class::Ecc => self.quotas.ecc,
            Class::MlDsa => self.quotas.ml_dsa,
            Class::Operation(_) => self.quotas.management,
        };
        rate.map(f64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_aws() {
        for (operation, algorithm, class) in [
            ("Decrypt", None, Class::Symmetric),
            ("Decrypt", Some("SYMMETRIC_DEFAULT"), Class::Symmetric),
            ("Decrypt", Some("RSAES_OAEP_SHA_256"), Class::Rsa),
            ("Sign", Some("RSASSA_PSS_SHA_256"), Class::Rsa),
            ("Sign", Some("ECDSA_SHA_256"), Class::Ecc),
            ("Verify", Some("ML_DSA_SHAKE_256"), Class::MlDsa),
            ("DeriveSharedSecret", Some("ECDH"), Class::Ecc),
            ("GenerateMac", Some("HMAC_SHA_256"), Class::Symmetric),
            ("CreateKey", None, Class::Operation("CreateKey")),
            ("GetPublicKey", None, Class::Operation("GetPublicKey")),
            (
                "GenerateDataKeyPair",
                Some("RSA_2048"),
                Class::DataKeyPair("RSA_2048"),
            ),
            (
                "GenerateDataKeyPairWithoutPlaintext",
                Some("RSA_2048"),
                Class::DataKeyPair("RSA_2048"),
            ),
            (
                "GenerateDataKeyPair",
                Some("NONE"),
                Class::Operation("GenerateDataKeyPair"),
            ),
        ] {
            assert_eq!(Class::of(operation, algorithm), class, "{operation}");
        }
    }

    #[test]
    fn a_quota_is_shared_by_its_class_refills_and_is_each_accounts_own() {
        let book = QuotaBook::new(Quotas {
            symmetric: Some(2),
            operations: BTreeMap::from([("CreateKey".to_owned(), 1)]),
            ..Quotas::default()
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let take = |account, operation, at| book.take(account, operation, None, at);
        assert!(take("1", "Decrypt", now));
        assert!(take("1", "Encrypt", now));
        assert!(!take("1", "GenerateRandom", now));
        assert!(take("2", "Decrypt", now));
        assert!(take("1", "CreateKey", now) && !take("1", "CreateKey", now));
        assert!((0..100).all(|_| take("1", "DescribeKey", now)));
        let earlier = now - Duration::from_secs(60);
        assert!(take("3", "Decrypt", now) && take("3", "Decrypt", earlier));
        assert!(!take("3", "Decrypt", earlier));
        let later = now + Duration::from_millis(600);
        assert!(take("1", "Decrypt", later) && !take("1", "Decrypt", later));
        let much_later = now + Duration::from_secs(3600);
        assert!(take("1", "Decrypt", much_later) && take("1", "Decrypt", much_later));
        assert!(!take("1", "Decrypt", much_later));
    }

    #[test]
    fn pairs_of_data_keys_have_a_quota_by_their_spec_which_may_be_below_one_a_second() {
        let book = QuotaBook::new(Quotas {
            symmetric: Some(1),
            data_key_pairs: BTreeMap::from([("RSA_4096".to_owned(), 0.1)]),
            ..Quotas::default()
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let pair = "GenerateDataKeyPair";
        let take = |operation, spec, after| {
            book.take("1", operation, Some(spec), now + Duration::from_secs(after))
        };
        assert!(take(pair, "RSA_4096", 0));
        assert!(!take("GenerateDataKeyPairWithoutPlaintext", "RSA_4096", 5));
        assert!((0..100).all(|_| take(pair, "RSA_2048", 5)));
        assert!(take(pair, "RSA_4096", 11) && !take(pair, "RSA_4096", 11));
        assert!(take("Decrypt", "SYMMETRIC_DEFAULT", 11));
    }
}
