//! The socket in the state folder by which whoever owns the folder asks the running service for a backup.
//!
//! Only the folder's owner can reach it (mode 0700, and 0600 for the socket). It takes one word and gives a
//! backup, whose key material is encrypted; nothing can be changed through it.

use crate::backup::{self, BackupError};
use crate::root_key;
use crate::sealing::Secret;
use crate::service::Core;
use crate::state::StateError;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const NAME: &str = "control.sock";
const BACKUP: &[u8; 7] = b"backup\n";
const GOOD: u8 = b'+';
const BAD: u8 = b'-';
/// For each read or write of the other side.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket, for as long as this lives.
pub(crate) struct Control {
    folder: PathBuf,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Begins to listen. `key` is the store's key.
    pub(crate) fn open(folder: &Path, core: Weak<Core>, key: Secret) -> Result<Self, StateError> {
        let failed = |source| StateError::Io {
            path: folder.join(NAME),
            source,
        };
        // What a service left that did not end by itself; the folder is locked, so nobody listens.
        match std::fs::remove_file(folder.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = short_path(folder, |path| UnixListener::bind(path)).map_err(failed)?;
        std::fs::set_permissions(folder.join(NAME), Permissions::from_mode(0o600))
            .map_err(failed)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, own) = (Arc::clone(&stopped), folder.to_owned());
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if is_stopped.load(Ordering::Acquire) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    if let Err(error) = serve(&stream, &own, &core, &key) {
                        tracing::warn!(%error, "a backup was not made");
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self {
            folder: folder.to_owned(),
            stopped,
            thread: Some(thread),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the thread; where nobody can connect, it has ended.
        let woken = short_path(&self.folder, |path| UnixStream::connect(path));
        let _ = std::fs::remove_file(self.folder.join(NAME));
        if woken.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// A socket's path is bounded, a folder's is not: through a descriptor it is short.
fn short_path<T>(folder: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let open = File::open(folder)?;
    act(&PathBuf::from(format!(
        "/proc/self/fd/{}/{NAME}",
        open.as_raw_fd()
    )))
}

fn serve(
    mut stream: &UnixStream,
    folder: &Path,
    core: &Weak<Core>,
    key: &Secret,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut asked = [0; BACKUP.len()];
    stream.read_exact(&mut asked)?;
    if &asked != BACKUP {
        return stream.write_all(&[BAD]);
    }
    let copy = folder.join("backup.copy");
    let outcome = snapshot(folder, core, &copy);
    let outcome = match outcome {
        Ok(wrapped) => {
            stream.write_all(&[GOOD])?;
            let mut out = BufWriter::with_capacity(256 << 10, stream);
            backup::write(key, &wrapped, &copy, &mut out).and_then(|()| out.flush())
        }
        Err(why) => {
            stream.write_all(&[BAD])?;
            stream.write_all(why.as_bytes())
        }
    };
    let _ = std::fs::remove_file(&copy);
    outcome
}

/// Copies the store between two commits.
fn snapshot(folder: &Path, core: &Weak<Core>, copy: &Path) -> Result<Vec<u8>, String> {
    let core = core.upgrade().ok_or("the service is stopping")?;
    let path = folder.join("root.wrapped");
    let wrapped = root_key::read(&path)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("{} is missing", path.display()))?;
    core.store
        .copy_to(copy)
        .map_err(|error| error.to_string())?;
    Ok(wrapped)
}

/// Asks the service that runs on a state folder for a backup, and puts it into a file that is not there
/// yet. Gives its length in bytes.
///
/// # Errors
/// [`BackupError`]; then there is no file.
pub fn backup(state: &Path, to: &Path) -> Result<u64, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let not_running = |source| BackupError::NotRunning {
        folder: state.to_owned(),
        source,
    };
    let mut stream = short_path(state, |path| UnixStream::connect(path)).map_err(not_running)?;
    stream
        .set_read_timeout(Some(10 * PATIENCE))
        .map_err(not_running)?;
    let mut answer = [0];
    stream
        .write_all(BACKUP)
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(not_running)?;
    if answer != [GOOD] {
        let mut why = String::new();
        let _ = stream.take(4096).read_to_string(&mut why);
        return Err(BackupError::Refused(why));
    }
    backup::receive(stream, to)
}
