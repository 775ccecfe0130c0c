//! Grants: each lets one principal use one key for some operations.
//!
//! A grant allows and never denies. Rules (AWS KMS developer guide, "Grants in AWS KMS" and
//! "Creating grants"; API reference, `GrantConstraints`):
//! - It counts for its operations and its grantee only. A grantee that is a role stands for all
//!   sessions of it, one that is an account for those whom that account's policies allow it.
//! - A constraint is about the encryption context; keys ignore case, values do not. It is not
//!   asked of `DescribeKey` and `RetireGrant`, which have none.
//! - `CreateGrant` by a grant makes grants of the same operations or fewer, and as strict or
//!   stricter.
//! - Who may retire a grant is said by the grant: its retiring principal, its grantee if the
//!   operation is among its own, and the root user of the account that issued it.

use super::Question;
use super::anchor;
use super::condition::{ConditionTrace, shown};
use super::context::Context;
use super::decision::{Source, StatementOutcome, StatementTrace};
use super::principal::{Naming, Principal, PrincipalName};
use std::collections::BTreeMap;

/// A grant on the key that the question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// As `CreateGrant` gave it out.
    pub id: String,
    /// Who may use the key.
    pub grantee: PrincipalName,
    /// Who may retire the grant.
    pub retiring: Option<PrincipalName>,
    /// Twelve digits: the account of who made the grant. In another account than the key's, only
    /// what this account has issued itself needs no identity policy.
    pub issuing_account: String,
    /// Operations without the prefix: `Decrypt`.
    pub operations: Vec<String>,
    /// What the encryption context must be.
    pub constraints: GrantConstraints,
}

/// What a grant asks of the encryption context. Empty means nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantConstraints {
    /// The context must be these pairs and no others.
    pub encryption_context_equals: BTreeMap<String, String>,
    /// The context must have these pairs among others.
    pub encryption_context_subset: BTreeMap<String, String>,
}

/// Operations that have an encryption context: those that a constrained grant may allow.
const WITH_CONTEXT: [&str; 8] = [
    "Encrypt",
    "Decrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
];

impl Grant {
    /// How the grant stands to the question.
    pub(super) fn judge(&self, question: &Question<'_>) -> StatementTrace {
        let mut conditions = Vec::new();
        let operation = question.action.strip_prefix("kms:").unwrap_or_default();
        let outcome = match self.naming(question.principal, operation) {
            Naming::No => StatementOutcome::OtherPrincipal,
            _ if !self.covers(operation) => StatementOutcome::OtherAction,
            naming => {
                conditions = self.conditions(operation, question.context);
                // A grant cannot name a root, so it means AWS's.
                if let Some(found) = anchor::foreign(question.context) {
                    conditions.push(anchor::aws_only(found));
                }
                if conditions.iter().all(|c| c.met) {
                    naming.outcome()
                } else {
                    StatementOutcome::ConditionNotMet
                }
            }
        };
        StatementTrace {
            source: Source::Grant,
            policy: None,
            statement: self.id.clone(),
            effect: "Allow",
            outcome,
            conditions,
        }
    }

    /// Whether the grant was made by the principal's own account.
    pub(super) fn is_issued_by(&self, account: &str) -> bool {
        self.issuing_account == account
    }

    fn naming(&self, who: &Principal, operation: &str) -> Naming {
        let as_grantee = who.naming(&self.grantee);
        if operation != "RetireGrant" {
            return as_grantee;
        }
        let own_account = who.is_root() && who.account() == self.issuing_account;
        let retiring = self.retiring.as_ref().map_or(Naming::No, |r| who.naming(r));
        if own_account {
            Naming::Itself
        } else if self.lists("RetireGrant") {
            retiring.max(as_grantee)
        } else {
            retiring
        }
    }

    fn lists(&self, operation: &str) -> bool {
        self.operations.iter().any(|own| own == operation)
    }

    fn covers(&self, operation: &str) -> bool {
        // Whom `naming` names for RetireGrant may retire.
        operation == "RetireGrant" || self.lists(operation)
    }

    /// What the grant asks of this operation's request, and what it found.
    fn conditions(&self, operation: &str, context: &Context) -> Vec<ConditionTrace> {
        if operation == "CreateGrant" {
            return self.child_conditions(context);
        }
        if matches!(operation, "DescribeKey" | "RetireGrant") {
            return Vec::new();
        }
        let pairs = encryption_context(context);
        let has_context = WITH_CONTEXT.contains(&operation);
        let GrantConstraints {
            encryption_context_equals: equals,
            encryption_context_subset: subset,
        } = &self.constraints;
        let mut conditions = Vec::new();
        if !equals.is_empty() {
            let met = has_context && lower(equals) == pairs;
            conditions.push(trace("EncryptionContextEquals", met, equals, &pairs));
        }
        if !subset.is_empty() {
            let met = has_context && contains(&pairs, &lower(subset));
            conditions.push(trace("EncryptionContextSubset", met, subset, &pairs));
        }
        conditions
    }

    /// For `CreateGrant`: the new grant, as the condition keys describe it, must not allow more.
    fn child_conditions(&self, context: &Context) -> Vec<ConditionTrace> {
        let asked = context.values("kms:GrantOperations");
        let mut conditions = vec![ConditionTrace {
            met: asked.is_some_and(|all| all.iter().all(|o| self.lists(o))),
            operator: "ForAllValues:StringEquals".to_owned(),
            key: "kms:GrantOperations".to_owned(),
            expected: self.operations.clone(),
            found: asked.map(shown),
        }];
        let kind = context.values("kms:GrantConstraintType");
        let is = |name: &str| kind.is_some_and(|k| k == [name]);
        let (as_equals, as_subset) = (is("EncryptionContextEquals"), is("EncryptionContextSubset"));
        let pairs = encryption_context(context);
        let GrantConstraints {
            encryption_context_equals: equals,
            encryption_context_subset: subset,
        } = &self.constraints;
        if !equals.is_empty() {
            let met = as_equals && lower(equals) == pairs;
            conditions.push(trace("EncryptionContextEquals", met, equals, &pairs));
        }
        if !subset.is_empty() {
            let met = (as_equals || as_subset) && contains(&pairs, &lower(subset));
            conditions.push(trace("EncryptionContextSubset", met, subset, &pairs));
        }
        conditions
    }
}

/// The request's pairs, keys in lower case.
fn encryption_context(context: &Context) -> BTreeMap<String, String> {
    context
        .with_prefix("kms:encryptioncontext:")
        .map(|(key, values)| (key.to_owned(), values.join(",")))
        .collect()
}

fn lower(pairs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_lowercase(), value.clone()))
        .collect()
}

fn contains(all: &BTreeMap<String, String>, some: &BTreeMap<String, String>) -> bool {
    some.iter().all(|(key, value)| all.get(key) == Some(value))
}

fn trace(
    operator: &str,
    met: bool,
    expected: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> ConditionTrace {
    let written = |pairs: &BTreeMap<String, String>| -> Vec<String> {
        pairs.iter().map(|(k, v)| format!("{k}={v}")).collect()
    };
    ConditionTrace {
        met,
        operator: operator.to_owned(),
        key: "kms:EncryptionContext".to_owned(),
        expected: vec![written(expected).join(" and ")],
        found: (!found.is_empty()).then(|| shown(&written(found))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decision, IdentityPolicy, Kind, Outcome, Permissions, Policy, decide};
    use super::*;

    const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef";
    const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
    const BOB: &str = "arn:aws:iam::111122223333:user/bob";
    const ROOT: &str = "arn:aws:iam::111122223333:root";
    const ROLE: &str = "arn:aws:iam::111122223333:role/Host";
    const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/Host/i-01";
    const FAR: &str = "arn:aws:iam::444455556666:user/far";
    /// Allows nothing to anybody but the root user's PutKeyPolicy.
    const CLOSED: &str = r#"{"Statement":{"Effect":"Allow","Principal":{"AWS":"111122223333"},
        "Action":"kms:PutKeyPolicy","Resource":"*"}}"#;

    fn grant(grantee: &str, operations: &[&str]) -> Grant {
        Grant {
            id: "g1".to_owned(),
            grantee: PrincipalName::of_grant(grantee).unwrap(),
            retiring: None,
            issuing_account: "111122223333".to_owned(),
            operations: operations.iter().map(ToString::to_string).collect(),
            constraints: GrantConstraints::default(),
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn own(text: &str) -> IdentityPolicy {
        IdentityPolicy {
            name: "own".to_owned(),
            policy: Policy::parse(text, Kind::Identity).unwrap(),
        }
    }

    fn allowing(action: &str) -> IdentityPolicy {
        own(&format!(
            r#"{{"Statement":{{"Effect":"Allow","Action":"{action}","Resource":"*"}}}}"#
        ))
    }

    struct Asked<'a> {
        who: &'a str,
        action: &'a str,
        context: Context,
        key: &'a str,
        own: Permissions,
    }

    impl Asked<'_> {
        fn decide(&self, grants: &[Grant]) -> Decision {
            let principal = Principal::from_arn(self.who).unwrap();
            let question = Question {
                principal: &principal,
                action: self.action,
                resource: KEY,
                resource_account: "111122223333",
                context: &self.context,
            };
            let key = Policy::parse(self.key, Kind::Key).unwrap();
            decide(&question, Some(&key), &self.own, grants)
        }
    }

    fn asked<'a>(who: &'a str, action: &'a str) -> Asked<'a> {
        Asked {
            who,
            action,
            context: Context::new(),
            key: CLOSED,
            own: Permissions::default(),
        }
    }

    #[test]
    fn a_grant_allows_its_operations_to_its_grantee_and_nothing_else() {
        let grants = [grant(ALICE, &["Decrypt", "DescribeKey"])];
        let allowed = asked(ALICE, "kms:Decrypt").decide(&grants);
        assert!(allowed.is_allowed());
        assert_eq!(allowed.reason(), "grant g1 allowed");
        for (who, action) in [
            (ALICE, "kms:Encrypt"),
            (ALICE, "Decrypt"),
            (ALICE, "kms:decrypt"),
            (BOB, "kms:Decrypt"),
            (ROOT, "kms:Decrypt"),
            (SESSION, "kms:Decrypt"),
            (FAR, "kms:Decrypt"),
        ] {
            let refused = asked(who, action).decide(&grants);
            assert_eq!(
                refused.outcome(),
                Outcome::Unmentioned(Source::KeyPolicy),
                "{who} {action}"
            );
        }
    }

    #[test]
    fn an_explicit_deny_wins_over_a_grant_wherever_it_stands() {
        let grants = [grant(ALICE, &["Decrypt"])];
        let mut by_key = asked(ALICE, "kms:Decrypt");
        by_key.key =
            r#"{"Statement":{"Effect":"Deny","Principal":"*","Action":"kms:De*","Resource":"*"}}"#;
        assert_eq!(
            by_key.decide(&grants).outcome(),
            Outcome::Denied(Source::KeyPolicy)
        );
        let deny = r#"{"Statement":{"Effect":"Deny","Action":"kms:Decrypt","Resource":"*"}}"#;
        let mut by_own = asked(ALICE, "kms:Decrypt");
        by_own.own.policies = vec![own(deny)];
        assert_eq!(
            by_own.decide(&grants).outcome(),
            Outcome::Denied(Source::IdentityPolicy)
        );
        let mut by_boundary = asked(ALICE, "kms:Decrypt");
        by_boundary.own.boundary = Some(own(deny));
        assert_eq!(
            by_boundary.decide(&grants).outcome(),
            Outcome::Denied(Source::PermissionsBoundary)
        );
    }

    #[test]
    fn a_role_stands_for_its_sessions_and_a_session_for_itself() {
        let by_role = [grant(ROLE, &["Decrypt"])];
        assert!(asked(SESSION, "kms:Decrypt").decide(&by_role).is_allowed());
        let by_session = [grant(SESSION, &["Decrypt"])];
        assert!(
            asked(SESSION, "kms:Decrypt")
                .decide(&by_session)
                .is_allowed()
        );
        let other = "arn:aws:sts::111122223333:assumed-role/Host/i-02";
        assert!(!asked(other, "kms:Decrypt").decide(&by_session).is_allowed());
        // Session policies limit what a role was granted, not what this very session was.
        for (grants, allowed) in [(&by_role, false), (&by_session, true)] {
            let mut limited = asked(SESSION, "kms:Decrypt");
            limited.own.session = vec![allowing("kms:Encrypt")];
            assert_eq!(limited.decide(grants).is_allowed(), allowed);
        }
    }

    #[test]
    fn an_account_as_grantee_needs_its_own_policies_too() {
        let grants = [grant(ROOT, &["Decrypt"])];
        assert!(asked(ROOT, "kms:Decrypt").decide(&grants).is_allowed());
        let mut alice = asked(ALICE, "kms:Decrypt");
        let refused = alice.decide(&grants);
        assert_eq!(
            refused.outcome(),
            Outcome::Unmentioned(Source::IdentityPolicy)
        );
        assert!(refused.reason().starts_with("grant g1 leaves"));
        alice.own.policies = vec![allowing("kms:Decrypt")];
        assert!(alice.decide(&grants).is_allowed());
    }

    #[test]
    fn a_strangers_grantee_needs_a_policy_or_a_grant_of_its_own_account() {
        let mut grants = [grant(FAR, &["Decrypt"])];
        let mut far = asked(FAR, "kms:Decrypt");
        assert_eq!(
            far.decide(&grants).outcome(),
            Outcome::Unmentioned(Source::IdentityPolicy)
        );
        far.own.policies = vec![allowing("kms:Decrypt")];
        assert!(far.decide(&grants).is_allowed());
        far.own.policies.clear();
        grants[0].issuing_account = "444455556666".to_owned();
        assert!(far.decide(&grants).is_allowed());
        grants[0].grantee = PrincipalName::of_grant("arn:aws:iam::444455556666:root").unwrap();
        assert!(!far.decide(&grants).is_allowed());
    }

    #[test]
    fn constraints_are_held_against_the_encryption_context() {
        let ask = |equals: &[(&str, &str)], subset: &[(&str, &str)], found: &[(&str, &str)]| {
            let mut grant = grant(ALICE, &["Decrypt", "DescribeKey", "Sign"]);
            grant.constraints.encryption_context_equals = pairs(equals);
            grant.constraints.encryption_context_subset = pairs(subset);
            let mut asked = asked(ALICE, "kms:Decrypt");
            for (key, value) in found {
                asked
                    .context
                    .put(&format!("kms:EncryptionContext:{key}"), *value);
            }
            let decision = asked.decide(std::slice::from_ref(&grant));
            asked.action = "kms:DescribeKey";
            assert!(asked.decide(std::slice::from_ref(&grant)).is_allowed());
            asked.action = "kms:Sign";
            assert!(!asked.decide(std::slice::from_ref(&grant)).is_allowed());
            decision
        };
        let it = [("Department", "IT")];
        let more = [("department", "IT"), ("Purpose", "Test")];
        assert!(ask(&it, &[], &it).is_allowed());
        assert!(!ask(&it, &[], &more).is_allowed());
        assert!(!ask(&it, &[], &[]).is_allowed());
        assert!(ask(&[], &it, &it).is_allowed());
        assert!(ask(&[], &it, &more).is_allowed());
        assert!(!ask(&[], &it, &[("Department", "it")]).is_allowed());
        assert!(!ask(&[], &more, &it).is_allowed());
        assert_eq!(
            ask(&it, &[], &[]).reason(),
            "grant g1: kms:EncryptionContext expected EncryptionContextEquals Department=IT, found nothing"
        );
    }

    #[test]
    fn a_grant_makes_grants_that_are_as_strict_only() {
        let mut parent = grant(ALICE, &["Decrypt", "GenerateDataKey", "CreateGrant"]);
        parent.constraints.encryption_context_subset = pairs(&[("Department", "IT")]);
        let ask =
            |parent: &Grant, operations: &[&str], kind: Option<&str>, found: &[(&str, &str)]| {
                let mut asked = asked(ALICE, "kms:CreateGrant");
                let operations = operations.iter().map(ToString::to_string);
                asked.context.put_all("kms:GrantOperations", operations);
                if let Some(kind) = kind {
                    asked.context.put("kms:GrantConstraintType", kind);
                }
                for (key, value) in found {
                    asked
                        .context
                        .put(&format!("kms:EncryptionContext:{key}"), *value);
                }
                asked.decide(std::slice::from_ref(parent)).is_allowed()
            };
        let it = [("Department", "IT")];
        let more = [("Department", "IT"), ("Purpose", "Test")];
        let (equals, subset) = (
            Some("EncryptionContextEquals"),
            Some("EncryptionContextSubset"),
        );
        assert!(ask(&parent, &["Decrypt", "CreateGrant"], equals, &it));
        assert!(ask(&parent, &["Decrypt"], subset, &more));
        assert!(!ask(&parent, &["Decrypt"], None, &[]));
        assert!(!ask(&parent, &["Decrypt"], None, &it));
        assert!(!ask(&parent, &["Decrypt"], subset, &[("Purpose", "Test")]));
        assert!(!ask(&parent, &["Decrypt", "Encrypt"], equals, &it));
        assert!(!ask(&parent, &[], equals, &it));
        parent.constraints = GrantConstraints {
            encryption_context_equals: pairs(&it),
            ..GrantConstraints::default()
        };
        assert!(ask(&parent, &["Decrypt"], equals, &it));
        assert!(!ask(&parent, &["Decrypt"], subset, &it));
        assert!(!ask(&parent, &["Decrypt"], equals, &more));
        parent.constraints = GrantConstraints::default();
        assert!(ask(&parent, &["Decrypt"], None, &[]));
    }

    #[test]
    fn a_grant_is_retired_by_whom_it_names_and_never_by_a_policy_alone() {
        let mut grants = [grant(ALICE, &["Decrypt"])];
        let open =
            r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}}"#;
        let retire = |who: &str, grants: &[Grant]| {
            let mut asked = asked(who, "kms:RetireGrant");
            asked.key = open;
            asked.own.policies = vec![allowing("kms:*")];
            asked.decide(grants).is_allowed()
        };
        assert!(retire(ROOT, &grants));
        assert!(!retire(ALICE, &grants));
        assert!(!retire(BOB, &grants));
        assert!(!retire(ROOT, &[]));
        grants[0].retiring = PrincipalName::of_grant(BOB);
        assert!(retire(BOB, &grants));
        assert!(!retire(ALICE, &grants));
        grants[0].operations.push("RetireGrant".to_owned());
        assert!(retire(ALICE, &grants) && retire(BOB, &grants));
        let mut denied = asked(BOB, "kms:RetireGrant");
        denied.key = r#"{"Statement":{"Effect":"Deny","Principal":"*","Action":"kms:RetireGrant","Resource":"*"}}"#;
        assert!(!denied.decide(&grants).is_allowed());
    }

    #[test]
    fn a_grant_opens_nothing_to_a_foreign_root_s_enclave() {
        let grants = [grant(ALICE, &["Decrypt"])];
        let mut asked = asked(ALICE, "kms:Decrypt");
        asked.context.put("anchorhold:Anchor", "ab".repeat(32));
        let refused = asked.decide(&grants);
        assert!(!refused.is_allowed());
        assert!(
            refused.reason().contains("anchorhold:Anchor expected"),
            "{}",
            refused.reason()
        );
    }

    #[test]
    fn a_grantee_is_a_principal_in_the_form_of_an_arn() {
        for text in [
            "*",
            "111122223333",
            "dynamodb.amazonaws.com",
            "",
            "arn:aws:iam::111122223333:group/x",
        ] {
            assert_eq!(PrincipalName::of_grant(text), None, "{text}");
        }
    }
}
