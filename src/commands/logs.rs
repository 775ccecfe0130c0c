//! `anchorhold logs`: what an enclave wrote on its console.

use anchorhold_parent::lifecycle::{Home, find, follow};
use anyhow::Context as _;
use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold logs cards\n\n\
    The runtime writes there what it did and why a call failed, never what a job was given. A job's own \
    stderr is dropped unless its manifest says [log] job_stderr = \"forward\", or the enclave is in debug mode.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// Go on until the enclave ends
    #[arg(short, long)]
    follow: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let home = Home::from_environment()?;
    let enclave = find(&home, &arguments.name)?;
    let mut ended = || {
        !arguments.follow
            || find(&home, &arguments.name).map_or(true, |enclave| !enclave.status.is_running())
    };
    follow(&enclave.console(), &mut std::io::stdout(), &mut ended)
        .with_context(|| format!("the console of {} cannot be read", arguments.name))
}
