//! An image in AWS's own layout runs: its command in `/rootfs`, with its arguments, its environment and the image's PCRs.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use anchorhold_images::{DEFAULT_COMMAND_LINE, NO_KERNEL};
use anchorhold_parent::lifecycle::Home;
use anchorhold_parent::sandbox;

use crate::common::{House, aws_layout, backend, kernel};

/// Longest wait for what must come, on a busy machine that emulates another.
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
fn an_image_in_awss_layout_runs_its_command_in_its_root() {
    let house = House::new();
    let image = house.path("aws.eif");
    let kernel = kernel().map_or_else(
        || NO_KERNEL.as_bytes().to_vec(),
        |path| std::fs::read(path).expect("a kernel"),
    );
    aws_layout::write(&image, &kernel, DEFAULT_COMMAND_LINE, &[]);
    let measured = house.measurements(&image);

    // Returns once the heartbeat came.
    let (enclave, said) = house.started(&image, "aws", &["--memory", "128"]);
    let is_told = said.contains("the image's own /init, which is measured but not run");
    assert_eq!(is_told, backend() == "sandbox", "{said}");

    let begun = Instant::now();
    let console = loop {
        let console = house.console(enclave.name);
        if console.lines().any(|line| line.trim() == "serving") {
            break console;
        }
        assert!(begun.elapsed() < PATIENCE, "{console}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for line in [
        r#"command: ["app", "--greeting", "two words"]"#,
        r#"environment: [("GREETING", "a = b"), ("PATH", "/nowhere")]"#,
        "folder: /",
        "root: bin data dev proc run sys tmp",
        r#"data: "the container's""#,
        &format!("PCR0: {}", measured["PCR0"]),
        &format!("PCR1: {}", measured["PCR1"]),
        &format!("PCR2: {}", measured["PCR2"]),
    ] {
        assert!(
            console.lines().any(|said| said.trim() == line),
            "no {line:?} in\n{console}"
        );
    }

    let folder = Home::at(&house.path(""))
        .expect("a home")
        .enclave(enclave.name);
    let ask = |question: &str| {
        let mut stream = sandbox::connect(&folder, 5000).expect("it listens");
        stream.write_all(question.as_bytes()).expect("it hears");
        stream.shutdown(Shutdown::Write).expect("it hears");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    };
    assert_eq!(ask("hello"), "HELLO");
    assert_eq!(ask("end"), "END");
    // The command's end is the enclave's.
    let begun = Instant::now();
    while sandbox::connect(&folder, 5000).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
