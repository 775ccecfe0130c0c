//! `tee-attestation-verifier`: takes the root and the time in seconds. It wants a nonce, and compares it
//! with one that its own parser has made up, so that it gets that one; registers are left to its caller.

use std::process::ExitCode;

fn main() -> ExitCode {
    others::ask(|asked| {
        let document = tee_attestation_verifier::parse_document(&asked.document)
            .map_err(|error| error.to_string())?;
        let payload = tee_attestation_verifier::parse_payload(&document.payload)
            .map_err(|error| error.to_string())?;
        let nonce = payload.nonce.clone();
        tee_attestation_verifier::verify(document, payload, nonce, Some(asked.anchor), asked.time)
            .map_err(|error| error.to_string())
    })
}
