//! `anchorhold build`: packs a job into an enclave image.

use std::path::{Path, PathBuf};

use anchorhold_images::cargo_static::StaticBuild;
use anchorhold_images::{BuildOptions, Compression, ContainerOptions, Progress, Source};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    anchorhold build --cargo enclave/jobs/cards --manifest anchorhold.toml -o cards.eif\n  \
    anchorhold build --program ./tokenize -o tokenize.eif\n  \
    anchorhold build --root ./rootfs --manifest anchorhold.toml -o job.eif\n  \
    anchorhold build --program ./tokenize --kernel bzImage -o tokenize.eif\n  \
    docker save team/job:v1 -o job.tar && anchorhold build --container job.tar -o job.eif\n\n\
    A container image is taken from an OCI image layout (folder or tar) or from what docker save and\n\
    podman save write. No daemon is asked, nothing of it is unpacked on this machine, and its Entrypoint,\n\
    Cmd, Env, WorkingDir and User are used where the manifest does not say.\n\n\
    The same inputs give the same bytes, wherever, whenever and by whomever they are packed.\n\
    Without --kernel the image runs in the sandbox backend only.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// With --cargo: which of the package's programs
    #[arg(long, value_name = "NAME", requires = "cargo")]
    bin: Option<String>,
    /// With --program: take a dynamic program's loader and libraries from this root file system
    #[arg(long, value_name = "ROOT", requires = "program")]
    libraries_from: Option<PathBuf>,
    /// With --container: which image, where there are several
    #[arg(long, value_name = "NAME", requires = "container")]
    reference: Option<String>,
    /// With --container: leave extended attributes (capabilities, ACLs) out instead of refusing the image
    #[arg(long, requires = "container")]
    drop_attributes: bool,
    /// The manifest to measure into the image; default: anchorhold.toml beside the package, or a minimal one
    #[arg(long, value_name = "anchorhold.toml")]
    manifest: Option<PathBuf>,
    /// The kernel (bzImage) to boot; without it the image runs in the sandbox only
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Modules that the kernel needs to reach its devices, in the order in which they are to be loaded
    #[arg(long, value_name = "FILE", requires = "kernel", num_args = 1..)]
    modules: Vec<PathBuf>,
    /// The kernel's command line; default: what Nitro enclaves use
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,
    /// How ramdisks are compressed; default: those of 32 MiB and more with gzip. Other bytes are other PCRs
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionArgument>,
    /// The enclave's init program; default: the one that belongs to this command
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Where to write the image
    #[arg(short, long, value_name = "IMAGE.eif")]
    output: PathBuf,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SourceArguments {
    /// A Cargo package, built as a static program; it becomes /job
    #[arg(long, value_name = "PATH")]
    cargo: Option<PathBuf>,
    /// A program; it becomes /job
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// A folder that becomes the job's root file system
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A container image: an OCI image layout, or an archive of docker save or podman save
    #[arg(long, value_name = "PATH")]
    container: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompressionArgument {
    None,
    Gzip,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let source = match &arguments.source {
        SourceArguments {
            cargo: Some(path), ..
        } => Source::Cargo { path: path.clone() },
        SourceArguments {
            program: Some(file),
            ..
        } => match &arguments.libraries_from {
            Some(root) => Source::DynamicProgram {
                file: file.clone(),
                libraries_from: root.clone(),
            },
            None => Source::Program { file: file.clone() },
        },
        SourceArguments {
            root: Some(dir), ..
        } => Source::Root { dir: dir.clone() },
        SourceArguments {
            container: Some(path),
            ..
        } => {
            let mut container = ContainerOptions::new(path.clone());
            container.reference.clone_from(&arguments.reference);
            container.drop_attributes = arguments.drop_attributes;
            Source::Container(container)
        }
        SourceArguments { .. } => {
            anyhow::bail!("name a source: --cargo, --program, --root or --container")
        }
    };
    let given = arguments.init.clone().unwrap_or_default();
    let mut options = BuildOptions::new(source, given, arguments.output.clone());
    options.manifest.clone_from(&arguments.manifest);
    options.kernel.clone_from(&arguments.kernel);
    options.modules.clone_from(&arguments.modules);
    options.command_line.clone_from(&arguments.cmdline);
    options.bin.clone_from(&arguments.bin);
    options.compression = arguments.compression.map(|how| match how {
        CompressionArgument::None => Compression::None,
        CompressionArgument::Gzip => Compression::Gzip,
    });
    let failed = || format!("{} was not built", arguments.output.display());
    // The runtime may have to be compiled: what is wrong already is said before.
    anchorhold_images::check(&options).with_context(failed)?;
    if arguments.init.is_none() {
        options.init = init_program()?;
    }
    let bar = Bar::new();
    let built = anchorhold_images::build(&options, &mut |progress| bar.show(progress));
    bar.0.finish_and_clear();
    let built = built.with_context(failed)?;
    println!("{}", arguments.output.display());
    println!("PCR0 {}", built.measurements.pcr0);
    println!("PCR1 {}", built.measurements.pcr1);
    println!("PCR2 {}", built.measurements.pcr2);
    let memory = u64::from(built.manifest.resources.memory_mib);
    if memory < built.minimum_memory_mib {
        println!(
            "Its manifest gives it {memory} MiB of memory, and it needs {} MiB at least: raise resources.memory_mib.",
            built.minimum_memory_mib
        );
    }
    if arguments.kernel.is_none() {
        println!("No kernel was given: this image runs in the sandbox backend only.");
    }
    Ok(())
}

/// What a build is doing, drawn on a terminal and nowhere else.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::no_length();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg} {bytes} ({bytes_per_sec})")
                .expect("the template is well-formed"),
        );
        Bar(bar)
    }

    fn show(&self, progress: Progress<'_>) {
        match progress {
            // For people in any case: compiling takes long, and its messages matter.
            Progress::Compiling(line) => self.0.suspend(|| eprintln!("{line}")),
            Progress::Reading(bytes) => self.stage("Reading layers", bytes),
            Progress::Packing { bytes, .. } => self.stage("Packing", bytes),
            Progress::Placing(bytes) => self.stage("Placing files", bytes),
            Progress::Compressing(bytes) => self.stage("Compressing", bytes),
            Progress::Measuring => self.stage("Measuring", 0),
        }
    }

    fn stage(&self, name: &'static str, bytes: u64) {
        if self.0.message() != name {
            self.0.reset();
            self.0.set_message(name);
        }
        self.0.inc(bytes);
    }
}

/// The enclave's init that belongs to this command: installed beside it, or
/// built from the source tree that it was built from.
pub(crate) fn init_program() -> anyhow::Result<PathBuf> {
    let installed = std::env::current_exe().ok().and_then(|exe| {
        Some(
            exe.parent()?
                .parent()?
                .join("libexec/anchorhold/anchorhold-enclave"),
        )
    });
    if let Some(installed) = installed.filter(|path| path.is_file()) {
        return Ok(installed);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("enclave");
    anyhow::ensure!(
        source.join("Cargo.toml").is_file(),
        "the enclave's init program was not found: neither installed as ../libexec/anchorhold/anchorhold-enclave \
         beside this command, nor as source in {}; name it with --init",
        source.display()
    );
    static_program(&source, Some("anchorhold-enclave"))
}

/// Builds a package of the source tree as a static program.
pub(crate) fn static_program(package: &Path, bin: Option<&str>) -> anyhow::Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/static");
    let mut build = StaticBuild::new(package);
    build.target_dir = Some(target);
    build.bin = bin.map(str::to_owned);
    let program = build
        .run(&mut |line| eprintln!("{line}"))
        .with_context(|| {
            format!(
                "{} could not be built as a static program",
                package.display()
            )
        })?;
    Ok(program.path)
}
