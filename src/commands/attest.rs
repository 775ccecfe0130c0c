//! `anchorhold attest`: asks an enclave for an attestation document.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::call::client;
use crate::files::Output;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold attest cards --nonce $(openssl rand -hex 16) -o document.cbor\n\n\
    The document proves nothing until it is verified: anchorhold verify --help.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// A nonce that the document must carry, so that it cannot be an old one
    #[arg(long, value_name = "HEX")]
    nonce: Option<String>,
    /// Data that the document is to carry
    #[arg(long, value_name = "HEX")]
    user_data: Option<String>,
    /// Put the enclave's public RSA key into the document, as it does for the key service
    #[arg(long)]
    recipient_key: bool,
    /// Where to write the document; `-` is standard output
    #[arg(short, long, value_name = "DOCUMENT")]
    output: PathBuf,
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let bytes = |text: &Option<String>, name: &str| {
        text.as_deref()
            .map(hex::decode)
            .transpose()
            .with_context(|| format!("{name} is not hex"))
    };
    let nonce = bytes(&arguments.nonce, "--nonce")?;
    let user_data = bytes(&arguments.user_data, "--user-data")?;
    let document = client(&arguments.name)?
        .attest(
            nonce.as_deref(),
            user_data.as_deref(),
            arguments.recipient_key,
        )
        .await
        .with_context(|| format!("{} gave no attestation document", arguments.name))?;
    let mut output = Output::create(&arguments.output)?;
    output.write_all(&document)?;
    output.commit()
}
