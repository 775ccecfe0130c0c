//! What a case has to tell a verifier, under the names that placeholders and the environment use.
//! Decides which of it a verifier must be able to take before it can be asked.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anchorhold_corpus::{Arguments, Case, JudgeAt, Verdict};
use jiff::Timestamp;

/// One thing that a verifier can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Case,
    Document,
    Anchor,
    AnchorDer,
    JudgeAt,
    At,
    AtSeconds,
    AtMs,
    MaxAgeSeconds,
    MaxAgeMs,
    MaxSkewSeconds,
    MaxSkewMs,
    /// One register.
    Pcr(u8),
    /// Any value of any register, as `INDEX=HEX`.
    AnyPcr,
    /// A register of which no value is allowed: its index.
    NoValue,
    Nonce,
    UserData,
    PublicKey,
    ModuleId,
    AnyImage,
    AllowDebug,
    IgnoreUnknownKeys,
}

/// All but the 32 registers.
const NAMES: [(Name, &str); 21] = [
    (Name::Case, "case"),
    (Name::Document, "document"),
    (Name::Anchor, "anchor"),
    (Name::AnchorDer, "anchor-der"),
    (Name::JudgeAt, "judge-at"),
    (Name::At, "at"),
    (Name::AtSeconds, "at-seconds"),
    (Name::AtMs, "at-ms"),
    (Name::MaxAgeSeconds, "max-age-seconds"),
    (Name::MaxAgeMs, "max-age-ms"),
    (Name::MaxSkewSeconds, "max-skew-seconds"),
    (Name::MaxSkewMs, "max-skew-ms"),
    (Name::AnyPcr, "pcr"),
    (Name::NoValue, "no-value"),
    (Name::Nonce, "nonce"),
    (Name::UserData, "user-data"),
    (Name::PublicKey, "public-key"),
    (Name::ModuleId, "module-id"),
    (Name::AnyImage, "any-image"),
    (Name::AllowDebug, "allow-debug"),
    (Name::IgnoreUnknownKeys, "ignore-unknown-keys"),
];

impl Name {
    /// Every name, registers too.
    pub(crate) fn all() -> impl Iterator<Item = Name> {
        NAMES
            .iter()
            .map(|(name, _)| *name)
            .chain((0..32).map(Name::Pcr))
    }

    /// `ANCHORHOLD_` and the name.
    pub(crate) fn variable(self) -> String {
        format!(
            "ANCHORHOLD_{}",
            self.to_string().to_ascii_uppercase().replace('-', "_")
        )
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Name::Pcr(index) = self {
            return write!(f, "pcr{index}");
        }
        let name = NAMES.iter().find(|(name, _)| name == self);
        f.write_str(name.map_or("", |(_, text)| text))
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        Name::all()
            .find(|name| name.to_string() == text)
            .ok_or_else(|| {
                let names: Vec<&str> = NAMES.iter().map(|(_, text)| *text).collect();
                format!(
                    "{text:?} is no name of something that a case says; there are {}, and pcr0 to \
                     pcr31",
                    names.join(", ")
                )
            })
    }
}

/// Where a case's document and anchors were written.
pub(crate) struct Files {
    pub(crate) document: PathBuf,
    /// PEM and DER, in the case's order.
    pub(crate) anchors: Vec<(PathBuf, PathBuf)>,
}

/// A case's values of a name: none, one or several.
pub(crate) fn values(case: &Case, files: &Files, name: Name) -> Vec<String> {
    let arguments = &case.arguments;
    let path = |path: &PathBuf| path.display().to_string();
    let one = |value: Option<String>| value.into_iter().collect();
    let hex = |bytes: &Option<Vec<u8>>| one(bytes.as_ref().map(hex::encode));
    let flag = |set: bool| one(set.then(|| "yes".to_owned()));
    let instant = match arguments.judge_at {
        JudgeAt::Document => None,
        JudgeAt::Instant(ms) => Some(ms),
    };
    let seconds = |ms: Option<u64>| {
        one(ms
            .filter(|ms| ms % 1000 == 0)
            .map(|ms| (ms / 1000).to_string()))
    };
    let milliseconds = |ms: Option<u64>| one(ms.map(|ms| ms.to_string()));
    let max_age = arguments.freshness.map(|freshness| freshness.max_age_ms);
    let max_skew = arguments.freshness.map(|freshness| freshness.max_skew_ms);
    match name {
        Name::Case => vec![case.name.clone()],
        Name::Document => vec![path(&files.document)],
        Name::Anchor => files.anchors.iter().map(|(pem, _)| path(pem)).collect(),
        Name::AnchorDer => files.anchors.iter().map(|(_, der)| path(der)).collect(),
        Name::JudgeAt => vec![instant.map_or_else(|| "document".to_owned(), rfc3339)],
        Name::At => one(instant.map(rfc3339)),
        Name::AtSeconds => seconds(instant),
        Name::AtMs => milliseconds(instant),
        Name::MaxAgeSeconds => seconds(max_age),
        Name::MaxAgeMs => milliseconds(max_age),
        Name::MaxSkewSeconds => seconds(max_skew),
        Name::MaxSkewMs => milliseconds(max_skew),
        Name::Pcr(index) => arguments
            .pcrs
            .get(&index)
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect(),
        Name::AnyPcr => arguments
            .pcrs
            .iter()
            .flat_map(|(index, allowed)| {
                allowed.iter().map(move |value| format!("{index}={value}"))
            })
            .collect(),
        Name::NoValue => arguments
            .pcrs
            .iter()
            .filter(|(_, allowed)| allowed.is_empty())
            .map(|(index, _)| index.to_string())
            .collect(),
        Name::Nonce => hex(&arguments.nonce),
        Name::UserData => hex(&arguments.user_data),
        Name::PublicKey => hex(&arguments.public_key),
        Name::ModuleId => one(arguments.module_id.clone()),
        Name::AnyImage => flag(arguments.any_image),
        Name::AllowDebug => flag(arguments.allow_debug),
        Name::IgnoreUnknownKeys => flag(arguments.ignore_unknown_keys),
    }
}

fn rfc3339(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}

/// The root that a verifier trusts if it is told of none.
const AWS: &str = "aws-nitro-g1";

/// What a verifier must be able to take so that the case can be put to it: of each line, one.
pub(crate) fn needs(case: &Case, files: &Files) -> Vec<Vec<Name>> {
    let arguments = &case.arguments;
    // A form counts where it can say what the case says.
    let sayable = |names: &[Name]| -> Vec<Name> {
        names
            .iter()
            .copied()
            .filter(|name| !values(case, files, *name).is_empty())
            .collect()
    };
    let mut needs = Vec::new();
    if arguments.anchors != [AWS] {
        needs.push(vec![Name::Anchor, Name::AnchorDer]);
    }
    needs.push(sayable(&[
        Name::JudgeAt,
        Name::At,
        Name::AtSeconds,
        Name::AtMs,
    ]));
    if arguments.freshness.is_some() {
        needs.push(sayable(&[Name::MaxAgeSeconds, Name::MaxAgeMs]));
        needs.push(sayable(&[Name::MaxSkewSeconds, Name::MaxSkewMs]));
    }
    for (index, allowed) in &arguments.pcrs {
        needs.push(if allowed.is_empty() {
            vec![Name::NoValue]
        } else {
            vec![Name::Pcr(*index), Name::AnyPcr]
        });
    }
    for (wanted, name) in [
        (arguments.nonce.is_some(), Name::Nonce),
        (arguments.user_data.is_some(), Name::UserData),
        (arguments.public_key.is_some(), Name::PublicKey),
        (arguments.module_id.is_some(), Name::ModuleId),
        (expects_no_image(arguments), Name::AnyImage),
        (
            arguments.allow_debug || is_about_debug(case),
            Name::AllowDebug,
        ),
        (arguments.ignore_unknown_keys, Name::IgnoreUnknownKeys),
    ] {
        if wanted {
            needs.push(vec![name]);
        }
    }
    needs
}

/// The case is whether a verifier insists that an image is expected, or that any is allowed aloud: one
/// that knows no such word cannot be asked.
fn expects_no_image(arguments: &Arguments) -> bool {
    let image = [0, 1, 2, 8];
    !arguments.any_image && !image.iter().any(|index| arguments.pcrs.contains_key(index))
}

/// The case is whether a verifier refuses debug mode unless it is allowed: one that leaves registers to
/// its caller cannot be asked.
fn is_about_debug(case: &Case) -> bool {
    matches!(&case.verdict, Verdict::Refuse(names) if names.contains("debug"))
}

/// Why a verifier that takes these cannot be asked; `None` where it can.
pub(crate) fn lacking(case: &Case, files: &Files, takes: &BTreeSet<Name>) -> Option<String> {
    needs(case, files)
        .into_iter()
        .find(|alternatives| !alternatives.iter().any(|name| takes.contains(name)))
        .map(|alternatives| {
            let names: Vec<String> = alternatives
                .iter()
                .map(|name| format!("{{{name}}}"))
                .collect();
            format!("the command takes no {}", names.join(" or "))
        })
}
