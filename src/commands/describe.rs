//! `anchorhold describe`: an image's measurements and contents.

use std::path::PathBuf;

use anchorhold_images::{Description, Image};
use anyhow::Context as _;
use clap::Args;

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
    let names = |values: Vec<String>| values.join(", ");
    println!("{} {}", image.image_name, image.image_version);
    println!("  PCR0        {}", image.measurements.registers.pcr0);
    println!("  PCR1        {}", image.measurements.registers.pcr1);
    println!("  PCR2        {}", image.measurements.registers.pcr2);
    match &image.measurements.registers.pcr8 {
        Some(pcr8) => {
            println!("  PCR8        {pcr8}");
            let signer = image
                .signing_certificate
                .as_ref()
                .map_or("unreadable", |signer| signer.subject_name.as_str());
            let verdict = match image.signature_check {
                Some(true) => "over this image and by the certificate's key (see verify-image)",
                _ => "WRONG: see verify-image",
            };
            println!("  signature   {verdict}; signer {signer}");
        }
        None => println!("  signature   none"),
    }
    println!(
        "  size        {} bytes, CRC32 {} (checked)",
        image.size, image.crc32
    );
    println!(
        "  for         {:?}, at least {} MiB of memory",
        image.architecture, image.minimum_memory_mib
    );
    println!(
        "  runs on     {}",
        names(
            image
                .backends
                .iter()
                .map(|backend| format!("{backend:?}").to_lowercase())
                .collect()
        )
    );
    if !image.has_kernel {
        println!("  kernel      none: runs in the sandbox backend only");
    }
    println!(
        "  sections    {}",
        names(
            image
                .sections
                .iter()
                .map(|section| format!("{:?} ({} bytes)", section.kind, section.size))
                .collect(),
        )
    );
    if let Some(manifest) = &image.manifest {
        println!("  job         {}", manifest.job.command.join(" "));
        if let Some(service) = &manifest.key_service {
            println!("  key service {}, key {}", service.endpoint, service.key);
        }
        if !manifest.secrets.is_empty() {
            println!(
                "  secrets     {}",
                names(manifest.secrets.keys().cloned().collect())
            );
        }
        if !manifest.egress.allow.is_empty() {
            println!("  may dial    {}", names(manifest.egress.allow.clone()));
        }
    }
}
