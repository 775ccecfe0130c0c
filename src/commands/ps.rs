//! `anchorhold ps`: the enclaves of this user.

use anchorhold_parent::daemon::ApiClient;
use anchorhold_parent::daemon::view::{Condition, EnclaveView};
use anchorhold_parent::lifecycle::{Home, State, Status, list};
use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold ps --json | jq -r '.[].name'\n\n\
    Where a daemon runs, what it has declared is shown as well, and how it stands. JSON has an entry for each \
    instance.")]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let home = Home::from_environment()?;
    let Some(daemon) = ApiClient::find(&home)? else {
        let enclaves = list(&home)?;
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&enclaves)?);
        } else {
            heading();
            for enclave in &enclaves {
                row(&enclave.name, enclave, "");
            }
        }
        return Ok(());
    };
    let views: Vec<EnclaveView> = super::block_on(async { Ok(daemon.get("/v1/enclaves").await?) })?;
    if arguments.json {
        let mut states: Vec<&State> = views.iter().flat_map(|view| &view.instances).collect();
        states.sort_by_key(|state| state.started_ms);
        println!("{}", serde_json::to_string_pretty(&states)?);
        return Ok(());
    }
    heading();
    for view in &views {
        print(view);
    }
    Ok(())
}

fn heading() {
    println!(
        "{:<24} {:>5} {:<9} {:<22} PCR0",
        "NAME", "CID", "BACKEND", "STATUS"
    );
}

/// A declared enclave by its running instances, else in a line of its own.
fn print(view: &EnclaveView) {
    let mut shown = false;
    for state in &view.instances {
        if view.condition != Condition::Foreign && !state.status.is_running() {
            continue;
        }
        shown = true;
        let more = match (view.declared, state.draining, state.admitted_ms) {
            (_, true, _) => ", draining",
            (true, false, Some(_)) => ", attested",
            _ => "",
        };
        row(&view.name, state, more);
    }
    if !shown {
        let condition = match view.condition {
            Condition::Starting => "starting",
            Condition::Serving => "serving",
            Condition::Waiting => "waiting",
            Condition::Stopped | Condition::Foreign => "stopped",
        };
        let why = view.last_error.as_ref().map_or_else(String::new, |why| {
            format!("  {}", why.lines().next().unwrap_or(""))
        });
        println!(
            "{:<24} {:>5} {:<9} {condition:<22} -{why}",
            view.name, "-", "-"
        );
    }
}

fn row(name: &str, enclave: &State, more: &str) {
    let status = match &enclave.status {
        Status::Starting => "starting".to_owned(),
        Status::Serving if enclave.debug => "serving (debug)".to_owned(),
        Status::Serving => format!("serving{more}"),
        Status::Ended { reason, .. } => format!("ended: {reason}"),
        Status::Lost => "lost".to_owned(),
    };
    let pcr0 = enclave
        .measurements
        .as_ref()
        .map_or("-", |measured| &measured.pcr0);
    let pcr0: String = pcr0.chars().take(16).collect();
    println!(
        "{name:<24} {:>5} {:<9} {status:<22} {pcr0}…",
        enclave.cid, enclave.backend
    );
}
