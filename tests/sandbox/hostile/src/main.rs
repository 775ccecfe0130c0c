//! A job that tries to get out: each input line names one attempt, each output
//! line says whether it came through. Run outside an enclave, the attempts
//! succeed; that is how the tests know that they can.
//!
//! It never connects an `AF_VSOCK` socket.

mod attempts;
mod sys;

use std::io::{self, BufRead as _, Write as _};

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let stdin = io::stdin().lock();
    let mut stdout = io::stdout().lock();
    for line in stdin.lines() {
        let line = line?;
        let request: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        let name = request["try"].as_str().unwrap_or_default();
        let answer = match attempts::attempt(name, &request) {
            Ok(detail) => json!({ "try": name, "through": true, "detail": detail }),
            Err(error) => json!({ "try": name, "through": false, "detail": error.to_string() }),
        };
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}
