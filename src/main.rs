//! The `anchorhold` command: puts the parts together and decides nothing.
//!
//! Every subcommand is a file of its own in `commands`; what they promise
//! (names, exit codes, output) is what scripts rely on.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks on its standard streams"
)]

mod commands;
mod conformance;
mod demo;
mod documents;
mod errors;
mod files;
mod key_service;
mod load;
mod text;

use std::process::ExitCode;

use clap::Parser;

/// Runs a sensitive job where not even the operator of the machine can read its data.
#[derive(Parser)]
#[command(
    name = "anchorhold",
    version,
    max_term_width = 100,
    after_help = "Try it: anchorhold demo\n\n\
        The sandbox backend protects against a careless or compromised job, not against whoever \
        controls this host. Only Nitro hardware does that."
)]
struct CommandLine {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    if command_line.command.only_prints() {
        // A reader that has seen enough, such as `head`, ends the program in silence.
        sigpipe::reset();
    }
    match commands::dispatch(command_line.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("anchorhold: {}", errors::one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
