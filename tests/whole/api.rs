//! The local API inside an enclave: the job has what the measured manifest grants, and nothing else.

use std::time::{Duration, Instant};

use crate::common::{House, Running};

fn enclave<'a>(house: &'a House, questions: &str, granted: &str) -> Running<'a> {
    let manifest = format!(
        "[job]\ncommand = [\"/job\", \"ask {questions}\"]\ncontract = \"http\"\n{granted}\n[log]\njob_stderr = \"forward\"\n"
    );
    let image = house.image("tests/whole/odd-job", &manifest, "asking.eif");
    house.enclave(&image, "asking", &[])
}

#[test]
fn the_job_is_given_what_the_manifest_grants_and_nothing_else() {
    let house = House::new();
    let questions = "GET /v1/time;GET /v1/random?bytes=4;GET /v1/pcrs/16;GET /v1/secrets/token;POST /v1/attestation;GET /v1/granted";
    let granted = "[api]\ngrant = [\"time\", \"read-pcrs\"]\n";
    let enclave = enclave(&house, questions, granted);
    let zero = "0".repeat(96);
    for answer in [
        "GET /v1/time -> 200 {\"unix_ms\":".to_owned(),
        format!("GET /v1/pcrs/16 -> 200 {{\"index\":16,\"value\":\"{zero}\"}}"),
        "GET /v1/random?bytes=4 -> 403 {\"error\":\"not_granted\"".to_owned(),
        "GET /v1/secrets/token -> 403 {\"error\":\"not_granted\"".to_owned(),
        "POST /v1/attestation -> 403 {\"error\":\"not_granted\"".to_owned(),
        "GET /v1/granted -> 200 {\"grant\":[\"read-pcrs\",\"time\"],\"secrets\":[],\"extend_pcrs\":[]}"
            .to_owned(),
    ] {
        house.console_says(enclave.name, 0, &answer);
    }
}

#[test]
fn without_a_table_in_the_manifest_there_is_nobody_to_ask() {
    let house = House::new();
    let enclave = enclave(&house, "GET /v1/granted", "");
    house.console_says(
        enclave.name,
        0,
        "GET /v1/granted -> environment variable not found",
    );
}

/// The newest time that the job was told, with the whole answer.
fn newest(house: &House, name: &str, after: usize) -> Option<(u64, String)> {
    let console = house.console(name);
    let line = console
        .get(after..)?
        .lines()
        .rfind(|line| line.contains("/v1/time -> 200") && line.ends_with('}'))?;
    let (_, rest) = line.split_once("\"unix_ms\":")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, line.to_owned()))
}

#[test]
fn the_time_goes_on_by_itself() {
    let house = House::new();
    let enclave = enclave(&house, "GET /v1/time", "[api]\ngrant = [\"time\"]\n");
    house.console_says(enclave.name, 0, "/v1/time -> 200");
    let (first, _) = newest(&house, enclave.name, 0).expect("an answer");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let now = u64::try_from(now.as_millis()).expect("a time");
    assert!(
        first.abs_diff(now) < 3_600_000,
        "{first} is not about {now}"
    );
    let begun = Instant::now();
    loop {
        let (later, line) = newest(&house, enclave.name, 0).expect("an answer");
        assert!(later >= first, "{line}");
        if later >= first + 1000 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(2), "{line}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
