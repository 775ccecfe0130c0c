//! Hostile enclaves and hostile clients under one daemon: the others keep their service, and the host its disk and memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::common::{House, Who};
use crate::stage::{Instance, Stage, eventually, free_port, ingress, through};

/// An image whose job is a shell that runs this once, in an enclave that attests as it should.
fn shell_image(house: &House, name: &str, script: &str) -> (std::path::PathBuf, String) {
    let manifest = format!(
        "[job]\ncommand = [\"/job\", \"-c\", {script:?}]\nmode = \"once\"\n[log]\njob_stderr = \"forward\"\n[resources]\nmemory_mib = 64\n"
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
