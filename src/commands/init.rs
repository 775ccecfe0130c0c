//! `anchorhold init`: writes a manifest with a comment for each line.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

/// Everything that a manifest can say. What is optional stands as a comment.
pub(crate) const MANIFEST: &str = include_str!("init.toml");

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold init && $EDITOR anchorhold.toml && anchorhold build --program ./job --manifest anchorhold.toml -o job.eif")]
pub(crate) struct Arguments {
    /// Where to write it
    #[arg(default_value = "anchorhold.toml")]
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&arguments.file)
        .with_context(|| {
            format!(
                "cannot make {} (an existing file is left as it is)",
                arguments.file.display()
            )
        })?;
    file.write_all(MANIFEST.as_bytes())
        .with_context(|| format!("cannot write {}", arguments.file.display()))?;
    println!("{}", arguments.file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use anchorhold_manifest::Manifest;

    use super::MANIFEST;

    #[test]
    fn the_manifest_is_good_as_it_is_and_with_every_comment_that_is_a_setting_taken_off() {
        let plain = Manifest::parse(MANIFEST).unwrap();
        assert_eq!(plain.job.command, ["/job"]);
        // Settings stand behind `#` without a space; explanations have one. Each contract has a table of its own.
        for (contract, other) in [("http", "[fields]"), ("lines", "[http]")] {
            let mut table = "";
            let full: String = MANIFEST
                .lines()
                .map(|line| match line.strip_prefix('#') {
                    Some(setting) if !setting.starts_with(' ') => setting,
                    _ => line,
                })
                .filter(|line| {
                    if line.starts_with('[') {
                        table = line;
                    }
                    table != other
                })
                .map(|line| {
                    if line.starts_with("contract = ") {
                        format!("contract = \"{contract}\"\n")
                    } else {
                        format!("{line}\n")
                    }
                })
                .collect();
            let full = Manifest::parse(&full).unwrap();
            has_all(&full);
            assert_eq!(full.fields.is_some(), contract == "lines");
            assert_eq!(full.http.is_some(), contract == "http");
        }
    }

    fn has_all(full: &Manifest) {
        assert!(full.key_service.is_some());
        assert_eq!(full.secrets.len(), 1);
        assert_eq!(full.egress.allow.len(), 1);
        assert!(full.job.user.is_some() && full.job.working_directory.is_some());
        assert!(full.image.name.is_some() && !full.job.environment.is_empty());
    }
}
