//! A sealed log, opened by its owner: its frames in the host's order, and what the host has done to them.
//!
//! The host carries the frames and may leave out, repeat, reorder or make them up. Each is opened by itself; what is
//! wrong with their sequence is said, and nothing is taken for the whole that is not.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anchorhold_envelope::{DataKey, EncryptionContext, Header, Limits, Parse, open_whole};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key_service::{OpenRequest, OwnerClient, data_key_bytes};

/// What each frame's line begins with.
const MARK: &str = "sealed-log.v1 ";
/// Data keys that are kept: each start of an enclave has one.
const MOST_KEYS: usize = 64;

/// Opens in a thread of its own, so that whoever reads lines need not wait for keys.
pub(super) struct Opening {
    lines: mpsc::SyncSender<String>,
    thread: JoinHandle<anyhow::Result<bool>>,
}

impl Opening {
    pub(super) fn begin(
        client: OwnerClient,
        key: String,
        since_ms: u64,
        json: bool,
    ) -> anyhow::Result<Opening> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the asynchronous runtime cannot start")?;
        let (lines, waiting) = mpsc::sync_channel::<String>(64);
        let thread = std::thread::spawn(move || {
            let request = OpenRequest {
                key: Some(key),
                context: [("anchorhold:kind".to_owned(), "log".to_owned())].into(),
            };
            let mut keys = Keys::default();
            let mut logs = Logs::default();
            for line in waiting {
                let taken = logs.take(&line, |header| {
                    keys.of(header, |header| {
                        runtime.block_on(data_key_bytes(&client, &request, header))
                    })
                });
                let printed = print(&taken, since_ms, json);
                match printed {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                    printed => printed.context("standard output")?,
                }
            }
            let verdict = logs.verdict();
            for line in &verdict.said {
                eprintln!("anchorhold: {line}");
            }
            Ok(verdict.is_good)
        });
        Ok(Opening { lines, thread })
    }

    pub(super) fn take(&self, line: &str) -> io::Result<()> {
        // It has ended, and `end` says why.
        self.lines
            .send(line.to_owned())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Whether all frames that are there were in their order and good.
    pub(super) fn end(self) -> anyhow::Result<bool> {
        drop(self.lines);
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(_) => anyhow::bail!("opening broke off"),
        }
    }
}

fn print(taken: &Taken, since_ms: u64, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match taken {
        Taken::Frame { log, lines } => {
            for line in lines.iter().filter(|line| line.at_ms >= since_ms) {
                if json {
                    serde_json::to_writer(
                        &mut out,
                        &serde_json::json!({ "at_ms": line.at_ms, "line": line.line, "log": log }),
                    )?;
                    writeln!(out)?;
                } else {
                    writeln!(out, "{}", line.line)?;
                }
            }
        }
        Taken::Unsealed(line) if json => {
            serde_json::to_writer(&mut out, &serde_json::json!({ "unsealed": line }))?;
            writeln!(out)?;
        }
        Taken::Unsealed(line) => writeln!(out, "unsealed: {line}")?,
        Taken::Nothing => {}
    }
    out.flush()
}

/// Data keys, so that the key service is asked once for each log.
#[derive(Default)]
struct Keys(BTreeMap<(Vec<u8>, EncryptionContext), Zeroizing<Vec<u8>>>);

impl Keys {
    fn of(
        &mut self,
        header: &Header,
        ask: impl FnOnce(&Header) -> anyhow::Result<Zeroizing<Vec<u8>>>,
    ) -> anyhow::Result<DataKey> {
        let first = header.data_keys().first();
        let name = first.map_or_else(Vec::new, |key| key.ciphertext.clone());
        let name = (name, header.context().clone());
        if let Some(known) = self.0.get(&name) {
            return Ok(DataKey::from_vec(known.clone())?);
        }
        let key = ask(header)?;
        if self.0.len() >= MOST_KEYS {
            self.0.pop_first();
        }
        self.0.insert(name, key.clone());
        Ok(DataKey::from_vec(key)?)
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Said {
    at_ms: u64,
    line: String,
}

/// The first line of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
struct Head {
    frame: u64,
    lost: u64,
    #[serde(default)]
    end: bool,
}

/// What a line of the host's was.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Frame {
        log: String,
        lines: Vec<Said>,
    },
    Unsealed(String),
    /// A frame that is not good, or that was there before.
    Nothing,
}

/// How it stands with one log.
#[derive(Debug, Default)]
struct Log {
    enclave: String,
    first: u64,
    /// The highest number so far.
    last: u64,
    /// Frames that should be there and are not.
    missing: u64,
    disorder: u64,
    repeated: u64,
    lost: u64,
    ended: bool,
    /// Numbers below `last` that have not come.
    gaps: BTreeMap<u64, u64>,
}

/// All logs among the lines, by their ids.
#[derive(Default)]
struct Logs {
    by_id: BTreeMap<String, Log>,
    /// In the order in which they were first seen.
    order: Vec<String>,
    broken: Vec<String>,
    broken_more: u64,
}

struct Verdict {
    said: Vec<String>,
    is_good: bool,
}

/// Frames that are named one by one where they cannot be opened.
const MOST_NAMED: usize = 20;

impl Logs {
    fn take(&mut self, line: &str, key: impl FnMut(&Header) -> anyhow::Result<DataKey>) -> Taken {
        let Some(at) = line.find(MARK) else {
            return Taken::Unsealed(line.to_owned());
        };
        match opened(&line[at + MARK.len()..], key) {
            Ok((context, head, lines)) => self.frame(&context, &head, lines),
            Err(error) => {
                if self.broken.len() < MOST_NAMED {
                    let error = crate::errors::one_line(error.as_ref());
                    self.broken
                        .push(format!("a frame cannot be opened: {error}"));
                } else {
                    self.broken_more += 1;
                }
                Taken::Nothing
            }
        }
    }

    fn frame(&mut self, context: &EncryptionContext, head: &Head, lines: Vec<Said>) -> Taken {
        let entry = |name: &str| context.get(name).cloned().unwrap_or_default();
        let id = entry("anchorhold:log");
        let log = self.by_id.entry(id.clone()).or_insert_with(|| {
            self.order.push(id.clone());
            Log {
                enclave: entry("anchorhold:enclave"),
                first: head.frame,
                last: head.frame.saturating_sub(1),
                ..Log::default()
            }
        });
        if !log.number(head.frame) {
            return Taken::Nothing;
        }
        log.lost += head.lost;
        log.ended |= head.end;
        Taken::Frame { log: id, lines }
    }

    fn verdict(&self) -> Verdict {
        let mut said = self.broken.clone();
        if self.broken_more > 0 {
            said.push(format!("{} more frames cannot be opened", self.broken_more));
        }
        let mut is_good = said.is_empty();
        for id in &self.order {
            let Some(log) = self.by_id.get(id) else {
                continue;
            };
            let name = format!("log {id} of enclave {}", log.enclave);
            let mut note = |text: String| said.push(format!("{name}: {text}"));
            if log.first > 1 {
                note(format!(
                    "the frames before {} are not here: hosts keep the newest, or it was cut",
                    log.first
                ));
            }
            for (count, what) in [
                (log.missing, "frames are missing in between"),
                (log.disorder, "frames came out of their order"),
                (log.repeated, "frames came again"),
            ] {
                if count > 0 {
                    is_good = false;
                    note(format!("{count} {what}"));
                }
            }
            if log.lost > 0 {
                note(format!("{} lines found no room inside", log.lost));
            }
            if !log.ended {
                note(format!(
                    "it has no end after frame {}: the enclave still runs, was killed, or the host has cut it",
                    log.last
                ));
            }
        }
        Verdict { said, is_good }
    }
}

impl Log {
    /// Takes note of a frame's number; whether it is a new one.
    fn number(&mut self, number: u64) -> bool {
        if number > self.last {
            let skipped = number - self.last - 1;
            if skipped > 0 {
                self.missing += skipped;
                self.gaps.insert(self.last + 1, number);
            }
            self.last = number;
            return true;
        }
        if number < self.first {
            // It is from before the first that was here.
            self.disorder += 1;
            self.missing += self.first - number - 1;
            if number + 1 < self.first {
                self.gaps.insert(number + 1, self.first);
            }
            self.first = number;
            return true;
        }
        let gap = self
            .gaps
            .range(..=number)
            .next_back()
            .map(|(from, to)| (*from, *to));
        match gap {
            Some((from, to)) if number < to => {
                self.gaps.remove(&from);
                if from < number {
                    self.gaps.insert(from, number);
                }
                if number + 1 < to {
                    self.gaps.insert(number + 1, to);
                }
                self.missing -= 1;
                self.disorder += 1;
                true
            }
            _ => {
                self.repeated += 1;
                false
            }
        }
    }
}

fn opened(
    text: &str,
    mut key: impl FnMut(&Header) -> anyhow::Result<DataKey>,
) -> anyhow::Result<(EncryptionContext, Head, Vec<Said>)> {
    let message = URL_SAFE_NO_PAD
        .decode(text.trim_end())
        .context("it is no base64")?;
    let limits = Limits::default();
    let Parse::Complete { header, .. } = Header::parse(&message, &limits)? else {
        anyhow::bail!("it is cut");
    };
    let data_key = key(&header)?;
    let (header, plaintext) = open_whole(&message, &limits, |_| {
        Ok::<_, anchorhold_envelope::Error>(data_key)
    })?;
    let text = std::str::from_utf8(&plaintext).context("it is no text")?;
    let mut lines = text.lines();
    let head = serde_json::from_str(lines.next().unwrap_or_default()).context("it has no head")?;
    let lines = lines
        .map(|line| {
            let said: Said = serde_json::from_str(line).context("it has a line that is none")?;
            Ok(Said {
                line: anchorhold_parent::lifecycle::printable(said.line.as_bytes(), 8192),
                ..said
            })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok((header.context().clone(), head, lines))
}

#[cfg(test)]
mod tests {
    use anchorhold_envelope::{EncryptedDataKey, SealOptions, Sealer, new_message_id};

    use super::*;

    fn key() -> anyhow::Result<DataKey> {
        Ok(DataKey::from_vec(Zeroizing::new(vec![7; 32]))?)
    }

    fn frame(log: &str, head: &str, lines: &[&str]) -> String {
        let context = [
            ("anchorhold:kind".to_owned(), "log".to_owned()),
            ("anchorhold:log".to_owned(), log.to_owned()),
            ("anchorhold:enclave".to_owned(), "i-0-enc1".to_owned()),
        ];
        let data_key = EncryptedDataKey {
            provider_id: "aws-kms".to_owned(),
            key_info: "key".to_owned(),
            ciphertext: vec![1],
        };
        let options = SealOptions::new(context.into(), vec![data_key]);
        let id = new_message_id().expect("randomness");
        let (mut sealer, mut message) =
            Sealer::new(options, key().expect("a key"), id).expect("a message");
        let mut text = format!("{head}\n");
        for line in lines {
            let line = format!("{{\"at_ms\":5,\"line\":\"{line}\"}}\n");
            text.push_str(&line);
        }
        sealer
            .update(text.as_bytes(), &mut message)
            .expect("few bytes");
        sealer.finish(&mut message).expect("few bytes");
        format!("{MARK}{}", URL_SAFE_NO_PAD.encode(message))
    }

    fn numbered(number: u64) -> String {
        let end = if number == 9 { ",\"end\":true" } else { "" };
        let head = format!("{{\"frame\":{number},\"lost\":0{end}}}");
        frame("a", &head, &[&format!("line {number}")])
    }

    fn verdict(lines: &[String]) -> (Vec<String>, Verdict) {
        let mut logs = Logs::default();
        let mut said = Vec::new();
        for line in lines {
            match logs.take(line, |_| key()) {
                Taken::Frame { lines, .. } => said.extend(lines.into_iter().map(|line| line.line)),
                Taken::Unsealed(line) => said.push(format!("unsealed: {line}")),
                Taken::Nothing => {}
            }
        }
        (said, logs.verdict())
    }

    fn of(numbers: &[u64]) -> (Vec<String>, Verdict) {
        verdict(
            &numbers
                .iter()
                .map(|number| numbered(*number))
                .collect::<Vec<_>>(),
        )
    }

    fn says(verdict: &Verdict, word: &str) -> bool {
        verdict.said.iter().any(|line| line.contains(word))
    }

    #[test]
    fn a_log_that_is_whole_is_said_to_be() {
        let (lines, verdict) = of(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(lines.len(), 9);
        assert!(
            verdict.is_good && verdict.said.is_empty(),
            "{:?}",
            verdict.said
        );
    }

    #[test]
    fn what_the_host_does_to_frames_is_seen() {
        for (numbers, word) in [
            (&[1, 2, 4, 9][..], "5 frames are missing"),
            (&[1, 3, 2, 9], "1 frames came out of their order"),
            (&[1, 2, 2, 9], "1 frames came again"),
            (&[2, 1], "1 frames came out of their order"),
            (&[5, 1], "3 frames are missing"),
        ] {
            let (_, verdict) = of(numbers);
            assert!(
                !verdict.is_good && says(&verdict, word),
                "{numbers:?}: {:?}",
                verdict.said
            );
        }
        // A frame's lines are printed once.
        assert_eq!(of(&[1, 2, 1, 2, 2]).0, ["line 1", "line 2"]);
        let (_, cut) = of(&[1, 2, 3]);
        assert!(cut.is_good && says(&cut, "no end after frame 3"));
        let (_, late) = of(&[7, 8, 9]);
        assert!(late.is_good && says(&late, "before 7 are not here"));
    }

    #[test]
    fn frames_that_were_changed_cut_or_made_up_are_not_taken() {
        let whole = numbered(1);
        for at in [whole.len() - 1, whole.len() / 2, MARK.len() + 3] {
            let mut changed = whole.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("text");
            for line in [changed, whole[..at].to_owned()] {
                let (lines, verdict) = verdict(&[line]);
                assert!(lines.is_empty() && !verdict.is_good);
            }
        }
        let flood: Vec<String> = (0..100).map(|_| format!("{MARK}AAAA")).collect();
        let (_, flooded) = verdict(&flood);
        assert!(flooded.said.len() == MOST_NAMED + 1 && says(&flooded, "80 more"));
        let mut logs = Logs::default();
        let refused = logs.take(&whole, |_| anyhow::bail!("AccessDenied"));
        assert_eq!(refused, Taken::Nothing);
        assert!(says(&logs.verdict(), "AccessDenied"));
    }

    #[test]
    fn logs_of_several_starts_do_not_mix_and_what_is_not_sealed_is_marked() {
        let mut lines = vec!["anchorhold: serving".to_owned()];
        for number in 1..3 {
            for log in ["a", "b"] {
                let head = format!("{{\"frame\":{number},\"lost\":{number}}}");
                lines.push(frame(log, &head, &[log]));
            }
        }
        let (said, verdict) = verdict(&lines);
        assert_eq!(said, ["unsealed: anchorhold: serving", "a", "b", "a", "b"]);
        assert!(verdict.is_good && says(&verdict, "3 lines found no room"));
    }

    #[test]
    fn one_data_key_is_asked_for_once() {
        let mut keys = Keys::default();
        let frame = numbered(1);
        let message = URL_SAFE_NO_PAD
            .decode(&frame[MARK.len()..])
            .expect("base64");
        let Ok(Parse::Complete { header, .. }) = Header::parse(&message, &Limits::default()) else {
            panic!("a header");
        };
        let mut asked = 0;
        for _ in 0..3 {
            keys.of(&header, |_| {
                asked += 1;
                Ok(Zeroizing::new(vec![7; 32]))
            })
            .expect("a key");
        }
        assert_eq!(asked, 1);
    }
}
