//! What a job cannot do, each shown beside the same attempt outside the walls, so that the test can fail.
//!
//! The attempts are made by this very program: as a job it is told by the environment which one to make.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use anchorhold_enclave::isolation::{Confinement, Terms};
use anchorhold_enclave::jobs::{Launcher, Stderr};
use anchorhold_enclave::reaper::{Exit, Orphans, Reaper};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{RwLock, RwLockReadGuard};

const ATTEMPT: &str = "ANCHORHOLD_TEST_ATTEMPT";
const OUTCOME: &str = "outcome: ";

/// System calls as a program of any language can make them.
#[expect(unsafe_code, reason = "a hostile job does not ask Rust for permission")]
mod sys {
    use std::io::Error;

    fn outcome(result: libc::c_long) -> Result<i64, i32> {
        if result < 0 {
            Err(Error::last_os_error().raw_os_error().unwrap_or(0))
        } else {
            Ok(result)
        }
    }

    pub(crate) fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<i64, i32> {
        let [first, second, third, fourth, fifth, sixth] = arguments;
        // SAFETY: every attempt below passes numbers, null, or pointers to memory that outlives the call.
        outcome(unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) })
    }

    /// In a child, so that what succeeds does not change this process. Its exit code is the errno.
    pub(crate) fn call_in_child(number: libc::c_long, arguments: [usize; 6]) -> Result<i64, i32> {
        // SAFETY: the child makes one call and ends.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let code = call(number, arguments).err().unwrap_or(0);
                libc::_exit(code);
            }
            let mut status = 0;
            libc::waitpid(pid, &raw mut status, 0);
            if libc::WIFSIGNALED(status) {
                return Err(1000 + libc::WTERMSIG(status));
            }
            match libc::WEXITSTATUS(status) {
                0 => Ok(0),
                errno => Err(errno),
            }
        }
    }

    /// clone with flags, as fork does it.
    pub(crate) fn clone(flags: usize) -> Result<i64, i32> {
        // SAFETY: without CLONE_VM the child has its own memory, and ends at once.
        unsafe {
            let pid = libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD as usize, 0, 0, 0, 0);
            if pid == 0 {
                libc::_exit(0);
            }
            if pid > 0 {
                libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
            }
            outcome(pid)
        }
    }

    /// getpid by the 32-bit entry, in a child.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn getpid_32_bit() -> Result<i64, i32> {
        // SAFETY: int 0x80 takes its number in eax and gives its result there; getpid has no arguments.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let result: i32;
                std::arch::asm!("int 0x80", inlateout("eax") 20 => result, options(nostack));
                libc::_exit(if result > 0 { 0 } else { -result });
            }
            let mut status = 0;
            libc::waitpid(pid, &raw mut status, 0);
            if libc::WIFSIGNALED(status) {
                return Err(1000 + libc::WTERMSIG(status));
            }
            match libc::WEXITSTATUS(status) {
                0 => Ok(0),
                errno => Err(errno),
            }
        }
    }
}

use sys::{call, call_in_child};

fn io(result: std::io::Result<impl Sized>) -> Result<i64, i32> {
    result
        .map(|_| 0)
        .map_err(|error| error.raw_os_error().unwrap_or(-1))
}

/// Makes one attempt. `argument` is a path, a pid or a name, as the attempt needs.
fn attempt(name: &str, argument: &str) -> Result<i64, i32> {
    let path = format!("{argument}\0");
    let path_pointer = path.as_ptr() as usize;
    let pid = || argument.parse::<usize>().expect("a pid");
    let one = |number, first: usize| call(number, [first, 0, 0, 0, 0, 0]);
    match name {
        "socket" => call(
            libc::SYS_socket,
            [
                pid(),
                libc::SOCK_STREAM as usize | libc::SOCK_CLOEXEC as usize,
                0,
                0,
                0,
                0,
            ],
        ),
        "raw-socket" => call(
            libc::SYS_socket,
            [pid(), libc::SOCK_RAW as usize, 0, 0, 0, 0],
        ),
        "socketpair" => {
            let mut pair = [0_i32; 2];
            call(
                libc::SYS_socketpair,
                [1, 1, 0, pair.as_mut_ptr() as usize, 0, 0],
            )
        }
        "abstract-socket" => {
            use std::os::linux::net::SocketAddrExt as _;
            let address =
                std::os::unix::net::SocketAddr::from_abstract_name(argument).expect("a short name");
            io(std::os::unix::net::UnixStream::connect_addr(&address))
        }
        "io-uring" => {
            let parameters = [0_u8; 256];
            call(
                libc::SYS_io_uring_setup,
                [4, parameters.as_ptr() as usize, 0, 0, 0, 0],
            )
        }
        "ptrace" => call_in_child(libc::SYS_ptrace, [0; 6]),
        "read-own-memory" => {
            let (source, mut target) = ([1_u8; 8], [0_u8; 8]);
            let local = [target.as_mut_ptr() as usize, 8];
            let remote = [source.as_ptr() as usize, 8];
            call(
                libc::SYS_process_vm_readv,
                [
                    std::process::id() as usize,
                    local.as_ptr() as usize,
                    1,
                    remote.as_ptr() as usize,
                    1,
                    0,
                ],
            )
        }
        "read-memory-of" => io(std::fs::File::open(format!("/proc/{argument}/mem"))),
        "signal" => call(libc::SYS_kill, [pid(), 0, 0, 0, 0, 0]),
        "limits-of" => call(libc::SYS_prlimit64, [pid(), 7, 0, 0, 0, 0]),
        "user-namespace" => call_in_child(libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0]),
        "clone-user-namespace" => sys::clone(0x1000_0000),
        "clone" => sys::clone(0),
        "clone3" => call(libc::SYS_clone3, [0; 6]),
        "mount" => call_in_child(
            libc::SYS_mount,
            [
                path_pointer,
                path_pointer,
                c"tmpfs".as_ptr() as usize,
                0,
                0,
                0,
            ],
        ),
        "chroot" => call_in_child(libc::SYS_chroot, [path_pointer, 0, 0, 0, 0, 0]),
        "keyring" => call(
            libc::SYS_add_key,
            [
                c"user".as_ptr() as usize,
                c"anchorhold-test".as_ptr() as usize,
                c"x".as_ptr() as usize,
                1,
                (-2_isize).cast_unsigned(),
                0,
            ],
        ),
        "bpf" => call(libc::SYS_bpf, [0; 6]),
        "perf" => call(libc::SYS_perf_event_open, [0; 6]),
        "userfaultfd" => one(libc::SYS_userfaultfd, 1),
        "personality" => call_in_child(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0]),
        "personality-query" => one(libc::SYS_personality, 0xFFFF_FFFF),
        "nsm-ioctl" => {
            let null = std::fs::File::open("/dev/null").expect("a null device");
            let descriptor = std::os::fd::AsRawFd::as_raw_fd(&null).unsigned_abs() as usize;
            call(libc::SYS_ioctl, [descriptor, 0xC020_0A00, 0, 0, 0, 0])
        }
        "terminal-input" => call(libc::SYS_ioctl, [0, 0x5412, path_pointer, 0, 0, 0]),
        "session" => call_in_child(libc::SYS_setsid, [0; 6]),
        "process-group" => call_in_child(libc::SYS_setpgid, [0; 6]),
        "handle" => {
            let (mut handle, mut mount) = ([0_u32; 64], 0_i32);
            handle[0] = 128;
            call(
                libc::SYS_name_to_handle_at,
                [
                    (libc::AT_FDCWD as isize).cast_unsigned(),
                    path_pointer,
                    handle.as_mut_ptr() as usize,
                    (&raw mut mount) as usize,
                    0,
                    0,
                ],
            )
        }
        #[cfg(target_arch = "x86_64")]
        "32-bit" => sys::getpid_32_bit(),
        #[cfg(target_arch = "x86_64")]
        "x32" => call(libc::SYS_getpid | 0x4000_0000, [0; 6]),
        "setuid" => call_in_child(libc::SYS_setuid, [0; 6]),
        "read" => io(std::fs::read(argument)),
        "list" => io(std::fs::read_dir(argument)),
        "write" => io(std::fs::write(argument, "x")),
        "large-file" => io(std::fs::write(argument, vec![0_u8; 2 << 20])),
        "execute" => io(Command::new(argument).status()),
        "open-descriptors" => Ok((3..1024)
            .map(|descriptor| i64::from(call(libc::SYS_fcntl, [descriptor, 1, 0, 0, 0, 0]).is_ok()))
            .sum()),
        other => panic!("no attempt is called {other}"),
    }
}

/// The attempt itself, where this program is the job. Without the variable there is nothing to do.
#[test]
fn as_a_job() {
    let Ok(wanted) = std::env::var(ATTEMPT) else {
        return;
    };
    let (name, argument) = wanted.split_once(' ').expect("name and argument");
    let outcome = attempt(name, argument);
    writeln!(std::io::stdout(), "\n{OUTCOME}{outcome:?}").expect("somebody reads");
}

static PROGRAM: LazyLock<support::Program> = LazyLock::new(support::Program::of_this_test);

fn command() -> Vec<String> {
    PROGRAM.command("as_a_job")
}

fn parse(output: &str) -> Result<i64, i32> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix(OUTCOME))
        .unwrap_or_else(|| panic!("no outcome in: {output}"));
    let number = |text: &str| text.parse::<i64>().expect("a number");
    if let Some(ok) = line
        .strip_prefix("Ok(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        Ok(number(ok))
    } else {
        let error = line
            .strip_prefix("Err(")
            .and_then(|rest| rest.strip_suffix(')'));
        Err(number(error.expect("Ok or Err")) as i32)
    }
}

fn outside(name: &str, argument: &str) -> Result<i64, i32> {
    let command = command();
    let output = Command::new(&command[0])
        .args(&command[1..])
        .env(ATTEMPT, format!("{name} {argument}"))
        .output()
        .expect("this program runs");
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The kernel counts a user's processes together: the test that makes too many of them runs alone.
static CROWD: RwLock<()> = RwLock::const_new(());

struct Inside {
    reaper: Arc<Reaper>,
    scratch: tempfile::TempDir,
    _crowd: Option<RwLockReadGuard<'static, ()>>,
}

impl Inside {
    async fn new() -> Inside {
        let crowd = CROWD.read().await;
        Inside {
            _crowd: Some(crowd),
            ..Inside::alone()
        }
    }

    fn alone() -> Inside {
        Inside {
            reaper: Reaper::start(if std::process::id() == 1 {
                Orphans::Reap
            } else {
                Orphans::Leave
            })
            .expect("signals work"),
            scratch: support::scratch(),
            _crowd: None,
        }
    }

    async fn run(
        &self,
        command: Vec<String>,
        environment: BTreeMap<String, String>,
    ) -> (String, Exit) {
        let confinement = Confinement::prepare(&Terms {
            environment,
            ..support::isolation_terms(command, self.scratch.path())
        })
        .expect("walls can be put up");
        let launcher = Arc::new(Launcher::new(
            confinement,
            Arc::clone(&self.reaper),
            Stderr::Forward,
            None,
        ));
        let mut job = launcher.start().await.expect("the job starts");
        drop(job.stdin);
        let mut output = Vec::new();
        job.stdout
            .read_to_end(&mut output)
            .await
            .expect("a pipe can be read");
        let exit = job.exit.await.expect("the reaper tells");
        (String::from_utf8_lossy(&output).into_owned(), exit)
    }

    async fn attempt(&self, name: &str, argument: &str) -> Result<i64, i32> {
        let environment = [(ATTEMPT.to_owned(), format!("{name} {argument}"))].into();
        let (output, _) = self.run(command(), environment).await;
        parse(&output)
    }

    /// The attempt works outside (or fails there for another reason, where the machine does not offer it at all), and is
    /// refused inside with this errno.
    async fn refuses(&self, name: &str, argument: &str, errno: i32) {
        let without = outside(name, argument);
        assert_ne!(without, Err(errno), "{name} {argument} must differ outside");
        assert_eq!(
            self.attempt(name, argument).await,
            Err(errno),
            "{name} {argument} (outside: {without:?})"
        );
    }

    async fn allows(&self, name: &str, argument: &str) {
        let outcome = self.attempt(name, argument).await;
        assert!(outcome.is_ok(), "{name} {argument}: {outcome:?}");
    }
}

fn loudly(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{text}\n");
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        loudly("NOT ROOT: the walls that need another uid are not tested here");
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI must run this as root"
        );
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn no_network_of_any_family() {
    let inside = Inside::new().await;
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_VSOCK] {
        // The socket is only made, never connected.
        inside
            .refuses("socket", &family.to_string(), libc::EPERM)
            .await;
    }
    inside
        .refuses("raw-socket", &libc::AF_NETLINK.to_string(), libc::EPERM)
        .await;
    for family in 0..=46 {
        if family != libc::AF_UNIX {
            let outcome = inside.attempt("socket", &family.to_string()).await;
            assert_eq!(outcome, Err(libc::EPERM), "family {family}");
        }
    }
    inside.allows("socket", &libc::AF_UNIX.to_string()).await;
    inside.allows("socketpair", "-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_around_the_filter() {
    let inside = Inside::new().await;
    inside.refuses("io-uring", "-", libc::EPERM).await;
    #[cfg(target_arch = "x86_64")]
    {
        inside.refuses("32-bit", "-", 1000 + libc::SIGSYS).await;
        inside.refuses("x32", "-", libc::EPERM).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_process() {
    let inside = Inside::new().await;
    inside.refuses("ptrace", "-", libc::EPERM).await;
    inside.refuses("read-own-memory", "-", libc::EPERM).await;
    let parent = std::process::id().to_string();
    inside.refuses("signal", &parent, libc::EPERM).await;
    inside.refuses("signal", "1", libc::EPERM).await;
    inside.refuses("limits-of", &parent, libc::EPERM).await;
    if is_root() {
        inside
            .refuses("read-memory-of", &parent, libc::EACCES)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_namespaces_and_no_mounts() {
    let inside = Inside::new().await;
    inside.refuses("user-namespace", "-", libc::EPERM).await;
    inside
        .refuses("clone-user-namespace", "-", libc::EPERM)
        .await;
    inside.refuses("clone3", "-", libc::ENOSYS).await;
    inside.allows("clone", "-").await;
    let folder = support::scratch();
    let folder = folder.path().to_str().expect("text");
    if is_root() {
        inside.refuses("chroot", folder, libc::EPERM).await;
        inside.refuses("setuid", "-", libc::EPERM).await;
    }
    assert_eq!(inside.attempt("mount", folder).await, Err(libc::EPERM));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_kernel_that_a_job_does_not_need() {
    let inside = Inside::new().await;
    inside.refuses("keyring", "-", libc::EPERM).await;
    inside.refuses("userfaultfd", "-", libc::EPERM).await;
    inside.refuses("personality", "-", libc::EPERM).await;
    inside.allows("personality-query", "-").await;
    inside.refuses("bpf", "-", libc::EPERM).await;
    inside.refuses("perf", "-", libc::EPERM).await;
    inside.refuses("handle", "/etc/passwd", libc::EPERM).await;
    inside.refuses("nsm-ioctl", "-", libc::EPERM).await;
    inside.refuses("terminal-input", "-", libc::EPERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_stays_in_its_session_and_group() {
    let inside = Inside::new().await;
    inside.refuses("session", "-", libc::EPERM).await;
    inside.refuses("process-group", "-", libc::EPERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_applications_files_can_be_read() {
    let inside = Inside::new().await;
    inside.allows("read", "/etc/passwd").await;
    inside.allows("read", "/proc/self/maps").await;
    inside.allows("read", "/dev/null").await;
    inside.refuses("list", "/dev", libc::EACCES).await;
    inside.refuses("list", "/", libc::EACCES).await;
    if is_root() {
        // Anyone may read this, but for Landlock.
        let elsewhere = tempfile::Builder::new()
            .prefix("anchorhold-test")
            .tempdir_in("/run")
            .expect("root may write to /run");
        let open = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(elsewhere.path(), open(0o755)).expect("ours");
        let file = elsewhere.path().join("file");
        std::fs::write(&file, "x").expect("ours");
        std::fs::set_permissions(&file, open(0o644)).expect("ours");
        inside
            .refuses("read", file.to_str().expect("text"), libc::EACCES)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_the_runtime_cannot_be_opened() {
    let inside = Inside::new().await;
    for device in ["/dev/vsock", "/dev/kmsg", "/dev/kvm", "/dev/mem"] {
        if Path::new(device).exists() {
            assert_eq!(
                inside.attempt("read", device).await,
                Err(libc::EACCES),
                "{device}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_scratch_folder_can_be_written_and_nothing_in_it_runs() {
    let inside = Inside::new().await;
    let own = inside.scratch.path().join("file");
    inside.allows("write", own.to_str().expect("text")).await;
    let other = support::scratch();
    let file = other.path().join("file");
    inside
        .refuses("write", file.to_str().expect("text"), libc::EACCES)
        .await;
    let program = inside.scratch.path().join("program");
    std::fs::copy("/bin/true", &program).expect("scratch is ours");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("ours");
    inside
        .refuses("execute", program.to_str().expect("text"), libc::EACCES)
        .await;
    inside.allows("execute", "/bin/true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_bounded() {
    let inside = Inside::new().await;
    let file = inside.scratch.path().join("large");
    let environment = [(ATTEMPT.to_owned(), format!("large-file {}", file.display()))].into();
    let (output, exit) = inside.run(command(), environment).await;
    assert!(!output.contains("outcome: Ok"), "{output}");
    assert_eq!(exit, Exit::Signal(libc::SIGXFSZ));
}

#[tokio::test(flavor = "multi_thread")]
async fn abstract_sockets_of_others_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt as _;
    let inside = Inside::new().await;
    let name = format!("anchorhold-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("short");
    let _listener =
        std::os::unix::net::UnixListener::bind_addr(&address).expect("the name is free");
    inside.refuses("abstract-socket", &name, libc::EPERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_is_inherited() {
    let inside = Inside::new().await;
    // One that is not close-on-exec, as a careless library would leave it.
    let stray = nix::unistd::dup(std::io::stdin()).expect("a descriptor");
    // The test harness itself opens none that this one sees.
    assert_eq!(inside.attempt("open-descriptors", "-").await, Ok(0));
    drop(stray);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_no_privileges_and_a_clean_environment() {
    let inside = Inside::new().await;
    let script = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Sig(Blk|Ign))' /proc/self/status; \
                  echo \"umask $(umask)\"; echo \"limits $(ulimit -c) $(ulimit -n)\"; pwd; env | sort";
    let environment = [("COLOUR".to_owned(), "green".to_owned())].into();
    let command = support::words(&["/bin/sh", "-c", script]);
    let (output, exit) = inside.run(command, environment).await;
    assert!(exit.success(), "{output}");
    let has = |line: &str| {
        assert!(
            output.lines().any(|own| own == line),
            "{line:?} in\n{output}"
        );
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        has(&format!("{set}:\t0000000000000000"));
    }
    has("NoNewPrivs:\t1");
    has("Seccomp:\t2");
    has("SigBlk:\t0000000000000000");
    has("SigIgn:\t0000000000000000");
    has("umask 0077");
    has("limits 0 1024");
    has("/");
    has("COLOUR=green");
    has("PATH=/usr/local/bin:/usr/bin:/bin");
    has(&format!("HOME={}", inside.scratch.path().display()));
    has(&format!("TMPDIR={}", inside.scratch.path().display()));
    let variables = output.lines().filter(|line| line.contains('=')).count();
    // The shell adds PWD.
    assert_eq!(variables, 5, "{output}");
    if is_root() {
        has("Uid:\t1000\t1000\t1000\t1000");
        has("Gid:\t1000\t1000\t1000\t1000");
        has("Groups:\t ");
        has("CapBnd:\t0000000000000000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_hits_a_wall() {
    if !is_root() {
        return;
    }
    let _alone = CROWD.write().await;
    let inside = Inside::alone();
    let script = "i=0; while [ $i -lt 2000 ]; do sleep 60 & i=$((i+1)); done 2>/dev/null; echo all";
    let (output, _) = inside
        .run(support::words(&["/bin/sh", "-c", script]), BTreeMap::new())
        .await;
    assert!(!output.contains("all"), "2,000 processes were made");
    // All of them are killed with the job, but they count until they are reaped.
    while processes_of(1000) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn processes_of(uid: u32) -> usize {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir("/proc").expect("proc is mounted");
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process))
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == uid))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_uid_all_other_walls_still_stand() {
    // A user namespace with one uid, as the sandbox has it for the unprivileged.
    if std::env::var_os("ANCHORHOLD_TEST_ONE_UID").is_some() {
        let inside = Inside::new().await;
        let status = "grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp:)' /proc/self/status";
        let (output, _) = inside
            .run(support::words(&["/bin/sh", "-c", status]), BTreeMap::new())
            .await;
        for line in [
            "Uid:\t0\t0\t0\t0",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(
                output.lines().any(|own| own == line),
                "{line:?} in\n{output}"
            );
        }
        let runtime = std::process::id().to_string();
        let mut other = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        for target in [&runtime, &other.id().to_string()] {
            // The same uid: only the filter and Landlock are in the way.
            assert_eq!(inside.attempt("signal", target).await, Err(libc::EPERM));
            let memory = inside.attempt("read-memory-of", target).await;
            assert_eq!(memory, Err(libc::EACCES));
        }
        other.kill().expect("our own child");
        other.wait().expect("our own child");
        assert_eq!(inside.attempt("setuid", "-").await, Ok(0), "0 to 0");
        let elsewhere = inside.attempt("write", "/var/tmp/anchorhold-test").await;
        assert_eq!(elsewhere, Err(libc::EACCES));
        return;
    }
    in_namespace(
        &["--user", "--map-root-user"],
        "without_another_uid_all_other_walls_still_stand",
        "ANCHORHOLD_TEST_ONE_UID",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn as_process_1_every_orphan_is_reaped_and_no_exit_status_is_stolen() {
    if std::env::var_os("ANCHORHOLD_TEST_AS_INIT").is_some() {
        assert_eq!(std::process::id(), 1);
        let inside = Inside::new().await;
        for code in 0..5 {
            // Orphans end before, with and after the job.
            let script = format!(
                "(true &); (sleep 0.01 &); (sleep 60 &); (sh -c 'kill -40 $$' &); sleep 0.0{code}; exit {code}"
            );
            let (_, exit) = inside
                .run(support::words(&["/bin/sh", "-c", &script]), BTreeMap::new())
                .await;
            assert_eq!(exit, Exit::Code(code));
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let processes = std::fs::read_dir("/proc")
            .expect("proc of this namespace")
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                name.to_str()
                    .is_some_and(|name| name.parse::<u32>().is_ok())
            })
            .count();
        assert_eq!(processes, 1, "only this one is left");
        return;
    }
    in_namespace(
        &[
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
        ],
        "as_process_1_every_orphan_is_reaped_and_no_exit_status_is_stolen",
        "ANCHORHOLD_TEST_AS_INIT",
    );
}

/// Runs one test of this program again inside namespaces.
fn in_namespace(options: &[&str], test: &str, marker: &str) {
    let possible = Command::new("unshare").args(options).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        loudly(&format!("NO USER NAMESPACES HERE: {test} is not tested"));
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI must have them"
        );
        return;
    }
    let output = Command::new("unshare")
        .args(options)
        .arg(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", test, "--nocapture"])
        .env(marker, "1")
        .output()
        .expect("unshare runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
