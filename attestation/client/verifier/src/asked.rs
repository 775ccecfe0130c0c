//! Questions and answers in JSON.

use anchorhold_attestation::{Admitted, Time, UnknownKeys};
use anchorhold_channel::{Answer, AnswerError, EXPORTER_BYTES, Nonce, user_data};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::judge::{Refused, judge};
use crate::terms::{Terms, TermsError, bytes};

/// The longest question that is read.
pub const MAX_QUESTION_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Asked {
    Verify(Verify),
    Question(Question),
    Answer(Bytes),
    Channel(Channel),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    document: String,
    time: When,
    #[serde(default)]
    ignore_unknown_keys: bool,
    #[serde(default)]
    terms: Terms,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    nonce: String,
    host: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bytes {
    bytes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Channel {
    document: String,
    /// The nonce that was asked with.
    nonce: String,
    /// The certificate that the handshake has shown, DER.
    certificate: String,
    /// The channel's exporter value.
    exporter: String,
    now_ms: u64,
    clock_error_ms: u64,
    #[serde(default)]
    terms: Terms,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum When {
    Document,
    At(u64),
    #[serde(untagged)]
    Now(Now),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "callers write these names")]
struct Now {
    now_ms: u64,
    max_age_ms: u64,
    max_skew_ms: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answered {
    Admitted(Box<Admitted>),
    Refused(Refused),
    Question(String),
    Document {
        document: String,
        /// Bytes of the answer; what follows is another's.
        used: usize,
    },
    /// At least so many bytes are missing.
    More(usize),
    Error(String),
}

/// Answers a question. It never panics, and takes no more memory than the question's length allows.
pub fn ask(question: &[u8]) -> Vec<u8> {
    let answered = if question.len() > MAX_QUESTION_BYTES {
        Answered::Error(format!(
            "a question has {MAX_QUESTION_BYTES} bytes at most, and this one {}",
            question.len()
        ))
    } else {
        match serde_json::from_slice(question)
            .map_err(TermsError::from)
            .and_then(answered)
        {
            Ok(answered) => answered,
            Err(error) => Answered::Error(error.to_string()),
        }
    };
    serde_json::to_vec(&answered).unwrap_or_default()
}

fn answered(asked: Asked) -> Result<Answered, TermsError> {
    match asked {
        Asked::Verify(asked) => verify(&asked),
        Asked::Question(asked) => question(&asked),
        Asked::Answer(asked) => Ok(answer(&bytes("bytes", &asked.bytes)?)),
        Asked::Channel(asked) => channel(&asked),
    }
}

fn verify(asked: &Verify) -> Result<Answered, TermsError> {
    let time = match asked.time {
        When::Document => Time::Document,
        When::At(at_ms) => Time::At(at_ms),
        When::Now(Now {
            now_ms,
            max_age_ms,
            max_skew_ms,
        }) => Time::Now {
            now_ms,
            max_age_ms,
            max_skew_ms,
        },
    };
    let unknown = if asked.ignore_unknown_keys {
        UnknownKeys::Ignore
    } else {
        UnknownKeys::Refuse
    };
    Ok(judged(judge(
        &bytes("document", &asked.document)?,
        unknown,
        asked.terms.anchors()?,
        time,
        &asked.terms.expectations()?,
    )))
}

fn question(asked: &Question) -> Result<Answered, TermsError> {
    let nonce = match Nonce::from_bytes(bytes("nonce", &asked.nonce)?) {
        Ok(nonce) => nonce,
        Err(error) => return Ok(Answered::Error(error.to_string())),
    };
    Ok(match anchorhold_channel::question(&nonce, &asked.host) {
        Some(question) => Answered::Question(hex::encode(question)),
        None => Answered::Error(format!("{:?} is no name of a host or address", asked.host)),
    })
}

fn answer(bytes: &[u8]) -> Answered {
    let mut answer = Answer::default();
    match answer.take_of(bytes) {
        Ok((used, true)) => Answered::Document {
            document: hex::encode(answer.document()),
            used,
        },
        Ok((_, false)) => Answered::More(answer.wanted()),
        Err(error) => {
            let name = match error {
                AnswerError::Status { .. } => "status",
                _ => "answer",
            };
            Answered::Refused(Refused::new("answer", name, error))
        }
    }
}

/// All that a document must be to be believed of a channel, as the Rust library expects it.
fn channel(asked: &Channel) -> Result<Answered, TermsError> {
    let certificate = CertificateDer::from(bytes("certificate", &asked.certificate)?);
    let Ok(exporter) = <[u8; EXPORTER_BYTES]>::try_from(bytes("exporter", &asked.exporter)?) else {
        return Ok(Answered::Error(format!(
            "an exporter value has {EXPORTER_BYTES} bytes"
        )));
    };
    let nonce = match Nonce::from_bytes(bytes("nonce", &asked.nonce)?) {
        Ok(nonce) => nonce,
        Err(error) => return Ok(Answered::Error(error.to_string())),
    };
    let Ok(shown) = webpki::EndEntityCert::try_from(&certificate) else {
        return Ok(Answered::Refused(Refused::new(
            "answer",
            "certificate",
            "the handshake's certificate cannot be read",
        )));
    };
    let expectations = asked
        .terms
        .expectations()?
        .nonce(nonce.as_bytes())
        .public_key(&shown.subject_public_key_info())
        .user_data(&user_data(&exporter));
    let time = Time::Now {
        now_ms: asked.now_ms,
        max_age_ms: asked.clock_error_ms,
        max_skew_ms: asked.clock_error_ms,
    };
    Ok(judged(judge(
        &bytes("document", &asked.document)?,
        UnknownKeys::Refuse,
        asked.terms.anchors()?,
        time,
        &expectations,
    )))
}

fn judged(judgement: Result<Admitted, Refused>) -> Answered {
    match judgement {
        Ok(admitted) => Answered::Admitted(Box::new(admitted)),
        Err(refused) => Answered::Refused(refused),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
