//! `anchorhold policy`: a key policy that admits one image alone.

use std::path::PathBuf;

use anchorhold_images::{Image, Measurements, PolicyRegisters, key_policy_statements};
use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold policy cards.eif --principal arn:aws:iam::111122223333:user/host \\\n      \
        --owner arn:aws:iam::111122223333:user/owner > policy.json\n  \
    anchorhold kms create-key --alias alias/cards --policy policy.json\n\n\
    The statements say which measurements may use the key. Who administers it, and who seals and \
    opens as its owner, is said by --owner; without that, add such a statement yourself, or the key \
    service refuses the policy because it would lock everybody out.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// Who may ask on the enclave's behalf: the ARN of the host's user or role; default: anyone who brings a matching document
    #[arg(long, value_name = "ARN")]
    principal: Option<String>,
    /// Add a statement that lets this ARN administer the key, seal and open
    #[arg(long, value_name = "ARN")]
    owner: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let image = Image::open(&arguments.image)
        .with_context(|| format!("cannot measure {}", arguments.image.display()))?;
    let policy = key_policy(
        image.measurements(),
        arguments.principal.as_deref(),
        arguments.owner.as_deref(),
    );
    println!("{policy:#}");
    Ok(())
}

/// A whole key policy: the measured image's statements, and the owner's.
pub(crate) fn key_policy(
    measurements: &Measurements,
    principal: Option<&str>,
    owner: Option<&str>,
) -> Value {
    let measured = key_policy_statements(measurements, principal, PolicyRegisters::default());
    let mut statements = Vec::new();
    if let Some(owner) = owner {
        statements.push(json!({
            "Sid": "OwnerAdministersSealsAndOpens",
            "Effect": "Allow",
            "Principal": { "AWS": owner },
            "Action": "kms:*",
            "Resource": "*",
        }));
    }
    if let Value::Array(measured) = measured {
        statements.extend(measured);
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}
