//! The driver's refusals, one sentence each: what is wrong, and what to do about it.
//!
//! Numbers and meanings are of `linux/nitro_enclaves.h`; what the driver does before it gives one is in
//! `drivers/virt/nitro_enclaves/ne_misc_dev.c`.

use std::fmt;
use std::io;

use serde::Serialize;

/// What the driver was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Opening `/dev/nitro_enclaves`.
    Open,
    /// `NE_CREATE_VM`.
    Create,
    /// `NE_GET_IMAGE_LOAD_INFO`.
    ImageLoadInfo,
    /// `NE_SET_USER_MEMORY_REGION`.
    Memory,
    /// `NE_ADD_VCPU`.
    Cpu,
    /// `NE_START_ENCLAVE`.
    Start,
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Step::Open => "opening /dev/nitro_enclaves",
            Step::Create => "creating the enclave (NE_CREATE_VM)",
            Step::ImageLoadInfo => "asking where the image goes (NE_GET_IMAGE_LOAD_INFO)",
            Step::Memory => "giving the enclave memory (NE_SET_USER_MEMORY_REGION)",
            Step::Cpu => "giving the enclave a CPU (NE_ADD_VCPU)",
            Step::Start => "starting the enclave (NE_START_ENCLAVE)",
        })
    }
}

/// A refusal of the driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{step} failed: {}", sentence(*.step, *.number))]
pub struct Refusal {
    /// What was asked for.
    pub step: Step,
    /// The error's number: one of `NE_ERR_*` from 256 on, else of `errno`.
    pub number: i32,
}

impl Refusal {
    /// From the number that the last system call of this thread left behind.
    pub(super) fn last(step: Step) -> Refusal {
        Refusal {
            step,
            number: io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        }
    }
}

/// What the pool of CPUs and memory is set by, on Amazon Linux and wherever AWS's allocator is installed.
pub(super) const ALLOCATOR: &str =
    "/etc/nitro_enclaves/allocator.yaml, then `sudo systemctl restart nitro-enclaves-allocator`";

fn sentence(step: Step, number: i32) -> String {
    let fixed = match number {
        256 => {
            "this CPU belongs to the enclave already (NE_ERR_VCPU_ALREADY_USED); stop the enclave and start it again"
        }
        257 => {
            "this CPU is not in the pool for enclaves (NE_ERR_VCPU_NOT_IN_CPU_POOL); another enclave may have just taken it: start again, or put more CPUs into the pool"
        }
        258 => {
            "this CPU's core is none of the pool's (NE_ERR_VCPU_INVALID_CPU_CORE); set the pool to whole cores of one NUMA node"
        }
        259 => {
            "the memory is no multiple of 2 MiB (NE_ERR_INVALID_MEM_REGION_SIZE); this is a fault of anchorhold's: please report it"
        }
        260 => {
            "the memory's address is none of this process (NE_ERR_INVALID_MEM_REGION_ADDR); this is a fault of anchorhold's: please report it"
        }
        261 => {
            "the memory is not aligned to 2 MiB (NE_ERR_UNALIGNED_MEM_REGION_ADDR); this is a fault of anchorhold's: please report it"
        }
        262 => {
            "this memory belongs to the enclave already (NE_ERR_MEM_REGION_ALREADY_USED); this is a fault of anchorhold's: please report it"
        }
        263 => {
            "the memory is not made of huge pages (NE_ERR_MEM_NOT_HUGE_PAGE); reserve some: memory_mib in the allocator's configuration, or `sudo sysctl vm.nr_hugepages=N`"
        }
        264 => {
            "the memory is of another NUMA node than the pool's CPUs (NE_ERR_MEM_DIFFERENT_NUMA_NODE); reserve huge pages on the node of the CPUs (/sys/devices/system/node/nodeN/hugepages)"
        }
        265 => {
            "the memory is in too many pieces (NE_ERR_MEM_MAX_REGIONS); reserve pages of 1 GiB, or free memory and reserve pages of 2 MiB right after the host's start"
        }
        266 => {
            "the enclave was given no memory (NE_ERR_NO_MEM_REGIONS_ADDED); this is a fault of anchorhold's: please report it"
        }
        267 => {
            "the enclave was given no CPU (NE_ERR_NO_VCPUS_ADDED); this is a fault of anchorhold's: please report it"
        }
        268 => {
            "an enclave needs 64 MiB of memory at least (NE_ERR_ENCLAVE_MEM_MIN_SIZE); raise resources.memory_mib in anchorhold.toml, or --memory"
        }
        269 => {
            "an enclave takes whole cores, all threads of them (NE_ERR_FULL_CORES_NOT_USED); give it a multiple of the threads of a core: resources.cpus in anchorhold.toml, or --cpus"
        }
        270 => {
            "the enclave has been started already (NE_ERR_NOT_IN_INIT_STATE); this is a fault of anchorhold's: please report it"
        }
        271 => {
            "this machine has no such CPU (NE_ERR_INVALID_VCPU); set the pool to CPUs that there are"
        }
        272 => "no CPU is free in the pool for enclaves (NE_ERR_NO_CPUS_AVAIL_IN_POOL)",
        273 => {
            "the memory's pages are no multiples of 2 MiB (NE_ERR_INVALID_PAGE_SIZE); reserve huge pages of 2 MiB or 1 GiB"
        }
        274 => {
            "the driver does not know a flag (NE_ERR_INVALID_FLAG_VALUE); it is another version than linux/nitro_enclaves.h of Linux 6.12 describes"
        }
        275 => "an enclave cannot have this CID (NE_ERR_INVALID_ENCLAVE_CID); take one from 16 up",
        _ => return system(step, number),
    };
    match number {
        272 => format!("{fixed}; stop an enclave, or raise cpu_count in {ALLOCATOR}"),
        257 | 258 | 271 => format!("{fixed} (cpu_count in {ALLOCATOR})"),
        _ => fixed.to_owned(),
    }
}

/// What the system's own numbers mean here.
fn system(step: Step, number: i32) -> String {
    let said = io::Error::from_raw_os_error(number);
    let advice = match (step, number) {
        (Step::Open, libc::ENOENT) => {
            "this is no host of Nitro enclaves: on EC2, start the instance with enclaves enabled (EnclaveOptions), and load the driver with `sudo modprobe nitro_enclaves`"
        }
        (Step::Open, libc::EACCES | libc::EPERM) => {
            "your user may not use it: `sudo usermod -aG ne $USER`, and log in anew"
        }
        (Step::Open, libc::ENXIO | libc::ENODEV) => {
            "the device has no driver any more: `sudo modprobe nitro_enclaves`"
        }
        (Step::Create, libc::ENODEV | libc::ENXIO | libc::EIO) => {
            "the Nitro device does not answer; see `dmesg | grep nitro_enclaves`"
        }
        (Step::Memory, libc::EINVAL) => {
            "the pages' physical addresses are not aligned to 2 MiB; reserve huge pages of 2 MiB or 1 GiB"
        }
        (Step::Memory, libc::EFAULT) => {
            "the memory went away while it was handed over; reserve more huge pages on the node of the pool's CPUs"
        }
        (_, libc::ENOMEM) => "the host's kernel is out of memory; free some and start again",
        (_, libc::EMFILE | libc::ENFILE) => {
            "too many files are open; raise the limit (`ulimit -n`) and start again"
        }
        (_, libc::ENOTTY) => "/dev/nitro_enclaves is not the driver's device",
        (Step::Start, libc::EEXIST | libc::EADDRINUSE) => {
            "another enclave on this host has this CID; start again with another"
        }
        (Step::Start | Step::Memory | Step::Cpu, _) => {
            "the Nitro hypervisor refused; see `dmesg | grep nitro_enclaves`, and whether the image is an EIF for this processor"
        }
        _ => "see `dmesg | grep nitro_enclaves`",
    };
    format!("{said}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_driver_has_its_name_and_a_remedy() {
        // linux/nitro_enclaves.h: 256 to 275 without a gap.
        for number in 256..=275 {
            let refusal = Refusal {
                step: Step::Start,
                number,
            };
            let text = refusal.to_string();
            let (_, after) = text.split_once("NE_ERR_").expect(&text);
            let (name, remedy) = after.split_once(')').expect(&text);
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte == b'_'),
                "{text}"
            );
            assert!(remedy.len() > 20, "{text}");
        }
    }

    #[test]
    fn a_missing_device_and_a_forbidden_one_are_told_apart() {
        let said = |number| {
            Refusal {
                step: Step::Open,
                number,
            }
            .to_string()
        };
        assert!(said(libc::ENOENT).contains("EnclaveOptions"));
        assert!(said(libc::EACCES).contains("usermod -aG ne"));
    }
}
