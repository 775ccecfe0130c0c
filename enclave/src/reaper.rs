//! Reaps children: the jobs, whose exit somebody waits for, and as init every orphan that the kernel hands us.
//!
//! It must never reap a job before its process group has been ended: while the leader is unreaped its pid, and so the
//! group's number, cannot be given to anybody else, and a kill of the group cannot hit the wrong one. Jobs cannot leave
//! their group (see the filter), so when the leader is gone, all of the job is.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getsid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sys::{ended, reap};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it exited with 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }

    /// The exit code that a shell would report: 128 + signal where a signal ended the process.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(formatter, "ended with exit code {code}"),
            Exit::Signal(number) => match Signal::try_from(*number) {
                Ok(name) => write!(formatter, "was ended by {name}"),
                Err(_) => write!(formatter, "was ended by signal {number}"),
            },
        }
    }
}

/// What is done about children that nobody registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// They are reaped: this process is init, and they are what jobs left behind.
    Reap,
    /// They are somebody else's to wait for.
    Leave,
}

type Children = HashMap<Pid, oneshot::Sender<Exit>>;

/// The one place that waits for children.
pub struct Reaper {
    children: Mutex<Children>,
    orphans: Orphans,
}

impl Reaper {
    /// Starts reaping on the current runtime.
    ///
    /// # Errors
    /// If SIGCHLD cannot be listened for.
    pub fn start(orphans: Orphans) -> io::Result<Arc<Reaper>> {
        let mut deaths = signal(SignalKind::child())?;
        let reaper = Arc::new(Reaper {
            children: Mutex::new(HashMap::new()),
            orphans,
        });
        let task = Arc::downgrade(&reaper);
        tokio::spawn(async move {
            while deaths.recv().await.is_some() {
                let Some(reaper) = task.upgrade() else { break };
                reaper.reap_all();
            }
        });
        Ok(reaper)
    }

    /// Makes a child by `fork` and registers it, without a moment in between at which it could be reaped unnoticed.
    ///
    /// # Errors
    /// Those of `fork`.
    pub fn register(
        &self,
        fork: &mut dyn FnMut() -> io::Result<Pid>,
    ) -> io::Result<(Pid, oneshot::Receiver<Exit>)> {
        let mut children = self.lock();
        let pid = fork()?;
        let (sender, receiver) = oneshot::channel();
        children.insert(pid, sender);
        Ok((pid, receiver))
    }

    /// Whether a process belongs to a child that was registered: it is in its session, which jobs cannot leave.
    pub fn is_of_a_job(&self, pid: Pid) -> bool {
        let children = self.lock();
        getsid(Some(pid)).is_ok_and(|leader| children.contains_key(&leader))
    }

    /// Ends a registered child and its whole process group. Nothing happens if it has ended already.
    pub fn kill(&self, pid: Pid) {
        let children = self.lock();
        if children.contains_key(&pid) {
            end_group(pid);
        }
    }

    fn reap_all(&self) {
        let mut children = self.lock();
        let registered: Vec<Pid> = children.keys().copied().collect();
        for pid in registered {
            if ended(Some(pid)).is_some() {
                bury(&mut children, pid);
            }
        }
        if self.orphans == Orphans::Reap {
            while let Some(pid) = ended(None) {
                bury(&mut children, pid);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        // Nothing panics while holding the lock; if it did, the map is still whole.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends what is left of a child's group, reaps the child and tells whoever waits.
fn bury(children: &mut Children, pid: Pid) {
    let waiter = children.remove(&pid);
    if waiter.is_some() {
        end_group(pid);
    }
    let Ok(exit) = reap(pid) else { return };
    if let Some(waiter) = waiter {
        // Nobody waits for a job whose call was given up.
        let _ = waiter.send(exit);
    }
}

fn end_group(leader: Pid) {
    // ESRCH: the child failed before it had a group of its own.
    let _ = killpg(leader, Signal::SIGKILL);
}
