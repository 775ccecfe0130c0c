//! `anchorhold open`: opens a sealed message, as its owner.

use std::io::{BufReader, BufWriter, Read as _};
use std::path::{Path, PathBuf};

use anchorhold_envelope::fields::{FieldOpener, LinesError, open_lines};
use anchorhold_envelope::{EncryptionContext, Header, Limits, Parse};
use anyhow::Context as _;
use clap::Args;

use crate::files::{Output, input};
use crate::key_service::{
    EndpointArguments, FieldArguments, LONGEST_LINE, OpenRequest, OwnerClient, PROVIDER, context,
    data_key, open, pair,
};

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold open --result-of cards.sealed --context purpose=tokens --input tokens.sealed --output tokens.ndjson\n  \
    anchorhold open --fields pan,card.cvc --row id --input rows.sealed.ndjson\n\n\
    --result-of is what tells the enclave's answer from something that the host has sealed itself.\n\
    A file is written whole or not at all. Standard output is written as the message is authenticated, \
    frame by frame: it is complete only when the exit code is 0.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
    /// Demand that the message is sealed under this key: id, ARN or alias
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Demand this pair in the encryption context; may be given several times
    #[arg(long, value_name = "k=v", value_parser = pair)]
    context: Vec<(String, String)>,
    /// Demand that this is the result of the call whose sealed input is in FILE, under the same key
    #[arg(long, value_name = "FILE", conflicts_with = "fields")]
    result_of: Option<PathBuf>,
    #[command(flatten)]
    fields: FieldArguments,
    /// What to open; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Where to write the plaintext; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut context = context(&arguments.context)?;
    let mut key = arguments.key.clone();
    if let Some(path) = &arguments.result_of {
        let request = header(path)?;
        bind_to(&request, &mut context, &mut key)
            .with_context(|| format!("{} cannot have a result", path.display()))?;
    }
    let client = arguments.endpoint.client(key.as_deref())?;
    let reader = input(&arguments.input)?;
    let output = Output::create(&arguments.output)?;
    let request = OpenRequest { context, key };
    let opened = if arguments.fields.are_named() {
        open_fields(client, request, &arguments.fields, reader, output).await
    } else {
        let opened = open(client, request, reader, output).await;
        opened.map(|(_, output)| output)
    };
    match opened {
        Ok(output) => output.commit(),
        Err(error) if arguments.output == Path::new("-") => {
            Err(error
                .context("what was printed, if anything, is not the whole and must not be used"))
        }
        Err(error) => Err(error.context(format!("{} was not written", arguments.output.display()))),
    }
}

/// Opens single fields of JSON lines.
async fn open_fields(
    client: OwnerClient,
    request: OpenRequest,
    fields: &FieldArguments,
    reader: impl std::io::Read + Send + 'static,
    mut output: Output,
) -> anyhow::Result<Output> {
    let mut opener = FieldOpener::new(fields.names()?, request.context.clone());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let reader = BufReader::with_capacity(256 * 1024, reader);
        let writer = BufWriter::with_capacity(256 * 1024, &mut output);
        open_lines(reader, writer, &mut opener, LONGEST_LINE, |header| {
            runtime.block_on(data_key(&client, &request, header))
        })
        .map_err(|error| match error {
            LinesError::Key { line, error } => error.context(format!("line {line}")),
            other => anyhow::Error::new(other),
        })?;
        Ok(output)
    })
    .await
    .context("opening was interrupted")?
}

/// Demands the result of the call whose sealed input begins with `request`: its context names the request, and it is
/// sealed under the request's key. The context alone proves nothing, since the host reads it and may seal under keys of
/// its own.
pub(crate) fn bind_to(
    request: &Header,
    context: &mut EncryptionContext,
    key: &mut Option<String>,
) -> anyhow::Result<()> {
    context.insert("anchorhold:kind".to_owned(), "result".to_owned());
    context.insert(
        "anchorhold:request".to_owned(),
        hex::encode(request.message_id()),
    );
    if key.is_none() {
        let own = request
            .data_keys()
            .iter()
            .find(|key| key.provider_id == PROVIDER);
        *key = Some(
            own.context("no KMS key encrypted its data key")?
                .key_info
                .clone(),
        );
    }
    Ok(())
}

/// The header that a sealed file begins with.
fn header(path: &Path) -> anyhow::Result<Header> {
    let limits = Limits::default();
    let mut beginning = Vec::new();
    input(path)?
        .take(limits.max_header_bytes as u64)
        .read_to_end(&mut beginning)
        .with_context(|| format!("cannot read {}", path.display()))?;
    match Header::parse(&beginning, &limits) {
        Ok(Parse::Complete { header, .. }) => Ok(*header),
        Ok(Parse::Incomplete) => anyhow::bail!("{} ends within its header", path.display()),
        Err(error) => {
            Err(error).with_context(|| format!("{} is not a sealed message", path.display()))
        }
    }
}
