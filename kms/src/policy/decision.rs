//! A decision: allowed or not, every statement that was looked at, and the reason in words.
//!
//! The trace and the reason are for the audit log and the key's owner. Only [`Decision::message`]
//! is for the caller, and it names no condition.

use super::Question;
use super::condition::ConditionTrace;
use serde::Serialize;
use std::fmt::Write as _;

/// The answer, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub(super) outcome: Outcome,
    pub(super) trace: Vec<StatementTrace>,
    pub(super) reason: String,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Permitted.
    Allowed,
    /// A statement denies it.
    Denied(Source),
    /// No statement allows it: the policy that would have had to.
    Unmentioned(Source),
}

/// Where a statement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The key policy.
    KeyPolicy,
    /// A grant on the key.
    Grant,
    /// A policy of the principal.
    IdentityPolicy,
    /// The principal's permissions boundary.
    PermissionsBoundary,
    /// A policy of the role's session.
    SessionPolicy,
}

/// What became of one statement, or of one grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatementTrace {
    /// Where the statement stands.
    pub source: Source,
    /// The policy's name, where it is not the key's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The Sid, or `#` and the statement's number; for a grant its id.
    pub statement: String,
    /// `Allow` or `Deny`.
    pub effect: &'static str,
    /// What decided whether it applies.
    pub outcome: StatementOutcome,
    /// Its conditions, as far as they were judged: none unless all else fits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionTrace>,
}

/// What decided about one statement. Checked in this order; the first that fails ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StatementOutcome {
    /// It is about other principals.
    OtherPrincipal,
    /// It is about other actions.
    OtherAction,
    /// It is about other resources.
    OtherResource,
    /// A condition is not met.
    ConditionNotMet,
    /// It applies, and names the account only.
    AppliesToAccount,
    /// It applies, and names the role of the session that asks.
    AppliesToRole,
    /// It applies.
    Applies,
}

impl StatementTrace {
    pub(super) fn applies(&self) -> bool {
        matches!(
            self.outcome,
            StatementOutcome::Applies
                | StatementOutcome::AppliesToRole
                | StatementOutcome::AppliesToAccount
        )
    }

    pub(super) fn allows(&self) -> bool {
        self.effect == "Allow" && self.applies()
    }

    /// `statement AllowEnclave`, with the policy where it is not the key's.
    fn shown(&self) -> String {
        match (self.source, &self.policy) {
            (Source::Grant, _) => format!("grant {}", self.statement),
            (_, None) => format!("statement {}", self.statement),
            (_, Some(policy)) => format!("statement {} of policy {policy}", self.statement),
        }
    }
}

/// The reason of an outcome, in words.
pub(super) fn reason(
    question: &Question<'_>,
    outcome: Outcome,
    trace: &[StatementTrace],
) -> String {
    let who = question.principal.arn();
    let action = question.action;
    let source = match outcome {
        Outcome::Allowed => {
            let by: Vec<String> = trace
                .iter()
                .filter(|s| s.allows())
                .map(StatementTrace::shown)
                .collect();
            return if by.is_empty() {
                format!("{who} is the account's root user")
            } else if let [one] = by.as_slice()
                && one.starts_with("grant ")
            {
                format!("{one} allowed")
            } else {
                format!("allowed by {}", by.join(" and "))
            };
        }
        Outcome::Denied(_) => return denials(action, trace),
        Outcome::Unmentioned(source) => source,
    };
    // Grants would have done as well as the key policy.
    let would_do = |s: &StatementTrace| {
        s.source == source || (source == Source::KeyPolicy && s.source == Source::Grant)
    };
    let near: Vec<String> = trace
        .iter()
        .filter(|s| {
            would_do(s) && s.effect == "Allow" && s.outcome == StatementOutcome::ConditionNotMet
        })
        .map(|s| {
            let failed: Vec<String> = s
                .conditions
                .iter()
                .filter(|c| !c.met)
                .map(ToString::to_string)
                .collect();
            format!("{}: {}", s.shown(), failed.join(", and "))
        })
        .collect();
    if !near.is_empty() {
        return near.join("; ");
    }
    match source {
        Source::KeyPolicy | Source::Grant => {
            format!("no statement of the key policy allows {action} to {who}")
        }
        Source::PermissionsBoundary => {
            format!("the permissions boundary of {who} does not allow {action}")
        }
        Source::SessionPolicy => {
            format!("no session policy of {who} allows {action}")
        }
        Source::IdentityPolicy => {
            let delegated = trace
                .iter()
                .find(|s| s.allows() && matches!(s.source, Source::KeyPolicy | Source::Grant));
            match delegated {
                Some(s) if s.source == Source::Grant => format!(
                    "{} leaves {action} to the account's own policies, and no policy of {who} allows it",
                    s.shown()
                ),
                Some(s) => format!(
                    "{} of the key policy leaves {action} to the account's own policies, and no policy of {who} allows it",
                    s.shown()
                ),
                None => format!("no policy of {who} allows {action}"),
            }
        }
    }
}

fn denials(action: &str, trace: &[StatementTrace]) -> String {
    let denials: Vec<String> = trace
        .iter()
        .filter(|s| s.effect == "Deny" && s.applies())
        .map(|s| {
            let mut text = format!("{} denies {action}", s.shown());
            for condition in &s.conditions {
                let found = match &condition.found {
                    Some(values) => values.join(", "),
                    None => "nothing".to_owned(),
                };
                let _ = write!(
                    text,
                    ", since {} {} {} is met by {found}",
                    condition.key,
                    condition.operator,
                    condition.expected.join(" or "),
                );
            }
            text
        })
        .collect();
    denials.join("; ")
}

impl Source {
    /// As AWS's texts name it, with its article.
    fn in_messages(self) -> (&'static str, &'static str) {
        match self {
            Self::KeyPolicy | Self::Grant => ("a", "resource-based policy"),
            Self::IdentityPolicy => ("an", "identity-based policy"),
            Self::PermissionsBoundary => ("a", "permissions boundary"),
            Self::SessionPolicy => ("a", "session policy"),
        }
    }
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.outcome == Outcome::Allowed
    }

    /// The answer.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Every statement that was looked at, in order.
    pub fn trace(&self) -> &[StatementTrace] {
        &self.trace
    }

    /// In plain words: which statement, which condition, expected and found. For the audit log
    /// and the key's owner; never for the caller.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// AWS's text for the caller, who may be the attacker: it names no condition.
    /// Meaningful for refusals.
    pub fn message(&self, question: &Question<'_>) -> String {
        let because = match self.outcome {
            Outcome::Allowed => String::new(),
            Outcome::Denied(source) => {
                let (article, name) = source.in_messages();
                format!(" with an explicit deny in {article} {name}")
            }
            Outcome::Unmentioned(source) => format!(
                " because no {} allows the {} action",
                source.in_messages().1,
                question.action
            ),
        };
        format!(
            "User: {} is not authorized to perform: {} on resource: {}{because}",
            question.principal.arn(),
            question.action,
            question.resource,
        )
    }
}
