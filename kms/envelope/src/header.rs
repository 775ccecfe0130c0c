//! The header: read within bounds, checked for form; nothing in it is authentic before
//! [`crate::Opener::new`] has checked it under the data key.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::{Error, Suite};

/// Public data that is bound to a message: authenticated, not encrypted. Sorted by key, as the format wants.
pub type EncryptionContext = BTreeMap<String, String>;

const VERSION: u8 = 2;
const FRAMED: u8 = 2;
pub(crate) const TAG_LEN: usize = 16;
const MESSAGE_ID_LEN: usize = 32;
const COMMITMENT_LEN: usize = 32;
/// Version, suite, message id.
const PREFIX_LEN: usize = 1 + 2 + MESSAGE_ID_LEN;
/// Content type, frame length, commitment, tag.
const SUFFIX_LEN: usize = 1 + 4 + COMMITMENT_LEN + TAG_LEN;

/// A data key, encrypted by a key service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDataKey {
    /// Who encrypted it: `aws-kms` for a KMS key.
    pub provider_id: String,
    /// Under which key: for `aws-kms`, the key's ARN.
    pub key_info: String,
    /// The encrypted key: for `aws-kms`, the `CiphertextBlob`.
    pub ciphertext: Vec<u8>,
}

/// What a reader puts up with, so that nobody makes it fill its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest header, in bytes. Default 256 KiB: a full encryption context (64 KiB) and room for data keys.
    pub max_header_bytes: usize,
    /// Most encrypted data keys. Default 32. Each may cost its reader a call to the key service.
    pub max_data_keys: u16,
    /// Largest frame length, in bytes. Default 16 MiB. The reader holds one frame in memory.
    pub max_frame_length: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 256 * 1024,
            max_data_keys: 32,
            max_frame_length: 16 * 1024 * 1024,
        }
    }
}

/// A well-formed header, **not yet authentic**: it says which data key to ask for, and nothing else in it
/// should be acted on before [`crate::Opener::new`] took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    suite: Suite,
    message_id: [u8; 32],
    context: EncryptionContext,
    data_keys: Vec<EncryptedDataKey>,
    foreign_data_keys: usize,
    frame_length: u32,
    commitment: [u8; 32],
    /// All bytes of the header, the tag included.
    bytes: Vec<u8>,
}

/// The outcome of [`Header::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parse {
    /// So far this may become a header; more bytes are needed.
    Incomplete,
    /// A whole header.
    Complete {
        /// The header.
        header: Box<Header>,
        /// How many of the bytes it took; the frames follow.
        consumed: usize,
    },
}

impl Header {
    /// Reads a header from the beginning of `bytes`, which may hold less or more than one.
    ///
    /// Call it again with more bytes while it says [`Parse::Incomplete`]; that costs no more than a look at
    /// the lengths. What can be refused early is refused early.
    ///
    /// # Errors
    /// Version, suite, content type, form or size is not what this crate reads: see [`Error`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Parse, Error> {
        let Some(length) = measure(bytes, limits)? else {
            return Ok(Parse::Incomplete);
        };
        let Some(bytes) = bytes.get(..length) else {
            return Ok(Parse::Incomplete);
        };
        let header = Self::decode(bytes, limits)?;
        Ok(Parse::Complete {
            header: Box::new(header),
            consumed: length,
        })
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The message's id, drawn by its writer.
    pub fn message_id(&self) -> &[u8; 32] {
        &self.message_id
    }

    /// The whole encryption context, `aws-crypto-public-key` of a signed message included: that is what the
    /// key service must be given.
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// The encrypted data keys: each holds the same data key. Those that name their key in bytes that are no
    /// text are left out; no key service could be asked for them.
    pub fn data_keys(&self) -> &[EncryptedDataKey] {
        &self.data_keys
    }

    /// How many encrypted data keys [`data_keys`](Self::data_keys) leaves out: the SDK's raw AES keyrings put a
    /// nonce where a key service has its key's name.
    pub fn foreign_data_keys(&self) -> usize {
        self.foreign_data_keys
    }

    /// Bytes of plaintext in each frame but the last.
    pub fn frame_length(&self) -> u32 {
        self.frame_length
    }

    pub(crate) fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    /// The authenticated bytes.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - TAG_LEN]
    }

    pub(crate) fn tag(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - TAG_LEN..]
    }

    /// All bytes, the tag included.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `bytes` is exactly one header by [`measure`], so no field can run out.
    fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, Error> {
        let mut fields = Fields(bytes);
        let _version = fields.u8()?;
        let suite = Suite::from_id(fields.u16()?)?;
        let message_id = fields.array()?;
        let context = decode_context(fields.prefixed()?)?;
        let count = fields.u16()?;
        let mut data_keys = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let provider_id = utf8(fields.prefixed()?)
                .ok_or(Error::MalformedDataKeys("a provider id is not UTF-8"))?;
            let key_info = utf8(fields.prefixed()?);
            let ciphertext = fields.prefixed()?.to_vec();
            if let Some(key_info) = key_info {
                data_keys.push(EncryptedDataKey {
                    provider_id,
                    key_info,
                    ciphertext,
                });
            }
        }
        let foreign_data_keys = usize::from(count) - data_keys.len();
        let content_type = fields.u8()?;
        if content_type != FRAMED {
            return Err(Error::ContentType(content_type));
        }
        let frame_length = fields.u32()?;
        if frame_length == 0 {
            return Err(Error::ZeroFrameLength);
        }
        if frame_length > limits.max_frame_length {
            return Err(Error::FrameLengthAboveLimit {
                found: frame_length,
                limit: limits.max_frame_length,
            });
        }
        let commitment = fields.array()?;
        Ok(Self {
            suite,
            message_id,
            context,
            data_keys,
            foreign_data_keys,
            frame_length,
            commitment,
            bytes: bytes.to_vec(),
        })
    }
}

/// Writes a header without its tag.
pub(crate) fn encode(
    suite: Suite,
    message_id: &[u8; 32],
    context: &EncryptionContext,
    data_keys: &[EncryptedDataKey],
    frame_length: u32,
    commitment: &[u8; 32],
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(1024);
    out.push(VERSION);
    out.extend_from_slice(&suite.id().to_be_bytes());
    out.extend_from_slice(message_id);
    let mut pairs = Vec::new();
    if !context.is_empty() {
        let count = u16::try_from(context.len()).map_err(|_| Error::ContextTooLong)?;
        pairs.extend_from_slice(&count.to_be_bytes());
        for text in context.iter().flat_map(|(key, value)| [key, value]) {
            put_prefixed(&mut pairs, text.as_bytes()).ok_or(Error::ContextTooLong)?;
        }
    }
    put_prefixed(&mut out, &pairs).ok_or(Error::ContextTooLong)?;
    let count = u16::try_from(data_keys.len())
        .map_err(|_| Error::DataKeysOutOfRange("there are more than 65535"))?;
    if count == 0 {
        return Err(Error::DataKeysOutOfRange("there is none"));
    }
    out.extend_from_slice(&count.to_be_bytes());
    for key in data_keys {
        for field in [
            key.provider_id.as_bytes(),
            key.key_info.as_bytes(),
            &key.ciphertext,
        ] {
            put_prefixed(&mut out, field).ok_or(Error::DataKeysOutOfRange(
                "a field takes more than 65535 bytes",
            ))?;
        }
    }
    out.push(FRAMED);
    out.extend_from_slice(&frame_length.to_be_bytes());
    out.extend_from_slice(commitment);
    Ok(out)
}

/// The length of the header that `bytes` begins with, or `None` while that cannot be seen yet. Looks at
/// lengths only, and refuses what is too large before its bytes have come.
fn measure(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Error> {
    let Some(&version) = bytes.first() else {
        return Ok(None);
    };
    match version {
        VERSION => {}
        1 => return Err(Error::VersionWithoutCommitment),
        other => return Err(Error::UnknownVersion(other)),
    }
    let Some(id) = u16_at(bytes, 1) else {
        return Ok(None);
    };
    Suite::from_id(id)?;
    let mut at = PREFIX_LEN;
    let bounded = |at: usize| {
        if at + SUFFIX_LEN > limits.max_header_bytes {
            Err(Error::HeaderTooLong {
                limit: limits.max_header_bytes,
            })
        } else {
            Ok(at)
        }
    };
    let Some(context) = u16_at(bytes, at) else {
        return Ok(None);
    };
    at = bounded(at + 2 + usize::from(context))?;
    let Some(count) = u16_at(bytes, at) else {
        return Ok(None);
    };
    if count == 0 {
        return Err(Error::MalformedDataKeys("there is none"));
    }
    if count > limits.max_data_keys {
        return Err(Error::TooManyDataKeys {
            found: count,
            limit: limits.max_data_keys,
        });
    }
    at += 2;
    for _ in 0..u32::from(count) * 3 {
        let Some(field) = u16_at(bytes, at) else {
            return Ok(None);
        };
        at = bounded(at + 2 + usize::from(field))?;
    }
    Ok(Some(at + SUFFIX_LEN))
}

fn decode_context(bytes: &[u8]) -> Result<EncryptionContext, Error> {
    let mut context = EncryptionContext::new();
    if bytes.is_empty() {
        return Ok(context);
    }
    let short = |_| Error::MalformedContext("a pair is longer than the whole");
    let mut fields = Fields(bytes);
    let count = fields.u16().map_err(short)?;
    if count == 0 {
        return Err(Error::MalformedContext("it is empty, and yet takes bytes"));
    }
    for _ in 0..count {
        let key = utf8(fields.prefixed().map_err(short)?)
            .ok_or(Error::MalformedContext("a key is not UTF-8"))?;
        let value = utf8(fields.prefixed().map_err(short)?)
            .ok_or(Error::MalformedContext("a value is not UTF-8"))?;
        let ascends = context.last_key_value().is_none_or(|(last, _)| *last < key);
        match context.entry(key) {
            Entry::Occupied(entry) => {
                return Err(Error::DuplicateContextKey(entry.key().clone()));
            }
            Entry::Vacant(entry) if !ascends => {
                return Err(Error::UnsortedContext(entry.into_key()));
            }
            Entry::Vacant(entry) => entry.insert(value),
        };
    }
    if fields.0.is_empty() {
        Ok(context)
    } else {
        Err(Error::MalformedContext("bytes follow its last pair"))
    }
}

fn put_prefixed(out: &mut Vec<u8>, field: &[u8]) -> Option<()> {
    let length = u16::try_from(field.len()).ok()?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(field);
    Some(())
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u16::from_be_bytes(*chunk))
}

/// Big-endian fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Error::Truncated { missing: "header" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn prefixed(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}
