//! `anchorhold inspect`: shows what an attestation document says of itself, chain included, and
//! says of none of it that it is true. Exit code 0: it could be read; 1: its form is wrong;
//! 2: it is no document at all.

use std::path::PathBuf;
use std::process::ExitCode;

use anchorhold_attestation::{Claimed, ClaimedContent, ParseError, UnknownKeys, Unverified};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::documents::{self, when};
use crate::errors::one_line;

#[derive(Args)]
#[command(
    after_help = "Exit code: 0 it could be read (which proves nothing), 1 its form is wrong, \
    2 it is no attestation document at all.\n\
    To learn whether a document is true: anchorhold verify --help."
)]
pub(crate) struct Arguments {
    /// The document: raw CBOR, base64 or hex; `-` for standard input
    document: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match read(arguments) {
        Ok(Ok(document)) => {
            if arguments.json {
                println!("{:#}", as_json(document.claimed()));
            } else {
                print_for_people(document.claimed());
            }
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            if arguments.json {
                println!("{:#}", malformed(&error));
            } else {
                println!("malformed: {error}");
            }
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("anchorhold: {}", one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

/// The outer error: not a document at all.
fn read(arguments: &Arguments) -> anyhow::Result<Result<Unverified, ParseError>> {
    let bytes = documents::read(&arguments.document)?;
    match Unverified::parse_with(&bytes, UnknownKeys::Ignore) {
        Err(error) if error.is_not_a_document() => Err(error).with_context(|| {
            format!(
                "{} is not an attestation document",
                arguments.document.display()
            )
        }),
        other => Ok(other),
    }
}

/// A refusal by form, as JSON.
pub(crate) fn malformed(error: &ParseError) -> serde_json::Value {
    json!({
        "malformed": error.name(),
        "reason": error.to_string(),
        "field": error.field().to_string(),
        "offset": error.offset(),
    })
}

fn as_json(claimed: Claimed<'_>) -> serde_json::Value {
    let mut value = json!(claimed);
    value["verified"] = false.into();
    value["claimed"]["certificates"] = json!(claimed.certificates().collect::<Vec<_>>());
    value
}

fn print_for_people(claimed: Claimed<'_>) {
    println!(
        "NOT VERIFIED. This is what the document says of itself; anybody could have written it."
    );
    println!("  claims to be    {}", claimed.module_id());
    println!("  claims the time {}", when(claimed.timestamp_ms()));
    for (index, value) in claimed.pcrs() {
        if value.is_zero() {
            continue;
        }
        println!("  claims PCR{index:<5} {value}");
    }
    for (name, bytes) in [
        ("nonce", claimed.nonce()),
        ("user data", claimed.user_data()),
        ("public key", claimed.public_key()),
    ] {
        if let Some(bytes) = bytes {
            println!("  brings a {name:<6} {}", hex::encode(bytes));
        }
    }
    println!("  brings these certificates, root first, the leaf last, and nobody checked them:");
    for certificate in claimed.certificates() {
        match certificate.content {
            ClaimedContent::Certificate {
                subject,
                issuer,
                not_before,
                not_after,
                p384,
                ca,
                ..
            } => {
                println!("    {subject}");
                println!("      issued by {issuer}");
                println!(
                    "      from {} to {}{}{}",
                    when(not_before.saturating_mul(1000)),
                    when(not_after.saturating_mul(1000)),
                    if ca { ", a CA" } else { "" },
                    if p384 { "" } else { ", its key NOT on P-384" },
                );
            }
            ClaimedContent::Unreadable { unreadable, .. } => {
                println!("    not a certificate: {unreadable}");
            }
            _ => {}
        }
        println!("      SHA-256 {}", certificate.sha256);
    }
    println!("  whether any of it is true: anchorhold verify --help");
}
