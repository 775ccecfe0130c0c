//! Sealing without I/O: plaintext in, frames out. Must never emit a final frame but through `finish`, as that
//! frame is what makes a message whole.

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use crate::frame::{Frames, Kind};
use crate::header::{self, EncryptedDataKey, EncryptionContext};
use crate::signature::{PUBLIC_KEY_ENTRY, RESERVED_PREFIX, SigningKey};
use crate::{DataKey, Error, Suite};

/// Bytes of plaintext per frame unless the caller says otherwise: 64 KiB.
///
/// Measured (`benches/throughput.rs`): below 16 KiB the cost per frame shows, above 256 KiB a frame no longer
/// fits the processor's second cache, and a reader has to hold a frame before it can release a byte of it.
pub const DEFAULT_FRAME_LENGTH: u32 = 64 * 1024;

/// What a message is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealOptions {
    /// The suite.
    pub suite: Suite,
    /// Bytes of plaintext per frame, at least 1.
    pub frame_length: u32,
    /// The encryption context, exactly as the key service was given it.
    pub context: EncryptionContext,
    /// The data key, encrypted by one or more keys.
    pub data_keys: Vec<EncryptedDataKey>,
}

impl SealOptions {
    /// An unsigned message ([`Suite::CommitKey`]) with frames of [`DEFAULT_FRAME_LENGTH`].
    pub fn new(context: EncryptionContext, data_keys: Vec<EncryptedDataKey>) -> Self {
        Self {
            suite: Suite::CommitKey,
            frame_length: DEFAULT_FRAME_LENGTH,
            context,
            data_keys,
        }
    }
}

/// Seals one message.
///
/// Dropping it before [`finish`](Self::finish) leaves a message that every reader refuses as cut off.
pub struct Sealer {
    pub(crate) frames: Frames,
    pub(crate) signer: Option<Signer>,
    /// Plaintext of the frame that is not full yet.
    pending: Zeroizing<Vec<u8>>,
}

pub(crate) struct Signer {
    pub(crate) digest: digest::Context,
    pub(crate) key: SigningKey,
}

impl Sealer {
    /// Begins an unsigned message; returns its header with it, which comes before all frames.
    ///
    /// `message_id` must be new and random for every message: see [`crate::new_message_id`].
    ///
    /// # Errors
    /// The options do not fit the format, or the suite is a signed one ([`Error::SigningKey`]).
    pub fn new(
        options: SealOptions,
        key: DataKey,
        message_id: [u8; 32],
    ) -> Result<(Self, Vec<u8>), Error> {
        Self::begin(options, key, message_id, None)
    }

    /// Begins a message of [`Suite::CommitKeySigned`]. Its encryption context must already hold
    /// [`SigningKey::context_entry`].
    ///
    /// # Errors
    /// As for [`Sealer::new`]; [`Error::SigningKeyNotInContext`] without that entry.
    pub fn signed(
        options: SealOptions,
        signing_key: SigningKey,
        key: DataKey,
        message_id: [u8; 32],
    ) -> Result<(Self, Vec<u8>), Error> {
        Self::begin(options, key, message_id, Some(signing_key))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a data key is used for one message, then gone"
    )]
    fn begin(
        options: SealOptions,
        key: DataKey,
        message_id: [u8; 32],
        signing_key: Option<SigningKey>,
    ) -> Result<(Self, Vec<u8>), Error> {
        let SealOptions {
            suite,
            frame_length,
            context,
            data_keys,
        } = options;
        if suite.is_signed() != signing_key.is_some() {
            return Err(Error::SigningKey {
                id: suite.id(),
                wanted: suite.is_signed(),
            });
        }
        if frame_length == 0 {
            return Err(Error::ZeroFrameLength);
        }
        let entry = signing_key
            .as_ref()
            .map(SigningKey::context_entry)
            .transpose()?;
        for (name, value) in &context {
            let own = entry
                .as_ref()
                .is_some_and(|(own, point)| own == name && point == value);
            if name.starts_with(RESERVED_PREFIX) && !own {
                return Err(if entry.is_some() && name == PUBLIC_KEY_ENTRY {
                    Error::SigningKeyNotInContext
                } else {
                    Error::ReservedContextKey(name.clone())
                });
            }
        }
        if entry.is_some_and(|(name, _)| !context.contains_key(&name)) {
            return Err(Error::SigningKeyNotInContext);
        }
        let (key, commitment) = key.derive(suite, &message_id)?;
        let mut header = header::encode(
            suite,
            &message_id,
            &context,
            &data_keys,
            frame_length,
            &commitment,
        )?;
        let frames = Frames::new(key, message_id, frame_length);
        let tag = frames.header_tag(&header)?;
        header.extend_from_slice(&tag);
        let signer = signing_key.map(|key| {
            let mut digest = digest::Context::new(&digest::SHA384);
            digest.update(&header);
            Signer { digest, key }
        });
        Ok((
            Self {
                frames,
                signer,
                pending: Zeroizing::default(),
            },
            header,
        ))
    }

    /// Takes plaintext in, and appends every frame that it fills to `out`.
    ///
    /// # Errors
    /// [`Error::TooManyFrames`]. The message is lost then.
    pub fn update(&mut self, mut plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let frame_length = self.frames.frame_length();
        if !self.pending.is_empty() {
            let (taken, rest) =
                plaintext.split_at(plaintext.len().min(frame_length - self.pending.len()));
            self.pending.extend_from_slice(taken);
            plaintext = rest;
            if self.pending.len() < frame_length {
                return Ok(());
            }
            let mut pending = std::mem::take(&mut self.pending);
            self.put_frame(Kind::Regular, &pending, out)?;
            // Not wiped between frames, as the next one comes into its place; wiped at the end.
            pending.clear();
            self.pending = pending;
        }
        let mut whole = plaintext.chunks_exact(frame_length);
        for content in &mut whole {
            self.put_frame(Kind::Regular, content, out)?;
        }
        let rest = whole.remainder();
        if !rest.is_empty() {
            // In full at once, so that no copy stays behind in memory that was given back.
            self.pending.reserve_exact(frame_length);
            self.pending.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Appends the final frame, and the signature of a signed message, to `out`.
    ///
    /// # Errors
    /// [`Error::TooManyFrames`], [`Error::Crypto`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.pending);
        self.put_frame(Kind::Final, &pending, out)?;
        if let Some(signer) = self.signer {
            out.extend_from_slice(&signer.footer()?);
        }
        Ok(())
    }

    fn put_frame(&mut self, kind: Kind, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (head, head_len) = self.frames.head(kind, content.len());
        let start = out.len();
        out.reserve(head_len + content.len() + header::TAG_LEN);
        out.extend_from_slice(&head[..head_len]);
        out.resize(start + head_len + content.len() + header::TAG_LEN, 0);
        if let Err(error) = self
            .frames
            .seal_into(kind, content, &mut out[start + head_len..])
        {
            out.truncate(start);
            return Err(error);
        }
        if let Some(signer) = &mut self.signer {
            signer.digest.update(&out[start..]);
        }
        Ok(())
    }
}

impl Signer {
    /// Length and signature.
    pub(crate) fn footer(self) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(&self.digest.finish())?;
        let length = u16::try_from(signature.len())
            .map_err(|_| Error::Crypto("signing"))?
            .to_be_bytes();
        Ok([length.as_slice(), &signature].concat())
    }
}
