//! `anchorhold logs`: what an enclave wrote on its console.

mod sealed;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anchorhold_parent::daemon::ApiClient;
use anchorhold_parent::lifecycle::{Home, Line, RingReader, State, find, list};
use anyhow::Context as _;
use clap::Args;

use crate::files::input;
use crate::key_service::EndpointArguments;
use sealed::Opening;

/// Between two looks for more, while it is followed.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Args)]
#[command(after_help = "Examples:\n  anchorhold logs cards\n  \
    anchorhold logs cards --follow --since 10m --json\n  \
    anchorhold logs cards --open --key alias/cards-logs\n  \
    anchorhold logs --open --key alias/cards-logs --input console.log\n\n\
    The runtime writes there what it did and why a call failed, never what a job was given. A job's own \
    stderr is dropped unless its manifest says [log] job_stderr = \"forward\", or the enclave is in debug mode.\n\
    The newest lines are kept, 2 to 4 MiB of them, and those of an enclave that has ended.\n\n\
    Where the manifest has log.encrypt_to, all but the enclave's start and end is sealed. --open opens it with the owner's \
    credentials, and says on standard error what the host has left out, repeated or put in another order: the exit \
    code is 1 then. What is not sealed is printed behind \"unsealed: \": the host can have written it.")]
pub(crate) struct Arguments {
    /// The enclave's name
    #[arg(required_unless_present = "input")]
    name: Option<String>,
    /// Go on until the enclave ends, or, where a daemon keeps it running, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Nothing older: seconds, or with s, m, h or d; or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Print JSON lines with times
    #[arg(long)]
    json: bool,
    /// Open what is sealed, as its owner
    #[arg(long, requires = "key")]
    open: bool,
    /// Demand that it is sealed under this key: id, ARN or alias
    #[arg(long, value_name = "KEY", requires = "open")]
    key: Option<String>,
    /// Lines that somebody else has taken from the host, as they are or as --json prints them, instead of this host's; `-` is
    /// standard input
    #[arg(long, value_name = "FILE", requires = "open", conflicts_with_all = ["name", "follow"])]
    input: Option<PathBuf>,
    #[command(flatten)]
    endpoint: EndpointArguments,
}

/// Milliseconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_millisecond()).map_err(|_| "that is before 1970".to_owned());
    }
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| {
        "write 90, 90s, 10m, 2h, 1d, or a time such as 2026-01-31T12:00:00Z".to_owned()
    })?;
    Ok(now.saturating_sub(number.saturating_mul(unit * 1000)))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut out = match &arguments.key {
        Some(key) if arguments.open => Out::Opening(Opening::begin(
            arguments.endpoint.client(Some(key))?,
            key.clone(),
            arguments.since.unwrap_or(0),
            arguments.json,
        )?),
        _ => Out::Plain,
    };
    let printed = pass(arguments, &mut out);
    let whole = match out {
        Out::Plain => true,
        Out::Opening(opening) => opening.end()?,
    };
    printed?;
    Ok(ExitCode::from(u8::from(!whole)))
}

/// What becomes of lines.
enum Out {
    Plain,
    Opening(Opening),
}

fn pass(arguments: &Arguments, out: &mut Out) -> anyhow::Result<()> {
    if let Some(path) = &arguments.input {
        for line in BufReader::new(input(path)?).split(b'\n') {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            print(arguments, out, &of_a_file(&line))?;
        }
        return Ok(());
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let home = Home::from_environment()?;
    if let Some(daemon) = ApiClient::find(&home)? {
        return super::block_on(by_daemon(arguments, name, &daemon, out));
    }
    let enclave = find(&home, name)?;
    let mut readers: Vec<RingReader> = list(&home)?
        .iter()
        .filter(|state| is_of(state, name, &enclave))
        .map(|state| RingReader::new(&state.dir))
        .collect();
    loop {
        // Asked before reading, so that what is written before the end is always seen.
        let last = !arguments.follow
            || find(&home, name).map_or(true, |enclave| !enclave.status.is_running());
        for reader in &mut readers {
            loop {
                let lines = reader
                    .read()
                    .with_context(|| format!("the log of {name} cannot be read"))?;
                if lines.is_empty() {
                    break;
                }
                for line in lines {
                    print(arguments, out, &line)?;
                }
            }
        }
        io::stdout().flush()?;
        if last {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// A line as it is kept, or as it was written.
fn of_a_file(line: &[u8]) -> Line {
    serde_json::from_slice(line).unwrap_or_else(|_| Line {
        at_ms: 0,
        line: anchorhold_parent::lifecycle::printable(line, 64 * 1024)
            .trim_end()
            .to_owned(),
    })
}

/// Whether it is an instance of what was asked for.
fn is_of(state: &State, name: &str, found: &State) -> bool {
    state.name == found.name || state.of.as_deref() == Some(name)
}

async fn by_daemon(
    arguments: &Arguments,
    name: &str,
    daemon: &ApiClient,
    out: &mut Out,
) -> anyhow::Result<()> {
    // Frames are counted from the first that is there.
    let since = if arguments.open {
        0
    } else {
        arguments.since.unwrap_or(0)
    };
    let path = format!(
        "/v1/enclaves/{}/logs?since_ms={since}&follow={}",
        super::in_a_path(name)?,
        arguments.follow
    );
    let mut held = Vec::new();
    daemon
        .stream(&path, |piece| {
            held.extend_from_slice(piece);
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line: Line = serde_json::from_slice(&held[..end])?;
                held.drain(..=end);
                print(arguments, out, &line)?;
            }
            io::stdout().flush()
        })
        .await?;
    Ok(())
}

fn print(arguments: &Arguments, out: &mut Out, line: &Line) -> io::Result<()> {
    if let Out::Opening(opening) = out {
        return opening.take(&line.line);
    }
    if line.at_ms < arguments.since.unwrap_or(0) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, line)?;
        writeln!(out)
    } else {
        writeln!(out, "{}", line.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ages_or_instants() {
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(1000));
        let (one, other) = (since("2m"), since("120"));
        assert!(other.is_ok_and(|other| one.is_ok_and(|one| other.abs_diff(one) < 60_000)));
        for wrong in ["", "m", "yesterday", "-1", "1w"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
