//! What would be decided, and why: the service's own engine on policies, a document and a request
//! that somebody supposes. Touches no key, no store and no network.
//!
//! The answer is for the key's owner: it holds what the service never tells its callers.

use crate::cache::Cache;
use crate::circumstances::Circumstances;
use crate::identity::Caller;
use crate::policy::{
    Context, Decision, Grant, GrantConstraints, Permissions, Policy, Principal, PrincipalName,
    Question, decide,
};
use crate::recipient::Rules;
use anchorhold_attestation::Anchor;
use anchorhold_kms_wire::shapes::RecipientInfo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// A request that somebody supposes.
pub struct Simulation {
    /// Who asks.
    pub principal: Principal,
    /// The principal's tags.
    pub tags: BTreeMap<String, String>,
    /// `kms:Decrypt`
    pub action: String,
    /// The key's ARN; `*` where the action has no key.
    pub resource: String,
    /// The key's policy. None where the action has no key.
    pub key_policy: Option<Policy>,
    /// The principal's policies.
    pub permissions: Permissions,
    /// The key's grants.
    pub grants: Vec<Grant>,
    /// The request's encryption context.
    pub encryption_context: BTreeMap<String, String>,
    /// The attestation document in the request's Recipient.
    pub document: Option<Vec<u8>>,
    /// Roots whose documents are read, beside AWS's.
    pub anchors: Vec<Anchor>,
    /// How old a document may be.
    pub max_document_age: Duration,
    /// When.
    pub at: SystemTime,
    /// Other condition keys, which come last.
    pub conditions: Vec<(String, String)>,
}

/// What the service would do.
#[derive(Debug)]
pub enum Verdict {
    /// The document is refused before any policy is asked.
    DocumentRefused {
        /// Why.
        reason: String,
    },
    /// The policies have decided.
    Decided {
        /// How.
        decision: Decision,
        /// What a refused caller would read.
        message: String,
        /// What the document says, in CloudTrail's names.
        recipient: Option<Value>,
    },
}

/// Why a text is no grant.
#[derive(Debug, Error)]
pub enum GrantError {
    /// Not JSON of this shape.
    #[error("not a grant as CreateGrant takes it or ListGrants shows it: {0}")]
    Shape(#[from] serde_json::Error),
    /// Not a principal's ARN.
    #[error("{0:?} is not the ARN of an account, user, role or session")]
    Principal(String),
}

impl Simulation {
    /// Decides.
    pub fn run(self) -> Verdict {
        let caller = Caller {
            principal: self.principal,
            policies: self.permissions,
            access_key_id: String::new(),
            tags: self.tags,
            issued: None,
        };
        let parts: Vec<&str> = self.resource.splitn(6, ':').collect();
        let (region, account) = match parts.as_slice() {
            [_, _, _, region, account, _] => (*region, (*account).to_owned()),
            _ => ("us-east-1", caller.principal.account().to_owned()),
        };
        let mut context = Circumstances {
            caller: &caller,
            now: self.at,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            is_tls: true,
            region,
            user_agent: None,
        }
        .context();
        if self.resource != "*" {
            context.put("aws:ResourceAccount", account.as_str());
        }
        for (name, value) in &self.encryption_context {
            context.put(&format!("kms:EncryptionContext:{name}"), value.as_str());
        }
        let names = self.encryption_context.keys().cloned();
        context.put_all("kms:EncryptionContextKeys", names);
        let recipient = match &self.document {
            None => None,
            Some(document) => {
                let mut anchors = vec![Anchor::aws_nitro()];
                anchors.extend(self.anchors);
                match describe(
                    document,
                    anchors,
                    self.max_document_age,
                    self.at,
                    &mut context,
                ) {
                    Ok(recipient) => Some(recipient),
                    Err(reason) => return Verdict::DocumentRefused { reason },
                }
            }
        };
        put_conditions(&mut context, &self.conditions);
        let question = Question {
            principal: &caller.principal,
            action: &self.action,
            resource: &self.resource,
            resource_account: &account,
            context: &context,
        };
        let decision = decide(
            &question,
            self.key_policy.as_ref(),
            &caller.policies,
            &self.grants,
        );
        Verdict::Decided {
            message: decision.message(&question),
            decision,
            recipient,
        }
    }
}

/// Adds the document's condition keys; gives what is to be shown of it.
fn describe(
    document: &[u8],
    anchors: Vec<Anchor>,
    max_age: Duration,
    at: SystemTime,
    context: &mut Context,
) -> Result<Value, String> {
    let rules = Rules {
        verifier: Rules::verifier(anchors),
        max_age,
        max_skew: Duration::from_secs(60),
        allow_debug: false,
        keys: Cache::new(),
    };
    let recipient = rules
        .check(&RecipientInfo::new(document.to_vec()), at)
        .map_err(|refusal| refusal.reason)?;
    recipient.describe(context);
    Ok(recipient.audited())
}

/// A key that comes several times has several values.
fn put_conditions(context: &mut Context, conditions: &[(String, String)]) {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in conditions {
        values
            .entry(key.to_lowercase())
            .or_default()
            .push(value.clone());
    }
    for (key, values) in values {
        context.put_all(&key, values);
    }
}

impl Verdict {
    /// Whether the request would be allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Decided { decision, .. } if decision.is_allowed())
    }

    /// In words.
    pub fn reason(&self) -> &str {
        match self {
            Self::DocumentRefused { reason } => reason,
            Self::Decided { decision, .. } => decision.reason(),
        }
    }

    /// For programs: `allowed`, `reason`, `message` (what a caller would read), `recipient`, `trace`.
    pub fn as_json(&self) -> Value {
        match self {
            Self::DocumentRefused { reason } => json!({"allowed": false, "reason": reason}),
            Self::Decided {
                decision,
                message,
                recipient,
            } => {
                let mut value = json!({
                    "allowed": decision.is_allowed(),
                    "reason": decision.reason(),
                    "trace": decision.trace(),
                });
                if !decision.is_allowed() {
                    value["message"] = message.as_str().into();
                }
                if let Some(recipient) = recipient {
                    value["recipient"] = recipient.clone();
                }
                value
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GrantShape {
    grant_id: Option<String>,
    grantee_principal: String,
    retiring_principal: Option<String>,
    issuing_account: Option<String>,
    operations: Vec<String>,
    #[serde(default)]
    constraints: ConstraintsShape,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ConstraintsShape {
    #[serde(default)]
    encryption_context_equals: BTreeMap<String, String>,
    #[serde(default)]
    encryption_context_subset: BTreeMap<String, String>,
}

/// Reads a grant as `CreateGrant` takes it or `ListGrants` shows it. `key_account` is taken for its
/// issuer where it names none.
///
/// # Errors
/// [`GrantError`].
pub fn grant(text: &str, key_account: &str) -> Result<Grant, GrantError> {
    let shape: GrantShape = serde_json::from_str(text)?;
    let name = |text: String| PrincipalName::of_grant(&text).ok_or(GrantError::Principal(text));
    // An account's number, or the ARN of its root.
    let issuer = shape.issuing_account.as_deref().unwrap_or(key_account);
    let issuer = issuer.split(':').nth(4).unwrap_or(issuer).to_owned();
    Ok(Grant {
        id: shape.grant_id.unwrap_or_else(|| "supposed".to_owned()),
        grantee: name(shape.grantee_principal)?,
        retiring: shape.retiring_principal.map(name).transpose()?,
        issuing_account: issuer,
        operations: shape.operations,
        constraints: GrantConstraints {
            encryption_context_equals: shape.constraints.encryption_context_equals,
            encryption_context_subset: shape.constraints.encryption_context_subset,
        },
    })
}
