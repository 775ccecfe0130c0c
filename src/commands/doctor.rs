//! `anchorhold doctor`: what this host has of what a start needs, and what to do where it has not.

use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anchorhold_images::Image;
use anchorhold_manifest::{KEY_SERVICE_CA_PATH, KeyService, Manifest};
use anchorhold_parent::Backend;
use anchorhold_parent::doctor::{self, Finding, Verdict, Wanted};
use anchorhold_parent::window::{Credentials, CredentialsSource, Described};
use anyhow::Context as _;
use clap::Args;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::run::BackendArgument;
use crate::files::file_in;

/// For one connection.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold doctor                 # which backends work here\n  \
    anchorhold doctor cards.eif       # and whether this image can be started, and its key service reached\n\n\
    Exit code 0: the backend (or with `auto`, one of them) works; 1: it does not.")]
pub(crate) struct Arguments {
    /// An image that is to be started
    image: Option<PathBuf>,
    /// The backend that has to work
    #[arg(long, value_enum, default_value_t = BackendArgument::Auto)]
    backend: BackendArgument,
    /// Where the AWS credentials are to come from, as in `run`
    #[arg(long, value_name = "SOURCE", default_value = "environment")]
    credentials: CredentialsSource,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let image = match &arguments.image {
        None => None,
        Some(path) => {
            let cannot = || format!("cannot look at {}", path.display());
            let image = Image::open(path).with_context(cannot)?;
            let manifest = image.manifest().with_context(cannot)?;
            Some((image, manifest))
        }
    };
    let wanted = match &image {
        None => None,
        Some((image, manifest)) => Some(wanted(image, manifest.as_ref(), None, None)?),
    };
    let mut findings = doctor::host(wanted);
    findings.extend(doctor::of_nitro(Path::new("/sys"), wanted));
    findings.extend(doctor::of_qemu(wanted));
    findings.extend(doctor::of_sandbox());
    let service = image
        .as_ref()
        .and_then(|(_, manifest)| manifest.as_ref()?.key_service.as_ref());
    if let (Some(service), Some((image, _))) = (service, &image) {
        let ca = file_in(&image.ramdisks(), KEY_SERVICE_CA_PATH)?;
        findings.push(key_service(service, ca.as_deref()));
        findings.push(credentials(&arguments.credentials));
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        let mut out = std::io::stdout().lock();
        for finding in &findings {
            let about = finding
                .backend
                .map_or_else(|| "host".to_owned(), |backend| backend.to_string());
            writeln!(
                out,
                "{:<5} {about:<8} {}: {}",
                finding.verdict, finding.subject, finding.said
            )?;
        }
    }
    let backends = [Backend::Nitro, Backend::Qemu, Backend::Sandbox];
    let works = |backend| doctor::works(backend, &findings);
    let is_well = match arguments.backend {
        BackendArgument::Auto => backends.into_iter().any(works),
        BackendArgument::Nitro => works(Backend::Nitro),
        BackendArgument::Qemu => works(Backend::Qemu),
        BackendArgument::Sandbox => works(Backend::Sandbox),
    };
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What an enclave from this image would need.
pub(super) fn wanted(
    image: &Image,
    manifest: Option<&Manifest>,
    memory: Option<u32>,
    cpus: Option<u32>,
) -> anyhow::Result<Wanted> {
    let resources = manifest.map(|manifest| &manifest.resources);
    Ok(Wanted {
        memory_mib: memory
            .or(resources.map(|resources| resources.memory_mib))
            .unwrap_or(anchorhold_parent::DEFAULT_MEMORY_MIB),
        cpus: cpus
            .or(resources.map(|resources| resources.cpus))
            .unwrap_or(anchorhold_parent::DEFAULT_CPUS),
        image_bytes: image.size(),
        has_kernel: image.has_kernel()?,
    })
}

/// Whether the key service answers from here, as the enclave's window would reach it, under the CA that the image pins.
fn key_service(service: &KeyService, ca: Option<&str>) -> Finding {
    let authority = service.authority();
    match reach(service, ca) {
        Ok(said) => Finding::of_host("key service", Verdict::Good, format!("{authority} {said}")),
        Err(error) => Finding::of_host(
            "key service",
            Verdict::Bad,
            format!("{authority}: {error:#}; the enclave will not get its keys"),
        ),
    }
}

fn reach(service: &KeyService, ca: Option<&str>) -> anyhow::Result<String> {
    let authority = service.authority();
    let addresses: Vec<_> = authority
        .to_socket_addrs()
        .context("its name cannot be resolved")?
        .collect();
    let mut failed = None;
    let mut connected = None;
    for address in &addresses {
        match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => failed = Some(error),
        }
    }
    let Some(mut stream) = connected else {
        let error =
            failed.map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
        anyhow::bail!("it cannot be reached ({error})");
    };
    if service.endpoint.starts_with("http://") {
        return Ok("can be reached, without TLS".to_owned());
    }
    let Some(ca) = ca else {
        return Ok(
            "can be reached; its certificate is judged by the public authorities".to_owned(),
        );
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.context("the image's CA cannot be read")?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    while connection.is_handshaking() {
        connection
            .complete_io(&mut stream)
            .context("its certificate is not good under the CA that the image pins")?;
    }
    Ok("answers with a certificate under the CA that the image pins".to_owned())
}

/// Asks the source as a window would.
fn described(source: &CredentialsSource) -> anyhow::Result<Option<Described>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let credentials = Credentials::open(source)?;
    Ok(runtime.block_on(credentials.describe())?)
}

/// The credentials that `run` would hand in.
fn credentials(source: &CredentialsSource) -> Finding {
    let finding = |verdict, said: String| Finding::of_host("credentials", verdict, said);
    if *source != CredentialsSource::Environment {
        return match described(source) {
            Ok(None) => finding(
                Verdict::Bad,
                "there are none, and the enclave signs its requests with them".to_owned(),
            ),
            Ok(Some(Described {
                from,
                expires: None,
            })) => finding(Verdict::Good, format!("come from {from}")),
            Ok(Some(Described {
                from,
                expires: Some(at),
            })) if at <= jiff::Timestamp::now() => {
                finding(Verdict::Bad, format!("of {from} expired at {at}"))
            }
            Ok(Some(Described {
                from,
                expires: Some(at),
            })) => finding(
                Verdict::Good,
                format!("come from {from}, expire at {at}, and are fetched anew before"),
            ),
            Err(error) => finding(Verdict::Bad, format!("{error:#}")),
        };
    }
    let set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    if !set("AWS_ACCESS_KEY_ID") || !set("AWS_SECRET_ACCESS_KEY") {
        return finding(
            Verdict::Bad,
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and the enclave signs its requests with them"
                .to_owned(),
        );
    }
    // Set by what exports temporary credentials, such as `aws configure export-credentials`.
    match std::env::var("AWS_CREDENTIAL_EXPIRATION") {
        Err(_) => finding(Verdict::Good, "are in the environment".to_owned()),
        Ok(until) => match until.parse::<jiff::Timestamp>() {
            Ok(time) if time <= jiff::Timestamp::now() => {
                finding(Verdict::Bad, format!("expired at {until}: get new ones"))
            }
            Ok(_) => finding(
                Verdict::Note,
                format!("expire at {until}, and a running enclave keeps them"),
            ),
            Err(_) => finding(
                Verdict::Note,
                format!("AWS_CREDENTIAL_EXPIRATION is no time: {until:?}"),
            ),
        },
    }
}
