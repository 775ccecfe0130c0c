//! The virtio vsock device: takes packets off the guest's queues for the [`Switch`] and puts its answers there.
//!
//! Everything on the queues is the guest's word. A packet that cannot be read is thrown away; a queue that breaks virtio's
//! rules ends the device, and with it the guest's connections, and nothing else.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::packet::{HEADER_BYTES, Header, MOST_PAYLOAD};
use super::switch::Switch;
use crate::qemu::queue::{Memory, QueueFault, Turn, next_chain};

/// Number of the queue by which the guest receives.
pub const TO_GUEST: usize = 0;
/// Number of the queue by which the guest sends.
pub const FROM_GUEST: usize = 1;
/// Rounds of one turn.
const MOST_ROUNDS: usize = 16;
/// Packets in each direction in a round.
const MOST_PACKETS: usize = 128;
/// How long the device looks for more by itself after it has carried something. A notification costs the guest an exit, which is
/// most of the cost of a small packet, and whoever sends one mostly sends another at once.
const LINGER: Duration = Duration::from_micros(150);

/// The device of one guest.
pub struct Device {
    switch: Switch,
    payload: Vec<u8>,
    /// Chains that could not be read or written.
    malformed: u64,
    fault: Option<QueueFault>,
    /// Until then it looks for more by itself.
    lingers_until: Option<Instant>,
}

impl Device {
    /// The guest's end of these connections.
    pub fn new(switch: Switch) -> Device {
        Device {
            switch,
            payload: vec![0; MOST_PAYLOAD],
            malformed: 0,
            fault: None,
            lingers_until: None,
        }
    }

    /// The connections.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// How many packets and chains of the guest were thrown away, and what has ended the device, if something has.
    pub fn faults(&self) -> (u64, Option<&QueueFault>) {
        (self.malformed + self.switch.nonsense(), self.fault.as_ref())
    }

    /// The guest's driver has gone or starts anew.
    pub fn reset(&mut self) {
        self.switch.reset();
        self.fault = None;
    }

    /// Carries what there is to carry, up to a bound. After a fault it does nothing any more.
    pub fn turn(&mut self, to_guest: &mut Queue, from_guest: &mut Queue, memory: &Memory) -> Turn {
        let mut turn = Turn::default();
        if self.fault.is_some() {
            // Clients of the host are still let in, and sent away.
            self.switch.hear_host();
            self.switch.reset();
            return turn;
        }
        if let Err(fault) = self.rounds(to_guest, from_guest, memory, &mut turn) {
            tracing::warn!(%fault, "vsock of the enclave is off");
            self.switch.reset();
            self.fault = Some(fault);
        }
        turn
    }

    fn rounds(
        &mut self,
        to_guest: &mut Queue,
        from_guest: &mut Queue,
        memory: &Memory,
        turn: &mut Turn,
    ) -> Result<(), QueueFault> {
        let mut used = [false; 2];
        turn.is_unfinished = true;
        from_guest.disable_notification(memory)?;
        to_guest.disable_notification(memory)?;
        for _ in 0..MOST_ROUNDS {
            let mut progress = self.switch.hear_host();
            let taken = self.take(from_guest, memory)?;
            let given = self.give(to_guest, memory)?;
            used[FROM_GUEST] |= taken > 0;
            used[TO_GUEST] |= given > 0;
            progress |= taken > 0 || given > 0;
            if progress {
                self.lingers_until = None;
            } else {
                let carried = used.contains(&true);
                if carried {
                    self.lingers_until = Some(Instant::now() + LINGER);
                }
                // What was carried is told to the guest before the next look.
                if carried || self.lingers() {
                    break;
                }
                // From here on the guest says when there is more. It may just have been too early for that.
                let more_taken =
                    self.switch.takes_packets() && from_guest.enable_notification(memory)?;
                let more_room =
                    self.switch.has_packets() && to_guest.enable_notification(memory)?;
                if !more_taken && !more_room {
                    turn.is_unfinished = false;
                    break;
                }
            }
        }
        if used[TO_GUEST] && to_guest.needs_notification(memory)? {
            turn.interrupts |= 1 << TO_GUEST;
        }
        if used[FROM_GUEST] && from_guest.needs_notification(memory)? {
            turn.interrupts |= 1 << FROM_GUEST;
        }
        Ok(())
    }

    /// Whether it is to look for more by itself. Others have the processor in between.
    fn lingers(&mut self) -> bool {
        let lingers = self
            .lingers_until
            .is_some_and(|until| Instant::now() < until);
        if lingers {
            std::thread::yield_now();
        } else {
            self.lingers_until = None;
        }
        lingers
    }

    /// Takes the guest's packets.
    fn take(&mut self, queue: &mut Queue, memory: &Memory) -> Result<usize, QueueFault> {
        let mut taken = 0;
        while taken < MOST_PACKETS && self.switch.takes_packets() {
            let Some(chain) = next_chain(queue, memory)? else {
                break;
            };
            let head = chain.head_index();
            let mut header = [0; HEADER_BYTES];
            let whole = chain
                .reader(memory)
                .ok()
                .and_then(|mut packet| packet.read_exact(&mut header).ok().map(|()| packet));
            match whole {
                Some(mut packet) => self.switch.take(&Header::parse(&header), &mut packet),
                None => self.malformed += 1,
            }
            queue.add_used(memory, head, 0)?;
            taken += 1;
        }
        Ok(taken)
    }

    /// Fills the guest's room.
    fn give(&mut self, queue: &mut Queue, memory: &Memory) -> Result<usize, QueueFault> {
        let mut given = 0;
        while given < MOST_PACKETS && self.switch.has_packets() {
            let Some(chain) = next_chain(queue, memory)? else {
                break;
            };
            let head = chain.head_index();
            let mut room = match chain.writer(memory) {
                Ok(room) if room.available_bytes() >= HEADER_BYTES => room,
                _ => {
                    self.malformed += 1;
                    queue.add_used(memory, head, 0)?;
                    given += 1;
                    continue;
                }
            };
            let most = (room.available_bytes() - HEADER_BYTES).min(MOST_PAYLOAD);
            let payload = self.payload.get_mut(..most).unwrap_or_default();
            let Some(header) = self.switch.next(payload) else {
                queue.go_to_previous_position();
                break;
            };
            let payload = payload.get(..header.length as usize).unwrap_or_default();
            let written = room
                .write_all(&header.bytes())
                .and_then(|()| room.write_all(payload));
            if written.is_err() {
                // There was room a moment ago: the guest's memory has gone.
                return Err(QueueFault("its memory cannot be written".to_owned()));
            }
            queue.add_used(memory, head, (HEADER_BYTES + payload.len()) as u32)?;
            given += 1;
        }
        Ok(given)
    }
}
