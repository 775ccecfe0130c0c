//! The Nitro Security Module: attestation documents, PCRs and randomness, from `/dev/nsm`.
//!
//! Requests and answers are those of the `aws-nitro-enclaves-nsm-api` crate, unchanged. Nothing here may invent an
//! answer that the module did not give.

use std::os::fd::RawFd;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use aws_nitro_enclaves_nsm_api::driver;
use zeroize::Zeroizing;

/// What the caller wants inside an attestation document. The module takes about 4 KiB of it in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Shows that the document is not older than the nonce.
    pub nonce: Option<Vec<u8>>,
    /// Anything that the document shall vouch for.
    pub user_data: Option<Vec<u8>>,
    /// DER `SubjectPublicKeyInfo`, to which others may encrypt for this enclave alone.
    pub public_key: Option<Vec<u8>>,
}

/// What the module says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The enclave's identifier, as in its documents.
    pub module_id: String,
    /// Interface version: major, minor, patch.
    pub version: (u16, u16, u16),
}

/// Why the module gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NsmError {
    /// There is no module here.
    #[error(
        "/dev/nsm cannot be opened: this is not an enclave, or its kernel lacks the NSM driver (CONFIG_NSM)"
    )]
    Absent,
    /// It answered with an error.
    #[error("the NSM refused {request}: {code}")]
    Refused {
        /// Name of the request.
        request: &'static str,
        /// Name of the error (`ErrorCode` of the NSM's interface).
        code: String,
    },
    /// It answered something else than was asked.
    #[error("the NSM answered {request} with something else")]
    Unexpected {
        /// Name of the request.
        request: &'static str,
    },
}

/// A security module. Calls block, for up to some milliseconds.
pub trait Nsm: Send + Sync + 'static {
    /// A fresh signed document.
    ///
    /// # Errors
    /// See [`NsmError`].
    fn attest(&self, claims: Claims) -> Result<Vec<u8>, NsmError>;
    /// Who it is.
    ///
    /// # Errors
    /// See [`NsmError`].
    fn describe(&self) -> Result<Description, NsmError>;
    /// The present value of a PCR.
    ///
    /// # Errors
    /// See [`NsmError`].
    fn pcr(&self, index: u16) -> Result<Vec<u8>, NsmError>;
    /// Extends a PCR and returns its new value.
    ///
    /// # Errors
    /// See [`NsmError`]; a locked PCR is refused.
    fn extend(&self, index: u16, data: Vec<u8>) -> Result<Vec<u8>, NsmError>;
    /// Random bytes, as many as the module gives at a time.
    ///
    /// # Errors
    /// See [`NsmError`].
    fn random(&self) -> Result<Zeroizing<Vec<u8>>, NsmError>;
}

/// `/dev/nsm`.
pub struct Device {
    descriptor: RawFd,
}

impl Device {
    /// Opens the device.
    ///
    /// # Errors
    /// [`NsmError::Absent`].
    pub fn open() -> Result<Device, NsmError> {
        match driver::nsm_init() {
            descriptor @ 0.. => Ok(Device { descriptor }),
            _ => Err(NsmError::Absent),
        }
    }

    fn ask(&self, name: &'static str, request: Request) -> Result<Response, NsmError> {
        match driver::nsm_process_request(self.descriptor, request) {
            Response::Error(code) => Err(NsmError::Refused {
                request: name,
                code: error_name(&code),
            }),
            response => Ok(response),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        driver::nsm_exit(self.descriptor);
    }
}

fn error_name(code: &ErrorCode) -> String {
    match code {
        ErrorCode::InputTooLarge => {
            "InputTooLarge (nonce, user data and public key together exceed its 4 KiB)".to_owned()
        }
        other => format!("{other:?}"),
    }
}

impl Nsm for Device {
    fn attest(&self, claims: Claims) -> Result<Vec<u8>, NsmError> {
        let request = Request::Attestation {
            user_data: claims.user_data.map(Into::into),
            nonce: claims.nonce.map(Into::into),
            public_key: claims.public_key.map(Into::into),
        };
        match self.ask("Attestation", request)? {
            Response::Attestation { document } => Ok(document),
            _ => Err(NsmError::Unexpected {
                request: "Attestation",
            }),
        }
    }

    fn describe(&self) -> Result<Description, NsmError> {
        match self.ask("DescribeNSM", Request::DescribeNSM)? {
            Response::DescribeNSM {
                version_major,
                version_minor,
                version_patch,
                module_id,
                ..
            } => Ok(Description {
                module_id,
                version: (version_major, version_minor, version_patch),
            }),
            _ => Err(NsmError::Unexpected {
                request: "DescribeNSM",
            }),
        }
    }

    fn pcr(&self, index: u16) -> Result<Vec<u8>, NsmError> {
        match self.ask("DescribePCR", Request::DescribePCR { index })? {
            Response::DescribePCR { data, .. } => Ok(data),
            _ => Err(NsmError::Unexpected {
                request: "DescribePCR",
            }),
        }
    }

    fn extend(&self, index: u16, data: Vec<u8>) -> Result<Vec<u8>, NsmError> {
        match self.ask("ExtendPCR", Request::ExtendPCR { index, data })? {
            Response::ExtendPCR { data } => Ok(data),
            _ => Err(NsmError::Unexpected {
                request: "ExtendPCR",
            }),
        }
    }

    fn random(&self) -> Result<Zeroizing<Vec<u8>>, NsmError> {
        match self.ask("GetRandom", Request::GetRandom)? {
            Response::GetRandom { random } if !random.is_empty() => Ok(Zeroizing::new(random)),
            _ => Err(NsmError::Unexpected {
                request: "GetRandom",
            }),
        }
    }
}
