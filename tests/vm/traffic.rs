//! What a machine's vsock carries: much, at once, both ways, whole.

use std::io::{Read, Write};
use std::net::Shutdown;

use anchorhold_parent::sandbox;

use crate::stage::{Machine, PATIENCE, run};
use crate::sum::{drain, give};

const GIBIBYTE: u64 = 1 << 30;

fn answered(bytes: &[u8]) -> (u64, u64) {
    assert_eq!(bytes.len(), 16);
    (
        u64::from_le_bytes(bytes[..8].try_into().unwrap()),
        u64::from_le_bytes(bytes[8..].try_into().unwrap()),
    )
}

/// What `give` gives, summed.
fn expected(length: u64) -> (u64, u64) {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let giver = std::thread::spawn(move || give(&mut writer, length).unwrap());
    let sum = drain(&mut reader).unwrap();
    giver.join().unwrap();
    sum
}

#[test]
fn a_gibibyte_each_way_arrives_whole() {
    let machine = run("serve");
    machine.beat();
    let wanted = expected(GIBIBYTE);
    assert_eq!(wanted.0, GIBIBYTE);
    // To the guest.
    let mut stream = machine.ask(b't', &[]);
    give(&mut stream, GIBIBYTE).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answered(&Machine::hear(&mut stream)), wanted);
    // From the guest.
    let mut stream = machine.ask(b'g', &[GIBIBYTE]);
    assert_eq!(drain(&mut stream).unwrap(), wanted);
}

#[test]
fn a_thousand_connections_at_once_do_not_mix() {
    const MANY: u64 = 1000;
    let folder = crate::stage::folder();
    let image = crate::stage::told(folder.path(), "serve");
    let mut order = crate::stage::order(&image, folder.path());
    order.memory_mib = Some(256);
    let machine = crate::stage::start(folder, order).unwrap();
    machine.beat();
    let mut streams: Vec<_> = (0..MANY)
        .map(|_| {
            let begun = std::time::Instant::now();
            // The guest's own queue of connections that it has not accepted yet is short.
            loop {
                match machine.enclave.connect(5000) {
                    Ok(mut stream) => {
                        stream.write_all(b"e").unwrap();
                        break stream;
                    }
                    Err(error) => {
                        let console = machine.console();
                        assert!(begun.elapsed() < PATIENCE, "{error}\n{console}");
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                }
            }
        })
        .collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&(number as u64).to_le_bytes()).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), number as u64);
    }
    // Half of them say that they are done, half just go.
    for stream in streams.drain(..).step_by(2) {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut stream = machine.ask(b'e', &[]);
    stream.write_all(b"after them").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Machine::hear(&mut stream), b"after them");
}

#[test]
fn the_guest_dials_the_parent_and_both_directions_flow_at_once() {
    const MEBIBYTES: u64 = 16 << 20;
    let machine = run("serve");
    machine.beat();
    let listener = sandbox::listen(machine.enclave.dir(), 8000).unwrap();
    let wanted = expected(MEBIBYTES);
    let parent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut other = stream.try_clone().unwrap();
        let giver = std::thread::spawn(move || {
            give(&mut other, MEBIBYTES).unwrap();
            other.shutdown(Shutdown::Write).unwrap();
        });
        let got = drain(&mut stream).unwrap();
        giver.join().unwrap();
        got
    });
    let mut stream = machine.ask(b'd', &[8000, MEBIBYTES]);
    assert_eq!(answered(&Machine::hear(&mut stream)), wanted);
    assert_eq!(parent.join().unwrap(), wanted);
    // Nobody listens on another port, and there is no other machine to be reached.
    let mut stream = machine.ask(b'd', &[8001, 1]);
    assert_eq!(Machine::hear(&mut stream), b"");
}

#[test]
fn a_reader_that_waits_loses_nothing_and_holds_up_nobody() {
    const MEBIBYTES: u64 = 8 << 20;
    let machine = run("serve");
    machine.beat();
    let mut slow = machine.ask(b'g', &[MEBIBYTES]);
    // Others are served while it waits.
    for _ in 0..10 {
        let mut quick = machine.ask(b'e', &[]);
        quick.write_all(b"quick").unwrap();
        quick.shutdown(Shutdown::Write).unwrap();
        assert_eq!(Machine::hear(&mut quick), b"quick");
    }
    assert_eq!(drain(&mut slow).unwrap(), expected(MEBIBYTES));
    // A guest that does not read holds the parent's writer up, and no more.
    let mut full = machine.ask(b'e', &[]);
    full.set_nonblocking(true).unwrap();
    let mut held = 0usize;
    while let Ok(count) = full.write(&vec![7; 65536]) {
        held += count;
        assert!(held < 64 << 20, "somebody holds {held} bytes");
    }
    let mut quick = machine.ask(b'e', &[]);
    quick.write_all(b"quick").unwrap();
    quick.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Machine::hear(&mut quick), b"quick");
}

#[test]
fn a_port_on_which_nobody_listens_refuses() {
    let machine = run("serve");
    machine.beat();
    let error = machine.enclave.connect(5001).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
