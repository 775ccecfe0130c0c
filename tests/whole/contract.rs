//! The contract for jobs: a line for each line, exit code 0, or no result.

use crate::common::{House, Running, Who};

fn house_with_odd_job() -> (House, crate::common::KeyService) {
    let mut house = House::new();
    let service = house.key_service(&[]);
    let more = "[resources]\nmemory_mib = 128\ncpus = 1\n";
    let manifest = house.manifest(&["/job"], "alias/odd", more).replace(
        "command = [\"/job\"]",
        &format!(
            "command = [\"/job\"]\nmax_line_bytes = 65536\ntimeout_seconds = {}",
            // An emulated processor is slower, and shares the machine with other tests.
            if crate::common::backend() == "qemu" {
                30
            } else {
                5
            }
        ),
    );
    let image = house.image("tests/whole/odd-job", &manifest, "odd.eif");
    house.key("alias/odd", &house.policy(&image, "odd.json"));
    (house, service)
}

fn enclave(house: &House) -> Running<'_> {
    house.enclave(&house.path("odd.eif"), "odd", &[])
}

#[test]
fn every_way_to_break_the_contract_fails_the_whole_call() {
    let (house, _service) = house_with_odd_job();
    let enclave = enclave(&house);
    let result = house.path("result.sealed");
    let many = "{\"n\":1}\n".repeat(5_000);
    for (name, input) in [
        (
            "a missing line",
            "{\"n\":1}\n{\"do\":\"nothing\"}\n{\"n\":2}\n".to_owned(),
        ),
        (
            "an extra line",
            "{\"n\":1}\n{\"do\":\"twice\"}\n".to_owned(),
        ),
        (
            "a line without an end",
            "{\"n\":1}\n{\"do\":\"half\"}\n".to_owned(),
        ),
        (
            "an exit code",
            "{\"n\":1}\n{\"do\":\"exit\",\"code\":3}\n".to_owned(),
        ),
        (
            "an early end",
            format!("{{\"n\":1}}\n{{\"do\":\"stop\"}}\n{many}"),
        ),
        (
            "an exit code after much output",
            format!("{many}{{\"do\":\"exit\",\"code\":3}}\n"),
        ),
        (
            "a line too long",
            "{\"do\":\"long\",\"bytes\":70000}\n".to_owned(),
        ),
        ("no end in time", "{\"do\":\"sleep\"}\n".to_owned()),
    ] {
        let sealed = house.seal("alias/odd", &[], input.as_bytes(), "input.sealed");
        let said = house.must_not_call(enclave.name, &sealed, &result);
        assert!(!said.is_empty(), "{name}");
    }
    // The enclave is none the worse for it.
    let sealed = house.seal("alias/odd", &[], b"{\"n\":1}\n{\"n\":2}\n", "input.sealed");
    house.must_call(enclave.name, &sealed, &result);
    assert_eq!(house.open(&result, &[]), b"{\"n\":1}\n{\"n\":2}\n");
}

#[test]
fn nothing_in_is_nothing_out() {
    let (house, _service) = house_with_odd_job();
    let enclave = enclave(&house);
    let sealed = house.seal("alias/odd", &[], b"", "input.sealed");
    let result = house.path("result.sealed");
    house.must_call(enclave.name, &sealed, &result);
    assert_eq!(house.open(&result, &[]), b"");
}

#[test]
fn what_a_job_writes_on_stderr_stays_inside() {
    let (house, _service) = house_with_odd_job();
    let result = house.path("result.sealed");
    let sealed = house.seal(
        "alias/odd",
        &[],
        b"{\"do\":\"complain\",\"pan\":\"4111111111111111\"}\n",
        "input.sealed",
    );
    let enclave = enclave(&house);
    house.must_call(enclave.name, &sealed, &result);
    assert!(
        !house.console(enclave.name).contains("4111111111111111"),
        "{}",
        house.console(enclave.name)
    );
}

#[test]
fn a_result_is_opened_only_as_what_it_is() {
    let (house, _service) = house_with_odd_job();
    let enclave = enclave(&house);
    let first = house.seal(
        "alias/odd",
        &["--context", "run=1"],
        b"{\"n\":1}\n",
        "first.sealed",
    );
    let second = house.seal(
        "alias/odd",
        &["--context", "run=2"],
        b"{\"n\":2}\n",
        "second.sealed",
    );
    let result = house.path("result.sealed");
    house.must_call(enclave.name, &first, &result);
    let first = first.to_str().expect("UTF-8");
    let second = second.to_str().expect("UTF-8");
    assert_eq!(
        house.open(&result, &["--context", "run=1", "--result-of", first]),
        b"{\"n\":1}\n"
    );
    let path = result.to_str().expect("UTF-8");
    let said = house.must_fail(Who::Owner, ["open", "--input", path, "--result-of", second]);
    assert!(said.contains("anchorhold:request"), "{said}");
    let said = house.must_fail(Who::Owner, ["open", "--input", path, "--context", "run=2"]);
    assert!(said.contains("run"), "{said}");
    // And a result is no input.
    let said = house.must_not_call(enclave.name, &result, &house.path("again.sealed"));
    assert!(said.contains("anchorhold:"), "{said}");
}

#[test]
fn what_a_job_that_runs_once_writes_is_passed_on_to_its_last_word_and_redacted() {
    let house = House::new();
    let manifest = "[job]\ncommand = [\"/job\", \"print pan 4111 1111\\\\n1111 1111 ok\\\\nlast 7\"]\ncontract = \"once\"\n";
    let image = house.image("tests/whole/odd-job", manifest, "once.eif");
    let image = image.to_str().expect("text");
    let backend = crate::common::backend();
    // It may end before it serves, which `run` says, or after.
    house.run(
        Who::Host,
        ["run", image, "--name", "once", "--backend", backend],
    );
    house.console_says("once", 0, "ended with exit code 0");
    let console = house.console("once");
    assert!(console.contains("job: pan [card]"), "{console}");
    assert!(
        console.contains("job:  ok") && console.contains("job: last 7"),
        "{console}"
    );
    assert!(
        !console.contains("4111") && !console.contains("1111"),
        "{console}"
    );
}
