//! The nitro backend, on a host that is played for it. This binary is both: with `--under-test` it is the program that starts an
//! enclave and whose calls are answered ([`under_test`]), otherwise it plays the host ([`device`]) and runs the tests
//! ([`cases`]), one after the other, or those whose names contain an argument.
//!
//! What is not shown here: that AWS's hypervisor takes what the kernel's driver takes.
#![allow(
    clippy::cast_sign_loss,
    clippy::items_after_statements,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test program: it talks on its output and stops at the first surprise"
)]

mod cases;
mod device;
#[path = "../common/runner.rs"]
mod runner;
#[expect(
    unsafe_code,
    reason = "seccomp user notification, which no safe crate offers"
)]
mod sys;
mod under_test;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments
        .get(1)
        .is_some_and(|first| first == "--under-test")
    {
        under_test::main(&arguments[2..]);
    } else {
        cases::main(&arguments[1..]);
    }
}
