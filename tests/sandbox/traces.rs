//! All that an enclave is on the host: processes, namespaces, control groups, sockets, files, mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{House, Who};

/// How long the kernel may take to bury the last process.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stays in the folder of enclaves.
const KEPT: [&str; 6] = [
    "console.log",
    "log.ndjson",
    "log.ndjson.1",
    "state.json",
    "supervisor.log",
    ".lock",
];

/// Kinds of namespaces.
const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// A process by its number and its start, so that a reused number is another process.
type Process = (u32, u64);

/// What belongs to one running enclave.
pub struct Traces {
    folder: PathBuf,
    supervisor: u32,
    processes: BTreeSet<Process>,
    namespaces: BTreeSet<String>,
    /// Open, so that the kernel does not give their numbers to those of other enclaves, which come and go meanwhile.
    _held: Vec<File>,
    groups: BTreeSet<PathBuf>,
    mounts: String,
}

impl Traces {
    /// Looks at a running enclave. It must have processes, namespaces, and a socket to be looked at.
    pub fn of(house: &House, name: &str) -> Self {
        let listed = house.must(Who::Host, ["ps", "--json"]);
        let listed: Value = serde_json::from_slice(&listed).expect("JSON");
        let state = listed
            .as_array()
            .expect("a list")
            .iter()
            .find(|state| state["name"] == name)
            .expect("the enclave is listed");
        let supervisor = state["supervisor"]["pid"].as_u64().expect("a pid");
        let supervisor = u32::try_from(supervisor).expect("a pid");
        let processes = with_descendants(supervisor);
        assert!(
            processes.len() >= 2,
            "a supervisor and an init: {processes:?}"
        );
        let own = namespaces_of("self");
        let namespaces: BTreeSet<String> = processes
            .iter()
            .flat_map(|(pid, _)| namespaces_of(&pid.to_string()))
            .filter(|namespace| !own.contains(namespace))
            .collect();
        assert!(
            namespaces.len() >= 5,
            "namespaces of its own: {namespaces:?}"
        );
        let held = processes
            .iter()
            .flat_map(|(pid, _)| KINDS.map(|kind| format!("/proc/{pid}/ns/{kind}")))
            .filter_map(|path| File::open(path).ok())
            .collect();
        let own = groups_of("self");
        let groups = processes
            .iter()
            .flat_map(|(pid, _)| groups_of(&pid.to_string()))
            .filter(|group| !own.contains(group))
            .collect();
        let traces = Self {
            folder: house.path("enclaves"),
            supervisor,
            processes,
            namespaces,
            _held: held,
            groups,
            mounts: mounts(),
        };
        assert!(
            !sockets_below(&traces.folder).is_empty(),
            "the host's ends of vsock"
        );
        traces
    }

    /// The same processes as at first: nothing that a call started has outlived it.
    pub fn are_all_that_there_is(&self) {
        let now = eventually(|| {
            let now = with_descendants(self.supervisor);
            if now == self.processes {
                Ok(())
            } else {
                Err(now)
            }
        });
        assert!(
            now.is_ok(),
            "processes: {now:?}, at first {:?}",
            self.processes
        );
    }

    /// Nothing is left but the folder's console and state.
    pub fn are_gone(&self) {
        let left = eventually(|| {
            let left = self.left();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        assert!(left.is_ok(), "left behind: {left:?}");
    }

    /// Ends the supervisor in the one way that it cannot do anything about.
    pub fn kill_supervisor(&self) {
        let killed = std::process::Command::new("kill")
            .args(["-KILL", &self.supervisor.to_string()])
            .status()
            .expect("kill runs");
        assert!(killed.success());
    }

    /// No process and no namespace is left. (Files and empty control groups may be: nobody was there to remove them.)
    pub fn processes_are_gone(&self) {
        let left = eventually(|| {
            let left = self.left_running();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        assert!(left.is_ok(), "left behind: {left:?}");
    }

    fn left(&self) -> Vec<String> {
        let mut left = self.left_running();
        left.extend(
            self.groups
                .iter()
                .filter(|group| group.exists())
                .map(|group| group.display().to_string()),
        );
        left.extend(sockets_below(&self.folder));
        for file in files_below(&self.folder) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // Kept for whoever asks how it ended, until the next of that name; and what keeps two starts apart.
            if !KEPT.contains(&name.as_ref()) {
                left.push(file.display().to_string());
            }
        }
        let mounts = mounts();
        if mounts != self.mounts {
            left.push(format!("mounts:\n{mounts}"));
        }
        left
    }

    fn left_running(&self) -> Vec<String> {
        let mut left = Vec::new();
        let running = all_processes();
        for (pid, start) in &self.processes {
            if running.get(pid).is_some_and(|(found, _)| found == start) {
                let command =
                    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                left.push(format!("process {pid} ({})", command.trim()));
            }
        }
        for pid in running.keys() {
            for namespace in namespaces_of(&pid.to_string()) {
                if self.namespaces.contains(&namespace) {
                    left.push(format!("{namespace}, held by process {pid}"));
                }
            }
        }
        left
    }
}

/// Tries until it is `Ok` or too late.
fn eventually<E>(attempt: impl Fn() -> Result<(), E>) -> Result<(), E> {
    let until = Instant::now() + PATIENCE;
    loop {
        let outcome = attempt();
        if outcome.is_ok() || Instant::now() > until {
            return outcome;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every process: its start in ticks, and its parent (`proc_pid_stat(5)`).
fn all_processes() -> BTreeMap<u32, (u64, u32)> {
    let mut processes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may hold anything; the state follows it.
        let Some((_, after)) = stat.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = after.split(' ').collect();
        let zombie = fields.first() == Some(&"Z");
        let parent = fields.get(1).and_then(|field| field.parse().ok());
        let start = fields.get(19).and_then(|field| field.parse().ok());
        if let (Some(parent), Some(start), false) = (parent, start, zombie) {
            processes.insert(pid, (start, parent));
        }
    }
    processes
}

fn with_descendants(ancestor: u32) -> BTreeSet<Process> {
    let all = all_processes();
    let mut found: BTreeSet<Process> = all
        .get(&ancestor)
        .map(|(start, _)| (ancestor, *start))
        .into_iter()
        .collect();
    loop {
        let before = found.len();
        for (pid, (start, parent)) in &all {
            if found.iter().any(|(known, _)| known == parent) {
                found.insert((*pid, *start));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The namespaces of a process, such as `net:[4026531840]`; none where it may not be looked at.
fn namespaces_of(pid: &str) -> BTreeSet<String> {
    KINDS
        .into_iter()
        .filter_map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

/// The control groups of a process, as folders that exist.
fn groups_of(pid: &str) -> BTreeSet<PathBuf> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let hierarchies: Vec<PathBuf> = std::fs::read_dir("/sys/fs/cgroup")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    own.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|group| *group != "/")
        .flat_map(|group| {
            let group = group.trim_start_matches('/');
            hierarchies
                .iter()
                .map(|hierarchy| hierarchy.join(group))
                .chain([Path::new("/sys/fs/cgroup").join(group)])
                .filter(|folder| folder.is_dir())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Unix sockets that are bound below a folder, dead files or not.
fn sockets_below(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    std::fs::read_to_string("/proc/net/unix")
        .expect("the list of sockets")
        .lines()
        .filter(|line| line.contains(&*folder))
        .map(str::to_owned)
        .collect()
}

/// Everything below a folder that is no folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

/// The mounts that this process sees, without their numbers.
fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mounts").expect("the list of mounts")
}
