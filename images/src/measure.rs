//! Measurements: the PCRs that an image gives to an enclave started from it.
//!
//! With H = SHA-384: PCR0 extends zeros by H(kernel ‖ command line ‖ all ramdisks), PCR1 by H(kernel ‖ command line ‖
//! first ramdisk), PCR2 by H(all other ramdisks), PCR8 by H(DER of the signing certificate). Section headers and the
//! metadata are not measured. The file is read once. PCR1's digest is PCR0's hash state copied after the first ramdisk;
//! PCR2's, and the checksum, are taken by a second thread from the same buffers, so that measuring takes little longer
//! than hashing the image once.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use anchorhold_attestation::Pcr;
use aws_lc_rs::digest::{Context, SHA384};
use serde::Serialize;

use crate::eif::{CRC_OFFSET, SECTION_HEADER_BYTES, Section, SectionKind};
use crate::storage::Storage;

/// Bytes read at a time: few system calls, and small enough to stay in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Buffers between the two threads.
const CHUNKS: usize = 8;

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

/// What the second thread takes, in the file's order.
enum Piece {
    /// For the checksum alone.
    Header(Vec<u8>),
    /// So many bytes at the buffer's beginning, and whether they are the application's.
    Data(Arc<Vec<u8>>, usize, bool),
}

/// Reads the whole file. The sections are those of its table, in order and without gaps.
pub(crate) fn pass(storage: &Storage, sections: &[Section]) -> io::Result<Pass> {
    std::thread::scope(|scope| {
        let (pieces, to_take) = sync_channel::<Piece>(CHUNKS);
        let (emptied, buffers) = sync_channel::<Arc<Vec<u8>>>(CHUNKS);
        let second = scope.spawn(move || {
            let mut crc = crc32fast::Hasher::new();
            let mut application = Context::new(&SHA384);
            for piece in to_take {
                match piece {
                    Piece::Header(bytes) => crc.update(&bytes),
                    Piece::Data(buffer, length, measured) => {
                        crc.update(&buffer[..length]);
                        if measured {
                            application.update(&buffer[..length]);
                        }
                        // Not wanted any more at the file's end.
                        let _ = emptied.try_send(buffer);
                    }
                }
            }
            (register(application), crc.finalize())
        });
        // It ends before its sender does only by a panic, which is seen below.
        let give = |piece| drop(pieces.send(piece));
        let mut hash = Context::new(&SHA384);
        let mut bootstrap = None;
        give(Piece::Header(storage.read(0, CRC_OFFSET as u64)?));
        for section in sections {
            let header = section.offset - SECTION_HEADER_BYTES as u64;
            give(Piece::Header(
                storage.read(header, SECTION_HEADER_BYTES as u64)?,
            ));
            let ramdisk = section.kind == SectionKind::Ramdisk;
            let application = ramdisk && bootstrap.is_some();
            let measured =
                ramdisk || matches!(section.kind, SectionKind::Kernel | SectionKind::CommandLine);
            let mut done = 0;
            while done < section.size {
                let mut buffer = buffers.try_recv().unwrap_or_default();
                let length = usize::try_from(section.size - done)
                    .map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
                // The second thread has let go of it, or has not: then there is another.
                match Arc::get_mut(&mut buffer) {
                    Some(bytes) if bytes.len() == CHUNK_BYTES => {}
                    _ => buffer = Arc::new(vec![0; CHUNK_BYTES]),
                }
                let bytes = Arc::get_mut(&mut buffer).expect("nobody else has it");
                storage.read_exact_at(&mut bytes[..length], section.offset + done)?;
                give(Piece::Data(Arc::clone(&buffer), length, application));
                if measured {
                    hash.update(&buffer[..length]);
                }
                done += length as u64;
            }
            if ramdisk && bootstrap.is_none() {
                bootstrap = Some(hash.clone());
            }
        }
        drop(pieces);
        let pcr0 = register(hash);
        let (pcr2, crc32) = second.join().expect("hashing does not panic");
        Ok(Pass {
            pcr0,
            pcr1: bootstrap.map_or(pcr0, register),
            pcr2,
            crc32,
        })
    })
}

/// A zero register extended once by the digest.
fn register(hash: Context) -> Pcr {
    Pcr::ZERO.extend(hash.finish().as_ref())
}
