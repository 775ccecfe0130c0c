//! A host of Nitro enclaves, played for a process under test: its `/dev/nitro_enclaves` with the ioctls, as strict as the
//! kernel's driver (`drivers/virt/nitro_enclaves/ne_misc_dev.c`, whose checks and their order are kept), its `/sys`, its huge
//! pages and its `AF_VSOCK`. What stands in the memory that was handed over is taken out again and started in the sandbox.
//!
//! The process under test knows nothing of it: its system calls arrive here by seccomp user notification.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anchorhold_parent::{Backend, Enclave, Launch, launch, sandbox};
use anchorhold_simulator::DevelopmentRoot;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, getpeername, socket, socketpair,
};
use nix::sys::stat::fstat;

use super::sys::{self, Answer, Call};

const CREATE: u32 = 0x8008_ae20;
const ADD_CPU: u32 = 0xc004_ae21;
const LOAD_INFO: u32 = 0xc010_ae22;
const SET_MEMORY: u32 = 0x4018_ae23;
const START: u32 = 0xc010_ae24;

const PIECE: u64 = 2 << 20;
/// Where images go.
const IMAGE_OFFSET: u64 = 8 << 20;
const LEAST_MEMORY: u64 = 64 << 20;

/// What a call is for, in the words that tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Point {
    Open,
    Create,
    LoadInfo,
    Memory,
    Cpu,
    Start,
    HugePages,
}

/// The host and what is on it.
pub(crate) struct Host {
    /// For its `/sys`, its sockets and its enclaves' folders.
    folder: PathBuf,
    root: DevelopmentRoot,
    /// CPUs of the pool that are free, and how many threads a core has.
    free: Vec<u32>,
    node: u64,
    most_regions: usize,
    slots: HashMap<u64, Slot>,
    /// Memory files in huge pages that were given out: by inode, their page size.
    pages: HashMap<u64, (u64, OwnedFd)>,
    /// Where `mbind` wants memory: by address.
    bound: HashMap<u64, u64>,
    listening: Vec<u32>,
    next: u64,
    /// At the n-th call of this kind, this error.
    failing: Option<(Point, u32, i32)>,
    calls: HashMap<Point, u32>,
    /// Whoever answers with another CID than was asked for.
    pub(crate) answers_other_cid: bool,
}

struct Slot {
    process: u32,
    regions: Vec<Region>,
    cpus: Vec<u32>,
    enclave: Option<(u64, Enclave)>,
}

struct Region {
    address: u64,
    size: u64,
    file: OwnedFd,
    offset: u64,
}

pub(crate) type Shared = Arc<Mutex<Host>>;

pub(crate) fn lock(host: &Shared) -> MutexGuard<'_, Host> {
    host.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bytes of a huge page on this host.
pub(crate) const PAGE: u64 = 2 << 20;

impl Host {
    /// With CPUs 2 to 5 in the pool (two threads a core) and `pages` pages of 2 MiB, all on node 0.
    pub(crate) fn new(folder: &Path, pages: u32) -> Shared {
        let write = |path: &str, text: &str| {
            let path = folder.join("sys").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for cpu in 0..6 {
            write(&format!("devices/system/node/node0/cpu{cpu}/online"), "");
        }
        let sizes = "devices/system/node/node0/hugepages/hugepages-2048kB";
        write(&format!("{sizes}/nr_hugepages"), &format!("{pages}\n"));
        write(&format!("{sizes}/free_hugepages"), &format!("{pages}\n"));
        write(
            "devices/system/cpu/cpu0/topology/thread_siblings_list",
            "0-1\n",
        );
        write("module/nitro_enclaves/parameters/ne_cpus", "2-5\n");
        write("../nitro_enclaves", "");
        Arc::new(Mutex::new(Host {
            folder: folder.to_owned(),
            root: DevelopmentRoot::generate().unwrap(),
            free: vec![2, 3, 4, 5],
            node: 0,
            most_regions: 8,
            slots: HashMap::new(),
            pages: HashMap::new(),
            bound: HashMap::new(),
            listening: Vec::new(),
            next: 0,
            failing: None,
            calls: HashMap::new(),
            answers_other_cid: false,
        }))
    }

    /// The `count`-th call of this kind from now on fails with this number.
    pub(crate) fn fail(&mut self, point: Point, count: u32, number: i32) {
        self.calls.clear();
        self.failing = Some((point, count, number));
    }

    /// Whether nothing of any enclave is left: no slot, no CPU that is taken.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.free.len() == 4
    }

    /// Enclaves that run.
    pub(crate) fn running(&self) -> usize {
        let enclaves = self.slots.values().filter_map(|slot| slot.enclave.as_ref());
        enclaves
            .filter(|(_, enclave)| enclave.ended().is_none())
            .count()
    }

    fn fails(&mut self, point: Point) -> Option<Answer> {
        let count = self.calls.entry(point).or_default();
        *count += 1;
        match self.failing {
            Some((at, nth, number)) if at == point && nth == *count => Some(Answer::Error(number)),
            _ => None,
        }
    }
}

/// Answers the calls of one process, until it has ended.
pub(crate) fn serve(host: &Shared, listener: &OwnedFd, pid: u32) {
    let process = sys::process(pid).unwrap();
    loop {
        let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        if !events.contains(PollFlags::POLLIN) {
            return;
        }
        let Ok(Some(call)) = sys::receive(listener.as_fd()) else {
            continue;
        };
        let handled = Handler {
            shared: host,
            process: &process,
            pid,
            call,
        }
        .answer();
        let answer = handled
            .unwrap_or_else(|error| Answer::Error(error.raw_os_error().unwrap_or(libc::EFAULT)));
        sys::answer(listener.as_fd(), call.id, &answer);
    }
}

struct Handler<'a> {
    shared: &'a Shared,
    process: &'a OwnedFd,
    pid: u32,
    call: Call,
}

impl Handler<'_> {
    fn answer(&self) -> io::Result<Answer> {
        let [first, second, third, ..] = self.call.arguments;
        match self.call.number {
            libc::SYS_openat => self.open(second, third),
            libc::SYS_memfd_create => self.huge_pages(second),
            libc::SYS_mbind => self.bind_memory(first),
            libc::SYS_socket => {
                let flags = SockFlag::from_bits_truncate(second as i32);
                let made = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
                Ok(Answer::File(made))
            }
            libc::SYS_bind => self.bind_port(first, second),
            libc::SYS_connect => self.connect(first, second),
            libc::SYS_getpeername => self.peer(first, second, third),
            libc::SYS_ioctl => self.ioctl(first, second as u32, third),
            _ => Ok(Answer::Continue),
        }
    }

    fn memory(&self) -> io::Result<std::fs::File> {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{}/mem", self.call.thread))
    }

    fn read<const N: usize>(&self, address: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.memory()?.read_exact_at(&mut bytes, address)?;
        Ok(bytes)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory()?.write_all_at(bytes, address)
    }

    fn words<const N: usize>(&self, address: u64) -> io::Result<[u64; N]> {
        let mut words = [0; N];
        for (at, word) in words.iter_mut().enumerate() {
            *word = u64::from_ne_bytes(self.read(address + 8 * at as u64)?);
        }
        Ok(words)
    }

    /// The host's own device and `/sys`; every other file is as it is.
    fn open(&self, path: u64, flags: u64) -> io::Result<Answer> {
        let memory = self.memory()?;
        let mut name = Vec::new();
        // Byte by byte: behind its end there may be nothing.
        loop {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, path + name.len() as u64)?;
            if byte[0] == 0 || name.len() > 300 {
                break;
            }
            name.push(byte[0]);
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        let mut host = lock(self.shared);
        let real = if name == "/dev/nitro_enclaves" {
            if let Some(answer) = host.fails(Point::Open) {
                return Ok(answer);
            }
            host.folder.join("nitro_enclaves")
        } else if let Some(rest) = name.strip_prefix("/sys/") {
            host.folder.join("sys").join(rest)
        } else {
            return Ok(Answer::Continue);
        };
        let flags = nix::fcntl::OFlag::from_bits_truncate(flags as i32);
        Ok(Answer::File(nix::fcntl::open(
            &real,
            flags,
            nix::sys::stat::Mode::empty(),
        )?))
    }

    /// Ordinary pages in place of huge ones: all but their size and place is the same.
    fn huge_pages(&self, flags: u64) -> io::Result<Answer> {
        let mut host = lock(self.shared);
        if let Some(answer) = host.fails(Point::HugePages) {
            return Ok(answer);
        }
        let page = 1u64 << (flags >> 26 & 0x3F);
        if page != PAGE {
            return Ok(Answer::Error(libc::ENODEV));
        }
        let file = nix::sys::memfd::memfd_create(c"huge", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        host.pages
            .insert(fstat(&file)?.st_ino, (page, file.try_clone()?));
        Ok(Answer::File(file))
    }

    fn bind_memory(&self, address: u64) -> io::Result<Answer> {
        let [mask] = self.words(self.call.arguments[3])?;
        lock(self.shared)
            .bound
            .insert(address, mask.trailing_zeros().into());
        Ok(Answer::Value(0))
    }

    // ---- vsock ----

    /// CID and port, if the address is one of vsock.
    fn address(&self, address: u64) -> io::Result<Option<(u32, u32)>> {
        let bytes: [u8; 2] = self.read(address)?;
        if u16::from_ne_bytes(bytes) != libc::AF_VSOCK as u16 {
            return Ok(None);
        }
        let word = |at| -> io::Result<u32> { Ok(u32::from_ne_bytes(self.read(address + at)?)) };
        Ok(Some((word(8)?, word(4)?)))
    }

    fn bind_port(&self, number: u64, address: u64) -> io::Result<Answer> {
        let Some((cid, port)) = self.address(address)? else {
            return Ok(Answer::Continue);
        };
        assert_eq!(cid, u32::MAX, "listens at any CID of the host");
        let file = sys::file_of(self.process.as_fd(), number)?;
        let mut host = lock(self.shared);
        let path = port_path(&host.folder, port);
        if UnixStream::connect(&path).is_ok() {
            return Ok(Answer::Error(libc::EADDRINUSE));
        }
        let _ = std::fs::remove_file(&path);
        bind(file.as_raw_fd(), &UnixAddr::new(&path)?)?;
        if !host.listening.contains(&port) {
            host.listening.push(port);
            let Host { slots, folder, .. } = &mut *host;
            for slot in slots.values() {
                if let Some((cid, enclave)) = &slot.enclave {
                    carry_out(folder, *cid, enclave.dir(), port);
                }
            }
        }
        Ok(Answer::Value(0))
    }

    fn connect(&self, number: u64, address: u64) -> io::Result<Answer> {
        let Some((cid, port)) = self.address(address)? else {
            return Ok(Answer::Continue);
        };
        let file = sys::file_of(self.process.as_fd(), number)?;
        let host = lock(self.shared);
        if cid == 0 {
            // The hypervisor's consoles.
            let wanted = u64::from(port - 10_000);
            let running = host.slots.values().find_map(|slot| match &slot.enclave {
                Some((cid, enclave)) if *cid == wanted => Some(enclave.console()),
                _ => None,
            });
            let Some(console) = running else {
                return Ok(Answer::Error(libc::ECONNRESET));
            };
            let path = host.folder.join(format!("console-{wanted}"));
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path)?;
            connect(file.as_raw_fd(), &UnixAddr::new(&path)?)?;
            std::thread::spawn(move || stream_console(&listener, &console));
            return Ok(Answer::Value(0));
        }
        let dir = host.slots.values().find_map(|slot| match &slot.enclave {
            Some((running, enclave)) if *running == u64::from(cid) => {
                Some(enclave.dir().to_owned())
            }
            _ => None,
        });
        drop(host);
        let Some(dir) = dir else {
            return Ok(Answer::Error(libc::ENODEV));
        };
        connect(file.as_raw_fd(), &UnixAddr::new(&dir.join("vsock.sock"))?)?;
        let mut stream = UnixStream::from(file);
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        // The socket does not block, since the process under test has said so.
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            poll(
                &mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)],
                PollTimeout::from(5000u16),
            )?;
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => line.push(byte[0]),
                _ => return Ok(Answer::Error(libc::ECONNRESET)),
            }
        }
        Ok(Answer::Value(0))
    }

    /// Who dialled is in the name that [`carry_out`] gave the connection.
    fn peer(&self, number: u64, address: u64, length: u64) -> io::Result<Answer> {
        let file = sys::file_of(self.process.as_fd(), number)?;
        let Ok(peer) = getpeername::<UnixAddr>(file.as_raw_fd()) else {
            return Ok(Answer::Continue);
        };
        let cid = peer
            .path()
            .and_then(|path| {
                path.file_name()?
                    .to_str()?
                    .strip_prefix("from-")?
                    .split_once('-')
            })
            .map_or(Ok(1), |(cid, _)| cid.parse::<u32>())
            .unwrap();
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&(libc::AF_VSOCK as u16).to_ne_bytes());
        bytes[4..8].copy_from_slice(&1024u32.to_ne_bytes());
        bytes[8..12].copy_from_slice(&cid.to_ne_bytes());
        self.write(address, &bytes)?;
        self.write(length, &16u32.to_ne_bytes())?;
        Ok(Answer::Value(0))
    }

    // ---- the driver ----

    fn ioctl(&self, number: u64, request: u32, argument: u64) -> io::Result<Answer> {
        let file = sys::file_of(self.process.as_fd(), number)?;
        let inode = fstat(&file)?.st_ino;
        let mut host = lock(self.shared);
        if request == CREATE {
            let device = std::fs::metadata(host.folder.join("nitro_enclaves"))?;
            if std::os::unix::fs::MetadataExt::ino(&device) != inode {
                return Ok(Answer::Error(libc::ENOTTY));
            }
            return self.create(&mut host, argument);
        }
        if !host.slots.contains_key(&inode) {
            return Ok(Answer::Error(libc::ENOTTY));
        }
        let point = match request {
            ADD_CPU => Point::Cpu,
            LOAD_INFO => Point::LoadInfo,
            SET_MEMORY => Point::Memory,
            START => Point::Start,
            _ => return Ok(Answer::Error(libc::ENOTTY)),
        };
        if let Some(answer) = host.fails(point) {
            return Ok(answer);
        }
        let slot = &host.slots[&inode];
        if slot.enclave.is_some() {
            // NE_ERR_NOT_IN_INIT_STATE
            return Ok(Answer::Error(270));
        }
        if slot.process != self.pid {
            // The driver compares memories.
            return Ok(Answer::Error(libc::EIO));
        }
        match request {
            LOAD_INFO => {
                let [flags] = self.words(argument)?;
                if flags != 1 {
                    return Ok(Answer::Error(274));
                }
                self.write(argument + 8, &IMAGE_OFFSET.to_ne_bytes())?;
                Ok(Answer::Value(0))
            }
            ADD_CPU => self.add_cpu(&mut host, inode, argument),
            SET_MEMORY => self.set_memory(&mut host, inode, argument),
            _ => self.start(&mut host, inode, argument),
        }
    }

    fn create(&self, host: &mut Host, argument: u64) -> io::Result<Answer> {
        if let Some(answer) = host.fails(Point::Create) {
            return Ok(answer);
        }
        if host.free.is_empty() {
            return Ok(Answer::Error(272));
        }
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        host.next += 1;
        self.write(argument, &host.next.to_ne_bytes())?;
        let inode = fstat(&theirs)?.st_ino;
        host.slots.insert(
            inode,
            Slot {
                process: self.pid,
                regions: Vec::new(),
                cpus: Vec::new(),
                enclave: None,
            },
        );
        let shared = Arc::clone(self.shared);
        let pid = self.pid;
        std::thread::spawn(move || watch(&shared, pid, inode, ours));
        Ok(Answer::File(theirs))
    }

    fn add_cpu(&self, host: &mut Host, inode: u64, argument: u64) -> io::Result<Answer> {
        let asked = u32::from_ne_bytes(self.read(argument)?);
        let Host { slots, free, .. } = host;
        let slot = slots.get_mut(&inode).unwrap();
        let cpu = if asked == 0 {
            // A core that was begun first.
            let sibling = slot.cpus.iter().map(|cpu| cpu ^ 1);
            let begun = sibling.clone().find(|cpu| !slot.cpus.contains(cpu));
            match begun.or(free.first().copied()) {
                Some(cpu) => cpu,
                None => return Ok(Answer::Error(272)),
            }
        } else if asked >= 6 {
            return Ok(Answer::Error(271));
        } else if slot.cpus.contains(&asked) {
            return Ok(Answer::Error(256));
        } else {
            asked
        };
        let Some(at) = free.iter().position(|free| *free == cpu) else {
            return Ok(Answer::Error(257));
        };
        free.remove(at);
        slot.cpus.push(cpu);
        self.write(argument, &cpu.to_ne_bytes())?;
        Ok(Answer::Value(0))
    }

    fn set_memory(&self, host: &mut Host, inode: u64, argument: u64) -> io::Result<Answer> {
        let [flags, size, address] = self.words(argument)?;
        if flags != 0 {
            return Ok(Answer::Error(274));
        }
        if size == 0 || size % PIECE != 0 {
            return Ok(Answer::Error(259));
        }
        // That a mapping of huge pages begins at a multiple of their size is the kernel's doing, and cannot be played here.
        let overlaps = host.slots[&inode].regions.iter().any(|region| {
            address < region.address + region.size && region.address < address + size
        });
        if overlaps {
            return Ok(Answer::Error(262));
        }
        let Some((mapped, offset)) = mapping(self.pid, address, size)? else {
            return Ok(Answer::Error(260));
        };
        let Some((page, file)) = host.pages.get(&mapped) else {
            return Ok(Answer::Error(263));
        };
        if size % page != 0 {
            return Ok(Answer::Error(273));
        }
        if host.bound.get(&address) != Some(&host.node) {
            return Ok(Answer::Error(264));
        }
        let file = file.try_clone()?;
        let most = host.most_regions;
        let slot = host.slots.get_mut(&inode).unwrap();
        if slot.regions.len() >= most {
            return Ok(Answer::Error(265));
        }
        slot.regions.push(Region {
            address,
            size,
            file,
            offset,
        });
        Ok(Answer::Value(0))
    }

    fn start(&self, host: &mut Host, inode: u64, argument: u64) -> io::Result<Answer> {
        let [flags, cid] = self.words(argument)?;
        if flags > 1 {
            return Ok(Answer::Error(274));
        }
        if (1..=3).contains(&cid) || cid >= u64::from(u32::MAX) {
            return Ok(Answer::Error(275));
        }
        let slot = &host.slots[&inode];
        let memory: u64 = slot.regions.iter().map(|region| region.size).sum();
        if slot.regions.is_empty() {
            return Ok(Answer::Error(266));
        }
        if memory < LEAST_MEMORY {
            return Ok(Answer::Error(268));
        }
        if slot.cpus.is_empty() {
            return Ok(Answer::Error(267));
        }
        if slot.cpus.iter().any(|cpu| !slot.cpus.contains(&(cpu ^ 1))) {
            return Ok(Answer::Error(269));
        }
        let taken = |slot: &Slot| {
            slot.enclave
                .as_ref()
                .is_some_and(|(other, _)| *other == cid)
        };
        if host.slots.values().any(taken) {
            return Ok(Answer::Error(libc::EEXIST));
        }
        let image = host.folder.join(format!("started-{cid}.eif"));
        std::fs::write(&image, loaded(&slot.regions)?)?;
        let dir = host.folder.join(format!("inside-{cid}-{inode}"));
        let mut order = Launch::new(&image, cid as u32, &dir);
        order.backend = Backend::Sandbox;
        order.memory_mib = Some((memory >> 20) as u32);
        order.cpus = Some(slot.cpus.len() as u32);
        order.debug = flags == 1;
        std::fs::create_dir_all(&dir)?;
        for port in &host.listening {
            carry_out(&host.folder, cid, &dir, *port);
        }
        let enclave = launch(order, &host.root).map_err(|error| {
            eprintln!("     the hypervisor refuses: {error}");
            io::Error::from_raw_os_error(libc::EINVAL)
        })?;
        host.slots.get_mut(&inode).unwrap().enclave = Some((cid, enclave));
        let answered = if host.answers_other_cid { cid + 1 } else { cid };
        self.write(argument + 8, &answered.to_ne_bytes())?;
        Ok(Answer::Value(0))
    }
}

/// Which file is mapped at these addresses of the process, and where in it they begin.
fn mapping(pid: u32, address: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, _, offset, _, inode, ..] = fields[..] else {
            continue;
        };
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        let (first, last) = range.split_once('-').unwrap();
        if hex(first) <= address && address + size <= hex(last) {
            let inode = inode.parse().unwrap();
            return Ok(Some((inode, hex(offset) + address - hex(first))));
        }
    }
    Ok(None)
}

/// The image that lies in the memory, by what its own header says of its length.
fn loaded(regions: &[Region]) -> io::Result<Vec<u8>> {
    let read = |at: u64, length: u64| -> io::Result<Vec<u8>> {
        let (mut at, mut bytes) = (at, Vec::new());
        for region in regions {
            if at >= region.size {
                at -= region.size;
                continue;
            }
            let count = (region.size - at).min(length - bytes.len() as u64);
            let mut part = vec![0; count as usize];
            region.file.read_exact_at(&mut part, region.offset + at)?;
            bytes.append(&mut part);
            at = 0;
            if bytes.len() as u64 == length {
                break;
            }
        }
        Ok(bytes)
    };
    let header = read(IMAGE_OFFSET, 548)?;
    let word = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap());
    let sections = usize::from(u16::from_be_bytes(header[26..28].try_into().unwrap()));
    if &header[..4] != b".eif" || !(1..=32).contains(&sections) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let last = sections - 1;
    // Offset and size of the last section, and its own header.
    let length = word(28 + 8 * last) + 12 + word(28 + 256 + 8 * last);
    read(IMAGE_OFFSET, length)
}

trait ReadAt {
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for OwnedFd {
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        std::fs::File::from(self.try_clone()?).read_exact_at(bytes, at)
    }
}

/// Until the process lets go of the enclave. When the enclave ends before, the driver hangs up.
fn watch(host: &Shared, pid: u32, inode: u64, ours: OwnedFd) {
    let mut ours = Some(ours);
    loop {
        let gone = match &ours {
            Some(ours) => {
                let mut polled = [PollFd::new(ours.as_fd(), PollFlags::empty())];
                poll(&mut polled, PollTimeout::from(5u8)).is_ok_and(|count| count > 0)
            }
            None => {
                std::thread::sleep(Duration::from_millis(5));
                !holds(pid, inode)
            }
        };
        let mut host = lock(host);
        if gone {
            if let Some(slot) = host.slots.remove(&inode) {
                // Killed before its CPUs are free again.
                drop(slot.enclave);
                host.free.extend(slot.cpus);
                host.free.sort_unstable();
            }
            return;
        }
        let enclave = host
            .slots
            .get(&inode)
            .and_then(|slot| slot.enclave.as_ref());
        if enclave.is_some_and(|(_, enclave)| enclave.ended().is_some()) {
            ours = None;
        }
    }
}

/// Whether the process has this socket open.
fn holds(pid: u32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == name.as_str())
        })
    })
}

fn port_path(folder: &Path, port: u32) -> PathBuf {
    folder.join(format!("host-{port}"))
}

/// Carries what the enclave dials at this port to whoever listens there on the host.
fn carry_out(folder: &Path, cid: u64, dir: &Path, port: u32) {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let Ok(listener) = sandbox::listen(dir, port) else {
        return;
    };
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(inside) = stream else { return };
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = folder.join(format!("from-{cid}-{number}"));
            let dialled = || -> io::Result<UnixStream> {
                let socket = socket(
                    AddressFamily::Unix,
                    SockType::Stream,
                    SockFlag::SOCK_CLOEXEC,
                    None,
                )?;
                bind(socket.as_raw_fd(), &UnixAddr::new(&name)?)?;
                connect(
                    socket.as_raw_fd(),
                    &UnixAddr::new(&port_path(&folder, port))?,
                )?;
                Ok(UnixStream::from(socket))
            };
            let outside = dialled();
            if let Ok(outside) = outside {
                copy(inside.try_clone().unwrap(), outside.try_clone().unwrap());
                copy(outside, inside);
            }
        }
    });
}

fn copy(mut from: UnixStream, mut to: UnixStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

/// What an enclave prints, as it comes, to the one who connects.
fn stream_console(listener: &UnixListener, console: &Path) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut file = std::fs::File::open(console).unwrap();
    // The reader goes when its enclave does.
    while io::copy(&mut file, &mut stream).is_ok() && stream.write(&[]).is_ok() {
        let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        if poll(&mut polled, PollTimeout::from(10u8)).is_ok_and(|count| count > 0) {
            return;
        }
    }
}

/// Waits until something is so, however long a busy machine takes.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to this: {what}");
}
