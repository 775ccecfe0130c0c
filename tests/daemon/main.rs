//! The daemon as its users have it: the command, its API, its files; enclaves in sandboxes.

#![allow(
    clippy::print_stderr,
    unreachable_pub,
    reason = "what could not be shown is said out loud; the stage is shared between modules"
)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod api;
mod attested;
mod hostile;
mod kept_running;
mod kills;
mod logs;
mod page;
mod reload;
mod stage;
mod systemd;
mod windows;
