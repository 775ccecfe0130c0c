//! The NSM's queue from the guest's side, without QEMU.

use super::*;
use crate::qemu::driver::{Ring, memory};

fn echo() -> Device {
    Device::new(Box::new(|request| [b"answer to ", request].concat()))
}

#[test]
fn a_request_and_the_room_for_its_answer_come_as_two_chains_and_go_back_together() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0);
    let mut queue = ring.queue();
    let mut device = echo();
    ring.send(&[b"describe"]);
    let turn = device.turn(&mut queue, &memory);
    assert_eq!(
        turn.interrupts, 0,
        "half a request is no reason to interrupt"
    );
    assert!(ring.returned().is_empty());
    ring.room(0x3000);
    assert_eq!(device.turn(&mut queue, &memory).interrupts, 1);
    assert_eq!(
        ring.returned(),
        [b"".to_vec(), b"answer to describe".to_vec()]
    );
}

#[test]
fn one_chain_with_both_is_answered_too() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0);
    let mut queue = ring.queue();
    let mut device = echo();
    let (asked, room) = (ring.buffer(9), ring.buffer(10));
    memory_write(&memory, asked, b"pcr");
    ring.give(&[(asked, 3, false), (room, 64, true)]);
    device.turn(&mut queue, &memory);
    assert_eq!(ring.returned().len(), 1);
    assert_eq!(memory_read(&memory, room, 13), b"answer to pcr");
}

#[test]
fn an_answer_without_room_is_cut_and_a_request_without_end_is_bounded() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0);
    let mut queue = ring.queue();
    let mut device = Device::new(Box::new(|request| {
        assert!(request.len() <= MOST_REQUEST + 1);
        vec![b'x'; 100_000]
    }));
    ring.send(&[&vec![0; 0x12000]]);
    ring.room(100);
    ring.send(&[b"again"]);
    ring.room(0x10000);
    device.turn(&mut queue, &memory);
    let lengths: Vec<usize> = ring.returned().iter().map(Vec::len).collect();
    assert_eq!(lengths, [0, 100, 0, MOST_ANSWER]);
}

#[test]
fn room_without_a_request_and_requests_without_room_cost_the_guest_alone() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0);
    let mut queue = ring.queue();
    let mut device = echo();
    ring.room(64);
    ring.send(&[b"one"]);
    ring.send(&[b"two"]);
    ring.room(64);
    device.turn(&mut queue, &memory);
    assert_eq!(
        ring.returned(),
        [
            b"".to_vec(),
            b"".to_vec(),
            b"".to_vec(),
            b"answer to two".to_vec()
        ]
    );
    assert_eq!(device.faults(), (2, None));
}

#[test]
fn chains_that_lead_nowhere_are_returned_unanswered() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0);
    let mut queue = ring.queue();
    let mut device = echo();
    // Outside of memory; at its end; of four gigabytes; in a circle.
    ring.give(&[(u64::MAX - 4, 16, false)]);
    ring.give(&[(1 << 40, 16, false)]);
    ring.give(&[(0, u32::MAX, false), (0, u32::MAX, false)]);
    let head = ring.give(&[(0, 8, false)]);
    ring.descriptor(head, 0, 8, 1, head);
    device.turn(&mut queue, &memory);
    ring.send(&[b"still there"]);
    ring.room(64);
    device.turn(&mut queue, &memory);
    assert_eq!(ring.returned().last().unwrap(), b"answer to still there");
    assert!(device.faults().0 >= 3, "{:?}", device.faults());
}

#[test]
fn a_broken_queue_ends_the_device_and_nothing_else() {
    for break_it in [
        (|ring: &mut Ring<'_>| ring.set_available(40_000)) as fn(&mut Ring<'_>),
        |ring| ring.offer(60_000),
    ] {
        let memory = memory();
        let mut ring = Ring::new(&memory, 0);
        let mut queue = ring.queue();
        let mut device = echo();
        break_it(&mut ring);
        device.turn(&mut queue, &memory);
        device.turn(&mut queue, &memory);
        let broken = device.faults().1.is_some();
        // A head that does not exist may be skipped; either way nothing is answered from it.
        assert!(broken || ring.returned().is_empty());
        // The driver starts anew.
        device.reset();
        let fresh = crate::qemu::driver::memory();
        let mut ring = Ring::new(&fresh, 0);
        let mut queue = ring.queue();
        ring.send(&[b"anew"]);
        ring.room(64);
        device.turn(&mut queue, &fresh);
        assert_eq!(ring.returned().last().unwrap(), b"answer to anew");
    }
}

fn memory_write(memory: &Memory, at: u64, bytes: &[u8]) {
    use vm_memory::{Bytes, GuestAddress};
    memory.write_slice(bytes, GuestAddress(at)).unwrap();
}

fn memory_read(memory: &Memory, at: u64, length: usize) -> Vec<u8> {
    use vm_memory::{Bytes, GuestAddress};
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}
