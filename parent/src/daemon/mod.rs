//! The daemon: keeps declared enclaves running, and answers for them on a Unix socket.
//!
//! [`config`] says what is declared, [`reconcile`] what follows from that, the keeper does it. Enclaves, their calls and their
//! flows live in supervisors of their own: the daemon can end at any moment, and another one finds them again. It holds no key
//! and sees no byte of a flow; it must never take an enclave's word for what it is, but only a verified document.
#![deny(unsafe_code)]

mod admission;
pub mod api;
mod client;
pub mod config;
mod init_system;
mod keeper;
mod metrics;
pub mod reconcile;
mod serve;
mod sockets;
pub mod view;
mod web;

pub use client::{ApiClient, ApiError};
pub use serve::{DaemonError, DaemonOptions, run, socket_of};
