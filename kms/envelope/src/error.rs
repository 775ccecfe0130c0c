//! What can be wrong with a message, its key or the wish to make one. Never holds a key or plaintext.

/// Why a message could not be sealed or opened.
///
/// On opening, every one of these means: this is not the message that was sealed, or not its key, or not all
/// of it. Nothing that came out of such a message may be taken for the whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Header format version 1, which has no key commitment.
    #[error(
        "the message has header version 1, which does not commit to its key; seal it again with an algorithm \
         suite that does (0x0478 or 0x0578, the default of AWS Encryption SDK 2.0 and later)"
    )]
    VersionWithoutCommitment,
    /// The first byte is no version of the format.
    #[error(
        "not a sealed message: the first byte is {0:#04x}, where AWS Encryption SDK messages have 0x02"
    )]
    UnknownVersion(u8),
    /// A suite of the format that does not commit to its key.
    #[error(
        "the message uses algorithm suite {id:#06x}, which does not commit to its key; seal it again with \
         suite 0x0478 or 0x0578 (the SDK's commitment policy REQUIRE_ENCRYPT_REQUIRE_DECRYPT)"
    )]
    SuiteWithoutCommitment {
        /// The suite's identifier.
        id: u16,
    },
    /// No suite of the format.
    #[error("the message names algorithm suite {id:#06x}, which does not exist")]
    UnknownSuite {
        /// The identifier found.
        id: u16,
    },
    /// Not framed, or no content type of the format.
    #[error("the message has content type {0:#04x}; only framed messages (0x02) can be opened")]
    ContentType(u8),
    /// A header larger than [`crate::Limits::max_header_bytes`].
    #[error("the message's header takes more than the limit of {limit} bytes")]
    HeaderTooLong {
        /// The limit in force.
        limit: usize,
    },
    /// More encrypted data keys than [`crate::Limits::max_data_keys`].
    #[error("the message has {found} encrypted data keys, more than the limit of {limit}")]
    TooManyDataKeys {
        /// The number found.
        found: u16,
        /// The limit in force.
        limit: u16,
    },
    /// A frame length of zero.
    #[error("the frame length is 0; it must be at least 1")]
    ZeroFrameLength,
    /// Frames larger than [`crate::Limits::max_frame_length`].
    #[error(
        "the message's frames are {found} bytes long, more than the limit of {limit}; seal it with smaller frames"
    )]
    FrameLengthAboveLimit {
        /// The frame length found.
        found: u32,
        /// The limit in force.
        limit: u32,
    },
    /// The encryption context's bytes contradict their own lengths.
    #[error("the encryption context is malformed: {0}")]
    MalformedContext(&'static str),
    /// The encryption context's keys do not ascend.
    #[error("the encryption context's key {0:?} is out of order; keys must ascend by their bytes")]
    UnsortedContext(String),
    /// A key stands twice in the encryption context.
    #[error("the encryption context has the key {0:?} twice")]
    DuplicateContextKey(String),
    /// The encrypted data keys' bytes are no UTF-8 where they must be, or there are none.
    #[error("the encrypted data keys are malformed: {0}")]
    MalformedDataKeys(&'static str),
    /// The data key is not the one that this message was sealed under.
    #[error(
        "the data key is not the one that this message was sealed under (key commitment differs)"
    )]
    Commitment,
    /// The header's tag is not good: the header was changed.
    #[error("the message's header was changed: its authentication tag is not good")]
    HeaderTag,
    /// A frame's number is not the next one.
    #[error(
        "frame {expected} was expected, and frame {found} came: frames are missing, repeated or out of order"
    )]
    Sequence {
        /// The number due.
        expected: u32,
        /// The number found.
        found: u32,
    },
    /// A frame's IV is not its sequence number.
    #[error("frame {0} has an IV that is not its sequence number")]
    FrameIv(u32),
    /// The final frame is longer than a frame may be.
    #[error("the final frame is {found} bytes long, more than the frame length of {limit}")]
    FinalFrameTooLong {
        /// The length found.
        found: u32,
        /// The message's frame length.
        limit: u32,
    },
    /// A frame's tag is not good: it was changed, or belongs to another message.
    #[error(
        "frame {0} was changed, or belongs to another message: its authentication tag is not good"
    )]
    FrameTag(u32),
    /// A signed message without its signer's public key.
    #[error(
        "the message is of a signed suite, but its encryption context has no `aws-crypto-public-key`"
    )]
    PublicKeyMissing,
    /// An unsigned message that names a signer.
    #[error(
        "the message is of an unsigned suite, but its encryption context has an `aws-crypto-public-key`"
    )]
    PublicKeyUnexpected,
    /// The signer's public key is no compressed P-384 point in base64.
    #[error(
        "the encryption context's `aws-crypto-public-key` is not a compressed P-384 point in base64"
    )]
    PublicKeyMalformed,
    /// The footer's signature is longer than a P-384 signature can be.
    #[error("the message's signature takes {0} bytes, more than an ECDSA P-384 signature can")]
    SignatureTooLong(u16),
    /// The footer's signature is not good.
    #[error(
        "the message's signature is not good: header or frames were changed, or another key signed them"
    )]
    Signature,
    /// Bytes after the message's end.
    #[error("there are bytes after the end of the message")]
    TrailingBytes,
    /// The message ended early.
    #[error("the message is cut off: it ends before its {missing}")]
    Truncated {
        /// What was due.
        missing: &'static str,
    },
    /// The opener was used after it had failed.
    #[error("the message was already refused; it cannot be opened further")]
    AlreadyRefused,
    /// The data key has the wrong length.
    #[error(
        "the data key is {0} bytes long; the suites here take 32 (GenerateDataKey with KeySpec AES_256)"
    )]
    DataKeyLength(usize),
    /// The caller's encryption context uses a reserved key.
    #[error(
        "the encryption context's key {0:?} starts with `aws-crypto-`, which the message format keeps for itself"
    )]
    ReservedContextKey(String),
    /// The encryption context does not fit into the format.
    #[error(
        "the encryption context takes more than the 65535 bytes (or pairs) that the message format has room for"
    )]
    ContextTooLong,
    /// A message needs at least one encrypted data key, and at most 65535, each field at most 65535 bytes.
    #[error("the encrypted data keys do not fit the message format: {0}")]
    DataKeysOutOfRange(&'static str),
    /// A signed suite needs a signing key, an unsigned one takes none.
    #[error("suite {id:#06x} {}", if *.wanted { "needs a signing key: use Sealer::signed" } else { "takes no signing key: use Sealer::new" })]
    SigningKey {
        /// The suite's identifier.
        id: u16,
        /// Whether the suite needs one.
        wanted: bool,
    },
    /// The context given to a signed message does not hold the signing key's public half.
    #[error(
        "the encryption context lacks the signing key's public key; add SigningKey::context_entry() before the \
         data key is made, as the key service binds the whole context"
    )]
    SigningKeyNotInContext,
    /// A message has room for 2^32 - 1 frames.
    #[error("the message would need more than 4294967295 frames; choose a larger frame length")]
    TooManyFrames,
    /// The encryption context of fields is marked as theirs.
    #[error("the encryption context is not one of fields: make it by fields::field_context")]
    NotOfFields,
    /// The cryptographic library refused an operation that has no reason to fail.
    #[error("the cryptographic library failed at {0}")]
    Crypto(&'static str),
}
