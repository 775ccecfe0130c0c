//! Enclave images: reading, measuring, describing and building them reproducibly.
//!
//! The file format is AWS's enclave image format (EIF), version 4. See [`eif`] for its bytes, [`Image`] for a file that
//! was read, [`build()`] for making one.
//!
//! This crate never starts anything from an image, and never trusts one: whoever reads an image may have got it from an
//! attacker. What it measures it has read to the last byte.
#![forbid(unsafe_code)]

mod audit;
mod build;
pub mod cargo_static;
mod container;
mod contents;
pub mod cpio;
mod describe;
pub mod diff;
pub mod eif;
mod elf;
mod folder;
mod gzip;
mod image;
mod job;
mod libraries;
mod measure;
mod policy;
mod ramdisk;
pub mod sbom;
pub mod signature;
pub mod signing;
mod storage;
pub mod trust;
mod write;

pub use build::{BuildError, BuildOptions, Built, Progress, Source, build, check};
pub use container::{ContainerError, ContainerOptions, EntryProblem, layer_names};
pub use contents::FolderError;
pub use cpio::{CpioError, Entry, EntryKind, Limits};
pub use describe::{Backend, Description};
pub use eif::{Architecture, FormatError, Section, SectionKind};
pub use elf::ElfError;
pub use image::{BuildMetadata, Image, ImageError, Metadata, Unmeasured};
pub use libraries::LibraryError;
pub use measure::{Measurements, signer_pcr};
pub use policy::{KeyPolicy, PolicyError};
pub use ramdisk::{Compression, Ramdisk, RamdiskReader};

/// What stands in the kernel section of an image without a kernel.
pub const NO_KERNEL: &str = "This image holds no kernel: it runs in anchorhold's sandbox only.\n";

/// The kernel version in the metadata of an image without a kernel.
pub const NO_KERNEL_VERSION: &str = "none (sandbox only)";

/// The kernel's command line where none is given: AWS's own.
pub const DEFAULT_COMMAND_LINE: &str = "reboot=k panic=30 pci=off nomodules console=ttyS0 i8042.noaux i8042.nomux \
     i8042.nopnp i8042.dumbkbd random.trust_cpu=on";

/// Behind a command line it says that the kernel finds its devices by ACPI, and does not take them from the command line, as
/// kernels for Nitro enclaves do. Kernels of distributions need it on the qemu backend.
pub const ACPI: &str = "acpi=force";
