//! Our reading and writing of enclave images beside AWS's own library: what it writes we read and measure the same,
//! what we write it reads and measures the same, and signatures hold both ways. Set up by `tests/image-formats/setup
//! DIR`, found in `ANCHORHOLD_IMAGE_FORMATS`.

#[path = "../common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anchorhold_images::cpio::{Attributes, Writer};
use anchorhold_images::signing::{ImageSigner, SigningCertificate, sign};
use anchorhold_images::trust::{SignatureFault, check_signature};
use anchorhold_images::{BuildOptions, Compression, Image, Source, build};
use common::{House, Who};
use serde_json::{Value, json};

/// The names that `nitro-cli describe-eif` prints at the top, but for the two that only signed images have.
const DESCRIBED: [&str; 3] = ["EifVersion", "IsSigned", "CheckCRC"];

fn others(arguments: &[&OsStr]) -> Output {
    let folder = std::env::var_os("ANCHORHOLD_IMAGE_FORMATS")
        .expect("ANCHORHOLD_IMAGE_FORMATS names the folder that tests/image-formats/setup made");
    let program = Path::new(&folder).join("others");
    Command::new(program)
        .args(arguments)
        .output()
        .expect("AWS's library runs")
}

fn must(arguments: &[&OsStr]) -> Value {
    let output = others(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn theirs(image: &Path) -> Value {
    must(&[OsStr::new("describe"), image.as_os_str()])
}

fn ours(image: &Path) -> Value {
    let image = Image::open(image).expect("our reader takes it");
    serde_json::to_value(image.describe().expect("a description")).expect("JSON")
}

/// Without the hash's name, for which they print whatever their hash function calls itself in its current version.
fn registers(mut measurements: Value) -> Value {
    let name = measurements["HashAlgorithm"].take();
    assert!(name.as_str().is_some_and(|name| name.starts_with("Sha")));
    measurements
}

/// Both read the same out of an image.
fn agree(image: &Path) {
    let (theirs, ours) = (theirs(image), ours(image));
    for name in DESCRIBED {
        assert_eq!(theirs[name], ours[name], "{name} of {}", image.display());
    }
    assert_eq!(theirs["CheckCRC"], true);
    assert_eq!(
        registers(theirs["Measurements"].clone()),
        registers(ours["Measurements"].clone())
    );
    let crc = theirs["Crc"].as_u64().expect("a number");
    assert_eq!(ours["CRC32"], format!("{crc:08x}"));
    for (name, field) in [("SectionOffsets", "Offset"), ("SectionSizes", "Size")] {
        let sections = ours["Sections"].as_array().expect("sections");
        let found: Vec<u64> = sections
            .iter()
            .map(|section| section[field].as_u64().expect("a number"))
            .collect();
        let stated: Vec<u64> = serde_json::from_value(theirs[name].clone()).expect("numbers");
        // The table names where a section's header begins, ours where its data does.
        let shift = if field == "Offset" { 12 } else { 0 };
        let found: Vec<u64> = found.iter().map(|number| number - shift).collect();
        assert_eq!(stated, found, "{name}");
    }
    let metadata = &theirs["Metadata"];
    assert_eq!(metadata["ImageName"], ours["ImageName"]);
    assert_eq!(metadata["ImageVersion"], ours["ImageVersion"]);
    for (name, value) in metadata["BuildMetadata"].as_object().expect("an object") {
        assert_eq!(*value, ours["Metadata"][name], "{name}");
    }
    assert_eq!(metadata["DockerInfo"], ours["Metadata"]["DockerInfo"]);
    if !metadata["CustomMetadata"].is_null() {
        assert_eq!(
            metadata["CustomMetadata"],
            ours["Metadata"]["CustomMetadata"]
        );
    }
    assert_eq!(theirs["SignatureCheck"], ours["SignatureCheck"]);
    if ours["IsSigned"] == true {
        let certificate = theirs["SigningCertificate"].as_object().expect("an object");
        for (name, value) in certificate {
            assert_eq!(*value, ours["SigningCertificate"][name], "{name}");
        }
    }
    let image = Image::open(image).expect("our reader takes it");
    let (memory, cpus) = image.default_resources();
    assert_eq!(
        (&theirs["DefaultMemory"], &theirs["DefaultCpus"]),
        (&json!(memory), &json!(cpus))
    );
}

/// A ramdisk's archive with one file in it.
fn archive(name: &str, bytes: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..bytes).map(|at| (at * at % 251) as u8).collect();
    let mut archive = Writer::new(Vec::new());
    archive
        .file(
            Path::new(name),
            Attributes::of_root(0o755),
            bytes as u64,
            &mut data.as_slice(),
        )
        .expect("a file in memory");
    archive.finish().expect("an archive in memory")
}

/// The same, gzip'd by a tool that everybody has.
fn gzipped(house: &House, name: &str, archive: &[u8]) -> PathBuf {
    let plain = house.write(name, archive);
    let status = Command::new("gzip")
        .args(["-6", "-n"])
        .arg(&plain)
        .status()
        .expect("gzip runs");
    assert!(status.success());
    plain.with_file_name(format!("{name}.gz"))
}

struct Signer {
    key: PathBuf,
    certificate: PathBuf,
}

fn signer(house: &House, name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Signer {
    signer_until(house, name, algorithm, 2040)
}

fn signer_until(
    house: &House,
    name: &str,
    algorithm: &'static rcgen::SignatureAlgorithm,
    year: i32,
) -> Signer {
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    let names = &mut parameters.distinguished_name;
    names.push(rcgen::DnType::CommonName, name);
    names.push(rcgen::DnType::OrganizationName, "Owner & Co");
    names.push(rcgen::DnType::CountryName, "NL");
    parameters.not_before = rcgen::date_time_ymd(2020, 2, 3);
    parameters.not_after = rcgen::date_time_ymd(year, 12, 31);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    Signer {
        key: house.write(&format!("{name}.key"), key.serialize_pem()),
        certificate: house.write(&format!("{name}.pem"), certificate.pem()),
    }
}

const METADATA: &str = r#"{"ImageName":"hello","ImageVersion":"1.2","BuildMetadata":{"BuildTime":"2026-01-02T03:04:05+00:00",
    "BuildTool":"nitro-cli","BuildToolVersion":"1.4.2","OperatingSystem":"Linux","KernelVersion":"4.14.256"},
    "DockerInfo":{"Id":"sha256:1","RepoTags":["hello:latest"],"Config":{"Env":["A=ü"]}},
    "CustomMetadata":{"team":["a",1,null]}}"#;

/// Inputs for AWS's builder.
struct Shape {
    kernel: usize,
    command_line: &'static str,
    ramdisks: Vec<PathBuf>,
    arm64: bool,
    metadata: &'static str,
}

fn shapes(house: &House) -> Vec<Shape> {
    let plain = |name: &str, bytes| house.write(name, archive("init", bytes));
    let first = plain("first", 70_001);
    let second = plain("second", 1);
    let odd = house.write("odd", [archive("x", 13), vec![0; 3]].concat());
    let packed = gzipped(house, "packed", &archive("rootfs", 900_000));
    let tiny = gzipped(house, "tiny", &archive("cmd", 0));
    let bare = METADATA.replace(r#"{"team":["a",1,null]}"#, "null").leak();
    let shape = |kernel, command_line, ramdisks, arm64, metadata| Shape {
        kernel,
        command_line,
        ramdisks,
        arm64,
        metadata,
    };
    let usual = anchorhold_images::DEFAULT_COMMAND_LINE;
    vec![
        shape(
            1_000_003,
            usual,
            vec![packed.clone(), tiny.clone()],
            false,
            METADATA,
        ),
        shape(1, "x", vec![first.clone()], false, bare),
        shape(
            4096,
            "console=ttyS0\n",
            vec![first.clone(), second.clone()],
            true,
            METADATA,
        ),
        shape(4097, usual, vec![odd.clone(), packed.clone()], false, bare),
        shape(
            33,
            usual,
            vec![tiny.clone(), odd, first, second, packed],
            true,
            METADATA,
        ),
        // It writes a section without data.
        shape(33, "", vec![tiny], false, bare),
    ]
}

fn built_by_theirs(house: &House, shape: &Shape, signer: Option<&Signer>, name: &str) -> PathBuf {
    let kernel: Vec<u8> = (0..shape.kernel).map(|at| (at % 255) as u8).collect();
    let (kernel, metadata) = (
        house.write("kernel", kernel),
        house.write("metadata.json", shape.metadata),
    );
    let image = house.path(name);
    let mut arguments = vec![
        OsStr::new("build"),
        image.as_os_str(),
        kernel.as_os_str(),
        OsStr::new(shape.command_line),
        metadata.as_os_str(),
    ];
    arguments.extend(shape.ramdisks.iter().map(|path| path.as_os_str()));
    if shape.arm64 {
        arguments.push(OsStr::new("--arm64"));
    }
    if let Some(signer) = signer {
        arguments.extend([
            OsStr::new("--sign"),
            signer.key.as_os_str(),
            signer.certificate.as_os_str(),
        ]);
    }
    let measured = must(&arguments);
    let found = ours(&image)["Measurements"].clone();
    assert_eq!(registers(measured), registers(found), "as it was built");
    image
}

#[test]
fn what_they_write_we_read_and_measure_the_same() {
    let house = House::new();
    let algorithms = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ];
    let signers: Vec<Signer> = algorithms
        .iter()
        .enumerate()
        .map(|(index, algorithm)| signer(&house, &format!("signer-{index}"), algorithm))
        .collect();
    for shape in shapes(&house) {
        agree(&built_by_theirs(&house, &shape, None, "unsigned.eif"));
        for signer in &signers {
            let image = built_by_theirs(&house, &shape, Some(signer), "signed.eif");
            agree(&image);
            check_signature(&Image::open(&image).expect("it reads")).expect("it holds");
        }
    }
}

#[test]
fn sections_of_any_size_are_measured_the_same() {
    let house = House::new();
    let mut state = 1u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..24 {
        let ramdisks = (0..=next(27))
            .map(|index| {
                // Around the borders of hash blocks and of what is read at once.
                let border = [0, 128, 4096, 262_144][next(4) as usize];
                let bytes = (border + next(260)) as usize;
                let name = format!("r{round}-{index}");
                house.write(&name, archive("f", bytes))
            })
            .collect();
        let shape = Shape {
            kernel: 1 + next(600_000) as usize,
            command_line: "panic=30",
            ramdisks,
            arm64: next(2) == 1,
            metadata: METADATA,
        };
        agree(&built_by_theirs(&house, &shape, None, "any.eif"));
    }
}

/// The smallest program, with so many bytes behind its header.
fn program(house: &House, name: &str, bytes: usize) -> PathBuf {
    let mut file = vec![0; 120];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, byte) in [
        (16, 3),
        (18, 62),
        (32, 64),
        (54, 56),
        (56, 1),
        (64, 1),
        (96, 120),
    ] {
        file[at] = byte;
    }
    file.extend((0..bytes).map(|at| (at * 7 % 253) as u8));
    house.write(name, file)
}

fn built_by_us(house: &House, kernel: bool, compression: Compression, bytes: usize) -> PathBuf {
    let source = Source::Program {
        file: program(house, "job", bytes),
    };
    let runtime = program(house, "runtime", 5);
    let mut options = BuildOptions::new(source, runtime, house.path("ours.eif"));
    options.compression = Some(compression);
    options.kernel = kernel.then(|| house.write("kernel", vec![7; 12_345]));
    build(&options, &mut |_| ()).expect("an image").path
}

fn sign_with_ours(image: &Path, signer: &Signer, replace: bool, output: &Path) {
    let read = |path: &Path| std::fs::read(path).expect("a file");
    let certificate = SigningCertificate::from_pem(&read(&signer.certificate)).expect("ours");
    let signer = ImageSigner::new(&read(&signer.key), certificate).expect("ours");
    let image = Image::open(image).expect("it reads");
    sign(&image, &signer, replace, output).expect("it is signed");
}

#[test]
fn what_we_write_they_read_and_measure_the_same() {
    let house = House::new();
    let signer = signer(&house, "ours", &rcgen::PKCS_ECDSA_P384_SHA384);
    for kernel in [false, true] {
        for compression in [Compression::None, Compression::Gzip] {
            for bytes in [0, 1, 262_137, 700_000] {
                let image = built_by_us(&house, kernel, compression, bytes);
                agree(&image);
                let signed = house.path("signed.eif");
                sign_with_ours(&image, &signer, false, &signed);
                agree(&signed);
                let theirs = theirs(&signed);
                assert_eq!(theirs["SignatureCheck"], true);
                assert_eq!(theirs["Verdict"], Value::Null);
            }
        }
    }
}

fn verify_image(house: &House, image: &Path) -> (Option<i32>, String) {
    let output = house.run(Who::Owner, [OsStr::new("verify-image"), image.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

#[test]
fn signatures_hold_both_ways() {
    let house = House::new();
    let one = signer(&house, "one", &rcgen::PKCS_ECDSA_P384_SHA384);
    let two = signer(&house, "two", &rcgen::PKCS_ECDSA_P384_SHA384);

    // They sign what we wrote.
    let image = built_by_us(&house, true, Compression::Gzip, 1000);
    let arguments = [&one.key, &one.certificate].map(|path| path.as_os_str());
    must(&[
        OsStr::new("sign"),
        image.as_os_str(),
        arguments[0],
        arguments[1],
    ]);
    agree(&image);
    assert_eq!(verify_image(&house, &image).0, Some(0));

    // We replace their signature.
    let replaced = house.path("replaced.eif");
    sign_with_ours(&image, &two, true, &replaced);
    agree(&replaced);
    assert_eq!(verify_image(&house, &replaced).0, Some(0));
    assert_ne!(
        ours(&image)["Measurements"]["PCR8"],
        ours(&replaced)["Measurements"]["PCR8"]
    );

    // We sign what they wrote.
    for shape in shapes(&house) {
        let image = built_by_theirs(&house, &shape, None, "theirs.eif");
        let signed = house.path("theirs-signed.eif");
        sign_with_ours(&image, &one, false, &signed);
        agree(&signed);
        assert_eq!(theirs(&signed)["Verdict"], Value::Null);
        assert_eq!(verify_image(&house, &signed).0, Some(0));
    }
}

#[test]
fn what_one_refuses_the_other_refuses_too() {
    let house = House::new();
    let shape = &shapes(&house)[0];
    let good = signer(&house, "good", &rcgen::PKCS_ECDSA_P384_SHA384);
    let image = built_by_theirs(&house, shape, Some(&good), "signed.eif");

    // A signature that was changed, under a checksum that holds.
    let mut bytes = std::fs::read(&image).expect("the image");
    // The signature's last byte but two: small, so that it is one byte of the array of numbers that they write.
    let last = bytes.len() - 1;
    bytes[last] = if bytes[last] == 1 { 2 } else { 1 };
    let mut crc = crc32(&bytes[..544], 0xffff_ffff);
    crc = crc32(&bytes[548..], crc);
    bytes[544..548].copy_from_slice(&(crc ^ 0xffff_ffff).to_be_bytes());
    let changed = house.write("changed.eif", &bytes);
    assert!(
        !others(&[OsStr::new("describe"), changed.as_os_str()])
            .status
            .success()
    );
    let read = Image::open(&changed).expect("the checksum holds");
    assert_eq!(check_signature(&read), Err(SignatureFault::Wrong));
    assert_eq!(ours(&changed)["SignatureCheck"], false);
    let (code, said) = verify_image(&house, &changed);
    assert_eq!(code, Some(1), "{said}");

    // A byte that was changed without a checksum to match.
    let mut bytes = std::fs::read(&image).expect("the image");
    bytes[600] ^= 1;
    let damaged = house.write("damaged.eif", &bytes);
    let output = others(&[OsStr::new("describe"), damaged.as_os_str()]);
    // They describe it, and say that the checksum is wrong; the signature is over another image then.
    if output.status.success() {
        let description: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(description["CheckCRC"], false);
        assert_eq!(description["SignatureCheck"], false);
    }
    let error = Image::open(&damaged)
        .expect_err("it is damaged")
        .to_string();
    assert!(error.contains("checksum"), "{error}");

    // A certificate that has expired.
    let old = signer_until(&house, "old", &rcgen::PKCS_ECDSA_P384_SHA384, 2021);
    let image = built_by_theirs(&house, shape, Some(&old), "old.eif");
    agree(&image);
    assert_eq!(
        theirs(&image)["Verdict"],
        "The signing certificate is expired"
    );
    let (code, said) = verify_image(&house, &image);
    assert_eq!(code, Some(1));
    assert!(said.contains("expired on"), "{said}");
}

/// CRC-32 (IEEE 802.3), a bit at a time.
fn crc32(bytes: &[u8], mut crc: u32) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    crc
}

#[test]
fn differences_between_images_of_both_tools_are_told() {
    let house = House::new();
    let image = built_by_us(&house, true, Compression::None, 5000);
    let ours = Image::open(&image).expect("it reads");
    let mut files = Vec::new();
    for (index, section) in ours.sections().iter().enumerate() {
        let mut bytes = Vec::new();
        ours.copy_section(section, &mut bytes).expect("a section");
        files.push(house.write(&format!("section-{index}"), bytes));
    }
    let metadata = house.write("metadata.json", METADATA);
    let line = ours.command_line();
    let by_theirs = |ramdisks: [&Path; 3], name: &str| {
        let output = house.path(name);
        let arguments = [&output, &files[0]].map(|path| path.as_os_str());
        let mut arguments = vec![OsStr::new("build"), arguments[0], arguments[1]];
        arguments.extend([OsStr::new(line), metadata.as_os_str()]);
        arguments.extend(ramdisks.map(Path::as_os_str));
        must(&arguments);
        output
    };
    let diff = |other: &Path| {
        let output = house.run(
            Who::Owner,
            [OsStr::new("diff"), image.as_os_str(), other.as_os_str()],
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };

    let same = by_theirs([&files[3], &files[4], &files[5]], "same.eif");
    let (code, text) = diff(&same);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("build tool: \"anchorhold") && text.contains("nitro-cli 1.4.2"),
        "{text}"
    );

    let job = std::fs::read(&files[4]).expect("a ramdisk");
    let packed = gzipped(&house, "job.cpio", &job);
    let (code, text) = diff(&by_theirs([&files[3], &packed, &files[5]], "packed.eif"));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("PCR2 differs: ramdisk 2, packed differently") && !text.contains("PCR1"),
        "{text}"
    );
    assert!(
        text.contains("one is compressed and the other is not"),
        "{text}"
    );

    let other = house.write("other.cpio", archive("job", 5));
    let (code, text) = diff(&by_theirs([&files[3], &other, &files[5]], "other.eif"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("PCR2 differs: ramdisk 2: job"), "{text}");
    assert!(
        text.contains("/job: content (5120 bytes became 5)"),
        "{text}"
    );
}
