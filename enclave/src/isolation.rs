//! The walls around a job: which files, which user, how much of what; gathered once at start, put up in every child.
//!
//! In order of strength: another uid (where the user namespace has one), no capabilities, `no_new_privs`, Landlock,
//! seccomp. Each is meant to hold where another is missing. It must never report a wall that is not there.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};

use nix::sys::resource::Resource;

use crate::sys::{self, Identity, Limit, Plan};

/// The uid and gid of jobs, where they exist and the manifest names no others.
pub const JOB_ID: u32 = 1000;

/// Processes and threads of all jobs together (the kernel counts by user).
const MAX_PROCESSES: u64 = 512;
/// Descriptors of one process.
const MAX_DESCRIPTORS: u64 = 1024;

/// Devices that programs of any language expect. All of them are harmless.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Entries of the root that belong to the runtime or the kernel and are not the application's files.
const NOT_THE_APPLICATION: &[&str] = &["anchorhold", "dev", "init", "proc", "run", "sys", "tmp"];

/// What a job is and where it may write.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables besides `PATH`, `HOME` and `TMPDIR`; they may replace those.
    pub environment: std::collections::BTreeMap<String, String>,
    /// The only folder that jobs may write to.
    pub scratch: PathBuf,
    /// The folder with the job's secrets, readable by it.
    pub secrets: PathBuf,
    /// The folder that jobs make sockets in, and nothing else.
    pub sockets: Option<PathBuf>,
    /// The port of the loopback interface that jobs listen on. They connect to none, not even to that.
    pub port: Option<u16>,
    /// The folder with the socket on which the runtime answers jobs.
    pub api: Option<PathBuf>,
    /// The largest file a job may write, in bytes.
    pub max_file_bytes: u64,
    /// The folder that jobs start in.
    pub folder: PathBuf,
    /// Who jobs run as where there are other users than the runtime's, as uid and gid.
    pub user: (u32, u32),
}

/// The walls of every job of this enclave.
pub struct Confinement {
    plan: Plan,
    landlock: Option<sys::Landlock>,
}

/// Why jobs cannot be confined. Nothing is run then.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// Landlock is there and refused its rules.
    #[error("Landlock refused the rules for jobs: {0}")]
    Landlock(#[source] RulesetError),
    /// The root cannot be listed.
    #[error("the image's root cannot be listed: {0}")]
    Root(#[source] io::Error),
    /// An argument or variable holds a zero byte.
    #[error("job.{0} in anchorhold.toml holds a zero byte")]
    ZeroByte(&'static str),
}

impl Confinement {
    /// Gathers what this kernel and this user namespace offer.
    ///
    /// # Errors
    /// If a wall that exists here cannot be put up.
    pub fn prepare(terms: &Terms) -> Result<Confinement, ConfinementError> {
        let landlock = sys::landlock_version();
        let ruleset = match landlock {
            Some(_) => landlock_rules(terms)?,
            None => None,
        };
        Ok(Confinement {
            landlock: ruleset.as_ref().and(landlock),
            plan: Plan {
                command: c_strings(terms.command.iter().cloned(), "command")?,
                environment: c_strings(environment(terms), "environment")?,
                identity: identity(terms.user),
                folder: c_strings(
                    [terms.folder.to_string_lossy().into_owned()].into_iter(),
                    "working_directory",
                )?
                .remove(0),
                limits: limits(terms.max_file_bytes),
                landlock: ruleset,
                filter: sys::filter::program(std::process::id(), terms.port.is_some()),
                drop_bounding_set: sys::may_drop_bounding_set(),
            },
        })
    }

    /// What a child needs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The uid that owns files for jobs.
    pub fn job_owner(&self) -> Option<(u32, u32)> {
        match self.plan.identity {
            Identity::Other { uid, gid, .. } => Some((uid, gid)),
            Identity::Same => None,
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plan.identity {
            Identity::Other { uid, .. } => write!(formatter, "uid {uid}")?,
            Identity::Same => write!(
                formatter,
                "the runtime's uid (this user namespace maps no other)"
            )?,
        }
        write!(formatter, ", no capabilities, seccomp, ")?;
        match self.landlock {
            Some(sys::Landlock { version }) if version >= 6 => {
                write!(formatter, "Landlock {version}")
            }
            Some(sys::Landlock { version }) => write!(
                formatter,
                "Landlock {version} (6 would also fence in signals and abstract sockets)"
            ),
            None => write!(
                formatter,
                "no Landlock (this kernel has none, so that files are protected by their modes alone)"
            ),
        }
    }
}

fn c_strings(
    strings: impl Iterator<Item = String>,
    what: &'static str,
) -> Result<Vec<CString>, ConfinementError> {
    strings
        .map(|string| CString::new(string).map_err(|_| ConfinementError::ZeroByte(what)))
        .collect()
}

fn environment(terms: &Terms) -> impl Iterator<Item = String> {
    let scratch = terms.scratch.to_string_lossy().into_owned();
    let mut variables = std::collections::BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("HOME".to_owned(), scratch.clone()),
        ("TMPDIR".to_owned(), scratch),
    ]);
    variables.extend(terms.environment.clone());
    variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
}

fn limits(max_file_bytes: u64) -> Vec<Limit> {
    let limit = |resource: Resource, most: u64| {
        // A lower limit that is in force already cannot be raised, and need not be.
        let hard = nix::sys::resource::getrlimit(resource).map_or(most, |(_, hard)| hard);
        Limit {
            resource: resource as libc::__rlimit_resource_t,
            value: most.min(hard),
        }
    };
    vec![
        limit(Resource::RLIMIT_CORE, 0),
        limit(Resource::RLIMIT_NPROC, MAX_PROCESSES),
        limit(Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS),
        limit(Resource::RLIMIT_FSIZE, max_file_bytes),
        // Message queues are kernel memory that outlives a process.
        limit(Resource::RLIMIT_MSGQUEUE, 0),
    ]
}

/// Judges by the maps rather than by trying, so that a failure in the child is always an error.
fn identity((uid, gid): (u32, u32)) -> Identity {
    let maps = |name: &str, id: u32| {
        fs::read_to_string(Path::new("/proc/self").join(name)).is_ok_and(|map| maps_id(&map, id))
    };
    if nix::unistd::geteuid().is_root() && maps("uid_map", uid) && maps("gid_map", gid) {
        // The file is absent before Linux 3.19, and there nothing denies.
        let denied =
            fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny");
        Identity::Other {
            uid,
            gid,
            clear_groups: !denied,
        }
    } else {
        Identity::Same
    }
}

/// Whether a map in the form of `user_namespaces(7)` holds an id: `inside outside count` on each line.
fn maps_id(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line
            .split_ascii_whitespace()
            .map(|word| word.parse::<u64>().ok());
        match (numbers.next().flatten(), numbers.nth(1).flatten()) {
            (Some(first), Some(count)) => {
                (first..first.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// Everything of the application may be read and run, the scratch folder written, and nothing else touched: not the
/// runtime's own files, not `/dev/nsm`, not `/dev/vsock`. `/proc` may be read, because several runtimes need their own
/// entry; other processes' entries are guarded by uid, by `PR_SET_DUMPABLE` and by Landlock's rule that nobody inspects
/// a process outside its own domain.
fn landlock_rules(terms: &Terms) -> Result<Option<OwnedFd>, ConfinementError> {
    const NEWEST: ABI = ABI::V9;
    let everything = AccessFs::from_all(NEWEST);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let run: BitFlags<AccessFs> = read | AccessFs::Execute;
    // Programs are measured with the image; what a job wrote is not, and is not run.
    let write = everything & !AccessFs::Execute & !AccessFs::MakeChar & !AccessFs::MakeBlock;
    let socket = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ResolveUnix;
    let device: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile;

    let application = application_entries(terms)?;
    let rules = || -> Result<Option<OwnedFd>, RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(everything)?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(application, run))?
            .add_rules(path_beneath_rules(
                ["/proc", "/sys/devices/system/cpu"],
                read,
            ))?
            .add_rules(path_beneath_rules(DEVICES, device))?
            .add_rules(path_beneath_rules([&terms.secrets], AccessFs::ReadFile))?
            .add_rules(path_beneath_rules([&terms.scratch], write))?
            .add_rules(path_beneath_rules(&terms.sockets, socket))?
            .add_rules(path_beneath_rules(&terms.api, AccessFs::ResolveUnix))?
            .add_rules(
                terms
                    .port
                    .map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::BindTcp))),
            )?;
        Ok(ruleset.into())
    };
    rules().map_err(ConfinementError::Landlock)
}

fn application_entries(terms: &Terms) -> Result<Vec<PathBuf>, ConfinementError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir("/").map_err(ConfinementError::Root)? {
        let entry = entry.map_err(ConfinementError::Root)?;
        let reserved = NOT_THE_APPLICATION
            .iter()
            .any(|name| entry.file_name() == *name);
        let path = entry.path();
        if !reserved && path != terms.scratch && path != terms.secrets {
            entries.push(path);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_the_kernel_writes_them() {
        let everything = "         0          0 4294967295\n";
        assert!(maps_id(everything, 1000));
        let only_root = "         0       1001          1\n";
        assert!(maps_id(only_root, 0));
        assert!(!maps_id(only_root, 1000));
        let with_subordinates = "0 1001 1\n1 100000 65536\n";
        assert!(maps_id(with_subordinates, 1000));
        assert!(!maps_id("", 0));
        assert!(!maps_id("nonsense", 0));
    }

    #[test]
    fn the_environment_is_what_the_contract_says() {
        let terms = Terms {
            command: vec!["/job".to_owned()],
            environment: [
                ("KEY".to_owned(), "v".to_owned()),
                ("HOME".to_owned(), "/data".to_owned()),
            ]
            .into(),
            scratch: "/tmp".into(),
            secrets: "/run/secrets".into(),
            sockets: None,
            port: None,
            api: None,
            max_file_bytes: 1,
            folder: "/".into(),
            user: (JOB_ID, JOB_ID),
        };
        let variables: Vec<_> = environment(&terms).collect();
        assert_eq!(
            variables,
            [
                "HOME=/data",
                "KEY=v",
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "TMPDIR=/tmp"
            ]
        );
    }
}
