//! Declared enclaves run, attested, whatever becomes of them or of the daemon.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::Who;
use crate::stage::{Stage, eventually, free_port, image, ingress, runs, through};

#[test]
fn a_declared_enclave_serves_once_it_has_attested_and_the_command_line_knows_it_by_its_name() {
    let stage = Stage::new();
    let address = free_port();
    stage.declare("cards", "1", &ingress(address));
    let daemon = stage.daemon();
    let instance = stage.serves("cards");
    assert_eq!(through(address), 200);

    let (_, pcr0) = image("1");
    let view = stage.view("cards");
    assert_eq!(view["attested"]["pcrs"]["0"], pcr0.as_str());
    assert!(
        view["attested"]["certificates"]
            .as_array()
            .is_some_and(|all| all.len() >= 2)
    );
    let listed = stage.house.must(Who::Host, ["ps"]);
    let listed = String::from_utf8_lossy(&listed).into_owned();
    assert!(
        listed.contains("cards ") && listed.contains("attested"),
        "{listed}"
    );
    let document = stage.house.path("document.cbor");
    let document = document.to_str().expect("UTF-8");
    stage.house.must(
        Who::Host,
        ["attest", "cards", "--nonce", "00ff", "-o", document],
    );
    // By the instance's own name as well.
    stage
        .house
        .must(Who::Host, ["attest", &instance.name, "-o", document]);

    stage.house.must(Who::Host, ["stop", "cards"]);
    assert!(!runs(instance.supervisor));
    assert_eq!(stage.view("cards")["condition"], "stopped");
    stage.house.must(Who::Host, ["start", "cards"]);
    let again = stage.serves("cards");
    assert_ne!(again.name, instance.name);
    eventually("the ingress leads to the new one", || {
        (through(address) == 200).then_some(())
    });
    drop(daemon);
}

#[test]
fn an_image_other_than_the_declared_one_never_serves_and_is_named() {
    let stage = Stage::new();
    let address = free_port();
    stage.declare("cards", "1", &ingress(address));
    let (_, one) = image("1");
    let (_, two) = image("2");
    let text = std::fs::read_to_string(stage.file("cards")).expect("the file");
    std::fs::write(stage.file("cards"), text.replace(&one, &two)).expect("the file");
    let _daemon = stage.daemon();
    let view = eventually("a failure", || {
        let view = stage.view("cards");
        view["last_error"].is_string().then_some(view)
    });
    let error = view["last_error"].as_str().unwrap_or_default().to_owned();
    assert!(
        error.contains("not what was declared") && error.contains(&one),
        "{error}"
    );
    assert!(view["attested"].is_null());
    // Nothing ever led to it: the socket is not even there.
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(stage.ask("GET", "/v1/ready", "").0, 503);
}

#[test]
fn an_enclave_whose_address_is_taken_does_not_serve_until_it_is_free() {
    let stage = Stage::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    stage.declare("cards", "1", &ingress(address));
    let _daemon = stage.daemon();
    let view = eventually("an error", || {
        let view = stage.view("cards");
        view["last_error"].is_string().then_some(view)
    });
    let error = view["last_error"].as_str().unwrap_or_default().to_owned();
    assert!(
        error.contains("nothing can listen at") && error.contains(&address.to_string()),
        "{error}"
    );
    assert_eq!(view["condition"], "starting");
    assert_eq!(stage.ask("GET", "/v1/ready", "").0, 503);
    drop(taken);
    let instance = stage.serves("cards");
    assert_eq!(through(address), 200);
    assert_eq!(stage.ask("GET", "/v1/ready", "").0, 200);
    // It was the same one all the time.
    let instances = view["instances"].as_array().expect("a list");
    assert!(
        instances
            .iter()
            .any(|one| one["name"] == instance.name.as_str())
    );
}

#[test]
fn enclaves_and_flows_outlive_the_daemon_and_the_next_one_finds_them() {
    let stage = Stage::new();
    let address = free_port();
    stage.declare("cards", "1", &ingress(address));
    let daemon = stage.daemon();
    let before = stage.serves("cards");
    let mut flow = TcpStream::connect(address).expect("the ingress");
    flow.write_all(b"GET /health HTTP/1.1\r\nHost: e\r\n")
        .expect("half a request");
    daemon.kill();
    // Without a daemon everything goes on, the command line too.
    assert_eq!(through(address), 200);
    let document = stage.house.path("document.cbor");
    stage.house.must(
        Who::Host,
        ["attest", "cards", "-o", document.to_str().expect("UTF-8")],
    );

    let daemon = stage.daemon();
    let after = stage.serves("cards");
    assert_eq!(after, before);
    eventually("it was attested anew", || {
        stage.view("cards")["attested"].is_object().then_some(())
    });
    flow.write_all(b"Connection: close\r\n\r\n")
        .expect("the other half");
    let mut answer = String::new();
    flow.read_to_string(&mut answer).expect("the answer");
    assert!(answer.contains("\"serving\""), "{answer}");

    // It has the listening socket back: what dies is replaced behind the same address.
    kill(Pid::from_raw(after.supervisor), Signal::SIGKILL).expect("it runs");
    eventually("another instance", || {
        stage
            .instances("cards")
            .iter()
            .any(|one| one.status == "serving" && one.admitted && one.name != after.name)
            .then_some(())
    });
    eventually("it is reached", || (through(address) == 200).then_some(()));
    daemon.terminate();
    assert_eq!(through(address), 200);
}

#[test]
fn who_dies_is_started_again_by_its_policy_and_that_is_told() {
    let stage = Stage::new();
    stage.declare("always", "1", "");
    stage.declare("never", "1", "restart = \"never\"\n");
    let _daemon = stage.daemon();
    for name in ["always", "never"] {
        let instance = stage.serves(name);
        // The enclave's own first process, this time.
        let first = instance.first_process().expect("it has one");
        kill(Pid::from_raw(first), Signal::SIGKILL).expect("it runs");
        eventually("its end", || (!runs(instance.supervisor)).then_some(()));
    }
    let view = stage.waits_for("never", "stopped");
    assert!(view["last_error"].is_string(), "{view}");
    stage.serves("always");
    assert_eq!(stage.view("always")["restarts"], 1);
}

#[test]
fn what_run_has_started_without_the_daemon_is_shown_and_left_alone() {
    let stage = Stage::new();
    let (image, _) = image("1");
    let image = image.to_str().expect("UTF-8");
    stage.house.must(
        Who::Host,
        ["run", image, "--name", "mine", "--backend", "sandbox"],
    );
    stage.declare("cards", "1", "");
    let daemon = stage.daemon();
    stage.serves("cards");
    assert_eq!(stage.view("mine")["condition"], "foreign");
    // And by the daemon: the same, in its name.
    stage.house.must(
        Who::Host,
        ["run", image, "--name", "yours", "--backend", "sandbox"],
    );
    assert_eq!(stage.view("yours")["condition"], "foreign");
    stage.house.must(Who::Host, ["reload"]);
    daemon.kill();
    let daemon = stage.daemon();
    stage.serves("cards");
    for name in ["mine", "yours"] {
        assert_eq!(stage.instances(name)[0].status, "serving");
        stage.house.must(Who::Host, ["stop", name]);
    }
    // A second daemon of the same user is refused.
    let second = stage.command().output().expect("it runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another daemon runs"), "{said}");
    drop(daemon);
}
