//! Runs somebody's verifier on one case, for a bounded time. Exit code 0 is admitted, 1 is refused, and
//! anything else is neither: a crash is not a refusal.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Of what a verifier writes so much is kept.
const SAID_BYTES: usize = 4096;

/// How long what a verifier wrote is waited for once it has ended: its children may hold the pipe.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// How a verifier ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Admitted,
    Refused,
    /// How, in words.
    Otherwise(String),
}

/// The end, and what the verifier wrote on its two streams.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) ended: Ended,
    pub(crate) said: String,
}

/// Runs the program, in a process group of its own. An error: it could not be started at all.
pub(crate) async fn run(
    command: &[String],
    variables: &[(String, Option<String>)],
    limit: Duration,
) -> anyhow::Result<Run> {
    let (program, arguments) = command.split_first().context("no program is named")?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for (name, value) in variables {
        match value {
            Some(value) => process.env(name, value),
            None => process.env_remove(name),
        };
    }
    let mut child = process
        .spawn()
        .with_context(|| format!("the verifier {program:?} cannot be started"))?;
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);

    let said = Arc::new(Mutex::new(Vec::new()));
    let readers = [
        child
            .stdout
            .take()
            .map(|stream| tokio::spawn(read(stream, Arc::clone(&said)))),
        child
            .stderr
            .take()
            .map(|stream| tokio::spawn(read(stream, Arc::clone(&said)))),
    ];
    let ended = match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => ended(status.context("the verifier's end cannot be waited for")?),
        Err(_) => {
            // Its children too. The group is still its own: the child has not been waited for.
            if let Some(group) = group {
                let _ = killpg(group, Signal::SIGKILL);
            }
            let _ = child.wait().await;
            Ended::Otherwise(format!("no answer within {} s", limit.as_secs()))
        }
    };
    for reader in readers.into_iter().flatten() {
        let abort = reader.abort_handle();
        if tokio::time::timeout(AFTERWARDS, reader).await.is_err() {
            abort.abort();
        }
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Run {
        ended,
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

fn ended(status: ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt as _;

    match (status.code(), status.signal()) {
        (Some(0), _) => Ended::Admitted,
        (Some(1), _) => Ended::Refused,
        (Some(code), _) => Ended::Otherwise(format!("exit code {code}")),
        (None, Some(signal)) => Ended::Otherwise(format!("ended by signal {signal}")),
        (None, None) => Ended::Otherwise(status.to_string()),
    }
}

/// Reads to the end, and keeps the beginning.
async fn read(mut stream: impl AsyncRead + Unpin, kept: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SAID_BYTES.saturating_sub(kept.len());
        kept.extend(&buffer[..count.min(room)]);
    }
}
