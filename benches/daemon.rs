//! Many enclaves under one daemon, and what an idle daemon costs: numbers of one run on one machine. It prints, and never fails
//! on a clock. `ANCHORHOLD_ENCLAVES` says how many (200).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark says what it measured"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anchorhold_parent::daemon::ApiClient;
use anchorhold_parent::daemon::view::{Condition, EnclaveView};

use common::{House, Who};

const IDLE: Duration = Duration::from_secs(20);

fn main() {
    let count: usize = std::env::var("ANCHORHOLD_ENCLAVES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(200);
    let house = House::new();
    let image = house.image(
        "enclave/jobs/cards",
        "[job]\ncommand = [\"/job\"]\n[resources]\nmemory_mib = 64\n",
        "cards.eif",
    );
    let pcr0 = house.measurements(&image)["PCR0"].clone();
    let folder = house.path("etc");
    std::fs::create_dir_all(folder.join("enclaves.d")).expect("a folder");
    let daemon = |name: &str| {
        let arguments = ["daemon", "--config", folder.to_str().expect("UTF-8")];
        let mut child = house
            .command(Who::Host, arguments)
            .env("ANCHORHOLD_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("asked for"))
            .read_line(&mut line)
            .expect("a line");
        assert!(line.starts_with("serving on "), "{name}: {line}");
        child
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = ApiClient::at(&house.path("api.sock"));
    let views = || -> BTreeMap<String, EnclaveView> {
        let views: Vec<EnclaveView> = runtime
            .block_on(client.get("/v1/enclaves"))
            .expect("the daemon answers");
        views
            .into_iter()
            .map(|view| (view.name.clone(), view))
            .collect()
    };
    let serving = |name: &str| loop {
        if views()
            .get(name)
            .is_some_and(|view| view.condition == Condition::Serving)
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    };

    let mut child = daemon("idle");
    std::thread::sleep(Duration::from_secs(2));
    let (empty, wakes) = idle(child.id());
    println!(
        "idle daemon, nothing declared    {empty:7.1} MiB, {wakes} wake-ups in {} s",
        IDLE.as_secs()
    );

    // One after the other, each from its declaration to a verified document.
    let mut times = Vec::new();
    for n in 0..count {
        let name = format!("e{n}");
        let text = format!(
            "image = \"{}\"\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n",
            image.display()
        );
        std::fs::write(folder.join(format!("enclaves.d/{name}.toml")), text).expect("a file");
        let began = Instant::now();
        house.must(Who::Host, ["reload"]);
        serving(&name);
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let median = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let tenth = (count / 10).max(1);
    let (first, last) = (median(&times[..tenth]), median(&times[count - tenth..]));
    println!(
        "start of {count} enclaves, one by one: median of the first {tenth} {first:.1} ms, of the last {tenth} {last:.1} ms, ratio {:.2}",
        last / first
    );

    // Memory, proportional: pages that are shared are divided among those who share them.
    std::thread::sleep(Duration::from_secs(3));
    let all = views();
    // Threads that read files for this answer end when they have had nothing to do for a moment.
    std::thread::sleep(Duration::from_secs(2));
    let mut supervisor = Vec::new();
    let mut enclave = Vec::new();
    for state in all.values().flat_map(|view| &view.instances) {
        let pid = state.supervisor.pid;
        let children = descendants(pid);
        supervisor.push(proportional(pid));
        enclave.push(children.iter().map(|pid| proportional(*pid)).sum());
    }
    println!(
        "memory of each: supervisor {:.2} MiB, the enclave's own processes and its warden {:.2} MiB (medians, proportional)",
        median(&supervisor),
        median(&enclave)
    );
    let (resident, wakes) = idle(child.id());
    println!(
        "daemon with {count} enclaves, idle {resident:7.1} MiB, {wakes} wake-ups in {} s",
        IDLE.as_secs()
    );
    let quiet: u64 = all
        .values()
        .flat_map(|view| &view.instances)
        .take(20)
        .map(|state| switches(state.supervisor.pid))
        .sum();
    std::thread::sleep(IDLE);
    let after: u64 = all
        .values()
        .flat_map(|view| &view.instances)
        .take(20)
        .map(|state| switches(state.supervisor.pid))
        .sum();
    println!(
        "20 idle supervisors               {} wake-ups in {} s",
        after - quiet,
        IDLE.as_secs()
    );

    let _ = child.kill();
    let _ = child.wait();
    // The next daemon finds all of them.
    let began = Instant::now();
    let mut child = daemon("next");
    let found = loop {
        let attested = views()
            .values()
            .filter(|view| view.attested.is_some())
            .count();
        if attested == count {
            break began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    println!(
        "a new daemon finds {count} and has verified each after {:.0} ms",
        found.as_secs_f64() * 1000.0
    );
    for entry in std::fs::read_dir(folder.join("enclaves.d"))
        .expect("files")
        .flatten()
    {
        let _ = std::fs::remove_file(entry.path());
    }
    house.must(Who::Host, ["reload"]);
    while views()
        .values()
        .any(|view| view.instances.iter().any(|state| state.status.is_running()))
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Resident memory in MiB, and voluntary switches of all threads over the idle time.
fn idle(pid: u32) -> (f64, u64) {
    let before = switches(pid);
    std::thread::sleep(IDLE);
    // A thread that ended meanwhile takes its number with it.
    let woken = switches(pid).saturating_sub(before);
    (field(pid, "status", "VmRSS:") / 1024.0, woken)
}

/// Of the loop's own thread, and of others while they live.
fn switches(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|number| number.trim().parse::<u64>().ok())
        })
        .sum()
}

fn field(pid: u32, file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// In MiB.
fn proportional(pid: u32) -> f64 {
    field(pid, "smaps_rollup", "Pss:") / 1024.0
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
            {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}
