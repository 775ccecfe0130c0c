//! The virtual machine: QEMU's command line, and the process.
//!
//! It has memory, processors, a serial console that only writes, and the two devices of [`super::vhost`]. It has no disk, no
//! network card and no monitor, and it must never get one: each would be another way in or out.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anchorhold_images::{ACPI, Image, SectionKind};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::program::Accelerator;

/// What the backend adds to the image's command line, at its end, where it wins. It is not measured: PCRs are those of the
/// image alone.
///
/// - `reboot=t`: of a machine's ways to end, the one that takes no time here (the keyboard controller's takes seconds);
/// - `panic=-1`: a kernel that panics ends the machine at once;
/// - `rootfstype=ramfs`: ramdisks may take more than half of the memory;
/// - `no_timer_check`: emulated on a busy machine, the test whether the timer works fails, and the kernel panics;
/// - `tsc_early_khz`: the clock's rate, measured on the host. Emulated, the kernel's own measurement fails now and then, and
///   then the boot hangs.
pub(crate) fn addition(accelerator: &Accelerator) -> String {
    const ALWAYS: &str = "reboot=t panic=-1 rootfstype=ramfs";
    const EMULATED: &str = "no_timer_check";
    match accelerator {
        Accelerator::Kvm(_) => ALWAYS.to_owned(),
        Accelerator::Tcg(_) => super::sys::clock_khz().map_or_else(
            || format!("{ALWAYS} {EMULATED}"),
            |khz| format!("{ALWAYS} {EMULATED} tsc_early_khz={khz}"),
        ),
    }
}

/// What QEMU loads, in memory that it may read by number: the kernel and all ramdisks behind each other.
pub(crate) struct Loaded {
    pub(crate) kernel: File,
    pub(crate) ramdisks: File,
}

impl Loaded {
    pub(crate) fn copy(image: &Image) -> io::Result<Loaded> {
        let mut kernel = in_memory(c"kernel")?;
        let mut ramdisks = in_memory(c"ramdisks")?;
        for section in image.sections() {
            match section.kind {
                SectionKind::Kernel => image.copy_section(section, &mut kernel)?,
                SectionKind::Ramdisk => {
                    image.copy_section(section, &mut ramdisks)?;
                    // The kernel takes the next one at a multiple of four.
                    let padding = section.size.wrapping_neg() % 4;
                    ramdisks.write_all(&[0; 3][..padding as usize])?;
                }
                _ => {}
            }
        }
        Ok(Loaded { kernel, ramdisks })
    }
}

fn in_memory(name: &std::ffi::CStr) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// What goes into a machine.
pub(crate) struct Parts<'a> {
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) command_line: &'a str,
    pub(crate) accelerator: &'a Accelerator,
    pub(crate) loaded: &'a Loaded,
    pub(crate) nsm: &'a OwnedFd,
    pub(crate) vsock: &'a OwnedFd,
}

/// QEMU's arguments, and the descriptors that they name.
pub(crate) fn arguments(parts: &Parts<'_>) -> (Vec<OsString>, Vec<RawFd>) {
    let acpi = parts
        .command_line
        .split_ascii_whitespace()
        .any(|word| word == ACPI);
    let acpi = if acpi { "on" } else { "off" };
    let (kernel, ramdisks) = (
        parts.loaded.kernel.as_raw_fd(),
        parts.loaded.ramdisks.as_raw_fd(),
    );
    let (nsm, vsock) = (parts.nsm.as_raw_fd(), parts.vsock.as_raw_fd());
    let mut descriptors = vec![kernel, ramdisks, nsm, vsock];
    let memory = parts.memory_mib;
    let mut words: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-monitor",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(str::to_owned)
    .into();
    let mut pair = |name: &str, value: String| words.extend([name.to_owned(), value]);
    pair(
        "-machine",
        format!("microvm,acpi={acpi},memory-backend=memory"),
    );
    pair(
        "-object",
        format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
    );
    pair("-m", format!("{memory}M"));
    pair("-smp", parts.cpus.to_string());
    match parts.accelerator {
        Accelerator::Kvm(device) => {
            let device = device.as_raw_fd();
            descriptors.push(device);
            pair("-add-fd", format!("fd={device},set=1"));
            pair("-accel", "kvm,device=/dev/fdset/1".to_owned());
            pair("-cpu", "host".to_owned());
        }
        Accelerator::Tcg(_) => {
            pair("-accel", "tcg".to_owned());
            pair("-cpu", "max".to_owned());
        }
    }
    pair("-kernel", format!("/proc/self/fd/{kernel}"));
    pair("-initrd", format!("/proc/self/fd/{ramdisks}"));
    let line = parts
        .command_line
        .trim_end_matches(['\0', '\n', ' '])
        .to_owned();
    pair("-append", format!("{line} {}", addition(parts.accelerator)));
    pair("-chardev", "stdio,id=console,signal=off".to_owned());
    pair("-serial", "chardev:console".to_owned());
    pair("-global", "virtio-mmio.force-legacy=false".to_owned());
    pair("-chardev", format!("socket,id=nsm,fd={nsm}"));
    pair(
        "-device",
        "vhost-user-test-device,chardev=nsm,virtio-id=33,num_vqs=1,vq_size=64,config_size=0"
            .to_owned(),
    );
    pair("-chardev", format!("socket,id=vsock,fd={vsock}"));
    pair(
        "-device",
        "vhost-user-vsock-device,chardev=vsock".to_owned(),
    );
    (words.into_iter().map(OsString::from).collect(), descriptors)
}
