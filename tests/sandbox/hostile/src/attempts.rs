//! The attempts, by name.

#![expect(
    clippy::cast_sign_loss,
    reason = "system calls take their arguments as bits"
)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::sys;

const NONE: [u64; 6] = [0; 6];

fn text<'a>(request: &'a Value, name: &str) -> io::Result<&'a str> {
    request[name].as_str().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the request has no {name}"),
        )
    })
}

fn address(text: &CString) -> u64 {
    text.as_ptr() as u64
}

/// Makes the attempt. `Ok` means that it came through.
pub(crate) fn attempt(name: &str, request: &Value) -> io::Result<Value> {
    match name {
        "family" => family(request["family"].as_u64().unwrap_or(0)),
        "tcp" => TcpStream::connect(text(request, "address")?).map(|_| Value::Null),
        "udp" => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket
                .send_to(b"x", text(request, "address")?)
                .map(|_| Value::Null)
        }
        "abstract" => {
            let address = SocketAddr::from_abstract_name(text(request, "name")?)?;
            UnixStream::connect_addr(&address).map(|_| Value::Null)
        }
        "unix" => UnixStream::connect(text(request, "path")?).map(|_| Value::Null),
        "read" => {
            let mut bytes = Vec::new();
            File::open(text(request, "path")?)?
                .take(64)
                .read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                return Err(io::Error::other("there is nothing in it"));
            }
            Ok(json!(bytes.len()))
        }
        "write" => {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(text(request, "path")?)?;
            file.write_all(b"0").map(|()| Value::Null)
        }
        "open-for-writing" => OpenOptions::new()
            .write(true)
            .open(text(request, "path")?)
            .map(|_| Value::Null),
        "device-node" => {
            let path = CString::new(text(request, "path")?)?;
            // The device of /dev/null.
            sys::call(
                libc::SYS_mknodat,
                [
                    libc::AT_FDCWD as u64,
                    address(&path),
                    u64::from(libc::S_IFCHR | 0o600),
                    libc::makedev(1, 3),
                    0,
                    0,
                ],
            )
            .map(|_| Value::Null)
        }
        "file-handle" => {
            let root = c"/".to_owned();
            let mut handle = [0_u32; 34];
            handle[0] = 128;
            let mut mount = 0_u32;
            sys::call(
                libc::SYS_name_to_handle_at,
                [
                    libc::AT_FDCWD as u64,
                    address(&root),
                    handle.as_mut_ptr() as u64,
                    (&raw mut mount) as u64,
                    0,
                    0,
                ],
            )
            .map(|_| Value::Null)
        }
        "run-own-file" => run_own_file(text(request, "path")?),
        "climb" => climb(text(request, "path")?),
        "mount" => sys::in_child(|| {
            // Outside an enclave an ordinary user needs namespaces of his own first.
            let _ = sys::call(
                libc::SYS_unshare,
                [
                    (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64,
                    0,
                    0,
                    0,
                    0,
                    0,
                ],
            );
            let kind = c"tmpfs".to_owned();
            let target = c"/tmp".to_owned();
            sys::call(
                libc::SYS_mount,
                [address(&kind), address(&target), address(&kind), 0, 0, 0],
            )
            .map(drop)
        })
        .map(|()| Value::Null),
        "fsopen" => sys::in_child(|| {
            let _ = sys::call(
                libc::SYS_unshare,
                [
                    (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64,
                    0,
                    0,
                    0,
                    0,
                    0,
                ],
            );
            let kind = c"tmpfs".to_owned();
            sys::call(libc::SYS_fsopen, [address(&kind), 0, 0, 0, 0, 0]).map(drop)
        })
        .map(|()| Value::Null),
        "open-tree" => sys::in_child(|| {
            let _ = unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
            let root = c"/".to_owned();
            // OPEN_TREE_CLONE and AT_RECURSIVE.
            let arguments = [libc::AT_FDCWD as u64, address(&root), 1 | 0x8000, 0, 0, 0];
            sys::call(libc::SYS_open_tree, arguments).map(drop)
        })
        .map(|()| Value::Null),
        "chroot" => sys::in_child(|| {
            let _ = unshare(libc::CLONE_NEWUSER);
            let root = c"/".to_owned();
            sys::call(libc::SYS_chroot, [address(&root), 0, 0, 0, 0, 0]).map(drop)
        })
        .map(|()| Value::Null),
        "unshare" => sys::in_child(|| {
            sys::call(
                libc::SYS_unshare,
                [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0],
            )
            .map(drop)
        })
        .map(|()| Value::Null),
        "clone-namespace" => clone_namespace(),
        "clone3-namespace" => clone3_namespace(),
        "setns" => {
            let namespace = File::open("/proc/self/ns/uts")?;
            // Entering one's own needs CAP_SYS_ADMIN too, thus a user namespace first.
            sys::in_child(|| {
                let _ = sys::call(
                    libc::SYS_unshare,
                    [
                        (libc::CLONE_NEWUSER | libc::CLONE_NEWUTS) as u64,
                        0,
                        0,
                        0,
                        0,
                        0,
                    ],
                );
                let namespace = File::open("/proc/self/ns/uts").unwrap_or(namespace);
                sys::call(
                    libc::SYS_setns,
                    [namespace.as_raw_fd() as u64, 0, 0, 0, 0, 0],
                )
                .map(drop)
            })
            .map(|()| Value::Null)
        }
        "ptrace" => sys::in_child(|| {
            sys::call(
                libc::SYS_ptrace,
                [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0, 0],
            )
            .map(drop)
        })
        .map(|()| Value::Null),
        "ptrace-parent" => {
            let parent = std::os::unix::process::parent_id();
            // PTRACE_SEIZE does not stop it, and the end of this child lets it go.
            sys::in_child(|| {
                sys::call(libc::SYS_ptrace, [0x4206, u64::from(parent), 0, 0, 0, 0]).map(drop)
            })
            .map(|()| json!(parent))
        }
        "parent-descriptor" => {
            let parent = std::os::unix::process::parent_id();
            let process = sys::call(libc::SYS_pidfd_open, [parent.into(), 0, 0, 0, 0, 0])?;
            sys::call(libc::SYS_pidfd_getfd, [process as u64, 0, 0, 0, 0, 0]).map(|_| json!(parent))
        }
        "parent-limits" => {
            let parent = std::os::unix::process::parent_id();
            let mut limits = [0_u64; 2];
            sys::call(
                libc::SYS_prlimit64,
                [
                    parent.into(),
                    u64::from(libc::RLIMIT_NOFILE),
                    0,
                    limits.as_mut_ptr() as u64,
                    0,
                    0,
                ],
            )
            .map(|_| json!(parent))
        }
        "leave-group" => {
            sys::in_child(|| sys::call(libc::SYS_setsid, NONE).map(drop)).map(|()| Value::Null)
        }
        "process-memory" => sys::read_memory_of(std::process::id()).map(|read| json!(read)),
        "io-uring" => {
            let parameters = [0_u8; 120];
            sys::call(
                libc::SYS_io_uring_setup,
                [4, parameters.as_ptr() as u64, 0, 0, 0, 0],
            )
            .map(|fd| json!(fd))
        }
        "keyring" => {
            let kind = c"user".to_owned();
            let name = c"anchorhold-test".to_owned();
            // The process's own keyring, which ends with it.
            let keyring = -2_i64 as u64;
            sys::call(
                libc::SYS_add_key,
                [
                    address(&kind),
                    address(&name),
                    address(&name),
                    4,
                    keyring,
                    0,
                ],
            )
            .map(|_| Value::Null)
        }
        // KEYCTL_GET_KEYRING_ID of the process's keyring, to be made.
        "keyctl" => {
            sys::call(libc::SYS_keyctl, [0, -2_i64 as u64, 1, 0, 0, 0]).map(|_| Value::Null)
        }
        "bpf" => {
            // BPF_MAP_CREATE of an array: type 2, key 4 bytes, value 4, one entry.
            let attributes: [u32; 32] =
                std::array::from_fn(|index| [2, 4, 4, 1].get(index).copied().unwrap_or(0));
            sys::call(libc::SYS_bpf, [0, attributes.as_ptr() as u64, 128, 0, 0, 0])
                .map(|_| Value::Null)
        }
        "perf" => {
            // A software event (task clock) on this process.
            let mut attributes = [0_u64; 16];
            attributes[0] = 1 | (128 << 32);
            attributes[1] = 1;
            // Without the kernel and the hypervisor, as ordinary users must ask.
            attributes[5] = (1 << 5) | (1 << 6);
            sys::call(
                libc::SYS_perf_event_open,
                [attributes.as_ptr() as u64, 0, u64::MAX, u64::MAX, 0, 0],
            )
            .map(|_| Value::Null)
        }
        "userfaultfd" => sys::call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]).map(|_| Value::Null),
        "int80" => int80(),
        "x32" => sys::call(0x4000_0000 | libc::SYS_getpid, NONE).map(|pid| json!(pid)),
        "other-processes" => other_processes(),
        "signal" => {
            let pid = request["pid"].as_u64().unwrap_or(0);
            sys::call(libc::SYS_kill, [pid, 0, 0, 0, 0, 0]).map(|_| json!(pid))
        }
        "signal-everyone" => {
            sys::call(libc::SYS_kill, [-1_i64 as u64, 0, 0, 0, 0, 0]).map(|_| Value::Null)
        }
        "signal-parent" => {
            let parent = std::os::unix::process::parent_id();
            sys::call(libc::SYS_kill, [parent.into(), 0, 0, 0, 0, 0]).map(|_| json!(parent))
        }
        "parent-memory" => {
            let parent = std::os::unix::process::parent_id();
            File::open(format!("/proc/{parent}/mem")).map(|_| json!(parent))
        }
        "parent-environment" => {
            let parent = std::os::unix::process::parent_id();
            fs::read(format!("/proc/{parent}/environ")).map(|_| json!(parent))
        }
        "parent-files" => {
            let parent = std::os::unix::process::parent_id();
            fs::read_dir(format!("/proc/{parent}/fd"))?
                .next()
                .transpose()
                .map(|_| json!(parent))
        }
        "fork-bomb" => {
            let most = usize::try_from(request["most"].as_u64().unwrap_or(0)).unwrap_or(0);
            let (forked, outcome) = sys::fork_many(most);
            outcome.map(|()| json!(forked))
        }
        "memory-bomb" => {
            let bytes = usize::try_from(request["bytes"].as_u64().unwrap_or(0)).unwrap_or(0);
            sys::in_child(|| {
                sys::touch(bytes);
                Ok(())
            })
            .map(|()| Value::Null)
        }
        "disk-bomb" => disk_bomb(request["bytes"].as_u64().unwrap_or(0)),
        "vsock" => sys::call(libc::SYS_socket, [40, 1, 0, 0, 0, 0]).map(|_| Value::Null),
        "nsm-device" => OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/nsm")
            .map(|_| Value::Null),
        "nsm-ioctl" => {
            // The request by its number, on a file that every process has.
            let exchange = [0_u64; 4];
            sys::call(
                libc::SYS_ioctl,
                [0, 0xC020_0A00, exchange.as_ptr() as u64, 0, 0, 0],
            )
            .map(|_| Value::Null)
        }
        "descriptors" => descriptors(),
        "environment" => {
            let mut names: Vec<String> = std::env::vars_os()
                .map(|(name, _)| name.to_string_lossy().into_owned())
                .collect();
            names.sort();
            Ok(json!(names))
        }
        "own-pid" => Ok(json!(std::process::id())),
        "identity" => {
            Ok(json!({ "status": fs::read_to_string("/proc/self/status").unwrap_or_default() }))
        }
        other => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no attempt is named {other:?}"),
        )),
    }
}

/// Opens a socket of an address family, of whatever kind and protocol it has.
fn family(family: u64) -> io::Result<Value> {
    let mut outcome = Err(io::Error::from(io::ErrorKind::Unsupported));
    for kind in [1_u64, 2, 3, 5] {
        for protocol in [0, 1, 2] {
            outcome = sys::call(libc::SYS_socket, [family, kind, protocol, 0, 0, 0]);
            if let Ok(fd) = outcome {
                let _ = sys::call(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
                return Ok(json!({ "kind": kind, "protocol": protocol }));
            }
        }
    }
    outcome.map(|_| Value::Null)
}

/// Looks for a file of the host along every way that leads up.
fn climb(path: &str) -> io::Result<Value> {
    let path = path.trim_start_matches('/');
    for start in [
        "/",
        "../../../../../../../../",
        "/proc/1/root/",
        "/proc/self/root/",
        "/proc/1/cwd/../../../",
        "/dev/fd/0/../../../",
    ] {
        if File::open(format!("{start}{path}")).is_ok() {
            return Ok(json!(start));
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn unshare(flags: i32) -> io::Result<()> {
    sys::call(libc::SYS_unshare, [flags as u64, 0, 0, 0, 0, 0]).map(drop)
}

/// Descriptors beyond the three standard streams.
fn descriptors() -> io::Result<Value> {
    let mut inherited = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let own = target.to_string_lossy().ends_with("/fd");
        let name = entry.file_name().to_string_lossy().into_owned();
        if !own && !["0", "1", "2"].contains(&name.as_str()) {
            inherited.push(format!("{name}: {}", target.display()));
        }
    }
    if inherited.is_empty() {
        Err(io::Error::other("only the standard streams"))
    } else {
        Ok(json!(inherited))
    }
}

/// Writes a program and runs it: what a job writes is not measured.
fn run_own_file(path: &str) -> io::Result<Value> {
    let copied = fs::copy("/proc/self/exe", path);
    let outcome = copied.and_then(|_| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        Command::new(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
    });
    let _ = fs::remove_file(path);
    outcome.map(|_| Value::Null)
}

fn clone3_namespace() -> io::Result<Value> {
    // struct clone_args: flags first, the signal at its end fifth.
    let mut arguments = [0_u64; 11];
    arguments[0] = libc::CLONE_NEWUSER as u64;
    arguments[4] = libc::SIGCHLD as u64;
    sys::in_child(|| {
        if sys::call(
            libc::SYS_clone3,
            [arguments.as_ptr() as u64, 88, 0, 0, 0, 0],
        )? == 0
        {
            std::process::exit(0);
        }
        Ok(())
    })
    .map(|()| Value::Null)
}

fn clone_namespace() -> io::Result<Value> {
    let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as u64;
    sys::in_child(|| {
        if sys::call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])? == 0 {
            std::process::exit(0);
        }
        Ok(())
    })
    .map(|()| Value::Null)
}

#[cfg(target_arch = "x86_64")]
fn int80() -> io::Result<Value> {
    let mut seen = 0;
    sys::in_child(|| {
        let pid = sys::getpid_by_int80();
        if pid == i64::from(std::process::id()) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(
                i32::try_from(-pid).unwrap_or(libc::EINVAL),
            ))
        }
    })?;
    seen += 1;
    Ok(json!(seen))
}

#[cfg(not(target_arch = "x86_64"))]
fn int80() -> io::Result<Value> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Processes that belong to neither this job nor the runtime.
fn other_processes() -> io::Result<Value> {
    let own = std::process::id().to_string();
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) && name != own && name != "1" {
            others.push(name);
        }
    }
    if others.is_empty() {
        Err(io::Error::other(
            "only this process and the runtime are seen",
        ))
    } else {
        Ok(json!(others.len()))
    }
}

/// Fills the scratch folder: many files, since one alone is bounded in another way.
fn disk_bomb(bytes: u64) -> io::Result<Value> {
    const FILE: u64 = 16 << 20;
    let folder = format!("/tmp/anchorhold-bomb-{}", std::process::id());
    fs::create_dir(&folder)?;
    sys::ignore_too_large_files();
    let piece = vec![0_u8; 1 << 20];
    let outcome = (0..bytes / FILE).try_for_each(|number| {
        let mut file = File::create(format!("{folder}/{number}"))?;
        (0..FILE >> 20).try_for_each(|_| file.write_all(&piece))
    });
    let _ = fs::remove_dir_all(&folder);
    outcome.map(|()| Value::Null)
}
