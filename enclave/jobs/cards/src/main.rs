//! The `cards` program: the job between standard input and standard output, or over HTTP. Its standard error never gets
//! anything of a record.

use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anchorhold_job_cards::service::{Cards, Settings};
use anchorhold_job_cards::{Job, Mode, Tokenizer, token};
use anchorhold_job_serve::Place;

const HELP: &str = "\
cards: turns the card numbers in transactions into tokens, and back

Usage: cards [detokenize] [--key FILE]
       cards serve

Reads one JSON object a line from standard input and answers each with one line on standard output, in order.

  {\"id\":\"t1\",\"pan\":\"4111 1111 1111 1111\",\"note\":\"re 4111111111111111\"}
    → {\"id\":\"t1\",\"token\":\"…16 digits…\",\"last4\":\"1111\",\"scheme\":\"visa\",\"note\":\"re ************1111\"}
  {\"id\":\"t2\",\"pan\":\"4111\"}
    → {\"id\":\"t2\",\"error\":{\"code\":\"length\",\"message\":\"the card number has 4 digits; …\"}}

A number may have spaces and dashes. Error codes: missing, characters, length, luhn (check digit), format (no JSON
object, or `pan` is no string). Other fields go through, card numbers in them masked to their last four digits.

detokenize   reads {\"id\":…,\"token\":…} and answers {\"id\":…,\"pan\":…}. Error codes: missing, characters,
             length, token (not one of this key's), format.
serve        answers HTTP requests where the runtime says (contract \"http\"); GET /openapi.json has all of them, and
             [job.settings] in anchorhold.toml says where the key comes from and who may detokenize: by default nobody.
--key FILE   the tokenization key: 32 raw bytes or 64 hex digits. Default: /run/secrets/tokenization-key
--help       this text

A token has as many digits as its number, is the same for the same number, and never passes a check digit test.

Example: cards < transactions.ndjson > tokens.ndjson
Exit code: 0 when every line was answered, bad ones included; 1 on trouble with the key, input or output; 2 on a
wrong command line.
";

struct Arguments {
    mode: Mode,
    key: PathBuf,
    serve: bool,
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
    if arguments.serve {
        return match serve() {
            Ok(never) => match never {},
            Err(error) => complain(&error.to_string(), 1),
        };
    }
    let tokenizer = match Tokenizer::from_file(&arguments.key) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return complain(&error.to_string(), 1),
    };
    match Job::new(arguments.mode, tokenizer).run(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("cannot read records or write answers: {error}"), 1),
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments {
        mode: Mode::Tokenize,
        key: Path::new(token::KEY_PATH).to_owned(),
        serve: false,
    };
    let mut named_key = false;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("detokenize") => parsed.mode = Mode::Detokenize,
            Some("serve") => parsed.serve = true,
            Some("--key") => {
                named_key = true;
                parsed.key = arguments
                    .next()
                    .ok_or("--key wants a file after it")?
                    .into();
            }
            Some("--help" | "-h") => return Ok(None),
            _ => {
                return Err(format!(
                    "unknown argument {}; see `cards --help`",
                    argument.display()
                ));
            }
        }
    }
    if parsed.serve && (named_key || parsed.mode == Mode::Detokenize) {
        return Err(
            "`serve` stands alone: key and permissions are in [job.settings] of anchorhold.toml"
                .to_owned(),
        );
    }
    Ok(Some(parsed))
}

fn serve() -> Result<Infallible, Box<dyn Error>> {
    let place = Place::from_environment()?;
    let settings: Settings = anchorhold_job_serve::settings()?;
    let cards = Cards::new(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(anchorhold_job_serve::serve(&place, cards))?)
}

fn complain(message: &str, code: u8) -> ExitCode {
    // Where standard error is closed, the exit code has to do.
    let _ = writeln!(io::stderr(), "cards: {message}");
    ExitCode::from(code)
}
