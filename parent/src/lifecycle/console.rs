//! What an enclave wrote on its console, made fit for a terminal.
//!
//! The enclave is not trusted: its bytes must never reach a terminal as they are, where they could move the cursor,
//! rewrite what was said, or worse. The console on disk stays as it was written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

/// Bytes at the end of a console that [`tail`] looks at.
const TAIL: u64 = 4096;

/// Text in one line without control characters, at most `most` characters of it.
///
/// Bytes that are no UTF-8 become U+FFFD, control characters (line ends and bidirectional marks with them) a space.
pub fn printable(bytes: &[u8], most: usize) -> String {
    // Four bytes make at most one character; looking at more would be work that the enclave orders.
    let bytes = &bytes[..bytes.len().min(most.saturating_mul(4))];
    String::from_utf8_lossy(bytes)
        .chars()
        .take(most)
        .map(|c| if is_unsafe(c) { ' ' } else { c })
        .collect()
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The last lines of a console, at most `lines` of them and 4 KiB, made printable.
pub fn tail(console: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(console)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let mut found: Vec<String> = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| printable(line, 512).trim_end().to_owned())
        .collect();
    if skipped > 0 {
        // Most likely the rest of a line that began before.
        found.remove(0);
    }
    found.retain(|line| !line.is_empty());
    let first = found.len().saturating_sub(lines);
    Ok(found.split_off(first))
}

/// Bytes of a console that are read at a time, and the longest line that is held back until it is whole.
const PIECE: usize = 8192;

/// How often [`follow`] looks for more.
const LOOK: Duration = Duration::from_millis(20);

/// Writes a console to `out` in printable lines, and goes on with what is added until `ended` says that there will be
/// nothing more. A console that does not exist yet is waited for. Blocks.
pub fn follow(
    console: &Path,
    out: &mut dyn Write,
    ended: &mut dyn FnMut() -> bool,
) -> io::Result<()> {
    let mut file = None;
    let mut held = Vec::new();
    loop {
        // Asked before reading, so that what is written before the end is always seen.
        let last = ended();
        if file.is_none() {
            file = match File::open(console) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let mut wrote = false;
        if let Some(file) = &mut file {
            loop {
                let start = held.len();
                held.resize(start + PIECE, 0);
                let count = file.read(&mut held[start..])?;
                held.truncate(start + count);
                if count == 0 {
                    break;
                }
                while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    writeln!(out, "{}", printable(&held[..end], end))?;
                    held.drain(..=end);
                    wrote = true;
                }
                if held.len() >= PIECE {
                    writeln!(out, "{}", printable(&held, held.len()))?;
                    held.clear();
                    wrote = true;
                }
            }
        }
        if last {
            if !held.is_empty() {
                writeln!(out, "{}", printable(&held, held.len()))?;
            }
            return out.flush();
        }
        if wrote {
            out.flush()?;
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_drives_a_terminal_passes() {
        let shown = printable(b"ok\x1b[2J\x07\r\nnext\xff \xc2\x9b31m \xe2\x80\xae!", 100);
        assert_eq!(shown, "ok [2J   next\u{fffd}  31m  !");
        assert_eq!(printable("ééé".as_bytes(), 2), "éé");
        assert_eq!(printable(b"", 5), "");
    }

    #[test]
    fn the_tail_is_the_last_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, "one\ntwo\n\nthree\n").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["two", "three"]);
        std::fs::write(&path, format!("{}\nlast\n", "x".repeat(10_000))).unwrap();
        assert_eq!(tail(&path, 10).unwrap(), ["last"]);
        std::fs::write(&path, "").unwrap();
        assert!(tail(&path, 10).unwrap().is_empty());
        assert!(tail(&dir.path().join("none"), 10).is_err());
    }

    #[test]
    fn following_shows_what_is_added_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut steps = 0;
        let mut out = Vec::new();
        follow(&path, &mut out, &mut || {
            steps += 1;
            let mut file = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap();
            match steps {
                1 => file.write_all(b"one\ntw").unwrap(),
                2 => file.write_all(b"o\x1b[2J\nthree").unwrap(),
                _ => return true,
            }
            false
        })
        .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "one\ntwo [2J\nthree\n");
    }
}
