//! A job that echoes its lines, or the requests that it is sent where it is to serve, and breaks the contract where a line,
//! a request or its argument tells it to.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "what a job writes there must not get out"
)]

mod flood;
mod serve;

use std::io::{self, BufRead as _, Write as _};
use std::process::exit;
use std::time::Duration;

use serde_json::Value;

fn main() -> io::Result<()> {
    let variables = ["ANCHORHOLD_HTTP_SOCKET", "ANCHORHOLD_HTTP_PORT"];
    if let Some(place) = variables.iter().find_map(|name| std::env::var(name).ok()) {
        let start = std::env::args().nth(1).unwrap_or_default();
        serve::serve(&place, &start);
    }
    let mut stdout = io::stdout().lock();
    if let Some(text) = std::env::args().nth(1)
        && let Some(text) = text.strip_prefix("print ")
    {
        return writeln!(stdout, "{}", text.replace("\\n", "\n"));
    }
    for line in io::stdin().lock().lines() {
        let line = line?;
        let order: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        match order["do"].as_str().unwrap_or("echo") {
            "nothing" => {}
            "twice" => write!(stdout, "{line}\n{line}\n")?,
            "half" => {
                write!(stdout, "{line}")?;
                exit(0);
            }
            "exit" => {
                writeln!(stdout, "{line}")?;
                stdout.flush()?;
                exit(i32::try_from(order["code"].as_i64().unwrap_or(1)).unwrap_or(1));
            }
            "stop" => exit(0),
            "long" => {
                let length = usize::try_from(order["bytes"].as_u64().unwrap_or(0)).unwrap_or(0);
                writeln!(stdout, "{}", "x".repeat(length))?;
            }
            "flood" => {
                flood::flood(Duration::from_secs(order["seconds"].as_u64().unwrap_or(1)));
                writeln!(stdout, "{line}")?;
            }
            "ask" => {
                let question = order["question"].as_str().unwrap_or_default();
                let answer = serve::ask(question).unwrap_or_else(|error| error.to_string());
                writeln!(stdout, "{}", Value::from(answer))?;
            }
            "sleep" => {
                std::thread::sleep(Duration::from_secs(3600));
            }
            "complain" => {
                eprintln!("odd-job saw {line}");
                writeln!(stdout, "{line}")?;
            }
            _ => writeln!(stdout, "{line}")?,
        }
    }
    Ok(())
}
