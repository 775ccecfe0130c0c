//! Where anchorhold keeps its things on a host, and whether those places are safe to use.
//!
//! State that outlives a reboot (the development root) and the folders of enclaves, which do not. Both belong to one
//! user: a folder that another user owns or can write to is refused, since whoever can put a socket there can answer in
//! an enclave's stead.

use std::ffi::OsString;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

/// The longest path of a Unix socket, in bytes, without the final zero (`unix(7)`).
const LONGEST_SOCKET: usize = 107;

/// The longest name of a socket in an enclave's folder.
const LONGEST_SOCKET_NAME: &str = "vsock.sock_9000";

/// Why the folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// No variable says where.
    #[error(
        "neither ANCHORHOLD_HOME, XDG_STATE_HOME nor HOME is set: set ANCHORHOLD_HOME to a folder for anchorhold's state"
    )]
    Nowhere,
    /// The current folder, to which `ANCHORHOLD_HOME` is relative, is unknown.
    #[error("ANCHORHOLD_HOME is a relative path, and the current folder is unknown: {0}")]
    Relative(#[source] io::Error),
    /// It cannot be made or looked at.
    #[error("the folder {} cannot be used: {source}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error("the folder {} belongs to user {owner}, not to you (user {user}): remove it, or set ANCHORHOLD_HOME to a folder of your own", path.display())]
    NotYours {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The effective user.
        user: u32,
    },
    /// Others can write to it.
    #[error("others may write to the folder {}: run `chmod go-w` on it, or set ANCHORHOLD_HOME to another", path.display())]
    Writable {
        /// The folder.
        path: PathBuf,
    },
    /// It is no folder.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// Sockets in it would have paths that are too long for the system.
    #[error("sockets of this enclave would have paths of {length} bytes (such as {}), and the system takes {LONGEST_SOCKET}: use a shorter --name, or set ANCHORHOLD_HOME to a shorter path", path.display())]
    TooLong {
        /// Such a path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

/// The folders of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    state: PathBuf,
    runtime: PathBuf,
}

impl Home {
    /// State in `$ANCHORHOLD_HOME`, else `$XDG_STATE_HOME/anchorhold`, else `~/.local/state/anchorhold`; enclaves in
    /// `$ANCHORHOLD_HOME`, else `$XDG_RUNTIME_DIR/anchorhold`, else `/tmp/anchorhold-<uid>`. Makes nothing yet.
    pub fn from_environment() -> Result<Self, HomeError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HomeError> {
        let set = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(home) = set("ANCHORHOLD_HOME") {
            return Self::at(&home);
        }
        // Relative paths are invalid in these (XDG Base Directory Specification) and are passed over.
        let absolute = |name: &str| set(name).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/state")))
            .ok_or(HomeError::Nowhere)?
            .join("anchorhold");
        let runtime = absolute("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/tmp/anchorhold-{}", geteuid())),
            |path| path.join("anchorhold"),
        );
        Ok(Self { state, runtime })
    }

    /// State and enclaves in one folder, as `ANCHORHOLD_HOME` has it.
    pub fn at(path: &Path) -> Result<Self, HomeError> {
        let path = std::path::absolute(path).map_err(HomeError::Relative)?;
        Ok(Self {
            state: path.clone(),
            runtime: path,
        })
    }

    /// Where the simulator's development root is kept. Its user makes it.
    pub fn development_root(&self) -> PathBuf {
        self.state.join("development-root")
    }

    /// The folder for state that outlives a reboot, made if need be and checked.
    pub fn state(&self) -> Result<&Path, HomeError> {
        make_private(&self.state)?;
        Ok(&self.state)
    }

    /// Where the enclaves' folders are. May not exist yet.
    pub fn enclaves(&self) -> PathBuf {
        self.runtime.join("enclaves")
    }

    /// The folder of the enclave of that name. May not exist.
    pub fn enclave(&self, name: &str) -> PathBuf {
        self.enclaves().join(name)
    }

    /// Makes the folder of enclaves (mode 0700) if need be and checks that nobody else can reach into it.
    pub(crate) fn make_enclaves(&self) -> Result<PathBuf, HomeError> {
        make_private(&self.runtime)?;
        let enclaves = self.enclaves();
        make_private(&enclaves)?;
        let closed = Permissions::from_mode(0o700);
        std::fs::set_permissions(&enclaves, closed).map_err(|source| HomeError::Unusable {
            path: enclaves.clone(),
            source,
        })?;
        Ok(enclaves)
    }

    /// Checks the folder of enclaves without making it. `false` where there is none.
    pub(crate) fn check_enclaves(&self) -> Result<bool, HomeError> {
        for path in [&self.runtime, &self.enclaves()] {
            if !check_private(path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks that sockets in that enclave's folder have paths that the system takes.
    pub(super) fn check_length(&self, name: &str) -> Result<(), HomeError> {
        let path = self.enclave(name).join(LONGEST_SOCKET_NAME);
        let length = path.as_os_str().as_bytes().len();
        if length > LONGEST_SOCKET {
            return Err(HomeError::TooLong { path, length });
        }
        Ok(())
    }
}

fn make_private(path: &Path) -> Result<(), HomeError> {
    if check_private(path)? {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| HomeError::Unusable {
            path: path.to_owned(),
            source,
        })?;
    // Somebody may have been quicker.
    check_private(path).map(|_| ())
}

/// Whether the folder exists; an error where it exists and is not the user's own. A link to a folder may stand for it
/// only if the user made the link.
fn check_private(path: &Path) -> Result<bool, HomeError> {
    let user = geteuid().as_raw();
    let unusable = |source| HomeError::Unusable {
        path: path.to_owned(),
        source,
    };
    let link = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(unusable(error)),
    };
    let found = std::fs::metadata(path).map_err(unusable)?;
    for owner in [link.uid(), found.uid()] {
        if owner != user {
            return Err(HomeError::NotYours {
                path: path.to_owned(),
                owner,
                user,
            });
        }
    }
    if !found.is_dir() {
        return Err(HomeError::NotAFolder(path.to_owned()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(HomeError::Writable {
            path: path.to_owned(),
        });
    }
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Home, HomeError> {
        Home::from_variables(|name| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        })
    }

    #[test]
    fn variables_are_followed_in_order() {
        let all = [
            ("ANCHORHOLD_HOME", "/a"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("HOME", "/h"),
        ];
        let home = from(&all).unwrap();
        assert_eq!(home.development_root(), Path::new("/a/development-root"));
        assert_eq!(home.enclaves(), Path::new("/a/enclaves"));
        let home = from(&all[1..]).unwrap();
        assert_eq!(
            home.development_root(),
            Path::new("/s/anchorhold/development-root")
        );
        assert_eq!(home.enclave("x"), Path::new("/r/anchorhold/enclaves/x"));
        let home = from(&[
            ("HOME", "/h"),
            ("XDG_STATE_HOME", "relative"),
            ("XDG_RUNTIME_DIR", ""),
        ])
        .unwrap();
        assert_eq!(
            home.development_root(),
            Path::new("/h/.local/state/anchorhold/development-root")
        );
        assert_eq!(
            home.enclaves(),
            PathBuf::from(format!("/tmp/anchorhold-{}/enclaves", geteuid()))
        );
        assert!(matches!(from(&[]), Err(HomeError::Nowhere)));
        assert!(
            from(&[("ANCHORHOLD_HOME", "here")])
                .unwrap()
                .enclaves()
                .is_absolute()
        );
    }

    #[test]
    fn folders_are_made_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("deep/home")).unwrap();
        assert!(!home.check_enclaves().unwrap());
        let enclaves = home.make_enclaves().unwrap();
        assert_eq!(std::fs::metadata(&enclaves).unwrap().mode() & 0o777, 0o700);
        assert!(home.check_enclaves().unwrap());
        home.make_enclaves().unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let home = Home::at(dir.path()).unwrap();
        assert!(matches!(
            home.make_enclaves(),
            Err(HomeError::Writable { .. })
        ));
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        home.make_enclaves().unwrap();
    }

    #[test]
    fn a_folder_or_link_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        if geteuid().is_root() {
            std::fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        } else {
            // Root's folder, behind a link of ours.
            std::os::unix::fs::symlink("/usr", &path).unwrap();
        }
        let error = Home::at(&path).unwrap().make_enclaves().unwrap_err();
        assert!(matches!(error, HomeError::NotYours { .. }), "{error}");

        if geteuid().is_root() {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(dir.path(), &link).unwrap();
            Home::at(&link).unwrap().make_enclaves().unwrap();
            std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
            let error = Home::at(&link).unwrap().make_enclaves().unwrap_err();
            assert!(matches!(error, HomeError::NotYours { .. }), "{error}");
        }
    }

    #[test]
    fn a_socket_path_that_the_system_cannot_take_is_named_with_its_length() {
        let home = Home::at(Path::new("/tmp/h")).unwrap();
        // "/tmp/h/enclaves/" and "/vsock.sock_9000" are 32 bytes.
        home.check_length(&"n".repeat(107 - 32)).unwrap();
        let error = home.check_length(&"n".repeat(108 - 32)).unwrap_err();
        assert!(error.to_string().contains("108 bytes"), "{error}");
    }
}
