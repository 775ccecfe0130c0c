//! What each request of the local API does.
//!
//! Nothing that a job says may make it look like the runtime: documents, messages and secrets that are the runtime's own
//! carry a mark that a job can neither set nor have opened.

use std::collections::BTreeMap;
use std::time::Instant;

use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Header, Limits, SealOptions, Sealer,
    new_message_id, open_whole,
};
use anchorhold_kms_wire::shapes::{Blob, SecretBlob};
use anchorhold_manifest::Grant;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Api;
use super::routes::{Operation, Target};
use crate::keys::{self, KeyError, KeyService, Keys};
use crate::nsm::{Claims, Nsm, NsmError};
use crate::secrets::SecretError;

/// What only the runtime may say: user data of documents that begin so, and names in encryption contexts.
pub const RESERVED_PREFIX: &str = "anchorhold:";
/// Random bytes for one request.
const MAX_RANDOM: u64 = 65_536;
/// Data that a PCR is extended by, as the NSM takes it at a time.
const MAX_EXTEND_BYTES: usize = 4096;
/// Names in an encryption context, and bytes of it.
const MAX_CONTEXT_ENTRIES: usize = 64;
const MAX_CONTEXT_BYTES: usize = 8192;
const KEY_PROVIDER: &str = "aws-kms";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Who asks is no process of the job.
    #[error("only processes of this image's job are heard here")]
    Identity,
    /// The manifest does not grant it.
    #[error("the manifest does not grant this: add {word} to api.{list} in anchorhold.toml")]
    NotGranted {
        /// The list in `[api]`.
        list: &'static str,
        /// What to add.
        word: &'static str,
    },
    /// There is no such request.
    #[error("there is no such request; openapi.json has all of them")]
    NotFound,
    /// There is, by another method.
    #[error("this path is asked by another method")]
    Method,
    /// The body is too large.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The request is not what it should be.
    #[error("{0}")]
    Request(String),
    /// Too much at a time.
    #[error("too many requests are being worked on: ask again")]
    Busy,
    /// A sealed message cannot be opened or made.
    #[error("{0}")]
    Message(#[from] anchorhold_envelope::Error),
    /// There is no data key.
    #[error("{0}")]
    Keys(#[from] KeyError),
    /// There is no secret.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// The security module refuses.
    #[error("{0}")]
    Nsm(#[from] NsmError),
    /// It cannot be.
    #[error("the runtime failed; its console may say why")]
    Internal,
}

impl ApiError {
    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            ApiError::Identity => "identity",
            ApiError::NotGranted { .. } => "not_granted",
            ApiError::NotFound => "not_found",
            ApiError::Method => "method",
            ApiError::BodyTooLarge { .. } => "body_too_large",
            ApiError::Request(_) => "request",
            ApiError::Busy => "busy",
            ApiError::Message(_) => "message",
            ApiError::Keys(_) => "keys",
            ApiError::Secret(_) => "secret",
            ApiError::Nsm(_) => "nsm",
            ApiError::Internal => "internal",
        }
    }
}

/// An answer's JSON, wiped once it is sent.
pub(super) struct Answer(Zeroizing<Vec<u8>>);

impl Answer {
    /// `bytes`: how many the largest field has, so that the text need not grow and leave copies.
    fn new(value: &impl Serialize, bytes: usize) -> Result<Answer, ApiError> {
        let mut text = Zeroizing::new(Vec::with_capacity(bytes.div_ceil(3) * 4 + 4096));
        serde_json::to_writer(&mut *text, value).map_err(|_| ApiError::Internal)?;
        Ok(Answer(text))
    }
}

pub(super) fn response(answer: Result<Answer, ApiError>) -> Response<Full<Bytes>> {
    let (status, text) = match answer {
        Ok(Answer(text)) => (http::StatusCode::OK, Bytes::from_owner(text)),
        Err(error) => {
            let body = serde_json::json!({ "error": error.kind(), "message": error.to_string() });
            (error.status(), Bytes::from(body.to_string()))
        }
    };
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // The words of serde's error are about fields and places, not about values of strings.
    serde_json::from_slice(body).map_err(|error| {
        ApiError::Request(match error.classify() {
            serde_json::error::Category::Data => format!(
                "the body has not the fields that openapi.json names (line {}, column {})",
                error.line(),
                error.column()
            ),
            _ => "the body is not JSON".to_owned(),
        })
    })
}

fn nothing(body: &[u8]) -> Result<(), ApiError> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(ApiError::Request("this request has no body".to_owned()))
    }
}

/// A job's own context: bounded, and without the names that are the runtime's.
fn own(context: EncryptionContext) -> Result<EncryptionContext, ApiError> {
    let bytes: usize = context
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if context.len() > MAX_CONTEXT_ENTRIES || bytes > MAX_CONTEXT_BYTES {
        return Err(ApiError::Request(format!(
            "an encryption context has at most {MAX_CONTEXT_ENTRIES} names and {MAX_CONTEXT_BYTES} bytes"
        )));
    }
    if context.keys().any(|name| name.starts_with(RESERVED_PREFIX)) {
        return Err(ApiError::Request(format!(
            "names in an encryption context that begin with {RESERVED_PREFIX} are the runtime's own"
        )));
    }
    Ok(context)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttestRequest {
    nonce: Option<Blob>,
    user_data: Option<Blob>,
    public_key: Option<Blob>,
}

#[derive(Serialize)]
struct AttestAnswer {
    document: Blob,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenRequest {
    message: SecretBlob,
    #[serde(default)]
    context: EncryptionContext,
}

#[derive(Serialize)]
struct OpenAnswer {
    plaintext: SecretBlob,
    context: EncryptionContext,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SealRequest {
    plaintext: SecretBlob,
    #[serde(default)]
    context: EncryptionContext,
}

#[derive(Serialize)]
struct SealAnswer {
    message: Blob,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataKeyRequest {
    #[serde(default)]
    context: EncryptionContext,
}

#[derive(Serialize)]
struct DataKeyAnswer {
    plaintext: SecretBlob,
    ciphertext: Blob,
    key_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecryptRequest {
    ciphertext: Blob,
    #[serde(default)]
    context: EncryptionContext,
}

#[derive(Serialize)]
struct DecryptAnswer {
    plaintext: SecretBlob,
}

#[derive(Serialize)]
struct RandomAnswer {
    bytes: SecretBlob,
}

#[derive(Serialize)]
struct SecretAnswer {
    value: SecretBlob,
    version: u64,
}

#[derive(Serialize)]
struct PcrAnswer {
    index: u8,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendRequest {
    data: Blob,
}

impl<N: Nsm, S: KeyService> Api<N, S> {
    pub(super) async fn carry_out(
        &self,
        target: &Target<'_>,
        body: &[u8],
    ) -> Result<Answer, ApiError> {
        match target.operation {
            Operation::Granted => {
                nothing(body)?;
                Answer::new(&self.granted, 0)
            }
            Operation::Attest => self.attest(parse(body)?).await,
            Operation::Open => self.open(parse(body)?).await,
            Operation::Seal => self.seal(parse(body)?).await,
            Operation::GenerateDataKey => self.generate(parse(body)?).await,
            Operation::DecryptDataKey => self.decrypt(parse(body)?).await,
            Operation::Random => {
                nothing(body)?;
                let count = target.number("bytes", &["bytes"], 32, MAX_RANDOM)?;
                let mut bytes = Zeroizing::new(vec![0; usize::try_from(count).unwrap_or(0)]);
                // The kernel's, which the NSM has seeded before any key was made.
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApiError::Internal)?;
                let count = bytes.len();
                let bytes = SecretBlob::new(bytes);
                Answer::new(&RandomAnswer { bytes }, count)
            }
            Operation::Secret => {
                nothing(body)?;
                let after = target.number("after", &["after", "wait_seconds"], 0, u64::MAX)?;
                let found = self
                    .secrets
                    .newer(target.name, after, target.patience()?)
                    .await?;
                let count = found.value.len();
                let answer = SecretAnswer {
                    value: SecretBlob::new(found.value),
                    version: found.version,
                };
                Answer::new(&answer, count)
            }
            Operation::ReadPcr => {
                nothing(body)?;
                let index = target.pcr()?;
                let value = self.ask_nsm(move |nsm| nsm.pcr(index.into())).await?;
                pcr(index, &value)
            }
            Operation::ExtendPcr => {
                let index = target.pcr()?;
                let request: ExtendRequest = parse(body)?;
                let Blob(data) = request.data;
                if data.is_empty() || data.len() > MAX_EXTEND_BYTES {
                    return Err(ApiError::Request(format!(
                        "a PCR is extended by 1 to {MAX_EXTEND_BYTES} bytes"
                    )));
                }
                let value = self
                    .ask_nsm(move |nsm| nsm.extend(index.into(), data))
                    .await?;
                pcr(index, &value)
            }
            Operation::Time => {
                nothing(body)?;
                Answer::new(&self.clock.at(Instant::now()), 0)
            }
        }
    }

    async fn ask_nsm<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&N) -> Result<T, NsmError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let nsm = std::sync::Arc::clone(&self.nsm);
        let asked = tokio::task::spawn_blocking(move || ask(&nsm)).await;
        Ok(asked.map_err(|_| ApiError::Internal)??)
    }

    async fn attest(&self, request: AttestRequest) -> Result<Answer, ApiError> {
        if request.public_key.is_some() && !self.granted.grant.contains(&Grant::AttestPublicKey) {
            return Err(ApiError::NotGranted {
                list: "grant",
                word: Grant::AttestPublicKey.word(),
            });
        }
        let reserved = RESERVED_PREFIX.as_bytes();
        if let Some(Blob(user_data)) = &request.user_data
            && user_data.starts_with(reserved)
        {
            return Err(ApiError::Request(format!(
                "user data that begin with {RESERVED_PREFIX} are the runtime's own"
            )));
        }
        let bytes = |blob: Option<Blob>| blob.map(|Blob(bytes)| bytes);
        let claims = Claims {
            nonce: bytes(request.nonce),
            user_data: bytes(request.user_data),
            public_key: bytes(request.public_key),
        };
        let document = Blob(keys::attest(&self.nsm, claims).await?);
        let count = document.0.len();
        Answer::new(&AttestAnswer { document }, count)
    }

    fn keys(&self) -> Result<&Keys<N, S>, ApiError> {
        // The manifest is refused that grants what needs keys without naming a key service.
        self.keys.as_deref().ok_or(ApiError::Internal)
    }

    async fn open(&self, request: OpenRequest) -> Result<Answer, ApiError> {
        let keys = self.keys()?;
        let expected = own(request.context)?;
        let message = request.message.expose();
        let anchorhold_envelope::Parse::Complete { header, .. } =
            Header::parse(message, &Limits::default())?
        else {
            return Err(ApiError::Request("the message is cut off".to_owned()));
        };
        // Else a job could have secrets opened that the manifest does not give it.
        let context = own(header.context().clone())?;
        if let Some(name) = differing(&expected, &context) {
            return Err(ApiError::Request(format!(
                "the message was sealed with another value, or none, for {name:?} in its context"
            )));
        }
        let key = keys
            .open(keys.key_id(), header.data_keys(), header.context())
            .await?;
        let (_, plaintext) = open_whole(message, &Limits::default(), |_| {
            Ok::<DataKey, anchorhold_envelope::Error>(key)
        })?;
        let count = plaintext.len();
        let answer = OpenAnswer {
            plaintext: SecretBlob::new(plaintext),
            context,
        };
        Answer::new(&answer, count)
    }

    async fn seal(&self, request: SealRequest) -> Result<Answer, ApiError> {
        let context = own(request.context)?;
        let plaintext = request.plaintext.expose();
        let key = self
            .keys()?
            .generate_for(&context, plaintext.len() as u64)
            .await?;
        let options = SealOptions::new(context, vec![key.encrypted]);
        let (mut sealer, mut message) = Sealer::new(options, key.data_key, new_message_id()?)?;
        sealer.update(plaintext, &mut message)?;
        sealer.finish(&mut message)?;
        let count = message.len();
        let message = Blob(message);
        Answer::new(&SealAnswer { message }, count)
    }

    async fn generate(&self, request: DataKeyRequest) -> Result<Answer, ApiError> {
        let context = own(request.context)?;
        let (plaintext, encrypted) = self.keys()?.generate_plain(&context).await?;
        let count = encrypted.ciphertext.len();
        let answer = DataKeyAnswer {
            plaintext: SecretBlob::new(plaintext),
            ciphertext: Blob(encrypted.ciphertext),
            key_id: encrypted.key_info,
        };
        Answer::new(&answer, count)
    }

    async fn decrypt(&self, request: DecryptRequest) -> Result<Answer, ApiError> {
        let keys = self.keys()?;
        let context = own(request.context)?;
        let Blob(ciphertext) = request.ciphertext;
        let encrypted = EncryptedDataKey {
            provider_id: KEY_PROVIDER.to_owned(),
            key_info: keys.key_id().to_owned(),
            ciphertext,
        };
        let plaintext = keys
            .open_plain(keys.key_id(), &[encrypted], &context)
            .await?;
        let plaintext = SecretBlob::new(plaintext);
        Answer::new(&DecryptAnswer { plaintext }, 0)
    }
}

fn pcr(index: u8, value: &[u8]) -> Result<Answer, ApiError> {
    let value = hex::encode(value);
    Answer::new(&PcrAnswer { index, value }, 0)
}

/// A name whose expected value the context does not have.
fn differing<'a>(
    expected: &'a BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Option<&'a str> {
    expected
        .iter()
        .find(|(name, value)| found.get(*name) != Some(value))
        .map(|(name, _)| name.as_str())
}
