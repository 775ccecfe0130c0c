//! The doors that must be closed: one attempt each, made the same way inside and outside, so that the test can see that an attempt
//! can succeed.

use std::io;

use super::sys::call;

/// An attempt: its name, and whether it did anything other than be refused.
pub(crate) struct Attempt {
    pub(crate) name: String,
    pub(crate) result: io::Result<()>,
    /// Whether it succeeds on an ordinary host for an ordinary user, so that a refusal means something.
    pub(crate) works_outside: bool,
}

/// Makes all attempts. None of them changes anything on a host where it succeeds.
pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut attempt = |name: &str, works_outside: bool, result: io::Result<i64>| {
        attempts.push(Attempt {
            name: name.to_owned(),
            result: result.map(drop),
            works_outside,
        });
    };
    // AF_UNIX (1) and AF_VSOCK (40) are the two that exist inside; and no AF_VSOCK socket is ever made outside by these tests.
    for (family, name) in [
        (2u64, "AF_INET"),
        (10, "AF_INET6"),
        (16, "AF_NETLINK"),
        (17, "AF_PACKET"),
        (29, "AF_CAN"),
        (31, "AF_BLUETOOTH"),
        (38, "AF_ALG"),
        (44, "AF_XDP"),
        (45, "AF_MCTP"),
        (1 << 32 | 2, "AF_INET with upper bits"),
    ] {
        let kind = if family == 16 || family == 17 { 3 } else { 1 };
        let made = call(libc::SYS_socket, [family, kind, 0, 0, 0, 0]).map(close);
        attempt(name, matches!(family, 2 | 16) || family > 1 << 31, made);
    }
    let mut parameters = [0u8; 120];
    let made = call(
        libc::SYS_io_uring_setup,
        [1, parameters.as_mut_ptr() as u64, 0, 0, 0, 0],
    )
    .map(close);
    attempt("io_uring_setup", true, made);
    // KEYCTL_GET_KEYRING_ID of the session keyring.
    attempt(
        "keyctl",
        true,
        call(libc::SYS_keyctl, [0, (-3i64) as u64, 0, 0, 0, 0]),
    );
    let peek = {
        let word = 7u64;
        let mut copy = 0u64;
        let local = [&raw mut copy as u64, 8];
        let remote = [&raw const word as u64, 8];
        call(
            libc::SYS_process_vm_readv,
            [
                std::process::id().into(),
                local.as_ptr() as u64,
                1,
                remote.as_ptr() as u64,
                1,
                0,
            ],
        )
    };
    attempt("process_vm_readv", true, peek);
    let child = super::sys::fork().expect("a child");
    let Some(child) = child else {
        // PTRACE_TRACEME: the child alone becomes traceable, and ends at once.
        let traced = call(libc::SYS_ptrace, [0, 0, 0, 0, 0, 0]);
        super::sys::exit(i32::from(traced.is_err()));
    };
    let status = super::sys::wait(child);
    attempt(
        "ptrace",
        true,
        if status == 0 {
            Ok(0)
        } else {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        },
    );
    let perf = {
        let mut event = [0u8; 128];
        event[0] = 1;
        event[4] = 128;
        event[40] = 0x61;
        call(
            libc::SYS_perf_event_open,
            [event.as_ptr() as u64, 0, ANY, ANY, 0, 0],
        )
        .map(close)
    };
    attempt("perf_event_open", false, perf);
    attempt("bpf", false, call(libc::SYS_bpf, [0, 0, 0, 0, 0, 0]));
    attempt(
        "userfaultfd",
        false,
        call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]).map(close),
    );
    // In children, so that success would change nothing here.
    for (name, flags) in [
        ("unshare user", libc::CLONE_NEWUSER),
        ("unshare mount", libc::CLONE_NEWNS | libc::CLONE_NEWUSER),
        ("unshare network", libc::CLONE_NEWNET | libc::CLONE_NEWUSER),
    ] {
        attempt(
            name,
            true,
            in_child(|| call(libc::SYS_unshare, [flags as u64, 0, 0, 0, 0, 0])),
        );
    }
    attempt(
        "clone with a namespace",
        true,
        in_child(|| {
            let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as u64;
            match call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) {
                Ok(0) => super::sys::exit(0),
                other => other,
            }
        }),
    );
    let mut arguments = [0u64; 11];
    arguments[4] = libc::SIGCHLD as u64;
    attempt(
        "clone3",
        true,
        in_child(|| {
            match call(
                libc::SYS_clone3,
                [arguments.as_ptr() as u64, 88, 0, 0, 0, 0],
            ) {
                Ok(0) => super::sys::exit(0),
                other => other,
            }
        }),
    );
    // Outside, only in namespaces of a child's own, and never without: a mount must not be seen by anybody else.
    let inside = is_inside();
    let mount = in_child(|| {
        let own = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
        let alone = call(libc::SYS_unshare, [own, 0, 0, 0, 0, 0]);
        if !inside {
            alone?;
        }
        let path = c"/proc".as_ptr() as u64;
        call(libc::SYS_mount, [path, path, 0, libc::MS_BIND, 0, 0])
    });
    attempt("mount", true, mount);
    for (name, number) in [
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("chroot", libc::SYS_chroot),
        ("fsopen", libc::SYS_fsopen),
        ("open_tree", libc::SYS_open_tree),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("setns", libc::SYS_setns),
        ("reboot", libc::SYS_reboot),
        ("kexec_load", libc::SYS_kexec_load),
        ("init_module", libc::SYS_init_module),
        ("swapon", libc::SYS_swapon),
        ("acct", libc::SYS_acct),
        ("syslog", libc::SYS_syslog),
        ("settimeofday", libc::SYS_settimeofday),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("request_key", libc::SYS_request_key),
        ("vmsplice", libc::SYS_vmsplice),
    ] {
        // Arguments that do nothing even where the call is allowed; the refusal must come before they are looked at.
        if is_inside() {
            attempt(name, false, call(number, [ANY, 0, 0, 0, 0, 0]));
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        let pid = super::sys::getpid_by_32_bit_call();
        attempt(
            "32-bit call",
            true,
            if pid > 0 {
                Ok(pid)
            } else {
                Err(io::Error::from_raw_os_error(-pid as i32))
            },
        );
        attempt(
            "x32 call",
            false,
            call(0x4000_0000 + libc::SYS_getpid, [0; 6]),
        );
    }
    attempt("unknown call", false, call(467, [0; 6]));
    let socket = super::sys::call(libc::SYS_socket, [1, 1, 0, 0, 0, 0]).expect("a Unix socket");
    let mut interfaces = [0u64; 2];
    // SIOCGIFCONF lists the network's interfaces.
    attempt(
        "SIOCGIFCONF",
        true,
        call(
            libc::SYS_ioctl,
            [
                socket as u64,
                0x8912,
                interfaces.as_mut_ptr() as u64,
                0,
                0,
                0,
            ],
        ),
    );
    close(socket);
    attempts
}

/// In the program inside: prints each attempt and its outcome.
pub(crate) fn print() {
    for attempt in attempts() {
        match attempt.result {
            Ok(()) => println!("{}: OPEN", attempt.name),
            Err(error) => println!("{}: {}", attempt.name, error.raw_os_error().unwrap_or(-1)),
        }
    }
}

const ANY: u64 = u64::MAX;

fn is_inside() -> bool {
    std::env::args().next().as_deref() == Some("/init")
}

fn close(fd: i64) -> i64 {
    drop(super::sys::own(fd));
    fd
}

fn in_child(attempt: impl FnOnce() -> io::Result<i64>) -> io::Result<i64> {
    match super::sys::fork()? {
        None => super::sys::exit(
            attempt().map_or_else(|error| error.raw_os_error().unwrap_or(255), |_| 0),
        ),
        Some(child) => match super::sys::wait(child) >> 8 & 0xFF {
            0 => Ok(0),
            errno => Err(io::Error::from_raw_os_error(errno)),
        },
    }
}
