//! Platform configuration registers: values of 48 bytes, and the arithmetic by which an NSM and
//! the tools that predict its values arrive at them. Never decides whether a value is the right one.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha384};

/// Bytes in a PCR: those of a SHA-384 digest.
pub const PCR_BYTES: usize = 48;

/// PCRs that an NSM has at most: 0–15 are measured before the enclave starts, 16–31 are its own.
pub const PCR_COUNT: u8 = 32;

/// The value of one register. Prints as lower-case hex, and is read from hex in either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcr([u8; PCR_BYTES]);

impl Pcr {
    /// A register that nothing was measured into, and what debug mode shows as PCR0, 1 and 2.
    pub const ZERO: Pcr = Pcr([0; PCR_BYTES]);

    /// The register with exactly these bytes.
    pub const fn from_bytes(bytes: [u8; PCR_BYTES]) -> Pcr {
        Pcr(bytes)
    }

    /// The register's bytes.
    pub const fn as_bytes(&self) -> &[u8; PCR_BYTES] {
        &self.0
    }

    /// Whether nothing was measured into it, or debug mode hides it.
    pub fn is_zero(&self) -> bool {
        *self == Pcr::ZERO
    }

    /// The register after `data` was measured into it: `SHA-384(self ‖ data)`.
    #[must_use]
    pub fn extend(&self, data: &[u8]) -> Pcr {
        let mut hash = Sha384::new();
        hash.update(self.0);
        hash.update(data);
        Pcr(hash.finalize().into())
    }

    /// PCR3 of an enclave whose instance has this IAM role,
    /// such as `arn:aws:iam::111122223333:role/cards`: the ARN itself, measured once (AWS's user
    /// guide, "Where to get an enclave's measurements").
    pub fn of_role(arn: &str) -> Pcr {
        Pcr::ZERO.extend(arn.as_bytes())
    }

    /// PCR4 of an enclave on this instance, such as `i-06c79bf817127030a`: the id itself, measured
    /// once. A document's module id begins with the instance's.
    pub fn of_instance(instance_id: &str) -> Pcr {
        Pcr::ZERO.extend(instance_id.as_bytes())
    }

    /// PCR8 of an enclave whose image was signed with this certificate, given as DER: its SHA-384,
    /// measured once (aws-nitro-enclaves-image-format, which computes it).
    pub fn of_signing_certificate(der: &[u8]) -> Pcr {
        Pcr::ZERO.extend(&Sha384::digest(der))
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a PCR value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePcrError {
    /// Not 96 characters.
    #[error(
        "a PCR is 96 hexadecimal digits (SHA-384), and this has {0} characters; give the value as \
         `describe` prints it"
    )]
    Length(usize),
    /// A character that is no hexadecimal digit.
    #[error("character {index} of a PCR value is {found:?}, which is not a hexadecimal digit")]
    Character {
        /// Its place, counted from 0.
        index: usize,
        /// The character.
        found: char,
    },
}

impl FromStr for Pcr {
    type Err = ParsePcrError;

    fn from_str(text: &str) -> Result<Pcr, ParsePcrError> {
        if let Some((index, found)) = text
            .chars()
            .enumerate()
            .find(|(_, character)| !character.is_ascii_hexdigit())
        {
            return Err(ParsePcrError::Character { index, found });
        }
        let mut bytes = [0; PCR_BYTES];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParsePcrError::Length(text.len()))?;
        Ok(Pcr(bytes))
    }
}

impl Serialize for Pcr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pcr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pcr, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Pcr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a PCR value as 96 hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pcr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[test]
    fn extending_hashes_the_old_value_before_the_data() {
        let data = b"measured";
        let expected: [u8; 48] = Sha384::digest([[0; 48].as_slice(), data].concat()).into();
        assert_eq!(*Pcr::ZERO.extend(data).as_bytes(), expected);
    }

    #[test]
    fn the_order_of_extensions_matters() {
        assert_ne!(
            Pcr::ZERO.extend(b"a").extend(b"b"),
            Pcr::ZERO.extend(b"b").extend(b"a")
        );
    }

    /// Computed with Python's hashlib. That documents have PCR4 so, those that AWS has signed show.
    #[test]
    fn roles_instances_and_signers_have_the_values_that_aws_documents() {
        assert_eq!(
            Pcr::of_role("arn:aws:iam::111122223333:role/cards").to_string(),
            "b1aabd52487bd9acc3e177727db9151adcfe47510824fb01bc95602eee32fb3c1527b7d8769af0724b76322779d053c3"
        );
        assert_eq!(
            Pcr::of_instance("i-06c79bf817127030a").to_string(),
            "61228871b3884d7fdfb08d75934e4fb2f77818d56eabe496f07014c5401adca8330bb4db279e2a9d1b837a8a04567727"
        );
        assert_eq!(
            Pcr::of_signing_certificate(b"certificate").to_string(),
            "e2ad58e7a1a9fdb1dcd72ae5858372974416919245e567ea8f717937e8b914f644320b0f88dcfca2d7a83b5ee6c832dd"
        );
    }

    #[test]
    fn text_that_is_no_pcr_is_refused_with_the_reason() {
        assert_eq!("00".parse::<Pcr>(), Err(ParsePcrError::Length(2)));
        assert_eq!("".parse::<Pcr>(), Err(ParsePcrError::Length(0)));
        assert_eq!(
            "0".repeat(98).parse::<Pcr>(),
            Err(ParsePcrError::Length(98))
        );
        assert_eq!(
            "0".repeat(95).parse::<Pcr>(),
            Err(ParsePcrError::Length(95))
        );
        assert_eq!(
            format!("{}é", "0".repeat(94)).parse::<Pcr>(),
            Err(ParsePcrError::Character {
                index: 94,
                found: 'é'
            })
        );
    }

    #[test]
    fn upper_case_is_read_and_lower_case_is_printed() {
        let pcr: Pcr = "AB".repeat(48).parse().unwrap();
        assert_eq!(pcr.to_string(), "ab".repeat(48));
        assert_eq!(format!("{pcr:?}"), "ab".repeat(48));
        let json = serde_json::to_string(&pcr).unwrap();
        assert_eq!(serde_json::from_str::<Pcr>(&json).unwrap(), pcr);
        assert!(serde_json::from_str::<Pcr>("\"12\"").is_err());
    }
}
