//! The backends as the supervisor sees them.

use std::path::{Path, PathBuf};

use anchorhold_images::Image;
use anchorhold_simulator::DevelopmentRoot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::console::{printable, tail};
use super::guest::{Facts, Guest, GuestEnd};
use super::state::{MeasuredAs, Process};
use super::supervise::{SuperviseError, SuperviseOptions};
use crate::{Backend, Enclave, How, Isolation, Launch};

/// An enclave, with the process that it ends with (its own first one, or its QEMU) as the host knows it.
pub(super) struct Launched {
    enclave: Enclave,
    init: Option<Process>,
    image: PathBuf,
}

/// Starts the image, attested under this user's development root.
pub(super) fn launch(
    options: &SuperviseOptions,
    cid: u32,
    dir: &Path,
) -> Result<Launched, SuperviseError> {
    let failed = |error: &dyn std::fmt::Display| SuperviseError::Launch(error.to_string());
    options.home.state().map_err(|error| failed(&error))?;
    let mut launch = Launch::new(&options.image, cid, dir);
    launch.memory_mib = options.memory_mib;
    launch.cpus = options.cpus;
    launch.debug = options.debug;
    launch.backend = options.backend;
    launch.isolation = options.isolation;
    let notes = Notes::new(options);
    launch.no_kvm = notes.as_ref().and_then(Notes::read);
    let enclave = if options.backend == Backend::Nitro {
        crate::launch_nitro(launch)
    } else {
        let root = DevelopmentRoot::load_or_create(&options.home.development_root())
            .map_err(|error| failed(&error))?;
        crate::launch(launch, &root)
    }
    .map_err(|error| failed(&error))?;
    if let (Some(notes), Isolation::Tcg, Some(reason)) = (
        &notes,
        enclave.report().isolation,
        enclave.report().missing.first(),
    ) {
        notes.write(reason);
    }
    let init = Process::of(enclave.report().pid).ok().flatten();
    Ok(Launched {
        enclave,
        init,
        image: options.image.clone(),
    })
}

/// What was found against KVM since the machine has been started, kept for the next enclave: to find it out again would take
/// seconds each time.
struct Notes {
    path: PathBuf,
    boot: String,
}

impl Notes {
    fn new(options: &SuperviseOptions) -> Option<Notes> {
        if options.backend != Backend::Qemu {
            return None;
        }
        Some(Notes {
            path: options.home.state().ok()?.join("without-kvm"),
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?,
        })
    }

    fn read(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        text.strip_prefix(&self.boot)
            .map(|reason| printable(reason.as_bytes(), 300))
    }

    /// Only what trying has shown: a missing device may be there the next time.
    fn write(&self, reason: &str) {
        let reason = reason
            .split_once('(')
            .map_or(reason, |(_, inner)| inner.trim_end_matches(')'));
        if reason.starts_with("KVM: ") && self.read().is_none() {
            // Without the note it is tried again.
            let _ = std::fs::write(&self.path, format!("{}{reason}", self.boot));
        }
    }
}

impl Launched {
    /// Why its kernel gave up, from the end of its console.
    fn last_panic(&self) -> String {
        let lines = tail(&self.enclave.console(), usize::MAX).unwrap_or_default();
        let said = lines
            .iter()
            .rev()
            .find_map(|line| line.split_once("Kernel panic - not syncing: "));
        said.map_or_else(String::new, |(_, why)| format!(": {why}"))
    }
}

impl Guest for Launched {
    fn facts(&self) -> Facts {
        let report = self.enclave.report();
        let mut limits = vec![report.limits.to_string()];
        limits.extend(
            report
                .missing
                .iter()
                .map(|missing| format!("missing: {missing}")),
        );
        Facts {
            isolation: Some(report.isolation),
            has_control_port: self.enclave.has_manifest(),
            reach: self.enclave.reach().cloned(),
            memory_mib: Some(report.limits.memory_mib),
            cpus: Some(report.limits.cpus),
            limits,
        }
    }

    fn measure(&self) -> Box<dyn FnOnce() -> Option<MeasuredAs> + Send> {
        let image = self.image.clone();
        Box::new(move || {
            let image = Image::open(&image).ok()?;
            let measured = image.measurements();
            Some(MeasuredAs {
                pcr0: measured.pcr0.to_string(),
                pcr1: measured.pcr1.to_string(),
                pcr2: measured.pcr2.to_string(),
                pcr8: measured.pcr8.map(|pcr| pcr.to_string()),
            })
        })
    }

    fn killer(&self) -> Box<dyn Fn() + Send> {
        if let Some(stop) = self.enclave.stopper() {
            return stop;
        }
        // With the first process the others end, and the backend clears away.
        let init = self.init.clone();
        Box::new(move || {
            if let Some(init) = &init
                && init.runs()
                && let Ok(pid) = i32::try_from(init.pid)
            {
                // It may just have ended by itself, which is as good.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        })
    }

    fn wait(&mut self) -> GuestEnd {
        match self.enclave.wait() {
            Ok(ended) => GuestEnd {
                code: match ended.how {
                    How::Exited(code) => Some(code),
                    How::Killed(_) | How::KernelPanic | How::PoweredOff | How::Unknown => None,
                },
                reason: match ended.how {
                    How::KernelPanic => format!("{ended}{}", self.last_panic()),
                    _ => ended.to_string(),
                },
            },
            Err(error) => GuestEnd {
                code: None,
                reason: format!("it cannot be waited for: {error}"),
            },
        }
    }
}
