//! A ramdisk of an image: a cpio archive, plain or gzip'd, read as a stream.
//!
//! A [`Ramdisk`] is independent of the image that it came from, so that ramdisks can be unpacked on several threads
//! while the image is still being measured. Nothing that is unpacked may be run before that measurement is done.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use serde::Serialize;

use crate::cpio::{self, Limits, Skip};
use crate::eif::Section;
use crate::storage::{RangeReader, Storage};

const BUFFER_BYTES: usize = 128 << 10;

/// How a ramdisk is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Compression {
    /// Not at all.
    #[serde(rename = "none")]
    None,
    /// gzip (RFC 1952).
    #[serde(rename = "gzip")]
    Gzip,
}

/// One ramdisk of an image. Cheap to clone.
#[derive(Clone)]
pub struct Ramdisk {
    storage: Storage,
    section: Section,
}

impl Ramdisk {
    pub(crate) fn new(storage: Storage, section: Section) -> Ramdisk {
        Ramdisk { storage, section }
    }

    /// Bytes as they stand in the image.
    pub fn size(&self) -> u64 {
        self.section.size
    }

    /// How the archive is compressed.
    ///
    /// # Errors
    /// `Unsupported` for compressions that the kernel knows and this crate does not; else what reading gives.
    pub fn compression(&self) -> io::Result<Compression> {
        let start = self
            .storage
            .read(self.section.offset, self.section.size.min(6))?;
        let unsupported = |name: &str| {
            let text = format!(
                "{name} compression is not supported: build the image with gzip or plain ramdisks"
            );
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        };
        match start.as_slice() {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => unsupported("zstd"),
            [0x02, 0x21, 0x4c, 0x18, ..] => unsupported("lz4"),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
            [0x5d, 0, 0, ..] => unsupported("lzma"),
            // What is no archive at all is for the cpio reader to say.
            _ => Ok(Compression::None),
        }
    }

    /// How many bytes its archive has at least, as far as can be told without unpacking it: what gzip's last four bytes
    /// say, which is the length modulo 2^32 (RFC 1952). Whoever made the image may lie about it.
    pub(crate) fn unpacked_bytes(&self) -> io::Result<u64> {
        let Section { offset, size, .. } = self.section;
        if self.compression()? == Compression::None || size < 4 {
            return Ok(size);
        }
        let end = self.storage.read(offset + size - 4, 4)?;
        let stated = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
        // What cannot be compressed grows by less than this: what is said to be shorter has lost its upper bits.
        let least = size.saturating_sub(size / 256 + 64);
        let lost = least.saturating_sub(stated).div_ceil(1 << 32);
        Ok(stated + (lost << 32))
    }

    /// The archive's entries, as a stream. `limits` bound what unpacking may cost.
    pub fn entries(&self, limits: Limits) -> io::Result<cpio::Reader<RamdiskReader>> {
        let range = RangeReader::new(self.storage.clone(), self.section.offset, self.section.size);
        let buffered = BufReader::with_capacity(BUFFER_BYTES, range);
        let stream = match self.compression()? {
            Compression::None => Stream::Plain(buffered),
            Compression::Gzip => Stream::Gzip(Box::new(GzDecoder::new(buffered))),
        };
        Ok(cpio::Reader::new(RamdiskReader { stream }, limits))
    }
}

impl fmt::Debug for Ramdisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ramdisk")
            .field("section", &self.section)
            .finish_non_exhaustive()
    }
}

/// A ramdisk's archive, decompressed.
pub struct RamdiskReader {
    stream: Stream,
}

enum Stream {
    Plain(BufReader<RangeReader>),
    Gzip(Box<GzDecoder<BufReader<RangeReader>>>),
}

impl Read for RamdiskReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(plain) => plain.read(buffer),
            Stream::Gzip(decoder) => {
                let read = decoder.read(buffer)?;
                // The kernel would go on to unpack what follows; a decoder that stops here would never see it. Zeros
                // it skips.
                if read == 0 && !buffer.is_empty() {
                    only_zeros(decoder.get_mut())?;
                }
                Ok(read)
            }
        }
    }
}

fn only_zeros(rest: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = rest.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes follow the gzip stream",
            ));
        }
        let zeros = bytes.len();
        rest.consume(zeros);
    }
}

impl Skip for RamdiskReader {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(plain) => {
                let buffered = plain.buffer().len() as u64;
                let consumed = count.min(buffered);
                plain.consume(consumed as usize);
                if count > consumed {
                    plain.get_mut().skip(count - consumed)?;
                }
                Ok(())
            }
            Stream::Gzip(decoder) => {
                let mut buffer =
                    vec![0; BUFFER_BYTES.min(usize::try_from(count).unwrap_or(BUFFER_BYTES))];
                let mut left = count;
                while left > 0 {
                    let length =
                        usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    decoder.read_exact(&mut buffer[..length])?;
                    left -= length as u64;
                }
                Ok(())
            }
        }
    }
}
