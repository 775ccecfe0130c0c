//! Frames: their layout, their order and their encryption in place. The one place that makes IVs: the IV of
//! frame n is n, so no frame may ever be sealed twice under one message key.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroize;

use crate::Error;
use crate::header::TAG_LEN;

/// Stands where a regular frame has its number.
pub(crate) const FINAL_MARK: u32 = 0xFFFF_FFFF;
/// Number and IV.
pub(crate) const REGULAR_HEAD: usize = 4 + 12;
/// Mark, number, IV and content length.
pub(crate) const FINAL_HEAD: usize = 4 + 4 + 12 + 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Final,
}

/// Where a frame's parts are in the bytes that begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) kind: Kind,
    pub(crate) head: usize,
    pub(crate) content: usize,
}

impl Layout {
    pub(crate) fn tag_at(&self) -> usize {
        self.head + self.content
    }

    pub(crate) fn total(&self) -> usize {
        self.head + self.content + TAG_LEN
    }
}

/// What can be said of the bytes at hand.
pub(crate) enum Look {
    /// Nothing before there are this many bytes (more than there are).
    Need(usize),
    /// A frame, whole.
    Whole(Layout),
}

/// The key of one message, and the number of the frame that is due.
pub(crate) struct Frames {
    key: LessSafeKey,
    message_id: [u8; 32],
    frame_length: u32,
    next: u32,
}

impl Frames {
    pub(crate) fn new(key: LessSafeKey, message_id: [u8; 32], frame_length: u32) -> Self {
        Self {
            key,
            message_id,
            frame_length,
            next: 1,
        }
    }

    /// The key, for what is no frame: see [`crate::fields`].
    pub(crate) fn into_key(self) -> LessSafeKey {
        self.key
    }

    pub(crate) fn frame_length(&self) -> usize {
        self.frame_length as usize
    }

    /// The number of the frame that is due.
    pub(crate) fn due(&self) -> u32 {
        self.next
    }

    /// The header's tag: GCM under IV 0 over the header's bytes.
    pub(crate) fn header_tag(&self, header: &[u8]) -> Result<[u8; TAG_LEN], Error> {
        self.key
            .seal_in_place_separate_tag(nonce(0), Aad::from(header), &mut [])
            .map_err(|_| Error::Crypto("authenticating the header"))
            .map(|tag| {
                let mut bytes = [0; TAG_LEN];
                bytes.copy_from_slice(tag.as_ref());
                bytes
            })
    }

    pub(crate) fn check_header(&self, header: &[u8], tag: &[u8]) -> Result<(), Error> {
        self.key
            .open_in_place_separate_tag(nonce(0), Aad::from(header), tag, &mut [])
            .map(|_| ())
            .map_err(|_| Error::HeaderTag)
    }

    /// Encrypts the content of the frame that is due, in place. Returns its tag; `head` must have been asked
    /// for before, as it gives the head of the frame that is due.
    ///
    /// On error the content is wiped.
    pub(crate) fn seal(&mut self, kind: Kind, content: &mut [u8]) -> Result<[u8; TAG_LEN], Error> {
        let sealed = self.advance(kind).and_then(|number| {
            let aad = AssociatedData::new(&self.message_id, kind, number, content.len());
            self.key
                .seal_in_place_separate_tag(nonce(number), Aad::from(aad.as_slice()), content)
                .map_err(|_| Error::Crypto("encrypting a frame"))
        });
        match sealed {
            Ok(tag) => {
                let mut bytes = [0; TAG_LEN];
                bytes.copy_from_slice(tag.as_ref());
                Ok(bytes)
            }
            Err(error) => {
                content.zeroize();
                Err(error)
            }
        }
    }

    /// Encrypts the content of the frame that is due from one place into another of the same length, tag
    /// after it: a copy and an encryption in one pass over memory.
    pub(crate) fn seal_into(
        &mut self,
        kind: Kind,
        content: &[u8],
        ciphertext_and_tag: &mut [u8],
    ) -> Result<(), Error> {
        let number = self.advance(kind)?;
        let aad = AssociatedData::new(&self.message_id, kind, number, content.len());
        let (ciphertext, tag) = ciphertext_and_tag.split_at_mut(content.len());
        self.key
            .seal_out_of_place_scatter(
                nonce(number),
                Aad::from(aad.as_slice()),
                content,
                ciphertext,
                &[],
                tag,
            )
            .map_err(|_| Error::Crypto("encrypting a frame"))
    }

    /// Authenticates the frame that is due, and decrypts its content in place.
    ///
    /// On error the content is wiped.
    pub(crate) fn open(&mut self, kind: Kind, content: &mut [u8], tag: &[u8]) -> Result<(), Error> {
        let opened = self.advance(kind).and_then(|number| {
            let aad = AssociatedData::new(&self.message_id, kind, number, content.len());
            self.key
                .open_in_place_separate_tag(nonce(number), Aad::from(aad.as_slice()), tag, content)
                .map(|_| ())
                .map_err(|_| Error::FrameTag(number))
        });
        if opened.is_err() {
            content.zeroize();
        }
        opened
    }

    /// Authenticates the frame that is due, and decrypts its content into `content`, which has its length.
    ///
    /// On error `content` is wiped.
    pub(crate) fn open_into(
        &mut self,
        kind: Kind,
        ciphertext: &[u8],
        tag: &[u8],
        content: &mut [u8],
    ) -> Result<(), Error> {
        let opened = self.advance(kind).and_then(|number| {
            let aad = AssociatedData::new(&self.message_id, kind, number, ciphertext.len());
            self.key
                .open_separate_gather(
                    nonce(number),
                    Aad::from(aad.as_slice()),
                    ciphertext,
                    tag,
                    content,
                )
                .map_err(|_| Error::FrameTag(number))
        });
        if opened.is_err() {
            content.zeroize();
        }
        opened
    }

    /// Looks at the bytes that begin with a frame's head; refuses a frame that is not the one that is due as
    /// soon as its head shows it.
    pub(crate) fn look(&self, bytes: &[u8]) -> Result<Look, Error> {
        let Some(mark) = u32_at(bytes, 0) else {
            return Ok(Look::Need(4));
        };
        let (kind, head) = if mark == FINAL_MARK {
            (Kind::Final, FINAL_HEAD)
        } else {
            self.expect(mark)?;
            (Kind::Regular, REGULAR_HEAD)
        };
        if bytes.len() < head {
            return Ok(Look::Need(head));
        }
        let content = match kind {
            Kind::Regular => {
                self.check_iv(&bytes[4..16])?;
                self.frame_length
            }
            Kind::Final => {
                self.expect(u32_at(bytes, 4).unwrap_or_default())?;
                self.check_iv(&bytes[8..20])?;
                let found = u32_at(bytes, 20).unwrap_or_default();
                if found > self.frame_length {
                    return Err(Error::FinalFrameTooLong {
                        found,
                        limit: self.frame_length,
                    });
                }
                found
            }
        };
        let layout = Layout {
            kind,
            head,
            content: content as usize,
        };
        Ok(if bytes.len() < layout.total() {
            Look::Need(layout.total())
        } else {
            Look::Whole(layout)
        })
    }

    /// The head of the frame that is due. Regular heads fill the first [`REGULAR_HEAD`] bytes.
    pub(crate) fn head(&self, kind: Kind, content: usize) -> ([u8; FINAL_HEAD], usize) {
        let mut head = [0; FINAL_HEAD];
        let number = self.next.to_be_bytes();
        match kind {
            Kind::Regular => {
                head[..4].copy_from_slice(&number);
                head[12..16].copy_from_slice(&number);
                (head, REGULAR_HEAD)
            }
            Kind::Final => {
                head[..4].copy_from_slice(&FINAL_MARK.to_be_bytes());
                head[4..8].copy_from_slice(&number);
                head[16..20].copy_from_slice(&number);
                head[20..].copy_from_slice(&(content as u32).to_be_bytes());
                (head, FINAL_HEAD)
            }
        }
    }

    /// Takes the number that is due. The last number belongs to a final frame: as a regular frame's it would
    /// be the final frame's mark.
    fn advance(&mut self, kind: Kind) -> Result<u32, Error> {
        let number = self.next;
        if number == 0 || (kind == Kind::Regular && number == FINAL_MARK) {
            return Err(Error::TooManyFrames);
        }
        // After the very last frame 0 is due, which no frame can have.
        self.next = number.wrapping_add(1);
        Ok(number)
    }

    fn expect(&self, found: u32) -> Result<(), Error> {
        if found == self.next {
            Ok(())
        } else {
            Err(Error::Sequence {
                expected: self.next,
                found,
            })
        }
    }

    fn check_iv(&self, iv: &[u8]) -> Result<(), Error> {
        if iv[..8] == [0; 8] && iv[8..] == self.next.to_be_bytes() {
            Ok(())
        } else {
            Err(Error::FrameIv(self.next))
        }
    }

    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, number: u32) {
        self.next = number;
    }
}

/// Message id, what kind of frame, its number and its content's length.
struct AssociatedData {
    bytes: [u8; 32 + 34 + 4 + 8],
    length: usize,
}

impl AssociatedData {
    fn new(message_id: &[u8; 32], kind: Kind, number: u32, content: usize) -> Self {
        let name: &[u8] = match kind {
            Kind::Regular => b"AWSKMSEncryptionClient Frame",
            Kind::Final => b"AWSKMSEncryptionClient Final Frame",
        };
        let mut aad = Self {
            bytes: [0; 78],
            length: 0,
        };
        aad.put(message_id);
        aad.put(name);
        aad.put(&number.to_be_bytes());
        aad.put(&(content as u64).to_be_bytes());
        aad
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.length..self.length + field.len()].copy_from_slice(field);
        self.length += field.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

pub(crate) fn nonce(number: u32) -> Nonce {
    let mut iv = [0; 12];
    iv[8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(iv)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::aead::{AES_256_GCM, UnboundKey};

    use super::*;

    fn frames() -> Frames {
        let key = UnboundKey::new(&AES_256_GCM, &[0; 32]).expect("32 bytes are a key");
        Frames::new(LessSafeKey::new(key), [0; 32], 4)
    }

    #[test]
    fn the_last_number_is_for_a_final_frame_only() {
        let mut frames = frames();
        frames.skip_to(FINAL_MARK);
        let mut content = *b"text";
        assert_eq!(
            frames.seal(Kind::Regular, &mut content),
            Err(Error::TooManyFrames)
        );
        assert_eq!(
            content, [0; 4],
            "plaintext is wiped when it cannot be sealed"
        );
        let (head, length) = frames.head(Kind::Final, 4);
        let mut content = *b"text";
        let tag = frames
            .seal(Kind::Final, &mut content)
            .expect("a final frame may be the last");
        assert_eq!(
            frames.seal(Kind::Final, &mut [0; 4]),
            Err(Error::TooManyFrames)
        );

        let frame = [&head[..length], &content, &tag].concat();
        frames.skip_to(FINAL_MARK);
        let Ok(Look::Whole(layout)) = frames.look(&frame) else {
            panic!("the frame is whole and due");
        };
        frames
            .open(layout.kind, &mut content, &tag)
            .expect("the frame is authentic");
        assert_eq!(&content, b"text");
    }

    #[test]
    fn a_frame_that_is_not_authentic_is_wiped() {
        let mut content = *b"text";
        assert_eq!(
            frames().open(Kind::Regular, &mut content, &[0; TAG_LEN]),
            Err(Error::FrameTag(1))
        );
        assert_eq!(content, [0; 4]);
    }
}
