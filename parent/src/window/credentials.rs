//! The host's own AWS credentials, handed to the enclave under `GET /credentials` for its requests to the key service.
//!
//! They let the enclave ask; what it may have, the key policy decides by its attestation. Never print or log them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The most bytes that a credentials file may have.
const LARGEST_FILE: u64 = 64 * 1024;

/// Where the credentials come from, as a choice that can be passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialsSource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` of the process that serves the window,
    /// captured at its start. Where the first two are absent there are no credentials.
    #[default]
    Environment,
    /// A file with container-credentials JSON (`AccessKeyId`, `SecretAccessKey`, `Token`, `Expiration`), read anew for
    /// each request, so that whoever refreshes them replaces the file.
    File(PathBuf),
    /// None: the enclave is answered 404.
    Nothing,
}

/// Why there are no credentials although a source for them was named.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One of the two variables that go together is missing or empty.
    #[error("{present} is set but {missing} is not: set both, or neither")]
    Incomplete {
        /// The variable that is set.
        present: &'static str,
        /// The variable that is missing.
        missing: &'static str,
    },
    /// A variable holds something that no credentials have.
    #[error("{0} is not printable ASCII: set it again")]
    NotAscii(&'static str),
    /// The file cannot be read.
    #[error("the credentials file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be. What it holds is not repeated.
    #[error("the credentials file {} is not container-credentials JSON with AccessKeyId and SecretAccessKey", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A set of credentials in the field names of the AWS container credentials endpoint.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerCredentials {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
}

impl Drop for ContainerCredentials {
    fn drop(&mut self) {
        self.secret_access_key.zeroize();
        self.token.zeroize();
    }
}

impl ContainerCredentials {
    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Sized for the worst escaping up front, so that growth leaves no copy behind.
        let text = |field: &Option<String>| field.as_ref().map_or(0, String::len);
        let characters = self.access_key_id.len()
            + self.secret_access_key.len()
            + text(&self.token)
            + text(&self.expiration);
        let mut json = Zeroizing::new(Vec::with_capacity(6 * characters + 128));
        serde_json::to_writer(&mut *json, self).expect("strings always serialize");
        json
    }
}

/// What answers `GET /credentials`.
pub struct Credentials(Kept);

enum Kept {
    Nothing,
    Captured(Zeroizing<Vec<u8>>),
    File(PathBuf),
}

impl Default for Credentials {
    fn default() -> Self {
        Self::nothing()
    }
}

impl Credentials {
    /// No credentials: every request is answered 404.
    pub fn nothing() -> Self {
        Self(Kept::Nothing)
    }

    /// Captures the environment, or notes the file and checks that it can be read now.
    pub fn open(source: &CredentialsSource) -> Result<Self, CredentialsError> {
        match source {
            CredentialsSource::Nothing => Ok(Self::nothing()),
            CredentialsSource::Environment => {
                Self::from_variables(std::env::var_os::<&'static str>)
            }
            CredentialsSource::File(path) => {
                let credentials = Self(Kept::File(path.clone()));
                credentials.json()?;
                Ok(credentials)
            }
        }
    }

    fn from_variables(
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, CredentialsError> {
        const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
        const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
        const TOKEN: &str = "AWS_SESSION_TOKEN";
        let text = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => match value.into_string() {
                Ok(value) if value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(value)),
                _ => Err(CredentialsError::NotAscii(name)),
            },
        };
        let (access_key_id, secret_access_key) = match (text(KEY_ID)?, text(SECRET)?) {
            (None, None) => return Ok(Self::nothing()),
            (Some(_), None) => {
                return Err(CredentialsError::Incomplete {
                    present: KEY_ID,
                    missing: SECRET,
                });
            }
            (None, Some(mut secret)) => {
                secret.zeroize();
                return Err(CredentialsError::Incomplete {
                    present: SECRET,
                    missing: KEY_ID,
                });
            }
            (Some(id), Some(secret)) => (id, secret),
        };
        let credentials = ContainerCredentials {
            access_key_id,
            secret_access_key,
            token: text(TOKEN)?,
            expiration: None,
        };
        Ok(Self(Kept::Captured(credentials.to_json())))
    }

    /// Container-credentials JSON, or `None` where there are no credentials. Reads a file, so it may block briefly.
    pub fn json(&self) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialsError> {
        match &self.0 {
            Kept::Nothing => Ok(None),
            Kept::Captured(json) => Ok(Some(json.clone())),
            Kept::File(path) => {
                let mut text = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + 1));
                File::open(path)
                    .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut text))
                    .map_err(|source| CredentialsError::Unreadable {
                        path: path.clone(),
                        source,
                    })?;
                // Read and written anew, so that only the known fields leave and nothing else that the file holds.
                let credentials = (text.len() as u64 <= LARGEST_FILE)
                    .then(|| serde_json::from_slice::<ContainerCredentials>(&text).ok())
                    .flatten()
                    .filter(|found| {
                        !found.access_key_id.is_empty() && !found.secret_access_key.is_empty()
                    })
                    .ok_or_else(|| CredentialsError::Malformed { path: path.clone() })?;
                Ok(Some(credentials.to_json()))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    fn from(variables: &[(&'static str, &str)]) -> Result<Credentials, CredentialsError> {
        Credentials::from_variables(|name| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(value))
        })
    }

    #[test]
    fn the_environment_becomes_container_credentials() {
        let credentials = from(&[
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ])
        .unwrap();
        assert_eq!(
            credentials.json().unwrap().unwrap().as_slice(),
            br#"{"AccessKeyId":"AKID","SecretAccessKey":"secret","Token":"token"}"#
        );
    }

    #[test]
    fn without_variables_there_are_no_credentials() {
        assert!(from(&[]).unwrap().json().unwrap().is_none());
        assert!(
            from(&[("AWS_ACCESS_KEY_ID", "")])
                .unwrap()
                .json()
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn half_a_pair_names_the_missing_half() {
        let error = from(&[("AWS_ACCESS_KEY_ID", "AKID")]).err().unwrap();
        assert!(
            error.to_string().contains("AWS_SECRET_ACCESS_KEY is not"),
            "{error}"
        );
        let error = from(&[("AWS_SECRET_ACCESS_KEY", "hush")]).err().unwrap();
        assert!(
            error.to_string().contains("AWS_ACCESS_KEY_ID is not"),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("hush"));
    }

    #[test]
    fn a_replaced_file_is_seen_and_only_known_fields_leave() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.json");
        std::fs::write(
            &path,
            r#"{"AccessKeyId":"A","SecretAccessKey":"b","RoleArn":"arn"}"#,
        )
        .unwrap();
        let credentials = Credentials::open(&CredentialsSource::File(path.clone())).unwrap();
        assert_eq!(
            credentials.json().unwrap().unwrap().as_slice(),
            br#"{"AccessKeyId":"A","SecretAccessKey":"b"}"#
        );
        std::fs::write(&path, r#"{"AccessKeyId":"A2","SecretAccessKey":"b2","Token":"t","Expiration":"2030-01-01T00:00:00Z"}"#).unwrap();
        assert_eq!(
            credentials.json().unwrap().unwrap().as_slice(),
            br#"{"AccessKeyId":"A2","SecretAccessKey":"b2","Token":"t","Expiration":"2030-01-01T00:00:00Z"}"#
        );
        std::fs::write(&path, r#"{"AccessKeyId":"hush"}"#).unwrap();
        let error = credentials.json().err().unwrap();
        assert!(matches!(error, CredentialsError::Malformed { .. }));
        assert!(!error.to_string().contains("hush"));
    }
}
