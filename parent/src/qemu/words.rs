//! What a guest's console says about its end: the runtime's exit code, a kernel's panic, exhausted memory.
//!
//! It is the enclave's word, good for telling people how it ended, and nothing may depend on it.

/// The longest line that is looked at.
const LONGEST_LINE: usize = 512;

/// Reads a console as it comes.
#[derive(Debug, Default)]
pub(crate) struct Words {
    line: Vec<u8>,
    /// The line was longer than is kept.
    is_cut: bool,
    /// The runtime's exit code.
    pub(crate) exit_code: Option<i32>,
    /// The kernel has panicked.
    pub(crate) has_panicked: bool,
    /// The kernel has ended a process for want of memory.
    pub(crate) ran_out_of_memory: bool,
}

impl Words {
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.whole_line();
                self.line.clear();
                self.is_cut = false;
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(*byte);
            } else {
                self.is_cut = true;
            }
        }
    }

    fn whole_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches('\r');
        // Only the runtime's own lines begin so: a job's are marked as a job's.
        if let Some(code) = text.strip_prefix("anchorhold: ended with exit code ")
            && let Ok(code) = code.trim().parse()
        {
            self.exit_code = Some(code);
        }
        let said = message(text);
        if said.starts_with("Kernel panic - not syncing") {
            self.has_panicked = true;
        }
        if said.starts_with("Out of memory: Killed process")
            || said.starts_with("Kernel panic - not syncing: System is deadlocked on memory")
            || said.starts_with("Kernel panic - not syncing: Out of memory")
        {
            self.ran_out_of_memory = true;
        }
    }
}

/// A kernel's line without its time: `[    1.234567] text`.
fn message(line: &str) -> &str {
    line.strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .filter(|(time, _)| {
            time.trim()
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        })
        .map_or(line, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(text: &str) -> Words {
        let mut words = Words::default();
        words.hear(text.as_bytes());
        words
    }

    #[test]
    fn the_end_is_told_by_whole_lines_of_runtime_and_kernel() {
        let words = heard(
            "anchorhold: serving\r\nanchorhold: ended with exit code 7\r\n[    1.5] reboot: x\r\n",
        );
        assert_eq!(words.exit_code, Some(7));
        assert!(!words.has_panicked && !words.ran_out_of_memory);
        let words = heard(
            "[    0.9] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\r\n",
        );
        assert!(words.has_panicked && words.exit_code.is_none());
        let words = heard("[   12.0] Out of memory: Killed process 77 (job)\r\n");
        assert!(words.ran_out_of_memory && !words.has_panicked);
    }

    #[test]
    fn a_job_cannot_speak_as_runtime_or_kernel() {
        let words = heard(
            "job: anchorhold: ended with exit code 0\njob: [    0.9] Kernel panic - not syncing: no\njob: Out of memory: Killed process 1\n",
        );
        assert_eq!(words.exit_code, None);
        assert!(!words.has_panicked && !words.ran_out_of_memory);
    }

    proptest! {
        #[test]
        fn any_console_is_read_in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..4096), at in 0usize..4096) {
            let mut whole = Words::default();
            whole.hear(&bytes);
            let mut parts = Words::default();
            let at = at.min(bytes.len());
            parts.hear(&bytes[..at]);
            parts.hear(&bytes[at..]);
            prop_assert_eq!(whole.exit_code, parts.exit_code);
            prop_assert!(whole.line.len() <= LONGEST_LINE);
        }
    }
}
