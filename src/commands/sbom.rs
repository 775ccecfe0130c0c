//! `anchorhold sbom`: what software is in an image.

use std::path::PathBuf;

use anchorhold_images::Image;
use anyhow::Context as _;
use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold sbom cards.eif > cards.cdx.json\n\n\
    Rust packages come from the audit data that anchorhold build --cargo (and cargo auditable) puts into \
    programs; operating system packages from the databases of dpkg and apk in the image.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// List this Cargo.lock's packages as well, for programs without audit data
    #[arg(long, value_name = "Cargo.lock")]
    lock: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let image = Image::open(&arguments.image)
        .with_context(|| format!("cannot look into {}", arguments.image.display()))?;
    let lock = arguments
        .lock
        .as_ref()
        .map(|path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        })
        .transpose()?;
    let document = anchorhold_images::sbom::sbom(&image, lock.as_deref())?;
    println!("{document:#}");
    Ok(())
}
