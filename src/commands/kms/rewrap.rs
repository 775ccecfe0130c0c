//! `anchorhold kms rewrap`: another root key for a store.

use std::path::PathBuf;

use anchorhold_kms::config::RootKey;
use clap::Args;

use super::state_folder;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    printf '[root_key]\\npassphrase_file = \"/etc/anchorhold-kms/passphrase\"\\n' > new.toml\n  \
    anchorhold kms rewrap --state /var/lib/anchorhold-kms --to new.toml\n\n\
    No service may run on the folder. The change is one file replaced: after a crash it is the old root \
    key or the new one. Afterwards put the new [root_key] into the service's configuration, and destroy \
    the old root key together with older copies of root.wrapped, which it still opens.")]
pub(crate) struct Arguments {
    /// The state folder [default: that of --dev]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A file with the present table [root_key]; default: the file root.key in the state folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the new table [root_key]
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let state = state_folder(arguments.state.as_deref())?;
    let from = match &arguments.config {
        None => RootKey::InState,
        Some(file) => RootKey::from_file(file)?,
    };
    let to = RootKey::from_file(&arguments.to)?;
    anchorhold_kms::rewrap_store(&state, &from, &to)?;
    println!(
        "{} has the root key of {}; put its [root_key] into the service's configuration",
        state.display(),
        arguments.to.display()
    );
    Ok(())
}
