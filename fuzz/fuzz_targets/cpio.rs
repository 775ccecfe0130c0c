//! A ramdisk's archive from anywhere: the reader never panics, never gives a name that leaves the root or the same name
//! twice, and gives no more data than it was given.
#![no_main]

use std::collections::HashSet;
use std::io::Read;

use anchorhold_images::cpio::{EntryKind, Limits, Reader};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    entries: 1000,
};

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes, LIMITS);
    let mut seen = HashSet::new();
    let mut data = 0;
    let mut buffer = [0; 512];
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(
            entry
                .path
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        );
        if entry.kind != EntryKind::Directory {
            assert!(seen.insert(entry.path), "the same name twice");
        }
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            data += read;
        }
    }
    assert!(data <= bytes.len());
});
