//! Fields of a stream of lines: memory is one line, whatever the length of the stream.

use std::io::{self, BufRead, Write};

use zeroize::{Zeroize as _, Zeroizing};

use super::{FieldError, FieldOpener, FieldSealer, Opened};
use crate::{DataKey, Header};

/// Why a stream ended early. What was written before the line is good; the rest is missing.
#[derive(Debug, thiserror::Error)]
pub enum LinesError<E> {
    /// Reading.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// Writing.
    #[error("cannot write: {0}")]
    Write(#[source] io::Error),
    /// A line is too long.
    #[error("line {line} is longer than {limit} bytes")]
    TooLong {
        /// Its number, from 1.
        line: u64,
        /// The limit.
        limit: usize,
    },
    /// A line is no text.
    #[error("line {line} is not UTF-8")]
    NotText {
        /// Its number, from 1.
        line: u64,
    },
    /// A line's fields.
    #[error("line {line}: {source}")]
    Field {
        /// Its number, from 1.
        line: u64,
        /// Why.
        source: FieldError,
    },
    /// No data key.
    #[error("line {line}: {error}")]
    Key {
        /// Its number, from 1.
        line: u64,
        /// Why.
        error: E,
    },
}

/// What a stream held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Lines, the blank ones too.
    pub lines: u64,
    /// Values that were sealed or opened.
    pub values: u64,
}

/// Seals the fields of all lines. Blank lines and the ends of lines stay as they are.
///
/// # Errors
/// At the first line that cannot be sealed.
pub fn seal_lines<E>(
    reader: impl BufRead,
    writer: impl Write,
    sealer: &mut FieldSealer,
    longest_line: usize,
) -> Result<Counts, LinesError<E>> {
    each_line(reader, writer, longest_line, |text, number, out| {
        sealer.line(text, out).map_err(|source| LinesError::Field {
            line: number,
            source,
        })
    })
}

/// Opens the fields of all lines; `key` is asked for the data key of each header once in a while.
///
/// # Errors
/// At the first line that cannot be opened.
pub fn open_lines<E>(
    reader: impl BufRead,
    writer: impl Write,
    opener: &mut FieldOpener,
    longest_line: usize,
    mut key: impl FnMut(&Header) -> Result<DataKey, E>,
) -> Result<Counts, LinesError<E>> {
    each_line(reader, writer, longest_line, |text, line, out| {
        let field = |source| LinesError::Field { line, source };
        loop {
            match opener.line(text, out).map_err(field)? {
                Opened::Line(values) => return Ok(values),
                Opened::Needs(header) => {
                    let key = key(&header).map_err(|error| LinesError::Key { line, error })?;
                    opener
                        .admit(&header, key)
                        .map_err(|source| field(source.into()))?;
                }
            }
        }
    })
}

fn each_line<E>(
    mut reader: impl BufRead,
    mut writer: impl Write,
    longest_line: usize,
    mut change: impl FnMut(&str, u64, &mut Vec<u8>) -> Result<usize, LinesError<E>>,
) -> Result<Counts, LinesError<E>> {
    let mut counts = Counts::default();
    let mut line = Zeroizing::new(Vec::new());
    let mut out = Zeroizing::new(Vec::new());
    while read_line(&mut reader, &mut line, longest_line, counts.lines + 1)? {
        counts.lines += 1;
        let (text, end) = match line.strip_suffix(b"\n") {
            Some(text) => (text, &b"\n"[..]),
            None => (line.as_slice(), &b""[..]),
        };
        if text.trim_ascii().is_empty() {
            writer.write_all(&line).map_err(LinesError::Write)?;
            continue;
        }
        let text =
            std::str::from_utf8(text).map_err(|_| LinesError::NotText { line: counts.lines })?;
        out.clear();
        out.reserve(line.len());
        counts.values += change(text, counts.lines, &mut out)? as u64;
        out.extend_from_slice(end);
        writer.write_all(&out).map_err(LinesError::Write)?;
    }
    writer.flush().map_err(LinesError::Write)?;
    Ok(counts)
}

/// Reads a line with its end; false at the end of the stream.
fn read_line<E>(
    reader: &mut impl BufRead,
    line: &mut Zeroizing<Vec<u8>>,
    longest: usize,
    number: u64,
) -> Result<bool, LinesError<E>> {
    line.clear();
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LinesError::Read(error)),
        };
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        if line.len() + end.unwrap_or(taken) > longest {
            return Err(LinesError::TooLong {
                line: number,
                limit: longest,
            });
        }
        if line.capacity() < line.len() + taken {
            // By hand, so that the old vector is wiped.
            let room = (line.len() + taken).next_power_of_two();
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(line);
            line.zeroize();
            *line = larger;
        }
        line.extend_from_slice(&available[..taken]);
        reader.consume(taken);
        if end.is_some() || taken == 0 {
            return Ok(!line.is_empty());
        }
    }
}
