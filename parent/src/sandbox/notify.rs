//! System calls that the filter hands to the supervisor: who made them, what their arguments point to, which file they name.
//!
//! Everything here comes from a process that may be hostile: any number, any address, any moment of dying. Nothing here may
//! wait for it. A file is recognised by what it is, never by its number.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};

use super::namespaces::Identity;
use super::sys::process;
use super::sys::seccomp::{self, Answer, Memory, Notification};

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is to be answered so.
    Answer(Answer),
    /// It has been answered, or waits for something and will be.
    Done,
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Answer(Answer::Error(errno))
    }
}

impl Outcome {
    pub(crate) const SUCCESS: Outcome = Outcome::Answer(Answer::Value(0));
    pub(crate) const CONTINUE: Outcome = Outcome::Answer(Answer::Continue);
}

/// The enclave's threads that made calls lately.
#[derive(Default)]
pub(crate) struct Threads(HashMap<u32, OwnedFd>);

/// More threads than this are looked up anew.
const MOST_THREADS: usize = 256;

/// One waiting call.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) listener: BorrowedFd<'a>,
    pub(crate) notification: Notification,
}

impl Call<'_> {
    /// Argument `index` as the number that the kernel takes it for.
    pub(crate) fn int(&self, index: usize) -> i32 {
        self.notification.arguments[index] as i32
    }

    /// Argument `index` as an address.
    pub(crate) fn address(&self, index: usize) -> u64 {
        self.notification.arguments[index]
    }

    /// The caller's memory.
    pub(crate) fn memory(&self) -> Result<Memory, Errno> {
        Memory::of(self.listener, &self.notification)
    }

    /// Whether the caller still waits.
    pub(crate) fn is_waiting(&self) -> bool {
        seccomp::is_waiting(self.listener, self.notification.id)
    }

    /// Answers. An error means that the caller no longer waits: it was interrupted, or is dead.
    pub(crate) fn answer(&self, answer: Answer) -> Result<(), Errno> {
        seccomp::answer(self.listener, self.notification.id, answer)
    }

    /// Answers with a descriptor of `file`. An error means that the caller does not have it.
    pub(crate) fn answer_with(
        &self,
        file: BorrowedFd<'_>,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        seccomp::answer_with_descriptor(self.listener, self.notification.id, file, close_on_exec)
    }

    /// The open file behind the caller's descriptor `number`, whatever it is.
    pub(crate) fn file(&self, threads: &mut Threads, number: RawFd) -> Result<OwnedFd, Errno> {
        let tid = self.notification.tid;
        if let Some(known) = threads.0.get(&tid) {
            match process::descriptor_of(known.as_fd(), number) {
                // That thread has ended, and its number was given to another one.
                Err(Errno::ESRCH) => {}
                other => return other,
            }
        }
        let thread = process::pidfd_of(tid)?;
        // Only now is it certain that the number still meant the caller when it was looked up.
        if !self.is_waiting() {
            return Err(Errno::ESRCH);
        }
        let file = process::descriptor_of(thread.as_fd(), number);
        if threads.0.len() >= MOST_THREADS {
            threads.0.clear();
        }
        threads.0.insert(tid, thread);
        file
    }

    /// Whether the caller's descriptor `number` is an open file with this identity. A descriptor that was opened as a mere
    /// path (`O_PATH`), which takes no permission, does not count: `EBADF`, as the kernel has it.
    pub(crate) fn is_file(
        &self,
        threads: &mut Threads,
        number: RawFd,
        identity: Identity,
    ) -> Result<bool, Errno> {
        let file = self.file(threads, number)?;
        let flags = nix::fcntl::fcntl(&file, FcntlArg::F_GETFL)?;
        if OFlag::from_bits_truncate(flags).contains(OFlag::O_PATH) {
            return Err(Errno::EBADF);
        }
        let status = nix::sys::stat::fstat(&file)?;
        Ok(identity
            == Identity {
                device: status.st_dev,
                inode: status.st_ino,
            })
    }
}

/// Takes the next call off a listener that is readable. `None` where its thread is gone already.
pub(crate) fn next(listener: BorrowedFd<'_>) -> Result<Option<Call<'_>>, Errno> {
    match seccomp::receive(listener) {
        Ok(notification) => Ok(Some(Call {
            listener,
            notification,
        })),
        Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
