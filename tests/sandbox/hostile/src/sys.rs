//! The raw system calls of the attempts.

#![expect(
    clippy::many_single_char_names,
    reason = "arguments have no better names"
)]
#![expect(
    unsafe_code,
    reason = "the attempts are system calls that no safe API offers"
)]

use std::io;

use libc::{c_int, c_long};

fn check(result: c_long) -> io::Result<c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A system call by number, with arguments that are plain numbers.
pub(crate) fn call(number: c_long, arguments: [u64; 6]) -> io::Result<c_long> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: callers pass numbers, null, or addresses of memory that outlives
    // the call; a hostile program's own memory is all that is at stake.
    check(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// `getpid` by the 32-bit entry, which filters written for 64 bits overlook.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_by_int80() -> i64 {
    let result: i64;
    // SAFETY: getpid (20 in the 32-bit table) takes no arguments and touches no memory.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") 20_i64 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// Forks children that sleep, until `most` or failure; then kills them.
pub(crate) fn fork_many(most: usize) -> (usize, io::Result<()>) {
    let mut children = Vec::with_capacity(most);
    let mut outcome = Ok(());
    for _ in 0..most {
        // SAFETY: the child only calls async-signal-safe functions.
        match unsafe { libc::fork() } {
            -1 => {
                outcome = Err(io::Error::last_os_error());
                break;
            }
            0 => {
                // SAFETY: pause and _exit are async-signal-safe.
                unsafe {
                    libc::alarm(60);
                    libc::pause();
                    libc::_exit(0);
                }
            }
            child => children.push(child),
        }
    }
    for child in &children {
        // SAFETY: these are this process's own children.
        unsafe {
            libc::kill(*child, libc::SIGKILL);
            let mut status: c_int = 0;
            libc::waitpid(*child, &raw mut status, 0);
        }
    }
    (children.len(), outcome)
}

/// Runs `action` in a forked child and tells whether it returned `Ok`; with its
/// errno where it did not, or the signal that ended it.
pub(crate) fn in_child(action: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: this program has one thread, so the child may go on as it likes.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = match action() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(255).clamp(1, 255),
            };
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status: c_int = 0;
            // SAFETY: `child` is this process's own.
            check(unsafe { libc::waitpid(child, &raw mut status, 0) }.into())?;
            if libc::WIFSIGNALED(status) {
                return Err(io::Error::other(format!(
                    "killed by signal {}",
                    libc::WTERMSIG(status)
                )));
            }
            match libc::WEXITSTATUS(status) {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

/// Has writes beyond the limit of a file's size fail, rather than end this process.
pub(crate) fn ignore_too_large_files() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Touches `bytes` of new memory.
pub(crate) fn touch(bytes: usize) {
    let mut memory = vec![0_u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
}

/// Reads from another process's memory.
pub(crate) fn read_memory_of(pid: u32) -> io::Result<c_long> {
    let mut byte = [0_u8; 1];
    let here = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let there = libc::iovec {
        iov_base: (&raw const byte).cast_mut().cast(),
        iov_len: 1,
    };
    call(
        libc::SYS_process_vm_readv,
        [
            u64::from(pid),
            (&raw const here) as u64,
            1,
            (&raw const there) as u64,
            1,
            0,
        ],
    )
}
