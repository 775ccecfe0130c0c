//! The key service's file `root.wrapped`, unwrapped by a root key in a file and by a token that is not there.
//!
//! Whatever comes in: no panic, no root key fits, and the file stays as it was.
#![no_main]

use anchorhold_kms::config::{RootKey, SecretSource, TokenKey};
use libfuzzer_sys::fuzz_target;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

fuzz_target!(|bytes: &[u8]| {
    let folder = PathBuf::from(format!(
        "/dev/shm/anchorhold-fuzz-wrapped-{}",
        std::process::id()
    ));
    let _ = std::fs::create_dir(&folder);
    let key = folder.join("old.key");
    if !key.exists() {
        std::fs::write(&key, format!("{}\n", "5a".repeat(32))).expect("a file in memory");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    let wrapped = folder.join("root.wrapped");
    std::fs::write(&wrapped, bytes).expect("a file in memory");
    let token = TokenKey {
        module: folder.join("module.so"),
        token: "token".to_owned(),
        key: "key".to_owned(),
        pin: SecretSource::File(folder.join("pin")),
    };
    for from in [RootKey::File(key), RootKey::Token(token)] {
        let to = RootKey::File(folder.join("new.key"));
        assert!(anchorhold_kms::rewrap_store(&folder, &from, &to).is_err());
        assert_eq!(std::fs::read(&wrapped).expect("it is still there"), bytes);
    }
});
