//! Lines in, lines out: one answer for each line, in order, whatever the line is. Must never stop on a bad
//! record, nor keep more than one line.

use std::io::{self, BufRead, BufReader, Read, Write};

use zeroize::Zeroizing;

use crate::record::{self, Failure};
use crate::token::Tokenizer;

/// A longer line is answered with an error, and skipped.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

const BUFFER: usize = 64 * 1024;

/// Which way the job works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Card numbers in, tokens out.
    Tokenize,
    /// Tokens in, card numbers out.
    Detokenize,
}

/// The job: a direction and a key.
pub struct Job {
    mode: Mode,
    tokenizer: Tokenizer,
}

impl Job {
    /// Puts a job together.
    pub fn new(mode: Mode, tokenizer: Tokenizer) -> Self {
        Self { mode, tokenizer }
    }

    /// Answers all lines of `input`, to its end, on `output`. What is answered is written at the latest when
    /// there is nothing to read for the moment.
    ///
    /// # Errors
    /// Reading or writing failed. A bad line is no error.
    pub fn run(&self, input: impl Read, mut output: impl Write) -> io::Result<()> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let mut line = Zeroizing::new(Vec::with_capacity(BUFFER));
        let mut answers = Zeroizing::new(Vec::with_capacity(2 * BUFFER));
        loop {
            if !answers.is_empty() && (answers.len() >= BUFFER || input.buffer().is_empty()) {
                output.write_all(&answers)?;
                output.flush()?;
                answers.clear();
            }
            // A line that lies in the buffer as a whole is answered where it lies.
            if let Some(end) = input.buffer().iter().position(|byte| *byte == b'\n') {
                self.answer(&input.buffer()[..end], &mut answers);
                input.consume(end + 1);
                continue;
            }
            line.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.pop_if(|last| *last == b'\n').is_none() && line.len() > MAX_LINE_BYTES {
                input.skip_until(b'\n')?;
            }
            self.answer(&line, &mut answers);
        }
        output.write_all(&answers)?;
        output.flush()
    }

    /// Appends the answer to one line, and a line end.
    pub fn answer(&self, line: &[u8], out: &mut Vec<u8>) {
        if line.len() > MAX_LINE_BYTES {
            let message = format!("the line has more than {MAX_LINE_BYTES} bytes");
            return record::fail(&Failure::format(message), None, out);
        }
        // What is wrong with a line stands in its answer.
        let _ = match self.mode {
            Mode::Tokenize => record::tokenize(line, &self.tokenizer, out),
            Mode::Detokenize => record::detokenize(line, &self.tokenizer, out),
        };
    }
}
