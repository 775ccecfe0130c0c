//! Processes: clone, identity, limits, descriptors of other processes, waiting.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

/// A process that was just cloned.
pub(crate) struct Cloned {
    /// Its id, as this process sees it.
    pub(crate) pid: i32,
    /// A descriptor that stands for it, also after its id was given to somebody else.
    pub(crate) pidfd: OwnedFd,
}

/// Ends the process where unwinding would otherwise leave the child's function and run the parent's code twice.
struct NeverUnwind;

impl Drop for NeverUnwind {
    fn drop(&mut self) {
        exit_now(127);
    }
}

/// Clones this process with its memory copied on write, as `fork` does, into the namespaces that `flags` name. `child` runs
/// in the copy, returns its exit code, and must keep to the rule for *child* functions (see the module). It has no exit signal until it executes
/// another program, so a `SIGCHLD` handler of the host program does not see it.
pub(crate) fn clone_process(
    flags: libc::c_int,
    child: impl FnOnce() -> i32,
) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let flags = libc::c_ulong::from((flags | libc::CLONE_PIDFD) as libc::c_uint);
    // SAFETY: without CLONE_VM and with no stack given, clone returns twice like fork, and each side has its own memory. The
    // third argument is where the kernel writes the descriptor; it outlives the call. The child runs `child` and never returns.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    })?;
    if pid == 0 {
        let _guard = NeverUnwind;
        exit_now(child());
    }
    Ok(Cloned {
        pid: pid as i32,
        // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// Memory of this process that a cloned process can do without, where it never allocates and looks only at its own stack and
/// at constants: all anonymous memory but that of this thread.
pub(crate) struct Unneeded {
    ranges: [(usize, usize); 128],
    count: usize,
}

impl Unneeded {
    /// What there is now, seen from the thread that will clone. Where the system does not say, nothing is unneeded.
    pub(crate) fn by_this_thread() -> Unneeded {
        let here = 0u8;
        // SAFETY: the function has no preconditions; its result is this thread's own.
        let storage = unsafe { libc::__errno_location() };
        let kept = [std::ptr::from_ref(&here).addr(), storage.addr()];
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mut unneeded = Unneeded {
            ranges: [(0, 0); 128],
            count: 0,
        };
        // The text of the maps is in such memory itself, hence an array.
        for range in anonymous(&maps, &kept) {
            let Some(place) = unneeded.ranges.get_mut(unneeded.count) else {
                break;
            };
            *place = range;
            unneeded.count += 1;
        }
        unneeded
    }

    /// *child* Gives this process's copy of it back to the kernel. It reads as zeros from then on.
    pub(crate) fn forget(&self) {
        for (start, end) in &self.ranges[..self.count] {
            // SAFETY: private memory of this cloned process, in which nothing runs but the child's function: by its rule it
            // neither allocates nor looks at what was allocated. Its stack, its thread's storage and all that programs and
            // libraries brought with them are not among the ranges. What is no longer mapped is refused by the kernel.
            unsafe {
                libc::madvise(
                    std::ptr::with_exposed_provenance_mut::<libc::c_void>(*start),
                    end - start,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
}

/// The ranges of private, writable, anonymous memory in a `/proc/PID/maps` that hold none of these addresses. What follows a
/// file's mapping without a gap may be that program's or library's zeroed data, and is left out.
fn anonymous<'a>(maps: &'a str, kept: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut file_end = None;
    maps.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let rights = words.next()?;
        let inode = words.nth(2)?;
        let name = words.next().unwrap_or_default();
        if inode != "0" || file_end == Some(start) {
            file_end = Some(end);
            return None;
        }
        let plain = name.is_empty() || name == "[heap]" || name.starts_with("[anon:");
        (rights == "rw-p" && plain && !kept.iter().any(|address| (start..end).contains(address)))
            .then_some((start, end))
    })
}

/// *child* Ends the process without running any handler.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// *child* Becomes this user and group with no further groups. `set_groups` is false where a namespace forbids `setgroups`.
pub(crate) fn become_ids(uid: u32, gid: u32, set_groups: bool) -> Result<(), Errno> {
    // SAFETY: all three take numbers only (an empty list of groups needs no memory). They are called directly because the C
    // library would try to signal threads that this copied process does not have.
    unsafe {
        if set_groups {
            check(libc::syscall(
                libc::SYS_setgroups,
                0usize,
                std::ptr::null::<libc::gid_t>(),
            ))?;
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// *child* Makes `stdout` the standard output and error and `control` descriptor 3 (closed on exec), and closes all others
/// but 0. Returns what is now descriptor 3.
pub(crate) fn keep_only(stdout: RawFd, control: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: numbers only; descriptors of this copied process that any owner in the parent still counts on are those of the
    // parent's own table, which is another one.
    unsafe {
        let stdout = check(libc::fcntl(stdout, libc::F_DUPFD, 10).into())? as RawFd;
        let control = check(libc::fcntl(control, libc::F_DUPFD, 10).into())? as RawFd;
        check(libc::dup2(stdout, 1).into())?;
        check(libc::dup2(stdout, 2).into())?;
        check(libc::dup3(control, 3, libc::O_CLOEXEC).into())?;
        check(libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, 0u32))?;
    }
    Ok(3)
}

/// *child* Keeps `first` as descriptor 3 and `second` as 4 and closes all others, also 0 to 2.
pub(crate) fn keep_two(first: RawFd, second: RawFd) -> Result<(), Errno> {
    // SAFETY: as in `keep_only`.
    unsafe {
        let first = check(libc::fcntl(first, libc::F_DUPFD, 10).into())? as RawFd;
        let second = check(libc::fcntl(second, libc::F_DUPFD, 10).into())? as RawFd;
        check(libc::dup2(first, 3).into())?;
        check(libc::dup2(second, 4).into())?;
        check(libc::syscall(libc::SYS_close_range, 5u32, u32::MAX, 0u32))?;
        check(libc::syscall(libc::SYS_close_range, 0u32, 2u32, 0u32))?;
    }
    Ok(())
}

/// *child* A number that is a descriptor of this process and stays open as long as the process does.
pub(crate) fn descriptor(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: only called for descriptors that `keep_only` and `keep_two` have placed and that nobody closes again.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// *child* Opens `path` as descriptor `number`.
pub(crate) fn open_as(path: &CStr, flags: libc::c_int, number: RawFd) -> Result<(), Errno> {
    // SAFETY: the path ends in NUL; the rest are numbers.
    unsafe {
        let opened = check(libc::open(path.as_ptr(), flags).into())? as RawFd;
        if opened != number {
            check(libc::dup2(opened, number).into())?;
            libc::close(opened);
        }
    }
    Ok(())
}

/// *child* Sets every signal to its default and unblocks all: a program started by a kernel inherits no dispositions.
pub(crate) fn reset_signals() {
    // SAFETY: the structures are zeroed, which is valid for both, and outlive the calls. Signals that cannot be changed
    // (SIGKILL, SIGSTOP, the C library's own two) answer with an error that has no meaning here.
    unsafe {
        for signal in 1..=64 {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// *child* Blocks every signal that can be blocked, for this thread.
pub(crate) fn block_signals() {
    // SAFETY: the set is filled before use and outlives the call.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// *child* Sets a resource limit, soft and hard, but never above the present hard limit.
pub(crate) fn limit_resource(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), Errno> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure outlives both calls.
    unsafe {
        check(libc::getrlimit(resource, &raw mut limit).into())?;
        limit.rlim_max = limit.rlim_max.min(value);
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(resource, &raw const limit).into())?;
    }
    Ok(())
}

/// *child* Asks for SIGKILL when the thread that cloned this process ends. See prctl(2), `PR_SET_PDEATHSIG`.
pub(crate) fn die_with_parent() -> Result<(), Errno> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into()).map(drop)
}

/// *child* Joins a new, empty session keyring, so that the keys of the host's session are out of reach.
pub(crate) fn leave_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: no memory is passed. A kernel without keyrings refuses, and then there is none to leave.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        );
    }
}

/// *child* Keeps only the capabilities whose bits are set, for this process and all that it will ever execute.
pub(crate) fn keep_capabilities(mask: u64) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |shift: u32| Data {
        effective: (mask >> shift) as u32,
        permitted: (mask >> shift) as u32,
        inheritable: 0,
    };
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [half(0), half(32)];
    // SAFETY: numbers only for prctl; the structures have the layout of linux/capability.h version 3 and outlive the calls.
    unsafe {
        for capability in 0..64 {
            if mask & (1 << capability) == 0 {
                // The kernel refuses numbers above its last capability, which nobody has either.
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
        }
        let mut now = [half(0), half(32)];
        check(libc::syscall(
            libc::SYS_capget,
            &raw mut header,
            now.as_mut_ptr(),
        ))?;
        for (wanted, now) in data.iter_mut().zip(now) {
            wanted.permitted &= now.permitted;
            wanted.effective = wanted.permitted;
        }
        check(libc::syscall(
            libc::SYS_capset,
            &raw mut header,
            data.as_ptr(),
        ))?;
    }
    Ok(())
}

/// *child* Names the machine, as the namespace's programs see it.
pub(crate) fn name_host(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the pointer and the length describe the same bytes.
    unsafe {
        check(libc::sethostname(name.as_ptr(), name.count_bytes()).into())?;
        check(libc::setdomainname(c"(none)".as_ptr(), 6).into())?;
    }
    Ok(())
}

/// *child* Brings the loopback interface of this network namespace up, which gives it 127.0.0.1 (netdevice(7)).
pub(crate) fn raise_loopback() -> Result<(), Errno> {
    // SAFETY: the call takes three numbers.
    let socket = check(
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?;
    // SAFETY: the descriptor was just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as RawFd) };
    // SAFETY: a structure of numbers, of which zero is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // `lo`; characters have a sign on some machines and none on others.
    request.ifr_name[..2].copy_from_slice(&[0x6c, 0x6f]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a struct ifreq with a name that ends in zero, and outlives the call.
    let raised = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(raised.into()).map(drop)
}

/// *child* Becomes another program. Returns only if that failed.
pub(crate) fn execute(path: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    // SAFETY: all strings end in NUL, both lists end in a null pointer, and all outlive the call.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        );
    }
    Errno::last()
}

/// A list of strings as `execve` takes it, made before the process that uses it exists.
pub(crate) struct Strings {
    /// Where the strings are; they own what the pointers name, and are never changed.
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    pub(crate) fn new(strings: Vec<CString>) -> Strings {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect();
        Strings {
            _owned: strings,
            pointers,
        }
    }
}

/// *child* Sends SIGKILL to the process that `pidfd` stands for.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    })
    .map(drop)
}

/// *child* Sends SIGKILL to every process that this one's user may signal (Reduced isolation, whose user is the enclave's alone).
pub(crate) fn kill_all_of_my_user() -> Result<(), Errno> {
    // SAFETY: numbers only.
    check(unsafe { libc::kill(-1, libc::SIGKILL) }.into()).map(drop)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Somebody else in the host program has collected its status.
    Unknown,
}

/// Collects the status of a process that has ended; waits for it unless it has.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Exit {
    loop {
        // SAFETY: zeroed is a valid siginfo_t, and it outlives the call.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result = libc::waitid(
                libc::P_PIDFD,
                pidfd.as_raw_fd() as libc::id_t,
                &raw mut info,
                libc::WEXITED | libc::__WALL,
            );
            (result, info)
        };
        if result != 0 {
            if Errno::last() == Errno::EINTR {
                continue;
            }
            return Exit::Unknown;
        }
        // SAFETY: waitid succeeded with WEXITED, so the kernel has filled the fields of a SIGCHLD.
        let status = unsafe { info.si_status() };
        return match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            _ => Exit::Signal(status),
        };
    }
}

/// A descriptor that stands for the thread or process `tid`.
///
/// Kernels before 6.9 give descriptors for whole processes only; then the thread's process, found in /proc, is taken.
pub(crate) fn pidfd_of(tid: u32) -> Result<OwnedFd, Errno> {
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    match pidfd_open(tid, PIDFD_THREAD) {
        Err(Errno::EINVAL) => {}
        other => return other,
    }
    match pidfd_open(tid, 0) {
        Err(Errno::EINVAL | Errno::ENOENT) => {}
        other => return other,
    }
    let status =
        std::fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
    let process = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or(Errno::ESRCH)?;
    pidfd_open(process, 0)
}

fn pidfd_open(pid: u32, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: numbers only; the descriptor is new and ours.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, flags))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// A copy of descriptor `number` of another process: the same open file, closed on exec.
pub(crate) fn descriptor_of(pidfd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: numbers only; the descriptor is new and ours.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_pidfd_getfd,
            pidfd.as_raw_fd(),
            number,
            0u32,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// *child* Enters the user and network namespaces of a process.
pub(crate) fn enter_user_and_network(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: numbers only.
    check(
        unsafe { libc::setns(pidfd.as_raw_fd(), libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }.into(),
    )
    .map(drop)
}

/// *child* Confines this process by Landlock: only what lies below the root directory may be touched (all of it), and where
/// the kernel can (ABI 6), abstract Unix sockets and signals reach nothing outside. Returns whether that last part holds.
/// See linux/landlock.h.
pub(crate) fn confine_by_landlock(abi: u32) -> Result<bool, Errno> {
    #[repr(C)]
    struct Ruleset {
        fs: u64,
        net: u64,
        scoped: u64,
    }
    #[repr(C, packed)]
    struct PathBeneath {
        allowed: u64,
        parent: i32,
    }
    const RULE_PATH_BENEATH: u32 = 1;
    // The file rights of each ABI (1: 13, 2: refer, 3: truncate, 5: device ioctls), all handled and all granted below the root.
    let rights: u64 = match abi {
        0 => return Err(Errno::ENOSYS),
        1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        _ => (1 << 16) - 1,
    };
    let scoped = abi >= 6;
    let ruleset = Ruleset {
        fs: rights,
        net: if abi >= 4 { 0b11 } else { 0 },
        scoped: if scoped { 0b11 } else { 0 },
    };
    let size: usize = match abi {
        0..=3 => 8,
        4 | 5 => 16,
        _ => 24,
    };
    // SAFETY: the structures have the layout of linux/landlock.h, `size` covers what this ABI knows of the first, and all
    // outlive the calls. The two descriptors are closed here and known to nobody else.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size,
            0u32,
        ))? as RawFd;
        let root =
            check(libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC).into())? as RawFd;
        let rule = PathBeneath {
            allowed: rights,
            parent: root,
        };
        check(libc::syscall(
            libc::SYS_landlock_add_rule,
            fd,
            RULE_PATH_BENEATH,
            &raw const rule,
            0u32,
        ))?;
        check(libc::syscall(libc::SYS_landlock_restrict_self, fd, 0u32))?;
        libc::close(root);
        libc::close(fd);
    }
    Ok(scoped)
}

/// The version of Landlock's interface that this kernel offers; 0 where there is none.
pub(crate) fn landlock_abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes no memory and answers with a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn only_anonymous_memory_of_others_is_unneeded() {
        let maps = "\
1000-2000 r--p 00000000 08:01 7 /bin/x
2000-3000 rw-p 00001000 08:01 7 /bin/x
3000-4000 rw-p 00000000 00:00 0
4000-5000 rw-p 00000000 00:00 0 [heap]
6000-7000 rw-p 00000000 00:00 0 [heap]
7000-8000 rw-s 00000000 00:01 9 /dev/zero (deleted)
9000-a000 ---p 00000000 00:00 0
a000-b000 rw-p 00000000 00:00 0
c000-d000 rw-p 00000000 00:00 0 [anon: glibc: malloc arena]
d000-e000 rw-s 00000000 00:00 0
f000-10000 rw-p 00000000 00:00 0 [stack]
nonsense
";
        assert_eq!(
            anonymous(maps, &[0xa123]).collect::<Vec<_>>(),
            [(0x6000, 0x7000), (0xc000, 0xd000)]
        );
    }

    #[test]
    fn a_child_that_has_forgotten_runs_on_and_its_parent_keeps_all() {
        let kept = vec![7u8; 1 << 20];
        let unneeded = Unneeded::by_this_thread();
        assert!(unneeded.count > 0);
        let address = kept.as_ptr().expose_provenance();
        assert!(
            unneeded.ranges[..unneeded.count]
                .iter()
                .any(|(start, end)| (*start..*end).contains(&(address + (1 << 19))))
        );
        let child = clone_process(0, || {
            let own = [3u8; 64];
            unneeded.forget();
            // Its stack is whole, its calls work, and the rest is gone.
            let whole = std::hint::black_box(&own).iter().all(|byte| *byte == 3);
            let worked = nix::sys::prctl::set_name(c"forgetful").is_ok();
            let gone = std::hint::black_box(&kept)[1 << 19] == 0;
            i32::from(whole) | (i32::from(worked) << 1) | (i32::from(gone) << 2)
        })
        .expect("a child");
        assert!(matches!(reap(child.pidfd.as_fd()), Exit::Code(7)));
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
