//! The sandbox backend, from outside and inside. This binary is both: started as `/init` in an enclave it is the program inside
//! ([`guest`]), otherwise it runs the tests, one after the other, or those whose names contain an argument.
//!
//! As root, each enclave has a range of ids, and reduced isolation is tested as well. As another user (for example
//! `setpriv --reuid 65534 --regid 65534 --clear-groups <this binary>`), each has a single id.
#![allow(
    clippy::cast_sign_loss,
    clippy::items_after_statements,
    clippy::large_stack_arrays,
    clippy::semicolon_if_nothing_returned,
    clippy::unchecked_time_subtraction,
    clippy::many_single_char_names,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test program: it talks on its output and stops at the first surprise"
)]

mod doors;
mod guest;
mod outside;
#[path = "../common/runner.rs"]
mod runner;
#[expect(
    unsafe_code,
    reason = "raw calls, which the tests make to see them refused"
)]
mod sys;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.first().map(String::as_str) {
        Some("/init") => guest::main(),
        _ if arguments.get(1).is_some_and(|first| first == "--host") => {
            outside::host_that_hangs(&arguments[2])
        }
        _ => outside::main(&arguments[1..]),
    }
}
