//! `kms bench` measures what it says, against a service that refuses nothing. What the figures are is no
//! matter here.

use crate::common::{House, Who};
use serde_json::Value;

#[test]
fn the_bench_measures_each_figure_once_over_http_and_over_tls() {
    let house = House::new();
    let said = house.must(
        Who::Owner,
        [
            "kms",
            "bench",
            "--json",
            "--seconds",
            "1",
            "--connections",
            "2",
            "--key-connections",
            "4",
            "--documents",
            "24",
            "--requests",
            "100",
        ],
    );
    let report: Value = serde_json::from_slice(&said).unwrap();
    for transport in ["plain HTTP", "TLS"] {
        for name in [
            format!("Decrypt, {transport}"),
            format!("Decrypt with a new document each, {transport}"),
            format!("CreateKey, durable, {transport}"),
        ] {
            let measured = &report[&name];
            assert!(measured["answered"].as_u64().unwrap() > 0, "{name}");
            assert!(measured["perSecond"].as_f64().unwrap() > 0.0, "{name}");
        }
        let ratio = format!("Decrypt with a document, {transport}, to verifications alone");
        assert!(report[&ratio].as_f64().unwrap() > 0.0, "{ratio}");
    }
    let memory = &report["memory over 100 requests"];
    assert!(memory["afterTenthKib"].as_u64().unwrap() > 0);
}
