//! The parent: the host's side of an enclave. It starts enclaves, carries their bytes and keeps their consoles.
//!
//! It is trusted with nothing: it sees ciphertext, and whatever it says inside is taken for a lie until checked. It must never
//! depend on the key service, and never hold a key.
//!
//! [`launch`] starts an image on the [`nitro`], the [`qemu`] or the [`sandbox`] backend and gives an [`Enclave`]: `connect` to a
//! port of it, `listen` for what it dials, its console, `wait`, and kill on drop.
#![deny(unsafe_code)]

pub mod client;
pub mod daemon;
pub mod doctor;
pub mod lifecycle;
pub mod nitro;
pub mod qemu;
mod reach;
pub mod sandbox;
pub mod window;

use std::fmt;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anchorhold_images::{Image, ImageError, Unmeasured};
use anchorhold_manifest::egress::Allowlist;
use anchorhold_manifest::{Manifest, ManifestError, Resources};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use serde::{Deserialize, Serialize};

pub use sandbox::{Ended, How, LaunchReport, Limits, StartError, UnpackError};

/// How an enclave is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// User, mount, pid, network, IPC, UTS and cgroup namespaces.
    #[default]
    Namespaces,
    /// None of them: chroot, Landlock, seccomp and a changed user alone. For root inside a container that forbids namespaces.
    Reduced,
    /// A virtual machine, run by the processor itself. Of the qemu backend alone.
    Kvm,
    /// A virtual machine, emulated. Of the qemu backend alone.
    Tcg,
    /// An enclave of AWS's hypervisor, from which the host itself is shut out. Of the nitro backend alone.
    Nitro,
}

impl fmt::Display for Isolation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Isolation::Namespaces => "namespaces",
            Isolation::Reduced => "reduced isolation",
            Isolation::Kvm => "virtual machine (KVM)",
            Isolation::Tcg => "virtual machine (emulated)",
            Isolation::Nitro => "Nitro enclave",
        })
    }
}

/// Where an image runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A confined process; see [`sandbox`].
    #[default]
    Sandbox,
    /// A virtual machine; see [`qemu`].
    Qemu,
    /// An enclave of AWS's hypervisor; see [`nitro`].
    Nitro,
}

impl fmt::Display for Backend {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Backend::Sandbox => "sandbox",
            Backend::Qemu => "qemu",
            Backend::Nitro => "nitro",
        })
    }
}

impl Backend {
    /// The best that this machine has for an image, and why it is that one.
    pub fn best_for(image: &Unmeasured) -> Result<(Backend, String), ImageError> {
        let nitro = "this is no host of Nitro enclaves";
        let has_kernel = image.has_kernel()?;
        if Path::new(nitro::DEVICE).exists() {
            // Nobody on such a host shall take a sandbox for an enclave without having asked for one.
            let asked = if has_kernel {
                ""
            } else {
                "; a sandbox has to be asked for there: --backend sandbox"
            };
            return Ok((
                Backend::Nitro,
                format!("this is a host of Nitro enclaves{asked}"),
            ));
        }
        if !has_kernel {
            return Ok((
                Backend::Sandbox,
                format!("{nitro}; the image has no kernel"),
            ));
        }
        Ok(match qemu::Program::find() {
            Ok(program) => (
                Backend::Qemu,
                format!(
                    "{nitro}; the image has a kernel, and there is QEMU {}",
                    program.version
                ),
            ),
            Err(missing) => (Backend::Sandbox, format!("{nitro}; {missing}")),
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
    /// Where it runs.
    pub backend: Backend,
    /// How it is confined, on the sandbox backend.
    pub isolation: Isolation,
    /// The QEMU to run it with, on the qemu backend; else it is looked for.
    pub qemu: Option<PathBuf>,
    /// Why KVM is not to be tried, on the qemu backend, where that is known.
    pub no_kvm: Option<String>,
    /// Its name in attestation documents; else one is made up, in the form of real ones. The nitro backend's are the
    /// hypervisor's.
    pub module_id: Option<String>,
    /// Where supervisors of this user share the ports that enclaves dial, on the nitro backend; else `ports` beside the
    /// enclave's folder.
    pub ports: Option<PathBuf>,
    /// By how many seconds the simulated NSM's clock is ahead of this host's, on the sandbox and qemu backends: documents say
    /// that time.
    pub nsm_clock_offset: i64,
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
            backend: Backend::default(),
            isolation: Isolation::default(),
            qemu: None,
            no_kvm: None,
            module_id: None,
            ports: None,
            nsm_clock_offset: 0,
        }
    }

    /// What its simulated NSM knows besides the measurements.
    fn nsm(&self, module_id: String) -> NsmConfig {
        NsmConfig {
            debug: self.debug,
            module_id,
            clock_offset: self.nsm_clock_offset,
            ..NsmConfig::default()
        }
    }

    /// Memory in MiB and processors: its own, else the manifest's, else the defaults.
    fn resources(&self, manifest: Option<&Resources>) -> (u32, u32) {
        let memory = self.memory_mib.or(manifest.map(|of| of.memory_mib));
        let cpus = self.cpus.or(manifest.map(|of| of.cpus));
        (
            memory.unwrap_or(DEFAULT_MEMORY_MIB),
            cpus.unwrap_or(DEFAULT_CPUS),
        )
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
    /// The virtual machine could not be started.
    #[error(transparent)]
    Qemu(#[from] Box<qemu::StartError>),
    /// The Nitro enclave could not be started.
    #[error(transparent)]
    Nitro(#[from] Box<nitro::StartError>),
}

/// A running enclave, on whatever backend. It is killed, and everything of it is removed but its console, when this is
/// dropped.
#[derive(Debug)]
pub struct Enclave {
    backed: Backed,
    reach: Option<Allowlist>,
}

enum Backed {
    Sandbox(sandbox::Enclave),
    Qemu(qemu::Enclave),
    Nitro(nitro::Enclave),
}

impl fmt::Debug for Backed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backed::Sandbox(enclave) => write!(to, "sandbox, CID {}", enclave.cid()),
            Backed::Qemu(enclave) => write!(to, "qemu, CID {}", enclave.cid()),
            Backed::Nitro(enclave) => write!(to, "nitro, CID {}", enclave.cid()),
        }
    }
}

impl Enclave {
    /// Whether its image has a manifest, and so anchorhold's runtime, which serves calls. An image of another tool's says no more
    /// than that it lives.
    pub fn has_manifest(&self) -> bool {
        self.reach.is_some()
    }

    /// What its measured manifest lets it be led to; none where its image has no manifest.
    pub fn reach(&self) -> Option<&Allowlist> {
        self.reach.as_ref()
    }

    /// Where it runs.
    pub fn backend(&self) -> Backend {
        match &self.backed {
            Backed::Sandbox(_) => Backend::Sandbox,
            Backed::Qemu(_) => Backend::Qemu,
            Backed::Nitro(_) => Backend::Nitro,
        }
    }

    /// Its CID.
    pub fn cid(&self) -> u32 {
        match &self.backed {
            Backed::Sandbox(enclave) => enclave.cid(),
            Backed::Qemu(enclave) => enclave.cid(),
            Backed::Nitro(enclave) => enclave.cid(),
        }
    }

    /// What the start came to.
    pub fn report(&self) -> &LaunchReport {
        match &self.backed {
            Backed::Sandbox(enclave) => enclave.report(),
            Backed::Qemu(enclave) => enclave.report(),
            Backed::Nitro(enclave) => enclave.report(),
        }
    }

    /// What it may use, and what sees to it.
    pub fn limits(&self) -> &Limits {
        &self.report().limits
    }

    /// Its folder on the host, with `vsock.sock` and `vsock.sock_<port>`.
    pub fn dir(&self) -> &Path {
        match &self.backed {
            Backed::Sandbox(enclave) => enclave.dir(),
            Backed::Qemu(enclave) => enclave.dir(),
            Backed::Nitro(enclave) => enclave.dir(),
        }
    }

    /// The file with what it has printed so far, at most 16 MiB. It stays when the enclave has ended.
    pub fn console(&self) -> PathBuf {
        self.dir().join("console.log")
    }

    /// Connects to one of its ports. Waits until that port has the connection. `ConnectionRefused`: nobody listens there.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        sandbox::connect(self.dir(), port)
    }

    /// Listens for what it dials on the parent (CID 3, and CID 2) at this port.
    pub fn listen(&self, port: u32) -> io::Result<UnixListener> {
        sandbox::listen(self.dir(), port)
    }

    /// Something that ends it at once, from any thread, while another waits; for those that end with no process of the host's.
    pub(crate) fn stopper(&self) -> Option<Box<dyn Fn() + Send>> {
        match &self.backed {
            Backed::Sandbox(_) | Backed::Qemu(_) => None,
            Backed::Nitro(enclave) => Some(Box::new(enclave.stopper())),
        }
    }

    /// Waits until it has ended. All that it has printed is in the console by then.
    pub fn wait(&mut self) -> io::Result<Ended> {
        match &mut self.backed {
            Backed::Sandbox(enclave) => enclave.wait(),
            Backed::Qemu(enclave) => enclave.wait(),
            Backed::Nitro(enclave) => enclave.wait(),
        }
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        match &self.backed {
            Backed::Sandbox(enclave) => enclave.ended(),
            Backed::Qemu(enclave) => enclave.ended(),
            Backed::Nitro(enclave) => enclave.ended(),
        }
    }

    /// Kills it and removes everything of it but its console. Returns when that is done.
    pub fn kill(&mut self) {
        match &mut self.backed {
            Backed::Sandbox(enclave) => enclave.kill(),
            Backed::Qemu(enclave) => enclave.kill(),
            Backed::Nitro(enclave) => enclave.kill(),
        }
    }
}

/// Memory where neither the launch nor the image says anything.
pub const DEFAULT_MEMORY_MIB: u32 = 256;
/// Processors where neither the launch nor the image says anything.
pub const DEFAULT_CPUS: u32 = 1;

/// Starts an image, attested by a simulated NSM under `root`, or by the Nitro card on the nitro backend. Returns when its `/init`
/// runs (on the sandbox backend), its kernel (on the qemu backend), or the hypervisor has started it.
pub fn launch(launch: Launch, root: &DevelopmentRoot) -> Result<Enclave, LaunchError> {
    let (backed, reach) = match launch.backend {
        Backend::Nitro => return launch_nitro(launch),
        Backend::Sandbox => launch_sandbox(launch, root)
            .map(|(enclave, reach)| (Backed::Sandbox(enclave), reach))?,
        Backend::Qemu => {
            launch_qemu(launch, root).map(|(enclave, reach)| (Backed::Qemu(enclave), reach))?
        }
    };
    Ok(Enclave { backed, reach })
}

/// Starts an image on the nitro backend.
pub fn launch_nitro(launch: Launch) -> Result<Enclave, LaunchError> {
    let image = Image::open(&launch.image).map_err(Box::new)?;
    let manifest = image.manifest().map_err(Box::new)?;
    let reach = manifest.as_ref().map(Manifest::reach);
    let (memory_mib, cpus) = launch.resources(manifest.as_ref().map(|of| &of.resources));
    let start = nitro::Start {
        cid: launch.cid,
        memory_mib,
        cpus,
        ports: launch.ports.unwrap_or_else(|| launch.dir.join("../ports")),
        directory: launch.dir,
        image: &image,
        debug: launch.debug,
    };
    let enclave = nitro::start(&start).map_err(Box::new)?;
    Ok(Enclave {
        backed: Backed::Nitro(enclave),
        reach,
    })
}

/// The image is measured to its last byte before the machine exists.
fn launch_qemu(
    launch: Launch,
    root: &DevelopmentRoot,
) -> Result<(qemu::Enclave, Option<Allowlist>), LaunchError> {
    let program = match &launch.qemu {
        Some(path) => qemu::Program::at(path),
        None => qemu::Program::find(),
    }
    .map_err(|missing| Box::new(qemu::StartError::from(missing)))?;
    let image = Image::open(&launch.image).map_err(Box::new)?;
    let module_id = match launch.module_id.clone() {
        Some(module_id) => module_id,
        None => module_id().map_err(LaunchError::Randomness)?,
    };
    let nsm = nsm_of(&image, root, launch.nsm(module_id))?;
    let manifest = image.manifest().map_err(Box::new)?;
    let reach = manifest.as_ref().map(Manifest::reach);
    let (memory_mib, cpus) = launch.resources(manifest.as_ref().map(|of| &of.resources));
    let start = qemu::Start {
        cid: launch.cid,
        memory_mib,
        cpus,
        directory: launch.dir,
        image: &image,
        nsm,
        program,
        no_kvm: launch.no_kvm,
    };
    Ok((qemu::start(start).map_err(Box::new)?, reach))
}

/// The image is measured while its files are unpacked; nothing of it runs before its checksum and its measurements are known.
fn launch_sandbox(
    launch: Launch,
    root: &DevelopmentRoot,
) -> Result<(sandbox::Enclave, Option<Allowlist>), LaunchError> {
    let unmeasured = Unmeasured::open(&launch.image).map_err(Box::new)?;
    let ramdisks = unmeasured.ramdisks();
    let module_id = match launch.module_id.clone() {
        Some(module_id) => module_id,
        None => module_id().map_err(LaunchError::Randomness)?,
    };
    let config = launch.nsm(module_id);
    std::thread::scope(|scope| {
        let measuring = scope.spawn(move || measured_nsm(unmeasured, root, config));
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
        let reach = manifest.as_ref().map(Manifest::reach);
        let (entries, program) =
            sandbox::program(entries).map_err(|error| LaunchError::Unpack {
                image: launch.image.clone(),
                error,
            })?;
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
        let (memory_mib, cpus) = launch.resources(manifest.as_ref().map(|of| &of.resources));
        let http = manifest.as_ref().and_then(|of| of.http.as_ref());
        let enclave = sandbox::start(sandbox::Start {
            loopback: http.is_some_and(|http| http.port.is_some()),
            cid: launch.cid,
            memory_mib,
            cpus,
            directory: launch.dir,
            isolation: launch.isolation,
            entries,
            program,
            nsm: Box::new(move || nsm.recv().map_err(|error| StartError::Nsm(error.into()))?),
        })?;
        Ok((enclave, reach))
    })
}

fn measured_nsm(
    unmeasured: Unmeasured,
    root: &DevelopmentRoot,
    config: NsmConfig,
) -> Result<Nsm, StartError> {
    let image: Image = unmeasured
        .measure()
        .map_err(|error| StartError::Image(Box::new(error)))?;
    nsm_of(&image, root, config)
}

/// The simulated NSM of an enclave that runs this image.
fn nsm_of(image: &Image, root: &DevelopmentRoot, config: NsmConfig) -> Result<Nsm, StartError> {
    let measured = image.measurements();
    let config = NsmConfig {
        pcr0: measured.pcr0,
        pcr1: measured.pcr1,
        pcr2: measured.pcr2,
        pcr8: measured.pcr8,
        ..config
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
