//! Counts lines in a stream of bytes and holds them to a length, without copying or looking at what they say.

/// A line was longer than the manifest's `max_line_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} is longer than {limit} bytes: raise job.max_line_bytes in anchorhold.toml, or split the record"
)]
pub struct LineTooLong {
    /// Number of the line, from 1.
    pub line: u64,
    /// The manifest's limit, in bytes without the newline.
    pub limit: usize,
}

/// The lines seen so far in one stream.
#[derive(Debug)]
pub struct Lines {
    complete: u64,
    /// Bytes after the last newline.
    open: usize,
    limit: usize,
}

impl Lines {
    /// Nothing seen yet; lines may hold `limit` bytes without their newline.
    pub fn new(limit: usize) -> Lines {
        Lines {
            complete: 0,
            open: 0,
            limit,
        }
    }

    /// Takes note of the stream's next bytes.
    ///
    /// # Errors
    /// At the first line that is too long, whether it has ended or not.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        // No line can be too long if all of this together is not: then counting is enough, which runs at memory speed.
        if self.open + bytes.len() <= self.limit {
            #[expect(clippy::naive_bytecount, reason = "the compiler makes vectors of it")]
            let newlines = bytes.iter().filter(|&&byte| byte == b'\n').count();
            if newlines == 0 {
                self.open += bytes.len();
            } else {
                self.complete += newlines as u64;
                self.open = bytes
                    .iter()
                    .rev()
                    .position(|&byte| byte == b'\n')
                    .expect("a newline was just counted");
            }
            return Ok(());
        }
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let ended = part.ends_with(b"\n");
            self.open += part.len() - usize::from(ended);
            if self.open > self.limit {
                return Err(LineTooLong {
                    line: self.complete + 1,
                    limit: self.limit,
                });
            }
            if ended {
                self.complete += 1;
                self.open = 0;
            }
        }
        Ok(())
    }

    /// Number of lines that ended with a newline.
    pub fn complete(&self) -> u64 {
        self.complete
    }

    /// Whether bytes follow the last newline.
    pub fn ends_within_a_line(&self) -> bool {
        self.open > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_counted_across_pieces() {
        let mut lines = Lines::new(100);
        for piece in ["ab", "c\nd", "", "\n\n", "ef"] {
            lines.take(piece.as_bytes()).expect("short lines");
        }
        assert_eq!(lines.complete(), 3);
        assert!(lines.ends_within_a_line());
        lines.take(b"\n").expect("short line");
        assert_eq!(lines.complete(), 4);
        assert!(!lines.ends_within_a_line());
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() {
        let mut lines = Lines::new(3);
        lines
            .take(b"abc\nabc\nabc\n")
            .expect("each has three bytes");
        let error = lines
            .take(b"abc\nabcd\n")
            .expect_err("the second has four bytes");
        assert_eq!(error, LineTooLong { line: 5, limit: 3 });
    }

    #[test]
    fn a_line_that_never_ends_is_refused_before_it_ends() {
        let mut lines = Lines::new(10);
        lines.take(&[b'x'; 10]).expect("within the limit");
        assert!(lines.take(b"x").is_err());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_verdict(text in "[a\n]{0,200}", limit in 1usize..20, size in 1usize..50) {
            let whole = text.split('\n').all(|line| line.len() <= limit);
            let mut lines = Lines::new(limit);
            let verdict = text.as_bytes().chunks(size).try_for_each(|piece| lines.take(piece));
            prop_assert_eq!(verdict.is_ok(), whole);
            if whole {
                prop_assert_eq!(lines.complete() as usize, text.matches('\n').count());
                prop_assert_eq!(lines.ends_within_a_line(), !text.is_empty() && !text.ends_with('\n'));
            }
        }
    }
}
