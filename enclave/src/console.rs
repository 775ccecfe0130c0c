//! The console: one plain line for each thing worth knowing, on standard error, which the parent reads.
//!
//! It must never carry plaintext, keys, or anything that a job wrote unless the manifest (or debug mode) says so, and
//! no line may look like two: control characters are replaced. Where the manifest has the log sealed, lines go there, and
//! only what concerns the enclave's start and end as such is written plainly.

use std::fmt;
use std::io::Write as _;

use crate::sealed_log;

/// Longest line that is written, in bytes; the rest is cut off.
const MAX_LINE_BYTES: usize = 2048;

/// Writes one line, prefixed with `anchorhold: `. Failing to write is not an error: there is nobody to tell.
pub fn line(text: fmt::Arguments<'_>) {
    write(&render("anchorhold: ", &text.to_string()));
}

/// Writes one line for the host to read, also where the log is sealed: nothing of a call, a job or a client may be in it.
pub fn plain_line(text: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(render("anchorhold: ", &text.to_string()).as_bytes());
}

/// Writes one line of what a job has written for people.
pub(crate) fn job_line(text: &str) {
    write(&render("job: ", text));
}

fn write(line: &str) {
    if !sealed_log::take(line.trim_end_matches('\n')) {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Writes one line to the console, formatted as by `format!`.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}

/// Writes one line that the host may read.
#[macro_export]
macro_rules! log_plainly {
    ($($argument:tt)*) => { $crate::console::plain_line(format_args!($($argument)*)) };
}

fn render(prefix: &str, text: &str) -> String {
    let mut line = String::with_capacity(prefix.len() + text.len() + 1);
    line.push_str(prefix);
    for character in text.chars() {
        if line.len() >= MAX_LINE_BYTES {
            line.push('…');
            break;
        }
        line.push(if character.is_control() {
            '\u{fffd}'
        } else {
            character
        });
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_one_line_whatever_it_holds() {
        let line = render("anchorhold: ", "first\nanchorhold: forged\r\u{1b}[2J");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with('\n') && !line.contains('\u{1b}') && !line.contains('\r'));
    }

    #[test]
    fn long_messages_are_cut() {
        let line = render("", &"x".repeat(10 * MAX_LINE_BYTES));
        assert!(line.len() < MAX_LINE_BYTES + 8);
    }
}
