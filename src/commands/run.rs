//! `anchorhold run`: starts an enclave and returns once it serves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anchorhold_images::Unmeasured;
use anchorhold_manifest::{MANIFEST_PATH, Manifest};
use anchorhold_parent::daemon::ApiClient;
use anchorhold_parent::daemon::view::RunRequest;
use anchorhold_parent::lifecycle::{
    Home, RunError, State, SuperviseOptions, SupervisorProgram, spawn, supervise,
};
use anchorhold_parent::window::{
    Allowlist, CredentialsSource, LARGEST_SECRET, Pattern, SecretSource, Target,
};
use anchorhold_parent::{Backend, Isolation};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};

use crate::files::{self, file_in};
use crate::key_service::pair;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold run cards.eif --name cards --secret tokenization-key=key.sealed\n  \
    anchorhold run cards.eif --attach\n\n\
    The enclave may reach the key service that its measured manifest names, through this host, and nothing \
    else but what both --allow and the manifest name. It is handed the AWS credentials of this environment, or of \
    --credentials, to sign its requests with; what they may do is the key policy's.\n\n\
    The sandbox and qemu backends protect against a careless or compromised job, not against whoever controls \
    this host. Only Nitro hardware does that.")]
pub(crate) struct Arguments {
    /// The image
    image: PathBuf,
    /// A name for the enclave; default: from the image
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where to run it
    #[arg(long, value_enum, default_value_t = BackendArgument::Auto)]
    backend: BackendArgument,
    /// Memory; default: the manifest's
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..))]
    memory: Option<u32>,
    /// Processors; default: the manifest's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpus: Option<u32>,
    /// Debug mode: the job's stderr is shown, and the measurements are zero, so that no key policy is met
    #[arg(long)]
    debug: bool,
    /// Stay in the foreground with the enclave's console, and end with its exit code
    #[arg(long)]
    attach: bool,
    /// Hand in a secret, sealed by `anchorhold seal --secret NAME`; may be given several times
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    secret: Vec<(String, String)>,
    /// Let the enclave reach this as well, where its manifest names it too: host:port, *.example.com:443 or
    /// 10.0.0.0/8:443; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    allow: Vec<Pattern>,
    /// Let the enclave reach nothing, not even the key service that its manifest names
    #[arg(long, conflicts_with = "allow")]
    allow_nothing: bool,
    /// Where the AWS credentials come from that the enclave is handed: environment, profile, profile:NAME, file:PATH (JSON),
    /// container, imds, auto (the first of these, as AWS's SDKs look for them) or nothing
    #[arg(long, value_name = "SOURCE", default_value = "environment")]
    credentials: CredentialsSource,
    /// `reduced` is for containers that forbid user namespaces: as root, with less around the enclave
    #[arg(long, value_enum, default_value_t = IsolationArgument::Namespaces)]
    isolation: IsolationArgument,
    /// Record all that this host carries for the enclave into a folder
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum BackendArgument {
    /// The best that this machine has: nitro on a host of Nitro enclaves, else qemu for an image with a kernel where there is
    /// QEMU 10.1, else sandbox
    Auto,
    /// An enclave of AWS's hypervisor: needs an EC2 instance with enclaves enabled. The one backend that protects against
    /// whoever controls this host
    Nitro,
    /// A virtual machine: needs a kernel in the image, and QEMU 10.1 or later
    Qemu,
    /// A confined process
    Sandbox,
}

#[derive(Clone, Copy, ValueEnum)]
enum IsolationArgument {
    /// User, mount, process, network, IPC and host name namespaces of its own
    Namespaces,
    /// chroot, Landlock, seccomp and a changed user alone
    Reduced,
}

/// A kernel boots first, and where it is emulated on a busy machine that takes its time.
const VIRTUAL_MACHINE_START_LIMIT_MS: u64 = 180_000;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (options, why) = options(arguments)?;
    if let Some(why) = &why {
        eprintln!("anchorhold: backend {} ({why})", options.backend);
    }
    let targets: Vec<String> = options.allowlist.iter().map(ToString::to_string).collect();
    let reach = if targets.is_empty() {
        "nothing".to_owned()
    } else {
        targets.join(", ")
    };
    if arguments.attach {
        eprintln!(
            "anchorhold: backend {}; the enclave may reach {reach}",
            options.backend
        );
        let ended = supervise(&options, std::io::stdout())?;
        eprintln!("anchorhold: {} ended: {}", ended.state.name, ended.reason);
        return Ok(ExitCode::from(ended.exit_code()));
    }
    if let Some(daemon) = ApiClient::find(&options.home)? {
        let request = request_of(&options)?;
        let state: State =
            super::block_on(async { Ok(daemon.post("/v1/enclaves", &request).await?) })?;
        print_serving(&state, &reach);
        return Ok(ExitCode::SUCCESS);
    }
    match spawn(&options, &SupervisorProgram::own()?) {
        Ok(serving) => {
            print_serving(&serving.state, &reach);
            Ok(ExitCode::SUCCESS)
        }
        // A job that runs once may be done before anybody could call it.
        Err(RunError::Ended {
            code: Some(0),
            state,
            ..
        }) => {
            println!("{} ran and ended with exit code 0", state.name);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}

/// The same for a daemon, which has neither this environment nor this folder.
fn request_of(options: &SuperviseOptions) -> anyhow::Result<RunRequest> {
    let mut secrets = BTreeMap::new();
    for (name, source) in &options.secrets {
        let bytes = match source {
            SecretSource::Path(path) => files::read_bounded(path, LARGEST_SECRET as u64)
                .with_context(|| format!("--secret {name}"))?,
            SecretSource::Bytes(bytes) => bytes.clone(),
        };
        secrets.insert(name.clone(), STANDARD.encode(bytes));
    }
    let absolute = |path: &PathBuf| std::path::absolute(path);
    let credentials_from = match &options.credentials {
        CredentialsSource::Environment | CredentialsSource::Nothing => None,
        CredentialsSource::File(path) => Some(format!("file:{}", absolute(path)?.display())),
        CredentialsSource::Profile(Some(name)) => Some(format!("profile:{name}")),
        CredentialsSource::Profile(None) => Some("profile".to_owned()),
        CredentialsSource::Container => Some("container".to_owned()),
        CredentialsSource::Imds => Some("imds".to_owned()),
        CredentialsSource::Auto => Some("auto".to_owned()),
    };
    let from_environment = options.credentials == CredentialsSource::Environment;
    let credentials = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ]
    .into_iter()
    .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
    .filter(|(_, value)| from_environment && !value.is_empty())
    .collect();
    Ok(RunRequest {
        image: std::path::absolute(&options.image)?,
        name: options.name.clone(),
        backend: options.backend,
        isolation: matches!(options.isolation, Isolation::Reduced).then(|| "reduced".to_owned()),
        memory_mib: options.memory_mib,
        cpus: options.cpus,
        debug: options.debug,
        egress: options.allowlist.iter().map(ToString::to_string).collect(),
        secrets,
        credentials,
        credentials_from,
        record: options
            .record
            .as_ref()
            .map(std::path::absolute)
            .transpose()?,
        start_limit_ms: Some(options.start_limit_ms),
    })
}

fn print_serving(state: &State, reach: &str) {
    println!(
        "{} serves (CID {}, backend {}, {})",
        state.name, state.cid, state.backend, state.isolation
    );
    println!("  may reach  {reach}");
    for limit in &state.limits {
        println!("  limit      {limit}");
    }
    if state.debug {
        println!("  DEBUG MODE: measurements are zero, and no key policy is met");
    }
}

/// What the arguments and the image's manifest ask for, and why it is the backend that it is, where that was chosen here.
fn options(arguments: &Arguments) -> anyhow::Result<(SuperviseOptions, Option<String>)> {
    let image = Unmeasured::open(&arguments.image)
        .with_context(|| format!("cannot run {}", arguments.image.display()))?;
    // It only says what this host is asked to let through. The supervisor measures the whole image before anything of it runs.
    let manifest = file_in(&image.ramdisks(), MANIFEST_PATH)
        .and_then(|text| text.map(|text| Ok(Manifest::parse(&text)?)).transpose())
        .with_context(|| format!("cannot run {}", arguments.image.display()))?;

    let mut allowlist = Allowlist::nothing();
    let reach = manifest.as_ref().map(Manifest::reach);
    for pattern in &arguments.allow {
        if let (Some(reach), Pattern::Exact(target)) = (&reach, pattern) {
            anyhow::ensure!(
                reach.permits(target),
                "--allow {target}: the image's measured manifest does not permit it; name it in [egress] and build the image again"
            );
        }
        allowlist.allow(pattern.clone());
    }
    let key_service = manifest
        .as_ref()
        .and_then(|manifest| manifest.key_service.as_ref());
    if let (Some(service), false) = (key_service, arguments.allow_nothing) {
        let authority = service.authority();
        let target: Target = authority.parse().with_context(|| {
            format!("the manifest's key service {authority} cannot be a target")
        })?;
        allowlist.allow(target);
    }

    let mut secrets = BTreeMap::new();
    for (name, file) in &arguments.secret {
        let known = manifest
            .as_ref()
            .is_some_and(|manifest| manifest.secrets.contains_key(name));
        anyhow::ensure!(
            known,
            "--secret {name}: the image's manifest has no [secrets.{name}]"
        );
        let earlier = secrets.insert(name.clone(), SecretSource::Path(file.into()));
        anyhow::ensure!(earlier.is_none(), "--secret {name} is given twice");
    }

    let mut options = SuperviseOptions::new(Home::from_environment()?, &arguments.image);
    options.name.clone_from(&arguments.name);
    options.memory_mib = arguments.memory;
    options.cpus = arguments.cpus;
    options.debug = arguments.debug;
    let mut why = None;
    options.backend = match arguments.backend {
        BackendArgument::Nitro => Backend::Nitro,
        BackendArgument::Qemu => Backend::Qemu,
        BackendArgument::Sandbox => Backend::Sandbox,
        BackendArgument::Auto => {
            let (backend, reason) = Backend::best_for(&image)
                .with_context(|| format!("cannot run {}", arguments.image.display()))?;
            why = Some(reason);
            backend
        }
    };
    if options.backend != Backend::Sandbox {
        options.start_limit_ms = VIRTUAL_MACHINE_START_LIMIT_MS;
    }
    options.isolation = match arguments.isolation {
        IsolationArgument::Namespaces => Isolation::Namespaces,
        IsolationArgument::Reduced => Isolation::Reduced,
    };
    options.allowlist = allowlist;
    options.credentials.clone_from(&arguments.credentials);
    options.secrets = secrets;
    options.record.clone_from(&arguments.record);
    Ok((options, why))
}
