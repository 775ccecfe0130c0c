//! zstd (RFC 8878) as a stream: frames one behind the other, and those that are to be skipped between them.
//!
//! A frame says how much its reader must remember; more than a bound is an error, so that a few bytes cannot ask for
//! gigabytes of memory.

use std::io::{self, BufRead, Cursor, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// 32 MiB. Only `--ultra` and `--long` need more.
const MAX_WINDOW_BYTES: u64 = 32 << 20;
const SKIPPED: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

/// A frame's first bytes, which were looked at already, and the rest.
type Frame<R> = io::Chain<Cursor<[u8; 4]>, R>;

/// Decompresses all frames of a source.
pub(super) struct Zstd<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    Between(R),
    Inside(Box<StreamingDecoder<Frame<R>, FrameDecoder>>),
    /// Something failed.
    Broken,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(source: R) -> Zstd<R> {
        Zstd {
            state: State::Between(source),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        self.state = State::Between(source);
                        return Ok(0);
                    }
                    let mut magic = [0; 4];
                    source.read_exact(&mut magic)?;
                    if SKIPPED.contains(&u32::from_le_bytes(magic)) {
                        let mut length = [0; 4];
                        source.read_exact(&mut length)?;
                        let length = u64::from(u32::from_le_bytes(length));
                        let skipped = io::copy(&mut source.by_ref().take(length), &mut io::sink())?;
                        if skipped < length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        self.state = State::Between(source);
                        continue;
                    }
                    let frame = Cursor::new(magic).chain(source);
                    let decoder =
                        StreamingDecoder::new_with_max_window_size(frame, MAX_WINDOW_BYTES)
                            .map_err(io::Error::other)?;
                    self.state = State::Inside(Box::new(decoder));
                }
                State::Inside(mut decoder) => {
                    let read = decoder.read(buffer)?;
                    self.state = if read > 0 {
                        State::Inside(decoder)
                    } else {
                        State::Between(decoder.into_inner().into_inner().1)
                    };
                    if read > 0 {
                        return Ok(read);
                    }
                }
                State::Broken => return Err(io::Error::other("the zstd stream is broken")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut back = Vec::new();
        Zstd::new(bytes).read_to_end(&mut back).map(|_| back)
    }

    #[test]
    fn frames_one_behind_the_other_are_one_stream_and_skipped_ones_are_skipped() {
        let frame = |data: &[u8]| compress_to_vec(data, CompressionLevel::Fastest);
        let skipped = b"\x53\x2a\x4d\x18\x05\0\0\0abcde";
        let both = [
            &skipped[..],
            &frame(b"one "),
            skipped,
            &frame(b"two"),
            skipped,
        ]
        .concat();
        assert_eq!(read(&both).unwrap(), b"one two");
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_cut_off_or_no_frame_is_an_error() {
        let frame = compress_to_vec(&b"some text"[..], CompressionLevel::Fastest);
        for end in 1..frame.len() {
            assert!(read(&frame[..end]).is_err(), "cut at {end}");
        }
        assert!(read(&[&frame[..], b"x"].concat()).is_err());
        assert!(read(b"\x53\x2a\x4d\x18\x05\0\0\0abc").is_err());
        assert!(read(b"no frame at all").is_err());
    }

    #[test]
    fn a_frame_that_wants_gigabytes_of_memory_is_refused() {
        // A frame header without a content size, whose window is 2^31 bytes, and the beginning of a block.
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x09, 0, 0];
        let error = read(&header).unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("window"),
            "{error}"
        );
    }
}
