//! The sandbox backend as the supervisor sees it.

use std::path::{Path, PathBuf};

use anchorhold_images::Image;
use anchorhold_simulator::DevelopmentRoot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guest::{Facts, Guest, GuestEnd};
use super::state::{MeasuredAs, Process};
use super::supervise::{SuperviseError, SuperviseOptions};
use crate::{Enclave, How, Launch};

/// An enclave in the sandbox, with its first process as the host knows it.
pub(super) struct Sandboxed {
    enclave: Enclave,
    init: Option<Process>,
    image: PathBuf,
}

/// Starts the image in the sandbox, attested under this user's development root.
pub(super) fn launch(
    options: &SuperviseOptions,
    cid: u32,
    dir: &Path,
) -> Result<Sandboxed, SuperviseError> {
    let failed = |error: &dyn std::fmt::Display| SuperviseError::Launch(error.to_string());
    options.home.state().map_err(|error| failed(&error))?;
    let root = DevelopmentRoot::load_or_create(&options.home.development_root())
        .map_err(|error| failed(&error))?;
    let mut launch = Launch::new(&options.image, cid, dir);
    launch.memory_mib = options.memory_mib;
    launch.cpus = options.cpus;
    launch.debug = options.debug;
    launch.isolation = options.isolation;
    let enclave = crate::launch(launch, &root).map_err(|error| failed(&error))?;
    let init = Process::of(enclave.report().pid).ok().flatten();
    Ok(Sandboxed {
        enclave,
        init,
        image: options.image.clone(),
    })
}

impl Guest for Sandboxed {
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
                    How::Killed(_) | How::Unknown => None,
                },
                reason: ended.to_string(),
            },
            Err(error) => GuestEnd {
                code: None,
                reason: format!("it cannot be waited for: {error}"),
            },
        }
    }
}
