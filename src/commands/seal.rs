//! `anchorhold seal`: envelope encryption under a key of the key service.

use std::io::{BufReader, BufWriter};
use std::path::PathBuf;

use anchorhold_envelope::fields::{FieldSealer, LinesError, field_context, seal_lines};
use anchorhold_envelope::{DEFAULT_FRAME_LENGTH, EncryptionContext, Suite, new_message_id};
use clap::Args;

use crate::files::{Output, input};
use crate::key_service::{
    EndpointArguments, FieldArguments, LONGEST_LINE, OwnerClient, SealRequest, context,
    new_data_key, pair, seal,
};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold seal --key alias/cards --context purpose=tokens --input cards.ndjson --output cards.sealed\n  \
    head -c 32 /dev/urandom | anchorhold seal --key alias/cards --secret tokenization-key --output key.sealed\n  \
    anchorhold seal --key alias/cards --fields pan,card.cvc --row id --input rows.ndjson --output rows.sealed.ndjson\n\n\
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
    #[arg(long, value_name = "NAME", conflicts_with = "fields")]
    secret: Option<String>,
    /// The secret's version: an enclave that has opened one takes no older one
    #[arg(long, value_name = "NUMBER", requires = "secret")]
    secret_version: Option<u64>,
    #[command(flatten)]
    fields: FieldArguments,
    /// Sign the message as well (ECDSA P-384), as the AWS Encryption SDK does by default
    #[arg(long, conflicts_with = "fields")]
    signed: bool,
    /// Bytes of plaintext in a frame
    #[arg(long, value_name = "BYTES", conflicts_with = "fields", default_value_t = DEFAULT_FRAME_LENGTH,
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
        if let Some(version) = arguments.secret_version {
            context.insert("anchorhold:secret-version".to_owned(), version.to_string());
        }
    }
    let client = arguments.endpoint.client(Some(&arguments.key))?;
    if arguments.fields.are_named() {
        return seal_fields(arguments, &client, context).await;
    }
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

/// Seals single fields of JSON lines, all under one data key.
async fn seal_fields(
    arguments: &Arguments,
    client: &OwnerClient,
    context: EncryptionContext,
) -> anyhow::Result<()> {
    let fields = arguments.fields.names()?;
    let context = field_context(context);
    let reader = BufReader::with_capacity(256 * 1024, input(&arguments.input)?);
    let mut output = Output::create(&arguments.output)?;
    let (key, encrypted) = new_data_key(client, &arguments.key, &context).await?;
    let mut sealer = FieldSealer::new(fields, &context, &[encrypted], key, new_message_id()?)?;
    let writer = BufWriter::with_capacity(256 * 1024, &mut output);
    seal_lines(reader, writer, &mut sealer, LONGEST_LINE)
        .map_err(|error: LinesError<std::convert::Infallible>| anyhow::Error::new(error))?;
    output.commit()
}
