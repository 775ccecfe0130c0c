//! The listening sockets of declared enclaves, which the daemon makes or was passed, and hands to supervisors.
//!
//! The daemon keeps a copy of each, so that connections wait while an enclave is replaced. It never accepts one. A daemon that
//! starts anew gets copies back from the supervisors that have them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::config::{Declared, Listen};

/// Listening sockets by where they listen.
#[derive(Default)]
pub(super) struct Sockets {
    /// By the place's text.
    kept: BTreeMap<String, OwnedFd>,
    /// What was passed at the start, by name.
    passed: BTreeMap<String, OwnedFd>,
    /// Files that were made here, to be removed with the socket.
    files: BTreeMap<String, PathBuf>,
}

fn key(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => format!("tcp:{address}"),
        Listen::Unix(path) => format!("unix:{}", path.display()),
        Listen::Passed(name) => format!("passed:{name}"),
    }
}

impl Sockets {
    pub(super) fn new(passed: BTreeMap<String, OwnedFd>) -> Self {
        Self {
            passed,
            ..Self::default()
        }
    }

    /// A copy of the socket that listens there, made where there is none yet.
    pub(super) fn at(&mut self, listen: &Listen) -> Result<OwnedFd, String> {
        let key = key(listen);
        if let Some(kept) = self.kept.get(&key) {
            return copy(kept);
        }
        let made = match listen {
            Listen::Tcp(address) => OwnedFd::from(
                TcpListener::bind(address)
                    .map_err(|error| format!("nothing can listen at {address}: {error}"))?,
            ),
            Listen::Unix(path) => {
                let socket = bind_unix(path).map_err(|error| {
                    format!("nothing can listen at {}: {error}", path.display())
                })?;
                self.files.insert(key.clone(), path.clone());
                OwnedFd::from(socket)
            }
            Listen::Passed(name) => match self.passed.get(name) {
                Some(passed) => copy(passed)?,
                None => {
                    return Err(format!(
                        "no socket of the name {name} was passed to the daemon: set FileDescriptorName={name} in its socket unit"
                    ));
                }
            },
        };
        let out = copy(&made)?;
        self.kept.insert(key, made);
        Ok(out)
    }

    /// Takes a copy that a supervisor has, where it is of a place that is declared and not known here yet.
    pub(super) fn take_back(&mut self, declared: &Declared, ingress: &str, socket: OwnedFd) {
        let Some(entrance) = declared.entrances.get(ingress) else {
            return;
        };
        let is_it = match &entrance.listen {
            Listen::Tcp(address) => tcp_address(&socket) == Some(*address),
            Listen::Unix(path) => unix_path(&socket).as_ref() == Some(path),
            Listen::Passed(name) => !self.passed.contains_key(name),
        };
        if is_it {
            let key = key(&entrance.listen);
            if let Listen::Unix(path) = &entrance.listen {
                self.files.insert(key.clone(), path.clone());
            }
            self.kept.entry(key).or_insert(socket);
        }
    }

    /// Closes what no declaration names any more.
    pub(super) fn keep_only<'a>(&mut self, declared: impl Iterator<Item = &'a Declared>) {
        let wanted: Vec<String> = declared
            .flat_map(|one| one.entrances.values())
            .map(|entrance| key(&entrance.listen))
            .collect();
        self.kept.retain(|key, _| wanted.contains(key));
        let (kept, gone) = std::mem::take(&mut self.files)
            .into_iter()
            .partition(|(key, _)| wanted.contains(key));
        self.files = kept;
        for path in BTreeMap::into_values(gone) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn copy(socket: &OwnedFd) -> Result<OwnedFd, String> {
    socket
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| format!("a listening socket cannot be copied: {error}"))
}

/// Binds a Unix socket for this user alone. A dead one in its place, which nobody answers, is removed.
pub(super) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            if !is_socket || UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn tcp_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let copy = socket.try_clone().ok()?;
    TcpListener::from(copy).local_addr().ok()
}

fn unix_path(socket: &OwnedFd) -> Option<PathBuf> {
    let copy = socket.try_clone().ok()?;
    let address = UnixListener::from(copy).local_addr().ok()?;
    address.as_pathname().map(Path::to_path_buf)
}
