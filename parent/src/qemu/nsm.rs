//! The virtio NSM (device 33): takes the guest's requests off its queue and answers them, as the hypervisor of a Nitro
//! enclave does for the driver `drivers/misc/nsm.c`.
//!
//! The driver gives two chains for each request, the request and then the room for the answer; both go back together. What is
//! in them is the guest's word: at most [`MOST_REQUEST`] bytes of it are read, and what it does with the queue costs it no
//! more than its NSM.

use std::io::{Read, Write};

use virtio_queue::{DescriptorChain, Queue, QueueT, Reader, Writer};

use super::queue::{Memory, QueueFault, Turn, next_chain};

#[cfg(test)]
mod tests;

/// The longest request that is read (the driver's own bound).
pub const MOST_REQUEST: usize = 0x1000;
/// The longest answer that is written (the driver's own bound).
pub const MOST_ANSWER: usize = 0x3000;
/// Chains of one turn.
const MOST_CHAINS: usize = 64;

/// Gives the answer to a request; never fails.
pub type Answer = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send + Sync>;

/// The device of one guest.
pub struct Device {
    answer: Answer,
    /// The chain of a request that waits for room, and the request.
    request: Option<(u16, Vec<u8>)>,
    malformed: u64,
    fault: Option<QueueFault>,
}

impl Device {
    /// A device that answers so.
    pub fn new(answer: Answer) -> Device {
        Device {
            answer,
            request: None,
            malformed: 0,
            fault: None,
        }
    }

    /// How many chains of the guest made no sense, and what has ended the device, if something has.
    pub fn faults(&self) -> (u64, Option<&QueueFault>) {
        (self.malformed, self.fault.as_ref())
    }

    /// The guest's driver has gone or starts anew.
    pub fn reset(&mut self) {
        self.request = None;
        self.fault = None;
    }

    /// Answers what there is to answer, up to a bound. After a fault it does nothing any more.
    pub fn turn(&mut self, queue: &mut Queue, memory: &Memory) -> Turn {
        let mut turn = Turn::default();
        if self.fault.is_some() {
            return turn;
        }
        if let Err(fault) = self.chains(queue, memory, &mut turn) {
            tracing::warn!(%fault, "the NSM of the enclave is off");
            self.fault = Some(fault);
        }
        turn
    }

    fn chains(
        &mut self,
        queue: &mut Queue,
        memory: &Memory,
        turn: &mut Turn,
    ) -> Result<(), QueueFault> {
        let mut used = false;
        turn.is_unfinished = true;
        queue.disable_notification(memory)?;
        for _ in 0..MOST_CHAINS {
            match next_chain(queue, memory)? {
                Some(chain) => used |= self.chain(&chain, queue, memory)?,
                None if queue.enable_notification(memory)? => {}
                None => {
                    turn.is_unfinished = false;
                    break;
                }
            }
        }
        if used && queue.needs_notification(memory)? {
            turn.interrupts = 1;
        }
        Ok(())
    }

    /// Whether something went back to the guest.
    fn chain(
        &mut self,
        chain: &DescriptorChain<&Memory>,
        queue: &mut Queue,
        memory: &Memory,
    ) -> Result<bool, QueueFault> {
        let head = chain.head_index();
        let sides: Result<(Reader<'_>, Writer<'_>), _> = chain
            .clone()
            .reader(memory)
            .and_then(|said| Ok((said, chain.clone().writer(memory)?)));
        let Ok((mut said, mut room)) = sides else {
            self.malformed += 1;
            queue.add_used(memory, head, 0)?;
            return Ok(true);
        };
        let length = said.available_bytes();
        if length > 0 {
            if let Some((earlier, _)) = self.request.take() {
                // Two requests without room for an answer between them.
                self.malformed += 1;
                queue.add_used(memory, earlier, 0)?;
            }
            // One byte more than the most, so that the simulator sees what is too long, and says so.
            let mut request = vec![0; length.min(MOST_REQUEST + 1)];
            if said.read_exact(&mut request).is_err() {
                self.malformed += 1;
                queue.add_used(memory, head, 0)?;
                return Ok(true);
            }
            if room.available_bytes() == 0 {
                self.request = Some((head, request));
                return Ok(false);
            }
            let written = self.write(&request, &mut room)?;
            queue.add_used(memory, head, written)?;
            return Ok(true);
        }
        let Some((asked, request)) = self.request.take() else {
            // Room for an answer to nothing.
            self.malformed += 1;
            queue.add_used(memory, head, 0)?;
            return Ok(true);
        };
        let written = self.write(&request, &mut room)?;
        queue.add_used(memory, asked, 0)?;
        queue.add_used(memory, head, written)?;
        Ok(true)
    }

    /// As the real one does: an answer that does not fit is cut.
    fn write(&mut self, request: &[u8], room: &mut Writer<'_>) -> Result<u32, QueueFault> {
        let answer = (self.answer)(request);
        let length = answer.len().min(room.available_bytes()).min(MOST_ANSWER);
        room.write_all(answer.get(..length).unwrap_or_default())
            .map_err(|_| QueueFault("its memory cannot be written".to_owned()))?;
        Ok(length as u32)
    }
}
