//! The lifecycle of enclaves: one supervisor process each, and a folder with its state, sockets and console.
//!
//! [`spawn()`] starts a supervisor and returns once its enclave serves; the enclave then outlives the caller. [`list`],
//! [`find`] and [`stop`] work from any process of the same user, by the state files alone. [`supervise()`] stays in the
//! foreground instead. Nothing here holds a key or looks into what is carried.

mod backend;
mod console;
mod control;
mod frame;
mod guest;
mod home;
mod registry;
mod ring;
mod spawn;
mod state;
mod supervise;
#[expect(
    unsafe_code,
    reason = "one call of the C library that no safe crate offers"
)]
mod sys;
mod windows;

pub use console::{follow, printable, tail};
pub(crate) use control::ask;
pub use control::{
    CONTROL_SOCKET, Control, ControlError, Counters, Histogram, Ingress, Reply, Request,
};
pub use home::{Home, HomeError};
pub(crate) use registry::instance_name;
pub use registry::{RegistryError, find, is_name, list, stop};
pub(crate) use ring::Ring;
pub use ring::{LARGEST_RING_FILE, Line, RingReader};
pub(crate) use spawn::spawn_child;
pub use spawn::{RunError, Serving, SupervisorProgram, spawn};
pub use state::{MeasuredAs, Process, State, StateError, Status};
pub use supervise::{Ended, SuperviseError, SuperviseOptions, supervise, supervisor_process};
pub(crate) use sys::return_freed_memory;
