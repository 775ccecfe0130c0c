//! `anchorhold kms`: the key service, and the few requests to it that a first
//! try needs. Any AWS client can make the others.

mod audit;
mod backup;
mod bench;
mod explain;
mod rewrap;
mod simulate;
mod trace;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anchorhold_kms::{Config, Running, Service, config};
use anchorhold_kms_wire::shapes::{CreateAliasRequest, CreateKeyRequest, PutKeyPolicyRequest};
use anchorhold_parent::lifecycle::Home;
use anchorhold_simulator::DevelopmentRoot;
use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::files;
use crate::key_service::EndpointArguments;

/// AWS's limit for a key policy is 32 KiB.
const POLICY_LIMIT: u64 = 32 * 1024;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the key service
    Serve(ServeArguments),
    /// Make a key and print its ARN
    CreateKey(CreateKeyArguments),
    /// Replace a key's policy
    PutKeyPolicy(PutKeyPolicyArguments),
    /// Back up the store of a running key service
    Backup(backup::BackupArguments),
    /// Restore a backup into an empty folder
    Restore(backup::RestoreArguments),
    /// Give the store another root key
    Rewrap(rewrap::Arguments),
    /// Measure what the key service manages on this machine
    Bench(bench::Arguments),
    /// Say why a request was allowed or refused, from the audit log
    Explain(explain::Arguments),
    /// Say what would be allowed or refused, and why
    Simulate(simulate::Arguments),
    /// Check the audit log
    #[command(subcommand)]
    Audit(audit::Command),
}

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold kms serve --dev --listen 127.0.0.1:8443\n\n\
    --dev is for tests and laptops: account 111122223333, Region us-east-1, and two users whose \
    credentials are published:\n    \
    owner  AKIDANCHORHOLDOWNER0  anchorhold-owner-secret-for-development-only  (may do all)\n    \
    host   AKIDANCHORHOLDHOST00  anchorhold-host-secret-for-development-only   (may do what key policies say)\n  \
    It trusts AWS's Nitro root and this machine's development root, which signs for the sandbox backend.\n\
    A key of that root's enclaves needs a policy that names it: anchorhold policy --anchor.\n\
    With --config the service trusts AWS's root alone unless the file names another.")]
pub(crate) struct ServeArguments {
    /// One account with published credentials, for tests
    #[arg(long, conflicts_with = "config", required_unless_present = "config")]
    dev: bool,
    /// The configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Without TLS, on loopback only: for clients that cannot be given a CA. Enclaves refuse it
    #[arg(long)]
    plain_http: bool,
    /// With --dev: the folder for keys, certificates and the audit log
    #[arg(long, value_name = "DIR", requires = "dev")]
    state: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Example:\n  \
    anchorhold policy cards.eif --owner arn:aws:iam::111122223333:user/owner > policy.json\n  \
    anchorhold kms create-key --alias alias/cards --policy policy.json")]
pub(crate) struct CreateKeyArguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
    /// The key policy (JSON); `-` for standard input; default: the account's identity policies decide
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Name the key
    #[arg(long, value_name = "alias/NAME")]
    alias: Option<String>,
    /// What the key is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  anchorhold kms put-key-policy --key alias/cards --policy policy.json"
)]
pub(crate) struct PutKeyPolicyArguments {
    #[command(flatten)]
    endpoint: EndpointArguments,
    /// The key: id or ARN
    #[arg(long, value_name = "KEY")]
    key: String,
    /// The key policy (JSON); `-` for standard input
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
}

impl Command {
    /// Whether it reads and prints, and nothing else.
    pub(crate) fn only_prints(&self) -> bool {
        matches!(self, Self::Explain(_) | Self::Simulate(_) | Self::Audit(_))
    }
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve(&arguments)?,
        Command::CreateKey(arguments) => super::block_on(create_key(&arguments))?,
        Command::PutKeyPolicy(arguments) => super::block_on(put_key_policy(&arguments))?,
        Command::Backup(arguments) => backup::backup(&arguments)?,
        Command::Restore(arguments) => backup::restore(&arguments)?,
        Command::Rewrap(arguments) => rewrap::run(&arguments)?,
        Command::Bench(arguments) => bench::run(&arguments)?,
        Command::Explain(arguments) => explain::run(&arguments)?,
        Command::Simulate(arguments) => return Ok(simulate::run(&arguments)),
        Command::Audit(command) => return Ok(audit::run(&command)),
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(arguments: &ServeArguments) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ANCHORHOLD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let mut config = match &arguments.config {
        Some(file) => Config::from_file(file)?,
        None => dev_config(arguments.state.as_deref())?,
    };
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    if arguments.plain_http {
        config.transport = config::Transport::PlainHttp;
    }
    let state = config.state.clone();
    let development = config.transport == config::Transport::DevelopmentTls;
    let dev = arguments.dev;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot start")?
        .block_on(Service::serve(config, |running| {
            println!("listening on {}", running.url());
            println!("state in {}", state.display());
            println!("audit log {}", state.join("audit.ndjson").display());
            if let Some(monitor) = running.monitor_addr() {
                println!("health and metrics on http://{monitor}");
            }
            if development {
                println!("CA {}", state.join("ca.pem").display());
            }
            if dev {
                print!("{}", exports(running, &state, development));
            }
            if dev {
                println!(
                    "development preset: anybody who reaches this port may use its published credentials"
                );
            }
        }))?;
    Ok(())
}

/// The state folder named, or that of the development preset.
fn state_folder(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(named) => Ok(named.to_owned()),
        None => Ok(Home::from_environment()?.state()?.join("kms")),
    }
}

/// The lines that a shell reads to be the preset's owner.
fn exports(running: &Running, state: &Path, development_tls: bool) -> String {
    let mut lines = vec![
        format!("export AWS_ENDPOINT_URL_KMS={}", running.url()),
        format!("export AWS_REGION={}", config::DEV_REGION),
        format!(
            "export AWS_ACCESS_KEY_ID={}",
            config::DEV_OWNER_ACCESS_KEY_ID
        ),
        format!(
            "export AWS_SECRET_ACCESS_KEY={}",
            config::DEV_OWNER_SECRET_ACCESS_KEY
        ),
    ];
    if development_tls {
        lines.insert(
            1,
            format!("export AWS_CA_BUNDLE='{}'", state.join("ca.pem").display()),
        );
    }
    lines.join("\n") + "\n"
}

/// The development preset, with this machine's development root beside AWS's.
fn dev_config(state: Option<&Path>) -> anyhow::Result<Config> {
    let home = Home::from_environment()?;
    let default = state_folder(None)?;
    let root = DevelopmentRoot::load_or_create(&home.development_root())?;
    Ok(Config::dev(state.unwrap_or(&default), vec![root.anchor()]))
}

fn read_policy(path: &Path) -> anyhow::Result<String> {
    let bytes = files::read_bounded(path, POLICY_LIMIT)?;
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))
}

async fn create_key(arguments: &CreateKeyArguments) -> anyhow::Result<()> {
    let client = arguments.endpoint.client(None)?;
    let policy = arguments.policy.as_deref().map(read_policy).transpose()?;
    let created = client
        .call(&CreateKeyRequest {
            policy,
            description: arguments.description.clone(),
            ..CreateKeyRequest::default()
        })
        .await
        .context("the key was not made")?;
    let metadata = created.key_metadata;
    if let Some(alias) = &arguments.alias {
        client
            .call(&CreateAliasRequest {
                alias_name: alias.clone(),
                target_key_id: metadata.key_id.clone(),
            })
            .await
            .with_context(|| format!("{} was made, but not named {alias}", metadata.key_id))?;
    }
    println!("{}", metadata.arn.unwrap_or(metadata.key_id));
    Ok(())
}

async fn put_key_policy(arguments: &PutKeyPolicyArguments) -> anyhow::Result<()> {
    let client = arguments.endpoint.client(Some(&arguments.key))?;
    client
        .call(&PutKeyPolicyRequest {
            key_id: arguments.key.clone(),
            policy: read_policy(&arguments.policy)?,
            ..PutKeyPolicyRequest::default()
        })
        .await
        .with_context(|| format!("the policy of {} was not replaced", arguments.key))?;
    Ok(())
}
