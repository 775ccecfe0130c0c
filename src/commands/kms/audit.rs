//! `anchorhold kms audit verify`: whether the audit log is what the service wrote.

use std::path::PathBuf;
use std::process::ExitCode;

use anchorhold_kms::audit::{self, Report};
use anchorhold_kms::config::RootKey;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::errors::one_line;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Find every edit, gap, swap and cut in the audit log
    Verify(Arguments),
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold kms audit verify\n  \
    anchorhold kms audit verify --state /var/lib/anchorhold-kms\n  \
    anchorhold kms audit verify --files audit-00000000000000000001.ndjson audit.ndjson\n\n\
    With the state folder the lines' MACs are checked under a key that is derived from the root key, and \
    the end against the head that is kept apart. With --files alone it is only checked whether the lines \
    hang together: whoever can write the files could have made them all anew.\n\
    Exit code 0: good; 1: something is wrong; 2: cannot be read.")]
pub(crate) struct Arguments {
    /// The service's state folder; default: that of the development preset
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    state: Option<PathBuf>,
    /// A file with the table [root_key]; default: the file root.key in the state folder
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    config: Option<PathBuf>,
    /// Copies of the log, the oldest first, without the root key
    #[arg(long, value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Older files are kept elsewhere: the log need not begin with line 1
    #[arg(long)]
    archived: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> ExitCode {
    let Command::Verify(arguments) = command;
    match report(arguments) {
        Ok(report) => conclude(arguments, &report),
        Err(error) => {
            eprintln!("anchorhold: {}", one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn report(arguments: &Arguments) -> anyhow::Result<Report> {
    if arguments.files.is_empty() {
        let state = super::state_folder(arguments.state.as_deref())?;
        let root = match &arguments.config {
            None => RootKey::InState,
            Some(file) => RootKey::from_file(file)?,
        };
        Ok(audit::verify(&state, &root)?)
    } else {
        Ok(audit::verify_without_key(&arguments.files)?)
    }
}

fn conclude(arguments: &Arguments, report: &Report) -> ExitCode {
    let begins_late = !arguments.archived && report.first.is_some_and(|first| first > 1);
    let is_good = report.is_good() && !begins_late;
    if arguments.json {
        let mut value = json!(report);
        value["good"] = is_good.into();
        println!("{value:#}");
    } else {
        for finding in &report.findings {
            println!("{finding}");
        }
        if begins_late {
            println!(
                "the log begins with line {}: older files are missing (--archived if they are kept elsewhere)",
                report.first.unwrap_or_default()
            );
        }
        let lines = report.lines;
        let what = match (is_good, report.authenticated) {
            (true, true) => "every line is as the service wrote it",
            (true, false) => "the lines hang together; their MACs were not checked",
            (false, _) => "NOT GOOD",
        };
        println!("{lines} lines in {} files: {what}", report.files.len());
        if let (Some(head), Some(last)) = (report.head, report.last)
            && last > head
        {
            println!("lines {} to {last} came after the last head", head + 1);
        }
    }
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
