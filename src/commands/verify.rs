//! `anchorhold verify`: judges an attestation document. Exit code 0: admitted;
//! 1: refused, and why; 2: not something that could be judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold_attestation::{
    Admitted, Anchor, Difference, Expectations, PCR_COUNT, ParseError, Pcr, Refusal, Time,
    UnknownKeys, Unverified, VerifyError,
};
use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};

use crate::documents::{self, when};
use crate::errors::one_line;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold verify document.cbor --image cards.eif --nonce 00ff\n  \
    anchorhold verify archive.cbor --at document --any-image\n  \
    anchorhold verify document.cbor --image cards.eif --anchor ~/.local/state/anchorhold/development-root/root.pem\n\n\
    Exit code: 0 admitted, 1 refused (and why), 2 unusable input.\n\
    Without --anchor only documents of real Nitro hardware are admitted. Documents of the sandbox \
    backend are signed by this machine's development root: they show that the protocol works, not \
    that anything is protected from this machine.")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub(crate) struct Arguments {
    /// The document: raw CBOR, base64 or hex; `-` for standard input
    document: PathBuf,
    /// When to judge it: `now` (and fresh), `document` (its own timestamp, for archives), or an RFC 3339 time
    #[arg(long, value_name = "now|document|RFC3339", default_value = "now")]
    at: String,
    /// Expect the measurements of this image
    #[arg(long, value_name = "IMAGE.eif")]
    image: Option<PathBuf>,
    /// Admit any image; must be said aloud when no measurement is expected
    #[arg(long, conflicts_with_all = ["image", "pcr0", "pcr1", "pcr2", "pcr8", "signed_by"])]
    any_image: bool,
    /// Expect this PCR0 (hex); several: any of them
    #[arg(long, value_name = "HEX")]
    pcr0: Vec<Pcr>,
    /// Expect this PCR1 (hex)
    #[arg(long, value_name = "HEX")]
    pcr1: Vec<Pcr>,
    /// Expect this PCR2 (hex)
    #[arg(long, value_name = "HEX")]
    pcr2: Vec<Pcr>,
    /// Expect this PCR3 (hex)
    #[arg(long, value_name = "HEX")]
    pcr3: Vec<Pcr>,
    /// Expect this PCR4 (hex)
    #[arg(long, value_name = "HEX")]
    pcr4: Vec<Pcr>,
    /// Expect this PCR8 (hex)
    #[arg(long, value_name = "HEX")]
    pcr8: Vec<Pcr>,
    /// Expect this value of any other PCR, such as those from 16 on, which the job extends; several
    /// for one index: any of them
    #[arg(long, value_name = "INDEX=HEX", value_parser = indexed)]
    pcr: Vec<(u8, Pcr)>,
    /// Expect an image signed with this certificate (PEM), which is PCR8
    #[arg(long, value_name = "CERTIFICATE.pem", conflicts_with = "pcr8")]
    signed_by: Option<PathBuf>,
    /// Expect an instance with this IAM role, which is PCR3
    #[arg(long, value_name = "ARN", conflicts_with = "pcr3")]
    role: Option<String>,
    /// Expect this instance, which is PCR4
    #[arg(long, value_name = "i-…", conflicts_with = "pcr4")]
    instance: Option<String>,
    /// Expect this name of the enclave
    #[arg(long, value_name = "i-…-enc…")]
    module_id: Option<String>,
    /// Expect this nonce
    #[arg(long, value_name = "HEX", value_parser = from_hex)]
    nonce: Option<Bytes>,
    /// Expect this user data
    #[arg(long, value_name = "HEX", value_parser = from_hex)]
    user_data: Option<Bytes>,
    /// Expect this public key
    #[arg(long, value_name = "HEX", value_parser = from_hex)]
    public_key: Option<Bytes>,
    /// Admit documents of enclaves in debug mode, whose console anyone on the host can read
    #[arg(long)]
    allow_debug: bool,
    /// Root certificate (PEM) to trust instead of AWS's Nitro root; may be given several times
    #[arg(long, value_name = "PEM")]
    anchor: Vec<PathBuf>,
    /// Refuse documents older than this at the time asked about [default with `--at now`: 300]
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
    /// With a maximum age: how far a document may lie in the future, for clocks that disagree
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    max_skew: u64,
    /// Ignore keys in the document that this version does not know, rather than refuse it
    #[arg(long)]
    allow_unknown_keys: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Bytes that were given as hex.
#[derive(Clone)]
struct Bytes(Vec<u8>);

fn from_hex(text: &str) -> Result<Bytes, String> {
    hex::decode(text)
        .map(Bytes)
        .map_err(|error| format!("not hexadecimal digits: {error}"))
}

fn indexed(text: &str) -> Result<(u8, Pcr), String> {
    let (index, value) = text
        .split_once('=')
        .ok_or("give an index and a value, such as 16=00ff…")?;
    match index.parse() {
        Ok(index) if index < PCR_COUNT => {
            let value = value.parse().map_err(|error| format!("{error}"))?;
            Ok((index, value))
        }
        _ => Err(format!("{index:?} is no PCR's index: they are 0 to 31")),
    }
}

enum Verdict {
    Admitted(Box<Admitted>),
    Refused(Box<Refused>),
}

/// Why a document is refused, and at which of the three steps.
enum Refused {
    Form(ParseError),
    Truth(VerifyError),
    Policy(Refusal),
}

impl Refused {
    fn as_json(&self) -> Value {
        let (names, reason) = match self {
            Refused::Form(error) => (vec![error.name()], error.to_string()),
            Refused::Truth(error) => (vec![error.name()], one_line(error)),
            Refused::Policy(refusal) => (
                refusal.differences.iter().map(Difference::name).collect(),
                refusal.to_string(),
            ),
        };
        let mut value = json!({ "admitted": false, "refused_for": names, "reason": reason });
        match self {
            Refused::Form(error) => {
                value["field"] = error.field().to_string().into();
                value["offset"] = error.offset().into();
            }
            Refused::Truth(_) => {}
            Refused::Policy(refusal) => {
                value["module_id"] = json!(refusal.module_id);
                value["timestamp_ms"] = json!(refusal.timestamp_ms);
                value["differences"] = json!(refusal.differences);
            }
        }
        value
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Form(error) => error.fmt(f),
            Refused::Truth(error) => f.write_str(&one_line(error)),
            Refused::Policy(refusal) => refusal.fmt(f),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match judge(arguments) {
        Ok(Verdict::Admitted(document)) => {
            if arguments.json {
                println!("{:#}", as_json(&document));
            } else {
                print_for_people(&document);
            }
            ExitCode::SUCCESS
        }
        Ok(Verdict::Refused(refused)) => {
            if arguments.json {
                println!("{:#}", refused.as_json());
            } else {
                println!("refused: {refused}");
            }
            ExitCode::from(1)
        }
        Err(error) => {
            if arguments.json {
                println!(
                    "{:#}",
                    json!({ "admitted": false, "unusable": one_line(error.as_ref()) })
                );
            }
            eprintln!("anchorhold: {}", one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn judge(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let bytes = documents::read(&arguments.document)?;
    let anchors = anchors(&arguments.anchor)?;
    let time = time(arguments)?;
    let expectations = expectations(arguments)?;

    let refused = |refused| Ok(Verdict::Refused(Box::new(refused)));
    let unknown = if arguments.allow_unknown_keys {
        UnknownKeys::Ignore
    } else {
        UnknownKeys::Refuse
    };
    let document = match Unverified::parse_with(&bytes, unknown) {
        Ok(document) => document,
        Err(error) if error.is_not_a_document() => {
            let name = arguments.document.display();
            return Err(error).with_context(|| format!("{name} is not an attestation document"));
        }
        Err(error) => return refused(Refused::Form(error)),
    };
    let verified = match document.verify(&anchors, time) {
        Ok(verified) => verified,
        Err(error) => return refused(Refused::Truth(error)),
    };
    match verified.admit(&expectations) {
        Ok(admitted) => Ok(Verdict::Admitted(Box::new(admitted))),
        Err(refusal) => refused(Refused::Policy(*refusal)),
    }
}

/// The roots that were named, or AWS's alone.
pub(super) fn anchors(files: &[PathBuf]) -> anyhow::Result<Vec<Anchor>> {
    if files.is_empty() {
        return Ok(vec![Anchor::aws_nitro()]);
    }
    files.iter().map(|file| anchor(file)).collect()
}

fn anchor(file: &Path) -> anyhow::Result<Anchor> {
    let pem = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the anchor {}", file.display()))?;
    Anchor::from_pem(&pem).with_context(|| format!("{} is not a usable anchor", file.display()))
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_millis()
        .try_into()
        .unwrap_or(u64::MAX)
}

fn time(arguments: &Arguments) -> anyhow::Result<Time> {
    let fresh = |now_ms, max_age_seconds: u64| Time::Now {
        now_ms,
        max_age_ms: max_age_seconds.saturating_mul(1000),
        max_skew_ms: arguments.max_skew.saturating_mul(1000),
    };
    Ok(match (arguments.at.as_str(), arguments.max_age) {
        ("now", max_age) => fresh(milliseconds(SystemTime::now()), max_age.unwrap_or(300)),
        ("document", None) => Time::Document,
        ("document", Some(_)) => anyhow::bail!(
            "--max-age says nothing at the document's own time, at which it is 0 seconds old; \
             leave it out, or say --at now"
        ),
        (text, max_age) => {
            let timestamp: jiff::Timestamp = text.parse().with_context(|| {
                format!(
                    "--at takes now, document, or a time such as 2026-01-31T12:00:00Z, not {text:?}"
                )
            })?;
            let at_ms =
                u64::try_from(timestamp.as_millisecond()).context("--at lies before 1970")?;
            max_age.map_or(Time::At(at_ms), |max_age| fresh(at_ms, max_age))
        }
    })
}

fn expectations(arguments: &Arguments) -> anyhow::Result<Expectations> {
    let mut allowed: BTreeMap<u8, Vec<Pcr>> = BTreeMap::new();
    for (index, values) in [
        (0, &arguments.pcr0),
        (1, &arguments.pcr1),
        (2, &arguments.pcr2),
        (3, &arguments.pcr3),
        (4, &arguments.pcr4),
        (8, &arguments.pcr8),
    ] {
        if !values.is_empty() {
            allowed.insert(index, values.clone());
        }
    }
    for (index, value) in &arguments.pcr {
        allowed.entry(*index).or_default().push(*value);
    }

    let mut expectations = Expectations::new();
    if let Some(path) = &arguments.image {
        for (index, expected) in measurements(path)? {
            anyhow::ensure!(
                !allowed.contains_key(&index),
                "--image and --pcr{index} both say what PCR{index} is to be: give one of them"
            );
            expectations = expectations.pcr(index, [expected]);
        }
    }
    if let Some(path) = &arguments.signed_by {
        expectations = expectations.signed_by(&signing_certificate(path)?);
    }
    let measured = arguments.image.is_some()
        || arguments.signed_by.is_some()
        || [0, 1, 2, 8].iter().any(|index| allowed.contains_key(index));
    for (index, values) in allowed {
        expectations = expectations.pcr(index, values);
    }
    if arguments.any_image {
        expectations = expectations.any_image();
    } else if !measured {
        anyhow::bail!(
            "no measurement is expected: name an --image or a --pcr0, or say --any-image to admit every image"
        );
    }
    if let Some(arn) = &arguments.role {
        expectations = expectations.role(arn);
    }
    if let Some(id) = &arguments.instance {
        expectations = expectations.instance(id);
    }
    if let Some(id) = &arguments.module_id {
        expectations = expectations.module_id(id);
    }
    if let Some(nonce) = &arguments.nonce {
        expectations = expectations.nonce(&nonce.0);
    }
    if let Some(data) = &arguments.user_data {
        expectations = expectations.user_data(&data.0);
    }
    if let Some(key) = &arguments.public_key {
        expectations = expectations.public_key(&key.0);
    }
    Ok(expectations.allow_debug(arguments.allow_debug))
}

/// By index, what the registers of an enclave of this image hold.
fn measurements(path: &Path) -> anyhow::Result<Vec<(u8, Pcr)>> {
    let image = anchorhold_images::Image::open(path)
        .with_context(|| format!("cannot measure {}", path.display()))?;
    let measured = image.measurements();
    let mut all = vec![(0, measured.pcr0), (1, measured.pcr1), (2, measured.pcr2)];
    all.extend(measured.pcr8.map(|pcr8| (8, pcr8)));
    Ok(all)
}

/// Expects an enclave of this image besides.
pub(super) fn of_image(path: &Path, expectations: Expectations) -> anyhow::Result<Expectations> {
    Ok(measurements(path)?
        .into_iter()
        .fold(expectations, |expectations, (index, pcr)| {
            expectations.pcr(index, [pcr])
        }))
}

/// The one certificate of a PEM file, as DER.
fn signing_certificate(path: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let mut certificates = CertificateDer::pem_file_iter(path)
        .with_context(|| format!("cannot read the certificate {}", path.display()))?;
    let first = certificates
        .next()
        .with_context(|| format!("{} holds no certificate in PEM", path.display()))?
        .with_context(|| format!("{} is damaged", path.display()))?;
    anyhow::ensure!(
        certificates.next().is_none(),
        "{} holds more than one certificate: give the one that signed the image alone",
        path.display()
    );
    Ok(first)
}

/// What a register measures, in a word or two.
fn meaning(index: u8) -> &'static str {
    match index {
        0 => "the whole image",
        1 => "its kernel and boot ramdisk",
        2 => "its application",
        3 => "the instance's IAM role",
        4 => "the instance",
        8 => "the certificate that signed the image",
        16.. => "extended by the job",
        _ => "",
    }
}

fn print_for_people(document: &Admitted) {
    println!("admitted: the document is genuine, and all that was expected of it holds");
    println!("  enclave      {}", document.module_id());
    println!("  signed at    {}", when(document.timestamp_ms()));
    println!(
        "  valid until  {}",
        when(document.certificate_not_after_ms())
    );
    let anchor = document.anchor_fingerprint();
    println!("  root         {}", hex::encode(anchor));
    if anchor == Anchor::aws_nitro().fingerprint() {
        println!("               AWS's: a Nitro enclave on real hardware");
    } else {
        println!("               one that --anchor named, not AWS's: no word about hardware");
    }
    if document.is_debug() {
        println!(
            "  DEBUG MODE   its memory and console are open to the host, its image not measured"
        );
    }
    for (index, value) in document.pcrs() {
        if !value.is_zero() {
            println!("  PCR{index:<9} {value}");
            if !meaning(index).is_empty() {
                println!("               {}", meaning(index));
            }
        }
    }
    for (name, bytes) in [
        ("nonce", document.nonce()),
        ("user data", document.user_data()),
        ("public key", document.public_key()),
    ] {
        if let Some(bytes) = bytes {
            println!("  {name:<12} {}", hex::encode(bytes));
        }
    }
}

fn as_json(document: &Admitted) -> Value {
    let pcrs: Map<String, Value> = document
        .pcrs()
        .map(|(index, value)| (format!("PCR{index}"), Value::String(value.to_string())))
        .collect();
    json!({
        "admitted": true,
        "module_id": document.module_id(),
        "timestamp_ms": document.timestamp_ms(),
        "timestamp": when(document.timestamp_ms()),
        "valid_until": when(document.certificate_not_after_ms()),
        "debug": document.is_debug(),
        "anchor_sha256": hex::encode(document.anchor_fingerprint()),
        "pcrs": pcrs,
        "nonce": document.nonce().map(hex::encode),
        "user_data": document.user_data().map(hex::encode),
        "public_key": document.public_key().map(hex::encode),
    })
}
