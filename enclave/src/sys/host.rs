//! Calls about this process and its kernel: randomness, dumps, capabilities, Landlock's version.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// A Landlock ruleset's descriptor and the kernel's version of the interface, as reported to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landlock {
    /// Version of the kernel's Landlock interface (`landlock_create_ruleset(…, LANDLOCK_CREATE_RULESET_VERSION)`).
    pub version: u32,
}

/// The kernel's Landlock, or none where it is not built in or not enabled.
pub fn landlock_version() -> Option<Landlock> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag and no attribute the call takes nothing and returns a number or an error.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version)
        .ok()
        .filter(|&version| version > 0)
        .map(|version| Landlock { version })
}

/// Mixes `bytes` into the kernel's randomness and credits all of it (`RNDADDENTROPY`, linux/random.h), which needs
/// privilege in the initial user namespace.
///
/// # Errors
/// The kernel's, EPERM above all.
pub fn add_entropy(device: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl; // _IOW('R', 0x03, int[2])
    const CAPACITY: usize = 512;
    #[repr(C)]
    struct RandPoolInfo {
        entropy_bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; CAPACITY],
    }
    for chunk in bytes.chunks(CAPACITY) {
        let size = libc::c_int::try_from(chunk.len()).expect("at most CAPACITY");
        let mut info = RandPoolInfo {
            entropy_bits: size * 8,
            size,
            bytes: [0; CAPACITY],
        };
        info.bytes[..chunk.len()].copy_from_slice(chunk);
        // SAFETY: `info` is a struct rand_pool_info whose buffer holds at least `size` bytes, and outlives the call.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Loads a kernel module (`finit_module`), which the kernel decompresses where it is compressed.
///
/// # Errors
/// The kernel's: it is no module of this kernel, or one that it needs is missing.
pub(crate) fn load_module(file: BorrowedFd<'_>, is_compressed: bool) -> io::Result<()> {
    const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4; // linux/module.h
    let flags = if is_compressed {
        MODULE_INIT_COMPRESSED_FILE
    } else {
        0
    };
    // SAFETY: the parameters are an empty string that lives for ever; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Brings the loopback interface up, unless it is (netdevice(7)). In a sandbox it is before the enclave's first
/// instruction, and what is asked for here is closed.
///
/// # Errors
/// The kernel's: it has no IPv4, or does not let this process.
pub fn provide_loopback() -> io::Result<()> {
    // Has an address only where it is up.
    let is_up = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop);
    let Err(down) = is_up() else { return Ok(()) };
    if down.kind() != io::ErrorKind::AddrNotAvailable {
        return Err(down);
    }
    // SAFETY: the call takes three numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket.min(0))?;
    // SAFETY: the descriptor was just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: a structure of numbers, of which zero is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // `lo`; characters have a sign on some machines and none on others.
    request.ifr_name[..2].copy_from_slice(&[0x6c, 0x6f]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a struct ifreq with a name that ends in zero, and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(result)?;
    is_up()
}

/// Forbids other processes of the same uid to read this one's memory or trace it (`PR_SET_DUMPABLE`).
///
/// # Errors
/// The kernel's; none is expected.
pub fn refuse_dumps() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// Makes this process the parent of all orphans among its descendants (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// The kernel's; none is expected.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Sets the limit of core files to nothing, for good, for this process and its children.
///
/// # Errors
/// The kernel's; none is expected.
pub fn drop_core_dumps() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is a valid rlimit that outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })
}

/// Whether this process may shrink its capability bounding set (`CAP_SETPCAP`).
pub fn may_drop_bounding_set() -> bool {
    const CAP_SETPCAP: u32 = 8;
    effective_capabilities() & (1 << CAP_SETPCAP) != 0
}

fn effective_capabilities() -> u64 {
    let mut header = CapabilityHeader::of_this_thread();
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 of the interface writes two data structures, which is what `data` holds.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    u64::from(data[0].effective) | u64::from(data[1].effective) << 32
}

/// `struct __user_cap_header_struct` (linux/capability.h).
#[repr(C)]
pub(super) struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

impl CapabilityHeader {
    /// Version 3 of the interface, for the caller.
    pub(super) const fn of_this_thread() -> CapabilityHeader {
        CapabilityHeader {
            version: 0x2008_0522,
            pid: 0,
        }
    }
}

/// `struct __user_cap_data_struct` (linux/capability.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_agree_with_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .expect("CapEff is there");
        let told = u64::from_str_radix(line.trim(), 16).expect("hexadecimal");
        assert_eq!(effective_capabilities(), told);
    }

    #[test]
    fn a_loopback_interface_that_is_up_stays_as_it_is() {
        provide_loopback().expect("machines that run tests have one");
    }

    #[test]
    fn crediting_entropy_works_or_is_refused_for_want_of_privilege() {
        use std::os::fd::AsFd as _;
        let device = std::fs::File::open("/dev/urandom").expect("a random device");
        match add_entropy(device.as_fd(), &[7; 700]) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
    }
}
