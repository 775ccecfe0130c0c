//! What the audit log keeps of one request, in the shape of CloudTrail's records; `anchorhold` is ours.
//!
//! It is written straight into its line: a tree of values would cost more than the request itself.

use super::Event;
use crate::policy::{PrincipalKind, StatementTrace};
use crate::refusal::Refusal;
use crate::request::is_read_only;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use std::time::UNIX_EPOCH;
use uuid::Uuid;

/// What a line is about as long as.
const USUAL_BYTES: usize = 1536;

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_version: &'static str,
    user_identity: UserIdentity<'a>,
    event_time: String,
    event_source: &'static str,
    event_name: &'a str,
    aws_region: &'a str,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: std::net::IpAddr,
    user_agent: Option<&'a str>,
    request_parameters: &'a Value,
    response_elements: (),
    #[serde(rename = "requestID")]
    request_id: Uuid,
    #[serde(rename = "eventID")]
    event_id: Uuid,
    read_only: bool,
    event_type: &'static str,
    management_event: bool,
    event_category: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Resources::is_empty")]
    resources: Resources<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_event_data: Option<Additional<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    anchorhold: Own<'a>,
}

#[derive(serde::Serialize)]
struct Additional<'a> {
    recipient: &'a Value,
}

/// Why it was allowed or refused.
enum Own<'a> {
    Allowed(Option<&'a str>),
    Refused {
        reason: &'a str,
        trace: &'a [StatementTrace],
    },
}

impl Serialize for Own<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Allowed(by) => map.serialize_entry("allowedBy", by)?,
            Self::Refused { reason, trace } => {
                map.serialize_entry("reason", reason)?;
                if !trace.is_empty() {
                    map.serialize_entry("trace", trace)?;
                }
            }
        }
        map.end()
    }
}

/// Who asked.
struct UserIdentity<'a>(&'a Event);

impl Serialize for UserIdentity<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let Some(caller) = &self.0.caller else {
            // Whoever it was has not shown to be that principal.
            map.serialize_entry("type", "Unknown")?;
            map.serialize_entry("accessKeyId", &self.0.presented_key)?;
            return map.end();
        };
        let principal = &caller.principal;
        map.serialize_entry("arn", principal.arn())?;
        map.serialize_entry("accountId", principal.account())?;
        map.serialize_entry("accessKeyId", &caller.access_key_id)?;
        match principal.kind() {
            PrincipalKind::Root => map.serialize_entry("type", "Root")?,
            PrincipalKind::User => {
                map.serialize_entry("type", "IAMUser")?;
                map.serialize_entry("userName", &principal.arn().rsplit('/').next())?;
            }
            PrincipalKind::Session { role } => {
                let issuer = Issuer {
                    kind: "Role",
                    arn: role,
                    account_id: principal.account(),
                };
                map.serialize_entry("type", "AssumedRole")?;
                map.serialize_entry(
                    "sessionContext",
                    &SessionContext {
                        session_issuer: issuer,
                    },
                )?;
            }
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionContext<'a> {
    session_issuer: Issuer<'a>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Issuer<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    arn: &'a str,
    account_id: &'a str,
}

/// What was touched or asked for.
struct Resources<'a>(&'a [(String, String)]);

impl Resources<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    account_id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "ARN")]
    arn: &'a str,
}

impl Serialize for Resources<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (account_id, arn) in self.0 {
            list.serialize_element(&Resource {
                account_id,
                kind: if arn.contains(":alias/") {
                    "AWS::KMS::Alias"
                } else {
                    "AWS::KMS::Key"
                },
                arn,
            })?;
        }
        list.end()
    }
}

impl Event {
    /// The line, without its place in the chain.
    pub(super) fn line(&self, refusal: Option<&Refusal>) -> Vec<u8> {
        let operation = self.operation.as_deref().unwrap_or("Unknown");
        let seconds = self
            .time
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_secs()).ok())
            .unwrap_or(0);
        let time = jiff::Timestamp::from_second(seconds).map(|t| t.to_string());
        let record = Record {
            event_version: "1.11",
            user_identity: UserIdentity(self),
            event_time: time.unwrap_or_default(),
            event_source: if self.is_sts {
                "sts.amazonaws.com"
            } else {
                "kms.amazonaws.com"
            },
            event_name: operation,
            aws_region: &self.region,
            source_ip_address: self.origin.address.to_canonical(),
            user_agent: self.user_agent.as_deref(),
            request_parameters: &self.parameters,
            response_elements: (),
            request_id: self.request_id,
            event_id: Uuid::new_v4(),
            read_only: is_read_only(operation),
            event_type: "AwsApiCall",
            management_event: true,
            event_category: "Management",
            recipient_account_id: self.caller.as_ref().map(|c| c.principal.account()),
            resources: Resources(&self.note.resources),
            additional_event_data: self
                .note
                .recipient
                .as_ref()
                .map(|recipient| Additional { recipient }),
            error_code: refusal.map(|refusal| refusal.kind),
            error_message: refusal.map(|refusal| refusal.message.as_str()),
            anchorhold: match refusal {
                None => Own::Allowed(self.note.allowed_by.as_deref()),
                Some(refusal) => Own::Refused {
                    reason: &refusal.reason,
                    trace: &refusal.trace,
                },
            },
        };
        let mut line = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut line, &record).expect("texts and numbers have a JSON form");
        line
    }
}
