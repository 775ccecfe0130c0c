//! What the tests put in place of the world: an NSM, a key service and a parent, all in memory, and sealed messages.
#![allow(
    dead_code,
    reason = "each test program uses its part of what they share"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anchorhold_enclave::call::Terms;
use anchorhold_enclave::clock::{Clock, Sample};
use anchorhold_enclave::fields::FieldTerms;
use anchorhold_enclave::isolation::{self, Confinement};
use anchorhold_enclave::jobs::{Launcher, Stderr};
use anchorhold_enclave::keys::{KeyService, Keys, Recipient};
use anchorhold_enclave::nsm::{Claims, Description, Nsm, NsmError};
use anchorhold_enclave::reaper::{Orphans, Reaper};
use anchorhold_enclave::secrets::Wanted;
use anchorhold_enclave::stream::Parent;
use anchorhold_envelope::fields::{
    FieldError, FieldOpener, FieldSealer, Fields, Opened, field_context,
};
use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Header, Limits, Opener, Parse, SealOptions,
    Sealer, SigningKey, Suite, new_message_id,
};
use anchorhold_kms_wire::client::ClientError;
use anchorhold_kms_wire::recipient;
use anchorhold_kms_wire::shapes::{
    Blob, DecryptRequest, DecryptResponse, GenerateDataKeyRequest, GenerateDataKeyResponse,
    SecretBlob,
};
use anchorhold_manifest::Delivery;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use zeroize::Zeroizing;

/// The key that messages of the tests are sealed under.
pub(crate) const KEY: &str = "alias/test";
pub(crate) const KEY_ARN: &str =
    "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000001";

/// Gives "documents" that are the claims themselves.
pub(crate) struct FakeNsm;

impl Nsm for FakeNsm {
    fn attest(&self, claims: Claims) -> Result<Vec<u8>, NsmError> {
        if claims
            .nonce
            .as_ref()
            .is_some_and(|nonce| nonce.len() > 1024)
        {
            return Err(NsmError::Refused {
                request: "Attestation",
                code: "InputTooLarge".to_owned(),
            });
        }
        Ok([
            claims.nonce.unwrap_or_default(),
            claims.user_data.unwrap_or_default(),
            claims.public_key.unwrap_or_default(),
        ]
        .concat())
    }

    fn describe(&self) -> Result<Description, NsmError> {
        Ok(Description {
            module_id: "i-0-enc0".to_owned(),
            version: (1, 0, 0),
        })
    }

    fn pcr(&self, _: u16) -> Result<Vec<u8>, NsmError> {
        Ok(vec![1; 48])
    }

    fn extend(&self, _: u16, data: Vec<u8>) -> Result<Vec<u8>, NsmError> {
        Ok(data)
    }

    fn random(&self) -> Result<Zeroizing<Vec<u8>>, NsmError> {
        Ok(Zeroizing::new(vec![7; 256]))
    }
}

/// How the key service misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Honest,
    /// Ignores Recipient, as several emulators do.
    AnswersPlaintext,
    /// Answers with a plaintext beside the envelope.
    AnswersBoth,
    AnswersNothing,
    /// Encrypts to somebody else.
    WrongRecipient,
    /// Hands out keys of another size.
    ShortKeys,
    Denies,
}

type Sealed = (Vec<u8>, EncryptionContext);

/// Keeps data keys by a number that stands for their ciphertext.
pub(crate) struct FakeKeyService {
    pub(crate) mood: Mood,
    kept: Arc<Mutex<HashMap<Vec<u8>, Sealed>>>,
}

impl FakeKeyService {
    pub(crate) fn new(mood: Mood) -> FakeKeyService {
        FakeKeyService {
            mood,
            kept: Arc::default(),
        }
    }

    /// The same keys, seen by the owner.
    pub(crate) fn owner(&self) -> Owner {
        Owner {
            kept: Arc::clone(&self.kept),
        }
    }

    fn refuse(kind: &str) -> ClientError {
        ClientError::Service {
            status: 400,
            kind: kind.to_owned(),
            message: "no".to_owned(),
            request_id: None,
        }
    }

    fn answer(
        &self,
        key: Vec<u8>,
        recipient: Option<&anchorhold_kms_wire::shapes::RecipientInfo>,
    ) -> (Option<SecretBlob>, Option<Blob>) {
        let document = recipient
            .and_then(|recipient| recipient.attestation_document.as_ref())
            .expect("every request of the enclave has a document");
        let key = if self.mood == Mood::ShortKeys {
            key[..16].to_vec()
        } else {
            key
        };
        let plaintext = || Some(SecretBlob::new(Zeroizing::new(key.clone())));
        let envelope = || {
            let spki = if self.mood == Mood::WrongRecipient {
                let other = recipient::RecipientKey::generate().expect("randomness");
                other.public_key_der().to_vec()
            } else {
                document.0.clone()
            };
            Some(Blob(recipient::seal(&spki, &key).expect("a public key")))
        };
        match self.mood {
            Mood::AnswersPlaintext => (plaintext(), None),
            Mood::AnswersBoth => (plaintext(), envelope()),
            Mood::AnswersNothing => (None, None),
            _ => (None, envelope()),
        }
    }
}

impl KeyService for FakeKeyService {
    async fn decrypt(&self, request: &DecryptRequest) -> Result<DecryptResponse, ClientError> {
        assert_eq!(
            request.key_id.as_deref(),
            Some(KEY),
            "every Decrypt names the manifest's key"
        );
        if self.mood == Mood::Denies {
            return Err(Self::refuse("AccessDeniedException"));
        }
        let ciphertext = request.ciphertext_blob.as_ref().expect("a ciphertext");
        let kept = self
            .kept
            .lock()
            .expect("no panics")
            .get(&ciphertext.0)
            .cloned();
        match kept {
            Some((key, context)) if context == request.encryption_context => {
                let (plaintext, ciphertext_for_recipient) =
                    self.answer(key, request.recipient.as_ref());
                Ok(DecryptResponse {
                    key_id: KEY_ARN.to_owned(),
                    plaintext,
                    ciphertext_for_recipient,
                    ..DecryptResponse::default()
                })
            }
            _ => Err(Self::refuse("InvalidCiphertextException")),
        }
    }

    async fn generate_data_key(
        &self,
        request: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, ClientError> {
        assert_eq!(request.key_id, KEY);
        let (key, encrypted) = self.owner().data_key(&request.encryption_context);
        let (plaintext, ciphertext_for_recipient) = self.answer(key, request.recipient.as_ref());
        Ok(GenerateDataKeyResponse {
            ciphertext_blob: Blob(encrypted.ciphertext),
            plaintext,
            key_id: KEY_ARN.to_owned(),
            ciphertext_for_recipient,
            key_material_id: None,
        })
    }
}

/// Seals inputs and opens results.
#[derive(Clone)]
pub(crate) struct Owner {
    kept: Arc<Mutex<HashMap<Vec<u8>, Sealed>>>,
}

impl Owner {
    fn data_key(&self, context: &EncryptionContext) -> (Vec<u8>, EncryptedDataKey) {
        let key = new_message_id().expect("randomness").to_vec();
        let ciphertext = new_message_id().expect("randomness").to_vec();
        self.kept
            .lock()
            .expect("no panics")
            .insert(ciphertext.clone(), (key.clone(), context.clone()));
        let encrypted = EncryptedDataKey {
            provider_id: "aws-kms".to_owned(),
            key_info: KEY_ARN.to_owned(),
            ciphertext,
        };
        (key, encrypted)
    }

    pub(crate) fn seal(&self, plaintext: &[u8], context: EncryptionContext) -> Vec<u8> {
        self.seal_as(Suite::CommitKey, plaintext, context, |_| {})
    }

    pub(crate) fn seal_as(
        &self,
        suite: Suite,
        plaintext: &[u8],
        mut context: EncryptionContext,
        change: impl FnOnce(&mut Vec<EncryptedDataKey>),
    ) -> Vec<u8> {
        let signing_key = suite
            .is_signed()
            .then(|| SigningKey::generate().expect("randomness"));
        if let Some(signing_key) = &signing_key {
            context.extend([signing_key.context_entry().expect("a public key")]);
        }
        let (key, encrypted) = self.data_key(&context);
        let mut encrypted = vec![encrypted];
        change(&mut encrypted);
        let options = SealOptions {
            suite,
            frame_length: 4096,
            context,
            data_keys: encrypted,
        };
        let key = DataKey::from_vec(Zeroizing::new(key)).expect("32 bytes");
        let id = new_message_id().expect("randomness");
        let (mut sealer, mut message) = match signing_key {
            Some(signing_key) => Sealer::signed(options, signing_key, key, id),
            None => Sealer::new(options, key, id),
        }
        .expect("a valid message");
        sealer.update(plaintext, &mut message).expect("few frames");
        sealer.finish(&mut message).expect("few frames");
        message
    }

    /// Seals fields of lines.
    pub(crate) fn field_sealer(
        &self,
        names: &[&str],
        row: Option<&str>,
        purpose: &str,
    ) -> FieldSealer {
        let context = field_context([("purpose".to_owned(), purpose.to_owned())].into());
        let (key, encrypted) = self.data_key(&context);
        let key = DataKey::from_vec(Zeroizing::new(key)).expect("32 bytes");
        let id = new_message_id().expect("randomness");
        FieldSealer::new(fields(names, row), &context, &[encrypted], key, id).expect("a sealer")
    }

    pub(crate) fn open_line(
        &self,
        opener: &mut FieldOpener,
        line: &str,
    ) -> Result<String, FieldError> {
        let mut out = Vec::new();
        loop {
            match opener.line(line, &mut out)? {
                Opened::Line(_) => return Ok(String::from_utf8(out).expect("text")),
                Opened::Needs(header) => {
                    let kept = self.kept.lock().expect("no panics");
                    let (key, context) = &kept[&header.data_keys()[0].ciphertext];
                    assert_eq!(
                        context,
                        header.context(),
                        "the key service binds the context"
                    );
                    let key = DataKey::from_vec(Zeroizing::new(key.clone())).expect("32 bytes");
                    opener.admit(&header, key)?;
                }
            }
        }
    }

    /// Opens a message as far as it goes.
    pub(crate) fn open(
        &self,
        message: &[u8],
    ) -> Result<(Header, Vec<u8>), anchorhold_envelope::Error> {
        let Parse::Complete { header, consumed } = Header::parse(message, &Limits::default())?
        else {
            return Err(anchorhold_envelope::Error::Truncated { missing: "header" });
        };
        let (key, context) =
            self.kept.lock().expect("no panics")[&header.data_keys()[0].ciphertext].clone();
        assert_eq!(
            &context,
            header.context(),
            "the key service binds the context"
        );
        let mut opener = Opener::new(
            (*header).clone(),
            DataKey::from_vec(Zeroizing::new(key)).expect("32 bytes"),
        )?;
        let mut plaintext = Vec::new();
        opener.update(&message[consumed..], &mut plaintext)?;
        opener.finish()?;
        Ok((*header, plaintext))
    }
}

/// Opens fields of lines.
pub(crate) fn field_opener(names: &[&str], row: Option<&str>, purpose: &str) -> FieldOpener {
    let demanded = [("purpose".to_owned(), purpose.to_owned())].into();
    FieldOpener::new(fields(names, row), demanded)
}

fn fields(names: &[&str], row: Option<&str>) -> Fields {
    let fields = Fields::new(names).expect("names");
    match row {
        Some(row) => fields.in_rows_of(row).expect("a name"),
        None => fields,
    }
}

/// One RSA key for all tests of a program: making one takes its time.
pub(crate) static RECIPIENT: LazyLock<Recipient> = LazyLock::new(Recipient::generate);

/// An enclave without its init: everything that a call needs.
pub(crate) struct Bench {
    pub(crate) terms: Arc<Terms<FakeNsm, FakeKeyService>>,
    pub(crate) owner: Owner,
    pub(crate) scratch: tempfile::TempDir,
}

#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) mood: Mood,
    pub(crate) max_line_bytes: usize,
    pub(crate) timeout: Duration,
    pub(crate) fields: Option<FieldTerms>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            mood: Mood::Honest,
            max_line_bytes: 1 << 20,
            timeout: Duration::from_mins(2),
            fields: None,
        }
    }
}

/// A secret under the tests' key.
pub(crate) fn wanted(delivery: Delivery) -> Wanted {
    Wanted {
        key: KEY.to_owned(),
        delivery,
        refresh: None,
    }
}

/// A clock that begins now.
pub(crate) fn clock() -> Arc<Clock> {
    let now = std::time::Instant::now();
    Arc::new(Clock::new(&Sample {
        unix_ms: 1_800_000_000_000,
        before: now,
        after: now,
    }))
}

/// This program where a job may execute it: jobs execute nothing below /tmp and /run, so that there it is copied.
pub(crate) struct Program {
    path: PathBuf,
    _copy: Option<tempfile::TempDir>,
}

impl Program {
    pub(crate) fn of_this_test() -> Program {
        let own = std::env::current_exe().expect("this program has a path");
        if !own.starts_with("/tmp") && !own.starts_with("/run") {
            return Program {
                path: own,
                _copy: None,
            };
        }
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder in /var/tmp");
        let copy = folder.path().join("test");
        // By another process: one that is forked here meanwhile would hold it open for writing.
        let status = std::process::Command::new("cp")
            .arg(&own)
            .arg(&copy)
            .status();
        assert!(status.expect("cp runs").success(), "this program is copied");
        for path in [folder.path(), &copy] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, mode).expect("modes can be set");
        }
        Program {
            path: copy,
            _copy: Some(folder),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs one test of this program.
    pub(crate) fn command(&self, test: &str) -> Vec<String> {
        let path = self.path.to_str().expect("a path of text");
        words(&[path, "--exact", test, "--nocapture"])
    }
}

pub(crate) fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|&word| word.to_owned()).collect()
}

/// A folder that any uid may write to.
pub(crate) fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777))
        .expect("our own folder");
    folder
}

pub(crate) fn isolation_terms(command: Vec<String>, scratch: &Path) -> isolation::Terms {
    isolation::Terms {
        command,
        environment: [("COLOUR".to_owned(), "green".to_owned())].into(),
        scratch: scratch.to_owned(),
        secrets: PathBuf::from("/nowhere"),
        sockets: None,
        port: None,
        api: None,
        max_file_bytes: 1 << 20,
        folder: PathBuf::from("/"),
        user: (isolation::JOB_ID, isolation::JOB_ID),
    }
}

pub(crate) fn launcher(command: Vec<String>, scratch: &Path, stderr: Stderr) -> Arc<Launcher> {
    let confinement =
        Confinement::prepare(&isolation_terms(command, scratch)).expect("walls can be put up");
    let reaper = Reaper::start(Orphans::Leave).expect("signals work");
    Arc::new(Launcher::new(
        confinement,
        reaper,
        stderr,
        Some(scratch.to_owned()),
    ))
}

pub(crate) fn bench(command: &[&str], shape: Shape) -> Bench {
    let scratch = scratch();
    let service = FakeKeyService::new(shape.mood);
    let owner = service.owner();
    let keys = Keys::new(
        Arc::new(FakeNsm),
        service,
        RECIPIENT.clone(),
        KEY.to_owned(),
    );
    let terms = Arc::new(Terms {
        keys: Arc::new(keys),
        launcher: launcher(words(command), scratch.path(), Stderr::Forward),
        max_line_bytes: shape.max_line_bytes,
        fields: shape.fields,
        timeout: shape.timeout,
    });
    Bench {
        terms,
        owner,
        scratch,
    }
}

pub(crate) fn context() -> EncryptionContext {
    [("purpose".to_owned(), "test".to_owned())].into()
}

/// A body in pieces, which may end in an error.
pub(crate) fn body(
    pieces: Vec<Result<Bytes, io::Error>>,
) -> impl Body<Data = Bytes, Error = io::Error> + Send + Unpin + 'static {
    let frames = pieces.into_iter().map(|piece| piece.map(Frame::data));
    http_body_util::StreamBody::new(futures_util::stream::iter(frames))
}

pub(crate) fn in_pieces(message: &[u8], size: usize) -> Vec<Result<Bytes, io::Error>> {
    message
        .chunks(size)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect()
}

/// All of a body, or what came before it was cut off.
pub(crate) async fn collect<B>(mut body: B) -> (Vec<u8>, Result<(), B::Error>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) => return (bytes, Err(error)),
        }
    }
    (bytes, Ok(()))
}

/// A parent whose window is a function.
pub(crate) struct FakeParent<F>(pub(crate) F);

impl<F, B> Parent for FakeParent<F>
where
    F: Fn(&str) -> (u16, B) + Clone + Send + Sync + 'static,
    B: Into<Bytes> + Send + 'static,
{
    type Stream = tokio::io::DuplexStream;

    async fn dial(&self, port: u32) -> io::Result<Self::Stream> {
        assert_eq!(port, 8000, "the window's port");
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let answer = self.0.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
                let _: &hyper::Request<hyper::body::Incoming> = &request;
                let (status, body) = answer(&format!("{} {}", request.method(), request.uri()));
                async move {
                    let body = http_body_util::Full::<Bytes>::new(body.into());
                    let mut response = hyper::Response::new(body);
                    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
                    Ok::<_, Infallible>(response)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(theirs), service)
                .await;
        });
        Ok(ours)
    }
}
