//! Group `content`: what the fields of a genuine document may hold, by AWS's rules and documents.

use std::collections::BTreeMap;

use anchorhold_attestation::Pcr;
use anchorhold_corpus::Case;

use crate::document::{NULL, Payload, array, bytes, map, pcr, pcr_map, pcrs, text, unsigned};
use crate::paper::NOW_MS;
use crate::world::{Say as _, World, admit, aws, refuse};

fn admitted(world: &World) -> Vec<Case> {
    let payload = world.payload();
    let document = |payload: Payload| world.document(&payload);
    let listing = |pcrs: BTreeMap<u8, Pcr>| document(world.payload().set("pcrs", pcr_map(pcrs)));
    let limits = "AWS's documents; AWS, attestation_process.md, 3.2.2.2";
    let only = |indices: &[u8]| indices.iter().map(|index| (*index, pcr(*index))).collect();
    vec![
        admit(
            "content/16-pcrs",
            "Registers 0 to 15 are locked before the enclave starts, and listed.",
            listing(pcrs(16)),
        )
        .by(limits),
        admit(
            "content/17-pcrs",
            "The enclave has locked one of its own registers.",
            listing(pcrs(17)),
        )
        .by(limits),
        admit(
            "content/32-pcrs",
            "The enclave has locked all of its own registers.",
            listing(pcrs(32)),
        )
        .by(limits),
        admit(
            "content/one-pcr",
            "A document lists at least one register.",
            listing(only(&[0])),
        )
        .by(&aws("3.2.2.2")),
        admit(
            "content/pcrs-with-gaps",
            "Registers are found by their index; none must be listed but those that are asked for.",
            listing(only(&[0, 1, 2, 8, 31])),
        )
        .by(&aws("2.2")),
        admit(
            "content/optional-fields-null",
            "Hardware writes null for a field that is not used, whatever AWS's pages say.",
            document(payload.clone().set("public_key", NULL).set("nonce", NULL)),
        )
        .by("AWS's documents"),
        admit(
            "content/optional-fields-absent",
            "public_key, user_data and nonce need not be there.",
            document(
                payload
                    .clone()
                    .without("public_key")
                    .without("user_data")
                    .without("nonce"),
            ),
        )
        .by(&aws("3.2.2.1")),
        admit(
            "content/empty-user-data",
            "An enclave may bind an empty byte string, which is not null.",
            document(payload.clone().set("user_data", bytes([]))),
        )
        .by(limits),
        admit(
            "content/empty-nonce",
            "A nonce may be an empty byte string.",
            document(payload.clone().set("nonce", bytes([]))),
        )
        .by(&aws("3.2.2.2")),
        admit(
            "content/user-data-of-512-bytes",
            "As long as each of AWS's pages allows.",
            document(payload.clone().set("user_data", bytes([1; 512]))),
        )
        .by(&aws("3.2.2.2")),
        admit(
            "content/nonce-of-512-bytes",
            "As long as each of AWS's pages allows.",
            document(payload.clone().set("nonce", bytes([1; 512]))),
        )
        .by(&aws("3.2.2.2")),
        admit(
            "content/public-key-of-1024-bytes",
            "As long as AWS allows.",
            document(payload.clone().set("public_key", bytes([1; 1024]))),
        )
        .by(&aws("3.2.2.2")),
        admit(
            "content/all-fields-full",
            "A document may be as long as its fields allow, all at once.",
            document(
                payload
                    .clone()
                    .set("pcrs", pcr_map(pcrs(32)))
                    .set("public_key", bytes([1; 1024]))
                    .set("user_data", bytes([2; 512]))
                    .set("nonce", bytes([3; 512])),
            ),
        )
        .by(&aws("3.2.2.2")),
        admit(
            "content/unknown-key-that-may-be-ignored",
            "The verifier was told to skip keys that it does not know.",
            document(payload.clone().and(text("enclave_version"), unsigned(1))),
        )
        .told(|arguments| arguments.ignore_unknown_keys = true),
    ]
}

fn missing(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for (key, name) in [
        ("module_id", "module-id"),
        ("digest", "digest"),
        ("timestamp", "timestamp"),
        ("pcrs", "pcrs"),
        ("certificate", "certificate"),
        ("cabundle", "cabundle"),
    ] {
        let why = match key {
            "certificate" => {
                "The field is mandatory: without a certificate nobody has signed, and no check may be \
                 skipped for it."
            }
            "pcrs" => {
                "The field is mandatory: registers that are not there are not equal to any that are \
                 expected."
            }
            _ => "The field is mandatory.",
        };
        cases.push(
            refuse(
                &format!("content/no-{name}"),
                "missing-field",
                why,
                world.document(&world.payload().without(key)),
            )
            .by(&aws("3.2.2.1")),
        );
    }
    for (key, why) in [
        (
            "certificate",
            "A certificate that is null has signed nothing, and no check may be skipped for it.",
        ),
        ("cabundle", "A bundle that is null leads nowhere."),
        ("pcrs", "Registers that are null are equal to none."),
    ] {
        cases.push(
            refuse(
                &format!("content/{key}-null"),
                "wrong-type",
                why,
                world.document(&world.payload().set(key, NULL)),
            )
            .by(&aws("3.2.2.1")),
        );
    }
    cases
}

fn refused(world: &World) -> Vec<Case> {
    let with = |key: &str, value: Vec<u8>| world.document(&world.payload().set(key, value));
    let registers = |entries: Vec<(Vec<u8>, Vec<u8>)>| with("pcrs", map(entries));
    let one = |index: u64, value: Vec<u8>| registers(vec![(unsigned(index), value)]);
    let rules = aws("3.2.2.2");
    let mut cases: Vec<Case> = [
        (
            "content/empty-module-id",
            "wrong-length",
            "An enclave has a name.",
            with("module_id", text("")),
        ),
        (
            "content/module-id-is-a-byte-string",
            "wrong-type",
            "The name is a text.",
            with("module_id", bytes(b"i-0123456789abcdef0")),
        ),
        (
            "content/digest-sha256",
            "digest-algorithm",
            "An enclave's registers are SHA-384.",
            with("digest", text("SHA256")),
        ),
        (
            "content/digest-sha512",
            "digest-algorithm",
            "An enclave's registers are SHA-384.",
            with("digest", text("SHA512")),
        ),
        (
            "content/digest-in-lower-case",
            "digest-algorithm",
            "The value is SHA384, in these letters.",
            with("digest", text("sha384")),
        ),
        (
            "content/timestamp-of-zero",
            "timestamp-range",
            "A timestamp is greater than 0.",
            with("timestamp", unsigned(0)),
        ),
        (
            "content/timestamp-is-a-text",
            "wrong-type",
            "A timestamp is an integer.",
            with("timestamp", text("2025-06-15T15:06:40Z")),
        ),
        (
            "content/no-registers",
            "wrong-length",
            "A document lists at least one register.",
            with("pcrs", map([])),
        ),
        (
            "content/pcr-32",
            "pcr-index",
            "Registers go from 0 to 31.",
            registers(
                (1..=32)
                    .map(|index| (unsigned(index), bytes([1; 48])))
                    .collect(),
            ),
        ),
        (
            "content/pcr-256",
            "pcr-index",
            "Registers go from 0 to 31: 256 is not 0 to a reader that keeps one byte of it.",
            one(256, bytes(pcr(0).as_bytes())),
        ),
        (
            "content/pcr-2-to-the-64",
            "pcr-index",
            "Registers go from 0 to 31.",
            one(u64::MAX, bytes(pcr(0).as_bytes())),
        ),
        (
            "content/pcr-of-47-bytes",
            "pcr-length",
            "A SHA-384 has 48 bytes.",
            one(0, bytes([1; 47])),
        ),
        (
            "content/pcr-of-49-bytes",
            "pcr-length",
            "A SHA-384 has 48 bytes.",
            one(0, bytes([1; 49])),
        ),
        (
            "content/pcr-of-no-bytes",
            "pcr-length",
            "A SHA-384 has 48 bytes; one of none begins every other.",
            one(0, bytes([])),
        ),
        (
            "content/pcr-in-hex",
            "wrong-type",
            "A register is a byte string.",
            one(0, text(&pcr(0).to_string())),
        ),
        (
            "content/pcr-null",
            "wrong-type",
            "A register that is null is not one of zeros, and equal to none.",
            one(0, NULL.to_vec()),
        ),
        (
            "content/pcrs-in-an-array",
            "wrong-type",
            "The registers are a map.",
            with(
                "pcrs",
                array(pcrs(16).into_values().map(|pcr| bytes(pcr.as_bytes()))),
            ),
        ),
        (
            "content/empty-certificate",
            "wrong-length",
            "A certificate of no bytes has signed nothing, and no check may be skipped for it.",
            with("certificate", bytes([])),
        ),
        (
            "content/certificate-in-a-list",
            "wrong-type",
            "There is one leaf.",
            with("certificate", array([bytes(&world.chain.leaf.der)])),
        ),
        (
            "content/empty-cabundle",
            "wrong-length",
            "A bundle has at least the root; without issuers a leaf leads nowhere.",
            with("cabundle", array([])),
        ),
        (
            "content/cabundle-is-one-certificate",
            "wrong-type",
            "The bundle is a list.",
            with("cabundle", bytes(&world.chain.root.der)),
        ),
        (
            "content/cabundle-with-an-empty-entry",
            "wrong-length",
            "A certificate has at least a byte.",
            with(
                "cabundle",
                array(world.chain.cabundle().iter().map(bytes).chain([bytes([])])),
            ),
        ),
        (
            "content/cabundle-with-a-null",
            "wrong-type",
            "A certificate is a byte string.",
            with(
                "cabundle",
                array(
                    world
                        .chain
                        .cabundle()
                        .iter()
                        .map(bytes)
                        .chain([NULL.to_vec()]),
                ),
            ),
        ),
        (
            "content/public-key-of-1025-bytes",
            "wrong-length",
            "A public key has at most 1,024 bytes.",
            with("public_key", bytes([1; 1025])),
        ),
        (
            "content/user-data-of-5000-bytes",
            "wrong-length",
            "AWS's pages allow 512 bytes or 1,024, and a request to the NSM no more than 4,096.",
            with("user_data", bytes([1; 5000])),
        ),
        (
            "content/user-data-is-a-text",
            "wrong-type",
            "User data is a byte string.",
            with("user_data", text("data")),
        ),
        (
            "content/nonce-is-a-number",
            "wrong-type",
            "A nonce is a byte string.",
            with("nonce", unsigned(NOW_MS)),
        ),
    ]
    .into_iter()
    .map(|(name, refusal, why, document)| refuse(name, refusal, why, document).by(&rules))
    .collect();
    cases.extend([
        refuse(
            "content/timestamp-of-2-to-the-64",
            "timestamp-range",
            "No clock of ours reaches there; a reader that adds to it overflows.",
            with("timestamp", unsigned(u64::MAX)),
        )
        .should(),
        refuse(
            "content/timestamp-in-microseconds",
            "timestamp-range",
            "Timestamps are milliseconds: this one says the year 57425.",
            with("timestamp", unsigned(NOW_MS * 1000)),
        )
        .should(),
        refuse(
            "content/module-id-that-clears-the-screen",
            "module-id-characters",
            "A name with control characters can show the reader of a log what is not there.",
            with("module_id", text("i-0123\u{1b}[2Jadmitted-enc0")),
        )
        .should(),
        refuse(
            "content/module-id-with-a-zero-byte",
            "module-id-characters",
            "A reader in C ends at the zero byte, and takes the name for another's.",
            with("module_id", text("i-0123456789abcdef0-enc0\0another")),
        )
        .should(),
        refuse(
            "content/unknown-key",
            "unknown-key",
            "AWS lists the fields that are allowed; one that nobody here understands may say that the \
             document is not what it seems.",
            world.document(&world.payload().and(text("enclave_version"), unsigned(1))),
        )
        .by(&aws("3.2.2.1")),
        refuse(
            "content/key-in-another-case",
            "unknown-key",
            "`Nonce` is not `nonce`: a reader that finds it all the same reads what others do not.",
            world.document(&world.payload().rename("nonce", text("Nonce"))),
        )
        .by(&aws("3.2.2.1")),
    ]);
    cases
}

fn nitrotpm(world: &World) -> Vec<Case> {
    let name = "i-0123456789abcdef0-tpm0000000000000000";
    let by = "Amazon EC2 User Guide, \"Validate a NitroTPM Attestation Document\"";
    let why = "a NitroTPM's document chains to the same root, and speaks of an ordinary instance, \
               whose operator can log in.";
    let registers = pcr_map((0..24).map(|index| (index, pcr(index))));
    vec![
        refuse(
            "content/nitrotpm",
            "nitrotpm",
            &format!("Its registers are nitrotpm_pcrs: {why}"),
            world.document(
                &world
                    .payload()
                    .set("module_id", text(name))
                    .set("pcrs", registers.clone())
                    .rename("pcrs", text("nitrotpm_pcrs")),
            ),
        )
        .by(by),
        refuse(
            "content/nitrotpm-with-an-enclaves-name",
            "nitrotpm",
            &format!("Its registers are nitrotpm_pcrs, whatever its name: {why}"),
            world.document(
                &world
                    .payload()
                    .set("pcrs", registers.clone())
                    .rename("pcrs", text("nitrotpm_pcrs")),
            ),
        )
        .by(by),
        refuse(
            "content/nitrotpm-with-both-kinds-of-registers",
            "nitrotpm",
            &format!("It has nitrotpm_pcrs beside pcrs: {why}"),
            world.document(
                &world
                    .payload()
                    .and(text("nitrotpm_pcrs"), registers.clone()),
            ),
        )
        .by(by),
        refuse(
            "content/nitrotpm-where-unknown-keys-may-be-ignored",
            "nitrotpm",
            &format!("To skip unknown keys is not to take this for an enclave's: {why}"),
            world.document(&world.payload().and(text("nitrotpm_pcrs"), registers)),
        )
        .by(by)
        .told(|arguments| arguments.ignore_unknown_keys = true),
        refuse(
            "content/nitrotpms-name",
            "nitrotpm",
            &format!("Its name ends in -tpm0000, whatever its registers: {why}"),
            world.document(
                &world
                    .payload()
                    .set("module_id", text("i-0123456789abcdef0-tpm0000")),
            ),
        )
        .by("AWS's documents of NitroTPMs")
        .should(),
    ]
}

pub fn cases(world: &World) -> Vec<Case> {
    [
        admitted(world),
        missing(world),
        refused(world),
        nitrotpm(world),
    ]
    .concat()
}
