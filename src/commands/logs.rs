//! `anchorhold logs`: what an enclave wrote on its console.

use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use anchorhold_parent::daemon::ApiClient;
use anchorhold_parent::lifecycle::{Home, Line, RingReader, State, find, list};
use anyhow::Context as _;
use clap::Args;

/// Between two looks for more, while it is followed.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Args)]
#[command(after_help = "Examples:\n  anchorhold logs cards\n  \
    anchorhold logs cards --follow --since 10m --json\n\n\
    The runtime writes there what it did and why a call failed, never what a job was given. A job's own \
    stderr is dropped unless its manifest says [log] job_stderr = \"forward\", or the enclave is in debug mode.\n\
    The newest lines are kept, 2 to 4 MiB of them, and those of an enclave that has ended.")]
pub(crate) struct Arguments {
    /// The enclave's name
    name: String,
    /// Go on until the enclave ends, or, where a daemon keeps it running, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Nothing older: seconds, or with s, m, h or d; or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Print JSON lines with times
    #[arg(long)]
    json: bool,
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

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let home = Home::from_environment()?;
    if let Some(daemon) = ApiClient::find(&home)? {
        return super::block_on(by_daemon(arguments, &daemon));
    }
    let enclave = find(&home, &arguments.name)?;
    let mut readers: Vec<RingReader> = list(&home)?
        .iter()
        .filter(|state| is_of(state, &arguments.name, &enclave))
        .map(|state| RingReader::new(&state.dir))
        .collect();
    loop {
        // Asked before reading, so that what is written before the end is always seen.
        let last = !arguments.follow
            || find(&home, &arguments.name).map_or(true, |enclave| !enclave.status.is_running());
        for reader in &mut readers {
            loop {
                let lines = reader
                    .read()
                    .with_context(|| format!("the log of {} cannot be read", arguments.name))?;
                if lines.is_empty() {
                    break;
                }
                for line in lines {
                    print(arguments, &line)?;
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

/// Whether it is an instance of what was asked for.
fn is_of(state: &State, name: &str, found: &State) -> bool {
    state.name == found.name || state.of.as_deref() == Some(name)
}

async fn by_daemon(arguments: &Arguments, daemon: &ApiClient) -> anyhow::Result<()> {
    let path = format!(
        "/v1/enclaves/{}/logs?since_ms={}&follow={}",
        super::in_a_path(&arguments.name)?,
        arguments.since.unwrap_or(0),
        arguments.follow
    );
    let mut held = Vec::new();
    daemon
        .stream(&path, |piece| {
            held.extend_from_slice(piece);
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line: Line = serde_json::from_slice(&held[..end])?;
                held.drain(..=end);
                print(arguments, &line)?;
            }
            io::stdout().flush()
        })
        .await?;
    Ok(())
}

fn print(arguments: &Arguments, line: &Line) -> io::Result<()> {
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
