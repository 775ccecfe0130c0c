//! The system calls that the sandbox needs and that no safe crate offers, each as a small safe function.
//! This is the only place of the crate with `unsafe`. It must never decide anything: callers do.
//!
//! Functions marked *child* may run in the copy of this process that `clone` leaves behind, where another thread may have held
//! the allocator's lock: they neither allocate nor panic, and they go to the kernel directly where the C library would
//! look at its own list of threads (`setresuid`, `setgroups`).
#![expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the kernel takes the same bits for signed and for unsigned numbers"
)]

pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod socket;

use nix::errno::Errno;

/// Turns what `libc::syscall` returns into a `Result`.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}
