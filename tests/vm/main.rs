//! Images in virtual machines: that they boot as they were measured, what their vsock carries, what misbehaving ones cost.
//!
//! Needs `ANCHORHOLD_VM`, a folder that tests/vm/setup has made. The suites `whole` and `boundary` run in virtual machines as
//! well, with `ANCHORHOLD_TEST_BACKEND=qemu`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's failure may be a panic, and shows a console"
)]

#[path = "../common/mod.rs"]
mod common;

mod boots;
mod daemon;
mod kernels;
mod misbehaving;
mod ordinary_user;
mod stage;
#[path = "guest/src/sum.rs"]
mod sum;
mod traces;
mod traffic;
