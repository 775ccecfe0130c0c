//! Whether an enclave is what was declared: its attestation document, made over a fresh nonce, verified against the anchor of
//! its backend, and with the PCR0 that the declaration names.
//!
//! AWS's root vouches for nitro and nothing else does; the development root vouches for the others. A word of the enclave's own
//! never counts.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anchorhold_attestation::{Anchor, Expectations, Pcr, Time, Unverified};

use super::view::{Attested, Certificate};
use crate::Backend;
use crate::client::Client;
use crate::lifecycle::printable;

/// How far an enclave's clock may be ahead.
const MOST_SKEW_MS: u64 = 5_000;

/// How many certificates are kept for people.
const MOST_CERTIFICATES: usize = 10;

/// What an enclave is asked to prove.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    pub(super) backend: Backend,
    pub(super) pcr0: Pcr,
    /// The development root's certificate (PEM), for the backends without hardware.
    pub(super) development_root: std::path::PathBuf,
    pub(super) max_age: Duration,
}

/// Has the enclave in that folder attest. An error says why it is not to be trusted.
pub(super) async fn admit(dir: &Path, demand: &Demand) -> Result<Attested, String> {
    let anchor = match demand.backend {
        Backend::Nitro => Anchor::aws_nitro(),
        Backend::Sandbox | Backend::Qemu => {
            let path = &demand.development_root;
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("the development root {}: {error}", path.display()))?;
            Anchor::from_pem(&text)
                .map_err(|error| format!("the development root {}: {error}", path.display()))?
        }
    };
    let mut nonce = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut nonce))
        .map_err(|error| format!("no randomness: {error}"))?;
    let document = Client::new(dir)
        .attest(Some(&nonce), None, false)
        .await
        .map_err(|error| error.to_string())?;
    judge(
        &document,
        anchor,
        demand.pcr0,
        &nonce,
        demand.max_age,
        now_ms(),
    )
}

fn judge(
    document: &[u8],
    anchor: Anchor,
    pcr0: Pcr,
    nonce: &[u8],
    max_age: Duration,
    now_ms: u64,
) -> Result<Attested, String> {
    let unverified = Unverified::parse(document)
        .map_err(|error| format!("it sent no attestation document: {error}"))?;
    let time = Time::Now {
        now_ms,
        max_age_ms: max_age.as_millis() as u64,
        max_skew_ms: MOST_SKEW_MS,
    };
    let verified = unverified
        .verify(&[anchor], time)
        .map_err(|error| format!("its attestation document is not to be believed: {error}"))?;
    let expected = Expectations::new().pcr(0, [pcr0]).nonce(nonce);
    let admitted = verified
        .admit(&expected)
        .map_err(|refusal| format!("it is not what was declared: {refusal}"))?;
    let certificates = unverified
        .claimed()
        .certificates()
        .take(MOST_CERTIFICATES)
        .map(Certificate::from)
        .collect();
    Ok(Attested {
        at_ms: now_ms,
        module_id: printable(admitted.module_id().as_bytes(), 128),
        document_ms: admitted.timestamp_ms(),
        certificate_not_after_ms: admitted.certificate_not_after_ms(),
        anchor: hex::encode(admitted.anchor_fingerprint()),
        pcrs: admitted
            .pcrs()
            .filter(|(_, pcr)| !pcr.is_zero())
            .map(|(index, pcr)| (index, pcr.to_string()))
            .collect(),
        certificates,
    })
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};

    fn document(root: &DevelopmentRoot, pcr0: Pcr, debug: bool, nonce: &[u8]) -> Vec<u8> {
        let config = NsmConfig {
            pcr0,
            pcr1: Pcr::from_bytes([1; 48]),
            pcr2: Pcr::from_bytes([2; 48]),
            debug,
            module_id: "i-0123456789abcdef0-enc0123456789abcdef".into(),
            ..NsmConfig::default()
        };
        let nsm = Nsm::new(root, config, SystemTime::now()).unwrap();
        let request = aws_nitro_enclaves_nsm_api::api::Request::Attestation {
            user_data: None,
            nonce: Some(nonce.to_vec().into()),
            public_key: None,
        };
        let request = serde_cbor::to_vec(&request).unwrap();
        let answer = nsm.handle(&request, SystemTime::now());
        match serde_cbor::from_slice(&answer).unwrap() {
            aws_nitro_enclaves_nsm_api::api::Response::Attestation { document } => document,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_fresh_document_of_the_declared_image_under_the_right_root_admits() {
        let root = DevelopmentRoot::generate().unwrap();
        let wanted = Pcr::from_bytes([9; 48]);
        let other = Pcr::from_bytes([8; 48]);
        let good = document(&root, wanted, false, b"nonce");
        let anchor = || Anchor::from_pem(root.certificate_pem()).unwrap();
        let age = Duration::from_secs(60);
        let judged = |document: &[u8], anchor, pcr0, nonce: &[u8], later| {
            judge(document, anchor, pcr0, nonce, age, now_ms() + later)
        };
        let attested = judged(&good, anchor(), wanted, b"nonce", 0).unwrap();
        assert_eq!(attested.pcrs[&0], wanted.to_string());
        assert!(attested.certificates.len() >= 2);

        let stranger = DevelopmentRoot::generate().unwrap();
        let false_root = document(&stranger, wanted, false, b"nonce");
        let debug = document(&root, wanted, true, b"nonce");
        for (what, answer) in [
            ("another image", judged(&good, anchor(), other, b"nonce", 0)),
            (
                "another nonce",
                judged(&good, anchor(), wanted, b"other", 0),
            ),
            (
                "an old one",
                judged(&good, anchor(), wanted, b"nonce", 61_000),
            ),
            (
                "AWS's root",
                judged(&good, Anchor::aws_nitro(), wanted, b"nonce", 0),
            ),
            (
                "another root",
                judged(&false_root, anchor(), wanted, b"nonce", 0),
            ),
            ("debug", judged(&debug, anchor(), wanted, b"nonce", 0)),
            ("no document", judged(b"yes", anchor(), wanted, b"nonce", 0)),
        ] {
            assert!(answer.is_err(), "{what}");
        }
    }
}
