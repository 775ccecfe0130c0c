//! Enclaves come and go, and leave the host as it was.

use std::time::Duration;

use crate::stage::Stage;
use crate::traces::{Traces, files_below};

const CYCLES: usize = 10;

#[test]
fn ten_starts_and_stops_leave_no_process_no_file_no_socket_no_mount() {
    let stage = Stage::new(64);
    let folder = stage.house.path("");
    let mut after_the_first = None;
    for cycle in 0..CYCLES {
        let enclave = stage.enclave();
        let traces = Traces::of(&stage.house, enclave.name);
        if cycle % 3 == 0 {
            stage.calls_work();
        }
        drop(enclave);
        traces.are_gone();
        if cycle == 0 {
            after_the_first = Some(files_below(&folder));
        }
    }
    assert_eq!(
        after_the_first.as_ref(),
        Some(&files_below(&folder)),
        "files are as after the first cycle"
    );
}

#[test]
fn a_supervisor_that_is_killed_takes_its_enclave_along() {
    let stage = Stage::new(64);
    let enclave = stage.enclave();
    let traces = Traces::of(&stage.house, enclave.name);
    traces.kill_supervisor();
    std::thread::sleep(Duration::from_millis(50));
    traces.processes_are_gone();
    drop(enclave);
}
