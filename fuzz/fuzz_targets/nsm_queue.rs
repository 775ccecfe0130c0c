//! Anything on the queue of a guest's NSM: the device never panics, reads no request that is too long, and writes nowhere but
//! into the guest's memory.
#![no_main]

use anchorhold_parent::qemu::nsm::{Device, MOST_REQUEST};
use anchorhold_parent::qemu::queue::Memory;
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

const SIZE: u16 = 16;
const MEMORY: usize = 0x8000;

fuzz_target!(|bytes: &[u8]| {
    let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let length = bytes.len().min(MEMORY);
    memory
        .write_slice(&bytes[..length], GuestAddress(0))
        .unwrap();
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    queue.try_set_desc_table_address(GuestAddress(0)).unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(0x100))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(0x200))
        .unwrap();
    queue.set_ready(true);
    let mut device = Device::new(Box::new(|request| {
        assert!(request.len() <= MOST_REQUEST + 1);
        vec![0x5a; 0x4000]
    }));
    for _ in 0..3 {
        device.turn(&mut queue, &memory);
    }
});
