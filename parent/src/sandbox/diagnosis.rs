//! Why a sandbox could not be started, in terms of the setting that stands in the way and of how to change it.
//!
//! The kernel says little more than "not permitted". This looks at what is known to cause that, and where nothing known does, it
//! says so rather than guess.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;

use super::namespaces::Step;

/// What stands in the way of user namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// `kernel.unprivileged_userns_clone` is 0 (Debian's and Arch's hardened kernels).
    UnprivilegedClone,
    /// `user.max_user_namespaces` is 0, or all are in use.
    NoneAllowed,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1 (Ubuntu 23.10 and later).
    AppArmor,
    /// A container's seccomp filter or security module.
    Container,
    /// The kernel was built without them.
    KernelLacksThem,
    /// The host's /proc is covered in places, as containers do, and then no other may be mounted.
    CoveredProc,
    /// The kernel is older than what the sandbox needs.
    OldKernel,
    /// None of the known ones.
    Unknown,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Obstacle::UnprivilegedClone => {
                "kernel.unprivileged_userns_clone is 0. To allow user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1"
            }
            Obstacle::NoneAllowed => {
                "user.max_user_namespaces allows no more of them. To allow some: sudo sysctl -w user.max_user_namespaces=10000"
            }
            Obstacle::AppArmor => {
                "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1). To allow them: sudo sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0, or give this program an AppArmor profile with `userns,`"
            }
            Obstacle::Container => {
                "this is a container whose seccomp filter or security module forbids it. To allow it: start the container with \
                 --security-opt seccomp=unconfined --security-opt apparmor=unconfined (Docker and Podman)"
            }
            Obstacle::KernelLacksThem => {
                "this kernel was built without user, mount, pid, network, IPC or UTS namespaces (CONFIG_USER_NS and its kin)"
            }
            Obstacle::CoveredProc => {
                "parts of this container's /proc are covered, and the kernel then grants no other. To allow it: start the container \
                 with --security-opt systempaths=unconfined (Docker) or unmask=ALL (Podman)"
            }
            Obstacle::OldKernel => "this kernel is too old: the sandbox needs Linux 5.14 or later",
            Obstacle::Unknown => "none of the settings known to forbid it is set",
        })
    }
}

/// Says what made a step fail.
pub(crate) fn obstacle(step: Option<Step>, errno: Errno) -> Obstacle {
    let setting = |path: &str| {
        std::fs::read_to_string(Path::new("/proc/sys").join(path))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    judge(
        step,
        errno,
        nix::unistd::geteuid().is_root(),
        setting("kernel/unprivileged_userns_clone"),
        setting("user/max_user_namespaces"),
        setting("kernel/apparmor_restrict_unprivileged_userns"),
    )
}

fn judge(
    step: Option<Step>,
    errno: Errno,
    root: bool,
    unprivileged_clone: Option<u64>,
    most: Option<u64>,
    apparmor: Option<u64>,
) -> Obstacle {
    match (step, errno) {
        (_, Errno::ENOSYS) | (Some(Step::ProcMount | Step::Filter), Errno::EINVAL) => {
            Obstacle::OldKernel
        }
        (Some(Step::ProcMount), Errno::EPERM) => Obstacle::CoveredProc,
        (None, Errno::EINVAL) => Obstacle::KernelLacksThem,
        (None, Errno::ENOSPC | Errno::EUSERS) => Obstacle::NoneAllowed,
        (
            None | Some(Step::Ids | Step::Private | Step::RootMount | Step::Pivot),
            Errno::EPERM | Errno::EACCES,
        ) => {
            if !root && unprivileged_clone == Some(0) {
                Obstacle::UnprivilegedClone
            } else if most == Some(0) {
                Obstacle::NoneAllowed
            } else if !root && apparmor == Some(1) {
                Obstacle::AppArmor
            } else if in_container() {
                Obstacle::Container
            } else {
                Obstacle::Unknown
            }
        }
        _ => Obstacle::Unknown,
    }
}

/// Whether the usual signs of a container are there, or a seccomp filter is on this process.
fn in_container() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| status.lines().any(|line| line == "Seccomp:\t2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_named_with_its_remedy() {
        let unprivileged = |clone, most, apparmor| {
            judge(None, Errno::EPERM, false, clone, most, apparmor).to_string()
        };
        assert!(unprivileged(Some(0), Some(100), None).contains("unprivileged_userns_clone=1"));
        assert!(unprivileged(None, Some(0), None).contains("max_user_namespaces=10000"));
        assert!(
            unprivileged(Some(1), Some(100), Some(1))
                .contains("apparmor_restrict_unprivileged_userns=0")
        );
        assert_eq!(
            judge(None, Errno::ENOSPC, false, None, Some(5), None),
            Obstacle::NoneAllowed
        );
        assert_eq!(
            judge(None, Errno::EINVAL, false, None, None, None),
            Obstacle::KernelLacksThem
        );
    }

    #[test]
    fn apparmor_lets_clone_pass_and_refuses_the_first_mount() {
        assert_eq!(
            judge(
                Some(Step::Private),
                Errno::EACCES,
                false,
                None,
                Some(9),
                Some(1)
            ),
            Obstacle::AppArmor
        );
    }

    #[test]
    fn a_covered_proc_is_told_from_a_missing_feature() {
        assert_eq!(
            judge(
                Some(Step::ProcMount),
                Errno::EPERM,
                true,
                None,
                Some(9),
                None
            ),
            Obstacle::CoveredProc
        );
        assert_eq!(
            judge(Some(Step::Fill), Errno::ENOSPC, true, None, None, None),
            Obstacle::Unknown
        );
    }
}
