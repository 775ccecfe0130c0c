//! The time that the parent cannot set: attestation documents say it, and between them the monotonic clock carries it.
//!
//! The first document is believed: on Nitro hardware the hypervisor has signed it. A later one moves the time within what
//! the monotonic clock may have drifted since, never beyond, and never back. One that says something else is a step, which is
//! reported and not followed. The system's clock is the parent's to set (on a sandbox it is the parent's own), and must
//! never be asked here.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_bytes::ByteBuf;

/// How far the monotonic clock may drift, in parts per million: crystals stay within a tenth of it.
const MAX_DRIFT_PPM: u64 = 500;
/// Documents have whole milliseconds.
const RESOLUTION_US: u64 = 1000;

/// A document's timestamp, and the moments between which it was made.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Before the document was asked for.
    pub before: Instant,
    /// After it had come.
    pub after: Instant,
}

/// The time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Milliseconds since 1970; never less than an earlier reading.
    pub unix_ms: u64,
    /// How far that may be off, in milliseconds, if the first document was right.
    pub uncertainty_ms: u64,
    /// How it stands with the clock.
    #[serde(flatten)]
    pub standing: Standing,
}

/// How documents and the monotonic clock agree.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Standing {
    /// Documents that were heard.
    pub samples: u64,
    /// Of these, those that said something else than can be, and were not followed.
    pub steps: u64,
    /// By how much the last of those differed, in milliseconds; positive where it was ahead.
    pub last_step_ms: i64,
    /// What the documents have moved the time by since the first, in parts per million of the time since then.
    pub drift_ppm: f64,
}

impl Eq for Standing {}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It agrees.
    Agreed,
    /// It cannot be, by so many milliseconds.
    Step(i64),
}

/// All in microseconds.
struct State {
    /// At `at`.
    unix_us: u64,
    at: Instant,
    /// Of `unix_us`.
    error_us: u64,
    begun: Instant,
    moved_us: i64,
    latest_ms: u64,
    standing: Standing,
}

/// A clock that was set once.
pub struct Clock(Mutex<State>);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A sample's time, the moment it is for, and how far it may be off.
fn read(sample: &Sample) -> (u64, Instant, u64) {
    let half = sample.after.saturating_duration_since(sample.before) / 2;
    (
        sample.unix_ms.saturating_mul(1000),
        sample.before + half,
        micros(half).saturating_add(RESOLUTION_US),
    )
}

impl Clock {
    /// A clock that begins with a document.
    pub fn new(sample: &Sample) -> Clock {
        let (unix_us, at, error_us) = read(sample);
        Clock(Mutex::new(State {
            unix_us,
            at,
            error_us,
            begun: at,
            moved_us: 0,
            latest_ms: 0,
            standing: Standing {
                samples: 1,
                ..Standing::default()
            },
        }))
    }

    /// Hears what another document says.
    pub fn hear(&self, sample: &Sample) -> Heard {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.standing.samples += 1;
        let (said, at, width) = read(sample);
        let (carried, error) = state.carried(at);
        // What both can mean.
        let low = carried
            .saturating_sub(error)
            .max(said.saturating_sub(width));
        let high = carried
            .saturating_add(error)
            .min(said.saturating_add(width));
        if low > high {
            let step = (i128::from(said) - i128::from(carried)) / 1000;
            let step = i64::try_from(step).unwrap_or(if step > 0 { i64::MAX } else { i64::MIN });
            state.standing.steps += 1;
            state.standing.last_step_ms = step;
            return Heard::Step(step);
        }
        let middle = low + (high - low) / 2;
        let moved = i128::from(middle) - i128::from(carried);
        state.moved_us = state
            .moved_us
            .saturating_add(i64::try_from(moved).unwrap_or_default());
        state.unix_us = middle;
        state.at = at;
        state.error_us = (high - low) / 2 + 1;
        let since = micros(at.saturating_duration_since(state.begun));
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        if since > 0 {
            state.standing.drift_ppm = state.moved_us as f64 / since as f64 * 1e6;
        }
        Heard::Agreed
    }

    /// The time at a moment.
    pub fn at(&self, now: Instant) -> Reading {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (carried, error) = state.carried(now);
        let unix_ms = (carried / 1000).max(state.latest_ms);
        state.latest_ms = unix_ms;
        Reading {
            unix_ms,
            uncertainty_ms: error.div_ceil(1000) + (unix_ms - carried / 1000),
            standing: state.standing,
        }
    }

    /// The time now, for what takes it in this form.
    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.at(Instant::now()).unix_ms)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .standing
    }
}

impl State {
    /// The time at a moment, and how far it may be off.
    fn carried(&self, now: Instant) -> (u64, u64) {
        let ahead = micros(now.saturating_duration_since(self.at));
        let behind = micros(self.at.saturating_duration_since(now));
        let drift = (ahead + behind).saturating_mul(MAX_DRIFT_PPM) / 1_000_000;
        (
            self.unix_us.saturating_add(ahead).saturating_sub(behind),
            self.error_us.saturating_add(drift),
        )
    }
}

/// The timestamp of a document that came from this machine's own NSM, in milliseconds since 1970; none if it is no
/// document. Its signature is not looked at: it came from the device, not from a stranger.
pub fn timestamp(document: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Payload {
        timestamp: u64,
    }
    type Signed = (ByteBuf, serde::de::IgnoredAny, ByteBuf, ByteBuf);
    let (_, _, payload, _): Signed = serde_cbor::from_slice(document).ok()?;
    let payload: Payload = serde_cbor::from_slice(&payload).ok()?;
    Some(payload.timestamp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_800_000_000_000;
    const YEAR_MS: u64 = 365 * 86_400_000;

    fn sample(unix_ms: u64, at: Instant) -> Sample {
        Sample {
            unix_ms,
            before: at,
            after: at + Duration::from_millis(2),
        }
    }

    #[test]
    fn the_monotonic_clock_carries_the_time() {
        let begun = Instant::now();
        let clock = Clock::new(&sample(START, begun));
        let later = begun + Duration::from_secs(3600);
        let reading = clock.at(later);
        assert_eq!(reading.unix_ms, START + 3_600_000 - 1);
        assert!(
            (1800..1810).contains(&reading.uncertainty_ms),
            "{reading:?}"
        );
    }

    #[test]
    fn a_year_forth_and_back_moves_nothing_and_is_reported() {
        let begun = Instant::now();
        let clock = Clock::new(&sample(START, begun));
        let minute = |n: u64| begun + Duration::from_secs(60 * n);
        let year = i64::try_from(YEAR_MS).expect("small");
        for (n, said, step) in [
            (1, START + 60_000 + YEAR_MS, year),
            (2, START + 120_000 - YEAR_MS, -year),
            (3, 0, -i64::try_from(START + 180_000 - 1).expect("small")),
            (4, u64::MAX, i64::MAX),
        ] {
            let heard = clock.hear(&sample(said, minute(n)));
            match (heard, step) {
                (Heard::Step(found), i64::MAX) => assert!(found > year),
                (Heard::Step(found), step) => assert!((found - step).abs() <= 2, "{found}"),
                (Heard::Agreed, _) => panic!("{said} was followed"),
            }
            let reading = clock.at(minute(n));
            assert!(
                reading.unix_ms.abs_diff(START + 60_000 * n) <= 2,
                "{reading:?}"
            );
            assert_eq!(reading.standing.steps, n);
        }
        assert_eq!(
            clock.hear(&sample(START + 300_000, minute(5))),
            Heard::Agreed
        );
        assert_eq!(clock.standing().samples, 6);
    }

    #[test]
    fn drift_is_followed_within_its_bound_and_told() {
        // A monotonic clock that is 100 parts per million slow.
        let begun = Instant::now();
        let clock = Clock::new(&sample(START, begun));
        for minute in 1..=600u64 {
            let at = begun + Duration::from_secs(60 * minute);
            let truth = START + 60_000 * minute + 6 * minute;
            assert_eq!(clock.hear(&sample(truth, at)), Heard::Agreed);
        }
        let at = begun + Duration::from_secs(36_000);
        let reading = clock.at(at);
        assert!(reading.unix_ms.abs_diff(START + 36_003_600) <= reading.uncertainty_ms);
        assert!(reading.uncertainty_ms < 100, "{reading:?}");
        assert!(
            (90.0..110.0).contains(&reading.standing.drift_ppm),
            "{reading:?}"
        );
    }

    #[test]
    fn nothing_in_the_enclave_asks_the_systems_clock() {
        // The libraries that would are given this one: rustls and SigV4 by the key service's client, hyper by having it
        // tell no date.
        fn look(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    look(&path, found);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).expect("text");
                    for asks in ["SystemTime::", "Utc::", "Timestamp::", "CLOCK_", "time("] {
                        let now =
                            format!("{asks}{}", if asks.ends_with("::") { "now" } else { "" });
                        let known = |line: &str| {
                            line.contains("CLOCK_MONOTONIC")
                                || line.contains("_time(")
                                || !line.contains(&now)
                        };
                        let lines = text.lines().filter(|line| !known(line));
                        found.extend(lines.map(|line| format!("{}: {line}", path.display())));
                    }
                }
            }
        }
        let mut found = Vec::new();
        look(
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut found,
        );
        found.retain(|line| !line.contains("for asks in") && !line.contains("CLOCK_MONOTONIC"));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn timestamps_are_read_from_documents_and_from_nothing_else() {
        let payload = serde_cbor::to_vec(&std::collections::BTreeMap::from([
            ("timestamp", START),
            ("other", 1),
        ]))
        .expect("CBOR");
        let empty = std::collections::BTreeMap::<u8, u8>::new();
        let parts = (
            ByteBuf::from(vec![1]),
            empty,
            ByteBuf::from(payload),
            ByteBuf::from(vec![2]),
        );
        let document = serde_cbor::to_vec(&parts).expect("CBOR");
        assert_eq!(timestamp(&document), Some(START));
        for cut in 0..document.len() {
            assert_eq!(timestamp(&document[..cut]), None);
        }
        assert_eq!(timestamp(b"\xff\xff"), None);
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_time_never_goes_back_and_never_runs_away(
            said in proptest::collection::vec((any::<bool>(), any::<u64>(), -5_000i64..5_000), 1..60)
        ) {
            let begun = Instant::now();
            let clock = Clock::new(&sample(START, begun));
            let mut last = 0;
            for (n, (wild, number, offset)) in (1u64..).zip(said) {
                let at = begun + Duration::from_secs(n);
                let unix_ms = if wild { number } else { (START + n * 1000).saturating_add_signed(offset) };
                clock.hear(&sample(unix_ms, at));
                let reading = clock.at(at);
                prop_assert!(reading.unix_ms >= last);
                last = reading.unix_ms;
                let bound = 3 + n * 1000 * MAX_DRIFT_PPM / 1_000_000 + n;
                prop_assert!(reading.unix_ms.abs_diff(START + n * 1000) <= bound, "{:?}", reading);
            }
        }
    }
}
