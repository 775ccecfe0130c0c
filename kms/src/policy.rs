//! Policies: read strictly, judged by AWS's rules, each decision with its trace.
//!
//! Pure: no I/O, no clock, no randomness. All that a decision depends on comes in as
//! arguments. Nothing is allowed that a statement does not allow, and nothing in a
//! policy is ever skipped because it was not understood.
//!
//! The rules (AWS, "Policy evaluation logic" and "Key policies in AWS KMS"):
//! 1. A Deny that applies, in whichever policy, wins.
//! 2. Within the key's account: a key policy that names the principal (or everyone)
//!    suffices; one that names the account delegates to the identity policies, which
//!    must then allow. The account's root user needs no identity policy.
//! 3. From another account: the key policy and an identity policy must both allow.
//! 4. What has no key (`CreateKey`, `GenerateRandom`) is up to the identity policies.

mod condition;
mod context;
mod document;
mod pattern;
mod principal;

pub use condition::{ConditionError, ConditionTrace};
pub use context::Context;
pub use document::{Kind, MAX_POLICY_BYTES, Policy, PolicyError};
pub use pattern::PatternError;
pub(crate) use principal::is_account;
pub use principal::{Principal, PrincipalKind, PrincipalName};

use document::{Effect, Statement};
use principal::Naming;
use serde::Serialize;
use std::fmt::Write as _;

/// A question to the policies.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// `kms:Decrypt`
    pub action: &'a str,
    /// The ARN of what it is asked for; `*` where the action has no resource.
    pub resource: &'a str,
    /// The account that owns the resource.
    pub resource_account: &'a str,
    /// Condition keys.
    pub context: &'a Context,
}

/// A policy that hangs on the principal, with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityPolicy {
    /// For people.
    pub name: String,
    /// What it says.
    pub policy: Policy,
}

/// The answer, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    outcome: Outcome,
    trace: Vec<StatementTrace>,
    reason: String,
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
    /// A policy of the principal.
    IdentityPolicy,
}

/// What became of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatementTrace {
    /// Where the statement stands.
    pub source: Source,
    /// The identity policy's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The Sid, or `#` and the statement's number.
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
    /// It applies.
    Applies,
}

impl StatementTrace {
    fn applies(&self) -> bool {
        matches!(
            self.outcome,
            StatementOutcome::Applies | StatementOutcome::AppliesToAccount
        )
    }

    /// `statement AllowEnclave`, with the policy where it is not the key's.
    fn shown(&self) -> String {
        match &self.policy {
            None => format!("statement {}", self.statement),
            Some(policy) => format!("statement {} of policy {policy}", self.statement),
        }
    }
}

/// Judges a question. `key_policy` is `None` where the action has no key.
pub fn decide(
    question: &Question<'_>,
    key_policy: Option<&Policy>,
    identity: &[IdentityPolicy],
) -> Decision {
    let mut trace = Vec::new();
    if let Some(policy) = key_policy {
        for statement in &policy.statements {
            trace.push(judge(question, statement, Source::KeyPolicy, None));
        }
    }
    for policy in identity {
        for statement in &policy.policy.statements {
            let name = Some(policy.name.clone());
            trace.push(judge(question, statement, Source::IdentityPolicy, name));
        }
    }
    let denied = trace
        .iter()
        .find(|s| s.effect == "Deny" && s.applies())
        .map(|s| s.source);
    let outcome = match denied {
        Some(source) => Outcome::Denied(source),
        None => permitted(question, key_policy.is_some(), &trace),
    };
    let reason = reason(question, outcome, &trace);
    Decision {
        outcome,
        trace,
        reason,
    }
}

fn permitted(question: &Question<'_>, has_key: bool, trace: &[StatementTrace]) -> Outcome {
    let allows = |source, outcome| {
        trace
            .iter()
            .any(|s| s.effect == "Allow" && s.source == source && s.outcome == outcome)
    };
    let same_account = question.principal.account() == question.resource_account;
    let by_identity = allows(Source::IdentityPolicy, StatementOutcome::Applies)
        || (question.principal.is_root() && same_account);
    if has_key {
        let by_name = allows(Source::KeyPolicy, StatementOutcome::Applies);
        let by_account = allows(Source::KeyPolicy, StatementOutcome::AppliesToAccount);
        if !by_name && !by_account {
            return Outcome::Unmentioned(Source::KeyPolicy);
        }
        if by_name && same_account {
            return Outcome::Allowed;
        }
    } else if !same_account {
        return Outcome::Unmentioned(Source::IdentityPolicy);
    }
    if by_identity {
        Outcome::Allowed
    } else {
        Outcome::Unmentioned(Source::IdentityPolicy)
    }
}

fn judge(
    question: &Question<'_>,
    statement: &Statement,
    source: Source,
    policy: Option<String>,
) -> StatementTrace {
    let naming = match &statement.principal {
        None => Naming::Itself,
        Some(element) => element.naming(question.principal),
    };
    let mut conditions = Vec::new();
    let outcome = if naming == Naming::No {
        StatementOutcome::OtherPrincipal
    } else if !statement.has_action(question.action) {
        StatementOutcome::OtherAction
    } else if !statement.has_resource(question.resource, question.context) {
        StatementOutcome::OtherResource
    } else {
        conditions = statement
            .conditions
            .iter()
            .map(|c| c.judge(question.context))
            .collect();
        if conditions.iter().any(|c| !c.met) {
            StatementOutcome::ConditionNotMet
        } else if naming == Naming::Account {
            StatementOutcome::AppliesToAccount
        } else {
            StatementOutcome::Applies
        }
    };
    StatementTrace {
        source,
        policy,
        statement: statement.label.clone(),
        effect: match statement.effect {
            Effect::Allow => "Allow",
            Effect::Deny => "Deny",
        },
        outcome,
        conditions,
    }
}

fn reason(question: &Question<'_>, outcome: Outcome, trace: &[StatementTrace]) -> String {
    let who = question.principal.arn();
    let action = question.action;
    match outcome {
        Outcome::Allowed => {
            let by: Vec<String> = trace
                .iter()
                .filter(|s| s.effect == "Allow" && s.applies())
                .map(StatementTrace::shown)
                .collect();
            if by.is_empty() {
                format!("{who} is the account's root user")
            } else {
                format!("allowed by {}", by.join(" and "))
            }
        }
        Outcome::Denied(_) => {
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
        Outcome::Unmentioned(source) => {
            let near: Vec<String> = trace
                .iter()
                .filter(|s| {
                    s.source == source
                        && s.effect == "Allow"
                        && s.outcome == StatementOutcome::ConditionNotMet
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
                Source::KeyPolicy => {
                    format!("no statement of the key policy allows {action} to {who}")
                }
                Source::IdentityPolicy => {
                    let delegated = trace.iter().find(|s| {
                        s.source == Source::KeyPolicy && s.effect == "Allow" && s.applies()
                    });
                    match delegated {
                        Some(s) => format!(
                            "{} of the key policy leaves {action} to the account's own policies, and no policy of {who} allows it",
                            s.shown()
                        ),
                        None => format!("no policy of {who} allows {action}"),
                    }
                }
            }
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
            Outcome::Denied(Source::KeyPolicy) => {
                " with an explicit deny in a resource-based policy".to_owned()
            }
            Outcome::Denied(Source::IdentityPolicy) => {
                " with an explicit deny in an identity-based policy".to_owned()
            }
            Outcome::Unmentioned(Source::KeyPolicy) => format!(
                " because no resource-based policy allows the {} action",
                question.action
            ),
            Outcome::Unmentioned(Source::IdentityPolicy) => format!(
                " because no identity-based policy allows the {} action",
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

#[cfg(test)]
mod tests;
