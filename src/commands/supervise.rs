//! The hidden subcommand that `run` starts: one supervisor for one enclave.

use std::process::ExitCode;

pub(crate) fn run() -> ExitCode {
    // Into supervisor.log in the enclave's folder, once there is one.
    tracing_subscriber::fmt()
        // With the time that each took.
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ANCHORHOLD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    ExitCode::from(anchorhold_parent::lifecycle::supervisor_process())
}
