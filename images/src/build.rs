//! Building an image: three ramdisks (the runtime, the job, the manifest), a kernel or its stand-in, a command line,
//! metadata.
//!
//! The measured bytes depend on the inputs alone. Nothing of the building machine enters an image: no path, user, time,
//! umask, locale or order of files. The build's time in the (unmeasured) metadata is `SOURCE_DATE_EPOCH`, else 1970.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anchorhold_manifest::{
    DEFAULT_MANIFEST, JobDefaults, KEY_SERVICE_CA_PATH, MANIFEST_PATH, MAX_MANIFEST_BYTES,
    Manifest, ManifestError,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind as PemKind};
use thiserror::Error;

use crate::cargo_static::{CargoError, StaticBuild};
use crate::container::{self, ContainerOptions};
use crate::contents::{Contents, EXECUTABLE, FOLDER, FolderError};
use crate::cpio::{Attributes, Leave};
use crate::eif::{Architecture, SectionKind};
use crate::elf::{ElfError, Program};
use crate::image::{BuildMetadata, ImageError, Metadata, Unmeasured};
use crate::libraries::{self, LibraryError};
use crate::measure::Measurements;
use crate::ramdisk::Compression;
use crate::storage::Storage;
use crate::write::{ImageWriter, SectionWriter};
use crate::{
    ACPI, DEFAULT_COMMAND_LINE, NO_KERNEL, NO_KERNEL_VERSION, describe, folder, gzip, job,
};

/// The manifest's name beside a Cargo package.
const MANIFEST_FILE: &str = "anchorhold.toml";
/// Where a single program lies in its image.
const JOB_PATH: &str = "/job";
/// Where the runtime finds kernel modules.
const MODULES: &str = "/anchorhold/modules";
/// Several times the largest that a distribution has.
const MAX_MODULE_BYTES: u64 = 64 << 20;
/// The Linux kernel's own limit on x86-64 and arm64, its terminating NUL included.
const MAX_COMMAND_LINE_BYTES: usize = 2048;
/// A bundle of all public authorities has a quarter of this.
const MAX_CA_BYTES: u64 = 1 << 20;
/// Ramdisks with fewer bytes of files are plain, unless the caller chooses.
const PLAIN_BELOW: u64 = 32 << 20;

/// Where the job comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Cargo package, built as a static program.
    Cargo {
        /// The package's folder or its `Cargo.toml`.
        path: PathBuf,
    },
    /// A static program.
    Program {
        /// Its file.
        file: PathBuf,
    },
    /// A program, static or dynamic.
    DynamicProgram {
        /// Its file.
        file: PathBuf,
        /// The root file system from which its loader and libraries are taken.
        libraries_from: PathBuf,
    },
    /// A container image: an OCI image layout or what `docker save` writes.
    Container(ContainerOptions),
    /// A folder as the root file system.
    Root {
        /// The folder.
        dir: PathBuf,
    },
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Where the job comes from.
    pub source: Source,
    /// The manifest's file. None: `anchorhold.toml` beside the Cargo package, or else the default one.
    pub manifest: Option<PathBuf>,
    /// The kernel's file; none for an image that runs in the sandbox only.
    pub kernel: Option<PathBuf>,
    /// The kernel's command line; none for AWS's own, and for a kernel with modules [`ACPI`](crate::ACPI) behind it.
    pub command_line: Option<String>,
    /// Modules that the runtime loads into the kernel before all else, in this order.
    pub modules: Vec<PathBuf>,
    /// The enclave's runtime, a static program; it becomes `/init`.
    pub init: PathBuf,
    /// Where the image goes. An older one is replaced once the new one is complete.
    pub output: PathBuf,
    /// Which program of a Cargo package that has several.
    pub bin: Option<String>,
    /// Where Cargo builds; none for a folder of its own in the package's target folder.
    pub cargo_target: Option<PathBuf>,
    /// How ramdisks are compressed. None: ramdisks under 32 MiB are plain, since unpacking them would take longer than
    /// hashing what compression saves, and larger ones are gzip'd.
    pub compression: Option<Compression>,
    /// The build's time in the metadata, as `SOURCE_DATE_EPOCH` has it: seconds since 1970 in decimal digits.
    pub source_date_epoch: Option<OsString>,
    /// Threads that compress; none for one a core. The bytes are the same.
    pub threads: Option<NonZeroUsize>,
}

impl BuildOptions {
    /// The usual choices, with the build's time from the environment's `SOURCE_DATE_EPOCH`.
    pub fn new(source: Source, init: PathBuf, output: PathBuf) -> BuildOptions {
        BuildOptions {
            source,
            manifest: None,
            kernel: None,
            command_line: None,
            modules: Vec::new(),
            init,
            output,
            bin: None,
            cargo_target: None,
            compression: None,
            source_date_epoch: std::env::var_os("SOURCE_DATE_EPOCH"),
            threads: None,
        }
    }
}

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Cargo says this.
    Compiling(&'a str),
    /// So many more bytes of a container image's layers were unpacked.
    Reading(u64),
    /// A file goes into a ramdisk.
    Packing {
        /// Its path in the image.
        path: &'a Path,
        /// Its length.
        bytes: u64,
    },
    /// So many more bytes of a container image's layers were unpacked once more, into their places.
    Placing(u64),
    /// So many bytes are going to be compressed.
    Compressing(u64),
    /// The finished image is read back.
    Measuring,
}

/// A finished image.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Where it is.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub size: u64,
    /// Its PCRs, from reading the file back.
    pub measurements: Measurements,
    /// The manifest in it.
    pub manifest: Manifest,
    /// The least memory that an enclave from it starts in, estimated.
    pub minimum_memory_mib: u64,
}

/// Why no image was built. Nothing is left behind then, and an older image stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An input cannot be read.
    #[error("cannot read the {what} {}: {source}", .path.display())]
    Read {
        /// Which input.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The Cargo package cannot be built.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// The manifest is refused.
    #[error("{}: {source}", .path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// The manifest is no text or too large.
    #[error("{}: the manifest {problem}", .path.display())]
    ManifestFile {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A folder needs a manifest.
    #[error("a folder needs a manifest that names the job's command: give one with --manifest")]
    NoManifest,
    /// A program that cannot run in an enclave.
    #[error("the {what} {} {source}", .path.display())]
    Program {
        /// `program` or `runtime`.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: ElfError,
    },
    /// A script, which another program runs.
    #[error(
        "the {what} {} is a script, which {interpreter} runs: pack both together, as a folder (--root) or as a container \
         image (--container)", .path.display()
    )]
    Script {
        /// `program` or `runtime`.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// What its first line names.
        interpreter: String,
    },
    /// A program that needs other files.
    #[error(
        "the {what} {} is dynamic: it is loaded by {} and needs {}. Build it static (Rust: -C target-feature=+crt-static; \
         C: -static), or have these files taken from a root file system with --libraries-from",
        .path.display(), .interpreter.as_deref().unwrap_or("nothing"), list(.needed)
    )]
    Dynamic {
        /// `program` or `runtime`.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// Its loader.
        interpreter: Option<String>,
        /// The libraries it asks for by name.
        needed: Vec<String>,
    },
    /// A program for another processor than the runtime's.
    #[error("the program {} is for {found}, and the enclave's runtime is for {expected}: build both for one", .path.display())]
    Architecture {
        /// The program.
        path: PathBuf,
        /// Its processor.
        found: Architecture,
        /// The runtime's processor.
        expected: Architecture,
    },
    /// Files that cannot become an image.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A dynamic program whose loader or libraries are missing.
    #[error("the program {} {source}", .path.display())]
    Libraries {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        source: LibraryError,
    },
    /// A container image that is refused.
    #[error(transparent)]
    Container(#[from] crate::ContainerError),
    /// A container image that does not say what to run, and no manifest that does.
    #[error(
        "the container image has neither Entrypoint nor Cmd: name the job's command in a manifest, with --manifest"
    )]
    NoCommand,
    /// The key service's authority is not a PEM file of certificates.
    #[error("key_service.ca: {} {problem}: it must hold certificates in PEM and nothing else", .path.display())]
    Ca {
        /// The file that the manifest names.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The kernel file is empty.
    #[error("the kernel {} is empty", .path.display())]
    EmptyKernel {
        /// Its file.
        path: PathBuf,
    },
    /// The command line is not for a kernel.
    #[error("the command line {0}")]
    CommandLine(&'static str),
    /// `SOURCE_DATE_EPOCH` is unusable.
    #[error("SOURCE_DATE_EPOCH is {0:?}: write seconds since 1970 in decimal digits, or unset it")]
    SourceDateEpoch(OsString),
    /// The image cannot be written.
    #[error("cannot write the image {}: {source}", .path.display())]
    Write {
        /// Where it was to go.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What was written does not read back: the disk is faulty, or the file was changed meanwhile.
    #[error("the image that was just written does not read back: {0}")]
    ReadBack(#[source] ImageError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "no libraries by name".to_owned()
    } else {
        names.join(", ")
    }
}

/// Checks what can be checked before there is a runtime and before anything is compiled or unpacked.
pub fn check(options: &BuildOptions) -> Result<(), BuildError> {
    build_time(options.source_date_epoch.as_deref())?;
    command_line(options.command_line.as_deref())?;
    ManifestText::find(options)?.ca()?;
    options.kernel.as_deref().map(Kernel::open).transpose()?;
    match &options.source {
        Source::Program { file } => static_program("program", file).map(drop),
        Source::DynamicProgram { file, .. } => program("program", file).map(drop),
        Source::Cargo { .. } | Source::Container(_) | Source::Root { .. } => Ok(()),
    }
}

/// Builds an image.
///
/// # Errors
/// See [`BuildError`]; the output is then as it was before.
pub fn build(
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Built, BuildError> {
    // Cheap checks first: compiling takes longest.
    let build_time = build_time(options.source_date_epoch.as_deref())?;
    let default = if options.modules.is_empty() {
        DEFAULT_COMMAND_LINE.to_owned()
    } else {
        // Kernels that are not made for it find virtio devices by ACPI.
        format!("{DEFAULT_COMMAND_LINE} {ACPI}")
    };
    let command_line = command_line(Some(options.command_line.as_deref().unwrap_or(&default)))?;
    let runtime = static_program("runtime", &options.init)?;
    let manifest = ManifestText::find(options)?;
    let ca = manifest.ca()?;
    let kernel = options.kernel.as_deref().map(Kernel::open).transpose()?;

    let mut docker_info = serde_json::Value::Null;
    let mut application = Contents::default();
    let mut defaults = JobDefaults::default();
    let default_name = match &options.source {
        Source::Cargo { path } => {
            let mut cargo = StaticBuild::new(path);
            cargo.bin.clone_from(&options.bin);
            cargo.target_dir.clone_from(&options.cargo_target);
            let built = cargo.run(&mut |line| progress(Progress::Compiling(line)))?;
            add_program(&mut application, &built.path, None, runtime.architecture)?;
            (built.package, built.version)
        }
        Source::Program { file } => {
            add_program(&mut application, file, None, runtime.architecture)?;
            (file_name(file), String::new())
        }
        Source::DynamicProgram {
            file,
            libraries_from,
        } => {
            let root = Some(libraries_from.as_path());
            add_program(&mut application, file, root, runtime.architecture)?;
            (file_name(file), String::new())
        }
        Source::Root { dir } => {
            application = folder::contents(dir)?;
            // Not the folder's name: the same root elsewhere is the same image.
            ("root".to_owned(), String::new())
        }
        Source::Container(container) => {
            let opened = container::open(container, runtime.architecture, &mut |bytes| {
                progress(Progress::Reading(bytes));
            })?;
            application = opened.contents;
            defaults = container::job(&opened.config, &application)?;
            docker_info = opened.config.for_metadata();
            split_name(opened.name.as_deref())
        }
    };
    let manifest = manifest.complete(&defaults)?;
    let job = &manifest.parsed.job;
    if let Some(folder) = &job.working_directory {
        // Docker makes it where the image has none.
        let make = defaults.working_directory.as_ref() == Some(folder);
        application.working_folder(Path::new(folder), make)?;
    }
    application.check_command(&job.command[0], runtime.architecture)?;
    let says = said(&manifest, ca);
    let bootstrap = bootstrap(&options.init, &options.modules)?;

    let metadata = Metadata {
        image_name: manifest.parsed.image.name.clone().unwrap_or(default_name.0),
        image_version: manifest
            .parsed
            .image
            .version
            .clone()
            .unwrap_or(default_name.1),
        build_metadata: BuildMetadata {
            build_time,
            build_tool: "anchorhold".to_owned(),
            build_tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            operating_system: "Linux".to_owned(),
            kernel_version: kernel.as_ref().map_or_else(
                || NO_KERNEL_VERSION.to_owned(),
                |kernel| kernel.version.clone(),
            ),
        },
        docker_info,
        custom_metadata: serde_json::Value::Null,
    };

    let failed = |source| BuildError::Write {
        path: options.output.clone(),
        source,
    };
    let resources = &manifest.parsed.resources;
    let memory = u64::from(resources.memory_mib) << 20;
    let mut image = ImageWriter::new(
        &options.output,
        runtime.architecture,
        memory,
        resources.cpus.into(),
    )
    .map_err(failed)?;
    image
        .section(SectionKind::Kernel, |sink| match &kernel {
            Some(kernel) => kernel.copy(sink),
            None => sink.write_all(NO_KERNEL.as_bytes()),
        })
        .map_err(failed)?;
    image
        .section(SectionKind::CommandLine, |sink| {
            sink.write_all(command_line.as_bytes())
        })
        .map_err(failed)?;
    image
        .section(SectionKind::Metadata, |sink| {
            serde_json::to_writer(sink, &metadata).map_err(io::Error::from)
        })
        .map_err(failed)?;
    let threads = options
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    // The last is plain, so that whoever asks what an image is for need not unpack it.
    for (contents, chosen) in [
        (&bootstrap, options.compression),
        (&application, options.compression),
        (&says, Some(Compression::None)),
    ] {
        image.section(SectionKind::Ramdisk, |section| {
            // A function of the contents, as all that is measured must be.
            let by_size = if contents.file_bytes() < PLAIN_BELOW {
                Compression::None
            } else {
                Compression::Gzip
            };
            match chosen.unwrap_or(by_size) {
                Compression::None => plain_ramdisk(contents, section, progress),
                Compression::Gzip => gzip_ramdisk(contents, section, threads, progress),
            }
        })?;
    }
    progress(Progress::Measuring);
    let written = image.finish().map_err(failed)?;
    let (file, sums, written) = written.into_parts();
    let (image, crc32) = Unmeasured::of_file(&options.output, file)
        .and_then(|image| image.measured_by(sums))
        .map_err(BuildError::ReadBack)?;
    let built = Built {
        path: options.output.clone(),
        size: image.size(),
        measurements: *image.measurements(),
        manifest: manifest.parsed,
        minimum_memory_mib: describe::minimum_memory_mib(&image).map_err(BuildError::ReadBack)?,
    };
    written.persist(crc32, &options.output).map_err(failed)?;
    Ok(built)
}

fn file_name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A container image's name in its parts: `registry/team/name:version`.
fn split_name(name: Option<&str>) -> (String, String) {
    let name = name.unwrap_or("container");
    match name.rsplit_once(':') {
        Some((before, version)) if !version.contains('/') => {
            (before.to_owned(), version.to_owned())
        }
        _ => (name.to_owned(), String::new()),
    }
}

/// An archive as it is. What is in layers is put into its place in the image's own file, in the order in which the
/// layers have it.
fn plain_ramdisk(
    contents: &Contents,
    section: &mut SectionWriter<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), FolderError> {
    let places = contents.write(&mut *section, &mut |path, bytes| {
        progress(Progress::Packing { path, bytes });
    })?;
    if let Some(layers) = contents.layers() {
        layers.contents(
            &places,
            &mut |bytes| progress(Progress::Placing(bytes)),
            &mut |at, bytes| section.fill_in(at, bytes),
        )?;
    }
    Ok(())
}

/// A compressed archive. What is in layers comes in another order than the archive has it, so that archive is first
/// made further behind in the image's own file, and compressed from there to the front.
fn gzip_ramdisk(
    contents: &Contents,
    section: &mut SectionWriter<'_>,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), FolderError> {
    let bytes = contents.file_bytes();
    if contents.layers().is_some() {
        // Deflate grows what it cannot compress by at most 5 bytes in 16 KiB: the front never reaches what is not read.
        let mut archive = section.room_behind(bytes / 512 + (1 << 20));
        plain_ramdisk(contents, &mut archive, progress)?;
        let mut archive = archive.into_reader()?;
        progress(Progress::Compressing(bytes));
        gzip::compress(threads, &mut *section, |sink| {
            io::copy(&mut archive, sink).map(|_| ())
        })?;
    } else {
        gzip::compress(threads, &mut *section, |sink| {
            let mut packing = |path: &Path, bytes| progress(Progress::Packing { path, bytes });
            contents.write(InOneGo(sink), &mut packing).map(|_| ())
        })?;
    }
    Ok(())
}

/// A sink in which nothing can be filled in later.
struct InOneGo<'s>(&'s mut dyn Write);

impl Write for InOneGo<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Leave for InOneGo<'_> {
    fn leave(&mut self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The runtime's ramdisk, the same for every application.
fn bootstrap(init: &Path, modules: &[PathBuf]) -> Result<Contents, BuildError> {
    let mut contents = Contents::default();
    if !modules.is_empty() {
        contents.directory(MODULES, FOLDER);
    }
    for (number, file) in modules.iter().enumerate() {
        let read = |source| BuildError::Read {
            what: "kernel module",
            path: file.clone(),
            source,
        };
        let storage = regular("kernel module", file)?;
        if storage.len() > MAX_MODULE_BYTES {
            return Err(read(io::ErrorKind::FileTooLarge.into()));
        }
        let bytes = storage.read(0, storage.len()).map_err(read)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // Numbered, since they are loaded in the order of their names.
        contents.bytes(&format!("{MODULES}/{number:03}-{name}"), bytes);
    }
    contents.program("/init", init)?;
    for folder in ["/anchorhold", "/dev", "/proc", "/run", "/sys"] {
        contents.directory(folder, FOLDER);
    }
    contents.directory("/tmp", Attributes::of_root(0o1777));
    Ok(contents)
}

/// The last ramdisk: what the image says about itself. Being the last, it wins over what the job's files may hold under
/// its names.
fn said(manifest: &CompleteManifest, ca: Option<Vec<u8>>) -> Contents {
    let mut contents = Contents::default();
    contents.directory("/anchorhold", FOLDER);
    contents.bytes(MANIFEST_PATH, manifest.text.clone().into_bytes());
    if let Some(ca) = ca {
        contents.bytes(KEY_SERVICE_CA_PATH, ca);
    }
    contents
}

fn add_program(
    contents: &mut Contents,
    file: &Path,
    libraries: Option<&Path>,
    expected: Architecture,
) -> Result<(), BuildError> {
    let program = program("program", file)?;
    if program.architecture != expected {
        return Err(BuildError::Architecture {
            path: file.into(),
            found: program.architecture,
            expected,
        });
    }
    match libraries {
        None => require_static("program", file, program)?,
        Some(root) => {
            let needed =
                libraries::collect(&program, Path::new(JOB_PATH), root).map_err(|source| {
                    BuildError::Libraries {
                        path: file.into(),
                        source,
                    }
                })?;
            for library in needed {
                contents.parents_of(&library.path);
                contents.file_from(&library.path, &library.from, library.bytes, EXECUTABLE);
            }
        }
    }
    contents.program(JOB_PATH, file)?;
    Ok(())
}

fn static_program(what: &'static str, file: &Path) -> Result<Program, BuildError> {
    let program = program(what, file)?;
    require_static(what, file, program.clone())?;
    Ok(program)
}

fn program(what: &'static str, file: &Path) -> Result<Program, BuildError> {
    let storage = regular(what, file)?;
    Program::read(&storage).map_err(|source| match (script(&storage), source) {
        (Some(interpreter), ElfError::NotElf) => BuildError::Script {
            what,
            path: file.into(),
            interpreter,
        },
        (_, source) => BuildError::Program {
            what,
            path: file.into(),
            source,
        },
    })
}

/// What runs a script, by its first line.
fn script(storage: &Storage) -> Option<String> {
    let start = storage.read(0, storage.len().min(256)).ok()?;
    let line = start
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    Some(String::from_utf8_lossy(line).trim().to_owned())
}

fn require_static(what: &'static str, file: &Path, program: Program) -> Result<(), BuildError> {
    if program.is_static() {
        return Ok(());
    }
    let Program {
        interpreter,
        needed,
        ..
    } = program;
    Err(BuildError::Dynamic {
        what,
        path: file.into(),
        interpreter,
        needed,
    })
}

fn regular(what: &'static str, file: &Path) -> Result<Storage, BuildError> {
    let read = |source| BuildError::Read {
        what,
        path: file.into(),
        source,
    };
    if !fs::metadata(file).map_err(read)?.is_file() {
        return Err(read(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )));
    }
    Storage::open(file).map_err(read)
}

/// The manifest as it was given.
struct ManifestText {
    /// None for the default one.
    path: Option<PathBuf>,
    text: String,
    /// Whether a container image's configuration may fill in what it leaves open.
    open: bool,
}

/// The manifest as it goes into the image.
struct CompleteManifest {
    text: String,
    parsed: Manifest,
}

impl ManifestText {
    fn find(options: &BuildOptions) -> Result<ManifestText, BuildError> {
        let beside = match (&options.manifest, &options.source) {
            (Some(path), _) => Some(path.clone()),
            (None, Source::Cargo { path }) => {
                let folder = if path.is_file() {
                    path.parent().unwrap_or(Path::new(""))
                } else {
                    path
                };
                Some(folder.join(MANIFEST_FILE)).filter(|file| file.exists())
            }
            (
                None,
                Source::Program { .. } | Source::DynamicProgram { .. } | Source::Container(_),
            ) => None,
            (None, Source::Root { .. }) => return Err(BuildError::NoManifest),
        };
        let shown = beside.clone().unwrap_or_else(|| MANIFEST_FILE.into());
        let text = match &beside {
            None if matches!(options.source, Source::Container(_)) => String::new(),
            None => DEFAULT_MANIFEST.to_owned(),
            Some(path) => {
                let storage = regular("manifest", path)?;
                if storage.len() > MAX_MANIFEST_BYTES as u64 {
                    return Err(BuildError::ManifestFile {
                        path: shown,
                        problem: "is larger than 64 KiB",
                    });
                }
                let bytes = storage
                    .read(0, storage.len())
                    .map_err(|source| BuildError::Read {
                        what: "manifest",
                        path: path.clone(),
                        source,
                    })?;
                String::from_utf8(bytes).map_err(|_| BuildError::ManifestFile {
                    path: shown.clone(),
                    problem: "is no UTF-8 text",
                })?
            }
        };
        let manifest = ManifestText {
            path: beside,
            text,
            open: matches!(options.source, Source::Container(_)),
        };
        // What is wrong already is said before anything is built or read.
        manifest.parse(&manifest.stand_in())?;
        Ok(manifest)
    }

    /// For what only the container image's configuration can say.
    fn stand_in(&self) -> JobDefaults {
        let command = if self.open {
            vec![JOB_PATH.to_owned()]
        } else {
            Vec::new()
        };
        JobDefaults {
            command,
            ..JobDefaults::default()
        }
    }

    fn parse(&self, defaults: &JobDefaults) -> Result<Manifest, BuildError> {
        Manifest::parse_with(&self.text, defaults).map_err(|source| BuildError::Manifest {
            path: self.path.clone().unwrap_or_else(|| MANIFEST_FILE.into()),
            source,
        })
    }

    /// The manifest with what a container image's configuration says where it says nothing.
    fn complete(&self, defaults: &JobDefaults) -> Result<CompleteManifest, BuildError> {
        if !self.open {
            return Ok(CompleteManifest {
                text: self.text.clone(),
                parsed: self.parse(&JobDefaults::default())?,
            });
        }
        let parsed = self.parse(defaults).map_err(|error| match error {
            BuildError::Manifest {
                source: ManifestError::MissingKey { key, .. },
                ..
            } if defaults.command.is_empty() && (key == "job" || key == "job.command") => {
                BuildError::NoCommand
            }
            other => other,
        })?;
        let text = job::completed(&self.text, defaults);
        if text.len() > MAX_MANIFEST_BYTES {
            return Err(BuildError::ManifestFile {
                path: MANIFEST_FILE.into(),
                problem: "with the container image's configuration in it is larger than 64 KiB",
            });
        }
        // What the enclave will read.
        let written = Manifest::parse(&text).map_err(|source| BuildError::Manifest {
            path: MANIFEST_FILE.into(),
            source,
        })?;
        assert_eq!(written, parsed, "the completed manifest says the same");
        Ok(CompleteManifest { text, parsed })
    }

    /// The key service's authority, if the manifest names one.
    fn ca(&self) -> Result<Option<Vec<u8>>, BuildError> {
        let parsed = self.parse(&self.stand_in())?;
        let Some(name) = parsed.key_service.and_then(|service| service.ca) else {
            return Ok(None);
        };
        let folder = self
            .path
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new(""));
        let path = folder.join(name);
        let storage = regular("key service's authority", &path)?;
        let refuse = |problem: String| BuildError::Ca {
            path: path.clone(),
            problem,
        };
        if storage.len() > MAX_CA_BYTES {
            return Err(refuse("is larger than 1 MiB".to_owned()));
        }
        let bytes = storage
            .read(0, storage.len())
            .map_err(|source| BuildError::Read {
                what: "key service's authority",
                path: path.clone(),
                source,
            })?;
        let mut certificates = 0;
        for section in <(PemKind, Vec<u8>)>::pem_slice_iter(&bytes) {
            let (kind, der) = section.map_err(|error| refuse(format!("is damaged ({error})")))?;
            if kind != PemKind::Certificate {
                // Above all a private key, which would end up in an image for all to read.
                return Err(refuse("holds something else than certificates".to_owned()));
            }
            let certificate = CertificateDer::from(der);
            webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|error| refuse(format!("holds an unusable certificate ({error})")))?;
            certificates += 1;
        }
        if certificates == 0 {
            return Err(refuse("holds no certificate".to_owned()));
        }
        Ok(Some(bytes))
    }
}

/// A kernel and what it says about itself.
struct Kernel {
    storage: Storage,
    version: String,
}

impl Kernel {
    fn open(path: &Path) -> Result<Kernel, BuildError> {
        let storage = regular("kernel", path)?;
        if storage.len() == 0 {
            return Err(BuildError::EmptyKernel { path: path.into() });
        }
        let version = bz_image_version(&storage).unwrap_or_else(|| "unknown".to_owned());
        Ok(Kernel { storage, version })
    }

    fn copy(&self, sink: &mut dyn Write) -> io::Result<()> {
        let mut result = Ok(());
        self.storage
            .each_chunk(0, self.storage.len(), 256 << 10, |chunk| {
                if result.is_ok() {
                    result = sink.write_all(chunk);
                }
            })?;
        result
    }
}

/// The version in a bzImage: text whose place, less 0x200, stands at 0x20e (Documentation/arch/x86/boot.rst,
/// `kernel_version`).
fn bz_image_version(storage: &Storage) -> Option<String> {
    let header = storage.read(0x200, 0x10).ok()?;
    if header[2..6] != *b"HdrS" {
        return None;
    }
    let at = u64::from(u16::from_le_bytes([header[0xe], header[0xf]])) + 0x200;
    let text = storage
        .read(at, 64.min(storage.len().checked_sub(at)?))
        .ok()?;
    let version = text.split(|byte| matches!(byte, 0 | b' ')).next()?;
    let plain = !version.is_empty() && version.iter().all(u8::is_ascii_graphic);
    plain.then(|| String::from_utf8_lossy(version).into_owned())
}

fn command_line(given: Option<&str>) -> Result<String, BuildError> {
    let line = given.unwrap_or(DEFAULT_COMMAND_LINE);
    if line.is_empty() || line.len() >= MAX_COMMAND_LINE_BYTES {
        return Err(BuildError::CommandLine("must have 1 to 2047 bytes"));
    }
    if !line
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Err(BuildError::CommandLine(
            "may hold printable ASCII characters only",
        ));
    }
    Ok(line.to_owned())
}

fn build_time(epoch: Option<&OsStr>) -> Result<String, BuildError> {
    let Some(epoch) = epoch else {
        return Ok("1970-01-01T00:00:00Z".to_owned());
    };
    // Digits only: number parsers also take signs, which the specification of the variable does not.
    epoch
        .to_str()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map(|time| time.to_string())
        .ok_or_else(|| BuildError::SourceDateEpoch(epoch.to_owned()))
}
