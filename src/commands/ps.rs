//! `anchorhold ps`: the enclaves of this user.

use anchorhold_parent::lifecycle::{Home, Status, list};
use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold ps --json | jq -r '.[].name'")]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let enclaves = list(&Home::from_environment()?)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&enclaves)?);
        return Ok(());
    }
    println!(
        "{:<24} {:>5} {:<9} {:<22} PCR0",
        "NAME", "CID", "BACKEND", "STATUS"
    );
    for enclave in enclaves {
        let status = match &enclave.status {
            Status::Starting => "starting".to_owned(),
            Status::Serving if enclave.debug => "serving (debug)".to_owned(),
            Status::Serving => "serving".to_owned(),
            Status::Ended { reason, .. } => format!("ended: {reason}"),
            Status::Lost => "lost".to_owned(),
        };
        let pcr0 = enclave
            .measurements
            .as_ref()
            .map_or("-", |measured| &measured.pcr0);
        let pcr0: String = pcr0.chars().take(16).collect();
        println!(
            "{:<24} {:>5} {:<9} {status:<22} {pcr0}…",
            enclave.name, enclave.cid, enclave.backend
        );
    }
    Ok(())
}
