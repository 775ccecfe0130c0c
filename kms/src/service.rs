//! One request from its bytes to its answer: who signed it, what it asks, what comes of it, and
//! the audit log's line, which is written before the answer goes out.
//!
//! Knows nothing of sockets, so that it can be tested without.

use crate::audit::AuditLog;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::identity::{Caller, Directory};
use crate::key_stores::KeyStores;
use crate::metrics::{self, Metrics, RequestOutcome};
use crate::operations::{Call, Note};
use crate::policy::Policy;
use crate::quota::QuotaBook;
use crate::recipient::Rules;
use crate::refusal::Refusal;
use crate::request::{Request, RequestError, operation_name};
use crate::store::Store;
use crate::sts;
use anchorhold_kms_wire::shapes::{self, ErrorBody};
use anchorhold_kms_wire::sigv4::{DEFAULT_MAX_SKEW, Expected, Presented};
use http::{Method, StatusCode, request::Parts};
use serde_json::Value;
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};
use uuid::Uuid;
use zeroize::Zeroizing;

mod record;

/// What all requests share.
pub(crate) struct Core {
    /// The Regions that the service plays; the first is its own.
    pub(crate) regions: Vec<String>,
    pub(crate) store: Store,
    pub(crate) key_stores: KeyStores,
    pub(crate) rules: Rules,
    pub(crate) directory: Directory,
    pub(crate) audit: AuditLog,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) quotas: QuotaBook,
    /// Key policies that were parsed, by their text.
    pub(crate) policies: Cache<String, Arc<Policy>>,
    pub(crate) metrics: Metrics,
    /// Whether the last line of the audit log could not be written.
    pub(crate) audit_fails: AtomicBool,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) address: IpAddr,
    pub(crate) is_tls: bool,
}

/// What goes back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Zeroizing<Vec<u8>>,
    pub(crate) request_id: Uuid,
    /// The error's name.
    pub(crate) error: Option<&'static str>,
    pub(crate) content_type: &'static str,
}

/// What an authentic request asks for.
enum Asked {
    Kms(Request),
    /// STS, which has one action here.
    Identity,
}

/// Why there is no body to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLong,
    TooSlow,
    Broken,
}

/// A request that is authentic and has a shape, or its refusal; to be answered by
/// [`Core::conclude`].
pub(crate) struct Prepared {
    event: Event,
    outcome: Result<(Arc<Caller>, Asked), Refusal>,
}

impl Prepared {
    /// See [`Request::is_slow`].
    pub(crate) fn is_slow(&self) -> bool {
        matches!(&self.outcome, Ok((_, Asked::Kms(request))) if request.is_slow())
    }
}

/// What the audit log says of a request, as it comes to light.
struct Event {
    request_id: Uuid,
    time: SystemTime,
    origin: Origin,
    is_sts: bool,
    operation: Option<String>,
    user_agent: Option<String>,
    presented_key: Option<String>,
    /// The Region that the request was signed for, once that is known to be one of ours.
    region: String,
    caller: Option<Arc<Caller>>,
    parameters: Value,
    note: Note,
}

impl Core {
    /// Finds out who asks and what.
    pub(crate) fn prepare(
        &self,
        parts: &Parts,
        body: Result<&[u8], Unread>,
        origin: Origin,
    ) -> Prepared {
        let mut event = Event {
            request_id: Uuid::new_v4(),
            time: self.clock.now(),
            origin,
            is_sts: false,
            operation: None,
            user_agent: header(parts, "user-agent").map(|text| {
                match text.char_indices().nth(256) {
                    None => text.to_owned(),
                    Some((at, _)) => text[..at].to_owned(),
                }
            }),
            presented_key: None,
            region: self.regions[0].clone(),
            caller: None,
            parameters: Value::Null,
            note: Note::default(),
        };
        let outcome = self.read(parts, body, &mut event);
        Prepared { event, outcome }
    }

    /// Does what is asked, writes the audit log, and answers, on a thread that may wait. `began` is when the
    /// request was whole.
    pub(crate) fn conclude(&self, prepared: Prepared, began: Instant) -> Answer {
        let Prepared { mut event, outcome } = prepared;
        let outcome = outcome.and_then(|(caller, asked)| {
            // It waits for whatever it needs, and so there is always an outcome.
            self.attempt(&mut event, &caller, &asked, true)
                .unwrap_or_else(|| Err(Refusal::internal("the request was not brought to its end")))
        });
        self.close(&event, outcome, began)
    }

    /// The same on a thread that may not wait; gives the request back where that turns out to be needed.
    pub(crate) fn conclude_at_once(
        &self,
        prepared: Prepared,
        began: Instant,
    ) -> Result<Answer, Box<Prepared>> {
        let Prepared { mut event, outcome } = prepared;
        let outcome = match outcome {
            Err(refusal) => Err(refusal),
            Ok((caller, asked)) => match self.attempt(&mut event, &caller, &asked, false) {
                Some(outcome) => outcome,
                None => {
                    event.note = Note::default();
                    let outcome = Ok((caller, asked));
                    return Err(Box::new(Prepared { event, outcome }));
                }
            },
        };
        Ok(self.close(&event, outcome, began))
    }

    /// Does what is asked. `None` where that means waiting, and `may_wait` forbids it; then nothing was done.
    fn attempt(
        &self,
        event: &mut Event,
        caller: &Caller,
        asked: &Asked,
        may_wait: bool,
    ) -> Option<Result<Zeroizing<Vec<u8>>, Refusal>> {
        let request = match asked {
            Asked::Kms(request) => request,
            Asked::Identity => {
                return Some(Ok(sts::answer(&caller.principal, event.request_id)));
            }
        };
        let mut call = Call {
            core: self,
            caller,
            region: &event.region,
            now: event.time,
            source: event.origin.address,
            is_tls: event.origin.is_tls,
            user_agent: event.user_agent.as_deref(),
            note: &mut event.note,
            may_wait,
            must_wait: Cell::new(false),
        };
        let outcome = request.answer(&mut call);
        (!call.must_wait.get()).then_some(outcome)
    }

    /// Writes the audit log, and answers.
    fn close(
        &self,
        event: &Event,
        outcome: Result<Zeroizing<Vec<u8>>, Refusal>,
        began: Instant,
    ) -> Answer {
        let is_sts = event.is_sts;
        if let Err(refusal) = &outcome
            && refusal.status.is_server_error()
        {
            tracing::error!(request = %event.request_id, reason = refusal.reason, "internal error");
        }
        let written = self.audit.write(event.line(outcome.as_ref().err()));
        self.audit_fails.store(written.is_err(), Ordering::Release);
        let outcome = match written {
            Ok(()) => outcome,
            Err(error) => {
                tracing::error!(request = %event.request_id, %error, "refused, as the audit log cannot be written");
                Err(Refusal::internal(error.to_string()))
            }
        };
        self.count(event, outcome.as_ref().err(), began);
        let content_type = if is_sts {
            sts::CONTENT_TYPE
        } else {
            shapes::CONTENT_TYPE
        };
        match outcome {
            Ok(body) => Answer {
                status: StatusCode::OK,
                body,
                request_id: event.request_id,
                error: None,
                content_type,
            },
            Err(refusal) if is_sts => {
                let (body, status) = sts::error(&refusal, event.request_id);
                Answer {
                    status,
                    body,
                    request_id: event.request_id,
                    error: None,
                    content_type,
                }
            }
            Err(refusal) => Answer {
                status: refusal.status,
                body: shapes::encode(&ErrorBody {
                    kind: refusal.kind.to_owned(),
                    message: refusal.message,
                }),
                request_id: event.request_id,
                error: Some(refusal.kind),
                content_type,
            },
        }
    }

    fn count(&self, event: &Event, refusal: Option<&Refusal>, began: Instant) {
        let metrics = &self.metrics;
        let of_document =
            refusal.is_some_and(|r| r.reason.starts_with("attestation document refused"));
        if of_document || event.note.recipient.is_some() {
            metrics.document(!of_document);
        }
        let outcome = match refusal {
            None => RequestOutcome::Answered,
            Some(refusal) => {
                metrics.refusal(refusal.kind, of_document);
                if refusal.status.is_server_error() {
                    RequestOutcome::Failed
                } else {
                    RequestOutcome::Refused
                }
            }
        };
        let operation = event.operation.as_deref().unwrap_or_default();
        metrics.request(operation, outcome, began.elapsed());
    }

    fn read(
        &self,
        parts: &Parts,
        body: Result<&[u8], Unread>,
        event: &mut Event,
    ) -> Result<(Arc<Caller>, Asked), Refusal> {
        let target = header(parts, "x-amz-target").unwrap_or_default();
        event.operation = operation_name(target).map(str::to_owned);
        event.is_sts = !parts.headers.contains_key("x-amz-target")
            && sts::is_form(header(parts, "content-type"));
        if parts.method != Method::POST || parts.uri.path() != "/" {
            return Err(Refusal::new(
                "UnknownOperationException",
                "Requests must be POST requests for the path /.",
            )
            .with_status(StatusCode::NOT_FOUND));
        }
        let body = body.map_err(|unread| match unread {
            Unread::TooLong => Refusal::new(
                "RequestEntityTooLargeException",
                "The request's body is too long.",
            )
            .with_status(StatusCode::PAYLOAD_TOO_LARGE),
            Unread::TooSlow => Refusal::new(
                "RequestTimeoutException",
                "The request's body did not arrive in time.",
            )
            .with_status(StatusCode::REQUEST_TIMEOUT),
            Unread::Broken => Refusal::new(
                "SerializationException",
                "The request's body could not be read.",
            ),
        })?;
        let presented = Presented::parse(parts)?;
        event.presented_key = Some(presented.access_key_id().to_owned());
        // The scope names the Region. One that is not played here is refused below.
        if let Some(region) = self.regions.iter().find(|r| *r == presented.region()) {
            event.region.clone_from(region);
        }
        let regions: Vec<&str> = self.regions.iter().map(String::as_str).collect();
        let expected = Expected {
            regions: &regions,
            services: &[if event.is_sts { sts::SERVICE } else { "kms" }],
            now: event.time,
            max_skew: DEFAULT_MAX_SKEW,
        };
        let caller = self.directory.authenticate(presented, body, &expected)?;
        event.caller = Some(Arc::clone(&caller));
        if event.is_sts {
            sts::check(body)?;
            event.operation = Some(sts::OPERATION.to_owned());
            return Ok((caller, Asked::Identity));
        }
        let request = Request::parse(target, body).map_err(|error| match error {
            RequestError::Target => Refusal::new("UnknownOperationException", error.to_string()),
            RequestError::Operation(_) => Refusal::unsupported(error.to_string()),
            RequestError::Malformed(_) => {
                Refusal::new("SerializationException", error.to_string())
            }
            RequestError::Missing(member) => Refusal::validation(format!(
                "1 validation error detected: Value null at '{}' failed to satisfy constraint: Member must not be null",
                lower_camel(member)
            )),
            RequestError::Member { .. } => Refusal::validation(error.to_string()),
        })?;
        event.parameters = request.audited();
        let operation = metrics::known(event.operation.as_deref().unwrap_or_default());
        let algorithm = [
            "encryptionAlgorithm",
            "signingAlgorithm",
            "keyAgreementAlgorithm",
            "keyPairSpec",
        ]
        .into_iter()
        .find_map(|name| event.parameters[name].as_str());
        let account = caller.principal.account();
        if !self.quotas.take(account, operation, algorithm, event.time) {
            return Err(Refusal::new(
                "ThrottlingException",
                "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
            )
            .because(format!("the quota of account {account} for {operation} is used up")));
        }
        Ok((caller, Asked::Kms(request)))
    }
}

/// A header that comes once and is plain text.
fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    let mut values = parts.headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn lower_camel(name: &str) -> String {
    let mut chars = name.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
