//! `anchorhold sign`: adds a signature to an image, in one step or in two.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anchorhold_images::Image;
use anchorhold_images::signing::{ImageSigner, SigningCertificate, attach, sign, to_sign};
use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use crate::files;

/// Keys, certificates and signatures have a few KiB.
const MAX_FILE_BYTES: u64 = 64 << 10;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold sign cards.eif --key key.pem --certificate cert.pem -o signed.eif\n\n  \
    anchorhold sign cards.eif --prepare -o to-sign.bin\n  \
    openssl dgst -sha384 -sign key.pem -out signature.der to-sign.bin    # or wherever the key lives\n  \
    anchorhold sign cards.eif --attach signature.der --certificate cert.pem -o signed.eif\n\n\
    Keys are on P-384. The signature is checked before it is added; PCR8 is the certificate's measurement.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    step: Step,
    /// The signing certificate, in PEM
    #[arg(
        long,
        value_name = "PEM",
        required_unless_present = "prepare",
        conflicts_with = "prepare"
    )]
    certificate: Option<PathBuf>,
    /// Replace a signature that is there
    #[arg(long, conflicts_with = "prepare")]
    replace: bool,
    /// Where to write the signed image, or with --prepare what is to be signed (-: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Step {
    /// Sign with this private key, in PEM
    #[arg(long, value_name = "PEM")]
    key: Option<PathBuf>,
    /// Write what is to be signed, for a key that lives elsewhere
    #[arg(long)]
    prepare: bool,
    /// Add this signature, made elsewhere: DER, or r and s of 48 bytes each
    #[arg(long, value_name = "FILE")]
    attach: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let image = Image::open(&arguments.image)
        .with_context(|| format!("cannot sign {}", arguments.image.display()))?;
    if arguments.step.prepare {
        let mut output = files::Output::create(&arguments.output)?;
        output
            .write_all(&to_sign(&image))
            .with_context(|| format!("cannot write {}", arguments.output.display()))?;
        return output.commit();
    }
    let certificate = arguments.certificate.as_deref().unwrap_or(Path::new(""));
    let named = |path: &Path| path.display().to_string();
    let certificate =
        SigningCertificate::from_pem(&files::read_bounded(certificate, MAX_FILE_BYTES)?)
            .with_context(|| named(certificate))?;
    let measurements = if let Some(signature) = &arguments.step.attach {
        let signature = files::read_bounded(signature, MAX_FILE_BYTES)?;
        attach(
            &image,
            &certificate,
            &signature,
            arguments.replace,
            &arguments.output,
        )?
    } else {
        let path = arguments.step.key.as_deref().unwrap_or(Path::new(""));
        let key = Zeroizing::new(files::read_bounded(path, MAX_FILE_BYTES)?);
        let signer = ImageSigner::new(&key, certificate).with_context(|| named(path))?;
        sign(&image, &signer, arguments.replace, &arguments.output)?
    };
    println!("{}", arguments.output.display());
    println!("PCR0 {}", measurements.pcr0);
    if let Some(pcr8) = measurements.pcr8 {
        println!("PCR8 {pcr8}");
    }
    Ok(())
}
