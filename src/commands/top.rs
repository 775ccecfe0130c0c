//! `anchorhold top`: what enclaves use, again and again.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;

#[derive(Args)]
#[command(after_help = "Example:\n  anchorhold top --every 5\n\n\
    For the enclaves that a daemon has declared. Calls (open, all, failed) are by the enclave's own word; flows, bytes \
    and refusals are those of all of its windows, by the supervisor's.")]
pub(crate) struct Arguments {
    /// Between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look this often, and end
    #[arg(long, value_name = "N")]
    count: Option<u32>,
}

/// Bytes of all windows of an enclave, each way.
const FROM_ENCLAVE: &str = "bytes_from_enclave";
const TO_ENCLAVE: &str = "bytes_to_enclave";

/// The numbers of one enclave by the names of their metrics.
type Numbers = BTreeMap<String, f64>;

/// The state and the numbers of each enclave.
type Table = BTreeMap<String, (String, Numbers)>;

/// Reads the lines that are about enclaves and their windows, and the state that each enclave is in. Windows are added up.
fn read(text: &str) -> Table {
    let mut found = Table::new();
    for line in text.lines() {
        let Some((head, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Some((name, labels)) = head
            .strip_prefix("anchorhold_")
            .and_then(|head| head.strip_suffix('}')?.split_once('{'))
        else {
            continue;
        };
        let label = |wanted: &str| {
            labels.split(',').find_map(|label| {
                let (name, value) = label.split_once('=')?;
                (name == wanted).then(|| value.trim_matches('"'))
            })
        };
        let (Some(enclave), Ok(value)) = (label("enclave"), value.parse::<f64>()) else {
            continue;
        };
        let entry = found.entry(enclave.to_owned()).or_default();
        if let Some(name) = name.strip_prefix("enclave_") {
            match label("state") {
                Some(state) if value > 0.5 => state.clone_into(&mut entry.0),
                Some(_) => {}
                None => {
                    entry.1.insert(name.to_owned(), value);
                }
            }
            continue;
        }
        let name = match (name, label("direction")) {
            ("window_flows_open", None) => "flows_open",
            ("window_carried_bytes_total", Some("from_enclave")) => FROM_ENCLAVE,
            ("window_carried_bytes_total", Some("to_enclave")) => TO_ENCLAVE,
            ("window_refusals_total", None) => "refusals",
            _ => continue,
        };
        *entry.1.entry(name.to_owned()).or_default() += value;
    }
    found
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let daemon = super::daemon::must_run()?;
    let mut before: Option<(Instant, Table)> = None;
    let mut looks = 0;
    loop {
        let mut text = Vec::new();
        daemon
            .stream("/v1/metrics", |piece| {
                text.extend_from_slice(piece);
                Ok(())
            })
            .await?;
        let now = Instant::now();
        let all = read(&String::from_utf8_lossy(&text));
        let mut out = std::io::stdout().lock();
        if out.is_terminal() {
            write!(out, "\x1b[H\x1b[2J")?;
        }
        writeln!(
            out,
            "{:<24} {:<9} {:>6} {:>9} {:>6} {:>9} {:>7} {:>6} {:>9} {:>9} {:>8} {:>8} {:>9}",
            "NAME",
            "STATE",
            "CPU %",
            "MEM MiB",
            "CALLS",
            "ALL",
            "FAILED",
            "FLOWS",
            "IN KiB/s",
            "OUT KiB/s",
            "REFUSED",
            "RESTARTS",
            "ATTESTED"
        )?;
        for (name, (state, numbers)) in &all {
            let number = |what: &str| numbers.get(what).copied();
            let shown = |value: Option<f64>, digits: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let pace = |what: &str| {
                let (at, was) = before
                    .as_ref()
                    .and_then(|(at, all)| Some((*at, *all.get(name)?.1.get(what)?)))?;
                // A new instance begins anew.
                Some((number(what)? - was).max(0.0) / now.duration_since(at).as_secs_f64())
            };
            let cpu = pace("cpu_seconds_total").map(|share| share * 100.0);
            let kib = |what: &str| pace(what).map(|bytes| bytes / 1024.0);
            let age = number("attestation_age_seconds").map(|age| format!("{age:.0} s ago"));
            writeln!(
                out,
                "{name:<24} {state:<9} {:>6} {:>9} {:>6} {:>9} {:>7} {:>6} {:>9} {:>9} {:>8} {:>8} {:>9}",
                shown(cpu, 1),
                shown(number("memory_bytes").map(|bytes| bytes / 1_048_576.0), 1),
                shown(number("calls_open"), 0),
                shown(number("calls_total"), 0),
                shown(number("calls_failed_total"), 0),
                shown(number("flows_open"), 0),
                shown(kib(TO_ENCLAVE), 0),
                shown(kib(FROM_ENCLAVE), 0),
                shown(number("refusals"), 0),
                shown(number("restarts_total"), 0),
                age.as_deref().unwrap_or("-"),
            )?;
        }
        out.flush()?;
        drop(out);
        looks += 1;
        if arguments.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        before = Some((now, all));
        tokio::time::sleep(Duration::from_secs(arguments.every)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_enclave() {
        let all = read(
            "# HELP x\nanchorhold_enclave_state{enclave=\"a\",state=\"serving\"} 1\n\
             anchorhold_enclave_state{enclave=\"a\",state=\"waiting\"} 0\n\
             anchorhold_enclave_memory_bytes{enclave=\"a\"} 1048576.0\n\
             anchorhold_window_carried_bytes_total{enclave=\"a\",window=\"egress\",direction=\"to_enclave\"} 5\n\
             anchorhold_window_carried_bytes_total{enclave=\"a\",window=\"ingress/web\",direction=\"to_enclave\"} 7\n\
             anchorhold_window_refusals_total{enclave=\"a\",window=\"egress\",reason=\"host-list\"} 2\nother{enclave=\"b\"} 1\n# EOF\n",
        );
        assert_eq!(all.len(), 1);
        assert_eq!(all["a"].0, "serving");
        for (name, value) in [
            ("memory_bytes", 1_048_576.0),
            (TO_ENCLAVE, 12.0),
            ("refusals", 2.0),
        ] {
            assert!((all["a"].1[name] - value).abs() < 0.5, "{name}");
        }
    }
}
