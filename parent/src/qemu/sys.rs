//! Calls that no safe crate offers. Each block says why it is sound.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::program::Program;
use crate::sandbox::sys::process;

/// Who has no rights, where no id of the enclave's own can be had.
const NOBODY: u32 = 65534;

/// Takes over a descriptor that was given away by number and that nobody else closes.
pub(crate) fn owned(number: RawFd) -> OwnedFd {
    // SAFETY: the vhost-user crate lets go of its exit event's descriptor for good (`into_raw_fd`), and by now the epoll
    // instance that used it is gone; nobody else has the number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Where a QEMU's words go.
pub(crate) struct Streams {
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// Starts QEMU with these descriptors and no others, as `user` where that is given, without a network, and so that it dies
/// with the calling thread.
pub(crate) fn spawn(
    program: &Program,
    arguments: &[OsString],
    keep: &[RawFd],
    user: Option<u32>,
    streams: Streams,
) -> io::Result<Child> {
    let no_name = || io::Error::from(io::ErrorKind::InvalidInput);
    let folder = program.path.parent().unwrap_or(Path::new("/"));
    let folder = CString::new(folder.as_os_str().as_bytes()).map_err(|_| no_name())?;
    let mut name = OsString::from("./");
    name.push(program.path.file_name().ok_or_else(no_name)?);
    let keep = keep.to_vec();
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin",
        )
        .stdin(Stdio::null())
        .stdout(streams.stdout)
        .stderr(streams.stderr);
    let prepare = move || -> io::Result<()> {
        process::reset_signals();
        // Its folder may be one that its new user cannot reach by name.
        nix::unistd::chdir(folder.as_c_str())?;
        // Also what others have opened without thinking of this: the memory of another machine in the same process is among it.
        // SAFETY: numbers only; of this copied process.
        let closed = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if closed < 0 {
            return Err(io::Error::last_os_error());
        }
        for descriptor in &keep {
            // SAFETY: numbers only; of this copied process.
            if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Where it is not allowed, QEMU keeps the host's network, for which it has no use.
        let with_user = if user.is_some() {
            namespaces
        } else {
            namespaces | CloneFlags::CLONE_NEWUSER
        };
        let _ = nix::sched::unshare(with_user);
        process::limit_resource(libc::RLIMIT_CORE, 1)?;
        if let Some(user) = user {
            match process::become_ids(user, user, true) {
                Err(Errno::EINVAL) => process::become_ids(NOBODY, NOBODY, true)?,
                other => other?,
            }
        }
        process::die_with_parent()?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only; what it uses was allocated before.
    unsafe {
        command.pre_exec(prepare);
    }
    command.spawn()
}

/// Kilohertz of this machine's time stamp counter, which an emulated guest sees as its own.
#[cfg(target_arch = "x86_64")]
pub(crate) fn clock_khz() -> Option<u64> {
    use std::arch::x86_64::_rdtsc;
    /// The counter and the time, read as close to each other as a few tries allow.
    fn pair() -> (u64, Instant) {
        let mut best = None;
        for _ in 0..16 {
            // SAFETY: every x86-64 processor has the instruction; a host that traps it still answers.
            let before = unsafe { _rdtsc() };
            let now = Instant::now();
            // SAFETY: as above.
            let after = unsafe { _rdtsc() };
            let width = after.wrapping_sub(before);
            if best.is_none_or(|(least, _, _)| width < least) {
                best = Some((width, before.wrapping_add(width / 2), now));
            }
        }
        best.map_or((0, Instant::now()), |(_, count, now)| (count, now))
    }
    let (from, since) = pair();
    std::thread::sleep(Duration::from_millis(20));
    let (to, until) = pair();
    let nanoseconds = until.duration_since(since).as_nanos();
    let khz = u128::from(to.checked_sub(from)?) * 1_000_000 / nanoseconds.max(1);
    // Anything else is no processor's clock.
    u64::try_from(khz)
        .ok()
        .filter(|khz| (100_000..=20_000_000).contains(khz))
}

/// Elsewhere QEMU makes the counter up.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn clock_khz() -> Option<u64> {
    None
}

/// The user that QEMU runs as, where this process may choose: one of the enclave's own, who owns nothing.
pub(crate) fn user_for(cid: u32) -> Option<u32> {
    nix::unistd::geteuid()
        .is_root()
        .then(|| crate::sandbox::supervisor::range_of(cid))
}
