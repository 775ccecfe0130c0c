//! Sealing and opening from a reader to a writer: memory flat, every frame encrypted and decrypted where it
//! lies, so that the bytes are copied by the reader and the writer only.

use std::io::{self, Read, Write};

use zeroize::{Zeroize, Zeroizing};

use crate::frame::{FINAL_HEAD, Kind};
use crate::header::TAG_LEN;
use crate::opener::Item;
use crate::{DataKey, Error, Header, Limits, Opener, Parse, SealOptions, Sealer, SigningKey};

/// Why [`seal`] stopped. What was written so far is a cut-off message.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Reading the plaintext.
    #[error("cannot read the data to be sealed: {0}")]
    Read(#[source] io::Error),
    /// Writing the message.
    #[error("cannot write the sealed message: {0}")]
    Write(#[source] io::Error),
    /// The message could not be made.
    #[error(transparent)]
    Message(#[from] Error),
}

/// Why [`open`] stopped. What was written so far is not the whole, and must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E> {
    /// Reading the message.
    #[error("cannot read the sealed message: {0}")]
    Read(#[source] io::Error),
    /// Writing the plaintext.
    #[error("cannot write the opened data: {0}")]
    Write(#[source] io::Error),
    /// No data key.
    #[error("{0}")]
    Key(E),
    /// The message is not what was sealed.
    #[error(transparent)]
    Message(#[from] Error),
}

/// What [`seal`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The message's id.
    pub message_id: [u8; 32],
    /// Bytes of plaintext read.
    pub plaintext_bytes: u64,
    /// Bytes of the message written.
    pub message_bytes: u64,
}

/// What [`open`] opened, now authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The message's header.
    pub header: Header,
    /// Bytes of plaintext written.
    pub plaintext_bytes: u64,
}

/// Seals all that `reader` gives into `writer`, and flushes it. Memory: one frame.
///
/// `signing_key` is for [`crate::Suite::CommitKeySigned`]; see [`Sealer::signed`].
///
/// # Errors
/// Reading, writing, or [`Error`].
pub fn seal(
    mut reader: impl Read,
    mut writer: impl Write,
    options: SealOptions,
    signing_key: Option<SigningKey>,
    key: DataKey,
    message_id: [u8; 32],
) -> Result<Sealed, SealError> {
    let frame_length = options.frame_length as usize;
    let (sealer, header) = match signing_key {
        Some(signing_key) => Sealer::signed(options, signing_key, key, message_id)?,
        None => Sealer::new(options, key, message_id)?,
    };
    let Sealer {
        mut frames,
        mut signer,
        ..
    } = sealer;
    writer.write_all(&header).map_err(SealError::Write)?;
    let mut written = Sealed {
        message_id,
        plaintext_bytes: 0,
        message_bytes: header.len() as u64,
    };
    // A frame's head ends where its content begins, whichever of the two heads it is.
    let mut buffer = Zeroizing::new(vec![0; FINAL_HEAD + frame_length + TAG_LEN]);
    loop {
        let content = read_full(
            &mut reader,
            &mut buffer[FINAL_HEAD..FINAL_HEAD + frame_length],
        )
        .map_err(SealError::Read)?;
        let kind = if content == frame_length {
            Kind::Regular
        } else {
            Kind::Final
        };
        let (head, head_len) = frames.head(kind, content);
        let start = FINAL_HEAD - head_len;
        let end = FINAL_HEAD + content;
        buffer[start..FINAL_HEAD].copy_from_slice(&head[..head_len]);
        let tag = frames.seal(kind, &mut buffer[FINAL_HEAD..end])?;
        buffer[end..end + TAG_LEN].copy_from_slice(&tag);
        let frame = &buffer[start..end + TAG_LEN];
        if let Some(signer) = &mut signer {
            signer.digest.update(frame);
        }
        writer.write_all(frame).map_err(SealError::Write)?;
        written.plaintext_bytes += content as u64;
        written.message_bytes += frame.len() as u64;
        if kind == Kind::Final {
            break;
        }
    }
    if let Some(signer) = signer {
        let footer = signer.footer()?;
        writer.write_all(&footer).map_err(SealError::Write)?;
        written.message_bytes += footer.len() as u64;
    }
    writer.flush().map_err(SealError::Write)?;
    Ok(written)
}

/// Opens the message that `reader` gives, to its very end, into `writer`, and flushes it. Memory: about two
/// frames of the message, at most [`Limits::max_frame_length`] each.
///
/// `key` gets the header, which is not authentic yet, and returns the data key. **Until this returns `Ok`, what
/// `writer` got is a part**: see [`Opener`].
///
/// # Errors
/// Reading, writing, what `key` fails with, or [`Error`].
pub fn open<E>(
    mut reader: impl Read,
    mut writer: impl Write,
    limits: &Limits,
    key: impl FnOnce(&Header) -> Result<DataKey, E>,
) -> Result<Opened, OpenError<E>> {
    let mut buffer = Window::new(16 * 1024);
    let header = loop {
        match Header::parse(buffer.bytes(), limits)? {
            Parse::Complete { header, consumed } => {
                buffer.consume(consumed);
                break *header;
            }
            Parse::Incomplete => {
                let wanted = buffer.bytes().len() + 1;
                if !buffer.fill(&mut reader, wanted).map_err(OpenError::Read)? {
                    return Err(Error::Truncated {
                        missing: "header's end",
                    }
                    .into());
                }
            }
        }
    };
    let data_key = key(&header).map_err(OpenError::Key)?;
    let mut opener = Opener::new(header.clone(), data_key)?;
    let mut plaintext_bytes = 0;
    let mut release = |plaintext: &[u8]| {
        plaintext_bytes += plaintext.len() as u64;
        writer.write_all(plaintext).map_err(OpenError::Write)
    };
    // Several frames at once where they are small, so that few reads carry many of them.
    buffer.grow((2 * (header.frame_length() as usize + FINAL_HEAD + TAG_LEN)).max(256 * 1024));
    loop {
        match opener.look(buffer.bytes())? {
            Item::Need(wanted) => {
                if !buffer.fill(&mut reader, wanted).map_err(OpenError::Read)? {
                    opener.finish()?;
                    return Err(Error::Truncated { missing: "end" }.into());
                }
            }
            Item::Frame(layout) => {
                let total = layout.total();
                release(opener.open_frame_in_place(&mut buffer.bytes_mut()[..total], layout)?)?;
                buffer.consume(total);
            }
            Item::Footer(total) => {
                release(&opener.footer(&buffer.bytes()[..total])?)?;
                buffer.consume(total);
            }
            Item::End => {
                let more = !buffer.bytes().is_empty()
                    || buffer.fill(&mut reader, 1).map_err(OpenError::Read)?;
                if more {
                    return Err(Error::TrailingBytes.into());
                }
                break;
            }
        }
    }
    opener.finish()?;
    writer.flush().map_err(OpenError::Write)?;
    Ok(Opened {
        header,
        plaintext_bytes,
    })
}

/// Reads until `buffer` is full or there is no more. Returns how much it read.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Bytes read and not yet used, in a buffer that is wiped at the end: frames are decrypted in it.
struct Window {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Window {
    fn new(capacity: usize) -> Self {
        Self {
            buffer: Zeroizing::new(vec![0; capacity]),
            start: 0,
            end: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
    }

    fn grow(&mut self, capacity: usize) {
        if capacity > self.buffer.len() {
            let mut larger = Zeroizing::new(vec![0; capacity]);
            let length = self.bytes().len();
            larger[..length].copy_from_slice(self.bytes());
            self.buffer.zeroize();
            (self.buffer, self.start, self.end) = (larger, 0, length);
        }
    }

    /// Reads until at least `wanted` bytes are here. Returns false if the reader ended before.
    fn fill(&mut self, reader: &mut impl Read, wanted: usize) -> io::Result<bool> {
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.buffer.len() {
                self.grow(wanted.next_power_of_two());
            }
        }
        while self.end - self.start < wanted {
            match reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
