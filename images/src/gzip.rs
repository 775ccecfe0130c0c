//! gzip (RFC 1952) on several threads, with the same bytes whatever their number.
//!
//! The data is cut into blocks of one size. Each is compressed alone, with the 32 KiB before it as its dictionary, and
//! ends at a byte's border; put one behind the other they are one deflate stream, so that the result is one ordinary
//! gzip member, which every reader knows, the kernel's among them. Level and block size are pinned: the compressed
//! bytes are measured. The member's length is a multiple of four without padding behind it, so that another archive may
//! follow, and its last bytes say how much it unpacks to.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use flate2::{Compress, Compression, FlushCompress};

const LEVEL: u32 = 6;
const BLOCK_BYTES: usize = 256 << 10;
/// How far back deflate can refer.
const WINDOW_BYTES: usize = 32 << 10;
/// No name, no time, no flags, no operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A stored block without data, and the same as the last of its stream (RFC 1951, section 3.2.4).
const EMPTY_BLOCK: [u8; 5] = [0, 0, 0, 0xff, 0xff];
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// CRC-32 and length.
const TRAILER_BYTES: u64 = 8;
/// More threads than this would wait for the one that feeds them.
const MAX_THREADS: usize = 16;

/// Compresses what `fill` writes into `sink`, on so many threads.
pub(crate) fn compress<W: Write, E: From<io::Error>>(
    threads: NonZeroUsize,
    sink: W,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let mut gzip = Gzip::new(scope, threads.get().min(MAX_THREADS), sink)?;
        fill(&mut gzip)?;
        gzip.finish()?;
        Ok(())
    })
}

struct Block {
    data: Vec<u8>,
    dictionary: Vec<u8>,
}

struct Packed {
    data: Vec<u8>,
    crc: crc32fast::Hasher,
    /// The block's buffer, to be used again.
    emptied: Vec<u8>,
}

struct Worker {
    blocks: SyncSender<Block>,
    packed: Receiver<io::Result<Packed>>,
}

struct Gzip<W> {
    sink: W,
    /// Block n is for worker n modulo their number, so that results come in order.
    workers: Vec<Worker>,
    sent: usize,
    received: usize,
    filling: Vec<u8>,
    dictionary: Vec<u8>,
    spare: Vec<Vec<u8>>,
    crc: crc32fast::Hasher,
    bytes: u64,
    packed_bytes: u64,
}

impl<W: Write> Gzip<W> {
    fn new<'scope>(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        mut sink: W,
    ) -> io::Result<Gzip<W>> {
        sink.write_all(&HEADER)?;
        let workers = (0..threads)
            .map(|_| {
                let (blocks, to_pack) = sync_channel::<Block>(2);
                let (done, packed) = sync_channel(2);
                scope.spawn(move || {
                    for block in to_pack {
                        // Nobody takes it any more where the build has failed.
                        if done.send(pack(block)).is_err() {
                            return;
                        }
                    }
                });
                Worker { blocks, packed }
            })
            .collect();
        Ok(Gzip {
            sink,
            workers,
            sent: 0,
            received: 0,
            filling: Vec::with_capacity(BLOCK_BYTES),
            dictionary: Vec::new(),
            spare: Vec::new(),
            crc: crc32fast::Hasher::new(),
            bytes: 0,
            packed_bytes: HEADER.len() as u64,
        })
    }

    fn send(&mut self) -> io::Result<()> {
        // Two blocks for each worker: one that it packs and one that waits.
        if self.sent - self.received == 2 * self.workers.len() {
            self.receive()?;
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.reserve(BLOCK_BYTES);
        let data = std::mem::replace(&mut self.filling, next);
        self.bytes += data.len() as u64;
        let window = data[data.len().saturating_sub(WINDOW_BYTES)..].to_vec();
        let dictionary = std::mem::replace(&mut self.dictionary, window);
        let worker = &self.workers[self.sent % self.workers.len()];
        self.sent += 1;
        let block = Block { data, dictionary };
        worker
            .blocks
            .send(block)
            .map_err(|_| io::Error::other("a compressing thread has ended"))
    }

    fn receive(&mut self) -> io::Result<()> {
        let worker = &self.workers[self.received % self.workers.len()];
        self.received += 1;
        let packed = worker
            .packed
            .recv()
            .map_err(|_| io::Error::other("a compressing thread has ended"))??;
        self.crc.combine(&packed.crc);
        self.spare.push(packed.emptied);
        self.packed_bytes += packed.data.len() as u64;
        self.sink.write_all(&packed.data)
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.filling.is_empty() {
            self.send()?;
        }
        while self.received < self.sent {
            self.receive()?;
        }
        // Each of them has one byte more than a multiple of four.
        let end = self.packed_bytes + LAST_BLOCK.len() as u64 + TRAILER_BYTES;
        for _ in 0..end.wrapping_neg() % 4 {
            self.sink.write_all(&EMPTY_BLOCK)?;
        }
        self.sink.write_all(&LAST_BLOCK)?;
        self.sink.write_all(&self.crc.finalize().to_le_bytes())?;
        // Modulo 2^32, as the format has it.
        self.sink.write_all(&(self.bytes as u32).to_le_bytes())
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filling.len() == BLOCK_BYTES {
            self.send()?;
        }
        let taken = bytes.len().min(BLOCK_BYTES - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses one block, from a fresh state: what came before on this thread must not show.
fn pack(block: Block) -> io::Result<Packed> {
    let Block {
        mut data,
        dictionary,
    } = block;
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    if !dictionary.is_empty() {
        deflate
            .set_dictionary(&dictionary)
            .map_err(io::Error::other)?;
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&data);
    // Deflate grows data by at most 5 bytes in 16 KiB, and each flush adds a few.
    let mut packed = Vec::with_capacity(data.len() + data.len() / 1024 + 1024);
    deflate.compress_vec(&data, &mut packed, FlushCompress::Sync)?;
    if deflate.total_in() != data.len() as u64 || packed.len() == packed.capacity() {
        return Err(io::Error::other("a block grew beyond deflate's bound"));
    }
    data.clear();
    Ok(Packed {
        data: packed,
        crc,
        emptied: data,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::bufread::GzDecoder;

    use super::*;

    /// Text-like bytes: neither constant nor random.
    fn data(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..bytes)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                b"etaoinshrdlu \n.,"[(state >> 60) as usize]
            })
            .collect()
    }

    fn packed(data: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let mut sink = Vec::new();
        compress::<_, io::Error>(NonZeroUsize::new(threads).unwrap(), &mut sink, |gzip| {
            for piece in data.chunks(piece) {
                gzip.write_all(piece)?;
            }
            Ok(())
        })
        .unwrap();
        sink
    }

    #[test]
    fn all_lengths_around_a_block_come_back_as_one_member() {
        for bytes in [
            0,
            1,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            3 * BLOCK_BYTES,
        ] {
            let data = data(bytes);
            let packed = packed(&data, 2, 8192);
            let mut decoder = GzDecoder::new(packed.as_slice());
            let mut back = Vec::new();
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!(back, data);
            assert_eq!(packed.len() % 4, 0);
            assert!(decoder.into_inner().is_empty(), "one member, and no more");
        }
    }

    #[test]
    fn any_number_of_threads_and_any_pieces_give_the_same_bytes() {
        let data = data(5 * BLOCK_BYTES + 12_345);
        let one = packed(&data, 1, data.len());
        for (threads, piece) in [(1, 7_777), (2, 1 << 20), (3, 100_000), (64, 4096)] {
            assert!(packed(&data, threads, piece) == one, "{threads} threads");
        }
    }

    #[test]
    fn bytes_that_do_not_compress_grow_by_less_than_a_thousandth() {
        let mut state = 9u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(1 << 20)
        .collect();
        let packed = packed(&noise, 2, 1 << 16);
        assert!(packed.len() < noise.len() + noise.len() / 1000);
    }

    #[test]
    fn a_failing_sink_fails_the_whole_and_hangs_nobody() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 < bytes.len() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0 -= bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let data = data(8 * BLOCK_BYTES);
        for room in [0, 10, 100_000, 300_000] {
            let result =
                compress::<_, io::Error>(NonZeroUsize::new(2).unwrap(), Full(room), |gzip| {
                    gzip.write_all(&data)
                });
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
