//! The local API of an enclave's runtime, for jobs in Rust: blocking, on one connection, with few dependencies.
//!
//! ```no_run
//! let mut runtime = anchorhold_job::Runtime::connect()?;
//! let context = [("purpose".to_owned(), "cards".to_owned())].into();
//! let message = runtime.seal(b"4111111111111111", &context)?;
//! # Ok::<(), anchorhold_job::Error>(())
//! ```
//!
//! What the manifest's `[api]` does not grant is [`Error::Refused`]. Nothing here may keep or print what it carries.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// The variable that has the socket's path.
pub const VARIABLE: &str = "ANCHORHOLD_API_SOCKET";

/// The longest answer that is taken: 8 MiB of plaintext in base64 and JSON, and room.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The longest head of an answer, and lines in it.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;
/// Longer than a secret is waited for.
const TIMEOUT: Duration = Duration::from_secs(75);

/// An encryption context.
pub type Context = BTreeMap<String, String>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no runtime to ask.
    #[error("{VARIABLE} is not set: this is no job of an enclave, or its manifest has no [api]")]
    NoRuntime,
    /// The connection broke.
    #[error("the runtime cannot be asked: {0}")]
    Io(#[from] io::Error),
    /// The runtime refused or failed.
    #[error("{message} ({kind})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// A word for programs, such as `not_granted`.
        kind: String,
        /// A sentence for people.
        message: String,
    },
    /// The answer is not what `openapi.json` says.
    #[error("the runtime's answer is not understood")]
    Answer,
}

/// What the manifest grants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Granted {
    /// Operations, by the manifest's words.
    pub grant: BTreeSet<String>,
    /// Secrets by name.
    pub secrets: BTreeSet<String>,
    /// PCRs that may be extended.
    pub extend_pcrs: BTreeSet<u8>,
}

/// What a document is to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Shows that it is not older than this.
    pub nonce: Option<Vec<u8>>,
    /// Anything that it is to vouch for.
    pub user_data: Option<Vec<u8>>,
    /// A public key; needs a grant of its own.
    pub public_key: Option<Vec<u8>>,
}

/// A message's plaintext and what it was sealed with. No `Debug`.
pub struct Opened {
    /// The plaintext.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The encryption context.
    pub context: Context,
}

/// A data key. No `Debug`.
pub struct DataKey {
    /// Its 32 bytes.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The same, encrypted under the key service's key.
    pub ciphertext: Vec<u8>,
}

/// A secret. No `Debug`.
pub struct Secret {
    /// The secret itself.
    pub value: Zeroizing<Vec<u8>>,
    /// 1 for the first; one more for each that was handed in later.
    pub version: u64,
}

/// The time that the parent cannot set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Time {
    /// Milliseconds since 1970; never less than before.
    pub unix_ms: u64,
    /// How far that may be off if the first document was right.
    pub uncertainty_ms: u64,
    /// Documents that were heard.
    pub samples: u64,
    /// Of these, those that said a time that cannot be.
    pub steps: u64,
    /// By how much the last of those differed, in milliseconds.
    pub last_step_ms: i64,
    /// What documents have moved the time by, in parts per million.
    pub drift_ppm: f64,
}

/// The runtime of this enclave, on one connection, which is made anew after it has broken.
pub struct Runtime {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

fn text(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

fn bytes(answer: &Value, field: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let text = answer[field].as_str().ok_or(Error::Answer)?;
    let bytes = STANDARD.decode(text).map_err(|_| Error::Answer)?;
    Ok(Zeroizing::new(bytes))
}

impl Runtime {
    /// The runtime that [`VARIABLE`] leads to.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] where there is none.
    pub fn connect() -> Result<Runtime, Error> {
        let socket = std::env::var_os(VARIABLE).ok_or(Error::NoRuntime)?;
        Ok(Runtime::at(Path::new(&socket)))
    }

    /// The runtime behind a socket.
    pub fn at(socket: &Path) -> Runtime {
        Runtime {
            socket: socket.to_owned(),
            stream: None,
        }
    }

    /// What the manifest grants.
    ///
    /// # Errors
    /// See [`Error`], here and below.
    pub fn granted(&mut self) -> Result<Granted, Error> {
        let answer = self.ask("GET", "/v1/granted", None)?;
        serde_json::from_value(answer).map_err(|_| Error::Answer)
    }

    /// An attestation document.
    pub fn attest(&mut self, claims: &Claims) -> Result<Vec<u8>, Error> {
        let given = [
            ("nonce", &claims.nonce),
            ("user_data", &claims.user_data),
            ("public_key", &claims.public_key),
        ];
        let body: serde_json::Map<_, _> = given
            .into_iter()
            .filter_map(|(name, bytes)| Some((name.to_owned(), text(bytes.as_deref()?))))
            .collect();
        let answer = self.ask("POST", "/v1/attestation", Some(&Value::Object(body)))?;
        Ok(bytes(&answer, "document")?.to_vec())
    }

    /// Seals a message under the key service's key.
    pub fn seal(&mut self, plaintext: &[u8], context: &Context) -> Result<Vec<u8>, Error> {
        let body = json!({ "plaintext": text(plaintext), "context": context });
        let answer = self.ask("POST", "/v1/seal", Some(&body))?;
        Ok(bytes(&answer, "message")?.to_vec())
    }

    /// Opens a message, whose context must have all of `context`.
    pub fn open(&mut self, message: &[u8], context: &Context) -> Result<Opened, Error> {
        let body = json!({ "message": text(message), "context": context });
        let answer = self.ask("POST", "/v1/open", Some(&body))?;
        let found = answer["context"].clone();
        Ok(Opened {
            plaintext: bytes(&answer, "plaintext")?,
            context: serde_json::from_value(found).map_err(|_| Error::Answer)?,
        })
    }

    /// A new data key.
    pub fn data_key(&mut self, context: &Context) -> Result<DataKey, Error> {
        let body = json!({ "context": context });
        let answer = self.ask("POST", "/v1/data-keys", Some(&body))?;
        Ok(DataKey {
            plaintext: bytes(&answer, "plaintext")?,
            ciphertext: bytes(&answer, "ciphertext")?.to_vec(),
        })
    }

    /// The bytes of a data key that was made before.
    pub fn decrypt_data_key(
        &mut self,
        ciphertext: &[u8],
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let body = json!({ "ciphertext": text(ciphertext), "context": context });
        let answer = self.ask("POST", "/v1/data-keys/decrypt", Some(&body))?;
        bytes(&answer, "plaintext")
    }

    /// Random bytes, at most 65,536.
    pub fn random(&mut self, count: u32) -> Result<Zeroizing<Vec<u8>>, Error> {
        let answer = self.ask("GET", &format!("/v1/random?bytes={count}"), None)?;
        bytes(&answer, "bytes")
    }

    /// A secret; where `wait` (a minute at most) is not zero, one of a later version than `after` is waited for.
    pub fn secret(&mut self, name: &str, after: u64, wait: Duration) -> Result<Secret, Error> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(known) {
            return Err(Error::Refused {
                status: 403,
                kind: "not_granted".to_owned(),
                message: "no secret has such a name".to_owned(),
            });
        }
        let wait = wait.as_secs();
        let path = format!("/v1/secrets/{name}?after={after}&wait_seconds={wait}");
        let answer = self.ask("GET", &path, None)?;
        Ok(Secret {
            value: bytes(&answer, "value")?,
            version: answer["version"].as_u64().ok_or(Error::Answer)?,
        })
    }

    /// The value of a PCR from 16 to 31.
    pub fn read_pcr(&mut self, index: u8) -> Result<Vec<u8>, Error> {
        let answer = self.ask("GET", &format!("/v1/pcrs/{index}"), None)?;
        hexadecimal(&answer)
    }

    /// Extends a PCR; its new value.
    pub fn extend_pcr(&mut self, index: u8, data: &[u8]) -> Result<Vec<u8>, Error> {
        let body = json!({ "data": text(data) });
        let path = format!("/v1/pcrs/{index}/extend");
        hexadecimal(&self.ask("POST", &path, Some(&body))?)
    }

    /// The time that the parent cannot set.
    pub fn time(&mut self) -> Result<Time, Error> {
        let answer = self.ask("GET", "/v1/time", None)?;
        serde_json::from_value(answer).map_err(|_| Error::Answer)
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream
            }
        };
        let body = Zeroizing::new(body.map_or_else(String::new, Value::to_string));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: runtime\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        (&stream).write_all(head.as_bytes())?;
        (&stream).write_all(body.as_bytes())?;
        let (status, answer) = receive(&stream)?;
        // Not before the answer was read to its end: what is left of one must not be taken for the next.
        self.stream = Some(stream);
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| Error::Answer)?;
        if status == 200 {
            return Ok(answer);
        }
        let word = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Err(Error::Refused {
            status,
            kind: word("error"),
            message: word("message"),
        })
    }
}

fn hexadecimal(answer: &Value) -> Result<Vec<u8>, Error> {
    let value = answer["value"].as_str().ok_or(Error::Answer)?;
    hex::decode(value).map_err(|_| Error::Answer)
}

/// One answer: its status and its body, whose length the runtime always says.
fn receive(mut stream: &UnixStream) -> Result<(u16, Zeroizing<Vec<u8>>), Error> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_HEAD_BYTES));
    loop {
        let begun = buffer.len();
        if begun >= MAX_HEAD_BYTES {
            return Err(Error::Answer);
        }
        buffer.resize(MAX_HEAD_BYTES, 0);
        let count = stream.read(&mut buffer[begun..])?;
        buffer.truncate(begun + count);
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let parsed = answer.parse(&buffer).map_err(|_| Error::Answer)?;
        let httparse::Status::Complete(head) = parsed else {
            continue;
        };
        let length = answer
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case("content-length"))
            .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok())
            .filter(|length| *length <= MAX_ANSWER_BYTES)
            .ok_or(Error::Answer)?;
        let status = answer.code.ok_or(Error::Answer)?;
        let mut body = Zeroizing::new(vec![0; length]);
        let came = buffer.len() - head;
        if came > length {
            return Err(Error::Answer);
        }
        body[..came].copy_from_slice(&buffer[head..]);
        stream.read_exact(&mut body[came..])?;
        return Ok((status, body));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(answer: &[u8]) -> Result<(u16, Vec<u8>), Error> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(answer).expect("room");
        drop(theirs);
        receive(&ours).map(|(status, body)| (status, body.to_vec()))
    }

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(received(whole).ok(), Some((200, b"{}".to_vec())));
        for cut in 0..whole.len() {
            assert!(received(&whole[..cut]).is_err(), "{cut}");
        }
        for wrong in [
            &b"HTTP/1.1 200 OK\r\n\r\n{}"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{}",
            b"\x16\x03\x01\r\n\r\n",
        ] {
            assert!(received(wrong).is_err());
        }
        let endless = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'x'; 100_000]].concat();
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        std::thread::spawn(move || theirs.write_all(&endless));
        assert!(matches!(receive(&ours), Err(Error::Answer)));
    }

    #[test]
    fn names_that_no_secret_has_are_not_sent() {
        let mut runtime = Runtime::at(Path::new("/nowhere"));
        for name in ["", "a/b", "..", "a b", "a?b", "a\r\nb"] {
            let asked = runtime.secret(name, 0, Duration::ZERO);
            assert!(matches!(asked, Err(Error::Refused { .. })), "{name:?}");
        }
    }
}
