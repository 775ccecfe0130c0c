//! `anchorhold verify`: judges an attestation document. Exit code 0: admitted;
//! 1: refused, and why; 2: not something that could be judged.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold_attestation::{Admitted, Anchor, Expectations, Pcr, Time, Unverified};
use anyhow::Context as _;
use base64::Engine as _;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::errors::one_line;
use crate::files;

/// No attestation document is longer: the key service's limit.
const DOCUMENT_LIMIT: u64 = 262_144;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold verify document.cbor --at now --image cards.eif --nonce 00ff\n  \
    anchorhold verify archive.cbor --at document --any-image\n  \
    anchorhold verify document.cbor --at now --image cards.eif --anchor ~/.local/state/anchorhold/development-root/root.pem\n\n\
    Exit code: 0 admitted, 1 refused (and why), 2 unusable input.\n\
    Without --anchor only documents of real Nitro hardware are admitted. Documents of the sandbox \
    backend are signed by this machine's development root: they show that the protocol works, not \
    that anything is protected from this machine.")]
pub(crate) struct Arguments {
    /// The document: raw CBOR, base64 or hex; `-` for standard input
    document: PathBuf,
    /// When to judge it: `now` (and fresh), `document` (its own timestamp, for archives), or an RFC 3339 time
    #[arg(long, value_name = "now|document|RFC3339")]
    at: String,
    /// Expect the measurements of this image
    #[arg(long, value_name = "IMAGE.eif")]
    image: Option<PathBuf>,
    /// Admit any image; must be said aloud when no measurement is expected
    #[arg(long, conflicts_with_all = ["image", "pcr0", "pcr1", "pcr2", "pcr8"])]
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
    /// Expect this nonce
    #[arg(long, value_name = "HEX")]
    nonce: Option<String>,
    /// Expect this user data
    #[arg(long, value_name = "HEX")]
    user_data: Option<String>,
    /// Admit documents of enclaves in debug mode, whose console anyone on the host can read
    #[arg(long)]
    allow_debug: bool,
    /// Root certificate (PEM) to trust instead of AWS's Nitro root; may be given several times
    #[arg(long, value_name = "PEM")]
    anchor: Vec<PathBuf>,
    /// With `--at now`: refuse documents older than this
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    max_age: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

enum Verdict {
    Admitted(Box<Admitted>),
    Refused { reason: String, detail: Value },
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
        Ok(Verdict::Refused { reason, detail }) => {
            if arguments.json {
                println!(
                    "{:#}",
                    json!({ "admitted": false, "reason": reason, "differences": detail })
                );
            } else {
                println!("refused: {reason}");
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
    let bytes = decode(&files::read_bounded(
        &arguments.document,
        4 * DOCUMENT_LIMIT,
    )?);
    let anchors = anchors(&arguments.anchor)?;
    let time = time(&arguments.at, arguments.max_age)?;
    let expectations = expectations(arguments)?;

    let refused = |error: &dyn std::error::Error| Verdict::Refused {
        reason: one_line(error),
        detail: Value::Null,
    };
    let document = match Unverified::parse(&bytes) {
        Ok(document) => document,
        Err(error) if error.is_not_a_document() => {
            let name = arguments.document.display();
            return Err(error).with_context(|| format!("{name} is not an attestation document"));
        }
        Err(error) => return Ok(refused(&error)),
    };
    let verified = match document.verify(&anchors, time) {
        Ok(verified) => verified,
        Err(error) => return Ok(refused(&error)),
    };
    Ok(match verified.admit(&expectations) {
        Ok(admitted) => Verdict::Admitted(Box::new(admitted)),
        Err(refusal) => Verdict::Refused {
            reason: refusal.to_string(),
            detail: serde_json::to_value(&*refusal).unwrap_or(Value::Null),
        },
    })
}

/// Documents start with a byte that neither base64 nor hex text has.
fn decode(bytes: &[u8]) -> Vec<u8> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let compact: String = text.split_whitespace().collect();
        if let Ok(decoded) = hex::decode(&compact) {
            return decoded;
        }
        for engine in [
            &base64::engine::general_purpose::STANDARD,
            &base64::engine::general_purpose::URL_SAFE,
            &base64::engine::general_purpose::STANDARD_NO_PAD,
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        ] {
            if let Ok(decoded) = engine.decode(&compact) {
                return decoded;
            }
        }
    }
    bytes.to_vec()
}

fn anchors(files: &[PathBuf]) -> anyhow::Result<Vec<Anchor>> {
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

fn time(at: &str, max_age_seconds: u64) -> anyhow::Result<Time> {
    Ok(match at {
        "now" => Time::Now {
            now_ms: milliseconds(SystemTime::now()),
            max_age_ms: max_age_seconds.saturating_mul(1000),
            max_skew_ms: 60_000,
        },
        "document" => Time::Document,
        text => {
            let timestamp: jiff::Timestamp = text.parse().with_context(|| {
                format!(
                    "--at takes now, document, or a time such as 2026-01-31T12:00:00Z, not {text:?}"
                )
            })?;
            let milliseconds = timestamp.as_millisecond();
            Time::At(u64::try_from(milliseconds).context("--at lies before 1970")?)
        }
    })
}

fn expectations(arguments: &Arguments) -> anyhow::Result<Expectations> {
    let mut expectations = Expectations::new();
    let mut measured = false;
    let mut values: [(u8, Vec<Pcr>); 6] = [
        (0, arguments.pcr0.clone()),
        (1, arguments.pcr1.clone()),
        (2, arguments.pcr2.clone()),
        (3, arguments.pcr3.clone()),
        (4, arguments.pcr4.clone()),
        (8, arguments.pcr8.clone()),
    ];
    if let Some(path) = &arguments.image {
        let image = anchorhold_images::Image::open(path)
            .with_context(|| format!("cannot measure {}", path.display()))?;
        let measurements = image.measurements();
        for (index, expected) in [
            (0, Some(measurements.pcr0)),
            (1, Some(measurements.pcr1)),
            (2, Some(measurements.pcr2)),
            (8, measurements.pcr8),
        ] {
            let slot = values.iter_mut().find(|(pcr, _)| *pcr == index);
            if let (Some(expected), Some((_, allowed))) = (expected, slot) {
                anyhow::ensure!(
                    allowed.is_empty(),
                    "--image and --pcr{index} both say what PCR{index} is to be: give one of them"
                );
                allowed.push(expected);
            }
        }
    }
    for (index, allowed) in values {
        if !allowed.is_empty() {
            measured = true;
            expectations = expectations.pcr(index, allowed);
        }
    }
    if arguments.any_image {
        expectations = expectations.any_image();
    } else if !measured {
        anyhow::bail!(
            "no measurement is expected: name an --image or a --pcr0, or say --any-image to admit every image"
        );
    }
    if let Some(nonce) = &arguments.nonce {
        expectations = expectations.nonce(&hex::decode(nonce).context("--nonce is not hex")?);
    }
    if let Some(data) = &arguments.user_data {
        expectations =
            expectations.user_data(&hex::decode(data).context("--user-data is not hex")?);
    }
    Ok(expectations.allow_debug(arguments.allow_debug))
}

fn when(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || format!("{milliseconds} ms after 1970"),
            |time| time.to_string(),
        )
}

fn print_for_people(document: &Admitted) {
    println!("admitted");
    println!("  enclave      {}", document.module_id());
    println!("  signed at    {}", when(document.timestamp_ms()));
    println!(
        "  anchor       {}",
        hex::encode(document.anchor_fingerprint())
    );
    if document.is_debug() {
        println!("  DEBUG MODE   its memory and console are open to the host");
    }
    for (index, value) in document.pcrs() {
        if !value.is_zero() {
            println!("  PCR{index:<9} {value}");
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
        "debug": document.is_debug(),
        "anchor_sha256": hex::encode(document.anchor_fingerprint()),
        "pcrs": pcrs,
        "nonce": document.nonce().map(hex::encode),
        "user_data": document.user_data().map(hex::encode),
        "public_key": document.public_key().map(hex::encode),
    })
}
