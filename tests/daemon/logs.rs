//! What an enclave printed is kept after its death, and shown from any of its instances.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::Who;
use crate::stage::{Stage, eventually, image};

#[test]
fn lines_of_all_instances_are_shown_with_times_after_their_death_with_and_without_a_daemon() {
    let stage = Stage::new();
    stage.declare("cards", "1", "");
    let daemon = stage.daemon();
    let first = stage.serves("cards");
    let logs = |more: &[&str]| {
        let arguments = ["logs", "cards"].iter().chain(more).copied();
        String::from_utf8(stage.house.must(Who::Host, arguments)).expect("UTF-8")
    };
    eventually("its words", || {
        logs(&[]).contains("serving; jobs").then_some(())
    });
    kill(Pid::from_raw(first.supervisor), Signal::SIGKILL).expect("it runs");
    let second = eventually("another instance", || {
        let other = stage
            .instances("cards")
            .into_iter()
            .find(|one| one.admitted && one.status == "serving");
        other.filter(|one| one.name != first.name)
    });
    let both = || {
        let text = logs(&["--json"]);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let serving: Vec<u64> = lines
            .iter()
            .filter(|line| {
                line["line"]
                    .as_str()
                    .is_some_and(|line| line.contains("serving; jobs"))
            })
            .filter_map(|line| line["at_ms"].as_u64())
            .collect();
        (serving.len() == 2).then_some(serving)
    };
    let times = eventually("both instances' words", both);
    assert!(times[0] <= times[1]);
    assert_eq!(
        logs(&["--since", "1970-01-01T00:00:01Z"])
            .matches("serving; jobs")
            .count(),
        2
    );
    assert_eq!(logs(&["--since", "2999-01-01T00:00:00Z"]), "");
    let own = stage.house.must(Who::Host, ["logs", &second.name]);
    assert_eq!(
        String::from_utf8_lossy(&own)
            .matches("serving; jobs")
            .count(),
        1
    );
    daemon.kill();
    assert_eq!(both(), Some(times));
    stage.house.must_fail(Who::Host, ["logs", "nobody"]);
}

#[test]
fn who_follows_a_declared_enclave_sees_the_next_instance() {
    let stage = Stage::new();
    stage.declare("cards", "1", "");
    let _daemon = stage.daemon();
    let first = stage.serves("cards");
    let mut follower = stage
        .house
        .command(Who::Host, ["logs", "cards", "--follow"])
        .stdout(std::fs::File::create(stage.house.path("followed")).expect("a file"))
        .spawn()
        .expect("logs runs");
    let followed = || std::fs::read_to_string(stage.house.path("followed")).unwrap_or_default();
    eventually("the first one's words", || {
        followed().contains("serving; jobs").then_some(())
    });
    stage.declare("cards", "2", "");
    stage.house.must(Who::Host, ["reload"]);
    eventually("the second one's", || {
        (followed().matches("serving; jobs").count() == 2).then_some(())
    });
    // It says so before it has attested.
    let second = eventually("the second one serves", || {
        Some(stage.serves("cards")).filter(|one| one.name != first.name)
    });
    assert_eq!(second.image, image("2").0);
    follower.kill().expect("it runs");
    let _ = follower.wait();
}
