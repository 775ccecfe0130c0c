//! The NSM's one ioctl, answered by the simulator as the kernel's driver answers it (drivers/misc/nsm.c).
//!
//! Only for whoever has the enclave's own `/dev/nsm` open: the number of the request alone opens nothing.

use std::time::SystemTime;

use anchorhold_simulator::Nsm;
use nix::errno::Errno;

use super::namespaces::Identity;
use super::notify::{Call, Outcome, Threads};

/// The largest request that the driver takes.
const LARGEST_REQUEST: u64 = 0x1000;
/// The largest answer that it gives.
const LARGEST_RESPONSE: u64 = 0x3000;
/// `struct nsm_raw`: two `struct iovec`.
const MESSAGE_SIZE: usize = 32;

/// Answers the request whose message stands at the call's third argument.
pub(crate) fn answer(
    call: &Call<'_>,
    threads: &mut Threads,
    device: Identity,
    nsm: &mut Nsm,
    now: SystemTime,
) -> Result<Outcome, Errno> {
    if !call.is_file(threads, call.int(0), device)? {
        return Err(Errno::ENOTTY);
    }
    let memory = call.memory()?;
    let mut message = [0u8; MESSAGE_SIZE];
    memory.read(call.address(2), &mut message)?;
    let word = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&message[at..at + 8]);
        u64::from_ne_bytes(eight)
    };
    let (request_address, request_length) = (word(0), word(8));
    let (response_address, room) = (word(16), word(24));
    if request_length > LARGEST_REQUEST {
        return Err(Errno::EMSGSIZE);
    }
    let mut request = vec![0; request_length as usize];
    memory.read(request_address, &mut request)?;

    let response = nsm.handle(&request, now);
    // As the driver does: an answer that does not fit is cut, and the length says how much there is.
    let length = (response.len() as u64).min(room).min(LARGEST_RESPONSE);
    memory.write(
        response_address,
        response.get(..length as usize).unwrap_or_default(),
    )?;
    message[24..].copy_from_slice(&length.to_ne_bytes());
    memory.write(call.address(2), &message)?;
    Ok(Outcome::SUCCESS)
}
