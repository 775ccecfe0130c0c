//! Opening without I/O: frames in, plaintext out. Must never release a byte whose frame is not authenticated,
//! nor say that a message is whole unless its end was proven.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::frame::{Frames, Kind, Layout, Look};
use crate::header::TAG_LEN;
use crate::signature::{MAX_SIGNATURE, PUBLIC_KEY_ENTRY, Verifier};
use crate::{DataKey, Error, Header, Limits, Parse};

/// Opens one message, after its [`Header`].
///
/// Plaintext is released frame by frame, each once it is authenticated. That proves who made the frame and
/// where it belongs; **it does not prove that the message goes on as it should**: only [`finish`](Self::finish)
/// says that all of it was there. Of a signed message the last frame's content is held back until the signature
/// is verified, the frames before it are released unsigned. Whoever must not act on a part waits for `finish`,
/// or uses [`open_whole`].
pub struct Opener {
    frames: Frames,
    verifier: Option<Verifier>,
    state: State,
    /// Ciphertext of an item (a frame or the footer) that has not come in full.
    pending: Vec<u8>,
    /// The last frame's content, of a signed message.
    held: Zeroizing<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Frames,
    Footer,
    Done,
    Refused,
}

/// What the bytes at hand are.
pub(crate) enum Item {
    /// Nothing yet, before there are this many.
    Need(usize),
    Frame(Layout),
    /// Of this many bytes, its length field included.
    Footer(usize),
    /// The message is at its end.
    End,
}

impl Opener {
    /// Proves the header under the data key: the key commitment first (in constant time), then the tag.
    ///
    /// # Errors
    /// [`Error::Commitment`]: another data key; [`Error::HeaderTag`]: the header was changed; or the signer's
    /// public key is missing or unusable.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a data key is used for one message, then gone"
    )]
    pub fn new(header: Header, key: DataKey) -> Result<Self, Error> {
        let (key, commitment) = key.derive(header.suite(), header.message_id())?;
        if !bool::from(commitment.ct_eq(header.commitment())) {
            return Err(Error::Commitment);
        }
        let frames = Frames::new(key, *header.message_id(), header.frame_length());
        frames.check_header(header.body(), header.tag())?;
        let verifier = if header.suite().is_signed() {
            let mut verifier = Verifier::new(header.context())?;
            verifier.digest.update(header.bytes());
            Some(verifier)
        } else if header.context().contains_key(PUBLIC_KEY_ENTRY) {
            // A signature would be expected, and none could be there.
            return Err(Error::PublicKeyUnexpected);
        } else {
            None
        };
        Ok(Self {
            frames,
            verifier,
            state: State::Frames,
            pending: Vec::new(),
            held: Zeroizing::default(),
        })
    }

    /// Takes bytes of the message in, in pieces of any size, and appends the plaintext of every frame that is
    /// proven to `out`.
    ///
    /// # Errors
    /// The message is not what was sealed. `out` then holds nothing of the bad frame, and every later call
    /// fails with [`Error::AlreadyRefused`].
    pub fn update(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if self.state == State::Refused {
            return Err(Error::AlreadyRefused);
        }
        let outcome = self.take(bytes, out);
        if outcome.is_err() {
            self.refuse();
        }
        outcome
    }

    /// Whether the message's end has been proven: what comes after is refused.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Says whether the message was whole.
    ///
    /// # Errors
    /// [`Error::Truncated`] unless the final frame, and for a signed message a good signature, were seen.
    pub fn finish(self) -> Result<(), Error> {
        match self.state {
            State::Done => Ok(()),
            State::Frames => Err(Error::Truncated {
                missing: "final frame",
            }),
            State::Footer => Err(Error::Truncated {
                missing: "signature",
            }),
            State::Refused => Err(Error::AlreadyRefused),
        }
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.pending.is_empty() {
                match self.look(bytes)? {
                    Item::Need(_) => {
                        self.pending.extend_from_slice(bytes);
                        return Ok(());
                    }
                    Item::Frame(layout) => {
                        let (frame, rest) = bytes.split_at(layout.total());
                        self.put_frame(frame, layout, out)?;
                        bytes = rest;
                    }
                    Item::Footer(length) => {
                        let (footer, rest) = bytes.split_at(length);
                        out.extend_from_slice(&self.footer(footer)?);
                        bytes = rest;
                    }
                    Item::End => return Err(Error::TrailingBytes),
                }
                continue;
            }
            // Fill up what was begun, and never beyond it.
            let Item::Need(wanted) = self.look(&self.pending)? else {
                return Err(Error::Crypto("keeping frames apart"));
            };
            let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.pending.len()));
            self.pending.extend_from_slice(taken);
            bytes = rest;
            match self.look(&self.pending)? {
                Item::Need(_) => {}
                Item::Frame(layout) => {
                    let pending = std::mem::take(&mut self.pending);
                    self.put_frame(&pending, layout, out)?;
                    self.pending = pending;
                    self.pending.clear();
                }
                Item::Footer(_) => {
                    let pending = std::mem::take(&mut self.pending);
                    out.extend_from_slice(&self.footer(&pending)?);
                }
                Item::End => return Err(Error::TrailingBytes),
            }
        }
        Ok(())
    }

    pub(crate) fn look(&self, bytes: &[u8]) -> Result<Item, Error> {
        match self.state {
            State::Frames => Ok(match self.frames.look(bytes)? {
                Look::Need(wanted) => Item::Need(wanted),
                Look::Whole(layout) => Item::Frame(layout),
            }),
            State::Footer => {
                let Some(length) = bytes.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
                else {
                    return Ok(Item::Need(2));
                };
                if length > MAX_SIGNATURE {
                    return Err(Error::SignatureTooLong(length));
                }
                let total = 2 + usize::from(length);
                Ok(if bytes.len() < total {
                    Item::Need(total)
                } else {
                    Item::Footer(total)
                })
            }
            State::Done => Ok(Item::End),
            State::Refused => Err(Error::AlreadyRefused),
        }
    }

    fn put_frame(&mut self, frame: &[u8], layout: Layout, out: &mut Vec<u8>) -> Result<(), Error> {
        let (ciphertext, tag) = frame[layout.head..].split_at(layout.content);
        let tag = &tag[..TAG_LEN];
        self.digest(frame);
        if self.holds_back(layout.kind) {
            let mut held = Zeroizing::new(vec![0; layout.content]);
            self.frames
                .open_into(layout.kind, ciphertext, tag, &mut held)?;
            self.held = held;
        } else {
            let start = out.len();
            out.resize(start + layout.content, 0);
            if let Err(error) =
                self.frames
                    .open_into(layout.kind, ciphertext, tag, &mut out[start..])
            {
                out.truncate(start);
                return Err(error);
            }
        }
        self.after(layout.kind);
        Ok(())
    }

    /// Opens a whole frame where it lies. Returns what may be released of it.
    pub(crate) fn open_frame_in_place<'a>(
        &mut self,
        frame: &'a mut [u8],
        layout: Layout,
    ) -> Result<&'a [u8], Error> {
        self.digest(frame);
        let (rest, tag) = frame.split_at_mut(layout.tag_at());
        let content = &mut rest[layout.head..];
        if let Err(error) = self.frames.open(layout.kind, content, tag) {
            self.refuse();
            return Err(error);
        }
        self.after(layout.kind);
        if self.state == State::Footer {
            self.held = Zeroizing::new(content.to_vec());
            return Ok(&[]);
        }
        Ok(content)
    }

    /// Verifies the signature in a whole footer. Returns what was held back for it.
    pub(crate) fn footer(&mut self, footer: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let verifier = self
            .verifier
            .take()
            .ok_or(Error::Crypto("verifying a signature"))?;
        if let Err(error) = verifier.verify(&footer[2..]) {
            self.refuse();
            return Err(error);
        }
        self.state = State::Done;
        Ok(std::mem::take(&mut self.held))
    }

    fn holds_back(&self, kind: Kind) -> bool {
        kind == Kind::Final && self.verifier.is_some()
    }

    fn digest(&mut self, bytes: &[u8]) {
        if let Some(verifier) = &mut self.verifier {
            verifier.digest.update(bytes);
        }
    }

    fn after(&mut self, kind: Kind) {
        if kind == Kind::Final {
            self.state = if self.verifier.is_some() {
                State::Footer
            } else {
                State::Done
            };
        }
    }

    fn refuse(&mut self) {
        self.state = State::Refused;
        self.pending = Vec::new();
        self.held = Zeroizing::default();
    }

    /// The number of the frame that is due.
    pub fn next_frame(&self) -> u32 {
        self.frames.due()
    }
}

/// Opens a message that is in memory as a whole, and returns nothing before all of it, the signature of a
/// signed one included, is proven. For small things such as secrets.
///
/// `key` gets the header and returns the data key.
///
/// # Errors
/// The message is not what was sealed, as the first [`Error`] found, or what `key` fails with.
pub fn open_whole<E: From<Error>>(
    message: &[u8],
    limits: &Limits,
    key: impl FnOnce(&Header) -> Result<DataKey, E>,
) -> Result<(Header, Zeroizing<Vec<u8>>), E> {
    let Parse::Complete { header, consumed } = Header::parse(message, limits)? else {
        return Err(Error::Truncated {
            missing: "header's end",
        }
        .into());
    };
    let key = key(&header)?;
    // The plaintext is shorter than the message: no growing, so no copies left behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(message.len()));
    let mut opener = Opener::new((*header).clone(), key)?;
    opener.update(&message[consumed..], &mut plaintext)?;
    opener.finish()?;
    Ok((*header, plaintext))
}
