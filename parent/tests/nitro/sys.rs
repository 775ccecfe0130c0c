//! Seccomp user notification, for the device that the tests play.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) thread: u32,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 6],
}

/// `NE_*` requests have this type.
const NITRO_IOCTLS: u32 = 0xAE;

/// Hands the calls of this thread, and of those that it starts, to whoever gets the descriptor: opening files, vsock, huge
/// pages in memory files, and the driver's ioctls.
pub(crate) fn hand_over() -> io::Result<OwnedFd> {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let equal =
        |k: u32, jt: u8, jf: u8| jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, jt, jf);
    let answer = |k: u32| statement(libc::BPF_RET | libc::BPF_K, k);
    let (allow, notify) = (
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_USER_NOTIF),
    );
    /// Low half of an argument in `struct seccomp_data`, on little-endian machines.
    const fn argument(index: u32) -> u32 {
        16 + 8 * index
    }
    let mut filter = vec![load(0)];
    for number in [
        libc::SYS_openat,
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_getpeername,
        libc::SYS_mbind,
    ] {
        filter.extend([equal(number as u32, 0, 1), notify]);
    }
    filter.extend([
        equal(libc::SYS_socket as u32, 0, 4),
        load(argument(0)),
        equal(libc::AF_VSOCK as u32, 0, 1),
        notify,
        allow,
        equal(libc::SYS_memfd_create as u32, 0, 4),
        load(argument(1)),
        jump(
            libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
            libc::MFD_HUGETLB,
            0,
            1,
        ),
        notify,
        allow,
        equal(libc::SYS_ioctl as u32, 0, 5),
        load(argument(1)),
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xFF00),
        equal(NITRO_IOCTLS << 8, 0, 1),
        notify,
        allow,
        allow,
    ]);
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program points to its instructions, which outlive the calls; the descriptor is new and ours.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        let listener = check(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        ))?;
        Ok(OwnedFd::from_raw_fd(listener as RawFd))
    }
}

/// The next call. `None`: its thread is gone already.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Call>> {
    // SAFETY: the kernel demands a zeroed structure and fills it; it outlives the call.
    let (received, notification) = unsafe {
        let mut notification: libc::seccomp_notif = std::mem::zeroed();
        let received = libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notification,
        );
        (check(received.into()), notification)
    };
    match received {
        Ok(_) => Ok(Some(Call {
            id: notification.id,
            thread: notification.pid,
            number: notification.data.nr.into(),
            arguments: notification.data.args,
        })),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How a call ends.
pub(crate) enum Answer {
    Value(i64),
    /// Any number, those of the driver included, which are no `errno` of the system's.
    Error(i32),
    /// As the kernel has it.
    Continue,
    /// With the number of a copy of this file.
    File(OwnedFd),
}

/// Answers a call; that its thread is gone is no error here.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: &Answer) {
    let respond = |val: i64, error: i32, flags: u32| {
        let response = libc::seccomp_notif_resp {
            id,
            val,
            error,
            flags,
        };
        // SAFETY: the structure outlives the call.
        unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const response,
            );
        }
    };
    match answer {
        Answer::Value(value) => respond(*value, 0, 0),
        Answer::Error(number) => respond(0, -number, 0),
        Answer::Continue => respond(0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::File(file) => {
            let addition = libc::seccomp_notif_addfd {
                id,
                flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
                srcfd: file.as_raw_fd() as u32,
                newfd: 0,
                newfd_flags: libc::O_CLOEXEC as u32,
            };
            // SAFETY: the structure outlives the call.
            unsafe {
                libc::ioctl(
                    listener.as_raw_fd(),
                    libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                    &raw const addition,
                );
            }
        }
    }
}

/// A handle of a process, by which its files can be had.
pub(crate) fn process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; the descriptor is new and ours.
    unsafe {
        let handle = check(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(handle as RawFd))
    }
}

/// The open file behind a number of the process's.
pub(crate) fn file_of(process: BorrowedFd<'_>, number: u64) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; the descriptor is new and ours.
    unsafe {
        let file = check(libc::syscall(
            libc::SYS_pidfd_getfd,
            process.as_raw_fd(),
            number as i32,
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(file as RawFd))
    }
}

/// Makes a descriptor out of the number of one that nobody owns.
pub(crate) fn own(number: RawFd) -> OwnedFd {
    // SAFETY: callers pass what the kernel has just given to this process.
    unsafe { OwnedFd::from_raw_fd(number) }
}
