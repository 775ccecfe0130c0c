//! waitid and waitpid, bare: nix's take only signals that it has names for, and a job may die of a real-time signal.

use std::io;

use nix::unistd::Pid;

use crate::reaper::Exit;

/// A child that has ended and is not reaped yet: the one given, or any. It stays unreaped.
pub(crate) fn ended(child: Option<Pid>) -> Option<Pid> {
    let (kind, id) = match child {
        Some(pid) => (libc::P_PID, pid.as_raw().unsigned_abs()),
        None => (libc::P_ALL, 0),
    };
    // SAFETY: siginfo_t is plain data, for which all zeroes is a valid value; the call fills it or leaves it alone.
    let (result, pid) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let result = libc::waitid(kind, id, &raw mut info, flags);
        (result, info.si_pid())
    };
    (result == 0 && pid > 0).then(|| Pid::from_raw(pid))
}

/// Reaps a child that has ended; waits if it has not.
///
/// # Errors
/// ECHILD: there is no such child.
pub(crate) fn reap(child: Pid) -> io::Result<Exit> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a local that outlives the call.
        if unsafe { libc::waitpid(child.as_raw(), &raw mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if libc::WIFEXITED(status) {
            return Ok(Exit::Code(libc::WEXITSTATUS(status)));
        }
        if libc::WIFSIGNALED(status) {
            return Ok(Exit::Signal(libc::WTERMSIG(status)));
        }
    }
}
