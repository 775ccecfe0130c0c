//! How the shapes are read from JSON and written to it.
//!
//! An error must never repeat a value of the body: the body may hold a plaintext.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

/// Why a body does not have the shape it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A required member is absent or `null`.
    #[error("the member {member} is required and must not be null")]
    Missing {
        /// Its name in JSON, such as `KeyId`.
        member: &'static str,
    },
    /// The body is not JSON, or a member has the wrong type.
    #[error("the body does not have the right shape: {reason}")]
    Malformed {
        /// What is wrong and where, without the value.
        reason: String,
    },
}

/// Writes a shape. The bytes are wiped on drop, since a shape may hold a plaintext.
pub fn encode<T: Serialize>(shape: &T) -> Zeroizing<Vec<u8>> {
    // Measured first, so that the vector never grows: growing would leave a copy behind.
    let mut length = Length(0);
    serde_json::to_writer(&mut length, shape)
        .expect("shapes have string keys and no failing parts");
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *bytes, shape).expect("a vector accepts all bytes");
    bytes
}

struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn decode<T: DeserializeOwned>(
    body: &[u8],
    required: &'static [&'static str],
) -> Result<T, ShapeError> {
    // serde would take an array for a struct, member by member.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ShapeError::Malformed {
            reason: "expected a JSON object".to_owned(),
        });
    }
    serde_json::from_slice(body).map_err(|error| {
        // Only now, since it costs a second reading: was it that something is missing?
        if error.is_data()
            && let Ok(members) = serde_json::from_slice::<HashMap<String, Option<IgnoredAny>>>(body)
            && let Some(member) = required
                .iter()
                .find(|name| !matches!(members.get(**name), Some(Some(_))))
        {
            return ShapeError::Missing { member };
        }
        ShapeError::Malformed {
            reason: without_values(&error),
        }
    })
}

/// serde's text quotes the value it did not expect; this keeps its kind and drops the rest.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    for what in ["invalid type: ", "invalid value: "] {
        if let Some(rest) = text.strip_prefix(what)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            let kind: String = found
                .chars()
                .take_while(char::is_ascii_alphabetic)
                .collect();
            return format!("{what}{kind}, expected {expected}");
        }
    }
    text
}

/// `null` is absence.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A structure that may be absent, and must be a JSON object where it is not.
pub(super) fn optional_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// A list of structures, each of which must be a JSON object.
pub(super) fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let objects = Option::<Vec<Object<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(objects.into_iter().map(|object| object.0).collect())
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectOnly<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectOnly<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer
            .deserialize_map(ObjectOnly(PhantomData))
            .map(Object)
    }
}

/// A map of strings in which no key comes twice: two readers must not see two different maps.
pub(super) fn unique_pairs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = BTreeMap::new();
            while let Some((key, value)) = map.next_entry()? {
                if pairs.insert(key, value).is_some() {
                    return Err(A::Error::custom("a key comes twice in a map"));
                }
            }
            Ok(pairs)
        }
    }

    deserializer.deserialize_any(Pairs)
}
