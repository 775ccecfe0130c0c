//! Why a container image is refused. Messages name the entry, the layer it is in, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a container image is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// It cannot be opened.
    #[error("cannot open the container image {}: {source}", .path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A part of it cannot be read.
    #[error("cannot read {name} of the container image: {source}")]
    Read {
        /// Which part.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// It is neither a layout nor an archive of one.
    #[error("{} {problem}", .path.display())]
    NoImage {
        /// What was named.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// A file that must be there is not.
    #[error("the container image has no {name}: it is incomplete")]
    Missing {
        /// The file.
        name: String,
    },
    /// JSON that cannot be read.
    #[error("{name} of the container image: {source}")]
    Json {
        /// The file.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A file that is larger than such a file ever is.
    #[error("{name} of the container image has {size} bytes, and at most {limit} are read")]
    TooLarge {
        /// The file.
        name: String,
        /// Its length.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A blob of another length than its descriptor says.
    #[error(
        "{name} has {found} bytes, and its descriptor says {stated}: the container image was damaged or changed"
    )]
    Size {
        /// The blob.
        name: String,
        /// What its descriptor says.
        stated: u64,
        /// What there is.
        found: u64,
    },
    /// A blob that is another than its name says.
    #[error("{name} has the digest {found}: the container image was damaged or changed")]
    Digest {
        /// The blob, by the digest that it should have.
        name: String,
        /// The digest that it has.
        found: String,
    },
    /// A digest that is none, or of an algorithm that is not supported.
    #[error(
        "the container image names the digest {digest:?}: sha256 and sha512 are supported, in lower-case hexadecimal"
    )]
    UnknownDigest {
        /// As it stands there.
        digest: String,
    },
    /// A blob of a kind that is not supported.
    #[error("{name} has the media type {media_type}: {problem}")]
    MediaType {
        /// The blob.
        name: String,
        /// As its descriptor has it.
        media_type: String,
        /// What to do.
        problem: &'static str,
    },
    /// A layer compressed in a way that is not supported.
    #[error("layer {layer} is {problem}")]
    Compression {
        /// The layer, counted from 1.
        layer: usize,
        /// What it is, and what to do.
        problem: &'static str,
    },
    /// Several images and no choice.
    #[error("there are several images in {}: choose one of them with --reference: {}", .path.display(), .names.join(", "))]
    Several {
        /// The archive or layout.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// No image of that name.
    #[error("there is no image {wanted} in {}: it has {}", .path.display(), .names.join(", "))]
    UnknownReference {
        /// The archive or layout.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        names: Vec<String>,
    },
    /// No image for the runtime's processor.
    #[error("there is no image for linux/{wanted} in {}: it has {}", .path.display(), .found.join(", "))]
    Platform {
        /// The archive or layout.
        path: PathBuf,
        /// The runtime's processor, as containers call it.
        wanted: &'static str,
        /// What there is.
        found: Vec<String>,
    },
    /// Indexes within indexes without end.
    #[error("the container image's indexes are nested more than {limit} deep")]
    Nesting {
        /// The limit.
        limit: usize,
    },
    /// As many layers as the configuration has digests.
    #[error(
        "the container image has {layers} layers and its configuration names {named}: it is damaged"
    )]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        named: usize,
    },
    /// A layer that cannot be decompressed or whose archive is broken.
    #[error("layer {layer} cannot be read{}: {source}", after(.entry.as_ref()))]
    Layer {
        /// The layer, counted from 1.
        layer: usize,
        /// The entry that was read last.
        entry: Option<PathBuf>,
        /// The cause.
        source: io::Error,
    },
    /// An entry that is refused.
    #[error("layer {layer}: the entry \"{}\" {problem}", .entry.display())]
    Entry {
        /// The layer, counted from 1.
        layer: usize,
        /// The entry's name as it stands in the archive.
        entry: PathBuf,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// An entry of the archive that holds the image.
    #[error("{}: the entry \"{}\" {problem}", .path.display(), .entry.display())]
    ArchiveEntry {
        /// The archive.
        path: PathBuf,
        /// The entry's name.
        entry: PathBuf,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// Something after the end of a layer's archive.
    #[error("layer {layer}: bytes follow the end of its archive")]
    TrailingData {
        /// The layer, counted from 1.
        layer: usize,
    },
    /// The image was changed between its two readings.
    #[error("layer {layer} was changed while it was being packed")]
    Changed {
        /// The layer, counted from 1.
        layer: usize,
    },
    /// The place where contents go fails.
    #[error("cannot write the image: {0}")]
    Write(#[source] io::Error),
    /// A configuration that says nothing usable.
    #[error("the container image's configuration: {0}")]
    Config(String),
}

fn after(entry: Option<&PathBuf>) -> String {
    entry
        .map(|entry| format!(" (at \"{}\")", entry.display()))
        .unwrap_or_default()
}

/// What is wrong with an entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// A name that begins with a slash.
    #[error("has an absolute path")]
    Absolute,
    /// `..` in a name.
    #[error("has `..` in its path")]
    Parent,
    /// `.` or an empty part in a name.
    #[error("has `.` or an empty part in its path")]
    TwoSpellings,
    /// No name, or NUL in it.
    #[error("has no usable name")]
    Name,
    /// A name longer than Linux allows.
    #[error("has a name that is longer than Linux allows")]
    LongName,
    /// The same name twice in one layer.
    #[error("appears twice in its layer")]
    Twice,
    /// A name below a file.
    #[error("lies inside \"{}\", which is no folder", .0.display())]
    InsideNoFolder(PathBuf),
    /// A name below a symbolic link.
    #[error("would be written through the symbolic link \"{}\"", .0.display())]
    ThroughLink(PathBuf),
    /// A hard link that leaves the root.
    #[error("is a hard link to \"{}\", which leaves the root", .0.display())]
    LinkOut(PathBuf),
    /// A hard link to nothing.
    #[error("is a hard link to \"{}\", which is not there", .0.display())]
    LinkToNothing(PathBuf),
    /// A hard link to a folder.
    #[error("is a hard link to the folder \"{}\"", .0.display())]
    LinkToFolder(PathBuf),
    /// A symbolic link without a usable target.
    #[error("is a symbolic link without a usable target")]
    LinkTarget,
    /// A device node.
    #[error(
        "is a device node: an image holds files, folders and links; the enclave makes its own /dev"
    )]
    Device,
    /// A named pipe.
    #[error("is a named pipe: an image holds files, folders and links")]
    Fifo,
    /// A sparse file.
    #[error("is a sparse file in a format of its own: make the archive without --sparse")]
    Sparse,
    /// A type that is not known.
    #[error("has the unknown type {0:?}")]
    Kind(char),
    /// Data where none belongs.
    #[error("has data, and its type has none")]
    Data,
    /// A file of 4 GiB or more.
    #[error("has {0} bytes: an image holds files below 4 GiB")]
    LargeFile(u64),
    /// Owner or group beyond 32 bits.
    #[error("has an owner or group that Linux does not have")]
    Owner,
    /// Extended attributes.
    #[error(
        "has the extended attribute {0}, which a ramdisk cannot hold: remove it, or leave all of them out with \
         --drop-attributes (an enclave's job has no capabilities in any case)"
    )]
    Attribute(String),
    /// A header that cannot be read.
    #[error("has a damaged header: {0}")]
    Header(String),
    /// A whiteout that is none.
    #[error("is no whiteout that is understood here")]
    Whiteout,
    /// A name that belongs to the runtime.
    #[error("would lie where the enclave's runtime keeps its own files: remove or rename it")]
    Reserved,
    /// More bytes than the limit.
    #[error("brings the layers to more than {0} bytes unpacked")]
    TooManyBytes(u64),
    /// More entries than the limit.
    #[error("is one of more than {0} entries")]
    TooManyEntries(u64),
}
