//! The subcommands, one file each.

mod attest;
pub(crate) mod build;
mod call;
mod conformance;
mod connect;
mod daemon;
mod describe;
mod diff;
mod doctor;
mod init;
mod inspect;
mod kms;
mod logs;
pub(crate) mod open;
mod plan;
pub(crate) mod policy;
mod ps;
mod reload;
mod run;
mod sbom;
mod seal;
mod secrets;
mod sign;
mod start;
mod stop;
mod supervise;
mod top;
mod verify;
mod verify_image;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show the whole way of the data, and what must not work, on this machine
    Demo(crate::demo::Arguments),
    /// Write a manifest with comments to begin with
    Init(init::Arguments),
    /// Pack a job into an enclave image, reproducibly
    Build(build::Arguments),
    /// Print an image's measurements and contents
    Describe(describe::Arguments),
    /// Say what is different between two images, and because of what
    Diff(diff::Arguments),
    /// List the software in an image (CycloneDX)
    Sbom(sbom::Arguments),
    /// Sign an image
    Sign(sign::Arguments),
    /// Verify an image's signature
    VerifyImage(verify_image::Arguments),
    /// Print key policy statements that admit this image alone
    Policy(policy::Arguments),
    /// Look whether this host can run enclaves, and say what to do where it cannot
    Doctor(doctor::Arguments),
    /// Say what a start of an image would take of this host
    Plan(plan::Arguments),
    /// Start an enclave from an image; returns once it serves
    Run(run::Arguments),
    /// Keep declared enclaves running
    Daemon(daemon::Arguments),
    /// Have the daemon read its configuration anew
    Reload(reload::Arguments),
    /// Let a declared enclave that was stopped start again
    Start(start::Arguments),
    /// List enclaves
    Ps(ps::Arguments),
    /// Show what declared enclaves use, again and again
    Top(top::Arguments),
    /// Print what an enclave wrote on its console
    Logs(logs::Arguments),
    /// Hand newer sealed secrets to an enclave that runs
    Secrets(secrets::Arguments),
    /// Stop an enclave
    Stop(stop::Arguments),
    /// Send sealed data through an enclave's job
    Call(call::Arguments),
    /// Ask an enclave for an attestation document
    Attest(attest::Arguments),
    /// Open a channel into an enclave, which is checked first
    Connect(connect::Arguments),
    /// Verify an attestation document
    Verify(Box<verify::Arguments>),
    /// Show what an attestation document says of itself, verified or not
    Inspect(inspect::Arguments),
    /// Put the conformance corpus to a verifier of attestation documents
    Conformance(conformance::Arguments),
    /// Seal data under a key of the key service, as its owner
    Seal(seal::Arguments),
    /// Open sealed data, as its owner
    Open(open::Arguments),
    /// Run and use the key service
    #[command(subcommand)]
    Kms(kms::Command),
    /// Watch over one enclave (started by `run`)
    #[command(hide = true)]
    SuperviseEnclave,
}

impl Command {
    /// Whether all that it does is to read files and print.
    pub(crate) fn only_prints(&self) -> bool {
        match self {
            Command::Kms(command) => command.only_prints(),
            Command::Describe(_)
            | Command::Diff(_)
            | Command::Sbom(_)
            | Command::VerifyImage(_)
            | Command::Policy(_)
            | Command::Verify(_)
            | Command::Inspect(_) => true,
            _ => false,
        }
    }
}

pub(crate) fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(arguments) => crate::demo::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Init(arguments) => init::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Diff(arguments) => Ok(diff::run(&arguments)),
        Command::Sbom(arguments) => sbom::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Sign(arguments) => sign::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::VerifyImage(arguments) => Ok(verify_image::run(&arguments)),
        Command::Build(arguments) => build::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Describe(arguments) => describe::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Policy(arguments) => policy::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Daemon(arguments) => daemon::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Reload(arguments) => block_on(reload::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Start(arguments) => block_on(start::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Top(arguments) => block_on(top::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Ps(arguments) => ps::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Logs(arguments) => logs::run(&arguments),
        Command::Secrets(arguments) => secrets::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Stop(arguments) => stop::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Call(arguments) => block_on(call::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Attest(arguments) => block_on(attest::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Connect(arguments) => connect::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Verify(arguments) => Ok(verify::run(&arguments)),
        Command::Inspect(arguments) => Ok(inspect::run(&arguments)),
        Command::Conformance(arguments) => Ok(conformance::run(&arguments)),
        Command::Seal(arguments) => block_on(seal::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Open(arguments) => block_on(open::run(&arguments)).map(|()| ExitCode::SUCCESS),
        Command::Kms(command) => kms::run(command),
        Command::SuperviseEnclave => Ok(supervise::run()),
    }
}

/// A name as it may stand in a path of the daemon's API.
fn in_a_path(name: &str) -> anyhow::Result<&str> {
    anyhow::ensure!(
        anchorhold_parent::lifecycle::is_name(name),
        "{name:?} is not a name for an enclave"
    );
    Ok(name)
}

/// Runs `future` on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot start")?
        .block_on(future)
}
