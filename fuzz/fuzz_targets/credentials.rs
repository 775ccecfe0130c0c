//! What endpoints and shared files hand out as credentials: never a panic, and no profile but the one that was asked for.
#![no_main]

use anchorhold_parent::window::{is_credentials_json, read_profile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = is_credentials_json(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for is_config in [false, true] {
        let _ = read_profile(text, "default", is_config);
        if matches!(read_profile(text, "nowhere", is_config), Ok(true) | Err(_)) {
            assert!(text.contains("nowhere"));
        }
    }
});
