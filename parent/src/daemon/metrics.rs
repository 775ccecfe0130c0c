//! What Prometheus reads: each declared enclave's state, restarts, memory, processor time, attestation, calls, and what passed
//! its windows.
//!
//! All of it is gathered at a scrape: from the keeper, from supervisors, from the enclaves' own word (calls), from the kernel.
//! Labels are names from the configuration and words of ours; nothing that an enclave or a client chose is one.

#![allow(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are floating point"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;
use tokio::time::timeout;

use super::admission::now_ms;
use super::keeper::Reading;
use super::view::Condition;
use crate::client::{Client, DataKeys, Health};
use crate::lifecycle::{self, Counters, Histogram, Reply, Request};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long one enclave may take to be asked; one that hangs is missing from what it would have said.
const LIMIT: Duration = Duration::from_secs(2);

/// What a scrape finds.
#[derive(Default)]
pub(super) struct Metrics;

/// All that is known of one enclave.
struct Gathered {
    reading: Reading,
    health: Option<Health>,
    counters: Option<Counters>,
    memory: Option<u64>,
    cpu_seconds: Option<f64>,
}

impl Metrics {
    /// Gathers and writes all of it.
    pub(super) async fn scrape(&self, readings: Vec<Reading>) -> String {
        let gathered = join_all(readings.into_iter().map(gather)).await;
        let mut registry = Registry::with_prefix("anchorhold");
        registry.register_collector(Box::new(Scrape(gathered)));
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            // Writing to memory does not fail; what there is is whole lines.
            let _ = writeln!(text, "# EOF");
        }
        text
    }
}

/// What the status page shows beside what the API tells.
#[derive(Serialize)]
pub(super) struct Numbers {
    windows: BTreeMap<String, BTreeMap<String, u64>>,
    refusals: BTreeMap<String, BTreeMap<String, u64>>,
    calls: Option<Calls>,
}

#[derive(Serialize)]
struct Calls {
    open: u64,
    begun: u64,
    failed: u64,
}

/// The numbers of each enclave, by name.
pub(super) async fn numbers(readings: Vec<Reading>) -> BTreeMap<String, Numbers> {
    let gathered = join_all(readings.into_iter().map(gather)).await;
    gathered
        .into_iter()
        .map(|one| {
            let counters = one.counters.unwrap_or_default();
            let numbers = Numbers {
                windows: counters.windows,
                refusals: counters.refusals,
                calls: one.health.map(|health| Calls {
                    open: health.calls_open,
                    begun: health.calls_begun,
                    failed: health.calls_failed,
                }),
            };
            (one.reading.name, numbers)
        })
        .collect()
}

async fn gather(reading: Reading) -> Gathered {
    let Some((dir, supervisor)) = reading.serving.clone() else {
        return Gathered {
            reading,
            health: None,
            counters: None,
            memory: None,
            cpu_seconds: None,
        };
    };
    let client = Client::new(&dir);
    let (health, counters) = tokio::join!(
        timeout(LIMIT, client.health()),
        lifecycle::ask(&dir, &Request::Counters, &[], LIMIT)
    );
    let (memory, cpu_seconds) = processes(supervisor);
    Gathered {
        reading,
        health: health.ok().and_then(Result::ok),
        counters: match counters {
            Ok((Reply::Counters { counters }, _)) => Some(counters),
            _ => None,
        },
        memory,
        cpu_seconds,
    }
}

/// Memory in bytes and processor time in seconds of a process and all below it.
fn processes(root: u32) -> (Option<u64>, Option<f64>) {
    const MOST: usize = 4096;
    let mut open = vec![root];
    let mut seen = 0;
    let (mut pages, mut ticks) = (0u64, 0u64);
    while let Some(pid) = open.pop() {
        seen += 1;
        if seen > MOST {
            break;
        }
        let folder = Path::new("/proc").join(pid.to_string());
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        pages += read("statm")
            .split(' ')
            .nth(1)
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0);
        let stat = read("stat");
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        // utime and stime, of the process and of those that it has reaped (`proc_pid_stat(5)`, 14 to 17).
        ticks += after
            .split(' ')
            .skip(11)
            .take(4)
            .filter_map(|number| number.parse::<u64>().ok())
            .sum::<u64>();
        for task in std::fs::read_dir(folder.join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    if pages == 0 {
        return (None, None);
    }
    let sysconf = |name| {
        let found = nix::unistd::sysconf(name).ok().flatten().unwrap_or(0);
        u64::try_from(found).unwrap_or(0)
    };
    let page = sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let tick = sysconf(nix::unistd::SysconfVar::CLK_TCK).max(1);
    (Some(pages * page), Some(ticks as f64 / tick as f64))
}

/// One scrape, as the encoder takes it.
struct Scrape(Vec<Gathered>);

impl std::fmt::Debug for Scrape {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "a scrape of {} enclaves", self.0.len())
    }
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Scrape {
    /// One family: a metric for each label set that has a value.
    #[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
    fn family<M: EncodeMetric>(
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, unit): (&str, &str, Option<Unit>),
        values: Vec<(Labels<'_>, M)>,
    ) -> Result<(), std::fmt::Error> {
        let Some((_, first)) = values.first() else {
            return Ok(());
        };
        let mut family =
            encoder.encode_descriptor(name, help, unit.as_ref(), first.metric_type())?;
        for (labels, value) in &values {
            value.encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn gauges<'a>(
        &'a self,
        value: impl Fn(&'a Gathered) -> Option<f64>,
    ) -> Vec<(Labels<'a>, ConstGauge<f64>)> {
        self.0
            .iter()
            .filter_map(|one| {
                Some((
                    vec![("enclave", one.reading.name.as_str())],
                    ConstGauge::new(value(one)?),
                ))
            })
            .collect()
    }

    fn counters<'a>(
        &'a self,
        value: impl Fn(&'a Gathered) -> Option<u64>,
    ) -> Vec<(Labels<'a>, ConstCounter<u64>)> {
        self.0
            .iter()
            .filter_map(|one| {
                Some((
                    vec![("enclave", one.reading.name.as_str())],
                    ConstCounter::new(value(one)?),
                ))
            })
            .collect()
    }
}

const CONDITIONS: [(Condition, &str); 4] = [
    (Condition::Starting, "starting"),
    (Condition::Serving, "serving"),
    (Condition::Waiting, "waiting"),
    (Condition::Stopped, "stopped"),
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let encoder = &mut encoder;
        let now = now_ms();
        let conditions = self
            .0
            .iter()
            .flat_map(|one| {
                CONDITIONS.map(|(condition, word)| {
                    let is = u64::from(one.reading.condition == condition);
                    (
                        vec![("enclave", one.reading.name.as_str()), ("state", word)],
                        ConstGauge::new(is),
                    )
                })
            })
            .collect();
        Self::family(
            encoder,
            (
                "enclave_state",
                "1 for the state that an enclave is in",
                None,
            ),
            conditions,
        )?;
        Self::family(
            encoder,
            ("enclave_restarts", "Starts after the first", None),
            self.counters(|one| Some(one.reading.restarts)),
        )?;
        Self::family(
            encoder,
            (
                "enclave_failures",
                "Starts that failed, and ends that were not asked for",
                None,
            ),
            self.counters(|one| Some(one.reading.failures)),
        )?;
        Self::family(
            encoder,
            (
                "enclave_attestation_age",
                "Since its document was last verified",
                Some(Unit::Seconds),
            ),
            self.gauges(|one| {
                one.reading
                    .attested_ms
                    .map(|at| now.saturating_sub(at) as f64 / 1000.0)
            }),
        )?;
        Self::family(
            encoder,
            (
                "enclave_memory",
                "Memory of its processes, supervisor included",
                Some(Unit::Bytes),
            ),
            self.gauges(|one| one.memory.map(|bytes| bytes as f64)),
        )?;
        let cpu: Vec<_> = self
            .0
            .iter()
            .filter_map(|one| {
                Some((
                    vec![("enclave", one.reading.name.as_str())],
                    ConstCounter::new(one.cpu_seconds?),
                ))
            })
            .collect();
        Self::family(
            encoder,
            (
                "enclave_cpu",
                "Processor time of its processes, supervisor included",
                Some(Unit::Seconds),
            ),
            cpu,
        )?;
        Self::family(
            encoder,
            (
                "enclave_calls_open",
                "Connections with a call on them, by the enclave's own word",
                None,
            ),
            self.gauges(|one| one.health.as_ref().map(|health| health.calls_open as f64)),
        )?;
        Self::family(
            encoder,
            (
                "enclave_calls",
                "Calls begun since its instance started, by the enclave's own word",
                None,
            ),
            self.counters(|one| one.health.as_ref().map(|health| health.calls_begun)),
        )?;
        Self::family(
            encoder,
            ("enclave_calls_failed", "Of these, failed", None),
            self.counters(|one| one.health.as_ref().map(|health| health.calls_failed)),
        )?;
        let data_keys = |pick: fn(&DataKeys) -> u64| {
            self.counters(move |one| one.health.as_ref()?.data_keys.as_ref().map(pick))
        };
        Self::family(
            encoder,
            (
                "enclave_data_key_calls_saved",
                "Calls of the key service that kept data keys have saved, by the enclave's own word",
                None,
            ),
            data_keys(|keys| keys.calls_saved),
        )?;
        Self::family(
            encoder,
            (
                "enclave_data_key_calls",
                "Calls of the key service for data keys where they are kept, by the enclave's own word",
                None,
            ),
            data_keys(|keys| keys.calls_made),
        )?;
        Self::family(
            encoder,
            (
                "enclave_clock_steps",
                "Attestation documents whose time was not followed, by the enclave's own word",
                None,
            ),
            self.counters(|one| Some(one.health.as_ref()?.clock.as_ref()?.steps)),
        )?;
        Self::family(
            encoder,
            (
                "enclave_clock_drift_ppm",
                "What documents have moved its clock by, in parts per million, by the enclave's own word",
                None,
            ),
            self.gauges(|one| {
                let drift = one.health.as_ref()?.clock.as_ref()?.drift_ppm;
                // Its own word, which may be any number.
                Some(if drift.is_finite() { drift } else { 0.0 })
            }),
        )?;
        self.windows(encoder)
    }
}

impl Scrape {
    /// What passed the windows, by the supervisors' word.
    fn windows(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let each = |pick: fn(&Counters) -> &BTreeMap<String, BTreeMap<String, u64>>| {
            self.0
                .iter()
                .filter_map(move |one| {
                    Some((one.reading.name.as_str(), pick(one.counters.as_ref()?)))
                })
                .flat_map(|(name, windows)| {
                    windows.iter().flat_map(move |(window, numbers)| {
                        numbers.iter().map(move |(what, number)| {
                            (name, window.as_str(), what.as_str(), *number)
                        })
                    })
                })
                .collect::<Vec<_>>()
        };
        let numbers = each(|counters| &counters.windows);
        let of = |wanted: &'static str| {
            numbers
                .iter()
                .filter(move |(_, _, what, _)| *what == wanted)
                .map(|(name, window, _, number)| {
                    (vec![("enclave", *name), ("window", *window)], *number)
                })
        };
        let open = of("flows_open").map(|(labels, number)| (labels, ConstGauge::new(number)));
        Self::family(
            encoder,
            ("window_flows_open", "Flows that are open", None),
            open.collect(),
        )?;
        let begun = of("flows").map(|(labels, number)| (labels, ConstCounter::new(number)));
        Self::family(
            encoder,
            (
                "window_flows",
                "Flows begun since its instance started",
                None,
            ),
            begun.collect(),
        )?;
        let carried = ["from_enclave", "to_enclave"].into_iter().flat_map(|way| {
            let counted = match way {
                "from_enclave" => of("bytes_from_enclave"),
                _ => of("bytes_to_enclave"),
            };
            counted.map(move |(mut labels, number)| {
                labels.push(("direction", way));
                (labels, ConstCounter::new(number))
            })
        });
        Self::family(
            encoder,
            (
                "window_carried",
                "Bytes of its flows since its instance started",
                Some(Unit::Bytes),
            ),
            carried.collect(),
        )?;
        let refusals = each(|counters| &counters.refusals)
            .into_iter()
            .map(|(name, window, reason, number)| {
                (
                    vec![("enclave", name), ("window", window), ("reason", reason)],
                    ConstCounter::new(number),
                )
            })
            .collect();
        Self::family(
            encoder,
            ("window_refusals", "What a window refused, by reason", None),
            refusals,
        )?;
        let mut times = Vec::new();
        for one in &self.0 {
            for (window, kinds) in one.counters.iter().flat_map(|counters| &counters.seconds) {
                for (kind, histogram) in kinds {
                    let labels = vec![
                        ("enclave", one.reading.name.as_str()),
                        ("window", window.as_str()),
                        ("what", kind.as_str()),
                    ];
                    times.push((labels, Times(histogram)));
                }
            }
        }
        Self::family(
            encoder,
            (
                "window_latency",
                "From a request or connection to its flow",
                Some(Unit::Seconds),
            ),
            times,
        )
    }
}

/// A histogram that somebody else has counted.
#[derive(Debug)]
struct Times<'a>(&'a Histogram);

impl EncodeMetric for Times<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        // The last class is without a bound, which is how the encoder knows it.
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let classes: Vec<(f64, u64)> = bounds.zip(self.0.counts.iter().copied()).collect();
        let all = classes.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum, all, &classes, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_as_prometheus_reads_them() {
        let times = Histogram {
            bounds: vec![0.001, 0.5],
            counts: vec![3, 1, 2],
            sum: 9.5,
        };
        let numbers = [
            ("flows", 6),
            ("flows_open", 1),
            ("bytes_from_enclave", 70),
            ("bytes_to_enclave", 8),
        ];
        let of_window = |text: &str| text.to_owned();
        let counters = Counters {
            windows: BTreeMap::from([(
                of_window("egress"),
                numbers.map(|(name, count)| (name.to_owned(), count)).into(),
            )]),
            refusals: BTreeMap::from([(
                of_window("egress"),
                BTreeMap::from([("host-list".to_owned(), 4)]),
            )]),
            seconds: BTreeMap::from([(
                of_window("egress"),
                BTreeMap::from([("until_flow".to_owned(), times)]),
            )]),
        };
        let reading = Reading {
            name: "cards".into(),
            condition: Condition::Serving,
            restarts: 2,
            failures: 0,
            attested_ms: None,
            serving: None,
        };
        let mut registry = Registry::with_prefix("anchorhold");
        registry.register_collector(Box::new(Scrape(vec![Gathered {
            reading,
            health: None,
            counters: Some(counters),
            memory: None,
            cpu_seconds: None,
        }])));
        let mut text = String::new();
        encode(&mut text, &registry).expect("memory takes it");
        let labels = "enclave=\"cards\",window=\"egress\"";
        for line in [
            format!("window_flows_open{{{labels}}} 1"),
            format!("window_flows_total{{{labels}}} 6"),
            format!("window_carried_bytes_total{{{labels},direction=\"from_enclave\"}} 70"),
            format!("window_carried_bytes_total{{{labels},direction=\"to_enclave\"}} 8"),
            format!("window_refusals_total{{{labels},reason=\"host-list\"}} 4"),
            format!("window_latency_seconds_sum{{{labels},what=\"until_flow\"}} 9.5"),
            format!("window_latency_seconds_count{{{labels},what=\"until_flow\"}} 6"),
        ] {
            let line = format!("\nanchorhold_{line}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        // Each class counts the ones below it as well.
        for (bound, count) in [("0.001", 3), ("0.5", 4), ("+Inf", 6)] {
            let found = text.lines().any(|line| {
                line.starts_with("anchorhold_window_latency_seconds_bucket")
                    && line.contains(&format!("le=\"{bound}\""))
                    && line.ends_with(&format!(" {count}"))
            });
            assert!(found, "{bound}\n{text}");
        }
        assert!(text.contains("# TYPE anchorhold_window_latency_seconds histogram"));
    }
}
