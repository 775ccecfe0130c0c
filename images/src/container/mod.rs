//! Container images as a source: an OCI image layout (a folder or a tar archive of one), and what `docker save` and
//! `podman save` write.
//!
//! Nothing of such an image is unpacked on the building machine, and nothing of it is run. Whoever made it may be an
//! attacker: digests are checked before anything is taken from a blob, what is read into memory is bounded, and an
//! entry that no honest tool writes is refused by its name. The image is read twice: once to learn what is in it, and
//! once to put the files' contents where they belong.

mod config;
mod error;
mod layers;
mod records;
mod select;
mod store;
mod tree;
mod zstd;

use std::path::{Path, PathBuf};

pub(crate) use config::{Config, job};
pub use error::{ContainerError, EntryProblem};
pub(crate) use layers::{LayerFile, Layers};

use crate::contents::Contents;
use crate::cpio::Limits;
use crate::eif::Architecture;

/// What to take out of a container image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerOptions {
    /// The layout's folder, or the archive.
    pub path: PathBuf,
    /// Which image, where there are several: a tag or an `org.opencontainers.image.ref.name`.
    pub reference: Option<String>,
    /// Whether extended attributes (capabilities, access control lists) are left out rather than refused: a ramdisk
    /// cannot hold them.
    pub drop_attributes: bool,
    /// What the image may cost: bytes of all its layers unpacked, and entries.
    pub limits: Limits,
}

impl ContainerOptions {
    /// The only image in a file or folder, nothing left out.
    pub fn new(path: PathBuf) -> ContainerOptions {
        ContainerOptions {
            path,
            reference: None,
            drop_attributes: false,
            limits: Limits::default(),
        }
    }
}

/// A container image whose every byte was read once.
pub(crate) struct Container {
    /// Its files, whose contents are still in its layers.
    pub(crate) contents: Contents,
    /// What it says about how it is to be run.
    pub(crate) config: Config,
    /// What it is called, if it is.
    pub(crate) name: Option<String>,
}

/// Reads a container image for one kind of processor. `read` hears how many more bytes of the layers were unpacked.
pub(crate) fn open(
    options: &ContainerOptions,
    architecture: Architecture,
    read: &mut dyn FnMut(u64),
) -> Result<Container, ContainerError> {
    let store = store::Store::open(&options.path)?;
    let selected = select::select(&store, options.reference.as_deref(), architecture)?;
    let layers = Layers::new(&selected, options)?;
    let contents = tree::contents(layers, read)?;
    Ok(Container {
        contents,
        config: selected.config,
        name: selected.name,
    })
}

/// The paths that plain layers give when they are put together, sorted. Digests are not asked for: this is for looking
/// at layers alone.
pub fn layer_names(layers: &[&[u8]], limits: Limits) -> Result<Vec<PathBuf>, ContainerError> {
    let layers = Layers::of_archives(layers, limits);
    Ok(tree::contents(layers, &mut |_| ())?.names())
}

/// A blob's or file's name for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
