//! A container image's layers from anywhere: putting them together never panics, and what is accepted has names that
//! stay below the root and that are there once.
#![no_main]

use anchorhold_images::{Limits, layer_names};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    entries: 1000,
};

fuzz_target!(|bytes: &[u8]| {
    // Two layers, so that whiteouts and links of a lower layer mean something. They are cut at a block's border, as
    // mutations of an archive would otherwise rarely leave two of them.
    let middle = bytes.len() / 1024 * 512;
    let mut bytes = bytes.to_vec();
    for header in bytes.chunks_exact_mut(512) {
        repair_checksum(header);
    }
    let (lower, upper) = bytes.split_at(middle);
    if let Ok(names) = layer_names(&[lower, upper], LIMITS) {
        let mut before = None;
        for name in names {
            assert!(
                name.components()
                    .all(|part| matches!(part, std::path::Component::Normal(_)))
            );
            let name = name.into_os_string();
            assert!(
                before.as_ref() < Some(&name),
                "names are sorted by bytes and distinct"
            );
            before = Some(name);
        }
    }
});

/// With the right checksum more of the reader is reached; every wrong one is refused alike.
fn repair_checksum(header: &mut [u8]) {
    if header.iter().all(|byte| *byte == 0) {
        return;
    }
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
