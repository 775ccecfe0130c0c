//! `anchorhold diff`: what is different between two images.

use std::path::PathBuf;
use std::process::ExitCode;

use anchorhold_images::Image;
use anchorhold_images::diff::{Differences, diff};
use anyhow::Context as _;
use clap::Args;

use crate::text::printable;

/// Files that are listed for people; --json has all.
const SHOWN: usize = 50;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold diff cards-v1.eif cards-v2.eif\n\n\
    Exit code 0: both measure the same. 1: they do not. 2: one of them cannot be read.")]
pub(crate) struct Arguments {
    /// The first image
    first: PathBuf,
    /// The second image
    second: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match compare(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("anchorhold: {}", crate::errors::one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn compare(arguments: &Arguments) -> anyhow::Result<bool> {
    let open = |path: &PathBuf| {
        Image::open(path).with_context(|| format!("cannot compare {}", path.display()))
    };
    let differences = diff(&open(&arguments.first)?, &open(&arguments.second)?)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&differences)?);
    } else {
        print_for_people(&differences);
    }
    Ok(differences.same_measurements())
}

fn print_for_people(differences: &Differences) {
    if differences.registers.is_empty() {
        println!("Both images measure the same.");
    }
    for register in &differences.registers {
        println!(
            "{} differs: {}",
            register.register,
            printable(&register.because_of.join("; "))
        );
        for (sign, value) in [("-", &register.values.left), ("+", &register.values.right)] {
            match value {
                Some(value) => println!("  {sign} {value}"),
                None => println!("  {sign} none"),
            }
        }
    }
    if let Some(kernel) = &differences.kernel {
        println!("Kernel:");
        println!(
            "  - {} ({} bytes, SHA-256 {})",
            printable(&kernel.version.left),
            kernel.size.left,
            kernel.digest.left
        );
        println!(
            "  + {} ({} bytes, SHA-256 {})",
            printable(&kernel.version.right),
            kernel.size.right,
            kernel.digest.right
        );
    }
    if let Some(line) = &differences.command_line {
        println!("Command line:");
        println!("  - {:?}", line.left);
        println!("  + {:?}", line.right);
    }
    for ramdisk in &differences.ramdisks {
        println!("Ramdisk {}:", ramdisk.number);
        for file in ramdisk.files.iter().take(SHOWN) {
            let line = format!("/{}: {}", file.path.display(), file.change);
            println!("  {}", printable(&line));
        }
        if ramdisk.files.len() > SHOWN {
            println!(
                "  and {} more (--json lists all)",
                ramdisk.files.len() - SHOWN
            );
        }
        for reason in &ramdisk.packing {
            println!("  the same files, but {reason}");
        }
    }
    if !differences.manifest.is_empty() {
        println!("Manifest:");
        for line in &differences.manifest {
            println!("  {}", printable(line));
        }
    }
    if !differences.unmeasured.is_empty() {
        println!("Not measured:");
        for line in &differences.unmeasured {
            println!("  {}", printable(line));
        }
    }
}
