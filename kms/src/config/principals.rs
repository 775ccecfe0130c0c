//! Accounts, users, roles and their sessions, as the configuration file names them.
//!
//! Every error names file, line and column. Secrets are read from files that nobody but their
//! owner may read, and stand in no message.

use super::{ConfigError, read, read_secret};
use crate::identity::Identity;
use crate::policy::{IdentityPolicy, Kind, Permissions, Policy, Principal, is_account};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use toml::Spanned;
use toml::value::Datetime;

/// A place in the configuration file: `kms.toml:12:8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountTable {
    id: Spanned<String>,
    root: Option<RootTable>,
    #[serde(default)]
    users: Vec<UserTable>,
    #[serde(default)]
    roles: Vec<RoleTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RootTable {
    access_keys: Vec<AccessKeyTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserTable {
    name: Spanned<String>,
    path: Option<Spanned<String>>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    policies: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    inline_policies: BTreeMap<String, Spanned<String>>,
    permissions_boundary: Option<Spanned<PathBuf>>,
    #[serde(default)]
    access_keys: Vec<AccessKeyTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleTable {
    name: Spanned<String>,
    path: Option<Spanned<String>>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    policies: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    inline_policies: BTreeMap<String, Spanned<String>>,
    permissions_boundary: Option<Spanned<PathBuf>>,
    #[serde(default)]
    sessions: Vec<SessionTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionTable {
    name: Spanned<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    policies: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    inline_policies: BTreeMap<String, Spanned<String>>,
    access_key: AccessKeyTable,
    session_token_file: PathBuf,
    issued: Option<Spanned<Datetime>>,
    expires: Option<Spanned<Datetime>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessKeyTable {
    id: Spanned<String>,
    secret_file: PathBuf,
}

/// The file being read.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    fn base(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// All principals of all accounts that have access keys.
    pub(super) fn identities(
        &self,
        accounts: Vec<AccountTable>,
    ) -> Result<Vec<Identity>, ConfigError> {
        let mut identities = Vec::new();
        let mut seen = Seen::default();
        for account in accounts {
            if !is_account(account.id.get_ref()) {
                return Err(self.wrong(&account.id, "is not an account's number: twelve digits"));
            }
            seen.add(self, "account", &account.id, "")?;
            let id = account.id.get_ref();
            for key in account.root.into_iter().flat_map(|root| root.access_keys) {
                let principal = self.principal(&format!("arn:aws:iam::{id}:root"), &account.id)?;
                identities.push(self.identity(principal, &key, &mut seen)?);
            }
            for user in account.users {
                self.user(id, &user, &mut seen, &mut identities)?;
            }
            for role in account.roles {
                self.role(id, role, &mut seen, &mut identities)?;
            }
        }
        Ok(identities)
    }

    fn user(
        &self,
        account: &str,
        user: &UserTable,
        seen: &mut Seen,
        identities: &mut Vec<Identity>,
    ) -> Result<(), ConfigError> {
        seen.add(self, "user", &user.name, account)?;
        let name = self.named(&user.name, user.path.as_ref())?;
        let principal =
            self.principal(&format!("arn:aws:iam::{account}:user/{name}"), &user.name)?;
        let policies = Permissions {
            policies: self.policies(&user.policies, &user.inline_policies)?,
            boundary: self.boundary(user.permissions_boundary.as_ref())?,
            session: Vec::new(),
        };
        for key in &user.access_keys {
            identities.push(Identity {
                policies: policies.clone(),
                tags: user.tags.clone(),
                ..self.identity(principal.clone(), key, seen)?
            });
        }
        Ok(())
    }

    fn role(
        &self,
        account: &str,
        role: RoleTable,
        seen: &mut Seen,
        identities: &mut Vec<Identity>,
    ) -> Result<(), ConfigError> {
        seen.add(self, "role", &role.name, account)?;
        let with_path = self.named(&role.name, role.path.as_ref())?;
        let role_arn = format!("arn:aws:iam::{account}:role/{with_path}");
        let role_name = role.name.get_ref();
        let policies = self.policies(&role.policies, &role.inline_policies)?;
        let boundary = self.boundary(role.permissions_boundary.as_ref())?;
        for session in role.sessions {
            let name = session.name.get_ref();
            if !(2..=64).contains(&name.len()) || !name.chars().all(is_name_character) {
                return Err(self.wrong(
                    &session.name,
                    "is not a session's name: 2 to 64 letters, digits and +=,.@_-",
                ));
            }
            let arn = format!("arn:aws:sts::{account}:assumed-role/{role_name}/{name}");
            let principal = self
                .principal(&arn, &session.name)?
                .with_role(&role_arn)
                .ok_or_else(|| self.wrong(&role.name, "is not a role's name"))?;
            let mut tags = role.tags.clone();
            tags.extend(session.tags);
            identities.push(Identity {
                policies: Permissions {
                    policies: policies.clone(),
                    boundary: boundary.clone(),
                    session: self.policies(&session.policies, &session.inline_policies)?,
                },
                tags,
                session_token: Some(read_secret(&self.base().join(session.session_token_file))?),
                issued: self.time(session.issued.as_ref())?,
                expires: self.time(session.expires.as_ref())?,
                ..self.identity(principal, &session.access_key, seen)?
            });
        }
        Ok(())
    }

    fn identity(
        &self,
        principal: Principal,
        key: &AccessKeyTable,
        seen: &mut Seen,
    ) -> Result<Identity, ConfigError> {
        let id = key.id.get_ref();
        if !(16..=128).contains(&id.len()) || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(self.wrong(
                &key.id,
                "is not an access key's id: 16 to 128 letters and digits",
            ));
        }
        seen.add(self, "access key", &key.id, "")?;
        let secret = read_secret(&self.base().join(&key.secret_file))?;
        Ok(Identity::new(principal, id, &secret))
    }

    fn principal(&self, arn: &str, at: &Spanned<String>) -> Result<Principal, ConfigError> {
        Principal::from_arn(arn).ok_or_else(|| self.wrong(at, "cannot stand in an ARN"))
    }

    /// The name with its path, without the slash at the beginning.
    fn named(
        &self,
        name: &Spanned<String>,
        path: Option<&Spanned<String>>,
    ) -> Result<String, ConfigError> {
        let text = name.get_ref();
        if !(1..=64).contains(&text.len()) || !text.chars().all(is_name_character) {
            return Err(self.wrong(name, "is not a name: 1 to 64 letters, digits and +=,.@_-"));
        }
        let Some(path) = path else {
            return Ok(text.clone());
        };
        let inner = path.get_ref().as_str();
        let is_path = inner == "/"
            || (inner.starts_with('/')
                && inner.ends_with('/')
                && !inner.contains("//")
                && inner.chars().all(|c| c == '/' || is_name_character(c)));
        if !is_path {
            return Err(self.wrong(path, "is not a path: it begins and ends with /"));
        }
        Ok(format!("{}{text}", &inner[1..]))
    }

    fn policies(
        &self,
        files: &[Spanned<PathBuf>],
        inline: &BTreeMap<String, Spanned<String>>,
    ) -> Result<Vec<IdentityPolicy>, ConfigError> {
        let mut policies = Vec::new();
        for file in files {
            policies.push(self.policy_file(file)?);
        }
        for (name, text) in inline {
            let policy = Policy::parse(text.get_ref(), Kind::Identity).map_err(|source| {
                ConfigError::InlinePolicy {
                    place: self.place(&text.span()),
                    name: name.clone(),
                    source: Box::new(source),
                }
            })?;
            policies.push(IdentityPolicy {
                name: name.clone(),
                policy,
            });
        }
        Ok(policies)
    }

    fn boundary(
        &self,
        file: Option<&Spanned<PathBuf>>,
    ) -> Result<Option<IdentityPolicy>, ConfigError> {
        file.map(|file| self.policy_file(file)).transpose()
    }

    fn policy_file(&self, file: &Spanned<PathBuf>) -> Result<IdentityPolicy, ConfigError> {
        let path = self.base().join(file.get_ref());
        let text = read(&path).map_err(|error| ConfigError::At {
            place: self.place(&file.span()),
            why: error.to_string(),
        })?;
        match Policy::parse(&text, Kind::Identity) {
            Ok(policy) => Ok(IdentityPolicy {
                name: path.file_stem().map_or_else(
                    || path.display().to_string(),
                    |stem| stem.to_string_lossy().into_owned(),
                ),
                policy,
            }),
            Err(source) => Err(ConfigError::Policy { path, source }),
        }
    }

    fn time(&self, time: Option<&Spanned<Datetime>>) -> Result<Option<SystemTime>, ConfigError> {
        let Some(time) = time else { return Ok(None) };
        let parsed: Result<jiff::Timestamp, _> = time.get_ref().to_string().parse();
        parsed
            .map(|t| Some(SystemTime::from(t)))
            .map_err(|_| ConfigError::At {
                place: self.place(&time.span()),
                why: format!(
                    "{} is not a time with its zone, such as 2027-01-01T00:00:00Z",
                    time.get_ref()
                ),
            })
    }

    fn wrong(&self, value: &Spanned<String>, why: &str) -> ConfigError {
        ConfigError::At {
            place: self.place(&value.span()),
            why: format!("{:?} {why}", value.get_ref()),
        }
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+=,.@_-".contains(c)
}

/// Names that were used, since each may be used once.
#[derive(Default)]
struct Seen(BTreeMap<(&'static str, String, String), Place>);

impl Seen {
    fn add(
        &mut self,
        source: &Source<'_>,
        kind: &'static str,
        name: &Spanned<String>,
        within: &str,
    ) -> Result<(), ConfigError> {
        let place = source.place(&name.span());
        let key = (kind, within.to_owned(), name.get_ref().clone());
        if let Some(first) = self.0.get(&key) {
            return Err(ConfigError::At {
                place,
                why: format!(
                    "the {kind} {:?} is there already, at {first}",
                    name.get_ref()
                ),
            });
        }
        self.0.insert(key, place);
        Ok(())
    }
}
