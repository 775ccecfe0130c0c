//! The job over HTTP, and what it asks of the runtime.
//!
//! No answer holds a private key but as a message that the runtime has sealed. The console hears which key has signed for
//! whom and what for; never what.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anchorhold_job::{Claims as Attested, Context, Error as RuntimeError, Runtime, Time};
use anchorhold_job_serve::{Caller, Failure, Handler, Request, Response, json, with_type};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json as value;
use zeroize::Zeroizing;

use crate::approval::Form;
use crate::custody::{Custody, Moment, Refusal, SignRequest};
use crate::key::{KeyError, PrivateKey};
use crate::settings::RuleError;

/// `openapi.json`, which the service also answers.
pub const OPENAPI: &str = include_str!("../openapi.json");
/// Bytes of a request's body: the longest message in base64, approvals, and room.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Bytes of a client's nonce, as the security module takes it.
const MAX_NONCE_BYTES: usize = 512;

/// Bytes, in base64 with padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text);
        bytes
            .map(Base64)
            .map_err(|_| serde::de::Error::custom("no base64"))
    }
}

/// What the job asks of the runtime.
pub trait Vault: Send + Sync + 'static {
    /// Seals for this image alone.
    ///
    /// # Errors
    /// See [`RuntimeError`], here and below.
    fn seal(&self, plaintext: &[u8], context: &Context) -> Result<Vec<u8>, RuntimeError>;
    /// Opens what was sealed so.
    fn open(&self, message: &[u8], context: &Context) -> Result<Zeroizing<Vec<u8>>, RuntimeError>;
    /// A secret of the manifest's.
    fn secret(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, RuntimeError>;
    /// An attestation document.
    fn attest(&self, claims: &Attested) -> Result<Vec<u8>, RuntimeError>;
    /// The time that the parent cannot set.
    fn time(&self) -> Result<Time, RuntimeError>;
}

/// The runtime's local API, on one connection.
pub struct LocalApi(Mutex<Runtime>);

impl LocalApi {
    /// The runtime of this enclave.
    ///
    /// # Errors
    /// There is none.
    pub fn connect() -> Result<LocalApi, RuntimeError> {
        Ok(LocalApi(Mutex::new(Runtime::connect()?)))
    }

    fn runtime(&self) -> std::sync::MutexGuard<'_, Runtime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault for LocalApi {
    fn seal(&self, plaintext: &[u8], context: &Context) -> Result<Vec<u8>, RuntimeError> {
        self.runtime().seal(plaintext, context)
    }

    fn open(&self, message: &[u8], context: &Context) -> Result<Zeroizing<Vec<u8>>, RuntimeError> {
        Ok(self.runtime().open(message, context)?.plaintext)
    }

    fn secret(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, RuntimeError> {
        Ok(self.runtime().secret(name, 0, Duration::ZERO)?.value)
    }

    fn attest(&self, claims: &Attested) -> Result<Vec<u8>, RuntimeError> {
        self.runtime().attest(claims)
    }

    fn time(&self) -> Result<Time, RuntimeError> {
        self.runtime().time()
    }
}

/// The service cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The rules are none.
    #[error("[job.settings] in anchorhold.toml: {0}")]
    Rules(#[from] RuleError),
    /// There is no randomness.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// A key does not come.
    #[error("the key `{key}` does not come as the secret `{secret}`: {source}")]
    Secret {
        /// The key.
        key: String,
        /// The secret.
        secret: String,
        /// Why.
        source: RuntimeError,
    },
    /// A key is none.
    #[error("the key `{key}`, which came as the secret `{secret}`, is none: {source}")]
    Imported {
        /// The key.
        key: String,
        /// The secret.
        secret: String,
        /// Why.
        source: Refusal,
    },
}

/// The service.
pub struct Service {
    custody: Arc<Custody>,
    vault: Arc<dyn Vault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttestRequest {
    nonce: Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    sealed: Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignBody {
    form: Form,
    input: Base64,
    purpose: String,
    expires: Option<u64>,
    nonce: Option<String>,
    #[serde(default)]
    approvals: Vec<String>,
}

#[derive(Serialize)]
struct SignAnswer<'a> {
    key: &'a str,
    raw: Base64,
    #[serde(skip_serializing_if = "Option::is_none")]
    der: Option<Base64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_id: Option<u8>,
    approved_by: Vec<&'a str>,
}

/// What a sealed key is sealed with, so that no key is taken for another, nor another message for a key.
fn context(key: &str, algorithm: &str) -> Context {
    BTreeMap::from([
        ("custody".to_owned(), "key/1".to_owned()),
        ("custody-key".to_owned(), key.to_owned()),
        ("custody-algorithm".to_owned(), algorithm.to_owned()),
    ])
}

fn failed(error: &RuntimeError) -> Failure {
    // The runtime's words are about the enclave and the key service, and say what to grant.
    let message = format!("the runtime does not do it: {error}");
    Failure::new(StatusCode::BAD_GATEWAY, "runtime", message)
}

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way<'a> {
    Ready,
    OpenApi,
    Keys,
    Key(&'a str),
    Attestation(&'a str),
    Make(&'a str),
    Load(&'a str),
    Sign(&'a str),
}

fn way(path: &str) -> Option<Way<'_>> {
    match path {
        "/ready" => return Some(Way::Ready),
        "/openapi.json" => return Some(Way::OpenApi),
        "/v1/keys" => return Some(Way::Keys),
        _ => {}
    }
    let (key, what) = match path.strip_prefix("/v1/keys/")?.split_once('/') {
        None => (path.strip_prefix("/v1/keys/")?, None),
        Some((key, what)) => (key, Some(what)),
    };
    match what {
        None => Some(Way::Key(key)),
        Some("attestation") => Some(Way::Attestation(key)),
        Some("make") => Some(Way::Make(key)),
        Some("load") => Some(Way::Load(key)),
        Some("sign") => Some(Way::Sign(key)),
        Some(_) => None,
    }
}

impl Service {
    /// Puts it together, with the keys that come as secrets.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(custody: Custody, vault: impl Vault) -> Result<Service, SetupError> {
        for (key, secret) in custody.imported() {
            let pkcs8 = vault.secret(secret).map_err(|source| SetupError::Secret {
                key: key.to_owned(),
                secret: secret.to_owned(),
                source,
            })?;
            custody
                .put(key, &pkcs8)
                .map_err(|source| SetupError::Imported {
                    key: key.to_owned(),
                    secret: secret.to_owned(),
                    source,
                })?;
        }
        Ok(Service {
            custody: Arc::new(custody),
            vault: Arc::new(vault),
        })
    }

    /// Asks the runtime, which takes its time.
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn Vault) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, Failure> {
        let vault = Arc::clone(&self.vault);
        match tokio::task::spawn_blocking(move || what(&*vault)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(Failure::busy()),
        }
    }

    /// Who asks, for a key that names its callers.
    fn caller(&self, key: &str, request: &Request) -> Result<Option<&Caller>, Failure> {
        if !self.custody.takes_callers(key)? {
            return Ok(None);
        }
        let caller = self.custody.callers().who(request.headers())?;
        self.custody.admit(key, Some(caller))?;
        Ok(Some(caller))
    }

    async fn attestation(&self, key: &str, request: Request) -> Result<Response, Failure> {
        let AttestRequest { nonce } = request.json(MAX_BODY_BYTES).await?;
        if nonce.0.is_empty() || nonce.0.len() > MAX_NONCE_BYTES {
            let message = format!("a nonce has 1 to {MAX_NONCE_BYTES} bytes");
            return Err(Failure::new(StatusCode::BAD_REQUEST, "format", message));
        }
        let (public_key, statement) = self.custody.statement(key)?;
        let user_data = serde_json::to_vec(&statement).expect("a statement is JSON");
        let claims = Attested {
            nonce: Some(nonce.0),
            user_data: Some(user_data),
            public_key: Some(public_key.clone()),
        };
        let document = self.ask(move |vault| vault.attest(&claims)).await?;
        Ok(json(&value!({
            "document": Base64(document), "public_key": Base64(public_key), "statement": statement,
        })))
    }

    async fn make(&self, key: &str, request: Request) -> Result<Response, Failure> {
        let algorithm = self.custody.made(key)?;
        self.caller(key, &request)?;
        self.custody.is_free(key)?;
        let pkcs8 = PrivateKey::make(algorithm)
            .map_err(Refusal::from)?
            .to_pkcs8();
        let context = context(key, algorithm.name());
        let (pkcs8, sealed) = self
            .ask(move |vault| {
                let sealed = vault.seal(&pkcs8, &context)?;
                Ok((pkcs8, sealed))
            })
            .await?;
        // Only now: a key that nobody could ever load again must not sign.
        let public_key = self.custody.put(key, &pkcs8)?;
        said(&format!("{key} was made"));
        Ok(json(&value!({
            "key": key, "public_key": Base64(public_key), "sealed": Base64(sealed),
        })))
    }

    async fn load(&self, key: &str, request: Request) -> Result<Response, Failure> {
        let algorithm = self.custody.made(key)?;
        self.caller(key, &request)?;
        let LoadRequest { sealed } = request.json(MAX_BODY_BYTES).await?;
        let context = context(key, algorithm.name());
        let pkcs8 = self
            .ask(move |vault| vault.open(&sealed.0, &context))
            .await?;
        let public_key = self.custody.put(key, &pkcs8)?;
        said(&format!("{key} was loaded"));
        Ok(json(
            &value!({ "key": key, "public_key": Base64(public_key) }),
        ))
    }

    async fn sign(&self, key: &str, request: Request) -> Result<Response, Failure> {
        let caller = self.caller(key, &request)?;
        let body: SignBody = request.json(MAX_BODY_BYTES).await?;
        let request = SignRequest {
            form: body.form,
            input: body.input.0,
            purpose: body.purpose,
            expires: body.expires,
            nonce: body.nonce,
            approvals: body.approvals,
        };
        let time = match self.custody.describe(key)?.approvals {
            0 => None,
            _ => Some(self.ask(|vault| vault.time()).await?),
        };
        let now = Moment {
            instant: Instant::now(),
            unix_ms: time.as_ref().map_or(0, |time| time.unix_ms),
            uncertainty_ms: time.as_ref().map_or(0, |time| time.uncertainty_ms),
        };
        let (signature, approved_by) = self.custody.sign(key, &request, caller, now)?;
        let by = caller.map_or("somebody", Caller::name);
        let purpose = &request.purpose;
        said(&format!(
            "{key} has signed for {by}: {purpose}; approved by [{}]",
            approved_by.join(", ")
        ));
        Ok(json(&SignAnswer {
            key,
            raw: Base64(signature.raw),
            der: signature.der.map(Base64),
            recovery_id: signature.recovery_id,
            approved_by,
        }))
    }
}

/// For whoever reads the console.
fn said(what: &str) {
    let _ = writeln!(std::io::stderr(), "custody: {what}");
}

impl Handler for Service {
    async fn answer(&self, request: Request) -> Result<Response, Failure> {
        let path = request.path().to_owned();
        let way = way(&path).ok_or_else(Failure::not_found)?;
        let expected = match way {
            Way::Ready | Way::OpenApi | Way::Keys | Way::Key(_) => Method::GET,
            Way::Attestation(_) | Way::Make(_) | Way::Load(_) | Way::Sign(_) => Method::POST,
        };
        if request.method() != expected {
            return Err(Failure::method());
        }
        match way {
            Way::Ready => Ok(json(&value!({ "ready": true }))),
            Way::OpenApi => Ok(with_type(StatusCode::OK, "application/json", OPENAPI)),
            Way::Keys => {
                let keys: Vec<&str> = self.custody.names().collect();
                Ok(json(&value!({ "boot": self.custody.boot(), "keys": keys })))
            }
            Way::Key(key) => Ok(json(&self.custody.describe(key)?)),
            Way::Attestation(key) => self.attestation(key, request).await,
            Way::Make(key) => self.make(key, request).await,
            Way::Load(key) => self.load(key, request).await,
            Way::Sign(key) => self.sign(key, request).await,
        }
    }
}
