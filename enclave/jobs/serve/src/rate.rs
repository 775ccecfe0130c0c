//! How often something may happen: a bucket that fills with time.
//!
//! It begins empty, so that whoever restarts the enclave gains nothing by it: over any sequence of lives, one after the
//! other, no more happens than the rate allows for the time that they took. The moment comes in as an argument.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// So many in so many seconds: as many at once, and in any span of time that and the span's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rate {
    count: u32,
    seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    count: u32,
    seconds: u32,
}

impl TryFrom<Written> for Rate {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Rate, &'static str> {
        Rate::new(written.count, written.seconds).ok_or("a rate's count and seconds are at least 1")
    }
}

impl Rate {
    /// A rate; none of nothing, and none of no time.
    pub fn new(count: u32, seconds: u32) -> Option<Rate> {
        (count > 0 && seconds > 0).then_some(Rate { count, seconds })
    }
}

/// What is left of a rate.
#[derive(Debug)]
pub struct Bucket {
    /// What one costs, and what the bucket holds at most, in nanoseconds of filling.
    cost: u128,
    most: u128,
    level: u128,
    since: Instant,
}

impl Bucket {
    /// An empty one.
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        let span = Duration::from_secs(rate.seconds.into()).as_nanos();
        let cost = span.div_ceil(rate.count.into());
        Bucket {
            cost,
            most: cost * u128::from(rate.count),
            level: 0,
            since: now,
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long to wait for it.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.since).as_nanos();
        self.since = self.since.max(now);
        self.level = (self.level + elapsed).min(self.most);
        match self.level.checked_sub(self.cost) {
            Some(left) => {
                self.level = left;
                Ok(())
            }
            None => {
                let nanoseconds = u64::try_from(self.cost - self.level).unwrap_or(u64::MAX);
                Err(Duration::from_nanos(nanoseconds))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(count: u32, seconds: u32, now: Instant) -> Bucket {
        Bucket::new(Rate::new(count, seconds).expect("a rate"), now)
    }

    #[test]
    fn a_new_one_is_empty_and_says_how_long_it_takes() {
        let start = Instant::now();
        let mut bucket = bucket(2, 10, start);
        assert_eq!(bucket.take(start), Err(Duration::from_secs(5)));
        let later = start + Duration::from_secs(5);
        assert_eq!(bucket.take(later), Ok(()));
        assert_eq!(bucket.take(later), Err(Duration::from_secs(5)));
        // It holds no more than its count, however long nobody asked.
        let much_later = later + Duration::from_secs(1000);
        assert_eq!(bucket.take(much_later), Ok(()));
        assert_eq!(bucket.take(much_later), Ok(()));
        assert!(bucket.take(much_later).is_err());
    }

    #[test]
    fn a_moment_that_lies_before_another_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = bucket(1, 10, start);
        assert!(
            bucket
                .take(start.checked_sub(Duration::from_secs(50)).unwrap())
                .is_err()
        );
        assert!(bucket.take(start).is_err());
    }

    #[test]
    fn a_rate_of_nothing_is_none() {
        assert_eq!(Rate::new(0, 1), None);
        assert_eq!(Rate::new(1, 0), None);
        let read = |text| serde_json::from_str::<Rate>(text).ok();
        assert_eq!(read(r#"{"count":3,"seconds":60}"#), Rate::new(3, 60));
        assert_eq!(read(r#"{"count":0,"seconds":60}"#), None);
        assert_eq!(read(r#"{"count":1,"seconds":60,"burst":9}"#), None);
    }

    proptest! {
        #[test]
        fn restarts_gain_nothing(
            count in 1u32..50, seconds in 1u32..100,
            lives in prop::collection::vec(prop::collection::vec(0u64..20_000, 1..30), 1..6),
        ) {
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0u32);
            for life in lives {
                let mut bucket = bucket(count, seconds, now);
                for pause in life {
                    now += Duration::from_millis(pause);
                    while bucket.take(now).is_ok() {
                        taken += 1;
                    }
                }
            }
            let share = (now - start).as_secs_f64() * f64::from(count) / f64::from(seconds);
            prop_assert!(f64::from(taken) <= share + 1e-6, "{taken} of {share}");
        }
    }
}
