//! `anchorhold secrets`: hands newer sealed secrets to an enclave that runs.

use std::collections::BTreeMap;
use std::path::Path;

use anchorhold_parent::lifecycle::{Control, Home, Request, find};
use anchorhold_parent::window::{LARGEST_SECRET, SealedSecrets};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use crate::files::read_bounded;
use crate::key_service::pair;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold seal --key alias/cards --secret token --secret-version 2 --input new --output token.sealed\n  \
    anchorhold secrets cards --secret token=token.sealed\n\n\
    The enclave asks for those whose manifest has refresh_seconds. Where the secret that it has open was sealed with a \
    version, one with a lower version, the same, or none is refused inside. For an enclave that a daemon has declared, \
    change the files and reload.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// A sealed secret; name all that it shall still be handed
    #[arg(long, value_name = "NAME=FILE", value_parser = pair, required = true)]
    secret: Vec<(String, String)>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut sealed = BTreeMap::new();
    for (name, file) in &arguments.secret {
        anyhow::ensure!(
            SealedSecrets::is_name(name),
            "--secret {name}: a secret's name has 1 to 64 of a-z, 0-9 and hyphen"
        );
        let bytes = read_bounded(Path::new(file), LARGEST_SECRET as u64)
            .with_context(|| format!("--secret {name}"))?;
        anyhow::ensure!(!bytes.is_empty(), "--secret {name}: {file} is empty");
        let earlier = sealed.insert(name.clone(), STANDARD.encode(bytes));
        anyhow::ensure!(earlier.is_none(), "--secret {name} is given twice");
    }
    let home = Home::from_environment()?;
    let state = find(&home, &arguments.name)?;
    let names: Vec<_> = sealed.keys().cloned().collect();
    Control::connect(&state.dir)?.order(&Request::Secrets { sealed }, &[])?;
    println!("{} is handed {}", state.name, names.join(", "));
    Ok(())
}
