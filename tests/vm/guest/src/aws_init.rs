//! `/init` of test images in AWS's own layout. It does what AWS's init does, in its order and as strictly: what fails ends the
//! machine (aws-nitro-enclaves-sdk-bootstrap, `init.c`). It may also load other modules, since a distribution's kernel has more
//! drivers in modules than AWS's.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::zombie_processes,
    reason = "its console is where tests read; where it fails it may panic; it waits for whatever ends"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{WaitStatus, wait};
use vsock::VsockStream;

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const PLAIN: MsFlags = QUIET.union(MsFlags::MS_NODEV);

fn main() {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).unwrap();
    devices();
    // Such a kernel may also lack what AWS's has.
    let is_foreign = drivers(Path::new("/modules"));
    drivers(Path::new("/"));
    beat();
    let environment = words("/env");
    let command = words("/cmd");
    fs::remove_file("/env").unwrap();
    fs::remove_file("/cmd").unwrap();
    std::env::set_current_dir("/rootfs").unwrap();
    nix::unistd::chroot("/rootfs").unwrap();
    devices();
    file_systems(is_foreign);
    // The command's own PATH is for the command.
    let program = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"]
        .map(|folder| Path::new(folder).join(&command[0]))
        .into_iter()
        .find(|path| path.exists())
        .unwrap();
    let child = Command::new(program)
        .arg0(&command[0])
        .args(&command[1..])
        .env_clear()
        .envs(environment.iter().filter_map(|line| line.split_once('=')))
        .process_group(0)
        .spawn()
        .unwrap();
    let child = nix::unistd::Pid::from_raw(child.id().cast_signed());
    loop {
        match wait().unwrap() {
            WaitStatus::Exited(pid, code) if pid == child => {
                println!("aws-init: the command ended with {code}");
                break;
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                println!("aws-init: the command ended by {signal}");
                break;
            }
            _ => {}
        }
    }
    let _ = reboot(RebootMode::RB_AUTOBOOT);
}

/// Mounts `/dev`, where the kernel has not.
fn devices() {
    match mount(Some("dev"), "/dev", Some("devtmpfs"), QUIET, None::<&str>) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(errno) => panic!("/dev: {errno}"),
    }
}

/// Loads the modules in a folder, in the order of their names. Whether there were any.
fn drivers(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".ko"))
        .collect();
    paths.sort();
    for path in &paths {
        let file = File::open(path).unwrap();
        let flags = if path.extension().is_some_and(|extension| extension == "ko") {
            ModuleInitFlags::empty()
        } else {
            ModuleInitFlags::from_bits_retain(4) // MODULE_INIT_COMPRESSED_FILE
        };
        finit_module(&file, c"", flags).unwrap();
        fs::remove_file(path).unwrap();
        println!("aws-init: loaded {}", path.display());
    }
    !paths.is_empty()
}

fn beat() {
    let mut stream = VsockStream::connect_with_cid_port(3, 9000).unwrap();
    stream.write_all(&[0xb7]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xb7]);
}

fn words(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn file_systems(is_foreign: bool) {
    let place = |source: &str, target: &str, kind: &str, flags, data: Option<&str>| {
        if let Err(errno) = mount(Some(source), target, Some(kind), flags, data) {
            panic!("{target}: {errno}");
        }
    };
    let folder = |path: &str| match nix::unistd::mkdir(
        path,
        nix::sys::stat::Mode::from_bits_truncate(0o755),
    ) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => panic!("{path}: {errno}"),
    };
    place("proc", "/proc", "proc", PLAIN, None);
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match std::os::unix::fs::symlink(target, link) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{link}"),
        }
    }
    place("tmpfs", "/run", "tmpfs", PLAIN, Some("mode=0755"));
    place("tmpfs", "/tmp", "tmpfs", PLAIN, None);
    folder("/dev/shm");
    place("shm", "/dev/shm", "tmpfs", PLAIN, None);
    folder("/dev/pts");
    place("devpts", "/dev/pts", "devpts", QUIET, None);
    place("sysfs", "/sys", "sysfs", PLAIN, None);
    place(
        "cgroup_root",
        "/sys/fs/cgroup",
        "tmpfs",
        PLAIN,
        Some("mode=0755"),
    );
    // One hierarchy for each controller, as long as kernels have them.
    for line in fs::read_to_string("/proc/cgroups").unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[3] == "1" {
            let path = format!("/sys/fs/cgroup/{}", fields[0]);
            fs::create_dir(&path).unwrap();
            if !is_foreign {
                place(fields[0], &path, "cgroup", PLAIN, Some(fields[0]));
            }
        }
    }
}
