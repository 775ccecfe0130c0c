//! Anything on the queues of a guest's vsock, or any packets: the device never panics, never goes on for ever, and holds no
//! more connections than it may.
#![no_main]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;

use anchorhold_parent::qemu::queue::Memory;
use anchorhold_parent::qemu::vsock::packet::{HEADER_BYTES, Header};
use anchorhold_parent::qemu::vsock::{Device, MOST_CONNECTIONS, Switch};
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

const CID: u32 = 16;
const SIZE: u16 = 16;
const MEMORY: usize = 0x8000;

struct Host {
    folder: std::path::PathBuf,
    reception: UnixListener,
    _dialled: UnixListener,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("anchorhold-fuzz-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let reception = UnixListener::bind(folder.join("vsock.sock")).unwrap();
        reception.set_nonblocking(true).unwrap();
        let _dialled = UnixListener::bind(folder.join("vsock.sock_9000")).unwrap();
        _dialled.set_nonblocking(true).unwrap();
        Host {
            folder,
            reception,
            _dialled,
        }
    })
}

fn queue(base: u64) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    queue
        .try_set_desc_table_address(GuestAddress(base))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(base + 0x100))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(base + 0x200))
        .unwrap();
    queue.set_ready(true);
    queue
}

fuzz_target!(|bytes: &[u8]| {
    let host = host();
    while host._dialled.accept().is_ok() {}
    let listener: OwnedFd = host.reception.try_clone().unwrap().into();
    let folder = std::fs::File::open(&host.folder).unwrap().into();
    let mut switch = Switch::new(CID, folder, listener).unwrap();
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    if first & 1 == 0 {
        let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let length = bytes.len().min(MEMORY);
        memory
            .write_slice(&bytes[..length], GuestAddress(0))
            .unwrap();
        let mut device = Device::new(switch);
        let (mut to, mut from) = (queue(0), queue(0x400));
        for _ in 0..3 {
            device.turn(&mut to, &mut from, &memory);
        }
        assert!(device.switch().connections() <= MOST_CONNECTIONS);
        return;
    }
    let mut room = [0; 4096];
    let mut rest = bytes;
    while rest.len() >= HEADER_BYTES {
        let (head, payload) = rest.split_at(HEADER_BYTES);
        let mut header = Header::parse(head.try_into().unwrap());
        // What is another guest's is dropped before anything else is looked at.
        header.from_cid = CID.into();
        header.to_cid = [2, 3, 3, header.to_cid][usize::from(*first >> 1 & 3)];
        header.from_port &= 3;
        header.to_port = [9000, 9000, 1 << 30, header.to_port][usize::from(*first >> 3 & 3)];
        header.kind = 1;
        header.length &= 0x1ff;
        let length = payload.len().min(header.length as usize);
        switch.take(&header, &mut &payload[..length]);
        rest = &payload[length..];
        switch.hear_host();
        while let Some(header) = switch.next(&mut room) {
            assert!(header.length as usize <= room.len());
            assert_eq!(header.to_cid, u64::from(CID));
        }
    }
    assert!(switch.connections() <= MOST_CONNECTIONS);
});
