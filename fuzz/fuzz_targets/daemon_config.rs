//! What a daemon is told: `daemon.toml` and the files of `enclaves.d`.
//!
//! Whatever comes in: no panic; what is wrong has a place in one line; what is accepted is within its bounds and names a PCR0.
#![no_main]

use std::path::Path;

use anchorhold_parent::daemon::config::{Declared, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Declared::parse(Path::new("/etc/anchorhold/enclaves.d/cards.toml"), text) {
        Ok(declared) => {
            assert_eq!(declared.name, "cards");
            assert!(!declared.core.pcr0.is_zero());
            assert!(declared.sealed.is_empty());
            assert!(declared.core.memory_mib.is_none_or(|mib| mib >= 16));
            let _ = declared.core.text();
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("/etc/anchorhold/enclaves.d/cards.toml:"));
        }
    }
    if let Ok(settings) = Settings::parse(Path::new("/etc/anchorhold/daemon.toml"), text) {
        assert!(
            settings
                .metrics
                .is_none_or(|address| address.ip().is_loopback())
        );
        assert!(
            settings
                .page
                .is_none_or(|(address, _)| address.ip().is_loopback())
        );
    }
});
