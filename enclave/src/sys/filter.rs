//! The seccomp filter of a job: which system calls it may not make, and why, as classic BPF.
//!
//! It is a deny list, because jobs come in any language and runtimes differ widely in what they call; uid, capabilities,
//! Landlock and the enclave's own wall stand behind it. It must never allow a call on the strength of memory that the
//! job can change: only numbers in registers are looked at, and of 32-bit arguments only the 32 bits the kernel reads.
//!
//! Layout of what a filter sees: `struct seccomp_data` in linux/seccomp.h (number, architecture, instruction pointer,
//! six 64-bit arguments).

use libc::{
    EPERM, SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bpf, SYS_chroot, SYS_clock_adjtime,
    SYS_clock_settime, SYS_clone, SYS_clone3, SYS_delete_module, SYS_fanotify_init,
    SYS_finit_module, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick, SYS_init_module,
    SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_ioctl, SYS_kcmp,
    SYS_kexec_file_load, SYS_kexec_load, SYS_keyctl, SYS_kill, SYS_lookup_dcookie,
    SYS_migrate_pages, SYS_mount, SYS_mount_setattr, SYS_move_mount, SYS_move_pages,
    SYS_name_to_handle_at, SYS_nfsservctl, SYS_open_by_handle_at, SYS_open_tree,
    SYS_perf_event_open, SYS_personality, SYS_pidfd_getfd, SYS_pidfd_open, SYS_pivot_root,
    SYS_prlimit64, SYS_process_madvise, SYS_process_mrelease, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_ptrace, SYS_quotactl, SYS_quotactl_fd, SYS_reboot, SYS_request_key,
    SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_setdomainname, SYS_sethostname, SYS_setns,
    SYS_setpgid, SYS_setsid, SYS_settimeofday, SYS_socket, SYS_socketpair, SYS_swapoff, SYS_swapon,
    SYS_syslog, SYS_tgkill, SYS_umount2, SYS_unshare, SYS_userfaultfd, SYS_vhangup, c_long,
    sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7; // AUDIT_ARCH_AARCH64
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the job's filter is written for x86-64 and arm64");

/// Numbers from here on are the x32 ABI, by which every call has a second number.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// The NSM driver's only ioctl (facts of linux/nsm.h): `_IOWR(0x0A, 0, 32 bytes)`.
const NSM_IOCTL: u32 = 0xC020_0A00;
/// Pushes input into a terminal (asm-generic/ioctls.h).
const TIOCSTI: u32 = 0x5412;
/// Console functions, among them pasting input (asm-generic/ioctls.h).
const TIOCLINUX: u32 = 0x541C;
/// Every `CLONE_NEW…` flag that fits clone's 32 bits: cgroup, mount, uts, ipc, user, pid, net.
const NEW_NAMESPACES: u32 = 0x7E02_0000;
/// `personality(0xffffffff)` only asks.
const PERSONALITY_QUERY: u32 = 0xFFFF_FFFF;
/// Init: signals to it, and its limits, are not the job's business.
const INIT: u32 = 1;
/// The low bits of a socket's type; the others are flags (linux/net.h).
const SOCK_TYPE_MASK: u32 = 0xF;
/// `kill(-1)`: everyone.
const EVERYONE: u32 = 0xFFFF_FFFF;

/// When a rule refuses its call. Arguments are numbered from 0 and read as 32 bits, as these calls' parameters are int.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// Whatever its arguments.
    Always,
    /// If the argument is one of these.
    Is(u32, &'static [u32]),
    /// If the argument is the pid of the runtime, or one of these.
    IsRuntimeOr(u32, &'static [u32]),
    /// Unless the argument is one of these.
    IsNot(u32, &'static [u32]),
    /// If the argument has any of these bits.
    Has(u32, u32),
    /// Unless it makes a Unix socket, or, where jobs listen on the loopback interface, one of TCP over IPv4: other protocols
    /// over streams (SCTP, MPTCP, SMC) are not fenced in by Landlock.
    IsNoSocketOfJobs,
}

/// One call that jobs are refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) call: c_long,
    pub(crate) when: When,
    pub(crate) errno: i32,
}

const fn deny(call: c_long) -> Rule {
    Rule {
        call,
        when: When::Always,
        errno: EPERM,
    }
}

const fn deny_when(call: c_long, when: When) -> Rule {
    Rule {
        call,
        when,
        errno: EPERM,
    }
}

/// What jobs may not call. One rule for each call at most (a test says so).
pub(crate) const RULES: &[Rule] = &[
    // The network and vsock: the runtime alone speaks to the outside. AF_UNIX stays: many runtimes need socketpairs.
    deny_when(SYS_socket, When::IsNoSocketOfJobs),
    deny_when(SYS_socketpair, When::IsNot(0, &[libc::AF_UNIX as u32])),
    // The NSM: a job that could attest could speak for the enclave. Terminals: nothing is typed into the console.
    deny_when(SYS_ioctl, When::Is(1, &[NSM_IOCTL, TIOCSTI, TIOCLINUX])),
    // Makes sockets and files past this filter.
    deny(SYS_io_uring_setup),
    deny(SYS_io_uring_enter),
    deny(SYS_io_uring_register),
    // Other processes' memory and descriptors: the runtime holds the keys.
    deny(SYS_ptrace),
    deny(SYS_process_vm_readv),
    deny(SYS_process_vm_writev),
    deny(SYS_process_madvise),
    deny(SYS_process_mrelease),
    deny(SYS_pidfd_getfd),
    deny(SYS_kcmp),
    deny(SYS_move_pages),
    deny(SYS_migrate_pages),
    // The runtime, where the job shares its uid because no other one is mapped: no signals to it or to everyone at once,
    // no handle on it, and no limits of another process.
    deny_when(SYS_kill, When::IsRuntimeOr(0, &[INIT, EVERYONE])),
    deny_when(SYS_tgkill, When::IsRuntimeOr(0, &[INIT])),
    deny_when(SYS_rt_sigqueueinfo, When::IsRuntimeOr(0, &[INIT, EVERYONE])),
    deny_when(SYS_rt_tgsigqueueinfo, When::IsRuntimeOr(0, &[INIT])),
    deny_when(SYS_pidfd_open, When::IsRuntimeOr(0, &[INIT])),
    deny_when(SYS_prlimit64, When::IsNot(0, &[0])),
    // A job stays in the session and process group it was born in, so that ending the group ends all of it.
    deny(SYS_setsid),
    deny(SYS_setpgid),
    // Namespaces bring capabilities inside them, and with those large parts of the kernel.
    deny(SYS_unshare),
    deny(SYS_setns),
    deny_when(SYS_clone, When::Has(0, NEW_NAMESPACES)),
    // Its flags lie in memory, where no filter can judge them. ENOSYS makes libraries fall back to clone.
    Rule {
        call: SYS_clone3,
        when: When::Always,
        errno: libc::ENOSYS,
    },
    // The tree of files is as the image made it.
    deny(SYS_mount),
    deny(SYS_umount2),
    deny(SYS_pivot_root),
    deny(SYS_chroot),
    deny(SYS_fsopen),
    deny(SYS_fspick),
    deny(SYS_fsconfig),
    deny(SYS_fsmount),
    deny(SYS_move_mount),
    deny(SYS_open_tree),
    deny(SYS_mount_setattr),
    deny(SYS_quotactl),
    deny(SYS_quotactl_fd),
    deny(SYS_fanotify_init),
    // Opens files by inode, past every path rule.
    deny(SYS_name_to_handle_at),
    deny(SYS_open_by_handle_at),
    // Kernel keyrings: not bound to a process, and shared by uid.
    deny(SYS_keyctl),
    deny(SYS_add_key),
    deny(SYS_request_key),
    // Programs in the kernel, and ways to time or stall it: the usual first step of an exploit.
    deny(SYS_bpf),
    deny(SYS_perf_event_open),
    deny(SYS_userfaultfd),
    // The machine itself.
    deny(SYS_init_module),
    deny(SYS_finit_module),
    deny(SYS_delete_module),
    deny(SYS_kexec_load),
    deny(SYS_kexec_file_load),
    deny(SYS_reboot),
    deny(SYS_swapon),
    deny(SYS_swapoff),
    deny(SYS_acct),
    deny(SYS_syslog),
    deny(SYS_vhangup),
    deny(SYS_sethostname),
    deny(SYS_setdomainname),
    deny(SYS_settimeofday),
    deny(SYS_clock_settime),
    deny(SYS_clock_adjtime),
    deny(SYS_adjtimex),
    // Turns off randomised addresses, among other things. Asking is harmless, and some runtimes do.
    deny_when(SYS_personality, When::IsNot(0, &[PERSONALITY_QUERY])),
    // Long dead, and therefore little tested.
    deny(SYS_lookup_dcookie),
    deny(SYS_nfsservctl),
    #[cfg(target_arch = "x86_64")]
    deny(libc::SYS_uselib),
    #[cfg(target_arch = "x86_64")]
    deny(libc::SYS_modify_ldt),
    #[cfg(target_arch = "x86_64")]
    deny(libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")]
    deny(libc::SYS_ioperm),
];

// Instructions of classic BPF (linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
#[cfg(target_arch = "x86_64")]
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Verdicts (linux/seccomp.h).
const ALLOW: u32 = 0x7FFF_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
/// Offset of an argument's low 32 bits (both architectures are little-endian).
const fn offset_argument(index: u32) -> u32 {
    16 + 8 * index
}

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The program that enforces [`RULES`]. `runtime` is the runtime's own pid: 1, unless there is no pid namespace. `loopback`:
/// jobs listen on a port of the loopback interface.
pub(crate) fn program(runtime: u32, loopback: bool) -> Vec<sock_filter> {
    let mut program = vec![
        statement(LOAD_WORD, OFFSET_ARCHITECTURE),
        // Another architecture's numbers mean other calls: end the process rather than misjudge it.
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        statement(RETURN, KILL_PROCESS),
        statement(LOAD_WORD, OFFSET_NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([
        jump(JUMP_AT_LEAST, X32_BIT, 0, 1),
        statement(RETURN, ERRNO | EPERM.unsigned_abs()),
    ]);
    for rule in RULES {
        let number = u32::try_from(rule.call).expect("system call numbers are small");
        let refuse = statement(RETURN, ERRNO | rule.errno.unsigned_abs());
        let body = match rule.when {
            When::Always => vec![refuse],
            When::Is(argument, values) => refuse_if_one_of(argument, values, refuse),
            When::IsRuntimeOr(argument, values) => {
                refuse_if_one_of(argument, &[values, &[runtime]].concat(), refuse)
            }
            When::IsNot(argument, values) => {
                let mut body = vec![statement(LOAD_WORD, offset_argument(argument))];
                for (index, &value) in values.iter().enumerate() {
                    let to_allowance = values.len() - index;
                    body.push(jump(
                        JUMP_EQUAL,
                        value,
                        u8::try_from(to_allowance).expect("few values"),
                        0,
                    ));
                }
                body.extend([refuse, statement(RETURN, ALLOW)]);
                body
            }
            When::Has(argument, bits) => vec![
                statement(LOAD_WORD, offset_argument(argument)),
                jump(JUMP_ANY_BIT, bits, 0, 1),
                refuse,
                statement(RETURN, ALLOW),
            ],
            When::IsNoSocketOfJobs => refuse_other_sockets(loopback, refuse),
        };
        program.push(jump(
            JUMP_EQUAL,
            number,
            0,
            u8::try_from(body.len()).expect("a rule is short"),
        ));
        program.extend(body);
    }
    program.push(statement(RETURN, ALLOW));
    program
}

fn refuse_other_sockets(loopback: bool, refuse: sock_filter) -> Vec<sock_filter> {
    let allow = statement(RETURN, ALLOW);
    let mut body = vec![
        statement(LOAD_WORD, offset_argument(0)),
        jump(JUMP_EQUAL, libc::AF_UNIX as u32, 0, 1),
        allow,
    ];
    if loopback {
        body.extend([
            jump(JUMP_EQUAL, libc::AF_INET as u32, 0, 7),
            statement(LOAD_WORD, offset_argument(1)),
            statement(AND, SOCK_TYPE_MASK),
            jump(JUMP_EQUAL, libc::SOCK_STREAM as u32, 0, 4),
            statement(LOAD_WORD, offset_argument(2)),
            jump(JUMP_EQUAL, libc::IPPROTO_IP as u32, 1, 0),
            jump(JUMP_EQUAL, libc::IPPROTO_TCP as u32, 0, 1),
            allow,
        ]);
    }
    body.push(refuse);
    body
}

fn refuse_if_one_of(argument: u32, values: &[u32], refuse: sock_filter) -> Vec<sock_filter> {
    let mut body = vec![statement(LOAD_WORD, offset_argument(argument))];
    for (index, &value) in values.iter().enumerate() {
        // Over the remaining comparisons and the ALLOW, to the refusal.
        let to_refusal = u8::try_from(values.len() - index).expect("few values");
        body.push(jump(JUMP_EQUAL, value, to_refusal, 0));
    }
    body.extend([statement(RETURN, ALLOW), refuse]);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const RUNTIME: u32 = 4711;

    /// Runs a filter as the kernel would.
    fn verdict(number: c_long, architecture: u32, arguments: [u64; 6]) -> u32 {
        verdict_of(&program(RUNTIME, false), number, architecture, arguments)
    }

    fn verdict_of(
        program: &[sock_filter],
        number: c_long,
        architecture: u32,
        arguments: [u64; 6],
    ) -> u32 {
        let mut data = Vec::new();
        data.extend(u32::try_from(number).expect("a number").to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        for argument in arguments {
            data.extend(argument.to_le_bytes());
        }
        let (mut counter, mut accumulator) = (0usize, 0u32);
        loop {
            let instruction = program[counter];
            counter += 1;
            let taken = match instruction.code {
                LOAD_WORD => {
                    let at = instruction.k as usize;
                    accumulator =
                        u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"));
                    continue;
                }
                RETURN => return instruction.k,
                AND => {
                    accumulator &= instruction.k;
                    continue;
                }
                JUMP_EQUAL => accumulator == instruction.k,
                JUMP_AT_LEAST => accumulator >= instruction.k,
                JUMP_ANY_BIT => accumulator & instruction.k != 0,
                code => panic!("unknown instruction {code:#x}"),
            };
            counter += usize::from(if taken {
                instruction.jt
            } else {
                instruction.jf
            });
        }
    }

    const REFUSED: u32 = ERRNO | EPERM.unsigned_abs();

    fn call(number: c_long, arguments: [u64; 6]) -> u32 {
        verdict(number, ARCHITECTURE, arguments)
    }

    #[test]
    fn each_call_has_one_rule_at_most() {
        let calls: BTreeSet<_> = RULES.iter().map(|rule| rule.call).collect();
        assert_eq!(calls.len(), RULES.len());
    }

    #[test]
    fn the_program_is_within_the_kernels_limit() {
        assert!(program(RUNTIME, true).len() < 4096);
    }

    #[test]
    fn another_architecture_ends_the_process() {
        const I386: u32 = 0x4000_0003;
        assert_eq!(verdict(libc::SYS_read, I386, [0; 6]), KILL_PROCESS);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_x32_abi_is_refused() {
        assert_eq!(call(0x4000_0000, [0; 6]), REFUSED);
        assert_eq!(call(0x4000_0000 + 41, [0; 6]), REFUSED);
    }

    #[test]
    fn unconditional_rules_refuse_whatever_the_arguments() {
        for rule in RULES
            .iter()
            .filter(|rule| matches!(rule.when, When::Always))
        {
            for arguments in [[0; 6], [1; 6], [u64::MAX; 6]] {
                assert_eq!(
                    call(rule.call, arguments),
                    ERRNO | rule.errno.unsigned_abs(),
                    "{rule:?}"
                );
            }
        }
    }

    #[test]
    fn sockets_are_judged_by_the_32_bits_that_the_kernel_reads() {
        for family in [2u64, 10, 16, 17, 38, 40, 0] {
            assert_eq!(call(SYS_socket, [family, 1, 0, 0, 0, 0]), REFUSED);
        }
        assert_eq!(call(SYS_socket, [1, 1, 0, 0, 0, 0]), ALLOW);
        // AF_UNIX in the upper half must not hide AF_VSOCK in the lower.
        assert_eq!(call(SYS_socket, [0x1_0000_0028, 1, 0, 0, 0, 0]), REFUSED);
        assert_eq!(call(SYS_socket, [0xFF_0000_0001, 1, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn tcp_over_ipv4_and_nothing_else_of_the_network_is_for_jobs_that_listen_on_a_port() {
        let program = program(RUNTIME, true);
        let socket = |family: i32, kind: i32, protocol: i32| {
            let arguments = [family, kind, protocol, 0, 0, 0];
            let arguments = arguments.map(|argument| u64::try_from(argument).expect("small"));
            verdict_of(&program, SYS_socket, ARCHITECTURE, arguments)
        };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        for kind in [libc::SOCK_STREAM, libc::SOCK_STREAM | flags] {
            for protocol in [0, libc::IPPROTO_TCP] {
                assert_eq!(socket(libc::AF_INET, kind, protocol), ALLOW);
            }
            for protocol in [libc::IPPROTO_SCTP, libc::IPPROTO_MPTCP, 256, 17, 1] {
                assert_eq!(socket(libc::AF_INET, kind, protocol), REFUSED);
            }
        }
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET, 0, 6] {
            assert_eq!(socket(libc::AF_INET, kind | flags, 0), REFUSED);
        }
        for family in [
            0,
            libc::AF_INET6,
            libc::AF_NETLINK,
            libc::AF_PACKET,
            libc::AF_VSOCK,
            43,
        ] {
            assert_eq!(socket(family, libc::SOCK_STREAM, 0), REFUSED);
        }
        assert_eq!(socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0), ALLOW);
    }

    #[test]
    fn the_nsm_ioctl_is_refused_however_its_number_is_padded() {
        for number in [0xC020_0A00u64, 0xFFFF_FFFF_C020_0A00, 0x1_C020_0A00] {
            assert_eq!(call(SYS_ioctl, [3, number, 0, 0, 0, 0]), REFUSED);
        }
        assert_eq!(call(SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]), ALLOW); // TCGETS: isatty()
    }

    #[test]
    fn threads_may_be_made_and_namespaces_may_not() {
        const THREAD: u64 = 0x003D_0F00;
        assert_eq!(call(SYS_clone, [THREAD, 0, 0, 0, 0, 0]), ALLOW);
        for flag in [
            0x0002_0000u64,
            0x0200_0000,
            0x0400_0000,
            0x0800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ] {
            assert_eq!(call(SYS_clone, [THREAD | flag, 0, 0, 0, 0, 0]), REFUSED);
        }
        assert_eq!(
            call(SYS_clone3, [0; 6]),
            ERRNO | libc::ENOSYS.unsigned_abs()
        );
    }

    #[test]
    fn a_job_may_signal_its_own_and_not_init() {
        assert_eq!(call(SYS_kill, [0, 15, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(SYS_kill, [77, 15, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(SYS_kill, [1, 15, 0, 0, 0, 0]), REFUSED);
        assert_eq!(call(SYS_kill, [4711, 15, 0, 0, 0, 0]), REFUSED);
        assert_eq!(call(SYS_kill, [u64::MAX, 15, 0, 0, 0, 0]), REFUSED);
        assert_eq!(call(SYS_tgkill, [1, 1, 15, 0, 0, 0]), REFUSED);
        assert_eq!(call(SYS_prlimit64, [0, 7, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(SYS_prlimit64, [1, 7, 0, 0, 0, 0]), REFUSED);
    }

    #[test]
    fn everyday_calls_are_allowed() {
        for number in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_futex,
            libc::SYS_execve,
            libc::SYS_openat,
            libc::SYS_epoll_pwait,
            libc::SYS_getrandom,
            libc::SYS_memfd_create,
            libc::SYS_wait4,
            libc::SYS_exit_group,
        ] {
            assert_eq!(call(number, [0; 6]), ALLOW);
        }
    }
}
