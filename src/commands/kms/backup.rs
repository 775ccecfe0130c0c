//! `anchorhold kms backup` and `restore`: the store as it is at one moment, while the service runs, and
//! back into an empty folder.

use std::path::PathBuf;

use anchorhold_kms::config::RootKey;
use anyhow::Context as _;
use clap::Args;

use super::state_folder;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold kms backup --state /var/lib/anchorhold-kms --to /backup/kms-2026-11-22\n\n\
    The service answers requests meanwhile. Key material in the backup is encrypted as in the store: \
    it is of no use without the root key, which is no part of it. Nor is the audit log.")]
pub(crate) struct BackupArguments {
    /// The state folder of a running service [default: that of --dev]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The backup; must not be there yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Example:\n  \
    cp /safe/root.key /var/lib/anchorhold-kms-2/\n  \
    anchorhold kms restore --from /backup/kms-2026-11-22 --state /var/lib/anchorhold-kms-2\n\n\
    Without --config the root key is the file root.key in DIR.")]
pub(crate) struct RestoreArguments {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The state folder; must have no store yet
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// A file with the table [root_key]: what unlocked the store that the backup is of
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) fn backup(arguments: &BackupArguments) -> anyhow::Result<()> {
    let state = state_folder(arguments.state.as_deref())?;
    let bytes = anchorhold_kms::backup(&state, &arguments.to)
        .with_context(|| format!("no backup of {} was made", state.display()))?;
    println!("{}: {bytes} bytes", arguments.to.display());
    Ok(())
}

pub(crate) fn restore(arguments: &RestoreArguments) -> anyhow::Result<()> {
    let root = match &arguments.config {
        None => RootKey::InState,
        Some(file) => RootKey::from_file(file)?,
    };
    anchorhold_kms::restore(&arguments.from, &arguments.state, &root)?;
    println!("restored into {}", arguments.state.display());
    Ok(())
}
