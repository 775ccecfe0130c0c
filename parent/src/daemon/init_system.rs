//! What an init system and a daemon say to each other: readiness and watchdog (`sd_notify(3)`), and sockets that were opened for
//! it (`sd_listen_fds(3)`). Without one, nothing is said.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The line to the init system.
pub(super) struct InitSystem {
    line: Option<(UnixDatagram, SocketAddr)>,
}

impl InitSystem {
    /// As `NOTIFY_SOCKET` says.
    pub(super) fn from_environment() -> Self {
        let line = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = address(&name)?;
            Some((UnixDatagram::unbound().ok()?, address))
        });
        Self { line }
    }

    /// Says something, such as `READY=1`. Where nobody listens, nothing happens.
    pub(super) fn say(&self, words: &str) {
        if let Some((socket, address)) = &self.line {
            let _ = socket.send_to_addr(words.as_bytes(), address);
        }
    }

    /// How often the watchdog wants to hear `WATCHDOG=1`, at the latest: half of its time.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.line.as_ref()?;
        if let Ok(pid) = std::env::var("WATCHDOG_PID")
            && pid != std::process::id().to_string()
        {
            return None;
        }
        let us: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
        (us > 0).then(|| Duration::from_micros(us) / 2)
    }
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}

/// Sockets that were opened for this process, by their names; those without one are `unknown`, as systemd calls them. Of two of
/// one name the first counts. They are closed on exec from here on.
pub(super) fn passed() -> BTreeMap<String, OwnedFd> {
    let mut sockets = BTreeMap::new();
    let variable = |name| std::env::var(name).ok();
    let for_this = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count: i32 = variable("LISTEN_FDS")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    if !for_this || !(1..=1024).contains(&count) {
        return sockets;
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    for number in 3..3 + count {
        let name = names
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or("unknown");
        if let Some(socket) = sys::inherited(number) {
            sockets.entry(name.to_owned()).or_insert(socket);
        }
    }
    sockets
}

/// Descriptors by number.
mod sys {
    #![allow(unsafe_code)]

    use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    /// A copy, closed on exec, of a descriptor that this process was started with; the descriptor itself is closed on exec from
    /// here on. `None` where there is none of that number.
    pub(super) fn inherited(number: RawFd) -> Option<OwnedFd> {
        // SAFETY: only borrowed for these two calls, which say EBADF where it is not open; nothing else closes it meanwhile,
        // since it belongs to no value of this process.
        let inherited = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(inherited, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        inherited.try_clone_to_owned().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[test]
    fn words_reach_a_socket_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("@anchorhold-test-{}", std::process::id());
        let abstract_address = address(OsStr::new(&hidden)).unwrap();
        for (listener, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str()),
            (
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
                OsStr::new(&hidden),
            ),
        ] {
            let line = Some((UnixDatagram::unbound().unwrap(), address(name).unwrap()));
            InitSystem { line }.say("READY=1");
            let mut heard = [0; 16];
            let count = listener.recv(&mut heard).unwrap();
            assert_eq!(&heard[..count], b"READY=1");
        }
        assert!(address(OsStr::new("relative")).is_none());
    }
}
