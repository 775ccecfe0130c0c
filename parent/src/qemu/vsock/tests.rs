//! The vsock device from both sides, without QEMU: a driver on the queues, programs of the host on the sockets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use virtio_queue::Queue;

use super::packet::{HEADER_BYTES, Header, Operation, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM};
use super::{Device, MOST_CONNECTIONS, Switch};
use crate::qemu::driver::{Ring, memory};
use crate::qemu::queue::Memory;

const CID: u32 = 16;
/// What Linux gives a receive buffer.
const ROOM: u32 = 4096;

struct Bench<'m> {
    folder: tempfile::TempDir,
    device: Device,
    memory: &'m Memory,
    to: Ring<'m>,
    from: Ring<'m>,
    queues: (Queue, Queue),
    /// Packets that the guest has got and not looked at.
    got: Vec<(Header, Vec<u8>)>,
}

fn switch(folder: &std::path::Path) -> Switch {
    let listener = UnixListener::bind(folder.join("vsock.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let folder = std::fs::File::open(folder).unwrap();
    Switch::new(CID, folder.into(), listener.into()).unwrap()
}

impl<'m> Bench<'m> {
    fn new(memory: &'m Memory) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::new(switch(folder.path()));
        let (to, from) = (Ring::new(memory, 0), Ring::new(memory, 1));
        let queues = (to.queue(), from.queue());
        Self {
            folder,
            device,
            memory,
            to,
            from,
            queues,
            got: Vec::new(),
        }
    }

    fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("vsock.sock_{port}"))).unwrap()
    }

    fn dial(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.folder.path().join("vsock.sock")).unwrap();
        client
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .unwrap();
        client
    }

    /// Turns until nothing is left to do, giving the guest's queue room.
    fn turn(&mut self) {
        loop {
            self.turn_without_room();
            let before = self.got.len();
            while self.to.free() > 0 {
                self.to.room(ROOM);
            }
            self.turn_without_room();
            if self.got.len() == before {
                return;
            }
        }
    }

    fn turn_without_room(&mut self) {
        while self
            .device
            .turn(&mut self.queues.0, &mut self.queues.1, self.memory)
            .is_unfinished
        {}
        for packet in self.to.returned() {
            assert!(packet.len() >= HEADER_BYTES);
            let header = Header::parse(packet[..HEADER_BYTES].try_into().unwrap());
            assert_eq!(header.length as usize, packet.len() - HEADER_BYTES);
            self.got.push((header, packet[HEADER_BYTES..].to_vec()));
        }
        self.from.returned();
    }

    fn send(&mut self, header: &Header, bytes: &[u8]) {
        // As Linux lays bulk writes out: the header, then the bytes in two pieces.
        let head = header.bytes();
        let (one, two) = bytes.split_at(bytes.len() / 2);
        let mut pieces: Vec<&[u8]> = vec![&head];
        pieces.extend([one, two].iter().filter(|piece| !piece.is_empty()));
        self.from.send(&pieces);
        self.turn();
    }

    fn took(&mut self) -> Vec<(Header, Vec<u8>)> {
        std::mem::take(&mut self.got)
    }

    fn operations(&mut self) -> Vec<Operation> {
        self.took()
            .iter()
            .map(|(header, _)| header.operation)
            .collect()
    }

    /// A connection that the guest has made to a listener.
    fn connected(&mut self, port: u32) -> (UnixStream, Header) {
        let listener = self.listener(port);
        let request = header(Operation::Request, 3, 1234, port, 0);
        self.send(&request, b"");
        let got = self.took();
        assert_eq!(got.len(), 1, "{got:?}");
        assert_eq!(got[0].0.operation, Operation::Response);
        assert_eq!((got[0].0.from_port, got[0].0.to_port), (port, 1234));
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (
            stream,
            Header {
                operation: Operation::Data,
                ..request
            },
        )
    }
}

fn header(operation: Operation, to_cid: u64, from_port: u32, to_port: u32, length: u32) -> Header {
    Header {
        from_cid: CID.into(),
        to_cid,
        from_port,
        to_port,
        length,
        kind: STREAM,
        operation,
        flags: 0,
        room: 256 * 1024,
        passed_on: 0,
    }
}

fn all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
    }
    bytes
}

#[test]
fn the_guest_dials_the_parent_under_both_of_its_cids() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let listener = bench.listener(9000);
    let mut open = Vec::new();
    for (cid, port) in [(3, 100), (2, 101)] {
        bench.send(&header(Operation::Request, cid, port, 9000, 0), b"");
        let got = bench.took();
        assert_eq!(got[0].0.operation, Operation::Response);
        assert_eq!((got[0].0.from_cid, got[0].0.to_cid), (cid, CID.into()));
        bench.send(&header(Operation::Data, cid, port, 9000, 4), b"ping");
        let (mut stream, _) = listener.accept().unwrap();
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).unwrap();
        assert_eq!(&ping, b"ping");
        stream.write_all(b"pong").unwrap();
        bench.turn();
        assert_eq!(bench.took()[0].1, b"pong");
        open.push(stream);
    }
}

#[test]
fn nobody_else_can_be_reached_and_no_unknown_port() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let _listener = bench.listener(9000);
    for (cid, port) in [
        (0, 9000),
        (1, 9000),
        (16, 9000),
        (17, 9000),
        (1 << 32 | 3, 9000),
        (3, 9001),
    ] {
        bench.send(&header(Operation::Request, cid, 7, port, 0), b"");
        assert_eq!(bench.operations(), [Operation::Reset], "{cid}:{port}");
    }
    // Another's name is not answered, since no guest has it.
    let mut forged = header(Operation::Request, 3, 7, 9000, 0);
    forged.from_cid = 17;
    bench.send(&forged, b"");
    assert!(bench.took().is_empty());
    // Packets (SEQPACKET) were not offered.
    let mut packets = header(Operation::Request, 3, 7, 9000, 0);
    packets.kind = 2;
    bench.send(&packets, b"");
    assert_eq!(bench.operations(), [Operation::Reset]);
    assert_eq!(bench.device.switch().connections(), 0);
}

#[test]
fn the_host_dials_the_guest_and_hears_who_took_it() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let mut client = bench.dial(5000);
    bench.turn();
    let request = bench.took()[0].0;
    assert_eq!(request.operation, Operation::Request);
    assert_eq!((request.from_cid, request.to_port), (3, 5000));
    let answer = header(Operation::Response, 3, 5000, request.from_port, 0);
    bench.send(&answer, b"");
    client.write_all(b"hello").unwrap();
    bench.turn();
    let data = bench.took();
    assert_eq!(
        (data[0].0.operation, data[0].1.as_slice()),
        (Operation::Data, &b"hello"[..])
    );
    bench.send(
        &header(Operation::Data, 3, 5000, request.from_port, 5),
        b"there",
    );
    client.set_nonblocking(true).unwrap();
    assert_eq!(
        all(&mut client),
        format!("OK {}\nthere", request.from_port).as_bytes()
    );
    // Nobody listens: the client is sent away.
    let mut refused = bench.dial(5001);
    bench.turn();
    let request = bench.took()[0].0;
    bench.send(
        &header(Operation::Reset, 3, 5001, request.from_port, 0),
        b"",
    );
    assert_eq!(all(&mut refused), b"");
    // A client that loses patience is taken back.
    drop(bench.dial(5002));
    bench.turn();
    let said = bench.operations();
    assert!(
        said.is_empty() || said.last() == Some(&Operation::Reset),
        "{said:?}"
    );
}

#[test]
fn each_direction_ends_by_itself() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let (mut stream, data) = bench.connected(9000);
    // The guest has said all, and goes on hearing.
    let mut end = Header {
        operation: Operation::Shutdown,
        flags: SHUT_SEND,
        ..data
    };
    bench.send(&Header { length: 4, ..data }, b"last");
    bench.send(&end, b"");
    assert_eq!(all(&mut stream), b"last");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the end is passed on");
    stream.write_all(b"and back").unwrap();
    bench.turn();
    assert_eq!(bench.took()[0].1, b"and back");
    // The parent has said all.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    bench.turn();
    let got = bench.took();
    assert!(
        got.iter()
            .any(|(header, _)| header.operation == Operation::Shutdown
                && header.flags & SHUT_SEND != 0),
        "{got:?}"
    );
    end.flags = SHUT_BOTH;
    bench.send(&end, b"");
    assert_eq!(bench.operations(), [Operation::Reset]);
    assert_eq!(bench.device.switch().connections(), 0);
}

#[test]
fn what_the_parent_said_before_it_closed_arrives() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let (mut stream, data) = bench.connected(9000);
    stream.write_all(b"413 too large").unwrap();
    drop(stream);
    // The guest goes on sending, as one that has not heard yet does.
    bench.send(&Header { length: 6, ..data }, b"upload");
    let got = bench.took();
    assert_eq!(got[0].1, b"413 too large", "{got:?}");
    let shut = got
        .iter()
        .fold(0, |flags, (header, _)| match header.operation {
            Operation::Shutdown => flags | header.flags,
            _ => flags,
        });
    assert_eq!(shut, SHUT_BOTH, "{got:?}");
    bench.send(
        &Header {
            operation: Operation::Reset,
            ..data
        },
        b"",
    );
    assert_eq!(bench.device.switch().connections(), 0);
}

#[test]
fn what_the_guest_sent_before_it_closed_arrives_however_slowly_it_is_read() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let (mut stream, data) = bench.connected(9000);
    let bytes: Vec<u8> = (0..480 * 1024u32).map(|at| (at % 251) as u8).collect();
    let mut sent = 0;
    let mut room = 256 * 1024;
    // Until neither the socket nor the device takes more.
    while sent < bytes.len() {
        let piece = &bytes[sent..(sent + 32 * 1024).min(bytes.len())];
        if room < sent + piece.len() {
            break;
        }
        bench.send(
            &Header {
                length: piece.len() as u32,
                ..data
            },
            piece,
        );
        sent += piece.len();
        for (header, _) in bench.took() {
            room = header.passed_on as usize + header.room as usize;
        }
    }
    assert!(sent > 256 * 1024, "the device and the socket hold {sent}");
    bench.send(
        &Header {
            operation: Operation::Shutdown,
            flags: SHUT_BOTH,
            ..data
        },
        b"",
    );
    assert_eq!(bench.operations().last(), Some(&Operation::Reset));
    // The guest may use its port again at once.
    let _again = bench.listener(9001);
    bench.send(&header(Operation::Request, 3, 1234, 9001, 0), b"");
    assert_eq!(bench.operations(), [Operation::Response]);
    let mut read = Vec::new();
    while read.len() < sent {
        read.extend(all(&mut stream));
        bench.turn();
    }
    assert_eq!(read, bytes[..sent]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(bench.device.switch().connections(), 1);
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let listener = bench.listener(9000);
    let small = Header {
        room: 10_000,
        ..header(Operation::Request, 3, 1, 9000, 0)
    };
    bench.send(&small, b"");
    bench.took();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&vec![7; 30_000]).unwrap();
    bench.turn();
    let got: usize = bench.took().iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(got, 10_000);
    bench.send(
        &Header {
            operation: Operation::CreditUpdate,
            passed_on: 4_000,
            ..small
        },
        b"",
    );
    let got: usize = bench.took().iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(got, 4_000);
    // A guest that lies about what it has read gets nothing out of it but its own confusion.
    bench.send(
        &Header {
            operation: Operation::CreditUpdate,
            passed_on: 4_000_000,
            ..small
        },
        b"",
    );
    bench.took();
    bench.send(
        &Header {
            operation: Operation::CreditUpdate,
            room: u32::MAX,
            passed_on: 14_000,
            ..small
        },
        b"",
    );
    let got: usize = bench.took().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(got <= 16_000, "{got}");
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_loses_the_connection() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let (stream, data) = bench.connected(9000);
    let piece = vec![1; 60 * 1024];
    let mut refused = false;
    for _ in 0..20 {
        bench.send(
            &Header {
                length: piece.len() as u32,
                ..data
            },
            &piece,
        );
        refused |= bench.operations().contains(&Operation::Reset);
    }
    assert!(refused);
    assert_eq!(bench.device.switch().connections(), 0);
    drop(stream);
}

#[test]
fn malformed_packets_are_dropped_and_others_live() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let (mut stream, data) = bench.connected(9000);
    // Half a header; nothing; a length beyond what follows; a length beyond any; an operation that is none; a response out of
    // turn; bytes behind what carries none.
    bench.from.send(&[&data.bytes()[..20]]);
    bench.from.send(&[b""]);
    bench.from.give(&[(u64::MAX - 10, 44, false)]);
    bench.turn();
    assert!(bench.took().is_empty());
    for (bad, bytes) in [
        (
            Header {
                from_port: 5,
                length: 100,
                ..data
            },
            &b"short"[..],
        ),
        (
            Header {
                from_port: 5,
                length: u32::MAX,
                ..data
            },
            b"",
        ),
        (
            Header {
                from_port: 5,
                operation: Operation::Unknown(77),
                ..data
            },
            b"",
        ),
        (
            Header {
                from_port: 5,
                operation: Operation::Response,
                ..data
            },
            b"",
        ),
        (
            Header {
                from_port: 5,
                operation: Operation::Shutdown,
                length: 3,
                flags: SHUT_RECEIVE,
                ..data
            },
            b"abc",
        ),
    ] {
        bench.send(&bad, bytes);
        assert_eq!(bench.operations(), [Operation::Reset], "{bad:?}");
    }
    bench.send(&Header { length: 5, ..data }, b"alive");
    assert_eq!(all(&mut stream), b"alive");
    // The same within a connection costs that connection.
    bench.send(
        &Header {
            length: 100,
            ..data
        },
        b"short",
    );
    assert_eq!(bench.operations(), [Operation::Reset]);
    assert_eq!(bench.device.faults().1, None);
    assert!(bench.device.faults().0 >= 5);
}

#[test]
fn refusals_wait_for_room_and_are_bounded() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    // No room at all, and thousands of packets that belong to nothing.
    for port in 0..20_000 {
        if bench.from.free() == 0 {
            bench.turn_without_room();
        }
        if bench.from.free() == 0 {
            break;
        }
        let stray = header(Operation::Data, 3, port, 9000, 0);
        bench.from.send(&[&stray.bytes()]);
    }
    bench.turn_without_room();
    assert!(
        !bench.device.switch().takes_packets(),
        "the guest's packets wait"
    );
    bench.turn();
    let resets = bench.took().len();
    assert!((1024..4096).contains(&resets), "{resets}");
}

#[test]
fn hundreds_of_connections_do_not_mix() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let listener = bench.listener(9000);
    let mut streams = Vec::new();
    for port in 0..400 {
        bench.send(&header(Operation::Request, 3, port, 9000, 0), b"");
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        streams.push(stream);
    }
    assert!(
        bench
            .operations()
            .iter()
            .all(|operation| *operation == Operation::Response)
    );
    for (port, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&(port as u32).to_le_bytes()).unwrap();
    }
    bench.turn();
    let got = bench.took();
    assert_eq!(got.len(), 400);
    for (header, bytes) in got {
        assert_eq!(bytes, header.to_port.to_le_bytes());
    }
    for port in 0..400u32 {
        bench.send(
            &header(Operation::Data, 3, port, 9000, 4),
            &port.to_le_bytes(),
        );
    }
    for (port, stream) in streams.iter_mut().enumerate() {
        assert_eq!(all(stream), (port as u32).to_le_bytes());
    }
}

#[test]
fn there_is_a_most_of_connections_and_they_come_back() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    // Without sockets of the host, which one process has not enough of: the guest's answers never come.
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(bench.dial(5000));
        bench.turn();
    }
    assert_eq!(bench.device.switch().connections(), 300);
    const { assert!(MOST_CONNECTIONS >= 1000) };
    drop(clients);
    bench.turn();
    assert_eq!(bench.device.switch().connections(), 0);
}

#[test]
fn a_broken_queue_costs_the_guest_its_vsock_and_the_host_nothing() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let (mut stream, _) = bench.connected(9000);
    bench.from.set_available(30_000);
    bench.turn_without_room();
    assert!(bench.device.faults().1.is_some());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the parent hears of it");
    // Clients are not left waiting.
    let mut client = bench.dial(5000);
    bench.turn_without_room();
    bench.turn_without_room();
    let _ = client.read(&mut [0]);
    bench.device.reset();
    assert_eq!(bench.device.faults().1, None);
}
