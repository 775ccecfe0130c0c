//! Mounting by descriptors (fsopen(2) and its family, Linux 5.2; `mount_setattr`, 5.12). All functions are *child* functions.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;

/// Attributes of a mount (linux/mount.h).
pub(crate) mod attribute {
    pub(crate) const READ_ONLY: u64 = 0x1;
    pub(crate) const NO_SUID: u64 = 0x2;
    pub(crate) const NO_DEVICES: u64 = 0x4;
    pub(crate) const NO_EXEC: u64 = 0x8;
}

/// A new file system of this type with these settings, mounted nowhere yet.
pub(crate) fn new_mount(
    kind: &CStr,
    settings: &[(&CStr, &CStr)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    // SAFETY: all strings end in NUL and outlive the calls; both descriptors are new and ours.
    unsafe {
        let context = check(libc::syscall(
            libc::SYS_fsopen,
            kind.as_ptr(),
            FSOPEN_CLOEXEC,
        ))?;
        let context = OwnedFd::from_raw_fd(context as RawFd);
        for (key, value) in settings {
            check(libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            ))?;
        }
        check(libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_char>(),
            0,
        ))?;
        let mount = check(libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        ))?;
        Ok(OwnedFd::from_raw_fd(mount as RawFd))
    }
}

/// A copy of the mount at `path` (a bind mount), mounted nowhere yet.
pub(crate) fn copy_of(path: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the path ends in NUL; the descriptor is new and ours.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            path.as_ptr(),
            OPEN_TREE_CLONE | libc::O_CLOEXEC as u32,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Mounts what `mount` holds at `path`, which must exist and is not followed if it is a symbolic link.
pub(crate) fn attach(mount: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    // SAFETY: both paths end in NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Adds attributes to the mount at `path`, and to that one only.
pub(crate) fn add_attributes(path: &CStr, attributes: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let change = MountAttr {
        set: attributes,
        clear: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends in NUL, the structure has the layout and the size given, and both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0u32,
            &raw const change,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Makes every mount of this namespace private, so that nothing travels to the host's or back.
pub(crate) fn make_all_private() -> Result<(), Errno> {
    // SAFETY: the path ends in NUL; null is allowed for the arguments that this operation ignores.
    check(
        unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        }
        .into(),
    )
    .map(drop)
}

/// Makes the current directory, which must be a mount of its own, the root, and detaches the old root with all below it.
pub(crate) fn become_root() -> Result<(), Errno> {
    // SAFETY: all paths end in NUL.
    unsafe {
        check(libc::syscall(
            libc::SYS_pivot_root,
            c".".as_ptr(),
            c".".as_ptr(),
        ))?;
        // The old root now lies on top of the new one at the same place, and this takes it away.
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into())?;
        check(libc::chdir(c"/".as_ptr()).into())?;
    }
    Ok(())
}

/// Makes the current directory the root by chroot(2), for where there is no mount namespace.
pub(crate) fn change_root() -> Result<(), Errno> {
    // SAFETY: the paths end in NUL.
    unsafe {
        check(libc::chroot(c".".as_ptr()).into())?;
        check(libc::chdir(c"/".as_ptr()).into())?;
    }
    Ok(())
}
