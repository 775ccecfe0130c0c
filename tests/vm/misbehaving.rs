//! Machines that misbehave: the host reports what happened and frees everything, and another machine does not notice.

use std::time::Duration;

use anchorhold_images::DEFAULT_COMMAND_LINE;
use anchorhold_parent::How;

use crate::stage::{Machine, folder, guest, image, order, run, start};

/// A machine beside, which must go on answering.
struct Neighbour(Machine);

impl Neighbour {
    fn new() -> Self {
        let machine = run("serve");
        machine.beat();
        Self(machine)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            use std::io::Write;
            let mut stream = self.0.ask(b'e', &[]);
            stream.write_all(b"still here").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(Machine::hear(&mut stream), b"still here");
        }
    }
}

fn nothing_is_left(machine: &Machine) {
    let left: Vec<_> = std::fs::read_dir(machine.enclave.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        // The listener of the heartbeat is the test's own.
        .filter(|name| name != "console.log" && name != "log.ndjson" && name != "vsock.sock_9000")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_dead_init_is_a_kernel_panic_and_is_told() {
    let neighbour = Neighbour::new();
    for word in ["exit", "crash"] {
        let mut machine = run(word);
        let ended = machine.ended();
        assert_eq!(ended.how, How::KernelPanic, "{}", machine.console());
        assert!(machine.console().contains("Attempted to kill init"));
        nothing_is_left(&machine);
    }
    drop(neighbour);
}

#[test]
fn a_kernel_that_panics_by_itself_is_told_with_its_reason() {
    let neighbour = Neighbour::new();
    let folder = folder();
    let image = image(folder.path(), guest(), |options| {
        options.command_line = Some(format!("{DEFAULT_COMMAND_LINE} rdinit=/nowhere"));
    });
    let order = order(&image, folder.path());
    let mut machine = start(folder, order).unwrap();
    assert_eq!(
        machine.ended().how,
        How::KernelPanic,
        "{}",
        machine.console()
    );
    assert!(machine.console().contains("Kernel panic - not syncing: "));
    nothing_is_left(&machine);
    drop(neighbour);
}

#[test]
fn exhausted_memory_is_told() {
    let neighbour = Neighbour::new();
    let mut machine = run("memory");
    machine.beat();
    let ended = machine.ended();
    assert!(ended.ran_out_of_memory, "{ended}\n{}", machine.console());
    nothing_is_left(&machine);
    drop(neighbour);
}

#[test]
fn an_endless_loop_ends_when_it_is_told_to() {
    let neighbour = Neighbour::new();
    let mut machine = run("loop");
    machine.beat();
    assert_eq!(machine.enclave.ended(), None);
    machine.enclave.kill();
    assert_eq!(machine.ended().how, How::Killed(9));
    nothing_is_left(&machine);
    drop(neighbour);
}

#[test]
fn a_flood_on_the_console_is_cut() {
    let neighbour = Neighbour::new();
    let mut machine = run("flood");
    machine.beat();
    let enough = 200_000;
    while std::fs::metadata(machine.enclave.console()).unwrap().len() < enough {
        std::thread::sleep(Duration::from_millis(20));
    }
    machine.enclave.kill();
    assert!(std::fs::metadata(machine.enclave.console()).unwrap().len() < (16 << 20) + 200);
    nothing_is_left(&machine);
    drop(neighbour);
}

#[test]
fn queues_that_the_guest_closes_open_again() {
    let neighbour = Neighbour::new();
    let mut machine = run("unbind");
    machine.beat();
    machine.beat();
    machine.ended();
    assert!(
        machine.console().contains("all is as before"),
        "{}",
        machine.console()
    );
    nothing_is_left(&machine);
    drop(neighbour);
}

#[test]
fn requests_without_sense_are_refused_and_the_nsm_lives() {
    let mut machine = run("nsm");
    machine.beat();
    machine.ended();
    let console = machine.console();
    assert!(
        console.contains("the NSM answered before true and after true"),
        "{console}"
    );
    nothing_is_left(&machine);
}

#[test]
fn a_qemu_that_is_killed_is_told() {
    let mut machine = run("serve");
    machine.beat();
    let pid = machine.enclave.report().pid.to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-SEGV", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(machine.ended().how, How::Killed(11));
    nothing_is_left(&machine);
}
