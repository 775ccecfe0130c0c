//! Building an image from a program: two ramdisks, a kernel or its stand-in, a command line, metadata.
//!
//! The measured bytes depend on the inputs alone. Nothing of the building machine enters an image: no path, user, time,
//! umask, locale or order of files. The build's time in the (unmeasured) metadata is `SOURCE_DATE_EPOCH`, else 1970.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anchorhold_manifest::{
    DEFAULT_MANIFEST, KEY_SERVICE_CA_PATH, MANIFEST_PATH, MAX_MANIFEST_BYTES, Manifest,
    ManifestError,
};
use flate2::GzBuilder;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind as PemKind};
use thiserror::Error;

use crate::cargo_static::{CargoError, StaticBuild};
use crate::eif::{Architecture, SectionKind};
use crate::elf::{ElfError, Program};
use crate::folder::{self, Contents, FolderError};
use crate::image::{BuildMetadata, Image, ImageError, Metadata};
use crate::measure::Measurements;
use crate::ramdisk::Compression;
use crate::storage::Storage;
use crate::write::ImageWriter;
use crate::{ACPI, DEFAULT_COMMAND_LINE, NO_KERNEL, NO_KERNEL_VERSION};

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
/// Pinned: the compressed bytes are measured.
const GZIP_LEVEL: u32 = 6;
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
        }
    }
}

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Cargo says this.
    Compiling(&'a str),
    /// A file goes into a ramdisk.
    Packing {
        /// Its path in the image.
        path: &'a Path,
        /// Its length.
        bytes: u64,
    },
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
    /// A program that needs other files.
    #[error(
        "the {what} {} is dynamic: it is loaded by {} and needs {}. Build it static (Rust: -C target-feature=+crt-static; \
         C: -static), or put it into a folder together with these files and use --root",
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
    /// A folder that cannot become an image.
    #[error(transparent)]
    Folder(#[from] FolderError),
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

    let mut application = Contents::default();
    let default_name = match &options.source {
        Source::Cargo { path } => {
            let mut cargo = StaticBuild::new(path);
            cargo.bin.clone_from(&options.bin);
            cargo.target_dir.clone_from(&options.cargo_target);
            let built = cargo.run(&mut |line| progress(Progress::Compiling(line)))?;
            add_program(&mut application, &built.path, runtime.architecture)?;
            (built.package, built.version)
        }
        Source::Program { file } => {
            add_program(&mut application, file, runtime.architecture)?;
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, String::new())
        }
        Source::Root { dir } => {
            application = Contents::from_folder(dir)?;
            // Not the folder's name: the same root elsewhere is the same image.
            ("root".to_owned(), String::new())
        }
    };
    application.check_command(&manifest.parsed.job.command[0])?;
    application.bytes(MANIFEST_PATH, manifest.text.clone().into_bytes());
    if let Some(ca) = ca {
        application.bytes(KEY_SERVICE_CA_PATH, ca);
    }
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
        docker_info: serde_json::Value::Null,
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
    for contents in [&bootstrap, &application] {
        let mut packing = |path: &Path, bytes| progress(Progress::Packing { path, bytes });
        image.section(SectionKind::Ramdisk, |sink| {
            ramdisk(contents, options.compression, sink, &mut packing)
        })?;
    }
    let written = image.finish().map_err(failed)?;

    progress(Progress::Measuring);
    let image = Image::open(written.path()).map_err(BuildError::ReadBack)?;
    let built = Built {
        path: options.output.clone(),
        size: image.size(),
        measurements: *image.measurements(),
        manifest: manifest.parsed,
    };
    written
        .persist(&options.output)
        .map_err(|error| failed(error.error))?;
    Ok(built)
}

fn ramdisk(
    contents: &Contents,
    compression: Option<Compression>,
    sink: &mut dyn Write,
    packing: &mut dyn FnMut(&Path, u64),
) -> Result<(), FolderError> {
    // A function of the contents, as all that is measured must be.
    let by_size = if contents.file_bytes() < PLAIN_BELOW {
        Compression::None
    } else {
        Compression::Gzip
    };
    match compression.unwrap_or(by_size) {
        Compression::None => contents.write(sink, packing)?,
        Compression::Gzip => {
            let counted = Counted { sink, bytes: 0 };
            let mut gzip = GzBuilder::new()
                .mtime(0)
                .write(counted, flate2::Compression::new(GZIP_LEVEL));
            contents.write(&mut gzip, packing)?;
            let mut counted = gzip.finish()?;
            // The kernel unpacks ramdisks one behind the other, and takes a plain one only at a multiple of four.
            let padding = counted.bytes.wrapping_neg() % 4;
            counted.write_all(&[0; 3][..padding])?;
        }
    }
    Ok(())
}

struct Counted<'s> {
    sink: &'s mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.bytes = self.bytes.wrapping_add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The runtime's ramdisk, the same for every application.
fn bootstrap(init: &Path, modules: &[PathBuf]) -> Result<Contents, BuildError> {
    let mut contents = Contents::default();
    if !modules.is_empty() {
        contents.directory(MODULES, 0o755);
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
        contents.directory(folder, 0o755);
    }
    contents.directory("/tmp", 0o1777);
    Ok(contents)
}

fn add_program(
    contents: &mut Contents,
    file: &Path,
    expected: Architecture,
) -> Result<(), BuildError> {
    let program = static_program("program", file)?;
    if program.architecture != expected {
        return Err(BuildError::Architecture {
            path: file.into(),
            found: program.architecture,
            expected,
        });
    }
    contents.program(JOB_PATH, file)?;
    Ok(())
}

fn static_program(what: &'static str, file: &Path) -> Result<Program, BuildError> {
    let storage = regular(what, file)?;
    let program = Program::read(&storage).map_err(|source| BuildError::Program {
        what,
        path: file.into(),
        source,
    })?;
    if !program.is_static() {
        let Program {
            interpreter,
            needed,
            ..
        } = program;
        return Err(BuildError::Dynamic {
            what,
            path: file.into(),
            interpreter,
            needed,
        });
    }
    Ok(program)
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
    folder::open(file).map_err(read)
}

/// The manifest and where it came from.
struct ManifestText {
    /// None for the default one.
    path: Option<PathBuf>,
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
            (None, Source::Program { .. }) => None,
            (None, Source::Root { .. }) => return Err(BuildError::NoManifest),
        };
        let shown = beside.clone().unwrap_or_else(|| MANIFEST_FILE.into());
        let text = match &beside {
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
        let parsed = Manifest::parse(&text).map_err(|source| BuildError::Manifest {
            path: shown,
            source,
        })?;
        Ok(ManifestText {
            path: beside,
            text,
            parsed,
        })
    }

    /// The key service's authority, if the manifest names one.
    fn ca(&self) -> Result<Option<Vec<u8>>, BuildError> {
        let Some(name) = self
            .parsed
            .key_service
            .as_ref()
            .and_then(|service| service.ca.as_deref())
        else {
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
