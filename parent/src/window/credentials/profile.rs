//! Profiles of AWS's shared files, as far as they hold credentials themselves.
//!
//! A profile that only says how to get some (a role to assume, a program, a single sign-on) is refused by name: to pass over it
//! would hand in others than an AWS tool on this host would use.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{ContainerCredentials, CredentialsError, Variables, read_whole};

/// Settings that stand for another way to credentials.
const ELSEWHERE: [&str; 6] = [
    "role_arn",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
    "login_session",
];

/// What is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileProblem {
    /// There is none of that name.
    #[error(
        "no shared file has credentials of that name; set AWS_PROFILE, or choose another source"
    )]
    Unknown,
    /// It has only one of the two that go together.
    #[error("it has {present} without {missing}")]
    Incomplete {
        /// The setting that it has.
        present: &'static str,
        /// The setting that it lacks.
        missing: &'static str,
    },
    /// It gets its credentials in another way.
    #[error(
        "it gets its credentials by {0}, which is not supported here: hand in what `aws configure export-credentials` prints"
    )]
    Elsewhere(&'static str),
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Which profile, of which files.
pub(super) struct Profiles {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
    name: String,
    /// Whether somebody asked for it by name, so that its absence is an error.
    is_named: bool,
}

impl Profiles {
    pub(super) fn from_variables(variables: &Variables, name: Option<String>) -> Self {
        let value = |name| variables(name).filter(|value: &OsString| !value.is_empty());
        let home = value("HOME").map(PathBuf::from);
        let file = |variable, below: &str| {
            value(variable)
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(".aws").join(below)))
        };
        let chosen = name.or_else(|| value("AWS_PROFILE")?.into_string().ok());
        Self {
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: file("AWS_CONFIG_FILE", "config"),
            is_named: chosen.is_some(),
            name: chosen.unwrap_or_else(|| "default".to_owned()),
        }
    }

    fn error(&self, problem: ProfileProblem) -> CredentialsError {
        CredentialsError::Profile {
            profile: self.name.clone(),
            problem,
        }
    }

    /// None where there is no such profile and nobody asked for it by name.
    pub(super) fn read(&self) -> Result<Option<ContainerCredentials>, CredentialsError> {
        let mut found = None;
        for (path, is_config) in [(&self.credentials, false), (&self.config, true)] {
            let Some(path) = path else {
                continue;
            };
            let Some(text) = text_of(path).map_err(|problem| self.error(problem))? else {
                continue;
            };
            match read_profile_of(&text, &self.name, is_config) {
                Ok(Some(credentials)) if found.is_none() => found = Some(credentials),
                Ok(_) => {}
                Err(problem) => return Err(self.error(problem)),
            }
        }
        if found.is_none() && self.is_named {
            return Err(self.error(ProfileProblem::Unknown));
        }
        Ok(found)
    }

    /// The same, but its absence is an error in any case.
    pub(super) fn read_named(&self) -> Result<ContainerCredentials, CredentialsError> {
        self.read()?
            .ok_or_else(|| self.error(ProfileProblem::Unknown))
    }
}

fn text_of(path: &Path) -> Result<Option<Zeroizing<String>>, ProfileProblem> {
    let cannot = |problem: &dyn std::fmt::Display| {
        ProfileProblem::Unreadable(format!("{} cannot be read: {problem}", path.display()))
    };
    match read_whole(path) {
        Ok(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
            Err(error) => Err(cannot(&error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot(&error)),
    }
}

/// Whether a shared file's text has credentials of that profile. For fuzzing.
pub fn read_profile(text: &str, name: &str, is_config: bool) -> Result<bool, ProfileProblem> {
    read_profile_of(text, name, is_config).map(|found| found.is_some())
}

/// The credentials of a profile in the text of a shared file. Sections of one name add up, later settings win.
fn read_profile_of(
    text: &str,
    name: &str,
    is_config: bool,
) -> Result<Option<ContainerCredentials>, ProfileProblem> {
    const ID: &str = "aws_access_key_id";
    const SECRET: &str = "aws_secret_access_key";
    let mut inside = false;
    let mut settings: [Option<&str>; 3] = [None; 3];
    let mut elsewhere = None;
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            let section = section.split(']').next().unwrap_or_default().trim();
            // In the configuration file, profiles but the default one say that they are.
            let of_profile = section
                .strip_prefix("profile")
                .filter(|rest| rest.starts_with([' ', '\t']))
                .map(str::trim);
            let section = match (is_config, of_profile) {
                (true, Some(profile)) => Some(profile),
                (true, None) => Some(section).filter(|section| *section == "default"),
                (false, _) => Some(section),
            };
            inside = section == Some(name);
            continue;
        }
        if !inside || is_nested {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        // A comment behind a value has white space before it.
        let mut value = value.trim();
        for mark in [" #", " ;", "\t#", "\t;"] {
            value = value.split(mark).next().unwrap_or_default().trim_end();
        }
        let key = key.trim().to_ascii_lowercase();
        if let Some(known) = ELSEWHERE.into_iter().find(|known| *known == key) {
            elsewhere = Some(known);
        }
        let at = [ID, SECRET, "aws_session_token"]
            .into_iter()
            .position(|known| known == key);
        if let Some(at) = at {
            settings[at] = Some(value).filter(|value| !value.is_empty());
        }
    }
    if let Some(setting) = elsewhere {
        return Err(ProfileProblem::Elsewhere(setting));
    }
    match settings {
        [Some(id), Some(secret), token] => Ok(Some(ContainerCredentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            token: token.map(ToOwned::to_owned),
            expiration: None,
        })),
        [Some(_), None, _] => Err(ProfileProblem::Incomplete {
            present: ID,
            missing: SECRET,
        }),
        [None, Some(_), _] => Err(ProfileProblem::Incomplete {
            present: SECRET,
            missing: ID,
        }),
        [None, None, _] => Ok(None),
    }
}

#[cfg(test)]
pub(super) type Read = Option<(String, String, Option<String>)>;

#[cfg(test)]
pub(super) fn read_for_tests(
    text: &str,
    name: &str,
    is_config: bool,
) -> Result<Read, ProfileProblem> {
    let found = read_profile_of(text, name, is_config)?;
    Ok(found.map(|of| {
        (
            of.access_key_id.clone(),
            of.secret_access_key.clone(),
            of.token.clone(),
        )
    }))
}
