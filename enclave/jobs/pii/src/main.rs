//! The `pii` program: the job between standard input and standard output. Its standard error never gets
//! anything of a record.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anchorhold_job_pii::key::{self, Keys};
use anchorhold_job_pii::{Config, Input, Job, Kind, Mode};

const HELP: &str = "\
pii: finds personal data in text and JSON, and replaces it

Usage: pii [KIND=ACTION…] [--input auto|json|text] [--key FILE]
       pii restore [KIND…] [--input auto|json|text] [--key FILE]

Reads one JSON value or one line of text a line from standard input and answers each with one line on standard output,
in order.

  {\"id\":7,\"note\":\"call +1 212-555-0123\"}
    → {\"record\":{\"id\":7,\"note\":\"call +* ***-***-****\"},
       \"found\":[{\"type\":\"phone\",\"start\":5,\"end\":20,\"path\":\"/note\"}]}
  mail bob@example.com
    → {\"text\":\"mail ***@*******.***\",\"found\":[{\"type\":\"email\",\"start\":5,\"end\":20,\"path\":\"\"}]}

`start` and `end` count characters of the string that `path` (a JSON pointer) leads to; names of fields are not looked
at. A line that is neither gets {\"error\":{\"code\":…,\"message\":…}}; codes: format, length, many.

KIND      email, phone, card, iban, ssn, ip, url, date, zip; all: those that no other word names
ACTION    mask          stars for letters and digits; a card number keeps its last four digits (the default)
          redact        the kind in brackets
          hash          a keyed hash: equal values are equal
          pseudonymize  equal values are equal, and `restore` leads back
          encrypt       equal values differ, and `restore` leads back
          keep          not looked for
restore   puts values in the places of their pseudonyms and ciphertexts: of these kinds, or of all
--input   auto: a line that begins with { is JSON or an error, one that begins with [ or \" may be, others are text
--key     32 raw bytes or 64 hex digits, for hash, pseudonymize, encrypt and restore. Default: /run/secrets/pii-key
--help    this text

Example: pii all=mask email=pseudonymize date=keep < records.ndjson > clean.ndjson
Exit code: 0 when every line was answered, bad ones included; 1 on trouble with the key, input or output; 2 on a
wrong command line.
";

struct Arguments {
    mode: Mode,
    key: PathBuf,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            // A closed standard output is nothing that could be reported there.
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(message) => return complain(&message, 2),
    };
    let is_keyed = match &arguments.mode {
        Mode::Redact(config) => config.is_keyed(),
        Mode::Restore(..) => true,
    };
    let keys = match is_keyed
        .then(|| Keys::from_file(&arguments.key))
        .transpose()
    {
        Ok(keys) => keys,
        Err(error) => return complain(&error.to_string(), 1),
    };
    match Job::new(arguments.mode, keys.as_ref()).run(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("cannot read records or write answers: {error}"), 1),
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
    let mut key = Path::new(key::KEY_PATH).to_owned();
    let mut input = Input::Auto;
    let mut restores = false;
    let mut words = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--key") => {
                key = arguments
                    .next()
                    .ok_or("--key wants a file after it")?
                    .into();
            }
            Some("--input") => {
                let value = arguments.next().unwrap_or_default();
                input = match value.to_str() {
                    Some("auto") => Input::Auto,
                    Some("json") => Input::Json,
                    Some("text") => Input::Text,
                    _ => return Err("--input wants auto, json or text after it".to_owned()),
                };
            }
            Some("--help" | "-h") => return Ok(None),
            Some("restore") if words.is_empty() && !restores => restores = true,
            Some(word) if !word.starts_with('-') => words.push(word.to_owned()),
            _ => {
                return Err(format!(
                    "unknown argument {}; see `pii --help`",
                    argument.display()
                ));
            }
        }
    }
    let mode = if restores {
        let kinds = words
            .iter()
            .map(|word| {
                Kind::named(word)
                    .ok_or_else(|| format!("there is no kind `{word}`; see `pii --help`"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Mode::Restore(
            input,
            if kinds.is_empty() {
                Kind::ALL.to_vec()
            } else {
                kinds
            },
        )
    } else {
        let mut config = Config::parse(words.iter().map(String::as_str))
            .map_err(|error| format!("{error}; see `pii --help`"))?;
        config.input = input;
        Mode::Redact(config)
    };
    Ok(Some(Arguments { mode, key }))
}

fn complain(message: &str, code: u8) -> ExitCode {
    // Where standard error is closed, the exit code has to do.
    let _ = writeln!(io::stderr(), "pii: {message}");
    ExitCode::from(code)
}
