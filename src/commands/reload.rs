//! `anchorhold reload`: has the daemon read its configuration anew.

use anchorhold_parent::daemon::view::Reloaded;
use clap::Args;
use serde_json::json;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold reload\n\n\
    A file with an error leaves everything as it is, and is named with line and column.")]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let daemon = super::daemon::must_run()?;
    let changes: Reloaded = daemon.post("/v1/reload", &json!({})).await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&changes)?);
        return Ok(());
    }
    let mut nothing = true;
    for (what, names) in [
        ("added", &changes.added),
        ("rolls over", &changes.replaced),
        ("changed", &changes.changed),
        ("drains", &changes.removed),
        ("at the daemon's next start", &changes.at_next_start),
    ] {
        if !names.is_empty() {
            nothing = false;
            println!("{what}: {}", names.join(", "));
        }
    }
    if nothing {
        println!("nothing changed");
    }
    Ok(())
}
