//! The parent: the host's side of an enclave. It starts enclaves, carries their bytes and keeps their consoles.
//!
//! It is trusted with nothing: it sees ciphertext, and whatever it says inside is taken for a lie until checked. It must never
//! depend on the key service, and never hold a key.
//!
//! [`launch`] starts an image on the [`sandbox`] backend and gives an [`Enclave`]: `connect` to a port of it, `listen` for what it
//! dials, its console, `wait`, and kill on drop.
#![deny(unsafe_code)]

pub mod client;
pub mod lifecycle;
pub mod sandbox;
pub mod window;

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use anchorhold_images::{Image, ImageError, Unmeasured};
use anchorhold_manifest::{Manifest, ManifestError};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use serde::Serialize;

pub use sandbox::{Enclave, Ended, How, LaunchReport, Limits, StartError, UnpackError};

/// How an enclave is confined on the sandbox backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// User, mount, pid, network, IPC, UTS and cgroup namespaces.
    #[default]
    Namespaces,
    /// None of them: chroot, Landlock, seccomp and a changed user alone. For root inside a container that forbids namespaces.
    Reduced,
}

impl fmt::Display for Isolation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Isolation::Namespaces => "namespaces",
            Isolation::Reduced => "reduced isolation",
        })
    }
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The image (EIF).
    pub image: PathBuf,
    /// The enclave's CID, 16 or more, unlike that of every other enclave on this machine.
    pub cid: u32,
    /// Memory in MiB; else the manifest's.
    pub memory_mib: Option<u32>,
    /// Processors; else the manifest's.
    pub cpus: Option<u32>,
    /// Debug mode: documents carry zeros for PCR0, 1 and 2.
    pub debug: bool,
    /// The enclave's own folder on the host, made if it does not exist: `vsock.sock`, `vsock.sock_<port>`, `console.log`.
    pub dir: PathBuf,
    /// How it is confined.
    pub isolation: Isolation,
    /// Its name in attestation documents; else one is made up, in the form of real ones.
    pub module_id: Option<String>,
}

impl Launch {
    /// An image in a folder, with everything else as the image says.
    pub fn new(image: impl Into<PathBuf>, cid: u32, dir: impl Into<PathBuf>) -> Launch {
        Launch {
            image: image.into(),
            cid,
            memory_mib: None,
            cpus: None,
            debug: false,
            dir: dir.into(),
            isolation: Isolation::default(),
            module_id: None,
        }
    }
}

/// Why an image could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The image is broken.
    #[error(transparent)]
    Image(#[from] Box<ImageError>),
    /// One of its ramdisks is.
    #[error("{image}: {error}", image = image.display())]
    Unpack {
        /// The image.
        image: PathBuf,
        /// What is wrong.
        error: UnpackError,
    },
    /// Its manifest is.
    #[error("{image}: the manifest inside is wrong: {error}", image = image.display())]
    Manifest {
        /// The image.
        image: PathBuf,
        /// What is wrong.
        error: Box<ManifestError>,
    },
    /// Its manifest is not text.
    #[error("{image}: the manifest inside is not UTF-8", image = image.display())]
    ManifestText {
        /// The image.
        image: PathBuf,
    },
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Randomness(std::io::Error),
    /// The sandbox could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Resources where neither the launch nor the image says anything.
const DEFAULT_MEMORY_MIB: u32 = 256;
const DEFAULT_CPUS: u32 = 1;

/// Starts an image on the sandbox backend, attested by a simulated NSM under `root`. Returns when its `/init` runs.
///
/// The image is measured while its files are unpacked; nothing of it runs before its checksum and its measurements are known.
pub fn launch(launch: Launch, root: &DevelopmentRoot) -> Result<Enclave, LaunchError> {
    let unmeasured = Unmeasured::open(&launch.image).map_err(Box::new)?;
    let ramdisks = unmeasured.ramdisks();
    let module_id = match launch.module_id {
        Some(module_id) => module_id,
        None => module_id().map_err(LaunchError::Randomness)?,
    };
    let debug = launch.debug;
    std::thread::scope(|scope| {
        let measuring = scope.spawn(move || measured_nsm(unmeasured, root, debug, module_id));
        let entries = sandbox::entries(&ramdisks).map_err(|error| LaunchError::Unpack {
            image: launch.image.clone(),
            error,
        })?;
        let manifest = sandbox::manifest(&entries)
            .map(|bytes| {
                let text = std::str::from_utf8(bytes).map_err(|_| LaunchError::ManifestText {
                    image: launch.image.clone(),
                })?;
                Manifest::parse(text).map_err(|error| LaunchError::Manifest {
                    image: launch.image.clone(),
                    error: Box::new(error),
                })
            })
            .transpose()?;
        let resources = manifest.map(|manifest| manifest.resources);
        let (sender, nsm) = std::sync::mpsc::channel();
        scope.spawn(move || {
            let made = measuring.join().unwrap_or_else(|_| {
                Err(StartError::Nsm(
                    "measuring the image did not end well".into(),
                ))
            });
            // Nobody waits for it where the start has failed already.
            let _ = sender.send(made);
        });
        Ok(sandbox::start(sandbox::Start {
            cid: launch.cid,
            memory_mib: launch
                .memory_mib
                .or(resources.as_ref().map(|resources| resources.memory_mib))
                .unwrap_or(DEFAULT_MEMORY_MIB),
            cpus: launch
                .cpus
                .or(resources.as_ref().map(|resources| resources.cpus))
                .unwrap_or(DEFAULT_CPUS),
            directory: launch.dir,
            isolation: launch.isolation,
            entries,
            nsm: Box::new(move || nsm.recv().map_err(|error| StartError::Nsm(error.into()))?),
        })?)
    })
}

fn measured_nsm(
    unmeasured: Unmeasured,
    root: &DevelopmentRoot,
    debug: bool,
    module_id: String,
) -> Result<Nsm, StartError> {
    let image: Image = unmeasured
        .measure()
        .map_err(|error| StartError::Nsm(error.into()))?;
    let measured = image.measurements();
    let config = NsmConfig {
        pcr0: measured.pcr0,
        pcr1: measured.pcr1,
        pcr2: measured.pcr2,
        pcr8: measured.pcr8,
        debug,
        module_id,
        ..NsmConfig::default()
    };
    Nsm::new(root, config, SystemTime::now()).map_err(|error| StartError::Nsm(error.into()))
}

/// A name in the form of real ones (`i-<17 hex digits>-enc<16 hex digits>`). The instance part says `51b0`, four times, which reads
/// as "sibo" and stands for no EC2 instance.
fn module_id() -> Result<String, std::io::Error> {
    use std::io::Read;
    let mut random = [0u8; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(format!(
        "i-0{}-enc{}",
        "51b0".repeat(4),
        hex::encode(random)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_ids_have_the_form_of_real_ones_and_differ() {
        let one = module_id().unwrap();
        assert_eq!(one.len(), "i-".len() + 17 + "-enc".len() + 16);
        assert!(one.starts_with("i-051b051b051b051b0-enc"));
        assert_ne!(one, module_id().unwrap());
    }
}
