//! Raw system calls for the program inside: the tests must be able to make any call with any argument.

use std::io;

/// Any system call with any arguments.
pub(crate) fn call(number: libc::c_long, arguments: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: callers pass numbers, or addresses of memory that outlives the call. Odd ones are meant to be refused.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `getpid` by the 32-bit entry of an x86-64 kernel. Its number there is 20. A refusal is a negative errno.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_by_32_bit_call() -> i64 {
    let result: i32;
    // SAFETY: the call takes no memory; the registers that the entry may change are declared.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") 20i32 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from(result)
}

/// Forks. `true` in the child. Only for programs with one thread, or children that end at once.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: see above; callers keep to it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// Ends the process at once.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(code) }
}

/// Waits for a child: its status as wait(2) gives it.
pub(crate) fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    status
}

/// Installs a handler that does nothing and does not restart calls, and asks for SIGALRM after some milliseconds.
pub(crate) fn alarm_without_restart(milliseconds: i64) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the structures are zeroed and then filled; the handler touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let mut timer: libc::itimerval = std::mem::zeroed();
        timer.it_value.tv_usec = milliseconds * 1000;
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}

/// Makes a descriptor out of the number of one that nobody owns.
pub(crate) fn own(number: i64) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: callers pass what a system call has just returned.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(number as i32) }
}
