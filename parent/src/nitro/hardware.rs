//! What this host has set aside for enclaves: the pool of CPUs, and free huge pages on each NUMA node. Read from `/sys`, and
//! never changed.
//!
//! The driver takes CPUs of the pool away from the host, so that `cpulist` of a node does not name them any more; the node's
//! folder still has an entry for each.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The driver's parameter with the pool, as a list of CPUs.
const POOL: &str = "module/nitro_enclaves/parameters/ne_cpus";

/// Huge pages of one size on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pages {
    /// Bytes of a page.
    pub bytes: u64,
    /// How many there are.
    pub total: u64,
    /// How many of them nobody uses.
    pub free: u64,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its CPUs, those included that were taken away from the host.
    pub cpus: Vec<u32>,
    /// Its huge pages, largest first.
    pub pages: Vec<Pages>,
}

/// What this host has for enclaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// The pool of CPUs. `None`: the driver is not loaded.
    pub pool: Option<Vec<u32>>,
    /// Threads of a core: an enclave takes a multiple of this many CPUs.
    pub threads_per_core: u32,
    /// The nodes, by number.
    pub nodes: Vec<Node>,
}

/// Why that cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file says something that this program does not understand.
    #[error("{} says {text:?}, which is no {expected}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl Hardware {
    /// Reads it below `sys`, which is `/sys` but in tests.
    pub fn read(sys: &Path) -> Result<Hardware, HardwareError> {
        let mut nodes = Vec::new();
        for (id, folder) in numbered(&sys.join("devices/system/node"), "node")? {
            let cpus = numbered(&folder, "cpu")?.into_keys().collect();
            let mut pages = Vec::new();
            let sizes = folder.join("hugepages");
            for (kib, folder) in numbered(&sizes, "hugepages-")? {
                pages.push(Pages {
                    bytes: u64::from(kib) << 10,
                    total: number(&folder.join("nr_hugepages"))?,
                    free: number(&folder.join("free_hugepages"))?,
                });
            }
            pages.reverse();
            nodes.push(Node { id, cpus, pages });
        }
        let pool = match text(&sys.join(POOL))? {
            None => None,
            // Nothing was ever set.
            Some(text) if text.is_empty() || text == "(null)" => Some(Vec::new()),
            Some(text) => Some(cpu_list(&text).ok_or_else(|| HardwareError::Text {
                path: sys.join(POOL),
                text,
                expected: "list of CPUs",
            })?),
        };
        // CPU 0 is always the host's own.
        let siblings = sys.join("devices/system/cpu/cpu0/topology/thread_siblings_list");
        let threads_per_core = match text(&siblings)? {
            None => 1,
            Some(text) => cpu_list(&text)
                .filter(|cpus| !cpus.is_empty())
                .ok_or(HardwareError::Text {
                    path: siblings,
                    text,
                    expected: "list of CPUs",
                })?
                .len() as u32,
        };
        Ok(Hardware {
            pool,
            threads_per_core,
            nodes,
        })
    }
}

/// The entries of a folder whose names are `prefix` and a number (and, for huge pages, `kB`), by number. None where the folder
/// is not there.
fn numbered(folder: &Path, prefix: &str) -> Result<BTreeMap<u32, PathBuf>, HardwareError> {
    let read_error = |source| HardwareError::Read {
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name();
        let digits = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .map(|rest| rest.strip_suffix("kB").unwrap_or(rest));
        if let Some(Ok(number)) = digits.map(str::parse) {
            found.insert(number, entry.path());
        }
    }
    Ok(found)
}

/// A file's text without the end of its line; `None` where there is no such file.
fn text(path: &Path) -> Result<Option<String>, HardwareError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HardwareError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn number(path: &Path) -> Result<u64, HardwareError> {
    let text = text(path)?.unwrap_or_default();
    text.parse().map_err(|_| HardwareError::Text {
        path: path.to_owned(),
        text,
        expected: "number",
    })
}

/// CPUs of a list such as `1-3,7` (the kernel's `cpu-lists`), in order, each once.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    /// `CONFIG_NR_CPUS` at its largest.
    const MOST: u32 = 8192;
    let mut cpus = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tree as `/sys` of an instance with two nodes, four CPUs each, two threads a core, CPUs 2, 3, 6 and 7 in the pool.
    pub(crate) fn tree() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (node, cpus, small, large) in [(0, [0, 1, 2, 3], 100, 2), (1, [4, 5, 6, 7], 7, 0)] {
            let folder = format!("devices/system/node/node{node}");
            for cpu in cpus {
                write(&format!("{folder}/cpu{cpu}/online"), "");
            }
            write(&format!("{folder}/cpulist"), "whatever\n");
            write(&format!("{folder}/cpumap"), "ff\n");
            for (size, free) in [("2048kB", small), ("1048576kB", large)] {
                let pages = format!("{folder}/hugepages/hugepages-{size}");
                write(&format!("{pages}/nr_hugepages"), &format!("{}\n", free + 1));
                write(&format!("{pages}/free_hugepages"), &format!("{free}\n"));
            }
        }
        write(
            "devices/system/cpu/cpu0/topology/thread_siblings_list",
            "0-1\n",
        );
        write(POOL, "2-3,6-7\n");
        sys
    }

    #[test]
    fn cpus_of_the_pool_and_free_pages_are_read_by_node() {
        let sys = tree();
        let hardware = Hardware::read(sys.path()).unwrap();
        assert_eq!(hardware.pool, Some(vec![2, 3, 6, 7]));
        assert_eq!(hardware.threads_per_core, 2);
        assert_eq!(hardware.nodes.len(), 2);
        assert_eq!(hardware.nodes[1].cpus, [4, 5, 6, 7]);
        let sizes = hardware.nodes[0].pages.iter().map(|pages| pages.bytes);
        assert_eq!(sizes.collect::<Vec<_>>(), [1 << 30, 2 << 20]);
        assert_eq!(hardware.nodes[0].pages[0].free, 2);
        assert_eq!(hardware.nodes[0].pages[1].total, 101);
    }

    #[test]
    fn a_host_without_the_driver_is_told_from_one_with_an_empty_pool() {
        let sys = tree();
        std::fs::write(sys.path().join(POOL), "\n").unwrap();
        assert_eq!(Hardware::read(sys.path()).unwrap().pool, Some(Vec::new()));
        std::fs::remove_file(sys.path().join(POOL)).unwrap();
        assert_eq!(Hardware::read(sys.path()).unwrap().pool, None);
        std::fs::write(sys.path().join(POOL), "3-1").unwrap();
        let error = Hardware::read(sys.path()).unwrap_err().to_string();
        assert!(
            error.contains("ne_cpus") && error.contains("3-1"),
            "{error}"
        );
    }

    #[test]
    fn this_machine_can_be_read() {
        Hardware::read(Path::new("/sys")).unwrap();
    }

    proptest! {
        #[test]
        fn any_list_is_understood_or_refused(text in "[0-9,\\- ]{0,40}") {
            let _ = cpu_list(&text);
        }

        #[test]
        fn every_list_is_understood(cpus in prop::collection::btree_set(0u32..8192, 0..20)) {
            let text = cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(cpu_list(&text), Some(cpus.into_iter().collect()));
        }
    }
}
