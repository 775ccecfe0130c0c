//! Measurements: the PCRs that an image gives to an enclave started from it.
//!
//! With H = SHA-384: PCR0 extends zeros by H(kernel ‖ command line ‖ all ramdisks), PCR1 by H(kernel ‖ command line ‖
//! first ramdisk), PCR2 by H(all other ramdisks), PCR8 by H(DER of the signing certificate). Section headers and the
//! metadata are not measured. PCR1's digest is PCR0's hash state copied after the first ramdisk, and PCR2's is taken by
//! a second thread, so that measuring takes no longer than hashing the image once.

use std::io;

use anchorhold_attestation::Pcr;
use aws_lc_rs::digest::{Context, SHA384};
use serde::Serialize;

use crate::eif::{CRC_OFFSET, SECTION_HEADER_BYTES, Section, SectionKind};
use crate::storage::Storage;

/// Bytes read at a time: few system calls, and small enough to stay in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;

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

/// Reads the whole file. The sections are those of its table, in order and without gaps.
pub(crate) fn pass(storage: &Storage, sections: &[Section]) -> io::Result<Pass> {
    let application = || -> io::Result<Pcr> {
        let mut hash = Context::new(&SHA384);
        let ramdisks = sections
            .iter()
            .filter(|section| section.kind == SectionKind::Ramdisk);
        for section in ramdisks.skip(1) {
            storage.each_chunk(section.offset, section.size, CHUNK_BYTES, |chunk| {
                hash.update(chunk);
            })?;
        }
        Ok(register(hash))
    };
    let image = || -> io::Result<(Pcr, Pcr, u32)> {
        let mut crc = crc32fast::Hasher::new();
        let mut hash = Context::new(&SHA384);
        let mut bootstrap = None;
        crc.update(&storage.read(0, CRC_OFFSET as u64)?);
        for section in sections {
            let header = section.offset - SECTION_HEADER_BYTES as u64;
            crc.update(&storage.read(header, SECTION_HEADER_BYTES as u64)?);
            let measured = matches!(
                section.kind,
                SectionKind::Kernel | SectionKind::CommandLine | SectionKind::Ramdisk
            );
            storage.each_chunk(section.offset, section.size, CHUNK_BYTES, |chunk| {
                crc.update(chunk);
                if measured {
                    hash.update(chunk);
                }
            })?;
            if section.kind == SectionKind::Ramdisk && bootstrap.is_none() {
                bootstrap = Some(hash.clone());
            }
        }
        let pcr0 = register(hash);
        Ok((pcr0, bootstrap.map_or(pcr0, register), crc.finalize()))
    };
    let (image, application) = std::thread::scope(|scope| {
        let application = scope.spawn(application);
        (image(), application.join().expect("hashing does not panic"))
    });
    let (pcr0, pcr1, crc32) = image?;
    Ok(Pass {
        pcr0,
        pcr1,
        pcr2: application?,
        crc32,
    })
}

/// A zero register extended once by the digest.
fn register(hash: Context) -> Pcr {
    Pcr::ZERO.extend(hash.finish().as_ref())
}
