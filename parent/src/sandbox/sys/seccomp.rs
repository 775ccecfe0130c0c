//! Seccomp filters with user notification (seccomp(2), `seccomp_unotify(2)`), and the memory of the notified process.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::check;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    /// Stands for this one call.
    pub(crate) id: u64,
    /// The thread that made it, as this process numbers it.
    pub(crate) tid: u32,
    /// The call's number.
    pub(crate) number: libc::c_long,
    /// Its arguments, as the registers held them.
    pub(crate) arguments: [u64; 6],
}

/// *child* Installs `filter` for this process and returns the number of the descriptor on which its notifications arrive
/// (closed on exec). The process can gain no privileges by execution from here on.
pub(crate) fn install(filter: &[libc::sock_filter]) -> Result<RawFd, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::E2BIG)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` instructions that the kernel only reads, and outlives the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        ))
        .map(|fd| fd as RawFd)
    }
}

/// Whether this kernel's structures have the sizes that this module was written for.
pub(crate) fn sizes_agree() -> bool {
    let mut sizes = libc::seccomp_notif_sizes {
        seccomp_notif: 0,
        seccomp_notif_resp: 0,
        seccomp_data: 0,
    };
    // SAFETY: the structure outlives the call.
    let asked = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_NOTIF_SIZES,
            0u32,
            &raw mut sizes,
        )
    };
    asked == 0
        && usize::from(sizes.seccomp_notif) <= size_of::<libc::seccomp_notif>()
        && usize::from(sizes.seccomp_notif_resp) <= size_of::<libc::seccomp_notif_resp>()
}

/// Lets an answer wake the notified thread on this processor at once (Linux 6.6; older kernels ignore the wish).
pub(crate) fn wake_quickly(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: this request takes the flags by value.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SYNC_WAKE_UP,
        );
    }
}

/// Takes the next notification. Only to be called when `listener` is readable, or it waits. `ENOENT`: its thread is gone.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // SAFETY: the kernel demands a zeroed structure, fills it, and it outlives the call; `sizes_agree` was checked at start.
    let notification = unsafe {
        let mut notification: libc::seccomp_notif = std::mem::zeroed();
        check(
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut notification,
            )
            .into(),
        )?;
        notification
    };
    Ok(Notification {
        id: notification.id,
        tid: notification.pid,
        number: notification.data.nr.into(),
        arguments: notification.data.args,
    })
}

/// Whether the call still waits: false once its thread was interrupted or has died.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the id outlives the call.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        ) == 0
    }
}

/// What the notified call is to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This value.
    Value(i64),
    /// This error.
    Error(Errno),
    /// Whatever the kernel makes of it. Only for calls that are harmless whatever they turn out to be: their arguments may
    /// have changed since anybody looked at them.
    Continue,
}

/// Answers a call. An error means that it no longer waits.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> Result<(), Errno> {
    let (val, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Error(errno) => (0, -(errno as i32), 0),
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let response = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: the structure outlives the call.
    check(
        unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const response,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Gives the notified process a copy of `file`, and answers its call with the number of that descriptor, in one step.
pub(crate) fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<(), Errno> {
    let addition = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec {
            libc::O_CLOEXEC as u32
        } else {
            0
        },
    };
    // SAFETY: the structure outlives the call.
    check(
        unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                &raw const addition,
            )
        }
        .into(),
    )
    .map(drop)
}

/// The memory of a notified process. Holding it keeps that very memory, also if the thread's number is given to another
/// process in the meantime; so whoever opens it and then sees that the call still waits has the right one.
pub(crate) struct Memory(File);

impl Memory {
    /// Opens the memory of the notification's process. `ESRCH` if the call no longer waits.
    pub(crate) fn of(
        listener: BorrowedFd<'_>,
        notification: &Notification,
    ) -> Result<Memory, Errno> {
        let path = format!("/proc/{}/mem", notification.tid);
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| errno_of(&error))?;
        if is_waiting(listener, notification.id) {
            Ok(Memory(file))
        } else {
            Err(Errno::ESRCH)
        }
    }

    /// Reads all of `buffer`, or `EFAULT`.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0
            .read_exact_at(buffer, address)
            .map_err(|_| Errno::EFAULT)
    }

    /// Writes all of `bytes`, or `EFAULT`.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0
            .write_all_at(bytes, address)
            .map_err(|_| Errno::EFAULT)
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EFAULT))
}
