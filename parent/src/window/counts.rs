//! What a window counts: flows, bytes, refusals by reason, and how long it took until a flow began.
//!
//! Numbers alone: never a name, an address or a byte of what is carried.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why something was not let through, or was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reason {
    /// No target can be read from what was asked for.
    Malformed,
    /// The host's own allowlist does not permit the target.
    HostList,
    /// The measured manifest does not.
    Manifest,
    /// It led to an address that no allowlist can open.
    ForbiddenAddress,
    /// Its name does not resolve.
    Unresolvable,
    /// It does not answer, or the enclave's port does not.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// A source that is denied, or not among those that are allowed.
    Denied,
    /// All places are taken.
    Full,
    /// All places of this source are taken.
    SourceFull,
    /// Too many new connections.
    Fast,
    /// Too many new connections of this source.
    SourceFast,
    /// It said nothing.
    Silent,
    /// Its head took too long.
    SlowHead,
    /// Its head is too large.
    LargeHead,
    /// Its head is not what it must be.
    BadHead,
    /// Its PROXY header is missing or wrong, or not a load balancer's.
    BadProxy,
    /// Nothing moved for too long.
    Idle,
    /// It carried as much as one flow may.
    Spent,
    /// An end broke off.
    Broken,
}

impl Reason {
    const ALL: [(Reason, &'static str); 20] = [
        (Reason::Malformed, "malformed"),
        (Reason::HostList, "host-list"),
        (Reason::Manifest, "manifest"),
        (Reason::ForbiddenAddress, "forbidden-address"),
        (Reason::Unresolvable, "unresolvable"),
        (Reason::Unreachable, "unreachable"),
        (Reason::TimedOut, "timed-out"),
        (Reason::Denied, "denied"),
        (Reason::Full, "full"),
        (Reason::SourceFull, "source-full"),
        (Reason::Fast, "fast"),
        (Reason::SourceFast, "source-fast"),
        (Reason::Silent, "silent"),
        (Reason::SlowHead, "slow-head"),
        (Reason::LargeHead, "large-head"),
        (Reason::BadHead, "bad-head"),
        (Reason::BadProxy, "bad-proxy"),
        (Reason::Idle, "idle"),
        (Reason::Spent, "spent"),
        (Reason::Broken, "broken"),
    ];
}

/// Upper bounds of the classes of [`Latency`], in µs.
const BOUNDS_US: [u64; 12] = [
    250, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Counts while flows run.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    open: AtomicU64,
    flows: AtomicU64,
    from_enclave: AtomicU64,
    to_enclave: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
    latency: [AtomicU64; BOUNDS_US.len() + 1],
    latency_us: AtomicU64,
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    FromEnclave,
    ToEnclave,
}

/// Counts a flow as open for as long as it lives.
pub(crate) struct Open<'a>(&'a Counters);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// A flow begins, so long after it was asked for.
    pub(crate) fn begin(&self, after: Duration) -> Open<'_> {
        let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS_US.partition_point(|bound| *bound < us);
        self.latency[class].fetch_add(1, Ordering::Relaxed);
        self.latency_us.fetch_add(us, Ordering::Relaxed);
        self.flows.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    /// Flows that are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn carried(&self, way: Way, bytes: u64) {
        match way {
            Way::FromEnclave => &self.from_enclave,
            Way::ToEnclave => &self.to_enclave,
        }
        .fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            flows_open: load(&self.open),
            flows: load(&self.flows),
            bytes_from_enclave: load(&self.from_enclave),
            bytes_to_enclave: load(&self.to_enclave),
            refused: Reason::ALL
                .iter()
                .map(|(reason, name)| ((*name).to_owned(), load(&self.refused[*reason as usize])))
                .filter(|(_, count)| *count > 0)
                .collect(),
            latency: Latency {
                bounds_us: BOUNDS_US.to_vec(),
                counts: self.latency.iter().map(load).collect(),
                sum_us: load(&self.latency_us),
            },
        }
    }
}

/// What a window has counted since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Flows that are open now.
    pub flows_open: u64,
    /// Flows that have begun.
    pub flows: u64,
    /// Bytes that left the enclave.
    pub bytes_from_enclave: u64,
    /// Bytes that went to the enclave.
    pub bytes_to_enclave: u64,
    /// What was refused or cut, by reason; reasons that never occurred are left out.
    pub refused: BTreeMap<String, u64>,
    /// From the request or connection to the flow's beginning.
    pub latency: Latency,
}

impl Counts {
    /// Adds what another window, or an earlier one, has counted.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.flows_open += other.flows_open;
        self.flows += other.flows;
        self.bytes_from_enclave += other.bytes_from_enclave;
        self.bytes_to_enclave += other.bytes_to_enclave;
        for (reason, count) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += count;
        }
        self.latency.bounds_us.clone_from(&other.latency.bounds_us);
        self.latency.counts.resize(other.latency.counts.len(), 0);
        for (class, count) in self.latency.counts.iter_mut().zip(&other.latency.counts) {
            *class += count;
        }
        self.latency.sum_us += other.latency.sum_us;
    }
}

/// Times in classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// The upper bound of each class in µs, growing; the last class is without.
    pub bounds_us: Vec<u64>,
    /// How many were in each class; one more than `bounds_us`.
    pub counts: Vec<u64>,
    /// All of them together, in µs.
    pub sum_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for (at, (reason, name)) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at, "{name}");
            assert!(names.insert(name));
        }
    }

    #[test]
    fn counts_are_what_happened() {
        let counters = Counters::default();
        let first = counters.begin(Duration::from_micros(250));
        let second = counters.begin(Duration::from_micros(251));
        let long = counters.begin(Duration::from_secs(60));
        drop(second);
        counters.refuse(Reason::Broken);
        counters.refuse(Reason::HostList);
        counters.refuse(Reason::HostList);
        counters.carried(Way::FromEnclave, 5);
        counters.carried(Way::ToEnclave, 7);
        let counts = counters.counts();
        assert_eq!((counts.flows_open, counts.flows), (2, 3));
        assert_eq!((counts.bytes_from_enclave, counts.bytes_to_enclave), (5, 7));
        assert_eq!(
            counts.refused,
            BTreeMap::from([("broken".to_owned(), 1), ("host-list".to_owned(), 2)])
        );
        assert_eq!(
            counts.latency.counts.len(),
            counts.latency.bounds_us.len() + 1
        );
        assert_eq!(counts.latency.counts[..2], [1, 1]);
        assert_eq!(counts.latency.counts.last(), Some(&1));
        assert_eq!(counts.latency.sum_us, 60_000_501);
        drop((first, long));
        assert_eq!(counters.counts().flows_open, 0);
    }
}
