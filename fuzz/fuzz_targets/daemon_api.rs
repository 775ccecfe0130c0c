//! Bodies of requests to the daemon's API.
//!
//! Whatever comes in: no panic; what a supervisor would be started with has absolute paths, known variables and nothing that was
//! not asked for.
#![no_main]

use std::path::Path;

use anchorhold_parent::daemon::api::{options_of, parse_body};
use anchorhold_parent::daemon::view::{RunRequest, StopRequest};
use anchorhold_parent::lifecycle::Home;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let _ = parse_body::<StopRequest>(body);
    let Ok(request) = parse_body::<RunRequest>(body) else {
        return;
    };
    let home = Home::at(Path::new("/home/of/nobody")).expect("an absolute path");
    let wished = request.clone();
    if let Ok((options, environment)) = options_of(&home, request) {
        assert!(options.image.is_absolute());
        assert_eq!(options.home, home);
        assert_eq!(options.debug, wished.debug);
        assert_eq!(options.secrets.len(), wished.secrets.len());
        assert!(environment.iter().all(|(name, _)| name.starts_with("AWS_")));
        assert!(options.of.is_none() && options.core.is_none());
    }
});
