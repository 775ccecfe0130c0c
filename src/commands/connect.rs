//! `anchorhold connect`: a channel into an enclave that was checked first, as a local port or on standard streams.

use std::path::PathBuf;
use std::time::Duration;

use anchorhold_attestation::{Admitted, Anchor, Expectations, Pcr};
use anchorhold_client::{Channel, ConnectError, Connector, Protocol};
use anchorhold_manifest::TLS_PORT;
use anchorhold_parent::lifecycle::{Home, find};
use anchorhold_parent::sandbox;
use anyhow::Context as _;
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::verify;

/// Connections at a time through a local port.
const MAX_CONNECTIONS: usize = 256;
/// How long an address may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold connect cards.example:8443 --image cards.eif --listen 127.0.0.1:8080\n  \
    printf 'GET / HTTP/1.1\\r\\nHost: cards\\r\\nConnection: close\\r\\n\\r\\n' | anchorhold connect cards --image cards.eif \\\n    \
        --anchor ~/.local/state/anchorhold/development-root/root.pem\n\n\
    TLS ends in the enclave. Nothing of yours is sent before the enclave has shown a document of that image, for this \
    channel and no other. Without --anchor only real Nitro hardware is admitted. Exit code 1: nobody was admitted, and \
    why.")]
pub(crate) struct Arguments {
    /// HOST:PORT that leads to the enclave's port 5443, or the name of an enclave that runs here
    #[arg(value_name = "HOST:PORT|NAME")]
    target: String,
    /// Expect the measurements of this image
    #[arg(long, value_name = "IMAGE.eif", required_unless_present_any = ["pcr0", "pcr8"])]
    image: Option<PathBuf>,
    /// Expect this PCR0 (hex); several: any of them
    #[arg(long, value_name = "HEX", conflicts_with = "image")]
    pcr0: Vec<Pcr>,
    /// Expect this PCR8 (hex), that of the certificate that signed the image
    #[arg(long, value_name = "HEX", conflicts_with = "image")]
    pcr8: Vec<Pcr>,
    /// Root certificate (PEM) to trust instead of AWS's Nitro root; may be given several times
    #[arg(long, value_name = "PEM")]
    anchor: Vec<PathBuf>,
    /// Listen here for local programs that speak plain HTTP; each connection is a channel of its own
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot start")?;
    let outcome = runtime.block_on(connect(arguments));
    // Somebody may still be reading standard input, which no longer leads anywhere.
    runtime.shutdown_background();
    outcome
}

async fn connect(arguments: &Arguments) -> anyhow::Result<()> {
    let connector = Connector::new(
        verify::anchors(&arguments.anchor)?,
        expectations(arguments)?,
    )
    .protocol(Protocol::Unsaid);
    // Once at the start in any case, so that what is wrong is said before a program relies on it.
    let first = open(&arguments.target, &connector).await?;
    say(&arguments.target, first.admitted());
    match &arguments.listen {
        None => standard_streams(first).await,
        Some(address) => {
            drop(first);
            listen(address, &arguments.target, &connector).await
        }
    }
}

fn expectations(arguments: &Arguments) -> anyhow::Result<Expectations> {
    let mut expectations = Expectations::new();
    if let Some(path) = &arguments.image {
        expectations = verify::of_image(path, expectations)?;
    }
    for (index, values) in [(0, &arguments.pcr0), (8, &arguments.pcr8)] {
        if !values.is_empty() {
            expectations = expectations.pcr(index, values.iter().copied());
        }
    }
    Ok(expectations)
}

/// Either way to an enclave's port.
enum Way {
    Tcp(TcpStream),
    Here(UnixStream),
}

/// A channel over either.
enum Open {
    Tcp(Box<Channel<TcpStream>>),
    Here(Box<Channel<UnixStream>>),
}

impl Open {
    fn admitted(&self) -> &Admitted {
        match self {
            Open::Tcp(channel) => channel.admitted(),
            Open::Here(channel) => channel.admitted(),
        }
    }

    async fn relay(self, local: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        match self {
            Open::Tcp(channel) => relay(*channel, local).await,
            Open::Here(channel) => relay(*channel, local).await,
        }
    }
}

async fn relay<S: AsyncRead + AsyncWrite + Unpin>(
    mut channel: Channel<S>,
    mut local: impl AsyncRead + AsyncWrite + Unpin,
) -> std::io::Result<()> {
    tokio::io::copy_bidirectional(&mut local, &mut channel)
        .await
        .map(drop)
}

async fn way(target: &str) -> anyhow::Result<(String, Way)> {
    if let Some((host, port)) = target.rsplit_once(':') {
        let port: u16 = port
            .parse()
            .with_context(|| format!("{target:?} ends in no port: give HOST:PORT"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((bare, port)))
            .await
            .unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
            .with_context(|| format!("{target} cannot be reached"))?;
        stream.set_nodelay(true)?;
        return Ok((host.to_owned(), Way::Tcp(stream)));
    }
    let enclave = find(&Home::from_environment()?, target)?;
    anyhow::ensure!(
        enclave.status.is_running(),
        "{target} does not run any more; `anchorhold logs {target}` says why"
    );
    let stream = sandbox::connect(&enclave.dir, TLS_PORT).with_context(|| {
        format!(
            "{target} has no attested TLS: its job's contract is not \"http\", or it is still starting"
        )
    })?;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    Ok(("enclave.invalid".to_owned(), Way::Here(stream)))
}

async fn open(target: &str, connector: &Connector) -> anyhow::Result<Open> {
    let (host, way) = way(target).await?;
    let opened = match way {
        Way::Tcp(stream) => connector
            .connect(&host, stream)
            .await
            .map(|channel| Open::Tcp(Box::new(channel))),
        Way::Here(stream) => connector
            .connect(&host, stream)
            .await
            .map(|channel| Open::Here(Box::new(channel))),
    };
    opened.map_err(|error| refusal(target, error))
}

/// What to do about it, where that is not in the error itself.
fn refusal(target: &str, error: ConnectError) -> anyhow::Error {
    let remedy = match &error {
        ConnectError::Untrue(_) => {
            "; an enclave in a sandbox or virtual machine is admitted by who names its development root: --anchor"
        }
        ConnectError::Refused(_) => {
            "; if you expect another image by now, give that one; otherwise somebody stands in between"
        }
        _ => "",
    };
    anyhow::Error::new(error).context(format!("no channel to {target}: nothing was sent{remedy}"))
}

/// On standard error, since standard output is the channel's.
fn say(target: &str, admitted: &Admitted) {
    let root = if admitted.anchor_fingerprint() == Anchor::aws_nitro().fingerprint() {
        "AWS's root: real hardware"
    } else {
        "a root that --anchor named: no word about hardware"
    };
    eprintln!(
        "anchorhold: {target} is {} with the expected measurements, under {root}",
        admitted.module_id()
    );
}

async fn standard_streams(channel: Open) -> anyhow::Result<()> {
    match channel {
        Open::Tcp(channel) => to_its_end(*channel).await,
        Open::Here(channel) => to_its_end(*channel).await,
    }
    .context("the channel broke off")
}

/// Until the enclave has said all; whether standard input has ended does not matter then.
async fn to_its_end<S>(channel: Channel<S>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut from_enclave, mut to_enclave) = tokio::io::split(channel);
    tokio::spawn(async move {
        // What fails here fails the other direction too. The end of standard input is not passed on: an enclave would
        // take it for a client who has gone away, and drop his request.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to_enclave).await;
    });
    let mut local = tokio::io::stdout();
    tokio::io::copy(&mut from_enclave, &mut local).await?;
    local.flush().await
}

async fn listen(address: &str, target: &str, connector: &Connector) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let local = listener.local_addr()?;
    eprintln!("anchorhold: http://{local} leads into the enclave");
    if !local.ip().is_loopback() {
        eprintln!("anchorhold: other machines reach that port too, without TLS");
    }
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = std::sync::Arc::clone(&places).acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("anchorhold: a local connection was lost: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (target, connector) = (target.to_owned(), connector.clone());
        tokio::spawn(async move {
            match open(&target, &connector).await {
                // What breaks a connection its two ends know.
                Ok(channel) => drop(channel.relay(stream).await),
                Err(error) => {
                    eprintln!("anchorhold: {}", crate::errors::one_line(error.as_ref()));
                }
            }
            drop(place);
        });
    }
}
