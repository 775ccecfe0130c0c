//! The QEMU of this machine: where it is, whether it is recent enough, whether it gets the processor's own virtualisation.
//!
//! It is an ordinary program of the host, found as the shell would find it; nothing is installed or downloaded here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names another QEMU than the one in PATH.
pub const VARIABLE: &str = "ANCHORHOLD_QEMU";
/// The program's name.
const NAME: &str = "qemu-system-x86_64";
/// The first version with user-creatable vhost-user devices.
const OLDEST: (u32, u32) = (10, 1);
/// The most that is read of what it says about itself.
const MOST_WORDS: u64 = 4096;

/// How to get it, for people.
const REMEDY: &str = "QEMU 10.1 or later is packaged as qemu-system-x86 (Debian 13: from trixie-backports; Fedora: \
     qemu-system-x86-core; Arch: qemu-system-x86; Nix: nixpkgs#qemu). On Debian 12, tests/vm/setup in anchorhold's source puts \
     one into a folder of its own. Name a QEMU outside of PATH with ANCHORHOLD_QEMU=FILE, or use --backend sandbox";

/// Why there is no QEMU to run an image with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// There is none.
    #[error("{NAME} is not in PATH. {REMEDY}")]
    NotInPath,
    /// The named one cannot be run.
    #[error("{}: {reason}. {REMEDY}", path.display())]
    Unusable {
        /// The program.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is too old.
    #[error("{} is QEMU {version}, and 10.1 is the first that can host the enclave's devices. {REMEDY}", path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// What it says.
        version: String,
    },
}

/// A QEMU that can run enclaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it says about its version.
    pub version: String,
}

impl Program {
    /// The one that [`VARIABLE`] names, or else the first in PATH.
    pub fn find() -> Result<Program, Missing> {
        Self::find_by(
            std::env::var_os(VARIABLE).as_deref(),
            std::env::var_os("PATH").as_deref(),
        )
    }

    fn find_by(named: Option<&OsStr>, path: Option<&OsStr>) -> Result<Program, Missing> {
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            return Self::at(Path::new(named));
        }
        let found = std::env::split_paths(path.unwrap_or_default())
            .map(|folder| folder.join(NAME))
            .find(|path| {
                use nix::unistd::{AccessFlags, access};
                path.is_file() && access(path, AccessFlags::X_OK).is_ok()
            });
        match found {
            Some(path) => Self::at(&path),
            None => Err(Missing::NotInPath),
        }
    }

    /// Asks that program what it is.
    pub fn at(path: &Path) -> Result<Program, Missing> {
        let unusable = |reason: String| Missing::Unusable {
            path: path.to_owned(),
            reason,
        };
        let path = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
        let mut asked = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| unusable(error.to_string()))?;
        let mut said = Vec::new();
        if let Some(words) = asked.stdout.take() {
            // What it says beyond that is not waited for.
            let _ = words.take(MOST_WORDS).read_to_end(&mut said);
        }
        let _ = asked.wait();
        let said = String::from_utf8_lossy(&said);
        let Some((version, numbers)) = version(&said) else {
            return Err(unusable("it does not say a QEMU version".to_owned()));
        };
        if numbers < OLDEST {
            return Err(Missing::TooOld { path, version });
        }
        Ok(Program { path, version })
    }
}

/// The version in `QEMU emulator version 11.1.3 (…)`.
fn version(said: &str) -> Option<(String, (u32, u32))> {
    let (_, rest) = said.split_once("QEMU emulator version ")?;
    let version = rest.split_whitespace().next()?;
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((version.chars().take(32).collect(), (major, minor)))
}

/// What executes the guest's instructions.
#[derive(Debug)]
pub enum Accelerator {
    /// The processor itself. The descriptor is `/dev/kvm`, opened before QEMU loses the right to.
    Kvm(File),
    /// QEMU, and why not the processor.
    Tcg(String),
}

impl Accelerator {
    /// KVM, where there is any and nothing is known against it. Whether it works is found out by whoever uses it.
    pub fn find(known: Option<String>) -> Accelerator {
        if let Some(reason) = known {
            return Accelerator::Tcg(reason);
        }
        match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(kvm) => Accelerator::Kvm(kvm),
            Err(error) => Accelerator::Tcg(format!("/dev/kvm: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, said: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(NAME);
        std::fs::write(&path, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_are_read_and_compared_by_number() {
        let said = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(version(said), Some(("11.1.3".to_owned(), (11, 1))));
        assert_eq!(version("QEMU emulator version 9.2").unwrap().1, (9, 2));
        assert!((9, 20) < OLDEST && (10, 1) >= OLDEST && (10, 0) < OLDEST);
        assert_eq!(version("no such thing"), None);
    }

    #[test]
    fn a_missing_or_old_qemu_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let error = Program::find_by(None, Some(folder.path().as_os_str())).unwrap_err();
        assert!(matches!(error, Missing::NotInPath));
        assert!(error.to_string().contains("trixie-backports"), "{error}");
        let path = script(folder.path(), "QEMU emulator version 7.2.22 (Debian)");
        let error = Program::find_by(None, Some(folder.path().as_os_str())).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Missing::TooOld { .. }), "{text}");
        assert!(text.contains("7.2.22") && text.contains("10.1"), "{text}");
        script(folder.path(), "QEMU emulator version 10.1.0");
        let found = Program::find_by(None, Some(folder.path().as_os_str())).unwrap();
        assert_eq!(
            found,
            Program {
                path: path.clone(),
                version: "10.1.0".to_owned()
            }
        );
        // The variable wins, also where it is wrong.
        let error = Program::find_by(
            Some(OsStr::new("/nowhere/qemu")),
            Some(folder.path().as_os_str()),
        );
        assert!(error.unwrap_err().to_string().contains("/nowhere/qemu"));
        script(folder.path(), "hello");
        let error = Program::find_by(Some(path.as_os_str()), None).unwrap_err();
        assert!(matches!(error, Missing::Unusable { .. }), "{error}");
    }
}
