//! `anchorhold verify-image`: whether an image's signature holds, and whose it is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold_attestation::Pcr;
use anchorhold_images::Image;
use anchorhold_images::trust::{Verified, verify};
use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::files;
use crate::text::printable;

const MAX_AUTHORITIES_BYTES: u64 = 1 << 20;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold verify-image signed.eif --pcr8 5f3a...\n  \
    anchorhold verify-image signed.eif --ca signers-ca.pem\n\n\
    Checks the signature, the certificate's validity, and its chain. Without --ca the certificate must be \
    by itself, and PCR8 alone says whom to trust: compare it, or name it with --pcr8.\n\n\
    Exit code 0: it holds. 1: it does not, and why. 2: unusable input.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// Authorities that signing certificates must chain to, in PEM
    #[arg(long, value_name = "PEM")]
    ca: Vec<PathBuf>,
    /// The signer's measurement, 96 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pcr8: Option<Pcr>,
    /// The moment to judge at, such as 2026-01-31T12:00:00Z; default: now
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match judge(arguments) {
        Ok(Ok(verified)) => {
            println!("The signature holds.");
            println!("  PCR8        {}", verified.pcr8);
            println!("  signer      {}", printable(&verified.signer.subject_name));
            println!(
                "  valid       {} to {}",
                verified.signer.not_before, verified.signer.not_after
            );
            if verified.self_signed && arguments.ca.is_empty() && arguments.pcr8.is_none() {
                println!(
                    "  trust       the certificate is by itself: whether PCR8 is the one you expect is for you to say"
                );
            }
            ExitCode::SUCCESS
        }
        Ok(Err(reason)) => {
            println!("Refused: {}", printable(&reason));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("anchorhold: {}", crate::errors::one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn judge(arguments: &Arguments) -> anyhow::Result<Result<Verified, String>> {
    let image = Image::open(&arguments.image)
        .with_context(|| format!("cannot verify {}", arguments.image.display()))?;
    let mut authorities: Vec<CertificateDer<'static>> = Vec::new();
    for path in &arguments.ca {
        let pem = files::read_bounded(path, MAX_AUTHORITIES_BYTES)?;
        let before = authorities.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            authorities.push(
                certificate
                    .with_context(|| format!("{} is no PEM of certificates", path.display()))?,
            );
        }
        anyhow::ensure!(
            authorities.len() > before,
            "{} holds no certificate",
            path.display()
        );
    }
    let now = match arguments.at {
        Some(time) => u64::try_from(time.as_second())
            .map(Duration::from_secs)
            .context("--at is before 1970")?,
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("this machine's clock is before 1970")?,
    };
    let verified = match verify(&image, &authorities, now) {
        Ok(verified) => verified,
        Err(fault) => return Ok(Err(fault.to_string())),
    };
    if let Some(expected) = arguments.pcr8
        && expected != verified.pcr8
    {
        return Ok(Err(format!(
            "it is signed by another certificate: PCR8 is {}, and {expected} was expected",
            verified.pcr8
        )));
    }
    Ok(Ok(verified))
}
