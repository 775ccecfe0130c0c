//! `anchorhold kms bench`: what the key service manages on this machine, in one run: each figure beside the
//! peer or the bare computation that it is to be compared with.
//!
//! The service runs as a process of its own, on loopback, with signatures, policies and the audit log on, as
//! always. Requests are signed before the clock starts; the generator shares the machine. Nothing here fails
//! on a figure.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anchorhold_attestation::{Anchor, Pcr, Time, Unverified, Verifier};
use anchorhold_kms::config::{
    DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY, DEV_OWNER_ACCESS_KEY_ID,
    DEV_OWNER_SECRET_ACCESS_KEY, DEV_REGION,
};
use anchorhold_kms_wire::client::{Client, Endpoint, Fixed, Tcp, TlsTrust};
use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_kms_wire::shapes::{
    self, Blob, CreateKeyRequest, DecryptRequest, EncryptRequest, EncryptionContext, Operation,
    RecipientInfo, SecretBlob,
};
use anchorhold_kms_wire::sigv4::{Credentials, sign};
use anchorhold_parent::lifecycle::Home;
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use anyhow::Context as _;
use aws_nitro_enclaves_nsm_api::api::{Request as NsmRequest, Response as NsmResponse};
use base64::Engine as _;
use clap::Args;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_bytes::ByteBuf;
use serde_json::json;
use zeroize::Zeroizing;

use crate::load::{self, Measured, Target, Until};

/// Different ciphertexts that are decrypted in turn.
const CIPHERTEXTS: usize = 64;

#[derive(Args)]
#[command(after_help = "Example:\n  \
    python3 -m venv /tmp/moto && /tmp/moto/bin/pip install 'moto[server,kms]'\n  \
    anchorhold kms bench --moto /tmp/moto")]
pub(crate) struct Arguments {
    /// Connections that decrypt
    #[arg(long, value_name = "N", default_value_t = 8)]
    connections: usize,
    /// Connections that make keys
    #[arg(long, value_name = "N", default_value_t = 64)]
    key_connections: usize,
    /// How long each figure is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    /// A virtual environment with `moto_server`, to be measured beside it
    #[arg(long, value_name = "DIR")]
    moto: Option<PathBuf>,
    /// Attestation documents, each used once; 0: none
    #[arg(long, value_name = "N", default_value_t = 6000)]
    documents: u64,
    /// Requests over which the service's memory is watched; 0: none
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    requests: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.connections > 0 && arguments.key_connections > 0 && arguments.seconds > 0,
        "connections and seconds must not be zero"
    );
    let mut report = Report::new(arguments.json);
    let duration = Until::Elapsed(Duration::from_secs(arguments.seconds));

    let peer = match &arguments.moto {
        None => None,
        Some(folder) => Some(moto(folder, arguments.connections, duration)?),
    };
    if let Some(peer) = &peer {
        report.measured("Decrypt, moto_server, plain HTTP", peer);
    }
    for is_tls in [false, true] {
        let service = Keeper::start(is_tls)?;
        let transport = if is_tls { "TLS" } else { "plain HTTP" };
        let requests = service.decrypt_requests()?;
        load::run(
            &service.target,
            arguments.connections,
            &requests,
            Until::Elapsed(Duration::from_secs(1)),
        )?;
        let measured = load::run(&service.target, arguments.connections, &requests, duration)?;
        report.measured(&format!("Decrypt, {transport}"), &measured);
        if let Some(peer) = &peer {
            report.ratio(
                &format!("Decrypt, {transport}, to moto_server"),
                measured.per_second() / peer.per_second(),
            );
        }
        if arguments.documents > 0 {
            let (raw, attested) = attested(&service, arguments)?;
            report.figure(
                &format!("verifications alone, all cores ({transport} run)"),
                raw,
            );
            report.measured(
                &format!("Decrypt with a new document each, {transport}"),
                &attested,
            );
            report.ratio(
                &format!("Decrypt with a document, {transport}, to verifications alone"),
                attested.per_second() / raw,
            );
        }
        let create = service.signed(&CreateKeyRequest::default(), &owner())?;
        let created = load::run(
            &service.target,
            arguments.key_connections,
            &[create],
            duration,
        )?;
        report.measured(&format!("CreateKey, durable, {transport}"), &created);
        if !is_tls && arguments.requests > 0 {
            memory(&service, arguments, &requests, &mut report)?;
        }
    }
    report.end()
}

/// Memory after a tenth of the requests, and after all of them.
fn memory(
    service: &Keeper,
    arguments: &Arguments,
    requests: &[Vec<u8>],
    report: &mut Report,
) -> anyhow::Result<()> {
    let tenth = (arguments.requests / 10).max(1);
    let go = |answers| {
        load::run(
            &service.target,
            arguments.connections,
            requests,
            Until::Answered(answers),
        )
    };
    go(tenth)?;
    let early = service.resident_kib()?;
    // Signatures are good for five minutes, which the whole would exceed on a slow machine.
    let mut left = arguments.requests - tenth;
    while left > 0 {
        let part = left.min(tenth);
        let fresh = service.decrypt_requests()?;
        load::run(
            &service.target,
            arguments.connections,
            &fresh,
            Until::Answered(part),
        )?;
        left -= part;
    }
    let late = service.resident_kib()?;
    report.memory(arguments.requests, early, late);
    Ok(())
}

/// Documents verified per second by the library alone, its chain remembered, on all cores; and requests that
/// bring one each.
fn attested(service: &Keeper, arguments: &Arguments) -> anyhow::Result<(f64, Measured)> {
    let root = DevelopmentRoot::load_or_create(&service.home.development_root())?;
    let recipient = RecipientKey::generate().map_err(|error| anyhow::anyhow!("{error}"))?;
    let pcr0 = Pcr::from_bytes([0xab; 48]);
    let documents = documents(&root, pcr0, recipient.public_key_der(), arguments.documents)?;
    let raw = verifications(&root.anchor(), &documents)?;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[
        {{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/owner"}},"Action":"kms:*","Resource":"*"}},
        {{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::111122223333:user/host"}},"Action":"kms:Decrypt","Resource":"*",
         "Condition":{{"StringEquals":{{"kms:RecipientAttestation:PCR0":"{pcr0}","anchorhold:Anchor":"{}"}}}}}}]}}"#,
        hex::encode(root.fingerprint())
    );
    let context = EncryptionContext::from([("purpose".to_owned(), "bench".to_owned())]);
    let ciphertext = service.block_on(async {
        let client = service.client()?;
        let created = client
            .call(&CreateKeyRequest {
                policy: Some(policy),
                ..CreateKeyRequest::default()
            })
            .await?;
        encrypt(&client, &created.key_metadata.key_id, &context).await
    })?;
    let host = Credentials::new(
        DEV_HOST_ACCESS_KEY_ID,
        Zeroizing::new(DEV_HOST_SECRET_ACCESS_KEY.to_owned()),
    );
    let mut requests = Vec::with_capacity(documents.len());
    for document in documents {
        let request = DecryptRequest {
            ciphertext_blob: Some(Blob(ciphertext.clone())),
            encryption_context: context.clone(),
            recipient: Some(RecipientInfo::new(document)),
            ..DecryptRequest::default()
        };
        requests.push(service.signed(&request, &host)?);
    }
    let measured = load::run(
        &service.target,
        arguments.connections,
        &requests,
        Until::Answered(arguments.documents - arguments.connections as u64),
    )?;
    Ok((raw, measured))
}

fn documents(
    root: &DevelopmentRoot,
    pcr0: Pcr,
    public_key: &[u8],
    count: u64,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let config = NsmConfig {
        pcr0,
        pcr1: Pcr::from_bytes([1; 48]),
        pcr2: Pcr::from_bytes([2; 48]),
        ..NsmConfig::default()
    };
    let now = SystemTime::now();
    let nsm = Nsm::new(root, config, now)?;
    let threads = u64::try_from(cores())?;
    let parts: Vec<anyhow::Result<Vec<Vec<u8>>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let nsm = &nsm;
                scope.spawn(move || {
                    (thread..count)
                        .step_by(usize::try_from(threads)?)
                        .map(|number| {
                            let request = NsmRequest::Attestation {
                                user_data: None,
                                nonce: Some(ByteBuf::from(number.to_be_bytes())),
                                public_key: Some(ByteBuf::from(public_key)),
                            };
                            let answer =
                                nsm.handle(&serde_cbor::to_vec(&request)?, SystemTime::now());
                            match serde_cbor::from_slice(&answer)? {
                                NsmResponse::Attestation { document } => Ok(document),
                                other => anyhow::bail!("the simulated NSM answered {other:?}"),
                            }
                        })
                        .collect()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("the thread does not panic"))
            .collect()
    });
    let mut all = Vec::new();
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

fn verifications(anchor: &Anchor, documents: &[Vec<u8>]) -> anyhow::Result<f64> {
    let verifier = Verifier::new(vec![anchor.clone()]).remembering(16);
    let now_ms = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_millis()
        .try_into()?;
    let time = Time::Now {
        now_ms,
        max_age_ms: 600_000,
        max_skew_ms: 60_000,
    };
    let verify = |document: &[u8]| -> anyhow::Result<()> {
        verifier.verify(&Unverified::parse(document)?, time)?;
        Ok(())
    };
    verify(&documents[0])?;
    let began = Instant::now();
    let share = documents.len().div_ceil(cores());
    let outcome: anyhow::Result<()> = std::thread::scope(|scope| {
        let workers: Vec<_> = documents
            .chunks(share)
            .map(|part| scope.spawn(|| part.iter().try_for_each(|document| verify(document))))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("the thread does not panic"))
    });
    outcome?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let count = documents.len() as f64;
    Ok(count / began.elapsed().as_secs_f64())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn owner() -> Credentials {
    Credentials::new(
        DEV_OWNER_ACCESS_KEY_ID,
        Zeroizing::new(DEV_OWNER_SECRET_ACCESS_KEY.to_owned()),
    )
}

async fn encrypt(
    client: &Client<Tcp, Fixed>,
    key: &str,
    context: &EncryptionContext,
) -> anyhow::Result<Vec<u8>> {
    let mut plaintext = Zeroizing::new(vec![0; 32]);
    getrandom(&mut plaintext)?;
    let request = EncryptRequest {
        key_id: key.to_owned(),
        plaintext: SecretBlob::new(plaintext),
        encryption_context: context.clone(),
        ..EncryptRequest::default()
    };
    Ok(client.call(&request).await?.ciphertext_blob.0)
}

fn getrandom(bytes: &mut [u8]) -> anyhow::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)?;
    Ok(())
}

/// A key service under load: a process, and where it is.
struct Keeper {
    process: Child,
    home: Home,
    endpoint: Endpoint,
    target: Target,
    runtime: tokio::runtime::Runtime,
    // Last, so that it outlives the process.
    _folder: tempfile::TempDir,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Keeper {
    fn start(is_tls: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let home = Home::at(folder.path())?;
        // Made before, so that the service has it among its anchors.
        DevelopmentRoot::load_or_create(&home.development_root())?;
        let state = folder.path().join("kms");
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([
                "kms",
                "serve",
                "--dev",
                "--listen",
                "127.0.0.1:0",
                "--state",
            ])
            .arg(&state)
            .env("ANCHORHOLD_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if !is_tls {
            command.arg("--plain-http");
        }
        let mut process = command.spawn().context("the service does not start")?;
        let url = listening(&mut process)?;
        let authority = url.split_once("://").context("no URL")?.1;
        let address: SocketAddr = authority.parse()?;
        let (trust, tls) = if is_tls {
            let path = state.join("ca.pem");
            let pem = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            (TlsTrust::Ca(pem), Some(tls_client(&path)?))
        } else {
            (TlsTrust::PlainHttp, None)
        };
        Ok(Self {
            process,
            home,
            endpoint: Endpoint {
                url,
                region: DEV_REGION.to_owned(),
                tls: trust,
            },
            target: Target { address, tls },
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            _folder: folder,
        })
    }

    fn block_on<T>(&self, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime.block_on(future)
    }

    fn client(&self) -> anyhow::Result<Client<Tcp, Fixed>> {
        Ok(Client::new(&self.endpoint, Tcp, Fixed::new(owner()))?)
    }

    /// A whole HTTP request, signed as of now.
    fn signed<O: Operation>(
        &self,
        operation: &O,
        credentials: &Credentials,
    ) -> anyhow::Result<Vec<u8>> {
        signed(self.target.address, operation, credentials)
    }

    fn decrypt_requests(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let context = EncryptionContext::from([("purpose".to_owned(), "bench".to_owned())]);
        let ciphertexts = self.block_on(async {
            let client = self.client()?;
            let created = client.call(&CreateKeyRequest::default()).await?;
            let mut ciphertexts = Vec::new();
            for _ in 0..CIPHERTEXTS {
                ciphertexts.push(encrypt(&client, &created.key_metadata.key_id, &context).await?);
            }
            Ok(ciphertexts)
        })?;
        decrypts(self.target.address, ciphertexts, &context)
    }

    fn resident_kib(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse().ok())
            .with_context(|| format!("{path} names no memory"))
    }
}

fn decrypts(
    address: SocketAddr,
    ciphertexts: Vec<Vec<u8>>,
    context: &EncryptionContext,
) -> anyhow::Result<Vec<Vec<u8>>> {
    ciphertexts
        .into_iter()
        .map(|ciphertext| {
            let request = DecryptRequest {
                ciphertext_blob: Some(Blob(ciphertext)),
                encryption_context: context.clone(),
                ..DecryptRequest::default()
            };
            signed(address, &request, &owner())
        })
        .collect()
}

fn signed<O: Operation>(
    address: SocketAddr,
    operation: &O,
    credentials: &Credentials,
) -> anyhow::Result<Vec<u8>> {
    let body = shapes::encode(operation);
    let (mut parts, ()) = http::Request::builder()
        .method("POST")
        .uri("/")
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, shapes::CONTENT_TYPE)
        .header(
            "x-amz-target",
            format!("{}.{}", shapes::TARGET_PREFIX, O::NAME),
        )
        .body(())?
        .into_parts();
    sign(
        &mut parts,
        &body,
        credentials,
        DEV_REGION,
        "kms",
        SystemTime::now(),
    )?;
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    let mut bytes = b"POST / HTTP/1.1\r\n".to_vec();
    for (name, value) in &parts.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The address that a service prints once it is up.
fn listening(process: &mut Child) -> anyhow::Result<String> {
    let stdout = process.stdout.take().context("no standard output")?;
    let mut url = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(found) = line.strip_prefix("listening on ") {
            url = Some(found.to_owned());
        }
        if line.starts_with("development preset") {
            break;
        }
    }
    url.context("the service ended before it listened")
}

fn tls_client(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).with_context(|| ca.display().to_string())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The same Decrypt by `moto_server`, which checks no signature and no policy.
fn moto(folder: &Path, connections: usize, until: Until) -> anyhow::Result<Measured> {
    struct Process(Child);
    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    // The port is free now, and nobody else here asks for one.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let program = folder.join("bin/moto_server");
    let process = Command::new(&program)
        .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| {
            format!(
                "{} does not start; install it with pip install 'moto[server,kms]'",
                program.display()
            )
        })?;
    let _process = Process(process);
    let until_up = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(address).is_err() {
        anyhow::ensure!(Instant::now() < until_up, "moto_server did not come up");
        std::thread::sleep(Duration::from_millis(100));
    }
    let context = EncryptionContext::from([("purpose".to_owned(), "bench".to_owned())]);
    // Its answers lack members that AWS's have, so they are not read as ours are.
    let made: serde_json::Value = serde_json::from_slice(&load::ask(
        address,
        &signed(address, &CreateKeyRequest::default(), &owner())?,
    )?)?;
    let key_id = made["KeyMetadata"]["KeyId"]
        .as_str()
        .context("moto_server made no key")?;
    let mut ciphertexts = Vec::new();
    for number in 0..CIPHERTEXTS {
        let request = EncryptRequest {
            key_id: key_id.to_owned(),
            plaintext: SecretBlob::new(Zeroizing::new(vec![number as u8; 32])),
            encryption_context: context.clone(),
            ..EncryptRequest::default()
        };
        let answer = load::ask(address, &signed(address, &request, &owner())?)?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        let blob = answer["CiphertextBlob"]
            .as_str()
            .context("moto_server encrypted nothing")?;
        ciphertexts.push(base64::engine::general_purpose::STANDARD.decode(blob)?);
    }
    let requests = decrypts(address, ciphertexts, &context)?;
    let target = Target { address, tls: None };
    load::run(&target, connections, &requests, until)
}

/// What was measured, as lines or as one JSON object.
struct Report {
    is_json: bool,
    entries: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    fn new(is_json: bool) -> Self {
        Self {
            is_json,
            entries: serde_json::Map::new(),
        }
    }

    fn add(&mut self, name: &str, line: &str, value: serde_json::Value) {
        if !self.is_json {
            println!("{name:<62} {line}");
        }
        self.entries.insert(name.to_owned(), value);
    }

    fn measured(&mut self, name: &str, measured: &Measured) {
        let (p50, p99) = (measured.percentile(0.5), measured.percentile(0.99));
        self.add(
            name,
            &format!(
                "{:>8.0}/s   p50 {p50:.2} ms   p99 {p99:.2} ms",
                measured.per_second()
            ),
            json!({"perSecond": measured.per_second(), "p50Ms": p50, "p99Ms": p99, "answered": measured.answered}),
        );
    }

    fn figure(&mut self, name: &str, per_second: f64) {
        self.add(
            name,
            &format!("{per_second:>8.0}/s"),
            json!({"perSecond": per_second}),
        );
    }

    fn ratio(&mut self, name: &str, ratio: f64) {
        self.add(name, &format!("{ratio:>8.2} times"), json!(ratio));
    }

    fn memory(&mut self, requests: u64, early: u64, late: u64) {
        self.add(
            &format!("memory over {requests} requests"),
            &format!("{early:>8} KiB after a tenth, {late} KiB after all"),
            json!({"afterTenthKib": early, "afterAllKib": late}),
        );
    }

    fn end(self) -> anyhow::Result<()> {
        if self.is_json {
            println!("{}", serde_json::to_string_pretty(&self.entries)?);
        }
        Ok(())
    }
}
