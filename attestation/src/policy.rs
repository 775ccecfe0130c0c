//! What a verifier wants of a document, and everything that differs. Only [`Verified::admit`] makes
//! an [`Admitted`]. Never admits what nothing was expected of, and never takes a value that is
//! absent for one that matches.

use core::fmt;
use core::ops::Deref;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::pcr::Pcr;
use crate::verify::Verified;

/// Registers that say which image runs: the whole image, kernel and boot, application, and the
/// certificate that signed it.
const IMAGE_PCRS: [u8; 4] = [0, 1, 2, 8];

/// What must hold for a document to be admitted. All of it must; each call adds to it.
///
/// At least one of PCR0, 1, 2 and 8 must be expected, or [`Expectations::any_image`] be said aloud.
/// Debug mode is refused unless allowed.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Expectations {
    wanted: Vec<Wanted>,
    allow_debug: bool,
    any_image: bool,
}

#[derive(Debug, Clone)]
enum Wanted {
    Pcr { index: u8, allowed: Vec<Pcr> },
    Nonce(Vec<u8>),
    UserData(Vec<u8>),
    PublicKey(Vec<u8>),
    ModuleId(String),
}

impl Expectations {
    /// Expects nothing yet, and so admits nothing.
    pub fn new() -> Expectations {
        Expectations::default()
    }

    fn also(mut self, wanted: Wanted) -> Expectations {
        self.wanted.push(wanted);
        self
    }

    /// The PCR must be listed and have one of these values: several while an image is rolled over
    /// from old to new. None at all matches nothing. Said twice for an index, both must hold.
    pub fn pcr(self, index: u8, allowed: impl IntoIterator<Item = Pcr>) -> Expectations {
        self.also(Wanted::Pcr {
            index,
            allowed: allowed.into_iter().collect(),
        })
    }

    /// The instance has this IAM role (PCR3).
    pub fn role(self, arn: &str) -> Expectations {
        self.pcr(3, [Pcr::of_role(arn)])
    }

    /// The enclave runs on this instance (PCR4).
    pub fn instance(self, instance_id: &str) -> Expectations {
        self.pcr(4, [Pcr::of_instance(instance_id)])
    }

    /// The image was signed with this certificate, given as DER (PCR8).
    pub fn signed_by(self, der: &[u8]) -> Expectations {
        self.pcr(8, [Pcr::of_signing_certificate(der)])
    }

    /// The nonce is exactly this.
    pub fn nonce(self, nonce: &[u8]) -> Expectations {
        self.also(Wanted::Nonce(nonce.to_vec()))
    }

    /// The user data is exactly this.
    pub fn user_data(self, user_data: &[u8]) -> Expectations {
        self.also(Wanted::UserData(user_data.to_vec()))
    }

    /// The public key is exactly this.
    pub fn public_key(self, public_key: &[u8]) -> Expectations {
        self.also(Wanted::PublicKey(public_key.to_vec()))
    }

    /// The NSM's name for the enclave is exactly this.
    pub fn module_id(self, module_id: &str) -> Expectations {
        self.also(Wanted::ModuleId(module_id.to_owned()))
    }

    /// Whether an enclave in debug mode is admitted, whose host sees into it. Default: not.
    pub fn allow_debug(mut self, allow: bool) -> Expectations {
        self.allow_debug = allow;
        self
    }

    /// Says aloud that the image does not matter.
    pub fn any_image(mut self) -> Expectations {
        self.any_image = true;
        self
    }

    fn names_an_image(&self) -> bool {
        self.any_image
            || self.wanted.iter().any(
                |wanted| matches!(wanted, Wanted::Pcr { index, .. } if IMAGE_PCRS.contains(index)),
            )
    }

    fn differences(&self, document: &Verified) -> Vec<Difference> {
        let mut differences = Vec::new();
        if !self.names_an_image() {
            differences.push(Difference::NoImageExpected);
        }
        if document.is_debug() && !self.allow_debug {
            differences.push(Difference::Debug);
        }
        differences.extend(
            self.wanted
                .iter()
                .filter_map(|wanted| wanted.difference(document)),
        );
        differences
    }
}

impl Wanted {
    fn difference(&self, document: &Verified) -> Option<Difference> {
        let bytes = |expected: &[u8], found: Option<&[u8]>| {
            (found != Some(expected)).then(|| BytesDiffer {
                expected: expected.to_vec(),
                found: found.map(<[u8]>::to_vec),
            })
        };
        match self {
            Wanted::Pcr { index, allowed } => {
                let found = document.pcr(*index);
                let matches = found.is_some_and(|found| allowed.contains(&found));
                (!matches).then(|| Difference::Pcr {
                    index: *index,
                    expected: allowed.clone(),
                    found,
                })
            }
            Wanted::Nonce(expected) => bytes(expected, document.nonce()).map(Difference::Nonce),
            Wanted::UserData(expected) => {
                bytes(expected, document.user_data()).map(Difference::UserData)
            }
            Wanted::PublicKey(expected) => {
                bytes(expected, document.public_key()).map(Difference::PublicKey)
            }
            Wanted::ModuleId(expected) => {
                (expected != document.module_id()).then(|| Difference::ModuleId {
                    expected: expected.clone(),
                    found: document.module_id().to_owned(),
                })
            }
        }
    }
}

impl Verified {
    /// Compares the document with what is expected of it. A refusal lists all that differs.
    pub fn admit(self, expectations: &Expectations) -> Result<Admitted, Box<Refusal>> {
        let differences = expectations.differences(&self);
        if differences.is_empty() {
            Ok(Admitted(self))
        } else {
            Err(Box::new(Refusal {
                module_id: self.module_id().to_owned(),
                timestamp_ms: self.timestamp_ms(),
                differences,
            }))
        }
    }
}

/// A document that is true and as expected.
///
/// ```compile_fail
/// fn skip(document: anchorhold_attestation::Verified) -> anchorhold_attestation::Admitted {
///     anchorhold_attestation::Admitted(document)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Admitted(Verified);

impl Deref for Admitted {
    type Target = Verified;

    fn deref(&self) -> &Verified {
        &self.0
    }
}

/// As the [`Verified`] that it holds.
impl Serialize for Admitted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Why a true document was not admitted: everything that differs. Prints for people, and serializes
/// as `{"module_id", "timestamp_ms", "differences": [{"what": "pcr", "index", "expected", "found"}, …]}`
/// with byte strings in hex and `null` for what is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusal {
    /// Which enclave the document speaks of.
    pub module_id: String,
    /// When the document was made, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// At least one.
    pub differences: Vec<Difference>,
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Difference {
    /// No measurement of an image was expected, nor was it said that any will do.
    NoImageExpected,
    /// The enclave runs in debug mode.
    Debug,
    /// A PCR has none of the values allowed.
    Pcr {
        /// Which PCR.
        index: u8,
        /// The values allowed.
        expected: Vec<Pcr>,
        /// The value; `None`: not listed.
        found: Option<Pcr>,
    },
    /// The nonce differs.
    Nonce(BytesDiffer),
    /// The user data differs.
    UserData(BytesDiffer),
    /// The public key differs.
    PublicKey(BytesDiffer),
    /// The enclave's name differs.
    ModuleId {
        /// The name wanted.
        expected: String,
        /// The name that it has.
        found: String,
    },
}

/// Two byte strings, of which the second may be absent. Serializes as hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BytesDiffer {
    /// The bytes wanted.
    pub expected: Vec<u8>,
    /// The bytes that are there, if any.
    pub found: Option<Vec<u8>>,
}

impl Serialize for BytesDiffer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut both = serializer.serialize_struct("BytesDiffer", 2)?;
        both.serialize_field("expected", &hex::encode(&self.expected))?;
        both.serialize_field("found", &self.found.as_ref().map(hex::encode))?;
        both.end()
    }
}

impl Difference {
    /// The difference's stable name, as the conformance corpus has it.
    pub fn name(&self) -> &'static str {
        match self {
            Difference::NoImageExpected => "no-image-expected",
            Difference::Debug => "debug",
            Difference::Pcr { .. } => "pcr",
            Difference::Nonce(_) => "nonce",
            Difference::UserData(_) => "user-data",
            Difference::PublicKey(_) => "public-key",
            Difference::ModuleId { .. } => "module-id",
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the document of {} is genuine, but not what is expected:",
            self.module_id
        )?;
        for difference in &self.differences {
            write!(f, "\n  {difference}")?;
        }
        Ok(())
    }
}

/// Bytes in hex, of which a person needs the beginning and the length.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 48;
        match self.0 {
            [] => f.write_str("empty"),
            bytes if bytes.len() <= MOST => f.write_str(&hex::encode(bytes)),
            bytes => write!(
                f,
                "{}… ({} bytes)",
                hex::encode(&bytes[..MOST]),
                bytes.len()
            ),
        }
    }
}

fn expected_and_found(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    expected: &dyn fmt::Display,
    found: Option<&dyn fmt::Display>,
) -> fmt::Result {
    write!(f, "{what}\n    expected {expected}\n    found    ")?;
    match found {
        Some(found) => write!(f, "{found}"),
        None => f.write_str("nothing: the document does not have it"),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |f: &mut fmt::Formatter<'_>, what: &str, differ: &BytesDiffer| {
            let found = differ.found.as_deref().map(Shown);
            expected_and_found(
                f,
                what,
                &Shown(&differ.expected),
                found.as_ref().map(|found| found as &dyn fmt::Display),
            )
        };
        match self {
            Difference::NoImageExpected => f.write_str(
                "no image is expected: name PCR0, 1, 2 or 8, or say aloud that any image will do",
            ),
            Difference::Debug => f.write_str(
                "debug mode: PCR0, 1 and 2 are zero and the host sees into the enclave; start it \
                 without debug mode, or allow debug for a test",
            ),
            Difference::Pcr {
                index,
                expected,
                found,
            } => {
                let what = format!("PCR{index}");
                let allowed = match expected.as_slice() {
                    [] => "nothing: no value is allowed".to_owned(),
                    values => values
                        .iter()
                        .map(Pcr::to_string)
                        .collect::<Vec<_>>()
                        .join("\n          or "),
                };
                let found = found.as_ref().map(|found| found as &dyn fmt::Display);
                expected_and_found(f, &what, &allowed, found)
            }
            Difference::Nonce(differ) => bytes(f, "nonce", differ),
            Difference::UserData(differ) => bytes(f, "user_data", differ),
            Difference::PublicKey(differ) => bytes(f, "public_key", differ),
            Difference::ModuleId { expected, found } => {
                expected_and_found(f, "module_id", expected, Some(found))
            }
        }
    }
}
