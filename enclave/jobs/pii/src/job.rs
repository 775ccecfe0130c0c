//! Lines in, lines out: one answer for each line, in order, whatever the line is. Must never stop on a bad
//! record, nor keep more than one line.

use std::io::{self, BufRead, BufReader, Read, Write};

use zeroize::Zeroizing;

use crate::config::{Config, Input, Kind};
use crate::detect::Detectors;
use crate::key::Keys;
use crate::record::{self, Failure};
use crate::replace::Replacer;

/// A longer line is answered with an error, and skipped.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// A line that holds more pieces of personal data is answered with an error.
pub const MAX_FOUND: usize = 10_000;

const BUFFER: usize = 64 * 1024;

/// Which way the job works.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Personal data in, replacements out.
    Redact(Config),
    /// Replacements in, values of these kinds out.
    Restore(Input, Vec<Kind>),
}

/// The job: a direction, detectors and perhaps keys.
pub struct Job {
    mode: Mode,
    detectors: Detectors,
    replacer: Replacer,
}

impl Job {
    /// Puts a job together. Without keys what needs them is redacted.
    pub fn new(mode: Mode, keys: Option<&Keys>) -> Self {
        let detectors = match &mode {
            Mode::Redact(config) => Detectors::new(|kind| config.looks_for(kind)),
            Mode::Restore(..) => Detectors::new(|_| true),
        };
        Self {
            mode,
            detectors,
            replacer: Replacer::new(keys),
        }
    }

    /// Answers all lines of `input`, to its end, on `output`. What is answered is written at the latest when
    /// there is nothing to read for the moment.
    ///
    /// # Errors
    /// Reading or writing failed, or there is no randomness. A bad line is no error.
    pub fn run(&mut self, input: impl Read, mut output: impl Write) -> io::Result<()> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let mut line = Zeroizing::new(Vec::with_capacity(BUFFER));
        let mut answers = Zeroizing::new(Vec::with_capacity(2 * BUFFER));
        loop {
            if !answers.is_empty() && (answers.len() >= BUFFER || input.buffer().is_empty()) {
                output.write_all(&answers)?;
                output.flush()?;
                answers.clear();
            }
            line.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.pop_if(|last| *last == b'\n').is_none() && line.len() > MAX_LINE_BYTES {
                input.skip_until(b'\n')?;
            }
            self.answer(&line, &mut answers)?;
        }
        output.write_all(&answers)?;
        output.flush()
    }

    /// Appends the answer to one line, and a line end.
    ///
    /// # Errors
    /// There is no randomness to encrypt with.
    pub fn answer(&mut self, line: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        let answered = if line.len() > MAX_LINE_BYTES {
            let message = format!("the line has more than {MAX_LINE_BYTES} bytes");
            Err(Failure::line("length", message))
        } else {
            match &self.mode {
                Mode::Redact(config) => {
                    record::redact(line, config, &self.detectors, &mut self.replacer, out)
                }
                Mode::Restore(input, kinds) => {
                    record::restore(line, *input, kinds, &mut self.replacer, out)
                }
            }
        };
        match answered {
            Ok(()) => Ok(()),
            Err(Failure::Line { code, message }) => {
                out.truncate(start);
                record::fail(code, &message, out);
                Ok(())
            }
            Err(Failure::Stop(error)) => {
                out.truncate(start);
                Err(io::Error::other(error))
            }
        }
    }
}
