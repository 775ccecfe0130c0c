//! Data keys: asked of the key service with an attestation document, answered to this enclave's own RSA key.
//!
//! A data key that came any other way must never be used: an answer with a plaintext is refused, since a service that
//! ignores `Recipient` has checked no attestation, and the plaintext has crossed the parent's relay (inside TLS).
//!
//! The recipient envelope is not authenticated. What ties an answer to the service, and the two halves of a
//! `GenerateDataKey` answer (encrypted key and envelope) to each other, is the TLS session that ends in this enclave,
//! against the certificate authority that is measured into the image. On Decrypt the encryption context and the sealed
//! message's key commitment bind the key to the message besides.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use anchorhold_envelope::{DataKey, EncryptedDataKey, EncryptionContext};
use anchorhold_kms_wire::client::{Client, ClientError, Endpoint, EndpointError};
use anchorhold_kms_wire::recipient::{OpenError, RecipientKey};
use anchorhold_kms_wire::shapes::{
    Blob, DataKeySpec, DecryptRequest, DecryptResponse, GenerateDataKeyRequest,
    GenerateDataKeyResponse, Operation, RecipientInfo, SecretBlob,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::data_key_cache::{DataKeyCache, Purpose};
use crate::nsm::{Claims, Nsm, NsmError};
use crate::stream::Parent;
use crate::window::{Relay, Window, WindowCredentials};

/// A data key has 256 bits, as the suites of sealed messages have it.
const DATA_KEY_BYTES: usize = 32;
/// The provider of data keys that this enclave can ask for.
const PROVIDER: &str = "aws-kms";

/// Why there is no data key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The message was not sealed under a KMS key.
    #[error(
        "none of the message's encrypted data keys is of provider {PROVIDER}: seal it under a key of the key service"
    )]
    NoUsableDataKey,
    /// The NSM gave no document.
    #[error("no attestation document for the key service: {0}")]
    Attestation(#[from] NsmError),
    /// This enclave has no RSA key.
    #[error("this enclave could not make its RSA key; its log has the reason. Start another")]
    NoRecipientKey,
    /// The service refused, or could not be reached.
    #[error("{0}")]
    Service(#[from] ClientError),
    /// The service answered with a plaintext.
    #[error(
        "the key service answered {operation} with a plaintext though a Recipient was named: it checks no attestation, and must not be trusted. Use one that supports Recipient"
    )]
    PlaintextAnswer {
        /// Name of the operation.
        operation: &'static str,
    },
    /// The service answered with neither.
    #[error("the key service answered {operation} without CiphertextForRecipient")]
    NoEnvelope {
        /// Name of the operation.
        operation: &'static str,
    },
    /// The envelope is not for this enclave, or broken.
    #[error("the key service's envelope cannot be opened: {0}")]
    Envelope(#[from] OpenError),
    /// The data key has the wrong size.
    #[error("the key service's data key cannot be used: {0}")]
    DataKey(#[from] anchorhold_envelope::Error),
}

/// What this enclave asks of a key service. Answers are not looked into here.
pub trait KeyService: Send + Sync + 'static {
    /// Decrypt.
    fn decrypt(
        &self,
        request: &DecryptRequest,
    ) -> impl Future<Output = Result<DecryptResponse, ClientError>> + Send;

    /// `GenerateDataKey`.
    fn generate_data_key(
        &self,
        request: &GenerateDataKeyRequest,
    ) -> impl Future<Output = Result<GenerateDataKeyResponse, ClientError>> + Send;
}

/// The key service behind the parent's relay, over TLS that ends here.
pub struct RemoteKeyService<P: Parent> {
    client: Client<Relay<P>, WindowCredentials<P>>,
    credentials: WindowCredentials<P>,
}

impl<P: Parent> RemoteKeyService<P> {
    /// A client of the manifest's key service. Requests are dated, and its certificates judged, by `clock`.
    ///
    /// # Errors
    /// The endpoint or its CA cannot be used.
    pub fn new(
        endpoint: &Endpoint,
        window: &Arc<Window<P>>,
        clock: &Arc<Clock>,
    ) -> Result<RemoteKeyService<P>, EndpointError> {
        let credentials = WindowCredentials::new(Arc::clone(window), Arc::clone(clock));
        let time = Arc::clone(clock);
        Ok(RemoteKeyService {
            client: Client::with_clock(
                endpoint,
                Relay(Arc::clone(window)),
                credentials.clone(),
                Arc::new(move || time.now()),
            )?,
            credentials,
        })
    }

    async fn call<O: Operation + Sync>(&self, request: &O) -> Result<O::Response, ClientError>
    where
        O::Response: Send,
    {
        match self.client.call(request).await {
            // Perhaps the parent has newer ones: one more attempt with what it says now.
            Err(error) if is_about_credentials(&error) => {
                self.credentials.forget().await;
                self.client.call(request).await
            }
            other => other,
        }
    }
}

fn is_about_credentials(error: &ClientError) -> bool {
    matches!(
        error.kind(),
        Some(
            "ExpiredTokenException"
                | "ExpiredToken"
                | "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "InvalidSignatureException"
                | "MissingAuthenticationToken"
                | "MissingAuthenticationTokenException"
        )
    )
}

impl<P: Parent> KeyService for RemoteKeyService<P> {
    async fn decrypt(&self, request: &DecryptRequest) -> Result<DecryptResponse, ClientError> {
        self.call(request).await
    }

    async fn generate_data_key(
        &self,
        request: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, ClientError> {
        self.call(request).await
    }
}

/// This enclave's RSA key: made in the background, awaited by whoever needs it, gone with the enclave.
#[derive(Clone)]
pub struct Recipient(watch::Receiver<Option<Arc<RecipientKey>>>);

impl Recipient {
    /// Makes a key in a thread of its own, at once.
    pub fn generate() -> Recipient {
        let (sender, receiver) = watch::channel(None);
        // At full priority: other processes of the machine would have the time that it leaves, not other threads of this.
        let make = move || match RecipientKey::generate() {
            // Nobody listens any more when the enclave ends.
            Ok(key) => {
                let _ = sender.send(Some(Arc::new(key)));
            }
            Err(error) => crate::log!("no RSA key could be made: {error}"),
        };
        if let Err(error) = std::thread::Builder::new()
            .name("rsa-key".to_owned())
            .spawn(make)
        {
            crate::log!("no thread for the RSA key: {error}");
        }
        Recipient(receiver)
    }

    /// The key, once it is there.
    ///
    /// # Errors
    /// [`KeyError::NoRecipientKey`] if it never will be.
    pub async fn key(&self) -> Result<Arc<RecipientKey>, KeyError> {
        let mut receiver = self.0.clone();
        let key = receiver
            .wait_for(Option::is_some)
            .await
            .map_err(|_| KeyError::NoRecipientKey)?;
        key.clone().ok_or(KeyError::NoRecipientKey)
    }
}

/// A data key for a new message, and the same encrypted for the message's header.
pub struct GeneratedKey {
    /// Seals the message.
    pub data_key: DataKey,
    /// Goes into its header.
    pub encrypted: EncryptedDataKey,
}

/// Asks for data keys in this enclave's name.
pub struct Keys<N, S> {
    nsm: Arc<N>,
    service: S,
    recipient: Recipient,
    key_id: String,
    cache: Option<DataKeyCache>,
}

impl<N: Nsm, S: KeyService> Keys<N, S> {
    /// `key_id` is the manifest's `key_service.key`.
    pub fn new(nsm: Arc<N>, service: S, recipient: Recipient, key_id: String) -> Keys<N, S> {
        Keys {
            nsm,
            service,
            recipient,
            key_id,
            cache: None,
        }
    }

    /// With data keys kept for further messages.
    #[must_use]
    pub fn with_cache(mut self, limits: Option<anchorhold_manifest::DataKeyCache>) -> Keys<N, S> {
        self.cache = limits.map(DataKeyCache::new);
        self
    }

    /// The data keys that are kept, where any are.
    pub fn cache(&self) -> Option<&DataKeyCache> {
        self.cache.as_ref()
    }

    /// The key that calls are opened and sealed under.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Has one of a message's encrypted data keys decrypted under `key_id`: all of them hold the same data key. Those
    /// that name the key are asked about first.
    ///
    /// # Errors
    /// The service's first refusal if none is decrypted; anything else at once.
    pub async fn open(
        &self,
        key_id: &str,
        encrypted: &[EncryptedDataKey],
        context: &EncryptionContext,
    ) -> Result<DataKey, KeyError> {
        let Some(cache) = &self.cache else {
            let key = self.open_plain(key_id, encrypted, context).await?;
            return Ok(DataKey::from_vec(key)?);
        };
        let purpose = Purpose::opening(key_id, encrypted, context);
        if let Some(key) = cache.for_opening(&purpose, Instant::now()) {
            return Ok(DataKey::from_vec(key)?);
        }
        let key = self.open_plain(key_id, encrypted, context).await?;
        cache.keep_for_opening(purpose, &key, Instant::now());
        Ok(DataKey::from_vec(key)?)
    }

    /// The same, never from what is kept, as bytes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_plain(
        &self,
        key_id: &str,
        encrypted: &[EncryptedDataKey],
        context: &EncryptionContext,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut candidates: Vec<&EncryptedDataKey> = encrypted
            .iter()
            .filter(|key| key.provider_id == PROVIDER)
            .collect();
        candidates.sort_by_key(|key| key.key_info != key_id);
        let mut first_refusal = None;
        for candidate in candidates {
            match self.decrypt(key_id, candidate, context).await {
                Err(KeyError::Service(refusal @ ClientError::Service { .. })) => {
                    first_refusal.get_or_insert(refusal);
                }
                settled => return settled,
            }
        }
        Err(first_refusal.map_or(KeyError::NoUsableDataKey, KeyError::Service))
    }

    async fn decrypt(
        &self,
        key_id: &str,
        encrypted: &EncryptedDataKey,
        context: &EncryptionContext,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let (recipient_key, recipient) = self.recipient_info().await?;
        let request = DecryptRequest {
            ciphertext_blob: Some(Blob(encrypted.ciphertext.clone())),
            encryption_context: context.clone(),
            key_id: Some(key_id.to_owned()),
            recipient: Some(recipient),
            ..DecryptRequest::default()
        };
        let response = self.service.decrypt(&request).await?;
        open_answer(
            "Decrypt",
            response.plaintext.as_ref(),
            response.ciphertext_for_recipient,
            &recipient_key,
        )
    }

    /// A new data key under [`key_id`](Self::key_id), bound to a context.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn generate(&self, context: &EncryptionContext) -> Result<GeneratedKey, KeyError> {
        let (key, encrypted) = self.generate_plain(context).await?;
        Ok(GeneratedKey {
            data_key: DataKey::from_vec(key)?,
            encrypted,
        })
    }

    /// A data key for a message of a known size, one that is kept where it still may be used.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn generate_for(
        &self,
        context: &EncryptionContext,
        bytes: u64,
    ) -> Result<GeneratedKey, KeyError> {
        let Some(cache) = &self.cache else {
            return self.generate(context).await;
        };
        let purpose = Purpose::sealing(&self.key_id, context);
        let (key, encrypted) = match cache.for_sealing(&purpose, bytes, Instant::now()) {
            Some(kept) => kept,
            None => {
                let (key, encrypted) = self.generate_plain(context).await?;
                cache.keep_for_sealing(purpose, &key, &encrypted, bytes, Instant::now());
                (key, encrypted)
            }
        };
        Ok(GeneratedKey {
            data_key: DataKey::from_vec(key)?,
            encrypted,
        })
    }

    /// A new data key as bytes, which nobody keeps here.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn generate_plain(
        &self,
        context: &EncryptionContext,
    ) -> Result<(Zeroizing<Vec<u8>>, EncryptedDataKey), KeyError> {
        self.generate_plain_under(&self.key_id, context).await
    }

    /// The same under another key.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn generate_plain_under(
        &self,
        key_id: &str,
        context: &EncryptionContext,
    ) -> Result<(Zeroizing<Vec<u8>>, EncryptedDataKey), KeyError> {
        let (recipient_key, recipient) = self.recipient_info().await?;
        let request = GenerateDataKeyRequest {
            key_id: key_id.to_owned(),
            encryption_context: context.clone(),
            key_spec: Some(DataKeySpec::Aes256),
            recipient: Some(recipient),
            ..GenerateDataKeyRequest::default()
        };
        let response = self.service.generate_data_key(&request).await?;
        let data_key = open_answer(
            "GenerateDataKey",
            response.plaintext.as_ref(),
            response.ciphertext_for_recipient,
            &recipient_key,
        )?;
        let encrypted = EncryptedDataKey {
            provider_id: PROVIDER.to_owned(),
            key_info: response.key_id,
            ciphertext: response.ciphertext_blob.0,
        };
        Ok((data_key, encrypted))
    }

    /// A document for one request, with the public key that its answer is to be encrypted to.
    async fn recipient_info(&self) -> Result<(Arc<RecipientKey>, RecipientInfo), KeyError> {
        let key = self.recipient.key().await?;
        let document = attest(
            &self.nsm,
            Claims {
                public_key: Some(key.public_key_der().to_vec()),
                ..Claims::default()
            },
        )
        .await?;
        Ok((key, RecipientInfo::new(document)))
    }
}

/// A document from the NSM, without holding up other tasks.
///
/// # Errors
/// See [`NsmError`].
pub async fn attest<N: Nsm>(nsm: &Arc<N>, claims: Claims) -> Result<Vec<u8>, NsmError> {
    let nsm = Arc::clone(nsm);
    tokio::task::spawn_blocking(move || nsm.attest(claims))
        .await
        .unwrap_or(Err(NsmError::Unexpected {
            request: "Attestation",
        }))
}

fn open_answer(
    operation: &'static str,
    plaintext: Option<&SecretBlob>,
    envelope: Option<Blob>,
    key: &RecipientKey,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if plaintext.is_some() {
        return Err(KeyError::PlaintextAnswer { operation });
    }
    let Some(Blob(envelope)) = envelope else {
        return Err(KeyError::NoEnvelope { operation });
    };
    let key = key.open(&envelope)?;
    if key.len() != DATA_KEY_BYTES {
        return Err(anchorhold_envelope::Error::DataKeyLength(key.len()).into());
    }
    Ok(key)
}
