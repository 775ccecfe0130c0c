//! What a start takes from the host: CPUs of the pool and huge pages of its node. Pure: what the host has and what the enclave
//! needs come in, and either a plan comes out or what is missing, with its remedy.

use serde::Serialize;

use super::hardware::{Hardware, Pages};
use super::refusal::ALLOCATOR;

/// The driver takes memory in pieces of this size (`NE_MIN_MEM_REGION_SIZE`).
const PIECE: u64 = 2 << 20;
/// The least memory of an enclave (`NE_MIN_ENCLAVE_MEM_SIZE`).
const LEAST: u64 = 64 << 20;
/// Where the image begins in the enclave's memory (`NE_EIF_LOAD_OFFSET`), and what its kernel needs beside the ramdisks.
const BESIDE_IMAGE: u64 = (8 + 24) << 20;
/// AWS's own tool asks for so many times the image's size, since ramdisks are unpacked into memory.
const COMFORTABLE: u64 = 4;

/// What an enclave needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
    /// The image's size in bytes.
    pub image_bytes: u64,
}

/// What a start takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The NUMA node of CPUs and memory.
    pub node: u32,
    /// CPUs, whole cores together.
    pub cpus: u32,
    /// Bytes of a page and how many of them, largest first.
    pub pages: Vec<(u64, u64)>,
    /// What the enclave gets in bytes: what it needs, rounded up to pages.
    pub memory_bytes: u64,
    /// What is worth knowing and forbids nothing.
    pub remarks: Vec<String>,
}

/// Why an enclave cannot be started on this host as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// The driver is not loaded.
    #[error(
        "the driver for Nitro enclaves is not loaded: on EC2, start the instance with enclaves enabled (EnclaveOptions), and `sudo modprobe nitro_enclaves`"
    )]
    Driver,
    /// There is no pool.
    #[error("no CPUs are set aside for enclaves: set cpu_count in {ALLOCATOR}")]
    Pool,
    /// Half a core.
    #[error(
        "an enclave takes whole cores, and a core of this machine has {threads} threads: ask for {} CPUs instead of {asked} (resources.cpus in anchorhold.toml, or --cpus)",
        asked.next_multiple_of(*threads)
    )]
    HalfCore {
        /// CPUs that were asked for.
        asked: u32,
        /// Threads of a core.
        threads: u32,
    },
    /// The pool is too small, even if nobody else used it.
    #[error(
        "the enclave needs {asked} CPUs, and the pool has {pool} in all: raise cpu_count in {ALLOCATOR}"
    )]
    Cpus {
        /// CPUs that were asked for.
        asked: u32,
        /// Those of the pool, in use or not.
        pool: u32,
    },
    /// The pool spans nodes.
    #[error(
        "the pool for enclaves has CPUs of the NUMA nodes {}; it must be of one: set cpu_pool in {ALLOCATOR}",
        nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
    )]
    Nodes {
        /// The nodes.
        nodes: Vec<u32>,
    },
    /// An enclave smaller than the driver allows, or than the image.
    #[error(
        "{asked_mib} MiB of memory are too little for this image: it needs {least_mib} MiB at least (resources.memory_mib in anchorhold.toml, or --memory)"
    )]
    Least {
        /// MiB that were asked for.
        asked_mib: u32,
        /// What it takes at least.
        least_mib: u64,
    },
    /// Too few free huge pages on the node.
    #[error(
        "the enclave needs {need_mib} MiB in huge pages on NUMA node {node}, and {free_mib} MiB of {total_mib} are free: stop an enclave, or raise memory_mib in {ALLOCATOR}"
    )]
    Memory {
        /// The node of the pool's CPUs.
        node: u32,
        /// What it takes.
        need_mib: u64,
        /// What is free.
        free_mib: u64,
        /// What there is.
        total_mib: u64,
    },
}

impl Plan {
    /// What to take of `hardware`. Other enclaves may use CPUs of the pool, which the driver tells nobody: that no CPU is free
    /// shows only when the enclave is made.
    pub fn of(hardware: &Hardware, need: Need) -> Result<Plan, Lack> {
        let pool = hardware.pool.as_ref().ok_or(Lack::Driver)?;
        if pool.is_empty() {
            return Err(Lack::Pool);
        }
        let cpus = need.cpus.max(1);
        let threads = hardware.threads_per_core.max(1);
        if !cpus.is_multiple_of(threads) {
            return Err(Lack::HalfCore {
                asked: cpus,
                threads,
            });
        }
        if cpus as usize > pool.len() {
            return Err(Lack::Cpus {
                asked: cpus,
                pool: pool.len() as u32,
            });
        }
        let nodes: Vec<&super::hardware::Node> = hardware
            .nodes
            .iter()
            .filter(|node| pool.iter().any(|cpu| node.cpus.contains(cpu)))
            .collect();
        let node = match nodes[..] {
            [node] => node,
            // A kernel without NUMA shows no nodes, and no pages by node either.
            [] => return Err(Lack::Pool),
            _ => {
                return Err(Lack::Nodes {
                    nodes: nodes.iter().map(|node| node.id).collect(),
                });
            }
        };

        let least = LEAST.max(need.image_bytes + BESIDE_IMAGE);
        let asked = u64::from(need.memory_mib) << 20;
        if asked < least {
            return Err(Lack::Least {
                asked_mib: need.memory_mib,
                least_mib: least.div_ceil(1 << 20),
            });
        }
        let wanted = asked.next_multiple_of(PIECE);
        let pages = choose(&node.pages, wanted).ok_or_else(|| {
            let sum = |count: fn(&Pages) -> u64| {
                let bytes = node.pages.iter().map(|pages| pages.bytes * count(pages));
                bytes.sum::<u64>() >> 20
            };
            Lack::Memory {
                node: node.id,
                need_mib: wanted >> 20,
                free_mib: sum(|pages| pages.free),
                total_mib: sum(|pages| pages.total),
            }
        })?;
        let memory_bytes = pages.iter().map(|(bytes, count)| bytes * count).sum();
        let mut remarks = Vec::new();
        if memory_bytes > wanted {
            remarks.push(format!(
                "the enclave gets {} MiB instead of {}: the free pages do not add up to less",
                memory_bytes >> 20,
                wanted >> 20
            ));
        }
        if asked < COMFORTABLE * need.image_bytes {
            remarks.push(format!(
                "nitro-cli asks for four times the image's size, {} MiB; with less, unpacking its ramdisks may fail",
                (COMFORTABLE * need.image_bytes).div_ceil(1 << 20)
            ));
        }
        Ok(Plan {
            node: node.id,
            cpus,
            pages,
            memory_bytes,
            remarks,
        })
    }
}

/// Pages that make up `wanted` bytes with the least waste, large ones first: the fewer the pieces, the better the driver likes
/// it. `None`: there are too few.
fn choose(pages: &[Pages], wanted: u64) -> Option<Vec<(u64, u64)>> {
    let usable: Vec<&Pages> = pages
        .iter()
        .filter(|pages| pages.bytes >= PIECE && pages.bytes.is_multiple_of(PIECE))
        .collect();
    let mut left = wanted;
    let mut taken: Vec<u64> = Vec::with_capacity(usable.len());
    for pages in &usable {
        let count = pages.free.min(left / pages.bytes);
        left -= count * pages.bytes;
        taken.push(count);
    }
    // What is left is less than the smallest page, or small pages have run out: one larger page covers it, if there is one.
    let mut at = usable.len();
    while left > 0 {
        at = at.checked_sub(1)?;
        let (pages, count) = (usable.get(at)?, taken.get_mut(at)?);
        let more = left.div_ceil(pages.bytes);
        if pages.free - *count >= more {
            *count += more;
            let mut spare = more * pages.bytes - left;
            left = 0;
            // Smaller pages that it makes needless.
            for (pages, count) in usable.iter().zip(&mut taken).skip(at + 1) {
                let needless = (spare / pages.bytes).min(*count);
                *count -= needless;
                spare -= needless * pages.bytes;
            }
        }
    }
    let chosen = usable
        .iter()
        .zip(taken)
        .map(|(pages, count)| (pages.bytes, count));
    Some(chosen.filter(|(_, count)| *count > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::super::hardware::tests::tree;
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn hardware() -> Hardware {
        let mut hardware = Hardware::read(tree().path()).unwrap();
        hardware.pool = Some(vec![2, 3]);
        hardware
    }

    fn need(memory_mib: u32, cpus: u32) -> Need {
        Need {
            memory_mib,
            cpus,
            image_bytes: 8 * MIB,
        }
    }

    #[test]
    fn a_plan_takes_large_pages_first_and_from_the_pools_node() {
        let plan = Plan::of(&hardware(), need(1024 + 101, 2)).unwrap();
        assert_eq!(plan.node, 0);
        assert_eq!(plan.pages, [(1 << 30, 1), (2 << 20, 51)]);
        assert_eq!(plan.memory_bytes, 1126 * MIB);
    }

    #[test]
    fn a_larger_page_stands_in_where_small_ones_have_run_out() {
        // 100 small ones are free, and 128 would be needed.
        let plan = Plan::of(&hardware(), need(256, 2)).unwrap();
        assert_eq!(plan.pages, [(1 << 30, 1)]);
        assert!(plan.remarks[0].contains("1024 MiB instead of 256"));
    }

    #[test]
    fn each_lack_names_its_remedy() {
        let lack = |hardware: &Hardware, need| Plan::of(hardware, need).unwrap_err().to_string();
        let mut other = hardware();
        assert!(lack(&other, need(256, 1)).contains("ask for 2 CPUs instead of 1"));
        assert!(lack(&other, need(256, 4)).contains("cpu_count"));
        assert!(lack(&other, need(16, 2)).contains("64 MiB at least"));
        assert!(lack(&other, need(8192, 2)).contains("2248 MiB of 3274 are free"));
        other.pool = Some(vec![2, 3, 6, 7]);
        assert!(lack(&other, need(256, 2)).contains("nodes 0 and 1"));
        other.pool = Some(Vec::new());
        assert!(lack(&other, need(256, 2)).contains("allocator.yaml"));
        other.pool = None;
        assert!(lack(&other, need(256, 2)).contains("modprobe"));
    }

    #[test]
    fn an_image_larger_than_the_memory_is_refused_and_a_tight_one_remarked_on() {
        let large = Need {
            image_bytes: 250 * MIB,
            ..need(256, 2)
        };
        let lack = Plan::of(&hardware(), large).unwrap_err();
        assert_eq!(
            lack,
            Lack::Least {
                asked_mib: 256,
                least_mib: 282
            }
        );
        let tight = Need {
            image_bytes: 100 * MIB,
            ..need(150, 2)
        };
        let plan = Plan::of(&hardware(), tight).unwrap();
        assert!(plan.remarks[0].contains("400 MiB"), "{:?}", plan.remarks);
    }

    proptest! {
        /// Never less than is wanted, never a page that is not free, and never one that could be left out.
        #[test]
        fn pages_suffice_and_none_is_needless(
            large in 0u64..4, small in 0u64..1200, wanted in 1u64..3000,
        ) {
            let free = |bytes, free| Pages { bytes, total: free, free };
            let pages = [free(1 << 30, large), free(2 << 20, small), free(64 << 10, 1000)];
            let wanted = wanted * PIECE;
            match choose(&pages, wanted) {
                None => prop_assert!(large * 512 + small < wanted / PIECE),
                Some(chosen) => {
                    let sum: u64 = chosen.iter().map(|(bytes, count)| bytes * count).sum();
                    prop_assert!(sum >= wanted);
                    for (bytes, count) in &chosen {
                        let there = pages.iter().find(|pages| pages.bytes == *bytes).unwrap();
                        prop_assert!(*count <= there.free && *count > 0);
                        prop_assert!(sum - bytes < wanted, "a page of {bytes} could go");
                    }
                }
            }
        }
    }
}
