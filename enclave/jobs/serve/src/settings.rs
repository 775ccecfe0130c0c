//! What the measured manifest tells the job: `[job.settings]`, as JSON in a variable.

use serde::de::DeserializeOwned;

/// The variable that has them.
pub const SETTINGS_VARIABLE: &str = "ANCHORHOLD_JOB_SETTINGS";

/// The settings are not what the job knows.
#[derive(Debug, thiserror::Error)]
#[error("[job.settings] in anchorhold.toml: {0}")]
pub struct SettingsError(#[source] serde_json::Error);

/// The settings; those of an empty table where the manifest has none.
///
/// # Errors
/// They have not the job's form. The words are serde's, and quote the manifest, which is no secret.
pub fn settings<T: DeserializeOwned>() -> Result<T, SettingsError> {
    let text = std::env::var(SETTINGS_VARIABLE).unwrap_or_else(|_| "{}".to_owned());
    serde_json::from_str(&text).map_err(SettingsError)
}
