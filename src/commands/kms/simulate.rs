//! `anchorhold kms simulate`: what the service would decide on policies and a document, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anchorhold_attestation::Anchor;
use anchorhold_kms::policy::{IdentityPolicy, Kind, Permissions, Policy, Principal};
use anchorhold_kms::simulation::{self, Simulation, Verdict};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{read_policy, trace};
use crate::documents;
use crate::errors::one_line;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold kms simulate --policy policy.json --action kms:Decrypt \\\n      \
        --principal arn:aws:iam::111122223333:user/host --document document.cbor \\\n      \
        --anchor ~/.local/state/anchorhold/development-root/root.pem\n  \
    anchorhold kms simulate --identity-policy own.json --action kms:CreateKey\n\n\
    The service's own engine decides; nothing is asked and no key is touched. The request is supposed to \
    come from 127.0.0.1, by TLS; --condition KEY=VALUE supposes something else.\n\
    Exit code 0: allowed; 1: denied (and why); 2: unusable input.")]
pub(crate) struct Arguments {
    /// The key policy; leave out for actions that have no key
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A policy of the principal; may be repeated
    #[arg(long, value_name = "FILE")]
    identity_policy: Vec<PathBuf>,
    /// The principal's permissions boundary
    #[arg(long, value_name = "FILE")]
    permissions_boundary: Option<PathBuf>,
    /// A policy of the role's session; may be repeated
    #[arg(long, value_name = "FILE")]
    session_policy: Vec<PathBuf>,
    /// A grant on the key (JSON, as CreateGrant takes it or ListGrants shows it); may be repeated
    #[arg(long, value_name = "FILE")]
    grant: Vec<PathBuf>,
    /// The attestation document that comes with the request
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// The root of the document, beside AWS's: its certificate (PEM); may be repeated
    #[arg(long, value_name = "FILE")]
    anchor: Vec<PathBuf>,
    /// How old the document may be, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    max_document_age: u32,
    /// The action, such as kms:Decrypt
    #[arg(long, value_name = "ACTION")]
    action: String,
    /// Who asks
    #[arg(
        long,
        value_name = "ARN",
        default_value = "arn:aws:iam::111122223333:user/owner"
    )]
    principal: String,
    /// The key's ARN
    #[arg(
        long,
        value_name = "ARN",
        default_value = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000"
    )]
    key: String,
    /// A pair of the encryption context; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// A tag of the principal; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    tag: Vec<(String, String)>,
    /// Another condition key, such as kms:RequestAlias=alias/cards; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    condition: Vec<(String, String)>,
    /// When, such as 2026-01-01T00:00:00Z; default: now
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give a key and a value, such as purpose=tokens".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match simulation(arguments) {
        Ok(simulation) => {
            let verdict = simulation.run();
            if arguments.json {
                println!("{:#}", verdict.as_json());
            } else {
                print!("{}", in_words(&verdict));
            }
            if verdict.is_allowed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        Err(error) => {
            eprintln!("anchorhold: {}", one_line(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn in_words(verdict: &Verdict) -> String {
    let word = if verdict.is_allowed() {
        "allowed"
    } else {
        "denied"
    };
    let mut text = format!("{word}: {}\n", trace::clean(verdict.reason()));
    if let Verdict::Decided {
        decision, message, ..
    } = verdict
    {
        if !decision.is_allowed() {
            let _ = writeln!(text, "the caller would read: {}", trace::clean(message));
        }
        text.push_str(&trace::in_words(&json!(decision.trace())));
    }
    text
}

fn simulation(arguments: &Arguments) -> anyhow::Result<Simulation> {
    let principal = Principal::from_arn(&arguments.principal).with_context(|| {
        format!(
            "--principal {} is not the ARN of a root user, a user or a role's session",
            arguments.principal
        )
    })?;
    let has_key = arguments.policy.is_some();
    let key_account = arguments.key.split(':').nth(4).unwrap_or_default();
    anyhow::ensure!(
        arguments.key.starts_with("arn:") && key_account.len() == 12,
        "--key {} is not a key's ARN",
        arguments.key
    );
    anyhow::ensure!(
        arguments.action.starts_with("kms:"),
        "--action {} must begin with kms:, such as kms:Decrypt",
        arguments.action
    );
    anyhow::ensure!(
        has_key || arguments.grant.is_empty(),
        "--grant needs the --policy of the key that it is on"
    );
    let key_policy = arguments
        .policy
        .as_deref()
        .map(|path| parsed(path, Kind::Key))
        .transpose()?;
    let own = |paths: &[PathBuf]| -> anyhow::Result<Vec<IdentityPolicy>> {
        paths.iter().map(|path| identity_policy(path)).collect()
    };
    let boundary = arguments.permissions_boundary.as_deref();
    let grants = arguments.grant.iter().map(|path| {
        let text = read_policy(path)?;
        simulation::grant(&text, key_account).with_context(|| path.display().to_string())
    });
    let anchors = arguments.anchor.iter().map(|path| {
        let pem = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the anchor {}", path.display()))?;
        Anchor::from_pem(&pem).with_context(|| format!("{} is not a usable anchor", path.display()))
    });
    Ok(Simulation {
        principal,
        tags: arguments.tag.iter().cloned().collect(),
        action: arguments.action.clone(),
        resource: if has_key {
            arguments.key.clone()
        } else {
            "*".to_owned()
        },
        key_policy,
        permissions: Permissions {
            policies: own(&arguments.identity_policy)?,
            boundary: boundary.map(identity_policy).transpose()?,
            session: own(&arguments.session_policy)?,
        },
        grants: grants.collect::<anyhow::Result<_>>()?,
        encryption_context: arguments
            .context
            .iter()
            .cloned()
            .collect::<BTreeMap<_, _>>(),
        document: arguments
            .document
            .as_deref()
            .map(documents::read)
            .transpose()?,
        anchors: anchors.collect::<anyhow::Result<_>>()?,
        max_document_age: Duration::from_secs(u64::from(arguments.max_document_age)),
        at: arguments.at.map_or_else(SystemTime::now, SystemTime::from),
        conditions: arguments.condition.clone(),
    })
}

fn parsed(path: &Path, kind: Kind) -> anyhow::Result<Policy> {
    Policy::parse(&read_policy(path)?, kind).with_context(|| path.display().to_string())
}

fn identity_policy(path: &Path) -> anyhow::Result<IdentityPolicy> {
    Ok(IdentityPolicy {
        name: path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
        policy: parsed(path, Kind::Identity)?,
    })
}
