//! What the enclave's first process does between clone and its first own instruction, in this order: wait for its ids, shut the
//! host out, fill its root, take away what it does not need, install the filter, become `/init`.
//!
//! All of it runs in a copy of a process that may have other threads, so that nothing here may allocate or panic: every string
//! and every byte was prepared in [`Plan`]. It must never run a program of the image before the filter stands.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sched::{CloneFlags, CpuSet};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::root::{self, Entry};
use super::sys::mount::{self, attribute};
use super::sys::process::Strings;
use super::sys::{process, seccomp, socket};

/// The ids that the enclave's namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Only 0, which is the caller outside.
    Single,
    /// 0 to 65535, which are as many unprivileged ids outside.
    Range,
    /// No namespace: this unprivileged id outside, alone.
    Outside(u32),
}

/// All that the new process needs, made before it exists.
pub(crate) struct Plan {
    /// An existing directory of the caller, where the new root is mounted in the new namespace for an instant.
    pub(crate) directory: CString,
    /// Where the root is a plain directory (Reduced isolation without mounts), that directory.
    pub(crate) plain_root: Option<CString>,
    pub(crate) ids: Ids,
    /// The enclave's network gets a loopback interface. Only with a network namespace.
    pub(crate) loopback: bool,
    pub(crate) control: RawFd,
    pub(crate) console: RawFd,
    pub(crate) entries: Vec<Entry>,
    pub(crate) first: First,
    /// tmpfs sizes in bytes, as text: root, /tmp, /run, /dev/shm; then the number of inodes.
    pub(crate) sizes: [CString; 4],
    pub(crate) inodes: CString,
    /// The filter, and the one for an enclave whose processors are fixed.
    pub(crate) filters: [Vec<libc::sock_filter>; 2],
    pub(crate) resource_limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// For where no control group limits memory: bytes of data per process.
    pub(crate) data: u64,
    /// For where no control group limits processors.
    pub(crate) processors: Option<CpuSet>,
    /// Landlock's version, where it is to be used (Reduced isolation).
    pub(crate) landlock: u32,
}

/// What the new process becomes.
pub(crate) struct First {
    /// Where the program may be, in the order in which they are tried.
    pub(crate) paths: Vec<CString>,
    pub(crate) arguments: Strings,
    pub(crate) environment: Strings,
    /// The program's name, where it is the command of an image in AWS's own layout: it may change the root file system.
    pub(crate) command: Option<String>,
}

impl First {
    /// Becomes the program, as `execvp` finds it. Returns only if none of the places has it.
    fn execute(&self) -> Errno {
        let mut found = Errno::ENOENT;
        for path in &self.paths {
            match process::execute(path, &self.arguments, &self.environment) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                // It is there; but another one may be executable.
                Errno::EACCES => found = Errno::EACCES,
                errno => return errno,
            }
        }
        found
    }
}

/// Where a start can fail inside the new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Step {
    Descriptors = 1,
    Directory,
    Ids,
    Loopback,
    Limits,
    Private,
    RootMount,
    ProcMount,
    Devices,
    Pivot,
    Fill,
    Attach,
    ReadOnly,
    Capabilities,
    Landlock,
    Filter,
    Execute,
}

const STEPS: [Step; 17] = [
    Step::Descriptors,
    Step::Directory,
    Step::Ids,
    Step::Loopback,
    Step::Limits,
    Step::Private,
    Step::RootMount,
    Step::ProcMount,
    Step::Devices,
    Step::Pivot,
    Step::Fill,
    Step::Attach,
    Step::ReadOnly,
    Step::Capabilities,
    Step::Landlock,
    Step::Filter,
    Step::Execute,
];

/// A failed start: where, why, and for `Step::Fill` which entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    pub(crate) entry: u64,
}

/// A file's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What the new process says over the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// The filter stands, and its descriptor follows; the next step is `/init`.
    Ready {
        nsm: Identity,
        vsock: Identity,
    },
    Failed(Failure),
}

impl Message {
    pub(crate) const SIZE: usize = 48;

    fn to_bytes(self) -> [u8; Message::SIZE] {
        let words: [u64; 6] = match self {
            Message::Ready { nsm, vsock } => {
                [0, nsm.device, nsm.inode, vsock.device, vsock.inode, 0]
            }
            Message::Failed(failure) => [
                failure.step as u64,
                failure.errno as u64,
                failure.entry,
                0,
                0,
                0,
            ],
        };
        let mut bytes = [0; Message::SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Message::SIZE]) -> Message {
        let mut words = [0u64; 6];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(from);
            *word = u64::from_ne_bytes(eight);
        }
        if words[0] == 0 {
            return Message::Ready {
                nsm: Identity {
                    device: words[1],
                    inode: words[2],
                },
                vsock: Identity {
                    device: words[3],
                    inode: words[4],
                },
            };
        }
        let step = STEPS
            .into_iter()
            .find(|step| *step as u64 == words[0])
            .unwrap_or(Step::Descriptors);
        Message::Failed(Failure {
            step,
            errno: Errno::from_raw(words[1] as i32),
            entry: words[2],
        })
    }
}

/// *child* The whole life of the new process up to `/init`. Ends it where a step fails, after saying which.
pub(crate) fn become_enclave(plan: &Plan) -> i32 {
    let mut control = plan.control;
    let failure = steps(plan, &mut control);
    let message = Message::Failed(failure).to_bytes();
    let _ = nix::unistd::write(process::descriptor(control), &message);
    1
}

/// What the supervisor's first word means: bits for limits that no control group enforces.
pub(crate) mod word {
    pub(crate) const GO: u8 = 0x80;
    pub(crate) const LIMIT_DATA: u8 = 1;
    pub(crate) const FIX_PROCESSORS: u8 = 2;
}

trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            step,
            errno,
            entry: 0,
        })
    }
}

fn steps(plan: &Plan, control: &mut RawFd) -> Failure {
    match prepare(plan, control) {
        Ok(()) => Failure {
            step: Step::Execute,
            errno: plan.first.execute(),
            entry: 0,
        },
        Err(failure) => failure,
    }
}

fn prepare(plan: &Plan, control: &mut RawFd) -> Result<(), Failure> {
    *control = process::keep_only(plan.console, plan.control).at(Step::Descriptors)?;
    let control = process::descriptor(*control);
    // Away from the caller's terminal: its signals are for the caller.
    let _ = nix::unistd::setsid();
    process::reset_signals();
    // Reached while this process still is the caller, who may be the only one to have access.
    nix::unistd::chdir(plan.directory.as_c_str()).at(Step::Directory)?;
    let word = wait_for_word(control).at(Step::Ids)?;
    let filter = &plan.filters[usize::from(word & word::FIX_PROCESSORS != 0)];

    let listener = match plan.ids {
        Ids::Single | Ids::Range => {
            // Setting groups is forbidden in a namespace whose map an unprivileged user wrote.
            process::become_ids(0, 0, plan.ids == Ids::Range).at(Step::Ids)?;
            process::die_with_parent().at(Step::Ids)?;
            // The cgroup that this process was put into becomes the root of what it sees.
            let _ = nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP);
            process::name_host(c"enclave").at(Step::Ids)?;
            if plan.loopback {
                process::raise_loopback().at(Step::Loopback)?;
            }
            limit(plan, word)?;
            shut_out_host(plan)?;
            process::keep_capabilities(CAPABILITIES).at(Step::Capabilities)?;
            seccomp::install(filter).at(Step::Filter)?
        }
        Ids::Outside(id) => {
            change_root(plan, id)?;
            limit(plan, word)?;
            process::keep_capabilities(SETTING_IDS).at(Step::Capabilities)?;
            process::become_ids(id, id, true).at(Step::Ids)?;
            process::die_with_parent().at(Step::Ids)?;
            nix::sys::prctl::set_no_new_privs().at(Step::Landlock)?;
            if plan.landlock > 0 {
                process::confine_by_landlock(plan.landlock).at(Step::Landlock)?;
            }
            seccomp::install(filter).at(Step::Filter)?
        }
    };

    let ready = Message::Ready {
        nsm: identity(c"/dev/nsm").at(Step::Devices)?,
        vsock: identity(c"/dev/vsock").at(Step::Devices)?,
    };
    nix::unistd::write(control, &ready.to_bytes()).at(Step::Filter)?;
    socket::send_descriptor(control, b'l', Some(process::descriptor(listener))).at(Step::Filter)?;
    wait_for_word(control).at(Step::Filter).map(drop)
}

/// The supervisor's word to go on. Its end of the socket closed means that it is gone.
fn wait_for_word(control: BorrowedFd<'_>) -> Result<u8, Errno> {
    let mut byte = [0];
    loop {
        match nix::unistd::read(control, &mut byte) {
            Ok(0) => return Err(Errno::EPIPE),
            Ok(_) => return Ok(byte[0]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn limit(plan: &Plan, word: u8) -> Result<(), Failure> {
    process::leave_keyring();
    nix::sys::stat::umask(Mode::empty());
    for (resource, value) in &plan.resource_limits {
        process::limit_resource(*resource, *value).at(Step::Limits)?;
    }
    if word & word::LIMIT_DATA != 0 {
        process::limit_resource(libc::RLIMIT_DATA, plan.data).at(Step::Limits)?;
    }
    if word & word::FIX_PROCESSORS != 0
        && let Some(processors) = &plan.processors
    {
        nix::sched::sched_setaffinity(Pid::from_raw(0), processors).at(Step::Limits)?;
    }
    Ok(())
}

const NODES: [&CStr; 5] = [
    c"/dev/null",
    c"/dev/zero",
    c"/dev/full",
    c"/dev/random",
    c"/dev/urandom",
];

const SAFE: u64 = attribute::NO_SUID | attribute::NO_DEVICES;

fn tmpfs(size: &CStr, inodes: &CStr, mode: &CStr, attributes: u64) -> Result<OwnedFd, Errno> {
    mount::new_mount(
        c"tmpfs",
        &[(c"size", size), (c"nr_inodes", inodes), (c"mode", mode)],
        attributes,
    )
}

/// Everything is mounted aside first, while the host's tree is still there (a new proc is only granted to those who see one);
/// then the root changes and the host's tree is detached; then the image is unpacked, where its links lead nowhere else.
fn shut_out_host(plan: &Plan) -> Result<(), Failure> {
    let [root_size, tmp_size, run_size, shm_size] = &plan.sizes;
    mount::make_all_private().at(Step::Private)?;

    let new_root = tmpfs(root_size, &plan.inodes, c"0755", SAFE).at(Step::RootMount)?;
    let dev = tmpfs(
        c"65536",
        c"64",
        c"0755",
        attribute::NO_SUID | attribute::NO_EXEC,
    )
    .at(Step::RootMount)?;
    let tmp = tmpfs(tmp_size, &plan.inodes, c"1777", SAFE).at(Step::RootMount)?;
    let run = tmpfs(run_size, &plan.inodes, c"0755", SAFE).at(Step::RootMount)?;
    let shm =
        tmpfs(shm_size, &plan.inodes, c"1777", SAFE | attribute::NO_EXEC).at(Step::RootMount)?;
    // Each process sees its own only, unless it may trace the others.
    let proc = mount::new_mount(
        c"proc",
        &[(c"hidepid", c"invisible")],
        SAFE | attribute::NO_EXEC,
    )
    .at(Step::ProcMount)?;
    let mut nodes = [const { None }; NODES.len()];
    for (node, path) in nodes.iter_mut().zip(NODES) {
        *node = Some(mount::copy_of(path).at(Step::Devices)?);
    }

    // Over the old root, which every user may search; the folder that this process is in may be closed to its new ids.
    mount::attach(new_root.as_fd(), c"/").at(Step::Pivot)?;
    nix::unistd::fchdir(&new_root).at(Step::Pivot)?;
    mount::become_root().at(Step::Pivot)?;

    fill(plan, plan.ids == Ids::Range)?;
    for (path, mount) in [
        (c"/dev", &dev),
        (c"/proc", &proc),
        (c"/tmp", &tmp),
        (c"/run", &run),
    ] {
        directory(path).at(Step::Attach)?;
        mount::attach(mount.as_fd(), path).at(Step::Attach)?;
    }
    directory(c"/sys").at(Step::Attach)?;

    for (node, path) in nodes.iter().zip(NODES) {
        if let Some(node) = node {
            empty_file(path, 0o666).at(Step::Devices)?;
            mount::attach(node.as_fd(), path).at(Step::Devices)?;
        }
    }
    doors().at(Step::Devices)?;
    directory(c"/dev/shm").at(Step::Devices)?;
    mount::attach(shm.as_fd(), c"/dev/shm").at(Step::Devices)?;
    // The two doors are opened for writing, which the mount around them will not allow: each gets a mount of its own.
    for path in [c"/dev/nsm", c"/dev/vsock"] {
        let door = mount::copy_of(path).at(Step::Devices)?;
        mount::attach(door.as_fd(), path).at(Step::Devices)?;
    }

    process::open_as(c"/dev/null", libc::O_RDONLY, 0).at(Step::Devices)?;
    mount::add_attributes(c"/dev", attribute::READ_ONLY).at(Step::ReadOnly)?;
    if plan.first.command.is_some() {
        return Ok(());
    }
    mount::add_attributes(c"/", attribute::READ_ONLY).at(Step::ReadOnly)
}

/// Reduced isolation: a root by chroot, in a file system that is mounted nowhere (or, where that is forbidden, a plain
/// directory that the supervisor removes), with device nodes of its own.
fn change_root(plan: &Plan, id: u32) -> Result<(), Failure> {
    if let Some(directory) = &plan.plain_root {
        nix::unistd::chdir(directory.as_c_str()).at(Step::RootMount)?;
    } else {
        let root =
            tmpfs(&plan.sizes[0], &plan.inodes, c"0755", attribute::NO_SUID).at(Step::RootMount)?;
        nix::unistd::fchdir(&root).at(Step::RootMount)?;
    }
    mount::change_root().at(Step::Pivot)?;
    nix::sys::stat::umask(Mode::empty());
    fill(plan, true)?;
    for path in [c"/dev", c"/tmp", c"/run", c"/sys", c"/proc", c"/dev/shm"] {
        directory(path).at(Step::Attach)?;
    }
    let owner = Some(nix::unistd::Uid::from_raw(id));
    let group = Some(nix::unistd::Gid::from_raw(id));
    for (path, mode) in [(c"/tmp", 0o1777), (c"/run", 0o755), (c"/dev/shm", 0o1777)] {
        nix::unistd::chown(path, owner, group).at(Step::Attach)?;
        nix::sys::stat::fchmodat(
            AT_FDCWD,
            path,
            Mode::from_bits_truncate(mode),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .at(Step::Attach)?;
    }
    // linux/devices.txt: memory devices are major 1.
    for (path, minor) in NODES.into_iter().zip([3, 5, 7, 8, 9]) {
        let _ = nix::unistd::unlink(path);
        nix::sys::stat::mknod(
            path,
            nix::sys::stat::SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            nix::sys::stat::makedev(1, minor),
        )
        .at(Step::Devices)?;
    }
    doors().at(Step::Devices)?;
    for path in [c"/dev/nsm", c"/dev/vsock"] {
        nix::unistd::chown(path, owner, group).at(Step::Devices)?;
    }
    process::open_as(c"/dev/null", libc::O_RDONLY, 0).at(Step::Devices)
}

fn fill(plan: &Plan, owners: bool) -> Result<(), Failure> {
    nix::sys::stat::umask(Mode::empty());
    let filled = root::fill(&plan.entries, owners).map_err(|(entry, errno)| Failure {
        step: Step::Fill,
        errno,
        entry: entry as u64,
    });
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    filled
}

/// The plain files by which the two doors are recognised, and the links that every `/dev` has.
fn doors() -> Result<(), Errno> {
    for path in [c"/dev/nsm", c"/dev/vsock"] {
        let _ = nix::unistd::unlink(path);
        empty_file(path, 0o600)?;
    }
    for (path, target) in [
        (c"/dev/fd", c"/proc/self/fd"),
        (c"/dev/stdin", c"/proc/self/fd/0"),
        (c"/dev/stdout", c"/proc/self/fd/1"),
        (c"/dev/stderr", c"/proc/self/fd/2"),
        (c"/dev/console", c"/proc/self/fd/1"),
    ] {
        match nix::unistd::symlinkat(target, AT_FDCWD, path) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn directory(path: &CStr) -> Result<(), Errno> {
    match nix::unistd::mkdir(path, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn empty_file(path: &CStr, mode: libc::mode_t) -> Result<(), Errno> {
    let file = nix::fcntl::open(
        path,
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(mode),
    )?;
    nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))
}

fn identity(path: &CStr) -> Result<Identity, Errno> {
    let status = nix::sys::stat::stat(path)?;
    Ok(Identity {
        device: status.st_dev,
        inode: status.st_ino,
    })
}

/// What init keeps inside its namespace (numbers of linux/capability.h): files of all users (0 to 4), killing (5), changing
/// user and group (6, 7), dropping more (8), ports below 1024 (10), tracing in name, which lets it see all of /proc (19; the
/// call itself is closed), and priorities (23).
const CAPABILITIES: u64 = 0x1FF | 1 << 10 | 1 << 19 | 1 << 23;
/// What it takes to change user (6, 7), for the moment before that in Reduced isolation; the change takes them away.
const SETTING_IDS: u64 = 1 << 6 | 1 << 7;

/// The namespaces of a new enclave. Its cgroup namespace follows once it was put into its cgroup.
pub(crate) const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        for message in [
            Message::Ready {
                nsm: Identity {
                    device: 1,
                    inode: u64::MAX,
                },
                vsock: Identity {
                    device: 3,
                    inode: 4,
                },
            },
            Message::Failed(Failure {
                step: Step::Fill,
                errno: Errno::ENOSPC,
                entry: 12,
            }),
        ] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), message);
        }
        for step in STEPS {
            let failure = Message::Failed(Failure {
                step,
                errno: Errno::EPERM,
                entry: 0,
            });
            assert_eq!(Message::from_bytes(&failure.to_bytes()), failure);
        }
    }
}
