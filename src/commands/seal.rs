//! `anchorhold seal`: envelope encryption under a key of the key service.

use std::path::PathBuf;

use anchorhold_envelope::{DEFAULT_FRAME_LENGTH, Suite};
use clap::Args;

use crate::files::{Output, input};
use crate::key_service::{EndpointArguments, SealRequest, context, pair, seal};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold seal --key alias/cards --context purpose=tokens --input cards.ndjson --output cards.sealed\n  \
    head -c 32 /dev/urandom | anchorhold seal --key alias/cards --secret tokenization-key --output key.sealed\n\n\
    Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The output is a message of the AWS \
    Encryption SDK's format, version 2; its libraries in other languages read and write the same.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
    /// The key: id, ARN or alias
    #[arg(long, value_name = "KEY")]
    key: String,
    /// A pair of the encryption context: bound to the data, not secret; may be given several times
    #[arg(long, value_name = "k=v", value_parser = pair)]
    context: Vec<(String, String)>,
    /// Seal a secret of this name for an enclave, instead of data for a call
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Sign the message as well (ECDSA P-384), as the AWS Encryption SDK does by default
    #[arg(long)]
    signed: bool,
    /// Bytes of plaintext in a frame
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_FRAME_LENGTH,
          value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    frame_length: u32,
    /// What to seal; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Where to write the message; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut context = context(&arguments.context)?;
    if let Some(name) = context.keys().find(|name| name.starts_with("anchorhold:")) {
        anyhow::bail!(
            "--context {name}: names that begin with \"anchorhold:\" are given by the enclave alone"
        );
    }
    if let Some(name) = &arguments.secret {
        context.insert("anchorhold:kind".to_owned(), "secret".to_owned());
        context.insert("anchorhold:secret".to_owned(), name.clone());
    }
    let client = arguments.endpoint.client(Some(&arguments.key))?;
    let reader = input(&arguments.input)?;
    let mut output = Output::create(&arguments.output)?;
    let request = SealRequest {
        key: arguments.key.clone(),
        context,
        suite: if arguments.signed {
            Suite::CommitKeySigned
        } else {
            Suite::CommitKey
        },
        frame_length: arguments.frame_length,
    };
    seal(&client, request, reader, &mut output).await?;
    output.commit()
}
