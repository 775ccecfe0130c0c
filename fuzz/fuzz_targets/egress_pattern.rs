//! Any text as a target, a pattern, a network: what is read has one spelling, and a pattern permits what it is made of.
#![no_main]

use anchorhold_manifest::egress::{Network, Pattern, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse::<Target>().as_ref(), Ok(&target));
        assert_eq!(text.parse::<Pattern>(), Ok(Pattern::Exact(target.clone())));
        assert!(Pattern::Exact(target.clone()).permits(&target));
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        assert_eq!(
            pattern.to_string().parse::<Pattern>().as_ref(),
            Ok(&pattern)
        );
    }
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(
            network.to_string().parse::<Network>().as_ref(),
            Ok(&network)
        );
    }
});
