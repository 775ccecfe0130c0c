//! Policies: read strictly, judged by AWS's rules, each decision with its trace.
//!
//! Pure: no I/O, no clock, no randomness. All that a decision depends on comes in as
//! arguments. Nothing is allowed that a statement or a grant does not allow, and nothing in a
//! policy is ever skipped because it was not understood.
//!
//! The rules (AWS, "Policy evaluation logic", "Key policies in AWS KMS", "Grants in AWS KMS"):
//! 1. A Deny that applies, in whichever policy, wins.
//! 2. Within the key's account: a key policy or a grant that names the principal (or, the policy
//!    alone, everyone) suffices; one that names the account delegates to the identity policies,
//!    which must then allow. The account's root user needs no identity policy.
//! 3. From another account: the key policy and an identity policy must both allow; so must a
//!    grant and an identity policy, unless the principal's own account issued the grant.
//! 4. A permissions boundary and session policies limit what identity policies allow, and what is
//!    allowed to a role; not what is allowed to a user, a session or everyone by name.
//! 5. An attestation document that chains to another root than AWS's opens nothing, unless the
//!    Allow statement itself names that root's fingerprint (module `anchor`).
//! 6. What has no key (`CreateKey`, `GenerateRandom`) is up to the identity policies, and
//!    `RetireGrant` to the grant.

mod anchor;
mod condition;
mod context;
mod decision;
mod document;
mod grant;
mod keys;
mod pattern;
mod principal;

pub use condition::{ConditionError, ConditionTrace};
pub use context::Context;
pub use decision::{Decision, Outcome, Source, StatementOutcome, StatementTrace};
pub use document::{Kind, MAX_POLICY_BYTES, Policy, PolicyError};
pub use grant::{Grant, GrantConstraints};
pub use pattern::PatternError;
pub(crate) use principal::is_account;
pub use principal::{Principal, PrincipalKind, PrincipalName};

use document::{Effect, Statement};
use principal::Naming;

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

/// All policies that hang on a principal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Permissions {
    /// What it may do in its account.
    pub policies: Vec<IdentityPolicy>,
    /// No more than this.
    pub boundary: Option<IdentityPolicy>,
    /// A role's session: no more than these together allow; none means no limit.
    pub session: Vec<IdentityPolicy>,
}

impl From<Vec<IdentityPolicy>> for Permissions {
    fn from(policies: Vec<IdentityPolicy>) -> Self {
        Self {
            policies,
            ..Self::default()
        }
    }
}

/// Judges a question. `key_policy` is `None` where the action has no key; `grants` are the key's,
/// all of them or those for this principal.
pub fn decide(
    question: &Question<'_>,
    key_policy: Option<&Policy>,
    identity: &Permissions,
    grants: &[Grant],
) -> Decision {
    let mut trace = Vec::new();
    if let Some(policy) = key_policy {
        for statement in &policy.statements {
            trace.push(judge(question, statement, Source::KeyPolicy, None));
        }
    }
    let own = identity
        .policies
        .iter()
        .map(|policy| (Source::IdentityPolicy, policy));
    let boundary = identity.boundary.iter();
    let boundary = boundary.map(|policy| (Source::PermissionsBoundary, policy));
    let session = identity.session.iter();
    let session = session.map(|policy| (Source::SessionPolicy, policy));
    for (source, policy) in own.chain(boundary).chain(session) {
        for statement in &policy.policy.statements {
            trace.push(judge(question, statement, source, Some(&policy.name)));
        }
    }
    let mut issued_by_own_account = false;
    for grant in grants {
        let judged = grant.judge(question);
        issued_by_own_account |= judged.allows()
            && judged.outcome != StatementOutcome::AppliesToAccount
            && grant.is_issued_by(question.principal.account());
        trace.push(judged);
    }
    let denied = trace
        .iter()
        .find(|s| s.effect == "Deny" && s.applies())
        .map(|s| s.source);
    let outcome = match denied {
        Some(source) => Outcome::Denied(source),
        None => Facts {
            question,
            identity,
            trace: &trace,
            has_key: key_policy.is_some(),
            issued_by_own_account,
        }
        .permitted(),
    };
    let reason = decision::reason(question, outcome, &trace);
    Decision {
        outcome,
        trace,
        reason,
    }
}

/// What is known once no Deny applies.
struct Facts<'a> {
    question: &'a Question<'a>,
    identity: &'a Permissions,
    trace: &'a [StatementTrace],
    has_key: bool,
    /// A grant that names the principal or its role was made by the principal's account.
    issued_by_own_account: bool,
}

impl Facts<'_> {
    fn permitted(&self) -> Outcome {
        let question = self.question;
        let same_account = question.principal.account() == question.resource_account;
        // The key's side: how closely the key policy or a grant names the principal.
        let by_resource = self.closest(&[Source::KeyPolicy, Source::Grant]);
        let by_grant = self.closest(&[Source::Grant]);
        let must_be_granted = question.action == "kms:RetireGrant";
        let has_key_side = if must_be_granted {
            by_grant != Naming::No
        } else {
            !self.has_key || by_resource != Naming::No
        };
        if !has_key_side {
            return Outcome::Unmentioned(Source::KeyPolicy);
        }
        let named = if must_be_granted {
            by_grant
        } else {
            by_resource
        };
        if same_account && named == Naming::Itself {
            return Outcome::Allowed;
        }
        if !self.has_key && !same_account {
            return Outcome::Unmentioned(Source::IdentityPolicy);
        }
        // The principal's side: its own policies, unless the key's side did without them.
        let by_role = same_account && named == Naming::Role;
        let needs_identity = !(by_role || self.issued_by_own_account);
        // Where there is a key, its policy has named a foreign anchor by now; else nobody has.
        let is_attested_by_stranger = anchor::foreign(question.context).is_some() && !self.has_key;
        let is_own_root = question.principal.is_root() && same_account && !is_attested_by_stranger;
        if needs_identity && !is_own_root && !self.has_allow(Source::IdentityPolicy) {
            return Outcome::Unmentioned(Source::IdentityPolicy);
        }
        if self.identity.boundary.is_some() && !self.has_allow(Source::PermissionsBoundary) {
            return Outcome::Unmentioned(Source::PermissionsBoundary);
        }
        if !self.identity.session.is_empty() && !self.has_allow(Source::SessionPolicy) {
            return Outcome::Unmentioned(Source::SessionPolicy);
        }
        Outcome::Allowed
    }

    fn has_allow(&self, source: Source) -> bool {
        self.trace.iter().any(|s| s.source == source && s.allows())
    }

    fn closest(&self, sources: &[Source]) -> Naming {
        let allows = self
            .trace
            .iter()
            .filter(|s| sources.contains(&s.source) && s.allows());
        allows
            .map(|s| match s.outcome {
                StatementOutcome::Applies => Naming::Itself,
                StatementOutcome::AppliesToRole => Naming::Role,
                _ => Naming::Account,
            })
            .max()
            .unwrap_or(Naming::No)
    }
}

fn judge(
    question: &Question<'_>,
    statement: &Statement,
    source: Source,
    policy: Option<&str>,
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
        let allows = statement.effect == Effect::Allow;
        conditions = statement
            .conditions
            .iter()
            .map(|c| c.judge(question.context, allows))
            .collect();
        let grants = matches!(source, Source::KeyPolicy | Source::IdentityPolicy);
        if allows
            && grants
            && let Some(found) = anchor::foreign(question.context)
            && !statement.names_anchor(found)
        {
            conditions.push(anchor::aws_only(found));
        }
        if conditions.iter().any(|c| !c.met) {
            StatementOutcome::ConditionNotMet
        } else {
            naming.outcome()
        }
    };
    StatementTrace {
        source,
        policy: policy.map(str::to_owned),
        statement: statement.label.clone(),
        effect: match statement.effect {
            Effect::Allow => "Allow",
            Effect::Deny => "Deny",
        },
        outcome,
        conditions,
    }
}

#[cfg(test)]
mod tests;
