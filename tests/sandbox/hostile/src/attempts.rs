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
use std::os::unix::net::{SocketAddr, UnixStream};

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
        "families" => families(),
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
        "unshare" => sys::in_child(|| {
            sys::call(
                libc::SYS_unshare,
                [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0],
            )
            .map(drop)
        })
        .map(|()| Value::Null),
        "clone-namespace" => clone_namespace(),
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
            let session = -3_i64 as u64;
            sys::call(
                libc::SYS_add_key,
                [
                    address(&kind),
                    address(&name),
                    address(&name),
                    4,
                    session,
                    0,
                ],
            )
            .map(|_| Value::Null)
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

/// Opens a stream or datagram socket of every address family but `AF_UNIX` (1).
fn families() -> io::Result<Value> {
    let mut opened = Vec::new();
    for family in 2..64_u64 {
        for kind in [1_u64, 2, 3, 5] {
            if let Ok(fd) = sys::call(libc::SYS_socket, [family, kind, 0, 0, 0, 0]) {
                let _ = sys::call(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
                opened.push(family);
                break;
            }
        }
    }
    if opened.is_empty() {
        Err(io::Error::other("no family but AF_UNIX"))
    } else {
        Ok(json!(opened))
    }
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

fn disk_bomb(bytes: u64) -> io::Result<Value> {
    let path = format!("/tmp/anchorhold-bomb-{}", std::process::id());
    let outcome = (|| {
        let mut file = File::create(&path)?;
        let piece = vec![0_u8; 1 << 20];
        for _ in 0..bytes >> 20 {
            file.write_all(&piece)?;
        }
        Ok(Value::Null)
    })();
    let _ = fs::remove_file(&path);
    outcome
}
