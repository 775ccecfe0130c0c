//! Packing, explaining and signing images by their commands, as a stranger would.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::Value;

use crate::common::{House, Who};

/// The smallest static program, and something behind it.
fn program(house: &House, name: &str, payload: &[u8]) -> PathBuf {
    let machine = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    let mut file = vec![0; 120];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, byte) in [
        (16, 3),
        (18, machine),
        (32, 64),
        (54, 56),
        (56, 1),
        (64, 1),
        (96, 120),
    ] {
        file[at] = byte;
    }
    file.extend_from_slice(payload);
    let path = house.write(name, file);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    path
}

/// An image of a program, by a runtime that is none: it is looked at and never started.
fn image(house: &House, name: &str, payload: &[u8], more: &[&str]) -> PathBuf {
    program(house, "runtime", b"runtime");
    program(house, "job", payload);
    let mut arguments = vec!["build", "--program", "job", "--init", "runtime", "-o", name];
    arguments.extend(more);
    house.must(Who::Owner, arguments);
    house.path(name)
}

/// What a command prints, and its exit code.
fn said(house: &House, arguments: &[&str]) -> (Option<i32>, String) {
    let output = house.run(Who::Owner, arguments);
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    (output.status.code(), text)
}

fn json(house: &House, arguments: &[&str]) -> Value {
    let output = house.run(Who::Owner, arguments);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_manifest_is_begun_by_init_and_an_error_in_it_has_its_line_and_column() {
    let house = House::new();
    let (code, text) = said(&house, &["init"]);
    assert_eq!((code, text.trim()), (Some(0), "anchorhold.toml"));
    let begun = fs::read_to_string(house.path("anchorhold.toml")).expect("a manifest");
    image(&house, "job.eif", b"", &["--manifest", "anchorhold.toml"]);
    // Nobody's manifest is written over.
    house.write("anchorhold.toml", "mine");
    let (code, text) = said(&house, &["init"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("left as it is"), "{text}");
    assert_eq!(
        fs::read(house.path("anchorhold.toml")).expect("a file"),
        b"mine"
    );

    let line = begun
        .lines()
        .position(|line| line == "[resources]")
        .expect("it is there");
    house.write("bad.toml", begun.replace("memory_mib", "memory_mb"));
    let said = house.must_fail(
        Who::Owner,
        [
            "build",
            "--program",
            "job",
            "--init",
            "runtime",
            "--manifest",
            "bad.toml",
            "-o",
            "bad.eif",
        ],
    );
    assert!(
        said.contains("memory_mb") && said.contains(&format!("line {}", line + 3)),
        "{said}"
    );
    assert!(said.contains("column 1"), "{said}");
    assert!(!house.path("bad.eif").exists());
}

#[test]
fn a_dynamic_program_is_refused_by_itself_and_runs_with_its_libraries() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let more = "[resources]\nmemory_mib = 128\ncpus = 1\n";
    let manifest = house.manifest(&["/job"], "alias/cat", more);
    house.write("cat.toml", manifest);
    // It gives back each line: the shortest job there is.
    let cat = fs::canonicalize("/bin/cat").expect("every system has it");
    let cat = cat.to_str().expect("UTF-8");
    let build = [
        "build",
        "--program",
        cat,
        "--manifest",
        "cat.toml",
        "-o",
        "cat.eif",
    ];
    let refused = house.must_fail(Who::Owner, build);
    assert!(
        refused.contains("is dynamic") && refused.contains("libc.so.6"),
        "{refused}"
    );
    // Before the enclave's runtime was compiled.
    assert!(!refused.contains("Finished"), "{refused}");
    assert!(refused.contains("--libraries-from"), "{refused}");
    fs::create_dir(house.path("empty")).expect("a folder");
    let refused = house.must_fail(
        Who::Owner,
        [&build[..], &["--libraries-from", "empty"]].concat(),
    );
    assert!(refused.contains("ld-linux"), "{refused}");
    assert!(!house.path("cat.eif").exists());

    let mut arguments = [&build[..], &["--libraries-from", "/"]].concat();
    let kernel = crate::common::kernel();
    if let Some(kernel) = &kernel {
        arguments.extend(["--kernel", kernel.to_str().expect("UTF-8")]);
    }
    house.must(Who::Owner, arguments);
    let image = house.path("cat.eif");
    house.key("alias/cat", &house.policy(&image, "cat.json"));
    let enclave = house.enclave(&image, "cat", &[]);
    let input = "{\"one\":1}\n{\"zwei\":\"ü\"}\n";
    let sealed = house.seal("alias/cat", &[], input.as_bytes(), "input.sealed");
    let result = house.path("result.sealed");
    house.must_call(enclave.name, &sealed, &result);
    assert_eq!(house.open(&result, &[]), input.as_bytes());
}

/// The same image with other bytes in the place of some, under a checksum that holds.
fn forged(image: &Path, changes: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = fs::read(image).expect("an image");
    for (old, new) in changes {
        assert_eq!(old.len(), new.len());
        let at = bytes
            .windows(old.len())
            .position(|window| window == old.as_bytes())
            .expect("it is there");
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    let mut crc = u32::MAX;
    for byte in bytes[..544].iter().chain(&bytes[548..]) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    bytes[544..548].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

#[test]
fn a_description_is_for_people_and_for_scripts_and_steers_no_terminal() {
    let house = House::new();
    let manifest =
        "[image]\nname = \"evil......[2J\"\nversion = \"1\"\n[job]\ncommand = [\"/job\"]\n";
    house.write("m.toml", manifest);
    house.write("kernel", [7; 4000]);
    let more = [
        "--manifest",
        "m.toml",
        "--kernel",
        "kernel",
        "--cmdline",
        "quiet #31m",
    ];
    let good = image(&house, "good.eif", b"", &more);
    let evil = [
        ("......[2J", "\\u001b[2J"),
        ("quiet #31m", "quiet\u{1b}[31m"),
    ];
    house.write("evil.eif", forged(&good, &evil));
    house.write("worse.eif", forged(&good, &[("......[2J", "\\u202e[2J")]));
    for arguments in [
        &["describe", "evil.eif"][..],
        &["describe", "worse.eif"],
        &["diff", "good.eif", "evil.eif"],
        &["diff", "evil.eif", "worse.eif"],
        &["verify-image", "evil.eif"],
        &["run", "evil.eif\u{1b}[2J"],
    ] {
        let (_, text) = said(&house, arguments);
        let steers = |letter: char| letter == '\u{202e}' || (letter != '\n' && letter.is_control());
        assert!(!text.contains(steers), "{arguments:?}: {text:?}");
    }
    let (code, text) = said(&house, &["describe", "evil.eif"]);
    assert_eq!(code, Some(0), "{text}");
    let description = json(&house, &["describe", "evil.eif", "--json"]);
    assert_eq!(description["CommandLine"], "quiet\u{1b}[31m");
    for part in [
        description["Measurements"]["PCR0"].as_str().expect("text"),
        description["CRC32"].as_str().expect("text"),
        "evil\\u{1b}[2J 1",
        "kernel      Linux unknown",
        "boots with  quiet\\u{1b}[31m",
        "nitro, qemu, sandbox",
        "MiB of memory",
        "signature   none",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }

    // One byte changed: it is refused, and says why.
    let mut bytes = fs::read(good).expect("an image");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    house.write("changed.eif", bytes);
    let (code, text) = said(&house, &["describe", "changed.eif"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("checksum"), "{text}");
}

#[test]
fn differences_are_told_with_their_reasons_and_an_exit_code() {
    let house = House::new();
    house.write("m.toml", "[job]\ncommand = [\"/job\"]\n");
    image(&house, "one.eif", b"one", &["--manifest", "m.toml"]);
    image(&house, "same.eif", b"one", &["--manifest", "m.toml"]);
    image(
        &house,
        "two.eif",
        b"two!",
        &["--manifest", "m.toml", "--cmdline", "quiet"],
    );
    house.write("n.toml", "[job]\ncommand = [\"/job\", \"-v\"]\n");
    image(&house, "three.eif", b"one", &["--manifest", "n.toml"]);
    image(
        &house,
        "packed.eif",
        b"one",
        &["--manifest", "m.toml", "--compression", "gzip"],
    );

    let (code, text) = said(&house, &["diff", "one.eif", "same.eif"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("measure the same"), "{text}");
    let (code, text) = said(&house, &["diff", "one.eif", "two.eif"]);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "PCR0 differs: the kernel's command line; ramdisk 2: job",
        "PCR1 differs: the kernel's command line",
        "PCR2 differs: ramdisk 2: job",
        "/job: content (123 bytes became 124)",
        "\"quiet\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (code, text) = said(&house, &["diff", "one.eif", "three.eif"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("+2: command = [\"/job\", \"-v\"]") && !text.contains("PCR1"),
        "{text}"
    );
    let (code, text) = said(&house, &["diff", "one.eif", "packed.eif"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("the same files, but one is compressed and the other is not"),
        "{text}"
    );
    let differences = json(&house, &["diff", "one.eif", "two.eif", "--json"]);
    assert_eq!(differences["Registers"][2]["Register"], "PCR2");
    assert_eq!(said(&house, &["diff", "one.eif", "m.toml"]).0, Some(2));
    assert_eq!(said(&house, &["diff", "one.eif", "gone.eif"]).0, Some(2));
}

#[test]
fn the_bill_of_materials_names_what_cargo_packed() {
    let house = House::new();
    let manifest = "[job]\ncommand = [\"/job\"]\n";
    house.image("tests/whole/odd-job", manifest, "odd.eif");
    let bill = json(&house, &["sbom", "odd.eif"]);
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let found: Vec<(&str, String)> = bill["components"]
        .as_array()
        .expect("components")
        .iter()
        .map(|component| {
            let name = component["purl"].as_str().expect("text");
            (name, component["evidence"].to_string())
        })
        .collect();
    let of = |start: &str, place: &str| {
        found
            .iter()
            .any(|(name, evidence)| name.starts_with(start) && evidence.contains(place))
    };
    // The job's packages, and the runtime's.
    assert!(of("pkg:cargo/serde_json@", "\"/job\""), "{found:?}");
    assert!(of("pkg:cargo/hyper@", "\"/init\""), "{found:?}");
    assert_eq!(
        bill["metadata"]["component"]["properties"][0]["value"],
        house.measurements(&house.path("odd.eif"))["PCR0"]
    );
    let missing = house.must_fail(Who::Owner, ["sbom", "odd.eif", "--lock", "gone.lock"]);
    assert!(missing.contains("gone.lock"), "{missing}");
}

/// A key and its certificate, as files `NAME.key` and `NAME.pem`.
fn signer(
    house: &House,
    name: &str,
    years: (i32, i32),
    issuer: Option<&rcgen::Issuer<'_, rcgen::KeyPair>>,
) -> rcgen::KeyPair {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let certificate = match issuer {
        Some(issuer) => parameters.signed_by(&key, issuer),
        None => parameters.self_signed(&key),
    };
    house.write(&format!("{name}.key"), key.serialize_pem());
    house.write(
        &format!("{name}.pem"),
        certificate.expect("a certificate").pem(),
    );
    key
}

#[test]
fn images_are_signed_in_one_step_or_two_and_verified_with_the_reason_for_each_refusal() {
    let house = House::new();
    image(&house, "job.eif", b"job", &[]);
    image(&house, "other.eif", b"other", &[]);
    let key = signer(&house, "now", (2020, 2080), None);
    signer(&house, "old", (2020, 2021), None);

    let (code, text) = said(&house, &["verify-image", "job.eif"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("not signed"), "{text}");
    let sign = |name: &str, output: &str, more: &[&str]| {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let arguments = [
            "sign",
            "job.eif",
            "--key",
            &key,
            "--certificate",
            &certificate,
        ];
        said(&house, &[&arguments[..], &["-o", output], more].concat())
    };
    let (code, text) = sign("now", "signed.eif", &[]);
    assert_eq!(code, Some(0), "{text}");
    let pcr8 = house.measurements(&house.path("signed.eif"))["PCR8"].clone();
    assert!(text.contains(&format!("PCR8 {pcr8}")), "{text}");
    let (code, text) = said(&house, &["verify-image", "signed.eif"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&pcr8) && text.contains("CN=now"), "{text}");
    assert_eq!(
        said(&house, &["verify-image", "signed.eif", "--pcr8", &pcr8]).0,
        Some(0)
    );
    let (code, text) = said(
        &house,
        &["verify-image", "signed.eif", "--pcr8", &"00".repeat(48)],
    );
    assert_eq!(code, Some(1));
    assert!(text.contains("another certificate"), "{text}");

    // In two steps, with a key that never comes near the command.
    house.must(
        Who::Owner,
        ["sign", "job.eif", "--prepare", "-o", "to-sign.bin"],
    );
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &key.serialize_der());
    let to_sign = fs::read(house.path("to-sign.bin")).expect("a file");
    let made = pair
        .expect("a key")
        .sign(&SystemRandom::new(), &to_sign)
        .expect("a signature");
    house.write("signature.der", made.as_ref());
    let attach = |image: &'static str, output: &'static str| {
        let arguments = [
            "sign",
            image,
            "--attach",
            "signature.der",
            "--certificate",
            "now.pem",
        ];
        said(&house, &[&arguments[..], &["-o", output]].concat())
    };
    assert_eq!(attach("job.eif", "attached.eif").0, Some(0));
    assert_eq!(said(&house, &["verify-image", "attached.eif"]).0, Some(0));
    assert_eq!(
        house.measurements(&house.path("attached.eif"))["PCR8"],
        pcr8
    );
    // Another image's signature is an error, and no unsigned image comes of it.
    let (code, text) = attach("other.eif", "never.eif");
    assert_eq!(code, Some(1));
    assert!(text.contains("--prepare"), "{text}");
    let (code, text) = said(
        &house,
        &[
            "sign",
            "job.eif",
            "--key",
            "old.key",
            "--certificate",
            "now.pem",
            "-o",
            "never.eif",
        ],
    );
    assert_eq!(code, Some(1));
    assert!(text.contains("not the key of"), "{text}");
    house.write(
        "p256.key",
        rcgen::KeyPair::generate().expect("a key").serialize_pem(),
    );
    let (code, text) = said(
        &house,
        &[
            "sign",
            "job.eif",
            "--key",
            "p256.key",
            "--certificate",
            "now.pem",
            "-o",
            "never.eif",
        ],
    );
    assert_eq!(code, Some(1));
    assert!(text.contains("P-384"), "{text}");
    assert!(!house.path("never.eif").exists());

    // A signed image is not signed over by accident, nor in place without being asked.
    let again = [
        "sign",
        "signed.eif",
        "--key",
        "old.key",
        "--certificate",
        "old.pem",
        "-o",
    ];
    let (code, text) = said(&house, &[&again[..], &["expired.eif"]].concat());
    assert_eq!(code, Some(1));
    assert!(text.contains("--replace"), "{text}");
    let (code, text) = said(
        &house,
        &[&again[..], &["expired.eif", "--replace"]].concat(),
    );
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = said(&house, &["verify-image", "expired.eif"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("expired on"), "{text}");
    assert_eq!(
        said(
            &house,
            &[
                "verify-image",
                "expired.eif",
                "--at",
                "2020-06-01T00:00:00Z"
            ]
        )
        .0,
        Some(0)
    );
    let (code, text) = said(
        &house,
        &[
            "verify-image",
            "expired.eif",
            "--at",
            "2019-06-01T00:00:00Z",
        ],
    );
    assert_eq!(code, Some(1));
    assert!(text.contains("not valid before"), "{text}");
    assert_eq!(said(&house, &["verify-image", "now.pem"]).0, Some(2));
}

#[test]
fn a_signers_certificate_may_come_from_an_authority() {
    let house = House::new();
    image(&house, "job.eif", b"job", &[]);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "authority");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    house.write("ca.pem", certificate.pem());
    let issuer = rcgen::Issuer::new(parameters, key);
    signer(&house, "leaf", (2020, 2080), Some(&issuer));
    signer(&house, "stranger", (2020, 2080), None);
    house.must(
        Who::Owner,
        [
            "sign",
            "job.eif",
            "--key",
            "leaf.key",
            "--certificate",
            "leaf.pem",
            "-o",
            "signed.eif",
        ],
    );
    let (code, text) = said(&house, &["verify-image", "signed.eif"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("CN=authority") && text.contains("--ca"),
        "{text}"
    );
    assert_eq!(
        said(&house, &["verify-image", "signed.eif", "--ca", "ca.pem"]).0,
        Some(0)
    );
    let (code, text) = said(
        &house,
        &["verify-image", "signed.eif", "--ca", "stranger.pem"],
    );
    assert_eq!(code, Some(1));
    assert!(text.contains("no chain"), "{text}");
}

#[test]
fn policies_roll_over_name_signers_are_taken_by_the_key_service_and_are_terraform() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    image(&house, "one.eif", b"one", &[]);
    image(&house, "two.eif", b"two", &[]);
    let (owner, host) = (Who::Owner.arn(), Who::Host.arn());
    let policy = |more: &[&str]| {
        let parties = ["--owner", &owner, "--principal", &host];
        json(&house, &[&["policy"], more, &parties[..]].concat())
    };
    let admitted = |policy: &Value| policy["Statement"][1]["Condition"]["StringEquals"].clone();
    let pcr0 = |name: &str| house.measurements(&house.path(name))["PCR0"].clone();

    let both = policy(&["two.eif", "--roll-over", "one.eif"]);
    assert_eq!(
        admitted(&both)["kms:RecipientAttestation:ImageSha384"],
        serde_json::json!([pcr0("two.eif"), pcr0("one.eif")])
    );
    let denied = &both["Statement"][2];
    assert_eq!(denied["Effect"], "Deny");
    assert_eq!(
        denied["Condition"]["Null"]["kms:RecipientAttestation:ImageSha384"],
        "true"
    );
    let file = house.write("both.json", both.to_string());
    house.key("alias/both", &file);

    let (code, text) = said(
        &house,
        &["policy", "one.eif", "--signer", "--owner", &owner],
    );
    assert_eq!(code, Some(1));
    assert!(text.contains("not signed"), "{text}");
    signer(&house, "signer", (2020, 2080), None);
    house.must(
        Who::Owner,
        [
            "sign",
            "one.eif",
            "--key",
            "signer.key",
            "--certificate",
            "signer.pem",
            "-o",
            "signed.eif",
        ],
    );
    let by_signer = policy(&["signed.eif", "--signer"]);
    assert_eq!(
        admitted(&by_signer)["kms:RecipientAttestation:PCR8"],
        house.measurements(&house.path("signed.eif"))["PCR8"]
    );
    assert!(!by_signer.to_string().contains(&pcr0("one.eif")));
    house.key(
        "alias/signer",
        &house.write("signer.json", by_signer.to_string()),
    );

    let (code, text) = said(
        &house,
        &[
            "policy",
            "one.eif",
            "--terraform",
            "--owner",
            &owner,
            "--principal",
            &host,
        ],
    );
    assert_eq!(code, Some(0));
    assert!(text.starts_with("data \"aws_iam_policy_document\" \"anchorhold\" {"));
    for part in [
        "effect    = \"Deny\"",
        "variable = \"kms:RecipientAttestation:ImageSha384\"",
        &pcr0("one.eif"),
        &host,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(text.matches('{').count(), text.matches('}').count());
}

/// A program of so many bytes that its ramdisk takes a while to compress.
fn large(house: &House, bytes: usize) -> [&'static str; 9] {
    let mut state = 1u64;
    let payload: Vec<u8> = (0..bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes()
        })
        .collect();
    program(house, "runtime", b"runtime");
    program(house, "large", &payload);
    [
        "build",
        "--program",
        "large",
        "--init",
        "runtime",
        "--compression",
        "gzip",
        "-o",
        "large.eif",
    ]
}

#[test]
fn progress_is_drawn_on_a_terminal_and_not_into_a_pipe() {
    let house = House::new();
    let arguments = large(&house, 8 << 20);
    let piped = house.run(Who::Owner, arguments);
    assert!(piped.status.success());
    assert!(
        piped.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&piped.stderr)
    );
    assert!(!piped.stdout.contains(&0x1b));

    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let mut child = house
        .command(Who::Owner, arguments)
        .env("TERM", "xterm")
        .stdout(Stdio::null())
        .stderr(Stdio::from(terminal.slave))
        .spawn()
        .expect("anchorhold runs");
    let mut master = fs::File::from(terminal.master);
    let mut drawn = Vec::new();
    // The end of a terminal is an error (EIO).
    let _ = master.read_to_end(&mut drawn);
    assert!(child.wait().expect("it ends").success());
    let drawn = String::from_utf8_lossy(&drawn);
    assert!(
        drawn.contains("Packing") && drawn.contains('\u{1b}'),
        "{drawn:?}"
    );
}

/// Files in a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_build_that_is_killed_leaves_an_older_image_as_it_was_and_nothing_else() {
    let house = House::new();
    let arguments = large(&house, 64 << 20);
    house.write("large.eif", "the older image");
    let before = names(&house.path(""));
    let mut command: Command = house.command(Who::Owner, arguments);
    let mut child = command.stdout(Stdio::null()).spawn().expect("it runs");
    // In the middle: some of it is written.
    let descriptors = format!("/proc/{}/fd", child.id());
    loop {
        let open = fs::read_dir(&descriptors).expect("it runs");
        let written = open
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let target = fs::read_link(&path).ok()?;
                let ours = target.starts_with(house.path("")) && !target.ends_with("large");
                ours.then(|| fs::metadata(path).map_or(0, |file| file.len()))
            })
            .max();
        if written.is_some_and(|bytes| bytes > 1 << 20) {
            break;
        }
        assert!(
            child.try_wait().expect("a child").is_none(),
            "it ended before anything was seen of it"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(names(&house.path("")), before);
    assert_eq!(
        fs::read(house.path("large.eif")).expect("a file"),
        b"the older image"
    );
    house.must(Who::Owner, arguments);
    assert_eq!(names(&house.path("")), before);
    assert!(fs::metadata(house.path("large.eif")).expect("a file").len() > 1 << 20);
}

/// KiB of memory that a process has held at most, until it ends.
fn most_memory(mut child: std::process::Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    // The system's own maximum: what happens between two looks is in it.
    while child.try_wait().expect("a child").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        most = most.max(number.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().expect("a child").success());
    most
}

#[test]
fn a_job_of_any_size_is_packed_and_described_in_64_mib_of_memory() {
    let house = House::new();
    program(&house, "runtime", b"runtime");
    let large = program(&house, "large", b"");
    let file = fs::File::options()
        .write(true)
        .open(&large)
        .expect("a file");
    file.set_len(600 << 20).expect("room for a file with holes");
    for how in ["none", "gzip"] {
        let build = [
            "build",
            "--program",
            "large",
            "--init",
            "runtime",
            "--compression",
            how,
            "-o",
            "large.eif",
        ];
        for arguments in [&build[..], &["describe", "large.eif"]] {
            let mut command = house.command(Who::Owner, arguments);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let most = most_memory(child.expect("it runs"));
            assert!(most > 1 << 10, "it was seen");
            assert!(most < 64 << 10, "{arguments:?} took {most} KiB");
        }
    }
}
