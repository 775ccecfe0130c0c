//! The calls that safe Rust has no words for: fork and exec with walls, and a few calls to the kernel about this process.
//!
//! All `unsafe` of this crate is here. Between fork and exec nothing but async-signal-safe calls may happen: no
//! allocation, no locks, no formatting.

pub(crate) mod filter;
mod host;
mod readiness;
mod spawn;
mod wait;

pub(crate) use host::load_module;
pub use host::{
    Landlock, add_entropy, adopt_orphans, drop_core_dumps, landlock_version, may_drop_bounding_set,
    provide_loopback, refuse_dumps,
};
pub(crate) use readiness::{watch_listener, watch_stream};
pub use spawn::{Identity, Limit, Plan, SpawnError, Step, spawn};
pub(crate) use wait::{ended, reap};
