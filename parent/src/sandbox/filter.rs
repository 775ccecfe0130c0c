//! The seccomp filter around the whole enclave: which system calls the supervisor answers, which are closed, which pass.
//!
//! It decides by the call's number and by register arguments alone, which no other thread can change; it never looks at
//! memory. It must never let a call pass that makes a socket of another family than Unix (and TCP over IPv4, for an enclave
//! that has a loopback interface and nothing else in its network) or that leaves the sandbox's namespaces. The runtime inside may stack stricter filters of its own on top (for the job), and none can loosen this one.
#![expect(
    clippy::cast_sign_loss,
    reason = "the kernel takes the same bits for signed and for unsigned numbers"
)]

use libc::{c_long, sock_filter};

/// Numbers of calls above this one were not known when the lists below were reviewed (`removexattrat`, Linux 6.13); a newer
/// kernel's calls are refused as if the kernel did not have them. (Numbers from 424 up are the same on every architecture.)
const LAST_REVIEWED: u32 = 466;

/// The request of the NSM driver, `_IOWR(0x0A, 0, struct { iovec, iovec })`.
pub(crate) const NSM_REQUEST: u32 = 0xC020_0A00;
/// `IOCTL_VM_SOCKETS_GET_LOCAL_CID` of `linux/vm_sockets.h`.
pub(crate) const LOCAL_CID_REQUEST: u32 = 0x7b9;
/// The level of vsock's socket options.
pub(crate) const VSOCK_LEVEL: u32 = libc::AF_VSOCK as u32;
/// `SO_RCVTIMEO` in its two encodings. The supervisor sets it, so that no listening socket can ever make it wait.
pub(crate) const RECEIVE_TIMEOUTS: [u32; 2] = [20, 66];
/// `SO_DOMAIN`: a vsock socket of ours says 40, not 1.
pub(crate) const SO_DOMAIN: u32 = 39;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// What differs from one enclave to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterOptions {
    /// No cgroup limits the processors, so that the enclave may not choose others than it was given.
    pub(crate) processors_fixed: bool,
    /// Sockets made by the enclave itself (Unix) are allowed. Not where neither a network namespace nor Landlock keeps
    /// abstract names of the host out of reach; pairs always are.
    pub(crate) own_unix_sockets: bool,
    /// The enclave's network namespace has a loopback interface, and its job may listen there.
    pub(crate) loopback: bool,
}

/// Calls that no enclave makes: (number, error, who would need it and why it is closed).
const CLOSED: &[(c_long, i32, &str)] = &[
    // Ways past this filter.
    (
        libc::SYS_io_uring_setup,
        libc::ENOSYS,
        "makes sockets and opens files without passing the filter",
    ),
    (libc::SYS_io_uring_enter, libc::ENOSYS, "as above"),
    (libc::SYS_io_uring_register, libc::ENOSYS, "as above"),
    (
        libc::SYS_clone3,
        libc::ENOSYS,
        "its flags lie in memory; the C library then uses clone, whose flags are seen",
    ),
    // Other processes' memory and descriptors: a job must not reach the runtime.
    (
        libc::SYS_ptrace,
        libc::EPERM,
        "reads and changes other processes",
    ),
    (
        libc::SYS_process_vm_readv,
        libc::EPERM,
        "reads other processes",
    ),
    (
        libc::SYS_process_vm_writev,
        libc::EPERM,
        "changes other processes",
    ),
    (
        libc::SYS_process_madvise,
        libc::EPERM,
        "acts on other processes' memory",
    ),
    (
        libc::SYS_kcmp,
        libc::EPERM,
        "compares other processes' kernel objects",
    ),
    (
        libc::SYS_pidfd_getfd,
        libc::EPERM,
        "takes other processes' descriptors",
    ),
    // Namespaces and mounts: the sandbox is finished before the enclave's first instruction.
    (
        libc::SYS_unshare,
        libc::EPERM,
        "new namespaces give capabilities and kernel surface",
    ),
    (libc::SYS_setns, libc::EPERM, "enters other namespaces"),
    (libc::SYS_mount, libc::EPERM, "changes what is visible"),
    (
        libc::SYS_umount2,
        libc::EPERM,
        "uncovers what lies below a mount",
    ),
    (libc::SYS_pivot_root, libc::EPERM, "changes the root"),
    (
        libc::SYS_chroot,
        libc::EPERM,
        "changes the root; the classic way out of one",
    ),
    (libc::SYS_open_tree, libc::EPERM, "mount call"),
    (OPEN_TREE_ATTR, libc::EPERM, "mount call"),
    (libc::SYS_move_mount, libc::EPERM, "mount call"),
    (libc::SYS_fsopen, libc::EPERM, "mount call"),
    (libc::SYS_fsconfig, libc::EPERM, "mount call"),
    (libc::SYS_fsmount, libc::EPERM, "mount call"),
    (libc::SYS_fspick, libc::EPERM, "mount call"),
    (
        libc::SYS_mount_setattr,
        libc::EPERM,
        "would make the root writable again",
    ),
    (
        libc::SYS_name_to_handle_at,
        libc::EPERM,
        "first half of the next",
    ),
    (
        libc::SYS_open_by_handle_at,
        libc::EPERM,
        "opens files by number, past every directory",
    ),
    (libc::SYS_swapon, libc::EPERM, "system administration"),
    (libc::SYS_swapoff, libc::EPERM, "system administration"),
    (libc::SYS_quotactl, libc::EPERM, "system administration"),
    (QUOTACTL_FD, libc::EPERM, "system administration"),
    // Kernel objects of the host that no namespace divides, and large attack surface.
    (
        libc::SYS_keyctl,
        libc::EPERM,
        "key rings are shared with the host's user",
    ),
    (libc::SYS_add_key, libc::EPERM, "as above"),
    (
        libc::SYS_request_key,
        libc::EPERM,
        "as above, and starts programs of the host",
    ),
    (libc::SYS_bpf, libc::EPERM, "programs in the kernel"),
    (
        libc::SYS_perf_event_open,
        libc::EPERM,
        "measures other processes and the kernel",
    ),
    (
        libc::SYS_userfaultfd,
        libc::EPERM,
        "stops the kernel in the middle of a copy; exploits like it",
    ),
    (libc::SYS_fanotify_init, libc::EPERM, "watches file systems"),
    (libc::SYS_lookup_dcookie, libc::EPERM, "profiling"),
    (libc::SYS_syslog, libc::EPERM, "the host kernel's log"),
    (libc::SYS_acct, libc::EPERM, "process accounting"),
    (libc::SYS_vhangup, libc::EPERM, "terminals of the host"),
    (
        libc::SYS_vmsplice,
        libc::EPERM,
        "gives pages to pipes; needed by nobody here, used by exploits",
    ),
    (
        libc::SYS_move_pages,
        libc::EPERM,
        "acts on other processes' memory",
    ),
    (
        libc::SYS_migrate_pages,
        libc::EPERM,
        "acts on other processes' memory",
    ),
    // The machine itself.
    (
        libc::SYS_reboot,
        libc::EPERM,
        "an enclave's init that cannot reboot exits, which ends the enclave",
    ),
    (libc::SYS_kexec_load, libc::EPERM, "replaces the kernel"),
    (
        libc::SYS_kexec_file_load,
        libc::EPERM,
        "replaces the kernel",
    ),
    (libc::SYS_init_module, libc::EPERM, "changes the kernel"),
    (libc::SYS_finit_module, libc::EPERM, "changes the kernel"),
    (libc::SYS_delete_module, libc::EPERM, "changes the kernel"),
    (libc::SYS_settimeofday, libc::EPERM, "the host's clock"),
    (libc::SYS_clock_settime, libc::EPERM, "the host's clock"),
    (libc::SYS_adjtimex, libc::EPERM, "the host's clock"),
    (libc::SYS_clock_adjtime, libc::EPERM, "the host's clock"),
    (libc::SYS_nfsservctl, libc::ENOSYS, "removed from Linux"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, libc::EPERM, "hardware ports"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, libc::EPERM, "hardware ports"),
    #[cfg(target_arch = "x86_64")]
    (
        libc::SYS_modify_ldt,
        libc::EPERM,
        "16-bit segments; kernel surface",
    ),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_uselib, libc::ENOSYS, "removed from Linux"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ustat, libc::ENOSYS, "obsolete"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_sysfs, libc::ENOSYS, "obsolete"),
];

/// `open_tree_attr` (467, Linux 6.15) lies above what was reviewed; named so that raising the bound does not open it.
const OPEN_TREE_ATTR: c_long = 467;
/// `quotactl_fd`, which the libc crate does not name on every target.
const QUOTACTL_FD: c_long = 443;

/// Socket calls that are answered by the supervisor, or let through by it where the socket is the enclave's own Unix socket.
const ANSWERED: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Builds the filter.
pub(crate) fn filter(options: FilterOptions) -> Vec<sock_filter> {
    let mut program = Program(Vec::new());
    // Another architecture's calls (32-bit ones on x86-64) have other numbers and would pass unseen.
    program.load(OFFSET_OF_ARCHITECTURE);
    program.unless_equal(ARCHITECTURE, &[ret_error(libc::ENOSYS)]);
    program.load(OFFSET_OF_NUMBER);
    // Also everything with the x32 bit (0x4000_0000), and -1, which seccomp hands on for a skipped call.
    program.if_above(LAST_REVIEWED, &[ret_error(libc::ENOSYS)]);

    for (number, error, _) in CLOSED {
        program.on(*number, &[ret_error(*error)]);
    }
    if options.processors_fixed {
        program.on(libc::SYS_sched_setaffinity, &[ret_error(libc::EPERM)]);
    }
    for number in ANSWERED {
        program.on(*number, &[NOTIFY]);
    }

    let mut socket = vec![load_argument(0)];
    if options.own_unix_sockets {
        socket.extend(if_equal(libc::AF_UNIX as u32, ALLOW));
    }
    socket.extend(if_equal(libc::AF_VSOCK as u32, NOTIFY));
    if options.loopback {
        socket.extend(tcp_over_ipv4());
    }
    socket.push(ret_error(libc::EAFNOSUPPORT));
    program.on(libc::SYS_socket, &socket);

    let mut pair = vec![load_argument(0)];
    pair.extend(if_equal(libc::AF_UNIX as u32, ALLOW));
    pair.push(ret_error(libc::EAFNOSUPPORT));
    program.on(libc::SYS_socketpair, &pair);

    let mut set_option = vec![load_argument(1)];
    if options.loopback {
        // TCP_ULP puts other protocols of the kernel (TLS, MPTCP) into a socket.
        let mut tcp = vec![load_argument(2)];
        tcp.extend(if_equal(libc::TCP_ULP as u32, ret_error(libc::ENOPROTOOPT)));
        tcp.push(ALLOW);
        let mut jump = instruction(JUMP_EQUAL, libc::IPPROTO_TCP as u32);
        jump.jf = tcp.len() as u8;
        set_option.push(jump);
        set_option.extend(tcp);
    }
    set_option.extend(if_equal(VSOCK_LEVEL, NOTIFY));
    set_option.extend(unless_equal_allow(libc::SOL_SOCKET as u32));
    set_option.push(load_argument(2));
    for timeout in RECEIVE_TIMEOUTS {
        set_option.extend(if_equal(timeout, NOTIFY));
    }
    // SO_PASSPIDFD would attach a descriptor of the supervisor's process to what it sends.
    set_option.extend(if_equal(76, ret_error(libc::ENOPROTOOPT)));
    set_option.push(ALLOW);
    program.on(libc::SYS_setsockopt, &set_option);

    let mut option = vec![load_argument(1)];
    option.extend(if_equal(VSOCK_LEVEL, NOTIFY));
    option.extend(unless_equal_allow(libc::SOL_SOCKET as u32));
    option.push(load_argument(2));
    option.extend(if_equal(SO_DOMAIN, NOTIFY));
    // SO_PEERPIDFD would give a descriptor of the supervisor's process.
    option.extend(if_equal(77, ret_error(libc::ENOPROTOOPT)));
    option.push(ALLOW);
    program.on(libc::SYS_getsockopt, &option);

    let mut control = vec![load_argument(1)];
    control.extend(if_equal(NSM_REQUEST, NOTIFY));
    control.extend(if_equal(LOCAL_CID_REQUEST, NOTIFY));
    // Typing into a terminal, and the console's selection: ways from a shared terminal to its owner.
    control.extend(if_equal(libc::TIOCSTI as u32, ret_error(libc::EPERM)));
    control.extend(if_equal(libc::TIOCLINUX as u32, ret_error(libc::EPERM)));
    // 0x89xx: network interfaces, and SIOCUNIXFILE, which opens the host's file that a Unix socket is bound to.
    control.push(and(0xFFFF_FF00));
    control.extend(if_equal(0x8900, ret_error(libc::ENOTTY)));
    control.push(ALLOW);
    program.on(libc::SYS_ioctl, &control);

    // Threads and processes, but no new namespaces.
    let mut clone = vec![load_argument(0), and(NEW_NAMESPACES)];
    clone.extend(if_equal(0, ALLOW));
    clone.push(ret_error(libc::EPERM));
    program.on(libc::SYS_clone, &clone);

    // The usual execution domain and the question which it is; others weaken address randomization.
    let mut personality = vec![load_argument(0)];
    personality.extend(if_equal(0, ALLOW));
    personality.extend(if_equal(u32::MAX, ALLOW));
    personality.push(ret_error(libc::EPERM));
    program.on(libc::SYS_personality, &personality);

    program.0.push(ALLOW);
    program.0
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const ALLOW: sock_filter = instruction(RETURN, libc::SECCOMP_RET_ALLOW);
const NOTIFY: sock_filter = instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF);

/// Offsets in `struct seccomp_data`.
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_ARCHITECTURE: u32 = 4;

const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn ret_error(errno: i32) -> sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32)
}

const fn and(mask: u32) -> sock_filter {
    instruction(AND, mask)
}

/// Loads the lower half of an argument. The kernel too takes only that half of every argument that this filter looks at
/// (they are ints there, and flags in the lower half), so that the upper one can hide nothing.
const fn load_argument(index: u32) -> sock_filter {
    let lower = if cfg!(target_endian = "little") { 0 } else { 4 };
    instruction(LOAD, 16 + index * 8 + lower)
}

fn if_equal(value: u32, then: sock_filter) -> [sock_filter; 2] {
    let mut jump = instruction(JUMP_EQUAL, value);
    jump.jf = 1;
    [jump, then]
}

/// With the family loaded: what allows `socket(AF_INET, SOCK_STREAM…, 0 or IPPROTO_TCP)`, and goes on else.
fn tcp_over_ipv4() -> Vec<sock_filter> {
    let unless = |value: u32, over: u8| {
        let mut jump = instruction(JUMP_EQUAL, value);
        jump.jf = over;
        jump
    };
    let mut is_plain = instruction(JUMP_EQUAL, 0);
    is_plain.jt = 1;
    vec![
        unless(libc::AF_INET as u32, 7),
        load_argument(1),
        and(0xF),
        unless(libc::SOCK_STREAM as u32, 4),
        load_argument(2),
        is_plain,
        unless(libc::IPPROTO_TCP as u32, 1),
        ALLOW,
    ]
}

fn unless_equal_allow(value: u32) -> [sock_filter; 2] {
    let mut jump = instruction(JUMP_EQUAL, value);
    jump.jt = 1;
    [jump, ALLOW]
}

/// A filter under construction. Between rules, the accumulator holds the call's number.
struct Program(Vec<sock_filter>);

impl Program {
    fn load(&mut self, offset: u32) {
        self.0.push(instruction(LOAD, offset));
    }

    /// A rule for one call; `body` must end the filter on every way through it.
    fn on(&mut self, number: c_long, body: &[sock_filter]) {
        let mut jump = instruction(JUMP_EQUAL, number as u32);
        jump.jf = u8::try_from(body.len()).expect("rules are shorter than 256 instructions");
        self.0.push(jump);
        self.0.extend_from_slice(body);
    }

    fn unless_equal(&mut self, value: u32, body: &[sock_filter]) {
        let mut jump = instruction(JUMP_EQUAL, value);
        jump.jt = u8::try_from(body.len()).expect("rules are shorter than 256 instructions");
        self.0.push(jump);
        self.0.extend_from_slice(body);
    }

    fn if_above(&mut self, value: u32, body: &[sock_filter]) {
        let mut jump = instruction(JUMP_ABOVE, value);
        jump.jf = u8::try_from(body.len()).expect("rules are shorter than 256 instructions");
        self.0.push(jump);
        self.0.extend_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: FilterOptions = FilterOptions {
        processors_fixed: true,
        own_unix_sockets: true,
        loopback: false,
    };

    /// Runs a filter as the kernel would.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        for argument in arguments {
            data.extend(argument.to_ne_bytes());
        }
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let now = program[at];
            at += 1;
            match now.code {
                LOAD => {
                    let offset = now.k as usize;
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                AND => accumulator &= now.k,
                JUMP_EQUAL => at += usize::from(if accumulator == now.k { now.jt } else { now.jf }),
                JUMP_ABOVE => at += usize::from(if accumulator > now.k { now.jt } else { now.jf }),
                RETURN => return now.k,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    fn verdict(number: c_long, arguments: [u64; 6]) -> u32 {
        run(&filter(OPTIONS), ARCHITECTURE, number as u32, arguments)
    }

    fn error(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    #[test]
    fn only_vsock_sockets_are_answered_and_only_unix_sockets_pass() {
        for family in 0..=64u64 {
            let expected = match family as i32 {
                libc::AF_UNIX => libc::SECCOMP_RET_ALLOW,
                libc::AF_VSOCK => libc::SECCOMP_RET_USER_NOTIF,
                _ => error(libc::EAFNOSUPPORT),
            };
            assert_eq!(
                verdict(libc::SYS_socket, [family, 1, 0, 0, 0, 0]),
                expected,
                "family {family}"
            );
        }
    }

    #[test]
    fn with_a_loopback_interface_tcp_over_ipv4_passes_too_and_nothing_else() {
        let program = filter(FilterOptions {
            loopback: true,
            ..OPTIONS
        });
        let run = |number: c_long, arguments: [u64; 3]| {
            let [first, second, third] = arguments;
            let arguments = [first, second, third, 0, 0, 0];
            run(&program, ARCHITECTURE, number as u32, arguments)
        };
        let socket = |family: i32, kind: i32, protocol: i32| {
            run(
                libc::SYS_socket,
                [family as u64, kind as u64, protocol as u64],
            )
        };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        for family in 0..=64 {
            for kind in 0..16 {
                for protocol in [0, 6, 17, 132, 256, 262] {
                    let expected = match family {
                        libc::AF_UNIX => libc::SECCOMP_RET_ALLOW,
                        libc::AF_VSOCK => libc::SECCOMP_RET_USER_NOTIF,
                        libc::AF_INET if kind == 1 && matches!(protocol, 0 | 6) => {
                            libc::SECCOMP_RET_ALLOW
                        }
                        _ => error(libc::EAFNOSUPPORT),
                    };
                    let found = socket(family, kind | flags, protocol);
                    assert_eq!(found, expected, "{family} {kind} {protocol}");
                }
            }
        }
        let option =
            |level: i32, option: i32| run(libc::SYS_setsockopt, [3, level as u64, option as u64]);
        assert_eq!(option(6, libc::TCP_ULP), error(libc::ENOPROTOOPT));
        assert_eq!(option(6, libc::TCP_NODELAY), libc::SECCOMP_RET_ALLOW);
        assert_eq!(option(40, 0), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(option(1, 20), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(option(1, 76), error(libc::ENOPROTOOPT));
    }

    #[test]
    fn the_upper_half_of_the_family_hides_nothing() {
        let inet = 0xFFFF_FFFF_0000_0000 | libc::AF_INET as u64;
        assert_eq!(
            verdict(libc::SYS_socket, [inet, 1, 0, 0, 0, 0]),
            error(libc::EAFNOSUPPORT)
        );
    }

    #[test]
    fn unix_sockets_can_be_closed_while_pairs_stay() {
        let program = filter(FilterOptions {
            own_unix_sockets: false,
            ..OPTIONS
        });
        let unix = [libc::AF_UNIX as u64, 1, 0, 0, 0, 0];
        let run = |number: c_long| run(&program, ARCHITECTURE, number as u32, unix);
        assert_eq!(run(libc::SYS_socket), error(libc::EAFNOSUPPORT));
        assert_eq!(run(libc::SYS_socketpair), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn every_closed_call_is_refused_and_the_usual_ones_pass() {
        for (number, errno, why) in CLOSED {
            let expected = if *number as u32 > LAST_REVIEWED {
                libc::ENOSYS
            } else {
                *errno
            };
            assert_eq!(verdict(*number, [0; 6]), error(expected), "{number}: {why}");
        }
        for number in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_seccomp,
            libc::SYS_futex,
            libc::SYS_sendmsg,
            libc::SYS_epoll_pwait,
        ] {
            assert_eq!(verdict(number, [0; 6]), libc::SECCOMP_RET_ALLOW, "{number}");
        }
    }

    #[test]
    fn other_architectures_and_unknown_calls_are_refused() {
        let program = filter(OPTIONS);
        for architecture in [0x4000_0003, 0, 0x4000_0028] {
            assert_eq!(
                run(&program, architecture, libc::SYS_read as u32, [0; 6]),
                error(libc::ENOSYS)
            );
        }
        for number in [0x4000_0000, 0x4000_0029, u32::MAX, LAST_REVIEWED + 1] {
            assert_eq!(
                run(&program, ARCHITECTURE, number, [0; 6]),
                error(libc::ENOSYS)
            );
        }
    }

    #[test]
    fn clone_makes_threads_but_no_namespaces() {
        let threads = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
        assert_eq!(
            verdict(libc::SYS_clone, [threads, 0, 0, 0, 0, 0]),
            libc::SECCOMP_RET_ALLOW
        );
        for bit in 0..32 {
            let flag = 1u32 << bit;
            if flag & NEW_NAMESPACES != 0 {
                assert_eq!(
                    verdict(libc::SYS_clone, [flag.into(), 0, 0, 0, 0, 0]),
                    error(libc::EPERM)
                );
            }
        }
    }

    #[test]
    fn ioctls_of_network_interfaces_are_refused_and_the_two_devices_are_answered() {
        let ioctl = |request: u32| verdict(libc::SYS_ioctl, [3, request.into(), 0, 0, 0, 0]);
        assert_eq!(ioctl(NSM_REQUEST), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(ioctl(LOCAL_CID_REQUEST), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(ioctl(0x8912), error(libc::ENOTTY));
        assert_eq!(ioctl(0x89E0), error(libc::ENOTTY));
        assert_eq!(ioctl(libc::TIOCSTI as u32), error(libc::EPERM));
        assert_eq!(ioctl(libc::FIONBIO as u32), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn socket_options_of_vsock_and_receive_timeouts_are_answered() {
        let set =
            |level: u64, option: u64| verdict(libc::SYS_setsockopt, [3, level, option, 0, 0, 0]);
        let ask =
            |level: u64, option: u64| verdict(libc::SYS_getsockopt, [3, level, option, 0, 0, 0]);
        assert_eq!(set(40, 0), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(set(1, 20), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(set(1, 66), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(set(1, 76), error(libc::ENOPROTOOPT));
        assert_eq!(set(1, 21), libc::SECCOMP_RET_ALLOW);
        assert_eq!(ask(40, 0), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(ask(1, 39), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(ask(1, 77), error(libc::ENOPROTOOPT));
        assert_eq!(ask(1, 4), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut numbers: Vec<c_long> = CLOSED.iter().map(|(number, ..)| *number).collect();
        numbers.extend(ANSWERED);
        let listed = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), listed);
    }
}
