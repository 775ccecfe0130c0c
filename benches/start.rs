//! From `anchorhold run` to a verified attestation document, beside an empty process in new namespaces: medians in
//! milliseconds of one run on one machine, and their ratio. It prints, and never fails on a clock.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark says what it measured"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anchorhold_attestation::{Anchor, Expectations, Pcr, Time, Unverified};
use anchorhold_parent::client::Client;
use anchorhold_parent::lifecycle::Home;

use common::{House, Who};

const ROUNDS: u8 = 20;
const NAME: &str = "bench";

fn main() {
    let house = House::new();
    let image = house.image(
        "enclave/jobs/cards",
        "[job]\ncommand = [\"/job\"]\n",
        "cards.eif",
    );
    let pcr0: Pcr = house.measurements(&image)["PCR0"].parse().expect("a PCR");
    let folder = Home::at(&house.path("")).expect("a home").enclave(NAME);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");

    let mut enclaves = Vec::new();
    let mut serving = Vec::new();
    let mut namespaces = Vec::new();
    let mut bare = Vec::new();
    // The first round makes the development root, and warms caches for both.
    for round in 0..=ROUNDS {
        let nonce = [round; 16];
        let began = Instant::now();
        house.must(
            Who::Host,
            [
                OsStr::new("run"),
                image.as_os_str(),
                OsStr::new("--name"),
                OsStr::new(NAME),
            ],
        );
        let served = began.elapsed();
        let document = runtime
            .block_on(Client::new(&folder).attest(Some(&nonce), None, false))
            .expect("a document");
        let root = std::fs::read_to_string(house.path("development-root/root.pem"))
            .expect("a development root");
        let anchor = Anchor::from_pem(&root).expect("an anchor");
        let now_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map(|since| since.as_millis() as u64)
            .expect("a clock");
        let time = Time::Now {
            now_ms,
            max_age_ms: 60_000,
            max_skew_ms: 1_000,
        };
        Unverified::parse(&document)
            .expect("a document")
            .verify(&[anchor], time)
            .expect("a true document")
            .admit(&Expectations::new().pcr(0, [pcr0]).nonce(&nonce))
            .expect("this image");
        let verified = began.elapsed();
        house.must(Who::Host, ["stop", NAME]);

        let empty = timed(Command::new("unshare").args([
            "--user",
            "--map-root-user",
            "--net",
            "--pid",
            "--mount",
            "--fork",
            "true",
        ]));
        let process = timed(
            Command::new(common::anchorhold())
                .arg("--version")
                .stdout(Stdio::null()),
        );
        if round > 0 {
            serving.push(served);
            enclaves.push(verified);
            namespaces.push(empty);
            bare.push(process);
        }
    }

    let (enclave, empty) = (median(enclaves), median(namespaces));
    println!("medians of {ROUNDS}");
    println!(
        "`anchorhold run` to a verified document  {enclave:7.1} ms (of it `run` itself {:.1} ms)",
        median(serving)
    );
    println!("`unshare … true`                         {empty:7.1} ms");
    println!(
        "ratio                                    {:7.1}",
        enclave / empty
    );
    println!(
        "`anchorhold --version`                   {:7.1} ms",
        median(bare)
    );
}

fn timed(command: &mut Command) -> Duration {
    let began = Instant::now();
    let status = command.status().expect("the program runs");
    let took = began.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let middle = times.len() / 2;
    (times[middle] + times[(times.len() - 1) / 2]).as_secs_f64() * 500.0
}
