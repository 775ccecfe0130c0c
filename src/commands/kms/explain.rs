//! `anchorhold kms explain`: why a request was allowed or refused, from the audit log.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::trace;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold kms explain 5b8ab9b5-0c9a-4d4e-9b43-6d1f7f6e4c0e\n  \
    anchorhold kms explain --last\n\n\
    Every answer of the service carries its id (x-amzn-RequestId); AWS's clients show it with an error. \
    The reason is for the key's owner: whoever called gets AWS's text only.\n\
    Exit code 0: explained, whether the request was allowed or not; 1: no such request in the log.")]
pub(crate) struct Arguments {
    /// The request's id
    #[arg(required_unless_present = "last", conflicts_with = "last")]
    request: Option<String>,
    /// The last request in the log that was refused
    #[arg(long)]
    last: bool,
    /// The service's state folder; default: that of the development preset
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the log's line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let state = super::state_folder(arguments.state.as_deref())?;
    let found = find(&state, arguments.request.as_deref())?;
    let Some(record) = found else {
        match &arguments.request {
            Some(id) => anyhow::bail!(
                "no request {} in the audit log of {}",
                trace::clean(id),
                state.display()
            ),
            None => anyhow::bail!("no refused request in the audit log of {}", state.display()),
        }
    };
    if arguments.json {
        println!("{record:#}");
    } else {
        print!("{}", in_words(&record));
    }
    Ok(())
}

/// The record with this request's id, or the last refused one.
fn find(state: &Path, id: Option<&str>) -> anyhow::Result<Option<Value>> {
    let files = anchorhold_kms::audit::log_files(state)
        .with_context(|| format!("cannot read the folder {}", state.display()))?;
    anyhow::ensure!(
        !files.is_empty(),
        "there is no audit log in {}",
        state.display()
    );
    // The newest first.
    for path in files.iter().rev() {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut found = None;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            let wanted = match id {
                Some(id) => contains(&line, id.as_bytes()),
                None => contains(&line, br#""errorCode":"#),
            };
            // Parsed only where it may be the one.
            if wanted && let Ok(record) = serde_json::from_slice::<Value>(&line) {
                let is_it = match id {
                    Some(id) => record["requestID"].as_str() == Some(id),
                    None => record["errorCode"].is_string(),
                };
                if is_it {
                    found = Some(record);
                }
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && line.windows(text.len()).any(|window| window == text)
}

fn in_words(record: &Value) -> String {
    let text = |value: &Value| trace::clean(value.as_str().unwrap_or("-"));
    let mut lines = vec![format!(
        "{} at {}, request {}",
        text(&record["eventName"]),
        text(&record["eventTime"]),
        text(&record["requestID"])
    )];
    let identity = &record["userIdentity"];
    lines.push(match identity["arn"].as_str() {
        Some(arn) => format!("by      {}", trace::clean(arn)),
        None => format!(
            "by      somebody unknown, who named the access key {}",
            text(&identity["accessKeyId"])
        ),
    });
    lines.push(format!("from    {}", text(&record["sourceIPAddress"])));
    for resource in record["resources"].as_array().into_iter().flatten() {
        lines.push(format!("on      {}", text(&resource["ARN"])));
    }
    let recipient = &record["additionalEventData"]["recipient"];
    for (name, value) in recipient.as_object().into_iter().flatten() {
        let name = name.replace("attestationDocument", "");
        lines.push(format!("enclave {} {}", trace::clean(&name), text(value)));
    }
    let own = &record["anchorhold"];
    match record["errorCode"].as_str() {
        None => lines.push(format!("allowed {}", text(&own["allowedBy"]))),
        Some(code) => {
            lines.push(format!("refused {}", trace::clean(code)));
            lines.push(format!("told    {}", text(&record["errorMessage"])));
            lines.push(format!("because {}", text(&own["reason"])));
        }
    }
    let mut words = lines.join("\n") + "\n";
    let statements = trace::in_words(&own["trace"]);
    if !statements.is_empty() {
        words.push_str("statements\n");
        words.push_str(&statements);
    }
    words
}
