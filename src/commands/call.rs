//! `anchorhold call`: streams a sealed message through an enclave's job.

use std::path::{Path, PathBuf};

use anchorhold_parent::client::Client;
use anchorhold_parent::lifecycle::{Home, find};
use anchorhold_parent::window::Recorder;
use anyhow::Context as _;
use clap::Args;

use crate::files::{BlockingWriter, Output};

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold call cards --input cards.sealed --output tokens.sealed\n\n\
    What goes in and comes out is sealed: this host reads none of it. A file is written whole or not at \
    all; standard output is whole only when the exit code is 0.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// The sealed message; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Where to write the sealed result; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let client = client(&arguments.name)?;
    // Standard input by its path, so that it is read like any other file.
    let path = if arguments.input == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        &arguments.input
    };
    let reader = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut writer = BlockingWriter(Output::create(&arguments.output)?);
    client
        .call(reader, &mut writer)
        .await
        .with_context(|| format!("the call to {} failed", arguments.name))?;
    writer.0.commit()
}

/// A client of a running enclave, which records what it carries where the
/// enclave was started with `--record`.
pub(crate) fn client(name: &str) -> anyhow::Result<Client> {
    let enclave = find(&Home::from_environment()?, name)?;
    anyhow::ensure!(
        enclave.status.is_running(),
        "{name} does not run any more; `anchorhold logs {name}` says why"
    );
    let client = Client::new(&enclave.dir);
    Ok(match &enclave.record {
        Some(folder) => client.recorded(
            Recorder::create(folder)
                .with_context(|| format!("cannot record into {}", folder.display()))?,
        ),
        None => client,
    })
}
