//! What holds an enclave to its share of the machine: control groups where this user may make them, and what every user has
//! otherwise (limits per process, a fixed set of processors). The report says which.
//!
//! It must never leave a control group behind, and never change one that is not the enclave's own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;

/// The most processes and threads of one enclave.
pub const MOST_PROCESSES: u64 = 1024;

/// Over how many microseconds a processor quota is counted. Short, so that a burst of threads does not pause for long.
const PERIOD: u64 = 20_000;

/// What enforces a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcedBy {
    /// A control group, for the enclave as a whole.
    ControlGroup,
    /// A resource limit, for each process by itself.
    EachProcess,
    /// A resource limit for each process, and a look at their sum several times a second.
    Watch,
    /// A fixed set of processors that the enclave cannot leave.
    Affinity,
    /// The virtual machine, which has no more than this.
    VirtualMachine,
}

/// What an enclave may use, and what sees to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory in MiB, files of the enclave included.
    pub memory_mib: u32,
    /// What enforces that.
    pub memory: EnforcedBy,
    /// Processors.
    pub cpus: u32,
    /// What enforces that.
    pub processors: EnforcedBy,
    /// Processes and threads; 0 where that is up to the enclave's own kernel.
    pub processes: u64,
    /// What enforces that (a resource limit counts each user of the enclave by itself).
    pub process_count: EnforcedBy,
}

impl fmt::Display for Limits {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |what: EnforcedBy| match what {
            EnforcedBy::ControlGroup => "control group",
            EnforcedBy::EachProcess => "limit per process",
            EnforcedBy::Watch => "limit per process, sum watched",
            EnforcedBy::Affinity => "fixed processors",
            EnforcedBy::VirtualMachine => "virtual machine",
        };
        write!(
            to,
            "memory {} MiB ({}), {} CPU ({})",
            self.memory_mib,
            by(self.memory),
            self.cpus,
            by(self.processors),
        )?;
        if self.process_count == EnforcedBy::VirtualMachine {
            return Ok(());
        }
        write!(
            to,
            ", {} processes ({})",
            self.processes,
            by(self.process_count)
        )
    }
}

/// The control groups of one enclave; removed when dropped.
pub(crate) struct Groups {
    /// Folders below /sys/fs/cgroup.
    folders: Vec<PathBuf>,
    pub(crate) memory: bool,
    pub(crate) processors: bool,
    pub(crate) processes: bool,
}

/// A control group hierarchy that is mounted here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mounted_at: PathBuf,
    /// Which part of the hierarchy is mounted.
    root: PathBuf,
    /// Version 1: its controllers. Version 2: none.
    controllers: Vec<String>,
    version_2: bool,
}

impl Groups {
    /// Makes groups with these limits wherever this process may. There may be none.
    pub(crate) fn make(name: &str, memory_mib: u32, cpus: u32) -> Groups {
        let mut groups = Groups {
            folders: Vec::new(),
            memory: false,
            processors: false,
            processes: false,
        };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for hierarchy in hierarchies(&mounts) {
            let Some(own) = own_folder(&hierarchy, &own) else {
                continue;
            };
            if hierarchy.version_2 {
                groups.make_version_2(&hierarchy, &own, name, memory_mib, cpus);
            } else {
                groups.make_version_1(&hierarchy, &own, name, memory_mib, cpus);
            }
        }
        groups
    }

    fn make_version_1(
        &mut self,
        hierarchy: &Hierarchy,
        own: &Path,
        name: &str,
        memory_mib: u32,
        cpus: u32,
    ) {
        let has = |controller: &str| {
            hierarchy
                .controllers
                .iter()
                .any(|known| known == controller)
        };
        if !["memory", "cpu", "pids"].into_iter().any(has) {
            return;
        }
        sweep(own);
        let folder = own.join(name);
        if std::fs::create_dir(&folder).is_err() {
            return;
        }
        if has("memory") && !self.memory {
            let bytes = (u64::from(memory_mib) << 20).to_string();
            self.memory = write(&folder, "memory.limit_in_bytes", &bytes);
            // Not every kernel counts swap; where it does, swap gives no more.
            let _ = write(&folder, "memory.memsw.limit_in_bytes", &bytes);
            let _ = write(&folder, "memory.swappiness", "0");
        }
        if has("cpu") && !self.processors {
            self.processors = write(&folder, "cpu.cfs_period_us", &PERIOD.to_string())
                && write(
                    &folder,
                    "cpu.cfs_quota_us",
                    &(u64::from(cpus) * PERIOD).to_string(),
                );
        }
        if has("pids") && !self.processes {
            self.processes = write(&folder, "pids.max", &MOST_PROCESSES.to_string());
        }
        self.folders.push(folder);
    }

    fn make_version_2(
        &mut self,
        hierarchy: &Hierarchy,
        own: &Path,
        name: &str,
        memory_mib: u32,
        cpus: u32,
    ) {
        // Below the own group where that may have children with controllers; else beside it, as a user's systemd session has
        // it (processes live in leaves there, and the folders above them are the user's).
        for parent in own.ancestors() {
            if !parent.starts_with(&hierarchy.mounted_at) {
                return;
            }
            let folder = parent.join(name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            sweep(parent);
            let bytes = (u64::from(memory_mib) << 20).to_string();
            let memory = !self.memory && write(&folder, "memory.max", &bytes);
            if memory {
                let _ = write(&folder, "memory.swap.max", "0");
                let _ = write(&folder, "memory.oom.group", "1");
            }
            let processors = !self.processors
                && write(
                    &folder,
                    "cpu.max",
                    &format!("{} {PERIOD}", u64::from(cpus) * PERIOD),
                );
            let processes =
                !self.processes && write(&folder, "pids.max", &MOST_PROCESSES.to_string());
            if memory || processors || processes {
                self.memory |= memory;
                self.processors |= processors;
                self.processes |= processes;
                self.folders.push(folder);
                return;
            }
            let _ = std::fs::remove_dir(&folder);
        }
    }

    /// Puts a process, and so all that it will start, into the groups. A group that does not take it is given up, and what
    /// it would have limited is no longer claimed: the caller asks again what is left.
    pub(crate) fn take_in(&mut self, pid: i32) {
        let folders = std::mem::take(&mut self.folders);
        for folder in folders {
            if write(&folder, "cgroup.procs", &pid.to_string()) {
                self.folders.push(folder);
            } else {
                self.memory &= !folder.join("memory.limit_in_bytes").exists()
                    && !folder.join("memory.max").exists();
                self.processors &=
                    !folder.join("cpu.cfs_quota_us").exists() && !folder.join("cpu.max").exists();
                self.processes &= !folder.join("pids.max").exists();
                let _ = std::fs::remove_dir(&folder);
            }
        }
    }

    /// Whether the kernel has ended a process in the groups because their memory was used up.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.folders.iter().any(|folder| {
            ["memory.oom_control", "memory.events"]
                .into_iter()
                .any(|file| {
                    std::fs::read_to_string(folder.join(file)).is_ok_and(|text| {
                        text.lines()
                            .filter_map(|line| line.strip_prefix("oom_kill "))
                            .any(|count| count != "0")
                    })
                })
        })
    }

    /// The processes in the groups, as this process numbers them.
    pub(crate) fn members(&self) -> Vec<i32> {
        self.folders
            .first()
            .and_then(|folder| std::fs::read_to_string(folder.join("cgroup.procs")).ok())
            .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
            .unwrap_or_default()
    }
}

/// Removes the groups of supervisors that were killed before they could: those whose process is gone. One that still holds
/// a process is not removed by the kernel.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if supervisor_of(&entry.file_name().to_string_lossy())
            .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// Removes the groups of a supervisor that was killed, once the kernel has let its enclave's last process go. Waits for that
/// for two seconds at most; what is left then, the next enclave to start removes.
pub(crate) fn remove_groups_of(supervisor: u32) {
    if Path::new("/proc").join(supervisor.to_string()).exists() {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for hierarchy in hierarchies(&mounts) {
        let Some(own) = own_folder(&hierarchy, &own) else {
            continue;
        };
        // In version 2 they may stand beside the own group; see `make_version_2`.
        let levels = if hierarchy.version_2 { usize::MAX } else { 1 };
        let parents = own.ancestors().take(levels);
        for parent in parents.take_while(|parent| parent.starts_with(&hierarchy.mounted_at)) {
            let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
            folders.extend(
                entries
                    .filter(|entry| {
                        supervisor_of(&entry.file_name().to_string_lossy()) == Some(supervisor)
                    })
                    .map(|entry| entry.path()),
            );
        }
    }
    remove(&folders);
}

/// Removes groups. The kernel may take a moment to let the last process go.
fn remove(folders: &[PathBuf]) {
    let until = Instant::now() + Duration::from_secs(2);
    for folder in folders {
        while std::fs::remove_dir(folder)
            .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The process in the name of a group: `anchorhold-<pid>-<cid>`.
fn supervisor_of(group: &str) -> Option<u32> {
    let (pid, _) = group.strip_prefix("anchorhold-")?.split_once('-')?;
    pid.parse().ok()
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.folders);
    }
}

/// How often the sum is looked at where no control group limits it.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Whether the enclave whose first process this is holds more than so many bytes, its files in memory included.
///
/// The cheap sum counts twice what forked processes share; only where that is too much, the exact one is taken.
pub(crate) fn holds_more_than(pid: i32, bytes: u64) -> bool {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let page = page_size();
    let processes: Vec<PathBuf> = std::fs::read_dir(root.join("proc"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .map(|entry| entry.path())
        .collect();
    // Resident pages less those of files (`proc_pid_statm(5)`).
    let cheap = |process: &PathBuf| {
        let text = std::fs::read_to_string(process.join("statm")).ok()?;
        let mut numbers = text
            .split(' ')
            .skip(1)
            .map(|number| number.parse::<u64>().unwrap_or(0));
        let (resident, of_files) = (numbers.next()?, numbers.next()?);
        Some(resident.saturating_sub(of_files) * page)
    };
    let exact = |process: &PathBuf| {
        let text = std::fs::read_to_string(process.join("smaps_rollup")).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss_Anon:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    let files: u64 = ["", "tmp", "run", "dev/shm"]
        .into_iter()
        .filter_map(|mount| nix::sys::statvfs::statvfs(&root.join(mount)).ok())
        .map(|status| (status.blocks() - status.blocks_free()) * status.fragment_size())
        .sum();
    files + processes.iter().filter_map(cheap).sum::<u64>() > bytes
        && files + processes.iter().filter_map(exact).sum::<u64>() > bytes
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

fn write(folder: &Path, file: &str, value: &str) -> bool {
    std::fs::write(folder.join(file), value).is_ok()
}

/// The control group hierarchies in `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut before = before.split(' ').skip(3);
            let (root, mounted_at) = (before.next()?, before.next()?);
            let mut after = after.split(' ');
            let (kind, options) = (after.next()?, after.nth(1)?);
            let version_2 = match kind {
                "cgroup2" => true,
                "cgroup" => false,
                _ => return None,
            };
            Some(Hierarchy {
                mounted_at: PathBuf::from(mounted_at),
                root: PathBuf::from(root),
                controllers: if version_2 {
                    Vec::new()
                } else {
                    options.split(',').map(str::to_owned).collect()
                },
                version_2,
            })
        })
        .collect()
}

/// Where in a mounted hierarchy this process is, by `/proc/self/cgroup` (cgroups(7)).
fn own_folder(hierarchy: &Hierarchy, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let here = if hierarchy.version_2 {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| {
                !name.is_empty() && hierarchy.controllers.iter().any(|known| known == name)
            })
        };
        here.then(|| PathBuf::from(path))
    })?;
    let below = path.strip_prefix(&hierarchy.root).ok()?;
    Some(if below.as_os_str().is_empty() {
        hierarchy.mounted_at.clone()
    } else {
        hierarchy.mounted_at.join(below)
    })
}

/// As many of this process's processors as asked for, another choice each time so that enclaves spread. `None` where it has
/// no more than that, or where that cannot be found out.
pub(crate) fn some_processors(count: u32) -> Option<CpuSet> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Enclaves of other processes should not all start with the same one either.
    let _ = NEXT.compare_exchange(
        0,
        std::process::id() as usize,
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
    let mine = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let all: Vec<usize> = (0..CpuSet::count())
        .filter(|number| mine.is_set(*number).unwrap_or(false))
        .collect();
    let count = count.max(1) as usize;
    if count >= all.len() {
        return Some(mine);
    }
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    let mut chosen = CpuSet::new();
    for at in 0..count {
        chosen.set(*all.get((first + at) % all.len())?).ok()?;
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 /docker/ab /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn own_groups_are_found_in_both_versions() {
        let found = hierarchies(MOUNTS);
        assert_eq!(found.len(), 3);
        let own = "4:memory:/process/x\n3:cpu,cpuacct:/docker/ab/y\n0::/user.slice/z\n";
        let folders: Vec<_> = found
            .iter()
            .map(|hierarchy| own_folder(hierarchy, own).unwrap())
            .collect();
        assert_eq!(
            folders,
            [
                PathBuf::from("/sys/fs/cgroup/memory/process/x"),
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/y"),
                PathBuf::from("/sys/fs/cgroup/unified/user.slice/z"),
            ]
        );
        assert_eq!(own_folder(&found[0], "1:name=systemd:/\n"), None);
    }

    #[test]
    fn processors_are_chosen_from_those_that_this_process_has() {
        let mine = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let chosen = some_processors(1).unwrap();
        let numbers: Vec<_> = (0..CpuSet::count())
            .filter(|number| chosen.is_set(*number).unwrap())
            .collect();
        assert_eq!(numbers.len(), 1);
        assert!(mine.is_set(numbers[0]).unwrap());
    }
}
