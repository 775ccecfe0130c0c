//! The console, sealed to its owner: what the runtime and the job say for people, in frames that the parent carries and
//! cannot read.
//!
//! Each frame is a whole message of the AWS Encryption SDK's format, in base64 on a line of its own, under one data key of the
//! key that the manifest's `log.encrypt_to` names. Its plaintext is JSON lines: first `{"frame":N,"lost":L}`, N counting from
//! 1 and L the lines that found no room since the frame before, with `"end":true` in the last; then `{"at_ms":T,"line":"…"}`
//! for each line. The encryption context names the log, so that frames of two enclaves are not mixed up. A frame leaves one
//! second after its first line, or when it is full.
//!
//! Nothing must wait for the key service: until its key is there, lines are kept up to a bound, and counted beyond it. No line
//! that was meant for the owner is ever written plainly, not even because sealing fails.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Error, SealOptions, Sealer, new_message_id,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::keys::{KeyError, KeyService, Keys};
use crate::nsm::Nsm;

/// What each frame's line begins with.
pub const MARK: &str = "sealed-log.v1 ";
/// Bytes of lines in a frame: with header and base64 it stays below the 8 KiB that hosts keep of a line.
const FRAME_BYTES: usize = 4096;
/// How long a line may wait for others.
const FLUSH_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of lines that wait for the log's key.
const MOST_WAITING_BYTES: usize = 256 * 1024;
/// Between attempts to get it; each pause is twice as long as the one before.
const FIRST_KEY_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_KEY_PAUSE: Duration = Duration::from_secs(30);

/// How long an enclave that ends waits for the key, and how often it looks.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
const LAST_LOOK: Duration = Duration::from_millis(20);

/// The log of this process, once it is sealed.
static LOG: OnceLock<Arc<SealedLog>> = OnceLock::new();

/// What a log is sealed with.
struct Key {
    data_key: Zeroizing<Vec<u8>>,
    encrypted: EncryptedDataKey,
}

/// Lines on their way into frames.
pub struct Journal {
    context: EncryptionContext,
    key: Option<Key>,
    /// JSON lines, each with its newline.
    waiting: VecDeque<Zeroizing<String>>,
    waiting_bytes: usize,
    lost: u64,
    frame: u64,
}

impl Journal {
    /// An empty one, under that encryption context.
    pub fn new(context: EncryptionContext) -> Journal {
        Journal {
            context,
            key: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lost: 0,
            frame: 0,
        }
    }

    /// Takes the key that the context was told for.
    pub fn admit(&mut self, data_key: Zeroizing<Vec<u8>>, encrypted: EncryptedDataKey) {
        self.key = Some(Key {
            data_key,
            encrypted,
        });
    }

    /// Keeps a line; says whether it is the first that waits.
    pub fn push(&mut self, at_ms: u64, line: &str) -> bool {
        #[derive(Serialize)]
        struct Line<'a> {
            at_ms: u64,
            line: &'a str,
        }
        let Ok(mut text) = serde_json::to_string(&Line { at_ms, line }) else {
            self.lost += 1;
            return false;
        };
        text.push('\n');
        if self.waiting_bytes + text.len() > MOST_WAITING_BYTES {
            self.lost += 1;
            return false;
        }
        self.waiting_bytes += text.len();
        self.waiting.push_back(Zeroizing::new(text));
        self.waiting.len() == 1
    }

    /// Whether it can be sealed.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether there is a frame's worth, and a key for it.
    pub fn is_full(&self) -> bool {
        self.key.is_some() && self.waiting_bytes >= FRAME_BYTES
    }

    /// The lines that wait, or were lost.
    pub fn unsealed(&self) -> u64 {
        self.waiting.len() as u64 + self.lost
    }

    /// All that waits, as lines for the console; none without a key. `end` says that there will be no more, which the
    /// last frame tells.
    pub fn flush(&mut self, end: bool) -> Vec<String> {
        let mut frames = Vec::new();
        if self.key.is_none() {
            return frames;
        }
        while !self.waiting.is_empty() {
            let mut lines = Zeroizing::new(String::with_capacity(3 * FRAME_BYTES));
            let mut count = 0;
            while let Some(next) = self.waiting.front()
                && (count == 0 || lines.len() + next.len() <= FRAME_BYTES)
            {
                lines.push_str(next);
                self.waiting_bytes -= next.len();
                count += 1;
                self.waiting.pop_front();
            }
            let last = end && self.waiting.is_empty();
            match self.seal(&lines, last) {
                Ok(frame) => frames.push(frame),
                Err(_) => self.lost += count,
            }
            if last {
                return frames;
            }
        }
        if end {
            frames.extend(self.seal("", true).ok());
        }
        frames
    }

    fn seal(&mut self, lines: &str, end: bool) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Head {
            frame: u64,
            lost: u64,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            end: bool,
        }
        let Some(key) = &self.key else {
            return Err(Error::Crypto("sealing without a key"));
        };
        let head = Head {
            frame: self.frame + 1,
            lost: self.lost,
            end,
        };
        let head = serde_json::to_string(&head).map_err(|_| Error::Crypto("writing a frame"))?;
        let mut options = SealOptions::new(self.context.clone(), vec![key.encrypted.clone()]);
        // One frame holds all of it.
        options.frame_length = 4 * FRAME_BYTES as u32;
        let data_key = DataKey::from_vec(key.data_key.clone())?;
        let (mut sealer, mut message) = Sealer::new(options, data_key, new_message_id()?)?;
        for part in [head.as_bytes(), b"\n", lines.as_bytes()] {
            sealer.update(part, &mut message)?;
        }
        sealer.finish(&mut message)?;
        self.frame += 1;
        self.lost = 0;
        Ok(format!("{MARK}{}\n", URL_SAFE_NO_PAD.encode(&message)))
    }
}

/// The context of a log: what it is, which enclave's, and which of all logs.
///
/// # Errors
/// The system gives no randomness.
pub fn context(enclave: &str) -> Result<EncryptionContext, Error> {
    let id = new_message_id()?;
    Ok([
        ("anchorhold:kind".to_owned(), "log".to_owned()),
        ("anchorhold:enclave".to_owned(), enclave.to_owned()),
        ("anchorhold:log".to_owned(), hex::encode(&id[..16])),
    ]
    .into())
}

/// A journal that writes its frames to the console.
pub struct SealedLog {
    journal: Mutex<Journal>,
    clock: Arc<Clock>,
    /// A first line waits.
    woken: Notify,
}

impl SealedLog {
    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, line: &str) {
        let at_ms = self.clock.at(Instant::now()).unix_ms;
        let mut journal = self.lock();
        let first = journal.push(at_ms, line);
        if journal.is_full() {
            write(&journal.flush(false));
        } else if first {
            self.woken.notify_one();
        }
    }

    /// Gets the log's key, and then sees to it that nothing waits too long.
    async fn keep<N: Nsm, S: KeyService>(self: Arc<Self>, keys: Arc<Keys<N, S>>, key_id: String) {
        let context = self.lock().context.clone();
        let mut pause = FIRST_KEY_PAUSE;
        let mut said = String::new();
        loop {
            match keys.generate_plain_under(&key_id, &context).await {
                Ok((data_key, encrypted)) => {
                    self.lock().admit(data_key, encrypted);
                    break;
                }
                Err(error) => tell(&error, &mut said),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_KEY_PAUSE);
        }
        loop {
            write(&self.lock().flush(false));
            self.woken.notified().await;
            tokio::time::sleep(FLUSH_PAUSE).await;
        }
    }
}

/// Says once why the log is silent: its owner cannot be told otherwise. It concerns no call.
fn tell(error: &KeyError, said: &mut String) {
    let text = error.to_string();
    if *said != text {
        crate::log_plainly!(
            "the log is sealed, and its key is not to be had: {text}. Lines wait for it, {} KiB of them",
            MOST_WAITING_BYTES / 1024
        );
        *said = text;
    }
}

/// While the journal is locked, so that frames keep their order.
fn write(frames: &[String]) {
    for frame in frames {
        // Failing to write is not an error: there is nobody to tell.
        let _ = std::io::stderr().write_all(frame.as_bytes());
    }
}

/// From now on, what is said on the console goes to whoever may use that key. Once; a later one is ignored.
pub fn begin<N: Nsm, S: KeyService>(
    context: EncryptionContext,
    clock: Arc<Clock>,
    keys: Arc<Keys<N, S>>,
    key_id: String,
) {
    let log = Arc::new(SealedLog {
        journal: Mutex::new(Journal::new(context)),
        clock,
        woken: Notify::new(),
    });
    if LOG.set(Arc::clone(&log)).is_ok() {
        tokio::spawn(log.keep(keys, key_id));
    }
}

/// Takes a line, if the log is sealed.
pub(crate) fn take(line: &str) -> bool {
    match LOG.get() {
        Some(log) => {
            log.take(line);
            true
        }
        None => false,
    }
}

/// Waits a little for the log's key where lines wait for it: there will be no later chance.
pub async fn settle() {
    let Some(log) = LOG.get() else { return };
    let until = Instant::now() + LAST_PATIENCE;
    while !log.lock().has_key() && Instant::now() < until {
        tokio::time::sleep(LAST_LOOK).await;
    }
}

/// Writes the last frame. Returns how many lines never got a key.
pub(crate) fn end() -> u64 {
    let Some(log) = LOG.get() else { return 0 };
    let mut journal = log.lock();
    write(&journal.flush(true));
    journal.unsealed()
}

#[cfg(test)]
mod tests {
    use anchorhold_envelope::{Limits, open_whole};
    use proptest::prelude::*;

    use super::*;

    fn journal() -> Journal {
        Journal::new(context("i-0-enc1").expect("randomness"))
    }

    fn admit(journal: &mut Journal) {
        let encrypted = EncryptedDataKey {
            provider_id: "aws-kms".to_owned(),
            key_info: "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000001"
                .to_owned(),
            ciphertext: vec![1; 250],
        };
        journal.admit(Zeroizing::new(vec![7; 32]), encrypted);
    }

    fn opened(frame: &str) -> Vec<serde_json::Value> {
        let text = frame.strip_prefix(MARK).expect("a frame").trim_end();
        let message = URL_SAFE_NO_PAD.decode(text).expect("base64");
        let (header, plaintext) = open_whole(&message, &Limits::default(), |_| {
            DataKey::from_vec(Zeroizing::new(vec![7; 32]))
        })
        .expect("it opens");
        assert_eq!(header.context()["anchorhold:kind"], "log");
        let text = String::from_utf8(plaintext.to_vec()).expect("text");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    #[test]
    fn lines_come_in_frames_that_are_numbered_and_end() {
        let mut journal = journal();
        assert!(journal.push(1, "first"), "somebody must be woken");
        assert!(!journal.push(2, "second"));
        assert!(journal.flush(false).is_empty(), "there is no key yet");
        admit(&mut journal);
        let frames = journal.flush(false);
        assert_eq!(frames.len(), 1);
        assert!(!frames[0].contains("first"));
        assert_eq!(
            opened(&frames[0]),
            [
                serde_json::json!({"frame": 1, "lost": 0}),
                serde_json::json!({"at_ms": 1, "line": "first"}),
                serde_json::json!({"at_ms": 2, "line": "second"}),
            ]
        );
        assert!(journal.flush(false).is_empty());
        journal.push(3, "last");
        let frames = journal.flush(true);
        assert_eq!(
            opened(&frames[0])[0],
            serde_json::json!({"frame": 2, "lost": 0, "end": true})
        );
        let mut silent = self::journal();
        admit(&mut silent);
        assert_eq!(
            opened(&silent.flush(true)[0]),
            [serde_json::json!({"frame": 1, "lost": 0, "end": true})]
        );
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let mut journal = journal();
        let line = "x".repeat(1000);
        for _ in 0..1000 {
            journal.push(1, &line);
        }
        assert!(journal.waiting_bytes <= MOST_WAITING_BYTES);
        assert_eq!(journal.unsealed(), 1000);
        admit(&mut journal);
        let frames = journal.flush(false);
        let all: Vec<_> = frames.iter().flat_map(|frame| opened(frame)).collect();
        let lines = all.iter().filter(|line| line.get("line").is_some()).count() as u64;
        let lost: u64 = all.iter().filter_map(|line| line["lost"].as_u64()).sum();
        assert_eq!(lines + lost, 1000);
        assert!(lost > 0 && lines > 200, "{lost} {lines}");
        assert_eq!(journal.unsealed(), 0);
    }

    proptest! {
        #[test]
        fn a_frame_never_outgrows_what_hosts_keep_of_a_line(
            lines in proptest::collection::vec("[ -~\u{e9}\u{fffd}]{0,2040}|\"{2040}", 1..8),
        ) {
            let mut journal = journal();
            admit(&mut journal);
            let mut frames = Vec::new();
            for line in &lines {
                // As the console renders them.
                let mut end = line.len().min(2048);
                while !line.is_char_boundary(end) {
                    end -= 1;
                }
                journal.push(u64::MAX, &line[..end]);
                if journal.is_full() {
                    frames.extend(journal.flush(false));
                }
            }
            frames.extend(journal.flush(true));
            let mut seen = 0;
            for (number, frame) in (1u64..).zip(&frames) {
                prop_assert!(frame.len() < 8 * 1024, "{} bytes", frame.len());
                let opened = opened(frame);
                prop_assert_eq!(opened[0]["frame"].as_u64(), Some(number));
                seen += opened.len() - 1;
            }
            prop_assert_eq!(seen, lines.len());
        }
    }
}
