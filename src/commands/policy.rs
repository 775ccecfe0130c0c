//! `anchorhold policy`: a key policy that admits one image alone.

use std::path::{Path, PathBuf};

use anchorhold_attestation::Anchor;
use anchorhold_images::{Image, KeyPolicy, Measurements};
use anyhow::Context as _;
use clap::Args;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold policy cards.eif --principal arn:aws:iam::111122223333:user/host \\\n      \
        --owner arn:aws:iam::111122223333:user/owner > policy.json\n  \
    anchorhold kms create-key --alias alias/cards --policy policy.json\n  \
    anchorhold policy cards-v2.eif --roll-over cards.eif --owner ... > policy.json\n  \
    anchorhold policy cards.eif --anchor ~/.local/state/anchorhold/development-root/root.pem --owner ...\n\n\
    Without --anchor only documents of real Nitro hardware count. For the sandbox and for virtual machines the \
    policy must name the development root that signs for them.\n\n\
    The statements say which measurements may use the key, and that whoever runs the enclave can use \
    it in no other way. Who administers it, and who seals and opens as its owner, is said by --owner; \
    without that, add such a statement yourself, or the key service refuses the policy because it \
    would lock everybody out.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// Who may ask on the enclave's behalf: the ARN of the host's user or role; default: anyone who brings a matching document
    #[arg(long, value_name = "ARN")]
    principal: Option<String>,
    /// Add a statement that lets this ARN administer the key, seal and open
    #[arg(long, value_name = "ARN")]
    owner: Option<String>,
    /// Nobody seals or opens outside of the image, the owner neither: for keys whose data never leaves, such as custody's
    #[arg(long)]
    inside_only: bool,
    /// Admit this older image as well, until all enclaves run the new one
    #[arg(long, value_name = "IMAGE")]
    roll_over: Vec<PathBuf>,
    /// Name the image's signer (PCR8) instead of the image: whatever that certificate signs is admitted
    #[arg(long)]
    signer: bool,
    /// Documents under this root count, in place of AWS's: its certificate (PEM), or its SHA-256 fingerprint; may be repeated
    #[arg(long, value_name = "FILE|FINGERPRINT")]
    anchor: Vec<String>,
    /// Print a Terraform data source instead of JSON
    #[arg(long)]
    terraform: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut images = Vec::new();
    for path in std::iter::once(&arguments.image).chain(&arguments.roll_over) {
        let image =
            Image::open(path).with_context(|| format!("cannot measure {}", path.display()))?;
        if arguments.signer {
            // A policy for a signer rests on the signature; one that is wrong must not become a policy.
            anchorhold_images::trust::check_signature(&image)
                .with_context(|| format!("{} cannot stand for its signer", path.display()))?;
        }
        images.push(*image.measurements());
    }
    let policy = KeyPolicy {
        images,
        by_signer: arguments.signer,
        principal: arguments.principal.clone(),
        owner: arguments.owner.clone(),
        inside_only: arguments.inside_only,
        anchors: fingerprints(&arguments.anchor)?,
    };
    if arguments.terraform {
        print!("{}", policy.terraform("anchorhold")?);
    } else {
        println!("{:#}", policy.document()?);
    }
    if arguments.principal.is_none() && arguments.owner.is_none() {
        eprintln!(
            "Note: without --principal or --owner the policy denies nothing outside of enclaves."
        );
    }
    Ok(())
}

/// A whole key policy for one image.
pub(crate) fn key_policy(
    measurements: &Measurements,
    principal: Option<&str>,
    owner: Option<&str>,
    anchor: &Anchor,
) -> anyhow::Result<serde_json::Value> {
    let policy = KeyPolicy {
        images: vec![*measurements],
        by_signer: false,
        principal: principal.map(str::to_owned),
        owner: owner.map(str::to_owned),
        inside_only: false,
        anchors: vec![anchor.fingerprint()],
    };
    Ok(policy.document()?)
}

/// The fingerprints that `--anchor` names, by themselves or by their certificates.
pub(crate) fn fingerprints(anchors: &[String]) -> anyhow::Result<Vec<[u8; 32]>> {
    anchors.iter().map(|anchor| fingerprint(anchor)).collect()
}

fn fingerprint(anchor: &str) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex::decode_to_slice(anchor, &mut bytes).is_ok() {
        return Ok(bytes);
    }
    let pem = std::fs::read_to_string(Path::new(anchor)).with_context(|| {
        format!("--anchor {anchor} is neither a fingerprint (64 hexadecimal digits) nor a file that can be read")
    })?;
    let anchor =
        Anchor::from_pem(&pem).with_context(|| format!("{anchor} is not a usable anchor"))?;
    Ok(anchor.fingerprint())
}
