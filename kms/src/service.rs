//! One request from its bytes to its answer: who signed it, what it asks, what comes of it, and
//! the audit log's line, which is written before the answer goes out.
//!
//! Knows nothing of sockets, so that it can be tested without.

use crate::audit::AuditLog;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::identity::{Caller, Directory};
use crate::metrics::{self, Metrics, RequestOutcome};
use crate::operations::{Call, Note};
use crate::policy::{Policy, PrincipalKind};
use crate::quota::QuotaBook;
use crate::recipient::Rules;
use crate::refusal::Refusal;
use crate::request::{Request, RequestError, operation_name};
use crate::store::Store;
use anchorhold_kms_wire::shapes::{self, ErrorBody};
use anchorhold_kms_wire::sigv4::{DEFAULT_MAX_SKEW, Expected, Presented};
use http::{Method, StatusCode, request::Parts};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;
use zeroize::Zeroizing;

/// What all requests share.
pub(crate) struct Core {
    pub(crate) region: String,
    pub(crate) store: Store,
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
    outcome: Result<(Arc<Caller>, Request), Refusal>,
}

impl Prepared {
    /// See [`Request::is_slow`].
    pub(crate) fn is_slow(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|(_, r)| r.is_slow())
    }
}

/// What the audit log says of a request, as it comes to light.
struct Event {
    request_id: Uuid,
    time: SystemTime,
    origin: Origin,
    operation: Option<String>,
    user_agent: Option<String>,
    presented_key: Option<String>,
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
            operation: None,
            user_agent: header(parts, "user-agent").map(|text| text.chars().take(256).collect()),
            presented_key: None,
            caller: None,
            parameters: Value::Null,
            note: Note::default(),
        };
        let outcome = self.read(parts, body, &mut event);
        Prepared { event, outcome }
    }

    /// Does what is asked, writes the audit log, and answers. `began` is when the request was whole.
    pub(crate) fn conclude(&self, prepared: Prepared, began: Instant) -> Answer {
        let Prepared { mut event, outcome } = prepared;
        let outcome = outcome.and_then(|(caller, request)| {
            Call {
                core: self,
                caller: &caller,
                now: event.time,
                source: event.origin.address,
                is_tls: event.origin.is_tls,
                user_agent: event.user_agent.as_deref(),
                note: &mut event.note,
            }
            .answer(request)
        });
        if let Err(refusal) = &outcome
            && refusal.status.is_server_error()
        {
            tracing::error!(request = %event.request_id, reason = refusal.reason, "internal error");
        }
        let record = event.record(&self.region, outcome.as_ref().err());
        let written = self.audit.write(&record);
        self.audit_fails.store(written.is_err(), Ordering::Release);
        let outcome = match written {
            Ok(()) => outcome,
            Err(error) => {
                tracing::error!(request = %event.request_id, %error, "refused, as the audit log cannot be written");
                Err(Refusal::internal(error.to_string()))
            }
        };
        self.count(&event, outcome.as_ref().err(), began);
        match outcome {
            Ok(body) => Answer {
                status: StatusCode::OK,
                body,
                request_id: event.request_id,
                error: None,
            },
            Err(refusal) => Answer {
                status: refusal.status,
                body: shapes::encode(&ErrorBody {
                    kind: refusal.kind.to_owned(),
                    message: refusal.message,
                }),
                request_id: event.request_id,
                error: Some(refusal.kind),
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
    ) -> Result<(Arc<Caller>, Request), Refusal> {
        let target = header(parts, "x-amz-target").unwrap_or_default();
        event.operation = operation_name(target).map(str::to_owned);
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
        let expected = Expected {
            regions: &[&self.region],
            services: &["kms"],
            now: event.time,
            max_skew: DEFAULT_MAX_SKEW,
        };
        let caller = self.directory.authenticate(presented, body, &expected)?;
        event.caller = Some(Arc::clone(&caller));
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
        Ok((caller, request))
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

impl Event {
    /// In the shape of CloudTrail's records; `anchorhold` is ours.
    fn record(&self, region: &str, refusal: Option<&Refusal>) -> Value {
        let operation = self.operation.as_deref().unwrap_or("Unknown");
        let seconds = self
            .time
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_secs()).ok())
            .unwrap_or(0);
        let time = jiff::Timestamp::from_second(seconds).map(|t| t.to_string());
        let changes = ["Create", "Put"];
        let mut record = json!({
            "eventVersion": "1.11",
            "userIdentity": self.identity(),
            "eventTime": time.unwrap_or_default(),
            "eventSource": "kms.amazonaws.com",
            "eventName": operation,
            "awsRegion": region,
            "sourceIPAddress": self.origin.address.to_canonical().to_string(),
            "userAgent": self.user_agent,
            "requestParameters": self.parameters,
            "responseElements": null,
            "requestID": self.request_id.to_string(),
            "eventID": Uuid::new_v4().to_string(),
            "readOnly": !changes.iter().any(|prefix| operation.starts_with(prefix)),
            "eventType": "AwsApiCall",
            "managementEvent": true,
            "eventCategory": "Management",
            "anchorhold": {},
        });
        if let Some(caller) = &self.caller {
            record["recipientAccountId"] = caller.principal.account().into();
        }
        if !self.note.resources.is_empty() {
            record["resources"] = self
                .note
                .resources
                .iter()
                .map(|(account, arn)| {
                    let kind = if arn.contains(":alias/") {
                        "AWS::KMS::Alias"
                    } else {
                        "AWS::KMS::Key"
                    };
                    json!({"accountId": account, "type": kind, "ARN": arn})
                })
                .collect();
        }
        if let Some(recipient) = &self.note.recipient {
            record["additionalEventData"] = json!({ "recipient": recipient });
        }
        match refusal {
            None => record["anchorhold"]["allowedBy"] = self.note.allowed_by.clone().into(),
            Some(refusal) => {
                record["errorCode"] = refusal.kind.into();
                record["errorMessage"] = refusal.message.clone().into();
                record["anchorhold"]["reason"] = refusal.reason.clone().into();
                if !refusal.trace.is_empty() {
                    record["anchorhold"]["trace"] = json!(refusal.trace);
                }
            }
        }
        record
    }

    fn identity(&self) -> Value {
        let Some(caller) = &self.caller else {
            // Whoever it was has not shown to be that principal.
            return json!({"type": "Unknown", "accessKeyId": self.presented_key});
        };
        let principal = &caller.principal;
        let mut identity = json!({
            "arn": principal.arn(),
            "accountId": principal.account(),
            "accessKeyId": caller.access_key_id,
        });
        match principal.kind() {
            PrincipalKind::Root => identity["type"] = "Root".into(),
            PrincipalKind::User => {
                identity["type"] = "IAMUser".into();
                identity["userName"] = principal.arn().rsplit('/').next().into();
            }
            PrincipalKind::Session { role } => {
                identity["type"] = "AssumedRole".into();
                identity["sessionContext"] = json!({"sessionIssuer": {
                    "type": "Role", "arn": role, "accountId": principal.account(),
                }});
            }
        }
        identity
    }
}
