//! The job over HTTP: tokenize, validate and mask for everybody, detokenize for those whom the measured manifest names.
//!
//! Nothing here may write anything of a request to a log. By default nobody detokenizes, whatever is asked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anchorhold_job::{Context, Runtime};
use anchorhold_job_serve::{
    Caller, CallerSettings, Callers, CallersError, Failure, Handler, LineLimits, Request, Response,
    Room, json, wiped, with_type,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::job::MAX_LINE_BYTES;
use crate::record::{self, Failure as Wrong};
use crate::token::{KEY_PATH, KeyError, Tokenizer};

/// `openapi.json`, which the service also answers.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Bytes of one record.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// What a bulk request may have.
pub const BULK: LineLimits = LineLimits {
    bytes: 8 * 1024 * 1024,
    lines: 100_000,
    line: MAX_LINE_BYTES,
};
/// Bytes of bulk answers at a time, of all requests.
const ROOM_BYTES: usize = 64 * 1024 * 1024;
const NDJSON: &str = "application/x-ndjson";

/// `[job.settings]` of the manifest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the tokenization key comes from.
    #[serde(default)]
    key: KeySource,
    /// Who may detokenize.
    #[serde(default)]
    detokenize: BTreeMap<String, CallerSettings>,
}

/// Where the tokenization key comes from.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum KeySource {
    /// A file, as which the runtime gives a secret.
    File(PathBuf),
    /// A secret by name, through the local API.
    Secret(String),
    /// A data key by its ciphertext, through the local API.
    DataKey {
        /// As the key service has made it, in base64.
        ciphertext: String,
        /// The encryption context that it was made with.
        #[serde(default)]
        context: Context,
    },
}

impl Default for KeySource {
    fn default() -> KeySource {
        KeySource::File(KEY_PATH.into())
    }
}

impl KeySource {
    fn tokenizer(&self) -> Result<Tokenizer, KeyError> {
        match self {
            KeySource::File(path) => Tokenizer::from_file(path),
            KeySource::Secret(name) => {
                let secret = Runtime::connect()?.secret(name, 0, std::time::Duration::ZERO)?;
                Tokenizer::from_bytes(&secret.value)
            }
            KeySource::DataKey {
                ciphertext,
                context,
            } => {
                let ciphertext = STANDARD
                    .decode(ciphertext)
                    .map_err(|_| KeyError::Ciphertext)?;
                let key = Runtime::connect()?.decrypt_data_key(&ciphertext, context)?;
                Tokenizer::from_bytes(&key)
            }
        }
    }
}

/// The service cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no key.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// Who may detokenize is not said clearly.
    #[error("[job.settings.detokenize] in anchorhold.toml: {0}")]
    Callers(#[from] CallersError),
}

/// What is done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A card number becomes a token.
    Tokenize,
    /// A token becomes a card number.
    Detokenize,
    /// Is it a card number?
    Validate,
    /// Card numbers anywhere in the record become stars.
    Mask,
}

impl Operation {
    /// All of them, by their word in paths.
    pub const ALL: [(&'static str, Operation); 4] = [
        ("tokenize", Operation::Tokenize),
        ("detokenize", Operation::Detokenize),
        ("validate", Operation::Validate),
        ("mask", Operation::Mask),
    ];
}

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ready,
    OpenApi,
    One(Operation),
    Bulk(Operation),
}

fn way(path: &str) -> Option<Way> {
    let operation = |word: &str| {
        let found = Operation::ALL.iter().find(|(known, _)| *known == word);
        found.map(|(_, operation)| *operation)
    };
    match path {
        "/ready" => Some(Way::Ready),
        "/openapi.json" => Some(Way::OpenApi),
        _ => {
            let rest = path.strip_prefix("/v1/")?;
            match rest.strip_prefix("bulk/") {
                Some(word) => operation(word).map(Way::Bulk),
                None => operation(rest).map(Way::One),
            }
        }
    }
}

/// The service.
pub struct Cards {
    tokenizer: Tokenizer,
    detokenizers: Callers,
    room: Room,
}

impl Cards {
    /// By the manifest's settings.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(settings: Settings) -> Result<Cards, SetupError> {
        let tokenizer = settings.key.tokenizer()?;
        Ok(Cards {
            tokenizer,
            detokenizers: Callers::new(settings.detokenize, Instant::now())?,
            room: Room::new(ROOM_BYTES),
        })
    }

    /// Who asks, where only some may.
    fn admitted(
        &self,
        operation: Operation,
        request: &Request,
    ) -> Result<Option<&Caller>, Failure> {
        if operation != Operation::Detokenize {
            return Ok(None);
        }
        if self.detokenizers.is_empty() {
            let message = "nobody may detokenize: the measured manifest of this image names no caller in [job.settings.detokenize]";
            return Err(Failure::new(StatusCode::FORBIDDEN, "forbidden", message));
        }
        self.detokenizers.who(request.headers()).map(Some)
    }

    fn answer_record(
        &self,
        operation: Operation,
        record: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<&'static str> {
        match operation {
            Operation::Tokenize => record::tokenize(record, &self.tokenizer, out),
            Operation::Detokenize => record::detokenize(record, &self.tokenizer, out),
            Operation::Validate => record::validate(record, out),
            Operation::Mask => record::masked(record, out),
        }
    }

    async fn one(&self, operation: Operation, request: Request) -> Result<Response, Failure> {
        let caller = self.admitted(operation, &request)?;
        let record = request.bytes(MAX_RECORD_BYTES).await?;
        if let Some(caller) = caller {
            caller.take(Instant::now()).map_err(Caller::too_often)?;
            log(caller, 1);
        }
        let mut out = Zeroizing::new(Vec::with_capacity(record.len() + 256));
        let status = match self.answer_record(operation, &record, &mut out) {
            None => StatusCode::OK,
            Some("format") => StatusCode::BAD_REQUEST,
            Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Ok(with_type(status, "application/json", wiped(out)))
    }

    async fn bulk(&self, operation: Operation, request: Request) -> Result<Response, Failure> {
        let caller = self.admitted(operation, &request)?;
        let mut done: u64 = 0;
        let answers = request
            .answer_lines(BULK, &self.room, |line, out| {
                if line.len() > MAX_LINE_BYTES {
                    let message = format!("the line has more than {MAX_LINE_BYTES} bytes");
                    return record::fail(&Wrong::format(message), None, out);
                }
                // Each line counts, or a bulk request would be the way around the rate.
                if let Some(wait) = caller.and_then(|caller| caller.take(Instant::now()).err()) {
                    let failure = Caller::too_often(wait);
                    return record::fail(&Wrong::new(failure.code, failure.message), None, out);
                }
                done += 1;
                // What is wrong with a line stands in its answer.
                let _ = self.answer_record(operation, line, out);
            })
            .await;
        if let Some(caller) = caller {
            log(caller, done);
        }
        Ok(with_type(StatusCode::OK, NDJSON, answers?))
    }
}

/// Who has detokenized how much, for whoever reads the console.
fn log(caller: &Caller, count: u64) {
    let name = caller.name();
    let _ = writeln!(std::io::stderr(), "cards: {name} detokenized {count}");
}

impl Handler for Cards {
    async fn answer(&self, request: Request) -> Result<Response, Failure> {
        let way = way(request.path()).ok_or_else(Failure::not_found)?;
        let expected = match way {
            Way::Ready | Way::OpenApi => http::Method::GET,
            Way::One(_) | Way::Bulk(_) => http::Method::POST,
        };
        if request.method() != expected {
            return Err(Failure::method());
        }
        match way {
            Way::Ready => Ok(json(&serde_json::json!({ "ready": true }))),
            Way::OpenApi => Ok(with_type(StatusCode::OK, "application/json", OPENAPI)),
            Way::One(operation) => self.one(operation, request).await,
            Way::Bulk(operation) => self.bulk(operation, request).await,
        }
    }
}
