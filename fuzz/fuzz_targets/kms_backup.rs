//! Backups of the key service, restored.
//!
//! Whatever comes in: no panic, and nothing is restored, since nothing here is authentic under the root key; the
//! folder has no store afterwards.
#![no_main]

use anchorhold_kms::config::RootKey;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;

fuzz_target!(|bytes: &[u8]| {
    let folder = PathBuf::from(format!(
        "/dev/shm/anchorhold-fuzz-backup-{}",
        std::process::id()
    ));
    let _ = std::fs::create_dir(&folder);
    let (from, state) = (folder.join("backup"), folder.join("state"));
    let mut backup = b"anchorhold-kms backup 1\n".to_vec();
    // The magic is in front of half of them, so that what comes after it is read, too.
    if bytes.first().is_some_and(|byte| byte % 2 == 0) {
        backup.extend_from_slice(&bytes[1..]);
    } else {
        backup = bytes.to_vec();
    }
    std::fs::write(&from, &backup).expect("a file in memory");
    let root = RootKey::File(folder.join("root.key"));
    assert!(anchorhold_kms::restore(&from, &state, &root).is_err());
    assert!(!state.join("store.redb").exists() && !state.join("root.wrapped").exists());
});
