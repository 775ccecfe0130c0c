//! PID 1: makes the machine usable, starts the runtime, and ends with the right code.
//!
//! It must never make a key before the kernel's randomness has been seeded from the NSM, and never go on without a
//! security module.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use anchorhold_manifest::MANIFEST_PATH;

use crate::nsm::{Device, Nsm, NsmError};
use crate::{modules, sealed_log, sys};

/// Why the enclave could not start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Started by hand.
    #[error(
        "this program is the init of an enclave image and runs as process 1 only: make an image with `anchorhold build` and start it with `anchorhold run`"
    )]
    NotInit,
    /// A place is neither usable nor mountable.
    #[error("{place} is not usable and cannot be mounted ({file_system}): {source}")]
    Mount {
        /// Where.
        place: &'static str,
        /// What should be there.
        file_system: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No security module.
    #[error("{0}")]
    Nsm(#[from] NsmError),
    /// Randomness could not be handed to the kernel.
    #[error("the kernel's randomness cannot be seeded: {0}")]
    Seed(#[source] io::Error),
    /// This process could not be closed to others.
    #[error("core dumps and tracing of init cannot be turned off: {0}")]
    Harden(#[source] io::Error),
}

/// Prepares the machine and returns its security module.
///
/// # Errors
/// See [`InitError`]: each is the end.
pub fn prepare() -> Result<Device, InitError> {
    // Before anything is changed: on a developer's machine this must do nothing.
    if !is_in_an_image() {
        return Err(InitError::NotInit);
    }
    sys::refuse_dumps().map_err(InitError::Harden)?;
    sys::drop_core_dumps().map_err(InitError::Harden)?;
    // As process 1 that is so already. Without a pid namespace around the enclave it has to be asked for.
    sys::adopt_orphans().map_err(InitError::Harden)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    for place in PLACES {
        place.provide()?;
    }
    modules::load();
    let nsm = Device::open()?;
    let description = nsm.describe()?;
    seed(&nsm)?;
    let (major, minor, patch) = description.version;
    crate::log!(
        "enclave {} has an NSM of version {major}.{minor}.{patch}",
        description.module_id
    );
    Ok(nsm)
}

fn is_in_an_image() -> bool {
    Path::new(MANIFEST_PATH).is_file() && Path::new("/init").is_file()
}

/// Whether the enclave runs in debug mode: its PCR0 is zero then, and its console is meant to be read.
///
/// # Errors
/// See [`NsmError`].
pub fn is_debug(nsm: &impl Nsm) -> Result<bool, NsmError> {
    Ok(nsm.pcr(0)?.iter().all(|&byte| byte == 0))
}

/// A file system that programs expect.
struct Place {
    path: &'static str,
    file_system: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
    is_usable: fn() -> bool,
    /// Without it there is no going on. Of `/proc` only process 1 can say so: it belongs to a pid namespace of its own.
    is_required: fn() -> bool,
    /// What its root is to be, where jobs or secrets depend on it.
    mode: Option<u32>,
}

const NO_PROGRAMS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

const PLACES: &[Place] = &[
    Place {
        path: "/proc",
        file_system: "proc",
        flags: NO_PROGRAMS,
        options: None,
        is_usable: || Path::new("/proc/self/stat").exists(),
        is_required: || std::process::id() == 1,
        mode: None,
    },
    Place {
        path: "/sys",
        file_system: "sysfs",
        flags: NO_PROGRAMS.union(MsFlags::MS_RDONLY),
        options: None,
        is_usable: || Path::new("/sys/kernel").exists(),
        is_required: || false,
        mode: None,
    },
    Place {
        path: "/dev",
        file_system: "devtmpfs",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: None,
        is_usable: || Path::new("/dev/null").exists() && Path::new("/dev/urandom").exists(),
        is_required: || true,
        mode: None,
    },
    // Not noexec: runtimes map libraries from here. That nothing is executed is Landlock's part.
    Place {
        path: "/tmp",
        file_system: "tmpfs",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        options: Some("mode=1777,size=50%"),
        is_usable: || is_mount("/tmp"),
        is_required: || true,
        mode: Some(0o1777),
    },
    Place {
        path: "/run",
        file_system: "tmpfs",
        flags: NO_PROGRAMS,
        options: Some("mode=755,size=10%"),
        is_usable: || is_mount("/run"),
        is_required: || true,
        mode: Some(0o755),
    },
];

impl Place {
    fn provide(&self) -> Result<(), InitError> {
        if !(self.is_usable)() {
            let mounted = mount(
                Some(self.file_system),
                self.path,
                Some(self.file_system),
                self.flags,
                self.options,
            );
            // Where mounting is not allowed, a folder of the root does for what only needs to be written to.
            let does_as_folder = self.mode.is_some() && is_writable_folder(self.path);
            if let Err(error) = mounted
                && (self.is_required)()
                && !does_as_folder
            {
                return Err(InitError::Mount {
                    place: self.path,
                    file_system: self.file_system,
                    source: error.into(),
                });
            }
        }
        if let Some(mode) = self.mode {
            fs::set_permissions(self.path, fs::Permissions::from_mode(mode)).map_err(|source| {
                InitError::Mount {
                    place: self.path,
                    file_system: self.file_system,
                    source,
                }
            })?;
        }
        Ok(())
    }
}

fn is_mount(path: &str) -> bool {
    let device = |path: &str| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(path).is_some() && device(path) != device("/")
}

fn is_writable_folder(path: &str) -> bool {
    use nix::unistd::{AccessFlags, access};
    Path::new(path).is_dir() && access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Mixes the NSM's randomness into the kernel's. Without privilege it cannot be credited, but is mixed in all the same:
/// that kernel is then a host's, which has seeded itself.
fn seed(nsm: &impl Nsm) -> Result<(), InitError> {
    let random = nsm.random()?;
    let mut device = fs::OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .map_err(InitError::Seed)?;
    match sys::add_entropy(device.as_fd(), &random) {
        Ok(()) => Ok(()),
        Err(_) => device.write_all(&random).map_err(InitError::Seed),
    }
}

/// Ends the enclave. In a virtual machine PID 1 must not exit, as the kernel panics then: the machine is reset instead,
/// which ends it. The line on the console carries the code in both cases.
pub fn end(code: i32) -> ! {
    match sealed_log::end() {
        0 => {}
        lines => crate::log_plainly!("{lines} lines of the log were never sealed, and are gone"),
    }
    crate::log_plainly!("ended with exit code {code}");
    nix::unistd::sync();
    if std::process::id() == 1 && in_initial_pid_namespace() {
        // Returns only where it is not allowed.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }
    std::process::exit(code)
}

/// In any other pid namespace reboot(2) ends init by a signal (`reboot_pid_ns`, `kernel/pid_namespace.c`), which would
/// hide the exit code.
fn in_initial_pid_namespace() -> bool {
    // PROC_PID_INIT_INO, include/linux/proc_ns.h: fixed since Linux 3.8.
    const INITIAL: &str = "pid:[4026531836]";
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_an_image_init_refuses_to_start() {
        assert!(
            !is_in_an_image(),
            "this test would change the machine it runs on"
        );
        assert!(matches!(prepare(), Err(InitError::NotInit)));
    }

    #[test]
    fn mounts_are_told_from_folders_of_the_root() {
        assert!(is_mount("/proc"));
        assert!(!is_mount("/"));
        assert!(!is_mount("/nowhere"));
    }
}
