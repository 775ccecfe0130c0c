//! Who asks, and whom a policy names.
//!
//! A principal's ARN in a policy has no wildcards: it names one user, one role, one
//! session or one account, or it is `*` for everyone.

use super::decision::StatementOutcome;
use aws_lc_rs::digest;
use std::fmt;

/// The one who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    account: String,
    arn: String,
    kind: PrincipalKind,
}

/// What a principal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrincipalKind {
    /// The account's own root user.
    Root,
    /// An IAM user.
    User,
    /// A session of an assumed role.
    Session {
        /// `arn:aws:iam::<account>:role/<path and name>`, which the session's ARN alone does
        /// not tell, as it lacks the path.
        role: String,
    },
}

impl Principal {
    /// The principal that an IAM or STS ARN names: `…:root`, `…:user/…`.
    /// For a session the role's ARN is built from the session's, without a path.
    /// `None` for anything else.
    pub fn from_arn(arn: &str) -> Option<Self> {
        let parts = ArnParts::of(arn)?;
        let kind = match (parts.service, parts.resource) {
            ("iam", "root") => PrincipalKind::Root,
            ("iam", resource) if resource.starts_with("user/") => PrincipalKind::User,
            ("sts", resource) => {
                let (role, session) = resource.strip_prefix("assumed-role/")?.split_once('/')?;
                if role.is_empty() || session.is_empty() || session.contains('/') {
                    return None;
                }
                PrincipalKind::Session {
                    role: format!("arn:{}:iam::{}:role/{role}", parts.partition, parts.account),
                }
            }
            _ => return None,
        };
        Some(Self {
            account: parts.account.to_owned(),
            arn: arn.to_owned(),
            kind,
        })
    }

    /// The same session, of a role whose ARN has a path. `None` if this is not a session of
    /// a role of that name and account.
    #[must_use]
    pub fn with_role(self, role_arn: &str) -> Option<Self> {
        let PrincipalKind::Session { role } = &self.kind else {
            return None;
        };
        let parts = ArnParts::of(role_arn)?;
        let path = parts.resource.strip_prefix("role/")?;
        let fits = parts.service == "iam"
            && parts.account == self.account
            && path.rsplit('/').next() == role.rsplit('/').next();
        fits.then(|| Self {
            kind: PrincipalKind::Session {
                role: role_arn.to_owned(),
            },
            ..self
        })
    }

    /// Twelve digits.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The ARN as AWS shows it in messages and in the audit log.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Root, user or session.
    pub fn kind(&self) -> &PrincipalKind {
        &self.kind
    }

    /// The value of `aws:PrincipalArn`: for a session, its role.
    pub fn principal_arn(&self) -> &str {
        match &self.kind {
            PrincipalKind::Session { role } => role,
            PrincipalKind::Root | PrincipalKind::User => &self.arn,
        }
    }

    /// A user's name without its path: `aws:username`.
    pub fn user_name(&self) -> Option<&str> {
        match self.kind {
            PrincipalKind::User => self.arn.rsplit('/').next(),
            PrincipalKind::Root | PrincipalKind::Session { .. } => None,
        }
    }

    /// What AWS calls the unique id: the account's number, `AIDA…` for a user, `AROA…` and the
    /// session's name for a session. Made from the ARN, so that it stays the same.
    pub fn user_id(&self) -> String {
        match &self.kind {
            PrincipalKind::Root => self.account.clone(),
            PrincipalKind::User => unique_id("AIDA", &self.arn),
            PrincipalKind::Session { role } => {
                let session = self.arn.rsplit('/').next().unwrap_or_default();
                format!("{}:{session}", unique_id("AROA", role))
            }
        }
    }

    /// Whether this is the account's root user, to whom the account's own permissions are
    /// never missing.
    pub(super) fn is_root(&self) -> bool {
        self.kind == PrincipalKind::Root
    }

    /// How a name stands to this principal.
    pub(super) fn naming(&self, name: &PrincipalName) -> Naming {
        match name {
            PrincipalName::Everyone => Naming::Itself,
            PrincipalName::Arn(arn) if *arn == self.arn => Naming::Itself,
            PrincipalName::Arn(arn) => match &self.kind {
                PrincipalKind::Session { role } if role == arn => Naming::Role,
                _ => Naming::No,
            },
            PrincipalName::Account(account) if *account == self.account => Naming::Account,
            PrincipalName::Account(_) | PrincipalName::Service(_) | PrincipalName::Federated(_) => {
                Naming::No
            }
        }
    }
}

/// Whom a policy's `Principal` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrincipalName {
    /// `*`
    Everyone,
    /// An account, by number or by the ARN of its root.
    Account(String),
    /// A user, a role, or a session.
    Arn(String),
    /// An AWS service. No service calls this one, so it names nobody who could ask.
    Service(String),
    /// An identity provider. Nobody signs in here with one, so it names nobody who could ask.
    Federated(String),
}

impl PrincipalName {
    /// Reads whom a grant names: an account, a user, a role or a session by its ARN. `None` for
    /// anything else, and for everyone.
    pub fn of_grant(text: &str) -> Option<Self> {
        Self::aws(text).filter(|name| *name != Self::Everyone && !is_account(text))
    }

    /// Reads an entry under `"AWS"`.
    pub(super) fn aws(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everyone);
        }
        if is_account(text) {
            return Some(Self::Account(text.to_owned()));
        }
        let parts = ArnParts::of(text)?;
        if text.contains(['*', '?', '$']) {
            return None;
        }
        let named = |kind: &str| {
            parts
                .resource
                .strip_prefix(kind)
                .is_some_and(|name| !name.is_empty() && !name.ends_with('/'))
        };
        match parts.service {
            "iam" if parts.resource == "root" => Some(Self::Account(parts.account.to_owned())),
            "iam" if named("user/") || named("role/") => Some(Self::Arn(text.to_owned())),
            "sts" if named("assumed-role/") || named("federated-user/") => {
                Some(Self::Arn(text.to_owned()))
            }
            _ => None,
        }
    }

    /// Reads an entry under `"Service"`.
    pub(super) fn service(text: &str) -> Option<Self> {
        let label =
            |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let is_name = text.contains('.') && text.split('.').all(label);
        is_name.then(|| Self::Service(text.to_owned()))
    }
}

impl PrincipalName {
    /// Reads an entry under `"Federated"`: a provider's domain, or its ARN in IAM.
    pub(super) fn federated(text: &str) -> Option<Self> {
        let is_provider = ArnParts::of(text).is_some_and(|parts| {
            parts.service == "iam"
                && ["saml-provider/", "oidc-provider/"].iter().any(|kind| {
                    parts
                        .resource
                        .strip_prefix(kind)
                        .is_some_and(|name| !name.is_empty() && !name.contains(['*', '?', '$']))
                })
        });
        let is_domain = matches!(Self::service(text), Some(Self::Service(_)));
        (is_provider || is_domain).then(|| Self::Federated(text.to_owned()))
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("*"),
            Self::Account(name) | Self::Arn(name) | Self::Service(name) | Self::Federated(name) => {
                f.write_str(name)
            }
        }
    }
}

/// How a statement or a grant names the one who asks; what names more closely is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Naming {
    /// Not at all.
    No,
    /// Only its account: an Allow delegates to the account's own policies; a Deny holds for
    /// everyone of the account.
    Account,
    /// The role of a session: permissions boundary and session policies limit what this allows.
    Role,
    /// Itself, or everyone.
    Itself,
}

impl Naming {
    /// The outcome where all else fits.
    pub(super) fn outcome(self) -> StatementOutcome {
        match self {
            Self::No => StatementOutcome::OtherPrincipal,
            Self::Account => StatementOutcome::AppliesToAccount,
            Self::Role => StatementOutcome::AppliesToRole,
            Self::Itself => StatementOutcome::Applies,
        }
    }
}

/// The `Principal` or `NotPrincipal` of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PrincipalElement {
    Named(Vec<PrincipalName>),
    /// Only with Deny.
    AllBut(Vec<PrincipalName>),
}

impl PrincipalElement {
    pub(super) fn naming(&self, who: &Principal) -> Naming {
        match self {
            Self::Named(names) => {
                let closest = names.iter().map(|n| who.naming(n)).max();
                closest.unwrap_or(Naming::No)
            }
            // AWS exempts a principal from such a Deny only if its account is listed beside
            // it, and for a session the role and the session as well.
            Self::AllBut(names) => {
                let listed = |arn: &str| {
                    names
                        .iter()
                        .any(|n| matches!(n, PrincipalName::Arn(a) if a == arn))
                };
                let account = names.iter().any(
                    |n| matches!(n, PrincipalName::Account(account) if *account == who.account),
                );
                let everyone = names.contains(&PrincipalName::Everyone);
                let exempt = everyone
                    || (account
                        && match &who.kind {
                            PrincipalKind::Root => true,
                            PrincipalKind::User => listed(&who.arn),
                            PrincipalKind::Session { role } => listed(role) && listed(&who.arn),
                        });
                if exempt { Naming::No } else { Naming::Itself }
            }
        }
    }
}

/// 21 letters and digits, as AWS's ids have.
fn unique_id(prefix: &str, arn: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = digest::digest(&digest::SHA256, arn.as_bytes());
    let letters = hash.as_ref().iter().take(17);
    let letters = letters.map(|byte| char::from(LETTERS[usize::from(byte & 31)]));
    prefix.chars().chain(letters).collect()
}

pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

struct ArnParts<'a> {
    partition: &'a str,
    service: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> ArnParts<'a> {
    /// `arn:<partition>:<service>::<account>:<resource>`
    fn of(arn: &'a str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        if parts.next()? != "arn" {
            return None;
        }
        let partition = parts.next()?;
        let service = parts.next()?;
        let region = parts.next()?;
        let account = parts.next()?;
        let resource = parts.next()?;
        let known = matches!(partition, "aws" | "aws-cn" | "aws-us-gov");
        let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-/*?$:{}".contains(c);
        (known
            && region.is_empty()
            && is_account(account)
            && !resource.is_empty()
            && resource.chars().all(plain))
        .then_some(Self {
            partition,
            service,
            account,
            resource,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_wildcards_or_unknown_forms_are_refused() {
        for text in [
            "",
            "arn:aws:iam::111122223333:user/*",
            "arn:aws:iam::111122223333:role/a?",
            "arn:aws:iam::*:root",
            "arn:aws:iam::1111:root",
            "arn:aws:iam::111122223333:user/",
            "arn:aws:iam::111122223333:group/x",
            "arn:aws:s3:::bucket",
            "1111222233334",
        ] {
            assert_eq!(PrincipalName::aws(text), None, "{text}");
        }
        assert_eq!(PrincipalName::service("ec2"), None);
        assert!(PrincipalName::service("ec2.amazonaws.com").is_some());
    }

    #[test]
    fn a_session_is_named_by_its_role_and_by_itself() {
        let who = Principal::from_arn("arn:aws:sts::111122223333:assumed-role/Host/i-01").unwrap();
        for (name, naming) in [
            ("arn:aws:iam::111122223333:role/Host", Naming::Role),
            (
                "arn:aws:sts::111122223333:assumed-role/Host/i-01",
                Naming::Itself,
            ),
            (
                "arn:aws:sts::111122223333:assumed-role/Host/i-02",
                Naming::No,
            ),
            ("111122223333", Naming::Account),
            ("arn:aws:iam::111122223333:root", Naming::Account),
            ("444455556666", Naming::No),
            ("*", Naming::Itself),
        ] {
            let element = PrincipalElement::Named(vec![PrincipalName::aws(name).unwrap()]);
            assert_eq!(element.naming(&who), naming, "{name}");
        }
    }

    #[test]
    fn not_principal_exempts_only_whom_it_lists_with_the_account() {
        let bob = Principal::from_arn("arn:aws:iam::111122223333:user/bob").unwrap();
        let eve = Principal::from_arn("arn:aws:iam::111122223333:user/eve").unwrap();
        let name = |t: &str| PrincipalName::aws(t).unwrap();
        let both = PrincipalElement::AllBut(vec![
            name("arn:aws:iam::111122223333:user/bob"),
            name("111122223333"),
        ]);
        assert_eq!(both.naming(&bob), Naming::No);
        assert_eq!(both.naming(&eve), Naming::Itself);
        let alone = PrincipalElement::AllBut(vec![name("arn:aws:iam::111122223333:user/bob")]);
        assert_eq!(alone.naming(&bob), Naming::Itself);
    }
}
