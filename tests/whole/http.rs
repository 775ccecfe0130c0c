//! The contract `http`: the job serves inside, and nothing that the parent can say in plaintext reaches it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::common::channel::Channel;
use crate::common::{House, Running, Who};

fn enclave<'a>(house: &'a House, more: &str) -> Running<'a> {
    let manifest = format!("[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n{more}");
    let image = house.image("tests/whole/odd-job", &manifest, "odd-service.eif");
    house.enclave(&image, "odd-service", &[])
}

/// One exchange with a port of the enclave, as its parent.
fn exchange(house: &House, port: u32, request: &str) -> Result<String, String> {
    let socket = house.path("enclaves/odd-service/vsock.sock");
    let mut stream = UnixStream::connect(socket).expect("it runs");
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .expect("the supervisor reads");
    let mut answer = [0; 1];
    let mut line = String::new();
    while !line.ends_with('\n') {
        match stream.read(&mut answer) {
            Ok(1) => line.push(char::from(answer[0])),
            _ => return Err(format!("port {port} is closed: {line}")),
        }
    }
    if !line.starts_with("OK") {
        return Err(line);
    }
    stream
        .write_all(request.as_bytes())
        .expect("the enclave reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    Ok(text)
}

pub(crate) fn health(house: &House) -> Value {
    let request = "GET /health HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n";
    let answer = exchange(house, 5000, request).expect("the control port is open");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

#[test]
fn the_job_serves_inside_and_the_control_port_does_not_lead_to_it() {
    let house = House::new();
    let enclave = enclave(&house, "[http]\nready_path = \"/ready\"\n");
    house.console_says(enclave.name, 0, "the job is ready");
    let health = health(&house);
    assert_eq!(health["http"]["ready"], true, "{health}");
    assert_eq!(health["http"]["starts"], 1, "{health}");
    // It echoes whatever reaches it.
    for path in ["/echo", "/call", "/head", "/../run/job/http.sock"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: 9\r\n\r\nto-be-sent"
        );
        let answer = exchange(&house, 5000, &request).expect("the control port is open");
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains("to-be-sent"), "{answer}");
    }
    assert_eq!(self::health(&house)["http"]["requests"], 0);
}

#[test]
fn a_job_that_keeps_failing_is_started_again_after_ever_longer_pauses() {
    let house = House::new();
    let manifest = "[job]\ncommand = [\"/job\", \"exit 3\"]\ncontract = \"http\"\n[http]\nrestart = \"on-failure\"\n";
    let image = house.image("tests/whole/odd-job", manifest, "odd-service.eif");
    let enclave = house.enclave(&image, "odd-service", &[]);
    for pause in [100, 200, 400] {
        let words = format!("the job is started again in {pause} ms");
        house.console_says(enclave.name, 0, &words);
    }
    assert_eq!(health(&house)["http"]["ready"], false);
}

#[test]
fn the_enclave_ends_with_its_job_where_the_manifest_says_so() {
    let house = House::new();
    let manifest = "[job]\ncommand = [\"/job\", \"exit 3\"]\ncontract = \"http\"\n[http]\nrestart = \"never\"\n";
    let image = house.image("tests/whole/odd-job", manifest, "odd-service.eif");
    let image = image.to_str().expect("text");
    let backend = crate::common::backend();
    let command = ["run", image, "--name", "odd-service", "--backend", backend];
    let outcome = house.run(Who::Host, command);
    // It may end before it serves, which `run` says, or after.
    let said = String::from_utf8_lossy(&outcome.stderr);
    if !said.contains("the job ended with exit code 3") {
        house.console_says("odd-service", 0, "the job ended with exit code 3");
    }
}

#[test]
fn a_job_serves_on_a_loopback_port_and_reaches_nothing_else_of_the_network() {
    let house = House::new();
    let enclave = enclave(&house, "[http]\nport = 8080\nready_path = \"/ready\"\n");
    house.console_says(enclave.name, 0, "the job is ready");
    let image = house.path("odd-service.eif");
    let mut channel = Channel::new(&house, &image, enclave.name);
    let body: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let (status, echoed) = channel.send("POST", "/echo", None, &body);
    assert_eq!(status, 200);
    assert!(echoed == body, "a large body comes back as it was");
    // Another port of its own, itself, datagrams, version 6.
    let (status, said) = channel.send("GET", "/network/8081", None, &[]);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(status, 200);
    for kind in ["datagrams", "version 6"] {
        assert!(
            said.contains(&format!("{kind}: permission denied")),
            "{said}"
        );
    }
    // By Landlock from version 4; there is nobody to be reached in any case.
    assert!(!said.contains("connect: done"), "{said}");
    // What the parent can reach of the enclave is vsock.
    for port in [8080, 8081] {
        let answer = exchange(&house, port, "GET /echo HTTP/1.1\r\nhost: e\r\n\r\n");
        assert!(answer.is_err(), "{answer:?}");
    }
}
