//! `anchorhold daemon`: keeps declared enclaves running.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anchorhold_parent::daemon::{self, DaemonOptions};
use anchorhold_parent::lifecycle::{Home, SupervisorProgram};
use clap::Args;

#[derive(Args)]
#[command(
    after_help = "Example:\n  anchorhold daemon --config /etc/anchorhold\n\n\
    The folder holds daemon.toml, which may be missing, and enclaves.d with a file for each enclave:\n    \
    image = \"cards.eif\"\n    \
    pcr0 = \"…\"               # of `anchorhold describe cards.eif`\n    \
    backend = \"sandbox\"\n\n\
    An enclave counts as started when it has attested and its document was verified. SIGHUP, or `anchorhold \
    reload`, changes what changed and nothing else. The daemon may end at any moment: enclaves, their calls \
    and their connections go on, and the next daemon finds them."
)]
pub(crate) struct Arguments {
    /// The folder of daemon.toml and enclaves.d
    #[arg(long, value_name = "DIR", default_value = "/etc/anchorhold")]
    config: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        // With the time that each took.
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ANCHORHOLD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let options = DaemonOptions {
        home: Home::from_environment()?,
        folder: arguments.config.clone(),
        supervisor: SupervisorProgram::own()?,
    };
    daemon::run(options, |socket| {
        println!("serving on {}", socket.display());
    })?;
    Ok(())
}

/// The daemon of this user, which must run.
pub(super) fn must_run() -> anyhow::Result<daemon::ApiClient> {
    daemon::ApiClient::find(&Home::from_environment()?)?.ok_or_else(|| {
        anyhow::anyhow!(
            "no daemon runs for this user: start `anchorhold daemon`, or set ANCHORHOLD_API to its socket"
        )
    })
}
