//! What a caller in another language trusts and expects, in his words. Nothing here is lenient: what is not understood is
//! an error, and what is not expected admits nothing.

use std::collections::BTreeMap;

use anchorhold_attestation::{Anchor, AnchorError, Expectations, PCR_COUNT, ParsePcrError, Pcr};
use serde::Deserialize;

/// The name of AWS's root among anchors.
const AWS_NITRO: &str = "aws-nitro";

/// Whom to trust, and what to expect of an enclave.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Roots: `aws-nitro`, or a certificate in PEM. AWS's alone where nothing is said.
    #[serde(default)]
    anchors: Option<Vec<String>>,
    /// What must hold of the document.
    #[serde(default)]
    expect: Expect,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expect {
    /// By index, in decimal.
    pcrs: BTreeMap<String, Vec<String>>,
    nonce: Option<String>,
    user_data: Option<String>,
    public_key: Option<String>,
    module_id: Option<String>,
    role: Option<String>,
    instance: Option<String>,
    signed_by: Option<String>,
    any_image: bool,
    allow_debug: bool,
}

/// Why terms are none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TermsError {
    /// Not the form that is asked for.
    #[error("the question is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// A root that is none.
    #[error("an anchor is \"aws-nitro\" or a root certificate in PEM: {0}")]
    Anchor(#[from] AnchorError),
    /// A PCR's index.
    #[error("there is no PCR {0:?}: they are 0 to 31")]
    PcrIndex(String),
    /// A PCR's value.
    #[error("PCR{index}: {error}")]
    Pcr {
        /// Which.
        index: u8,
        /// What is wrong.
        error: ParsePcrError,
    },
    /// Not hexadecimal.
    #[error("{name} is not hexadecimal, two digits for each byte")]
    Hex {
        /// Which field.
        name: &'static str,
    },
}

impl Terms {
    /// Reads terms: `{"anchors": ["aws-nitro" | PEM, …], "expect": {"pcrs": {"0": [HEX, …]}, "nonce": HEX, "user_data": HEX,
    /// "public_key": HEX, "module_id", "role", "instance", "signed_by": DER in HEX, "any_image", "allow_debug"}}`.
    ///
    /// # Errors
    /// See [`TermsError`].
    pub fn from_json(text: &str) -> Result<Terms, TermsError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The roots.
    ///
    /// # Errors
    /// One that is none.
    pub fn anchors(&self) -> Result<Vec<Anchor>, TermsError> {
        let Some(named) = &self.anchors else {
            return Ok(vec![Anchor::aws_nitro()]);
        };
        named
            .iter()
            .map(|name| match name.as_str() {
                AWS_NITRO => Ok(Anchor::aws_nitro()),
                pem => Ok(Anchor::from_pem(pem)?),
            })
            .collect()
    }

    /// The expectations.
    ///
    /// # Errors
    /// A value that is none.
    pub fn expectations(&self) -> Result<Expectations, TermsError> {
        let expect = &self.expect;
        let mut expectations = Expectations::new().allow_debug(expect.allow_debug);
        for (key, values) in &expect.pcrs {
            let index = (0..PCR_COUNT)
                .find(|index| index.to_string() == *key)
                .ok_or_else(|| TermsError::PcrIndex(key.clone()))?;
            let values: Result<Vec<Pcr>, _> = values.iter().map(|value| value.parse()).collect();
            let values = values.map_err(|error| TermsError::Pcr { index, error })?;
            expectations = expectations.pcr(index, values);
        }
        if let Some(nonce) = &expect.nonce {
            expectations = expectations.nonce(&bytes("nonce", nonce)?);
        }
        if let Some(user_data) = &expect.user_data {
            expectations = expectations.user_data(&bytes("user_data", user_data)?);
        }
        if let Some(public_key) = &expect.public_key {
            expectations = expectations.public_key(&bytes("public_key", public_key)?);
        }
        if let Some(module_id) = &expect.module_id {
            expectations = expectations.module_id(module_id);
        }
        if let Some(role) = &expect.role {
            expectations = expectations.role(role);
        }
        if let Some(instance) = &expect.instance {
            expectations = expectations.instance(instance);
        }
        if let Some(certificate) = &expect.signed_by {
            expectations = expectations.signed_by(&bytes("signed_by", certificate)?);
        }
        if expect.any_image {
            expectations = expectations.any_image();
        }
        Ok(expectations)
    }
}

/// Bytes of a field in hexadecimal.
pub(crate) fn bytes(name: &'static str, digits: &str) -> Result<Vec<u8>, TermsError> {
    hex::decode(digits).map_err(|_| TermsError::Hex { name })
}
