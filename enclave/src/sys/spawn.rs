//! fork, walls, exec: starts a job's process with everything taken away that it does not need.
//!
//! Everything is prepared before the fork ([`Plan`]); the child then only makes system calls. It must never run the
//! job's program with a wall missing: any step that fails ends the child, and the parent learns which step it was.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use libc::{c_char, c_int, c_ulong};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::host::{CapabilityData, CapabilityHeader};

/// Who the job runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Another user: no supplementary groups, this uid and gid for real, effective and saved.
    Other {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// Whether supplementary groups can be given up here. They cannot where the user namespace denies setgroups.
        clear_groups: bool,
    },
    /// The same user as the runtime, because no other id exists in this user namespace.
    Same,
}

/// A resource limit, soft and hard alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_…`.
    pub resource: libc::__rlimit_resource_t,
    /// The most the job may have.
    pub value: u64,
}

/// All that a child needs between fork and exec.
pub struct Plan {
    /// Program, then arguments.
    pub command: Vec<CString>,
    /// `NAME=value`, the whole environment.
    pub environment: Vec<CString>,
    /// The folder to start in.
    pub folder: CString,
    /// User and groups.
    pub identity: Identity,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// Landlock ruleset, where the kernel has Landlock.
    pub landlock: Option<OwnedFd>,
    /// Classic BPF for seccomp.
    pub filter: Vec<libc::sock_filter>,
    /// Whether the bounding set can be emptied (see [`super::may_drop_bounding_set`]); if not, there is nothing in the
    /// permitted set that it could give back under `no_new_privs`.
    pub drop_bounding_set: bool,
}

/// The step between fork and exec at which a child gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// setsid(2)
    Session = 1,
    /// dup2(2) of the standard streams
    Streams,
    /// setrlimit(2)
    Limits,
    /// chdir(2), first to `/` and then, as the job's user, to the job's folder
    Folder,
    /// `PR_SET_NO_NEW_PRIVS`
    NoNewPrivileges,
    /// capabilities: bounding, ambient and the rest
    Capabilities,
    /// setgroups(2), setresgid(2), setresuid(2)
    Identity,
    /// `landlock_restrict_self(2)`
    Landlock,
    /// `close_range(2)`
    Descriptors,
    /// seccomp(2)
    Filter,
    /// execve(2)
    Exec,
}

impl Step {
    fn from_byte(byte: u8) -> Option<Step> {
        use Step::{
            Capabilities, Descriptors, Exec, Filter, Folder, Identity, Landlock, Limits,
            NoNewPrivileges, Session, Streams,
        };
        [
            Session,
            Streams,
            Limits,
            Folder,
            NoNewPrivileges,
            Capabilities,
            Identity,
            Landlock,
            Descriptors,
            Filter,
            Exec,
        ]
        .into_iter()
        .find(|step| *step as u8 == byte)
    }
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The kernel could not make another process.
    #[error(
        "no process could be made for the job: {0}. Raise resources.memory_mib, or make fewer calls at a time"
    )]
    Fork(#[source] io::Error),
    /// The pipe that reports failures could not be made.
    #[error("no pipe could be made for the job: {0}")]
    Pipe(#[source] io::Error),
    /// The program itself could not be run.
    #[error(
        "the job's program {program} could not be run: {source}. Check job.command in anchorhold.toml: the program must be in the image, executable, and built for this machine"
    )]
    Exec {
        /// Path of the program.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The working folder cannot be entered, so the program was not run.
    #[error(
        "the job's working folder {folder} cannot be entered: {source}. Check job.working_directory in anchorhold.toml: the folder must be in the image, and the job's user must be allowed into it"
    )]
    Folder {
        /// Path of the folder.
        folder: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A wall could not be put up, so the program was not run.
    #[error("the job was not run, as it could not be confined (step {step:?}): {source}")]
    Confine {
        /// The step that failed.
        step: Step,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Forks a child that confines itself and runs the plan's program, with the given streams as 0, 1 and 2, and further
/// variables (`NAME=value` and a zero byte) in its environment.
///
/// `register` is called in this process with the child's pid right after the fork, before anything is known of its fate:
/// whoever reaps children must know it by then, and must reap it also if this function fails. Blocks until the program
/// runs or has failed to (about a millisecond). The child leads a session and process group of its own.
///
/// # Errors
/// Every failure up to and including exec.
pub fn spawn(
    plan: &Plan,
    variables: &[Zeroizing<Vec<u8>>],
    streams: [BorrowedFd<'_>; 3],
    register: impl FnOnce(&mut dyn FnMut() -> io::Result<Pid>) -> io::Result<Pid>,
) -> Result<Pid, SpawnError> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).collect()
    };
    let mut argv = pointers(&plan.command);
    argv.push(std::ptr::null());
    let mut envp = pointers(&plan.environment);
    // What does not end in a zero byte would be read beyond its end.
    let whole = variables.iter().filter(|text| text.last() == Some(&0));
    envp.extend(whole.map(|text| text.as_ptr().cast::<c_char>()));
    envp.push(std::ptr::null());
    let filter = libc::sock_fprog {
        len: u16::try_from(plan.filter.len()).expect("the filter is within the kernel's 4,096"),
        filter: plan.filter.as_ptr().cast_mut(),
    };
    let (mut report, report_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let child = Child {
        argv: &argv,
        envp: &envp,
        plan,
        filter: &filter,
        streams: streams.map(|stream| stream.as_raw_fd()),
        report: Cell::new(report_end.as_raw_fd()),
    };
    let pid = register(&mut || child.fork()).map_err(SpawnError::Fork)?;
    drop(report_end);
    let mut failure = [0_u8; 5];
    if report.read_exact(&mut failure).is_err() {
        // The pipe closed by exec: the program runs.
        return Ok(pid);
    }
    let [step, errno @ ..] = failure;
    let source = io::Error::from_raw_os_error(i32::from_le_bytes(errno));
    match Step::from_byte(step) {
        Some(Step::Exec) | None => Err(SpawnError::Exec {
            program: plan
                .command
                .first()
                .map(|program| program.to_string_lossy().into_owned())
                .unwrap_or_default(),
            source,
        }),
        Some(Step::Folder) => Err(SpawnError::Folder {
            folder: plan.folder.to_string_lossy().into_owned(),
            source,
        }),
        Some(step) => Err(SpawnError::Confine { step, source }),
    }
}

/// What the child has, all of it made before the fork.
struct Child<'a> {
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    plan: &'a Plan,
    filter: &'a libc::sock_fprog,
    streams: [RawFd; 3],
    /// Where failures are told; moves once, in the child.
    report: Cell<RawFd>,
}

impl Child<'_> {
    fn fork(&self) -> io::Result<Pid> {
        // Signals wait while both sides share handlers, so that none of ours ever runs in the child.
        // SAFETY: both sets are initialised by the calls that take them, and the mask is this thread's own.
        let previous = unsafe {
            let mut all = std::mem::zeroed();
            let mut previous = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut previous);
            previous
        };
        // SAFETY: the child only makes system calls through `run` and then ends or execs; it takes no lock and
        // allocates nothing, so what other threads of this process held at this moment does not matter.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            self.run();
        }
        let error = io::Error::last_os_error();
        // SAFETY: restores the mask that was saved above.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const previous, std::ptr::null_mut());
        }
        if pid < 0 {
            Err(error)
        } else {
            Ok(Pid::from_raw(pid))
        }
    }

    /// The child's life: never returns.
    fn run(&self) -> ! {
        let Err((step, errno)) = self.confine_and_exec();
        let mut failure = [0_u8; 5];
        failure[0] = step as u8;
        failure[1..].copy_from_slice(&errno.to_le_bytes());
        // SAFETY: writes from a local buffer. _exit runs no destructors and no handlers of the process this one was
        // copied from.
        unsafe {
            libc::write(self.report.get(), failure.as_ptr().cast(), failure.len());
            libc::_exit(127)
        }
    }

    fn confine_and_exec(&self) -> Result<Infallible, (Step, c_int)> {
        let plan = self.plan;
        // SAFETY: each call takes numbers, or pointers into memory that was prepared before the fork and stays
        // untouched, as this is the only thread of the child. Identity and capabilities are set by bare system calls,
        // since the C library's versions would talk to threads that do not exist here.
        unsafe {
            // Ignored signals would stay ignored in the job (SIGPIPE is, in Rust programs), and so would the mask.
            // Bare calls again: the C library keeps two signals to itself, which may be ignored all the same.
            for signal in 1..=64 {
                let default = [0_usize; 4]; // struct kernel_sigaction: SIG_DFL, no flags, no mask
                let nowhere: *mut usize = std::ptr::null_mut();
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal as c_int,
                    default.as_ptr(),
                    nowhere,
                    8_usize,
                );
            }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());

            require(Step::Session, libc::setsid())?;
            libc::umask(0o077);
            require(Step::Folder, libc::chdir(c"/".as_ptr()))?;
            Self::volunteer_for_the_oom_killer();
            require(
                Step::NoNewPrivileges,
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            )?;

            if plan.drop_bounding_set {
                for capability in 0..64 as c_ulong {
                    if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                        if capability > 0 && errno() == libc::EINVAL {
                            break; // past the last capability that this kernel has
                        }
                        return Err((Step::Capabilities, errno()));
                    }
                }
                require(
                    Step::Capabilities,
                    libc::prctl(libc::PR_SET_SECUREBITS, ROOT_MEANS_NOTHING, 0, 0, 0),
                )?;
            }
            // Kernels before 4.3 have no ambient set; there is nothing to clear then.
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            );
            if let Identity::Other {
                uid,
                gid,
                clear_groups,
            } = plan.identity
            {
                if clear_groups {
                    let groups: *const libc::gid_t = std::ptr::null();
                    require_long(
                        Step::Identity,
                        libc::syscall(libc::SYS_setgroups, 0_usize, groups),
                    )?;
                }
                require_long(
                    Step::Identity,
                    libc::syscall(libc::SYS_setresgid, gid, gid, gid),
                )?;
                require_long(
                    Step::Identity,
                    libc::syscall(libc::SYS_setresuid, uid, uid, uid),
                )?;
            }
            let header = CapabilityHeader::of_this_thread();
            let nothing = [CapabilityData::default(); 2];
            require_long(
                Step::Capabilities,
                libc::syscall(libc::SYS_capset, &raw const header, nothing.as_ptr()),
            )?;

            require(Step::Folder, libc::chdir(plan.folder.as_ptr()))?;

            if let Some(landlock) = &plan.landlock {
                require_long(
                    Step::Landlock,
                    libc::syscall(
                        libc::SYS_landlock_restrict_self,
                        landlock.as_raw_fd(),
                        0 as libc::c_uint,
                    ),
                )?;
            }

            self.arrange_descriptors()?;
            for limit in &plan.limits {
                let both = libc::rlimit {
                    rlim_cur: limit.value,
                    rlim_max: limit.value,
                };
                require(
                    Step::Limits,
                    libc::setrlimit(limit.resource, &raw const both),
                )?;
            }
            require_long(
                Step::Filter,
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0 as libc::c_uint,
                    std::ptr::from_ref(self.filter),
                ),
            )?;
            libc::execve(self.argv[0], self.argv.as_ptr(), self.envp.as_ptr());
            Err((Step::Exec, errno()))
        }
    }

    /// Puts the streams at 0, 1 and 2 and the report's pipe at 3, and closes all else.
    ///
    /// # Safety
    /// Only in the child of a fork.
    unsafe fn arrange_descriptors(&self) -> Result<(), (Step, c_int)> {
        // SAFETY: numbers only. Sources are first moved above the targets, so that no dup2 overwrites one of them;
        // F_DUPFD_CLOEXEC and dup3 keep close-on-exec where it is wanted.
        unsafe {
            let mut moved = [0; 3];
            for (source, target) in self.streams.iter().zip(&mut moved) {
                *target = libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, REPORT + 1);
                require(Step::Streams, *target)?;
            }
            if self.report.get() != REPORT {
                require(
                    Step::Streams,
                    libc::dup3(self.report.get(), REPORT, libc::O_CLOEXEC),
                )?;
                self.report.set(REPORT);
            }
            for (source, target) in moved.into_iter().zip(0..) {
                require(Step::Streams, libc::dup2(source, target))?;
            }
            let from = REPORT as libc::c_uint + 1;
            if libc::syscall(
                libc::SYS_close_range,
                from,
                libc::c_uint::MAX,
                0 as libc::c_uint,
            ) != 0
            {
                // Kernels before 5.9. All of ours are close-on-exec besides.
                if errno() != libc::ENOSYS {
                    return Err((Step::Descriptors, errno()));
                }
                for descriptor in REPORT + 1..65_536 {
                    libc::close(descriptor);
                }
            }
        }
        Ok(())
    }

    /// When memory runs out, a job shall end rather than the runtime. Best effort: /proc may belong to somebody else.
    ///
    /// # Safety
    /// Only in the child of a fork.
    unsafe fn volunteer_for_the_oom_killer() {
        // SAFETY: constant strings; the descriptor is local.
        unsafe {
            let file = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            if file >= 0 {
                libc::write(file, c"1000".as_ptr().cast(), 4);
                libc::close(file);
            }
        }
    }
}

/// Secure bits of `linux/securebits.h`: `NOROOT`, `NO_SETUID_FIXUP` and `NO_CAP_AMBIENT_RAISE` on, `KEEP_CAPS` off, all locked.
const ROOT_MEANS_NOTHING: c_ulong = 0b1110_1111;

/// Where the report's pipe is while the child lasts.
const REPORT: RawFd = 3;

fn errno() -> c_int {
    nix::errno::Errno::last_raw()
}

fn require(step: Step, result: c_int) -> Result<(), (Step, c_int)> {
    if result < 0 {
        Err((step, errno()))
    } else {
        Ok(())
    }
}

fn require_long(step: Step, result: libc::c_long) -> Result<(), (Step, c_int)> {
    if result < 0 {
        Err((step, errno()))
    } else {
        Ok(())
    }
}
