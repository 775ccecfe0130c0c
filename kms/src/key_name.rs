//! The four ways in which a request names a key: id, key ARN, alias name, alias ARN.

use crate::limits::Checks;
use crate::policy::is_account;
use crate::refusal::Refusal;
use std::fmt;
use uuid::Uuid;

/// A key's id: a UUID, or for multi-Region keys `mrk-` and 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyId {
    pub(crate) uuid: Uuid,
    pub(crate) multi_region: bool,
}

impl KeyId {
    /// The one spelling that this service gives out: lower case, with hyphens or after `mrk-`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (digits, multi_region) = match text.strip_prefix("mrk-") {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        let uuid = Uuid::try_parse(digits).ok()?;
        let id = Self { uuid, multi_region };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.multi_region {
            write!(f, "mrk-{}", self.uuid.simple())
        } else {
            write!(f, "{}", self.uuid.hyphenated())
        }
    }
}

/// A `KeyId` parameter taken apart. Nothing says yet that such a key is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyName<'a> {
    /// In the caller's account.
    Id(KeyId),
    Arn {
        account: &'a str,
        id: KeyId,
    },
    /// `alias/…` in the caller's account.
    Alias(&'a str),
    AliasArn {
        account: &'a str,
        alias: &'a str,
    },
}

impl<'a> KeyName<'a> {
    pub(crate) fn parse(text: &'a str, region: &str) -> Result<Self, Refusal> {
        // Lengths first, so that no message repeats more than this.
        if text.is_empty() || text.len() > 2048 {
            let mut checks = Checks::new();
            checks.text("keyId", text, 1, 2048);
            checks.done()?;
        }
        let invalid = || Refusal::not_found(format!("Invalid keyId '{text}'"));
        if !text.starts_with("arn:") {
            if is_alias(text) {
                return Ok(Self::Alias(text));
            }
            return KeyId::parse(text).map(Self::Id).ok_or_else(invalid);
        }
        let not_a_key = || {
            Refusal::new(
                "InvalidArnException",
                format!("{text} does not refer to a key or an alias of AWS KMS"),
            )
        };
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let &[_, "aws", "kms", arn_region, account, resource] = parts.as_slice() else {
            return Err(not_a_key());
        };
        if !is_account(account) {
            return Err(not_a_key());
        }
        if arn_region != region {
            return Err(Refusal::not_found(format!("Invalid arn {arn_region}")));
        }
        if is_alias(resource) {
            return Ok(Self::AliasArn {
                account,
                alias: resource,
            });
        }
        let id = resource.strip_prefix("key/").ok_or_else(not_a_key)?;
        let id = KeyId::parse(id).ok_or_else(invalid)?;
        Ok(Self::Arn { account, id })
    }
}

/// Whether the text has the form of an alias name: `alias/` and letters, digits, `/`, `_`, `-`.
pub(crate) fn is_alias(text: &str) -> bool {
    text.len() <= 256
        && text.strip_prefix("alias/").is_some_and(|name| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "/_-".contains(c))
        })
}

pub(crate) fn key_arn(region: &str, account: &str, id: KeyId) -> String {
    format!("arn:aws:kms:{region}:{account}:key/{id}")
}

pub(crate) fn alias_arn(region: &str, account: &str, alias: &str) -> String {
    format!("arn:aws:kms:{region}:{account}:{alias}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_are_read() {
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        let id = KeyId {
            uuid: Uuid::try_parse(id).unwrap(),
            multi_region: false,
        };
        let parse = |text: &'static str| KeyName::parse(text, "us-east-1").unwrap();
        assert_eq!(
            parse("01234567-89ab-cdef-0123-456789abcdef"),
            KeyName::Id(id)
        );
        assert_eq!(
            parse("arn:aws:kms:us-east-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef"),
            KeyName::Arn {
                account: "111122223333",
                id
            }
        );
        assert_eq!(parse("alias/a/b_c-1"), KeyName::Alias("alias/a/b_c-1"));
        assert_eq!(
            parse("arn:aws:kms:us-east-1:111122223333:alias/x"),
            KeyName::AliasArn {
                account: "111122223333",
                alias: "alias/x"
            }
        );
    }

    #[test]
    fn ids_of_multi_region_keys_have_their_own_form() {
        let text = "mrk-0123456789abcdef0123456789abcdef";
        let id = KeyId::parse(text).unwrap();
        assert!(id.multi_region);
        assert_eq!(id.to_string(), text);
        for text in [
            "mrk-01234567-89ab-cdef-0123-456789abcdef",
            "mrk-0123456789ABCDEF0123456789abcdef",
            "mrk-",
            "0123456789abcdef0123456789abcdef",
        ] {
            assert!(KeyId::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn everything_else_gets_the_error_that_aws_gives() {
        let long = "x".repeat(2049);
        for (text, kind) in [
            ("", "ValidationException"),
            (long.as_str(), "ValidationException"),
            ("nonsense", "NotFoundException"),
            ("alias/", "NotFoundException"),
            ("alias/a b", "NotFoundException"),
            ("0123456789abcdef0123456789abcdef", "NotFoundException"),
            ("01234567-89AB-cdef-0123-456789abcdef", "NotFoundException"),
            (
                "arn:aws:kms:us-west-2:111122223333:alias/x",
                "NotFoundException",
            ),
            (
                "arn:aws:kms:us-east-1:111122223333:key/x",
                "NotFoundException",
            ),
            (
                "arn:aws:s3:us-east-1:111122223333:key/x",
                "InvalidArnException",
            ),
            ("arn:aws:kms:us-east-1:1111:alias/x", "InvalidArnException"),
            ("arn:aws:kms", "InvalidArnException"),
        ] {
            let refusal = KeyName::parse(text, "us-east-1").unwrap_err();
            assert_eq!(refusal.kind, kind, "{text}");
        }
    }
}
