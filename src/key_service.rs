//! The owner's way to the key service: where it is, who asks, and sealing and
//! opening data under its keys.
//!
//! Nothing here runs on an enclave's behalf: it handles plaintext, and is for
//! the owner's machine.

use std::io::{Read, Write};
use std::path::PathBuf;

use anchorhold_envelope::fields::Fields;
use anchorhold_envelope::{
    self as envelope, DataKey, EncryptedDataKey, EncryptionContext, Header, Opened, SealOptions,
    Sealed, SigningKey, Suite,
};
use anchorhold_kms_wire::client::{Client, Endpoint, Fixed, Tcp, TlsTrust};
use anchorhold_kms_wire::shapes::{Blob, DataKeySpec, DecryptRequest, GenerateDataKeyRequest};
use anchorhold_kms_wire::sigv4::Credentials;
use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

/// The provider id that the AWS Encryption SDK uses for KMS keys.
pub(crate) const PROVIDER: &str = "aws-kms";

/// A client for the owner: over TCP, with credentials that stay the same.
pub(crate) type OwnerClient = Client<Tcp, Fixed>;

/// Where the key service is.
#[derive(Args, Clone, Default)]
pub(crate) struct EndpointArguments {
    /// The key service; default: `AWS_ENDPOINT_URL_KMS`, `AWS_ENDPOINT_URL`, else AWS's own
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Trust only this CA (PEM) for the key service; default: `AWS_CA_BUNDLE`, else Mozilla's roots
    #[arg(long, value_name = "PEM")]
    pub(crate) ca: Option<PathBuf>,
    /// Region to sign for; default: `AWS_REGION`, `AWS_DEFAULT_REGION`, else that of the key's ARN
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
}

impl EndpointArguments {
    /// A client with the credentials of the environment. `key`, where it is an
    /// ARN, may tell the Region.
    pub(crate) fn client(&self, key: Option<&str>) -> anyhow::Result<OwnerClient> {
        let of_key = key.and_then(|key| key.strip_prefix("arn:")?.split(':').nth(2));
        let region = self.region.clone().or_else(|| {
            let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            set("AWS_REGION")
                .or_else(|| set("AWS_DEFAULT_REGION"))
                .or_else(|| of_key.map(str::to_owned))
        });
        let mut endpoint = Endpoint::from_variables(self.endpoint.as_deref(), |name| match name {
            "AWS_REGION" => region.clone(),
            "AWS_CA_BUNDLE" if self.ca.is_some() => None,
            name => std::env::var(name).ok(),
        })?;
        if let Some(path) = &self.ca {
            anyhow::ensure!(
                endpoint.tls != TlsTrust::PlainHttp,
                "--ca is for https://, but {} is not",
                endpoint.url
            );
            endpoint.tls = TlsTrust::Ca(
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the CA {}", path.display()))?,
            );
        }
        let credentials = Credentials::from_env()?;
        Ok(Client::new(&endpoint, Tcp, Fixed::new(credentials))?)
    }
}

/// What to seal, beside the data.
pub(crate) struct SealRequest {
    pub(crate) key: String,
    pub(crate) context: EncryptionContext,
    pub(crate) suite: Suite,
    pub(crate) frame_length: u32,
}

/// Seals `reader` into `writer` under a new data key.
pub(crate) async fn seal(
    client: &OwnerClient,
    request: SealRequest,
    reader: impl Read,
    writer: impl Write,
) -> anyhow::Result<Sealed> {
    let SealRequest {
        key,
        mut context,
        suite,
        frame_length,
    } = request;
    let signing_key = if suite.is_signed() {
        let signing_key = SigningKey::generate()?;
        let (name, value) = signing_key.context_entry()?;
        context.insert(name, value);
        Some(signing_key)
    } else {
        None
    };
    let (data_key, encrypted) = new_data_key(client, &key, &context).await?;
    let options = SealOptions {
        suite,
        frame_length,
        context,
        data_keys: vec![encrypted],
    };
    Ok(envelope::seal(
        reader,
        writer,
        options,
        signing_key,
        data_key,
        envelope::new_message_id()?,
    )?)
}

/// A new data key under `key`, and the same encrypted.
pub(crate) async fn new_data_key(
    client: &OwnerClient,
    key: &str,
    context: &EncryptionContext,
) -> anyhow::Result<(DataKey, EncryptedDataKey)> {
    let answer = client
        .call(&GenerateDataKeyRequest {
            key_id: key.to_owned(),
            encryption_context: context.clone(),
            key_spec: Some(DataKeySpec::Aes256),
            ..GenerateDataKeyRequest::default()
        })
        .await
        .with_context(|| format!("no data key under {key}"))?;
    let plaintext = answer
        .plaintext
        .context("the key service's answer holds no data key")?;
    let encrypted = EncryptedDataKey {
        provider_id: PROVIDER.to_owned(),
        key_info: answer.key_id,
        ciphertext: answer.ciphertext_blob.0,
    };
    Ok((DataKey::from_vec(plaintext.into_inner())?, encrypted))
}

/// The longest line whose fields are sealed or opened, in bytes.
pub(crate) const LONGEST_LINE: usize = 64 << 20;

/// Which fields of JSON lines, instead of the whole.
#[derive(Args, Clone, Default)]
pub(crate) struct FieldArguments {
    /// Single fields of JSON lines instead of the whole: `pan,card.pan,emails[]`. Each sealed value is a text that opens by
    /// itself, as this field and in this context alone
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    fields: Vec<String>,
    /// Bind the fields to their row, which this field tells; demanded on opening where it was given on sealing
    #[arg(long, value_name = "FIELD", requires = "fields")]
    row: Option<String>,
}

impl FieldArguments {
    pub(crate) fn are_named(&self) -> bool {
        !self.fields.is_empty()
    }

    pub(crate) fn names(&self) -> anyhow::Result<Fields> {
        let fields = Fields::new(&self.fields)?;
        Ok(match &self.row {
            Some(row) => fields.in_rows_of(row)?,
            None => fields,
        })
    }
}

/// What an owner demands of a sealed message before opening it.
#[derive(Default, Clone)]
pub(crate) struct OpenRequest {
    /// Pairs that its encryption context must have.
    pub(crate) context: EncryptionContext,
    /// The key that it must be sealed under: id, ARN or alias.
    pub(crate) key: Option<String>,
}

/// Opens `reader` into `writer`, and gives it back once all of it is authentic.
/// Until then, what `writer` got is only a part.
pub(crate) async fn open<W: Write + Send + 'static>(
    client: OwnerClient,
    request: OpenRequest,
    reader: impl Read + Send + 'static,
    mut writer: W,
) -> anyhow::Result<(Opened, W)> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let opened = envelope::open(
            reader,
            &mut writer,
            &envelope::Limits::default(),
            |header| runtime.block_on(data_key(&client, &request, header)),
        )
        .map_err(|error| match error {
            envelope::OpenError::Key(error) => error,
            other => anyhow::Error::new(other),
        })?;
        Ok((opened, writer))
    })
    .await
    .context("opening was interrupted")?
}

/// The data key of a message whose header is not yet known to be authentic: the
/// key service, and then the opener, check what is read from it here.
pub(crate) async fn data_key(
    client: &OwnerClient,
    request: &OpenRequest,
    header: &Header,
) -> anyhow::Result<DataKey> {
    Ok(DataKey::from_vec(
        data_key_bytes(client, request, header).await?,
    )?)
}

/// The same as bytes, for who keeps it.
pub(crate) async fn data_key_bytes(
    client: &OwnerClient,
    request: &OpenRequest,
    header: &Header,
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    for (name, expected) in &request.context {
        match header.context().get(name) {
            Some(found) if found == expected => {}
            Some(found) => anyhow::bail!(
                "the encryption context is not the expected one: {name} is {found:?}, not {expected:?}"
            ),
            None => anyhow::bail!(
                "the encryption context is not the expected one: {name} is missing, not {expected:?}"
            ),
        }
    }
    let mut last_error = None;
    for encrypted in header.data_keys() {
        if encrypted.provider_id != PROVIDER {
            continue;
        }
        let answer = client
            .call(&DecryptRequest {
                ciphertext_blob: Some(Blob(encrypted.ciphertext.clone())),
                encryption_context: header.context().clone(),
                key_id: Some(
                    request
                        .key
                        .clone()
                        .unwrap_or_else(|| encrypted.key_info.clone()),
                ),
                ..DecryptRequest::default()
            })
            .await;
        match answer {
            Ok(answer) => {
                let plaintext = answer
                    .plaintext
                    .context("the key service's answer holds no data key")?;
                return Ok(plaintext.into_inner());
            }
            Err(error) => last_error = Some((encrypted.key_info.clone(), error)),
        }
    }
    match last_error {
        Some((key, error)) => {
            Err(anyhow::Error::new(error)
                .context(format!("the data key under {key} was not opened")))
        }
        None => anyhow::bail!("the message has no data key that a KMS key encrypted"),
    }
}

/// Reads `k=v`, an encryption context's pair.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not of the form name=value"))?;
    if name.is_empty() {
        return Err(format!("{text:?} has an empty name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Collects pairs, refusing a name given twice.
pub(crate) fn context(pairs: &[(String, String)]) -> anyhow::Result<EncryptionContext> {
    let mut context = EncryptionContext::new();
    for (name, value) in pairs {
        anyhow::ensure!(
            context.insert(name.clone(), value.clone()).is_none(),
            "--context {name} is given twice"
        );
    }
    Ok(context)
}
