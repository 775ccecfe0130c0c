//! Reads the reasons of refusals from the key service's audit log.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

/// The audit log, read from where it was last read to.
pub(crate) struct Audit {
    path: PathBuf,
}

impl Audit {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn lines(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.path)
            .with_context(|| format!("cannot read the audit log {}", self.path.display()))?;
        text.lines()
            .map(|line| {
                serde_json::from_str(line).context("the audit log has a line that is no JSON")
            })
            .collect()
    }

    /// How many requests it holds.
    pub(crate) fn length(&self) -> anyhow::Result<usize> {
        Ok(self.lines()?.len())
    }

    /// Why a request after the first `seen` ones was refused: the last one.
    pub(crate) fn refusal_after(&self, seen: usize) -> anyhow::Result<String> {
        let lines = self.lines()?;
        let refused = lines
            .iter()
            .skip(seen)
            .rev()
            .find(|line| line["errorCode"].is_string())
            .context("the audit log holds no refusal")?;
        let reason = refused["anchorhold"]["reason"]
            .as_str()
            .context("a refusal in the audit log has no reason")?;
        Ok(reason.to_owned())
    }
}
