//! A guest's side of a virtqueue, for tests: it lays chains out in memory as a driver does, and as no driver would.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::queue::Memory;

pub(crate) const SIZE: u16 = 64;
/// Where a ring begins, in steps of this.
const RING: u64 = 0x4000;
/// Bytes that each descriptor of a ring may use.
const BUFFER: u64 = 0x12000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A descriptor: where, how long, whether the device writes.
pub(crate) type Piece = (u64, u32, bool);

/// One queue, seen from the guest.
pub(crate) struct Ring<'m> {
    memory: &'m Memory,
    base: u64,
    buffers: u64,
    /// Descriptors that are free, by number.
    free: Vec<u16>,
    available: u16,
    seen: u16,
    /// Chains that are with the device: their descriptors.
    out: std::collections::HashMap<u16, Vec<u16>>,
}

/// Bytes of memory for two rings.
pub(crate) const BYTES: u64 = 2 * RING + 2 * BUFFER * SIZE as u64;

/// Memory for two rings.
pub(crate) fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), BYTES as usize)]).unwrap()
}

/// The same in a file, as QEMU has it.
pub(crate) fn memory_in(file: std::fs::File) -> Memory {
    let file = vm_memory::FileOffset::new(file, 0);
    let range = (GuestAddress(0), BYTES as usize, Some(file));
    Memory::from_ranges_with_files([range]).unwrap()
}

impl<'m> Ring<'m> {
    pub(crate) fn new(memory: &'m Memory, number: u64) -> Self {
        Self {
            memory,
            base: number * RING,
            buffers: 2 * RING + number * BUFFER * u64::from(SIZE),
            free: (0..SIZE).rev().collect(),
            available: 0,
            seen: 0,
            out: std::collections::HashMap::new(),
        }
    }

    /// The device's side of it.
    pub(crate) fn queue(&self) -> Queue {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        queue
            .try_set_desc_table_address(GuestAddress(self.base))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.base + 0x1000))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.base + 0x2000))
            .unwrap();
        queue.set_ready(true);
        queue
    }

    /// Where the buffer of a descriptor is.
    pub(crate) fn buffer(&self, descriptor: u16) -> u64 {
        self.buffers + u64::from(descriptor) * BUFFER
    }

    /// Where its descriptors, its available and its used chains are.
    pub(crate) fn places(&self) -> [u64; 3] {
        [0, 0x1000, 0x2000].map(|offset| self.base + offset)
    }

    /// Descriptors that are not with the device.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Gives the device a chain of these pieces as they are.
    pub(crate) fn give(&mut self, pieces: &[Piece]) -> u16 {
        let numbers: Vec<u16> = pieces.iter().map(|_| self.free.pop().unwrap()).collect();
        for (at, (number, (address, length, writes))) in numbers.iter().zip(pieces).enumerate() {
            let next = numbers.get(at + 1).copied();
            let flags = if *writes { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.descriptor(*number, *address, *length, flags, next.unwrap_or(0));
        }
        let head = numbers[0];
        self.out.insert(head, numbers);
        self.offer(head);
        head
    }

    /// Writes a descriptor as it is.
    pub(crate) fn descriptor(&self, number: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.base + 16 * u64::from(number);
        let write = |offset: u64, bytes: &[u8]| {
            self.memory
                .write_slice(bytes, GuestAddress(at + offset))
                .unwrap();
        };
        write(0, &address.to_le_bytes());
        write(8, &length.to_le_bytes());
        write(12, &flags.to_le_bytes());
        write(14, &next.to_le_bytes());
    }

    /// Makes a chain available by the number of its head, whatever that is.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = self.base + 0x1000 + 4 + 2 * u64::from(self.available % SIZE);
        self.memory
            .write_slice(&head.to_le_bytes(), GuestAddress(slot))
            .unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Says how many chains are available, whatever is true.
    pub(crate) fn set_available(&self, count: u16) {
        self.memory
            .write_slice(&count.to_le_bytes(), GuestAddress(self.base + 0x1000 + 2))
            .unwrap();
    }

    /// Gives the device bytes to read, in pieces of these lengths.
    pub(crate) fn send(&mut self, pieces: &[&[u8]]) {
        let laid: Vec<Piece> = pieces
            .iter()
            .enumerate()
            .map(|(at, bytes)| {
                let address = self.buffer(self.free[self.free.len() - 1 - at]);
                self.memory
                    .write_slice(bytes, GuestAddress(address))
                    .unwrap();
                (address, bytes.len() as u32, false)
            })
            .collect();
        self.give(&laid);
    }

    /// Gives the device room to write.
    pub(crate) fn room(&mut self, length: u32) {
        let address = self.buffer(*self.free.last().unwrap());
        self.give(&[(address, length, true)]);
    }

    /// The chains that the device has returned: what it has written into each.
    pub(crate) fn returned(&mut self) -> Vec<Vec<u8>> {
        let used = self.base + 0x2000;
        let read = |at: u64, bytes: &mut [u8]| {
            self.memory.read_slice(bytes, GuestAddress(at)).unwrap();
        };
        let mut count = [0; 2];
        read(used + 2, &mut count);
        let mut all = Vec::new();
        while self.seen != u16::from_le_bytes(count) {
            let mut element = [0; 8];
            read(used + 4 + 8 * u64::from(self.seen % SIZE), &mut element);
            let head = u32::from_le_bytes(element[..4].try_into().unwrap()) as u16;
            let length = u32::from_le_bytes(element[4..].try_into().unwrap());
            let numbers = self.out.remove(&head).unwrap_or_default();
            let mut bytes = vec![0; length as usize];
            if let Some(first) = numbers.first() {
                read(self.buffer(*first), &mut bytes);
            }
            self.free.extend(numbers.into_iter().rev());
            all.push(bytes);
            self.seen = self.seen.wrapping_add(1);
        }
        all
    }
}
