//! What the programs share: `PROGRAM DOCUMENT ANCHOR.der TIME`, and an exit code of 0 for admitted, 1 for
//! refused, and 2 where the program was called wrongly. Nothing here decides about a document: each
//! program hands all three to its library and reports what that said.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// What a program was called with.
pub struct Asked {
    /// The raw document.
    pub document: Vec<u8>,
    /// The root to trust, DER.
    pub anchor: Vec<u8>,
    /// When to judge, in the unit that the library takes.
    pub time: u64,
}

/// Asks a library, and prints the reason where it refuses.
pub fn ask<E: core::fmt::Debug>(verify: impl FnOnce(Asked) -> Result<(), E>) -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match verify(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason:?}");
            ExitCode::from(1)
        }
    }
}

fn asked() -> Result<Asked, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [document, anchor, time] = arguments.as_slice() else {
        return Err("usage: PROGRAM DOCUMENT ANCHOR.der TIME".to_owned());
    };
    let read = |path: &String| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    Ok(Asked {
        document: read(document)?,
        anchor: read(anchor)?,
        time: time.parse().map_err(|_| format!("{time}: no time"))?,
    })
}
