//! `anchorhold start`: lets a declared enclave that was stopped start again.

use anchorhold_parent::daemon::view::EnclaveView;
use clap::Args;
use serde_json::json;

#[derive(Args)]
#[command(
    after_help = "Example:\n  anchorhold stop cards && anchorhold start cards\n\n\
    For enclaves that a file of the daemon's declares. Others are started by `anchorhold run`."
)]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let daemon = super::daemon::must_run()?;
    let path = format!("/v1/enclaves/{}/start", super::in_a_path(&arguments.name)?);
    let view: EnclaveView = daemon.post(&path, &json!({})).await?;
    println!("{} starts", view.name);
    Ok(())
}
