//! A manifest completed by a container image's configuration, as text: what its author wrote stays as it is, comments
//! included, and what they left open is added to `[job]`.

use anchorhold_manifest::JobDefaults;
use toml_edit::{Array, DocumentMut, Item, Table, value};

/// The manifest with the defaults in it. The text is valid TOML: it was parsed before.
pub(crate) fn completed(text: &str, defaults: &JobDefaults) -> String {
    let mut document: DocumentMut = text.parse().expect("the manifest was parsed before");
    let job = document
        .entry("job")
        .or_insert_with(|| Item::Table(Table::new()))
        .as_table_like_mut()
        .expect("the manifest was checked before");
    if !job.contains_key("command") {
        let command: Array = defaults.command.iter().collect();
        job.insert("command", value(command));
    }
    if let Some(folder) = &defaults.working_directory
        && !job.contains_key("working_directory")
    {
        job.insert("working_directory", value(folder));
    }
    if let Some(user) = defaults.user
        && !job.contains_key("user")
    {
        job.insert("user", value(user.to_string()));
    }
    if !defaults.environment.is_empty() {
        let environment = job
            .entry("environment")
            .or_insert_with(|| Item::Table(Table::new()))
            .as_table_like_mut()
            .expect("the manifest was checked before");
        for (name, text) in &defaults.environment {
            if !environment.contains_key(name) {
                environment.insert(name, value(text));
            }
        }
    }
    document.to_string()
}

#[cfg(test)]
mod tests {
    use anchorhold_manifest::{Manifest, User};

    use super::*;

    fn defaults() -> JobDefaults {
        JobDefaults {
            command: vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                "a \"b\"\n".to_owned(),
            ],
            environment: [
                ("A".to_owned(), "1".to_owned()),
                ("B".to_owned(), "\\2".to_owned()),
            ]
            .into(),
            working_directory: Some("/srv".to_owned()),
            user: Some(User { uid: 7, gid: 8 }),
        }
    }

    #[test]
    fn what_is_written_wins_and_what_is_open_is_filled_in() {
        let texts = [
            "",
            "# only a comment\n",
            "[job]\n",
            "[job]\ncommand = [\"/own\"]   # mine\nuser = \"5:5\"\n\n[log]\njob_stderr = \"forward\"\n",
            "[image]\nname = \"n\"\n\n[job.environment]\nA = \"own\"\n",
            "job = { environment = { A = \"own\" } }\n",
            "job.contract = \"once\"\n",
            "[job]\nenvironment = { A = \"own\" }\n[resources]\ncpus = 2\n",
        ];
        for text in texts {
            let parsed = Manifest::parse_with(text, &defaults()).unwrap();
            let completed = completed(text, &defaults());
            assert_eq!(Manifest::parse(&completed).unwrap(), parsed, "{completed}");
            assert_eq!(parsed.job.environment["B"], "\\2");
            for line in text.lines().filter(|line| line.contains('#')) {
                assert!(completed.contains(line), "{completed}");
            }
        }
    }
}
