//! The devices as a running machine drives them, by the protocol and over shared memory: first as QEMU does, then as a QEMU
//! would that its guest has taken over. Whatever it does, it may cost it its own device.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::driver::{BYTES, Ring, SIZE, memory_in};
use super::super::vsock::Switch;
use super::super::vsock::packet::{HEADER_BYTES, Header, Operation, STREAM};
use super::*;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_mins(1);
/// Where the machine's memory lies in "QEMU".
const USER: u64 = 0x7000_0000_0000;
const CID: u32 = 16;

/// Memory as QEMU offers it: its file cannot shrink.
fn file(bytes: u64, seals: SealFlag) -> File {
    let file = File::from(memfd_create(c"memory", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.set_len(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

fn nsm_device() -> nsm::Device {
    nsm::Device::new(Box::new(|request| [b"answer to ", request].concat()))
}

fn vsock_device(folder: &std::path::Path) -> Vsock {
    let listener = UnixListener::bind(folder.join("vsock.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let folder = File::open(folder).unwrap();
    Vsock {
        cid: CID,
        device: vsock::Device::new(Switch::new(CID, folder.into(), listener.into()).unwrap()),
    }
}

/// A device that is served, and the end of its socket that QEMU has.
fn served<D: Device>(device: D) -> (Served<D>, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let opened = File::open(folder.path()).unwrap();
    let (served, theirs) = serve(device, "device", opened.as_fd()).unwrap();
    (served, UnixStream::from(theirs))
}

/// Ends a device; nothing in it may have panicked.
fn ends_well<D: Device>(mut served: Served<D>) {
    let ended = Served::hang_up(served.daemon.as_mut().unwrap());
    assert!(
        !matches!(ended, Err(vhost_user_backend::Error::WaitDaemon(_))),
        "the protocol's thread panicked"
    );
    assert!(!served.backend.is_poisoned(), "the queues' thread panicked");
}

/// QEMU's side of a device.
struct Machine {
    frontend: Frontend,
    kicks: Vec<EventFd>,
    /// Kept for as long as the device may use them.
    calls: Vec<EventFd>,
}

impl Machine {
    /// Speaks the protocol until the memory is due.
    fn greet(stream: UnixStream, queues: usize) -> Machine {
        let mut frontend = Frontend::from_stream(stream, queues as u64);
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        frontend.set_features(features).unwrap();
        let features = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(features).unwrap();
        Machine {
            frontend,
            kicks: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn offer(&self, file: &File, bytes: u64) -> vhost::Result<()> {
        use std::os::fd::AsRawFd;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: bytes,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        self.frontend.set_mem_table(&[region]).map(drop)
    }

    fn ring(&mut self, index: usize, size: u16, places: [u64; 3]) -> vhost::Result<()> {
        let [descriptors, available, used] = places.map(|place| USER + place);
        let (kick, call) = (
            EventFd::new(EFD_NONBLOCK).unwrap(),
            EventFd::new(EFD_NONBLOCK).unwrap(),
        );
        self.frontend.set_vring_num(index, size)?;
        self.frontend.set_vring_base(index, 0)?;
        self.frontend.set_vring_addr(
            index,
            &VringConfigData {
                queue_max_size: size,
                queue_size: size,
                flags: 0,
                desc_table_addr: descriptors,
                used_ring_addr: used,
                avail_ring_addr: available,
                log_addr: None,
            },
        )?;
        self.frontend.set_vring_call(index, &call)?;
        self.frontend.set_vring_kick(index, &kick)?;
        self.frontend.set_vring_enable(index, true)?;
        self.kicks.push(kick);
        self.calls.push(call);
        Ok(())
    }

    /// With its memory and these rings.
    fn start(stream: UnixStream, file: &File, rings: &[&Ring<'_>]) -> Machine {
        let mut machine = Machine::greet(stream, rings.len());
        machine.offer(file, BYTES).unwrap();
        for (index, ring) in rings.iter().enumerate() {
            machine.ring(index, SIZE, ring.places()).unwrap();
        }
        machine
    }

    fn kick(&self) {
        assert_eq!(self.kicks.len(), self.calls.len());
        for kick in &self.kicks {
            kick.write(1).unwrap();
        }
    }

    /// Whether the device has hung up, which it may have still to do.
    fn is_hung_up(&self) -> bool {
        let begun = Instant::now();
        while self.frontend.get_features().is_ok() {
            if begun.elapsed() > PATIENCE {
                return false;
            }
        }
        true
    }
}

fn returned(ring: &mut Ring<'_>) -> Vec<Vec<u8>> {
    let begun = Instant::now();
    loop {
        let returned = ring.returned();
        if !returned.is_empty() {
            return returned;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing came back");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn packet(operation: Operation, port: u32, bytes: &[u8]) -> Vec<u8> {
    let header = Header {
        from_cid: CID.into(),
        to_cid: 3,
        from_port: port,
        to_port: 9000,
        length: bytes.len() as u32,
        kind: STREAM,
        operation,
        flags: 0,
        room: 256 * 1024,
        passed_on: 0,
    };
    [&header.bytes()[..], bytes].concat()
}

/// A machine with a vsock.
struct Talker<'m> {
    machine: Machine,
    to: Ring<'m>,
    from: Ring<'m>,
    got: Vec<Header>,
}

impl<'m> Talker<'m> {
    fn new(stream: UnixStream, file: &File, memory: &'m Memory) -> Self {
        let (mut to, from) = (Ring::new(memory, 0), Ring::new(memory, 1));
        let machine = Machine::start(stream, file, &[&to, &from]);
        while to.free() > 1 {
            to.room(4096);
        }
        Self {
            machine,
            to,
            from,
            got: Vec::new(),
        }
    }

    fn send(&mut self, packet: &[u8]) {
        self.from.send(&[packet]);
        self.machine.kick();
        returned(&mut self.from);
    }

    /// What the device says of that port.
    fn hear(&mut self, port: u32) -> Operation {
        loop {
            if let Some(at) = self.got.iter().position(|header| header.to_port == port) {
                return self.got.swap_remove(at).operation;
            }
            for packet in returned(&mut self.to) {
                self.got
                    .push(Header::parse(packet[..HEADER_BYTES].try_into().unwrap()));
            }
        }
    }

    /// Dials the listener and is heard there.
    fn is_heard(&mut self, listener: &UnixListener, port: u32) -> UnixStream {
        self.send(&packet(Operation::Request, port, b""));
        assert_eq!(self.hear(port), Operation::Response);
        let (mut stream, _) = listener.accept().unwrap();
        self.send(&packet(Operation::Data, port, b"hello"));
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
        stream
    }
}

#[test]
fn malformed_vsock_packets_of_a_running_machine_cost_it_alone() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let listeners = folders
        .each_ref()
        .map(|folder| UnixListener::bind(folder.path().join("vsock.sock_9000")).unwrap());
    let files = [(); 2].map(|()| file(BYTES, SealFlag::F_SEAL_SHRINK));
    let memories = files
        .each_ref()
        .map(|file| memory_in(file.try_clone().unwrap()));
    let (one, its) = served(vsock_device(folders[0].path()));
    let (other, others) = served(vsock_device(folders[1].path()));
    let mut bad = Talker::new(its, &files[0], &memories[0]);
    let mut good = Talker::new(others, &files[1], &memories[1]);

    let mut stream = bad.is_heard(&listeners[0], 1);
    good.is_heard(&listeners[1], 1);
    // Half a header, nothing, a buffer that is nowhere, one of four gigabytes, a circle.
    bad.from.send(&[&packet(Operation::Request, 2, b"")[..20]]);
    bad.from.send(&[b""]);
    bad.from.give(&[(u64::MAX - 10, 44, false)]);
    bad.from.give(&[(0, u32::MAX, false)]);
    let head = bad.from.give(&[(0, 44, false)]);
    bad.from.descriptor(head, 0, 44, 1, head);
    bad.machine.kick();
    let mut back = 0;
    while back < 5 {
        back += returned(&mut bad.from).len();
    }
    // An operation that is none, an answer to nothing, a length beyond what follows.
    for (port, operation) in [
        (2, Operation::Unknown(99)),
        (3, Operation::Response),
        (4, Operation::Data),
    ] {
        bad.send(&packet(operation, port, b""));
        assert_eq!(bad.hear(port), Operation::Reset);
    }
    let mut long = packet(Operation::Data, 1, b"");
    long[24..28].copy_from_slice(&60_000u32.to_le_bytes());
    bad.send(&long);
    assert_eq!(bad.hear(1), Operation::Reset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "its connection is over");
    // It is heard again, and what it did is told.
    let mut stream = bad.is_heard(&listeners[0], 5);
    let told = one.faults().unwrap();
    assert!(told.contains("malformed messages to vsock"), "{told}");

    // A ring that cannot be: the device goes off.
    bad.from.set_available(30_000);
    bad.machine.kick();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let told = one.faults().unwrap();
    assert!(told.contains("was turned off"), "{told}");
    good.is_heard(&listeners[1], 2);
    assert_eq!(other.faults(), None);
    ends_well(one);
    good.is_heard(&listeners[1], 3);
    ends_well(other);
}

#[test]
fn malformed_nsm_requests_of_a_running_machine_cost_it_alone() {
    let file = file(BYTES, SealFlag::F_SEAL_SHRINK);
    let memory = memory_in(file.try_clone().unwrap());
    let (served, stream) = served(nsm_device());
    let mut ring = Ring::new(&memory, 0);
    let machine = Machine::start(stream, &file, &[&ring]);
    let ask = |ring: &mut Ring<'_>| {
        ring.send(&[b"describe"]);
        ring.room(64);
        machine.kick();
        while returned(ring).last().unwrap() != b"answer to describe" {}
    };
    ask(&mut ring);
    ring.room(64);
    ring.send(&[b"one"]);
    ring.give(&[(u64::MAX - 4, 16, false)]);
    ring.give(&[(1 << 40, 16, true)]);
    let head = ring.give(&[(0, 8, false)]);
    ring.descriptor(head, 0, 8, 1, head);
    machine.kick();
    ask(&mut ring);
    let told = served.faults().unwrap();
    assert!(told.contains("malformed messages to its NSM"), "{told}");
    ring.set_available(40_000);
    machine.kick();
    let begun = Instant::now();
    while !served.faults().unwrap().contains("was turned off") {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    ends_well(served);
}

#[test]
fn memory_that_changes_under_the_device_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(BYTES, SealFlag::F_SEAL_SHRINK);
    let memory = memory_in(file.try_clone().unwrap());
    for seed in 1..20u64 {
        let (served, stream) = served(vsock_device(folder.path()));
        std::fs::remove_file(folder.path().join("vsock.sock")).unwrap();
        let rings = [Ring::new(&memory, 0), Ring::new(&memory, 1)];
        let machine = Machine::start(stream, &file, &[&rings[0], &rings[1]]);
        let mut state = seed;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let end = rings[1].places()[2] + 0x1000;
        for _ in 0..20_000 {
            let number = random();
            let place = random() % (end - 8);
            // Small numbers, which are sizes, flags and heads, more often than others.
            let word = number >> (8 * (number % 8));
            memory
                .write_slice(&word.to_le_bytes(), GuestAddress(place))
                .unwrap();
            if number.is_multiple_of(64) {
                machine.kick();
            }
        }
        let _ = served.faults();
        ends_well(served);
    }
}

#[test]
fn memory_that_could_be_taken_away_is_refused() {
    for (seals, bytes, claimed) in [
        (SealFlag::empty(), BYTES, BYTES),
        (SealFlag::F_SEAL_GROW, BYTES, BYTES),
        (SealFlag::F_SEAL_SHRINK, BYTES / 2, BYTES),
        (SealFlag::F_SEAL_SHRINK, 0, BYTES),
    ] {
        let file = file(bytes, seals);
        let (served, stream) = served(nsm_device());
        let machine = Machine::greet(stream, 1);
        let _ = machine.offer(&file, claimed);
        assert!(machine.is_hung_up(), "{seals:?}, {bytes} of {claimed}");
        assert!(!served.is_awake());
        ends_well(served);
    }
    // No memfd at all.
    let file = tempfile::tempfile().unwrap();
    file.set_len(BYTES).unwrap();
    let (served, stream) = served(nsm_device());
    let machine = Machine::greet(stream, 1);
    let _ = machine.offer(&file, BYTES);
    assert!(machine.is_hung_up());
    ends_well(served);
}

#[test]
fn good_memory_that_is_replaced_by_bad_is_no_longer_used() {
    let good = file(BYTES, SealFlag::F_SEAL_SHRINK);
    let memory = memory_in(good.try_clone().unwrap());
    let (served, stream) = served(nsm_device());
    let mut ring = Ring::new(&memory, 0);
    let machine = Machine::start(stream, &good, &[&ring]);
    let bad = file(BYTES, SealFlag::empty());
    let _ = machine.offer(&bad, BYTES);
    bad.set_len(0).unwrap();
    ring.send(&[b"describe"]);
    ring.room(64);
    machine.kick();
    assert!(machine.is_hung_up());
    machine.kick();
    assert!(!served.is_awake());
    ends_well(served);
}

#[test]
fn rings_that_lie_elsewhere_or_are_too_large_are_refused() {
    for (size, places) in [
        (SIZE, [BYTES, 0x1000, 0x2000]),
        (SIZE, [0, 1 << 40, 0x2000]),
        (SIZE, [0, 0x1000, u64::MAX - USER]),
        (SIZE, [1, 0x1001, 0x2003]),
        (1024, [0, 0x1000, 0x2000]),
        (SIZE, [BYTES - 16, BYTES - 4, BYTES - 4]),
    ] {
        let file = file(BYTES, SealFlag::F_SEAL_SHRINK);
        let (served, stream) = served(nsm_device());
        let mut machine = Machine::greet(stream, 1);
        machine.offer(&file, BYTES).unwrap();
        // The last one begins inside and ends outside, which is seen when it is used.
        if machine.ring(0, size, places).is_ok() {
            machine.kick();
        }
        ends_well(served);
    }
}

#[test]
fn words_that_are_no_protocol_end_the_conversation() {
    let mut state = 7u64;
    for round in 0..200 {
        let (served, mut stream) = served(nsm_device());
        let mut bytes = Vec::new();
        for _ in 0..round % 40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        // Requests that exist, in version 1, with sizes of all kinds.
        if round % 2 == 0 && bytes.len() >= 12 {
            bytes[0] %= 45;
            bytes[1..4].fill(0);
            bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
            if round % 4 == 0 {
                bytes[9..12].fill(0);
            }
        }
        let _ = stream.write_all(&bytes);
        drop(stream);
        ends_well(served);
    }
}
