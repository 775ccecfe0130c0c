//! What the supervisor needs of a backend: an enclave that it can wait for and end.
//!
//! Everything that is particular to a backend stays behind this.

use super::state::MeasuredAs;
use crate::Isolation;
use crate::window::Allowlist;

/// How an enclave ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestEnd {
    /// Its exit code; `None` where it was killed.
    pub(super) code: Option<i32>,
    /// In a few words.
    pub(super) reason: String,
}

/// What a backend knows of an enclave once it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// How it is confined, where that was found out by the start.
    pub(super) isolation: Option<Isolation>,
    /// Whether it has a control port that says when it serves. Else its heartbeat is all that there is to wait for.
    pub(super) has_control_port: bool,
    /// What its measured manifest lets it be led to; none where it has no manifest.
    pub(super) reach: Option<Allowlist>,
    pub(super) memory_mib: Option<u32>,
    pub(super) cpus: Option<u32>,
    /// How each limit is enforced and what is missing, one sentence each.
    pub(super) limits: Vec<String>,
}

/// A running enclave. Dropping it ends it.
pub(super) trait Guest: Send + 'static {
    /// What there is to say about it.
    fn facts(&self) -> Facts;

    /// What measures its image; that takes long enough to be left until the enclave serves.
    fn measure(&self) -> Box<dyn FnOnce() -> Option<MeasuredAs> + Send>;

    /// Something that ends it at once, from any thread, while another waits. Ending it twice does nothing.
    fn killer(&self) -> Box<dyn Fn() + Send>;

    /// Waits until it has ended and its console is whole.
    fn wait(&mut self) -> GuestEnd;
}
