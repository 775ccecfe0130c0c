//! Verifiers from crates.io on the conformance corpus, beside our own. The table in
//! `attestation/README.md` is what this measures, and is compared with it. Set up by
//! `tests/conformance/setup DIR`, found in `ANCHORHOLD_VERIFIERS`.

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};

use common::{House, Who};
use serde_json::Value;

/// The programs' name, version, and the unit in which they take the time.
const OTHERS: [(&str, &str, &str); 2] = [
    ("nsm-nitro-enclave-utils", "0.1.3", "at-ms"),
    ("tee-attestation-verifier", "0.1.4", "at-seconds"),
];

fn programs() -> PathBuf {
    std::env::var_os("ANCHORHOLD_VERIFIERS")
        .expect("ANCHORHOLD_VERIFIERS names the folder that tests/conformance/setup made")
        .into()
}

fn measured(house: &House, verifier: Option<&str>) -> Value {
    let mut arguments = vec!["conformance", "--json", "--timeout", "300"];
    arguments.extend(
        verifier
            .into_iter()
            .flat_map(|command| ["--verifier", command]),
    );
    let output = house.run(Who::Owner, arguments);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// A row of the table: of each kind of failure, in brackets those that a `must` forbids.
fn row(name: &str, report: &Value) -> String {
    let cases = report["cases"].as_array().expect("cases");
    let count = |outcome: &str| {
        let of = |must: bool| {
            cases
                .iter()
                .filter(|case| case["outcome"] == outcome && (!must || case["level"] == "must"))
                .count()
        };
        match of(false) {
            0 => "0".to_owned(),
            all => format!("{all} ({})", of(true)),
        }
    };
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} |",
        report["all"]["asked"],
        report["all"]["passed"],
        count("wrongly_admitted"),
        count("wrongly_refused"),
        count("crashed"),
        report["all"]["not_asked"],
    )
}

#[test]
fn the_readmes_table_is_what_is_measured() {
    let house = House::new();
    let mut rows = vec![row("**anchorhold**", &measured(&house, None))];
    let mut passed = Vec::new();
    for (name, version, time) in OTHERS {
        let program = programs().join(name);
        assert!(program.exists(), "{} is not there", program.display());
        let command = format!(
            "'{}' {{document}} {{anchor-der}} {{{time}}}",
            program.display()
        );
        let report = measured(&house, Some(&command));
        rows.push(row(&format!("`{name}` {version}"), &report));
        passed.push(report["all"]["passed"].to_string());
    }
    let readme = |path: &str| {
        let path = Path::new(common::WORKSPACE).join(path);
        std::fs::read_to_string(path).expect("a README")
    };
    let promise = format!("pass {}", passed.join(" and "));
    assert!(
        readme("README.md").contains(&promise),
        "README.md: {promise}"
    );
    let readme = readme("attestation/README.md");
    for row in &rows {
        assert!(
            readme.lines().any(|line| line == row),
            "attestation/README.md must have these rows:\n{}",
            rows.join("\n")
        );
    }
}
