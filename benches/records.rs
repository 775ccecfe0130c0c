//! Records per second of the jobs cards and pii through an enclave (the call alone: sealing and opening are the owner's),
//! beside the same static program run natively on the plaintext: one process with one thread each. It prints the ratios, and
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
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorhold_images::cargo_static::StaticBuild;
use anchorhold_parent::client::Client;
use anchorhold_parent::lifecycle::Home;
use serde_json::{Value, json};

use common::{House, WORKSPACE, Who, shared};

const ROUNDS: usize = 9;

/// A job, and what it is given.
struct Subject {
    name: &'static str,
    arguments: &'static [&'static str],
    secret: &'static str,
    plaintext: Vec<u8>,
}

fn main() {
    let (Some(cards), Some(pii)) = (
        shared("data/transactions.ndjson"),
        shared("data/pii-labelled.json"),
    ) else {
        return;
    };
    measure(&Subject {
        name: "cards",
        arguments: &[],
        secret: "tokenization-key",
        plaintext: std::fs::read(cards).expect("the data is readable"),
    });
    measure(&Subject {
        name: "pii",
        // Nothing of it depends on chance, so that both can be compared.
        arguments: &["all=mask", "email=pseudonymize", "ssn=redact"],
        secret: "pii-key",
        plaintext: sentences(&pii),
    });
}

/// The labelled sentences as records, some times over.
fn sentences(file: &Path) -> Vec<u8> {
    let labelled = std::fs::read(file).expect("the data is readable");
    let labelled: Vec<Value> = serde_json::from_slice(&labelled).expect("a list");
    let mut lines = Vec::new();
    for (id, each) in labelled.iter().enumerate() {
        let record = json!({ "id": id, "text": each["full_text"] });
        writeln!(lines, "{record}").expect("memory takes it");
    }
    lines.repeat(14)
}

fn measure(subject: &Subject) {
    let &Subject {
        name,
        arguments,
        secret,
        ref plaintext,
    } = subject;
    let records = plaintext.iter().filter(|byte| **byte == b'\n').count();
    let mut build = StaticBuild::new(&Path::new(WORKSPACE).join("enclave/jobs").join(name));
    build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
    let program: PathBuf = build
        .run(&mut |line| eprintln!("{line}"))
        .expect("a static program")
        .path;

    let mut house = House::new();
    let _service = house.key_service(&[]);
    let alias = format!("alias/{name}");
    let more = format!(
        "[secrets.{secret}]\nkey = \"{alias}\"\n\n[resources]\nmemory_mib = 256\ncpus = 2\n"
    );
    let command: Vec<&str> = ["/job"].iter().chain(arguments).copied().collect();
    let manifest = house.manifest(&command, &alias, &more).replace(
        "[key_service]",
        "max_line_bytes = 16777216\n\n[key_service]",
    );
    let manifest = house.write("job.toml", manifest);
    let image = house.path("job.eif");
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
    house.key(&alias, &house.policy(&image, "policy.json"));
    let key = house.write("job.key", [7; 32]);
    let sealed_key = house.seal(&alias, &["--secret", secret], &[7; 32], "key.sealed");
    let given = format!("{secret}={}", sealed_key.display());
    let sealed = house.seal(&alias, &[], plaintext, "records.sealed");
    let sealed = std::fs::read(sealed).expect("a sealed file");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let enclave = house.enclave(&image, name, &["--secret", &given]);
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
        let answers = natively(&program, arguments, &key, plaintext.clone());
        let outside = began.elapsed();

        if round == 0 {
            // Both did the same work.
            let opened = house.open(&house.write("result.sealed", &result), &[]);
            assert!(
                opened == answers,
                "the enclave's answers are the native job's"
            );
        } else {
            through.push(inside);
            native.push(outside);
        }
    }

    let (through, native) = (rate(records, through), rate(records, native));
    println!("{name}: medians of {ROUNDS}, {records} records");
    println!("through the enclave  {through:9.0} records/s");
    println!("natively             {native:9.0} records/s");
    println!("ratio                {:9.2}", through / native);
}

/// What the program makes of the plaintext, through pipes as in the enclave.
fn natively(program: &Path, arguments: &[&str], key: &Path, plaintext: Vec<u8>) -> Vec<u8> {
    let mut job = Command::new(program)
        .args(arguments)
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
