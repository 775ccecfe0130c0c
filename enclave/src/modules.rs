//! Kernel modules of the image, for kernels that reach their devices by modules: loaded once, before anything of the owner's.
//!
//! They are measured with the runtime (PCR1). Nothing else is ever loaded, and a module that cannot be is told on the
//! console: what is missing then says so itself.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::sys;

/// Where the image has them, named in the order in which they are to be loaded.
const FOLDER: &str = "/anchorhold/modules";

/// Loads the image's modules, where the machine has no security module yet.
pub(crate) fn load() {
    // A kernel that has its drivers built in, or a sandbox, whose kernel is the host's.
    if Path::new("/dev/nsm").exists() {
        return;
    }
    for path in in_order(Path::new(FOLDER)) {
        let loaded =
            File::open(&path).and_then(|file| sys::load_module(file.as_fd(), is_compressed(&path)));
        if let Err(error) = loaded {
            crate::log!("the module {} was not loaded: {error}", path.display());
        }
    }
}

fn in_order(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    paths.sort();
    paths
}

/// Whether the kernel has to decompress it (as distributions name them: `.ko.xz`, `.ko.zst`, `.ko.gz`).
fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension != "ko")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_in_the_order_of_their_names() {
        let folder =
            std::env::temp_dir().join(format!("anchorhold-modules-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["010-c.ko", "000-a.ko.xz", "001-b.ko.xz"] {
            fs::write(folder.join(name), b"").unwrap();
        }
        let names: Vec<_> = in_order(&folder)
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(names, ["000-a.ko.xz", "001-b.ko.xz", "010-c.ko"]);
        assert!(is_compressed(Path::new("a.ko.xz")) && !is_compressed(Path::new("a.ko")));
        assert!(in_order(Path::new("/nowhere")).is_empty());
    }
}
