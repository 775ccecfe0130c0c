//! What this host has of what a start needs, backend by backend, each with its remedy where it is missing. It looks and tries,
//! and changes nothing.

#[expect(unsafe_code, reason = "one system call that no safe crate offers")]
mod sys;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::nitro::hardware::{Hardware, Node};
use crate::nitro::plan::{Lack, Need, Plan};
use crate::nitro::refusal::{Refusal, Step};
use crate::{Backend, nitro, qemu, sandbox};

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but less well than it could.
    Note,
    /// The start fails.
    Bad,
}

impl fmt::Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Bad => "BAD",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The backend that needs it; none where all do.
    pub backend: Option<Backend>,
    /// What was looked at: `device`, `huge pages`, …
    pub subject: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found and, unless that is good, what to do.
    pub said: String,
}

impl Finding {
    /// A finding about something that all backends need.
    pub fn of_host(subject: &'static str, verdict: Verdict, said: impl Into<String>) -> Finding {
        Finding {
            backend: None,
            subject,
            verdict,
            said: said.into(),
        }
    }

    fn of(
        backend: Backend,
        subject: &'static str,
        verdict: Verdict,
        said: impl Into<String>,
    ) -> Finding {
        Finding {
            backend: Some(backend),
            ..Finding::of_host(subject, verdict, said)
        }
    }
}

/// What the enclave would need, as far as that is known.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
    /// The image's size in bytes.
    pub image_bytes: u64,
    /// Whether the image has a kernel.
    pub has_kernel: bool,
}

/// Whether a backend can start enclaves, by its findings.
pub fn works(backend: Backend, findings: &[Finding]) -> bool {
    findings
        .iter()
        .filter(|finding| finding.backend == Some(backend))
        .all(|finding| finding.verdict != Verdict::Bad)
}

/// What all backends need.
pub fn host(wanted: Option<Wanted>) -> Vec<Finding> {
    let mut findings = vec![match sys::clock_is_synchronised() {
        Some(true) => Finding::of_host("clock", Verdict::Good, "is kept in step"),
        Some(false) => Finding::of_host(
            "clock",
            Verdict::Note,
            "nothing keeps it in step, and documents are judged by their age: run chrony or systemd-timesyncd (a container's host may do so without the kernel's knowing)",
        ),
        None => Finding::of_host(
            "clock",
            Verdict::Note,
            "the kernel does not say whether it is kept in step",
        ),
    }];
    if let (Some(wanted), Some(available)) = (wanted, available_mib()) {
        let needed = u64::from(wanted.memory_mib);
        findings.push(if available >= needed {
            Finding::of_host(
                "memory",
                Verdict::Good,
                format!("{available} MiB are available, the enclave may use {needed}"),
            )
        } else {
            Finding::of_host(
                "memory",
                Verdict::Note,
                format!("{available} MiB are available, and the enclave may use {needed}: stop something, or give it less (resources.memory_mib, --memory); on nitro its memory is set aside already"),
            )
        });
    }
    findings
}

fn available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

/// The sandbox: by starting one, with a program that ends at once.
pub fn of_sandbox() -> Vec<Finding> {
    let finding = |verdict, said| Finding::of(Backend::Sandbox, "sandbox", verdict, said);
    vec![match sandbox::try_out() {
        Ok(report) => finding(
            Verdict::Good,
            format!("one was started and ended ({})", report.limits),
        ),
        Err(error) => finding(Verdict::Bad, error.to_string()),
    }]
}

/// QEMU and KVM.
pub fn of_qemu(wanted: Option<Wanted>) -> Vec<Finding> {
    let finding =
        |subject, verdict, said: String| Finding::of(Backend::Qemu, subject, verdict, said);
    let mut findings = vec![match qemu::Program::find() {
        Ok(program) => finding(
            "QEMU",
            Verdict::Good,
            format!("{} ({})", program.version, program.path.display()),
        ),
        Err(missing) => finding("QEMU", Verdict::Bad, missing.to_string()),
    }];
    findings.push(
        match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(_) => finding(
            "KVM",
            Verdict::Good,
            "can be opened; whether it can run a kernel shows at the first start, and where it cannot, that is emulated"
                .to_owned(),
        ),
            Err(error) => finding(
                "KVM",
                Verdict::Note,
                format!(
                    "machines are emulated, and start in seconds: /dev/kvm: {error}{}",
                    match error.kind() {
                        io::ErrorKind::PermissionDenied =>
                            " (`sudo usermod -aG kvm $USER`, and log in anew)",
                        _ => "",
                    }
                ),
            ),
        },
    );
    findings.extend(kernel(Backend::Qemu, wanted));
    findings
}

/// The driver, its pool and its memory; `sys` is `/sys`.
pub fn of_nitro(sys: &Path, wanted: Option<Wanted>) -> Vec<Finding> {
    let finding =
        |subject, verdict, said: String| Finding::of(Backend::Nitro, subject, verdict, said);
    let device = File::options().read(true).write(true).open(nitro::DEVICE);
    let mut findings = vec![match device {
        Ok(_) => finding(
            "device",
            Verdict::Good,
            format!("{} can be used", nitro::DEVICE),
        ),
        Err(error) => {
            let refusal = Refusal {
                step: Step::Open,
                number: error.raw_os_error().unwrap_or(libc::EIO),
            };
            let missing = finding("device", Verdict::Bad, refusal.to_string());
            if error.kind() == io::ErrorKind::NotFound
                && !sys.join("module/nitro_enclaves").exists()
            {
                // What else is missing follows from that.
                return vec![missing];
            }
            missing
        }
    }];
    let hardware = match Hardware::read(sys) {
        Ok(hardware) => hardware,
        Err(error) => {
            findings.push(finding("pool", Verdict::Bad, error.to_string()));
            return findings;
        }
    };
    let Some(pool) = hardware.pool.as_ref().filter(|pool| !pool.is_empty()) else {
        let lack = if hardware.pool.is_none() {
            Lack::Driver
        } else {
            Lack::Pool
        };
        findings.push(finding("pool", Verdict::Bad, lack.to_string()));
        return findings;
    };
    let cores = pool.len() as u32 / hardware.threads_per_core.max(1);
    findings.push(finding(
        "pool",
        Verdict::Good,
        format!("{} CPUs ({cores} cores), those in use included", pool.len()),
    ));
    let of_pool = |node: &&Node| pool.iter().any(|cpu| node.cpus.contains(cpu));
    for node in hardware.nodes.iter().filter(of_pool) {
        let free: u64 = node
            .pages
            .iter()
            .map(|pages| pages.bytes * pages.free)
            .sum();
        let total: u64 = node
            .pages
            .iter()
            .map(|pages| pages.bytes * pages.total)
            .sum();
        let verdict = if free == 0 {
            Verdict::Bad
        } else {
            Verdict::Good
        };
        let remedy = if free == 0 {
            ": raise memory_mib in /etc/nitro_enclaves/allocator.yaml, or stop an enclave"
        } else {
            ""
        };
        findings.push(finding(
            "huge pages",
            verdict,
            format!(
                "{} MiB of {} MiB are free on NUMA node {}{remedy}",
                free >> 20,
                total >> 20,
                node.id
            ),
        ));
    }
    if let Some(wanted) = wanted {
        let need = Need {
            memory_mib: wanted.memory_mib,
            cpus: wanted.cpus,
            image_bytes: wanted.image_bytes,
        };
        findings.push(match Plan::of(&hardware, need) {
            Ok(plan) if plan.remarks.is_empty() => finding(
                "plan",
                Verdict::Good,
                "this image can be started".to_owned(),
            ),
            Ok(plan) => finding("plan", Verdict::Note, plan.remarks.join("; ")),
            Err(lack) => finding("plan", Verdict::Bad, lack.to_string()),
        });
    }
    findings.extend(kernel(Backend::Nitro, wanted));
    findings
}

fn kernel(backend: Backend, wanted: Option<Wanted>) -> Option<Finding> {
    wanted.filter(|wanted| !wanted.has_kernel).map(|_| {
        Finding::of(
            backend,
            "image",
            Verdict::Bad,
            "has no kernel: build it with `anchorhold build --kernel FILE` (images/kernel makes one)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nitro::hardware::tests::tree;

    fn wanted(memory_mib: u32, cpus: u32) -> Wanted {
        Wanted {
            memory_mib,
            cpus,
            image_bytes: 8 << 20,
            has_kernel: true,
        }
    }

    fn said<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
        findings
            .iter()
            .find(|finding| finding.subject == subject)
            .unwrap()
    }

    #[test]
    fn a_sandbox_is_tried_by_starting_one() {
        let findings = of_sandbox();
        assert!(works(Backend::Sandbox, &findings), "{findings:?}");
    }

    #[test]
    fn a_host_of_nitro_enclaves_is_looked_over() {
        let sys = tree();
        std::fs::write(
            sys.path().join("module/nitro_enclaves/parameters/ne_cpus"),
            "2-3\n",
        )
        .unwrap();
        let findings = of_nitro(sys.path(), Some(wanted(256, 2)));
        assert_eq!(
            said(&findings, "pool").said,
            "2 CPUs (1 cores), those in use included"
        );
        assert_eq!(
            said(&findings, "huge pages").said,
            "2248 MiB of 3274 MiB are free on NUMA node 0"
        );
        assert_eq!(said(&findings, "plan").verdict, Verdict::Note);
        let findings = of_nitro(sys.path(), Some(wanted(256, 1)));
        assert!(said(&findings, "plan").said.contains("whole cores"));
        assert!(!works(Backend::Nitro, &findings));
        std::fs::write(
            sys.path().join("module/nitro_enclaves/parameters/ne_cpus"),
            "\n",
        )
        .unwrap();
        let findings = of_nitro(sys.path(), None);
        assert!(said(&findings, "pool").said.contains("allocator.yaml"));
    }

    #[test]
    fn an_image_without_a_kernel_is_for_the_sandbox_alone() {
        let plain = Wanted {
            has_kernel: false,
            ..wanted(256, 2)
        };
        let findings = of_qemu(Some(plain));
        assert_eq!(said(&findings, "image").verdict, Verdict::Bad);
        assert!(!works(Backend::Qemu, &findings));
    }

    #[test]
    fn more_memory_than_there_is_is_remarked_on() {
        let findings = host(Some(wanted(u32::MAX, 1)));
        assert_eq!(said(&findings, "memory").verdict, Verdict::Note);
    }
}
