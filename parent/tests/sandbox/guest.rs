//! The program inside: this test binary again, as `/init`. It does what `/command` says, with the unmodified `vsock` and
//! `aws-nitro-enclaves-nsm-api` crates, and exits with 0 if everything was as it should be.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use aws_nitro_enclaves_nsm_api::driver::{nsm_exit, nsm_init, nsm_process_request};
use vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use super::doors;
use super::sys::{self, call};

const PARENT: u32 = 3;
const USUAL: u32 = 20;
const ANY: u64 = 0xFFFF_FFFF;

pub(crate) fn main() {
    let command = std::fs::read_to_string("/command").expect("a command");
    let mut words = command.split_whitespace();
    let name = words.next().expect("a name");
    match name {
        "hello" => hello(),
        "echo" => echo(),
        "dial" => dial(),
        "addresses" => addresses(),
        "accepts" => accepts(),
        "unix" => unix(),
        "nsm" => nsm(),
        "view" => view(),
        "doors" => doors::print(),
        "job" => job(),
        "race" => race(words.next().expect("a name")),
        "odd" => odd(),
        "many" => many(),
        "fork-bomb" => fork_bomb(),
        "memory-bomb" => memory_bomb(),
        "memory-bombs" => memory_bombs(),
        "file-bomb" => file_bomb(),
        "flood" => flood(),
        "sleep" => std::thread::sleep(Duration::from_secs(600)),
        "last-words" => last_words(),
        "rounds" => rounds(),
        "throughput" => throughput(),
        "window" => window(words.next().expect("a target")),
        "exit" => std::process::exit(words.next().expect("a code").parse().expect("a number")),
        other => panic!("no such command: {other}"),
    }
}

fn errno(result: io::Result<impl Sized>) -> i32 {
    result
        .err()
        .map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn hello() {
    println!("hello from {}", std::process::id());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for line in status
        .lines()
        .filter(|line| line.starts_with("Uid") || line.starts_with("Seccomp"))
    {
        println!("{line}");
    }
    eprintln!("and this is stderr");
    std::process::exit(7);
}

/// Echoes on port 5000, and on 5001 reads to the end and answers with the number of bytes.
fn echo() {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 5000).unwrap();
    let counter = VsockListener::bind_with_cid_port(own_cid(), 5001).unwrap();
    println!("listening");
    std::thread::spawn(move || {
        for stream in counter.incoming() {
            let mut stream = stream.unwrap();
            let count = io::copy(&mut stream, &mut io::sink()).unwrap();
            write!(stream, "{count}").unwrap();
        }
    });
    loop {
        let (mut stream, peer) = listener.accept().unwrap();
        assert_eq!(peer.cid(), PARENT);
        assert_eq!(stream.peer_addr().unwrap(), peer);
        assert_eq!(
            stream.local_addr().unwrap(),
            VsockAddr::new(own_cid(), 5000)
        );
        std::thread::spawn(move || {
            let mut out = stream.try_clone().unwrap();
            if let Err(error) = io::copy(&mut stream, &mut out) {
                println!("echo failed: {error}");
            }
            let _ = out.shutdown(Shutdown::Write);
        });
    }
}

/// This enclave's CID.
fn own_cid() -> u32 {
    std::fs::read_to_string("/cid").map_or(USUAL, |text| text.parse().unwrap())
}

fn dial() {
    for cid in [PARENT, 2] {
        let mut stream = VsockStream::connect_with_cid_port(cid, 8000).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), VsockAddr::new(cid, 8000));
        assert_eq!(stream.local_addr().unwrap().cid(), own_cid());
        assert!(stream.local_addr().unwrap().port() > 1023);
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer to question");
    }
    let refused = |cid, port| errno(VsockStream::connect_with_cid_port(cid, port));
    assert_eq!(refused(PARENT, 8001), libc::ECONNRESET);
    assert_eq!(refused(1, 8000), libc::ENODEV);
    assert_eq!(refused(own_cid(), 8000), libc::ENODEV);
    assert_eq!(refused(99, 8000), libc::ENETUNREACH);
    assert_eq!(vsock::get_local_cid().unwrap(), own_cid());
}

fn socket(kind: i32) -> io::Result<OwnedFd> {
    call(libc::SYS_socket, [40, kind as u64, 0, 0, 0, 0]).map(sys::own)
}

fn address(family: u16, cid: u32, port: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&family.to_ne_bytes());
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    bytes[8..12].copy_from_slice(&cid.to_ne_bytes());
    bytes
}

fn with_address(
    number: libc::c_long,
    socket: &OwnedFd,
    address: &[u8],
    length: u64,
) -> io::Result<i64> {
    call(
        number,
        [
            socket.as_raw_fd() as u64,
            address.as_ptr() as u64,
            length,
            0,
            0,
            0,
        ],
    )
}

fn bind(socket: &OwnedFd, cid: u32, port: u32) -> io::Result<i64> {
    with_address(libc::SYS_bind, socket, &address(40, cid, port), 16)
}

fn listen(socket: &OwnedFd) -> io::Result<i64> {
    call(libc::SYS_listen, [socket.as_raw_fd() as u64, 8, 0, 0, 0, 0])
}

/// What the kernel's vsock answers to right and wrong arguments.
fn addresses() {
    assert_eq!(errno(socket(libc::SOCK_DGRAM)), libc::ESOCKTNOSUPPORT);
    assert_eq!(errno(socket(libc::SOCK_RAW)), libc::ESOCKTNOSUPPORT);
    assert_eq!(
        errno(call(libc::SYS_socket, [40, 1, 6, 0, 0, 0])),
        libc::EPROTONOSUPPORT
    );
    let one = socket(libc::SOCK_STREAM).unwrap();
    let other = socket(libc::SOCK_STREAM | libc::SOCK_CLOEXEC).unwrap();
    let flags = |fd: &OwnedFd| {
        call(
            libc::SYS_fcntl,
            [fd.as_raw_fd() as u64, libc::F_GETFD as u64, 0, 0, 0, 0],
        )
        .unwrap()
    };
    assert_eq!((flags(&one), flags(&other)), (0, 1));

    assert_eq!(errno(listen(&one)), libc::EINVAL, "not bound");
    assert_eq!(errno(bind(&one, 77, 5000)), libc::EADDRNOTAVAIL);
    assert_eq!(
        errno(with_address(
            libc::SYS_bind,
            &one,
            &address(1, own_cid(), 5000),
            16
        )),
        libc::EAFNOSUPPORT
    );
    assert_eq!(
        errno(with_address(
            libc::SYS_bind,
            &one,
            &address(40, own_cid(), 5000),
            8
        )),
        libc::EFAULT
    );
    assert_eq!(
        errno(call(
            libc::SYS_bind,
            [one.as_raw_fd() as u64, 16, 16, 0, 0, 0]
        )),
        libc::EFAULT
    );
    assert_eq!(errno(bind(&one, own_cid(), 5000)), 0);
    assert_eq!(
        errno(bind(&one, own_cid(), 5001)),
        libc::EINVAL,
        "bound twice"
    );
    assert_eq!(errno(bind(&other, own_cid(), 5000)), libc::EADDRINUSE);
    assert_eq!(errno(listen(&one)), 0);
    drop(one);
    assert_eq!(errno(bind(&other, own_cid(), 5000)), 0, "free again");
    drop(other);

    let any = socket(libc::SOCK_STREAM).unwrap();
    assert_eq!(errno(bind(&any, u32::MAX, u32::MAX)), 0);
    let (cid, port, length) = name(&any, libc::SYS_getsockname, 16).unwrap();
    assert_eq!((cid, length), (u32::MAX, 16));
    assert!(port > 1023 && port != u32::MAX);
    assert_eq!(errno(name(&any, libc::SYS_getpeername, 16)), libc::ENOTCONN);
    let (cid, _, length) = name(&any, libc::SYS_getsockname, 8).unwrap();
    assert_eq!((cid, length), (0, 16), "cut to the room there was");

    let packet = socket(libc::SOCK_SEQPACKET).unwrap();
    assert_eq!(errno(bind(&packet, u32::MAX, 7000)), 0);
    assert_eq!(errno(listen(&packet)), 0);

    // Options.
    let mut value = 0u64;
    let mut length = 8u32;
    let option = |number: u64, value: u64, length: u64, call_number| {
        call(
            call_number,
            [any.as_raw_fd() as u64, 40, number, value, length, 0],
        )
    };
    let at = &raw mut value as u64;
    let length_at = &raw mut length as u64;
    assert_eq!(errno(option(0, at, length_at, libc::SYS_getsockopt)), 0);
    assert_eq!(value, 262_144);
    let wanted = 65_536u64;
    assert_eq!(
        errno(option(0, &raw const wanted as u64, 8, libc::SYS_setsockopt)),
        0
    );
    assert_eq!(errno(option(0, at, length_at, libc::SYS_getsockopt)), 0);
    assert_eq!(value, 65_536);
    let timeout = [3u64, 0];
    assert_eq!(
        errno(option(6, timeout.as_ptr() as u64, 16, libc::SYS_setsockopt)),
        0
    );
    assert_eq!(
        errno(option(99, at, 8, libc::SYS_setsockopt)),
        libc::ENOPROTOOPT
    );
    assert_eq!(errno(option(0, 16, 8, libc::SYS_setsockopt)), libc::EFAULT);
    let mut domain = 0u32;
    let mut length = 4u32;
    let asked = call(
        libc::SYS_getsockopt,
        [
            any.as_raw_fd() as u64,
            1,
            39,
            &raw mut domain as u64,
            &raw mut length as u64,
            0,
        ],
    );
    assert_eq!((errno(asked), domain), (0, 40));
}

fn name(socket: &OwnedFd, number: libc::c_long, room: u32) -> io::Result<(u32, u32, u32)> {
    let mut bytes = [0u8; 16];
    let mut length = room;
    call(
        number,
        [
            socket.as_raw_fd() as u64,
            bytes.as_mut_ptr() as u64,
            &raw mut length as u64,
            0,
            0,
            0,
        ],
    )?;
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    Ok((word(8), word(4), length))
}

/// Accepts in every way. The host connects to 5000 six times when it is told to, each time with one byte.
fn accepts() {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 5000).unwrap();

    // Not waiting.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(errno(listener.accept()), libc::EAGAIN);
    println!("connect");
    let mut poll = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // Readiness comes from the kernel, without any help.
    assert_eq!(
        call(libc::SYS_ppoll, [&raw mut poll as u64, 1, 0, 0, 0, 0]).unwrap(),
        1
    );
    let (mut stream, _) = listener.accept().unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(errno(listener.accept()), libc::EAGAIN);
    listener.set_nonblocking(false).unwrap();

    // Interrupted.
    sys::alarm_without_restart(50);
    assert_eq!(errno(listener.accept()), libc::EINTR);

    // Several at once, while other calls are answered.
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let listener = listener.try_clone().unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                byte[0]
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let before = Instant::now();
    drop(socket(libc::SOCK_STREAM).unwrap());
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "held up by accepts"
    );
    for _ in 0..3 {
        println!("connect");
    }
    let mut bytes: Vec<u8> = waiting
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes.len(), 3);

    // By a child, on an inherited descriptor; and by a copy of the descriptor.
    println!("connect");
    let child = sys::fork().unwrap();
    if child.is_none() {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        sys::exit(0);
    }
    assert_eq!(sys::wait(child.unwrap()), 0);
    let copy = listener.try_clone().unwrap();
    drop(listener);
    println!("connect");
    let (mut stream, _) = copy.accept().unwrap();
    stream.read_exact(&mut byte).unwrap();

    // Without asking for the address, and with room for half of it.
    println!("connect");
    let accepted = call(libc::SYS_accept, [copy.as_raw_fd() as u64, 0, 0, 0, 0, 0]).unwrap();
    drop(sys::own(accepted));

    // A process that is killed while it accepts lets go of the port.
    drop(copy);
    let child = sys::fork().unwrap();
    if child.is_none() {
        let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 5000).unwrap();
        let _ = listener.accept();
        sys::exit(1);
    }
    std::thread::sleep(Duration::from_millis(50));
    call(
        libc::SYS_kill,
        [child.unwrap() as u64, libc::SIGKILL as u64, 0, 0, 0, 0],
    )
    .unwrap();
    sys::wait(child.unwrap());
    let again = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 5000).unwrap();
    println!("connect");
    again.accept().unwrap();
}

/// The enclave's own Unix sockets work as ever.
fn unix() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    let talk = |listener: UnixListener, client: UnixStream| {
        let (mut served, _) = listener.accept().unwrap();
        let mut client = client;
        client.write_all(b"hi").unwrap();
        let mut two = [0; 2];
        served.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"hi");
        assert!(client.local_addr().unwrap().is_unnamed());
    };
    let listener = UnixListener::bind("/tmp/s").unwrap();
    talk(listener, UnixStream::connect("/tmp/s").unwrap());
    let name = SocketAddr::from_abstract_name("inside").unwrap();
    let listener = UnixListener::bind_addr(&name).unwrap();
    talk(listener, UnixStream::connect_addr(&name).unwrap());
    let (mut one, mut other) = UnixStream::pair().unwrap();
    one.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    assert_eq!(errno(one.read(&mut [0])), libc::EAGAIN);
    other.write_all(b"x").unwrap();
    one.read_exact(&mut [0]).unwrap();
}

/// A descriptor that is a mere path, which takes no permission to get.
fn open_path() -> io::Result<i64> {
    let here = i64::from(libc::AT_FDCWD).cast_unsigned();
    let path = c"/dev/nsm".as_ptr() as u64;
    call(libc::SYS_openat, [here, path, libc::O_PATH as u64, 0, 0, 0])
}

fn nsm_ioctl(fd: i32, message: u64) -> i32 {
    errno(call(
        libc::SYS_ioctl,
        [fd as u64, 0xC020_0A00, message, 0, 0, 0],
    ))
}

fn nsm() {
    let fd = nsm_init();
    assert!(fd >= 0);
    let Response::DescribeNSM {
        max_pcrs,
        module_id,
        locked_pcrs,
        ..
    } = nsm_process_request(fd, Request::DescribeNSM)
    else {
        panic!("no description");
    };
    assert_eq!(max_pcrs, 32);
    assert_eq!(locked_pcrs.len(), 16);
    println!("module {module_id}");
    let Response::Attestation { document } = nsm_process_request(
        fd,
        Request::Attestation {
            user_data: Some(b"data".to_vec().into()),
            nonce: Some(b"nonce".to_vec().into()),
            public_key: None,
        },
    ) else {
        panic!("no document");
    };
    println!("document {}", hex::encode(&document));
    let Response::GetRandom { random } = nsm_process_request(fd, Request::GetRandom) else {
        panic!("no random bytes");
    };
    assert_eq!(random.len(), 256);
    let extended = nsm_process_request(
        fd,
        Request::ExtendPCR {
            index: 16,
            data: vec![1],
        },
    );
    assert!(matches!(extended, Response::ExtendPCR { .. }));
    let locked = nsm_process_request(
        fd,
        Request::ExtendPCR {
            index: 0,
            data: vec![1],
        },
    );
    assert!(matches!(locked, Response::Error(ErrorCode::ReadOnlyIndex)));

    // What the driver says to nonsense.
    let request = [0xFFu8; 8192];
    let mut response = [0u8; 64];
    let mut message = [
        request.as_ptr() as u64,
        16,
        response.as_mut_ptr() as u64,
        64,
    ];
    assert_eq!(
        nsm_ioctl(fd, message.as_ptr() as u64),
        0,
        "an error in CBOR is an answer"
    );
    assert!(message[3] > 0 && message[3] <= 64);
    message = [
        request.as_ptr() as u64,
        4097,
        response.as_mut_ptr() as u64,
        64,
    ];
    assert_eq!(nsm_ioctl(fd, message.as_ptr() as u64), libc::EMSGSIZE);
    message = [16, 16, response.as_mut_ptr() as u64, 64];
    assert_eq!(nsm_ioctl(fd, message.as_ptr() as u64), libc::EFAULT);
    message = [request.as_ptr() as u64, 16, 16, 64];
    assert_eq!(nsm_ioctl(fd, message.as_ptr() as u64), libc::EFAULT);
    assert_eq!(nsm_ioctl(fd, 16), libc::EFAULT);
    message = [
        request.as_ptr() as u64,
        u64::MAX,
        response.as_mut_ptr() as u64,
        u64::MAX,
    ];
    assert_eq!(nsm_ioctl(fd, message.as_ptr() as u64), libc::EMSGSIZE);

    // The number of the request alone opens nothing.
    message = [
        request.as_ptr() as u64,
        16,
        response.as_mut_ptr() as u64,
        64,
    ];
    let null = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(
        nsm_ioctl(null.as_raw_fd(), message.as_ptr() as u64),
        libc::ENOTTY
    );
    assert_eq!(nsm_ioctl(99, message.as_ptr() as u64), libc::EBADF);
    let path = open_path().unwrap();
    assert_eq!(nsm_ioctl(path as i32, message.as_ptr() as u64), libc::EBADF);
    nsm_exit(fd);
}

/// Prints what can be seen from inside.
fn view() {
    let mut names: Vec<_> = std::fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    println!("root: {}", names.join(" "));
    println!(
        "host name: {}",
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim()
    );
    print!(
        "{}",
        std::fs::read_to_string("/proc/self/mountinfo").unwrap()
    );
    println!(
        "network: {}",
        std::fs::read_to_string("/proc/net/dev")
            .unwrap()
            .lines()
            .count()
    );
    let pids: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
        })
        .collect();
    println!("processes: {pids:?}");
    println!(
        "cgroup: {}",
        std::fs::read_to_string("/proc/self/cgroup")
            .unwrap()
            .trim()
            .replace('\n', " ")
    );
    println!("environment: {:?}", std::env::vars().collect::<Vec<_>>());
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count() - 1;
    println!("descriptors: {descriptors}");
    let mut limit = [0u64; 2];
    call(
        libc::SYS_prlimit64,
        [
            0,
            libc::RLIMIT_CORE.into(),
            0,
            limit.as_mut_ptr() as u64,
            0,
            0,
        ],
    )
    .unwrap();
    println!("core: {}", limit[0]);
    for (path, expected) in [
        ("/new", libc::EROFS),
        ("/dev/new", libc::EROFS),
        ("/tmp/new", 0),
        ("/run/new", 0),
        ("/dev/shm/new", 0),
    ] {
        assert_eq!(errno(std::fs::write(path, "x")), expected, "{path}");
    }
    assert_eq!(errno(std::fs::remove_file("/init")), libc::EROFS);
    std::fs::write("/dev/null", "x").unwrap();
    let mut random = [0; 8];
    std::fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut random)
        .unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/console")
        .unwrap()
        .write_all(b"by the console\n")
        .unwrap();
    for path in [
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/1/root/etc/hostname",
        "/proc/sysrq-trigger",
    ] {
        assert_ne!(
            errno(std::fs::File::open(path).and_then(|mut file| file.read(&mut random))),
            0,
            "{path}"
        );
    }
    assert_ne!(errno(std::fs::write("/proc/sysrq-trigger", "h")), 0);
}

/// An unprivileged process beside init, as jobs are.
fn job() {
    let child = sys::fork().unwrap();
    if let Some(child) = child {
        let status = sys::wait(child);
        assert_eq!(status, 0, "the job failed");
        return;
    }
    call(libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]).unwrap();
    call(libc::SYS_setresgid, [1000, 1000, 1000, 0, 0, 0]).unwrap();
    call(libc::SYS_setresuid, [1000, 1000, 1000, 0, 0, 0]).unwrap();
    assert_eq!(
        errno(
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/nsm")
        ),
        libc::EACCES
    );
    assert_eq!(errno(std::fs::File::open("/dev/vsock")), libc::EACCES);
    let path = open_path().unwrap();
    let message = [0u64; 4];
    assert_eq!(nsm_ioctl(path as i32, message.as_ptr() as u64), libc::EBADF);
    let own = std::fs::File::create("/tmp/nsm").unwrap();
    assert_eq!(
        nsm_ioctl(own.as_raw_fd(), message.as_ptr() as u64),
        libc::ENOTTY
    );
    assert_eq!(
        errno(std::fs::read("/proc/1/environ")),
        libc::ENOENT,
        "init is invisible"
    );
    assert_eq!(
        errno(call(libc::SYS_kill, [1, libc::SIGKILL as u64, 0, 0, 0, 0])),
        libc::EPERM
    );
    assert_eq!(
        errno(call(libc::SYS_setresuid, [0, 0, 0, 0, 0, 0])),
        libc::EPERM
    );
    // Ports below 1024 are for root.
    let socket = socket(libc::SOCK_STREAM).unwrap();
    assert_eq!(errno(bind(&socket, own_cid(), 80)), libc::EACCES);
    sys::exit(0);
}

/// Tries to have the kernel do something to a vsock socket that was meant for a Unix socket, by changing descriptors while the
/// supervisor looks. `name`: an abstract socket that listens on the host.
fn race(name: &str) {
    let mut host = vec![1u8, 0, 0];
    host.extend(name.as_bytes());
    let unix = || {
        call(libc::SYS_socket, [1, 1, 0, 0, 0, 0])
            .map(sys::own)
            .unwrap()
    };
    let slot = unix();
    let number = slot.as_raw_fd();
    let stop = Instant::now() + Duration::from_millis(1500);
    let swapping = std::thread::spawn(move || {
        while Instant::now() < stop {
            let vsock = socket(libc::SOCK_STREAM).unwrap();
            let _ = call(
                libc::SYS_dup3,
                [vsock.as_raw_fd() as u64, number as u64, 0, 0, 0, 0],
            );
            let own = unix();
            let _ = call(
                libc::SYS_dup3,
                [own.as_raw_fd() as u64, number as u64, 0, 0, 0, 0],
            );
        }
    });
    let mut tried = 0u64;
    while Instant::now() < stop {
        for call_number in [libc::SYS_connect, libc::SYS_bind] {
            let done = call(
                call_number,
                [
                    number as u64,
                    host.as_ptr() as u64,
                    host.len() as u64,
                    0,
                    0,
                    0,
                ],
            );
            if call_number == libc::SYS_connect {
                assert_ne!(errno(done), 0, "reached a socket of the host");
            }
        }
        tried += 1;
    }
    swapping.join().unwrap();
    println!("tried {tried}");
    // The supervisor is well.
    drop(VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 6000).unwrap());
}

/// Every answered call with odd arguments, from several threads.
fn odd() {
    let threads: Vec<_> = (0..4u64)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                let mut random = move || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state
                };
                let buffer = [0u8; 256];
                let nsm = std::fs::File::open("/dev/nsm").unwrap();
                let vsock = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK).unwrap();
                let seqpacket = socket(libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK).unwrap();
                let odd = [
                    0,
                    1,
                    16,
                    40,
                    4096,
                    ANY,
                    u64::MAX,
                    1 << 31,
                    1 << 63,
                    buffer.as_ptr() as u64,
                    0x7b9,
                    0xC020_0A00,
                    20,
                    66,
                ];
                let files = [
                    nsm.as_raw_fd() as u64,
                    vsock.as_raw_fd() as u64,
                    seqpacket.as_raw_fd() as u64,
                    1,
                    77,
                    u64::MAX,
                ];
                let calls = [
                    libc::SYS_bind,
                    libc::SYS_listen,
                    libc::SYS_connect,
                    libc::SYS_getsockname,
                    libc::SYS_getpeername,
                    libc::SYS_setsockopt,
                    libc::SYS_getsockopt,
                    libc::SYS_ioctl,
                    libc::SYS_accept,
                    libc::SYS_accept4,
                ];
                for _ in 0..5000 {
                    let mut pick = |from: &[u64]| from[(random() % from.len() as u64) as usize];
                    let arguments = [
                        pick(&files),
                        pick(&odd),
                        pick(&odd),
                        pick(&odd),
                        pick(&odd),
                        pick(&odd),
                    ];
                    let number = calls[(random() % calls.len() as u64) as usize];
                    // A blocking accept on a descriptor of ours would wait: all of them are non-blocking.
                    let _ = call(number, arguments);
                    if random() % 8 == 0
                        && let Ok(made) = call(libc::SYS_socket, [40, random() % 8, 0, 0, 0, 0])
                    {
                        drop(sys::own(made));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    dial_once();
}

fn dial_once() {
    let mut stream = VsockStream::connect_with_cid_port(PARENT, 8000).unwrap();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer to question");
}

/// More sockets than allowed, and more than allowed one after the other.
fn many() {
    for _ in 0..10_000 {
        drop(socket(libc::SOCK_STREAM).unwrap());
    }
    let mut held = Vec::new();
    let refused = loop {
        match socket(libc::SOCK_STREAM) {
            Ok(socket) => held.push(socket),
            Err(error) => break error.raw_os_error(),
        }
    };
    assert_eq!(refused, Some(libc::EMFILE));
    assert_eq!(held.len(), 4096);
    held.truncate(100);
    for _ in 0..1000 {
        drop(socket(libc::SOCK_STREAM).unwrap());
    }
    drop(held);
    for _ in 0..200 {
        dial_once();
    }
}

fn fork_bomb() {
    let mut children = 0u32;
    let refused = loop {
        match sys::fork() {
            Ok(None) => {
                std::thread::sleep(Duration::from_secs(60));
                sys::exit(0);
            }
            Ok(Some(_)) => children += 1,
            Err(error) => break error.raw_os_error(),
        }
        assert!(children < 5000, "nothing stopped it");
    };
    assert_eq!(refused, Some(libc::EAGAIN));
    println!("stopped at {children}");
}

fn memory_bomb() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            println!("refused after {} MiB", held.len());
            std::process::exit(3);
        }
        block.resize(1 << 20, 1);
        held.push(block);
        assert!(held.len() < 2048, "nothing stopped it");
    }
}

/// Many processes, each of which stays within what one may have.
fn memory_bombs() {
    let children: Vec<_> = (0..16)
        .map(|_| match sys::fork().unwrap() {
            None => {
                let block = vec![1u8; 60 << 20];
                std::thread::sleep(Duration::from_secs(10));
                sys::exit(i32::from(block[4096] != 1));
            }
            Some(child) => child,
        })
        .collect();
    let failed = children
        .into_iter()
        .filter(|child| sys::wait(*child) != 0)
        .count();
    std::process::exit(if failed > 0 { 3 } else { 0 });
}

fn file_bomb() {
    let mut file = std::fs::File::create("/tmp/big").unwrap();
    let block = vec![1u8; 1 << 20];
    for written in 0..2048 {
        if let Err(error) = file.write_all(&block) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            println!("stopped at {written} MiB");
            return;
        }
    }
    panic!("nothing stopped it");
}

fn flood() {
    let line = [b'x'; 1000];
    let mut out = io::stdout().lock();
    for _ in 0..40_000 {
        out.write_all(&line).unwrap();
        out.write_all(b"\n").unwrap();
    }
}

/// Sends much, and is gone before anybody has read it.
fn last_words() {
    let mut stream = VsockStream::connect_with_cid_port(PARENT, 8000).unwrap();
    stream.write_all(&[b'z'; 150_000]).unwrap();
}

/// How long a call that the supervisor answers takes, beside one that the kernel answers.
fn rounds() {
    const ROUNDS: u32 = 20_000;
    let socket = socket(libc::SOCK_STREAM).unwrap();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let _ = name(&socket, libc::SYS_getpeername, 16);
    }
    let answered = begun.elapsed() / ROUNDS;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        drop(self::socket(libc::SOCK_STREAM).unwrap());
    }
    let made = begun.elapsed() / ROUNDS;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let _ = call(libc::SYS_getppid, [0; 6]);
    }
    println!(
        "answered call {answered:?}, socket made and closed {made:?}, plain call {:?}",
        begun.elapsed() / ROUNDS
    );
}

/// Through the parent's window: sends 512 MiB to a target, takes as much from it, and sends a byte back and forth.
fn window(target: &str) {
    const LENGTH: usize = 1 << 29;
    let dial = || {
        let mut stream = VsockStream::connect_with_cid_port(PARENT, 8000).unwrap();
        write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"));
        stream
    };
    let mut block = vec![7u8; 256 << 10];
    let mut out = dial();
    for _ in 0..LENGTH / block.len() {
        out.write_all(&block).unwrap();
    }
    out.shutdown(Shutdown::Write).unwrap();
    assert_eq!(out.read(&mut block).unwrap(), 0);
    let mut source = dial();
    let mut taken = 0;
    while let count @ 1.. = source.read(&mut block).unwrap() {
        taken += count;
    }
    assert_eq!(taken, LENGTH);
    let mut ping = dial();
    let mut byte = [0];
    for _ in 0..5000 {
        ping.write_all(&[1]).unwrap();
        ping.read_exact(&mut byte).unwrap();
    }
}

/// Sends 1 GiB to 8000, and takes as much from 8001.
fn throughput() {
    const LENGTH: usize = 1 << 30;
    let block = vec![7u8; 256 << 10];
    let mut out = VsockStream::connect_with_cid_port(PARENT, 8000).unwrap();
    for _ in 0..LENGTH / block.len() {
        out.write_all(&block).unwrap();
    }
    drop(out);
    let mut source = VsockStream::connect_with_cid_port(PARENT, 8001).unwrap();
    let mut buffer = vec![0u8; 256 << 10];
    let mut taken = 0;
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => break,
            count => taken += count,
        }
    }
    assert_eq!(taken, LENGTH);
    // One byte back and forth.
    let mut ping = VsockStream::connect_with_cid_port(PARENT, 8002).unwrap();
    let mut byte = [0];
    for _ in 0..5000 {
        ping.write_all(&[1]).unwrap();
        ping.read_exact(&mut byte).unwrap();
    }
}
