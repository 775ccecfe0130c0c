//! `anchorhold stop`: ends an enclave.

use std::time::Duration;

use anchorhold_parent::daemon::ApiClient;
use anchorhold_parent::daemon::view::{EnclaveView, StopRequest};
use anchorhold_parent::lifecycle::{Control, Home, Request, Status, find, stop};
use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold stop cards --drain 30\n\n\
    Its memory is gone with it, and its root file system, which was in memory. The console stays until an \
    enclave of the same name is started. One that a daemon has declared stays stopped until `anchorhold start`.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// How long calls and connections may go on; nothing new is taken meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    drain: u32,
    /// How long it may take to end by itself
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let home = Home::from_environment()?;
    if let Some(daemon) = ApiClient::find(&home)? {
        let path = format!("/v1/enclaves/{}/stop", super::in_a_path(&arguments.name)?);
        let request = StopRequest {
            drain_seconds: arguments.drain,
        };
        let view: EnclaveView = super::block_on(async { Ok(daemon.post(&path, &request).await?) })?;
        println!("{} has ended", view.name);
        return Ok(());
    }
    let mut grace = Duration::from_secs(arguments.grace);
    if arguments.drain > 0 {
        let state = find(&home, &arguments.name)?;
        let limit = Duration::from_secs(arguments.drain.into());
        let drain = Request::Drain {
            limit_ms: limit.as_millis() as u64,
        };
        Control::connect(&state.dir)?.order(&drain, &[])?;
        let ended = || find(&home, &state.name).is_ok_and(|now| !now.status.is_running());
        let until = std::time::Instant::now() + limit + grace;
        while !ended() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        grace = Duration::from_secs(1);
    }
    let state = stop(&home, &arguments.name, grace)?;
    match state.status {
        Status::Ended { reason, .. } => println!("{} has ended: {reason}", state.name),
        _ => println!("{} has ended", state.name),
    }
    Ok(())
}
