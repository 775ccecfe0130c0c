//! The `custody` program: keeps keys and signs, over HTTP, where the runtime says. Its standard error says which key has
//! signed for whom and what for, and never what.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use anchorhold_job_custody::service::{LocalApi, Service};
use anchorhold_job_custody::{Custody, Settings};
use anchorhold_job_serve::Place;

const HELP: &str = "\
custody: private keys that never leave, and sign by the measured manifest's rules

Usage: custody

A job of contract \"http\": it listens where the runtime says, and GET /openapi.json has all that it answers. Its rules are
[job.settings] of anchorhold.toml: keys, who may ask for signatures, how often, of what, and with whose approval.

Exit code: 1 where the rules, a key or the place to listen are not what they should be; 2 on a wrong command line.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        None => {}
        Some(word) if word == "--help" || word == "-h" => {
            // A closed standard output is nothing that could be reported there.
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Some(word) => {
            let message = format!("unknown argument {}; see `custody --help`", word.display());
            return complain(&message, 2);
        }
    }
    match serve() {
        Ok(never) => match never {},
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn serve() -> Result<Infallible, Box<dyn Error>> {
    let place = Place::from_environment()?;
    let settings: Settings = anchorhold_job_serve::settings()?;
    let now = Instant::now();
    let ready = settings
        .ready(now)
        .map_err(anchorhold_job_custody::service::SetupError::from)?;
    let service = Service::new(Custody::new(ready, now)?, LocalApi::connect()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(anchorhold_job_serve::serve(&place, service))?)
}

fn complain(message: &str, code: u8) -> ExitCode {
    // Where standard error is closed, the exit code has to do.
    let _ = writeln!(io::stderr(), "custody: {message}");
    ExitCode::from(code)
}
