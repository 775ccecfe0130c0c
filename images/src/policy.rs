//! Key policy statements that let a key be used from inside one measured image and nowhere else.
//!
//! Conditions as AWS KMS has them for Nitro enclaves: `kms:RecipientAttestation:ImageSha384` is PCR0, and
//! `kms:RecipientAttestation:PCR<n>` any register. A request without an attestation document has none of these keys, so
//! `StringEquals` fails for it. This module only writes policies; the key service decides.

use serde_json::{Map, Value, json};

use crate::measure::Measurements;

/// Which registers a statement names besides PCR0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyRegisters {
    /// PCR1: kernel, command line and runtime.
    pub pcr1: bool,
    /// PCR2: the application.
    pub pcr2: bool,
    /// PCR8: the signer. Left out for an unsigned image.
    pub pcr8: bool,
}

/// The statements, as the list that stands under `Statement` in a key policy.
///
/// `principal_arn` is who asks on the enclave's behalf: the role of the machine that runs it. None allows every
/// principal, so that the measurement alone decides.
pub fn key_policy_statements(
    measurements: &Measurements,
    principal_arn: Option<&str>,
    registers: PolicyRegisters,
) -> Value {
    let mut equals = Map::new();
    equals.insert(
        "kms:RecipientAttestation:ImageSha384".to_owned(),
        json!(measurements.pcr0.to_string()),
    );
    let more = [
        (1, registers.pcr1.then_some(measurements.pcr1)),
        (2, registers.pcr2.then_some(measurements.pcr2)),
        (8, measurements.pcr8.filter(|_| registers.pcr8)),
    ];
    for (index, value) in more {
        if let Some(value) = value {
            equals.insert(
                format!("kms:RecipientAttestation:PCR{index}"),
                json!(value.to_string()),
            );
        }
    }
    json!([{
        "Sid": "UseInsideTheMeasuredEnclaveOnly",
        "Effect": "Allow",
        "Principal": { "AWS": principal_arn.unwrap_or("*") },
        "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Resource": "*",
        "Condition": { "StringEquals": equals },
    }])
}
