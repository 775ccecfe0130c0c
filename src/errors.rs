//! How an error is printed: in one line, with its causes.

use std::error::Error;

use crate::text::printable;

/// An error and its causes, leaving out causes that its own text repeats. Names from images and archives are in them, so
/// that nothing of it steers a terminal but the ends of lines, as a compiler's messages have them.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.split('\n')
        .map(printable)
        .collect::<Vec<_>>()
        .join("\n")
}
