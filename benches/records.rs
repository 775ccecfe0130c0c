//! Records per second of the cards job through an enclave (the call alone: sealing and opening are the owner's), beside
//! the same static program run natively on the plaintext: one process with one thread each. It prints the ratio, and
//! never fails on a clock.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark says what it measured"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::io::{Cursor, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorhold_images::cargo_static::StaticBuild;
use anchorhold_parent::client::Client;
use anchorhold_parent::lifecycle::Home;

use common::{House, WORKSPACE, Who, shared};

const ROUNDS: usize = 9;
const KEY: &str = "alias/cards";

fn main() {
    let Some(data) = shared("data/transactions.ndjson") else {
        return;
    };
    let plaintext = std::fs::read(data).expect("the data is readable");
    let records = plaintext.iter().filter(|byte| **byte == b'\n').count();

    let mut build = StaticBuild::new(&Path::new(WORKSPACE).join("enclave/jobs/cards"));
    build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
    let program = build
        .run(&mut |line| eprintln!("{line}"))
        .expect("a static program")
        .path;

    let mut house = House::new();
    let _service = house.key_service(&[]);
    let secrets = format!(
        "[secrets.tokenization-key]\nkey = \"{KEY}\"\n\n[resources]\nmemory_mib = 256\ncpus = 2\n"
    );
    let manifest = house.write("cards.toml", house.manifest(&["/job"], KEY, &secrets));
    let image = house.path("cards.eif");
    house.must(
        Who::Owner,
        [
            OsStr::new("build"),
            OsStr::new("--program"),
            program.as_os_str(),
            OsStr::new("--manifest"),
            manifest.as_os_str(),
            OsStr::new("-o"),
            image.as_os_str(),
        ],
    );
    house.key(KEY, &house.policy(&image, "policy.json"));
    let key = house.write("tokenization.key", [7; 32]);
    let secret = house.seal(
        KEY,
        &["--secret", "tokenization-key"],
        &[7; 32],
        "key.sealed",
    );
    let secret = format!("tokenization-key={}", secret.display());
    let sealed =
        std::fs::read(house.seal(KEY, &[], &plaintext, "records.sealed")).expect("a sealed file");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let enclave = house.enclave(&image, "cards", &["--secret", &secret]);
    let client = Client::new(
        &Home::at(&house.path(""))
            .expect("a home")
            .enclave(enclave.name),
    );
    let mut through = Vec::new();
    let mut native = Vec::new();
    for round in 0..=ROUNDS {
        let mut result = Vec::new();
        let began = Instant::now();
        runtime
            .block_on(client.call(Cursor::new(sealed.clone()), &mut result))
            .expect("a result");
        let inside = began.elapsed();

        let began = Instant::now();
        let tokens = natively(&program, &key, plaintext.clone());
        let outside = began.elapsed();

        if round == 0 {
            // Both did the same work.
            let opened = house.open(&house.write("result.sealed", &result), &[]);
            assert!(
                opened == tokens,
                "the enclave's tokens are the native job's"
            );
        } else {
            through.push(inside);
            native.push(outside);
        }
    }

    let (through, native) = (rate(records, through), rate(records, native));
    println!("medians of {ROUNDS}, {records} records");
    println!("through the enclave  {through:9.0} records/s");
    println!("natively             {native:9.0} records/s");
    println!("ratio                {:9.2}", through / native);
}

/// What the program makes of the plaintext, through pipes as in the enclave.
fn natively(program: &Path, key: &Path, plaintext: Vec<u8>) -> Vec<u8> {
    let mut job = Command::new(program)
        .arg("--key")
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the job runs natively");
    let mut stdin = job.stdin.take().expect("standard input was asked for");
    let writer = std::thread::spawn(move || stdin.write_all(&plaintext));
    let output = job.wait_with_output().expect("the job ends");
    writer
        .join()
        .expect("the writer ends")
        .expect("the job reads all lines");
    assert!(output.status.success(), "{}", output.status);
    output.stdout
}

/// Records per second in the median.
fn rate(records: usize, mut times: Vec<Duration>) -> f64 {
    times.sort();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of records is far below 2^52"
    )]
    let records = records as f64;
    records / times[times.len() / 2].as_secs_f64()
}
