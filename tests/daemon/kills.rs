//! SIGKILL for the daemon, supervisors and enclaves, at random, under calls and flows: no call reports success that was not
//! whole, everything comes back by itself, and nothing is left behind.
//!
//! `ANCHORHOLD_KILLS` says how many (200), `ANCHORHOLD_SEED` which; the seed is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::Who;
use crate::stage::{Daemon, Instance, Stage, eventually, free_port, ingress, runs, through};

const KEY: &str = "alias/kills";
const WITH_FLOWS: [&str; 3] = ["a", "b", "c"];
const WITH_CALLS: &str = "calls";

/// A small generator of numbers, the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).expect("less than sides")
    }
}

/// Ends the load, even where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Every process by its number: start time, parent.
fn processes() -> BTreeMap<i32, (u64, i32)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, after)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = after.split(' ').collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        if fields.first() != Some(&"Z")
            && let (Some(parent), Some(start)) = (number(1), number(19))
        {
            found.insert(pid, (start, i32::try_from(parent).unwrap_or(0)));
        }
    }
    found
}

fn tree(all: &BTreeMap<i32, (u64, i32)>, root: i32) -> BTreeSet<(i32, u64)> {
    let mut found: BTreeSet<(i32, u64)> = all
        .get(&root)
        .map(|(start, _)| (root, *start))
        .into_iter()
        .collect();
    loop {
        let before = found.len();
        for (pid, (start, parent)) in all {
            if found.iter().any(|(known, _)| known == parent) {
                found.insert((*pid, *start));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn sockets_below(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.to_string_lossy().into_owned();
    std::fs::read_to_string("/proc/net/unix")
        .expect("the list of sockets")
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.starts_with(&folder))
        .map(PathBuf::from)
        .collect()
}

fn mounts() -> BTreeSet<String> {
    std::fs::read_to_string("/proc/self/mounts")
        .expect("the list of mounts")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Supervisors in the names of control groups.
fn groups() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let pid = name
                    .strip_prefix("anchorhold-")
                    .and_then(|rest| rest.split_once('-'));
                found.extend(pid.and_then(|(pid, _)| pid.parse::<i32>().ok()));
                open.push(entry.path());
            }
        }
    }
    found
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[test]
fn two_hundred_kills_under_load_leave_no_false_success_and_nothing_behind() {
    let kills = from_environment("ANCHORHOLD_KILLS").unwrap_or(200);
    let seed = from_environment("ANCHORHOLD_SEED").unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64 | 1)
    });
    eprintln!("{kills} kills with ANCHORHOLD_SEED={seed}");
    let mut dice = Dice(seed | 1);

    let mut stage = Stage::new();
    let service = stage.house.key_service(&[]);
    let manifest = stage
        .house
        .manifest(&["/job"], KEY, "[resources]\nmemory_mib = 64\n");
    let manifest = stage.house.write("calls.toml", manifest);
    let image = stage.house.path("calls.eif");
    // A job that answers each line with itself.
    let arguments = [
        "build",
        "--program",
        "/bin/cat",
        "--libraries-from",
        "/",
        "--manifest",
        manifest.to_str().expect("UTF-8"),
        "-o",
        image.to_str().expect("UTF-8"),
    ];
    stage.house.must(Who::Owner, arguments);
    let key = stage
        .house
        .key(KEY, &stage.house.policy(&image, "policy.json"));
    let pcr0 = stage.house.measurements(&image)["PCR0"].clone();
    let credentials = "{\"AccessKeyId\":\"AKIDANCHORHOLDHOST00\",\"SecretAccessKey\":\"anchorhold-host-secret-for-development-only\"}";
    let credentials = stage.house.write("credentials.json", credentials);
    let text = format!(
        "image = {image:?}\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\negress = [\"{}\"]\ncredentials = \"file:{}\"\n",
        stage.house.authority(),
        credentials.display()
    );
    std::fs::write(stage.file(WITH_CALLS), text).expect("a file");
    let addresses: Vec<_> = WITH_FLOWS
        .iter()
        .map(|name| {
            let address = free_port();
            stage.declare(name, "1", &ingress(address));
            address
        })
        .collect();
    let lines = (0..200)
        .map(|id| format!("{{\"id\":{id},\"pan\":\"4111111111111111\"}}\n"))
        .collect::<Vec<_>>()
        .concat();
    let input = stage
        .house
        .seal(&key, &[], lines.as_bytes(), "input.sealed");

    let names: Vec<&str> = WITH_FLOWS.into_iter().chain([WITH_CALLS]).collect();
    let mounted = mounts();
    let daemon = stage.daemon();
    for name in &names {
        stage.serves(name);
    }
    let at_first = descriptors(daemon.id());
    let opened = |result: &Path| {
        let result = result.to_str().expect("UTF-8");
        let plain = stage.house.must(Who::Owner, ["open", "--input", result]);
        String::from_utf8(plain).expect("UTF-8").lines().count()
    };

    let over = AtomicBool::new(false);
    let [succeeded, failed, flowed, cut] = [const { AtomicU64::new(0) }; 4];
    let mut seen: BTreeSet<(i32, u64)> = BTreeSet::new();
    let mut supervisors: BTreeSet<i32> = BTreeSet::new();
    let mut daemon: Option<Daemon<'_>> = Some(daemon);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for caller in 0..2 {
            let (stage, input, over, succeeded, failed) =
                (&stage, &input, &over, &succeeded, &failed);
            scope.spawn(move || {
                let result = stage.house.path(&format!("result-{caller}"));
                while !over.load(Ordering::Relaxed) {
                    if stage
                        .house
                        .call(WITH_CALLS, input, &result)
                        .status
                        .success()
                    {
                        // Success is whole: it opens, and has a line for each line.
                        assert_eq!(opened(&result), 200);
                        std::fs::remove_file(&result).expect("the result");
                        succeeded.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert!(!result.exists(), "a failed call left a result");
                        failed.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
        for address in &addresses {
            let (over, flowed, cut) = (&over, &flowed, &cut);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match through(*address) {
                        200 => flowed.fetch_add(1, Ordering::Relaxed),
                        _ => cut.fetch_add(1, Ordering::Relaxed),
                    };
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(20 + dice.roll(180) as u64));
            let instances: Vec<Instance> = names
                .iter()
                .flat_map(|name| stage.instances(name))
                .filter(|one| one.status == "serving")
                .collect();
            let all = processes();
            for one in &instances {
                seen.extend(tree(&all, one.supervisor));
                supervisors.insert(one.supervisor);
            }
            match dice.roll(5) {
                0 => {
                    daemon.take().expect("there is one").kill();
                    daemon = Some(stage.daemon());
                }
                what if !instances.is_empty() => {
                    let one = &instances[dice.roll(instances.len())];
                    let victim = if what < 3 {
                        Some(one.supervisor)
                    } else {
                        one.first_process()
                    };
                    if let Some(victim) = victim.filter(|pid| *pid > 1) {
                        let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
                    }
                }
                _ => {}
            }
        }
    });
    eprintln!(
        "calls: {} whole, {} failed and said so; requests through flows: {} whole, {} cut",
        succeeded.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed),
        flowed.load(Ordering::Relaxed),
        cut.load(Ordering::Relaxed)
    );
    assert!(succeeded.load(Ordering::Relaxed) > 0 && flowed.load(Ordering::Relaxed) > 0);

    // All comes back by itself.
    let daemon = daemon.expect("there is one");
    for name in &names {
        stage.serves(name);
    }
    for address in &addresses {
        eventually("a flow", || (through(*address) == 200).then_some(()));
    }
    let result = stage.house.path("last");
    eventually("a call", || {
        stage
            .house
            .call(WITH_CALLS, &input, &result)
            .status
            .success()
            .then_some(())
    });
    assert_eq!(opened(&result), 200);
    // A start sweeps up after the last of those that died without a chance to do it.
    stage.declare("last", "1", "");
    stage.house.must(Who::Host, ["reload"]);
    stage.serves("last");

    let left = || {
        let mut left = Vec::new();
        let current: Vec<Instance> = names
            .iter()
            .chain(&["last"])
            .flat_map(|name| stage.instances(name))
            .filter(|one| one.status == "serving")
            .collect();
        if current.len() != names.len() + 1 {
            left.push(format!("instances: {current:?}"));
        }
        let all = processes();
        let alive: BTreeSet<(i32, u64)> = current
            .iter()
            .flat_map(|one| tree(&all, one.supervisor))
            .collect();
        for (pid, start) in seen.difference(&alive) {
            if all.get(pid).is_some_and(|(found, _)| found == start) {
                left.push(format!("process {pid}"));
            }
        }
        for path in sockets_below(&stage.house.path("")) {
            let is_current = current.iter().any(|one| path.starts_with(&one.dir));
            if !is_current && path != stage.house.path("api.sock") {
                left.push(format!("socket {}", path.display()));
            }
        }
        let dead = supervisors
            .iter()
            .filter(|pid| !runs(**pid))
            .copied()
            .collect();
        for pid in groups().intersection(&dead) {
            left.push(format!("control group of {pid}"));
        }
        left.extend(
            mounts()
                .difference(&mounted)
                .filter(|line| line.contains("/ah-"))
                .map(|line| format!("mount {line}")),
        );
        let open = descriptors(daemon.id());
        // One more enclave is watched by one more connection.
        if open > at_first + 1 {
            left.push(format!("{open} descriptors, at first {at_first}"));
        }
        let folders = std::fs::read_dir(stage.house.path("enclaves")).map_or(0, Iterator::count);
        if folders > 32 + current.len() + 2 {
            left.push(format!("{folders} folders of enclaves"));
        }
        left
    };
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = left();
        if found.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < until, "left behind: {found:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    daemon.terminate();
    drop(service);
}
