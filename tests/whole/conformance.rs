//! `anchorhold conformance`: our verifier passes, and a bad one is seen for what it is.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::common::{House, WORKSPACE, Who};

/// The exit code and, from `--json`, the report.
fn conformance(house: &House, arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["conformance", "--json"];
    all.extend(arguments);
    if !arguments.contains(&"--timeout") {
        // No verifier here is slow; the machine may be.
        all.extend(["--timeout", "300"]);
    }
    let output = house.run(Who::Owner, all);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("an exit code"), report)
}

/// How many cases there are of each verdict, and in all.
fn demanded(report: &Value) -> (u64, u64) {
    let cases = report["cases"].as_array().expect("cases");
    let count = |verdict: &str| {
        let of = cases.iter().filter(|case| case["verdict"] == verdict);
        u64::try_from(of.count()).expect("a small number")
    };
    (count("admit"), count("refuse"))
}

#[test]
fn our_verifier_passes_every_case() {
    let house = House::new();
    let (code, report) = conformance(&house, &[]);
    let all = &report["all"];
    assert_eq!(code, 0, "{all}");
    assert_eq!(report["passed"], true);
    assert_eq!(all["not_asked"], 0);
    assert_eq!(all["passed"], all["asked"]);
    assert!(all["passed"].as_u64() >= Some(150), "{all}");
    assert_eq!(report["groups"].as_object().expect("groups").len(), 7);
    for (readme, promise) in [
        ("README.md", format!("passes all {} cases", all["passed"])),
        (
            "attestation/README.md",
            format!("holds {} documents", all["passed"]),
        ),
    ] {
        let text = std::fs::read_to_string(Path::new(WORKSPACE).join(readme)).expect("a README");
        assert!(text.contains(&promise), "{readme}: {promise}");
    }

    let text = house.must(Who::Owner, ["conformance"]);
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.contains("wrongly admitted"), "{text}");
    assert_eq!(text.lines().count(), 2 + 1 + 7 + 1, "{text}");
}

/// A verifier that takes all there is, and has one answer to it.
fn takes_all(program: &str) -> String {
    format!(
        "{program} {{document}} {{judge-at}} [{{anchor}}] [{{max-age-ms}} {{max-skew-ms}}] [{{pcr}}] \
         [{{no-value}}] [{{nonce}}] [{{user-data}}] [{{public-key}}] [{{module-id}}] [{{?any-image}}] \
         [{{?allow-debug}}] [{{?ignore-unknown-keys}}]"
    )
}

#[test]
fn a_verifier_that_admits_all_fails_what_must_be_refused_and_the_other_way() {
    let house = House::new();
    let (code, report) = conformance(&house, &["--verifier", &takes_all("true")]);
    let (admit, refuse) = demanded(&report);
    assert_eq!(code, 1);
    assert_eq!(report["passed"], false);
    assert_eq!(report["all"]["passed"], admit);
    assert_eq!(report["all"]["wrongly_admitted"], refuse);
    assert_eq!(report["all"]["asked"], admit + refuse);
    assert_eq!(report["all"]["wrongly_refused"], 0);
    assert_eq!(report["all"]["crashed"], 0);

    let (code, report) = conformance(&house, &["--verifier", &takes_all("false")]);
    assert_eq!(code, 1);
    assert_eq!(report["all"]["passed"], refuse);
    assert_eq!(report["all"]["wrongly_refused"], admit);
    assert_eq!(report["all"]["wrongly_admitted"], 0);
}

#[test]
fn a_crash_is_no_refusal() {
    let house = House::new();
    for (command, how) in [
        ("sh -c 'exit 2'", "exit code 2"),
        ("sh -c 'kill -SEGV $$'", "signal 11"),
        ("sh -c 'echo said >&2; exit 101'", "exit code 101: said"),
    ] {
        let (code, report) = conformance(
            &house,
            &["--only", "structure", "--verifier", &takes_all(command)],
        );
        assert_eq!(code, 1, "{command}");
        let all = &report["all"];
        assert_eq!(all["crashed"], all["asked"], "{command}");
        assert_eq!(all["passed"], 0);
        let detail = report["cases"][0]["detail"].as_str().expect("a detail");
        assert!(detail.contains(how), "{command}: {detail}");
    }
}

#[test]
fn a_verifier_that_never_answers_is_ended_with_its_children() {
    let house = House::new();
    let pid = house.path("child.pid");
    let script = house.write(
        "sleeper",
        format!(
            "#!/bin/sh\nsleep 1000 &\necho $! > {}\nwait\n",
            pid.display()
        ),
    );
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700))
        .expect("a script of ours");
    let verifier = takes_all(script.to_str().expect("UTF-8"));
    // Longer and longer, until the machine had the time to start a shell.
    for seconds in ["1", "10", "100"] {
        let only = ["--only", "structure/untagged", "--timeout", seconds];
        let arguments = [only.as_slice(), &["--verifier", &verifier]].concat();
        let (code, report) = conformance(&house, &arguments);
        assert_eq!(code, 1);
        assert_eq!(report["all"]["crashed"], 1, "{report}");
        if std::fs::read_to_string(&pid).is_ok_and(|written| written.ends_with('\n')) {
            break;
        }
    }
    let child = std::fs::read_to_string(pid).expect("the child was started");
    let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
    // Gone, or dead and not yet waited for by whoever inherited it.
    assert!(
        state.as_ref().map_or(true, |stat| stat.contains(") Z ")),
        "{state:?}"
    );
}

#[test]
fn what_a_verifier_cannot_take_it_is_not_asked() {
    let house = House::new();
    let verifier = "true {document} {anchor} {at-seconds}";
    let (code, report) = conformance(&house, &["--only", "policy", "--verifier", verifier]);
    // All that it is asked is to admit what is sound.
    assert_eq!(code, 0);
    let outcome = |name: &str| {
        let cases = report["cases"].as_array().expect("cases");
        let case = cases.iter().find(|case| case["name"] == name);
        case.unwrap_or_else(|| panic!("{name}"))["outcome"].clone()
    };
    assert_eq!(outcome("policy/any-image"), "passed");
    for name in [
        "policy/pcr0",
        "policy/nonce",
        "policy/another-nonce",
        "policy/debug",
        "policy/debug-allowed",
        "policy/nothing-expected",
        "policy/no-value-allowed",
    ] {
        assert_eq!(outcome(name), "not_asked", "{name}");
    }

    // Nothing asked is nothing passed.
    let (code, report) = conformance(
        &house,
        &["--only", "policy/nonce", "--verifier", "true {document}"],
    );
    assert_eq!(code, 1);
    assert_eq!(report["all"]["not_asked"], 1);
    assert_eq!(report["passed"], false);

    let (code, _) = conformance(
        &house,
        &[
            "--only",
            "policy/nonce",
            "--takes",
            "anchor,at-seconds,nonce",
            "--verifier",
            "true {document}",
        ],
    );
    assert_eq!(code, 0);
}

#[test]
fn a_program_is_told_in_words_and_the_shell_in_its_environment() {
    let house = House::new();
    let only = ["--only", "policy/old-image-while-rolling-over"];
    let test = "test [{pcr0}] = both";
    let mut arguments = only.to_vec();
    arguments.extend(["--takes", "anchor,at", "--verifier", test]);
    let (_, report) = conformance(&house, &arguments);
    // Both values are there, which makes one word too many for `test`.
    assert_eq!(report["all"]["crashed"], 1, "{report}");

    let mut arguments = only.to_vec();
    arguments.extend([
        "--shell",
        "--takes",
        "anchor,at,pcr0",
        "--verifier",
        "test $(echo \"$ANCHORHOLD_PCR0\" | wc -l) = 2 && grep -q BEGIN \"$ANCHORHOLD_ANCHOR\" && \
         test \"$ANCHORHOLD_AT\" = 2025-06-15T15:06:40Z && test -s \"$ANCHORHOLD_DOCUMENT\" && \
         test -z \"${ANCHORHOLD_NONCE+set}\"",
    ]);
    let mut command = house.command(Who::Owner, ["conformance"]);
    // What is set outside does not pass for what the case says.
    command.args(&arguments).env("ANCHORHOLD_NONCE", "00ff");
    let output = command.output().expect("anchorhold runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn our_own_verify_passes_as_a_program_like_any_other() {
    let house = House::new();
    let program = crate::common::anchorhold();
    let verifier = format!(
        "{} verify {{document}} --at {{judge-at}} [--anchor {{anchor}}] [--any-image {{?any-image}}] \
         [--max-age {{max-age-seconds}} --max-skew {{max-skew-seconds}}] \
         [--pcr0 {{pcr0}}] [--pcr1 {{pcr1}}] [--pcr2 {{pcr2}}] [--pcr3 {{pcr3}}] [--pcr4 {{pcr4}}] \
         [--pcr8 {{pcr8}}] [--pcr 9={{pcr9}}] [--pcr 16={{pcr16}}] [--nonce {{nonce}}] \
         [--user-data {{user-data}}] [--public-key {{public-key}}] [--module-id {{module-id}}] \
         [--allow-debug {{?allow-debug}}] [--allow-unknown-keys {{?ignore-unknown-keys}}]",
        program.display()
    );
    // What is no document at all is unusable to `verify`, and expecting nothing a mistake of its
    // caller: both are exit code 2. The other groups have neither, but for what `--must` leaves out.
    for group in ["chain", "time", "policy"] {
        let (code, report) = conformance(
            &house,
            &["--must", "--only", group, "--verifier", &verifier],
        );
        let failed: Vec<&Value> = report["cases"]
            .as_array()
            .expect("cases")
            .iter()
            .filter(|case| case["outcome"] != "passed" && case["outcome"] != "not_asked")
            .collect();
        assert_eq!(code, 0, "{failed:#?}");
        assert!(report["all"]["passed"].as_u64() > Some(20));
    }
}

#[test]
fn what_cannot_be_used_is_said_and_exits_with_2() {
    let house = House::new();
    let broken = house.path("broken");
    std::fs::create_dir_all(broken.join("cases/cose")).expect("a folder");
    std::fs::create_dir_all(broken.join("anchors")).expect("a folder");
    std::fs::write(broken.join("cases/cose/odd.case"), "name: cose/odd\n").expect("a file");
    let broken = broken.to_str().expect("UTF-8");
    for (arguments, said) in [
        (
            &[
                "--verifier",
                "no-such-verifier-anywhere {document} {anchor} {at}",
            ][..],
            "cannot be started",
        ),
        (&["--verifier", "verify {nounce}"], "\"nounce\" is no name"),
        (&["--only", "chains"], "neither a group nor a case"),
        (&["--corpus", "/nonexistent"], "/nonexistent"),
        (&["--corpus", broken], "not followed by an empty line"),
    ] {
        let mut all = vec![OsStr::new("conformance")];
        all.extend(arguments.iter().map(OsStr::new));
        let output = house.run(Who::Owner, all);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}
