//! An enclave image from anywhere: reading, measuring and describing it never panics, and what is read has measurements
//! of its own.
#![no_main]

use anchorhold_images::diff::diff;
use anchorhold_images::eif::{CRC_OFFSET, HEADER_BYTES, checksum};
use anchorhold_images::sbom::sbom;
use anchorhold_images::{Limits, Unmeasured};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    entries: 1000,
};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        // With the right checksum more of the reader is reached; every wrong one is refused alike.
        let crc = checksum(&bytes).to_be_bytes();
        bytes[CRC_OFFSET..HEADER_BYTES].copy_from_slice(&crc);
    }
    let Ok(unmeasured) = Unmeasured::from_bytes("fuzz.eif", bytes) else {
        return;
    };
    for ramdisk in unmeasured.ramdisks() {
        let Ok(mut entries) = ramdisk.entries(LIMITS) else {
            continue;
        };
        while let Ok(Some(entry)) = entries.next_entry() {
            assert!(entry.path.is_relative());
            assert!(
                entry
                    .path
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_)))
            );
        }
    }
    if let Ok(image) = unmeasured.measure() {
        assert!(!image.measurements().pcr0.is_zero());
        let _ = image.describe();
        let _ = sbom(&image, None);
        let differences = diff(&image, &image);
        assert!(differences.is_ok_and(|differences| differences.same_measurements()));
    }
});
