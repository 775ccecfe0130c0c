//! `anchorhold stop`: ends an enclave.

use std::time::Duration;

use anchorhold_parent::lifecycle::{Home, Status, stop};
use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold stop cards\n\n\
    Its memory is gone with it, and its root file system, which was in memory. The console stays until an \
    enclave of the same name is started.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// How long it may take to end by itself
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let home = Home::from_environment()?;
    let state = stop(&home, &arguments.name, Duration::from_secs(arguments.grace))?;
    match state.status {
        Status::Ended { reason, .. } => println!("{} has ended: {reason}", state.name),
        _ => println!("{} has ended", state.name),
    }
    Ok(())
}
