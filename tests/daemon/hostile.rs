//! Hostile enclaves and hostile clients under one daemon: the others keep their service, and the host its disk and memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::common::{House, Who};
use crate::stage::{
    Instance, Stage, eventually, free_port, image_of_guest, ingress, runs, through,
};

/// An image whose job is a shell that runs this once, in an enclave that attests as it should.
fn shell_image(house: &House, name: &str, script: &str) -> (std::path::PathBuf, String) {
    let manifest = format!(
        "[job]\ncommand = [\"/job\", \"-c\", {script:?}]\ncontract = \"once\"\n[log]\njob_stderr = \"forward\"\n[resources]\nmemory_mib = 64\n"
    );
    let manifest = house.write(&format!("{name}.toml"), manifest);
    let image = house.path(&format!("{name}.eif"));
    let arguments = [
        "build",
        "--program",
        "/bin/sh",
        "--libraries-from",
        "/",
        "--manifest",
        manifest.to_str().expect("UTF-8"),
        "-o",
        image.to_str().expect("UTF-8"),
    ];
    house.must(Who::Host, arguments);
    let pcr0 = house.measurements(&image)["PCR0"].clone();
    (image, pcr0)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn disk(instance: &Instance) -> u64 {
    std::fs::read_dir(&instance.dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(|found| found.is_file())
        .map(|found| found.len())
        .sum()
}

#[test]
fn floods_of_logs_lies_crashes_and_idle_connections_leave_the_others_their_service() {
    let stage = Stage::new();
    let declare = |name: &str, script: &str, more: &str| {
        let (image, pcr0) = shell_image(&stage.house, name, script);
        let text = format!("image = {image:?}\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n{more}");
        std::fs::write(stage.file(name), text).expect("a file");
    };
    let (good, flooded) = (free_port(), free_port());
    // Terminal escapes, half lines and garbage, without an end.
    let flood = "while :; do printf '\\033[2J%01000d\\n\\377 half' 0 >&2; done";
    declare("flood", flood, &ingress(flooded));
    declare("crash", "exit 3", "");
    // Never asks for anything, never ends: its job fails to say what it is only in the PCR0 that is declared.
    stage.declare("liar", "1", "");
    let text = std::fs::read_to_string(stage.file("liar")).expect("the file");
    let pcr0 = crate::stage::image("1").1;
    std::fs::write(stage.file("liar"), text.replace(&pcr0, &"5a".repeat(48))).expect("the file");
    stage.declare("good", "1", &ingress(good));
    let daemon = stage.daemon();
    let before = stage.serves("good");
    let hostile = stage.serves("flood");

    // Half-open flows by the hundred, and giant heads, at the hostile one's entrance.
    let mut idle: Vec<TcpStream> = (0..400)
        .filter_map(|_| TcpStream::connect(flooded).ok())
        .collect();
    for flow in idle.iter_mut().take(50) {
        let _ = flow.write_all(&vec![b'x'; 64 * 1024]);
    }
    for _ in 0..40 {
        assert_eq!(through(good), 200, "the other one's service");
        assert_eq!(stage.raw("GET", "/v1/health", "").0, 200);
        assert_eq!(stage.view("good")["condition"], "serving");
    }
    // The runtime lets a job's words out within its own bound; what comes is kept.
    eventually("its flood is kept", || {
        let kept = std::fs::metadata(hostile.dir.join("log.ndjson")).ok()?;
        (kept.len() > 20_000).then_some(())
    });
    assert_eq!(stage.serves("good"), before);
    assert_eq!(stage.serves("flood").name, hostile.name);
    for name in ["crash", "liar"] {
        let view = stage.view(name);
        assert_ne!(view["condition"], "serving", "{name}");
        assert!(
            view["last_error"].is_string() && view["restarts"].as_u64() > Some(0),
            "{view:#}"
        );
    }
    // Bounded: 16 MiB of its console, two files of its ring, and some.
    assert!(disk(&hostile) < 22 << 20, "{}", disk(&hostile));
    let resident = resident_kib(daemon.id());
    assert!(resident < 64 * 1024, "{resident} KiB");
    // Nothing that drives a terminal, in whole lines of JSON.
    let lines = stage.house.must(Who::Host, ["logs", "flood", "--json"]);
    assert!(!lines.contains(&0x1b));
    for line in String::from_utf8(lines).expect("UTF-8").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["line"].is_string());
    }
    let metrics = stage.raw("GET", "/v1/metrics", "").1;
    assert!(metrics.contains("anchorhold_enclave_state{enclave=\"flood\",state=\"serving\"} 1"));
    // It can still be ended.
    stage.house.must(Who::Host, ["stop", "flood"]);
    let mut rest = [0; 1];
    assert_eq!(idle.remove(0).read(&mut rest).unwrap_or(0), 0);
    assert_eq!(through(good), 200);
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

// Its init is the declared one, and hostile itself: tests/vm/guest/src/hostile_init.rs.
#[test]
fn an_init_that_attests_and_then_turns_on_its_host_harms_itself_alone() {
    let stage = Stage::new();
    let (image, pcr0) = image_of_guest(&stage.house, "hostile-init", "");
    let (good, babbling, deaf) = (free_port(), free_port(), free_port());
    // What leads to a port that it does not serve is refused; what leads to one where it lies is its client's matter.
    let entrances = format!(
        "{}[ingress.deaf]\nlisten = \"{deaf}\"\nport = 7001\n",
        ingress(babbling).replace("port = 5000", "port = 7000")
    );
    let text = format!("image = {image:?}\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n{entrances}");
    std::fs::write(stage.file("hostile"), text).expect("a file");
    stage.declare("good", "1", &ingress(good));
    let daemon = stage.daemon();
    let before = stage.serves("good");
    let hostile = stage.serves("hostile");

    // Clients that it pours bytes on and never reads from, and that do not read either.
    let mut poured: Vec<TcpStream> = (0..50)
        .filter_map(|_| TcpStream::connect(babbling).ok())
        .collect();
    let mut read = [0; 4096];
    let first = poured.first_mut().expect("a connection");
    first.read_exact(&mut read).expect("it babbles");
    assert!(read.iter().all(|byte| *byte == 0xff));
    assert_eq!(through(deaf), 0);
    eventually("its requests are refused and counted", || {
        let text = stage.raw("GET", "/v1/metrics", "").1;
        let labels = "window_refusals_total{enclave=\"hostile\",window=\"egress\"";
        ["host-list", "malformed"]
            .iter()
            .all(|reason| {
                text.lines().any(|line| {
                    let counted = line
                        .strip_prefix("anchorhold_")
                        .and_then(|line| line.strip_prefix(labels))
                        .and_then(|line| line.strip_prefix(&format!(",reason=\"{reason}\"}} ")));
                    counted.and_then(|count| count.parse::<u64>().ok()) > Some(20)
                })
            })
            .then_some(())
    });
    for _ in 0..40 {
        assert_eq!(through(good), 200, "the other one's service");
        assert_eq!(stage.raw("GET", "/v1/health", "").0, 200);
        assert_eq!(stage.view("good")["condition"], "serving");
    }
    assert_eq!(stage.serves("good"), before);
    assert_eq!(stage.serves("hostile").name, hostile.name);

    // What it costs is bounded, in its own supervisor as well as in the daemon.
    let supervisor = u32::try_from(hostile.supervisor).expect("a process id");
    for (what, pid) in [("daemon", daemon.id()), ("supervisor", supervisor)] {
        let resident = resident_kib(pid);
        assert!(resident < 64 * 1024, "{what}: {resident} KiB");
    }
    let open = descriptors(hostile.supervisor);
    assert!(open < 1500, "{open} descriptors");
    assert!(disk(&hostile) < 22 << 20, "{}", disk(&hostile));
    let log = std::fs::metadata(hostile.dir.join("supervisor.log")).map_or(0, |log| log.len());
    assert!(log < 256 * 1024, "its supervisor's log has {log} bytes");

    // Nothing of what it says of itself steers a terminal or a scraper.
    let console = std::fs::read(hostile.dir.join("console.log")).expect("its console");
    let console = String::from_utf8_lossy(&console);
    let through = console.lines().find(|line| line.contains("CAME THROUGH"));
    assert_eq!(through, None);
    for words in [
        stage.house.must(Who::Host, ["logs", "hostile"]),
        stage.house.must(Who::Host, ["ps"]),
        stage.house.must(Who::Host, ["top", "--count", "1"]),
        stage.raw("GET", "/v1/metrics", "").1.into_bytes(),
        stage.raw("GET", "/v1/enclaves/hostile", "").1.into_bytes(),
    ] {
        assert!(!words.contains(&0x1b), "{}", words.escape_ascii());
    }
    // It says that it has calls without end, and is ended all the same.
    stage
        .house
        .must(Who::Host, ["stop", "hostile", "--drain", "1"]);
    assert!(!runs(hostile.supervisor));
    eventually("its clients are cut off", || {
        let mut rest = vec![0; 1 << 20];
        matches!(poured[1].read(&mut rest), Ok(0) | Err(_)).then_some(())
    });
    assert_eq!(stage.serves("good"), before);
}

#[test]
fn a_later_head_on_a_connection_that_stays_is_bounded_by_the_enclave_and_costs_the_host_nothing() {
    let stage = Stage::new();
    let address = free_port();
    let rules = "kind = \"http\"\nhead_bytes = 2048\nidle_ms = 60000\n";
    stage.declare("cards", "1", &format!("{}{rules}", ingress(address)));
    let daemon = stage.daemon();
    let instance = stage.serves("cards");
    let giant = format!(
        "GET /health HTTP/1.1\r\nHost: e\r\nX: {}\r\n\r\n",
        "a".repeat(4 << 20)
    );
    // The first head is the ingress's to refuse, and the enclave never hears of it.
    let mut first = TcpStream::connect(address).expect("the ingress");
    let _ = first.write_all(giant.as_bytes());
    let mut answer = Vec::new();
    let _ = first.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    // A later one is the enclave's, which reads no more of it than it wants.
    let mut later = TcpStream::connect(address).expect("the ingress");
    later
        .write_all(b"GET /health HTTP/1.1\r\nHost: e\r\n\r\n")
        .expect("a request");
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut byte = [0];
        later.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    let _ = later.write_all(giant.as_bytes());
    let mut rest = Vec::new();
    let _ = later.read_to_end(&mut rest);
    assert!(
        !rest.starts_with(b"HTTP/1.1 200"),
        "{}",
        rest.escape_ascii()
    );
    let supervisor = u32::try_from(instance.supervisor).expect("a process id");
    for pid in [daemon.id(), supervisor] {
        assert!(resident_kib(pid) < 64 * 1024);
    }
    assert_eq!(through(address), 200);
    assert_eq!(stage.serves("cards"), instance);
}
