//! The device: requests in, answers out, in the CBOR of `aws-nitro-enclaves-nsm-api`, as `/dev/nsm`
//! carries them. Never fails towards its caller and never panics: what cannot be done is answered
//! with an `Error`, as hardware does.
//!
//! Where hardware's behaviour is not documented, this follows what its documents show and, after
//! that, QEMU's `virtio-nsm`:
//! - 32 PCRs. 0–15 are locked from the start, 16–31 are the enclave's.
//! - Documents list the **locked** PCRs. So they have 16 at first, and 17 or 32 once the enclave
//!   locks more: the counts that are met in AWS's documents.
//! - A request that cannot be decoded is an `InvalidOperation`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anchorhold_attestation::{PCR_COUNT, Pcr};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_nitro_enclaves_nsm_api::api::{Digest, ErrorCode, Request, Response};

use crate::chain::Chain;
use crate::document::{self, Bound, Contents};
use crate::root::{Authority, DevelopmentRoot};

/// The longest request (`NSM_REQUEST_MAX_SIZE` in Linux's `drivers/misc/nsm.c`).
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// The longest answer (`NSM_RESPONSE_MAX_SIZE`).
pub const MAX_RESPONSE_BYTES: usize = 12 * 1024;

/// PCRs that the hypervisor measures, and that are locked before the enclave runs.
const LOCKED_AT_START: u8 = 16;
/// Bytes that one `GetRandom` answers.
const RANDOM_BYTES: usize = 256;
/// AWS's limit for the attested public key; verifiers refuse more.
const MAX_PUBLIC_KEY_BYTES: usize = 1024;
/// What hardware has is under 50.
const MAX_MODULE_ID_BYTES: usize = 128;

/// What an enclave's NSM knows from the start.
#[derive(Debug, Clone)]
pub struct NsmConfig {
    /// The image.
    pub pcr0: Pcr,
    /// Its kernel and first ramdisk.
    pub pcr1: Pcr,
    /// Its other ramdisks.
    pub pcr2: Pcr,
    /// The instance's role, as [`Pcr::of_role`]; zero where `None`.
    pub pcr3: Option<Pcr>,
    /// The instance, as [`Pcr::of_instance`]; zero where `None`.
    pub pcr4: Option<Pcr>,
    /// The image's signing certificate; zero where `None`.
    pub pcr8: Option<Pcr>,
    /// Debug mode: PCR0, 1 and 2 read as zero, in documents too.
    pub debug: bool,
    /// The enclave's name in documents: 1 to 128 printable ASCII characters without blanks. AWS's
    /// look like `i-06c79bf817127030a-enc0192d3d4945e0432`.
    pub module_id: String,
    /// By how many seconds its clock is ahead of the caller's, or behind it where negative.
    pub clock_offset: i64,
}

impl Default for NsmConfig {
    /// Nothing measured, under a name that says so.
    fn default() -> NsmConfig {
        NsmConfig {
            pcr0: Pcr::ZERO,
            pcr1: Pcr::ZERO,
            pcr2: Pcr::ZERO,
            pcr3: None,
            pcr4: None,
            pcr8: None,
            debug: false,
            module_id: "i-anchorhold-development-enc0".to_owned(),
            clock_offset: 0,
        }
    }
}

/// Why an NSM cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NsmError {
    /// A name that no verifier would accept.
    #[error(
        "the module id has to be 1 to {MAX_MODULE_ID_BYTES} printable ASCII characters without \
         blanks, and must not end in -tpm0000, which is how NitroTPMs are named"
    )]
    ModuleId,
    /// A certificate could not be made.
    #[error("making the NSM's certificates failed: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The leaf's key could not be used for signing.
    #[error("the leaf's key could not be used for signing")]
    LeafKey,
    /// No randomness.
    #[error("the system gave no randomness")]
    Randomness,
}

/// One enclave's simulated NSM. It may be shared between threads.
pub struct Nsm {
    authority: Arc<Authority>,
    module_id: String,
    debug: bool,
    clock_offset: i64,
    state: Mutex<State>,
}

/// The time that a clock says which is ahead by so many seconds.
fn ahead(now: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let there = if seconds < 0 {
        now.checked_sub(by)
    } else {
        now.checked_add(by)
    };
    there.unwrap_or(now)
}

struct State {
    banks: [Bank; PCR_COUNT as usize],
    chain: Chain,
}

#[derive(Clone, Copy)]
struct Bank {
    value: Pcr,
    locked: bool,
}

impl Nsm {
    /// Starts an NSM whose first leaf certificate begins now.
    pub fn new(
        root: &DevelopmentRoot,
        config: NsmConfig,
        now: SystemTime,
    ) -> Result<Nsm, NsmError> {
        let module_id = config.module_id;
        if !(1..=MAX_MODULE_ID_BYTES).contains(&module_id.len())
            || !module_id.bytes().all(|byte| byte.is_ascii_graphic())
            || module_id.ends_with("-tpm0000")
        {
            return Err(NsmError::ModuleId);
        }
        let mut banks = [Bank {
            value: Pcr::ZERO,
            locked: false,
        }; PCR_COUNT as usize];
        for bank in &mut banks[..usize::from(LOCKED_AT_START)] {
            bank.locked = true;
        }
        for (index, value) in [
            (0, Some(config.pcr0)),
            (1, Some(config.pcr1)),
            (2, Some(config.pcr2)),
            (3, config.pcr3),
            (4, config.pcr4),
            (8, config.pcr8),
        ] {
            // Debug mode measures nothing, rather than hiding what it measured.
            if !(config.debug && index < 3) {
                banks[index].value = value.unwrap_or(Pcr::ZERO);
            }
        }
        let now = ahead(now, config.clock_offset);
        let chain = Chain::issue(&root.authority, &module_id, now)?;
        Ok(Nsm {
            authority: Arc::clone(&root.authority),
            module_id,
            debug: config.debug,
            clock_offset: config.clock_offset,
            state: Mutex::new(State { banks, chain }),
        })
    }

    /// The enclave's name in documents.
    pub fn module_id(&self) -> &str {
        &self.module_id
    }

    /// Whether it was started in debug mode.
    pub fn is_debug(&self) -> bool {
        self.debug
    }

    /// Answers one request: what an ioctl on `/dev/nsm` carries, in CBOR both ways. `now` is the
    /// device's clock. The answer has at most [`MAX_RESPONSE_BYTES`].
    pub fn handle(&self, request: &[u8], now: SystemTime) -> Vec<u8> {
        let now = ahead(now, self.clock_offset);
        let response = if request.len() > MAX_REQUEST_BYTES {
            Err(ErrorCode::InputTooLarge)
        } else {
            serde_cbor::from_slice(request)
                .map_err(|_| ErrorCode::InvalidOperation)
                .and_then(|request| self.answer(request, now))
        };
        let response = response.unwrap_or_else(Response::Error);
        match serde_cbor::to_vec(&response) {
            Ok(bytes) if bytes.len() <= MAX_RESPONSE_BYTES => bytes,
            Ok(_) => error_answer(ErrorCode::BufferTooSmall),
            Err(_) => error_answer(ErrorCode::InternalError),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step leaves the state half-changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: Request, now: SystemTime) -> Result<Response, ErrorCode> {
        let mut state = self.state();
        match request {
            Request::DescribePCR { index } => {
                let bank = state.bank(index)?;
                Ok(Response::DescribePCR {
                    lock: bank.locked,
                    data: bank.value.as_bytes().to_vec(),
                })
            }
            Request::ExtendPCR { index, data } => {
                let bank = state.open_bank(index)?;
                bank.value = bank.value.extend(&data);
                Ok(Response::ExtendPCR {
                    data: bank.value.as_bytes().to_vec(),
                })
            }
            Request::LockPCR { index } => {
                state.open_bank(index)?.locked = true;
                Ok(Response::LockPCR)
            }
            Request::LockPCRs { range } => {
                for bank in state
                    .banks
                    .get_mut(..usize::from(range))
                    .ok_or(ErrorCode::InvalidIndex)?
                {
                    bank.locked = true;
                }
                Ok(Response::LockPCRs)
            }
            Request::DescribeNSM => Ok(Response::DescribeNSM {
                version_major: 1,
                version_minor: 0,
                version_patch: 0,
                module_id: self.module_id.clone(),
                max_pcrs: u16::from(PCR_COUNT),
                locked_pcrs: state.locked().map(|(index, _)| u16::from(index)).collect(),
                digest: Digest::SHA384,
            }),
            Request::Attestation {
                user_data,
                nonce,
                public_key,
            } => {
                let bound = Bound {
                    public_key: public_key.map(|bytes| bytes.to_vec()),
                    user_data: user_data.map(|bytes| bytes.to_vec()),
                    nonce: nonce.map(|bytes| bytes.to_vec()),
                };
                self.attest(&mut state, &bound, now)
            }
            Request::GetRandom => {
                let mut random = vec![0; RANDOM_BYTES];
                rand::fill(&mut random).map_err(|_| ErrorCode::InternalError)?;
                Ok(Response::GetRandom { random })
            }
            _ => Err(ErrorCode::InvalidOperation),
        }
    }

    fn attest(
        &self,
        state: &mut State,
        bound: &Bound,
        now: SystemTime,
    ) -> Result<Response, ErrorCode> {
        if bound
            .public_key
            .as_ref()
            .is_some_and(|key| key.len() > MAX_PUBLIC_KEY_BYTES)
        {
            return Err(ErrorCode::InputTooLarge);
        }
        let timestamp_ms = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .ok_or(ErrorCode::InternalError)?;
        if state.chain.is_used_up(now) {
            state.chain = Chain::issue(&self.authority, &self.module_id, now)
                .map_err(|_| ErrorCode::InternalError)?;
        }
        let pcrs: BTreeMap<u8, Pcr> = state.locked().collect();
        let contents = Contents {
            module_id: &self.module_id,
            timestamp_ms,
            pcrs: &pcrs,
            certificate: &state.chain.certificate,
            cabundle: &state.chain.cabundle,
            bound,
        };
        document::envelope(contents.payload(), |message| {
            let signature = state.chain.key.sign(&SystemRandom::new(), message).ok()?;
            Some(signature.as_ref().to_vec())
        })
        .map(|document| Response::Attestation { document })
        .ok_or(ErrorCode::InternalError)
    }
}

impl State {
    fn bank(&mut self, index: u16) -> Result<&mut Bank, ErrorCode> {
        self.banks
            .get_mut(usize::from(index))
            .ok_or(ErrorCode::InvalidIndex)
    }

    /// A PCR that may still change.
    fn open_bank(&mut self, index: u16) -> Result<&mut Bank, ErrorCode> {
        let bank = self.bank(index)?;
        if bank.locked {
            Err(ErrorCode::ReadOnlyIndex)
        } else {
            Ok(bank)
        }
    }

    fn locked(&self) -> impl Iterator<Item = (u8, Pcr)> {
        (0..PCR_COUNT)
            .zip(&self.banks)
            .filter(|(_, bank)| bank.locked)
            .map(|(index, bank)| (index, bank.value))
    }
}

fn error_answer(code: ErrorCode) -> Vec<u8> {
    serde_cbor::to_vec(&Response::Error(code)).expect("a map of two short texts always encodes")
}
