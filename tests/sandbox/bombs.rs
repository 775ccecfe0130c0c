//! Bombs: a job takes all processes, all memory, all room. Enclave and host are none the worse for it.

use serde_json::{Value, json};

use crate::stage::{Outcome, Stage};
use crate::traces::Traces;

const MEMORY_MIB: u32 = 192;

fn bombs() -> [Value; 3] {
    [
        json!({ "try": "fork-bomb", "most": 2000 }),
        json!({ "try": "memory-bomb", "bytes": 1_u64 << 30 }),
        json!({ "try": "disk-bomb", "bytes": 500_u64 << 20 }),
    ]
}

#[test]
fn bombs_go_off_inside_and_neither_enclave_nor_host_are_hurt() {
    let stage = Stage::new(MEMORY_MIB);
    for (bomb, outcome) in bombs().iter().zip(stage.outside(&bombs())) {
        assert!(outcome.through, "{bomb} cannot succeed: {outcome:?}");
    }

    let enclave = stage.enclave();
    let traces = Traces::of(&stage.house, enclave.name);
    for bomb in bombs() {
        let outcome: Outcome = stage.inside(std::slice::from_ref(&bomb)).remove(0);
        assert!(!outcome.through, "{bomb} came through inside: {outcome:?}");
        eprintln!("{bomb}: {}", outcome.detail);
        stage.calls_work();
        traces.are_all_that_there_is();
    }
    // All of them at once in one call, and the enclave serves on.
    for outcome in stage.inside(&bombs()) {
        assert!(!outcome.through, "{outcome:?}");
    }
    stage.calls_work();
    // The host has room for all of it still.
    for outcome in stage.outside(&bombs()) {
        assert!(outcome.through, "{outcome:?}");
    }
    drop(enclave);
    traces.are_gone();
}
