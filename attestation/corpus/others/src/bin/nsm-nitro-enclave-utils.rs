//! `nsm-nitro-enclave-utils`: takes the root and the time in milliseconds. What a document says is left
//! to its caller.

use std::process::ExitCode;

use nsm_nitro_enclave_utils::api::nsm::AttestationDoc;
use nsm_nitro_enclave_utils::time::Time;
use nsm_nitro_enclave_utils::verify::AttestationDocVerifierExt;

fn main() -> ExitCode {
    others::ask(|asked| {
        let time = Time::new(Box::new(move || asked.time));
        AttestationDoc::from_cose(&asked.document, &asked.anchor, time).map(|_| ())
    })
}
