//! The manifest: its text comes from whoever packed an image, and is read on hosts and inside.
//!
//! Whatever comes in: no panic; what is refused is refused at a place within the text; what is accepted keeps its promises,
//! and is read the same again.
#![no_main]

use anchorhold_manifest::{Contract, Grant, Manifest};
use libfuzzer_sys::fuzz_target;

/// What arbitrary text is put behind, so that more of it than the first key is looked at.
const BASE: &str = "[job]\ncommand = [\"/job\"]\n[key_service]\nendpoint = \"https://k\"\nkey = \"k\"\nregion = \"r\"\n";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    look(text);
    look(&format!("{BASE}{text}"));
});

fn look(text: &str) {
    match Manifest::parse(text) {
        Ok(manifest) => {
            assert_eq!(
                manifest.http.is_some(),
                manifest.job.contract == Contract::Http
            );
            assert!(manifest.job.command[0].starts_with('/'));
            assert!(!manifest.job.command[0].starts_with("/anchorhold/"));
            if manifest.key_service.is_none() {
                assert!(manifest.secrets.is_empty() && manifest.fields.is_none());
                assert!(manifest.log.encrypt_to.is_none());
            }
            if let Some(api) = &manifest.api {
                assert!(
                    api.secrets
                        .iter()
                        .all(|name| manifest.secrets.contains_key(name))
                );
                assert!(
                    api.extend_pcrs
                        .iter()
                        .all(|index| (16..=31).contains(index))
                );
                assert!(
                    !api.grant.contains(&Grant::AttestPublicKey)
                        || api.grant.contains(&Grant::Attest)
                );
            }
            if let Some(fields) = &manifest.fields {
                assert_eq!(manifest.job.contract, Contract::Lines);
                assert!(
                    fields
                        .context
                        .keys()
                        .all(|name| !name.starts_with("anchorhold:"))
                );
                for names in [&fields.open, &fields.seal] {
                    for name in names {
                        anchorhold_envelope::fields::Fields::new([name]).expect("a name");
                    }
                }
            }
            let _ = manifest.reach();
            assert_eq!(Manifest::parse(text).expect("the same again"), manifest);
        }
        Err(error) => {
            if let Some(at) = error.position() {
                let lines = text.split('\n').count();
                assert!((1..=lines + 1).contains(&at.line), "{error}");
            }
            assert!(error.to_string().len() < 3 * text.len() + 2000, "{error}");
        }
    }
}
