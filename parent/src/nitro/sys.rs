//! The driver's ioctls and memory in huge pages: calls that no safe crate offers. Each block says why it is sound. Nothing is
//! decided here.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::errno::Errno;

use super::refusal::{Refusal, Step};

/// `_IOR(0xAE, 0x20, __u64)` and so on, as `linux/nitro_enclaves.h` has them.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xAE << 8 | number
}
const WRITE: u64 = 1;
const READ: u64 = 2;
pub(super) const NE_CREATE_VM: u64 = request(READ, 0x20, 8);
pub(super) const NE_ADD_VCPU: u64 = request(READ | WRITE, 0x21, 4);
pub(super) const NE_GET_IMAGE_LOAD_INFO: u64 = request(READ | WRITE, 0x22, 16);
pub(super) const NE_SET_USER_MEMORY_REGION: u64 = request(WRITE, 0x23, 24);
pub(super) const NE_START_ENCLAVE: u64 = request(READ | WRITE, 0x24, 16);

/// `NE_EIF_IMAGE`.
const EIF_IMAGE: u64 = 1;
/// `NE_ENCLAVE_DEBUG_MODE`.
const DEBUG_MODE: u64 = 1;

#[repr(C)]
struct ImageLoadInfo {
    flags: u64,
    memory_offset: u64,
}

#[repr(C)]
struct MemoryRegion {
    flags: u64,
    size: u64,
    address: u64,
}

#[repr(C)]
struct StartInfo {
    flags: u64,
    cid: u64,
}

fn ioctl(file: BorrowedFd<'_>, number: u64, argument: *mut c_void) -> libc::c_int {
    // SAFETY: the callers below hand over a structure of the size and kind that the request's number names, which outlives
    // the call; the driver reads and writes no more than that.
    unsafe { libc::ioctl(file.as_raw_fd(), number as libc::Ioctl, argument) }
}

/// The new enclave's descriptor.
pub(super) fn create(device: BorrowedFd<'_>) -> Result<OwnedFd, Refusal> {
    let mut slot = 0u64;
    let file = ioctl(device, NE_CREATE_VM, (&raw mut slot).cast());
    if file < 0 {
        return Err(Refusal::last(Step::Create));
    }
    // SAFETY: the driver has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(file as RawFd) })
}

/// Gives the enclave a CPU of the pool, and says which.
pub(super) fn add_cpu(enclave: BorrowedFd<'_>) -> Result<u32, Refusal> {
    // 0: the driver chooses, whole cores first.
    let mut cpu = 0u32;
    match ioctl(enclave, NE_ADD_VCPU, (&raw mut cpu).cast()) {
        0 => Ok(cpu),
        _ => Err(Refusal::last(Step::Cpu)),
    }
}

/// Where in the enclave's memory an EIF goes, in bytes.
pub(super) fn image_offset(enclave: BorrowedFd<'_>) -> Result<u64, Refusal> {
    let mut info = ImageLoadInfo {
        flags: EIF_IMAGE,
        memory_offset: 0,
    };
    match ioctl(enclave, NE_GET_IMAGE_LOAD_INFO, (&raw mut info).cast()) {
        0 => Ok(info.memory_offset),
        _ => Err(Refusal::last(Step::ImageLoadInfo)),
    }
}

/// Hands memory over. The mapping must outlive the enclave.
pub(super) fn give_memory(enclave: BorrowedFd<'_>, memory: &Huge) -> Result<(), Refusal> {
    let mut region = MemoryRegion {
        flags: 0,
        size: memory.length as u64,
        address: memory.start.as_ptr() as u64,
    };
    match ioctl(enclave, NE_SET_USER_MEMORY_REGION, (&raw mut region).cast()) {
        0 => Ok(()),
        _ => Err(Refusal::last(Step::Memory)),
    }
}

/// Starts the enclave, and says which CID it has.
pub(super) fn start(enclave: BorrowedFd<'_>, cid: u32, debug: bool) -> Result<u64, Refusal> {
    let mut info = StartInfo {
        flags: if debug { DEBUG_MODE } else { 0 },
        cid: cid.into(),
    };
    match ioctl(enclave, NE_START_ENCLAVE, (&raw mut info).cast()) {
        0 => Ok(info.cid),
        _ => Err(Refusal::last(Step::Start)),
    }
}

/// Memory in huge pages of one size, of one NUMA node, all there.
pub(super) struct Huge {
    start: NonNull<u8>,
    length: usize,
    // Holds the pages beside the mapping.
    _file: OwnedFd,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for Huge {}

impl Huge {
    /// `count` pages of `page` bytes (a power of two), taken from `node`.
    ///
    /// They come from a file in memory, so that they are accounted to one owner and gone with its last user.
    pub(super) fn take(page: u64, count: u64, node: u32) -> io::Result<Huge> {
        let length = page
            .checked_mul(count)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // MFD_HUGE_SHIFT is 26.
        let flags = libc::MFD_CLOEXEC | libc::MFD_HUGETLB | page.trailing_zeros() << 26;
        // SAFETY: the name is a C string; the descriptor is new and ours.
        let file = unsafe {
            let file = libc::memfd_create(c"enclave".as_ptr(), flags);
            if file < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(file)
        };
        let size = libc::off_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        nix::unistd::ftruncate(&file, size)?;
        // SAFETY: a new mapping wherever the kernel finds room; checked before use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = Huge {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?,
            length,
            _file: file,
        };
        memory.bind(node)?;
        memory.populate(page)?;
        Ok(memory)
    }

    /// From no other node.
    fn bind(&self, node: u32) -> io::Result<()> {
        const BITS: usize = libc::c_ulong::BITS as usize;
        const MPOL_BIND: libc::c_long = 2;
        let mut mask = [0 as libc::c_ulong; 1024 / BITS];
        let node = node as usize;
        *mask
            .get_mut(node / BITS)
            .ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node % BITS);
        // SAFETY: the range is this mapping's, and the mask has the bits that are said.
        let bound = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.length,
                MPOL_BIND,
                mask.as_ptr(),
                1024 + 1,
                0,
            )
        };
        match bound {
            0 => Ok(()),
            // A kernel without NUMA has one node only.
            _ if Errno::last() == Errno::ENOSYS && node == 0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Brings every page in, so that one that is missing is an error here and no signal later.
    fn populate(&self, page: u64) -> io::Result<()> {
        // SAFETY: the range is this mapping's.
        let populated = unsafe {
            libc::madvise(
                self.start.as_ptr().cast(),
                self.length,
                libc::MADV_POPULATE_WRITE,
            )
        };
        if populated == 0 {
            return Ok(());
        }
        if Errno::last() != Errno::EINVAL {
            return Err(io::Error::last_os_error());
        }
        // Before Linux 5.14. The kernel writes for us, and says so where it cannot.
        let zeros = File::open("/dev/zero")?;
        for at in (0..self.length).step_by(page as usize) {
            // SAFETY: one byte inside the mapping, which nobody else refers to.
            let read = unsafe {
                libc::read(
                    zeros.as_fd().as_raw_fd(),
                    self.start.as_ptr().add(at).cast(),
                    1,
                )
            };
            if read != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// The memory, to put the image into before it is handed over.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is there, populated, readable and writable, for as long as `self` is, and `&mut` says that
        // nobody else uses it. Once the enclave runs nobody calls this: the hypervisor has taken the pages away.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Huge {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's, and nobody refers to it any more.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_numbers_are_those_of_the_kernels_header() {
        // Printed by a C program that includes linux/nitro_enclaves.h.
        assert_eq!(NE_CREATE_VM, 0x8008_ae20);
        assert_eq!(NE_ADD_VCPU, 0xc004_ae21);
        assert_eq!(NE_GET_IMAGE_LOAD_INFO, 0xc010_ae22);
        assert_eq!(NE_SET_USER_MEMORY_REGION, 0x4018_ae23);
        assert_eq!(NE_START_ENCLAVE, 0xc010_ae24);
    }

    #[test]
    fn a_page_size_that_the_machine_lacks_is_an_error_and_no_crash() {
        // 16 TiB pages: no machine has them.
        assert!(Huge::take(1 << 44, 1, 0).is_err());
        assert!(Huge::take(1 << 21, 0, 0).is_err());
        assert!(Huge::take(1 << 21, u64::MAX, 0).is_err());
    }
}
