//! A hostile job tries everything that it can think of, in an enclave and, by the same program, outside: what fails
//! inside must come through outside, or it shows nothing. Where this machine's kernel or user has no such thing, a line on
//! stderr says so, and it does not count.
//!
//! As root all of it runs twice, the second time as an ordinary user.

#![allow(
    clippy::print_stderr,
    clippy::unused_self,
    unreachable_pub,
    reason = "what could not be shown is said out loud; the stage is shared between modules"
)]

#[path = "../common/mod.rs"]
mod common;

mod bombs;
mod leaves_nothing;
mod ordinary_user;
mod stage;
mod traces;
mod walls;
