//! `anchorhold describe`: an image's measurements and contents.

use std::path::PathBuf;

use anchorhold_images::{Description, Image};
use anyhow::Context as _;
use clap::Args;

use crate::text::printable;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold describe cards.eif --json | jq -r .Measurements.PCR0\n\n\
    The JSON has the names of nitro-cli describe-eif, and more.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let image = Image::open(&arguments.image)
        .with_context(|| format!("cannot describe {}", arguments.image.display()))?;
    let description = image.describe()?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&description)?);
    } else {
        print_for_people(&description);
    }
    Ok(())
}

fn print_for_people(image: &Description) {
    let row = |name: &str, value: &str| println!("  {name:<11} {}", printable(value));
    let names = |values: &[String]| values.join(", ");
    println!(
        "{}",
        printable(format!("{} {}", image.image_name, image.image_version).trim_end())
    );
    let registers = &image.measurements.registers;
    row("PCR0", &registers.pcr0.to_string());
    row("PCR1", &registers.pcr1.to_string());
    row("PCR2", &registers.pcr2.to_string());
    match &registers.pcr8 {
        Some(pcr8) => {
            row("PCR8", &pcr8.to_string());
            let signer = image
                .signing_certificate
                .as_ref()
                .map_or("unreadable", |signer| signer.subject_name.as_str());
            let verdict = match image.signature_check {
                Some(true) => "over this image and by the certificate's key (see verify-image)",
                _ => "WRONG: see verify-image",
            };
            row("signature", &format!("{verdict}; signer {signer}"));
        }
        None => row("signature", "none"),
    }
    row(
        "size",
        &format!("{} bytes, CRC32 {} (checked)", image.size, image.crc32),
    );
    row(
        "for",
        &format!(
            "{:?}, at least {} MiB of memory",
            image.architecture, image.minimum_memory_mib
        ),
    );
    let backends: Vec<String> = image
        .backends
        .iter()
        .map(|backend| format!("{backend:?}").to_lowercase())
        .collect();
    row("runs on", &names(&backends));
    let build = &image.metadata.build;
    if image.has_kernel {
        row(
            "kernel",
            &format!("{} {}", build.operating_system, build.kernel_version),
        );
        row("boots with", &image.command_line);
    } else {
        row("kernel", "none: runs in the sandbox backend only");
    }
    row(
        "built",
        &format!(
            "{} by {} {} (says the image; not measured)",
            build.build_time, build.build_tool, build.build_tool_version
        ),
    );
    let sections: Vec<String> = image
        .sections
        .iter()
        .map(|section| format!("{:?} ({} bytes)", section.kind, section.size))
        .collect();
    row("sections", &names(&sections));
    if let Some(problem) = &image.manifest_problem {
        row("manifest", &format!("UNKNOWN: {problem}"));
    }
    if let Some(manifest) = &image.manifest {
        row("job", &manifest.job.command.join(" "));
        if let Some(service) = &manifest.key_service {
            row(
                "key service",
                &format!("{}, key {}", service.endpoint, service.key),
            );
        }
        if !manifest.secrets.is_empty() {
            let secrets: Vec<String> = manifest.secrets.keys().cloned().collect();
            row("secrets", &names(&secrets));
        }
        if !manifest.egress.allow.is_empty() {
            row("may dial", &names(&manifest.egress.allow));
        }
    }
}
