//! Access keys.
//!
//! The secret parts must never be printed or copied: they have no `Debug` and no `Clone`.

use zeroize::Zeroizing;

/// An access key: its public name, its secret, and for temporary ones a token.
pub struct Credentials {
    /// The public name, such as `AKIAIOSFODNN7EXAMPLE`.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: Zeroizing<String>,
    /// Goes with temporary credentials, as `X-Amz-Security-Token`.
    pub session_token: Option<Zeroizing<String>>,
}

impl Credentials {
    /// Long-lived credentials.
    pub fn new(
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<Zeroizing<String>>,
    ) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
        }
    }

    /// From `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where it is set, `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`CredentialsError::Unset`] where one of the first two is not set or is empty.
    pub fn from_env() -> Result<Self, CredentialsError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`Credentials::from_env`], with the variables looked up by `variable`.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CredentialsError> {
        let lookup = |name: &'static str| variable(name).filter(|value| !value.is_empty());
        let required = |name: &'static str| lookup(name).ok_or(CredentialsError::Unset { name });
        Ok(Self {
            access_key_id: required("AWS_ACCESS_KEY_ID")?,
            secret_access_key: required("AWS_SECRET_ACCESS_KEY")?.into(),
            session_token: lookup("AWS_SESSION_TOKEN").map(Zeroizing::new),
        })
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A variable is not set.
    #[error(
        "no credentials: the environment variable {name} is not set; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Unset {
        /// Its name.
        name: &'static str,
    },
    /// Whoever should provide them did not.
    #[error("no credentials: {reason}")]
    NotProvided {
        /// Why, without anything secret.
        reason: String,
    },
}
