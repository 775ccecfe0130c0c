//! Measurements: the PCRs that an image gives to an enclave started from it.
//!
//! With H = SHA-384: PCR0 extends zeros by H(kernel ‖ command line ‖ all ramdisks), PCR1 by H(kernel ‖ command line ‖
//! first ramdisk), PCR2 by H(all other ramdisks), PCR8 by H(DER of the signing certificate). Section headers and the
//! metadata are not measured. The file is read once. PCR1's digest is PCR0's hash state copied after the first ramdisk;
//! PCR2's, and the checksum, are taken by a second thread from the same buffers, so that measuring takes little longer
//! than hashing the image once. An image that is being written is measured meanwhile, from its file: a [`Follower`] reads
//! what the writer has told it is there to stay.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use anchorhold_attestation::Pcr;
use aws_lc_rs::digest::{Context, SHA384};
use serde::Serialize;

use crate::eif::{CRC_OFFSET, HEADER_BYTES, SECTION_HEADER_BYTES, Section, SectionKind};
use crate::storage::Storage;

/// Bytes read at a time: few system calls, and small enough to stay in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Buffers between the two threads.
const CHUNKS: usize = 8;
/// News of a writer that a follower has not heard yet. With more the writer waits, so that what it writes is read while
/// the system still has it in memory.
const NEWS: usize = 256;

/// The PCRs of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Measurements {
    /// The whole image: kernel, command line, all ramdisks.
    #[serde(rename = "PCR0")]
    pub pcr0: Pcr,
    /// Kernel, command line, first ramdisk: what is the same for all applications.
    #[serde(rename = "PCR1")]
    pub pcr1: Pcr,
    /// The ramdisks after the first: the application.
    #[serde(rename = "PCR2")]
    pub pcr2: Pcr,
    /// The signing certificate; none for an unsigned image, for which an enclave's PCR8 is zero.
    #[serde(rename = "PCR8", skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<Pcr>,
}

/// PCR8 of an image signed by the given certificate.
pub fn signer_pcr(certificate_der: &[u8]) -> Pcr {
    let mut hash = Context::new(&SHA384);
    hash.update(certificate_der);
    register(hash)
}

/// What one pass over an image's file gives.
pub(crate) struct Pass {
    pub(crate) pcr0: Pcr,
    pub(crate) pcr1: Pcr,
    pub(crate) pcr2: Pcr,
    /// CRC-32 of the file but the four bytes that hold it.
    pub(crate) crc32: u32,
}

/// What is known of an image's file, in the file's order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known {
    /// A section begins; its data will be at the offset.
    Begins(SectionKind, u64),
    /// The section's data is final up to this offset of the file.
    Until(u64),
    /// The section ends there, and its header is final too.
    Ends(u64),
}

/// Reads the whole file. The sections are those of its table, in order and without gaps.
pub(crate) fn pass(storage: &Storage, sections: &[Section]) -> io::Result<Pass> {
    let known = sections.iter().flat_map(|section| {
        let begins = Known::Begins(section.kind, section.offset);
        [begins, Known::Ends(section.offset + section.size)]
    });
    Sums::of(storage, known)?.with_header(storage)
}

/// Measures an image while it is being written.
pub(crate) struct Follower {
    news: SyncSender<Known>,
    sums: JoinHandle<io::Result<Sums>>,
}

impl Follower {
    /// Of a file that has no section yet.
    pub(crate) fn new(file: &Arc<File>) -> io::Result<Follower> {
        let (news, heard) = sync_channel(NEWS);
        let storage = Storage::File {
            file: Arc::clone(file),
            // It grows.
            bytes: u64::MAX,
        };
        let sums = std::thread::Builder::new()
            .name("measuring".to_owned())
            .spawn(move || Sums::of(&storage, heard.into_iter()))?;
        Ok(Follower { news, sums })
    }

    pub(crate) fn hear(&self, news: Known) {
        // Why nobody hears it is said at the end.
        let _ = self.news.send(news);
    }

    /// What it has measured, once the last section has ended.
    pub(crate) fn finish(self) -> io::Result<Sums> {
        drop(self.news);
        self.sums.join().expect("hashing does not panic")
    }
}

/// All sections of a file, hashed.
pub(crate) struct Sums {
    pcr0: Pcr,
    pcr1: Pcr,
    pcr2: Pcr,
    /// Of what follows the header.
    crc: crc32fast::Hasher,
    /// What was hashed.
    sections: Vec<Section>,
}

/// What the second thread takes.
enum Piece {
    /// So many bytes at the buffer's beginning, and whether they are the application's.
    Data(Arc<Vec<u8>>, usize, bool),
    /// The header of the section whose data it had.
    Header(Vec<u8>),
}

impl Sums {
    /// Whether these are of just these sections.
    pub(crate) fn are_of(&self, sections: &[Section]) -> bool {
        self.sections == sections
    }

    /// With the file's header, which is final by now but for the checksum.
    pub(crate) fn with_header(self, storage: &Storage) -> io::Result<Pass> {
        let Sums {
            pcr0,
            pcr1,
            pcr2,
            crc,
            ..
        } = self;
        let mut header = crc32fast::Hasher::new();
        header.update(&storage.read(0, CRC_OFFSET as u64)?);
        header.combine(&crc);
        Ok(Pass {
            pcr0,
            pcr1,
            pcr2,
            crc32: header.finalize(),
        })
    }

    fn of(storage: &Storage, known: impl Iterator<Item = Known>) -> io::Result<Sums> {
        std::thread::scope(|scope| {
            let (pieces, to_take) = sync_channel::<Piece>(CHUNKS);
            let (emptied, buffers) = sync_channel::<Arc<Vec<u8>>>(CHUNKS);
            let second = scope.spawn(move || {
                let mut crc = crc32fast::Hasher::new();
                // A section's header holds its length, so that a writer knows it last.
                let mut data = crc32fast::Hasher::new();
                let mut application = Context::new(&SHA384);
                for piece in to_take {
                    match piece {
                        Piece::Header(bytes) => {
                            crc.update(&bytes);
                            crc.combine(&std::mem::take(&mut data));
                        }
                        Piece::Data(buffer, length, measured) => {
                            data.update(&buffer[..length]);
                            if measured {
                                application.update(&buffer[..length]);
                            }
                            // Not wanted any more at the file's end.
                            let _ = emptied.try_send(buffer);
                        }
                    }
                }
                (register(application), crc)
            });
            // It ends before its sender does only by a panic, which is seen below.
            let give = |piece| drop(pieces.send(piece));
            let mut hash = Context::new(&SHA384);
            let mut bootstrap = None;
            let mut sections = Vec::new();
            let mut section = Section {
                kind: SectionKind::Metadata,
                offset: HEADER_BYTES as u64,
                size: 0,
            };
            for news in known {
                let (until, ended) = match news {
                    Known::Begins(kind, offset) => {
                        section = Section {
                            kind,
                            offset,
                            size: 0,
                        };
                        continue;
                    }
                    Known::Until(until) => (until, false),
                    Known::Ends(until) => (until, true),
                };
                let Section { kind, offset, .. } = section;
                let ramdisk = kind == SectionKind::Ramdisk;
                let application = ramdisk && bootstrap.is_some();
                let measured =
                    ramdisk || matches!(kind, SectionKind::Kernel | SectionKind::CommandLine);
                while offset + section.size < until {
                    let mut buffer = buffers.try_recv().unwrap_or_default();
                    let at = offset + section.size;
                    let length = usize::try_from(until - at)
                        .map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
                    // The second thread has let go of it, or has not: then there is another.
                    match Arc::get_mut(&mut buffer) {
                        Some(bytes) if bytes.len() == CHUNK_BYTES => {}
                        _ => buffer = Arc::new(vec![0; CHUNK_BYTES]),
                    }
                    let bytes = Arc::get_mut(&mut buffer).expect("nobody else has it");
                    storage.read_exact_at(&mut bytes[..length], at)?;
                    give(Piece::Data(Arc::clone(&buffer), length, application));
                    if measured {
                        hash.update(&buffer[..length]);
                    }
                    section.size += length as u64;
                }
                if ended {
                    let header = offset - SECTION_HEADER_BYTES as u64;
                    give(Piece::Header(
                        storage.read(header, SECTION_HEADER_BYTES as u64)?,
                    ));
                    if ramdisk && bootstrap.is_none() {
                        bootstrap = Some(hash.clone());
                    }
                    sections.push(section);
                }
            }
            drop(pieces);
            let pcr0 = register(hash);
            let (pcr2, crc) = second.join().expect("hashing does not panic");
            Ok(Sums {
                pcr0,
                pcr1: bootstrap.map_or(pcr0, register),
                pcr2,
                crc,
                sections,
            })
        })
    }
}

/// A zero register extended once by the digest.
fn register(hash: Context) -> Pcr {
    Pcr::ZERO.extend(hash.finish().as_ref())
}
