//! The hidden subcommand that `run` starts: one supervisor for one enclave.

use std::process::ExitCode;

pub(crate) fn run() -> ExitCode {
    ExitCode::from(anchorhold_parent::lifecycle::supervisor_process())
}
