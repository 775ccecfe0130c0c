//! `anchorhold demo`: the whole way of the data on this machine, what must not
//! work, and a proof that the parent saw nothing.
//!
//! Each step is what the everyday subcommands do. Nothing here is staged: the
//! key service is a process of its own, and every refusal is quoted from its
//! audit log or from the enclave.

mod audit;
mod lies;
mod narrator;
mod parts;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;

use narrator::Narrator;
use parts::{Parts, short};

/// Invented transactions with test card numbers.
const SAMPLE: &[u8] = include_bytes!("../../enclave/jobs/cards/sample.ndjson");

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold demo --input transactions.ndjson --keep /tmp/demo")]
pub(crate) struct Arguments {
    /// Card transactions, one JSON object with a `pan` a line; default: a sample of invented ones
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Keep everything that the demo made in this new folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let plaintext = match &arguments.input {
        Some(path) => {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => SAMPLE.to_vec(),
    };
    let begun = Instant::now();
    let folder = parts::Folder::new(arguments.keep.as_deref())?;
    crate::commands::block_on(walk(&folder, &plaintext))?;
    println!();
    println!("All of it in {:.1} s.", begun.elapsed().as_secs_f64());
    println!(
        "The sandbox backend protects against a careless or compromised job, not against whoever \
         controls this host."
    );
    if let Some(kept) = &arguments.keep {
        println!("Everything is in {}.", kept.display());
    }
    Ok(())
}

async fn walk(folder: &parts::Folder, plaintext: &[u8]) -> anyhow::Result<()> {
    let mut say = Narrator::new();

    say.step("A key service, and a measured image that trusts no other");
    let mut parts = Parts::build(folder, &mut say)?;

    say.step("A key that only this image may use");
    parts.make_key(&mut say).await?;

    say.step("The owner seals a file of card transactions");
    parts.seal(&mut say, plaintext).await?;

    say.step("The enclave runs; the parent streams the sealed file through it");
    parts.run_and_call(&mut say).await?;
    parts.open_result(&mut say, plaintext).await?;

    say.step("What must not work");
    lies::tell_all(&parts, &mut say).await?;

    say.step("The parent saw nothing");
    parts.search_what_was_carried(&mut say, plaintext)?;
    say.fact("PCR0", &short(&parts.measurements.pcr0.to_string()));
    Ok(())
}
