//! Building a Cargo package as a static program whose bytes depend on sources, lock file and toolchain alone.
//!
//! What would let the building machine into the program is taken away: paths are mapped (`--remap-path-prefix`, and
//! `-ffile-prefix-map` for C code), one codegen unit, no incremental state, no debug information, no build ID, and an
//! environment in which only what Cargo needs to find its tools and its network is left. One thing cannot be taken
//! away: a package that embeds `env!("CARGO_MANIFEST_DIR")` or the like embeds a path.
//!
//! The profile's panic strategy is `abort`: a job that panics ends at once, and its call fails.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use serde::Deserialize;
use thiserror::Error;

use crate::audit;
use crate::elf::Program;
use crate::storage::Storage;

/// Lines of Cargo's messages that an error repeats.
const ERROR_LINES: usize = 60;

/// Variables that reach Cargo. Everything else may change what a compiler or build script does.
const KEPT_VARIABLES: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUSTUP_AUTO_INSTALL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSH_AUTH_SOCK",
];
/// And those that say where Cargo fetches from, by their beginnings.
const KEPT_PREFIXES: [&str; 5] = [
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
];

/// Profile settings that reproducibility needs; they win over the package's own.
const PROFILE: [&str; 5] = [
    "profile.release.codegen-units=1",
    "profile.release.debug=false",
    "profile.release.incremental=false",
    "profile.release.panic=\"abort\"",
    "profile.release.strip=\"symbols\"",
];

/// Why a package was not built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CargoError {
    /// No `cargo` or `rustc`.
    #[error(
        "cannot run {tool}: {source}. Install Rust from https://rustup.rs, and see that {tool} is in PATH"
    )]
    MissingTool {
        /// The program's name.
        tool: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// No package there.
    #[error("{} holds no Cargo.toml: name the folder of a Cargo package", .path.display())]
    NoPackage {
        /// What was named.
        path: PathBuf,
    },
    /// A workspace without a package of its own.
    #[error("{} is a workspace: name the folder of one of its packages: {}", .path.display(), .packages.join(", "))]
    Workspace {
        /// What was named.
        path: PathBuf,
        /// The packages in it.
        packages: Vec<String>,
    },
    /// Only libraries.
    #[error("the package {package} has no program (no [[bin]] and no src/main.rs)")]
    NoProgram {
        /// The package.
        package: String,
    },
    /// Several programs and no choice.
    #[error("the package {package} has several programs: choose one of them: {}", .programs.join(", "))]
    SeveralPrograms {
        /// The package.
        package: String,
        /// Their names.
        programs: Vec<String>,
    },
    /// Another program than the package has.
    #[error("the package {package} has no program {wanted}: it has {}", .programs.join(", "))]
    UnknownProgram {
        /// The package.
        package: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        programs: Vec<String>,
    },
    /// No C library to link statically.
    #[error(
        "the C library's static archive libc.a is missing, and a static program contains it: install libc6-dev (Debian, \
         Ubuntu) or glibc-static (Fedora, RHEL, Amazon Linux)"
    )]
    MissingStaticLibc,
    /// No linker.
    #[error(
        "there is no C compiler to link with: install gcc (build-essential on Debian and Ubuntu)"
    )]
    MissingLinker,
    /// Cargo failed.
    #[error("cargo {step} failed for {}:\n{messages}", .package.display())]
    Failed {
        /// `metadata` or `build`.
        step: &'static str,
        /// The package's folder.
        package: PathBuf,
        /// The end of what Cargo said.
        messages: String,
    },
    /// Cargo's own output could not be understood.
    #[error("cargo {step} gave an unexpected answer: {problem}")]
    Answer {
        /// `metadata` or `build`.
        step: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The finished program cannot be written.
    #[error("cannot write the program into {}: {source}", .path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The program came out dynamic.
    #[error(
        "{} is not static although it was built with crt-static: see whether a .cargo/config.toml or build script of \
         the package asks for shared libraries", .path.display()
    )]
    NotStatic {
        /// The program.
        path: PathBuf,
    },
    /// A path that cannot be passed to the compilers.
    #[error("the path {} is not UTF-8, and compilers' options cannot name it: move it", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
}

/// A program that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticProgram {
    /// Its file.
    pub path: PathBuf,
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub version: String,
}

/// Builds a package's only program, or the named one, below `target_dir`, and gives its path.
pub fn static_program(
    package_dir: &Path,
    target_dir: &Path,
    bin: Option<&str>,
) -> Result<PathBuf, CargoError> {
    let mut build = StaticBuild::new(package_dir);
    build.target_dir = Some(target_dir.into());
    build.bin = bin.map(str::to_owned);
    Ok(build.run(&mut |_| ())?.path)
}

/// A build to be run.
#[derive(Debug, Clone)]
pub struct StaticBuild {
    /// The package's folder.
    pub package_dir: PathBuf,
    /// Where Cargo builds; none for `anchorhold` in the target folder that Cargo would use.
    pub target_dir: Option<PathBuf>,
    /// Which program, where there are several.
    pub bin: Option<String>,
}

impl StaticBuild {
    /// For a package's folder or its `Cargo.toml`.
    pub fn new(package: &Path) -> StaticBuild {
        let package_dir = if package.file_name() == Some(OsStr::new("Cargo.toml")) {
            match package.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.into(),
                _ => ".".into(),
            }
        } else {
            package.into()
        };
        StaticBuild {
            package_dir,
            target_dir: None,
            bin: None,
        }
    }

    /// Builds; `said` hears each line of what Cargo says to people.
    pub fn run(&self, said: &mut dyn FnMut(&str)) -> Result<StaticProgram, CargoError> {
        // Canonical, as compilers see it: a path through links would not be mapped.
        let manifest = self
            .package_dir
            .join("Cargo.toml")
            .canonicalize()
            .map_err(|_| CargoError::NoPackage {
                path: self.package_dir.clone(),
            })?;
        let folder = manifest.parent().unwrap_or(Path::new("/"));
        let toolchain = Toolchain::of(folder)?;

        let outline = metadata(&manifest, &["--no-deps"])?;
        let package = outline
            .packages
            .iter()
            .find(|package| package.manifest_path == manifest)
            .ok_or_else(|| CargoError::Workspace {
                path: self.package_dir.clone(),
                packages: outline
                    .packages
                    .iter()
                    .map(|package| package.name.clone())
                    .collect(),
            })?;
        let bin = self.choose(package)?;
        let locked = outline.workspace_root.join("Cargo.lock").exists();
        let lock: &[&str] = if locked { &["--locked"] } else { &[] };
        let everything = metadata(
            &manifest,
            &[lock, &["--filter-platform", &toolchain.host]].concat(),
        )?;

        let target_dir = self
            .target_dir
            .clone()
            .unwrap_or_else(|| outline.target_directory.join("anchorhold"));
        std::fs::create_dir_all(&target_dir).map_err(|error| CargoError::Failed {
            step: "build",
            package: folder.into(),
            messages: format!("cannot make the folder {}: {error}", target_dir.display()),
        })?;
        let target_dir = target_dir.canonicalize().unwrap_or(target_dir);
        let mapped = mapped_paths(&toolchain, &everything, &target_dir);

        let mut command = cargo();
        command.current_dir(folder).args([
            "build",
            "--release",
            "--message-format=json-render-diagnostics",
        ]);
        command
            .arg("--manifest-path")
            .arg(&manifest)
            .args(["--target", &toolchain.host, "--bin", bin])
            .args(lock);
        command.arg("--target-dir").arg(&target_dir);
        for setting in PROFILE {
            command.args(["--config", setting]);
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&mapped)?);
        let c_flags = c_flags(&mapped)?;
        command
            .env("CC_SHELL_ESCAPED_FLAGS", "1")
            .env("CFLAGS", &c_flags)
            .env("CXXFLAGS", &c_flags);

        let path = run_build(&mut command, &manifest, bin, said)
            .map_err(|error| toolchain.explain(error))?;
        let program = Storage::open(&path)
            .ok()
            .and_then(|storage| Program::read(&storage).ok());
        if !program.is_some_and(|program| program.is_static()) {
            return Err(CargoError::NotStatic { path });
        }
        let path = audited(&path, &everything, &manifest, &target_dir).map_err(|source| {
            CargoError::Write {
                path: target_dir.clone(),
                source,
            }
        })?;
        Ok(StaticProgram {
            path,
            package: package.name.clone(),
            version: package.version.clone(),
        })
    }

    fn choose<'p>(&self, package: &'p Package) -> Result<&'p str, CargoError> {
        let mut programs: Vec<&str> = package
            .targets
            .iter()
            .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
            .map(|target| target.name.as_str())
            .collect();
        programs.sort_unstable();
        let name = package.name.clone();
        let owned = || {
            programs
                .iter()
                .map(|program| (*program).to_owned())
                .collect()
        };
        let wanted = self.bin.as_deref().or(package.default_run.as_deref());
        match (wanted, programs.as_slice()) {
            (_, []) => Err(CargoError::NoProgram { package: name }),
            (Some(wanted), _) => programs
                .iter()
                .find(|program| **program == wanted)
                .copied()
                .ok_or_else(|| CargoError::UnknownProgram {
                    package: name,
                    wanted: wanted.to_owned(),
                    programs: owned(),
                }),
            (None, [only]) => Ok(only),
            (None, _) => Err(CargoError::SeveralPrograms {
                package: name,
                programs: owned(),
            }),
        }
    }
}

/// `cargo` in the environment that is left to it.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    clean(&mut command);
    command
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    // For C code that asks its compiler for the date.
    command
        .env("SOURCE_DATE_EPOCH", "0")
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    command.stdin(Stdio::null());
    command
}

fn clean(command: &mut Command) {
    let kept = std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            KEPT_VARIABLES.contains(&name)
                || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    });
    let kept: Vec<(OsString, OsString)> = kept.collect();
    command.env_clear().envs(kept);
}

/// The toolchain that builds in a folder.
struct Toolchain {
    host: String,
    commit: String,
    sysroot: PathBuf,
    cargo_home: Option<PathBuf>,
}

impl Toolchain {
    fn of(folder: &Path) -> Result<Toolchain, CargoError> {
        let ask = |arguments: &[&str]| -> Result<String, CargoError> {
            let mut command = Command::new("rustc");
            clean(&mut command);
            let output = command
                .args(arguments)
                .current_dir(folder)
                .stdin(Stdio::null())
                .output();
            let output = output.map_err(|source| CargoError::MissingTool {
                tool: "rustc",
                source,
            })?;
            text("rustc", folder, output)
        };
        let version = ask(&["--version", "--verbose"])?;
        let line = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        let host = line("host:").ok_or_else(|| CargoError::Answer {
            step: "build",
            problem: "rustc does not name its host".to_owned(),
        })?;
        Ok(Toolchain {
            host,
            commit: line("commit-hash:").unwrap_or_else(|| "unknown".to_owned()),
            sysroot: ask(&["--print", "sysroot"])?.trim_end().into(),
            cargo_home: std::env::var_os("CARGO_HOME")
                .filter(|home| !home.is_empty())
                .map(PathBuf::from)
                .or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))),
        })
    }

    /// Finds the usual reasons behind a failed link.
    fn explain(&self, error: CargoError) -> CargoError {
        let CargoError::Failed {
            step: "build",
            messages,
            ..
        } = &error
        else {
            return error;
        };
        if messages.contains("linker `cc` not found") {
            return CargoError::MissingLinker;
        }
        if self.host.ends_with("-gnu") && messages.contains("linking with") && !has_static_libc() {
            return CargoError::MissingStaticLibc;
        }
        error
    }
}

/// A C compiler answers with a path if it has the file, and with the bare name if not.
fn has_static_libc() -> bool {
    let output = Command::new("cc")
        .arg("-print-file-name=libc.a")
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout.starts_with(b"/"))
}

/// Paths of this machine and what stands for them, the longest last: later ones win.
fn mapped_paths(
    toolchain: &Toolchain,
    metadata: &Metadata,
    target_dir: &Path,
) -> Vec<(PathBuf, String)> {
    let mut mapped = vec![
        (metadata.workspace_root.clone(), "/build".to_owned()),
        (target_dir.to_owned(), "/target".to_owned()),
        // The standard library's own name for its sources, which it has where they are not installed.
        (
            toolchain.sysroot.join("lib/rustlib/src/rust"),
            format!("/rustc/{}", toolchain.commit),
        ),
        (toolchain.sysroot.clone(), "/toolchain".to_owned()),
    ];
    if let Some(home) = &toolchain.cargo_home {
        mapped.push((home.clone(), "/cargo".to_owned()));
        mapped.extend(
            home.canonicalize()
                .ok()
                .filter(|real| real != home)
                .map(|real| (real, "/cargo".to_owned())),
        );
    }
    for package in metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none())
    {
        if let Some(folder) = package.manifest_path.parent()
            && !folder.starts_with(&metadata.workspace_root)
        {
            mapped.push((folder.into(), format!("/dependency/{}", package.name)));
        }
    }
    mapped.sort_by(|(left, _), (right, _)| {
        (left.as_os_str().len(), left).cmp(&(right.as_os_str().len(), right))
    });
    mapped
}

/// Flags for rustc, separated as `CARGO_ENCODED_RUSTFLAGS` wants. It also overrides flags from configuration files.
fn rust_flags(mapped: &[(PathBuf, String)]) -> Result<String, CargoError> {
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
    ];
    for (path, name) in mapped {
        flags.push(format!("--remap-path-prefix={}={name}", utf8(path)?));
    }
    Ok(flags.join("\u{1f}"))
}

/// Flags for C compilers, quoted for a shell.
fn c_flags(mapped: &[(PathBuf, String)]) -> Result<String, CargoError> {
    let mut flags = String::new();
    for (path, name) in mapped {
        let quoted = utf8(path)?.replace('\'', r"'\''");
        let _ = write!(flags, "'-ffile-prefix-map={quoted}={name}' ");
    }
    Ok(flags.trim_end().to_owned())
}

fn utf8(path: &Path) -> Result<&str, CargoError> {
    path.to_str()
        .ok_or_else(|| CargoError::Path { path: path.into() })
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    /// None without dependencies.
    resolve: Option<Resolve>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// The program with the list of what is in it, in a file of its own: Cargo's is Cargo's.
fn audited(
    program: &Path,
    metadata: &Metadata,
    manifest: &Path,
    target_dir: &Path,
) -> io::Result<PathBuf> {
    let bytes = std::fs::read(program)?;
    let bytes = audit::embed(&bytes, &inventory(metadata, manifest)).unwrap_or(bytes);
    let folder = target_dir.join("anchorhold");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(program.file_name().unwrap_or_default());
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    file.write_all(&bytes)?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o755))?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}

/// The packages that a package is made of, in the order of their names.
fn inventory(metadata: &Metadata, manifest: &Path) -> audit::Document {
    let by_id: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (node.id.as_str(), node))
        .collect();
    let root = metadata
        .packages
        .iter()
        .find(|package| package.manifest_path == manifest)
        .map(|package| package.id.as_str());
    // Whether a package is inside, or only compiled what is.
    let mut inside: BTreeMap<&str, bool> = BTreeMap::new();
    let mut open: Vec<(&str, bool)> = root.map(|root| (root, true)).into_iter().collect();
    while let Some((id, is_inside)) = open.pop() {
        let before = inside.get(id).copied();
        if before == Some(true) || before == Some(is_inside) {
            continue;
        }
        inside.insert(id, is_inside);
        for dependency in nodes.get(id).iter().flat_map(|node| &node.deps) {
            for kind in &dependency.dep_kinds {
                match kind.kind.as_deref() {
                    None => open.push((&dependency.pkg, is_inside)),
                    Some("build") => open.push((&dependency.pkg, false)),
                    Some(_) => {}
                }
            }
        }
    }
    let mut ids: Vec<&str> = inside
        .keys()
        .copied()
        .filter(|id| by_id.contains_key(id))
        .collect();
    // Ids have paths of this machine in them; names and versions do not.
    ids.sort_by_key(|id| {
        let package = by_id[id];
        (
            &package.name,
            &package.version,
            package.source.as_deref().unwrap_or_default(),
        )
    });
    let places: BTreeMap<&str, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let packages = ids
        .iter()
        .map(|id| {
            let package = by_id[id];
            let mut dependencies: Vec<usize> = nodes
                .get(id)
                .iter()
                .flat_map(|node| &node.deps)
                .filter(|dependency| {
                    let wanted = |kind: &DependencyKind| kind.kind.as_deref() != Some("dev");
                    dependency.dep_kinds.iter().any(wanted)
                })
                .filter_map(|dependency| places.get(dependency.pkg.as_str()).copied())
                .collect();
            dependencies.sort_unstable();
            dependencies.dedup();
            audit::Package {
                name: package.name.clone(),
                version: package.version.clone(),
                source: match package.source.as_deref() {
                    None => "local",
                    Some(source) if source.ends_with("github.com/rust-lang/crates.io-index") => {
                        "crates.io"
                    }
                    Some(source) if source.starts_with("git+") => "git",
                    Some(_) => "registry",
                }
                .to_owned(),
                kind: (!inside[id]).then(|| "build".to_owned()),
                dependencies,
                root: Some(*id) == root,
            }
        })
        .collect();
    audit::Document { packages }
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    manifest_path: PathBuf,
    source: Option<String>,
    default_run: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// The messages of a build that matter here; all others have other reasons.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

fn metadata(manifest: &Path, arguments: &[&str]) -> Result<Metadata, CargoError> {
    let folder = manifest.parent().unwrap_or(Path::new("/"));
    let mut command = cargo();
    command
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .args(arguments);
    let output = command.current_dir(folder).output();
    let output = output.map_err(|source| CargoError::MissingTool {
        tool: "cargo",
        source,
    })?;
    let answer = text("metadata", folder, output)?;
    serde_json::from_str(&answer).map_err(|error| CargoError::Answer {
        step: "metadata",
        problem: error.to_string(),
    })
}

fn text(step: &'static str, package: &Path, output: Output) -> Result<String, CargoError> {
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr)
            .trim_end()
            .to_owned();
        return Err(CargoError::Failed {
            step,
            package: package.into(),
            messages,
        });
    }
    String::from_utf8(output.stdout).map_err(|_| CargoError::Answer {
        step,
        problem: "it is no UTF-8".to_owned(),
    })
}

/// Runs the build and gives the program that its messages name.
fn run_build(
    command: &mut Command,
    manifest: &Path,
    bin: &str,
    said: &mut dyn FnMut(&str),
) -> Result<PathBuf, CargoError> {
    let package = manifest.parent().unwrap_or(Path::new("/"));
    let failed = |messages| CargoError::Failed {
        step: "build",
        package: package.into(),
        messages,
    };
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CargoError::MissingTool {
            tool: "cargo",
            source,
        })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());

    let mut executable = None;
    let mut last = VecDeque::new();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let for_people = sender.clone();
        scope.spawn(move || forward(stderr, |line| for_people.send((true, line)).is_ok()));
        scope.spawn(move || forward(stdout, |line| sender.send((false, line)).is_ok()));
        for (is_for_people, line) in receiver {
            if is_for_people {
                said(&line);
                if last.len() == ERROR_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            } else if let Ok(message) = serde_json::from_str::<Artifact>(&line)
                && message.reason == "compiler-artifact"
                && message.manifest_path.as_deref() == Some(manifest)
                && message
                    .target
                    .is_some_and(|target| target.name == bin && target.kind == ["bin"])
            {
                executable = message.executable.or(executable.take());
            }
        }
    });
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(Vec::from(last).join("\n")));
    }
    executable.ok_or_else(|| CargoError::Answer {
        step: "build",
        problem: format!("it names no program {bin}"),
    })
}

/// Gives the lines of a pipe to `take` until one of them ends.
fn forward(pipe: Option<impl Read>, mut take: impl FnMut(String) -> bool) {
    let Some(pipe) = pipe else { return };
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        if !take(String::from_utf8_lossy(&line).trim_end().to_owned()) {
            return;
        }
        line.clear();
    }
}
